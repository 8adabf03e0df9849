//! `bellwether deadletters list|show|replay`: what could not be read or decided, and sending it on its way again.

use super::{Connection, client::Client, print, print_json};
use crate::http::dead_letters::{Letter, LetterPage, LetterSummary, Replayed};
use anyhow::bail;
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

/// Lists, shows and replays dead letters.
#[derive(Args, Clone, Debug)]
pub struct DeadLetters {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
    /// Where the API is.
    #[command(flatten)]
    pub connection: Connection,
}

/// See [`DeadLetters`].
#[derive(Clone, Debug, Subcommand)]
pub enum Action {
    /// Lists dead letters, the latest day first.
    List {
        /// Which.
        #[command(flatten)]
        filter: Filter,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
    /// Shows one dead letter whole, with its payload.
    Show {
        /// Its id, from the list.
        id: String,
    },
    /// Sends dead letters to their topics again: those named, or all of a filter that were never replayed.
    Replay {
        /// Their ids, from the list.
        ids: Vec<String>,
        /// Which, where no id is named.
        #[command(flatten)]
        filter: Filter,
    },
}

/// Which dead letters.
#[derive(Args, Clone, Debug, Default)]
pub struct Filter {
    /// Of this reason alone: malformed, unknown_schema, invalid, too_large, evaluation, rejected, exhausted, ambiguous.
    #[arg(long)]
    pub reason: Option<String>,
    /// First UTC day, YYYY-MM-DD; by default a week ago.
    #[arg(long)]
    pub from: Option<String>,
    /// Last UTC day, inclusive; by default today.
    #[arg(long)]
    pub to: Option<String>,
}

impl Filter {
    fn is_empty(&self) -> bool {
        self.reason.is_none() && self.from.is_none() && self.to.is_none()
    }
}

impl DeadLetters {
    /// Runs the command.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn run(self) -> anyhow::Result<()> {
        let (client, as_json) = (self.connection.client()?, self.connection.json);
        match self.action {
            Action::List { filter, limit } => {
                let letters = list(&client, &filter, limit).await?;
                if as_json { print_json(&letters) } else { print(&render_list(&letters)) }
            }
            Action::Show { id } => {
                let letter: Letter =
                    client.get(&format!("/v1/dead-letters/{}", super::client::segment(&id)), &[]).await?;
                if as_json { print_json(&letter) } else { print(&render(&letter)) }
            }
            Action::Replay { ids, filter } => {
                let total = replay(&client, &ids, &filter).await?;
                if as_json {
                    return print_json(&total);
                }
                let mut text = format!("{} replayed, {} skipped\n", total.replayed, total.skipped);
                for id in &total.unknown {
                    text.push_str(&format!("unknown: {id}\n"));
                }
                print(&text)
            }
        }
    }
}

async fn list(client: &Client, filter: &Filter, limit: usize) -> anyhow::Result<Vec<LetterSummary>> {
    let mut letters = Vec::new();
    let mut after: Option<String> = None;
    while letters.len() < limit {
        let page_size = (limit - letters.len()).min(1_000).to_string();
        let mut query = vec![("limit", page_size.as_str())];
        let parts = [("reason", &filter.reason), ("from", &filter.from), ("to", &filter.to), ("after", &after)];
        query.extend(parts.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))));
        let page: LetterPage = client.get("/v1/dead-letters", &query).await?;
        letters.extend(page.dead_letters);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    Ok(letters)
}

/// Replays page by page, so that no request grows with the number of dead letters.
async fn replay(client: &Client, ids: &[String], filter: &Filter) -> anyhow::Result<Replayed> {
    const PATH: &str = "/v1/dead-letters/replay";
    let mut total = Replayed { replayed: 0, skipped: 0, unknown: Vec::new(), next: None };
    let mut add = |answer: Replayed| {
        total.replayed += answer.replayed;
        total.skipped += answer.skipped;
        total.unknown.extend(answer.unknown);
        answer.next
    };
    match (ids.is_empty(), filter.is_empty()) {
        (true, true) => bail!("name the ids to replay, or a filter like --reason evaluation"),
        (false, false) => bail!("give either ids or a filter, not both"),
        (false, true) => {
            for ids in ids.chunks(1_000) {
                add(client.send_json(Method::POST, PATH, &json!({ "ids": ids })).await?);
            }
        }
        (true, false) => {
            let mut next = None;
            loop {
                let mut body = json!({"reason": filter.reason, "from": filter.from, "to": filter.to, "after": next});
                if let Some(members) = body.as_object_mut() {
                    members.retain(|_, value| *value != Value::Null);
                }
                next = add(client.send_json(Method::POST, PATH, &json!({ "filter": body })).await?);
                if next.is_none() {
                    break;
                }
            }
        }
    }
    Ok(total)
}

fn render_list(letters: &[LetterSummary]) -> String {
    if letters.is_empty() {
        return "no dead letters".into();
    }
    let mut text = String::new();
    for letter in letters {
        let replayed = letter.replayed_at.as_ref().map_or(String::new(), |at| format!("  (replayed {at})"));
        let detail = letter.detail.replace(char::is_control, " ");
        text.push_str(&format!("{}  {}  {:14}  {detail}{replayed}\n", letter.id, letter.at, letter.reason));
    }
    text
}

fn render(letter: &Letter) -> String {
    let Letter { summary, project, processor, topic, partition, offset, key, payload, payload_base64 } = letter;
    let replayed = summary.replayed_at.as_deref().unwrap_or("never");
    let mut text = String::new();
    let lines = [
        ("id", summary.id.as_str()),
        ("at", &summary.at),
        ("project", project),
        ("reason", &summary.reason),
        ("detail", &summary.detail),
        ("processor", processor),
        ("position", &format!("{topic}/{partition}/{offset}")),
        ("key", key.as_deref().unwrap_or("(not text)")),
        ("replayed", replayed),
        ("payload", payload.as_deref().unwrap_or(payload_base64)),
    ];
    for (name, value) in lines {
        text.push_str(&format!("{name:10}{value}\n"));
    }
    text
}
