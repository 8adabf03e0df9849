//! Texts that others include, import or extend: which there are, which one a locale gets, and what refers to what.
//! A part is named as its file is, `partials/footer.html`; `partials/footer.es.html` is the same for Spanish. Reads no file.

use super::{Fault, line_and_column, shorter, tag_length, too_deep};
use crate::definitions::{canonical_locale, did_you_mean};
use bellwether_schemas::definitions::Definitions;
use minijinja::machinery::{
    ast::{Expr, Stmt},
    parse,
};
use std::collections::{BTreeMap, HashMap};

/// What a part may be written in; its variables are escaped accordingly.
pub(crate) const KINDS: [&str; 4] = ["html", "txt", "json", "mjml"];
/// Bytes of an MJML text once its parts are put in.
const MAX_EXPANDED: usize = 1 << 20;
/// MJML parts within each other, and in one text in all.
const MAX_DEPTH: usize = 8;
const MAX_PARTS: usize = 1_000;

/// The parts of a project.
#[derive(Debug, Default)]
pub(crate) struct Parts<'d> {
    default_locale: &'d str,
    /// By name, then by locale (none: any), file and text.
    by_name: BTreeMap<String, BTreeMap<Option<&'d str>, (String, &'d str)>>,
}

/// Name and locale of a part by the name of its file: `footer.html` and `es` of `footer.es.html`.
pub(crate) fn read_name(file: &str) -> Option<(String, Option<&str>)> {
    let (rest, kind) = file.rsplit_once('.')?;
    let (name, locale) = match rest.split_once('.') {
        Some((name, locale)) if canonical_locale(locale).as_deref() == Some(locale) => (name, Some(locale)),
        Some(_) => return None,
        None => (rest, None),
    };
    KINDS.contains(&kind).then(|| (format!("{name}.{kind}"), locale))
}

/// What a text is written in, by its name: one of [`KINDS`].
pub(crate) fn kind(name: &str) -> &'static str {
    let end = name.rsplit('.').next().unwrap_or_default();
    KINDS.into_iter().find(|kind| *kind == end).unwrap_or("txt")
}

impl<'d> Parts<'d> {
    /// Those of definitions; a file whose name cannot be read is left out.
    pub(crate) fn of(document: &'d Definitions) -> Self {
        let mut parts = Self { default_locale: &document.project.default_locale, by_name: BTreeMap::new() };
        for (folder, files) in [("partials", &document.partials), ("layouts", &document.layouts)] {
            for (file, text) in files {
                if let Some((name, locale)) = read_name(file) {
                    let locales = parts.by_name.entry(format!("{folder}/{name}")).or_default();
                    locales.insert(locale, (format!("{folder}/{file}"), text.as_str()));
                }
            }
        }
        parts
    }

    /// File and text that a locale gets: its own, else that of the same without region and script, else the one of no locale, else that
    /// of the project's default.
    pub(crate) fn find(&self, name: &str, locale: &str) -> Option<(&str, &'d str)> {
        let locales = self.by_name.get(name)?;
        let own = shorter(locale).map(Some).chain([None]);
        let chain = own.chain(shorter(self.default_locale).map(Some));
        let (file, text) = chain.filter_map(|locale| locales.iter().find(|(known, _)| **known == locale)).next()?.1;
        Some((file, text))
    }

    /// What each name means to a locale: name, file and text.
    pub(crate) fn for_locale(&self, locale: &str) -> impl Iterator<Item = (&str, &str, &'d str)> {
        self.by_name
            .keys()
            .filter_map(move |name| self.find(name, locale).map(|(file, text)| (name.as_str(), file, text)))
    }

