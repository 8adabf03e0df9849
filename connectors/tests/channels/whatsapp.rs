use super::message;
use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bellwether_connectors::{
    channels::{
        Button, Content, Message, SendError, Sink, Whatsapp,
        pacing::Paced,
        whatsapp::{Config, WhatsappSink},
    },
    webhooks::whatsapp as webhook,
};
use bellwether_schemas::{
    Timestamp,
    records::{ErrorKind, ReceiptKind},
};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{io::AsyncReadExt as _, net::TcpListener};

/// One request as the server saw it: version, phone number id, Authorization, body.
type Seen = Arc<Mutex<Vec<(String, String, String, Value)>>>;

async fn messages(
    State(seen): State<Seen>,
    Path((version, number)): Path<(String, String)>,
    headers: HeaderMap,
    Json(body): Json<Value>,
) -> Response {
    let authorization = headers["authorization"].to_str().unwrap().to_owned();
    let to = body["to"].as_str().unwrap().to_owned();
    seen.lock().unwrap().push((version, number, authorization, body));
    let error = |status: u16, code: u32| {
        let error = json!({"message": format!("(#{code}) about {to}"), "type": "OAuthException", "code": code,
            "error_data": {"messaging_product": "whatsapp", "details": to}, "fbtrace_id": "Az8or2yhqkZfEZ-_4Qn_Bam"});
        (StatusCode::from_u16(status).unwrap(), json!({"error": error}).to_string()).into_response()
    };
    match to.as_str() {
        "+15550000001" => error(400, 131026),
        "+15550000002" => error(400, 131050),
        "+15550000003" => ([("retry-after", "3")], error(429, 130429)).into_response(),
        "+15550000004" => error(401, 190),
        "+15550000005" => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        "+15550000006" => std::future::pending().await,
        "+15550000007" => "x".repeat(8 << 20).into_response(),
        "+15550000008" => (StatusCode::FOUND, [("location", "/elsewhere")]).into_response(),
        "+15550000009" => error(400, 131049),
        _ => Json(json!({"messaging_product": "whatsapp", "contacts": [{"input": to, "wa_id": &to[1..]}],
            "messages": [{"id": "wamid.1"}]}))
        .into_response(),
    }
}

/// Three templates on as many pages; each page's `next` leads astray.
async fn templates(Query(query): Query<HashMap<String, String>>) -> Response {
    assert_eq!((query["limit"].as_str(), query["fields"].contains("components")), ("100", true));
    let page: usize = query.get("after").map_or(0, |after| after.parse().unwrap());
    let template = json!({"name": format!("t{page}"), "language": "es", "status": "APPROVED", "category": "UTILITY",
        "components": [{"type": "BODY", "text": "Hi {{1}}"}]});
    let mut paging = json!({"cursors": {"before": "x", "after": (page + 1).to_string()}});
    if page < 2 {
        paging["next"] = "http://203.0.113.1/steal?access_token=x".into();
    }
    Json(json!({"data": [template], "paging": paging})).into_response()
}

async fn number(Path((_, id)): Path<(String, String)>) -> Response {
    match id.as_str() {
        "106" => Json(json!({"id": "106"})).into_response(),
        "107" => "<html>welcome to the hotel</html>".into_response(),
        _ => {
            let error = json!({"error": {"message": "Unsupported get request", "code": 100}});
            (StatusCode::BAD_REQUEST, Json(error)).into_response()
        }
    }
}

async fn serve() -> (SocketAddr, Seen) {
    let seen = Seen::default();
    let app = Router::new()
        .route("/{version}/{number}/messages", post(messages))
        .route("/{version}/102/message_templates", get(templates))
        .route("/{version}/{number}", get(number))
        .with_state(Arc::clone(&seen));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    (at, seen)
}

fn sink(at: SocketAddr, number: &str) -> WhatsappSink {
    patient(at, number, 30)
}

fn patient(at: SocketAddr, number: &str, seconds: u64) -> WhatsappSink {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "s3cret\n").unwrap();
    let config: Config = serde_json::from_value(json!({
        "phone_number_id": number, "access_token": {"file": token}, "waba_id": "102", "base_url": format!("http://{at}"),
        "timeout_seconds": seconds,
    }))
    .unwrap();
    WhatsappSink::new(config).unwrap()
}

fn text(to: &str) -> Message {
    let buttons = vec![Button { text: "Sí".into(), url: None }];
    message(1, to, Content::Whatsapp(Whatsapp::Text { body: "Grüße & \"1+1\"\n".into(), header: None, buttons }))
}

