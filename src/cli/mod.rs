//! Commands that are clients of the HTTP API: what they do anybody can do with curl. They open neither log nor store.
//!
//! Reading order: [`client`] (the connection), then one module a command: [`apply`], [`preview`], [`explain`], [`dead_letters`], [`members`],
//! [`suppressions`], [`channels`]. Addresses are hidden from whoever looks over the shoulder ([`mask`](crate::mask)).

pub mod apply;
pub mod channels;
pub mod client;
pub mod dead_letters;
pub mod explain;
pub mod members;
pub mod preview;
pub mod suppressions;

pub use client::Connection;
pub use dead_letters::DeadLetters;
pub use explain::Explain;
pub use members::Members;
pub use preview::Preview;
pub use suppressions::Suppressions;

use serde::Serialize;
use std::io::Write;

/// Every command that talks to a running instance.
#[derive(Debug, clap::Subcommand)]
pub enum Client {
    /// Show what a folder of definitions would change, ask, and publish it.
    Apply(apply::Apply),
    /// Show what templates would say, every variant beside the others.
    Preview(Preview),
    /// Tell the whole story of one notification.
    Explain(Explain),
    /// List, show and replay dead letters.
    #[command(name = "deadletters")]
    DeadLetters(DeadLetters),
    /// Get, put, delete and import members.
    Members(Members),
    /// Show how the providers of each channel stand, send test messages, and list templates at Meta.
    Channel(channels::Channel),
    /// List, add, remove, export and import suppressed addresses.
    Suppressions(Suppressions),
}

impl Client {
    /// Runs the command.
    ///
    /// # Errors
    /// The instance does not answer or refuses.
    pub async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Apply(command) => command.run().await.map(drop),
            Self::Preview(command) => command.run().await,
            Self::Explain(command) => command.run().await,
            Self::DeadLetters(command) => command.run().await,
            Self::Members(command) => command.run().await,
            Self::Channel(command) => command.run().await,
            Self::Suppressions(command) => command.run().await,
        }
    }
}

/// Prints a value as JSON with line breaks.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

/// Prints lines; a reader that has gone (`| head`) is no error of ours, but the end of the work.
fn print(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{}", text.trim_end())?;
    Ok(())
}
