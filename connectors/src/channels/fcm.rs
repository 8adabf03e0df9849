//! Notifications of apps by Firebase Cloud Messaging, HTTP v1: `Config`, the pure [`Config::request`] and [`classify`], and the thin
//! call with its access token. Receipts come from the app, not from here. Source: <https://firebase.google.com/docs/reference/fcm/rest/v1>.

use super::{
    Accepted, ConfigError, Content, Message, Push, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    signing::{rs256, unix_seconds},
    without_addresses,
};
use crate::secret::Secret;
use async_trait::async_trait;
use bellwether_schemas::{
    Channel, Lane,
    records::ErrorKind::{self, InvalidAddress, Rejected, Throttled, Transient, Unauthorized},
};
use openssl::pkey::{PKey, Private};
use reqwest::Client;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{
    fmt,
    sync::LazyLock,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// Connector's name in definitions.
pub const KIND: &str = "fcm";
/// What the address of an app begins with.
pub const PREFIX: &str = "fcm:";
/// Longest notification and data together, in bytes.
const MAX_PAYLOAD: usize = 4096;
/// Longest that FCM keeps a message: 28 days.
const MAX_TTL: Duration = Duration::from_secs(28 * 24 * 3600);
/// Characters of a Firebase installation id: 17 bytes in base64url, cut.
const INSTALLATION_ID: usize = 22;
/// What the access token is good for.
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// How long our signed request for an access token holds; at most an hour.
const GRANT_LIFE: u64 = 3600;
/// An access token is renewed this long before its end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// Keys of data that FCM keeps for itself, and what such keys begin with.
/// Source: <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>, `data`.
const RESERVED: (&[&str], &[&str]) = (&["from", "message_type", "collapse_key"], &["google.", "gcm."]);

/// What FCM's error codes mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line<&str>>> = LazyLock::new(|| codes::parse(include_str!("fcm.codes.csv")));

/// Settings of an FCM provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service account's JSON file is to be had: its content, not its path.
    pub service_account: Secret,
    /// Firebase project; absent means the service account's own.
    #[serde(default)]
    pub project_id: Option<String>,
    /// FCM, or a counterpart in tests.
    #[serde(default = "default_base_url")]
    pub base_url: String,
    /// Where access tokens are had; absent means where the service account says.
    #[serde(default)]
    pub token_uri: Option<String>,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_base_url() -> String {
    "https://fcm.googleapis.com".into()
}

const fn default_timeout() -> u64 {
    10
}

fn wrong(field: &'static str, problem: impl Into<String>) -> ConfigError {
    http::wrong(KIND, field, problem)
}

fn is_project(text: &str) -> bool {
    // An organisation's projects may have its domain before a colon.
    !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | ':' | '.'))
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.project_id.as_deref().is_some_and(|id| !is_project(id)) {
            return Err(wrong("project_id", "must be a project's id: copy it from Firebase's project settings"));
        }
        http::url(KIND, "base_url", &self.base_url)?;
        if let Some(uri) = &self.token_uri {
            http::url(KIND, "token_uri", uri)?;
        }
        http::timeout(KIND, self.timeout_seconds)
    }

    /// The body of the call for one message.
    ///
    /// # Errors
    /// An address that is none of FCM: [`ErrorKind::InvalidAddress`]. Content of another channel, empty, too long or with a key that
    /// FCM keeps for itself: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message) -> Result<Value, SendError> {
        let Content::Push(push) = &message.content else {
            return Err(SendError::new(Rejected, "content is no push: give the template an `app_push` variant"));
        };
        let (target, token) = target(&message.to)?;
        let mut notification = json!({"title": push.title, "body": push.body});
        if let Some(image) = &push.image {
            notification["image"] = json!(image);
        }
        let data = data(push)?;
        let size = notification.to_string().len() + data.to_string().len();
        if size > MAX_PAYLOAD {
            let words = format!("push has {size} bytes, more than {MAX_PAYLOAD}: shorten its body or data");
            return Err(SendError::new(Rejected, words));
        }
        // No collapse key: FCM keeps four of a device's at a time and drops others without a word, so one a delivery would lose messages.
        // The tag does what we want of it: two tries of one delivery are shown once.
        let mut android = json!({
            "priority": match message.lane { Lane::Transactional => "HIGH", Lane::Bulk => "NORMAL" },
            "notification": {"tag": message.delivery.to_string()},
        });
        if let Some(ttl) = message.ttl {
            android["ttl"] = json!(format!("{}s", ttl.min(MAX_TTL).as_secs()));
        }
        Ok(json!({"message": {target: token, "notification": notification, "data": data, "android": android}}))
    }
}

