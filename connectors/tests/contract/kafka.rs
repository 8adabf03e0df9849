//! Topics of a test's own on the Kafka of the tests: 127.0.0.1:19092, or what the environment variable `BELLWETHER_KAFKA` names.

use crate::server::Server;
use bellwether_connectors::log::{
    Log,
    kafka::{KafkaConfig, KafkaLog, KafkaSasl, KafkaTls, SaslMechanism},
};
use bellwether_schemas::Topic;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// The broker's least; a test that waits for it takes this long.
pub(crate) const SESSION: Duration = Duration::from_millis(6_000);

/// Topics with a prefix that nobody else has; they go when this is dropped.
pub(crate) struct Topics {
    pub(crate) prefix: String,
}

fn broker() -> String {
    std::env::var("BELLWETHER_KAFKA").unwrap_or_else(|_| "127.0.0.1:19092".into())
}

/// A configuration for those who may be put out of their group.
pub(crate) fn config(prefix: &str) -> KafkaConfig {
    KafkaConfig {
        topic_prefix: prefix.into(),
        session_timeout_ms: u32::try_from(SESSION.as_millis()).unwrap(),
        ..KafkaConfig::new(vec![broker()])
    }
}

/// A configuration for the listener of `server` that asks for TLS and a password.
pub(crate) fn secured(server: &Server) -> KafkaConfig {
    KafkaConfig {
        brokers: vec![format!("127.0.0.1:{}", server.port() + 2)],
        tls: Some(KafkaTls { ca: Some(server.authority()), ..KafkaTls::default() }),
        sasl: Some(KafkaSasl {
            mechanism: SaslMechanism::ScramSha512,
            username: "bellwether".into(),
            password: server.secret("wether-bell"),
        }),
        ..config("")
    }
}

/// Talks to the broker without a log.
pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", broker()).create().unwrap()
}

impl Topics {
    pub(crate) fn new() -> Self {
        Self { prefix: format!("test-{}.", Uuid::new_v4().simple()) }
    }

    /// A log of these topics, as another process would have it.
    pub(crate) async fn log(&self) -> Arc<KafkaLog> {
        self.log_with(config(&self.prefix)).await
    }

    pub(crate) async fn log_with(&self, config: KafkaConfig) -> Arc<KafkaLog> {
        let log = KafkaLog::connect(config).unwrap();
        let answer = log.ping().await;
        answer.unwrap_or_else(|error| panic!("{error}: start Kafka by `cargo xtask services up`"));
        log
    }
}

impl Drop for Topics {
    /// On a thread of its own: a runtime cannot be entered twice on one.
    fn drop(&mut self) {
        let names: Vec<String> = Topic::all().iter().map(|topic| format!("{}{topic}", self.prefix)).collect();
        let deletion = std::thread::spawn(move || {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { admin().delete_topics(&names, &AdminOptions::new()).await }).map(drop)
        });
        if !matches!(deletion.join(), Ok(Ok(()))) {
            eprintln!("topics {}* could not be deleted", self.prefix);
        }
    }
}
