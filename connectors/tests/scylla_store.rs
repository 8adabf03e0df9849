//! What only the CQL store can get wrong, against a real server. What all stores have in common is in `store_contract.rs`.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "contract/authority.rs"]
mod authority;
#[path = "contract/keyspace.rs"]
mod keyspace;
#[path = "contract/server.rs"]
#[allow(dead_code)] // nothing is killed here
mod server;

use bellwether_connectors::store::{
    Checkpoint, Store, StoreError, TokenRange,
    scylla::{ScyllaConfig, ScyllaStore, ScyllaTls},
};
use bellwether_schemas::{
    Timestamp,
    rows::{Cells, Key, Read, Row, Span, Table, Type, Value, Write},
    tables::*,
};
use keyspace::{Keyspace, session};
use server::Server;
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, LazyLock, Mutex, Weak},
    time::{Duration, Instant},
};
use tokio::{runtime::Runtime, task::JoinSet};
use uuid::Uuid;

/// One runtime for all tests, because a session ends with the runtime that opened it.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());
static SHARED: Mutex<Weak<Shared>> = Mutex::new(Weak::new());

/// Every file of `infra/cql`, in order.
const MIGRATIONS: [&str; 7] = [
    "0001_tables.cql",
    "0002_addresses.cql",
    "0003_suppressions.cql",
    "0004_consents.cql",
    "0005_erased.cql",
    "0006_attributes.cql",
    "0007_preferences.cql",
];

/// A keyspace with all tables, dropped with the last test that uses it: making tables is slow.
struct Shared {
    store: Arc<ScyllaStore>,
    keyspace: Keyspace,
}

fn shared() -> Arc<Shared> {
    let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let keyspace = Keyspace::new();
        let store = RUNTIME.block_on(async {
            let store = keyspace.connect().await;
            store.migrate().await.unwrap();
            store
        });
        let made = Arc::new(Shared { store, keyspace });
        *shared = Arc::downgrade(&made);
        made
    })
}

/// Runs a test on the shared keyspace. The keyspace is let go outside of the runtime, also when the test fails.
fn on_store<F: Future<Output = ()>>(test: impl FnOnce(Arc<ScyllaStore>) -> F) {
    let shared = shared();
    RUNTIME.block_on(test(Arc::clone(&shared.store)));
}

/// Runs a test on a keyspace of its own that is not made yet.
fn on_nothing<F: Future<Output = ()>>(test: impl FnOnce(Arc<Keyspace>) -> F) {
    RUNTIME.block_on(test(Arc::new(Keyspace::new())));
}

fn fresh() -> String {
    Uuid::new_v4().to_string()
}

fn scheduled(shard: i64, due: i64, id: u128) -> ScheduledRow {
    ScheduledRow {
        shard,
        minute: 0,
        due: Timestamp(due),
        id: Uuid::from_u128(id),
        topic: "events".into(),
        key: String::new(),
        payload: vec![0, 255],
    }
}

fn shard() -> i64 {
    Uuid::new_v4().as_u128() as i64
}

fn line(notification: Uuid, id: u128) -> StoryRow {
    StoryRow {
        notification,
        id: Uuid::from_u128(id),
        project: "shop".into(),
        member: "ada".into(),
        at: Timestamp(-1),
        kind: "receipt".into(),
        outcome: String::new(),
        delivery: Some(Uuid::nil()),
        channel: None,
        detail: "{}\u{0}ø🎺".into(),
        position: "receipts/0/1".into(),
    }
}

fn profile(project: &str, locale: Option<&str>) -> MemberRow {
    MemberRow {
        locale: locale.map(Into::into),
        updated_at: Some(Timestamp(i64::MAX)),
        applied: Some(i64::MIN),
        ..MemberRow::empty(project, "ada", PROFILE, "")
    }
}

fn aggregate(project: &str, source: &str, value: i64) -> AggregateRow {
    AggregateRow {
        project: project.into(),
        day: "2030-01-01".into(),
        template: "t".into(),
        channel: String::new(),
        metric: "sent".into(),
        source: source.into(),
        value,
        included: value,
    }
}

