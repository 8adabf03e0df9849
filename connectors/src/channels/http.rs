//! The thin call that providers over HTTP share: a client that follows no redirect, an answer of bounded size, and what it means to get none.
//! What an answer says is each provider's own business.

use super::{ConfigError, SendError};
use bellwether_schemas::records::ErrorKind::{Ambiguous, Rejected, Transient};
use reqwest::{Client, RequestBuilder, Url, header::RETRY_AFTER, redirect::Policy};
use std::time::Duration;

/// An answer: HTTP status, the seconds of its `Retry-After`, its body; empty if that is larger than we read.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Vec<u8>,
}

/// A client whose calls end within `timeout`. Redirects are not followed, because they would carry our credentials elsewhere.
pub(super) fn client(kind: &'static str, timeout: Duration) -> Result<Client, ConfigError> {
    Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(Policy::none())
        .user_agent(concat!("bellwether/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| wrong(kind, "base_url", format!("no HTTP client is to be had: {error}")))
}

/// Calls, and reads at most `limit` bytes of the answer.
pub(super) async fn call(request: RequestBuilder, limit: usize) -> Result<Answer, SendError> {
    exchange(request, limit).await.map_err(|error| unanswered(&error))
}

async fn exchange(request: RequestBuilder, limit: usize) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
    let (status, mut body) = (response.status().as_u16(), Vec::new());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            body.clear();
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, retry_after, body })
}

/// A call without an answer: whether the provider has it is unknown, unless we never reached it. In our words, because the
/// library's hold the URL, and that may hold a token.
fn unanswered(error: &reqwest::Error) -> SendError {
    if error.is_connect() {
        SendError::new(Transient, "cannot connect")
    } else if error.is_builder() {
        SendError::new(Rejected, "the request cannot be built")
    } else if error.is_timeout() {
        SendError::new(Ambiguous, "no answer in time (`timeout_seconds`)")
    } else {
        SendError::new(Ambiguous, "the connection broke before the answer")
    }
}

/// For calls that only ask: to have no answer is no ambiguity, because nothing was to happen.
pub(super) fn of_question(error: SendError) -> SendError {
    if error.kind == Ambiguous { SendError { kind: Transient, ..error } } else { error }
}

pub(super) fn wrong(kind: &'static str, field: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { kind, field: field.into(), problem: problem.into() }
}

/// Checks a URL of the settings.
pub(super) fn url(kind: &'static str, field: &'static str, text: &str) -> Result<(), ConfigError> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none() => Ok(()),
        _ => Err(wrong(kind, field, "must be an http or https URL without a fragment")),
    }
}

/// Checks `timeout_seconds`.
pub(super) fn timeout(kind: &'static str, seconds: u64) -> Result<(), ConfigError> {
    if (1..=600).contains(&seconds) { Ok(()) } else { Err(wrong(kind, "timeout_seconds", "must be from 1 to 600")) }
}

/// A secret, or which field's is not to be had.
pub(super) fn secret(
    kind: &'static str,
    field: &'static str,
    secret: &crate::secret::Secret,
) -> Result<secrecy::SecretString, ConfigError> {
    secret.resolve().map_err(|source| ConfigError::Secret { kind, field, source })
}
