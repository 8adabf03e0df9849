//! The services that tests of a cluster talk to: a Kafka and a CQL store, which `cargo xtask services up` starts.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

fn address(variable: &str, default: &str) -> SocketAddr {
    let at: SocketAddr = std::env::var(variable).unwrap_or_else(|_| default.into()).parse().unwrap();
    let reached = TcpStream::connect_timeout(&at, Duration::from_secs(5));
    assert!(reached.is_ok(), "nothing answers on {at}; start the services: cargo xtask services up");
    at
}

/// Log and store of a cluster as configuration, in topics and tables of their own.
pub(crate) fn cluster_of(name: &str, partitions: u32) -> String {
    let kafka = address("BELLWETHER_KAFKA", "127.0.0.1:19092");
    let cql = address("BELLWETHER_CQL", "127.0.0.1:19042");
    let unique = format!("{name}_{}", uuid::Uuid::now_v7().simple());
    format!(
        "partitions: {partitions}\n\
         log: {{kafka: {{brokers: [\"{kafka}\"], topic_prefix: {unique}., session_timeout_ms: 6000}}}}\n\
         store: {{scylla: {{contact_points: [\"{cql}\"], keyspace: {unique}}}}}\n"
    )
}
