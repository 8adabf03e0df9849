//! The loop that every processor but deliver runs in: poll a batch, read what it needs, decide one record after the other, commit rows,
//! records, what follows them, offsets. A crash between any two of these redelivers the batch, and ids and fences make that harmless.

use crate::{
    metrics::Metrics,
    runtime::{
        clock::Clock,
        retry::until_available,
        stages::{Stage, Undecoded},
    },
};
use bellwether_connectors::{
    log::{Append, Commit, CommitError, Committed, Consumer, Log, LogError, LogRecord, Polled, TopicPartition},
    store::{Store, StoreError},
};
use bellwether_processors::{Facts, Incoming, Output, Processor, processor::Refusal};
use bellwether_schemas::{
    Position, Timestamp, Topic,
    records::{DeadLetter, Reason, Record},
    rows::{Key, Read, Write},
};
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// What a loop works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The log.
    pub log: Arc<dyn Log>,
    /// The store.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Clock,
    /// The metrics.
    pub metrics: Metrics,
    /// Records in a batch, at most.
    pub batch: usize,
    /// Cancelled when the process is to end: finish what is begun, commit, leave.
    pub stop: CancellationToken,
}

impl Context {
    /// Counts, logs and keeps whole a record that could not be read or decided.
    #[must_use]
    pub fn dead_letter(
        &self,
        name: &str,
        record: &LogRecord,
        refusal: Refusal,
        project: String,
        now: Timestamp,
    ) -> Record {
        tracing::warn!(processor = name, position = %record.position, reason = refusal.reason.name(), "dead letter");
        self.metrics.dead_letters.with_label_values(&[name, refusal.reason.name()]).inc();
        Record::DeadLetter(DeadLetter {
            id: DeadLetter::id_at(name, record.position),
            project,
            at: now,
            processor: name.to_owned(),
            reason: refusal.reason,
            detail: refusal.detail,
            topic: record.position.topic.name().to_owned(),
            partition: i32::try_from(record.position.partition).unwrap_or(i32::MAX),
            offset: i64::try_from(record.position.offset).unwrap_or(i64::MAX),
            key: record.key.to_vec(),
            payload: record.payload.to_vec(),
            headers: record.headers.clone(),
        })
    }
}

/// Why a loop ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log refuses us.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store refuses us.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// One consumer of one processor's group.
pub struct Worker<S: Stage> {
    stage: S,
    context: Context,
    consumer: Box<dyn Consumer>,
    /// Partitions that are ours, with the next offset to commit.
    owned: BTreeMap<TopicPartition, u64>,
    /// Commits that the log did not answer: said again before anything else.
    unanswered: BTreeMap<TopicPartition, u64>,
    ticked: Timestamp,
}

/// What a step came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing was there.
    Idle,
    /// Something was done.
    Worked,
}

impl<S: Stage> Worker<S> {
    /// Joins the processor's group.
    ///
    /// # Errors
    /// The log refuses us, or `stop` was cancelled before it answered.
    pub async fn join(stage: S, context: Context) -> Result<Self, Fatal> {
        let topics = stage.topics();
        let consumer = until_available("log", &context.stop, || context.log.subscribe(S::P::NAME, &topics)).await?;
        Ok(Self {
            stage,
            context,
            consumer,
            owned: BTreeMap::new(),
            unanswered: BTreeMap::new(),
            ticked: Timestamp::default(),
        })
    }

    /// Runs until `stop` is cancelled.
    ///
    /// # Errors
    /// Log or store refuse us: trying again does not help.
    pub async fn run(mut self) -> Result<(), Fatal> {
        let stop = self.context.stop.clone();
        while !stop.is_cancelled() {
            let wait = S::TICK.map_or(Duration::from_secs(1), |tick| tick.min(Duration::from_secs(1)));
            match self.step(wait).await {
                Ok(_) => {}
                // What was begun is not committed, so it will be redelivered.
                Err(_) if stop.is_cancelled() => break,
                Err(error) => return Err(error),
            }
        }
        self.consumer.close().await;
        Ok(())
    }

