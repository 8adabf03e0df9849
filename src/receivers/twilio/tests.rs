//! Calls the receiver as a client of Twilio's would, and takes its callbacks as our server would.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::receivers::{
    http::{Callbacks, HttpOptions, HttpReceiver},
    test_support::{MINUTE, Server, client, receiver_with},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicU32},
    time::{Duration, Instant},
};
use tokio::net::TcpListener;

const ACCOUNT: &str = "AC00000000000000000000000000000001";
const TOKEN: &str = "12345";

fn options() -> HttpOptions {
    HttpOptions::default()
}

async fn receiver(options: HttpOptions) -> HttpReceiver {
    receiver_with(Twilio::new(ACCOUNT, TOKEN), options).await
}

/// Posts a message; status and body of the answer.
async fn post_form(receiver: &HttpReceiver, form: &[(&str, &str)]) -> reqwest::Result<(StatusCode, serde_json::Value)> {
    let url = format!("{}/2010-04-01/Accounts/{ACCOUNT}/Messages.json", receiver.url());
    let answer = client().post(url).basic_auth(ACCOUNT, Some(TOKEN)).form(form).send().await?;
    Ok((answer.status(), answer.json().await?))
}

async fn send(receiver: &HttpReceiver, to: &str, body: &str) -> (StatusCode, serde_json::Value) {
    post_form(receiver, &[("To", to), ("From", "+34600000000"), ("Body", body)]).await.unwrap()
}

/// The signature and the parameters of each callback.
fn called(home: &Server) -> Vec<(String, BTreeMap<String, String>)> {
    let read = |call: &Call| {
        (call.header("x-twilio-signature").to_owned(), crate::receivers::form(&call.body).into_iter().collect())
    };
    home.calls().iter().map(read).collect()
}

fn statuses(home: &Server) -> Vec<String> {
    called(home).iter().map(|(_, parameters)| parameters["MessageStatus"].clone()).collect()
}

async fn send_reported(receiver: &HttpReceiver, to: &str, hook: &str) -> serde_json::Value {
    let form = [("To", to), ("From", "+34600000000"), ("Body", "hola"), ("StatusCallback", hook)];
    let (status, body) = post_form(receiver, &form).await.unwrap();
    assert_eq!(status, StatusCode::CREATED);
    assert!(receiver.wait_for(|received| received.callbacks.pending == 0, MINUTE).await);
    body
}

