//! The prepared statements of every table: each is prepared when first used, once, and checked against the table's definition.
//! Nothing is executed here.

use super::{cql, errors, migrations::MigrationRow};
use crate::store::StoreError;
use bellwether_schemas::{
    rows::{Row, Table, Type},
    tables,
};
use scylla::{
    client::session::Session,
    frame::response::result::{ColumnSpec, ColumnType, NativeType},
    statement::{Consistency, SerialConsistency, Statement, prepared::PreparedStatement},
};
use std::collections::HashMap;
use tokio::sync::OnceCell;

/// Rows of one partition that one statement asks for, at most: each number of them is a statement of its own.
pub(super) const MAX_ROWS: usize = 8;

/// A statement that is prepared when first used.
pub(super) struct Lazy {
    table: &'static Table,
    text: String,
    kind: Kind,
    prepared: OnceCell<PreparedStatement>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Selects all columns.
    Rows,
    /// Selects a token, then all columns.
    TokensAndRows,
    /// Selects the partition key.
    Partitions,
    /// Puts or deletes; twice is the same as once.
    Write,
    /// Compare-and-set; twice is not the same as once.
    CompareAndSet,
}

impl Lazy {
    fn new(table: &'static Table, kind: Kind, text: String) -> Self {
        Self { table, text, kind, prepared: OnceCell::new() }
    }

    /// The prepared statement.
    pub(super) async fn get(&self, session: &Session) -> Result<&PreparedStatement, StoreError> {
        self.prepared.get_or_try_init(|| self.prepare(session)).await
    }

    async fn prepare(&self, session: &Session) -> Result<PreparedStatement, StoreError> {
        let mut statement = Statement::new(&self.text);
        statement.set_is_idempotent(self.kind != Kind::CompareAndSet);
        statement.set_consistency(Consistency::LocalQuorum);
        statement.set_serial_consistency(Some(SerialConsistency::LocalSerial));
        let mut prepared =
            session.prepare(statement).await.map_err(|error| errors::prepare(self.table.name, &error))?;
        for spec in prepared.get_variable_col_specs().iter() {
            check(self.table, spec)?;
        }
        if let Some((other, columns)) = self.result() {
            check_result(self.table, other, columns, prepared.get_current_result_set_col_specs().get().as_slice())?;
            // What is selected is named, so it stays the same while the table lives: results need not describe themselves.
            prepared.set_use_cached_result_metadata(true);
        }
        Ok(prepared)
    }

    /// How many other columns a select brings, and how many of [`cql::columns`] after them. A compare-and-set brings others each time.
    fn result(&self) -> Option<(usize, usize)> {
        match self.kind {
            Kind::Rows => Some((0, cql::columns(self.table).count())),
            Kind::TokensAndRows => Some((1, cql::columns(self.table).count())),
            Kind::Partitions => Some((0, self.table.partition.len())),
            Kind::Write | Kind::CompareAndSet => None,
        }
    }
}

/// Refuses a column of a type that the table's definition does not give it. Other names (`[ttl]`, a token) are none of its columns.
fn check(table: &'static Table, spec: &ColumnSpec<'_>) -> Result<(), StoreError> {
    let Some((name, kind)) = cql::columns(table).find(|(name, _)| *name == spec.name()) else { return Ok(()) };
    if matches!(spec.typ(), ColumnType::Native(native) if *native == native_type(kind)) {
        return Ok(());
    }
    let wanted = cql::type_name(kind);
    Err(StoreError::Schema(format!("table {}, column {name} is not of type {wanted}", table.name)))
}

