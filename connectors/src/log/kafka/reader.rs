//! Reads and questions outside any group: records of one partition, bounds, progress, metadata.
//! It joins nothing and commits nothing; every call is bounded in time and memory.

use super::{
    super::{Bounds, Commit, LogError, LogRecord, TopicPartition},
    KafkaConfig, Names, aside,
    callbacks::{Callbacks, Client},
    consumer::blocking,
    error, locked, record,
};
use bellwether_schemas::Topic;
use rdkafka::{
    Message, Offset, TopicPartitionList, consumer::Consumer as _, error::KafkaError, metadata::Metadata,
    types::RDKafkaErrorCode,
};
use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::sync::Semaphore;

/// How long a question may take.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long partitions may be without a leader before a question about them fails.
const LEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Reads at once; each has a client with 1 MiB read ahead at most.
const READERS: usize = 2;
/// Clients that are kept to ask for the progress of groups; one each.
const GROUPS: usize = 16;

/// Clients that ask and read.
pub(super) struct Reader {
    config: KafkaConfig,
    names: Arc<Names>,
    metadata: Arc<Client>,
    turns: Arc<Semaphore>,
    idle: Arc<Mutex<Vec<Client>>>,
    groups: Mutex<HashMap<String, Arc<Client>>>,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(config: &KafkaConfig, names: &Arc<Names>) -> Result<Self, LogError> {
        Ok(Self {
            config: config.clone(),
            names: Arc::clone(names),
            metadata: Arc::new(client(config, names, None)?),
            turns: Arc::new(Semaphore::new(READERS)),
            idle: Arc::new(Mutex::new(Vec::new())),
            groups: Mutex::new(HashMap::new()),
        })
    }

    /// What the cluster says of a topic, or of all.
    pub(super) async fn metadata(&self, topic: Option<Topic>, timeout: Duration) -> Result<Metadata, LogError> {
        let client = Arc::clone(&self.metadata);
        let name = topic.map(|topic| self.names.of(topic).to_owned());
        blocking(move || ask(&client, "metadata", || client.fetch_metadata(name.as_deref(), timeout))).await?
    }

    pub(super) async fn bounds(&self, topic: Topic, partitions: u32) -> Result<Vec<Bounds>, LogError> {
        let client = Arc::clone(&self.metadata);
        let name = self.names.of(topic).to_owned();
        let (starts, ends) = blocking(move || {
            let ask_for = |which| ask(&client, &name, || offsets(&client, &name, partitions, which));
            ask_for(Offset::Beginning).and_then(|starts| Ok((starts, ask_for(Offset::End)?)))
        })
        .await??;
        let both = (0..partitions).zip(starts).zip(ends);
        Ok(both
            .map(|((partition, start), end)| Bounds { at: TopicPartition { topic, partition }, start, end })
            .collect())
    }

    pub(super) async fn progress(&self, group: String, topic: Topic, partitions: u32) -> Result<Vec<Commit>, LogError> {
        let client = self.of_group(&group)?;
        let mut list = TopicPartitionList::with_capacity(partitions as usize);
        if partitions > 0 {
            let last = i32::try_from(partitions - 1).unwrap_or(i32::MAX);
            list.add_partition_range(self.names.of(topic), 0, last);
        }
        let subject = group.clone();
        let list =
            blocking(move || ask(&client, &subject, || client.committed_offsets(list.clone(), TIMEOUT))).await??;
        self.names.committed(&list, &group)
    }

    fn of_group(&self, group: &str) -> Result<Arc<Client>, LogError> {
        let mut groups = locked(&self.groups);
        if let Some(client) = groups.get(group) {
            return Ok(Arc::clone(client));
        }
        if groups.len() >= GROUPS {
            let old = std::mem::take(&mut *groups);
            // Their destructors wait for the broker.
            aside(move || drop(old));
        }
        let client = Arc::new(client(&self.config, &self.names, Some(group))?);
        groups.insert(group.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// See [`super::super::Log::read`]. Waits for its turn, never for records.
    pub(super) async fn read(&self, at: TopicPartition, from: u64, max: usize) -> Result<Vec<LogRecord>, LogError> {
        let closed = |_| LogError::Unavailable("kafka: closed".into());
        let turn = Arc::clone(&self.turns).acquire_owned().await.map_err(closed)?;
        let (config, names, idle) = (self.config.clone(), Arc::clone(&self.names), Arc::clone(&self.idle));
        blocking(move || {
            let waiting = locked(&idle).pop();
            let client = match waiting {
                Some(client) => client,
                // `assign` wants the name of a group, though it neither joins it nor commits to it.
                None => client(&config, &names, Some(&format!("{}bellwether.read", config.topic_prefix)))?,
            };
            let records = read(&client, names.of(at.topic), at, from, max);
            drain(&client);
            locked(&idle).push(client);
            drop(turn);
            records
        })
        .await?
    }
}

fn client(config: &KafkaConfig, names: &Arc<Names>, group: Option<&str>) -> Result<Client, LogError> {
    config
        .reader(group)?
        .create_with_context(Callbacks::new(Arc::clone(names)))
        .map_err(|e| error::from_kafka(&e, "reader"))
}

/// Asks until the answer is another than that the leader is not known, which is so for a moment after a topic was created and after a
/// broker went away. Waits by polling, so that the client is served meanwhile.
fn ask<T>(client: &Client, subject: &str, question: impl Fn() -> Result<T, KafkaError>) -> Result<T, LogError> {
    let deadline = Instant::now() + LEADER_TIMEOUT;
    loop {
        let answer = question();
        drain(client);
        match answer {
            Ok(answer) => return Ok(answer),
            Err(error) if leaderless(&error) && Instant::now() < deadline => {
                if let Some(Err(error)) = client.poll(Duration::from_millis(25)) {
                    tracing::debug!(%error, subject, "kafka: waiting for a leader");
                }
            }
            Err(error) => return Err(error::from_kafka(&error, subject)),
        }
    }
}

fn leaderless(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
        )
    )
}

