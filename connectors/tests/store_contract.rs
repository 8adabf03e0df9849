//! The contract of the store, run on every implementation. The cases are in `contract/store.rs`.
//! [`contract::a_kill_under_load_loses_nothing`] runs beside the others, on a server or a process of its own.
//! A case that holds for one implementation only stands beside that implementation's module.
#![allow(clippy::unwrap_used, missing_docs)]

#[macro_use]
#[path = "contract/store.rs"]
mod contract;
#[path = "contract/authority.rs"]
mod authority;
#[path = "contract/keyspace.rs"]
mod keyspace;
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
        embedded::{Clock, Embedded, EmbeddedOptions},
        store::{Store, StoreError, embedded::EmbeddedStore},
    };
    use bellwether_schemas::{
        Timestamp,
        rows::{Row, Write},
        tables::{AggregateRow, IdempotencyRow, ScheduleCursorRow},
    };
    use std::{
        path::{Path, PathBuf},
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
        time::Duration,
    };
    use tempfile::TempDir;

    struct InProcess {
        store: Arc<EmbeddedStore>,
        time: Arc<AtomicI64>,
        // Dropped after the database.
        dir: TempDir,
    }

    impl InProcess {
        fn new(sync: bool) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let time = Arc::new(AtomicI64::new(1_000_000));
            Self { store: open(dir.path(), &time, sync), time, dir }
        }

        /// Closes and opens the database again.
        fn reopen(self) -> Self {
            let Self { store, time, dir } = self;
            drop(store);
            Self { store: open(dir.path(), &time, true), time, dir }
        }

        fn now(&self) -> Timestamp {
            Timestamp(self.time.load(Ordering::Relaxed))
        }
    }

    fn open(dir: &Path, time: &Arc<AtomicI64>, sync: bool) -> Arc<EmbeddedStore> {
        let source = Arc::clone(time);
        let clock = Clock(Arc::new(move || Timestamp(source.load(Ordering::Relaxed))));
        Embedded::open(dir, EmbeddedOptions { sync, clock, ..EmbeddedOptions::default() }).unwrap().store
    }

    #[async_trait]
    impl Harness for InProcess {
        async fn store(&self) -> Arc<dyn Store> {
            Arc::clone(&self.store) as _
        }

        async fn pass(&self, time: Duration) {
            self.time.fetch_add(i64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
        }
    }

    mod durable {
        store_contract!("multi_thread", super::InProcess::new(true));
    }

    mod durable_in_one_thread {
        store_contract!("current_thread", super::InProcess::new(true));
    }

    mod simulated {
        store_contract!("current_thread", super::InProcess::new(false));
    }

    fn cursor(shard: i64) -> ScheduleCursorRow {
        ScheduleCursorRow { shard, due: Timestamp(shard) }
    }

    fn sum(source: &str) -> AggregateRow {
        AggregateRow {
            project: "shop".into(),
            day: "2026-01-31".into(),
            template: "t".into(),
            channel: "sms".into(),
            metric: "sent".into(),
            source: source.into(),
            value: 1,
            included: 1,
        }
    }

    async fn count(store: &dyn Store, read: bellwether_schemas::rows::Read) -> usize {
        store.read(&[read]).await.unwrap()[0].len()
    }

    async fn stored(store: &EmbeddedStore, table: &'static bellwether_schemas::rows::Table) -> usize {
        store.scan(table, store.ranges(1)[0], None, usize::MAX).await.unwrap().rows.len()
    }

    #[tokio::test]
    async fn everything_acknowledged_is_there_after_a_reopening() {
        let harness = InProcess::new(true);
        harness.store.migrate().await.unwrap();
        harness.store.write((0..100).map(|n| cursor(n).put()).collect()).await.unwrap();
        harness.store.write(vec![sum("a").put_fenced(5)]).await.unwrap();
        let harness = harness.reopen();
        harness.store.ping().await.unwrap();
        assert_eq!(stored(&harness.store, ScheduleCursorRow::TABLE).await, 100);
        let late = AggregateRow { value: 9, ..sum("a") };
        harness.store.write(vec![late.put_fenced(4)]).await.unwrap();
        let found = harness.store.read(&[AggregateRow::read_all("shop", "2026-01-31")]).await.unwrap();
        assert_eq!(AggregateRow::from_cells(found[0][0].clone()).unwrap(), sum("a"), "the fence is kept as well");
    }

    const LOAD: &str = "embedded::a_process_under_load";

    fn open_plainly(dir: &Path) -> Arc<EmbeddedStore> {
        Embedded::open(dir, EmbeddedOptions::default()).unwrap().store
    }

    /// Not a test of its own: the process that [`a_kill_under_load_loses_nothing`] kills.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_process_under_load() {
        let work = |dir: PathBuf, first, say| contract::work(open_plainly(&dir), first, say);
        load::run_there(LOAD, work).await;
    }

    #[tokio::test]
    async fn a_kill_under_load_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let load = Load::there(LOAD, dir.path());
        contract::a_kill_under_load_loses_nothing(load, async || open_plainly(dir.path()) as Arc<dyn Store>).await;
    }

    #[tokio::test]
    async fn a_sweep_removes_what_is_over_and_nothing_else() {
        let harness = InProcess::new(true);
        let store = &harness.store;
        store.migrate().await.unwrap();
        let minute = Duration::from_secs(60);
        store
            .write((0..50).map(|n| cursor(n).put_for(minute)).chain((50..80).map(|n| cursor(n).put())).collect())
            .await
            .unwrap();
        let key = AggregateRow::key("shop", "2026-01-31", "t", "sms", "sent", "a");
        store.write(vec![Write::Delete { table: AggregateRow::TABLE, key, fence: Some(7) }]).await.unwrap();
        let sweep = async || {
            let mut removed = 0;
            // Nine tables, the largest of eight steps.
            for _ in 0..40 {
                removed += store.expire(harness.now(), 10).await.unwrap();
            }
            removed
        };
        assert_eq!(sweep().await, 0);
        harness.pass(minute).await;
        assert_eq!(stored(store, ScheduleCursorRow::TABLE).await, 30);
        assert_eq!(sweep().await, 50);
        assert_eq!(stored(store, ScheduleCursorRow::TABLE).await, 30);
        harness.pass(minute * 60 * 24 * 9).await;
        store.write(vec![sum("a").put_fenced(6)]).await.unwrap();
        assert_eq!(
            count(&**store, AggregateRow::read_all("shop", "2026-01-31")).await,
            0,
            "the fence of a delete is kept for ten days"
        );
        harness.pass(minute * 60 * 24).await;
        assert_eq!(sweep().await, 1);
        store.write(vec![sum("a").put_fenced(6)]).await.unwrap();
        assert_eq!(count(&**store, AggregateRow::read_all("shop", "2026-01-31")).await, 1);
    }

    #[tokio::test]
    async fn a_damaged_row_is_an_error_with_its_table() {
        let harness = InProcess::new(true);
        harness.store.migrate().await.unwrap();
        harness.store.write(vec![cursor(1).put()]).await.unwrap();
        let InProcess { store, time, dir } = harness;
        drop(store);
        {
            let database = fjall::Database::builder(dir.path()).open().unwrap();
            let rows = database.keyspace("store.schedule_cursors", fjall::KeyspaceCreateOptions::default).unwrap();
            let (key, _) = rows.first_key_value().unwrap().into_inner().unwrap();
            rows.insert(key, [1, 0, 1, 3]).unwrap();
        }
        let store = open(dir.path(), &time, true);
        let error = store.read(&[ScheduleCursorRow::read_all(1)]).await.unwrap_err();
        let StoreError::Row(bad) = error else { panic!("{error:?}") };
        assert_eq!((bad.table, bad.column), ("schedule_cursors", "due"));
        store.write(vec![cursor(1).put()]).await.unwrap();
        assert_eq!(count(&*store, ScheduleCursorRow::read_all(1)).await, 1, "it can be written anew");
    }

    #[tokio::test]
    async fn a_key_beyond_the_limit_is_an_error_with_its_table() {
        let harness = InProcess::new(true);
        harness.store.migrate().await.unwrap();
        let key = "x".repeat(70_000);
        let row = IdempotencyRow { project: "shop".into(), key, request: String::new(), status: None, body: None };
        let error = harness.store.write(vec![row.put()]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Row(bad) if bad.table == "idempotency_keys"), "{error:?}");
    }
}

