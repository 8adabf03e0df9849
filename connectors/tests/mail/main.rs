//! Mail that comes back: reports in the shapes of the usual servers, our listener and maildir, and what others say of
//! our letters and samples: dkimpy, flufl.bounce, Python's `email`, and a Postfix of its own.
#![allow(clippy::unwrap_used, missing_docs)]

mod counterparts;
mod doors;
mod files;
mod postfix;
mod report;

use async_trait::async_trait;
use bellwether_connectors::{
    channels::{Content, Email, Message, Reference},
    mail::{
        Handler, Incoming, NotKept,
        origin::{Origin, ReturnKey},
    },
};
use bellwether_schemas::{DeliveryId, Lane, NotificationId};
use std::{
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// RFC 8463 appendix A.2.
const ED25519: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
const RSA: &str = include_str!("../../src/channels/smtp/rfc8463.rsa.pem");

fn key() -> ReturnKey {
    ReturnKey::new(SECRET).unwrap()
}

fn message(delivery: DeliveryId, to: &str, email: Email) -> Message {
    let reference = Reference {
        delivery,
        notification: NotificationId::default(),
        project: "shop".into(),
        member: "m1".into(),
        template: "order".into(),
        provider: "mail".into(),
    };
    let content = Content::Email(email);
    Message { delivery, attempt: 2, to: to.into(), content, lane: Lane::Bulk, ttl: None, reference }
}

/// What the letter of every sample was.
fn letter() -> Origin {
    let delivery = "0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6".parse().unwrap();
    let message = message(delivery, "jane@example.com", Email::default());
    Origin { reference: message.reference, attempt: 2, address: message.to }
}

fn sample(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mail/samples").join(name).with_extension("eml");
    let sealed = key().seal(&letter());
    let folded: Vec<_> =
        sealed.as_bytes().chunks(72).map(|line| format!(" {}", String::from_utf8_lossy(line))).collect();
    let text = std::fs::read_to_string(path).unwrap();
    let text = text.replace("@MARK@", &key().mark(letter().reference.notification, 2));
    text.replace("@SEALED@", &folded.join("\n")).replace('\n', "\r\n").into_bytes()
}

/// Keeps what it is given, after so many refusals.
#[derive(Default)]
struct Shelf {
    refuse: AtomicUsize,
    kept: Mutex<Vec<Incoming>>,
}

#[async_trait]
impl Handler for Shelf {
    async fn take(&self, message: Incoming) -> Result<(), NotKept> {
        if self.refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
            return Err(NotKept("no disk".into()));
        }
        self.kept.lock().unwrap().push(message);
        Ok(())
    }
}
