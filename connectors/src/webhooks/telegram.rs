//! What Telegram tells a bot: the callback's secret, what an update says, and the links by which a member's chat becomes known. Pure.
//! Sources: <https://core.telegram.org/bots/api#update>, <https://core.telegram.org/bots/features#deep-linking>.

use super::{
    WebhookError,
    inbound::{Inbound, Keyword},
    is_secret,
};
use bellwether_schemas::{Channel, Timestamp};
use serde_json::Value;

/// Header with the word that we gave when the webhook was set.
pub const SECRET_HEADER: &str = "X-Telegram-Bot-Api-Secret-Token";

/// Checks that the callback says our word, in constant time.
///
/// # Errors
/// [`WebhookError::Signature`].
pub fn verify(secret: &str, given: &str) -> Result<(), WebhookError> {
    if !secret.is_empty() && is_secret(secret, given) { Ok(()) } else { Err(WebhookError::Signature) }
}

/// Reads a verified callback: one update.
///
/// # Errors
/// It is no JSON document, or has no `update_id`.
pub fn read(body: &[u8]) -> Result<Update, WebhookError> {
    let update: Value = serde_json::from_slice(body)
        .map_err(|_| WebhookError::Invalid { field: "body", problem: "is no JSON document".into() })?;
    Update::of(&update).ok_or(WebhookError::Missing("update_id"))
}

/// One update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Its number, to know a repetition by and to fetch on from.
    pub id: i64,
    /// What it says, if it is something to us.
    pub event: Option<Event>,
}

/// What an update says. Chats are addresses: their numbers as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A member came by a link: `/start PAYLOAD` in a chat of two. In a group it links nothing, because what is for one would be read by all.
    Linked {
        /// The member's chat.
        chat: String,
        /// What the link carried: 1 to 64 of `A-Z a-z 0-9 _ -`.
        payload: String,
        /// When.
        at: Timestamp,
    },
    /// A member said something; `/stop`, `/start` and `/help` are keywords.
    Said(Inbound),
    /// A member blocked the bot, or a group removed it.
    Blocked {
        /// The chat.
        chat: String,
        /// When.
        at: Timestamp,
    },
    /// A member lifted the block, or a group took the bot in.
    Unblocked {
        /// The chat.
        chat: String,
        /// When.
        at: Timestamp,
    },
    /// A group became a supergroup, which is another chat.
    Moved {
        /// The old chat.
        from: String,
        /// The new one.
        to: String,
    },
}

impl Update {
    /// Reads an update as JSON; `None` where it has no number.
    #[must_use]
    pub fn of(update: &Value) -> Option<Self> {
        let id = update["update_id"].as_i64()?;
        let event = message(&update["message"]).or_else(|| membership(&update["my_chat_member"]));
        Some(Self { id, event })
    }
}

fn chat_of(value: &Value) -> Option<String> {
    value["chat"]["id"].as_i64().map(|id| id.to_string())
}

fn at(value: &Value) -> Option<Timestamp> {
    value["date"].as_i64()?.checked_mul(1000).map(Timestamp)
}

fn message(message: &Value) -> Option<Event> {
    let (chat, at) = (chat_of(message)?, at(message)?);
    if let Some(to) = message["migrate_to_chat_id"].as_i64() {
        return Some(Event::Moved { from: chat, to: to.to_string() });
    }
    if let Some(from) = message["migrate_from_chat_id"].as_i64() {
        return Some(Event::Moved { from: from.to_string(), to: chat });
    }
    let text = message["text"].as_str().or_else(|| message["caption"].as_str())?;
    let keyword = match command(text) {
        Some(("start", payload)) if !payload.is_empty() && message["chat"]["type"] == "private" => {
            return Some(Event::Linked { chat, payload: payload.to_owned(), at });
        }
        Some(("start", _)) => Some(Keyword::Start),
        Some(("stop", _)) => Some(Keyword::Stop),
        Some(("help", _)) => Some(Keyword::Help),
        Some(_) => None,
        None => Keyword::of(text),
    };
    // A message's number is its chat's own.
    let id = format!("{chat}:{}", message["message_id"].as_i64()?);
    Some(Event::Said(Inbound { channel: Channel::Telegram, from: chat, at, text: text.to_owned(), keyword, id }))
}

/// `/name@bot rest` as name and rest.
fn command(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix('/')?;
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    Some((word.split('@').next().unwrap_or(word), rest.trim()))
}

fn membership(member: &Value) -> Option<Event> {
    let (chat, at) = (chat_of(member)?, at(member)?);
    match member["new_chat_member"]["status"].as_str()? {
        "kicked" | "left" => Some(Event::Blocked { chat, at }),
        "member" | "administrator" => Some(Event::Unblocked { chat, at }),
        _ => None,
    }
}

