//! A project's definitions, checked as a whole and compiled for the hot path.
//! Nothing is loaded here: `src/definitions.rs` reads folders, the `definitions` topic brings what was published.

mod choice;
mod condition;
mod names;
mod occasions;
mod schema;
mod validate;

pub use names::{canonical_locale, did_you_mean, is_project_name, name_problem, nearest};
pub use occasions::Occasion;
pub use schema::Misfit;

use crate::{
    content::{Content, ContentError, Rendered},
    hours::Hours,
    score::Scoring,
};
use bellwether_schemas::{
    Channel, Lane,
    definitions::{Category, Consent, Definitions, Digest, Flow, MessageType, Provider, Schema, Weighted},
    records::{Event, Notification},
};
use condition::{Condition, variables};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    sync::Arc,
    time::Duration,
};

/// One thing that is wrong with definitions.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Finding {
    /// Where: the fields from the top, with dots between (`templates.order_placed.channels.email.es.html`); what is missing is named by its place.
    pub path: String,
    /// Line within the text at `path`, from 1.
    pub line: Option<u32>,
    /// Column within that line, from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

/// `path:line:column: problem; remedy`.
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path)?;
        for part in [self.line, self.column].into_iter().flatten() {
            write!(f, ":{part}")?;
        }
        write!(f, ": {}; {}", self.problem, self.remedy)
    }
}

/// What a connector says about a provider's settings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderCheck {
    /// The channel that this kind of provider serves; `None` for a kind that is not known.
    pub channel: Option<Channel>,
    /// What the addresses that it serves begin with; empty where it serves all of the channel.
    pub prefix: &'static str,
    /// What is wrong with its settings; for an unknown kind, which there are.
    pub problems: Vec<SettingProblem>,
}

/// What is wrong with one setting of a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingProblem {
    /// The setting, with dots where it is nested; empty for the whole.
    pub field: String,
    /// What is wrong and how to mend it.
    pub problem: String,
}

/// Asks the connectors about a provider's kind and settings; passed in, because decisions do not know the doors.
pub type CheckProvider<'a> = &'a dyn Fn(&str, &Map<String, Value>) -> ProviderCheck;

/// A project's definitions, ready for use.
pub struct Compiled {
    /// Project.
    pub project: String,
    /// Version as published; 0 for what is not published.
    pub version: i32,
    /// As the operator wrote it.
    pub document: Arc<Definitions>,
    flows_by_type: HashMap<String, Vec<Arc<CompiledFlow>>>,
    providers: BTreeMap<Channel, Vec<String>>,
    /// What the addresses of a provider begin with, of those that do not serve all of their channel.
    prefixes: HashMap<String, &'static str>,
    /// Providers by template, where a type names its sender.
    senders: HashMap<String, String>,
    /// Schemas of the declared events, by type.
    schemas: HashMap<String, Schema>,
    content: Content,
    /// Of each flow, by name.
    terms: HashMap<String, Terms>,
    /// Of what no flow asked for that is there: transactional, bulk.
    other_terms: [Terms; 2],
    zone: TimeZone,
    /// Declared, built in, or only used by flows.
    categories: BTreeMap<String, Category>,
    scoring: Option<Scoring>,
    remarks: Vec<Finding>,
}

/// How a flow's notifications are treated by the router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    /// What members consent to, and what caps count it as.
    pub category: String,
    /// 0 to 9: the greater, the more important.
    pub priority: u8,
    /// When it may go out.
    pub hours: Hours,
    /// Over which time a flow's messages are spread.
    pub spread: Duration,
    /// How long a channel has before the next one tries.
    pub fallback: Option<Duration>,
    /// How what it tells is gathered into one message.
    pub digest: Option<Digest>,
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compiled")
            .field("project", &self.project)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A flow, ready for use.
#[derive(Debug)]
pub struct CompiledFlow {
    /// Name.
    pub name: String,
    /// Version, part of the ids of its notifications.
    pub version: i32,
    /// Lane.
    pub lane: Lane,
    /// Channels to choose from, in order; empty leaves it to the member's preference.
    pub channels: Vec<Channel>,
    /// Seconds after the event's acceptance when it is no longer worth sending.
    pub expires_after_seconds: Option<u64>,
    told: Told,
    condition: Option<Condition>,
}

