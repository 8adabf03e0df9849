//! What a processor is: two pure functions. The runtime (`src/runtime`) reads what `needs` names, calls `decide` for one record after
//! the other, each seeing the rows that the earlier ones of the batch wrote, and commits: rows, records, `after`, `announced`, offsets.

use bellwether_schemas::{
    Position, Timestamp,
    records::{Reason, Record},
    rows::{BadRow, Cells, Key, Read, Row, Span, Value, Write},
};
use std::collections::{BTreeMap, HashMap};

/// A processor of one consumer group.
pub trait Processor {
    /// Consumer group and metric label.
    const NAME: &'static str;
    /// What it works on.
    type Input;

    /// How often `needs` is asked: 2 where the second answer depends on rows that the first one named.
    const ROUNDS: usize = 1;

    /// The rows that [`Processor::decide`] will look at. What is not asked for here is not there.
    fn needs(&self, input: &Incoming<Self::Input>, facts: &Facts, now: Timestamp) -> Vec<Read>;

    /// Decides. Must give the same ids for the same input, whenever and however often it is called.
    ///
    /// # Errors
    /// What cannot be decided, with its reason: the runtime makes a dead letter of it.
    fn decide(&self, input: &Incoming<Self::Input>, facts: &Facts, now: Timestamp) -> Result<Output, Refusal>;
}

/// An input and where it came from.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming<T> {
    /// Position on the log; for a tick, the partition and offset of the next record.
    pub position: Position,
    /// The input.
    pub input: T,
}

/// What a decision changes and says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Written before the records are appended.
    pub rows: Vec<Write>,
    /// Appended before the offset is committed.
    pub records: Vec<Record>,
    /// Written after the records are appended: what may only go once its effect is on the log.
    pub after: Vec<Write>,
    /// Appended when all of these rows are written, because whoever hears it looks there. A redelivery must say it again: nothing else remembers it.
    pub announced: Vec<Record>,
    /// A part that could not be decided, beside what could: the input is kept as a dead letter, and a replay of it meets the
    /// effects above as duplicates.
    pub refused: Option<Refusal>,
    /// For a tick: there is more to do at once.
    pub more: bool,
}

/// A record that cannot be decided.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.name())]
pub struct Refusal {
    /// Closed reason.
    pub reason: Reason,
    /// What is wrong, with the field and the remedy.
    pub detail: String,
}

impl Refusal {
    /// A refusal in words.
    pub fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: detail.into() }
    }
}

impl From<BadRow> for Refusal {
    fn from(error: BadRow) -> Self {
        Self::new(Reason::Invalid, error.to_string())
    }
}

/// The rows that were read for a batch, with what the batch wrote over them.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    partitions: HashMap<(&'static str, Vec<Value>), BTreeMap<Vec<Value>, Cells>>,
}

impl Facts {
    /// Takes in the rows of one answered read.
    pub fn add(&mut self, rows: Vec<Cells>) {
        for cells in rows {
            self.partition(cells.table.name, &cells.key).insert(cells.key.clustering.clone(), cells);
        }
    }

    /// Lays writes over what was read.
    pub fn apply(&mut self, writes: &[Write]) {
        for write in writes {
            match write {
                Write::Put(cells) => {
                    self.partition(cells.table.name, &cells.key).insert(cells.key.clustering.clone(), cells.clone());
                }
                Write::Delete { table, key, .. } => {
                    self.partition(table.name, key).remove(&key.clustering);
                }
            }
        }
    }

    fn partition(&mut self, table: &'static str, key: &Key) -> &mut BTreeMap<Vec<Value>, Cells> {
        self.partitions.entry((table, key.partition.clone())).or_default()
    }

    /// The rows of a read, typed, in clustering order. Only what `needs` named can be found.
    ///
    /// # Errors
    /// A row does not fit its struct.
    pub fn rows<R: Row>(&self, read: &Read) -> Result<Vec<R>, BadRow> {
        self.cells(read).cloned().map(R::from_cells).collect()
    }

    /// The same rows as they are stored, with their fences.
    pub fn cells(&self, read: &Read) -> impl Iterator<Item = &Cells> {
        let span = &read.span;
        let within = move |key: &[Value]| match span {
            Span::All => true,
            Span::One(whole) => key == whole.as_slice(),
            Span::Prefix(prefix) => key.starts_with(prefix),
            Span::Between(from, to) => &key[..from.len()] >= from.as_slice() && &key[..to.len()] < to.as_slice(),
        };
        let partition = self.partitions.get(&(read.table, read.partition.clone()));
        let found = partition.into_iter().flatten().filter(move |(key, _)| within(key.as_slice()));
        found.take(read.limit.unwrap_or(usize::MAX)).map(|(_, cells)| cells)
    }

    /// The one row of a read.
    ///
    /// # Errors
    /// The row does not fit its struct.
    pub fn one<R: Row>(&self, read: &Read) -> Result<Option<R>, BadRow> {
        if let Span::One(key) = &read.span {
            // The common case, without a walk through the partition.
            return self
                .partitions
                .get(&(R::TABLE.name, read.partition.clone()))
                .and_then(|rows| rows.get(key))
                .map(|cells| R::from_cells(cells.clone()))
                .transpose();
        }
        Ok(self.rows(read)?.into_iter().next())
    }
}
