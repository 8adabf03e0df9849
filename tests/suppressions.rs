//! The list of suppressed addresses through the whole pipeline, embedded: what a provider says of an address outlives the member who had it, what
//! an operator says meets the members who will have it, and what is lifted is sent to again.
#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use axum::{Router, body::Bytes, extract::State, http::StatusCode};
use house::House;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

const PROJECT: &str = "shop";
const DEAD: &str = "+34600111222";
const ALIVE: &str = "+34600111333";

/// Numbers that Twilio was asked to send to.
type Sent = Arc<Mutex<Vec<String>>>;

/// Twilio, for which one number does not exist when it is asked first.
async fn twilio(State(sent): State<Sent>, body: Bytes) -> (StatusCode, String) {
    let url = reqwest::Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(&body))).unwrap();
    let to = url.query_pairs().find(|(name, _)| name == "To").unwrap().1.into_owned();
    let first = {
        let mut sent = sent.lock().unwrap();
        sent.push(to.clone());
        sent.iter().filter(|number| **number == to).count() == 1
    };
    if to == DEAD && first {
        return (StatusCode::BAD_REQUEST, json!({"code": 21614, "message": "no mobile", "status": 400}).to_string());
    }
    (StatusCode::CREATED, json!({"sid": "SM1", "status": "queued"}).to_string())
}

async fn start(folder: &std::path::Path) -> (House, Sent) {
    let sent = Sent::default();
    let router = Router::new().fallback(twilio).with_state(Arc::clone(&sent));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let house = House::start(folder, &[PROJECT.into()], |_| {}).await;
    std::fs::write(folder.join("token"), "t").unwrap();
    let provider = json!({"kind": "twilio", "account_sid": "AC1", "auth_token": {"file": folder.join("token")}, "from": "+15550002222",
        "base_url": format!("http://{at}")});
    house.define(PROJECT, "sms", &provider, &json!({"text": "Hi"})).await;
    (house, sent)
}

fn path(address: &str) -> String {
    format!("/v1/suppressions/sms/{address}")
}

/// Sends an event and waits for what becomes of it.
async fn sends(house: &House, id: &str, member: &str, status: &str) {
    let event = house.event(PROJECT, id, member).await;
    house.status(PROJECT, &event, member, status).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_address_is_not_sent_to_whoever_has_it_until_it_is_lifted() {
    let folder = tempfile::tempdir().unwrap();
    let (house, sent) = start(folder.path()).await;
    house.put_member(PROJECT, "ana", &json!({"phone": DEAD})).await;
    house.put_member(PROJECT, "eva", &json!({"phone": DEAD})).await;
    sends(&house, "1", "ana", "failed").await;
    house.at_rest().await;
    let listed = house.get(PROJECT, "/v1/suppressions?channel=sms").await;
    let one = &listed["suppressions"][0];
    assert_eq!(
        (&one["address"], &one["source"], &one["reason"]),
        (&json!(DEAD), &json!("provider main"), &json!("21614: `To` is no mobile number"))
    );
    sends(&house, "2", "eva", "suppressed").await;

    assert_eq!(house.call(PROJECT, Method::DELETE, "/v1/members/ana", Value::Null).await.0, 204);
    for member in ["ana", "new"] {
        house.put_member(PROJECT, member, &json!({"phone": DEAD})).await;
        let shown = house.get(PROJECT, &format!("/v1/members/{member}")).await;
        let address = &shown["addresses"]["sms"][0];
        assert_eq!((&address["state"], &address["reason"]), (&json!("suppressed"), &one["reason"]), "{member}");
        sends(&house, &format!("3-{member}"), member, "suppressed").await;
    }
    assert_eq!(sent.lock().unwrap().len(), 1, "the provider was asked once");

    assert_eq!(house.call(PROJECT, Method::DELETE, &path(DEAD), Value::Null).await.0, 204);
    for member in ["ana", "new", "eva"] {
        sends(&house, &format!("4-{member}"), member, "sent").await;
    }
    house.instance.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operators_word_meets_the_members_of_today_and_of_tomorrow() {
    let folder = tempfile::tempdir().unwrap();
    let (house, sent) = start(folder.path()).await;
    house.put_member(PROJECT, "ana", &json!({"phone": ALIVE})).await;
    let (status, put) = house.call(PROJECT, Method::PUT, &path(ALIVE), json!({"reason": "by letter"})).await;
    assert_eq!((status, &put["source"]), (201, &json!("operator key-shop")), "{put}");
    // The answer came once the member's profile had it.
    sends(&house, "1", "ana", "suppressed").await;

    let file = format!("channel,address,reason\nsms,{DEAD},never theirs\nsms,none,\n");
    let request = house.client.post(format!("{}/v1/suppressions/import", house.base)).bearer_auth("the-key-of-shop");
    let report: Value =
        request.header("content-type", "text/csv").body(file).send().await.unwrap().json().await.unwrap();
    assert_eq!(
        (&report["accepted"], &report["rejected"], &report["all_applied"]),
        (&json!(1), &json!(1), &json!(true)),
        "{report}"
    );
    house.put_member(PROJECT, "later", &json!({"phone": DEAD})).await;
    sends(&house, "2", "later", "suppressed").await;

    let (_, export) = house.call(PROJECT, Method::GET, "/v1/suppressions/export", Value::Null).await;
    let Value::String(export) = export else { panic!("{export}: two lines are no JSON document") };
    for address in [ALIVE, DEAD] {
        assert_eq!(house.call(PROJECT, Method::DELETE, &path(address), Value::Null).await.0, 204);
    }
    sends(&house, "3", "ana", "sent").await;
    sends(&house, "3", "later", "failed").await;
    // The provider has just said so; lifted again, and everything as it was by the export.
    house.at_rest().await;
    assert_eq!(house.call(PROJECT, Method::DELETE, &path(DEAD), Value::Null).await.0, 204);
    let request = house.client.post(format!("{}/v1/suppressions/import", house.base)).bearer_auth("the-key-of-shop");
    let request = request.header("content-type", "application/x-ndjson").body(export.clone());
    assert_eq!(request.send().await.unwrap().status(), 200);
    let (_, again) = house.call(PROJECT, Method::GET, "/v1/suppressions/export", Value::Null).await;
    assert_eq!(again, Value::String(export));
    for member in ["ana", "later"] {
        sends(&house, &format!("4-{member}"), member, "suppressed").await;
    }
    assert_eq!(*sent.lock().unwrap(), [ALIVE, DEAD]);
    house.instance.stop().await.unwrap();
}

/// Whoever adds an address while it is being suppressed: one of the two sees the other, every time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_is_added_while_it_is_suppressed_ends_suppressed() {
    let folder = tempfile::tempdir().unwrap();
    let (house, _) = start(folder.path()).await;
    for n in 0..20 {
        let (member, address) = (format!("m{n}"), format!("+3460011{n:04}"));
        let (reason, fields) = (json!({"reason": "r"}), json!({"phone": address}));
        let path = path(&address);
        let put = house.call(PROJECT, Method::PUT, &path, reason);
        tokio::join!(put, house.put_member(PROJECT, &member, &fields));
        let profile = house.profile(PROJECT, &member).await.unwrap();
        let states: Vec<_> = profile.addresses.values().flatten().map(|a| a.state).collect();
        assert_eq!(states, [bellwether_schemas::member::AddressState::Suppressed], "{n}");
    }
    house.instance.stop().await.unwrap();
}
