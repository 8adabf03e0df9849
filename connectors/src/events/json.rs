//! CloudEvents in JSON, one or a batch, and what may stand in `data`. Attributes are read in place; `data` is checked and copied once.
//! Which attributes an event must have is not said here.

use super::{Attributes, EventError, EventErrorKind, MAX_DATA_BYTES, MAX_EVENT_BYTES, Tenancy, event};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use bellwether_schemas::{Timestamp, records::Event};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;
use std::{borrow::Cow, fmt};

/// Nesting of `data`: below the 128 levels that JSON parsers commonly take, because `data` is wrapped on its way.
const MAX_DEPTH: u8 = 100;

/// Reads one event in JSON (CloudEvents 1.0 JSON format, section 3). With `project`, that is the event's project and the event may not name
/// another; without, the extension attribute `project` names it. An event without `time` happened `now`.
///
/// # Errors
/// See [`EventError`].
pub fn parse_structured(json: &[u8], project: Option<&str>, now: Timestamp) -> Result<Event, EventError> {
    structured(json, Tenancy::of(project), now)
}

/// Reads an array of at most `max` events in JSON (CloudEvents 1.0 JSON format, section 4), each as [`parse_structured`] does when the
/// iterator comes to it: one bad event does not harm its neighbours.
///
/// # Errors
/// The whole is no JSON array, or too long a one; the field is then `body`.
pub fn parse_batch<'a>(
    json: &'a [u8],
    max: usize,
    project: Option<&'a str>,
    now: Timestamp,
) -> Result<impl ExactSizeIterator<Item = Result<Event, EventError>> + 'a, EventError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let malformed = |problem, remedy| EventError::new(EventErrorKind::Malformed, "body", problem, remedy);
    let elements = Elements { max }
        .deserialize(&mut deserializer)
        .and_then(|elements| deserializer.end().map(|()| elements))
        .map_err(|e| malformed(format!("is no JSON array: {}", syntax(&e)), "send `[{…}, {…}]`"))?
        .ok_or_else(|| malformed(format!("has more than {max} events"), "send several smaller batches"))?;
    Ok(elements.into_iter().map(move |event| one(event.get(), Tenancy::of(project), now)))
}

pub(super) fn structured(json: &[u8], tenancy: Tenancy<'_>, now: Timestamp) -> Result<Event, EventError> {
    match std::str::from_utf8(json) {
        Ok(json) => one(json, tenancy, now),
        Err(_) => Err(EventError::malformed("is in no known encoding", KNOWN_ENCODINGS)),
    }
}

const KNOWN_ENCODINGS: &str =
    "send CloudEvents 1.0 as JSON in UTF-8 (structured, or binary with `ce_` headers) or Avro";

fn one(json: &str, tenancy: Tenancy<'_>, now: Timestamp) -> Result<Event, EventError> {
    if json.len() > MAX_EVENT_BYTES {
        return Err(too_large("event", json.len(), MAX_EVENT_BYTES));
    }
    match json.bytes().find(|b| !b.is_ascii_whitespace()) {
        Some(b'{') => {}
        Some(b'[') => {
            let remedy = "send one event a record; over HTTP, a batch by its content type";
            return Err(EventError::malformed("is a list, where one event is expected", remedy));
        }
        None => return Err(EventError::malformed("is empty", "send a CloudEvent")),
        Some(_) => return Err(EventError::malformed("is in no known encoding", KNOWN_ENCODINGS)),
    }
    let members: Members<'_> = serde_json::from_str(json)
        .map_err(|e| EventError::malformed(format!("is no JSON: {}", syntax(&e)), "send one JSON object"))?;
    if let Some(name) = members.twice {
        return Err(EventError::invalid(name, "is there twice", "send it once"));
    }
    let mut attributes = Attributes::default();
    let (mut data, mut data_base64) = (None, None);
    for (name, value) in NAMES.into_iter().zip(members.values) {
        let Some(value) = value.filter(|value| value.get() != "null") else { continue };
        match attributes.slot(name) {
            Some(slot) => *slot = Some(text(name, value)?),
            None if name == "data" => data = Some(value.get()),
            None => data_base64 = Some(text(name, value)?),
        }
    }
    let data = match (data, data_base64) {
        (data, None) => Cow::Borrowed(data.unwrap_or("null")),
        (None, Some(encoded)) => Cow::Owned(decoded(&encoded)?),
        (Some(_), Some(_)) => {
            return Err(EventError::invalid("data_base64", "stands beside `data`", "send one of the two"));
        }
    };
    event(attributes, data, tenancy, now)
}

/// A string, borrowed unless it has escapes.
fn text<'a>(name: &str, value: &'a RawValue) -> Result<Cow<'a, str>, EventError> {
    match value.get().strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(plain) if !plain.contains('\\') => Ok(Cow::Borrowed(plain)),
        Some(_) => serde_json::from_str(value.get()).map(Cow::Owned).map_err(|_| {
            EventError::invalid(name, "is not Unicode text", "escape characters outside the basic plane by pairs")
        }),
        None => Err(EventError::invalid(name, "is not text", "send a JSON string")),
    }
}

