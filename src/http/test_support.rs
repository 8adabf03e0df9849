//! Doubles of log and store for the tests of this module, and a served API around them. The log applies member commands and definitions
//! at once, as the processors would; whether the real ones do is the business of the end-to-end tests.

#![allow(clippy::unwrap_used)]

use super::{
    Api, Finding, Limits, Observer,
    auth::{ApiKeyConfig, ApiKeys, Scope},
    probes::Check,
    router,
    tracking::Tracked,
    webhooks::{Call, Callback, HookError, Hooks, signed_url},
};
use crate::{
    approvals::Approvals,
    definitions::check_provider,
    inbound::Heard,
    metrics::Metrics,
    runtime::{clock::Clock, sinks::Sinks},
};
use async_trait::async_trait;
use bellwether_connectors::{
    channels::{Accepted, Message, SendError, Sink, whatsapp::ApprovedTemplate},
    log::{Append, Bounds, Commit, Committed, Consumer, Log, LogError, LogRecord, TopicPartition},
    store::{Checkpoint, ScanPage, Store, StoreError, TokenRange},
    tracking::Purpose,
    webhooks::inbound::{Inbound, Keyword},
};
use bellwether_processors::definitions::{Compiled, Projects};
use bellwether_schemas::{
    Channel, DeliveryId, NotificationId, Position, Timestamp, Topic,
    codec::{Encoded, decode},
    definitions::{Definitions, Provider},
    member::{Address, Patch, Profile},
    records::{DefinitionSet, ErrorKind, MemberAction, MemberCommand, Receipt, ReceiptKind},
    rows::{Cells, Read, Row, Span, Table, Value as Cell, Write},
    tables::{MemberRow, PROFILE},
    topics::partition_of,
};
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

pub(super) const NOW: Timestamp = Timestamp(1_772_366_400_000); // 2026-03-01T12:00:00Z
const PARTITIONS: u32 = 4;

type Clustering = BTreeMap<Vec<Cell>, Cells>;

/// A store in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryStore {
    rows: Mutex<BTreeMap<(&'static str, Vec<Cell>), Clustering>>,
    pub(super) down: AtomicBool,
}

impl MemoryStore {
    fn check(&self) -> Result<(), StoreError> {
        let down = self.down.load(Ordering::SeqCst);
        if down { Err(StoreError::Unavailable("node 10.0.0.9".into())) } else { Ok(()) }
    }

    pub(super) fn put(&self, row: impl Row) {
        self.apply(Write::Put(row.into_cells()));
    }

    fn apply(&self, write: Write) {
        let mut rows = self.rows.lock().unwrap();
        let (table, key) = write.target();
        let partition = rows.entry((table.name, key.partition.clone())).or_default();
        match write {
            Write::Put(cells) => partition.insert(cells.key.clustering.clone(), cells),
            Write::Delete { key, .. } => partition.remove(&key.clustering),
        };
    }

    /// Every row of a table.
    pub(super) fn all<R: Row>(&self) -> Vec<R> {
        let rows = self.rows.lock().unwrap();
        let of_table = rows.iter().filter(|((table, _), _)| *table == R::TABLE.name);
        of_table.flat_map(|(_, rows)| rows.values()).map(|cells| R::from_cells(cells.clone()).unwrap()).collect()
    }

