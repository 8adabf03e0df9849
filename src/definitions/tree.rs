//! YAML as a tree that remembers where each value stands, with `${NAME}` expanded in its texts.
//! Knows nothing of definitions: what the fields mean is read in `reader`.

use super::Located;
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::{Location, MessageFormatter, Spanned, UserMessageFormatter};
use std::fmt;

/// Where a value or key begins: line and column from 1, in characters, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
    byte: usize,
}

impl Place {
    pub(super) const START: Self = Self { line: 1, column: 1, byte: 0 };

    fn of(location: &Location) -> Self {
        Self {
            line: saturated(location.line()).max(1),
            column: saturated(location.column()).max(1),
            byte: location.span().byte_offset().and_then(|b| usize::try_from(b).ok()).unwrap_or(0),
        }
    }
}

fn saturated(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) at: Place,
    pub(super) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) at: Place,
    pub(super) key: String,
    pub(super) value: Node,
}

impl Node {
    /// Reads one document. An empty one is null.
    ///
    /// # Errors
    /// What is wrong with the YAML, and where.
    pub(super) fn parse(text: &str) -> Result<Self, (Place, String)> {
        let options = serde_saphyr::options! { strict_booleans: true, with_snippet: false };
        serde_saphyr::from_str_with_options::<Spanned<Kind>>(text, options).map(Self::from).map_err(|error| {
            let place = error.location().map_or(Place::START, |location| Place::of(&location));
            (place, UserMessageFormatter.format_message(error.without_snippet()).trim().to_owned())
        })
    }

    /// What it is, in words.
    pub(super) const fn what(&self) -> &'static str {
        match self.kind {
            Kind::Null => "nothing",
            Kind::Bool(_) => "a boolean",
            Kind::Number(_) => "a number",
            Kind::Text(_) => "text",
            Kind::List(_) => "a list",
            Kind::Map(_) => "a map",
        }
    }

    /// As JSON, without places.
    pub(super) fn json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Number(n) => Value::Number(n.clone()),
            Kind::Text(t) => Value::String(t.clone()),
            Kind::List(items) => Value::Array(items.iter().map(Self::json).collect()),
            Kind::Map(entries) => Value::Object(Self::json_map(entries)),
        }
    }

    pub(super) fn json_map(entries: &[Entry]) -> Map<String, Value> {
        entries.iter().map(|entry| (entry.key.clone(), entry.value.json())).collect()
    }

    /// The node that a path leads to, with the place of its key; where the path leads nowhere, the deepest that there is.
    /// Keys may have dots inside, so the path is matched against them instead of being split.
    pub(super) fn find(&self, path: &str) -> (Place, &Self) {
        self.find_from(self.at, path)
    }

    fn find_from(&self, at: Place, path: &str) -> (Place, &Self) {
        let below = |key: &str| match path.strip_prefix(key) {
            Some("") => Some(""),
            Some(rest) => rest.strip_prefix('.'),
            None => None,
        };
        let next = match &self.kind {
            Kind::Map(entries) => entries.iter().find_map(|e| below(&e.key).map(|rest| e.value.find_from(e.at, rest))),
            Kind::List(items) => items
                .iter()
                .enumerate()
                .find_map(|(n, item)| below(&n.to_string()).map(|rest| item.find_from(item.at, rest))),
            _ => None,
        };
        next.unwrap_or((at, self))
    }

    /// Where line and column of this text stand in the file. A folded or escaped text has no such place, so its beginning is told.
    pub(super) fn place_within(&self, source: &str, line: u32, column: u32) -> Place {
        let Kind::Text(text) = &self.kind else { return self.at };
        match block_header(source, self.at) {
            Some((header, '|')) => block_place(source, header, text, line, column).unwrap_or(self.at),
            None if line == 1 => {
                let is_quoted = source.get(self.at.byte..).is_some_and(|head| head.starts_with(['"', '\'']));
                let offset = u32::from(is_quoted).saturating_add(column.saturating_sub(1));
                Place { column: self.at.column.saturating_add(offset), ..self.at }
            }
            _ => self.at,
        }
    }

    /// Expands `${NAME}` and `${NAME:-default}` in every text; `$${` stands for `${`. A whole plain scalar takes the type that the expanded text
    /// has in YAML, so that `port: ${PORT:-1025}` is a number and `port: "${PORT:-1025}"` is text. Expansion comes after parsing: no value of the
    /// environment can change the structure.
    pub(super) fn expand(
        &mut self,
        source: &str,
        env: &dyn Fn(&str) -> Option<String>,
        errors: &mut Vec<(Place, String)>,
    ) {
        match &mut self.kind {
            Kind::Null | Kind::Bool(_) | Kind::Number(_) => {}
            Kind::List(items) => items.iter_mut().for_each(|item| item.expand(source, env, errors)),
            Kind::Map(entries) => entries.iter_mut().for_each(|entry| entry.value.expand(source, env, errors)),
            Kind::Text(text) if !text.contains("${") => {}
            Kind::Text(text) => {
                let mut unset = Vec::new();
                let expanded = expanded(text, env, &mut unset);
                errors.extend(unset.into_iter().map(|name| (self.at, name)));
                let is_plain = source.get(self.at.byte..).is_some_and(|head| head.starts_with('$'));
                self.kind = if is_plain { plain(expanded) } else { Kind::Text(expanded) };
            }
        }
    }
}

