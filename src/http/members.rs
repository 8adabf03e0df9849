//! `/v1/members/{id}`: read a profile, and change or remove it by a command on the log under the member's key (law 3).
//! Only the `members` processor writes profiles; this door waits until it did, so that a caller reads its own write.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::Segment,
    problem::{FieldError, Problem, ProblemDocument},
    profile,
};
use crate::inbound;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_processors::{
    caps::{History, Sent},
    score::Seen,
};
use bellwether_schemas::{
    Channel, NotificationId, Timestamp, Topic,
    definitions::QuietHours,
    member::{AddressState, ByCategory, Patch, Profile},
    records::{MemberAction, MemberCommand, Record},
    rows::{Read, Row as _, Span},
    tables::{MemberRow, PROFILE, SEEN, SENT},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use utoipa::ToSchema;

/// First and longest pause between two looks at the profile, or at the appliers' progress.
const POLL: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// A member as the API shows one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "anna", "email": "anna@example.org", "phone": "+4915112345678", "locale": "de-DE", "time_zone": "Europe/Berlin",
    "quiet_hours": {"from": "21:00", "to": "09:00"}, "channels": ["email"], "opt_ins": {"email": true}, "attributes": {"tier": "gold"},
    "addresses": {"email": [{"address": "anna@example.org", "state": "active", "since": "2026-03-01T12:00:00Z"}]},
    "engagement": {"email": {"last_sent": "2026-03-02T09:00:00Z", "last_click": "2026-03-02T09:30:00Z", "last_online": "2026-03-02T09:30:00Z"}},
    "sent": [{"at": "2026-03-02T09:00:00Z", "channel": "email", "category": "newsletter", "notification": "0195aa77-9c2b-8d3e-a1f0-6d2f6a1b2c3d"}],
    "created_at": "2026-03-01T12:00:00Z", "updated_at": "2026-03-01T12:00:00Z"
}))]
pub struct Member {
    /// `client_user_id`.
    pub id: String,
    /// Preferred e-mail address.
    pub email: Option<String>,
    /// Preferred phone, E.164.
    pub phone: Option<String>,
    /// Locale (BCP 47).
    pub locale: Option<String>,
    /// Time zone (IANA name).
    pub time_zone: Option<String>,
    /// When the member is not to be disturbed, in place of the project's quiet hours.
    #[schema(value_type = Option<MemberQuietHours>)]
    pub quiet_hours: Option<QuietHours>,
    /// Preferred channels, in order.
    #[schema(value_type = Vec<String>)]
    pub channels: Vec<Channel>,
    /// Opt-ins by channel; absent where the member never said. A boolean is about the whole channel; an object says it by category, and of the
    /// whole channel as `*`.
    #[schema(value_type = Object)]
    pub opt_ins: BTreeMap<Channel, ByCategory>,
    /// Anything the client keeps.
    #[schema(value_type = Object)]
    pub attributes: Map<String, Value>,
    /// Every address by channel, with its state.
    #[schema(value_type = std::collections::HashMap<String, Vec<MemberAddress>>)]
    pub addresses: BTreeMap<Channel, Vec<MemberAddress>>,
    /// By channel, what last came of messages; where one member is read, of a project that keeps it (`engagement` or `routing`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = std::collections::HashMap<String, Engagement>)]
    pub engagement: BTreeMap<Channel, Engagement>,
    /// What was sent lately and caps may count, the oldest first; where one member is read, of a project that has caps.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sent: Vec<SentLately>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub updated_at: String,
}

/// [`QuietHours`] for the OpenAPI document.
#[derive(ToSchema)]
#[allow(dead_code)]
#[schema(example = json!({"from": "21:00", "to": "09:00"}))]
pub struct MemberQuietHours {
    /// First minute by the clock on the member's wall, `HH:MM`.
    from: String,
    /// First minute that is none of them, `HH:MM`; before `from`, it is the next morning's. The same as `from`: the member has no quiet hours.
    to: String,
}

/// Where a member can be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MemberAddress {
    /// In the channel's normal form.
    pub address: String,
    /// `active`, `suppressed`, `quarantined` or `unconfirmed`.
    #[schema(value_type = String, example = "active")]
    pub state: AddressState,
    /// Why it is not active.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// RFC 3339.
    pub since: String,
    /// When the member last wrote to us from it, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<String>,
    /// When nobody was to be reached there, of late and in a row, RFC 3339; three within 30 days let it rest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub misses: Vec<String>,
}

