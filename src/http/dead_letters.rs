//! `/v1/dead-letters`: what could not be read or decided, listed, shown whole, and replayed to where it came from (law 1).
//! A key sees its own project's; with the scope `operator` also those that no project could be read from.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment, page_size},
    problem::{Problem, ProblemDocument},
    stats::days,
};
use crate::runtime::deliver::REPLAY_HEADER;
use axum::{Json, body::Body, extract::State, http::HeaderMap};
use base64::{Engine, engine::general_purpose::STANDARD};
use bellwether_connectors::log::Append;
use bellwether_schemas::{
    Topic,
    codec::decode,
    records::{DeadLetter, Header, Reason},
    rows::{Read, Row, Span},
    tables::DeadLetterRow,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Most days of one request: as long as the topic keeps them, and a bit.
const MAX_DAYS: usize = 92;
/// Days that are looked at when none are named.
const DEFAULT_DAYS: i64 = 7;
/// Rows that are read at once; each holds a whole record.
const PAGE: usize = 200;
/// Rows that one request looks at when a reason filters them.
const MAX_SCANNED: usize = 20_000;
/// Most dead letters of one replay.
const MAX_REPLAY: usize = 1_000;

/// Name of one dead letter: `DAY.ID`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct LetterId {
    day: String,
    id: Uuid,
}

impl fmt::Display for LetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.day, self.id)
    }
}

impl FromStr for LetterId {
    type Err = Problem;
    fn from_str(text: &str) -> Result<Self, Problem> {
        let bad = || Problem::invalid("id", "the id is not of the form `DAY.UUID`", "copy it from the list");
        let (day, id) = text.split_once('.').ok_or_else(bad)?;
        let day = days(Some(day), Some(day), day, 1).map_err(|_| bad())?.pop().ok_or_else(bad)?;
        Ok(Self { day, id: id.parse().map_err(|_| bad())? })
    }
}

/// Which dead letters.
#[derive(Clone, Debug, Default, Deserialize, IntoParams, ToSchema)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LetterFilter {
    /// First UTC day, `YYYY-MM-DD`; absent: a week ago.
    from: Option<String>,
    /// Last UTC day, inclusive; absent: today.
    to: Option<String>,
    /// Of this reason alone.
    #[schema(value_type = Option<String>, example = "invalid")]
    #[param(value_type = Option<String>)]
    reason: Option<Reason>,
    /// At most so many, 1 to 1000.
    limit: Option<usize>,
    /// Those behind this id in the order of the list.
    after: Option<String>,
}

/// A page of dead letters.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"dead_letters": [{"id": "2026-03-01.6f2f3ad9-50c1-5b62-8ee5-3b8f10fa4a07", "at": "2026-03-01T12:00:00Z",
    "reason": "invalid", "detail": "subject: is missing; send the client_user_id"}], "next": null}))]
pub struct LetterPage {
    /// The latest day first; within a day by id.
    pub dead_letters: Vec<LetterSummary>,
    /// Give this as `after` to go on; absent at the end. A page may be short, or empty, and still have a next one.
    pub next: Option<String>,
}

/// A dead letter in a list.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LetterSummary {
    /// `DAY.UUID`
    #[schema(example = "2026-03-01.6f2f3ad9-50c1-5b62-8ee5-3b8f10fa4a07")]
    pub id: String,
    /// RFC 3339.
    pub at: String,
    /// Closed reason.
    #[schema(example = "invalid")]
    pub reason: String,
    /// What is wrong and how to mend it.
    pub detail: String,
    /// When it was last replayed, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed_at: Option<String>,
}

/// A dead letter, whole.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"id": "2026-03-01.6f2f3ad9-50c1-5b62-8ee5-3b8f10fa4a07", "at": "2026-03-01T12:00:00Z",
    "reason": "invalid", "detail": "subject: is missing; send the client_user_id",
    "project": "shop", "processor": "flow", "topic": "events", "partition": 3, "offset": 1017, "key": "shop/anna", "payload": "{}", "payload_base64": "e30="}))]
pub struct Letter {
    /// What the list says.
    #[serde(flatten)]
    pub summary: LetterSummary,
    /// Project; empty where none could be read.
    pub project: String,
    /// Processor that gave it up.
    pub processor: String,
    /// Topic it came by.
    pub topic: String,
    /// Partition it came by.
    pub partition: i32,
    /// Offset it came by.
    pub offset: i64,
    /// Key as text, where it is text.
    pub key: Option<String>,
    /// Payload as text, where it is text.
    pub payload: Option<String>,
    /// Payload in Base64.
    pub payload_base64: String,
}

/// What to replay: ids, or a filter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"filter": {"reason": "evaluation", "from": "2026-03-01"}}))]
pub struct ReplayRequest {
    /// These, even if they were replayed before; at most 1000.
    #[serde(default)]
    ids: Vec<String>,
    /// All these, but for those that were replayed before; by default at most 1000.
    filter: Option<LetterFilter>,
}

