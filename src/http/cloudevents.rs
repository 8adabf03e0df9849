//! CloudEvents 1.0 in JSON as events: the attributes are read in place, `data` is checked and copied once.
//! Pure: nothing here knows of HTTP, but the binary mode's rule for header values.

use super::problem::FieldError;
use base64::Engine;
use bellwether_schemas::{Timestamp, records::Event};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, cell::Cell, fmt};

/// Most bytes of `subject` (`client_user_id`).
pub const MAX_SUBJECT_BYTES: usize = 256;
/// Most bytes of `id`, `source` and `type`.
pub const MAX_ATTRIBUTE_BYTES: usize = 1_024;
/// Most bytes of `data`.
pub const MAX_DATA_BYTES: usize = 256 * 1_024;

/// The elements of a batch, each still unread, so that a bad one harms no neighbour.
///
/// # Errors
/// The text is no JSON array, or has more than `max` elements.
pub fn split_batch(body: &[u8], max: usize) -> Result<Vec<&RawValue>, FieldError> {
    struct Elements(usize);
    impl<'de> Visitor<'de> for Elements {
        type Value = Option<Vec<&'de RawValue>>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of events")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut elements = Vec::with_capacity(64);
            while elements.len() < self.0 {
                match seq.next_element()? {
                    Some(element) => elements.push(element),
                    None => return Ok(Some(elements)),
                }
            }
            let mut over = false;
            while seq.next_element::<IgnoredAny>()?.is_some() {
                over = true;
            }
            Ok((!over).then_some(elements))
        }
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let elements = json.deserialize_seq(Elements(max)).and_then(|elements| json.end().map(|()| elements));
    match elements {
        Ok(Some(elements)) => Ok(elements),
        Ok(None) => Err(FieldError::new("body", format!("has more than {max} events"), "send several smaller batches")),
        Err(error) => Err(FieldError::new("body", format!("is not a JSON array: {error}"), "send an array of events")),
    }
}

/// Reads one event in structured mode.
///
/// # Errors
/// The first field that is not acceptable.
pub fn parse_structured(text: &str, project: &str, now: Timestamp) -> Result<Event, FieldError> {
    let at = Cell::new("event");
    let mut json = serde_json::Deserializer::from_str(text);
    let read = json.deserialize_any(Attributes(&at)).and_then(|wire| json.end().map(|()| wire));
    match read {
        Ok(Ok(wire)) => wire.check(project, now),
        Ok(Err(error)) => Err(error),
        Err(error) => Err(FieldError::new(
            at.get(),
            format!("is not readable: {error}"),
            "send a JSON object with the attributes of CloudEvents 1.0",
        )),
    }
}

/// Reads one event in binary mode: attributes from the `ce-` headers, data from the body.
/// `header` looks a value up by its lower-case name; `None` stands for absent, `Some(Err)` for bytes that are no text.
///
/// # Errors
/// The first field that is not acceptable.
pub fn parse_binary<'h>(
    header: impl Fn(&str) -> Option<&'h [u8]>,
    content_type: Option<&str>,
    body: &[u8],
    project: &str,
    now: Timestamp,
) -> Result<Event, FieldError> {
    let attribute = |name: &'static str| -> Result<Option<Text<'_>>, FieldError> {
        header(&format!("ce-{name}")).map(|value| percent_decoded(name, value).map(Text::Text)).transpose()
    };
    let body = std::str::from_utf8(body)
        .map_err(|e| FieldError::new("data", format!("is not UTF-8: {e}"), "send JSON in UTF-8"))?;
    let data = if body.trim().is_empty() {
        None
    } else {
        let raw = serde_json::from_str::<&RawValue>(body)
            .map_err(|e| FieldError::new("data", format!("is not JSON: {e}"), "send JSON as the body"))?;
        Some(raw)
    };
    let wire = Wire {
        specversion: attribute("specversion")?,
        id: attribute("id")?,
        source: attribute("source")?,
        kind: attribute("type")?,
        subject: attribute("subject")?,
        time: attribute("time")?,
        datacontenttype: content_type.map(|t| Text::Text(Cow::Borrowed(t))),
        data,
        data_base64: None,
    };
    wire.check(project, now)
}

