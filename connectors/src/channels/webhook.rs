//! Whatever else an operator connects: a JSON document by a signed HTTP call, as Standard Webhooks says
//! (<https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>). `Config`, the pure
//! [`Config::request`], [`sign`] and [`classify`], and the thin call. Who receives it is the operator's matter.

use super::{
    Accepted, ConfigError, Content, Message, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    signing::hmac_sha256,
};
use crate::secret::Secret;
use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether_schemas::{
    Channel, Timestamp,
    records::ErrorKind::{self, Rejected, Throttled, Transient, Unauthorized},
};
use reqwest::Client;
use secrecy::{ExposeSecret as _, SecretSlice};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

/// Connector's name in definitions.
pub const KIND: &str = "webhook";
/// What the statuses of receivers mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("webhook.codes.csv")));
/// What a signing secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// Bytes that a signing secret may have.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Settings of a webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to POST.
    pub url: String,
    /// Where the signing secret is to be had: `whsec_` and 24 to 64 bytes in base64.
    pub secret: Secret,
    /// Secrets that receivers may still use while it is being replaced; each adds a signature.
    #[serde(default)]
    pub previous_secrets: Vec<Secret>,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

/// The standard recommends 15 to 30.
const fn default_timeout() -> u64 {
    20
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ConfigError {
    http::wrong(KIND, field, problem)
}

/// A call before it is signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `webhook-id`: the same for every try, so that the receiver can drop a second one.
    pub id: String,
    /// `webhook-timestamp`: of this try, in seconds since the Unix epoch.
    pub timestamp: u64,
    /// JSON.
    pub body: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    r#type: &'a str,
    timestamp: String,
    to: &'a str,
    data: &'a RawValue,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        http::url(KIND, "url", &self.url)?;
        http::timeout(KIND, self.timeout_seconds)
    }

    /// The call for one message: `{"type": TEMPLATE, "timestamp": …, "to": ADDRESS, "data": DOCUMENT}`.
    ///
    /// # Errors
    /// Content of another channel, or that is no JSON: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message, now: Timestamp) -> Result<Request, SendError> {
        let Content::Json { body } = &message.content else {
            return Err(SendError::new(Rejected, "content is no JSON: give the template a `webhook` variant"));
        };
        let envelope = serde_json::from_str(body).and_then(|data| {
            let (r#type, timestamp) = (message.reference.template.as_str(), now.to_string());
            serde_json::to_string(&Envelope { r#type, timestamp, to: &message.to, data })
        });
        // The reader's words would hold the document.
        let body = envelope.map_err(|_| SendError::new(Rejected, "content is malformed JSON: mend the template"))?;
        let timestamp = u64::try_from(now.0 / 1000).unwrap_or(0);
        Ok(Request { id: message.delivery.to_string(), timestamp, body })
    }
}

/// `webhook-signature`: HMAC-SHA-256 by each key over id, timestamp and body.
#[must_use]
pub fn sign(keys: &[SecretSlice<u8>], request: &Request) -> String {
    let Request { id, timestamp, body } = request;
    let text = format!("{id}.{timestamp}.{body}");
    let by =
        |key: &SecretSlice<u8>| format!("v1,{}", BASE64.encode(hmac_sha256(key.expose_secret(), &[text.as_bytes()])));
    keys.iter().map(by).collect::<Vec<_>>().join(" ")
}

/// What an answer means: HTTP status and the wait of a `Retry-After` header.
///
/// # Errors
/// See [`SendError`].
pub fn classify(status: u16, retry_after: Option<Duration>) -> Result<Accepted, SendError> {
    let (kind, detail) = match status {
        200..=299 => return Ok(Accepted { provider_id: None, ..Accepted::default() }),
        300..=399 => (Unauthorized, "the receiver has moved: give its new URL"),
        503 if retry_after.is_some() => (Throttled, "the receiver is overloaded"),
        _ => match codes::find(&CODES, u32::from(status)) {
            Some(line) => (line.kind, line.name),
            None if status >= 500 => (Transient, "the receiver failed"),
            None => (Rejected, "the receiver refused it"),
        },
    };
    let after = retry_after.filter(|_| kind == Throttled);
    Err(SendError { after, ..SendError::new(kind, format!("HTTP {status}: {detail}")) })
}

/// A receiver to call.
#[derive(Debug)]
pub struct WebhookSink {
    config: Config,
    keys: Vec<SecretSlice<u8>>,
    client: Client,
}

impl WebhookSink {
    /// Checks the configuration and fetches the secrets.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let current = std::iter::once(("secret", &config.secret));
        let all = current.chain(config.previous_secrets.iter().map(|secret| ("previous_secrets", secret)));
        let keys = all.map(|(field, secret)| key(field, secret)).collect::<Result<_, _>>()?;
        let client = http::client(KIND, Duration::from_secs(config.timeout_seconds))?;
        Ok(Self { config, keys, client })
    }
}

fn key(field: &'static str, secret: &Secret) -> Result<SecretSlice<u8>, ConfigError> {
    let text = http::secret(KIND, field, secret)?;
    let bytes = text.expose_secret().trim().strip_prefix(SECRET_PREFIX).and_then(|text| BASE64.decode(text).ok());
    let bytes = bytes.filter(|bytes| SECRET_BYTES.contains(&bytes.len()));
    bytes.map(SecretSlice::from).ok_or_else(|| {
        wrong(field, "must be `whsec_` and 24 to 64 bytes in base64: `echo whsec_$(openssl rand -base64 32)` makes one")
    })
}

fn now() -> Timestamp {
    let passed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX))
}

