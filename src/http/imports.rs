//! `POST /v1/members/import`: members in bulk, streamed at constant memory. Each row is checked like a `PUT`; bad ones are reported and
//! kept to be looked up, good ones become commands on the log. The import goes on to its end even if the caller does not wait for it.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment},
    members::{append, upsert_command},
    problem::{FieldError, Problem, ProblemDocument},
    profile,
    rows::{Format, Row as ImportedRow, Rows},
};
use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    Topic,
    records::MemberCommand,
    rows::{Cells, Read, Row, Span, Write},
    tables::{ImportRejectRow, ImportRow},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Rows of one append.
const BATCH_ROWS: usize = 500;
/// Payload bytes of one append.
const BATCH_BYTES: usize = 1 << 20;
/// Rejected rows that the answer itself shows.
const SHOWN_REJECTS: usize = 100;
/// Rejected rows that are kept to be looked up; all are counted.
const KEPT_REJECTS: i64 = 100_000;
/// How long an import and its rejected rows can be looked up. They hold personal data, so they go by themselves.
const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);
/// First and longest pause between two looks at the appliers' progress.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Header with the id of an import, in the request and in the answer.
pub const IMPORT_ID: HeaderName = HeaderName::from_static("import-id");

/// What became of an import.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportReport {
    /// Id of the import.
    pub import: Uuid,
    /// Rows that were read.
    pub read: i64,
    /// Rows that are on the log.
    pub accepted: i64,
    /// Rows that were refused.
    pub rejected: i64,
    /// The first hundred of those; all others by `GET /v1/imports/{id}/rejects`.
    pub first_rejects: Vec<Reject>,
    /// Whether every accepted row has been applied.
    pub all_applied: bool,
}

/// A row that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"line": 17, "field": "email", "detail": "is not an e-mail address: …", "raw": "x17,nobody,…"}))]
pub struct Reject {
    /// Line in the file, from 1.
    pub line: i64,
    /// Field at fault.
    pub field: String,
    /// What is wrong and how to mend it.
    pub detail: String,
    /// The row as it came, at most 4 KiB of it.
    pub raw: String,
}

/// How far an import has come.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ImportProgress {
    /// Id of the import.
    pub import: Uuid,
    /// RFC 3339.
    pub started_at: String,
    /// RFC 3339; absent while it is in work, and for ever if it broke off.
    pub finished_at: Option<String>,
    /// Rows that were read.
    pub read: i64,
    /// Rows that are on the log.
    pub accepted: i64,
    /// Rows that were refused.
    pub rejected: i64,
}

/// A page of rejected rows.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct RejectPage {
    /// In the order of the file.
    pub rejects: Vec<Reject>,
    /// Give this as `after` to go on; absent at the end.
    pub next: Option<i64>,
}

/// How an import is written.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// `csv` or `ndjson`; absent: by the content type (`text/csv`, `application/x-ndjson`).
    format: Option<String>,
}

/// Which rejected rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RejectsQuery {
    /// Rows behind this line.
    #[serde(default)]
    after: i64,
    /// At most so many, 1 to 1000.
    #[serde(default = "hundred")]
    limit: usize,
}

const fn hundred() -> usize {
    100
}

/// Imports members from CSV or JSON lines of any length.
///
/// CSV columns: `id`, `email`, `phone`, `locale`, `time_zone`, `channels` (separated by spaces), `opt_ins.CHANNEL`, `attributes.NAME`, and
/// `attributes` (a JSON object); an empty cell changes nothing. JSON lines: the fields of `PUT /v1/members/{id}` and `id`. Importing a
/// file again does no harm. Send the id of your choice in `Import-Id` to look at the progress meanwhile.
#[utoipa::path(
    post, path = "/v1/members/import", tag = "members", security(("api_key" = ["members"])),
    params(ImportQuery, ("Import-Id" = Option<Uuid>, Header, description = "Id of the import; by default a new one")),
    request_body(description = "The file", content((String = "text/csv"), (String = "application/x-ndjson"))),
    responses(
        (status = 200, description = "Read to its end", body = ImportReport, headers(("Import-Id" = Uuid))),
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
    caller.require(Scope::Members)?;
    let format = format(query.format.as_deref(), &headers)?;
    let id = import_id(&headers)?;
    let permit = Arc::clone(&shared.imports).try_acquire_owned();
    let permit = permit.map_err(|_| Problem::unavailable("as many imports as may be are in work").retry_after(10))?;
    let row = ImportRow {
        project: caller.project().into(),
        import: id,
        started_at: shared.now(),
        finished_at: None,
        read: 0,
        accepted: 0,
        rejected: 0,
    };
    let claim = Cells { ttl: Some(KEPT_FOR), ..row.clone().into_cells() };
    if shared.api.store.insert_if_absent(claim).await?.is_some() {
        let detail = format!("the import id {id} is taken");
        return Err(Problem::conflict(detail, "send another UUID in Import-Id, or none").at("Import-Id"));
    }
    let import = Import {
        region: shared.default_region(caller.project()),
        rows: Rows::new(format),
        shared,
        caller,
        row,
        shown: Vec::new(),
        appends: Vec::new(),
        append_bytes: 0,
        rejects: Vec::new(),
        ends: BTreeMap::new(),
    };
    // A task of its own: a caller that goes away does not leave a batch half done, nor the progress untold.
    let report = tokio::spawn(async move {
        let _one_of_few = permit;
        import.run(body.into_data_stream()).await
    });
    let report = report.await.map_err(|_| Problem::internal())??;
    let id = HeaderValue::from_str(&id.to_string()).map_err(|_| Problem::internal())?;
    Ok(([(IMPORT_ID, id)], Json(report)).into_response())
}

