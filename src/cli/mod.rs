//! Commands.

pub mod apply;
