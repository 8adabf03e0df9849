//! A letter with a tracked link, a picture and the offer to unsubscribe, read as a mail program reads it.

use super::{House, here, installed, until};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether::receivers::{SmtpOptions, SmtpReceiver};
use mail_parser::{Message, MessageParser};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use std::{
    io::Write as _,
    process::{Command, Stdio},
};

const SAFARI: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148 Safari/604.1";
const GMAIL: &str = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";

/// Definitions whose news go out on the bulk lane, orders on the transactional one.
fn document(house: &House, smtp: &SmtpReceiver, tracking: &Value) -> Value {
    let html = r#"<html><body><p>{{ name }}, <a href="https://shop.example/news?a=1&amp;n={{ name | urlencode }}#top">read</a>
        <a href="mailto:help@shop.example">write</a> <a href="https://shop.example/terms" data-track="off">terms</a>
        <a href="{{ unsubscribe_url }}">unsubscribe</a></p></body></html>"#;
    let template = json!({"channels": {"email": {"en": {"subject": "News", "html": html, "text": "Stop: {{ unsubscribe_url }}"}}}, "sample": {"name": "Ana"}});
    let key = String::from_utf8(openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap()).unwrap();
    let dkim = json!([{"domain": "shop.example", "selector": "s", "private_key": house.secret("dkim", &key)}]);
    json!({
        "project": {"name": "shop", "default_locale": "en", "tracking": tracking},
        "providers": {"mail": {"kind": "smtp", "host": "127.0.0.1", "port": smtp.addr().port(), "security": "none",
            "from_address": "a@shop.example", "dkim": dkim}},
        "templates": {"news": template},
        "flows": {
            "news": {"on": "news", "notify": {"template": "news", "lane": "bulk"}},
            "order": {"on": "order", "notify": {"template": "news", "lane": "transactional"}},
        },
    })
}

/// The `n`-th letter.
async fn letter(smtp: &SmtpReceiver, n: usize) -> Vec<u8> {
    until("a letter", async || smtp.messages().get(n).map(|mail| mail.text.clone())).await
}

/// The links of a letter, in order: those of `<a>`, then the picture.
fn links(html: &str) -> Vec<String> {
    let values = html.split("href=\"").skip(1).chain(html.split("src=\"").skip(1));
    values.map(|rest| rest.split('"').next().unwrap().replace("&amp;", "&")).collect()
}

fn one_click(letter: &Message<'_>) -> Option<(String, String)> {
    let raw = |name: &'static str| letter.header_raw(name).map(|value| value.trim().to_owned());
    raw("List-Unsubscribe").zip(raw("List-Unsubscribe-Post"))
}

async fn fetch(house: &House, link: &str, agent: &str) -> Response {
    house.client.get(here(house, link)).header("user-agent", agent).send().await.unwrap()
}

