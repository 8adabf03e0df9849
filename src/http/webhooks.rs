//! `/v1/webhooks/{project}/{provider}`: what providers call back, verified, then appended: receipts of messages, and what members did or
//! said, as commands to their profiles. A callback is acknowledged only once all of it is on the log (law 1); one that is not the provider's
//! is refused and counted (law 8). Callbacks come more than once and in any order: receipts have an id by their cause, commands set a state.

use super::{
    Shared,
    extract::Segment,
    problem::{FieldError, Problem, ProblemDocument},
};
use axum::{
    Form,
    body::Body,
    extract::{FromRequest, RawQuery, Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::{
    log::Append,
    webhooks::inbound::{Inbound, Keyword},
};
use bellwether_schemas::{
    Channel, Timestamp,
    records::{MemberAction, MemberCommand, Receipt, Record},
    rows::{Read, Row},
    tables::{AddressRow, LinkRow},
};
use std::{fmt::Debug, sync::Arc};

/// Members of one address that are looked at.
const MAX_SHARING: usize = 20;

/// One call of a provider's, as it came.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Project named in the path.
    pub project: &'a str,
    /// Provider named in the path.
    pub provider: &'a str,
    /// Query as it came, undecoded and without `?`.
    pub query: &'a str,
    /// Headers.
    pub headers: &'a HeaderMap,
    /// The body as it came; `None` for a GET.
    pub body: Option<&'a [u8]>,
    /// The body's parameters, decoded, in the order sent, where it is a form.
    pub form: &'a [(String, String)],
}

impl Call<'_> {
    /// A header's text; empty where it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// What a verified call tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Callback {
    /// What the provider wants to hear back, as plain text.
    pub answer: Option<String>,
    /// What became of messages.
    pub receipts: Vec<Receipt>,
    /// What members did.
    pub heard: Vec<Heard>,
}

/// What a member did on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Said something.
    Said(Inbound),
    /// Came by a link that we gave to one member.
    Linked {
        /// Channel.
        channel: Channel,
        /// The address to link.
        address: String,
        /// What the link carried.
        token: String,
        /// When.
        at: Timestamp,
    },
    /// Shut us out.
    Left {
        /// Channel.
        channel: Channel,
        /// Address.
        address: String,
        /// When.
        at: Timestamp,
    },
    /// Let us in again.
    Returned {
        /// Channel.
        channel: Channel,
        /// Address.
        address: String,
        /// When.
        at: Timestamp,
    },
    /// Is at another address from now on.
    Moved {
        /// Channel.
        channel: Channel,
        /// The old address.
        from: String,
        /// The new one.
        to: String,
        /// When.
        at: Timestamp,
    },
}

/// Why a callback is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookError {
    /// No such provider, or not the provider's signature: all the same to a stranger.
    Unverified,
    /// Signed, but not readable.
    Invalid(FieldError),
}

