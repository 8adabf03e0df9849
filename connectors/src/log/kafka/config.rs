//! Configuration of the Kafka log, and the librdkafka settings that follow from it.
//! What the promises of the log rest on (acknowledgement, commits, assignment) is set here and cannot be overridden.

use super::super::LogError;
use crate::secret::{Resolve as _, Secret};
use bellwether_schemas::topics::RETENTION_DAYS;
use rdkafka::ClientConfig;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// How to reach a Kafka cluster, and how to behave there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaConfig {
    /// `host:port` of some brokers; the others are found through them.
    pub brokers: Vec<String>,
    /// Stands before every topic and every consumer group, so that several installations can share a cluster.
    /// Letters, digits, `.`, `_` and `-`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub topic_prefix: String,
    /// Copies of each partition that `create_topics` asks for. Three survive the loss of a broker without a pause.
    #[serde(default = "default_replication")]
    pub replication: u16,
    /// Days that topics keep their records, dead letters apart; set when `topics create` makes them, and not changed afterwards.
    #[serde(default = "default_retention_days")]
    pub retention_days: u32,
    /// Milliseconds without a poll (or a heartbeat) after which a consumer is put out of its group. The broker bounds it by
    /// `group.min.session.timeout.ms` (6,000) and `group.max.session.timeout.ms`.
    #[serde(default = "default_session_timeout_ms")]
    pub session_timeout_ms: u32,
    /// TLS; absent means plain TCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authentication; absent means none (or the TLS certificate alone).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Further librdkafka settings, by the names of its CONFIGURATION.md. Not for secrets, and not for what the log's promises rest on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// TLS settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaTls {
    /// PEM file of the authorities that sign the brokers' certificates; absent means those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate, where brokers ask for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Secret>,
}

/// SASL settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSasl {
    /// Mechanism.
    pub mechanism: SaslMechanism,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// A SASL mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SaslMechanism {
    /// RFC 4616. Sends the password as it is: use it with TLS only.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// As RFC 7677, with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    const fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

const fn default_replication() -> u16 {
    1
}

const fn default_retention_days() -> u32 {
    RETENTION_DAYS
}

const fn default_session_timeout_ms() -> u32 {
    30_000
}

/// Settings that the log's promises rest on, or that have a field of their own.
const RESERVED: [&str; 23] = [
    "acks",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "max.poll.interval.ms",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "security.protocol",
    "session.timeout.ms",
    "statistics.interval.ms",
    "transactional.id",
];

/// Records and KiB that wait in the producer at most; appends beyond that wait for room.
const PRODUCER_QUEUE_RECORDS: u32 = 50_000;
const PRODUCER_QUEUE_KIB: u32 = 16 * 1024;
/// Milliseconds after which an append that is not acknowledged fails.
const DELIVERY_TIMEOUT_MS: u32 = 30_000;
/// Largest batch that is sent, just below the broker's default of 1,048,588.
const MESSAGE_MAX_BYTES: usize = 1_004_096;
/// What a batch of one record weighs beside key, payload and headers, amply counted.
const BATCH_OVERHEAD_BYTES: usize = 4096;
/// What one consumer may read ahead, over all partitions of its topics: half of it is queued, the other half allows for batches on their way,
/// which grow when they are unpacked.
const READ_AHEAD_BYTES: u64 = 16 << 20;

impl KafkaConfig {
    /// The defaults, at these brokers.
    #[must_use]
    pub fn new(brokers: Vec<String>) -> Self {
        Self {
            brokers,
            topic_prefix: String::new(),
            replication: default_replication(),
            retention_days: default_retention_days(),
            session_timeout_ms: default_session_timeout_ms(),
            tls: None,
            sasl: None,
            options: BTreeMap::new(),
        }
    }

    /// See [`KafkaConfig::retention_days`].
    #[must_use]
    pub const fn retention(&self) -> Duration {
        Duration::from_secs(86_400).saturating_mul(self.retention_days)
    }

    /// See [`KafkaConfig::session_timeout_ms`].
    #[must_use]
    pub const fn session_timeout(&self) -> Duration {
        Duration::from_millis(self.session_timeout_ms as u64)
    }

