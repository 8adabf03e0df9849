//! The words of Bellwether: ids, topics, records, table rows and closed enums.
//! Data only: nothing here decides, waits or touches the outside.
//!
//! Reading order: [`time`] and [`ids`], the enums in [`channel`], the [`topics`] table, the [`records`] that travel
//! on the log (their Avro codec is [`codec`], behind the feature of that name), the [`member`] profile, and the [`rows`] and [`tables`] that rest in the store; [`segments`] counts a text message as carriers do.

pub mod channel;
#[cfg(feature = "codec")]
pub mod codec;
pub mod definitions;
pub mod ids;
pub mod member;
pub mod records;
pub mod rows;
pub mod segments;
pub mod tables;
pub mod time;
pub mod topics;

pub use channel::{Channel, Lane};
pub use ids::{DeliveryId, EventId, MemberKey, NotificationId};
pub use time::Timestamp;
pub use topics::{Position, Topic};
