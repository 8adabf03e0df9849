//! Definitions as an operator writes them: one project, its providers, events, templates with their parts, types and flows. Plain data;
//! `processors` compiles it, `apply` publishes it as one JSON document per project.

use crate::{Channel, Lane};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use std::{collections::BTreeMap, path::PathBuf};

/// All that a project defines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definitions {
    /// The project itself (`project.yaml`).
    pub project: Project,
    /// Providers, by name (`providers.yaml`).
    pub providers: BTreeMap<String, Provider>,
    /// Events whose data is declared, by name (`events/NAME.yaml`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub events: BTreeMap<String, DeclaredEvent>,
    /// Texts that templates include or import, by file (`footer.html` of `partials/footer.html`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub partials: BTreeMap<String, String>,
    /// Texts that templates extend, by file (`letter.html` of `layouts/letter.html`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub layouts: BTreeMap<String, String>,
    /// Templates, by name (`templates/NAME.yaml`).
    pub templates: BTreeMap<String, Template>,
    /// Transactional types, by id (`types/ID.yaml`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub types: BTreeMap<String, MessageType>,
    /// Flows, by name (`flows/NAME.yaml`).
    pub flows: BTreeMap<String, Flow>,
}

/// A tenant: its name and defaults.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// 1 to 63 of `[a-z0-9-]`, beginning with a letter.
    pub name: String,
    /// Last of every locale fallback chain.
    pub default_locale: String,
    /// Region (ISO 3166-1 alpha-2) for phones without a country code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_region: Option<String>,
    /// Time zone (IANA name) of members who have none of their own; absent means UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// When members who have no quiet hours of their own are not to be disturbed, by the clock on their wall.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_hours: Option<QuietHours>,
    /// Days (`YYYY-MM-DD`) on which nothing of the bulk lane goes out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub holidays: Vec<String>,
    /// How many messages a member gets at most, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub caps: BTreeMap<String, Cap>,
    /// What members may want or not, by name. [`Category::MARKETING`] and [`Category::TRANSACTIONAL`] are there without being declared.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, Category>,
    /// Whether a new e-mail address has to be confirmed by its owner where it comes with an opt-in.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub double_opt_in: bool,
    /// The order of channels, where neither flow nor member names one and no score decides; what is missing comes after, as in [`Channel::ALL`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// How channels are compared, where neither flow nor member names one; absent: their order decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing: Option<Routing>,
    /// Whether it is kept by member and channel when something was last sent, delivered, opened and clicked. [`Project::routing`] keeps it, too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub engagement: bool,
    /// How links are followed and openings seen; absent: neither is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
    /// What members may have as attributes; none is promised, so a template gives each a default. Without this, templates may name any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<BTreeMap<String, Schema>>,
    /// Attributes by which members can be found, at most [`Project::MAX_SEARCH`]. What is added here finds the members that are written from then on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

impl Project {
    /// Most attributes by which members can be found: each is a row of a table for every member who has it.
    pub const MAX_SEARCH: usize = 10;
}

/// A kind of message as members see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Category {
    /// What members read of it.
    pub title: Title,
    /// Whether they have to ask for it, and may refuse it.
    pub consent: Consent,
}

impl Category {
    /// Category of the bulk lane's flows that name none; it needs consent unless it is declared otherwise.
    pub const MARKETING: &str = "marketing";
    /// Category of the transactional lane's flows that name none; consent is assumed unless it is declared otherwise.
    pub const TRANSACTIONAL: &str = "transactional";

    /// The categories that are there without being declared.
    #[must_use]
    pub fn built_in() -> BTreeMap<String, Self> {
        let of = |title: &str, consent| Self { title: Title::Plain(title.to_owned()), consent };
        BTreeMap::from([
            (Self::MARKETING.to_owned(), of("Marketing", Consent::Required)),
            (Self::TRANSACTIONAL.to_owned(), of("Transactional", Consent::Assumed)),
        ])
    }
}

/// Whether a member must have asked for a category.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consent {
    /// Nothing is sent without an opt-in.
    Required,
    /// It is sent unless the member refused.
    Assumed,
    /// It is sent even where the member refused: what the law or the contract demands.
    Unrefusable,
}

