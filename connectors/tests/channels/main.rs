//! The connectors against servers that speak the real protocols: scripted ones for every turn a dialogue can take, and Postfix's `smtp-sink`.
#![allow(clippy::unwrap_used, missing_docs)]

mod apns;
#[path = "../contract/authority.rs"]
mod authority;
mod counterparts;
mod counterparts_push;
mod fcm;
mod server;
mod smtp;
mod telegram;
mod twilio;
mod web_push;
mod webhook;
mod whatsapp;

use bellwether_connectors::channels::{Content, Message, Reference};
use bellwether_schemas::{Channel, DeliveryId, EventId, Lane, NotificationId};

/// The `n`-th message of a test, to `to`.
fn message(n: u64, to: &str, content: Content) -> Message {
    let notification = NotificationId::derive(EventId::derive("shop", "/test", &n.to_string()), "flow", 1, 0, "m1");
    let channel = match content {
        Content::Email(_) => Channel::Email,
        Content::Whatsapp(_) => Channel::Whatsapp,
        Content::Chat { .. } => Channel::Telegram,
        _ => Channel::Sms,
    };
    let delivery = DeliveryId::derive(notification, channel, to);
    let reference = Reference {
        delivery,
        notification,
        project: "shop".into(),
        member: "m1".into(),
        template: "order".into(),
        provider: "test".into(),
    };
    Message { delivery, attempt: 1, to: to.into(), content, lane: Lane::Bulk, ttl: None, reference }
}