/// What last came of messages by a channel. All of it is forgotten 90 days after the last of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Engagement {
    /// When a provider last took one, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<String>,
    /// When one last arrived, as far as the channel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_delivered: Option<String>,
    /// When the member last opened one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_open: Option<String>,
    /// When the member last followed a link of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_click: Option<String>,
    /// When the member last showed themselves there: wrote, opened, clicked, or had a push delivered to their browser or app.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_online: Option<String>,
}

impl Engagement {
    fn new(channel: Channel, seen: &Seen, heard: Option<Timestamp>) -> Self {
        let Seen { last_sent, last_delivered, last_open, last_click } = *seen;
        let shown = last_delivered.filter(|_| matches!(channel, Channel::WebPush | Channel::AppPush));
        let text = |at: Option<Timestamp>| at.map(|at| at.to_string());
        Self {
            last_sent: text(last_sent),
            last_delivered: text(last_delivered),
            last_open: text(last_open),
            last_click: text(last_click),
            last_online: text(heard.max(last_open).max(last_click).max(shown)),
        }
    }
}

/// A message that caps count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SentLately {
    /// When it was decided, RFC 3339.
    pub at: String,
    /// Channel.
    #[schema(value_type = String)]
    pub channel: Channel,
    /// Category.
    pub category: String,
    /// Notification.
    #[schema(value_type = uuid::Uuid)]
    pub notification: NotificationId,
}

/// A change that is on the log for certain, and was not applied within the deadline.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": "anna", "applied": false, "detail": "the change is on the log and will be applied"}))]
pub struct Pending {
    /// `client_user_id`.
    pub id: String,
    /// Always false here.
    pub applied: bool,
    /// What that means.
    pub detail: String,
}

/// What a client may say of a member: absent stays, null goes, everything else is refused.
#[derive(ToSchema)]
#[allow(dead_code)] // For the OpenAPI document alone: the reader is `profile`.
#[schema(example = json!({
    "email": "anna@example.org", "time_zone": "Europe/Berlin", "quiet_hours": {"from": "21:00", "to": "09:00"}, "opt_ins": {"email": true},
    "proof": "form `footer`, \"Send me the newsletter\", 203.0.113.7"
}))]
pub struct MemberPatch {
    /// E-mail address, without a display name.
    email: Option<String>,
    /// Phone; without a country code it is read in the project's default region.
    phone: Option<String>,
    /// Phone that has WhatsApp.
    whatsapp: Option<String>,
    /// Number of the private chat with the project's bot. A chat that was linked by `/start` needs none.
    telegram: Option<String>,
    /// Tokens of apps, `fcm:TOKEN` or `apns:TOKEN`. Every address may be one or a list; null removes all.
    app_push: Option<Vec<String>>,
    /// What the system behind a webhook calls the member.
    webhook: Option<String>,
    /// Locale (BCP 47).
    locale: Option<String>,
    /// Time zone (IANA name).
    time_zone: Option<String>,
    /// When the member is not to be disturbed, in place of the project's quiet hours; null for those.
    quiet_hours: Option<MemberQuietHours>,
    /// Preferred channels, in order.
    channels: Option<Vec<String>>,
    /// Merged by channel and category; null withdraws a statement. A boolean or null is about the whole channel; an object names categories, and
    /// the whole channel as `*`.
    #[schema(value_type = Object)]
    opt_ins: Option<Value>,
    /// Merged by name; null removes one.
    #[schema(value_type = Object)]
    attributes: Option<Value>,
    /// What shows that the member said so: the form and the text that was shown, an IP address, a message, a file. It is no part of the member,
    /// but of each line that this adds to the ledger.
    proof: Option<String>,
}

impl Member {
    pub(super) fn new(id: String, profile: Profile) -> Self {
        let first = |channel| profile.addresses.get(&channel).and_then(|a| a.first()).map(|a| a.address.clone());
        let (email, phone) = (first(Channel::Email), first(Channel::Sms));
        let shown = |a: bellwether_schemas::member::Address| MemberAddress {
            address: a.address,
            state: a.state,
            reason: a.reason,
            since: a.since.to_string(),
            heard: a.heard.map(|at| at.to_string()),
            misses: a.misses.iter().map(ToString::to_string).collect(),
        };
        let addresses = profile.addresses.into_iter();
        Self {
            id,
            email,
            phone,
            locale: profile.locale,
            time_zone: profile.time_zone,
            quiet_hours: profile.quiet_hours,
            channels: profile.channels,
            opt_ins: profile.opt_ins,
            attributes: profile.attributes,
            addresses: addresses.map(|(channel, list)| (channel, list.into_iter().map(shown).collect())).collect(),
            engagement: BTreeMap::new(),
            sent: Vec::new(),
            created_at: profile.created_at.to_string(),
            updated_at: profile.updated_at.to_string(),
        }
    }

