//! Mail that comes back to us: what it says and which letter it is about. It is received by a listener of ours or found
//! in a maildir; what a receipt changes is decided elsewhere.
//!
//! Reading order: [`origin`] (how a letter is known again), [`report`] (what comes back, read without I/O), [`status`]
//! (what its codes mean), [`listener`] and [`maildir`] (how it gets here), `session` (the server's side of SMTP and
//! LMTP).

pub mod listener;
pub mod maildir;
pub mod origin;
pub mod report;
mod session;
pub mod status;

use async_trait::async_trait;
use std::fmt;

/// A message as it came.
#[derive(Clone, PartialEq, Eq)]
pub struct Incoming {
    /// Envelope recipients; from a maildir none, and the message's headers must say.
    pub recipients: Vec<String>,
    /// Headers and body. Of a long message only the beginning ([`listener::Config::keep_bytes`]).
    pub content: Vec<u8>,
}

/// Without addresses and content.
impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("recipients", &self.recipients.len())
            .field("bytes", &self.content.len())
            .finish()
    }
}

/// It could not be kept: whoever has the message keeps it and tries again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not kept: {0}")]
pub struct NotKept(pub String);

/// Who takes what comes in.
#[async_trait]
pub trait Handler: Send + Sync {
    /// Takes one message. When this returns `Ok`, all that follows from it is durable: the sender forgets it then. The
    /// same message may come again after a crash.
    ///
    /// # Errors
    /// It is not durable, and must be offered again.
    async fn take(&self, message: Incoming) -> Result<(), NotKept>;
}
