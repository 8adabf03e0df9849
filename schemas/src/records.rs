//! The records that travel on the log. One struct a schema in `avro/`; a field added later has a default on both sides.

use crate::{Channel, DeliveryId, EventId, Lane, MemberKey, NotificationId, Position, Timestamp, Topic, ids::EntryId};
use serde::{Deserialize, Serialize};

/// Something that happened, told by a producer (CloudEvents 1.0).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Project.
    pub project: String,
    /// CloudEvents `id`.
    pub id: String,
    /// CloudEvents `source`.
    pub source: String,
    /// CloudEvents `type`.
    #[serde(rename = "type")]
    pub kind: String,
    /// CloudEvents `subject`: the member's `client_user_id`.
    pub subject: Option<String>,
    /// CloudEvents `time`, or when it was accepted.
    pub time: Timestamp,
    /// When Bellwether accepted it: the start of the end-to-end latency.
    pub accepted_at: Timestamp,
    /// CloudEvents `data`, a JSON value.
    pub data: String,
}

impl Event {
    /// The type of the event by which we tell that an address is to be confirmed, so that a flow can send the letter. Its data: `address`.
    pub const UNCONFIRMED: &str = "bellwether.address.unconfirmed";

    /// The id that everything caused by this event derives from.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        EventId::derive(&self.project, &self.source, &self.id)
    }
}

/// A change to a member. Commands of one member are serial.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberCommand {
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// When it was asked for.
    pub at: Timestamp,
    /// Who asked: the API key's name, a provider, the member.
    pub actor: String,
    /// What is asked.
    pub action: MemberAction,
    /// As JSON: for `upsert` and `prefer` a [`crate::member::Patch`], for `absorb` the [`crate::member::Profile`] that comes.
    pub patch: Option<String>,
    /// For all but `upsert`, `delete`, `erase`, `merge`, `absorb` and `prefer`.
    pub channel: Option<Channel>,
    /// For all that concern one address.
    pub address: Option<String>,
    /// For `suppress` and `opt_out`: why.
    pub reason: Option<String>,
    /// For `opt_in` and `opt_out`: the category; absent is the whole channel.
    #[serde(default)]
    pub category: Option<String>,
    /// For what changes consent: what shows it, such as the form and the text that was shown, an IP address, a message's id, a file.
    #[serde(default)]
    pub proof: Option<String>,
    /// `client_user_id` of the other one: for `merge` of who stays, for `absorb` of who went.
    #[serde(default)]
    pub other: Option<String>,
}

impl MemberCommand {
    /// A command that says no more than every command does.
    #[must_use]
    pub const fn new(project: String, member: String, action: MemberAction, actor: String, at: Timestamp) -> Self {
        Self {
            project,
            member,
            at,
            actor,
            action,
            patch: None,
            channel: None,
            address: None,
            reason: None,
            category: None,
            proof: None,
            other: None,
        }
    }
}

/// What a [`MemberCommand`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberAction {
    /// Create or change the profile.
    Upsert,
    /// Remove the profile.
    Delete,
    /// Stop using one address.
    Suppress,
    /// The member wants nothing more by this channel, or nothing of one category.
    OptOut,
    /// The member wants this channel, or one category by it.
    OptIn,
    /// One more address of the channel, found by the channel itself: a linked chat, a subscribed browser, an app's token.
    AddAddress,
    /// The channel says that the address is no more.
    RemoveAddress,
    /// An operator uses a suppressed address again.
    Restore,
    /// The member wrote to us from this address.
    Heard,
    /// Nobody was to be reached at this address.
    Missed,
    /// The member confirmed that the address is theirs.
    Confirm,
    /// Take away all that is kept of the member; a mark that names nobody stays.
    Erase,
    /// The member is the same person as another, who takes over the profile: hand it to them and remove it here.
    Merge,
    /// Take over the profile of somebody who is the same person.
    Absorb,
    /// Change the preferences of a member who is there; it makes nobody.
    Prefer,
}

