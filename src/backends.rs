//! Opens the log and the store that the configuration names.

use crate::{
    config::{Config, LogConfig, StoreConfig},
    metrics::Metrics,
    runtime::metered::{MeteredLog, MeteredStore},
};
use bellwether_connectors::{
    embedded::Embedded,
    log::{Log, LogError, embedded::EmbeddedLog, kafka::KafkaLog},
    store::{Store, StoreError, embedded::EmbeddedStore, scylla::ScyllaStore},
};
use std::sync::Arc;

/// An open log and store.
#[derive(Clone, Debug)]
pub struct Backends {
    /// The log, metered.
    pub log: Arc<dyn Log>,
    /// The store, metered.
    pub store: Arc<dyn Store>,
    /// The embedded log, where it is one: it asks its owner to enforce retention.
    pub embedded_log: Option<Arc<EmbeddedLog>>,
    /// The embedded store, where it is one: it asks its owner to sweep what has expired.
    pub embedded_store: Option<Arc<EmbeddedStore>>,
}

/// Why they do not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Backends {
    /// Opens both. An embedded part gets its topics and tables at once; a cluster gets them by `topics create` and `migrate`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config, metrics: &Metrics) -> Result<Self, OpenError> {
        let embedded = match (&config.log, &config.store) {
            (LogConfig::Kafka(_), StoreConfig::Scylla(_)) => None,
            _ => Some(Embedded::open(&config.data_dir, &config.embedded)?),
        };
        let embedded_log = embedded.as_ref().map(|e| Arc::clone(&e.log)).filter(|_| matches!(config.log, LogConfig::Embedded));
        let embedded_store =
            embedded.as_ref().map(|e| Arc::clone(&e.store)).filter(|_| matches!(config.store, StoreConfig::Embedded));
        let log: Arc<dyn Log> = match (&config.log, &embedded_log) {
            (LogConfig::Kafka(kafka), _) => KafkaLog::connect(kafka.clone())?,
            (_, Some(log)) => {
                log.create_topics(config.partitions).await?;
                Arc::clone(log) as Arc<dyn Log>
            }
            _ => return Err(LogError::Refused("no log is configured".into()).into()),
        };
        let store: Arc<dyn Store> = match (&config.store, &embedded_store) {
            (StoreConfig::Scylla(scylla), _) => ScyllaStore::connect(scylla.clone()).await?,
            (_, Some(store)) => {
                store.migrate().await?;
                Arc::clone(store) as Arc<dyn Store>
            }
            _ => return Err(StoreError::Refused("no store is configured".into()).into()),
        };
        Ok(Self {
            log: Arc::new(MeteredLog::new(log, metrics)),
            store: Arc::new(MeteredStore::new(store, metrics)),
            embedded_log,
            embedded_store,
        })
    }
}
