//! The embedded log: durable topics and partitions in one keyspace, and consumer groups within this process.
//! Opened by [`crate::embedded::Embedded::open`]. It must not acknowledge what is not on disk, nor show it to a consumer.

mod groups;
mod record;
mod tail;
mod topics;

use super::{
    Append, Assignment, Bounds, Commit, CommitError, Committed, Consumer, Log, LogError, LogRecord, MAX_METADATA,
    Polled, TopicPartition,
};
use crate::embedded::{EmbeddedError, Engine, Job, Reply, Staged};
use async_trait::async_trait;
use bellwether_schemas::{
    Position, Timestamp, Topic,
    topics::{Retention, partition_of},
};
use fjall::UserValue;
use groups::{Change, CommitGuard, Groups, Joining};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};
use topics::{Topics, decode_commit, encode_commit};

/// Bytes of values that one poll or read brings, as soon as it has one record: they are read on the caller's thread.
const READ_BYTES: usize = 1 << 20;

/// Records that one step of retention reads, and deletes together.
const RETENTION_STEP: usize = 1_000;

/// Records that one call of retention deletes a partition, at most.
const RETENTION_LIMIT: u64 = 100_000;

/// Bytes of a group's name.
const MAX_GROUP: usize = 255;

/// The embedded log.
#[derive(Debug)]
pub struct EmbeddedLog {
    engine: Arc<Engine>,
    topics: Arc<Topics>,
    groups: Arc<Groups>,
    members: AtomicU64,
    creating: tokio::sync::Mutex<()>,
}

impl EmbeddedLog {
    pub(crate) fn open(engine: Arc<Engine>) -> Result<Arc<Self>, EmbeddedError> {
        let topics = Arc::new(Topics::open(&engine)?);
        let groups = Groups::new(engine.options.session_timeout());
        Ok(Arc::new(Self {
            engine,
            topics,
            groups,
            members: AtomicU64::default(),
            creating: tokio::sync::Mutex::default(),
        }))
    }

    /// Deletes records whose time is over, and in compacted topics those that a newer one of their key replaces. Works in bounded
    /// steps and stops after `RETENTION_LIMIT` records a partition; returns how many it deleted.
    ///
    /// # Errors
    /// See [`LogError`].
    pub async fn enforce_retention(&self, now: Timestamp) -> Result<u64, LogError> {
        let mut deleted = 0;
        for (topic, partitions) in self.topics.counts() {
            for partition in 0..partitions {
                let at = TopicPartition { topic, partition };
                deleted += match topic.retention(self.engine.options.retention()) {
                    Retention::Delete(age) => self.delete_older(at, age, now).await?,
                    Retention::Compact => self.compact(at).await?,
                };
            }
        }
        Ok(deleted)
    }

    async fn delete_older(&self, at: TopicPartition, age: Duration, now: Timestamp) -> Result<u64, LogError> {
        let mut deleted = 0;
        while deleted < RETENTION_LIMIT {
            let topics = Arc::clone(&self.topics);
            let expired = move || topics.appended_before(at, now, age, RETENTION_STEP);
            let offsets = self.engine.blocking(expired).await?;
            let Some(last) = offsets.last() else { break };
            let changes = self.topics.deletion(at, &offsets, last + 1)?;
            self.engine.change(changes).await?;
            self.topics.partition(at)?.start.fetch_max(last + 1, Ordering::AcqRel);
            deleted += offsets.len() as u64;
            if offsets.len() < RETENTION_STEP {
                break;
            }
        }
        Ok(deleted)
    }

    async fn compact(&self, at: TopicPartition) -> Result<u64, LogError> {
        let end = self.topics.partition(at)?.end.load(Ordering::Acquire);
        if self.topics.partition(at)?.compacted.load(Ordering::Acquire) == end {
            return Ok(0);
        }
        let topics = Arc::clone(&self.topics);
        let (replaced, start) = self.engine.blocking(move || topics.replaced(at, end)).await?;
        for offsets in replaced.chunks(RETENTION_STEP) {
            self.engine.change(self.topics.deletion(at, offsets, start)?).await?;
        }
        let partition = self.topics.partition(at)?;
        partition.start.fetch_max(start, Ordering::AcqRel);
        partition.compacted.store(end, Ordering::Release);
        Ok(replaced.len() as u64)
    }