/// The intent to tell one member one thing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notification {
    /// Id, derived from what caused it.
    pub id: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// The event that caused it.
    pub event: EventId,
    /// Its CloudEvents type.
    pub event_type: String,
    /// Flow that asked for it.
    pub flow: String,
    /// Version of that flow.
    pub flow_version: i32,
    /// Step within the flow, from 0.
    pub step: i32,
    /// Template to use.
    pub template: String,
    /// Lane.
    pub lane: Lane,
    /// Channels to choose from, in order; empty leaves it to the member's preference.
    pub channels: Vec<Channel>,
    /// Nothing is sent after this.
    pub expires_at: Option<Timestamp>,
    /// When the event was accepted.
    pub accepted_at: Timestamp,
    /// The event's data, a JSON value.
    pub data: String,
    /// How often it came back: deferred, or for another channel.
    #[serde(default)]
    pub round: i32,
    /// Channels that are not to be looked at any more, because it was sent by them; the last one last.
    #[serde(default)]
    pub tried: Vec<Channel>,
    /// The digest row in which what it goes out with is gathered, while it waits for that: whatever the definitions say by then, it is found.
    #[serde(default)]
    pub gathered_in: Option<String>,
}

/// A notification on one channel to one address, with all that rendering needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Id, derived from notification, channel and address.
    pub id: DeliveryId,
    /// Notification.
    pub notification: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// CloudEvents type of the event.
    pub event_type: String,
    /// Template.
    pub template: String,
    /// Channel.
    pub channel: Channel,
    /// Address, in the channel's normal form.
    pub address: String,
    /// Locale of the member, if known.
    pub locale: Option<String>,
    /// Lane.
    pub lane: Lane,
    /// The how-many-eth try this is, from 1.
    pub attempt: i32,
    /// When the event was accepted.
    pub accepted_at: Timestamp,
    /// Nothing is sent after this.
    pub expires_at: Option<Timestamp>,
    /// What templates see: a JSON object with `member` and `event`. The fields of `event.data` are shown at the top too, but travel once.
    pub context: String,
    /// The channel allows free text until then, because the member wrote to us (WhatsApp's window).
    pub window_until: Option<Timestamp>,
}

/// What became of a delivery.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Receipt {
    /// Delivery.
    pub delivery: DeliveryId,
    /// Notification.
    pub notification: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// Template.
    pub template: String,
    /// Channel.
    pub channel: Channel,
    /// What happened.
    pub kind: ReceiptKind,
    /// When it happened, by the clock of whoever saw it.
    pub at: Timestamp,
    /// Which try it is about, from 1.
    pub attempt: i32,
    /// Provider by its name in the definitions.
    pub provider: String,
    /// The provider's own id of the message.
    pub provider_id: Option<String>,
    /// Kind of error, for `failed` and `deferred`.
    pub error: Option<ErrorKind>,
    /// The provider's words: code and text.
    pub detail: Option<String>,
    /// The address it went to, where the receipt must act on it (suppression).
    pub address: Option<String>,
}

impl Receipt {
    /// What [`Self::detail`] says where the member followed a link of ours to unsubscribe.
    pub const BY_LINK: &str = "the member unsubscribed by the link";
}

/// What a receipt says. The order of [`ReceiptKind::rank`] is the order of a message's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptKind {
    /// The try failed in a way that passes; it is tried again.
    Deferred,
    /// The provider took it.
    Sent,
    /// It will not arrive.
    Failed,
    /// It arrived.
    Delivered,
    /// It was opened.
    Opened,
    /// A link in it was followed.
    Clicked,
    /// The member answered with an opt-out.
    OptedOut,
    /// Something that reads for the member opened it: a mail provider's image proxy, a scanner.
    OpenedByMachine,
    /// Something that reads for the member followed a link.
    ClickedByMachine,
}

impl ReceiptKind {
    /// Every kind.
    pub const ALL: [Self; 9] = [
        Self::Deferred,
        Self::Sent,
        Self::Failed,
        Self::Delivered,
        Self::Opened,
        Self::Clicked,
        Self::OptedOut,
        Self::OpenedByMachine,
        Self::ClickedByMachine,
    ];

