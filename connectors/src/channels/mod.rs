//! Channels: one file a provider, each with a `Config` (unknown fields refused, secrets by reference), a pure `request`, a pure
//! `classify`, and a thin call. Whether, when and to whom to send is decided elsewhere.

pub mod apns;
pub(crate) mod codes;
pub mod fcm;
mod http;
pub mod pacing;
mod public;
mod signing;
pub mod smtp;
pub mod telegram;
pub mod twilio;
pub mod web_push;
pub mod webhook;
pub mod whatsapp;

use async_trait::async_trait;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
pub use bellwether_schemas::definitions::{Attachment, Button, Media, MediaKind};
use bellwether_schemas::{Channel, DeliveryId, Lane, NotificationId, records::ErrorKind, segments::Segments};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{fmt::Debug, sync::Arc, time::Duration};

/// A rendered message on its way to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Delivery: the idempotence key and the base of the Message-ID.
    pub delivery: DeliveryId,
    /// Which try this is, from 1.
    pub attempt: i32,
    /// Address in the channel's normal form.
    pub to: String,
    /// What to say.
    pub content: Content,
    /// The lane, for channels that know urgency.
    pub lane: Lane,
    /// How long it is worth delivering, from now; `None` leaves it to the provider.
    pub ttl: Option<Duration>,
    /// Who it is about, so that a callback finds its way home without a look-up.
    pub reference: Reference,
}

/// What a provider's callback must bring back to make a receipt of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reference {
    /// Delivery.
    pub delivery: DeliveryId,
    /// Notification.
    pub notification: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// Template.
    pub template: String,
    /// Provider's name in the definitions.
    pub provider: String,
}

/// A reference that does not read back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no reference of ours ({0}): use the callback URL as it was given to the provider")]
pub struct BadReference(&'static str);

impl Reference {
    /// As one opaque word of `[A-Za-z0-9_-]`, to travel in a callback's URL. It is not secret and not signed: the provider signs the URL.
    #[must_use]
    pub fn to_token(&self) -> String {
        // A struct of texts always has a JSON form.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    /// Reads what [`Reference::to_token`] wrote.
    ///
    /// # Errors
    /// It is something else.
    pub fn from_token(token: &str) -> Result<Self, BadReference> {
        let json = URL_SAFE_NO_PAD.decode(token).map_err(|_| BadReference("not base64url"))?;
        serde_json::from_slice(&json).map_err(|_| BadReference("a field is missing or malformed"))
    }
}

/// What a message says, by the kind of channel. Everything in it is rendered: connectors escape for their wire and nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// E-mail.
    Email(Email),
    /// Plain text (SMS).
    Text {
        /// Body.
        body: String,
    },
    /// WhatsApp.
    Whatsapp(Whatsapp),
    /// A chat with formatted text (Telegram).
    Chat {
        /// Text with the few HTML tags that the channel knows.
        html: String,
        /// Links below the text, one a row.
        buttons: Vec<Button>,
    },
    /// A notification of a browser or an app.
    Push(Push),
    /// A JSON document (webhook).
    Json {
        /// The document.
        body: String,
    },
}

/// An e-mail: subject and at least one of the bodies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Email {
    /// Subject, one line.
    pub subject: String,
    /// HTML body.
    pub html: Option<String>,
    /// Text body.
    pub text: Option<String>,
    /// Files that go with it.
    pub attachments: Vec<Attachment>,
    /// Where one click unsubscribes (RFC 8058): an https URL that takes a POST.
    pub unsubscribe: Option<String>,
}

/// What may be said on WhatsApp: an approved template always, free text only within 24 hours of the member's last message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Whatsapp {
    /// An approved template with its parameters.
    Template {
        /// Name at Meta.
        name: String,
        /// Language code at Meta, such as `es_AR`.
        language: String,
        /// The media of its header, if it has one.
        header: Option<Media>,
        /// Values of the body's placeholders, in order.
        parameters: Vec<String>,
        /// Values of the placeholders of its URL buttons, by button in order; `None` for a button without one.
        buttons: Vec<Option<String>>,
    },
    /// Free text.
    Text {
        /// Body.
        body: String,
        /// The media above it, if any.
        header: Option<Media>,
        /// Quick replies (at most 3), or one link.
        buttons: Vec<Button>,
    },
}

