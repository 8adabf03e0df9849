//! WhatsApp by Meta's Cloud API: `Config`, the pure [`Config::request`] and [`classify`], and the thin calls.
//! What Meta calls back is read in [`crate::webhooks::whatsapp`]; whether the 24-hour window is open is decided elsewhere.
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/reference/whatsapp-business-phone-number/message-api>.

mod templates;

pub use templates::{ApprovedTemplate, Misfit, TemplateButton, TemplateHeader};

use super::{
    Accepted, Button, ConfigError, Content, Media, MediaKind, Message, SendError, Sink, Whatsapp,
    codes::{self, Line},
    http::{self, Answer},
    without_addresses,
};
use crate::secret::Secret;
use async_trait::async_trait;
use bellwether_schemas::{
    Channel,
    records::ErrorKind::{self, Ambiguous, Rejected, Throttled, Transient, Unauthorized},
};
use reqwest::{Client, RequestBuilder, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::{collections::BTreeSet, sync::LazyLock, time::Duration};

/// Connector's name in definitions.
pub const KIND: &str = "whatsapp_cloud";
/// Longest text message in characters.
const MAX_TEXT: usize = 4096;
/// Longest text of a message with media or buttons.
const MAX_BODY: usize = 1024;
/// Longest words on a button.
const MAX_TITLE: usize = 20;
/// Most quick replies.
const MAX_REPLIES: usize = 3;
/// Most buttons of a template.
const MAX_TEMPLATE_BUTTONS: usize = 10;
/// Longest name of a template.
const MAX_NAME: usize = 512;
/// Longest `biz_opaque_callback_data`.
const MAX_CALLBACK_DATA: usize = 512;
/// Bytes of an answer that we read: a page of 100 templates is the largest.
const MAX_ANSWER: usize = 4 << 20;
/// Most pages of templates that we follow. An account has at most 6,000 templates, each in several languages.
const MAX_PAGES: usize = 1000;

/// Settings of a WhatsApp provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Id of the business phone number that sends (digits; not the number itself).
    pub phone_number_id: String,
    /// Where its access token is to be had: a system user's, with `whatsapp_business_messaging`.
    pub access_token: Secret,
    /// Id of the WhatsApp Business Account, to fetch its templates.
    #[serde(default)]
    pub waba_id: Option<String>,
    /// Where the app's secret is to be had: it signs the callbacks. Absent means that none are accepted, and then a message stays `sent`.
    #[serde(default)]
    pub app_secret: Option<Secret>,
    /// Where the word is to be had that Meta must say when the webhook is set up.
    #[serde(default)]
    pub verify_token: Option<Secret>,
    /// Version of the Graph API.
    #[serde(default = "default_version")]
    pub version: String,
    /// Meta, or a counterpart in tests.
    #[serde(default = "default_base_url")]
    pub base_url: String,
    /// Seconds for one call.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
}

fn default_version() -> String {
    "v25.0".into()
}

fn default_base_url() -> String {
    "https://graph.facebook.com".into()
}

const fn default_timeout() -> u64 {
    10
}

fn wrong(field: &'static str, problem: &str) -> ConfigError {
    http::wrong(KIND, field, problem)
}

/// A call that sends one message.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// Where to POST.
    pub url: String,
    /// JSON body.
    pub body: Value,
}

