//! The rules of definitions. All of them are applied, whatever the others find, so that one run tells everything.
//! A rule only says what is wrong; it changes nothing.

use super::{
    CheckProvider, CompiledFlow, Finding, SettingProblem, Terms,
    condition::{Condition, variables},
    names::{canonical_locale, did_you_mean, is_project_name, name_problem, nearest},
    occasions::{MEMBER, Occasion, occasions, templates_of},
    schema::{contradictions, misfit},
};
use crate::{
    caps,
    content::{
        self, Content, Fault, OwnLink,
        limits::{Beyond, measures},
        parts::{self, Parts},
        scope::{self, Lack, Missing},
        shape,
    },
    digest, fallback,
    hours::{self, Hours},
    score,
};
use bellwether_schemas::{
    Channel, Lane, Timestamp,
    definitions::{
        Category, Consent, Definitions, Digest, Exceed, Fallback, Flow, MessageType, Notify, Per, Place, Project,
        Schema, Template, Title, Tracking, Variant, Weighted, Weights,
    },
    records::Event,
    segments::{
        Encoding::{Gsm7, Ucs2},
        Segments, only_foreign, segments,
    },
};
use jiff::tz::TimeZone;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

/// The greatest priority of a notification.
const MAX_PRIORITY: u8 = 9;
/// Calls at once that a claim window may hold: one bit each in a commit's metadata (law 2).
const MAX_IN_FLIGHT: std::ops::RangeInclusive<u32> = 1..=4096;
/// Longest address of a tracking domain: with a token behind it a link must fit a line of mail, and what providers take.
const MAX_BASE_URL: usize = 200;
/// Keys that links may have been sealed with before: each is tried for each link.
const MAX_PREVIOUS_KEYS: usize = 8;

/// What the checks made on their way; of what is wrong, as much as could be made.
pub(super) struct Checked {
    pub(super) flows_by_type: HashMap<String, Vec<Arc<CompiledFlow>>>,
    pub(super) providers: BTreeMap<Channel, Vec<String>>,
    pub(super) prefixes: HashMap<String, &'static str>,
    pub(super) content: Content,
    pub(super) terms: HashMap<String, Terms>,
    pub(super) other_terms: [Terms; 2],
    pub(super) zone: TimeZone,
    pub(super) categories: BTreeMap<String, Category>,
    /// What is wrong, ordered by path.
    pub(super) findings: Vec<Finding>,
    /// What is allowed and worth a look; ordered by path.
    pub(super) remarks: Vec<Finding>,
}

/// Applies every rule.
pub(super) fn validate(document: &Definitions, check: CheckProvider<'_>) -> Checked {
    let mut findings = Findings::default();
    let has_default = project(document, &mut findings);
    let (providers, prefixes) = providers(document, check, &mut findings);
    events(document, &mut findings);
    let content = templates(document, &mut findings);
    if has_default {
        default_locale(document, &mut findings);
    }
    if let Some(providers) = &providers {
        unserved_channels(document, providers, &mut findings);
    }
    types(document, providers.as_ref(), &mut findings);
    let flows_by_type = flows(document, &mut findings);
    let zone = zone(document, &mut findings);
    caps(document, &mut findings);
    let categories = categories(document, has_default, &mut findings);
    routing(document, &mut findings);
    let terms = document.flows.iter().map(|(name, flow)| {
        let path = format!("flows.{name}.notify");
        (name.clone(), terms(&path, document, &flow.notify, &mut findings))
    });
    let terms: HashMap<_, _> = terms.collect();
    // What the project says was told of already, if it is wrong.
    let other_terms = Lane::ALL.map(|lane| {
        let hours = project_hours(document, lane == Lane::Bulk).unwrap_or_default();
        Terms {
            category: category_of(lane).into(),
            priority: 0,
            hours,
            spread: Duration::ZERO,
            fallback: None,
            digest: None,
        }
    });
    let Findings { mut wrong, mut remarks } = findings;
    for all in [&mut wrong, &mut remarks] {
        all.sort();
        all.dedup();
    }
    Checked {
        flows_by_type,
        providers: providers.unwrap_or_default(),
        prefixes,
        content,
        terms,
        other_terms,
        zone,
        categories,
        findings: wrong,
        remarks,
    }
}

#[derive(Default)]
struct Findings {
    /// What must be corrected.
    wrong: Vec<Finding>,
    /// What is only to be known.
    remarks: Vec<Finding>,
}

/// Line and column in a text, from 1, where they are known.
type At = (Option<u32>, Option<u32>);

fn finding(
    path: impl Into<String>,
    (line, column): At,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { path: path.into(), line, column, problem: problem.into(), remedy: remedy.into() }
}

impl Findings {
    fn add(&mut self, path: impl Into<String>, problem: impl Into<String>, remedy: impl Into<String>) {
        self.at(path, (None, None), problem, remedy);
    }

    fn at(&mut self, path: impl Into<String>, place: At, problem: impl Into<String>, remedy: impl Into<String>) {
        self.wrong.push(finding(path, place, problem, remedy));
    }

