//! Bots without a public address: a server that keeps updates as Telegram does, and what becomes of them.

use super::{House, now, until};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use bellwether::{
    backends::{Backends, ensure_key},
    config::Config,
    metrics::Metrics,
    runtime::{clock::Clock, definitions::Definitions, follow::Follower},
    serve::{Instance, Role},
    updates::Updates,
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{Topic, codec::encode, records::DefinitionSet};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path as File,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{net::TcpListener, sync::Notify};
use tokio_util::sync::CancellationToken;

/// Updates as Telegram keeps them: until somebody asks for one that comes after.
#[derive(Default)]
struct Kept {
    updates: Vec<Value>,
    /// Calls of `getUpdates` that wait.
    waiting: usize,
    /// Calls that met another one.
    conflicts: usize,
    /// Answers nothing but 502 to whoever asks for what comes after this update, and so would confirm it.
    deaf_from: Option<i64>,
    has_webhook: bool,
}

#[derive(Clone, Default)]
struct Telegram {
    kept: Arc<Mutex<Kept>>,
    news: Arc<Notify>,
}

impl Telegram {
    async fn start() -> (Self, SocketAddr) {
        let telegram = Self::default();
        let router = Router::new().route("/bot1:A/{method}", axum::routing::post(answer)).with_state(telegram.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (telegram, address)
    }

    /// Something happens: `what` beside its number.
    fn tell(&self, id: i64, mut what: Value) {
        what["update_id"] = id.into();
        self.kept.lock().unwrap().updates.push(what);
        self.news.notify_waiters();
    }

    fn said(&self, id: i64, chat: i64, text: &str) {
        let chat = json!({"id": chat, "type": "private"});
        self.tell(id, json!({"message": {"message_id": id, "date": seconds(), "chat": chat, "text": text}}));
    }

    fn is_confirmed(&self) -> bool {
        self.kept.lock().unwrap().updates.is_empty()
    }
}

fn seconds() -> i64 {
    now().parse().unwrap()
}

/// A call ends when its caller leaves, too.
struct Waiting(Telegram);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.kept.lock().unwrap().waiting -= 1;
    }
}

async fn answer(State(telegram): State<Telegram>, Path(method): Path<String>, Json(asked): Json<Value>) -> Response {
    let ok = |result: Value| Json(json!({"ok": true, "result": result})).into_response();
    let refused = |code: u16, words: &str| {
        let body = json!({"ok": false, "error_code": code, "description": words});
        (StatusCode::from_u16(code).unwrap(), Json(body)).into_response()
    };
    match method.as_str() {
        "getUpdates" => {}
        "sendMessage" => return ok(json!({"message_id": 1, "date": 1, "chat": {"id": asked["chat_id"]}})),
        _ => return refused(404, "Not Found"),
    }
    let patience = Duration::from_secs(asked["timeout"].as_u64().unwrap());
    let waiting = {
        let mut kept = telegram.kept.lock().unwrap();
        if kept.has_webhook {
            return refused(409, "Conflict: can't use getUpdates method while webhook is active");
        }
        if let Some(offset) = asked["offset"].as_i64() {
            if kept.deaf_from.is_some_and(|last| offset > last) {
                return StatusCode::BAD_GATEWAY.into_response();
            }
            kept.updates.retain(|update| update["update_id"].as_i64().unwrap() >= offset);
        }
        if patience.is_zero() {
            return ok(Value::from(kept.updates.clone()));
        }
        if kept.waiting > 0 {
            kept.conflicts += 1;
            return refused(409, "Conflict: terminated by other getUpdates request");
        }
        kept.waiting += 1;
        Waiting(telegram.clone())
    };
    let arrived = async {
        loop {
            let news = telegram.news.notified();
            let updates = waiting.0.kept.lock().unwrap().updates.clone();
            if !updates.is_empty() {
                return updates;
            }
            news.await;
        }
    };
    ok(Value::from(tokio::time::timeout(patience, arrived).await.unwrap_or_default()))
}

