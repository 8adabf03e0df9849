//! The encodings of the `events` topic and of `POST /v1/events`: CloudEvents 1.0 as JSON (structured, batched, binary) and as Avro (single-object,
//! or Confluent's wire format with a schema registry). Bytes become an [`Event`] or an [`EventError`]; what the event means is decided elsewhere.
//!
//! Here are the errors, the rules that hold in every encoding, attributes in headers, and how a record's encoding is told.

mod avro;
mod json;
mod registry;

pub use json::{parse_batch, parse_structured};
pub use registry::{Registry, RegistryConfig, RegistryError};

use crate::log::LogRecord;
use bellwether_schemas::{
    Timestamp,
    codec::{self, CodecError},
    records::{Event, Reason},
};
use std::borrow::Cow;

/// Bytes of an event's `data` as JSON. It travels twice in a delivery, and Kafka brokers take 1 MiB by default.
pub const MAX_DATA_BYTES: usize = 256 * 1024;
/// Bytes of one event as it comes, in any encoding: more is not even read. It leaves room for the attributes, Base64 and white space around
/// the largest `data`, so that what the API accepted the topic takes too.
pub const MAX_EVENT_BYTES: usize = 2 * MAX_DATA_BYTES;
/// Bytes of a `subject`, the member's `client_user_id`.
pub const MAX_SUBJECT_BYTES: usize = 256;
/// Bytes of `id`, `source` and `type`.
pub const MAX_ATTRIBUTE_BYTES: usize = 1024;
/// Why bytes are not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}; {remedy}")]
pub struct EventError {
    /// What to do about it.
    pub kind: EventErrorKind,
    /// Attribute at fault; `event` where it is the whole, `body` for a whole batch.
    pub field: String,
    /// What is wrong, without the event's values.
    pub problem: String,
    /// What the producer or operator can do.
    pub remedy: String,
}

/// See [`EventError::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventErrorKind {
    /// Not in any accepted encoding.
    Malformed,
    /// Readable, but an attribute is missing or outside its domain.
    Invalid,
    /// Written with a schema that is not known.
    UnknownSchema,
    /// Larger than [`MAX_EVENT_BYTES`], or its data than [`MAX_DATA_BYTES`].
    TooLarge,
    /// The schema registry does not answer: wait and try again, nothing is wrong with the event.
    Unavailable,
}

impl EventError {
    fn new(
        kind: EventErrorKind,
        field: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { kind, field: field.into(), problem: problem.into(), remedy: remedy.into() }
    }

    fn malformed(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(EventErrorKind::Malformed, "event", problem, remedy)
    }

    fn invalid(field: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(EventErrorKind::Invalid, field, problem, remedy)
    }

    /// The dead letter's reason; `None` where the same bytes may be readable later, so that they must wait.
    #[must_use]
    pub const fn reason(&self) -> Option<Reason> {
        match self.kind {
            EventErrorKind::Malformed => Some(Reason::Malformed),
            EventErrorKind::Invalid => Some(Reason::Invalid),
            EventErrorKind::UnknownSchema => Some(Reason::UnknownSchema),
            EventErrorKind::TooLarge => Some(Reason::TooLarge),
            EventErrorKind::Unavailable => None,
        }
    }
}

/// Reads an event whose attributes are headers and whose data is the body: `ce_id` (Kafka binding, section 3.2) or `ce-id` (HTTP binding,
/// section 3.1, values percent-encoded). Names in any case; headers that are no attributes are ignored.
///
/// # Errors
/// See [`EventError`].
pub fn parse_binary<'h>(
    headers: impl IntoIterator<Item = (&'h str, &'h [u8])>,
    body: &[u8],
    project: Option<&str>,
    now: Timestamp,
) -> Result<Event, EventError> {
    let data = json::body(body)?;
    event(Attributes::from_headers(headers)?, data, Tenancy::of(project), now)
}

/// Reads records of the `events` topic, whatever their encoding.
#[derive(Debug)]
pub struct EventDecoder {
    /// Where the schemas of Confluent's wire format are.
    pub registry: Option<Registry>,
    /// Project of events that name none.
    pub default_project: Option<String>,
}