/// The link that carries `payload`, to the bot of this name (without `@`).
#[must_use]
pub fn deep_link(bot: &str, payload: &str) -> String {
    format!("https://t.me/{bot}?start={payload}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const THEN: Timestamp = Timestamp(1_767_323_000_000);

    fn update(part: &str, value: Value) -> Value {
        json!({"update_id": 10, part: value, "new": [1]})
    }

    fn event(update: &Value) -> Option<Event> {
        read(update.to_string().as_bytes()).unwrap().event
    }

    fn said(text: &str, kind: &str) -> Value {
        update(
            "message",
            json!({"message_id": 3, "date": 1_767_323_000, "text": text, "chat": {"id": 7, "type": kind},
            "from": {"id": 7, "is_bot": false, "first_name": "Ana"}}),
        )
    }

    #[test]
    fn the_word_must_be_ours() {
        assert_eq!(verify("s3cret", "s3cret"), Ok(()));
        for (secret, given) in [("s3cret", "s3cre"), ("s3cret", "S3cret"), ("s3cret", ""), ("", "")] {
            assert_eq!(verify(secret, given), Err(WebhookError::Signature));
        }
    }

    #[test]
    fn what_a_member_says_is_read() {
        for (text, keyword) in [
            ("Hi", None),
            ("/stop", Some(Keyword::Stop)),
            ("/stop@our_bot please", Some(Keyword::Stop)),
            ("/start", Some(Keyword::Start)),
            ("/start  ", Some(Keyword::Start)),
            ("/help", Some(Keyword::Help)),
            ("/stopwatch", None),
            ("/cancel", None),
            ("BAJA", Some(Keyword::Stop)),
            ("/", None),
        ] {
            let expected = Inbound {
                channel: Channel::Telegram,
                from: "7".into(),
                at: THEN,
                text: text.into(),
                keyword,
                id: "7:3".into(),
            };
            assert_eq!(event(&said(text, "private")), Some(Event::Said(expected)), "{text}");
        }
    }

    #[test]
    fn a_link_links_a_chat_of_two_only() {
        let linked = Event::Linked { chat: "7".into(), payload: "abc-_1".into(), at: THEN };
        assert_eq!(event(&said("/start abc-_1", "private")), Some(linked.clone()));
        assert_eq!(event(&said("/start@our_bot abc-_1", "private")), Some(linked));
        let Some(Event::Said(inbound)) = event(&said("/start abc-_1", "group")) else { panic!("a group was linked") };
        assert_eq!(inbound.keyword, Some(Keyword::Start));
    }

    #[test]
    fn blocks_and_moves_are_read() {
        let member = |status: &str| {
            update(
                "my_chat_member",
                json!({"chat": {"id": 7, "type": "private"}, "date": 1_767_323_000,
                "old_chat_member": {"status": "x"}, "new_chat_member": {"status": status, "user": {"id": 1}}}),
            )
        };
        let (chat, at) = ("7".to_owned(), THEN);
        for status in ["kicked", "left"] {
            assert_eq!(event(&member(status)), Some(Event::Blocked { chat: chat.clone(), at }));
        }
        for status in ["member", "administrator"] {
            assert_eq!(event(&member(status)), Some(Event::Unblocked { chat: chat.clone(), at }));
        }
        assert_eq!(event(&member("restricted")), None);
        let moved = |field: &str, here: i64, there: i64| {
            update("message", json!({"message_id": 1, "date": 1, "chat": {"id": here, "type": "group"}, field: there}))
        };
        let expected = Some(Event::Moved { from: "-7".into(), to: "-1001234567890".into() });
        assert_eq!(event(&moved("migrate_to_chat_id", -7, -1_001_234_567_890)), expected);
        assert_eq!(event(&moved("migrate_from_chat_id", -1_001_234_567_890, -7)), expected);
    }

    #[test]
    fn what_says_nothing_to_us_has_its_number_all_the_same() {
        for odd in [
            json!({}),
            json!("x"),
            json!({"chat": {"id": "7"}, "date": 1, "text": "x"}),
            json!({"chat": {"id": 7}, "date": i64::MAX}),
        ] {
            assert_eq!(read(update("message", odd).to_string().as_bytes()), Ok(Update { id: 10, event: None }));
        }
        assert_eq!(event(&update("callback_query", json!({}))), None);
        assert_eq!(read(b"{}"), Err(WebhookError::Missing("update_id")));
        assert!(matches!(read(b"<html>"), Err(WebhookError::Invalid { field: "body", .. })));
    }

    proptest! {
        #[test]
        fn no_update_makes_us_panic(text in any::<String>(), date in any::<i64>(), id in any::<i64>(), bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let message = json!({"message_id": id, "date": date, "text": text, "chat": {"id": id, "type": "private"}});
            event(&update("message", message));
            event(&update(if text.is_empty() { "message" } else { &text }, json!({"chat": id})));
            read(&bytes).ok();
        }
    }
}
