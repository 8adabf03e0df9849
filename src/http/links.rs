//! How a chat or a browser becomes known as a member's: the member's own site asks for a link for whoever is logged in there, and the chat or
//! browser brings the link's token back. A token is random, ends by itself, and says nothing of the member.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment},
    problem::{FieldError, Problem, ProblemDocument},
    profile,
};
use crate::inbound;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::{
    channels::{
        telegram,
        web_push::{self, Subscription},
    },
    log::Append,
    webhooks::telegram::deep_link,
};
use bellwether_schemas::{
    Channel,
    definitions::Provider,
    records::{MemberAction, MemberCommand, Record},
    rows::Row,
    tables::LinkRow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use utoipa::{IntoParams, ToSchema};

/// How long a link is good where the caller does not say, and at most.
const DEFAULT_SECONDS: u64 = 86_400;
const MAX_SECONDS: u64 = 30 * 86_400;

/// What kind of link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"channel": "web_push", "valid_seconds": 3600}))]
pub struct LinkRequest {
    /// `telegram` or `web_push`.
    channel: String,
    /// How long it is good; a day by default, 30 at most.
    valid_seconds: Option<u64>,
}

/// A link for one member.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"token": "Zk9uY2VVcG9uQVRpbWVUaGVyZVdhcw", "expires_at": "2026-03-01T13:00:00Z"}))]
pub struct Link {
    /// What the chat or browser brings back. Whoever has it becomes the member's: give it to nobody else.
    pub token: String,
    /// Telegram: the address to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// RFC 3339.
    pub expires_at: String,
}

/// Makes a link by which a chat or a browser becomes known as the member's.
#[utoipa::path(
    post, path = "/v1/members/{id}/links", tag = "members", security(("api_key" = ["members"])), request_body = LinkRequest,
    params(("id" = String, Path, description = "client_user_id", example = "anna")),
    responses(
        (status = 201, description = "The link", body = Link),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn create(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let asked: LinkRequest = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed("body", format!("the body does not ask for a link: {error}"), "send `channel`")
    })?;
    let seconds = asked.valid_seconds.unwrap_or(DEFAULT_SECONDS);
    if !(1..=MAX_SECONDS).contains(&seconds) {
        let detail = format!("is not within 1 to {MAX_SECONDS}");
        return Err(FieldError::new("valid_seconds", detail, "ask for a new link when one is needed").into());
    }
    let token = URL_SAFE_NO_PAD.encode(rand::random::<[u8; 24]>());
    let url = match asked.channel.parse() {
        Ok(Channel::Telegram) => {
            let bot = shared
                .provider(caller.project(), telegram::KIND)
                .and_then(|provider| provider.settings.get("username").and_then(Value::as_str).map(str::to_owned));
            let bot = bot.ok_or_else(|| {
                let remedy = "give a provider of kind `telegram` its `username`, and apply";
                FieldError::new("channel", "has no bot with a name in this project", remedy)
            })?;
            Some(deep_link(&bot, &token))
        }
        Ok(Channel::WebPush) => None,
        _ => return Err(FieldError::new("channel", "takes no links", "use `telegram` or `web_push`").into()),
    };
    let row = LinkRow { link: token.clone(), project: caller.project().to_owned(), member: id };
    let valid = Duration::from_secs(seconds);
    shared.api.store.write(vec![row.put_for(valid)]).await?;
    let expires_at = shared.now().plus(valid).to_string();
    Ok((StatusCode::CREATED, Json(Link { token, url, expires_at })).into_response())
}

/// Whose key.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OfProject {
    /// Project.
    project: String,
}

/// What browsers subscribe with.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"key": "BEl62iUYgUivxIkv69yViEuiBIa-Ib9-SkvMeAtA3LFgDzkrxZJjSgSnfckjBJuBkr3qBUYIHBQFLXYp5Nksh8U"}))]
pub struct PublicKey {
    /// VAPID public key in base64url (`applicationServerKey`).
    pub key: String,
}

