//! The API as its callers see it, over real HTTP against doubles of log and store.

#![allow(clippy::unwrap_used)]

use super::{
    ROUTES,
    test_support::{Answer, House, JSON, NOW, shop},
};
use crate::runtime::deliver::REPLAY_HEADER;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_processors::dead_letters::RETENTION;
use bellwether_schemas::{
    Channel, EventId, NotificationId, Timestamp, Topic,
    codec::encode,
    ids::EntryId,
    member::{Address, Patch, Profile},
    records::{DeadLetter, DefinitionSet, Event, Header, MemberAction, MemberCommand, Reason, Receipt},
    tables::{
        AddressRow, AggregateRow, AttributeRow, CLAIM, ConsentRow, DeadLetterRow, IdempotencyRow, ImportRejectRow,
        ImportRow, LinkRow, MemberRow, SEEN, SENT, SHARDS, StoryRow, SuppressionRow, shard_of,
    },
};
use futures::StreamExt;
use proptest::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};
use std::{sync::atomic::Ordering::SeqCst, time::Duration};
use uuid::Uuid;

fn event(id: &str) -> Value {
    json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "order.placed", "subject": "anna", "data": {"n": 1}})
}

async fn events(house: &House, media_type: &str, body: impl ToString) -> Answer {
    house.call(Method::POST, "/v1/events", "events", &[("content-type", media_type)], body.to_string()).await
}

#[tokio::test]
async fn an_event_is_accepted_in_every_mode_and_is_on_the_log_by_then() {
    let house = House::new().await;
    let structured = events(&house, "application/cloudevents+json; charset=utf-8", event("a")).await;
    let batched = events(&house, "application/cloudevents-batch+json", json!([event("b"), event("c")])).await;
    let headers = [
        JSON,
        ("ce-specversion", "1.0"),
        ("ce-id", "d"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "anna%2Fb"),
    ];
    let binary = house.call(Method::POST, "/v1/events", "events", &headers, r#"{"n": 2}"#).await;
    let by_shape =
        [events(&house, "application/json", event("e")).await, events(&house, JSON.1, json!([event("f")])).await];
    for answer in [&structured, &batched, &binary, &by_shape[0], &by_shape[1]] {
        assert_eq!(answer.status, 202, "{}", answer.body);
        assert_eq!(answer.body["rejected"], json!([]));
    }
    assert_eq!(structured.body["events"][0]["event_id"], EventId::derive("shop", "/shop", "a").to_string());
    let logged: Vec<Event> = house.log.decoded(Topic::Events);
    let ids: Vec<_> = logged.iter().map(|event| event.id.as_str()).collect();
    assert_eq!(ids, ["a", "b", "c", "d", "e", "f"]);
    assert!(logged.iter().all(|event| event.project == "shop" && event.accepted_at == NOW && event.time == NOW));
    let keys: Vec<_> =
        house.log.appended(Topic::Events).into_iter().map(|a| String::from_utf8(a.key).unwrap()).collect();
    assert_eq!((keys[0].as_str(), keys[3].as_str()), ("shop/anna", "shop/anna/b"));
    assert_eq!(logged[3].data, r#"{"n": 2}"#);
    assert_eq!(
        house.told.all(),
        ["accepted shop 1", "accepted shop 2", "accepted shop 1", "accepted shop 1", "accepted shop 1"]
    );
}

#[tokio::test]
async fn a_bad_event_harms_no_neighbour() {
    let house = House::new().await;
    let mut nobody = event("b");
    nobody["subject"] = Value::Null;
    let batch = format!("[{}, {nobody}, 7, {{\"id\": \"\\ud800\"}}, {}]", event("a"), event("c"));
    let answer = events(&house, "application/cloudevents-batch+json", batch).await;
    assert_eq!((answer.status.as_u16(), &answer.body["accepted"]), (202, &json!(2)));
    let rejected: Vec<_> =
        answer.body["rejected"].as_array().unwrap().iter().map(|r| (&r["index"], &r["field"])).collect();
    assert_eq!(rejected, [(&json!(1), &json!("subject")), (&json!(2), &json!("event")), (&json!(3), &json!("id"))]);
    assert!(
        answer.body["rejected"].as_array().unwrap().iter().all(|r| r["remedy"].is_string() && r["detail"].is_string())
    );
    let logged: Vec<Event> = house.log.decoded(Topic::Events);
    assert_eq!(logged.iter().map(|event| event.id.as_str()).collect::<Vec<_>>(), ["a", "c"]);

    let answer = events(&house, "application/cloudevents-batch+json", json!([nobody, 7])).await;
    assert_eq!(answer.problem(422, "body")["rejected"].as_array().unwrap().len(), 2);
    events(&house, JSON.1, &nobody).await.problem(422, "subject");
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused_by_what_is_wrong_with_it() {
    let house = House::with(|limits| {
        limits.events_bytes = 2_000;
        limits.batch_events = 3;
    })
    .await;
    events(&house, JSON.1, "{").await.problem(400, "event");
    events(&house, JSON.1, "").await.problem(400, "event");
    events(&house, JSON.1, "[1,").await.problem(400, "body");
    events(&house, JSON.1, "[1,2,3,4]").await.problem(400, "body");
    events(&house, "text/plain", event("a")).await.problem(415, "Content-Type");
    events(&house, "application/cloudevents+avro", event("a")).await.problem(415, "Content-Type");
    events(&house, JSON.1, "x".repeat(2_001)).await.problem(413, "body");
    let endless = futures::stream::repeat_with(|| Ok::<_, std::io::Error>(vec![b' '; 500])).take(10);
    let chunked = reqwest::Body::wrap_stream(endless);
    house.call(Method::POST, "/v1/events", "events", &[JSON], chunked).await.problem(413, "body");
    assert!(house.log.appended(Topic::Events).is_empty());
}

#[tokio::test]
async fn an_event_is_not_acknowledged_while_the_log_is_down() {
    let house = House::new().await;
    house.log.down.store(true, SeqCst);
    let answer = events(&house, JSON.1, event("a")).await;
    assert_eq!((answer.status.as_u16(), answer.headers["retry-after"].to_str().unwrap()), (503, "1"));
    assert!(!answer.is_problem().to_string().contains("10.0.0.7"), "what the log says of itself stays inside");
    assert!(house.told.all().is_empty());
}

#[tokio::test]
async fn a_request_that_hangs_is_ended() {
    let house = House::with(|limits| limits.request_timeout = Duration::from_millis(50)).await;
    house.log.stuck.store(true, SeqCst);
    let answer = events(&house, JSON.1, event("a")).await;
    assert_eq!(answer.status, 503);
    answer.is_problem();
}

#[tokio::test]
async fn every_route_wants_a_known_key_with_its_scope() {
    let house = House::new().await;
    let open = ["/livez", "/readyz", "/metrics", "/openapi.json"];
    let scope_of = |path: &str| match path.split('/').nth(2).unwrap_or_default() {
        "events" => "events",
        "members" | "imports" => "members",
        "notifications" => "notifications",
        "stats" => "stats",
        "definitions" => "definitions",
        "dead-letters" => "dead_letters",
        "suppressions" => "suppressions",
        _ => "",
    };
    for (path, methods) in ROUTES {
        let scope = scope_of(path);
        let concrete = path.replace("{id}", &Uuid::nil().to_string()).replace("{provider}", "p");
        for method in *methods {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let call = async |key: &str| {
                house.call(method.clone(), &concrete, key, &[("content-type", "text/csv")], "id\n").await
            };
            if open.contains(path) {
                assert_eq!(call("").await.status, 200, "{path}");
                continue;
            }
            if scope.is_empty() {
                continue; // Webhooks are signed instead.
            }
            for key in ["", "nobody"] {
                let answer = call(key).await;
                answer.problem(401, "Authorization");
                assert_eq!(answer.headers["www-authenticate"], "Bearer");
            }
            let other = if scope == "events" { "stats" } else { "events" };
            let answer = call(other).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.is_problem()["scope"]),
                (403, &json!(scope)),
                "{method} {path}"
            );
            assert!(answer.body["remedy"].as_str().unwrap().contains(scope));
            let answer = call(scope).await;
            assert!(!matches!(answer.status.as_u16(), 401 | 403 | 405), "{method} {path}: {}", answer.body);
            assert_ne!(answer.body["field"], "path", "{path} is routed");
        }
        for method in ["get", "put", "post", "delete", "patch"].iter().filter(|method| !methods.contains(method)) {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let answer = house.call(method.clone(), &concrete, "all", &[], "").await;
            assert_eq!(answer.status, 405, "{method} {path}");
            answer.is_problem();
        }
    }
    house.get("/v1/nothing").await.problem(404, "path");
}

#[tokio::test]
async fn a_member_is_created_changed_read_and_removed() {
    let house = House::new().await;
    let path = "/v1/members/anna%2Fb";
    house.get(path).await.problem(404, "id");
    let answer = house
        .put(path, &json!({"email": "Anna@Example.org", "phone": "0151 12345678", "attributes": {"tier": "gold"}}))
        .await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    assert_eq!((&answer.body["id"], &answer.body["email"]), (&json!("anna/b"), &json!("Anna@example.org")));
    assert_eq!(answer.body["phone"], "+4915112345678");
    let answer = house.put(path, &json!({"locale": "de-de", "phone": null})).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["locale"], &answer.body["phone"]),
        (200, &json!("de-DE"), &Value::Null)
    );
    let read = house.get(path).await;
    assert_eq!((read.status.as_u16(), &read.body), (200, &answer.body));
    let foreign = house.call(Method::GET, path, "other", &[], "").await;
    foreign.problem(404, "id");

    let removed = house.call(Method::DELETE, path, "members", &[], "").await;
    assert_eq!((removed.status.as_u16(), removed.body), (204, json!("")));
    house.get(path).await.problem(404, "id");
    house.call(Method::DELETE, path, "members", &[], "").await.problem(404, "id");

    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    assert_eq!(
        commands.iter().map(|c| c.action).collect::<Vec<_>>(),
        [MemberAction::Upsert, MemberAction::Upsert, MemberAction::Delete]
    );
    assert!(commands.iter().all(|c| c.project == "shop" && c.member == "anna/b" && c.at == NOW));
    assert_eq!((commands[0].actor.as_str(), commands[2].actor.as_str()), ("all", "members"));
    let patch: Patch = serde_json::from_str(commands[1].patch.as_deref().unwrap()).unwrap();
    assert_eq!(
        patch,
        Patch { locale: Some(Some("de-DE".into())), addresses: [(Channel::Sms, vec![])].into(), ..Patch::default() }
    );
}

