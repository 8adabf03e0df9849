//! The key under which marks of erased members are kept: who has the store and not the key cannot tell whose they are. What a mark is for is
//! told in `processors/src/erasure.rs`.

use crate::{
    backends::generated,
    config::{Config, StoreConfig},
    serve::ServeError,
};
use bellwether_connectors::secret::{Resolve as _, Secret};
use bellwether_processors::erasure::Marks;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret as _;
use sha2::Sha256;
use std::{fmt, sync::Arc};

/// Least characters of a key: those of 128 random bits in hexadecimal.
const LEAST: usize = 32;
/// The generated key's file in `data_dir`.
const FILE: &str = "erasure-key";

/// HMAC-SHA256 (RFC 2104) with the installation's key.
#[derive(Clone)]
pub struct ErasureKey(Hmac<Sha256>);

impl fmt::Debug for ErasureKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ErasureKey")
    }
}

impl ErasureKey {
    /// From the key's text; `None` where that is too short.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let long_enough = text.len() >= LEAST;
        long_enough.then(|| Hmac::<Sha256>::new_from_slice(text.as_bytes()).ok()).flatten().map(Self)
    }
}

impl Marks for ErasureKey {
    fn mark_of(&self, project: &str, member: &str) -> String {
        let mut mac = self.0.clone();
        // With its length, so that no two pairs are one text.
        mac.update(&(project.len() as u64).to_be_bytes());
        mac.update(project.as_bytes());
        mac.update(member.as_bytes());
        mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Whether this process can erase: it has a key, or makes one.
#[must_use]
pub fn is_possible(config: &Config) -> bool {
    config.erasure_key.is_some() || matches!(config.store, StoreConfig::Embedded)
}

/// What names the marks, as the configuration says; `None` where nobody can be erased.
///
/// # Errors
/// The key cannot be read or made, or is too short.
pub fn marks(config: &Config) -> Result<Option<Arc<dyn Marks>>, ServeError> {
    if !is_possible(config) {
        return Ok(None);
    }
    let secret = match &config.erasure_key {
        Some(secret) => secret.clone(),
        None => {
            let file = generated(&config.data_dir, FILE);
            Secret::File(file.map_err(|source| ServeError::Io { what: format!("{FILE} in data_dir"), source })?)
        }
    };
    let text = secret.resolve().map_err(|error| ServeError::Config(format!("erasure_key: {error}")))?;
    let key = ErasureKey::new(text.expose_secret()).ok_or_else(|| {
        ServeError::Config(format!("erasure_key: has fewer than {LEAST} characters; use `openssl rand -hex 32`"))
    })?;
    Ok(Some(Arc::new(key)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_one_members_and_needs_the_key() {
        let key = |text: &str| ErasureKey::new(text).unwrap();
        let (one, other) = (key("0123456789abcdef0123456789abcdef"), key("fedcba9876543210fedcba9876543210"));
        let marks = [
            one.mark_of("shop", "anna"),
            one.mark_of("shop", "bert"),
            one.mark_of("sho", "panna"),
            other.mark_of("shop", "anna"),
        ];
        for (index, mark) in marks.iter().enumerate() {
            assert_eq!(mark.len(), 64);
            assert!(!marks[..index].contains(mark), "{mark} is of two members");
        }
        assert_eq!(one.clone().mark_of("shop", "anna"), marks[0]);
        assert!(ErasureKey::new("too short").is_none());
    }
}
