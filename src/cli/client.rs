//! The connection of a command to the HTTP API: address, key, and refusals told with their remedy.

use crate::http::problem::ProblemDocument;
use anyhow::{Context, anyhow, bail};
use clap::Args;
use reqwest::{Method, RequestBuilder, Response, Url, header};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use std::{path::PathBuf, time::Duration};

/// Longer than the server lets any request but an import take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// Entries of a list that one answer brings at most.
const MAX_PAGE: usize = 1_000;

/// Where the API is, and who asks.
#[derive(Args, Clone, Debug)]
pub struct Connection {
    /// Address of the HTTP API.
    #[arg(long, env = "BELLWETHER_URL", default_value = "http://127.0.0.1:8080", global = true)]
    pub url: String,
    /// API key; better by the environment or a file than on the command line, which others can see.
    #[arg(long, env = "BELLWETHER_API_KEY", hide_env_values = true, conflicts_with = "key_file", global = true)]
    pub key: Option<SecretString>,
    /// File with the API key.
    #[arg(long, default_value = "./bellwether-data/api-key", global = true)]
    pub key_file: PathBuf,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    pub json: bool,
}

/// A client of one installation.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    base: Url,
    key: SecretString,
}

impl Connection {
    /// Reads the key and makes a client; nothing is called yet.
    ///
    /// # Errors
    /// The address or the key is not to be had.
    pub fn client(&self) -> anyhow::Result<Client> {
        let base = Url::parse(&self.url)
            .with_context(|| format!("--url `{}` is not a URL like http://127.0.0.1:8080", self.url))?;
        if base.cannot_be_a_base() {
            bail!("--url `{}` is not a URL like http://127.0.0.1:8080", self.url);
        }
        let key = match &self.key {
            Some(key) => key.clone(),
            None => {
                let text = std::fs::read_to_string(&self.key_file).with_context(|| {
                    format!("no API key in {}: set BELLWETHER_API_KEY, or give --key-file", self.key_file.display())
                })?;
                SecretString::from(text.trim().to_owned())
            }
        };
        Ok(Client { http: reqwest::Client::builder().build()?, base, key })
    }
}

impl Client {
    /// The URL of a path, below whatever path the base has.
    fn url(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<Url> {
        let mut url = Url::parse(&format!("{}{path}", self.base.as_str().trim_end_matches('/')))?;
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        Ok(url)
    }

    /// A request with the key, without a time limit.
    pub(super) fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> anyhow::Result<RequestBuilder> {
        Ok(self.http.request(method, self.url(path, query)?).bearer_auth(self.key.expose_secret()))
    }

    /// Reads a resource.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> anyhow::Result<T> {
        let request = self.request(Method::GET, path, query)?.timeout(TIMEOUT);
        Ok(serde_json::from_slice(&self.send(request).await?)?)
    }

    /// The first `limit` entries of a list, page by page; `split` parts an answer into its entries and where the next page begins.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub(super) async fn list<P: DeserializeOwned, T>(
        &self,
        path: &str,
        query: &[(&str, &str)],
        limit: usize,
        split: impl Fn(P) -> (Vec<T>, Option<String>),
    ) -> anyhow::Result<(Vec<T>, Option<String>)> {
        let (mut all, mut next) = (Vec::new(), None::<String>);
        while all.len() < limit {
            let page_size = (limit - all.len()).min(MAX_PAGE).to_string();
            let place = next.as_deref().map(|cursor| ("cursor", cursor));
            let query: Vec<_> = query.iter().copied().chain([("limit", page_size.as_str())]).chain(place).collect();
            let (page, behind) = split(self.get(path, &query).await?);
            all.extend(page);
            next = behind;
            if next.is_none() {
                break;
            }
        }
        Ok((all, next))
    }

    /// Sends a JSON body.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn send_json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> anyhow::Result<T> {
        let request = self.request(method, path, &[])?.timeout(TIMEOUT).json(body);
        Ok(serde_json::from_slice(&self.send(request).await?)?)
    }

    /// Removes a resource.
    ///
    /// # Errors
    /// The server cannot be reached, or refuses.
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        let request = self.request(Method::DELETE, path, &[])?.timeout(TIMEOUT);
        self.send(request).await.map(drop)
    }

    /// Sends a request and returns the body of a good answer.
    pub(super) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Vec<u8>> {
        Ok(self.open(request).await?.bytes().await.with_context(|| self.unreachable())?.to_vec())
    }

    /// Sends a request and returns a good answer, its body not yet read.
    pub(super) async fn open(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.header(header::ACCEPT, "application/json").send().await;
        let response = response.with_context(|| self.unreachable())?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.with_context(|| self.unreachable())?;
        Err(match serde_json::from_slice::<ProblemDocument>(&body) {
            Ok(problem) => anyhow!("{}\n  remedy: {}", problem.detail, problem.remedy),
            Err(_) => anyhow!("{} answered {status}: is this the address of Bellwether?", self.base),
        })
    }

    fn unreachable(&self) -> String {
        format!("no answer from {}: is `bellwether serve` running there?", self.base)
    }
}

/// A value as one path segment: every byte is encoded, so that no id reads as another path.
pub(super) fn segment(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
