//! What receivers that speak HTTP share: a server that asks a [`Contract`] what a call says, treats the message as its recipient's last characters
//! tell it to, keeps count, and calls back. What a provider's calls and answers look like is its contract's matter, one file each.
//!
//! | the recipient ends in | behaviour |
//! |---|---|
//! | `0001` | refused: there is nobody |
//! | `0002` | refused at the first try of a message as one too many; then taken |
//! | `0003` | the provider fails at the first two tries; then takes it |
//! | `0004` | taken, but answered late |
//! | `0005` | taken; later reported as failed, where the provider reports |
//! | `0006` | taken, never answered: held until the client closes |
//! | `0007` | refused: opted out or blocked |
//! | `0008` | taken; reports in reverse order, and each twice |
//! | `0009` | taken; then the member leaves, in the channel's own way |
//! | anything else | taken; reported as sent and delivered; those who end in an odd digit also open it and follow its link |
//!
//! Callbacks may overtake the answer.

mod callbacks;

pub use callbacks::{Callbacks, Outgoing};
pub(super) use callbacks::{call, client};

use super::{Home, Ledger, Pages};
use axum::{
    Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, Method, Uri, Version},
    response::Response,
    serve::ListenerExt,
};
use callbacks::Queued;
use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, mpsc},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Largest request in bytes; the longest of any provider here is a text of 4,096 characters with its escapes.
const MAX_REQUEST_BYTES: usize = 64 * 1024;

/// How a receiver behaves.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How late `…0004` answers.
    pub slow: Duration,
    /// How long `…0006` holds the connection at most.
    pub silent: Duration,
    /// Messages at once; one more is refused as one too many.
    pub max_concurrent: usize,
    /// Messages whose callbacks wait their turn; above it new messages wait to be taken.
    pub callback_queue: usize,
    /// Callbacks in flight at once.
    pub callbacks_in_flight: usize,
    /// How long a callback is tried while nobody answers it or the answer is 429 or 5xx; long enough for a server to be killed and restarted.
    pub callback_patience: Duration,
    /// How many messages are kept whole; of all others only the counts.
    pub keep: usize,
    /// How many different messages are remembered; beyond it every further one is refused as by a provider that fails.
    pub remember: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            slow: Duration::from_millis(500),
            silent: Duration::from_secs(60),
            max_concurrent: 1000,
            callback_queue: 10_000,
            callbacks_in_flight: 16,
            callback_patience: Duration::from_secs(60),
            keep: 100_000,
            remember: 2_000_000,
        }
    }
}

/// What a provider's public documents say of its calls, answers and callbacks. It knows nothing of our side of them.
pub trait Contract: fmt::Debug + Send + Sync + 'static {
    /// Reads a call: a message to take, or the answer to everything else.
    ///
    /// # Errors
    /// The answer.
    fn read(&self, call: &Call) -> Result<Draft, Reply>;

    /// The answer that refuses a message.
    fn refuse(&self, why: Refusal) -> Reply;

    /// The provider's id of a message with this number.
    fn id(&self, number: u64, draft: &Draft) -> String;

    /// The answer that takes a message.
    fn accept(&self, taken: &Taken) -> Response;

    /// The calls that tell of an event; `home` is where the account's calls go.
    fn tell(&self, taken: &Taken, event: Event, home: &Home) -> Vec<Outgoing>;
}

/// A call as it came.
#[derive(Clone, Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub uri: Uri,
    /// Version of HTTP.
    pub version: Version,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// A header's text; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A message that a call asks to send, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Draft {
    /// Recipient, as the provider writes it.
    pub to: String,
    /// Sender, where the provider has one.
    pub from: String,
    /// Text, or JSON where it is more than a text.
    pub body: String,
    /// What tells it from another message: what the provider knows a second try by, else recipient and body.
    pub key: String,
    /// Whether the member is shown a second message of the same key instead of the first, not beside it.
    pub collapses: bool,
    /// What comes back with its reports, where the provider has such.
    pub callback: Option<String>,
}

/// An answer that takes no message.
#[derive(Debug)]
pub struct Reply {
    /// The provider's code of a refusal, to be counted; empty for what was no message.
    pub code: String,
    /// The answer.
    pub response: Box<Response>,
}

impl Reply {
    /// Of a message that is refused.
    pub fn refusal(code: impl Into<String>, response: Response) -> Self {
        Self { code: code.into(), response: Box::new(response) }
    }

    /// To something else.
    #[must_use]
    pub fn other(response: Response) -> Self {
        Self { code: String::new(), response: Box::new(response) }
    }
}

/// Why a message is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody is at the address.
    Nobody,
    /// The member wants nothing of the sender.
    OptedOut,
    /// Too many; to be tried after a second.
    Throttled,
    /// The provider fails.
    Broken,
}

/// What becomes of a message after it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Event {
    /// It went on to the carrier.
    Sent,
    /// It arrived.
    Delivered,
    /// It will not arrive.
    Failed,
    /// The member opened it.
    Opened,
    /// The member followed its link.
    Clicked,
    /// The member wants no more.
    Left,
}

