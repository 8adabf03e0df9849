//! `bellwether suppressions list|show|add|remove|export|import`: addresses that are not to be used, whoever has them.

use super::{
    Connection,
    client::{Client, segment},
    members::{FileFormat, import},
    print, print_json,
};
use crate::http::suppressions::{Suppression, SuppressionPage};
use anyhow::Context;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::json;
use std::{io::Write, path::PathBuf};

/// Lists, adds, removes, exports and imports suppressed addresses.
#[derive(Args, Clone, Debug)]
pub struct Suppressions {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Where the API is.
    #[command(flatten)]
    pub connection: Connection,
}

/// See [`Suppressions`].
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Lists the suppressed addresses of a channel.
    List {
        /// email, sms, whatsapp, telegram, web_push, app_push or webhook
        channel: String,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows whether, and why, an address is suppressed.
    Show {
        /// Channel.
        channel: String,
        /// Address.
        address: String,
    },
    /// Suppresses an address.
    Add {
        /// Channel.
        channel: String,
        /// Address.
        address: String,
        /// Why, for whoever wonders later.
        #[arg(long)]
        reason: String,
    },
    /// Lifts a suppression: members who have the address are sent to again.
    Remove {
        /// Channel.
        channel: String,
        /// Address.
        address: String,
    },
    /// Writes the list to a file or to the standard output, as `import` reads it.
    Export {
        /// Of this channel alone.
        #[arg(long)]
        channel: Option<String>,
        /// How it is written.
        #[arg(long, default_value = "csv")]
        format: FileFormat,
        /// The file; absent: the standard output.
        file: Option<PathBuf>,
    },
    /// Imports a CSV or JSON-lines file of any length: channel, address, and where they are known reason, source, since.
    Import {
        /// The file.
        file: PathBuf,
        /// How it is written; by default by its ending.
        #[arg(long)]
        format: Option<FileFormat>,
    },
}

impl Suppressions {
    /// Runs the command.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses; for an import also: not all of it was applied.
    pub async fn run(self) -> anyhow::Result<()> {
        let (client, as_json) = (self.connection.client()?, self.connection.json);
        let path = |channel: &str, address: &str| format!("/v1/suppressions/{}/{}", segment(channel), segment(address));
        match self.action {
            Action::List { channel, limit } => {
                let all = list(&client, &channel, limit).await?;
                if as_json { print_json(&all) } else { print(&render(&all)) }
            }
            Action::Show { channel, address } => {
                let one: Suppression = client.get(&path(&channel, &address), &[]).await?;
                print_json(&one)
            }
            Action::Add { channel, address, reason } => {
                let given = json!({ "reason": reason });
                let one: Suppression = client.send_json(Method::PUT, &path(&channel, &address), &given).await?;
                if as_json { print_json(&one) } else { print(&render(&[one])) }
            }
            Action::Remove { channel, address } => client.delete(&path(&channel, &address)).await,
            Action::Export { channel, format, file } => export(&client, channel.as_deref(), format, file).await,
            Action::Import { file, format } => import(&client, "/v1/suppressions/import", &file, format, as_json).await,
        }
    }
}

async fn list(client: &Client, channel: &str, limit: usize) -> anyhow::Result<Vec<Suppression>> {
    let split = |page: SuppressionPage| (page.suppressions, page.next);
    Ok(client.list("/v1/suppressions", &[("channel", channel)], limit, split).await?.0)
}

/// Writes as it comes: the list may be longer than memory.
async fn export(
    client: &Client,
    channel: Option<&str>,
    format: FileFormat,
    file: Option<PathBuf>,
) -> anyhow::Result<()> {
    let mut query = vec![("format", format.name())];
    query.extend(channel.map(|channel| ("channel", channel)));
    let mut answer = client.open(client.request(Method::GET, "/v1/suppressions/export", &query)?).await?;
    let mut output: Box<dyn Write> = match &file {
        Some(path) => Box::new(std::fs::File::create(path).with_context(|| path.display().to_string())?),
        None => Box::new(std::io::stdout().lock()),
    };
    while let Some(chunk) = answer.chunk().await.context("the export broke off: this is not the whole list")? {
        output.write_all(&chunk)?;
    }
    output.flush()?;
    Ok(())
}

fn render(all: &[Suppression]) -> String {
    if all.is_empty() {
        return "no suppressions".into();
    }
    let line = |one: &Suppression| {
        format!("{}  {:9}  {}  ({}: {})\n", one.since, one.channel.name(), one.address, one.source, one.reason)
    };
    all.iter().map(line).collect()
}
