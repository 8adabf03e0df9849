//! How long a message may be, channel by channel: the one table of limits, with the page that each comes from.
//! Measures what is rendered; it shortens nothing.

use bellwether_schemas::{Channel, definitions::Variant};
use serde_json::json;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Unicode scalar values.
    Characters,
    /// Bytes of UTF-8.
    Bytes,
}

impl Unit {
    /// Name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Characters => "characters",
            Self::Bytes => "bytes",
        }
    }
}

/// What follows from a message that is longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beyond {
    /// The provider refuses it or cuts it.
    Refused,
    /// It arrives, but not as it was meant.
    Remark,
}

/// A limit of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The field of the variant that it is about; of what several fields are in, the first.
    pub field: &'static str,
    /// What is limited, in words.
    pub what: &'static str,
    /// What is counted.
    pub unit: Unit,
    /// The most that there may be.
    pub most: usize,
    /// What follows from more.
    pub beyond: Beyond,
    /// The page that says so.
    pub source: &'static str,
}

/// What a push message costs beside our texts: the provider's envelope and the links that tell of delivery and click.
const PUSH_ENVELOPE_BYTES: usize = 512;

const fn limit(field: &'static str, what: &'static str, unit: Unit, most: usize, source: &'static str) -> Limit {
    Limit { field, what, unit, most, beyond: Beyond::Refused, source }
}

const SMS: Limit = limit(
    "text",
    "the message",
    Unit::Characters,
    1_600,
    "https://www.twilio.com/docs/api/errors/21617: the concatenated message exceeds 1,600 characters",
);
const SUBJECT: Limit = Limit {
    beyond: Beyond::Remark,
    ..limit(
        "subject",
        "the subject",
        Unit::Characters,
        78,
        "RFC 5322 section 2.1.1: lines of 78 characters; most clients show less",
    )
};
const CLIPPED: Limit = Limit {
    beyond: Beyond::Remark,
    ..limit(
        "html",
        "the HTML",
        Unit::Bytes,
        102 * 1024,
        "Gmail shows the first 102 KB, and hides the rest behind `View entire message`",
    )
};
const WHATSAPP_TEXT: Limit = limit(
    "text",
    "the text",
    Unit::Characters,
    4_096,
    "https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages: text object, body",
);
const WHATSAPP_BODY: Limit = limit(
    "text",
    "the text of a message with buttons or a header",
    Unit::Characters,
    1_024,
    "https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages: interactive object, body; media object, caption",
);
const WHATSAPP_PARAMETERS: Limit = limit(
    "template",
    "the template's parameters together",
    Unit::Characters,
    1_024,
    "https://developers.facebook.com/docs/whatsapp/business-management-api/message-templates/components: body text",
);
const BUTTON: Limit = limit(
    "buttons",
    "the longest text of a button",
    Unit::Characters,
    20,
    "https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages: reply button, title",
);
const TELEGRAM: Limit = limit(
    "html",
    "the message without its tags",
    Unit::Characters,
    4_096,
    "https://core.telegram.org/bots/api#sendmessage: 1-4096 characters after entities parsing",
);
const APP_PUSH: Limit = limit(
    "title",
    "the payload",
    Unit::Bytes,
    4_096,
    "https://firebase.google.com/docs/cloud-messaging/concept-options: 4096 bytes; Apple, Generating a remote notification: 4 KB",
);
const WEB_PUSH: Limit = limit(
    "title",
    "the payload",
    Unit::Bytes,
    3_000,
    "RFC 8030 section 7.2: 4096 bytes once encrypted; some push services take less, so that our connector sends 3000",
);

/// A limit, and how much of it a message takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measure {
    /// The limit.
    pub limit: Limit,
    /// What the message has.
    pub size: usize,
}

impl Measure {
    /// Whether the message is longer than it may be.
    #[must_use]
    pub const fn is_exceeded(&self) -> bool {
        self.size > self.limit.most
    }
}