async fn refused(sink: &WhatsappSink, to: &str) -> SendError {
    let error = sink.send(&text(to)).await.unwrap_err();
    let all = format!("{error:?} {sink:?}");
    assert!(!all.contains(to) && !all.contains("s3cret"), "{all}");
    error
}

#[tokio::test]
async fn a_message_arrives_as_it_was_written_and_its_callback_comes_home() {
    let (at, seen) = serve().await;
    let sink = sink(at, "106");
    assert_eq!(sink.send(&text("+15550001111")).await.unwrap().provider_id.as_deref(), Some("wamid.1"));
    let (version, number, authorization, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!((version.as_str(), number.as_str(), authorization.as_str()), ("v25.0", "106", "Bearer s3cret"));
    let data = body["biz_opaque_callback_data"].clone();
    let expected = json!({
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+15550001111", "type": "interactive",
        "interactive": {"type": "button", "body": {"text": "Grüße & \"1+1\"\n"},
            "action": {"buttons": [{"type": "reply", "reply": {"id": "0", "title": "Sí"}}]}},
        "biz_opaque_callback_data": data,
    });
    assert_eq!(body, expected);

    let status = json!({"id": "wamid.1", "status": "read", "timestamp": "1", "recipient_id": "15550001111",
        "biz_opaque_callback_data": data});
    let callback = json!({"entry": [{"changes": [{"value": {"statuses": [status]}}]}]}).to_string();
    let receipt = webhook::read(callback.as_bytes(), Timestamp(7_000)).unwrap().receipts.pop().unwrap();
    let expected = (ReceiptKind::Opened, text("+15550001111").delivery, Timestamp(1_000), 1);
    assert_eq!((receipt.kind, receipt.delivery, receipt.at, receipt.attempt), expected);
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, _) = serve().await;
    let sink = sink(at, "106");
    for (to, expected) in [
        ("+15550000001", ErrorKind::Unreachable),
        ("+15550000002", ErrorKind::OptedOut),
        ("+15550000003", ErrorKind::Throttled),
        ("+15550000004", ErrorKind::Unauthorized),
        ("+15550000005", ErrorKind::Transient),
        ("+15550000007", ErrorKind::Ambiguous),
        ("+15550000008", ErrorKind::Unauthorized),
    ] {
        assert_eq!(refused(&sink, to).await.kind, expected, "{to}");
    }
    assert_eq!(refused(&patient(at, "106", 1), "+15550000006").await.kind, ErrorKind::Ambiguous, "no answer");
    assert_eq!(refused(&sink, "+15550000003").await.after, Some(Duration::from_secs(3)));
    assert_eq!(refused(&sink, "+15550000009").await.after, Some(Duration::from_secs(86_400)));
}

#[tokio::test]
async fn a_throttling_holds_the_pace_and_one_members_limit_does_not() {
    let (at, _) = serve().await;
    let paced = Paced::new(Arc::new(sink(at, "106")), None);
    paced.acquire().await.send(&text("+15550000009")).await.0.unwrap_err();
    assert!(paced.state().held_until.is_none());
    paced.acquire().await.send(&text("+15550000003")).await.0.unwrap_err();
    assert!(paced.state().held_until.is_some());
}

#[tokio::test]
async fn every_page_of_templates_is_fetched_from_where_we_were_told() {
    let (at, _) = serve().await;
    let found = sink(at, "106").templates().await.unwrap();
    let names: Vec<_> = found.iter().map(|template| (template.name.as_str(), template.parameters)).collect();
    assert_eq!(names, [("t0", 1), ("t1", 1), ("t2", 1)]);
}

#[tokio::test]
async fn the_phone_number_can_be_checked() {
    let (at, _) = serve().await;
    sink(at, "106").check().await.unwrap();
    assert_eq!(sink(at, "107").check().await.unwrap_err().kind, ErrorKind::Unauthorized, "no such answer");
    assert_eq!(sink(at, "109").check().await.unwrap_err().kind, ErrorKind::Rejected);
}

#[tokio::test]
async fn whether_meta_was_reached_decides() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_eq!(refused(&sink(free, "106"), "+15550001111").await.kind, ErrorKind::Transient);

    // Takes the request and hangs up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        }
    });
    assert_eq!(refused(&sink(at, "106"), "+15550001111").await.kind, ErrorKind::Ambiguous);
    // To have asked in vain is no ambiguity.
    assert_eq!(sink(at, "106").check().await.unwrap_err().kind, ErrorKind::Transient);
}
