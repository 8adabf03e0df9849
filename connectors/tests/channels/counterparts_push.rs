//! What we send, read by libraries that others wrote (`tests/counterparts`). `cargo xtask counterparts` installs them.

use super::{message, server, web_push, webhook};
use axum::{http::StatusCode, response::IntoResponse as _};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::channels::{Content, Message, Push, Sink as _, fcm, twilio, web_push as connector};
use bellwether_schemas::{Lane, records::ErrorKind};
use serde_json::{Value, json};
use std::{
    env,
    io::Write as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The browser's of RFC 8291 appendix A.
const BROWSER: &str = "q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94";
const P256DH: &str = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4";
const AUTH: &str = "BTBZMqHH6r4Tts7J_aSIgg";

fn package() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// A file of what is installed.
fn installed(file: &str) -> PathBuf {
    let home = env::var_os("BELLWETHER_SERVICES_HOME").map_or_else(|| package().join("../.services"), PathBuf::from);
    let path = home.join("counterparts").join(file);
    assert!(path.exists(), "{} is missing: install it with `cargo xtask counterparts`", path.display());
    path
}

/// Asks `check.py`.
fn check(what: &str, question: &Value) -> Value {
    let mut python = Command::new(installed("python/bin/python"))
        .arg(package().join("tests/counterparts/check.py"))
        .arg(what)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn push() -> Push {
    Push { title: "Grüße".into(), body: "x".repeat(2_900), ..Push::default() }
}

#[tokio::test]
async fn http_ece_decrypts_our_push_and_py_vapid_knows_our_token() {
    let (at, log) = server::serve(|_| Some(StatusCode::CREATED.into_response())).await;
    let subscription = json!({"endpoint": format!("http://{at}/push"), "keys": {"p256dh": P256DH, "auth": AUTH}});
    let sent = message(1, &subscription.to_string(), Content::Push(push()));
    web_push::sink(json!({})).send(&sent).await.unwrap();
    let seen = log.last();
    let read = check(
        "web_push",
        &json!({"authorization": seen.header("authorization"), "body": URL_SAFE_NO_PAD.encode(&seen.body),
            "private_key": BROWSER, "auth": AUTH}),
    );
    assert_eq!(read, json!({"title": "Grüße", "body": "x".repeat(2_900), "tag": seen.header("topic")}));
}

#[tokio::test]
async fn standardwebhooks_verifies_our_webhook_by_either_secret() {
    let (at, log) = webhook::start().await;
    webhook::sink(at, json!({})).send(&webhook::to("crm-7")).await.unwrap();
    let seen = log.last();
    let headers = ["webhook-id", "webhook-timestamp", "webhook-signature"].map(|name| (name, seen.header(name)));
    let read = check(
        "webhook",
        &json!({"secrets": [webhook::SECRET, webhook::OLD_SECRET], "body": String::from_utf8_lossy(&seen.body),
            "headers": std::collections::BTreeMap::from(headers)}),
    );
    assert_eq!(read["data"], json!({"text": "Grüße"}));
}

#[test]
fn googles_own_description_of_fcm_takes_every_field_that_we_send() {
    let config: fcm::Config = serde_json::from_value(json!({"service_account": {"env": "X"}})).unwrap();
    let data = [("order", "A-1001"), ("n", "7")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    let link = |path: &str| Some(format!("https://h.example/{path}"));
    let push = Push {
        title: "Grüße".into(),
        body: "Hi".into(),
        url: link("c/1"),
        icon: link("i.png"),
        image: link("a.png"),
        data: data.into(),
        delivered_url: link("d/1"),
        clicked_url: link("k/1"),
    };
    let sent = |to: &str, lane, ttl| {
        let message = Message { lane, ttl, ..message(1, to, Content::Push(push.clone())) };
        config.request(&message).unwrap()
    };
    let long = sent("fcm:token-1", Lane::Transactional, Some(Duration::from_secs(90)));
    let short = sent("fcm:cHZ5dGhpcyBpcyBhIGZpZA", Lane::Bulk, None);
    assert_eq!(
        (&long["message"]["token"], &short["message"]["fid"]),
        (&json!("token-1"), &json!("cHZ5dGhpcyBpcyBhIGZpZA"))
    );
    // It would refuse what is not so.
    let (mut unknown, mut wrong) = (long.clone(), long.clone());
    unknown["message"]["tokens"] = json!(["a"]);
    wrong["message"]["data"]["n"] = json!(7);
    let refused = check("fcm", &json!([unknown, wrong]));
    assert_eq!(refused, json!([[".message.tokens is unknown"], [".message.data.n is no string"]]));
    assert_eq!(check("fcm", &json!([long, short])), json!([[], []]));
}

/// Twilio's API as Twilio describes it, mocked by Prism, which refuses requests that are not so; it ends with the test.
struct Mock(Child, String);

impl Drop for Mock {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Mock {
    async fn start() -> Self {
        let prism = installed("node/node_modules/@stoplight/prism-cli/dist/index.js");
        let api = installed("node/node_modules/@twilio/cli-core/src/services/twilio-api/twilio_api_v2010.json");
        let port = server::nobody().port().to_string();
        let mut node = Command::new("node");
        node.arg(prism).args(["mock", "--errors", "--host", "127.0.0.1", "--port", &port]).arg(api);
        let child =
            node.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("node: install Debian's package nodejs");
        let mock = Self(child, format!("http://127.0.0.1:{port}"));
        let deadline = Instant::now() + Duration::from_secs(120);
        while reqwest::get(&mock.1).await.is_err() {
            assert!(Instant::now() < deadline, "Prism does not answer");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        mock
    }
}

#[tokio::test]
async fn twilios_own_description_takes_every_field_that_we_send() {
    let mock = Mock::start().await;
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "t").unwrap();
    let sid = |kind: &str| format!("{kind}{}", "0a".repeat(16));
    let sink = |account: &str, sender: (&str, &str)| {
        let mut config = json!({"account_sid": account, "auth_token": {"file": token}, "base_url": mock.1,
            "status_callback_url": "https://h.example/v1/webhooks/shop/test"});
        config[sender.0] = json!(sender.1);
        twilio::TwilioSink::new(serde_json::from_value(config).unwrap()).unwrap()
    };
    let text = message(1, "+15558675310", Content::Text { body: "Grüße & 1+1=2\n".into() });
    for sender in [("from", "+15557122661"), ("from", "Shop"), ("messaging_service_sid", &sid("MG"))] {
        let sent = sink(&sid("AC"), sender).send(&text).await;
        // A mock makes up what it answers, so the answer proves only that the request was taken.
        assert!(sent.as_ref().is_ok_and(|taken| taken.provider_id.is_some()), "{sender:?}: {sent:?}");
    }
    let refused = sink("AC1", ("from", "Shop")).send(&text).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Rejected, "an account that is none: {refused}");
}

/// A push service that nobody here wrote; it ends with the test.
struct Service(Child, String);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

impl Service {
    async fn start() -> Self {
        let modules = installed("node/node_modules");
        installed("node/node_modules/web-push-testing");
        let port = server::nobody().port();
        let script = package().join("tests/counterparts/push_service.js");
        let mut node = Command::new("node");
        let child = node.arg(script).arg(port.to_string()).env("NODE_PATH", modules).stdout(Stdio::null()).spawn();
        let service = Self(child.expect("node: install Debian's package nodejs"), format!("http://localhost:{port}"));
        let deadline = Instant::now() + Duration::from_secs(30);
        while reqwest::Client::new().post(format!("{}/status", service.1)).send().await.is_err() {
            assert!(Instant::now() < deadline, "the push service does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        service
    }

    async fn ask(&self, path: &str, question: &Value) -> Value {
        let request = reqwest::Client::new().post(format!("{}/{path}", self.1)).json(question);
        let text = request.send().await.unwrap().text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }
}

#[tokio::test]
async fn a_push_service_takes_our_push_until_the_subscription_ends() {
    let service = Service::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("key");
    let (private, public) = connector::generate_vapid().unwrap();
    std::fs::write(&file, private).unwrap();
    let sink = web_push::sink(json!({"vapid_private_key": {"file": file}}));

    let subscription =
        service.ask("subscribe", &json!({"userVisibleOnly": "true", "applicationServerKey": public})).await["data"]
            .take();
    let parsed = connector::Subscription::parse(&subscription.to_string(), connector::Hosts::Any).unwrap();
    let sent: Message = message(1, &parsed.to_string(), Content::Push(push()));
    sink.send(&sent).await.unwrap();
    let hash = subscription["clientHash"].as_str().unwrap();
    let got = service.ask("get-notifications", &json!({"clientHash": hash})).await;
    let text: Value = serde_json::from_str(got["data"]["messages"][0].as_str().unwrap()).unwrap();
    assert_eq!(text["title"], "Grüße");

    // Another key than the browser subscribed with; the service is none that we know.
    let error = web_push::sink(json!({})).send(&sent).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unreachable, "{error}");
    service.ask(&format!("expire-subscription/{hash}"), &json!({})).await;
    assert_eq!(sink.send(&sent).await.unwrap_err().kind, ErrorKind::InvalidAddress);
}
