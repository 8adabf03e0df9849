//! The outside of a demo or test: local receivers, an API key, and a client that applies, imports and posts.

use crate::{
    config::Config,
    definitions::check_provider,
    http::auth::{ApiKeyConfig, Scope},
    receivers::{SmtpOptions, SmtpReceiver, TwilioOptions, TwilioReceiver},
};
use anyhow::{Context as _, bail};
use bellwether_schemas::definitions::Definitions;
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// Twilio account of the example.
const ACCOUNT: &str = "AC00000000000000000000000000000001";

/// Local receivers and the way in.
#[derive(Debug)]
pub struct World {
    /// Project that everything here belongs to.
    pub project: String,
    /// Receives e-mail.
    pub mail: SmtpReceiver,
    /// Receives text messages.
    pub texts: TwilioReceiver,
    folder: PathBuf,
    key: String,
    client: reqwest::Client,
    base: String,
}

/// The API's word on an import.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Imported {
    /// Rows read.
    pub read: u64,
    /// Rows accepted.
    pub accepted: u64,
    /// Rows rejected.
    pub rejected: u64,
}

impl World {
    /// Starts the receivers on free ports; secrets go into files of `folder`.
    ///
    /// # Errors
    /// A port or file is not to be had.
    pub async fn start(folder: &Path, project: &str) -> anyhow::Result<Self> {
        Self::start_with(folder, project, SmtpOptions::default()).await
    }

    /// As [`World::start`], with a mail receiver of a certain behaviour.
    ///
    /// # Errors
    /// As [`World::start`].
    pub async fn start_with(folder: &Path, project: &str, mail: SmtpOptions) -> anyhow::Result<Self> {
        let random = || Alphanumeric.sample_string(&mut rand::rng(), 32);
        let (token, key) = (random(), random());
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mail = SmtpReceiver::start(any, mail).await?;
        let texts = TwilioReceiver::start(any, TwilioOptions::new(ACCOUNT, token.clone())).await?;
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("twilio-token"), token)?;
        std::fs::write(folder.join("api-key"), &key)?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).build()?;
        let (folder, project) = (folder.to_owned(), project.to_owned());
        Ok(Self { project, mail, texts, folder, key, client, base: String::new() })
    }

    /// File with the API key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("api-key")
    }

    /// Gives the configuration this world's project and key.
    pub fn configure(&self, config: &mut Config) {
        config.default_project = Some(self.project.clone());
        config.api_keys = vec![ApiKeyConfig {
            name: "demo".into(),
            project: self.project.clone(),
            scopes: Scope::ALL.to_vec(),
            secret: None,
            sha256: Some(Sha256::digest(&self.key).iter().map(|b| format!("{b:02x}")).collect()),
        }];
    }

    /// Where the API is.
    pub fn connect(&mut self, api: SocketAddr) {
        self.base = format!("http://{api}");
    }

    /// The example's definitions, with the providers pointed at the receivers.
    ///
    /// # Errors
    /// The definitions do not load.
    pub fn definitions(&self, example: &Path) -> anyhow::Result<Definitions> {
        let values = |name: &str| match name {
            "SHOP_SMTP_HOST" => Some(self.mail.addr().ip().to_string()),
            "SHOP_SMTP_PORT" => Some(self.mail.addr().port().to_string()),
            "SHOP_TWILIO_URL" => Some(self.texts.url()),
            "SHOP_CALLBACK_URL" => Some(self.base.clone()),
            _ => std::env::var(name).ok(),
        };
        let loaded = crate::definitions::load(example, &values, &check_provider).map_err(|findings| {
            anyhow::anyhow!(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
        })?;
        let mut definitions = loaded.document;
        definitions.project.name.clone_from(&self.project);
        for provider in definitions.providers.values_mut() {
            // Retries of a demo should not take minutes.
            provider.backoff_ms = provider.backoff_ms.min(300);
            if provider.kind == "twilio" {
                provider.settings.insert("account_sid".into(), ACCOUNT.into());
                provider.settings.insert("auth_token".into(), json!({"file": self.folder.join("twilio-token")}));
                provider.settings.insert("timeout_seconds".into(), 2.into());
            } else {
                provider.settings.insert("timeout_seconds".into(), 2.into());
            }
        }
        Ok(definitions)
    }

    /// Publishes the example's definitions.
    ///
    /// # Errors
    /// They do not load, or the API refuses them.
    pub async fn apply(&self, example: &Path) -> anyhow::Result<()> {
        self.publish(&self.definitions(example)?).await
    }

    /// Publishes definitions.
    ///
    /// # Errors
    /// The API refuses them.
    pub async fn publish(&self, definitions: &Definitions) -> anyhow::Result<()> {
        let request = self.client.put(format!("{}/v1/definitions", self.base)).json(definitions);
        self.answer(request).await.map(drop)
    }

    /// Imports members from a CSV file.
    ///
    /// # Errors
    /// The file cannot be read, or the API refuses it.
    pub async fn import(&self, file: &Path) -> anyhow::Result<Imported> {
        let body = std::fs::read(file).with_context(|| file.display().to_string())?;
        self.import_csv(body).await
    }

    /// Imports members from CSV.
    ///
    /// # Errors
    /// The API refuses it.
    pub async fn import_csv(&self, body: Vec<u8>) -> anyhow::Result<Imported> {
        let request = self.client.post(format!("{}/v1/members/import", self.base)).header("content-type", "text/csv");
        Ok(serde_json::from_value(self.answer(request.body(body)).await?)?)
    }

    /// Posts CloudEvents, one JSON text each; returns how many were accepted and the indices of the refused.
    ///
    /// # Errors
    /// The API does not answer as it should.
    pub async fn post_events<T: AsRef<str>>(&self, events: &[T]) -> anyhow::Result<(u64, Vec<usize>)> {
        if events.is_empty() {
            return Ok((0, Vec::new()));
        }
        let body = format!("[{}]", events.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(","));
        let request = self
            .client
            .post(format!("{}/v1/events", self.base))
            .header("content-type", "application/cloudevents-batch+json")
            .body(body);
        let answer = self.answer(request).await?;
        let refused = answer["rejected"].as_array().into_iter().flatten();
        let refused = refused.filter_map(|r| r["index"].as_u64().and_then(|i| usize::try_from(i).ok())).collect();
        Ok((answer["accepted"].as_u64().context("the answer has no `accepted`")?, refused))
    }

    /// Gets a path of the API.
    ///
    /// # Errors
    /// The API does not answer as it should.
    pub async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.answer(self.client.get(format!("{}{path}", self.base))).await
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let response = request.bearer_auth(&self.key).send().await?;
        let (url, status) = (response.url().path().to_owned(), response.status());
        let text = response.text().await?;
        if !status.is_success() {
            bail!("{url}: {status}: {text}");
        }
        Ok(serde_json::from_str(&text)?)
    }
}
