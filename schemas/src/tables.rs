//! The tables, one row struct each. `infra/cql` holds the same tables as CQL; a test compares the two.

use crate::{
    Channel, Timestamp,
    records::ReceiptKind,
    row,
    rows::{BadRow, Read, Row as _},
};
use serde::de::DeserializeOwned;
use uuid::Uuid;

row! {
    /// All that route needs of a member, in one partition: the profile (`kind` = [`PROFILE`], `id` empty), one claim a recent
    /// notification (`kind` = [`CLAIM`], `id` = notification), what was sent lately (`kind` = [`SENT`], `id` = lane) and what came of it (`kind` = [`SEEN`], `id` =
    /// channel); for track, what another channel is to try (`kind` = [`FALLBACK`], `id` = notification); what is gathered of a
    /// flow (`kind` = [`DIGEST`], `id` = flow, lane and, where the flow parts its events by one, the value of a key). Fenced by the offset (plus one) of the record that caused
    /// the write.
    MemberRow in "members" fenced {
        partition {
            /// Project.
            project: String,
            /// `client_user_id`.
            member: String,
        }
        clustering {
            /// [`PROFILE`], [`CLAIM`], [`SENT`], [`SEEN`], [`FALLBACK`] or [`DIGEST`].
            kind: String,
            /// Empty, or the notification, lane or channel.
            id: String,
        }
        columns {
            /// Profile: locale (BCP 47).
            locale: Option<String>,
            /// Profile: time zone (IANA).
            time_zone: Option<String>,
            /// Profile: preferred channels in order, separated by commas.
            channels: Option<String>,
            /// Profile: JSON object of channel → list of [`crate::member::Address`].
            addresses: Option<String>,
            /// Profile: JSON object of channel → [`crate::member::ByCategory`].
            opt_ins: Option<String>,
            /// Profile: JSON object of anything the client keeps.
            attributes: Option<String>,
            /// Profile: when it was first written.
            created_at: Option<Timestamp>,
            /// Profile: when it was last changed. Claim: when it was decided.
            updated_at: Option<Timestamp>,
            /// Profile: offset of the last applied command in the member's partition of `members`.
            applied: Option<i64>,
            /// Claim: position of the claimant (law 2), `topic/partition/offset`.
            position: Option<String>,
            /// Claim: the decision as it was taken, JSON; a redelivery emits it again, unchanged. Sent: JSON list of what was decided to be sent,
            /// as far as caps may count it, oldest first. Seen: JSON object of when which sign last came from the member. Fallback: the
            /// [`crate::records::Notification`] as the next channel gets it, JSON. Digest: what was gathered, JSON. Merged: the other's id, JSON.
            decision: Option<String>,
            /// Profile: [`crate::definitions::QuietHours`] as JSON.
            quiet_hours: Option<String>,
        }
    }
}

impl MemberRow {
    /// What a row of any kind but the profile keeps.
    ///
    /// # Errors
    /// It keeps something else.
    pub fn kept<T: DeserializeOwned>(&self) -> Result<T, BadRow> {
        let text = self.decision.as_deref().unwrap_or("null");
        let bad = |e: serde_json::Error| BadRow { table: Self::TABLE.name, column: "decision", problem: e.to_string() };
        serde_json::from_str(text).map_err(bad)
    }

    /// A row of this kind without any values yet.
    #[must_use]
    pub fn empty(project: &str, member: &str, kind: &str, id: &str) -> Self {
        Self {
            project: project.into(),
            member: member.into(),
            kind: kind.into(),
            id: id.into(),
            locale: None,
            time_zone: None,
            channels: None,
            addresses: None,
            opt_ins: None,
            attributes: None,
            created_at: None,
            updated_at: None,
            applied: None,
            position: None,
            decision: None,
            quiet_hours: None,
        }
    }
}

/// `kind` of a member's profile.
pub const PROFILE: &str = "profile";
/// `kind` of whom the member became part of: JSON of the other's `client_user_id`. It is there for as long as there is no profile.
pub const MERGED: &str = "merged";
/// `kind` of what the member was sent lately, in the lane that `id` names.
pub const SENT: &str = "sent";
/// `kind` of what last came of messages to the member by the channel that `id` names; track's alone, fenced by the receipt's offset.
pub const SEEN: &str = "seen";
/// `kind` of a notification's claim.
pub const CLAIM: &str = "claim";
/// `kind` of a notification that another channel tries if this one fails, for as long as its time runs.
pub const FALLBACK: &str = "fallback";
/// `kind` of what is gathered of a flow's notifications until it goes out as one message.
pub const DIGEST: &str = "digest";

row! {
    /// One line of a notification's story. The first position to write a line owns it; another position is a duplicate.
    StoryRow in "stories" {
        partition {
            /// Notification.
            notification: Uuid,
        }
        clustering {
            /// Hash of what makes the line unique: for a receipt, delivery + kind (+ attempt); for a decision, its cause.
            id: Uuid,
        }
        columns {
            /// Project.
            project: String,
            /// `client_user_id`.
            member: String,
            /// When it happened.
            at: Timestamp,
            /// `decision` or `receipt`.
            kind: String,
            /// The decision's outcome or the receipt's kind.
            outcome: String,
            /// Delivery, where there is one.
            delivery: Option<Uuid>,
            /// Channel, where there is one.
            channel: Option<String>,
            /// The whole decision or receipt as JSON.
            detail: String,
            /// Position of the record that wrote this line.
            position: String,
        }
    }
}

