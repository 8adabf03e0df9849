//! A member's right to go, through the whole pipeline, embedded: of a member with a mark in all that is known of them, no table and, once its time is
//! over, no topic holds that mark any more, but the list of suppressions; and what is older than the erasure makes nobody.
#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use bellwether::{
    receivers::{SmtpOptions, SmtpReceiver},
    runtime::clock::Clock,
};
use bellwether_connectors::log::{Append, LogRecord};
use bellwether_schemas::{
    Channel, DeliveryId, NotificationId, Timestamp, Topic,
    records::{Receipt, ReceiptKind, Record},
    rows::{Cells, Value as Cell},
    tables,
};
use house::House;
use reqwest::Method;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};

const PROJECT: &str = "shop";
/// What is in everything that is said of the member, and in nothing else.
const MARK: &str = "mrk7f3a";
const MEMBER: &str = "mrk7f3a-id";
const ADDRESS: &str = "mrk7f3a@example.com";
/// Longer than any topic keeps a record.
const ALL_IS_OVER: Duration = Duration::from_secs(31 * 86_400);

async fn start(folder: &std::path::Path) -> (House, SmtpReceiver) {
    let mail = SmtpReceiver::start(([127, 0, 0, 1], 0).into(), SmtpOptions::default()).await.unwrap();
    let house = House::start(folder, &[PROJECT.into()], |_| {}).await;
    let document = json!({
        // Both, so that what was sent and what came of it is kept.
        "project": {"name": PROJECT, "default_locale": "en", "caps": {"daily": {"most": 9, "per": "day", "categories": ["marketing"]}}, "routing": {},
            "search": ["motto"]},
        "providers": {"mail": {"kind": "smtp", "host": "127.0.0.1", "port": mail.addr().port(), "security": "none", "from_address": "a@shop.example"}},
        "templates": {"t": {"channels": {"email": {"en": {"subject": "Hi", "text": "Hi"}}}}},
        "flows": {"f": {"on": "go", "notify": {"template": "t", "lane": "transactional"}}},
    });
    let (status, answer) = house.call(PROJECT, Method::PUT, "/v1/definitions", document).await;
    assert_eq!(status, 200, "{answer:#}");
    (house, mail)
}

fn path(rest: &str) -> String {
    format!("/v1/members/{MEMBER}{rest}")
}

/// Tells the one event; returns its id.
async fn tell(house: &House) -> String {
    let event = json!({"specversion": "1.0", "id": "1", "source": "/t", "type": "go", "subject": MEMBER, "data": {"order": format!("{MARK} data")}});
    let (status, answer) = house.call(PROJECT, Method::POST, "/v1/events", event).await;
    assert_eq!(status, 202, "{answer:#}");
    answer["events"][0]["event_id"].as_str().unwrap().to_owned()
}

/// That the letter was opened, as a link tells it.
fn opened(story: &Value) -> Record {
    let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let routed = story["story"].as_array().unwrap().iter().find(|line| line["outcome"] == "routed").unwrap();
    Record::Receipt(Receipt {
        delivery: DeliveryId(id(&routed["delivery"])),
        notification: NotificationId(id(&story["id"])),
        project: PROJECT.into(),
        member: MEMBER.into(),
        template: "t".into(),
        channel: Channel::Email,
        kind: ReceiptKind::Opened,
        at: Timestamp::parse(routed["at"].as_str().unwrap()).unwrap(),
        attempt: 1,
        provider: "mail".into(),
        provider_id: None,
        error: None,
        detail: Some(format!("{MARK} opened it")),
        address: Some(ADDRESS.into()),
    })
}

/// All that a row says, bytes as text.
fn text(cells: &Cells) -> String {
    let key = cells.key.partition.iter().chain(&cells.key.clustering);
    let all = key.chain(cells.columns.iter().flatten()).map(|cell| match cell {
        Cell::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        other => format!("{other:?}"),
    });
    all.collect()
}

