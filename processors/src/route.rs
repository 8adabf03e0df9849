//! From a notification to one delivery, to none, or to the same again later: dedupe, expiry, the choice of the channel, caps, quiet hours.
//! [`choose`] is the decision itself.

use crate::{
    caps::{self, Candidate, History, Sent},
    content::{self, EventAttributes},
    definitions::{Compiled, Projects},
    digest::{self, Part, Told},
    fallback::{self, Before},
    hours::{self, Obstacle},
    processor::{Facts, Incoming, Output, Processor, Refusal},
};
use bellwether_schemas::{
    Channel, DeliveryId, Lane, Position, Timestamp,
    definitions::Exceed,
    ids::EntryId,
    member::{Address, AddressState, Profile},
    records::{Decision, Delivery, Notification, Outcome, Reason, Record, Verdict},
    rows::{Read, Row, Write},
    tables::{CLAIM, MemberRow, PROFILE, SENT},
};
use jiff::tz::TimeZone;
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
    /// When it is decided again: where it is deferred, or where it is routed and another channel follows unless it arrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// What is told of all that a digest gathered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Told>,
}

impl Processor for Route {
    const NAME: &'static str = "route";
    type Input = Notification;

    fn needs(&self, incoming: &Incoming<Notification>, _: &Facts, _: Timestamp) -> Vec<Read> {
        let n = &incoming.input;
        // Rows of one partition, so the store is asked once; other claims are not read, however many there are.
        let mut reads = vec![of_member(n, PROFILE, ""), of_member(n, CLAIM, &claim_id(n))];
        // Only caps look at what was sent; the definitions are those that `decide` has, for the whole batch.
        if self.projects.get(&n.project).is_some_and(|project| !project.document.project.caps.is_empty()) {
            reads.extend(Lane::ALL.map(|lane| of_member(n, SENT, lane.name())));
        }
        if !n.tried.is_empty() {
            reads.push(fallback::story(n.id));
        }
        if self.projects.get(&n.project).is_some_and(|project| digest::concerns(n, project)) {
            reads.push(digest::gathered(n));
        }
        reads
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
        let claim = facts.one::<MemberRow>(&of_member(n, CLAIM, &claim_id(n)))?;
        let here = incoming.position.to_string();

        let mut output = Output::default();
        let part = match claim {
            Some(_) => None,
            None => Part::of(n, project, facts, incoming.position, now)?,
        };
        let choice = match (claim, &part) {
            (Some(claim), _) if claim.position.as_ref() == Some(&here) => {
                claim.decision.as_deref().and_then(|text| serde_json::from_str(text).ok()).ok_or_else(|| {
                    Refusal::new(Reason::Invalid, "members.decision: the claim holds no decision; replay")
                })?
            }
            (Some(claim), _) => {
                let first = claim.position.unwrap_or_default();
                let choice = Choice {
                    outcome: Outcome::Duplicate,
                    to: None,
                    trace: Vec::new(),
                    detail: format!("claimed before by the record at {first}"),
                    at: now,
                    until: None,
                    told: None,
                };
                output.records.push(decision(n, &choice, None, incoming.position));
                return Ok(output);
            }
            (None, Some(Part::Waits(choice, row))) => {
                output.rows.push(claimed(n, choice, &here, incoming.position)?);
                output.rows.push(row.clone());
                Choice::clone(choice)
            }
            (None, _) => {
                let told = part.as_ref().and_then(Part::told);
                let whole = told.map(|told| told.by(n));
                let n = whole.as_ref().unwrap_or(n);
                let mut histories = Lane::ALL.map(|_| History::default());
                for (lane, history) in Lane::ALL.iter().zip(&mut histories) {
                    let row = facts.one::<MemberRow>(&of_member(n, SENT, lane.name()))?;
                    *history = row.map_or_else(|| Ok(History::default()), |row| read_history(&row))?;
                }
                // Its own first try is no other message.
                let others = histories.iter().flat_map(|history| &history.0).filter(|sent| sent.id != n.id);
                let all = History(others.cloned().collect());
                let mut choice = choose(n, profile.as_ref(), &all, project, now);
                if let Some(before) = Before::of(n, facts)? {
                    choice = before.decides(choice);
                }
                if let (Some((channel, _)), Some(profile)) = (&choice.to, &profile) {
                    choice.until = next_turn(n, *channel, profile, &all, project, now);
                }
                choice.told = choice.to.as_ref().and(told).cloned();
                if choice.outcome != Outcome::Deferred {
                    output.rows.extend(part.as_ref().and_then(Part::closed).cloned());
                }
                output.rows.push(claimed(n, &choice, &here, incoming.position)?);
                if let (Some(_), Some(due)) = (&choice.to, choice.until) {
                    output.rows.push(fallback::keep(&fallback::again(n, &choice), now, due, incoming.position)?);
                }
                if let (Some((channel, _)), false) = (&choice.to, project.document.project.caps.is_empty()) {
                    let [urgent, bulk] = histories;
                    let history = if n.lane == Lane::Transactional { urgent } else { bulk };
                    output.rows.push(entered(n, history, *channel, project, incoming.position, now)?);
                }
                choice
            }
        };
        let whole = choice.told.as_ref().map(|told| told.by(n));
        let n = whole.as_ref().unwrap_or(n);
        let delivery = match &choice.to {
            Some((channel, address)) => {
                let delivery = delivery(n, &profile.unwrap_or_default(), *channel, address)?;
                // What still waits when the next channel has its turn is not sent beside it.
                let expires_at = n.expires_at.into_iter().chain(choice.until).min();
                Some(Delivery { expires_at, ..delivery })
            }
            None => None,
        };
        output.records.push(decision(n, &choice, delivery.as_ref().map(|d| d.id), incoming.position));
        output.records.extend(delivery.map(Record::Delivery));
        output.records.extend(
            choice.until.map(|until| Record::Later(until, Box::new(Record::Notification(fallback::again(n, &choice))))),
        );
        Ok(output)
    }
}