impl Config {
    /// Checks what can be checked without secrets or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let is_id = |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
        if !is_id(&self.phone_number_id) {
            return Err(wrong(
                "phone_number_id",
                "must be digits: copy the id, not the number, from the app's dashboard",
            ));
        }
        if self.waba_id.as_deref().is_some_and(|id| !is_id(id)) {
            return Err(wrong("waba_id", "must be digits: copy it from the app's dashboard"));
        }
        let is_number = |text: &str| text.split('.').count() == 2 && text.split('.').all(is_id);
        if !self.version.strip_prefix('v').is_some_and(is_number) {
            return Err(wrong("version", "must be one of the Graph API, such as `v25.0`"));
        }
        http::url(KIND, "base_url", &self.base_url)?;
        http::timeout(KIND, self.timeout_seconds)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/{}/{path}", self.base_url.trim_end_matches('/'), self.version)
    }

    /// The call for one message. Its reference travels as `biz_opaque_callback_data`; one that is longer than Meta takes (a member's id
    /// of some 200 characters) stays at home: the message goes out, and its story ends with `sent`, because no callback finds it.
    ///
    /// # Errors
    /// Content of another channel, or beyond a limit of Meta's: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message) -> Result<Request, SendError> {
        let Content::Whatsapp(content) = &message.content else {
            return refuse("content is not for WhatsApp: give the template a `whatsapp` variant");
        };
        let (kind, said) = match content {
            Whatsapp::Template { name, language, header, parameters, buttons } => {
                ("template", template(name, language, header.as_ref(), parameters, buttons)?)
            }
            Whatsapp::Text { body, header, buttons } => text(body, header.as_ref(), buttons)?,
        };
        let mut body = json!({
            "messaging_product": "whatsapp", "recipient_type": "individual", "to": message.to, "type": kind, kind: said,
        });
        let data = callback_data(&message.reference.to_token(), message.attempt);
        if data.len() <= MAX_CALLBACK_DATA {
            body["biz_opaque_callback_data"] = data.into();
        }
        Ok(Request { url: self.url(&format!("{}/messages", self.phone_number_id)), body })
    }

    /// Where a page of templates is to be had: the first one, or the one after a cursor. A page's own `next` is not followed, because
    /// an answer must not choose where our token goes.
    fn templates_url(&self, after: Option<&str>) -> Result<String, SendError> {
        let Some(waba_id) = &self.waba_id else {
            return refuse("`waba_id` is not set: it says whose templates to fetch");
        };
        let mut pairs = vec![("fields", templates::FIELDS), ("limit", "100")];
        pairs.extend(after.map(|after| ("after", after)));
        match Url::parse_with_params(&self.url(&format!("{waba_id}/message_templates")), pairs) {
            Ok(url) => Ok(url.into()),
            Err(_) => refuse("`base_url` is no URL"),
        }
    }
}

/// `TOKEN.ATTEMPT`; a dot is in no token.
fn callback_data(token: &str, attempt: i32) -> String {
    format!("{token}.{attempt}")
}

fn refuse<T>(detail: impl Into<String>) -> Result<T, SendError> {
    Err(SendError::new(Rejected, detail))
}

/// Whether `text` says something within `limit` characters.
fn within(what: &str, text: &str, limit: usize) -> Result<(), SendError> {
    if text.trim().is_empty() {
        return refuse(format!("{what} is empty"));
    }
    if text.len() > limit && text.chars().count() > limit {
        return refuse(format!("{what} is longer than {limit} characters: shorten the template"));
    }
    Ok(())
}

/// `{"type": "image", "image": {"link": …}}`, as headers have it.
fn media(media: &Media) -> Result<Value, SendError> {
    let kind = media_name(media.kind);
    Ok(json!({"type": kind, kind: {"link": link("header", &media.url)?}}))
}

const fn media_name(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "image",
        MediaKind::Video => "video",
        MediaKind::Document => "document",
    }
}

fn link<'a>(what: &str, text: &'a str) -> Result<&'a str, SendError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(text),
        _ => refuse(format!("{what}: its link is no http or https URL")),
    }
}

fn template(
    name: &str,
    language: &str,
    header: Option<&Media>,
    parameters: &[String],
    buttons: &[Option<String>],
) -> Result<Value, SendError> {
    within("the template's name", name, MAX_NAME)?;
    within("the template's language", language, MAX_NAME)?;
    if buttons.len() > MAX_TEMPLATE_BUTTONS {
        return refuse(format!("a template has at most {MAX_TEMPLATE_BUTTONS} buttons"));
    }
    let mut components = Vec::new();
    if let Some(header) = header {
        components.push(json!({"type": "header", "parameters": [media(header)?]}));
    }
    if !parameters.is_empty() {
        let parameters: Result<Vec<_>, _> = parameters.iter().enumerate().map(|(n, text)| parameter(n, text)).collect();
        components.push(json!({"type": "body", "parameters": parameters?}));
    }
    for (index, text) in buttons.iter().enumerate() {
        let Some(text) = text else { continue };
        components.push(json!({
            "type": "button", "sub_type": "url", "index": index.to_string(), "parameters": [parameter(index, text)?],
        }));
    }
    Ok(json!({"name": name, "language": {"code": language}, "components": components}))
}

