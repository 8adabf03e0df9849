//! The `bellwether` command.

use bellwether::{
    backends, bench, check,
    config::{Config, LogConfig, StoreConfig},
    demo,
    serve::{Instance, Role},
    telemetry,
};
use bellwether_connectors::{
    log::{Log as _, kafka::KafkaLog},
    store::{Store as _, scylla::ScyllaStore},
};
use clap::{Parser, Subcommand};
use std::{collections::BTreeSet, path::PathBuf, process::ExitCode};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Omnichannel notifications: events in, the right message on the right channel out, exactly counted.
#[derive(Debug, Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pipeline, or some of its roles.
    Serve {
        /// Configuration; without one everything is embedded in ./bellwether-data.
        #[arg(long, value_name = "FILE", env = "BELLWETHER_CONFIG")]
        config: Option<PathBuf>,
        /// Roles of this process.
        #[arg(long = "role", value_delimiter = ',', value_enum, default_values_t = Role::ALL)]
        roles: Vec<Role>,
        /// Project of the generated API key, and of events on the topic that name none.
        #[arg(long, env = "BELLWETHER_PROJECT")]
        project: Option<String>,
        /// Logs as text for people instead of JSON.
        #[arg(long)]
        human: bool,
    },
    /// Check the configuration and reach everything that it names.
    Check {
        /// Configuration.
        #[arg(long, value_name = "FILE", env = "BELLWETHER_CONFIG")]
        config: Option<PathBuf>,
    },
    /// Topics of the log.
    #[command(subcommand)]
    Topics(Topics),
    /// Bring the tables of the CQL store up to date.
    Migrate {
        /// Configuration.
        #[arg(long, value_name = "FILE", env = "BELLWETHER_CONFIG")]
        config: PathBuf,
    },
    /// Make a key pair for web push.
    Vapid,
    /// Run the example shop through the whole pipeline and compare every count.
    Demo(demo::Demo),
    /// Measure what a message costs here.
    #[command(subcommand)]
    Bench(bench::Bench),
    #[command(flatten)]
    Client(bellwether::cli::Client),
}

#[derive(Debug, Subcommand)]
enum Topics {
    /// Create what is missing, with partitions, retention and compaction.
    Create {
        /// Configuration.
        #[arg(long, value_name = "FILE", env = "BELLWETHER_CONFIG")]
        config: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().command).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bellwether: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Serve { config, roles, project, human } => {
            telemetry::init(human, "info");
            let mut config = Config::load(config.as_deref())?;
            config.default_project = project.or(config.default_project);
            serve(config, roles.into_iter().collect()).await?;
            Ok(true)
        }
        Command::Check { config } => {
            telemetry::init(true, "error");
            Ok(check::run(config.as_deref()).await)
        }
        Command::Topics(Topics::Create { config }) => {
            telemetry::init(true, "warn");
            let config = Config::load(Some(&config))?;
            match &config.log {
                LogConfig::Embedded => println!("the embedded log makes its topics by itself"),
                LogConfig::Kafka(kafka) => {
                    let made = KafkaLog::connect(kafka.clone())?.create_topics(config.partitions).await?;
                    made.iter().for_each(|topic| println!("created {}{topic}", kafka.topic_prefix));
                    println!("{} topics created", made.len());
                }
            }
            Ok(true)
        }
        Command::Migrate { config } => {
            telemetry::init(true, "warn");
            match &Config::load(Some(&config))?.store {
                StoreConfig::Embedded => println!("the embedded store makes its tables by itself"),
                StoreConfig::Scylla(scylla) => {
                    let ran = ScyllaStore::connect(scylla.clone()).await?.migrate().await?;
                    ran.iter().for_each(|name| println!("applied {name}"));
                    println!("{} migrations applied", ran.len());
                }
            }
            Ok(true)
        }
        Command::Vapid => {
            let (private, public) = bellwether_connectors::channels::web_push::generate_vapid()?;
            println!("private {private}\npublic  {public}");
            eprintln!(
                "Keep the private one where `vapid_private_key` names it; browsers are given the public one by the API."
            );
            Ok(true)
        }
        Command::Demo(args) => {
            telemetry::init(true, "error");
            demo::run(args).await
        }
        Command::Bench(bench) => {
            telemetry::init(true, "error");
            bench::run(bench).await.map(|()| true)
        }
        Command::Client(client) => {
            telemetry::init(true, "warn");
            client.run().await.map(|()| true)
        }
    }
}

/// Runs until SIGTERM or SIGINT; what is begun is finished and committed.
async fn serve(mut config: Config, roles: BTreeSet<Role>) -> anyhow::Result<()> {
    if let Some(file) = backends::ensure_key(&mut config)? {
        tracing::info!(file = %file.display(), "API key of this embedded instance");
    }
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut instance = Instance::start(&config, &roles).await?;
    tracing::info!(address = instance.address.map(tracing::field::display), ?roles, "serving");
    let stopper = instance.stopper();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("told to stop: finishing what is begun");
        stopper.cancel();
    });
    instance.wait().await?;
    tracing::info!("stopped");
    Ok(())
}