impl EventDecoder {
    /// Reads one record. The encoding is told by headers (`content-type`, `ce_…`), else by the first bytes.
    ///
    /// # Errors
    /// See [`EventError`]. [`EventErrorKind::Unavailable`] is for waiting: the same record can be read later.
    pub async fn decode(&self, record: &LogRecord, now: Timestamp) -> Result<Event, EventError> {
        let tenancy = Tenancy::Named { default: self.default_project.as_deref() };
        let payload = &record.payload[..];
        let headers = || record.headers.iter().map(|h| (h.name.as_str(), h.value.as_slice()));
        let content_type =
            headers().find(|(name, _)| name.eq_ignore_ascii_case("content-type")).map(|(_, value)| value);
        let is_cloud_event = content_type
            .is_some_and(|t| t.get(..23).is_some_and(|t| t.eq_ignore_ascii_case(b"application/cloudevents")));
        let has_attributes = || headers().any(|(name, _)| attribute_of(name).is_some());
        if payload.len() > MAX_EVENT_BYTES {
            return Err(json::too_large("event", payload.len(), MAX_EVENT_BYTES));
        }
        if !is_cloud_event && has_attributes() {
            let mut attributes = Attributes::from_headers(headers())?;
            let data = match payload {
                [0, ..] => {
                    attributes.datacontenttype = None; // It names Avro; from here on the data is JSON.
                    self.registry()?.decode(payload).await?.to_string().into()
                }
                _ => json::body(payload)?,
            };
            return event(attributes, data, tenancy, now);
        }
        match payload {
            [0xC3, 0x01, ..] => single_object(payload, tenancy, now),
            [0, ..] => avro::event(self.registry()?.decode(payload).await?, tenancy, now),
            _ => json::structured(payload, tenancy, now),
        }
    }

    fn registry(&self) -> Result<&Registry, EventError> {
        self.registry.as_ref().ok_or_else(|| {
            EventError::new(
                EventErrorKind::UnknownSchema,
                "event",
                "the event is in Confluent's wire format, but no schema registry is configured",
                "configure `registry.url`, then replay",
            )
        })
    }
}

/// Who says which project an event belongs to.
#[derive(Clone, Copy)]
enum Tenancy<'p> {
    /// The caller's key: the event may not name another.
    Fixed(&'p str),
    /// The event, else the default.
    Named { default: Option<&'p str> },
}

impl<'p> Tenancy<'p> {
    fn of(project: Option<&'p str>) -> Self {
        project.map_or(Self::Named { default: None }, Self::Fixed)
    }

    fn project(self, named: Option<Cow<'_, str>>) -> Result<String, EventError> {
        let project = match (self, named) {
            (Self::Fixed(fixed), Some(named)) if named != fixed => {
                let remedy = "leave `project` out, or use a key of that project";
                return Err(EventError::invalid("project", "the event names another project than the key's", remedy));
            }
            (Self::Fixed(fixed), _) => return Ok(fixed.to_owned()),
            (Self::Named { .. }, Some(named)) => named.into_owned(),
            (Self::Named { default: Some(default) }, None) => default.to_owned(),
            (Self::Named { default: None }, None) => {
                let remedy = "send the extension attribute `project`, or configure `events.default_project`";
                return Err(EventError::invalid("project", "the event names no project", remedy));
            }
        };
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if project.len() <= 63 && project.starts_with(|c: char| c.is_ascii_lowercase()) && project.bytes().all(allowed)
        {
            Ok(project)
        } else {
            let remedy = "use 1 to 63 of a-z, 0-9 and `-`, beginning with a letter";
            Err(EventError::invalid("project", "is no project name", remedy))
        }
    }
}

/// Context attributes (CloudEvents 1.0 section 3.1) as they came. Extensions other than `project` are dropped.
#[derive(Default)]
struct Attributes<'a> {
    specversion: Option<Cow<'a, str>>,
    id: Option<Cow<'a, str>>,
    source: Option<Cow<'a, str>>,
    kind: Option<Cow<'a, str>>,
    subject: Option<Cow<'a, str>>,
    time: Option<Cow<'a, str>>,
    datacontenttype: Option<Cow<'a, str>>,
    project: Option<Cow<'a, str>>,
}

impl<'a> Attributes<'a> {
    fn slot(&mut self, name: &str) -> Option<&mut Option<Cow<'a, str>>> {
        Some(match name {
            "specversion" => &mut self.specversion,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.kind,
            "subject" => &mut self.subject,
            "time" => &mut self.time,
            "datacontenttype" => &mut self.datacontenttype,
            "project" => &mut self.project,
            _ => return None,
        })
    }

    fn from_headers(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Self, EventError> {
        let mut attributes = Self::default();
        for (header, value) in headers {
            let (name, is_http) = match attribute_of(header) {
                Some(found) => found,
                None if header.eq_ignore_ascii_case("content-type") => ("datacontenttype", false),
                None => continue,
            };
            let name = name.to_ascii_lowercase();
            let Some(slot) = attributes.slot(&name) else { continue };
            let text =
                if is_http { percent_decoded(value) } else { std::str::from_utf8(value).ok().map(Cow::Borrowed) };
            let text = text.ok_or_else(|| {
                let remedy = "send UTF-8; over HTTP percent-encoded as `%XX`, and a `%` itself as `%25`";
                EventError::invalid(&name, "the header is no encoded text", remedy)
            })?;
            if slot.replace(text).is_some() {
                return Err(EventError::invalid(&name, "the header is there twice", "send it once"));
            }
        }
        Ok(attributes)
    }
}

