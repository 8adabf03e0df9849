//! Links of messages, end to end and embedded: what goes out leads through us, and what a reader does with it changes story, sums and member.
#![allow(clippy::unwrap_used, missing_docs)]

mod browser;
mod mail;

use bellwether::{
    backends::ensure_key,
    config::Config,
    serve::{Instance, Role},
};
use reqwest::{Client, Method, redirect::Policy};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// Longest wait for anything: it ends the test, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);
/// Where links lead in the texts; the tests bring them to where the instance listens.
const DOMAIN: &str = "https://links.shop.example";

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// An instance with the API's key, and a client that follows no link by itself.
struct House {
    instance: Instance,
    client: Client,
    base: String,
    key: String,
    folder: tempfile::TempDir,
}

impl House {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config =
            Config { data_dir: folder.path().join("data"), default_project: Some("shop".into()), ..Config::default() };
        config.listen = ([127, 0, 0, 1], 0).into();
        let key_file = ensure_key(&mut config).unwrap().unwrap();
        let instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await.unwrap();
        let base = format!("http://{}", instance.address.unwrap());
        let client = Client::builder().redirect(Policy::none()).build().unwrap();
        Self { instance, client, base, key: fs::read_to_string(key_file).unwrap(), folder }
    }

    /// A secret by reference.
    fn secret(&self, name: &str, value: &str) -> Value {
        fs::write(self.folder.path().join(name), value).unwrap();
        json!({"file": self.folder.path().join(name)})
    }

    async fn call(&self, method: Method, path: &str, body: &Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        let answer = request.json(body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn apply(&self, document: &Value) {
        let (status, answer) = self.call(Method::PUT, "/v1/definitions", document).await;
        assert_eq!(status, 200, "{answer:#}");
    }

    /// Tells an event; returns its id.
    async fn event(&self, id: &str, member: &str, kind: &str) -> String {
        let event = json!({"specversion": "1.0", "id": id, "source": "/t", "type": kind, "subject": member, "data": {"name": "Ana & Co"}});
        let request = self.client.post(format!("{}/v1/events", self.base)).bearer_auth(&self.key);
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["events"][0]["event_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the one notification of an event stands at this status.
    async fn status(&self, event: &str, member: &str, status: &str) {
        until(&format!("{member} {status}"), async || {
            let path = format!("/v1/notifications?event={event}&member={member}");
            let told = self.call(Method::GET, &path, &Value::Null).await.1;
            (told["notifications"][0]["status"] == status).then_some(())
        })
        .await;
    }

    /// Waits until a figure of today stands at this count.
    async fn counted(&self, metric: &str, count: u64) {
        until(&format!("{metric} {count}"), async || {
            let stats = self.call(Method::GET, "/v1/stats", &Value::Null).await.1;
            (stats["rows"][0]["metrics"][metric].as_u64().unwrap_or_default() == count).then_some(())
        })
        .await;
    }

    async fn member(&self, id: &str) -> Value {
        self.call(Method::GET, &format!("/v1/members/{id}"), &Value::Null).await.1
    }
}

/// Brings a link from the tracking domain to where the instance listens.
fn here(house: &House, link: &str) -> String {
    format!("{}{}", house.base, link.strip_prefix(DOMAIN).unwrap_or_else(|| panic!("no link of ours: {link}")))
}

/// A file of what `cargo xtask counterparts` installs.
fn installed(file: &str) -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = std::env::var_os("BELLWETHER_SERVICES_HOME").map_or_else(|| package.join(".services"), PathBuf::from);
    let path = home.join("counterparts").join(file);
    assert!(path.exists(), "{} is missing: install it with `cargo xtask counterparts`", path.display());
    path
}