/// Rows are decoded by position: the columns must come as they were asked for.
fn check_result(
    table: &'static Table,
    other: usize,
    columns: usize,
    specs: &[ColumnSpec<'_>],
) -> Result<(), StoreError> {
    let wanted = cql::columns(table).take(columns).map(|(name, _)| name);
    if !specs.iter().skip(other).map(ColumnSpec::name).eq(wanted) {
        return Err(StoreError::Schema(format!("table {}: a select brings other columns than it names", table.name)));
    }
    specs.iter().skip(other).try_for_each(|spec| check(table, spec))
}

const fn native_type(kind: Type) -> NativeType {
    match kind {
        Type::Text => NativeType::Text,
        Type::Int => NativeType::BigInt,
        Type::Timestamp => NativeType::Timestamp,
        Type::Uuid => NativeType::Uuid,
        Type::Bytes => NativeType::Blob,
        Type::Bool => NativeType::Boolean,
    }
}

/// The statements of one table; what each binds is said in [`cql`].
pub(super) struct Statements {
    pub(super) table: &'static Table,
    /// By the number of clustering columns that are equal: the first reads the whole partition, the last one row.
    prefix: Vec<Lazy>,
    /// By the number of clustering columns that are compared, less one.
    between: Vec<Lazy>,
    /// By the number of rows, less two; none where a partition has but one row.
    rows: Vec<Lazy>,
    pub(super) after: Lazy,
    pub(super) tokens: Lazy,
    pub(super) partitions: Lazy,
    pub(super) insert: Lazy,
    pub(super) insert_if_absent: Lazy,
    pub(super) delete: Lazy,
}

impl Statements {
    fn of(keyspace: &str, table: &'static Table) -> Self {
        let lazy = |kind, text| Lazy::new(table, kind, text);
        let width = table.clustering.len();
        Self {
            table,
            prefix: (0..=width).map(|n| lazy(Kind::Rows, cql::select_prefix(keyspace, table, n))).collect(),
            rows: match width {
                0 => Vec::new(),
                _ => (2..=MAX_ROWS).map(|n| lazy(Kind::Rows, cql::select_rows(keyspace, table, n))).collect(),
            },
            between: (1..=width).map(|n| lazy(Kind::Rows, cql::select_between(keyspace, table, n))).collect(),
            after: lazy(Kind::Rows, cql::select_after(keyspace, table)),
            tokens: lazy(Kind::TokensAndRows, cql::select_tokens(keyspace, table)),
            partitions: lazy(Kind::Partitions, cql::select_partitions(keyspace, table)),
            insert: lazy(Kind::Write, cql::insert(keyspace, table)),
            insert_if_absent: lazy(Kind::CompareAndSet, cql::insert_if_absent(keyspace, table)),
            delete: lazy(Kind::Write, cql::delete(keyspace, table)),
        }
    }

    /// Reads the rows of which the first `columns` clustering columns are given.
    pub(super) fn prefix(&self, columns: usize) -> Result<&Lazy, StoreError> {
        self.prefix.get(columns).ok_or_else(|| self.too_wide(columns))
    }

    /// Reads the rows between two bounds of `columns` clustering columns, at least one.
    pub(super) fn between(&self, columns: usize) -> Result<&Lazy, StoreError> {
        columns.checked_sub(1).and_then(|n| self.between.get(n)).ok_or_else(|| self.too_wide(columns))
    }

    /// Reads `count` rows of one partition, 2 to [`MAX_ROWS`].
    pub(super) fn rows(&self, count: usize) -> Result<&Lazy, StoreError> {
        let none = || StoreError::Refused(format!("table {} has no statement for {count} rows", self.table.name));
        count.checked_sub(2).and_then(|n| self.rows.get(n)).ok_or_else(none)
    }

    fn too_wide(&self, columns: usize) -> StoreError {
        let (name, width) = (self.table.name, self.table.clustering.len());
        StoreError::Refused(format!("table {name} has {width} clustering columns, not {columns}: name fewer"))
    }
}

/// The statements of all tables of a keyspace, by the tables' names.
pub(super) fn all(keyspace: &str) -> HashMap<&'static str, Statements> {
    let tables = tables::all().into_iter().chain([MigrationRow::TABLE]);
    tables.map(|table| (table.name, Statements::of(keyspace, table))).collect()
}
