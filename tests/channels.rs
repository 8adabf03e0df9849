//! Every channel through the whole pipeline, embedded: an event goes in, a message stands at a receiver shaped like the provider, and what comes
//! back by the provider's own door (receipts, STOP, a linked chat, a subscribed browser, a bounce by mail) changes the story and the member.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "channels/polling.rs"]
mod polling;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether::{
    backends::ensure_key,
    config::Config,
    serve::{Instance, Role},
};
use bellwether_connectors::channels::web_push::generate_vapid;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};

/// Longest wait for anything: it ends the test, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver in the shapes of all HTTP providers: path and body of every call.
#[derive(Clone, Default)]
struct Receiver(Arc<Mutex<Vec<(String, Vec<u8>)>>>);

impl Receiver {
    async fn start() -> (Self, SocketAddr) {
        let receiver = Self::default();
        let router = Router::new().fallback(answer).with_state(receiver.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        (receiver, address)
    }

    /// The body of the `n`-th call whose path contains this.
    async fn body(&self, part: &str, n: usize) -> Vec<u8> {
        until(part, async || {
            let calls = self.0.lock().unwrap();
            calls.iter().filter(|(path, _)| path.contains(part)).nth(n).map(|(_, body)| body.clone())
        })
        .await
    }

    async fn json(&self, part: &str, n: usize) -> Value {
        serde_json::from_slice(&self.body(part, n).await).unwrap()
    }
}

async fn answer(State(receiver): State<Receiver>, uri: Uri, body: Bytes) -> Response {
    let path = uri.path().to_owned();
    let number = {
        let mut calls = receiver.0.lock().unwrap();
        calls.push((path.clone(), body.to_vec()));
        calls.len()
    };
    let json = |value: Value| axum::Json(value).into_response();
    match path.as_str() {
        p if p.contains("/message_templates") => json(templates(uri.query().unwrap_or_default())),
        p if p.contains("/graph/") => json(json!({"messages": [{"id": format!("wamid.{number}")}]})),
        p if p.contains("/bot") => {
            json(json!({"ok": true, "result": {"message_id": number, "date": 1, "chat": {"id": 7}}}))
        }
        p if p.contains("/token") => json(json!({"access_token": "t", "expires_in": 3600, "token_type": "Bearer"})),
        p if p.contains("messages:send") => json(json!({"name": format!("projects/p/messages/{number}")})),
        p if p.contains("/push/") => (StatusCode::CREATED, [("location", "/m/1")]).into_response(),
        _ => StatusCode::NO_CONTENT.into_response(),
    }
}

/// Meta's list of templates, one a page.
fn templates(query: &str) -> Value {
    let template = |name: &str, status: &str, body: &str| {
        json!({"name": name, "language": "en", "status": status, "category": "UTILITY", "id": name, "parameter_format": "POSITIONAL",
            "components": [{"type": "BODY", "text": body}]})
    };
    if query.contains("after=2") {
        return json!({"data": [template("tips", "PAUSED", "Hi")], "paging": {"cursors": {"before": "2", "after": "3"}}});
    }
    json!({"data": [template("hello", "APPROVED", "Hi {{1}}")], "paging": {"cursors": {"before": "1", "after": "2"}, "next": "https://elsewhere.example/"}})
}

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

struct House {
    client: Client,
    base: String,
    key: String,
}

impl House {
    async fn call(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.request(method, format!("{}{path}", self.base)).bearer_auth(&self.key);
        let answer = request.json(&body).send().await.unwrap();
        let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn event(&self, id: &str, member: &str, channel: &str) -> String {
        let event = json!({"specversion": "1.0", "id": id, "source": "/t", "type": format!("to.{channel}"), "subject": member,
            "data": {"name": "Ana & Co"}});
        let request = self.client.post(format!("{}/v1/events", self.base)).bearer_auth(&self.key);
        let request = request.header("content-type", "application/cloudevents+json").body(event.to_string());
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        answer["events"][0]["event_id"].as_str().unwrap().to_owned()
    }

    /// Waits until the one notification of an event stands at this status.
    async fn status(&self, event: &str, member: &str, status: &str) {
        let path = format!("/v1/notifications?event={event}&member={member}");
        let mut last = Value::Null;
        let begun = Instant::now();
        while last["notifications"][0]["status"] != status {
            assert!(begun.elapsed() < PATIENCE, "not {status}: {last:#}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            last = self.call(Method::GET, &path, Value::Null).await.1;
        }
    }

    async fn member(&self, id: &str) -> Value {
        self.call(Method::GET, &format!("/v1/members/{id}"), Value::Null).await.1
    }
}

/// An instance with one provider a channel, all of them at the receiver.
async fn house(folder: &Path, at: SocketAddr) -> (Instance, House, SocketAddr) {
    let secret = |name: &str, value: &str| {
        fs::write(folder.join(name), value).unwrap();
        json!({"file": folder.join(name)})
    };
    let (vapid, _) = generate_vapid().unwrap();
    let key = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
    let account = json!({"type": "service_account", "project_id": "p", "private_key_id": "k", "client_email": "b@p.example",
        "private_key": String::from_utf8(key).unwrap(), "token_uri": format!("http://{at}/token")});
    let mut config =
        Config { data_dir: folder.join("data"), default_project: Some("shop".into()), ..Config::default() };
    config.listen = ([127, 0, 0, 1], 0).into();
    config.mail.listen = Some(([127, 0, 0, 1], 0).into());
    config.mail.domains = vec!["bounce.example".into()];
    let key_file = ensure_key(&mut config).unwrap().unwrap();
    let instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await.unwrap();
    let base = format!("http://{}", instance.address.unwrap());
    let house = House { client: Client::new(), base, key: fs::read_to_string(key_file).unwrap() };

    let template =
        |variant: Value, channel: &str| json!({"channels": {channel: {"en": variant}}, "sample": {"name": "Ana"}});
    let flow = |channel: &str| json!({"on": format!("to.{channel}"), "notify": {"template": channel, "lane": "transactional"}});
    let channels = [
        (
            "whatsapp",
            json!({"template": {"name": "hello", "language": "en", "parameters": ["{{ name }}"]}, "text": "Hi {{ name }}"}),
        ),
        (
            "telegram",
            json!({"html": "<b>Hi</b> {{ name }}", "buttons": [{"text": "Open", "url": "https://shop.example/?n={{ name | urlencode }}"}]}),
        ),
        ("web_push", json!({"title": "Hi", "text": "{{ name }}", "url": "https://shop.example/"})),
        ("app_push", json!({"title": "Hi", "text": "{{ name }}", "data": {"n": "{{ name }}"}})),
        ("webhook", json!({"json": "{\"who\": {{ name }}}"})),
        (
            "email",
            json!({"subject": "Hi", "html": "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ name }}</mj-text></mj-column></mj-section></mj-body></mjml>"}),
        ),
    ];
    let document = json!({
        "project": {"name": "shop", "default_locale": "en"},
        "providers": {
            "wa": {"kind": "whatsapp_cloud", "phone_number_id": "1", "access_token": secret("wa-token", "t"), "app_secret": secret("wa-secret", "s"),
                "verify_token": secret("wa-verify", "v"), "waba_id": "102", "base_url": format!("http://{at}/graph")},
            "tg": {"kind": "telegram", "bot_token": secret("tg-token", "1:A"), "webhook_secret": secret("tg-secret", "word"), "username": "shop_bot",
                "base_url": format!("http://{at}")},
            "wp": {"kind": "web_push", "vapid_private_key": secret("vapid", &vapid), "subject": "mailto:a@shop.example", "allow_private_endpoints": true},
            "fcm": {"kind": "fcm", "service_account": secret("fcm", &account.to_string()), "base_url": format!("http://{at}")},
            "hook": {"kind": "webhook", "url": format!("http://{at}/hook"), "secret": secret("hook", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")},
            "mail": {"kind": "smtp", "host": "127.0.0.1", "port": smtp_sink().await.port(), "security": "none", "from_address": "a@shop.example",
                "return_path_domain": "bounce.example", "return_path_key": secret("return", "0123456789abcdef0123")},
        },
        "templates": channels.iter().map(|(channel, variant)| ((*channel).to_owned(), template(variant.clone(), channel))).collect::<serde_json::Map<_, _>>(),
        "flows": channels.iter().map(|(channel, _)| ((*channel).to_owned(), flow(channel))).collect::<serde_json::Map<_, _>>(),
    });
    // What Meta has not approved is not published.
    for (name, field, words) in [
        ("helo", "template.name", "has no template `helo` (did you mean `hello`?)"),
        ("tips", "template.name", "as PAUSED, not APPROVED"),
    ] {
        let mut wrong = document.clone();
        wrong["templates"]["whatsapp"]["channels"]["whatsapp"]["en"]["template"]["name"] = name.into();
        let (status, answer) = house.call(Method::PUT, "/v1/definitions", wrong).await;
        let place = format!("templates.whatsapp.channels.whatsapp.en.{field}");
        assert_eq!((status, &answer["field"]), (422, &json!(place)), "{answer:#}");
        assert!(answer["detail"].as_str().unwrap().contains(words), "{answer:#}");
    }
    let (status, answer) = house.call(Method::PUT, "/v1/definitions", document).await;
    assert_eq!((status, &answer["remarks"]), (200, &Value::Null), "{answer:#}");
    let (_, listed) = house.call(Method::GET, "/v1/channels/whatsapp/templates", Value::Null).await;
    let names: Vec<_> = listed["accounts"][0]["templates"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["hello", "tips"], "every page was read");
    let mail = instance.mail_address.unwrap();
    (instance, house, mail)
}

/// The letters that the pipeline sent, whole.
static LETTERS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A mail server that takes everything and keeps it; a dialogue is all that it knows.
async fn smtp_sink() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (read, mut write) = stream.into_split();
                let (mut lines, mut letter, mut in_data) = (BufReader::new(read).lines(), String::new(), false);
                write.write_all(b"220 sink\r\n").await.unwrap();
                while let Ok(Some(line)) = lines.next_line().await {
                    let reply: &[u8] = match (in_data, line.as_str()) {
                        (true, ".") => {
                            LETTERS.lock().unwrap().push(std::mem::take(&mut letter));
                            in_data = false;
                            b"250 kept\r\n"
                        }
                        (true, text) => {
                            letter.push_str(text.strip_prefix('.').unwrap_or(text));
                            letter.push_str("\r\n");
                            continue;
                        }
                        (false, "DATA") => {
                            in_data = true;
                            b"354 go\r\n"
                        }
                        (false, text) if text.starts_with("MAIL") => {
                            letter.push_str(&format!("X-Envelope: {text}\r\n"));
                            b"250 ok\r\n"
                        }
                        (false, _) => b"250 ok\r\n",
                    };
                    if write.write_all(reply).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_channel_is_reached_and_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (receiver, at) = Receiver::start().await;
    let (instance, house, mail) = house(folder.path(), at).await;
    let profile =
        json!({"email": "ana@example.org", "whatsapp": "+34600111222", "app_push": "fcm:tok-1", "webhook": "crm-7"});
    assert_eq!(house.call(Method::PUT, "/v1/members/ana", profile).await.0, 201);

    whatsapp(&house, &receiver).await;
    telegram(&house, &receiver).await;
    web_push(&house, &receiver, at).await;

    let event = house.event("app", "ana", "app_push").await;
    house.status(&event, "ana", "sent").await;
    let sent = receiver.json("messages:send", 0).await;
    assert_eq!(
        (&sent["message"]["notification"]["body"], &sent["message"]["data"]["n"]),
        (&json!("Ana & Co"), &json!("Ana & Co"))
    );

    let event = house.event("hook", "ana", "webhook").await;
    house.status(&event, "ana", "sent").await;
    let sent = receiver.json("/hook", 0).await;
    assert_eq!((&sent["to"], &sent["data"]), (&json!("crm-7"), &json!({"who": "Ana & Co"})));

    bounce(&house, mail).await;
    instance.stop().await.unwrap();
}

async fn whatsapp(house: &House, receiver: &Receiver) {
    let hook = format!("{}/v1/webhooks/shop/wa", house.base);
    let asked = house
        .client
        .get(format!("{hook}?hub.mode=subscribe&hub.verify_token=v&hub.challenge=42"))
        .send()
        .await
        .unwrap();
    assert_eq!((asked.status().as_u16(), asked.text().await.unwrap()), (200, "42".into()));

    let event = house.event("wa-1", "ana", "whatsapp").await;
    house.status(&event, "ana", "sent").await;
    let sent = receiver.json("/1/messages", 0).await;
    assert_eq!(
        (&sent["type"], &sent["template"]["name"]),
        (&json!("template"), &json!("hello")),
        "she has not written yet"
    );

    let call = async |value: Value| {
        let body = json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]}).to_string();
        let mut mac = Hmac::<Sha256>::new_from_slice(b"s").unwrap();
        mac.update(body.as_bytes());
        let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
        let request = house.client.post(&hook).header("x-hub-signature-256", format!("sha256={hex}")).body(body);
        request.send().await.unwrap().status().as_u16()
    };
    let forged = house.client.post(&hook).header("x-hub-signature-256", "sha256=00").body("{}").send().await.unwrap();
    assert_eq!(forged.status(), 401);
    let reference = &sent["biz_opaque_callback_data"];
    let delivered = json!({"statuses": [{"id": "wamid.1", "status": "delivered", "timestamp": "1767225600", "recipient_id": "34600111222",
        "biz_opaque_callback_data": reference}]});
    assert_eq!(call(delivered.clone()).await, 204);
    assert_eq!(call(delivered).await, 204, "told twice");
    house.status(&event, "ana", "delivered").await;

    let says = |text: &str| json!({"messages": [{"from": "34600111222", "id": format!("wamid.{text}"), "timestamp": now(), "type": "text", "text": {"body": text}}]});
    assert_eq!(call(says("hello")).await, 204);
    until("she was heard", async || {
        let event = house.event(&format!("wa-{}", now_nanos()), "ana", "whatsapp").await;
        house.status(&event, "ana", "sent").await;
        let calls = receiver.0.lock().unwrap();
        let last = calls.iter().rfind(|(path, _)| path.contains("/1/messages")).map(|(_, body)| body.clone());
        let sent: Value = serde_json::from_slice(&last?).ok()?;
        (sent["type"] == "text" && sent["text"]["body"] == "Hi Ana & Co").then_some(())
    })
    .await;
    assert_eq!(call(says("STOP")).await, 204);
    until("she stopped", async || (house.member("ana").await["opt_ins"]["whatsapp"] == false).then_some(())).await;
    let event = house.event("wa-9", "ana", "whatsapp").await;
    house.status(&event, "ana", "no_opt_in").await;
}

async fn telegram(house: &House, receiver: &Receiver) {
    let (status, link) = house.call(Method::POST, "/v1/members/ana/links", json!({"channel": "telegram"})).await;
    assert_eq!(status, 201, "{link}");
    let token = link["token"].as_str().unwrap();
    assert_eq!(link["url"], format!("https://t.me/shop_bot?start={token}"));
    let call = async |word: &str, update: Value| {
        let request = house.client.post(format!("{}/v1/webhooks/shop/tg", house.base));
        request.header("x-telegram-bot-api-secret-token", word).json(&update).send().await.unwrap().status().as_u16()
    };
    let start = json!({"update_id": 1, "message": {"message_id": 1, "date": now().parse::<i64>().unwrap(), "chat": {"id": 7, "type": "private"},
        "text": format!("/start {token}")}});
    assert_eq!(call("guess", start.clone()).await, 401);
    assert_eq!(call("word", start).await, 204);
    until("the chat is linked", async || {
        (house.member("ana").await["addresses"]["telegram"][0]["address"] == "7").then_some(())
    })
    .await;
    let event = house.event("tg-1", "ana", "telegram").await;
    house.status(&event, "ana", "sent").await;
    let sent = receiver.json("/sendMessage", 0).await;
    assert_eq!((&sent["chat_id"], &sent["text"]), (&json!(7), &json!("<b>Hi</b> Ana &amp; Co")), "{sent}");
    let blocked = json!({"update_id": 2, "my_chat_member": {"date": now().parse::<i64>().unwrap(), "chat": {"id": 7, "type": "private"},
        "new_chat_member": {"status": "kicked"}}});
    assert_eq!(call("word", blocked).await, 204);
    until("she blocked the bot", async || (house.member("ana").await["opt_ins"]["telegram"] == false).then_some(()))
        .await;
}

async fn web_push(house: &House, receiver: &Receiver, at: SocketAddr) {
    let (status, key) = house.call(Method::GET, "/v1/web-push/key?project=shop", Value::Null).await;
    assert_eq!((status, key["key"].as_str().unwrap().len()), (200, 87));
    let (_, link) = house.call(Method::POST, "/v1/members/ana/links", json!({"channel": "web_push"})).await;
    let (_, browser) = generate_vapid().unwrap();
    let subscription = json!({"endpoint": format!("http://{at}/push/1"), "expirationTime": null,
        "keys": {"p256dh": browser, "auth": URL_SAFE_NO_PAD.encode([7; 16])}});
    let request = house.client.post(format!("{}/v1/web-push/subscriptions", house.base));
    let request = request.bearer_auth(link["token"].as_str().unwrap());
    let answer = request.json(&json!({"project": "shop", "subscription": subscription})).send().await.unwrap();
    assert_eq!(answer.status(), 204, "{}", answer.text().await.unwrap());
    until("the browser is known", async || {
        house.member("ana").await["addresses"]["web_push"][0]["address"].as_str().map(drop)
    })
    .await;
    let event = house.event("wp-1", "ana", "web_push").await;
    house.status(&event, "ana", "sent").await;
    let sent = receiver.body("/push/1", 0).await;
    assert!(sent.len() > 100 && !String::from_utf8_lossy(&sent).contains("Ana"), "it is encrypted for the browser");
}

/// The recipient's server reports that nobody is there, to the letter's own return path.
async fn bounce(house: &House, mail: SocketAddr) {
    let event = house.event("mail-1", "ana", "email").await;
    house.status(&event, "ana", "sent").await;
    let letter = until("the letter", async || LETTERS.lock().unwrap().first().cloned()).await;
    assert!(
        letter.contains("Hi Ana &amp; Co") && letter.contains("Hi Ana & Co") && !letter.contains("mjml"),
        "{letter}"
    );
    let envelope = letter.lines().next().unwrap();
    let returns = envelope.split(['<', '>']).nth(1).unwrap();
    // Nothing of the letter but its return path comes back: the notification's story knows the rest.
    let headers = "Subject: Hi\r\n";
    let report = format!(
        "From: MAILER-DAEMON@mx.example\r\nTo: {returns}\r\nSubject: failed\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nNobody.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example\r\n\r\nFinal-Recipient: rfc822; ana@example.org\r\n\
         Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n{headers}\r\n--b--\r\n"
    );
    let stream = tokio::net::TcpStream::connect(mail).await.unwrap();
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    for (say, hear) in [
        (String::new(), "220"),
        ("HELO mx.example\r\n".into(), "250"),
        ("MAIL FROM:<>\r\n".into(), "250"),
        (format!("RCPT TO:<{returns}>\r\n"), "250"),
        ("DATA\r\n".into(), "354"),
        (format!("{report}.\r\n"), "250"),
    ] {
        write.write_all(say.as_bytes()).await.unwrap();
        let heard = lines.next_line().await.unwrap().unwrap();
        assert!(heard.starts_with(hear), "{say}: {heard}");
    }
    house.status(&event, "ana", "failed").await;
    until("the address is suppressed", async || {
        (house.member("ana").await["addresses"]["email"][0]["state"] == "suppressed").then_some(())
    })
    .await;
}

fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_secs().to_string()
}

fn now_nanos() -> u128 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos()
}