    /// The member with what routing sees beside the profile.
    fn with_what_came(id: String, profile: Profile, rows: &[MemberRow]) -> Result<Self, Problem> {
        let mut seen: BTreeMap<Channel, Seen> = BTreeMap::new();
        let mut sent: Vec<Sent> = Vec::new();
        for row in rows {
            match (row.kind.as_str(), row.id.parse()) {
                (SEEN, Ok(channel)) => drop(seen.insert(channel, row.kept()?)),
                (SENT, _) => sent.extend(row.kept::<History>()?.0),
                _ => {}
            }
        }
        sent.sort_by_key(|sent| (sent.at, sent.id));
        let heard = |channel| profile.addresses.get(&channel)?.iter().filter_map(|address| address.heard).max();
        let known = Channel::ALL.into_iter().filter(|channel| seen.contains_key(channel) || heard(*channel).is_some());
        let of = |channel| Engagement::new(channel, &seen.get(&channel).copied().unwrap_or_default(), heard(channel));
        let engagement = known.map(|channel| (channel, of(channel))).collect();
        let lately = |Sent { id: notification, at, channel, category }: Sent| SentLately {
            at: at.to_string(),
            channel,
            category,
            notification,
        };
        Ok(Self { engagement, sent: sent.into_iter().map(lately).collect(), ..Self::new(id, profile) })
    }
}

/// Reads a member, as routing would see them.
#[utoipa::path(
    get, path = "/v1/members/{id}", tag = "members", security(("api_key" = ["members"])),
    params(("id" = String, Path, description = "client_user_id", example = "anna")),
    responses(
        (status = 200, description = "The member", body = Member),
        (status = 404, description = "No such member", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn read(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
) -> Result<Json<Member>, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let reads = [PROFILE, SENT, SEEN].map(|kind| Read {
        span: Span::Prefix(vec![kind.into()]),
        ..MemberRow::read_all(caller.project(), id.as_str())
    });
    let rows = shared.api.store.read(&reads).await?.into_iter().flatten();
    let rows = rows.map(MemberRow::from_cells).collect::<Result<Vec<_>, _>>()?;
    let profile = rows.iter().find(|row| row.kind == PROFILE).ok_or_else(|| no_member(&id))?;
    let profile = Profile::from_row(profile)?;
    Ok(Json(Member::with_what_came(id, profile, &rows)?))
}

/// Creates or changes a member.
#[utoipa::path(
    put, path = "/v1/members/{id}", tag = "members", security(("api_key" = ["members"])), request_body = MemberPatch,
    params(
        ("id" = String, Path, description = "client_user_id, 1 to 256 bytes. Percent-encode it; the id `import` must be written `%69mport`", example = "anna"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 200, description = "Changed", body = Member),
        (status = 201, description = "Created", body = Member),
        (status = 202, description = "On the log, but not applied within the deadline", body = Pending),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn upsert(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let mut fields: Map<String, Value> = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed(
            "body",
            format!("the body is not a JSON object: {error}"),
            "send an object of the member's fields",
        )
    })?;
    let proof = profile::proof(&mut fields)?;
    let patch = profile::patch(fields, shared.default_region(caller.project()).as_deref())?;
    shared.all_declared(caller.project(), &patch)?;
    let existed = shared.profile(caller.project(), &id).await?.is_some();
    let command = MemberCommand { proof, ..upsert_command(&caller, id.clone(), &patch, shared.now())? };
    let offset = shared.command(command).await?;
    let applied = |profile: &Option<Profile>| profile.as_ref().is_some_and(|p| p.applied >= offset);
    Ok(match shared.wait_for(caller.project(), &id, applied).await? {
        Waited::Applied(Some(profile)) => {
            let status = if existed { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(Member::new(id, *profile))).into_response()
        }
        Waited::Applied(None) | Waited::Late => pending(id),
    })
}

