//! `GET /v1/notifications/{id}`: the whole story of one notification, in order, and where it stands now.
//! Reads what `track` wrote; decides nothing but the order.

use super::{
    Shared,
    auth::{Caller, Scope},
    extract::{Params, Segment},
    problem::{Problem, ProblemDocument},
};
use axum::{Json, extract::State};
use bellwether_schemas::{
    EventId, NotificationId,
    records::{Outcome, Receipt, ReceiptKind},
    rows::{Read, Row},
    tables::StoryRow,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Versions of a flow, the newest, whose notifications are looked for.
const MAX_VERSIONS: i32 = 50;
/// Most lines of a story that are read; a message that is tried and opened a lot has some dozens.
const MAX_LINES: usize = 1_000;

/// The story of one notification.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({
    "id": "0b8d6a52-6b3f-5a8e-9a60-0ad2b52e3c11", "member": "anna", "status": "delivered",
    "story": [{"at": "2026-03-01T12:00:00.1Z", "kind": "decision", "outcome": "routed", "channel": "sms",
        "delivery": "4b1c64a2-0e7f-5d0c-8a55-1d4bb0a75e11", "detail": {"flow": "order-placed", "template": "order", "trace": []}}]
}))]
pub struct Story {
    /// Notification.
    pub id: Uuid,
    /// `client_user_id`.
    pub member: String,
    /// The furthest receipt of the delivery that came furthest, whatever order they came in; before any receipt, or while the next channel
    /// has its turn after a failure, the decision's outcome.
    pub status: String,
    /// All that happened, in order.
    pub story: Vec<Line>,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Line {
    /// RFC 3339.
    pub at: String,
    /// `decision` or `receipt`.
    pub kind: String,
    /// The decision's outcome or the receipt's kind.
    pub outcome: String,
    /// Channel, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// Delivery, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delivery: Option<Uuid>,
    /// The whole decision or receipt: flow, template, trace of channels, attempt, provider and its words.
    #[schema(value_type = Object)]
    pub detail: Value,
}

/// Tells the story of a notification.
#[utoipa::path(
    get, path = "/v1/notifications/{id}", tag = "notifications", security(("api_key" = ["notifications"])),
    params(("id" = Uuid, Path, description = "Notification")),
    responses(
        (status = 200, description = "The story", body = Story),
        (status = 404, description = "The project has no such notification", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn story(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Segment(id): Segment<Uuid>,
) -> Result<Json<Story>, Problem> {
    caller.require(Scope::Notifications)?;
    let story = shared.stories(&caller, &[id]).await?.pop().ok_or_else(|| {
        let remedy = "check the id; a notification is known once it was decided about";
        Problem::not_found(format!("the project has no notification {id}"), remedy).at("id")
    })?;
    Ok(Json(story))
}

/// Whose notifications of which event.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OfEvent {
    /// The `event_id` with which the event was accepted.
    #[param(required = true)]
    event: Option<Uuid>,
    /// `client_user_id`: the event's subject.
    #[param(required = true)]
    member: Option<String>,
}

/// The notifications of one event to one member.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[schema(example = json!({"notifications": [{
    "id": "0b8d6a52-6b3f-5a8e-9a60-0ad2b52e3c11", "member": "anna", "status": "capped",
    "story": [{"at": "2026-03-01T12:00:00.1Z", "kind": "decision", "outcome": "capped",
        "detail": {"flow": "order-placed", "template": "order", "trace": []}}]
}]}))]
pub struct Stories {
    /// One for each flow that the event triggers, and has decided about it by now.
    pub notifications: Vec<Story>,
}

