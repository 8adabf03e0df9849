//! Members through the whole pipeline, embedded: found by an attribute, and two who become one.
#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use bellwether_schemas::tables::{AddressRow, AttributeRow};
use house::House;
use reqwest::Method;
use serde_json::{Value, json};

const PROJECT: &str = "shop";

async fn search_by(house: &House, names: &[&str]) {
    let project = json!({"name": PROJECT, "default_locale": "en", "search": names});
    let document = json!({"project": project, "providers": {}, "templates": {}, "flows": {}});
    let (status, answer) = house.call(PROJECT, Method::PUT, "/v1/definitions", document).await;
    assert_eq!(status, 200, "{answer:#}");
}

/// Who has a value.
async fn found(house: &House, name: &str, value: &str) -> Vec<String> {
    let answer = house.get(PROJECT, &format!("/v1/members?attribute={name}&value={value}")).await;
    let members = answer["members"].as_array().unwrap_or_else(|| panic!("{answer:#}"));
    members.iter().map(|member| member["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_become_one_who_is_found_by_what_both_had() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::start(folder.path(), &[PROJECT.into()], |_| {}).await;
    search_by(&house, &["tier", "city"]).await;
    let guest = json!({"email": "guest@example.com", "attributes": {"tier": "silver", "city": "Rome"}, "opt_ins": {"sms": false}});
    house.put_member(PROJECT, "guest", &guest).await;
    let ana = json!({"email": "ana@example.com", "attributes": {"tier": "gold"}, "opt_ins": {"sms": true}});
    house.put_member(PROJECT, "ana", &ana).await;
    assert_eq!(found(&house, "city", "Rome").await, ["guest"]);

    // Wherever the two ids are kept, the answer is what both came to.
    let (status, answer) = house.call(PROJECT, Method::POST, "/v1/members/ana/merge", json!({"from": "guest"})).await;
    assert_eq!(status, 200, "{answer:#}");
    assert_eq!(answer["attributes"], json!({"tier": "gold", "city": "Rome"}), "{answer:#}");
    assert_eq!((&answer["opt_ins"], &answer["email"]), (&json!({"sms": false}), &json!("ana@example.com")));
    assert_eq!(house.call(PROJECT, Method::GET, "/v1/members/guest", Value::Null).await.0, 404);
    let ledger = house.get(PROJECT, "/v1/members/ana/consents").await;
    let last = &ledger["consents"][1];
    assert_eq!(
        (&last["state"], &last["source"], &last["proof"]),
        (&json!("refused"), &json!("merge"), &json!("merged from guest"))
    );

    assert_eq!(
        (found(&house, "city", "Rome").await, found(&house, "tier", "gold").await),
        (vec!["ana".into()], vec!["ana".into()])
    );
    assert!(found(&house, "tier", "silver").await.is_empty());
    let by_address = house.get(PROJECT, "/v1/members?address=guest@example.com").await;
    assert_eq!(by_address["members"][0]["id"], "ana");
    house.at_rest().await;
    assert!(house.all::<AddressRow>().await.iter().all(|row| row.member == "ana"));
    assert!(house.all::<AttributeRow>().await.iter().all(|row| row.member == "ana"));
    house.instance.stop().await.unwrap();
}