    fn remark(&mut self, path: impl Into<String>, place: At, problem: impl Into<String>, remedy: impl Into<String>) {
        self.remarks.push(finding(path, place, problem, remedy));
    }

    /// Something wrong with a text, or with a part that it uses.
    fn fault(&mut self, path: &str, fault: Fault, prefix: &str, remedy: impl Into<String>) {
        let path = fault.part.map_or_else(|| path.to_owned(), |file| path_of_part(&file));
        self.at(path, (fault.line, fault.column), format!("{prefix}{}", fault.problem), remedy);
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
    for (name, declared) in project.attributes.iter().flatten() {
        schema(&format!("project.attributes.{name}"), declared, findings);
    }
    search(project, findings);
    twice("project.channels", &project.channels, findings);
    if let Some(settings) = &project.tracking {
        tracking(settings, findings);
    }
    is_locale
}

fn search(project: &Project, findings: &mut Findings) {
    const PATH: &str = "project.search";
    if project.search.len() > Project::MAX_SEARCH {
        let problem = format!("there are {} attributes", project.search.len());
        let remedy = format!("name at most {}: each is a row for every member who has it", Project::MAX_SEARCH);
        findings.add(PATH, problem, remedy);
    }
    for (index, name) in project.search.iter().enumerate() {
        let path = format!("{PATH}.{index}");
        if project.search[..index].contains(name) {
            findings.add(path, format!("`{name}` is there twice"), "remove one");
        } else if let Some(declared) = &project.attributes
            && !declared.contains_key(name)
        {
            let hint = did_you_mean(name, declared.keys().map(String::as_str));
            findings.add(
                path,
                format!("unknown attribute `{name}`{hint}"),
                "declare it under `attributes` in project.yaml",
            );
        }
    }
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

/// `partials.footer.html` of `partials/footer.html`.
fn path_of_part(file: &str) -> String {
    file.replacen('/', ".", 1)
}

fn schema(path: &str, schema: &Schema, findings: &mut Findings) {
    for (place, problem, remedy) in contradictions(schema) {
        findings.add(format!("{path}.{place}"), problem, remedy);
    }
}

fn events(document: &Definitions, findings: &mut Findings) {
    let mut kinds = BTreeMap::new();
    for (name, event) in &document.events {
        let path = format!("events.{name}");
        findings.name(&path, name);
        if event.kind.trim().is_empty() {
            findings.add(format!("{path}.type"), "the event has no type", "name its CloudEvents type");
        }
        if let Some(first) = kinds.insert(&event.kind, name) {
            let problem = format!("`{}` is declared by `{first}` too", event.kind);
            findings.add(format!("{path}.type"), problem, "declare each type once");
        }
        schema(&format!("{path}.data"), &event.data, findings);
        for shadowed in ["event", "member"].into_iter().filter(|name| event.data.properties.contains_key(*name)) {
            let remedy = format!("rename the field: in templates `{shadowed}` is always the {shadowed} itself");
            findings.add(
                format!("{path}.data.properties.{shadowed}"),
                format!("the event's data cannot shadow `{shadowed}`"),
                remedy,
            );
        }
        if event.samples.is_empty() {
            findings.add(format!("{path}.samples"), "the event has no sample", "add one: templates are tried with it");
        }
        for (name, sample) in &event.samples {
            let path = format!("{path}.samples.{name}");
            if let Some(misfit) = misfit(&event.data, &sample.data) {
                let place = if misfit.field.is_empty() { String::new() } else { format!(".{}", misfit.field) };
                let what = if misfit.field.is_empty() { "the data" } else { misfit.field.as_str() };
                findings.add(
                    format!("{path}.data{place}"),
                    format!("`{what}` {}", misfit.problem),
                    "correct the sample, or the schema",
                );
            }
            sample_member(document, &format!("{path}.member"), &sample.member, findings);
        }
    }
}

fn sample_member(document: &Definitions, path: &str, member: &serde_json::Map<String, Value>, findings: &mut Findings) {
    for field in member.keys().filter(|field| !MEMBER.contains(&field.as_str())) {
        let hint = did_you_mean(field, MEMBER);
        findings.add(
            format!("{path}.{field}"),
            format!("a member has no `{field}`{hint}"),
            format!("use {}", MEMBER.join(", ")),
        );
    }
    let Some(declared) = &document.project.attributes else { return };
    for (name, value) in member.get("attributes").and_then(Value::as_object).into_iter().flatten() {
        let path = format!("{path}.attributes.{name}");
        match declared.get(name).map(|schema| misfit(schema, value)) {
            Some(None) => {}
            Some(Some(misfit)) => findings.add(path, format!("`{name}` {}", misfit.problem), "correct the sample"),
            None => {
                let hint = did_you_mean(name, declared.keys().map(String::as_str));
                findings.add(
                    path,
                    format!("unknown attribute `{name}`{hint}"),
                    "declare it under `attributes` in project.yaml",
                );
            }
        }
    }
}

fn templates(document: &Definitions, findings: &mut Findings) -> Content {
    let parts = Parts::of(document);
    check_parts(document, &parts, findings);
    let mut content = Content::new(&document.project.default_locale, zone_name(document));
    if document.project.tracking.is_some() {
        content.offer_links();
    }
    for (name, template) in &document.templates {
        let path = format!("templates.{name}");
        content.add(&parts, name, template, |channel, locale, place, fault| {
            let place = format!("{path}.channels.{channel}.{locale}.{place}");
            findings.fault(&place, fault, "", "correct the template");
        });
    }
    let globals = content.globals();
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
        let occasions = occasions(document, name);
        if occasions.is_empty() {
            findings.remark(
                path.as_str(),
                (None, None),
                "no flow tells this template, so that it was not tried",
                "tell it by a flow or type, or remove it",
            );
        }
        if let Some(event) = occasions.iter().find_map(|occasion| occasion.event.as_ref())
            && !template.sample.is_empty()
            && occasions.iter().all(|occasion| occasion.event.is_some())
        {
            let remedy = format!("move it to `samples` in events/{event}.yaml");
            findings.add(
                format!("{path}.sample"),
                format!("the event is declared as `{event}`, and has samples of its own"),
                remedy,
            );
        }
        let tried = Tried { name, content: &content, occasions: &occasions, parts: &parts, globals: &globals };
        for (channel, locales) in &template.channels {
            let path = format!("{path}.channels.{channel}");
            for (locale, variant) in locales {
                let path = format!("{path}.{locale}");
                if findings.locale(&path, locale) {
                    fields(&path, *channel, variant, findings);
                    texts(&path, &tried, (*channel, locale, variant), findings);
                }
            }
        }
    }
    content
}

/// What is wrong with parts as such: their names, their own text, and what they refer to.
fn check_parts(document: &Definitions, parts: &Parts<'_>, findings: &mut Findings) {
    for (folder, files) in [("partials", &document.partials), ("layouts", &document.layouts)] {
        for file in files.keys() {
            let path = format!("{folder}.{file}");
            match parts::read_name(file) {
                Some((name, locale)) => {
                    findings.name(&path, name.split('.').next().unwrap_or_default());
                    // A locale that is none makes the name unreadable; this one is only spelled.
                    if let Some(locale) = locale {
                        findings.locale(&path, locale);
                    }
                }
                None => {
                    let remedy =
                        format!("name it NAME.KIND or NAME.LOCALE.KIND, with a kind of {}", parts::KINDS.join(", "));
                    findings.add(path, format!("`{file}` is no name of a part"), remedy);
                }
            }
        }
    }
    for (file, text) in parts.files() {
        let path = path_of_part(file);
        if let Some(fault) = content::part_fault(text) {
            findings.fault(&path, fault, "", "correct it");
        }
        let locale = file.split_once('/').and_then(|(_, file)| parts::read_name(file)?.1);
        let locale = locale.unwrap_or(&document.project.default_locale);
        for (at, problem, remedy) in parts.wrong_references(text, parts::kind(file), locale) {
            findings.at(&path, place(text, at), problem, remedy);
        }
    }
    for (file, at, way) in parts.cycles() {
        let text = parts.text_of(file).unwrap_or_default();
        findings.at(path_of_part(file), place(text, at), format!("comes to include itself: {way}"), "break the circle");
    }
}

fn place(text: &str, byte: usize) -> (Option<u32>, Option<u32>) {
    let (line, column) = content::line_and_column(text, byte);
    (Some(line), Some(column))
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
struct Makeup {
    /// In words.
    message: &'static str,
    /// Groups of fields, of each of which at least one must be there, and what to do about it.
    needed: &'static [(&'static [&'static str], &'static str)],
    /// What may be there beside these.
    allowed: &'static [&'static str],
}

