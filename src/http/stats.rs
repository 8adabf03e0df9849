//! `GET /v1/stats`: exact figures, summed over the partial sums that `track` keeps by day and source partition.
//! Adds up and groups; counts nothing itself.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::Params,
    problem::{Problem, ProblemDocument},
};
use axum::{Json, extract::State};
use bellwether_schemas::{
    rows::{Read, Row, Span},
    tables::AggregateRow,
};
use jiff::{ToSpan, civil::Date};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{IntoParams, ToSchema};

/// Most days of one request.
const MAX_DAYS: usize = 92;
/// Days that are read together.
const DAYS_AT_ONCE: usize = 8;

/// Which figures.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsQuery {
    /// First UTC day, `YYYY-MM-DD`; absent: today.
    #[param(example = "2026-03-01")]
    from: Option<String>,
    /// Last UTC day, inclusive, at most 92 days in all; absent: `from`, or today.
    #[param(example = "2026-03-31")]
    to: Option<String>,
    /// Of this template alone.
    template: Option<String>,
    /// Of this channel alone; empty: where none was chosen.
    channel: Option<String>,
    /// Any of `day`, `template`, `channel`, separated by commas; absent: one row of sums.
    #[param(example = "day,channel")]
    group_by: Option<String>,
}

/// Figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"from": "2026-03-01", "to": "2026-03-31", "rows": [
    {"channel": "email", "metrics": {"decided.routed": 120, "sent": 119, "delivered": 117}}
]}))]
pub struct Stats {
    /// First day.
    pub from: String,
    /// Last day.
    pub to: String,
    /// One row a group, in the order of its keys.
    pub rows: Vec<StatsRow>,
}

/// The sums of one group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StatsRow {
    /// Day, if grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Template, if grouped by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Channel, if grouped by it; empty where none was chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Sum by figure: `sent`, `delivered`, … and `decided.` with an outcome.
    #[schema(example = json!({"decided.routed": 120, "sent": 119, "delivered": 117}))]
    pub metrics: BTreeMap<String, i64>,
}

/// Day, template and channel, each where it is grouped by.
type Group = (Option<String>, Option<String>, Option<String>);

/// Exact figures by day, template and channel.
#[utoipa::path(
    get, path = "/v1/stats", tag = "stats", security(("api_key" = ["stats"])), params(StatsQuery),
    responses(
        (status = 200, description = "Figures", body = Stats),
        (status = 422, description = "A parameter is not acceptable", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn figures(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(query): Params<StatsQuery>,
) -> Result<Json<Stats>, Problem> {
    caller.require(Scope::Stats)?;
    let days = days(query.from.as_deref(), query.to.as_deref(), &shared.now().day(), MAX_DAYS)?;
    let grouping = Grouping::parse(query.group_by.as_deref().unwrap_or_default())?;
    let reads: Vec<Read> = days.iter().map(|day| read(caller.project(), day, &query)).collect();
    let mut groups: BTreeMap<Group, BTreeMap<String, i64>> = BTreeMap::new();
    for reads in reads.chunks(DAYS_AT_ONCE) {
        for cells in shared.api.store.read(reads).await?.into_iter().flatten() {
            let row = AggregateRow::from_cells(cells)?;
            if query.channel.as_ref().is_none_or(|channel| *channel == row.channel) {
                let sum = groups.entry(grouping.of(&row)).or_default().entry(row.metric).or_default();
                *sum = sum.saturating_add(row.value);
            }
        }
    }
    let row = |((day, template, channel), metrics)| StatsRow { day, template, channel, metrics };
    let (from, to) = (days.first().cloned().unwrap_or_default(), days.last().cloned().unwrap_or_default());
    Ok(Json(Stats { from, to, rows: groups.into_iter().map(row).collect() }))
}

fn read(project: &str, day: &str, query: &StatsQuery) -> Read {
    let span = match (&query.template, &query.channel) {
        (None, _) => Span::All,
        (Some(template), None) => Span::Prefix(vec![template.as_str().into()]),
        (Some(template), Some(channel)) => Span::Prefix(vec![template.as_str().into(), channel.as_str().into()]),
    };
    Read { span, ..AggregateRow::read_all(project, day) }
}

/// The days from `from` to `to`, both inclusive, as `YYYY-MM-DD`.
pub(super) fn days(from: Option<&str>, to: Option<&str>, today: &str, max: usize) -> Result<Vec<String>, Problem> {
    let date = |field: &str, text: &str| -> Result<Date, Problem> {
        // `Date` reads other forms of ISO 8601 too; one form is enough for a parameter.
        let date = text.parse().ok().filter(|date: &Date| date.to_string() == text);
        date.ok_or_else(|| Problem::invalid(field, format!("`{field}` is not a day"), "send one like `2026-03-01`"))
    };
    let first = date("from", from.unwrap_or_else(|| to.map_or(today, |to| to.min(today))))?;
    let last = date("to", to.unwrap_or_else(|| from.map_or(today, |from| from.max(today))))?;
    if last < first {
        return Err(Problem::invalid("to", "`to` is before `from`", "swap the two"));
    }
    let days: Vec<String> =
        first.series(1.day()).take_while(|day| *day <= last).take(max + 1).map(|day| day.to_string()).collect();
    if days.len() > max {
        return Err(Problem::invalid(
            "to",
            format!("from `from` to `to` are more than {max} days"),
            "ask for less at once",
        ));
    }
    Ok(days)
}

/// What to keep apart.
struct Grouping {
    day: bool,
    template: bool,
    channel: bool,
}

impl Grouping {
    fn parse(text: &str) -> Result<Self, Problem> {
        let mut grouping = Self { day: false, template: false, channel: false };
        for name in text.split(',').filter(|name| !name.is_empty()) {
            match name {
                "day" => grouping.day = true,
                "template" => grouping.template = true,
                "channel" => grouping.channel = true,
                _ => {
                    let remedy = "name any of day, template, channel, separated by commas";
                    return Err(Problem::invalid("group_by", "`group_by` names something else", remedy));
                }
            }
        }
        Ok(grouping)
    }

    fn of(&self, row: &AggregateRow) -> Group {
        let kept = |wanted: bool, text: &String| wanted.then(|| text.clone());
        (kept(self.day, &row.day), kept(self.template, &row.template), kept(self.channel, &row.channel))
    }
}

#[allow(clippy::unwrap_used)]
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_whole_and_bounded() {
        let days = |from, to| days(from, to, "2026-03-02", 92);
        assert_eq!(days(None, None).unwrap(), ["2026-03-02"]);
        assert_eq!(days(Some("2026-02-27"), None).unwrap(), ["2026-02-27", "2026-02-28", "2026-03-01", "2026-03-02"]);
        assert_eq!(days(None, Some("2026-03-01")).unwrap(), ["2026-03-01"]);
        assert_eq!(days(Some("2026-01-01"), Some("2026-04-02")).unwrap().len(), 92);
        for (from, to, field) in [
            ("2026-01-01", "2026-04-03", "to"),
            ("2026-01-02", "2026-01-01", "to"),
            ("20260101", "2026-01-01", "from"),
            ("2026-01-01", "2026-02-30", "to"),
            ("-009999-01-01", "9999-12-31", "to"),
        ] {
            assert_eq!(days(Some(from), Some(to)).unwrap_err().field(), Some(field), "{from} {to}");
        }
    }
}
