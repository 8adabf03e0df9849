//! Telegram by the Bot API: `Config`, the pure [`Config::request`] and [`classify`], and the thin calls.
//! What members say to the bot is read in [`crate::webhooks::telegram`]; what follows from it is decided elsewhere.
//! Source: <https://core.telegram.org/bots/api>. The token is a part of every URL, so no URL goes into an error or a log.

pub mod html;

use super::{
    Accepted, ConfigError, Content, Message, SendError, Sink,
    codes::{self, Line},
    http::{self, Answer},
    without_addresses,
};
use crate::{secret::Secret, webhooks::telegram::Update};
use async_trait::async_trait;
use bellwether_schemas::{
    Channel,
    records::ErrorKind::{self, Ambiguous, InvalidAddress, Rejected, Throttled, Transient, Unauthorized},
};
use reqwest::{Client, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{sync::LazyLock, time::Duration};

/// Connector's name in definitions.
pub const KIND: &str = "telegram";
/// Longest text in UTF-16 units, after its entities are read.
const MAX_TEXT: usize = 4096;
/// Bytes of an answer that we read: 100 updates of the longest texts are the largest.
const MAX_ANSWER: usize = 8 << 20;
/// What we want to be told: what members say, and whether they block the bot.
const UPDATES: [&str; 2] = ["message", "my_chat_member"];

/// Settings of a Telegram provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the bot's token is to be had, `123456:ABC…`, from @BotFather.
    pub bot_token: Secret,
    /// How we hear what members say.
    #[serde(default)]
    pub updates: Updates,
    /// Where the word is to be had that Telegram says with every callback: 1 to 256 of `A-Z a-z 0-9 _ -`. Absent means that no
    /// callbacks are accepted.
    #[serde(default)]
    pub webhook_secret: Option<Secret>,
    /// The bot's name without `@`, which links to it need.
    #[serde(default)]
    pub username: Option<String>,
    /// Telegram, or a counterpart in tests.
    #[serde(default = "default_base_url")]
    pub base_url: String,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

/// See [`Config::updates`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Updates {
    /// Telegram calls us, at a public address.
    #[default]
    Webhook,
    /// We ask Telegram.
    Poll,
}

fn default_base_url() -> String {
    "https://api.telegram.org".into()
}

const fn default_timeout() -> u64 {
    10
}

/// A call: the method, and its parameters as JSON. Base URL and token are added when it is made.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Method of the Bot API.
    pub method: &'static str,
    /// Its parameters.
    pub body: Value,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.updates == Updates::Poll && self.webhook_secret.is_some() {
            return Err(http::wrong(
                KIND,
                "webhook_secret",
                "stands beside `updates: poll`: Telegram calls nobody then",
            ));
        }
        http::url(KIND, "base_url", &self.base_url)?;
        http::timeout(KIND, self.timeout_seconds)
    }

    /// The call for one message. A text that is too long is cut, by [`html::fit`].
    ///
    /// # Errors
    /// Content of another channel or without text, an address that is no chat, a button without a link: [`ErrorKind::Rejected`] or
    /// [`ErrorKind::InvalidAddress`].
    pub fn request(&self, message: &Message) -> Result<Request, SendError> {
        let Content::Chat { html, buttons } = &message.content else {
            return refuse("content is no chat message: give the template a `telegram` variant");
        };
        let text = html::fit(html, MAX_TEXT);
        if html::text(&text).trim().is_empty() {
            return refuse("text is empty");
        }
        let mut body = json!({"chat_id": chat(&message.to)?, "text": text, "parse_mode": "HTML"});
        if !buttons.is_empty() {
            let mut rows = Vec::with_capacity(buttons.len());
            for button in buttons {
                let Some(url) = button.url.as_deref().filter(|url| is_link(url)) else {
                    return refuse(
                        "a button has no http, https or tg link: Telegram has no quick replies below a text",
                    );
                };
                if button.text.trim().is_empty() {
                    return refuse("a button says nothing");
                }
                rows.push(json!([{"text": button.text, "url": url}]));
            }
            body["reply_markup"] = json!({"inline_keyboard": rows});
        }
        Ok(Request { method: "sendMessage", body })
    }
}