#[test]
fn the_signature_is_twilios() {
    let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
    let parameters = [
        ("Digits", "1234"),
        ("To", "+18005551212"),
        ("From", "+14158675309"),
        ("Caller", "+14158675309"),
        ("CallSid", "CA1234567890ABCDE"),
    ];
    assert_eq!(sign("12345", url, &parameters), "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
}

#[tokio::test]
async fn a_message_is_taken_and_recorded() {
    let receiver = receiver(options()).await;
    let (status, body) = send(&receiver, "+34612345678", "hola").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!((body["status"].as_str(), body["to"].as_str()), (Some("queued"), Some("+34612345678")));
    let sid = body["sid"].as_str().unwrap();
    assert!(sid.starts_with("SM") && sid.len() == 34, "{sid}");
    let received = receiver.snapshot();
    let text = &received.messages[0];
    assert_eq!((&*text.id, text.draft.body.as_str(), text.answered), (sid, "hola", true));
    assert_eq!((received.taken, received.times["+34612345678 hola"], receiver.count()), (1, 1, 1));
    assert!(!format!("{text:?}").contains("+346"), "Debug shows no number");
}

#[tokio::test]
async fn bad_requests_get_twilios_codes() {
    let receiver = receiver(options()).await;
    let long = "x".repeat(1601);
    let (to, from, body) = (("To", "+34612345678"), ("From", "+34600000000"), ("Body", "hola"));
    let cases: [(&[(&str, &str)], u32); 9] = [
        (&[from, body], 21604),
        (&[to, body], 21603),
        (&[to, from], 21602),
        (&[to, from, ("Body", "")], 21602),
        (&[("To", "612345678"), from, body], 21211),
        (&[("To", "+34 612 345 678"), from, body], 21211),
        (&[to, from, ("Body", &long)], 21658),
        (&[to, from, body, ("StatusCallback", "ftp://example.com")], 21609),
        (&[("To", "+34612340007"), from, body], 21610),
    ];
    for (form, code) in cases {
        let (status, answer) = post_form(&receiver, form).await.unwrap();
        assert_eq!((status.as_u16(), answer["code"].as_u64()), (400, Some(code.into())), "{code}");
        assert_eq!(answer["status"], 400);
    }
    assert_eq!(receiver.count(), 0);
    assert_eq!(receiver.snapshot().refused.values().sum::<u64>(), 9);
}

#[tokio::test]
async fn only_the_account_with_its_token_comes_in() {
    let receiver = receiver(options()).await;
    let account = format!("{}/2010-04-01/Accounts/{ACCOUNT}.json", receiver.url());
    let fetch = async |token: &str| {
        let answer = client().get(&account).basic_auth(ACCOUNT, Some(token)).send().await.unwrap();
        (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap())
    };
    let (status, body) = fetch(TOKEN).await;
    assert_eq!((status, body["status"].as_str()), (200, Some("active")));
    let (status, body) = fetch("wrong").await;
    assert_eq!((status, body["code"].as_u64()), (401, Some(20003)));
    let messages = format!("{}/2010-04-01/Accounts/{ACCOUNT}/Messages.json", receiver.url());
    let answer = client().post(messages).form(&[("To", "+34612345678")]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "before anything is said of the parameters");
    let elsewhere = format!("{}/2010-04-01/Calls.json", receiver.url());
    assert_eq!(client().get(elsewhere).send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_last_digits_choose_the_refusal() {
    let receiver = receiver(options()).await;
    let cases: [(&str, &[u16]); 4] = [
        ("+34612340001", &[400, 400]),
        ("+34612340002", &[429, 201, 429, 201]),
        ("+34612340003", &[500, 500, 201]),
        ("+34612340007", &[400, 400]),
    ];
    for (to, statuses) in cases {
        for (n, expected) in statuses.iter().enumerate() {
            assert_eq!(send(&receiver, to, "hola").await.0.as_u16(), *expected, "{to}, try {n}");
        }
    }
    let refused = receiver.snapshot().refused;
    assert_eq!(
        refused,
        HashMap::from([("21614", 2), ("20429", 2), ("20500", 2), ("21610", 2)].map(|(code, n)| (code.to_owned(), n)))
    );
}

#[tokio::test]
async fn slow_answers_late_and_silent_never() {
    let slow = Duration::from_millis(60);
    let receiver = receiver(HttpOptions { slow, silent: Duration::from_millis(30), ..options() }).await;
    let start = Instant::now();
    assert_eq!(send(&receiver, "+34612340004", "hola").await.0, StatusCode::CREATED);
    assert!(start.elapsed() >= slow);
    let form = [("To", "+34612340006"), ("From", "+34600000000"), ("Body", "hola")];
    let error = post_form(&receiver, &form).await.unwrap_err();
    assert!(error.is_request(), "the connection ends before a status line: {error:?}");
    let received = receiver.snapshot();
    assert_eq!((received.taken, received.unanswered), (2, 1));
    assert_eq!(received.messages.iter().map(|text| text.answered).collect::<Vec<_>>(), [true, false]);
}

#[tokio::test]
async fn callbacks_are_signed_over_all_their_parameters() {
    let home = Server::start().await;
    let hook = home.url("/hook?ref=abc&x=1");
    let receiver = receiver(options()).await;
    let message = send_reported(&receiver, "+34612345678", &hook).await;
    assert_eq!(statuses(&home), ["sent", "delivered"]);
    for (signature, parameters) in called(&home) {
        let pairs: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(signature, sign(TOKEN, &hook, &pairs));
        assert_eq!(parameters["MessageSid"], message["sid"].as_str().unwrap());
        assert_eq!((parameters["To"].as_str(), parameters["AccountSid"].as_str()), ("+34612345678", ACCOUNT));
    }
    let received = receiver.snapshot();
    assert_eq!(received.callbacks, Callbacks { acknowledged: 2, ..Callbacks::default() });
    assert_eq!(received.times["+34612345678 hola"], 1);
}

#[tokio::test]
async fn the_last_digits_choose_the_callbacks() {
    let home = Server::start().await;
    let hook = home.url("/hook");
    let receiver = receiver(options()).await;
    send_reported(&receiver, "+34612340005", &hook).await;
    assert_eq!(statuses(&home), ["sent", "undelivered"]);
    assert_eq!(called(&home)[1].1["ErrorCode"], "30005");
    home.forget();
    send_reported(&receiver, "+34612340008", &hook).await;
    assert_eq!(statuses(&home), ["delivered", "sent", "delivered", "sent"]);
}

#[tokio::test]
async fn callbacks_outlive_a_server_that_is_down_or_broken() {
    // A free port on which nobody listens yet: our server is dead.
    let reserved = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let addr = reserved.local_addr().unwrap();
    drop(reserved);
    let receiver = receiver(options()).await;
    let hook = format!("http://{addr}/hook");
    let form = [("To", "+34612345678"), ("From", "+34600000000"), ("Body", "hola"), ("StatusCallback", &hook)];
    assert_eq!(post_form(&receiver, &form).await.unwrap().0, StatusCode::CREATED);
    assert!(receiver.wait_for(|received| received.callbacks.retried > 1, MINUTE).await);

    let home = Server { failures: Arc::new(AtomicU32::new(2)), ..Server::default() }.listen(addr).await;
    assert!(receiver.wait_for(|received| received.callbacks.pending == 0, MINUTE).await);
    assert_eq!(statuses(&home), ["sent", "delivered"]);
    assert_eq!(receiver.snapshot().callbacks.acknowledged, 2);
}

#[tokio::test]
async fn a_refused_callback_is_not_repeated_and_patience_ends() {
    let home = Server { status: StatusCode::FORBIDDEN, ..Server::default() }.listen(([127, 0, 0, 1], 0).into()).await;
    let hook = home.url("/hook");
    let strict = receiver(options()).await;
    send_reported(&strict, "+34612345678", &hook).await;
    assert_eq!(strict.snapshot().callbacks, Callbacks { refused: 2, ..Callbacks::default() });

    home.failures.store(u32::MAX, std::sync::atomic::Ordering::SeqCst);
    let hasty = receiver(HttpOptions { callback_patience: Duration::ZERO, ..options() }).await;
    send_reported(&hasty, "+34612345678", &hook).await;
    assert_eq!(hasty.snapshot().callbacks, Callbacks { abandoned: 2, ..Callbacks::default() });
}

#[tokio::test]
async fn one_request_too_many_is_told_to_wait() {
    let receiver = receiver(HttpOptions { max_concurrent: 1, ..options() }).await;
    let held = send(&receiver, "+34612340004", "hola");
    tokio::pin!(held);
    let taken = receiver.wait_for(|received| received.taken == 1, MINUTE);
    tokio::select! {
        _ = &mut held => unreachable!("the slow answer came before the message was seen"),
        taken = taken => assert!(taken),
    }
    let (status, answer) = send(&receiver, "+34612345678", "hola").await;
    assert_eq!((status.as_u16(), answer["code"].as_u64()), (429, Some(20429)));
    assert_eq!(held.await.0, StatusCode::CREATED);
}

#[tokio::test]
async fn only_the_last_messages_are_kept_whole() {
    let receiver = receiver(HttpOptions { keep: 2, ..options() }).await;
    for body in ["one", "two", "three"] {
        send(&receiver, "+34612345678", body).await;
    }
    let received = receiver.snapshot();
    let kept: Vec<(u64, &str)> = received.messages.iter().map(|text| (text.number, text.draft.body.as_str())).collect();
    assert_eq!((kept.as_slice(), received.taken), ([(1, "two"), (2, "three")].as_slice(), 3));
}

#[tokio::test]
async fn dropping_the_receiver_ends_what_it_holds() {
    let receiver = receiver(options()).await;
    let url = format!("{}/2010-04-01/Accounts/{ACCOUNT}/Messages.json", receiver.url());
    let form = [("To", "+34612340006"), ("From", "+34600000000"), ("Body", "hola")];
    let held = tokio::spawn(client().post(url).basic_auth(ACCOUNT, Some(TOKEN)).form(&form).send());
    assert!(receiver.wait_for(|received| received.unanswered == 1, MINUTE).await);
    drop(receiver);
    let ended = tokio::time::timeout(MINUTE / 2, held).await.unwrap().unwrap();
    assert!(ended.is_err(), "no answer");
}
