//! Logs: one JSON object a line on standard error, message + fields. Fields never carry addresses, names or contents; ids and positions do.

use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// What libraries say that concerns nobody: each flush of a table, and that a queue was gone when a consumer was closed.
const LIBRARIES: &str = "fjall=warn,lsm_tree=warn,rdkafka::consumer=off";

/// Starts logging; `RUST_LOG` filters. Text for people when `human`, JSON otherwise.
pub fn init(human: bool, default: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(format!("{default},{LIBRARIES}")));
    let registry = tracing_subscriber::registry().with(filter);
    let begun = if human {
        registry.with(fmt::layer().with_target(false).with_writer(std::io::stderr)).try_init()
    } else {
        registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init()
    };
    if let Err(error) = begun {
        // Somebody (a test) has a subscriber already; its choice stands.
        tracing::debug!(%error, "logging was set up before");
    }
}