/// HTTP protocol binding 1.0.2 section 3.1.3.2: header values are percent-encoded UTF-8.
fn percent_decoded<'v>(name: &str, value: &'v [u8]) -> Result<Cow<'v, str>, FieldError> {
    let bad = |_| FieldError::new(name, "is not percent-encoded UTF-8", "encode the header's value as `%XX`");
    if !value.contains(&b'%') {
        return std::str::from_utf8(value).map(Cow::Borrowed).map_err(bad);
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let [first, tail @ ..] = rest {
        let digit = |n: usize| tail.get(n).and_then(|d| char::from(*d).to_digit(16));
        match (first, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
                rest = &tail[2..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8(bytes).map(Cow::Owned).map_err(|e| bad(e.utf8_error()))
}

/// The attributes as they came.
#[derive(Default)]
struct Wire<'a> {
    specversion: Option<Text<'a>>,
    id: Option<Text<'a>>,
    source: Option<Text<'a>>,
    kind: Option<Text<'a>>,
    subject: Option<Text<'a>>,
    time: Option<Text<'a>>,
    datacontenttype: Option<Text<'a>>,
    data: Option<&'a RawValue>,
    data_base64: Option<Text<'a>>,
}

impl Wire<'_> {
    fn check(self, project: &str, now: Timestamp) -> Result<Event, FieldError> {
        match optional("specversion", self.specversion, 16)?.as_deref() {
            Some("1.0") => {}
            Some(_) => return Err(FieldError::new("specversion", "is not `1.0`", "send CloudEvents 1.0")),
            None => return Err(FieldError::new("specversion", "is missing", "send `1.0`")),
        }
        let id = required("id", self.id, MAX_ATTRIBUTE_BYTES, "send an id that is unique within the source")?;
        let source = required("source", self.source, MAX_ATTRIBUTE_BYTES, "send a URI reference of the producer")?;
        let kind = required("type", self.kind, MAX_ATTRIBUTE_BYTES, "send the type that flows are triggered by")?;
        let subject = required("subject", self.subject, MAX_SUBJECT_BYTES, "send the client_user_id of the member")?;
        let time = match optional("time", self.time, 64)? {
            None => now,
            Some(text) => Timestamp::parse(&text).map_err(|_| {
                FieldError::new("time", "is not an RFC 3339 date-time", "send one like `2026-03-01T12:00:00Z`")
            })?,
        };
        if let Some(media) = optional("datacontenttype", self.datacontenttype, 256)?
            && !is_json(&media)
        {
            let remedy = "send `application/json`, or a type that ends in `+json`";
            return Err(FieldError::new("datacontenttype", "is not JSON", remedy));
        }
        let data = data(self.data, self.data_base64)?;
        Ok(Event { project: project.into(), id, source, kind, subject: Some(subject), time, accepted_at: now, data })
    }
}

/// Whether a media type is JSON (RFC 6838: `+json` suffix).
pub(super) fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence == "text/json" || essence.ends_with("+json")
}

fn data(plain: Option<&RawValue>, base64: Option<Text<'_>>) -> Result<String, FieldError> {
    let too_large = || {
        let detail = format!("is larger than {MAX_DATA_BYTES} bytes");
        FieldError::new("data", detail, "send a reference to the large part instead")
    };
    let text = match (plain, optional("data_base64", base64, MAX_DATA_BYTES * 4 / 3 + 4)?) {
        (None, None) => return Ok("null".into()),
        (Some(_), Some(_)) => {
            return Err(FieldError::new("data_base64", "stands beside `data`", "send one of the two"));
        }
        (Some(raw), None) if raw.get().len() > MAX_DATA_BYTES => return Err(too_large()),
        (Some(raw), None) => raw.get().to_owned(),
        (None, Some(encoded)) => base64::engine::general_purpose::STANDARD
            .decode(encoded.as_bytes())
            .ok()
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .ok_or_else(|| FieldError::new("data_base64", "is not JSON in Base64", "send `data` as JSON"))?,
    };
    if text.len() > MAX_DATA_BYTES {
        return Err(too_large());
    }
    // Skipping a value is laxer than reading it: what no later reader could read is refused while the producer listens.
    serde_json::from_str::<Readable>(&text)
        .map_err(|e| FieldError::new("data", format!("is not JSON that can be read: {e}"), "correct the JSON"))?;
    Ok(text)
}

fn required(field: &'static str, value: Option<Text<'_>>, max: usize, remedy: &str) -> Result<String, FieldError> {
    match optional(field, value, max)? {
        None => Err(FieldError::new(field, "is missing", remedy)),
        Some(text) if text.is_empty() => Err(FieldError::new(field, "is empty", remedy)),
        Some(text) => Ok(text.into_owned()),
    }
}