fn refuse<T>(detail: &str) -> Result<T, SendError> {
    Err(SendError::new(Rejected, detail))
}

/// Chats have numbers; only public channels have names, and no member is one.
fn chat(address: &str) -> Result<i64, SendError> {
    address.parse().map_err(|_| SendError::new(InvalidAddress, "the address is no number of a chat"))
}

fn is_link(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https" | "tg") && url.has_host())
}

/// What Telegram's errors mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("telegram.codes.csv")));

/// Every answer of the Bot API.
#[derive(Deserialize)]
struct Said {
    ok: bool,
    #[serde(default)]
    result: Value,
    description: Option<String>,
    #[serde(default)]
    parameters: Parameters,
}

#[derive(Default, Deserialize)]
struct Parameters {
    retry_after: Option<u64>,
    migrate_to_chat_id: Option<i64>,
}

/// What an answer to `sendMessage` means: HTTP status, the wait of a `Retry-After` header, body.
///
/// # Errors
/// See [`SendError`]. A success without a message's id is [`ErrorKind::Ambiguous`]: it may come from a proxy in between.
pub fn classify(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Accepted, SendError> {
    let result = result(status, retry_after, body)?;
    match result["message_id"].as_i64() {
        Some(id) => Ok(Accepted { provider_id: Some(id.to_string()), ..Accepted::default() }),
        None => Err(SendError::new(Ambiguous, format!("HTTP {status} without the message's `message_id`"))),
    }
}

/// The chat that a group has become: the message was not sent, and goes there.
#[must_use]
pub fn moved_to(body: &[u8]) -> Option<i64> {
    let said: Said = serde_json::from_slice(body).ok()?;
    said.parameters.migrate_to_chat_id.filter(|_| !said.ok)
}

/// The result of any call, or what is wrong.
fn result(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Value, SendError> {
    let said: Option<Said> = serde_json::from_slice(body).ok();
    let is_success = (200..300).contains(&status);
    let (words, told) = match said {
        Some(Said { ok: true, result, .. }) if is_success => return Ok(result),
        Some(said) => (said.description, said.parameters.retry_after.map(Duration::from_secs)),
        None if is_success => {
            return Err(SendError::new(Ambiguous, format!("HTTP {status} without an answer of the Bot API")));
        }
        None => (None, None),
    };
    let words = words.unwrap_or_else(|| "no description".into());
    let line = CODES.iter().find(|line| line.code == u32::from(status) && words.contains(line.name));
    let detail =
        format!("HTTP {status}: {}", line.map_or_else(|| without_addresses(&words), |line| line.name.to_owned()));
    let mut error = line.map_or_else(|| SendError::new(kind_of_status(status), ""), |line| line.error(String::new()));
    error.detail = detail;
    if error.kind == Throttled {
        error.after = told.or(retry_after);
    }
    Err(error)
}

/// A token that is malformed is answered by 404, one that was revoked by 401, and one that two processes poll by, or a webhook too, by 409.
const fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        429 => Throttled,
        500.. | 408 => Transient,
        300..=399 | 401 | 404 | 405 | 409 => Unauthorized,
        _ => Rejected,
    }
}

/// A bot to send by.
#[derive(Debug)]
pub struct TelegramSink {
    config: Config,
    token: SecretString,
    client: Client,
}