/// The field that names the app, and its value. Firebase replaces registration tokens by installation ids; the two cannot be mistaken
/// for each other, because a token is far longer.
fn target(address: &str) -> Result<(&'static str, &str), SendError> {
    let token = address.strip_prefix(PREFIX).unwrap_or_default();
    let is_word = token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | ':'));
    match token.len() {
        INSTALLATION_ID if is_word => Ok(("fid", token)),
        1..=4096 if is_word => Ok(("token", token)),
        _ => Err(SendError::new(InvalidAddress, "address is no app of Firebase: it must be `fcm:` and a token")),
    }
}

/// What the app gets beside the notification: the message's data and, for its receipts and clicks, ours.
fn data(push: &Push) -> Result<Value, SendError> {
    if push.title.trim().is_empty() && push.body.trim().is_empty() {
        return Err(SendError::new(Rejected, "push has neither title nor body"));
    }
    let (words, beginnings) = RESERVED;
    let is_reserved = |key: &str| words.contains(&key) || beginnings.iter().any(|start| key.starts_with(start));
    if let Some(key) = push.data.keys().find(|key| is_reserved(key)) {
        return Err(SendError::new(Rejected, format!("data key `{key}` is reserved by FCM: rename it")));
    }
    let mut data = push.data.clone();
    let ours = [("delivered_url", &push.delivered_url), ("clicked_url", &push.clicked_url)];
    for (key, value) in [("url", &push.url), ("icon", &push.icon)].into_iter().chain(ours) {
        if let Some(value) = value {
            data.insert(key.into(), value.clone());
        }
    }
    Ok(json!(data))
}

#[derive(Deserialize)]
struct Taken {
    name: String,
}

#[derive(Deserialize)]
struct Failure {
    error: Status,
}

/// `google.rpc.Status` as Google's HTTP APIs write it.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    details: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default, rename = "errorCode")]
    error_code: Option<String>,
    #[serde(default, rename = "fieldViolations")]
    field_violations: Vec<Violation>,
}

#[derive(Deserialize)]
struct Violation {
    #[serde(default)]
    field: String,
}

impl Status {
    /// FCM's own code, else the general one.
    fn code(&self) -> &str {
        self.details.iter().find_map(|detail| detail.error_code.as_deref()).unwrap_or(&self.status)
    }

    /// Whether the token is what is invalid. FCM names the field; of a token that is none of its kind it names nothing, and says only
    /// this sentence (example 2 of <https://firebase.google.com/docs/cloud-messaging/error-codes>).
    fn is_about_token(&self) -> bool {
        let mut fields = self.details.iter().flat_map(|detail| &detail.field_violations).peekable();
        if fields.peek().is_some() {
            return fields.any(|violation| matches!(violation.field.as_str(), "message.token" | "message.fid"));
        }
        self.message.trim_end_matches('.') == "The registration token is not a valid FCM registration token"
    }
}