    /// The name in aggregates, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Deferred => "deferred",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Delivered => "delivered",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::OptedOut => "opted_out",
            Self::OpenedByMachine => "opened_by_machine",
            Self::ClickedByMachine => "clicked_by_machine",
        }
    }

    /// A message's status is its receipt of the greatest rank, whatever order they came in. A machine that reads proves that it arrived.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::Deferred => 0,
            Self::Sent => 1,
            Self::Failed => 2,
            Self::OpenedByMachine | Self::ClickedByMachine => 3,
            Self::Delivered => 4,
            Self::Opened => 5,
            Self::Clicked => 6,
            Self::OptedOut => 7,
        }
    }

    /// Whether it proves that the message arrived.
    #[must_use]
    pub const fn is_arrival(self) -> bool {
        self.rank() > Self::Failed.rank()
    }
}

/// Why a call to a provider failed. A kind exists only where what we do differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// It will pass: back off and try again.
    Transient,
    /// Too fast: wait as told.
    Throttled,
    /// Perhaps it was taken, perhaps not.
    Ambiguous,
    /// Nobody is there: suppress the address.
    InvalidAddress,
    /// The member said no to the provider: record it.
    OptedOut,
    /// The message is not acceptable: dead letter.
    Rejected,
    /// Our account is at fault: stop the provider, alert, try again later.
    Unauthorized,
    /// It expired before it could be sent.
    Expired,
    /// Nobody was to be reached there this time (mailbox full, handset off): an address that says so too often is quarantined.
    Unreachable,
}

impl ErrorKind {
    /// The name in metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Throttled => "throttled",
            Self::Ambiguous => "ambiguous",
            Self::InvalidAddress => "invalid_address",
            Self::OptedOut => "opted_out",
            Self::Rejected => "rejected",
            Self::Unauthorized => "unauthorized",
            Self::Expired => "expired",
            Self::Unreachable => "unreachable",
        }
    }
}

/// A record to be emitted when it is due.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Scheduled {
    /// Id, derived from what caused it.
    pub id: EntryId,
    /// Project.
    pub project: String,
    /// When.
    pub due: Timestamp,
    /// Name of the target topic.
    pub topic: String,
    /// Key of the record to emit.
    pub key: String,
    /// The record to emit, encoded.
    #[serde(with = "blob")]
    pub payload: Vec<u8>,
}

/// What was decided about a notification, the negative too.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// Id, derived from notification, stage and cause.
    pub id: EntryId,
    /// Notification; for an event without a flow, derived from the event alone.
    pub notification: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// Event.
    pub event: EventId,
    /// CloudEvents type.
    pub event_type: String,
    /// Flow; empty where none took the event.
    pub flow: String,
    /// Version of the flow.
    pub flow_version: i32,
    /// Template; empty where none was reached.
    pub template: String,
    /// When.
    pub at: Timestamp,
    /// The outcome.
    pub outcome: Outcome,
    /// The chosen channel.
    pub channel: Option<Channel>,
    /// The delivery that follows.
    pub delivery: Option<DeliveryId>,
    /// Every channel that was looked at, in order, with the rule that decided it; after the chosen one, those that the template can speak on.
    pub trace: Vec<Verdict>,
    /// In words: what decided.
    pub detail: String,
}

/// One channel as the router saw it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Channel.
    pub channel: Channel,
    /// `chosen`, `not_needed` where it could have been used and another came first, or the rule that rejected it.
    pub rule: String,
    /// The facts behind it, without personal data.
    pub detail: String,
    /// What the rule counted: messages of a cap, misses of an address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i32>,
    /// How many of them it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<i32>,
    /// The channel's score, per mille, where the project compares channels: the weighted mean of the three that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<i32>,
    /// How sure it is that a message arrives, per mille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reach: Option<i32>,
    /// How much the member does with what comes by the channel, per mille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engagement: Option<i32>,
    /// How cheap a message is, per mille.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<i32>,
}

impl Verdict {
    /// [`Self::rule`] of the channel that was chosen.
    pub const CHOSEN: &str = "chosen";
    /// [`Self::rule`] of a channel that could have been used, had no other come first.
    pub const NOT_NEEDED: &str = "not_needed";