async fn rows<R: Row>(store: &ScyllaStore, read: Read) -> Vec<R> {
    let found = store.read(&[read]).await.unwrap().remove(0);
    found.into_iter().map(|cells| R::from_cells(cells).unwrap()).collect()
}

/// Looks again and again until it is so.
async fn until(so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < deadline, "waited in vain");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn delete(table: &'static Table, key: Key, fence: Option<u64>) -> Write {
    Write::Delete { table, key, fence }
}

fn refused(result: Result<impl std::fmt::Debug, StoreError>, words: &str) {
    let error = result.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains(words), "{words}: {error}");
}

#[test]
fn every_type_comes_back_as_it_was_put_and_a_put_replaces_the_whole_row() {
    on_store(|store| async move {
        let (story, project, shard) = (Uuid::new_v4(), fresh(), shard());
        let request = IdempotencyRow {
            project: project.clone(),
            key: "k".into(),
            request: String::new(),
            status: Some(i64::MIN),
            body: None,
        };
        let cursor = ScheduleCursorRow { shard, due: Timestamp(i64::MIN) };
        let writes = vec![
            line(story, 1).put(),
            request.clone().put(),
            cursor.clone().put(),
            scheduled(shard, -5, 1).put(),
            profile(&project, Some("de")).put_fenced(1),
        ];
        store.write(writes).await.unwrap();
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(story)).await, [line(story, 1)]);
        assert_eq!(rows::<IdempotencyRow>(&store, IdempotencyRow::read_one(project.as_str(), "k")).await, [request]);
        assert_eq!(rows::<ScheduleCursorRow>(&store, ScheduleCursorRow::read_all(shard)).await, [cursor]);
        assert_eq!(rows::<ScheduledRow>(&store, ScheduledRow::read_all(shard, 0)).await, [scheduled(shard, -5, 1)]);
        let read = || MemberRow::read_one(project.as_str(), "ada", PROFILE, "");
        assert_eq!(rows::<MemberRow>(&store, read()).await, [profile(&project, Some("de"))]);

        let other = StoryRow { delivery: None, channel: Some("sms".into()), ..line(story, 1) };
        store.write(vec![other.clone().put(), profile(&project, None).put_fenced(2)]).await.unwrap();
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(story)).await, [other]);
        assert_eq!(rows::<MemberRow>(&store, read()).await, [profile(&project, None)]);

        store.write(vec![delete(StoryRow::TABLE, StoryRow::key(story, Uuid::from_u128(1)), None)]).await.unwrap();
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(story)).await, []);
    });
}

#[test]
fn a_row_without_any_value_is_a_row() {
    on_store(|store| async move {
        let project = fresh();
        let bare = MemberRow { updated_at: None, applied: None, ..profile(&project, None) };
        let cells = Cells { fence: Some(7), ..bare.into_cells() };
        store.write(vec![Write::Put(cells.clone())]).await.unwrap();
        let found = store.read(&[MemberRow::read_all(project.as_str(), "ada")]).await.unwrap();
        assert_eq!(found, [[cells]], "the fence comes back, too");
    });
}