/// What an answer means: HTTP status, the wait of a `Retry-After` header, body.
///
/// # Errors
/// See [`SendError`]. A success whose body names no message is [`ErrorKind::Ambiguous`]: it may come from a proxy in between.
pub fn classify(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Accepted, SendError> {
    if (200..300).contains(&status) {
        return match serde_json::from_slice::<Taken>(body) {
            Ok(Taken { name }) if !name.is_empty() => Ok(Accepted { provider_id: Some(name), ..Accepted::default() }),
            _ => Err(SendError::new(ErrorKind::Ambiguous, format!("HTTP {status} without the message's `name`"))),
        };
    }
    // The body of a gateway may be HTML.
    let failure = serde_json::from_slice::<Failure>(body).ok().map(|failure| failure.error);
    let known = failure.as_ref().and_then(|failure| codes::find(&CODES, failure.code()));
    let (kind, detail) = match (&failure, known) {
        (Some(failure), Some(Line { code: "INVALID_ARGUMENT", .. })) if failure.is_about_token() => {
            (InvalidAddress, "INVALID_ARGUMENT: the token is none of FCM's".to_owned())
        }
        // Its name says nothing.
        (Some(failure), Some(Line { code: "INVALID_ARGUMENT", kind, .. })) => {
            (*kind, format!("INVALID_ARGUMENT: {}", without_addresses(&failure.message)))
        }
        (_, Some(Line { code, kind, name, .. })) => (*kind, format!("{code}: {name}")),
        _ => (by_status(status), format!("HTTP {status} without an error code that we know")),
    };
    let retry_after = retry_after.or(known.and_then(|line| line.wait));
    Err(SendError { after: retry_after.filter(|_| kind == Throttled), ..SendError::new(kind, detail) })
}

fn by_status(status: u16) -> ErrorKind {
    match status {
        429 => Throttled,
        408 | 500.. => Transient,
        300..=399 | 401 | 403..=405 => Unauthorized,
        _ => Rejected,
    }
}

/// What we read of a service account's JSON file.
#[derive(Deserialize)]
struct ServiceAccount {
    project_id: Option<String>,
    client_email: String,
    private_key: SecretString,
    private_key_id: Option<String>,
    token_uri: String,
}

/// Who we are to Google, and how an access token is asked for (RFC 7523).
struct Account {
    email: String,
    key: PKey<Private>,
    key_id: Option<String>,
    token_uri: String,
}

impl Account {
    /// Our signed request.
    fn grant(&self, now: u64) -> Result<String, openssl::error::ErrorStack> {
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({
            "iss": self.email, "scope": SCOPE, "aud": self.token_uri, "iat": now, "exp": now + GRANT_LIFE,
        });
        rs256(&self.key, &header, &claims)
    }
}

struct AccessToken {
    value: SecretString,
    until: Instant,
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: u64,
}

/// What the answer to a grant means. Nothing has been sent yet, so nothing here is ambiguous.
fn granted(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<(SecretString, Duration), SendError> {
    if (200..300).contains(&status) {
        let Granted { access_token, expires_in } = serde_json::from_slice(body)
            .map_err(|_| SendError::new(Transient, format!("HTTP {status} without an access token")))?;
        return Ok((access_token, Duration::from_secs(expires_in)));
    }
    let kind = match status {
        429 => Throttled,
        408 | 500.. => Transient,
        _ => Unauthorized,
    };
    // RFC 6749 section 5.2: `invalid_grant` and such.
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let words = without_addresses(body["error"].as_str().unwrap_or("no access token"));
    let after = retry_after.filter(|_| kind == Throttled);
    Err(SendError { after, ..SendError::new(kind, format!("HTTP {status} for an access token: {words}")) })
}

/// A Firebase project to send by.
pub struct FcmSink {
    config: Config,
    url: String,
    account: Account,
    /// Whoever renews it holds it, and the others wait.
    token: Mutex<Option<AccessToken>>,
    client: Client,
}

impl fmt::Debug for FcmSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FcmSink").field("url", &self.url).finish_non_exhaustive()
    }
}

