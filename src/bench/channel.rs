//! A connector through the whole pipeline to its receiver, beside a client that does the same calls with no pipeline, in the same run. The
//! receiver is local and runs on threads of its own, whose work is not counted; smtp-sink and smtp-source are processes.

use crate::{
    bench::{
        Channel, Figure, Ground,
        drain::{Drained, LIFE, Load, MEMBERS, drain},
        usage::{RECEIVER, Start, cpu_seconds_of_children},
    },
    demo::accounts::Accounts,
    metrics::Metrics,
    receivers::{HttpOptions, http::Call},
    runtime::{
        clock::Clock,
        sinks::{Build, Sinks},
    },
};
use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use axum::http::uri::PathAndQuery;
use bellwether_connectors::channels::{
    self, Accepted, KINDS, Message, SendError, Sink, apns, fcm, smtp, telegram, web_push,
};
use futures::{StreamExt as _, stream};
use serde_json::json;
use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Handle, Runtime};

/// Messages through the pipeline before anything is measured: connections are open then, and one call is known to be made again.
const WARM_UP: u64 = 1_000;
/// Messages that a connector sends without pipeline, in turn.
const SAMPLE: usize = 1_000;
/// Seconds for which the 99th percentile is taken.
const PACED_SECONDS: u32 = 5;
/// Browsers that subscribe; to make a key pair for every member would take longer than the bench.
const BROWSERS: u64 = 500;

/// Runs the bench of one connector: the client, the connector alone, the pipeline.
///
/// # Errors
/// Something could not be started or reached; Postfix's tools are missing for `smtp`.
pub async fn run(asked: &Channel) -> anyhow::Result<Vec<Figure>> {
    let (kind, _) = KINDS.into_iter().find(|(kind, _)| *kind == asked.name).context("no such connector")?;
    if kind == smtp::KIND { to_smtp_sink(asked).await } else { to_receiver(kind, asked).await }
}

async fn to_receiver(kind: &'static str, asked: &Channel) -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let threads = Threads::start()?;
    // A client keeps more connections open than it has calls in flight, and up to two clients live at once.
    let options = HttpOptions { keep: 0, max_concurrent: asked.in_flight as usize * 8, ..HttpOptions::default() };
    let path = folder.path().to_owned();
    let accounts = threads.handle()?.spawn(async move { Accounts::open(&path, &options).await }).await??;
    let mut settings = accounts.settings(kind);
    settings.insert("timeout_seconds".into(), 60.into());
    let addresses = addresses(kind, &accounts)?;
    let load = Load { kind, settings, size: asked.size, in_flight: asked.in_flight, addresses };

    let watch = Watch::default();
    pipeline(asked, &load, WARM_UP, &watch).await?.1.end().await?;
    let call = accounts.receiver(kind).and_then(|receiver| receiver.last_call()).context("nothing arrived")?;
    let client = client(kind)?;
    let path = call.uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let url = format!("{}{path}", accounts.receiver(kind).context("no receiver")?.url());
    let raw = measured(format!("reqwest, {} in flight, {} B", asked.in_flight, call.body.len()), asked, async |_| {
        again(&client, &url, &call).await
    })
    .await?;
    drop(client);
    let alone = connector(asked, &load, &watch).await?;
    let figures = vec![raw, alone];
    with_pipeline(asked, &load, &watch, figures).await
}

/// The receiver's own threads. They end without being waited for, which nobody may do here.
struct Threads(Option<Runtime>);

