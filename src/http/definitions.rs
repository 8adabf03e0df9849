//! `/v1/definitions`: what is published for a project, and publishing a new version to the compacted `definitions` topic.
//! Whether definitions make sense is judged by the function that the API was given; this door guards version and project.

use super::{
    Shared,
    auth::{Caller, Scope},
    problem::{Problem, ProblemDocument},
};
use crate::approvals;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_processors::definitions::{self, Compiled};
use bellwether_schemas::{Topic, codec::encode, definitions::Definitions, records::DefinitionSet};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// One thing that is wrong with definitions, or worth a remark.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// Where: `flows.order-placed.when`.
    #[schema(example = "flows.order-placed.when")]
    pub field: String,
    /// Line within the text of that field, from 1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Column within that line, from 1, in characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

impl From<definitions::Finding> for Finding {
    fn from(finding: definitions::Finding) -> Self {
        let definitions::Finding { path, line, column, problem, remedy } = finding;
        Self { field: path, line, column, problem, remedy }
    }
}

/// Definitions with their version.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"project": "shop", "version": 4, "applied": true, "document": {
    "project": {"name": "shop", "default_locale": "en"}, "providers": {}, "templates": {}, "flows": {}
}}))]
pub struct DefinitionsAnswer {
    /// Project.
    pub project: String,
    /// Version, from 1; also in `ETag`.
    pub version: i32,
    /// Whether this process serves from this version already.
    pub applied: bool,
    /// The document: `project`, `providers`, `events`, `partials`, `layouts`, `templates`, `types`, `flows`.
    #[schema(value_type = Object)]
    pub document: Definitions,
    /// What is allowed and yet worth a look, or could not be checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Finding>,
}

