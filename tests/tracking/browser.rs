//! In a real browser, a headless Chromium that a script drives: web push (`browser.mjs`), with the page script and the service worker that we
//! serve, and the pages about a member's own matters (`member.mjs`). An instance sends to it, and hears from it. What cannot be real there, the
//! scripts say.

use super::{House, installed, until};
use bellwether::receivers::{SmtpOptions, SmtpReceiver};
use bellwether_connectors::channels::web_push::generate_vapid;
use mail_parser::MessageParser;
use reqwest::Method;
use serde_json::{Value, json};
use std::{net::TcpListener, path::Path, process::Stdio};
use tokio::io::AsyncWriteExt as _;

/// Runs a script with a browser: it is told `asked` and where both are, and ends well where it saw all that it looked for.
async fn drive(script: &str, mut asked: Value) {
    let modules = installed("node/node_modules");
    installed("node/node_modules/playwright-core");
    let chromium = Path::new("/usr/bin/chromium");
    assert!(
        chromium.exists(),
        "{} is missing: `apt-get install chromium`, as `cargo xtask counterparts` does",
        chromium.display()
    );
    asked["modules"] = json!(modules);
    asked["chromium"] = json!(chromium);
    asked["screenshots"] = json!(std::env::var("BELLWETHER_SCREENSHOTS").ok());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tracking").join(script);
    let mut node = tokio::process::Command::new("node");
    let node = node.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = node.spawn().expect("node: install Debian's package nodejs");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(asked.to_string().as_bytes()).await.unwrap();
    drop(stdin);
    let output = child.wait_with_output().await.unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_browser_subscribes_is_shown_a_push_reports_it_and_renews() {
    let house = House::start().await;
    // The shop's own site, whose page subscribes; its port must be known before it is there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let site = format!("http://127.0.0.1:{port}");
    let (vapid, _) = generate_vapid().unwrap();
    let variant = |url: &str| json!({"title": "Hi {{ name }}", "text": "Your order is on its way", "url": url, "data": {"leave": "{{ unsubscribe_url }}"}});
    let template = |url: &str| json!({"channels": {"web_push": {"en": variant(url)}}, "sample": {"name": "Ana"}});
    let flow = |name: &str| json!({"on": name, "notify": {"template": name, "lane": "transactional"}});
    house
        .apply(&json!({
            "project": {"name": "shop", "default_locale": "en",
                "tracking": {"base_url": house.base, "key": house.secret("key", "a secret of enough length")}},
            "providers": {"push": {"kind": "web_push", "vapid_private_key": house.secret("vapid", &vapid), "subject": "mailto:a@shop.example",
                "allow_private_endpoints": true}},
            // One leads to a page, which tells that it was opened; the other's path means nothing outside the site, so the worker tells it.
            "templates": {"order": template(&format!("{site}/orders?id=7")), "inside": template("/orders?id=8")},
            "flows": {"order": flow("order"), "inside": flow("inside")},
        }))
        .await;
    assert_eq!(house.call(Method::PUT, "/v1/members/ana", &json!({"locale": "en"})).await.0, 201);
    let (status, link) = house.call(Method::POST, "/v1/members/ana/links", &json!({"channel": "web_push"})).await;
    assert_eq!(status, 201, "{link}");

    let stranger = json!({"endpoint": format!("{site}/push/9"), "keys": {"p256dh": generate_vapid().unwrap().1, "auth": "BTBZMqHH6r4Tts7J_aSIgg"}});
    let renewal = json!({"project": "shop", "subscription": stranger, "replaces": stranger});
    let (status, refused) = house.call(Method::POST, "/v1/web-push/subscriptions", &renewal).await;
    assert_eq!((status, &refused["field"]), (401, &json!("replaces")), "a subscription that nobody has renews nothing");

    let asked = json!({"api": house.base, "key": house.key, "token": link["token"], "port": port,
        "profile": house.folder.path().join("browser")});
    drive("browser.mjs", asked).await;

    let opt_in = house.member("ana").await["opt_ins"]["web_push"].clone();
    assert_eq!(opt_in, true, "to have allowed it in the browser is the opt-in");
    for (metric, count) in [("delivered", 3), ("clicked", 2)] {
        house.counted(metric, count).await;
    }
    house.instance.stop().await.unwrap();
}

/// The links in the letter to an address, as `member.mjs` names them.
async fn links_to(house: &House, smtp: &SmtpReceiver, address: &str) -> Value {
    let letter = || smtp.messages().into_iter().find(|mail| *mail.taken.recipient == *address);
    let mail = until(&format!("the letter to {address}"), async || letter()).await;
    let text = MessageParser::default().parse(&mail.text).unwrap().body_text(0).unwrap().into_owned();
    let link = |purpose: &str| {
        let begins = format!("{}/t/shop/{purpose}/", house.base);
        text.split_whitespace().find(|word| word.starts_with(&begins)).unwrap_or_else(|| panic!("{begins} in {text}"))
    };
    json!({"confirm": link("v"), "preferences": link("p"), "unsubscribe": link("u")})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_confirms_an_address_and_chooses_what_comes() {
    let house = House::start().await;
    let smtp = SmtpReceiver::start(([127, 0, 0, 1], 0).into(), SmtpOptions::default()).await.unwrap();
    let text = "Is it yours? {{ confirm_url }}\nWhat you get: {{ preferences_url }}\nNo more: {{ unsubscribe_url }}";
    let title = |en: &str, es: &str| json!({"en": en, "es": es});
    house
        .apply(&json!({
            "project": {"name": "shop", "default_locale": "en", "double_opt_in": true,
                "tracking": {"base_url": house.base, "key": house.secret("key", "a secret of enough length")},
                "categories": {
                    "news": {"title": title("Newsletter", "Boletín"), "consent": "required"},
                    "orders": {"title": title("Orders", "Pedidos"), "consent": "assumed"},
                    "security": {"title": title("Security", "Seguridad"), "consent": "unrefusable"},
                }},
            "providers": {"mail": {"kind": "smtp", "host": "127.0.0.1", "port": smtp.addr().port(), "security": "none",
                "from_address": "a@shop.example"}},
            "templates": {"confirm": {"sample": {"address": "ana@example.org"},
                "channels": {"email": {"en": {"subject": "Please confirm", "text": text}}}}},
            "flows": {"confirm": {"on": "bellwether.address.unconfirmed",
                "notify": {"template": "confirm", "lane": "transactional"}}},
        }))
        .await;
    // Neither has a locale: the pages are in the language of the browser.
    let mut links = json!({});
    for (member, phone) in [("ana", "+34600111222"), ("eva", "+34600111333")] {
        let address = format!("{member}@example.org");
        let profile = json!({"email": address, "phone": phone, "opt_ins": {"email": {"news": true}}});
        assert_eq!(house.call(Method::PUT, &format!("/v1/members/{member}"), &profile).await.0, 201);
        links[member] = links_to(&house, &smtp, &address).await;
    }
    let asked = json!({"api": house.base, "key": house.key, "links": links});
    drive("member.mjs", asked).await;
    house.instance.stop().await.unwrap();
}