/// What was replayed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"replayed": 3, "skipped": 1}))]
pub struct Replayed {
    /// How many are on their topics again.
    pub replayed: usize,
    /// How many were passed over: replayed before, or unknown here.
    pub skipped: usize,
    /// Ids that name no dead letter of the project.
    pub unknown: Vec<String>,
    /// With a filter: give this as its `after` to go on; absent at the end.
    pub next: Option<String>,
}

/// Lists dead letters.
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "dead letters", security(("api_key" = ["dead_letters"])), params(LetterFilter),
    responses(
        (status = 200, description = "A page", body = LetterPage),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(filter): Params<LetterFilter>,
) -> Result<Json<LetterPage>, Problem> {
    caller.require(Scope::DeadLetters)?;
    let (rows, next) = shared.letters(&caller, &filter, 100).await?;
    Ok(Json(LetterPage { dead_letters: rows.iter().map(summary).collect(), next }))
}

/// Shows one dead letter whole.
#[utoipa::path(
    get, path = "/v1/dead-letters/{id}", tag = "dead letters", security(("api_key" = ["dead_letters"])),
    params(("id" = String, Path, description = "`DAY.UUID`, from the list")),
    responses(
        (status = 200, description = "The dead letter", body = Letter),
        (status = 404, description = "No such dead letter", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn show(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<String>,
) -> Result<Json<Letter>, Problem> {
    caller.require(Scope::DeadLetters)?;
    let row = shared.letter(&caller, &id.parse()?).await?.ok_or_else(|| {
        Problem::not_found(format!("the project has no dead letter {id}"), "copy the id from the list").at("id")
    })?;
    let letter: DeadLetter = decode(&row.record)?;
    Ok(Json(Letter {
        summary: summary(&row),
        project: letter.project,
        processor: letter.processor,
        topic: letter.topic,
        partition: letter.partition,
        offset: letter.offset,
        key: String::from_utf8(letter.key).ok(),
        payload_base64: STANDARD.encode(&letter.payload),
        payload: String::from_utf8(letter.payload).ok(),
    }))
}

/// Sends dead letters to their topics again, as they were.
#[utoipa::path(
    post, path = "/v1/dead-letters/replay", tag = "dead letters", security(("api_key" = ["dead_letters"])),
    request_body = ReplayRequest,
    params(("Idempotency-Key" = Option<String>, Header, description = "The same key and request again give the same answer for 24 h")),
    responses(
        (status = 200, description = "Replayed", body = Replayed),
        (status = 400, description = "Not readable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 422, description = "A field is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn replay(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Replayed>, Problem> {
    caller.require(Scope::DeadLetters)?;
    let body = shared.read(&headers, body, shared.api.limits.body_bytes).await?;
    let request: ReplayRequest = serde_json::from_slice(&body).map_err(|error| {
        Problem::malformed("body", format!("the body is not a replay request: {error}"), "send `ids` or `filter`")
    })?;
    let mut answer = Replayed { replayed: 0, skipped: 0, unknown: Vec::new(), next: None };
    let rows = match (request.ids.as_slice(), request.filter) {
        ([], Some(filter)) => {
            let (mut rows, next) = shared.letters(&caller, &filter, MAX_REPLAY).await?;
            let found = rows.len();
            rows.retain(|row| row.replayed_at.is_none());
            (answer.next, answer.skipped) = (next, found - rows.len());
            rows
        }
        (ids, None) if (1..=MAX_REPLAY).contains(&ids.len()) => {
            let mut rows = Vec::new();
            for id in ids {
                match shared.letter(&caller, &id.parse()?).await? {
                    Some(row) => rows.push(row),
                    None => answer.unknown.push(id.clone()),
                }
            }
            answer.skipped = answer.unknown.len();
            rows
        }
        _ => {
            let detail = format!("there must be `ids`, 1 to {MAX_REPLAY} of them, or `filter`");
            return Err(Problem::invalid("ids", detail, "send one of the two"));
        }
    };
    for rows in rows.chunks(PAGE) {
        answer.replayed += rows.len();
        shared.replay(rows).await?;
    }
    Ok(Json(answer))
}

fn summary(row: &DeadLetterRow) -> LetterSummary {
    LetterSummary {
        id: letter_id(row).to_string(),
        at: row.at.to_string(),
        reason: row.reason.clone(),
        detail: row.detail.clone(),
        replayed_at: row.replayed_at.map(|at| at.to_string()),
    }
}

fn letter_id(row: &DeadLetterRow) -> LetterId {
    LetterId { day: row.day.clone(), id: row.id }
}

/// The projects whose dead letters the caller may see.
fn visible(caller: &Caller) -> Vec<String> {
    let mut projects = vec![caller.project().to_owned()];
    if caller.may(Scope::Operator) {
        projects.push(String::new());
    }
    projects
}

impl Shared {
    async fn letter(&self, caller: &Caller, id: &LetterId) -> Result<Option<DeadLetterRow>, Problem> {
        let read = |project: &String| DeadLetterRow::read_one(project.as_str(), id.day.as_str(), id.id);
        let reads: Vec<Read> = visible(caller).iter().map(read).collect();
        let cells = self.api.store.read(&reads).await?.into_iter().flatten().next();
        Ok(cells.map(DeadLetterRow::from_cells).transpose()?)
    }

    /// A page of dead letters, and the id behind which the next one begins.
    async fn letters(
        &self,
        caller: &Caller,
        filter: &LetterFilter,
        default_limit: usize,
    ) -> Result<(Vec<DeadLetterRow>, Option<String>), Problem> {
        let limit = page_size(filter.limit.unwrap_or(default_limit))?;
        let today = self.now().day();
        let week_ago = self.now().0.saturating_sub(DEFAULT_DAYS * 86_400_000);
        let week_ago = bellwether_schemas::Timestamp(week_ago).day();
        let from = filter.from.clone().unwrap_or_else(|| match &filter.to {
            Some(to) if *to < week_ago => to.clone(),
            _ => week_ago,
        });
        let days = days(Some(&from), filter.to.as_deref(), &today, MAX_DAYS)?;
        let mut after = filter.after.as_deref().map(str::parse::<LetterId>).transpose()?;
        let (mut found, mut scanned) = (Vec::new(), 0);
        for day in days.iter().rev() {
            let mut behind = match &after {
                Some(last) if last.day < *day => continue,
                Some(last) if last.day == *day => Some(last.id),
                _ => None,
            };
            loop {
                let page = self.letters_of_day(caller, day, behind).await?;
                let Some(last) = page.last().map(|row| row.id) else { break };
                for row in page {
                    scanned += 1;
                    after = Some(letter_id(&row));
                    if filter.reason.is_none_or(|reason| reason.name() == row.reason) {
                        found.push(row);
                    }
                    if found.len() == limit || scanned == MAX_SCANNED {
                        return Ok((found, after.map(|id| id.to_string())));
                    }
                }
                behind = Some(last);
            }
        }
        Ok((found, None))
    }

    /// The next rows of a day, by id, of all visible projects together.
    async fn letters_of_day(
        &self,
        caller: &Caller,
        day: &str,
        behind: Option<Uuid>,
    ) -> Result<Vec<DeadLetterRow>, Problem> {
        let span = match behind {
            None => Span::All,
            // Ids are of version 5 all; their successor is the next number, and the greatest UUID is above them in every store's order.
            Some(id) => {
                let next = Uuid::from_u128(id.as_u128().saturating_add(1));
                Span::Between(vec![next.into()], vec![Uuid::max().into()])
            }
        };
        let read = |project: &String| Read {
            span: span.clone(),
            limit: Some(PAGE),
            ..DeadLetterRow::read_all(project.as_str(), day)
        };
        let reads: Vec<Read> = visible(caller).iter().map(read).collect();
        let mut rows = Vec::new();
        for cells in self.api.store.read(&reads).await?.into_iter().flatten() {
            rows.push(DeadLetterRow::from_cells(cells)?);
        }
        rows.sort_by_key(|row| row.id);
        rows.truncate(PAGE);
        Ok(rows)
    }

    /// Appends the records as they were but for a header that tells this replay from the first try and from other replays, then marks them.
    /// A crash between the two leaves the header's value as it is, so what is replayed once more then is a duplicate to deliver.
    async fn replay(&self, rows: &[DeadLetterRow]) -> Result<(), Problem> {
        let mut appends = Vec::with_capacity(rows.len());
        for row in rows {
            let DeadLetter { topic, key, payload, mut headers, .. } = decode(&row.record)?;
            let topic: Topic = topic.parse().map_err(|_| {
                let detail =
                    format!("the dead letter {} came by the topic `{topic}`, which is no more", letter_id(row));
                Problem::conflict(detail, "leave it out")
            })?;
            headers.retain(|header| header.name != REPLAY_HEADER);
            let replay = format!("{}/{}", row.id, row.replayed_at.map_or(0, |at| at.0));
            headers.push(Header { name: REPLAY_HEADER.into(), value: replay.into_bytes() });
            appends.push(Append { topic, key, payload, headers });
        }
        self.api.log.append(appends).await?;
        let now = self.now();
        let marks = rows.iter().map(|row| {
            // Written anew, the row keeps the end that it had.
            let left = self.api.limits.dead_letters_kept.saturating_sub(now.since(row.at));
            DeadLetterRow { replayed_at: Some(now), ..row.clone() }.put_for(left)
        });
        self.api.store.write(marks.collect()).await?;
        Ok(())
    }
}