/// JSON that travels as bytes (CloudEvents 1.0 JSON format, section 3.1).
fn decoded(data_base64: &str) -> Result<String, EventError> {
    let bytes = BASE64_STANDARD.decode(data_base64).ok();
    bytes
        .and_then(|bytes| String::from_utf8(bytes).ok())
        .ok_or_else(|| EventError::invalid("data_base64", "is not JSON in Base64", "send JSON in `data`"))
}

/// The data of an event whose attributes are in headers; an empty body is null.
pub(super) fn body(body: &[u8]) -> Result<Cow<'_, str>, EventError> {
    let text = std::str::from_utf8(body)
        .map_err(|_| EventError::invalid("data", "is not UTF-8", "send JSON, encoded in UTF-8"))?
        .trim_matches([' ', '\t', '\r', '\n']);
    Ok(Cow::Borrowed(if text.is_empty() { "null" } else { text }))
}

pub(super) fn too_large(field: &str, bytes: usize, limit: usize) -> EventError {
    let remedy = "send a reference to what is large, not the thing itself";
    EventError::new(EventErrorKind::TooLarge, field, format!("has {bytes} bytes, more than {limit}"), remedy)
}

/// Whether `data` is JSON that every later reader takes: of bounded length and nesting, numbers in range, escapes that are characters.
/// Skipping a value is laxer than reading it; so it is read once, while its producer listens.
pub(super) fn checked(data: Cow<'_, str>) -> Result<Cow<'_, str>, EventError> {
    if data.len() > MAX_DATA_BYTES {
        return Err(too_large("data", data.len(), MAX_DATA_BYTES));
    }
    let mut deserializer = serde_json::Deserializer::from_str(&data);
    let read = Depth(MAX_DEPTH).deserialize(&mut deserializer).and_then(|()| deserializer.end());
    match read {
        Ok(()) => Ok(data),
        Err(error) => {
            let problem = if error.is_data() {
                format!("is nested deeper than {MAX_DEPTH} levels")
            } else {
                format!("is no JSON: {error}")
            };
            let remedy = "send JSON with fewer levels, numbers within range and whole characters";
            Err(EventError::invalid("data", problem, remedy))
        }
    }
}

/// What a parser says of broken syntax; its words about types would show values.
fn syntax(error: &serde_json::Error) -> String {
    if error.is_data() {
        format!("not of the expected form, line {} column {}", error.line(), error.column())
    } else {
        error.to_string()
    }
}

/// The members that we know. Extension attributes other than `project` are not ours to judge.
const NAMES: [&str; 10] =
    ["specversion", "id", "source", "type", "subject", "time", "datacontenttype", "project", "data", "data_base64"];

/// An event in JSON, its values unread: whatever is wrong with one then has a name.
#[derive(Default)]
struct Members<'a> {
    /// In the order of [`NAMES`].
    values: [Option<&'a RawValue>; NAMES.len()],
    twice: Option<&'static str>,
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some(name) = map.next_key_seed(Name)? {
                    match name {
                        None => drop(map.next_value::<IgnoredAny>()?),
                        Some(index) => {
                            if members.values[index].replace(map.next_value()?).is_some() {
                                members.twice = Some(NAMES[index]);
                            }
                        }
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A member's name as an index of [`NAMES`].
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
        f.write_str("an attribute's name")
    }
    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(NAMES.iter().position(|known| *known == name))
    }
}

/// The elements of an array, unread; `None` where there are more than `max`.
struct Elements {
    max: usize,
}

impl<'de> DeserializeSeed<'de> for Elements {
    type Value = Option<Vec<&'de RawValue>>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de RawValue>>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of events")
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while elements.len() < self.max {
            match items.next_element()? {
                Some(element) => elements.push(element),
                None => return Ok(Some(elements)),
            }
        }
        // To its end, because what is broken further on is broken all the same.
        let mut is_longer = false;
        while items.next_element::<IgnoredAny>()?.is_some() {
            is_longer = true;
        }
        Ok((!is_longer).then_some(elements))
    }
}

/// Reads any JSON and keeps nothing; the number is how many levels may follow.
struct Depth(u8);

impl<'de> DeserializeSeed<'de> for Depth {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Depth {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON of fewer levels")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let depth = self.0.checked_sub(1).ok_or_else(|| de::Error::custom("too deep"))?;
        while items.next_element_seed(Depth(depth))?.is_some() {}
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let depth = self.0.checked_sub(1).ok_or_else(|| de::Error::custom("too deep"))?;
        while fields.next_key_seed(Depth(0))?.is_some() {
            fields.next_value_seed(Depth(depth))?;
        }
        Ok(())
    }
}