#[tokio::test]
async fn a_member_is_written_with_what_shows_it() {
    let house = House::new().await;
    let said = json!({"opt_ins": {"email": true}, "proof": " form `footer` "});
    let answer = house.put("/v1/members/anna", &said).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    house.put("/v1/members/anna", &json!({"opt_ins": {"email": true}, "proof": ""})).await;
    house.put("/v1/members/anna", &json!({"proof": 7})).await.problem(422, "proof");
    house.put("/v1/members/anna", &json!({"proof": "x".repeat(4_001)})).await.problem(422, "proof");
    let csv = "id,opt_ins.email,proof\nbert,true,\ncleo,true,\"stall, 3 May\"\n";
    let import = house.call(Method::POST, "/v1/members/import", "members", &[("content-type", "text/csv")], csv).await;
    let place = format!("import {}, line 2", import.body["import"].as_str().unwrap());
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    let proofs: Vec<_> = commands.iter().map(|command| command.proof.as_deref()).collect();
    assert_eq!(proofs, [Some("form `footer`"), None, Some(place.as_str()), Some("stall, 3 May")]);
}

#[tokio::test]
async fn a_member_is_read_as_routing_sees_them() {
    let house = House::new().await;
    let heard = Timestamp(NOW.0 + 5_000);
    let at = |seconds: i64| Timestamp(NOW.0 + seconds * 1_000);
    let address = |text: &str| Address { heard: Some(heard), ..Address::active(text.into(), NOW) };
    let kept = |kind: &str, id: &str, value: Value| {
        house.store.put(MemberRow { decision: Some(value.to_string()), ..MemberRow::empty("shop", "anna", kind, id) });
    };
    kept(SEEN, "sms", json!({"last_sent": at(1), "last_delivered": at(2)}));
    kept(SEEN, "web_push", json!({"last_sent": at(1), "last_delivered": at(9), "last_click": at(3)}));
    let event = EventId::derive("shop", "/s", "1");
    let notification = NotificationId::derive(event, "tips", 1, 0, "anna");
    let sent = |at, channel: &str| json!({"id": notification, "at": at, "channel": channel, "category": "marketing"});
    kept(SENT, "bulk", json!([sent(at(3), "sms")]));
    kept(SENT, "transactional", json!([sent(at(1), "email")]));
    kept(CLAIM, &notification.to_string(), json!({}));
    let missed = Address { misses: vec![at(4)], heard: Some(at(2)), ..Address::active("12".into(), NOW) };
    let addresses = [(Channel::Telegram, vec![missed]), (Channel::Sms, vec![address("+4915112345678")])].into();
    let profile = Profile { addresses, created_at: NOW, updated_at: NOW, ..Profile::default() };
    house.store.put(profile.into_row("shop", "anna"));
    let read = house.get("/v1/members/anna").await.body;
    assert_eq!(read["id"], "anna", "{read}");
    let text = |seconds| at(seconds).to_string();
    let engagement = json!({
        "sms": {"last_sent": text(1), "last_delivered": text(2), "last_online": text(5)},
        "web_push": {"last_sent": text(1), "last_delivered": text(9), "last_click": text(3), "last_online": text(9)},
        "telegram": {"last_online": text(2)},
    });
    let telegram = json!({"address": "12", "state": "active", "since": text(0), "heard": text(2), "misses": [text(4)]});
    assert_eq!(read["addresses"]["telegram"], json!([telegram]));
    assert_eq!(read["engagement"], engagement);
    let sent = |seconds, channel: &str| json!({"at": text(seconds), "channel": channel, "category": "marketing", "notification": notification});
    assert_eq!(read["sent"], json!([sent(1, "email"), sent(3, "sms")]));
}

#[tokio::test]
async fn a_bad_member_is_refused_by_field_and_leaves_nothing() {
    let house = House::new().await;
    for (body, field) in [
        (json!({"email": "nobody"}), "email"),
        (json!({"phone": "12"}), "phone"),
        (json!({"time_zone": "Mars/Olympus"}), "time_zone"),
        (json!({"quiet_hours": {"from": "9 pm", "to": "08:00"}}), "quiet_hours.from"),
        (json!({"opt_ins": {"fax": true}}), "opt_ins.fax"),
        (json!({"emial": "a@b.org"}), "emial"),
    ] {
        house.put("/v1/members/anna", &body).await.problem(422, field);
    }
    house.put("/v1/members/anna", &json!([])).await.problem(400, "body");
    house.put(&format!("/v1/members/{}", "x".repeat(257)), &json!({})).await.problem(422, "id");
    house.put("/v1/members/%00", &json!({})).await.problem(422, "id");
    house.put("/v1/members/%ff", &json!({})).await.problem(400, "path");
    assert!(house.log.appended(Topic::Members).is_empty());
}

#[tokio::test]
async fn consent_is_said_with_its_proof_and_the_ledger_is_listed() {
    let house = House::new().await;
    house.put("/v1/members/anna", &json!({"email": "anna@example.org"})).await;
    let path = "/v1/members/anna/consents";
    let good = json!({"channel": "email", "category": "marketing", "state": "given", "proof": "form `footer`", "source": "paper_form"});
    let said = house.post(path, &good).await;
    assert_eq!((said.status.as_u16(), &said.body["id"]), (200, &json!("anna")), "{}", said.body);
    let refusal = json!({"channel": "email", "state": "refused"});
    assert_eq!(house.post(path, &refusal).await.status, 200, "a refusal needs no proof");
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    let told = |n: usize| {
        let MemberCommand { action, channel, category, proof, actor, .. } = &commands[n];
        (*action, *channel, category.as_deref(), proof.as_deref(), actor.as_str())
    };
    let email = Some(Channel::Email);
    assert_eq!(told(1), (MemberAction::OptIn, email, Some("marketing"), Some("form `footer`"), "all via paper_form"));
    assert_eq!(told(2), (MemberAction::OptOut, email, None, None, "all"));
    for (field, value) in [
        ("channel", json!("fax")),
        ("state", json!("perhaps")),
        ("proof", json!(" ")),
        ("category", json!("marketeering")),
        ("category", json!("Our Tips")),
        ("source", json!("by letter")),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        house.post(path, &bad).await.problem(422, field);
    }
    house.post(path, &json!({"channel": "email"})).await.problem(400, "body");
    house.post("/v1/members/nobody/consents", &good).await.problem(404, "id");
    let unknown = json!({"opt_ins": {"email": {"marketeering": false}}});
    house.put("/v1/members/anna", &unknown).await.problem(422, "opt_ins.email.marketeering");
    assert_eq!(house.log.appended(Topic::Members).len(), 3);

    for (applied, category) in [(7, "*"), (7, "marketing"), (8, "locale"), (9, "*")] {
        let preference = (category == "locale").then(|| "null".to_owned());
        house.store.put(ConsentRow {
            project: "shop".into(),
            member: "anna".into(),
            applied,
            channel: if preference.is_some() { "" } else { "email" }.into(),
            category: category.into(),
            at: NOW,
            state: if preference.is_some() { "set" } else { "given" }.into(),
            actor: "shop".into(),
            source: "api".into(),
            address: None,
            proof: preference.is_none().then(|| "form `footer`".into()),
            position: format!("members/0/{applied}"),
            preference,
        });
    }
    let page = house.get(&format!("{path}?limit=2")).await;
    let expected = json!({"at": NOW.to_string(), "channel": "email", "category": "*", "state": "given", "actor": "shop", "source": "api",
        "proof": "form `footer`", "position": "members/0/7"});
    assert_eq!((&page.body["consents"][0], &page.body["consents"][1]["category"]), (&expected, &json!("marketing")));
    let rest = house.get(&format!("{path}?cursor={}", page.body["next"].as_str().unwrap())).await;
    assert_eq!((&rest.body["consents"][1]["position"], &rest.body["next"]), (&json!("members/0/9"), &Value::Null));
    assert_eq!(rest.body["consents"].as_array().unwrap().len(), 2);
    let preferred = json!({"at": NOW.to_string(), "state": "set", "preference": "locale", "value": null,
        "actor": "shop", "source": "api", "position": "members/0/8"});
    assert_eq!(rest.body["consents"][0], preferred);
    let from = house.get(&format!("{path}?limit=3")).await.body["next"].as_str().unwrap().to_owned();
    let behind = house.get(&format!("{path}?cursor={from}")).await;
    assert_eq!(behind.body["consents"][0]["position"], "members/0/9", "a line about preferences can end a page");
    assert_eq!(house.get("/v1/members/nobody/consents").await.body["consents"], json!([]));
    house.get(&format!("{path}?cursor=x")).await.problem(422, "cursor");
    house.get(&format!("{path}?limit=0")).await.problem(422, "limit");
    command(&house, &["members", "consents", "anna"]).await.unwrap();
}

#[tokio::test]
async fn a_member_is_exported_whole_and_erased() {
    let house = House::new().await;
    house.get("/v1/members/anna/export").await.problem(404, "id");
    house.put("/v1/members/anna", &json!({"email": "anna@example.org", "attributes": {"tier": "gold"}})).await;
    let notification = NotificationId::derive(EventId::derive("shop", "/shop", "a"), "welcome", 1, 0, "anna");
    let kept = |kind: &str, id: &str, says: Value| MemberRow {
        updated_at: Some(NOW),
        decision: Some(says.to_string()),
        ..MemberRow::empty("shop", "anna", kind, id)
    };
    house.store.put(kept("claim", &notification.to_string(), json!({"outcome": "routed"})));
    house.store.put(kept("seen", "email", json!({"last_open": 1})));
    let line = |project: &str, id: u128| StoryRow {
        notification: notification.0,
        id: Uuid::from_u128(id),
        project: project.into(),
        member: "anna".into(),
        at: NOW,
        kind: "decision".into(),
        outcome: "routed".into(),
        delivery: None,
        channel: Some("email".into()),
        detail: "{}".into(),
        position: "decisions/0/0".into(),
    };
    house.store.put(line("shop", 1));
    house.store.put(line("other", 2));
    house.store.put(SuppressionRow {
        project: "shop".into(),
        channel: "email".into(),
        shard: shard_of("anna@example.org"),
        address: "anna@example.org".into(),
        reason: "550".into(),
        source: "provider mail".into(),
        since: NOW,
    });
    house.store.put(ConsentRow {
        project: "shop".into(),
        member: "anna".into(),
        applied: 7,
        channel: "email".into(),
        category: "*".into(),
        at: NOW,
        state: "given".into(),
        actor: "shop".into(),
        source: "api".into(),
        address: None,
        proof: Some("form `footer`".into()),
        position: "members/0/7".into(),
        preference: None,
    });
    let export = house.get("/v1/members/anna/export").await;
    assert_eq!(export.status, 200, "{}", export.body);
    let told = |pointer: &str| export.body.pointer(pointer).cloned().unwrap_or_default();
    assert_eq!(told("/member/addresses/email/0/address"), "anna@example.org");
    assert_eq!(told("/member/attributes"), json!({"tier": "gold"}));
    assert_eq!(told("/consents/0/proof"), "form `footer`");
    assert_eq!(told("/suppressions/0/reason"), "550");
    assert_eq!(told("/notifications/0/id"), notification.to_string());
    assert_eq!(told("/notifications/0/story").as_array().unwrap().len(), 1, "another project's line is not theirs");
    let expected = json!([
        {"kind": "claim", "id": notification.to_string(), "at": NOW.to_string(), "says": {"outcome": "routed"}},
        {"kind": "seen", "id": "email", "at": NOW.to_string(), "says": {"last_open": 1}},
    ]);
    assert_eq!(told("/kept"), expected);
    let foreign = house.call(Method::GET, "/v1/members/anna/export", "other", &[], "").await;
    foreign.problem(404, "id");
    command(&house, &["members", "export", "anna"]).await.unwrap();

    let erased = house.call(Method::POST, "/v1/members/anna/erase", "members", &[], "").await;
    assert_eq!((erased.status.as_u16(), erased.body), (204, json!("")));
    command(&house, &["members", "erase", "anna"]).await.unwrap();
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    let told: Vec<_> = commands.iter().map(|c| (c.action, c.actor.as_str(), c.patch.is_some())).collect();
    let erase = |actor| (MemberAction::Erase, actor, false);
    assert_eq!(told[1..], [erase("members"), erase("all")]);
    house.log.applying.store(false, SeqCst);
    let late = house.post("/v1/members/anna/erase", &Value::Null).await;
    assert_eq!((late.status.as_u16(), &late.body["applied"]), (202, &json!(false)));
}

