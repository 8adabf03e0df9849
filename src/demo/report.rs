//! What the pipeline says, what the receivers got, and whether the two agree.

use crate::{
    demo::{
        Fed,
        world::{Imported, World},
    },
    http::stats::Stats,
    receivers::http::{Event, Received, Taken},
    serve::Instance,
};
use anyhow::Context as _;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::channels::{Reference, apns, channel_of, fcm, twilio, web_push, webhook, whatsapp};
use bellwether_schemas::{
    Channel, DeliveryId, Timestamp, Topic,
    codec::decode,
    records::{MemberAction, MemberCommand, Receipt, ReceiptKind},
};
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// What happens to a message once, and is therefore held against the log.
const COUNTED: [ReceiptKind; 5] =
    [ReceiptKind::Sent, ReceiptKind::Delivered, ReceiptKind::Opened, ReceiptKind::Clicked, ReceiptKind::OptedOut];

/// How long it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Timing {
    /// Start, definitions, import and feeding.
    pub feeding: Duration,
    /// Until everything was at rest.
    pub whole: Duration,
}

/// The result of a demo.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Project.
    pub project: String,
    /// Members.
    pub imported: Imported,
    /// Events.
    pub fed: Fed,
    /// Decisions by outcome.
    pub decided: BTreeMap<String, i64>,
    /// Dead letters by reason.
    pub dead_letters: BTreeMap<String, u64>,
    /// Each channel.
    pub channels: BTreeMap<Channel, ChannelReport>,
    /// What does not agree, in words; empty is a pass.
    pub differences: Vec<String>,
    /// How long it took.
    pub timing: Timing,
}

/// One channel: what we counted, and what the receiver did.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ChannelReport {
    /// Aggregates of `GET /v1/stats`, by figure.
    pub counted: BTreeMap<String, i64>,
    /// Different messages that the receiver acknowledged.
    pub received: u64,
    /// Acknowledged more than once.
    pub duplicates: u64,
    /// Different messages that it took without a word: ambiguous for us.
    pub unanswered: u64,
    /// Messages that the member was shown beside another try of the same.
    pub shown_again: u64,
    /// Messages by whose link, and members by whose word somebody left; and addresses that turned out to be nobody's.
    pub left: u64,
    /// See [`ChannelReport::left`].
    pub gone: u64,
}

impl Report {
    /// Gathers everything and compares.
    ///
    /// # Errors
    /// The API or the log does not answer.
    pub async fn gather(
        world: &World,
        instance: &Instance,
        imported: Imported,
        fed: Fed,
        timing: Timing,
    ) -> anyhow::Result<Self> {
        let today = Timestamp(jiff::Timestamp::now().as_millisecond());
        let yesterday = Timestamp(today.0 - 86_400_000).day();
        let range = format!("from={yesterday}&to={}", today.day());
        let stats: Stats = serde_json::from_value(world.get(&format!("/v1/stats?{range}&group_by=channel")).await?)?;
        let mut decided: BTreeMap<String, i64> = BTreeMap::new();
        let mut channels: BTreeMap<Channel, ChannelReport> = Channel::ALL.map(|c| (c, ChannelReport::default())).into();
        for row in stats.rows {
            let channel = row.channel.as_deref().unwrap_or_default().parse::<Channel>().ok();
            for (metric, value) in row.metrics {
                if let Some(outcome) = metric.strip_prefix("decided.") {
                    *decided.entry(outcome.to_owned()).or_default() += value;
                } else if let Some(report) = channel.and_then(|c| channels.get_mut(&c)) {
                    report.counted.insert(metric, value);
                }
            }
        }
        let mut report = Self {
            project: world.project.clone(),
            imported,
            fed,
            decided,
            dead_letters: dead_letters(world, &range).await?,
            channels,
            differences: Vec::new(),
            timing,
        };
        let told = Told::read(instance, &world.project).await?;
        let mut got = BTreeMap::from([(Channel::Email, mail(world))]);
        for (kind, receiver) in world.accounts.receivers() {
            let channel = channel_of(kind).with_context(|| format!("{kind}: no channel"))?;
            got.entry(channel).or_default().add(channel, kind, receiver.snapshot(), &told);
        }
        for (channel, got) in got {
            report.compare(channel, &told, &got);
        }
        report.balance();
        Ok(report)
    }

    /// Whether every count agrees.
    #[must_use]
    pub const fn agrees(&self) -> bool {
        self.differences.is_empty()
    }

