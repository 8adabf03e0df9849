//! A month of a shop with a thousand members: events of several flows, changes of mind by the API, by STOP and by one click, members who are deleted or erased,
//! under a clock whose hands are moved when all is at rest. Then the [`checker`], which knows only what receivers got and what the ledger says, looks
//! for a message that should not have been. On the embedded parts and on a real Kafka and CQL store (`cargo xtask services up`; a test that cannot
//! reach them fails and says so). `BELLWETHER_SEED=n` makes another month.
#![allow(clippy::unwrap_used, missing_docs)]

mod checker;
#[path = "../services/mod.rs"]
mod services;

use bellwether::{
    backends::{Backends, prepare},
    config::Config,
    demo::world::World,
    metrics::Metrics,
    receivers::SmtpOptions,
    runtime::{clock::Clock, sinks::Sinks},
    serve::{Instance, Role, groups, lag},
};
use bellwether_connectors::{
    channels::{smtp, twilio},
    log::TopicPartition,
};
use bellwether_processors::schedule::shard;
use bellwether_schemas::{Lane, Position, Topic, rows::Row, tables::ScheduleCursorRow};
use checker::{Breach, CapRule, Consent, FlowRule, Line, Message, Per, Person, Rules, violations};
use futures::{StreamExt as _, future::join_all, stream};
use jiff::{
    Timestamp,
    civil::{Date, Weekday},
    tz::TimeZone,
};
use mail_parser::MessageParser;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use services::cluster_of;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

const PROJECT: &str = "shop";
const MEMBERS: usize = 1_000;
/// Members to whom half of all events go, so that caps and digests have something to do.
const BUSY: usize = 40;
const EVENTS: usize = 12_000;
/// Members who are deleted or erased in the course of the month.
const DELETED: usize = 30;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const DAYS: i64 = 30;
/// 2026-03-16T00:00:00Z, a Monday: summer time begins within the month, and Good Friday is in it.
const START: i64 = 1_773_619_200_000;
const HOLIDAY: (i16, i8, i8) = (2026, 4, 3);
/// Zones with whole, half and quarter hours, on both sides of the date line, with and without summer time.
const ZONES: [&str; 8] = [
    "Europe/Madrid",
    "America/New_York",
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",
    "Pacific/Auckland",
    "America/Los_Angeles",
    "UTC",
];
/// Longest wait for rest: it ends the test, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What happens, by flow and event type: with how many parts of the whole.
const KINDS: [(&str, u32); 5] = [("news", 8), ("offer", 8), ("social", 8), ("order", 4), ("code", 3)];

/// What the project promises, as the checker is told it; [`definitions`] say the same to the pipeline.
fn rules(step: i64) -> Rules {
    let bulk = FlowRule {
        category: "news",
        consent: Consent::Required,
        priority: 0,
        quiet: true,
        window: Some((9 * 60, 20 * 60, Weekday::Sunday)),
        expires: 3 * DAY,
    };
    let offer = FlowRule {
        category: "offers",
        consent: Consent::Assumed,
        priority: 5,
        window: None,
        expires: DAY,
        ..bulk.clone()
    };
    let social = FlowRule { category: "social", priority: 0, expires: 2 * DAY, ..offer.clone() };
    let order = FlowRule { category: "orders", quiet: false, ..social.clone() };
    let code = FlowRule { category: "security", consent: Consent::Unrefusable, expires: DAY, ..order.clone() };
    Rules {
        step,
        quiet: (22 * 60, 8 * 60),
        holidays: vec![Date::new(HOLIDAY.0, HOLIDAY.1, HOLIDAY.2).unwrap()],
        flows: BTreeMap::from([("news", bulk), ("offer", offer), ("social", social), ("order", order), ("code", code)]),
        caps: vec![
            CapRule { name: "a-day", most: 2, per: Per::Day, categories: &["news", "offers"], kept: Some((5, 1)) },
            CapRule { name: "a-week", most: 7, per: Per::Week, categories: &["news", "offers", "social"], kept: None },
            CapRule { name: "social", most: 2, per: Per::Hours(48), categories: &["social"], kept: None },
        ],
    }
}

