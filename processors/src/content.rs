//! What a message says: a project's templates, compiled once, rendered for one delivery at a time.
//! Nothing is sent or fetched here; a variable that is not there is an error, never an empty place.
//!
//! Reading order: this page (compiling and rendering), `parts` (partials and layouts), `filters` with `formats` (how a locale writes),
//! `shape` and `scope` (which variables there will be), `own_links` (links that the sender puts in), [`limits`] (how long a message may be),
//! `preview` (what all variants would say), [`mjml`].

mod filters;
mod formats;
pub mod limits;
pub mod mjml;
mod own_links;
pub(crate) mod parts;
mod preview;
pub(crate) mod scope;
pub(crate) mod shape;

pub use own_links::OwnLink;
pub use preview::Previewed;

use crate::definitions::canonical_locale;
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{Place, Template, Variant},
    member::Profile,
};
use formats::Formats;
use minijinja::{
    AutoEscape, Environment, ErrorKind, UndefinedBehavior,
    value::{Enumerator, Object, Value},
};
use parts::Parts;
use serde_json::{Map, Value as Json, json};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    error::Error as _,
    sync::Arc,
};

/// Instructions that one text may take: a loop that an event's data makes endless ends here.
const FUEL: u64 = 100_000;
/// Nesting of macros and blocks.
const RECURSION: usize = 64;
/// Bytes of one expression or statement, and how often a text may say `elif`. The engine reads both by recursion, one level an operator or
/// branch, and a thread's stack has an end.
const MAX_TAG_BYTES: usize = 1_024;
const MAX_BRANCHES: usize = 100;
/// Locales of one project: each has an engine, with the formats and the parts of its own.
const MAX_LOCALES: usize = 100;

/// A rendered message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    /// Locale of the variant that was used.
    pub locale: String,
    /// The variant with every text rendered.
    pub variant: Variant,
}

/// Why a message cannot be rendered. Names places in templates, never values of members or events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// No such template.
    #[error("unknown template `{template}`: apply definitions that have it, then replay")]
    UnknownTemplate {
        /// Name.
        template: String,
    },
    /// No variant for the channel in any locale of the fallback chain.
    #[error("template `{template}` has no {channel} variant for any of {tried}: add one, then replay")]
    NoVariant {
        /// Template.
        template: String,
        /// Channel.
        channel: Channel,
        /// Locales that were looked for, in order.
        tried: String,
    },
    /// A text cannot be rendered with this context.
    #[error("template {place}: {problem}; give the variable a `default(…)`, or send the field")]
    Render {
        /// `order_placed.email.es.html:3:9`.
        place: String,
        /// The engine's kind of error and the expression as the template has it.
        problem: String,
    },
    /// A text is empty once rendered.
    #[error("template {place}: the {field} is empty for this event: let the template say something in every case")]
    Empty {
        /// `order_placed.email.es.subject`.
        place: String,
        /// Field.
        field: String,
    },
    /// The context is not what [`context`] makes.
    #[error("the delivery's context is not a JSON object: {0}")]
    Context(String),
}

/// All templates of a project.
#[derive(Debug)]
pub struct Content {
    default_locale: String,
    /// Of members who have none of their own.
    zone: Value,
    offers_links: bool,
    /// By locale in its canonical spelling.
    engines: HashMap<String, Engine>,
    /// Template → channel → locale in its canonical spelling → the variant, each text replaced by the name that the engine has for it.
    variants: HashMap<String, BTreeMap<Channel, HashMap<String, Variant>>>,
}

/// A text that the engine does not take, or cannot render: where in the text, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fault {
    /// The part that is at fault; `None` for the text itself.
    pub(crate) part: Option<String>,
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
    pub(crate) problem: String,
    /// A variable is missing, rather than anything else.
    pub(crate) undefined: bool,
}

/// What renders the texts of one locale.
#[derive(Debug)]
struct Engine {
    environment: Environment<'static>,
    /// The file that a part's name means here.
    files: HashMap<String, String>,
}

