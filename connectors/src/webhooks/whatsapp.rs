//! Meta's callbacks about WhatsApp: the subscription, the signature, and what a callback says as receipts and messages. Pure.
//! Sources: <https://developers.facebook.com/docs/graph-api/webhooks/getting-started>,
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages>.
//! They come at least once, in any order, for up to 7 days: a story's line is the same however often it is told.

use super::{
    WebhookError,
    inbound::{Inbound, Keyword},
    is_secret,
};
use crate::channels::{
    Reference,
    whatsapp::{kind_of, words_of},
};
use bellwether_schemas::{
    Channel, Timestamp,
    records::{ErrorKind, Receipt, ReceiptKind},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;
use sha2::Sha256;

/// Header with the signature.
pub const SIGNATURE_HEADER: &str = "X-Hub-Signature-256";

/// Answers Meta's question when the webhook is set up (a GET): what to send back as plain text, given the query's decoded parameters.
///
/// # Errors
/// [`WebhookError::Signature`]: it is not asked with our word.
pub fn subscription(verify_token: &str, query: &[(String, String)]) -> Result<String, WebhookError> {
    let find = |name: &'static str| {
        query.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str()).ok_or(WebhookError::Missing(name))
    };
    let (mode, token, challenge) = (find("hub.mode")?, find("hub.verify_token")?, find("hub.challenge")?);
    if mode != "subscribe" || verify_token.is_empty() || !is_secret(verify_token, token) {
        return Err(WebhookError::Signature);
    }
    Ok(challenge.to_owned())
}

/// Checks that whoever knows the app's secret sent this body: `sha256=` and HMAC-SHA256 over the bytes as they came, in hexadecimal. The
/// comparison takes constant time.
///
/// # Errors
/// [`WebhookError::Signature`].
pub fn verify(app_secret: &str, body: &[u8], signature: &str) -> Result<(), WebhookError> {
    let signature = signature.strip_prefix("sha256=").and_then(unhex).ok_or(WebhookError::Signature)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).map_err(|_| WebhookError::Signature)?;
    mac.update(body);
    mac.verify_slice(&signature).map_err(|_| WebhookError::Signature)
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let (pairs, []) = text.as_bytes().as_chunks::<2>() else { return None };
    pairs.iter().map(|[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// What a callback says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callback {
    /// What became of messages of ours.
    pub receipts: Vec<Receipt>,
    /// What members said.
    pub inbound: Vec<Inbound>,
    /// Why entries say nothing to us, for the log; without anybody's data.
    pub skipped: Vec<&'static str>,
}

/// Reads a verified callback. Fields and kinds that we do not know are fine; an entry that does not read is skipped, and no other for it.
///
/// # Errors
/// The body is no JSON object with a list `entry`.
pub fn read(body: &[u8], now: Timestamp) -> Result<Callback, WebhookError> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| WebhookError::Invalid { field: "body", problem: "is no JSON document".into() })?;
    let entries = body["entry"].as_array().ok_or(WebhookError::Missing("entry"))?;
    let mut callback = Callback::default();
    for change in entries.iter().flat_map(|entry| items(&entry["changes"])) {
        let value = &change["value"];
        for status in items(&value["statuses"]) {
            match receipt(status, now) {
                Ok(receipt) => callback.receipts.extend(receipt),
                Err(reason) => callback.skipped.push(reason),
            }
        }
        for message in items(&value["messages"]) {
            match inbound(message, now) {
                Ok(inbound) => callback.inbound.push(inbound),
                Err(reason) => callback.skipped.push(reason),
            }
        }
        for preference in items(&value["user_preferences"]) {
            match chosen(preference, now) {
                Ok(inbound) => callback.inbound.push(inbound),
                Err(reason) => callback.skipped.push(reason),
            }
        }
    }
    Ok(callback)
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// A part of an entry, if it reads.
fn part<T: DeserializeOwned>(value: &Value, reason: &'static str) -> Result<T, &'static str> {
    T::deserialize(value).map_err(|_| reason)
}

/// Unix seconds as Meta writes them: a text. Nothing happens later than now.
fn at(seconds: Option<&str>, now: Timestamp) -> Timestamp {
    let millis = seconds.and_then(|text| text.parse::<i64>().ok()).and_then(|seconds| seconds.checked_mul(1000));
    millis.filter(|millis| (0..=now.0).contains(millis)).map_or(now, Timestamp)
}

/// `+` and the number that Meta calls a `wa_id`.
fn e164(wa_id: &str) -> Result<String, &'static str> {
    let digits = wa_id.strip_prefix('+').unwrap_or(wa_id);
    if (5..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(format!("+{digits}"));
    }
    Err("its number is no phone number")
}

