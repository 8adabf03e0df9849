//! The one mechanism for "later" (law 5): records wait in the store by due time and are emitted to their topic when due.
//!
//! A partition of a lane of `scheduled` is a shard, so that a code's next try waits for no campaign; its records and its ticks are serial. The cursor says up to when the shard has been emptied; a record that
//! comes due before the cursor is emitted at once, so nothing is ever stored behind it. Rows go only after their records are on the log: a
//! crash between the two emits a record twice, with the same id, and its receiver drops the second.

use crate::processor::{Facts, Incoming, Output, Processor, Refusal};
use bellwether_schemas::{
    Lane, Position, Timestamp, Topic,
    records::{Reason, Record, Scheduled},
    rows::{Read, Row, Span, Value, Write},
    tables::{ScheduleCursorRow, ScheduledRow},
};
use std::time::Duration;

/// Minutes that one tick looks at: what a shard catches up at once after it stood still.
const MINUTES_PER_TICK: i64 = 240;
/// How far the cursor moves at least.
const CURSOR_EVERY: Duration = Duration::from_secs(1);
/// Records that one tick emits.
const RECORDS_PER_TICK: usize = 1_000;

/// What the shards of the bulk lane begin with; those of the other have the numbers of its partitions.
const BULK: i64 = 1 << 32;

/// The shard of what comes by this position.
#[must_use]
pub const fn shard(at: Position) -> i64 {
    let partition = at.partition as i64;
    match at.topic.lane() {
        Lane::Transactional => partition,
        Lane::Bulk => BULK + partition,
    }
}

/// The schedule processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule;

/// What it works on.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// A record for later.
    Keep(Scheduled),
    /// Time has passed.
    Tick,
}

impl Processor for Schedule {
    const NAME: &'static str = "schedule";
    const ROUNDS: usize = 2;
    type Input = Plan;

    fn needs(&self, incoming: &Incoming<Plan>, facts: &Facts, now: Timestamp) -> Vec<Read> {
        let shard = shard(incoming.position);
        let Ok(Some(cursor)) = facts.one::<ScheduleCursorRow>(&ScheduleCursorRow::read_one(shard)) else {
            return vec![ScheduleCursorRow::read_one(shard)];
        };
        match incoming.input {
            Plan::Keep(_) => Vec::new(),
            Plan::Tick => due_reads(shard, cursor.due, now),
        }
    }

    fn decide(&self, incoming: &Incoming<Plan>, facts: &Facts, now: Timestamp) -> Result<Output, Refusal> {
        let shard = shard(incoming.position);
        let cursor = facts.one::<ScheduleCursorRow>(&ScheduleCursorRow::read_one(shard))?.map(|c| c.due);
        match &incoming.input {
            Plan::Keep(record) => keep(record, shard, cursor, now),
            Plan::Tick => tick(facts, shard, cursor, now),
        }
    }
}

/// One read a minute from the cursor on. Starting at the cursor rather than at the minute keeps the store from walking over what was deleted.
fn due_reads(shard: i64, cursor: Timestamp, now: Timestamp) -> Vec<Read> {
    let last = minute(now).min(minute(cursor) + MINUTES_PER_TICK - 1);
    (minute(cursor)..=last)
        .map(|minute| Read {
            table: ScheduledRow::TABLE.name,
            partition: vec![Value::Int(shard), Value::Int(minute)],
            span: Span::Between(vec![Value::Timestamp(cursor)], vec![Value::Timestamp(now)]),
            limit: Some(RECORDS_PER_TICK),
        })
        .collect()
}

fn minute(at: Timestamp) -> i64 {
    at.0.div_euclid(60_000)
}

fn keep(record: &Scheduled, shard: i64, cursor: Option<Timestamp>, now: Timestamp) -> Result<Output, Refusal> {
    let mut output = Output::default();
    let topic: Topic = record.topic.parse().map_err(|e| Refusal::new(Reason::Invalid, format!("topic: {e}")))?;
    if record.due < now.max(cursor.unwrap_or(now)) {
        let (key, payload) = (record.key.clone().into_bytes(), record.payload.clone());
        output.records.push(Record::Encoded { topic, key, payload });
        // A crash may have left its row without a cursor before it: nobody would ever come by there.
        let key = ScheduledRow::key(shard, minute(record.due), record.due, record.id.0);
        output.after.push(Write::Delete { table: ScheduledRow::TABLE, key, fence: None });
        return Ok(output);
    }
    let row = ScheduledRow {
        shard,
        minute: minute(record.due),
        due: record.due,
        id: record.id.0,
        topic: record.topic.clone(),
        key: record.key.clone(),
        payload: record.payload.clone(),
    };
    output.rows.push(row.put());
    if cursor.is_none() {
        output.rows.push(ScheduleCursorRow { shard, due: now }.put());
    }
    Ok(output)
}

fn tick(facts: &Facts, shard: i64, cursor: Option<Timestamp>, now: Timestamp) -> Result<Output, Refusal> {
    let mut output = Output::default();
    let Some(cursor) = cursor else { return Ok(output) }; // Nothing was ever kept in this shard.
    let reads = due_reads(shard, cursor, now);
    let mut due = Vec::new();
    let reached = now.min(Timestamp((minute(cursor) + MINUTES_PER_TICK) * 60_000));
    for read in &reads {
        due.extend(facts.rows::<ScheduledRow>(read)?);
        if due.len() >= RECORDS_PER_TICK {
            break;
        }
    }
    due.truncate(RECORDS_PER_TICK);
    if due.is_empty() {
        // The cursor moves only over what is empty: a crash between deletions and cursor would leave rows behind it. Once a second is
        // enough to keep the store from walking over what was deleted.
        output.more = reached < now;
        if reached.since(cursor) >= CURSOR_EVERY {
            output.after.push(ScheduleCursorRow { shard, due: reached }.put());
        }
        return Ok(output);
    }
    output.more = true;
    for row in due {
        let topic = row.topic.parse().map_err(|e| Refusal::new(Reason::Invalid, format!("scheduled.topic: {e}")))?;
        let key = ScheduledRow::key(row.shard, row.minute, row.due, row.id);
        output.after.push(Write::Delete { table: ScheduledRow::TABLE, key, fence: None });
        output.records.push(Record::Encoded { topic, key: row.key.into_bytes(), payload: row.payload });
    }
    Ok(output)
}
