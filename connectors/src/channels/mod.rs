//! Channels: one file a provider, each with a `Config` (unknown fields refused, secrets by reference), a pure `request`, a pure
//! `classify`, and a thin call. Whether, when and to whom to send is decided elsewhere.

pub mod pacing;
pub mod smtp;
pub mod twilio;

use async_trait::async_trait;
use bellwether_schemas::{Channel, DeliveryId, NotificationId, records::ErrorKind};
use std::{fmt::Debug, time::Duration};

/// A rendered message on its way to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Delivery: the idempotence key and the base of the Message-ID.
    pub delivery: DeliveryId,
    /// Which try this is, from 1.
    pub attempt: i32,
    /// Address in the channel's normal form.
    pub to: String,
    /// What to say.
    pub content: Content,
    /// Who it is about, so that a callback finds its way home without a look-up.
    pub reference: Reference,
}

/// What a provider's callback must bring back to make a receipt of it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Reference {
    /// Delivery.
    pub delivery: DeliveryId,
    /// Notification.
    pub notification: NotificationId,
    /// Project.
    pub project: String,
    /// `client_user_id`.
    pub member: String,
    /// Template.
    pub template: String,
    /// Provider's name in the definitions.
    pub provider: String,
}

/// What a message says, by the kind of channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// E-mail: subject and at least one of the bodies.
    Email {
        /// Subject, one line.
        subject: String,
        /// HTML body.
        html: Option<String>,
        /// Text body.
        text: Option<String>,
    },
    /// Plain text (SMS).
    Text {
        /// Body.
        body: String,
    },
}

/// The provider took the message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The provider's own id of it.
    pub provider_id: Option<String>,
}

/// The provider did not take it, or we do not know.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", kind.name())]
pub struct SendError {
    /// What to do about it.
    pub kind: ErrorKind,
    /// The provider's words: code and text, without the address.
    pub detail: String,
    /// How long the provider told us to wait.
    pub after: Option<Duration>,
}

impl SendError {
    /// An error without a waiting time.
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), after: None }
    }
}

/// A provider that can be called.
#[async_trait]
pub trait Sink: Debug + Send + Sync {
    /// The channel it serves.
    fn channel(&self) -> Channel;

    /// Sends one message. Ends by itself within the provider's timeout.
    ///
    /// # Errors
    /// See [`SendError`]. A time-out or a broken connection after the message may have been taken is [`ErrorKind::Ambiguous`].
    async fn send(&self, message: &Message) -> Result<Accepted, SendError>;

    /// Reaches the provider and checks our credentials, as far as that goes without sending.
    ///
    /// # Errors
    /// What is wrong.
    async fn check(&self) -> Result<(), SendError>;
}
