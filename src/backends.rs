//! Opens the log and the store that the configuration names.

use crate::{
    config::{Config, LogConfig, StoreConfig},
    http::auth::{ApiKeyConfig, Scope},
    metrics::Metrics,
    runtime::metered::{MeteredLog, MeteredStore},
};
use bellwether_connectors::secret::Secret;
use bellwether_connectors::{
    embedded::{Embedded, EmbeddedError},
    log::{Log, LogError, embedded::EmbeddedLog, kafka::KafkaLog},
    store::{Store, StoreError, embedded::EmbeddedStore, scylla::ScyllaStore},
};
use rand::distr::{Alphanumeric, SampleString as _};
use std::{
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

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
    /// The embedded database under both.
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
}

impl Backends {
    /// Opens both. An embedded part gets its topics and tables at once; a cluster gets them by `topics create` and `migrate`.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(config: &Config, metrics: &Metrics) -> Result<Self, OpenError> {
        let embedded = match (&config.log, &config.store) {
            (LogConfig::Kafka(_), StoreConfig::Scylla(_)) => None,
            _ => Some(Embedded::open(&config.data_dir, config.embedded.clone())?),
        };
        let embedded_log =
            embedded.as_ref().map(|e| Arc::clone(&e.log)).filter(|_| matches!(config.log, LogConfig::Embedded));
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

/// Creates topics and tables on a cluster: what `topics create` and `migrate` do.
///
/// # Errors
/// See [`OpenError`].
pub async fn prepare(config: &Config) -> Result<(), OpenError> {
    if let LogConfig::Kafka(kafka) = &config.log {
        KafkaLog::connect(kafka.clone())?.create_topics(config.partitions).await?;
    }
    if let StoreConfig::Scylla(scylla) = &config.store {
        ScyllaStore::connect(scylla.clone()).await?.migrate().await?;
    }
    Ok(())
}

/// A secret of the instance's own in its folder, made when it is not there yet, readable by its owner only; returns the file.
///
/// # Errors
/// The folder or file cannot be written.
pub(crate) fn generated(folder: &Path, name: &str) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let file = folder.join(name);
    let mut options = std::fs::OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(&file) {
        Ok(mut new) => new.write_all(Alphanumeric.sample_string(&mut rand::rng(), 40).as_bytes())?,
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    Ok(file)
}

/// Gives an embedded instance without keys one of its own, in `data_dir/api-key`, readable by its owner only; returns the file.
///
/// # Errors
/// The folder or file cannot be written or read.
pub fn ensure_key(config: &mut Config) -> std::io::Result<Option<PathBuf>> {
    if !config.api_keys.is_empty() {
        return Ok(None);
    }
    let file = generated(&config.data_dir, "api-key")?;
    let project = config.default_project.clone().unwrap_or_else(|| "default".into());
    config.default_project = Some(project.clone());
    config.api_keys.push(ApiKeyConfig {
        name: "embedded".into(),
        project,
        scopes: Scope::ALL.to_vec(),
        secret: Some(Secret::File(file.clone())),
        sha256: None,
    });
    Ok(Some(file))
}
