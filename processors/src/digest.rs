//! Many events in one message (a flow's `digest`): the first notification of a flow to a member waits for a while, what comes meanwhile joins it, and
//! then it is decided with all of them. What is gathered is a row of the member's partition. Route alone asks; nothing is sent here.

use crate::{
    definitions::Compiled,
    kept,
    processor::{Facts, Refusal},
    route::Choice,
};
use bellwether_schemas::{
    NotificationId, Position, Timestamp,
    records::{Notification, Outcome, Reason},
    rows::{Read, Row, Write},
    tables::{DIGEST, MemberRow},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;

/// Longest time that a digest gathers.
pub const LONGEST: Duration = Duration::from_secs(7 * 86_400);
/// How long what was gathered is kept after its time, where it is put off again and again.
const RETENTION: Duration = Duration::from_secs(30 * 86_400);
/// Events whose data is kept; what comes after them is counted.
pub const MAX_ITEMS: usize = 100;
/// Bytes of data that are kept: with the rest of a delivery they must fit one record of the log.
const MAX_BYTES: usize = 128 * 1024;

/// What was gathered so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Gathered {
    /// The notification that it goes out with: the first.
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

/// What a notification is to a digest.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Part {
    /// It is the first, or joins one: nothing is sent for it now.
    Waits(Box<Choice>, Write),
    /// Its time has come: this is told, and then nothing is gathered for it any more.
    Closes(Told, Option<Write>),
}

/// The row that a notification may be about. A flow has one for each lane, because offsets of one topic fence it.
pub(crate) fn gathered(n: &Notification) -> Read {
    MemberRow::read_one(n.project.as_str(), n.member.as_str(), DIGEST, row_id(n).as_str())
}

fn row_id(n: &Notification) -> String {
    format!("{}/{}", n.flow, n.lane)
}

/// Whether a notification may be part of a digest: what another channel tries is whole already.
pub(crate) fn concerns(n: &Notification, project: &Compiled) -> bool {
    n.tried.is_empty() && (n.round > 0 || project.terms(n).digest.is_some())
}

impl Part {
    /// What is told, where its time has come.
    pub(crate) const fn told(&self) -> Option<&Told> {
        match self {
            Self::Closes(told, _) => Some(told),
            Self::Waits(..) => None,
        }
    }

    /// What ends the gathering.
    pub(crate) const fn closed(&self) -> Option<&Write> {
        match self {
            Self::Closes(_, write) => write.as_ref(),
            Self::Waits(..) => None,
        }
    }

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
        let row = facts.one::<MemberRow>(&gathered(n))?;
        let known = row.as_ref().map(Gathered::from_row).transpose()?;
        match (known, project.terms(n).digest) {
            // Also where the flow gathers no more: what was promised to those who joined is kept.
            (Some(known), _) if n.round > 0 && known.notification == n.id => {
                let key = MemberRow::key(n.project.as_str(), n.member.as_str(), DIGEST, row_id(n).as_str());
                let delete = Write::Delete { table: MemberRow::TABLE, key, fence: Some(position.offset + 1) };
                Ok(Some(Self::Closes(known.told(), Some(delete))))
            }
            (_, None) => Ok(None),
            // It waited before its flow became a digest.
            (_, Some(_)) if n.round > 0 => Ok(Some(Self::Closes(Gathered::first(n, now)?.told(), None))),
            (Some(known), Some(_)) => {
                let (joined, detail) = known.joined(n)?;
                let choice = Choice { detail, ..waiting(Outcome::Gathered, now) };
                Ok(Some(Self::Waits(Box::new(choice), joined.into_write(n, position, now)?)))
            }
            (None, Some(after)) => {
                let first = Gathered::first(n, now.plus(after))?;
                let detail = format!("a digest: it goes out with what comes until {}", first.due);
                let choice = Choice { detail, until: Some(first.due), ..waiting(Outcome::Deferred, now) };
                Ok(Some(Self::Waits(Box::new(choice), first.into_write(n, position, now)?)))
            }
        }
    }
}

const fn waiting(outcome: Outcome, at: Timestamp) -> Choice {
    Choice { outcome, to: None, trace: Vec::new(), detail: String::new(), at, until: None, told: None }
}

impl Gathered {
    fn first(n: &Notification, due: Timestamp) -> Result<Self, Refusal> {
        let none = Self { notification: n.id, due, expires_at: None, items: Vec::new(), count: 0, bytes: 0 };
        Ok(none.joined(n)?.0)
    }

    /// With one more, and what is said of that.
    fn joined(mut self, n: &Notification) -> Result<(Self, String), Refusal> {
        let item = serde_json::from_str(&n.data).map_err(|e| Refusal::new(Reason::Invalid, format!("data: {e}")))?;
        let mut detail = format!("goes out with notification {}, at {}", self.notification, self.due);
        self.expires_at = n.expires_at;
        self.count = self.count.saturating_add(1);
        // The first is kept, whatever its size: alone it would be sent, too.
        if self.items.is_empty() || (self.items.len() < MAX_ITEMS && self.bytes + n.data.len() <= MAX_BYTES) {
            self.bytes += n.data.len();
            self.items.push(item);
        } else {
            detail += ", which is full: it is counted there, without its data";
        }
        Ok((self, detail))
    }

    fn told(&self) -> Told {
        Told { data: json!({"items": self.items, "count": self.count}).to_string(), expires_at: self.expires_at }
    }

    fn from_row(row: &MemberRow) -> Result<Self, Refusal> {
        let text = row.decision.as_deref().unwrap_or_default();
        serde_json::from_str(text)
            .map_err(|e| Refusal::new(Reason::Invalid, format!("members.decision: the digest is not read: {e}")))
    }

    fn into_write(self, n: &Notification, position: Position, now: Timestamp) -> Result<Write, Refusal> {
        let row = MemberRow::empty(&n.project, &n.member, DIGEST, &row_id(n));
        kept::put(row, &self, now, self.due.since(now) + RETENTION, position.offset + 1)
    }
}
