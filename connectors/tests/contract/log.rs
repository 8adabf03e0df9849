//! What every log must do, one function a case. Cases know the trait only, never an implementation.

use crate::load::{Load, Say};
use async_trait::async_trait;
use bellwether_connectors::log::{
    Append, Assignment, Bounds, Commit, CommitError, Committed, Consumer, Log, LogError, LogRecord, MAX_METADATA,
    Polled, TopicPartition,
};
use bellwether_schemas::{Lane, Position, Topic, records::Header, topics::partition_of};
use futures::future::join_all;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// A log of its own, empty and without topics at first.
#[async_trait]
pub(crate) trait Harness: Send + Sync {
    /// A handle of the log, as another process would have it.
    async fn log(&self) -> Arc<dyn Log>;
}

/// Makes a module's tests of every case: `log_contract!(flavor, harness)`.
macro_rules! log_contract {
    ($flavor:literal, $harness:expr) => {
        log_contract! { @cases $flavor, $harness,
            records_of_a_key_keep_their_order
            positions_say_where_each_record_stands
            headers_and_empty_parts_come_back
            uncommitted_records_come_again_when_their_consumer_is_dropped
            the_next_owner_reads_the_metadata
            metadata_beyond_the_limit_is_refused
            an_earlier_topic_goes_first
            a_rebalance_loses_nothing_and_moves_topics_together
            consumers_that_come_and_go_lose_nothing
            a_superseded_owner_cannot_commit
            a_consumer_seeks_back_and_forth
            only_an_owner_seeks
            read_bounds_and_progress_need_no_group
            a_poll_of_zero_takes_nothing
            an_idle_poll_wakes_for_a_record
            a_cancelled_poll_loses_nothing
            a_record_too_large_is_refused_alone
            an_unknown_topic_is_named
            topics_are_created_once
            appends_from_many_tasks_all_stand
            groups_do_not_know_each_other
        }
    };
    (@cases $flavor:literal, $harness:expr, $($case:ident)*) => {$(
        #[tokio::test(flavor = $flavor)]
        async fn $case() {
            crate::contract::$case(&$harness).await;
        }
    )*};
}

/// Enough for a broker's rebalance with a session timeout in it.
const PATIENCE: Duration = Duration::from_secs(90);
const WAIT: Duration = Duration::from_millis(200);
const GROUP: &str = "contract";
const PARTITIONS: u32 = 4;
const URGENT: Topic = Topic::Notifications(Lane::Transactional);
const BULK: Topic = Topic::Notifications(Lane::Bulk);

async fn ready(make: &dyn Harness) -> Arc<dyn Log> {
    let log = make.log().await;
    log.create_topics(PARTITIONS).await.unwrap();
    log
}

fn record(topic: Topic, key: &str, payload: &str) -> Append {
    Append { topic, key: key.into(), payload: payload.into(), headers: Vec::new() }
}

fn numbered(topic: Topic, numbers: std::ops::Range<usize>) -> Vec<Append> {
    numbers.map(|n| record(topic, &format!("key-{}", n % 17), &n.to_string())).collect()
}

fn number(record: &LogRecord) -> usize {
    std::str::from_utf8(&record.payload).unwrap().parse().unwrap()
}

fn next_of(record: &LogRecord) -> Commit {
    let at = TopicPartition { topic: record.position.topic, partition: record.position.partition };
    Commit { at, committed: Committed { offset: record.position.offset + 1, metadata: String::new() } }
}

/// The last offset of each partition, plus one.
fn progress_of(records: &[LogRecord]) -> Vec<Commit> {
    let commits: BTreeMap<_, _> = records.iter().map(next_of).map(|c| (c.at, c)).collect();
    commits.into_values().collect()
}

/// A consumer, with what it was told.
struct Member {
    consumer: Box<dyn Consumer>,
    topics: Vec<Topic>,
    owned: BTreeMap<TopicPartition, Option<Committed>>,
    received: Vec<LogRecord>,
    revoked: Vec<TopicPartition>,
    lost: Vec<TopicPartition>,
}

