//! `bellwether members get|find|put|delete|consents|export|erase|import`: members one by one, and a whole file streamed with its progress.

use super::{
    Connection,
    client::{Client, segment},
    print, print_json,
};
use crate::http::{
    consents::{Consent, ConsentPage},
    imports::{IMPORT_ID, ImportReport},
    members::Member,
    rights::Export,
    search::Found,
};
use anyhow::{Context, bail};
use clap::{Args, Subcommand, ValueEnum};
use futures::TryStreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method};
use serde_json::{Map, Value};
use std::{
    io::Read,
    path::{Path, PathBuf},
};
use tokio_util::io::ReaderStream;
use uuid::Uuid;

/// Reads, changes, removes and imports members.
#[derive(Args, Clone, Debug)]
pub struct Members {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Where the API is.
    #[command(flatten)]
    pub connection: Connection,
}

/// See [`Members`].
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Shows a member.
    Get {
        /// client_user_id
        id: String,
    },
    /// Finds members by an address.
    Find {
        /// An e-mail address, a phone number or what else a channel knows a member by.
        address: String,
        /// Of this channel alone.
        #[arg(long)]
        channel: Option<String>,
    },
    /// Creates or changes a member: what is absent stays, what is null goes.
    Put {
        /// client_user_id
        id: String,
        /// JSON object of fields, like '{"email": "anna@example.org"}'; `-` reads it from the standard input.
        fields: String,
    },
    /// Removes a member.
    Delete {
        /// client_user_id
        id: String,
    },
    /// Shows the ledger of what a member consented to, the oldest line first.
    Consents {
        /// client_user_id
        id: String,
        /// At most so many lines.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
    /// Writes all that is kept of a member, as one JSON document.
    Export {
        /// client_user_id
        id: String,
    },
    /// Erases a member: all that is kept of them goes for good, but the suppression of their addresses.
    Erase {
        /// client_user_id
        id: String,
    },
    /// Imports a CSV or JSON-lines file of any length; bad rows are reported, and harm no good one.
    Import {
        /// The file.
        file: PathBuf,
        /// How it is written; by default by its ending.
        #[arg(long)]
        format: Option<FileFormat>,
    },
}

/// How a file of members or suppressions is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FileFormat {
    /// Comma-separated values with a header line.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl FileFormat {
    /// The name in the API.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

impl Members {
    /// Runs the command.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses; for an import also: not all of it was applied.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.connection.client()?;
        let path = |id: &str| format!("/v1/members/{}", segment(id));
        match self.action {
            Action::Get { id } => {
                let member: Member = client.get(&path(&id), &[]).await?;
                print_json(&member)
            }
            Action::Find { address, channel } => {
                let mut query = vec![("address", address.as_str())];
                query.extend(channel.as_deref().map(|channel| ("channel", channel)));
                let found: Found = client.get("/v1/members", &query).await?;
                print_json(&found)
            }
            Action::Put { id, fields } => {
                let fields = fields_from(fields)?;
                // A member, or the word that it will be one: both are for the caller to see.
                let answer: Value = client.send_json(Method::PUT, &path(&id), &fields).await?;
                print_json(&answer)
            }
            Action::Delete { id } => client.delete(&path(&id)).await,
            Action::Consents { id, limit } => {
                let all = consents(&client, &format!("{}/consents", path(&id)), limit).await?;
                if self.connection.json { print_json(&all) } else { print(&ledger(&all)) }
            }
            Action::Export { id } => {
                let all: Export = client.get(&format!("{}/export", path(&id)), &[]).await?;
                print_json(&all)
            }
            Action::Erase { id } => {
                let request = client.request(Method::POST, &format!("{}/erase", path(&id)), &[])?;
                let answer = client.send(request).await?;
                // Nothing, or the word that it will be done.
                if answer.is_empty() { Ok(()) } else { print_json(&serde_json::from_slice::<Value>(&answer)?) }
            }
            Action::Import { file, format } => {
                import(&client, "/v1/members/import", &file, format, self.connection.json).await
            }
        }
    }
}

