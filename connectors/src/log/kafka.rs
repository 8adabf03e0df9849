//! The log on Apache Kafka (or what speaks its protocol), by librdkafka.
//! It keeps the contract of [`super::Log`] and nothing else: what to do after an error is the caller's business.
//!
//! Producing is idempotent with `acks=all`; consuming is a classic group with the range assignor, commits by hand, and a queue a partition,
//! so that a partition that is not drained stops being fetched (backpressure) without holding up another. Memory is bounded: 16 MiB wait in the
//! producer, 16 MiB are read ahead by a consumer, 2 MiB by reads; compressed batches may weigh more for a moment.
//! A broker's restart is ridden out: what was under way ends as [`LogError::Unavailable`], everything else goes on by itself.

mod callbacks;
mod config;
mod consumer;
mod error;
mod producer;
mod reader;

pub use config::{KafkaConfig, KafkaSasl, KafkaTls, SaslMechanism};

use super::{Append, Bounds, Commit, Consumer, Log, LogError, LogRecord, TopicPartition, kafka::producer::Failed};
use async_trait::async_trait;
use bellwether_schemas::{
    Position, Topic,
    records::Header,
    topics::{Retention, partition_of},
};
use bytes::Bytes;
use callbacks::{Callbacks, Client, LogLines};
use consumer::Member;
use producer::{Producer, Routed};
use rdkafka::{
    Message, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    message::{BorrowedMessage, Headers},
    metadata::Metadata,
    topic_partition_list::TopicPartitionListElem,
    types::RDKafkaErrorCode,
};
use reader::Reader;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

/// How long creating topics may take, and then again until all brokers know them.
const CREATE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a broker may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// A Kafka cluster as a log.
#[derive(Debug)]
pub struct KafkaLog {
    config: KafkaConfig,
    names: Arc<Names>,
    producer: Producer,
    reader: Reader,
    /// Partition counts, as far as they were asked for. They do not change: a key would change its partition.
    counts: RwLock<HashMap<Topic, u32>>,
}

impl KafkaLog {
    /// Starts the clients. They connect by themselves, now or when a broker answers; [`Log::ping`] tells whether one does.
    ///
    /// # Errors
    /// [`LogError::Refused`], naming the setting that is wrong or the secret that is not to be had.
    pub fn connect(config: KafkaConfig) -> Result<Arc<Self>, LogError> {
        config.validate()?;
        let names = Arc::new(Names::new(&config.topic_prefix));
        Ok(Arc::new(Self {
            producer: Producer::new(config.producer()?)?,
            reader: Reader::new(&config, &names)?,
            counts: RwLock::new(HashMap::new()),
            names,
            config,
        }))
    }

    async fn count(&self, topic: Topic) -> Result<u32, LogError> {
        if let Some(count) = self.counts.read().unwrap_or_else(PoisonError::into_inner).get(&topic) {
            return Ok(*count);
        }
        let count = reader::count_in(&self.metadata(Some(topic), reader::TIMEOUT).await?, self.names.of(topic))?;
        self.counts.write().unwrap_or_else(PoisonError::into_inner).insert(topic, count);
        Ok(count)
    }

    /// What the cluster says of a topic, or of all. This comes before everything else, so here is told what keeps us from a broker.
    async fn metadata(&self, topic: Option<Topic>, timeout: Duration) -> Result<Metadata, LogError> {
        match self.reader.metadata(topic, timeout).await {
            Err(LogError::Unavailable(words)) => {
                Err(self.producer.obstacle().unwrap_or_else(|| error::unreachable(&words)))
            }
            answer => {
                self.producer.reached();
                answer
            }
        }
    }

    /// Finds every record's partition, and refuses what is too large before anything is sent.
    async fn route<'a>(&'a self, records: &'a [Append]) -> Result<Vec<Routed<'a>>, LogError> {
        let mut counts = BTreeMap::new();
        let mut routed = Vec::with_capacity(records.len());
        for record in records {
            let count = match counts.get(&record.topic) {
                Some(count) => *count,
                None => {
                    let count = self.count(record.topic).await?;
                    counts.insert(record.topic, count);
                    count
                }
            };
            let (bytes, limit) = (size(record), self.config.record_max_bytes());
            if bytes > limit {
                return Err(LogError::TooLarge { topic: record.topic, bytes, limit });
            }
            let partition = partition_of(&record.key, count);
            routed.push(Routed { topic: self.names.of(record.topic), partition, record });
        }
        Ok(routed)
    }

