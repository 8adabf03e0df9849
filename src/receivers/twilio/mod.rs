//! A server shaped like Twilio's Messages resource that keeps count instead of sending, signs its status callbacks as Twilio does, and
//! behaves as the recipient's last digits tell it to. It knows only Twilio's public contract, nothing of our side of it.
//!
//! | `To` ends in | behaviour |
//! |---|---|
//! | `0001` | 400, code 21614: not a mobile number |
//! | `0002` | 429, code 20429, at the first try of a message; then taken |
//! | `0003` | 500, code 20500, at the first two tries; then taken |
//! | `0004` | taken, but answered late |
//! | `0005` | taken; callbacks `sent`, then `undelivered` with ErrorCode 30005 |
//! | `0006` | taken, never answered: held until the client closes |
//! | `0007` | 400, code 21610: opted out |
//! | `0008` | taken; callbacks in reverse order, and each twice |
//! | anything else | taken; callbacks `sent`, then `delivered` |
//!
//! A message is told from another by its recipient and body, because Twilio has no idempotency key. Callbacks may overtake the answer.

mod callbacks;

pub use callbacks::sign;

use super::Ledger;
use axum::{
    Form, Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, Path, State, rejection::FormRejection},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::ListenerExt,
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use callbacks::{Callback, Report};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longest body in characters (Twilio error 21658).
const MAX_BODY_CHARS: usize = 1600;
/// Largest request in bytes: the longest body, percent-encoded, and the other parameters.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// How a receiver behaves.
#[derive(Clone, Debug)]
pub struct TwilioOptions {
    /// The only account that there is.
    pub account_sid: String,
    /// Its token: password of Basic authentication, key of the callbacks' signatures.
    pub auth_token: SecretString,
    /// How late `…0004` answers.
    pub slow: Duration,
    /// How long `…0006` holds the connection at most.
    pub silent: Duration,
    /// Requests at once; one more is answered 429, code 20429.
    pub max_concurrent: usize,
    /// Messages whose callbacks wait their turn; above it new messages wait to be taken.
    pub callback_queue: usize,
    /// Callbacks in flight at once.
    pub callbacks_in_flight: usize,
    /// How long a callback is tried while nobody answers it or the answer is 429 or 5xx; long enough for a server to be killed and restarted.
    pub callback_patience: Duration,
    /// How many messages are kept whole; of all others only the count.
    pub keep: usize,
}

impl TwilioOptions {
    /// The usual behaviour for this account.
    pub fn new(account_sid: impl Into<String>, auth_token: impl Into<SecretString>) -> Self {
        Self {
            account_sid: account_sid.into(),
            auth_token: auth_token.into(),
            slow: Duration::from_millis(500),
            silent: Duration::from_secs(60),
            max_concurrent: 1000,
            callback_queue: 10_000,
            callbacks_in_flight: 16,
            callback_patience: Duration::from_secs(60),
            keep: 100_000,
        }
    }
}

/// What a recipient's last four digits ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Deliver,
    NotMobile,
    Throttled,
    BrokenTwice,
    Slow,
    Undelivered,
    Silent,
    OptedOut,
    Disorder,
}

impl Behaviour {
    fn of(to: &str) -> Self {
        match to.get(to.len().saturating_sub(4)..) {
            Some("0001") => Self::NotMobile,
            Some("0002") => Self::Throttled,
            Some("0003") => Self::BrokenTwice,
            Some("0004") => Self::Slow,
            Some("0005") => Self::Undelivered,
            Some("0006") => Self::Silent,
            Some("0007") => Self::OptedOut,
            Some("0008") => Self::Disorder,
            _ => Self::Deliver,
        }
    }

    /// What the callbacks will report, in order.
    const fn reports(self) -> &'static [Report] {
        match self {
            Self::Undelivered => &[Report::Sent, Report::Undelivered],
            Self::Disorder => &[Report::Delivered, Report::Sent, Report::Delivered, Report::Sent],
            _ => &[Report::Sent, Report::Delivered],
        }
    }
}

