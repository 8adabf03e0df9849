//! Many events in one message (a flow's `digest`): the first notification of a flow to a member waits for a while, what comes meanwhile joins it, and
//! then it is decided with all of them; or the one that makes them enough is. What is gathered is a row of the member's partition. Route alone asks;
//! nothing is sent here.

use crate::{
    definitions::Compiled,
    fallback, kept,
    processor::{Facts, Refusal},
    route::Choice,
};
use bellwether_schemas::{
    NotificationId, Position, Timestamp,
    definitions::Digest,
    ids::EntryId,
    records::{Notification, Outcome, Reason},
    rows::{Read, Row as _, Write},
    tables::{DIGEST, MemberRow},
};
use serde::{Deserialize, Serialize};
use serde_json::{Number, Value, json};
use std::time::Duration;

/// Longest time that a digest gathers.
pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// How long what was gathered is kept after its time, where it is put off again and again.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// Events whose data is kept; what comes after them is counted. No flow's `most` is greater.
pub const MAX_ITEMS: usize = 100;
/// Bytes of data that are kept: with the rest of a delivery they must fit one record of the log.
const MAX_BYTES: usize = 128 * 1024;
/// Bytes of a key's value that a row is named by as they are; a longer one is hashed.
const MAX_KEY_BYTES: usize = 64;
/// Every whole number up to here has a float of its own, and no other number has the same.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// What was gathered so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gathered {
    /// The notification that it goes out with: the first, or the one that made them enough and had to wait.
    notification: NotificationId,
    /// When that is decided.
    due: Timestamp,
    /// When the last of them expires.
    expires_at: Option<Timestamp>,
    /// The data of each event, the first ones first.
    items: Vec<Value>,
    /// Events, those included whose data is not kept.
    count: u32,
    /// Bytes of the items.
    bytes: usize,
    /// The first as it will come back, without its data, while another one may close the digest before. Not there where no number of events does,
    /// nor any more where it is held back: then it goes out when it may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    first: Option<Box<Notification>>,
}

/// A notification as all that was gathered makes it: what is told in place of one event's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// `{"items": […], "count": N}`.
    pub data: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
}

impl Told {
    /// The notification that tells it.
    #[must_use]
    pub fn by(&self, n: &Notification) -> Notification {
        Notification { data: self.data.clone(), expires_at: self.expires_at, ..n.clone() }
    }
}

/// A notification that was to come back and close its digest, and that another one took along before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    /// As it will come back, without its data.
    pub notification: Notification,
    /// When it will.
    pub due: Timestamp,
    /// What is said of it, in words.
    pub detail: String,
}

impl Ended {
    /// What is decided of it, now and when it comes back.
    pub(crate) fn choice(&self, at: Timestamp) -> Choice {
        Choice::of(Outcome::Gathered, self.detail.clone(), at)
    }
}

/// What a notification is to a digest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// It is the first, or joins one: nothing is sent for it now.
    Waits(Box<Choice>, Write),
    /// It is decided now, with all that was gathered.
    Closes(Closing),
}

/// A digest whose time has come, or that is large enough.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Closing {
    all: Gathered,
    /// The row in which it gathers on if it must wait; `None` where it waits by itself.
    row: Option<String>,
    /// Whether that row is there.
    is_kept: bool,
    /// The first, where it is another one that closes it.
    ends: Option<Box<Ended>>,
}

impl Closing {
    const fn of(all: Gathered) -> Self {
        Self { all, row: None, is_kept: false, ends: None }
    }

    /// What is told.
    pub(crate) fn told(&self) -> Told {
        Told {
            data: json!({"items": self.all.items, "count": self.all.count}).to_string(),
            expires_at: self.all.expires_at,
        }
    }

    /// Adds to the choice what becomes of the digest, and changes its row: what must wait gathers on, whatever else is decided ends it.
    pub(crate) fn settle(
        self,
        n: &Notification,
        choice: &mut Choice,
        project: &Compiled,
        position: Position,
        now: Timestamp,
    ) -> Result<Option<Write>, Refusal> {
        choice.ends = self.ends;
        let Some(id) = self.row else { return Ok(None) };
        if let Some(due) = choice.until.filter(|_| choice.outcome == Outcome::Deferred) {
            // Those who come now look where the terms of now say.
            let fresh = Notification { round: 0, gathered_in: None, ..n.clone() };
            if project.terms(n).digest.as_ref().is_some_and(|digest| row_id(&fresh, Some(digest)).as_ref() == Ok(&id)) {
                choice.detail += &format!("; what comes until {due} goes out with it");
            }
            let held = Gathered { notification: n.id, due, first: None, ..self.all };
            let write = held.into_write(n, &id, position, now)?;
            choice.gathered_in = Some(id);
            return Ok(Some(write));
        }
        let key = MemberRow::key(n.project.as_str(), n.member.as_str(), DIGEST, id);
        let delete = Write::Delete { table: MemberRow::TABLE, key, fence: Some(position.offset + 1) };
        Ok(self.is_kept.then_some(delete))
    }
}

