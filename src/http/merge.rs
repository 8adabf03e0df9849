//! `POST /v1/members/{id}/merge`: somebody who is known under two ids becomes one member.
//! Commands the one who goes, and waits for what that commands to the one who stays; what both come to is the `members` processor's.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::Segment,
    members::{self, Ends, Member, Pending},
    problem::{FieldError, Problem, ProblemDocument},
    profile,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    MemberKey, Topic,
    member::Patch,
    records::{MemberAction, MemberCommand, Record},
    topics::partition_of,
};
use serde::Deserialize;
use std::sync::Arc;
use utoipa::ToSchema;

/// Who becomes part of the member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"from": "guest-77"}))]
pub struct Merge {
    /// `client_user_id` of the member whose profile goes.
    from: String,
}

/// Merges another member into this one, whose profile gets what it lacks: addresses, attributes, consent and settings of the other, which is gone
/// afterwards.
///
/// What either refused stays refused, and an address that either may not use is not used. The other's ledger of consent stays under its id, as do
/// the stories of what it was sent; caps do not count that for the member who stays.
#[utoipa::path(
    post, path = "/v1/members/{id}/merge", tag = "members", security(("api_key" = ["members"])), request_body = Merge,
    params(
        ("id" = String, Path, description = "client_user_id of the member who stays", example = "anna"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 200, description = "Merged; the member as it is now", body = Member),
        (status = 202, description = "On the log, but not applied within the deadline", body = Pending),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 404, description = "One of the two is no member; `field` says which", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn merge(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let Merge { from } = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed("body", format!("the body names nobody: {error}"), "send `{\"from\": \"…\"}`")
    })?;
    profile::member_id(&from).map_err(|error| FieldError { field: "from".into(), ..error })?;
    if from == id {
        return Err(FieldError::new("from", "is the member itself", "name the other one").into());
    }
    let project = caller.project();
    for (field, member) in [("id", &id), ("from", &from)] {
        shared.profile(project, member).await?.ok_or_else(|| members::no_member(member).at(field))?;
    }
    let command = MemberCommand {
        action: MemberAction::Merge,
        patch: None,
        proof: Some(format!("merged into {id}")),
        other: Some(id.clone()),
        ..members::upsert_command(&caller, from, &Patch::default(), shared.now())?
    };
    let deadline = shared.api.limits.apply_deadline;
    let ends = shared.say(vec![Append::of(&Record::Member(command))?]).await?;
    // Once the first command is applied, the one that it caused is on the log.
    let applied =
        shared.applied(&ends, deadline).await && shared.applied(&shared.commanded(project, &id).await?, deadline).await;
    let profile = if applied { shared.profile(project, &id).await? } else { None };
    Ok(match profile {
        Some(profile) => Json(Member::new(id, profile)).into_response(),
        None => members::pending(id),
    })
}

impl Shared {
    /// Up to where must be applied what a member is commanded by now.
    async fn commanded(&self, project: &str, member: &str) -> Result<Ends, Problem> {
        let bounds = self.api.log.bounds(Topic::Members).await?;
        let key = MemberKey::new(project, member).to_string();
        let partition = partition_of(key.as_bytes(), u32::try_from(bounds.len()).unwrap_or(u32::MAX));
        // Where nothing is kept there is nothing to wait for, and perhaps nothing was ever committed.
        let present = bounds.into_iter().filter(|b| b.at.partition == partition && b.start < b.end);
        Ok(present.map(|b| (b.at.partition, b.end)).collect())
    }
}
