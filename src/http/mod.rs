//! The HTTP API: events, members, imports, suppressions, stories, figures, dead letters, definitions, channels, webhooks, the links of messages, and probes.
//! A door: it checks, appends to the log and reads the store. Whom to tell what is decided elsewhere.
//!
//! Reading order: this page (what the API needs, its limits and layers), [`problem`] (how it refuses), [`auth`] (who may),
//! [`idempotency`] (the same request twice), then one module a resource: [`events`], [`members`] (with
//! [`profile`], [`search`], [`merge`], [`links`], [`consents`] and [`rights`]), [`imports`] (with [`rows`]), [`suppressions`], [`notifications`], [`stats`], [`dead_letters`], [`definitions`],
//! [`preview`], [`channels`], [`webhooks`], [`tracking`], [`probes`];
//! [`openapi`] describes them all.

pub mod auth;
pub mod channels;
pub mod consents;
pub mod dead_letters;
pub mod definitions;
pub mod events;
#[cfg(test)]
mod examples;
mod extract;
pub mod idempotency;
pub mod imports;
pub mod links;
pub mod members;
pub mod merge;
pub mod notifications;
pub mod openapi;
pub mod preview;
pub mod probes;
pub mod problem;
pub mod profile;
pub mod rights;
pub mod rows;
pub mod search;
mod shards;
pub mod stats;
pub mod suppressions;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod tests;
pub mod tracking;
pub mod webhooks;

use self::{auth::ApiKeys, definitions::Finding, probes::Check, problem::Problem, tracking::Tracked, webhooks::Hooks};
use crate::{approvals::Approvals, runtime::sinks::Sinks, tracking::Trackers};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, header},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bellwether_connectors::{log::Log, store::Store, tracking::Purpose};
use bellwether_processors::{
    definitions::{Compiled, Projects},
    retention::Retention,
};
use bellwether_schemas::{Timestamp, definitions::Definitions};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture};
use std::{fmt::Debug, sync::Arc, time::Duration};
use tokio::sync::{Mutex, Semaphore, watch};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;
use uuid::Uuid;

/// The time now.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;
/// Compiles definitions as far as they can be, and says all that is wrong with them.
pub type Draft = Arc<dyn Fn(Definitions) -> (Compiled, Vec<Finding>) + Send + Sync>;
/// What besides log and store must be so before traffic may come.
pub type Readiness = Arc<dyn Fn() -> BoxFuture<'static, Vec<Check>> + Send + Sync>;
/// The metrics in the Prometheus text format 0.0.4.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// Told of what happens at the door.
pub trait Observer: Debug + Send + Sync {
    /// `count` events of a project are on the log.
    fn accepted(&self, project: &str, count: usize);
    /// One event was refused: `malformed` or `invalid`.
    fn rejected(&self, reason: &'static str);
    /// A callback with a signature that is not the provider's.
    fn webhook_unverified(&self, provider: &str);
    /// A link of a message was called.
    fn tracked(&self, purpose: Purpose, outcome: Tracked);
}

/// All that the API needs of the house.
#[derive(Clone)]
pub struct Api {
    /// Where commands and events go.
    pub log: Arc<dyn Log>,
    /// Where profiles, stories and figures are read.
    pub store: Arc<dyn Store>,
    /// The published definitions.
    pub definitions: watch::Receiver<Projects>,
    /// Checks definitions before they are published, and compiles those that are only looked at.
    pub draft: Draft,
    /// Who may call.
    pub keys: Arc<ApiKeys>,
    /// The time.
    pub clock: Clock,
    /// Counts what comes and what is refused.
    pub observer: Arc<dyn Observer>,
    /// Verifies and reads what providers call.
    pub hooks: Arc<dyn Hooks>,
    /// The providers, to tell how they stand and to send a test message.
    pub sinks: Arc<Sinks>,
    /// Asks Meta for the templates of an account.
    pub approvals: Arc<dyn Approvals>,
    /// Further checks of `/readyz`, beside log and store.
    pub readiness: Readiness,
    /// What `/metrics` answers.
    pub metrics: MetricsText,
    /// Consumer group that applies member commands: an import waits until it has committed past the import's last command.
    pub members_group: String,
    /// Header in which the proxy before us says where a request comes from.
    pub client_ip_header: Option<HeaderName>,
    /// Whether there is a key for the marks of erased members.
    pub can_erase: bool,
    /// Bounds.
    pub limits: Limits,
}

/// Bounds of the API (law 7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of an event or batch.
    pub events_bytes: usize,
    /// Events in a batch.
    pub batch_events: usize,
    /// Bytes of any other body but definitions and imports.
    pub body_bytes: usize,
    /// Bytes of definitions; a log takes records of about a megabyte.
    pub definitions_bytes: usize,
    /// Bytes of all bodies that are in memory at once; further requests wait.
    pub bodies_in_flight_bytes: usize,
    /// How long a request may take; imports are exempt, and bounded by `import_idle` instead.
    pub request_timeout: Duration,
    /// How long a change waits until it is applied.
    pub apply_deadline: Duration,
    /// How long a probe waits for log and store.
    pub probe_timeout: Duration,
    /// Imports at once.
    pub imports: usize,
    /// How long an import waits for the next bytes of its upload.
    pub import_idle: Duration,
    /// How long an import waits at its end until all is applied.
    pub import_apply_deadline: Duration,
    /// How long dead letters are kept.
    pub dead_letters_kept: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events_bytes: 8 << 20,
            batch_events: 10_000,
            body_bytes: 128 << 10,
            definitions_bytes: 900 << 10,
            bodies_in_flight_bytes: 64 << 20,
            request_timeout: Duration::from_secs(30),
            apply_deadline: Duration::from_secs(10),
            probe_timeout: Duration::from_secs(3),
            imports: 4,
            import_idle: Duration::from_secs(30),
            import_apply_deadline: Duration::from_secs(120),
            dead_letters_kept: Retention::default().dead_letters,
        }
    }
}

