//! Commands that are clients of the HTTP API: what they do anybody can do with curl. They open neither log nor store.
//!
//! Reading order: [`client`] (the connection), then one module a command: [`explain`], [`dead_letters`], [`members`]; [`mask`] hides
//! addresses from whoever looks over the shoulder.

pub mod client;
pub mod dead_letters;
pub mod explain;
pub mod mask;
pub mod members;

pub use client::Connection;
pub use dead_letters::DeadLetters;
pub use explain::Explain;
pub use members::Members;

use serde::Serialize;
use std::io::Write;

/// Prints a value as JSON with line breaks.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Prints lines; a reader that has gone (`| head`) is no error of ours, but the end of the work.
fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
    Ok(())
}