/// A message that the receiver took.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// Its number among all messages taken, from 0.
    pub number: u64,
    /// Twilio's id of it: `SM` and 32 hexadecimal digits.
    pub sid: String,
    /// Recipient, E.164.
    pub to: String,
    /// Sender: a number, or the SID of a messaging service.
    pub from: String,
    /// Text.
    pub body: String,
    /// Where its status is reported, if anywhere.
    pub status_callback: Option<String>,
    /// False for what was taken without an answer (`…0006`).
    pub answered: bool,
}

/// Without text and numbers.
impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").field("number", &self.number).field("sid", &self.sid).finish_non_exhaustive()
    }
}

/// What became of the status callbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// Answered 2xx.
    pub acknowledged: u64,
    /// Answered otherwise, and not 429 or 5xx: not tried again.
    pub refused: u64,
    /// Given up after [`TwilioOptions::callback_patience`].
    pub abandoned: u64,
    /// Tries that were repeated.
    pub retried: u64,
    /// Still to be made.
    pub pending: u64,
}

/// All that a receiver has seen.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Messages taken, answered or not.
    pub taken: u64,
    /// Those of them that were not answered (`…0006`).
    pub unanswered: u64,
    /// How often each message was taken, by its StatusCallback, which names our delivery; by recipient and body where it has none.
    pub times: HashMap<Arc<str>, u32>,
    /// The last [`TwilioOptions::keep`] messages, oldest first.
    pub messages: VecDeque<Arc<Text>>,
    /// Refusals by Twilio's error code.
    pub refused: HashMap<u32, u64>,
    /// Status callbacks.
    pub callbacks: Callbacks,
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct TwilioReceiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl TwilioReceiver {
    /// Listens on this address (port 0: any free one) and serves on the current runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the system's TLS cannot be loaded for the callbacks.
    pub async fn start(addr: SocketAddr, options: TwilioOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (queue, queued) = mpsc::channel(options.callback_queue.max(1));
        let shared = Arc::new(Shared {
            slots: Semaphore::new(options.max_concurrent),
            credentials: credentials(&options),
            options,
            ledger: Ledger::default(),
            queue,
            stop: stop.clone(),
        });
        let calls = callbacks::run(queued, Arc::clone(&shared), callbacks::client()?);
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(calls).await });
        // Without this, an answer's second packet waits for the acknowledgement of its first.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let served = axum::serve(listener, router(Arc::clone(&shared)));
        tokio::spawn(served.with_graceful_shutdown(stop.clone().cancelled_owned()).into_future());
        Ok(Self { addr, shared, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What a client is given as its base URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// All that was received so far.
    #[must_use]
    pub fn snapshot(&self) -> Received {
        self.shared.ledger.read(|state| state.received.clone())
    }

    /// How many messages were taken so far, answered or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.ledger.read(|state| state.received.taken)
    }

    /// Waits until the condition holds for what was received; false when it did not within this time. The condition is asked at changes,
    /// under the receiver's lock: keep it quick.
    pub async fn wait_for(&self, condition: impl Fn(&Received) -> bool, within: Duration) -> bool {
        self.shared.ledger.wait_for(|state| condition(&state.received), within).await
    }
}

#[derive(Debug)]
struct Shared {
    options: TwilioOptions,
    /// What the Authorization header must be.
    credentials: SecretString,
    ledger: Ledger<Book>,
    slots: Semaphore,
    queue: mpsc::Sender<Callback>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Book {
    received: Received,
    /// Tries so far of what `…0002` and `…0003` have not taken yet, by recipient and body.
    tries: HashMap<(String, String), u32>,
}

fn credentials(options: &TwilioOptions) -> SecretString {
    let pair = format!("{}:{}", options.account_sid, options.auth_token.expose_secret());
    format!("Basic {}", BASE64.encode(pair)).into()
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/2010-04-01/Accounts/{account}/Messages.json", post(create_message))
        .route("/2010-04-01/Accounts/{account}", get(fetch_account))
        .fallback(async || Refusal::NOT_FOUND)
        .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
        .with_state(shared)
}

/// An answer that is no success, in Twilio's shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    code: u32,
    message: &'static str,
}

