//! The embedded parts' housekeeping, for which Kafka and a CQL store have processes of their own: retention of the log, expiry in the store, and files
//! without what was erased.

use crate::{backends::Backends, runtime::clock::Clock};
use bellwether_connectors::{
    log::embedded::EmbeddedLog,
    store::{Store as _, StoreError, embedded::EmbeddedStore},
};
use bellwether_processors::retention::Retention;
use bellwether_schemas::{Timestamp, rows::Row as _, tables::ErasedRow};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(60);
/// Rows that one look removes at most.
const ROWS: usize = 10_000;
/// Between two rewritings of the whole database, while somebody was erased lately. The first comes [`FIRST_SCRUB`] after the start.
const SCRUB_EVERY: Duration = Duration::from_secs(86_400);
/// A process that is restarted each day gets to it too.
const FIRST_SCRUB: Duration = Duration::from_secs(600);
/// After the last of an erased member has ended by its time, keys of deleted rows stay for ten days, and then it takes a day to come to them.
const GRACE: Duration = Duration::from_secs(12 * 86_400);

/// See the module.
#[derive(Debug)]
pub struct Sweep {
    log: Option<Arc<EmbeddedLog>>,
    store: Option<Arc<EmbeddedStore>>,
    retention: Retention,
    clock: Clock,
}

impl Sweep {
    /// Of the embedded ones among these.
    #[must_use]
    pub fn new(backends: &Backends, retention: Retention, clock: Clock) -> Self {
        Self { log: backends.embedded_log.clone(), store: backends.embedded_store.clone(), retention, clock }
    }

    /// Looks again and again until it is stopped. What fails is tried again with the next look.
    pub async fn run(&self, stop: &CancellationToken) {
        let mut scrub_at = self.clock.now().plus(FIRST_SCRUB);
        while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
            let now = self.clock.now();
            if let Some(log) = &self.log
                && let Err(error) = log.enforce_retention(now).await
            {
                tracing::warn!(%error, "retention not enforced");
            }
            let Some(store) = &self.store else { continue };
            if let Err(error) = store.expire(now, ROWS).await {
                tracing::warn!(%error, "expired rows not swept");
            }
            if now >= scrub_at {
                match self.scrub(store, now).await {
                    Ok(()) => scrub_at = now.plus(SCRUB_EVERY),
                    Err(error) => tracing::warn!(%error, "what was erased is still in the database's files"),
                }
            }
        }
    }

    /// Rewrites the database where something of an erased member may still be in its files.
    async fn scrub(&self, store: &EmbeddedStore, now: Timestamp) -> Result<(), StoreError> {
        let Retention { stories, claims, dead_letters } = self.retention;
        let last_of_it = stories.max(claims).max(dead_letters) + GRACE;
        if erased_since(store, Timestamp(now.0 - i64::try_from(last_of_it.as_millis()).unwrap_or(i64::MAX))).await? {
            tracing::info!("rewriting the database without what was erased");
            store.scrub().await?;
        }
        Ok(())
    }
}

/// Whether anybody was erased since then.
async fn erased_since(store: &EmbeddedStore, since: Timestamp) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let page = store.scan(ErasedRow::TABLE, store.ranges(1)[0], after, 1_000).await?;
        for cells in page.rows {
            if ErasedRow::from_cells(cells)?.at >= since {
                return Ok(true);
            }
        }
        if page.next.is_none() {
            return Ok(false);
        }
        after = page.next;
    }
}
