//! Notifications of apps by Apple's push service over HTTP/2: `Config`, the pure [`Config::request`] and [`classify`], and the thin call
//! with its provider token. Receipts come from the app, not from here.
//! Source: <https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns>.

use super::{
    Accepted, ConfigError, Content, Message, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    signing::{es256, unix_seconds},
    without_addresses,
};
use crate::secret::Secret;
use async_trait::async_trait;
use bellwether_schemas::{
    Channel, Lane,
    records::ErrorKind::{InvalidAddress, Rejected, Throttled, Transient, Unauthorized, Unreachable},
};
use openssl::{
    ec::EcKey,
    nid::Nid,
    pkey::{PKey, Private},
};
use reqwest::Client;
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    fmt,
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Connector's name in definitions.
pub const KIND: &str = "apns";
/// What the address of an app begins with.
pub const PREFIX: &str = "apns:";
/// Longest payload in bytes.
const MAX_PAYLOAD: usize = 4096;
/// How long we use a provider token: Apple refuses one older than an hour, and one renewed more than once in 20 minutes.
const TOKEN_USE: Duration = Duration::from_secs(45 * 60);
/// Longest device token in hexadecimal digits; Apple's have 64 today and may grow.
const MAX_TOKEN: usize = 200;

/// What the reasons of APNs mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line<&str>>> = LazyLock::new(|| codes::parse(include_str!("apns.codes.csv")));

/// Settings of an APNs provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the signing key is to be had: the content of Apple's `AuthKey_….p8` file.
    pub key: Secret,
    /// The key's id, ten characters.
    pub key_id: String,
    /// The developer team's id, ten characters.
    pub team_id: String,
    /// The app's bundle id.
    pub topic: String,
    /// APNs; `https://api.sandbox.push.apple.com` for apps in development, or a counterpart in tests (by http: HTTP/2 without TLS).
    #[serde(default = "default_base_url")]
    pub base_url: String,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_base_url() -> String {
    "https://api.push.apple.com".into()
}

const fn default_timeout() -> u64 {
    10
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ConfigError {
    http::wrong(KIND, field, problem)
}

/// A call that sends one message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Where to POST.
    pub url: String,
    /// Headers but for the authorization.
    pub headers: Vec<(&'static str, String)>,
    /// JSON.
    pub body: String,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        for (field, id) in [("key_id", &self.key_id), ("team_id", &self.team_id)] {
            if id.len() != 10 || !id.chars().all(|c| c.is_ascii_alphanumeric()) {
                return Err(wrong(field, "must be ten letters and digits: copy it from Apple's developer account"));
            }
        }
        if self.topic.is_empty() || !self.topic.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-')) {
            return Err(wrong("topic", "must be the app's bundle id, such as `com.example.shop`"));
        }
        http::url(KIND, "base_url", &self.base_url)?;
        http::timeout(KIND, self.timeout_seconds)
    }

    fn url(&self, token: &str) -> String {
        format!("{}/3/device/{token}", self.base_url.trim_end_matches('/'))
    }

    /// The call for one message; `now` in seconds since the Unix epoch.
    ///
    /// # Errors
    /// An address that is none of APNs: [`InvalidAddress`]. Content of another channel, empty or too long:
    /// [`Rejected`].
    pub fn request(&self, message: &Message, now: u64) -> Result<Request, SendError> {
        let token = message.to.strip_prefix(PREFIX).unwrap_or_default();
        if token.is_empty() || token.len() > MAX_TOKEN || !token.chars().all(|c| c.is_ascii_hexdigit()) {
            let words = "address is no app of Apple's: it must be `apns:` and a device token in hexadecimal";
            return Err(SendError::new(InvalidAddress, words));
        }
        let body = payload(&message.content)?.to_string();
        if body.len() > MAX_PAYLOAD {
            let words = format!("push has {} bytes, more than {MAX_PAYLOAD}: shorten its body or data", body.len());
            return Err(SendError::new(Rejected, words));
        }
        let priority = match message.lane {
            Lane::Transactional => "10",
            Lane::Bulk => "5",
        };
        let delivery = message.delivery.to_string();
        let mut headers = vec![
            ("apns-topic", self.topic.clone()),
            ("apns-push-type", "alert".into()),
            ("apns-priority", priority.into()),
            ("apns-id", delivery.clone()),
            // Two tries of one delivery are shown once. At most 64 bytes.
            ("apns-collapse-id", delivery),
        ];
        if let Some(ttl) = message.ttl {
            // 0 is once and never again, and that is what no time at all asks for.
            let until = if ttl.as_secs() == 0 { 0 } else { now.saturating_add(ttl.as_secs()) };
            headers.push(("apns-expiration", until.to_string()));
        }
        Ok(Request { url: self.url(token), headers, body })
    }
}

