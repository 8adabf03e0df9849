//! Secrets by reference: definitions and configuration name an environment variable or a file, never the value (law 8).

pub use bellwether_schemas::definitions::Secret;
use secrecy::SecretString;
use std::path::PathBuf;

/// A secret that is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The variable is not set.
    #[error("environment variable {0} is not set: set it, or name a file by `file:`")]
    Env(String),
    /// The file cannot be read.
    #[error("secret file {path}: {source}")]
    File {
        /// Its path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// Fetches what a [`Secret`] names.
pub trait Resolve {
    /// The value.
    ///
    /// # Errors
    /// See [`SecretError`].
    fn resolve(&self) -> Result<SecretString, SecretError>;
}

impl Resolve for Secret {
    fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map(SecretString::from).map_err(|_| SecretError::Env(name.clone())),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
                .map_err(|source| SecretError::File { path: path.clone(), source }),
        }
    }
}
