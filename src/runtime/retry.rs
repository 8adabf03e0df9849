//! While log, store or a provider that is asked do not answer, a loop waits and asks again: nothing is lost, the offset stands. One log line when it begins and one when it
//! ends, not one a try.

use bellwether_connectors::{channels::SendError, log::LogError, store::StoreError};
use bellwether_schemas::records::ErrorKind;
use std::{fmt::Display, future::Future, time::Duration};
use tokio_util::sync::CancellationToken;

const FIRST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);

/// An error that tells whether the same call may pass later.
pub trait Transient: Display {
    /// Whether it may.
    fn is_transient(&self) -> bool;

    /// How long we were told to wait.
    fn after(&self) -> Option<Duration> {
        None
    }
}

impl Transient for LogError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

impl Transient for StoreError {
    fn is_transient(&self) -> bool {
        Self::is_transient(self)
    }
}

/// Of calls that only ask: they may be made again.
impl Transient for SendError {
    fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Transient | ErrorKind::Throttled)
    }
    fn after(&self) -> Option<Duration> {
        self.after
    }
}

/// Calls until it passes, fails for good, or `stop` is cancelled; then the last error is returned.
///
/// # Errors
/// The last error.
pub async fn until_available<T, E, F>(what: &str, stop: &CancellationToken, mut call: impl FnMut() -> F) -> Result<T, E>
where
    E: Transient,
    F: Future<Output = Result<T, E>>,
{
    let mut wait = FIRST;
    let mut reported = false;
    loop {
        match call().await {
            Ok(value) => {
                if reported {
                    tracing::info!(what, "answers again");
                }
                return Ok(value);
            }
            Err(error) if error.is_transient() && !stop.is_cancelled() => {
                if !reported {
                    tracing::warn!(what, %error, "does not answer; asking again");
                    reported = true;
                }
                tokio::select! {
                    () = tokio::time::sleep(error.after().unwrap_or_default().max(wait)) => {}
                    () = stop.cancelled() => {}
                }
                wait = (wait * 2).min(LONGEST);
            }
            Err(error) => return Err(error),
        }
    }
}
