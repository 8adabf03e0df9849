//! Several providers of a channel, and several instances: who fails gives its messages to the next and is tried again; whom one instance was told to
//! leave alone, all leave alone. The instances share an embedded log and store, the providers are counted here.
#![allow(clippy::unwrap_used, missing_docs)]

use async_trait::async_trait;
use bellwether::{
    backends::Backends,
    config::Config,
    demo::world::World,
    metrics::Metrics,
    runtime::{clock::Clock, sinks::Sinks},
    serve::{Instance, Role},
};
use bellwether_connectors::channels::{Accepted, ConfigError, Message, SendError, Sink};
use bellwether_schemas::{
    Channel,
    definitions::{Definitions, Provider},
    records::ErrorKind,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

/// Longest wait for anything: it ends the test, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// What every provider answers now, and what it took: one for all instances.
#[derive(Debug, Default)]
struct Outside {
    answers: Mutex<BTreeMap<String, SendError>>,
    calls: Mutex<BTreeMap<String, usize>>,
    taken: Mutex<BTreeMap<String, Vec<String>>>,
}

impl Outside {
    fn answer(&self, provider: &str, error: Option<SendError>) {
        let mut answers = self.answers.lock().unwrap();
        match error {
            Some(error) => drop(answers.insert(provider.into(), error)),
            None => drop(answers.remove(provider)),
        }
    }
    fn calls(&self, provider: &str) -> usize {
        self.calls.lock().unwrap().get(provider).copied().unwrap_or(0)
    }
    fn taken(&self, provider: &str) -> usize {
        self.taken.lock().unwrap().get(provider).map_or(0, Vec::len)
    }
}

#[derive(Debug)]
struct Door {
    name: String,
    outside: Arc<Outside>,
}

#[async_trait]
impl Sink for Door {
    fn channel(&self) -> Channel {
        Channel::Email
    }
    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        *self.outside.calls.lock().unwrap().entry(self.name.clone()).or_default() += 1;
        if let Some(error) = self.outside.answers.lock().unwrap().get(&self.name) {
            return Err(error.clone());
        }
        assert_eq!(message.reference.provider, self.name, "receipts must name whom it went by");
        self.outside.taken.lock().unwrap().entry(self.name.clone()).or_default().push(message.to.clone());
        Ok(Accepted::default())
    }
    async fn check(&self) -> Result<(), SendError> {
        Ok(())
    }
}

struct Cluster {
    outside: Arc<Outside>,
    instances: Vec<Instance>,
    world: World,
}

impl Cluster {
    async fn start(folder: &Path, count: usize, providers: Value) -> Self {
        let mut world = World::start(folder, "shop").await.unwrap();
        let mut config =
            Config { listen: ([127, 0, 0, 1], 0).into(), data_dir: folder.join("data"), ..Config::default() };
        world.configure(&mut config);
        let outside = Arc::<Outside>::default();
        let metrics = Metrics::new().unwrap();
        let backends = Backends::open(&config, &metrics).await.unwrap();
        let mut instances = Vec::new();
        for _ in 0..count {
            let behind = Arc::clone(&outside);
            let build = move |provider: &Provider| -> Result<Arc<dyn Sink>, ConfigError> {
                let name = provider.settings["host"].as_str().unwrap().to_owned();
                Ok(Arc::new(Door { name, outside: Arc::clone(&behind) }))
            };
            let metrics = Metrics::new().unwrap();
            let sinks = Sinks::with(metrics.clone(), Clock::system(), Box::new(build));
            let roles = Role::ALL.into_iter().collect();
            instances.push(Instance::start_on(&config, &roles, backends.clone(), metrics, sinks).await.unwrap());
        }
        world.connect(instances[0].address.unwrap());
        let definitions: Definitions = serde_json::from_value(json!({
            "project": {"name": "shop", "default_locale": "en"},
            "providers": providers,
            "templates": {"note": {"channels": {"email": {"en": {"subject": "Note", "text": "A note."}}}}},
            "flows": {"note": {"on": "note", "notify": {"template": "note", "lane": "transactional"}}},
        }))
        .unwrap();
        world.publish(&definitions).await.unwrap();
        let members = (0..200).map(|n| format!("m{n},m{n}@example.com\n")).collect::<String>();
        world.import_csv(format!("client_user_id,email\n{members}").into_bytes()).await.unwrap();
        Self { outside, instances, world }
    }

    /// One event for each of so many members.
    async fn feed(&self, source: &str, count: usize) {
        let event = |n| {
            format!(
                r#"{{"specversion":"1.0","id":"{n}","source":"{source}","type":"note","subject":"m{n}","data":{{}}}}"#
            )
        };
        let events: Vec<String> = (0..count).map(event).collect();
        assert_eq!(self.world.post_events(&events).await.unwrap().0 as usize, count);
    }