/// Verifies and reads what providers call.
pub trait Hooks: Debug + Send + Sync {
    /// What a call tells. Where the signature covers the URL, that is the one which the provider was told (see [`signed_url`]), never the
    /// `Host` header, which a stranger chooses.
    ///
    /// # Errors
    /// See [`HookError`].
    fn read(&self, call: Call<'_>, now: Timestamp) -> Result<Callback, HookError>;
}

/// The URL that a provider signed: the one it was told, with the query it called.
#[must_use]
pub fn signed_url(configured: &str, query: &str) -> String {
    match (query.is_empty(), configured.contains('?')) {
        (true, _) => configured.to_owned(),
        (false, true) => format!("{configured}&{query}"),
        (false, false) => format!("{configured}?{query}"),
    }
}

/// Takes a callback of a provider.
#[utoipa::path(
    post, path = "/v1/webhooks/{project}/{provider}", tag = "webhooks",
    request_body(content = String, content_type = "*/*", description = "As the provider sends it"),
    params(
        ("project" = String, Path, description = "Project"),
        ("provider" = String, Path, description = "Provider's name in the definitions"),
    ),
    responses(
        (status = 204, description = "All of it is on the log, or nothing was to be noted"),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 401, description = "Not the provider's", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer: the provider calls again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn receive(
    State(shared): State<Arc<Shared>>,
    Segment((project, provider)): Segment<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let form = form(&headers, &body).await?;
    let query = query.unwrap_or_default();
    let call = Call {
        project: &project,
        provider: &provider,
        query: &query,
        headers: &headers,
        body: Some(&body),
        form: &form,
    };
    shared.take(call).await
}

/// Answers a provider that asks whether the webhook is ours.
#[utoipa::path(
    get, path = "/v1/webhooks/{project}/{provider}", tag = "webhooks",
    params(
        ("project" = String, Path, description = "Project"),
        ("provider" = String, Path, description = "Provider's name in the definitions"),
    ),
    responses(
        (status = 200, description = "What the provider wants to hear", body = String, content_type = "text/plain"),
        (status = 401, description = "Not the provider's", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn subscribe(
    State(shared): State<Arc<Shared>>,
    Segment((project, provider)): Segment<(String, String)>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    let call = Call { project: &project, provider: &provider, query: &query, headers: &headers, body: None, form: &[] };
    shared.take(call).await
}

impl Shared {
    async fn take(&self, call: Call<'_>) -> Result<Response, Problem> {
        let told = self.api.hooks.read(call, self.now()).map_err(|error| match error {
            HookError::Invalid(error) => Problem::malformed(error.field, error.detail, error.remedy),
            HookError::Unverified => {
                self.api.observer.webhook_unverified(call.provider);
                let title = "The callback is not the provider's";
                let detail = "there is no such provider, or the signature or secret is not what it signs with";
                let remedy = "compare the provider's public URL and secrets with what the account has";
                Problem::new(StatusCode::UNAUTHORIZED, "unverified", title, detail, remedy).at("signature")
            }
        })?;
        let mut records: Vec<Record> = told.receipts.into_iter().map(Record::Receipt).collect();
        for heard in told.heard {
            records.extend(self.commands(call.project, call.provider, heard).await?.into_iter().map(Record::Member));
        }
        let appends = records.iter().map(Append::of).collect::<Result<Vec<_>, _>>()?;
        if !appends.is_empty() {
            self.api.log.append(appends).await?;
        }
        Ok(told.answer.map_or_else(|| StatusCode::NO_CONTENT.into_response(), IntoResponse::into_response))
    }

    /// What follows for the members whose address it is.
    async fn commands(&self, project: &str, provider: &str, heard: Heard) -> Result<Vec<MemberCommand>, Problem> {
        use MemberAction::{AddAddress, Heard as Wrote, OptIn, OptOut, RemoveAddress};
        let command = |member: &str, at, action, channel, address: &str, reason: &str| MemberCommand {
            project: project.to_owned(),
            member: member.to_owned(),
            at,
            actor: format!("member by {provider}"),
            action,
            patch: None,
            channel: Some(channel),
            address: Some(address.to_owned()),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
        };
        let (channel, address, at, actions): (_, _, _, &[(MemberAction, &str)]) = match &heard {
            Heard::Said(said) => {
                let actions: &[_] = match said.keyword {
                    Some(Keyword::Stop) => &[(Wrote, ""), (OptOut, "the member asked to stop")],
                    Some(Keyword::Start) => &[(Wrote, ""), (OptIn, "the member asked to start")],
                    Some(Keyword::Help) | None => &[(Wrote, "")],
                };
                (said.channel, &said.from, said.at, actions)
            }
            Heard::Left { channel, address, at } => (*channel, address, *at, &[(OptOut, "the member blocked us")]),
            Heard::Returned { channel, address, at } => (*channel, address, *at, &[(OptIn, "the member unblocked us")]),
            Heard::Moved { channel, from, to, at } => {
                let mut commands = Vec::new();
                for member in self.members_at(project, *channel, from).await? {
                    commands.push(command(&member, *at, AddAddress, *channel, to, "the provider moved it"));
                    commands.push(command(&member, *at, RemoveAddress, *channel, from, "the provider moved it"));
                }
                return Ok(commands);
            }
            Heard::Linked { channel, address, token, at } => {
                let rows =
                    self.api.store.read(&[LinkRow::read_one(token.as_str())]).await?.into_iter().flatten().next();
                let link = rows.map(LinkRow::from_cells).transpose()?.filter(|link| link.project == project);
                // A link that is unknown or too old links nobody; the member is told nothing, because it may be a stranger's guess.
                return Ok(link.map_or_else(Vec::new, |link| {
                    vec![
                        command(&link.member, *at, AddAddress, *channel, address, "the member came by a link"),
                        command(&link.member, *at, OptIn, *channel, address, "the member came by a link"),
                    ]
                }));
            }
        };
        let members = self.members_at(project, channel, address).await?;
        let commands = members.iter().flat_map(|member| {
            actions.iter().map(|(action, reason)| command(member, at, *action, channel, address, reason))
        });
        Ok(commands.collect())
    }

    /// The members that have an address.
    pub(super) async fn members_at(
        &self,
        project: &str,
        channel: Channel,
        address: &str,
    ) -> Result<Vec<String>, Problem> {
        let read = Read { limit: Some(MAX_SHARING), ..AddressRow::read_all(project, channel.name(), address) };
        let mut members = Vec::new();
        for cells in self.api.store.read(&[read]).await?.into_iter().flatten() {
            let member = AddressRow::from_cells(cells)?.member;
            // The index may know more than the profile (see the members processor).
            let profile = self.profile(project, &member).await?;
            let has = |profile: bellwether_schemas::member::Profile| {
                profile.addresses.get(&channel).is_some_and(|list| list.iter().any(|a| a.address == address))
            };
            if profile.is_some_and(has) {
                members.push(member);
            }
        }
        Ok(members)
    }
}

/// The parameters of a form, in order and with repeated names; none of what is no form.
async fn form(headers: &HeaderMap, body: &[u8]) -> Result<Vec<(String, String)>, Problem> {
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if !media_type.trim_start().to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return Ok(Vec::new());
    }
    let request = Request::post("/")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(body.to_vec()))
        .map_err(|_| Problem::internal())?;
    let form = Form::from_request(request, &()).await;
    form.map(|Form(params)| params)
        .map_err(|error| Problem::malformed("body", error.body_text(), "send `application/x-www-form-urlencoded`"))
}

#[cfg(test)]
mod tests {
    use super::signed_url;

    #[test]
    fn the_signed_url_is_the_configured_one_with_the_query_of_the_call() {
        assert_eq!(signed_url("https://x.org/cb", "r=a%2Bb"), "https://x.org/cb?r=a%2Bb");
        assert_eq!(signed_url("https://x.org/cb?t=1", "r=a"), "https://x.org/cb?t=1&r=a");
        assert_eq!(signed_url("https://x.org/cb", ""), "https://x.org/cb");
    }
}
