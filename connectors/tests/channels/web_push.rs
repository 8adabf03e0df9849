use super::{
    message,
    server::{Log, Seen, hanging_up, nobody, serve},
};
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use bellwether_connectors::channels::{
    Content, Message, Push, SendError, Sink,
    web_push::{Config, WebPushSink},
};
use bellwether_schemas::records::ErrorKind;
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

const KEY: &str = "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw";
/// The browser's of RFC 8291 appendix A.
const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

fn answer(seen: &Seen) -> Option<Response> {
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    Some(match seen.path.rsplit('/').next().unwrap() {
        "slow" => return None,
        "busy" => (status(429), [("retry-after", "3")]).into_response(),
        "moved" => (status(307), [("location", "/push/ok")]).into_response(),
        code => match code.parse() {
            Ok(code) => status(code).into_response(),
            Err(_) => (status(201), [("location", "/m/1")]).into_response(),
        },
    })
}

async fn start() -> (SocketAddr, Log) {
    serve(answer).await
}

pub(crate) fn sink(change: Value) -> WebPushSink {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    std::fs::write(&key, KEY).unwrap();
    let mut all = json!({
        "vapid_private_key": {"file": key}, "subject": "mailto:push@shop.example", "push_services": ["127.0.0.1"],
        "allow_private_endpoints": true,
    });
    all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: Config = serde_json::from_value(all).unwrap();
    WebPushSink::new(config).unwrap()
}

fn to(endpoint: &str) -> Message {
    let address = json!({"endpoint": endpoint, "keys": {"p256dh": P256DH, "auth": AUTH}}).to_string();
    message(1, &address, Content::Push(Push { title: "Shipped".into(), ..Push::default() }))
}

fn at(at: SocketAddr, path: &str) -> Message {
    to(&format!("http://{at}/push/{path}"))
}

async fn refused(sink: &WebPushSink, message: &Message) -> SendError {
    let error = sink.send(message).await.unwrap_err();
    assert!(!format!("{error:?} {sink:?}").contains(AUTH), "{error:?}");
    error
}

#[tokio::test]
async fn a_push_arrives_with_all_that_the_protocol_wants() {
    let (server, log) = start().await;
    let sink = sink(json!({}));
    let message = Message { ttl: Some(Duration::from_secs(60)), ..at(server, "ok") };
    assert_eq!(sink.send(&message).await.unwrap().provider_id.as_deref(), Some("/m/1"));
    let seen = log.last();
    assert_eq!((&seen.method, seen.path.as_str()), (&Method::POST, "/push/ok"));
    for (name, value) in [
        ("ttl", "60"),
        ("urgency", "normal"),
        ("content-encoding", "aes128gcm"),
        ("content-type", "application/octet-stream"),
    ] {
        assert_eq!(seen.header(name), value);
    }
    assert!(seen.header("authorization").starts_with("vapid t="));
    // Salt, record size, length of the key (RFC 8188 section 2.1); a byte of padding and the tag at the end.
    assert_eq!(seen.body[16..21], [0, 0, 16, 0, 65]);

    // The next try replaces this one, and nothing else of it is the same.
    sink.send(&Message { attempt: 2, ..message }).await.unwrap();
    let again = log.last();
    assert_eq!(seen.header("topic"), again.header("topic"));
    assert_eq!(seen.header("authorization"), again.header("authorization"));
    assert_ne!(seen.body[..16], again.body[..16], "a fresh salt");
    assert_ne!(seen.body[21..86], again.body[21..86], "a fresh key");
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (server, log) = start().await;
    let sink = sink(json!({}));
    for (path, expected) in [
        ("404", ErrorKind::InvalidAddress),
        ("410", ErrorKind::InvalidAddress),
        ("403", ErrorKind::Unauthorized),
        ("413", ErrorKind::Rejected),
        ("busy", ErrorKind::Throttled),
        ("503", ErrorKind::Transient),
        ("moved", ErrorKind::Unauthorized),
    ] {
        assert_eq!(refused(&sink, &at(server, path)).await.kind, expected, "{path}");
    }
    assert_eq!(log.all().len(), 7, "no redirect is followed");
    assert_eq!(refused(&sink, &at(server, "busy")).await.after, Some(Duration::from_secs(3)));
    let hasty = self::sink(json!({"timeout_seconds": 1}));
    assert_eq!(refused(&hasty, &at(server, "slow")).await.kind, ErrorKind::Ambiguous);
    assert_eq!(refused(&sink, &at(nobody(), "ok")).await.kind, ErrorKind::Transient);
    assert_eq!(refused(&sink, &at(hanging_up().await, "ok")).await.kind, ErrorKind::Ambiguous);
    sink.check().await.unwrap();
}

#[tokio::test]
async fn a_stranger_stops_nobody_else() {
    let (server, _) = start().await;
    let sink = sink(json!({"push_services": ["push.example"]}));
    for (path, expected) in [("403", ErrorKind::Unreachable), ("busy", ErrorKind::Transient)] {
        let error = refused(&sink, &at(server, path)).await;
        assert_eq!((error.kind, error.after), (expected, None), "{path}");
    }
}

#[tokio::test]
async fn nobody_sends_us_into_our_own_network() {
    let (server, log) = start().await;
    let sink = sink(json!({"allow_private_endpoints": false}));
    for (endpoint, expected) in [
        (format!("http://{server}/push/ok"), ErrorKind::InvalidAddress),
        (format!("https://{server}/push/ok"), ErrorKind::InvalidAddress),
        (format!("https://[::ffff:127.0.0.1]:{}/", server.port()), ErrorKind::InvalidAddress),
        // A name that leads here, whoever may have said so.
        (format!("https://localhost:{}/push/ok", server.port()), ErrorKind::Unreachable),
    ] {
        let error = refused(&sink, &to(&endpoint)).await;
        assert_eq!(error.kind, expected, "{endpoint}: {error}");
    }
    assert!(log.all().is_empty());
}
