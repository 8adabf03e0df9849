//! `GET /openapi.json`: the description of the API, made from the handlers' own annotations.
//! A test compares it with the routes, so that neither can go without the other.

use axum::Json;
use utoipa::{
    Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};

/// The document (OpenAPI 3.1).
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Bellwether",
        description = "Events in, the right message on the right channel out, exactly counted. Every refusal is a problem document \
            (RFC 9457) with the field at fault and the remedy. Repeating any request does no harm.",
    ),
    paths(
        super::events::accept,
        super::members::read, super::members::upsert, super::members::remove,
        super::search::find, super::merge::merge,
        super::consents::list, super::consents::add,
        super::rights::export, super::rights::erase,
        super::links::create, super::links::key, super::links::subscribe,
        super::imports::import, super::imports::progress, super::imports::rejects,
        super::suppressions::list, super::suppressions::show, super::suppressions::put, super::suppressions::remove,
        super::suppressions::export, super::suppressions::import,
        super::notifications::of_event, super::notifications::story,
        super::stats::figures,
        super::dead_letters::list, super::dead_letters::show, super::dead_letters::replay,
        super::definitions::read, super::definitions::publish, super::preview::preview,
        super::channels::list, super::channels::test, super::channels::templates::templates,
        super::webhooks::receive, super::webhooks::subscribe,
        super::tracking::follow, super::tracking::clicked, super::tracking::open, super::tracking::delivered,
        super::tracking::ask, super::tracking::unsubscribe,
        super::tracking::preferences::show, super::tracking::preferences::save,
        super::tracking::confirm::ask, super::tracking::confirm::confirm,
        super::probes::live, super::probes::ready, super::probes::metrics,
        document,
    ),
    components(schemas(super::definitions::Finding, super::members::MemberAddress)),
    modifiers(&ApiKey),
)]
struct Description;

struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.description = Some("An API key. It belongs to one project, and has scopes.".into());
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("api_key", SecurityScheme::Http(http));
    }
}

/// The description of the API.
#[utoipa::path(get, path = "/openapi.json", tag = "probes", responses((status = 200, description = "OpenAPI 3.1", body = Object)))]
pub async fn document() -> Json<utoipa::openapi::OpenApi> {
    Json(Description::openapi())
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::ROUTES;
    use serde_json::Value;
    use std::collections::{BTreeMap, BTreeSet};

    #[test]
    fn every_route_is_documented_and_nothing_else() {
        let document = serde_json::to_value(Description::openapi()).unwrap();
        let documented: BTreeMap<&str, BTreeSet<&str>> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(path, item)| (path.as_str(), item.as_object().unwrap().keys().map(String::as_str).collect()))
            .collect();
        let routed: BTreeMap<&str, BTreeSet<&str>> =
            ROUTES.iter().map(|(path, methods)| (*path, methods.iter().copied().collect())).collect();
        assert_eq!(documented, routed);
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_words() {
        let document = serde_json::to_value(Description::openapi()).unwrap();
        let mut open = vec![&document];
        while let Some(value) = open.pop() {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(reference)) = members.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
                    }
                    open.extend(members.values());
                }
                Value::Array(items) => open.extend(items),
                _ => {}
            }
        }
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                assert!(!operation["summary"].as_str().unwrap_or_default().is_empty(), "{method} {path}");
                let refusals = operation["responses"].as_object().unwrap().iter().filter(|(s, _)| s.as_str() >= "400");
                for (status, response) in refusals.filter(|_| path.as_str() != "/readyz") {
                    // A reader of a message gets a page.
                    let is_page = path.starts_with("/t/") && !response["content"]["text/html"].is_null();
                    let described = is_page || !response["content"]["application/problem+json"].is_null();
                    assert!(described, "{method} {path} {status} is no problem document");
                }
            }
        }
    }
}
