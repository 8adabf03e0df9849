//! Rows of a member's partition that keep a value as JSON for a while: claims, what was sent, seen or gathered, what another channel is to try.
//! What such a value means is its own module's.

use crate::processor::Refusal;
use bellwether_schemas::{
    Timestamp,
    records::Reason,
    rows::{Cells, Row as _, Write},
    tables::MemberRow,
};
use serde::Serialize;
use std::time::Duration;

/// Writes the value into the row, fenced, to end by itself after `kept`.
///
/// # Errors
/// The value cannot be written as JSON.
pub(crate) fn put<T: Serialize>(
    row: MemberRow,
    value: &T,
    now: Timestamp,
    kept: Duration,
    fence: u64,
) -> Result<Write, Refusal> {
    let text = serde_json::to_string(value).map_err(|e| Refusal::new(Reason::Invalid, e.to_string()))?;
    let row = MemberRow { updated_at: Some(now), decision: Some(text), ..row };
    Ok(Write::Put(Cells { ttl: Some(kept), fence: Some(fence), ..row.into_cells() }))
}