impl Engine {
    fn new(locale: &str, parts: &Parts<'_>) -> Result<Self, Fault> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        environment.set_auto_escape_callback(|name| match name.rsplit('.').next() {
            Some("html" | "mjml") => AutoEscape::Html,
            Some("json") => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        // A text includes only what is escaped as it is itself: any other name leads nowhere. Texts of templates are no parts.
        environment.set_path_join_callback(|name, parent| {
            let is_part = name.starts_with("partials/") || name.starts_with("layouts/");
            if is_part && parts::kind(name) == parts::kind(parent) { name.into() } else { "".into() }
        });
        // Keeps positions in errors. Its print-out of local variables is never used: it would show personal data.
        environment.set_debug(true);
        // What is no locale is told elsewhere, and writes as no language does.
        let formats = Formats::of(locale).or_else(|_| Formats::of("und"));
        let formats = formats.map_err(|problem| Fault { problem: problem.to_owned(), ..Fault::default() })?;
        filters::add(&mut environment, &Arc::new(formats));
        let mut engine = Self { environment, files: HashMap::new() };
        // What does not compile is told of the file itself, once.
        for (name, file, text) in parts.for_locale(locale).filter(|(_, _, text)| too_deep(text).is_none()) {
            if engine.environment.add_template_owned(name.to_owned(), text.to_owned()).is_ok() {
                engine.files.insert(name.to_owned(), file.to_owned());
            }
        }
        Ok(engine)
    }

    fn add(&mut self, name: &str, text: String) -> Result<(), Fault> {
        let added = self.environment.add_template_owned(name.to_owned(), text.clone());
        added.map_err(|error| describe(&error, &text, true))
    }

    /// The second of an error is the same with the engine's own words, which may show values: for samples only.
    fn render(&self, name: &str, root: Value) -> Result<String, Box<(Fault, Fault)>> {
        let render = || self.environment.get_template(name)?.render(root);
        render().map_err(|error| {
            let error = innermost(&error);
            let at_fault = error.name().unwrap_or(name);
            let source = self.environment.get_template(at_fault).map(|t| t.source().to_owned()).unwrap_or_default();
            let part = self.files.get(at_fault).cloned();
            let fault = |with_details| Fault { part: part.clone(), ..describe(error, &source, with_details) };
            Box::new((fault(false), fault(true)))
        })
    }
}

/// An error within an included text or a block is wrapped in one that only says so.
fn innermost(error: &minijinja::Error) -> &minijinja::Error {
    let is_wrapper = matches!(error.kind(), ErrorKind::BadInclude | ErrorKind::EvalBlock);
    let inner = error.source().filter(|_| is_wrapper).and_then(|source| source.downcast_ref());
    inner.map_or(error, innermost)
}

impl Content {
    /// `zone` is the one of members who have none of their own (IANA).
    pub(crate) fn new(default_locale: &str, zone: &str) -> Self {
        Self {
            default_locale: default_locale.to_owned(),
            zone: zone.into(),
            offers_links: false,
            engines: HashMap::new(),
            variants: HashMap::new(),
        }
    }

    /// Lets texts that are added later name links of ours ([`OwnLink`]).
    pub(crate) fn offer_links(&mut self) {
        self.offers_links = true;
    }

    /// Compiles every text of a template; what compiles is kept.
    pub(crate) fn add(
        &mut self,
        parts: &Parts<'_>,
        name: &str,
        template: &Template,
        mut fault: impl FnMut(Channel, &str, String, Fault),
    ) {
        for (channel, locales) in &template.channels {
            for (locale, variant) in locales {
                let canonical = canonical_locale(locale).unwrap_or_else(|| locale.clone());
                let mut compiled = variant.clone();
                for (place, text) in compiled.texts_mut() {
                    let full = engine_name(name, *channel, locale, &place.to_string());
                    let added = source(*channel, place, text, parts, &canonical)
                        .and_then(|source| self.engine(&canonical, parts)?.add(&full, source));
                    if let Err(error) = added {
                        fault(*channel, locale, place.to_string(), error);
                    }
                    *text = full;
                }
                let channels = self.variants.entry(name.to_owned()).or_default();
                channels.entry(*channel).or_default().insert(canonical, compiled);
            }
        }
    }

    fn engine(&mut self, locale: &str, parts: &Parts<'_>) -> Result<&mut Engine, Fault> {
        if !self.engines.contains_key(locale) {
            if self.engines.len() >= MAX_LOCALES {
                let problem = format!("the project has more than {MAX_LOCALES} locales");
                return Err(Fault { problem, ..Fault::default() });
            }
            let mut engine = Engine::new(locale, parts)?;
            if self.offers_links {
                for link in OwnLink::ALL {
                    engine.environment.add_global(link.variable(), link.place());
                }
            }
            self.engines.insert(locale.to_owned(), engine);
        }
        self.engines.get_mut(locale).ok_or_else(Fault::default)
    }

    /// Whether a template can speak on a channel at all.
    #[must_use]
    pub fn has_variant(&self, template: &str, channel: Channel) -> bool {
        self.variants
            .get(template)
            .and_then(|channels| channels.get(&channel))
            .is_some_and(|locales| !locales.is_empty())
    }

