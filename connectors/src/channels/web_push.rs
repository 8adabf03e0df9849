//! Notifications of browsers by Web Push: RFC 8030 (delivery), 8291 (encryption), 8292 (who we are). `Config`, the pure
//! [`Config::request`] and [`classify`], and the thin call. Receipts come from our service worker, not from here.
//!
//! Reading order: this file, `subscription` (the address), `encryption`, `public` (where a push may go).

mod encryption;
mod subscription;

pub use subscription::{BadSubscription, Hosts, Subscription};

use super::{
    Accepted, ConfigError, Content, Message, Push, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    public,
    signing::{es256, unix_seconds},
};
use crate::secret::Secret;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_schemas::{
    Channel, Lane,
    records::ErrorKind::{InvalidAddress, Rejected, Throttled, Transient, Unauthorized, Unreachable},
};
use moka::sync::Cache;
use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcKey, EcPoint},
    error::ErrorStack,
    pkey::Private,
};
use reqwest::{Client, header::LOCATION};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::{
    fmt,
    sync::{Arc, LazyLock},
    time::Duration,
};

/// Connector's name in definitions.
pub const KIND: &str = "web_push";
/// What the statuses of push services mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("web_push.codes.csv")));
/// Longest payload in bytes before encryption. A push service must take 4096 after it (RFC 8030 section 7.2), some take less.
const MAX_PAYLOAD: usize = 3000;
/// Longest that a push service keeps a message in practice, in seconds: 28 days.
const MAX_TTL: u64 = 28 * 24 * 3600;
/// How long a token of ours holds; at most a day (RFC 8292 section 2).
const TOKEN_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long we use it: a push service's clock may be ahead of ours.
const TOKEN_USE: Duration = Duration::from_secs(11 * 3600);
/// Origins whose tokens are kept. Strangers choose origins, so there may be many.
const MAX_ORIGINS: u64 = 1000;
/// Longest `Location` that is kept as the provider's id.
const MAX_LOCATION: usize = 512;

/// Settings of a Web Push provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where our private key is to be had: 32 bytes in base64url, as `bellwether vapid` writes it. Subscriptions are bound to it.
    pub vapid_private_key: Secret,
    /// Whom a push service may write to about us: a `mailto:` or `https:` URL.
    pub subject: String,
    /// Longest that a message may wait for the browser, in seconds.
    #[serde(default = "default_max_ttl")]
    pub max_ttl_seconds: u64,
    /// Push services whose refusal or throttling is about us: these hosts and those below them. A stranger may subscribe with an
    /// endpoint of his own, and what that answers is about his subscription only.
    #[serde(default = "default_services")]
    pub push_services: Vec<String>,
    /// Allows endpoints on private addresses and by http: for counterparts in tests, never in production.
    #[serde(default)]
    pub allow_private_endpoints: bool,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

const fn default_max_ttl() -> u64 {
    MAX_TTL
}

/// Those of Chrome, Firefox, Safari and Edge.
fn default_services() -> Vec<String> {
    ["fcm.googleapis.com", "push.services.mozilla.com", "push.apple.com", "notify.windows.com"].map(Into::into).into()
}

const fn default_timeout() -> u64 {
    10
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ConfigError {
    http::wrong(KIND, field, problem)
}

/// A call that sends one message, before encryption.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Whom to.
    pub subscription: Subscription,
    /// Seconds that it may wait.
    pub ttl: u64,
    /// How soon the browser is to be woken for it (RFC 8030 section 5.3).
    pub urgency: &'static str,
    /// What it replaces while it waits (RFC 8030 section 5.4): its own earlier try.
    pub topic: String,
    /// JSON for our service worker.
    pub payload: Vec<u8>,
}

