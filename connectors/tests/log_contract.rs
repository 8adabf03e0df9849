//! The contract of the log, run on every implementation. The cases are in `contract/log.rs`.
//! [`contract::a_kill_under_load_loses_nothing`] runs beside the others, on a server or a process of its own.
//! A case that holds for one implementation only stands beside that implementation's module.
#![allow(clippy::unwrap_used, missing_docs)]

#[macro_use]
#[path = "contract/log.rs"]
mod contract;
#[path = "contract/authority.rs"]
mod authority;
#[path = "contract/kafka.rs"]
mod kafka;
#[path = "contract/load.rs"]
mod load;
#[path = "contract/process.rs"]
#[allow(dead_code)] // nothing is told to a process here
mod process;
#[path = "contract/server.rs"]
#[allow(dead_code)] // nobody is mistrusted here
mod server;

mod embedded {
    use crate::{
        contract::{self, Harness},
        load::{self, Load},
    };
    use async_trait::async_trait;
    use bellwether_connectors::{
        embedded::{Clock, Embedded, EmbeddedError, EmbeddedOptions},
        log::{Append, Commit, Committed, Log, LogError, Polled, TopicPartition},
    };
    use bellwether_schemas::{Timestamp, Topic, topics::Retention};
    use std::{
        collections::BTreeSet,
        path::{Path, PathBuf},
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
        time::Duration,
    };
    use tempfile::TempDir;

    struct InProcess {
        embedded: Embedded,
        // Dropped after the database.
        _dir: TempDir,
    }

    impl InProcess {
        fn new(sync: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            Self { embedded: open(dir.path(), EmbeddedOptions { sync, ..options() }).unwrap(), _dir: dir }
        }
    }

    #[async_trait]
    impl Harness for InProcess {
        async fn log(&self) -> Arc<dyn Log> {
            Arc::clone(&self.embedded.log) as _
        }
    }

    fn options() -> EmbeddedOptions {
        EmbeddedOptions { session_timeout_ms: 1_000, ..EmbeddedOptions::default() }
    }

    fn open(dir: &Path, options: EmbeddedOptions) -> Result<Embedded, EmbeddedError> {
        Embedded::open(dir, options)
    }

    mod durable {
        log_contract!("multi_thread", super::InProcess::new(true));
    }

    mod durable_in_one_thread {
        log_contract!("current_thread", super::InProcess::new(true));
    }

    mod simulated {
        log_contract!("current_thread", super::InProcess::new(false));
    }

    const AT: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

    fn record(topic: Topic, key: &str, payload: &str) -> Append {
        Append { topic, key: key.into(), payload: payload.into(), headers: Vec::new() }
    }

    async fn payloads(log: &dyn Log, at: TopicPartition) -> Vec<String> {
        let records = log.read(at, 0, 1_000).await.unwrap();
        records.iter().map(|r| String::from_utf8(r.payload.to_vec()).unwrap()).collect()
    }

