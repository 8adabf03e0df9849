//! `/v1/members/{id}/consents`: the ledger of what a member consented to and preferred, and one more statement for it.
//! A statement is a command on the log; the `members` processor writes the ledger, and the profile that is its fold.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment, page_size},
    members::{self, Member, Pending},
    problem::{FieldError, Problem, ProblemDocument},
    profile, suppressions,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::log::Append;
use bellwether_processors::consent::{self, State as Said};
use bellwether_schemas::{
    member::{ByCategory, Patch},
    records::{MemberAction, MemberCommand, Record},
    rows::{Read, Span},
    tables::ConsentRow,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use std::sync::Arc;
use utoipa::{IntoParams, ToSchema};

/// Most characters of a source.
const MAX_SOURCE: usize = 63;

/// One line of the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"at": "2026-03-01T12:00:00Z", "channel": "email", "category": "newsletter", "state": "given", "actor": "shop",
    "source": "api", "proof": "form `footer`, \"Send me the newsletter\", 203.0.113.7", "position": "members/3/1017"}))]
pub struct Consent {
    /// When it was said, RFC 3339.
    pub at: String,
    /// Channel; absent where it is about a preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Category; `*` is the channel as a whole. Absent where it is about a preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub category: Option<String>,
    /// `given`, `refused`, `withdrawn` or `confirmed` (the address is the member's); `set` where it is about a preference.
    pub state: String,
    /// The preference that changed: `locale`, `time_zone`, `quiet_hours` or `channels`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preference: Option<String>,
    /// What it was changed to; null where it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "also_null")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<Value>,
    /// Who said so: a key's name, `import KEY`, `member by PROVIDER`, `provider NAME`.
    pub actor: String,
    /// By which way: `api`, `import`, `operator`, `link`, `merge`, a channel, or what the client called it.
    pub source: String,
    /// The address, where it is about one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What shows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<String>,
    /// Position of the command on the log.
    pub position: String,
}

/// A page of the ledger.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"consents": [{"at": "2026-03-01T12:00:00Z", "channel": "email", "category": "newsletter", "state": "given", "actor": "shop",
    "source": "api", "proof": "form `footer`, \"Send me the newsletter\", 203.0.113.7", "position": "members/3/1017"}], "next": null}))]
pub struct ConsentPage {
    /// In the order in which they count, the oldest first.
    pub consents: Vec<Consent>,
    /// Give this as `cursor` to go on; absent at the end.
    pub next: Option<String>,
}

/// Which part of the ledger.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LedgerQuery {
    /// At most so many, 1 to 1000.
    #[serde(default = "hundred")]
    limit: usize,
    /// Where the last page ended.
    cursor: Option<String>,
}

const fn hundred() -> usize {
    100
}

/// What a member says.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"channel": "email", "category": "newsletter", "state": "given", "proof": "form `footer`, \"Send me the newsletter\", 203.0.113.7"}))]
pub struct Statement {
    /// Channel.
    channel: String,
    /// Category; absent: the channel as a whole.
    category: Option<String>,
    /// `given` or `refused`.
    state: String,
    /// What shows it: the form and the text that was shown, an IP address, a message, a file. Needed where consent is given.
    proof: Option<String>,
    /// By which way it was said, in your words, such as `paper_form`; `api` where it is absent.
    source: Option<String>,
}

/// Lists what a member consented to, refused, withdrew and preferred, with the proof of each. Lines are only ever added.
#[utoipa::path(
    get, path = "/v1/members/{id}/consents", tag = "members", security(("api_key" = ["members"])),
    params(("id" = String, Path, description = "client_user_id", example = "anna"), LedgerQuery),
    responses(
        (status = 200, description = "A page; empty where nothing was ever said", body = ConsentPage),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
    Params(query): Params<LedgerQuery>,
) -> Result<Json<ConsentPage>, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let limit = page_size(query.limit)?;
    let span = query.cursor.as_deref().map_or(Ok(Span::All), behind)?;
    let read = Read { span, limit: Some(limit), ..ConsentRow::read_all(caller.project(), id) };
    let rows: Vec<ConsentRow> = shared.rows(read).await?;
    let next = rows.last().filter(|_| rows.len() >= limit).map(cursor);
    Ok(Json(ConsentPage { consents: rows.into_iter().map(Consent::of).collect(), next }))
}