#[test]
fn every_span_and_limit_brings_its_rows_in_order() {
    on_store(|store| async move {
        let shard = shard();
        let keys = [(-2, 9), (-1, 1), (0, 1), (0, 2), (0, 3), (7, 0)];
        let mut writes: Vec<_> = keys.iter().map(|(due, id)| scheduled(shard, *due, *id).put()).collect();
        writes.reverse();
        store.write(writes).await.unwrap();
        let due = |due| Value::Timestamp(Timestamp(due));
        let id = |id| Value::Uuid(Uuid::from_u128(id));
        let cases = [
            (Span::All, None, &keys[..]),
            (Span::All, Some(2), &keys[..2]),
            (Span::All, Some(0), &[]),
            (Span::All, Some(usize::MAX), &keys[..]),
            (Span::One(vec![due(0), id(2)]), None, &keys[3..4]),
            (Span::One(vec![due(0), id(2)]), Some(0), &[]),
            (Span::One(vec![due(0), id(9)]), None, &[]),
            (Span::Prefix(vec![]), Some(1), &keys[..1]),
            (Span::Prefix(vec![due(0)]), None, &keys[2..5]),
            (Span::Prefix(vec![due(0)]), Some(2), &keys[2..4]),
            (Span::Prefix(vec![due(0), id(3)]), None, &keys[4..5]),
            (Span::Prefix(vec![due(1)]), None, &[]),
            (Span::Between(vec![due(-1)], vec![due(7)]), None, &keys[1..5]),
            (Span::Between(vec![due(i64::MIN)], vec![due(i64::MAX)]), None, &keys[..]),
            (Span::Between(vec![due(-1), id(2)], vec![due(0), id(3)]), None, &keys[2..4]),
            (Span::Between(vec![due(0), id(1)], vec![due(7), id(0)]), Some(2), &keys[2..4]),
            (Span::Between(vec![due(0)], vec![due(0)]), None, &[]),
            (Span::Between(vec![due(7)], vec![due(-2)]), None, &[]),
            (Span::Between(vec![], vec![]), None, &[]),
        ];
        for (span, limit, wanted) in cases {
            let partition = vec![Value::Int(shard), Value::Int(0)];
            let read = Read { table: "scheduled", partition, span: span.clone(), limit };
            let found: Vec<_> =
                rows::<ScheduledRow>(&store, read).await.iter().map(|r| (r.due.0, r.id.as_u128())).collect();
            assert_eq!(found, wanted, "{span:?} {limit:?}");
        }
    });
}

#[test]
fn what_does_not_fit_the_table_is_refused_before_anything_is_written() {
    on_store(|store| async move {
        let (project, story) = (fresh(), Uuid::new_v4());
        let good = line(story, 1).put();
        let no_fence = profile(&project, None).put();
        refused(store.write(vec![good.clone(), no_fence]).await, "members is fenced");
        refused(store.write(vec![good.clone(), line(story, 2).put_fenced(1)]).await, "stories is not fenced");
        let past = profile(&project, None).put_fenced(u64::MAX);
        refused(store.write(vec![good.clone(), past]).await, "fence");
        let mut typed = line(story, 1).into_cells();
        typed.columns[0] = Some(Value::Int(1));
        refused(store.write(vec![good.clone(), Write::Put(typed)]).await, "stories, column project");
        let long = line(story, 1).put_for(Duration::from_secs(21 * 365 * 24 * 3600));
        refused(store.write(vec![good, long]).await, "TTL");
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(story)).await, []);

        let partition = || vec![Value::Uuid(story)];
        let id = || Value::Uuid(story);
        for (partition, span, words) in [
            (vec![], Span::All, "partition key of 0 values"),
            (vec!["a".into()], Span::All, "column notification"),
            (partition(), Span::One(vec![]), "clustering key of 0 values"),
            (partition(), Span::Prefix(vec!["a".into()]), "column id"),
            (partition(), Span::Prefix(vec![id(), id()]), "1 clustering columns, not 2"),
            (partition(), Span::Between(vec![], vec![id()]), "upper bound of 1 values"),
        ] {
            refused(store.read(&[Read { table: "stories", partition, span, limit: None }]).await, words);
        }
        refused(store.insert_if_absent(profile(&project, None).into_cells()).await, "members");
        let unknown = store.read(&[Read { table: "nonsense", partition: vec![], span: Span::All, limit: None }]).await;
        assert!(matches!(unknown.unwrap_err(), StoreError::Schema(words) if words.contains("nonsense")));
    });
}

