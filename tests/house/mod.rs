//! An embedded instance with as many projects as a test wants, each with a key of its own, and the questions that tests put to it.
#![allow(dead_code)] // Each test binary asks some of them.

use bellwether::{
    config::Config,
    http::auth::{ApiKeyConfig, Scope},
    serve::{Instance, Role, groups, lag},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    member::Profile,
    records::Record,
    rows::Row,
    tables::{MemberRow, PROFILE},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

/// Longest wait for anything: it ends the test, and measures nothing.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// A running instance.
pub(crate) struct House {
    pub(crate) instance: Instance,
    pub(crate) client: Client,
    pub(crate) base: String,
}

/// Asks until there is an answer.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

impl House {
    /// Starts everything, embedded in a folder.
    pub(crate) async fn start(folder: &Path, projects: &[String], change: impl FnOnce(&mut Config)) -> Self {
        let key = |project: &String| ApiKeyConfig {
            name: format!("key-{project}"),
            project: project.clone(),
            scopes: Scope::ALL.to_vec(),
            sha256: Some(Sha256::digest(secret_of(project)).iter().map(|byte| format!("{byte:02x}")).collect()),
            secret: None,
        };
        let mut config = Config {
            data_dir: folder.join("data"),
            listen: ([127, 0, 0, 1], 0).into(),
            api_keys: projects.iter().map(key).collect(),
            ..Config::default()
        };
        change(&mut config);
        let instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await.unwrap();
        let base = format!("http://{}", instance.address.unwrap());
        Self { instance, client: Client::new(), base }
    }

    pub(crate) async fn call(&self, project: &str, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(secret_of(project));
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) async fn get(&self, project: &str, path: &str) -> Value {
        self.call(project, Method::GET, path, Value::Null).await.1
    }

    /// One provider, one template and one flow on the event type `go`.
    pub(crate) async fn define(&self, project: &str, channel: &str, provider: &Value, variant: &Value) {
        let document = json!({
            "project": {"name": project, "default_locale": "en"},
            "providers": {"main": provider},
            "templates": {"t": {"channels": {channel: {"en": variant}}}},
            "flows": {"f": {"on": "go", "notify": {"template": "t", "lane": "transactional"}}},
        });
        let (status, answer) = self.call(project, Method::PUT, "/v1/definitions", document).await;
        assert_eq!(status, 200, "{project}: {answer:#}");
    }

    /// Sends an event to a member; returns its id.
    pub(crate) async fn event(&self, project: &str, id: &str, member: &str) -> String {
        let event =
            json!({"specversion": "1.0", "id": id, "source": "/t", "type": "go", "subject": member, "data": {}});
        let request = self.client.post(format!("{}/v1/events", self.base)).bearer_auth(secret_of(project));
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["events"][0]["event_id"].as_str().unwrap_or_else(|| panic!("{answer:#}")).to_owned()
    }

    /// Waits until the one notification of an event stands at this status.
    pub(crate) async fn status(&self, project: &str, event: &str, member: &str, status: &str) {
        let path = format!("/v1/notifications?event={event}&member={member}");
        let mut last = Value::Null;
        let begun = Instant::now();
        while last["notifications"][0]["status"] != status {
            assert!(begun.elapsed() < PATIENCE, "not {status}: {last:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = self.get(project, &path).await;
        }
    }

    pub(crate) async fn put_member(&self, project: &str, id: &str, fields: &Value) {
        let (status, answer) = self.call(project, Method::PUT, &format!("/v1/members/{id}"), fields.clone()).await;
        assert!(matches!(status, 200 | 201), "{project} {id}: {status} {answer:#}");
    }

    /// The profile as route reads it.
    pub(crate) async fn profile(&self, project: &str, member: &str) -> Option<Profile> {
        let rows =
            self.instance.backends.store.read(&[MemberRow::read_one(project, member, PROFILE, "")]).await.unwrap();
        let cells = rows.into_iter().flatten().next()?;
        Some(Profile::from_row(&MemberRow::from_cells(cells).unwrap()).unwrap())
    }

    /// Puts a record on the log, as one of our own processes would.
    pub(crate) async fn append(&self, record: &Record) {
        self.instance.backends.log.append(vec![Append::of(record).unwrap()]).await.unwrap();
    }

    /// Every row of a table.
    pub(crate) async fn all<R: Row>(&self) -> Vec<R> {
        let store = &self.instance.backends.store;
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let page = store.scan(R::TABLE, store.ranges(1)[0], after, 1_000).await.unwrap();
            found.extend(page.rows.into_iter().map(|cells| R::from_cells(cells).unwrap()));
            after = page.next;
            if after.is_none() {
                return found;
            }
        }
    }

    /// Waits until every group has done all that is on its topics. What one does may give another work, so it must be so twice in a row.
    pub(crate) async fn at_rest(&self) {
        let mut quiet = 0;
        until("all is done", async || {
            let mut left = 0;
            for (group, topics) in groups() {
                for topic in topics {
                    let lags = lag(&*self.instance.backends.log, &group, topic).await.unwrap();
                    left += lags.into_iter().map(|(_, lag)| lag).sum::<u64>();
                }
            }
            quiet = if left == 0 { quiet + 1 } else { 0 };
            (quiet == 2).then_some(())
        })
        .await;
    }
}

fn secret_of(project: &str) -> String {
    format!("the-key-of-{project}")
}
