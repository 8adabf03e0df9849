//! `bellwether explain`: the whole story of one notification, or of all that an event caused for a member, in order, for a person.
//! One line an entry: when, what, channel, why; below a decision, a table of the channels that were looked at.

use super::{Connection, print, print_json};
use crate::{
    http::notifications::{Line, Stories, Story},
    mask,
};
use clap::Args;
use serde_json::Value;
use uuid::Uuid;

/// Tells why and how a notification was sent, or was not.
#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// Notification.
    #[arg(required_unless_present = "event")]
    pub id: Option<Uuid>,
    /// The `event_id` of the event that caused it.
    #[arg(long, requires = "member", conflicts_with = "id")]
    pub event: Option<Uuid>,
    /// The member that the event is about.
    #[arg(long, requires = "event")]
    pub member: Option<String>,
    /// Where the API is.
    #[command(flatten)]
    pub connection: Connection,
}

impl Explain {
    /// Runs the command.
    ///
    /// # Errors
    /// The server cannot be reached, or knows no such notification.
    pub async fn run(self) -> anyhow::Result<()> {
        let client = self.connection.client()?;
        let mut stories = match (self.id, self.event, &self.member) {
            (Some(id), ..) => vec![client.get::<Story>(&format!("/v1/notifications/{id}"), &[]).await?],
            (None, Some(event), Some(member)) => {
                let query = [("event", &*event.to_string()), ("member", member)];
                client.get::<Stories>("/v1/notifications", &query).await?.notifications
            }
            _ => anyhow::bail!("name a notification, or an event and a member"),
        };
        anyhow::ensure!(!stories.is_empty(), "nothing was decided about this event for this member, or not yet");
        for line in stories.iter_mut().flat_map(|story| &mut story.story) {
            hide_addresses(&mut line.detail);
        }
        if self.connection.json {
            return if self.id.is_some() { print_json(&stories[0]) } else { print_json(&stories) };
        }
        print(&stories.iter().map(render).collect::<Vec<_>>().join("\n"))
    }
}