    /// Every file with its text.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &'d str)> {
        self.by_name.values().flat_map(BTreeMap::values).map(|(file, text)| (file.as_str(), *text))
    }

    /// The text of a file.
    pub(crate) fn text_of(&self, file: &str) -> Option<&'d str> {
        self.files().find(|(known, _)| *known == file).map(|(_, text)| text)
    }

    /// What is wrong with a text's references to parts: byte, problem and remedy. `source_kind` is one of [`KINDS`].
    pub(crate) fn wrong_references(
        &self,
        source: &str,
        source_kind: &str,
        locale: &str,
    ) -> Vec<(usize, String, String)> {
        let wrong = |reference: &Reference| {
            let Some(name) = &reference.name else {
                return Some((
                    "a part is named by a text, not by a variable".to_owned(),
                    "write its name in quotes".to_owned(),
                ));
            };
            if self.find(name, locale).is_none() {
                let hint = did_you_mean(name, self.by_name.keys().map(String::as_str));
                let remedy = if self.by_name.contains_key(name) {
                    format!("add it for `{locale}`, or without a locale")
                } else {
                    format!("name a file, such as `partials/NAME.{source_kind}`")
                };
                return Some((format!("unknown part `{name}`{hint}"), remedy));
            }
            // MJML becomes HTML, so that HTML may stand in it.
            let fits =
                kind(name) == source_kind || (source_kind, kind(name), reference.is_layout) == ("mjml", "html", false);
            (!fits).then(|| {
                let problem = format!(
                    "`{name}` is for {} and this text is {source_kind}: variables are escaped otherwise there",
                    kind(name)
                );
                (problem, format!("write the part as `.{source_kind}` too"))
            })
        };
        let all = Reference::all(source).into_iter();
        all.filter_map(|reference| wrong(&reference).map(|(problem, remedy)| (reference.at, problem, remedy))).collect()
    }

    /// Parts that come to include themselves: the file, the byte of its reference, and the way round.
    pub(crate) fn cycles(&self) -> Vec<(&str, usize, String)> {
        let targets = |name: &str| {
            let texts = self.by_name.get(name).into_iter().flat_map(BTreeMap::values);
            texts.flat_map(|(_, text)| Reference::all(text)).filter_map(|reference| reference.name).collect::<Vec<_>>()
        };
        let graph: BTreeMap<&str, Vec<String>> =
            self.by_name.keys().map(|name| (name.as_str(), targets(name))).collect();
        let mut found = Vec::new();
        for (name, locales) in &self.by_name {
            for (file, text) in locales.values() {
                for reference in Reference::all(text) {
                    let way = reference.name.as_deref().and_then(|target| way(&graph, target, name));
                    if let Some(way) = way {
                        let way: Vec<String> =
                            std::iter::once(name.as_str()).chain(way).map(|n| format!("`{n}`")).collect();
                        found.push((file.as_str(), reference.at, way.join(" → ")));
                    }
                }
            }
        }
        found
    }

    /// An MJML text with its MJML parts put in, before it is converted.
    pub(crate) fn expand(&self, source: &str, locale: &str) -> Result<String, Fault> {
        let mut expansion = Expansion { parts: self, locale, left: MAX_PARTS, blocks: HashMap::new() };
        let text = expansion.layout(source, 0)?;
        if text.len() > MAX_EXPANDED {
            return Err(whole(format!("has more than {MAX_EXPANDED} bytes once its parts are put in")));
        }
        Ok(text)
    }
}

/// The work of [`Parts::expand`].
struct Expansion<'e> {
    parts: &'e Parts<'e>,
    locale: &'e str,
    /// How many more parts may be put in.
    left: usize,
    /// What the text writes in the place of its layout's blocks.
    blocks: HashMap<String, String>,
}