impl Member {
    async fn new(log: &Arc<dyn Log>, topics: &[Topic]) -> Self {
        Self::of(log, GROUP, topics).await
    }

    async fn of(log: &Arc<dyn Log>, group: &str, topics: &[Topic]) -> Self {
        let consumer = log.subscribe(group, topics).await.unwrap();
        Self {
            consumer,
            topics: topics.to_vec(),
            owned: BTreeMap::new(),
            received: Vec::new(),
            revoked: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// A member that owns all partitions of its topics.
    async fn alone(log: &Arc<dyn Log>, topics: &[Topic]) -> Self {
        let mut member = Self::new(log, topics).await;
        let all = topics.len() * PARTITIONS as usize;
        member.until("owns all", 0, |m| m.owned.len() == all).await;
        member
    }

    async fn poll(&mut self, max: usize) {
        let polled = self.consumer.poll(max, WAIT).await.unwrap();
        self.take(polled, max);
    }

    fn take(&mut self, polled: Polled, max: usize) {
        match polled {
            Polled::Records(records) => {
                assert!(records.len() <= max, "{} records, asked for {max}", records.len());
                let lane = |record: &LogRecord| self.topics.iter().position(|topic| *topic == record.position.topic);
                assert!(records.is_sorted_by_key(lane), "an earlier topic goes first");
                for record in &records {
                    let at = next_of(record).at;
                    assert!(self.owned.contains_key(&at), "a record of {at:?}, which is not ours");
                }
                self.received.extend(records);
            }
            Polled::Assigned(assignments) => {
                for Assignment { at, committed } in assignments {
                    assert!(self.owned.insert(at, committed).is_none(), "{at:?} was ours already");
                }
            }
            Polled::Revoked { partitions, lost } => {
                for at in &partitions {
                    assert!(self.owned.remove(at).is_some(), "{at:?} was not ours");
                }
                if lost { &mut self.lost } else { &mut self.revoked }.extend(partitions);
            }
        }
    }

    async fn until(&mut self, what: &str, max: usize, done: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            assert!(start.elapsed() < PATIENCE, "waited in vain: {what}; owned {:?}", self.owned);
            self.poll(max).await;
        }
    }

    fn partitions(&self, topic: Topic) -> BTreeSet<u32> {
        self.owned.keys().filter(|at| at.topic == topic).map(|at| at.partition).collect()
    }
}

async fn read_all(log: &Arc<dyn Log>, topic: Topic) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for Bounds { at, start, end } in log.bounds(topic).await.unwrap() {
        let mut next = start;
        while next < end {
            let page = log.read(at, next, 100).await.unwrap();
            assert!(page.len() <= 100);
            let Some(last) = page.last() else { break };
            next = last.position.offset + 1;
            records.extend(page);
        }
    }
    records
}

pub(crate) async fn records_of_a_key_keep_their_order(make: &dyn Harness) {
    let log = ready(make).await;
    for batch in 0..10 {
        log.append(numbered(Topic::Events, batch * 100..(batch + 1) * 100)).await.unwrap();
    }
    let mut member = Member::new(&log, &[Topic::Events]).await;
    member.until("all came", 37, |m| m.received.len() == 1_000).await;
    let mut keys: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    let mut partitions: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for record in &member.received {
        keys.entry(record.key.clone()).or_default().push(number(record));
        partitions.entry(record.position.partition).or_default().push(record.position.offset);
    }
    assert_eq!(keys.len(), 17);
    assert!(keys.values().all(|numbers| numbers.is_sorted()), "{keys:?}");
    assert!(partitions.len() > 1);
    assert!(partitions.values().all(|offsets| offsets.is_sorted_by(|a, b| a < b)), "{partitions:?}");
}

