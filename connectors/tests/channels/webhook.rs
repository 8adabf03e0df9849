use super::{
    message,
    server::{Log, Seen, hanging_up, nobody, serve},
};
use axum::{
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use bellwether_connectors::channels::{
    Content, Message, SendError, Sink,
    webhook::{Config, WebhookSink},
};
use bellwether_schemas::records::ErrorKind;
use serde_json::{Value, json};
use std::{net::SocketAddr, time::Duration};

pub(crate) const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
pub(crate) const OLD_SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn answer(seen: &Seen) -> Option<Response> {
    let status = |status: u16| StatusCode::from_u16(status).unwrap();
    if seen.method == Method::HEAD {
        return Some(status(405).into_response());
    }
    Some(match seen.json()["to"].as_str().unwrap() {
        "slow" => return None,
        "busy" => (status(503), [("retry-after", "3")]).into_response(),
        "moved" => (status(308), [("location", "/elsewhere")]).into_response(),
        code => status(code.parse().unwrap_or(204)).into_response(),
    })
}

pub(crate) async fn start() -> (SocketAddr, Log) {
    serve(answer).await
}

pub(crate) fn sink(at: SocketAddr, change: Value) -> WebhookSink {
    let folder = tempfile::tempdir().unwrap();
    let [new, old] = ["new", "old"].map(|name| folder.path().join(name));
    std::fs::write(&new, SECRET).unwrap();
    std::fs::write(&old, OLD_SECRET).unwrap();
    let mut all = json!({
        "url": format!("http://{at}/in?x=1"), "secret": {"file": new}, "previous_secrets": [{"file": old}],
    });
    all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let config: Config = serde_json::from_value(all).unwrap();
    WebhookSink::new(config).unwrap()
}

pub(crate) fn to(address: &str) -> Message {
    message(1, address, Content::Json { body: r#"{"text": "Grüße"}"#.into() })
}

async fn refused(sink: &WebhookSink, address: &str) -> SendError {
    let error = sink.send(&to(address)).await.unwrap_err();
    assert!(!format!("{error:?} {sink:?}").contains("C2FVsBQIhrscChlQ"), "{error:?}");
    error
}

#[tokio::test]
async fn a_document_arrives_as_it_was_written_and_every_try_has_one_id() {
    let (at, log) = start().await;
    let sink = sink(at, json!({}));
    sink.send(&to("crm-7")).await.unwrap();
    sink.send(&Message { attempt: 2, ..to("crm-7") }).await.unwrap();
    let [first, second] = log.all().try_into().unwrap();
    assert_eq!((&first.method, first.path.as_str()), (&Method::POST, "/in"));
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!((&first.json()["to"], &first.json()["type"]), (&json!("crm-7"), &json!("order")));
    assert!(String::from_utf8_lossy(&first.body).ends_with(r#""data":{"text": "Grüße"}}"#));
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.header("webhook-signature").split(' ').count(), 2);
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, log) = start().await;
    let sink = sink(at, json!({}));
    for (address, expected) in [
        ("410", ErrorKind::Unauthorized),
        ("429", ErrorKind::Throttled),
        ("busy", ErrorKind::Throttled),
        ("503", ErrorKind::Transient),
        ("400", ErrorKind::Rejected),
        ("moved", ErrorKind::Unauthorized),
    ] {
        assert_eq!(refused(&sink, address).await.kind, expected, "{address}");
    }
    assert_eq!(log.all().len(), 6, "no redirect is followed");
    assert_eq!(refused(&sink, "busy").await.after, Some(Duration::from_secs(3)));
    assert_eq!(refused(&self::sink(at, json!({"timeout_seconds": 1})), "slow").await.kind, ErrorKind::Ambiguous);
    assert_eq!(refused(&self::sink(nobody(), json!({})), "x").await.kind, ErrorKind::Transient);
    assert_eq!(refused(&self::sink(hanging_up().await, json!({})), "x").await.kind, ErrorKind::Ambiguous);
    sink.check().await.unwrap();
    assert_eq!(self::sink(nobody(), json!({})).check().await.unwrap_err().kind, ErrorKind::Transient);
}
