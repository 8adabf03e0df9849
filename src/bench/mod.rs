//! `bellwether bench`: what a message costs here and now. Every figure is meant to be read beside another of the same run; the machine's name for
//! speed is not ours.

pub mod accept;
pub mod channel;
pub mod drain;
pub mod route;
pub mod usage;

use crate::{
    backends::Backends,
    config::{Config, LogConfig, StoreConfig},
    metrics::Metrics,
};
use anyhow::Context as _;
use bellwether_connectors::channels::KINDS;
use serde::Serialize;
use std::{path::PathBuf, time::Duration};

/// What is measured.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Bench {
    /// Events accepted over HTTP, in batches and singly.
    Accept(Options),
    /// Accepted events through flow, route, deliver and track to a provider that does nothing.
    Drain(Options),
    /// Route alone: decisions, plain, with a cap, with a digest and with scores of channels, among so many members.
    Route(Route),
    /// As `drain`, by a connector to its receiver, beside a client without pipeline doing the same: reqwest, or smtp-source.
    Channel(Channel),
}

/// What every bench is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Run on the log and store of this configuration instead of the embedded ones.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// How many messages.
    #[arg(long, default_value_t = 100_000)]
    pub messages: u64,
}

/// What the bench of decisions is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Route {
    /// What every bench is told; the messages are those of each variant.
    #[command(flatten)]
    pub options: Options,
    /// Members in the store before the first decision.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub members: u64,
}

/// What the bench of a connector is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Channel {
    /// The connector.
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(KINDS.map(|(kind, _)| kind)))]
    pub name: String,
    /// What every bench is told.
    #[command(flatten)]
    pub options: Options,
    /// Bytes of a message's text.
    #[arg(long, default_value_t = 300)]
    pub size: usize,
    /// Connections to an SMTP server, ours and smtp-source's.
    #[arg(long, default_value_t = 20)]
    pub connections: u32,
    /// Calls in flight, ours and the client's: the bound on duplicates at a hard kill.
    #[arg(long, default_value_t = 256)]
    pub in_flight: u32,
    /// Messages a second while the 99th percentile is taken: from the event's acceptance to the provider's.
    #[arg(long, default_value_t = 200)]
    pub rate: u32,
}

/// One figure.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What was measured, with its settings.
    pub what: String,
    /// Messages.
    pub messages: u64,
    /// Seconds they took.
    pub seconds: f64,
    /// Messages a second.
    pub per_second: f64,
    /// Processor time of this process per message, in microseconds; a local receiver's threads are not counted.
    pub cpu_us_per_message: f64,
    /// Greatest resident memory of this process so far, in MiB.
    pub peak_rss_mib: f64,
    /// 99th percentile of a message's time at the rate that was asked for, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub p99_ms: Option<f64>,
    /// Processor time per message as a multiple of the client's without pipeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_of_client: Option<f64>,
    /// Calls to log and store per message, by operation.
    pub operations_per_message: std::collections::BTreeMap<String, f64>,
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:44} {:>9.0}/s", self.what, self.per_second)?;
        if self.cpu_us_per_message > 0.0 {
            write!(f, "  {:>6.1} µs CPU/message  {:>6.0} MiB peak", self.cpu_us_per_message, self.peak_rss_mib)?;
        }
        if let Some(p99) = self.p99_ms {
            write!(f, "  p99 {p99:.1} ms")?;
        }
        if let Some(ratio) = self.cpu_of_client {
            write!(f, "  {ratio:.2} x the client's CPU")?;
        }
        for (op, n) in &self.operations_per_message {
            write!(f, "  {op} {n:.2}")?;
        }
        Ok(())
    }
}

/// Runs a bench and prints its figures.
///
/// # Errors
/// Something could not be started or reached.
pub async fn run(bench: Bench) -> anyhow::Result<()> {
    let (figures, json) = match bench {
        Bench::Accept(options) => (accept::run(&options).await?, options.json),
        Bench::Drain(options) => (drain::to_nothing(&options).await?, options.json),
        Bench::Route(route) => (route::run(&route).await?, route.options.json),
        Bench::Channel(channel) => (channel::run(&channel).await?, channel.options.json),
    };
    if json {
        println!("{}", serde_json::to_string(&figures)?);
    } else {
        figures.iter().for_each(|figure| println!("{figure}"));
    }
    Ok(())
}

/// A bench's own log and store: a scratch folder, or fresh topics and tables beside those of the configuration.
struct Ground {
    config: Config,
    backends: Backends,
    metrics: Metrics,
    _folder: tempfile::TempDir,
}

impl Ground {
    async fn open(options: &Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("bellwether-bench-").tempdir().context("a scratch folder")?;
        let mut config = Config::load(options.config.as_deref())?;
        let name = uuid::Uuid::now_v7().simple().to_string();
        config.data_dir = folder.path().to_owned();
        config.listen = ([127, 0, 0, 1], 0).into();
        config.default_project = Some("bench".into());
        if let LogConfig::Kafka(kafka) = &mut config.log {
            kafka.topic_prefix = format!("bench-{name}.");
        }
        if let StoreConfig::Scylla(scylla) = &mut config.store {
            scylla.keyspace = format!("bench_{name}");
        }
        crate::backends::prepare(&config).await?;
        let metrics = Metrics::new()?;
        let backends = Backends::open(&config, &metrics).await?;
        Ok(Self { config, backends, metrics, _folder: folder })
    }

    /// `embedded`, or the names of the parts.
    fn name(&self) -> &'static str {
        match (&self.config.log, &self.config.store) {
            (LogConfig::Embedded, StoreConfig::Embedded) => "embedded",
            (LogConfig::Kafka(_), StoreConfig::Scylla(_)) => "Kafka + CQL",
            (LogConfig::Kafka(_), StoreConfig::Embedded) => "Kafka + embedded",
            (LogConfig::Embedded, StoreConfig::Scylla(_)) => "embedded + CQL",
        }
    }
}

/// How long a bench waits for its last message.
const PATIENCE: Duration = Duration::from_secs(900);
