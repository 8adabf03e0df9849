//! `GET /v1/members?address=…` and `GET /v1/members?attribute=…&value=…`: whose an address is, and who has a value of an attribute.
//! Reads the indexes, which may know too much, and shows nobody whose profile does not say the same.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, page_size},
    members::Member,
    problem::{Problem, ProblemDocument},
    profile,
    shards::Place,
    suppressions,
};
use crate::inbound;
use axum::{Json, extract::State};
use bellwether_processors::definitions::did_you_mean;
use bellwether_schemas::{
    Channel,
    member::Profile,
    rows::{Read, Row},
    tables::{AttributeRow, MemberRow, PROFILE},
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, sync::Arc};
use utoipa::{IntoParams, ToSchema};

/// What members are found by: an address, or an attribute and its value.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct Search {
    /// An address, written as a profile takes it. Percent-encode a phone's `+`.
    #[param(example = "anna@example.org")]
    address: Option<String>,
    /// With `address`: of this channel alone; absent: of every channel that has such addresses.
    channel: Option<String>,
    /// An attribute that is named under `search` in project.yaml.
    #[param(example = "tier")]
    attribute: Option<String>,
    /// With `attribute`: its value; a number or boolean as JSON writes it. At most 256 bytes.
    #[param(example = "gold")]
    value: Option<String>,
    /// With `attribute`: at most so many, 1 to 1000; 100 where absent.
    limit: Option<usize>,
    /// With `attribute`: where the last page ended.
    cursor: Option<String>,
}

/// The members who are found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"members": [{
    "id": "anna", "email": "anna@example.org", "phone": null, "locale": null, "time_zone": null, "quiet_hours": null, "channels": [], "opt_ins": {},
    "attributes": {"tier": "gold"},
    "addresses": {"email": [{"address": "anna@example.org", "state": "active", "since": "2026-03-01T12:00:00Z"}]},
    "created_at": "2026-03-01T12:00:00Z", "updated_at": "2026-03-01T12:00:00Z"
}], "next": null}))]
pub struct Found {
    /// By address: in the order of their ids, at most 20 of a channel's address. By attribute: in no order that means anything.
    pub members: Vec<Member>,
    /// Give this as `cursor` to go on; absent at the end. A page may be empty, and still have a next one.
    pub next: Option<String>,
}

/// Finds members by an address, or by an attribute.
#[utoipa::path(
    get, path = "/v1/members", tag = "members", security(("api_key" = ["members"])), params(Search),
    responses(
        (status = 200, description = "Who has the address or the value; nobody, perhaps", body = Found),
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
    let Search { address, channel, attribute, value, limit, cursor } = query;
    let found = match (address, attribute) {
        (Some(address), None) => {
            let others = [("value", value.is_some()), ("limit", limit.is_some()), ("cursor", cursor.is_some())];
            none_of(&others, "attribute")?;
            shared.at_address(caller.project(), &address, channel.as_deref()).await?
        }
        (None, Some(name)) => {
            none_of(&[("channel", channel.is_some())], "address")?;
            let value = value.ok_or_else(|| {
                Problem::invalid("value", "`value` is missing", "name the value that the attribute is to have")
            })?;
            let place = Place::read(cursor.as_deref())?;
            shared.with_attribute(caller.project(), (&name, &value), limit.unwrap_or(100), place).await?
        }
        (None, None) => {
            let detail = "`address` is missing, and so is `attribute`";
            return Err(Problem::invalid("address", detail, "name one by which you look for members"));
        }
        (Some(_), Some(_)) => {
            let detail = "`attribute` stands beside `address`";
            return Err(Problem::invalid("attribute", detail, "search by one of the two"));
        }
    };
    Ok(Json(found))
}