    #[tokio::test]
    async fn everything_acknowledged_is_there_after_a_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let committed = Committed { offset: 2, metadata: "claimed".into() };
        {
            let log = open(dir.path(), options()).unwrap().log;
            log.create_topics(3).await.unwrap();
            log.append(vec![record(AT.topic, "a", "1"), record(AT.topic, "b", "2")]).await.unwrap();
            let mut consumer = log.subscribe("group", &[AT.topic]).await.unwrap();
            assert!(matches!(consumer.poll(10, Duration::ZERO).await.unwrap(), Polled::Assigned(_)));
            consumer.commit(vec![Commit { at: AT, committed: committed.clone() }]).await.unwrap();
        }
        let log = open(dir.path(), options()).unwrap().log;
        assert_eq!(log.create_topics(3).await.unwrap(), []);
        assert_eq!(payloads(&*log, AT).await, ["1", "2"]);
        assert_eq!(log.progress("group", AT.topic).await.unwrap(), [Commit { at: AT, committed }]);
        let next = log.append(vec![record(AT.topic, "a", "3")]).await.unwrap();
        assert_eq!(next[0].offset, 2, "offsets are dense");
    }

    const LOAD: &str = "embedded::a_process_under_load";

    /// Not a test of its own: the process that [`a_kill_under_load_loses_nothing`] kills.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_under_load() {
        let work = |dir: PathBuf, first, say| contract::work(open(&dir, options()).unwrap().log, first, say);
        load::run_there(LOAD, work).await;
    }

    #[tokio::test]
    async fn a_kill_under_load_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let load = Load::there(LOAD, dir.path());
        let log = async || open(dir.path(), options()).unwrap().log as Arc<dyn Log>;
        contract::a_kill_under_load_loses_nothing(load, log).await;
    }

    #[tokio::test]
    async fn a_directory_in_use_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path(), options()).unwrap();
        let error = open(dir.path(), options()).unwrap_err();
        assert!(matches!(error, EmbeddedError::InUse(_)), "{error:?}");
        let LogError::Refused(text) = error.into() else { panic!("not refused") };
        assert!(text.contains("another bellwether process"), "{text}");
    }

    #[tokio::test]
    async fn every_partition_has_its_turn() {
        let harness = InProcess::new(false);
        let log = harness.log().await;
        log.create_topics(8).await.unwrap();
        log.append((0..8_000).map(|n| record(Topic::Events, &n.to_string(), "x")).collect()).await.unwrap();
        let mut consumer = log.subscribe("group", &[Topic::Events]).await.unwrap();
        let mut seen = BTreeSet::new();
        for _ in 0..9 {
            if let Polled::Records(records) = consumer.poll(50, Duration::ZERO).await.unwrap() {
                seen.extend(records.iter().map(|r| r.position.partition));
            }
        }
        assert_eq!(seen.len(), 8, "{seen:?}");
    }

    #[tokio::test]
    async fn retention_deletes_what_is_old_and_keeps_the_offsets() {
        let dir = tempfile::tempdir().unwrap();
        let time = Arc::new(AtomicI64::new(0));
        let source = Arc::clone(&time);
        let clock = Clock(Arc::new(move || Timestamp(source.load(Ordering::Relaxed))));
        let options = EmbeddedOptions { clock, ..options() };
        let Retention::Delete(age) = Topic::Events.retention(options.retention()) else {
            panic!("events are not compacted")
        };
        let at = TopicPartition { topic: Topic::Events, partition: 0 };
        {
            let log = open(dir.path(), options.clone()).unwrap().log;
            log.create_topics(1).await.unwrap();
            log.append((0..2_500).map(|_| record(at.topic, "a", "old")).collect()).await.unwrap();
            time.store(1_000, Ordering::Relaxed);
            log.append(vec![record(at.topic, "a", "new")]).await.unwrap();
            assert_eq!(log.enforce_retention(Timestamp(0).plus(age)).await.unwrap(), 0);
            assert_eq!(log.enforce_retention(Timestamp(1).plus(age)).await.unwrap(), 2_500);
            assert_eq!(payloads(&*log, at).await, ["new"]);
            assert_eq!(log.bounds(at.topic).await.unwrap()[0].start, 2_500);
            assert_eq!(log.enforce_retention(Timestamp(2_000).plus(age)).await.unwrap(), 1);
        }
        let log = open(dir.path(), options).unwrap().log;
        let bounds = log.bounds(at.topic).await.unwrap()[0];
        assert_eq!((bounds.start, bounds.end), (2_501, 2_501), "an emptied partition keeps its end");
        assert_eq!(log.append(vec![record(at.topic, "a", "x")]).await.unwrap()[0].offset, 2_501);
    }

    #[tokio::test]
    async fn compaction_keeps_the_newest_of_each_key() {
        let harness = InProcess::new(true);
        let log = &harness.embedded.log;
        log.create_topics(1).await.unwrap();
        let records = [("a", "a1"), ("b", "b1"), ("a", "a2"), ("c", "c1"), ("a", "a3"), ("b", "b2")];
        log.append(records.map(|(key, payload)| record(AT.topic, key, payload)).to_vec()).await.unwrap();
        assert_eq!(log.enforce_retention(Timestamp(i64::MAX)).await.unwrap(), 3);
        assert_eq!(payloads(&**log, AT).await, ["c1", "a3", "b2"]);
        assert_eq!(log.bounds(AT.topic).await.unwrap()[0].start, 3);
        assert_eq!(log.enforce_retention(Timestamp(i64::MAX)).await.unwrap(), 0);
        // A consumer passes over the gap.
        let mut consumer = log.subscribe("group", &[AT.topic]).await.unwrap();
        consumer.poll(10, Duration::ZERO).await.unwrap();
        let Polled::Records(records) = consumer.poll(10, Duration::ZERO).await.unwrap() else { panic!("no records") };
        assert_eq!(records.iter().map(|r| r.position.offset).collect::<Vec<_>>(), [3, 4, 5]);
    }

    #[tokio::test]
    async fn a_damaged_record_is_an_error_with_its_position() {
        let dir = tempfile::tempdir().unwrap();
        let at = TopicPartition { topic: Topic::Events, partition: 0 };
        {
            let log = open(dir.path(), options()).unwrap().log;
            log.create_topics(1).await.unwrap();
            log.append(vec![record(at.topic, "a", "1")]).await.unwrap();
        }
        {
            let database = fjall::Database::builder(dir.path()).open().unwrap();
            let records = database.keyspace("log", fjall::KeyspaceCreateOptions::default).unwrap();
            let (key, _) = records.first_key_value().unwrap().into_inner().unwrap();
            records.insert(key, [1, 2, 3]).unwrap();
        }
        let log = open(dir.path(), options()).unwrap().log;
        let error = log.read(at, 0, 1).await.unwrap_err();
        assert!(error.to_string().contains("events/0/0"), "{error}");
    }
}

mod on_kafka {
    use crate::{
        contract::{self, Harness},
        kafka::{self, Topics},
        load::Load,
        server::Server,
    };
    use async_trait::async_trait;
    use bellwether_connectors::log::{Log, kafka::KafkaLog};
    use std::sync::Arc;

    #[async_trait]
    impl Harness for Topics {
        async fn log(&self) -> Arc<dyn Log> {
            Topics::log(self).await
        }
    }

    log_contract!("multi_thread", Topics::new());

    /// TLS and password are a part of the way back.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_kill_under_load_loses_nothing() {
        let server = Server::new("kafka").await;
        let log = KafkaLog::connect(kafka::secured(&server)).unwrap();
        let load = Load::here(server, {
            let log = Arc::clone(&log);
            |first, say| contract::work(log, first, say)
        });
        contract::a_kill_under_load_loses_nothing(load, async || log as Arc<dyn Log>).await;
    }
}