#[test]
fn a_row_with_ttl_ends_and_a_later_put_without_it_stays() {
    on_store(|store| async move {
        let story = Uuid::new_v4();
        let second = Duration::from_secs(1);
        let writes = vec![
            line(story, 1).put_for(2 * second),
            line(story, 2).put_for(Duration::from_millis(1)),
            line(story, 3).put_for(2 * second),
            line(story, 4).put_for(1000 * second),
        ];
        store.write(writes).await.unwrap();
        let after = Instant::now();
        store.write(vec![line(story, 3).put()]).await.unwrap();
        let stay = [line(story, 3), line(story, 4)];
        until(async || rows::<StoryRow>(&store, StoryRow::read_all(story)).await == stay).await;
        // The server counts whole seconds, and may have been at the end of one.
        assert!(after.elapsed() >= second, "ended after {:?}", after.elapsed());
    });
}

#[test]
fn the_greatest_fence_wins_however_late_it_arrives() {
    on_store(|store| async move {
        let project = fresh();
        let read = || AggregateRow::read_one(project.as_str(), "2030-01-01", "t", "", "sent", "a/0");
        let put = |value, fence| aggregate(&project, "a/0", value).put_fenced(fence);
        let key = || AggregateRow::key(project.as_str(), "2030-01-01", "t", "", "sent", "a/0");
        let delete = |fence| delete(AggregateRow::TABLE, key(), Some(fence));
        let value = async || rows::<AggregateRow>(&store, read()).await.first().map(|row| row.value);

        store.write(vec![put(10, 10)]).await.unwrap();
        store.write(vec![put(9, 9)]).await.unwrap();
        assert_eq!(value().await, Some(10), "a late put lost");
        store.write(vec![put(11, 11)]).await.unwrap();
        store.write(vec![put(11, 11)]).await.unwrap();
        assert_eq!(value().await, Some(11), "a repeated put is the same row");
        store.write(vec![delete(12)]).await.unwrap();
        store.write(vec![put(11, 11)]).await.unwrap();
        store.write(vec![put(12, 12)]).await.unwrap();
        assert_eq!(value().await, None, "what was put before the deletion stays away, and at equal fences it wins");
        store.write(vec![put(13, 13)]).await.unwrap();
        store.write(vec![delete(12)]).await.unwrap();
        assert_eq!(value().await, Some(13), "a late delete lost");
        refused(store.write(vec![put(1, u64::MAX)]).await, "fence");
        // What is absent in the winner stays absent, although a late loser has it; down to the smallest fences.
        for (fence, locale) in [(0, Some("de")), (1, None), (0, Some("fr")), (9, None), (8, Some("it"))] {
            store.write(vec![profile(&project, locale).put_fenced(fence)]).await.unwrap();
        }
        let found = rows::<MemberRow>(&store, MemberRow::read_all(project.as_str(), "ada")).await;
        assert_eq!(found, [profile(&project, None)]);
    });
}

#[test]
fn of_two_writes_of_a_row_in_one_call_the_later_wins_or_the_one_of_greater_fence() {
    on_store(|store| async move {
        let (story, project) = (Uuid::new_v4(), fresh());
        let gone = |id| delete(StoryRow::TABLE, StoryRow::key(story, Uuid::from_u128(id)), None);
        let earlier = |id| StoryRow { detail: "zzz".into(), ..line(story, id) }.put();
        let writes =
            vec![earlier(1), line(story, 1).put(), gone(2), line(story, 2).put(), line(story, 3).put(), gone(3)];
        store.write(writes).await.unwrap();
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(story)).await, [line(story, 1), line(story, 2)]);

        let put = |source, value, fence| aggregate(&project, source, value).put_fenced(fence);
        store.write(vec![put("a", 2, 2), put("a", 1, 1), put("b", 9, 1), put("b", 3, 1)]).await.unwrap();
        let found = rows::<AggregateRow>(&store, AggregateRow::read_all(project.as_str(), "2030-01-01")).await;
        assert_eq!(found.iter().map(|row| row.value).collect::<Vec<_>>(), [2, 3]);
    });
}