    /// What a failed delivery means.
    fn undelivered(&self, failed: &Failed, record: &Append) -> LogError {
        match failed.code {
            // No record is larger than we take, so it is the batch, and the topic was configured to take less.
            RDKafkaErrorCode::MessageSizeTooLarge => LogError::Refused(format!(
                "topic `{}` takes smaller batches than we send: raise its max.message.bytes to 1048588, or lower both \
                 message.max.bytes and batch.size in kafka.options",
                self.names.of(record.topic)
            )),
            code => {
                let error = error::from_code(code, self.names.of(record.topic));
                if matches!(error, LogError::UnknownTopic(_)) {
                    // Deleted, or created again with fewer partitions: ask anew.
                    self.counts.write().unwrap_or_else(PoisonError::into_inner).remove(&record.topic);
                }
                error
            }
        }
    }

    /// Partition counts of the topics that exist; refuses one that differs from what is wanted.
    async fn existing(&self, partitions: u32) -> Result<Vec<Topic>, LogError> {
        let metadata = self.metadata(None, CREATE_TIMEOUT).await?;
        let mut existing = Vec::new();
        for topic in Topic::all() {
            let (name, wanted) = (self.names.of(topic), topic.partitions(partitions));
            match reader::count_in(&metadata, name) {
                Ok(found) if found == wanted => existing.push(topic),
                Ok(found) => {
                    return Err(LogError::Refused(format!(
                        "topic `{name}` has {found} partitions, not {wanted}: configure {found}, or use another topic_prefix"
                    )));
                }
                Err(LogError::UnknownTopic(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(existing)
    }

    /// Waits until brokers serve the topics, which is a moment after the controller has created them.
    async fn usable(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        let mut look = tokio::time::interval(Duration::from_millis(50));
        loop {
            look.tick().await;
            match self.served(topics, partitions).await {
                Ok(true) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error),
                _ => {}
            }
        }
    }

    /// Whether all topics are known, and the leader of every partition of `topics` answers.
    async fn served(&self, topics: &[Topic], partitions: u32) -> Result<bool, LogError> {
        if self.existing(partitions).await?.len() < Topic::all().len() {
            return Ok(false);
        }
        for topic in topics {
            self.reader.bounds(*topic, topic.partitions(partitions)).await?;
        }
        Ok(true)
    }

    async fn create(&self, topics: &[Topic], partitions: u32) -> Result<(), LogError> {
        let admin: AdminClient<LogLines> =
            self.config.admin()?.create_with_context(LogLines).map_err(|e| error::from_kafka(&e, "admin"))?;
        let settings: Vec<_> = topics.iter().map(|topic| settings(*topic, &self.config)).collect();
        let mut new = Vec::with_capacity(topics.len());
        for (topic, settings) in topics.iter().zip(&settings) {
            let count = i32::try_from(topic.partitions(partitions))
                .map_err(|_| LogError::Refused(format!("{partitions} partitions are too many")))?;
            let replication = TopicReplication::Fixed(i32::from(self.config.replication));
            let empty = NewTopic::new(self.names.of(*topic), count, replication);
            new.push(settings.iter().fold(empty, |topic, (name, value)| topic.set(name, value)));
        }
        let options = AdminOptions::new().request_timeout(Some(CREATE_TIMEOUT)).operation_timeout(Some(CREATE_TIMEOUT));
        let results = admin.create_topics(&new, &options).await.map_err(|e| error::from_kafka(&e, "create topics"))?;
        for result in results {
            match result {
                // Somebody else creates them too; the counts are compared afterwards.
                Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((name, code)) => return Err(error::from_code(code, &name)),
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn create_topics(&self, partitions: u32) -> Result<Vec<Topic>, LogError> {
        if partitions == 0 {
            return Err(LogError::Refused("partitions: use at least 1".into()));
        }
        let existing = self.existing(partitions).await?;
        let missing: Vec<Topic> = Topic::all().into_iter().filter(|topic| !existing.contains(topic)).collect();
        if missing.is_empty() {
            return Ok(missing);
        }
        self.create(&missing, partitions).await?;
        match tokio::time::timeout(CREATE_TIMEOUT, self.usable(&missing, partitions)).await {
            Ok(usable) => usable.map(|()| missing),
            Err(_) => Err(LogError::Unavailable("topics were created, but not every broker serves them yet".into())),
        }
    }

    async fn append(&self, records: Vec<Append>) -> Result<Vec<Position>, LogError> {
        if records.is_empty() {
            return Ok(Vec::new());
        }
        let routed = self.route(&records).await?;
        match self.producer.append(&routed).await {
            Ok(offsets) => Ok(routed
                .iter()
                .zip(offsets)
                .map(|(routed, offset)| Position { topic: routed.record.topic, partition: routed.partition, offset })
                .collect()),
            Err(failed) => Err(self.undelivered(&failed, &records[failed.index])),
        }
    }

    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        let group = self.names.group(group);
        let mut counts = BTreeMap::new();
        for topic in topics {
            counts.insert(*topic, self.count(*topic).await?);
        }
        let Some(count) = counts.values().next().copied() else {
            return Err(LogError::Refused(format!("{group}: subscribe to at least one topic")));
        };
        if counts.values().any(|other| *other != count) {
            return Err(LogError::Refused(format!(
                "{group}: topics of one group need equal partition counts, these have {counts:?}"
            )));
        }
        let client: Client = self
            .config
            .member(&group, count as usize * topics.len())?
            .create_with_context(Callbacks::new(Arc::clone(&self.names)))
            .map_err(|e| error::from_kafka(&e, &group))?;
        let names = Arc::clone(&self.names);
        Ok(Box::new(Member::join(group, client, names, topics, self.config.session_timeout())?))
    }

    async fn read(&self, at: TopicPartition, offset: u64, max: usize) -> Result<Vec<LogRecord>, LogError> {
        if at.partition >= self.count(at.topic).await? {
            return Err(LogError::UnknownTopic(format!("{}/{}", self.names.of(at.topic), at.partition)));
        }
        self.reader.read(at, offset, max).await
    }

    async fn bounds(&self, topic: Topic) -> Result<Vec<Bounds>, LogError> {
        let count = self.count(topic).await?;
        self.reader.bounds(topic, count).await
    }

    async fn progress(&self, group: &str, topic: Topic) -> Result<Vec<Commit>, LogError> {
        let count = self.count(topic).await?;
        self.reader.progress(self.names.group(group), topic, count).await
    }

    async fn ping(&self) -> Result<(), LogError> {
        // One topic, whether it exists or not: the metadata of all would be much to ask of a large cluster.
        self.metadata(Some(Topic::Events), PING_TIMEOUT).await.map(drop)
    }
}

/// Settings of a new topic.
fn settings(topic: Topic, config: &KafkaConfig) -> Vec<(&'static str, String)> {
    // With all in-sync copies acknowledging, but at least one less than all, a record survives the loss of any one broker.
    let mut settings = vec![("min.insync.replicas", config.replication.saturating_sub(1).max(1).to_string())];
    match topic.retention(config.retention()) {
        Retention::Compact => settings.push(("cleanup.policy", "compact".into())),
        Retention::Delete(after) => {
            settings.push(("cleanup.policy", "delete".into()));
            settings.push(("retention.ms", after.as_millis().to_string()));
        }
    }
    settings
}

/// What counts against the size limit.
fn size(record: &Append) -> usize {
    let headers: usize = record.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    record.key.len() + record.payload.len() + headers
}

/// A record as read. None for an offset that Kafka cannot have.
fn record(topic: Topic, partition: u32, message: &BorrowedMessage<'_>) -> Option<LogRecord> {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers
            .iter()
            .map(|header| Header { name: header.key.to_owned(), value: header.value.unwrap_or_default().to_vec() })
            .collect()
    });
    Some(LogRecord {
        position: Position { topic, partition, offset: u64::try_from(message.offset()).ok()? },
        key: Bytes::copy_from_slice(message.key().unwrap_or_default()),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
        headers,
    })
}

/// Names on the cluster: the prefix and ours.
#[derive(Debug)]
struct Names {
    prefix: String,
    names: BTreeMap<Topic, String>,
    topics: HashMap<String, Topic>,
}

impl Names {
    fn new(prefix: &str) -> Self {
        let names: BTreeMap<_, _> = Topic::all().into_iter().map(|t| (t, format!("{prefix}{}", t.name()))).collect();
        let topics = names.iter().map(|(topic, name)| (name.clone(), *topic)).collect();
        Self { prefix: prefix.into(), names, topics }
    }

    /// The topic's name on the cluster.
    fn of(&self, topic: Topic) -> &str {
        self.names.get(&topic).map_or(topic.name(), String::as_str)
    }

    /// The group's name on the cluster.
    fn group(&self, group: &str) -> String {
        format!("{}{group}", self.prefix)
    }

    /// What an element stands for; none if it is not ours.
    fn at(&self, element: &TopicPartitionListElem<'_>) -> Option<TopicPartition> {
        let topic = *self.topics.get(element.topic())?;
        Some(TopicPartition { topic, partition: u32::try_from(element.partition()).ok()? })
    }

    fn partitions(&self, list: &TopicPartitionList) -> Vec<TopicPartition> {
        list.elements().iter().filter_map(|element| self.at(element)).collect()
    }
}

/// Nothing panics while it holds one of our locks, and if it did, what they guard would still be whole.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs something on a thread of its own that nobody waits for: librdkafka's destructors wait for the broker.
fn aside(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = std::thread::Builder::new().name("kafka-aside".into()).spawn(work) {
        tracing::warn!(%error, "kafka: no thread to close a client on");
    }
}