/// A notification is claimed anew each time that it comes back, deferred or for another channel. One that comes back twice for the same channel, at its
/// failure and in time, is the same round.
fn claim_id(n: &Notification) -> String {
    if n.round == 0 { n.id.to_string() } else { format!("{}/{}", n.id, n.round) }
}

fn read_history(row: &MemberRow) -> Result<History, Refusal> {
    let text = row.decision.as_deref().unwrap_or("[]");
    serde_json::from_str(text).map_err(|e| Refusal::new(Reason::Invalid, format!("members.decision: {e}")))
}

/// The lane's history with this message. Each lane has a row of its own, because each is fenced by the offsets of its own topic.
fn entered(
    n: &Notification,
    mut history: History,
    channel: Channel,
    project: &Compiled,
    position: Position,
    now: Timestamp,
) -> Result<Write, Refusal> {
    let category = project.terms(n).category.clone();
    history.enter(Sent { id: n.id, at: now, channel, category }, now);
    let text = serde_json::to_string(&history).map_err(|e| Refusal::new(Reason::Invalid, e.to_string()))?;
    let row = MemberRow {
        updated_at: Some(now),
        decision: Some(text),
        ..MemberRow::empty(&n.project, &n.member, SENT, n.lane.name())
    };
    let mut cells = row.into_cells();
    cells.ttl = Some(Duration::from_secs(u64::from(caps::LONGEST_HOURS) * 3_600));
    cells.fence = Some(position.offset + 1);
    Ok(Write::Put(cells))
}

fn of_member(n: &Notification, kind: &str, id: &str) -> Read {
    MemberRow::read_one(n.project.as_str(), n.member.as_str(), kind, id)
}

