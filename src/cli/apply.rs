//! `bellwether apply DIR`: checks a folder of definitions, shows what would change, asks, and publishes it as the next version.
//! A client of the HTTP API: it opens neither log nor store.

use crate::{
    cli::Connection,
    definitions::{Loaded, check_provider, diff, load},
};
use anyhow::{Context, bail};
use bellwether_processors::definitions::Finding;
use bellwether_schemas::definitions::Definitions;
use reqwest::{Method, StatusCode, header};
use serde::{Deserialize, de::DeserializeOwned};
use std::{
    io::{IsTerminal, Write, stdin, stdout},
    path::PathBuf,
    time::Duration,
};

/// Longer than the server lets a publication take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Check a folder of definitions, show the difference, and publish it as a new version.
#[derive(clap::Args, Clone, Debug)]
pub struct Apply {
    /// Folder with `project.yaml`, `providers.yaml`, `templates/` and `flows/`.
    pub dir: PathBuf,
    /// Publish without asking.
    #[arg(long)]
    pub yes: bool,
    /// Where to publish it.
    #[command(flatten)]
    pub connection: Connection,
}

/// The part of the API's answer that we need.
#[derive(Deserialize)]
struct Published {
    version: i32,
    document: Definitions,
    #[serde(default)]
    remarks: Vec<Found>,
}

/// The part of a problem document that we need (RFC 9457).
#[derive(Deserialize)]
struct Problem {
    detail: String,
    #[serde(default)]
    remedy: String,
    #[serde(default)]
    findings: Vec<Found>,
}

#[derive(Clone, Deserialize)]
struct Found {
    field: String,
    #[serde(default)]
    line: Option<u32>,
    #[serde(default)]
    column: Option<u32>,
    problem: String,
    remedy: String,
}

impl From<Found> for Finding {
    fn from(Found { field: path, line, column, problem, remedy }: Found) -> Self {
        Self { path, line, column, problem, remedy }
    }
}

impl Apply {
    /// Runs the command; returns the version that is published now.
    ///
    /// # Errors
    /// The folder is not valid, the API refuses or does not answer, or nobody said yes.
    pub async fn run(&self) -> anyhow::Result<i32> {
        let loaded = self.load()?;
        let document = &loaded.document;
        let current: Option<Published> = match self.call(Method::GET, None).await? {
            (StatusCode::NOT_FOUND, _) => None,
            (status, body) => Some(answer(status, &body, &loaded)?),
        };
        let version = current.as_ref().map_or(0, |published| published.version);
        let changes = diff(current.as_ref().map(|published| &published.document), document);
        if changes.is_empty() {
            say(&format!("nothing to change: version {version} says the same\n"))?;
            return Ok(version);
        }
        say(&changes)?;
        say(&remarked(loaded.compiled.remarks(), &loaded))?;
        self.confirm(&document.project.name, version)?;
        let (status, body) = self.call(Method::PUT, Some((document, version))).await?;
        let published: Published = answer(status, &body, &loaded)?;
        // What this end found itself was said before it asked.
        let remarks: Vec<Finding> = published.remarks.iter().cloned().map(Finding::from).collect();
        let news: Vec<Finding> = remarks.into_iter().filter(|one| !loaded.compiled.remarks().contains(one)).collect();
        say(&remarked(&news, &loaded))?;
        let served = if status == StatusCode::ACCEPTED { ", not yet served" } else { "" };
        say(&format!("published version {} of `{}`{served}\n", published.version, document.project.name))?;
        Ok(published.version)
    }

    fn load(&self) -> anyhow::Result<Loaded> {
        let loaded = load(&self.dir, &|name| std::env::var(name).ok(), &check_provider);
        loaded.map_err(|errors| {
            let list: String = errors.iter().map(|error| format!("{error}\n")).collect();
            anyhow::anyhow!("{list}{} to correct in {}; nothing was published", errors.len(), self.dir.display())
        })
    }

    fn confirm(&self, project: &str, version: i32) -> anyhow::Result<()> {
        if self.yes {
            return Ok(());
        }
        if !stdin().is_terminal() {
            bail!("nothing was published: nobody can be asked here; pass --yes to publish without asking");
        }
        say(&format!("publish this as version {} of `{project}`? [y/N] ", version.saturating_add(1)))?;
        let mut line = String::new();
        stdin().read_line(&mut line)?;
        if matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
            Ok(())
        } else {
            bail!("nothing was published")
        }
    }

    async fn call(
        &self,
        method: Method,
        publish: Option<(&Definitions, i32)>,
    ) -> anyhow::Result<(StatusCode, Vec<u8>)> {
        let unreachable = || format!("no answer from {}: is `bellwether serve` running there?", self.connection.url);
        let request = self.connection.client()?.request(method, "/v1/definitions", &[])?;
        let mut request = request.timeout(TIMEOUT).header(header::ACCEPT, "application/json");
        if let Some((document, current)) = publish {
            // Refused if somebody else has published since the difference was shown.
            request = request.header(header::IF_MATCH, format!("\"{current}\"")).json(document);
        }
        let response = request.send().await.with_context(unreachable)?;
        Ok((response.status(), response.bytes().await.with_context(unreachable)?.to_vec()))
    }
}

/// The body of a good answer. What a refusal says of the document is shown at its place in the folder.
fn answer<T: DeserializeOwned>(status: StatusCode, body: &[u8], loaded: &Loaded) -> anyhow::Result<T> {
    if status.is_success() {
        return serde_json::from_slice(body).context("the answer is not Bellwether's: check --url");
    }
    let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
        bail!("the API answered {status}: check --url");
    };
    let findings: String =
        problem.findings.into_iter().map(|found| format!("{}\n", located(&Finding::from(found), loaded))).collect();
    bail!("{findings}{}\n  remedy: {}", problem.detail, problem.remedy)
}

/// What is allowed and yet worth a look, one line each.
fn remarked(remarks: &[Finding], loaded: &Loaded) -> String {
    remarks.iter().map(|remark| format!("remark: {}\n", located(remark, loaded))).collect()
}

/// In words, at its place in the folder where it has one.
fn located(finding: &Finding, loaded: &Loaded) -> String {
    loaded.locate(finding).map_or_else(|| finding.to_string(), |located| located.to_string())
}

/// Prints; a reader that has gone (`| head`) is an error that ends the work, not a panic.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
