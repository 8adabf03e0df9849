//! Topics of the embedded log: their partitions' bounds in memory, their records and the groups' progress on disk.
//! It must not show a record before the writer says that it is durable.

use super::{
    super::{Committed, LogError, LogRecord, TopicPartition},
    record,
    tail::Tail,
};
use crate::embedded::{
    Changes, EmbeddedError, Engine,
    wire::{Reader, put_varint},
};
use bellwether_schemas::{Position, Timestamp, Topic};
use fjall::{Keyspace, UserValue};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, OnceLock, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::Notify;

/// First bytes of the keys beside the records.
const TOPIC: u8 = b't';
const START: u8 = b's';
const COMMIT: u8 = b'c';

/// Write buffer of topics and progress: small, and rewritten often.
const META_BUFFER_BYTES: u64 = 1 << 20;

/// All topics.
pub(super) struct Topics {
    /// The records, see [`record::key`].
    pub(super) records: Keyspace,
    /// Topics, start offsets, progress of groups.
    pub(super) meta: Keyspace,
    states: BTreeMap<Topic, OnceLock<TopicState>>,
    tail: Tail,
}

/// A topic that exists.
struct TopicState {
    id: u16,
    partitions: Vec<Partition>,
    watchers: Mutex<Vec<Weak<Notify>>>,
}

/// Bounds of a partition.
#[derive(Debug, Default)]
pub(super) struct Partition {
    /// The offset that the writer gives next.
    pub(super) next: AtomicU64,
    /// The end that readers see: everything before is durable.
    pub(super) end: AtomicU64,
    /// The oldest offset that is kept.
    pub(super) start: AtomicU64,
    /// The end when the partition was last compacted.
    pub(super) compacted: AtomicU64,
}

impl std::fmt::Debug for Topics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.counts()).finish()
    }
}

impl Topics {
    /// Opens the topics of an earlier run.
    pub(super) fn open(engine: &Engine) -> Result<Self, EmbeddedError> {
        let topics = Self {
            records: engine.keyspace("log", engine.options.log_buffer_bytes)?,
            meta: engine.keyspace("log.meta", META_BUFFER_BYTES)?,
            states: Topic::all().into_iter().map(|topic| (topic, OnceLock::new())).collect(),
            tail: Tail::new(engine.options.log_tail_bytes),
        };
        topics.reload()?;
        Ok(topics)
    }

    /// Takes in topics that were created since.
    pub(super) fn reload(&self) -> Result<(), EmbeddedError> {
        for (topic, cell) in &self.states {
            if cell.get().is_some() {
                continue;
            }
            if let Some(value) = self.meta.get(topic_key(*topic))? {
                let (id, count) = decode_topic(&value).ok_or_else(|| damaged(topic))?;
                let partitions = (0..count).map(|n| self.recover(id, n)).collect::<Result<_, _>>()?;
                cell.get_or_init(|| TopicState { id, partitions, watchers: Mutex::default() });
            }
        }
        Ok(())
    }

    /// Finds a partition's bounds. Retention keeps the start on disk, which is the end of a partition that it has emptied.
    fn recover(&self, id: u16, partition: u32) -> Result<Partition, EmbeddedError> {
        let start = match self.meta.get(start_key(id, partition))? {
            Some(value) => u64::from_be_bytes(value.as_ref().try_into().map_err(|_| damaged(&"a start offset"))?),
            None => 0,
        };
        let last = self.records.range(record::key(id, partition, 0)..=record::key(id, partition, u64::MAX)).next_back();
        let end = match last {
            Some(guard) => record::offset_of(&guard.key()?)?.saturating_add(1),
            None => 0,
        };
        let end = end.max(start);
        Ok(Partition { next: end.into(), end: end.into(), start: start.into(), compacted: 0.into() })
    }