const fn makeup(channel: Channel) -> Makeup {
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
    Makeup { message, needed, allowed }
}

fn fields(path: &str, channel: Channel, variant: &Variant, findings: &mut Findings) {
    let Makeup { message, needed, allowed } = makeup(channel);
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

/// With what the texts of a template are tried.
struct Tried<'t> {
    name: &'t str,
    content: &'t Content,
    occasions: &'t [Occasion],
    parts: &'t Parts<'t>,
    globals: &'t BTreeSet<&'t str>,
}

/// Looks for parts and variables that nothing provides, then renders with every sample, then measures what came of it.
fn texts(
    path: &str,
    tried: &Tried<'_>,
    (channel, locale, variant): (Channel, &str, &Variant),
    findings: &mut Findings,
) {
    let mut sources = variant.clone();
    let mut has_gaps = BTreeSet::new();
    let mut is_whole = true;
    for (place, text) in sources.texts_mut() {
        let place_name = place.to_string();
        let path = format!("{path}.{place_name}");
        let name = format!("{}.{place_name}", tried.name);
        let kind = if content::is_mjml(channel, place, text) { "mjml" } else { parts::kind(&name) };
        for (at, problem, remedy) in tried.parts.wrong_references(text, kind, locale) {
            findings.at(&path, self::place(text, at), problem, remedy);
            has_gaps.insert(place_name.clone());
        }
        if !tried.content.has_text(tried.name, channel, locale, &place_name) {
            is_whole = false;
            continue;
        }
        for occasion in tried.occasions {
            for missing in scope::missing(text, &occasion.root, tried.globals, tried.parts, locale) {
                let source =
                    missing.part.as_deref().map_or(text.as_str(), |file| tried.parts.text_of(file).unwrap_or_default());
                let at = self::place(source, missing.at);
                let (problem, remedy) = words(&missing, occasion);
                let path = missing.part.as_deref().map_or_else(|| path.clone(), path_of_part);
                findings.at(path, at, problem, remedy);
                has_gaps.insert(place_name.clone());
            }
        }
    }
    let contexts =
        tried.occasions.iter().flat_map(|occasion| occasion.samples.iter().map(move |sample| (occasion, sample)));
    for (occasion, (sample, context)) in contexts {
        let sample = match &occasion.event {
            Some(event) => format!("sample `{sample}` of event `{event}`"),
            None => "the sample".to_owned(),
        };
        let mut rendered = variant.clone();
        let mut is_rendered = is_whole;
        for (place, text) in rendered.texts_mut() {
            if !tried.content.has_text(tried.name, channel, locale, &place.to_string()) {
                continue;
            }
            let path = format!("{path}.{place}");
            match tried.content.try_sample(tried.name, channel, locale, place, context) {
                Ok(said) => {
                    is_json(&path, place, &said, &sample, findings);
                    confirms(&path, channel, &occasion.kind, &said, findings);
                    *text = said;
                }
                Err(fault) => {
                    is_rendered = false;
                    // What is missing has been told, at its place.
                    if !has_gaps.contains(&place.to_string()) {
                        let remedy = if fault.undefined {
                            "give it a `default(…)`, or add it to the sample (what every member has: under its `member`)"
                        } else {
                            "correct the template, or the sample"
                        };
                        findings.fault(&path, fault, &format!("cannot be rendered with {sample}: "), remedy);
                    }
                }
            }
        }
        if is_rendered {
            let is_sendable = lengths(path, channel, &rendered, &sample, findings);
            if let (Channel::Sms, true, Some(said)) = (channel, is_sendable, &rendered.text) {
                let text = variant.text.as_deref().unwrap_or_default();
                cost_of_text(&format!("{path}.text"), text, said, &sample, findings);
            }
        }
    }
}