pub(crate) async fn positions_say_where_each_record_stands(make: &dyn Harness) {
    let log = ready(make).await;
    let records: Vec<_> =
        (0..60).map(|n| record([Topic::Events, BULK][n % 2], &format!("key-{n}"), &n.to_string())).collect();
    let positions = log.append(records.clone()).await.unwrap();
    assert_eq!(positions.len(), records.len());
    for (record, position) in records.iter().zip(&positions) {
        assert_eq!((position.topic, position.partition), (record.topic, partition_of(&record.key, PARTITIONS)));
        let at = TopicPartition { topic: position.topic, partition: position.partition };
        let found = log.read(at, position.offset, 1).await.unwrap();
        assert_eq!((found[0].position, &found[0].payload[..]), (*position, &record.payload[..]));
    }
    assert_eq!(log.append(Vec::new()).await.unwrap(), []);
}

pub(crate) async fn headers_and_empty_parts_come_back(make: &dyn Harness) {
    let log = ready(make).await;
    let headers = vec![
        Header { name: "ce_type".into(), value: b"order.paid".to_vec() },
        Header { name: "empty".into(), value: Vec::new() },
        Header { name: "ce_type".into(), value: vec![0, 0xff] },
    ];
    let full = Append { topic: Topic::Events, key: vec![0, 1, 0xff], payload: vec![0; 3], headers: headers.clone() };
    let bare = Append { topic: Topic::Events, key: Vec::new(), payload: Vec::new(), headers: Vec::new() };
    for append in [full, bare] {
        let Position { topic, partition, offset } = log.append(vec![append.clone()]).await.unwrap()[0];
        let found = log.read(TopicPartition { topic, partition }, offset, 1).await.unwrap().remove(0);
        assert_eq!((&found.key[..], &found.payload[..]), (&append.key[..], &append.payload[..]));
        assert_eq!(found.headers, append.headers);
    }
}

pub(crate) async fn uncommitted_records_come_again_when_their_consumer_is_dropped(make: &dyn Harness) {
    let log = ready(make).await;
    log.append(numbered(Topic::Events, 0..100)).await.unwrap();
    let mut first = Member::new(&log, &[Topic::Events]).await;
    first.until("all came", 10, |m| m.received.len() == 100).await;
    let (done, undone) = first.received.split_at(40);
    first.consumer.commit(progress_of(done)).await.unwrap();
    let undone: BTreeSet<_> = undone.iter().map(|r| r.position).collect();
    // Without `close`: as in a crash.
    drop(first);
    let mut second = Member::new(&make.log().await, &[Topic::Events]).await;
    second.until("the rest came", 10, |m| m.received.len() >= 60).await;
    second.poll(10).await;
    assert_eq!(second.received.iter().map(|r| r.position).collect::<BTreeSet<_>>(), undone);
}

pub(crate) async fn the_next_owner_reads_the_metadata(make: &dyn Harness) {
    let log = ready(make).await;
    let mut first = Member::alone(&log, &[Topic::Events]).await;
    assert!(first.owned.values().all(Option::is_none), "never worked on");
    let at = TopicPartition { topic: Topic::Events, partition: 1 };
    let older = Committed { offset: 1, metadata: "older".into() };
    let newer = Committed { offset: 2, metadata: "é".repeat(MAX_METADATA / 2) };
    for committed in [older, newer.clone()] {
        first.consumer.commit(vec![Commit { at, committed }]).await.unwrap();
    }
    first.consumer.close().await;
    let second = Member::alone(&make.log().await, &[Topic::Events]).await;
    assert_eq!(second.owned[&at], Some(newer));
}

pub(crate) async fn metadata_beyond_the_limit_is_refused(make: &dyn Harness) {
    let log = ready(make).await;
    let mut member = Member::alone(&log, &[Topic::Events]).await;
    let at = TopicPartition { topic: Topic::Events, partition: 0 };
    let committed = Committed { offset: 1, metadata: "x".repeat(MAX_METADATA + 1) };
    let refused = member.consumer.commit(vec![Commit { at, committed }]).await;
    assert!(matches!(refused, Err(CommitError::Log(LogError::Refused(_)))), "{refused:?}");
}

