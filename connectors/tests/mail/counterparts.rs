//! Our letters and our samples before code that we did not write: dkimpy, flufl.bounce, Python's `email`. `cargo xtask
//! counterparts` fetches them.
use super::{ED25519, RSA, message, sample};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether_connectors::channels::{
    Attachment, Content, Email,
    smtp::{Config, File, Letterhead},
};
use bellwether_schemas::{DeliveryId, Timestamp};
use openssl::pkey::{Id, PKey};
use serde_json::{Value, json};
use std::{
    env,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const NOW: Timestamp = Timestamp(1_767_323_045_678);

/// Puts a question to them.
pub(super) fn ask(question: &str, input: &Value) -> Value {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let home = env::var_os("BELLWETHER_SERVICES_HOME").map_or_else(|| package.join("../.services"), PathBuf::from);
    let python = home.join("counterparts/python/bin/python");
    assert!(python.exists(), "{} is missing: run `cargo xtask counterparts`", python.display());
    let mut command = Command::new(python);
    command.arg(package.join("tests/counterparts/letters.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let asked = json!({"question": question, "input": input}).to_string();
    child.stdin.take().unwrap().write_all(asked.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{question}: {}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What DNS would say of the two keys that [`settings`] sign with.
pub(super) fn records() -> Value {
    let rsa = PKey::private_key_from_pem(RSA.as_bytes()).unwrap().public_key_to_der().unwrap();
    let ed25519 = PKey::private_key_from_raw_bytes(&BASE64.decode(ED25519).unwrap(), Id::ED25519).unwrap();
    json!({
        "r1._domainkey.shop.example.": format!("v=DKIM1; k=rsa; p={}", BASE64.encode(rsa)),
        "e1._domainkey.shop.example.": format!("v=DKIM1; k=ed25519; p={}", BASE64.encode(ed25519.raw_public_key().unwrap())),
    })
}

/// A sender that signs twice and has a return path. `folder` holds its keys.
pub(super) fn settings(folder: &Path, change: Value) -> Config {
    let secret = |name: &str, text: &str| {
        let file = folder.join(name);
        std::fs::write(&file, text).unwrap();
        json!({"file": file})
    };
    let mut all = json!({
        "host": "127.0.0.1", "security": "none", "from_address": "news@shop.example", "from_name": "Shöp, Ltd.",
        "return_path_domain": "bounce.shop.example", "return_path_key": secret("return", super::SECRET),
        "dkim": [
            {"domain": "shop.example", "selector": "r1", "private_key": secret("rsa", RSA)},
            {"domain": "shop.example", "selector": "e1", "private_key": secret("ed25519", ED25519)},
        ],
        "unsubscribe_by_mail": true, "feedback_id": "bellwether",
    });
    all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

/// Letters of every structure and alphabet.
fn letters() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path(), json!({}));
    let head: Letterhead = config.validate().unwrap().with_keys(&config).unwrap();
    let texts = ["plain", "Ünïcode ✓ \u{1F600}\n\n  two  spaces \t\n.dot\n", "", " \n\n\n", &"long ".repeat(500)];
    let mut letters = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        for (html, files) in [(false, 0), (true, 0), (true, 1), (true, 2), (false, 2)] {
            let attachment = |n: usize| Attachment {
                name: ["logo.png", "Räñung 1.pdf"][n].into(),
                url: "https://x".into(),
                inline: n == 0,
            };
            let email = Email {
                subject: format!("Тема {text}"),
                html: html.then(|| format!("<p>{text}</p><img src='cid:logo.png'>")),
                text: (!html || n % 2 == 0).then(|| (*text).to_owned()),
                attachments: (0..files).map(attachment).collect(),
                unsubscribe: Some("https://shop.example/u?a=1".into()),
            };
            let message = message(DeliveryId::default(), "jane@example.com", email);
            let Content::Email(Email { attachments, .. }) = &message.content else { panic!() };
            let file = |one: &Attachment| File {
                name: one.name.clone(),
                media_type: "image/png".into(),
                inline: one.inline,
                bytes: (0..=255).collect::<Vec<u8>>().into(),
            };
            let files: Vec<_> = attachments.iter().map(file).collect();
            letters.push(head.request(&message, &files, NOW).unwrap().content);
        }
    }
    letters
}

pub(super) fn encoded(messages: &[Vec<u8>]) -> Vec<String> {
    messages.iter().map(|message| BASE64.encode(message)).collect()
}

#[test]
fn dkimpy_verifies_both_signatures_of_every_letter() {
    let mut letters = letters();
    let count = letters.len();
    let rfc = include_str!("../../src/channels/smtp/rfc8463.eml").replace('\n', "\r\n");
    let mut records = records();
    let (rsa, ed25519) =
        (records["r1._domainkey.shop.example."].clone(), records["e1._domainkey.shop.example."].clone());
    records["test._domainkey.football.example.com."] = rsa;
    records["brisbane._domainkey.football.example.com."] = ed25519;
    letters.push(rfc.into_bytes());
    // What a forger would do: change the link to unsubscribe, add a second sender, change the body.
    let forged = |from: &str, to: &str| {
        let text = String::from_utf8(letters[1].clone()).unwrap();
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1).into_bytes()
    };
    let forgeries = [
        forged("<https://shop.example/u?a=1>", "<https://evil.example/u?a=1>"),
        forged("List-Unsubscribe=One-Click", "List-Unsubscribe=Two-Click"),
        forged("\r\nTo: ", "\r\nFrom: evil@example.com\r\nTo: "),
        forged("plain", "plane"),
    ];
    letters.extend(forgeries);
    let verdicts = ask("dkim", &json!({"records": records, "messages": encoded(&letters)}));
    let verdicts = verdicts.as_array().unwrap();
    for (n, verdict) in verdicts.iter().enumerate() {
        let holds = n <= count;
        assert_eq!(*verdict, json!([holds, holds]), "letter {n}");
    }
    assert_eq!(verdicts.len(), count + 5);
}

#[test]
fn flufl_bounce_finds_the_same_failures() {
    let all = [
        "postfix",
        "exim",
        "exim-plain",
        "exchange",
        "gmail",
        "qmail",
        "sendmail",
        "postfix-delayed",
        "postfix-delivered",
        "vacation",
    ];
    let found = ask("bounces", &json!(encoded(&all.map(sample))));
    for (name, found) in all.iter().zip(found.as_array().unwrap()) {
        let none = json!([]);
        let expected = match *name {
            "postfix-delayed" => json!({"temporary": ["jane@example.com"], "permanent": none}),
            "postfix-delivered" | "vacation" => json!({"temporary": none, "permanent": none}),
            _ => json!({"temporary": none, "permanent": ["jane@example.com"]}),
        };
        assert_eq!(*found, expected, "{name}");
    }
}

#[test]
fn pythons_email_package_reads_what_we_wrote() {
    let letters = letters();
    let read = ask("letters", &json!(encoded(&letters)));
    let all: Vec<u8> = (0..=255).collect();
    for (n, letter) in read.as_array().unwrap().iter().enumerate() {
        assert_eq!(letter["defects"], json!([]), "letter {n}");
        assert_eq!(letter["headers"]["From"], "\"Shöp, Ltd.\" <news@shop.example>");
        assert_eq!(letter["headers"]["List-Unsubscribe-Post"], "List-Unsubscribe=One-Click");
        assert!(letter["headers"]["Subject"].as_str().unwrap().starts_with("Тема"), "{letter}");
        let parts = letter["parts"].as_array().unwrap();
        let types: Vec<_> = parts.iter().map(|part| part["type"].as_str().unwrap()).collect();
        let files: Vec<_> = parts.iter().filter(|part| part["file"].is_string()).collect();
        let expected = match n % 5 {
            0 => 0,
            1 => 0,
            2 => 1,
            _ => 2,
        };
        assert_eq!(files.len(), expected, "letter {n}: {types:?}");
        for file in files {
            assert_eq!(BASE64.decode(file["content"].as_str().unwrap()).unwrap(), all);
            assert!(["logo.png", "Räñung 1.pdf"].contains(&file["file"].as_str().unwrap()));
        }
        if matches!(n % 5, 2 | 3) {
            let shown = parts.iter().find(|part| part["id"] == "<logo.png>").unwrap();
            assert_eq!(shown["disposition"], "inline");
            assert!(types.contains(&"multipart/related"), "{types:?}");
        }
    }
}
