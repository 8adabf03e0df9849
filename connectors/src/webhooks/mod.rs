//! What providers call back: one file a provider, with pure verification and pure reading into receipts
//! and what members say to us. No I/O and no clock here; the HTTP endpoint is the house's, and what a receipt changes is decided elsewhere.

pub mod inbound;
pub mod telegram;
pub mod twilio;
pub mod whatsapp;

use subtle::ConstantTimeEq as _;

/// Why a callback is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// The signature is missing or not that of this request: not the provider, another URL than it was given, or another token.
    #[error(
        "signature is wrong: the provider's token or secret, and our public URL where it is signed too, must be those it signs with"
    )]
    Signature,
    /// A field that we need is not there.
    #[error("field `{0}` is missing")]
    Missing(&'static str),
    /// A field has a value outside its domain.
    #[error("field `{field}` {problem}")]
    Invalid {
        /// Field.
        field: &'static str,
        /// What is wrong with it.
        problem: String,
    },
}

/// Whether a word is the expected secret, in a time that does not say how much of it is right.
fn is_secret(expected: &str, given: &str) -> bool {
    expected.as_bytes().ct_eq(given.as_bytes()).into()
}
