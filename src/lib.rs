//! The house that joins words, decisions and doors.
//!
//! Reading order: [`definitions`] (folders of YAML), [`cli`] (commands).

pub mod cli;
pub mod definitions;