/// The attribute that a header carries, and whether it is one of the HTTP binding.
fn attribute_of(header: &str) -> Option<(&str, bool)> {
    let (prefix, name) = (header.get(..3)?, &header[3..]);
    if prefix.eq_ignore_ascii_case("ce_") {
        Some((name, false))
    } else {
        prefix.eq_ignore_ascii_case("ce-").then_some((name, true))
    }
}

/// `%C3%B1` → `ñ`. `None`: broken escapes, or no UTF-8.
fn percent_decoded(value: &[u8]) -> Option<Cow<'_, str>> {
    if !value.contains(&b'%') {
        return std::str::from_utf8(value).ok().map(Cow::Borrowed);
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(value.len()), value);
    while let Some((first, tail)) = rest.split_first() {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let (digits, tail) = rest.split_at_checked(2)?;
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
        bytes.push(digit(digits[0])? << 4 | digit(digits[1])?);
        rest = tail;
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

/// The rules that hold in every encoding. `data` is text that should be JSON.
fn event(
    attributes: Attributes<'_>,
    data: Cow<'_, str>,
    tenancy: Tenancy<'_>,
    now: Timestamp,
) -> Result<Event, EventError> {
    match attributes.specversion.as_deref() {
        Some("1.0") => {}
        Some(_) => {
            return Err(EventError::invalid("specversion", "another version of CloudEvents", "send version `1.0`"));
        }
        None => return Err(EventError::invalid("specversion", "is missing", "send `1.0`")),
    }
    if attributes.datacontenttype.as_deref().is_some_and(|t| !is_json(t)) {
        let remedy = "send JSON data, with `application/json` or without `datacontenttype`";
        return Err(EventError::invalid("datacontenttype", "is no JSON type", remedy));
    }
    let time = match attributes.time {
        None => now,
        Some(text) => Timestamp::parse(&text).map_err(|_| {
            EventError::invalid("time", "is no RFC 3339 time stamp", "write it like `2026-01-31T12:00:00Z`")
        })?,
    };
    Ok(Event {
        id: required("id", attributes.id, MAX_ATTRIBUTE_BYTES)?,
        source: required("source", attributes.source, MAX_ATTRIBUTE_BYTES)?,
        kind: required("type", attributes.kind, MAX_ATTRIBUTE_BYTES)?,
        subject: Some(required("subject", attributes.subject, MAX_SUBJECT_BYTES)?),
        project: tenancy.project(attributes.project)?,
        time,
        accepted_at: now,
        data: json::checked(data)?.into_owned(),
    })
}

fn required(field: &'static str, value: Option<Cow<'_, str>>, limit: usize) -> Result<String, EventError> {
    let remedy = match field {
        "id" => "send an id that is unique within the source",
        "source" => "name the system that the event is from",
        "type" => "name what happened, such as `shop.order.placed`",
        _ => "send the member's client_user_id as `subject`",
    };
    let problem = match value {
        None => "is missing".to_owned(),
        Some(text) if text.is_empty() => "is empty".to_owned(),
        Some(text) if text.len() > limit => format!("has {} bytes, more than {limit}", text.len()),
        Some(text) if text.chars().any(char::is_control) => "has control characters".to_owned(),
        Some(text) => return Ok(text.into_owned()),
    };
    Err(EventError::invalid(field, problem, remedy))
}

/// `application/json`, `text/json` and `…+json`, with any parameters (CloudEvents 1.0 JSON format, section 3.1).
#[must_use]
pub fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// Our own record, written by the API or by a producer that has our schema.
fn single_object(payload: &[u8], tenancy: Tenancy<'_>, now: Timestamp) -> Result<Event, EventError> {
    let record: Event = codec::decode(payload).map_err(|error| match error {
        CodecError::UnknownSchema { .. } => EventError::new(
            EventErrorKind::UnknownSchema,
            "event",
            error.to_string(),
            "write it with schemas/avro/event.avsc, then replay",
        ),
        CodecError::NotSingleObject { .. } | CodecError::Datum { .. } => {
            EventError::malformed("the Avro datum does not fit its schema", "write it with schemas/avro/event.avsc")
        }
    })?;
    let accepted_at = record.accepted_at.min(now);
    let attributes = Attributes {
        specversion: Some("1.0".into()),
        id: Some(record.id.into()),
        source: Some(record.source.into()),
        kind: Some(record.kind.into()),
        subject: record.subject.map(Cow::Owned),
        project: Some(record.project).filter(|p| !p.is_empty()).map(Cow::Owned),
        ..Attributes::default()
    };
    Ok(Event { time: record.time, accepted_at, ..event(attributes, record.data.into(), tenancy, now)? })
}
