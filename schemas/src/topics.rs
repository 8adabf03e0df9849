//! The one table of topics: name, retention, compaction. Partition counts are equal everywhere, because topics keyed
//! by member are co-partitioned: partition *n* of each belongs to the same members.

use crate::channel::{Channel, Lane, UnknownName};
use std::{fmt, str::FromStr, time::Duration};

/// Every topic of the house.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// What producers emit.
    Events,
    /// Changes to members: commands under the member's key.
    Members,
    /// Intents to tell one member one thing.
    Notifications(Lane),
    /// A notification on its channel, ready to be sent.
    Deliveries(Channel, Lane),
    /// What became of a delivery.
    Receipts,
    /// What is to be emitted later.
    Scheduled(Lane),
    /// Why each notification was or was not sent.
    Decisions,
    /// What could not be read or decided, with its reason.
    DeadLetters,
    /// Published definitions, newest per project.
    Definitions,
    /// How providers stand, newest per provider: what one instance finds, all act on.
    Providers,
}

/// How long a topic keeps its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retention {
    /// Records older than this go.
    Delete(Duration),
    /// The newest record of each key stays for ever.
    Compact,
}

const DAY: Duration = Duration::from_secs(86_400);

/// Days that records are kept by default.
pub const RETENTION_DAYS: u32 = 7;

impl Topic {
    /// Every topic, in the order of a record's journey.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = vec![Self::Events, Self::Members];
        all.extend(Lane::ALL.map(Self::Notifications));
        all.extend(Channel::ALL.iter().flat_map(|c| Lane::ALL.map(|l| Self::Deliveries(*c, l))));
        all.push(Self::Receipts);
        all.extend(Lane::ALL.map(Self::Scheduled));
        all.extend([Self::Decisions, Self::DeadLetters, Self::Definitions, Self::Providers]);
        all
    }

    /// The name on the log.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Members => "members",
            Self::Notifications(Lane::Transactional) => "notifications.transactional",
            Self::Notifications(Lane::Bulk) => "notifications.bulk",
            Self::Deliveries(Channel::Email, Lane::Transactional) => "deliveries.email.transactional",
            Self::Deliveries(Channel::Email, Lane::Bulk) => "deliveries.email.bulk",
            Self::Deliveries(Channel::Sms, Lane::Transactional) => "deliveries.sms.transactional",
            Self::Deliveries(Channel::Sms, Lane::Bulk) => "deliveries.sms.bulk",
            Self::Deliveries(Channel::Whatsapp, Lane::Transactional) => "deliveries.whatsapp.transactional",
            Self::Deliveries(Channel::Whatsapp, Lane::Bulk) => "deliveries.whatsapp.bulk",
            Self::Deliveries(Channel::Telegram, Lane::Transactional) => "deliveries.telegram.transactional",
            Self::Deliveries(Channel::Telegram, Lane::Bulk) => "deliveries.telegram.bulk",
            Self::Deliveries(Channel::WebPush, Lane::Transactional) => "deliveries.web_push.transactional",
            Self::Deliveries(Channel::WebPush, Lane::Bulk) => "deliveries.web_push.bulk",
            Self::Deliveries(Channel::AppPush, Lane::Transactional) => "deliveries.app_push.transactional",
            Self::Deliveries(Channel::AppPush, Lane::Bulk) => "deliveries.app_push.bulk",
            Self::Deliveries(Channel::Webhook, Lane::Transactional) => "deliveries.webhook.transactional",
            Self::Deliveries(Channel::Webhook, Lane::Bulk) => "deliveries.webhook.bulk",
            Self::Receipts => "receipts",
            Self::Scheduled(Lane::Transactional) => "scheduled.transactional",
            Self::Scheduled(Lane::Bulk) => "scheduled.bulk",
            Self::Decisions => "decisions",
            Self::DeadLetters => "dead-letters",
            Self::Definitions => "definitions",
            Self::Providers => "providers",
        }
    }

    /// The lane of what it carries; what has none is as urgent as anything.
    #[must_use]
    pub const fn lane(self) -> Lane {
        match self {
            Self::Notifications(lane) | Self::Deliveries(_, lane) | Self::Scheduled(lane) => lane,
            Self::Events
            | Self::Members
            | Self::Receipts
            | Self::Decisions
            | Self::DeadLetters
            | Self::Definitions
            | Self::Providers => Lane::Transactional,
        }
    }

    /// Retention of this topic, where records are kept for so long; dead letters are kept for a month, so that they can be replayed.
    #[must_use]
    pub const fn retention(self, records: Duration) -> Retention {
        match self {
            Self::Definitions | Self::Providers => Retention::Compact,
            Self::DeadLetters => Retention::Delete(DAY.saturating_mul(30)),
            _ => Retention::Delete(records),
        }
    }

    /// `definitions` and `providers` are small and read whole by every process: one partition. All others have the configured count.
    #[must_use]
    pub const fn partitions(self, configured: u32) -> u32 {
        match self {
            Self::Definitions | Self::Providers => 1,
            _ => configured,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Topic {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::all().into_iter().find(|t| t.name() == text).ok_or_else(|| UnknownName {
            what: "topic",
            given: text.into(),
            known: Self::all().iter().map(|t| t.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Where a record stands on the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// Topic.
    pub topic: Topic,
    /// Partition, from 0.
    pub partition: u32,
    /// Offset, from 0, growing by record; gaps are allowed.
    pub offset: u64,
}

/// `topic/partition/offset`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

impl FromStr for Position {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        let unknown = || UnknownName { what: "position", given: text.into(), known: "topic/partition/offset".into() };
        let mut parts = text.split('/');
        let (Some(topic), Some(partition), Some(offset), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(unknown());
        };
        Ok(Self {
            topic: topic.parse()?,
            partition: partition.parse().map_err(|_| unknown())?,
            offset: offset.parse().map_err(|_| unknown())?,
        })
    }
}

/// The partition of a key: the same on every log, so that co-partitioned topics agree. xxHash64 with seed 0, modulo `count`.
#[must_use]
pub fn partition_of(key: &[u8], count: u32) -> u32 {
    u32::try_from(xxhash_rust::xxh64::xxh64(key, 0) % u64::from(count.max(1))).unwrap_or(0)
}

/// The hash behind [`partition_of`], for whoever needs a fast fingerprint of bytes.
#[must_use]
pub fn hash(bytes: &[u8]) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, 0)
}
