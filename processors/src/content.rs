//! What a message says: a project's templates, compiled once, rendered for one delivery at a time.
//! Nothing is sent, fetched or included here; a variable that is not there is an error, never an empty place.

pub mod mjml;

use crate::definitions::canonical_locale;
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{Place, Template, Tracking, Variant},
    member::Profile,
};
use minijinja::{
    AutoEscape, Environment, ErrorKind, UndefinedBehavior,
    value::{Enumerator, Object, Value},
};
use serde_json::{Map, Value as Json, json};
use std::{
    collections::{BTreeMap, HashMap},
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
    engine: Environment<'static>,
    default_locale: String,
    /// Template → channel → locale in its canonical spelling → the variant, each text replaced by the name that the engine has for it.
    variants: HashMap<String, BTreeMap<Channel, HashMap<String, Variant>>>,
}

/// A text that the engine does not take, or cannot render: where in the text, and why.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) line: Option<u32>,
    pub(crate) column: Option<u32>,
    pub(crate) problem: String,
    /// A variable is missing, rather than anything else.
    pub(crate) undefined: bool,
}

impl Content {
    pub(crate) fn new(default_locale: &str) -> Self {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        engine.set_auto_escape_callback(|name| match name.rsplit('.').next() {
            Some("html") => AutoEscape::Html,
            Some("json") => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        engine.set_fuel(Some(FUEL));
        engine.set_recursion_limit(RECURSION);
        // No text may include another: every name that an `include`, `import` or `extends` asks for leads nowhere.
        engine.set_path_join_callback(|_, _| "".into());
        // Keeps positions in errors. Its print-out of local variables is never used: it would show personal data.
        engine.set_debug(true);
        Self { engine, default_locale: default_locale.to_owned(), variants: HashMap::new() }
    }

    /// Lets texts say `{{ unsubscribe_url }}`. A place is rendered, because the link is sealed for each try of a delivery, with a key.
    pub(crate) fn offer_unsubscribe(&mut self) {
        self.engine.add_global("unsubscribe_url", Tracking::UNSUBSCRIBE_PLACE);
    }

    /// Compiles every text of a template; what compiles is kept.
    pub(crate) fn add(&mut self, name: &str, template: &Template, mut fault: impl FnMut(Channel, &str, String, Fault)) {
        let channels = self.variants.entry(name.to_owned()).or_default();
        for (channel, locales) in &template.channels {
            for (locale, variant) in locales {
                let mut compiled = variant.clone();
                for (place, text) in compiled.texts_mut() {
                    let full = engine_name(name, *channel, locale, &place.to_string());
                    let added = match too_deep(text) {
                        Some(deep) => Err(deep),
                        None => from_mjml(*channel, place, text).and_then(|html| {
                            let added = self.engine.add_template_owned(full.clone(), html.clone());
                            added.map_err(|error| describe(&error, &html, true))
                        }),
                    };
                    if let Err(error) = added {
                        fault(*channel, locale, place.to_string(), error);
                    }
                    *text = full;
                }
                let locale = canonical_locale(locale).unwrap_or_else(|| locale.clone());
                channels.entry(*channel).or_default().insert(locale, compiled);
            }
        }
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
        let root = root(context);
        let mut variant = compiled.clone();
        for (place, text) in variant.texts_mut() {
            let rendered = self.text(text, place, root.clone())?;
            *text = if place.0 == "subject" { one_line(rendered) } else { rendered };
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

    fn text(&self, name: &str, place: Place<'_>, root: Value) -> Result<String, ContentError> {
        let text = self.try_text(name, root).map_err(|(fault, _)| ContentError::Render {
            place: match (fault.line, fault.column) {
                (Some(line), Some(column)) => format!("{name}:{line}:{column}"),
                _ => name.to_owned(),
            },
            problem: fault.problem,
        })?;
        if text.chars().all(char::is_whitespace) {
            return Err(ContentError::Empty { place: name.to_owned(), field: place.to_string() });
        }
        Ok(text)
    }

    /// The second of an error is the same with the engine's own words, which may show values: for samples only.
    fn try_text(&self, name: &str, root: Value) -> Result<String, (Fault, Fault)> {
        let render = || self.engine.get_template(name)?.render(root);
        render().map_err(|error| {
            let source = self.engine.get_template(name).map(|t| t.source().to_owned()).unwrap_or_default();
            (describe(&error, &source, false), describe(&error, &source, true))
        })
    }

    /// Renders one text, which must have compiled, with a sample; the fault may show the sample's values.
    pub(crate) fn try_sample(
        &self,
        template: &str,
        channel: Channel,
        locale: &str,
        place: &str,
        context: &Json,
    ) -> Result<String, Fault> {
        self.try_text(&engine_name(template, channel, locale, place), root(context)).map_err(|(_, full)| full)
    }

    /// Whether a text has compiled.
    pub(crate) fn has_text(&self, template: &str, channel: Channel, locale: &str, place: &str) -> bool {
        self.engine.get_template(&engine_name(template, channel, locale, place)).is_ok()
    }

    /// Variables that a text reads from outside, with their attributes (`order.number`), sorted; without the engine's own functions.
    pub(crate) fn variables(&self, template: &str, channel: Channel, locale: &str, place: &str) -> Vec<String> {
        let Ok(compiled) = self.engine.get_template(&engine_name(template, channel, locale, place)) else {
            return Vec::new();
        };
        let globals: Vec<&str> = self.engine.globals().map(|(name, _)| name).collect();
        let mut variables: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        variables.retain(|v| !globals.contains(&v.as_str()));
        variables.sort();
        variables
    }
}

/// The text that is a template: an e-mail's HTML may be written as MJML, which is converted here, once.
fn from_mjml(channel: Channel, place: Place<'_>, text: &str) -> Result<String, Fault> {
    if channel != Channel::Email || place.0 != "html" || !text.trim_start().starts_with("<mjml") {
        return Ok(text.to_owned());
    }
    mjml::mjml_to_html(text).map_err(|error| Fault {
        line: Some(u32::try_from(error.line).unwrap_or(u32::MAX)),
        column: Some(u32::try_from(error.column).unwrap_or(u32::MAX)),
        problem: error.problem,
        undefined: false,
    })
}

/// The engine's name of a text; its end says how variables are escaped.
fn engine_name(template: &str, channel: Channel, locale: &str, place: &str) -> String {
    format!("{template}.{channel}.{locale}.{place}")
}

/// `es-AR`, then `es`.
fn shorter(locale: &str) -> impl Iterator<Item = &str> {
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
        (ErrorKind::TemplateNotFound | ErrorKind::BadInclude, ..) => "a text cannot include another".to_owned(),
        (ErrorKind::UndefinedError, Some(expression), _) => format!("undefined value in `{expression}`"),
        (kind, Some(expression), None) if kind != ErrorKind::SyntaxError => format!("{kind} in `{expression}`"),
        (kind, _, Some(detail)) => format!("{kind}: {detail}"),
        (kind, _, None) => kind.to_string(),
    };
    Fault { line, column, problem, undefined }
}

/// What the engine could only read with more stack than there is.
fn too_deep(source: &str) -> Option<Fault> {
    let at = |byte, problem| {
        let (line, column) = line_and_column(source, byte);
        Fault { line: Some(line), column: Some(column), problem, undefined: false }
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
}

impl Object for Root {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "event" => Some(self.event.clone()),
            "member" => Some(self.member.clone()),
            _ => self.data.get_attr(key).ok().filter(|v| !v.is_undefined()),
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::NonEnumerable
    }
}

fn root(context: &Json) -> Value {
    let event = value(&context["event"]);
    let data = event.get_attr("data").unwrap_or_default();
    Value::from_object(Root { data, member: value(&context["member"]), event })
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

/// The sample context of a template: its `sample` as the event's data. A `member` in the sample stands for the member, who otherwise has
/// only what every member has: an id.
#[must_use]
pub fn sample_context(event_type: &str, sample: &Map<String, Json>) -> Json {
    let mut data = sample.clone();
    let mut member = json!({"id": "sample", "attributes": {}});
    if let Some(Json::Object(given)) = data.remove("member") {
        for (field, value) in given {
            member[field] = value;
        }
    }
    json!({
        "event": {"id": "sample", "type": event_type, "time": "2026-01-01T00:00:00Z", "data": data},
        "member": member,
    })
}
