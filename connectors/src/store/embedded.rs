//! The embedded store: one keyspace a table, rows ordered by the token of their partition and then by clustering key.
//! Opened by [`crate::embedded::Embedded::open`]. It must not acknowledge what is not on disk.

mod keys;
mod values;

use super::{Checkpoint, ScanPage, Store, StoreError, TokenRange};
use crate::embedded::{Changes, EmbeddedError, Engine, Job, Reply, Staged};
use async_trait::async_trait;
use bellwether_schemas::{
    Timestamp,
    rows::{Cells, Key, Read, Span, Table, Write},
    tables,
};
use fjall::{Keyspace, Readable, Snapshot, UserKey, UserValue};
use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Reads of single rows that are answered on the caller's thread; more of them, and spans, go to a thread for blocking work.
const INLINE_READS: usize = 32;

/// First characters of a checkpoint, so that another store's is not taken for ours.
const CHECKPOINT: &str = "embedded-1:";

/// The embedded store.
#[derive(Debug)]
pub struct EmbeddedStore {
    engine: Arc<Engine>,
    tables: Tables,
    /// Where the next [`EmbeddedStore::expire`] goes on: table and key.
    sweep: Mutex<(usize, Vec<u8>)>,
}

/// The tables that exist.
struct Tables(BTreeMap<&'static str, OnceLock<Keyspace>>);

impl std::fmt::Debug for Tables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.iter().filter(|(_, k)| k.get().is_some()).map(|(name, _)| name)).finish()
    }
}

impl Tables {
    fn keyspace(&self, table: &str) -> Result<&Keyspace, StoreError> {
        let missing = || StoreError::Schema(format!("table {table} is missing"));
        self.0.get(table).and_then(OnceLock::get).ok_or_else(missing)
    }
}

impl EmbeddedStore {
    pub(crate) fn open(engine: Arc<Engine>) -> Result<Arc<Self>, EmbeddedError> {
        let tables = Tables(tables::all().iter().map(|t| (t.name, OnceLock::new())).collect());
        let store = Self { engine, tables, sweep: Mutex::default() };
        for (name, cell) in &store.tables.0 {
            if store.engine.database.keyspace_exists(&keyspace_name(name)) {
                store.create(name, cell)?;
            }
        }
        Ok(Arc::new(store))
    }

    fn create(&self, table: &str, cell: &OnceLock<Keyspace>) -> Result<(), EmbeddedError> {
        let keyspace = self.engine.keyspace(&keyspace_name(table), self.engine.options.table_buffer_bytes)?;
        cell.get_or_init(|| keyspace);
        Ok(())
    }

    /// Looks at the next `limit` rows, going round all tables, and removes those whose time is over. Returns how many it removed.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn expire(&self, now: Timestamp, limit: usize) -> Result<usize, StoreError> {
        let (table, after) = self.sweep.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let all = tables::all();
        let Some(definition) = all.get(table).copied() else { return Ok(0) };
        let keyspace = self.tables.keyspace(definition.name)?.clone();
        let source = keyspace.clone();
        let (over, last) = self.engine.blocking(move || find_over(definition, &source, after, now, limit)).await?;
        let removed = over.len();
        if !over.is_empty() {
            self.engine.commit(|reply| ExpireJob { table: definition, keyspace, keys: over, now, reply }).await?;
        }
        let next = last.map_or(((table + 1) % all.len(), Vec::new()), |key| (table, key));
        *self.sweep.lock().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(removed)
    }

    /// Takes what was deleted or overwritten out of the files of the whole database, the log's included. It reads and writes all of it.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn scrub(&self) -> Result<(), StoreError> {
        Ok(self.engine.scrub().await?)
    }

    fn prepare(&self, write: &Write, now: Timestamp) -> Result<Prepared, StoreError> {
        let (table, key) = write.target();
        let fence = match write {
            Write::Put(cells) => cells.fence,
            Write::Delete { fence, .. } => *fence,
        };
        if table.fenced != fence.is_some() {
            let problem = if table.fenced { "is fenced: give a fence" } else { "is not fenced: give none" };
            return Err(StoreError::Refused(format!("a write to table {}, which {problem}", table.name)));
        }
        let value = match (write, fence) {
            (Write::Put(cells), _) => Some(values::encode(cells, now)?),
            (Write::Delete { .. }, Some(fence)) => Some(values::encode_deleted(fence, now)),
            (Write::Delete { .. }, None) => None,
        };
        let keyspace = self.tables.keyspace(table.name)?.clone();
        Ok(Prepared { table, keyspace, key: keys::row(table, key)?.into(), value: value.map(UserValue::from), fence })
    }

    fn plan(&self, read: &Read) -> Result<Plan, StoreError> {
        let unknown = || StoreError::Schema(format!("table {} is unknown", read.table));
        let table = tables::named(read.table).ok_or_else(unknown)?;
        let partition = keys::partition(table, &read.partition)?;
        let extended = |values: &[_]| {
            let mut key = partition.clone();
            keys::clustering(table, values, &mut key).map(|()| key)
        };
        let within = match &read.span {
            Span::All => Within::Prefix(partition),
            Span::One(values) => {
                Within::One(keys::row(table, &Key { partition: read.partition.clone(), clustering: values.clone() })?)
            }
            Span::Prefix(values) => Within::Prefix(extended(values)?),
            Span::Between(from, to) => Within::Between(extended(from)?, extended(to)?),
        };
        let keyspace = self.tables.keyspace(table.name)?.clone();
        Ok(Plan { table, keyspace, within, limit: read.limit.unwrap_or(usize::MAX) })
    }
}