#[derive(Deserialize)]
struct Status {
    id: String,
    status: String,
    timestamp: Option<String>,
    recipient_id: Option<String>,
    biz_opaque_callback_data: Option<String>,
    #[serde(default)]
    errors: Value,
}

/// A status as a receipt; none for `sent`, because we have our own from the moment Meta took the message.
fn receipt(status: &Value, now: Timestamp) -> Result<Option<Receipt>, &'static str> {
    let status: Status = part(status, "a status without `id` or `status`")?;
    let data =
        status.biz_opaque_callback_data.as_deref().ok_or("a status of a message that carries no reference of ours")?;
    let (token, attempt) = data.split_once('.').unwrap_or((data, "1"));
    let reference = Reference::from_token(token).map_err(|_| "a status of a message with a foreign reference")?;
    let attempt = attempt.parse().ok().filter(|n| *n >= 1).ok_or("a status of a message with a foreign reference")?;
    let (kind, error, detail) = match status.status.as_str() {
        "sent" => return Ok(None),
        "delivered" => (ReceiptKind::Delivered, None, None),
        "read" | "played" => (ReceiptKind::Opened, None, None),
        "failed" => {
            let (error, detail) = failure(&status.errors);
            (ReceiptKind::Failed, Some(error), Some(detail))
        }
        _ => return Err("a status that we do not know"),
    };
    // The address matters only where the receipt acts on it.
    let address = match error {
        Some(ErrorKind::InvalidAddress | ErrorKind::Unreachable) => {
            status.recipient_id.and_then(|wa_id| e164(&wa_id).ok())
        }
        _ => None,
    };
    Ok(Some(Receipt {
        delivery: reference.delivery,
        notification: reference.notification,
        project: reference.project,
        member: reference.member,
        template: reference.template,
        channel: Channel::Whatsapp,
        kind,
        at: at(status.timestamp.as_deref(), now),
        attempt,
        provider: reference.provider,
        provider_id: Some(status.id),
        error,
        detail,
        address,
    }))
}

/// A failure without a code, or with one that we do not know, says nothing against the address.
fn failure(errors: &Value) -> (ErrorKind, String) {
    let error = items(errors).first();
    let Some(code) = error.and_then(|error| error["code"].as_u64()).and_then(|code| u32::try_from(code).ok()) else {
        return (ErrorKind::Rejected, "no error code".into());
    };
    let words = error.and_then(|error| error["title"].as_str());
    (kind_of(code).map_or(ErrorKind::Rejected, |(kind, _)| kind), words_of(code, words))
}

#[derive(Deserialize)]
struct Said {
    from: String,
    id: String,
    timestamp: Option<String>,
    #[serde(rename = "type")]
    kind: String,
}

/// A member's message. One that is no text (a voice, a place) has an empty one: it opens the 24-hour window all the same.
fn inbound(message: &Value, now: Timestamp) -> Result<Inbound, &'static str> {
    let said: Said = part(message, "a message without `from`, `id` or `type`")?;
    let kind = said.kind.as_str();
    let text = match kind {
        "text" => &message["text"]["body"],
        "button" => &message["button"]["text"],
        "interactive" => match &message["interactive"]["button_reply"]["title"] {
            Value::Null => &message["interactive"]["list_reply"]["title"],
            title => title,
        },
        "reaction" => &message["reaction"]["emoji"],
        // A member changed the number: nobody said anything.
        "system" => return Err("a message of WhatsApp's own"),
        _ => &message[kind]["caption"],
    };
    let text = text.as_str().unwrap_or_default().to_owned();
    Ok(Inbound {
        channel: Channel::Whatsapp,
        from: e164(&said.from)?,
        at: at(said.timestamp.as_deref(), now),
        keyword: Keyword::of(&text),
        text,
        id: said.id,
    })
}