/// Line (from 1) and kind (`|` or `>`) of the header of a block whose content begins at a place; `None` where no block begins there.
fn block_header(source: &str, at: Place) -> Option<(u32, char)> {
    let lines: Vec<&str> = source.lines().take(at.line as usize).collect();
    let (first, above) = lines.split_last()?;
    if !first.chars().take(at.column as usize - 1).all(char::is_whitespace) {
        return None;
    }
    let header = above.iter().rposition(|line| !line.trim().is_empty())?;
    let line = above[header].split(" #").next().unwrap_or_default();
    let token = line.split_whitespace().next_back()?;
    let is_header = token.starts_with(['|', '>'])
        && token[1..].len() <= 2
        && token[1..].bytes().all(|b| matches!(b, b'+' | b'-' | b'1'..=b'9'));
    Some((u32::try_from(header + 1).ok()?, token.chars().next().filter(|_| is_header)?))
}

/// A literal block's first line follows its header; its indentation is what the first line with content has more in the file than in the text.
fn block_place(source: &str, header: u32, text: &str, line: u32, column: u32) -> Option<Place> {
    let (skipped, content) = text.lines().enumerate().find(|(_, l)| !l.trim().is_empty())?;
    let in_file = source.lines().nth(header as usize + skipped)?;
    let indentation = u32::try_from(in_file.strip_suffix(content)?.chars().count()).ok()?;
    Some(Place { line: header.checked_add(line)?, column: indentation.checked_add(column)?, byte: 0 })
}

/// What a plain scalar with this text is (YAML 1.2 core schema); only whole numbers, fractions and booleans, never null or structure.
fn plain(text: String) -> Kind {
    match Node::parse(&text) {
        Ok(Node { kind: kind @ (Kind::Bool(_) | Kind::Number(_)), .. }) => kind,
        _ => Kind::Text(text),
    }
}

/// Names that are not set and have no default stay as they are, and are told.
fn expanded(text: &str, env: &dyn Fn(&str) -> Option<String>, unset: &mut Vec<String>) -> String {
    let (mut result, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            result.push_str(before);
            result.push_str("${");
            rest = &from[2..];
            continue;
        }
        result.push_str(before);
        let Some((name, default, tail)) = reference(&from[2..]) else {
            result.push_str("${");
            rest = &from[2..];
            continue;
        };
        match env(name).filter(|value| !value.is_empty()).or_else(|| default.map(str::to_owned)) {
            Some(value) => result.push_str(&value),
            None => unset.push(name.to_owned()),
        }
        rest = tail;
    }
    result.push_str(rest);
    result
}

/// Name, default and what follows, of the text after `${`; `None` for what is no reference, such as `${{ total }}` in a template.
fn reference(text: &str) -> Option<(&str, Option<&str>, &str)> {
    let (inside, tail) = text.split_once('}')?;
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let is_name = starts && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    is_name.then_some((name, default, tail))
}

/// The remedy for a name that is not set.
pub(super) fn unset(file: &str, (at, name): (Place, String)) -> Located {
    Located {
        file: file.into(),
        line: at.line,
        column: at.column,
        problem: format!("environment variable `{name}` is not set"),
        remedy: format!("set it, give a default by `${{{name}:-…}}`, or write `$${{` for the characters themselves"),
    }
}

impl From<Spanned<Kind>> for Node {
    fn from(spanned: Spanned<Kind>) -> Self {
        Self { at: Place::of(&spanned.referenced), kind: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Kind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyKind)
    }
}

struct AnyKind;

impl<'de> Visitor<'de> for AnyKind {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Kind, E> {
        Ok(Kind::Number(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Kind, E> {
        Ok(Kind::Number(value.into()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Kind, E> {
        Ok(Number::from_f64(value).map_or_else(|| Kind::Text(value.to_string()), Kind::Number))
    }
    fn visit_str<E>(self, value: &str) -> Result<Kind, E> {
        Ok(Kind::Text(value.to_owned()))
    }
    fn visit_string<E>(self, value: String) -> Result<Kind, E> {
        Ok(Kind::Text(value))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Kind, A::Error> {
        let mut all = Vec::new();
        while let Some(item) = items.next_element::<Spanned<Kind>>()? {
            all.push(item.into());
        }
        Ok(Kind::List(all))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Kind, A::Error> {
        let mut all = Vec::new();
        while let Some((key, value)) = fields.next_entry::<Spanned<String>, Spanned<Kind>>()? {
            all.push(Entry { at: Place::of(&key.referenced), key: key.value, value: value.into() });
        }
        Ok(Kind::Map(all))
    }
}