    /// One batch or one change of assignment, and before it one tick.
    ///
    /// # Errors
    /// See [`Worker::run`].
    pub async fn step(&mut self, wait: Duration) -> Result<Step, Fatal> {
        // A loop that always finds something to do would otherwise never give its thread away.
        tokio::task::coop::consume_budget().await;
        if !self.unanswered.is_empty() {
            let again = std::mem::take(&mut self.unanswered);
            self.commit(again).await?;
        }
        // What is due may be more than a tick takes. What comes meanwhile is not to wait for all of it, so a poll follows each tick.
        let ticked = self.tick().await?;
        let wait = if ticked == Step::Worked { Duration::ZERO } else { wait };
        let stop = self.context.stop.clone();
        let polled = tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(ticked),
            polled = self.consumer.poll(self.context.batch, wait) => polled,
        };
        match polled {
            Ok(Polled::Records(records)) if records.is_empty() => Ok(ticked),
            Ok(Polled::Records(records)) => {
                let begun = std::time::Instant::now();
                let count = records.len();
                self.batch(records).await?;
                let metrics = &self.context.metrics;
                metrics.batch_seconds.with_label_values(&[S::P::NAME]).observe(begun.elapsed().as_secs_f64());
                metrics.batch_records.with_label_values(&[S::P::NAME]).observe(count as f64);
                Ok(Step::Worked)
            }
            Ok(Polled::Assigned(assignments)) => {
                for a in assignments {
                    self.owned.insert(a.at, a.committed.map_or(0, |c| c.offset));
                }
                Ok(Step::Worked)
            }
            // Every batch is committed before the next poll, so there is nothing left to do for those who go.
            Ok(Polled::Revoked { partitions, .. }) => {
                for at in partitions {
                    self.owned.remove(&at);
                    self.unanswered.remove(&at);
                }
                Ok(Step::Worked)
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(processor = S::P::NAME, %error, "poll failed; polling again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(ticked)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives every owned partition its tick, when it is time.
    async fn tick(&mut self) -> Result<Step, Fatal> {
        let now = self.context.clock.now();
        if S::TICK.is_none_or(|every| now.since(self.ticked) < every) {
            return Ok(Step::Idle);
        }
        let mut inputs = Vec::new();
        for (at, offset) in &self.owned {
            if let Some(input) = S::tick() {
                let position = Position { topic: at.topic, partition: at.partition, offset: *offset };
                inputs.push(Incoming { position, input });
            }
        }
        let decided = self.decide(&inputs, Vec::new(), now).await?;
        let worked = !decided.is_nothing();
        if !decided.more {
            self.ticked = now;
        }
        self.perform(decided).await?;
        Ok(if worked { Step::Worked } else { Step::Idle })
    }

    async fn batch(&mut self, records: Vec<LogRecord>) -> Result<(), Fatal> {
        let now = self.context.clock.now();
        let mut inputs = Vec::with_capacity(records.len());
        let mut dead = Vec::new();
        let mut raw = HashMap::new();
        let mut next: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        for record in records {
            let Position { topic, partition, offset } = record.position;
            next.insert(TopicPartition { topic, partition }, offset + 1);
            match self.decode(&record, now).await? {
                Ok(input) => {
                    inputs.push(Incoming { position: record.position, input });
                    raw.insert(record.position, record);
                }
                Err(refusal) => dead.push(self.dead_letter(&record, refusal, now)),
            }
        }
        let mut decided = self.decide(&inputs, dead, now).await?;
        for (position, refusal) in std::mem::take(&mut decided.refused) {
            if let Some(record) = raw.get(&position) {
                decided.records.extend(self.dead_letter(record, refusal, now));
            }
        }
        self.perform(decided).await?;
        self.commit(next).await
    }

    async fn decode(
        &self,
        record: &LogRecord,
        now: Timestamp,
    ) -> Result<Result<<S::P as Processor>::Input, Refusal>, Fatal> {
        until_available("schema registry", &self.context.stop, || async {
            match self.stage.decode(record, now).await {
                Ok(input) => Ok(Ok(input)),
                Err(Undecoded::Refused(refusal)) => Ok(Err(refusal)),
                Err(Undecoded::Unavailable(error)) => Err(LogError::Unavailable(error)),
            }
        })
        .await
        .map_err(Fatal::from)
    }

    fn dead_letter(&self, record: &LogRecord, refusal: Refusal, now: Timestamp) -> Option<Record> {
        let letter = self.context.dead_letter(S::P::NAME, record, refusal, self.stage.project_of(record), now);
        // A dead letter that cannot be kept stays on its topic; a dead letter about it would come back here for ever.
        (record.position.topic != Topic::DeadLetters).then_some(letter)
    }

    /// Reads the needs of all inputs together, then decides in order.
    async fn decide(
        &self,
        inputs: &[Incoming<<S::P as Processor>::Input>],
        dead: Vec<Option<Record>>,
        now: Timestamp,
    ) -> Result<Decided, Fatal> {
        let mut decided = Decided { records: dead.into_iter().flatten().collect(), ..Decided::default() };
        if inputs.is_empty() {
            return Ok(decided);
        }
        let processor = self.stage.processor();
        let mut facts = Facts::default();
        let mut asked: HashSet<Read> = HashSet::new();
        for _ in 0..S::P::ROUNDS {
            let mut reads = Vec::new();
            for read in inputs.iter().flat_map(|input| processor.needs(input, &facts, now)) {
                if asked.insert(read.clone()) {
                    reads.push(read);
                }
            }
            if reads.is_empty() {
                break;
            }
            let store = &self.context.store;
            for rows in until_available("store", &self.context.stop, || store.read(&reads)).await? {
                facts.add(rows);
            }
        }
        for input in inputs {
            match processor.decide(input, &facts, now) {
                Ok(mut output) => {
                    facts.apply(&output.rows);
                    facts.apply(&output.after);
                    if let Some(refusal) = output.refused.take() {
                        decided.refused.push((input.position, refusal));
                    }
                    decided.take(output);
                }
                Err(refusal) => decided.refused.push((input.position, refusal)),
            }
        }
        Ok(decided)
    }

    /// Rows, then records, then what may only go once its effect is on the log, then what only makes sense once all rows are there.
    async fn perform(&self, decided: Decided) -> Result<(), Fatal> {
        let Context { log, store, stop, metrics, .. } = &self.context;
        for record in decided.records.iter().chain(&decided.announced) {
            if let Record::Decision(decision) = record {
                metrics.decided.with_label_values(&[S::P::NAME, decision.outcome.name()]).inc();
            }
        }
        let Decided { rows, records, after, announced, .. } = decided;
        for (rows, records) in [(rows, records), (after, announced)] {
            let rows: Vec<Write> = rows.into_values().collect();
            if !rows.is_empty() {
                until_available("store", stop, || store.write(rows.clone())).await?;
            }
            let appends = encode(records);
            if !appends.is_empty() {
                until_available("log", stop, || log.append(appends.clone())).await?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, next: BTreeMap<TopicPartition, u64>) -> Result<(), Fatal> {
        let commits: Vec<Commit> = next
            .iter()
            .map(|(at, offset)| Commit { at: *at, committed: Committed { offset: *offset, metadata: String::new() } })
            .collect();
        for (at, offset) in &next {
            self.owned.entry(*at).and_modify(|o| *o = *offset);
        }
        match self.consumer.commit(commits).await {
            Ok(()) => Ok(()),
            // The batch's effects are idempotent; whoever owns the partition now does them again.
            Err(CommitError::Superseded) => {
                tracing::info!(processor = S::P::NAME, "commit refused: another consumer owns the partition");
                Ok(())
            }
            // Whether it passed is unknown, and perhaps no further batch comes to say it for us.
            Err(CommitError::Log(error)) if error.is_transient() => {
                tracing::warn!(processor = S::P::NAME, %error, "commit not answered; committing again");
                self.unanswered = next;
                Ok(())
            }
            Err(CommitError::Log(error)) => Err(error.into()),
        }
    }
}

/// The outputs of a batch, rows by key: the last write of a row is the only one that goes out.
#[derive(Default)]
struct Decided {
    rows: BTreeMap<(&'static str, Key), Write>,
    records: Vec<Record>,
    after: BTreeMap<(&'static str, Key), Write>,
    announced: Vec<Record>,
    refused: Vec<(Position, Refusal)>,
    more: bool,
}

impl Decided {
    fn is_nothing(&self) -> bool {
        self.rows.is_empty() && self.records.is_empty() && self.after.is_empty() && self.announced.is_empty()
    }

    fn take(&mut self, output: Output) {
        let keyed = |write: Write| ((write.target().0.name, write.target().1.clone()), write);
        self.rows.extend(output.rows.into_iter().map(keyed));
        self.after.extend(output.after.into_iter().map(keyed));
        self.records.extend(output.records);
        self.announced.extend(output.announced);
        self.more |= output.more;
    }
}

/// Encodes records for the log. A record that its own schema refuses is a defect of ours, which tests find; it is reported, not hidden.
#[must_use]
pub fn encode(records: Vec<Record>) -> Vec<Append> {
    records
        .into_iter()
        .filter_map(|record| match Append::of(&record) {
            Ok(append) => Some(append),
            Err(error) => {
                tracing::error!(topic = %record.topic(), %error, "a record does not fit its schema");
                None
            }
        })
        .collect()
}

/// The refusal of bytes that their codec does not read.
#[must_use]
pub fn malformed(error: &bellwether_schemas::codec::CodecError) -> Refusal {
    let reason = match error {
        bellwether_schemas::codec::CodecError::UnknownSchema { .. } => Reason::UnknownSchema,
        _ => Reason::Malformed,
    };
    Refusal::new(reason, error.to_string())
}
