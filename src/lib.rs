//! The house that joins decisions and doors: everything of the `bellwether` binary that tests and benches use too.
//! It decides nothing about a record (that is `processors`) and knows no provider's protocol (that is `connectors`).
//!
//! Reading order: [`config`], [`backends`], [`erasure`] (the key of its marks), [`serve`] (a process and its roles), [`sweep`] (the embedded parts' housekeeping), [`runtime`] (the loops a record passes through), [`tracking`] (a project's links), [`http`] (the API),
//! [`inbound`] (what members do) and [`updates`] (where it is asked for), [`definitions`] (a folder of YAML), [`approvals`] (what Meta says of it), [`cli`] (clients of the API),
//! [`mask`] (addresses as they may be shown), [`check`], [`metrics`] and [`telemetry`]; [`receivers`] stand for the outside in [`demo`], [`mod@bench`] and
//! the tests.

pub mod api;
pub mod approvals;
pub mod backends;
pub mod bench;
pub mod check;
pub mod cli;
pub mod config;
pub mod definitions;
pub mod demo;
pub mod erasure;
pub mod http;
pub mod inbound;
pub mod mail;
pub mod mask;
pub mod metrics;
pub mod receivers;
pub mod runtime;
pub mod serve;
pub mod sweep;
pub mod telemetry;
pub mod tracking;
pub mod updates;
pub mod webhooks;