fn definitions(world: &World, folder: &Path) -> Value {
    let provider = |kind: &str, more: Value| {
        let mut settings = Value::Object(world.settings(kind, kind));
        settings["kind"] = kind.into();
        settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        settings
    };
    let variants = |told: &str| {
        let text = format!("{told} member:{{{{ member.id }}}}");
        json!({"email": {"en": {"subject": "A month", "text": text}}, "sms": {"en": {"text": text}}})
    };
    let template = |flow: &str| {
        (flow.to_owned(), json!({"sample": {"at": "1"}, "channels": variants(&format!("flow:{flow} at:{{{{ at }}}}"))}))
    };
    let mut templates: serde_json::Map<String, Value> =
        ["news", "offer", "order", "code"].map(template).into_iter().collect();
    let each = "flow:social {% for item in items %}at:{{ item.at }} {% endfor %}";
    templates.insert("social".into(), json!({"channels": variants(each)}));
    let category = |consent: &str| json!({"title": "A kind of message", "consent": consent});
    json!({
        "project": {
            "name": PROJECT, "default_locale": "en", "time_zone": ZONES[0],
            "quiet_hours": {"from": "22:00", "to": "08:00"},
            "holidays": [format!("{:04}-{:02}-{:02}", HOLIDAY.0, HOLIDAY.1, HOLIDAY.2)],
            "categories": {
                "news": category("required"), "offers": category("assumed"), "social": category("assumed"),
                "orders": category("assumed"), "security": category("unrefusable"),
            },
            "caps": {
                "a-day": {"most": 2, "per": "day", "categories": ["news", "offers"], "exceed": "defer", "keep": {"5": 1}},
                "a-week": {"most": 7, "per": "week", "categories": ["news", "offers", "social"]},
                "social": {"most": 2, "per": {"hours": 48}, "categories": ["social"], "exceed": "defer"},
            },
            "tracking": {"base_url": "https://links.shop.example", "key": {"file": folder.join("tracking-key")}},
        },
        "providers": {
            (smtp::KIND): provider(smtp::KIND, json!({"from_address": "shop@example.com"})),
            (twilio::KIND): provider(twilio::KIND, json!({})),
        },
        "events": {"social": {
            "type": "social",
            "data": {"type": "object", "required": ["at"], "properties": {"at": {"type": "string"}}},
            "samples": {"one": {"data": {"at": "1"}}},
        }},
        "templates": templates,
        "flows": {
            "news": {"on": "news", "notify": {
                "template": "news", "lane": "bulk", "category": "news", "expires_after_seconds": 3 * 86_400,
                "window": {"from": "09:00", "to": "20:00", "days": ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday"]},
            }},
            "offer": {"on": "offer", "notify": {
                "template": "offer", "lane": "bulk", "category": "offers", "priority": 5, "expires_after_seconds": 86_400,
            }},
            "social": {"on": "social", "notify": {
                "template": "social", "lane": "bulk", "category": "social", "expires_after_seconds": 2 * 86_400,
                "digest": {"after_seconds": 12 * 3_600},
            }},
            "order": {"on": "order", "notify": {
                "template": "order", "lane": "transactional", "category": "orders", "expires_after_seconds": 2 * 86_400,
                "channels": ["email", "sms"], "fallback": {"after_seconds": 6 * 3_600},
            }},
            "code": {"on": "code", "notify": {
                "template": "code", "lane": "transactional", "category": "security", "channels": ["sms", "email"],
                "expires_after_seconds": 86_400,
            }},
        },
    })
}

/// A member's id, mailbox and phone. What the addresses are called makes some of them refuse, unsubscribe by one click or answer STOP.
fn member(n: usize) -> (String, Option<String>, Option<String>) {
    let id = format!("m{n}");
    let mailbox = match n {
        _ if n % 50 == 7 => format!("permfail-{id}"),
        _ if n % 40 == 11 => format!("leave-{id}"),
        _ => id.clone(),
    };
    let behaviour = match n {
        _ if n % 30 == 3 => "0009",
        _ if n % 60 == 4 => "0001",
        _ => "1110",
    };
    let email = (n % 10 != 9).then(|| format!("{mailbox}@example.com"));
    let phone = (n % 4 != 1).then(|| format!("+346{n:04}{behaviour}"));
    (id, email, phone)
}

fn zone(n: usize) -> Option<&'static str> {
    (!n.is_multiple_of(13)).then(|| ZONES[n % ZONES.len()])
}