/// Tells what became of an event: the stories of its notifications to one member, by the flows of today's definitions.
#[utoipa::path(
    get, path = "/v1/notifications", tag = "notifications", security(("api_key" = ["notifications"])), params(OfEvent),
    responses((status = 200, description = "The stories", body = Stories)),
)]
pub async fn of_event(
    State(shared): State<Arc<Shared>>,
    caller: Caller,
    Params(asked): Params<OfEvent>,
) -> Result<Json<Stories>, Problem> {
    caller.require(Scope::Notifications)?;
    let missing =
        |field: &'static str| Problem::invalid(field, format!("`{field}` is missing"), "give `event` and `member`");
    let event = asked.event.ok_or_else(|| missing("event"))?;
    let member = asked.member.ok_or_else(|| missing("member"))?;
    let definitions = shared.definitions(caller.project());
    let flows = definitions.iter().flat_map(|known| &known.document.flows);
    // The id of a notification is made of its cause, so it needs no index to be found.
    let of_flows = flows.flat_map(|(name, flow)| {
        let newest = flow.version.saturating_sub(MAX_VERSIONS).max(0)..=flow.version;
        newest.map(|version| NotificationId::derive(EventId(event), name, version, 0, &member))
    });
    let without_flow = NotificationId::derive(EventId(event), "", 0, 0, &member);
    let ids: Vec<Uuid> = of_flows.chain([without_flow]).map(|id| id.0).collect();
    Ok(Json(Stories { notifications: shared.stories(&caller, &ids).await? }))
}

impl Shared {
    /// The stories that the caller's project has of these notifications. Another project's notification is as unknown as none.
    pub(super) async fn stories(&self, caller: &Caller, ids: &[Uuid]) -> Result<Vec<Story>, Problem> {
        let reads: Vec<Read> =
            ids.iter().map(|id| Read { limit: Some(MAX_LINES), ..StoryRow::read_all(*id) }).collect();
        let mut stories = Vec::new();
        for (id, cells) in ids.iter().zip(self.api.store.read(&reads).await?) {
            let mut rows = cells.into_iter().map(StoryRow::from_cells).collect::<Result<Vec<_>, _>>()?;
            rows.retain(|row| row.project == caller.project());
            rows.sort_by_key(|row| (row.at, row.kind != DECISION, rank(row), row.id));
            if let Some(member) = rows.first().map(|row| row.member.clone()) {
                let status = status(&rows).to_owned();
                stories.push(Story { id: *id, member, status, story: rows.into_iter().map(line).collect() });
            }
        }
        Ok(stories)
    }
}

const DECISION: &str = "decision";

/// Where a receipt stands in a message's life. A failure that we found ourselves is behind us once the message was sent after all, by a replay.
fn rank(row: &StoryRow) -> Option<(u8, bool)> {
    let kind = row.receipt()?;
    let is_ours = || serde_json::from_str::<Receipt>(&row.detail).is_ok_and(|receipt| receipt.provider_id.is_none());
    let is_failed = kind == ReceiptKind::Failed;
    Some((if is_failed && is_ours() { ReceiptKind::Deferred.rank() } else { kind.rank() }, is_failed))
}

/// Where a notification stands: where its furthest delivery does, because it is enough that one arrives. A duplicate that came later
/// changes nothing.
fn status(rows: &[StoryRow]) -> &str {
    let mut deliveries = BTreeMap::<_, &StoryRow>::new();
    for row in rows.iter().filter(|row| rank(row).is_some()) {
        let furthest = deliveries.entry(row.delivery).or_insert(row);
        if rank(row) >= rank(furthest) {
            *furthest = row;
        }
    }
    let has_failed = |row: &StoryRow| row.receipt() == Some(ReceiptKind::Failed);
    let furthest = deliveries.values().copied().max_by_key(|row| (!has_failed(row), rank(row)));
    let decisions = || rows.iter().rev().filter(|row| row.kind == DECISION);
    let decision = decisions().find(|row| row.outcome != Outcome::Duplicate.name()).or_else(|| decisions().next());
    let is_under_way = |row: &&StoryRow| {
        let is_routed = row.outcome == Outcome::Routed.name() && row.delivery.is_some();
        row.outcome == Outcome::Deferred.name() || is_routed && !deliveries.contains_key(&row.delivery)
    };
    let next = decision.filter(is_under_way);
    furthest.filter(|row| !has_failed(row)).or(next).or(furthest).or(decision).map_or("", |row| row.outcome.as_str())
}

