//! The Kafka log against a real broker (`cargo xtask services up`; `BELLWETHER_KAFKA` names another one): what only a cluster can do, such as
//! taking partitions from a process that stands still. What both logs have in common is in `log_contract.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_connectors::log::{
    Append, Assignment, Commit, CommitError, Committed, Consumer, Log, LogError, LogRecord, Polled, TopicPartition,
    kafka::{KafkaConfig, KafkaLog},
};
use bellwether_schemas::{Lane, Topic, records::Header, topics::partition_of};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
    mocking::MockCluster,
    types::{RDKafkaApiKey, RDKafkaRespErr},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Deref,
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};

const PARTITIONS: u32 = 4;
const URGENT: Topic = Topic::Notifications(Lane::Transactional);
const BULK: Topic = Topic::Notifications(Lane::Bulk);
/// The broker's least; a test that waits for it takes this long.
const SESSION: Duration = Duration::from_millis(6000);
/// Nothing here takes longer, unless it is broken.
const PATIENCE: Duration = Duration::from_secs(40);
const WAIT: Duration = Duration::from_millis(200);

fn broker() -> String {
    std::env::var("BELLWETHER_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".into())
}

fn config(prefix: &str) -> KafkaConfig {
    KafkaConfig {
        topic_prefix: prefix.into(),
        session_timeout_ms: u32::try_from(SESSION.as_millis()).unwrap(),
        ..KafkaConfig::new(vec![broker()])
    }
}

fn fresh_prefix() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
    format!("test-{}-{now}-{}.", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap()
}

/// A log with topics of its own, which go with it.
struct Cluster {
    log: Arc<KafkaLog>,
    prefix: String,
}

impl Cluster {
    async fn new() -> Self {
        Self::with(|config| config).await
    }

    async fn with(change: impl FnOnce(KafkaConfig) -> KafkaConfig) -> Self {
        let prefix = fresh_prefix();
        let log = KafkaLog::connect(change(config(&prefix))).unwrap();
        if let Err(error) = log.ping().await {
            panic!("no Kafka at {}: run `cargo xtask services up` ({error})", broker());
        }
        log.create_topics(PARTITIONS).await.unwrap();
        Self { log, prefix }
    }
}

impl Deref for Cluster {
    type Target = KafkaLog;
    fn deref(&self) -> &KafkaLog {
        &self.log
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let names: Vec<String> = Topic::all().iter().map(|t| format!("{}{t}", self.prefix)).collect();
        // A runtime cannot be entered twice on one thread.
        let deletion = std::thread::spawn(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async { admin().delete_topics(&names, &AdminOptions::new()).await }).ok();
        });
        deletion.join().ok();
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

fn number(record: &LogRecord) -> usize {
    std::str::from_utf8(&record.payload).unwrap().parse().unwrap()
}

fn all_of(topic: Topic) -> BTreeSet<TopicPartition> {
    (0..PARTITIONS).map(|partition| TopicPartition { topic, partition }).collect()
}

fn commit(at: TopicPartition, offset: u64, metadata: &str) -> Commit {
    Commit { at, committed: Committed { offset, metadata: metadata.into() } }
}