/// Own quiet hours: some sleep by day, some want none.
fn quiet(n: usize) -> Option<(i64, i64)> {
    match n {
        _ if n % 6 == 5 => Some((10 * 60 + 30, 18 * 60)),
        _ if n % 7 == 3 => Some((0, 0)),
        _ => None,
    }
}

fn csv() -> Vec<u8> {
    let header = "client_user_id,email,phone,time_zone,quiet_hours.from,quiet_hours.to,opt_ins.email,opt_ins.sms\n";
    let mut csv = String::from(header);
    for n in 0..MEMBERS {
        let (id, email, phone) = member(n);
        let said = |n: usize| ["", "true", "false", "true", ""][n % 5];
        let (email, phone) = (email.unwrap_or_default(), phone.unwrap_or_default());
        let zone = zone(n).unwrap_or_default();
        let time = |minute: i64| format!("{:02}:{:02}", minute / 60, minute % 60);
        let (from, to) = quiet(n).map(|(from, to)| (time(from), time(to))).unwrap_or_default();
        writeln!(csv, "{id},{email},{phone},{zone},{from},{to},{},{}", said(n), said(n / 5)).unwrap();
    }
    csv.into_bytes()
}

/// The shop, its outside, and the hands of its clock.
struct Month {
    step: i64,
    seed: u64,
    random: SmallRng,
    hands: Arc<AtomicI64>,
    world: World,
    instance: Instance,
    client: Client,
    base: String,
    key: String,
    /// The hands, and how many letters and texts had arrived when they were moved on.
    marks: Vec<(i64, usize, u64)>,
    /// Who was deleted or erased when, and what their ledger was until then.
    erased: BTreeMap<usize, (i64, Vec<Line>)>,
}

