//! On which occasions a template is used, and with what data: the events of the flows that tell it, or its own sample.
//! Renders and judges nothing.

use crate::content::{
    sample_context,
    shape::{Field, Shape},
};
use bellwether_schemas::definitions::{Definitions, Flow, Sample};
use serde_json::{Map, Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Fields of `member`.
pub(super) const MEMBER: [&str; 5] = ["id", "name", "locale", "time_zone", "attributes"];

/// An event that makes a template speak.
#[derive(Clone, Debug)]
pub struct Occasion {
    /// Name of the declared event; `None` where the template's own sample stands for it.
    pub event: Option<String>,
    /// CloudEvents type.
    pub kind: String,
    /// Contexts of rendering by name of the sample.
    pub samples: Vec<(String, Value)>,
    /// What a text sees.
    pub(super) root: Shape,
}

/// Templates that a flow may tell.
pub(super) fn templates_of<'d>(document: &'d Definitions, flow: &'d Flow) -> impl Iterator<Item = &'d str> {
    let by_type = flow.notify.kind.as_ref().and_then(|kind| document.types.get(kind));
    let by_type = by_type.into_iter().flat_map(|kind| &kind.templates).map(|weighted| weighted.template.as_str());
    flow.notify.template.as_deref().into_iter().chain(by_type)
}

/// Every occasion of a template: one a declared event, and its own sample for all that is not declared. None where events are declared, no
/// flow tells the template, and it has no sample: nobody knows what it may say.
pub(super) fn occasions(document: &Definitions, template: &str) -> Vec<Occasion> {
    let flows = document.flows.values().filter(|flow| templates_of(document, flow).any(|name| name == template));
    let kinds: BTreeSet<(&str, bool)> = flows.map(|flow| (flow.on.as_str(), flow.notify.digest.is_some())).collect();
    let mut undeclared = None;
    let mut all = Vec::new();
    for (kind, is_gathered) in kinds {
        match document.events.iter().find(|(_, event)| event.kind == kind) {
            Some((name, event)) => {
                let shape = Shape::declared(&event.data);
                let data = |data: &Value| if is_gathered { gathered(data) } else { data.clone() };
                let sample = |(name, sample): (&String, &Sample)| {
                    (name.clone(), sample_context(kind, data(&sample.data), &sample.member))
                };
                all.push(Occasion {
                    event: Some(name.clone()),
                    kind: kind.to_owned(),
                    root: root(if is_gathered { of_many(shape) } else { shape }, member(document, None)),
                    samples: event.samples.iter().map(sample).collect(),
                });
            }
            None => undeclared = Some(kind),
        }
    }
    let has_sample = document.templates.get(template).is_some_and(|template| !template.sample.is_empty());
    let is_unused = all.is_empty() && undeclared.is_none();
    if undeclared.is_some() || (is_unused && (has_sample || document.events.is_empty())) {
        all.push(of_own_sample(document, template, undeclared.unwrap_or("sample")));
    }
    all
}

/// The data of a digest's template, where each event's has this shape.
fn of_many(item: Shape) -> Shape {
    let items = Shape::List(Arc::new(item));
    Shape::fields(
        [("items", items), ("count", Shape::Scalar)].map(|(name, shape)| (name.to_owned(), Field::always(shape))),
    )
}

/// What a digest of one event says.
fn gathered(data: &Value) -> Value {
    json!({"items": [data], "count": 1})
}

/// A template's `sample`: the event's data, and in it the `member`.
fn of_own_sample(document: &Definitions, template: &str, kind: &str) -> Occasion {
    let mut data = document.templates.get(template).map(|template| template.sample.clone()).unwrap_or_default();
    let given = match data.remove("member") {
        Some(Value::Object(given)) => given,
        _ => Map::new(),
    };
    let data = Value::Object(data);
    let root = root(Shape::shown(&data), member(document, Some(&given)));
    let samples = vec![("sample".to_owned(), sample_context(kind, data, &given))];
    Occasion { event: None, kind: kind.to_owned(), samples, root }
}

fn root(data: Shape, member: Shape) -> Shape {
    let event = [("id", Shape::Scalar), ("type", Shape::Scalar), ("time", Shape::Scalar), ("data", data.clone())];
    let event = Shape::fields(event.map(|(name, shape)| (name.to_owned(), Field::always(shape))));
    let mut fields: BTreeMap<String, Field> = match &data {
        Shape::Fields(fields) => BTreeMap::clone(fields),
        Shape::Any => return Shape::Any,
        Shape::Scalar | Shape::List(_) => BTreeMap::new(),
    };
    fields.insert("event".into(), Field::always(event));
    fields.insert("member".into(), Field::always(member));
    Shape::fields(fields)
}

/// A member, of whom a sample promises what it gives where the project declares no attributes.
fn member(document: &Definitions, given: Option<&Map<String, Value>>) -> Shape {
    let attributes = match &document.project.attributes {
        Some(declared) => {
            let each = declared.iter().map(|(name, schema)| (name.clone(), Field::sometimes(Shape::declared(schema))));
            Shape::fields(each)
        }
        None => Shape::Any,
    };
    let promises =
        |name: &str| document.project.attributes.is_none() && given.is_some_and(|given| given.contains_key(name));
    Shape::fields(MEMBER.map(|name| {
        let field = match name {
            "id" => Field::always(Shape::Scalar),
            "attributes" => Field::always(attributes.clone()),
            other => Field { shape: Shape::Scalar, always: promises(other) },
        };
        (name.to_owned(), field)
    }))
}