fn optional<'a>(field: &'static str, value: Option<Text<'a>>, max: usize) -> Result<Option<Cow<'a, str>>, FieldError> {
    match value {
        None => Ok(None),
        Some(Text::Other) => Err(FieldError::new(field, "is not a string", "send a JSON string")),
        Some(Text::Text(text)) if text.len() > max => {
            Err(FieldError::new(field, format!("has more than {max} bytes"), "send a shorter one"))
        }
        // CloudEvents 1.0 section 3.1: a String holds no control characters.
        Some(Text::Text(text)) if text.chars().any(char::is_control) => {
            Err(FieldError::new(field, "has a control character", "send printable characters only"))
        }
        Some(Text::Text(text)) => Ok(Some(text)),
    }
}

/// A string attribute, or something else in its place.
enum Text<'a> {
    Text(Cow<'a, str>),
    Other,
}

/// Reads a JSON object's members into [`Wire`]; `at` tells which one was being read when the reader gave up.
/// The inner error is a member that is there twice.
struct Attributes<'c>(&'c Cell<&'static str>);

impl<'de> Visitor<'de> for Attributes<'_> {
    type Value = Result<Wire<'de>, FieldError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut wire = Wire::default();
        let mut seen = [false; NAMES.len()];
        let mut twice = None;
        loop {
            self.0.set("event");
            let Some(name) = map.next_key_seed(Name)? else { break };
            let Some(index) = name else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            self.0.set(NAMES[index]);
            if std::mem::replace(&mut seen[index], true) {
                twice = Some(FieldError::new(NAMES[index], "is there twice", "send it once"));
            }
            match NAMES[index] {
                "specversion" => wire.specversion = map.next_value_seed(MaybeText)?,
                "id" => wire.id = map.next_value_seed(MaybeText)?,
                "source" => wire.source = map.next_value_seed(MaybeText)?,
                "type" => wire.kind = map.next_value_seed(MaybeText)?,
                "subject" => wire.subject = map.next_value_seed(MaybeText)?,
                "time" => wire.time = map.next_value_seed(MaybeText)?,
                "datacontenttype" => wire.datacontenttype = map.next_value_seed(MaybeText)?,
                "data_base64" => wire.data_base64 = map.next_value_seed(MaybeText)?,
                _ => wire.data = Some(map.next_value()?),
            }
        }
        Ok(twice.map_or(Ok(wire), Err))
    }
}

const NAMES: [&str; 9] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"];

/// A member's name as an index of [`NAMES`], or `None`: extension attributes are not ours to judge.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<usize>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<usize>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an attribute name")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(NAMES.iter().position(|known| *known == name))
    }
}

/// A string, borrowed where it has no escapes; null is absent (JSON format 1.0.2 section 2.2).
struct MaybeText;

impl<'de> DeserializeSeed<'de> for MaybeText {
    type Value = Option<Text<'de>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for MaybeText {
    type Value = Option<Text<'de>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Some(Text::Text(Cow::Borrowed(text))))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Some(Text::Text(Cow::Owned(text.to_owned()))))
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Some(Text::Other))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Some(Text::Other))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Some(Text::Other))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Some(Text::Other))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Some(Text::Other))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Some(Text::Other))
    }
}

/// Any JSON value that a reader with the usual limits (nesting, numbers, surrogates) can read; keeps nothing of it.
struct Readable;

impl<'de> Deserialize<'de> for Readable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Readable {
    type Value = Self;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while seq.next_element::<Self>()?.is_some() {}
        Ok(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        while map.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const NOW: Timestamp = Timestamp(1_772_366_400_000);

    fn order() -> Value {
        json!({
            "specversion": "1.0", "id": "o-1", "source": "/shop", "type": "order.placed", "subject": "anna",
            "time": "2026-03-01T12:00:00+01:00", "datacontenttype": "application/json", "traceparent": "00-ab",
            "data": {"total": 12.5, "lines": [1, 2]},
        })
    }

    fn parse(value: &Value) -> Result<Event, FieldError> {
        parse_structured(&value.to_string(), "shop", NOW)
    }

    #[test]
    fn a_whole_event_is_read() {
        let event = parse(&order()).unwrap();
        assert_eq!((event.id.as_str(), event.source.as_str(), event.kind.as_str()), ("o-1", "/shop", "order.placed"));
        assert_eq!((event.subject.as_deref(), event.project.as_str()), (Some("anna"), "shop"));
        assert_eq!((event.time.to_string().as_str(), event.accepted_at), ("2026-03-01T11:00:00Z", NOW));
        assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap(), order()["data"]);
    }