/// Whether providers would take it at all.
fn lengths(path: &str, channel: Channel, rendered: &Variant, sample: &str, findings: &mut Findings) -> bool {
    let mut is_sendable = true;
    for measure in measures(channel, rendered).into_iter().filter(content::limits::Measure::is_exceeded) {
        let limit = measure.limit;
        let problem = format!("with {sample}, {} has {} {}", limit.what, measure.size, limit.unit.name());
        let remedy = format!("at most {} fit: shorten it ({})", limit.most, limit.source);
        let path = format!("{path}.{}", limit.field);
        match limit.beyond {
            Beyond::Refused => {
                is_sendable = false;
                findings.add(path, problem, remedy);
            }
            Beyond::Remark => findings.remark(path, (None, None), problem, remedy),
        }
    }
    is_sendable
}

/// What a text message is billed as, where that may be a surprise.
fn cost_of_text(path: &str, text: &str, rendered: &str, sample: &str, findings: &mut Findings) {
    let counted = segments(rendered);
    if let Some(foreign) = only_foreign(rendered) {
        let at = text.find(foreign).map_or((None, None), |at| place(text, at));
        let problem =
            format!("`{foreign}` (U+{:04X}) alone makes UCS-2 of a GSM-7 text ({counted})", u32::from(foreign));
        let remedy = format!("another character leaves room for {} instead of {}", Gsm7.alone(), Ucs2.alone());
        findings.remark(path, at, problem, remedy);
    } else if counted.segments > 1 {
        let Segments { encoding, units, .. } = counted;
        let problem = format!("the message of {sample} makes {counted}, each of which is billed");
        let remedy = format!("{} of its {units} units fit into one", encoding.alone());
        findings.remark(path, (None, None), problem, remedy);
    }
}

fn is_json(path: &str, place: Place<'_>, rendered: &str, sample: &str, findings: &mut Findings) {
    if place.0 == "json"
        && let Err(error) = serde_json::from_str::<serde::de::IgnoredAny>(rendered)
    {
        findings.add(path, format!("with {sample} this is no JSON: {error}"), "correct the template");
    }
}