#[tokio::test]
async fn a_change_that_nobody_applies_is_told_as_pending() {
    let house = House::new().await;
    house.put("/v1/members/anna", &json!({"locale": "en"})).await;
    house.log.applying.store(false, SeqCst);
    let answer = house.put("/v1/members/anna", &json!({"locale": "de"})).await;
    assert_eq!((answer.status.as_u16(), &answer.body["applied"]), (202, &json!(false)));
    let answer = house.call(Method::DELETE, "/v1/members/anna", "all", &[], "").await;
    assert_eq!((answer.status.as_u16(), &answer.body["applied"]), (202, &json!(false)));
}

async fn import(house: &House, id: Uuid, body: impl Into<reqwest::Body>) -> Answer {
    let headers = [("content-type", "text/csv"), ("import-id", &id.to_string())];
    house.call(Method::POST, "/v1/members/import", "members", &headers, body).await
}

#[tokio::test]
async fn an_import_takes_every_good_row_and_reports_every_bad_one() {
    let house = House::new().await;
    let mut csv = String::from("id,email,phone,locale\n");
    for n in 0..1_200 {
        let email = if n % 100 == 7 { "nobody".into() } else { format!("m{n}@example.org") };
        csv.push_str(&format!("m{n},{email},,de\n"));
    }
    csv.push_str("x,\"never closed\nlast,last@example.org,+4915112345678,en");
    let id = Uuid::from_u128(7);
    let answer = import(&house, id, csv).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["import-id"], id.to_string().as_str());
    let counts = ["read", "accepted", "rejected", "all_applied"].map(|name| answer.body[name].clone());
    assert_eq!(counts, [json!(1202), json!(1189), json!(13), json!(true)]);
    assert_eq!(answer.body["first_rejects"][0]["line"], 9);
    assert_eq!(answer.body["first_rejects"][0]["raw"], "m7,nobody,,de");
    assert_eq!(answer.body["first_rejects"][12]["line"], 1202);
    assert_eq!(house.store.all::<MemberRow>().len(), 1189);

    let progress = house.get(&format!("/v1/imports/{id}")).await;
    assert_eq!(
        (&progress.body["accepted"], &progress.body["finished_at"]),
        (&json!(1189), &json!("2026-03-01T12:00:00Z"))
    );
    let mut lines = Vec::new();
    let mut after = json!(0);
    while !after.is_null() {
        let page = house.get(&format!("/v1/imports/{id}/rejects?after={after}&limit=5")).await;
        lines.extend(page.body["rejects"].as_array().unwrap().iter().map(|r| r["line"].as_i64().unwrap()));
        after = page.body["next"].clone();
    }
    assert_eq!(lines, [9, 109, 209, 309, 409, 509, 609, 709, 809, 909, 1009, 1109, 1202]);
    let foreign = house.call(Method::GET, &format!("/v1/imports/{id}"), "other", &[], "").await;
    assert_eq!(foreign.status, 404);
    let kept = house.store.ttls::<ImportRejectRow>();
    assert!(
        kept.iter().chain(&house.store.ttls::<ImportRow>()).all(|ttl| *ttl == Some(Duration::from_secs(30 * 86_400)))
    );
    import(&house, id, "id\na").await.problem(409, "Import-Id");
}

#[tokio::test]
async fn an_import_tells_what_it_did_before_it_failed() {
    let house = House::new().await;
    import(&house, Uuid::from_u128(1), "id,nonsense\na,b\n").await.problem(422, "header");
    let headers = [("content-type", "image/png")];
    let answer = house.call(Method::POST, "/v1/members/import", "members", &headers, "id\n").await;
    answer.problem(415, "Content-Type");
    let ndjson = "{\"id\": \"a\"}\n{\"id\": 7}\n";
    let answer = house.call(Method::POST, "/v1/members/import?format=ndjson", "members", &[], ndjson).await;
    assert_eq!((&answer.body["accepted"], &answer.body["rejected"]), (&json!(1), &json!(1)));

    house.log.down.store(true, SeqCst);
    let answer = import(&house, Uuid::from_u128(2), "id\na\nb\n").await;
    assert_eq!((answer.status.as_u16(), &answer.is_problem()["import"]["accepted"]), (503, &json!(0)));
    assert_eq!(house.get(&format!("/v1/imports/{}", Uuid::from_u128(2))).await.body["finished_at"], Value::Null);
}

#[tokio::test]
async fn rows_that_came_before_an_upload_broke_off_are_kept() {
    let house = House::with(|limits| limits.import_idle = Duration::from_millis(200)).await;
    let id = Uuid::from_u128(3);
    let head = futures::stream::iter([Ok::<_, std::io::Error>("id,email\na,a@example.org\nb,b@exam")]);
    let body = reqwest::Body::wrap_stream(head.chain(futures::stream::pending()));
    let answer = import(&house, id, body).await;
    assert_eq!(answer.problem(400, "body")["import"]["accepted"], 1);
    assert_eq!(house.store.all::<MemberRow>().len(), 1);
    assert_eq!(house.get(&format!("/v1/imports/{id}")).await.body["finished_at"], Value::Null);
}

fn story_row(id: u128, at: i64, kind: &str, outcome: &str) -> StoryRow {
    StoryRow {
        notification: Uuid::from_u128(1),
        id: Uuid::from_u128(id),
        project: "shop".into(),
        member: "anna".into(),
        at: bellwether_schemas::Timestamp(NOW.0 + at),
        kind: kind.into(),
        outcome: outcome.into(),
        delivery: None,
        channel: Some("sms".into()),
        detail: json!({"n": at}).to_string(),
        position: "receipts/0/0".into(),
    }
}

/// That a member has an address, as the members processor notes it.
fn has(member: &str, channel: Channel, address: &str) -> AddressRow {
    let (channel, address) = (channel.name().into(), address.into());
    AddressRow { project: "shop".into(), channel, address, member: member.into(), since: NOW }
}

#[tokio::test]
async fn a_suppression_is_put_shown_and_lifted_for_whoever_has_the_address() {
    let house = House::new().await;
    let path = "/v1/suppressions/email/Anna@EXAMPLE.org";
    let (anna, bert) =
        (has("anna", Channel::Email, "Anna@example.org"), has("bert", Channel::Email, "Anna@example.org"));
    house.store.put(anna);
    house.store.put(bert);
    house.store.put(has("carl", Channel::Email, "carl@example.org"));
    house.get(path).await.is_problem();
    let made = house.put(path, &json!({"reason": "by letter"})).await;
    let expected = json!({"channel": "email", "address": "Anna@example.org", "reason": "by letter", "source": "operator all",
        "since": NOW.to_string()});
    assert_eq!((made.status.as_u16(), &made.body), (201, &expected));
    assert_eq!(house.get(path).await.body, expected);
    assert_eq!(house.put(path, &json!({"reason": "by phone"})).await.status, 200);
    assert_eq!(house.store.all::<SuppressionRow>()[0].reason, "by phone");
    for _ in 0..2 {
        let gone = house.call(Method::DELETE, path, "all", &[], "").await;
        assert_eq!(gone.status, 204, "also where it is gone already");
    }
    house.get(path).await.is_problem();
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    let told: Vec<_> = commands.iter().map(|c| (c.member.as_str(), c.action, c.reason.as_deref())).collect();
    let both = |action, reason| [("anna", action, reason), ("bert", action, reason)];
    let expected = [
        both(MemberAction::Suppress, Some("by letter")),
        both(MemberAction::Suppress, Some("by phone")),
        both(MemberAction::Restore, None),
        both(MemberAction::Restore, None),
    ];
    assert_eq!(told, expected.concat());
    assert!(commands.iter().all(|c| c.actor == "operator all" && c.address.as_deref() == Some("Anna@example.org")));
}

#[tokio::test]
async fn members_are_found_by_any_address_of_theirs() {
    let house = House::new().await;
    let phone = "+4915112345678";
    for (member, channel, address) in [
        ("anna", Channel::Email, "anna@example.org"),
        ("anna", Channel::Sms, phone),
        ("bert", Channel::Whatsapp, phone),
        ("carl", Channel::Email, "carl@example.org"),
    ] {
        house.store.put(has(member, channel, address));
    }
    let at = |channel, address: &str| (channel, vec![Address::active(address.into(), NOW)]);
    let anna = [at(Channel::Email, "anna@example.org"), at(Channel::Sms, phone)].into();
    for (member, addresses) in [("anna", anna), ("bert", [at(Channel::Whatsapp, phone)].into())] {
        house.store.put(Profile { addresses, ..Profile::default() }.into_row("shop", member));
    }
    // The query → who it finds. Of Carl the index knows an address that the profile has no more.
    for (query, found) in [
        ("address=anna@EXAMPLE.org", &["anna"][..]),
        ("address=%2B49%20151%2012345678", &["anna", "bert"]),
        ("address=%2B4915112345678&channel=whatsapp", &["bert"]),
        ("address=carl@example.org", &[]),
        ("address=nobody@example.org", &[]),
        ("address=%20", &[]),
    ] {
        let answer = house.get(&format!("/v1/members?{query}")).await;
        let members = answer.body["members"].as_array().unwrap_or_else(|| panic!("{query}: {}", answer.body));
        let ids: Vec<_> = members.iter().map(|member| member["id"].as_str().unwrap()).collect();
        assert_eq!(ids, found, "{query}");
    }
    house.get("/v1/members").await.problem(422, "address");
    house.get("/v1/members?address=1&channel=fax").await.problem(422, "channel");
    house.get("/v1/members?address=nobody&channel=email").await.problem(422, "address");
}

