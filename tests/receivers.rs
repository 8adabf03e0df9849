//! Our connectors against the local receivers, which are written from the providers' documents alone: each behaviour that an address asks for comes
//! back as the kind of error that it is, strangers are kept out, and a second try comes to what the connectors say of it.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether::{
    demo::accounts::Accounts,
    receivers::{HttpOptions, Pages, http::Event},
};
use bellwether_connectors::channels::{
    Content, KINDS, Message, Push, Reference, SecondTry, Sink, Whatsapp, apns, build, channel_of, fcm, second_try,
    smtp, telegram, twilio, web_push, webhook, whatsapp,
};
use bellwether_schemas::{
    Channel, DeliveryId, Lane, NotificationId,
    records::ErrorKind::{
        self, Ambiguous, InvalidAddress, OptedOut, Rejected, Throttled, Transient, Unauthorized, Unreachable,
    },
};
use serde_json::{Map, Value, json};
use std::{sync::Arc, time::Duration};

async fn accounts() -> (tempfile::TempDir, Accounts) {
    let folder = tempfile::tempdir().unwrap();
    let options = HttpOptions { slow: Duration::from_millis(50), ..HttpOptions::default() };
    let accounts = Accounts::open(folder.path(), &options).await.unwrap();
    (folder, accounts)
}

/// Every kind but SMTP, whose receiver speaks otherwise.
fn kinds() -> impl Iterator<Item = &'static str> {
    KINDS.into_iter().map(|(kind, _)| kind).filter(|kind| *kind != smtp::KIND)
}

/// An address that ends so.
fn address(accounts: &Accounts, kind: &str, ending: &str) -> String {
    match kind {
        twilio::KIND | whatsapp::KIND => format!("+3460000{ending}"),
        telegram::KIND => format!("7000{ending}"),
        web_push::KIND => accounts.browser(&format!("browser-{ending}")).unwrap().to_string(),
        fcm::KIND => format!("fcm:token{ending}"),
        apns::KIND => format!("apns:{}{ending}", "a".repeat(60)),
        _ => format!("crm-{ending}"),
    }
}

fn message(kind: &str, to: String, n: u8) -> Message {
    let words = format!("number {n}");
    let content = match channel_of(kind).unwrap() {
        Channel::Sms => Content::Text { body: words },
        Channel::Whatsapp => Content::Whatsapp(Whatsapp::Text { body: words, header: None, buttons: Vec::new() }),
        Channel::Telegram => Content::Chat { html: words, buttons: Vec::new() },
        Channel::Webhook => Content::Json { body: json!({"n": n}).to_string() },
        _ => Content::Push(Push { title: "Hi".into(), body: words, ..Push::default() }),
    };
    let (delivery, notification) = (DeliveryId(uuid::Uuid::from_bytes([n; 16])), NotificationId::default());
    let reference = Reference {
        delivery,
        notification,
        project: "shop".into(),
        member: "m1".into(),
        template: "note".into(),
        provider: kind.into(),
    };
    Message { delivery, attempt: 1, to, content, lane: Lane::Bulk, ttl: None, reference }
}

