//! Folds decisions and receipts into stories and exact sums. Every line of a story is owned by the first position that wrote it, so a
//! line met again from elsewhere is a duplicate and counts nothing; a sum names the last offset that it includes (law 2).

use crate::{
    consent::VIA,
    definitions::Projects,
    fallback,
    processor::{Facts, Incoming, Output, Processor, Refusal},
    retention::Retention,
    score::Seen,
};
use bellwether_schemas::{
    NotificationId, Timestamp,
    ids::EntryId,
    records::{Decision, ErrorKind, MemberAction, MemberCommand, Reason, Receipt, ReceiptKind, Record},
    rows::{Read, Row, Write},
    tables::{AggregateRow, MemberRow, StoryRow},
};
use serde::Serialize;
use std::time::Duration;

/// How long stories are kept by default.
pub const STORY_RETENTION: Duration = Duration::from_secs(90 * 86_400);

/// The track processor.
#[derive(Clone, Debug, Default)]
pub struct Track {
    /// Compiled definitions of every project: where one compares channels, what comes of messages is kept by channel.
    pub projects: Projects,
    /// How long stories are kept.
    pub retention: Retention,
}

/// What it folds.
#[derive(Clone, Debug, PartialEq)]
pub enum Tracked {
    /// From `receipts`.
    Receipt(Receipt),
    /// From `decisions`.
    Decision(Decision),
}

impl Processor for Track {
    const NAME: &'static str = "track";
    type Input = Tracked;

    fn needs(&self, incoming: &Incoming<Tracked>, _: &Facts, _: Timestamp) -> Vec<Read> {
        let line = Line::of(&incoming.input);
        let mut reads = vec![line.story(), line.sum(&source(incoming))];
        reads.extend(self.sign(&incoming.input).map(seen_by));
        if let Tracked::Receipt(receipt) = &incoming.input {
            reads.extend(fallback::kept(receipt));
        }
        reads
    }

    fn decide(&self, incoming: &Incoming<Tracked>, facts: &Facts, now: Timestamp) -> Result<Output, Refusal> {
        let line = Line::of(&incoming.input);
        let here = incoming.position.to_string();
        let mut output = Output::default();
        match facts.one::<StoryRow>(&line.story())? {
            Some(owned) if owned.position != here => return Ok(output), // A duplicate: told before.
            Some(_) => {} // A redelivery: the line is there, the sum perhaps not.
            None => output.rows.push(line.told(&incoming.input, here)?.put_for(self.retention.stories)),
        }
        let offset = i64::try_from(incoming.position.offset).unwrap_or(i64::MAX);
        let sum = facts.one::<AggregateRow>(&line.sum(&source(incoming)))?;
        let (value, included) = sum.map_or((0, -1), |s| (s.value, s.included));
        if offset > included {
            let row = AggregateRow {
                project: line.project.into(),
                day: line.at.day(),
                template: line.template.into(),
                channel: line.channel.into(),
                metric: line.metric,
                source: source(incoming),
                value: value + 1,
                included: offset,
            };
            output.rows.push(row.put_fenced(incoming.position.offset + 1));
        }
        if let Some(receipt) = self.sign(&incoming.input) {
            output.rows.extend(learnt(receipt, facts, incoming.position.offset + 1, now)?);
        }
        if let Tracked::Receipt(receipt) = &incoming.input {
            output.records.extend(consequence(receipt).map(Record::Member));
            output.records.extend(fallback::at_once(receipt, facts)?.map(Record::Notification));
        }
        Ok(output)
    }
}

impl Track {
    /// The receipt, where it tells what came of a message and its project keeps that.
    fn sign<'a>(&self, tracked: &'a Tracked) -> Option<&'a Receipt> {
        let Tracked::Receipt(receipt) = tracked else { return None };
        let is_sign = Seen::is_told_by(receipt.kind) && self.projects.get(&receipt.project)?.keeps_engagement();
        is_sign.then_some(receipt)
    }
}

fn seen_by(receipt: &Receipt) -> Read {
    Seen::read(&receipt.project, &receipt.member, receipt.channel)
}

/// What the receipt adds to what is known of the member's channel; nothing where it is no news. Receipts of a member are one partition's, whose
/// offsets fence the row.
fn learnt(receipt: &Receipt, facts: &Facts, fence: u64, now: Timestamp) -> Result<Option<Write>, Refusal> {
    let row = facts.one::<MemberRow>(&seen_by(receipt))?;
    let mut seen: Seen = row.map_or_else(|| Ok(Seen::default()), |row| row.kept())?;
    // Providers tell the time, and one may be ahead of it: that must not outlast what comes later.
    if !seen.learn(receipt.kind, receipt.at.min(now)) {
        return Ok(None);
    }
    seen.put(&receipt.project, &receipt.member, receipt.channel, fence, now).map(Some)
}

