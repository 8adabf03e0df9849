//! The database under the embedded log and store: one directory, one writer, one fsync for both.
//! It moves keys and values only; what they mean is told in [`crate::log::embedded`] and [`crate::store::embedded`].

mod commit;
mod scrub;
pub(crate) mod wire;

pub(crate) use commit::{Changes, Job, Reply, Staged};

use crate::{
    log::{LogError, embedded::EmbeddedLog},
    store::{StoreError, embedded::EmbeddedStore},
};
use bellwether_schemas::{Timestamp, rows::BadRow, topics::RETENTION_DAYS};
use commit::Committer;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, config::PartitioningPolicy};
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The embedded log and store, opened together on one directory.
#[derive(Clone, Debug)]
pub struct Embedded {
    /// The log.
    pub log: Arc<EmbeddedLog>,
    /// The store.
    pub store: Arc<EmbeddedStore>,
}

impl Embedded {
    /// Opens or creates the database in `dir`. It closes when log, store and all their consumers are dropped.
    ///
    /// # Errors
    /// See [`EmbeddedError`].
    pub fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let engine = Arc::new(Engine::open(dir, options)?);
        Ok(Self { log: EmbeddedLog::open(Arc::clone(&engine))?, store: EmbeddedStore::open(engine)? })
    }
}

/// Settings of the embedded database. Buffers and cache are what is asked for; flushing and compaction need memory beside them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedOptions {
    /// Bytes of the cache of blocks read from disk.
    pub cache_bytes: u64,
    /// Bytes of the log's write buffer. As many again are in memory while one is being flushed.
    pub log_buffer_bytes: u64,
    /// Bytes of the newest records that stay in memory, so that consumers at the end of the log need no look-up.
    pub log_tail_bytes: usize,
    /// Bytes of the write buffer of each table of the store.
    pub table_buffer_bytes: u64,
    /// Wait for the disk before acknowledging. `false` is for simulations only: nothing survives a power cut, and everything
    /// runs on the caller's thread, so that a run in one thread is the same each time.
    pub sync: bool,
    /// Milliseconds without a poll after which a consumer may be put out of its group.
    pub session_timeout_ms: u64,
    /// Bytes of key, payload and headers of the largest record.
    pub max_record_bytes: usize,
    /// Milliseconds between two runs of [`EmbeddedLog::enforce_retention`] and [`EmbeddedStore::expire`], for whoever calls them.
    pub retention_interval_ms: u64,
    /// Days that the log keeps its records, dead letters apart.
    pub retention_days: u32,
    /// The clock of append times and of TTLs.
    #[serde(skip)]
    pub clock: Clock,
}

impl Default for EmbeddedOptions {
    fn default() -> Self {
        Self {
            cache_bytes: 8 << 20,
            log_buffer_bytes: 8 << 20,
            log_tail_bytes: 4 << 20,
            table_buffer_bytes: 4 << 20,
            sync: true,
            session_timeout_ms: 30_000,
            max_record_bytes: 1 << 20,
            retention_interval_ms: 60_000,
            retention_days: RETENTION_DAYS,
            clock: Clock::default(),
        }
    }
}

impl EmbeddedOptions {
    /// [`Self::session_timeout_ms`] as a duration.
    #[must_use]
    pub const fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms)
    }

    /// [`Self::retention_days`] as a duration.
    #[must_use]
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(86_400).saturating_mul(self.retention_days)
    }
}

/// A source of the present time; by default the system's.
#[derive(Clone)]
pub struct Clock(pub Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    pub(crate) fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
        }))
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What can go wrong with the embedded database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// The directory belongs to a running process.
    #[error("directory {0} is used by another bellwether process: stop that one, or name another directory")]
    InUse(PathBuf),
    /// The disk failed or is full. After a failed write the database takes no more until it is opened again.
    #[error("embedded database: {0}; check the disk and its free space, then restart")]
    Storage(Arc<fjall::Error>),
    /// The writer is gone, which it is only after a panic.
    #[error("embedded database: its writer has stopped; restart")]
    Stopped,
    /// What is stored cannot be read.
    #[error("embedded database: {0} is damaged; restore the directory from a backup")]
    Damaged(String),
    /// A row that does not fit its table.
    #[error(transparent)]
    Row(#[from] BadRow),
    /// The topic or partition does not exist.
    #[error("topic `{0}` does not exist")]
    UnknownTopic(String),
}