/// What our service worker reads (`src/http/assets/bellwether-sw.js`).
#[derive(Serialize)]
struct Payload<'a> {
    title: &'a str,
    body: &'a str,
    /// Two tries of one delivery are shown once.
    tag: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icon: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    delivered_url: &'a Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clicked_url: &'a Option<String>,
    #[serde(skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    data: &'a std::collections::BTreeMap<String, String>,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let is_mail = self.subject.strip_prefix("mailto:").is_some_and(|address| address.contains('@'));
        if !is_mail && !self.subject.starts_with("https://") {
            return Err(wrong("subject", "must begin with `mailto:` or `https://`: push services write there"));
        }
        if self.max_ttl_seconds > MAX_TTL {
            return Err(wrong("max_ttl_seconds", format!("must be from 0 to {MAX_TTL} (28 days)")));
        }
        if self.push_services.iter().any(|host| host.is_empty() || host.contains(['/', ':', '*'])) {
            return Err(wrong("push_services", "must be host names, such as `push.example.com`"));
        }
        http::timeout(KIND, self.timeout_seconds)
    }

    /// The hosts that an endpoint may have.
    #[must_use]
    pub const fn hosts(&self) -> Hosts {
        if self.allow_private_endpoints { Hosts::Any } else { Hosts::Public }
    }

    /// Whether the subscription is with a push service that we know.
    #[must_use]
    pub fn is_known(&self, subscription: &Subscription) -> bool {
        let host = subscription.endpoint().host_str().unwrap_or_default();
        self.push_services
            .iter()
            .any(|known| host.strip_suffix(known.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
    }

    /// The call for one message.
    ///
    /// # Errors
    /// An address that is no subscription: [`InvalidAddress`]. Content of another channel, empty or too long:
    /// [`Rejected`].
    pub fn request(&self, message: &Message) -> Result<Request, SendError> {
        let Content::Push(push) = &message.content else {
            return Err(SendError::new(Rejected, "content is no push: give the template a `web_push` variant"));
        };
        let subscription = Subscription::parse(&message.to, self.hosts())
            .map_err(|error| SendError::new(InvalidAddress, format!("subscription {error}")))?;
        let topic = URL_SAFE_NO_PAD.encode(message.delivery.0.as_bytes());
        let ttl = message.ttl.map_or(self.max_ttl_seconds, |ttl| ttl.as_secs().min(self.max_ttl_seconds));
        let urgency = match message.lane {
            Lane::Transactional => "high",
            Lane::Bulk => "normal",
        };
        Ok(Request { subscription, ttl, urgency, payload: payload(push, &topic)?, topic })
    }

    fn key(&self) -> Result<EcKey<Private>, ConfigError> {
        let field = "vapid_private_key";
        let text = http::secret(KIND, field, &self.vapid_private_key)?;
        private_key(text.expose_secret().trim()).ok_or_else(|| {
            wrong(field, "must be a private key of P-256, 32 bytes in base64url: `bellwether vapid` makes one")
        })
    }
}

fn payload(push: &Push, tag: &str) -> Result<Vec<u8>, SendError> {
    let Push { title, body, url, icon, image, data, delivered_url, clicked_url } = push;
    if title.trim().is_empty() && body.trim().is_empty() {
        return Err(SendError::new(Rejected, "push has neither title nor body"));
    }
    let payload = serde_json::to_vec(&Payload { title, body, tag, url, icon, image, delivered_url, clicked_url, data });
    let payload = payload.map_err(|_| SendError::new(Rejected, "push cannot be written as JSON"))?;
    if payload.len() > MAX_PAYLOAD {
        let words = format!("push has {} bytes, more than {MAX_PAYLOAD}: shorten its body or data", payload.len());
        return Err(SendError::new(Rejected, words));
    }
    Ok(payload)
}

/// Reads a private key; `None` where it is none.
fn private_key(text: &str) -> Option<EcKey<Private>> {
    let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok().filter(|bytes| bytes.len() == 32)?;
    let make = || -> Result<EcKey<Private>, ErrorStack> {
        let (group, number, mut context) = (encryption::group()?, BigNum::from_slice(&bytes)?, BigNumContext::new()?);
        let mut point = EcPoint::new(group)?;
        point.mul_generator2(group, &number, &mut context)?;
        let key = EcKey::from_private_components(group, &number, &point)?;
        key.check_key()?;
        Ok(key)
    };
    make().ok()
}

fn public_text(key: &EcKey<Private>) -> Result<String, ErrorStack> {
    Ok(URL_SAFE_NO_PAD.encode(encryption::point_bytes(key.public_key())?))
}

/// A new key, private and public, each in base64url: the one is the secret `vapid_private_key`, the other what browsers subscribe with.
///
/// # Errors
/// OpenSSL has no randomness to give.
pub fn generate_vapid() -> Result<(String, String), ErrorStack> {
    let key = EcKey::generate(encryption::group()?)?;
    Ok((URL_SAFE_NO_PAD.encode(key.private_key().to_vec_padded(32)?), public_text(&key)?))
}

/// The public key that browsers subscribe with (`applicationServerKey`), in base64url, of a provider with these settings.
///
/// # Errors
/// See [`ConfigError`].
pub fn public_key(settings: &Map<String, Value>) -> Result<String, ConfigError> {
    let key = super::read::<Config>(KIND, settings)?.key()?;
    public_text(&key).map_err(|error| wrong("vapid_private_key", error.to_string()))
}

/// What an answer means: HTTP status, the wait of a `Retry-After` header, the message's own URL, and whether the push service is one
/// that we know ([`Config::is_known`]). Source: RFC 8030 sections 5, 7.2, 7.3 and 8.4; RFC 8292 section 4.2.
///
/// # Errors
/// See [`SendError`].
pub fn classify(
    status: u16,
    retry_after: Option<Duration>,
    location: Option<&str>,
    is_known: bool,
) -> Result<Accepted, SendError> {
    if (200..300).contains(&status) {
        let location = location.filter(|url| url.len() <= MAX_LOCATION);
        return Ok(Accepted { provider_id: location.map(Into::into), ..Accepted::default() });
    }
    let line = codes::find(&CODES, u32::from(status));
    let kind = match line.map(|line| line.kind) {
        // It answers for its own browsers only.
        Some(Throttled) if !is_known => Transient,
        Some(Unauthorized) if !is_known => Unreachable,
        Some(kind) => kind,
        None if status >= 500 => Transient,
        // Our key or token; redirects are not followed.
        None if is_known => Unauthorized,
        None => Unreachable,
    };
    let detail = line.map_or("refused by the push service", |line| line.name);
    let after = retry_after.filter(|_| kind == Throttled);
    Err(SendError { after, of_address: !is_known, ..SendError::new(kind, format!("HTTP {status}: {detail}")) })
}

/// A key to push with.
pub struct WebPushSink {
    config: Config,
    key: EcKey<Private>,
    public: String,
    tokens: Cache<String, Arc<str>>,
    client: Client,
}

impl fmt::Debug for WebPushSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebPushSink").field("config", &self.config).finish_non_exhaustive()
    }
}

