//! What a member may ask for (GDPR, articles 15, 17 and 20): `/v1/members/{id}/export`, all that is kept of them, and `/v1/members/{id}/erase`.
//! Reads what others wrote; what goes is decided by the `members` processor.

use super::{
    Shared,
    auth::{Caller, Scope},
    consents::Consent,
    extract::Segment,
    members::{self, Member, Pending},
    notifications::Story,
    problem::{Problem, ProblemDocument},
    profile,
    suppressions::Suppression,
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_processors::erasure::named_by;
use bellwether_schemas::{
    member::{Patch, Profile},
    records::{MemberAction, MemberCommand, Record},
    rows::{Read, Row},
    tables::{ConsentRow, MemberRow, PROFILE, SuppressionRow},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use utoipa::ToSchema;
use uuid::Uuid;

/// All that is kept of a member.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "anna", "at": "2026-03-01T12:00:00Z", "member": {"id": "anna", "addresses": {}, "channels": [], "opt_ins": {"email": {"newsletter": true}},
        "attributes": {}, "created_at": "2026-01-01T12:00:00Z", "updated_at": "2026-02-01T12:00:00Z"},
    "consents": [{"at": "2026-02-01T12:00:00Z", "channel": "email", "category": "newsletter", "state": "given", "actor": "shop",
        "source": "api", "proof": "form `footer`"}],
    "suppressions": [], "notifications": [], "kept": [{"kind": "sent", "id": "bulk", "at": "2026-02-01T12:00:00Z", "says": []}],
}))]
pub struct Export {
    /// `client_user_id`.
    pub id: String,
    /// When this was read, RFC 3339.
    pub at: String,
    /// The profile, with every address and its state; absent where it was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Member>,
    /// The whole ledger of consent, the oldest line first.
    pub consents: Vec<Consent>,
    /// What the list of suppressions says of the member's addresses.
    pub suppressions: Vec<Suppression>,
    /// The stories of the notifications that are named in `kept`.
    pub notifications: Vec<Story>,
    /// What is kept to decide by: what was decided and sent lately, what came of it, what waits.
    pub kept: Vec<Kept>,
}

/// Something that is kept to decide by.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Kept {
    /// `claim` (a recent notification and what was decided of it), `sent`, `seen`, `fallback` (what another channel is to try) or `digest`.
    pub kind: String,
    /// The notification, lane, channel or flow.
    pub id: String,
    /// When it was written, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<String>,
    /// What it says.
    #[schema(value_type = Object)]
    pub says: Value,
}

/// Exports all that is kept of a member, as one document.
#[utoipa::path(
    get, path = "/v1/members/{id}/export", tag = "members", security(("api_key" = ["members"])),
    params(("id" = String, Path, description = "client_user_id", example = "anna")),
    responses(
        (status = 200, description = "All that is kept", body = Export),
        (status = 404, description = "Nothing is kept", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn export(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
) -> Result<Json<Export>, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let own: Vec<MemberRow> = shared.rows(MemberRow::read_all(caller.project(), id.as_str())).await?;
    let ledger: Vec<ConsentRow> = shared.rows(ConsentRow::read_all(caller.project(), id.as_str())).await?;
    if own.is_empty() && ledger.is_empty() {
        return Err(members::no_member(&id));
    }
    let named: BTreeSet<Uuid> = own.iter().flat_map(named_by).map(|notification| notification.0).collect();
    let named: Vec<Uuid> = named.into_iter().collect();
    let notifications = shared.stories(&caller, &named).await?;
    let profile = own.iter().find(|row| row.kind == PROFILE).map(Profile::from_row).transpose()?;
    let suppressions = match &profile {
        Some(profile) => shared.suppressed(caller.project(), profile).await?,
        None => Vec::new(),
    };
    Ok(Json(Export {
        at: shared.now().to_string(),
        member: profile.map(|profile| Member::new(id.clone(), profile)),
        consents: ledger.into_iter().map(Consent::of).collect(),
        suppressions,
        notifications,
        kept: own.into_iter().filter(|row| row.kind != PROFILE).map(Kept::of).collect(),
        id,
    }))
}

/// Erases a member: all that is kept of them goes, whether or not there is a profile. What stays is the list of suppressions, and a mark under a
/// keyed hash, by which no older command makes the member again.
#[utoipa::path(
    post, path = "/v1/members/{id}/erase", tag = "members", security(("api_key" = ["members"])),
    params(("id" = String, Path, description = "client_user_id", example = "anna")),
    responses(
        (status = 204, description = "Erased"),
        (status = 202, description = "On the log, but not applied within the deadline", body = Pending),
        (status = 409, description = "The installation has no `erasure_key`", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn erase(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    if !shared.api.can_erase {
        let remedy = "set `erasure_key` in the configuration of every process, then ask again";
        let detail = "the configuration has no key for the mark that stays of an erased member";
        return Err(Problem::new(StatusCode::CONFLICT, "erasure-key", "Nobody can be erased here", detail, remedy));
    }
    let command = MemberCommand {
        action: MemberAction::Erase,
        patch: None,
        ..members::upsert_command(&caller, id.clone(), &Patch::default(), shared.now())?
    };
    let ends = shared.say(vec![Append::of(&Record::Member(command))?]).await?;
    let is_applied = shared.applied(&ends, shared.api.limits.apply_deadline).await;
    Ok(if is_applied { StatusCode::NO_CONTENT.into_response() } else { members::pending(id) })
}

impl Shared {
    /// The rows of one read.
    pub(super) async fn rows<R: Row>(&self, read: Read) -> Result<Vec<R>, Problem> {
        let cells = self.api.store.read(&[read]).await?.into_iter().flatten();
        Ok(cells.map(R::from_cells).collect::<Result<_, _>>()?)
    }

    /// What the list says of the addresses of a profile.
    async fn suppressed(&self, project: &str, profile: &Profile) -> Result<Vec<Suppression>, Problem> {
        let all = profile.addresses.iter().flat_map(|(channel, list)| list.iter().map(|known| (*channel, known)));
        let reads: Vec<_> = all.map(|(channel, known)| SuppressionRow::of(project, channel, &known.address)).collect();
        let mut listed = Vec::new();
        for cells in self.api.store.read(&reads).await?.into_iter().flatten() {
            listed.push(Suppression::of(SuppressionRow::from_cells(cells)?)?);
        }
        Ok(listed)
    }
}

impl Kept {
    fn of(row: MemberRow) -> Self {
        let text = row.decision.unwrap_or_default();
        Self {
            kind: row.kind,
            id: row.id,
            at: row.updated_at.map(|at| at.to_string()),
            says: serde_json::from_str(&text).unwrap_or(Value::String(text)),
        }
    }
}
