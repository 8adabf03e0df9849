//! `/v1/channels`: which provider serves which channel, how it stands as the cluster knows it, and a test message by one of them.
//! The test is a call like any other, but no notification: it has no story and counts nowhere.
//! [`templates`] asks what Meta has of a WhatsApp account.

pub mod templates;

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::Segment,
    problem::{FieldError, Problem, ProblemDocument},
    profile,
};
use crate::runtime::message::message;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bellwether_connectors::channels::{Accepted, SendError};
use bellwether_processors::{content::Rendered, definitions::Compiled};
use bellwether_schemas::{
    Channel, DeliveryId, Lane, NotificationId,
    definitions::{Provider, Variant},
    records::{Delivery, Standing},
};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use utoipa::ToSchema;
use uuid::Uuid;

/// Every channel that the project has a provider of.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"channels": [{"channel": "email", "providers": [{"name": "mail", "kind": "smtp", "weight": 1, "state": "ok"}]}]}))]
pub struct Channels {
    /// In the router's default order.
    pub channels: Vec<ChannelState>,
}

/// A channel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ChannelState {
    /// Channel.
    #[schema(example = "email")]
    pub channel: String,
    /// Its providers, by name.
    pub providers: Vec<ProviderState>,
}

/// A provider as the cluster knows it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProviderState {
    /// Name in the definitions.
    #[schema(example = "mail")]
    pub name: String,
    /// Connector.
    #[schema(example = "smtp")]
    pub kind: String,
    /// Its part of the channel's addresses; 0 stands in for the others.
    pub weight: u32,
    /// Messages per second of the whole cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_per_second: Option<u32>,
    /// `ok`; `held`: it told us to wait; `stopped`: it refuses our account or fails too often, and others take its messages; `probing`: one
    /// message tries whether it works again.
    #[schema(example = "ok")]
    pub state: String,
    /// Held or stopped until then (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// When that was found (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// What the provider said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
}

/// Channels, their providers, and how these stand.
#[utoipa::path(
    get, path = "/v1/channels", tag = "channels", security(("api_key" = ["channels"])),
    responses((status = 200, description = "The channels", body = Channels)),
)]
pub async fn list(State(shared): State<Arc<Shared>>, caller: Caller) -> Result<Json<Channels>, Problem> {
    caller.require(Scope::Channels)?;
    let Some(project) = shared.definitions(caller.project()) else {
        return Ok(Json(Channels { channels: Vec::new() }));
    };
    let state = |name: &String| {
        let provider = project.document.providers.get(name)?;
        Some(shared.state(&project, name, provider))
    };
    let channels = Channel::ALL.into_iter().filter(|channel| !project.providers(*channel).is_empty());
    let channels = channels.map(|channel| ChannelState {
        channel: channel.name().into(),
        providers: project.providers(channel).iter().filter_map(state).collect(),
    });
    Ok(Json(Channels { channels: channels.collect() }))
}

/// What to send whom.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"to": "ana@example.com"}))]
pub struct TestRequest {
    /// Address, as in a member's profile.
    pub to: String,
    /// Provider by name; by default the one that would send to this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Template, rendered with its sample; by default a line that says it is a test. WhatsApp needs one, outside the 24 hours after the
    /// member wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Locale of the template; by default the project's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<String>,
}

/// What the provider said, and what we would make of it.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"provider": "mail", "kind": "smtp", "accepted": true, "provider_id": "2.0.0 Ok: queued as 4WbW", "took_ms": 41}))]
pub struct TestAnswer {
    /// The provider that was called.
    pub provider: String,
    /// Its connector.
    pub kind: String,
    /// Whether it took the message.
    pub accepted: bool,
    /// Its own id of the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// How its refusal was classified, as in receipts: `transient`, `throttled`, `ambiguous`, `invalid_address`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// The provider's words, without the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// How long it told us to wait, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u64>,
    /// Milliseconds that the call took.
    pub took_ms: u64,
}

/// Sends one test message, and tells the provider's answer and how it was classified.
#[utoipa::path(
    post, path = "/v1/channels/{channel}/test", tag = "channels", security(("api_key" = ["channels"])), request_body = TestRequest,
    params(("channel" = String, Path, description = "Channel", example = "email")),
    responses(
        (status = 200, description = "The provider answered, or did not, as told; a refusal of the message is an answer", body = TestAnswer),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The provider told us to wait: nothing was sent", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn test(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(channel): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Channels)?;
    let channel: Channel =
        channel.parse().map_err(|error| FieldError::new("channel", format!("{error}"), "name a channel"))?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let asked: TestRequest = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed("body", format!("the body does not ask for a test: {error}"), "send `to`")
    })?;
    let project = shared.definitions(caller.project()).ok_or_else(|| {
        Problem::not_found("the project has no definitions yet", "publish them by `bellwether apply DIR`")
    })?;
    let to = profile::address(channel, &asked.to, project.document.project.default_region.as_deref())?;
    let (name, provider) = provider(&project, channel, &to, asked.provider.as_deref())?;
    let rendered = rendered(&project, &asked, channel)?;
    let outlet = shared.api.sinks.outlet(&project.project, name, provider);
    let Some(go) = outlet.insist() else {
        let until = shared.state(&project, name, provider).until.unwrap_or_default();
        let detail = format!("`{name}` told us to wait until {until}");
        let title = "The provider told us to wait";
        return Err(Problem::new(StatusCode::CONFLICT, "held", title, detail, "test again then").at("provider"));
    };
    let notification = NotificationId(Uuid::now_v7());
    let delivery = Delivery {
        id: DeliveryId::derive(notification, channel, &to),
        notification,
        project: project.project.clone(),
        member: TEST.into(),
        event_type: TEST.into(),
        template: asked.template.clone().unwrap_or_else(|| TEST.into()),
        channel,
        address: to,
        locale: asked.locale.clone(),
        lane: Lane::Transactional,
        attempt: 1,
        accepted_at: shared.now(),
        expires_at: None,
        context: String::new(),
        window_until: None,
    };
    // Untracked: no story hears of a test, and no member unsubscribes by it.
    let message = message(&delivery, rendered, name, None, shared.now());
    let begun = std::time::Instant::now();
    let answer = outlet.send(go, &message).await;
    let took_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(Json(told(name, provider, answer, took_ms)).into_response())
}