pub(crate) async fn an_earlier_topic_goes_first(make: &dyn Harness) {
    let log = ready(make).await;
    for batch in 0..10 {
        log.append(numbered(BULK, batch * 1_000..(batch + 1) * 1_000)).await.unwrap();
    }
    let mut member = Member::new(&log, &[URGENT, BULK]).await;
    member.until("bulk is on its way", 100, |m| m.received.len() >= 300).await;
    log.append(vec![record(URGENT, "key", "0")]).await.unwrap();
    // It arrives meanwhile, beside queues that are full of bulk.
    for _ in 0..3 {
        member.poll(0).await;
    }
    let urgent = |m: &Member| m.received.iter().any(|r| r.position.topic == URGENT);
    member.until("the urgent one came", 100, urgent).await;
    assert!(member.received.len() < 5_000, "{} bulk records came before", member.received.len());
    member.until("all came", 1_000, |m| m.received.len() == 10_001).await;
}

pub(crate) async fn a_rebalance_loses_nothing_and_moves_topics_together(make: &dyn Harness) {
    let log = ready(make).await;
    log.append([numbered(URGENT, 0..200), numbered(BULK, 0..200)].concat()).await.unwrap();
    let mut first = Member::alone(&log, &[URGENT, BULK]).await;
    first.until("a batch is in work", 100, |m| m.received.len() >= 100).await;
    let mut second = Member::new(&make.log().await, &[URGENT, BULK]).await;
    let start = Instant::now();
    while first.revoked.is_empty() {
        assert!(start.elapsed() < PATIENCE, "nothing was revoked");
        second.poll(0).await;
        first.poll(0).await;
    }
    assert!(second.owned.is_empty(), "the first has not polled since");
    let work = progress_of(&first.received);
    let given: Vec<_> = work.iter().filter(|c| first.revoked.contains(&c.at)).cloned().collect();
    first.consumer.commit(work.clone()).await.unwrap();
    while second.owned.is_empty() {
        assert!(start.elapsed() < PATIENCE, "nothing was assigned");
        first.poll(0).await;
        second.poll(0).await;
    }
    let held: Vec<_> = first.owned.keys().chain(second.owned.keys()).collect();
    assert_eq!(held.len(), 8, "each partition has one owner");
    for member in [&first, &second] {
        assert_eq!(member.partitions(URGENT), member.partitions(BULK), "co-partitioned");
        assert_eq!(member.partitions(URGENT).len(), 2);
    }
    for Commit { at, committed } in given {
        let now = first.owned.get(&at).or(second.owned.get(&at)).unwrap();
        assert_eq!(now.as_ref().map(|c| c.offset), Some(committed.offset), "the next owner knows of {at:?}");
    }
    // A member may commit what is its own, and nothing else.
    let own = work.into_iter().filter(|commit| first.owned.contains_key(&commit.at)).collect();
    first.consumer.commit(own).await.unwrap();
    let (at, committed) = second.owned.first_key_value().unwrap();
    let other =
        Commit { at: *at, committed: committed.clone().unwrap_or(Committed { offset: 0, metadata: String::new() }) };
    let refused = first.consumer.commit(vec![other]).await;
    assert!(matches!(refused, Err(CommitError::Superseded)), "{refused:?}");
    let all =
        |a: &Member, b: &Member| a.received.iter().chain(&b.received).map(|r| r.position).collect::<BTreeSet<_>>();
    while all(&first, &second).len() < 400 {
        assert!(start.elapsed() < PATIENCE, "only {} came", all(&first, &second).len());
        first.poll(50).await;
        second.poll(50).await;
    }
    assert_eq!(first.received.len() + second.received.len(), 400, "what was committed does not come again");
}

/// How often each number was seen.
type Seen = Mutex<BTreeMap<usize, usize>>;

/// Works until all is seen, leaving and coming back after every `stay` records; each commit follows its records.
/// Returns how often partitions were taken away.
async fn come_and_go(log: &Arc<dyn Log>, stay: usize, seen: &Seen, count: usize) -> usize {
    let mut revocations = 0;
    let done = || seen.lock().unwrap().len() >= count;
    while !done() {
        let mut member = Member::new(log, &[Topic::Events]).await;
        while member.received.len() < stay && !done() {
            let before = member.received.len();
            member.poll(100).await;
            let batch = &member.received[before..];
            for record in batch {
                *seen.lock().unwrap().entry(number(record)).or_default() += 1;
            }
            match member.consumer.commit(progress_of(batch)).await {
                Ok(()) | Err(CommitError::Superseded) => {}
                Err(error) => panic!("{error}"),
            }
        }
        revocations += usize::from(!member.revoked.is_empty()) + usize::from(!member.lost.is_empty());
        member.consumer.close().await;
    }
    revocations
}