/// A notification of a browser or an app.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Push {
    /// First line.
    pub title: String,
    /// Text.
    pub body: String,
    /// Where a click leads: our tracking link, or the bare one where nothing is tracked.
    pub url: Option<String>,
    /// Small picture, by URL.
    pub icon: Option<String>,
    /// Large picture, by URL.
    pub image: Option<String>,
    /// More for the app, as it is.
    pub data: std::collections::BTreeMap<String, String>,
    /// Where the receiver reports that it was shown (POST), if it shall.
    pub delivered_url: Option<String>,
    /// Where the receiver reports that it was clicked (POST), where `url` is no tracking link that tells it itself.
    pub clicked_url: Option<String>,
}

/// The provider took the message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accepted {
    /// The provider's own id of it.
    pub provider_id: Option<String>,
    /// The address that it went to, where the provider said that the message's has moved there: send to it from now on.
    pub moved_to: Option<String>,
    /// What a text message is billed as.
    pub segments: Option<Segments>,
}

/// The provider did not take it, or we do not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.name())]
pub struct SendError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// The provider's words: code and text, without the address.
    pub detail: String,
    /// How long the provider told us to wait.
    pub after: Option<Duration>,
    /// It is about this address alone: others may be sent to meanwhile, so it neither holds the provider's pace nor counts against it.
    pub of_address: bool,
}

impl SendError {
    /// An error without a waiting time.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), after: None, of_address: false }
    }
}

/// A provider that can be called.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    /// The channel it serves.
    fn channel(&self) -> Channel;

    /// Sends one message. Ends by itself within the provider's timeout.
    ///
    /// # Errors
    /// See [`SendError`]. A time-out or a broken connection after the message may have been taken is [`ErrorKind::Ambiguous`].
    async fn send(&self, message: &Message) -> Result<Accepted, SendError>;

    /// Reaches the provider and checks our credentials, as far as that goes without sending.
    ///
    /// # Errors
    /// What is wrong.
    async fn check(&self) -> Result<(), SendError>;
}

/// Settings of a provider that do not do.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// There is no such connector.
    #[error("unknown provider kind `{0}`: use one of {known}", known = KINDS.map(|(kind, _)| kind).join(", "))]
    Kind(String),
    /// A field is missing, unknown or has a value outside its domain.
    #[error("{kind} provider: `{field}` {problem}")]
    Field {
        /// Connector.
        kind: &'static str,
        /// Field, with a dot where it is nested.
        field: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// A secret is not to be had.
    #[error("{kind} provider: `{field}`: {source}")]
    Secret {
        /// Connector.
        kind: &'static str,
        /// Field.
        field: &'static str,
        /// Why not.
        source: crate::secret::SecretError,
    },
}

/// Every connector and its channel.
pub const KINDS: [(&str, Channel); 8] = [
    (smtp::KIND, Channel::Email),
    (twilio::KIND, Channel::Sms),
    (whatsapp::KIND, Channel::Whatsapp),
    (telegram::KIND, Channel::Telegram),
    (web_push::KIND, Channel::WebPush),
    (fcm::KIND, Channel::AppPush),
    (apns::KIND, Channel::AppPush),
    (webhook::KIND, Channel::Webhook),
];

/// The channel that a kind of provider serves; `None` for an unknown kind.
#[must_use]
pub fn channel_of(kind: &str) -> Option<Channel> {
    KINDS.into_iter().find(|(known, _)| *known == kind).map(|(_, channel)| channel)
}

/// What the addresses that a kind of provider reaches begin with: kinds that share a channel are chosen by it. Empty for all of the channel.
#[must_use]
pub fn prefix_of(kind: &str) -> &'static str {
    match kind {
        fcm::KIND => fcm::PREFIX,
        apns::KIND => apns::PREFIX,
        _ => "",
    }
}

