//! A member as everything but the store sees one.

use crate::{
    Channel, Timestamp,
    definitions::QuietHours,
    rows::{BadRow, Row},
    tables::{MemberRow, PROFILE},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Where a member can be reached by one channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address in its channel's normal form: RFC 5321 mailbox, E.164 number, Telegram's chat id, a browser's subscription as JSON,
    /// `fcm:TOKEN` or `apns:TOKEN`, or what a webhook calls the member.
    pub address: String,
    /// Whether it may be used.
    pub state: AddressState,
    /// Why it is in that state; empty while active.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when it is in that state.
    pub since: Timestamp,
    /// When the member last wrote to us from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Timestamp>,
    /// When nobody was to be reached there, of late and in a row.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misses: Vec<Timestamp>,
}

impl Address {
    /// An address that may be used.
    #[must_use]
    pub const fn active(address: String, since: Timestamp) -> Self {
        Self { address, state: AddressState::Active, reason: String::new(), since, heard: None, misses: Vec::new() }
    }
}

/// Whether an address may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AddressState {
    /// Yes.
    Active,
    /// No: a provider said that nobody is there, or an operator said so.
    Suppressed,
    /// No: too often in a row nobody was to be reached there. What the channel shows of it later revives it.
    Quarantined,
    /// Not yet: whose it is, is not confirmed (double opt-in). It takes the letter that asks for it, and nothing else.
    Unconfirmed,
}

/// What a member said of a channel: of the channel as a whole, and of single categories.
///
/// As JSON a plain boolean is the whole channel; an object names categories, and the channel as a whole [`ByCategory::WHOLE`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Said", into = "Said")]
pub struct ByCategory {
    /// The channel as a whole: given, refused, or never said.
    pub all: Option<bool>,
    /// Single categories: given or refused; absent where the member never said.
    pub categories: BTreeMap<String, bool>,
}

impl ByCategory {
    /// What stands for the channel as a whole where categories are named.
    pub const WHOLE: &str = "*";

    /// What the member says of a category. Who refuses the channel refuses all of it; else the category's own word counts, else the channel's.
    #[must_use]
    pub fn says(&self, category: &str) -> Option<bool> {
        match self.all {
            Some(false) => Some(false),
            all => self.categories.get(category).copied().or(all),
        }
    }

    /// Whether the member said nothing at all.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.all.is_none() && self.categories.is_empty()
    }

    /// Whether the member wants anything by this channel.
    #[must_use]
    pub fn wants_any(&self) -> bool {
        self.all != Some(false) && (self.all == Some(true) || self.categories.values().any(|given| *given))
    }
}

/// The whole channel.
impl From<bool> for ByCategory {
    fn from(all: bool) -> Self {
        Self { all: Some(all), categories: BTreeMap::new() }
    }
}

/// [`ByCategory`] as JSON.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Said {
    Whole(bool),
    Each(BTreeMap<String, bool>),
}

impl From<Said> for ByCategory {
    fn from(said: Said) -> Self {
        match said {
            Said::Whole(all) => all.into(),
            Said::Each(mut categories) => Self { all: categories.remove(Self::WHOLE), categories },
        }
    }
}

impl From<ByCategory> for Said {
    fn from(ByCategory { all, mut categories }: ByCategory) -> Self {
        match all {
            Some(all) if categories.is_empty() => Self::Whole(all),
            _ => {
                categories.extend(all.map(|all| (ByCategory::WHOLE.to_owned(), all)));
                Self::Each(categories)
            }
        }
    }
}

/// How a [`Patch`] changes what a member says of a channel: null withdraws.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum OptInPatch {
    /// The channel as a whole; the words about single categories stand.
    Whole(Option<bool>),
    /// Each category that is named, and the channel as a whole as [`ByCategory::WHOLE`].
    Each(BTreeMap<String, Option<bool>>),
}

impl OptInPatch {
    /// Each statement: the category, or [`ByCategory::WHOLE`], and what is said. The whole channel comes last, so that what is said of it stands.
    pub fn statements(&self) -> impl Iterator<Item = (&str, Option<bool>)> {
        let (each, whole) = match self {
            Self::Whole(said) => (None, Some(*said)),
            Self::Each(each) => (Some(each), each.get(ByCategory::WHOLE).copied()),
        };
        let each = each.into_iter().flatten().map(|(category, said)| (category.as_str(), *said));
        let each = each.filter(|(category, _)| *category != ByCategory::WHOLE);
        each.chain(whole.map(|said| (ByCategory::WHOLE, said)))
    }
}

/// What is known of a member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Locale (BCP 47).
    pub locale: Option<String>,
    /// Time zone (IANA name).
    pub time_zone: Option<String>,
    /// When the member is not to be disturbed, in place of the project's quiet hours.
    pub quiet_hours: Option<QuietHours>,
    /// Preferred channels, in order; empty means no preference.
    pub channels: Vec<Channel>,
    /// Addresses by channel, the preferred one first.
    pub addresses: BTreeMap<Channel, Vec<Address>>,
    /// Opt-ins by channel and category: given, refused, or absent where the member never said. The fold of the ledger of consent.
    pub opt_ins: BTreeMap<Channel, ByCategory>,
    /// Anything the client keeps; `member.attributes` in templates and conditions.
    pub attributes: serde_json::Map<String, serde_json::Value>,
    /// When the profile was first written.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
    /// Offset of the last applied command.
    pub applied: i64,
}