#[derive(Deserialize)]
struct Preference {
    wa_id: String,
    value: String,
    #[serde(default)]
    detail: String,
    timestamp: Option<Value>,
}

/// A member's choice in WhatsApp's own menu whether we may send marketing: as good as the word. It has no id, but it can be told from
/// another one by member and time.
fn chosen(preference: &Value, now: Timestamp) -> Result<Inbound, &'static str> {
    let chosen: Preference = part(preference, "a preference without `wa_id` or `value`")?;
    let keyword = match chosen.value.as_str() {
        "stop" => Keyword::Stop,
        "resume" => Keyword::Start,
        _ => return Err("a preference that we do not know"),
    };
    let seconds = chosen.timestamp.map(|seconds| seconds.as_str().map_or_else(|| seconds.to_string(), str::to_owned));
    let (from, at) = (e164(&chosen.wa_id)?, at(seconds.as_deref(), now));
    let id = format!("preference:{from}:{}", at.0);
    Ok(Inbound { channel: Channel::Whatsapp, from, at, text: chosen.detail, keyword: Some(keyword), id })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::{DeliveryId, NotificationId};
    use proptest::prelude::*;
    use serde_json::json;

    const NOW: Timestamp = Timestamp(1_767_323_045_678);
    const THEN: Timestamp = Timestamp(1_767_323_000_000);

    fn reference() -> Reference {
        Reference {
            delivery: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "m1".into(),
            template: "order".into(),
            provider: "wa".into(),
        }
    }

    fn status(status: &str, more: Value) -> Value {
        let mut all = json!({"id": "wamid.1", "status": status, "timestamp": "1767323000", "recipient_id": "16505551234",
            "biz_opaque_callback_data": format!("{}.2", reference().to_token()), "conversation": {"id": "c"}, "new": [1]});
        all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        all
    }

    fn message(kind: &str, part: Value) -> Value {
        json!({"from": "16505551234", "id": "wamid.2", "timestamp": "1767323000", "type": kind, kind: part})
    }

    /// A callback as Meta builds it.
    fn body(value: Value) -> Vec<u8> {
        let value = json!({"object": "whatsapp_business_account", "entry": [{"id": "102", "changes": [
            {"value": value, "field": "messages"},
        ]}]});
        value.to_string().into_bytes()
    }

    fn of(value: Value) -> Callback {
        read(&body(value), NOW).unwrap()
    }

    /// GitHub publishes this example of the same scheme: <https://docs.github.com/webhooks/using-webhooks/validating-webhook-deliveries>.
    #[test]
    fn the_published_signature_verifies_and_no_other() {
        let (secret, body) = ("It's a Secret to Everybody", b"Hello, World!");
        let signature = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
        assert_eq!(verify(secret, body, signature), Ok(()));
        let refused = Err(WebhookError::Signature);
        assert_eq!(verify("It's no Secret", body, signature), refused);
        assert_eq!(verify(secret, b"Hello, World?", signature), refused);
        for bad in
            ["", "sha256=", "sha256=75", "sha256=zz", "sha256=7", "sha1=757107", &signature[7..], &signature[..70]]
        {
            assert_eq!(verify(secret, body, bad), refused, "{bad}");
        }
    }

    #[test]
    fn the_subscription_is_answered_to_whoever_knows_the_word() {
        let query = |mode: &str, token: &str| {
            [("hub.mode", mode), ("hub.verify_token", token), ("hub.challenge", "1158201444")]
                .map(|(n, v)| (n.to_owned(), v.to_owned()))
        };
        assert_eq!(subscription("meatyhamhock", &query("subscribe", "meatyhamhock")), Ok("1158201444".into()));
        for (word, mode, token) in [
            ("meatyhamhock", "subscribe", "meaty"),
            ("meatyhamhock", "unsubscribe", "meatyhamhock"),
            ("", "subscribe", ""),
        ] {
            assert_eq!(subscription(word, &query(mode, token)), Err(WebhookError::Signature));
        }
        assert_eq!(subscription("x", &query("subscribe", "x")[1..]), Err(WebhookError::Missing("hub.mode")));
    }

    #[test]
    fn a_delivery_becomes_a_receipt() {
        let expected = Receipt {
            delivery: reference().delivery,
            notification: reference().notification,
            project: "shop".into(),
            member: "m1".into(),
            template: "order".into(),
            channel: Channel::Whatsapp,
            kind: ReceiptKind::Delivered,
            at: THEN,
            attempt: 2,
            provider: "wa".into(),
            provider_id: Some("wamid.1".into()),
            error: None,
            detail: None,
            address: None,
        };
        let callback = of(json!({"messaging_product": "whatsapp", "statuses": [status("delivered", json!({}))]}));
        assert_eq!(callback, Callback { receipts: vec![expected], ..Callback::default() });
    }

    #[test]
    fn every_status_has_its_meaning() {
        assert_eq!(of(json!({"statuses": [status("sent", json!({}))]})), Callback::default());
        let error = |code: u64| json!({"errors": [{"code": code, "title": "title", "message": "m", "error_data": {}}]});
        for (name, more, kind, error, detail, address) in [
            ("read", json!({}), ReceiptKind::Opened, None, None, None),
            (
                "failed",
                error(131050),
                ReceiptKind::Failed,
                Some(ErrorKind::OptedOut),
                Some("131050: recipient stopped marketing messages"),
                None,
            ),
            (
                "failed",
                error(131026),
                ReceiptKind::Failed,
                Some(ErrorKind::Unreachable),
                Some("131026: message is undeliverable"),
                Some("+16505551234"),
            ),
            (
                "failed",
                error(131049),
                ReceiptKind::Failed,
                Some(ErrorKind::Throttled),
                Some("131049: not delivered to maintain healthy ecosystem engagement"),
                None,
            ),
            ("failed", error(999_999), ReceiptKind::Failed, Some(ErrorKind::Rejected), Some("999999: title"), None),
            ("failed", error(u64::MAX), ReceiptKind::Failed, Some(ErrorKind::Rejected), Some("no error code"), None),
            (
                "failed",
                json!({"errors": "x"}),
                ReceiptKind::Failed,
                Some(ErrorKind::Rejected),
                Some("no error code"),
                None,
            ),
        ] {
            let callback = of(json!({"statuses": [status(name, more)]}));
            let receipt = &callback.receipts[0];
            assert_eq!(
                (receipt.kind, receipt.error, receipt.detail.as_deref(), receipt.address.as_deref()),
                (kind, error, detail, address)
            );
        }
    }

    #[test]
    fn what_is_not_ours_or_odd_is_skipped_and_loses_no_neighbour() {
        let good = status("delivered", json!({}));
        let statuses = [
            status("delivered", json!({"biz_opaque_callback_data": null})),
            status("delivered", json!({"biz_opaque_callback_data": "theirs"})),
            status("delivered", json!({"biz_opaque_callback_data": format!("{}.0", reference().to_token())})),
            status("teleported", json!({})),
            json!({"id": 7}),
            json!("x"),
            good,
            // Who it was is not needed to know that it failed.
            status("failed", json!({"recipient_id": "x", "errors": [{"code": 131026}]})),
        ];
        let messages = [
            json!({"id": "wamid.3"}),
            json!({"from": "not a number", "id": "x", "type": "text"}),
            message("system", json!({"type": "user_changed_number"})),
            message("text", json!({"body": "Hi"})),
        ];
        let callback = of(json!({"statuses": statuses, "messages": messages, "new": 1}));
        assert_eq!((callback.receipts.len(), callback.inbound.len(), callback.skipped.len()), (2, 1, 9));
        assert_eq!(callback.receipts[1].address, None);
        let alone = status("delivered", json!({"biz_opaque_callback_data": reference().to_token()}));
        assert_eq!(of(json!({"statuses": [alone]})).receipts[0].attempt, 1);
        for (odd, field) in [(&b"<html>"[..], "body"), (b"[]", "entry"), (b"{}", "entry")] {
            assert!(read(odd, NOW).unwrap_err().to_string().contains(field));
        }
        assert_eq!(read(br#"{"entry":[7,{"changes":[{"value":7}]}]}"#, NOW), Ok(Callback::default()));
    }

    #[test]
    fn what_a_member_says_is_read_whatever_its_kind() {
        for (message, text, keyword) in [
            (message("text", json!({"body": "Hi there"})), "Hi there", None),
            (message("text", json!({"body": "STOP"})), "STOP", Some(Keyword::Stop)),
            (message("button", json!({"text": "Baja", "payload": "x"})), "Baja", Some(Keyword::Stop)),
            (
                message("interactive", json!({"type": "button_reply", "button_reply": {"id": "0", "title": "Yes"}})),
                "Yes",
                None,
            ),
            (
                message("interactive", json!({"type": "list_reply", "list_reply": {"id": "0", "title": "Help"}})),
                "Help",
                Some(Keyword::Help),
            ),
            (message("image", json!({"id": "1", "caption": "Look"})), "Look", None),
            (message("audio", json!({"id": "1"})), "", None),
            (message("reaction", json!({"message_id": "wamid.1", "emoji": "👍"})), "👍", None),
            (message("novelty", json!(7)), "", None),
        ] {
            let expected = Inbound {
                channel: Channel::Whatsapp,
                from: "+16505551234".into(),
                at: THEN,
                text: text.into(),
                keyword,
                id: "wamid.2".into(),
            };
            assert_eq!(of(json!({"messages": [message]})).inbound, [expected]);
        }
    }

    #[test]
    fn a_choice_in_whatsapps_menu_is_as_good_as_the_word() {
        for (value, keyword) in [("stop", Keyword::Stop), ("resume", Keyword::Start)] {
            let chosen = json!({"wa_id": "16505551234", "detail": "User requested to stop", "category": "marketing_messages",
                "value": value, "timestamp": 1_767_323_000});
            let inbound = &of(json!({"user_preferences": [chosen, {"wa_id": "1"}]})).inbound;
            assert_eq!((inbound.len(), inbound[0].keyword, inbound[0].at), (1, Some(keyword), THEN));
            assert_eq!(inbound[0].id, "preference:+16505551234:1767323000000");
        }
    }

    #[test]
    fn a_time_that_cannot_be_is_now() {
        for odd in [json!(null), json!("x"), json!("9999999999"), json!("-1"), json!("9223372036854775807")] {
            let callback = of(json!({"statuses": [status("read", json!({"timestamp": odd}))]}));
            assert_eq!(callback.receipts[0].at, NOW);
        }
    }

    fn anything() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from)
        ];
        let name = "entry|changes|value|statuses|messages|status|id|from|type|text|body|errors|code|[a-z]{1,4}";
        leaf.prop_recursive(6, 40, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map(name, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_callback_makes_us_panic(any in anything(), bytes in prop::collection::vec(any::<u8>(), 0..100), word in any::<String>()) {
            read(any.to_string().as_bytes(), NOW).ok();
            read(json!({"entry": [{"changes": [{"value": any}]}]}).to_string().as_bytes(), NOW).ok();
            of(json!({"statuses": [any], "messages": [any], "user_preferences": [any]}));
            read(&bytes, NOW).ok();
            verify(&word, &bytes, &format!("sha256={word}")).ok();
        }
    }
}
