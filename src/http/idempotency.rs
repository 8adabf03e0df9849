//! `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header-07): the same key and request again give the same answer, for a day.
//! Not the reason why repeating is safe (ids derive from causes, so effects happen once); it spares callers a second, other answer.

use super::{
    Shared,
    auth::Caller,
    problem::{PROBLEM_JSON, Problem},
};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bellwether_schemas::{
    rows::{Cells, Row, Write},
    tables::IdempotencyRow,
};
use sha2::{Digest, Sha256};
use std::{sync::Arc, time::Duration};

/// How long an answer is kept.
const KEPT_FOR: Duration = Duration::from_secs(86_400);
/// How long a claim without an answer blocks its key: longer than a request may take, so that only a crash leaves one behind. Whoever comes
/// then does the work anew.
const CLAIMED_FOR: Duration = Duration::from_secs(60);
/// Largest answer that is kept.
const MAX_ANSWER_BYTES: usize = 8 << 20;

const KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The layer: requests without the header pass it untouched.
pub async fn once(State(shared): State<Arc<Shared>>, mut request: Request, next: Next) -> Response {
    let changes = matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE);
    let Some(key) = request.headers().get(KEY).filter(|_| changes).cloned() else {
        return next.run(request).await;
    };
    let caller = match Caller::of(&shared.api.keys, request.headers()) {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    request.extensions_mut().insert(caller.clone());
    match answer(&shared, &caller, &key, request, next).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(),
    }
}

async fn answer(
    shared: &Shared,
    caller: &Caller,
    key: &HeaderValue,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let key = key.to_str().ok().filter(|key| (1..=255).contains(&key.len())).ok_or_else(|| {
        let detail = "the header does not have 1 to 255 visible ASCII characters";
        Problem::invalid("Idempotency-Key", detail, "send a fresh UUID for each new request")
    })?;
    let limits = &shared.api.limits;
    let largest = limits.events_bytes.max(limits.definitions_bytes).max(limits.body_bytes);
    let (parts, body) = request.into_parts();
    let body = shared.read(&parts.headers, body, largest).await?;
    let path = parts.uri.path_and_query().map_or("", |path| path.as_str());
    let fingerprint = fingerprint(&parts.method, path, &parts.headers, &body);
    let row = IdempotencyRow {
        project: caller.project().into(),
        key: key.into(),
        request: fingerprint,
        status: None,
        body: None,
    };
    let claim = Cells { ttl: Some(CLAIMED_FOR), ..row.clone().into_cells() };
    if let Some(earlier) = shared.api.store.insert_if_absent(claim).await? {
        return replay(IdempotencyRow::from_cells(earlier)?, &row.request);
    }
    let response = next.run(Request::from_parts(parts, Body::from(body))).await;
    keep(shared, row, response).await
}

/// SHA-256 of all that makes the request what it is, each part with its length.
fn fingerprint(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> String {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(bytes);
    };
    part(method.as_str().as_bytes());
    part(path.as_bytes());
    let telling = |name: &HeaderName| {
        name.as_str().starts_with("ce-") || *name == header::CONTENT_TYPE || *name == header::IF_MATCH
    };
    let mut told: Vec<(&str, &[u8])> = headers
        .iter()
        .filter(|(name, _)| telling(name))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    told.sort_unstable();
    for (name, value) in told {
        part(name.as_bytes());
        part(value);
    }
    part(body);
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The answer to a request whose key is taken.
fn replay(earlier: IdempotencyRow, request: &str) -> Result<Response, Problem> {
    if earlier.request != request {
        let detail = "the key was used for another request";
        return Err(Problem::invalid("Idempotency-Key", detail, "send a fresh key for each new request"));
    }
    let status =
        earlier.status.and_then(|status| u16::try_from(status).ok()).and_then(|s| StatusCode::from_u16(s).ok());
    let Some(status) = status else {
        let problem = Problem::conflict("the first request with this key is in work", "ask again after Retry-After");
        return Err(problem.at("Idempotency-Key").retry_after(1));
    };
    let mut response = (status, earlier.body.unwrap_or_default()).into_response();
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_TYPE);
    if status != StatusCode::NO_CONTENT {
        let media_type = if status.is_success() { "application/json" } else { PROBLEM_JSON };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    }
    headers.insert(REPLAYED, HeaderValue::from_static("true"));
    Ok(response)
}

/// Keeps an answer that would be the same again; gives the key free after any other.
async fn keep(shared: &Shared, row: IdempotencyRow, response: Response) -> Result<Response, Problem> {
    let (parts, body) = response.into_parts();
    let bytes = axum::body::to_bytes(body, MAX_ANSWER_BYTES).await.map_err(|_| Problem::internal())?;
    let final_refusal = matches!(parts.status.as_u16(), 400 | 404 | 412 | 413 | 415 | 422);
    let write = match std::str::from_utf8(&bytes) {
        Ok(text) if parts.status.is_success() || final_refusal => {
            let status = Some(i64::from(parts.status.as_u16()));
            IdempotencyRow { status, body: Some(text.into()), ..row }.put_for(KEPT_FOR)
        }
        _ => {
            Write::Delete { table: IdempotencyRow::TABLE, key: IdempotencyRow::key(row.project, row.key), fence: None }
        }
    };
    // The request has been answered: a store that fails now only means that a repetition does the work again.
    if let Err(error) = shared.api.store.write(vec![write]).await {
        tracing::warn!(%error, "an answer could not be kept for its idempotency key");
    }
    Ok(Response::from_parts(parts, Body::from(bytes)))
}