/// What the app gets: Apple's `aps`, the message's data and, for its receipts and clicks, ours.
fn payload(content: &Content) -> Result<Value, SendError> {
    let Content::Push(push) = content else {
        return Err(SendError::new(Rejected, "content is no push: give the template an `app_push` variant"));
    };
    if push.title.trim().is_empty() && push.body.trim().is_empty() {
        return Err(SendError::new(Rejected, "push has neither title nor body"));
    }
    if push.data.contains_key("aps") {
        return Err(SendError::new(Rejected, "data key `aps` is reserved by Apple: rename it"));
    }
    let mut aps = json!({"alert": {"title": push.title, "body": push.body}, "sound": "default"});
    // The app's extension, which fetches the picture and reports the delivery, runs only then.
    if push.image.is_some() || push.delivered_url.is_some() {
        aps["mutable-content"] = json!(1);
    }
    let mut payload: Map<String, Value> = push.data.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let ours = [("delivered_url", &push.delivered_url), ("clicked_url", &push.clicked_url)];
    for (key, value) in [("url", &push.url), ("icon", &push.icon), ("image", &push.image)].into_iter().chain(ours) {
        if let Some(value) = value {
            payload.insert(key.into(), json!(value));
        }
    }
    payload.insert("aps".into(), aps);
    Ok(Value::Object(payload))
}

#[derive(Deserialize)]
struct Failure {
    reason: String,
}

fn reason(body: &[u8]) -> Option<String> {
    serde_json::from_slice::<Failure>(body).ok().map(|failure| failure.reason)
}

/// What an answer means: HTTP status, the wait of a `Retry-After` header, the `apns-id` header, body.
///
/// # Errors
/// See [`SendError`].
pub fn classify(
    status: u16,
    retry_after: Option<Duration>,
    id: Option<&str>,
    body: &[u8],
) -> Result<Accepted, SendError> {
    if status == 200 {
        return Ok(Accepted { provider_id: id.map(Into::into), ..Accepted::default() });
    }
    let reason = reason(body);
    let known = reason.as_deref().and_then(|reason| codes::find(&CODES, reason));
    let kind = match (status, known) {
        (_, Some(line)) => line.kind,
        (410, _) => InvalidAddress,
        (413, _) => Rejected,
        (429, _) => Throttled,
        (408 | 500.., _) => Transient,
        // Another 2xx is none of Apple's: something in between answered, as it does where it redirects.
        (200..=399 | 401 | 403..=405, _) => Unauthorized,
        _ => Rejected,
    };
    let detail = match (known, &reason) {
        (Some(Line { code, name, .. }), _) => format!("{code}: {name}"),
        (_, Some(reason)) => format!("HTTP {status}: {}", without_addresses(reason)),
        _ => format!("HTTP {status} without a reason"),
    };
    let after = retry_after.or(known.and_then(|line| line.wait)).filter(|_| kind == Throttled);
    let of_address = known.is_some_and(|line| line.wait.is_some());
    Err(SendError { after, of_address, ..SendError::new(kind, detail) })
}

/// A developer team's key to push with.
pub struct ApnsSink {
    config: Config,
    key: EcKey<Private>,
    token: Mutex<Option<(Arc<str>, Instant)>>,
    client: Client,
}

impl fmt::Debug for ApnsSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApnsSink").field("config", &self.config).finish_non_exhaustive()
    }
}

