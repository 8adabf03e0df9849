//! The examples in the API's description: every JSON body has one, and what an example asks for is answered as the description promises.

#![allow(clippy::unwrap_used)]

use super::test_support::House;
use reqwest::Method;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// JSON bodies without an example. The list only grows shorter: who adds a body writes its example.
const WITHOUT: [&str; 1] = ["get /openapi.json 200"];

/// Requests that cannot be answered well here, and why.
const NOT_SENT: [(&str, &str); 1] = [("/v1/web-push/subscriptions", "its token is a link that only its member has")];

/// A JSON body of an operation.
struct Body<'a> {
    method: &'a str,
    path: &'a str,
    operation: &'a Value,
    /// `request`, or the status of the answer.
    part: &'a str,
    kind: &'a str,
    media: &'a Value,
}

fn bodies(document: &Value) -> Vec<Body<'_>> {
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answers = operation["responses"].as_object().unwrap().iter();
            let good = answers.filter(|(status, _)| status.starts_with('2')).map(|(status, it)| (status.as_str(), it));
            for (part, it) in std::iter::once(("request", &operation["requestBody"])).chain(good) {
                for (kind, media) in it["content"].as_object().into_iter().flatten() {
                    if kind == "application/json" || kind.ends_with("+json") {
                        all.push(Body { method, path, operation, part, kind, media });
                    }
                }
            }
        }
    }
    all
}

/// The example of a body itself, or that of its schema.
fn example(document: &Value, media: &Value) -> Option<Value> {
    let own = Some(&media["example"]).filter(|example| !example.is_null());
    own.cloned().or_else(|| example_of(document, &media["schema"]))
}

fn example_of(document: &Value, schema: &Value) -> Option<Value> {
    if let Some(reference) = schema["$ref"].as_str() {
        return example_of(document, document.pointer(reference.strip_prefix('#')?)?);
    }
    let own = Some(&schema["example"]).filter(|example| !example.is_null());
    own.cloned().or_else(|| {
        let items = Some(&schema["items"]).filter(|items| !items.is_null())?;
        Some(json!([example_of(document, items)?]))
    })
}

/// The path with the examples of its parameters.
fn filled(body: &Body<'_>) -> String {
    let parameters = body.operation["parameters"].as_array().into_iter().flatten();
    parameters.filter(|parameter| parameter["in"] == "path").fold(body.path.to_owned(), |path, parameter| {
        let (name, example) = (parameter["name"].as_str().unwrap(), parameter["example"].as_str());
        path.replace(&format!("{{{name}}}"), example.unwrap_or_else(|| panic!("{}: {name} has no example", body.path)))
    })
}

#[tokio::test]
async fn every_json_body_has_an_example() {
    let document = House::new().await.get("/openapi.json").await.body;
    let without = bodies(&document).into_iter().filter(|body| example(&document, body.media).is_none());
    let without: BTreeSet<String> =
        without.map(|Body { method, path, part, .. }| format!("{method} {path} {part}")).collect();
    assert_eq!(without, BTreeSet::from(WITHOUT.map(str::to_owned)));
}

#[tokio::test]
async fn what_an_example_asks_for_is_answered_as_promised() {
    let house = House::new().await;
    let document = house.get("/openapi.json").await.body;
    let mut requests: Vec<Body<'_>> = bodies(&document).into_iter().filter(|body| body.part == "request").collect();
    // Who is merged into another has to be there.
    house.put("/v1/members/guest-77", &json!({})).await;
    // What others are about comes first.
    requests.sort_by_key(|body| (body.path != "/v1/definitions", body.path != "/v1/members/{id}"));
    for body in requests {
        let Some(example) = example(&document, body.media) else { continue };
        if NOT_SENT.iter().any(|(path, _)| *path == body.path) {
            continue;
        }
        let method = Method::from_bytes(body.method.to_uppercase().as_bytes()).unwrap();
        let headers = [("content-type", body.kind)];
        let answer = house.call(method, &filled(&body), "all", &headers, example.to_string()).await;
        let promised = !body.operation["responses"][answer.status.as_str()].is_null();
        assert!(
            answer.status.is_success() && promised,
            "{} {} {}: {} {}",
            body.method,
            body.path,
            body.kind,
            answer.status,
            answer.body
        );
    }
}