impl FcmSink {
    /// Checks the configuration and fetches the service account.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let field = "service_account";
        let file = http::secret(KIND, field, &config.service_account)?;
        // The reader's words may hold the key.
        let file: ServiceAccount = serde_json::from_str(file.expose_secret())
            .map_err(|_| wrong(field, "must be a service account's JSON file as Google Cloud's console gives it"))?;
        let key = PKey::private_key_from_pem(file.private_key.expose_secret().as_bytes());
        let key = key.ok().filter(|key| key.rsa().is_ok());
        let key = key.ok_or_else(|| wrong(field, "has no RSA key in PEM as its `private_key`"))?;
        let token_uri = config.token_uri.clone().unwrap_or(file.token_uri);
        http::url(KIND, "token_uri", &token_uri)?;
        let project = config.project_id.clone().or(file.project_id).filter(|id| is_project(id));
        let project = project.ok_or_else(|| wrong("project_id", "is not in the service account: give it"))?;
        let url = format!("{}/v1/projects/{project}/messages:send", config.base_url.trim_end_matches('/'));
        let client = http::client(KIND, Duration::from_secs(config.timeout_seconds))?;
        let account = Account { email: file.client_email, key, key_id: file.private_key_id, token_uri };
        Ok(Self { config, url, account, token: Mutex::default(), client })
    }

    /// The access token; a new one where it ends soon, or where it is the one that was refused.
    async fn token(&self, refused: Option<&SecretString>) -> Result<SecretString, SendError> {
        let mut token = self.token.lock().await;
        let is_refused = |value: &SecretString| refused.is_some_and(|r| r.expose_secret() == value.expose_secret());
        if let Some(AccessToken { value, .. }) =
            token.as_ref().filter(|token| token.until > Instant::now() && !is_refused(&token.value))
        {
            return Ok(value.clone());
        }
        let grant = self.account.grant(unix_seconds());
        let grant = grant.map_err(|error| SendError::new(Transient, format!("OpenSSL: {error}")))?;
        let form = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", &grant)];
        let request = self.client.post(&self.account.token_uri).form(&form);
        let answer = http::call(request, http::MAX_ANSWER).await.map_err(http::of_question)?;
        let Answer { status, retry_after, body, .. } = answer;
        let (value, life) = granted(status, retry_after, &body)?;
        // One that ends within minutes is used for half of its life, not asked for with every message.
        let until = Instant::now() + life.saturating_sub(RENEW_BEFORE).max(life / 2);
        *token = Some(AccessToken { value: value.clone(), until });
        Ok(value)
    }

    async fn try_send(&self, body: &Value, token: &SecretString) -> Result<Answer, SendError> {
        let request = self.client.post(&self.url).bearer_auth(token.expose_secret()).json(body);
        http::call(request, http::MAX_ANSWER).await
    }
}

#[async_trait]
impl Sink for FcmSink {
    fn channel(&self) -> Channel {
        Channel::AppPush
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let body = self.config.request(message)?;
        let token = self.token(None).await?;
        let mut answer = self.try_send(&body, &token).await?;
        // It may have been withdrawn before its time; FCM has not taken the message.
        if answer.status == 401 {
            let token = self.token(Some(&token)).await?;
            answer = self.try_send(&body, &token).await?;
        }
        classify(answer.status, answer.retry_after, &answer.body)
    }