fn places(assignments: &[Assignment]) -> BTreeSet<TopicPartition> {
    assignments.iter().map(|a| a.at).collect()
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

/// Offsets rise within each partition.
fn assert_ordered(records: &[LogRecord]) {
    let mut last = BTreeMap::new();
    for record in records {
        let at = (record.position.topic, record.position.partition);
        if let Some(before) = last.insert(at, record.position.offset) {
            assert!(before < record.position.offset, "{} after {before}", record.position);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn appended_records_come_back_whole_and_in_order() {
    let cluster = Cluster::new().await;
    let mut sent = appends(Topic::Events, 0..500);
    sent[7].headers = vec![
        Header { name: "ce_id".into(), value: b"7".to_vec() },
        Header { name: "ce_id".into(), value: vec![0, 255] },
        Header { name: "empty".into(), value: vec![] },
    ];
    sent[8].key.clear();
    sent[9].payload.clear();
    let positions = cluster.append(sent.clone()).await.unwrap();
    assert_eq!(positions.len(), sent.len());
    let mut next = [0; PARTITIONS as usize];
    for (position, record) in positions.iter().zip(&sent) {
        assert_eq!(position.partition, partition_of(&record.key, PARTITIONS));
        let next = &mut next[position.partition as usize];
        assert_eq!((position.topic, position.offset), (Topic::Events, *next));
        *next += 1;
    }

    let mut consumer = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assert_eq!(places(&assigned(&mut *consumer).await), all_of(Topic::Events));
    let consumed = records(&mut *consumer, sent.len()).await;
    assert_ordered(&consumed);
    for (position, sent) in positions.iter().zip(&sent) {
        let got = consumed.iter().find(|r| r.position == *position).unwrap();
        assert_eq!((&got.key[..], &got.payload[..], &got.headers), (&sent.key[..], &sent.payload[..], &sent.headers));
    }

    let at = TopicPartition { topic: Topic::Events, partition: 2 };
    let all = cluster.read(at, 0, 1000).await.unwrap();
    assert_eq!(all, consumed.iter().filter(|r| r.position.partition == 2).cloned().collect::<Vec<_>>());
    assert_eq!(cluster.read(at, 3, 4).await.unwrap(), all[3..7]);
    let end = all.len() as u64;
    assert_eq!(cluster.read(at, end - 1, 10).await.unwrap(), all[all.len() - 1..]);
    assert_eq!(cluster.read(at, end, 10).await.unwrap(), []);
    assert_eq!(cluster.read(at, end + 1000, 10).await.unwrap(), []);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_committed_comes_again_and_metadata_is_kept() {
    let cluster = Cluster::new().await;
    cluster.append(appends(Topic::Events, 0..400)).await.unwrap();
    let bounds = cluster.bounds(Topic::Events).await.unwrap();
    assert_eq!(bounds.iter().map(|b| b.at).collect::<BTreeSet<_>>(), all_of(Topic::Events));
    assert_eq!(bounds.iter().fold((0, 0), |sum, b| (sum.0 + b.start, sum.1 + b.end)), (0, 400));
    assert_eq!(cluster.progress("g", Topic::Events).await.unwrap(), []);

    let mut first = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assert!(assigned(&mut *first).await.iter().all(|a| a.committed.is_none()));
    records(&mut *first, 400).await;
    let place = |partition| TopicPartition { topic: Topic::Events, partition };
    // As much as is allowed, and not all of it ASCII.
    let bitmap = "é".repeat(2048);
    let commits = vec![commit(place(0), 5, &bitmap), commit(place(1), 0, ""), commit(place(2), bounds[2].end, "done")];
    first.commit(commits.clone()).await.unwrap();
    assert_eq!(cluster.progress("g", Topic::Events).await.unwrap(), commits);
    assert_eq!(cluster.progress("other", Topic::Events).await.unwrap(), []);
    let error = first.commit(vec![commit(place(3), 1, &"x".repeat(4097))]).await.unwrap_err();
    assert!(matches!(error, CommitError::Log(LogError::Refused(_))), "{error}");
    // A crash: nobody says goodbye in order.
    drop(first);

    let mut second = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    for assignment in assigned(&mut *second).await {
        let expected = commits.iter().find(|c| c.at == assignment.at).map(|c| c.committed.clone());
        assert_eq!(assignment.committed, expected, "{:?}", assignment.at);
    }
    let left = bounds[0].end - 5 + bounds[1].end + bounds[3].end;
    let again = records(&mut *second, usize::try_from(left).unwrap()).await;
    assert_ordered(&again);
    assert_eq!(again.iter().find(|r| r.position.partition == 0).unwrap().position.offset, 5);
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn urgent_records_are_taken_before_a_bulk_backlog() {
    let cluster = Cluster::new().await;
    cluster.append(appends(BULK, 0..20_000)).await.unwrap();
    let mut consumer = cluster.subscribe("route", &[URGENT, BULK]).await.unwrap();
    let both: BTreeSet<_> = all_of(URGENT).into_iter().chain(all_of(BULK)).collect();
    assert_eq!(places(&assigned(&mut *consumer).await), both);
    records(&mut *consumer, 1000).await;

    cluster.append(appends(URGENT, 0..20)).await.unwrap();
    // Takes nothing, but what was appended arrives meanwhile, beside queues that are full of bulk.
    assert_eq!(consumer.poll(0, Duration::from_millis(500)).await.unwrap(), Polled::Records(vec![]));
    let next = records(&mut *consumer, 100).await;
    let topics: Vec<Topic> = next.iter().map(|r| r.position.topic).collect();
    assert_eq!(topics, [vec![URGENT; 20], vec![BULK; 80]].concat());
    let rest = records(&mut *consumer, 18_920).await;
    assert!(rest.iter().all(|r| r.position.topic == BULK));
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_old_owner_may_commit_until_its_next_poll() {
    let cluster = Cluster::new().await;
    cluster.append([appends(URGENT, 0..200), appends(BULK, 0..200)].concat()).await.unwrap();
    let mut first = cluster.subscribe("route", &[URGENT, BULK]).await.unwrap();
    assigned(&mut *first).await;
    let mut ends = BTreeMap::new();
    for record in records(&mut *first, 400).await {
        let at = TopicPartition { topic: record.position.topic, partition: record.position.partition };
        ends.insert(at, record.position.offset + 1);
    }

    let mut second = cluster.subscribe("route", &[URGENT, BULK]).await.unwrap();
    let first_side = async {
        let (revoked, lost) = loop {
            match first.poll(0, WAIT).await.unwrap() {
                Polled::Records(_) => {}
                Polled::Revoked { partitions, lost } => break (partitions, lost),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(revoked.into_iter().collect::<BTreeSet<_>>(), ends.keys().copied().collect());
        assert!(!lost);
        first.commit(ends.iter().map(|(at, end)| commit(*at, *end, "revoked")).collect()).await.unwrap();
        assigned(&mut *first).await
    };
    let (kept, given) = tokio::join!(first_side, assigned(&mut *second));
    for assignment in kept.iter().chain(&given) {
        let committed = assignment.committed.as_ref().unwrap();
        assert_eq!((committed.offset, committed.metadata.as_str()), (ends[&assignment.at], "revoked"));
    }
    assert_eq!((kept.len(), given.len()), (4, 4));
    // Co-partitioned: who has a partition of one topic has it of the other.
    for side in [&kept, &given] {
        let of = |topic| side.iter().filter(|a| a.at.topic == topic).map(|a| a.at.partition).collect::<BTreeSet<_>>();
        assert_eq!(of(URGENT), of(BULK));
    }
    // What went to the other is refused here, though the broker would take it from any member.
    let error = first.commit(vec![commit(given[0].at, 0, "")]).await.unwrap_err();
    assert!(matches!(error, CommitError::Superseded), "{error}");
    first.commit(vec![commit(kept[0].at, 1, "")]).await.unwrap();
    tokio::join!(first.close(), second.close());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_poll_is_put_out_and_joins_again() {
    let cluster = Cluster::new().await;
    let mut idle = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    let first = assigned(&mut *idle).await;
    assert_eq!(idle.session_timeout(), SESSION);
    idle.commit(vec![commit(first[0].at, 1, "mine")]).await.unwrap();

    let mut next = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assert_eq!(places(&assigned(&mut *next).await), all_of(Topic::Events));
    next.commit(vec![commit(first[0].at, 7, "theirs")]).await.unwrap();

    let error = idle.commit(vec![commit(first[0].at, 2, "late")]).await.unwrap_err();
    assert!(matches!(error, CommitError::Superseded), "{error}");
    let told = loop {
        match idle.poll(10, WAIT).await.unwrap() {
            Polled::Records(records) => assert_eq!(records, []),
            other => break other,
        }
    };
    let Polled::Revoked { partitions, lost: true } = told else { panic!("{told:?}") };
    assert_eq!(partitions.into_iter().collect::<BTreeSet<_>>(), all_of(Topic::Events));
    assert_eq!(cluster.progress("g", Topic::Events).await.unwrap(), [commit(first[0].at, 7, "theirs")]);

    // It comes back as a member like any other.
    let (mine, theirs) = tokio::join!(assigned(&mut *idle), assigned(&mut *next));
    assert_eq!((mine.len(), theirs.len()), (2, 2));
    idle.commit(vec![commit(mine[0].at, 3, "again")]).await.unwrap();
    let error = idle.commit(vec![commit(theirs[0].at, 3, "not mine")]).await.unwrap_err();
    assert!(matches!(error, CommitError::Superseded), "{error}");
    tokio::join!(idle.close(), next.close());
}

const STALL_PREFIX: &str = "BELLWETHER_TEST_STALL_PREFIX";

/// Not a test of its own: the process that [`a_stopped_process_can_commit_nothing_more`] stops. Says `owns` once it owns and has committed;
/// then, at a line on its input and without a poll before, it commits again and says what came of it.
#[tokio::test(flavor = "multi_thread")]
async fn process_that_will_be_stopped() {
    let Ok(prefix) = std::env::var(STALL_PREFIX) else { return };
    let log = KafkaLog::connect(config(&prefix)).unwrap();
    let mut consumer = log.subscribe("g", &[Topic::Events]).await.unwrap();
    let at = assigned(&mut *consumer).await[0].at;
    consumer.commit(vec![commit(at, 1, "before")]).await.unwrap();
    println!("\nstate: owns");
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    let state = match consumer.commit(vec![commit(at, 2, "stalled")]).await {
        Ok(()) => "committed".to_owned(),
        Err(CommitError::Superseded) => "superseded".to_owned(),
        Err(other) => other.to_string(),
    };
    println!("\nstate: {state}");
    consumer.close().await;
}

async fn state(lines: &mut Lines<BufReader<tokio::process::ChildStdout>>) -> String {
    loop {
        let line = lines.next_line().await.unwrap().expect("the process says its state");
        if let Some(state) = line.strip_prefix("state: ") {
            return state.to_owned();
        }
    }
}

async fn signal(name: &str, process: u32) {
    let status = tokio::process::Command::new("kill").args([name, &process.to_string()]).status().await.unwrap();
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_process_can_commit_nothing_more() {
    let cluster = Cluster::new().await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process_that_will_be_stopped", "--nocapture"])
        .env(STALL_PREFIX, &cluster.prefix)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let process = child.id().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(state(&mut lines).await, "owns");
    signal("-STOP", process).await;

    let mut next = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    let taken = assigned(&mut *next).await;
    assert_eq!(places(&taken), all_of(Topic::Events));
    let inherited: Vec<_> = taken.iter().filter_map(|a| a.committed.clone()).collect();
    assert_eq!(inherited, [Committed { offset: 1, metadata: "before".into() }]);
    let mut mine: Vec<Commit> = taken.iter().map(|a| commit(a.at, 9, "taken over")).collect();
    mine.sort_by_key(|commit| commit.at);
    next.commit(mine.clone()).await.unwrap();

    signal("-CONT", process).await;
    child.stdin.take().unwrap().write_all(b"commit\n").await.unwrap();
    assert_eq!(state(&mut lines).await, "superseded");
    assert_eq!(cluster.progress("g", Topic::Events).await.unwrap(), mine);
    assert!(child.wait().await.unwrap().success());
    next.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_consumer_stays_a_member_and_finds_its_backlog() {
    let cluster = Cluster::new().await;
    let mut consumer = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assigned(&mut *consumer).await;
    cluster.append(appends(Topic::Events, 0..30_000)).await.unwrap();
    let until = Instant::now() + SESSION + Duration::from_secs(2);
    while Instant::now() < until {
        assert_eq!(consumer.poll(0, Duration::from_secs(1)).await.unwrap(), Polled::Records(vec![]));
    }
    let backlog = records(&mut *consumer, 30_000).await;
    assert_ordered(&backlog);
    assert_eq!(backlog.iter().map(number).collect::<BTreeSet<_>>().len(), 30_000);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seek_goes_back_and_forth() {
    let cluster = Cluster::new().await;
    cluster.append(appends(Topic::Events, 0..2000)).await.unwrap();
    let mut consumer = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    assigned(&mut *consumer).await;
    let all = records(&mut *consumer, 2000).await;
    let at = TopicPartition { topic: Topic::Events, partition: 1 };
    let of_one: Vec<_> = all.into_iter().filter(|r| r.position.partition == 1).collect();
    consumer.seek(at, 0).await.unwrap();
    assert_eq!(records(&mut *consumer, of_one.len()).await, of_one);
    // Now with records read ahead, which must not come.
    consumer.seek(at, 0).await.unwrap();
    assert_eq!(records(&mut *consumer, 10).await, of_one[..10]);
    consumer.seek(at, 100).await.unwrap();
    assert_eq!(records(&mut *consumer, of_one.len() - 100).await, of_one[100..]);
    let elsewhere = TopicPartition { topic: Topic::Receipts, partition: 1 };
    assert!(matches!(consumer.seek(elsewhere, 0).await, Err(LogError::Refused(_))));
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_poll_loses_nothing() {
    let cluster = Cluster::new().await;
    let mut consumer = cluster.subscribe("g", &[Topic::Events]).await.unwrap();
    let (log, count) = (Arc::clone(&cluster.log), 5000);
    let appending = tokio::spawn(async move {
        for start in (0..count).step_by(50) {
            log.append(appends(Topic::Events, start..start + 50)).await.unwrap();
        }
    });
    let mut seen = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while seen.len() < count && Instant::now() < deadline {
        match tokio::time::timeout(Duration::from_millis(3), consumer.poll(7, PATIENCE)).await {
            Ok(Ok(Polled::Records(records))) => seen.extend(records),
            Ok(Ok(Polled::Assigned(assignments))) => assert_eq!(assignments.len(), 4),
            Ok(other) => panic!("{other:?}"),
            Err(_) => {}
        }
    }
    appending.await.unwrap();
    assert_ordered(&seen);
    assert_eq!(seen.len(), count);
    consumer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_created_once_with_their_retention() {
    let prefix = fresh_prefix();
    let log = KafkaLog::connect(config(&prefix)).unwrap();
    let missing = log.append(vec![append(Topic::Events, 0)]).await.unwrap_err();
    assert!(matches!(&missing, LogError::UnknownTopic(name) if *name == format!("{prefix}events")), "{missing}");
    assert!(matches!(log.subscribe("g", &[Topic::Events]).await, Err(LogError::UnknownTopic(_))));
    assert!(matches!(log.bounds(Topic::Events).await, Err(LogError::UnknownTopic(_))));
    let nowhere = TopicPartition { topic: Topic::Events, partition: 0 };
    assert!(matches!(log.read(nowhere, 0, 1).await, Err(LogError::UnknownTopic(_))));

    let cluster = Cluster { log, prefix };
    assert_eq!(cluster.create_topics(PARTITIONS).await.unwrap(), Topic::all());
    assert_eq!(cluster.create_topics(PARTITIONS).await.unwrap(), []);
    let differs = cluster.create_topics(PARTITIONS + 1).await.unwrap_err();
    assert!(matches!(&differs, LogError::Refused(text) if text.contains("has 4 partitions, not 5")), "{differs}");
    assert_eq!(cluster.bounds(Topic::Definitions).await.unwrap().len(), 1);
    cluster.append(vec![append(Topic::Events, 0)]).await.unwrap();
    let uneven = cluster.subscribe("g", &[Topic::Events, Topic::Definitions]).await.err().unwrap();
    assert!(matches!(uneven, LogError::Refused(_)), "{uneven}");

    for (topic, setting, value) in [
        (Topic::Definitions, "cleanup.policy", "compact"),
        (Topic::Events, "cleanup.policy", "delete"),
        (Topic::Events, "retention.ms", "604800000"),
        (Topic::DeadLetters, "retention.ms", "2592000000"),
    ] {
        let name = format!("{}{topic}", cluster.prefix);
        let topics = [&ResourceSpecifier::Topic(&name)];
        let described = admin().describe_configs(topics, &AdminOptions::new()).await.unwrap().remove(0).unwrap();
        assert_eq!(described.get(setting).unwrap().value.as_deref(), Some(value), "{topic} {setting}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_too_large_is_named_and_sends_nothing() {
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
    let cluster = Cluster::with(|mut config| {
        config.options.insert("queue.buffering.max.messages".into(), "50".into());
        config
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
        assert!(error.is_transient(), "{error}");
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

/// How often each number was seen.
type Seen = Arc<Mutex<BTreeMap<usize, usize>>>;

/// Works until all is seen, leaving and coming back after every so many records; each commit follows its records.
/// Returns how often partitions were taken away.
async fn come_and_go(log: Arc<KafkaLog>, stay: usize, seen: Seen, count: usize) -> usize {
    let mut revocations = 0;
    let done = || seen.lock().unwrap().len() >= count;
    while !done() {
        let mut consumer = log.subscribe("g", &[Topic::Events]).await.unwrap();
        let mut worked = 0;
        while worked < stay && !done() {
            let batch = match consumer.poll(100, Duration::from_millis(100)).await.unwrap() {
                Polled::Records(batch) => batch,
                Polled::Assigned(_) => continue,
                Polled::Revoked { .. } => {
                    revocations += 1;
                    continue;
                }
            };
            assert_ordered(&batch);
            worked += batch.len();
            let mut ends = BTreeMap::new();
            for record in &batch {
                *seen.lock().unwrap().entry(number(record)).or_default() += 1;
                let at = TopicPartition { topic: Topic::Events, partition: record.position.partition };
                ends.insert(at, record.position.offset + 1);
            }
            match consumer.commit(ends.into_iter().map(|(at, end)| commit(at, end, "")).collect()).await {
                Ok(()) | Err(CommitError::Superseded) => {}
                Err(error) => panic!("{error}"),
            }
        }
        consumer.close().await;
    }
    revocations
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_consumers_come_and_go() {
    let cluster = Cluster::new().await;
    let (count, seen) = (20_000, Seen::default());
    let log = Arc::clone(&cluster.log);
    let producing = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        for start in (0..count).step_by(100) {
            pace.tick().await;
            log.append(appends(Topic::Events, start..start + 100)).await.unwrap();
        }
    });
    let consumers: Vec<_> = (0..8)
        .map(|n| tokio::spawn(come_and_go(Arc::clone(&cluster.log), 400 + 300 * n, Arc::clone(&seen), count)))
        .collect();
    let mut revocations = 0;
    for consumer in consumers {
        let outcome = tokio::time::timeout(PATIENCE, consumer).await;
        revocations += outcome.unwrap_or_else(|_| panic!("only {} seen", seen.lock().unwrap().len())).unwrap();
    }
    producing.await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen.keys().copied().collect::<Vec<_>>(), (0..count).collect::<Vec<_>>());
    let again = seen.values().sum::<usize>() - count;
    println!("{revocations} revocations, {again} of {count} records more than once");
    assert!(revocations > 8, "only {revocations} revocations: nothing was tested");
}
