//! `POST /v1/events`: CloudEvents 1.0 over HTTP, structured, batched and binary (HTTP protocol binding 1.0.2).
//! Answers once the events are on the log (law 1); what they cause is not known here.

use super::{
    Shared,
    auth::{Caller, Scope},
    problem::{FieldError, Problem, ProblemDocument},
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
};
use bellwether_connectors::{
    events::{EventError, EventErrorKind, is_json, parse_batch, parse_binary, parse_structured},
    log::Append,
};
use bellwether_processors::definitions::{Compiled, Misfit};
use bellwether_schemas::{
    EventId, MemberKey, Topic,
    codec::{CodecError, encode},
    records::Event,
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;

/// What became of a request's events.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct Accepted {
    /// How many are on the log.
    pub accepted: usize,
    /// Those, in the order sent.
    pub events: Vec<AcceptedEvent>,
    /// Those that were refused, in the order sent.
    pub rejected: Vec<RejectedEvent>,
}

/// An event that is on the log.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct AcceptedEvent {
    /// CloudEvents `id`, as sent.
    #[schema(example = "order-1001")]
    pub id: String,
    /// Bellwether's id: hash of project, `source` and `id`.
    #[schema(value_type = uuid::Uuid)]
    pub event_id: EventId,
}

/// An event of a batch that was refused.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RejectedEvent {
    /// Its place in the batch, from 0.
    pub index: usize,
    /// Why.
    #[serde(flatten)]
    pub error: FieldError,
}

/// An event as producers send it (CloudEvents 1.0, JSON format). Extension attributes are allowed and ignored.
#[derive(ToSchema)]
#[allow(dead_code)] // For the OpenAPI document alone: the reader is the connectors'.
#[schema(example = json!({
    "specversion": "1.0", "id": "order-1001", "source": "/shop/orders", "type": "order.placed", "subject": "anna",
    "time": "2026-03-01T12:00:00Z", "data": {"order": "1001", "total": "59.90"}
}))]
pub struct CloudEvent {
    /// `1.0`
    specversion: String,
    /// Unique within the source; the same twice is the same event.
    id: String,
    /// URI reference of the producer.
    source: String,
    /// What happened; flows are triggered by it.
    r#type: String,
    /// `client_user_id` of the member, at most 256 bytes.
    subject: String,
    /// RFC 3339; absent means now.
    time: Option<String>,
    /// Absent, or a JSON media type.
    datacontenttype: Option<String>,
    /// Any JSON, at most 256 KiB.
    #[schema(value_type = Object)]
    data: Option<serde_json::Value>,
}

/// What a content type and the headers say of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Structured,
    Batched,
    Binary,
}

const KNOWN_TYPES: &str =
    "`application/cloudevents+json`, `application/cloudevents-batch+json`, or JSON with `ce-` headers";

fn mode(headers: &HeaderMap, body: &[u8]) -> Result<Mode, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "application/cloudevents+json" => Ok(Mode::Structured),
        "application/cloudevents-batch+json" => Ok(Mode::Batched),
        other if other.starts_with("application/cloudevents") => Err(Problem::media_type(given, KNOWN_TYPES)),
        _ if headers.contains_key("ce-specversion") || headers.contains_key("ce-id") => Ok(Mode::Binary),
        other if is_json(other) => {
            let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
            Ok(if first == Some(&b'[') { Mode::Batched } else { Mode::Structured })
        }
        _ => Err(Problem::media_type(given, KNOWN_TYPES)),
    }
}