impl Consent {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Required, Self::Assumed, Self::Unrefusable];

    /// The name in definitions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Assumed => "assumed",
            Self::Unrefusable => "unrefusable",
        }
    }
}

/// A text for people, in one language or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Title {
    /// The same for everybody.
    Plain(String),
    /// By locale (BCP 47); [`Title::OTHERS`] is for whoever has none of them.
    ByLocale(BTreeMap<String, String>),
}

impl Title {
    /// The locale "undetermined" of BCP 47. Compiling sets it to the project's default locale's text where it is absent.
    pub const OTHERS: &str = "und";

    /// The text for a locale: its own, else its language's, else that for all others.
    #[must_use]
    pub fn of(&self, locale: Option<&str>) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::ByLocale(texts) => {
                // `es-AR`, then `es`.
                let mut wanted = locale;
                while let Some(locale) = wanted {
                    if let Some(text) = texts.get(locale) {
                        return text;
                    }
                    wanted = locale.rsplit_once('-').map(|(wider, _)| wider);
                }
                texts.get(Self::OTHERS).or_else(|| texts.values().next()).map_or("", String::as_str)
            }
        }
    }
}

/// A part of the day.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuietHours {
    /// First minute, `HH:MM`.
    pub from: String,
    /// First minute that is none of it, `HH:MM`; before `from`, it is the next morning's; the same as `from`, there are none.
    pub to: String,
}

/// When a flow's messages may go out, by the clock on the member's wall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// First minute, `HH:MM`.
    pub from: String,
    /// First minute that is none of it, `HH:MM`, later than `from`.
    pub to: String,
    /// Days of the week; none named means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub days: Vec<Weekday>,
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs)]
pub enum Weekday {
    Monday,
    Tuesday,
    Wednesday,
    Thursday,
    Friday,
    Saturday,
    Sunday,
}

impl Weekday {
    /// All of them, as ISO 8601 counts.
    pub const ALL: [Self; 7] =
        [Self::Monday, Self::Tuesday, Self::Wednesday, Self::Thursday, Self::Friday, Self::Saturday, Self::Sunday];

    /// The name in definitions.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Monday => "monday",
            Self::Tuesday => "tuesday",
            Self::Wednesday => "wednesday",
            Self::Thursday => "thursday",
            Self::Friday => "friday",
            Self::Saturday => "saturday",
            Self::Sunday => "sunday",
        }
    }
}

/// How many messages of some categories a member gets at most.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cap {
    /// So many.
    pub most: u32,
    /// Within which time.
    pub per: Per,
    /// Categories that count, and that it holds back. A message of another category is never held back by it.
    pub categories: Vec<String>,
    /// Channels that count; none named means all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// What becomes of a message that is one too many.
    #[serde(default)]
    pub exceed: Exceed,
    /// Priority → so many of the places are kept for messages of at least that priority, so that the less important do not starve them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub keep: BTreeMap<u8, u32>,
}

/// The time of a [`Cap`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// A day of the member's calendar.
    Day,
    /// A week of the member's calendar, from Monday.
    Week,
    /// So many hours before now.
    Hours(u32),
}

/// See [`Cap::exceed`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exceed {
    /// It is not sent.
    #[default]
    Drop,
    /// It waits until there is room, unless it expires before.
    Defer,
    /// It waits as with [`Exceed::Defer`], and what comes meanwhile goes out with it. Every flow that the cap counts has a [`Digest`].
    Digest,
}

/// How the channels that could be used are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Routing {
    /// How much each part of a score counts.
    #[serde(default)]
    pub weights: Weights,
    /// What a message by a channel costs, in the operator's currency, 0 to 1000; a channel that is not named costs nothing.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub costs: BTreeMap<Channel, Number>,
}

/// The weights of a score's parts, relative to each other, 0 to 1000. At least one is above 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weights {
    /// How sure it is that a message arrives.
    #[serde(default = "Weights::default_weight")]
    pub reach: Number,
    /// How much the member does with what comes by the channel.
    #[serde(default = "Weights::default_weight")]
    pub engagement: Number,
    /// How cheap a message is.
    #[serde(default = "Weights::default_weight")]
    pub cost: Number,
}