impl Refusal {
    const UNAUTHORIZED: Self = Self::new(StatusCode::UNAUTHORIZED, 20003, "Authenticate");
    const NOT_FOUND: Self = Self::new(StatusCode::NOT_FOUND, 20404, "The requested resource was not found");
    const NO_FORM: Self = Self::new(StatusCode::BAD_REQUEST, 20001, "The request body is no form");
    const TOO_MANY: Self = Self::new(StatusCode::TOO_MANY_REQUESTS, 20429, "Too Many Requests");
    const BROKEN: Self = Self::new(StatusCode::INTERNAL_SERVER_ERROR, 20500, "An internal server error has occurred");
    const NO_BODY: Self = Self::bad(21602, "Message body is required.");
    const NO_FROM: Self = Self::bad(21603, "A 'From' phone number is required.");
    const NO_TO: Self = Self::bad(21604, "A 'To' phone number is required.");
    const BAD_CALLBACK: Self = Self::bad(21609, "The 'StatusCallback' URL is not a valid URL.");
    const OPTED_OUT: Self = Self::bad(21610, "Attempt to send to unsubscribed recipient");
    const BAD_TO: Self = Self::bad(21211, "The 'To' number is not a valid phone number.");
    const NOT_MOBILE: Self = Self::bad(21614, "'To' number is not a valid mobile number");
    const LONG_BODY: Self = Self::bad(21658, "Parameter exceeded character limit: Body");

    const fn bad(code: u32, message: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    const fn new(status: StatusCode, code: u32, message: &'static str) -> Self {
        Self { status, code, message }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self { status, code, message } = self;
        let more_info = format!("https://www.twilio.com/docs/errors/{code}");
        let body = Json(json!({"code": code, "message": message, "more_info": more_info, "status": status.as_u16()}));
        match status {
            StatusCode::TOO_MANY_REQUESTS => (status, [(header::RETRY_AFTER, "1")], body).into_response(),
            _ => (status, body).into_response(),
        }
    }
}

async fn fetch_account(
    State(shared): State<Arc<Shared>>,
    Path(account): Path<String>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, Refusal> {
    let account = account.strip_suffix(".json").ok_or(Refusal::NOT_FOUND)?;
    shared.authorize(account, &headers)?;
    Ok(Json(json!({"sid": account, "friendly_name": "receiver", "status": "active", "type": "Full"})))
}

async fn create_message(
    State(shared): State<Arc<Shared>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    form: Result<Form<HashMap<String, String>>, FormRejection>,
) -> Result<Response, Refusal> {
    let outcome = match form {
        Ok(Form(form)) => shared.create(&account, &headers, form).await,
        Err(_) => Err(Refusal::NO_FORM),
    };
    if let Err(refusal) = outcome {
        shared.ledger.update(|book| *book.received.refused.entry(refusal.code).or_default() += 1);
    }
    outcome
}

/// The parameters of a message, checked.
struct Draft {
    to: String,
    from: String,
    body: String,
    status_callback: Option<String>,
}

impl Draft {
    fn check(mut form: HashMap<String, String>) -> Result<Self, Refusal> {
        let mut take = |name: &str| form.remove(name).filter(|value| !value.is_empty());
        let to = take("To").ok_or(Refusal::NO_TO)?;
        let from = take("From").or_else(|| take("MessagingServiceSid")).ok_or(Refusal::NO_FROM)?;
        let body = take("Body").ok_or(Refusal::NO_BODY)?;
        let status_callback = take("StatusCallback");
        if !is_e164(&to) {
            return Err(Refusal::BAD_TO);
        }
        if body.chars().count() > MAX_BODY_CHARS {
            return Err(Refusal::LONG_BODY);
        }
        let web = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https");
        if status_callback.as_ref().is_some_and(|url| !reqwest::Url::parse(url).is_ok_and(|url| web(&url))) {
            return Err(Refusal::BAD_CALLBACK);
        }
        Ok(Self { to, from, body, status_callback })
    }
}

/// A response that fails before its first byte, so that the server closes the connection without an answer.
fn broken_connection() -> Response {
    let failing = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("held for long enough")) });
    Response::new(Body::from_stream(failing))
}