/// The row that a notification may be about, if there is one.
pub(crate) fn gathered(n: &Notification, project: &Compiled) -> Option<Read> {
    // Whose row has no name is refused when it is decided.
    concerns(n, project).then(|| row_id(n, project.terms(n).digest.as_ref()).ok())?.map(|id| read(n, &id))
}

fn read(n: &Notification, id: &str) -> Read {
    MemberRow::read_one(n.project.as_str(), n.member.as_str(), DIGEST, id)
}

/// A flow has a row for each lane, because offsets of one topic fence it, and for each value of its key.
fn row_id(n: &Notification, digest: Option<&Digest>) -> Result<String, Refusal> {
    if let Some(id) = &n.gathered_in {
        return Ok(id.clone());
    }
    let of_flow = format!("{}/{}", n.flow, n.lane);
    match digest.and_then(|digest| digest.key.as_deref()) {
        Some(key) if n.round == 0 => Ok(format!("{of_flow}/{}", value_of(key, n)?)),
        // What comes back without a row's name waited by itself, or since before there were keys.
        _ => Ok(of_flow),
    }
}

/// The key's value as a text that no other value has: JSON, or its hash where that is long. What is not there is null.
fn value_of(key: &str, n: &Notification) -> Result<String, Refusal> {
    let data = data_of(n)?;
    let mut value = &data;
    for name in key.split('.') {
        value = match value {
            Value::Object(fields) => fields.get(name).unwrap_or(&Value::Null),
            Value::Null => value,
            _ => return Err(no_key(key, n)),
        };
    }
    let text = match value {
        Value::Array(_) | Value::Object(_) => return Err(no_key(key, n)),
        // 1 and 1.0 are one number.
        Value::Number(number) => whole(number).map_or_else(|| number.to_string(), |whole| whole.to_string()),
        other => other.to_string(),
    };
    let is_short = text.len() <= MAX_KEY_BYTES;
    Ok(if is_short { text } else { EntryId::derive("digest", &[text.as_bytes()]).to_string() })
}

/// A float that stands for a whole number.
fn whole(number: &Number) -> Option<i64> {
    let float = number.as_f64().filter(|float| number.is_f64() && float.fract() == 0.0 && float.abs() < MAX_EXACT)?;
    Some(float as i64)
}

fn no_key(key: &str, n: &Notification) -> Refusal {
    let problem = format!("data.{key}: is no text, number or boolean, and flow `{}` parts its digests by it", n.flow);
    Refusal::new(Reason::Invalid, format!("{problem}; let `digest.key` name one and apply, then replay"))
}

fn data_of(n: &Notification) -> Result<Value, Refusal> {
    serde_json::from_str(&n.data).map_err(|e| Refusal::new(Reason::Invalid, format!("data: {e}")))
}

/// Whether a notification may be part of a digest: what another channel tries is whole already.
fn concerns(n: &Notification, project: &Compiled) -> bool {
    n.tried.is_empty() && (n.round > 0 || project.terms(n).digest.is_some())
}

impl Part {
    /// Says what the notification is; `None` where it goes out by itself.
    pub(crate) fn of(
        n: &Notification,
        project: &Compiled,
        facts: &Facts,
        position: Position,
        now: Timestamp,
    ) -> Result<Option<Self>, Refusal> {
        if !concerns(n, project) {
            return Ok(None);
        }
        let digest = project.terms(n).digest.as_ref();
        let id = row_id(n, digest)?;
        let row = facts.one::<MemberRow>(&read(n, &id))?;
        let known: Option<Gathered> = row.map(|row| row.kept()).transpose()?;
        let waits = |choice, all: Gathered| -> Result<_, Refusal> {
            Ok(Some(Self::Waits(Box::new(choice), all.into_write(n, &id, position, now)?)))
        };
        let closes = |closing: Closing| Ok(Some(Self::Closes(closing)));
        match (known, digest) {
            // Also where the flow gathers no more: what was promised to those who joined is kept.
            (Some(all), _) if n.round > 0 && all.notification == n.id => {
                closes(Closing { row: Some(id.clone()), is_kept: true, ..Closing::of(all) })
            }
            (_, None) => Ok(None),
            // It waited before its flow became a digest.
            (_, Some(_)) if n.round > 0 => closes(Closing::of(Gathered::first(n, now)?)),
            (Some(known), Some(digest)) => {
                let most = digest.most.filter(|_| known.first.is_some());
                let (all, is_full) = known.joined(n)?;
                if let (Some(most), Some(first)) = (most, &all.first)
                    && all.count >= most
                {
                    let detail = format!("goes out with notification {}, which made it {}", n.id, all.count);
                    let ended = Ended { notification: Notification::clone(first), due: all.due, detail };
                    let ends = Some(Box::new(ended));
                    return closes(Closing { row: Some(id.clone()), is_kept: true, ends, ..Closing::of(all) });
                }
                let mut detail = format!("goes out with notification {}, at {}", all.notification, all.due);
                if let Some(most) = most {
                    detail += &format!(", or with the one that makes it {most}");
                }
                if is_full {
                    detail += ", which is full: it is counted there, without its data";
                }
                waits(Choice::of(Outcome::Gathered, detail, now), all)
            }
            (None, Some(Digest { after_seconds: 0, .. })) => {
                closes(Closing { row: Some(id.clone()), ..Closing::of(Gathered::first(n, now)?) })
            }
            (None, Some(digest)) => {
                let due = now.plus(Duration::from_secs(digest.after_seconds));
                let or = digest.most.map(|most| format!(", or until there are {most}")).unwrap_or_default();
                let detail = format!("a digest: it goes out with what comes until {due}{or}");
                let gathered_in = Some(id.clone());
                let choice = Choice { until: Some(due), gathered_in, ..Choice::of(Outcome::Deferred, detail, now) };
                let again = || Notification { data: String::new(), ..fallback::again(n, &choice) };
                let first = digest.most.map(|_| Box::new(again()));
                let all = Gathered { first, ..Gathered::first(n, due)? };
                waits(choice, all)
            }
        }
    }
}