impl StoryRow {
    /// What a receipt's line tells; a decision's tells none.
    #[must_use]
    pub fn receipt(&self) -> Option<ReceiptKind> {
        ReceiptKind::ALL.into_iter().find(|kind| self.kind == "receipt" && kind.name() == self.outcome)
    }
}

row! {
    /// A partial sum: what one source partition contributed to one figure of one day. Fenced by the last offset (plus one) it includes.
    AggregateRow in "aggregates" fenced {
        partition {
            /// Project.
            project: String,
            /// UTC day, `YYYY-MM-DD`.
            day: String,
        }
        clustering {
            /// Template (event type).
            template: String,
            /// Channel, or empty where none was chosen.
            channel: String,
            /// Figure: a receipt's kind, or `decided.` and an outcome.
            metric: String,
            /// Source partition, `topic/partition`.
            source: String,
        }
        columns {
            /// The sum.
            value: i64,
            /// Last offset that the sum includes.
            included: i64,
        }
    }
}

row! {
    /// Whose an address is: what comes in by a channel names nobody but an address. Fenced as the member's own row.
    AddressRow in "addresses" fenced {
        partition {
            /// Project.
            project: String,
            /// Channel.
            channel: String,
            /// Address in the channel's normal form.
            address: String,
        }
        clustering {
            /// `client_user_id`; several members may share an address.
            member: String,
        }
        columns {
            /// Since when.
            since: Timestamp,
        }
    }
}

row! {
    /// Who has a value of an attribute that the project searches by. Fenced as the member's own row.
    AttributeRow in "attributes" fenced {
        partition {
            /// Project.
            project: String,
            /// Name of the attribute.
            name: String,
            /// See [`AttributeRow::text_of`].
            value: String,
            /// See [`shard_of`]: the member's.
            shard: i64,
        }
        clustering {
            /// `client_user_id`.
            member: String,
        }
        columns {
            /// Since when, at the latest.
            since: Timestamp,
        }
    }
}

impl AttributeRow {
    /// Most bytes of a value by which members can be found.
    pub const MAX_VALUE_BYTES: usize = 256;

    /// The text by which a value is found: a string as it is, numbers and booleans as JSON writes them. Nothing else is found, nor a text
    /// above [`Self::MAX_VALUE_BYTES`].
    #[must_use]
    pub fn text_of(value: &serde_json::Value) -> Option<String> {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => value.to_string(),
            _ => return None,
        };
        (text.len() <= Self::MAX_VALUE_BYTES).then_some(text)
    }
}

row! {
    /// An address that is not to be used, whoever has it or will have it. Not fenced: it is about no member, so no partition's offsets order
    /// its writes; the last word stands.
    SuppressionRow in "suppressions" {
        partition {
            /// Project.
            project: String,
            /// Channel.
            channel: String,
            /// See [`shard_of`]: the address's.
            shard: i64,
        }
        clustering {
            /// Address in the channel's normal form.
            address: String,
        }
        columns {
            /// Why, in words; empty where nobody said.
            reason: String,
            /// Who said so: `provider NAME`, `operator KEY`, `import KEY`.
            source: String,
            /// Since when.
            since: Timestamp,
        }
    }
}

/// Partitions over which a list that has no bound of its own is spread: the suppressions of a channel, the members with one value of an attribute.
pub const SHARDS: i64 = 16;

/// The shard of an entry of such a list: its hash modulo [`SHARDS`], so that no partition grows without bound.
#[must_use]
pub fn shard_of(entry: &str) -> i64 {
    (crate::topics::hash(entry.as_bytes()) % SHARDS.cast_unsigned()).cast_signed()
}

impl SuppressionRow {
    /// Reads what the list says of an address.
    #[must_use]
    pub fn of(project: &str, channel: Channel, address: &str) -> Read {
        Self::read_one(project, channel.name(), shard_of(address), address)
    }
}

row! {
    /// One statement of a member's consent, or a preference that a command changed. Only ever added, never changed: what stands in the profile is
    /// the fold of these. The key is that of the command that caused it, so a redelivery writes the same row; the table needs no fence.
    ConsentRow in "consents" {
        partition {
            /// Project.
            project: String,
            /// `client_user_id`.
            member: String,
        }
        clustering {
            /// Offset of the command in the member's partition of `members`: the order in which statements count.
            applied: i64,
            /// Channel; empty where it is about a preference.
            channel: String,
            /// Category, or [`crate::member::ByCategory::WHOLE`]; or the preference's name.
            category: String,
        }
        columns {
            /// When it was said.
            at: Timestamp,
            /// `given`, `refused`, `withdrawn` or `confirmed`; `set` where it is about a preference.
            state: String,
            /// Who said so, as the command names them.
            actor: String,
            /// By which way: `api`, `import`, `operator`, `link`, `preference_page`, `merge`, a channel, or what the client calls it.
            source: String,
            /// The address, where it is about one.
            address: Option<String>,
            /// What shows it.
            proof: Option<String>,
            /// Position of the command (law 2), `topic/partition/offset`.
            position: String,
            /// What the preference is now, JSON; null where it was withdrawn.
            preference: Option<String>,
        }
    }
}

