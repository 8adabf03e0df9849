//! `/v1/webhooks/{project}/{provider}`: what providers call back, verified, then appended: receipts of messages, and what members did or
//! said, as commands to their profiles. A callback is acknowledged only once all of it is on the log (law 1); one that is not the provider's
//! is refused and counted (law 8). Callbacks come more than once and in any order: receipts have an id by their cause, commands set a state.

use super::{
    Shared,
    extract::Segment,
    problem::{FieldError, Problem, ProblemDocument},
};
use crate::inbound::{Heard, commands};
use axum::{
    Form,
    body::Body,
    extract::{FromRequest, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    Timestamp,
    records::{Receipt, Record},
};
use std::{fmt::Debug, sync::Arc};

/// One call of a provider's, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Project named in the path.
    pub project: &'a str,
    /// Provider named in the path.
    pub provider: &'a str,
    /// Query as it came, undecoded and without `?`.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// The body as it came; `None` for a GET.
    pub body: Option<&'a [u8]>,
    /// The body's parameters, decoded, in the order sent, where it is a form.
    pub form: &'a [(String, String)],
}

impl Call<'_> {
    /// A header's text; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What a verified call tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callback {
    /// What the provider wants to hear back, as plain text.
    pub answer: Option<String>,
    /// What became of messages.
    pub receipts: Vec<Receipt>,
    /// What members did.
    pub heard: Vec<Heard>,
}

/// Why a callback is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookError {
    /// No such provider, or not the provider's signature: all the same to a stranger.
    Unverified,
    /// Signed, but not readable.
    Invalid(FieldError),
}

/// Verifies and reads what providers call.
pub trait Hooks: Debug + Send + Sync {
    /// What a call tells. Where the signature covers the URL, that is the one which the provider was told (see [`signed_url`]), never the
    /// `Host` header, which a stranger chooses.
    ///
    /// # Errors
    /// See [`HookError`].
    fn read(&self, call: Call<'_>, now: Timestamp) -> Result<Callback, HookError>;
}

/// The URL that a provider signed: the one it was told, with the query it called.
#[must_use]
pub fn signed_url(configured: &str, query: &str) -> String {
    match (query.is_empty(), configured.contains('?')) {
        (true, _) => configured.to_owned(),
        (false, true) => format!("{configured}&{query}"),
        (false, false) => format!("{configured}?{query}"),
    }
}

/// Takes a callback of a provider.
#[utoipa::path(
    post, path = "/v1/webhooks/{project}/{provider}", tag = "webhooks",
    request_body(content = String, content_type = "*/*", description = "As the provider sends it"),
    params(
        ("project" = String, Path, description = "Project"),
        ("provider" = String, Path, description = "Provider's name in the definitions"),
    ),
    responses(
        (status = 204, description = "All of it is on the log, or nothing was to be noted"),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Not the provider's", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer: the provider calls again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn receive(
    State(shared): State<Arc<Shared>>,
    Segment((project, provider)): Segment<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let form = form(&headers, &body).await?;
    let query = query.unwrap_or_default();
    let call = Call {
        project: &project,
        provider: &provider,
        query: &query,
        headers: &headers,
        body: Some(&body),
        form: &form,
    };
    shared.take(call).await
}

/// Answers a provider that asks whether the webhook is ours.
#[utoipa::path(
    get, path = "/v1/webhooks/{project}/{provider}", tag = "webhooks",
    params(
        ("project" = String, Path, description = "Project"),
        ("provider" = String, Path, description = "Provider's name in the definitions"),
    ),
    responses(
        (status = 200, description = "What the provider wants to hear", body = String, content_type = "text/plain"),
        (status = 401, description = "Not the provider's", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn subscribe(
    State(shared): State<Arc<Shared>>,
    Segment((project, provider)): Segment<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    let call = Call { project: &project, provider: &provider, query: &query, headers: &headers, body: None, form: &[] };
    shared.take(call).await
}

impl Shared {
    async fn take(&self, call: Call<'_>) -> Result<Response, Problem> {
        let told = self.api.hooks.read(call, self.now()).map_err(|error| match error {
            HookError::Invalid(error) => Problem::malformed(error.field, error.detail, error.remedy),
            HookError::Unverified => {
                self.api.observer.webhook_unverified(call.provider);
                let title = "The callback is not the provider's";
                let detail = "there is no such provider, or the signature or secret is not what it signs with";
                let remedy = "compare the provider's public URL and secrets with what the account has";
                Problem::new(StatusCode::UNAUTHORIZED, "unverified", title, detail, remedy).at("signature")
            }
        })?;
        let mut records: Vec<Record> = told.receipts.into_iter().map(Record::Receipt).collect();
        for heard in told.heard {
            let commands = commands(&*self.api.store, call.project, call.provider, heard).await?;
            records.extend(commands.into_iter().map(Record::Member));
        }
        let appends = records.iter().map(Append::of).collect::<Result<Vec<_>, _>>()?;
        if !appends.is_empty() {
            self.api.log.append(appends).await?;
        }
        Ok(told.answer.map_or_else(|| StatusCode::NO_CONTENT.into_response(), IntoResponse::into_response))
    }
}

/// The parameters of a form, in order and with repeated names; none of what is no form.
pub(super) async fn form(headers: &HeaderMap, body: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return Ok(Vec::new());
    }
    let request = Request::post("/")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(body.to_vec()))
        .map_err(|_| Problem::internal())?;
    let form = Form::from_request(request, &()).await;
    form.map(|Form(params)| params)
        .map_err(|error| Problem::malformed("body", error.body_text(), "send `application/x-www-form-urlencoded`"))
}

#[cfg(test)]
mod tests {
    use super::signed_url;

    #[test]
    fn the_signed_url_is_the_configured_one_with_the_query_of_the_call() {
        assert_eq!(signed_url("https://x.org/cb", "r=a%2Bb"), "https://x.org/cb?r=a%2Bb");
        assert_eq!(signed_url("https://x.org/cb?t=1", "r=a"), "https://x.org/cb?t=1&r=a");
        assert_eq!(signed_url("https://x.org/cb", ""), "https://x.org/cb");
    }
}
