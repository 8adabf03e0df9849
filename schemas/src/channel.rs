//! Channels and lanes: the two closed enums that name topics.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A way to reach a member. The provider behind it is configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// E-mail.
    Email,
    /// Text message.
    Sms,
    /// WhatsApp.
    Whatsapp,
    /// Telegram bot.
    Telegram,
    /// Notification of a browser.
    WebPush,
    /// Notification of an app on a phone.
    AppPush,
    /// A signed HTTP call: whatever else an operator connects.
    Webhook,
}

impl Channel {
    /// Every channel, in the default order of the router (product row D1).
    pub const ALL: [Self; 7] =
        [Self::Email, Self::Sms, Self::Whatsapp, Self::Telegram, Self::WebPush, Self::AppPush, Self::Webhook];

    /// The name in topics, templates, metrics and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Email => "email",
            Self::Sms => "sms",
            Self::Whatsapp => "whatsapp",
            Self::Telegram => "telegram",
            Self::WebPush => "web_push",
            Self::AppPush => "app_push",
            Self::Webhook => "webhook",
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Channel {
    type Err = UnknownName;
    fn from_str(text: &str) -> Result<Self, UnknownName> {
        Self::ALL.into_iter().find(|c| c.name() == text).ok_or_else(|| UnknownName {
            what: "channel",
            given: text.into(),
            known: Self::ALL.map(Self::name).join(", "),
        })
    }
}

/// Urgent is never behind bulk (law 4): every hop has both lanes and serves the transactional one first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// One-time codes, receipts, alerts: what a member waits for.
    Transactional,
    /// Everything that may wait: campaigns, digests, tips.
    #[default]
    Bulk,
}

impl Lane {
    /// Both lanes, the urgent one first.
    pub const ALL: [Self; 2] = [Self::Transactional, Self::Bulk];

    /// The name in topics and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transactional => "transactional",
            Self::Bulk => "bulk",
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name outside a closed set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} `{given}`: use one of {known}")]
pub struct UnknownName {
    /// The set's name.
    pub what: &'static str,
    /// The text that was met.
    pub given: String,
    /// The names that would do, separated by commas.
    pub known: String,
}