/// What a second try comes to where the first was perhaps taken: what a provider with `on_ambiguous: resend` does then. With `hold` there is none,
/// whatever the provider: the delivery becomes a dead letter for an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondTry {
    /// The provider or device knows it by this, and the member is shown one message.
    Collapses(&'static str),
    /// It carries the same as the first, by which the receiving side may know it; not every one looks.
    Recognizable(&'static str),
    /// The member gets the message twice.
    Repeats,
}

/// What a second try by a kind of provider comes to; `None` for an unknown kind.
#[must_use]
pub fn second_try(kind: &str) -> Option<SecondTry> {
    Some(match kind {
        smtp::KIND => SecondTry::Recognizable("Message-ID"),
        twilio::KIND | whatsapp::KIND | telegram::KIND => SecondTry::Repeats,
        web_push::KIND => SecondTry::Collapses("Topic, and the notification's tag"),
        fcm::KIND => SecondTry::Collapses("android.notification.tag"),
        apns::KIND => SecondTry::Collapses("apns-collapse-id"),
        webhook::KIND => SecondTry::Collapses("webhook-id"),
        _ => return None,
    })
}

/// Checks a provider's settings without fetching secrets or touching the network.
///
/// # Errors
/// See [`ConfigError`].
pub fn validate(kind: &str, settings: &Map<String, Value>) -> Result<(), ConfigError> {
    match kind {
        smtp::KIND => read::<smtp::Config>(smtp::KIND, settings)?.validate().map(drop),
        twilio::KIND => read::<twilio::Config>(twilio::KIND, settings)?.validate(),
        whatsapp::KIND => read::<whatsapp::Config>(whatsapp::KIND, settings)?.validate(),
        telegram::KIND => read::<telegram::Config>(telegram::KIND, settings)?.validate(),
        web_push::KIND => read::<web_push::Config>(web_push::KIND, settings)?.validate(),
        fcm::KIND => read::<fcm::Config>(fcm::KIND, settings)?.validate(),
        apns::KIND => read::<apns::Config>(apns::KIND, settings)?.validate(),
        webhook::KIND => read::<webhook::Config>(webhook::KIND, settings)?.validate(),
        _ => Err(ConfigError::Kind(kind.to_owned())),
    }
}

/// Makes a provider ready to be called. Fetches its secrets; connects to nothing yet. Needs no runtime, its calls do.
///
/// # Errors
/// See [`ConfigError`].
pub fn build(kind: &str, settings: &Map<String, Value>) -> Result<Arc<dyn Sink>, ConfigError> {
    Ok(match kind {
        smtp::KIND => Arc::new(smtp::SmtpSink::new(&read(smtp::KIND, settings)?)?),
        twilio::KIND => Arc::new(twilio::TwilioSink::new(read(twilio::KIND, settings)?)?),
        whatsapp::KIND => Arc::new(whatsapp::WhatsappSink::new(read(whatsapp::KIND, settings)?)?),
        telegram::KIND => Arc::new(telegram::TelegramSink::new(read(telegram::KIND, settings)?)?),
        web_push::KIND => Arc::new(web_push::WebPushSink::new(read(web_push::KIND, settings)?)?),
        fcm::KIND => Arc::new(fcm::FcmSink::new(read(fcm::KIND, settings)?)?),
        apns::KIND => Arc::new(apns::ApnsSink::new(read(apns::KIND, settings)?)?),
        webhook::KIND => Arc::new(webhook::WebhookSink::new(read(webhook::KIND, settings)?)?),
        _ => return Err(ConfigError::Kind(kind.to_owned())),
    })
}

/// Fields that refer to a secret.
const SECRETS: [&str; 14] = [
    "password",
    "auth_token",
    "access_token",
    "app_secret",
    "verify_token",
    "bot_token",
    "webhook_secret",
    "vapid_private_key",
    "service_account",
    "key",
    "secret",
    "previous_secrets",
    "private_key",
    "return_path_key",
];

fn read<C: DeserializeOwned>(kind: &'static str, settings: &Map<String, Value>) -> Result<C, ConfigError> {
    serde_path_to_error::deserialize(Value::Object(settings.clone())).map_err(|error| {
        let field = match error.path().to_string() {
            whole if whole == "." => "settings".to_owned(),
            // Places within lists are written with dots, as everywhere in definitions.
            field => field.replace('[', ".").replace(']', ""),
        };
        // The reader's words may hold the value.
        let is_secret = field.split('.').any(|name| SECRETS.contains(&name));
        let problem = if is_secret {
            "must be `{env: NAME}` or `{file: PATH}`: never the secret itself".to_owned()
        } else {
            format!("is wrong: {}", error.into_inner())
        };
        ConfigError::Field { kind, field, problem }
    })
}

/// Longest text of a provider that goes into an error.
const MAX_WORDS: usize = 300;
/// A run of this many digits may be somebody's phone number; error codes are shorter.
const PHONE_DIGITS: usize = 7;

/// A provider's words without e-mail addresses, phone numbers and control characters, cut to a bearable length (law 8).
#[must_use]
pub fn without_addresses(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(MAX_WORDS));
    for (n, word) in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).enumerate() {
        if n > 0 {
            out.push(' ');
        }
        out.push_str(if word.contains('@') || has_phone(word) { "[address]" } else { word });
        if out.len() > MAX_WORDS {
            let cut = (0..=MAX_WORDS).rev().find(|at| out.is_char_boundary(*at)).unwrap_or(0);
            out.truncate(cut);
            out.push('…');
            break;
        }
    }
    out
}