/// Masks every text of a decision or receipt that may hold an address.
fn hide_addresses(detail: &mut Value) {
    match detail {
        Value::Object(members) => {
            for (name, value) in members {
                match value {
                    Value::String(text) if name == "address" => *text = mask::address(text),
                    other => hide_addresses(other),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(hide_addresses),
        Value::String(text) => *text = mask::text(text),
        _ => {}
    }
}

/// The story as text.
fn render(story: &Story) -> String {
    let mut text = format!("notification {} for member {}: {}\n\n", story.id, mask::text(&story.member), story.status);
    let width = |of: fn(&Line) -> usize| story.story.iter().map(of).max().unwrap_or_default();
    let (times, outcomes) = (width(|line| line.at.len()), width(|line| line.outcome.len()));
    for line in &story.story {
        let channel = line.channel.as_deref().unwrap_or("-");
        let why = if line.kind == "decision" { decision(&line.detail) } else { receipt(&line.detail) };
        text.push_str(&format!(
            "{:times$}  {:8}  {:outcomes$}  {channel:5}  {}\n",
            line.at,
            line.kind,
            line.outcome,
            one_line(&why)
        ));
        text.push_str(&table(&rows(&line.detail)));
    }
    text
}

/// The channels that a decision looked at, for people: what became of each and why, what its rule counted, and what it scored. Figures that no
/// channel has make no column.
fn rows(detail: &Value) -> Vec<[String; 5]> {
    let verdicts = detail["trace"].as_array().map_or(&[][..], Vec::as_slice);
    if verdicts.is_empty() {
        return Vec::new();
    }
    let names = ["channel", "verdict", "count", "score", "why"].map(str::to_owned);
    let row = |verdict: &Value| {
        let text = |name| one_line(field(verdict, name).unwrap_or("-"));
        let [score, reach, engagement, cost] =
            ["score", "reach", "engagement", "cost"].map(|name| number(verdict, name));
        let count =
            number(verdict, "count").zip(number(verdict, "limit")).map(|(count, limit)| format!("{count} of {limit}"));
        let score = score.map(|score| match (reach, engagement, cost) {
            (Some(reach), Some(engagement), Some(cost)) => {
                format!("{score} (reach {reach}, engagement {engagement}, cost {cost})")
            }
            _ => score.to_string(),
        });
        let or_none = |figure: Option<String>| figure.unwrap_or_else(|| "-".into());
        [text("channel"), text("rule"), or_none(count), or_none(score), text("detail")]
    };
    [names].into_iter().chain(verdicts.iter().map(row)).collect()
}

fn number(detail: &Value, name: &str) -> Option<i64> {
    detail[name].as_i64()
}

/// Rows under their names, aligned and indented; the last column may be of any width.
fn table(rows: &[[String; 5]]) -> String {
    let Some((_, below)) = rows.split_first() else { return String::new() };
    let is_told = |column: &usize| below.iter().any(|row| row[*column] != "-");
    let columns: Vec<usize> = (0..5).filter(is_told).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let line = |row: &[String; 5]| {
        let cells = columns.iter().map(|column| format!("{:1$}", row[*column], width(*column)));
        format!("    {}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn field<'a>(detail: &'a Value, name: &str) -> Option<&'a str> {
    detail[name].as_str().filter(|text| !text.is_empty())
}

/// Why a decision fell as it did: by which flow, and in words what the table below it does not say.
fn decision(detail: &Value) -> String {
    let mut why = Vec::new();
    match (field(detail, "flow"), detail["flow_version"].as_i64()) {
        (Some(flow), Some(version)) => why.push(format!("flow {flow} v{version}")),
        (Some(flow), None) => why.push(format!("flow {flow}")),
        (None, _) => {}
    }
    why.extend(field(detail, "template").map(|template| format!("template {template}")));
    let verdicts = detail["trace"].as_array().map_or(&[][..], Vec::as_slice);
    let told = |verdict: &Value| Some(format!("{}: {}", field(verdict, "channel")?, field(verdict, "detail")?));
    let told: Vec<_> = verdicts.iter().filter_map(told).collect();
    let words = field(detail, "detail").filter(|words| !told.iter().any(|told| told == words)).unwrap_or_default();
    let more = words.strip_prefix(&told.join("; ")).unwrap_or(words).trim_start_matches("; ");
    why.extend((!more.is_empty()).then(|| more.to_owned()));
    why.join("; ")
}

/// What a receipt says: which try, by whom, and the provider's words.
fn receipt(detail: &Value) -> String {
    let mut why = Vec::new();
    why.extend(detail["attempt"].as_i64().map(|attempt| format!("attempt {attempt}")));
    why.extend(field(detail, "provider").map(|provider| format!("by {provider}")));
    why.extend(field(detail, "address").map(|address| format!("to {address}")));
    why.extend(field(detail, "provider_id").map(|id| format!("as {id}")));
    why.extend(field(detail, "error").map(str::to_owned));
    why.extend(field(detail, "detail").map(str::to_owned));
    why.join("; ")
}

#[cfg(test)]
mod situations;

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_story_is_told_in_order_with_its_reasons_and_without_addresses() {
        let mut story: Story = serde_json::from_value(json!({
            "id": "0b8d6a52-6b3f-5a8e-9a60-0ad2b52e3c11", "member": "anna", "status": "failed",
            "story": [
                {"at": "2026-03-01T12:00:00.1Z", "kind": "decision", "outcome": "routed", "channel": "sms", "detail": {
                    "flow": "order-placed", "flow_version": 2, "template": "order", "detail": "the first usable channel",
                    "trace": [
                        {"channel": "email", "rule": "suppressed", "detail": "in quarantine since 2026-02-01", "count": 3, "limit": 3},
                        {"channel": "sms", "rule": "chosen", "detail": ""},
                    ],
                }},
                {"at": "2026-03-01T12:00:01Z", "kind": "receipt", "outcome": "failed", "channel": "sms", "detail": {
                    "attempt": 1, "provider": "twilio-main", "provider_id": "SM1", "error": "invalid_address",
                    "detail": "21211 The 'To' number\n+4915112345678 is not valid", "address": "+4915112345678",
                }},
            ],
        }))
        .unwrap();
        for line in &mut story.story {
            hide_addresses(&mut line.detail);
        }
        insta::assert_snapshot!(render(&story), @r"
        notification 0b8d6a52-6b3f-5a8e-9a60-0ad2b52e3c11 for member anna: failed

        2026-03-01T12:00:00.1Z  decision  routed  sms    flow order-placed v2; template order; the first usable channel
            channel  verdict     count   why
            email    suppressed  3 of 3  in quarantine since 2026-02-01
            sms      chosen      -       -
        2026-03-01T12:00:01Z    receipt   failed  sms    attempt 1; by twilio-main; to +49***78; as SM1; invalid_address; 21211 The 'To' number +49***78 is not valid
        ");
    }
}
