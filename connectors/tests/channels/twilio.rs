use super::message;
use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bellwether_connectors::{
    channels::{
        Content, Message, SendError, Sink,
        pacing::Paced,
        twilio::{Config, TwilioSink},
    },
    webhooks::twilio as webhook,
};
use bellwether_schemas::{
    Timestamp,
    records::{ErrorKind, ReceiptKind},
};
use reqwest::Url;
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

/// One request as the server saw it: account, Authorization, form.
type Seen = Arc<Mutex<Vec<(String, String, Vec<(String, String)>)>>>;

fn form(body: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://x/?{body}")).unwrap();
    url.query_pairs().into_owned().collect()
}

async fn messages(State(seen): State<Seen>, Path(account): Path<String>, headers: HeaderMap, body: String) -> Response {
    let form = form(&body);
    let authorization = headers["authorization"].to_str().unwrap().to_owned();
    let to = form.iter().find(|(name, _)| name == "To").unwrap().1.clone();
    seen.lock().unwrap().push((account, authorization, form));
    let error = |status: u16, code: u32| {
        let body = json!({"code": code, "message": format!("about {to}"), "status": status}).to_string();
        (StatusCode::from_u16(status).unwrap(), body).into_response()
    };
    match to.as_str() {
        "+15550000001" => error(400, 21211),
        "+15550000002" => error(400, 21610),
        "+15550000003" => ([("retry-after", "3")], error(429, 20429)).into_response(),
        "+15550000004" => error(401, 20003),
        "+15550000005" => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        "+15550000006" => std::future::pending().await,
        "+15550000007" => (StatusCode::CREATED, "x".repeat(1 << 20)).into_response(),
        "+15550000008" => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        _ => (StatusCode::CREATED, json!({"sid": "SM1", "status": "queued"}).to_string()).into_response(),
    }
}

async fn serve() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let app = Router::new()
        .route("/2010-04-01/Accounts/{account}/Messages.json", post(messages))
        .route("/2010-04-01/Accounts/AC1.json", get(async || json!({"sid": "AC1", "status": "active"}).to_string()))
        .with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (at, seen)
}

fn sink(at: SocketAddr, account: &str) -> TwilioSink {
    patient(at, account, 30)
}

fn patient(at: SocketAddr, account: &str, seconds: u64) -> TwilioSink {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let config: Config = serde_json::from_value(json!({
        "account_sid": account, "auth_token": {"file": token}, "from": "+15550002222", "base_url": format!("http://{at}"),
        "status_callback_url": "https://h.example/v1/webhooks/shop/test", "timeout_seconds": seconds,
    }))
    .unwrap();
    TwilioSink::new(config).unwrap()
}

fn text(to: &str) -> Message {
    message(1, to, Content::Text { body: "Grüße & 1+1=2\n".into() })
}

async fn refused(sink: &TwilioSink, to: &str) -> SendError {
    let error = sink.send(&text(to)).await.unwrap_err();
    assert!(!format!("{error:?} {sink:?}").contains(to), "{error:?}");
    error
}

#[tokio::test]
async fn a_text_arrives_as_it_was_written_and_its_callback_comes_home() {
    let (at, seen) = serve().await;
    let sink = sink(at, "AC1");
    let accepted = sink.send(&text("+15550001111")).await.unwrap();
    assert_eq!(accepted.provider_id.as_deref(), Some("SM1"));
    assert_eq!(accepted.segments.map(|segments| segments.to_string()).as_deref(), Some("1 segment, GSM-7"));
    let (account, authorization, form) = seen.lock().unwrap().pop().unwrap();
    // printf 'AC1:s3cret' | base64
    assert_eq!((account.as_str(), authorization.as_str()), ("AC1", "Basic QUMxOnMzY3JldA=="));
    let value = |name: &str| form.iter().find(|(n, _)| n == name).unwrap().1.clone();
    assert_eq!((value("To"), value("From")), ("+15550001111".into(), "+15550002222".into()));
    assert_eq!(value("Body"), "Grüße & 1+1=2\n");

    let query: Vec<_> = Url::parse(&value("StatusCallback")).unwrap().query_pairs().into_owned().collect();
    let callback = [("MessageSid", "SM1"), ("MessageStatus", "delivered")].map(|(n, v)| (n.to_owned(), v.to_owned()));
    let receipt = webhook::receipt(&query, &callback, Timestamp(7)).unwrap().unwrap();
    assert_eq!((receipt.kind, receipt.delivery), (ReceiptKind::Delivered, text("+15550001111").delivery));
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, _) = serve().await;
    let sink = sink(at, "AC1");
    for (to, expected) in [
        ("+15550000001", ErrorKind::InvalidAddress),
        ("+15550000002", ErrorKind::OptedOut),
        ("+15550000003", ErrorKind::Throttled),
        ("+15550000004", ErrorKind::Unauthorized),
        ("+15550000005", ErrorKind::Transient),
        ("+15550000007", ErrorKind::Ambiguous),
        ("+15550000008", ErrorKind::Unauthorized),
    ] {
        assert_eq!(refused(&sink, to).await.kind, expected, "{to}");
    }
    assert_eq!(refused(&patient(at, "AC1", 1), "+15550000006").await.kind, ErrorKind::Ambiguous, "no answer");
    assert_eq!(refused(&sink, "+15550000003").await.after, Some(Duration::from_secs(3)));
}

#[tokio::test]
async fn a_throttling_holds_the_pace() {
    let (at, _) = serve().await;
    let paced = Paced::new(Arc::new(sink(at, "AC1")), None);
    paced.acquire().await.send(&text("+15550000003")).await.0.unwrap_err();
    assert!(paced.state().held_until.is_some());
    assert!(paced.try_acquire().is_none());
}

#[tokio::test]
async fn the_account_can_be_checked() {
    let (at, _) = serve().await;
    sink(at, "AC1").check().await.unwrap();
    assert_eq!(sink(at, "AC9").check().await.unwrap_err().kind, ErrorKind::Unauthorized);
}

#[tokio::test]
async fn whether_twilio_was_reached_decides() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(refused(&sink(free, "AC1"), "+15550001111").await.kind, ErrorKind::Transient);

    // Takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
    });
    assert_eq!(refused(&sink(at, "AC1"), "+15550001111").await.kind, ErrorKind::Ambiguous);
}