#[test]
fn of_32_racers_exactly_one_inserts_and_the_others_see_its_row() {
    on_store(|store| async move {
        let project = fresh();
        let mut racers = JoinSet::new();
        for racer in 0..32_i64 {
            let (store, project) = (Arc::clone(&store), project.clone());
            racers.spawn(async move {
                let row =
                    IdempotencyRow { project, key: "k".into(), request: "r".into(), status: Some(racer), body: None };
                loop {
                    // Under this much contention the server may give up; whether the row is ours, only asking again tells.
                    match store.insert_if_absent(row.clone().into_cells()).await {
                        Ok(found) => return (racer, found.map(|cells| IdempotencyRow::from_cells(cells).unwrap())),
                        Err(error) => assert!(error.is_transient(), "{error}"),
                    }
                }
            });
        }
        let outcomes = racers.join_all().await;
        let stored = rows::<IdempotencyRow>(&store, IdempotencyRow::read_one(project.as_str(), "k")).await.remove(0);
        let winner = stored.status.unwrap();
        for (racer, found) in outcomes {
            match found {
                // An attempt that timed out may have won all the same.
                None => assert_eq!(racer, winner, "two winners"),
                Some(found) => assert_eq!(found, stored),
            }
        }
    });
}

#[test]
fn an_inserted_row_may_end_and_be_inserted_again() {
    on_store(|store| async move {
        let project = fresh();
        let row = |body: Option<&str>| IdempotencyRow {
            project: project.clone(),
            key: "k".into(),
            request: "r".into(),
            status: None,
            body: body.map(Into::into),
        };
        let cells = Cells { ttl: Some(Duration::from_secs(1)), ..row(Some("old")).into_cells() };
        assert_eq!(store.insert_if_absent(cells).await.unwrap(), None);
        until(async || {
            let found = store.insert_if_absent(row(None).into_cells()).await.unwrap();
            found.map(|found| assert_eq!(IdempotencyRow::from_cells(found).unwrap(), row(Some("old")))).is_none()
        })
        .await;
        // What was absent is bound as unset: nothing of the old row may be left.
        let read = IdempotencyRow::read_one(project.as_str(), "k");
        assert_eq!(rows::<IdempotencyRow>(&store, read).await, [row(None)]);
    });
}

#[test]
fn a_partitions_writes_are_seen_together_or_not_at_all() {
    on_store(|store| async move {
        let story = Uuid::new_v4();
        let ids = 0..50_u128;
        let generation =
            |n: i64| ids.clone().map(move |id| StoryRow { at: Timestamp(n), ..line(story, id) }.put()).collect();
        store.write(generation(0)).await.unwrap();
        let writer = {
            let (store, generations) = (Arc::clone(&store), (1..100).map(generation).collect::<Vec<Vec<_>>>());
            tokio::spawn(async move {
                for writes in generations {
                    store.write(writes).await.unwrap();
                }
            })
        };
        let mut seen = BTreeSet::new();
        while !writer.is_finished() {
            let found = rows::<StoryRow>(&store, StoryRow::read_all(story)).await;
            let generations: BTreeSet<_> = found.iter().map(|row| row.at.0).collect();
            assert_eq!((found.len(), generations.len()), (50, 1), "half a mutation: {generations:?}");
            seen.extend(generations);
        }
        writer.await.unwrap();
        assert!(seen.len() > 1, "nothing was written meanwhile");
    });
}

#[test]
fn a_thousand_reads_are_answered_in_their_order() {
    on_store(|store| async move {
        let project = fresh();
        let import = |n: u128| ImportRow {
            project: project.clone(),
            import: Uuid::from_u128(n),
            started_at: Timestamp(0),
            finished_at: None,
            read: n as i64,
            accepted: 0,
            rejected: 0,
        };
        store.write((0..1000).filter(|n| n % 7 != 0).map(|n| import(n).put()).collect()).await.unwrap();
        let order: Vec<u128> = (0..1000).map(|n| n * 387 % 1000).collect();
        let reads: Vec<_> = order.iter().map(|n| ImportRow::read_one(project.as_str(), Uuid::from_u128(*n))).collect();
        for (n, found) in order.into_iter().zip(store.read(&reads).await.unwrap()) {
            let found: Vec<_> = found.into_iter().map(|cells| ImportRow::from_cells(cells).unwrap()).collect();
            assert_eq!(found, Vec::from_iter((n % 7 != 0).then(|| import(n))));
        }
    });
}