impl Weights {
    /// Each weight where it is absent: all parts count alike.
    #[must_use]
    pub fn default_weight() -> Number {
        1.into()
    }
}

impl Default for Weights {
    fn default() -> Self {
        let one = Self::default_weight;
        Self { reach: one(), engagement: one(), cost: one() }
    }
}

/// Links of messages that lead through us, so that openings, clicks and wishes to unsubscribe become receipts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tracking {
    /// Public address of the project's tracking domain, which leads to the HTTP role; links begin with it.
    pub base_url: String,
    /// What links are sealed with.
    pub key: Secret,
    /// Keys that links were sealed with before: those open still, nothing new is sealed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous_keys: Vec<Secret>,
    /// E-mail carries a picture that tells when it is opened.
    #[serde(default = "yes")]
    pub opens: bool,
    /// Links tell when they are followed.
    #[serde(default = "yes")]
    pub clicks: bool,
    /// Whose messages carry such links and report their delivery.
    #[serde(default = "Tracking::default_channels")]
    pub channels: Vec<Channel>,
    /// Whose e-mail offers to unsubscribe by one click (RFC 8058).
    #[serde(default = "Tracking::default_unsubscribe")]
    pub unsubscribe: Vec<Lane>,
}

impl Tracking {
    /// [`Self::channels`] where it is absent: all that have links but SMS, whose length costs money.
    #[must_use]
    pub fn default_channels() -> Vec<Channel> {
        vec![Channel::Email, Channel::Whatsapp, Channel::Telegram, Channel::WebPush, Channel::AppPush]
    }

    /// [`Self::unsubscribe`] where it is absent.
    #[must_use]
    pub fn default_unsubscribe() -> Vec<Lane> {
        vec![Lane::Bulk]
    }
}

const fn yes() -> bool {
    true
}

/// Where a secret is to be had: definitions and configuration name a place, never the value (law 8). The doors fetch it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; a line break at its end is dropped.
    File(PathBuf),
}

/// What the data of an event looks like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclaredEvent {
    /// CloudEvents type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Schema of the data.
    pub data: Schema,
    /// Examples by name: `apply` renders every template of the event's flows with each, and a preview shows them. The longest that the
    /// producer may send belongs here too, because limits are checked with these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, Sample>,
}

/// An example of an event and of the member whom it is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// The event's data.
    pub data: serde_json::Value,
    /// What the member has beside an id: `name`, `locale`, `time_zone`, `attributes`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub member: serde_json::Map<String, serde_json::Value>,
}

/// What a value looks like: the part of JSON Schema (2020-12) that says which fields there are. Properties that are not named are let
/// through, and unknown to templates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// What kind of value; absent means any.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<ValueKind>,
    /// In words, for whoever writes templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Of an object: its fields.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub properties: BTreeMap<String, Schema>,
    /// Of an object: the fields that are always there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required: Vec<String>,
    /// Of an array: each of its items.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<Box<Schema>>,
    /// The only values.
    #[serde(rename = "enum", default, skip_serializing_if = "Vec::is_empty")]
    pub choices: Vec<serde_json::Value>,
    /// Of a string.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<ValueFormat>,
}

/// See [`Schema::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ValueKind {
    /// Text.
    String,
    /// Number without a fraction.
    Integer,
    /// Number.
    Number,
    /// True or false.
    Boolean,
    /// Fields by name.
    Object,
    /// Values in order.
    Array,
}

impl ValueKind {
    /// Every kind with its name.
    pub const ALL: [(&str, Self); 6] = [
        ("string", Self::String),
        ("integer", Self::Integer),
        ("number", Self::Number),
        ("boolean", Self::Boolean),
        ("object", Self::Object),
        ("array", Self::Array),
    ];

    /// Name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// See [`Schema::format`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ValueFormat {
    /// RFC 3339 full-date: `2026-03-01`.
    Date,
    /// RFC 3339 date-time: `2026-03-01T12:00:00Z`.
    DateTime,
    /// Absolute URL.
    Uri,
}