/// Adds what a member says to the ledger.
#[utoipa::path(
    post, path = "/v1/members/{id}/consents", tag = "members", security(("api_key" = ["members"])), request_body = Statement,
    params(
        ("id" = String, Path, description = "client_user_id", example = "anna"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 200, description = "In the ledger; the member as it is now", body = Member),
        (status = 202, description = "On the log, but not applied within the deadline", body = Pending),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "No such member", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn add(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let statement: Statement = serde_json::from_slice(&body).map_err(|error| {
        let remedy = "send `{\"channel\": \"email\", \"category\": \"…\", \"state\": \"given\", \"proof\": \"…\"}`";
        Problem::malformed("body", format!("the body is no statement: {error}"), remedy)
    })?;
    let command = shared.statement(&caller, &id, statement)?;
    shared.profile(caller.project(), &id).await?.ok_or_else(|| members::no_member(&id))?;
    let ends = shared.say(vec![Append::of(&Record::Member(command))?]).await?;
    let applied = shared.applied(&ends, shared.api.limits.apply_deadline).await;
    let profile = if applied { shared.profile(caller.project(), &id).await? } else { None };
    Ok(match profile {
        Some(profile) => Json(Member::new(id, profile)).into_response(),
        None => members::pending(id),
    })
}

impl Shared {
    /// The command to take in a statement.
    fn statement(&self, caller: &Caller, member: &str, statement: Statement) -> Result<MemberCommand, FieldError> {
        let channel = profile::channel("channel", &statement.channel)?;
        let action = match statement.state.as_str() {
            state if state == Said::Given.name() => MemberAction::OptIn,
            state if state == Said::Refused.name() => MemberAction::OptOut,
            _ => return Err(FieldError::new("state", "is neither given nor refused", "say one of the two")),
        };
        let category = statement.category.filter(|category| category != ByCategory::WHOLE);
        if let Some(category) = &category {
            profile::category("category", category)?;
            self.declared(caller.project(), "category", category)?;
        }
        let proof =
            statement.proof.map(|proof| suppressions::words("proof", &proof, profile::MAX_PROOF)).transpose()?;
        let proof = proof.filter(|proof| !proof.is_empty());
        if proof.is_none() && action == MemberAction::OptIn {
            let remedy = "say what shows it: the form and the text that was shown, an IP address, a message, a file";
            return Err(FieldError::new("proof", "is missing; consent needs one", remedy));
        }
        let name = &caller.0.name;
        let actor = match statement.source {
            Some(source) => format!("{name}{}{}", consent::VIA, way(&source)?),
            None => name.clone(),
        };
        Ok(MemberCommand {
            channel: Some(channel),
            category,
            proof,
            ..MemberCommand::new(caller.project().into(), member.into(), action, actor, self.now())
        })
    }

    /// Refuses a category that the project does not have, so that a slip of the pen is no consent.
    fn declared(&self, project: &str, field: &str, category: &str) -> Result<(), FieldError> {
        let Some(project) = self.definitions(project) else { return Ok(()) };
        let known: Vec<&str> = project.categories().map(|(name, _)| name).collect();
        if known.contains(&category) {
            return Ok(());
        }
        let remedy = format!("use one of {}, or declare it in the project's `categories`", known.join(", "));
        Err(FieldError::new(field, "is no category of the project", remedy))
    }

    /// The same for every category that a patch names and does not withdraw.
    pub(super) fn all_declared(&self, project: &str, patch: &Patch) -> Result<(), FieldError> {
        for (channel, statements) in &patch.opt_ins {
            for (category, _) in
                statements.statements().filter(|(name, said)| *name != ByCategory::WHOLE && said.is_some())
            {
                self.declared(project, &format!("opt_ins.{channel}.{category}"), category)?;
            }
        }
        Ok(())
    }
}

/// What a client calls the way by which something was said.
fn way(source: &str) -> Result<String, FieldError> {
    let source = suppressions::words("source", source, MAX_SOURCE)?;
    if source.is_empty() || source.contains(char::is_whitespace) {
        return Err(FieldError::new("source", "is empty or has spaces", "use one word, such as `paper_form`"));
    }
    Ok(source)
}

/// Tells null from nothing.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Consent {
    pub(super) fn of(row: ConsentRow) -> Self {
        let ConsentRow { channel, category, at, state, actor, source, address, proof, position, preference, .. } = row;
        let (is_preference, category) = (preference.is_some(), Some(category));
        Self {
            at: at.to_string(),
            channel: Some(channel).filter(|_| !is_preference),
            category: category.clone().filter(|_| !is_preference),
            state,
            preference: category.filter(|_| is_preference),
            value: preference.and_then(|text| serde_json::from_str(&text).ok()),
            actor,
            source,
            address,
            proof,
            position,
        }
    }
}

fn cursor(row: &ConsentRow) -> String {
    URL_SAFE_NO_PAD.encode(format!("{}/{}/{}", row.applied, row.channel, row.category))
}

/// What lies behind a cursor.
fn behind(cursor: &str) -> Result<Span, Problem> {
    let read = || {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()?;
        let mut parts = text.splitn(3, '/');
        let applied: i64 = parts.next()?.parse().ok()?;
        let (channel, category) = (parts.next()?, parts.next()?);
        let from = vec![applied.into(), channel.into(), format!("{category}\0").into()];
        Some(Span::Between(from, vec![i64::MAX.into(), "".into(), "".into()]))
    };
    read().ok_or_else(|| Problem::invalid("cursor", "the cursor is none of ours", "send the `next` of the page before"))
}