    /// Renders what a template says on a channel, in the first locale there is of: the given one, the same without its region and
    /// script, the project's default, the default without region and script.
    ///
    /// # Errors
    /// See [`ContentError`].
    pub fn render(
        &self,
        template: &str,
        channel: Channel,
        locale: Option<&str>,
        context: &Json,
    ) -> Result<Rendered, ContentError> {
        let (locale, compiled) = self.variant(template, channel, locale)?;
        let root = self.root(context);
        let mut variant = compiled.clone();
        for (place, text) in variant.texts_mut() {
            *text = self.text(locale, text, (channel, place), root.clone())?;
        }
        Ok(Rendered { locale: locale.to_owned(), variant })
    }

    /// As [`Self::render`], from the text of a delivery's context.
    ///
    /// # Errors
    /// See [`ContentError`].
    pub fn render_json(
        &self,
        template: &str,
        channel: Channel,
        locale: Option<&str>,
        context: &str,
    ) -> Result<Rendered, ContentError> {
        let context = serde_json::from_str::<Json>(context).map_err(|e| ContentError::Context(e.to_string()))?;
        self.render(template, channel, locale, &context)
    }

    fn variant(
        &self,
        template: &str,
        channel: Channel,
        locale: Option<&str>,
    ) -> Result<(&str, &Variant), ContentError> {
        let channels = self
            .variants
            .get(template)
            .ok_or_else(|| ContentError::UnknownTemplate { template: template.to_owned() })?;
        let locales = channels.get(&channel);
        let canonical = locale.and_then(canonical_locale);
        let chain = || canonical.iter().map(String::as_str).chain([self.default_locale.as_str()]).flat_map(shorter);
        chain()
            .find_map(|locale| locales?.get_key_value(locale))
            .map(|(locale, compiled)| (locale.as_str(), compiled))
            .ok_or_else(|| ContentError::NoVariant {
                template: template.to_owned(),
                channel,
                tried: chain().collect::<Vec<_>>().join(", "),
            })
    }

    fn text(
        &self,
        locale: &str,
        name: &str,
        (channel, place): (Channel, Place<'_>),
        root: Value,
    ) -> Result<String, ContentError> {
        let text = self.try_text(locale, name, root).map_err(|faults| {
            let (fault, _) = *faults;
            let file = fault.part.as_ref().map_or_else(|| name.to_owned(), |part| format!("{name}, in {part}"));
            ContentError::Render {
                place: match (fault.line, fault.column) {
                    (Some(line), Some(column)) => format!("{file}:{line}:{column}"),
                    _ => file,
                },
                problem: fault.problem,
            }
        })?;
        if text.chars().all(char::is_whitespace) {
            return Err(ContentError::Empty { place: name.to_owned(), field: place.to_string() });
        }
        Ok(finished(channel, place, text))
    }

    fn try_text(&self, locale: &str, name: &str, root: Value) -> Result<String, Box<(Fault, Fault)>> {
        let engine = self.engines.get(locale).ok_or_else(|| {
            let fault = Fault { problem: "the text did not compile".into(), ..Fault::default() };
            Box::new((fault.clone(), fault))
        })?;
        engine.render(name, root)
    }

    /// Renders one text, which must have compiled, with a sample; the fault may show the sample's values.
    pub(crate) fn try_sample(
        &self,
        template: &str,
        channel: Channel,
        locale: &str,
        place: Place<'_>,
        context: &Json,
    ) -> Result<String, Fault> {
        let name = engine_name(template, channel, locale, &place.to_string());
        let text = self.try_text(locale, &name, self.root(context)).map_err(|faults| faults.1)?;
        Ok(finished(channel, place, text))
    }

    /// Whether a text has compiled.
    pub(crate) fn has_text(&self, template: &str, channel: Channel, locale: &str, place: &str) -> bool {
        let engine = self.engines.get(locale);
        engine.is_some_and(|e| e.environment.get_template(&engine_name(template, channel, locale, place)).is_ok())
    }

    /// Names that every text knows beside the context: the engine's own functions.
    pub(crate) fn globals(&self) -> BTreeSet<&str> {
        self.engines.values().flat_map(|engine| engine.environment.globals()).map(|(name, _)| name).collect()
    }
}

/// What is wrong with a part as such.
pub(crate) fn part_fault(text: &str) -> Option<Fault> {
    too_deep(text).or_else(|| {
        let compiled = Environment::new().add_template_owned("part", text.to_owned());
        compiled.err().map(|error| describe(&error, text, true))
    })
}

/// The text that is a template: an e-mail's HTML may be written as MJML, which is converted here, once.
fn source(channel: Channel, place: Place<'_>, text: &str, parts: &Parts<'_>, locale: &str) -> Result<String, Fault> {
    if let Some(deep) = too_deep(text) {
        return Err(deep);
    }
    if !is_mjml(channel, place, text) {
        return Ok(text.to_owned());
    }
    let expanded = parts.expand(text, locale)?;
    let html = mjml::mjml_to_html(&expanded).map_err(|error| {
        if expanded == text {
            let (line, column) = (u32::try_from(error.line).ok(), u32::try_from(error.column).ok());
            return Fault { line, column, problem: error.problem, ..Fault::default() };
        }
        let line = expanded.lines().nth(error.line.saturating_sub(1)).unwrap_or_default().trim();
        let line: String = line.chars().take(80).collect();
        Fault { problem: format!("with its parts put in: {} in `{line}`", error.problem), ..Fault::default() }
    })?;
    too_deep(&html).map_or(Ok(html), Err)
}

/// Whether a text is written in MJML.
pub(crate) fn is_mjml(channel: Channel, place: Place<'_>, text: &str) -> bool {
    let begins = || text.trim_start().starts_with("<mjml") || parts::extends_mjml(text);
    channel == Channel::Email && place.0 == "html" && begins()
}

/// What is done to a text once it is rendered. A subject is one line. A space that does not break, as locales put it into amounts, is none of
/// SMS's own letters, and one of those would more than halve what a part of the message holds (3GPP TS 23.038).
fn finished(channel: Channel, place: Place<'_>, text: String) -> String {
    if place.0 == "subject" {
        one_line(text)
    } else if channel == Channel::Sms && text.contains(['\u{a0}', '\u{202f}']) {
        text.replace(['\u{a0}', '\u{202f}'], " ")
    } else {
        text
    }
}

/// The engine's name of a text; its end says how variables are escaped.
fn engine_name(template: &str, channel: Channel, locale: &str, place: &str) -> String {
    format!("{template}.{channel}.{locale}.{place}")
}

/// `es-AR`, then `es`.
pub(crate) fn shorter(locale: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(locale), |l| l.rsplit_once('-').map(|(rest, _)| rest))
}

