//! Avro single-object encoding of the records (Avro 1.12 specification, "Single-object encoding": the marker `C3 01`, the CRC-64-AVRO
//! fingerprint of the writer's schema in little endian, the datum).
//!
//! Every schema version that was ever released stays known here, so that old bytes are read with the schema that wrote them; fields that
//! came later take their serde default. `schemas/tests/evolution.rs` refuses an incompatible change.

use crate::records::{
    DeadLetter, Decision, DefinitionSet, Delivery, Event, MemberCommand, Notification, ProviderHealth, Receipt, Record,
    Scheduled,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_avro_fast::{
    Schema,
    de::{DeserializerConfig, DeserializerState, read::SliceRead},
    ser::SerializerConfig,
    to_single_object,
};
use std::{cell::RefCell, io::BufRead as _, sync::LazyLock};

/// Bytes before the datum: marker and fingerprint.
const HEADER: usize = 10;
/// First two bytes of a single object.
pub const MARKER: [u8; 2] = [0xC3, 0x01];

/// The schemas of one record: `versions[0]` is what is written now, the others are what was written before.
#[derive(Debug)]
pub struct Schemas {
    /// The record's name.
    pub name: &'static str,
    versions: Vec<Schema>,
}

impl Schemas {
    #[allow(clippy::panic)] // A schema that does not parse is a build that must not leave its first test.
    fn new(name: &'static str, sources: &[&str]) -> Self {
        let versions = sources.iter().map(|s| s.parse().unwrap_or_else(|e| panic!("schema {name}: {e}"))).collect();
        Self { name, versions }
    }

    /// The schema that is written now.
    #[must_use]
    pub fn current(&self) -> &Schema {
        &self.versions[0]
    }
}

/// A record that has schemas.
pub trait Encoded: Serialize + DeserializeOwned {
    /// Its schemas.
    fn schemas() -> &'static Schemas;
    /// Calls `with` with a serializer that this thread keeps for the record.
    fn serializer<T>(with: impl FnOnce(&mut SerializerConfig<'static>) -> T) -> T;
}

macro_rules! encoded {
    ($($record:ty, $name:literal $(, $older:literal)*;)*) => {$(
        impl Encoded for $record {
            fn schemas() -> &'static Schemas {
                static SCHEMAS: LazyLock<Schemas> = LazyLock::new(|| Schemas::new($name, &[
                    include_str!(concat!("../avro/", $name, ".avsc")),
                    $(include_str!(concat!("../avro/history/", $name, ".", $older, ".avsc")),)*
                ]));
                &SCHEMAS
            }
            fn serializer<T>(with: impl FnOnce(&mut SerializerConfig<'static>) -> T) -> T {
                thread_local! {
                    static CONFIG: RefCell<SerializerConfig<'static>> =
                        RefCell::new(SerializerConfig::new(<$record as Encoded>::schemas().current()));
                }
                CONFIG.with_borrow_mut(with)
            }
        }
    )*};
}
// Name of the schema file, then the names of older versions in `avro/history`, newest first.
encoded! {
    Event, "event";
    MemberCommand, "member_command", "5", "4", "3", "2", "1";
    Notification, "notification", "4", "3", "2", "1";
    Delivery, "delivery", "1";
    Receipt, "receipt", "1";
    Scheduled, "scheduled";
    Decision, "decision", "3", "2", "1";
    DeadLetter, "dead_letter";
    DefinitionSet, "definition_set";
    ProviderHealth, "provider_health";
}

/// What is wrong with bytes that should be a record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// No single object: too short, or another marker.
    #[error("{record}: not an Avro single object (marker C3 01 and 8 bytes of schema fingerprint); encode it so")]
    NotSingleObject {
        /// Record that was expected.
        record: &'static str,
    },
    /// Written with a schema that this build does not know.
    #[error(
        "{record}: unknown schema fingerprint {fingerprint}; upgrade this reader, or write a published version of the schema"
    )]
    UnknownSchema {
        /// Record that was expected.
        record: &'static str,
        /// Fingerprint as 16 hexadecimal digits, in the order of the bytes.
        fingerprint: String,
    },
    /// The datum does not fit its schema.
    #[error("{record}: {problem}")]
    Datum {
        /// Record that was expected.
        record: &'static str,
        /// The decoder's or encoder's words.
        problem: String,
    },
}

/// Encodes with the current schema.
///
/// # Errors
/// The record and its schema disagree: [`CodecError::Datum`].
pub fn encode<R: Encoded>(record: &R) -> Result<Vec<u8>, CodecError> {
    R::serializer(|config| to_single_object(record, Vec::with_capacity(256), config))
        .map_err(|e| CodecError::Datum { record: R::schemas().name, problem: e.to_string() })
}

/// Decodes what any known version wrote. Whatever the bytes say, memory stays in proportion to their number.
///
/// # Errors
/// See [`CodecError`]; bytes after the datum are an error too.
pub fn decode<R: Encoded>(bytes: &[u8]) -> Result<R, CodecError> {
    let schemas = R::schemas();
    let record = schemas.name;
    if bytes.len() < HEADER || bytes[..2] != MARKER {
        return Err(CodecError::NotSingleObject { record });
    }
    let schema = schemas.versions.iter().find(|s| bytes[2..HEADER] == s.rabin_fingerprint()[..]).ok_or_else(|| {
        CodecError::UnknownSchema { record, fingerprint: bytes[2..HEADER].iter().map(|b| format!("{b:02x}")).collect() }
    })?;
    let datum = &bytes[HEADER..];
    let mut config = DeserializerConfig::new(schema);
    // Strings and bytes are slices of the input, so their length cannot lie; the count of an array can. An element of ours takes a byte or more.
    config.max_seq_size = datum.len();
    let mut state = DeserializerState::with_config(SliceRead::new(datum), config);
    let wrong = |problem: String| CodecError::Datum { record, problem };
    let decoded = R::deserialize(state.deserializer()).map_err(|e| wrong(e.to_string()))?;
    match state.into_reader().fill_buf() {
        Ok([]) => Ok(decoded),
        Ok(rest) => Err(wrong(format!("{} bytes after the end of the datum: send one datum only", rest.len()))),
        Err(e) => Err(wrong(e.to_string())),
    }
}

impl Record {
    /// The payload as it goes on the log. A later record is wrapped in a [`Scheduled`] under an id that derives from target, due time and payload.
    ///
    /// # Errors
    /// A record and its schema disagree.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Event(r) => encode(r),
            Self::Member(r) => encode(r),
            Self::Notification(r) => encode(r),
            Self::Delivery(r) => encode(r),
            Self::Receipt(r) => encode(r),
            Self::Decision(r) => encode(r),
            Self::DeadLetter(r) => encode(r),
            Self::Health(r) => encode(r),
            Self::Later(due, record) => {
                let payload = record.encode()?;
                let topic = record.topic().name();
                let id = crate::ids::EntryId::derive(
                    "scheduled",
                    &[topic.as_bytes(), &due.0.to_be_bytes(), payload.as_slice()],
                );
                let key = String::from_utf8_lossy(&record.key()).into_owned();
                let project = key.split('/').next().unwrap_or_default().to_owned();
                encode(&Scheduled { id, project, due: *due, topic: topic.into(), key, payload })
            }
            Self::Encoded { payload, .. } => Ok(payload.clone()),
        }
    }
}
