//! `bellwether apply` against a double of the API: what is shown, refused and sent.

#![allow(clippy::unwrap_used, missing_docs)]

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use bellwether::{
    cli::{Connection, apply::Apply},
    definitions::{check_provider, load},
};
use bellwether_schemas::definitions::Definitions;
use serde_json::json;
use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

/// Versions by publication, as the API keeps them.
type Shelf = Arc<Mutex<Vec<Definitions>>>;

async fn read(State(shelf): State<Shelf>, headers: HeaderMap) -> Response {
    if headers["authorization"] != "Bearer k-1" {
        let problem = json!({"title": "Unauthorized", "detail": "the key is not known", "remedy": "use another key"});
        return (StatusCode::UNAUTHORIZED, Json(problem)).into_response();
    }
    let shelf = shelf.lock().unwrap();
    match shelf.last() {
        None => (StatusCode::NOT_FOUND, Json(json!({"detail": "none yet", "remedy": "apply"}))).into_response(),
        Some(document) => {
            Json(json!({"project": "shop", "version": shelf.len(), "applied": true, "document": document}))
                .into_response()
        }
    }
}

async fn publish(State(shelf): State<Shelf>, headers: HeaderMap, Json(document): Json<Definitions>) -> Response {
    let mut shelf = shelf.lock().unwrap();
    if headers["if-match"] != format!("\"{}\"", shelf.len()) {
        return (StatusCode::PRECONDITION_FAILED, Json(json!({"detail": "another version", "remedy": "again"})))
            .into_response();
    }
    if document.flows.contains_key("refused") {
        let findings = json!([
            {"field": "flows.refused.on", "line": 1, "column": 6, "problem": "is refused", "remedy": "rename it"},
            {"field": "quota", "problem": "is used up", "remedy": "wait"},
        ]);
        let problem = json!({"detail": "not valid", "remedy": "correct it", "findings": findings});
        return (StatusCode::UNPROCESSABLE_ENTITY, Json(problem)).into_response();
    }
    shelf.push(document.clone());
    Json(json!({"project": "shop", "version": shelf.len(), "applied": true, "document": document})).into_response()
}

async fn api() -> (Shelf, String) {
    let shelf = Shelf::default();
    let router = Router::new().route("/v1/definitions", get(read).put(publish)).with_state(Arc::clone(&shelf));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (shelf, url)
}

fn folder(flow: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let write = |file: &str, text: &str| {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("project.yaml", "name: shop\ndefault_locale: en\n");
    write(
        "providers.yaml",
        "text: { kind: twilio, account_sid: AC00000000000000000000000000000000, auth_token: { env: T }, from: \"+34600000000\" }\n",
    );
    write("templates/hello.yaml", "channels: { sms: { en: { text: Hello } } }\n");
    write(&format!("flows/{flow}.yaml"), "on: shop.hello\nnotify: { template: hello, lane: bulk }\n");
    dir
}

fn command(dir: &Path, url: &str, key: &str, yes: bool) -> Apply {
    let key = Some(key.to_owned().into());
    let connection = Connection { url: url.into(), key, key_file: "none".into(), json: false };
    Apply { dir: dir.into(), yes, connection }
}

#[tokio::test]
async fn a_folder_is_published_once() {
    let (shelf, url) = api().await;
    let dir = folder("hello");
    let apply = command(dir.path(), &url, "k-1", true);
    assert_eq!(apply.run().await.unwrap(), 1);
    assert_eq!(apply.run().await.unwrap(), 1, "nothing to change");
    fs::write(dir.path().join("templates/hello.yaml"), "channels: { sms: { en: { text: Hello again } } }\n").unwrap();
    assert_eq!(apply.run().await.unwrap(), 2);
    let document = load(dir.path(), &|_| None, &check_provider).unwrap().document;
    assert_eq!(*shelf.lock().unwrap().last().unwrap(), document);
}

#[tokio::test]
async fn nothing_is_published_without_a_yes_or_with_a_mistake() {
    let (shelf, url) = api().await;
    let dir = folder("hello");
    // Tests run without a terminal, so nobody can be asked.
    let words = command(dir.path(), &url, "k-1", false).run().await.unwrap_err().to_string();
    assert!(words.contains("--yes"), "{words}");
    fs::write(dir.path().join("flows/hello.yaml"), "on: shop.hello\nnotify: { template: helo, lane: bulk }\n").unwrap();
    let words = command(dir.path(), &url, "k-1", true).run().await.unwrap_err().to_string();
    assert!(words.contains("flows/hello.yaml:2:11: unknown template `helo` (did you mean `hello`?)"), "{words}");
    assert!(shelf.lock().unwrap().is_empty());
}

#[tokio::test]
async fn refusals_are_told_with_their_remedy() {
    let (shelf, url) = api().await;
    let refused = folder("refused");
    let words = command(refused.path(), &url, "k-1", true).run().await.unwrap_err().to_string();
    assert_eq!(
        words,
        "flows/refused.yaml:1:10: is refused; rename it\nquota: is used up; wait\nnot valid\n  remedy: correct it"
    );
    let words = command(refused.path(), &url, "other", true).run().await.unwrap_err().to_string();
    assert_eq!(words, "the key is not known\n  remedy: use another key");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let words = command(refused.path(), &format!("http://{nobody}"), "k-1", true).run().await.unwrap_err().to_string();
    assert!(words.contains("is `bellwether serve` running there?"), "{words}");
    assert_eq!(*shelf.lock().unwrap(), Vec::new());
    assert!(!format!("{:?}", command(refused.path(), &url, "S3CRET", true)).contains("S3CRET"));
}