/// A subject is one header line (RFC 5322 section 2.2): runs with line breaks or other control characters become one space.
fn one_line(subject: String) -> String {
    let subject_trimmed = subject.trim();
    if !subject_trimmed.contains(char::is_control) {
        return if subject_trimmed.len() == subject.len() { subject } else { subject_trimmed.to_owned() };
    }
    subject_trimmed.split(char::is_control).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn describe(error: &minijinja::Error, source: &str, with_details: bool) -> Fault {
    let range = error.range().filter(|r| source.get(r.clone()).is_some()).map(|r| whole_path(source, r.start)..r.end);
    let (line, column) = range.as_ref().map_or((error.line().map(saturate), None), |r| {
        let (line, column) = line_and_column(source, r.start);
        (Some(line), Some(column))
    });
    let undefined = error.kind() == ErrorKind::UndefinedError;
    let detail = error.detail().filter(|_| with_details);
    let expression = range.filter(|r| !r.is_empty()).map(|r| source[r].lines().next().unwrap_or_default().trim());
    let problem = match (error.kind(), expression, detail) {
        (ErrorKind::TemplateNotFound, ..) => "no such part, or one that is escaped otherwise".to_owned(),
        (ErrorKind::UndefinedError, Some(expression), _) => format!("undefined value in `{expression}`"),
        (kind, Some(expression), None) if kind != ErrorKind::SyntaxError => format!("{kind} in `{expression}`"),
        (kind, _, Some(detail)) => format!("{kind}: {detail}"),
        (kind, _, None) => kind.to_string(),
    };
    Fault { part: None, line, column, problem, undefined }
}

/// What the engine could only read with more stack than there is.
fn too_deep(source: &str) -> Option<Fault> {
    let at = |byte, problem| {
        let (line, column) = line_and_column(source, byte);
        Fault { line: Some(line), column: Some(column), problem, ..Fault::default() }
    };
    if let Some((byte, _)) = source.match_indices("elif").nth(MAX_BRANCHES) {
        return Some(at(byte, format!("more than {MAX_BRANCHES} times `elif`")));
    }
    let mut from = 0;
    while let Some(begin) = source[from..].find("{{").into_iter().chain(source[from..].find("{%")).min() {
        let begin = from + begin;
        let length = tag_length(&source.as_bytes()[begin..]);
        if length > MAX_TAG_BYTES {
            return Some(at(begin, format!("an expression of more than {MAX_TAG_BYTES} bytes")));
        }
        from = begin + length;
    }
    None
}

/// Bytes from the `{{` or `{%` that `tag` begins with to its end, whatever its texts and maps hold; where it has none, to the end of all.
fn tag_length(tag: &[u8]) -> usize {
    let (mut quote, mut braces, mut at) = (None, 0, 2);
    while let Some(byte) = tag.get(at) {
        let closes = tag.get(at + 1) == Some(&b'}');
        match (quote, byte) {
            (Some(_), b'\\') => at += 1,
            (Some(open), byte) if open == byte => quote = None,
            (Some(_), _) => {}
            (None, b'"' | b'\'') => quote = Some(byte),
            (None, b'{') => braces += 1,
            (None, b'}') if braces > 0 => braces -= 1,
            (None, b'}' | b'%') if closes => return at + 2,
            (None, _) => {}
        }
        at += 1;
    }
    tag.len()
}

/// The engine points at the last step of `order.customer.name`; this finds the beginning of the path.
fn whole_path(source: &str, at: usize) -> usize {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '[' | ']');
    let follows = source[at..].starts_with(['.', '[']);
    source[..at].char_indices().rev().take_while(|(_, c)| follows && is_part(*c)).last().map_or(at, |(start, _)| start)
}

