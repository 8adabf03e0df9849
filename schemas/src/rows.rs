//! Rows as the store knows them: a table's definition, a key of partition and clustering values, and typed columns.
//! A [`Row`] in code is a plain struct that turns into [`Cells`] and back; [`crate::tables`] has one per table.

use crate::Timestamp;
use std::{fmt, time::Duration};
use uuid::Uuid;

/// A column's type, with the CQL type it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// `text`
    Text,
    /// `bigint`
    Int,
    /// `timestamp`
    Timestamp,
    /// `uuid`
    Uuid,
    /// `blob`
    Bytes,
    /// `boolean`
    Bool,
}

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// `text`
    Text(String),
    /// `bigint`
    Int(i64),
    /// `timestamp`
    Timestamp(Timestamp),
    /// `uuid`
    Uuid(Uuid),
    /// `blob`
    Bytes(Vec<u8>),
    /// `boolean`
    Bool(bool),
}

impl Value {
    /// The type of this value.
    #[must_use]
    pub const fn kind(&self) -> Type {
        match self {
            Self::Text(_) => Type::Text,
            Self::Int(_) => Type::Int,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Uuid(_) => Type::Uuid,
            Self::Bytes(_) => Type::Bytes,
            Self::Bool(_) => Type::Bool,
        }
    }
}

macro_rules! value {
    ($($type:ty => $variant:ident),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Self {
                Self::$variant(value)
            }
        }
        impl TryFrom<Value> for $type {
            type Error = Value;
            fn try_from(value: Value) -> Result<Self, Value> {
                match value {
                    Value::$variant(value) => Ok(value),
                    other => Err(other),
                }
            }
        }
    )*};
}
value!(String => Text, i64 => Int, Timestamp => Timestamp, Uuid => Uuid, Vec<u8> => Bytes, bool => Bool);

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.into())
    }
}

/// A table: the same definition makes the CQL statements and the embedded keys.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Name in CQL and in the embedded store.
    pub name: &'static str,
    /// Columns of the partition key.
    pub partition: &'static [(&'static str, Type)],
    /// Clustering columns, ascending.
    pub clustering: &'static [(&'static str, Type)],
    /// All other columns; each may be null.
    pub columns: &'static [(&'static str, Type)],
    /// Every write names a fence, and the write with the greatest fence wins, however late it arrives
    /// (CQL: `USING TIMESTAMP fence`). A table is fenced throughout or not at all.
    pub fenced: bool,
}

impl PartialEq<Table> for &'static Table {
    fn eq(&self, other: &Table) -> bool {
        self.name == other.name
    }
}

/// The primary key of one row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Values of the partition key, in the table's order.
    pub partition: Vec<Value>,
    /// Values of the clustering columns, in the table's order.
    pub clustering: Vec<Value>,
}

/// A row as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cells {
    /// Its table.
    pub table: &'static Table,
    /// Its primary key.
    pub key: Key,
    /// Values in the order of [`Table::columns`].
    pub columns: Vec<Option<Value>>,
    /// Time to live, in whole seconds; `None` stays.
    pub ttl: Option<Duration>,
    /// Present exactly when the table is fenced.
    pub fence: Option<u64>,
}

/// What a processor or the API asks of the store: the rows of one partition, all or a span of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Read {
    /// Name of the table.
    pub table: &'static str,
    /// Partition key.
    pub partition: Vec<Value>,
    /// Which clustering keys.
    pub span: Span,
    /// At most so many rows, in clustering order.
    pub limit: Option<usize>,
}

/// A span of clustering keys within a partition.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Span {
    /// The whole partition.
    All,
    /// One row, by its whole clustering key.
    One(Vec<Value>),
    /// Rows whose first clustering columns equal these values.
    Prefix(Vec<Value>),
    /// Rows from this whole or partial clustering key (inclusive) to the other (exclusive), compared column by column.
    /// Both bounds name the same number of columns.
    Between(Vec<Value>, Vec<Value>),
}

/// A change to the store. A partition's writes of one call are applied together; see the store's own words on atomicity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Inserts or replaces the whole row.
    Put(Cells),
    /// Removes one row. In a fenced table `fence` is required and must not be smaller than that of the row.
    Delete {
        /// Table.
        table: &'static Table,
        /// Which row.
        key: Key,
        /// See [`Table::fenced`].
        fence: Option<u64>,
    },
}

impl Write {
    /// The table and key that this write touches.
    #[must_use]
    pub const fn target(&self) -> (&'static Table, &Key) {
        match self {
            Self::Put(cells) => (cells.table, &cells.key),
            Self::Delete { table, key, .. } => (table, key),
        }
    }
}

/// A typed row. Implemented by [`crate::row!`].
pub trait Row: Sized {
    /// Its table.
    const TABLE: &'static Table;

    /// To cells, without TTL and fence.
    fn into_cells(self) -> Cells;

    /// From cells.
    ///
    /// # Errors
    /// A column is missing or has another type than the table says: the table was written by something else.
    fn from_cells(cells: Cells) -> Result<Self, BadRow>;

    /// To a write of the whole row, for a table that is not fenced.
    fn put(self) -> Write {
        Write::Put(self.into_cells())
    }

    /// To a write that ends by itself; `ttl` is cut to whole seconds.
    fn put_for(self, ttl: Duration) -> Write {
        Write::Put(Cells { ttl: Some(ttl), ..self.into_cells() })
    }

    /// To a fenced write of the whole row.
    fn put_fenced(self, fence: u64) -> Write {
        Write::Put(Cells { fence: Some(fence), ..self.into_cells() })
    }
}