impl WebPushSink {
    /// Checks the configuration and fetches the key.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let key = config.key()?;
        let public = public_text(&key).map_err(|error| wrong("vapid_private_key", error.to_string()))?;
        // A proxy would resolve the names, and then nobody would see whether they are public.
        let mut client = http::builder(Duration::from_secs(config.timeout_seconds)).no_proxy();
        if config.hosts() == Hosts::Public {
            client = client.dns_resolver(public::PublicOnly);
        }
        let tokens = Cache::builder().max_capacity(MAX_ORIGINS).time_to_live(TOKEN_USE).build();
        Ok(Self { config, key, public, tokens, client: http::build(KIND, client)? })
    }

    /// `Authorization` for a push service (RFC 8292 section 3).
    fn authorization(&self, origin: String) -> Result<String, SendError> {
        let token = self.tokens.try_get_with_by_ref(&origin, || {
            let claims = json!({
                "aud": origin, "exp": unix_seconds() + TOKEN_LIFE.as_secs(), "sub": self.config.subject,
            });
            es256(&self.key, &json!({"typ": "JWT", "alg": "ES256"}), &claims).map(Arc::from)
        });
        let token: Arc<str> = token.map_err(|error| cannot_encrypt(&error))?;
        Ok(format!("vapid t={token},k={}", self.public))
    }
}

fn cannot_encrypt(error: &ErrorStack) -> SendError {
    SendError::new(Transient, format!("OpenSSL: {error}"))
}

#[async_trait]
impl Sink for WebPushSink {
    fn channel(&self) -> Channel {
        Channel::WebPush
    }