    /// Checks what can be checked without a broker.
    ///
    /// # Errors
    /// [`LogError::Refused`], naming the field and the remedy.
    pub fn validate(&self) -> Result<(), LogError> {
        let refuse = |text: String| Err(LogError::Refused(text));
        if self.brokers.is_empty() || self.brokers.iter().any(|b| b.trim().is_empty() || b.contains(',')) {
            return refuse("kafka.brokers: name at least one broker as host:port, one an entry".into());
        }
        if !self.topic_prefix.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
            return refuse("kafka.topic_prefix: use letters, digits, `.`, `_` and `-` only".into());
        }
        if self.replication == 0 || i16::try_from(self.replication).is_err() {
            return refuse("kafka.replication: use 1 to the number of brokers".into());
        }
        if !(1..=3_600_000).contains(&self.session_timeout_ms) {
            return refuse("kafka.session_timeout_ms: use 6000 to 3600000".into());
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            return refuse("kafka.tls: certificate and key belong together, give both or none".into());
        }
        for name in self.options.keys() {
            if RESERVED.contains(&name.as_str()) {
                return refuse(format!("kafka.options: `{name}` is set by Bellwether, remove it"));
            }
            if ["password", "secret", ".pem", "token"].iter().any(|word| name.contains(word)) {
                return refuse(format!("kafka.options: `{name}` may hold a secret, use kafka.tls or kafka.sasl"));
            }
        }
        Ok(())
    }

    fn message_max_bytes(&self) -> usize {
        self.options.get("message.max.bytes").and_then(|text| text.parse().ok()).unwrap_or(MESSAGE_MAX_BYTES)
    }

    /// Largest record that an append takes: bytes of key, payload and headers.
    pub(super) fn record_max_bytes(&self) -> usize {
        self.message_max_bytes().saturating_sub(BATCH_OVERHEAD_BYTES)
    }

    /// What every client has in common. Fetches the secrets.
    fn client(&self) -> Result<ClientConfig, LogError> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.brokers.join(","))
            .set("client.id", "bellwether")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true")
            // After a broker's restart we want to be back within about a second, not ten.
            .set("reconnect.backoff.max.ms", "1000")
            .set(
                "security.protocol",
                match (self.tls.is_some(), self.sasl.is_some()) {
                    (false, false) => "plaintext",
                    (true, false) => "ssl",
                    (false, true) => "sasl_plaintext",
                    (true, true) => "sasl_ssl",
                },
            );
        if let Some(tls) = &self.tls {
            if let Some(ca) = &tls.ca {
                client.set("ssl.ca.location", ca.to_string_lossy());
            }
            if let Some(certificate) = &tls.certificate {
                client.set("ssl.certificate.location", certificate.to_string_lossy());
            }
            if let Some(key) = &tls.key {
                client.set("ssl.key.pem", resolve("kafka.tls.key", key)?);
            }
        }
        if let Some(sasl) = &self.sasl {
            client
                .set("sasl.mechanism", sasl.mechanism.name())
                .set("sasl.username", &sasl.username)
                .set("sasl.password", resolve("kafka.sasl.password", &sasl.password)?);
        }
        Ok(client)
    }

    fn with_options(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.options {
            client.set(name, value);
        }
        client
    }

    /// Settings of the producer: idempotent, acknowledged by all in-sync copies, bounded.
    pub(super) fn producer(&self) -> Result<ClientConfig, LogError> {
        let mut client = self.client()?;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", "lz4")
            // Measured with 1 to 10 ms: callers that await their batches gain nothing by more, and each pays it in latency.
            .set("linger.ms", "1")
            .set("queue.buffering.max.messages", PRODUCER_QUEUE_RECORDS.to_string())
            .set("queue.buffering.max.kbytes", PRODUCER_QUEUE_KIB.to_string())
            .set("message.max.bytes", MESSAGE_MAX_BYTES.to_string())
            .set("message.timeout.ms", DELIVERY_TIMEOUT_MS.to_string());
        Ok(self.with_options(client))
    }

    /// Settings of a member of `group` whose topics have `partitions` partitions in all.
    pub(super) fn member(&self, group: &str, partitions: usize) -> Result<ClientConfig, LogError> {
        let session = self.session_timeout_ms;
        // Partitions have queues of their own, so the read-ahead is bounded per partition. One member may come to own them all.
        let share = READ_AHEAD_BYTES / 2 / u64::try_from(partitions.max(1)).unwrap_or(u64::MAX);
        let share = share.clamp(64 << 10, 1 << 20);
        // Batches are unpacked when they arrive: what is under way is kept small beside what may be queued.
        let fetch = share / 4;
        let mut client = self.client()?;
        client
            .set("group.id", group)
            .set("group.protocol", "classic")
            // Range gives whoever has partition n of one topic the n-th of all, and both sides of a rebalance see the same moment.
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", session.to_string())
            // Not to poll is as bad as not to answer: the log promises one bound for both.
            .set("max.poll.interval.ms", session.to_string())
            .set("heartbeat.interval.ms", (session / 10).clamp(1, 1000).to_string())
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("queued.max.messages.kbytes", (share >> 10).to_string())
            // Small records weigh more than they count, by some 300 bytes each.
            .set("queued.min.messages", (share / 256).to_string())
            .set("fetch.message.max.bytes", fetch.to_string())
            .set("fetch.max.bytes", (4 << 20).max(self.message_max_bytes()).to_string())
            // A full queue of a partition is looked at again this soon; the default of a second would cap its throughput.
            .set("fetch.queue.backoff.ms", "5")
            // A partition that has room again waits for the fetch under way, so that one may not wait long for new records.
            .set("fetch.wait.max.ms", "50")
            .set("fetch.error.backoff.ms", "100");
        Ok(self.with_options(client))
    }

    /// Settings of a client that asks for offsets, of `group` where it is given, and reads single partitions, but joins nothing.
    pub(super) fn reader(&self, group: Option<&str>) -> Result<ClientConfig, LogError> {
        let mut client = self.client()?;
        client
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("queued.max.messages.kbytes", "512")
            .set("fetch.message.max.bytes", (512 << 10).to_string())
            .set("fetch.max.bytes", (1 << 20).max(self.message_max_bytes()).to_string())
            .set("fetch.wait.max.ms", "10")
            .set("fetch.queue.backoff.ms", "5");
        if let Some(group) = group {
            client.set("group.id", group);
        }
        Ok(self.with_options(client))
    }

    /// Settings of a client for administration.
    pub(super) fn admin(&self) -> Result<ClientConfig, LogError> {
        Ok(self.with_options(self.client()?))
    }
}