fn is_e164(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|digits| {
        (8..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

impl Shared {
    fn authorize(&self, account: &str, headers: &HeaderMap) -> Result<(), Refusal> {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let known = account == self.options.account_sid && given == Some(self.credentials.expose_secret());
        known.then_some(()).ok_or(Refusal::UNAUTHORIZED)
    }

    async fn create(
        &self,
        account: &str,
        headers: &HeaderMap,
        form: HashMap<String, String>,
    ) -> Result<Response, Refusal> {
        self.authorize(account, headers)?;
        let _slot = self.slots.try_acquire().map_err(|_| Refusal::TOO_MANY)?;
        let draft = Draft::check(form)?;
        let behaviour = Behaviour::of(&draft.to);
        match behaviour {
            Behaviour::NotMobile => return Err(Refusal::NOT_MOBILE),
            Behaviour::OptedOut => return Err(Refusal::OPTED_OUT),
            Behaviour::Throttled if self.refuses(&draft, 1) => return Err(Refusal::TOO_MANY),
            Behaviour::BrokenTwice if self.refuses(&draft, 2) => return Err(Refusal::BROKEN),
            _ => {}
        }
        // Room for the callbacks first, so that every message that is taken is reported on.
        let room = self.queue.reserve().await.map_err(|_| Refusal::BROKEN)?;
        let text = self.record(draft, behaviour);
        if text.status_callback.is_some() {
            room.send(Callback { text: Arc::clone(&text), reports: behaviour.reports() });
        }
        match behaviour {
            Behaviour::Slow => self.pause(self.options.slow).await,
            Behaviour::Silent => {
                self.pause(self.options.silent).await;
                return Ok(broken_connection());
            }
            _ => {}
        }
        Ok((StatusCode::CREATED, Json(self.describe(&text))).into_response())
    }

    /// Counts a try of a message; true for the first `times`.
    fn refuses(&self, draft: &Draft, times: u32) -> bool {
        let key = (draft.to.clone(), draft.body.clone());
        self.ledger.update(|book| {
            let tries = book.tries.entry(key.clone()).or_default();
            *tries += 1;
            let refuses = *tries <= times;
            if !refuses {
                book.tries.remove(&key);
            }
            refuses
        })
    }

    fn record(&self, draft: Draft, behaviour: Behaviour) -> Arc<Text> {
        let Draft { to, from, body, status_callback } = draft;
        let sid = format!("SM{}", uuid::Uuid::now_v7().simple());
        let key: Arc<str> = status_callback.as_deref().map_or_else(|| format!("{to} {body}").into(), Arc::from);
        let answered = behaviour != Behaviour::Silent;
        self.ledger.update(|book| {
            let received = &mut book.received;
            let text = Arc::new(Text { number: received.taken, sid, to, from, body, status_callback, answered });
            received.taken += 1;
            received.unanswered += u64::from(!answered);
            *received.times.entry(key).or_default() += 1;
            if text.status_callback.is_some() {
                received.callbacks.pending += behaviour.reports().len() as u64;
            }
            received.messages.push_back(Arc::clone(&text));
            if received.messages.len() > self.options.keep {
                received.messages.pop_front();
            }
            text
        })
    }

    /// Waits, unless the receiver is stopped. A client that closes ends the wait too: its request is dropped.
    async fn pause(&self, time: Duration) {
        self.stop.run_until_cancelled(sleep(time)).await;
    }

    fn describe(&self, text: &Text) -> serde_json::Value {
        let account = &self.options.account_sid;
        json!({
            "sid": text.sid,
            "account_sid": account,
            "api_version": callbacks::API_VERSION,
            "to": text.to,
            "from": text.from,
            "body": text.body,
            "status": "queued",
            "direction": "outbound-api",
            "num_segments": "1",
            "error_code": null,
            "error_message": null,
            "uri": format!("/2010-04-01/Accounts/{account}/Messages/{}.json", text.sid),
        })
    }
}

#[cfg(test)]
mod tests;