#[async_trait]
impl Sink for WebhookSink {
    fn channel(&self) -> Channel {
        Channel::Webhook
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let request = self.config.request(message, now())?;
        let signature = sign(&self.keys, &request);
        let call = self
            .client
            .post(&self.config.url)
            .header("Content-Type", "application/json")
            .header("webhook-id", request.id)
            .header("webhook-timestamp", request.timestamp)
            .header("webhook-signature", signature)
            .body(request.body);
        let Answer { status, retry_after, .. } = http::call(call, http::MAX_ANSWER).await?;
        classify(status, retry_after)
    }

    /// Whether somebody answers; receivers need not know how to answer anything but a webhook.
    async fn check(&self) -> Result<(), SendError> {
        let call = http::call(self.client.head(&self.config.url), http::MAX_ANSWER);
        let answer = call.await.map_err(http::of_question)?;
        match classify(answer.status, answer.retry_after) {
            Err(error) if error.kind != ErrorKind::Rejected => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::test_support::message;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn config() -> Config {
        serde_json::from_value(json!({"url": "https://crm.example/in", "secret": {"env": "X"}})).unwrap()
    }

    fn json(body: &str) -> Message {
        message("crm-7", Content::Json { body: body.into() })
    }

    fn keys(secrets: &[&str]) -> Vec<SecretSlice<u8>> {
        secrets.iter().map(|text| BASE64.decode(&text[SECRET_PREFIX.len()..]).unwrap().into()).collect()
    }

    #[test]
    fn a_request_to_the_letter() {
        let request = config().request(&json(r#"{"b": 1.50, "a": "ö"}"#), Timestamp(1_674_087_231_500)).unwrap();
        assert_eq!(
            request.body,
            r#"{"type":"order.shipped","timestamp":"2023-01-19T00:13:51.5Z","to":"crm-7","data":{"b": 1.50, "a": "ö"}}"#
        );
        assert_eq!((request.timestamp, request.id), (1_674_087_231, json("").delivery.to_string()));
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried() {
        for message in
            [json(""), json("{"), json("jane@example.com"), message("x", Content::Text { body: "{}".into() })]
        {
            let error = config().request(&message, Timestamp(0)).unwrap_err();
            assert_eq!(error.kind, Rejected);
            assert!(!error.detail.contains("jane"));
        }
    }

    #[test]
    fn every_code_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<u32>(include_str!("webhook.codes.csv")) {
            let error = classify(u16::try_from(code).unwrap(), None).unwrap_err();
            assert_eq!((error.kind, error.detail), (kind, format!("HTTP {code}: {name}")));
        }
    }

    /// From the tests of the standard's own libraries (`libraries/rust/src/lib.rs`, `libraries/python/tests/test_webhooks.py`).
    #[test]
    fn the_published_signatures() {
        for (secret, id, timestamp, body, expected) in [
            (
                "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
                "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
                1_649_367_553,
                r#"{"email":"test@example.com","username":"test_user"}"#,
                "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            ),
            (
                "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
                "msg_p5jXN8AQM9LWM0D4loKWxJek",
                1_614_265_330,
                r#"{"test": 2432232314}"#,
                "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
            ),
        ] {
            let request = Request { id: id.into(), timestamp, body: body.into() };
            assert_eq!(sign(&keys(&[secret]), &request), expected);
            let both = sign(&keys(&[secret, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx"]), &request);
            let (first, second) = both.split_once(' ').unwrap();
            assert_eq!(first, expected);
            assert!(second.starts_with("v1,") && second != expected);
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = Some(Duration::from_secs(7));
        for (status, retry_after, kind, after) in [
            (410, None, Unauthorized, None),
            (301, None, Unauthorized, None),
            (429, None, Throttled, None),
            (429, wait, Throttled, wait),
            (503, wait, Throttled, wait),
            (503, None, Transient, None),
            (502, wait, Transient, None),
            (504, None, Transient, None),
            (500, None, Transient, None),
            (408, None, Transient, None),
            (400, None, Rejected, None),
            (401, None, Rejected, None),
            (404, None, Rejected, None),
            (422, wait, Rejected, None),
        ] {
            let error = classify(status, retry_after).unwrap_err();
            assert_eq!((error.kind, error.after), (kind, after), "{status}");
        }
        for status in [200, 202, 204] {
            assert_eq!(classify(status, None), Ok(Accepted { provider_id: None, ..Accepted::default() }));
        }
    }

    #[test]
    fn secrets_are_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        for (text, good) in [
            ("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n", true),
            ("C2FVsBQIhrscChlQIMV+b5sSYspob7oD", false),
            ("whsec_AAAA", false),
            ("whsec_!", false),
        ] {
            std::fs::write(&file, text).unwrap();
            let outcome = key("secret", &Secret::File(file.clone()));
            assert_eq!(outcome.is_ok(), good, "{text}");
            assert!(!format!("{outcome:?}").contains("C2FV"));
        }
    }

    proptest! {
        #[test]
        fn any_document_arrives_as_it_is(body in any::<String>(), to in any::<String>()) {
            let data = json!({"text": body});
            let message = Message { to: to.clone(), ..json(&data.to_string()) };
            let sent: Value = serde_json::from_str(&config().request(&message, Timestamp(0)).unwrap().body).unwrap();
            prop_assert_eq!((&sent["data"], sent["to"].as_str()), (&data, Some(to.as_str())));
            config().request(&json(&body), Timestamp(0)).ok();
        }

        #[test]
        fn no_answer_makes_us_panic(status in any::<u16>()) {
            classify(status, None).ok();
        }
    }
}