#[tokio::test]
async fn members_are_found_page_by_page_by_an_attribute_that_the_project_names() {
    let house = House::new().await;
    let mut document = serde_json::to_value(shop()).unwrap();
    document["project"]["search"] = json!(["tier"]);
    let published =
        house.call(Method::PUT, "/v1/definitions", "all", &[JSON, ("if-match", "*")], document.to_string()).await;
    assert_eq!(published.status, 200, "{}", published.body);
    // Of `former` the index knows a tier that the profile has no more, of `gone` the profile is not there any more.
    let gold: Vec<String> = (0..40).map(|n| format!("m{n:02}")).collect();
    for member in gold.iter().map(String::as_str).chain(["former", "gone"]) {
        house.store.put(AttributeRow {
            project: "shop".into(),
            name: "tier".into(),
            value: "gold".into(),
            shard: shard_of(member),
            member: member.into(),
            since: NOW,
        });
        let tier = if member == "former" { "silver" } else { "gold" };
        let attributes = json!({"tier": tier}).as_object().unwrap().clone();
        if member != "gone" {
            house.store.put(Profile { attributes, ..Profile::default() }.into_row("shop", member));
        }
    }
    let mut expected = gold.clone();
    expected.sort_by_key(|member| (shard_of(member), member.clone()));
    for limit in [1, 7, 100] {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = house.get(&format!("/v1/members?attribute=tier&value=gold&limit={limit}{cursor}")).await;
            let members = page.body["members"].as_array().unwrap_or_else(|| panic!("{}", page.body));
            assert!(members.len() <= limit, "{limit}");
            found.extend(members.iter().map(|member| member["id"].as_str().unwrap().to_owned()));
            let Some(next) = page.body["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(found, expected, "{limit}");
    }
    let none = house.get("/v1/members?attribute=tier&value=bronze").await;
    assert_eq!(none.body, json!({"members": [], "next": null}));
    let foreign = house.call(Method::GET, "/v1/members?attribute=tier&value=gold", "other", &[], "").await;
    foreign.problem(422, "attribute");
    let unknown = house.get("/v1/members?attribute=teir&value=gold").await;
    let problem = unknown.problem(422, "attribute").to_string();
    assert!(problem.contains("did you mean `tier`?") && problem.contains("`search` in project.yaml"), "{problem}");
    let (long, behind_all) = ("x".repeat(257), URL_SAFE_NO_PAD.encode(format!("{SHARDS}/")));
    for (query, field) in [
        ("attribute=tier".to_owned(), "value"),
        (format!("attribute=tier&value={long}"), "value"),
        ("attribute=tier&value=gold&limit=0".to_owned(), "limit"),
        ("attribute=tier&value=gold&limit=1001".to_owned(), "limit"),
        ("attribute=tier&value=gold&cursor=x".to_owned(), "cursor"),
        (format!("attribute=tier&value=gold&cursor={behind_all}"), "cursor"),
        ("attribute=tier&value=gold&channel=email".to_owned(), "channel"),
        ("attribute=tier&value=gold&address=a@b.org".to_owned(), "attribute"),
        ("address=a@b.org&limit=7".to_owned(), "limit"),
        ("value=gold".to_owned(), "address"),
    ] {
        house.get(&format!("/v1/members?{query}")).await.problem(422, field);
    }
    command(&house, &["members", "find", "--attribute", "tier=gold", "--limit", "7"]).await.unwrap();
    command(&house, &["members", "find", "anna@example.org"]).await.unwrap();
    for line in [&["members", "find"][..], &["members", "find", "--attribute", "tier"]] {
        assert!(command(&house, line).await.is_err(), "{line:?}");
    }
}

#[tokio::test]
async fn a_member_is_merged_into_another() {
    let house = House::new().await;
    let path = "/v1/members/anna/merge";
    house.put("/v1/members/anna", &json!({"locale": "en"})).await;
    house.put("/v1/members/guest-77", &json!({"locale": "de"})).await;
    house.post("/v1/members/nobody/merge", &json!({"from": "anna"})).await.problem(404, "id");
    house.post(path, &json!({"from": "nobody"})).await.problem(404, "from");
    house.post(path, &json!({"from": "anna"})).await.problem(422, "from");
    house.post(path, &json!({"from": ""})).await.problem(422, "from");
    house.post(path, &json!({"into": "guest-77"})).await.problem(400, "body");
    assert_eq!(house.log.appended(Topic::Members).len(), 2);

    let merged = house.post(path, &json!({"from": "guest-77"})).await;
    assert_eq!((merged.status.as_u16(), &merged.body["id"]), (200, &json!("anna")), "{}", merged.body);
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    let MemberCommand { member, action, actor, patch, proof, other, .. } = &commands[2];
    assert_eq!((member.as_str(), *action, actor.as_str(), patch), ("guest-77", MemberAction::Merge, "all", &None));
    assert_eq!((other.as_deref(), proof.as_deref()), (Some("anna"), Some("merged into anna")));
    house.post(path, &json!({"from": "guest-77"})).await.problem(404, "from");

    house.put("/v1/members/guest-78", &json!({})).await;
    command(&house, &["members", "merge", "anna", "guest-78"]).await.unwrap();
    house.put("/v1/members/guest-79", &json!({})).await;
    house.log.applying.store(false, SeqCst);
    let late = house.post(path, &json!({"from": "guest-79"})).await;
    assert_eq!((late.status.as_u16(), &late.body["applied"]), (202, &json!(false)));
}

#[tokio::test]
async fn a_bad_suppression_is_refused_by_field_and_leaves_nothing() {
    let house = House::new().await;
    let good = json!({"reason": "r"});
    house.put("/v1/suppressions/fax/1", &good).await.problem(422, "channel");
    house.put("/v1/suppressions/email/nobody", &good).await.problem(422, "address");
    house.put("/v1/suppressions/email/a@b.org", &json!({"reason": " "})).await.problem(422, "reason");
    house.put("/v1/suppressions/email/a@b.org", &json!({"reason": "x".repeat(1_001)})).await.problem(422, "reason");
    house.put("/v1/suppressions/email/a@b.org", &json!({"why": "r"})).await.problem(400, "body");
    house.get("/v1/suppressions").await.problem(422, "channel");
    house.get("/v1/suppressions?channel=fax").await.problem(422, "channel");
    house.get("/v1/suppressions?channel=email&limit=0").await.problem(422, "limit");
    house.get("/v1/suppressions?channel=email&cursor=%20").await.problem(422, "cursor");
    house.get("/v1/suppressions/export?format=xml").await.problem(422, "format");
    house.store.down.store(true, SeqCst);
    assert_eq!(house.get("/v1/suppressions/export").await.status, 503, "before it says 200");
    house.store.down.store(false, SeqCst);
    assert!(house.store.all::<SuppressionRow>().is_empty());
}

#[tokio::test]
async fn a_suppression_that_nobody_follows_is_told_as_pending() {
    let house = House::new().await;
    house.store.put(has("anna", Channel::Sms, "+4915112345678"));
    house.log.applying.store(false, SeqCst);
    let answer = house.put("/v1/suppressions/sms/0151%2012345678", &json!({"reason": "r"})).await;
    assert_eq!((answer.status.as_u16(), &answer.body["address"]), (202, &json!("+4915112345678")));
    assert_eq!(house.store.all::<SuppressionRow>().len(), 1, "it is on the list all the same");
    let answer = house.call(Method::DELETE, "/v1/suppressions/sms/+4915112345678", "all", &[], "").await;
    assert_eq!(answer.status, 202);
    let header = [("content-type", "text/csv")];
    let body = "channel,address\nemail,a@b.org\n";
    let answer = house.call(Method::POST, "/v1/suppressions/import", "all", &header, body).await;
    assert_eq!(answer.status, 503, "an import does not go on where it cannot be sure: {}", answer.body);
}

#[tokio::test]
async fn the_list_is_read_page_by_page_and_comes_back_as_it_was_exported() {
    let house = House::new().await;
    let mut rows: Vec<SuppressionRow> = (0..57)
        .map(|n| {
            let address = format!("\"m,{n}\"@example.org");
            let reason = if n % 3 == 0 { String::new() } else { format!("550 5.1.1 \"no\", said it; {n}") };
            suppression("email", &address, &reason)
        })
        .collect();
    rows.push(suppression("app_push", "fcm:t/1", "gone"));
    rows.push(SuppressionRow { project: "other".into(), ..suppression("email", "o@example.org", "not ours") });
    rows.iter().cloned().for_each(|row| house.store.put(row));
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = house.get(&format!("/v1/suppressions?channel=email&limit=10{cursor}")).await.body;
        let found = page["suppressions"].as_array().unwrap();
        assert!(found.len() <= 10);
        listed.extend(found.iter().map(|one| one["address"].as_str().unwrap().to_owned()));
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    listed.sort();
    let mut expected: Vec<_> = rows[..57].iter().map(|row| row.address.clone()).collect();
    expected.sort();
    assert_eq!(listed, expected, "each once");

    for (format, media_type) in [("csv", "text/csv"), ("ndjson", "application/x-ndjson")] {
        let export = house.get(&format!("/v1/suppressions/export?format={format}")).await;
        assert!(export.headers["content-type"].to_str().unwrap().starts_with(media_type));
        let Value::String(file) = export.body else { panic!("a file") };
        let second = House::new().await;
        let headers = [("content-type", media_type)];
        let answer = second.call(Method::POST, "/v1/suppressions/import", "suppressions", &headers, file).await;
        assert_eq!((&answer.body["accepted"], &answer.body["rejected"]), (&json!(58), &json!(0)), "{}", answer.body);
        assert_eq!(answer.body["all_applied"], true);
        let mut ours = house.store.all::<SuppressionRow>();
        ours.retain(|row| row.project == "shop");
        assert_eq!(second.store.all::<SuppressionRow>(), ours, "{format}");
    }
}

#[tokio::test]
async fn an_import_of_suppressions_takes_every_good_row_and_reports_every_bad_one() {
    let house = House::new().await;
    house.store.put(has("anna", Channel::Sms, "+4915112345678"));
    let file = "channel,address,reason,since\nsms,0151 12345678,by hand,\nemail,nobody,,\nfax,1,,\nemail,a@b.org,,yesterday\n\
                email,b@b.org,,2026-01-02T03:04:05Z\n,x,,\n";
    let headers = [("content-type", "text/csv")];
    let answer = house.call(Method::POST, "/v1/suppressions/import", "all", &headers, file).await;
    let rejects = answer.body["first_rejects"].as_array().unwrap().iter();
    let rejects: Vec<_> = rejects.map(|r| (r["line"].as_i64().unwrap(), r["field"].as_str().unwrap())).collect();
    assert_eq!(rejects, [(3, "address"), (4, "channel"), (5, "since"), (7, "channel")], "{}", answer.body);
    let mut rows = house.store.all::<SuppressionRow>();
    rows.sort_by_key(|row| row.since);
    let told: Vec<_> =
        rows.iter().map(|row| (row.address.as_str(), row.source.as_str(), row.since.to_string())).collect();
    let expected = [
        ("b@b.org", "import all", "2026-01-02T03:04:05Z".to_owned()),
        ("+4915112345678", "import all", NOW.to_string()),
    ];
    assert_eq!(told, expected);
    let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
    assert_eq!(commands.iter().map(|c| c.member.as_str()).collect::<Vec<_>>(), ["anna"]);
    let lines =
        "{\"channel\": \"email\", \"address\": \"c@b.org\", \"note\": 1}\n{\"channel\": \"email\", \"address\": 7}\n";
    let headers = [("content-type", "application/x-ndjson")];
    let answer = house.call(Method::POST, "/v1/suppressions/import", "all", &headers, lines).await;
    let fields: Vec<_> = answer.body["first_rejects"].as_array().unwrap().iter().map(|r| &r["field"]).collect();
    assert_eq!(fields, [&json!("note"), &json!("address")]);
}

fn suppression(channel: &str, address: &str, reason: &str) -> SuppressionRow {
    SuppressionRow {
        project: "shop".into(),
        channel: channel.into(),
        shard: shard_of(address),
        address: address.into(),
        reason: reason.into(),
        source: "provider mail".into(),
        since: NOW,
    }
}

#[tokio::test]
async fn a_story_is_told_in_order_and_its_status_is_the_furthest_receipt() {
    let house = House::new().await;
    let path = format!("/v1/notifications/{}", Uuid::from_u128(1));
    house.get(&path).await.problem(404, "id");
    house.get("/v1/notifications/7").await.problem(400, "path");
    house.store.put(story_row(9, 0, "decision", "routed"));
    house.store.put(story_row(1, 5, "decision", "duplicate"));
    assert_eq!(house.get(&path).await.body["status"], "routed", "a later duplicate changes nothing");
    house.store.put(story_row(2, 0, "receipt", "deferred"));
    house.store.put(story_row(3, 20, "receipt", "sent"));
    house.store.put(story_row(4, 10, "receipt", "delivered"));
    let answer = house.get(&path).await;
    assert_eq!((&answer.body["status"], &answer.body["member"]), (&json!("delivered"), &json!("anna")));
    let told: Vec<_> =
        answer.body["story"].as_array().unwrap().iter().map(|line| line["outcome"].as_str().unwrap()).collect();
    assert_eq!(told, ["routed", "deferred", "duplicate", "delivered", "sent"]);
    assert_eq!(answer.body["story"][3]["detail"], json!({"n": 10}));

    let event = EventId::derive("shop", "/shop", "7");
    let notification = NotificationId::derive(event, "", 0, 0, "anna").0;
    house.store.put(StoryRow { notification, ..story_row(9, 0, "decision", "no_flow") });
    let of = async |member: &str| house.get(&format!("/v1/notifications?event={event}&member={member}")).await.body;
    assert_eq!(of("anna").await["notifications"][0]["status"], "no_flow");
    assert_eq!(of("bert").await["notifications"], json!([]));
    house.get("/v1/notifications?event=7&member=anna").await.problem(400, "query");
    house.call(Method::GET, &path, "other", &[], "").await.problem(404, "id");
}

#[tokio::test]
async fn figures_are_summed_over_sources_and_grouped() {
    let house = House::new().await;
    let put = |project: &str, day: &str, template: &str, channel: &str, source: &str, value| {
        let (project, day, template, channel) = (project.into(), day.into(), template.into(), channel.into());
        let (metric, source) = ("sent".into(), source.into());
        house.store.put(AggregateRow { project, day, template, channel, metric, source, value, included: 1 });
    };
    put("shop", "2026-02-28", "order", "sms", "receipts/0", 1);
    put("shop", "2026-03-01", "order", "sms", "receipts/0", 2);
    put("shop", "2026-03-01", "order", "sms", "receipts/1", 4);
    put("shop", "2026-03-01", "order", "email", "receipts/1", 8);
    put("shop", "2026-03-01", "news", "email", "receipts/1", 16);
    put("other", "2026-03-01", "order", "sms", "receipts/0", 1000);
    let rows = async |query: &str| house.get(&format!("/v1/stats{query}")).await.body["rows"].clone();
    assert_eq!(rows("").await, json!([{"metrics": {"sent": 30}}]), "today");
    assert_eq!(rows("?from=2026-02-01&channel=sms").await, json!([{"metrics": {"sent": 7}}]));
    assert_eq!(rows("?template=order&channel=email").await, json!([{"metrics": {"sent": 8}}]));
    assert_eq!(
        rows("?from=2026-02-28&to=2026-03-01&template=order&group_by=day,channel").await,
        json!([
            {"day": "2026-02-28", "channel": "sms", "metrics": {"sent": 1}},
            {"day": "2026-03-01", "channel": "email", "metrics": {"sent": 8}},
            {"day": "2026-03-01", "channel": "sms", "metrics": {"sent": 6}},
        ])
    );
    assert_eq!(rows("?from=2025-01-01&to=2025-01-02").await, json!([]));
    for (query, status, field) in [
        ("?from=2026-01-01&to=2026-12-31", 422, "to"),
        ("?from=yesterday", 422, "from"),
        ("?group_by=member", 422, "group_by"),
        ("?form=2026-01-01", 400, "query"),
    ] {
        house.get(&format!("/v1/stats{query}")).await.problem(status, field);
    }
}

fn dead_letter(project: &str, n: u128, day: &str, reason: Reason) -> DeadLetterRow {
    let id = Uuid::new_v5(&Uuid::nil(), &n.to_be_bytes());
    let letter = DeadLetter {
        id: EntryId(id),
        project: project.into(),
        at: NOW,
        processor: "flow".into(),
        reason,
        detail: "`subject` is missing: send it".into(),
        topic: "events".into(),
        partition: 2,
        offset: 40,
        key: b"shop/anna".to_vec(),
        payload: format!("payload {n}").into_bytes(),
        headers: vec![Header { name: "content-type".into(), value: b"x".to_vec() }],
    };
    DeadLetterRow {
        project: project.into(),
        day: day.into(),
        id,
        at: NOW,
        reason: reason.name().into(),
        detail: letter.detail.clone(),
        record: encode(&letter).unwrap(),
        replayed_at: None,
    }
}

#[tokio::test]
async fn dead_letters_are_listed_shown_and_replayed_as_they_were() {
    let house = House::new().await;
    for n in 0..450 {
        let reason = if n % 3 == 0 { Reason::Evaluation } else { Reason::Invalid };
        house.store.put(dead_letter("shop", n, if n % 2 == 0 { "2026-03-01" } else { "2026-02-27" }, reason));
    }
    house.store.put(dead_letter("shop", 900, "2026-01-01", Reason::Invalid));
    house.store.put(dead_letter("other", 901, "2026-03-01", Reason::Invalid));
    house.store.put(dead_letter("", 902, "2026-03-01", Reason::Malformed));

    let mut ids = Vec::new();
    let mut after = String::new();
    loop {
        let page = house.get(&format!("/v1/dead-letters?reason=evaluation&limit=40{after}")).await;
        ids.extend(page.body["dead_letters"].as_array().unwrap().iter().map(|l| l["id"].as_str().unwrap().to_owned()));
        let Some(next) = page.body["next"].as_str() else { break };
        after = format!("&after={next}");
    }
    assert_eq!(ids.len(), 150, "each once, and no other project's");
    assert!(ids.is_sorted_by_key(|id| std::cmp::Reverse(id[..10].to_owned())), "the latest day first");

    let shown = house.get(&format!("/v1/dead-letters/{}", ids[0])).await;
    assert_eq!((&shown.body["topic"], &shown.body["reason"]), (&json!("events"), &json!("evaluation")));
    assert!(shown.body["payload"].as_str().unwrap().starts_with("payload "));

    let answer = house
        .post("/v1/dead-letters/replay", &json!({"ids": [ids[0], ids[1], format!("2026-03-01.{}", Uuid::nil())]}))
        .await;
    assert_eq!((&answer.body["replayed"], answer.body["unknown"].as_array().unwrap().len()), (&json!(2), 1));
    let again = &house.log.appended(Topic::Events)[0];
    assert_eq!((again.key.as_slice(), again.headers[0].value.as_slice()), (&b"shop/anna"[..], &b"x"[..]));
    assert_eq!(again.headers[1].name, REPLAY_HEADER, "deliver tells it from the first try");
    let left: Vec<_> = house.store.ttls::<DeadLetterRow>().into_iter().flatten().collect();
    assert!(
        left.len() == 2 && left.iter().all(|ttl| *ttl <= RETENTION),
        "replayed rows end when they would have: {left:?}"
    );
    assert_eq!(String::from_utf8(again.payload.clone()).unwrap(), shown.body["payload"].as_str().unwrap());
    assert_eq!(house.get(&format!("/v1/dead-letters/{}", ids[0])).await.body["replayed_at"], "2026-03-01T12:00:00Z");

    let answer = house.post("/v1/dead-letters/replay", &json!({"filter": {"reason": "evaluation"}})).await;
    assert_eq!(
        (&answer.body["replayed"], &answer.body["skipped"], &answer.body["next"]),
        (&json!(148), &json!(2), &Value::Null)
    );
    assert_eq!(house.log.appended(Topic::Events).len(), 150);

    house.post("/v1/dead-letters/replay", &json!({"ids": [ids[0]]})).await;
    let events = house.log.appended(Topic::Events);
    let (first, second) = (&events[0].headers, &events[150].headers);
    assert_eq!((first.len(), second.len()), (2, 2));
    assert_ne!(first[1].value, second[1].value, "a second replay is another try");
}

#[tokio::test]
async fn what_belongs_to_no_project_is_the_operators() {
    let house = House::new().await;
    let row = dead_letter("", 1, "2026-03-01", Reason::Malformed);
    let path = format!("/v1/dead-letters/2026-03-01.{}", row.id);
    house.store.put(row);
    let list =
        async |key: &str| house.call(Method::GET, "/v1/dead-letters", key, &[], "").await.body["dead_letters"].clone();
    assert_eq!(list("all").await, json!([]));
    assert_eq!(list("root").await.as_array().unwrap().len(), 1);
    house.get(&path).await.problem(404, "id");
    assert_eq!(house.call(Method::GET, &path, "root", &[], "").await.status, 200);
}

#[tokio::test]
async fn a_bad_request_about_dead_letters_is_refused_by_field() {
    let house = House::new().await;
    for (path, status, field) in [
        ("/v1/dead-letters?reason=boredom", 400, "query"),
        ("/v1/dead-letters?limit=0", 422, "limit"),
        ("/v1/dead-letters?from=2020-01-01", 422, "to"),
        ("/v1/dead-letters?after=x", 422, "id"),
        ("/v1/dead-letters/nonsense", 422, "id"),
    ] {
        house.get(path).await.problem(status, field);
    }
    for (body, status, field) in [
        (json!({}), 422, "ids"),
        (json!({"ids": ["x"]}), 422, "id"),
        (json!({"id": "x"}), 400, "body"),
        (json!(7), 400, "body"),
    ] {
        house.post("/v1/dead-letters/replay", &body).await.problem(status, field);
    }
}

#[tokio::test]
async fn channels_show_their_providers_and_send_test_messages() {
    let house = House::new().await;
    assert_eq!(house.get("/v1/channels").await.body, json!({"channels": []}));
    let mut document = serde_json::to_value(shop()).unwrap();
    let smtp =
        json!({"kind": "smtp", "host": "mail.example", "from_address": "shop@example.com", "rate_per_second": 9});
    document["providers"] = json!({"mail": smtp, "spare": {"kind": "smtp", "host": "b.example", "from_address": "b@b.example", "weight": 0}});
    assert_eq!(house.put("/v1/definitions", &document).await.status.as_u16(), 200);
    let states = async || {
        let answer = house.get("/v1/channels").await;
        assert_eq!(answer.body["channels"][0]["channel"], "email", "{}", answer.body);
        answer.body["channels"][0]["providers"].clone()
    };
    let mail = json!({"name": "mail", "kind": "smtp", "weight": 1, "rate_per_second": 9, "state": "ok"});
    assert_eq!(states().await, json!([mail, {"name": "spare", "kind": "smtp", "weight": 0, "state": "ok"}]));

    let test = async |body: Value| house.post("/v1/channels/email/test", &body).await;
    // Whom to, the provider that is named → accepted, classified, wait.
    for (to, provider, accepted, error, wait) in [
        ("ana@example.com", None, true, Value::Null, Value::Null),
        ("ana@example.com", Some("spare"), true, Value::Null, Value::Null),
        ("gone@example.com", None, false, json!("invalid_address"), Value::Null),
        ("wrong@example.com", Some("spare"), false, json!("unauthorized"), Value::Null),
        ("wait@example.com", None, false, json!("throttled"), json!(7)),
    ] {
        let answer = test(json!({"to": to, "provider": provider})).await;
        let body = &answer.body;
        assert_eq!(answer.status.as_u16(), 200, "{body}");
        assert_eq!(body["provider"], provider.unwrap_or("mail"), "weight 0 stands in for others only");
        assert_eq!(
            (&body["accepted"], &body["error"], &body["retry_after_seconds"]),
            (&json!(accepted), &error, &wait)
        );
        assert_eq!(body["detail"].is_string(), !accepted, "{body}");
    }
    let told = states().await;
    assert_eq!((&told[0]["state"], &told[1]["state"]), (&json!("held"), &json!("stopped")), "{told}");
    assert!(told[0]["until"].is_string() && told[1]["detail"].as_str().unwrap().contains("535"), "{told}");
    test(json!({"to": "ana@example.com"})).await.problem(409, "provider");
    assert_eq!(
        test(json!({"to": "ana@example.com", "provider": "spare"})).await.body["accepted"],
        true,
        "a test passes a stop"
    );
    assert_eq!(states().await[1]["state"], "ok", "and ends it");

    test(json!({"to": "no address"})).await.problem(422, "email");
    test(json!({"to": "ana@example.com", "provider": "other"})).await.problem(422, "provider");
    test(json!({"to": "ana@example.com", "template": "other"})).await.problem(422, "template");
    test(json!({"from": "ana@example.com"})).await.problem(400, "body");
    house.post("/v1/channels/pigeon/test", &json!({"to": "x"})).await.problem(422, "channel");
    house.post("/v1/channels/sms/test", &json!({"to": "+4915112345678"})).await.problem(422, "channel");
}

#[tokio::test]
async fn definitions_are_published_against_the_version_they_were_made_from() {
    let house = House::new().await;
    let read = house.get("/v1/definitions").await;
    assert_eq!((&read.body["version"], read.headers["etag"].to_str().unwrap()), (&json!(1), "\"1\""));
    let mut document = serde_json::to_value(shop()).unwrap();
    document["project"]["default_locale"] = json!("de");
    let publish = async |body: &Value, tag: &str| {
        house.call(Method::PUT, "/v1/definitions", "all", &[JSON, ("if-match", tag)], body.to_string()).await
    };
    publish(&document, "\"7\"").await.problem(412, "If-Match");
    let answer = publish(&document, "\"1\"").await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["version"], &answer.body["applied"]),
        (200, &json!(2), &json!(true))
    );
    assert_eq!(house.get("/v1/definitions").await.body["document"], document);
    let sets: Vec<DefinitionSet> = house.log.decoded(Topic::Definitions);
    assert_eq!((sets.len(), sets[0].version, sets[0].actor.as_str()), (1, 2, "all"));
    assert_eq!(house.log.appended(Topic::Definitions)[0].key, b"shop");

    document["project"]["name"] = json!("other");
    publish(&document, "*").await.problem(422, "project.name");
    let mut flawed = serde_json::to_value(shop()).unwrap();
    flawed["flows"]["f"] = json!({"on": "x", "notify": {"template": "t", "lane": "bulk"}});
    assert_eq!(publish(&flawed, "*").await.problem(422, "flows.f")["findings"].as_array().unwrap().len(), 1);
    publish(&json!({"project": 1}), "*").await.problem(400, "document");
    let other = house.call(Method::GET, "/v1/definitions", "other", &[], "").await;
    assert_eq!(other.status, 404);

    house.log.applying.store(false, SeqCst);
    let answer = publish(&serde_json::to_value(shop()).unwrap(), "\"2\"").await;
    assert_eq!((answer.status.as_u16(), &answer.body["applied"]), (202, &json!(false)));
}

