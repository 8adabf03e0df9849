//! Apache Kafka: KRaft, one node, no automatic topics.

use super::{
    Place, Ports,
    maven::{self, Artifact},
};
use anyhow::{Context as _, ensure};
use std::{
    fs,
    io::{Read, Write},
    process::{Command, Stdio},
};

const PARTS: [Artifact; 3] = [
    Artifact { group: "org.apache.kafka", name: "kafka_2.13", version: "4.3.1" },
    // The command-line tools: topics, consumer groups, performance.
    Artifact { group: "org.apache.kafka", name: "kafka-tools", version: "4.3.1" },
    Artifact { group: "org.slf4j", name: "slf4j-simple", version: "1.7.36" },
];

/// Fixed, so that a wiped node comes back as the same cluster; any 16 bytes in base64 do.
const CLUSTER: &str = "AAAAAAAAQACAAAAAAAAAAQ";

/// Makes `java` the command that runs the broker.
pub(super) fn command(java: &mut Command, place: &Place) -> anyhow::Result<()> {
    let lib = maven::jars(&place.programs, &PARTS)?;
    let properties = place.folder.join("server.properties");
    fs::write(&properties, configuration(place)).with_context(|| properties.display().to_string())?;
    let class_path = format!("{}/*", lib.display());
    if !place.folder.join("data/meta.properties").exists() {
        let mut format = Command::new(java.get_program());
        format.args(["-cp", &class_path, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]).arg(&properties);
        if place.identity.is_some() {
            format.args(["--add-scram", USER]);
        }
        let output = format.stdin(Stdio::null()).output().context("Kafka's storage tool")?;
        ensure!(output.status.success(), "Kafka's storage tool: {}", String::from_utf8_lossy(&output.stderr));
    }
    java.args(["-Xmx512m", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", &class_path, "kafka.Kafka"]);
    java.arg(properties);
    Ok(())
}

/// Who may speak TLS, in a new cluster: name and password of the listener with an identity.
const USER: &str = "SCRAM-SHA-512=[name=bellwether,password=wether-bell]";

/// A record is acknowledged once it is in the page cache: it survives the end of the process (which a test can bring about), not that of the machine.
///
/// With an identity there is a second listener for clients, with TLS and SASL; the first stays as it is.
fn configuration(place: &Place) -> String {
    let Ports { kafka, kafka_controller, kafka_tls, .. } = place.ports;
    let (tls, security) = place.identity.as_ref().map_or_else(Default::default, |identity| {
        let security = format!(
            "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,TLS:SASL_SSL
listener.name.tls.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.tls.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.tls.ssl.keystore.type=PEM
listener.name.tls.ssl.keystore.location={}
",
            identity.display()
        );
        (format!(",TLS://127.0.0.1:{kafka_tls}"), security)
    });
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{kafka_controller}
listeners=PLAINTEXT://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{kafka_controller}{tls}
advertised.listeners=PLAINTEXT://127.0.0.1:{kafka}{tls}
controller.listener.names=CONTROLLER
{security}log.dirs={}
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
group.initial.rebalance.delay.ms=0
",
        place.folder.join("data").display()
    )
}

/// Asks for the cluster's metadata: the broker answers, and it is registered with the controller.
///
/// Request `Metadata` version 1 (api key 3) of the Kafka protocol, with an empty list of topics; see
/// <https://kafka.apache.org/protocol#The_Messages_Metadata>.
pub(super) fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    const REQUEST: [u8; 18] = [
        0, 0, 0, 14, // size of what follows
        0, 3, 0, 1, // api key, api version
        0, 0, 0, 7, // correlation id
        0xFF, 0xFF, // no client id
        0, 0, 0, 0, // no topics
    ];
    stream.write_all(&REQUEST)?;
    let mut answer = [0; 12]; // size, correlation id, count of brokers
    stream.read_exact(&mut answer)?;
    let number = |at: usize| i32::from_be_bytes([answer[at], answer[at + 1], answer[at + 2], answer[at + 3]]);
    ensure!(number(4) == 7, "the answer is not Kafka's");
    ensure!(number(8) >= 1, "the cluster has no broker yet");
    Ok(())
}