    /// An answer that does not come is ambiguous, and a second try does no harm: its topic replaces the first where that still waits,
    /// its tag where that is shown.
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let Request { subscription, ttl, urgency, topic, payload } = self.config.request(message)?;
        let key = subscription.key().map_err(|error| cannot_encrypt(&error))?;
        let body = encryption::encrypt(&key, subscription.auth(), &payload).map_err(|error| cannot_encrypt(&error))?;
        let request = self
            .client
            .post(subscription.endpoint().clone())
            .header("Authorization", self.authorization(subscription.origin())?)
            .header("Content-Type", "application/octet-stream")
            .header("Content-Encoding", "aes128gcm")
            .header("TTL", ttl)
            .header("Urgency", urgency)
            .header("Topic", topic)
            .body(body);
        let is_known = self.config.is_known(&subscription);
        let Answer { status, headers, retry_after, .. } =
            http::exchange(request, http::MAX_ANSWER).await.map_err(|error| {
                if public::is_not_public(&error) {
                    // Not for ever: a resolver that lies for an hour must not cost us every subscription.
                    return SendError::new(Unreachable, "the endpoint's host has no public address");
                }
                SendError { of_address: !is_known, ..http::unanswered(&error) }
            })?;
        let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
        classify(status, retry_after, location, is_known)
    }

    /// Nobody is there to ask without a subscription; that the key signs is all there is to see.
    async fn check(&self) -> Result<(), SendError> {
        self.authorization("https://push.example".into()).map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::signing::tests::verify_es256,
        encryption::tests::decrypt,
        subscription::tests::{P256DH, SECRET, subscription},
        *,
    };
    use crate::channels::test_support::message;
    use proptest::prelude::*;

    const KEY: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";

    fn config(change: Value) -> Config {
        let mut all = json!({"vapid_private_key": {"env": "X"}, "subject": "mailto:push@shop.example"});
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        serde_json::from_value(all).unwrap()
    }

    fn push() -> Push {
        Push { title: "Shipped".into(), body: "On its way".into(), ..Push::default() }
    }

    fn to(endpoint: &str, push: Push) -> Message {
        message(&subscription(endpoint), Content::Push(push))
    }

    fn known(endpoint: &str) -> bool {
        config(json!({})).is_known(&Subscription::parse(&subscription(endpoint), Hosts::Public).unwrap())
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
        let request = config(json!({})).request(&to("https://fcm.googleapis.com/a", all)).unwrap();
        assert_eq!(
            String::from_utf8(request.payload).unwrap(),
            r#"{"title":"Shipped","body":"On its way","tag":"AAAAAAAAAAAAAAAAAAAAAA","url":"https://l.example/1","icon":"https://l.example/i.png","image":"https://l.example/b.png","delivered_url":"https://l.example/d","clicked_url":"https://l.example/c","data":{"order":"7"}}"#
        );
        // RFC 8030 section 5.4: at most 32 characters of base64url.
        assert!(request.topic.len() <= 32 && URL_SAFE_NO_PAD.decode(&request.topic).is_ok());
        assert_eq!((request.ttl, request.urgency), (2_419_200, "normal"));

        let urgent =
            Message { lane: Lane::Transactional, ttl: Some(Duration::from_millis(90_500)), ..to("https://x/", push()) };
        let request = config(json!({})).request(&urgent).unwrap();
        assert_eq!((request.ttl, request.urgency), (90, "high"));
        assert_eq!(request.payload, br#"{"title":"Shipped","body":"On its way","tag":"AAAAAAAAAAAAAAAAAAAAAA"}"#);
        let capped = config(json!({"max_ttl_seconds": 60})).request(&urgent).unwrap();
        assert_eq!(capped.ttl, 60);
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried() {
        let (config, good) = (config(json!({})), "https://push.example/a");
        let long = |n| Push { body: "x".repeat(n), ..push() };
        let room = MAX_PAYLOAD - config.request(&to(good, long(0))).unwrap().payload.len();
        assert!(config.request(&to(good, long(room))).is_ok());
        let error = config.request(&to(good, long(room + 1))).unwrap_err();
        assert_eq!(error.detail, "push has 3001 bytes, more than 3000: shorten its body or data");
        for (message, kind) in [
            (to(good, long(room + 1)), Rejected),
            (to(good, Push::default()), Rejected),
            (message(&subscription(good), Content::Text { body: "x".into() }), Rejected),
            (to("https://127.0.0.1/", push()), InvalidAddress),
            (to("http://push.example/", push()), InvalidAddress),
            (message("jane@example.com", Content::Push(push())), InvalidAddress),
        ] {
            let error = config.request(&message).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(!error.detail.contains("jane"));
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = Some(Duration::from_secs(7));
        for (status, kind, of_a_stranger) in [
            (400, Unauthorized, Unreachable),
            (401, Unauthorized, Unreachable),
            (403, Unauthorized, Unreachable),
            (307, Unauthorized, Unreachable),
            (404, InvalidAddress, InvalidAddress),
            (410, InvalidAddress, InvalidAddress),
            (413, Rejected, Rejected),
            (429, Throttled, Transient),
            (408, Transient, Transient),
            (500, Transient, Transient),
            (502, Transient, Transient),
            (503, Transient, Transient),
        ] {
            for (is_known, kind) in [(true, kind), (false, of_a_stranger)] {
                let error = classify(status, wait, None, is_known).unwrap_err();
                assert_eq!((error.kind, error.after), (kind, wait.filter(|_| kind == Throttled)), "{status}");
            }
        }
        let id = |location| classify(201, None, location, true).unwrap().provider_id;
        assert_eq!(id(Some("https://push.example/m/1")).as_deref(), Some("https://push.example/m/1"));
        assert_eq!((id(None), id(Some(&"x".repeat(513)))), (None, None));
    }

    #[test]
    fn every_code_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<u32>(include_str!("web_push.codes.csv")) {
            let status = u16::try_from(code).unwrap();
            let error = classify(status, None, None, true).unwrap_err();
            assert_eq!((error.kind, error.detail), (kind, format!("HTTP {code}: {name}")));
            let by_a_stranger = match kind {
                Throttled => Transient,
                Unauthorized => Unreachable,
                kind => kind,
            };
            assert_eq!(classify(status, None, None, false).unwrap_err().kind, by_a_stranger, "{code}");
        }
    }

    #[test]
    fn the_known_push_services() {
        for endpoint in [
            "https://fcm.googleapis.com/fcm/send/x",
            "https://updates.push.services.mozilla.com/wpush/v2/x",
            "https://web.push.apple.com/x",
            "https://wns2-am3p.notify.windows.com/w/?token=x",
        ] {
            assert!(known(endpoint), "{endpoint}");
        }
        for endpoint in ["https://evilfcm.googleapis.com/", "https://fcm.googleapis.com.evil.example/", "https://x/"] {
            assert!(!known(endpoint), "{endpoint}");
        }
    }

    #[test]
    fn keys() {
        let (private, public) = generate_vapid().unwrap();
        assert_eq!(public_text(&private_key(&private).unwrap()).unwrap(), public);
        assert_eq!(public_text(&private_key(KEY).unwrap()).unwrap(), P256DH);
        let (zero, order) = (URL_SAFE_NO_PAD.encode([0; 32]), "_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE");
        for bad in ["", "x", P256DH, &zero, order] {
            assert!(private_key(bad).is_none(), "{bad}");
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, format!("{KEY}\n")).unwrap();
        let settings = json!({"vapid_private_key": {"file": file}, "subject": "https://shop.example/"});
        assert_eq!(public_key(settings.as_object().unwrap()).unwrap(), P256DH);
        std::fs::write(&file, "x").unwrap();
        let error = public_key(settings.as_object().unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("web_push provider: `vapid_private_key` must be a private key"), "{error}");
    }

    #[tokio::test]
    async fn one_token_an_origin() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, KEY).unwrap();
        let sink = WebPushSink::new(config(json!({"vapid_private_key": {"file": file}}))).unwrap();
        sink.check().await.unwrap();
        let authorization = sink.authorization("https://push.example".into()).unwrap();
        assert_eq!(authorization, sink.authorization("https://push.example".into()).unwrap());
        assert_ne!(authorization, sink.authorization("https://other.example".into()).unwrap());
        let (token, key) = authorization.strip_prefix("vapid t=").unwrap().split_once(",k=").unwrap();
        assert_eq!(key, P256DH);
        let (header, claims) = verify_es256(&sink.key, token);
        assert_eq!(header, json!({"typ": "JWT", "alg": "ES256"}));
        assert_eq!(
            (&claims["aud"], &claims["sub"]),
            (&json!("https://push.example"), &json!("mailto:push@shop.example"))
        );
        let left = claims["exp"].as_u64().unwrap() - unix_seconds();
        assert!((TOKEN_USE.as_secs()..24 * 3600).contains(&left), "{left}");
        assert!(!format!("{sink:?}").contains(KEY));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn the_browser_reads_every_payload(title in any::<String>(), body in any::<String>()) {
            let expected = json!({"title": title, "body": body, "tag": "t"});
            let Ok(payload) = payload(&Push { title, body, ..Push::default() }, "t") else { return Ok(()) };
            let read = Subscription::parse(&subscription("https://x/"), Hosts::Public).unwrap();
            let message = encryption::encrypt(&read.key().unwrap(), read.auth(), &payload).unwrap();
            let text = decrypt(&private_key(KEY).unwrap(), &URL_SAFE_NO_PAD.decode(SECRET).unwrap(), &message).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&text).unwrap(), expected);
        }

        #[test]
        fn no_answer_makes_us_panic(status in any::<u16>(), location in any::<Option<String>>(), is_known: bool) {
            classify(status, None, location.as_deref(), is_known).ok();
        }
    }
}
