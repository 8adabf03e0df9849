//! WhatsApp's Cloud API as Meta documents it: messages in, statuses and replies out by one signed webhook.
//! Sources: <https://developers.facebook.com/documentation/business-messaging/whatsapp/reference/whatsapp-business-phone-number/message-api>,
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/reference/messages>.
//!
//! A message is told from another by its recipient and content, because the API has no idempotency key.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
};
use axum::{
    Json,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::Sha256;

/// Longest `biz_opaque_callback_data`.
const MAX_CALLBACK_DATA: usize = 512;

/// A business phone number, the app's secret and a token to send by.
#[derive(Debug)]
pub struct Whatsapp {
    phone_number_id: String,
    access_token: SecretString,
    app_secret: SecretString,
}

impl Whatsapp {
    /// A number with the secrets of its app.
    #[must_use]
    pub fn new(phone_number_id: &str, access_token: &str, app_secret: &str) -> Self {
        Self {
            phone_number_id: phone_number_id.into(),
            access_token: access_token.into(),
            app_secret: app_secret.into(),
        }
    }

    fn draft(&self, call: &Call) -> Result<Draft, Reply> {
        // `/v25.0/NUMBER/messages`
        let path: Vec<&str> = call.uri.path().split('/').skip(1).collect();
        if let ([_, number], &Method::GET) = (&path[..], &call.method)
            && *number == self.phone_number_id
        {
            let resource = json!({"id": number, "display_phone_number": "+34 600 00 00 00", "quality_rating": "GREEN"});
            return Err(Reply::other(Json(resource).into_response()));
        }
        let [version, number, "messages"] = path[..] else {
            return Err(refusal(StatusCode::NOT_FOUND, 2500, "Unknown path components"));
        };
        if call.method != Method::POST || !version.starts_with('v') || number != self.phone_number_id {
            return bad(33, "Unsupported post request. Object does not exist");
        }
        let message: Value = serde_json::from_slice(&call.body).unwrap_or_default();
        let text = |name: &str| message[name].as_str().filter(|text| !text.is_empty());
        if text("messaging_product") != Some("whatsapp") {
            return bad(100, "(#100) The parameter messaging_product is required.");
        }
        let Some(to) = text("to") else { return bad(100, "(#100) The parameter to is required.") };
        let kind = text("type").unwrap_or("text");
        let said = &message[kind];
        let complete = match kind {
            "text" => said["body"].is_string(),
            "template" => said["name"].is_string() && said["language"]["code"].is_string(),
            "interactive" => said["type"].is_string() && said["action"].is_object(),
            "image" | "video" | "document" => said["link"].is_string() || said["id"].is_string(),
            _ => false,
        };
        if !complete {
            return bad(131_008, "(#131008) Required parameter is missing");
        }
        let callback = text("biz_opaque_callback_data").map(str::to_owned);
        if callback.as_ref().is_some_and(|data| data.len() > MAX_CALLBACK_DATA) {
            return bad(100, "(#100) Param biz_opaque_callback_data must be at most 512 characters");
        }
        let (to, body) = (to.to_owned(), said.to_string());
        Ok(Draft { key: format!("{to} {body}"), to, from: number.into(), body, collapses: false, callback })
    }

    /// The webhook's call with one part of a value of the field `messages`.
    fn signed(&self, webhook: &str, part: &str, items: Value) -> Outgoing {
        let mut value = json!({
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "34600000000", "phone_number_id": self.phone_number_id},
        });
        value[part] = items;
        let changes = json!([{"field": "messages", "value": value}]);
        let body =
            json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": changes}]}).to_string();
        let mut headers = vec![("Content-Type", "application/json".to_owned())];
        if let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(self.app_secret.expose_secret().as_bytes()) {
            mac.update(body.as_bytes());
            let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            headers.push(("X-Hub-Signature-256", format!("sha256={hex}")));
        }
        Outgoing { method: Method::POST, url: webhook.to_owned(), headers, body: body.into_bytes() }
    }
}

/// An answer that is no success, in the shape of the Graph API.
fn refusal(status: StatusCode, code: u32, message: &str) -> Reply {
    let error = json!({"message": message, "type": "OAuthException", "code": code, "fbtrace_id": "A1"});
    Reply::refusal(code.to_string(), (status, Json(json!({"error": error}))).into_response())
}

fn bad<T>(code: u32, message: &str) -> Result<T, Reply> {
    Err(refusal(StatusCode::BAD_REQUEST, code, message))
}