/// Scans a range page by page, each with a store that knows nothing but the checkpoint's text.
async fn scan_all(store: &ScyllaStore, table: &'static Table, range: TokenRange, limit: usize) -> Vec<Cells> {
    let (mut found, mut after, mut pages) = (Vec::new(), None::<String>, 0);
    loop {
        let page = store.scan(table, range, after.map(Checkpoint), limit).await.unwrap();
        assert!(page.rows.len() <= limit, "{} rows in a page", page.rows.len());
        assert!(!page.rows.is_empty() || page.next.is_none(), "an empty page that is not the last");
        found.extend(page.rows);
        pages += 1;
        assert!(pages <= found.len() + 1);
        match page.next {
            Some(next) => after = Some(next.0),
            None => return found,
        }
    }
}

#[test]
fn a_resumed_scan_sees_every_row_once_although_partitions_are_larger_than_pages() {
    on_nothing(|keyspace| async move {
        let store = &keyspace.connect().await;
        store.migrate().await.unwrap();
        let day = |partition: i64, n: i64| AggregateRow {
            day: format!("d{partition}"),
            source: format!("s{n:05}"),
            ..aggregate("scan", "", n)
        };
        let sizes = (0..1500_i64).map(|partition| match partition {
            0..3 => 1000,
            3..10 => 50,
            _ => 1,
        });
        let wanted: Vec<_> = sizes.enumerate().flat_map(|(p, size)| (0..size).map(move |n| day(p as i64, n))).collect();
        assert!(wanted.len() >= 4800);
        store.write(wanted.iter().cloned().map(|row| row.put_fenced(1)).collect()).await.unwrap();
        let ranges = store.ranges(8);
        for limit in [97, 1000, 100_000] {
            let mut seen = BTreeMap::new();
            let mut scans = JoinSet::new();
            for range in ranges.clone() {
                let store = Arc::clone(store);
                scans.spawn(async move { scan_all(&store, AggregateRow::TABLE, range, limit).await });
            }
            for found in scans.join_all().await {
                assert!(!found.is_empty(), "no row in an eighth of the tokens");
                let mut partitions = HashSet::new();
                for run in found.chunk_by(|a, b| a.key.partition == b.key.partition) {
                    assert!(partitions.insert(&run[0].key.partition), "a partition in two pieces");
                    assert!(run.is_sorted_by_key(|cells| &cells.key.clustering));
                }
                for cells in found {
                    let key = cells.key.clone();
                    assert!(seen.insert(key, AggregateRow::from_cells(cells).unwrap()).is_none(), "a row twice");
                }
            }
            let found: HashSet<_> = seen.into_values().map(|row| (row.day, row.source, row.value)).collect();
            let wanted: HashSet<_> = wanted.iter().cloned().map(|row| (row.day, row.source, row.value)).collect();
            assert!(found == wanted, "{} rows of {}", found.len(), wanted.len());
        }
        let other = store.scan(StoryRow::TABLE, ranges[0], Some(Checkpoint("42".into())), 1).await;
        refused(other, "checkpoint");
        let first = store.scan(AggregateRow::TABLE, ranges[0], None, 1).await.unwrap();
        refused(store.scan(AggregateRow::TABLE, ranges[1], first.next, 1).await, "another range");
    });
}

