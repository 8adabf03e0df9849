//! What connectors that speak HTTP share: a client that goes where it was told and nowhere else, a bounded answer, and what no answer
//! means. What an answer means is each provider's own matter.

use super::{ConfigError, SendError};
use bellwether_schemas::records::ErrorKind::{Ambiguous, Rejected, Transient};
use reqwest::{
    Client, ClientBuilder, RequestBuilder, Url,
    header::{HeaderMap, RETRY_AFTER},
    redirect::Policy,
};
use std::time::{Duration, SystemTime};

/// Bytes of an answer that are enough for every provider whose limit is not its own; those that we know have less than 4,000.
pub(super) const MAX_ANSWER: usize = 64 * 1024;

/// An answer, whatever it says.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// Headers.
    pub(super) headers: HeaderMap,
    /// The wait that it asks for.
    pub(super) retry_after: Option<Duration>,
    /// Body; empty where it was longer than we read.
    pub(super) body: Vec<u8>,
}

/// What every client does. Redirects are not followed: they would carry credentials and personal data to where nobody configured.
pub(super) fn builder(timeout: Duration) -> ClientBuilder {
    Client::builder()
        .timeout(timeout)
        .connect_timeout(timeout)
        .redirect(Policy::none())
        .user_agent(concat!("bellwether/", env!("CARGO_PKG_VERSION")))
}

/// The client, or that this machine has none to give.
pub(super) fn build(kind: &'static str, builder: ClientBuilder) -> Result<Client, ConfigError> {
    builder.build().map_err(|error| wrong(kind, "base_url", format!("no HTTP client is to be had: {error}")))
}

/// A client whose calls end within `timeout`.
pub(super) fn client(kind: &'static str, timeout: Duration) -> Result<Client, ConfigError> {
    build(kind, builder(timeout))
}

/// Calls, and reads at most `limit` bytes of the answer.
pub(super) async fn call(request: RequestBuilder, limit: usize) -> Result<Answer, SendError> {
    exchange(request, limit).await.map_err(|error| unanswered(&error))
}

/// As [`call`], with the library's own error.
pub(super) async fn exchange(request: RequestBuilder, limit: usize) -> Result<Answer, reqwest::Error> {
    let mut response = request.send().await?;
    let headers = std::mem::take(response.headers_mut());
    let retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = retry_after.and_then(|text| self::retry_after(text, SystemTime::now()));
    let (status, mut body) = (response.status().as_u16(), Vec::new());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > limit {
            body.clear();
            break;
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, retry_after, body })
}

/// Reads a `Retry-After` (RFC 9110 section 10.2.3): seconds, or a date, of which one that has passed means now.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or_default())
}

/// A call without an answer: whether the provider has it is unknown, unless we never reached it. In our words, because the
/// library's hold the URL, and that may hold a token.
pub(super) fn unanswered(error: &reqwest::Error) -> SendError {
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
    crate::secret::Resolve::resolve(secret).map_err(|source| ConfigError::Secret { kind, field, source })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wait_is_seconds_or_a_date() {
        // date -u -d 'Sun, 06 Nov 1994 08:49:37 GMT' +%s
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777 - 20);
        for (text, expected) in [
            ("120", Some(120)),
            (" 0 ", Some(0)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(20)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(20)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_wait_makes_us_panic(text in any::<String>()) {
            retry_after(&text, SystemTime::UNIX_EPOCH);
        }
    }
}
