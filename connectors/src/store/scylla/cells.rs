//! Values to and from the wire: what is bound to a statement, and rows as they come back.
//! Types were compared when the statement was prepared ([`super::statements`]), so nothing here guesses.

use super::cql;
use crate::store::StoreError;
use bellwether_schemas::{
    Timestamp,
    rows::{BadRow, Cells, Key, Table, Type, Value},
};
use scylla::{
    deserialize::{DeserializationError, FrameSlice, row::ColumnIterator, value::DeserializeValue},
    frame::response::result::ColumnType,
    serialize::{
        SerializationError,
        value::SerializeValue,
        writers::{CellWriter, WrittenCellProof},
    },
    value::CqlTimestamp,
};
use std::time::Duration;

/// The longest TTL that CQL takes: 20 years of 365 days.
const MAX_TTL_S: u64 = 20 * 365 * 24 * 60 * 60;

/// What is bound to one mark of a statement.
#[derive(Clone, Copy)]
pub(super) enum Bind<'a> {
    /// A column's value.
    Value(&'a Value),
    /// No value, over whatever there was.
    Null,
    /// No value where none can be: leaves no tombstone.
    Unset,
    /// A limit or TTL (CQL `int`).
    Int(i32),
    /// A token or timestamp (CQL `bigint`).
    BigInt(i64),
}

impl SerializeValue for Bind<'_> {
    fn serialize<'b>(
        &self,
        typ: &ColumnType<'_>,
        writer: CellWriter<'b>,
    ) -> Result<WrittenCellProof<'b>, SerializationError> {
        match self {
            Self::Value(Value::Text(text)) => text.serialize(typ, writer),
            Self::Value(Value::Int(number)) => number.serialize(typ, writer),
            Self::Value(Value::Timestamp(at)) => CqlTimestamp(at.0).serialize(typ, writer),
            Self::Value(Value::Uuid(id)) => id.serialize(typ, writer),
            Self::Value(Value::Bytes(bytes)) => bytes.serialize(typ, writer),
            Self::Value(Value::Bool(flag)) => flag.serialize(typ, writer),
            Self::Null => Ok(writer.set_null()),
            Self::Unset => Ok(writer.set_unset()),
            Self::Int(number) => number.serialize(typ, writer),
            Self::BigInt(number) => number.serialize(typ, writer),
        }
    }
}

/// Values as binds.
pub(super) fn binds(values: &[Value]) -> impl Iterator<Item = Bind<'_>> {
    values.iter().map(Bind::Value)
}

/// What an insert binds; `absent` stands for the columns without a value.
pub(super) fn row<'a>(cells: &'a Cells, absent: Bind<'a>) -> Result<Vec<Bind<'a>>, StoreError> {
    check_key(cells.table, &cells.key)?;
    if cells.columns.len() != cells.table.columns.len() {
        return Err(misfit(cells.table, "row", cells.table.columns.len(), cells.columns.len()));
    }
    for (value, column) in cells.columns.iter().zip(cells.table.columns) {
        value.iter().try_for_each(|value| check(cells.table, *column, value))?;
    }
    let fence = fence(cells.table, cells.fence)?.map(Bind::BigInt);
    let mut bound = Vec::with_capacity(cql::columns(cells.table).count() + 2);
    bound.extend(binds(&cells.key.partition).chain(binds(&cells.key.clustering)));
    bound.extend(cells.columns.iter().map(|value| value.as_ref().map_or(absent, Bind::Value)));
    bound.extend(fence);
    bound.push(Bind::Int(ttl(cells.table, cells.ttl)?));
    bound.extend(fence);
    Ok(bound)
}

/// Whole seconds, where CQL's 0 means "for ever": a TTL below a second is therefore one second.
fn ttl(table: &Table, ttl: Option<Duration>) -> Result<i32, StoreError> {
    let Some(ttl) = ttl else { return Ok(0) };
    let seconds = ttl.as_secs().max(1);
    i32::try_from(seconds).ok().filter(|_| seconds <= MAX_TTL_S).ok_or_else(|| {
        StoreError::Refused(format!("table {}: a TTL of {seconds} s; CQL keeps at most {MAX_TTL_S} s", table.name))
    })
}

/// A fence as the timestamp that it is in CQL.
pub(super) fn fence(table: &Table, fence: Option<u64>) -> Result<Option<i64>, StoreError> {
    match (table.fenced, fence) {
        (false, None) => Ok(None),
        (true, Some(fence)) => i64::try_from(fence).map(Some).map_err(|_| {
            StoreError::Refused(format!("table {}: fence {fence} is greater than a CQL timestamp", table.name))
        }),
        (true, None) => Err(StoreError::Refused(format!("table {} is fenced: give the write a fence", table.name))),
        (false, Some(_)) => {
            Err(StoreError::Refused(format!("table {} is not fenced: give the write no fence", table.name)))
        }
    }
}

/// Refuses a key that is not one of the table.
pub(super) fn check_key(table: &Table, key: &Key) -> Result<(), StoreError> {
    check_partition(table, &key.partition)?;
    if key.clustering.len() != table.clustering.len() {
        return Err(misfit(table, "clustering key", table.clustering.len(), key.clustering.len()));
    }
    check_clustering(table, &key.clustering)
}

/// Refuses a partition key that is not one of the table.
pub(super) fn check_partition(table: &Table, values: &[Value]) -> Result<(), StoreError> {
    if values.len() != table.partition.len() {
        return Err(misfit(table, "partition key", table.partition.len(), values.len()));
    }
    values.iter().zip(table.partition).try_for_each(|(value, column)| check(table, *column, value))
}

