//! Text messages by Twilio's REST API (2010-04-01): `Config`, the pure [`Config::request`] and [`classify`], and the thin call.
//! What Twilio calls back is read in [`crate::webhooks::twilio`]; what follows from either is decided elsewhere.

mod senders;

pub use senders::{Sender, country_of, sender_for};

use super::{
    Accepted, ConfigError, Content, Message, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    without_addresses,
};
use crate::secret::Secret;
use async_trait::async_trait;
use bellwether_schemas::{
    Channel,
    records::ErrorKind::{self, Rejected, Throttled, Transient, Unauthorized},
    segments::segments,
};
use phonenumber::country;
use reqwest::{Client, RequestBuilder};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;
use std::{sync::LazyLock, time::Duration};

/// Connector's name in definitions.
pub const KIND: &str = "twilio";
/// Query parameter of our callback URL that holds the [`super::Reference`].
pub const REFERENCE: &str = "r";
/// Query parameter of our callback URL that holds the attempt.
pub const ATTEMPT: &str = "n";
/// Longest body in characters (error 21617).
const MAX_BODY: usize = 1600;
/// Bytes of an answer that we read; Twilio's have less than 2,000.
const MAX_ANSWER: usize = 64 * 1024;

/// Settings of a Twilio provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(from = "Written")]
pub struct Config {
    /// Account, `AC…`.
    pub account_sid: String,
    /// Where its auth token is to be had. It also signs the callbacks.
    pub auth_token: Secret,
    /// Whom messages come from: the first that is for a message sends it, and the last may be for everything.
    pub senders: Vec<Sender>,
    /// They were written as one, so that a problem is told where it stands.
    is_short: bool,
    /// Twilio, or a counterpart in tests.
    pub base_url: String,
    /// Our public URL for status callbacks, such as `https://host/v1/webhooks/PROJECT/PROVIDER`; absent means that none are wanted,
    /// and then a message stays `sent`.
    pub status_callback_url: Option<String>,
    /// Seconds for one call.
    pub timeout_seconds: u64,
}

/// The same as it is written: one sender has a short form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    account_sid: String,
    auth_token: Secret,
    #[serde(default)]
    from: Option<String>,
    #[serde(default)]
    messaging_service_sid: Option<String>,
    #[serde(default)]
    senders: Vec<Sender>,
    #[serde(default = "default_base_url")]
    base_url: String,
    #[serde(default)]
    status_callback_url: Option<String>,
    #[serde(default = "default_timeout")]
    timeout_seconds: u64,
}

impl From<Written> for Config {
    fn from(written: Written) -> Self {
        let Written {
            account_sid,
            auth_token,
            from,
            messaging_service_sid,
            mut senders,
            base_url,
            status_callback_url,
            timeout_seconds,
        } = written;
        let is_short = senders.is_empty() || from.is_some() || messaging_service_sid.is_some();
        if is_short {
            // What is given twice, or not at all, is for `validate` to say.
            senders.insert(0, Sender { from, messaging_service_sid, ..Sender::default() });
        }
        Self { account_sid, auth_token, senders, is_short, base_url, status_callback_url, timeout_seconds }
    }
}

fn default_base_url() -> String {
    "https://api.twilio.com".into()
}

const fn default_timeout() -> u64 {
    10
}

fn wrong(field: &'static str, problem: &str) -> ConfigError {
    http::wrong(KIND, field, problem)
}

