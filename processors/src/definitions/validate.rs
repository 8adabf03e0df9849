//! The rules of definitions. All of them are applied, whatever the others find, so that one run tells everything.
//! A rule only says what is wrong; it changes nothing.

use super::{
    CheckProvider, CompiledFlow, Finding, SettingProblem, Terms,
    condition::{Condition, variables},
    names::{canonical_locale, did_you_mean, is_project_name, name_problem, nearest},
};
use crate::{
    caps,
    content::{self, Content},
    hours::{self, Hours},
};
use bellwether_schemas::{
    Channel, Lane, Timestamp,
    definitions::{Definitions, Flow, Notify, Per, Template, Tracking, Variant},
    records::Event,
    segments::{
        Encoding::{Gsm7, Ucs2},
        Segments, only_foreign, segments,
    },
};
use jiff::tz::TimeZone;
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// Twilio takes no longer body (its error 21617).
const MAX_SMS_CHARACTERS: usize = 1600;
/// The greatest priority of a notification.
const MAX_PRIORITY: u8 = 9;
/// Calls at once that a claim window may hold: one bit each in a commit's metadata (law 2).
const MAX_IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=4096;

/// Longest address of a tracking domain: with a token behind it a link must fit a line of mail, and what providers take.
const MAX_BASE_URL: usize = 200;
/// Keys that links may have been sealed with before: each is tried for each link.
const MAX_PREVIOUS_KEYS: usize = 8;

/// What the checks made on their way.
pub(super) struct Parts {
    pub(super) flows_by_type: HashMap<String, Vec<Arc<CompiledFlow>>>,
    pub(super) providers: BTreeMap<Channel, Vec<String>>,
    pub(super) prefixes: HashMap<String, &'static str>,
    pub(super) content: Content,
    pub(super) terms: HashMap<String, Terms>,
    pub(super) other_terms: [Terms; 2],
    pub(super) zone: TimeZone,
    /// What is allowed and worth a look.
    pub(super) remarks: Vec<Finding>,
}

/// Applies every rule.
pub(super) fn validate(document: &Definitions, check: CheckProvider<'_>) -> Result<Parts, Vec<Finding>> {
    let mut findings = Findings::default();
    let has_default = project(document, &mut findings);
    let (providers, prefixes) = providers(document, check, &mut findings);
    let content = templates(document, &mut findings);
    if has_default {
        default_locale(document, &mut findings);
    }
    if let Some(providers) = &providers {
        unserved_channels(document, providers, &mut findings);
    }
    let flows_by_type = flows(document, &mut findings);
    let zone = zone(document, &mut findings);
    caps(document, &mut findings);
    let terms = document.flows.iter().map(|(name, flow)| {
        let path = format!("flows.{name}.notify");
        (name.clone(), terms(&path, document, &flow.notify, &mut findings))
    });
    let terms: HashMap<_, _> = terms.collect();
    // What the project says was told of already, if it is wrong.
    let other_terms = Lane::ALL.map(|lane| {
        let hours = project_hours(document, lane == Lane::Bulk).unwrap_or_default();
        Terms { category: category_of(lane).into(), priority: 0, hours, spread: Duration::ZERO }
    });
    let Findings { mut all, remarks } = findings;
    all.sort();
    all.dedup();
    match providers {
        Some(providers) if all.is_empty() => {
            Ok(Parts { flows_by_type, providers, prefixes, content, terms, other_terms, zone, remarks })
        }
        _ => Err(all),
    }
}

#[derive(Default)]
struct Findings {
    /// What must be corrected.
    all: Vec<Finding>,
    /// What is only to be known.
    remarks: Vec<Finding>,
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.at(path, (None, None), problem, remedy);
    }

    fn at(
        &mut self,
        path: impl Into<String>,
        (line, column): (Option<u32>, Option<u32>),
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let (path, problem, remedy) = (path.into(), problem.into(), remedy.into());
        self.all.push(Finding { path, line, column, problem, remedy });
    }

    fn remark(&mut self, path: &str, (line, column): (Option<u32>, Option<u32>), problem: String, remedy: String) {
        self.remarks.push(Finding { path: path.to_owned(), line, column, problem, remedy });
    }

    fn name(&mut self, path: &str, name: &str) {
        if let Some(problem) = name_problem(name) {
            self.add(path, problem, "use 1 to 63 of a-z, 0-9, `_` and `-`");
        }
    }

    /// Returns whether the locale can be used.
    fn locale(&mut self, path: &str, locale: &str) -> bool {
        match canonical_locale(locale) {
            Some(canonical) if canonical == locale => return true,
            Some(canonical) => {
                self.add(path, format!("the locale `{locale}` is spelled unusually"), format!("write `{canonical}`"));
            }
            None => self.add(
                path,
                format!("`{locale}` is no locale"),
                "use a language with optional script and region, such as `es`, `es-AR` or `zh-Hant-TW`",
            ),
        }
        false
    }
}

