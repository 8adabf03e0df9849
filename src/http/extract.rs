//! Path and query parameters, read as axum reads them; what cannot be read is a problem document.
//! But for the length of a page there are no rules about values here: those belong to the resources.

use super::problem::Problem;
use axum::extract::{FromRequestParts, Path, Query};

/// Most entries of a page, which is read into memory.
const MAX_PAGE: usize = 1_000;

/// How many entries of a list are asked for.
pub(super) fn page_size(limit: usize) -> Result<usize, Problem> {
    if (1..=MAX_PAGE).contains(&limit) {
        return Ok(limit);
    }
    Err(Problem::invalid("limit", format!("`limit` is not within 1 to {MAX_PAGE}"), "ask for several pages"))
}

/// A path parameter.
#[derive(Debug, FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub struct Segment<T>(pub T);

/// The query's parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub struct Params<T>(pub T);