/// The key that a page subscribes browsers with.
#[utoipa::path(
    get, path = "/v1/web-push/key", tag = "web push", params(OfProject),
    responses(
        (status = 200, description = "The key", body = PublicKey),
        (status = 404, description = "The project sends no web push", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn key(State(shared): State<Arc<Shared>>, Params(asked): Params<OfProject>) -> Response {
    let key = shared.provider(&asked.project, web_push::KIND).ok_or_else(no_web_push).and_then(|provider| {
        web_push::public_key(&provider.settings).map_err(|error| {
            tracing::error!(project = asked.project, %error, "the key of web push cannot be given");
            Problem::internal()
        })
    });
    to_any_page(key.map(|key| Json(PublicKey { key })).into_response())
}

/// A browser subscribes: the page's script sends what the browser gave it, with the token of the member's link. Or it renews: the service
/// worker sends the subscription that was replaced, whose secret nobody else has, and needs no token.
#[utoipa::path(
    post, path = "/v1/web-push/subscriptions", tag = "web push",
    request_body(content = Object, description = "`project`, and the browser's `subscription` (`PushSubscription.toJSON()`); to renew, also the one that it `replaces`",
        example = json!({"project": "shop", "subscription": {
            "endpoint": "https://push.example.org/send/7", "keys": {
                "p256dh": "BEl62iUYgUivxIkv69yViEuiBIa-Ib9-SkvMeAtA3LFgDzkrxZJjSgSnfckjBJuBkr3qBUYIHBQFLXYp5Nksh8U", "auth": "BTBZMqHH6r4Tts7J_aSIgg"
            }
        }})),
    params(("Authorization" = Option<String>, Header, description = "`Bearer TOKEN`, from `POST /v1/members/{id}/links`; not to renew")),
    responses(
        (status = 204, description = "The subscription is on the log"),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "The token is unknown or too old, or the subscription to replace is nobody's", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The subscription is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn subscribe(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Body) -> Response {
    to_any_page(shared.subscribe(&headers, body).await.into_response())
}

/// A browser asks whether a page of another origin may subscribe (the Fetch standard's preflight).
pub async fn preflight() -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, POST"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("authorization, content-type"));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    to_any_page(response)
}

/// The script that a page includes.
pub async fn script() -> Response {
    javascript(include_str!("assets/bellwether.js"))
}

/// The service worker, to be served from the page's own origin; here for pages that are ours.
pub async fn worker() -> Response {
    javascript(include_str!("assets/bellwether-sw.js"))
}

fn javascript(text: &'static str) -> Response {
    let headers = [(header::CONTENT_TYPE, "text/javascript; charset=utf-8"), (header::CACHE_CONTROL, "max-age=3600")];
    to_any_page((headers, text).into_response())
}

/// Pages of any origin may read it: the token is the permission, no cookie is.
pub(super) fn to_any_page(mut response: Response) -> Response {
    response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    response
}

fn no_web_push() -> Problem {
    Problem::not_found("the project has no provider of kind `web_push`", "define one, and apply").at("project")
}

#[derive(Deserialize)]
struct Subscribing {
    project: String,
    subscription: Value,
    /// The one that the browser had before.
    #[serde(default)]
    replaces: Option<Value>,
}

impl Shared {
    /// The first provider of a kind.
    fn provider(&self, project: &str, kind: &str) -> Option<Provider> {
        let definitions = self.definitions(project)?;
        definitions.document.providers.values().find(|provider| provider.kind == kind).cloned()
    }

    async fn subscribe(&self, headers: &HeaderMap, body: Body) -> Result<StatusCode, Problem> {
        let body = self.read(headers, body, self.api.limits.body_bytes).await?;
        let remedy = "send `project` and `subscription` as bellwether.js does";
        let Subscribing { project, subscription, replaces } = serde_json::from_slice(&body)
            .map_err(|error| Problem::malformed("body", format!("the body is no subscription: {error}"), remedy))?;
        let token = match &replaces {
            None => Some(self.member_of(headers, &project).await?),
            Some(_) => None,
        };
        let provider = self.provider(&project, web_push::KIND).ok_or_else(no_web_push)?;
        let config: web_push::Config =
            serde_json::from_value(Value::Object(provider.settings)).map_err(|_| Problem::internal())?;
        let read = |field: &str, given: &Value| {
            Subscription::parse(&given.to_string(), config.hosts())
                .map(|subscription| subscription.to_string())
                .map_err(|error| FieldError::new(field, error.to_string(), "send what the browser gave"))
        };
        let subscription = read("subscription", &subscription)?;
        let command = |member: &str, action, address: &str, reason: &str| {
            Record::Member(MemberCommand {
                channel: Some(Channel::WebPush),
                address: Some(address.to_owned()),
                reason: Some(reason.into()),
                proof: (action == MemberAction::OptIn).then(|| reason.into()),
                ..MemberCommand::new(project.clone(), member.to_owned(), action, "member by browser".into(), self.now())
            })
        };
        let mut records = Vec::new();
        if let Some(member) = token {
            // To have allowed it in the browser is the opt-in.
            let actions = [MemberAction::AddAddress, MemberAction::OptIn];
            records.extend(actions.map(|action| command(&member, action, &subscription, "the browser subscribed")));
        } else if let Some(replaced) = replaces.as_ref().map(|replaced| read("replaces", replaced)).transpose()? {
            let at = async |address: &str| {
                inbound::members_at(self.api.store.as_ref(), &project, Channel::WebPush, address).await
            };
            let members = at(&replaced).await?;
            // Told again because the answer was lost: it is replaced already.
            if members.is_empty() && at(&subscription).await?.is_empty() {
                let detail = "the subscription to replace is no member's";
                let remedy = "subscribe by the page, with a token of the member's";
                let title = "No member's subscription";
                return Err(Problem::new(StatusCode::UNAUTHORIZED, "unverified", title, detail, remedy).at("replaces"));
            }
            // Whether the member wants anything does not change with the browser's address.
            for member in members.iter().filter(|_| replaced != subscription) {
                for (action, address) in
                    [(MemberAction::AddAddress, &subscription), (MemberAction::RemoveAddress, &replaced)]
                {
                    records.push(command(member, action, address, "the browser renewed its subscription"));
                }
            }
        }
        let appends = records.iter().map(Append::of).collect::<Result<Vec<_>, _>>()?;
        if !appends.is_empty() {
            self.api.log.append(appends).await?;
        }
        Ok(StatusCode::NO_CONTENT)
    }

    /// The member whose link's token the request has.
    async fn member_of(&self, headers: &HeaderMap, project: &str) -> Result<String, Problem> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default();
        let row = self.api.store.read(&[LinkRow::read_one(token)]).await?.into_iter().flatten().next();
        let link = row.map(LinkRow::from_cells).transpose()?.filter(|link| link.project == project);
        link.map(|link| link.member).ok_or_else(|| {
            let detail = "the token is unknown in this project, or has expired";
            let remedy = "let your server ask for a new one: POST /v1/members/{id}/links";
            Problem::new(StatusCode::UNAUTHORIZED, "unverified", "No member's token", detail, remedy)
                .at("Authorization")
        })
    }
}