    /// Progress of a group in one partition.
    fn committed(&self, group: &str, at: TopicPartition) -> Result<Option<Committed>, LogError> {
        let key = self.topics.commit_key(group, at)?;
        let value = self.topics.meta.get(key)?;
        Ok(value.map(|v| decode_commit(&v)).transpose()?)
    }

    fn encode(&self, record: &Append, appended: Timestamp) -> Result<(TopicPartition, UserValue), LogError> {
        let headers: usize = record.headers.iter().map(|h| h.name.len() + h.value.len()).sum();
        let bytes = record.key.len() + record.payload.len() + headers;
        let limit = self.engine.options.max_record_bytes;
        if bytes > limit {
            return Err(LogError::TooLarge { topic: record.topic, bytes, limit });
        }
        let partition = partition_of(&record.key, self.topics.count(record.topic)?);
        let at = TopicPartition { topic: record.topic, partition };
        Ok((at, record::encode(appended, &record.key, &record.headers, &record.payload)))
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn create_topics(&self, partitions: u32) -> Result<Vec<Topic>, LogError> {
        if partitions == 0 {
            return Err(LogError::Refused(
                "a topic needs at least one partition: set `partitions` to 1 or more".into(),
            ));
        }
        let _one_at_a_time = self.creating.lock().await;
        let (created, changes) = self.topics.plan(partitions)?;
        self.engine.change(changes).await?;
        self.topics.reload()?;
        Ok(created)
    }

    async fn append(&self, records: Vec<Append>) -> Result<Vec<Position>, LogError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let now = self.engine.options.clock.now();
        let records = records.iter().map(|r| self.encode(r, now)).collect::<Result<Vec<_>, _>>()?;
        let topics = Arc::clone(&self.topics);
        let job = |reply| AppendJob { positions: Vec::with_capacity(records.len()), records, topics, reply };
        Ok(self.engine.commit(job).await?)
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        if group.is_empty() || group.len() > MAX_GROUP {
            return Err(LogError::Refused(format!("a group's name has 1 to {MAX_GROUP} bytes")));
        }
        let subscription =
            topics.iter().map(|t| Ok((*t, self.topics.count(*t)?))).collect::<Result<Vec<_>, LogError>>()?;
        let wake = Arc::new(Notify::new());
        for topic in topics {
            self.topics.watch(*topic, &wake)?;
        }
        Ok(Box::new(EmbeddedConsumer {
            id: self.members.fetch_add(1, Ordering::Relaxed),
            engine: Arc::clone(&self.engine),
            topics: Arc::clone(&self.topics),
            groups: Arc::clone(&self.groups),
            group: group.into(),
            turns: vec![0; subscription.len()],
            joining: Joining { subscription, wake, rejoins: false },
            positions: BTreeMap::new(),
        }))
    }

    async fn read(&self, at: TopicPartition, offset: u64, max: usize) -> Result<Vec<LogRecord>, LogError> {
        Ok(self.topics.fetch(at, offset, max, READ_BYTES)?.0)
    }

    async fn bounds(&self, topic: Topic) -> Result<Vec<Bounds>, LogError> {
        let count = self.topics.count(topic)?;
        (0..count)
            .map(|partition| {
                let at = TopicPartition { topic, partition };
                let state = self.topics.partition(at)?;
                // The start first: it never passes an end that is read after it.
                let start = state.start.load(Ordering::Acquire);
                Ok(Bounds { at, start, end: state.end.load(Ordering::Acquire) })
            })
            .collect()
    }

