//! Whether a value is what a schema says, and whether a schema says anything that can be.
//! The words name fields and kinds, never values: an event's data is personal.

use super::names::did_you_mean;
use bellwether_schemas::definitions::{Schema, ValueFormat, ValueKind};
use serde_json::Value;

/// Where a value does not fit, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit {
    /// Path within the value with dots; empty for the whole.
    pub field: String,
    /// What is wrong.
    pub problem: String,
}

/// The first place where a value is not what a schema says.
pub(super) fn misfit(schema: &Schema, value: &Value) -> Option<Misfit> {
    fit(schema, value).err().map(|(path, problem)| {
        let field = path.into_iter().rev().collect::<Vec<_>>().join(".");
        Misfit { field, problem }
    })
}

/// The path of an error comes from the inside.
fn fit(schema: &Schema, value: &Value) -> Result<(), (Vec<String>, String)> {
    let wrong = |problem: String| Err((Vec::new(), problem));
    if let Some(kind) = schema.kind
        && !is(kind, value)
    {
        return wrong(format!("is {} where the schema says {}", what(value), kind.name()));
    }
    if !schema.choices.is_empty() && !schema.choices.contains(value) {
        return wrong("is none of the values that the schema lists".into());
    }
    if let (Some(format), Some(text)) = (schema.format, value.as_str())
        && !has(format, text)
    {
        let expected = match format {
            ValueFormat::Date => "a date such as 2026-03-01",
            ValueFormat::DateTime => "a time as RFC 3339, such as 2026-03-01T12:00:00Z",
            ValueFormat::Uri => "an absolute URL",
        };
        return wrong(format!("is not {expected}"));
    }
    let within = |step: &str, (mut path, problem): (Vec<String>, String)| {
        path.push(step.to_owned());
        (path, problem)
    };
    if let Value::Object(fields) = value {
        if let Some(missing) = schema.required.iter().find(|name| !fields.contains_key(*name)) {
            return Err((vec![missing.clone()], "is missing".into()));
        }
        for (name, property) in &schema.properties {
            // What is null is not there, for templates and for us.
            match fields.get(name) {
                Some(Value::Null) if schema.required.contains(name) => {
                    return Err((vec![name.clone()], "is null".into()));
                }
                Some(Value::Null) | None => {}
                Some(value) => fit(property, value).map_err(|error| within(name, error))?,
            }
        }
    }
    if let (Value::Array(items), Some(schema)) = (value, &schema.items) {
        for (n, item) in items.iter().enumerate() {
            fit(schema, item).map_err(|error| within(&n.to_string(), error))?;
        }
    }
    Ok(())
}

fn is(kind: ValueKind, value: &Value) -> bool {
    match kind {
        ValueKind::String => value.is_string(),
        ValueKind::Integer => value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0),
        ValueKind::Number => value.is_number(),
        ValueKind::Boolean => value.is_boolean(),
        ValueKind::Object => value.is_object(),
        ValueKind::Array => value.is_array(),
    }
}

fn has(format: ValueFormat, text: &str) -> bool {
    match format {
        ValueFormat::Date => text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok(),
        ValueFormat::DateTime => text.parse::<jiff::Timestamp>().is_ok(),
        ValueFormat::Uri => text.split_once(':').is_some_and(|(scheme, rest)| {
            let is_scheme = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
            scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.bytes().all(is_scheme) && !rest.is_empty()
        }),
    }
}

fn what(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What of a schema contradicts itself: path within it, problem and remedy.
pub(super) fn contradictions(schema: &Schema) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    contradictions_at("", schema, &mut found);
    found
}

fn contradictions_at(path: &str, schema: &Schema, found: &mut Vec<(String, String, String)>) {
    let place = |field: &str| if path.is_empty() { field.to_owned() } else { format!("{path}.{field}") };
    for (n, name) in schema.required.iter().enumerate() {
        if !schema.properties.contains_key(name) {
            let hint = did_you_mean(name, schema.properties.keys().map(String::as_str));
            let problem = format!("`{name}` is required but no property{hint}");
            found.push((place(&format!("required.{n}")), problem, "correct it, or add the property".into()));
        }
    }
    for (field, is_there, kind) in [
        ("properties", !schema.properties.is_empty(), ValueKind::Object),
        ("items", schema.items.is_some(), ValueKind::Array),
        ("format", schema.format.is_some(), ValueKind::String),
    ] {
        // As in JSON Schema, a schema without a type says what an object has if the value is one.
        let is_open = kind == ValueKind::Object && schema.kind.is_none();
        if is_there && schema.kind != Some(kind) && !is_open {
            let problem = format!("only a value of type {} has `{field}`", kind.name());
            found.push((place(field), problem, format!("write `type: {}` beside it", kind.name())));
        }
    }
    for (name, property) in &schema.properties {
        contradictions_at(&place(&format!("properties.{name}")), property, found);
    }
    if let Some(items) = &schema.items {
        contradictions_at(&place("items"), items, found);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_value_fits_or_the_field_is_named() {
        let schema: Schema = serde_json::from_value(json!({
            "type": "object",
            "required": ["total", "items"],
            "properties": {
                "total": {"type": "number"},
                "items": {"type": "array", "items": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}},
                "size": {"type": "string", "enum": ["S", "M"]},
                "day": {"type": "string", "format": "date"},
                "at": {"type": "string", "format": "date-time"},
                "link": {"type": "string", "format": "uri"},
            },
        }))
        .unwrap();
        for (more, field, words) in [
            (json!({}), None, ""),
            (
                json!({"unknown": 1, "size": null, "day": "2026-03-01", "at": "2026-03-01T12:00:00+01:00", "link": "https://x"}),
                None,
                "",
            ),
            (json!({"total": "12"}), Some("total"), "string where the schema says number"),
            (json!({"total": null}), Some("total"), "null"),
            (json!({"items": [{"n": 1}, {"n": 1.5}]}), Some("items.1.n"), "number where the schema says integer"),
            (json!({"items": [{}]}), Some("items.0.n"), "is missing"),
            (json!({"size": "XL"}), Some("size"), "none of the values"),
            (json!({"day": "1/3/2026"}), Some("day"), "a date"),
            (json!({"at": "2026-03-01"}), Some("at"), "RFC 3339"),
            (json!({"link": "shop"}), Some("link"), "absolute URL"),
        ] {
            let mut value = json!({"total": 1, "items": [{"n": 2.0}]});
            value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let found = misfit(&schema, &value);
            assert_eq!(found.as_ref().map(|m| m.field.as_str()), field, "{more}: {found:?}");
            assert!(found.is_none_or(|m| m.problem.contains(words) && !m.problem.contains("XL")), "{more}");
        }
        assert_eq!(misfit(&schema, &json!([])).unwrap().field, "");
    }
}
