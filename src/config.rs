//! Configuration of a process: one YAML file, every field with a default, checked as a whole before anything starts.

use crate::{http::auth::ApiKeyConfig, mail::MailConfig};
use axum::http::HeaderName;
use bellwether_connectors::{
    embedded::EmbeddedOptions, events::RegistryConfig, log::kafka::KafkaConfig, secret::Secret,
    store::scylla::ScyllaConfig,
};
use bellwether_processors::retention::Retention;
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, str::FromStr as _, time::Duration};

/// A process. Without a file: everything embedded in `./bellwether-data`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Folder of the embedded log and store and of the generated API key.
    pub data_dir: PathBuf,
    /// Address of the HTTP API.
    pub listen: SocketAddr,
    /// Header in which the proxy before us says whose address a request comes from, like `x-forwarded-for`; of several addresses in it the last is
    /// the proxy's own word. With it, the proof of what members say on our pages tells from where. Only for who has such a proxy: anybody can send a header.
    pub client_ip_header: Option<String>,
    /// Partitions of every topic but `definitions`; fixed when the topics are created.
    pub partitions: u32,
    /// The log.
    pub log: LogConfig,
    /// The store.
    pub store: StoreConfig,
    /// Settings of the embedded parts.
    pub embedded: EmbeddedOptions,
    /// Confluent-compatible schema registry, for events in its wire format.
    pub registry: Option<RegistryConfig>,
    /// Project of events on the topic that name none.
    pub default_project: Option<String>,
    /// API keys. None at all: one is generated into `data_dir` (embedded only).
    pub api_keys: Vec<ApiKeyConfig>,
    /// Key of the marks that stay of erased members, at least 32 characters, the same for every process and for ever. None: one is generated
    /// into `data_dir` beside an embedded store; on a cluster nobody can be erased then.
    pub erasure_key: Option<Secret>,
    /// How long what names members is kept in the store.
    pub retention: RetentionConfig,
    /// Where reports on our letters come back.
    pub mail: MailConfig,
    /// Records in a batch.
    pub batch: usize,
    /// Consumers of each processor in this process.
    pub workers: usize,
    /// Deliveries per consumer that may be here at once: read and not settled.
    pub window: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "bellwether-data".into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            client_ip_header: None,
            partitions: 8,
            log: LogConfig::default(),
            store: StoreConfig::default(),
            embedded: EmbeddedOptions::default(),
            registry: None,
            default_project: None,
            api_keys: Vec::new(),
            erasure_key: None,
            retention: RetentionConfig::default(),
            mail: MailConfig::default(),
            batch: 250,
            workers: 1,
            window: 512,
        }
    }
}

/// How long what names members is kept in the store; how long a log keeps its records is the log's own setting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetentionConfig {
    /// Days of a notification's story.
    pub stories_days: u32,
    /// Days of a notification's claim: so long is a duplicate known, and so long leads something from a member to a story.
    pub claims_days: u32,
    /// Days of a dead letter.
    pub dead_letters_days: u32,
}

const DAY: Duration = Duration::from_secs(86_400);
/// Least days of stories and claims: a turn of every channel is to be outlived, and its story read at its end.
const LEAST_DAYS: usize = 7;
/// Most days of anything: ten years.
const MOST_DAYS: usize = 3_650;

impl Default for RetentionConfig {
    fn default() -> Self {
        Self { stories_days: 90, claims_days: 90, dead_letters_days: 30 }
    }
}

impl RetentionConfig {
    /// As the processors take it.
    #[must_use]
    pub fn rows(&self) -> Retention {
        Retention {
            stories: DAY.saturating_mul(self.stories_days),
            claims: DAY.saturating_mul(self.claims_days),
            dead_letters: DAY.saturating_mul(self.dead_letters_days),
        }
    }
}

/// Which log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // There is one in a process.
pub enum LogConfig {
    /// In `data_dir`.
    #[default]
    Embedded,
    /// Apache Kafka.
    Kafka(KafkaConfig),
}

/// Which store.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant)] // There is one in a process.
pub enum StoreConfig {
    /// In `data_dir`.
    #[default]
    Embedded,
    /// ScyllaDB, Apache Cassandra.
    Scylla(ScyllaConfig),
}

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not what it should be; the text names line and column.
    #[error("{path}: {problem}")]
    Parse {
        /// Its path.
        path: PathBuf,
        /// What is wrong where.
        problem: String,
    },
    /// Values that do not go together.
    #[error("{0}")]
    Invalid(String),
}

impl Config {
    /// Reads and checks a file; without one, the defaults.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn load(path: Option<&std::path::Path>) -> Result<Self, ConfigError> {
        let config = match path {
            None => Self::default(),
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.into(), source })?;
                serde_saphyr::from_str(&text)
                    .map_err(|e| ConfigError::Parse { path: path.into(), problem: e.to_string() })?
            }
        };
        let problems = config.problems();
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Invalid(problems.join("\n"))) }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut bounds = |field: &str, value: usize, least: usize, most: usize| {
            if !(least..=most).contains(&value) {
                problems.push(format!("{field}: {value} is out of bounds; choose {least} to {most}"));
            }
        };
        bounds("partitions", self.partitions as usize, 1, 1_024);
        bounds("batch", self.batch, 1, 4_000);
        bounds("workers", self.workers, 1, 64);
        bounds("window", self.window, 1, 16_384);
        let RetentionConfig { stories_days, claims_days, dead_letters_days } = self.retention;
        bounds("retention.stories_days", stories_days as usize, LEAST_DAYS, MOST_DAYS);
        bounds("retention.claims_days", claims_days as usize, LEAST_DAYS, MOST_DAYS);
        bounds("retention.dead_letters_days", dead_letters_days as usize, 1, MOST_DAYS);
        bounds("embedded.retention_days", self.embedded.retention_days as usize, 1, MOST_DAYS);
        if let LogConfig::Kafka(kafka) = &self.log {
            bounds("log.kafka.retention_days", kafka.retention_days as usize, 1, MOST_DAYS);
        }
        if self.client_ip_header.as_deref().is_some_and(|name| HeaderName::from_str(name).is_err()) {
            problems.push("client_ip_header: no name of a header; say x-forwarded-for or what your proxy sets".into());
        }
        if self.mail.listen.is_some() && self.mail.domains.is_empty() {
            problems.push("mail.domains: none; name the return_path_domain of each provider".into());
        }
        let shared = !matches!((&self.log, &self.store), (LogConfig::Embedded, StoreConfig::Embedded));
        if shared && self.api_keys.is_empty() {
            problems.push("api_keys: none; name at least one, because a cluster does not generate them".into());
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwether_processors::fallback;

    #[test]
    fn a_claim_outlives_a_turn_of_every_channel() {
        let config = |claims_days| Config {
            retention: RetentionConfig { claims_days, ..RetentionConfig::default() },
            ..Config::default()
        };
        assert_eq!(config(6).problems(), ["retention.claims_days: 6 is out of bounds; choose 7 to 3650"]);
        assert_eq!(config(7).problems(), [""; 0]);
        assert!(config(7).retention.rows().claims > fallback::LONGEST);
    }

    #[test]
    fn the_defaults_are_those_of_the_processors() {
        assert_eq!(RetentionConfig::default().rows(), Retention::default());
    }
}
