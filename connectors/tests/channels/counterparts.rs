//! What we send and read against code that we did not write: pywa, python-telegram-bot, @kapso/whatsapp-cloud-api.
//! `cargo xtask counterparts` fetches them.
use super::message;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::{
    channels::{Button, Content, Media, MediaKind, Reference, Whatsapp, telegram, whatsapp},
    webhooks::{telegram as telegram_hook, whatsapp as whatsapp_hook},
};
use bellwether_schemas::{
    Timestamp,
    records::{ErrorKind, ReceiptKind},
};
use serde_json::{Value, json};
use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn home() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let services = env::var_os("BELLWETHER_SERVICES_HOME").map_or_else(|| workspace.join(".services"), PathBuf::from);
    services.join("counterparts")
}

/// Puts a question to a counterpart.
fn ask(mut command: Command, question: &str, input: &Value) -> Value {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let asked = json!({"question": question, "input": input}).to_string();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{question}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn python(question: &str, input: &Value) -> Value {
    let python = home().join("python/bin/python");
    assert!(python.exists(), "{} is missing: run `cargo xtask counterparts`", python.display());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/chats.py"));
    ask(command, question, input)
}

fn node(question: &str, input: &Value) -> Value {
    let folder = home().join("node");
    let there = folder.join("node_modules/@kapso/whatsapp-cloud-api").exists();
    assert!(there, "{} is missing: run `cargo xtask counterparts`", folder.display());
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/counterparts/chats.mjs"));
    command.arg(folder.canonicalize().unwrap());
    ask(command, question, input)
}

#[test]
fn others_agree_on_every_signature_of_metas() {
    let right = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let case =
        |secret: &str, body: &str, signature: &str| json!({"secret": secret, "body": body, "signature": signature});
    let secret = "It's a Secret to Everybody";
    let cases = json!([
        case(secret, "Hello, World!", right),
        case(secret, "Hello, World?", right),
        case("another", "Hello, World!", right),
        case(secret, "Hello, World!", &right.replace("e17", "e18")),
        case(secret, "Hello, World!", &right[..70]),
    ]);
    let word = |case: &Value, name: &str| case[name].as_str().unwrap().to_owned();
    let verdict = |case: &Value| {
        whatsapp_hook::verify(&word(case, "secret"), word(case, "body").as_bytes(), &word(case, "signature")).is_ok()
    };
    let ours: Value = cases.as_array().unwrap().iter().map(verdict).collect();
    assert_eq!(ours, json!([true, false, false, false, false]));
    assert_eq!(python("meta_signatures", &cases), ours);
    assert_eq!(node("signatures", &cases), ours);
}

#[test]
fn every_code_of_others_catalogue_is_known_and_of_a_kind_that_suits_its_group() {
    let codes = python("meta_codes", &Value::Null);
    let codes = codes.as_array().unwrap();
    assert!(codes.len() > 100, "the range 200 to 299 and some fifty more");
    for one in codes {
        let code = u32::try_from(one["code"].as_u64().unwrap()).unwrap();
        // Of calls, which we do not make.
        if code == 131_044 {
            continue;
        }
        let Some((kind, _)) = whatsapp::kind_of(code) else { panic!("{one} is not in whatsapp.codes.csv") };
        let suits = match one["group"].as_str().unwrap() {
            "AuthorizationError" => kind == ErrorKind::Unauthorized,
            "ThrottlingError" => kind == ErrorKind::Throttled,
            "IntegrityError" => matches!(kind, ErrorKind::Unauthorized | ErrorKind::Rejected),
            _ => true,
        };
        assert!(suits, "{one} is {}", kind.name());
    }
}

#[test]
fn others_put_the_same_messages_on_the_wire() {
    let button = |text: &str, url: Option<&str>| Button { text: text.into(), url: url.map(str::to_owned) };
    let (body, link, image) = ("Grüße\n\"1\" & 2", "https://h.example/c/1?a=1&b=2", "https://h.example/a.png");
    let media = |kind| Some(Media { kind, url: image.into() });
    let said = |header: Option<Media>, buttons: Vec<Button>| {
        message(1, "+15550001111", Content::Whatsapp(Whatsapp::Text { body: body.into(), header, buttons }))
    };
    let by_template = |kind| {
        let (name, language, parameters) = ("hello".into(), "es_AR".into(), vec!["Ana".into(), "A-1001".into()]);
        let (header, buttons) = (media(kind), vec![None, Some("c/1".into())]);
        message(
            1,
            "+15550001111",
            Content::Whatsapp(Whatsapp::Template { name, language, header, parameters, buttons }),
        )
    };
    let picture = || media(MediaKind::Image);
    let (replies, link_button) = (|| vec![button("Sí", None), button("No", None)], || vec![button("Open", Some(link))]);
    let config: whatsapp::Config =
        serde_json::from_value(json!({"phone_number_id": "106", "access_token": {"env": "X"}})).unwrap();
    let ours: Vec<Value> = [
        said(None, vec![]),
        said(None, replies()),
        said(None, link_button()),
        said(picture(), vec![]),
        said(media(MediaKind::Video), vec![]),
        said(media(MediaKind::Document), vec![]),
        said(picture(), replies()),
        said(picture(), link_button()),
        by_template(MediaKind::Image),
        by_template(MediaKind::Video),
    ]
    .iter()
    .map(|message| config.request(message).unwrap().body)
    .collect();
    let input = json!({"to": "+15550001111", "body": body, "replies": ["Sí", "No"], "link": {"text": "Open", "url": link},
        "image": image, "parameters": ["Ana", "A-1001"], "variable": "c/1", "tracker": ours[0]["biz_opaque_callback_data"]});
    let mut theirs = python("meta_requests", &input);
    // Theirs says what is the default.
    assert_eq!(theirs[0]["text"].as_object_mut().unwrap().remove("preview_url"), Some(json!(false)));
    // And it writes the words of a template's components as Meta's examples of their definition do, where its examples of sending have small letters.
    for component in theirs.as_array_mut().unwrap().iter_mut().filter(|body| body["type"] == "template") {
        for component in component["template"]["components"].as_array_mut().unwrap() {
            for word in ["type", "sub_type"] {
                let small = component[word].as_str().map(str::to_lowercase);
                if let Some(small) = small {
                    component[word] = small.into();
                }
            }
            let index = component["index"].as_u64();
            if let Some(index) = index {
                component["index"] = index.to_string().into();
            }
        }
    }
    assert_eq!(theirs, Value::from(ours));
}

#[test]
fn others_read_the_same_from_a_callback() {
    let reference: Reference = message(1, "+15550001111", Content::Text { body: "x".into() }).reference;
    let data = format!("{}.1", reference.to_token());
    let status = |id: &str, status: &str| json!({"id": id, "status": status, "timestamp": "1767323000", "recipient_id": "15550001111", "biz_opaque_callback_data": data});
    let text = |id: &str, body: &str| json!({"from": "15550001111", "id": id, "timestamp": "1767323000", "type": "text", "text": {"body": body}});
    let callback = json!({"object": "whatsapp_business_account", "entry": [
        {"id": "1", "changes": [{"field": "messages", "value": {"messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "1", "phone_number_id": "106"},
            "statuses": [status("wamid.1", "delivered"), status("wamid.2", "read")]}}]},
        {"id": "1", "changes": [{"field": "messages", "value": {"messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "1", "phone_number_id": "106"},
            "contacts": [{"profile": {"name": "A"}, "wa_id": "15550001111"}],
            "messages": [text("wamid.3", "Hi"), text("wamid.4", "STOP")]}}]},
    ]});
    let ours = whatsapp_hook::read(callback.to_string().as_bytes(), NOW).unwrap();
    let name = |kind| if kind == ReceiptKind::Opened { "read" } else { "delivered" };
    let statuses: Value =
        ours.receipts.iter().map(|r| json!({"id": r.provider_id, "status": name(r.kind), "data": data})).collect();
    let messages: Value =
        ours.inbound.iter().map(|m| json!({"id": m.id, "from": &m.from[1..], "text": m.text})).collect();
    assert_eq!(node("webhook", &callback), json!({"statuses": statuses, "messages": messages}));
}

#[test]
fn others_read_the_same_from_an_update() {
    use telegram_hook::{Event, Update};
    let user = json!({"id": 7, "is_bot": false, "first_name": "Ana"});
    let bot = json!({"id": 1, "is_bot": true, "first_name": "Bell", "username": "bell_bot"});
    let chat = json!({"id": 7, "type": "private", "first_name": "Ana"});
    let group = json!({"id": -7, "type": "group", "title": "G"});
    let blocked = json!({"user": bot, "status": "kicked", "until_date": 0});
    let allowed = json!({"user": bot, "status": "member"});
    let updates = json!([
        {"update_id": 1, "message": {"message_id": 3, "date": 1_767_323_000, "chat": chat, "from": user, "text": "Grüße 🚀"}},
        {"update_id": 2, "message": {"message_id": 4, "date": 1_767_323_001, "chat": group, "migrate_to_chat_id": -1_001_234_567_890_i64}},
        {"update_id": 3, "my_chat_member": {"chat": chat, "from": user, "date": 1_767_323_002, "old_chat_member": allowed, "new_chat_member": blocked}},
        {"update_id": 4, "my_chat_member": {"chat": chat, "from": user, "date": 1_767_323_003, "old_chat_member": blocked, "new_chat_member": allowed}},
    ]);
    let theirs = python("telegram_updates", &updates);
    for (update, theirs) in updates.as_array().unwrap().iter().zip(theirs.as_array().unwrap()) {
        let Update { id, event } = telegram_hook::read(update.to_string().as_bytes()).unwrap();
        let flat = |chat: String, at: Timestamp, text: Option<String>, status: Option<&str>| json!({"id": id, "chat": chat, "seconds": at.0 / 1000, "text": text, "moved_to": null, "status": status});
        let ours = match event.unwrap() {
            Event::Said(said) => flat(said.from, said.at, Some(said.text), None),
            Event::Blocked { chat, at } => flat(chat, at, None, Some("kicked")),
            Event::Unblocked { chat, at } => flat(chat, at, None, Some("member")),
            Event::Moved { from, to } => {
                json!({"id": id, "chat": from, "seconds": theirs["seconds"], "text": null, "moved_to": to, "status": null})
            }
            Event::Linked { .. } => panic!("no link was among them"),
        };
        assert_eq!(&ours, theirs);
    }
}

#[test]
fn others_put_the_same_chat_message_on_the_wire() {
    let (html, link) = ("<b>Grüße</b> &amp; <a href=\"https://h.example/?a=1&amp;b=2\">x</a>", "https://h.example/c/1");
    let buttons = vec![
        Button { text: "Öffnen".into(), url: Some(link.into()) },
        Button { text: "Bot".into(), url: Some("tg://resolve?domain=x".into()) },
    ];
    let config: telegram::Config = serde_json::from_value(json!({"bot_token": {"env": "X"}})).unwrap();
    let input = json!({"chat": 7, "html": html, "buttons": buttons});
    let ours = config.request(&message(1, "7", Content::Chat { html: html.into(), buttons })).unwrap();
    let theirs = python("telegram_request", &input);
    let call =
        theirs.as_array().unwrap().iter().find(|call| call["url"].as_str().unwrap().ends_with(ours.method)).unwrap();
    assert_eq!(call["parameters"], ours.body);
}

#[test]
fn others_take_our_links() {
    let payloads: Vec<String> =
        (0..50).map(|n: u32| URL_SAFE_NO_PAD.encode([n.to_be_bytes().as_slice(), &[251; 20]].concat())).collect();
    let links: Value = payloads.iter().map(|payload| telegram_hook::deep_link("our_bot", payload)).collect();
    assert_eq!(python("telegram_links", &json!(payloads)), links);
}