/// Meta refuses a parameter with line breaks, tabs or more than four spaces in a row (132012), so each run of them becomes one space.
fn parameter(index: usize, text: &str) -> Result<Value, SendError> {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    within(&format!("parameter {}", index + 1), &text, MAX_BODY)?;
    Ok(json!({"type": "text", "text": text}))
}

/// Free text, as the least of Meta's message types that can say it.
fn text(body: &str, header: Option<&Media>, buttons: &[Button]) -> Result<(&'static str, Value), SendError> {
    let plain = header.is_none() && buttons.is_empty();
    within("text", body, if plain { MAX_TEXT } else { MAX_BODY })?;
    let (kind, action) = match (buttons, header) {
        ([], None) => return Ok(("text", json!({"body": body}))),
        ([], Some(header)) => {
            let url = link("header", &header.url)?;
            return Ok((media_name(header.kind), json!({"link": url, "caption": body})));
        }
        ([Button { text, url: Some(url) }], _) => {
            within("the link's text", text, MAX_TITLE)?;
            ("cta_url", json!({"name": "cta_url", "parameters": {"display_text": text, "url": link("button", url)?}}))
        }
        (replies, _) => ("button", json!({"buttons": quick_replies(replies)?})),
    };
    let mut interactive = json!({"type": kind, "body": {"text": body}, "action": action});
    if let Some(header) = header {
        interactive["header"] = media(header)?;
    }
    Ok(("interactive", interactive))
}

fn quick_replies(buttons: &[Button]) -> Result<Vec<Value>, SendError> {
    if buttons.iter().any(|button| button.url.is_some()) {
        return refuse("buttons are either quick replies or one link: WhatsApp has no message with both");
    }
    if buttons.len() > MAX_REPLIES {
        return refuse(format!("a message has at most {MAX_REPLIES} quick replies"));
    }
    let titles: BTreeSet<&str> = buttons.iter().map(|button| button.text.as_str()).collect();
    if titles.len() < buttons.len() {
        return refuse("two quick replies say the same: the member could not be understood");
    }
    let reply = |(id, button): (usize, &Button)| {
        within("a quick reply", &button.text, MAX_TITLE)?;
        Ok(json!({"type": "reply", "reply": {"id": id.to_string(), "title": button.text}}))
    };
    buttons.iter().enumerate().map(reply).collect()
}

/// What Meta's error codes mean for us; its source is in the file.
static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("whatsapp.codes.csv")));

fn line_of(code: u32) -> Option<&'static Line> {
    codes::find(&CODES, if (200..300).contains(&code) { 200 } else { code })
}

/// The consequence of one of Meta's error codes, if we know it, with its name.
#[must_use]
pub fn kind_of(code: u32) -> Option<(ErrorKind, &'static str)> {
    line_of(code).map(|line| (line.kind, line.name))
}

/// `CODE: NAME` by our table, else Meta's words.
pub(crate) fn words_of(code: u32, words: Option<&str>) -> String {
    let name = kind_of(code).map(|(_, name)| name.to_owned());
    format!("{code}: {}", name.unwrap_or_else(|| without_addresses(words.unwrap_or("unknown code"))))
}

#[derive(Deserialize)]
struct Success {
    messages: Vec<Sent>,
}

#[derive(Deserialize)]
struct Sent {
    id: String,
}

#[derive(Deserialize)]
struct Failure {
    error: Fault,
}

#[derive(Deserialize)]
struct Fault {
    code: Option<u32>,
    message: Option<String>,
}