/// A call that creates one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to POST.
    pub url: String,
    /// Form parameters, names and values not yet encoded.
    pub form: Vec<(&'static str, String)>,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let is_word = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric());
        if !(self.account_sid.starts_with("AC") && is_word(&self.account_sid)) {
            return Err(wrong(
                "account_sid",
                "must be letters and digits beginning with `AC`: copy it from Twilio's console",
            ));
        }
        self.validate_senders()?;
        http::url(KIND, "base_url", &self.base_url)?;
        if let Some(callback) = &self.status_callback_url {
            http::url(KIND, "status_callback_url", callback)?;
        }
        http::timeout(KIND, self.timeout_seconds)
    }

    fn validate_senders(&self) -> Result<(), ConfigError> {
        if self.is_short && self.senders.len() > 1 {
            return Err(wrong("senders", "stand beside `from` or `messaging_service_sid`: make that one of them"));
        }
        let Some((n, field, problem)) = senders::problem(&self.senders) else { return Ok(()) };
        let field = match (self.is_short, field) {
            (true, field) => field.to_owned(),
            (false, "") => format!("senders.{n}"),
            (false, field) => format!("senders.{n}.{field}"),
        };
        Err(ConfigError::Field { kind: KIND, field, problem })
    }

    /// Whom a message comes from, as the form parameter that says it.
    fn sender(&self, message: &Message) -> Result<(&'static str, String), SendError> {
        let (lane, template) = (message.lane, message.reference.template.as_str());
        // To read a number costs more than all the rest of a request, and most senders do not ask for its country.
        let is_asked = self.senders.iter().any(|sender| !sender.countries.is_empty());
        let country = is_asked.then(|| country_of(&message.to)).flatten();
        let country = country.as_ref().map(country::Id::as_ref);
        let sender = sender_for(&self.senders, country, lane, template).and_then(Sender::parameter);
        sender.ok_or_else(|| {
            let country = country_of(&message.to);
            let country = country.as_ref().map_or("no country", country::Id::as_ref);
            let detail = format!("none of `senders` is for {country}, lane {lane} and template `{template}`: add one");
            SendError::new(Rejected, detail)
        })
    }

    fn account_url(&self) -> String {
        format!("{}/2010-04-01/Accounts/{}", self.base_url.trim_end_matches('/'), self.account_sid)
    }

    /// The call for one message.
    ///
    /// # Errors
    /// Content of another channel, empty or too long: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message) -> Result<Request, SendError> {
        let Content::Text { body } = &message.content else {
            return Err(SendError::new(Rejected, "content is no text: give the template an `sms` variant"));
        };
        if body.trim().is_empty() {
            return Err(SendError::new(Rejected, "text is empty"));
        }
        if body.len() > MAX_BODY && body.chars().count() > MAX_BODY {
            return Err(SendError::new(
                Rejected,
                format!("text is longer than {MAX_BODY} characters: shorten the template"),
            ));
        }
        let mut form = vec![("To", message.to.clone()), ("Body", body.clone()), self.sender(message)?];
        if let Some(callback) = &self.status_callback_url {
            let separator = if callback.contains('?') { '&' } else { '?' };
            let (token, attempt) = (message.reference.to_token(), message.attempt);
            form.push(("StatusCallback", format!("{callback}{separator}{REFERENCE}={token}&{ATTEMPT}={attempt}")));
        }
        Ok(Request { url: format!("{}/Messages.json", self.account_url()), form })
    }
}

/// What Twilio's error codes mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("twilio.codes.csv")));

/// The consequence of one of Twilio's error codes, if we know it, with its name.
#[must_use]
pub fn kind_of(code: u32) -> Option<(ErrorKind, &'static str)> {
    codes::find(&CODES, code).map(|line| (line.kind, line.name))
}

/// The fields of an answer that we read: of a Message resource, or of an error.
#[derive(Deserialize)]
struct Said {
    sid: Option<String>,
    status: Option<serde_json::Value>,
    error_code: Option<u32>,
    error_message: Option<String>,
    code: Option<u32>,
    message: Option<String>,
}

