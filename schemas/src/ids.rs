//! Ids derive from causes, so that the same cause met twice names the same effect (law 2).

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{fmt, str::FromStr};
use uuid::Uuid;

/// Name space of every derived id: version 5 of the project's name under the DNS name space (RFC 9562 section 5.5).
const NAMESPACE: Uuid = Uuid::from_u128(0x6b1e_77fa_5d0c_5e0c_9a55_1d4b_b0a7_5e11);

/// Hashes the parts; each is prefixed by its length, so that no two lists of parts collide by concatenation.
fn derive(parts: &[&[u8]]) -> Uuid {
    let mut name = Vec::with_capacity(160);
    for part in parts {
        name.extend_from_slice(&(part.len() as u32).to_be_bytes());
        name.extend_from_slice(part);
    }
    Uuid::new_v5(&NAMESPACE, &name)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Uuid);
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }
        // Always the hyphenated text, whatever the format, so that every schema can say `string` with logical type `uuid`.
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl de::Visitor<'_> for Text {
                    type Value = Uuid;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("a UUID as text")
                    }
                    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
                        Uuid::try_parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text).map(Self)
            }
        }
    };
}

id!(
    /// An event: hash of project, CloudEvents `source` and `id`.
    EventId
);
id!(
    /// The intent to tell one member one thing: hash of event, flow, flow version, step and member.
    NotificationId
);
id!(
    /// A notification by one channel to one address: hash of these three.
    DeliveryId
);
id!(
    /// One entry of a notification's story, a dead letter or a scheduled record: hash of what caused it.
    EntryId
);

impl EventId {
    /// CloudEvents 1.0 section 3.1.1: `source` + `id` is unique; the project is our tenancy around it.
    #[must_use]
    pub fn derive(project: &str, source: &str, id: &str) -> Self {
        Self(derive(&[b"event", project.as_bytes(), source.as_bytes(), id.as_bytes()]))
    }
}

impl NotificationId {
    /// `step` counts from 0 within the flow.
    #[must_use]
    pub fn derive(event: EventId, flow: &str, version: i32, step: i32, member: &str) -> Self {
        Self(derive(&[
            b"notification",
            event.0.as_bytes(),
            flow.as_bytes(),
            &version.to_be_bytes(),
            &step.to_be_bytes(),
            member.as_bytes(),
        ]))
    }
}

impl DeliveryId {
    /// The same notification by the same channel to the same address is the same delivery, however often it is tried.
    #[must_use]
    pub fn derive(notification: NotificationId, channel: crate::Channel, address: &str) -> Self {
        Self(derive(&[b"delivery", notification.0.as_bytes(), channel.name().as_bytes(), address.as_bytes()]))
    }
}

impl EntryId {
    /// `what` names the kind of entry; `cause` tells entries of that kind apart.
    #[must_use]
    pub fn derive(what: &str, cause: &[&[u8]]) -> Self {
        let mut parts = vec![what.as_bytes()];
        parts.extend_from_slice(cause);
        Self(derive(&parts))
    }
}

/// The log's key: one member of one project. Its records are serial (law 3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberKey {
    /// Project name: 1 to 63 of `[a-z0-9-]`, hence no slash.
    pub project: String,
    /// `client_user_id`: any text the client chose.
    pub member: String,
}

impl MemberKey {
    /// Takes the two names as they are.
    pub fn new(project: impl Into<String>, member: impl Into<String>) -> Self {
        Self { project: project.into(), member: member.into() }
    }
}

/// `project/member`, readable in every Kafka tool.
impl fmt::Display for MemberKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.project, self.member)
    }
}
