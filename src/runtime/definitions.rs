//! Everyone serves from the compacted `definitions` topic: read to its end before anything starts, then followed without restart.

use crate::{
    definitions::check_provider,
    runtime::{clock::Clock, retry::until_available, worker::Fatal},
};
use bellwether_connectors::log::{Log, LogError, TopicPartition};
use bellwether_processors::definitions::{Compiled, Projects};
use bellwether_schemas::{Topic, codec::decode, records::DefinitionSet};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often the topic is asked for news.
const EVERY: Duration = Duration::from_millis(200);
/// `definitions` has one partition.
const AT: TopicPartition = TopicPartition { topic: Topic::Definitions, partition: 0 };

/// Follows the topic; the watch holds the newest of every project.
#[derive(Debug)]
pub struct Follower {
    log: Arc<dyn Log>,
    next: u64,
    projects: watch::Sender<Projects>,
    stop: CancellationToken,
}

impl Follower {
    /// Reads the topic to its present end.
    ///
    /// # Errors
    /// The log refuses us, or `stop` was cancelled before it answered.
    pub async fn load(log: Arc<dyn Log>, stop: CancellationToken) -> Result<Self, Fatal> {
        let mut follower = Self { log, next: 0, projects: watch::Sender::new(Projects::default()), stop };
        let (log, stop) = (Arc::clone(&follower.log), follower.stop.clone());
        let bounds = until_available("log", &stop, || log.bounds(Topic::Definitions)).await?;
        let end = bounds.iter().find(|b| b.at == AT).map_or(0, |b| b.end);
        while follower.next < end {
            if follower.advance().await? == 0 {
                break; // Compaction may have taken the last offsets before the end.
            }
        }
        Ok(follower)
    }

    /// The newest definitions, now and later.
    #[must_use]
    pub fn projects(&self) -> watch::Receiver<Projects> {
        self.projects.subscribe()
    }

    /// Follows until `stop` is cancelled.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn run(mut self) -> Result<(), Fatal> {
        while !self.stop.is_cancelled() {
            match self.advance().await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(_) if self.stop.is_cancelled() => break,
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = self.stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Takes in what is new; returns how many records that were.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn advance(&mut self) -> Result<usize, Fatal> {
        let (log, next) = (&self.log, self.next);
        let records = match until_available("log", &self.stop, || log.read(AT, next, 64)).await {
            Ok(records) => records,
            Err(LogError::UnknownTopic(topic)) => return Err(LogError::UnknownTopic(topic).into()),
            Err(error) => return Err(error.into()),
        };
        for record in &records {
            self.next = record.position.offset + 1;
            match decode::<DefinitionSet>(&record.payload).map_err(|e| e.to_string()).and_then(compiled) {
                Ok(project) => self.projects.send_modify(|projects| *projects = projects.with(project)),
                // The version before it stays in force.
                Err(problem) => tracing::error!(position = %record.position, problem, "definitions not usable"),
            }
        }
        Ok(records.len())
    }
}

fn compiled(set: DefinitionSet) -> Result<Arc<Compiled>, String> {
    let document = serde_json::from_str(&set.document).map_err(|e| e.to_string())?;
    Compiled::new(document, set.version, &check_provider).map(Arc::new).map_err(|findings| {
        findings.iter().map(|f| format!("{}: {}", f.path, f.problem)).collect::<Vec<_>>().join("; ")
    })
}

/// A published set for the log.
#[must_use]
pub fn published(project: &str, version: i32, actor: &str, document: String, clock: &Clock) -> DefinitionSet {
    DefinitionSet { project: project.into(), version, published_at: clock.now(), actor: actor.into(), document }
}
