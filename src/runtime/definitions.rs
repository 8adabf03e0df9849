//! Everyone serves from the compacted `definitions` topic: the newest of every project, without restart.

use crate::{definitions::check_provider, runtime::follow::Reader};
use bellwether_connectors::log::LogRecord;
use bellwether_processors::definitions::{Compiled, Projects};
use bellwether_schemas::{codec::decode, records::DefinitionSet};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// Compiles what is published; the watch holds the newest of every project.
#[derive(Debug, Default)]
pub struct Definitions(watch::Sender<Projects>);

impl Definitions {
    /// The newest definitions, now and later.
    #[must_use]
    pub fn projects(&self) -> watch::Receiver<Projects> {
        self.0.subscribe()
    }
}

impl Reader for Definitions {
    const EVERY: Duration = Duration::from_millis(200);

    fn take(&mut self, record: &LogRecord) {
        match decode::<DefinitionSet>(&record.payload).map_err(|e| e.to_string()).and_then(compiled) {
            Ok(project) => self.0.send_modify(|projects| *projects = projects.with(project)),
            // The version before it stays in force.
            Err(problem) => tracing::error!(position = %record.position, problem, "definitions not usable"),
        }
    }
}

fn compiled(set: DefinitionSet) -> Result<Arc<Compiled>, String> {
    let document = serde_json::from_str(&set.document).map_err(|e| e.to_string())?;
    Compiled::new(document, set.version, &check_provider).map(Arc::new).map_err(|findings| {
        findings.iter().map(|f| format!("{}: {}", f.path, f.problem)).collect::<Vec<_>>().join("; ")
    })
}