/// What a rendered variant takes of each limit of its channel.
#[must_use]
pub fn measures(channel: Channel, variant: &Variant) -> Vec<Measure> {
    let text = || variant.text.as_deref().map(characters);
    let sizes = match channel {
        Channel::Email => {
            vec![
                (SUBJECT, variant.subject.as_deref().map(characters)),
                (CLIPPED, variant.html.as_ref().map(String::len)),
            ]
        }
        Channel::Sms => vec![(SMS, text())],
        Channel::Whatsapp => {
            let is_plain = variant.buttons.is_empty() && variant.header.is_none();
            let parameters = variant.template.as_ref().map(|t| t.parameters.iter().map(|p| characters(p)).sum());
            let button = variant.buttons.iter().map(|button| characters(&button.text)).max();
            vec![
                (if is_plain { WHATSAPP_TEXT } else { WHATSAPP_BODY }, text()),
                (WHATSAPP_PARAMETERS, parameters),
                (BUTTON, button),
            ]
        }
        Channel::Telegram => match &variant.html {
            Some(html) => vec![(TELEGRAM, Some(characters(&without_tags(html))))],
            None => vec![(Limit { field: "text", ..TELEGRAM }, text())],
        },
        Channel::WebPush => vec![(WEB_PUSH, Some(payload(variant)))],
        Channel::AppPush => vec![(APP_PUSH, Some(payload(variant)))],
        Channel::Webhook => Vec::new(),
    };
    sizes.into_iter().filter_map(|(limit, size)| Some(Measure { limit, size: size? })).collect()
}

fn characters(text: &str) -> usize {
    text.chars().count()
}

/// Bytes of a push as JSON, with what is added to it.
fn payload(variant: &Variant) -> usize {
    let Variant { title, text, url, icon, image, data, .. } = variant;
    let texts = json!({"title": title, "body": text, "url": url, "icon": icon, "image": image, "data": data});
    texts.to_string().len() + PUSH_ENVELOPE_BYTES
}

/// What a reader sees of HTML: tags are nothing, and a reference such as `&amp;` is one character.
fn without_tags(html: &str) -> String {
    let (mut text, mut rest) = (String::with_capacity(html.len()), html);
    while let Some(at) = rest.find(['<', '&']) {
        text.push_str(&rest[..at]);
        let (end, shown) = if rest[at..].starts_with('<') { ('>', "") } else { (';', "?") };
        match rest[at..].find(end) {
            Some(length) => {
                text.push_str(shown);
                rest = &rest[at + length + 1..];
            }
            None => break,
        }
    }
    text + rest
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::definitions::{Button, Media, MediaKind};

    /// Each row: a message at the limit, which is not over it, and what makes it one too long.
    #[test]
    fn each_limit_is_where_its_source_says() {
        let text = |n: usize| Variant { text: Some("ñ".repeat(n)), ..Variant::default() };
        let button = |n: usize| Button { text: "ñ".repeat(n), url: None };
        let header = Some(Media { kind: MediaKind::Image, url: String::new() });
        let html = |html: String| Variant { html: Some(html), ..Variant::default() };
        let push = |n: usize| Variant { title: Some("x".repeat(n)), ..Variant::default() };
        let frame = payload(&push(0));
        let cases: [(Channel, &dyn Fn(usize) -> Variant, usize); 9] = [
            (Channel::Sms, &text, 1_600),
            (Channel::Email, &|n| Variant { subject: Some("ñ".repeat(n)), ..Variant::default() }, 78),
            (Channel::Email, &|n| html("x".repeat(n)), 104_448),
            (Channel::Whatsapp, &text, 4_096),
            (Channel::Whatsapp, &|n| Variant { header: header.clone(), ..text(n) }, 1_024),
            (Channel::Whatsapp, &|n| Variant { buttons: vec![button(n), button(1)], ..Variant::default() }, 20),
            (Channel::Telegram, &|n| html(format!("<b>{}</b>", "&amp;".repeat(n))), 4_096),
            (Channel::WebPush, &push, 3_000 - frame),
            (Channel::AppPush, &push, 4_096 - frame),
        ];
        for (channel, variant, most) in cases {
            let exceeded = |n| measures(channel, &variant(n)).iter().any(Measure::is_exceeded);
            assert!(!exceeded(most) && exceeded(most + 1), "{channel} {most}");
        }
    }
}
