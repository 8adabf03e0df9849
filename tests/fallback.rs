//! Another channel for what does not arrive, through the whole pipeline, embedded: an e-mail that is refused becomes a text at once, one of which nothing is
//! heard becomes a text in time, and one that arrived becomes none.
#![allow(clippy::unwrap_used, missing_docs)]

mod house;

use axum::{Router, body::Bytes, extract::State, http::StatusCode};
use bellwether::receivers::{SmtpOptions, SmtpReceiver};
use bellwether_schemas::{
    Channel, DeliveryId, NotificationId, Timestamp,
    records::{ErrorKind, Receipt, ReceiptKind, Record},
};
use house::{House, until};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// Each e-mail has a day.
const PATIENT: &str = "patient";
/// Each e-mail has a second.
const HASTY: &str = "hasty";

/// Numbers that Twilio was asked to send to.
type Texts = Arc<Mutex<Vec<String>>>;

async fn twilio(State(texts): State<Texts>, body: Bytes) -> (StatusCode, String) {
    let url = reqwest::Url::parse(&format!("http://x/?{}", String::from_utf8_lossy(&body))).unwrap();
    let to = url.query_pairs().find(|(name, _)| name == "To").unwrap().1.into_owned();
    texts.lock().unwrap().push(to);
    (StatusCode::CREATED, json!({"sid": "SM1", "status": "queued"}).to_string())
}

async fn start(folder: &std::path::Path) -> (House, SmtpReceiver, Texts) {
    let texts = Texts::default();
    let router = Router::new().fallback(twilio).with_state(Arc::clone(&texts));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    let mail = SmtpReceiver::start(([127, 0, 0, 1], 0).into(), SmtpOptions::default()).await.unwrap();
    let house = House::start(folder, &[PATIENT.into(), HASTY.into()], |_| {}).await;
    std::fs::write(folder.join("token"), "t").unwrap();
    for (project, after) in [(PATIENT, 86_400), (HASTY, 1)] {
        let document = json!({
            "project": {"name": project, "default_locale": "en"},
            "providers": {
                "mail": {"kind": "smtp", "host": "127.0.0.1", "port": mail.addr().port(), "security": "none", "from_address": "a@shop.example"},
                "text": {"kind": "twilio", "account_sid": "AC1", "auth_token": {"file": folder.join("token")}, "from": "+15550002222",
                    "base_url": format!("http://{at}")},
            },
            "templates": {"t": {"channels": {"email": {"en": {"subject": "Hi", "text": "Hi"}}, "sms": {"en": {"text": "Hi"}}}}},
            "flows": {"f": {"on": "go", "notify": {
                "template": "t", "lane": "transactional", "channels": ["email", "sms"], "fallback": {"after_seconds": after},
            }}},
        });
        let (status, answer) = house.call(project, Method::PUT, "/v1/definitions", document).await;
        assert_eq!(status, 200, "{project}: {answer:#}");
    }
    (house, mail, texts)
}

/// The one notification of an event.
async fn story(house: &House, project: &str, event: &str, member: &str) -> Value {
    let answer = house.get(project, &format!("/v1/notifications?event={event}&member={member}")).await;
    answer["notifications"][0].clone()
}

/// Outcomes and channels of its decisions, in order.
fn decisions(story: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let lines = story["story"].as_array().into_iter().flatten().filter(|line| line["kind"] == "decision");
    lines.map(|line| (text(&line["outcome"]).unwrap(), text(&line["channel"]))).collect()
}

/// Waits until so many decisions are on record.
async fn decided(house: &House, project: &str, event: &str, member: &str, count: usize) -> Value {
    until(&format!("{count} decisions for {member}"), async || {
        let story = story(house, project, event, member).await;
        (decisions(&story).len() >= count).then_some(story)
    })
    .await
}

/// A receipt of the e-mail, as a provider's report makes one.
fn receipt(project: &str, member: &str, story: &Value, kind: ReceiptKind, error: Option<ErrorKind>) -> Record {
    let id = |value: &Value| value.as_str().unwrap().parse().unwrap();
    let routed = story["story"].as_array().unwrap().iter().find(|line| line["channel"] == "email").unwrap();
    Record::Receipt(Receipt {
        delivery: DeliveryId(id(&routed["delivery"])),
        notification: NotificationId(id(&story["id"])),
        project: project.into(),
        member: member.into(),
        template: "t".into(),
        channel: Channel::Email,
        kind,
        at: Timestamp::parse(routed["at"].as_str().unwrap()).unwrap(),
        attempt: 1,
        provider: "mail".into(),
        provider_id: Some("1".into()),
        error,
        detail: None,
        address: None,
    })
}

fn both() -> Vec<(String, Option<String>)> {
    ["email", "sms"].map(|channel| ("routed".to_owned(), Some(channel.to_owned()))).to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_arrive_goes_by_another_channel() {
    let folder = tempfile::tempdir().unwrap();
    let (house, _mail, texts) = start(folder.path()).await;
    for (project, member, local, phone) in [
        (PATIENT, "ana", "permfail", "+34600000001"),
        (PATIENT, "eva", "eva", "+34600000002"),
        (HASTY, "bea", "bea", "+34600000003"),
    ] {
        let profile = json!({"email": format!("{local}@example.com"), "phone": phone});
        house.put_member(project, member, &profile).await;
    }

    // Refused: the text goes at once, a day before the e-mail's time is over.
    let event = house.event(PATIENT, "1", "ana").await;
    let told = decided(&house, PATIENT, &event, "ana", 2).await;
    assert_eq!(decisions(&told), both(), "{told:#}");
    house.status(PATIENT, &event, "ana", "sent").await;

    // Nothing heard: the text goes in time, and that the e-mail arrived all the same is on record and changes nothing.
    let event = house.event(HASTY, "1", "bea").await;
    let told = decided(&house, HASTY, &event, "bea", 2).await;
    assert_eq!(decisions(&told), both(), "{told:#}");
    house.append(&receipt(HASTY, "bea", &told, ReceiptKind::Delivered, None)).await;
    house.status(HASTY, &event, "bea", "delivered").await;

    // Arrived: its return afterwards sends nothing.
    let event = house.event(PATIENT, "2", "eva").await;
    let told = decided(&house, PATIENT, &event, "eva", 1).await;
    house.append(&receipt(PATIENT, "eva", &told, ReceiptKind::Delivered, None)).await;
    house.status(PATIENT, &event, "eva", "delivered").await;
    house.append(&receipt(PATIENT, "eva", &told, ReceiptKind::Failed, Some(ErrorKind::Rejected))).await;
    let told = decided(&house, PATIENT, &event, "eva", 2).await;
    assert_eq!((&told["status"], &decisions(&told)[1].0), (&json!("delivered"), &"cancelled".to_owned()), "{told:#}");

    house.at_rest().await;
    let mut texts = texts.lock().unwrap().clone();
    texts.sort();
    assert_eq!(texts, ["+34600000001", "+34600000003"]);
    house.instance.stop().await.unwrap();
}
