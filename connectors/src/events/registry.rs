//! A schema registry with Confluent's API (Confluent, Apicurio's `ccompat`, Redpanda, Karapace): schemas by id, fetched once.
//! Reads only: which schemas there are is the producers' business.

use super::{EventError, EventErrorKind, avro::Writer};
use crate::secret::{Resolve as _, Secret, SecretError};
use moka::{future, sync};
use reqwest::StatusCode;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

/// Schemas that are kept; one takes a few kilobytes.
const MAX_SCHEMAS: u64 = 1_000;
/// Bytes of a schema, so that a registry gone wrong cannot fill the memory.
const MAX_SCHEMA_BYTES: usize = 1024 * 1024;
/// How long an id stays unknown before the registry is asked again: producers may register late.
const UNKNOWN_FOR: Duration = Duration::from_secs(10);
const TIMEOUT: Duration = Duration::from_secs(5);

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Base of the API, such as `http://registry:8080/apis/ccompat/v7`.
    pub url: String,
    /// User of HTTP basic authentication.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// The user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Secret>,
}

/// A registry that cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The password is not to be had.
    #[error("registry.password: {0}")]
    Secret(#[from] SecretError),
    /// No address.
    #[error("registry.url: no HTTP address; write it like `http://registry:8080/apis/ccompat/v7`")]
    Url,
    /// The HTTP client cannot be made.
    #[error("registry: {0}")]
    Client(String),
}

/// A schema registry and the schemas it gave.
pub struct Registry {
    http: reqwest::Client,
    url: String,
    credentials: Option<(String, Option<SecretString>)>,
    known: future::Cache<u32, Arc<Writer>>,
    unknown: sync::Cache<u32, EventError>,
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Registry {
    /// Prepares the client; asks nothing yet.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn new(config: RegistryConfig) -> Result<Self, RegistryError> {
        let url = reqwest::Url::parse(&config.url).map_err(|_| RegistryError::Url)?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(RegistryError::Url);
        }
        let http = reqwest::Client::builder()
            .timeout(TIMEOUT)
            .connect_timeout(TIMEOUT)
            .build()
            .map_err(|e| RegistryError::Client(e.to_string()))?;
        let password = config.password.as_ref().map(|secret| secret.resolve()).transpose()?;
        Ok(Self {
            http,
            url: config.url.trim_end_matches('/').to_owned(),
            credentials: config.username.map(|name| (name, password)),
            known: future::Cache::new(MAX_SCHEMAS),
            unknown: sync::Cache::builder().max_capacity(MAX_SCHEMAS).time_to_live(UNKNOWN_FOR).build(),
        })
    }

    /// Asks the registry for anything, to see whether it answers and takes our credentials.
    ///
    /// # Errors
    /// [`EventErrorKind::Unavailable`], with what is wrong.
    pub async fn check(&self) -> Result<(), EventError> {
        let response = self.get("/subjects").await?;
        if response.status().is_success() { Ok(()) } else { Err(refused(response.status())) }
    }

    /// A payload in Confluent's wire format as JSON: a zero byte, the schema's id in big endian, the datum.
    pub(super) async fn decode(&self, payload: &[u8]) -> Result<Value, EventError> {
        let Some(([0, id @ ..], datum)) = payload.split_first_chunk::<5>() else {
            let remedy = "send a zero byte, four bytes of schema id and the datum";
            return Err(EventError::malformed("shorter than the header of Confluent's wire format", remedy));
        };
        self.writer(u32::from_be_bytes(*id)).await?.decode(datum)
    }

    async fn writer(&self, id: u32) -> Result<Arc<Writer>, EventError> {
        if let Some(error) = self.unknown.get(&id) {
            return Err(error);
        }
        // Records that ask for the same id at once wait for one request.
        let writer = self.known.try_get_with(id, self.fetch(id)).await.map_err(Arc::unwrap_or_clone)?;
        Ok(writer)
    }

    async fn fetch(&self, id: u32) -> Result<Arc<Writer>, EventError> {
        let response = self.get(&format!("/schemas/ids/{id}")).await?;
        let status = response.status();
        let unknown = |problem: String, remedy: &str| {
            let error = EventError::new(EventErrorKind::UnknownSchema, "event", problem, remedy);
            self.unknown.insert(id, error.clone());
            error
        };
        if status == StatusCode::NOT_FOUND {
            let remedy = "register the writer's schema in this registry, then replay";
            return Err(unknown(format!("schema id {id} is not in the registry"), remedy));
        }
        if !status.is_success() {
            return Err(refused(status));
        }
        let answer: Answer = serde_json::from_slice(&body(response).await?)
            .map_err(|_| unavailable("answers with something else than a schema", "check `registry.url`"))?;
        if answer.schema_type.as_deref().is_some_and(|kind| kind != "AVRO") {
            let remedy = "send Avro or JSON, then replay";
            return Err(unknown(format!("schema id {id} is no Avro schema"), remedy));
        }
        if !answer.references.is_empty() {
            let remedy = "register the schema with the types that it needs inside, then replay";
            return Err(unknown(format!("schema id {id} refers to other schemas"), remedy));
        }
        Writer::parse(&answer.schema).map(Arc::new).map_err(|problem| {
            unknown(format!("schema id {id} cannot be used: {problem}"), "correct the schema, then replay")
        })
    }

    async fn get(&self, path: &str) -> Result<reqwest::Response, EventError> {
        let mut request = self.http.get(format!("{}{path}", self.url));
        if let Some((name, password)) = &self.credentials {
            request = request.basic_auth(name, password.as_ref().map(ExposeSecret::expose_secret));
        }
        request.send().await.map_err(|e| lost(&e))
    }
}

/// `GET /schemas/ids/{id}`.
#[derive(Deserialize)]
struct Answer {
    schema: String,
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Vec<serde::de::IgnoredAny>,
}

async fn body(mut response: reqwest::Response) -> Result<Vec<u8>, EventError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| lost(&e))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_SCHEMA_BYTES {
            return Err(unavailable("answers with more than a mebibyte", "check `registry.url`"));
        }
    }
    Ok(body)
}

fn unavailable(problem: impl fmt::Display, remedy: &str) -> EventError {
    EventError::new(EventErrorKind::Unavailable, "event", format!("the schema registry {problem}"), remedy)
}

fn refused(status: StatusCode) -> EventError {
    let remedy = match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => "correct `registry.username` and `registry.password`",
        _ => "see the registry's log; events wait until it answers",
    };
    unavailable(format_args!("answers {status}"), remedy)
}

fn lost(error: &reqwest::Error) -> EventError {
    let why = match error {
        e if e.is_timeout() => "does not answer in time",
        e if e.is_connect() => "cannot be reached",
        _ => "broke the connection",
    };
    unavailable(why, "start it, or correct `registry.url`; events wait until it answers")
}
