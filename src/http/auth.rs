//! API keys: who calls, for which project, and what the key may do.
//! A key is compared by its SHA-256 in constant time; neither a key nor its hash is ever printed.

use super::{Shared, problem::Problem};
use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, header, request::Parts},
};
use bellwether_connectors::secret::{Resolve as _, Secret, SecretError};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{collections::BTreeSet, fmt, sync::Arc};
use subtle::{Choice, ConstantTimeEq};

/// What a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Send events.
    Events,
    /// Read, change, remove and import members.
    Members,
    /// Read the story of a notification.
    Notifications,
    /// Read figures.
    Stats,
    /// Read and publish definitions.
    Definitions,
    /// Read and replay dead letters.
    DeadLetters,
    /// See how providers stand, and send test messages.
    Channels,
    /// Read and change the list of suppressed addresses.
    Suppressions,
    /// Beside [`Scope::DeadLetters`]: also those that no project could be read from. For whoever runs the installation.
    Operator,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 9] = [
        Self::Events,
        Self::Members,
        Self::Notifications,
        Self::Stats,
        Self::Definitions,
        Self::DeadLetters,
        Self::Channels,
        Self::Suppressions,
        Self::Operator,
    ];

    /// The name in the configuration and in refusals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Members => "members",
            Self::Notifications => "notifications",
            Self::Stats => "stats",
            Self::Definitions => "definitions",
            Self::DeadLetters => "dead_letters",
            Self::Channels => "channels",
            Self::Suppressions => "suppressions",
            Self::Operator => "operator",
        }
    }
}

/// One key as the configuration has it: by hash or by reference, never the key itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// Name in logs, in commands (`actor`) and in definitions.
    pub name: String,
    /// The only project that the key sees.
    pub project: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// SHA-256 of the key, 64 hexadecimal digits. Either this or `secret`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the key itself is to be had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Secret>,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// Neither or both of the two ways to give it.
    #[error("API key `{0}`: give either `sha256` or `secret`, not both and not none")]
    Source(String),
    /// The hash is none.
    #[error("API key `{0}`: `sha256` must have 64 hexadecimal digits, as `sha256sum` prints them")]
    Hash(String),
    /// Too short to be safe.
    #[error("API key `{0}`: a key needs at least {MIN_KEY_BYTES} bytes; make one by `openssl rand -hex 32`")]
    Short(String),
    /// The secret is not to be had.
    #[error("API key `{name}`: {source}")]
    Secret {
        /// Name of the key.
        name: String,
        /// Why not.
        source: SecretError,
    },
    /// Two keys with one name, or one key twice.
    #[error("API key `{0}`: its name or its key is there twice; each key needs its own")]
    Twice(String),
}

/// Shortest key: 128 bits written in hexadecimal digits or better.
pub const MIN_KEY_BYTES: usize = 16;

/// Whom a key stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct Identity {
    /// Name of the key.
    pub name: String,
    /// Project.
    pub project: String,
    scopes: BTreeSet<Scope>,
}

/// All keys of the installation.
#[derive(Default)]
pub struct ApiKeys {
    keys: Vec<([u8; 32], Arc<Identity>)>,
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|(_, identity)| identity)).finish()
    }
}

impl ApiKeys {
    /// Resolves and checks the configured keys.
    ///
    /// # Errors
    /// See [`ApiKeyError`].
    pub fn from_config(entries: &[ApiKeyConfig]) -> Result<Self, ApiKeyError> {
        let mut keys: Vec<([u8; 32], Arc<Identity>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let hash = hash_of(entry)?;
            if keys.iter().any(|(known, identity)| *known == hash || identity.name == entry.name) {
                return Err(ApiKeyError::Twice(entry.name.clone()));
            }
            let identity = Identity {
                name: entry.name.clone(),
                project: entry.project.clone(),
                scopes: entry.scopes.iter().copied().collect(),
            };
            keys.push((hash, Arc::new(identity)));
        }
        Ok(Self { keys })
    }

    /// Who presents this key. Takes the same time whichever key it is.
    #[must_use]
    pub fn identify(&self, presented: &str) -> Option<Arc<Identity>> {
        let presented: [u8; 32] = Sha256::digest(presented.as_bytes()).into();
        let mut found = None;
        for (hash, identity) in &self.keys {
            let same: Choice = hash.ct_eq(&presented);
            if bool::from(same) {
                found = Some(Arc::clone(identity));
            }
        }
        found
    }
}

