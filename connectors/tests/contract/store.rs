//! What every store must do, one function a case. Cases know the trait only, never an implementation.
//! They use the product's own tables, so that their definitions are tried as well.

use crate::load::{Load, Say};
use async_trait::async_trait;
use bellwether_connectors::store::{Checkpoint, Store, StoreError, TokenRange};
use bellwether_schemas::{
    Timestamp,
    rows::{Cells, Read, Row, Span, Value, Write},
    tables::{
        AggregateRow, CLAIM, DeadLetterRow, IdempotencyRow, ImportRejectRow, ImportRow, MemberRow, PROFILE,
        ScheduleCursorRow, ScheduledRow, StoryRow, all,
    },
};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A store of its own, without tables at first.
#[async_trait]
pub(crate) trait Harness: Send + Sync {
    /// A handle of the store, as another process would have it.
    async fn store(&self) -> Arc<dyn Store>;

    /// Lets a moment pass for the store between two looks at it: really, unless its clock can be set.
    async fn pass(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }
}

/// Makes a module's tests of every case: `store_contract!(flavor, harness)`.
macro_rules! store_contract {
    ($flavor:literal, $harness:expr) => {
        store_contract! { @cases $flavor, $harness,
            a_row_is_put_read_replaced_and_deleted
            every_table_takes_rows_without_optional_values
            strange_values_come_back
            spans_follow_the_clustering_key
            spans_compare_numbers_and_times_by_value
            many_reads_are_answered_in_order
            a_ttl_ends_a_row
            a_put_without_ttl_makes_a_row_stay
            a_late_put_loses_to_a_greater_fence
            a_late_put_does_not_undo_a_delete
            a_fence_is_required_where_it_belongs
            the_later_of_two_writes_to_a_row_wins
            one_of_many_inserts_wins
            an_insert_returns_what_is_there
            writes_of_a_partition_are_seen_together
            writes_from_many_tasks_all_stand
            a_scan_in_parts_sees_each_row_once
            a_scan_passes_over_what_is_gone
            a_foreign_checkpoint_is_refused
            tables_are_created_once
        }
    };
    (@cases $flavor:literal, $harness:expr, $($case:ident)*) => {$(
        #[tokio::test(flavor = $flavor)]
        async fn $case() {
            crate::contract::$case(&$harness).await;
        }
    )*};
}

const PATIENCE: Duration = Duration::from_secs(60);

async fn ready(make: &dyn Harness) -> Arc<dyn Store> {
    let store = make.store().await;
    store.migrate().await.unwrap();
    store
}

async fn rows<R: Row>(store: &Arc<dyn Store>, read: Read) -> Vec<R> {
    let mut answers = store.read(&[read]).await.unwrap();
    assert_eq!(answers.len(), 1);
    answers.remove(0).into_iter().map(|cells| R::from_cells(cells).unwrap()).collect()
}

fn id(number: u128) -> Uuid {
    // Version 8 throughout: CQL sorts by version first.
    uuid::Builder::from_custom_bytes(number.to_be_bytes()).into_uuid()
}

fn member(member: &str, kind: &str, id: &str) -> MemberRow {
    MemberRow::empty("shop", member, kind, id)
}

fn key(name: &str, status: Option<i64>) -> IdempotencyRow {
    IdempotencyRow { project: "shop".into(), key: name.into(), request: "hash".into(), status, body: None }
}

fn reject(import: Uuid, line: i64, raw: &str) -> ImportRejectRow {
    ImportRejectRow {
        project: "shop".into(),
        import,
        line,
        field: "email".into(),
        detail: "no @".into(),
        raw: raw.into(),
    }
}

fn scheduled(shard: i64, due: i64, number: u128) -> ScheduledRow {
    ScheduledRow {
        shard,
        minute: due.div_euclid(60_000),
        due: Timestamp(due),
        id: id(number),
        topic: "events".into(),
        key: "k".into(),
        payload: vec![0, 255],
    }
}

fn aggregate(template: &str, channel: &str, metric: &str, source: &str) -> AggregateRow {
    AggregateRow {
        project: "shop".into(),
        day: "2026-01-31".into(),
        template: template.into(),
        channel: channel.into(),
        metric: metric.into(),
        source: source.into(),
        value: 1,
        included: 2,
    }
}