    /// Time to live of a table's rows.
    pub(super) fn ttls<R: Row>(&self) -> Vec<Option<Duration>> {
        let rows = self.rows.lock().unwrap();
        let of_table = rows.iter().filter(|((table, _), _)| *table == R::TABLE.name);
        of_table.flat_map(|(_, rows)| rows.values()).map(|cells| cells.ttl).collect()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn read(&self, reads: &[Read]) -> Result<Vec<Vec<Cells>>, StoreError> {
        self.check()?;
        let rows = self.rows.lock().unwrap();
        let answer = |read: &Read| {
            let within = |key: &[Cell]| match &read.span {
                Span::All => true,
                Span::One(whole) => key == whole.as_slice(),
                Span::Prefix(prefix) => key.starts_with(prefix),
                Span::Between(from, to) => &key[..from.len()] >= from.as_slice() && &key[..to.len()] < to.as_slice(),
            };
            let partition = rows.get(&(read.table, read.partition.clone())).into_iter().flatten();
            let found = partition.filter(|(key, _)| within(key)).map(|(_, cells)| cells.clone());
            found.take(read.limit.unwrap_or(usize::MAX)).collect()
        };
        Ok(reads.iter().map(answer).collect())
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        self.check()?;
        writes.into_iter().for_each(|write| self.apply(write));
        Ok(())
    }

    async fn insert_if_absent(&self, row: Cells) -> Result<Option<Cells>, StoreError> {
        self.check()?;
        let mut rows = self.rows.lock().unwrap();
        let partition = rows.entry((row.table.name, row.key.partition.clone())).or_default();
        if let Some(there) = partition.get(&row.key.clustering) {
            return Ok(Some(there.clone()));
        }
        partition.insert(row.key.clustering.clone(), row);
        Ok(None)
    }

    async fn scan(
        &self,
        _: &'static Table,
        _: TokenRange,
        _: Option<Checkpoint>,
        _: usize,
    ) -> Result<ScanPage, StoreError> {
        Err(StoreError::Refused("no scans here".into()))
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check()
    }
}

/// A provider that takes everything but what goes to `gone@…`, `wait@…` and `wrong@…`.
#[derive(Debug)]
struct Taker;

#[async_trait]
impl Sink for Taker {
    fn channel(&self) -> Channel {
        Channel::Email
    }
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let error = |kind, detail: &str, after| SendError { after, ..SendError::new(kind, detail) };
        match message.to.split('@').next() {
            Some("gone") => Err(error(ErrorKind::InvalidAddress, "550 no such user", None)),
            Some("wait") => Err(error(ErrorKind::Throttled, "450 too fast", Some(Duration::from_secs(7)))),
            Some("wrong") => Err(error(ErrorKind::Unauthorized, "535 who are you", None)),
            _ => Ok(Accepted { provider_id: Some("q1".into()), ..Accepted::default() }),
        }
    }
    async fn check(&self) -> Result<(), SendError> {
        Ok(())
    }
}

/// A log in memory that applies what it takes.
#[derive(Debug)]
pub(super) struct MemoryLog {
    store: Arc<MemoryStore>,
    published: watch::Sender<Projects>,
    records: Mutex<Vec<(Position, Append)>>,
    pub(super) down: AtomicBool,
    pub(super) stuck: AtomicBool,
    pub(super) applying: AtomicBool,
}

impl MemoryLog {
    async fn check(&self) -> Result<(), LogError> {
        if self.stuck.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        let down = self.down.load(Ordering::SeqCst);
        if down { Err(LogError::Unavailable("broker 10.0.0.7:9092".into())) } else { Ok(()) }
    }

    /// What was appended to a topic.
    pub(super) fn appended(&self, topic: Topic) -> Vec<Append> {
        let records = self.records.lock().unwrap();
        records.iter().filter(|(at, _)| at.topic == topic).map(|(_, append)| append.clone()).collect()
    }

    /// What was appended to a topic, decoded.
    pub(super) fn decoded<R: Encoded>(&self, topic: Topic) -> Vec<R> {
        self.appended(topic).iter().map(|append| decode(&append.payload).unwrap()).collect()
    }

    fn apply(&self, position: Position, append: &Append) {
        match append.topic {
            Topic::Members => self.change(position, decode(&append.payload).unwrap()),
            Topic::Definitions => {
                let set: DefinitionSet = decode(&append.payload).unwrap();
                let document: Definitions = serde_json::from_str(&set.document).unwrap();
                let compiled = Arc::new(Compiled::new(document, set.version, &check_provider).unwrap());
                self.published.send_modify(|published| *published = published.with(compiled));
            }
            _ => {}
        }
    }