/// Whether enough digits follow each other, punctuation between them or not.
fn has_phone(word: &str) -> bool {
    let mut run = 0;
    word.chars().any(|c| {
        run = match c {
            _ if c.is_ascii_digit() => run + 1,
            _ if c.is_alphabetic() => 0,
            _ => run,
        };
        run >= PHONE_DIGITS
    })
}

#[cfg(test)]
pub(crate) mod test_support {
    use super::*;

    /// A first try of some message on the bulk lane.
    pub(crate) fn message(to: &str, content: Content) -> Message {
        let (delivery, notification) = (DeliveryId::default(), NotificationId::default());
        let reference = Reference {
            delivery,
            notification,
            project: "shop".into(),
            member: "m1".into(),
            template: "order.shipped".into(),
            provider: "test".into(),
        };
        Message { delivery, attempt: 1, to: to.into(), content, lane: Lane::Bulk, ttl: None, reference }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn settings(value: Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    fn reference() -> Reference {
        Reference {
            delivery: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "mémber/1 & more".into(),
            template: "order.shipped".into(),
            provider: "sms".into(),
        }
    }

    #[test]
    fn good_settings_pass() {
        for (kind, value) in [
            ("smtp", json!({"host": "mx.example", "from_address": "a@b.example"})),
            (
                "smtp",
                json!({"host": "mx.example", "port": 465, "security": "implicit", "username": "u", "password": {"env": "X"},
                "from_address": "a@b.example", "from_name": "A", "reply_to": "c@b.example", "domain": "b.example",
                "timeout_seconds": 5, "pool": {"max_connections": 2}}),
            ),
            (
                "smtp",
                json!({"host": "127.0.0.1", "port": 25, "security": "none", "username": "u", "password": {"file": "/x"},
                "from_address": "a@b.example"}),
            ),
            ("twilio", json!({"account_sid": "AC1", "auth_token": {"env": "X"}, "from": "+15550001111"})),
            (
                "twilio",
                json!({"account_sid": "AC1", "auth_token": {"file": "/x"}, "messaging_service_sid": "MG1",
                "base_url": "http://127.0.0.1:1", "status_callback_url": "https://h/v1/webhooks/shop/sms", "timeout_seconds": 3}),
            ),
            (
                "twilio",
                json!({"account_sid": "AC1", "auth_token": {"env": "X"}, "senders": [{"from": "SHOP", "countries": ["ES"],
                "lanes": ["bulk"], "templates": ["tips"]}, {"messaging_service_sid": "MG1"}]}),
            ),
            ("whatsapp_cloud", json!({"phone_number_id": "1", "access_token": {"env": "X"}})),
            (
                "whatsapp_cloud",
                json!({"phone_number_id": "1", "access_token": {"env": "X"}, "waba_id": "2", "app_secret": {"env": "Y"},
                "verify_token": {"file": "/x"}, "version": "v25.0", "base_url": "http://127.0.0.1:1", "timeout_seconds": 3}),
            ),
            ("telegram", json!({"bot_token": {"env": "X"}})),
            ("telegram", json!({"bot_token": {"env": "X"}, "updates": "poll"})),
            (
                "telegram",
                json!({"bot_token": {"file": "/x"}, "webhook_secret": {"env": "Y"}, "base_url": "http://127.0.0.1:1",
                "timeout_seconds": 3}),
            ),
            ("web_push", json!({"vapid_private_key": {"env": "X"}, "subject": "mailto:a@b.example"})),
            (
                "web_push",
                json!({"vapid_private_key": {"file": "/x"}, "subject": "https://b.example", "max_ttl_seconds": 0,
                "push_services": ["push.example"], "allow_private_endpoints": true, "timeout_seconds": 3}),
            ),
            ("fcm", json!({"service_account": {"env": "X"}})),
            (
                "fcm",
                json!({"service_account": {"file": "/x"}, "project_id": "example.com:shop-1", "base_url": "http://127.0.0.1:1",
                "token_uri": "http://127.0.0.1:1/token", "timeout_seconds": 3}),
            ),
            (
                "apns",
                json!({"key": {"env": "X"}, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop"}),
            ),
            (
                "apns",
                json!({"key": {"file": "/x"}, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop-2",
                "base_url": "https://api.sandbox.push.apple.com", "timeout_seconds": 3}),
            ),
            ("webhook", json!({"url": "https://crm.example/in", "secret": {"env": "X"}})),
            (
                "webhook",
                json!({"url": "http://127.0.0.1:1/", "secret": {"file": "/x"}, "previous_secrets": [{"env": "Y"}], "timeout_seconds": 3}),
            ),
        ] {
            validate(kind, &settings(value)).unwrap();
        }
    }

    #[test]
    fn bad_settings_name_the_field() {
        let smtp = json!({"host": "mx.example", "from_address": "a@b.example"});
        let twilio = json!({"account_sid": "AC1", "auth_token": {"env": "X"}, "from": "+15550001111"});
        let whatsapp = json!({"phone_number_id": "1", "access_token": {"env": "X"}});
        let telegram = json!({"bot_token": {"env": "X"}});
        let web_push = json!({"vapid_private_key": {"env": "X"}, "subject": "mailto:a@b.example"});
        let fcm = json!({"service_account": {"env": "X"}});
        let apns =
            json!({"key": {"env": "X"}, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop"});
        let webhook = json!({"url": "https://crm.example/in", "secret": {"env": "X"}});
        for (kind, base, change, field) in [
            ("whatsapp_cloud", &whatsapp, json!({"phone_number_id": "../me"}), "phone_number_id"),
            ("whatsapp_cloud", &whatsapp, json!({"waba_id": ""}), "waba_id"),
            ("whatsapp_cloud", &whatsapp, json!({"access_token": "S3cret"}), "access_token"),
            ("whatsapp_cloud", &whatsapp, json!({"app_secret": "S3cret"}), "app_secret"),
            ("whatsapp_cloud", &whatsapp, json!({"verify_token": "S3cret"}), "verify_token"),
            ("whatsapp_cloud", &whatsapp, json!({"version": "25"}), "version"),
            ("whatsapp_cloud", &whatsapp, json!({"version": "v25.0/x"}), "version"),
            ("whatsapp_cloud", &whatsapp, json!({"base_url": "x"}), "base_url"),
            ("whatsapp_cloud", &whatsapp, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("whatsapp_cloud", &whatsapp, json!({"from": "x"}), "from"),
            ("telegram", &telegram, json!({"bot_token": "S3cret"}), "bot_token"),
            ("telegram", &telegram, json!({"webhook_secret": "S3cret"}), "webhook_secret"),
            ("telegram", &telegram, json!({"updates": "push"}), "updates"),
            ("telegram", &telegram, json!({"updates": "poll", "webhook_secret": {"env": "Y"}}), "webhook_secret"),
            ("telegram", &telegram, json!({"base_url": "x"}), "base_url"),
            ("telegram", &telegram, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("telegram", &telegram, json!({"token": "x"}), "token"),
            ("web_push", &web_push, json!({"vapid_private_key": "S3cret"}), "vapid_private_key"),
            ("web_push", &web_push, json!({"subject": "a@b.example"}), "subject"),
            ("web_push", &web_push, json!({"subject": "mailto:"}), "subject"),
            ("web_push", &web_push, json!({"max_ttl_seconds": 2_419_201}), "max_ttl_seconds"),
            ("web_push", &web_push, json!({"push_services": ["https://x/"]}), "push_services"),
            ("web_push", &web_push, json!({"allow_private_endpoints": "yes"}), "allow_private_endpoints"),
            ("web_push", &web_push, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("web_push", &web_push, json!({"ttl": 1}), "ttl"),
            ("fcm", &fcm, json!({"service_account": {"private_key": "S3cret"}}), "service_account"),
            ("fcm", &fcm, json!({"project_id": "a/b"}), "project_id"),
            ("fcm", &fcm, json!({"base_url": "x"}), "base_url"),
            ("fcm", &fcm, json!({"token_uri": "x"}), "token_uri"),
            ("fcm", &fcm, json!({"timeout_seconds": 601}), "timeout_seconds"),
            ("fcm", &fcm, json!({"server_key": "x"}), "server_key"),
            ("apns", &apns, json!({"key": "S3cret"}), "key"),
            ("apns", &apns, json!({"key_id": "ABC"}), "key_id"),
            ("apns", &apns, json!({"team_id": "DEF123GHI/"}), "team_id"),
            ("apns", &apns, json!({"topic": ""}), "topic"),
            ("apns", &apns, json!({"base_url": "x"}), "base_url"),
            ("apns", &apns, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("apns", &apns, json!({"sandbox": true}), "sandbox"),
            ("webhook", &webhook, json!({"url": "x"}), "url"),
            ("webhook", &webhook, json!({"secret": "S3cret"}), "secret"),
            ("webhook", &webhook, json!({"previous_secrets": ["S3cret"]}), "previous_secrets"),
            ("webhook", &webhook, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("webhook", &webhook, json!({"method": "PUT"}), "method"),
            ("smtp", &smtp, json!({"hots": "x"}), "hots"),
            ("smtp", &smtp, json!({"port": "25"}), "port"),
            ("smtp", &smtp, json!({"port": 0}), "port"),
            ("smtp", &smtp, json!({"host": ""}), "host"),
            ("smtp", &smtp, json!({"security": "ssl"}), "security"),
            ("smtp", &smtp, json!({"username": "u"}), "password"),
            ("smtp", &smtp, json!({"username": "u", "password": "S3cret"}), "password"),
            ("smtp", &smtp, json!({"username": "u", "password": {"env": "X"}, "security": "none"}), "security"),
            ("smtp", &smtp, json!({"timeout_seconds": 0}), "timeout_seconds"),
            ("smtp", &smtp, json!({"pool": {"max_connections": 0}}), "pool.max_connections"),
            ("smtp", &smtp, json!({"pool": {"size": 3}}), "pool.size"),
            ("smtp", &smtp, json!({"from_address": "x"}), "from_address"),
            ("twilio", &twilio, json!({"auth_token": {"env": ["S3cret"]}}), "auth_token"),
            ("twilio", &twilio, json!({"account_sid": "XX"}), "account_sid"),
            ("twilio", &twilio, json!({"account_sid": "AC1/../AC2"}), "account_sid"),
            ("twilio", &twilio, json!({"messaging_service_sid": "MG1"}), "from"),
            ("twilio", &twilio, json!({"from": null}), "from"),
            ("twilio", &twilio, json!({"senders": [{"from": "+1"}]}), "senders"),
            ("twilio", &twilio, json!({"from": null, "senders": [{"from": "+1"}, {"from": "+2"}]}), "senders.1"),
            (
                "twilio",
                &twilio,
                json!({"from": null, "senders": [{"from": "+1", "countries": ["XY"]}]}),
                "senders.0.countries",
            ),
            (
                "twilio",
                &twilio,
                json!({"from": null, "senders": [{"from": "+1", "lanes": ["slow"]}]}),
                "senders.0.lanes.0",
            ),
            ("twilio", &twilio, json!({"base_url": "ftp://x"}), "base_url"),
            ("twilio", &twilio, json!({"status_callback_url": "/v1"}), "status_callback_url"),
            ("twilio", &twilio, json!({"timeout_seconds": 9999}), "timeout_seconds"),
            ("twilio", &twilio, json!({"rate": 5}), "rate"),
        ] {
            let mut all = settings(base.clone());
            all.extend(settings(change.clone()));
            let words = validate(kind, &all).unwrap_err().to_string();
            assert!(words.starts_with(&format!("{kind} provider: `{field}")), "{change}: {words}");
            assert!(!words.contains("S3cret"), "a secret in {words}");
        }
        let words = validate("smtp", &Map::new()).unwrap_err().to_string();
        assert!(words.contains("missing field `host`"), "{words}");
    }

    #[test]
    fn kinds_and_secrets() {
        assert_eq!(channel_of("smtp"), Some(Channel::Email));
        assert_eq!(channel_of("twilio"), Some(Channel::Sms));
        assert_eq!(channel_of("whatsapp_cloud"), Some(Channel::Whatsapp));
        assert_eq!(channel_of("telegram"), Some(Channel::Telegram));
        assert_eq!(channel_of("web_push"), Some(Channel::WebPush));
        assert_eq!((channel_of("fcm"), channel_of("apns")), (Some(Channel::AppPush), Some(Channel::AppPush)));
        assert_eq!(channel_of("webhook"), Some(Channel::Webhook));
        assert_eq!(channel_of("pigeon"), None);
        assert_eq!(
            build("pigeon", &Map::new()).unwrap_err().to_string(),
            "unknown provider kind `pigeon`: use one of smtp, twilio, whatsapp_cloud, telegram, web_push, fcm, apns, webhook"
        );
        let missing =
            json!({"account_sid": "AC1", "auth_token": {"env": "BELLWETHER_TEST_UNSET"}, "from": "+15550001111"});
        assert_eq!(
            build("twilio", &settings(missing)).unwrap_err().to_string(),
            "twilio provider: `auth_token`: environment variable BELLWETHER_TEST_UNSET is not set: set it, or name a file by `file:`"
        );
        let smtp = build("smtp", &settings(json!({"host": "mx.example", "from_address": "a@b.example"}))).unwrap();
        assert_eq!(smtp.channel(), Channel::Email);
    }

    #[test]
    fn the_address_decides_between_kinds_of_one_channel() {
        for (kind, address, expected) in [
            ("fcm", "fcm:x", true),
            ("fcm", "apns:x", false),
            ("apns", "apns:x", true),
            ("apns", "fcm:x", false),
            ("apns", "x", false),
            ("smtp", "fcm:x", true),
            ("web_push", "{}", true),
        ] {
            assert_eq!(address.starts_with(prefix_of(kind)), expected, "{kind} {address}");
        }
    }

    #[test]
    fn a_reference_travels_in_a_url() {
        let token = reference().to_token();
        assert!(token.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_'), "{token}");
        assert_eq!(Reference::from_token(&token), Ok(reference()));
        for bad in ["", "!", "e30", &token[..token.len() - 4], &format!("{token}=")] {
            assert!(Reference::from_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_are_taken_out_of_words() {
        for (text, clean) in [
            ("<a@b.example>: no", "[address] no"),
            ("The 'To' number +15550001111 is bad", "The 'To' number [address] is bad"),
            ("To:555-000-1111x", "[address]"),
            ("error 21211 of 2026", "error 21211 of 2026"),
            ("a\r\n\tb\u{7}c", "a b c"),
        ] {
            assert_eq!(without_addresses(text), clean);
        }
        assert!(without_addresses(&"ö ".repeat(1000)).len() <= MAX_WORDS + '…'.len_utf8());
    }

    proptest! {
        #[test]
        fn no_token_makes_us_panic(token in "[A-Za-z0-9_=-]{0,200}", any in any::<String>()) {
            Reference::from_token(&token).ok();
            Reference::from_token(&any).ok();
        }

        #[test]
        fn every_reference_comes_back(project: String, member: String, template: String, provider: String) {
            let reference = Reference { project, member, template, provider, ..reference() };
            prop_assert_eq!(Reference::from_token(&reference.to_token()), Ok(reference));
        }

        #[test]
        fn words_lose_every_address(text in any::<String>(), local in "[a-z]{1,9}") {
            let clean = without_addresses(&format!("{text} {local}@example.com +15550001111"));
            prop_assert!(!clean.contains('@') && !clean.contains("15550001111"));
        }
    }
}
