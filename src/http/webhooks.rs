//! `POST /v1/webhooks/…`: what providers call back, verified, then appended as receipts. A callback is acknowledged only once its receipt
//! is on the log (law 1); one whose signature is not the provider's is refused and counted (law 8).

use super::{
    Shared,
    extract::Segment,
    problem::{FieldError, Problem, ProblemDocument},
};
use axum::{
    Form,
    body::Body,
    extract::{FromRequest, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    Timestamp,
    records::{Receipt, Record},
};
use std::{fmt::Debug, sync::Arc};

/// One call of Twilio's, as it came.
#[derive(Clone, Copy, Debug)]
pub struct TwilioCall<'a> {
    /// Provider named in the path.
    pub provider: &'a str,
    /// Query as it came, undecoded and without `?`; holds `r`, the reference of the message.
    pub query: &'a str,
    /// Form parameters, decoded, in the order sent. All of them are signed.
    pub params: &'a [(String, String)],
    /// `X-Twilio-Signature`; empty where there was none.
    pub signature: &'a str,
}

/// Why a callback is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookError {
    /// No such provider, no reference, or not the provider's signature: all the same to a stranger.
    Unverified,
    /// Signed, but not readable.
    Invalid(FieldError),
}

/// Verifies and reads Twilio's status callbacks.
pub trait TwilioHook: Debug + Send + Sync {
    /// The receipt that a verified call stands for; `None` for a status that says nothing new.
    ///
    /// The signature covers the URL that Twilio was told: the provider's configured `status_callback_url` with the call's query
    /// (see [`signed_url`]), never the `Host` header, which a stranger chooses.
    ///
    /// # Errors
    /// See [`HookError`].
    fn receipt(&self, call: TwilioCall<'_>, now: Timestamp) -> Result<Option<Receipt>, HookError>;
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

/// Takes a status callback of Twilio.
#[utoipa::path(
    post, path = "/v1/webhooks/twilio/{provider}", tag = "webhooks",
    request_body(content = Object, content_type = "application/x-www-form-urlencoded", description = "As Twilio sends it: `MessageSid`, `MessageStatus`, …"),
    params(
        ("provider" = String, Path, description = "Provider's name in the definitions"),
        ("r" = String, Query, description = "Reference of the message, as it was given to Twilio"),
        ("X-Twilio-Signature" = String, Header, description = "HMAC-SHA1 over URL and parameters"),
    ),
    responses(
        (status = 204, description = "The receipt is on the log, or nothing was to be noted"),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Not signed by Twilio", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer: Twilio calls again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn twilio(
    State(shared): State<Arc<Shared>>,
    Segment(provider): Segment<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<StatusCode, Problem> {
    let params = form(&shared, &headers, body).await?;
    let signature = headers.get("x-twilio-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let query = query.unwrap_or_default();
    let call = TwilioCall { provider: &provider, query: &query, params: &params, signature };
    match shared.api.twilio.receipt(call, shared.now()) {
        Ok(Some(receipt)) => {
            let record = Record::Receipt(receipt);
            let (topic, key, payload) = (record.topic(), record.key(), record.encode()?);
            shared.api.log.append(vec![Append { topic, key, payload, headers: Vec::new() }]).await?;
            Ok(StatusCode::NO_CONTENT)
        }
        Ok(None) => Ok(StatusCode::NO_CONTENT),
        Err(HookError::Invalid(error)) => Err(Problem::malformed(error.field, error.detail, error.remedy)),
        Err(HookError::Unverified) => {
            shared.api.observer.webhook_unverified(&provider);
            let remedy = "set the provider's status_callback_url and auth token to what the account has";
            let title = "The callback is not signed by the provider";
            let detail = "the signature does not fit the configured URL and the parameters";
            Err(Problem::new(StatusCode::UNAUTHORIZED, "unverified", title, detail, remedy).at("X-Twilio-Signature"))
        }
    }
}

/// Reads a form as it was sent, in order and with repeated names.
async fn form(shared: &Shared, headers: &HeaderMap, body: Body) -> Result<Vec<(String, String)>, Problem> {
    let bytes = shared.read(headers, body, shared.api.limits.body_bytes).await?;
    let mut request = Request::post("/").body(Body::from(bytes)).map_err(|_| Problem::internal())?;
    if let Some(media_type) = headers.get(header::CONTENT_TYPE) {
        request.headers_mut().insert(header::CONTENT_TYPE, media_type.clone());
    }
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