/// A link that confirms an address, in a message that no address waits for.
fn confirms(path: &str, channel: Channel, event: &str, rendered: &str, findings: &mut Findings) {
    let is_waited_for = channel == Channel::Email && event == Event::UNCONFIRMED;
    if rendered.contains(OwnLink::Confirm.place()) && !is_waited_for {
        let problem = format!("`{}` has nothing to confirm here", OwnLink::Confirm.variable());
        let remedy = format!("name it only in e-mail of flows on `{}`", Event::UNCONFIRMED);
        findings.remark(path, (None, None), problem, remedy);
    }
}

/// Problem and remedy of a variable that may not be there.
fn words(missing: &Missing, occasion: &Occasion) -> (String, String) {
    let variable = &missing.variable;
    let place = variable.strip_prefix("event.data.").unwrap_or(variable);
    let attribute = variable.strip_prefix("member.attributes.");
    let declares = match (&occasion.event, attribute) {
        (_, Some(_)) => "under `attributes` in project.yaml".to_owned(),
        (Some(event), None) => format!("in events/{event}.yaml"),
        (None, None) => "in the template's `sample`".to_owned(),
    };
    match &missing.lack {
        Lack::Unknown(meant) => {
            let hint = meant.as_ref().map(|meant| format!(" (did you mean `{meant}`?)")).unwrap_or_default();
            let remedy = if variable.starts_with("member.") && attribute.is_none() {
                format!("a member has {}", MEMBER.join(", "))
            } else if variable.starts_with("event.") && place == variable {
                "an event has id, type, time and data".into()
            } else if let Some(attribute) = attribute {
                format!("correct it, or declare `{attribute}` {declares}")
            } else if occasion.event.is_some() {
                format!("correct it, or declare `{place}` {declares}")
            } else {
                format!("correct it, or add `{place}` to the template's `sample`")
            };
            (format!("unknown variable `{variable}`{hint}"), remedy)
        }
        Lack::Optional => {
            let copes = format!("write `{variable} | default(…)`, or ask `{{% if {variable} is defined %}}`");
            let remedy = match (&occasion.event, variable.starts_with("member.")) {
                (Some(_), false) => format!("{copes}, or list it as `required` {declares}"),
                (None, true) if attribute.is_none() => format!("{copes}, or give the sample a `member` that has it"),
                _ => copes,
            };
            (format!("`{variable}` is not always there"), remedy)
        }
    }
}

fn types(document: &Definitions, providers: Option<&BTreeMap<Channel, Vec<String>>>, findings: &mut Findings) {
    for (id, kind) in &document.types {
        let path = format!("types.{id}");
        findings.name(&path, id);
        if kind.templates.iter().all(|weighted| weighted.weight == 0) {
            let remedy = "add a template, with a weight above 0";
            findings.add(format!("{path}.templates"), "no template has a weight", remedy);
        }
        twice(&format!("{path}.channels"), &kind.channels, findings);
        let mut seen = BTreeSet::new();
        for (index, Weighted { template, .. }) in kind.templates.iter().enumerate() {
            let path = format!("{path}.templates.{index}.template");
            match document.templates.get(template) {
                _ if !seen.insert(template) => {
                    findings.add(path, format!("`{template}` is there twice"), "add the weights up")
                }
                None => unknown_template(document, &path, template, findings),
                Some(known) => {
                    for channel in kind.channels.iter().filter(|channel| !has_variant(known, **channel)) {
                        let problem = format!("template `{template}` has no {channel} variant");
                        findings.add(
                            path.as_str(),
                            problem,
                            "add one to the template, or remove the channel from the type",
                        );
                    }
                }
            }
        }
        if let Some(providers) = providers {
            sender(document, &path, kind, providers, findings);
        }
        // Who sends is asked of the template, as deliveries name that alone.
        for Weighted { template, .. } in &kind.templates {
            let others = document.types.iter().filter(|(other, it)| *other < id && it.sender != kind.sender);
            let mut others =
                others.filter(|(_, it)| it.templates.iter().any(|weighted| weighted.template == *template));
            if let Some((other, _)) = others.next() {
                let problem = format!("template `{template}` is in type `{other}` too, which has another sender");
                findings.add(
                    format!("{path}.sender"),
                    problem,
                    "give both types one sender, or the template another name",
                );
            }
        }
    }
}

fn sender(
    document: &Definitions,
    path: &str,
    kind: &MessageType,
    providers: &BTreeMap<Channel, Vec<String>>,
    findings: &mut Findings,
) {
    let Some(sender) = &kind.sender else { return };
    let path = format!("{path}.sender");
    if !document.providers.contains_key(sender) {
        let hint = did_you_mean(sender, document.providers.keys().map(String::as_str));
        findings.add(path, format!("unknown provider `{sender}`{hint}"), "name one of providers.yaml");
        return;
    }
    let serves = |channel: &Channel| providers.get(channel).is_some_and(|names| names.contains(sender));
    if !kind.channels.is_empty() && !kind.channels.iter().any(serves) {
        let problem = format!("`{sender}` serves none of the type's channels");
        findings.add(path, problem, "name a provider of one of them");
    }
}

