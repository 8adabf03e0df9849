//! Path and query parameters, read as axum reads them; what cannot be read is a problem document.
//! No rules about values here: those belong to the resources.

use super::problem::Problem;
use axum::extract::{FromRequestParts, Path, Query};

/// A path parameter.
#[derive(Debug, FromRequestParts)]
#[from_request(via(Path), rejection(Problem))]
pub struct Segment<T>(pub T);

/// The query's parameters.
#[derive(Debug, FromRequestParts)]
#[from_request(via(Query), rejection(Problem))]
pub struct Params<T>(pub T);
