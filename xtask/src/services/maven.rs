//! Fetches programs from Maven Central, once. It must not start anything.

use anyhow::{Context as _, ensure};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// A program that is fetched: its coordinates are a part of the mark of completeness, so a new version is fetched anew.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) group: &'static str,
    pub(super) name: &'static str,
    pub(super) version: &'static str,
}

/// The artifacts and all that they need, as jar files in `folder/lib`; returns that folder.
pub(super) fn jars(folder: &Path, artifacts: &[Artifact]) -> anyhow::Result<PathBuf> {
    let lib = folder.join("lib");
    once(&lib, &pom(artifacts), || {
        let project = lib.join("pom.xml");
        fs::write(&project, pom(artifacts)).with_context(|| project.display().to_string())?;
        let mut command = maven();
        command.arg("-f").arg(&project).arg("dependency:copy-dependencies");
        run(command.arg(format!("-DoutputDirectory={}", lib.display())))
    })?;
    Ok(lib)
}

/// The `tar.gz` of an artifact under `classifier`, unpacked in `folder/app`; returns that folder.
pub(super) fn archive(folder: &Path, artifact: &Artifact, classifier: &str) -> anyhow::Result<PathBuf> {
    let app = folder.join("app");
    let Artifact { group, name, version } = artifact;
    once(&app, version, || {
        let mut command = maven();
        command.arg("dependency:copy").arg(format!("-Dartifact={group}:{name}:{version}:tar.gz:{classifier}"));
        run(command.arg(format!("-DoutputDirectory={}", folder.display())))?;
        let archive = folder.join(format!("{name}-{version}-{classifier}.tar.gz"));
        run(Command::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&app))?;
        fs::remove_file(&archive).with_context(|| archive.display().to_string())
    })?;
    Ok(app)
}

/// Fills `folder` anew by `fetch`, unless that was done before for the same `what`. Sets of services share what is fetched, so one at a time does it.
fn once(folder: &Path, what: &str, fetch: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let path = folder.with_extension("lock");
    fs::create_dir_all(path.parent().unwrap_or(folder)).with_context(|| path.display().to_string())?;
    let lock = File::create(&path).with_context(|| path.display().to_string())?;
    lock.lock().with_context(|| path.display().to_string())?;
    let complete = folder.join(".complete");
    if fs::read_to_string(&complete).is_ok_and(|mark| mark == what) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fetch()?;
    fs::write(&complete, what).with_context(|| complete.display().to_string())
}

fn maven() -> Command {
    let mut command = Command::new("mvn");
    command.args(["-q", "-B", "-Dstyle.color=never"]);
    command
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

/// A project whose only purpose is its dependencies.
fn pom(artifacts: &[Artifact]) -> String {
    let dependency = |Artifact { group, name, version }: &Artifact| {
        let coordinates =
            format!("<groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version>");
        format!("    <dependency>{coordinates}</dependency>\n")
    };
    let dependencies: String = artifacts.iter().map(dependency).collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n  <modelVersion>4.0.0</modelVersion>\n  \
         <groupId>bellwether</groupId><artifactId>services</artifactId><version>1</version><packaging>pom</packaging>\n  \
         <dependencies>\n{dependencies}  </dependencies>\n</project>\n"
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_was_fetched_is_not_fetched_again_until_its_version_changes() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("lib");
        let fetched = |version: &str| {
            let mut fetched = false;
            once(&folder, version, || {
                fetched = true;
                Ok(())
            })
            .unwrap();
            fetched
        };
        assert!(fetched("1"));
        assert!(!fetched("1"));
        assert!(fetched("2"));
    }

    #[test]
    fn what_failed_is_fetched_again() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("lib");
        assert!(once(&folder, "1", || anyhow::bail!("no network")).is_err());
        let mut again = false;
        once(&folder, "1", || {
            again = true;
            Ok(())
        })
        .unwrap();
        assert!(again);
    }
}