    #[test]
    fn each_refusal_names_its_field_and_a_remedy() {
        let long = "x".repeat(257);
        let cases = [
            ("specversion", json!("0.3")),
            ("specversion", json!(1.0)),
            ("specversion", json!(null)),
            ("id", json!("")),
            ("id", json!(7)),
            ("id", json!("a\u{0}b")),
            ("source", json!(["x"])),
            ("type", json!({"a": 1})),
            ("subject", json!(null)),
            ("subject", json!(long)),
            ("time", json!("yesterday")),
            ("time", json!("2026-13-01T00:00:00Z")),
            ("datacontenttype", json!("text/xml")),
            ("data", json!("x".repeat(MAX_DATA_BYTES))),
            ("data_base64", json!("e30=")),
        ];
        for (field, value) in cases {
            let mut event = order();
            event[field] = value;
            let error = parse(&event).unwrap_err();
            assert_eq!(error.field, field, "{error}");
            assert!(!error.remedy.is_empty() && !error.detail.is_empty());
        }
    }

    #[test]
    fn data_that_no_reader_could_read_is_refused_at_the_door() {
        for data in ["1e999", "\"\\ud800\"", &format!("{}{}", "[".repeat(300), "]".repeat(300))] {
            let text = order().to_string().replace(&order()["data"].to_string(), data);
            assert_eq!(parse_structured(&text, "shop", NOW).unwrap_err().field, "data", "{data}");
        }
        let twice = r#"{"specversion":"1.0","id":"a","id":"b","source":"s","type":"t","subject":"m"}"#;
        assert_eq!(parse_structured(twice, "shop", NOW).unwrap_err().field, "id");
        let surrogate = r#"{"specversion":"1.0","id":"\ud800","source":"s","type":"t","subject":"m"}"#;
        assert_eq!(parse_structured(surrogate, "shop", NOW).unwrap_err().field, "id");
    }

    #[test]
    fn base64_data_is_json_too() {
        let mut event = order();
        event.as_object_mut().unwrap().remove("data");
        event["data_base64"] = json!("eyJhIjoxfQ==");
        assert_eq!(parse(&event).unwrap().data, r#"{"a":1}"#);
        event["data_base64"] = json!("/w==");
        assert_eq!(parse(&event).unwrap_err().field, "data_base64");
    }

    #[test]
    fn binary_mode_decodes_header_values() {
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-id", "a%20b%E2%82%AC"),
            ("ce-source", "/s"),
            ("ce-type", "t"),
            ("ce-subject", "100%"),
        ];
        let header = |name: &str| headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_bytes());
        let event = parse_binary(header, Some("application/json"), b" {\"a\":1} ", "shop", NOW).unwrap();
        assert_eq!((event.id.as_str(), event.subject.as_deref()), ("a b€", Some("100%")));
        assert_eq!(event.data, "{\"a\":1}");
        assert_eq!(parse_binary(header, None, b"", "shop", NOW).unwrap().data, "null");
        assert_eq!(parse_binary(header, None, b"{", "shop", NOW).unwrap_err().field, "data");
        assert_eq!(parse_binary(header, Some("text/plain"), b"1", "shop", NOW).unwrap_err().field, "datacontenttype");
    }

    #[test]
    fn a_batch_is_bounded() {
        assert_eq!(split_batch(b"[1,{},\"x\"]", 3).unwrap().len(), 3);
        assert_eq!(split_batch(b"[]", 3).unwrap().len(), 0);
        assert!(split_batch(b"[1,2,3,4]", 3).unwrap_err().detail.contains("more than 3"));
        for broken in [&b"{}"[..], b"[1,", b"[1]x", b"", b"\xff"] {
            assert_eq!(split_batch(broken, 3).unwrap_err().field, "body");
        }
    }

    proptest! {
        #[test]
        fn any_text_gives_an_event_or_a_named_field(text in ".{0,200}") {
            if let Err(error) = parse_structured(&text, "shop", NOW) {
                prop_assert!(!error.field.is_empty() && !error.remedy.is_empty());
            }
        }

        #[test]
        fn any_damage_gives_an_event_or_a_named_field(at in 0usize..250, byte in any::<u8>()) {
            let mut bytes = order().to_string().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(text) = std::str::from_utf8(&bytes)
                && let Err(error) = parse_structured(text, "shop", NOW)
            {
                prop_assert!(!error.field.is_empty() && !error.remedy.is_empty());
            }
        }

        #[test]
        fn whatever_is_accepted_can_be_read_again(data in "[\\[\\]{}\":,0-9eE.a-z\\\\-]{0,40}") {
            let text = order().to_string().replace(&order()["data"].to_string(), &data);
            if let Ok(event) = parse_structured(&text, "shop", NOW) {
                prop_assert!(serde_json::from_str::<Value>(&event.data).is_ok());
            }
        }
    }
}
