//! Secrets by reference: definitions and configuration name an environment variable or a file, never the value (law 8).

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a secret is to be had.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Secret {
    /// An environment variable.
    Env(String),
    /// A file; a line break at its end is dropped.
    File(PathBuf),
}

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

impl Secret {
    /// Fetches the value.
    ///
    /// # Errors
    /// See [`SecretError`].
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        match self {
            Self::Env(name) => std::env::var(name).map(SecretString::from).map_err(|_| SecretError::Env(name.clone())),
            Self::File(path) => std::fs::read_to_string(path)
                .map(|text| SecretString::from(text.trim_end_matches(['\r', '\n']).to_owned()))
                .map_err(|source| SecretError::File { path: path.clone(), source }),
        }
    }
}