impl Gathered {
    fn first(n: &Notification, due: Timestamp) -> Result<Self, Refusal> {
        let (notification, items) = (n.id, Vec::new());
        let none = Self { notification, due, expires_at: None, items, count: 0, bytes: 0, first: None };
        Ok(none.joined(n)?.0)
    }

    /// With one more, and whether there was no room for its data.
    fn joined(mut self, n: &Notification) -> Result<(Self, bool), Refusal> {
        let item = data_of(n)?;
        self.expires_at = n.expires_at;
        self.count = self.count.saturating_add(1);
        // The first is kept, whatever its size: alone it would be sent, too.
        let has_room =
            self.items.is_empty() || (self.items.len() < MAX_ITEMS && self.bytes + n.data.len() <= MAX_BYTES);
        if has_room {
            self.bytes += n.data.len();
            self.items.push(item);
        }
        Ok((self, !has_room))
    }

    fn into_write(self, n: &Notification, id: &str, position: Position, now: Timestamp) -> Result<Write, Refusal> {
        let row = MemberRow::empty(&n.project, &n.member, DIGEST, id);
        kept::put(row, &self, now, self.due.since(now) + RETENTION, position.offset + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwether_schemas::{EventId, Lane};

    fn notification(data: &Value) -> Notification {
        let event = EventId::derive("shop", "/s", "1");
        Notification {
            id: NotificationId::derive(event, "told", 1, 0, "m"),
            project: "shop".into(),
            member: "m".into(),
            event,
            event_type: "any".into(),
            flow: "told".into(),
            flow_version: 1,
            step: 0,
            template: "all".into(),
            lane: Lane::Bulk,
            channels: Vec::new(),
            expires_at: None,
            accepted_at: Timestamp(0),
            data: data.to_string(),
            round: 0,
            tried: Vec::new(),
            gathered_in: None,
        }
    }

    #[test]
    fn each_value_of_a_key_has_a_row_of_its_own() {
        let long = "x".repeat(63);
        // The data; the end of the row's name, `None` where it is refused. Two quotes belong to a text of JSON.
        for (data, end) in [
            (json!({"post": {"id": "a/b"}}), Some("\"a/b\"")),
            (json!({"post": {"id": "1"}}), Some("\"1\"")),
            (json!({"post": {"id": 1}}), Some("1")),
            (json!({"post": {"id": 1.0}}), Some("1")),
            (json!({"post": {"id": -0.0}}), Some("0")),
            (json!({"post": {"id": 1.5}}), Some("1.5")),
            (json!({"post": {"id": u64::MAX}}), Some("18446744073709551615")),
            (json!({"post": {"id": true}}), Some("true")),
            (json!({"post": {"id": "null"}}), Some("\"null\"")),
            (json!({"post": {"id": null}}), Some("null")),
            (json!({"post": {}}), Some("null")),
            (json!({"post": null}), Some("null")),
            (json!({}), Some("null")),
            (json!({"post": {"id": &long[..62]}}), Some(&*format!("\"{}\"", &long[..62]))),
            (json!({"post": {"id": long}}), Some("025a3016-f417-59c0-b8a2-c69dd2cd504f")),
            (json!({"post": {"id": [1]}}), None),
            (json!({"post": {"id": {}}}), None),
            (json!({"post": "a"}), None),
            (json!([]), None),
        ] {
            let digest = Digest { after_seconds: 60, key: Some("post.id".into()), most: None };
            let id = row_id(&notification(&data), Some(&digest));
            assert_eq!(id.ok(), end.map(|end| format!("told/bulk/{end}")), "{data}");
        }
    }

    #[test]
    fn what_cannot_be_parted_names_the_field_and_the_remedy() {
        let refusal = no_key("post.id", &notification(&json!({})));
        assert_eq!(
            refusal.to_string(),
            "invalid: data.post.id: is no text, number or boolean, and flow `told` parts its digests by it; let `digest.key` name one and \
             apply, then replay"
        );
    }
}
