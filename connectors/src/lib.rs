//! The doors of Bellwether: everything that touches the outside, behind a few traits.
//! Nothing here decides: whom to tell what is the processors' business, and neither knows the other.
//!
//! Reading order: [`log`] and [`store`] (each twice: [`embedded`] in one database, and for a cluster), [`events`] (the encodings of the `events` topic),
//! [`channels`] (one file a provider), [`webhooks`] (what providers call back), [`mail`] (what comes back by mail), [`tracking`] (what comes back by
//! links), [`secret`].

pub mod channels;
pub mod embedded;
pub mod events;
pub mod log;
pub mod mail;
pub mod secret;
pub mod store;
pub mod tracking;
pub mod webhooks;