fn delete<R: Row>(key: bellwether_schemas::rows::Key, fence: Option<u64>) -> Write {
    Write::Delete { table: R::TABLE, key, fence }
}

pub(crate) async fn a_row_is_put_read_replaced_and_deleted(make: &dyn Harness) {
    let store = ready(make).await;
    let import = id(7);
    let read = || ImportRejectRow::read_one("shop", import, 1);
    assert_eq!(rows::<ImportRejectRow>(&store, read()).await, []);
    for raw in ["first", "second"] {
        store.write(vec![reject(import, 1, raw).put()]).await.unwrap();
        assert_eq!(rows::<ImportRejectRow>(&make.store().await, read()).await, [reject(import, 1, raw)]);
    }
    store.write(vec![reject(import, 2, "other").put()]).await.unwrap();
    let gone = delete::<ImportRejectRow>(ImportRejectRow::key("shop", import, 1), None);
    store.write(vec![gone.clone()]).await.unwrap();
    assert_eq!(rows::<ImportRejectRow>(&store, read()).await, []);
    store.write(vec![gone]).await.unwrap();
    assert_eq!(
        rows::<ImportRejectRow>(&store, ImportRejectRow::read_all("shop", import)).await,
        [reject(import, 2, "other")]
    );
    store.write(Vec::new()).await.unwrap();
    store.ping().await.unwrap();
}

pub(crate) async fn every_table_takes_rows_without_optional_values(make: &dyn Harness) {
    let store = ready(make).await;
    let bare = |table: &'static bellwether_schemas::rows::Table| {
        let some = |kind| match kind {
            bellwether_schemas::rows::Type::Text => Value::from("x"),
            bellwether_schemas::rows::Type::Int => 1.into(),
            bellwether_schemas::rows::Type::Timestamp => Timestamp(1).into(),
            bellwether_schemas::rows::Type::Uuid => id(1).into(),
            bellwether_schemas::rows::Type::Bytes => vec![1].into(),
            bellwether_schemas::rows::Type::Bool => true.into(),
        };
        let values = |columns: &[(&str, _)]| columns.iter().map(|(_, kind)| some(*kind)).collect();
        let key =
            bellwether_schemas::rows::Key { partition: values(table.partition), clustering: values(table.clustering) };
        Cells { table, key, columns: vec![None; table.columns.len()], ttl: None, fence: table.fenced.then_some(1) }
    };
    store.write(all().into_iter().map(|table| Write::Put(bare(table))).collect()).await.unwrap();
    for table in all() {
        let row = bare(table);
        let span = Span::One(row.key.clustering.clone());
        let read = Read { table: table.name, partition: row.key.partition.clone(), span, limit: None };
        let found = store.read(&[read]).await.unwrap().remove(0);
        assert_eq!(found.len(), 1, "{}", table.name);
        assert_eq!((&found[0].table.name, &found[0].key, &found[0].columns), (&table.name, &row.key, &row.columns));
    }
}

pub(crate) async fn strange_values_come_back(make: &dyn Harness) {
    let store = ready(make).await;
    let strange = ["", "\0", "a\0", "a\0b", "\u{10ffff}", "ß, 'quoted' \"twice\"; --", "\n"];
    let members: Vec<_> =
        strange.iter().map(|text| MemberRow { locale: Some((*text).into()), ..member("m", CLAIM, text) }).collect();
    store.write(members.iter().map(|m| m.clone().put_fenced(1)).collect()).await.unwrap();
    for expected in &members {
        let read = MemberRow::read_one("shop", "m", CLAIM, expected.id.as_str());
        assert_eq!(rows::<MemberRow>(&store, read).await, std::slice::from_ref(expected));
    }
    let letter = |project: &str, at: i64, record: Vec<u8>| DeadLetterRow {
        project: project.into(),
        day: "2026-01-31".into(),
        id: id(0),
        at: Timestamp(at),
        reason: "invalid".into(),
        detail: String::new(),
        record,
        replayed_at: Some(Timestamp(-1)),
    };
    let large = (0..100_000_u32).map(|n| n.to_le_bytes()[0]).collect::<Vec<u8>>();
    for expected in
        [letter("", 0, Vec::new()), letter("p", i64::from(i32::MAX) * 1_000, large), letter("q", -1, vec![0, 0])]
    {
        store.write(vec![expected.clone().put()]).await.unwrap();
        assert_eq!(
            rows::<DeadLetterRow>(&store, DeadLetterRow::read_all(expected.project.as_str(), "2026-01-31")).await,
            [expected]
        );
    }
    let import = ImportRow {
        project: "shop".into(),
        import: Uuid::max(),
        started_at: Timestamp(0),
        finished_at: None,
        read: i64::MAX,
        accepted: i64::MIN,
        rejected: -1,
    };
    store.write(vec![import.clone().put()]).await.unwrap();
    assert_eq!(rows::<ImportRow>(&store, ImportRow::read_all("shop", Uuid::max())).await, [import]);
}

