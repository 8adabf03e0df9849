//! From a notification to one delivery, or to none: dedupe, expiry, and the choice of the channel. [`choose`] is the decision itself.

use crate::{
    content::{self, EventAttributes},
    definitions::{Compiled, Projects},
    processor::{Facts, Incoming, Output, Processor, Refusal},
};
use bellwether_schemas::{
    Channel, DeliveryId, Lane, Position, Timestamp,
    ids::EntryId,
    member::{Address, AddressState, Profile},
    records::{Decision, Delivery, Notification, Outcome, Reason, Record, Verdict},
    rows::{Read, Row},
    tables::{CLAIM, MemberRow, PROFILE},
};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How long a claim is remembered: a duplicate that comes later than this is taken for new.
pub const DEDUPE_WINDOW: Duration = Duration::from_secs(7 * 86_400);

/// For so long after the member wrote, WhatsApp takes free text
/// (<https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-messages>, customer service windows).
pub const WINDOW: Duration = Duration::from_secs(86_400);

/// The route processor.
#[derive(Clone, Debug)]
pub struct Route {
    /// Compiled definitions of every project.
    pub projects: Projects,
}

/// What was decided, as the claim keeps it: a redelivery says the same again, whatever has changed since.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Choice {
    /// How it ended.
    pub outcome: Outcome,
    /// Chosen channel and address.
    pub to: Option<(Channel, String)>,
    /// Every channel that was looked at, in order.
    pub trace: Vec<Verdict>,
    /// In words.
    pub detail: String,
    /// When.
    pub at: Timestamp,
}

impl Processor for Route {
    const NAME: &'static str = "route";
    type Input = Notification;

    fn needs(&self, incoming: &Incoming<Notification>, _: &Facts, _: Timestamp) -> Vec<Read> {
        let n = &incoming.input;
        // Two rows of one partition, so the store is asked once; other claims are not read, however many there are.
        vec![of_member(n, PROFILE, ""), of_member(n, CLAIM, &n.id.to_string())]
    }

    fn decide(&self, incoming: &Incoming<Notification>, facts: &Facts, now: Timestamp) -> Result<Output, Refusal> {
        let n = &incoming.input;
        let project = self.projects.get(&n.project).ok_or_else(|| {
            Refusal::new(
                Reason::Invalid,
                format!("project: `{}` has no definitions; apply them, then replay", n.project),
            )
        })?;
        let profile = facts.one::<MemberRow>(&of_member(n, PROFILE, ""))?;
        let profile = profile.as_ref().map(Profile::from_row).transpose()?;
        let claim = facts.one::<MemberRow>(&of_member(n, CLAIM, &n.id.to_string()))?;
        let here = incoming.position.to_string();

        let mut output = Output::default();
        let choice = match claim {
            Some(claim) if claim.position.as_ref() == Some(&here) => {
                claim.decision.as_deref().and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
                    Refusal::new(Reason::Invalid, "members.decision: the claim holds no decision; replay")
                })?
            }
            Some(claim) => {
                let first = claim.position.unwrap_or_default();
                let choice = Choice {
                    outcome: Outcome::Duplicate,
                    to: None,
                    trace: Vec::new(),
                    detail: format!("claimed before by the record at {first}"),
                    at: now,
                };
                output.records.push(decision(n, &choice, None, incoming.position));
                return Ok(output);
            }
            None => {
                let choice = choose(n, profile.as_ref(), project, now);
                output.rows.push(claimed(n, &choice, &here, incoming.position)?);
                choice
            }
        };
        let delivery = match &choice.to {
            Some((channel, address)) => Some(delivery(n, &profile.unwrap_or_default(), *channel, address)?),
            None => None,
        };
        output.records.push(decision(n, &choice, delivery.as_ref().map(|d| d.id), incoming.position));
        output.records.extend(delivery.map(Record::Delivery));
        Ok(output)
    }
}

fn of_member(n: &Notification, kind: &str, id: &str) -> Read {
    MemberRow::read_one(n.project.as_str(), n.member.as_str(), kind, id)
}

/// Whether, and by which channel, the member is told.
#[must_use]
pub fn choose(n: &Notification, profile: Option<&Profile>, project: &Compiled, now: Timestamp) -> Choice {
    let none = |outcome, detail: String, trace| Choice { outcome, to: None, trace, detail, at: now };
    if let Some(at) = n.expires_at.filter(|at| *at <= now) {
        return none(Outcome::Expired, format!("it was to be sent before {at}"), Vec::new());
    }
    let Some(profile) = profile else {
        return none(Outcome::UnknownMember, "the project has no such member".into(), Vec::new());
    };
    let mut trace = Vec::new();
    let mut rejections = Vec::new();
    for channel in order(&n.channels, &profile.channels) {
        match look(channel, n, profile, project) {
            Ok(address) => {
                let why = if !n.channels.is_empty() {
                    "the flow names it"
                } else if profile.channels.contains(&channel) {
                    "the member prefers it"
                } else {
                    "first usable in the default order"
                };
                trace.push(Verdict { channel, rule: "chosen".into(), detail: why.into() });
                let detail = format!("{channel}: {why}");
                return Choice { outcome: Outcome::Routed, to: Some((channel, address)), trace, detail, at: now };
            }
            Err((outcome, detail)) => {
                trace.push(Verdict { channel, rule: outcome.name().into(), detail });
                rejections.push(outcome);
            }
        }
    }
    // The rejection that came nearest to sending tells most about what to change.
    let nearest = [Outcome::NoOptIn, Outcome::Suppressed, Outcome::NoAddress, Outcome::NoTemplate];
    let outcome = nearest.into_iter().find(|o| rejections.contains(o)).unwrap_or(Outcome::NoProvider);
    let detail = trace.iter().map(|v| format!("{}: {}", v.channel, v.detail)).collect::<Vec<_>>().join("; ");
    none(outcome, detail, trace)
}

