//! A keyspace of its own on the CQL server of the tests: 127.0.0.1:19042, or what the environment variable `BELLWETHER_CQL` names.

use crate::server::Server;
use bellwether_connectors::store::scylla::{ScyllaConfig, ScyllaStore, ScyllaTls};
use scylla::client::{session::Session, session_builder::SessionBuilder};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A name that nobody else has; the keyspace, if one was made by it, is dropped at the end.
pub(crate) struct Keyspace {
    pub(crate) name: String,
}

fn contact_point() -> String {
    std::env::var("BELLWETHER_CQL").unwrap_or_else(|_| "127.0.0.1:19042".into())
}

impl Keyspace {
    pub(crate) fn new() -> Self {
        Self { name: format!("bw_test_{}", Uuid::new_v4().simple()) }
    }

    /// A store of this keyspace, as another process would have it.
    pub(crate) async fn connect(&self) -> Arc<ScyllaStore> {
        let store = ScyllaStore::connect(ScyllaConfig::new(vec![contact_point()], self.name.clone())).await;
        store.unwrap_or_else(|error| panic!("{error}: start the server by `cargo xtask services up`"))
    }
}

/// How to reach `server`, which asks for TLS and a password.
pub(crate) fn secured(server: &Server) -> ScyllaConfig {
    ScyllaConfig {
        username: Some("cassandra".into()),
        password: Some(server.secret("cassandra")),
        tls: Some(ScyllaTls { ca: Some(server.authority()), certificate: None, key: None, verify_hostname: true }),
        ..ScyllaConfig::new(vec![format!("127.0.0.1:{}", server.port())], "secured")
    }
}

/// Connects to a server that may be so young that it knows no role yet.
pub(crate) async fn connect_young(config: &ScyllaConfig) -> Arc<ScyllaStore> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match ScyllaStore::connect(config.clone()).await {
            Ok(store) => return store,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Talks to the server without a store.
pub(crate) async fn session() -> Session {
    SessionBuilder::new().known_node(contact_point()).build().await.unwrap()
}

impl Drop for Keyspace {
    /// On a thread and session of its own, because the test's runtime may be gone, or be the one that runs this.
    fn drop(&mut self) {
        let text = format!("DROP KEYSPACE IF EXISTS \"{}\"", self.name);
        let dropped = std::thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { session().await.query_unpaged(text, ()).await.map(|_| ()).map_err(Box::new) })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("keyspace {} could not be dropped", self.name);
        }
    }
}
