use super::{
    message,
    server::{Log, Seen, hanging_up, json, nobody, serve},
};
use axum::{
    http::{StatusCode, Version},
    response::{IntoResponse as _, Response},
};
use bellwether_connectors::channels::{
    Content, Message, Push, SendError, Sink,
    apns::{ApnsSink, Config},
};
use bellwether_schemas::records::ErrorKind;
use openssl::{
    ec::{EcGroup, EcKey},
    nid::Nid,
    pkey::PKey,
};
use serde_json::json;
use std::{net::SocketAddr, sync::Mutex, time::Duration};

/// Provider tokens that Apple finds too old: the first of each test that asks for it.
static STALE: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn answer(seen: &Seen) -> Option<Response> {
    let reason = |status, reason: &str| json(status, &json!({"reason": reason}));
    Some(match seen.path.strip_prefix("/3/device/").unwrap() {
        "dead" => reason(410, "Unregistered"),
        "bad" => reason(400, "BadDeviceToken"),
        "beef" => ([("retry-after", "3")], reason(429, "TooManyRequests")).into_response(),
        "cafe" => reason(403, "InvalidProviderToken"),
        "5000" => reason(500, "InternalServerError"),
        "aaaa" => return None,
        // Refuses the first token that it sees, takes the next.
        "01d" => {
            let token = seen.header("authorization").to_owned();
            let mut stale = STALE.lock().unwrap();
            if stale.is_empty() || stale.contains(&token) {
                stale.push(token);
                reason(403, "ExpiredProviderToken")
            } else {
                StatusCode::OK.into_response()
            }
        }
        "01d01d" => reason(403, "ExpiredProviderToken"),
        zeros if zeros.chars().all(|c| c == '0') => reason(400, "BadDeviceToken"),
        _ => ([("apns-id", seen.header("apns-id").to_owned())], StatusCode::OK).into_response(),
    })
}

async fn start() -> (SocketAddr, Log) {
    serve(answer).await
}

fn sink(at: SocketAddr, seconds: u64) -> ApnsSink {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    let key = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("AuthKey.p8");
    std::fs::write(&file, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let config = json!({
        "key": {"file": file}, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop",
        "base_url": format!("http://{at}"), "timeout_seconds": seconds,
    });
    let config: Config = serde_json::from_value(config).unwrap();
    ApnsSink::new(config).unwrap()
}

fn to(token: &str) -> Message {
    let push = Push { title: "Shipped".into(), body: "On its way".into(), ..Push::default() };
    message(1, &format!("apns:{token}"), Content::Push(push))
}

async fn refused(sink: &ApnsSink, token: &str) -> SendError {
    let error = sink.send(&to(token)).await.unwrap_err();
    assert!(!format!("{error:?} {sink:?}").contains("bearer"), "{error:?}");
    error
}

#[tokio::test]
async fn a_push_arrives_over_http_2() {
    let (at, log) = start().await;
    let sink = sink(at, 30);
    let message = to("00fc13ad");
    let accepted = sink.send(&message).await.unwrap();
    assert_eq!(accepted.provider_id, Some(message.delivery.to_string()));
    let seen = log.last();
    assert_eq!((seen.version, seen.path.as_str()), (Version::HTTP_2, "/3/device/00fc13ad"));
    for (name, value) in [
        ("apns-topic", "com.example.shop"),
        ("apns-push-type", "alert"),
        ("apns-priority", "5"),
        ("apns-collapse-id", &message.delivery.to_string()),
    ] {
        assert_eq!(seen.header(name), value);
    }
    assert!(seen.header("authorization").starts_with("bearer ey"));
    assert_eq!(seen.json()["aps"]["alert"], json!({"title": "Shipped", "body": "On its way"}));
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, log) = start().await;
    let sink = sink(at, 30);
    for (token, expected) in [
        ("dead", ErrorKind::InvalidAddress),
        ("bad", ErrorKind::Unreachable),
        ("beef", ErrorKind::Throttled),
        ("cafe", ErrorKind::Unauthorized),
        ("5000", ErrorKind::Transient),
    ] {
        assert_eq!(refused(&sink, token).await.kind, expected, "{token}");
    }
    assert_eq!(log.all().len(), 5, "only a stale token is tried again");
    assert_eq!(refused(&sink, "beef").await.after, Some(Duration::from_secs(3)));
    assert_eq!(refused(&self::sink(at, 1), "aaaa").await.kind, ErrorKind::Ambiguous);
    assert_eq!(refused(&self::sink(nobody(), 30), "abcd").await.kind, ErrorKind::Transient);
    assert_eq!(refused(&self::sink(hanging_up().await, 30), "abcd").await.kind, ErrorKind::Ambiguous);
}

#[tokio::test]
async fn a_stale_token_is_renewed_once() {
    let (at, log) = start().await;
    let sink = sink(at, 30);
    sink.send(&to("01d")).await.unwrap();
    let tokens: Vec<_> = log.all().iter().map(|seen| seen.header("authorization").to_owned()).collect();
    assert_eq!(tokens.len(), 2);
    assert_ne!(tokens[0], tokens[1]);
    sink.send(&to("00fc13ad")).await.unwrap();
    assert_eq!(log.last().header("authorization"), tokens[1], "the new one stays");
    let before = log.all().len();
    assert_eq!(refused(&sink, "01d01d").await.kind, ErrorKind::Unauthorized);
    assert_eq!(log.all().len(), before + 2);
}

#[tokio::test]
async fn the_key_can_be_checked() {
    let (at, log) = start().await;
    sink(at, 30).check().await.unwrap();
    assert!(log.last().path.ends_with(&"0".repeat(64)));
    assert_eq!(sink(nobody(), 30).check().await.unwrap_err().kind, ErrorKind::Transient);
    assert_eq!(sink(hanging_up().await, 30).check().await.unwrap_err().kind, ErrorKind::Transient);
}
