//! What only the Kafka log can get wrong, against a real broker: limits and settings that are Kafka's own, a process that stands still, TLS and
//! passwords. What all logs have in common is in `log_contract.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "contract/authority.rs"]
mod authority;
#[path = "contract/kafka.rs"]
#[allow(dead_code)] // here logs have settings of their own
mod kafka;
#[path = "contract/process.rs"]
mod process;
#[path = "contract/server.rs"]
#[allow(dead_code)] // nothing is killed here
mod server;

use bellwether_connectors::log::{
    Append, Assignment, Commit, CommitError, Committed, Consumer, Log, LogError, LogRecord, Polled, TopicPartition,
    kafka::{KafkaConfig, KafkaLog, KafkaSasl, KafkaTls, SaslMechanism},
};
use bellwether_schemas::{Topic, records::Header};
use futures::future::join_all;
use kafka::{SESSION, Topics, admin, config};
use process::Process;
use rdkafka::{
    admin::{AdminOptions, ResourceSpecifier},
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use server::Server;
use std::{
    collections::BTreeSet,
    ops::Deref,
    sync::Arc,
    time::{Duration, Instant},
};

const PARTITIONS: u32 = 4;
/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(40);
const WAIT: Duration = Duration::from_millis(200);

/// A log with topics of its own, which go with it.
struct Cluster {
    log: Arc<KafkaLog>,
    topics: Topics,
}

impl Cluster {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut KafkaConfig)) -> Self {
        let topics = Topics::new();
        let mut config = config(&topics.prefix);
        change(&mut config);
        let log = topics.log_with(config).await;
        log.create_topics(PARTITIONS).await.unwrap();
        Self { log, topics }
    }
}

impl Deref for Cluster {
    type Target = KafkaLog;
    fn deref(&self) -> &KafkaLog {
        &self.log
    }
}

fn append(topic: Topic, n: usize) -> Append {
    Append {
        topic,
        key: format!("key-{}", n % 97).into_bytes(),
        payload: format!("{n:08}").into_bytes(),
        headers: Vec::new(),
    }
}

fn appends(topic: Topic, range: std::ops::Range<usize>) -> Vec<Append> {
    range.map(|n| append(topic, n)).collect()
}

fn all_of(topic: Topic) -> BTreeSet<TopicPartition> {
    (0..PARTITIONS).map(|partition| TopicPartition { topic, partition }).collect()
}

fn commit(at: TopicPartition, offset: u64, metadata: &str) -> Commit {
    Commit { at, committed: Committed { offset, metadata: metadata.into() } }
}

/// Polls without taking records until partitions are given.
async fn assigned(consumer: &mut dyn Consumer) -> Vec<Assignment> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Polled::Assigned(assignments) = consumer.poll(0, WAIT).await.unwrap() {
            return assignments;
        }
    }
    panic!("no assignment");
}