impl Contract for Whatsapp {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        if call.header("authorization").strip_prefix("Bearer ") != Some(self.access_token.expose_secret()) {
            return Err(refusal(StatusCode::UNAUTHORIZED, 190, "Invalid OAuth access token"));
        }
        self.draft(call)
    }

    fn refuse(&self, why: Refusal) -> Reply {
        match why {
            Refusal::Nobody => refusal(StatusCode::BAD_REQUEST, 131_026, "(#131026) Message undeliverable"),
            Refusal::OptedOut => {
                refusal(StatusCode::BAD_REQUEST, 131_050, "(#131050) User has stopped marketing messages")
            }
            Refusal::Throttled => refusal(StatusCode::TOO_MANY_REQUESTS, 130_429, "(#130429) Rate limit hit"),
            Refusal::Broken => refusal(StatusCode::INTERNAL_SERVER_ERROR, 131_000, "(#131000) Something went wrong"),
        }
    }

    fn id(&self, number: u64, _: &Draft) -> String {
        format!("wamid.{number}")
    }

    fn accept(&self, Taken { id, draft, .. }: &Taken) -> Response {
        let contact = json!({"input": draft.to, "wa_id": draft.to.trim_start_matches('+')});
        let answer = json!({"messaging_product": "whatsapp", "contacts": [contact], "messages": [{"id": id}]});
        Json(answer).into_response()
    }

    fn tell(&self, Taken { id, draft, .. }: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        let Some(webhook) = &home.webhook else { return Vec::new() };
        let (wa_id, timestamp) = (draft.to.trim_start_matches('+'), super::unix_seconds().to_string());
        let mut status = json!({"id": id, "timestamp": timestamp, "recipient_id": wa_id});
        if let Some(data) = &draft.callback {
            status["biz_opaque_callback_data"] = json!(data);
        }
        status["status"] = json!(match event {
            Event::Sent => "sent",
            Event::Delivered => "delivered",
            Event::Opened => "read",
            Event::Clicked => return home.follow(&draft.body),
            Event::Failed => "failed",
            Event::Left => {
                let reply = format!("{id}.reply");
                let said = json!({"from": wa_id, "id": reply, "timestamp": timestamp, "type": "text", "text": {"body": "STOP"}});
                return vec![self.signed(webhook, "messages", json!([said]))];
            }
        });
        if event == Event::Failed {
            status["errors"] = json!([{"code": 131_026, "title": "Message undeliverable"}]);
        }
        vec![self.signed(webhook, "statuses", json!([status]))]
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::receivers::test_support::{MINUTE, Server, post, receiver};

    fn text(to: &str, data: &str) -> String {
        json!({"messaging_product": "whatsapp", "to": to, "type": "text", "text": {"body": "hola"},
            "biz_opaque_callback_data": data})
        .to_string()
    }

    #[tokio::test]
    async fn messages_are_taken_and_told_by_the_signed_webhook() {
        let home = Server::start().await;
        let receiver = receiver(Whatsapp::new("7", "token", "It's a Secret to Everybody")).await;
        receiver.call_home(home.url("/hook"));
        let url = format!("{}/v25.0/7/messages", receiver.url());
        let (status, answer) = post(&url, &[("authorization", "Bearer token")], text("+34600000011", "ours")).await;
        assert_eq!((status, answer["messages"][0]["id"].as_str()), (200, Some("wamid.0")));
        post(&url, &[("authorization", "Bearer token")], text("+34600000009", "ours")).await;
        assert!(receiver.wait_for(|received| received.callbacks.pending == 0, MINUTE).await);
        let value = |body: &Value| body["entry"][0]["changes"][0]["value"].clone();
        let told: Vec<Value> =
            home.calls().iter().map(|call| value(&serde_json::from_slice(&call.body).unwrap())).collect();
        let mut statuses: Vec<&str> = told.iter().filter_map(|v| v["statuses"][0]["status"].as_str()).collect();
        statuses.sort_unstable();
        assert_eq!(statuses, ["delivered", "delivered", "read", "sent", "sent"]);
        assert!(told.iter().any(|v| v["messages"][0]["text"]["body"] == "STOP"));
        assert!(
            told.iter().all(|v| v["messages"].is_array() || v["statuses"][0]["biz_opaque_callback_data"] == "ours")
        );
        for call in home.calls() {
            let mut mac = Hmac::<Sha256>::new_from_slice(b"It's a Secret to Everybody").unwrap();
            mac.update(&call.body);
            let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(call.header("x-hub-signature-256"), format!("sha256={hex}"));
        }
        assert_eq!(receiver.snapshot().left.into_iter().collect::<Vec<_>>(), ["+34600000009"]);
    }

    #[tokio::test]
    async fn what_is_wrong_has_metas_code() {
        let receiver = receiver(Whatsapp::new("7", "token", "s")).await;
        let url = format!("{}/v25.0/7/messages", receiver.url());
        let bearer = [("authorization", "Bearer token")];
        for (headers, url, body, code) in [
            (&[][..], &url, text("+34600000010", ""), 190),
            (&bearer, &url, "{}".into(), 100),
            (&bearer, &url, text("", ""), 100),
            (&bearer, &url, text("+34600000010", "").replace("body", "words"), 131_008),
            (&bearer, &url, text("+34600000010", &"x".repeat(513)), 100),
            (&bearer, &url.replace("/7/", "/8/"), text("+34600000010", ""), 33),
            (&bearer, &url, text("+34600000001", ""), 131_026),
            (&bearer, &url, text("+34600000007", ""), 131_050),
        ] {
            assert_eq!(post(url, headers, body).await.1["error"]["code"], code);
        }
        assert_eq!(receiver.count(), 0);
    }
}