impl Month {
    async fn start(step: i64, folder: &Path, cluster: Option<String>) -> Self {
        let seed: u64 = std::env::var("BELLWETHER_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
        let keep = SmtpOptions { keep: 100_000, ..SmtpOptions::default() };
        let mut world = World::start_with(folder, PROJECT, keep).await.unwrap();
        let file = folder.join("month.yaml");
        // A cluster's configuration needs a key; this world has another.
        let key = format!("api_keys: [{{name: t, project: {PROJECT}, scopes: [], sha256: \"{}\"}}]", "0".repeat(64));
        let erasure_key = folder.join("erasure.key");
        std::fs::write(&erasure_key, "the key by which all of them mark whom they erase").unwrap();
        let key = format!("{key}\nerasure_key: {{file: {}}}", erasure_key.display());
        let data = folder.join("data");
        std::fs::write(&file, format!("data_dir: {}\n{key}\n{}", data.display(), cluster.unwrap_or_default())).unwrap();
        let mut config = Config::load(Some(&file)).unwrap();
        config.listen = ([127, 0, 0, 1], 0).into();
        world.configure(&mut config);
        prepare(&config).await.unwrap();
        let metrics = Metrics::new().unwrap();
        let backends = Backends::open(&config, &metrics).await.unwrap();
        let hands = Arc::new(AtomicI64::new(START));
        let sinks = Sinks::new(metrics.clone(), Clock::manual(Arc::clone(&hands)));
        let instance = Instance::start_on(&config, &BTreeSet::from(Role::ALL), backends, metrics, sinks).await.unwrap();
        let at = instance.address.unwrap();
        world.connect(at);
        world.publish(&serde_json::from_value(definitions(&world, folder)).unwrap()).await.unwrap();
        let imported = world.import_csv(csv()).await.unwrap();
        assert_eq!(imported.accepted, MEMBERS as u64, "{imported:?}");
        Self {
            step,
            seed,
            random: SmallRng::seed_from_u64(seed),
            hands,
            key: std::fs::read_to_string(world.key_file()).unwrap(),
            world,
            instance,
            client: Client::new(),
            base: format!("http://{at}"),
            marks: Vec::new(),
            erased: BTreeMap::new(),
        }
    }

    fn now(&self) -> i64 {
        self.hands.load(Ordering::SeqCst)
    }

    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    /// Whether nobody has anything left to do at this hand of the clock.
    async fn is_at_rest(&self) -> bool {
        let (log, store) = (&self.instance.backends.log, &self.instance.backends.store);
        if self.world.pending() > 0 {
            return false;
        }
        // What was due is on its topic: the schedule has passed this moment.
        let mut cursors = Vec::new();
        for topic in Lane::ALL.map(Topic::Scheduled) {
            let Ok(bounds) = log.bounds(topic).await else { return false };
            let at = |at: TopicPartition| Position { topic, partition: at.partition, offset: 0 };
            cursors.extend(bounds.into_iter().map(|bounds| ScheduleCursorRow::read_one(shard(at(bounds.at)))));
        }
        let Ok(rows) = store.read(&cursors).await else { return false };
        let behind = |cells| ScheduleCursorRow::from_cells(cells).unwrap().due.0 < self.now();
        if rows.into_iter().flatten().any(behind) {
            return false;
        }
        let topics =
            groups().into_iter().flat_map(|(group, topics)| topics.into_iter().map(move |t| (group.clone(), t)));
        let lags = topics.map(|(group, topic)| async move { lag(&**log, &group, topic).await });
        join_all(lags).await.iter().all(|lag| lag.as_ref().is_ok_and(|lag| lag.iter().all(|(_, lag)| *lag == 0)))
    }

    /// Waits for it. What one does may give another work, so it must be so twice in a row.
    async fn rest(&self) {
        let (begun, mut quiet) = (Instant::now(), 0);
        while quiet < 2 {
            quiet = if self.is_at_rest().await { quiet + 1 } else { 0 };
            if quiet == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert!(begun.elapsed() < PATIENCE, "seed {}: no rest at {}", self.seed, moment(self.now()));
        }
    }

    /// A month, from hand to hand.
    async fn pass(&mut self) {
        let steps = DAYS * DAY / self.step;
        self.rest().await;
        for n in 0..steps {
            self.hands.store(START + (n + 1) * self.step, Ordering::SeqCst);
            self.happen(steps as usize, n as usize).await;
            self.rest().await;
            let texts = self.world.accounts.receiver(twilio::KIND).unwrap().count();
            self.marks.push((self.now(), self.world.mail.count(), texts));
        }
    }

    /// What members and the shop do at this hand of the clock.
    async fn happen(&mut self, steps: usize, n: usize) {
        if (n + 1) * DELETED / steps > self.erased.len() {
            self.lose().await;
        }
        let words: Vec<_> = (0..2).map(|_| self.change_of_mind()).collect();
        let events: Vec<_> = (n * EVENTS / steps..(n + 1) * EVENTS / steps).map(|id| self.event(id)).collect();
        let this = &*self;
        let said = join_all(words.into_iter().map(|(id, said)| async move {
            this.call(Method::POST, &format!("/v1/members/m{id}/consents"), said).await
        }));
        let (said, told) = tokio::join!(said, this.world.post_events(&events));
        for (status, answer) in said {
            assert!(matches!(status, 200 | 202), "seed {}: {status} {answer}", this.seed);
        }
        assert_eq!(told.unwrap().0 as usize, events.len(), "seed {}", this.seed);
    }

    /// Deletes or erases a member.
    async fn lose(&mut self) {
        let alive: Vec<usize> = (0..MEMBERS).filter(|n| !self.erased.contains_key(n)).collect();
        // One in two is busy, so that there is something on its way to them.
        let among = if self.erased.len().is_multiple_of(2) { BUSY / 2 } else { alive.len() };
        let n = alive[self.random.random_range(0..among)];
        let ledger = self.ledger(n).await;
        let path = format!("/v1/members/m{n}");
        let (status, answer) = if self.random.random_bool(0.5) {
            self.call(Method::POST, &format!("{path}/erase"), Value::Null).await
        } else {
            self.call(Method::DELETE, &path, Value::Null).await
        };
        assert_eq!(status, 204, "seed {}: {answer}", self.seed);
        self.erased.insert(n, (self.now(), ledger));
    }

    fn change_of_mind(&mut self) -> (usize, Value) {
        let mut member = || {
            if self.random.random_bool(0.5) {
                self.random.random_range(0..BUSY)
            } else {
                self.random.random_range(0..MEMBERS)
            }
        };
        let mut n = member();
        while self.erased.contains_key(&n) {
            n = member();
        }
        let channel = ["email", "sms"][self.random.random_range(0..2)];
        let category = ["*", "news", "offers", "social", "orders", "security"][self.random.random_range(0..6)];
        let state = if self.random.random_bool(0.6) { "given" } else { "refused" };
        (n, json!({"channel": channel, "category": category, "state": state, "proof": "a box that was ticked"}))
    }

    fn event(&mut self, id: usize) -> String {
        let among = if self.random.random_bool(0.5) { BUSY } else { MEMBERS };
        let n = self.random.random_range(0..among);
        let mut at = self.random.random_range(0..KINDS.iter().map(|(_, parts)| parts).sum::<u32>());
        let kind = KINDS.iter().find(|(_, parts)| {
            let here = at < *parts;
            at = at.saturating_sub(*parts);
            here
        });
        let now = self.now();
        json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/month", "type": kind.unwrap().0, "subject": format!("m{n}"),
            "data": {"at": now.to_string()},
        })
        .to_string()
    }

    async fn ledger(&self, n: usize) -> Vec<Line> {
        let (status, page) =
            self.call(Method::GET, &format!("/v1/members/m{n}/consents?limit=1000"), Value::Null).await;
        assert_eq!(status, 200, "{page}");
        assert!(page["next"].is_null(), "m{n} said more than a page holds");
        let text = |line: &Value, field: &str| line[field].as_str().unwrap().to_owned();
        let lines = page["consents"].as_array().unwrap().iter();
        let consent = lines.filter(|line| line.get("preference").is_none());
        consent
            .map(|line| Line {
                at: text(line, "at").parse::<Timestamp>().unwrap().as_millisecond(),
                channel: text(line, "channel"),
                category: text(line, "category"),
                state: text(line, "state"),
            })
            .collect()
    }

    /// Members as the list and the ledger know them.
    async fn people(&self) -> BTreeMap<String, Person> {
        let person = move |n: usize| async move {
            let (id, email, phone) = member(n);
            let (erased, ledger) = match self.erased.get(&n) {
                Some((at, ledger)) => (Some(*at), ledger.clone()),
                None => (None, self.ledger(n).await),
            };
            let zone = TimeZone::get(zone(n).unwrap_or(ZONES[0])).unwrap();
            (id, Person { zone, quiet: quiet(n), addresses: email.into_iter().chain(phone).collect(), ledger, erased })
        };
        stream::iter(0..MEMBERS).map(person).buffer_unordered(16).collect().await
    }

    /// What the receivers got, each at the hand of the clock at which it came.
    fn messages(&self) -> Vec<Message> {
        let texts = self.world.accounts.receiver(twilio::KIND).unwrap().snapshot();
        let mails = self.world.mail.messages();
        assert_eq!(mails.len(), self.world.mail.count(), "every letter is kept whole");
        let letters = mails.iter().map(|mail| {
            let parsed = MessageParser::default().parse(&mail.text).unwrap();
            let at = self.marks[self.marks.partition_point(|(_, letters, _)| *letters <= mail.number)].0;
            read("email", &mail.taken.recipient, &parsed.body_text(0).unwrap(), at)
        });
        let texts = texts.messages.iter().map(|text| {
            let at = self.marks[self.marks.partition_point(|(_, _, texts)| *texts <= text.number)].0;
            read("sms", &text.draft.to, &text.draft.body, at)
        });
        letters.chain(texts).collect()
    }

    /// How often each outcome was decided within the month.
    async fn outcomes(&self) -> BTreeMap<String, u64> {
        let day = |at: i64| moment(at)[..10].to_owned();
        let path = format!("/v1/stats?from={}&to={}", day(START), day(START + DAYS * DAY));
        let stats = self.world.get(&path).await.unwrap();
        let metrics = stats["rows"][0]["metrics"].as_object().unwrap().clone();
        metrics.into_iter().filter_map(|(name, n)| Some((name, n.as_u64()?))).collect()
    }
}