/// Keyspaces of the store have a name apart from those of the log.
fn keyspace_name(table: &str) -> String {
    format!("store.{table}")
}

/// Decodes a row, unless it is deleted or expired.
fn live(table: &'static Table, key: &[u8], value: &[u8], now: Timestamp) -> Result<Option<Cells>, EmbeddedError> {
    let head = values::head(table, value)?;
    if !head.is_live(now) {
        return Ok(None);
    }
    let key =
        keys::decode(table, key).ok_or_else(|| EmbeddedError::Damaged(format!("a key of table {}", table.name)))?;
    Ok(Some(values::decode(table, key, &head, value)?))
}

/// A read, ready for the database.
struct Plan {
    table: &'static Table,
    keyspace: Keyspace,
    within: Within,
    limit: usize,
}

enum Within {
    One(Vec<u8>),
    Prefix(Vec<u8>),
    Between(Vec<u8>, Vec<u8>),
}

impl Plan {
    fn run(&self, snapshot: &Snapshot, now: Timestamp) -> Result<Vec<Cells>, EmbeddedError> {
        let rows = match &self.within {
            Within::One(key) => {
                let Some(value) = snapshot.get(&self.keyspace, key)? else { return Ok(Vec::new()) };
                return Ok(live(self.table, key, &value, now)?.into_iter().take(self.limit).collect());
            }
            Within::Between(from, to) if from >= to => return Ok(Vec::new()),
            Within::Between(from, to) => snapshot.range(&self.keyspace, from.as_slice()..to.as_slice()),
            Within::Prefix(prefix) => snapshot.prefix(&self.keyspace, prefix),
        };
        let mut found = Vec::new();
        for guard in rows {
            if found.len() >= self.limit {
                break;
            }
            let (key, value) = guard.into_inner()?;
            found.extend(live(self.table, &key, &value, now)?);
        }
        Ok(found)
    }
}

/// Rows of a token range after a key; the last key that was looked at, unless the range is at its end.
fn scan_page(
    table: &'static Table,
    keyspace: &Keyspace,
    snapshot: &Snapshot,
    bounds: (Bound<Vec<u8>>, Bound<Vec<u8>>),
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<Cells>, Option<UserKey>), EmbeddedError> {
    let mut rows = Vec::new();
    for guard in snapshot.range(keyspace, bounds) {
        let (key, value) = guard.into_inner()?;
        rows.extend(live(table, &key, &value, now)?);
        if rows.len() >= limit {
            return Ok((rows, Some(key)));
        }
    }
    Ok((rows, None))
}

/// The keys after `after` whose time is over among the next `limit`; the last of those, unless the table is at its end.
fn find_over(
    table: &'static Table,
    keyspace: &Keyspace,
    after: Vec<u8>,
    now: Timestamp,
    limit: usize,
) -> Result<(Vec<UserKey>, Option<Vec<u8>>), EmbeddedError> {
    let (mut over, mut seen, mut last) = (Vec::new(), 0, None);
    for guard in keyspace.range((Bound::Excluded(after), Bound::Unbounded)) {
        if seen >= limit {
            return Ok((over, last));
        }
        let (key, value) = guard.into_inner()?;
        seen += 1;
        last = Some(key.to_vec());
        // A damaged row is for whoever reads it to report; the sweep goes on.
        if values::head(table, &value).is_ok_and(|head| head.is_over(now)) {
            over.push(key);
        }
    }
    Ok((over, None))
}

fn encode_checkpoint(key: &[u8]) -> Checkpoint {
    let hex = key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    Checkpoint(format!("{CHECKPOINT}{hex}"))
}