impl From<fjall::Error> for EmbeddedError {
    fn from(error: fjall::Error) -> Self {
        Self::Storage(Arc::new(error))
    }
}

impl From<EmbeddedError> for LogError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::UnknownTopic(name) => Self::UnknownTopic(name),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<EmbeddedError> for StoreError {
    fn from(error: EmbeddedError) -> Self {
        match error {
            EmbeddedError::Row(bad) => Self::Row(bad),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<fjall::Error> for LogError {
    fn from(error: fjall::Error) -> Self {
        EmbeddedError::from(error).into()
    }
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        EmbeddedError::from(error).into()
    }
}

/// Journals that are kept until everything in them is flushed to tables. The least that fjall allows is 64 MiB.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Threads for flushing and compaction. With a second one, fjall 3.1's first would hand the other's compactions to itself, over and over, until
/// they are done (`worker_tick`), which cost a tenth of the processor.
const WORKERS: usize = 1;

/// The open database and its writer.
pub(crate) struct Engine {
    // Dropped first: the writer holds a handle of the database.
    committer: Committer,
    pub(crate) database: Database,
    pub(crate) options: EmbeddedOptions,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Engine {
    fn open(dir: &Path, options: EmbeddedOptions) -> Result<Self, EmbeddedError> {
        let database = Database::builder(dir)
            .cache_size(options.cache_bytes)
            .max_journaling_size(JOURNAL_BYTES)
            .worker_threads(WORKERS)
            // The writer says for each batch what shall be on disk.
            .manual_journal_persist(true)
            .open()
            .map_err(|error| match error {
                fjall::Error::Locked => EmbeddedError::InUse(dir.to_owned()),
                other => other.into(),
            })?;
        Ok(Self { committer: Committer::start(database.clone(), options.sync)?, database, options })
    }

    /// Opens or creates a keyspace.
    pub(crate) fn keyspace(&self, name: &str, buffer_bytes: u64) -> Result<Keyspace, EmbeddedError> {
        // Filters and indices in pieces, at every level: whole, those of a table of 64 MiB are read for each look-up once the cache holds no more of them.
        let options = || {
            KeyspaceCreateOptions::default()
                .max_memtable_size(buffer_bytes)
                .manual_journal_persist(true)
                .filter_block_partitioning_policy(PartitioningPolicy::all(true))
                .index_block_partitioning_policy(PartitioningPolicy::all(true))
        };
        Ok(self.database.keyspace(name, options)?)
    }

    /// Hands a job to the writer and waits until it is durable.
    pub(crate) async fn commit<T, J: Job + 'static>(
        &self,
        job: impl FnOnce(Reply<T>) -> J + Send,
    ) -> Result<T, EmbeddedError> {
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.committer.submit(Box::new(job(reply))).await?;
        answer.await.map_err(|_| EmbeddedError::Stopped)?
    }

    /// Writes these changes, all or none.
    pub(crate) async fn change(&self, changes: Changes) -> Result<(), EmbeddedError> {
        self.commit(|reply| changes.into_job(reply)).await
    }

    /// See [`scrub::scrub`].
    pub(crate) async fn scrub(&self) -> Result<(), EmbeddedError> {
        let database = self.database.clone();
        self.blocking(move || scrub::scrub(&database)).await
    }

    /// Runs what may take longer than a reactor should be held.
    pub(crate) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        if self.options.sync {
            tokio::task::spawn_blocking(work).await.map_err(|_| EmbeddedError::Stopped)?
        } else {
            work()
        }
    }
}
