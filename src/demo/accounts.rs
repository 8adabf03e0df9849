//! An account at each provider's local receiver: the receiver, the secrets that it issues, and what a provider in the definitions must be
//! given to use it. Decides nothing about what is sent.

use crate::receivers::{
    HttpOptions, HttpReceiver, apns::Apns, fcm::Fcm, http::Contract, telegram::Telegram, twilio::Twilio,
    web_push::WebPush, webhook::Webhook, whatsapp::Whatsapp,
};
use anyhow::Context as _;
use bellwether_connectors::channels::{self, web_push::generate_vapid};
use rand::distr::{Alphanumeric, SampleString};
use serde_json::{Map, Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

const ACCOUNT_SID: &str = "AC00000000000000000000000000000001";

/// A receiver and an account at it for every kind of provider that is called by HTTP.
#[derive(Debug)]
pub struct Accounts {
    folder: PathBuf,
    receivers: BTreeMap<&'static str, HttpReceiver>,
    settings: BTreeMap<&'static str, Map<String, Value>>,
    push_service: Arc<WebPush>,
    vapid_public: String,
}

fn random() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 32)
}

impl Accounts {
    /// Starts the receivers on free ports of this machine; secrets go into files of `folder`.
    ///
    /// # Errors
    /// A port, file or key is not to be had.
    pub async fn open(folder: &Path, options: &HttpOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let push_service = Arc::new(WebPush::default());
        let (vapid_private, vapid_public) = generate_vapid()?;
        let mut accounts = Self {
            folder: folder.to_owned(),
            receivers: BTreeMap::new(),
            settings: BTreeMap::new(),
            push_service: Arc::clone(&push_service),
            vapid_public,
        };
        let (token, secret) = (random(), random());

        accounts.start(channels::twilio::KIND, Arc::new(Twilio::new(ACCOUNT_SID, &token)), options).await?;
        accounts.give(channels::twilio::KIND, json!({"account_sid": ACCOUNT_SID, "from": "+34600000000"}));
        accounts.give_secret(channels::twilio::KIND, "auth_token", &token)?;

        accounts.start(channels::whatsapp::KIND, Arc::new(Whatsapp::new("1", &token, &secret)), options).await?;
        accounts.give(channels::whatsapp::KIND, json!({"phone_number_id": "1"}));
        accounts.give_secret(channels::whatsapp::KIND, "access_token", &token)?;
        accounts.give_secret(channels::whatsapp::KIND, "app_secret", &secret)?;

        let bot = format!("1:{token}");
        accounts.start(channels::telegram::KIND, Arc::new(Telegram::new(&bot, "shop_bot", &secret)), options).await?;
        accounts.give(channels::telegram::KIND, json!({"username": "shop_bot"}));
        accounts.give_secret(channels::telegram::KIND, "bot_token", &bot)?;
        accounts.give_secret(channels::telegram::KIND, "webhook_secret", &secret)?;

        accounts.start(channels::web_push::KIND, push_service, options).await?;
        accounts.settings.entry(channels::web_push::KIND).or_default().remove("base_url");
        let push = json!({"subject": "mailto:push@example.com", "allow_private_endpoints": true, "push_services": ["127.0.0.1"]});
        accounts.give(channels::web_push::KIND, push);
        accounts.give_secret(channels::web_push::KIND, "vapid_private_key", &vapid_private)?;

        let fcm = Arc::new(Fcm::new("shop", &token)?);
        let url = accounts.start(channels::fcm::KIND, Arc::clone(&fcm) as Arc<dyn Contract>, options).await?;
        accounts.give_secret(channels::fcm::KIND, "service_account", &fcm.service_account(&url)?)?;

        let (key_id, team_id, topic) = ("ABC123DEFG", "DEF123GHIJ", "com.example.shop");
        let apns = Arc::new(Apns::new(key_id, team_id, topic)?);
        accounts.start(channels::apns::KIND, Arc::clone(&apns) as Arc<dyn Contract>, options).await?;
        accounts.give(channels::apns::KIND, json!({"key_id": key_id, "team_id": team_id, "topic": topic}));
        accounts.give_secret(channels::apns::KIND, "key", &apns.p8()?)?;

        let hook = Arc::new(Webhook::new(secret.into_bytes()));
        let url = accounts.start(channels::webhook::KIND, Arc::clone(&hook) as Arc<dyn Contract>, options).await?;
        accounts.settings.entry(channels::webhook::KIND).or_default().remove("base_url");
        accounts.give(channels::webhook::KIND, json!({"url": url}));
        accounts.give_secret(channels::webhook::KIND, "secret", &hook.secret())?;
        Ok(accounts)
    }

    async fn start(
        &mut self,
        kind: &'static str,
        contract: Arc<dyn Contract>,
        options: &HttpOptions,
    ) -> anyhow::Result<String> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let receiver = HttpReceiver::start(any, contract, options.clone()).await?;
        let url = receiver.url();
        self.receivers.insert(kind, receiver);
        self.give(kind, json!({"base_url": url, "timeout_seconds": 2}));
        Ok(url)
    }

    fn give(&mut self, kind: &'static str, settings: Value) {
        if let Value::Object(settings) = settings {
            self.settings.entry(kind).or_default().extend(settings);
        }
    }

    fn give_secret(&mut self, kind: &'static str, field: &str, secret: &str) -> anyhow::Result<()> {
        let file = self.folder.join(format!("{kind}.{field}"));
        std::fs::write(&file, secret).with_context(|| file.display().to_string())?;
        self.give(kind, json!({field: {"file": file}}));
        Ok(())
    }

    /// Each kind of provider with its receiver.
    pub fn receivers(&self) -> impl Iterator<Item = (&'static str, &HttpReceiver)> {
        self.receivers.iter().map(|(kind, receiver)| (*kind, receiver))
    }

    /// The receiver of a kind of provider, if it is called by HTTP.
    #[must_use]
    pub fn receiver(&self, kind: &str) -> Option<&HttpReceiver> {
        self.receivers.get(kind)
    }

    /// What a provider of this kind must be given; nothing for one that has no account here.
    #[must_use]
    pub fn settings(&self, kind: &str) -> Map<String, Value> {
        self.settings.get(kind).cloned().unwrap_or_default()
    }

    /// A browser subscribes for our key; what it gives to the page. Its endpoint ends in `name`.
    ///
    /// # Errors
    /// It has no key to give.
    pub fn browser(&self, name: &str) -> anyhow::Result<Value> {
        let url = self.receivers.get(channels::web_push::KIND).context("no push service")?.url();
        Ok(self.push_service.subscribe(&url, name, &self.vapid_public)?)
    }
}