/// Removes a member.
#[utoipa::path(
    delete, path = "/v1/members/{id}", tag = "members", security(("api_key" = ["members"])),
    params(
        ("id" = String, Path, description = "client_user_id", example = "anna"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 204, description = "Removed"),
        (status = 202, description = "On the log, but not applied within the deadline", body = Pending),
        (status = 404, description = "No such member", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn remove(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
) -> Result<Response, Problem> {
    caller.require(Scope::Members)?;
    profile::member_id(&id)?;
    if shared.profile(caller.project(), &id).await?.is_none() {
        return Err(no_member(&id));
    }
    let command = MemberCommand {
        action: MemberAction::Delete,
        patch: None,
        ..upsert_command(&caller, id.clone(), &Patch::default(), shared.now())?
    };
    let offset = shared.command(command).await?;
    // Somebody may create the member anew right behind: a newer profile says as well that ours was applied.
    let gone = |profile: &Option<Profile>| profile.as_ref().is_none_or(|p| p.applied > offset);
    Ok(match shared.wait_for(caller.project(), &id, gone).await? {
        Waited::Applied(_) => StatusCode::NO_CONTENT.into_response(),
        Waited::Late => pending(id),
    })
}

pub(super) fn no_member(id: &str) -> Problem {
    Problem::not_found(format!("the project has no member `{id}`"), "create it by PUT /v1/members/{id}").at("id")
}

pub(super) fn pending(id: String) -> Response {
    let detail = "the change is on the log and will be applied; read the member again later";
    (StatusCode::ACCEPTED, Json(Pending { id, applied: false, detail: detail.into() })).into_response()
}

/// The command to create or change a member.
pub(super) fn upsert_command(
    caller: &Caller,
    member: String,
    patch: &Patch,
    at: Timestamp,
) -> Result<MemberCommand, FieldError> {
    let patch = serde_json::to_string(patch)
        .map_err(|error| FieldError::new("body", format!("cannot be written: {error}"), "send plain JSON values"))?;
    Ok(MemberCommand {
        patch: Some(patch),
        ..MemberCommand::new(caller.project().into(), member, MemberAction::Upsert, caller.0.name.clone(), at)
    })
}

/// By partition of `members`, the offset up to which commands are to be applied (exclusive).
pub(super) type Ends = BTreeMap<u32, u64>;

/// How a wait for the applier ended.
enum Waited {
    Applied(Option<Box<Profile>>),
    Late,
}

impl Shared {
    /// The profile of a member.
    pub(super) async fn profile(&self, project: &str, member: &str) -> Result<Option<Profile>, Problem> {
        Ok(inbound::profile(&*self.api.store, project, member).await?)
    }

    /// The region that phones without a country code are read in.
    pub(super) fn default_region(&self, project: &str) -> Option<String> {
        self.api.definitions.borrow().get(project)?.document.project.default_region.clone()
    }

    /// Appends a command and returns its offset.
    async fn command(&self, command: MemberCommand) -> Result<i64, Problem> {
        let positions = self.api.log.append(vec![Append::of(&Record::Member(command))?]).await?;
        positions.first().and_then(|p| i64::try_from(p.offset).ok()).ok_or_else(Problem::internal)
    }

    /// Puts commands on the log; returns up to where they must be applied.
    pub(super) async fn say(&self, appends: Vec<Append>) -> Result<Ends, Problem> {
        let mut ends = Ends::new();
        if !appends.is_empty() {
            for position in self.api.log.append(appends).await? {
                let end = ends.entry(position.partition).or_default();
                *end = (position.offset + 1).max(*end);
            }
        }
        Ok(ends)
    }

    /// Waits until the group that applies commands has committed up to all of these: it commits once their rows are durable.
    /// The appliers may be other processes, so this asks, at growing intervals, until its deadline; then it answers false.
    pub(super) async fn applied(&self, ends: &Ends, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        let mut pause = POLL.0;
        loop {
            match self.api.log.progress(&self.api.members_group, Topic::Members).await {
                Ok(commits) => {
                    let past = |(partition, end): (&u32, &u64)| {
                        commits.iter().any(|c| c.at.partition == *partition && c.committed.offset >= *end)
                    };
                    if ends.iter().all(past) {
                        return true;
                    }
                }
                Err(error) => tracing::warn!(%error, "cannot see how far member commands are applied"),
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }

    /// Looks at the profile until it is as wanted or the deadline is over. The applier may be another process, and the store has no
    /// notifications; so this asks, at growing intervals, for at most [`super::Limits::apply_deadline`].
    async fn wait_for(
        &self,
        project: &str,
        member: &str,
        done: impl Fn(&Option<Profile>) -> bool,
    ) -> Result<Waited, Problem> {
        let deadline = Instant::now() + self.api.limits.apply_deadline;
        let mut pause = POLL.0;
        loop {
            let profile = self.profile(project, member).await?;
            if done(&profile) {
                return Ok(Waited::Applied(profile.map(Box::new)));
            }
            if Instant::now() >= deadline {
                return Ok(Waited::Late);
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(POLL.1);
        }
    }
}