fn twice(path: &str, channels: &[Channel], findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (index, channel) in channels.iter().enumerate().filter(|(_, channel)| !seen.insert(**channel)) {
        findings.add(format!("{path}.{index}"), format!("{channel} is there twice"), "remove one");
    }
}

fn has_variant(template: &Template, channel: Channel) -> bool {
    template.channels.get(&channel).is_some_and(|locales| !locales.is_empty())
}

fn unknown_template(document: &Definitions, path: &str, template: &str, findings: &mut Findings) {
    let hint = did_you_mean(template, document.templates.keys().map(String::as_str));
    findings.add(path, format!("unknown template `{template}`{hint}"), "name a template that is there, or write it");
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
        notify(document, &path, flow, findings);
        let condition = flow.when.as_deref().and_then(|when| condition(document, &path, flow, when, findings));
        by_type.entry(flow.on.clone()).or_default().push(Arc::new(CompiledFlow::new(document, name, flow, condition)));
    }
    by_type
}

fn notify(document: &Definitions, path: &str, flow: &Flow, findings: &mut Findings) {
    let path = format!("{path}.notify");
    match (&flow.notify.template, &flow.notify.kind) {
        (Some(_), Some(_)) => {
            findings.add(format!("{path}.type"), "both a template and a type", "name one: a type chooses its template");
        }
        (None, None) => {
            findings.add(format!("{path}.template"), "neither a template nor a type", "add `template` or `type`")
        }
        (Some(template), None) if !document.templates.contains_key(template) => {
            unknown_template(document, &format!("{path}.template"), template, findings);
        }
        (None, Some(kind)) if !document.types.contains_key(kind) => {
            let hint = did_you_mean(kind, document.types.keys().map(String::as_str));
            findings.add(
                format!("{path}.type"),
                format!("unknown type `{kind}`{hint}"),
                "name a type that is there, or write it",
            );
        }
        _ => {}
    }
    fallback(document, &path, flow, findings);
    digest(document, &path, flow, findings);
    let path = format!("{path}.channels");
    twice(&path, &flow.notify.channels, findings);
    for template in templates_of(document, flow) {
        let Some(known) = document.templates.get(template) else { continue };
        let lacks = |channel: &Channel| !has_variant(known, *channel);
        for (index, channel) in flow.notify.channels.iter().enumerate().filter(|(_, channel)| lacks(channel)) {
            let problem = format!("template `{template}` has no {channel} variant");
            let remedy = "add one to the template, or remove the channel from the flow";
            findings.add(format!("{path}.{index}"), problem, remedy);
        }
    }
}

/// Whether there is time for another channel, and another channel.
fn fallback(document: &Definitions, path: &str, flow: &Flow, findings: &mut Findings) {
    let Some(Fallback { after_seconds: after }) = flow.notify.fallback else { return };
    let path = format!("{path}.fallback");
    let most = fallback::LONGEST.as_secs();
    if !(1..=most).contains(&after) {
        let problem = format!("the next channel would have its turn after {after} s");
        findings.add(format!("{path}.after_seconds"), problem, format!("use 1 to {most} s"));
    }
    if let Some(expiry) = flow.notify.expires_after_seconds.filter(|expiry| *expiry <= after) {
        let problem = format!("after {after} s the notification has expired, at {expiry} s");
        findings.add(
            format!("{path}.after_seconds"),
            problem,
            "let the next channel try sooner, or let it expire later",
        );
    }
    let of_type = flow.notify.kind.as_ref().and_then(|kind| document.types.get(kind)).map(|kind| &kind.channels);
    let named = of_type.filter(|_| flow.notify.channels.is_empty()).unwrap_or(&flow.notify.channels);
    for template in templates_of(document, flow) {
        let Some(known) = document.templates.get(template) else { continue };
        let is_usable = |channel: &Channel| named.is_empty() || named.contains(channel);
        let usable = Channel::ALL.into_iter().filter(|channel| has_variant(known, *channel) && is_usable(channel));
        let usable: Vec<_> = usable.map(Channel::name).collect();
        if let [only] = usable[..] {
            let problem = format!("there is no other channel: template `{template}` goes by {only} alone");
            let remedy = "give the template another channel, let the flow name more of them, or remove `fallback`";
            findings.add(&path, problem, remedy);
        }
    }
}