/// A stored row that does not fit its struct.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "table {table}, column {column}: {problem}; was the table written by another version? run `bellwether migrate`"
)]
pub struct BadRow {
    /// Table.
    pub table: &'static str,
    /// Column.
    pub column: &'static str,
    /// What is wrong.
    pub problem: String,
}

/// A struct field that fills one column.
pub trait Cell: Sized {
    /// The column's type.
    const TYPE: Type;
    /// To a cell; `None` is null.
    fn into_cell(self) -> Option<Value>;
    /// From a cell.
    ///
    /// # Errors
    /// What is wrong with the cell.
    fn from_cell(value: Option<Value>) -> Result<Self, String>;
}

macro_rules! cell {
    ($($type:ty => $kind:ident),*) => {$(
        impl Cell for $type {
            const TYPE: Type = Type::$kind;
            fn into_cell(self) -> Option<Value> {
                Some(self.into())
            }
            fn from_cell(value: Option<Value>) -> Result<Self, String> {
                let value = value.ok_or("is null")?;
                value.try_into().map_err(|v: Value| format!("is {:?}, not {:?}", v.kind(), Self::TYPE))
            }
        }
    )*};
}
cell!(String => Text, i64 => Int, Timestamp => Timestamp, Uuid => Uuid, Vec<u8> => Bytes, bool => Bool);

impl<T: Cell> Cell for Option<T> {
    const TYPE: Type = T::TYPE;
    fn into_cell(self) -> Option<Value> {
        self.and_then(T::into_cell)
    }
    fn from_cell(value: Option<Value>) -> Result<Self, String> {
        value.map(|v| T::from_cell(Some(v))).transpose()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", (&self.partition, &self.clustering))
    }
}

/// Declares a table and its row struct in one place:
/// `row! { /// doc  Name in "table" { partition { a: String } clustering { b: i64 } columns { c: Option<String> } } }`,
/// with `fenced` after the table's name where its writes are fenced.
#[macro_export]
macro_rules! row {
    (@fenced) => { false };
    (@fenced fenced) => { true };
    (
        $(#[$doc:meta])* $name:ident in $table:literal $($fenced:ident)? {
            partition { $($(#[$pd:meta])* $p:ident: $pt:ty),+ $(,)? }
            clustering { $($(#[$cd:meta])* $c:ident: $ct:ty),* $(,)? }
            columns { $($(#[$vd:meta])* $v:ident: $vt:ty),* $(,)? }
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name {
            $($(#[$pd])* pub $p: $pt,)+
            $($(#[$cd])* pub $c: $ct,)*
            $($(#[$vd])* pub $v: $vt,)*
        }
        impl $name {
            /// The primary key of the row that these values name.
            #[allow(clippy::too_many_arguments)]
            pub fn key($($p: impl Into<$crate::rows::Value>,)+ $($c: impl Into<$crate::rows::Value>,)*) -> $crate::rows::Key {
                $crate::rows::Key { partition: vec![$($p.into()),+], clustering: vec![$($c.into()),*] }
            }
            /// Reads one row.
            #[allow(clippy::too_many_arguments)]
            pub fn read_one($($p: impl Into<$crate::rows::Value>,)+ $($c: impl Into<$crate::rows::Value>,)*) -> $crate::rows::Read {
                let key = Self::key($($p,)+ $($c,)*);
                $crate::rows::Read {
                    table: $table, partition: key.partition, span: $crate::rows::Span::One(key.clustering), limit: None,
                }
            }
            /// Reads a whole partition.
            pub fn read_all($($p: impl Into<$crate::rows::Value>,)+) -> $crate::rows::Read {
                $crate::rows::Read {
                    table: $table, partition: vec![$($p.into()),+], span: $crate::rows::Span::All, limit: None,
                }
            }
        }
        impl $crate::rows::Row for $name {
            const TABLE: &'static $crate::rows::Table = &$crate::rows::Table {
                name: $table,
                partition: &[$((stringify!($p), <$pt as $crate::rows::Cell>::TYPE)),+],
                clustering: &[$((stringify!($c), <$ct as $crate::rows::Cell>::TYPE)),*],
                columns: &[$((stringify!($v), <$vt as $crate::rows::Cell>::TYPE)),*],
                fenced: $crate::row!(@fenced $($fenced)?),
            };
            fn into_cells(self) -> $crate::rows::Cells {
                $crate::rows::Cells {
                    table: Self::TABLE,
                    key: $crate::rows::Key {
                        partition: vec![$($crate::rows::Value::from(self.$p)),+],
                        clustering: vec![$($crate::rows::Value::from(self.$c)),*],
                    },
                    columns: vec![$($crate::rows::Cell::into_cell(self.$v)),*],
                    ttl: None,
                    fence: None,
                }
            }
            fn from_cells(cells: $crate::rows::Cells) -> Result<Self, $crate::rows::BadRow> {
                let bad = |column, problem| $crate::rows::BadRow { table: $table, column, problem };
                #[allow(unused_mut, unused_variables)]
                let (mut partition, mut clustering, mut columns) =
                    (cells.key.partition.into_iter(), cells.key.clustering.into_iter(), cells.columns.into_iter());
                Ok(Self {
                    $($p: $crate::rows::Cell::from_cell(partition.next()).map_err(|e| bad(stringify!($p), e))?,)+
                    $($c: $crate::rows::Cell::from_cell(clustering.next()).map_err(|e| bad(stringify!($c), e))?,)*
                    $($v: $crate::rows::Cell::from_cell(columns.next().flatten()).map_err(|e| bad(stringify!($v), e))?,)*
                })
            }
        }
    };
}
