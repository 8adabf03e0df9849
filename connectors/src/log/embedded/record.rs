//! Keys and values of the embedded log. A damaged value is an error with its place, never a panic.

use super::super::{LogRecord, TopicPartition};
use crate::embedded::{
    EmbeddedError,
    wire::{Reader, put_bytes, put_varint},
};
use bellwether_schemas::{Position, Timestamp, records::Header};
use bytes::Bytes;
use fjall::{UserKey, UserValue};

/// First byte of every value, so that a later encoding can be told apart.
const VERSION: u8 = 1;

/// Key of a record: topic id, partition and offset, each big-endian, so that a partition's records lie together in order.
pub(super) fn key(topic: u16, partition: u32, offset: u64) -> [u8; 14] {
    let mut key = [0; 14];
    key[..2].copy_from_slice(&topic.to_be_bytes());
    key[2..6].copy_from_slice(&partition.to_be_bytes());
    key[6..].copy_from_slice(&offset.to_be_bytes());
    key
}

/// The offset in a record's key.
pub(super) fn offset_of(key: &UserKey) -> Result<u64, EmbeddedError> {
    let offset = key.get(6..).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
    offset.ok_or_else(|| EmbeddedError::Damaged("a record's key".into()))
}

/// Encodes a record's value.
pub(super) fn encode(appended: Timestamp, key: &[u8], headers: &[Header], payload: &[u8]) -> UserValue {
    let mut out = Vec::with_capacity(payload.len() + key.len() + 16 + 64 * headers.len());
    out.push(VERSION);
    out.extend_from_slice(&appended.0.to_le_bytes());
    put_bytes(&mut out, key);
    put_varint(&mut out, headers.len() as u64);
    for header in headers {
        put_bytes(&mut out, header.name.as_bytes());
        put_bytes(&mut out, &header.value);
    }
    out.extend_from_slice(payload);
    out.into()
}

/// When a record was appended.
pub(super) fn appended(value: &[u8]) -> Option<Timestamp> {
    let mut reader = Reader(value);
    (reader.byte()? == VERSION).then_some(())?;
    reader.array().map(|bytes| Timestamp(i64::from_le_bytes(bytes)))
}

/// Decodes a record. Key and payload share the memory of the value.
pub(super) fn decode(at: TopicPartition, offset: u64, value: UserValue) -> Result<LogRecord, EmbeddedError> {
    let position = Position { topic: at.topic, partition: at.partition, offset };
    let value = Bytes::from_owner(value);
    parse(&value)
        .map(|(key, headers, payload)| LogRecord { position, key, payload, headers })
        .ok_or_else(|| EmbeddedError::Damaged(format!("record {position}")))
}

fn parse(value: &Bytes) -> Option<(Bytes, Vec<Header>, Bytes)> {
    appended(value)?;
    let mut reader = Reader(value.get(9..)?);
    let key = value.slice_ref(reader.bytes()?);
    let count = reader.varint()?;
    let mut headers = Vec::new();
    for _ in 0..count {
        let name = String::from_utf8(reader.bytes()?.to_vec()).ok()?;
        headers.push(Header { name, value: reader.bytes()?.to_vec() });
    }
    Some((key, headers, value.slice_ref(reader.0)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::Topic;
    use proptest::prelude::*;

    const AT: TopicPartition = TopicPartition { topic: Topic::Events, partition: 3 };

    proptest! {
        #[test]
        fn a_record_comes_back(key: Vec<u8>, payload: Vec<u8>, names in prop::collection::vec(("\\PC*", any::<Vec<u8>>()), 0..4)) {
            let headers: Vec<_> = names.into_iter().map(|(name, value)| Header { name, value }).collect();
            let value = encode(Timestamp(77), &key, &headers, &payload);
            prop_assert_eq!(appended(&value), Some(Timestamp(77)));
            let record = decode(AT, 5, value).unwrap();
            prop_assert_eq!((&record.key[..], &record.payload[..], record.headers), (&key[..], &payload[..], headers));
        }

        #[test]
        fn damaged_bytes_are_an_error(bytes: Vec<u8>) {
            // Most random bytes are no record; none may panic.
            decode(AT, 0, bytes.into()).ok();
        }
    }

    #[test]
    fn a_cut_value_names_its_position() {
        let error = decode(AT, 9, vec![VERSION, 0].into()).unwrap_err();
        assert!(error.to_string().contains("events/3/9"), "{error}");
    }
}