/// What is published.
#[utoipa::path(
    get, path = "/v1/definitions", tag = "definitions", security(("api_key" = ["definitions"])),
    responses(
        (status = 200, description = "The definitions", body = DefinitionsAnswer, headers(("ETag" = String, description = "The version in quotes"))),
        (status = 404, description = "Nothing is published yet", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn read(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Response, Problem> {
    caller.require(Scope::Definitions)?;
    let known = shared.definitions(caller.project()).ok_or_else(|| {
        Problem::not_found("the project has no definitions yet", "publish them by `bellwether apply DIR`")
    })?;
    let remarks = known.remarks().iter().cloned().map(Finding::from).collect();
    Ok(answer(caller.project(), known.version, true, Definitions::clone(&known.document), remarks))
}

/// Publishes definitions as the next version.
#[utoipa::path(
    put, path = "/v1/definitions", tag = "definitions", security(("api_key" = ["definitions"])),
    request_body(content = Object, description = "The document: `project`, `providers`, `templates` and `flows`; `events`, `partials`, `layouts` and `types` where there are such",
        example = json!({
            "project": {
                "name": "shop", "default_locale": "en", "default_region": "DE",
                "categories": {"newsletter": {"title": "Newsletter", "consent": "required"}}
            },
            "providers": {"mail": {"kind": "smtp", "host": "mail.example.org", "from_address": "shop@example.org"}},
            "templates": {"order_placed": {"sample": {"order": "1001"}, "channels": {"email": {"en": {
                "subject": "Your order {{ order }}", "text": "Thank you. Your order {{ order }} is on its way."
            }}}}},
            "flows": {"order_placed": {"on": "order.placed", "notify": {"template": "order_placed", "lane": "transactional"}}}
        })),
    params(
        ("If-Match" = Option<String>, Header, description = "Publish only if this is the current version: `\"3\"`, or `\"0\"` for none yet", example = "\"3\""),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 200, description = "Published, and served from", body = DefinitionsAnswer),
        (status = 202, description = "On the log, but not served from within the deadline", body = DefinitionsAnswer),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "Another publication came first", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 412, description = "Another version is current", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "Not valid, or not as Meta has approved it; `findings` says why", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn publish(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Definitions)?;
    let body = shared.read(&headers, body, shared.api.limits.definitions_bytes).await?;
    let document: Definitions = serde_json::from_slice(&body).map_err(|error| {
        let remedy = "send `project`, `providers`, `templates` and `flows` as `bellwether apply` does";
        Problem::malformed("document", format!("the body is not a document of definitions: {error}"), remedy)
    })?;
    if document.project.name != caller.project() {
        let detail = format!("the key is for the project `{}`", caller.project());
        return Err(Problem::invalid(
            "project.name",
            detail,
            "publish with a key of the project that the document names",
        ));
    }
    let (_, findings) = (shared.api.draft)(document.clone());
    refuse(&findings)?;
    // Meta is asked only about what is sound by itself.
    let approvals::Checked { findings, remarks } = approvals::check(&document, &*shared.api.approvals).await;
    refuse(&findings.into_iter().map(Finding::from).collect::<Vec<_>>())?;
    let _alone = shared.publishing.lock().await;
    let current = shared.definitions(caller.project()).map_or(0, |known| known.version);
    matches_version(&headers, current)?;
    let version = current.saturating_add(1);
    let set = DefinitionSet {
        project: caller.project().into(),
        version,
        published_at: shared.now(),
        actor: caller.0.name.clone(),
        document: serde_json::to_string(&document).map_err(|_| Problem::internal())?,
    };
    let key = set.project.clone().into_bytes();
    let append = Append { topic: Topic::Definitions, key, payload: encode(&set)?, headers: Vec::new() };
    shared.api.log.append(vec![append]).await?;
    let applied = shared.served_from(caller.project(), version, &document).await?;
    let status = if applied { StatusCode::OK } else { StatusCode::ACCEPTED };
    let served = shared.definitions(caller.project()).filter(|_| applied);
    let own = served.iter().flat_map(|known| known.remarks().iter().cloned());
    let remarks = own.chain(remarks).map(Finding::from).collect();
    Ok((status, answer(caller.project(), version, applied, document, remarks)).into_response())
}

/// Refuses definitions in which anything was found.
fn refuse(findings: &[Finding]) -> Result<(), Problem> {
    let Some(first) = findings.first() else { return Ok(()) };
    let detail = format!("`{}`: {}", first.field, first.problem);
    Err(Problem::invalid(first.field.clone(), detail, first.remedy.clone()).with("findings", findings))
}

fn answer(project: &str, version: i32, applied: bool, document: Definitions, remarks: Vec<Finding>) -> Response {
    let answer = DefinitionsAnswer { project: project.into(), version, applied, document, remarks };
    let tag = HeaderValue::from_str(&format!("\"{version}\""));
    let tag = tag.unwrap_or_else(|_| HeaderValue::from_static("\"\""));
    ([(header::ETAG, tag)], Json(answer)).into_response()
}

/// RFC 9110 section 13.1.1, for one tag.
fn matches_version(headers: &HeaderMap, current: i32) -> Result<(), Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        return Ok(());
    };
    let given = value.to_str().unwrap_or("?").trim();
    let same = match given {
        "*" => current > 0,
        tag => tag.trim_matches('"').parse() == Ok(current),
    };
    if same {
        return Ok(());
    }
    let detail = format!("version {current} is current, not {}", given.chars().take(40).collect::<String>());
    let remedy = "read the current definitions, look at the difference, and publish against that version";
    Err(Problem::new(StatusCode::PRECONDITION_FAILED, "version", "Another version is current", detail, remedy)
        .at("If-Match"))
}

impl Shared {
    pub(super) fn definitions(&self, project: &str) -> Option<Arc<Compiled>> {
        self.api.definitions.borrow().get(project).cloned()
    }

    /// Waits until this process serves from a version; false at the deadline. Two processes may publish the same version at once: the log
    /// puts one first, and the other learns here that the version holds something else.
    async fn served_from(&self, project: &str, version: i32, document: &Definitions) -> Result<bool, Problem> {
        let mut published = self.api.definitions.clone();
        let there =
            published.wait_for(|published| published.get(project).is_some_and(|known| known.version >= version));
        match tokio::time::timeout(self.api.limits.apply_deadline, there).await {
            Ok(Ok(published)) => match published.get(project) {
                Some(known) if known.version == version && *known.document != *document => Err(Problem::conflict(
                    format!("another publication became version {version}"),
                    "read the current definitions and publish again",
                )),
                _ => Ok(true),
            },
            Ok(Err(_)) | Err(_) => Ok(false),
        }
    }
}
