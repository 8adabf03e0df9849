//! How long what names members is kept, by kind: what nobody deletes ends by itself.

use crate::{dead_letters, track::STORY_RETENTION};
use std::time::Duration;

/// See the fields. Consents have none: a ledger that forgets shows nothing. What waits and what was sent lately ends with what it is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// A line of a notification's story.
    pub stories: Duration,
    /// A notification's claim, by which a duplicate is known, and by which its story is found for an export or an erasure. At least
    /// [`crate::route::DEDUPE_WINDOW`], which outlives a turn of every channel.
    pub claims: Duration,
    /// A dead letter.
    pub dead_letters: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        Self { stories: STORY_RETENTION, claims: STORY_RETENTION, dead_letters: dead_letters::RETENTION }
    }
}