impl TelegramSink {
    /// Checks the configuration and fetches the token.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let token = http::secret(KIND, "bot_token", &config.bot_token)?;
        let client = http::client(KIND, Duration::from_secs(config.timeout_seconds))?;
        Ok(Self { config, token, client })
    }

    /// Calls a method, with time for Telegram to wait in.
    async fn call(&self, Request { method, body }: &Request, wait: Duration) -> Result<Answer, SendError> {
        let base = self.config.base_url.trim_end_matches('/');
        let url = format!("{base}/bot{}/{method}", self.token.expose_secret());
        let timeout = Duration::from_secs(self.config.timeout_seconds) + wait;
        http::call(self.client.post(url).timeout(timeout).json(body), MAX_ANSWER).await
    }

    /// Calls a method that may be called twice.
    async fn ask(&self, method: &'static str, body: Value, wait: Duration) -> Result<Value, SendError> {
        let Answer { status, retry_after, body, .. } =
            self.call(&Request { method, body }, wait).await.map_err(http::of_question)?;
        result(status, retry_after, &body).map_err(http::of_question)
    }

    /// The bot's name, without `@`, for links to it.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn username(&self) -> Result<String, SendError> {
        let me = self.ask("getMe", json!({}), Duration::ZERO).await?;
        let name = me["username"].as_str();
        name.map(str::to_owned)
            .ok_or_else(|| SendError::new(Unauthorized, "the answer names no bot: is `base_url` Telegram's?"))
    }

    /// Has Telegram call `url` (https) with every update and `secret` in the header
    /// [`SECRET_HEADER`](crate::webhooks::telegram::SECRET_HEADER). Nothing can be fetched until [`TelegramSink::delete_webhook`].
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn set_webhook(&self, url: &str, secret: &str) -> Result<(), SendError> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        if !(1..=256).contains(&secret.len()) || !secret.chars().all(is_part) {
            return refuse("`webhook_secret` must be 1 to 256 of `A-Z a-z 0-9 _ -`");
        }
        let body = json!({"url": url, "secret_token": secret, "allowed_updates": UPDATES});
        self.ask("setWebhook", body, Duration::ZERO).await.map(drop)
    }

    /// Ends what [`TelegramSink::set_webhook`] began. Updates that wait stay.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn delete_webhook(&self) -> Result<(), SendError> {
        self.ask("deleteWebhook", json!({}), Duration::ZERO).await.map(drop)
    }

    /// Fetches updates from `offset` on (the last one's id and 1; `None` at first), waiting up to `wait` for the first of them. To ask
    /// from an offset confirms everything before it. An update that does not read has no event, and its id all the same.
    ///
    /// # Errors
    /// See [`SendError`]. A webhook is set, or somebody else fetches: [`ErrorKind::Unauthorized`].
    pub async fn updates(&self, offset: Option<i64>, wait: Duration) -> Result<Vec<Update>, SendError> {
        let mut body = json!({"timeout": wait.as_secs(), "allowed_updates": UPDATES});
        if let Some(offset) = offset {
            body["offset"] = offset.into();
        }
        let result = self.ask("getUpdates", body, wait).await?;
        let Value::Array(updates) = result else {
            return Err(SendError::new(Transient, "the answer is no list of updates"));
        };
        Ok(updates.iter().filter_map(Update::of).collect())
    }
}

#[async_trait]
impl Sink for TelegramSink {
    fn channel(&self) -> Channel {
        Channel::Telegram
    }