    /// A provider's state, as every instance tells it.
    async fn states(&mut self, provider: &str) -> Vec<String> {
        let mut states = Vec::new();
        for instance in &self.instances {
            self.world.connect(instance.address.unwrap());
            let answer = self.world.get("/v1/channels").await.unwrap();
            let all = answer["channels"][0]["providers"].as_array().unwrap().clone();
            let one = all.into_iter().find(|p| p["name"] == provider).unwrap();
            states.push(one["state"].as_str().unwrap().to_owned());
        }
        states
    }

    async fn until_all_tell(&mut self, provider: &str, state: &str) {
        let begun = Instant::now();
        loop {
            let states = self.states(provider).await;
            if states.iter().all(|told| told == state) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{provider} is {states:?}, not {state}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(mut self) {
        for instance in &self.instances {
            instance.stopper().cancel();
        }
        for instance in &mut self.instances {
            instance.wait().await.unwrap();
        }
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn provider(host: &str, more: Value) -> Value {
    let mut provider = json!({"kind": "smtp", "host": host, "security": "none", "from_address": "shop@example.com", "backoff_ms": 100});
    provider.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    provider
}

#[tokio::test(flavor = "multi_thread")]
async fn who_refuses_our_account_gives_its_messages_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let providers = json!({
        "a": provider("a", json!({"max_in_flight": 4})), "b": provider("b", json!({})), "spare": provider("spare", json!({"weight": 0})),
    });
    let mut cluster = Cluster::start(folder.path(), 1, providers).await;
    cluster.outside.answer("a", Some(SendError::new(ErrorKind::Unauthorized, "535 who are you")));
    cluster.feed("/1", 200).await;
    let outside = Arc::clone(&cluster.outside);
    until("all by b", || outside.taken("b") == 200).await;
    // The calls that were in flight together, and no more: the rest was rerouted, whether it was claimed or not.
    assert!((1..=4).contains(&outside.calls("a")), "{} calls", outside.calls("a"));
    assert_eq!(outside.calls("spare"), 0, "it stands in where no other can");
    cluster.until_all_tell("a", "stopped").await;

    cluster.outside.answer("b", Some(SendError::new(ErrorKind::Unauthorized, "535 you neither")));
    cluster.feed("/2", 200).await;
    until("all by spare", || outside.taken("spare") == 200).await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_fails_too_often_is_taken_out_and_probed_back_in() {
    let folder = tempfile::tempdir().unwrap();
    let providers = json!({"a": provider("a", json!({"max_in_flight": 8})), "b": provider("b", json!({}))});
    let mut cluster = Cluster::start(folder.path(), 1, providers).await;
    cluster.outside.answer("a", Some(SendError::new(ErrorKind::Transient, "421 not now")));
    cluster.feed("/1", 200).await;
    let outside = Arc::clone(&cluster.outside);
    until("all by b", || outside.taken("b") == 200).await;
    let failed = outside.calls("a");
    assert!(failed >= 10, "ten failures stop a provider, and {failed} calls failed");
    assert!(failed < 60, "{failed} calls to a provider that fails every time: nothing was rerouted");

    // It works again: one message tries it, then it has its part as before.
    cluster.outside.answer("a", None);
    let mut round = 1;
    while outside.taken("a") == 0 {
        round += 1;
        assert!(round < 600, "nobody tried it again");
        cluster.feed(&format!("/{round}"), 20).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    cluster.until_all_tell("a", "ok").await;
    let before = outside.taken("a");
    cluster.feed("/last", 200).await;
    until("the last of all", || outside.taken("a") + outside.taken("b") == 200 + (round - 1) * 20 + 200).await;
    let part = outside.taken("a") - before;
    assert!((60..=140).contains(&part), "{part} of 200 went by a: its weight is a half");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_one_instance_was_told_holds_them_all() {
    const WAIT: Duration = Duration::from_secs(4);
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(folder.path(), 2, json!({"a": provider("a", json!({}))})).await;
    let throttled = SendError { after: Some(WAIT), ..SendError::new(ErrorKind::Throttled, "450 too fast") };
    cluster.outside.answer("a", Some(throttled));
    cluster.feed("/1", 1).await;
    let outside = Arc::clone(&cluster.outside);
    until("the first call", || outside.calls("a") == 1).await;
    let told = Instant::now();
    cluster.outside.answer("a", None);
    cluster.until_all_tell("a", "held").await;
    // Both instances own partitions; neither calls, although only one of them was told.
    cluster.feed("/2", 200).await;
    while told.elapsed() < WAIT - Duration::from_millis(500) {
        assert_eq!(outside.calls("a"), 1, "called {:?} after it said to wait", told.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("all of it, once the wait is over", || outside.taken("a") == 201).await;
    cluster.until_all_tell("a", "ok").await;
    cluster.end().await;
}