/// Line and column, from 1, in characters, of a byte of a text.
pub(crate) fn line_and_column(text: &str, byte: usize) -> (u32, u32) {
    let before = text.get(..byte).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    (saturate(line), saturate(column))
}

fn saturate(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What templates see of an event.
#[derive(Clone, Copy, Debug)]
pub struct EventAttributes<'a> {
    /// `event.id`.
    pub id: &'a str,
    /// `event.type`.
    pub kind: &'a str,
    /// `event.source`; templates that apply accepts do not need it.
    pub source: Option<&'a str>,
    /// `event.time`, RFC 3339 in UTC.
    pub time: Timestamp,
}

/// The context of a delivery: `event` (`id`, `type`, `source`, `time`, `data`) and `member` (`id`, `attributes`, and where they are known
/// `name` (the attribute of that name), `locale` and `time_zone`). Rendering shows the fields of `event.data` at the top too; they do not
/// shadow `event` and `member`.
#[must_use]
pub fn context(event: EventAttributes<'_>, data: &Json, member: &str, profile: &Profile) -> Json {
    let mut about_event = json!({"id": event.id, "type": event.kind, "time": event.time.to_string(), "data": data});
    if let Some(source) = event.source {
        about_event["source"] = source.into();
    }
    let mut about_member = json!({"id": member, "attributes": profile.attributes});
    let name = profile.attributes.get("name").and_then(Json::as_str);
    for (field, value) in
        [("name", name), ("locale", profile.locale.as_deref()), ("time_zone", profile.time_zone.as_deref())]
    {
        if let Some(value) = value {
            about_member[field] = value.into();
        }
    }
    json!({"event": about_event, "member": about_member})
}

/// The top of a context as templates see it.
#[derive(Debug)]
struct Root {
    event: Value,
    member: Value,
    data: Value,
    zone: Value,
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "event" => Some(self.event.clone()),
            "member" => Some(self.member.clone()),
            filters::ZONE => Some(self.zone.clone()),
            _ => self.data.get_attr(key).ok().filter(|v| !v.is_undefined()),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

impl Content {
    fn root(&self, context: &Json) -> Value {
        let event = value(&context["event"]);
        let data = event.get_attr("data").unwrap_or_default();
        let member = value(&context["member"]);
        let own = member.get_attr("time_zone").ok().filter(|zone| !zone.is_undefined());
        let zone = own.unwrap_or_else(|| self.zone.clone());
        Value::from_object(Root { data, member, event, zone })
    }
}

/// To the engine's value. Null becomes undefined: a template that prints it fails, instead of telling a member "none".
fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::UNDEFINED,
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(int), _) => Value::from(int),
            (None, Some(uint)) => Value::from(uint),
            (None, None) => Value::from(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::from(items.iter().map(value).collect::<Vec<_>>()),
        Json::Object(fields) => {
            Value::from(fields.iter().map(|(k, v)| (Value::from(k.as_str()), value(v))).collect::<BTreeMap<_, _>>())
        }
    }
}

/// The context that a sample stands for: an event with this data, of a member who has this beside an id.
pub(crate) fn sample_context(event_type: &str, data: Json, given: &Map<String, Json>) -> Json {
    let mut member = json!({"id": "sample", "attributes": {}});
    for (field, value) in given {
        member[field] = value.clone();
    }
    json!({
        "event": {"id": "sample", "type": event_type, "time": "2026-01-01T00:00:00Z", "data": data},
        "member": member,
    })
}