/// What a recipient's last four characters ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Behaviour {
    Deliver,
    Open,
    Nobody,
    Throttled,
    BrokenTwice,
    Slow,
    Fail,
    Silent,
    OptedOut,
    Disorder,
    Leave,
}

impl Behaviour {
    fn of(to: &str) -> Self {
        match to.get(to.len().saturating_sub(4)..) {
            Some("0001") => Self::Nobody,
            Some("0002") => Self::Throttled,
            Some("0003") => Self::BrokenTwice,
            Some("0004") => Self::Slow,
            Some("0005") => Self::Fail,
            Some("0006") => Self::Silent,
            Some("0007") => Self::OptedOut,
            Some("0008") => Self::Disorder,
            Some("0009") => Self::Leave,
            _ if to.ends_with(['1', '3', '5', '7', '9']) => Self::Open,
            _ => Self::Deliver,
        }
    }

    /// What becomes of the message, in the order in which it is told.
    const fn events(self) -> &'static [Event] {
        use Event::{Clicked, Delivered, Failed, Left, Opened, Sent};
        match self {
            Self::Fail => &[Sent, Failed],
            Self::Disorder => &[Delivered, Sent, Delivered, Sent],
            Self::Open => &[Sent, Delivered, Opened, Clicked],
            Self::Leave => &[Sent, Delivered, Left],
            _ => &[Sent, Delivered],
        }
    }
}

/// A message that the receiver took.
#[derive(Clone, PartialEq, Eq)]
pub struct Taken {
    /// Its number among all messages taken, from 0.
    pub number: u64,
    /// The provider's id of it.
    pub id: Arc<str>,
    /// What it says.
    pub draft: Draft,
    /// False for what was taken without an answer (`…0006`).
    pub answered: bool,
}

/// Without text and addresses.
impl fmt::Debug for Taken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taken").field("number", &self.number).field("id", &self.id).finish_non_exhaustive()
    }
}

/// All that a receiver has seen.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Messages taken, answered or not.
    pub taken: u64,
    /// Those of them that were not answered (`…0006`).
    pub unanswered: u64,
    /// How often each message was taken, by its key.
    pub times: HashMap<Arc<str>, u32>,
    /// Messages beside which the member was shown another of the same key: what the provider could not collapse.
    pub shown_again: u64,
    /// The last [`HttpOptions::keep`] messages, oldest first.
    pub messages: VecDeque<Arc<Taken>>,
    /// Refusals by the provider's code.
    pub refused: HashMap<String, u64>,
    /// Callbacks.
    pub callbacks: Callbacks,
    /// The messages that each event was told of and acknowledged, by the provider's id.
    pub told: HashMap<Event, HashSet<Arc<str>>>,
    /// Recipients who left, and whose leaving was acknowledged.
    pub left: BTreeSet<String>,
    /// Recipients that were refused for good: nobody is there, or they want nothing.
    pub nobody: BTreeSet<String>,
}

/// A running server; it stops when this is dropped.
#[derive(Debug)]
pub struct HttpReceiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl HttpReceiver {
    /// Listens on this address (port 0: any free one) and serves on the current runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the system's TLS cannot be loaded for the callbacks.
    pub async fn start(addr: SocketAddr, contract: Arc<dyn Contract>, options: HttpOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (queue, queued) = mpsc::channel(options.callback_queue.max(1));
        let shared = Arc::new(Shared {
            slots: Semaphore::new(options.max_concurrent),
            contract,
            options,
            ledger: Ledger::default(),
            home: Mutex::default(),
            last: Mutex::default(),
            queue,
            stop: stop.clone(),
        });
        let calls = callbacks::run(queued, Arc::clone(&shared), callbacks::client()?);
        let stopped = stop.clone();
        tokio::spawn(async move { stopped.run_until_cancelled(calls).await });
        // Without this, an answer's second packet waits for the acknowledgement of its first.
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        let router = Router::new()
            .fallback(handle)
            .layer(DefaultBodyLimit::max(MAX_REQUEST_BYTES))
            .with_state(Arc::clone(&shared));
        let served = axum::serve(listener, router);
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

    /// Points the account's webhook somewhere, as an operator does in the provider's console.
    pub fn call_home(&self, url: impl Into<String>) {
        self.shared.home.lock().unwrap_or_else(PoisonError::into_inner).webhook = Some(url.into());
    }

    /// Says where the sender's pages are, which members visit.
    pub fn find_pages(&self, pages: Pages) {
        self.shared.home.lock().unwrap_or_else(PoisonError::into_inner).pages = Some(pages);
    }

    /// All that was received so far.
    #[must_use]
    pub fn snapshot(&self) -> Received {
        self.shared.ledger.read(|book| book.received.clone())
    }

    /// How many messages were taken so far, answered or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.shared.ledger.read(|book| book.received.taken)
    }

    /// Callbacks that are still to be made.
    #[must_use]
    pub fn pending(&self) -> u64 {
        self.shared.ledger.read(|book| book.received.callbacks.pending)
    }

