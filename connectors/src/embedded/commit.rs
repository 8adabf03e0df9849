//! Group commit: jobs that wait while the disk is busy are written together, as one batch with one fsync.
//! Nothing lingers: an idle writer takes a single job at once. Jobs are staged one after the other, in the order of the queue,
//! so a job may read what it is about to change.

use super::EmbeddedError;
use fjall::{Database, Keyspace, OwnedWriteBatch, PersistMode, UserKey, UserValue};
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    thread::JoinHandle,
};
use tokio::sync::{mpsc, oneshot};

/// Jobs that may wait for the writer; more callers wait for a place.
const QUEUE_JOBS: usize = 256;

/// A group is closed once it holds so many bytes, so that the first of it does not wait for ever.
const GROUP_BYTES: usize = 4 << 20;

/// Where a job's answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, EmbeddedError>>;

/// Something to be written.
pub(crate) trait Job: Send {
    /// Stages its changes. After an error none of them is written.
    ///
    /// # Errors
    /// What makes the job impossible.
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError>;

    /// Is told once everything staged is durable, or that it failed.
    fn done(self: Box<Self>, result: Result<(), EmbeddedError>);
}

/// Takes jobs to the database.
pub(crate) enum Committer {
    /// A thread of its own. The sender is taken out on drop, which ends the thread.
    Thread { queue: Option<mpsc::Sender<Box<dyn Job>>>, thread: Option<JoinHandle<()>> },
    /// The caller's thread, without fsync.
    Inline(Mutex<Writer>),
}

impl Committer {
    pub(crate) fn start(database: Database, sync: bool) -> Result<Self, EmbeddedError> {
        let writer = Writer { database, sync };
        if !sync {
            return Ok(Self::Inline(Mutex::new(writer)));
        }
        let (sender, mut queue) = mpsc::channel(QUEUE_JOBS);
        let thread = std::thread::Builder::new()
            .name("embedded-writer".into())
            .spawn(move || {
                while let Some(job) = queue.blocking_recv() {
                    writer.write_group(job, || queue.try_recv().ok());
                }
            })
            .map_err(|error| EmbeddedError::from(fjall::Error::Io(error)))?;
        Ok(Self::Thread { queue: Some(sender), thread: Some(thread) })
    }

    /// Queues a job, waiting for a place.
    pub(crate) async fn submit(&self, job: Box<dyn Job>) -> Result<(), EmbeddedError> {
        match self {
            Self::Thread { queue, .. } => {
                let queue = queue.as_ref().ok_or(EmbeddedError::Stopped)?;
                queue.send(job).await.map_err(|_| EmbeddedError::Stopped)
            }
            Self::Inline(writer) => {
                writer.lock().unwrap_or_else(PoisonError::into_inner).write_group(job, || None);
                Ok(())
            }
        }
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        if let Self::Thread { queue, thread } = self {
            drop(queue.take());
            if thread.take().is_some_and(|t| t.join().is_err()) {
                tracing::error!("the embedded database's writer panicked");
            }
        }
    }
}

/// Writes groups of jobs.
pub(crate) struct Writer {
    database: Database,
    sync: bool,
}

impl Writer {
    fn write_group(&self, first: Box<dyn Job>, mut more: impl FnMut() -> Option<Box<dyn Job>>) {
        let mut staged = Staged::new(&self.database);
        let mut jobs = Vec::new();
        let mut next = Some(first);
        while let Some(mut job) = next {
            match job.stage(&mut staged) {
                Ok(()) => {
                    staged.keep();
                    jobs.push(job);
                }
                Err(error) => {
                    staged.undo();
                    job.done(Err(error));
                }
            }
            next = if staged.bytes < GROUP_BYTES { more() } else { None };
        }
        let result = self.write(staged);
        if let Err(error) = &result {
            tracing::error!(%error, jobs = jobs.len(), "the embedded database failed to write");
        }
        for job in jobs {
            job.done(result.clone());
        }
    }

