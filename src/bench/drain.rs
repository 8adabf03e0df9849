//! From accepted events to sent and counted messages.

use crate::{
    bench::{Figure, Ground, Options, PATIENCE, Smtp, usage::Start},
    metrics::Metrics,
    runtime::{clock::Clock, sinks::Sinks},
    serve::{Instance, Role, lag},
};
use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use bellwether_connectors::{
    channels::{Accepted, Message, SendError, Sink},
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
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

const PROJECT: &str = "bench";
/// Members that the messages go to, in turn.
const MEMBERS: u64 = 10_000;

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
    let figure = drain(ground, sinks, options.messages, 300, 1_024, settings, what).await?;
    Ok(vec![figure])
}

/// Drains to smtp-sink, after smtp-source has sent it as many.
///
/// # Errors
/// Something could not be started or reached; Postfix's tools are missing.
pub async fn to_smtp_sink(smtp: &Smtp) -> anyhow::Result<Vec<Figure>> {
    let sink = SmtpSinkProcess::start()?;
    let source = smtp_source(&sink, smtp)?;
    let ground = Ground::open(&smtp.options).await?;
    let what = format!("drain, {}, to smtp-sink, {} connections, {} B", ground.name(), smtp.connections, smtp.size);
    let settings = json!({
        "host": sink.address.ip().to_string(), "port": sink.address.port(), "security": "none",
        "from_address": "a@example.com", "pool": {"max_connections": smtp.connections},
    });
    let sinks = Sinks::new(ground.metrics.clone(), Clock::system());
    let figure = drain(ground, sinks, smtp.options.messages, smtp.size, smtp.in_flight, settings, what).await?;
    Ok(vec![source, figure])
}

async fn drain(
    ground: Ground,
    sinks: Sinks,
    messages: u64,
    size: usize,
    in_flight: u32,
    mut settings: serde_json::Value,
    what: String,
) -> anyhow::Result<Figure> {
    settings["kind"] = "smtp".into();
    settings["max_in_flight"] = in_flight.into();
    let document = json!({
        "project": {"name": PROJECT, "default_locale": "en"},
        "providers": {"mail": settings},
        "templates": {"note": {
            "sample": {"number": "1"},
            "channels": {"email": {"en": {
                "subject": "Note {{ number }}",
                "text": format!("Hello {{{{ member.id }}}}, this is number {{{{ number }}}}.\n{}", "0123456789abcde ".repeat(size / 16)),
            }}},
        }},
        "flows": {"note": {"on": "bench.note", "notify": {"template": "note", "lane": "transactional"}}},
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
    let members: Vec<u64> = (0..MEMBERS.min(messages)).collect();
    for some in members.chunks(500) {
        store.write(some.iter().map(|n| profile(*n, clock.now()).put_fenced(1)).collect()).await?;
    }
    for first in (0..messages).step_by(1_000) {
        let events = (first..messages.min(first + 1_000)).map(|n| {
            let member = format!("m{}", n % MEMBERS);
            Ok(append(
                Topic::Events,
                format!("{PROJECT}/{member}").into_bytes(),
                encode(&event(n, member, clock.now()))?,
            ))
        });
        log.append(events.collect::<anyhow::Result<_>>()?).await?;
    }
    let Ground { mut config, backends, metrics, _folder } = ground;
    config.window = config.window.max(in_flight as usize * 2);
    let roles = BTreeSet::from([Role::Flow, Role::Route, Role::Deliver, Role::Track, Role::Schedule]);
    let start = Start::now(&metrics);
    let mut instance = Instance::start_on(&config, &roles, backends, metrics.clone(), sinks).await?;
    counted(&instance, &metrics, messages).await?;
    let figure = start.figure(what, messages, &metrics);
    instance.stopper().cancel();
    instance.wait().await?;
    Ok(figure)
}

/// Waits until the last message is sent and counted.
async fn counted(instance: &Instance, metrics: &Metrics, messages: u64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let sent = metrics.delivered.with_label_values(&["email", "transactional", "accepted"]);
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

fn profile(n: u64, now: Timestamp) -> bellwether_schemas::tables::MemberRow {
    let member = format!("m{n}");
    let address = Address::active(format!("{member}@example.com"), now);
    let profile = Profile { addresses: [(Channel::Email, vec![address])].into(), ..Profile::default() };
    profile.into_row(PROJECT, &member)
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

/// Postfix's smtp-sink on a free port; it ends with this value.
struct SmtpSinkProcess {
    address: SocketAddr,
    child: Child,
}

impl SmtpSinkProcess {
    fn start() -> anyhow::Result<Self> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        // As root it wants to become somebody else.
        let child = Command::new("smtp-sink")
            .args(["-u", "nobody", &address.to_string(), "1000"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("smtp-sink: not found; it comes with Postfix (Debian: apt-get install postfix)")?;
        let sink = Self { address, child };
        let begun = Instant::now();
        while TcpStream::connect(address).is_err() {
            ensure!(begun.elapsed() < Duration::from_secs(10), "smtp-sink does not listen on {address}");
            std::thread::yield_now();
        }
        Ok(sink)
    }
}

impl Drop for SmtpSinkProcess {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            tracing::debug!(%error, "smtp-sink was gone before");
        }
    }
}

/// The yardstick: Postfix's smtp-source with as many connections, kept open, and as many messages of the same size.
fn smtp_source(sink: &SmtpSinkProcess, smtp: &Smtp) -> anyhow::Result<Figure> {
    let begun = Instant::now();
    let status = Command::new("smtp-source")
        .args(["-d", "-s", &smtp.connections.to_string(), "-m", &smtp.options.messages.to_string()])
        .args(["-l", &smtp.size.to_string(), "-f", "a@example.com", "-t", "b@example.com", &sink.address.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("smtp-source: not found; it comes with Postfix (Debian: apt-get install postfix)")?;
    ensure!(status.success(), "smtp-source ended with {status}");
    let seconds = begun.elapsed().as_secs_f64();
    Ok(Figure {
        what: format!("smtp-source, {} connections, {} B", smtp.connections, smtp.size),
        messages: smtp.options.messages,
        seconds,
        per_second: smtp.options.messages as f64 / seconds,
        cpu_us_per_message: 0.0,
        peak_rss_mib: 0.0,
        operations_per_message: std::collections::BTreeMap::new(),
    })
}
