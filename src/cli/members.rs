//! `bellwether members get|find|put|delete|merge|consents|export|erase|import`: members one by one, and a whole file streamed with its progress.

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
    /// Finds members by an address, or by an attribute.
    Find {
        /// An e-mail address, a phone number or what else a channel knows a member by.
        #[arg(required_unless_present = "attribute", conflicts_with = "attribute")]
        address: Option<String>,
        /// Of this channel alone.
        #[arg(long, conflicts_with = "attribute")]
        channel: Option<String>,
        /// An attribute and its value instead, such as `tier=gold`; the project names it under `search`.
        #[arg(long, value_name = "NAME=VALUE", value_parser = named_value)]
        attribute: Option<(String, String)>,
        /// At most so many members with the attribute.
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
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
    /// Makes another member part of this one: its addresses, consent and attributes come over, and it is gone afterwards.
    Merge {
        /// client_user_id of the member who stays
        id: String,
        /// client_user_id of the member who goes
        from: String,
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
            Action::Find { attribute: Some((name, value)), limit, .. } => {
                print_json(&with_attribute(&client, &name, &value, limit).await?)
            }
            Action::Find { address, channel, .. } => {
                let query = [("address", address.as_deref()), ("channel", channel.as_deref())];
                let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
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
            Action::Merge { id, from } => {
                let from = serde_json::json!({ "from": from });
                // A member, or the word that it will be one.
                let answer: Value = client.send_json(Method::POST, &format!("{}/merge", path(&id)), &from).await?;
                print_json(&answer)
            }
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

/// The members who have a value of an attribute.
async fn with_attribute(client: &Client, name: &str, value: &str, limit: usize) -> anyhow::Result<Found> {
    let query = [("attribute", name), ("value", value)];
    let (members, next) = client.list("/v1/members", &query, limit, |page: Found| (page.members, page.next)).await?;
    Ok(Found { members, next })
}

/// Reads `NAME=VALUE`.
fn named_value(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("there is no `=` in it; write it like tier=gold")?;
    Ok((name.to_owned(), value.to_owned()))
}

async fn consents(client: &Client, path: &str, limit: usize) -> anyhow::Result<Vec<Consent>> {
    Ok(client.list(path, &[], limit, |page: ConsentPage| (page.consents, page.next)).await?.0)
}

fn ledger(all: &[Consent]) -> String {
    if all.is_empty() {
        return "nothing was ever said\n".into();
    }
    let line = |one: &Consent| {
        let proof = one.proof.as_deref().unwrap_or("no proof");
        let Consent { at, channel, state, value, actor, source, .. } = one;
        let (channel, what) =
            (channel.as_deref().unwrap_or("-"), one.category.as_deref().or(one.preference.as_deref()));
        let (what, value) = (what.unwrap_or("-"), value.as_ref().map(|value| format!(" {value}")).unwrap_or_default());
        format!("{at}  {channel:9}  {what:16}  {state:9}{value}  {source} ({actor}): {proof}\n")
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
