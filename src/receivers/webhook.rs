//! A system of an operator's own that takes signed webhooks as Standard Webhooks says: it verifies them, and drops the second one of an id.
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
};
use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretSlice};
use serde_json::Value;
use sha2::Sha256;

/// How far a webhook's time may be from ours, in seconds.
const TOLERANCE: u64 = 300;

/// An endpoint.
#[derive(Debug)]
pub struct Webhook {
    key: SecretSlice<u8>,
}

impl Webhook {
    /// An endpoint that was given a secret of this key.
    #[must_use]
    pub fn new(key: Vec<u8>) -> Self {
        Self { key: key.into() }
    }

    /// The secret as it is handed over.
    #[must_use]
    pub fn secret(&self) -> String {
        format!("whsec_{}", BASE64.encode(self.key.expose_secret()))
    }

    fn is_signed(&self, call: &Call) -> bool {
        let (id, timestamp) = (call.header("webhook-id"), call.header("webhook-timestamp"));
        let recent = timestamp.parse().is_ok_and(|at: u64| at.abs_diff(super::unix_seconds()) <= TOLERANCE);
        recent
            && call.header("webhook-signature").split(' ').filter_map(|word| word.strip_prefix("v1,")).any(
                |signature| {
                    let Ok(signature) = BASE64.decode(signature) else { return false };
                    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.key.expose_secret()) else { return false };
                    for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", &call.body] {
                        mac.update(part);
                    }
                    mac.verify_slice(&signature).is_ok()
                },
            )
    }
}

fn refusal(status: StatusCode) -> Reply {
    let mut response = status.into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Reply::refusal(status.as_str(), response)
}

impl Contract for Webhook {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        if call.method == Method::HEAD {
            return Err(Reply::other(StatusCode::NO_CONTENT.into_response()));
        }
        if !self.is_signed(call) {
            return Err(refusal(StatusCode::UNAUTHORIZED));
        }
        let body: Value = serde_json::from_slice(&call.body).map_err(|_| refusal(StatusCode::BAD_REQUEST))?;
        let to = body["to"].as_str().unwrap_or_default().to_owned();
        Ok(Draft {
            to,
            key: call.header("webhook-id").into(),
            collapses: true,
            body: body.to_string(),
            ..Draft::default()
        })
    }

    fn refuse(&self, why: Refusal) -> Reply {
        refusal(match why {
            Refusal::Nobody | Refusal::OptedOut => StatusCode::UNPROCESSABLE_ENTITY,
            Refusal::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Broken => StatusCode::SERVICE_UNAVAILABLE,
        })
    }

    fn id(&self, _: u64, draft: &Draft) -> String {
        draft.key.clone()
    }

    fn accept(&self, _: &Taken) -> Response {
        StatusCode::NO_CONTENT.into_response()
    }

    /// What the system does with it is its own matter.
    fn tell(&self, _: &Taken, _: Event, _: &Home) -> Vec<Outgoing> {
        Vec::new()
    }
}
