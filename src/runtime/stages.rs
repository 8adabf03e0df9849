//! Which processor reads which topics, and how the bytes there become its input.

use crate::runtime::worker::malformed;
use async_trait::async_trait;
use bellwether_connectors::{events::EventDecoder, log::LogRecord};
use bellwether_processors::{
    Processor,
    dead_letters::{DeadLetters, Kept},
    definitions::Projects,
    erasure::Marks,
    flow::Flow,
    members::Members,
    processor::Refusal,
    retention::Retention,
    route::Route,
    schedule::{Plan, Schedule},
    track::{Track, Tracked},
};
use bellwether_schemas::{
    Lane, Timestamp, Topic,
    codec::{Encoded, decode},
    records::{Event, MemberCommand, Notification},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// A processor joined to its topics.
#[async_trait]
pub trait Stage: Send + Sync + 'static {
    /// The processor.
    type P: Processor<Input: Send + Sync> + Send + Sync;
    /// How often every owned partition gets a tick.
    const TICK: Option<Duration> = None;

    /// Topics of its group, the urgent ones first.
    fn topics(&self) -> Vec<Topic>;

    /// The processor with today's definitions.
    fn processor(&self) -> Self::P;

    /// Reads one record.
    async fn decode(&self, record: &LogRecord, now: Timestamp) -> Result<<Self::P as Processor>::Input, Undecoded>;

    /// The input of a tick.
    fn tick() -> Option<<Self::P as Processor>::Input> {
        None
    }

    /// Whose record this is, as far as its key tells; for dead letters.
    fn project_of(&self, record: &LogRecord) -> String {
        project_in_key(&record.key)
    }
}

/// The project in front of a member key, or nothing.
#[must_use]
pub fn project_in_key(key: &[u8]) -> String {
    match key.iter().position(|b| *b == b'/') {
        Some(at) => String::from_utf8_lossy(&key[..at]).into_owned(),
        None => String::new(),
    }
}

/// Why a record is not read.
#[derive(Debug)]
pub enum Undecoded {
    /// It cannot be: dead letter.
    Refused(Refusal),
    /// Not now: something that is needed to read it does not answer.
    Unavailable(String),
}

fn record<R: Encoded>(bytes: &[u8]) -> Result<R, Undecoded> {
    decode(bytes).map_err(|e| Undecoded::Refused(malformed(&e)))
}

/// `events` → flow.
#[derive(Debug)]
pub struct FlowStage {
    /// Reads every encoding of events.
    pub decoder: Arc<EventDecoder>,
    /// Project of events that name none; dead letters of unreadable events are its too.
    pub default_project: Option<String>,
    /// Today's definitions.
    pub projects: watch::Receiver<Projects>,
}

#[async_trait]
impl Stage for FlowStage {
    type P = Flow;
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Events]
    }
    fn processor(&self) -> Flow {
        Flow { projects: self.projects.borrow().clone() }
    }
    async fn decode(&self, record: &LogRecord, now: Timestamp) -> Result<Event, Undecoded> {
        self.decoder.decode(record, now).await.map_err(|error| match error.reason() {
            Some(reason) => Undecoded::Refused(Refusal::new(reason, error.to_string())),
            None => Undecoded::Unavailable(error.to_string()),
        })
    }
    fn project_of(&self, record: &LogRecord) -> String {
        match project_in_key(&record.key) {
            named if self.projects.borrow().get(&named).is_some() => named,
            _ => self.default_project.clone().unwrap_or_default(),
        }
    }
}

/// `members` → profiles.
#[derive(Debug)]
pub struct MembersStage {
    /// Today's definitions.
    pub projects: watch::Receiver<Projects>,
    /// Names the marks of erased members.
    pub marks: Option<Arc<dyn Marks>>,
}

#[async_trait]
impl Stage for MembersStage {
    type P = Members;
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Members]
    }
    fn processor(&self) -> Members {
        Members { projects: self.projects.borrow().clone(), marks: self.marks.clone() }
    }
    async fn decode(&self, r: &LogRecord, _: Timestamp) -> Result<MemberCommand, Undecoded> {
        record(&r.payload)
    }
}

/// `notifications.*` → route.
#[derive(Debug)]
pub struct RouteStage {
    /// Today's definitions.
    pub projects: watch::Receiver<Projects>,
    /// How long claims are kept.
    pub retention: Retention,
}

#[async_trait]
impl Stage for RouteStage {
    type P = Route;
    fn topics(&self) -> Vec<Topic> {
        Lane::ALL.map(Topic::Notifications).to_vec()
    }
    fn processor(&self) -> Route {
        Route { projects: self.projects.borrow().clone(), retention: self.retention }
    }
    async fn decode(&self, r: &LogRecord, _: Timestamp) -> Result<Notification, Undecoded> {
        record(&r.payload)
    }
}

/// `receipts` and `decisions` → track.
#[derive(Debug)]
pub struct TrackStage {
    /// Today's definitions.
    pub projects: watch::Receiver<Projects>,
    /// How long stories are kept.
    pub retention: Retention,
}

#[async_trait]
impl Stage for TrackStage {
    type P = Track;
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::Receipts, Topic::Decisions]
    }
    fn processor(&self) -> Track {
        Track { projects: self.projects.borrow().clone(), retention: self.retention }
    }
    async fn decode(&self, r: &LogRecord, _: Timestamp) -> Result<Tracked, Undecoded> {
        match r.position.topic {
            Topic::Decisions => record(&r.payload).map(Tracked::Decision),
            _ => record(&r.payload).map(Tracked::Receipt),
        }
    }
}

/// `scheduled.*` → store → target topic.
#[derive(Debug)]
pub struct ScheduleStage;

#[async_trait]
impl Stage for ScheduleStage {
    type P = Schedule;
    const TICK: Option<Duration> = Some(Duration::from_millis(250));
    fn topics(&self) -> Vec<Topic> {
        Lane::ALL.map(Topic::Scheduled).to_vec()
    }
    fn processor(&self) -> Schedule {
        Schedule
    }
    async fn decode(&self, r: &LogRecord, _: Timestamp) -> Result<Plan, Undecoded> {
        record(&r.payload).map(Plan::Keep)
    }
    fn tick() -> Option<Plan> {
        Some(Plan::Tick)
    }
}

/// `dead-letters` → store.
#[derive(Debug)]
pub struct DeadLettersStage {
    /// How long dead letters are kept.
    pub retention: Retention,
}

#[async_trait]
impl Stage for DeadLettersStage {
    type P = DeadLetters;
    fn topics(&self) -> Vec<Topic> {
        vec![Topic::DeadLetters]
    }
    fn processor(&self) -> DeadLetters {
        DeadLetters { retention: self.retention }
    }
    async fn decode(&self, r: &LogRecord, _: Timestamp) -> Result<Kept, Undecoded> {
        Ok(Kept { letter: record(&r.payload)?, encoded: r.payload.to_vec() })
    }
}