/// Returns whether the default locale can be used.
fn project(document: &Definitions, findings: &mut Findings) -> bool {
    let project = &document.project;
    if !is_project_name(&project.name) {
        let remedy = "use 1 to 63 of a-z, 0-9 and `-`, beginning with a letter";
        findings.add("project.name", format!("`{}` is no project name", project.name), remedy);
    }
    let is_locale = findings.locale("project.default_locale", &project.default_locale);
    if let Some(region) = &project.default_region
        && !(region.len() == 2 && region.bytes().all(|b| b.is_ascii_uppercase()))
    {
        let problem = format!("`{region}` is no region");
        findings.add("project.default_region", problem, "use an ISO 3166-1 code of two capitals, such as `AR`");
    }
    if let Some(settings) = &project.tracking {
        tracking(settings, findings);
    }
    is_locale
}

fn tracking(tracking: &Tracking, findings: &mut Findings) {
    const PATH: &str = "project.tracking";
    if let Some(problem) = base_url_problem(&tracking.base_url) {
        findings.add(
            format!("{PATH}.base_url"),
            problem,
            "write the public address, such as `https://links.example.com`",
        );
    }
    if tracking.previous_keys.len() > MAX_PREVIOUS_KEYS {
        let problem = format!("there are {} previous keys", tracking.previous_keys.len());
        let remedy = format!("keep at most {MAX_PREVIOUS_KEYS}: links of older keys open no more");
        findings.add(format!("{PATH}.previous_keys"), problem, remedy);
    }
    if tracking.previous_keys.contains(&tracking.key) {
        findings.add(
            format!("{PATH}.previous_keys"),
            "the key is among the previous ones",
            "name a new key, or drop it there",
        );
    }
    for (index, channel) in tracking.channels.iter().enumerate() {
        let path = format!("{PATH}.channels.{index}");
        if *channel == Channel::Webhook {
            findings.add(path, "a webhook's document has no links that we know", "remove it");
        } else if tracking.channels[..index].contains(channel) {
            findings.add(path, format!("{channel} is there twice"), "remove one");
        }
    }
    for (index, lane) in tracking.unsubscribe.iter().enumerate() {
        if tracking.unsubscribe[..index].contains(lane) {
            findings.add(format!("{PATH}.unsubscribe.{index}"), format!("{lane} is there twice"), "remove one");
        }
    }
}

/// Why links cannot begin with it, if so. It is put into HTML, headers and JSON as it is.
fn base_url_problem(url: &str) -> Option<&'static str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let Some(rest) = rest else { return Some("this is no web address") };
    let authority = rest.split('/').next().unwrap_or_default();
    let host =
        authority.strip_prefix("[::1]").map_or_else(|| authority.split(':').next().unwrap_or_default(), |_| "[::1]");
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-._~/:[]".contains(c);
    if host.is_empty() || !rest.chars().all(is_part) {
        return Some("it must be host, port and path alone, in ASCII");
    }
    if !url.starts_with("https://") && !matches!(host, "localhost" | "127.0.0.1" | "[::1]") {
        return Some("it must be https: a link tells who follows it");
    }
    (url.len() > MAX_BASE_URL).then_some("it has more than 200 characters")
}