/// Definitions of the project `shop` that say something, by text message in two languages.
fn telling_shop() -> Value {
    json!({
        "project": {"name": "shop", "default_locale": "en"},
        "providers": {"text": {"kind": "twilio", "account_sid": "AC00000000000000000000000000000000", "auth_token": {"env": "T"}, "from": "+34600000000"}},
        "events": {"order": {
            "type": "order.placed",
            "data": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
            "samples": {"usual": {"data": {"n": 1}}, "many": {"data": {"n": 1000}}},
        }},
        "templates": {"order": {"channels": {"sms": {
            "en": {"text": "Hi {{ member.name | default('you') }}, {{ n | number }}"},
            "es": {"text": "Hola, {{ n | plural(one='# cosa', other='# cosas') }}"},
        }}}},
        "flows": {"order": {"on": "order.placed", "notify": {"template": "order", "lane": "bulk"}}},
    })
}

#[tokio::test]
async fn a_preview_shows_every_variant_or_why_there_is_none() {
    let house = House::new().await;
    let path = "/v1/templates/preview";
    let mut document = telling_shop();
    let flows = document["flows"].take();
    document["flows"] = json!({});
    assert_eq!(house.put("/v1/definitions", &document).await.status, 200);
    let member = json!({"attributes": {"name": "Anna"}, "phone": "+4930123456", "locale": "es"});
    assert_eq!(house.put("/v1/members/anna", &member).await.status, 201);
    // Without a flow nobody knows which event it is for.
    house.post(path, &json!({"event": "order"})).await.problem(404, "template");

    document["flows"] = flows;
    let draft = json!({"definitions": document, "sample": "many"});
    let shown = house.post(path, &draft).await;
    assert_eq!((shown.status.as_u16(), &shown.body["version"]), (200, &json!(0)), "{}", shown.body);
    let texts = |answer: &Answer| -> Vec<Value> {
        let variants = answer.body["previews"][0]["variants"].as_array().unwrap().iter();
        variants.map(|variant| variant["message"]["text"].clone()).collect()
    };
    assert_eq!(texts(&shown), ["Hi you, 1,000", "Hola, 1000 cosas"]);
    let size = &shown.body["previews"][0]["variants"][0]["sizes"][0];
    assert_eq!((&size["size"], &size["limit"], &size["exceeded"]), (&json!(13), &json!(1600), &json!(false)));
    let segments = &shown.body["previews"][0]["variants"][0]["segments"];
    assert_eq!(segments, &json!({"encoding": "GSM-7", "units": 13, "segments": 1}));

    let given = json!({"definitions": document, "member": "anna", "data": {"n": 1}});
    let shown = house.post(path, &given).await;
    assert_eq!(texts(&shown), ["Hi Anna, 1", "Hola, 1 cosa"]);
    let preview = &shown.body["previews"][0];
    assert_eq!((&preview["sample"], &preview["member"]), (&json!("given"), &json!("anna")));
    assert_eq!(shown.body["previews"].as_array().unwrap().len(), 1, "given data is shown once");

    document["templates"]["order"]["channels"]["sms"]["es"]["text"] = json!("Hola {{ nn }}");
    let shown = house.post(path, &json!({"definitions": document})).await;
    assert_eq!(shown.body["previews"].as_array().unwrap().len(), 2, "one a sample");
    let variants = &shown.body["previews"][0]["variants"];
    assert_eq!((&variants[0]["errors"], &variants[1]["message"]), (&json!([]), &Value::Null));
    assert!(variants[1]["errors"][0].as_str().unwrap().contains("nn"), "{}", shown.body);

    house.post(path, &json!({"template": "nothing"})).await.problem(404, "template");
    house.post(path, &json!({"member": "nobody"})).await.problem(404, "member");
    house.post(path, &json!({"templates": "order"})).await.problem(400, "body");
    document["project"]["name"] = json!("other");
    house.post(path, &json!({"definitions": document})).await.problem(422, "definitions.project.name");
    let reader = house.call(Method::POST, path, "definitions", &[JSON], json!({"member": "anna"}).to_string()).await;
    assert_eq!(reader.status, 403, "a member's data needs the scope for it");
}

