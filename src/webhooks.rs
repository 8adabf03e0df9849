//! Finds the account behind a callback, verifies the call with its secrets, and reads it: the joint between the API's webhooks and the
//! connectors' readers. Decides nothing about what is told.

use crate::{
    http::{
        problem::FieldError,
        webhooks::{Call, Callback, HookError, Hooks, signed_url},
    },
    inbound::{Heard, heard},
};
use bellwether_connectors::{
    channels::{Reference, telegram, twilio, whatsapp},
    secret::{Resolve as _, Secret},
    webhooks::{self, WebhookError},
};
use bellwether_processors::definitions::Projects;
use bellwether_schemas::{Timestamp, definitions::Provider};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// The webhooks of every project's providers.
#[derive(Debug)]
pub struct Webhooks(pub watch::Receiver<Projects>);

impl Hooks for Webhooks {
    fn read(&self, call: Call<'_>, now: Timestamp) -> Result<Callback, HookError> {
        let provider = {
            let projects = self.0.borrow();
            let project = projects.get(call.project).ok_or(HookError::Unverified)?;
            project.document.providers.get(call.provider).cloned().ok_or(HookError::Unverified)?
        };
        match provider.kind.as_str() {
            twilio::KIND => of_twilio(call, &settings(&provider)?, now),
            whatsapp::KIND => of_whatsapp(call, &settings(&provider)?, now),
            telegram::KIND => of_telegram(call, &settings(&provider)?, now),
            _ => Err(HookError::Unverified),
        }
    }
}

fn settings<C: DeserializeOwned>(provider: &Provider) -> Result<C, HookError> {
    serde_json::from_value(serde_json::Value::Object(provider.settings.clone())).map_err(|_| HookError::Unverified)
}

/// A secret that the account has; without it no call can be verified.
fn secret(call: Call<'_>, secret: Option<&Secret>) -> Result<SecretString, HookError> {
    let secret = secret.ok_or(HookError::Unverified)?;
    secret.resolve().map_err(|error| {
        tracing::error!(provider = call.provider, %error, "callbacks cannot be verified");
        HookError::Unverified
    })
}

fn refused(error: WebhookError) -> HookError {
    let remedy = "send what the provider's documents say";
    match error {
        WebhookError::Signature => HookError::Unverified,
        WebhookError::Missing(field) => HookError::Invalid(FieldError::new(field, "is missing", remedy)),
        WebhookError::Invalid { field, problem } => HookError::Invalid(FieldError::new(field, problem, remedy)),
    }
}

/// Status callbacks, whose URL holds the reference of the message, and incoming messages at the same URL without it.
fn of_twilio(call: Call<'_>, config: &twilio::Config, now: Timestamp) -> Result<Callback, HookError> {
    let token = secret(call, Some(&config.auth_token))?;
    let configured = config.status_callback_url.as_deref().ok_or(HookError::Unverified)?;
    let url = signed_url(configured, call.query);
    webhooks::twilio::verify(token.expose_secret(), &url, call.form, call.header("x-twilio-signature"))
        .map_err(refused)?;
    let query = pairs(call.query);
    let Some((_, reference)) = query.iter().find(|(name, _)| name == twilio::REFERENCE) else {
        let said = webhooks::twilio::inbound(call.form, now).map_err(refused)?;
        return Ok(Callback { heard: vec![Heard::Said(said)], ..Callback::default() });
    };
    // The signature covers the reference, but the account may serve several projects of ours.
    let ours = Reference::from_token(reference)
        .is_ok_and(|r| (r.project, r.provider) == (call.project.into(), call.provider.into()));
    if !ours {
        return Err(HookError::Unverified);
    }
    let receipt = webhooks::twilio::receipt(&query, call.form, now).map_err(refused)?;
    Ok(Callback { receipts: receipt.into_iter().collect(), ..Callback::default() })
}

fn of_whatsapp(call: Call<'_>, config: &whatsapp::Config, now: Timestamp) -> Result<Callback, HookError> {
    let Some(body) = call.body else {
        let word = secret(call, config.verify_token.as_ref())?;
        let answer = webhooks::whatsapp::subscription(word.expose_secret(), &pairs(call.query)).map_err(refused)?;
        return Ok(Callback { answer: Some(answer), ..Callback::default() });
    };
    let key = secret(call, config.app_secret.as_ref())?;
    webhooks::whatsapp::verify(key.expose_secret(), body, call.header(webhooks::whatsapp::SIGNATURE_HEADER))
        .map_err(refused)?;
    let told = webhooks::whatsapp::read(body, now).map_err(refused)?;
    for reason in &told.skipped {
        tracing::info!(provider = call.provider, reason, "an entry of a callback says nothing to us");
    }
    // One account may serve several projects of ours; each has its own URL, and hears of its own messages only.
    let mut receipts = told.receipts;
    receipts.retain(|receipt| receipt.project == call.project && receipt.provider == call.provider);
    Ok(Callback { receipts, heard: told.inbound.into_iter().map(Heard::Said).collect(), answer: None })
}

fn of_telegram(call: Call<'_>, config: &telegram::Config, now: Timestamp) -> Result<Callback, HookError> {
    let word = secret(call, config.webhook_secret.as_ref())?;
    webhooks::telegram::verify(word.expose_secret(), call.header(webhooks::telegram::SECRET_HEADER))
        .map_err(refused)?;
    let update = webhooks::telegram::read(call.body.unwrap_or_default()).map_err(refused)?;
    Ok(Callback { heard: update.event.map(|event| heard(event, now)).into_iter().collect(), ..Callback::default() })
}

/// Names and values of a query, decoded.
fn pairs(query: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://localhost/?{query}"));
    url.iter().flat_map(|url| url.query_pairs().into_owned()).collect()
}
