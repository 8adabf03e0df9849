//! What the pipeline says, what the receivers got, and whether the two agree.

use crate::{
    demo::{
        Fed,
        world::{Imported, World},
    },
    http::stats::Stats,
    serve::Instance,
};
use anyhow::Context as _;
use bellwether_connectors::channels::Reference;
use bellwether_schemas::{
    Channel, DeliveryId, Timestamp, Topic,
    codec::decode,
    records::{Receipt, ReceiptKind},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

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
    /// Delivery callbacks that we acknowledged.
    pub confirmed: Option<u64>,
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
        report.compare(Channel::Email, &told, mail(world));
        report.compare(Channel::Sms, &told, texts(world)?);
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
    fn compare(&mut self, channel: Channel, told: &Told, got: Got) {
        let none = BTreeSet::new();
        let sent = told.by_kind.get(&(channel, ReceiptKind::Sent)).unwrap_or(&none);
        let report = self.channels.entry(channel).or_default();
        report.received = got.answered.len() as u64;
        report.duplicates = got.answered.values().map(|n| u64::from(n.saturating_sub(1))).sum();
        report.unanswered = got.unanswered.len() as u64;
        report.confirmed = got.confirmed;
        let counted = report.counted.clone();
        let counted = |metric: &str| counted.get(metric).copied().unwrap_or_default();
        let lost = got.answered.keys().filter(|id| !sent.contains(id)).count();
        let invented = sent.iter().filter(|id| !got.answered.contains_key(id)).count();
        if lost > 0 {
            self.differ(&format!("{channel}: acknowledged, but not told as sent"), 0, lost);
        }
        if invented > 0 {
            self.differ(&format!("{channel}: told as sent, but never acknowledged"), invented, 0);
        }
        if counted("sent") != i64::try_from(got.answered.len()).unwrap_or(i64::MAX) {
            self.differ(&format!("{channel}: sent"), counted("sent"), got.answered.len());
        }
        let delivered = told.by_kind.get(&(channel, ReceiptKind::Delivered)).unwrap_or(&none).len();
        if counted("delivered") != i64::try_from(delivered).unwrap_or(i64::MAX) {
            self.differ(&format!("{channel}: delivered"), counted("delivered"), delivered);
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

/// What the pipeline told of each delivery, as it stands on the log.
#[derive(Default)]
struct Told {
    by_kind: BTreeMap<(Channel, ReceiptKind), BTreeSet<DeliveryId>>,
}

impl Told {
    async fn read(instance: &Instance, project: &str) -> anyhow::Result<Self> {
        let mut told = Self::default();
        let log = &instance.backends.log;
        for bounds in log.bounds(Topic::Receipts).await? {
            let mut next = bounds.start;
            while next < bounds.end {
                let records = log.read(bounds.at, next, 1_000).await?;
                let Some(last) = records.last() else { break };
                next = last.position.offset + 1;
                for record in &records {
                    let receipt: Receipt = decode(&record.payload)?;
                    if receipt.project == project {
                        told.by_kind.entry((receipt.channel, receipt.kind)).or_default().insert(receipt.delivery);
                    }
                }
            }
        }
        Ok(told)
    }
}

/// What a receiver got.
struct Got {
    answered: BTreeMap<DeliveryId, u32>,
    unanswered: BTreeSet<DeliveryId>,
    confirmed: Option<u64>,
}

fn mail(world: &World) -> Got {
    let received = world.mail.snapshot();
    // `<delivery@domain>`
    let id = |message_id: &str| message_id.trim_start_matches('<').split('@').next().and_then(|d| d.parse().ok());
    let answered: BTreeMap<DeliveryId, u32> =
        received.accepted.iter().filter_map(|(message_id, n)| Some((id(message_id)?, *n))).collect();
    let unanswered = received.unanswered.keys().filter_map(|message_id| id(message_id)).collect();
    Got { answered, unanswered, confirmed: None }
}

fn texts(world: &World) -> anyhow::Result<Got> {
    let received = world.texts.snapshot();
    let mut got = Got {
        answered: BTreeMap::new(),
        unanswered: BTreeSet::new(),
        confirmed: Some(received.callbacks.acknowledged),
    };
    for text in &received.messages {
        let callback = text.status_callback.as_deref().context("a text without a status callback")?;
        let query = callback.split_once('?').map_or("", |(_, query)| query);
        let token = query.split('&').find_map(|p| p.strip_prefix("r=")).context("a callback without a reference")?;
        let delivery = Reference::from_token(token)?.delivery;
        if text.answered {
            *got.answered.entry(delivery).or_default() += 1;
        } else {
            got.unanswered.insert(delivery);
        }
    }
    Ok(got)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\ndecided")?;
        for (outcome, n) in &self.decided {
            writeln!(f, "  {outcome:18} {n:>6}")?;
        }
        writeln!(
            f,
            "\n{:10} {:>6} {:>9} {:>6} {:>8} | {:>8} {:>10} {:>10}",
            "channel", "sent", "delivered", "failed", "deferred", "received", "duplicates", "unanswered"
        )?;
        for (channel, report) in &self.channels {
            let n = |metric: &str| report.counted.get(metric).copied().unwrap_or_default();
            writeln!(
                f,
                "{:10} {:>6} {:>9} {:>6} {:>8} | {:>8} {:>10} {:>10}",
                channel.name(),
                n("sent"),
                n("delivered"),
                n("failed"),
                n("deferred"),
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