pub(crate) async fn spans_follow_the_clustering_key(make: &dyn Harness) {
    let store = ready(make).await;
    let mut expected = Vec::new();
    for template in ["a", "a\0", "ab", "b", "é"] {
        for channel in ["", "email", "sms"] {
            for source in ["events/0", "events/1"] {
                expected.push(aggregate(template, channel, "sent", source));
            }
        }
    }
    let shuffled = expected.iter().rev().map(|row| row.clone().put_fenced(1));
    let neighbour = AggregateRow { day: "2026-02-01".into(), ..aggregate("a", "email", "sent", "events/0") };
    store.write(shuffled.chain([neighbour.put_fenced(1)]).collect()).await.unwrap();

    let check = async |span: Span, limit: Option<usize>, keep: &dyn Fn(&AggregateRow) -> bool| {
        let read = Read { span: span.clone(), limit, ..AggregateRow::read_all("shop", "2026-01-31") };
        let wanted: Vec<_> = expected.iter().filter(|r| keep(r)).take(limit.unwrap_or(usize::MAX)).cloned().collect();
        assert_eq!(rows::<AggregateRow>(&store, read).await, wanted, "{span:?} {limit:?}");
    };
    let text = |values: &[&str]| values.iter().map(|v| Value::from(*v)).collect::<Vec<_>>();
    check(Span::All, None, &|_| true).await;
    check(Span::All, Some(5), &|_| true).await;
    check(Span::All, Some(0), &|_| false).await;
    check(Span::One(text(&["a", "sms", "sent", "events/1"])), None, &|r| {
        (&*r.template, &*r.channel, &*r.source) == ("a", "sms", "events/1")
    })
    .await;
    check(Span::One(text(&["a", "sms", "sent", "events/2"])), None, &|_| false).await;
    check(Span::Prefix(text(&["a"])), None, &|r| r.template == "a").await;
    check(Span::Prefix(text(&["a", ""])), Some(1), &|r| r.template == "a" && r.channel.is_empty()).await;
    check(Span::Prefix(text(&["c"])), None, &|_| false).await;
    check(Span::Between(text(&["a"]), text(&["b"])), None, &|r| &*r.template < "b").await;
    check(Span::Between(text(&["a\0"]), text(&["c"])), Some(7), &|r| &*r.template > "a" && &*r.template < "c").await;
    check(Span::Between(text(&["b", "email"]), text(&["b", "sms"])), None, &|r| {
        r.template == "b" && r.channel == "email"
    })
    .await;
    check(Span::Between(text(&["b", "sms"]), text(&["é", "email"])), None, &|r| {
        (&*r.template, &*r.channel) >= ("b", "sms") && (&*r.template, &*r.channel) < ("é", "email")
    })
    .await;
    check(Span::Between(text(&["b"]), text(&["b"])), None, &|_| false).await;
    check(Span::Between(text(&["c"]), text(&["b"])), None, &|_| false).await;
}