/// 16-byte keys of equal Murmur3 token, found by computing the hash backwards from `token`.
fn colliding(token: i64, n: u64) -> Uuid {
    /// Inverse of an odd number modulo 2^64, by Newton's iteration.
    fn inverse(odd: u64) -> u64 {
        (0..6).fold(odd, |x, _| x.wrapping_mul(2_u64.wrapping_sub(odd.wrapping_mul(x))))
    }
    fn unmix(mut x: u64) -> u64 {
        x ^= x >> 33;
        x = x.wrapping_mul(inverse(0xc4ce_b9fe_1a85_ec53));
        x ^= x >> 33;
        x = x.wrapping_mul(inverse(0xff51_afd7_ed55_8ccd));
        x ^ (x >> 33)
    }
    let (c1, c2) = (0x87c3_7b91_1142_53d5_u64, 0x4cf5_ad43_2745_937f_u64);
    let (a, b) = (unmix((token as u64).wrapping_sub(n)), unmix(n));
    let (h2, h1) = (b.wrapping_sub(a), a.wrapping_sub(b.wrapping_sub(a)));
    let (h1, h2) = (h1 ^ 16, h2 ^ 16);
    let five = inverse(5);
    let k2 = h2.wrapping_sub(0x3849_5ab5).wrapping_mul(five).wrapping_sub(h1).rotate_right(31);
    let k1 = h1.wrapping_sub(0x52dc_e729).wrapping_mul(five).rotate_right(27);
    let k2 = k2.wrapping_mul(inverse(c1)).rotate_right(33).wrapping_mul(inverse(c2));
    let k1 = k1.wrapping_mul(inverse(c2)).rotate_right(31).wrapping_mul(inverse(c1));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&k1.to_le_bytes());
    bytes[8..].copy_from_slice(&k2.to_le_bytes());
    Uuid::from_bytes(bytes)
}

#[test]
fn partitions_of_equal_token_are_each_scanned_once() {
    on_store(|store| async move {
        let token = shard();
        let stories: Vec<_> = (1..=5).map(|n| colliding(token, n)).collect();
        let wanted: HashSet<_> =
            stories.iter().flat_map(|story| (0..4).map(|id| (*story, Uuid::from_u128(id)))).collect();
        let writes = wanted.iter().map(|(story, id)| line(*story, id.as_u128()).put()).collect();
        store.write(writes).await.unwrap();
        // Exactly this token: the hash was computed right, and all five have it.
        let range = TokenRange { start: token, end: token };
        for limit in 1..=21 {
            let found = scan_all(&store, StoryRow::TABLE, range, limit).await;
            let found: Vec<_> = found.into_iter().map(|cells| StoryRow::from_cells(cells).unwrap()).collect();
            assert_eq!(found.len(), wanted.len(), "limit {limit}");
            assert_eq!(found.iter().map(|row| (row.notification, row.id)).collect::<HashSet<_>>(), wanted);
        }
    });
}

#[test]
fn the_tables_that_migrations_make_are_those_of_the_schemas() {
    let shared = shared();
    RUNTIME.block_on(async {
        let text = format!(
            "SELECT table_name, column_name, type, kind, position FROM system_schema.columns WHERE keyspace_name = '{}'",
            shared.keyspace.name
        );
        let found = session().await.query_unpaged(text, ()).await.unwrap().into_rows_result().unwrap();
        let mut made = BTreeMap::<String, BTreeSet<_>>::new();
        for row in found.rows::<(String, String, String, String, i32)>().unwrap() {
            let (table, column, kind, part, at) = row.unwrap();
            made.entry(table).or_default().insert((column, kind, part, at));
        }
        assert!(made.remove("schema_migrations").is_some());
        let cql = |kind: &_| format!("{kind:?}").to_lowercase().replace("int", "bigint").replace("bytes", "blob");
        let named = |table: &'static Table| {
            let part = |part: &'static str, columns: &'static [(&str, _)], ordered: bool| {
                columns.iter().enumerate().map(move |(at, (name, kind))| {
                    ((*name).to_owned(), cql(kind), part.to_owned(), if ordered { at as i32 } else { -1 })
                })
            };
            let key = part("partition_key", table.partition, true).chain(part("clustering", table.clustering, true));
            let fence = part("regular", &[("fence", Type::Int)], false).filter(|_| table.fenced);
            (table.name.to_owned(), key.chain(part("regular", table.columns, false)).chain(fence).collect())
        };
        assert_eq!(made, all().into_iter().map(named).collect());
    });
}

