//! `POST /v1/members/import`: members in bulk, streamed at constant memory. Each row is checked like a `PUT`; bad ones are reported and
//! kept to be looked up, good ones become commands on the log. The import goes on to its end even if the caller does not wait for it.
//! What is not about members in it serves every import: see `Batch`.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment, page_size},
    members::{Ends, upsert_command},
    problem::{FieldError, Problem, ProblemDocument},
    profile,
    rows::{self, Format, MEMBERS, Row as ImportedRow, Rows, Sheet},
};
use async_trait::async_trait;
use axum::{
    Json,
    body::{Body, BodyDataStream},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    records::{MemberCommand, Record},
    rows::{Cells, Read, Row, Span, Write},
    tables::{ImportRejectRow, ImportRow},
};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Rows that go out together.
const BATCH_ROWS: usize = 500;
/// Payload bytes of one append.
const BATCH_BYTES: usize = 1 << 20;
/// Rejected rows that the answer itself shows.
const SHOWN_REJECTS: usize = 100;
/// Rejected rows that are kept to be looked up; all are counted.
const KEPT_REJECTS: i64 = 100_000;
/// How long an import and its rejected rows can be looked up. They hold personal data, so they go by themselves.
const KEPT_FOR: Duration = Duration::from_secs(30 * 86_400);
/// Header with the id of an import, in the request and in the answer.
pub const IMPORT_ID: HeaderName = HeaderName::from_static("import-id");

/// What became of an import.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"import": "01956f0e-7a4c-7c3b-9d55-5b1f0c6f2a10", "read": 18, "accepted": 17, "rejected": 1, "all_applied": true,
    "first_rejects": [{"line": 17, "field": "email", "detail": "is not an e-mail address: …", "raw": "x17,nobody,…"}]}))]
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
#[schema(example = json!({"import": "01956f0e-7a4c-7c3b-9d55-5b1f0c6f2a10", "started_at": "2026-03-01T12:00:00Z", "finished_at": null,
    "read": 18, "accepted": 17, "rejected": 1}))]
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
#[schema(example = json!({"rejects": [{"line": 17, "field": "email", "detail": "is not an e-mail address: …", "raw": "x17,nobody,…"}], "next": null}))]
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

impl ImportQuery {
    pub(super) fn format(&self) -> Option<&str> {
        self.format.as_deref()
    }
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
/// CSV columns: `id`, `email`, `phone`, `locale`, `time_zone`, `quiet_hours.from`, `quiet_hours.to`, `channels` (separated by spaces), `opt_ins.CHANNEL`, `attributes.NAME`, `proof`, and
/// `attributes` (a JSON object). `quiet_hours` need both ends; an empty cell changes nothing. JSON lines: the fields of `PUT /v1/members/{id}` and `id`. Importing a
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
    let members = MemberBatch {
        region: shared.default_region(caller.project()),
        shared: Arc::clone(&shared),
        caller: caller.clone(),
        appends: Vec::new(),
        bytes: 0,
    };
    run(shared, &caller, query.format(), &headers, body, members).await
}

/// Reads an upload to its end, whatever its rows are about.
pub(super) async fn run(
    shared: Arc<Shared>,
    caller: &Caller,
    named: Option<&str>,
    headers: &HeaderMap,
    body: Body,
    batch: impl Batch,
) -> Result<Response, Problem> {
    let format = format(named, headers)?;
    let id = import_id(headers)?;
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
        rows: Rows::new(format, batch.sheet()),
        batch,
        shared,
        row,
        shown: Vec::new(),
        waiting: 0,
        rejects: Vec::new(),
        ends: Ends::new(),
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

/// What is done with the good rows of an import.
#[async_trait]
pub(super) trait Batch: Send + 'static {
    /// The columns of its rows.
    fn sheet(&self) -> &'static Sheet;
    /// Checks a row and keeps it for [`Batch::flush`]; `place` says where it stands.
    fn take(&mut self, fields: Map<String, Value>, place: String) -> Result<(), FieldError>;
    /// Whether no more should be kept, however few rows they are.
    fn is_full(&self) -> bool {
        false
    }
    /// Makes what was taken durable, and tells up to where members' commands must be applied for it.
    async fn flush(&mut self) -> Result<Ends, Problem>;
}