impl ApnsSink {
    /// Checks the configuration and fetches the key.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let pem = http::secret(KIND, "key", &config.key)?;
        let key = PKey::private_key_from_pem(pem.expose_secret().as_bytes()).and_then(|key| key.ec_key());
        let key = key.ok().filter(|key| key.group().curve_name() == Some(Nid::X9_62_PRIME256V1));
        let key = key.ok_or_else(|| wrong("key", "must be a P-256 key in PEM: the content of Apple's `.p8` file"))?;
        let mut client = http::builder(Duration::from_secs(config.timeout_seconds));
        // By https the two agree on HTTP/2 in the handshake; without one we must know.
        if config.base_url.starts_with("http:") {
            client = client.http2_prior_knowledge();
        }
        Ok(Self { config, key, token: Mutex::default(), client: http::build(KIND, client)? })
    }

    /// The provider token; a new one where it is old, or where it is the one that was refused.
    fn token(&self, refused: Option<&str>) -> Result<Arc<str>, SendError> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((value, made)) = token.as_ref()
            && made.elapsed() < TOKEN_USE
            && refused != Some(&**value)
        {
            return Ok(Arc::clone(value));
        }
        let header = json!({"alg": "ES256", "kid": self.config.key_id});
        let claims = json!({"iss": self.config.team_id, "iat": unix_seconds()});
        let fresh = es256(&self.key, &header, &claims);
        let fresh: Arc<str> = fresh.map_err(|error| SendError::new(Transient, format!("OpenSSL: {error}")))?.into();
        *token = Some((Arc::clone(&fresh), Instant::now()));
        Ok(fresh)
    }

    async fn try_send(&self, request: &Request, token: &str) -> Result<Answer, SendError> {
        let mut call = self.client.post(&request.url).header("authorization", format!("bearer {token}"));
        for (name, value) in &request.headers {
            call = call.header(*name, value);
        }
        http::call(call.body(request.body.clone()), http::MAX_ANSWER).await
    }

    async fn push(&self, request: &Request) -> Result<Accepted, SendError> {
        let token = self.token(None)?;
        let mut answer = self.try_send(request, &token).await?;
        // Our clock and Apple's may differ; APNs has not taken the message. Refused again, the provider is stopped, so that tokens are
        // not renewed faster than Apple bears.
        if answer.status == 403 && reason(&answer.body).as_deref() == Some("ExpiredProviderToken") {
            answer = self.try_send(request, &self.token(Some(&token))?).await?;
        }
        let id = answer.headers.get("apns-id").and_then(|value| value.to_str().ok());
        classify(answer.status, answer.retry_after, id, &answer.body)
    }
}

#[async_trait]
impl Sink for ApnsSink {
    fn channel(&self) -> Channel {
        Channel::AppPush
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        self.push(&self.config.request(message, unix_seconds())?).await
    }