/// What an answer means: HTTP status, the wait of a `Retry-After` header, body.
///
/// # Errors
/// See [`SendError`]. A success whose body has no `sid` is [`ErrorKind::Ambiguous`]: it may come from a proxy in between,
/// and only a `sid` proves that Twilio took the message.
pub fn classify(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Accepted, SendError> {
    let answer: Option<Said> = serde_json::from_slice(body).ok();
    if (200..300).contains(&status) {
        return created(status, answer);
    }
    let code = answer.as_ref().and_then(|a| a.code);
    let known = code.and_then(kind_of);
    let kind = match (status, known) {
        (_, Some((kind, _))) => kind,
        (429, _) => Throttled,
        (500.., _) | (408, _) => Transient,
        // Wrong credentials, account or host; redirects are not followed.
        (300..=399 | 401 | 403..=405, _) => Unauthorized,
        _ => Rejected,
    };
    let words = answer.and_then(|a| a.message);
    Err(SendError { after: retry_after.filter(|_| kind == Throttled), ..error(kind, status, code, words.as_deref()) })
}

fn created(status: u16, answer: Option<Said>) -> Result<Accepted, SendError> {
    let Some((sid, answer)) = answer.and_then(|mut a| Some((a.sid.take().filter(|sid| !sid.is_empty())?, a))) else {
        return Err(SendError::new(ErrorKind::Ambiguous, format!("HTTP {status} without the message's `sid`")));
    };
    // It may fail at once.
    let failed = matches!(answer.status.as_ref().and_then(|s| s.as_str()), Some("failed" | "undelivered"));
    match answer.error_code {
        Some(code) if failed => {
            let kind = kind_of(code).map_or(Rejected, |(kind, _)| kind);
            Err(error(kind, status, Some(code), answer.error_message.as_deref()))
        }
        _ => Ok(Accepted { provider_id: Some(sid), ..Accepted::default() }),
    }
}

fn error(kind: ErrorKind, status: u16, code: Option<u32>, words: Option<&str>) -> SendError {
    let detail = match code {
        Some(code) => format!("{code}: {}", words_of(code, words)),
        None => format!("HTTP {status}: {}", without_addresses(words.unwrap_or("no error code"))),
    };
    SendError::new(kind, detail)
}

/// Our name of a code, else Twilio's words.
pub(crate) fn words_of(code: u32, words: Option<&str>) -> String {
    kind_of(code).map_or_else(|| without_addresses(words.unwrap_or("unknown code")), |(_, name)| name.to_owned())
}

/// A Twilio account to send by.
#[derive(Debug)]
pub struct TwilioSink {
    config: Config,
    token: SecretString,
    client: Client,
}

impl TwilioSink {
    /// Checks the configuration and fetches the auth token.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let token = http::secret(KIND, "auth_token", &config.auth_token)?;
        let client = http::client(KIND, Duration::from_secs(config.timeout_seconds))?;
        Ok(Self { config, token, client })
    }

    async fn call(&self, request: RequestBuilder) -> Result<Answer, SendError> {
        http::call(request.basic_auth(&self.config.account_sid, Some(self.token.expose_secret())), MAX_ANSWER).await
    }
}

#[async_trait]
impl Sink for TwilioSink {
    fn channel(&self) -> Channel {
        Channel::Sms
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let Request { url, form } = self.config.request(message)?;
        let Answer { status, retry_after, body, .. } = self.call(self.client.post(url).form(&form)).await?;
        let accepted = classify(status, retry_after, &body)?;
        // Twilio's own count (`num_segments`) is 0 where a service has yet to choose the sender.
        let segments = if let Content::Text { body } = &message.content { Some(segments(body)) } else { None };
        Ok(Accepted { segments, ..accepted })
    }