/// Member, event type and template of a test.
const TEST: &str = "test";

fn told(name: &str, provider: &Provider, answer: Result<Accepted, SendError>, took_ms: u64) -> TestAnswer {
    let (accepted, provider_id, error) = match answer {
        Ok(Accepted { provider_id, .. }) => (true, provider_id, None),
        Err(error) => (false, None, Some(error)),
    };
    TestAnswer {
        provider: name.to_owned(),
        kind: provider.kind.clone(),
        accepted,
        provider_id,
        error: error.as_ref().map(|error| error.kind.name().into()),
        retry_after_seconds: error.as_ref().and_then(|error| error.after).map(|after| after.as_secs()),
        detail: error.map(|error| error.detail),
        took_ms,
    }
}

fn provider<'a>(
    project: &'a Compiled,
    channel: Channel,
    to: &str,
    named: Option<&str>,
) -> Result<(&'a str, &'a Provider), Problem> {
    let Some(named) = named else {
        return project.provider_of(channel, to, |_| true).ok_or_else(|| {
            FieldError::new("channel", format!("no provider serves this {channel} address"), "define one, and apply")
                .into()
        });
    };
    let known = project.providers(channel).iter().find(|name| *name == named);
    known.and_then(|name| Some((name.as_str(), project.document.providers.get(name)?))).ok_or_else(|| {
        let there = project.providers(channel).join(", ");
        let remedy = if there.is_empty() { "define one, and apply".into() } else { format!("use one of {there}") };
        FieldError::new("provider", format!("is no provider of {channel}"), remedy).into()
    })
}

/// A template with its sample, or a line that says it is a test.
fn rendered(project: &Compiled, asked: &TestRequest, channel: Channel) -> Result<Rendered, Problem> {
    if let Some(name) = &asked.template {
        if !project.document.templates.contains_key(name) {
            let remedy = "name one of the project's templates, or leave it out";
            return Err(FieldError::new("template", "is not defined", remedy).into());
        }
        let occasions = project.occasions(name);
        let Some((_, context)) = occasions.iter().flat_map(|occasion| &occasion.samples).next() else {
            let remedy = "let a flow tell it, or give it a `sample`";
            return Err(FieldError::new("template", "has no sample to be tested with", remedy).into());
        };
        return project.render(name, channel, asked.locale.as_deref(), context).map_err(|error| {
            FieldError::new("template", error.to_string(), "correct the template, or test with another").into()
        });
    }
    let text = || Some(format!("This is a test message of {}.", project.project));
    let variant = match channel {
        Channel::Email => Variant { subject: Some("Test message".into()), text: text(), ..Variant::default() },
        Channel::WebPush | Channel::AppPush => {
            Variant { title: Some("Test message".into()), text: text(), ..Variant::default() }
        }
        Channel::Webhook => {
            let json = serde_json::json!({"test": true, "text": text()}).to_string();
            Variant { json: Some(json), ..Variant::default() }
        }
        Channel::Sms | Channel::Whatsapp | Channel::Telegram => Variant { text: text(), ..Variant::default() },
    };
    Ok(Rendered { locale: project.document.project.default_locale.clone(), variant })
}

impl Shared {
    fn state(&self, project: &Compiled, name: &str, provider: &Provider) -> ProviderState {
        let health = self.api.sinks.health(&project.project, name, provider);
        let now = self.now();
        let is_over = health.as_ref().is_none_or(|health| health.until.is_none_or(|until| until <= now));
        let state = match health.as_ref().map_or(Standing::Ok, |health| health.standing) {
            Standing::Stopped if is_over => "probing",
            Standing::Held if is_over => Standing::Ok.name(),
            standing => standing.name(),
        };
        let health = health.filter(|_| state != Standing::Ok.name());
        ProviderState {
            name: name.into(),
            kind: provider.kind.clone(),
            weight: provider.weight,
            rate_per_second: provider.rate_per_second,
            state: state.into(),
            until: health.as_ref().and_then(|health| health.until).filter(|_| !is_over).map(|at| at.to_string()),
            since: health.as_ref().map(|health| health.at.to_string()),
            detail: health.map_or_else(String::new, |health| health.detail),
        }
    }
}