    /// What is missing, and the changes that create it.
    pub(super) fn plan(&self, configured: u32) -> Result<(Vec<Topic>, Changes), LogError> {
        let (mut created, mut changes) = (Vec::new(), Changes::default());
        // Not counted from the known topics: another version may know others.
        let mut next_id = 0;
        for guard in self.meta.prefix([TOPIC]) {
            let (id, _) = decode_topic(&guard.value()?).ok_or_else(|| damaged(&"a topic"))?;
            next_id = next_id.max(id.saturating_add(1));
        }
        for (topic, cell) in &self.states {
            let wanted = topic.partitions(configured);
            match cell.get() {
                Some(state) if state.count() != wanted => {
                    return Err(LogError::Refused(format!(
                        "topic `{topic}` has {} partitions, not {wanted}: keys would move; set `partitions` to {0}",
                        state.count()
                    )));
                }
                Some(_) => {}
                None => {
                    changes.put(&self.meta, topic_key(*topic), encode_topic(next_id, wanted));
                    created.push(*topic);
                    next_id = next_id.saturating_add(1);
                }
            }
        }
        Ok((created, changes))
    }

    /// Every topic that exists, with its number of partitions.
    pub(super) fn counts(&self) -> Vec<(Topic, u32)> {
        self.states.iter().filter_map(|(topic, cell)| Some((*topic, cell.get()?.count()))).collect()
    }

    fn state(&self, topic: Topic) -> Result<&TopicState, EmbeddedError> {
        self.states.get(&topic).and_then(OnceLock::get).ok_or_else(|| EmbeddedError::UnknownTopic(topic.name().into()))
    }

    pub(super) fn count(&self, topic: Topic) -> Result<u32, EmbeddedError> {
        Ok(self.state(topic)?.count())
    }

    /// A partition, with its topic's id.
    pub(super) fn entry(&self, at: TopicPartition) -> Result<(u16, &Partition), EmbeddedError> {
        let state = self.state(at.topic)?;
        let index = usize::try_from(at.partition).unwrap_or(usize::MAX);
        let unknown = || EmbeddedError::UnknownTopic(format!("{}/{}", at.topic, at.partition));
        Ok((state.id, state.partitions.get(index).ok_or_else(unknown)?))
    }

    pub(super) fn partition(&self, at: TopicPartition) -> Result<&Partition, EmbeddedError> {
        Ok(self.entry(at)?.1)
    }