/// What an answer means: HTTP status, the wait of a `Retry-After` header, body. The code decides, as Meta recommends; the status only
/// where there is none that we know.
///
/// # Errors
/// See [`SendError`]. A success without a message's id is [`ErrorKind::Ambiguous`]: it may come from a proxy in between.
pub fn classify(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<Accepted, SendError> {
    let body = answered(status, retry_after, body)?;
    let sent: Option<Success> = serde_json::from_slice(body).ok();
    match sent.and_then(|sent| sent.messages.into_iter().next()) {
        Some(Sent { id }) if !id.is_empty() => Ok(Accepted { provider_id: Some(id), ..Accepted::default() }),
        _ => Err(SendError::new(Ambiguous, format!("HTTP {status} without the message's `id`"))),
    }
}

/// The body of a success, or what is wrong.
fn answered(status: u16, retry_after: Option<Duration>, body: &[u8]) -> Result<&[u8], SendError> {
    let failure: Option<Failure> = serde_json::from_slice(body).ok();
    if (200..300).contains(&status) && failure.is_none() {
        return Ok(body);
    }
    let fault = failure.map(|failure| failure.error);
    let words = fault.as_ref().and_then(|fault| fault.message.as_deref());
    let code = fault.as_ref().and_then(|fault| fault.code);
    let mut error = match (code, code.and_then(line_of)) {
        (Some(code), Some(line)) => line.error(words_of(code, None)),
        (Some(code), None) => SendError::new(kind_of_status(status), words_of(code, words)),
        (None, _) => {
            let words = without_addresses(words.unwrap_or("no error code"));
            SendError::new(kind_of_status(status), format!("HTTP {status}: {words}"))
        }
    };
    if error.kind == Throttled && !error.of_address {
        error.after = retry_after;
    }
    Err(error)
}

const fn kind_of_status(status: u16) -> ErrorKind {
    match status {
        429 => Throttled,
        500.. | 408 => Transient,
        300..=399 | 401 | 403..=405 => Unauthorized,
        _ => Rejected,
    }
}

/// A business phone number to send by.
#[derive(Debug)]
pub struct WhatsappSink {
    config: Config,
    token: SecretString,
    client: Client,
}

impl WhatsappSink {
    /// Checks the configuration and fetches the access token.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let token = http::secret(KIND, "access_token", &config.access_token)?;
        let client = http::client(KIND, Duration::from_secs(config.timeout_seconds))?;
        Ok(Self { config, token, client })
    }

    async fn call(&self, request: RequestBuilder) -> Result<Answer, SendError> {
        http::call(request.bearer_auth(self.token.expose_secret()), MAX_ANSWER).await
    }

    async fn ask(&self, url: String) -> Result<Vec<u8>, SendError> {
        let Answer { status, retry_after, body, .. } =
            self.call(self.client.get(url)).await.map_err(http::of_question)?;
        answered(status, retry_after, &body).map(<[u8]>::to_vec)
    }

    /// Every template of the account, whatever its status, in Meta's order.
    ///
    /// # Errors
    /// See [`SendError`]. `waba_id` is not set: [`ErrorKind::Rejected`].
    pub async fn templates(&self) -> Result<Vec<ApprovedTemplate>, SendError> {
        let (mut found, mut after) = (Vec::new(), None);
        for _ in 0..MAX_PAGES {
            let body = self.ask(self.config.templates_url(after.as_deref())?).await?;
            let Some((more, next)) = templates::page(&body) else {
                return Err(SendError::new(Transient, "the answer is no page of templates"));
            };
            found.extend(more);
            if next.is_none() || next == after {
                return Ok(found);
            }
            after = next;
        }
        Err(SendError::new(Transient, format!("the pages of templates do not end after {MAX_PAGES}")))
    }
}

#[async_trait]
impl Sink for WhatsappSink {
    fn channel(&self) -> Channel {
        Channel::Whatsapp
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let Request { url, body } = self.config.request(message)?;
        let Answer { status, retry_after, body, .. } = self.call(self.client.post(url).json(&body)).await?;
        classify(status, retry_after, &body)
    }

    async fn check(&self) -> Result<(), SendError> {
        let id = &self.config.phone_number_id;
        let body = self.ask(self.config.url(&format!("{id}?fields=id"))).await?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer {
            Some(answer) if answer["id"] == id.as_str() => Ok(()),
            _ => Err(SendError::new(Unauthorized, "the answer does not name the phone number: is `base_url` Meta's?")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