/// Providers by channel, `None` where a provider's channel is not known, so that no rule builds on the gap; and their prefixes.
fn providers(
    document: &Definitions,
    check: CheckProvider<'_>,
    findings: &mut Findings,
) -> (Option<BTreeMap<Channel, Vec<String>>>, HashMap<String, &'static str>) {
    let mut prefixes = HashMap::new();
    let mut by_channel = Some(BTreeMap::<Channel, Vec<String>>::new());
    for (name, provider) in &document.providers {
        let path = format!("providers.{name}");
        findings.name(&path, name);
        let checked = check(&provider.kind, &provider.settings);
        match checked.channel {
            None => {
                by_channel = None;
                let remedy =
                    checked.problems.first().map_or("use a kind that this version has", |p| p.problem.as_str());
                findings.add(format!("{path}.kind"), format!("unknown kind of provider `{}`", provider.kind), remedy);
            }
            Some(channel) => {
                if !checked.prefix.is_empty() {
                    prefixes.insert(name.clone(), checked.prefix);
                }
                if let Some(by_channel) = &mut by_channel {
                    by_channel.entry(channel).or_default().push(name.clone());
                }
                for SettingProblem { field, problem } in checked.problems {
                    let (path, named) = match field.as_str() {
                        "" => (path.clone(), problem),
                        field => (format!("{path}.{field}"), format!("`{field}` {problem}")),
                    };
                    findings.add(path, named, format!("correct the settings of kind `{}`", provider.kind));
                }
            }
        }
        if !MAX_IN_FLIGHT.contains(&provider.max_in_flight) {
            let problem = format!("max_in_flight is {}", provider.max_in_flight);
            findings.add(format!("{path}.max_in_flight"), problem, "use 1 to 4096 calls at once");
        }
        if provider.max_attempts == 0 {
            findings.add(format!("{path}.max_attempts"), "max_attempts is 0", "use at least 1: the first try counts");
        }
        if provider.rate_per_second == Some(0) {
            let remedy = "use at least 1 message per second, or leave it out for no limit";
            findings.add(format!("{path}.rate_per_second"), "rate_per_second is 0", remedy);
        }
    }
    (by_channel, prefixes)
}

fn unserved_channels(document: &Definitions, providers: &BTreeMap<Channel, Vec<String>>, findings: &mut Findings) {
    for (name, template) in &document.templates {
        for channel in template.channels.keys().filter(|c| !providers.contains_key(c)) {
            findings.add(
                format!("templates.{name}.channels.{channel}"),
                format!("no provider serves {channel}"),
                format!("define one in providers.yaml, or remove the {channel} variants"),
            );
        }
    }
}

fn templates(document: &Definitions, findings: &mut Findings) -> Content {
    let mut content = Content::new(&document.project.default_locale);
    if document.project.tracking.is_some() {
        content.offer_unsubscribe();
    }
    for (name, template) in &document.templates {
        let path = format!("templates.{name}");
        findings.name(&path, name);
        if template.channels.is_empty() {
            findings.add(
                format!("{path}.channels"),
                "the template has no channel",
                "add one, such as `email`, with a variant",
            );
        }
        if template.sample.contains_key("event") {
            let remedy = "rename the field: in templates `event` is always the event itself";
            findings.add(format!("{path}.sample.event"), "the event's data cannot shadow `event`", remedy);
        }
        content.add(name, template, |channel, locale, place, fault| {
            let place = format!("{path}.channels.{channel}.{locale}.{place}");
            findings.at(place, (fault.line, fault.column), fault.problem, "correct the template");
        });
        for (channel, locales) in &template.channels {
            let path = format!("{path}.channels.{channel}");
            for (locale, variant) in locales {
                let path = format!("{path}.{locale}");
                if findings.locale(&path, locale) {
                    fields(&path, *channel, variant, findings);
                    texts(&path, (name, template), (*channel, locale, variant), &content, findings);
                }
            }
        }
    }
    content
}

/// The end of every fallback chain must exist, or a member of an unforeseen language gets nothing.
fn default_locale(document: &Definitions, findings: &mut Findings) {
    let default = document.project.default_locale.as_str();
    let chain = || std::iter::successors(Some(default), |l| l.rsplit_once('-').map(|(rest, _)| rest));
    for (name, template) in &document.templates {
        for (channel, locales) in &template.channels {
            if !chain().any(|locale| locales.contains_key(locale)) {
                findings.add(
                    format!("templates.{name}.channels.{channel}"),
                    format!("no variant for the project's default locale `{default}`"),
                    format!("add `{default}`: members of other languages get it"),
                );
            }
        }
    }
}

/// What a channel's variants are made of.
struct Shape {
    /// In words.
    message: &'static str,
    /// Groups of fields, of each of which at least one must be there, and what to do about it.
    needed: &'static [(&'static [&'static str], &'static str)],
    /// What may be there beside these.
    allowed: &'static [&'static str],
}