/// What a flow tells.
#[derive(Debug)]
enum Told {
    Template(String),
    /// A type by id, which gives each member one of its templates.
    Type(String, Vec<Weighted>),
}

impl CompiledFlow {
    /// What of a flow's type is missing has been found before.
    fn new(document: &Definitions, name: &str, flow: &Flow, condition: Option<Condition>) -> Self {
        let notify = &flow.notify;
        let kind = notify.kind.as_ref().and_then(|id| document.types.get_key_value(id));
        let of_type = kind.map_or(&[][..], |(_, kind)| &kind.channels);
        let channels = if notify.channels.is_empty() { of_type } else { &notify.channels };
        let told = match kind {
            Some((id, kind)) => Told::Type(id.clone(), kind.templates.clone()),
            None => Told::Template(notify.template.clone().unwrap_or_default()),
        };
        Self {
            name: name.to_owned(),
            version: flow.version,
            lane: notify.lane,
            channels: channels.to_vec(),
            expires_after_seconds: notify.expires_after_seconds,
            told,
            condition,
        }
    }

    /// The template that a member gets: always the same, as long as the type's weights are.
    #[must_use]
    pub fn template(&self, member: &str) -> &str {
        match &self.told {
            Told::Template(name) => name,
            Told::Type(id, templates) => choice::chosen(id, member, templates).unwrap_or_default(),
        }
    }

    /// Whether the flow takes the event. `data` is the event's `data`, parsed. For all flows of an event at once, see [`Compiled::triggered`].
    ///
    /// # Errors
    /// The condition cannot be evaluated for this event, or gives no boolean: a dead letter, never a silent "no".
    pub fn admits(&self, event: &Event, data: &Value) -> Result<bool, String> {
        self.condition.as_ref().map_or(Ok(true), |condition| condition.holds(&variables(event, data)))
    }
}

impl Compiled {
    /// Checks definitions as a whole and compiles them.
    ///
    /// # Errors
    /// Everything that is wrong, ordered by path.
    pub fn new(document: Definitions, version: i32, check: CheckProvider<'_>) -> Result<Self, Vec<Finding>> {
        let (compiled, findings) = Self::draft(document, version, check);
        if findings.is_empty() { Ok(compiled) } else { Err(findings) }
    }

    /// As much of definitions as can be compiled, with all that is wrong, ordered by path. For looking at, not for sending.
    #[must_use]
    pub fn draft(document: Definitions, version: i32, check: CheckProvider<'_>) -> (Self, Vec<Finding>) {
        let checked = validate::validate(&document, check);
        let schemas = document.events.values().map(|event| (event.kind.clone(), event.data.clone())).collect();
        let of_type = |kind: &MessageType| {
            let sender = kind.sender.clone();
            let templates = kind.templates.iter().map(|weighted| weighted.template.clone());
            templates.filter_map(move |template| Some((template, sender.clone()?))).collect::<Vec<_>>()
        };
        let senders = document.types.values().flat_map(of_type).collect();
        let scoring = document.project.routing.as_ref().map(Scoring::new);
        let compiled = Self {
            senders,
            project: document.project.name.clone(),
            version,
            document: Arc::new(document),
            flows_by_type: checked.flows_by_type,
            providers: checked.providers,
            prefixes: checked.prefixes,
            schemas,
            content: checked.content,
            terms: checked.terms,
            other_terms: checked.other_terms,
            zone: checked.zone,
            categories: checked.categories,
            scoring,
            remarks: checked.remarks,
        };
        (compiled, checked.findings)
    }

    /// Where an event's data is not what is declared of its type. Data of a type that is not declared may be anything.
    #[must_use]
    pub fn misfit(&self, event_type: &str, data: &Value) -> Option<Misfit> {
        self.schemas.get(event_type).and_then(|schema| schema::misfit(schema, data))
    }

    /// Whether the data of a type is declared at all.
    #[must_use]
    pub fn is_declared(&self, event_type: &str) -> bool {
        self.schemas.contains_key(event_type)
    }

    /// On which occasions a template is used, with samples.
    #[must_use]
    pub fn occasions(&self, template: &str) -> Vec<Occasion> {
        occasions::occasions(&self.document, template)
    }

