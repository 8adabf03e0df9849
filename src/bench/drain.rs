//! From accepted events to sent and counted messages.

use crate::{
    bench::{Figure, Ground, Options, PATIENCE, usage::Start},
    metrics::Metrics,
    runtime::{clock::Clock, sinks::Sinks},
    serve::{Instance, Role, lag},
};
use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bellwether_connectors::{
    channels::{self, Accepted, Message, SendError, Sink, smtp},
    log::Append,
};
use bellwether_processors::{Processor, track::Track};
use bellwether_schemas::{
    Channel, Timestamp, Topic,
    codec::encode,
    member::{Address, Profile},
    records::{DefinitionSet, Event},
    rows::Row,
};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

const PROJECT: &str = "bench";
/// Members that the messages go to, in turn.
pub(super) const MEMBERS: u64 = 10_000;
/// How long a message is worth sending, in seconds: none of a bench becomes so old, so what is left of it tells its age.
pub(super) const LIFE: u64 = 3_600;

/// What is drained, and to whom.
pub(super) struct Load {
    /// Connector.
    pub(super) kind: &'static str,
    /// Its settings.
    pub(super) settings: Map<String, Value>,
    /// Bytes of a message's text.
    pub(super) size: usize,
    /// Calls in flight.
    pub(super) in_flight: u32,
    /// An address of each member; fewer are used in turn.
    pub(super) addresses: Vec<String>,
}

/// Drains to a provider that does nothing.
///
/// # Errors
/// Something could not be started or reached.
pub async fn to_nothing(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::open(options).await?;
    let what = format!("drain, {}, to a no-op", ground.name());
    let settings = json!({"host": "127.0.0.1", "port": 25, "security": "none", "from_address": "a@example.com"});
    let sinks =
        Sinks::with(ground.metrics.clone(), Clock::system(), Box::new(|_| Ok(Arc::new(Nothing) as Arc<dyn Sink>)));
    let addresses = (0..MEMBERS).map(|n| format!("m{n}@example.com")).collect();
    let settings = settings.as_object().cloned().unwrap_or_default();
    let load = Load { kind: smtp::KIND, settings, size: 300, in_flight: 1_024, addresses };
    let (figure, drained) = drain(ground, sinks, options.messages, &load, what).await?;
    drained.end().await?;
    Ok(vec![figure])
}

/// A pipeline that has drained its load, and still runs.
pub(super) struct Drained {
    instance: Instance,
    metrics: Metrics,
    channel: Channel,
    /// Messages so far.
    messages: u64,
    _folder: tempfile::TempDir,
}

/// Puts a load on the log, then starts the pipeline and waits until the last message is sent and counted.
pub(super) async fn drain(
    ground: Ground,
    sinks: Sinks,
    messages: u64,
    load: &Load,
    what: String,
) -> anyhow::Result<(Figure, Drained)> {
    let channel = channels::channel_of(load.kind).context("no such connector")?;
    let mut settings = load.settings.clone();
    settings.insert("kind".into(), load.kind.into());
    settings.insert("max_in_flight".into(), load.in_flight.into());
    let document = json!({
        "project": {"name": PROJECT, "default_locale": "en"},
        "providers": {"provider": settings},
        "templates": {"note": {"sample": {"number": "1"}, "channels": {channel.name(): {"en": variant(channel, load.size)}}}},
        "flows": {"note": {
            "on": "bench.note", "notify": {"template": "note", "lane": "transactional", "expires_after_seconds": LIFE},
        }},
    });
    let (log, store, clock) = (&ground.backends.log, &ground.backends.store, Clock::system());
    let set = DefinitionSet {
        project: PROJECT.into(),
        version: 1,
        published_at: clock.now(),
        actor: "bench".into(),
        document: document.to_string(),
    };
    log.append(vec![append(Topic::Definitions, PROJECT.as_bytes().to_vec(), encode(&set)?)]).await?;
    let members: Vec<u64> = (0..MEMBERS).collect();
    for some in members.chunks(500) {
        let row = |n: &u64| profile(*n, channel, &load.addresses, clock.now()).put_fenced(1);
        store.write(some.iter().map(row).collect()).await?;
    }
    for first in (0..messages).step_by(1_000) {
        log.append(events(first..messages.min(first + 1_000), &clock)?).await?;
    }
    let Ground { mut config, backends, metrics, _folder } = ground;
    config.window = config.window.max(load.in_flight as usize * 2);
    let roles = BTreeSet::from([Role::Flow, Role::Route, Role::Deliver, Role::Track, Role::Schedule]);
    let start = Start::now(&metrics);
    let instance = Instance::start_on(&config, &roles, backends, metrics.clone(), sinks).await?;
    let drained = Drained { instance, metrics, channel, messages, _folder };
    drained.counted().await?;
    let figure = start.figure(what, messages, &drained.metrics);
    Ok((figure, drained))
}