impl<'e> Expansion<'e> {
    fn part(&mut self, name: &str, depth: usize) -> Result<&'e str, Fault> {
        self.left = self.left.checked_sub(1).ok_or_else(|| whole(format!("includes more than {MAX_PARTS} parts")))?;
        if depth >= MAX_DEPTH {
            return Err(whole(format!("includes more than {MAX_DEPTH} parts within each other")));
        }
        let found = self.parts.find(name, self.locale);
        found.map(|(_, text)| text).ok_or_else(|| whole(format!("unknown part `{name}`")))
    }

    /// The text, or the layout that it extends.
    fn layout(&mut self, source: &str, depth: usize) -> Result<String, Fault> {
        let extended = tags(source).find_map(|tag| tag.argument("extends")).filter(|name| kind(name) == "mjml");
        let Some(name) = extended else { return self.fill(source, depth) };
        for (name, range, _) in block_ranges(source)? {
            self.blocks.entry(name.to_owned()).or_insert_with(|| source[range].to_owned());
        }
        let layout = self.part(&name, depth)?;
        self.layout(layout, depth + 1)
    }

    /// The text with its parts, and the blocks in their places.
    fn fill(&mut self, source: &str, depth: usize) -> Result<String, Fault> {
        let blocks = block_ranges(source)?;
        let (mut out, mut from) = (String::with_capacity(source.len()), 0);
        for tag in tags(source) {
            if tag.range.start < from {
                continue;
            }
            let (text, end) = if let Some(name) = tag.argument("include").filter(|name| kind(name) == "mjml") {
                (self.part(&name, depth)?.to_owned(), tag.range.end)
            } else if let Some((name, range, end)) = blocks.iter().find(|(_, range, _)| range.start == tag.range.end) {
                (self.blocks.get(*name).map_or(&source[range.clone()], String::as_str).to_owned(), *end)
            } else {
                continue;
            };
            out.push_str(&source[from..tag.range.start]);
            out.push_str(&self.fill(&text, depth + 1)?);
            from = end;
            if out.len() > MAX_EXPANDED {
                break;
            }
        }
        out.push_str(&source[from..]);
        Ok(out)
    }
}

/// The names on a shortest way from one part to another, both included.
fn way<'g>(graph: &'g BTreeMap<&str, Vec<String>>, from: &str, to: &str) -> Option<Vec<&'g str>> {
    let (from, _) = graph.get_key_value(from)?;
    let mut came: BTreeMap<&str, &str> = BTreeMap::from([(*from, *from)]);
    let mut open = std::collections::VecDeque::from([*from]);
    while let Some(at) = open.pop_front() {
        if at == to {
            let mut way: Vec<&str> =
                std::iter::successors(Some(at), |at| Some(came[at]).filter(|before| before != at)).collect();
            way.reverse();
            return Some(way);
        }
        for next in &graph[at] {
            if let Some((next, _)) = graph.get_key_value(next.as_str())
                && !came.contains_key(next)
            {
                came.insert(next, at);
                open.push_back(next);
            }
        }
    }
    None
}

fn whole(problem: String) -> Fault {
    Fault { problem, ..Fault::default() }
}

/// A tag that asks for a part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Which; `None` where it depends on a variable.
    pub(crate) name: Option<String>,
    /// Byte of the name.
    pub(crate) at: usize,
    /// Whether it is extended, rather than included or imported.
    pub(crate) is_layout: bool,
}

/// A text as the engine reads it; `None` for what it does not take.
pub(crate) fn parsed(source: &str) -> Option<Stmt<'_>> {
    if too_deep(source).is_some() { None } else { parse(source, "", Default::default()).ok() }
}

/// The text that an expression is, if it is one.
pub(crate) fn literal(expression: &Expr<'_>) -> Option<String> {
    expression.as_const()?.as_str().map(str::to_owned)
}

impl Reference {
    /// Every reference of a text, in order.
    pub(crate) fn all(source: &str) -> Vec<Self> {
        let mut all = Vec::new();
        if let Some(parsed) = parsed(source) {
            Self::within(std::slice::from_ref(&parsed), &mut all);
        }
        all
    }