    /// A group that became a supergroup has a new chat, and Telegram says which when it refuses the old one. The message goes there at
    /// once: were it left for the next try, the new address would have to be kept in the meantime.
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let mut request = self.config.request(message)?;
        let Answer { status, retry_after, body, .. } = self.call(&request, Duration::ZERO).await?;
        let Some(chat) = moved_to(&body) else { return classify(status, retry_after, &body) };
        request.body["chat_id"] = chat.into();
        let Answer { status, retry_after, body, .. } = self.call(&request, Duration::ZERO).await?;
        let accepted = classify(status, retry_after, &body)?;
        Ok(Accepted { moved_to: Some(chat.to_string()), ..accepted })
    }

    async fn check(&self) -> Result<(), SendError> {
        self.username().await?;
        if self.config.updates == Updates::Poll {
            let info = self.ask("getWebhookInfo", json!({}), Duration::ZERO).await?;
            if info["url"].as_str().is_some_and(|url| !url.is_empty()) {
                let remedy = "a webhook is set, so `updates: poll` fetches nothing: call deleteWebhook, or use `updates: webhook`";
                return Err(SendError::new(Unauthorized, remedy));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::{Button, test_support};
    use ErrorKind::Unreachable;
    use proptest::prelude::*;

    fn config() -> Config {
        serde_json::from_value(json!({"bot_token": {"env": "X"}})).unwrap()
    }

    fn message(to: &str, html: &str, buttons: &[(&str, Option<&str>)]) -> Message {
        let button = |(text, url): &(&str, Option<&str>)| Button { text: (*text).into(), url: url.map(str::to_owned) };
        let buttons = buttons.iter().map(button).collect();
        test_support::message(to, Content::Chat { html: html.into(), buttons })
    }

    #[test]
    fn a_request_to_the_letter() {
        let buttons = [("Open", Some("https://h.example/c/1")), ("Bot", Some("tg://resolve?domain=x"))];
        let request = config().request(&message("-1001234567890", "<b>Hi</b> <p>", &buttons)).unwrap();
        let body = json!({"chat_id": -1_001_234_567_890_i64, "text": "<b>Hi</b> &lt;p&gt;", "parse_mode": "HTML",
        "reply_markup": {"inline_keyboard": [
            [{"text": "Open", "url": "https://h.example/c/1"}], [{"text": "Bot", "url": "tg://resolve?domain=x"}],
        ]}});
        assert_eq!(request, Request { method: "sendMessage", body });
        let bare = config().request(&message("7", "Hi", &[])).unwrap();
        assert_eq!(bare.body, json!({"chat_id": 7, "text": "Hi", "parse_mode": "HTML"}));
    }

    #[test]
    fn every_limit_is_kept_before_the_call() {
        for (message, kind, words) in [
            (message("7", " <b>\n</b> ", &[]), Rejected, "text is empty"),
            (message("@name", "Hi", &[]), InvalidAddress, "no number of a chat"),
            (message("7", "Hi", &[("Yes", None)]), Rejected, "no quick replies"),
            (message("7", "Hi", &[("Go", Some("javascript:x"))]), Rejected, "no http, https or tg link"),
            (message("7", "Hi", &[(" ", Some("https://h.example"))]), Rejected, "a button says nothing"),
            (
                Message { content: Content::Text { body: "Hi".into() }, ..message("7", "", &[]) },
                Rejected,
                "no chat message",
            ),
        ] {
            let error = config().request(&message).unwrap_err();
            assert_eq!(error.kind, kind);
            assert!(error.detail.contains(words), "{}", error.detail);
        }
        let longest = format!("<b>{}</b>", "ö".repeat(4096));
        assert_eq!(config().request(&message("7", &longest, &[])).unwrap().body["text"], longest.as_str());
        let cut = config().request(&message("7", &"🚀".repeat(2049), &[])).unwrap();
        let text = cut.body["text"].as_str().unwrap();
        assert_eq!((html::length(text), text.ends_with("🚀…")), (4095, true));
    }

    #[test]
    fn every_line_of_the_table_has_its_consequence() {
        for Line { code, kind, name, .. } in codes::assert_sound::<u32>(include_str!("telegram.codes.csv")) {
            let status = u16::try_from(code).unwrap();
            let body = json!({"ok": false, "error_code": code, "description": format!("Forbidden: {name} 7777777777")});
            let error = classify(status, None, body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.detail), (kind, format!("HTTP {status}: {name}")));
        }
    }

    #[test]
    fn every_answer_has_its_consequence() {
        let wait = |seconds| Some(Duration::from_secs(seconds));
        let said =
            |status: u16, words: &str| json!({"ok": false, "error_code": status, "description": words}).to_string();
        let flood = json!({"ok": false, "error_code": 429, "description": "Too Many Requests: retry after 5",
            "parameters": {"retry_after": 5}});
        for (status, retry_after, body, kind, after) in [
            (403, None, said(403, "Forbidden: bot was blocked by the user"), InvalidAddress, None),
            (403, None, said(403, "Forbidden: user is deactivated"), InvalidAddress, None),
            (400, None, said(400, "Bad Request: chat not found"), InvalidAddress, None),
            (403, None, said(403, "Forbidden: bot can't send messages to the user"), Unreachable, None),
            (400, None, said(400, "Bad Request: can't parse entities"), Rejected, None),
            (400, None, said(400, "Bad Request: message is too long"), Rejected, None),
            (403, None, said(403, "Forbidden: something new"), Rejected, None),
            (401, None, said(401, "Unauthorized"), Unauthorized, None),
            (404, None, said(404, "Not Found"), Unauthorized, None),
            (409, None, said(409, "Conflict: terminated by other getUpdates request; …"), Unauthorized, None),
            (409, None, said(409, "Conflict: something new"), Unauthorized, None),
            (429, wait(9), flood.to_string(), Throttled, wait(5)),
            (429, wait(9), "<html>".into(), Throttled, wait(9)),
            (500, wait(9), said(500, "Internal Server Error"), Transient, None),
            (502, None, "<html>".into(), Transient, None),
            (302, None, String::new(), Unauthorized, None),
            (200, None, "<html>welcome to the hotel</html>".into(), Ambiguous, None),
            (200, None, json!({"ok": true, "result": {}}).to_string(), Ambiguous, None),
            (200, None, said(200, "odd"), Rejected, None),
        ] {
            let error = classify(status, retry_after, body.as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.after), (kind, after), "{status} {body}");
        }
        let body = br#"{"ok":true,"result":{"message_id":42,"chat":{"id":7,"type":"private"},"date":1,"new":[]}}"#;
        assert_eq!(classify(200, None, body), Ok(Accepted { provider_id: Some("42".into()), ..Accepted::default() }));
    }

    #[test]
    fn a_group_that_moved_says_where() {
        let body =
            br#"{"ok":false,"error_code":400,"description":"Bad Request: group chat was upgraded to a supergroup chat",
            "parameters":{"migrate_to_chat_id":-1001234567890}}"#;
        assert_eq!(moved_to(body), Some(-1_001_234_567_890));
        for none in [&b"{}"[..], b"<html>", br#"{"ok":true,"result":{},"parameters":{"migrate_to_chat_id":1}}"#] {
            assert_eq!(moved_to(none), None);
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_us_panic(status in 0_u16..1000, body in prop::collection::vec(any::<u8>(), 0..200)) {
            classify(status, None, &body).ok();
            prop_assert_eq!(moved_to(&body), None);
        }

        #[test]
        fn nor_an_odd_one(status in 200_u16..600, ok: bool, words: Option<String>, retry in any::<i64>(), id in any::<i64>()) {
            let body = json!({"ok": ok, "description": words, "parameters": {"retry_after": retry}, "result": {"message_id": id}});
            classify(status, None, body.to_string().as_bytes()).ok();
        }

        #[test]
        fn every_text_that_is_sent_is_within_the_limit(html in "(<b>|</i>|&amp;|[a-zö🚀 ]{0,900}){0,12}") {
            if let Ok(request) = config().request(&message("7", &html, &[])) {
                prop_assert!((1..=4096).contains(&html::length(request.body["text"].as_str().unwrap())));
            }
        }
    }

    #[test]
    fn kinds_of_bare_statuses() {
        let kinds: [(u16, ErrorKind); 4] = [(400, Rejected), (401, Unauthorized), (429, Throttled), (503, Transient)];
        for (status, kind) in kinds {
            assert_eq!(classify(status, None, b"").unwrap_err().kind, kind);
        }
    }
}