#[tokio::test]
async fn an_event_that_is_not_as_declared_is_refused_by_its_field() {
    let house = House::new().await;
    let mut document = telling_shop();
    document["flows"] = json!({});
    assert_eq!(house.put("/v1/definitions", &document).await.status, 200);
    let mut wrong = event("b");
    wrong["data"] = json!({"n": "SECRET"});
    let refused = events(&house, "application/cloudevents+json", &wrong).await;
    let problem = refused.problem(422, "data.n");
    assert!(!problem.to_string().contains("SECRET"), "{problem}");
    let mixed = events(&house, "application/cloudevents-batch+json", json!([event("a"), wrong])).await;
    assert_eq!((mixed.status.as_u16(), &mixed.body["accepted"]), (202, &json!(1)));
    assert_eq!(
        (&mixed.body["rejected"][0]["index"], &mixed.body["rejected"][0]["field"]),
        (&json!(1), &json!("data.n"))
    );
    let undeclared =
        json!({"specversion": "1.0", "id": "c", "source": "/shop", "type": "other", "subject": "anna", "data": 7});
    assert_eq!(events(&house, "application/cloudevents+json", undeclared).await.status, 202);
}

#[tokio::test]
async fn whatsapp_templates_are_listed_and_held_against_what_is_published() {
    let house = House::new().await;
    house.get("/v1/channels/whatsapp/templates").await.problem(404, "project");
    let mut document = serde_json::to_value(shop()).unwrap();
    document["providers"]["wa"] =
        json!({"kind": "whatsapp_cloud", "phone_number_id": "1", "access_token": {"env": "X"}});
    let variant = |parameters: &[&str]| json!({"template": {"name": "hello", "language": "en", "parameters": parameters, "buttons": ["x"]}, "header": {"kind": "image", "url": "https://h.example/a"}});
    document["templates"]["greeting"] = json!({"channels": {"whatsapp": {"en": variant(&[])}}});
    let refused = house.put("/v1/definitions", &document).await;
    let found = &refused.problem(422, "templates.greeting.channels.whatsapp.en.template.parameters")["findings"];
    assert_eq!(found[0]["problem"], "0 are given, and the body of `hello` (en) has 1 placeholders");
    document["templates"]["greeting"]["channels"]["whatsapp"]["en"] = variant(&["Ana"]);
    document["templates"]["code"] = json!({"channels": {"sms": {"en": {"text": "It’s"}}}});
    document["providers"]["sms"] =
        json!({"kind": "twilio", "account_sid": "AC1", "auth_token": {"env": "X"}, "from": "+1"});
    let fine = house.put("/v1/definitions", &document).await;
    assert_eq!(
        (fine.status.as_u16(), fine.body["remarks"][0]["field"].as_str()),
        (200, Some("templates.code.channels.sms.en.text"))
    );
    assert_eq!(house.get("/v1/definitions").await.body["remarks"], fine.body["remarks"]);

    let listed = house.get("/v1/channels/whatsapp/templates").await;
    let account = &listed.body["accounts"][0];
    assert_eq!(
        (&account["provider"], &account["templates"][0]["status"], &account["templates"][0]["header"]),
        (&json!("wa"), &json!("APPROVED"), &json!("image"))
    );
    assert_eq!(house.call(Method::GET, "/v1/channels/whatsapp/templates", "stats", &[], "").await.status, 403);

    // Whoever cannot ask Meta publishes all the same, and is told.
    document["providers"]["wa"]["version"] = json!("v0.0");
    document["templates"]["greeting"]["channels"]["whatsapp"]["en"] = variant(&[]);
    let unasked = house.put("/v1/definitions", &document).await;
    assert_eq!(unasked.status, 200);
    let remark = &unasked.body["remarks"][1];
    assert_eq!(remark["field"], "providers.wa");
    assert!(remark["problem"].as_str().unwrap().ends_with("transient: cannot connect"), "{remark}");
    let listed = house.get("/v1/channels/whatsapp/templates").await;
    assert_eq!(listed.body["accounts"][0]["problem"], "transient: cannot connect");
}

