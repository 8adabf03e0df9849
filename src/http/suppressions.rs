//! `/v1/suppressions`: addresses that are not to be used, by channel: shown, put, lifted, exported and imported.
//! The list is about addresses, whether or not a member has them; members' profiles hold copies of it, which the `members` processor keeps. This
//! door changes the list, and asks by commands that the copies follow.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment, page_size},
    imports::{self, Batch, ImportQuery, ImportReport},
    members::Ends,
    problem::{FieldError, Problem, ProblemDocument},
    profile,
    rows::{SUPPRESSION_COLUMNS, SUPPRESSIONS, Sheet},
    shards::{Place, behind},
};
use async_trait::async_trait;
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    Channel, Timestamp, Topic,
    records::{MemberAction, MemberCommand, Record},
    rows::{Read, Row, Write},
    tables::{AddressRow, SuppressionRow, shard_of},
};
use futures::stream;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};
use utoipa::{IntoParams, ToSchema};

/// Most characters of a reason.
pub const MAX_REASON: usize = 1_000;
/// Most characters of a source.
const MAX_SOURCE: usize = 300;
/// Rows that the export reads at once.
const PAGE: usize = 1_000;
/// Members of one address that are read at once.
const SHARING: usize = 1_000;

/// An address that is not to be used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"channel": "email", "address": "anna@example.org", "reason": "550 5.1.1 user unknown", "source": "provider mail",
    "since": "2026-03-01T12:00:00Z"}))]
pub struct Suppression {
    /// Channel.
    #[schema(value_type = String)]
    pub channel: Channel,
    /// In the channel's normal form.
    pub address: String,
    /// Why; empty where nobody said.
    pub reason: String,
    /// Who said so: `provider NAME`, `operator KEY`, `import KEY`.
    pub source: String,
    /// RFC 3339.
    pub since: String,
}

/// A page of the list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"suppressions": [{"channel": "email", "address": "anna@example.org", "reason": "550 5.1.1 user unknown",
    "source": "provider mail", "since": "2026-03-01T12:00:00Z"}], "next": null}))]
pub struct SuppressionPage {
    /// In no order that means anything.
    pub suppressions: Vec<Suppression>,
    /// Give this as `cursor` to go on; absent at the end. A page may be empty, and still have a next one.
    pub next: Option<String>,
}

/// Which part of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Channel. Optional to the reader alone, so that a key is refused before a query.
    #[param(required = true, example = "email")]
    channel: Option<String>,
    /// At most so many, 1 to 1000.
    #[serde(default = "hundred")]
    limit: usize,
    /// Where the last page ended.
    cursor: Option<String>,
}

const fn hundred() -> usize {
    100
}

/// What is exported, and how it is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExportQuery {
    /// Of this channel alone; absent: of all.
    channel: Option<String>,
    /// `ndjson`, which it is by default, or `csv`.
    format: Option<String>,
}

/// Why an address is not to be used.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"reason": "asked by letter of 1 March"}))]
pub struct SuppressionReason {
    /// In words, 1 to 1000 characters.
    reason: String,
}

