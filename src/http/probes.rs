//! `/livez`, `/readyz` and `/metrics`, for whoever runs the process. No keys, hence nothing of any project, and no addresses.

use super::Shared;
use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use std::{fmt::Display, future::Future, sync::Arc};
use utoipa::ToSchema;

/// One thing that must be so before traffic may come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Check {
    /// What: `log`, `store`, `definitions`, …
    #[schema(example = "log")]
    pub name: String,
    /// Whether it is so.
    pub ok: bool,
    /// In words.
    #[schema(example = "answers")]
    pub detail: String,
}

/// Whether traffic may come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"ready": true, "checks": [{"name": "log", "ok": true, "detail": "answers"}]}))]
pub struct Ready {
    /// All checks passed.
    pub ready: bool,
    /// Each check.
    pub checks: Vec<Check>,
}

/// The process is alive.
#[utoipa::path(get, path = "/livez", tag = "probes", responses((status = 200, description = "Alive", body = String, content_type = "text/plain")))]
pub async fn live() -> &'static str {
    "ok\n"
}

/// The process can work: log and store answer, definitions are loaded.
#[utoipa::path(
    get, path = "/readyz", tag = "probes",
    responses((status = 200, description = "Ready", body = Ready), (status = 503, description = "Not ready; the checks say why", body = Ready)),
)]
pub async fn ready(State(shared): State<Arc<Shared>>) -> (StatusCode, Json<Ready>) {
    let api = &shared.api;
    let (log, store, mut more) =
        tokio::join!(shared.probe("log", api.log.ping()), shared.probe("store", api.store.ping()), (api.readiness)());
    let mut checks = vec![log, store];
    checks.append(&mut more);
    let ready = checks.iter().all(|check| check.ok);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Ready { ready, checks }))
}

/// Metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", tag = "probes", responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")))]
pub async fn metrics(State(shared): State<Arc<Shared>>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], (shared.api.metrics)()).into_response()
}

impl Shared {
    async fn probe<E: Display>(&self, name: &str, ping: impl Future<Output = Result<(), E>>) -> Check {
        let detail = match tokio::time::timeout(self.api.limits.probe_timeout, ping).await {
            Ok(Ok(())) => return Check { name: name.into(), ok: true, detail: "answers".into() },
            // The error may name hosts: it goes to our own log.
            Ok(Err(error)) => {
                tracing::warn!(%error, name, "not ready");
                "answers with an error; the server's log says which"
            }
            Err(_) => "does not answer in time",
        };
        Check { name: name.into(), ok: false, detail: detail.into() }
    }
}