const fn shape(channel: Channel) -> Shape {
    let (message, needed, allowed): (_, &[(&[&str], &str)], &[&str]) = match channel {
        Channel::Email => (
            "an e-mail",
            &[(&["subject"], "add `subject`"), (&["html", "text"], "add `html`, `text` or, better, both")],
            &["attachments"],
        ),
        Channel::Sms => ("a text message", &[(&["text"], "add `text`")], &[]),
        Channel::Whatsapp => (
            "a WhatsApp message",
            &[(&["template", "text"], "add `template`; and `text` for the 24 hours after the member wrote")],
            &["header", "buttons"],
        ),
        Channel::Telegram => ("a Telegram message", &[(&["html", "text"], "add `html` or `text`")], &["buttons"]),
        Channel::WebPush | Channel::AppPush => (
            "a push notification",
            &[(&["title"], "add `title`"), (&["text"], "add `text`")],
            &["url", "icon", "image", "data"],
        ),
        Channel::Webhook => ("a webhook call", &[(&["json"], "add `json`")], &[]),
    };
    Shape { message, needed, allowed }
}

fn fields(path: &str, channel: Channel, variant: &Variant, findings: &mut Findings) {
    let Shape { message, needed, allowed } = shape(channel);
    let present = present(variant);
    for (group, remedy) in needed {
        if !group.iter().any(|field| present.contains(field)) {
            let what = group.join("` or `");
            findings.add(format!("{path}.{}", group[0]), format!("{message} needs `{what}`"), *remedy);
        }
    }
    for field in &present {
        if !allowed.contains(field) && !needed.iter().any(|(group, _)| group.contains(field)) {
            findings.add(format!("{path}.{field}"), format!("{message} has no {field}"), format!("remove `{field}`"));
        }
    }
    for (place, text) in variant.clone().texts_mut() {
        if text.trim().is_empty() {
            findings.add(format!("{path}.{place}"), format!("`{place}` is empty"), "write something, or remove it");
        }
    }
}

/// The fields of a variant that are there.
fn present(variant: &Variant) -> Vec<&'static str> {
    let Variant { subject, title, html, text, json, url, icon, image, header, template, buttons, attachments, data } =
        variant;
    [
        ("subject", subject.is_some()),
        ("title", title.is_some()),
        ("html", html.is_some()),
        ("text", text.is_some()),
        ("json", json.is_some()),
        ("url", url.is_some()),
        ("icon", icon.is_some()),
        ("image", image.is_some()),
        ("header", header.is_some()),
        ("template", template.is_some()),
        ("buttons", !buttons.is_empty()),
        ("attachments", !attachments.is_empty()),
        ("data", !data.is_empty()),
    ]
    .into_iter()
    .filter_map(|(name, is_there)| is_there.then_some(name))
    .collect()
}

/// Looks for variables that nothing provides, then renders with the sample.
fn texts(
    path: &str,
    (name, template): (&str, &Template),
    (channel, locale, variant): (Channel, &str, &Variant),
    content: &Content,
    findings: &mut Findings,
) {
    let context = content::sample_context("sample", &template.sample);
    for (place, text) in variant.clone().texts_mut() {
        let place = place.to_string();
        if !content.has_text(name, channel, locale, &place) {
            continue;
        }
        let path = format!("{path}.{place}");
        let missing: Vec<(String, Option<String>)> = content
            .variables(name, channel, locale, &place)
            .into_iter()
            .filter_map(|variable| missing_of(&variable, &context).map(|hint| (variable, hint)))
            .collect();
        for (variable, hint) in &missing {
            let (problem, remedy) = words(variable, hint.as_deref());
            findings.at(&path, find(text, variable), problem, remedy);
        }
        match content.try_sample(name, channel, locale, &place, &context) {
            Ok(rendered) => rendered_text(&path, channel, &place, (text, &rendered), findings),
            Err(fault) if fault.undefined && !missing.is_empty() => {}
            Err(fault) => {
                let remedy = if fault.undefined {
                    "give it a `default(…)`, or add it to the template's `sample` (what every member has: under `sample.member`)"
                } else {
                    "correct the template, or the template's `sample`"
                };
                let problem = format!("cannot be rendered with the sample: {}", fault.problem);
                findings.at(&path, (fault.line, fault.column), problem, remedy);
            }
        }
    }
}