/// Refuses the first columns of a clustering key if they are none of the table.
pub(super) fn check_clustering(table: &Table, values: &[Value]) -> Result<(), StoreError> {
    values.iter().zip(table.clustering).try_for_each(|(value, column)| check(table, *column, value))
}

fn check(table: &Table, (column, kind): (&str, Type), value: &Value) -> Result<(), StoreError> {
    if value.kind() == kind {
        return Ok(());
    }
    let (table, given) = (table.name, value.kind());
    Err(StoreError::Refused(format!("table {table}, column {column}: {given:?} was given, {kind:?} is wanted")))
}

pub(super) fn misfit(table: &Table, what: &str, wanted: usize, given: usize) -> StoreError {
    StoreError::Refused(format!("table {}: a {what} of {given} values was given, {wanted} are wanted", table.name))
}

/// A value as it came; `None` is null.
pub(super) fn value(
    kind: Type,
    typ: &ColumnType<'_>,
    raw: Option<FrameSlice<'_>>,
) -> Result<Option<Value>, DeserializationError> {
    if raw.is_none() {
        return Ok(None);
    }
    Ok(Some(match kind {
        Type::Text => Value::Text(String::deserialize(typ, raw)?),
        Type::Int => Value::Int(i64::deserialize(typ, raw)?),
        Type::Timestamp => Value::Timestamp(Timestamp(CqlTimestamp::deserialize(typ, raw)?.0)),
        Type::Uuid => Value::Uuid(uuid::Uuid::deserialize(typ, raw)?),
        Type::Bytes => Value::Bytes(Vec::<u8>::deserialize(typ, raw)?),
        Type::Bool => Value::Bool(bool::deserialize(typ, raw)?),
    }))
}

/// The next column of a row, which the table says is `column`.
fn next(
    table: &Table,
    row: &mut ColumnIterator<'_, '_>,
    (column, kind): (&'static str, Type),
) -> Result<Option<Value>, StoreError> {
    let bad = |problem| BadRow { table: table.name, column, problem };
    let raw = row.next().ok_or_else(|| bad("is missing".into()))?.map_err(|_| bad("is cut off".into()))?;
    Ok(value(kind, raw.spec.typ(), raw.slice).map_err(|_| bad(format!("is no {}", cql::type_name(kind))))?)
}

/// Values of key columns, which are never null.
pub(super) fn key_values(
    table: &Table,
    row: &mut ColumnIterator<'_, '_>,
    columns: &[(&'static str, Type)],
) -> Result<Vec<Value>, StoreError> {
    let null = |column| BadRow { table: table.name, column, problem: "is null".into() };
    columns.iter().map(|column| Ok(next(table, row, *column)?.ok_or_else(|| null(column.0))?)).collect()
}

/// A number that is never null and none of the table's own columns.
fn number(
    table: &Table,
    row: &mut ColumnIterator<'_, '_>,
    (column, kind): (&'static str, Type),
) -> Result<i64, StoreError> {
    match next(table, row, (column, kind))? {
        Some(Value::Int(number)) => Ok(number),
        _ => Err(BadRow { table: table.name, column, problem: "is null".into() }.into()),
    }
}

/// The token that a scan selects before each row.
pub(super) fn token(table: &Table, row: &mut ColumnIterator<'_, '_>) -> Result<i64, StoreError> {
    number(table, row, ("token", Type::Int))
}

/// A row of a statement that selects [`cql::columns`]. What is left of its TTL is not asked for.
pub(super) fn cells(table: &'static Table, row: &mut ColumnIterator<'_, '_>) -> Result<Cells, StoreError> {
    let partition = key_values(table, row, table.partition)?;
    let clustering = key_values(table, row, table.clustering)?;
    let columns = table.columns.iter().map(|column| next(table, row, *column)).collect::<Result<_, _>>()?;
    let fence = if table.fenced { Some(number(table, row, cql::FENCE)?.unsigned_abs()) } else { None };
    Ok(Cells { table, key: Key { partition, clustering }, columns, ttl: None, fence })
}

/// The row of a compare-and-set that was refused: columns in the server's order, `[applied]` among them. `None`: it was applied.
pub(super) fn refused_insert(table: &'static Table, row: ColumnIterator<'_, '_>) -> Result<Option<Cells>, StoreError> {
    let bad = |column, problem: &str| BadRow { table: table.name, column, problem: problem.into() };
    let mut found = std::collections::HashMap::new();
    for column in row {
        let column = column.map_err(|_| bad("[applied]", "is cut off"))?;
        if column.spec.name() == "[applied]" {
            if value(Type::Bool, column.spec.typ(), column.slice).ok().flatten() == Some(Value::Bool(true)) {
                return Ok(None);
            }
        } else if let Some((name, kind)) = cql::columns(table).find(|(name, _)| *name == column.spec.name()) {
            let value = value(kind, column.spec.typ(), column.slice).map_err(|_| bad(name, "has another type"))?;
            found.insert(name, value);
        }
    }
    let mut key = |columns: &[(&'static str, Type)]| {
        columns
            .iter()
            .map(|(name, _)| found.remove(name).flatten().ok_or_else(|| bad(name, "is missing")))
            .collect::<Result<Vec<_>, _>>()
    };
    let key = Key { partition: key(table.partition)?, clustering: key(table.clustering)? };
    let columns = table.columns.iter().map(|(name, _)| found.remove(name).flatten()).collect();
    Ok(Some(Cells { table, key, columns, ttl: None, fence: None }))
}