    fn within(statements: &[Stmt<'_>], all: &mut Vec<Self>) {
        for statement in statements {
            let (name, is_layout) = match statement {
                Stmt::Extends(extends) => (&extends.name, true),
                Stmt::Include(include) => (&include.name, false),
                Stmt::Import(import) => (&import.expr, false),
                Stmt::FromImport(import) => (&import.expr, false),
                _ => {
                    Self::bodies(statement).into_iter().for_each(|body| Self::within(body, all));
                    continue;
                }
            };
            all.push(Self { name: literal(name), at: name.span().start_offset as usize, is_layout });
        }
    }

    /// Statements within a statement.
    fn bodies<'s, 'a>(statement: &'s Stmt<'a>) -> Vec<&'s [Stmt<'a>]> {
        match statement {
            Stmt::Template(it) => vec![&it.children],
            Stmt::ForLoop(it) => vec![&it.body, &it.else_body],
            Stmt::IfCond(it) => vec![&it.true_body, &it.false_body],
            Stmt::WithBlock(it) => vec![&it.body],
            Stmt::SetBlock(it) => vec![&it.body],
            Stmt::AutoEscape(it) => vec![&it.body],
            Stmt::FilterBlock(it) => vec![&it.body],
            Stmt::Block(it) => vec![&it.body],
            Stmt::Macro(it) => vec![&it.body],
            Stmt::CallBlock(it) => vec![&it.macro_decl.body],
            _ => Vec::new(),
        }
    }

    /// Names of the blocks that statements write.
    pub(crate) fn blocks<'s>(statements: &'s [Stmt<'_>]) -> impl Iterator<Item = &'s str> {
        statements.iter().filter_map(|statement| match statement {
            Stmt::Block(block) => Some(block.name),
            _ => None,
        })
    }
}

/// A statement's tag as it stands in a text.
struct Tag<'s> {
    range: std::ops::Range<usize>,
    /// Without the braces, their dashes and the space within.
    inside: &'s str,
}

impl<'s> Tag<'s> {
    /// The text in quotes that follows a keyword, where the tag has that keyword.
    fn argument(&self, keyword: &str) -> Option<String> {
        let rest = self.inside.strip_prefix(keyword)?.trim();
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        rest[1..].split_once(quote).map(|(name, _)| name.to_owned())
    }

    /// The name of a block that begins here.
    fn block(&self) -> Option<&'s str> {
        let name = self.inside.strip_prefix("block")?.strip_prefix(char::is_whitespace)?;
        name.split_whitespace().next()
    }
}

/// Whether a text extends a layout in MJML.
pub(crate) fn extends_mjml(source: &str) -> bool {
    let first = tags(source).next().and_then(|tag| tag.argument("extends"));
    first.is_some_and(|name| kind(&name) == "mjml")
}

/// The statements' tags of a text, in order; comments are skipped.
fn tags(source: &str) -> impl Iterator<Item = Tag<'_>> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let rest = source.get(from..)?;
            let start = from + [rest.find("{%"), rest.find("{#")].into_iter().flatten().min()?;
            if source[start..].starts_with("{#") {
                from = start + source[start..].find("#}")? + 2;
                continue;
            }
            let end = start + tag_length(&source.as_bytes()[start..]);
            from = end;
            let inside = source.get(start + 2..end.saturating_sub(2)).unwrap_or_default();
            return Some(Tag { range: start..end, inside: inside.trim_matches(['-', '+']).trim() });
        }
    })
}

/// Blocks of a text that are in no other block: name, range within, and where its end tag ends.
fn block_ranges(source: &str) -> Result<Vec<(&str, std::ops::Range<usize>, usize)>, Fault> {
    let mut found = Vec::new();
    let mut open: Vec<(&str, usize)> = Vec::new();
    for tag in tags(source) {
        if tag.inside.starts_with("endblock") {
            let Some((name, start)) = open.pop() else {
                return Err(at(source, tag.range.start, "ends a block that did not begin"));
            };
            if open.is_empty() {
                found.push((name, start..tag.range.start, tag.range.end));
            }
        } else if let Some(name) = tag.block() {
            open.push((name, tag.range.end));
        }
    }
    match open.first() {
        Some((_, start)) => Err(at(source, *start, "the block that begins before does not end")),
        None => Ok(found),
    }
}