async fn consents(client: &Client, path: &str, limit: usize) -> anyhow::Result<Vec<Consent>> {
    let mut all = Vec::new();
    let mut cursor: Option<String> = None;
    while all.len() < limit {
        let page_size = (limit - all.len()).min(1_000).to_string();
        let mut query = vec![("limit", page_size.as_str())];
        query.extend(cursor.as_deref().map(|cursor| ("cursor", cursor)));
        let page: ConsentPage = client.get(path, &query).await?;
        all.extend(page.consents);
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    Ok(all)
}

fn ledger(all: &[Consent]) -> String {
    if all.is_empty() {
        return "nothing was ever said\n".into();
    }
    let line = |one: &Consent| {
        let proof = one.proof.as_deref().unwrap_or("no proof");
        let Consent { at, channel, category, state, actor, source, .. } = one;
        format!("{at}  {channel:9}  {category:16}  {state:9}  {source} ({actor}): {proof}\n")
    };
    all.iter().map(line).collect()
}

fn fields_from(text: String) -> anyhow::Result<Map<String, Value>> {
    let text = if text == "-" {
        let mut input = String::new();
        std::io::stdin().read_to_string(&mut input).context("the standard input")?;
        input
    } else {
        text
    };
    serde_json::from_str(&text).context("the fields are not a JSON object like '{\"email\": \"anna@example.org\"}'")
}

fn format_of(file: &Path) -> anyhow::Result<FileFormat> {
    match file.extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(FileFormat::Csv),
        Some("ndjson" | "jsonl") => Ok(FileFormat::Ndjson),
        _ => bail!("{}: the ending tells neither csv nor ndjson; give --format", file.display()),
    }
}

/// Uploads a file to an import of the API, and tells what became of it.
pub(super) async fn import(
    client: &Client,
    path: &str,
    file: &Path,
    format: Option<FileFormat>,
    as_json: bool,
) -> anyhow::Result<()> {
    let format = format.map_or_else(|| format_of(file), Ok)?.name();
    let id = Uuid::now_v7();
    let opened = tokio::fs::File::open(file).await.with_context(|| file.display().to_string())?;
    let bar = ProgressBar::new(opened.metadata().await?.len());
    let style = "{bar:40} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (read, total) = (bar.clone(), bar.length().unwrap_or_default());
    let upload = ReaderStream::with_capacity(opened, 64 << 10).inspect_ok(move |chunk| {
        read.inc(u64::try_from(chunk.len()).unwrap_or_default());
        if read.position() >= total {
            read.set_message("sent; waiting until it is applied");
        }
    });
    let request = client.request(Method::POST, path, &[("format", format)])?;
    let request = request.header(IMPORT_ID.as_str(), id.to_string()).body(Body::wrap_stream(upload));
    let answer = client.send(request).await;
    bar.finish_and_clear();
    let report: ImportReport = serde_json::from_slice(&answer.with_context(|| format!("import {id}"))?)?;
    if as_json {
        print_json(&report)?
    } else {
        print(&render(&report))?
    }
    if !report.all_applied {
        bail!(
            "the import is on the log, but not all of it was applied in time: is the process that applies members running?"
        );
    }
    Ok(())
}

fn render(report: &ImportReport) -> String {
    let ImportReport { import, read, accepted, rejected, first_rejects, .. } = report;
    let mut text = format!("{read} rows read, {accepted} accepted, {rejected} rejected (import {import})\n");
    for reject in first_rejects {
        text.push_str(&format!("  line {}: {} {}\n", reject.line, reject.field, reject.detail));
    }
    let shown = i64::try_from(first_rejects.len()).unwrap_or(i64::MAX);
    if *rejected > shown {
        text.push_str(&format!("  … and {} more: GET /v1/imports/{import}/rejects\n", rejected - shown));
    }
    text
}