    async fn check(&self) -> Result<(), SendError> {
        self.token(None).await.map(drop)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{super::signing::tests::verify_rs256, *};
    use crate::channels::test_support::message;
    use openssl::rsa::Rsa;
    use proptest::prelude::*;

    const TOKEN: &str = "fcm:bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1";

    fn config(change: Value) -> Config {
        let mut all = json!({"service_account": {"env": "X"}});
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
        let message = Message { ttl: Some(Duration::from_millis(3_500)), lane: Lane::Transactional, ..to(TOKEN, all) };
        let tag = message.delivery.to_string();
        assert_eq!(
            config(json!({})).request(&message).unwrap(),
            json!({"message": {
                "token": "bk3RNwTe3H0:CI2k_HHwgIpoDKCIZvvDMExUdFQ3P1",
                "notification": {"title": "Shipped", "body": "On its way", "image": "https://l.example/b.png"},
                "data": {"order": "7", "url": "https://l.example/1", "icon": "https://l.example/i.png",
                    "delivered_url": "https://l.example/d", "clicked_url": "https://l.example/c"},
                "android": {"priority": "HIGH", "ttl": "3s", "notification": {"tag": tag}},
            }})
        );
        let long = Message { ttl: Some(Duration::from_secs(9_999_999)), ..to("fcm:cXyZ0123456789-_abcdef", push()) };
        assert_eq!(
            config(json!({})).request(&long).unwrap(),
            json!({"message": {
                "fid": "cXyZ0123456789-_abcdef", "notification": {"title": "Shipped", "body": "On its way"}, "data": {},
                "android": {"priority": "NORMAL", "ttl": "2419200s", "notification": {"tag": tag}},
            }})
        );
        assert_eq!(config(json!({})).request(&to(TOKEN, push())).unwrap()["message"]["android"]["ttl"], Value::Null);
    }

    #[test]
    fn what_cannot_be_sent_is_not_tried() {
        let data = |key: &str| Push { data: [(key.to_owned(), "x".to_owned())].into(), ..push() };
        let long = |n| Push { body: "x".repeat(n), ..push() };
        let room = MAX_PAYLOAD - r#"{"title":"Shipped","body":""}{}"#.len();
        assert!(config(json!({})).request(&to(TOKEN, long(room))).is_ok());
        assert!(config(json!({})).request(&to(TOKEN, data("from_shop"))).is_ok());
        for (message, kind) in [
            (to(TOKEN, long(room + 1)), Rejected),
            (to(TOKEN, Push::default()), Rejected),
            (to(TOKEN, data("from")), Rejected),
            (to(TOKEN, data("google.x")), Rejected),
            (to(TOKEN, data("gcm.x")), Rejected),
            (message(TOKEN, Content::Text { body: "x".into() }), Rejected),
            (to("apns:abc", push()), InvalidAddress),
            (to("fcm:", push()), InvalidAddress),
            (to("fcm:a b", push()), InvalidAddress),
            (to("jane@example.com", push()), InvalidAddress),
        ] {
            let error = config(json!({})).request(&message).unwrap_err();
            assert_eq!(error.kind, kind, "{error}");
            assert!(!error.detail.contains("jane"));
        }
    }

    #[test]
    fn every_code_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<&str>(include_str!("fcm.codes.csv")) {
            let detail = json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}]);
            for error in [
                json!({"code": 400, "message": "words", "status": "NOT_FOUND", "details": detail}),
                json!({"code": 400, "message": "words", "status": code}),
            ] {
                let error = classify(400, None, json!({"error": error}).to_string().as_bytes()).unwrap_err();
                let words = if code == "INVALID_ARGUMENT" { "words" } else { name };
                assert_eq!((error.kind, error.detail), (kind, format!("{code}: {words}")));
            }
        }
        for (code, kind) in [
            ("UNREGISTERED", InvalidAddress),
            ("SENDER_ID_MISMATCH", InvalidAddress),
            ("THIRD_PARTY_AUTH_ERROR", Unauthorized),
            ("QUOTA_EXCEEDED", Throttled),
            ("UNAVAILABLE", Transient),
            ("INTERNAL", Transient),
        ] {
            assert_eq!(codes::find(&CODES, code).unwrap().kind, kind, "{code}");
        }
    }

    /// The first two are the examples of <https://firebase.google.com/docs/cloud-messaging/error-codes>.
    #[test]
    fn an_invalid_argument_costs_the_address_only_where_it_is_the_address() {
        let fields = |field: &str| {
            json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": "INVALID_ARGUMENT"},
                {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{"field": field, "description": "d"}]}])
        };
        let sentence = "The registration token is not a valid FCM registration token";
        for (message, details, kind) in [
            ("Invalid value at 'message.data[0].value' (TYPE_STRING), 12", fields("message.data[0].value"), Rejected),
            (sentence, json!([{"errorCode": "INVALID_ARGUMENT"}]), InvalidAddress),
            (sentence, fields("message.token"), InvalidAddress),
            ("Invalid installation id", fields("message.fid"), InvalidAddress),
            (sentence, fields("message.android.ttl"), Rejected),
            ("Android message is too big", json!([]), Rejected),
        ] {
            let error =
                json!({"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT", "details": details}});
            assert_eq!(classify(400, None, error.to_string().as_bytes()).unwrap_err().kind, kind, "{error}");
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = Some(Duration::from_secs(7));
        for (status, body, kind, after) in [
            (
                429,
                r#"{"error":{"status":"RESOURCE_EXHAUSTED","details":[{"errorCode":"QUOTA_EXCEEDED"}]}}"#,
                Throttled,
                wait,
            ),
            (429, "", Throttled, wait),
            (502, "<html><title>Error 502 (Server Error)!!1</title>", Transient, None),
            (503, r#"{"error":{"code":503,"status":"UNAVAILABLE"}}"#, Transient, None),
            (401, r#"{"error":{"code":401,"status":"UNAUTHENTICATED"}}"#, Unauthorized, None),
            (403, r#"{"error":{"code":403,"status":"PERMISSION_DENIED"}}"#, Unauthorized, None),
            (404, r#"{"error":{"code":404,"status":"NOT_FOUND"}}"#, Unauthorized, None),
            (404, "{}", Unauthorized, None),
            (400, "[]", Rejected, None),
            (301, "", Unauthorized, None),
            (200, "{}", ErrorKind::Ambiguous, None),
            (200, "<html>welcome to the hotel</html>", ErrorKind::Ambiguous, None),
        ] {
            let error = classify(status, wait, body.as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.after), (kind, after), "{status} {body}");
        }
        let name = "projects/shop/messages/0:1500415314455276%31bd1c9631bd1c96";
        let taken = classify(200, None, json!({"name": name}).to_string().as_bytes()).unwrap();
        assert_eq!(taken.provider_id.as_deref(), Some(name));
    }

    #[test]
    fn a_grant_is_signed_and_its_answer_read() {
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        let account = Account {
            email: "push@shop.iam.gserviceaccount.com".into(),
            key: key.clone(),
            key_id: Some("k1".into()),
            token_uri: "https://oauth2.googleapis.com/token".into(),
        };
        let (header, claims) = verify_rs256(&key, &account.grant(1_000).unwrap());
        assert_eq!(header, json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
        assert_eq!(
            claims,
            json!({"iss": "push@shop.iam.gserviceaccount.com", "aud": "https://oauth2.googleapis.com/token",
                "scope": "https://www.googleapis.com/auth/firebase.messaging", "iat": 1_000, "exp": 4_600})
        );
        let (token, life) =
            granted(200, None, br#"{"access_token":"t","expires_in":3599,"token_type":"Bearer"}"#).unwrap();
        assert_eq!((token.expose_secret(), life.as_secs()), ("t", 3599));
        for (status, body, kind) in [
            (400, r#"{"error":"invalid_grant","error_description":"Invalid JWT Signature."}"#, Unauthorized),
            (401, "", Unauthorized),
            (429, "", Throttled),
            (500, "", Transient),
            (200, "{}", Transient),
        ] {
            assert_eq!(granted(status, None, body.as_bytes()).unwrap_err().kind, kind, "{status}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(status in any::<u16>(), body in prop::collection::vec(any::<u8>(), 0..200), words in any::<String>()) {
            classify(status, None, &body).ok();
            granted(status, None, &body).ok();
            let error = json!({"error": {"status": words, "message": words, "details": [{"errorCode": words}]}});
            classify(status, None, error.to_string().as_bytes()).ok();
        }

        #[test]
        fn nor_an_odd_address(to in any::<String>()) {
            target(&to).ok();
            target(&format!("{PREFIX}{to}")).ok();
        }
    }
}