pub(crate) async fn consumers_that_come_and_go_lose_nothing(make: &dyn Harness) {
    let log = ready(make).await;
    let (count, seen) = (20_000, Seen::default());
    let appending = async {
        for start in (0..count).step_by(100) {
            log.append(numbered(Topic::Events, start..start + 100)).await.unwrap();
            // Not faster than the consumers can come and go.
            while seen.lock().unwrap().len() + 2_000 < start {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    };
    let consuming = join_all((0..8).map(|n| come_and_go(&log, 400 + 300 * n, &seen, count)));
    let both = tokio::time::timeout(PATIENCE, async { tokio::join!(appending, consuming).1 }).await;
    let revocations = both.unwrap_or_else(|_| panic!("only {} seen", seen.lock().unwrap().len()));
    assert!(revocations.into_iter().sum::<usize>() > 0, "nothing was tested");
    assert!(seen.lock().unwrap().keys().copied().eq(0..count));
}

pub(crate) async fn a_superseded_owner_cannot_commit(make: &dyn Harness) {
    let log = ready(make).await;
    log.append(numbered(Topic::Events, 0..50)).await.unwrap();
    let mut stalled = Member::new(&log, &[Topic::Events]).await;
    stalled.until("it has work", 50, |m| m.received.len() == 50).await;
    let work = progress_of(&stalled.received);
    let mut heir = Member::new(&make.log().await, &[Topic::Events]).await;
    // Nobody polls for the stalled one from here on.
    heir.until("it has taken over", 10, |m| m.owned.len() == PARTITIONS as usize && m.received.len() == 50).await;
    let late = stalled.consumer.commit(work.clone()).await;
    assert!(matches!(late, Err(CommitError::Superseded)), "{late:?}");
    heir.consumer.commit(work.clone()).await.unwrap();
    let start = Instant::now();
    while stalled.lost.is_empty() {
        assert!(start.elapsed() < PATIENCE, "the stalled one was never told");
        heir.poll(0).await;
        stalled.poll(0).await;
    }
    assert!(stalled.revoked.is_empty(), "it was told too late to commit");
    while stalled.owned.is_empty() {
        assert!(start.elapsed() < PATIENCE, "the stalled one did not come back");
        heir.poll(0).await;
        stalled.poll(0).await;
    }
}

pub(crate) async fn a_consumer_seeks_back_and_forth(make: &dyn Harness) {
    let log = ready(make).await;
    let positions = log.append((0..20).map(|n| record(Topic::Events, "one", &n.to_string())).collect()).await.unwrap();
    let at = TopicPartition { topic: Topic::Events, partition: positions[0].partition };
    let mut member = Member::new(&log, &[Topic::Events]).await;
    member.until("ten came", 10, |m| m.received.len() >= 10).await;
    for from in [3, 15, 0] {
        member.received.clear();
        member.consumer.seek(at, positions[from].offset).await.unwrap();
        member.until("the rest came", 7, |m| m.received.len() >= 20 - from).await;
        assert_eq!(member.received.iter().map(number).collect::<Vec<_>>(), (from..20).collect::<Vec<_>>());
    }
}

pub(crate) async fn only_an_owner_seeks(make: &dyn Harness) {
    let log = ready(make).await;
    let mut member = Member::alone(&log, &[URGENT]).await;
    let refused = member.consumer.seek(TopicPartition { topic: BULK, partition: 0 }, 0).await;
    assert!(matches!(refused, Err(LogError::Refused(_))), "{refused:?}");
}

pub(crate) async fn read_bounds_and_progress_need_no_group(make: &dyn Harness) {
    let log = ready(make).await;
    let empty = log.bounds(Topic::Events).await.unwrap();
    assert_eq!(empty.iter().map(|b| b.at.partition).collect::<Vec<_>>(), (0..PARTITIONS).collect::<Vec<_>>());
    assert!(empty.iter().all(|b| b.start == b.end));
    assert_eq!(log.read(empty[0].at, 0, 10).await.unwrap(), []);
    assert_eq!(log.progress(GROUP, Topic::Events).await.unwrap(), []);

    let positions = log.append(numbered(Topic::Events, 0..100)).await.unwrap();
    for bounds in log.bounds(Topic::Events).await.unwrap() {
        let last = positions.iter().filter(|p| p.partition == bounds.at.partition).map(|p| p.offset).max();
        assert!(last.is_none_or(|last| bounds.end > last), "{bounds:?}");
        assert_eq!(log.read(bounds.at, bounds.end, 10).await.unwrap(), []);
    }
    let read: BTreeSet<_> = read_all(&log, Topic::Events).await.iter().map(|r| r.position).collect();
    assert_eq!(read, positions.iter().copied().collect());

    let mut member = Member::new(&log, &[Topic::Events]).await;
    member.until("some came", 20, |m| m.received.len() >= 20).await;
    let commits = progress_of(&member.received);
    member.consumer.commit(commits.clone()).await.unwrap();
    assert_eq!(make.log().await.progress(GROUP, Topic::Events).await.unwrap(), commits);
    assert_eq!(log.progress(GROUP, BULK).await.unwrap(), []);
    log.ping().await.unwrap();
}

pub(crate) async fn a_poll_of_zero_takes_nothing(make: &dyn Harness) {
    let log = ready(make).await;
    log.append(numbered(Topic::Events, 0..10)).await.unwrap();
    let mut member = Member::alone(&log, &[Topic::Events]).await;
    for _ in 0..3 {
        member.poll(0).await;
    }
    assert_eq!(member.received, []);
    member.until("all came", 10, |m| m.received.len() == 10).await;
}

pub(crate) async fn an_idle_poll_wakes_for_a_record(make: &dyn Harness) {
    let log = ready(make).await;
    let mut member = Member::alone(&log, &[URGENT, BULK]).await;
    let start = Instant::now();
    let (polled, appended) =
        tokio::join!(member.consumer.poll(10, PATIENCE), log.append(vec![record(BULK, "key", "7")]));
    let Polled::Records(records) = polled.unwrap() else { panic!("not records") };
    assert_eq!(records.iter().map(|r| r.position).collect::<Vec<_>>(), appended.unwrap());
    assert!(start.elapsed() < PATIENCE / 3, "it waited to the end");
}

pub(crate) async fn a_cancelled_poll_loses_nothing(make: &dyn Harness) {
    let log = ready(make).await;
    let mut member = Member::alone(&log, &[Topic::Events]).await;
    let appends = async {
        for n in 0..50 {
            log.append(numbered(Topic::Events, n * 4..(n + 1) * 4)).await.unwrap();
        }
    };
    let polls = async {
        let start = Instant::now();
        while member.received.len() < 200 {
            assert!(start.elapsed() < PATIENCE, "only {} came", member.received.len());
            let poll = member.consumer.poll(3, PATIENCE);
            if let Ok(polled) = tokio::time::timeout(Duration::from_millis(1), poll).await {
                member.take(polled.unwrap(), 3);
            }
        }
    };
    tokio::join!(appends, polls);
    let numbers: BTreeSet<_> = member.received.iter().map(number).collect();
    assert_eq!((member.received.len(), numbers.len()), (200, 200));
}

pub(crate) async fn a_record_too_large_is_refused_alone(make: &dyn Harness) {
    let log = ready(make).await;
    let large = record(Topic::Events, "key", &"x".repeat(20 << 20));
    let refused = log.append(vec![large]).await;
    let Err(LogError::TooLarge { topic: Topic::Events, bytes, limit }) = refused else { panic!("{refused:?}") };
    assert!(bytes >= 20 << 20 && limit < bytes);
    log.append(vec![record(Topic::Events, "key", "small")]).await.unwrap();
}

pub(crate) async fn an_unknown_topic_is_named(make: &dyn Harness) {
    let log = make.log().await;
    let unknown =
        |error: LogError| assert!(matches!(&error, LogError::UnknownTopic(t) if t.contains("events")), "{error:?}");
    unknown(log.append(vec![record(Topic::Events, "key", "x")]).await.unwrap_err());
    unknown(log.bounds(Topic::Events).await.unwrap_err());
}

pub(crate) async fn topics_are_created_once(make: &dyn Harness) {
    let log = make.log().await;
    let mut created = log.create_topics(PARTITIONS).await.unwrap();
    created.sort();
    let mut all = Topic::all();
    all.sort();
    assert_eq!(created, all);
    assert_eq!(make.log().await.create_topics(PARTITIONS).await.unwrap(), []);
    assert_eq!(log.bounds(Topic::Definitions).await.unwrap().len(), 1);
    let refused = log.create_topics(PARTITIONS + 1).await;
    let Err(LogError::Refused(text)) = refused else { panic!("{refused:?}") };
    assert!(text.contains('4') && text.contains('5'), "{text}");
}

pub(crate) async fn appends_from_many_tasks_all_stand(make: &dyn Harness) {
    let log = ready(make).await;
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let log = Arc::clone(&log);
            tokio::spawn(async move {
                let mut positions = Vec::new();
                for batch in 0..20 {
                    let start = task * 200 + batch * 10;
                    positions.extend(log.append(numbered(Topic::Events, start..start + 10)).await.unwrap());
                }
                positions
            })
        })
        .collect();
    let mut positions = BTreeSet::new();
    for task in tasks {
        positions.extend(task.await.unwrap());
    }
    assert_eq!(positions.len(), 3_200, "each record has a position of its own");
    let records = read_all(&log, Topic::Events).await;
    assert_eq!(records.iter().map(number).collect::<BTreeSet<_>>(), (0..3_200).collect());
    assert_eq!(records.len(), 3_200);
}