#[tokio::test]
async fn the_same_key_and_request_give_the_same_answer_once() {
    let house = House::new().await;
    let put = async |key: &str, id: &str, body: &Value| {
        let headers = [JSON, ("idempotency-key", key)];
        house.call(Method::PUT, &format!("/v1/members/{id}"), "all", &headers, body.to_string()).await
    };
    let body = json!({"locale": "en"});
    let first = put("k1", "anna", &body).await;
    let second = put("k1", "anna", &body).await;
    assert_eq!((first.status.as_u16(), second.status.as_u16(), &second.body), (201, 201, &first.body));
    assert_eq!(second.headers["idempotency-replayed"], "true");
    assert!(!first.headers.contains_key("idempotency-replayed"));
    assert_eq!(second.headers["content-type"], "application/json");
    assert_eq!(house.log.appended(Topic::Members).len(), 1);
    assert_eq!(house.store.ttls::<IdempotencyRow>(), [Some(Duration::from_secs(86_400))]);

    put("k1", "anna", &json!({"locale": "de"})).await.problem(422, "Idempotency-Key");
    put("k1", "bert", &body).await.problem(422, "Idempotency-Key");
    put("", "anna", &body).await.problem(422, "Idempotency-Key");
    let refused = put("k2", "anna", &json!({"email": "x"})).await;
    let again = put("k2", "anna", &json!({"email": "x"})).await;
    assert_eq!(
        (again.problem(422, "email"), again.headers["idempotency-replayed"].to_str().unwrap()),
        (&refused.body, "true")
    );
    let headers = [JSON, ("idempotency-key", "k1")];
    let other = house.call(Method::PUT, "/v1/members/anna", "other", &headers, body.to_string()).await;
    assert_eq!(other.status, 201, "each project has its own keys");
    let nobody = house.call(Method::PUT, "/v1/members/anna", "", &headers, body.to_string()).await;
    nobody.problem(401, "Authorization");
}

