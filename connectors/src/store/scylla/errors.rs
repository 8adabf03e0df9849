//! The driver's errors as [`StoreError`]s: what may pass later, what needs a migration, and what never passes.
//! The server's own words are kept only where no value can be in them: preparing a statement or changing the schema.

use crate::store::StoreError;
use scylla::errors::{
    ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError, ExecutionError, MetadataError,
    MetadataFetchErrorKind, NewSessionError, PrepareError, RequestAttemptError, UseKeyspaceError,
};
use std::fmt;

/// A session that could not be opened.
pub(super) fn connect(error: &NewSessionError) -> StoreError {
    match error {
        NewSessionError::FailedToResolveAnyHostname(_) => {
            StoreError::Unavailable("no contact point could be resolved: check `contact_points`".into())
        }
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => {
            StoreError::Refused(error.to_string())
        }
        NewSessionError::MetadataError(MetadataError::ConnectionPoolError(error)) => pool(error),
        NewSessionError::MetadataError(MetadataError::FetchError(error)) => match &error.error {
            MetadataFetchErrorKind::PrepareError(error) => attempt(error),
            _ => unavailable(error),
        },
        other => unavailable(other),
    }
}

/// A statement that could not be prepared. It names no values, so the server's words can be told.
pub(super) fn prepare(table: &str, error: &PrepareError) -> StoreError {
    match error {
        PrepareError::ConnectionPoolError(error) => pool(error),
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(DbError::Invalid | DbError::SyntaxError, words),
        } => StoreError::Schema(format!("table {table}: {words}")),
        PrepareError::AllAttemptsFailed { first_attempt } => attempt(first_attempt),
        other => StoreError::Unavailable(format!("preparing a statement of table {table}: {other}")),
    }
}

/// A statement that could not be executed.
pub(super) fn execute(table: &str, error: &ExecutionError) -> StoreError {
    match error {
        ExecutionError::LastAttemptError(error) => attempt(error),
        ExecutionError::ConnectionPoolError(error) => pool(error),
        ExecutionError::PrepareError(error) => prepare(table, error),
        ExecutionError::RequestTimeout(after) => {
            StoreError::Unavailable(format!("no answer within {} ms", after.as_millis()))
        }
        ExecutionError::EmptyPlan => StoreError::Unavailable("no node is known to be up".into()),
        ExecutionError::BadQuery(_) => {
            StoreError::Refused(format!("table {table}: a value cannot be bound, or the batch is too large"))
        }
        ExecutionError::UseKeyspaceError(UseKeyspaceError::RequestError(error)) => attempt(error),
        // Schema agreement and metadata come late when nodes are slow or down.
        other => unavailable(other),
    }
}

/// A change of the schema that failed; `what` names it.
pub(super) fn define(what: &str, error: &ExecutionError) -> StoreError {
    match error {
        ExecutionError::LastAttemptError(RequestAttemptError::DbError(
            kind @ (DbError::Invalid | DbError::SyntaxError | DbError::ConfigError | DbError::Unauthorized),
            words,
        )) => StoreError::Refused(format!("{what}: {kind}: {words}")),
        other => execute(what, other),
    }
}

/// One attempt; the driver has retried where it was safe.
fn attempt(error: &RequestAttemptError) -> StoreError {
    match error {
        // A keyspace or table that another process is making right now; whether one is missing for good is told by `migrate` and `ping`.
        RequestAttemptError::DbError(DbError::Invalid, words) if words.ends_with("does not exist") => {
            StoreError::Unavailable(
                "a keyspace or table is not there yet; if it stays so, run `bellwether migrate`".into(),
            )
        }
        RequestAttemptError::DbError(error, _) => server(error),
        RequestAttemptError::UnableToAllocStreamId | RequestAttemptError::BrokenConnectionError(_) => {
            unavailable(error)
        }
        RequestAttemptError::RepreparedIdChanged { .. } | RequestAttemptError::RepreparedIdMissingInBatch => {
            StoreError::Schema("a prepared statement's table was changed meanwhile".into())
        }
        RequestAttemptError::SerializationError(_) | RequestAttemptError::CqlRequestSerialization(_) => {
            StoreError::Refused("a request could not be encoded: is a value larger than CQL takes?".into())
        }
        // Everything else is an answer that cannot be understood; it may quote what it could not read.
        _ => StoreError::Refused("the server's answer is not understood: is it a CQL store of protocol 4?".into()),
    }
}

/// The server's refusal, in the driver's words: the server's own might quote values.
fn server(error: &DbError) -> StoreError {
    match error {
        DbError::Unavailable { .. }
        | DbError::Overloaded
        | DbError::IsBootstrapping
        | DbError::TruncateError
        | DbError::ReadTimeout { .. }
        | DbError::WriteTimeout { .. }
        | DbError::ReadFailure { .. }
        | DbError::WriteFailure { .. }
        | DbError::ServerError
        | DbError::Unprepared { .. }
        | DbError::RateLimitReached { .. } => unavailable(error),
        DbError::Invalid | DbError::SyntaxError => {
            StoreError::Refused("the server calls the request invalid: is a key or value larger than it takes?".into())
        }
        other => StoreError::Refused(other.to_string()),
    }
}

fn pool(error: &ConnectionPoolError) -> StoreError {
    match error {
        ConnectionPoolError::Broken { last_connection_error } => connection(last_connection_error),
        other => unavailable(other),
    }
}

fn connection(error: &ConnectionError) -> StoreError {
    if let ConnectionError::ConnectionSetupRequestError(setup) = error {
        match &setup.error {
            ConnectionSetupRequestErrorKind::MissingAuthentication => {
                return StoreError::Refused("it asks for a password: set `username` and `password`".into());
            }
            // The node could not read its roles from the others.
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError, words)
                if words.starts_with("Unable to perform authentication") => {}
            ConnectionSetupRequestErrorKind::DbError(DbError::AuthenticationError | DbError::Unauthorized, _) => {
                return StoreError::Refused("it does not take the password: check `username` and `password`".into());
            }
            // A node that goes away looks the same as one that hangs up because it wants TLS, or wants none.
            ConnectionSetupRequestErrorKind::BrokenConnection(broken) => {
                return StoreError::Unavailable(format!("{}; if it stays so, check `tls`", first_line(broken)));
            }
            _ => {}
        }
    }
    if let ConnectionError::IoError(io) = error
        && io
            .get_ref()
            .is_some_and(|inner| inner.is::<openssl::ssl::Error>() || inner.is::<openssl::error::ErrorStack>())
    {
        let words = first_line(io);
        // Only this is the node's last word: what else goes wrong in a handshake may be a node that starts or goes away in the midst of it.
        return if words.contains("certificate verify failed") {
            StoreError::Refused(format!("the node's certificate is not trusted: {words}; check `tls`"))
        } else {
            StoreError::Unavailable(format!("no encryption is agreed on: {words}; if it stays so, check `tls`"))
        };
    }
    unavailable(error)
}

fn unavailable(error: &impl fmt::Display) -> StoreError {
    StoreError::Unavailable(first_line(error))
}

/// Some of the driver's errors explain themselves at length.
fn first_line(error: &impl fmt::Display) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}
