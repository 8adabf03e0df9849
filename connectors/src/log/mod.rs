//! The log: topics of partitions of records, consumer groups with committed offsets and metadata.
//! Two implementations, one contract (`connectors/tests/log_contract.rs`): [`embedded`] and [`kafka`].

pub mod embedded;
pub mod kafka;

use async_trait::async_trait;
use bellwether_schemas::{
    Position, Topic,
    codec::CodecError,
    records::{Header, Record},
};
use bytes::Bytes;
use std::{fmt::Debug, time::Duration};

/// A record to append. Its partition is [`bellwether_schemas::topics::partition_of`] its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Topic.
    pub topic: Topic,
    /// Key.
    pub key: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
    /// Headers.
    pub headers: Vec<Header>,
}

impl Append {
    /// A record as it goes on its own topic under its own key.
    ///
    /// # Errors
    /// The record does not fit its schema.
    pub fn of(record: &Record) -> Result<Self, CodecError> {
        Ok(Self { topic: record.topic(), key: record.key(), payload: record.encode()?, headers: Vec::new() })
    }
}

/// A record as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Where it stands.
    pub position: Position,
    /// Key; empty where there was none.
    pub key: Bytes,
    /// Payload; empty where there was none.
    pub payload: Bytes,
    /// Headers.
    pub headers: Vec<Header>,
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic.
    pub topic: Topic,
    /// Partition, from 0.
    pub partition: u32,
}

/// A group's progress in a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The next offset to work on.
    pub offset: u64,
    /// Whatever the committer wrote beside it, at most [`MAX_METADATA`] bytes.
    pub metadata: String,
}

/// Bytes of commit metadata that every log keeps (Kafka's broker default, `offset.metadata.max.bytes`).
pub const MAX_METADATA: usize = 4096;

/// A commit of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Partition.
    pub at: TopicPartition,
    /// What is committed.
    pub committed: Committed,
}

/// A partition that a consumer was given, with the group's progress in it (`None`: it was never worked on).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Partition.
    pub at: TopicPartition,
    /// Progress of the group.
    pub committed: Option<Committed>,
}

/// What a poll brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Polled {
    /// Records, possibly none. Within a partition in order; a topic that was subscribed earlier comes first.
    Records(Vec<LogRecord>),
    /// These partitions are ours from now on, in addition to what we had. Reading starts at the committed offset, else at the beginning.
    Assigned(Vec<Assignment>),
    /// These partitions go to somebody else. Until the next `poll` they may still be committed, unless `lost`.
    Revoked {
        /// Partitions.
        partitions: Vec<TopicPartition>,
        /// They are somebody else's already: a commit will be refused.
        lost: bool,
    },
}

/// First and next offset of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Partition.
    pub at: TopicPartition,
    /// Offset of the oldest record that is kept.
    pub start: u64,
    /// Offset that the next record will have (or a greater one).
    pub end: u64,
}

/// What can go wrong with a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It does not answer, or not yet: try again, nothing is known to be lost. An append may or may not have happened.
    #[error("log unavailable: {0}")]
    Unavailable(String),
    /// The topic or partition does not exist.
    #[error("topic `{0}` does not exist: run `bellwether topics create`")]
    UnknownTopic(String),
    /// A record is larger than the log takes.
    #[error(
        "record of {bytes} bytes for `{topic}` is larger than the log's limit of {limit}: send less data with the event"
    )]
    TooLarge {
        /// Topic.
        topic: Topic,
        /// Size of the record.
        bytes: usize,
        /// The log's limit.
        limit: usize,
    },
    /// The configuration is wrong, or the log refuses us; trying again does not help.
    #[error("log: {0}")]
    Refused(String),
}

impl LogError {
    /// Whether the same call may pass later.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// Why a commit did not happen.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Another consumer owns the partition (or we were put out of the group): drop what is not started, and claim nothing more.
    #[error("commit refused: another consumer owns the partition")]
    Superseded,
    /// The log failed; whether the commit happened is unknown.
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A log. Cheap to share; all methods may be called at once.
#[async_trait]
pub trait Log: Debug + Send + Sync {
    /// Creates what is missing of [`Topic::all`], with its retention; returns what it created. Existing topics keep their partitions.
    ///
    /// # Errors
    /// See [`LogError`]; an existing topic with another partition count is [`LogError::Refused`], naming both counts.
    async fn create_topics(&self, partitions: u32) -> Result<Vec<Topic>, LogError>;

    /// Appends all records and returns their positions, in the order given, once every one is durable. Records of one partition keep
    /// the order given. After an error any part of them may be on the log.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn append(&self, records: Vec<Append>) -> Result<Vec<Position>, LogError>;

    /// Joins `group` on `topics`, which have equal partition counts and are assigned together: who gets partition *n* of one gets *n* of all.
    /// Earlier topics have priority (law 4).
    ///
    /// # Errors
    /// See [`LogError`].
    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError>;

    /// Reads at most `max` records of a partition from `offset` on, outside any group, without waiting for new ones.
    /// Empty means that there is none now.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn read(&self, at: TopicPartition, offset: u64, max: usize) -> Result<Vec<LogRecord>, LogError>;

    /// Bounds of every partition of a topic.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn bounds(&self, topic: Topic) -> Result<Vec<Bounds>, LogError>;

    /// Progress of a group in every partition of a topic where it committed.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn progress(&self, group: &str, topic: Topic) -> Result<Vec<Commit>, LogError>;

    /// Whether the log answers.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn ping(&self) -> Result<(), LogError>;
}

/// A member of a consumer group. Polling keeps it alive: a consumer that does not poll for the session timeout is put out.
#[async_trait]
pub trait Consumer: Send + Sync {
    /// Waits at most `wait` for records or a change of assignment. Brings at most `max` records; with 0 it takes none and just stays a member.
    /// Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Polled, LogError>;

    /// Reads on from `offset`, forwards or back, in a partition that we own. Records read ahead are dropped.
    ///
    /// # Errors
    /// See [`LogError`].
    async fn seek(&mut self, at: TopicPartition, offset: u64) -> Result<(), LogError>;

    /// Commits, all or none where the log can, and waits for the log's answer.
    ///
    /// # Errors
    /// See [`CommitError`].
    async fn commit(&mut self, commits: Vec<Commit>) -> Result<(), CommitError>;

    /// Leaves the group, so that the others need not wait for the session timeout.
    async fn close(self: Box<Self>);

    /// How long after its last poll this consumer may be put out of the group.
    fn session_timeout(&self) -> Duration;
}
