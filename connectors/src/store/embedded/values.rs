//! Values of the embedded store: expiry, fence and columns of a row, or the fence that a deleted row leaves.
//! Columns are told apart by their place: a table may get new columns at the end only.

use crate::embedded::wire::{Reader, put_bytes, put_varint, unzigzag, zigzag};
use bellwether_schemas::{
    Timestamp,
    rows::{BadRow, Cells, Key, Table, Type, Value},
};
use std::time::Duration;
use uuid::Uuid;

/// How long the fence of a row that is deleted or expired is kept: CQL's `gc_grace_seconds` by default.
const FENCE_GRACE: Duration = Duration::from_secs(10 * 86_400);

/// First byte of every value, so that a later encoding can be told apart.
const VERSION: u8 = 1;

const EXPIRES: u8 = 1;
const FENCED: u8 = 2;
const DELETED: u8 = 4;

/// Everything of a value but its columns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// From then on the row is not there; for a deleted one, when its fence may go too.
    pub(super) expires: Option<Timestamp>,
    pub(super) fence: Option<u64>,
    pub(super) deleted: bool,
}

impl Head {
    /// Whether readers see the row.
    pub(super) fn is_live(&self, now: Timestamp) -> bool {
        !self.deleted && self.expires.is_none_or(|at| now < at)
    }

    /// Whether nothing of it matters any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let grace = if self.fence.is_some() && !self.deleted { FENCE_GRACE } else { Duration::ZERO };
        self.expires.is_some_and(|at| now >= at.plus(grace))
    }
}

/// Encodes a row.
pub(super) fn encode(cells: &Cells, now: Timestamp) -> Result<Vec<u8>, BadRow> {
    let table = cells.table;
    let bad = |column, problem| BadRow { table: table.name, column, problem };
    if cells.columns.len() != table.columns.len() {
        let column = table.columns.last().map_or("", |c| c.0);
        return Err(bad(column, format!("has {} columns, not {}", cells.columns.len(), table.columns.len())));
    }
    // Whole seconds, at least one: in CQL none at all would mean for ever.
    let ttl = cells.ttl.map(|ttl| Duration::from_secs(ttl.as_secs().max(1)));
    let head = Head { expires: ttl.map(|ttl| now.plus(ttl)), fence: cells.fence, deleted: false };
    let mut out = Vec::with_capacity(128);
    put_head(&head, &mut out);
    put_varint(&mut out, cells.columns.len() as u64);
    for ((column, kind), value) in table.columns.iter().zip(&cells.columns) {
        match value {
            Some(value) if value.kind() != *kind => {
                return Err(bad(*column, format!("is {:?}, not {kind:?}", value.kind())));
            }
            value => put_column(value.as_ref(), &mut out),
        }
    }
    Ok(out)
}

/// What a fenced delete leaves.
pub(super) fn encode_deleted(fence: u64, now: Timestamp) -> Vec<u8> {
    let mut out = Vec::with_capacity(18);
    put_head(&Head { expires: Some(now.plus(FENCE_GRACE)), fence: Some(fence), deleted: true }, &mut out);
    out
}

fn put_head(head: &Head, out: &mut Vec<u8>) {
    let flag = |on, bit| if on { bit } else { 0 };
    out.push(VERSION);
    out.push(flag(head.expires.is_some(), EXPIRES) | flag(head.fence.is_some(), FENCED) | flag(head.deleted, DELETED));
    if let Some(at) = head.expires {
        out.extend_from_slice(&at.0.to_le_bytes());
    }
    if let Some(fence) = head.fence {
        out.extend_from_slice(&fence.to_le_bytes());
    }
}

/// A type's tag; 0 is null.
const fn tag(kind: Type) -> u8 {
    match kind {
        Type::Text => 1,
        Type::Int => 2,
        Type::Timestamp => 3,
        Type::Uuid => 4,
        Type::Bytes => 5,
        Type::Bool => 6,
    }
}

fn put_column(value: Option<&Value>, out: &mut Vec<u8>) {
    out.push(value.map_or(0, |v| tag(v.kind())));
    match value {
        None => {}
        Some(Value::Text(text)) => put_bytes(out, text.as_bytes()),
        Some(Value::Bytes(bytes)) => put_bytes(out, bytes),
        Some(Value::Int(number) | Value::Timestamp(Timestamp(number))) => put_varint(out, zigzag(*number)),
        Some(Value::Uuid(uuid)) => out.extend_from_slice(uuid.as_bytes()),
        Some(Value::Bool(yes)) => out.push(u8::from(*yes)),
    }
}

/// Reads what stands before the columns.
pub(super) fn head(table: &'static Table, value: &[u8]) -> Result<Head, BadRow> {
    take_head(&mut Reader(value)).ok_or_else(|| damaged(table, ""))
}