fn rendered_text(path: &str, channel: Channel, place: &str, (text, rendered): (&str, &str), findings: &mut Findings) {
    if channel == Channel::Sms {
        let characters = rendered.chars().count();
        if characters > MAX_SMS_CHARACTERS {
            let problem = format!("the message of the sample has {characters} characters");
            findings.add(path, problem, format!("providers take at most {MAX_SMS_CHARACTERS}: shorten it"));
        } else {
            cost_of_text(path, text, rendered, findings);
        }
    }
    if place == "json"
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(rendered)
    {
        findings.add(path, format!("with the sample this is no JSON: {error}"), "correct the template");
    }
}

/// What a text message is billed as, where that may be a surprise.
fn cost_of_text(path: &str, text: &str, rendered: &str, findings: &mut Findings) {
    let counted = segments(rendered);
    if let Some(foreign) = only_foreign(rendered) {
        let at = text.find(foreign).map_or((None, None), |at| {
            let (line, column) = content::line_and_column(text, at);
            (Some(line), Some(column))
        });
        let problem =
            format!("`{foreign}` (U+{:04X}) alone makes UCS-2 of a GSM-7 text ({counted})", u32::from(foreign));
        let remedy = format!("another character leaves room for {} instead of {}", Gsm7.alone(), Ucs2.alone());
        findings.remark(path, at, problem, remedy);
    } else if counted.segments > 1 {
        let Segments { encoding, units, .. } = counted;
        let problem = format!("the message of the sample makes {counted}, each of which is billed");
        let remedy = format!("{} of its {units} units fit into one", encoding.alone());
        findings.remark(path, (None, None), problem, remedy);
    }
}

/// Fields of `member`; which of them a member has is found by rendering.
const MEMBER: [&str; 5] = ["id", "name", "locale", "time_zone", "attributes"];

/// `None`: the sample provides the variable. Otherwise the variable that was probably meant, if one is near.
fn missing_of(variable: &str, context: &Value) -> Option<Option<String>> {
    let segments: Vec<&str> = variable.split('.').collect();
    if segments[0] == "member" {
        // Attributes are the client's own; rendering finds those that the sample member lacks.
        let field = segments.get(1)?;
        return (!MEMBER.contains(field)).then(|| nearest(field, MEMBER).map(|near| format!("member.{near}")));
    }
    let is_event = segments[0] == "event";
    let mut at = if is_event { context } else { &context["event"]["data"] };
    for (depth, segment) in segments.iter().enumerate() {
        if let Some(next) = at.get(segment) {
            at = next;
            continue;
        }
        let top: &[&str] = if depth == 0 { &["event", "member"] } else { &[] };
        // A key with a dot is no name that a variable can have: corrected to it, the variable would be missing again, and so on without end.
        let siblings =
            at.as_object().into_iter().flat_map(Map::keys).map(String::as_str).filter(|key| !key.contains('.'));
        return Some(nearest(segment, siblings.chain(top.iter().copied())).map(|near| {
            let corrected = |rest| [&segments[..depth], &[near], rest].concat().join(".");
            let whole = corrected(&segments[depth + 1..]);
            if missing_of(&whole, context).is_none() { whole } else { corrected(&[]) }
        }));
    }
    None
}

fn words(variable: &str, meant: Option<&str>) -> (String, String) {
    let hint = meant.map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
    let place = variable.strip_prefix("event.data.").unwrap_or(variable);
    let remedy = if variable.starts_with("member.") {
        format!("a member has {}", MEMBER.join(", "))
    } else if variable.starts_with("event.") && place == variable {
        "an event has id, type, time and data".into()
    } else {
        format!("correct it, or add `{place}` to the template's `sample`")
    };
    (format!("unknown variable `{variable}`{hint}"), remedy)
}

/// Line and column of the first place within `{{ }}` or `{% %}` where a text names a variable.
fn find(text: &str, variable: &str) -> (Option<u32>, Option<u32>) {
    let is_part = |c: char| c.is_alphanumeric() || matches!(c, '_' | '.');
    let inside = |at: usize| {
        let (open, close) = (text[..at].rfind(['{']), text[..at].rfind("}}").max(text[..at].rfind("%}")));
        open.is_some_and(|open| close.is_none_or(|close| close < open))
    };
    text.match_indices(variable)
        .map(|(at, _)| at)
        .find(|at| {
            let (before, after) = (text[..*at].chars().next_back(), text[at + variable.len()..].chars().next());
            !before.is_some_and(is_part) && !after.is_some_and(|c| c.is_alphanumeric() || c == '_') && inside(*at)
        })
        .map_or((None, None), |at| {
            let (line, column) = content::line_and_column(text, at);
            (Some(line), Some(column))
        })
}

