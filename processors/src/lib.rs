//! The decisions of Bellwether: pure functions of a record, the rows it needs, the definitions and the time.
//! No I/O, no clock, no randomness, no async runtime; whatever is random derives from a hash of an id.
//!
//! Reading order: [`processor`] (what a processor is), [`definitions`] (compiled), then a record's journey: [`flow`], [`members`] (with [`consent`] and [`erasure`]),
//! [`route`] (with [`caps`], [`hours`], [`score`], [`digest`] and [`fallback`]), [`deliver`] (with [`content`] and [`ledger`]), [`track`], [`schedule`], [`dead_letters`];
//! what they write ends by [`retention`].

pub mod caps;
pub mod consent;
pub mod content;
pub mod dead_letters;
pub mod definitions;
pub mod deliver;
pub mod digest;
pub mod erasure;
pub mod fallback;
pub mod flow;
pub mod hours;
mod kept;
pub mod ledger;
pub mod members;
pub mod processor;
pub mod retention;
pub mod route;
pub mod schedule;
pub mod score;
pub mod track;

pub use processor::{Facts, Incoming, Output, Processor};