/// Serves what librdkafka has put by: log lines, and errors that the answer has told already.
fn drain(client: &Client) {
    loop {
        let served = client.context().served();
        if client.poll(Duration::ZERO).is_none() && client.context().served() == served {
            return;
        }
    }
}

/// Partitions of the named topic.
pub(super) fn count_in(metadata: &Metadata, name: &str) -> Result<u32, LogError> {
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let topic = topic.ok_or_else(|| LogError::UnknownTopic(name.into()))?;
    match topic.error() {
        Some(code) => Err(error::from_code(code.into(), name)),
        None => Ok(u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX)),
    }
}

/// The first or the next offset of every partition, by one request a broker: ListOffsets takes -2 and -1 for a time stamp, which is how
/// librdkafka writes "beginning" and "end".
fn offsets(client: &Client, name: &str, partitions: u32, which: Offset) -> Result<Vec<u64>, KafkaError> {
    if partitions == 0 {
        return Ok(Vec::new());
    }
    let mut list = TopicPartitionList::with_capacity(partitions as usize);
    list.add_partition_range(name, 0, i32::try_from(partitions - 1).unwrap_or(i32::MAX));
    list.set_all_offsets(which)?;
    let list = client.offsets_for_times(list, TIMEOUT)?;
    let mut offsets = vec![0; partitions as usize];
    for element in list.elements() {
        element.error()?;
        match (usize::try_from(element.partition()), element.offset()) {
            (Ok(partition), Offset::Offset(offset)) if partition < offsets.len() => {
                offsets[partition] = u64::try_from(offset).unwrap_or(0);
            }
            _ => return Err(KafkaError::OffsetFetch(RDKafkaErrorCode::OffsetNotAvailable)),
        }
    }
    Ok(offsets)
}

fn read(client: &Client, name: &str, at: TopicPartition, from: u64, max: usize) -> Result<Vec<LogRecord>, LogError> {
    let failed = |e: KafkaError| error::from_kafka(&e, name);
    let partition = i32::try_from(at.partition).map_err(|_| LogError::UnknownTopic(name.into()))?;
    let (start, end) = ask(client, name, || client.fetch_watermarks(name, partition, TIMEOUT))?;
    let from = i64::try_from(from).unwrap_or(i64::MAX).max(start);
    if from >= end || max == 0 {
        return Ok(Vec::new());
    }
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(name, partition, Offset::Offset(from)).map_err(failed)?;
    client.assign(&list).map_err(failed)?;
    let records = collect(client, name, at, from..end, max);
    // An idle reader must not go on fetching.
    client.unassign().map_err(failed)?;
    records
}

/// Polls until `max` records, the end that the partition had when we began, or the time limit.
fn collect(
    client: &Client,
    name: &str,
    at: TopicPartition,
    offsets: std::ops::Range<i64>,
    max: usize,
) -> Result<Vec<LogRecord>, LogError> {
    let deadline = Instant::now() + TIMEOUT;
    let mut records = Vec::new();
    while records.len() < max {
        match client.poll(Duration::from_millis(100)) {
            Some(Ok(message)) if message.offset() >= offsets.start => {
                records.extend(record(at.topic, at.partition, &message));
                if message.offset() + 1 >= offsets.end {
                    break;
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => break,
            Some(Err(KafkaError::MessageConsumption(
                code @ (RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::TopicAuthorizationFailed),
            ))) => return Err(error::from_code(code, name)),
            // Anything else passes, or the time limit does.
            _ if Instant::now() < deadline => {}
            _ if records.is_empty() => return Err(LogError::Unavailable(format!("{name}: no answer to a read"))),
            _ => break,
        }
    }
    Ok(records)
}
