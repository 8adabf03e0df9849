//! The store: typed rows in tables of [`bellwether_schemas::tables`].
//! Two implementations, one contract (`connectors/tests/store_contract.rs`): [`embedded`] and [`scylla`].

pub mod embedded;
pub mod scylla;

use async_trait::async_trait;
use bellwether_schemas::rows::{BadRow, Cells, Read, Table, Write};
use std::fmt::Debug;

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or not yet: try again. A write may or may not have happened.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// A table is missing or differs.
    #[error("store schema: {0}; run `bellwether migrate`")]
    Schema(String),
    /// What is stored does not fit.
    #[error(transparent)]
    Row(#[from] BadRow),
    /// The configuration is wrong, or the store refuses us; trying again does not help.
    #[error("store: {0}")]
    Refused(String),
}

impl StoreError {
    /// Whether the same call may pass later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A range of partition tokens: Murmur3 of CQL, or xxHash64 (shifted to the signed range) in the embedded store. Both ends inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenRange {
    /// First token.
    pub start: i64,
    /// Last token.
    pub end: i64,
}

/// How far a scan of a range has come. Opaque, printable, and good for as long as the table lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint(pub String);

/// One page of a scan.
#[derive(Clone, Debug, PartialEq)]
pub struct ScanPage {
    /// Rows in token order; within a partition in clustering order.
    pub rows: Vec<Cells>,
    /// Where to go on; `None` at the end of the range.
    pub next: Option<Checkpoint>,
}

/// A store. Cheap to share; all methods may be called at once.
#[async_trait]
pub trait Store: Debug + Send + Sync {
    /// Answers every read, in the order given. The reads go out together; the same partition asked twice is the caller's waste.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn read(&self, reads: &[Read]) -> Result<Vec<Vec<Cells>>, StoreError>;

    /// Applies all writes; they are durable on return. Writes of one partition are one mutation: all or none, also in a crash.
    /// Two writes to one row in a call: the later wins. After an error any partition's writes may or may not be applied.
    ///
    /// # Errors
    /// See [`StoreError`]; a fence that is missing, or given for a table without fences, is [`StoreError::Refused`].
    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError>;

    /// Compare-and-set: inserts the row unless one is there, and returns the one that was there. For what is rare.
    /// Not for fenced tables.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn insert_if_absent(&self, row: Cells) -> Result<Option<Cells>, StoreError>;

    /// Splits the whole token space into `parts` ranges of equal width.
    fn ranges(&self, parts: u32) -> Vec<TokenRange> {
        let parts = i128::from(parts.max(1));
        let width = (i128::from(i64::MAX) - i128::from(i64::MIN) + 1) / parts;
        let edge = |n: i128| i128::from(i64::MIN) + n * width;
        (0..parts)
            .map(|n| TokenRange {
                start: i64::try_from(edge(n)).unwrap_or(i64::MIN),
                end: if n == parts - 1 { i64::MAX } else { i64::try_from(edge(n + 1) - 1).unwrap_or(i64::MAX) },
            })
            .collect()
    }

    /// Reads on in a range of a table, at least one and about `limit` rows (a partition is not cut where the store pages by partition).
    ///
    /// # Errors
    /// See [`StoreError`]; a checkpoint that is not one of this store's is [`StoreError::Refused`].
    async fn scan(
        &self,
        table: &'static Table,
        range: TokenRange,
        after: Option<Checkpoint>,
        limit: usize,
    ) -> Result<ScanPage, StoreError>;

    /// Brings the tables up to date, each migration once, recorded; returns the names of those that ran now.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn migrate(&self) -> Result<Vec<String>, StoreError>;

    /// Whether the store answers and has its tables.
    ///
    /// # Errors
    /// See [`StoreError`].
    async fn ping(&self) -> Result<(), StoreError>;
}