fn format(named: Option<&str>, headers: &HeaderMap) -> Result<Format, Problem> {
    let given = headers.get(header::CONTENT_TYPE).map_or("", |value| value.to_str().unwrap_or("?"));
    let essence = given.split(';').next().unwrap_or_default().trim();
    match (named, essence) {
        (Some("csv"), _) | (None, "text/csv") => Ok(Format::Csv),
        (Some("ndjson"), _) | (None, "application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            Ok(Format::Ndjson)
        }
        (Some(_), _) => Err(Problem::invalid("format", "`format` is neither csv nor ndjson", "use one of the two")),
        (None, _) => Err(Problem::media_type(given, "`text/csv` or `application/x-ndjson`, or name it by `?format=`")),
    }
}

fn import_id(headers: &HeaderMap) -> Result<Uuid, Problem> {
    let Some(value) = headers.get(IMPORT_ID) else {
        return Ok(Uuid::now_v7());
    };
    let id = value.to_str().ok().and_then(|text| text.parse().ok());
    id.ok_or_else(|| Problem::invalid("Import-Id", "the header is not a UUID", "send a UUID, or leave the header out"))
}

/// An import in work.
struct Import {
    shared: Arc<Shared>,
    caller: Caller,
    region: Option<String>,
    rows: Rows,
    row: ImportRow,
    shown: Vec<Reject>,
    appends: Vec<Append>,
    append_bytes: usize,
    rejects: Vec<Write>,
    /// The last offset that this import wrote, by partition.
    ends: BTreeMap<u32, u64>,
}

impl Import {
    async fn run(mut self, mut body: BodyDataStream) -> Result<ImportReport, Problem> {
        let idle = self.shared.api.limits.import_idle;
        let broken = loop {
            match tokio::time::timeout(idle, body.next()).await {
                Ok(Some(Ok(chunk))) => self.rows.push(&chunk),
                Ok(None) => {
                    self.rows.end();
                    break None;
                }
                Ok(Some(Err(_))) => break Some("the upload broke off"),
                Err(_) => break Some("no more of the upload came in time"),
            }
            self.take_rows().await.map_err(|problem| self.tell(problem))?;
        };
        self.take_rows().await.map_err(|problem| self.tell(problem))?;
        if broken.is_none() {
            self.row.finished_at = Some(self.shared.now());
        }
        self.flush().await.map_err(|problem| self.tell(problem))?;
        if let Some(detail) = broken {
            let remedy = "send the whole file again: rows that are there already do no harm";
            return Err(self.tell(Problem::malformed("body", detail, remedy)));
        }
        let all_applied = self.applied().await;
        Ok(self.report(all_applied))
    }

    fn report(&self, all_applied: bool) -> ImportReport {
        let ImportRow { import, read, accepted, rejected, .. } = self.row;
        ImportReport { import, read, accepted, rejected, first_rejects: self.shown.clone(), all_applied }
    }

    /// Adds to a refusal what was done before it.
    fn tell(&self, problem: Problem) -> Problem {
        problem.with("import", self.report(false))
    }

