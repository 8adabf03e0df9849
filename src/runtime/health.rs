//! How every provider stands. What one instance finds by calling goes on the compacted topic `providers`, and every instance acts on what it reads
//! there: a `Retry-After` or a refused account stops the whole cluster's sending to that account, without a coordinator.
//! What an answer means for the pace is decided by the connectors' pacing; nothing is called here.

use crate::runtime::{follow::Reader, retry::until_available, sinks::Sinks, worker::Fatal};
use bellwether_connectors::log::{Append, Log, LogRecord};
use bellwether_schemas::{
    codec::decode,
    records::{ProviderHealth, Record},
};
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Project and provider.
type Name = (String, String);

/// What is known of every provider, and what of it the others have not been told.
#[derive(Debug, Default)]
pub struct Board {
    known: Mutex<HashMap<Name, ProviderHealth>>,
    /// The newest of each provider alone: bounded, however fast things change.
    untold: Mutex<HashMap<Name, ProviderHealth>>,
    news: Notify,
    changes: AtomicU64,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// This instance found something, and the others are to hear of it.
    pub(super) fn found(&self, health: ProviderHealth) {
        let name = (health.project.clone(), health.provider.clone());
        locked(&self.untold).insert(name, health.clone());
        self.heard(health);
        self.news.notify_one();
    }

    /// An instance, perhaps this one, said something.
    pub(super) fn heard(&self, health: ProviderHealth) {
        locked(&self.known).insert((health.project.clone(), health.provider.clone()), health);
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// What was said last of a provider, unless it was said of other settings.
    #[must_use]
    pub fn of(&self, project: &str, provider: &str, settings: &str) -> Option<ProviderHealth> {
        let known = locked(&self.known).get(&(project.to_owned(), provider.to_owned())).cloned();
        known.filter(|health| health.settings == settings)
    }

    /// Grows with every change.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }
}

/// Tells the others what this instance finds, until `stop` is cancelled.
///
/// # Errors
/// The log refuses us.
pub async fn tell(sinks: Arc<Sinks>, log: Arc<dyn Log>, stop: CancellationToken) -> Result<(), Fatal> {
    let board = sinks.board();
    while stop.run_until_cancelled(board.news.notified()).await.is_some() {
        let untold: Vec<_> = std::mem::take(&mut *locked(&board.untold)).into_values().map(Record::Health).collect();
        let appends: Vec<Append> = crate::runtime::worker::encode(untold);
        match until_available("log", &stop, || log.append(appends.clone())).await {
            Err(_) if stop.is_cancelled() => break,
            appended => drop(appended?),
        }
    }
    Ok(())
}

/// Hears what the others find.
#[derive(Debug)]
pub struct Hearing(pub Arc<Sinks>);

impl Reader for Hearing {
    /// So long another instance goes on calling a provider that told one of us to wait.
    const EVERY: Duration = Duration::from_millis(100);

    fn take(&mut self, record: &LogRecord) {
        match decode::<ProviderHealth>(&record.payload) {
            Ok(health) => self.0.adopt(health),
            Err(error) => tracing::error!(position = %record.position, %error, "a provider's health is not readable"),
        }
    }
}