fn resolve(field: &str, secret: &Secret) -> Result<String, LogError> {
    secret
        .resolve()
        .map(|value| value.expose_secret().to_owned())
        .map_err(|e| LogError::Refused(format!("{field}: {e}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<KafkaConfig, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn defaults_are_those_that_are_documented() {
        assert_eq!(parse(r#"{"brokers":["a:9092"]}"#).unwrap(), KafkaConfig::new(vec!["a:9092".into()]));
    }

    #[test]
    fn an_unknown_field_is_refused() {
        assert!(parse(r#"{"brokers":["a:9092"],"topics_prefix":"x"}"#).is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = KafkaConfig::new(vec!["a:9092".into()]);
        let cases = [
            (KafkaConfig { brokers: vec![], ..good.clone() }, "kafka.brokers"),
            (KafkaConfig { brokers: vec!["a:1,b:2".into()], ..good.clone() }, "kafka.brokers"),
            (KafkaConfig { topic_prefix: "^all".into(), ..good.clone() }, "kafka.topic_prefix"),
            (KafkaConfig { replication: 0, ..good.clone() }, "kafka.replication"),
            (KafkaConfig { session_timeout_ms: 0, ..good.clone() }, "kafka.session_timeout_ms"),
            (
                KafkaConfig {
                    tls: Some(KafkaTls { certificate: Some("c.pem".into()), ..KafkaTls::default() }),
                    ..good.clone()
                },
                "kafka.tls",
            ),
            (KafkaConfig { options: [("acks".into(), "1".into())].into(), ..good.clone() }, "`acks`"),
            (KafkaConfig { options: [("ssl.key.password".into(), "x".into())].into(), ..good.clone() }, "secret"),
        ];
        for (config, word) in cases {
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        good.validate().unwrap();
    }

    #[test]
    fn protocol_follows_tls_and_sasl() {
        let sasl = KafkaSasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "u".into(),
            password: Secret::Env("PATH".into()),
        };
        for (tls, sasl, protocol) in [
            (None, None, "plaintext"),
            (Some(KafkaTls::default()), None, "ssl"),
            (None, Some(sasl.clone()), "sasl_plaintext"),
            (Some(KafkaTls::default()), Some(sasl), "sasl_ssl"),
        ] {
            let client = KafkaConfig { tls, sasl, ..KafkaConfig::new(vec!["a:9092".into()]) }.client().unwrap();
            assert_eq!(client.get("security.protocol"), Some(protocol));
        }
    }

    #[test]
    fn a_missing_secret_names_its_field() {
        let sasl = KafkaSasl {
            mechanism: SaslMechanism::Plain,
            username: "u".into(),
            password: Secret::Env("BELLWETHER_TEST_NO_SUCH_VARIABLE".into()),
        };
        let config = KafkaConfig { sasl: Some(sasl), ..KafkaConfig::new(vec!["a:9092".into()]) };
        assert!(config.producer().unwrap_err().to_string().contains("kafka.sasl.password"));
    }

    #[test]
    fn read_ahead_is_shared_among_partitions() {
        let config = KafkaConfig::new(vec!["a:9092".into()]);
        let kib =
            |partitions| config.member("g", partitions).unwrap().get("queued.max.messages.kbytes").map(str::to_owned);
        assert_eq!(kib(16).as_deref(), Some("512"));
        assert_eq!(kib(1).as_deref(), Some("1024"));
        assert_eq!(kib(10_000).as_deref(), Some("64"));
    }
}