    /// What is allowed and yet worth a look, such as a text message that costs more than its author may think.
    #[must_use]
    pub fn remarks(&self) -> &[Finding] {
        &self.remarks
    }

    /// Flows that an event type triggers, by name.
    #[must_use]
    pub fn flows(&self, event_type: &str) -> &[Arc<CompiledFlow>] {
        self.flows_by_type.get(event_type).map_or(&[], Vec::as_slice)
    }

    /// Every flow that the event's type triggers, with the answer of its condition. The condition's variables are made once, and only if
    /// a flow has a condition.
    ///
    /// # Errors
    /// Each answer is as in [`CompiledFlow::admits`].
    pub fn triggered<'a>(
        &'a self,
        event: &'a Event,
        data: &'a Value,
    ) -> impl Iterator<Item = (&'a Arc<CompiledFlow>, Result<bool, String>)> {
        let mut context = None;
        self.flows(&event.kind).iter().map(move |flow| {
            let admits = flow
                .condition
                .as_ref()
                .map_or(Ok(true), |condition| condition.holds(context.get_or_insert_with(|| variables(event, data))));
            (flow, admits)
        })
    }

    /// Names of the providers that serve a channel, sorted.
    #[must_use]
    pub fn providers(&self, channel: Channel) -> &[String] {
        self.providers.get(&channel).map_or(&[], Vec::as_slice)
    }

    /// The providers that can serve an address of a channel, in no order.
    fn serving(&self, channel: Channel, address: &str) -> impl Iterator<Item = (&str, &Provider)> {
        let serves = move |name: &&String| self.prefixes.get(*name).is_none_or(|prefix| address.starts_with(prefix));
        let names = self.providers(channel).iter().filter(serves);
        names.filter_map(|name| self.document.providers.get(name).map(|provider| (name.as_str(), provider)))
    }

    /// Whether any provider can serve an address of a channel.
    #[must_use]
    pub fn serves(&self, channel: Channel, address: &str) -> bool {
        self.serving(channel, address).next().is_some()
    }

    /// The provider that an address of a channel is served by: the first of the address's own order that may be called, or, where none may,
    /// the first. `may_call` is asked only where there is a choice.
    ///
    /// The order is that of weighted rendezvous hashing: each address draws an exponential lot for each provider, of the rate of its weight,
    /// and the smallest comes first. So an address keeps its provider for as long as that is there, a weight is a part of the addresses, and a
    /// changed weight moves no address but to or from that provider. What has weight 0 comes after all that has one.
    #[must_use]
    pub fn provider_of(
        &self,
        channel: Channel,
        address: &str,
        may_call: impl Fn(&str) -> bool,
    ) -> Option<(&str, &Provider)> {
        self.first_of(channel, address, None, may_call)
    }

    /// As [`Self::provider_of`], for a template: where its type names a sender that serves the address, that comes first.
    #[must_use]
    pub fn sender_of(
        &self,
        template: &str,
        channel: Channel,
        address: &str,
        may_call: impl Fn(&str) -> bool,
    ) -> Option<(&str, &Provider)> {
        self.first_of(channel, address, self.senders.get(template).map(String::as_str), may_call)
    }

    fn first_of(
        &self,
        channel: Channel,
        address: &str,
        sender: Option<&str>,
        may_call: impl Fn(&str) -> bool,
    ) -> Option<(&str, &Provider)> {
        let mut order: Vec<_> = self.serving(channel, address).collect();
        if order.len() > 1 {
            order.sort_by(|a, b| {
                let is_sender = |name: &str| sender == Some(name);
                let by_lot = || lot(a, address).partial_cmp(&lot(b, address)).unwrap_or(Ordering::Equal);
                is_sender(b.0).cmp(&is_sender(a.0)).then_with(by_lot)
            });
            if let Some(at) = order.iter().position(|(name, _)| may_call(name)) {
                return Some(order.swap_remove(at));
            }
        }
        order.into_iter().next()
    }

    /// How a notification is treated, by what its flow says now.
    #[must_use]
    pub fn terms(&self, notification: &Notification) -> &Terms {
        let [transactional, bulk] = &self.other_terms;
        let other = if notification.lane == Lane::Transactional { transactional } else { bulk };
        self.terms.get(&notification.flow).unwrap_or(other)
    }

    /// The categories that members may want or not, by name.
    pub fn categories(&self) -> impl Iterator<Item = (&str, &Category)> {
        self.categories.iter().map(|(name, category)| (name.as_str(), category))
    }

    /// What a category needs of a member. What is not known needs to be asked for.
    #[must_use]
    pub fn consent_of(&self, category: &str) -> Consent {
        self.categories.get(category).map_or(Consent::Required, |category| category.consent)
    }

    /// The zone of members who have none of their own.
    #[must_use]
    pub const fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// How channels are compared, where the project wants it.
    #[must_use]
    pub const fn scoring(&self) -> Option<&Scoring> {
        self.scoring.as_ref()
    }

    /// The templates that nobody gets without an opt-in: those of flows whose categories all need one.
    #[must_use]
    pub fn templates_by_opt_in(&self) -> BTreeSet<&str> {
        let mut used: BTreeMap<&str, bool> = BTreeMap::new();
        for (name, Flow { notify, .. }) in &self.document.flows {
            let needs = |terms: &Terms| self.consent_of(&terms.category) == Consent::Required;
            let is_needed = self.terms.get(name).is_some_and(needs);
            let kind = notify.kind.as_ref().and_then(|id| self.document.types.get(id));
            let of_type = kind.into_iter().flat_map(|kind| kind.templates.iter().map(|one| one.template.as_str()));
            for template in notify.template.as_deref().into_iter().chain(of_type) {
                *used.entry(template).or_insert(true) &= is_needed;
            }
        }
        used.into_iter().filter_map(|(template, is_needed)| is_needed.then_some(template)).collect()
    }

    /// Whether it is kept what came of messages by member and channel.
    #[must_use]
    pub fn keeps_engagement(&self) -> bool {
        self.scoring.is_some() || self.document.project.engagement
    }

    /// Whether a template can speak on a channel at all.
    #[must_use]
    pub fn has_variant(&self, template: &str, channel: Channel) -> bool {
        self.content.has_variant(template, channel)
    }

    /// Renders a message; see [`Content::render`].
    ///
    /// # Errors
    /// See [`ContentError`].
    pub fn render(
        &self,
        template: &str,
        channel: Channel,
        locale: Option<&str>,
        context: &Value,
    ) -> Result<Rendered, ContentError> {
        self.content.render(template, channel, locale, context)
    }

    /// The templates.
    #[must_use]
    pub fn content(&self) -> &Content {
        &self.content
    }
}