pub(crate) async fn groups_do_not_know_each_other(make: &dyn Harness) {
    let log = ready(make).await;
    log.append(numbered(Topic::Events, 0..30)).await.unwrap();
    for group in ["flow", "flow-2", "track"] {
        let mut member = Member::of(&log, group, &[Topic::Events]).await;
        member.until("all came", 30, |m| m.received.len() == 30).await;
        member.consumer.commit(progress_of(&member.received)).await.unwrap();
    }
}

/// What a load does on a log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Done {
    /// A number was appended there.
    Appended { number: usize, partition: u32, offset: u64 },
    /// The group has come to this offset.
    Committed { partition: u32, offset: u64 },
}

/// Writers of a load; each has a key of its own.
const WRITERS: usize = 4;
/// Records of one append.
const BATCH: usize = 5;
/// Pause before a load does again what failed for a while, as the product would.
const PAUSE: Duration = Duration::from_millis(50);

/// Appends, consumes and commits for ever, and says what was acknowledged. What fails for a while it does again, with the clients that it has.
/// Numbers rise from `first`.
pub(crate) async fn work(log: Arc<dyn Log>, first: usize, say: Say<Done>) {
    log.create_topics(PARTITIONS).await.unwrap();
    let writers = join_all((0..WRITERS).map(|writer| append_on(&log, writer, first, &say)));
    tokio::join!(writers, consume_on(&log, &say));
}