fn sink(kind: &str, settings: &Map<String, Value>) -> Arc<dyn Sink> {
    build(kind, settings).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_ending_has_its_consequence() {
    let (_folder, accounts) = accounts().await;
    for (kind, nobody, opted_out) in [
        (twilio::KIND, InvalidAddress, OptedOut),
        (whatsapp::KIND, Unreachable, OptedOut),
        (telegram::KIND, InvalidAddress, InvalidAddress),
        (web_push::KIND, InvalidAddress, InvalidAddress),
        (fcm::KIND, InvalidAddress, InvalidAddress),
        (apns::KIND, InvalidAddress, InvalidAddress),
        (webhook::KIND, Rejected, Rejected),
    ] {
        let sink = sink(kind, &accounts.settings(kind));
        sink.check().await.unwrap();
        let steps: [(&str, &[Option<ErrorKind>]); 6] = [
            ("0001", &[Some(nobody)]),
            ("0002", &[Some(Throttled), None]),
            ("0003", &[Some(Transient), Some(Transient), None]),
            ("0004", &[None]),
            ("0007", &[Some(opted_out)]),
            ("2468", &[None]),
        ];
        for (n, (ending, tries)) in steps.into_iter().enumerate() {
            let message = message(kind, address(&accounts, kind, ending), n as u8 + 1);
            for expected in tries {
                let outcome = sink.send(&message).await;
                assert_eq!(outcome.as_ref().err().map(|error| error.kind), *expected, "{kind} {ending}: {outcome:?}");
            }
        }
        let mut hasty = accounts.settings(kind);
        hasty.insert("timeout_seconds".into(), 1.into());
        let silent = message(kind, address(&accounts, kind, "0006"), 99);
        assert_eq!(self::sink(kind, &hasty).send(&silent).await.unwrap_err().kind, Ambiguous, "{kind}");
        let received = accounts.receiver(kind).unwrap().snapshot();
        assert_eq!((received.taken, received.unanswered), (5, 1), "{kind}: {:?}", received.refused);
        assert_eq!(received.nobody.len(), 2, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_other_secrets_is_kept_out() {
    let ((_one, ours), (_two, theirs)) = (accounts().await, accounts().await);
    for kind in kinds() {
        let mut settings = theirs.settings(kind);
        for field in ["base_url", "url"] {
            settings.extend(ours.settings(kind).get(field).map(|url| (field.to_owned(), url.clone())));
        }
        if kind == fcm::KIND {
            settings.insert("token_uri".into(), format!("{}/token", ours.receiver(kind).unwrap().url()).into());
        }
        let outcome = sink(kind, &settings).send(&message(kind, address(&ours, kind, "2468"), 1)).await;
        let expected = if kind == webhook::KIND { Rejected } else { Unauthorized };
        assert_eq!(outcome.unwrap_err().kind, expected, "{kind}");
        assert_eq!(ours.receiver(kind).unwrap().count(), 0, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_try_comes_to_what_the_connectors_say() {
    let (_folder, accounts) = accounts().await;
    for kind in kinds() {
        let sink = sink(kind, &accounts.settings(kind));
        let to = address(&accounts, kind, "2468");
        for (n, attempt) in [(1, 1), (1, 2), (2, 1)] {
            sink.send(&Message { attempt, ..message(kind, to.clone(), n) }).await.unwrap();
        }
        let received = accounts.receiver(kind).unwrap().snapshot();
        let mut times: Vec<u32> = received.times.values().copied().collect();
        times.sort_unstable();
        assert_eq!(times, [1, 2], "{kind}");
        let seen = u64::from(second_try(kind) == Some(SecondTry::Repeats));
        assert_eq!(received.shown_again, seen, "{kind}: {:?}", second_try(kind));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_reports_to_our_own_pages_only() {
    let (_folder, accounts) = accounts().await;
    let home = axum::Router::new().fallback(async || "");
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let served_at = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, home).await });
    let origin = "https://links.shop.example";
    for kind in [web_push::KIND, fcm::KIND, apns::KIND] {
        let receiver = accounts.receiver(kind).unwrap();
        receiver.find_pages(Pages { origin: origin.into(), served_at: served_at.clone() });
        let to = address(&accounts, kind, "2469");
        for (n, site) in [(1, origin), (2, "https://links.shop.example.org")] {
            let (url, delivered_url) = (Some(format!("{site}/c/1")), Some(format!("{site}/d/1")));
            let push = Push { title: "Hi".into(), url, delivered_url, ..Push::default() };
            let message = Message { content: Content::Push(push), ..message(kind, to.clone(), n) };
            sink(kind, &accounts.settings(kind)).send(&message).await.unwrap();
        }
        assert!(receiver.wait_for(|received| received.callbacks.pending == 0, Duration::from_secs(60)).await);
        let received = receiver.snapshot();
        let told = |event| received.told.get(&event).map_or(0, |ids| ids.len());
        assert_eq!((told(Event::Delivered), told(Event::Clicked), received.callbacks.abandoned), (1, 1, 0), "{kind}");
    }
}