    fn write(&self, staged: Staged) -> Result<(), EmbeddedError> {
        let batch = staged.into_batch();
        if batch.is_empty() {
            // Says whether an earlier failure has closed the database.
            return Ok(self.database.persist(PersistMode::Buffer)?);
        }
        // Synced before it becomes visible: nobody acts on what a power cut could take back.
        let mode = if self.sync { PersistMode::SyncData } else { PersistMode::Buffer };
        Ok(batch.durability(Some(mode)).commit()?)
    }
}

/// Identity of a keyspace within this process, and a key.
type Place = (u64, UserKey);

/// The changes of a group.
pub(crate) struct Staged {
    batch: OwnedWriteBatch,
    // One entry a key: fjall must not see a key twice in one batch, for both would have the same sequence number.
    changed: HashMap<Place, (Keyspace, Option<UserValue>)>,
    undo: Vec<(Place, Option<(Keyspace, Option<UserValue>)>)>,
    bytes: usize,
}

impl Staged {
    fn new(database: &Database) -> Self {
        Self { batch: database.batch(), changed: HashMap::new(), undo: Vec::new(), bytes: 0 }
    }

    /// Writes a key that was never written before. It cannot be undone: only for jobs whose staging does not fail.
    pub(crate) fn append(&mut self, keyspace: &Keyspace, key: UserKey, value: UserValue) {
        self.bytes += key.len() + value.len();
        self.batch.insert(keyspace, key, value);
    }

    /// Writes a key, or removes it where there is no value.
    pub(crate) fn set(&mut self, keyspace: &Keyspace, key: UserKey, value: Option<UserValue>) {
        self.bytes += key.len() + value.as_ref().map_or(0, |v| v.len());
        let place = (keyspace.id(), key);
        let before = self.changed.insert(place.clone(), (keyspace.clone(), value));
        self.undo.push((place, before));
    }

    /// The value of a key, as this group leaves it.
    pub(crate) fn get(&self, keyspace: &Keyspace, key: &UserKey) -> Result<Option<UserValue>, EmbeddedError> {
        if let Some((_, value)) = self.changed.get(&(keyspace.id(), key.clone())) {
            return Ok(value.clone());
        }
        Ok(keyspace.get(key)?)
    }

    fn keep(&mut self) {
        self.undo.clear();
    }

    fn undo(&mut self) {
        while let Some((place, before)) = self.undo.pop() {
            match before {
                Some(entry) => drop(self.changed.insert(place, entry)),
                None => drop(self.changed.remove(&place)),
            }
        }
    }

    fn into_batch(mut self) -> OwnedWriteBatch {
        for ((_, key), (keyspace, value)) in self.changed {
            match value {
                Some(value) => self.batch.insert(&keyspace, key, value),
                None => self.batch.remove(&keyspace, key),
            }
        }
        self.batch
    }
}

/// Plain changes, made without looking. Without any, it tells whether the database takes writes.
#[derive(Default)]
pub(crate) struct Changes(Vec<(Keyspace, UserKey, Option<UserValue>)>);

impl Changes {
    pub(crate) fn put(&mut self, keyspace: &Keyspace, key: impl Into<UserKey>, value: impl Into<UserValue>) {
        self.0.push((keyspace.clone(), key.into(), Some(value.into())));
    }

    pub(crate) fn remove(&mut self, keyspace: &Keyspace, key: impl Into<UserKey>) {
        self.0.push((keyspace.clone(), key.into(), None));
    }

    pub(super) const fn into_job(self, reply: Reply<()>) -> ChangesJob {
        ChangesJob { changes: self, reply }
    }
}

pub(super) struct ChangesJob {
    changes: Changes,
    reply: Reply<()>,
}

impl Job for ChangesJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        for (keyspace, key, value) in self.changes.0.drain(..) {
            staged.set(&keyspace, key, value);
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        // Nobody listens where the caller was cancelled; the changes stand all the same.
        self.reply.send(result).ok();
    }
}