/// Whether, when, and by which channel the member is told. `history` is what the member was sent lately, in both lanes.
#[must_use]
pub fn choose(
    n: &Notification,
    profile: Option<&Profile>,
    history: &History,
    project: &Compiled,
    now: Timestamp,
) -> Choice {
    let none =
        |outcome, detail: String, trace| Choice { outcome, to: None, trace, detail, at: now, until: None, told: None };
    if let Some(at) = n.expires_at.filter(|at| *at <= now) {
        return none(Outcome::Expired, format!("it was to be sent before {at}"), Vec::new());
    }
    let Some(profile) = profile else {
        return none(Outcome::UnknownMember, "the project has no such member".into(), Vec::new());
    };
    let zone = zone_of(profile, project);
    let deferred = |until: Timestamp, detail: String, trace| match n.expires_at {
        Some(at) if at <= until => none(Outcome::Expired, format!("{detail}; it expires before, at {at}"), trace),
        _ => Choice { until: Some(until), ..none(Outcome::Deferred, detail, trace) },
    };
    let mut trace = tried(n);
    let mut rejections = Vec::new();
    for channel in left(n, profile) {
        match look(channel, n, profile, project).and_then(|address| {
            room(channel, n, history, project, &zone, now)?;
            Ok(address)
        }) {
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
                return match moment(n, project, &zone, now) {
                    Ok(None) => {
                        let to = Some((channel, address));
                        Choice { outcome: Outcome::Routed, to, trace, detail, at: now, until: None, told: None }
                    }
                    Ok(Some((until, why))) => deferred(until, why, trace),
                    Err(why) => none(Outcome::Expired, why, trace),
                };
            }
            Err(rejection) => {
                let Rejection { outcome, detail, .. } = &rejection;
                trace.push(Verdict { channel, rule: outcome.name().into(), detail: detail.clone() });
                rejections.push(rejection);
            }
        }
    }
    let detail = trace.iter().map(|v| format!("{}: {}", v.channel, v.detail)).collect::<Vec<_>>().join("; ");
    if let Some(until) = rejections.iter().filter_map(|rejection| rejection.until).min() {
        return deferred(until, detail, trace);
    }
    // The rejection that came nearest to sending tells most about what to change.
    let nearest = [Outcome::Capped, Outcome::NoOptIn, Outcome::Suppressed, Outcome::NoAddress, Outcome::NoTemplate];
    let outcome = nearest.into_iter().find(|outcome| rejections.iter().any(|rejection| rejection.outcome == *outcome));
    none(outcome.unwrap_or(Outcome::NoProvider), detail, trace)
}

/// The zone of a member.
fn zone_of(profile: &Profile, project: &Compiled) -> TimeZone {
    profile.time_zone.as_deref().and_then(hours::zone).unwrap_or_else(|| project.zone().clone())
}

/// Why a channel is not used.
struct Rejection {
    outcome: Outcome,
    detail: String,
    /// When it might be, where waiting is what the rule wants.
    until: Option<Timestamp>,
}

impl Rejection {
    const fn new(outcome: Outcome, detail: String) -> Self {
        Self { outcome, detail, until: None }
    }
}

/// Whether the caps leave room for one more by this channel.
fn room(
    channel: Channel,
    n: &Notification,
    history: &History,
    project: &Compiled,
    zone: &TimeZone,
    now: Timestamp,
) -> Result<(), Rejection> {
    let terms = project.terms(n);
    let candidate = Candidate { channel, category: &terms.category, priority: terms.priority };
    let Some(full) = caps::look(&project.document.project.caps, history, candidate, zone, now) else { return Ok(()) };
    let detail = format!(
        "cap `{}`: {} of {} for priority {} used, room from {}",
        full.name, full.used, full.most, terms.priority, full.free_at
    );
    let until = (full.exceed == Exceed::Defer).then(|| spread(n, terms.spread, full.free_at));
    Err(Rejection { until, ..Rejection::new(Outcome::Capped, detail) })
}

/// When it may go out, where that is not now, and why.
///
/// # Errors
/// Never, in words.
fn moment(
    n: &Notification,
    project: &Compiled,
    zone: &TimeZone,
    now: Timestamp,
) -> Result<Option<(Timestamp, String)>, String> {
    let terms = project.terms(n);
    let begins = spread(n, terms.spread, n.accepted_at);
    if n.round == 0 && begins > now {
        return Ok(Some((begins, format!("the flow spreads its messages over {} s", terms.spread.as_secs()))));
    }
    let place = zone.iana_name().unwrap_or("UTC");
    match hours::next(&terms.hours, zone, now) {
        Some((_, None)) => Ok(None),
        Some((at, Some(obstacle))) => {
            let what = match obstacle {
                Obstacle::QuietHours => "quiet hours",
                Obstacle::Window => "outside the flow's window",
                Obstacle::Holiday => "a holiday",
            };
            let at = spread(n, terms.spread, at);
            Ok(Some((at, format!("{what} where the member is ({place}), until {at}"))))
        }
        None => Err(format!("window, quiet hours and holidays ({place}) leave no moment within a year")),
    }
}

