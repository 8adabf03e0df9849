//! Another channel for what does not arrive (a flow's `fallback`): what the next channel is given, what says that it is needed, and what says that it is
//! not. Route asks before it chooses again; track asks when a failure comes in. Whether there is a next channel is route's matter.

use crate::{
    kept,
    processor::{Facts, Refusal},
    route::{Choice, DEDUPE_WINDOW},
};
use bellwether_schemas::{
    NotificationId, Position, Timestamp,
    records::{ErrorKind, Notification, Outcome, Receipt, ReceiptKind},
    rows::{BadRow, Read, Write},
    tables::{FALLBACK, MemberRow, StoryRow},
};
use std::time::Duration;

/// Longest time that a channel may have. After a failure the next channel's turn comes twice, at once and in time; the second must still meet
/// the first one's claim, so this is a day less than claims are kept.
pub const LONGEST: Duration = Duration::from_secs(DEDUPE_WINDOW.as_secs() - 86_400);

/// The rule that leaves out a channel which was tried before.
pub const TRIED: &str = "tried";

/// Lines of a story that are read; a message that is tried and opened a lot has some dozens.
const MAX_LINES: usize = 1_000;

/// The notification as it comes back: what was sent is not tried by that channel again, and what is gathered for it is found.
#[must_use]
pub fn again(n: &Notification, choice: &Choice) -> Notification {
    let mut tried = n.tried.clone();
    tried.extend(choice.to.as_ref().map(|(channel, _)| *channel));
    Notification { round: n.round.saturating_add(1), tried, gathered_in: choice.gathered_in.clone(), ..n.clone() }
}

/// Keeps what the next channel is given where track finds it, for as long as the channel before it has: then it comes by itself.
pub(crate) fn keep(next: &Notification, now: Timestamp, due: Timestamp, position: Position) -> Result<Write, Refusal> {
    let row = MemberRow::empty(&next.project, &next.member, FALLBACK, &next.id.to_string());
    kept::put(row, next, now, due.since(now).max(Duration::from_secs(1)), position.offset + 1)
}

/// What a receipt may set going: asked of those alone that say that a channel failed for good.
pub(crate) fn kept(receipt: &Receipt) -> Option<Read> {
    // What expired did so because the next channel's turn has come. What is in doubt has perhaps arrived: time will tell.
    let is_final = !matches!(receipt.error, Some(ErrorKind::Expired | ErrorKind::Ambiguous));
    let id = receipt.notification.to_string();
    (receipt.kind == ReceiptKind::Failed && is_final)
        .then(|| MemberRow::read_one(receipt.project.as_str(), receipt.member.as_str(), FALLBACK, id.as_str()))
}

/// What the next channel is given at once, because the one that has its turn failed.
pub(crate) fn at_once(receipt: &Receipt, facts: &Facts) -> Result<Option<Notification>, Refusal> {
    let Some(row) = kept(receipt).map(|read| facts.one::<MemberRow>(&read)).transpose()?.flatten() else {
        return Ok(None);
    };
    let next: Notification = row.kept()?;
    // A late failure of a channel whose turn is over changes nothing.
    Ok((next.tried.last() == Some(&receipt.channel)).then_some(next))
}

/// What was told of a notification so far.
pub(crate) fn story(notification: NotificationId) -> Read {
    Read { limit: Some(MAX_LINES), ..StoryRow::read_all(notification.0) }
}

/// What is known of the channels before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// It arrived by one of them.
    Arrived(String),
    /// It did not, as far as is known.
    Missed(String),
}

impl Before {
    /// Reads the story of a notification that was sent before; there is nothing to know of others.
    pub(crate) fn of(n: &Notification, facts: &Facts) -> Result<Option<Self>, BadRow> {
        let Some(last) = n.tried.last() else { return Ok(None) };
        let story = facts.rows::<StoryRow>(&story(n.id))?;
        let arrivals = story.iter().filter_map(|row| Some((row, row.receipt().filter(|kind| kind.is_arrival())?)));
        if let Some((row, kind)) = arrivals.min_by_key(|(row, _)| row.at) {
            let channel = row.channel.as_deref().unwrap_or_default();
            return Ok(Some(Self::Arrived(format!("{channel}: {} at {}", kind.name(), row.at))));
        }
        let has_failed =
            |row: &&StoryRow| row.receipt() == Some(ReceiptKind::Failed) && row.channel.as_deref() == Some(last.name());
        let why = match story.iter().find(has_failed) {
            // The provider's words may name an address, the kind of error does not.
            Some(row) => {
                let receipt = serde_json::from_str::<Receipt>(&row.detail).ok();
                let error = receipt.and_then(|receipt| receipt.error);
                error.map_or_else(|| format!("{last} failed"), |error| format!("{last} failed ({})", error.name()))
            }
            None => format!("{last}: no sign that it arrived"),
        };
        Ok(Some(Self::Missed(why)))
    }

    /// What is decided, knowing this: nothing more to send where it arrived.
    pub(crate) fn decides(self, choice: Choice) -> Choice {
        match self {
            Self::Arrived(detail) => {
                // What would have been chosen is no part of it.
                let trace = choice.trace.into_iter().filter(|verdict| verdict.rule == TRIED).collect();
                Choice { outcome: Outcome::Cancelled, to: None, trace, detail, until: None, ..choice }
            }
            Self::Missed(why) => Choice { detail: format!("{why}; {}", choice.detail), ..choice },
        }
    }
}