    /// The last call that asked to send a message, to be made again by a bench.
    #[must_use]
    pub fn last_call(&self) -> Option<Call> {
        self.shared.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the condition holds for what was received; false when it did not within this time. The condition is asked at changes,
    /// under the receiver's lock: keep it quick.
    pub async fn wait_for(&self, condition: impl Fn(&Received) -> bool, within: Duration) -> bool {
        self.shared.ledger.wait_for(|book| condition(&book.received), within).await
    }
}

#[derive(Debug)]
struct Shared {
    contract: Arc<dyn Contract>,
    options: HttpOptions,
    ledger: Ledger<Book>,
    slots: Semaphore,
    home: Mutex<Home>,
    last: Mutex<Option<Call>>,
    queue: mpsc::Sender<Queued>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Book {
    received: Received,
    /// Tries so far of what `…0002` and `…0003` have not taken yet, by key.
    tries: HashMap<String, u32>,
    /// Recipients of `…0009` who have left, told or not: one leaves once.
    leaving: HashSet<String>,
}

async fn handle(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    version: Version,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let call = Call { method, uri, version, headers, body };
    match shared.take(call).await {
        Ok(response) => response,
        Err(Reply { code, response }) => {
            if !code.is_empty() {
                shared.ledger.update(|book| *book.received.refused.entry(code).or_default() += 1);
            }
            *response
        }
    }
}

/// A response that fails before its first byte, so that the server closes the connection without an answer.
fn broken_connection() -> Response {
    let failing = futures::stream::once(async { Err::<Bytes, _>(io::Error::other("held for long enough")) });
    Response::new(Body::from_stream(failing))
}

impl Shared {
    async fn take(&self, call: Call) -> Result<Response, Reply> {
        let draft = self.contract.read(&call)?;
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        let refuse = |why| Err(self.contract.refuse(why));
        let Ok(_slot) = self.slots.try_acquire() else { return refuse(Refusal::Throttled) };
        let behaviour = Behaviour::of(&draft.to);
        match behaviour {
            Behaviour::Nobody | Behaviour::OptedOut => {
                self.ledger.update(|book| book.received.nobody.insert(draft.to.clone()));
                return refuse(if behaviour == Behaviour::Nobody { Refusal::Nobody } else { Refusal::OptedOut });
            }
            Behaviour::Throttled if self.refuses(&draft, 1) => return refuse(Refusal::Throttled),
            Behaviour::BrokenTwice if self.refuses(&draft, 2) => return refuse(Refusal::Broken),
            _ => {}
        }
        // Room for the callbacks first, so that every message that is taken is reported on.
        let Ok(room) = self.queue.reserve().await else { return refuse(Refusal::Broken) };
        let Some((taken, events)) = self.record(draft, behaviour) else { return refuse(Refusal::Broken) };
        room.send(Queued { taken: Arc::clone(&taken), events });
        match behaviour {
            Behaviour::Slow => self.pause(self.options.slow).await,
            Behaviour::Silent => {
                self.pause(self.options.silent).await;
                return Ok(broken_connection());
            }
            _ => {}
        }
        Ok(self.contract.accept(&taken))
    }

    /// Counts a try of a message; true for the first `times`.
    fn refuses(&self, draft: &Draft, times: u32) -> bool {
        self.ledger.update(|book| {
            let tries = book.tries.entry(draft.key.clone()).or_default();
            *tries += 1;
            let refuses = *tries <= times;
            if !refuses {
                book.tries.remove(&draft.key);
            }
            refuses
        })
    }

    /// Enters a message into the books, with what will become of it; `None` where they are full.
    fn record(&self, draft: Draft, behaviour: Behaviour) -> Option<(Arc<Taken>, &'static [Event])> {
        let answered = behaviour != Behaviour::Silent;
        self.ledger.update(|book| {
            let received = &mut book.received;
            if received.times.len() >= self.options.remember {
                return None;
            }
            let times = received.times.entry(draft.key.as_str().into()).or_default();
            *times += 1;
            received.shown_again += u64::from(*times > 1 && !draft.collapses);
            let mut events = behaviour.events();
            if behaviour == Behaviour::Leave && !book.leaving.insert(draft.to.clone()) {
                events = Behaviour::Deliver.events();
            }
            let id = self.contract.id(received.taken, &draft).into();
            let taken = Arc::new(Taken { number: received.taken, id, draft, answered });
            received.taken += 1;
            received.unanswered += u64::from(!answered);
            received.callbacks.pending += events.len() as u64;
            received.messages.push_back(Arc::clone(&taken));
            if received.messages.len() > self.options.keep {
                received.messages.pop_front();
            }
            Some((taken, events))
        })
    }

    fn home(&self) -> Home {
        self.home.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits, unless the receiver is stopped. A client that closes ends the wait too: its request is dropped.
    async fn pause(&self, time: Duration) {
        self.stop.run_until_cancelled(sleep(time)).await;
    }
}