/// What a receipt changes about the member.
fn consequence(receipt: &Receipt) -> Option<MemberCommand> {
    let action = match (receipt.kind, receipt.error) {
        (ReceiptKind::Failed, Some(ErrorKind::InvalidAddress)) => MemberAction::Suppress,
        (ReceiptKind::OptedOut, _) | (ReceiptKind::Failed, Some(ErrorKind::OptedOut)) => MemberAction::OptOut,
        (ReceiptKind::Failed, Some(ErrorKind::Unreachable)) => MemberAction::Missed,
        _ => return None,
    };
    let by_link = receipt.detail.as_deref() == Some(Receipt::BY_LINK);
    Some(MemberCommand {
        channel: Some(receipt.channel),
        address: receipt.address.clone(),
        reason: receipt.detail.clone(),
        proof: (action == MemberAction::OptOut).then(|| proof(receipt, by_link)),
        ..MemberCommand::new(
            receipt.project.clone(),
            receipt.member.clone(),
            action,
            if by_link { format!("member{VIA}link") } else { format!("provider {}", receipt.provider) },
            receipt.at,
        )
    })
}

/// What shows that the member said no.
fn proof(receipt: &Receipt, by_link: bool) -> String {
    match &receipt.provider_id {
        _ if by_link => format!("link of delivery {}", receipt.delivery),
        Some(id) => format!("message {id}"),
        None => format!("answer to delivery {}", receipt.delivery),
    }
}

fn source(incoming: &Incoming<Tracked>) -> String {
    format!("{}/{}", incoming.position.topic, incoming.position.partition)
}

/// What a decision and a receipt have in common here.
struct Line<'a> {
    id: EntryId,
    notification: NotificationId,
    project: &'a str,
    member: &'a str,
    template: &'a str,
    channel: &'static str,
    metric: String,
    at: Timestamp,
}

impl<'a> Line<'a> {
    fn of(tracked: &'a Tracked) -> Self {
        match tracked {
            Tracked::Decision(d) => Self {
                id: d.id,
                notification: d.notification,
                project: &d.project,
                member: &d.member,
                template: &d.template,
                channel: d.channel.map_or("", |c| c.name()),
                metric: format!("decided.{}", d.outcome.name()),
                at: d.at,
            },
            Tracked::Receipt(r) => {
                // A delivery is deferred once a try, everything else happens to it once.
                let attempt = if r.kind == ReceiptKind::Deferred { r.attempt } else { 0 };
                let cause = [r.delivery.0.as_bytes() as &[u8], r.kind.name().as_bytes(), &attempt.to_be_bytes()];
                Self {
                    id: EntryId::derive("receipt", &cause),
                    notification: r.notification,
                    project: &r.project,
                    member: &r.member,
                    template: &r.template,
                    channel: r.channel.name(),
                    metric: r.kind.name().into(),
                    at: r.at,
                }
            }
        }
    }

    fn story(&self) -> Read {
        StoryRow::read_one(self.notification.0, self.id.0)
    }

    fn sum(&self, source: &str) -> Read {
        AggregateRow::read_one(self.project, self.at.day(), self.template, self.channel, self.metric.as_str(), source)
    }

    fn told(&self, tracked: &Tracked, position: String) -> Result<StoryRow, Refusal> {
        fn json(value: &impl Serialize) -> Result<String, Refusal> {
            serde_json::to_string(value).map_err(|e| Refusal::new(Reason::Invalid, e.to_string()))
        }
        let (kind, outcome, delivery, channel, detail) = match tracked {
            Tracked::Decision(d) => ("decision", d.outcome.name(), d.delivery, d.channel, json(d)?),
            Tracked::Receipt(r) => {
                // The address stays in the member's profile alone.
                let told = Receipt { address: None, ..r.clone() };
                ("receipt", r.kind.name(), Some(r.delivery), Some(r.channel), json(&told)?)
            }
        };
        Ok(StoryRow {
            notification: self.notification.0,
            id: self.id.0,
            project: self.project.into(),
            member: self.member.into(),
            at: self.at,
            kind: kind.into(),
            outcome: outcome.into(),
            delivery: delivery.map(|d| d.0),
            channel: channel.map(|c| c.name().into()),
            detail,
            position,
        })
    }
}