    /// Wakes `wake` whenever the topic gets records.
    pub(super) fn watch(&self, topic: Topic, wake: &Arc<Notify>) -> Result<(), EmbeddedError> {
        let mut watchers = self.state(topic)?.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|w| w.strong_count() > 0);
        watchers.push(Arc::downgrade(wake));
        Ok(())
    }

    /// Shows durable records to readers.
    pub(super) fn publish(&self, positions: &[Position], values: impl Iterator<Item = UserValue>) {
        self.tail.push(positions.iter().copied().zip(values));
        for position in positions {
            let at = TopicPartition { topic: position.topic, partition: position.partition };
            if let Ok(partition) = self.partition(at) {
                partition.end.fetch_max(position.offset + 1, Ordering::AcqRel);
            }
        }
        for run in positions.chunk_by(|a, b| a.topic == b.topic) {
            if let Ok(state) = self.state(run[0].topic) {
                state.wake();
            }
        }
    }

    /// At most `max` records from `offset` on, the first regardless of `bytes`; the offset to go on at; and the bytes they took.
    pub(super) fn fetch(
        &self,
        at: TopicPartition,
        offset: u64,
        max: usize,
        bytes: usize,
    ) -> Result<(Vec<LogRecord>, u64, usize), LogError> {
        let (id, partition) = self.entry(at)?;
        let offset = offset.max(partition.start.load(Ordering::Acquire));
        let end = partition.end.load(Ordering::Acquire);
        let (mut records, mut used) = (Vec::new(), 0);
        if offset >= end || max == 0 {
            return Ok((records, offset, used));
        }
        if let Some(newest) = self.tail.read(at, offset, max, bytes) {
            let next = offset + newest.len() as u64;
            for (here, value) in (offset..).zip(newest) {
                used += value.len();
                records.push(record::decode(at, here, value)?);
            }
            return Ok((records, next, used));
        }
        for guard in self.records.range(record::key(id, at.partition, offset)..record::key(id, at.partition, end)) {
            let (key, value) = guard.into_inner()?;
            let here = record::offset_of(&key)?;
            used += value.len();
            records.push(record::decode(at, here, value)?);
            if records.len() >= max || used >= bytes {
                return Ok((records, here + 1, used));
            }
        }
        Ok((records, end, used))
    }

    /// The oldest records of a partition that were appended longer than `age` ago, at most `max`.
    pub(super) fn appended_before(
        &self,
        at: TopicPartition,
        now: Timestamp,
        age: std::time::Duration,
        max: usize,
    ) -> Result<Vec<u64>, EmbeddedError> {
        let (id, partition) = self.entry(at)?;
        let start = partition.start.load(Ordering::Acquire);
        let end = partition.end.load(Ordering::Acquire);
        let mut offsets = Vec::new();
        if start >= end {
            return Ok(offsets);
        }
        for guard in
            self.records.range(record::key(id, at.partition, start)..record::key(id, at.partition, end)).take(max)
        {
            let (key, value) = guard.into_inner()?;
            let appended = record::appended(&value).ok_or_else(|| damaged(&at.topic))?;
            if now.since(appended) <= age {
                break;
            }
            offsets.push(record::offset_of(&key)?);
        }
        Ok(offsets)
    }

    /// The offsets before `end` whose key has a newer record, and the smallest that has not.
    pub(super) fn replaced(&self, at: TopicPartition, end: u64) -> Result<(Vec<u64>, u64), EmbeddedError> {
        let id = self.entry(at)?.0;
        let (mut newest, mut replaced) = (HashMap::new(), Vec::new());
        for guard in self.records.range(record::key(id, at.partition, 0)..record::key(id, at.partition, end)) {
            let (key, value) = guard.into_inner()?;
            let record = record::decode(at, record::offset_of(&key)?, value)?;
            // A copy of the key: the shared memory would keep the whole record.
            replaced.extend(newest.insert(record.key.to_vec(), record.position.offset));
        }
        Ok((replaced, newest.into_values().min().unwrap_or(0)))
    }

    /// Deletes these records, and says where the partition starts from now on.
    pub(super) fn deletion(&self, at: TopicPartition, offsets: &[u64], start: u64) -> Result<Changes, LogError> {
        let id = self.entry(at)?.0;
        let mut changes = Changes::default();
        for offset in offsets {
            changes.remove(&self.records, record::key(id, at.partition, *offset));
        }
        changes.put(&self.meta, start_key(id, at.partition), start.to_be_bytes());
        Ok(changes)
    }

    /// Key of a group's progress in a partition.
    pub(super) fn commit_key(&self, group: &str, at: TopicPartition) -> Result<Vec<u8>, EmbeddedError> {
        let mut key = vec![COMMIT];
        put_varint(&mut key, group.len() as u64);
        key.extend_from_slice(group.as_bytes());
        key.extend_from_slice(&self.entry(at)?.0.to_be_bytes());
        key.extend_from_slice(&at.partition.to_be_bytes());
        Ok(key)
    }
}

impl TopicState {
    fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).unwrap_or(u32::MAX)
    }

    fn wake(&self) {
        for watcher in self.watchers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(wake) = watcher.upgrade() {
                wake.notify_one();
            }
        }
    }
}

fn damaged(what: &dyn std::fmt::Display) -> EmbeddedError {
    EmbeddedError::Damaged(format!("the log's entry of {what}"))
}

fn topic_key(topic: Topic) -> Vec<u8> {
    [&[TOPIC], topic.name().as_bytes()].concat()
}

fn encode_topic(id: u16, partitions: u32) -> Vec<u8> {
    [&id.to_be_bytes()[..], &partitions.to_be_bytes()].concat()
}

fn decode_topic(value: &[u8]) -> Option<(u16, u32)> {
    let mut reader = Reader(value);
    Some((u16::from_be_bytes(reader.array()?), u32::from_be_bytes(reader.array()?)))
}

fn start_key(id: u16, partition: u32) -> Vec<u8> {
    [&[START], &id.to_be_bytes()[..], &partition.to_be_bytes()].concat()
}

/// Offset, then the metadata.
pub(super) fn encode_commit(committed: &Committed) -> Vec<u8> {
    [&committed.offset.to_be_bytes(), committed.metadata.as_bytes()].concat()
}

pub(super) fn decode_commit(value: &[u8]) -> Result<Committed, EmbeddedError> {
    let mut reader = Reader(value);
    let offset = reader.array().map(u64::from_be_bytes).ok_or_else(|| damaged(&"a commit"))?;
    let metadata = std::str::from_utf8(reader.0).map_err(|_| damaged(&"a commit"))?.to_owned();
    Ok(Committed { offset, metadata })
}