#[test]
fn migrations_run_once_and_a_keyspace_without_them_is_not_ready() {
    on_nothing(|keyspace| async move {
        let store = &keyspace.connect().await;
        let missing = |error: StoreError| assert!(matches!(error, StoreError::Schema(_)), "{error}");
        missing(store.ping().await.unwrap_err());
        missing(store.read(&[StoryRow::read_all(Uuid::nil())]).await.unwrap_err());
        assert_eq!(store.migrate().await.unwrap(), MIGRATIONS);
        store.ping().await.unwrap();
        store.write(vec![line(Uuid::nil(), 1).put()]).await.unwrap();
        assert_eq!(store.migrate().await.unwrap(), [""; 0]);
        assert_eq!(rows::<StoryRow>(store, StoryRow::read_all(Uuid::nil())).await.len(), 1);

        let name = &keyspace.name;
        // Whoever migrated ended before it was recorded: what was done is found done.
        let forgotten = format!("TRUNCATE {name}.schema_migrations");
        session().await.query_unpaged(forgotten, ()).await.unwrap();
        assert_eq!(store.migrate().await.unwrap(), MIGRATIONS);
        assert_eq!(rows::<StoryRow>(store, StoryRow::read_all(Uuid::nil())).await.len(), 1);

        let edit = format!("UPDATE {name}.schema_migrations SET checksum = 'other' WHERE name = '0001_tables.cql'");
        session().await.query_unpaged(edit, ()).await.unwrap();
        refused(store.migrate().await, "0001_tables.cql");
        refused(store.ping().await, "0001_tables.cql");
    });
}

#[test]
fn four_may_migrate_at_once_and_one_does() {
    on_nothing(|keyspace| async move {
        let mut migrating = JoinSet::new();
        for _ in 0..4 {
            let store = keyspace.connect().await;
            migrating.spawn(async move {
                let names = store.migrate().await.unwrap();
                store.ping().await.unwrap();
                names
            });
        }
        let mut names: Vec<_> = migrating.join_all().await.into_iter().flatten().collect();
        names.sort();
        assert_eq!(names, MIGRATIONS);
    });
}

#[test]
fn a_server_that_is_not_there_is_unavailable_and_debug_shows_no_credentials() {
    RUNTIME.block_on(async {
        let config = ScyllaConfig::new(vec!["127.0.0.1:1".into()], "bw_test");
        let error = ScyllaStore::connect(config).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    });
    on_store(|store| async move {
        let shown = format!("{store:?}");
        assert!(shown.contains("bw_test_") && !shown.contains("password"), "{shown}");
    });
}

#[test]
fn tls_and_password_let_in_and_what_is_wrong_with_them_is_said_soon() {
    RUNTIME.block_on(async {
        let server = Server::new("cql").await;
        let right = keyspace::secured(&server);
        let store = keyspace::connect_young(&right).await;
        store.migrate().await.unwrap();
        store.write(vec![line(Uuid::nil(), 1).put()]).await.unwrap();
        assert_eq!(rows::<StoryRow>(&store, StoryRow::read_all(Uuid::nil())).await, [line(Uuid::nil(), 1)]);

        let (nobody, wrong) = (Some("nobody".into()), Some(server.secret("wrong")));
        let stranger = ScyllaTls { ca: Some(server.stranger()), ..right.tls.clone().unwrap() };
        for (config, transient, words) in [
            (ScyllaConfig { password: wrong, ..right.clone() }, false, "password"),
            (ScyllaConfig { username: nobody, ..right.clone() }, false, "password"),
            (ScyllaConfig { username: None, password: None, ..right.clone() }, false, "password"),
            (ScyllaConfig { tls: Some(stranger), ..right.clone() }, false, "tls"),
            // This looks the same as a node that goes away, which may come back.
            (ScyllaConfig { tls: None, ..right.clone() }, true, "tls"),
        ] {
            let begin = Instant::now();
            let error = ScyllaStore::connect(config).await.unwrap_err();
            assert!(begin.elapsed() < Duration::from_secs(15), "after {:?}", begin.elapsed());
            assert!(error.is_transient() == transient && error.to_string().contains(words), "{words}: {error}");
        }
    });
}
