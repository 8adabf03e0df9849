//! The outside of a demo or test: local receivers, an API key, and a client that applies, imports and posts.

use crate::{
    config::Config,
    definitions::check_provider,
    demo::accounts::Accounts,
    http::auth::{ApiKeyConfig, Scope},
    receivers::{HttpOptions, Pages, SmtpOptions, SmtpReceiver},
};
use anyhow::{Context as _, bail, ensure};
use bellwether_connectors::channels::{smtp, twilio};
use bellwether_schemas::definitions::{Definitions, Provider};
use rand::distr::{Alphanumeric, SampleString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

/// What tracked links begin with; the receivers know where that is.
const PAGES: &str = "https://links.shop.example";
/// Domain of the return path: bounces come to a listener of ours.
const RETURN_DOMAIN: &str = "bounce.example.com";

fn random() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}

/// Local receivers and the way in.
#[derive(Debug)]
pub struct World {
    /// Project that everything here belongs to.
    pub project: String,
    /// Receives e-mail.
    pub mail: SmtpReceiver,
    /// Receive everything else.
    pub accounts: Accounts,
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
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mail = SmtpReceiver::start(any, mail).await?;
        let accounts = Accounts::open(folder, &HttpOptions::default()).await?;
        for key in ["return-key", "tracking-key"] {
            std::fs::write(folder.join(key), random())?;
        }
        let key = random();
        std::fs::write(folder.join("api-key"), &key)?;
        let client = reqwest::Client::builder().timeout(Duration::from_secs(180)).build()?;
        let (folder, project) = (folder.to_owned(), project.to_owned());
        Ok(Self { project, mail, accounts, folder, key, client, base: String::new() })
    }

    /// File with the API key.
    #[must_use]
    pub fn key_file(&self) -> PathBuf {
        self.folder.join("api-key")
    }

    /// Gives the configuration this world's project and key, and lets it take mail that comes back; where it does so is told by
    /// [`SmtpReceiver::return_to`](crate::receivers::SmtpReceiver::return_to).
    pub fn configure(&self, config: &mut Config) {
        config.mail.listen = Some(([127, 0, 0, 1], 0).into());
        config.mail.domains = vec![RETURN_DOMAIN.into()];
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

    /// The example's definitions, with tracked links, and the providers pointed at the receivers.
    ///
    /// # Errors
    /// The definitions do not load.
    pub fn definitions(&self, example: &Path) -> anyhow::Result<Definitions> {
        let loaded = crate::definitions::load(example, &|name: &str| std::env::var(name).ok(), &check_provider)
            .map_err(|findings| {
                anyhow::anyhow!(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
            })?;
        let mut definitions = loaded.document;
        definitions.project.name.clone_from(&self.project);
        let tracking = json!({"base_url": PAGES, "key": {"file": self.folder.join("tracking-key")}});
        definitions.project.tracking = Some(serde_json::from_value(tracking)?);
        for (name, provider) in &mut definitions.providers {
            // Retries of a demo should not take minutes.
            provider.backoff_ms = provider.backoff_ms.min(300);
            let settings = self.settings(name, &provider.kind);
            if provider.kind == twilio::KIND {
                provider.settings.remove("messaging_service_sid");
            }
            provider.settings.extend(settings);
        }
        Ok(definitions)
    }

    /// What a provider of this name and kind must be given to reach its receiver and be called back.
    #[must_use]
    pub fn settings(&self, name: &str, kind: &str) -> Map<String, Value> {
        let mut settings = self.accounts.settings(kind);
        if kind == twilio::KIND {
            settings.insert("status_callback_url".into(), self.home(name).into());
        }
        if kind == smtp::KIND {
            let at = self.mail.addr();
            let mail = json!({
                "host": at.ip().to_string(), "port": at.port(), "security": "none", "timeout_seconds": 2,
                "return_path_domain": RETURN_DOMAIN, "return_path_key": {"file": self.folder.join("return-key")},
            });
            settings.extend(mail.as_object().cloned().unwrap_or_default());
        }
        settings
    }

    /// Where a provider of this name calls back.
    fn home(&self, name: &str) -> String {
        format!("{}/v1/webhooks/{}/{name}", self.base, self.project)
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
        let pages = Pages { origin: PAGES.into(), served_at: self.base.clone() };
        if definitions.project.tracking.is_some() {
            self.mail.find_pages(pages.clone());
        }
        for (name, Provider { kind, .. }) in &definitions.providers {
            if let Some(receiver) = self.accounts.receiver(kind) {
                receiver.call_home(self.home(name));
                receiver.find_pages(pages.clone());
            }
        }
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

    /// Has a browser of a member's subscribe, by the way that a page has: a link for the member, then the subscription with its token. The
    /// push service calls it `name`.
    ///
    /// # Errors
    /// The API refuses it.
    pub async fn subscribe(&self, member: &str, name: &str) -> anyhow::Result<()> {
        let link = self.client.post(format!("{}/v1/members/{member}/links", self.base));
        let link = self.answer(link.json(&json!({"channel": "web_push"}))).await?;
        let token = link["token"].as_str().context("the link has no `token`")?;
        let subscription = json!({"project": self.project, "subscription": self.accounts.browser(name)?});
        let request = self.client.post(format!("{}/v1/web-push/subscriptions", self.base)).bearer_auth(token);
        let response = request.json(&subscription).send().await?;
        ensure!(response.status().is_success(), "a browser cannot subscribe: {}", response.status());
        Ok(())
    }

    /// Has the browsers of a CSV file subscribe (`client_user_id,browser`); how many.
    ///
    /// # Errors
    /// The file cannot be read, or the API refuses one.
    pub async fn subscribe_all(&self, file: &Path) -> anyhow::Result<u64> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut count = 0;
        for line in text.lines().skip(1) {
            let (member, browser) = line.split_once(',').with_context(|| format!("{line}: no browser"))?;
            self.subscribe(member, browser).await?;
            count += 1;
        }
        Ok(count)
    }

    /// Callbacks, returned mail and letters to be read that are still on their way.
    #[must_use]
    pub fn pending(&self) -> u64 {
        let mail = self.mail.snapshot();
        self.accounts.receivers().map(|(_, receiver)| receiver.pending()).sum::<u64>()
            + mail.returns.pending
            + mail.readings.pending
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