    async fn progress(&self, group: &str, topic: Topic) -> Result<Vec<Commit>, LogError> {
        let count = self.topics.count(topic)?;
        let partitions = (0..count).map(|partition| TopicPartition { topic, partition });
        let commits = partitions.map(|at| Ok(self.committed(group, at)?.map(|committed| Commit { at, committed })));
        commits.filter_map(Result::transpose).collect()
    }

    async fn ping(&self) -> Result<(), LogError> {
        Ok(self.engine.change(crate::embedded::Changes::default()).await?)
    }
}

/// An append on its way to the disk.
struct AppendJob {
    topics: Arc<Topics>,
    records: Vec<(TopicPartition, UserValue)>,
    /// Where each record is staged.
    positions: Vec<Position>,
    reply: Reply<Vec<Position>>,
}

impl Job for AppendJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        // All are looked up before the first is staged: appended records cannot be undone.
        let partitions = self.records.iter().map(|(at, _)| self.topics.entry(*at)).collect::<Result<Vec<_>, _>>()?;
        for ((at, value), (id, partition)) in self.records.iter().zip(partitions) {
            let offset = partition.next.fetch_add(1, Ordering::Relaxed);
            // The value is shared, not copied.
            staged.append(&self.topics.records, record::key(id, at.partition, offset).into(), value.clone());
            self.positions.push(Position { topic: at.topic, partition: at.partition, offset });
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        // Nobody listens where the caller was cancelled; the records stand all the same.
        let Self { topics, records, positions, reply } = *self;
        if result.is_ok() {
            topics.publish(&positions, records.into_iter().map(|(_, value)| value));
        }
        reply.send(result.map(|()| positions)).ok();
    }
}

/// A commit on its way to the disk.
struct CommitJob {
    topics: Arc<Topics>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keeps the partitions with their owner until the next owner can read what is written here.
    guard: CommitGuard,
    reply: Reply<()>,
}

impl Job for CommitJob {
    fn stage(&mut self, staged: &mut Staged) -> Result<(), EmbeddedError> {
        for (key, value) in self.entries.drain(..) {
            staged.set(&self.topics.meta, key.into(), Some(value.into()));
        }
        Ok(())
    }

    fn done(self: Box<Self>, result: Result<(), EmbeddedError>) {
        drop(self.guard);
        self.reply.send(result).ok();
    }
}

/// A member of a group. Its partitions are free as soon as it is dropped.
struct EmbeddedConsumer {
    engine: Arc<Engine>,
    topics: Arc<Topics>,
    groups: Arc<Groups>,
    group: String,
    id: u64,
    joining: Joining,
    /// The next offset to read of every partition that is ours.
    positions: BTreeMap<TopicPartition, u64>,
    /// For each topic the partition to begin with, so that a busy one does not keep the others waiting.
    turns: Vec<u32>,
}

/// Marks the member as polling, until this is dropped: a poll may be cancelled.
struct Polling<'a>(&'a Groups, &'a str, u64);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.rest(self.1, self.2, Instant::now());
    }
}

impl EmbeddedConsumer {
    /// The next change of assignment, if there is one.
    fn change(&mut self, change: Change) -> Result<Option<Polled>, LogError> {
        match change {
            Change::PutOut => {
                let partitions: Vec<_> = std::mem::take(&mut self.positions).into_keys().collect();
                Ok((!partitions.is_empty()).then_some(Polled::Revoked { partitions, lost: true }))
            }
            Change::Revoked(partitions) => {
                self.positions.retain(|at, _| !partitions.contains(at));
                Ok(Some(Polled::Revoked { partitions, lost: false }))
            }
            Change::Assigned(partitions) => match self.take_over(&partitions) {
                Ok(assignments) => Ok(Some(Polled::Assigned(assignments))),
                Err(error) => {
                    self.positions.retain(|at, _| !partitions.contains(at));
                    self.groups.give_back(&self.group, self.id, &partitions);
                    Err(error)
                }
            },
            Change::None(_) => Ok(None),
        }
    }