/// Tables with the mark.
async fn marked_tables(house: &House) -> BTreeSet<&'static str> {
    let store = &house.instance.backends.store;
    let mut marked = BTreeSet::new();
    for table in tables::all() {
        let mut after = None;
        loop {
            let page = store.scan(table, store.ranges(1)[0], after, 1_000).await.unwrap();
            marked.extend(page.rows.iter().filter(|cells| text(cells).contains(MARK)).map(|_| table.name));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    marked
}

/// Every record of a topic.
async fn records(house: &House, topic: Topic) -> Vec<LogRecord> {
    let log = &house.instance.backends.log;
    let mut all = Vec::new();
    for bounds in log.bounds(topic).await.unwrap() {
        let mut next = bounds.start;
        while next < bounds.end {
            let read = log.read(bounds.at, next, 1_000).await.unwrap();
            let Some(last) = read.last() else { break };
            next = last.position.offset + 1;
            all.extend(read);
        }
    }
    all
}

/// Topics with the mark.
async fn marked_topics(house: &House) -> BTreeSet<&'static str> {
    let mut marked = BTreeSet::new();
    for topic in Topic::all() {
        let has_mark = |record: &LogRecord| {
            let parts = [&record.key[..], &record.payload[..]].into_iter();
            let mut parts = parts.chain(record.headers.iter().map(|header| &header.value[..]));
            parts.any(|part| part.windows(MARK.len()).any(|window| window == MARK.as_bytes()))
        };
        if records(house, topic).await.iter().any(has_mark) {
            marked.insert(topic.name());
        }
    }
    marked
}

/// A member of whom everything is known: told, heard of, asked and answered, and whose address is not to be used any more.
async fn known(house: &House) -> String {
    let fields =
        json!({"email": ADDRESS, "attributes": {"motto": format!("{MARK} motto")}, "opt_ins": {"email": true}});
    house.put_member(PROJECT, MEMBER, &fields).await;
    let event = tell(house).await;
    house.status(PROJECT, &event, MEMBER, "sent").await;
    let told = house.get(PROJECT, &format!("/v1/notifications?event={event}&member={MEMBER}")).await;
    house.append(&opened(&told["notifications"][0])).await;
    house.status(PROJECT, &event, MEMBER, "opened").await;
    let statement =
        json!({"channel": "email", "category": "marketing", "state": "given", "proof": format!("{MARK} proof")});
    let (status, answer) = house.call(PROJECT, Method::POST, &path("/consents"), statement).await;
    assert_eq!(status, 200, "{answer:#}");
    let suppression = format!("/v1/suppressions/email/{ADDRESS}");
    let (status, answer) = house.call(PROJECT, Method::PUT, &suppression, json!({"reason": "by letter"})).await;
    assert_eq!(status, 201, "{answer:#}");
    house.at_rest().await;
    event
}