    fn differ(&mut self, what: &str, ours: impl fmt::Display, theirs: impl fmt::Display) {
        self.differences.push(format!("{what}: we say {ours}, there are {theirs}"));
    }

    /// Message by message, not only by number: a loss and an invention must not cancel each other out.
    fn compare(&mut self, channel: Channel, told: &Told, got: &Got) {
        let report = self.channels.entry(channel).or_default();
        report.received = got.answered.len() as u64;
        report.duplicates = got.answered.values().map(|n| u64::from(n.saturating_sub(1))).sum();
        report.unanswered = got.unanswered.len() as u64;
        report.shown_again = got.shown_again;
        let (left, gone) = (told.left(channel), told.gone(channel));
        let unsubscribed = told.of(channel, ReceiptKind::OptedOut).len();
        (report.left, report.gone) = ((left.len() + unsubscribed) as u64, gone.len() as u64);
        let counted = report.counted.clone();
        let answered: BTreeSet<Message> = got.answered.keys().cloned().collect();
        let mut differences = Vec::new();
        let mut equal = |what: &str, ours: &BTreeSet<_>, theirs: &BTreeSet<_>| {
            let (unknown, invented) = (theirs.difference(ours).count(), ours.difference(theirs).count());
            if unknown > 0 {
                differences.push((format!("{channel}: {what} by the receiver, and not counted by us"), 0, unknown));
            }
            if invented > 0 {
                differences.push((format!("{channel}: {what} as we say, and not by the receiver"), invented, 0));
            }
        };
        equal("taken", &told.of(channel, ReceiptKind::Sent), &answered);
        for (event, kind) in [
            (Event::Delivered, ReceiptKind::Delivered),
            (Event::Opened, ReceiptKind::Opened),
            (Event::Clicked, ReceiptKind::Clicked),
        ] {
            equal(kind.name(), &told.of(channel, kind), &got.told(event));
        }
        if channel == Channel::Email {
            equal(ReceiptKind::OptedOut.name(), &told.of(channel, ReceiptKind::OptedOut), &got.told(Event::Left));
        }
        let of_members =
            |addresses: &BTreeSet<String>| addresses.iter().cloned().map(Message::Of).collect::<BTreeSet<_>>();
        equal("left", &of_members(&left), &of_members(&got.left));
        if let Some(theirs) = &got.gone {
            equal("nobody's address", &of_members(&gone), &of_members(theirs));
        }
        for kind in COUNTED {
            let (ours, theirs) = (counted.get(kind.name()).copied().unwrap_or_default(), told.of(channel, kind).len());
            if ours != i64::try_from(theirs).unwrap_or(i64::MAX) {
                differences.push((
                    format!("{channel}: {}", kind.name()),
                    usize::try_from(ours).unwrap_or_default(),
                    theirs,
                ));
            }
        }
        for (what, ours, theirs) in differences {
            self.differ(&what, ours, theirs);
        }
    }

    /// Nothing comes from nowhere and nothing goes nowhere.
    fn balance(&mut self) {
        let decided = |outcome: &str| self.decided.get(outcome).copied().unwrap_or_default();
        let unreadable: u64 = ["malformed", "invalid", "unknown_schema", "too_large"]
            .iter()
            .map(|reason| self.dead_letters.get(*reason).copied().unwrap_or_default())
            .sum();
        let routed = decided("routed");
        let figure = |channel: &Channel, metric: &str| {
            self.channels.get(channel).and_then(|c| c.counted.get(metric)).copied().unwrap_or_default()
        };
        let sent: i64 = Channel::ALL.iter().map(|c| figure(c, "sent")).sum();
        let mut differences = Vec::new();
        if self.fed.accepted + self.fed.raw != self.fed.lines {
            differences.push(format!(
                "events: {} lines were fed, {} accepted and {} put on the topic",
                self.fed.lines, self.fed.accepted, self.fed.raw
            ));
        }
        if unreadable != self.fed.raw {
            differences
                .push(format!("dead letters: {} unreadable lines were fed, {unreadable} are kept", self.fed.raw));
        }
        if sent > routed {
            differences.push(format!("sent: {sent} messages, but only {routed} were routed"));
        }
        self.differences.extend(differences);
    }
}