/// Reads the row that stands under a key.
pub(super) fn decode(table: &'static Table, key: Key, head: &Head, value: &[u8]) -> Result<Cells, BadRow> {
    let mut reader = Reader(value);
    let count = take_head(&mut reader).and_then(|_| reader.varint()).ok_or_else(|| damaged(table, ""))?;
    let known = table.columns.len() as u64;
    if count > known {
        let problem = format!("is followed by {} columns that this version does not know", count - known);
        return Err(BadRow { table: table.name, column: table.columns.last().map_or("", |c| c.0), problem });
    }
    let mut columns = Vec::with_capacity(table.columns.len());
    for (index, (column, kind)) in (0..).zip(table.columns) {
        // A row of a version that had fewer columns: the new ones are null.
        columns.push(if index < count {
            take_column(*kind, &mut reader).ok_or_else(|| damaged(table, column))?
        } else {
            None
        });
    }
    Ok(Cells { table, key, columns, ttl: None, fence: head.fence })
}

fn damaged(table: &'static Table, column: &'static str) -> BadRow {
    BadRow { table: table.name, column, problem: "is damaged or has another type".into() }
}

fn take_head(reader: &mut Reader<'_>) -> Option<Head> {
    (reader.byte()? == VERSION).then_some(())?;
    let flags = reader.byte()?;
    let expires = if flags & EXPIRES == 0 { None } else { Some(Timestamp(i64::from_le_bytes(reader.array()?))) };
    let fence = if flags & FENCED == 0 { None } else { Some(u64::from_le_bytes(reader.array()?)) };
    Some(Head { expires, fence, deleted: flags & DELETED != 0 })
}

/// The outer `None` is damage, the inner one null.
fn take_column(kind: Type, reader: &mut Reader<'_>) -> Option<Option<Value>> {
    let found = reader.byte()?;
    if found == 0 {
        return Some(None);
    }
    (found == tag(kind)).then_some(())?;
    Some(Some(match kind {
        Type::Text => Value::Text(String::from_utf8(reader.bytes()?.to_vec()).ok()?),
        Type::Bytes => Value::Bytes(reader.bytes()?.to_vec()),
        Type::Int => Value::Int(unzigzag(reader.varint()?)),
        Type::Timestamp => Value::Timestamp(Timestamp(unzigzag(reader.varint()?))),
        Type::Uuid => Value::Uuid(Uuid::from_bytes(reader.array()?)),
        Type::Bool => Value::Bool(reader.byte()? != 0),
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    static TABLE: Table = Table {
        name: "test",
        partition: &[("p", Type::Int)],
        clustering: &[],
        columns: &[
            ("text", Type::Text),
            ("int", Type::Int),
            ("at", Type::Timestamp),
            ("id", Type::Uuid),
            ("blob", Type::Bytes),
            ("yes", Type::Bool),
        ],
        fenced: true,
    };
    static OLDER: Table = Table { columns: &[("text", Type::Text)], ..TABLE };

    fn key() -> Key {
        Key { partition: vec![Value::Int(1)], clustering: vec![] }
    }

    proptest! {
        #[test]
        fn rows_come_back(text: Option<String>, int: Option<i64>, at: Option<i64>, id: Option<u128>, blob: Option<Vec<u8>>, yes: Option<bool>, fence: u64) {
            let columns = vec![
                text.map(Value::from), int.map(Value::from), at.map(|at| Timestamp(at).into()), id.map(|id| Uuid::from_u128(id).into()),
                blob.map(Value::from), yes.map(Value::from),
            ];
            let cells = Cells { table: &TABLE, key: key(), columns, ttl: None, fence: Some(fence) };
            let value = encode(&cells, Timestamp(0)).unwrap();
            let head = head(&TABLE, &value).unwrap();
            prop_assert_eq!(decode(&TABLE, key(), &head, &value).unwrap(), cells);
        }

        #[test]
        fn damaged_values_are_an_error(mut value: Vec<u8>) {
            // Most random bytes are no row; none may panic.
            decode(&TABLE, key(), &Head { expires: None, fence: None, deleted: false }, &value).ok();
            value.splice(0..0, [VERSION, 0]);
            decode(&TABLE, key(), &Head { expires: None, fence: None, deleted: false }, &value).ok();
        }
    }

    #[test]
    fn columns_may_be_added_and_not_taken_away() {
        let row = |table: &'static Table| Cells {
            table,
            key: key(),
            columns: table.columns.iter().map(|(_, kind)| (*kind == Type::Text).then(|| "x".into())).collect(),
            ttl: None,
            fence: None,
        };
        let value = encode(&row(&OLDER), Timestamp(0)).unwrap();
        let before = head(&TABLE, &value).unwrap();
        assert_eq!(decode(&TABLE, key(), &before, &value).unwrap(), row(&TABLE));
        let value = encode(&row(&TABLE), Timestamp(0)).unwrap();
        assert_eq!(decode(&OLDER, key(), &before, &value).unwrap_err().column, "text");
    }

    #[test]
    fn a_ttl_ends_the_row_and_the_fence_stays_for_its_grace() {
        let ttl = Some(Duration::from_millis(2_900));
        let cells = Cells { table: &TABLE, key: key(), columns: vec![None; 6], ttl, fence: Some(1) };
        let head = head(&TABLE, &encode(&cells, Timestamp(0)).unwrap()).unwrap();
        assert!(head.is_live(Timestamp(1_999)));
        assert!(!head.is_live(Timestamp(2_000)));
        assert!(!head.is_over(Timestamp(2_000)));
        assert!(head.is_over(Timestamp(2_000).plus(FENCE_GRACE)));
    }
}