/// Polls until so many records are there. No rebalance may come between.
async fn records(consumer: &mut dyn Consumer, count: usize) -> Vec<LogRecord> {
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while records.len() < count && Instant::now() < deadline {
        match consumer.poll(count - records.len(), WAIT).await.unwrap() {
            Polled::Records(more) => records.extend(more),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(records.len(), count);
    records
}

const STALLED: &str = "a_process_that_will_be_stopped";

/// Not a test of its own: the process that [`a_stopped_process_can_commit_nothing_more`] stops. Says `owns` once it owns and has committed;
/// then, at a line on its input and without a poll before, it commits again and says what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_will_be_stopped() {
    let Some(prefix) = process::value(STALLED) else { return };
    let log = KafkaLog::connect(config(&prefix)).unwrap();
    let mut consumer = log.subscribe("g", &[Topic::Events]).await.unwrap();
    let at = assigned(&mut *consumer).await[0].at;
    consumer.commit(vec![commit(at, 1, "before")]).await.unwrap();
    process::say("owns");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    process::say(&match consumer.commit(vec![commit(at, 2, "stalled")]).await {
        Ok(()) => "committed".to_owned(),
        Err(CommitError::Superseded) => "superseded".to_owned(),
        Err(other) => other.to_string(),
    });
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_can_commit_nothing_more() {
    let cluster = Cluster::new().await;
    let mut stalled = Process::start(STALLED, &cluster.topics.prefix);
    assert_eq!(stalled.line().await.as_deref(), Some("owns"));
    stalled.signal("STOP").await;

    let mut next = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    let taken = assigned(&mut *next).await;
    assert_eq!(taken.iter().map(|a| a.at).collect::<BTreeSet<_>>(), all_of(Topic::Events));
    let inherited: Vec<_> = taken.iter().filter_map(|a| a.committed.clone()).collect();
    assert_eq!(inherited, [Committed { offset: 1, metadata: "before".into() }]);
    let mut mine: Vec<Commit> = taken.iter().map(|a| commit(a.at, 9, "taken over")).collect();
    mine.sort_by_key(|commit| commit.at);
    next.commit(mine.clone()).await.unwrap();

    stalled.signal("CONT").await;
    stalled.tell("commit").await;
    assert_eq!(stalled.line().await.as_deref(), Some("superseded"));
    assert_eq!(cluster.progress("g", Topic::Events).await.unwrap(), mine);
    assert!(stalled.ended().await);
    next.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_consumer_stays_a_member_and_finds_its_backlog() {
    let cluster = Cluster::new().await;
    let mut consumer = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assigned(&mut *consumer).await;
    assert_eq!(consumer.session_timeout(), SESSION);
    cluster.append(appends(Topic::Events, 0..30_000)).await.unwrap();
    let until = Instant::now() + SESSION + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(consumer.poll(0, Duration::from_secs(1)).await.unwrap(), Polled::Records(vec![]));
    }
    let backlog = records(&mut *consumer, 30_000).await;
    assert_eq!(backlog.iter().map(|record| record.payload.clone()).collect::<BTreeSet<_>>().len(), 30_000);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_have_their_retention_and_a_group_equal_partition_counts() {
    let cluster = Cluster::new().await;
    let uneven = cluster.subscribe("g", &[Topic::Events, Topic::Definitions]).await.err().unwrap();
    assert!(matches!(uneven, LogError::Refused(_)), "{uneven}");
    for (topic, setting, value) in [
        (Topic::Definitions, "cleanup.policy", "compact"),
        (Topic::Events, "cleanup.policy", "delete"),
        (Topic::Events, "retention.ms", "604800000"),
        (Topic::DeadLetters, "retention.ms", "2592000000"),
    ] {
        let name = format!("{}{topic}", cluster.topics.prefix);
        let topics = [&ResourceSpecifier::Topic(&name)];
        let described = admin().describe_configs(topics, &AdminOptions::new()).await.unwrap().remove(0).unwrap();
        assert_eq!(described.get(setting).unwrap().value.as_deref(), Some(value), "{topic} {setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_sends_nothing_and_the_largest_passes() {
    let cluster = Cluster::new().await;
    let mut sent = appends(Topic::Events, 0..3);
    sent[2].payload = vec![b'x'; 1_000_001];
    let error = cluster.append(sent).await.unwrap_err();
    assert!(matches!(error, LogError::TooLarge { topic: Topic::Events, limit: 1_000_000, .. }), "{error}");
    assert!(cluster.bounds(Topic::Events).await.unwrap().iter().all(|b| b.end == 0));
    let mut largest = append(Topic::Events, 0);
    largest.headers = vec![Header { name: "h".into(), value: vec![0; 99] }; 10];
    largest.payload = vec![b'x'; 1_000_000 - 1000 - largest.key.len()];
    cluster.append(vec![largest]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_producer_queue_is_waited_for() {
    let cluster = Cluster::with(|config| {
        config.options.insert("queue.buffering.max.messages".into(), "50".into());
    })
    .await;
    let (a, b) = tokio::join!(
        cluster.append(appends(Topic::Events, 0..2000)),
        cluster.append(appends(Topic::Receipts, 0..2000)),
    );
    for positions in [a.unwrap(), b.unwrap()] {
        let mut next = [0; PARTITIONS as usize];
        for position in positions {
            assert_eq!(position.offset, next[position.partition as usize]);
            next[position.partition as usize] += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_unavailable() {
    let mut config = KafkaConfig::new(vec!["127.0.0.1:1".into()]);
    let log = KafkaLog::connect(config.clone()).unwrap();
    let (ping, appended) = tokio::join!(log.ping(), log.append(vec![append(Topic::Events, 0)]));
    for error in [ping.unwrap_err(), appended.unwrap_err()] {
        assert!(error.is_transient() && error.to_string().contains("Connection refused"), "{error}");
    }
    config.options.insert("no.such.setting".into(), "1".into());
    let error = KafkaLog::connect(config).unwrap_err();
    assert!(matches!(&error, LogError::Refused(text) if text.contains("no.such.setting")), "{error}");
}

/// librdkafka's mock of a cluster refuses the producer for good, as a broker may; the log must not stay broken after that.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_is_broken_for_good_is_replaced() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("events", 4, 1).unwrap();
    let refusal = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    mock.request_errors(RDKafkaApiKey::InitProducerId, &[refusal]);
    let log = KafkaLog::connect(KafkaConfig::new(vec![mock.bootstrap_servers()])).unwrap();
    let error = log.append(appends(Topic::Events, 0..10)).await.unwrap_err();
    assert!(matches!(error, LogError::Refused(_)), "{error}");
    assert_eq!(log.append(appends(Topic::Events, 0..10)).await.unwrap().len(), 10);
}

/// A process that is told to end while Kafka is down must end.
#[test]
fn a_runtime_does_not_wait_for_a_commit_without_an_answer() {
    let mock = MockCluster::new(1).unwrap();
    mock.create_topic("events", 4, 1).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let config = KafkaConfig { brokers: vec![mock.bootstrap_servers()], ..config("") };
        let mut consumer = KafkaLog::connect(config).unwrap().subscribe("g", &[Topic::Events]).await.unwrap();
        let at = assigned(&mut *consumer).await[0].at;
        mock.broker_down(1).unwrap();
        let commit = tokio::time::timeout(WAIT, consumer.commit(vec![commit(at, 1, "")])).await;
        assert!(commit.is_err(), "there is an answer: {commit:?}");
    });
    let begin = Instant::now();
    drop(runtime);
    assert!(begin.elapsed() < SESSION / 2, "after {:?}", begin.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_and_password_let_in_and_what_is_wrong_with_them_is_said_soon() {
    let server = Server::new("kafka").await;
    let right = kafka::secured(&server);
    let log = KafkaLog::connect(right.clone()).unwrap();
    log.create_topics(PARTITIONS).await.unwrap();
    log.append(appends(Topic::Events, 0..10)).await.unwrap();
    let mut consumer = log.subscribe("g", &[Topic::Events]).await.unwrap();
    let at = assigned(&mut *consumer).await[0].at;
    records(&mut *consumer, 10).await;
    consumer.commit(vec![commit(at, 1, "")]).await.unwrap();
    consumer.close().await;

    let sasl = |mechanism, username: &str, password| {
        Some(KafkaSasl { mechanism, username: username.into(), password: server.secret(password) })
    };
    let scram = SaslMechanism::ScramSha512;
    let stranger = Some(KafkaTls { ca: Some(server.stranger()), ..KafkaTls::default() });
    let plaintext = vec![format!("127.0.0.1:{}", server.port())];
    let refused = [
        (KafkaConfig { sasl: sasl(scram, "bellwether", "wrong"), ..right.clone() }, "kafka.sasl"),
        (KafkaConfig { sasl: sasl(scram, "nobody", "wether-bell"), ..right.clone() }, "kafka.sasl"),
        (
            KafkaConfig { sasl: sasl(SaslMechanism::Plain, "bellwether", "wether-bell"), ..right.clone() },
            "SCRAM-SHA-512",
        ),
        (KafkaConfig { tls: stranger, ..right.clone() }, "kafka.tls"),
    ];
    // These look the same as a broker that goes away, which may come back.
    let unavailable = [
        (KafkaConfig { tls: None, ..right.clone() }, "kafka.tls"),
        (KafkaConfig { tls: None, sasl: None, ..right.clone() }, "kafka.tls"),
        (KafkaConfig { sasl: None, ..right.clone() }, "kafka.sasl"),
        (KafkaConfig { brokers: plaintext, ..right.clone() }, "kafka.tls"),
    ];
    let cases = refused.into_iter().map(|case| (case, false)).chain(unavailable.into_iter().map(|case| (case, true)));
    join_all(cases.map(async |((config, words), transient)| {
        let log = KafkaLog::connect(config).unwrap();
        let begin = Instant::now();
        let error = log.ping().await.unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(15), "after {:?}", begin.elapsed());
        assert_eq!(error.is_transient(), transient, "{error}");
        assert!(error.to_string().contains(words), "{words}: {error}");
    }))
    .await;
}