/// What the handlers share: the API and the gates in front of it.
pub struct Shared {
    api: Arc<Api>,
    /// KiB of request bodies that may still come into memory.
    bodies: Semaphore,
    /// Imports that may still begin.
    imports: Arc<Semaphore>,
    /// One publication at a time, so that each sees the version before it.
    publishing: Mutex<()>,
    /// What opens the links of messages.
    trackers: Trackers,
}

impl Shared {
    fn now(&self) -> Timestamp {
        (self.api.clock)()
    }

    /// Reads a body of at most `limit` bytes.
    async fn read(&self, headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
        if content_length(headers).is_some_and(|length| length > limit) {
            return Err(Problem::too_large(limit));
        }
        let mut bytes = BytesMut::with_capacity(content_length(headers).unwrap_or(0));
        let mut chunks = body.into_data_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::malformed("body", "the body broke off", "send the whole body"))?;
            if bytes.len() + chunk.len() > limit {
                return Err(Problem::too_large(limit));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }
}

fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Every route of the API, with the methods it answers. `/openapi.json` documents the same; a test compares the two.
pub const ROUTES: &[(&str, &[&str])] = &[
    ("/v1/events", &["post"]),
    ("/v1/members", &["get"]),
    ("/v1/members/{id}", &["get", "put", "delete"]),
    ("/v1/members/import", &["post"]),
    ("/v1/imports/{id}", &["get"]),
    ("/v1/imports/{id}/rejects", &["get"]),
    ("/v1/notifications", &["get"]),
    ("/v1/notifications/{id}", &["get"]),
    ("/v1/stats", &["get"]),
    ("/v1/dead-letters", &["get"]),
    ("/v1/dead-letters/{id}", &["get"]),
    ("/v1/dead-letters/replay", &["post"]),
    ("/v1/definitions", &["get", "put"]),
    ("/v1/templates/preview", &["post"]),
    ("/v1/channels", &["get"]),
    ("/v1/channels/{channel}/test", &["post"]),
    ("/v1/suppressions", &["get"]),
    ("/v1/suppressions/{channel}/{address}", &["get", "put", "delete"]),
    ("/v1/suppressions/export", &["get"]),
    ("/v1/suppressions/import", &["post"]),
    ("/v1/channels/whatsapp/templates", &["get"]),
    ("/v1/members/{id}/links", &["post"]),
    ("/v1/members/{id}/consents", &["get", "post"]),
    ("/v1/members/{id}/export", &["get"]),
    ("/v1/members/{id}/erase", &["post"]),
    ("/v1/members/{id}/merge", &["post"]),
    ("/v1/web-push/key", &["get"]),
    ("/v1/web-push/subscriptions", &["post"]),
    ("/v1/webhooks/{project}/{provider}", &["get", "post"]),
    ("/t/{project}/c/{token}", &["get", "post"]),
    ("/t/{project}/o/{token}", &["get"]),
    ("/t/{project}/d/{token}", &["post"]),
    ("/t/{project}/u/{token}", &["get", "post"]),
    ("/t/{project}/p/{token}", &["get", "post"]),
    ("/t/{project}/v/{token}", &["get", "post"]),
    ("/livez", &["get"]),
    ("/readyz", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
];

/// The API as a router.
pub fn router(api: Arc<Api>) -> Router {
    let shared = Arc::new(Shared {
        bodies: Semaphore::new(api.limits.bodies_in_flight_bytes >> 10),
        imports: Arc::new(Semaphore::new(api.limits.imports)),
        publishing: Mutex::new(()),
        trackers: Trackers::default(),
        api,
    });
    let answered_once = Router::new()
        .route("/v1/events", post(events::accept))
        .route("/v1/members", get(search::find))
        .route("/v1/members/{id}", get(members::read).put(members::upsert).delete(members::remove))
        .route("/v1/members/{id}/links", post(links::create))
        .route("/v1/members/{id}/consents", get(consents::list).post(consents::add))
        .route("/v1/members/{id}/export", get(rights::export))
        .route("/v1/members/{id}/erase", post(rights::erase))
        .route("/v1/members/{id}/merge", post(merge::merge))
        .route("/v1/imports/{id}", get(imports::progress))
        .route("/v1/imports/{id}/rejects", get(imports::rejects))
        .route("/v1/notifications", get(notifications::of_event))
        .route("/v1/notifications/{id}", get(notifications::story))
        .route("/v1/stats", get(stats::figures))
        .route("/v1/dead-letters", get(dead_letters::list))
        .route("/v1/dead-letters/{id}", get(dead_letters::show))
        .route("/v1/dead-letters/replay", post(dead_letters::replay))
        .route("/v1/definitions", get(definitions::read).put(definitions::publish))
        .route("/v1/templates/preview", post(preview::preview))
        .route("/v1/channels", get(channels::list))
        .route("/v1/channels/{channel}/test", post(channels::test))
        .route("/v1/suppressions", get(suppressions::list))
        .route(
            "/v1/suppressions/{channel}/{address}",
            get(suppressions::show).put(suppressions::put).delete(suppressions::remove),
        )
        .route("/v1/suppressions/export", get(suppressions::export))
        .route("/v1/channels/whatsapp/templates", get(channels::templates::templates))
        .layer(from_fn_with_state(Arc::clone(&shared), idempotency::once))
        .route("/v1/web-push/key", get(links::key).options(links::preflight))
        .route("/v1/web-push/subscriptions", post(links::subscribe).options(links::preflight))
        .route("/v1/webhooks/{project}/{provider}", get(webhooks::subscribe).post(webhooks::receive))
        .route("/t/{project}/c/{token}", get(tracking::follow).post(tracking::clicked).options(links::preflight))
        .route("/t/{project}/o/{token}", get(tracking::open))
        .route("/t/{project}/d/{token}", post(tracking::delivered).options(links::preflight))
        .route("/t/{project}/u/{token}", get(tracking::ask).post(tracking::unsubscribe))
        .route("/t/{project}/p/{token}", get(tracking::preferences::show).post(tracking::preferences::save))
        .route("/t/{project}/v/{token}", get(tracking::confirm::ask).post(tracking::confirm::confirm))
        .layer(from_fn_with_state(Arc::clone(&shared), bounded_memory))
        .route("/livez", get(probes::live))
        .route("/readyz", get(probes::ready))
        .route("/metrics", get(probes::metrics))
        .route("/openapi.json", get(openapi::document))
        .route("/bellwether.js", get(links::script))
        .route("/bellwether-sw.js", get(links::worker))
        .layer(from_fn_with_state(Arc::clone(&shared), bounded_time));
    answered_once
        .route("/v1/members/import", post(imports::import))
        .route("/v1/suppressions/import", post(suppressions::import))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(CatchPanicLayer::custom(|_| Problem::internal().into_response()))
        .layer(from_fn(named))
        .with_state(shared)
}

async fn no_route() -> Problem {
    Problem::not_found("there is no such path", "see /openapi.json").at("path")
}

async fn no_method() -> Problem {
    let status = axum::http::StatusCode::METHOD_NOT_ALLOWED;
    Problem::new(status, "method", "The path does not take this method", "see the Allow header", "see /openapi.json")
}

/// Gives every request an id, its own (`X-Request-Id`) or a new one, in the log and in the answer.
async fn named(request: Request, next: Next) -> Response {
    const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    let sane =
        |value: &&HeaderValue| (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic);
    let id = request.headers().get(REQUEST_ID).filter(sane).cloned();
    let id = id.or_else(|| HeaderValue::from_str(&Uuid::now_v7().to_string()).ok());
    let text = id.as_ref().and_then(|value| value.to_str().ok()).unwrap_or_default();
    let span = tracing::info_span!("request", id = text, method = %request.method());
    let mut response = next.run(request).instrument(span).await;
    if let Some(id) = id {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Ends what takes too long. What it was doing may have happened, as after any lost answer.
async fn bounded_time(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(shared.api.limits.request_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Problem::unavailable("the request took too long").into_response(),
    }
}

/// Lets a body in when there is memory for it; a body of unknown length counts as the largest.
async fn bounded_memory(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let limits = &shared.api.limits;
    let largest = limits.events_bytes.max(limits.definitions_bytes).min(limits.bodies_in_flight_bytes);
    let chunked = request.headers().contains_key(header::TRANSFER_ENCODING);
    let expected = content_length(request.headers()).unwrap_or(if chunked { largest } else { 0 });
    let kibibytes = u32::try_from(expected.min(largest).div_ceil(1 << 10)).unwrap_or(u32::MAX);
    let _room = shared.bodies.acquire_many(kibibytes).await;
    next.run(request).await
}