#[tokio::test]
async fn a_key_whose_request_failed_may_be_used_again() {
    let house = House::new().await;
    let headers = [JSON, ("idempotency-key", "k")];
    let send = async || house.call(Method::POST, "/v1/events", "events", &headers, event("a").to_string()).await;
    house.log.down.store(true, SeqCst);
    assert_eq!(send().await.status, 503);
    house.log.down.store(false, SeqCst);
    let answer = send().await;
    assert_eq!((answer.status.as_u16(), answer.headers.get("idempotency-replayed")), (202, None));

    house
        .store
        .all::<IdempotencyRow>()
        .into_iter()
        .for_each(|row| house.store.put(IdempotencyRow { status: None, ..row }));
    let busy = send().await;
    busy.problem(409, "Idempotency-Key");
    assert_eq!(busy.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_callback_counts_only_if_the_provider_signed_it() {
    let house = House::new().await;
    let call = async |path: &str, signature: &str, form: &str| {
        let headers = [("content-type", "application/x-www-form-urlencoded"), ("x-signature", signature)];
        house.call(Method::POST, path, "", &headers, form.to_owned()).await
    };
    let (path, signature) = ("/v1/webhooks/shop/main?r=tok%2Ben", "https://hooks.example.org/sms?r=tok%2Ben");
    let delivered = "MessageSid=SM1&MessageStatus=delivered&MessageStatus=x";
    call(path, "https://127.0.0.1/v1/webhooks/shop/main?r=tok%2Ben", delivered).await.problem(401, "signature");
    call("/v1/webhooks/shop/main?r=token", signature, delivered).await.problem(401, "signature");
    assert_eq!(house.told.all(), ["unverified main", "unverified main"]);
    assert!(house.log.appended(Topic::Receipts).is_empty());

    assert_eq!(call(path, signature, delivered).await.status, 204);
    let receipts: Vec<Receipt> = house.log.decoded(Topic::Receipts);
    assert_eq!((receipts.len(), receipts[0].provider.as_str()), (1, "main"));
    assert_eq!(house.log.appended(Topic::Receipts)[0].key, b"shop/anna");
    assert_eq!(call(path, signature, "MessageStatus=queued").await.status, 204);
    assert_eq!(house.log.appended(Topic::Receipts).len(), 1);

    house.log.down.store(true, SeqCst);
    assert_eq!(call(path, signature, delivered).await.status, 503, "not acknowledged before it is on the log");
    let json = house.call(Method::POST, path, "", &[JSON, ("x-signature", signature)], "{}").await;
    assert_eq!(json.status, 204, "what is no form has no parameters");
    let asked = house.call(Method::GET, "/v1/webhooks/shop/main?hub=7", "", &[], "").await;
    assert_eq!((asked.status.as_u16(), asked.body), (200, json!("hub=7")));
}

#[tokio::test]
async fn what_members_say_and_where_they_come_from_becomes_commands() {
    let house = House::new().await;
    let profile = |addresses: &[&str]| Profile {
        addresses: [(Channel::Sms, addresses.iter().map(|a| Address::active((*a).into(), NOW)).collect())].into(),
        ..Profile::default()
    };
    let index = |member: &str| AddressRow {
        project: "shop".into(),
        channel: "sms".into(),
        address: "+491".into(),
        member: member.into(),
        since: NOW,
    };
    for (member, addresses) in [("anna", &["+492", "+491"][..]), ("left", &["+493"])] {
        house.store.put(profile(addresses).into_row("shop", member));
        house.store.put(index(member));
    }
    house.store.put(LinkRow { link: "t0".into(), project: "shop".into(), member: "anna".into() });
    house.store.put(LinkRow { link: "t1".into(), project: "other".into(), member: "otto".into() });
    let call = async |form: &str| {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("x-signature", "https://hooks.example.org/sms")];
        house.call(Method::POST, "/v1/webhooks/shop/main", "", &headers, form.to_owned()).await.status.as_u16()
    };
    for (form, expected) in [
        ("From=%2B491&Body=Stop!", &[("anna", MemberAction::Heard), ("anna", MemberAction::OptOut)][..]),
        ("From=%2B491&Body=start", &[("anna", MemberAction::Heard), ("anna", MemberAction::OptIn)]),
        ("From=%2B491&Body=thanks", &[("anna", MemberAction::Heard)]),
        ("From=%2B499&Body=stop", &[]),
        ("Token=t0", &[("anna", MemberAction::AddAddress), ("anna", MemberAction::OptIn)]),
        ("Token=t1", &[]),
        ("Token=t2", &[]),
    ] {
        let before = house.log.appended(Topic::Members).len();
        assert_eq!(call(form).await, 204, "{form}");
        let commands: Vec<MemberCommand> = house.log.decoded(Topic::Members);
        let told: Vec<_> = commands[before..].iter().map(|c| (c.member.as_str(), c.action)).collect();
        assert_eq!(told, expected, "{form}");
    }
}

#[tokio::test]
async fn a_link_is_made_for_a_member_and_a_browser_needs_one() {
    let house = House::new().await;
    let made = house.post("/v1/members/anna/links", &json!({"channel": "web_push", "valid_seconds": 60})).await;
    let token = made.body["token"].as_str().unwrap();
    assert_eq!((made.status.as_u16(), token.len(), &made.body["url"]), (201, 32, &Value::Null));
    let rows = house.store.all::<LinkRow>();
    assert_eq!((rows[0].member.as_str(), rows[0].link.as_str()), ("anna", token));
    assert_eq!(house.store.ttls::<LinkRow>(), [Some(Duration::from_secs(60))]);
    for (body, status, field) in [
        (json!({"channel": "telegram"}), 422, "channel"),
        (json!({"channel": "sms"}), 422, "channel"),
        (json!({"channel": "web_push", "valid_seconds": 0}), 422, "valid_seconds"),
        (json!({}), 400, "body"),
    ] {
        house.post("/v1/members/anna/links", &body).await.problem(status, field);
    }
    let subscribe = async |token: &str| {
        let headers = [JSON, ("authorization", token)];
        let body = json!({"project": "shop", "subscription": {}}).to_string();
        house.call(Method::POST, "/v1/web-push/subscriptions", "", &headers, body).await
    };
    let stranger = subscribe("Bearer nobody").await;
    stranger.problem(401, "Authorization");
    assert_eq!(stranger.headers["access-control-allow-origin"], "*", "a page must be able to read why");
    subscribe(&format!("Bearer {token}")).await.problem(404, "project");
    house.get("/v1/web-push/key?project=shop").await.problem(404, "project");
    let asked = house.call(Method::OPTIONS, "/v1/web-push/subscriptions", "", &[], "").await;
    assert_eq!(
        (asked.status.as_u16(), &asked.headers["access-control-allow-headers"]),
        (204, &"authorization, content-type".parse().unwrap())
    );
    assert_eq!(house.get("/bellwether-sw.js").await.headers["content-type"], "text/javascript; charset=utf-8");
}

#[tokio::test]
async fn a_fault_in_a_handler_is_a_problem_document_and_the_server_lives_on() {
    let house = House::new().await;
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let answer = house.call(Method::POST, "/v1/webhooks/shop/panic", "", &headers, "a=b").await;
    assert_eq!(answer.status, 500);
    answer.is_problem();
    assert!(answer.headers.contains_key("x-request-id"));
    assert_eq!(house.get("/livez").await.status, 200);
}

#[tokio::test]
async fn probes_tell_how_it_stands() {
    let house = House::new().await;
    let answer = house.call(Method::GET, "/readyz", "", &[], "").await;
    assert_eq!((answer.status.as_u16(), &answer.body["ready"]), (200, &json!(true)));
    let names: Vec<_> = answer.body["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["log", "store", "definitions"]);
    house.store.down.store(true, SeqCst);
    house.log.stuck.store(true, SeqCst);
    let answer = house.call(Method::GET, "/readyz", "", &[], "").await;
    let oks: Vec<_> = answer.body["checks"].as_array().unwrap().iter().map(|c| c["ok"].as_bool().unwrap()).collect();
    assert_eq!((answer.status.as_u16(), oks), (503, vec![false, false, true]));
    assert!(!answer.body.to_string().contains("10.0.0"));
    let metrics = house.call(Method::GET, "/metrics", "", &[], "").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    assert_eq!(metrics.body, "up 1\n");
    assert!(house.get("/openapi.json").await.body["openapi"].as_str().unwrap().starts_with("3."));
}

#[tokio::test]
async fn a_request_keeps_its_id_if_it_is_a_sane_one() {
    let house = House::new().await;
    let id = async |given: &str| {
        house.call(Method::GET, "/livez", "", &[("x-request-id", given)], "").await.headers["x-request-id"].clone()
    };
    assert_eq!(id("abc-1").await, "abc-1");
    for bad in ["a b", "", &"x".repeat(200)] {
        assert!(Uuid::parse_str(id(bad).await.to_str().unwrap()).is_ok());
    }
}

#[derive(clap::Parser)]
enum Commands {
    Explain(crate::cli::Explain),
    #[command(name = "deadletters")]
    DeadLetters(crate::cli::DeadLetters),
    Members(crate::cli::Members),
    Suppressions(crate::cli::Suppressions),
}

/// Runs a command line against a house, as `bellwether` does.
async fn command(house: &House, line: &[&str]) -> anyhow::Result<()> {
    let line = [&["bellwether"], line, &["--url", &house.url, "--key", "key-of-all"]].concat();
    match <Commands as clap::Parser>::try_parse_from(line)? {
        Commands::Explain(command) => command.run().await,
        Commands::DeadLetters(command) => command.run().await,
        Commands::Members(command) => command.run().await,
        Commands::Suppressions(command) => command.run().await,
    }
}

#[tokio::test]
async fn the_commands_do_what_the_api_does() {
    use clap::CommandFactory;
    Commands::command().debug_assert();
    let house = House::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("members.csv");
    let rows: String = (0..3_000).map(|n| format!("import{n},m{n}@example.org\n")).collect();
    std::fs::write(&file, format!("id,email\n{rows}x,nobody\n")).unwrap();
    command(&house, &["members", "import", file.to_str().unwrap()]).await.unwrap();
    assert_eq!(house.store.all::<MemberRow>().len(), 3_000);
    assert!(command(&house, &["members", "import", "members.txt"]).await.unwrap_err().to_string().contains("--format"));

    for id in ["import", "a/b c?#%"] {
        command(&house, &["members", "put", id, r#"{"locale": "en"}"#]).await.unwrap();
        assert!(house.store.all::<MemberRow>().iter().any(|row| row.member == id), "{id}");
        command(&house, &["members", "get", id, "--json"]).await.unwrap();
        command(&house, &["members", "delete", id]).await.unwrap();
    }
    let refusal = command(&house, &["members", "put", "a", r#"{"email": "x"}"#]).await.unwrap_err().to_string();
    assert!(refusal.contains("`email`") && refusal.contains("remedy: "), "{refusal}");

    house.store.put(story_row(1, 0, "decision", "routed"));
    command(&house, &["explain", &Uuid::from_u128(1).to_string()]).await.unwrap();
    assert!(command(&house, &["explain", &Uuid::nil().to_string()]).await.is_err());

    (0..5).for_each(|n| house.store.put(dead_letter("shop", n, "2026-03-01", Reason::Invalid)));
    let id = format!("2026-03-01.{}", dead_letter("shop", 0, "2026-03-01", Reason::Invalid).id);
    command(&house, &["deadletters", "list", "--reason", "invalid"]).await.unwrap();
    command(&house, &["deadletters", "show", &id]).await.unwrap();
    command(&house, &["deadletters", "replay", &id]).await.unwrap();
    assert_eq!(house.log.appended(Topic::Events).len(), 1);
    command(&house, &["deadletters", "replay", "--reason", "invalid"]).await.unwrap();
    assert_eq!(house.log.appended(Topic::Events).len(), 5);
    assert!(command(&house, &["deadletters", "replay"]).await.is_err(), "nothing named");

    command(&house, &["suppressions", "add", "email", "a@b.org", "--reason", "by letter"]).await.unwrap();
    command(&house, &["suppressions", "list", "email"]).await.unwrap();
    command(&house, &["suppressions", "show", "email", "a@b.org"]).await.unwrap();
    let exported = folder.path().join("suppressions.csv");
    command(&house, &["suppressions", "export", exported.to_str().unwrap()]).await.unwrap();
    command(&house, &["suppressions", "remove", "email", "a@b.org"]).await.unwrap();
    assert!(house.store.all::<SuppressionRow>().is_empty());
    command(&house, &["suppressions", "import", exported.to_str().unwrap()]).await.unwrap();
    assert_eq!(house.store.all::<SuppressionRow>()[0].reason, "by letter");
    assert!(command(&house, &["suppressions", "show", "email", "b@b.org"]).await.is_err());
}

/// Bodies that are nearly right, and bodies that are nothing at all.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
        Just(json!("1.0")),
        Just(json!("email")),
        Just(json!({"a": "\u{0}"})),
    ];
    let names = prop_oneof![
        "[a-z_]{1,12}",
        proptest::sample::select(vec![
            "specversion",
            "id",
            "source",
            "type",
            "subject",
            "time",
            "data",
            "data_base64",
            "email",
            "phone",
            "locale",
            "time_zone",
            "quiet_hours",
            "channels",
            "opt_ins",
            "attributes",
            "ids",
            "filter",
            "project",
            "providers",
            "templates",
            "flows",
        ])
        .prop_map(str::to_owned),
    ];
    let tree = leaf.prop_recursive(3, 24, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(names.clone(), inner, 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    prop_oneof![
        3 => tree.prop_map(|value| value.to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => "(id,email\n)?[a-z,\"\n{}:=&%]{0,100}".prop_map(String::into_bytes),
        1 => (1usize..5_000).prop_map(|depth| vec![b'['; depth]),
    ]
}

#[test]
fn no_body_panics_or_fails_the_server() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let house = runtime.block_on(House::new());
    const MEDIA_TYPES: &[&str] = &[
        "application/json",
        "application/cloudevents+json",
        "application/cloudevents-batch+json",
        "application/x-www-form-urlencoded",
        "text/csv",
        "application/x-ndjson",
        "x/y",
    ];
    let paths = [
        (Method::POST, "/v1/events"),
        (Method::PUT, "/v1/members/anna"),
        (Method::POST, "/v1/members/anna/consents"),
        (Method::POST, "/v1/members/import"),
        (Method::POST, "/v1/suppressions/import"),
        (Method::PUT, "/v1/suppressions/email/a@b.org"),
        (Method::POST, "/v1/dead-letters/replay"),
        (Method::PUT, "/v1/definitions"),
        (Method::POST, "/v1/webhooks/shop/main?r=%00"),
    ];
    let given = (hostile(), proptest::sample::select(MEDIA_TYPES), 0..paths.len());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(600));
    let outcome = runner.run(&given, |(body, media_type, path)| {
        let (method, path) = &paths[path];
        let headers = [("content-type", media_type), ("ce-id", "x")];
        let call = house.call(method.clone(), path, "all", &headers, body);
        let answer = runtime.block_on(call);
        prop_assert!(answer.status.as_u16() < 500, "{} {}", answer.status, answer.body);
        if !answer.status.is_success() {
            answer.is_problem();
        }
        Ok(())
    });
    outcome.unwrap();
}
