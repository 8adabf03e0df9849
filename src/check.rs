//! `bellwether check`: is the configuration right, and does everything that it names answer?

use crate::{
    backends::Backends,
    config::{Config, LogConfig, StoreConfig},
    metrics::Metrics,
    runtime::{definitions::Definitions, follow::Follower, worker::Fatal},
    tracking::Tracker,
};
use bellwether_connectors::channels;
use bellwether_processors::definitions::Projects;
use bellwether_schemas::Topic;
use std::{fmt::Display, path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;

/// Checks everything, one line each; false when something is wrong.
pub async fn run(file: Option<&Path>) -> bool {
    let mut sheet = Sheet { good: true };
    let config = match Config::load(file) {
        Ok(config) => {
            sheet.line("configuration", Ok::<_, String>(()));
            config
        }
        Err(error) => {
            sheet.line("configuration", Err(error));
            return false;
        }
    };
    // A cluster that does not answer makes its clients wait; here nobody waits for ever.
    let stop = CancellationToken::new();
    stop.cancel();
    let backends = match Metrics::new().map_err(|e| e.to_string()) {
        Ok(metrics) => Backends::open(&config, &metrics).await.map_err(|e| e.to_string()),
        Err(error) => Err(error),
    };
    let backends = match backends {
        Ok(backends) => backends,
        Err(error) => {
            sheet.line("log and store", Err(error));
            return false;
        }
    };
    let log = match config.log {
        LogConfig::Embedded => "embedded log",
        LogConfig::Kafka(_) => "Kafka",
    };
    let store = match config.store {
        StoreConfig::Embedded => "embedded store",
        StoreConfig::Scylla(_) => "CQL store",
    };
    sheet.line(log, backends.log.ping().await);
    sheet.line(store, backends.store.ping().await);
    if let Some(registry) = &config.registry {
        sheet.line("schema registry", reach(&registry.url).await);
    }
    let definitions = Definitions::default();
    let projects = definitions.projects();
    match Follower::load(Arc::clone(&backends.log), Topic::Definitions, definitions, stop).await {
        Ok(_) => providers(&projects.borrow().clone(), &mut sheet).await,
        Err(Fatal::Log(error)) => sheet.line("definitions", Err(error)),
        Err(error) => sheet.line("definitions", Err(error)),
    }
    sheet.good
}

async fn providers(projects: &Projects, sheet: &mut Sheet) {
    for project in projects.iter() {
        if let Some(tracking) = &project.document.project.tracking {
            sheet
                .line(&format!("tracking {}", project.project), Tracker::new(&project.project, tracking, []).map(drop));
        }
        for (name, provider) in &project.document.providers {
            let result = match channels::build(&provider.kind, &provider.settings) {
                Ok(sink) => sink.check().await.map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            sheet.line(&format!("provider {}/{name}", project.project), result);
        }
    }
}

async fn reach(url: &str) -> Result<(), String> {
    let response = reqwest::get(url).await.map_err(|e| e.without_url().to_string())?;
    let status = response.status();
    if status.is_server_error() { Err(format!("it answers {status}")) } else { Ok(()) }
}

struct Sheet {
    good: bool,
}

impl Sheet {
    fn line<E: Display>(&mut self, what: &str, result: Result<(), E>) {
        match result {
            Ok(()) => println!("ok    {what}"),
            Err(error) => {
                self.good = false;
                println!("FAIL  {what}: {error}");
            }
        }
    }
}