impl ValueFormat {
    /// Every format with its name.
    pub const ALL: [(&str, Self); 3] = [("date", Self::Date), ("date-time", Self::DateTime), ("uri", Self::Uri)];
}

/// An account at a provider, which serves one channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Provider {
    /// Which connector, such as `smtp`; it decides the channel.
    pub kind: String,
    /// Its part of the channel's addresses beside the channel's other providers: an address stays with one provider for as long as that
    /// may be called. 0 takes over only where no other can.
    #[serde(default = "default_weight", skip_serializing_if = "is_default_weight")]
    pub weight: u32,
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
    /// [`Self::weight`] where it is absent.
    pub const DEFAULT_WEIGHT: u32 = 1;
    /// [`Self::max_in_flight`] where it is absent.
    pub const DEFAULT_MAX_IN_FLIGHT: u32 = 64;
    /// [`Self::max_attempts`] where it is absent.
    pub const DEFAULT_MAX_ATTEMPTS: u32 = 8;
    /// [`Self::backoff_ms`] where it is absent.
    pub const DEFAULT_BACKOFF_MS: u64 = 5_000;
}

const fn default_weight() -> u32 {
    Provider::DEFAULT_WEIGHT
}

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so.
const fn is_default_weight(weight: &u32) -> bool {
    *weight == Provider::DEFAULT_WEIGHT
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
    /// Where the event is not declared, an example of its data: `apply` renders every variant with it, so that a variable which it lacks is
    /// found there. A `member` in it says what every member has beside an id: `name`, `locale`, `time_zone`, `attributes`.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub sample: serde_json::Map<String, serde_json::Value>,
}

/// What is said on one channel in one locale; which fields it needs depends on the channel. Every text in it is a template, but for the
/// names that a provider knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Variant {
    /// E-mail: subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// Push: first line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// E-mail: HTML body. Telegram: the message, in the few tags that it knows. Variables are escaped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub html: Option<String>,
    /// E-mail: text body. SMS, push: the body. WhatsApp: free text, for as long as it is allowed. Telegram: the message, where it has no `html`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Webhook: the document, JSON; variables become JSON values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
    /// Push: where a click leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Push: small picture, by URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icon: Option<String>,
    /// Push: large picture, by URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// WhatsApp: media above the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<Media>,
    /// WhatsApp: the approved template.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub template: Option<ApprovedTemplate>,
    /// WhatsApp, Telegram: links or replies below the text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Button>,
    /// E-mail: files.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attachments: Vec<Attachment>,
    /// Push: more for the app.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
}

/// A template that the provider has approved, by its name there, with what is put into it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovedTemplate {
    /// Name at the provider.
    pub name: String,
    /// Language code at the provider, such as `es_AR`.
    pub language: String,
    /// Values of the body's placeholders, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parameters: Vec<String>,
    /// Values of the placeholders in its URL buttons, by button in order; null for a button without one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buttons: Vec<Option<String>>,
}

/// A file of an e-mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// File name; of an inline image also its content id.
    pub name: String,
    /// Where it is fetched from (https), or the file itself as a `data:` URL (RFC 2397).
    pub url: String,
    /// Shown within the HTML body (`cid:NAME`), not below it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub inline: bool,
}

/// A link or reply below a text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Button {
    /// What it says.
    pub text: String,
    /// Where it leads; without one it is a quick reply, where the channel has such.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A picture, film or document by its URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Media {
    /// What it is.
    pub kind: MediaKind,
    /// Where the provider fetches it: https.
    pub url: String,
}

/// See [`Media::kind`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// Picture.
    Image,
    /// Film.
    Video,
    /// Document.
    Document,
}