    fn change(&self, position: Position, command: MemberCommand) {
        let key = MemberRow::key(command.project.as_str(), command.member.as_str(), PROFILE, "");
        if matches!(command.action, MemberAction::Delete | MemberAction::Erase | MemberAction::Merge) {
            return self.store.apply(Write::Delete { table: MemberRow::TABLE, key, fence: Some(1) });
        }
        let rows = self.store.rows.lock().unwrap();
        let known =
            rows.get(&(MemberRow::TABLE.name, key.partition)).and_then(|rows| rows.get(&key.clustering)).cloned();
        drop(rows);
        let mut profile = known
            .map_or_else(Profile::default, |cells| Profile::from_row(&MemberRow::from_cells(cells).unwrap()).unwrap());
        // What other commands do to a profile is the members processor's own matter.
        let Some(patch) = command.patch else { return };
        let patch: Patch = serde_json::from_str(&patch).unwrap();
        for (channel, addresses) in patch.addresses {
            let active = |address| Address::active(address, command.at);
            profile.addresses.insert(channel, addresses.into_iter().map(active).collect());
        }
        profile.locale = patch.locale.unwrap_or(profile.locale);
        profile.time_zone = patch.time_zone.unwrap_or(profile.time_zone);
        profile.quiet_hours = patch.quiet_hours.unwrap_or(profile.quiet_hours);
        profile.attributes.extend(patch.attributes);
        profile.applied = i64::try_from(position.offset).unwrap();
        let row = profile.into_row(&command.project, &command.member);
        self.store.apply(row.put_fenced(position.offset + 1));
    }
}

#[async_trait]
impl Log for MemoryLog {
    async fn create_topics(&self, _: u32) -> Result<Vec<Topic>, LogError> {
        Ok(Vec::new())
    }

    async fn append(&self, appends: Vec<Append>) -> Result<Vec<Position>, LogError> {
        self.check().await?;
        let mut records = self.records.lock().unwrap();
        let mut positions = Vec::new();
        for append in appends {
            let offset = u64::try_from(records.len()).unwrap();
            let position = Position { topic: append.topic, partition: partition_of(&append.key, PARTITIONS), offset };
            if self.applying.load(Ordering::SeqCst) {
                self.apply(position, &append);
            }
            records.push((position, append));
            positions.push(position);
        }
        Ok(positions)
    }

    async fn subscribe(&self, _: &str, _: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        Err(LogError::Refused("no consumers here".into()))
    }

    async fn read(&self, _: TopicPartition, _: u64, _: usize) -> Result<Vec<LogRecord>, LogError> {
        Err(LogError::Refused("no reading here".into()))
    }

    async fn bounds(&self, topic: Topic) -> Result<Vec<Bounds>, LogError> {
        let end = u64::try_from(self.records.lock().unwrap().len()).unwrap();
        let bounds = |partition| Bounds { at: TopicPartition { topic, partition }, start: 0, end };
        Ok((0..PARTITIONS).map(bounds).collect())
    }

    async fn progress(&self, group: &str, topic: Topic) -> Result<Vec<Commit>, LogError> {
        assert_eq!(group, "members");
        let offset = u64::try_from(self.records.lock().unwrap().len()).unwrap();
        let commit = |partition| Commit {
            at: TopicPartition { topic, partition },
            committed: Committed { offset, metadata: String::new() },
        };
        let applying = self.applying.load(Ordering::SeqCst);
        Ok(if applying { (0..PARTITIONS).map(commit).collect() } else { Vec::new() })
    }

    async fn ping(&self) -> Result<(), LogError> {
        self.check().await
    }
}

/// Writes down what it is told.
#[derive(Debug, Default)]
pub(super) struct Told(Mutex<Vec<String>>);