pub(crate) async fn spans_compare_numbers_and_times_by_value(make: &dyn Harness) {
    let store = ready(make).await;
    let import = id(1);
    let lines = [i64::MIN, -256, -1, 0, 1, 255, 256, i64::MAX];
    store.write(lines.iter().rev().map(|line| reject(import, *line, "x").put()).collect()).await.unwrap();
    let numbers = async |span| {
        let read = Read { span, ..ImportRejectRow::read_all("shop", import) };
        rows::<ImportRejectRow>(&store, read).await.iter().map(|r| r.line).collect::<Vec<_>>()
    };
    assert_eq!(numbers(Span::All).await, lines);
    assert_eq!(numbers(Span::Between(vec![(-256).into()], vec![255.into()])).await, [-256, -1, 0, 1]);

    let rows_due = [scheduled(3, 1, 9), scheduled(3, 2, 1), scheduled(3, 2, 2), scheduled(3, 300, 0)];
    store.write(rows_due.iter().rev().map(|row| row.clone().put()).collect()).await.unwrap();
    let due = async |from, to| {
        let span = Span::Between(vec![Timestamp(from).into()], vec![Timestamp(to).into()]);
        rows::<ScheduledRow>(&store, Read { span, ..ScheduledRow::read_all(3, 0) }).await
    };
    assert_eq!(due(0, 1_000).await, rows_due);
    assert_eq!(due(2, 300).await, rows_due[1..3]);
    assert_eq!(due(-5, 1).await, []);
}

pub(crate) async fn many_reads_are_answered_in_order(make: &dyn Harness) {
    let store = ready(make).await;
    let cursor = |shard| ScheduleCursorRow { shard, due: Timestamp(shard) };
    store.write((0..300).map(|shard| cursor(shard * 2).put()).collect()).await.unwrap();
    // Odd ones are missing; the order is not that of any key.
    let shards: Vec<i64> = (0..600).map(|n| (n * 263) % 600).collect();
    let reads: Vec<_> = shards.iter().map(|shard| ScheduleCursorRow::read_all(*shard)).collect();
    let answers = store.read(&reads).await.unwrap();
    assert_eq!(answers.len(), reads.len());
    for (shard, answer) in shards.into_iter().zip(answers) {
        let found: Vec<_> = answer.into_iter().map(|c| ScheduleCursorRow::from_cells(c).unwrap()).collect();
        assert_eq!(found, if shard % 2 == 0 { vec![cursor(shard)] } else { vec![] });
    }
    assert_eq!(store.read(&[]).await.unwrap(), Vec::<Vec<Cells>>::new());
}

async fn until_gone(make: &dyn Harness, store: &Arc<dyn Store>, name: &str) {
    let start = Instant::now();
    while !rows::<IdempotencyRow>(store, IdempotencyRow::read_one("shop", name)).await.is_empty() {
        assert!(start.elapsed() < PATIENCE, "{name} stays");
        make.pass(Duration::from_millis(200)).await;
    }
}

