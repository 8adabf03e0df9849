//! What a publication would change, as a person reads it.
//! Secrets are references in definitions, so there is nothing to hide.

use bellwether_schemas::definitions::Definitions;
use serde::Serialize;
use serde_json::Value;
use similar::TextDiff;
use std::collections::{BTreeMap, BTreeSet};

/// The difference of two definitions, one unified diff for each thing that is added, changed or removed, named like its file. Empty for equal ones.
#[must_use]
pub fn diff(old: Option<&Definitions>, new: &Definitions) -> String {
    let (before, after) = (old.map(things).unwrap_or_default(), things(new));
    let names: BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let mut all = String::new();
    for name in names {
        let text = |things: &BTreeMap<String, String>| things.get(name).cloned().unwrap_or_default();
        let (was, is) = (text(&before), text(&after));
        if was == is {
            continue;
        }
        let what = match (before.contains_key(name), after.contains_key(name)) {
            (false, _) => "added",
            (_, false) => "removed",
            _ => "changed",
        };
        let changes = TextDiff::from_lines(&was, &is);
        all += &format!("{what} {name}\n{}\n", changes.unified_diff().context_radius(2));
    }
    all
}

/// Every thing that has a name of its own, as text.
fn things(definitions: &Definitions) -> BTreeMap<String, String> {
    let mut all = BTreeMap::from([("project".to_owned(), text(&definitions.project))]);
    all.extend(definitions.providers.iter().map(|(name, it)| (format!("providers/{name}"), text(it))));
    all.extend(definitions.events.iter().map(|(name, it)| (format!("events/{name}"), text(it))));
    all.extend(definitions.partials.iter().map(|(name, it)| (format!("partials/{name}"), it.clone())));
    all.extend(definitions.layouts.iter().map(|(name, it)| (format!("layouts/{name}"), it.clone())));
    all.extend(definitions.types.iter().map(|(name, it)| (format!("types/{name}"), text(it))));
    all.extend(definitions.templates.iter().map(|(name, it)| (format!("templates/{name}"), text(it))));
    all.extend(definitions.flows.iter().map(|(name, it)| (format!("flows/{name}"), text(it))));
    all
}

fn text(thing: &impl Serialize) -> String {
    let mut text = String::new();
    write_value(&mut text, &serde_json::to_value(thing).unwrap_or_default(), 0);
    text
}

/// YAML enough to be read; texts of several lines stand as blocks, so that a change shows as a line.
fn write_value(text: &mut String, value: &Value, depth: usize) {
    let indentation = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                *text += &format!("{indentation}{name}:");
                write_below(text, value, depth);
            }
        }
        Value::Array(items) => {
            for item in items {
                *text += &format!("{indentation}-");
                write_below(text, item, depth);
            }
        }
        scalar => *text += &format!("{indentation}{scalar}\n"),
    }
}

fn write_below(text: &mut String, value: &Value, depth: usize) {
    match value {
        Value::String(block) if block.contains('\n') && !block.contains('\r') => {
            // As in YAML: the dash says that the last line has no end.
            *text += if block.ends_with('\n') { " |\n" } else { " |-\n" };
            let indentation = "  ".repeat(depth + 1);
            for line in block.lines() {
                *text += if line.is_empty() { "" } else { &indentation };
                *text += &format!("{line}\n");
            }
        }
        Value::String(line) if !is_ambiguous(line) => *text += &format!(" {line}\n"),
        Value::Object(fields) if !fields.is_empty() => {
            text.push('\n');
            write_value(text, value, depth + 1);
        }
        Value::Array(items) if !items.is_empty() => {
            text.push('\n');
            write_value(text, value, depth + 1);
        }
        scalar => *text += &format!(" {scalar}\n"),
    }
}

/// Text that without quotes would look like a number, a boolean, nothing, or like other text.
fn is_ambiguous(line: &str) -> bool {
    serde_json::from_str::<Value>(line).is_ok()
        || line.trim().len() != line.len()
        || line.starts_with(['|', '"'])
        || line.contains(char::is_control)
        || line.is_empty()
}