fn definitions(folder: &File, at: SocketAddr) -> Value {
    fs::write(folder.join("token"), "1:A").unwrap();
    let bot = json!({"kind": "telegram", "bot_token": {"file": folder.join("token")}, "updates": "poll", "username": "shop_bot",
        "base_url": format!("http://{at}")});
    json!({
        "project": {"name": "shop", "default_locale": "en"},
        "providers": {"tg": bot},
        "templates": {"telegram": {"channels": {"telegram": {"en": {"text": "Hi {{ name }}"}}}, "sample": {"name": "Ana"}}},
        "flows": {"telegram": {"on": "to.telegram", "notify": {"template": "telegram", "lane": "transactional"}}},
    })
}

async fn house(folder: &File) -> (Instance, House) {
    let mut config =
        Config { data_dir: folder.join("data"), default_project: Some("shop".into()), ..Config::default() };
    config.listen = ([127, 0, 0, 1], 0).into();
    let key_file = ensure_key(&mut config).unwrap().unwrap();
    let instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await.unwrap();
    let base = format!("http://{}", instance.address.unwrap());
    (instance, House { client: Client::new(), base, key: fs::read_to_string(key_file).unwrap() })
}

/// Commands to members that are on the log.
async fn commands(instance: &Instance) -> u64 {
    instance.backends.log.bounds(Topic::Members).await.unwrap().iter().map(|bounds| bounds.end).sum()
}