async fn erase(house: &House) {
    let (status, answer) = house.call(PROJECT, Method::POST, &path("/erase"), Value::Null).await;
    assert_eq!(status, 204, "{answer:#}");
    house.at_rest().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_an_erased_member_is_left_but_the_suppression() {
    let folder = tempfile::tempdir().unwrap();
    let (house, _mail) = start(folder.path()).await;
    let event = known(&house).await;
    let everywhere = BTreeSet::from(["addresses", "attributes", "consents", "members", "stories", "suppressions"]);
    assert_eq!(marked_tables(&house).await, everywhere);
    let export = house.get(PROJECT, &path("/export")).await;
    for pointer in
        ["/member/attributes/motto", "/consents/1/proof", "/suppressions/0/address", "/notifications/0/story"]
    {
        assert!(export.pointer(pointer).is_some(), "{pointer}: {export:#}");
    }
    let kinds: Vec<_> = export["kept"].as_array().unwrap().iter().map(|kept| kept["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["claim", "seen", "sent"], "{export:#}");

    erase(&house).await;
    let only_the_suppression = BTreeSet::from(["suppressions"]);
    assert_eq!(marked_tables(&house).await, only_the_suppression);
    assert_eq!(house.call(PROJECT, Method::GET, &path(""), Value::Null).await.0, 404);
    assert_eq!(house.call(PROJECT, Method::GET, &path("/export"), Value::Null).await.0, 404);

    // All that was ever said to `members`, once more: it is older than the erasure.
    let again = records(&house, Topic::Members).await.into_iter().map(|record| Append {
        topic: Topic::Members,
        key: record.key.to_vec(),
        payload: record.payload.to_vec(),
        headers: record.headers,
    });
    house.instance.backends.log.append(again.collect()).await.unwrap();
    house.at_rest().await;
    assert_eq!(house.profile(PROJECT, MEMBER).await, None);
    assert_eq!(marked_tables(&house).await, only_the_suppression);

    // An old event tells nobody. That it was told again is on record, under the id that it names, until that is erased as well.
    assert_eq!(tell(&house).await, event);
    house.status(PROJECT, &event, MEMBER, "unknown_member").await;
    house.at_rest().await;
    erase(&house).await;
    assert_eq!(marked_tables(&house).await, only_the_suppression);

    // The log forgets by its time alone.
    assert!(marked_topics(&house).await.contains("members"));
    let log = house.instance.backends.embedded_log.clone().unwrap();
    log.enforce_retention(Clock::system().now().plus(ALL_IS_OVER)).await.unwrap();
    assert_eq!(marked_topics(&house).await, BTreeSet::new());

    // Who signs up again is somebody new, at an address that is still not to be used.
    house.put_member(PROJECT, MEMBER, &json!({"email": ADDRESS})).await;
    let member = house.get(PROJECT, &path("")).await;
    assert_eq!(member["attributes"], json!({}), "{member:#}");
    assert_eq!(member["addresses"]["email"][0]["state"], "suppressed", "{member:#}");
    house.instance.stop().await.unwrap();
}

/// Files below a folder in which the mark stands, by name.
fn marked_files(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut marked = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            marked.extend(marked_files(&path));
        } else if std::fs::read(&path).unwrap().windows(MARK.len()).any(|window| window == MARK.as_bytes()) {
            marked.push(path);
        }
    }
    marked
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_holds_what_was_erased_once_its_time_is_over() {
    let folder = tempfile::tempdir().unwrap();
    let (house, _mail) = start(folder.path()).await;
    known(&house).await;
    // The list of suppressions is to stay; without it nothing is.
    let path = format!("/v1/suppressions/email/{ADDRESS}");
    assert_eq!(house.call(PROJECT, Method::DELETE, &path, Value::Null).await.0, 204);
    house.at_rest().await;
    erase(&house).await;
    let data = folder.path().join("data");
    assert!(!marked_files(&data).is_empty(), "deleted is not gone");

    let later = Clock::system().now().plus(ALL_IS_OVER);
    let backends = &house.instance.backends;
    let (log, store) = (backends.embedded_log.clone().unwrap(), backends.embedded_store.clone().unwrap());
    log.enforce_retention(later).await.unwrap();
    for _ in tables::all() {
        store.expire(later, usize::MAX).await.unwrap();
    }
    assert_ne!(marked_files(&data), Vec::<std::path::PathBuf>::new(), "only scrubbing takes it out of the files");
    store.scrub().await.unwrap();
    assert_eq!(marked_files(&data), Vec::<std::path::PathBuf>::new());

    // It is the same house, which works on, and opens again.
    house.put_member(PROJECT, "ana", &json!({"email": "ana@example.com"})).await;
    drop((log, store));
    house.instance.stop().await.unwrap();
    let (house, _mail) = start(folder.path()).await;
    assert_eq!(house.get(PROJECT, "/v1/members/ana").await["email"], "ana@example.com");
    house.instance.stop().await.unwrap();
}