    /// A verdict without any figures.
    #[must_use]
    pub fn new(channel: Channel, rule: &str, detail: impl Into<String>) -> Self {
        let (rule, detail) = (rule.to_owned(), detail.into());
        Self { channel, rule, detail, count: None, limit: None, score: None, reach: None, engagement: None, cost: None }
    }
}

/// How a decision ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A channel was chosen; a delivery follows.
    Routed,
    /// No flow is triggered by this event type.
    NoFlow,
    /// The flow's condition is false for this event.
    ConditionFalse,
    /// Another position claimed the same notification.
    Duplicate,
    /// Its time had passed.
    Expired,
    /// The project has no such member.
    UnknownMember,
    /// No channel was usable, for the reasons in the trace; this is the first one's.
    NoAddress,
    /// Every channel with an address is refused by the member, or lacks a needed opt-in.
    NoOptIn,
    /// Every address is suppressed.
    Suppressed,
    /// The template has no variant for a usable channel.
    NoTemplate,
    /// No provider is defined for a usable channel.
    NoProvider,
    /// The member was sent as much as a cap allows.
    Capped,
    /// Not now: it is decided again later.
    Deferred,
    /// Another channel was to try it, and it had arrived by an earlier one.
    Cancelled,
    /// It goes out with another one, in one message.
    Gathered,
}

impl Outcome {
    /// The name in aggregates, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routed => "routed",
            Self::NoFlow => "no_flow",
            Self::ConditionFalse => "condition_false",
            Self::Duplicate => "duplicate",
            Self::Expired => "expired",
            Self::UnknownMember => "unknown_member",
            Self::NoAddress => "no_address",
            Self::NoOptIn => "no_opt_in",
            Self::Suppressed => "suppressed",
            Self::NoTemplate => "no_template",
            Self::NoProvider => "no_provider",
            Self::Capped => "capped",
            Self::Deferred => "deferred",
            Self::Cancelled => "cancelled",
            Self::Gathered => "gathered",
        }
    }
}

/// What could not be read or decided, kept whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Id, derived from the position.
    pub id: EntryId,
    /// Project, or empty where it could not be read.
    pub project: String,
    /// When.
    pub at: Timestamp,
    /// Processor that gave it up.
    pub processor: String,
    /// Closed reason.
    pub reason: Reason,
    /// What is wrong, with the field and the remedy.
    pub detail: String,
    /// Topic it came by.
    pub topic: String,
    /// Partition it came by.
    pub partition: i32,
    /// Offset it came by.
    pub offset: i64,
    /// Key as it was.
    #[serde(with = "blob")]
    pub key: Vec<u8>,
    /// Payload as it was.
    #[serde(with = "blob")]
    pub payload: Vec<u8>,
    /// Headers as they were.
    pub headers: Vec<Header>,
}

/// One header of a record on the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Name.
    pub name: String,
    /// Value.
    #[serde(with = "blob")]
    pub value: Vec<u8>,
}

/// Why something is a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The bytes are not in any accepted encoding.
    Malformed,
    /// The encoding names a schema that is not known here.
    UnknownSchema,
    /// Readable, but a field is missing or has a value outside its domain.
    Invalid,
    /// Larger than the limit.
    TooLarge,
    /// A condition or template failed on this data.
    Evaluation,
    /// The provider does not accept the content.
    Rejected,
    /// All attempts were used up.
    Exhausted,
    /// Perhaps sent, perhaps not, and the provider is set to hold such ones.
    Ambiguous,
}

impl Reason {
    /// The name in metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::UnknownSchema => "unknown_schema",
            Self::Invalid => "invalid",
            Self::TooLarge => "too_large",
            Self::Evaluation => "evaluation",
            Self::Rejected => "rejected",
            Self::Exhausted => "exhausted",
            Self::Ambiguous => "ambiguous",
        }
    }
}

/// A project's definitions as published: the newest per project stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DefinitionSet {
    /// Project.
    pub project: String,
    /// Version, from 1, growing by publication.
    pub version: i32,
    /// When it was published.
    pub published_at: Timestamp,
    /// Who published it.
    pub actor: String,
    /// The definitions as one JSON document.
    pub document: String,
}