fn decode_checkpoint(checkpoint: &Checkpoint) -> Option<Vec<u8>> {
    let hex = checkpoint.0.strip_prefix(CHECKPOINT)?;
    let digits = hex.as_bytes().chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok());
    digits.collect()
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn read(&self, reads: &[Read]) -> Result<Vec<Vec<Cells>>, StoreError> {
        let plans = reads.iter().map(|r| self.plan(r)).collect::<Result<Vec<_>, _>>()?;
        let now = self.engine.options.clock.now();
        // One snapshot: a partition's writes of one call are seen together or not at all.
        let snapshot = self.engine.database.snapshot();
        let cheap = plans.len() <= INLINE_READS && plans.iter().all(|p| matches!(p.within, Within::One(_)));
        let answer = move || plans.iter().map(|p| p.run(&snapshot, now)).collect();
        Ok(if cheap { answer() } else { self.engine.blocking(answer).await }?)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let now = self.engine.options.clock.now();
        let writes = writes.iter().map(|w| self.prepare(w, now)).collect::<Result<Vec<_>, _>>()?;
        if writes.is_empty() {
            return Ok(());
        }
        Ok(self.engine.commit(|reply| WriteJob { writes, reply }).await?)
    }

    async fn insert_if_absent(&self, row: Cells) -> Result<Option<Cells>, StoreError> {
        if row.table.fenced {
            return Err(StoreError::Refused(format!("table {} is fenced: it has no insert-if-absent", row.table.name)));
        }
        let now = self.engine.options.clock.now();
        let write = self.prepare(&Write::Put(row), now)?;
        Ok(self.engine.commit(|reply| InsertJob { write, now, found: None, reply }).await?)
    }

    async fn scan(
        &self,
        table: &'static Table,
        range: TokenRange,
        after: Option<Checkpoint>,
        limit: usize,
    ) -> Result<ScanPage, StoreError> {
        let keyspace = self.tables.keyspace(table.name)?.clone();
        let start = match after {
            None => Bound::Included(keys::token(range.start).to_vec()),
            Some(checkpoint) => {
                let within = |key: &Vec<u8>| {
                    key.get(..8).is_some_and(|t| keys::token(range.start)[..] <= *t && *t <= keys::token(range.end)[..])
                };
                let key = decode_checkpoint(&checkpoint).filter(within);
                let foreign =
                    || StoreError::Refused("the checkpoint is not of this range of this store: scan anew".into());
                Bound::Excluded(key.ok_or_else(foreign)?)
            }
        };
        let end = range.end.checked_add(1).map_or(Bound::Unbounded, |end| Bound::Excluded(keys::token(end).to_vec()));
        let (snapshot, now) = (self.engine.database.snapshot(), self.engine.options.clock.now());
        let page = move || scan_page(table, &keyspace, &snapshot, (start, end), now, limit.max(1));
        let (rows, last) = self.engine.blocking(page).await?;
        Ok(ScanPage { rows, next: last.map(|key| encode_checkpoint(&key)) })
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        let mut created = Vec::new();
        for (name, cell) in &self.tables.0 {
            if cell.get().is_none() {
                self.create(name, cell)?;
                created.push(format!("create table {name}"));
            }
        }
        Ok(created)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        for name in self.tables.0.keys() {
            self.tables.keyspace(name)?;
        }
        Ok(self.engine.change(Changes::default()).await?)
    }
}

/// A write, ready for the database. Without a value the key goes.
struct Prepared {
    table: &'static Table,
    keyspace: Keyspace,
    key: UserKey,
    value: Option<UserValue>,
    fence: Option<u64>,
}

impl Prepared {
    fn stage(self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        if let Some(fence) = self.fence
            && let Some(current) = staged.get(&self.keyspace, &self.key)?
            && values::head(self.table, &current)?.fence > Some(fence)
        {
            return Ok(());
        }
        staged.set(&self.keyspace, self.key, self.value);
        Ok(())
    }
}

/// Writes on their way to the disk.
struct WriteJob {
    writes: Vec<Prepared>,
    reply: Reply<()>,
}

impl Job for WriteJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        self.writes.drain(..).try_for_each(|write| write.stage(staged))
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        // Nobody listens where the caller was cancelled; the writes stand all the same.
        self.reply.send(result).ok();
    }
}

/// A compare-and-set on its way to the disk.
struct InsertJob {
    write: Prepared,
    now: Timestamp,
    found: Option<Cells>,
    reply: Reply<Option<Cells>>,
}

impl Job for InsertJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        let Prepared { table, keyspace, key, value, .. } = &self.write;
        if let Some(current) = staged.get(keyspace, key)? {
            self.found = live(table, key, &current, self.now)?;
        }
        if self.found.is_none() {
            staged.set(keyspace, key.clone(), value.clone());
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        let Self { found, reply, .. } = *self;
        reply.send(result.map(|()| found)).ok();
    }
}

/// Removes rows whose time is over, unless they were written again.
struct ExpireJob {
    table: &'static Table,
    keyspace: Keyspace,
    keys: Vec<UserKey>,
    now: Timestamp,
    reply: Reply<()>,
}

impl Job for ExpireJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        for key in self.keys.drain(..) {
            let current = staged.get(&self.keyspace, &key)?;
            let head = current.map(|value| values::head(self.table, &value)).transpose()?;
            if head.is_some_and(|h| h.is_over(self.now)) {
                staged.set(&self.keyspace, key, None);
            }
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        self.reply.send(result).ok();
    }
}