pub(crate) async fn a_ttl_ends_a_row(make: &dyn Harness) {
    let store = ready(make).await;
    let ttl = Duration::from_secs(2);
    let before = Instant::now();
    store
        .write(vec![
            key("short", Some(1)).put_for(ttl),
            key("long", None).put_for(ttl * 1_000),
            key("ever", None).put(),
        ])
        .await
        .unwrap();
    let there = rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", "short")).await;
    // A machine that was busy for so long proves nothing.
    assert!(there == [key("short", Some(1))] || before.elapsed() > ttl / 2);
    until_gone(make, &store, "short").await;
    assert_eq!(
        rows::<IdempotencyRow>(&store, IdempotencyRow::read_all("shop", "short")).await,
        Vec::<IdempotencyRow>::new()
    );
    for name in ["long", "ever"] {
        assert_eq!(rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", name)).await, [key(name, None)]);
    }
    assert_eq!(store.insert_if_absent(key("short", Some(2)).into_cells()).await.unwrap(), None);
    assert_eq!(
        rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", "short")).await,
        [key("short", Some(2))]
    );
}

pub(crate) async fn a_put_without_ttl_makes_a_row_stay(make: &dyn Harness) {
    let store = ready(make).await;
    let ttl = Duration::from_secs(1);
    store.write(vec![key("a", Some(1)).put_for(ttl)]).await.unwrap();
    store.write(vec![key("a", Some(2)).put()]).await.unwrap();
    store.write(vec![key("b", Some(1)).put_for(ttl)]).await.unwrap();
    until_gone(make, &store, "b").await;
    assert_eq!(rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", "a")).await, [key("a", Some(2))]);
}

pub(crate) async fn a_late_put_loses_to_a_greater_fence(make: &dyn Harness) {
    let store = ready(make).await;
    let value = |value| AggregateRow { value, ..aggregate("t", "sms", "sent", "receipts/0") };
    let read = || AggregateRow::read_all("shop", "2026-01-31");
    for (fence, put, stands) in [(5, 50, 50), (3, 30, 50), (5, 50, 50), (9, 90, 90), (8, 80, 90), (10, 1, 1)] {
        store.write(vec![value(put).put_fenced(fence)]).await.unwrap();
        assert_eq!(rows::<AggregateRow>(&store, read()).await, [value(stands)], "after fence {fence}");
    }
    // A late write takes no column back, not even one that the greater left null.
    let profile = |locale: Option<&str>| MemberRow { locale: locale.map(Into::into), ..member("m", PROFILE, "") };
    store.write(vec![profile(None).put_fenced(7)]).await.unwrap();
    store.write(vec![profile(Some("de")).put_fenced(6)]).await.unwrap();
    assert_eq!(rows::<MemberRow>(&store, MemberRow::read_all("shop", "m")).await, [profile(None)]);
}

pub(crate) async fn a_late_put_does_not_undo_a_delete(make: &dyn Harness) {
    let store = ready(make).await;
    let row = member("m", PROFILE, "");
    let read = || MemberRow::read_one("shop", "m", PROFILE, "");
    let gone = |fence| delete::<MemberRow>(MemberRow::key("shop", "m", PROFILE, ""), Some(fence));
    store.write(vec![row.clone().put_fenced(5)]).await.unwrap();
    store.write(vec![gone(4)]).await.unwrap();
    assert_eq!(rows::<MemberRow>(&store, read()).await, std::slice::from_ref(&row), "the delete came late");
    store.write(vec![gone(7)]).await.unwrap();
    assert_eq!(rows::<MemberRow>(&store, read()).await, []);
    store.write(vec![row.clone().put_fenced(6)]).await.unwrap();
    assert_eq!(rows::<MemberRow>(&store, read()).await, [], "the put came late");
    assert_eq!(rows::<MemberRow>(&store, MemberRow::read_all("shop", "m")).await, []);
    store.write(vec![row.clone().put_fenced(8)]).await.unwrap();
    assert_eq!(rows::<MemberRow>(&store, read()).await, [row]);
}

pub(crate) async fn a_fence_is_required_where_it_belongs(make: &dyn Harness) {
    let store = ready(make).await;
    let wrong = [
        member("m", PROFILE, "").put(),
        delete::<MemberRow>(MemberRow::key("shop", "m", PROFILE, ""), None),
        key("k", None).put_fenced(1),
        delete::<IdempotencyRow>(IdempotencyRow::key("shop", "k"), Some(1)),
    ];
    for write in wrong {
        let refused = store.write(vec![write.clone()]).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{write:?}: {refused:?}");
    }
    let refused = store.insert_if_absent(member("m", PROFILE, "").into_cells()).await;
    assert!(matches!(refused, Err(StoreError::Refused(_))), "{refused:?}");
}

pub(crate) async fn the_later_of_two_writes_to_a_row_wins(make: &dyn Harness) {
    let store = ready(make).await;
    let gone = |name: &str| delete::<IdempotencyRow>(IdempotencyRow::key("shop", name), None);
    store
        .write(vec![
            key("a", Some(1)).put(),
            key("a", Some(2)).put(),
            key("b", Some(1)).put(),
            gone("b"),
            gone("c"),
            key("c", Some(3)).put(),
        ])
        .await
        .unwrap();
    for (name, expected) in [("a", vec![key("a", Some(2))]), ("b", vec![]), ("c", vec![key("c", Some(3))])] {
        assert_eq!(rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", name)).await, expected);
    }
}

pub(crate) async fn one_of_many_inserts_wins(make: &dyn Harness) {
    let store = ready(make).await;
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { (n, store.insert_if_absent(key("raced", Some(n)).into_cells()).await.unwrap()) })
        })
        .collect();
    let (mut winners, mut seen) = (Vec::new(), BTreeSet::new());
    for task in tasks {
        match task.await.unwrap() {
            (n, None) => winners.push(n),
            (_, Some(cells)) => drop(seen.insert(IdempotencyRow::from_cells(cells).unwrap().status)),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(seen, BTreeSet::from([Some(winners[0])]), "the others saw the winner");
    assert_eq!(
        rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", "raced")).await,
        [key("raced", Some(winners[0]))]
    );
}

pub(crate) async fn an_insert_returns_what_is_there(make: &dyn Harness) {
    let store = ready(make).await;
    let insert = async |status| {
        let found = store.insert_if_absent(key("k", status).into_cells()).await.unwrap();
        found.map(|cells| IdempotencyRow::from_cells(cells).unwrap())
    };
    assert_eq!(insert(None).await, None);
    assert_eq!(insert(Some(1)).await, Some(key("k", None)));
    store.write(vec![key("k", Some(2)).put()]).await.unwrap();
    assert_eq!(insert(Some(3)).await, Some(key("k", Some(2))));
    store.write(vec![delete::<IdempotencyRow>(IdempotencyRow::key("shop", "k"), None)]).await.unwrap();
    assert_eq!(insert(Some(4)).await, None);
    assert_eq!(rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", "k")).await, [key("k", Some(4))]);
}

pub(crate) async fn writes_of_a_partition_are_seen_together(make: &dyn Harness) {
    let store = ready(make).await;
    let import = id(5);
    let done = AtomicBool::new(false);
    let writes = async {
        for round in 0..100 {
            let raw = round.to_string();
            store.write((0..8).map(|line| reject(import, line, &raw).put()).collect()).await.unwrap();
        }
        done.store(true, Ordering::Release);
    };
    let reads = async {
        let mut last = 0;
        while !done.load(Ordering::Acquire) {
            let found = rows::<ImportRejectRow>(&store, ImportRejectRow::read_all("shop", import)).await;
            let rounds: BTreeSet<u32> = found.iter().map(|r| r.raw.parse().unwrap()).collect();
            assert!(
                found.is_empty() || (found.len() == 8 && rounds.len() == 1),
                "{} rows of rounds {rounds:?}",
                found.len()
            );
            assert!(rounds.first().is_none_or(|round| *round >= last), "time went back");
            last = rounds.first().copied().unwrap_or(0);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writes, reads);
}

pub(crate) async fn writes_from_many_tasks_all_stand(make: &dyn Harness) {
    let store = ready(make).await;
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for round in 0..10 {
                    let shard = |n: i64| task * 100 + round * 10 + n;
                    let writes = (0..10).map(|n| ScheduleCursorRow { shard: shard(n), due: Timestamp(0) }.put());
                    store.write(writes.collect()).await.unwrap();
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let reads: Vec<_> = (0..1_600).map(ScheduleCursorRow::read_all).collect();
    let answers = store.read(&reads).await.unwrap();
    assert_eq!(answers.iter().filter(|rows| rows.len() == 1).count(), 1_600);
}

fn story(notification: u128, line: u128) -> StoryRow {
    StoryRow {
        notification: id(notification),
        id: id(line),
        project: "shop".into(),
        member: "m".into(),
        at: Timestamp(1),
        kind: "receipt".into(),
        outcome: "sent".into(),
        delivery: None,
        channel: Some("sms".into()),
        detail: "{}".into(),
        position: "receipts/0/1".into(),
    }
}

/// Scans a range to its end, each page through another handle, as a process does that takes a range over.
async fn scan(make: &dyn Harness, range: TokenRange, limit: usize) -> Vec<StoryRow> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let store = make.store().await;
        let page = store.scan(StoryRow::TABLE, range, after, limit).await.unwrap();
        assert!(!page.rows.is_empty() || page.next.is_none(), "an empty page in the middle");
        found.extend(page.rows.into_iter().map(|cells| StoryRow::from_cells(cells).unwrap()));
        // What is kept of a scan is text.
        let Some(Checkpoint(text)) = page.next else { return found };
        assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text}");
        after = Some(Checkpoint(text));
    }
}

pub(crate) async fn a_scan_in_parts_sees_each_row_once(make: &dyn Harness) {
    let store = ready(make).await;
    let mut expected: Vec<_> = (0..300).flat_map(|n| (0..=n % 4).map(move |line| story(n, line))).collect();
    for chunk in expected.chunks(100) {
        store.write(chunk.iter().map(|row| row.clone().put()).collect()).await.unwrap();
    }
    for (parts, limit) in [(1, 10_000), (4, 37), (7, 1)] {
        let ranges = store.ranges(parts);
        assert_eq!(ranges.len(), parts as usize);
        let pages = join_all(ranges.into_iter().map(|range| scan(make, range, limit))).await;
        assert!(parts == 1 || pages.iter().filter(|rows| !rows.is_empty()).count() > 1);
        for rows in &pages {
            let lines = rows.chunk_by(|a, b| a.notification == b.notification);
            assert!(lines.clone().all(|rows| rows.is_sorted_by_key(|r| r.id)), "clustering order within a partition");
            assert_eq!(lines.count(), rows.iter().map(|r| r.notification).collect::<BTreeSet<_>>().len());
        }
        let mut found = pages.concat();
        let place = |row: &StoryRow| (row.notification, row.id);
        found.sort_by_key(place);
        expected.sort_by_key(place);
        assert_eq!(found, expected, "{parts} parts, pages of {limit}");
    }
}

pub(crate) async fn a_scan_passes_over_what_is_gone(make: &dyn Harness) {
    let store = ready(make).await;
    store.write((0..60).map(|n| story(n, 0).put()).collect()).await.unwrap();
    store
        .write((0..60).filter(|n| n % 3 > 0).map(|n| delete::<StoryRow>(StoryRow::key(id(n), id(0)), None)).collect())
        .await
        .unwrap();
    let found = scan(make, store.ranges(1)[0], 4).await;
    assert_eq!(found.iter().map(|r| r.notification).collect::<BTreeSet<_>>(), (0..60).step_by(3).map(id).collect());
    assert_eq!(found.len(), 20);
}

pub(crate) async fn a_foreign_checkpoint_is_refused(make: &dyn Harness) {
    let store = ready(make).await;
    for text in ["", "nonsense", "00", "embedded-1:zz"] {
        let refused = store.scan(StoryRow::TABLE, store.ranges(1)[0], Some(Checkpoint(text.into())), 10).await;
        assert!(matches!(refused, Err(StoreError::Refused(_))), "{text:?}: {refused:?}");
    }
}

pub(crate) async fn tables_are_created_once(make: &dyn Harness) {
    let store = make.store().await;
    for missing in [store.ping().await, store.write(vec![key("k", None).put()]).await] {
        let Err(StoreError::Schema(text)) = missing else { panic!("{missing:?}") };
        assert!(!text.is_empty());
    }
    assert!(!store.migrate().await.unwrap().is_empty());
    assert_eq!(make.store().await.migrate().await.unwrap(), Vec::<String>::new());
    store.ping().await.unwrap();
    store.write(vec![key("k", None).put()]).await.unwrap();
}

/// What a load does on a store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Done {
    /// A writer's rows of this number were written.
    Written { writer: u32, number: u32 },
    /// The row of this number was inserted where none was.
    Inserted { number: u32 },
}

/// Writers of a load; each has partitions of its own.
const WRITERS: u32 = 4;
/// Pause before a load does again what failed for a while, as the product would.
const PAUSE: Duration = Duration::from_millis(50);

/// Does something until it does not fail for a while, but passes.
async fn again<T, F: Future<Output = Result<T, StoreError>> + Send>(call: impl Fn() -> F) -> T {
    loop {
        match call().await {
            Ok(answer) => return answer,
            Err(error) => assert!(error.is_transient(), "{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Writes, reads and inserts for ever, and says what was acknowledged. Numbers rise from `first`.
pub(crate) async fn work(store: Arc<dyn Store>, first: usize, say: Say<Done>) {
    store.migrate().await.unwrap();
    let first = u32::try_from(first).unwrap();
    let writers = join_all((0..WRITERS).map(|writer| write_on(&store, writer, first, &say)));
    tokio::join!(writers, insert_on(&store, first, &say));
}

fn cursor_of(writer: u32, number: u32) -> ScheduleCursorRow {
    ScheduleCursorRow { shard: writer.into(), due: Timestamp(number.into()) }
}

fn sum_of(writer: u32, number: u32) -> AggregateRow {
    AggregateRow { value: number.into(), ..aggregate("t", "sms", "sent", &writer.to_string()) }
}

async fn write_on(store: &Arc<dyn Store>, writer: u32, first: u32, say: &Say<Done>) {
    for number in first.. {
        let line = story(writer.into(), number.into()).put();
        let writes = vec![line, cursor_of(writer, number).put(), sum_of(writer, number).put_fenced(number.into())];
        again(|| store.write(writes.clone())).await;
        say(Done::Written { writer, number });
        let reads = [ScheduleCursorRow::read_all(i64::from(writer))];
        let found = again(|| store.read(&reads)).await;
        assert_eq!(ScheduleCursorRow::from_cells(found[0][0].clone()).unwrap(), cursor_of(writer, number));
    }
}

async fn insert_on(store: &Arc<dyn Store>, first: u32, say: &Say<Done>) {
    for number in first.. {
        let row = || key(&number.to_string(), Some(number.into()));
        // What failed may have happened; then it finds itself.
        let found = again(|| store.insert_if_absent(row().into_cells())).await;
        assert!(found.is_none_or(|cells| IdempotencyRow::from_cells(cells).unwrap() == row()));
        say(Done::Inserted { number });
    }
}

/// What is known to have been acknowledged.
#[derive(Default)]
struct Known {
    written: BTreeSet<(u32, u32)>,
    inserted: BTreeSet<u32>,
}

impl Known {
    fn take(&mut self, done: Done) {
        match done {
            Done::Written { writer, number } => self.written.insert((writer, number)),
            Done::Inserted { number } => self.inserted.insert(number),
        };
    }

    /// Takes what comes until so much more is acknowledged as cannot have been under way.
    async fn more(&mut self, load: &mut Load<Done>) {
        let enough = (self.written.len() + 400, self.inserted.len() + 20);
        while self.written.len() < enough.0 || self.inserted.len() < enough.1 {
            self.take(load.next().await);
        }
    }
}

/// A case of its own, because it needs a store that may be killed: `store` gives a handle of it when the load has ended.
pub(crate) async fn a_kill_under_load_loses_nothing(mut load: Load<Done>, store: impl AsyncFnOnce() -> Arc<dyn Store>) {
    let mut known = Known::default();
    known.more(&mut load).await;
    for _ in 0..2 {
        load.kill_and_start().await.into_iter().for_each(|done| known.take(done));
        known.more(&mut load).await;
    }
    load.end().await.into_iter().for_each(|done| known.take(done));

    let store = store().await;
    for writer in 0..WRITERS {
        let lines = rows::<StoryRow>(&store, StoryRow::read_all(id(writer.into()))).await;
        let lines: BTreeSet<_> = lines.into_iter().map(|line| line.id).collect();
        let acknowledged: Vec<_> = known.written.iter().filter(|(by, _)| *by == writer).map(|(_, n)| *n).collect();
        let lost: Vec<_> = acknowledged.iter().filter(|number| !lines.contains(&id(u128::from(**number)))).collect();
        assert!(lost.is_empty(), "of writer {writer}: {lost:?}");
        let last = i64::from(*acknowledged.last().unwrap());
        let cursor = rows::<ScheduleCursorRow>(&store, ScheduleCursorRow::read_all(i64::from(writer))).await;
        assert!(cursor[0].due.0 >= last, "{cursor:?}, acknowledged was {last}");
        let sums = rows::<AggregateRow>(&store, AggregateRow::read_all("shop", "2026-01-31")).await;
        let sum = sums.iter().find(|sum| sum.source == writer.to_string()).unwrap();
        assert!(sum.value >= last, "{sum:?}, acknowledged was {last}");
    }
    for number in known.inserted {
        let found = rows::<IdempotencyRow>(&store, IdempotencyRow::read_one("shop", number.to_string())).await;
        assert_eq!(found, [key(&number.to_string(), Some(number.into()))]);
    }
}