/// Whether the signatures of a letter hold, as dkimpy sees it.
fn signed(house: &House, letter: &[u8]) -> bool {
    let pem = std::fs::read(house.folder.path().join("dkim")).unwrap();
    let public = openssl::rsa::Rsa::private_key_from_pem(&pem).unwrap().public_key_to_der().unwrap();
    let record = format!("v=DKIM1; k=rsa; p={}", BASE64.encode(public));
    let asked = json!({"question": "dkim", "input": {"records": {"s._domainkey.shop.example.": record}, "messages": [BASE64.encode(letter)]}});
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/connectors/tests/counterparts/letters.py");
    let mut python = Command::new(installed("python/bin/python"));
    let mut child = python.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(asked.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "dkimpy: {}", output.status);
    serde_json::from_slice::<Value>(&output.stdout).unwrap() == json!([[true]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_readers_do_with_a_letter_is_told_and_one_click_ends_it() {
    let house = House::start().await;
    let smtp = SmtpReceiver::start(([127, 0, 0, 1], 0).into(), SmtpOptions::default()).await.unwrap();
    let old = house.secret("old", "the first secret of the shop");
    let tracking = json!({"base_url": super::DOMAIN, "key": old});
    house.apply(&document(&house, &smtp, &tracking)).await;
    let profile = json!({"email": "ana@example.org", "opt_ins": {"email": true}});
    assert_eq!(house.call(Method::PUT, "/v1/members/ana", &profile).await.0, 201);

    let event = house.event("1", "ana", "news").await;
    house.status(&event, "ana", "sent").await;
    let raw = letter(&smtp, 0).await;
    let mail = MessageParser::default().parse(&raw).unwrap();
    let html = mail.body_html(0).unwrap();
    let links = links(&html);
    let [read, write, terms, leave, pixel] = links.as_slice() else { panic!("{links:?}") };
    assert_eq!((write.as_str(), terms.as_str()), ("mailto:help@shop.example", "https://shop.example/terms"));
    assert!(!html.contains("data-track") && html.contains("Ana &amp; Co"), "{html}");
    let tokens = [read, leave, pixel].map(|link| link.rsplit('/').next().unwrap().to_owned());
    assert!(tokens.iter().all(|token| !token.contains("ana")), "{tokens:?}");
    assert!(mail.body_text(0).unwrap().contains(leave.as_str()), "the text offers it too");

    // The header's link is the letter's own; a verifier that we did not write finds both headers covered.
    let (header, post) = one_click(&mail).expect("a bulk letter offers to unsubscribe by one click");
    assert_eq!((header, post.as_str()), (format!("<{leave}>"), "List-Unsubscribe=One-Click"));
    assert!(signed(&house, &raw), "DKIM");
    let forged =
        String::from_utf8(raw.clone()).unwrap().replacen("List-Unsubscribe: <https", "List-Unsubscribe: <httpx", 1);
    assert!(!signed(&house, forged.as_bytes()), "the link is covered");

    // Gmail's proxy looks at the picture, a scanner asks for the link: neither is Ana.
    let answer = fetch(&house, pixel, GMAIL).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["content-type"]), (200, &"image/gif".parse().unwrap()));
    assert!(answer.headers()["cache-control"].to_str().unwrap().contains("no-store"));
    assert!(answer.bytes().await.unwrap().starts_with(b"GIF89a"));
    let head = house.client.head(here(&house, read)).header("user-agent", SAFARI).send().await.unwrap();
    assert_eq!(head.status(), 302);
    for (metric, count) in [("opened_by_machine", 1), ("clicked_by_machine", 1), ("opened", 0), ("clicked", 0)] {
        house.counted(metric, count).await;
    }

    // Ana opens it, twice, and follows the link.
    for _ in 0..2 {
        assert_eq!(fetch(&house, pixel, SAFARI).await.status(), 200);
    }
    house.status(&event, "ana", "opened").await;
    let answer = fetch(&house, read, SAFARI).await;
    assert_eq!(answer.status(), 302);
    assert_eq!(answer.headers()["location"], "https://shop.example/news?a=1&n=Ana%20%26%20Co#top");
    house.status(&event, "ana", "clicked").await;
    for (metric, count) in [("opened", 1), ("clicked", 1)] {
        house.counted(metric, count).await;
    }

    forgeries(&house, read, pixel).await;
    rotation(&house, &smtp, &old, read).await;

    // Whoever looks at the page unsubscribes nobody; its button does, and so does Gmail's.
    let asked = house.client.get(here(&house, leave)).header("accept-language", "es-AR").send().await.unwrap();
    let page = asked.text().await.unwrap();
    assert!(
        page.contains("<html lang=\"es\">") && page.contains("Darme de baja") && page.contains("method=\"post\""),
        "{page}"
    );
    assert_eq!(house.member("ana").await["opt_ins"]["email"], true);
    let pressed =
        house.client.post(here(&house, leave)).form(&[("List-Unsubscribe", "One-Click")]).send().await.unwrap();
    assert_eq!(pressed.status(), 200);
    until("she is out", async || (house.member("ana").await["opt_ins"]["email"] == false).then_some(())).await;
    house.status(&event, "ana", "opted_out").await;
    house.counted("opted_out", 1).await;
    let event = house.event("4", "ana", "news").await;
    house.status(&event, "ana", "no_opt_in").await;

    let metrics = house.client.get(format!("{}/metrics", house.base)).send().await.unwrap().text().await.unwrap();
    for line in [
        r#"bellwether_tracking_requests_total{outcome="machine",purpose="open"} 1"#,
        r#"bellwether_tracking_requests_total{outcome="page",purpose="unsubscribe"} 1"#,
        r#"bellwether_tracking_requests_total{outcome="person",purpose="unsubscribe"} 1"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    house.instance.stop().await.unwrap();
}

/// What is no link of ours leads nowhere.
async fn forgeries(house: &House, read: &str, pixel: &str) {
    let (begin, token) = read.rsplit_once('/').unwrap();
    let mut other = token.to_owned();
    other.replace_range(30..31, if &token[30..31] == "A" { "B" } else { "A" });
    let of_pixel = pixel.rsplit('/').next().unwrap();
    for link in [
        format!("{begin}/{other}"),
        format!("{begin}/{}", &token[..token.len() - 4]),
        format!("{begin}/{of_pixel}"),
        format!("{begin}/https:%2F%2Fevil.example"),
        read.replace("/t/shop/", "/t/other/"),
    ] {
        let answer = fetch(house, &link, SAFARI).await;
        assert_eq!(answer.status(), 404, "{link}");
        assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
        assert!(!answer.headers().contains_key("location"));
    }
    let forged = house.client.post(here(house, &format!("{begin}/{other}"))).send().await.unwrap();
    assert_eq!(
        (forged.status().as_u16(), &forged.headers()["access-control-allow-origin"]),
        (404, &"*".parse().unwrap())
    );
}

/// With a new key new links are sealed; those of the old one lead on for as long as it is named.
async fn rotation(house: &House, smtp: &SmtpReceiver, old: &Value, read: &str) {
    let new = house.secret("new", "the second secret of the shop");
    let rotated = json!({"base_url": super::DOMAIN, "key": new, "previous_keys": [old]});
    house.apply(&document(house, smtp, &rotated)).await;
    let event = house.event("2", "ana", "order").await;
    house.status(&event, "ana", "sent").await;
    let raw = letter(smtp, 1).await;
    let mail = MessageParser::default().parse(&raw).unwrap();
    assert_eq!(one_click(&mail), None, "a transactional letter has no such header unless the project says so");
    let anew = links(&mail.body_html(0).unwrap())[0].clone();
    for link in [read, &anew] {
        assert_eq!(fetch(house, link, SAFARI).await.status(), 302, "{link}");
    }
    house.status(&event, "ana", "clicked").await;

    let forgotten = json!({"base_url": super::DOMAIN, "key": new, "unsubscribe": ["transactional"]});
    house.apply(&document(house, smtp, &forgotten)).await;
    until("the old key is forgotten", async || (fetch(house, read, SAFARI).await.status() == 404).then_some(())).await;
    let event = house.event("3", "ana", "order").await;
    house.status(&event, "ana", "sent").await;
    let raw = letter(smtp, 2).await;
    assert!(one_click(&MessageParser::default().parse(&raw).unwrap()).is_some(), "now it does");
    let both = json!({"base_url": super::DOMAIN, "key": new, "previous_keys": [old]});
    house.apply(&document(house, smtp, &both)).await;
    until("and known again", async || (fetch(house, read, SAFARI).await.status() == 302).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_key_a_letter_waits() {
    let house = House::start().await;
    let smtp = SmtpReceiver::start(([127, 0, 0, 1], 0).into(), SmtpOptions::default()).await.unwrap();
    let missing = house.folder.path().join("missing");
    let tracking = json!({"base_url": super::DOMAIN, "key": {"file": missing}});
    let mut document = document(&house, &smtp, &tracking);
    document["providers"]["mail"]["backoff_ms"] = json!(10);
    house.apply(&document).await;
    house.call(Method::PUT, "/v1/members/ana", &json!({"email": "ana@example.org"})).await;
    let event = house.event("1", "ana", "order").await;
    house.status(&event, "ana", "deferred").await;
    assert_eq!(smtp.count(), 0, "no letter without its links");
    std::fs::write(missing, "a secret of enough length").unwrap();
    house.status(&event, "ana", "sent").await;
    house.instance.stop().await.unwrap();
}