fn flows(document: &Definitions, findings: &mut Findings) -> HashMap<String, Vec<Arc<CompiledFlow>>> {
    let mut by_type = HashMap::<String, Vec<Arc<CompiledFlow>>>::new();
    for (name, flow) in &document.flows {
        let path = format!("flows.{name}");
        findings.name(&path, name);
        if flow.version < 1 {
            findings.add(format!("{path}.version"), format!("the version is {}", flow.version), "count from 1");
        }
        if flow.on.trim().is_empty() {
            findings.add(format!("{path}.on"), "no event type triggers the flow", "name a CloudEvents type");
        }
        if flow.notify.expires_after_seconds == Some(0) {
            let remedy = "use at least 1 second, or leave it out for no expiry";
            findings.add(format!("{path}.notify.expires_after_seconds"), "every notification would be expired", remedy);
        }
        channels(document, &path, flow, findings);
        let condition = flow.when.as_deref().and_then(|when| condition(document, &path, flow, when, findings));
        by_type.entry(flow.on.clone()).or_default().push(Arc::new(CompiledFlow {
            name: name.clone(),
            version: flow.version,
            notify: flow.notify.clone(),
            condition,
        }));
    }
    by_type
}

fn channels(document: &Definitions, path: &str, flow: &Flow, findings: &mut Findings) {
    let Some(template) = document.templates.get(&flow.notify.template) else {
        let known = document.templates.keys().map(String::as_str);
        let hint = did_you_mean(&flow.notify.template, known);
        findings.add(
            format!("{path}.notify.template"),
            format!("unknown template `{}`{hint}", flow.notify.template),
            "name a template that is there, or write it",
        );
        return;
    };
    let mut seen = BTreeSet::new();
    for (index, channel) in flow.notify.channels.iter().enumerate() {
        let path = format!("{path}.notify.channels.{index}");
        if !seen.insert(channel) {
            findings.add(path, format!("{channel} is there twice"), "remove one");
        } else if template.channels.get(channel).is_none_or(BTreeMap::is_empty) {
            let problem = format!("template `{}` has no {channel} variant", flow.notify.template);
            findings.add(path, problem, "add one to the template, or remove the channel from the flow");
        }
    }
}

/// Compiles a condition and tries it on the template's sample, where there is one.
fn condition(
    document: &Definitions,
    path: &str,
    flow: &Flow,
    when: &str,
    findings: &mut Findings,
) -> Option<Condition> {
    let path = format!("{path}.when");
    let compiled = match Condition::compile(when) {
        Ok(compiled) => compiled,
        Err(faults) => {
            for fault in faults {
                let remedy = "conditions are CEL over `event` (id, source, type, subject, time, data)";
                findings.at(&path, (fault.line, fault.column), fault.problem, remedy);
            }
            return None;
        }
    };
    let template = document.templates.get(&flow.notify.template).filter(|t| !t.sample.is_empty());
    if let Some(template) = template {
        let (event, data) = sample_event(document, flow, template);
        if let Err(problem) = compiled.holds(&variables(&event, &data)) {
            let problem =
                format!("cannot be evaluated for the sample of template `{}`: {problem}", flow.notify.template);
            findings.add(path, problem, "correct the condition, or the sample");
        }
    }
    Some(compiled)
}

fn sample_event(document: &Definitions, flow: &Flow, template: &Template) -> (Event, Value) {
    let data = content::sample_context(&flow.on, &template.sample)["event"]["data"].take();
    let event = Event {
        project: document.project.name.clone(),
        id: "sample".into(),
        source: "sample".into(),
        kind: flow.on.clone(),
        subject: Some("sample".into()),
        time: Timestamp(1_767_225_600_000),
        accepted_at: Timestamp(1_767_225_600_000),
        data: String::new(),
    };
    (event, data)
}

/// The zone of members who have none of their own.
fn zone(document: &Definitions, findings: &mut Findings) -> TimeZone {
    let name = document.project.time_zone.as_deref().unwrap_or("UTC");
    hours::zone(name).unwrap_or_else(|| {
        let remedy = "use an IANA name, such as `Europe/Madrid`";
        findings.add("project.time_zone", format!("`{name}` is no time zone"), remedy);
        TimeZone::UTC
    })
}