    fn take_over(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Assignment>, LogError> {
        partitions
            .iter()
            .map(|at| {
                let key = self.topics.commit_key(&self.group, *at)?;
                let committed = self.topics.meta.get(key)?.map(|v| decode_commit(&v)).transpose()?;
                self.positions.insert(*at, committed.as_ref().map_or(0, |c| c.offset));
                Ok(Assignment { at: *at, committed })
            })
            .collect()
    }

    /// Reads on: earlier topics first, within a topic one partition after the other.
    fn take(&mut self, max: usize) -> Result<Vec<LogRecord>, LogError> {
        let (mut taken, mut bytes) = (Vec::new(), READ_BYTES);
        for (turn, (topic, count)) in self.turns.iter_mut().zip(&self.joining.subscription) {
            let first = *turn;
            for partition in (first..*count).chain(0..first) {
                let at = TopicPartition { topic: *topic, partition };
                let Some(position) = self.positions.get_mut(&at) else { continue };
                let (records, next, used) = self.topics.fetch(at, *position, max - taken.len(), bytes)?;
                *position = next;
                bytes = bytes.saturating_sub(used);
                taken.extend(records);
                if taken.len() >= max || bytes == 0 {
                    *turn = (partition + 1) % count;
                    return Ok(taken);
                }
            }
        }
        Ok(taken)
    }
}

#[async_trait]
impl Consumer for EmbeddedConsumer {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Polled, LogError> {
        // A log that always has records would otherwise never give its thread away.
        tokio::task::coop::consume_budget().await;
        let deadline = Instant::now().checked_add(wait);
        let (groups, group, wake) = (Arc::clone(&self.groups), self.group.clone(), Arc::clone(&self.joining.wake));
        let _polling = Polling(&groups, &group, self.id);
        loop {
            let now = Instant::now();
            let change = groups.step(&group, self.id, &self.joining, now);
            self.joining.rejoins = true;
            let recheck = if let Change::None(at) = &change { *at } else { Some(now) };
            if let Some(polled) = self.change(change)? {
                return Ok(polled);
            }
            if max > 0 {
                let records = self.take(max)?;
                if !records.is_empty() {
                    return Ok(Polled::Records(records));
                }
            }
            if deadline.is_some_and(|d| now >= d) {
                return Ok(Polled::Records(Vec::new()));
            }
            let woken = wake.notified();
            match [deadline, recheck].into_iter().flatten().min() {
                // Which of the two it was does not matter: all is looked at again.
                Some(until) => drop(tokio::time::timeout_at(until, woken).await),
                None => woken.await,
            }
        }
    }

    async fn seek(&mut self, at: TopicPartition, offset: u64) -> Result<(), LogError> {
        match self.positions.get_mut(&at) {
            Some(position) => {
                *position = offset;
                Ok(())
            }
            None => Err(LogError::Refused(format!(
                "cannot seek in {}/{}: this consumer does not own it",
                at.topic, at.partition
            ))),
        }
    }

    async fn commit(&mut self, commits: Vec<Commit>) -> Result<(), CommitError> {
        if commits.iter().any(|c| c.committed.metadata.len() > MAX_METADATA) {
            return Err(LogError::Refused(format!("metadata of a commit has at most {MAX_METADATA} bytes")).into());
        }
        let partitions = commits.iter().map(|c| c.at).collect();
        let guard = self.groups.begin_commit(&self.group, self.id, partitions).ok_or(CommitError::Superseded)?;
        let entry = |c: &Commit| Ok((self.topics.commit_key(&self.group, c.at)?, encode_commit(&c.committed)));
        let entries = commits.iter().map(entry).collect::<Result<Vec<_>, LogError>>()?;
        let topics = Arc::clone(&self.topics);
        let job = |reply| CommitJob { topics, entries, guard, reply };
        Ok(self.engine.commit(job).await.map_err(LogError::from)?)
    }

    async fn close(self: Box<Self>) {
        // Dropping leaves the group.
    }

    fn session_timeout(&self) -> Duration {
        self.groups.session_timeout()
    }
}

impl Drop for EmbeddedConsumer {
    fn drop(&mut self) {
        self.groups.leave(&self.group, self.id);
    }
}
