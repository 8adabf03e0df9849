//! Refusals as RFC 9457 problem documents, each with the field at fault and the remedy where there is one.
//! What the log or the store says of itself goes to our own log, never to the caller.

use axum::{
    Json,
    extract::rejection::{PathRejection, QueryRejection},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::{log::LogError, store::StoreError};
use bellwether_schemas::{codec::CodecError, rows::BadRow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use utoipa::ToSchema;

/// Media type of problem documents (RFC 9457 section 3).
pub const PROBLEM_JSON: &str = "application/problem+json";

/// One field that is not acceptable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// The field, dotted where it is nested.
    #[schema(example = "time_zone")]
    pub field: String,
    /// What is wrong with it.
    #[schema(example = "is not in the IANA time zone database")]
    pub detail: String,
    /// What to do about it.
    #[schema(example = "send a name like `Europe/Berlin`")]
    pub remedy: String,
}

impl FieldError {
    /// Names the field, what is wrong, and the remedy.
    pub fn new(field: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { field: field.into(), detail: detail.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` {}: {}", self.field, self.detail, self.remedy)
    }
}

/// A refusal (RFC 9457), as handlers return it. Boxed: most results are good ones, and should not carry its size.
#[derive(Clone, Debug)]
pub struct Problem(Box<Content>);

#[derive(Clone, Debug)]
struct Content {
    status: StatusCode,
    /// Last part of the problem type.
    kind: &'static str,
    title: &'static str,
    detail: String,
    field: Option<String>,
    remedy: String,
    retry_after_seconds: Option<u32>,
    more: Map<String, Value>,
}

/// The document that a refusal is answered with (RFC 9457 section 3.1), for readers and for the OpenAPI description.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// Problem type: `urn:bellwether:problem:` and its name.
    #[serde(rename = "type")]
    #[schema(example = "urn:bellwether:problem:invalid-field")]
    pub kind: String,
    /// Title of the problem type.
    #[schema(example = "A field is not acceptable")]
    pub title: String,
    /// HTTP status.
    #[schema(example = 422)]
    pub status: u16,
    /// What is wrong this time.
    #[schema(example = "`email` is not an e-mail address")]
    pub detail: String,
    /// The field at fault, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "email")]
    pub field: Option<String>,
    /// What to do about it.
    #[schema(example = "send an address like `anna@example.org`, without a display name")]
    pub remedy: String,
    /// Further members of some problem types: `rejected`, `findings`, `import`.
    #[serde(flatten)]
    #[schema(ignore)]
    pub more: Map<String, Value>,
}

impl Problem {
    /// A problem of any type.
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        let (detail, remedy) = (detail.into(), remedy.into());
        let (field, retry_after_seconds, more) = (None, None, Map::new());
        Self(Box::new(Content { status, kind, title, detail, field, remedy, retry_after_seconds, more }))
    }

    /// HTTP status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    /// The field at fault.
    #[must_use]
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// 400: the request cannot be read at all.
    pub fn malformed(field: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", "The request cannot be read", detail, remedy).at(field)
    }

    /// 422: a field is missing or outside its domain.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid-field", "A field is not acceptable", detail, remedy)
            .at(field)
    }

    /// 401: no key, or none that we know.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        let remedy = "send `Authorization: Bearer KEY` with a key of this installation";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", "The API key is missing or unknown", detail, remedy)
            .at("Authorization")
    }

    /// 403: the key lacks a scope.
    pub fn forbidden(scope: &str) -> Self {
        let detail = format!("the API key lacks the scope `{scope}`");
        let remedy = format!("use a key with the scope `{scope}`, or add it to this key in the configuration");
        Self::new(StatusCode::FORBIDDEN, "missing-scope", "The API key may not do this", detail, remedy)
            .with("scope", scope)
    }

    /// 404: the project has no such thing.
    pub fn not_found(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail, remedy)
    }

    /// 409: it cannot be done now, or not beside what somebody else did.
    pub fn conflict(detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", "Another request is in the way", detail, remedy)
    }

    /// 413: the body is larger than `limit` bytes.
    pub fn too_large(limit: usize) -> Self {
        let detail = format!("the body is larger than {limit} bytes");
        let remedy = "send less at once: several smaller requests do the same";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "The request is too large", detail, remedy).at("body")
    }

    /// 415: the content type is none of those we read.
    pub fn media_type(given: &str, known: &str) -> Self {
        let detail = format!("the content type `{}` is not read here", given.chars().take(100).collect::<String>());
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "media-type",
            "The content type is not supported",
            detail,
            format!("send {known}"),
        )
        .at("Content-Type")
    }

    /// 503: we cannot do it now; the same request may be sent again.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let remedy = "send the same request again after the time in Retry-After; doing so twice does no harm";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not now", detail, remedy).retry_after(1)
    }

    /// 500: our fault.
    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "A fault of ours",
            "the request met a fault in Bellwether",
            "look up the request id of the answer in the server's log",
        )
    }

    /// Names the field at fault.
    #[must_use]
    pub fn at(mut self, field: impl Into<String>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    /// Adds an extension member (RFC 9457 section 3.2).
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.0.more.insert(name.into(), value);
        }
        self
    }

    /// Says in a header when to come again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_seconds = Some(seconds);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let this = *self.0;
        let document = ProblemDocument {
            kind: format!("urn:bellwether:problem:{}", this.kind),
            title: this.title.into(),
            status: this.status.as_u16(),
            detail: this.detail,
            field: this.field,
            remedy: this.remedy,
            more: this.more,
        };
        let mut response = (this.status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(seconds) = this.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if this.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl From<FieldError> for Problem {
    fn from(error: FieldError) -> Self {
        Self::invalid(error.field.clone(), format!("`{}` {}", error.field, error.detail), error.remedy)
    }
}

impl From<LogError> for Problem {
    fn from(error: LogError) -> Self {
        tracing::error!(%error, "the log failed a request");
        match error {
            LogError::TooLarge { limit, .. } => Self::too_large(limit),
            LogError::Unavailable(_) => Self::unavailable("the log does not answer"),
            LogError::UnknownTopic(_) | LogError::Refused(_) => {
                Self::unavailable("the log refuses the request; the server's log says why").retry_after(30)
            }
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::error!(%error, "the store failed a request");
        match error {
            StoreError::Unavailable(_) => Self::unavailable("the store does not answer"),
            StoreError::Schema(_) | StoreError::Refused(_) => {
                Self::unavailable("the store refuses the request; the server's log says why").retry_after(30)
            }
            StoreError::Row(_) => Self::internal(),
        }
    }
}

impl From<BadRow> for Problem {
    fn from(error: BadRow) -> Self {
        Self::from(StoreError::Row(error))
    }
}

impl From<CodecError> for Problem {
    fn from(error: CodecError) -> Self {
        tracing::error!(%error, "a record does not fit its schema");
        Self::internal()
    }
}

impl From<PathRejection> for Problem {
    fn from(rejection: PathRejection) -> Self {
        Self::malformed("path", rejection.body_text(), "send UUIDs hyphenated, and text percent-encoded as UTF-8")
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::malformed("query", rejection.body_text(), "send only the parameters that /openapi.json names")
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_problem_has_every_member_of_the_rfc() {
        let response = Problem::from(FieldError::new("email", "is empty", "leave it out")).into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], PROBLEM_JSON);
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:bellwether:problem:invalid-field", "title": "A field is not acceptable", "status": 422,
                "detail": "`email` is empty", "field": "email", "remedy": "leave it out",
            })
        );
    }

    #[test]
    fn what_the_log_says_of_itself_stays_inside() {
        let problem = Problem::from(LogError::Unavailable("broker 10.0.0.7:9092".into()));
        assert!(!format!("{problem:?}").contains("10.0.0.7"));
        assert_eq!(problem.status(), 503);
    }
}
