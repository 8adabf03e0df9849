//! What is known of a value before it is there: from the schema that an operator declared, or from samples.
//! Says which fields exist and which of them are always there; it looks at no text.

use bellwether_schemas::definitions::{Schema, ValueKind};
use serde_json::Value as Json;
use std::{collections::BTreeMap, sync::Arc};

/// What may be read of a value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Shape {
    /// Anything: nothing is known.
    Any,
    /// Text, a number or a boolean: it has no fields.
    Scalar,
    /// Items of one shape.
    List(Arc<Shape>),
    /// These fields and no others.
    Fields(Arc<BTreeMap<String, Field>>),
}

/// A field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) shape: Shape,
    /// Whether it is always there.
    pub(crate) always: bool,
}

impl Field {
    pub(crate) const fn always(shape: Shape) -> Self {
        Self { shape, always: true }
    }

    pub(crate) const fn sometimes(shape: Shape) -> Self {
        Self { shape, always: false }
    }
}

impl Shape {
    pub(crate) fn fields(fields: impl IntoIterator<Item = (String, Field)>) -> Self {
        Self::Fields(Arc::new(fields.into_iter().collect()))
    }

    /// What a schema declares.
    pub(crate) fn declared(schema: &Schema) -> Self {
        match schema.kind {
            Some(ValueKind::Array) => Self::List(Arc::new(schema.items.as_deref().map_or(Self::Any, Self::declared))),
            Some(ValueKind::Object) | None if !schema.properties.is_empty() => {
                Self::fields(schema.properties.iter().map(|(name, property)| {
                    let field = Field { shape: Self::declared(property), always: schema.required.contains(name) };
                    (name.clone(), field)
                }))
            }
            Some(ValueKind::Object) | None => Self::Any,
            Some(ValueKind::String | ValueKind::Integer | ValueKind::Number | ValueKind::Boolean) => Self::Scalar,
        }
    }

    /// What a sample shows. Null is what is not there.
    pub(crate) fn shown(sample: &Json) -> Self {
        match sample {
            Json::Null => Self::Any,
            Json::Bool(_) | Json::Number(_) | Json::String(_) => Self::Scalar,
            Json::Array(items) => {
                let items = items.iter().map(Self::shown).reduce(Self::or).unwrap_or(Self::Any);
                Self::List(Arc::new(items))
            }
            Json::Object(fields) => Self::fields(fields.iter().map(|(name, value)| {
                let field = Field { shape: Self::shown(value), always: !value.is_null() };
                (name.clone(), field)
            })),
        }
    }

    /// Of a value that is sometimes one and sometimes the other.
    fn or(self, other: Self) -> Self {
        match (self, other) {
            (Self::Scalar, Self::Scalar) => Self::Scalar,
            (Self::List(a), Self::List(b)) => Self::List(Arc::new(Shape::clone(&a).or(Shape::clone(&b)))),
            (Self::Fields(a), Self::Fields(b)) => {
                let mut all = BTreeMap::clone(&a);
                for (name, field) in &mut all {
                    field.always &= b.get(name).is_some_and(|other| other.always);
                }
                for (name, field) in b.iter() {
                    let merged = match all.remove(name) {
                        Some(known) => {
                            Field { shape: known.shape.or(field.shape.clone()), always: known.always && field.always }
                        }
                        None => Field::sometimes(field.shape.clone()),
                    };
                    all.insert(name.clone(), merged);
                }
                Self::Fields(Arc::new(all))
            }
            _ => Self::Any,
        }
    }

    /// A field by name; `None` where there is surely none.
    pub(crate) fn get(&self, name: &str) -> Option<Field> {
        match self {
            Self::Any => Some(Field::always(Self::Any)),
            Self::Fields(fields) => fields.get(name).cloned(),
            Self::Scalar | Self::List(_) => None,
        }
    }

    /// Names of the fields that are known.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let fields = match self {
            Self::Fields(fields) => Some(fields),
            _ => None,
        };
        fields.into_iter().flat_map(|fields| fields.keys()).map(String::as_str)
    }

    /// Each of its items.
    pub(crate) fn item(&self) -> Self {
        match self {
            Self::List(item) => Self::clone(item),
            _ => Self::Any,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn items_that_differ_have_the_fields_of_all_and_promise_those_of_each() {
        let shape =
            Shape::shown(&json!([{"name": "Tea", "price": 2}, {"name": "Milk", "note": null}, {"name": "Bread"}]));
        let item = shape.item();
        let field = |name: &str| item.get(name).unwrap();
        assert!(field("name").always && !field("price").always && !field("note").always);
        assert_eq!(item.get("weight"), None);
        assert_eq!(Shape::shown(&json!([1, {"a": 2}])).item(), Shape::Any);
    }
}