/// Members as commands on the log.
struct MemberBatch {
    shared: Arc<Shared>,
    caller: Caller,
    region: Option<String>,
    appends: Vec<Append>,
    bytes: usize,
}

#[async_trait]
impl Batch for MemberBatch {
    fn sheet(&self) -> &'static Sheet {
        &MEMBERS
    }

    fn take(&mut self, fields: Map<String, Value>, place: String) -> Result<(), FieldError> {
        let (id, mut fields) = rows::member(fields)?;
        profile::member_id(&id)?;
        let proof = profile::proof(&mut fields)?.unwrap_or(place);
        let patch = profile::patch(fields, self.region.as_deref())?;
        self.shared.all_declared(self.caller.project(), &patch)?;
        let command = MemberCommand {
            actor: format!("import {}", self.caller.0.name),
            proof: Some(proof),
            ..upsert_command(&self.caller, id, &patch, self.shared.now())?
        };
        let append = Append::of(&Record::Member(command))
            .map_err(|error| FieldError::new("row", format!("cannot be written: {error}"), "send plain values"))?;
        self.bytes += append.payload.len();
        self.appends.push(append);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.bytes >= BATCH_BYTES
    }

    async fn flush(&mut self) -> Result<Ends, Problem> {
        self.bytes = 0;
        self.shared.say(std::mem::take(&mut self.appends)).await
    }
}

/// An import in work.
struct Import<B> {
    shared: Arc<Shared>,
    rows: Rows,
    batch: B,
    row: ImportRow,
    shown: Vec<Reject>,
    /// Good rows that are not yet durable.
    waiting: usize,
    rejects: Vec<Write>,
    /// Up to where members' commands must be applied, by partition.
    ends: Ends,
}

impl<B: Batch> Import<B> {
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
        let deadline = self.shared.api.limits.import_apply_deadline;
        let all_applied = self.shared.applied(&self.ends, deadline).await;
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
            let ImportedRow { line, raw, read } = row;
            let place = format!("import {}, line {line}", self.row.import);
            match read.and_then(|fields| self.batch.take(fields, place)) {
                Ok(()) => self.waiting += 1,
                Err(error) => self.reject(line, raw, error),
            }
            if self.batch.is_full() || self.waiting.max(self.rejects.len()) >= BATCH_ROWS {
                self.flush().await?;
            }
        }
        Ok(())
    }

    fn reject(&mut self, line: i64, raw: String, error: FieldError) {
        self.row.rejected += 1;
        let detail = format!("{}: {}", error.detail, error.remedy);
        let reject = Reject { line, field: error.field, detail, raw };
        if self.row.rejected <= KEPT_REJECTS {
            let Reject { line, field, detail, raw } = reject.clone();
            let (project, import) = (self.row.project.clone(), self.row.import);
            self.rejects.push(ImportRejectRow { project, import, line, field, detail, raw }.put_for(KEPT_FOR));
        }
        if self.shown.len() < SHOWN_REJECTS {
            self.shown.push(reject);
        }
    }

    /// Makes what is waiting durable, and tells the progress. Until it returns no more of the upload is read.
    async fn flush(&mut self) -> Result<(), Problem> {
        if self.waiting > 0 {
            for (partition, end) in self.batch.flush().await? {
                let known = self.ends.entry(partition).or_default();
                *known = end.max(*known);
            }
            self.row.accepted += i64::try_from(std::mem::take(&mut self.waiting)).unwrap_or(i64::MAX);
        }
        let mut writes = std::mem::take(&mut self.rejects);
        writes.push(self.row.clone().put_for(KEPT_FOR));
        self.shared.api.store.write(writes).await?;
        Ok(())
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
    let limit = page_size(query.limit)?;
    shared.import(caller.project(), id).await?;
    let span = Span::Between(vec![query.after.saturating_add(1).into()], vec![i64::MAX.into()]);
    let read = Read { span, limit: Some(limit), ..ImportRejectRow::read_all(caller.project(), id) };
    let cells = shared.api.store.read(&[read]).await?.into_iter().flatten();
    let rejects = cells
        .map(|cells| {
            let ImportRejectRow { line, field, detail, raw, .. } = ImportRejectRow::from_cells(cells)?;
            Ok(Reject { line, field, detail, raw })
        })
        .collect::<Result<Vec<_>, Problem>>()?;
    let next = rejects.last().filter(|_| rejects.len() == limit).map(|reject| reject.line);
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