fn hash_of(entry: &ApiKeyConfig) -> Result<[u8; 32], ApiKeyError> {
    let name = || entry.name.clone();
    match (&entry.sha256, &entry.secret) {
        (Some(hex), None) => unhex(hex).ok_or_else(|| ApiKeyError::Hash(name())),
        (None, Some(secret)) => {
            let key = secret.resolve().map_err(|source| ApiKeyError::Secret { name: name(), source })?;
            if key.expose_secret().len() < MIN_KEY_BYTES {
                return Err(ApiKeyError::Short(name()));
            }
            Ok(Sha256::digest(key.expose_secret().as_bytes()).into())
        }
        _ => Err(ApiKeyError::Source(name())),
    }
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let nibble = |digit: u8| char::from(digit).to_digit(16);
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::try_from(nibble(pair[0])? * 16 + nibble(pair[1])?).ok()?;
    }
    Some(bytes)
}

/// The identity behind a request. Taking it as an argument makes a handler answer 401 to everybody else.
#[derive(Clone, Debug)]
pub struct Caller(pub Arc<Identity>);

impl Caller {
    /// Project of the caller.
    #[must_use]
    pub fn project(&self) -> &str {
        &self.0.project
    }

    /// Whether the key has this scope.
    #[must_use]
    pub fn may(&self, scope: Scope) -> bool {
        self.0.scopes.contains(&scope)
    }

    /// Refuses a key without this scope. First line of every handler, before the body is read.
    ///
    /// # Errors
    /// 403 naming the scope.
    pub fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.may(scope) { Ok(()) } else { Err(Problem::forbidden(scope.name())) }
    }

    pub(super) fn of(keys: &ApiKeys, headers: &HeaderMap) -> Result<Self, Problem> {
        let value = headers.get(header::AUTHORIZATION).ok_or_else(|| Problem::unauthorized("there is no API key"))?;
        // RFC 9110 section 11.1: the scheme is case-insensitive.
        let key = value.to_str().ok().and_then(|text| {
            let (scheme, key) = text.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
        });
        let key = key.ok_or_else(|| Problem::unauthorized("the header is not of the form `Bearer KEY`"))?;
        keys.identify(key).map(Self).ok_or_else(|| Problem::unauthorized("nobody has this API key"))
    }
}

impl FromRequestParts<Arc<Shared>> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, shared: &Arc<Shared>) -> Result<Self, Problem> {
        // The idempotency layer has looked the key up already.
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        Self::of(&shared.api.keys, &parts.headers)
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, sha256: Option<&str>, secret: Option<Secret>) -> ApiKeyConfig {
        let sha256 = sha256.map(Into::into);
        ApiKeyConfig { name: name.into(), project: "shop".into(), scopes: vec![Scope::Events], sha256, secret }
    }

    #[test]
    fn a_key_is_found_by_its_hash_and_printed_nowhere() {
        let real: String = Sha256::digest(b"correct-horse-battery").iter().map(|b| format!("{b:02X}")).collect();
        let keys = ApiKeys::from_config(&[entry("other", Some(&"0".repeat(64)), None), entry("a", Some(&real), None)])
            .unwrap();
        assert_eq!(keys.identify("correct-horse-battery").unwrap().name, "a");
        assert_eq!(keys.identify("correct-horse-batterz"), None);
        assert_eq!(keys.identify(""), None);
        assert!(!format!("{keys:?}").to_lowercase().contains(&real.to_lowercase()));
    }

    #[test]
    fn a_bad_entry_is_refused_by_name() {
        let zeros = "0".repeat(64);
        for (entries, words) in [
            (vec![entry("k", None, None)], "either `sha256` or `secret`"),
            (vec![entry("k", Some("abc"), None)], "64 hexadecimal digits"),
            (vec![entry("k", None, Some(Secret::Env("BELLWETHER_NO_SUCH".into())))], "BELLWETHER_NO_SUCH"),
            (vec![entry("k", Some(&zeros), None), entry("l", Some(&zeros), None)], "twice"),
        ] {
            let error = ApiKeys::from_config(&entries).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("API key `"), "{error}");
        }
    }
}
