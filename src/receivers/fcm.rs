//! Firebase Cloud Messaging, HTTP v1, as Google documents it: a service account, its token endpoint, `messages:send`; and the app, which
//! reports by the URLs in its data. Sources: <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>,
//! <https://developers.google.com/identity/protocols/oauth2/service-account#httprest>.
//!
//! A notification replaces an earlier one of the same tag.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
    jwt,
};
use axum::{
    Json,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use openssl::{
    error::ErrorStack,
    pkey::{PKey, Private},
    rsa::Rsa,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

const EMAIL: &str = "bellwether@shop.iam.gserviceaccount.com";
const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";
/// Longest notification and data together, in bytes.
const MAX_PAYLOAD: usize = 4096;

/// A Firebase project with one service account.
#[derive(Debug)]
pub struct Fcm {
    project: String,
    key: PKey<Private>,
    access_token: SecretString,
}

impl Fcm {
    /// A project with a new account.
    ///
    /// # Errors
    /// OpenSSL makes no key.
    pub fn new(project: &str, access_token: &str) -> Result<Self, ErrorStack> {
        let key = PKey::from_rsa(Rsa::generate(2048)?)?;
        Ok(Self { project: project.into(), key, access_token: access_token.into() })
    }

    /// The account's JSON file as Google Cloud's console gives it, with the token endpoint at this receiver.
    ///
    /// # Errors
    /// OpenSSL does not write the key.
    pub fn service_account(&self, base_url: &str) -> Result<String, ErrorStack> {
        let key = self.key.private_key_to_pem_pkcs8()?;
        let account = json!({
            "type": "service_account", "project_id": self.project, "private_key_id": "k1", "client_email": EMAIL,
            "private_key": String::from_utf8_lossy(&key), "token_uri": format!("{base_url}/token"),
        });
        Ok(account.to_string())
    }

    /// RFC 7523: a signed request for an access token.
    fn grant(&self, call: &Call) -> Reply {
        let form = super::form(&call.body);
        let field = |name: &str| form.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value.as_str());
        let granted = jwt::rs256(field("assertion"), &self.key).is_some_and(|(_, claims)| {
            let now = super::unix_seconds();
            let ends = claims["exp"].as_u64().is_some_and(|exp| exp > now && exp <= now + 3_660);
            let ours = claims["aud"].as_str().is_some_and(|aud| aud.ends_with("/token"));
            claims["iss"] == EMAIL && claims["scope"] == SCOPE && ends && ours
        });
        if !granted || field("grant_type") != "urn:ietf:params:oauth:grant-type:jwt-bearer" {
            let error = json!({"error": "invalid_grant", "error_description": "Invalid JWT Signature."});
            return Reply::refusal("invalid_grant", (StatusCode::BAD_REQUEST, Json(error)).into_response());
        }
        let token =
            json!({"access_token": self.access_token.expose_secret(), "expires_in": 3599, "token_type": "Bearer"});
        Reply::other(Json(token).into_response())
    }
}

/// An answer that is no success: a `google.rpc.Status` with FCM's own code.
fn refusal(status: StatusCode, general: &str, code: &str, message: &str) -> Reply {
    let detail = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
    let error = json!({"code": status.as_u16(), "message": message, "status": general, "details": [detail]});
    let mut response = (status, Json(json!({"error": error}))).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Reply::refusal(code, response)
}

fn invalid(message: &str) -> Reply {
    refusal(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", "INVALID_ARGUMENT", message)
}

impl Contract for Fcm {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        if (&call.method, call.uri.path()) == (&Method::POST, "/token") {
            return Err(self.grant(call));
        }
        if call.header("authorization").strip_prefix("Bearer ") != Some(self.access_token.expose_secret()) {
            return Err(refusal(StatusCode::UNAUTHORIZED, "UNAUTHENTICATED", "UNAUTHENTICATED", "Invalid token"));
        }
        if call.method != Method::POST || call.uri.path() != format!("/v1/projects/{}/messages:send", self.project) {
            return Err(refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "NOT_FOUND", "Requested entity was not found."));
        }
        let body: Value = serde_json::from_slice(&call.body).map_err(|_| invalid("Invalid JSON payload received."))?;
        let message = &body["message"];
        let to = message["token"].as_str().or_else(|| message["fid"].as_str()).filter(|token| !token.is_empty());
        let to = to.ok_or_else(|| invalid("Recipient of the message is not set."))?.to_owned();
        if message["data"].as_object().into_iter().flatten().any(|(_, value)| !value.is_string()) {
            return Err(invalid("Invalid value at 'message.data': must be strings"));
        }
        if message["notification"].to_string().len() + message["data"].to_string().len() > MAX_PAYLOAD {
            return Err(invalid("Android message is too big"));
        }
        let tag = message["android"]["notification"]["tag"].as_str();
        let key = tag.map_or_else(|| format!("{to} {message}"), |tag| format!("{to} {tag}"));
        Ok(Draft { to, key, collapses: tag.is_some(), body: message.to_string(), ..Draft::default() })
    }

    fn refuse(&self, why: Refusal) -> Reply {
        match why {
            Refusal::Nobody | Refusal::OptedOut => {
                refusal(StatusCode::NOT_FOUND, "NOT_FOUND", "UNREGISTERED", "Requested entity was not found.")
            }
            Refusal::Throttled => {
                let words = "Sending limit exceeded for the message target.";
                refusal(StatusCode::TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", words)
            }
            Refusal::Broken => {
                let words = "The service is currently unavailable.";
                refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "UNAVAILABLE", words)
            }
        }
    }

    fn id(&self, number: u64, _: &Draft) -> String {
        format!("projects/{}/messages/{number}", self.project)
    }

    fn accept(&self, Taken { id, .. }: &Taken) -> Response {
        Json(json!({"name": id})).into_response()
    }

    fn tell(&self, taken: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        let message: Value = serde_json::from_str(&taken.draft.body).unwrap_or_default();
        home.device(&message["data"], event)
    }
}