/// The channels to look at: those that the flow names and no others, else the member's preference, then the default order.
fn order(named: &[Channel], preferred: &[Channel]) -> Vec<Channel> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let rest = Channel::ALL.into_iter().filter(|c| !preferred.contains(c));
    preferred.iter().copied().chain(rest).collect()
}

/// The address by which this channel may be used, or the first rule that forbids it.
fn look(
    channel: Channel,
    n: &Notification,
    profile: &Profile,
    project: &Compiled,
) -> Result<String, (Outcome, String)> {
    if !project.has_variant(&n.template, channel) {
        return Err((Outcome::NoTemplate, format!("template `{}` has no {channel} variant", n.template)));
    }
    if project.providers(channel).is_empty() {
        return Err((Outcome::NoProvider, format!("no provider serves {channel}")));
    }
    let addresses = profile.addresses.get(&channel).map_or(&[][..], Vec::as_slice);
    let served = |address: &&Address| project.serves(channel, &address.address);
    let active = addresses.iter().filter(served).find(|a| a.state == AddressState::Active);
    let Some(address) = active else {
        return Err(match addresses.iter().find(served) {
            None if addresses.is_empty() => (Outcome::NoAddress, format!("the member has no {channel} address")),
            None => (Outcome::NoProvider, format!("no provider serves any {channel} address of the member")),
            Some(dead) if dead.state == AddressState::Quarantined => {
                let why =
                    format!("in quarantine since {}, after {} misses: {}", dead.since, dead.misses.len(), dead.reason);
                (Outcome::Suppressed, why)
            }
            Some(dead) => (Outcome::Suppressed, format!("suppressed since {}: {}", dead.since, dead.reason)),
        });
    };
    match (profile.opt_ins.get(&channel), n.lane) {
        (Some(true), _) | (None, Lane::Transactional) => Ok(address.address.clone()),
        (Some(false), _) => Err((Outcome::NoOptIn, format!("the member refused {channel}"))),
        (None, Lane::Bulk) => Err((Outcome::NoOptIn, format!("bulk needs an opt-in to {channel}, and there is none"))),
    }
}

fn claimed(
    n: &Notification,
    choice: &Choice,
    here: &str,
    position: Position,
) -> Result<bellwether_schemas::rows::Write, Refusal> {
    let decision = serde_json::to_string(choice).map_err(|e| Refusal::new(Reason::Invalid, e.to_string()))?;
    let row = MemberRow {
        updated_at: Some(choice.at),
        position: Some(here.to_owned()),
        decision: Some(decision),
        ..MemberRow::empty(&n.project, &n.member, CLAIM, &n.id.to_string())
    };
    let mut cells = row.into_cells();
    cells.ttl = Some(DEDUPE_WINDOW);
    cells.fence = Some(position.offset + 1);
    Ok(bellwether_schemas::rows::Write::Put(cells))
}

fn delivery(n: &Notification, profile: &Profile, channel: Channel, address: &str) -> Result<Delivery, Refusal> {
    let data = serde_json::from_str(&n.data).map_err(|e| Refusal::new(Reason::Invalid, format!("data: {e}")))?;
    let event = n.event.to_string();
    let event = EventAttributes { id: &event, kind: &n.event_type, source: None, time: n.accepted_at };
    Ok(Delivery {
        id: DeliveryId::derive(n.id, channel, address),
        notification: n.id,
        project: n.project.clone(),
        member: n.member.clone(),
        event_type: n.event_type.clone(),
        template: n.template.clone(),
        channel,
        address: address.to_owned(),
        locale: profile.locale.clone(),
        lane: n.lane,
        attempt: 1,
        accepted_at: n.accepted_at,
        expires_at: n.expires_at,
        context: content::context(event, &data, &n.member, profile).to_string(),
        window_until: heard(profile, channel, address).map(|at| at.plus(WINDOW)),
    })
}

/// When the member last wrote to us from an address.
fn heard(profile: &Profile, channel: Channel, address: &str) -> Option<Timestamp> {
    profile.addresses.get(&channel)?.iter().find(|a| a.address == address)?.heard
}

fn decision(n: &Notification, choice: &Choice, delivery: Option<DeliveryId>, position: Position) -> Record {
    Record::Decision(Decision {
        id: EntryId::derive("route", &[n.id.0.as_bytes(), position.to_string().as_bytes()]),
        notification: n.id,
        project: n.project.clone(),
        member: n.member.clone(),
        event: n.event,
        event_type: n.event_type.clone(),
        flow: n.flow.clone(),
        flow_version: n.flow_version,
        template: n.template.clone(),
        at: choice.at,
        outcome: choice.outcome,
        channel: choice.to.as_ref().map(|(channel, _)| *channel),
        delivery,
        trace: choice.trace.clone(),
        detail: choice.detail.clone(),
    })
}
