//! Apple's push service as Apple documents it: HTTP/2 only, a provider token by the team's key; and the app, which reports by the URLs in its
//! payload. Sources: <https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns>,
//! <https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns>.
//!
//! A notification replaces an earlier one of the same collapse id.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
    jwt,
};
use axum::{
    Json,
    http::{Method, StatusCode, Version, header},
    response::{IntoResponse, Response},
};
use openssl::{
    ec::{EcGroup, EcKey},
    error::ErrorStack,
    nid::Nid,
    pkey::{PKey, Private},
};
use serde_json::{Value, json};
use std::sync::{Mutex, PoisonError};

/// Longest payload in bytes.
const MAX_PAYLOAD: usize = 4096;
/// Longest collapse id in bytes.
const MAX_COLLAPSE_ID: usize = 64;
/// A provider token is refused after an hour.
const TOKEN_LIFE: u64 = 3600;

/// A developer team with one key and one app.
#[derive(Debug)]
pub struct Apns {
    key: EcKey<Private>,
    key_id: String,
    team_id: String,
    topic: String,
    /// The token that verified last: Apple keeps it for the connection, and so need not verify it again.
    verified: Mutex<String>,
}

impl Apns {
    /// A team with a new key.
    ///
    /// # Errors
    /// OpenSSL makes no key.
    pub fn new(key_id: &str, team_id: &str, topic: &str) -> Result<Self, ErrorStack> {
        let key = EcKey::generate(&*EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?)?;
        let (key_id, team_id, topic) = (key_id.into(), team_id.into(), topic.into());
        Ok(Self { key, key_id, team_id, topic, verified: Mutex::default() })
    }

    /// The content of the `AuthKey_….p8` file, as Apple's developer account gives it.
    ///
    /// # Errors
    /// OpenSSL does not write the key.
    pub fn p8(&self) -> Result<String, ErrorStack> {
        let pem = PKey::from_ec_key(self.key.clone())?.private_key_to_pem_pkcs8()?;
        Ok(String::from_utf8_lossy(&pem).into_owned())
    }

    fn authorize(&self, call: &Call) -> Result<(), Reply> {
        let Some(token) = call.header("authorization").strip_prefix("bearer ") else {
            return Err(refusal(StatusCode::FORBIDDEN, "MissingProviderToken"));
        };
        if *self.verified.lock().unwrap_or_else(PoisonError::into_inner) == token {
            return Ok(());
        }
        let claims = jwt::es256(token, &self.key)
            .filter(|(header, claims)| header["kid"] == self.key_id.as_str() && claims["iss"] == self.team_id.as_str());
        let Some((_, claims)) = claims else { return Err(refusal(StatusCode::FORBIDDEN, "InvalidProviderToken")) };
        if claims["iat"].as_u64().is_none_or(|iat| iat + TOKEN_LIFE < super::unix_seconds()) {
            return Err(refusal(StatusCode::FORBIDDEN, "ExpiredProviderToken"));
        }
        token.clone_into(&mut self.verified.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(())
    }
}

/// An answer that is no success, in Apple's shape.
fn refusal(status: StatusCode, reason: &str) -> Reply {
    let mut body = json!({"reason": reason});
    if status == StatusCode::GONE {
        body["timestamp"] = json!(super::unix_seconds() * 1000);
    }
    let mut response = (status, Json(body)).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Reply::refusal(reason, response)
}

fn bad(reason: &str) -> Reply {
    refusal(StatusCode::BAD_REQUEST, reason)
}

impl Contract for Apns {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        if call.version != Version::HTTP_2 {
            return Err(Reply::other(StatusCode::HTTP_VERSION_NOT_SUPPORTED.into_response()));
        }
        self.authorize(call)?;
        let device = call.uri.path().strip_prefix("/3/device/").ok_or_else(|| bad("BadPath"))?;
        if call.method != Method::POST {
            return Err(refusal(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"));
        }
        if call.header("apns-topic") != self.topic {
            return Err(bad("BadTopic"));
        }
        let is_device = !device.is_empty() && device.len() % 2 == 0 && device.bytes().all(|b| b.is_ascii_hexdigit());
        if !is_device || device.bytes().all(|b| b == b'0') {
            return Err(bad("BadDeviceToken"));
        }
        if !matches!(call.header("apns-priority"), "" | "1" | "5" | "10") {
            return Err(bad("BadPriority"));
        }
        let (id, collapse) = (call.header("apns-id"), call.header("apns-collapse-id"));
        if !id.is_empty() && uuid::Uuid::try_parse(id).is_err() {
            return Err(bad("BadMessageId"));
        }
        if collapse.len() > MAX_COLLAPSE_ID {
            return Err(bad("BadCollapseId"));
        }
        if call.body.len() > MAX_PAYLOAD {
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE, "PayloadTooLarge"));
        }
        let payload: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        if !payload["aps"].is_object() {
            return Err(bad("PayloadEmpty"));
        }
        let collapses = !collapse.is_empty();
        let key = format!("{device} {}", if collapses { collapse } else { id });
        let callback = (!id.is_empty()).then(|| id.to_owned());
        Ok(Draft { to: device.into(), key, collapses, callback, body: payload.to_string(), ..Draft::default() })
    }

    fn refuse(&self, why: Refusal) -> Reply {
        match why {
            Refusal::Nobody | Refusal::OptedOut => refusal(StatusCode::GONE, "Unregistered"),
            Refusal::Throttled => refusal(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests"),
            Refusal::Broken => refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
        }
    }

    /// The sender may choose it.
    fn id(&self, _: u64, draft: &Draft) -> String {
        draft.callback.clone().unwrap_or_else(|| uuid::Uuid::now_v7().to_string())
    }

    fn accept(&self, Taken { id, .. }: &Taken) -> Response {
        ([("apns-id", id.to_string())], StatusCode::OK).into_response()
    }

    fn tell(&self, taken: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        home.device(&serde_json::from_str(&taken.draft.body).unwrap_or_default(), event)
    }
}
