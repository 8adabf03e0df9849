//! `GET /v1/members?address=…`: whose an address is.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::Params,
    members::Member,
    problem::{Problem, ProblemDocument},
    profile, suppressions,
};
use crate::inbound;
use axum::{Json, extract::State};
use bellwether_schemas::Channel;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};
use utoipa::{IntoParams, ToSchema};

/// The address that is looked for.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Search {
    /// An address, written as a profile takes it. Percent-encode a phone's `+`.
    #[param(required = true, example = "anna@example.org")]
    address: Option<String>,
    /// Of this channel alone; absent: of every channel that has such addresses.
    channel: Option<String>,
}

/// The members who have an address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"members": [{
    "id": "anna", "email": "anna@example.org", "phone": null, "locale": null, "time_zone": null, "channels": [], "opt_ins": {}, "attributes": {},
    "addresses": {"email": [{"address": "anna@example.org", "state": "active", "since": "2026-03-01T12:00:00Z"}]},
    "created_at": "2026-03-01T12:00:00Z", "updated_at": "2026-03-01T12:00:00Z"
}]}))]
pub struct Found {
    /// In the order of their ids; at most 20 of a channel's address.
    pub members: Vec<Member>,
}

/// Finds members by an address.
#[utoipa::path(
    get, path = "/v1/members", tag = "members", security(("api_key" = ["members"])), params(Search),
    responses(
        (status = 200, description = "Who has the address; nobody, perhaps", body = Found),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn find(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(query): Params<Search>,
) -> Result<Json<Found>, Problem> {
    caller.require(Scope::Members)?;
    let text = query.address.ok_or_else(|| {
        Problem::invalid("address", "`address` is missing", "name the address whose members you look for")
    })?;
    let (project, region) = (caller.project(), shared.default_region(caller.project()));
    let normal = |channel| suppressions::normal(channel, &text, region.as_deref());
    let places: Vec<(Channel, String)> = match query.channel.as_deref() {
        Some(name) => {
            let channel = profile::channel("channel", name)?;
            vec![(channel, normal(channel)?)]
        }
        // What is no address of a channel is nobody's there.
        None => Channel::ALL.into_iter().filter_map(|channel| Some((channel, normal(channel).ok()?))).collect(),
    };
    let mut ids = BTreeSet::new();
    for (channel, address) in places {
        ids.extend(inbound::members_at(&*shared.api.store, project, channel, &address).await?);
    }
    let mut members = Vec::new();
    for id in ids {
        if let Some(profile) = shared.profile(project, &id).await? {
            members.push(Member::new(id, profile));
        }
    }
    Ok(Json(Found { members }))
}
