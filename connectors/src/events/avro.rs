//! Avro data of any schema as JSON, and a record with CloudEvents attributes as an event.
//! Where the schema comes from is the registry's business.

use super::{Attributes, EventError, EventErrorKind, Tenancy, event as checked};
use base64::{Engine, prelude::BASE64_STANDARD};
use bellwether_schemas::{Timestamp, records::Event};
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_avro_fast::{
    Schema,
    de::{DeserializerConfig, DeserializerState, read::SliceRead},
};
use serde_json::{Map, Value};
use std::{borrow::Cow, cell::Cell, fmt};

/// Values that one datum may hold: an array of nulls costs no bytes, so bytes bound nothing.
const MAX_VALUES: usize = 100_000;

/// A schema that some producer writes with.
#[derive(Debug)]
pub(super) struct Writer {
    schema: Schema,
    time: TimeUnit,
}

/// What a number in the field `time` counts since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TimeUnit {
    Millis,
    Micros,
    Nanos,
}

impl Writer {
    /// # Errors
    /// What is wrong with the schema.
    pub(super) fn parse(json: &str) -> Result<Self, String> {
        let schema = json.parse::<Schema>().map_err(|e| e.to_string())?;
        let document: Value = serde_json::from_str(json).map_err(|e| e.to_string())?;
        let time = document["fields"].as_array().into_iter().flatten().find(|field| field["name"] == "time");
        let logical_type = time.and_then(|field| {
            let types = field["type"].as_array().map_or_else(|| std::slice::from_ref(&field["type"]), Vec::as_slice);
            types.iter().find_map(|t| t["logicalType"].as_str())
        });
        let time = match logical_type {
            Some(name) if name.ends_with("micros") => TimeUnit::Micros,
            Some(name) if name.ends_with("nanos") => TimeUnit::Nanos,
            _ => TimeUnit::Millis,
        };
        Ok(Self { schema, time })
    }

    /// A datum as JSON: bytes and fixed in base64, unions without their branch, decimals as text. A number in the field `time` of the outermost
    /// record becomes milliseconds.
    pub(super) fn decode(&self, datum: &[u8]) -> Result<Value, EventError> {
        let mut config = DeserializerConfig::new(&self.schema);
        config.max_seq_size = MAX_VALUES;
        let mut state = DeserializerState::with_config(SliceRead::new(datum), config);
        let left = Cell::new(MAX_VALUES);
        let mut value = AnyValue { left: &left }.deserialize(state.deserializer()).map_err(|_| {
            let remedy = "write it with the schema that its id names";
            EventError::malformed("the Avro datum does not fit its writer's schema", remedy)
        })?;
        if let Some(time) = value.get_mut("time").filter(|t| t.is_i64()) {
            let divisor = match self.time {
                TimeUnit::Millis => 1,
                TimeUnit::Micros => 1_000,
                TimeUnit::Nanos => 1_000_000,
            };
            *time = time.as_i64().unwrap_or_default().div_euclid(divisor).into();
        }
        Ok(value)
    }
}

/// An event from a record with the fields `id`, `source`, `type`, `subject`, `time` (text, or a time stamp), `data` (JSON text, or anything
/// but text) and `project`. `specversion` may be left out.
pub(super) fn event(record: Value, tenancy: Tenancy<'_>, now: Timestamp) -> Result<Event, EventError> {
    let Value::Object(mut fields) = record else {
        let remedy = "write a record with the fields id, source, type, subject and data";
        return Err(EventError::malformed("the Avro datum is no record", remedy));
    };
    let time = match fields.remove("time") {
        Some(Value::Number(millis)) => Some(Timestamp(millis.as_i64().unwrap_or_default())),
        Some(other) => {
            fields.insert("time".into(), other);
            None
        }
        None => None,
    };
    let data = match fields.remove("data") {
        Some(Value::String(json)) => json,
        other => other.unwrap_or_default().to_string(),
    };
    let attributes = attributes(fields)?;
    let event = checked(attributes, data.into(), tenancy, now)?;
    Ok(Event { time: time.unwrap_or(event.time), ..event })
}

fn attributes(fields: Map<String, Value>) -> Result<Attributes<'static>, EventError> {
    let mut attributes = Attributes { specversion: Some("1.0".into()), ..Attributes::default() };
    for (name, value) in fields {
        let Some(slot) = attributes.slot(&name) else { continue };
        match value {
            Value::String(text) => *slot = Some(Cow::Owned(text)),
            Value::Null => {}
            _ => return Err(EventError::new(EventErrorKind::Invalid, name, "is not text", "make the field a string")),
        }
    }
    Ok(attributes)
}

/// Any Avro value as JSON, with a bound on how many there are.
struct AnyValue<'c> {
    left: &'c Cell<usize>,
}

impl AnyValue<'_> {
    fn again(&self) -> Self {
        AnyValue { left: self.left }
    }
}

impl<'de> DeserializeSeed<'de> for AnyValue<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().checked_sub(1).ok_or_else(|| de::Error::custom("too many values"))?;
        self.left.set(left);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for AnyValue<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an Avro value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(BASE64_STANDARD.encode(value).into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element_seed(self.again())? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            all.insert(name, fields.next_value_seed(self.again())?);
        }
        Ok(Value::Object(all))
    }
}