mod cql {
    use crate::{
        contract::{self, Harness},
        keyspace::{self, Keyspace},
        load::Load,
        server::Server,
    };
    use async_trait::async_trait;
    use bellwether_connectors::store::{Store, scylla::ScyllaStore};
    use std::sync::Arc;
    use tokio::sync::OnceCell;

    /// One session for all handles: the store keeps nothing between calls, and a case may open hundreds.
    struct OnServer {
        store: OnceCell<Arc<ScyllaStore>>,
        keyspace: Keyspace,
    }

    impl OnServer {
        fn new() -> Self {
            Self { store: OnceCell::new(), keyspace: Keyspace::new() }
        }
    }

    #[async_trait]
    impl Harness for OnServer {
        async fn store(&self) -> Arc<dyn Store> {
            Arc::clone(self.store.get_or_init(|| self.keyspace.connect()).await) as Arc<dyn Store>
        }
    }

    store_contract!("multi_thread", OnServer::new());

    /// TLS and password are a part of the way back.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_kill_under_load_loses_nothing() {
        let server = Server::new("cql").await;
        let store = keyspace::connect_young(&keyspace::secured(&server)).await;
        let load = Load::here(server, {
            let store = Arc::clone(&store);
            |first, say| contract::work(store, first, say)
        });
        contract::a_kill_under_load_loses_nothing(load, async || store as Arc<dyn Store>).await;
    }
}
