//! The house that joins words, decisions and doors: runtime, HTTP API, command line.
//!
//! Reading order: [`http`] (the API), [`cli`] (its clients).

pub mod cli;
pub mod http;
