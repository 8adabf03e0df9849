//! The Bot API as Telegram documents it: `sendMessage` in, updates out to the webhook with the secret that was set.
//! Source: <https://core.telegram.org/bots/api>.
//!
//! A chat that ends in `0005` is a group that has become a supergroup: refused, with the new chat's number. A message is told from another by
//! its chat and text, because the API has no idempotency key.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
};
use axum::{
    Json,
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

/// Longest text in UTF-16 units; entities are not parsed here, so this is generous.
const MAX_TEXT: usize = 4096;

/// A bot.
#[derive(Debug)]
pub struct Telegram {
    token: SecretString,
    username: String,
    /// What every update carries in its header (`secret_token` of `setWebhook`).
    secret: SecretString,
}

impl Telegram {
    /// A bot with its token and name, whose webhook was set with a secret.
    #[must_use]
    pub fn new(token: &str, username: &str, secret: &str) -> Self {
        Self { token: token.into(), username: username.into(), secret: secret.into() }
    }
}

fn ok(result: Value) -> Response {
    Json(json!({"ok": true, "result": result})).into_response()
}

/// An answer that is no success, in the shape of the Bot API.
fn refusal(status: StatusCode, description: &str, parameters: Value) -> Reply {
    let mut body = json!({"ok": false, "error_code": status.as_u16(), "description": description});
    let wait = parameters["retry_after"].as_u64();
    if parameters.is_object() {
        body["parameters"] = parameters;
    }
    let mut response = (status, Json(body)).into_response();
    if let Some(wait) = wait {
        response.headers_mut().insert(header::RETRY_AFTER, wait.into());
    }
    Reply::refusal(description, response)
}

fn bad(description: &str) -> Reply {
    refusal(StatusCode::BAD_REQUEST, description, Value::Null)
}

impl Contract for Telegram {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        let method = call.uri.path().strip_prefix("/bot").and_then(|path| path.split_once('/'));
        let Some((_, method)) = method.filter(|(token, _)| *token == self.token.expose_secret()) else {
            return Err(refusal(StatusCode::UNAUTHORIZED, "Unauthorized", Value::Null));
        };
        match method {
            "sendMessage" => {}
            "getMe" => {
                let me = json!({"id": 1, "is_bot": true, "first_name": "Receiver", "username": self.username});
                return Err(Reply::other(ok(me)));
            }
            "setWebhook" | "deleteWebhook" => return Err(Reply::other(ok(json!(true)))),
            _ => return Err(refusal(StatusCode::NOT_FOUND, "Not Found", Value::Null)),
        }
        let message: Value = serde_json::from_slice(&call.body).map_err(|_| bad("Bad Request: can't parse JSON"))?;
        let chat = message["chat_id"].as_i64().ok_or_else(|| bad("Bad Request: chat_id is empty"))?;
        let text = message["text"].as_str().filter(|text| !text.trim().is_empty());
        let text = text.ok_or_else(|| bad("Bad Request: message text is empty"))?;
        if text.encode_utf16().count() > MAX_TEXT * 4 {
            return Err(bad("Bad Request: message is too long"));
        }
        let to = chat.to_string();
        if to.ends_with("0005") {
            let new: i64 = format!("-100{}1", to.trim_start_matches('-')).parse().unwrap_or(-1);
            let words = "Bad Request: group chat was upgraded to a supergroup chat";
            return Err(refusal(StatusCode::BAD_REQUEST, words, json!({"migrate_to_chat_id": new})));
        }
        Ok(Draft { key: format!("{to} {text}"), to, body: message.to_string(), ..Draft::default() })
    }

    fn refuse(&self, why: Refusal) -> Reply {
        match why {
            Refusal::Nobody => bad("Bad Request: chat not found"),
            Refusal::OptedOut => refusal(StatusCode::FORBIDDEN, "Forbidden: bot was blocked by the user", Value::Null),
            Refusal::Throttled => {
                let words = "Too Many Requests: retry after 1";
                refusal(StatusCode::TOO_MANY_REQUESTS, words, json!({"retry_after": 1}))
            }
            Refusal::Broken => refusal(StatusCode::BAD_GATEWAY, "Bad Gateway", Value::Null),
        }
    }

    /// Unique within its chat at Telegram; here, within the bot.
    fn id(&self, number: u64, _: &Draft) -> String {
        (number + 1).to_string()
    }

    fn accept(&self, Taken { id, draft, .. }: &Taken) -> Response {
        let chat = json!({"id": draft.to.parse::<i64>().unwrap_or_default(), "type": "private"});
        let id = id.parse::<u64>().unwrap_or_default();
        ok(json!({"message_id": id, "date": super::unix_seconds(), "chat": chat}))
    }

    /// Telegram tells bots of no delivery. A member who leaves blocks the bot.
    fn tell(&self, Taken { id, draft, .. }: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        match event {
            Event::Left => {
                let Some(url) = home.webhook.clone() else { return Vec::new() };
                let chat = json!({"id": draft.to.parse::<i64>().unwrap_or_default(), "type": "private"});
                let member =
                    json!({"chat": chat, "date": super::unix_seconds(), "new_chat_member": {"status": "kicked"}});
                let update = json!({"update_id": id.parse::<u64>().unwrap_or_default(), "my_chat_member": member});
                let secret = self.secret.expose_secret().to_owned();
                let headers =
                    vec![("Content-Type", "application/json".into()), ("X-Telegram-Bot-Api-Secret-Token", secret)];
                vec![Outgoing { method: Method::POST, url, headers, body: update.to_string().into_bytes() }]
            }
            Event::Clicked => home.follow(&draft.body),
            Event::Sent | Event::Delivered | Event::Opened | Event::Failed => Vec::new(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::receivers::test_support::{MINUTE, Server, post, receiver};

    #[tokio::test]
    async fn a_bot_sends_and_hears_that_it_is_blocked() {
        let home = Server::start().await;
        let receiver = receiver(Telegram::new("1:A", "shop_bot", "word")).await;
        receiver.call_home(home.url("/hook"));
        let send = async |chat: i64, text: &str| {
            let url = format!("{}/bot1:A/sendMessage", receiver.url());
            post(&url, &[], json!({"chat_id": chat, "text": text, "parse_mode": "HTML"}).to_string()).await
        };
        let (status, answer) = send(7_000_010, "hola").await;
        assert_eq!(
            (status, &answer["result"]["message_id"], &answer["result"]["chat"]["id"]),
            (200, &json!(1), &json!(7_000_010))
        );
        for (chat, code, words) in [
            (7_000_001, 400, "chat not found"),
            (7_000_007, 403, "blocked"),
            (7_000_002, 429, "retry after"),
            (7_000_003, 502, "Bad Gateway"),
            (7_000_005, 400, "upgraded"),
        ] {
            let (status, answer) = send(chat, "hola").await;
            assert_eq!((status, answer["ok"].as_bool()), (code, Some(false)), "{chat}");
            assert!(answer["description"].as_str().unwrap().contains(words), "{answer}");
        }
        let moved = send(7_000_005, "hola").await.1["parameters"]["migrate_to_chat_id"].as_i64().unwrap();
        assert_eq!(send(moved, "hola").await.0, 200);
        assert_eq!(send(7_000_002, "hola").await.0, 200, "the second try is taken");

        send(7_000_009, "hola").await;
        assert!(receiver.wait_for(|received| received.left.contains("7000009"), MINUTE).await);
        let [call] = &home.calls()[..] else { panic!("one call: {:?}", home.calls()) };
        let update: Value = serde_json::from_slice(&call.body).unwrap();
        assert_eq!(call.header("x-telegram-bot-api-secret-token"), "word");
        assert_eq!(update["my_chat_member"]["new_chat_member"]["status"], "kicked");
    }
}