    /// Pushes to a device that cannot be: APNs looks at our token first.
    async fn check(&self) -> Result<(), SendError> {
        let headers = vec![("apns-topic", self.config.topic.clone()), ("apns-push-type", "alert".into())];
        let request = Request { url: self.config.url(&"0".repeat(64)), headers, body: r#"{"aps":{}}"#.into() };
        match self.push(&request).await {
            Err(SendError { kind: Unreachable | InvalidAddress | Rejected, .. }) => Ok(()),
            outcome => outcome.map(drop).map_err(http::of_question),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::signing::tests::verify_es256, *};
    use crate::channels::{Push, test_support::message};
    use openssl::ec::EcGroup;
    use proptest::prelude::*;

    const TOKEN: &str = "apns:00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0";

    fn config(change: Value) -> Config {
        let mut all =
            json!({"key": {"env": "X"}, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop"});
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn push() -> Push {
        Push { title: "Shipped".into(), body: "On its way".into(), ..Push::default() }
    }

    fn to(address: &str, push: Push) -> Message {
        message(address, Content::Push(push))
    }

    #[test]
    fn a_request_to_the_letter() {
        let all = Push {
            url: Some("https://l.example/1".into()),
            icon: Some("https://l.example/i.png".into()),
            image: Some("https://l.example/b.png".into()),
            data: [("order".into(), "7".into())].into(),
            delivered_url: Some("https://l.example/d".into()),
            clicked_url: Some("https://l.example/c".into()),
            ..push()
        };
        let message = Message { ttl: Some(Duration::from_secs(60)), lane: Lane::Transactional, ..to(TOKEN, all) };
        let Request { url, headers, body } = config(json!({})).request(&message, 1_000).unwrap();
        assert_eq!(url, format!("https://api.push.apple.com/3/device/{}", &TOKEN[5..]));
        let id = message.delivery.to_string();
        assert!(id.len() <= 64);
        let expected = [
            ("apns-topic", "com.example.shop"),
            ("apns-push-type", "alert"),
            ("apns-priority", "10"),
            ("apns-id", &id),
            ("apns-collapse-id", &id),
            ("apns-expiration", "1060"),
        ];
        assert_eq!(headers, expected.map(|(name, value)| (name, value.to_owned())));
        assert_eq!(
            serde_json::from_str::<Value>(&body).unwrap(),
            json!({"aps": {"alert": {"title": "Shipped", "body": "On its way"}, "sound": "default", "mutable-content": 1},
                "order": "7", "url": "https://l.example/1", "icon": "https://l.example/i.png",
                "image": "https://l.example/b.png", "delivered_url": "https://l.example/d", "clicked_url": "https://l.example/c"})
        );
        let Request { headers, body, .. } = config(json!({})).request(&to(TOKEN, push()), 1_000).unwrap();
        assert_eq!(headers[2].1, "5");
        assert!(headers.iter().all(|(name, _)| *name != "apns-expiration"));
        let plain = json!({"aps": {"alert": {"title": "Shipped", "body": "On its way"}, "sound": "default"}});
        assert_eq!(serde_json::from_str::<Value>(&body).unwrap(), plain);
        let once = Message { ttl: Some(Duration::ZERO), ..to(TOKEN, push()) };
        assert_eq!(config(json!({})).request(&once, 1_000).unwrap().headers[5], ("apns-expiration", "0".into()));
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried() {
        let long = |n| Push { body: "x".repeat(n), ..push() };
        let room = MAX_PAYLOAD - config(json!({})).request(&to(TOKEN, long(0)), 0).unwrap().body.len();
        assert!(config(json!({})).request(&to(TOKEN, long(room)), 0).is_ok());
        for (message, kind) in [
            (to(TOKEN, long(room + 1)), Rejected),
            (to(TOKEN, Push::default()), Rejected),
            (to(TOKEN, Push { data: [("aps".into(), "x".into())].into(), ..push() }), Rejected),
            (message(TOKEN, Content::Text { body: "x".into() }), Rejected),
            (to("fcm:abc", push()), InvalidAddress),
            (to("apns:", push()), InvalidAddress),
            (to("apns:../../x", push()), InvalidAddress),
            (to(&format!("apns:{}", "a".repeat(201)), push()), InvalidAddress),
            (to("jane@example.com", push()), InvalidAddress),
        ] {
            let error = config(json!({})).request(&message, 0).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(!error.detail.contains("jane"));
        }
    }

    #[test]
    fn every_code_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<&str>(include_str!("apns.codes.csv")) {
            let error = classify(400, None, None, json!({"reason": code}).to_string().as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.detail), (kind, format!("{code}: {name}")));
        }
        for (code, kind) in [
            ("Unregistered", InvalidAddress),
            ("ExpiredToken", InvalidAddress),
            ("BadDeviceToken", Unreachable),
            ("DeviceTokenNotForTopic", Unreachable),
            ("ExpiredProviderToken", Unauthorized),
            ("InvalidProviderToken", Unauthorized),
            ("TooManyRequests", Throttled),
            ("InternalServerError", Transient),
            ("ServiceUnavailable", Transient),
        ] {
            assert_eq!(codes::find(&CODES, code).unwrap().kind, kind, "{code}");
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = Some(Duration::from_secs(7));
        for (status, body, kind, after) in [
            (429, r#"{"reason":"TooManyRequests"}"#, Throttled, wait),
            (410, r#"{"reason":"Unregistered","timestamp":1454402113}"#, InvalidAddress, None),
            (410, "", InvalidAddress, None),
            (403, r#"{"reason":"NewReason"}"#, Unauthorized, None),
            (400, r#"{"reason":"NewReason"}"#, Rejected, None),
            (413, "", Rejected, None),
            (429, "", Throttled, wait),
            (500, "", Transient, None),
            (503, "<html>", Transient, None),
            (204, "", Unauthorized, None),
            (302, "", Unauthorized, None),
        ] {
            let error = classify(status, wait, None, body.as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.after), (kind, after), "{status} {body}");
            assert_eq!(error.of_address, body.contains("TooManyRequests"), "it is about one device: {status} {body}");
        }
        assert_eq!(classify(200, None, Some("id"), b"").unwrap().provider_id.as_deref(), Some("id"));
    }

    #[test]
    fn a_token_is_kept_and_renewed_once_for_all_that_were_refused() {
        let key = EcKey::generate(&EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("AuthKey.p8");
        std::fs::write(&file, PKey::from_ec_key(key.clone()).unwrap().private_key_to_pem_pkcs8().unwrap()).unwrap();
        let sink = ApnsSink::new(config(json!({"key": {"file": file}}))).unwrap();
        let first = sink.token(None).unwrap();
        assert_eq!(first, sink.token(None).unwrap());
        let (header, claims) = verify_es256(&key, &first);
        assert_eq!(header, json!({"alg": "ES256", "kid": "ABC123DEFG"}));
        assert_eq!(claims["iss"], "DEF123GHIJ");
        assert!(unix_seconds() - claims["iat"].as_u64().unwrap() < 60);
        let second = sink.token(Some(&first)).unwrap();
        assert_ne!(first, second);
        assert_eq!(second, sink.token(Some(&first)).unwrap());
        let shown = format!("{sink:?}");
        assert!(!shown.contains("PRIVATE") && !shown.contains(&*second), "{shown}");

        std::fs::write(&file, "x").unwrap();
        let error = ApnsSink::new(config(json!({"key": {"file": file}}))).unwrap_err().to_string();
        assert!(error.starts_with("apns provider: `key` must be a P-256 key"), "{error}");
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(status in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..200), words in any::<String>()) {
            classify(status, None, None, &body).ok();
            classify(status, None, Some(&words), json!({"reason": words}).to_string().as_bytes()).ok();
        }
    }
}
