//! From a notification to one delivery, to none, or to the same again later: dedupe, expiry, the choice of the channel, caps, quiet hours.
//! [`choose`] is the decision itself.

use crate::{
    caps::{self, Candidate, History, Sent},
    consent,
    content::{self, EventAttributes},
    definitions::{Compiled, Projects},
    digest::{self, Closing, Ended, Part, Told},
    fallback::{self, Before},
    hours::{self, Obstacle},
    kept,
    members::QUARANTINE_AFTER,
    processor::{Facts, Incoming, Output, Processor, Refusal},
    retention::Retention,
    score::{Score, Seen},
};
use bellwether_schemas::{
    Channel, DeliveryId, Lane, Position, Timestamp,
    definitions::{Consent, Exceed},
    ids::EntryId,
    member::{Address, AddressState, ByCategory, Profile},
    records::{Decision, Delivery, Event, Notification, Outcome, Reason, Record, Verdict},
    rows::{Read, Write},
    tables::{CLAIM, MemberRow, PROFILE, SENT},
};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

/// How long a claim is remembered at least: a duplicate that comes later than it is kept is taken for new.
pub const DEDUPE_WINDOW: Duration = Duration::from_secs(7 * 86_400);

/// For so long after the member wrote, WhatsApp takes free text
/// (<https://developers.facebook.com/docs/whatsapp/cloud-api/guides/send-messages>, customer service windows).
pub const WINDOW: Duration = Duration::from_secs(86_400);

/// The route processor.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Compiled definitions of every project.
    pub projects: Projects,
    /// How long claims are kept.
    pub retention: Retention,
}

/// What is known of the member when it is decided.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The profile; `None` where the project has no such member.
    pub profile: Option<&'a Profile>,
    /// What the member was sent lately, in both lanes.
    pub history: &'a History,
    /// What came of it, by channel; looked at only where the project compares channels.
    pub seen: &'a BTreeMap<Channel, Seen>,
}

/// What was decided, as the claim keeps it: a redelivery says the same again, whatever has changed since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// How it ended.
    pub outcome: Outcome,
    /// Chosen channel and address.
    pub to: Option<(Channel, String)>,
    /// Every channel that was looked at, in order; after the chosen one, those that the template can speak on.
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
    /// The digest row in which what it goes out with is gathered until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gathered_in: Option<String>,
    /// The notification that it took along, where it closed the digest of another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends: Option<Box<Ended>>,
}

impl Choice {
    /// Nothing is sent, and no channel was looked at.
    pub(crate) const fn of(outcome: Outcome, detail: String, at: Timestamp) -> Self {
        Self {
            outcome,
            to: None,
            trace: Vec::new(),
            detail,
            at,
            until: None,
            told: None,
            gathered_in: None,
            ends: None,
        }
    }
}

impl Processor for Route {
    const NAME: &'static str = "route";
    type Input = Notification;

