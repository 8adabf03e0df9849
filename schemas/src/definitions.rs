//! Definitions as an operator writes them: one project, its providers, templates and flows. Plain data; `processors` compiles it,
//! `apply` publishes it as one JSON document per project.

use crate::{Channel, Lane};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// All that a project defines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definitions {
    /// The project itself (`project.yaml`).
    pub project: Project,
    /// Providers, by name (`providers.yaml`).
    pub providers: BTreeMap<String, Provider>,
    /// Templates, by name (`templates/NAME.yaml`).
    pub templates: BTreeMap<String, Template>,
    /// Flows, by name (`flows/NAME.yaml`).
    pub flows: BTreeMap<String, Flow>,
}

/// A tenant: its name and defaults.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// 1 to 63 of `[a-z0-9-]`, beginning with a letter.
    pub name: String,
    /// Last of every locale fallback chain.
    pub default_locale: String,
    /// Region (ISO 3166-1 alpha-2) for phones without a country code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
}

/// An account at a provider, which serves one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Which connector: `smtp` or `twilio`; it decides the channel.
    pub kind: String,
    /// Messages per second that the whole cluster may send by this account; absent means no limit of ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// Calls at once, per instance; also the size of a claim window (law 2).
    #[serde(default = "default_in_flight")]
    pub max_in_flight: u32,
    /// What to do with a message that perhaps was sent: send again, or hold it as a dead letter.
    #[serde(default)]
    pub on_ambiguous: OnAmbiguous,
    /// Tries of one delivery, the first included.
    #[serde(default = "default_attempts")]
    pub max_attempts: u32,
    /// Wait before the second try in milliseconds; it doubles with every further one.
    #[serde(default = "default_backoff_ms")]
    pub backoff_ms: u64,
    /// The connector's own settings, checked by the connector.
    #[serde(flatten)]
    pub settings: serde_json::Map<String, serde_json::Value>,
}

impl Provider {
    /// [`Self::max_in_flight`] where it is absent.
    pub const DEFAULT_MAX_IN_FLIGHT: u32 = 64;
    /// [`Self::max_attempts`] where it is absent.
    pub const DEFAULT_MAX_ATTEMPTS: u32 = 8;
    /// [`Self::backoff_ms`] where it is absent.
    pub const DEFAULT_BACKOFF_MS: u64 = 5_000;
}

const fn default_in_flight() -> u32 {
    Provider::DEFAULT_MAX_IN_FLIGHT
}

const fn default_backoff_ms() -> u64 {
    Provider::DEFAULT_BACKOFF_MS
}

const fn default_attempts() -> u32 {
    Provider::DEFAULT_MAX_ATTEMPTS
}

/// See [`Provider::on_ambiguous`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnAmbiguous {
    /// A message too many rather than one too few.
    #[default]
    Resend,
    /// One too few rather than one too many; an operator replays the dead letter.
    Hold,
}

/// What to say about one subject, by channel and locale.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Variants by channel, then by locale (BCP 47).
    pub channels: BTreeMap<Channel, BTreeMap<String, Variant>>,
    /// An example of the event's data: `apply` renders every variant with it, so that a variable which it lacks is found there.
    /// A `member` in it says what every member has beside an id: `name`, `locale`, `time_zone`, `attributes`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub sample: serde_json::Map<String, serde_json::Value>,
}

/// One message text; which fields it needs depends on the channel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// E-mail: subject.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// E-mail: HTML body; variables are escaped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// E-mail: text body. SMS: the body.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
}

/// What follows an event. In this version: one notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// Version, raised by the author when the flow changes its meaning; part of the notification's id.
    #[serde(default = "default_version")]
    pub version: i32,
    /// CloudEvents type that triggers it.
    pub on: String,
    /// CEL condition over `event` (`id`, `source`, `type`, `subject`, `time`, `data`); absent means always. `time` is RFC 3339 text in UTC with
    /// milliseconds, so that comparing texts compares times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// What to tell whom.
    pub notify: Notify,
}

impl Flow {
    /// [`Self::version`] where it is absent.
    pub const DEFAULT_VERSION: i32 = 1;
}

const fn default_version() -> i32 {
    Flow::DEFAULT_VERSION
}

/// The notify step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// Template by name.
    pub template: String,
    /// Lane.
    pub lane: Lane,
    /// Channels to choose from, in order; empty leaves it to the member's preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// Seconds after the event's acceptance when it is no longer worth sending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<u64>,
}