async fn opted(house: &House, member: &str, is_in: bool) {
    until("the opt-in", async || (house.member(member).await["opt_ins"]["telegram"] == is_in).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bot_without_a_public_address_hears_all_the_same_and_once() {
    let folder = tempfile::tempdir().unwrap();
    let (telegram, at) = Telegram::start().await;
    let (instance, house) = house(folder.path()).await;
    // Said before anybody asked: Telegram keeps it.
    telegram.said(1, 7, "Hi");
    assert_eq!(house.call(Method::PUT, "/v1/definitions", definitions(folder.path(), at)).await.0, 200);
    assert_eq!(house.call(Method::PUT, "/v1/members/ana", json!({})).await.0, 201);
    assert_eq!(house.call(Method::PUT, "/v1/members/team", json!({"telegram": "8"})).await.0, 201);
    let (_, link) = house.call(Method::POST, "/v1/members/ana/links", json!({"channel": "telegram"})).await;

    // In one answer: what is said after the link is said by the one whom it linked.
    let start = format!("/start {}", link["token"].as_str().unwrap());
    telegram.said(2, 7, &start);
    telegram.said(3, 7, "/stop");
    opted(&house, "ana", false).await;
    assert_eq!(house.member("ana").await["addresses"]["telegram"][0]["address"], "7");
    telegram.said(4, 7, "/start");
    opted(&house, "ana", true).await;
    let event = house.event("tg-1", "ana", "telegram").await;
    house.status(&event, "ana", "sent").await;
    let member = |status: &str| {
        let chat = json!({"id": 7, "type": "private"});
        json!({"my_chat_member": {"date": seconds(), "chat": chat, "new_chat_member": {"status": status}}})
    };
    telegram.tell(5, member("kicked"));
    opted(&house, "ana", false).await;
    telegram.tell(6, member("member"));
    opted(&house, "ana", true).await;
    let chat = json!({"id": 8, "type": "group"});
    telegram
        .tell(7, json!({"message": {"message_id": 9, "date": seconds(), "chat": chat, "migrate_to_chat_id": -1007}}));
    until("the group's new chat", async || {
        let group = house.member("team").await;
        (group["addresses"]["telegram"].as_array()?.iter().map(|one| &one["address"]).eq(["-1007"])).then_some(())
    })
    .await;

    // An orderly end confirms what was taken: nothing is heard again, and what is said meanwhile is not lost.
    let before = commands(&instance).await;
    instance.stop().await.unwrap();
    assert!(telegram.is_confirmed());
    telegram.said(8, 7, "/stop");
    let (instance, house) = self::house(folder.path()).await;
    opted(&house, "ana", false).await;
    assert_eq!(commands(&instance).await, before + 2, "that she wrote, and that she stopped");

    // An end that Telegram did not hear of: the same is told again, and changes nothing.
    telegram.kept.lock().unwrap().deaf_from = Some(10);
    telegram.said(9, 7, "/start");
    opted(&house, "ana", true).await;
    telegram.said(10, 7, "STOP");
    opted(&house, "ana", false).await;
    let known = house.member("ana").await;
    instance.stop().await.unwrap();
    assert!(!telegram.is_confirmed());
    telegram.kept.lock().unwrap().deaf_from = None;
    let (instance, house) = self::house(folder.path()).await;
    until("it was heard again", async || telegram.is_confirmed().then_some(())).await;
    let again = house.member("ana").await;
    assert_eq!((&again["opt_ins"], &again["addresses"]), (&known["opt_ins"], &known["addresses"]));
    instance.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_process_asks_and_another_takes_over() {
    let folder = tempfile::tempdir().unwrap();
    let (telegram, at) = Telegram::start().await;
    let config = Config { data_dir: folder.path().join("data"), ..Config::default() };
    let metrics = Metrics::new().unwrap();
    let backends = Backends::open(&config, &metrics).await.unwrap();
    let (log, clock) = (&backends.log, Clock::system());
    let publish = async |version: i32, document: Value| {
        let (project, actor, document) = ("shop".into(), "test".into(), document.to_string());
        let set = DefinitionSet { project, version, published_at: clock.now(), actor, document };
        let (key, payload) = (b"shop".to_vec(), encode(&set).unwrap());
        log.append(vec![Append { topic: Topic::Definitions, key, payload, headers: vec![] }]).await.unwrap();
    };
    publish(1, definitions(folder.path(), at)).await;
    let all = CancellationToken::new();
    let reader = Definitions::default();
    let projects = reader.projects();
    let follower = Follower::load(Arc::clone(log), Topic::Definitions, reader, all.clone()).await.unwrap();
    let following = tokio::spawn(follower.run());
    let ends = [CancellationToken::new(), CancellationToken::new()];
    let processes = ends.clone().map(|stop| {
        let (log, store) = (Arc::clone(log), Arc::clone(&backends.store));
        let updates =
            Updates { log, store, projects: projects.clone(), clock: clock.clone(), metrics: metrics.clone(), stop };
        tokio::spawn(updates.run())
    });
    let heard = async |id: i64| {
        telegram.said(id, 7, "Hi");
        until("it is confirmed", async || telegram.is_confirmed().then_some(())).await;
    };
    heard(1).await;
    let mut processes = processes.into_iter();
    // Whichever of the two it was that asked.
    ends[0].cancel();
    processes.next().unwrap().await.unwrap().unwrap();
    heard(2).await;
    assert_eq!(telegram.kept.lock().unwrap().conflicts, 0, "two asked at once");

    // A webhook is set: it is said where an operator looks, and nothing is asked any more.
    let refused = || metrics.text().unwrap().contains("bellwether_updates_refused{provider=\"shop/tg\"} 1");
    assert!(!refused());
    telegram.kept.lock().unwrap().has_webhook = true;
    telegram.news.notify_waiters();
    telegram.said(3, 7, "Hi");
    until("the bot is refused", async || refused().then_some(())).await;
    // A change of the provider asks anew, without waiting.
    telegram.kept.lock().unwrap().has_webhook = false;
    let mut document = definitions(folder.path(), at);
    document["providers"]["tg"]["timeout_seconds"] = 9.into();
    publish(2, document).await;
    heard(4).await;
    assert!(!refused());
    ends[1].cancel();
    processes.next().unwrap().await.unwrap().unwrap();
    all.cancel();
    following.await.unwrap().unwrap();
}