impl Told {
    pub(super) fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Observer for Told {
    fn accepted(&self, project: &str, count: usize) {
        self.0.lock().unwrap().push(format!("accepted {project} {count}"));
    }
    fn rejected(&self, reason: &'static str) {
        self.0.lock().unwrap().push(format!("rejected {reason}"));
    }
    fn webhook_unverified(&self, provider: &str) {
        self.0.lock().unwrap().push(format!("unverified {provider}"));
    }
    fn tracked(&self, purpose: Purpose, outcome: Tracked) {
        self.0.lock().unwrap().push(format!("{} {}", purpose.name(), outcome.name()));
    }
}

/// Takes the signed URL itself for the signature.
#[derive(Debug)]
struct PlainHook;

impl Hooks for PlainHook {
    fn read(&self, call: Call<'_>, now: Timestamp) -> Result<Callback, HookError> {
        assert_ne!(call.provider, "panic", "a fault in a handler");
        if call.body.is_none() {
            return Ok(Callback { answer: Some(call.query.to_owned()), ..Callback::default() });
        }
        if call.header("x-signature") != signed_url("https://hooks.example.org/sms", call.query) {
            return Err(HookError::Unverified);
        }
        let find = |wanted: &str| call.form.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        if let Some(text) = find("Body") {
            let (from, keyword) = (find("From").unwrap(), Keyword::of(&text));
            let said = Inbound { channel: Channel::Sms, from, at: now, text, keyword, id: "1".into() };
            return Ok(Callback { heard: vec![Heard::Said(said)], ..Callback::default() });
        }
        if let Some(token) = find("Token") {
            let linked = Heard::Linked { channel: Channel::Telegram, address: "7".into(), token, at: now };
            return Ok(Callback { heard: vec![linked], ..Callback::default() });
        }
        let status = call.form.iter().find(|(name, _)| name == "MessageStatus").map(|(_, value)| value.as_str());
        let receipt = (status == Some("delivered")).then(|| Receipt {
            delivery: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "anna".into(),
            template: "order".into(),
            channel: Channel::Sms,
            kind: ReceiptKind::Delivered,
            at: now,
            attempt: 1,
            provider: call.provider.into(),
            provider_id: None,
            error: None,
            detail: None,
            address: None,
        });
        Ok(Callback { receipts: receipt.into_iter().collect(), ..Callback::default() })
    }
}

/// An account with one approved template, which does not answer while a provider says `"version": "v0.0"`.
#[derive(Debug)]
struct PlainAccount;

#[async_trait]
impl Approvals for PlainAccount {
    async fn templates(&self, provider: &Provider) -> Result<Option<Vec<ApprovedTemplate>>, String> {
        if provider.settings.get("version").is_some_and(|version| version == "v0.0") {
            return Err("transient: cannot connect".into());
        }
        let hello = json!({"name": "hello", "language": "en", "status": "APPROVED", "rejected_reason": null, "quality": "GREEN", "category": "UTILITY",
            "named": false, "header": {"media": "image"}, "body": "Hi {{1}}", "parameters": 1, "buttons": [{"kind": "URL", "text": "Go", "parameters": 1}]});
        Ok(Some(vec![serde_json::from_value(hello).unwrap()]))
    }
}

/// Definitions of the project `shop`, which reads phones as German ones.
pub(super) fn shop() -> Definitions {
    let project = json!({"name": "shop", "default_locale": "en", "default_region": "DE"});
    serde_json::from_value(json!({"project": project, "providers": {}, "templates": {}, "flows": {}})).unwrap()
}

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    /// Asserts that this is a problem document of a status about a field, and gives it.
    #[track_caller]
    pub(super) fn problem(&self, status: u16, field: &str) -> &Value {
        assert_eq!((self.status.as_u16(), self.body["field"].as_str()), (status, Some(field)), "{}", self.body);
        self.is_problem()
    }

    /// Asserts the shape of RFC 9457.
    #[track_caller]
    pub(super) fn is_problem(&self) -> &Value {
        assert_eq!(self.headers["content-type"], super::problem::PROBLEM_JSON, "{}", self.body);
        assert_eq!(self.body["status"], self.status.as_u16());
        for member in ["type", "title", "detail", "remedy"] {
            assert!(self.body[member].as_str().is_some_and(|text| !text.is_empty()), "{member} in {}", self.body);
        }
        &self.body
    }
}

