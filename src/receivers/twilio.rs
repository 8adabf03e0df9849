//! Twilio's Messages resource: forms in, JSON out, status callbacks and incoming texts signed as Twilio signs.
//! Sources: <https://www.twilio.com/docs/messaging/api/message-resource>, <https://www.twilio.com/docs/usage/security#validating-requests>.
//!
//! A message is told from another by its recipient and body, because Twilio has no idempotency key.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
};
use axum::{
    Json,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use sha1::Sha1;
use std::collections::HashMap;

/// Longest body in characters (Twilio error 21658).
const MAX_BODY_CHARS: usize = 1600;
/// Version of the API, as it stands in paths and callbacks.
const API_VERSION: &str = "2010-04-01";

/// One account.
#[derive(Debug)]
pub struct Twilio {
    account_sid: String,
    /// Password of Basic authentication, key of the signatures.
    auth_token: SecretString,
    /// What the Authorization header must be.
    credentials: SecretString,
}

impl Twilio {
    /// An account with its token.
    #[must_use]
    pub fn new(account_sid: &str, auth_token: &str) -> Self {
        let credentials = format!("Basic {}", BASE64.encode(format!("{account_sid}:{auth_token}"))).into();
        Self { account_sid: account_sid.into(), auth_token: auth_token.into(), credentials }
    }

    fn authorize(&self, account: &str, call: &Call) -> Result<(), Reply> {
        let known = account == self.account_sid && call.header("authorization") == self.credentials.expose_secret();
        if known { Ok(()) } else { Err(refusal(StatusCode::UNAUTHORIZED, 20003, "Authenticate")) }
    }

    fn signed(&self, url: &str, parameters: &[(&str, &str)]) -> Outgoing {
        let encoded = reqwest::Url::parse_with_params("http://localhost/", parameters);
        Outgoing {
            method: Method::POST,
            url: url.to_owned(),
            headers: vec![
                ("X-Twilio-Signature", sign(self.auth_token.expose_secret(), url, parameters)),
                ("Content-Type", "application/x-www-form-urlencoded".into()),
            ],
            body: encoded.ok().and_then(|url| url.query().map(Into::into)).unwrap_or_default(),
        }
    }
}

/// X-Twilio-Signature: base64 of HMAC-SHA1, keyed by the account's token, over the URL and the parameters sorted by name, each name
/// followed by its value.
#[must_use]
pub fn sign(auth_token: &str, url: &str, parameters: &[(&str, &str)]) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_unstable();
    // HMAC takes a key of any length: RFC 2104 section 2.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()) else { return String::new() };
    mac.update(url.as_bytes());
    for (name, value) in sorted {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    BASE64.encode(mac.finalize().into_bytes())
}

/// An answer that is no success, in Twilio's shape.
fn refusal(status: StatusCode, code: u32, message: &str) -> Reply {
    let more_info = format!("https://www.twilio.com/docs/errors/{code}");
    let body = Json(json!({"code": code, "message": message, "more_info": more_info, "status": status.as_u16()}));
    let mut response = (status, body).into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Reply::refusal(code.to_string(), response)
}

fn bad<T>(code: u32, message: &str) -> Result<T, Reply> {
    Err(refusal(StatusCode::BAD_REQUEST, code, message))
}

fn is_e164(number: &str) -> bool {
    number.strip_prefix('+').is_some_and(|digits| {
        (8..=15).contains(&digits.len()) && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
    })
}

fn draft(call: &Call) -> Result<Draft, Reply> {
    if !call.header("content-type").starts_with("application/x-www-form-urlencoded") {
        return bad(20001, "The request body is no form");
    }
    let mut form: HashMap<String, String> = super::form(&call.body).into_iter().collect();
    let mut take = |name: &str| form.remove(name).filter(|value| !value.is_empty());
    let Some(to) = take("To") else { return bad(21604, "A 'To' phone number is required.") };
    let Some(from) = take("From").or_else(|| take("MessagingServiceSid")) else {
        return bad(21603, "A 'From' phone number is required.");
    };
    let Some(body) = take("Body") else { return bad(21602, "Message body is required.") };
    let callback = take("StatusCallback");
    if !is_e164(&to) {
        return bad(21211, "The 'To' number is not a valid phone number.");
    }
    if body.chars().count() > MAX_BODY_CHARS {
        return bad(21658, "Parameter exceeded character limit: Body");
    }
    let web = |url: &reqwest::Url| matches!(url.scheme(), "http" | "https");
    if callback.as_ref().is_some_and(|url| !reqwest::Url::parse(url).is_ok_and(|url| web(&url))) {
        return bad(21609, "The 'StatusCallback' URL is not a valid URL.");
    }
    Ok(Draft { key: format!("{to} {body}"), to, from, body, collapses: false, callback })
}

impl Contract for Twilio {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        let path = call.uri.path().strip_prefix("/2010-04-01/Accounts/").unwrap_or_default();
        if let (&Method::POST, Some(account)) = (&call.method, path.strip_suffix("/Messages.json")) {
            self.authorize(account, call)?;
            return draft(call);
        }
        match (&call.method, path.strip_suffix(".json").filter(|account| !account.contains('/'))) {
            (&Method::GET, Some(account)) => {
                self.authorize(account, call)?;
                let resource = json!({"sid": account, "friendly_name": "receiver", "status": "active", "type": "Full"});
                Err(Reply::other(Json(resource).into_response()))
            }
            _ => Err(refusal(StatusCode::NOT_FOUND, 20404, "The requested resource was not found")),
        }
    }

    fn refuse(&self, why: Refusal) -> Reply {
        match why {
            Refusal::Nobody => refusal(StatusCode::BAD_REQUEST, 21614, "'To' number is not a valid mobile number"),
            Refusal::OptedOut => refusal(StatusCode::BAD_REQUEST, 21610, "Attempt to send to unsubscribed recipient"),
            Refusal::Throttled => refusal(StatusCode::TOO_MANY_REQUESTS, 20429, "Too Many Requests"),
            Refusal::Broken => {
                refusal(StatusCode::INTERNAL_SERVER_ERROR, 20500, "An internal server error has occurred")
            }
        }
    }

    fn id(&self, _: u64, _: &Draft) -> String {
        format!("SM{}", uuid::Uuid::now_v7().simple())
    }

    fn accept(&self, Taken { id, draft: Draft { to, from, body, .. }, .. }: &Taken) -> Response {
        let account = &self.account_sid;
        let message = json!({
            "sid": id, "account_sid": account, "api_version": API_VERSION, "to": to, "from": from, "body": body,
            "status": "queued", "direction": "outbound-api", "num_segments": "1", "error_code": null, "error_message": null,
            "uri": format!("/{API_VERSION}/Accounts/{account}/Messages/{id}.json"),
        });
        (StatusCode::CREATED, Json(message)).into_response()
    }

    fn tell(&self, taken: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        let Draft { to, from, callback, .. } = &taken.draft;
        let (id, to, from, account): (&str, &str, &str, &str) = (&taken.id, to, from, &self.account_sid);
        let (url, status, more) = match event {
            Event::Sent => (callback.as_deref(), "sent", None),
            // Parameters grow without notice: this one comes with some carriers only.
            Event::Delivered => (callback.as_deref(), "delivered", Some(("RawDlrDoneDate", "2603021012"))),
            Event::Failed => (callback.as_deref(), "undelivered", Some(("ErrorCode", "30005"))),
            Event::Left => {
                // The member answers: sender and recipient have changed places.
                let reply = format!("{id}-reply");
                let parameters = [
                    ("MessageSid", reply.as_str()),
                    ("From", to),
                    ("To", from),
                    ("Body", "STOP"),
                    ("NumSegments", "1"),
                    ("AccountSid", account),
                    ("ApiVersion", API_VERSION),
                ];
                return home.webhook.iter().map(|url| self.signed(url, &parameters)).collect();
            }
            Event::Clicked => return home.follow(&taken.draft.body),
            Event::Opened => return Vec::new(),
        };
        let mut parameters = vec![
            ("MessageSid", id),
            ("SmsSid", id),
            ("MessageStatus", status),
            ("SmsStatus", status),
            ("To", to),
            ("From", from),
            ("AccountSid", account),
            ("ApiVersion", API_VERSION),
        ];
        parameters.extend(more);
        url.map(|url| self.signed(url, &parameters)).into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