fn moment(at: i64) -> String {
    Timestamp::from_millisecond(at).unwrap().to_string()
}

/// A message as its text tells of itself.
fn read(channel: &'static str, to: &str, text: &str, at: i64) -> Message {
    let words = |name: &'static str| text.split_whitespace().filter_map(move |word| word.strip_prefix(name));
    let word = |name| words(name).next().unwrap_or_else(|| panic!("no {name} in {text}")).to_owned();
    let told = words("at:").map(|at| at.parse::<i64>().unwrap()).max().unwrap();
    Message { channel, to: to.to_owned(), member: word("member:"), flow: word("flow:"), told, at }
}

async fn a_month(step: i64, cluster: Option<String>) {
    // One pipeline at a time: each wants the whole machine.
    static ALONE: Mutex<()> = Mutex::const_new(());
    let _alone = ALONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let mut month = Month::start(step, folder.path(), cluster).await;
    month.pass().await;
    let (people, messages, outcomes) = (month.people().await, month.messages(), month.outcomes().await);
    let seed = month.seed;

    let found = violations(&rules(step), &people, &messages);
    let mut counts: BTreeMap<Breach, usize> = BTreeMap::new();
    for violation in &found {
        *counts.entry(violation.breach).or_default() += 1;
    }
    let shown: Vec<_> = found.iter().take(5).collect();
    assert!(found.is_empty(), "seed {seed}: of {} messages break a promise: {counts:?}, {shown:#?}", messages.len());

    // There was something to find: each rule held messages back, and every kind of message was sent.
    for outcome in ["routed", "deferred", "capped", "no_opt_in", "expired", "gathered", "unknown_member"] {
        let count = outcomes.get(&format!("decided.{outcome}")).copied().unwrap_or_default();
        assert!(count >= 10, "seed {seed}: {outcome} {count} times, in {outcomes:?}");
    }
    for (flow, _) in KINDS {
        let count = messages.iter().filter(|message| message.flow == flow).count();
        assert!(count >= 100, "seed {seed}: {count} messages of {flow}");
    }
    // And a checker that is told stricter rules finds each of them broken.
    let mut stricter = rules(step);
    stricter.quiet = (16 * 60, 12 * 60);
    // Whoever sleeps by day would be woken by it if that were not known.
    let alike = |person: &Person| Person { quiet: None, ..person.clone() };
    let alike = people.iter().map(|(id, person)| (id.clone(), alike(person))).collect();
    let woken = violations(&rules(step), &alike, &messages);
    assert!(woken.iter().any(|v| v.breach == Breach::QuietHours), "seed {seed}: nobody has a night of their own");
    stricter.caps = vec![CapRule { most: 0, kept: None, ..stricter.caps[0].clone() }];
    for flow in stricter.flows.values_mut() {
        flow.consent = Consent::Required;
    }
    let breaches: BTreeSet<Breach> = violations(&stricter, &people, &messages).iter().map(|v| v.breach).collect();
    for breach in [Breach::Consent, Breach::QuietHours, Breach::Cap] {
        assert!(breaches.contains(&breach), "seed {seed}: the checker is blind to {breach:?}");
    }
    eprintln!(
        "seed {seed}: {} messages to {MEMBERS} members in {DAYS} days, none against a rule; {outcomes:?}",
        messages.len()
    );
    month.instance.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_breaks_no_promise_embedded() {
    a_month(2 * HOUR, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_breaks_no_promise_on_kafka_and_cql() {
    a_month(3 * HOUR, Some(cluster_of("month", 4))).await;
}
