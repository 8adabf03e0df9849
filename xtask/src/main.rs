//! Chores of the project: `cargo xtask --help`. Nothing of the product lives here, and nothing here is needed to run it.
//!
//! Reading order: [`mod@test`] (what must pass, in which order) with its [`summary`], [`services`] (Kafka, CQL and schema registry on
//! loopback), [`packages`] (what Debian provides), [`counterparts`] (what others wrote that checks ours), [`fuzz`], [`example`].

mod counterparts;
mod example;
mod fuzz;
mod packages;
mod services;
mod signals;
mod summary;
mod test;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use services::{Action, Service};
use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Chores of the project.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Start or stop the real parts on loopback: Kafka, Cassandra (any CQL store stands for ScyllaDB), a schema registry.
    ///
    /// State lies in `.services`, or in $BELLWETHER_SERVICES_HOME. The ports are those of $BELLWETHER_KAFKA_PORT (19092),
    /// $BELLWETHER_CQL_PORT (19042) and $BELLWETHER_REGISTRY_PORT (18081); with another home and other ports, several sets run side by side.
    ///
    /// $BELLWETHER_SERVICES_TLS names a PEM file with a private key (PKCS 8) and a certificate. Then Kafka speaks TLS and SCRAM-SHA-512 on a further
    /// port, $BELLWETHER_KAFKA_TLS_PORT (19094), for `bellwether` with the password `wether-bell`, and the CQL store speaks nothing but TLS, for
    /// `cassandra` with the password `cassandra`.
    Services {
        /// What to do with them.
        action: Action,
        /// Which ones; none names all.
        names: Vec<Service>,
        /// Accept a service that already answers on the port although it was not started from here.
        #[arg(long, env = "BELLWETHER_SERVICES_REUSE", value_parser = clap::builder::FalseyValueParser::new())]
        reuse: bool,
    },
    /// Install what is needed, then check format, lints, documents and alert rules, and run every test.
    Test {
        /// Only what needs no service: format, lints, documents, unit tests and the laws of the layout.
        #[arg(long)]
        fast: bool,
        /// As for `services`.
        #[arg(long, env = "BELLWETHER_SERVICES_REUSE", value_parser = clap::builder::FalseyValueParser::new())]
        reuse: bool,
    },
    /// Fetch what others wrote that checks ours (Python and Node packages), next to the services.
    Counterparts,
    /// Write `examples/shop` anew.
    Example,
    /// Run each target in `fuzz/fuzz_targets` for a while.
    Fuzz {
        /// The only one to run.
        target: Option<String>,
        /// Seconds for each target.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().chore) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(chore: Chore) -> anyhow::Result<ExitCode> {
    let root = root()?;
    match chore {
        Chore::Services { action, names, reuse } => {
            let set = services::Set::from_environment(&root, reuse)?;
            set.run(action, &names).map(|()| ExitCode::SUCCESS)
        }
        Chore::Test { fast, reuse } => test::run(&root, fast, reuse),
        Chore::Counterparts => {
            let set = services::Set::from_environment(&root, false)?;
            counterparts::fetch(&root, set.home()).map(|()| ExitCode::SUCCESS)
        }
        Chore::Example => example::run(&root).map(|()| ExitCode::SUCCESS),
        Chore::Fuzz { target, seconds } => fuzz::run(&root, seconds, target.as_deref()).map(|()| ExitCode::SUCCESS),
    }
}

/// The workspace's folder: the one above this package, whatever folder cargo was called in.
fn root() -> anyhow::Result<PathBuf> {
    let package = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    package.parent().map(Path::to_path_buf).context("the package xtask has no folder above it")
}
