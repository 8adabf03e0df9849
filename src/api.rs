//! Joins the API with the house: definitions, metrics, providers' webhooks, readiness.

use crate::{
    backends::Backends,
    config::Config,
    definitions::check_provider,
    http::{
        Api, Limits, Observer,
        auth::{ApiKeyError, ApiKeys},
        probes::Check,
        problem::FieldError,
        webhooks::{HookError, TwilioCall, TwilioHook, signed_url},
    },
    metrics::Metrics,
    runtime::clock::Clock,
};
use bellwether_connectors::{
    channels::{Reference, twilio},
    webhooks::{WebhookError, twilio as webhook},
};
use bellwether_processors::{
    Processor,
    definitions::{Compiled, Projects},
    members::Members,
};
use bellwether_schemas::{Timestamp, records::Receipt};
use futures::FutureExt as _;
use secrecy::ExposeSecret as _;
use std::sync::Arc;
use tokio::sync::watch;

/// Makes the API of a process.
///
/// # Errors
/// An API key cannot be used.
pub fn build(
    config: &Config,
    backends: &Backends,
    projects: watch::Receiver<Projects>,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Arc<Api>, ApiKeyError> {
    let text = metrics.clone();
    let known = projects.clone();
    Ok(Arc::new(Api {
        log: Arc::clone(&backends.log),
        store: Arc::clone(&backends.store),
        definitions: projects.clone(),
        validate: Arc::new(|document| {
            let found = Compiled::new(document.clone(), 0, &check_provider).err().unwrap_or_default();
            found.into_iter().map(Into::into).collect()
        }),
        keys: Arc::new(ApiKeys::from_config(&config.api_keys)?),
        clock: clock.function(),
        observer: Arc::new(Counting(metrics.clone())),
        twilio: Arc::new(Twilio(projects)),
        readiness: Arc::new(move || {
            let projects = known.borrow().iter().count();
            // Loaded before the API listens; none is no failure, somebody must be able to publish the first.
            let check = Check { name: "definitions".into(), ok: true, detail: format!("{projects} projects") };
            async move { vec![check] }.boxed()
        }),
        metrics: Arc::new(move || text.text().unwrap_or_else(|error| format!("# {error}\n"))),
        members_group: Members::NAME.into(),
        limits: Limits::default(),
    }))
}

#[derive(Debug)]
struct Counting(Metrics);

impl Observer for Counting {
    fn accepted(&self, project: &str, count: usize) {
        self.0.events_accepted.with_label_values(&[project]).inc_by(count as u64);
    }
    fn rejected(&self, reason: &'static str) {
        self.0.events_rejected.with_label_values(&[reason]).inc();
    }
    fn webhook_unverified(&self, provider: &str) {
        self.0.webhooks_unverified.with_label_values(&[provider]).inc();
    }
}

/// Finds the account behind a callback: project and provider are in the reference, which the signature covers.
#[derive(Debug)]
struct Twilio(watch::Receiver<Projects>);

impl TwilioHook for Twilio {
    fn receipt(&self, call: TwilioCall<'_>, now: Timestamp) -> Result<Option<Receipt>, HookError> {
        let query = pairs(call.query);
        let token = query.iter().find(|(name, _)| name == twilio::REFERENCE).ok_or(HookError::Unverified)?;
        let reference = Reference::from_token(&token.1).map_err(|_| HookError::Unverified)?;
        if reference.provider != call.provider {
            return Err(HookError::Unverified);
        }
        let config = self.account(&reference).ok_or(HookError::Unverified)?;
        let auth_token = config.auth_token.resolve().map_err(|error| {
            tracing::error!(provider = call.provider, %error, "callbacks cannot be verified");
            HookError::Unverified
        })?;
        let configured = config.status_callback_url.as_deref().ok_or(HookError::Unverified)?;
        let url = signed_url(configured, call.query);
        webhook::verify(auth_token.expose_secret(), &url, call.params, call.signature)
            .and_then(|()| webhook::receipt(&query, call.params, now))
            .map_err(|error| match error {
                WebhookError::Signature => HookError::Unverified,
                WebhookError::Missing(field) => {
                    HookError::Invalid(FieldError::new(field, "is missing", "send what Twilio sends"))
                }
                WebhookError::Invalid { field, problem } => {
                    HookError::Invalid(FieldError::new(field, problem, "send what Twilio sends"))
                }
            })
    }
}

/// Names and values of a query, decoded.
fn pairs(query: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://localhost/?{query}"));
    url.iter().flat_map(|url| url.query_pairs().into_owned()).collect()
}

impl Twilio {
    fn account(&self, reference: &Reference) -> Option<twilio::Config> {
        let projects = self.0.borrow();
        let provider = projects.get(&reference.project)?.document.providers.get(&reference.provider)?;
        if provider.kind != twilio::KIND {
            return None;
        }
        serde_json::from_value(serde_json::Value::Object(provider.settings.clone())).ok()
    }
}