impl Drained {
    /// Feeds so many messages a second for some seconds, and waits for the last of them.
    pub(super) async fn paced(&mut self, rate: u32, seconds: u32) -> anyhow::Result<()> {
        let (mut tick, clock) = (tokio::time::interval(Duration::from_millis(20)), Clock::system());
        let (begun, first, last) = (Instant::now(), self.messages, self.messages + u64::from(rate * seconds));
        while self.messages < last {
            tick.tick().await;
            let due = (first + (begun.elapsed().as_secs_f64() * f64::from(rate)) as u64).min(last);
            if due > self.messages {
                self.instance.backends.log.append(events(self.messages..due, &clock)?).await?;
                self.messages = due;
            }
        }
        self.counted().await
    }

    /// Stops.
    pub(super) async fn end(mut self) -> anyhow::Result<()> {
        self.instance.stopper().cancel();
        Ok(self.instance.wait().await?)
    }

    async fn counted(&self) -> anyhow::Result<()> {
        counted(&self.instance, &self.metrics, self.channel, self.messages).await
    }
}

fn events(numbers: std::ops::Range<u64>, clock: &Clock) -> anyhow::Result<Vec<Append>> {
    let one = |n| {
        let member = format!("m{}", n % MEMBERS);
        let key = format!("{PROJECT}/{member}").into_bytes();
        Ok(append(Topic::Events, key, encode(&event(n, member, clock.now()))?))
    };
    numbers.map(one).collect()
}

/// What is said by a channel, of about `size` bytes.
fn variant(channel: Channel, size: usize) -> Value {
    let filler = "0123456789abcde ".repeat(size / 16);
    let text = format!("Hello {{{{ member.id }}}}, this is number {{{{ number }}}}. {filler}");
    match channel {
        Channel::Email => json!({"subject": "Note {{ number }}", "text": text}),
        Channel::Sms => json!({"text": text}),
        Channel::Whatsapp => json!({"template": {"name": "note", "language": "en", "parameters": [text]}}),
        Channel::Telegram => json!({"html": text}),
        Channel::WebPush | Channel::AppPush => json!({"title": "Note {{ number }}", "text": text}),
        Channel::Webhook => json!({"json": format!("{{\"number\": {{{{ number }}}}, \"text\": \"{filler}\"}}")}),
    }
}

/// Waits until the last message is sent and counted.
async fn counted(instance: &Instance, metrics: &Metrics, channel: Channel, messages: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let sent = metrics.delivered.with_label_values(&[channel.name(), "transactional", "accepted"]);
    loop {
        if sent.get() >= messages {
            let mut left = 0;
            for topic in [Topic::Receipts, Topic::Decisions] {
                left += lag(&*instance.backends.log, Track::NAME, topic).await?.iter().map(|(_, n)| n).sum::<u64>();
            }
            if left == 0 {
                return Ok(());
            }
        }
        ensure!(begun.elapsed() < PATIENCE, "{} of {messages} were sent within {PATIENCE:?}", sent.get());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn append(topic: Topic, key: Vec<u8>, payload: Vec<u8>) -> Append {
    Append { topic, key, payload, headers: Vec::new() }
}

fn event(n: u64, member: String, now: Timestamp) -> Event {
    Event {
        project: PROJECT.into(),
        id: n.to_string(),
        source: "/bench".into(),
        kind: "bench.note".into(),
        subject: Some(member),
        time: now,
        accepted_at: now,
        data: format!(r#"{{"number":"{n}"}}"#),
    }
}

fn profile(n: u64, channel: Channel, addresses: &[String], now: Timestamp) -> bellwether_schemas::tables::MemberRow {
    let address = addresses.get(n as usize % addresses.len().max(1)).cloned().unwrap_or_default();
    let profile = Profile { addresses: [(channel, vec![Address::active(address, now)])].into(), ..Profile::default() };
    profile.into_row(PROJECT, &format!("m{n}"))
}

/// Accepts everything at once.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl Sink for Nothing {
    fn channel(&self) -> Channel {
        Channel::Email
    }
    async fn send(&self, _: &Message) -> Result<Accepted, SendError> {
        Ok(Accepted::default())
    }
    async fn check(&self) -> Result<(), SendError> {
        Ok(())
    }
}
