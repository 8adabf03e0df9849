use super::{
    message,
    server::{Log, Seen, hanging_up, json, nobody, serve},
};
use axum::{
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::channels::{
    Content, Message, Push, SendError, Sink,
    fcm::{Config, FcmSink},
};
use bellwether_schemas::records::ErrorKind;
use openssl::{hash::MessageDigest, pkey::PKey, rsa::Rsa, sign::Verifier};
use reqwest::Url;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

static KEY: LazyLock<PKey<openssl::pkey::Private>> =
    LazyLock::new(|| PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
/// Each access token is another one.
static GRANTED: AtomicUsize = AtomicUsize::new(0);

fn error(status: u16, code: &str) -> Response {
    let detail = json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code});
    json(status, &json!({"error": {"code": status, "message": code, "status": "X", "details": [detail]}}))
}

fn answer(seen: &Seen) -> Option<Response> {
    if seen.path == "/token" {
        let token = format!("token-{}", GRANTED.fetch_add(1, Ordering::SeqCst));
        return Some(json(200, &json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"})));
    }
    Some(match seen.json()["message"]["token"].as_str().unwrap() {
        "gone" => error(404, "UNREGISTERED"),
        "other" => error(403, "SENDER_ID_MISMATCH"),
        "quota" => ([("retry-after", "3")], error(429, "QUOTA_EXCEEDED")).into_response(),
        "gateway" => (StatusCode::BAD_GATEWAY, "<html>").into_response(),
        "refused" => error(401, "THIRD_PARTY_AUTH_ERROR"),
        "slow" => return None,
        "large" => (StatusCode::OK, "x".repeat(1 << 20)).into_response(),
        _ => json(200, &json!({"name": "projects/shop-1/messages/7"})),
    })
}

async fn start() -> (SocketAddr, Log) {
    serve(answer).await
}

fn sink(at: SocketAddr, tokens: SocketAddr, seconds: u64) -> FcmSink {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("account.json");
    let pem = String::from_utf8(KEY.private_key_to_pem_pkcs8().unwrap()).unwrap();
    let account = json!({
        "type": "service_account", "project_id": "shop-1", "private_key_id": "k1", "private_key": pem,
        "client_email": "push@shop-1.iam.gserviceaccount.com", "token_uri": format!("http://{tokens}/token"),
    });
    std::fs::write(&file, account.to_string()).unwrap();
    let config = json!({
        "service_account": {"file": file}, "base_url": format!("http://{at}"), "timeout_seconds": seconds,
    });
    let config: Config = serde_json::from_value(config).unwrap();
    FcmSink::new(config).unwrap()
}

fn to(token: &str) -> Message {
    let push = Push { title: "Shipped".into(), body: "On its way".into(), ..Push::default() };
    message(1, &format!("fcm:{token}"), Content::Push(push))
}

async fn refused(sink: &FcmSink, token: &str) -> SendError {
    let error = sink.send(&to(token)).await.unwrap_err();
    assert!(!format!("{error:?} {sink:?}").contains("PRIVATE"), "{error:?}");
    error
}

fn grants(log: &Log) -> Vec<Seen> {
    log.all().into_iter().filter(|seen| seen.path == "/token").collect()
}

#[tokio::test]
async fn a_push_arrives_by_a_token_that_we_were_granted() {
    let (at, log) = start().await;
    let sink = sink(at, at, 30);
    let name = sink.send(&to("a:b")).await.unwrap().provider_id;
    assert_eq!(name.as_deref(), Some("projects/shop-1/messages/7"));
    let [grant, call] = log.all().try_into().unwrap();

    let form: Vec<(String, String)> = Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(&grant.body)))
        .unwrap()
        .query_pairs()
        .into_owned()
        .collect();
    assert_eq!(form[0], ("grant_type".into(), "urn:ietf:params:oauth:grant-type:jwt-bearer".into()));
    let (text, signature) = form[1].1.rsplit_once('.').unwrap();
    let mut verifier = Verifier::new(MessageDigest::sha256(), &KEY).unwrap();
    assert!(verifier.verify_oneshot(&URL_SAFE_NO_PAD.decode(signature).unwrap(), text.as_bytes()).unwrap());
    let claims: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text.split('.').nth(1).unwrap()).unwrap()).unwrap();
    assert_eq!(claims["aud"], format!("http://{at}/token"));

    assert_eq!(call.path, "/v1/projects/shop-1/messages:send");
    assert!(call.header("authorization").starts_with("Bearer token-"));
    assert_eq!(call.json()["message"]["notification"], json!({"title": "Shipped", "body": "On its way"}));
}

#[tokio::test]
async fn one_token_serves_all_and_is_asked_for_once() {
    let (at, log) = start().await;
    let sink = sink(at, at, 30);
    let messages: Vec<_> = (0..20).map(|n| to(&format!("a:{n}"))).collect();
    let sent = futures::future::join_all(messages.iter().map(|message| sink.send(message))).await;
    assert!(sent.iter().all(Result::is_ok), "{sent:?}");
    sink.check().await.unwrap();
    assert_eq!(grants(&log).len(), 1);
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let (at, log) = start().await;
    let sink = sink(at, at, 30);
    assert_eq!(refused(&sink, "refused").await.kind, ErrorKind::Unauthorized);
    let calls: Vec<_> = log.all().into_iter().filter(|seen| seen.path != "/token").collect();
    assert_eq!((grants(&log).len(), calls.len()), (2, 2));
    assert_ne!(calls[0].header("authorization"), calls[1].header("authorization"));
}

#[tokio::test]
async fn every_answer_has_its_consequence() {
    let (at, _) = start().await;
    let sink = sink(at, at, 30);
    for (token, expected) in [
        ("gone", ErrorKind::InvalidAddress),
        ("other", ErrorKind::InvalidAddress),
        ("quota", ErrorKind::Throttled),
        ("gateway", ErrorKind::Transient),
        ("large", ErrorKind::Ambiguous),
    ] {
        assert_eq!(refused(&sink, token).await.kind, expected, "{token}");
    }
    assert_eq!(refused(&sink, "quota").await.after, Some(Duration::from_secs(3)));
    assert_eq!(refused(&self::sink(at, at, 1), "slow").await.kind, ErrorKind::Ambiguous);
    assert_eq!(refused(&self::sink(nobody(), at, 30), "a:b").await.kind, ErrorKind::Transient);
    assert_eq!(refused(&self::sink(hanging_up().await, at, 30), "a:b").await.kind, ErrorKind::Ambiguous);
    // Without a token nothing was sent.
    assert_eq!(refused(&self::sink(at, hanging_up().await, 30), "a:b").await.kind, ErrorKind::Transient);
}
