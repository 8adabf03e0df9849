//! Attachments by URL: fetched once, bounded, and refused before anything of the letter is said. The server that takes
//! the letters is our listener.
use super::{Shelf, message};
use axum::{Router, http::StatusCode, routing::get};
use bellwether_connectors::{
    channels::{Attachment, Email, SendError, Sink as _, smtp::SmtpSink},
    mail::listener::{Config, serve},
};
use bellwether_schemas::{DeliveryId, records::ErrorKind};
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_file_is_fetched_once_and_bounded() {
    let fetched = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&fetched);
    let logo = move || async move {
        count.fetch_add(1, Ordering::SeqCst);
        ([("content-type", "image/png; x=y")], vec![7_u8; 600])
    };
    let router = Router::new()
        .route("/logo", get(logo))
        .route("/large", get(|| async { vec![0_u8; 1001] }))
        .route("/moved", get(|| async { (StatusCode::FOUND, [("location", "/logo")]) }))
        .route("/broken", get(|| async { StatusCode::BAD_GATEWAY }));
    let web = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", web.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(web, router).await });

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (shelf, stop) = (Arc::new(Shelf::default()), CancellationToken::new());
    let handler = Arc::<Shelf>::clone(&shelf);
    tokio::spawn(serve(listener, Config::new(&["example.com"]), None, handler, stop.clone()));
    let _stop = stop.drop_guard();
    let sink = |private: bool| {
        let config = json!({
            "host": "127.0.0.1", "port": port, "security": "none", "from_address": "news@shop.example",
            "files": {"max_bytes": 1000, "max_total_bytes": 1500, "allow_private_hosts": private},
        });
        SmtpSink::new(&serde_json::from_value(config).unwrap()).unwrap()
    };
    let attachment = |path: &&str| Attachment { name: "a.png".into(), url: format!("{base}/{path}"), inline: false };
    let send = async |sink: &SmtpSink, paths: &[&str]| -> Result<(), SendError> {
        let attachments = paths.iter().map(attachment).collect();
        let email = Email { subject: "Hi".into(), text: Some("x".into()), attachments, ..Email::default() };
        sink.send(&message(DeliveryId::default(), "jane@example.com", email)).await.map(drop)
    };
    let open = sink(true);
    send(&open, &["logo", "logo"]).await.unwrap();
    send(&open, &["logo"]).await.unwrap();
    assert_eq!(fetched.load(Ordering::SeqCst), 1);
    {
        let kept = shelf.kept.lock().unwrap();
        let texts: Vec<_> = kept.iter().map(|mail| String::from_utf8_lossy(&mail.content)).collect();
        let counts: Vec<_> = texts.iter().map(|text| text.matches("Content-Type: image/png\r\n").count()).collect();
        assert_eq!(counts, [2, 1]);
    }
    for (paths, kind, words) in [
        (&["large"][..], ErrorKind::Rejected, "max_bytes"),
        (&["logo", "logo", "logo"], ErrorKind::Rejected, "max_total_bytes"),
        (&["moved"], ErrorKind::Rejected, "HTTP 302"),
        (&["missing"], ErrorKind::Rejected, "HTTP 404"),
        (&["broken"], ErrorKind::Transient, "HTTP 502"),
    ] {
        let error = send(&open, paths).await.unwrap_err();
        assert_eq!(error.kind, kind, "{paths:?}: {error}");
        assert!(error.detail.contains(words) && !error.detail.contains("127.0.0.1"), "{paths:?}: {error}");
    }
    let error = send(&sink(false), &["logo"]).await.unwrap_err();
    assert!(error.kind == ErrorKind::Rejected && error.detail.contains("public host"), "{error}");
    assert_eq!(shelf.kept.lock().unwrap().len(), 2, "what is refused is never begun");
}