    fn needs(&self, incoming: &Incoming<Notification>, _: &Facts, _: Timestamp) -> Vec<Read> {
        let n = &incoming.input;
        // Rows of one partition, so the store is asked once; other claims are not read, however many there are.
        let mut reads = vec![of_member(n, PROFILE, ""), of_member(n, CLAIM, &claim_id(n))];
        // The definitions are those that `decide` has, for the whole batch.
        let Some(project) = self.projects.get(&n.project) else { return reads };
        // Only caps look at what was sent, and only scores at what came of it.
        if !project.document.project.caps.is_empty() {
            reads.extend(Lane::ALL.map(|lane| of_member(n, SENT, lane.name())));
        }
        reads.extend(compared(n, project).map(|channel| Seen::read(&n.project, &n.member, channel)));
        if !n.tried.is_empty() {
            reads.push(fallback::story(n.id));
        }
        reads.extend(digest::gathered(n, project));
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
        let choice = match (claim, part) {
            (Some(claim), _) if claim.position.as_ref() == Some(&here) => claim.kept()?,
            (Some(claim), _) => {
                output.records.push(met(n, &claim, &here, now));
                return Ok(output);
            }
            (None, Some(Part::Waits(choice, row))) => {
                output.rows.push(claimed(n, &choice, &here, incoming.position, self.retention.claims)?);
                output.rows.push(row);
                *choice
            }
            (None, part) => {
                let closing = match part {
                    Some(Part::Closes(closing)) => Some(closing),
                    _ => None,
                };
                let told = closing.as_ref().map(Closing::told);
                let whole = told.as_ref().map(|told| told.by(n));
                let n = whole.as_ref().unwrap_or(n);
                let mut histories = Lane::ALL.map(|_| History::default());
                for (lane, history) in Lane::ALL.iter().zip(&mut histories) {
                    let row = facts.one::<MemberRow>(&of_member(n, SENT, lane.name()))?;
                    *history = row.map_or_else(|| Ok(History::default()), |row| row.kept())?;
                }
                // Its own first try is no other message.
                let others = histories.iter().flat_map(|history| &history.0).filter(|sent| sent.id != n.id);
                let all = History(others.cloned().collect());
                let seen = read_seen(n, project, facts)?;
                let known = Known { profile: profile.as_ref(), history: &all, seen: &seen };
                let mut choice = choose(n, known, project, now);
                if let Some(before) = Before::of(n, facts)? {
                    choice = before.decides(choice);
                }
                if choice.to.is_some() {
                    choice.until = next_turn(n, &choice.trace, project, now);
                }
                choice.told = choice.to.as_ref().and(told);
                if let Some(closing) = closing {
                    output.rows.extend(closing.settle(
                        &incoming.input,
                        &mut choice,
                        project,
                        incoming.position,
                        now,
                    )?);
                }
                output.rows.push(claimed(n, &choice, &here, incoming.position, self.retention.claims)?);
                if let Some(ended) = &choice.ends {
                    // It must still be there when that one comes back.
                    let kept = ended.due.since(now) + self.retention.claims;
                    let told = ended.choice(now);
                    output.rows.push(claimed(&ended.notification, &told, &here, incoming.position, kept)?);
                }
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
        output.records.push(decision(n, &choice, delivery.as_ref().map(|d| d.id), &here));
        if let Some(ended) = &choice.ends {
            output.records.push(decision(&ended.notification, &ended.choice(choice.at), None, &here));
        }
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

/// The channels whose scores are looked at: where the project compares channels, those that the notification could go by.
fn compared(n: &Notification, project: &Compiled) -> impl Iterator<Item = Channel> {
    let compares = project.scoring().is_some();
    let is_named = move |channel: &Channel| n.channels.is_empty() || n.channels.contains(channel);
    Channel::ALL
        .into_iter()
        .filter(move |channel| compares && is_named(channel) && project.has_variant(&n.template, *channel))
}

fn read_seen(n: &Notification, project: &Compiled, facts: &Facts) -> Result<BTreeMap<Channel, Seen>, Refusal> {
    let read = |channel| -> Result<_, Refusal> {
        let row = facts.one::<MemberRow>(&Seen::read(&n.project, &n.member, channel))?;
        Ok((channel, row.map_or_else(|| Ok(Seen::default()), |row| row.kept())?))
    };
    compared(n, project).map(read).collect()
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
    history.enter(Sent { id: n.id, at: now, channel, category }, &project.document.project.caps, now);
    let row = MemberRow::empty(&n.project, &n.member, SENT, n.lane.name());
    let longest = Duration::from_secs(u64::from(caps::LONGEST_HOURS) * 3_600);
    kept::put(row, &history, now, longest, position.offset + 1)
}

fn of_member(n: &Notification, kind: &str, id: &str) -> Read {
    MemberRow::read_one(n.project.as_str(), n.member.as_str(), kind, id)
}

/// Whether, when, and by which channel the member is told.
#[must_use]
pub fn choose(n: &Notification, known: Known<'_>, project: &Compiled, now: Timestamp) -> Choice {
    let none = |outcome, detail: String, trace| Choice { trace, ..Choice::of(outcome, detail, now) };
    if let Some(at) = n.expires_at.filter(|at| *at <= now) {
        return none(Outcome::Expired, format!("it was to be sent before {at}"), Vec::new());
    }
    let Some(profile) = known.profile else {
        return none(Outcome::UnknownMember, "the project has no such member".into(), Vec::new());
    };
    let zone = profile.time_zone.as_deref().and_then(hours::zone).unwrap_or_else(|| project.zone().clone());
    let deferred = |until: Timestamp, detail: String, trace| match n.expires_at {
        Some(at) if at <= until => none(Outcome::Expired, format!("{detail}; it expires before, at {at}"), trace),
        _ => Choice { until: Some(until), ..none(Outcome::Deferred, detail, trace) },
    };
    let scores = scores(n, profile, known.seen, project, now);
    let (mut trace, mut rejections) = (tried(n), Vec::new());
    let mut chosen: Option<(Channel, String, String)> = None;
    let order = order(&n.channels, &profile.channels, &scores, &project.document.project.channels);
    for channel in order.into_iter().filter(|channel| !n.tried.contains(channel)) {
        let first = chosen.as_ref().map(|(channel, ..)| *channel);
        if first.is_some() && !project.has_variant(&n.template, channel) {
            // Beside what the template says, what it does not say was never in question.
            continue;
        }
        let usable = look(channel, n, profile, project).and_then(|address| {
            room(channel, n, known.history, project, &zone, now)?;
            Ok(address)
        });
        let verdict = match (usable, first) {
            (Ok(_), Some(first)) => Verdict::new(channel, Verdict::NOT_NEEDED, format!("{first} came first")),
            (Ok(address), None) => {
                let why = reason(channel, n, profile, project) + &unrefusable(channel, n, profile, project);
                let verdict = Verdict::new(channel, Verdict::CHOSEN, why.as_str());
                chosen = Some((channel, address, why));
                verdict
            }
            (Err(rejection), _) => {
                let verdict = rejection.verdict(channel);
                rejections.push(rejection);
                verdict
            }
        };
        trace.push(scored(verdict, scores.get(&channel)));
    }
    if let Some((channel, address, why)) = chosen {
        return match moment(n, profile, project, &zone, now) {
            Ok(None) => {
                let (to, detail) = (Some((channel, address)), format!("{channel}: {why}"));
                Choice { to, trace, ..Choice::of(Outcome::Routed, detail, now) }
            }
            Ok(Some((until, why))) => deferred(until, why, trace),
            Err(why) => none(Outcome::Expired, why, trace),
        };
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

/// Why a channel that can be used comes first.
fn reason(channel: Channel, n: &Notification, profile: &Profile, project: &Compiled) -> String {
    if !n.channels.is_empty() {
        return "the flow names it".into();
    }
    if profile.channels.contains(&channel) {
        return "the member prefers it".into();
    }
    match project.scoring() {
        Some(scoring) => format!("best usable score, by weights of {}", scoring.weights()),
        None if project.document.project.channels.contains(&channel) => "first usable in the project's order".into(),
        None => "first usable in the default order".into(),
    }
}

/// The score of every channel that is compared.
fn scores(
    n: &Notification,
    profile: &Profile,
    seen: &BTreeMap<Channel, Seen>,
    project: &Compiled,
    now: Timestamp,
) -> BTreeMap<Channel, Score> {
    let Some(scoring) = project.scoring() else { return BTreeMap::new() };
    let score = |channel| {
        let seen = seen.get(&channel).copied().unwrap_or_default();
        (channel, scoring.score(channel, in_use(channel, profile, project), &seen, now))
    };
    compared(n, project).map(score).collect()
}

fn scored(verdict: Verdict, score: Option<&Score>) -> Verdict {
    let Some(score) = score else { return verdict };
    let Score { total, reach, engagement, cost } = *score;
    Verdict { score: Some(total), reach: Some(reach), engagement: Some(engagement), cost: Some(cost), ..verdict }
}

/// Why a channel is not used.
struct Rejection {
    outcome: Outcome,
    detail: String,
    /// When it might be, where waiting is what the rule wants.
    until: Option<Timestamp>,
    /// What the rule counted, and how many of them it allows.
    counted: Option<(usize, usize)>,
}

impl Rejection {
    const fn new(outcome: Outcome, detail: String) -> Self {
        Self { outcome, detail, until: None, counted: None }
    }

    fn verdict(&self, channel: Channel) -> Verdict {
        let number = |n| i32::try_from(n).unwrap_or(i32::MAX);
        let (count, limit) = self.counted.map(|(count, limit)| (number(count), number(limit))).unzip();
        Verdict { count, limit, ..Verdict::new(channel, self.outcome.name(), self.detail.as_str()) }
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
    // What a digest's notification waits for gathers on, however it waits.
    let waits = matches!(full.exceed, Exceed::Defer | Exceed::Digest);
    let until = waits.then(|| spread(n, terms.spread, full.free_at));
    let counted = Some((full.used as usize, full.most as usize));
    Err(Rejection { until, counted, ..Rejection::new(Outcome::Capped, detail) })
}

/// When it may go out, where that is not now, and why.
///
/// # Errors
/// Never, in words.
fn moment(
    n: &Notification,
    profile: &Profile,
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
    let own = profile.quiet_hours.as_ref().and_then(|own| hours::quiet(own).ok());
    match hours::next(&terms.hours, own, zone, now) {
        Some((_, None)) => Ok(None),
        Some((at, Some(obstacle))) => {
            let what = match obstacle {
                Obstacle::QuietHours => "quiet hours",
                Obstacle::OwnQuietHours => "the member's own quiet hours",
                Obstacle::Window => "outside the flow's window",
                Obstacle::Holiday => "a holiday",
            };
            // Where what is left open is shorter than the spread, its end would be another obstacle, time and again.
            let later = spread(n, terms.spread, at);
            let is_open = matches!(hours::next(&terms.hours, own, zone, later), Some((_, None)));
            let at = if is_open { later } else { at };
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

/// When the next channel has its turn after the chosen one, if the flow wants that and there is one that could be used now.
fn next_turn(n: &Notification, trace: &[Verdict], project: &Compiled, now: Timestamp) -> Option<Timestamp> {
    let after = project.terms(n).fallback?;
    trace.iter().any(|verdict| verdict.rule == Verdict::NOT_NEEDED).then(|| now.plus(after))
}

/// The channels that were tried before, as the trace shows them.
fn tried(n: &Notification) -> Vec<Verdict> {
    n.tried.iter().map(|channel| Verdict::new(*channel, fallback::TRIED, "tried before")).collect()
}

/// The channels to look at: those that the flow names and no others, else the member's preference, then the best scores, then the project's order,
/// then the default order.
fn order(
    named: &[Channel],
    preferred: &[Channel],
    scores: &BTreeMap<Channel, Score>,
    of_project: &[Channel],
) -> Vec<Channel> {
    if !named.is_empty() {
        return named.to_vec();
    }
    let others = Channel::ALL.into_iter().filter(|c| !of_project.contains(c));
    let mut rest: Vec<_> = of_project.iter().copied().chain(others).filter(|c| !preferred.contains(c)).collect();
    // The sort is stable: equal scores, and channels without one, stay in this order.
    rest.sort_by_key(|channel| Reverse(scores.get(channel).map(|score| score.total)));
    preferred.iter().copied().chain(rest).collect()
}

/// The address whose reach counts: the first that a provider serves and nothing is known against.
fn in_use<'a>(channel: Channel, profile: &'a Profile, project: &Compiled) -> Option<&'a Address> {
    let addresses = profile.addresses.get(&channel)?;
    addresses.iter().find(|a| a.state == AddressState::Active && project.serves(channel, &a.address))
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
    let asked = to_confirm(n);
    let usable = |address: &&Address| match &asked {
        Some(asked) => {
            address.address == *asked && matches!(address.state, AddressState::Active | AddressState::Unconfirmed)
        }
        None => address.state == AddressState::Active,
    };
    let Some(address) = addresses.iter().filter(served).find(usable) else {
        let (outcome, detail) = match addresses.iter().find(served) {
            None if addresses.is_empty() => (Outcome::NoAddress, format!("the member has no {channel} address")),
            None => (Outcome::NoProvider, format!("no provider serves any {channel} address of the member")),
            Some(_) if asked.is_some() => (Outcome::NoAddress, "no address is the one that is to be confirmed".into()),
            Some(dead) if dead.state == AddressState::Quarantined => {
                let why =
                    format!("in quarantine since {}, after {} misses: {}", dead.since, dead.misses.len(), dead.reason);
                let counted = Some((dead.misses.len(), QUARANTINE_AFTER));
                return Err(Rejection { counted, ..Rejection::new(Outcome::Suppressed, why) });
            }
            Some(new) if new.state == AddressState::Unconfirmed => {
                (Outcome::NoOptIn, format!("not confirmed: the member was asked at {} and has not answered", new.since))
            }
            Some(dead) => (Outcome::Suppressed, format!("suppressed since {}: {}", dead.since, dead.reason)),
        };
        return Err(Rejection::new(outcome, detail));
    };
    consented(channel, n, profile, project)?;
    Ok(address.address.clone())
}

/// The address whose owner this notification asks to confirm it: the only kind that an unconfirmed address takes, and it goes nowhere else.
fn to_confirm(n: &Notification) -> Option<String> {
    if n.event_type != Event::UNCONFIRMED {
        return None;
    }
    let data: serde_json::Value = serde_json::from_str(&n.data).unwrap_or_default();
    Some(data["address"].as_str().unwrap_or_default().to_owned())
}

/// Whether the member wants the notification's category by this channel, as far as the category asks.
fn consented(channel: Channel, n: &Notification, profile: &Profile, project: &Compiled) -> Result<(), Rejection> {
    let category = &project.terms(n).category;
    let word = said(channel, category, profile);
    if consent::allows(project.consent_of(category), word) {
        return Ok(());
    }
    let detail = match word {
        None => format!("`{category}` needs an opt-in to {channel}, and there is none"),
        Some(_) if said(channel, ByCategory::WHOLE, profile) == Some(false) => format!("the member refused {channel}"),
        Some(_) => format!("the member refused `{category}` by {channel}"),
    };
    Err(Rejection::new(Outcome::NoOptIn, detail))
}

/// What the member says of a category by a channel.
fn said(channel: Channel, category: &str, profile: &Profile) -> Option<bool> {
    profile.opt_ins.get(&channel)?.says(category)
}

/// What is noted of a category that is sent whatever the member says.
fn unrefusable(channel: Channel, n: &Notification, profile: &Profile, project: &Compiled) -> String {
    let category = &project.terms(n).category;
    match (project.consent_of(category), said(channel, category, profile)) {
        (Consent::Unrefusable, Some(false)) => format!("; the member refused, but `{category}` cannot be refused"),
        (Consent::Unrefusable, _) => format!("; `{category}` cannot be refused"),
        _ => String::new(),
    }
}

fn claimed(
    n: &Notification,
    choice: &Choice,
    here: &str,
    position: Position,
    retention: Duration,
) -> Result<Write, Refusal> {
    let row = MemberRow::empty(&n.project, &n.member, CLAIM, &claim_id(n));
    let row = MemberRow { position: Some(here.to_owned()), ..row };
    kept::put(row, choice, choice.at, retention, position.offset + 1)
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

/// What is said of a notification that another record claimed.
fn met(n: &Notification, claim: &MemberRow, here: &str, now: Timestamp) -> Record {
    let first = claim.position.as_deref().unwrap_or_default();
    // What comes back and was gathered went out with another one, which claimed it: that was said then, and is said again as the same line.
    if let Some(choice) = claim.kept::<Choice>().ok().filter(|told| n.round > 0 && told.outcome == Outcome::Gathered) {
        return decision(n, &choice, None, first);
    }
    let choice = Choice::of(Outcome::Duplicate, format!("claimed before by the record at {first}"), now);
    decision(n, &choice, None, here)
}

/// `claimant` is the position of the record that decided so, `topic/partition/offset`.
fn decision(n: &Notification, choice: &Choice, delivery: Option<DeliveryId>, claimant: &str) -> Record {
    Record::Decision(Decision {
        id: EntryId::derive("route", &[n.id.0.as_bytes(), claimant.as_bytes()]),
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