/// Whether there is time to gather, and something to check the template with.
fn digest(document: &Definitions, path: &str, flow: &Flow, findings: &mut Findings) {
    let Some(Digest { after_seconds: after, key, most }) = &flow.notify.digest else { return };
    let path = format!("{path}.digest");
    let longest = digest::LONGEST.as_secs();
    if *after > longest {
        let remedy = format!("use 0 to {longest} s");
        findings.add(format!("{path}.after_seconds"), format!("it gathers for {after} s"), remedy);
    }
    match most {
        Some(most) if *after == 0 => {
            let problem = format!("with `after_seconds: 0` nothing is gathered that could come to {most}");
            findings.add(format!("{path}.most"), problem, "remove it, or gather for a while");
        }
        Some(most) if !(2..=digest::MAX_ITEMS).contains(&(*most as usize)) => {
            let remedy = format!("use 2 to {}", digest::MAX_ITEMS);
            findings.add(format!("{path}.most"), format!("it goes out with {most}"), remedy);
        }
        _ => {}
    }
    if let Some(expiry) = flow.notify.expires_after_seconds.filter(|expiry| *expiry <= *after) {
        let problem = format!("after {after} s the first event has expired, at {expiry} s");
        findings.add(format!("{path}.after_seconds"), problem, "gather for a shorter time, or let it expire later");
    }
    if flow.notify.spread_seconds.is_some() {
        let remedy = "remove one of them: each member's digest has its own time already";
        findings.add(&path, "a digest is not spread", remedy);
    }
    match document.events.iter().find(|(_, event)| event.kind == flow.on) {
        None => {
            let remedy = "declare it in events/NAME.yaml: a digest's template is tried with its samples";
            findings.add(path, format!("the event `{}` is not declared", flow.on), remedy);
        }
        Some((name, event)) => {
            if let Some(key) = key {
                digest_key(&format!("{path}.key"), key, name, &event.data, findings);
            }
        }
    }
}

/// Whether the event's data has such a field, of a value by which events can be told apart.
fn digest_key(path: &str, key: &str, event: &str, data: &Schema, findings: &mut Findings) {
    let mut shape = shape::Shape::declared(data);
    let mut before = String::new();
    for name in key.split('.') {
        let Some(field) = shape.get(name) else {
            let meant = nearest(name, shape.names()).map(|meant| format!(" (did you mean `{before}{meant}`?)"));
            let problem = format!("unknown field `{key}`{}", meant.unwrap_or_default());
            findings.add(path, problem, format!("correct it, or declare `{key}` in events/{event}.yaml"));
            return;
        };
        before += &format!("{name}.");
        shape = field.shape;
    }
    if shape != shape::Shape::Scalar {
        let problem = format!("`{key}` is not declared as text, number or boolean");
        findings.add(path, problem, format!("name a field that is, or declare its type in events/{event}.yaml"));
    }
}

/// Compiles a condition, looks for fields that nothing declares, and tries it on every sample.
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
    let declared = document.events.iter().find(|(_, event)| event.kind == flow.on);
    if let Some((name, event)) = declared {
        let faults = compiled.misread(&shape::Shape::declared(&event.data));
        let is_read = faults.is_empty();
        for fault in faults {
            let remedy = format!("correct it, guard it with `has(…)`, or declare it in events/{name}.yaml");
            findings.at(&path, (fault.line, fault.column), fault.problem, remedy);
        }
        for (sample, tried) in event.samples.iter().filter(|_| is_read) {
            let of = format!("sample `{sample}` of event `{name}`");
            holds(document, &path, flow, (&compiled, &tried.data, &of), findings);
        }
    } else {
        let samples = templates_of(document, flow).filter_map(|name| Some((name, document.templates.get(name)?)));
        for (name, template) in samples.filter(|(_, template)| !template.sample.is_empty()) {
            let mut data = template.sample.clone();
            data.remove("member");
            let of = format!("the sample of template `{name}`");
            holds(document, &path, flow, (&compiled, &Value::Object(data), &of), findings);
        }
    }
    Some(compiled)
}

/// Whether a condition has an answer for a sample.
fn holds(
    document: &Definitions,
    path: &str,
    flow: &Flow,
    (condition, data, of): (&Condition, &Value, &str),
    findings: &mut Findings,
) {
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
    if let Err(problem) = condition.holds(&variables(&event, data)) {
        let problem = format!("cannot be evaluated for {of}: {problem}");
        findings.add(path, problem, "correct the condition, or the sample");
    }
}

fn zone_name(document: &Definitions) -> &str {
    document.project.time_zone.as_deref().unwrap_or("UTC")
}

/// The zone of members who have none of their own.
fn zone(document: &Definitions, findings: &mut Findings) -> TimeZone {
    let name = zone_name(document);
    hours::zone(name).unwrap_or_else(|| {
        let remedy = "use an IANA name, such as `Europe/Madrid`";
        findings.add("project.time_zone", format!("`{name}` is no time zone"), remedy);
        TimeZone::UTC
    })
}

/// Quiet hours and holidays, where they are to be kept.
fn project_hours(document: &Definitions, kept: bool) -> Result<Hours, hours::BadTime> {
    let project = &document.project;
    let (quiet, holidays) = if kept { (project.quiet_hours.as_ref(), &project.holidays[..]) } else { (None, &[][..]) };
    Ok(Hours { keeps_own: kept, ..Hours::new(quiet, None, holidays)? })
}

/// What a lane's messages are, where their flow says nothing.
const fn category_of(lane: Lane) -> &'static str {
    match lane {
        Lane::Transactional => Category::TRANSACTIONAL,
        Lane::Bulk => Category::MARKETING,
    }
}