async fn append_on(log: &Arc<dyn Log>, writer: usize, first: usize, say: &Say<Done>) {
    for batch in (first..).step_by(BATCH) {
        let records =
            || (batch..batch + BATCH).map(|n| record(Topic::Events, &format!("key-{writer}"), &n.to_string()));
        loop {
            match log.append(records().collect()).await {
                Ok(positions) => {
                    for (number, Position { partition, offset, .. }) in (batch..).zip(positions) {
                        say(Done::Appended { number, partition, offset });
                    }
                    break;
                }
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn consume_on(log: &Arc<dyn Log>, say: &Say<Done>) {
    let mut consumer = log.subscribe(GROUP, &[Topic::Events]).await.unwrap();
    let mut next = BTreeMap::new();
    loop {
        let records = match consumer.poll(100, WAIT).await {
            Ok(Polled::Records(records)) => records,
            Ok(Polled::Assigned(assignments)) => {
                next.extend(assignments.into_iter().map(|a| (a.at.partition, a.committed.map_or(0, |c| c.offset))));
                continue;
            }
            Ok(Polled::Revoked { partitions, .. }) => {
                next.retain(|partition, _| partitions.iter().all(|at| at.partition != *partition));
                continue;
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        for Position { partition, offset, .. } in records.iter().map(|record| record.position) {
            assert_eq!(next.insert(partition, offset + 1), Some(offset), "partition {partition}: none is passed over");
        }
        match consumer.commit(progress_of(&records)).await {
            Ok(()) => {
                for Commit { at, committed } in progress_of(&records) {
                    say(Done::Committed { partition: at.partition, offset: committed.offset });
                }
            }
            Err(CommitError::Superseded) => {}
            Err(CommitError::Log(error)) => assert!(error.is_transient(), "{error}"),
        }
    }
}

/// What is known to have been acknowledged.
#[derive(Default)]
struct Known {
    /// Number and key by position.
    appended: BTreeMap<(u32, u64), usize>,
    committed: BTreeMap<u32, u64>,
}

impl Known {
    fn take(&mut self, done: Done) {
        match done {
            Done::Appended { number, partition, offset } => {
                assert_eq!(self.appended.insert((partition, offset), number), None, "{partition}/{offset} given twice");
            }
            Done::Committed { partition, offset } => drop(self.committed.insert(partition, offset)),
        }
    }

    /// Takes what comes until a thousand appends more are acknowledged, and the group has passed all of them. More cannot have been under way.
    async fn more(&mut self, load: &mut Load<Done>) {
        let enough = self.appended.len() + 1_000;
        while self.appended.len() < enough {
            self.take(load.next().await);
        }
        let mut ends = BTreeMap::new();
        for (partition, offset) in self.appended.keys() {
            ends.insert(*partition, offset + 1);
        }
        while ends.iter().any(|(partition, end)| self.committed.get(partition).is_none_or(|offset| offset < end)) {
            self.take(load.next().await);
        }
    }
}

/// A case of its own, because it needs a log that may be killed: `log` gives a handle of it when the load has ended.
pub(crate) async fn a_kill_under_load_loses_nothing(mut load: Load<Done>, log: impl AsyncFnOnce() -> Arc<dyn Log>) {
    let mut known = Known::default();
    known.more(&mut load).await;
    for _ in 0..2 {
        load.kill_and_start().await.into_iter().for_each(|done| known.take(done));
        known.more(&mut load).await;
    }
    load.end().await.into_iter().for_each(|done| known.take(done));

    let log = log().await;
    let records = read_all(&log, Topic::Events).await;
    let place = |record: &LogRecord| (record.position.partition, record.position.offset);
    let there: BTreeMap<_, _> = records.iter().map(|record| (place(record), number(record))).collect();
    for (place, number) in &known.appended {
        assert_eq!(there.get(place), Some(number), "at {place:?}");
    }
    let mut seen: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
    for record in &records {
        let (numbers, number) = (seen.entry(record.key.clone()).or_default(), number(record));
        // An append that failed may stand there, and stands there again since it was repeated.
        assert!(numbers.contains(&number) || numbers.last().is_none_or(|last| *last < number), "{number} is late");
        numbers.insert(number);
    }
    assert_eq!(seen.len(), WRITERS);
    let progress = log.progress(GROUP, Topic::Events).await.unwrap();
    for (partition, offset) in known.committed {
        let commit = progress.iter().find(|commit| commit.at.partition == partition).unwrap();
        assert!(
            commit.committed.offset >= offset,
            "partition {partition}: {offset} was committed, {commit:?} is there"
        );
    }
}