/// How an account at a provider stands, as one instance found it by calling: every instance acts on it (pacing of the whole cluster
/// without a coordinator). The newest of a provider stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProviderHealth {
    /// Project.
    pub project: String,
    /// Provider by its name in the definitions.
    pub provider: String,
    /// Hash of the provider's definition: what was found of other settings says nothing of these.
    pub settings: String,
    /// The instance that found it.
    pub instance: String,
    /// When.
    pub at: Timestamp,
    /// What it found.
    pub standing: Standing,
    /// Until when nothing is sent; absent where it may be.
    pub until: Option<Timestamp>,
    /// In words: what the provider said.
    pub detail: String,
}

/// Whether an account may be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Yes.
    Ok,
    /// Not yet: it told us to wait.
    Held,
    /// No: it refuses our account, or fails too often. Others take its messages, and one call at a time tries it again.
    Stopped,
}

impl Standing {
    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Held => "held",
            Self::Stopped => "stopped",
        }
    }
}

/// A record on its way to the log, still typed.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// To `events`.
    Event(Event),
    /// To `members`.
    Member(MemberCommand),
    /// To the lane's `notifications`.
    Notification(Notification),
    /// To the channel's and lane's `deliveries`.
    Delivery(Delivery),
    /// To `receipts`.
    Receipt(Receipt),
    /// To `decisions`.
    Decision(Decision),
    /// To `dead-letters`.
    DeadLetter(DeadLetter),
    /// To `providers`.
    Health(ProviderHealth),
    /// To `scheduled`: emit the record when it is due.
    Later(Timestamp, Box<Record>),
    /// A record that is already encoded, to its topic: what was scheduled, or is replayed.
    Encoded {
        /// Target.
        topic: Topic,
        /// Key.
        key: Vec<u8>,
        /// Encoded record.
        payload: Vec<u8>,
    },
}

impl Record {
    /// The topic it goes to.
    #[must_use]
    pub const fn topic(&self) -> Topic {
        match self {
            Self::Event(_) => Topic::Events,
            Self::Member(_) => Topic::Members,
            Self::Notification(n) => Topic::Notifications(n.lane),
            Self::Delivery(d) => Topic::Deliveries(d.channel, d.lane),
            Self::Receipt(_) => Topic::Receipts,
            Self::Decision(_) => Topic::Decisions,
            Self::DeadLetter(_) => Topic::DeadLetters,
            Self::Health(_) => Topic::Providers,
            Self::Later(_, record) => Topic::Scheduled(record.topic().lane()),
            Self::Encoded { topic, .. } => *topic,
        }
    }

    /// The key it goes under.
    #[must_use]
    pub fn key(&self) -> Vec<u8> {
        let member = |project: &str, member: &str| MemberKey::new(project, member).to_string().into_bytes();
        match self {
            Self::Event(r) => member(&r.project, r.subject.as_deref().unwrap_or_default()),
            Self::Member(r) => member(&r.project, &r.member),
            Self::Notification(r) => member(&r.project, &r.member),
            Self::Delivery(r) => member(&r.project, &r.member),
            Self::Receipt(r) => member(&r.project, &r.member),
            Self::Decision(r) => member(&r.project, &r.member),
            Self::DeadLetter(r) => r.id.0.as_bytes().to_vec(),
            Self::Health(r) => member(&r.project, &r.provider),
            Self::Later(_, record) => record.key(),
            Self::Encoded { key, .. } => key.clone(),
        }
    }
}

impl DeadLetter {
    /// The id of whatever died at `position` in `processor`.
    #[must_use]
    pub fn id_at(processor: &str, position: Position) -> EntryId {
        EntryId::derive("dead-letter", &[processor.as_bytes(), position.to_string().as_bytes()])
    }
}

/// Avro `bytes`.
mod blob {
    use serde::{Deserializer, Serializer, de};
    use std::fmt;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Vec<u8>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
            fn visit_byte_buf<E: de::Error>(self, bytes: Vec<u8>) -> Result<Vec<u8>, E> {
                Ok(bytes)
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
