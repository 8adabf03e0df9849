//! Apicurio: a schema registry in memory, compatible with Confluent's under `/apis/ccompat/v7`.

use super::{
    Place,
    maven::{self, Artifact},
};
use anyhow::ensure;
use std::{
    io::{BufRead as _, BufReader, Read, Write},
    process::Command,
};

const APP: Artifact = Artifact { group: "io.apicurio", name: "apicurio-registry-app", version: "2.6.13.Final" };

/// Makes `java` the command that runs the registry.
pub(super) fn command(java: &mut Command, place: &Place) -> anyhow::Result<()> {
    let app = maven::archive(&place.programs, &APP, "all")?;
    java.env("QUARKUS_HTTP_HOST", "127.0.0.1").env("QUARKUS_HTTP_PORT", place.ports.registry.to_string());
    java.args(["-Xmx384m", "-jar"]).arg(app.join(format!("{}-{}-runner.jar", APP.name, APP.version)));
    Ok(())
}

/// Asks for the list of subjects.
pub(super) fn ask(stream: &mut (impl Read + Write)) -> anyhow::Result<()> {
    stream.write_all(b"GET /apis/ccompat/v7/subjects HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream.take(1024)).read_line(&mut status)?;
    ensure!(status.split(' ').nth(1) == Some("200"), "the registry answers `{}`", status.trim());
    Ok(())
}