impl Profile {
    /// To its row.
    #[must_use]
    pub fn into_row(self, project: &str, member: &str) -> MemberRow {
        let json = |v: serde_json::Result<String>| v.ok().filter(|t| t != "{}");
        MemberRow {
            locale: self.locale,
            time_zone: self.time_zone,
            quiet_hours: self.quiet_hours.and_then(|hours| serde_json::to_string(&hours).ok()),
            channels: (!self.channels.is_empty())
                .then(|| self.channels.iter().map(|c| c.name()).collect::<Vec<_>>().join(",")),
            addresses: json(serde_json::to_string(&self.addresses)),
            opt_ins: json(serde_json::to_string(&self.opt_ins)),
            attributes: json(serde_json::to_string(&self.attributes)),
            created_at: Some(self.created_at),
            updated_at: Some(self.updated_at),
            applied: Some(self.applied),
            ..MemberRow::empty(project, member, PROFILE, "")
        }
    }

    /// From its row.
    ///
    /// # Errors
    /// A JSON column does not hold what it should.
    pub fn from_row(row: &MemberRow) -> Result<Self, BadRow> {
        fn json<T: Default + serde::de::DeserializeOwned>(
            column: &'static str,
            text: Option<&String>,
        ) -> Result<T, BadRow> {
            text.map_or_else(
                || Ok(T::default()),
                |t| {
                    serde_json::from_str(t).map_err(|e| BadRow {
                        table: MemberRow::TABLE.name,
                        column,
                        problem: e.to_string(),
                    })
                },
            )
        }
        Ok(Self {
            locale: row.locale.clone(),
            time_zone: row.time_zone.clone(),
            quiet_hours: json("quiet_hours", row.quiet_hours.as_ref())?,
            channels: row
                .channels
                .iter()
                .flat_map(|t| t.split(','))
                .map(str::parse)
                .collect::<Result<_, crate::channel::UnknownName>>()
                .map_err(|e| BadRow { table: MemberRow::TABLE.name, column: "channels", problem: e.to_string() })?,
            addresses: json("addresses", row.addresses.as_ref())?,
            opt_ins: json("opt_ins", row.opt_ins.as_ref())?,
            attributes: json("attributes", row.attributes.as_ref())?,
            created_at: row.created_at.unwrap_or_default(),
            updated_at: row.updated_at.unwrap_or_default(),
            applied: row.applied.unwrap_or(-1),
        })
    }
}

/// A partial change of a profile, already checked: what is absent stays, what is null goes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, from = "Written")]
pub struct Patch {
    /// Addresses by channel, the preferred one first; an empty list removes all of the channel.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub addresses: BTreeMap<Channel, Vec<String>>,
    /// Locale (BCP 47).
    #[serde(skip_serializing_if = "Option::is_none", with = "present")]
    pub locale: Option<Option<String>>,
    /// Time zone (IANA name).
    #[serde(skip_serializing_if = "Option::is_none", with = "present")]
    pub time_zone: Option<Option<String>>,
    /// When the member is not to be disturbed.
    #[serde(skip_serializing_if = "Option::is_none", with = "present")]
    pub quiet_hours: Option<Option<QuietHours>>,
    /// Preferred channels in order.
    #[serde(skip_serializing_if = "Option::is_none", with = "present")]
    pub channels: Option<Option<Vec<Channel>>>,
    /// Opt-ins, merged by channel and category; null withdraws the statement.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub opt_ins: BTreeMap<Channel, OptInPatch>,
    /// Attributes, merged by name; null removes one.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// A patch as any version of ours wrote it: the first one knew two kinds of address, each a field of its own.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Written {
    addresses: BTreeMap<Channel, Vec<String>>,
    #[serde(with = "present")]
    email: Option<Option<String>>,
    #[serde(with = "present")]
    phone: Option<Option<String>>,
    #[serde(with = "present")]
    locale: Option<Option<String>>,
    #[serde(with = "present")]
    time_zone: Option<Option<String>>,
    #[serde(with = "present")]
    quiet_hours: Option<Option<QuietHours>>,
    #[serde(with = "present")]
    channels: Option<Option<Vec<Channel>>>,
    opt_ins: BTreeMap<Channel, OptInPatch>,
    attributes: serde_json::Map<String, serde_json::Value>,
}

impl From<Written> for Patch {
    fn from(written: Written) -> Self {
        let Written { mut addresses, email, phone, locale, time_zone, quiet_hours, channels, opt_ins, attributes } =
            written;
        for (channel, address) in [(Channel::Email, email), (Channel::Sms, phone)] {
            if let Some(address) = address {
                addresses.insert(channel, address.into_iter().collect());
            }
        }
        Self { addresses, locale, time_zone, quiet_hours, channels, opt_ins, attributes }
    }
}

/// Tells a field that is null (`Some(None)`) from one that is absent (`None`).
mod present {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[allow(clippy::option_option)]
    pub(super) fn serialize<T: Serialize, S: Serializer>(
        value: &Option<Option<T>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.as_ref().and_then(Option::as_ref).serialize(serializer)
    }

    #[allow(clippy::option_option)]
    pub(super) fn deserialize<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Option<T>>, D::Error> {
        Option::<T>::deserialize(deserializer).map(Some)
    }
}