/// Accepts events.
///
/// The good events of a batch are accepted beside bad ones. Send an event again whenever the answer was lost: the same `source` and `id`
/// has its effects once.
#[utoipa::path(
    post, path = "/v1/events", tag = "events", security(("api_key" = ["events"])),
    request_body(description = "One event, or a batch of them; binary mode takes the attributes from `ce-` headers", content(
        (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"),
    )),
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h")),
    responses(
        (status = 202, description = "On the log", body = Accepted, example = json!({
            "accepted": 1, "events": [{"id": "order-1001", "event_id": "c55d7c6f-9f0e-5b14-8f3d-0e8f1d7b8a61"}],
            "rejected": [{"index": 1, "field": "subject", "detail": "is missing", "remedy": "send the client_user_id of the member"}]
        })),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 413, description = "Too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "No event is acceptable; `rejected` says why", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer: send it again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn accept(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<Accepted>), Problem> {
    caller.require(Scope::Events)?;
    let body = shared.read(&headers, body, shared.api.limits.events_bytes).await?;
    let (appends, answer) = match judge(&shared, &caller, &headers, &body) {
        Ok(judged) => judged,
        Err(problem) => {
            shared.api.observer.rejected(if problem.status() == 422 { "invalid" } else { "malformed" });
            return Err(problem);
        }
    };
    for _ in &answer.rejected {
        shared.api.observer.rejected("invalid");
    }
    if answer.events.is_empty() && !answer.rejected.is_empty() {
        let problem =
            Problem::invalid("body", "no event of the batch is acceptable", "see `rejected` for each event's");
        return Err(problem.with("rejected", &answer.rejected));
    }
    if !appends.is_empty() {
        shared.api.log.append(appends).await?;
        shared.api.observer.accepted(caller.project(), answer.accepted);
    }
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// What is to be appended, and what to answer then.
fn judge(
    shared: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(Vec<Append>, Accepted), Problem> {
    let (project, now) = (caller.project(), shared.now());
    let definitions = shared.definitions(project);
    let fits = |event: Event| as_declared(definitions.as_deref(), event);
    let mut answer = Accepted::default();
    let mut appends = Vec::new();
    let mut take = |event: Event, answer: &mut Accepted| -> Result<(), CodecError> {
        appends.push(append(&event)?);
        answer.accepted += 1;
        answer.events.push(AcceptedEvent { event_id: event.event_id(), id: event.id });
        Ok(())
    };
    match mode(headers, body)? {
        Mode::Batched => {
            let events = parse_batch(body, shared.api.limits.batch_events, Some(project), now).map_err(refusal)?;
            answer.events.reserve(events.len());
            for (index, event) in events.enumerate() {
                match event.map_err(FieldError::from).and_then(fits) {
                    Ok(event) => take(event, &mut answer)?,
                    Err(error) => answer.rejected.push(RejectedEvent { index, error }),
                }
            }
        }
        Mode::Structured => take(fits(parse_structured(body, Some(project), now).map_err(refusal)?)?, &mut answer)?,
        Mode::Binary => {
            let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
            take(fits(parse_binary(headers, body, Some(project), now).map_err(refusal)?)?, &mut answer)?;
        }
    }
    Ok((appends, answer))
}

/// The event, if its data is what the project declares of its type. What comes by the log is held to the same in flow.
fn as_declared(definitions: Option<&Compiled>, event: Event) -> Result<Event, FieldError> {
    let Some(definitions) = definitions.filter(|definitions| definitions.is_declared(&event.kind)) else {
        return Ok(event);
    };
    let data = serde_json::from_str(&event.data).unwrap_or_default();
    let Some(Misfit { field, problem }) = definitions.misfit(&event.kind, &data) else { return Ok(event) };
    let field = if field.is_empty() { "data".to_owned() } else { format!("data.{field}") };
    Err(FieldError::new(field, problem, format!("send what is declared of `{}`, or declare what is sent", event.kind)))
}

impl From<EventError> for FieldError {
    fn from(error: EventError) -> Self {
        Self::new(error.field, error.problem, error.remedy)
    }
}

/// Why a whole request is refused: what cannot be read is malformed, a bad attribute is invalid.
fn refusal(error: EventError) -> Problem {
    match error.kind {
        EventErrorKind::Malformed => Problem::malformed(error.field, error.problem, error.remedy),
        _ => FieldError::from(error).into(),
    }
}

fn append(event: &Event) -> Result<Append, CodecError> {
    let member = event.subject.as_deref().unwrap_or_default();
    let key = MemberKey::new(event.project.as_str(), member).to_string().into_bytes();
    Ok(Append { topic: Topic::Events, key, payload: encode(event)?, headers: Vec::new() })
}