row! {
    /// That somebody was erased, so that no old command makes them again. Fenced as the member's own row.
    ErasedRow in "erased" fenced {
        partition {
            /// Project.
            project: String,
            /// Keyed hash of project and `client_user_id`: whose it is can be asked, and not be read.
            mark: String,
        }
        clustering {}
        columns {
            /// When the erasure was asked for.
            at: Timestamp,
            /// Offset of the command in the member's partition of `members`.
            applied: i64,
        }
    }
}

row! {
    /// Who comes by a link: what a chat says of itself names no member. Ends by itself.
    LinkRow in "links" {
        partition {
            /// What the link carries.
            link: String,
        }
        clustering {}
        columns {
            /// Project.
            project: String,
            /// `client_user_id`.
            member: String,
        }
    }
}

row! {
    /// A record to be emitted when it is due (law 5), in the bucket of its minute.
    ScheduledRow in "scheduled" {
        partition {
            /// Number of the shard: partition and lane of the topic that it came by.
            shard: i64,
            /// Minutes since the Unix epoch.
            minute: i64,
        }
        clustering {
            /// When it is due.
            due: Timestamp,
            /// Id of the scheduled record.
            id: Uuid,
        }
        columns {
            /// Target topic.
            topic: String,
            /// Key of the record to emit.
            key: String,
            /// The record to emit, encoded.
            payload: Vec<u8>,
        }
    }
}

row! {
    /// How far a partition's scheduled records have been emitted: everything due before is gone.
    ScheduleCursorRow in "schedule_cursors" {
        partition {
            /// Number of the shard.
            shard: i64,
        }
        clustering {}
        columns {
            /// Everything due before this has been emitted.
            due: Timestamp,
        }
    }
}

row! {
    /// A dead letter, kept to be shown and replayed.
    DeadLetterRow in "dead_letters" {
        partition {
            /// Project, or empty where it could not be read.
            project: String,
            /// UTC day of its death.
            day: String,
        }
        clustering {
            /// Id.
            id: Uuid,
        }
        columns {
            /// When.
            at: Timestamp,
            /// Closed reason, see [`crate::records::Reason`].
            reason: String,
            /// What is wrong and how to mend it.
            detail: String,
            /// The whole [`crate::records::DeadLetter`], encoded.
            record: Vec<u8>,
            /// When it was last replayed.
            replayed_at: Option<Timestamp>,
        }
    }
}

row! {
    /// The answer to a request with an `Idempotency-Key`, inserted if absent.
    IdempotencyRow in "idempotency_keys" {
        partition {
            /// Project.
            project: String,
            /// The client's key.
            key: String,
        }
        clustering {}
        columns {
            /// SHA-256 of method, path and body: another request under the same key is refused.
            request: String,
            /// HTTP status of the answer; null while the first request is in work.
            status: Option<i64>,
            /// Body of the answer.
            body: Option<String>,
        }
    }
}

row! {
    /// A bulk import and its progress.
    ImportRow in "imports" {
        partition {
            /// Project.
            project: String,
            /// Id of the import.
            import: Uuid,
        }
        clustering {}
        columns {
            /// When it began.
            started_at: Timestamp,
            /// When it ended.
            finished_at: Option<Timestamp>,
            /// Rows read so far.
            read: i64,
            /// Rows accepted so far.
            accepted: i64,
            /// Rows rejected so far.
            rejected: i64,
        }
    }
}

row! {
    /// A row of an import that was refused.
    ImportRejectRow in "import_rejects" {
        partition {
            /// Project.
            project: String,
            /// Id of the import.
            import: Uuid,
        }
        clustering {
            /// Line in the uploaded file, from 1.
            line: i64,
        }
        columns {
            /// Field that is wrong.
            field: String,
            /// What is wrong and how to mend it.
            detail: String,
            /// The row as it came.
            raw: String,
        }
    }
}

/// Every table.
#[must_use]
pub fn all() -> Vec<&'static crate::rows::Table> {
    use crate::rows::Row;
    vec![
        MemberRow::TABLE,
        StoryRow::TABLE,
        AggregateRow::TABLE,
        ScheduledRow::TABLE,
        ScheduleCursorRow::TABLE,
        DeadLetterRow::TABLE,
        IdempotencyRow::TABLE,
        ImportRow::TABLE,
        ImportRejectRow::TABLE,
        AddressRow::TABLE,
        LinkRow::TABLE,
        SuppressionRow::TABLE,
        ConsentRow::TABLE,
        ErasedRow::TABLE,
        AttributeRow::TABLE,
    ]
}

/// The table of this name.
#[must_use]
pub fn named(name: &str) -> Option<&'static crate::rows::Table> {
    all().into_iter().find(|t| t.name == name)
}
