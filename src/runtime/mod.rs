//! The loops: needs → facts → decide → commit, for every processor the same; deliver has its own, because it is the one step with an
//! outside effect. Nothing is decided here.
//!
//! Reading order: [`stages`] (which processor reads which topics, and how bytes become its input), [`worker`] (the loop), [`deliver`]
//! (claim, send, settle) with [`sinks`], [`follow`] (compacted topics that everyone reads: [`definitions`], [`health`] of the providers), [`metered`] (counts
//! what is asked of log and store), [`retry`] (what to do while log or store do not answer), [`clock`].

pub mod clock;
pub mod definitions;
pub mod deliver;
pub mod follow;
pub mod health;
pub mod links;
pub mod message;
pub mod metered;
pub mod retry;
pub mod sinks;
pub mod stages;
pub mod worker;