/// Refuses parameters of the other way to search.
fn none_of(others: &[(&str, bool)], way: &str) -> Result<(), Problem> {
    match others.iter().find(|(_, is_there)| *is_there) {
        Some((name, _)) => {
            Err(Problem::invalid(*name, format!("`{name}` belongs to a search by `{way}`"), "leave it out"))
        }
        None => Ok(()),
    }
}

impl Shared {
    /// Who has an address: of one channel, or of every channel that has such addresses.
    async fn at_address(&self, project: &str, text: &str, channel: Option<&str>) -> Result<Found, Problem> {
        let region = self.default_region(project);
        let normal = |channel| suppressions::normal(channel, text, region.as_deref());
        let places: Vec<(Channel, String)> = match channel {
            Some(name) => {
                let channel = profile::channel("channel", name)?;
                vec![(channel, normal(channel)?)]
            }
            // What is no address of a channel is nobody's there.
            None => Channel::ALL.into_iter().filter_map(|channel| Some((channel, normal(channel).ok()?))).collect(),
        };
        let mut ids = BTreeSet::new();
        for (channel, address) in places {
            ids.extend(inbound::members_at(&*self.api.store, project, channel, &address).await?);
        }
        let profiles = self.profiles(project, ids).await?.into_iter();
        Ok(Found { members: profiles.map(|(id, profile)| Member::new(id, profile)).collect(), next: None })
    }

    /// A page of those who have a value of an attribute.
    async fn with_attribute(
        &self,
        project: &str,
        (name, value): (&str, &str),
        limit: usize,
        place: Place,
    ) -> Result<Found, Problem> {
        self.is_searched(project, name)?;
        if value.len() > AttributeRow::MAX_VALUE_BYTES {
            let detail = format!("`value` has more than {} bytes", AttributeRow::MAX_VALUE_BYTES);
            return Err(Problem::invalid(
                "value",
                detail,
                "search by a shorter one: longer values are not kept for it",
            ));
        }
        let limit = page_size(limit)?;
        let shard = |shard| AttributeRow::read_all(project, name, value, shard);
        let (rows, next) = self.page(place, limit, shard, |row: &AttributeRow| &row.member).await?;
        let profiles = self.profiles(project, rows.into_iter().map(|row| row.member)).await?.into_iter();
        let has = |profile: &Profile| {
            profile.attributes.get(name).and_then(AttributeRow::text_of).is_some_and(|text| text == value)
        };
        let members = profiles.filter(|(_, profile)| has(profile)).map(|(id, profile)| Member::new(id, profile));
        Ok(Found { members: members.collect(), next: next.map(|place| place.cursor()) })
    }

    /// Refuses an attribute that the project does not search by.
    fn is_searched(&self, project: &str, name: &str) -> Result<(), Problem> {
        let definitions = self.definitions(project);
        let searched = definitions.as_ref().map_or(&[][..], |project| project.document.project.search.as_slice());
        if searched.iter().any(|searched| searched == name) {
            return Ok(());
        }
        let hint = did_you_mean(name, searched.iter().map(String::as_str));
        let detail = format!("the project does not search by this attribute{hint}");
        let remedy = "name it under `search` in project.yaml, apply that, then import the members again";
        Err(Problem::invalid("attribute", detail, remedy))
    }

    /// The profiles of these members, of those who have one.
    async fn profiles(
        &self,
        project: &str,
        ids: impl IntoIterator<Item = String>,
    ) -> Result<Vec<(String, Profile)>, Problem> {
        let ids: Vec<String> = ids.into_iter().collect();
        let reads: Vec<Read> = ids.iter().map(|id| MemberRow::read_one(project, id.as_str(), PROFILE, "")).collect();
        let mut profiles = Vec::new();
        for (id, cells) in ids.into_iter().zip(self.api.store.read(&reads).await?) {
            if let Some(cells) = cells.into_iter().next() {
                profiles.push((id, Profile::from_row(&MemberRow::from_cells(cells)?)?));
            }
        }
        Ok(profiles)
    }
}