impl Variant {
    /// Every text that is a template, with its place (`html`, `buttons.0.url`), always in the same order.
    pub fn texts_mut(&mut self) -> Vec<(Place<'_>, &mut String)> {
        let Self { subject, title, html, text, json, url, icon, image, header, template, buttons, attachments, data } =
            self;
        let single = [
            ("subject", subject),
            ("title", title),
            ("html", html),
            ("text", text),
            ("json", json),
            ("url", url),
            ("icon", icon),
            ("image", image),
        ];
        let mut texts: Vec<(Place<'_>, &mut String)> =
            single.into_iter().filter_map(|(name, text)| Some((Place(name, None, ""), text.as_mut()?))).collect();
        texts.extend(header.iter_mut().map(|media| (Place("header.url", None, ""), &mut media.url)));
        if let Some(ApprovedTemplate { parameters, buttons, .. }) = template {
            let parameters = parameters.iter_mut().enumerate();
            texts.extend(parameters.map(|(n, text)| (Place("template.parameters", Some(n), ""), text)));
            let buttons = buttons.iter_mut().enumerate();
            texts
                .extend(buttons.filter_map(|(n, text)| Some((Place("template.buttons", Some(n), ""), text.as_mut()?))));
        }
        for (n, Button { text, url }) in buttons.iter_mut().enumerate() {
            texts.push((Place("buttons", Some(n), "text"), text));
            texts.extend(url.as_mut().map(|url| (Place("buttons", Some(n), "url"), url)));
        }
        for (n, Attachment { name, url, .. }) in attachments.iter_mut().enumerate() {
            texts.push((Place("attachments", Some(n), "name"), name));
            texts.push((Place("attachments", Some(n), "url"), url));
        }
        texts.extend(data.iter_mut().map(|(key, text)| (Place("data", None, key.as_str()), text)));
        texts
    }
}

/// Where a text stands in a [`Variant`]: field, index within it, name within that. Written with dots between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a>(pub &'static str, pub Option<usize>, pub &'a str);

impl std::fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)?;
        if let Some(index) = self.1 {
            write!(f, ".{index}")?;
        }
        if self.2.is_empty() { Ok(()) } else { write!(f, ".{}", self.2) }
    }
}

/// A kind of message that is told in one of several ways; which one a member gets depends on the member and the type alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MessageType {
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Channels to choose from, in order, where a flow names none; empty leaves it to the member's preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// The provider that sends its templates on the channel that it serves, where it is to be a certain one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// The templates, of which each member gets one.
    pub templates: Vec<Weighted>,
}

/// A template with its share of the members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// Template by name.
    pub template: String,
    /// Its share is its weight by the sum of all; 0 is nobody.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

impl Weighted {
    /// [`Self::weight`] where it is absent: as of providers.
    pub const DEFAULT_WEIGHT: u32 = Provider::DEFAULT_WEIGHT;
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

#[allow(clippy::trivially_copy_pass_by_ref)] // serde asks so.
const fn is_default_priority(priority: &u8) -> bool {
    *priority == 0
}

/// The notify step: a template, or a type, which chooses its template by member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// Template by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Type by id.
    #[serde(rename = "type", default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Lane.
    pub lane: Lane,
    /// What kind of message it is, for consent and caps: `transactional` or `marketing` by the lane where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// 0 to 9: the greater, the more important, where a cap keeps places.
    #[serde(default, skip_serializing_if = "is_default_priority")]
    pub priority: u8,
    /// Whether the member's quiet hours and the project's holidays are kept; by default in the bulk lane alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet: Option<bool>,
    /// When it may go out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
    /// The flow's messages leave evenly over so many seconds, each member's at its own moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spread_seconds: Option<u64>,
    /// Channels to choose from, in order; empty leaves it to the member's preference.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub channels: Vec<Channel>,
    /// Seconds after the event's acceptance when it is no longer worth sending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_after_seconds: Option<u64>,
    /// Another channel tries what does not arrive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Many events go out as one message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
}

/// What a flow tells a member within a while from the first event on is one message. Its data is `{"items": [the data of each event],
/// "count": how many there were}`; of very many, the data of the first ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Digest {
    /// Seconds from the first event on. With 0 each event goes out at once, and only what must wait (quiet hours, a window, a cap) gathers what
    /// comes meanwhile.
    pub after_seconds: u64,
    /// A field of the event's data, with dots: events that differ in it are gathered apart, those without it together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// So many events go out at once, without waiting for the time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
}

/// When the next channel has its turn: at once where a channel failed for good, else after a while without a sign that the message arrived.
/// Where a channel never reports that, the while alone decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// Seconds that each channel has for it.
    pub after_seconds: u64,
}