/// What a flow's messages are.
fn category(notify: &Notify) -> &str {
    notify.category.as_deref().unwrap_or_else(|| category_of(notify.lane))
}

/// The categories: declared, built in, and while none is declared those that flows name, of which the bulk lane's need consent.
fn categories(document: &Definitions, has_default: bool, findings: &mut Findings) -> BTreeMap<String, Category> {
    let project = &document.project;
    let mut all = Category::built_in();
    for (name, category) in &project.categories {
        let path = format!("project.categories.{name}");
        findings.name(&path, name);
        let title = title(&format!("{path}.title"), &category.title, has_default.then_some(project), findings);
        all.insert(name.clone(), Category { title, consent: category.consent });
    }
    let declared = all.clone();
    for (name, flow) in &document.flows {
        let Some(category) = flow.notify.category.as_ref().filter(|named| !declared.contains_key(*named)) else {
            continue;
        };
        if !project.categories.is_empty() {
            let hint = did_you_mean(category, declared.keys().map(String::as_str));
            let remedy = format!(
                "declare it in `project.categories`, or use one of {}",
                declared.keys().cloned().collect::<Vec<_>>().join(", ")
            );
            let problem = format!("the category `{category}` is not declared{hint}");
            findings.add(format!("flows.{name}.notify.category"), problem, remedy);
        }
        let of_lane = if flow.notify.lane == Lane::Bulk { Consent::Required } else { Consent::Assumed };
        let used = all
            .entry(category.clone())
            .or_insert_with(|| Category { title: Title::Plain(category.clone()), consent: of_lane });
        if of_lane == Consent::Required {
            used.consent = of_lane;
        }
    }
    all
}

/// The title, with a text for whoever has none of its locales.
fn title(path: &str, title: &Title, project: Option<&Project>, findings: &mut Findings) -> Title {
    let texts = match title {
        Title::Plain(text) if text.trim().is_empty() => {
            findings.add(path, "the title is empty", "write what members read");
            return title.clone();
        }
        Title::Plain(_) => return title.clone(),
        Title::ByLocale(texts) => texts,
    };
    for (locale, text) in texts {
        let path = format!("{path}.{locale}");
        if locale != Title::OTHERS {
            findings.locale(&path, locale);
        }
        if text.trim().is_empty() {
            findings.add(path, "the title is empty", "write what members read");
        }
    }
    let mut texts = texts.clone();
    if let Some(project) = project.filter(|_| !texts.contains_key(Title::OTHERS)) {
        match texts.get(&project.default_locale).cloned() {
            Some(text) => drop(texts.insert(Title::OTHERS.to_owned(), text)),
            None => findings.add(
                path,
                format!("there is no title in the default locale `{}`", project.default_locale),
                "add it: it is shown to whoever reads none of the others",
            ),
        }
    }
    Title::ByLocale(texts)
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
    let category = category(notify).to_owned();
    let spread = Duration::from_secs(notify.spread_seconds.unwrap_or(0));
    let fallback = notify.fallback.map(|fallback| Duration::from_secs(fallback.after_seconds));
    Terms { category, priority: notify.priority, hours, spread, fallback, digest: notify.digest.clone() }
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
        .map(|flow| category(&flow.notify).to_owned())
        .chain(Lane::ALL.map(|lane| category_of(lane).into()))
        .chain(project.categories.keys().cloned())
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
        let counted = |flow: &Flow| cap.categories.iter().any(|counted| counted == category(&flow.notify));
        for (flow, one) in document.flows.iter().filter(|(_, flow)| cap.exceed == Exceed::Digest && counted(flow)) {
            if one.notify.digest.is_none() {
                let problem = format!("flow `{flow}`, of category `{}`, has no digest", category(&one.notify));
                let remedy = "add `digest: {after_seconds: 0}` to the flow, or let the cap `drop` or `defer`";
                findings.add(format!("{path}.exceed"), problem, remedy);
            }
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

fn routing(document: &Definitions, findings: &mut Findings) {
    const PATH: &str = "project.routing";
    let Some(routing) = &document.project.routing else { return };
    let Weights { reach, engagement, cost } = &routing.weights;
    let weights = [("reach", reach), ("engagement", engagement), ("cost", cost)];
    let weighed = weights.map(|(name, weight)| (format!("{PATH}.weights.{name}"), "weight", weight));
    let costs = routing.costs.iter().map(|(channel, cost)| (format!("{PATH}.costs.{channel}"), "cost", cost));
    for (path, what, number) in weighed.into_iter().chain(costs) {
        if number.as_f64().is_none_or(|number| !(0.0..=score::MOST).contains(&number)) {
            findings.add(path, format!("the {what} is {number}"), format!("use 0 to {}", score::MOST));
        }
    }
    if weights.iter().all(|(_, weight)| weight.as_f64() == Some(0.0)) {
        findings.add(format!("{PATH}.weights"), "no part of a score counts", "give one a weight above 0");
    }
}
