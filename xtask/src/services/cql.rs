//! Apache Cassandra, one node: the same CQL and wire protocol as ScyllaDB, which is in no package registry.

use super::{
    Place, Ports,
    maven::{self, Artifact},
};
use anyhow::{Context as _, bail, ensure};
use std::{
    env, fs,
    io::{Read, Write},
    process::Command,
};

const PARTS: [Artifact; 1] = [Artifact { group: "org.apache.cassandra", name: "cassandra-all", version: "5.0.9" }];

/// Makes `java` the command that runs the node.
pub(super) fn command(java: &mut Command, place: &Place) -> anyhow::Result<()> {
    let lib = maven::jars(&place.programs, &PARTS)?;
    let Place { folder, ports, .. } = place;
    let conf = folder.join("conf");
    fs::create_dir_all(&conf).with_context(|| conf.display().to_string())?;
    for (name, text) in [("cassandra.yaml", configuration(place, commit_log()?)), ("logback.xml", LOGGING.to_owned())] {
        fs::write(conf.join(name), text).with_context(|| conf.join(name).display().to_string())?;
    }
    java.args(["-Xms512m", "-Xmx768m", "-Djdk.attach.allowAttachSelf=true"]).args(opened_modules());
    java.args(["-Dcassandra.skip_wait_for_gossip_to_settle=0", "-Dcassandra.ring_delay_ms=100"]);
    // The first role is there at once, not after ten seconds.
    java.arg("-Dcassandra.superuser_setup_delay_ms=0");
    java.arg(format!("-Dcassandra.jmx.local.port={}", ports.cql_jmx));
    java.arg(format!("-Dcassandra.storagedir={}", folder.join("data").display()));
    java.arg(format!("-Dcassandra.config=file://{}", conf.join("cassandra.yaml").display()));
    java.arg("-cp").arg(format!("{}:{}/*", conf.display(), lib.display()));
    java.arg("org.apache.cassandra.service.CassandraDaemon");
    Ok(())
}

/// How the node makes a write durable before it acknowledges it: `commitlog_sync`, by default `batch`.
///
/// With `periodic`, Cassandra's own default, a write is acknowledged before it is synced. That costs writes not only when the machine fails but also
/// when the process is killed: the commit log is mapped into memory, but replay ends at the last section marker, which is written every 100 ms.
/// Tried with 8 writers and SIGKILL: 18 to 608 of 1,800 to 12,000 acknowledged rows were gone after each kill; with `batch`, none. A cluster covers this
/// by its replicas, one node cannot. `batch` halves the writes a second; a measurement of speed may ask for `periodic`.
fn commit_log() -> anyhow::Result<&'static str> {
    const NAME: &str = "BELLWETHER_CQL_COMMITLOG_SYNC";
    match env::var(NAME).as_deref() {
        Err(_) | Ok("batch") => Ok("commitlog_sync: batch"),
        Ok("periodic") => Ok("commitlog_sync: periodic\ncommitlog_sync_period: 10000ms"),
        Ok(other) => bail!("{NAME} is `{other}`: use batch or periodic"),
    }
}

/// With an identity, the role is Cassandra's first, `cassandra` with the same word as its password, and nothing is understood but TLS.
fn configuration(place: &Place, commit_log: &str) -> String {
    let Ports { cql, cql_storage, .. } = place.ports;
    let data = place.folder.join("data");
    let data = data.display();
    let security = place.identity.as_ref().map_or_else(String::new, |identity| {
        format!(
            "authenticator: PasswordAuthenticator
client_encryption_options:
  enabled: true
  optional: false
  ssl_context_factory: {{class_name: org.apache.cassandra.security.PEMBasedSslContextFactory}}
  keystore: {}
",
            identity.display()
        )
    });
    format!(
        "cluster_name: local
num_tokens: 16
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: {cql}
storage_port: {cql_storage}
seed_provider: [{{class_name: org.apache.cassandra.locator.SimpleSeedProvider, parameters: [{{seeds: \"127.0.0.1:{cql_storage}\"}}]}}]
{commit_log}
data_file_directories: [ {data}/data ]
commitlog_directory: {data}/commitlog
hints_directory: {data}/hints
saved_caches_directory: {data}/saved_caches
cdc_raw_directory: {data}/cdc
auto_snapshot: false
{security}"
    )
}

const LOGGING: &str = "<configuration>
  <appender name=\"S\" class=\"ch.qos.logback.core.ConsoleAppender\">
    <encoder><pattern>%d %-5level %logger{20} %msg%n</pattern></encoder>
  </appender>
  <root level=\"WARN\"><appender-ref ref=\"S\"/></root>
</configuration>
";

/// What Cassandra needs of the Java 17 modules, as its own `conf/jvm17-server.options` lists it.
fn opened_modules() -> impl Iterator<Item = String> {
    const EXPORTS: [&str; 8] = [
        "java.base/jdk.internal.misc",
        "java.base/jdk.internal.ref",
        "java.base/sun.nio.ch",
        "java.management.rmi/com.sun.jmx.remote.internal.rmi",
        "java.rmi/sun.rmi.registry",
        "java.rmi/sun.rmi.server",
        "java.rmi/sun.rmi.transport.tcp",
        "java.sql/java.sql",
    ];
    const OPENS: [&str; 17] = [
        "java.base/java.io",
        "java.base/java.lang",
        "java.base/java.lang.module",
        "java.base/java.lang.reflect",
        "java.base/java.nio",
        "java.base/java.util",
        "java.base/java.util.concurrent",
        "java.base/java.util.concurrent.atomic",
        "java.base/jdk.internal.loader",
        "java.base/jdk.internal.math",
        "java.base/jdk.internal.module",
        "java.base/jdk.internal.ref",
        "java.base/jdk.internal.reflect",
        "java.base/jdk.internal.util.jar",
        "java.base/sun.nio.ch",
        "java.base/sun.util.calendar",
        "jdk.management/com.sun.management.internal",
    ];
    let exports = EXPORTS.iter().map(|module| format!("--add-exports={module}=ALL-UNNAMED"));
    exports.chain(OPENS.iter().map(|module| format!("--add-opens={module}=ALL-UNNAMED")))
}

/// Sends `OPTIONS` and expects `SUPPORTED`: the node opens this port when it is ready to serve.
///
/// CQL binary protocol, version 4, sections 2 (frame header) and 4.1.3:
/// <https://github.com/apache/cassandra/blob/trunk/doc/native_protocol_v4.spec>.
pub(super) fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    const OPTIONS: u8 = 0x05;
    const SUPPORTED: u8 = 0x06;
    const RESPONSE: u8 = 0x84;
    stream.write_all(&[0x04, 0, 0, 0, OPTIONS, 0, 0, 0, 0])?; // version, flags, stream (2), opcode, length (4)
    let mut answer = [0; 9];
    stream.read_exact(&mut answer)?;
    ensure!(answer[0] == RESPONSE && answer[4] == SUPPORTED, "the answer is not that of a CQL server");
    Ok(())
}
