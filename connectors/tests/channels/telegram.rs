use super::message;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use bellwether_connectors::{
    channels::{
        Button, Content, Message, SendError, Sink,
        pacing::Paced,
        telegram::{Config, TelegramSink},
    },
    webhooks::telegram::Event,
};
use bellwether_schemas::records::ErrorKind;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

const TOKEN: &str = "123456:s3cret-Token";

/// One request as the server saw it: method and parameters.
type Seen = Arc<Mutex<Vec<(String, Value)>>>;

fn error(status: u16, words: &str, parameters: Value) -> Response {
    let body = json!({"ok": false, "error_code": status, "description": words, "parameters": parameters});
    (StatusCode::from_u16(status).unwrap(), Json(body)).into_response()
}

async fn method(
    State(seen): State<Seen>,
    Path((bot, method)): Path<(String, String)>,
    Json(body): Json<Value>,
) -> Response {
    if bot != format!("bot{TOKEN}") {
        return error(401, "Unauthorized", json!({}));
    }
    seen.lock().unwrap().push((method.clone(), body.clone()));
    let result = match (method.as_str(), body["chat_id"].as_i64().unwrap_or_default()) {
        ("getMe", _) => json!({"id": 123456, "is_bot": true, "first_name": "Bell", "username": "bell_bot"}),
        ("getUpdates", _) => {
            json!([{"update_id": 5, "message": {"message_id": 1, "date": 1, "text": "/start abc", "chat": {"id": 7, "type": "private"}}},
                {"update_id": 6, "poll": {}}])
        }
        ("setWebhook" | "deleteWebhook", _) => json!(true),
        ("getWebhookInfo", _) => {
            let seen = seen.lock().unwrap();
            let last = seen.iter().rfind(|(method, _)| method == "setWebhook" || method == "deleteWebhook");
            let url = last.map_or(&Value::Null, |(_, body)| &body["url"]);
            json!({"url": url.as_str().unwrap_or_default(), "pending_update_count": 0})
        }
        (_, 1) => return error(403, "Forbidden: bot was blocked by the user", json!({})),
        (_, 2) => return error(400, "Bad Request: chat not found", json!({})),
        (_, 3) => return error(429, "Too Many Requests: retry after 3", json!({"retry_after": 3})),
        (_, 4) => return error(400, "Bad Request: can't parse entities", json!({})),
        (_, 5) => return (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        (_, 6) => std::future::pending().await,
        (_, 7) => return "<html>welcome to the hotel</html>".into_response(),
        (_, 8) => return (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        (_, old @ (-9 | -10)) => {
            let new = if old == -9 { -100_900 } else { 1 };
            let words = "Bad Request: group chat was upgraded to a supergroup chat";
            return error(400, words, json!({"migrate_to_chat_id": new}));
        }
        (_, chat) => json!({"message_id": 42, "date": 1, "chat": {"id": chat, "type": "private"}}),
    };
    Json(json!({"ok": true, "result": result})).into_response()
}

async fn serve() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let app = Router::new().route("/{bot}/{method}", post(method)).with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (at, seen)
}

fn sink(at: SocketAddr) -> TelegramSink {
    with(at, TOKEN, 30)
}

fn with(at: SocketAddr, token: &str, seconds: u64) -> TelegramSink {
    hearing(at, token, seconds, "webhook")
}

fn hearing(at: SocketAddr, token: &str, seconds: u64, updates: &str) -> TelegramSink {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    let base_url = format!("http://{at}/");
    let settings =
        json!({"bot_token": {"file": file}, "base_url": base_url, "timeout_seconds": seconds, "updates": updates});
    let config: Config = serde_json::from_value(settings).unwrap();
    TelegramSink::new(config).unwrap()
}

fn text(to: &str) -> Message {
    let buttons = vec![Button { text: "Öffnen".into(), url: Some("https://h.example/?a=1&b=2".into()) }];
    message(1, to, Content::Chat { html: "<b>Grüße</b> & <p>".into(), buttons })
}

/// Nobody is told the token: not by an error, not by the sink.
fn assert_discreet(sink: &TelegramSink, error: &SendError) {
    let all = format!("{error:?} {error} {sink:?}");
    assert!(!all.contains("s3cret") && !all.contains("123456"), "{all}");
}

async fn refused(sink: &TelegramSink, to: &str) -> SendError {
    let error = sink.send(&text(to)).await.unwrap_err();
    assert_discreet(sink, &error);
    error
}

#[tokio::test]
async fn a_message_arrives_as_documented() {
    let (at, seen) = serve().await;
    let accepted = sink(at).send(&text("77")).await.unwrap();
    assert_eq!((accepted.provider_id.as_deref(), accepted.moved_to), (Some("42"), None));
    let body = json!({"chat_id": 77, "text": "<b>Grüße</b> &amp; &lt;p&gt;", "parse_mode": "HTML",
        "reply_markup": {"inline_keyboard": [[{"text": "Öffnen", "url": "https://h.example/?a=1&b=2"}]]}});
    assert_eq!(*seen.lock().unwrap(), [("sendMessage".to_owned(), body)]);
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, _) = serve().await;
    let sink = sink(at);
    for (to, expected) in [
        ("1", ErrorKind::InvalidAddress),
        ("2", ErrorKind::InvalidAddress),
        ("3", ErrorKind::Throttled),
        ("4", ErrorKind::Rejected),
        ("5", ErrorKind::Transient),
        ("7", ErrorKind::Ambiguous),
        ("8", ErrorKind::Unauthorized),
        ("x", ErrorKind::InvalidAddress),
    ] {
        assert_eq!(refused(&sink, to).await.kind, expected, "{to}");
    }
    assert_eq!(refused(&with(at, TOKEN, 1), "6").await.kind, ErrorKind::Ambiguous, "no answer");
    assert_eq!(refused(&with(at, "654321:s3cret", 30), "77").await.kind, ErrorKind::Unauthorized);
    assert_eq!(refused(&sink, "3").await.after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_message_follows_its_group_and_says_where_to() {
    let (at, seen) = serve().await;
    let accepted = sink(at).send(&text("-9")).await.unwrap();
    assert_eq!((accepted.provider_id.as_deref(), accepted.moved_to.as_deref()), (Some("42"), Some("-100900")));
    let chats: Vec<_> = seen.lock().unwrap().iter().map(|(_, body)| body["chat_id"].clone()).collect();
    assert_eq!(chats, [json!(-9), json!(-100_900)]);
    assert_eq!(refused(&sink(at), "-10").await.kind, ErrorKind::InvalidAddress, "the new chat's answer counts");
}

#[tokio::test]
async fn a_throttling_holds_the_pace() {
    let (at, _) = serve().await;
    let paced = Paced::new(Arc::new(sink(at)), None);
    paced.acquire().await.send(&text("3")).await.0.unwrap_err();
    assert!(paced.state().held_until.is_some());
}

#[tokio::test]
async fn a_webhook_beside_fetching_is_found_by_the_check() {
    let (at, _) = serve().await;
    let (asking, called) = (hearing(at, TOKEN, 30, "poll"), sink(at));
    asking.check().await.unwrap();
    called.set_webhook("https://h.example/v1/webhooks/telegram/x", "w-0_rd").await.unwrap();
    called.check().await.unwrap();
    let error = asking.check().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unauthorized);
    assert!(error.detail.contains("a webhook is set"), "{}", error.detail);
    called.delete_webhook().await.unwrap();
    asking.check().await.unwrap();
}

#[tokio::test]
async fn the_bot_can_be_checked_and_told_how_to_tell_us() {
    let (at, seen) = serve().await;
    let sink = sink(at);
    sink.check().await.unwrap();
    assert_eq!(sink.username().await.unwrap(), "bell_bot");
    assert_eq!(with(at, "1:x", 30).check().await.unwrap_err().kind, ErrorKind::Unauthorized);
    seen.lock().unwrap().clear();
    sink.set_webhook("https://h.example/v1/webhooks/telegram/x", "w-0_rd").await.unwrap();
    sink.delete_webhook().await.unwrap();
    for bad in ["", "with space", &"x".repeat(257)] {
        assert_eq!(sink.set_webhook("https://h.example", bad).await.unwrap_err().kind, ErrorKind::Rejected);
    }
    let body = json!({"url": "https://h.example/v1/webhooks/telegram/x", "secret_token": "w-0_rd",
        "allowed_updates": ["message", "my_chat_member"]});
    assert_eq!(*seen.lock().unwrap(), [("setWebhook".to_owned(), body), ("deleteWebhook".to_owned(), json!({}))]);
}

#[tokio::test]
async fn updates_are_fetched_from_an_offset_on() {
    let (at, seen) = serve().await;
    let updates = sink(at).updates(Some(5), Duration::from_secs(20)).await.unwrap();
    assert_eq!((updates[0].id, updates[1].id, &updates[1].event), (5, 6, &None));
    assert!(matches!(&updates[0].event, Some(Event::Linked { chat, payload, .. }) if chat == "7" && payload == "abc"));
    let body = json!({"offset": 5, "timeout": 20, "allowed_updates": ["message", "my_chat_member"]});
    assert_eq!(*seen.lock().unwrap(), [("getUpdates".to_owned(), body)]);
}

#[tokio::test]
async fn whether_telegram_was_reached_decides() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(refused(&sink(free), "77").await.kind, ErrorKind::Transient);

    // Takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
    });
    assert_eq!(refused(&sink(at), "77").await.kind, ErrorKind::Ambiguous);
    let error = sink(at).updates(None, Duration::ZERO).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Transient, "to have asked in vain is no ambiguity");
    assert_discreet(&sink(at), &error);
}