/// Lists the suppressed addresses of a channel.
#[utoipa::path(
    get, path = "/v1/suppressions", tag = "suppressions", security(("api_key" = ["suppressions"])), params(ListQuery),
    responses(
        (status = 200, description = "A page", body = SuppressionPage),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<SuppressionPage>, Problem> {
    caller.require(Scope::Suppressions)?;
    let limit = page_size(query.limit)?;
    let missing = || Problem::invalid("channel", "`channel` is missing", "name the channel whose list you want");
    let channel = profile::channel("channel", query.channel.as_deref().ok_or_else(missing)?)?;
    let place = Place::read(query.cursor.as_deref())?;
    let (rows, next) = shared.listed(caller.project(), channel, place, limit).await?;
    let suppressions = rows.into_iter().map(Suppression::of).collect::<Result<_, _>>()?;
    Ok(Json(SuppressionPage { suppressions, next: next.map(|place| place.cursor()) }))
}

/// Shows whether, and why, an address is suppressed.
#[utoipa::path(
    get, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions", security(("api_key" = ["suppressions"])),
    params(
        ("channel" = String, Path, description = "Channel", example = "email"),
        ("address" = String, Path, description = "Address, percent-encoded", example = "anna@example.org"),
    ),
    responses(
        (status = 200, description = "It is suppressed", body = Suppression),
        (status = 404, description = "It is not", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "It is no address of this channel", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn show(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment((channel, address)): Segment<(String, String)>,
) -> Result<Json<Suppression>, Problem> {
    caller.require(Scope::Suppressions)?;
    let (channel, address) = shared.address(&caller, &channel, &address)?;
    let row = shared.suppression(caller.project(), channel, &address).await?;
    let row =
        row.ok_or_else(|| Problem::not_found("the address is not suppressed", "list them by GET /v1/suppressions"));
    Ok(Json(Suppression::of(row?)?))
}

/// Suppresses an address, for whoever has it or will have it.
#[utoipa::path(
    put, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions", security(("api_key" = ["suppressions"])),
    request_body = SuppressionReason,
    params(
        ("channel" = String, Path, description = "Channel", example = "email"),
        ("address" = String, Path, description = "Address, percent-encoded", example = "anna@example.org"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 200, description = "It was suppressed already; now for this reason", body = Suppression),
        (status = 201, description = "Suppressed", body = Suppression),
        (status = 202, description = "Suppressed, but members who have it were not all seen to know within the deadline: send it again to be certain", body = Suppression),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn put(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment((channel, address)): Segment<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Suppressions)?;
    let (channel, address) = shared.address(&caller, &channel, &address)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let given: SuppressionReason = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed("body", format!("the body gives no reason: {error}"), "send `{\"reason\": \"…\"}`")
    })?;
    let reason = words("reason", &given.reason, MAX_REASON)?;
    if reason.is_empty() {
        return Err(FieldError::new("reason", "is empty", "say why, for whoever wonders later").into());
    }
    let known = shared.suppression(caller.project(), channel, &address).await?.is_some();
    let source = format!("operator {}", caller.0.name);
    let row = row(caller.project(), channel, address, reason, source, shared.now());
    let deadline = shared.api.limits.apply_deadline;
    let (in_time, ends) = shared.suppress(std::slice::from_ref(&row), deadline).await?;
    let done = in_time && shared.applied(&ends, deadline).await;
    let status = match (done, known) {
        (false, _) => StatusCode::ACCEPTED,
        (true, true) => StatusCode::OK,
        (true, false) => StatusCode::CREATED,
    };
    Ok((status, Json(Suppression::of(row)?)).into_response())
}

/// Lifts a suppression: members who have the address are sent to again.
#[utoipa::path(
    delete, path = "/v1/suppressions/{channel}/{address}", tag = "suppressions", security(("api_key" = ["suppressions"])),
    params(
        ("channel" = String, Path, description = "Channel", example = "email"),
        ("address" = String, Path, description = "Address, percent-encoded", example = "anna@example.org"),
        ("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h"),
    ),
    responses(
        (status = 204, description = "It is not suppressed any more, or never was"),
        (status = 202, description = "Lifted, but members who have it were not all seen to know within the deadline: send it again to be certain"),
        (status = 422, description = "It is no address of this channel", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn remove(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment((channel, address)): Segment<(String, String)>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::Suppressions)?;
    let (channel, address) = shared.address(&caller, &channel, &address)?;
    // Also where the list does not have it: a request that broke off behind the deletion is sent again, and ends what it began.
    let source = format!("operator {}", caller.0.name);
    let row = row(caller.project(), channel, address, String::new(), source, shared.now());
    let deadline = shared.api.limits.apply_deadline;
    let (in_time, ends) = shared.lift(row, deadline).await?;
    let done = in_time && shared.applied(&ends, deadline).await;
    Ok(if done { StatusCode::NO_CONTENT } else { StatusCode::ACCEPTED })
}

/// Exports the list, as the import reads it.
#[utoipa::path(
    get, path = "/v1/suppressions/export", tag = "suppressions", security(("api_key" = ["suppressions"])), params(ExportQuery),
    responses(
        (status = 200, description = "The list; broken off where the store fails in the midst of it", content(
            (String = "application/x-ndjson"), (String = "text/csv")
        )),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The store does not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn export(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(query): Params<ExportQuery>,
) -> Result<Response, Problem> {
    caller.require(Scope::Suppressions)?;
    let csv = match query.format.as_deref() {
        Some("csv") => true,
        Some("ndjson") | None => false,
        Some(_) => return Err(Problem::invalid("format", "`format` is neither csv nor ndjson", "use one of the two")),
    };
    let channels = match query.channel.as_deref() {
        Some(name) => vec![profile::channel("channel", name)?],
        None => Channel::ALL.to_vec(),
    };
    let mut export = Export { shared, project: caller.project().into(), channels, place: Place::default(), csv };
    // The first page comes before the status, so that a store that is down is told as such.
    let head = if csv { format!("{}\r\n", SUPPRESSION_COLUMNS.join(",")) } else { String::new() };
    let head = head + &export.page().await?.unwrap_or_default();
    let rest = stream::try_unfold(export, |mut export| async move {
        let page = export.page().await.map_err(|problem| std::io::Error::other(format!("{:?}", problem.status())))?;
        Ok::<_, std::io::Error>(page.map(|text| (text, export)))
    });
    let all = futures::StreamExt::chain(stream::iter([Ok(head)]), rest);
    let media_type = if csv { "text/csv; charset=utf-8; header=present" } else { "application/x-ndjson" };
    Ok(([(header::CONTENT_TYPE, media_type)], Body::from_stream(all)).into_response())
}

/// Imports suppressions from CSV or JSON lines of any length, whether or not a member has such addresses yet.
///
/// Columns and fields are those of the export: `channel` and `address`, and where they are known `reason`, `source` and `since`. Importing a
/// file again does no harm. The rows that were refused, beyond the first hundred, are to be had by a key with the scope `members`.
#[utoipa::path(
    post, path = "/v1/suppressions/import", tag = "suppressions", security(("api_key" = ["suppressions"])),
    params(ImportQuery, ("Import-Id" = Option<uuid::Uuid>, Header, description = "Id of the import; by default a new one")),
    request_body(description = "The file", content((String = "text/csv"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "Read to its end", body = ImportReport, headers(("Import-Id" = uuid::Uuid))),
        (status = 400, description = "The upload broke off; `import` says what was accepted", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 409, description = "The import id is taken", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 415, description = "Neither CSV nor JSON lines", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "The header line is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Too many imports, or log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn import(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(query): Params<ImportQuery>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    caller.require(Scope::Suppressions)?;
    let batch = SuppressionBatch {
        region: shared.default_region(caller.project()),
        shared: Arc::clone(&shared),
        caller: caller.clone(),
        rows: Vec::new(),
    };
    imports::run(shared, &caller, query.format(), &headers, body, batch).await
}

/// Rows of an import on their way to the list.
struct SuppressionBatch {
    shared: Arc<Shared>,
    caller: Caller,
    region: Option<String>,
    rows: Vec<SuppressionRow>,
}

#[async_trait]
impl Batch for SuppressionBatch {
    fn sheet(&self) -> &'static Sheet {
        &SUPPRESSIONS
    }

    fn take(&mut self, mut fields: Map<String, Value>, _: String) -> Result<(), FieldError> {
        let mut text = |name: &str| match fields.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(FieldError::new(name, "is not a string", "write it in quotes")),
        };
        let mut needed =
            |name: &str| text(name)?.ok_or_else(|| FieldError::new(name, "is missing", "give channel and address"));
        let channel = profile::channel("channel", &needed("channel")?)?;
        let address = normal(channel, &needed("address")?, self.region.as_deref())?;
        let reason = words("reason", &text("reason")?.unwrap_or_default(), MAX_REASON)?;
        let source = match text("source")? {
            Some(source) => words("source", &source, MAX_SOURCE)?,
            None => format!("import {}", self.caller.0.name),
        };
        let since = match text("since")? {
            Some(text) => Timestamp::parse(&text).map_err(|_| {
                FieldError::new("since", "is no RFC 3339 time", "write it like `2026-03-01T12:00:00Z`, or leave it out")
            })?,
            None => self.shared.now(),
        };
        if let Some(name) = fields.keys().next() {
            let remedy = format!("send {}", SUPPRESSION_COLUMNS.join(", "));
            return Err(FieldError::new(name.chars().take(100).collect::<String>(), "is not a field here", remedy));
        }
        self.rows.push(row(self.caller.project(), channel, address, reason, source, since));
        Ok(())
    }

    async fn flush(&mut self) -> Result<Ends, Problem> {
        let rows = std::mem::take(&mut self.rows);
        match self.shared.suppress(&rows, self.shared.api.limits.import_apply_deadline).await? {
            (true, ends) => Ok(ends),
            (false, _) => {
                Err(Problem::unavailable("commands to members are not applied: is the role `route` running?"))
            }
        }
    }
}

/// The address that a request names, in its channel's normal form.
pub(super) fn normal(channel: Channel, address: &str, region: Option<&str>) -> Result<String, FieldError> {
    profile::address(channel, address, region).map_err(|error| FieldError { field: "address".into(), ..error })
}

/// Words that are kept as they are.
pub(super) fn words(field: &str, text: &str, most: usize) -> Result<String, FieldError> {
    if text.chars().count() > most || text.chars().any(char::is_control) {
        let remedy = format!("use at most {most} characters of printable text");
        return Err(FieldError::new(field, "is too long, or has a control character", remedy));
    }
    Ok(text.trim().to_owned())
}

fn row(
    project: &str,
    channel: Channel,
    address: String,
    reason: String,
    source: String,
    since: Timestamp,
) -> SuppressionRow {
    let shard = shard_of(&address);
    SuppressionRow { project: project.into(), channel: channel.name().into(), shard, address, reason, source, since }
}

impl Suppression {
    pub(super) fn of(row: SuppressionRow) -> Result<Self, FieldError> {
        let SuppressionRow { address, reason, source, since, .. } = row;
        Ok(Self {
            channel: profile::channel("channel", &row.channel)?,
            address,
            reason,
            source,
            since: since.to_string(),
        })
    }

    /// As a line of CSV (RFC 4180), every field in quotes.
    fn csv(&self) -> String {
        let fields = [self.channel.name(), &self.address, &self.reason, &self.source, &self.since];
        fields.map(|field| format!("\"{}\"", field.replace('"', "\"\""))).join(",") + "\r\n"
    }
}

/// An export in work.
struct Export {
    shared: Arc<Shared>,
    project: String,
    /// Still to be exported, the present one first.
    channels: Vec<Channel>,
    place: Place,
    csv: bool,
}

impl Export {
    /// The next lines; `None` at the end.
    async fn page(&mut self) -> Result<Option<String>, Problem> {
        let Some(channel) = self.channels.first().copied() else { return Ok(None) };
        let (rows, next) = self.shared.listed(&self.project, channel, self.place.clone(), PAGE).await?;
        self.place = next.unwrap_or_else(|| {
            self.channels.remove(0);
            Place::default()
        });
        let mut text = String::new();
        for row in rows {
            let one = Suppression::of(row)?;
            if self.csv {
                text.push_str(&one.csv());
            } else {
                text.push_str(&serde_json::to_string(&one).map_err(|_| Problem::internal())?);
                text.push('\n');
            }
        }
        Ok(Some(text))
    }
}

impl Shared {
    /// Channel and address of a path, in normal form.
    fn address(&self, caller: &Caller, name: &str, text: &str) -> Result<(Channel, String), FieldError> {
        let channel = profile::channel("channel", name)?;
        let region = self.default_region(caller.project());
        Ok((channel, normal(channel, text, region.as_deref())?))
    }

    async fn suppression(
        &self,
        project: &str,
        channel: Channel,
        address: &str,
    ) -> Result<Option<SuppressionRow>, Problem> {
        let rows = self.api.store.read(&[SuppressionRow::of(project, channel, address)]).await?;
        Ok(rows.into_iter().flatten().next().map(SuppressionRow::from_cells).transpose()?)
    }

    /// The next rows of a channel, and where the page after them begins.
    async fn listed(
        &self,
        project: &str,
        channel: Channel,
        place: Place,
        limit: usize,
    ) -> Result<(Vec<SuppressionRow>, Option<Place>), Problem> {
        let shard = |shard| SuppressionRow::read_all(project, channel.name(), shard);
        self.page(place, limit, shard, |row: &SuppressionRow| &row.address).await
    }

    /// Puts rows on the list and commands on the log by which members who have such an address take it over. Tells whether the deadline was kept,
    /// and up to where those commands must be applied.
    ///
    /// An address may be added to a member at the same moment. The row is written first, so a command that is appended after it finds it. A
    /// command that was appended before may have been decided without it: hence we wait until the group has passed the ends of `members` as they
    /// were once the row was there. What it added is then in the index, where we look for whom to command. So one of the two sees the other.
    async fn suppress(&self, rows: &[SuppressionRow], deadline: Duration) -> Result<(bool, Ends), Problem> {
        self.api.store.write(rows.iter().cloned().map(Row::put).collect()).await?;
        self.follow(rows, MemberAction::Suppress, deadline).await
    }

    /// Takes a row off the list; otherwise as [`Shared::suppress`], for the same reason: a command that was decided by the row before it went may
    /// have made one more copy of it.
    async fn lift(&self, row: SuppressionRow, deadline: Duration) -> Result<(bool, Ends), Problem> {
        let SuppressionRow { project, channel, shard, address, .. } = row.clone();
        let key = SuppressionRow::key(project, channel, shard, address);
        self.api.store.write(vec![Write::Delete { table: SuppressionRow::TABLE, key, fence: None }]).await?;
        self.follow(&[row], MemberAction::Restore, deadline).await
    }

    /// Waits until all that may have been decided by the list as it was can be seen, then has the members follow it.
    async fn follow(
        &self,
        rows: &[SuppressionRow],
        action: MemberAction,
        deadline: Duration,
    ) -> Result<(bool, Ends), Problem> {
        let bounds = self.api.log.bounds(Topic::Members).await?;
        // Where nothing is kept there is nothing to wait for, and perhaps nothing was ever committed.
        let present = bounds.into_iter().filter(|b| b.start < b.end).map(|b| (b.at.partition, b.end)).collect();
        let in_time = self.applied(&present, deadline).await;
        let mut appends = Vec::new();
        for (row, member) in self.sharing(rows).await? {
            let command = Record::Member(MemberCommand {
                channel: Some(profile::channel("channel", &row.channel)?),
                address: Some(row.address.clone()),
                reason: (!row.reason.is_empty()).then(|| row.reason.clone()),
                ..MemberCommand::new(row.project.clone(), member, action, row.source.clone(), self.now())
            });
            appends.push(Append::of(&command)?);
        }
        Ok((in_time, self.say(appends).await?))
    }

    /// The members who have these addresses. The index may know too much; a command to somebody without the address changes nothing.
    async fn sharing<'a>(&self, rows: &'a [SuppressionRow]) -> Result<Vec<(&'a SuppressionRow, String)>, Problem> {
        let first = |row: &'a SuppressionRow| {
            let all = AddressRow::read_all(row.project.as_str(), row.channel.as_str(), row.address.as_str());
            (row, Read { limit: Some(SHARING), ..all })
        };
        let (mut open, mut found) = (rows.iter().map(first).collect::<Vec<_>>(), Vec::new());
        while !open.is_empty() {
            let reads: Vec<Read> = open.iter().map(|(_, read)| read.clone()).collect();
            let mut more = Vec::new();
            for ((row, read), page) in open.into_iter().zip(self.api.store.read(&reads).await?) {
                let is_full = page.len() >= SHARING;
                for cells in page {
                    found.push((row, AddressRow::from_cells(cells)?.member));
                }
                if let Some((_, last)) = found.last().filter(|_| is_full) {
                    more.push((row, Read { span: behind(last), ..read }));
                }
            }
            open = more;
        }
        Ok(found)
    }
}
