//! Keys of the embedded store: the partition's token, its values, the clustering values, encoded so that bytes sort as values do.
//! The order is the table's clustering order; a row's place never depends on its columns.

use crate::embedded::wire::Reader;
use bellwether_schemas::{
    Timestamp,
    rows::{BadRow, Key, Table, Type, Value},
};
use uuid::Uuid;
use xxhash_rust::xxh64::xxh64;

/// Bytes of the longest key that the database takes.
pub(super) const MAX_KEY: usize = 65_535;

/// Columns of a key, as a table declares them.
type Columns = &'static [(&'static str, Type)];

/// The beginning of all keys of a partition.
pub(super) fn partition(table: &'static Table, values: &[Value]) -> Result<Vec<u8>, BadRow> {
    let mut encoded = Vec::with_capacity(64);
    encode(table, table.partition, values, true, &mut encoded)?;
    let mut key = Vec::with_capacity(encoded.len() + 64);
    key.extend_from_slice(&xxh64(&encoded, 0).to_be_bytes());
    key.extend_from_slice(&encoded);
    Ok(key)
}

/// The key of a row.
pub(super) fn row(table: &'static Table, key: &Key) -> Result<Vec<u8>, BadRow> {
    let mut out = partition(table, &key.partition)?;
    encode(table, table.clustering, &key.clustering, true, &mut out)?;
    if out.len() > MAX_KEY {
        let column = table.partition.first().map_or("", |c| c.0);
        return Err(BadRow { table: table.name, column, problem: format!("makes a key of more than {MAX_KEY} bytes") });
    }
    Ok(out)
}

/// Appends the first clustering values to a partition's beginning.
pub(super) fn clustering(table: &'static Table, values: &[Value], out: &mut Vec<u8>) -> Result<(), BadRow> {
    encode(table, table.clustering, values, false, out)
}

/// The values in a key; `None` if it is damaged.
pub(super) fn decode(table: &'static Table, key: &[u8]) -> Option<Key> {
    let mut reader = Reader(key);
    reader.take(8)?;
    let mut values =
        |columns: Columns| columns.iter().map(|(_, kind)| take(*kind, &mut reader)).collect::<Option<Vec<_>>>();
    let key = Key { partition: values(table.partition)?, clustering: values(table.clustering)? };
    reader.is_empty().then_some(key)
}

/// The first key of a token, which is signed in ranges and unsigned in keys.
pub(super) fn token(signed: i64) -> [u8; 8] {
    (signed.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

fn encode(
    table: &'static Table,
    columns: Columns,
    values: &[Value],
    whole: bool,
    out: &mut Vec<u8>,
) -> Result<(), BadRow> {
    let bad = |column, problem| BadRow { table: table.name, column, problem };
    if values.len() > columns.len() || (whole && values.len() < columns.len()) {
        let column = columns.last().map_or("", |c| c.0);
        return Err(bad(column, format!("has a key of {} values, not {}", values.len(), columns.len())));
    }
    for ((column, kind), value) in columns.iter().zip(values) {
        if value.kind() != *kind {
            return Err(bad(column, format!("is {:?}, not {kind:?}", value.kind())));
        }
        put(value, out);
    }
    Ok(())
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Text(text) => put_escaped(text.as_bytes(), out),
        Value::Bytes(bytes) => put_escaped(bytes, out),
        Value::Int(number) | Value::Timestamp(Timestamp(number)) => out.extend_from_slice(&token(*number)),
        Value::Uuid(uuid) => out.extend_from_slice(uuid.as_bytes()),
        Value::Bool(yes) => out.push(u8::from(*yes)),
    }
}

/// A zero becomes `00 FF`, the end is `00 00`: less than any byte that could follow.
fn put_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

fn take(kind: Type, reader: &mut Reader<'_>) -> Option<Value> {
    Some(match kind {
        Type::Text => Value::Text(String::from_utf8(take_escaped(reader)?).ok()?),
        Type::Bytes => Value::Bytes(take_escaped(reader)?),
        Type::Int => Value::Int(take_number(reader)?),
        Type::Timestamp => Value::Timestamp(Timestamp(take_number(reader)?)),
        Type::Uuid => Value::Uuid(Uuid::from_bytes(reader.array()?)),
        Type::Bool => Value::Bool(reader.byte()? != 0),
    })
}

fn take_number(reader: &mut Reader<'_>) -> Option<i64> {
    Some((u64::from_be_bytes(reader.array()?) ^ (1 << 63)).cast_signed())
}

fn take_escaped(reader: &mut Reader<'_>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        match reader.byte()? {
            0 if reader.byte()? == 0 => return Some(bytes),
            byte => bytes.push(byte),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ALL: &[(&str, Type)] = &[
        ("text", Type::Text),
        ("int", Type::Int),
        ("at", Type::Timestamp),
        ("id", Type::Uuid),
        ("blob", Type::Bytes),
        ("yes", Type::Bool),
        ("last", Type::Text),
    ];
    static TABLE: Table =
        Table { name: "test", partition: &[("p", Type::Text)], clustering: ALL, columns: &[], fenced: false };

    fn values() -> impl Strategy<Value = Vec<Value>> {
        // Few different bytes, so that equal beginnings, zeros and ends meet often.
        let text = prop::collection::vec(prop::sample::select(vec!['\0', '\u{1}', 'a', 'é', '\u{10ffff}']), 0..4)
            .prop_map(|chars| chars.into_iter().collect::<String>());
        let bytes = prop::collection::vec(prop::sample::select(vec![0, 1, 0x7f, 0xfe, 0xff]), 0..4);
        let int = prop_oneof![any::<i64>(), -2..2_i64, Just(i64::MIN), Just(i64::MAX)];
        (text.clone(), int.clone(), int, 0..3_u128, bytes, any::<bool>(), text).prop_map(|(a, b, c, d, e, f, g)| {
            vec![a.into(), b.into(), Timestamp(c).into(), Uuid::from_u128(d).into(), e.into(), f.into(), g.into()]
        })
    }

    fn encoded(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        clustering(&TABLE, values, &mut out).unwrap();
        out
    }

    proptest! {
        #[test]
        fn keys_sort_as_their_values(a in values(), b in values(), columns in 0..=7_usize) {
            prop_assert_eq!(encoded(&a).cmp(&encoded(&b)), a.cmp(&b));
            let (a, b) = (&a[..columns], &b[..columns]);
            prop_assert_eq!(encoded(a).cmp(&encoded(b)), a.cmp(b));
            prop_assert_eq!(encoded(a) == encoded(b), a == b);
        }

        #[test]
        fn keys_come_back(partition: String, clustering in values()) {
            let key = Key { partition: vec![partition.into()], clustering };
            let bytes = row(&TABLE, &key).unwrap();
            prop_assert_eq!(decode(&TABLE, &bytes), Some(key));
        }

        #[test]
        fn tokens_sort_as_signed_numbers(a: i64, b: i64) {
            prop_assert_eq!(token(a).cmp(&token(b)), a.cmp(&b));
        }

        #[test]
        fn damaged_keys_are_no_panic(bytes: Vec<u8>) {
            decode(&TABLE, &bytes);
        }
    }

    #[test]
    fn a_wrong_type_names_the_column() {
        let key = Key { partition: vec![Value::Int(1)], clustering: vec![] };
        assert_eq!(row(&TABLE, &key).unwrap_err().column, "p");
    }
}