/// Quiet hours and holidays of the project, where they are to be kept.
fn project_hours(document: &Definitions, kept: bool) -> Result<Hours, hours::BadTime> {
    let project = &document.project;
    let (quiet, holidays) = if kept { (project.quiet_hours.as_ref(), &project.holidays[..]) } else { (None, &[][..]) };
    Hours::new(quiet, None, holidays)
}

/// What caps count a lane's messages as, where their flow says nothing.
const fn category_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Transactional => "transactional",
        Lane::Bulk => "marketing",
    }
}

fn terms(path: &str, document: &Definitions, notify: &Notify, findings: &mut Findings) -> Terms {
    if notify.priority > MAX_PRIORITY {
        findings.add(format!("{path}.priority"), format!("priority is {}", notify.priority), "use 0 to 9");
    }
    if let Some(category) = &notify.category {
        findings.name(&format!("{path}.category"), category);
    }
    let kept = notify.quiet.unwrap_or(notify.lane == Lane::Bulk);
    let mut hours = project_hours(document, kept).unwrap_or_default();
    if let Some(window) = &notify.window {
        match Hours::new(None, Some(window), &[]) {
            Ok(of_flow) => {
                if of_flow.window.is_some_and(|(from, to)| from >= to) {
                    let remedy = "let it open before it closes; a night is two windows, or the project's quiet hours";
                    findings.add(format!("{path}.window.to"), "the window has no width", remedy);
                }
                (hours.window, hours.days) = (of_flow.window, of_flow.days);
            }
            Err(error) => findings.add(format!("{path}.window"), error.to_string(), "correct it"),
        }
    }
    let category = notify.category.clone().unwrap_or_else(|| category_of(notify.lane).into());
    let spread = Duration::from_secs(notify.spread_seconds.unwrap_or(0));
    Terms { category, priority: notify.priority, hours, spread }
}

fn caps(document: &Definitions, findings: &mut Findings) {
    let project = &document.project;
    for (name, problem) in [
        ("quiet_hours", Hours::new(project.quiet_hours.as_ref(), None, &[]).err()),
        ("holidays", Hours::new(None, None, &project.holidays).err()),
    ] {
        if let Some(problem) = problem {
            findings.add(format!("project.{name}"), problem.to_string(), "correct it");
        }
    }
    let used: BTreeSet<String> = document
        .flows
        .values()
        .map(|flow| flow.notify.category.clone().unwrap_or_else(|| category_of(flow.notify.lane).into()))
        .chain(Lane::ALL.map(|lane| category_of(lane).into()))
        .collect();
    for (name, cap) in &project.caps {
        let path = format!("project.caps.{name}");
        findings.name(&path, name);
        if cap.most > caps::MOST {
            findings.add(
                format!("{path}.most"),
                format!("most is {}", cap.most),
                format!("use at most {}", caps::MOST),
            );
        }
        if let Per::Hours(hours) = cap.per
            && !(1..=caps::LONGEST_HOURS).contains(&hours)
        {
            let remedy = format!("use 1 to {} hours", caps::LONGEST_HOURS);
            findings.add(format!("{path}.per.hours"), format!("the window has {hours} hours"), remedy);
        }
        if cap.categories.is_empty() {
            let remedy = "name those that it counts, such as `marketing`";
            findings.add(format!("{path}.categories"), "the cap counts no category", remedy);
        }
        for category in cap.categories.iter().filter(|category| !used.contains(*category)) {
            let hint = did_you_mean(category, used.iter().map(String::as_str));
            let remedy = format!("use one that a flow has: {}", used.iter().cloned().collect::<Vec<_>>().join(", "));
            findings.add(
                format!("{path}.categories"),
                format!("no flow is of the category `{category}`{hint}"),
                remedy,
            );
        }
        if cap.keep.values().sum::<u32>() > cap.most {
            let remedy = "keep fewer than there are, or allow more";
            findings.add(format!("{path}.keep"), "more places are kept than there are", remedy);
        }
        if let Some(priority) = cap.keep.keys().find(|priority| !(1..=MAX_PRIORITY).contains(*priority)) {
            findings.add(format!("{path}.keep"), format!("places are kept for priority {priority}"), "use 1 to 9");
        }
    }
}