fn line(row: StoryRow) -> Line {
    Line {
        at: row.at.to_string(),
        kind: row.kind,
        outcome: row.outcome,
        channel: row.channel,
        delivery: row.delivery,
        detail: serde_json::from_str(&row.detail).unwrap_or(Value::String(row.detail)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::{Channel, DeliveryId, NotificationId, Timestamp, records::ErrorKind};

    fn row(at: i64, kind: ReceiptKind, provider_id: Option<&str>) -> StoryRow {
        let receipt = Receipt {
            delivery: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "anna".into(),
            template: "order".into(),
            channel: Channel::Sms,
            kind,
            at: Timestamp(at),
            attempt: 1,
            provider: "sms".into(),
            provider_id: provider_id.map(Into::into),
            error: (kind == ReceiptKind::Failed).then_some(ErrorKind::Rejected),
            detail: None,
            address: None,
        };
        StoryRow {
            notification: Uuid::nil(),
            id: Uuid::from_u128(u128::try_from(at).unwrap()),
            project: "shop".into(),
            member: "anna".into(),
            at: Timestamp(at),
            kind: "receipt".into(),
            outcome: kind.name().into(),
            delivery: None,
            channel: Some("sms".into()),
            detail: serde_json::to_string(&receipt).unwrap(),
            position: "receipts/0/0".into(),
        }
    }

    #[test]
    fn where_a_message_stands() {
        use ReceiptKind::{Deferred, Delivered, Failed, Sent};
        for (what, told, status) in [
            ("tried in vain", vec![(Deferred, None), (Failed, None)], "failed"),
            ("failed with us, replayed, sent", vec![(Failed, None), (Sent, Some("SM1"))], "sent"),
            ("taken, then failed at the provider", vec![(Sent, Some("SM1")), (Failed, Some("SM1"))], "failed"),
            ("the provider's word overtook ours", vec![(Failed, Some("SM1")), (Sent, Some("SM1"))], "failed"),
            ("a late `sent`", vec![(Delivered, Some("SM1")), (Sent, Some("SM1"))], "delivered"),
        ] {
            let rows: Vec<_> = (1..).zip(told).map(|(at, (kind, id))| row(at, kind, id)).collect();
            assert_eq!(super::status(&rows), status, "{what}");
        }
    }

    #[test]
    fn the_furthest_delivery_says_where_a_message_stands() {
        use Outcome::{Capped, Duplicate, NoAddress, Routed};
        use ReceiptKind::{Delivered, Failed, Opened, Sent};
        /// A decision, or a receipt of the first or second delivery.
        enum Told {
            Decided(Outcome, Option<u128>),
            Happened(ReceiptKind, u128),
        }
        use Told::{Decided, Happened};
        let line = |(at, told): (i64, &Told)| match told {
            Happened(kind, delivery) => {
                StoryRow { delivery: Some(Uuid::from_u128(*delivery)), ..row(at, *kind, Some("id")) }
            }
            Decided(outcome, delivery) => StoryRow {
                kind: DECISION.into(),
                outcome: outcome.name().into(),
                delivery: delivery.map(Uuid::from_u128),
                detail: "{}".into(),
                ..row(at, Sent, None)
            },
        };
        let (first, second) = (Decided(Routed, Some(1)), Decided(Routed, Some(2)));
        let (failed, sent) = (Happened(Failed, 1), Happened(Sent, 1));
        let waits = Decided(Outcome::Deferred, None);
        for (what, told, status) in [
            ("the second is on its way", vec![&first, &failed, &second], "routed"),
            ("the second waits for the morning", vec![&first, &failed, &waits], "deferred"),
            ("nobody else is to be tried", vec![&first, &failed, &Decided(NoAddress, None)], "failed"),
            ("nor allowed", vec![&first, &failed, &Decided(Capped, None)], "failed"),
            ("the second was sent", vec![&first, &failed, &second, &Happened(Sent, 2)], "sent"),
            ("and the other copy met it", vec![&first, &failed, &second, &Decided(Duplicate, None)], "routed"),
            ("the second failed too", vec![&first, &failed, &second, &Happened(Failed, 2)], "failed"),
            ("the first may yet arrive", vec![&first, &sent, &second, &Happened(Failed, 2)], "sent"),
            (
                "the first arrived late",
                vec![&first, &sent, &second, &Happened(Sent, 2), &Happened(Delivered, 1)],
                "delivered",
            ),
            ("one was opened", vec![&first, &second, &Happened(Delivered, 1), &Happened(Opened, 2)], "opened"),
        ] {
            let rows: Vec<_> = (1..).zip(told).map(line).collect();
            assert_eq!(super::status(&rows), status, "{what}");
        }
    }
}