fn at(source: &str, byte: usize, problem: &str) -> Fault {
    let (line, column) = line_and_column(source, byte);
    Fault { line: Some(line), column: Some(column), problem: problem.to_owned(), ..Fault::default() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    fn document(partials: serde_json::Value, layouts: serde_json::Value) -> Definitions {
        serde_json::from_value(json!({
            "project": {"name": "p", "default_locale": "en"},
            "providers": {}, "templates": {}, "flows": {}, "partials": partials, "layouts": layouts,
        }))
        .unwrap()
    }

    #[test]
    fn a_locale_gets_the_file_that_is_nearest_to_it() {
        let texts =
            json!({"a.html": "any", "a.es.html": "es", "a.es-AR.html": "ar", "b.en.txt": "en", "b.es.txt": "es"});
        let document = document(texts, json!({}));
        let parts = Parts::of(&document);
        for (name, locale, text) in [
            ("partials/a.html", "es-AR", Some("ar")),
            ("partials/a.html", "es-MX", Some("es")),
            ("partials/a.html", "en", Some("any")),
            ("partials/b.txt", "es-AR", Some("es")),
            ("partials/b.txt", "fr", Some("en")),
            ("partials/b.html", "en", None),
            ("layouts/a.html", "en", None),
        ] {
            assert_eq!(parts.find(name, locale).map(|(_, text)| text), text, "{name} {locale}");
        }
    }

    #[test]
    fn names_of_files_say_kind_and_locale() {
        for (file, read) in [
            ("footer.html", Some(("footer.html", None))),
            ("footer.es-AR.txt", Some(("footer.txt", Some("es-AR")))),
            ("footer.es_AR.txt", None),
            ("footer", None),
            ("footer.css", None),
            ("footer.a.es.html", None),
        ] {
            assert_eq!(read_name(file), read.map(|(name, locale)| (name.to_owned(), locale)), "{file}");
        }
    }

    #[test]
    fn mjml_parts_are_put_in_before_the_conversion() {
        let letter = "<mjml>{% include 'partials/head.mjml' %}<b>{%- block body -%}none{% endblock %}</b>{% block end %}bye{% block name %}we{% endblock %}{% endblock end %}</mjml>";
        let document = document(
            json!({"head.mjml": "<h>{{ title }}{# {% include 'partials/no.mjml' %} #}</h>", "head.es.mjml": "<h>hola</h>"}),
            json!({"letter.mjml": letter, "plain.mjml": "{% extends 'layouts/letter.mjml' %}{% block name %}plain{% endblock %}"}),
        );
        let parts = Parts::of(&document);
        let text = "{% extends \"layouts/plain.mjml\" %}{% block body %}<p>{% include 'partials/head.mjml' %}</p>{% endblock %}";
        assert_eq!(parts.expand(text, "es").unwrap(), "<mjml><h>hola</h><b><p><h>hola</h></p></b>byeplain</mjml>");
        let plain = parts.expand("<mjml>{% include 'partials/head.mjml' %}{% if a %}{% endif %}</mjml>", "en").unwrap();
        assert_eq!(plain, "<mjml><h>{{ title }}{# {% include 'partials/no.mjml' %} #}</h>{% if a %}{% endif %}</mjml>");
    }

    #[test]
    fn parts_that_include_themselves_end() {
        let document = document(
            json!({"a.mjml": "{% include 'partials/b.mjml' %}", "b.mjml": "x{% include 'partials/a.mjml' %}", "c.mjml": "{% include 'partials/a.mjml' %}"}),
            json!({}),
        );
        let parts = Parts::of(&document);
        let ways: Vec<String> =
            parts.cycles().into_iter().map(|(file, at, way)| format!("{file}:{at} {way}")).collect();
        assert_eq!(
            ways,
            [
                "partials/a.mjml:11 `partials/a.mjml` → `partials/b.mjml` → `partials/a.mjml`",
                "partials/b.mjml:12 `partials/b.mjml` → `partials/a.mjml` → `partials/b.mjml`",
            ]
        );
        assert!(
            parts.expand("{% include 'partials/c.mjml' %}", "en").unwrap_err().problem.contains("more than 8 parts")
        );
    }
}