/// What an address draws for a provider: whether that only stands in for others, then the lot.
fn lot((name, provider): &(&str, &Provider), address: &str) -> (bool, f64) {
    let hash = xxhash_rust::xxh64::xxh64(address.as_bytes(), xxhash_rust::xxh64::xxh64(name.as_bytes(), 0));
    // 53 bits, as many as a float has, and never 0.
    let uniform = ((hash >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    (provider.weight == 0, -uniform.ln() / f64::from(provider.weight.max(1)))
}

/// The definitions of every project, as one process sees them now. Cloning is cheap: the runtime hands out a clone by a watch channel, and
/// a batch is decided with one clone from its first record to its last.
#[derive(Clone, Debug, Default)]
pub struct Projects(Arc<HashMap<String, Arc<Compiled>>>);

impl Projects {
    /// The definitions of a project.
    #[must_use]
    pub fn get(&self, project: &str) -> Option<&Arc<Compiled>> {
        self.0.get(project)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Compiled>> {
        self.0.values()
    }

    /// The same with one project's definitions set or replaced, unless those that are there are as new.
    #[must_use]
    pub fn with(&self, compiled: Arc<Compiled>) -> Self {
        if self.get(&compiled.project).is_some_and(|known| known.version >= compiled.version) {
            return self.clone();
        }
        let mut all = HashMap::clone(&self.0);
        all.insert(compiled.project.clone(), compiled);
        Self(Arc::new(all))
    }
}

impl FromIterator<Compiled> for Projects {
    fn from_iter<I: IntoIterator<Item = Compiled>>(all: I) -> Self {
        all.into_iter().fold(Self::default(), |projects, compiled| projects.with(Arc::new(compiled)))
    }
}