impl Threads {
    fn start() -> std::io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name(RECEIVER).enable_all().build().map(|runtime| Self(Some(runtime)))
    }

    fn handle(&self) -> anyhow::Result<&Handle> {
        self.0.as_ref().map(Runtime::handle).context("the receiver's threads have ended")
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Drains to smtp-sink, after smtp-source has sent it as many.
async fn to_smtp_sink(asked: &Channel) -> anyhow::Result<Vec<Figure>> {
    let sink = SmtpSinkProcess::start()?;
    let source = smtp_source(&sink, asked)?;
    let settings = json!({
        "host": sink.address.ip().to_string(), "port": sink.address.port(), "security": "none",
        "from_address": "a@example.com", "pool": {"max_connections": asked.connections},
    });
    let settings = settings.as_object().cloned().unwrap_or_default();
    let addresses = (0..MEMBERS).map(|n| format!("m{n}@example.com")).collect();
    let load = Load { kind: smtp::KIND, settings, size: asked.size, in_flight: asked.in_flight, addresses };
    let watch = Watch::default();
    pipeline(asked, &load, WARM_UP, &watch).await?.1.end().await?;
    let alone = connector(asked, &load, &watch).await?;
    with_pipeline(asked, &load, &watch, vec![source, alone]).await
}

/// Adds the figure of the pipeline, as a multiple of the first one.
async fn with_pipeline(
    asked: &Channel,
    load: &Load,
    watch: &Watch,
    mut figures: Vec<Figure>,
) -> anyhow::Result<Vec<Figure>> {
    let (mut figure, mut drained) = pipeline(asked, load, asked.options.messages, watch).await?;
    watch.forget();
    drained.paced(asked.rate, PACED_SECONDS).await?;
    drained.end().await?;
    figure.p99_ms = watch.p99();
    let client = figures.first().map_or(0.0, |client| client.cpu_us_per_message);
    figure.cpu_of_client = (client > 0.0).then(|| figure.cpu_us_per_message / client);
    figures.push(figure);
    Ok(figures)
}

async fn pipeline(asked: &Channel, load: &Load, messages: u64, watch: &Watch) -> anyhow::Result<(Figure, Drained)> {
    let ground = Ground::open(&asked.options).await?;
    let what = format!("pipeline, {}, {} in flight, {} B", ground.name(), asked.in_flight, asked.size);
    let watching = watch.clone();
    let build: Build = Box::new(move |provider| {
        let sink = channels::build(&provider.kind, &provider.settings)?;
        Ok(Arc::new(Watched { sink, watch: watching.clone() }) as Arc<dyn Sink>)
    });
    let sinks = Sinks::with(ground.metrics.clone(), Clock::system(), build);
    drain(ground, sinks, messages, load, what).await
}

/// The connector without pipeline: the messages of the warm-up, in turn.
async fn connector(asked: &Channel, load: &Load, watch: &Watch) -> anyhow::Result<Figure> {
    let sink = channels::build(load.kind, &load.settings)?;
    let messages = watch.seen.lock().unwrap_or_else(PoisonError::into_inner).messages.clone();
    ensure!(!messages.is_empty(), "the warm-up sent nothing");
    let what = format!("{} alone, {} in flight, {} B", load.kind, asked.in_flight, asked.size);
    measured(what, asked, async |n: u64| {
        let message = &messages[n as usize % messages.len()];
        sink.send(message).await.map(drop).map_err(|error| anyhow::anyhow!("{error}"))
    })
    .await
}

/// Makes as many calls as there are messages, then some at the rate that was asked for.
async fn measured(
    what: String,
    asked: &Channel,
    call: impl AsyncFn(u64) -> anyhow::Result<()>,
) -> anyhow::Result<Figure> {
    let metrics = Metrics::new()?;
    // Connections and tokens are there before the clock starts, as they are for the pipeline.
    for n in 0..u64::from(asked.in_flight) {
        call(n).await?;
    }
    let start = Start::now(&metrics);
    let mut calls = stream::iter(0..asked.options.messages).map(|n| call(n)).buffer_unordered(asked.in_flight as usize);
    while let Some(outcome) = calls.next().await {
        outcome?;
    }
    drop(calls);
    let mut figure = start.figure(what, asked.options.messages, &metrics);
    let mut times = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_secs(1) / asked.rate.max(1));
    let timed = async |n: u64| {
        let begun = Instant::now();
        call(n).await.map(|()| begun.elapsed())
    };
    let mut running = stream::FuturesUnordered::new();
    let mut left = u64::from(asked.rate * PACED_SECONDS);
    while left > 0 || !running.is_empty() {
        tokio::select! {
            _ = tick.tick(), if left > 0 => {
                left -= 1;
                running.push(timed(left));
            }
            Some(time) = running.next(), if !running.is_empty() => times.push(time?),
        }
    }
    figure.p99_ms = p99(&mut times);
    Ok(figure)
}