    async fn take_rows(&mut self) -> Result<(), Problem> {
        while let Some(row) = self.rows.next_row()? {
            self.row.read += 1;
            match self.command(&row) {
                Ok(command) => {
                    let append = append(&command)?;
                    self.append_bytes += append.payload.len();
                    self.appends.push(append);
                }
                Err(error) => self.reject(row, error),
            }
            let full = self.appends.len() >= BATCH_ROWS || self.append_bytes >= BATCH_BYTES;
            if full || self.rejects.len() >= BATCH_ROWS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn command(&self, row: &ImportedRow) -> Result<MemberCommand, FieldError> {
        let candidate = row.read.clone()?;
        profile::member_id(&candidate.id)?;
        let patch = profile::patch(candidate.fields, self.region.as_deref())?;
        upsert_command(&self.caller, candidate.id, &patch, self.shared.now())
    }

    fn reject(&mut self, row: ImportedRow, error: FieldError) {
        self.row.rejected += 1;
        let detail = format!("{}: {}", error.detail, error.remedy);
        let reject = Reject { line: row.line, field: error.field, detail, raw: row.raw };
        if self.row.rejected <= KEPT_REJECTS {
            let Reject { line, field, detail, raw } = reject.clone();
            let (project, import) = (self.row.project.clone(), self.row.import);
            self.rejects.push(ImportRejectRow { project, import, line, field, detail, raw }.put_for(KEPT_FOR));
        }
        if self.shown.len() < SHOWN_REJECTS {
            self.shown.push(reject);
        }
    }

    /// Appends what is waiting, and tells the progress. Until it returns no more of the upload is read.
    async fn flush(&mut self) -> Result<(), Problem> {
        let appends = std::mem::take(&mut self.appends);
        self.append_bytes = 0;
        if !appends.is_empty() {
            let positions = self.shared.api.log.append(appends).await?;
            self.row.accepted += i64::try_from(positions.len()).unwrap_or(i64::MAX);
            for position in positions {
                let end = self.ends.entry(position.partition).or_default();
                *end = position.offset.max(*end);
            }
        }
        let mut writes = std::mem::take(&mut self.rejects);
        writes.push(self.row.clone().put_for(KEPT_FOR));
        self.shared.api.store.write(writes).await?;
        Ok(())
    }

    /// Waits until the group that applies commands has committed past all of ours: it commits once their rows are durable.
    /// The appliers may be other processes, so this asks, at growing intervals, until its deadline.
    async fn applied(&self) -> bool {
        let deadline = Instant::now() + self.shared.api.limits.import_apply_deadline;
        let mut pause = POLL.0;
        loop {
            match self.shared.api.log.progress(&self.shared.api.members_group, Topic::Members).await {
                Ok(commits) => {
                    let past = |(partition, end): (&u32, &u64)| {
                        commits.iter().any(|c| c.at.partition == *partition && c.committed.offset > *end)
                    };
                    if self.ends.iter().all(past) {
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
}

/// How far an import has come.
#[utoipa::path(
    get, path = "/v1/imports/{id}", tag = "members", security(("api_key" = ["members"])),
    params(("id" = Uuid, Path, description = "Id of the import")),
    responses(
        (status = 200, description = "Progress", body = ImportProgress),
        (status = 404, description = "No such import", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn progress(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<Uuid>,
) -> Result<Json<ImportProgress>, Problem> {
    caller.require(Scope::Members)?;
    let row = shared.import(caller.project(), id).await?;
    Ok(Json(ImportProgress {
        import: id,
        started_at: row.started_at.to_string(),
        finished_at: row.finished_at.map(|at| at.to_string()),
        read: row.read,
        accepted: row.accepted,
        rejected: row.rejected,
    }))
}

/// The rows of an import that were refused.
#[utoipa::path(
    get, path = "/v1/imports/{id}/rejects", tag = "members", security(("api_key" = ["members"])),
    params(("id" = Uuid, Path, description = "Id of the import"), RejectsQuery),
    responses(
        (status = 200, description = "A page", body = RejectPage),
        (status = 404, description = "No such import", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn rejects(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<Uuid>,
    Params(query): Params<RejectsQuery>,
) -> Result<Json<RejectPage>, Problem> {
    caller.require(Scope::Members)?;
    if !(1..=1_000).contains(&query.limit) {
        return Err(Problem::invalid("limit", "`limit` is not within 1 to 1000", "ask for several pages"));
    }
    shared.import(caller.project(), id).await?;
    let span = Span::Between(vec![query.after.saturating_add(1).into()], vec![i64::MAX.into()]);
    let read = Read { span, limit: Some(query.limit), ..ImportRejectRow::read_all(caller.project(), id) };
    let cells = shared.api.store.read(&[read]).await?.into_iter().flatten();
    let rejects = cells
        .map(|cells| {
            let ImportRejectRow { line, field, detail, raw, .. } = ImportRejectRow::from_cells(cells)?;
            Ok(Reject { line, field, detail, raw })
        })
        .collect::<Result<Vec<_>, Problem>>()?;
    let next = rejects.last().filter(|_| rejects.len() == query.limit).map(|reject| reject.line);
    Ok(Json(RejectPage { rejects, next }))
}

impl Shared {
    async fn import(&self, project: &str, id: Uuid) -> Result<ImportRow, Problem> {
        let rows = self.api.store.read(&[ImportRow::read_one(project, id)]).await?;
        let cells = rows.into_iter().flatten().next();
        let cells =
            cells.ok_or_else(|| Problem::not_found("the project has no such import", "imports are kept for 30 days"));
        Ok(ImportRow::from_cells(cells?)?)
    }
}