    async fn check(&self) -> Result<(), SendError> {
        let request = self.client.get(format!("{}.json", self.config.account_url()));
        let Answer { status, retry_after, body, .. } = self.call(request).await.map_err(http::of_question)?;
        // Any answer that names the account will do; `classify` wants a `sid` too.
        classify(status, retry_after, &body).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::{Email, test_support};
    use ErrorKind::{InvalidAddress, OptedOut};
    use bellwether_schemas::Lane;
    use proptest::prelude::*;
    use serde_json::json;

    fn config(change: serde_json::Value) -> Config {
        let mut all = json!({"account_sid": "AC1", "auth_token": {"env": "X"}, "from": "+15550002222"});
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn message(body: &str) -> Message {
        Message { attempt: 3, ..test_support::message("+15550001111", Content::Text { body: body.into() }) }
    }

    #[test]
    fn a_request_to_the_letter() {
        let Request { url, form } = config(json!({})).request(&message("Hi & bye")).unwrap();
        assert_eq!(url, "https://api.twilio.com/2010-04-01/Accounts/AC1/Messages.json");
        let pairs = [("To", "+15550001111"), ("Body", "Hi & bye"), ("From", "+15550002222")];
        assert_eq!(form, pairs.map(|(name, value)| (name, value.to_owned())));
    }

    #[test]
    fn a_service_and_a_callback() {
        let config = config(json!({"from": null, "messaging_service_sid": "MG1", "base_url": "http://127.0.0.1:9/",
            "status_callback_url": "https://h.example/v1/webhooks/shop/sms"}));
        let message = message("Hi");
        let Request { url, form } = config.request(&message).unwrap();
        assert_eq!(url, "http://127.0.0.1:9/2010-04-01/Accounts/AC1/Messages.json");
        assert_eq!(form[2], ("MessagingServiceSid", "MG1".to_owned()));
        let token = message.reference.to_token();
        assert_eq!(form[3], ("StatusCallback", format!("https://h.example/v1/webhooks/shop/sms?r={token}&n=3")));
    }

    #[test]
    fn the_sender_is_chosen_by_country_lane_and_template() {
        let list = json!([{"from": "SHOP", "countries": ["ES"], "templates": ["order.shipped"]}, {"messaging_service_sid": "MG1", "lanes": ["transactional"]}]);
        let config = config(json!({"from": null, "senders": list}));
        config.validate().unwrap();
        let to = |to: &str, lane: Lane| Message { to: to.into(), lane, ..message("Hi") };
        let form = config.request(&to("+34666777888", Lane::Bulk)).unwrap().form;
        assert_eq!(form[2], ("From", "SHOP".to_owned()));
        let form = config.request(&to("+4917012345678", Lane::Transactional)).unwrap().form;
        assert_eq!(form[2], ("MessagingServiceSid", "MG1".to_owned()));
        let error = config.request(&to("+4917012345678", Lane::Bulk)).unwrap_err();
        let words = "none of `senders` is for DE, lane bulk and template `order.shipped`: add one";
        assert_eq!((error.kind, error.detail.as_str()), (Rejected, words));
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried() {
        let email = Content::Email(Email { subject: "s".into(), text: Some("t".into()), ..Email::default() });
        for content in [email, Content::Text { body: " \n".into() }, Content::Text { body: "ö".repeat(1601) }] {
            let error = config(json!({})).request(&Message { content, ..message("") }).unwrap_err();
            assert_eq!(error.kind, Rejected);
        }
        assert!(config(json!({})).request(&message(&"ö".repeat(1600))).is_ok());
    }

    #[test]
    fn every_code_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<u32>(include_str!("twilio.codes.csv")) {
            let body = json!({"code": code, "message": "words", "status": 400}).to_string();
            let error = classify(400, None, body.as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.detail), (kind, format!("{code}: {name}")));
        }
        // What the provider's page and our contract insist on.
        for (code, kind) in [
            (21211, InvalidAddress),
            (21614, InvalidAddress),
            (30005, InvalidAddress),
            (30006, InvalidAddress),
            (30003, ErrorKind::Unreachable),
            (21610, OptedOut),
            (20003, Unauthorized),
            (21606, Unauthorized),
            (21408, Unauthorized),
            (20429, Throttled),
            (21611, Transient),
            (30001, Transient),
            (21658, Rejected),
        ] {
            assert_eq!(kind_of(code).unwrap().0, kind, "{code}");
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = Some(Duration::from_secs(7));
        for (status, retry_after, body, kind, after) in [
            (429, wait, r#"{"code":20429,"message":"Too Many Requests","status":429}"#, Throttled, wait),
            (429, None, "", Throttled, None),
            (503, wait, "<html>", Transient, None),
            (500, None, "{}", Transient, None),
            (400, None, r#"{"code":99999,"message":"'To' +15550001111 odd","status":400}"#, Rejected, None),
            (400, None, "not json", Rejected, None),
            (401, None, "", Unauthorized, None),
            (403, None, "{}", Unauthorized, None),
            (404, None, r#"{"code":20404}"#, Unauthorized, None),
            (301, None, "", Unauthorized, None),
            (201, None, r#"{"status":"queued"}"#, ErrorKind::Ambiguous, None),
            (201, None, r#"{"sid":"","status":"queued"}"#, ErrorKind::Ambiguous, None),
            (200, None, "<html>welcome to the hotel</html>", ErrorKind::Ambiguous, None),
            (201, None, r#"{"sid":"SM1","status":"failed","error_code":21610}"#, OptedOut, None),
        ] {
            let error = classify(status, retry_after, body.as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.after), (kind, after), "{status} {body}");
            assert!(!error.detail.contains("5550001111"), "{}", error.detail);
        }
        let taken = Accepted { provider_id: Some("SM1".into()), ..Accepted::default() };
        assert_eq!(classify(201, None, br#"{"sid":"SM1","status":"queued","error_code":null,"new":[1]}"#), Ok(taken));
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(status in 0_u16..1000, body in prop::collection::vec(any::<u8>(), 0..200)) {
            classify(status, None, &body).ok();
        }

        #[test]
        fn nor_an_odd_error(status in 200_u16..600, code in any::<i64>(), sid in any::<Option<String>>(), message in any::<String>()) {
            let body = json!({"code": code, "sid": sid, "message": message, "status": status, "error_code": code});
            classify(status, None, body.to_string().as_bytes()).ok();
        }
    }
}