async fn dead_letters(world: &World, range: &str) -> anyhow::Result<BTreeMap<String, u64>> {
    let listed = world.get(&format!("/v1/dead-letters?{range}&limit=1000")).await?;
    let mut reasons = BTreeMap::new();
    for letter in listed["dead_letters"].as_array().context("the answer has no `dead_letters`")? {
        *reasons.entry(letter["reason"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(reasons)
}

/// What is compared: a delivery of ours; or, where the receiver's message names none that we know, that message; or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Message {
    Ours(DeliveryId),
    Of(String),
}

/// What the pipeline told of each delivery and heard of each member, as it stands on the log.
#[derive(Default)]
struct Told {
    by_kind: BTreeMap<(Channel, ReceiptKind), BTreeSet<DeliveryId>>,
    /// Deliveries by the id that the provider gave them.
    by_provider_id: BTreeMap<(Channel, String), DeliveryId>,
    /// Addresses whose members left, and such as are nobody's.
    left: BTreeMap<Channel, BTreeSet<String>>,
    gone: BTreeMap<Channel, BTreeSet<String>>,
}

impl Told {
    async fn read(instance: &Instance, project: &str) -> anyhow::Result<Self> {
        let mut told = Self::default();
        each(instance, Topic::Receipts, |payload| {
            let receipt: Receipt = decode(payload)?;
            if receipt.project == project {
                told.by_kind.entry((receipt.channel, receipt.kind)).or_default().insert(receipt.delivery);
                if let (ReceiptKind::Sent, Some(id)) = (receipt.kind, receipt.provider_id) {
                    told.by_provider_id.insert((receipt.channel, id), receipt.delivery);
                }
            }
            Ok(())
        })
        .await?;
        each(instance, Topic::Members, |payload| {
            let command: MemberCommand = decode(payload)?;
            let (Some(channel), Some(address)) = (command.channel, command.address) else { return Ok(()) };
            let addresses = match command.action {
                MemberAction::OptOut => &mut told.left,
                MemberAction::Suppress => &mut told.gone,
                _ => return Ok(()),
            };
            if command.project == project {
                addresses.entry(channel).or_default().insert(recipient(&address));
            }
            Ok(())
        })
        .await?;
        Ok(told)
    }

    fn of(&self, channel: Channel, kind: ReceiptKind) -> BTreeSet<Message> {
        self.by_kind.get(&(channel, kind)).into_iter().flatten().copied().map(Message::Ours).collect()
    }

    fn left(&self, channel: Channel) -> BTreeSet<String> {
        self.left.get(&channel).cloned().unwrap_or_default()
    }

    fn gone(&self, channel: Channel) -> BTreeSet<String> {
        self.gone.get(&channel).cloned().unwrap_or_default()
    }
}

/// Looks at every record of a topic.
async fn each(
    instance: &Instance,
    topic: Topic,
    mut look: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let log = &instance.backends.log;
    for bounds in log.bounds(topic).await? {
        let mut next = bounds.start;
        while next < bounds.end {
            let records = log.read(bounds.at, next, 1_000).await?;
            let Some(last) = records.last() else { break };
            next = last.position.offset + 1;
            records.iter().try_for_each(|record| look(&record.payload))?;
        }
    }
    Ok(())
}

/// An address of ours as the receiver calls it: an app's token without its platform, a browser by the end of its endpoint.
fn recipient(address: &str) -> String {
    let token = address.strip_prefix(fcm::PREFIX).or_else(|| address.strip_prefix(apns::PREFIX));
    let subscription: Option<Value> = serde_json::from_str(address).ok().filter(Value::is_object);
    let endpoint = subscription.as_ref().and_then(|s| s["endpoint"].as_str()?.rsplit('/').next());
    endpoint.or(token).unwrap_or(address).to_owned()
}

/// What the receivers of a channel got.
#[derive(Default)]
struct Got {
    answered: BTreeMap<Message, u32>,
    unanswered: BTreeSet<Message>,
    shown_again: u64,
    /// Messages of which an event was told to us and acknowledged.
    told: BTreeMap<Event, BTreeSet<Message>>,
    left: BTreeSet<String>,
    /// Addresses that nobody is at, as far as the provider says so for good.
    gone: Option<BTreeSet<String>>,
}

impl Got {
    fn told(&self, event: Event) -> BTreeSet<Message> {
        self.told.get(&event).cloned().unwrap_or_default()
    }

    /// Adds what one receiver got.
    fn add(&mut self, channel: Channel, kind: &str, received: Received, told: &Told) {
        let mut by_id = BTreeMap::new();
        for taken in &received.messages {
            let ours =
                delivery(kind, taken).or_else(|| told.by_provider_id.get(&(channel, taken.id.to_string())).copied());
            // Tries that were never answered have no id that we know in common, but say the same to the same member.
            let theirs = if taken.answered { &*taken.id } else { &*taken.draft.key };
            let message = ours.map_or_else(|| Message::Of(theirs.to_owned()), Message::Ours);
            by_id.insert(std::sync::Arc::clone(&taken.id), message.clone());
            if taken.answered {
                *self.answered.entry(message).or_default() += 1;
            } else {
                self.unanswered.insert(message);
            }
        }
        self.shown_again += received.shown_again;
        for (event, ids) in received.told {
            self.told.entry(event).or_default().extend(ids.iter().filter_map(|id| by_id.get(id).cloned()));
        }
        self.left.extend(received.left);
        if matches!(channel, Channel::Telegram | Channel::WebPush | Channel::AppPush) {
            self.gone.get_or_insert_default().extend(received.nobody);
        }
    }
}

/// Our delivery, by what its provider lets us say of it: a reference that comes back, or what a second try is known by.
fn delivery(kind: &str, taken: &Taken) -> Option<DeliveryId> {
    let draft = &taken.draft;
    let uuid = |text: &str| text.parse().ok();
    match kind {
        twilio::KIND => {
            let query = draft.callback.as_deref()?.split_once('?')?.1;
            let token = query.split('&').find_map(|p| p.strip_prefix("r="))?;
            Some(Reference::from_token(token).ok()?.delivery)
        }
        whatsapp::KIND => Some(Reference::from_token(draft.callback.as_deref()?.split('.').next()?).ok()?.delivery),
        apns::KIND | webhook::KIND => uuid(&taken.id),
        fcm::KIND => uuid(draft.key.rsplit(' ').next()?),
        web_push::KIND => {
            let topic = URL_SAFE_NO_PAD.decode(draft.callback.as_deref()?).ok()?;
            Some(DeliveryId(uuid::Uuid::from_slice(&topic).ok()?))
        }
        // Telegram's messages name nothing of ours.
        _ => None,
    }
}

fn mail(world: &World) -> Got {
    let received = world.mail.snapshot();
    // `<delivery@domain>`
    let ours = |message_id: &str| {
        let id = message_id.trim_start_matches('<').split('@').next().and_then(|d| d.parse().ok());
        id.map_or_else(|| Message::Of(message_id.to_owned()), Message::Ours)
    };
    Got {
        answered: received.accepted.iter().map(|(id, n)| (ours(id), *n)).collect(),
        unanswered: received.unanswered.keys().map(|id| ours(id)).collect(),
        told: received.told.iter().map(|(event, ids)| (*event, ids.iter().map(|id| ours(id)).collect())).collect(),
        gone: Some(received.nobody.into_iter().chain(received.returns.taken.iter().map(ToString::to_string)).collect()),
        ..Got::default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ndecided")?;
        for (outcome, n) in &self.decided {
            writeln!(f, "  {outcome:18} {n:>6}")?;
        }
        writeln!(
            f,
            "\n{:10} {:>6} {:>9} {:>6} {:>7} {:>6} {:>8} {:>5} {:>5} | {:>8} {:>10} {:>10}",
            "channel",
            "sent",
            "delivered",
            "opened",
            "clicked",
            "failed",
            "deferred",
            "left",
            "gone",
            "received",
            "duplicates",
            "unanswered"
        )?;
        for (channel, report) in &self.channels {
            let n = |metric: &str| report.counted.get(metric).copied().unwrap_or_default();
            writeln!(
                f,
                "{:10} {:>6} {:>9} {:>6} {:>7} {:>6} {:>8} {:>5} {:>5} | {:>8} {:>10} {:>10}",
                channel.name(),
                n("sent"),
                n("delivered"),
                n("opened"),
                n("clicked"),
                n("failed"),
                n("deferred"),
                report.left,
                report.gone,
                report.received,
                report.duplicates,
                report.unanswered
            )?;
        }
        writeln!(f, "\ndead letters")?;
        for (reason, n) in &self.dead_letters {
            writeln!(f, "  {reason:18} {n:>6}")?;
        }
        writeln!(
            f,
            "\n{:.1} s, of which {:.1} s feeding",
            self.timing.whole.as_secs_f64(),
            self.timing.feeding.as_secs_f64()
        )?;
        if self.differences.is_empty() {
            write!(f, "every count agrees with what the receivers got")
        } else {
            writeln!(f, "DIFFERENCES")?;
            self.differences.iter().try_for_each(|difference| writeln!(f, "  {difference}"))
        }
    }
}