/// In milliseconds.
fn p99(times: &mut [Duration]) -> Option<f64> {
    times.sort_unstable();
    times.get(times.len() * 99 / 100).map(|time| time.as_secs_f64() * 1_000.0)
}

/// The client that a connector would have.
fn client(kind: &str) -> anyhow::Result<reqwest::Client> {
    let client = reqwest::Client::builder().no_proxy();
    // By http nobody agrees on it in a handshake.
    let client = if kind == apns::KIND { client.http2_prior_knowledge() } else { client };
    Ok(client.build()?)
}

/// Makes a call once more.
async fn again(client: &reqwest::Client, url: &str, call: &Call) -> anyhow::Result<()> {
    let mut request = client.request(call.method.clone(), url).body(call.body.clone());
    for (name, value) in &call.headers {
        // The client writes these itself.
        if !matches!(name.as_str(), "host" | "content-length" | "accept" | "user-agent") {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await?;
    let status = answer.status();
    answer.bytes().await?;
    ensure!(status.is_success(), "the receiver answered {status}");
    Ok(())
}

/// Where the members are; no address ends as one that a receiver treats differently.
fn addresses(kind: &str, accounts: &Accounts) -> anyhow::Result<Vec<String>> {
    let count = if kind == web_push::KIND { BROWSERS } else { MEMBERS };
    (0..count)
        .map(|n| {
            let digits = format!("{:04}", 1_000 + n % 9_000);
            Ok(match kind {
                web_push::KIND => accounts.browser(&format!("b{n}-{digits}"))?.to_string(),
                telegram::KIND => format!("7{n}{digits}"),
                fcm::KIND => format!("{}c{n:020}{digits}", fcm::PREFIX),
                apns::KIND => format!("{}{n:060x}{digits}", apns::PREFIX),
                channels::webhook::KIND => format!("crm-{n}-{digits}"),
                _ => format!("+346{n:04}{digits}"),
            })
        })
        .collect()
}

/// What passed by a sink.
#[derive(Clone, Default)]
struct Watch {
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    /// The first [`SAMPLE`] messages.
    messages: Vec<Message>,
    /// From the acceptance of the event to the provider's, of the last messages.
    ages: Vec<Duration>,
}

/// Ages that are kept: those of the paced seconds are far fewer.
const MAX_AGES: usize = 1_000_000;

impl Watch {
    fn saw(&self, message: &Message, took: Duration) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.messages.len() < SAMPLE {
            seen.messages.push(message.clone());
        }
        if let Some(left) = message.ttl.filter(|_| seen.ages.len() < MAX_AGES) {
            seen.ages.push(Duration::from_secs(LIFE).saturating_sub(left) + took);
        }
    }

    fn forget(&self) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).ages.clear();
    }

    fn p99(&self) -> Option<f64> {
        p99(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner).ages)
    }
}

/// A sink that is watched.
#[derive(Debug)]
struct Watched {
    sink: Arc<dyn Sink>,
    watch: Watch,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Watch")
    }
}

#[async_trait]
impl Sink for Watched {
    fn channel(&self) -> bellwether_schemas::Channel {
        self.sink.channel()
    }
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        let begun = Instant::now();
        let result = self.sink.send(message).await;
        if result.is_ok() {
            self.watch.saw(message, begun.elapsed());
        }
        result
    }
    async fn check(&self) -> Result<(), SendError> {
        self.sink.check().await
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
fn smtp_source(sink: &SmtpSinkProcess, smtp: &Channel) -> anyhow::Result<Figure> {
    let (begun, cpu) = (Instant::now(), cpu_seconds_of_children());
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
        cpu_us_per_message: (cpu_seconds_of_children() - cpu) * 1e6 / smtp.options.messages.max(1) as f64,
        peak_rss_mib: 0.0,
        p99_ms: None,
        cpu_of_client: None,
        operations_per_message: std::collections::BTreeMap::new(),
    })
}