/// A moment from `at` on, the same for a notification whenever it is asked.
fn spread(n: &Notification, over: Duration, at: Timestamp) -> Timestamp {
    let millis = u64::try_from(over.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return at;
    }
    at.plus(Duration::from_millis(xxhash_rust::xxh64::xxh64(n.id.0.as_bytes(), 1) % millis))
}

/// When the next channel has its turn after this one, if the flow wants that and there is one that could be used now.
fn next_turn(
    n: &Notification,
    channel: Channel,
    profile: &Profile,
    history: &History,
    project: &Compiled,
    now: Timestamp,
) -> Option<Timestamp> {
    let after = project.terms(n).fallback?;
    let zone = zone_of(profile, project);
    let is_usable = |other: Channel| {
        look(other, n, profile, project).and_then(|_| room(other, n, history, project, &zone, now)).is_ok()
    };
    left(n, profile).any(|other| other != channel && is_usable(other)).then(|| now.plus(after))
}

/// The channels that were tried before, as the trace shows them.
fn tried(n: &Notification) -> Vec<Verdict> {
    let before =
        |channel: &Channel| Verdict { channel: *channel, rule: fallback::TRIED.into(), detail: "tried before".into() };
    n.tried.iter().map(before).collect()
}

/// The channels to look at that were not tried before.
fn left(n: &Notification, profile: &Profile) -> impl Iterator<Item = Channel> {
    order(&n.channels, &profile.channels).into_iter().filter(move |channel| !n.tried.contains(channel))
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
fn look(channel: Channel, n: &Notification, profile: &Profile, project: &Compiled) -> Result<String, Rejection> {
    if !project.has_variant(&n.template, channel) {
        let detail = format!("template `{}` has no {channel} variant", n.template);
        return Err(Rejection::new(Outcome::NoTemplate, detail));
    }
    if project.providers(channel).is_empty() {
        return Err(Rejection::new(Outcome::NoProvider, format!("no provider serves {channel}")));
    }
    let addresses = profile.addresses.get(&channel).map_or(&[][..], Vec::as_slice);
    let served = |address: &&Address| project.serves(channel, &address.address);
    let active = addresses.iter().filter(served).find(|a| a.state == AddressState::Active);
    let Some(address) = active else {
        let (outcome, detail) = match addresses.iter().find(served) {
            None if addresses.is_empty() => (Outcome::NoAddress, format!("the member has no {channel} address")),
            None => (Outcome::NoProvider, format!("no provider serves any {channel} address of the member")),
            Some(dead) if dead.state == AddressState::Quarantined => {
                let why =
                    format!("in quarantine since {}, after {} misses: {}", dead.since, dead.misses.len(), dead.reason);
                (Outcome::Suppressed, why)
            }
            Some(dead) => (Outcome::Suppressed, format!("suppressed since {}: {}", dead.since, dead.reason)),
        };
        return Err(Rejection::new(outcome, detail));
    };
    match (profile.opt_ins.get(&channel), n.lane) {
        (Some(true), _) | (None, Lane::Transactional) => Ok(address.address.clone()),
        (Some(false), _) => Err(Rejection::new(Outcome::NoOptIn, format!("the member refused {channel}"))),
        (None, Lane::Bulk) => {
            let detail = format!("bulk needs an opt-in to {channel}, and there is none");
            Err(Rejection::new(Outcome::NoOptIn, detail))
        }
    }
}

fn claimed(n: &Notification, choice: &Choice, here: &str, position: Position) -> Result<Write, Refusal> {
    let decision = serde_json::to_string(choice).map_err(|e| Refusal::new(Reason::Invalid, e.to_string()))?;
    let row = MemberRow {
        updated_at: Some(choice.at),
        position: Some(here.to_owned()),
        decision: Some(decision),
        ..MemberRow::empty(&n.project, &n.member, CLAIM, &claim_id(n))
    };
    let mut cells = row.into_cells();
    cells.ttl = Some(DEDUPE_WINDOW);
    cells.fence = Some(position.offset + 1);
    Ok(Write::Put(cells))
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