/// A served API and what is behind it.
pub(super) struct House {
    pub(super) store: Arc<MemoryStore>,
    pub(super) log: Arc<MemoryLog>,
    pub(super) told: Arc<Told>,
    pub(super) url: String,
    pub(super) http: reqwest::Client,
}

/// The keys that a house knows: each scope alone as `key-of-SCOPE`, all as `key-of-all`, and those of another project.
fn keys() -> ApiKeys {
    let entry = |name: &str, project: &str, scopes: &[Scope]| ApiKeyConfig {
        name: name.into(),
        project: project.into(),
        scopes: scopes.to_vec(),
        sha256: Some(Sha256::digest(format!("key-of-{name}")).iter().map(|byte| format!("{byte:02x}")).collect()),
        secret: None,
    };
    let tenant: Vec<Scope> = Scope::ALL.into_iter().filter(|scope| *scope != Scope::Operator).collect();
    let mut entries: Vec<_> = Scope::ALL.iter().map(|scope| entry(scope.name(), "shop", &[*scope])).collect();
    entries.extend([
        entry("all", "shop", &tenant),
        entry("other", "other", &tenant),
        entry("root", "shop", &Scope::ALL),
    ]);
    ApiKeys::from_config(&entries).unwrap()
}

impl House {
    pub(super) async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub(super) async fn with(change: impl FnOnce(&mut Limits)) -> Self {
        let store = Arc::new(MemoryStore::default());
        let compiled = Compiled::new(shop(), 1, &check_provider).unwrap();
        let (published, definitions) = watch::channel(Projects::from_iter([compiled]));
        let log = Arc::new(MemoryLog {
            store: Arc::clone(&store),
            published,
            records: Mutex::default(),
            down: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            applying: AtomicBool::new(true),
        });
        let told = Arc::new(Told::default());
        let mut limits = Limits { apply_deadline: Duration::from_millis(50), ..Limits::default() };
        limits.import_apply_deadline = limits.apply_deadline;
        limits.probe_timeout = limits.apply_deadline;
        change(&mut limits);
        let api = Api {
            log: Arc::clone(&log) as Arc<dyn Log>,
            store: Arc::clone(&store) as Arc<dyn Store>,
            definitions,
            draft: Arc::new(|document| {
                // The flow of the documented example is liked.
                let disliked = document.flows.keys().filter(|name| name.as_str() != "order_placed");
                let bad = disliked.map(|name| Finding {
                    field: format!("flows.{name}"),
                    line: None,
                    column: None,
                    problem: "is not liked".into(),
                    remedy: "leave it out".into(),
                });
                let bad = bad.collect();
                (Compiled::draft(document, 0, &check_provider).0, bad)
            }),
            keys: Arc::new(keys()),
            clock: Arc::new(|| NOW),
            observer: Arc::clone(&told) as Arc<dyn Observer>,
            hooks: Arc::new(PlainHook),
            sinks: Arc::new(Sinks::with(Metrics::new().unwrap(), Clock::system(), Box::new(|_| Ok(Arc::new(Taker))))),
            approvals: Arc::new(PlainAccount),
            readiness: Arc::new(|| {
                let check = Check { name: "definitions".into(), ok: true, detail: "loaded".into() };
                Box::pin(async move { vec![check] })
            }),
            metrics: Arc::new(|| "up 1\n".into()),
            members_group: "members".into(),
            client_ip_header: Some("x-forwarded-for".parse().unwrap()),
            can_erase: true,
            limits,
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router(Arc::new(api))).await });
        Self { store, log, told, url, http: reqwest::Client::new() }
    }

    /// Calls with a key, headers and a body.
    pub(super) async fn call(
        &self,
        method: Method,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Answer {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        if !key.is_empty() {
            request = request.bearer_auth(format!("key-of-{key}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes);
        let body = body.unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()));
        Answer { status, headers, body }
    }

    pub(super) async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "all", &[], "").await
    }

    pub(super) async fn put(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::PUT, path, "all", &[JSON], body.to_string()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.call(Method::POST, path, "all", &[JSON], body.to_string()).await
    }
}

pub(super) const JSON: (&str, &str) = ("content-type", "application/json");
