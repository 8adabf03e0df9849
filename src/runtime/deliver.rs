//! The loop of deliver: claim by commit, call, settle (law 2). A claim is committed before any of its calls starts; whoever takes a partition
//! over reads from the commit which calls are in doubt. What a call came to is on the log before its offset is settled.
//!
//! The loop decides nothing: what is sent is `processors::deliver::prepare`, what follows is `settle`, which offsets are whose is the `Ledger`.

use crate::{
    runtime::{
        message::message,
        retry::until_available,
        sinks::{Outlet, Sinks},
        stages::project_in_key,
        worker::{Context, Fatal, encode, malformed},
    },
    tracking::Trackers,
};
use bellwether_connectors::{
    channels::{Accepted, Message, SendError},
    log::{Commit, CommitError, Committed, Consumer, LogError, LogRecord, Polled, TopicPartition},
};
use bellwether_processors::{
    Output,
    definitions::Projects,
    deliver::{Prepared, Tried, expired, prepare, settle},
    ledger::{Arrival, Ledger},
    processor::Refusal,
};
use bellwether_schemas::{
    Channel, Lane, Topic,
    codec::decode,
    definitions::{OnAmbiguous, Provider},
    records::{Delivery, ErrorKind, Reason, Record},
};
use futures::FutureExt as _;
use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};

/// One consumer of a channel's deliveries.
pub struct Deliverer {
    channel: Channel,
    context: Context,
    consumer: Box<dyn Consumer>,
    projects: watch::Receiver<Projects>,
    sinks: Arc<Sinks>,
    trackers: Trackers,
    /// Records that may be here at once: arrived and not settled.
    window: usize,
    /// Partitions of the channel's topics, all instances together.
    partitions: usize,
    /// How many of them were ours when the providers' pace was set.
    sharing: Option<usize>,
    books: BTreeMap<TopicPartition, Book>,
    /// Claimed and not yet started, the transactional lane first.
    ready: [VecDeque<Job>; 2],
    calls: JoinSet<Called>,
    /// Ended and not yet on the log.
    ended: Vec<Ended>,
    /// The books say more than what was committed, without a call having ended.
    uncommitted: bool,
    /// Changes of the providers' health that were looked at; `None` while something waits for a stopped provider that another could take.
    health_seen: Option<u64>,
    /// When a commit last passed: proof that we were the owner then.
    proven: Instant,
}

/// A partition of ours.
struct Book {
    ledger: Ledger,
    /// Arrived and not claimed, in order.
    waiting: VecDeque<Job>,
    /// What was committed last.
    committed: (u64, String),
}

/// A delivery that is to be sent.
struct Job {
    at: TopicPartition,
    offset: u64,
    record: LogRecord,
    delivery: Delivery,
    message: Message,
    outlet: Arc<Outlet>,
    provider: Provider,
}

/// A call that came back.
struct Called {
    job: Job,
    result: Result<Accepted, SendError>,
}

/// An offset that needs no call any more, with what is to be told.
struct Ended {
    at: TopicPartition,
    offset: u64,
    records: Vec<Record>,
}

impl Deliverer {
    /// Joins the channel's group.
    ///
    /// # Errors
    /// The log refuses us, or `stop` was cancelled before it answered.
    pub async fn join(
        channel: Channel,
        context: Context,
        projects: watch::Receiver<Projects>,
        sinks: Arc<Sinks>,
        window: usize,
    ) -> Result<Self, Fatal> {
        let topics = Lane::ALL.map(|lane| Topic::Deliveries(channel, lane));
        let group = group(channel);
        let consumer = until_available("log", &context.stop, || context.log.subscribe(&group, &topics)).await?;
        let mut partitions = 0;
        for topic in topics {
            partitions += until_available("log", &context.stop, || context.log.bounds(topic)).await?.len();
        }
        Ok(Self {
            partitions,
            sharing: None,
            channel,
            context,
            consumer,
            projects,
            sinks,
            trackers: Trackers::default(),
            window: window.max(1),
            books: BTreeMap::new(),
            ready: [VecDeque::new(), VecDeque::new()],
            calls: JoinSet::new(),
            ended: Vec::new(),
            uncommitted: false,
            health_seen: Some(0),
            proven: Instant::now(),
        })
    }

    /// Runs until told to stop; then starts nothing more, waits for the calls in flight, settles them and leaves the group.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn run(mut self) -> Result<(), Fatal> {
        while !self.context.stop.is_cancelled() {
            self.step(Duration::from_secs(1)).await?;
        }
        let all: Vec<TopicPartition> = self.books.keys().copied().collect();
        self.retire(&all).await?;
        self.consumer.close().await;
        Ok(())
    }

    /// Collects what came back, flushes and claims, starts what may start, then waits at most `wait` for the next thing to happen.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn step(&mut self, wait: Duration) -> Result<(), Fatal> {
        // A loop that always finds something to do would otherwise never give its thread away.
        tokio::task::coop::consume_budget().await;
        if self.sharing != Some(self.books.len()) {
            self.sharing = Some(self.books.len());
            self.sinks.set_share(self.channel, self.books.len() as f64 / self.partitions.max(1) as f64);
        }
        while let Some(called) = self.calls.try_join_next() {
            self.finish(called);
        }
        let changes = self.sinks.board().changes();
        if self.health_seen != Some(changes) {
            self.health_seen = Some(changes);
            self.reroute();
        }
        if self.is_worth_a_flush() {
            self.flush().await?;
        }
        let paced = self.start();
        let room = self.window.saturating_sub(self.present());
        let wait = paced.unwrap_or(wait).min(wait).min(self.consumer.session_timeout() / 8);
        // With something to flush there is nothing to wait for but what is there already.
        let wait = if self.is_worth_a_flush() { Duration::ZERO } else { wait };
        let stop = self.context.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(()),
            Some(called) = self.calls.join_next(), if !self.calls.is_empty() => {
                self.finish(called);
                Ok(())
            }
            polled = self.consumer.poll(room, wait) => self.take(polled).await,
        }
    }

    /// Calls in flight: what a hard kill leaves in doubt is no more than these and what is claimed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// The state in one line, for whoever wonders why nothing moves.
    #[must_use]
    pub fn state(&self) -> String {
        let waiting: usize = self.books.values().map(|b| b.waiting.len()).sum();
        let ready: usize = self.ready.iter().map(VecDeque::len).sum();
        let books: Vec<_> =
            self.books.iter().map(|(at, b)| (at.topic.name(), at.partition, b.ledger.commit())).collect();
        format!(
            "waiting {waiting}, ready {ready}, calls {}, ended {}, claim proven {:?} ago, books {books:?}",
            self.calls.len(),
            self.ended.len(),
            self.proof_age()
        )
    }

    fn present(&self) -> usize {
        let waiting: usize = self.books.values().map(|b| b.waiting.len()).sum();
        waiting + self.ready.iter().map(VecDeque::len).sum::<usize>() + self.calls.len() + self.ended.len()
    }

    fn is_worth_a_flush(&self) -> bool {
        let claimable = || self.books.values().filter_map(|b| b.waiting.front()).any(|job| job.outlet.has_room());
        let stale =
            || self.ready.iter().any(|r| !r.is_empty()) && self.proof_age() > self.consumer.session_timeout() / 6;
        self.uncommitted || !self.ended.is_empty() || claimable() || stale()
    }

    fn proof_age(&self) -> Duration {
        self.proven.elapsed()
    }

    async fn take(&mut self, polled: Result<Polled, LogError>) -> Result<(), Fatal> {
        match polled {
            Ok(Polled::Records(records)) => {
                for record in records {
                    self.arrive(record);
                }
                Ok(())
            }
            Ok(Polled::Assigned(assignments)) => {
                for assignment in assignments {
                    let committed = assignment.committed.map_or((0, String::new()), |c| (c.offset, c.metadata));
                    let ledger = Ledger::open(committed.0, &committed.1);
                    if ledger.history() < committed.0 {
                        until_seek(&mut self.consumer, assignment.at, ledger.history(), &self.context).await?;
                    }
                    self.books.insert(assignment.at, Book { ledger, waiting: VecDeque::new(), committed });
                }
                Ok(())
            }
            Ok(Polled::Revoked { partitions, lost: false }) => self.retire(&partitions).await,
            Ok(Polled::Revoked { partitions, lost: true }) => {
                self.drop_unstarted(&partitions);
                for at in &partitions {
                    self.books.remove(at);
                }
                Ok(())
            }
            Err(error) if error.is_transient() => {
                tracing::warn!(channel = %self.channel, %error, "poll failed; polling again");
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Enters a record in the books and prepares it.
    fn arrive(&mut self, record: LogRecord) {
        let at = TopicPartition { topic: record.position.topic, partition: record.position.partition };
        let offset = record.position.offset;
        let decoded = decode::<Delivery>(&record.payload);
        let identity = match &decoded {
            Ok(delivery) => identity(delivery, &record),
            Err(_) => bellwether_schemas::topics::hash(record.position.to_string().as_bytes()),
        };
        let Some(book) = self.books.get_mut(&at) else { return };
        let arrival = book.ledger.arrive(offset, identity);
        if matches!(arrival, Arrival::Past | Arrival::Duplicate) {
            // It may have closed a gap in the books; nothing else would tell the log.
            self.uncommitted = true;
            return;
        }
        let now = self.context.clock.now();
        let delivery = match decoded {
            Ok(delivery) => delivery,
            Err(error) => {
                let output = Output { refused: Some(malformed(&error)), ..Output::default() };
                self.end(at, offset, &record, output);
                return;
            }
        };
        match self.job(at, offset, record, delivery, None) {
            Ok(job) if arrival == Arrival::Ambiguous && job.provider.on_ambiguous == OnAmbiguous::Hold => {
                let doubt = Tried::Failed {
                    kind: ErrorKind::Ambiguous,
                    detail: "the process that claimed it ended before it was settled".into(),
                    after: None,
                };
                let output = settle(&job.delivery, &job.message.reference.provider, &job.provider, doubt, now);
                self.end(at, offset, &job.record, output);
            }
            Ok(job) => {
                if let Some(book) = self.books.get_mut(&at) {
                    book.waiting.push_back(job);
                }
            }
            Err(ended) => {
                let (record, output) = *ended;
                self.end(at, offset, &record, output);
            }
        }
    }

    /// Prepares a delivery to be sent, `by` that provider or by the one that it belongs to now; or its record, and how it ends without a call.
    fn job(
        &self,
        at: TopicPartition,
        offset: u64,
        record: LogRecord,
        delivery: Delivery,
        by: Option<&str>,
    ) -> Result<Job, Box<(LogRecord, Output)>> {
        let now = self.context.clock.now();
        let projects = self.projects.borrow().clone();
        let Some(project) = projects.get(&delivery.project) else {
            let detail = format!("project: `{}` has no definitions; apply them, then replay", delivery.project);
            let refused = Some(Refusal::new(Reason::Invalid, detail));
            return Err(Box::new((record, Output { refused, ..Output::default() })));
        };
        let may_call = |name: &str| by.map_or_else(|| self.sinks.takes(project, name), |by| by == name);
        match prepare(&delivery, project, may_call, now) {
            Prepared::End(output) => Err(Box::new((record, output))),
            Prepared::Send(rendered, name, provider) => {
                let tracker = match self.trackers.of(project) {
                    Ok(tracker) => tracker,
                    // Without its links a message must not go out: a letter to many would offer no way to unsubscribe.
                    Err(error) => {
                        let (kind, detail) = (ErrorKind::Unauthorized, error.to_string());
                        let tried = Tried::Failed { kind, detail, after: None };
                        return Err(Box::new((record, settle(&delivery, &name, &provider, tried, now))));
                    }
                };
                let outlet = self.sinks.outlet(&delivery.project, &name, &provider);
                let message = message(&delivery, *rendered, &name, tracker.as_deref(), now);
                Ok(Job { at, offset, record, delivery, message, outlet, provider })
            }
        }
    }

    /// Gives what waits for a stopped provider to another one that may be called, where there is one.
    fn reroute(&mut self) {
        for lane in 0..self.ready.len() {
            for job in std::mem::take(&mut self.ready[lane]) {
                // What is claimed has a place among the calls of its provider.
                match self.rerouted(&job) {
                    Some(Ok(other)) if other.outlet.reserve() => {
                        job.outlet.release();
                        self.ready[lane].push_back(other);
                    }
                    Some(Err(output)) => {
                        job.outlet.release();
                        self.end(job.at, job.offset, &job.record, output);
                    }
                    None => self.ready[lane].push_back(job),
                    Some(Ok(_)) => {
                        self.health_seen = None;
                        self.ready[lane].push_back(job);
                    }
                }
            }
        }
        let partitions: Vec<TopicPartition> = self.books.keys().copied().collect();
        for at in partitions {
            let waiting = self.books.get_mut(&at).map(|book| std::mem::take(&mut book.waiting)).unwrap_or_default();
            let mut kept = VecDeque::with_capacity(waiting.len());
            for job in waiting {
                match self.rerouted(&job) {
                    None => kept.push_back(job),
                    Some(Ok(other)) => kept.push_back(other),
                    Some(Err(output)) => self.end(at, job.offset, &job.record, output),
                }
            }
            if let Some(book) = self.books.get_mut(&at) {
                book.waiting = kept;
            }
        }
    }

    /// A job that waits for a stopped provider, made anew for one that may be called and has room; or how it ends without a call. `None`:
    /// it stays as it is.
    fn rerouted(&mut self, job: &Job) -> Option<Result<Job, Output>> {
        if !job.outlet.is_stopped() {
            return None;
        }
        let project = self.projects.borrow().get(&job.delivery.project).cloned()?;
        let may_call = |name: &str| self.sinks.takes(&project, name);
        let (name, provider) =
            project.sender_of(&job.delivery.template, self.channel, &job.delivery.address, may_call)?;
        let outlet = self.sinks.outlet(&project.project, name, provider);
        if Arc::ptr_eq(&outlet, &job.outlet) {
            return None;
        }
        if !outlet.has_room() {
            self.health_seen = None;
            return None;
        }
        let made = self.job(job.at, job.offset, job.record.clone(), job.delivery.clone(), Some(name));
        Some(made.map_err(|ended| ended.1))
    }

    /// An offset is done: its records go out with the next flush.
    fn end(&mut self, at: TopicPartition, offset: u64, record: &LogRecord, mut output: Output) {
        if let Some(refusal) = output.refused.take() {
            let (project, now) = (project_in_key(&record.key), self.context.clock.now());
            output.records.push(self.context.dead_letter(NAME, record, refusal, project, now));
        }
        self.ended.push(Ended { at, offset, records: output.records });
    }

    fn finish(&mut self, called: Result<Called, tokio::task::JoinError>) {
        let Called { job, result } = match called {
            Ok(called) => called,
            // Only a runtime that is ending cancels calls; the claim stands, so the next owner treats it as ambiguous.
            Err(error) => {
                tracing::error!(channel = %self.channel, %error, "a call to a provider did not come back");
                return;
            }
        };
        job.outlet.done();
        let now = self.context.clock.now();
        let (channel, lane) = (self.channel.name(), job.delivery.lane.name());
        let outcome = result.as_ref().map_or_else(|e| e.kind.name(), |_| "accepted");
        self.context.metrics.delivered.with_label_values(&[channel, lane, outcome]).inc();
        let tried = match result {
            Ok(accepted) => {
                let took = now.since(job.delivery.accepted_at).as_secs_f64();
                self.context.metrics.end_to_end_of(channel, lane).observe(took);
                let Accepted { provider_id, moved_to, segments } = accepted;
                if let Some(segments) = segments {
                    let provider = format!("{}/{}", job.delivery.project, job.message.reference.provider);
                    let labels = [provider.as_str(), segments.encoding.name()];
                    self.context.metrics.sms_segments.with_label_values(&labels).inc_by(segments.segments as u64);
                }
                Tried::Accepted { provider_id, moved_to, detail: segments.map(|segments| segments.to_string()) }
            }
            Err(SendError { kind, detail, after, .. }) => Tried::Failed { kind, detail, after },
        };
        let output = settle(&job.delivery, &job.message.reference.provider, &job.provider, tried, now);
        self.end(job.at, job.offset, &job.record, output);
    }

    /// Puts what ended on the log, then commits what is settled together with new claims; only then the claimed may start.
    async fn flush(&mut self) -> Result<(), Fatal> {
        let ended = std::mem::take(&mut self.ended);
        let mut told = Vec::new();
        let mut settled = Vec::with_capacity(ended.len());
        for one in ended {
            told.extend(one.records);
            settled.push((one.at, one.offset));
        }
        let appends = encode(told);
        if !appends.is_empty() {
            let Context { log, stop, .. } = &self.context;
            until_available("log", stop, || log.append(appends.clone())).await?;
        }
        for (at, offset) in settled {
            if let Some(book) = self.books.get_mut(&at) {
                book.ledger.settle(offset);
            }
        }
        let claimed = self.claim();
        self.commit(claimed).await
    }

    /// Takes from the waiting what may be called now: transactional before bulk, each partition in order.
    fn claim(&mut self) -> Vec<Job> {
        let mut claimed = Vec::new();
        let mut order: Vec<TopicPartition> = self.books.keys().copied().collect();
        order.sort_by_key(|at| (lane_of(at.topic), at.partition));
        for at in order {
            let Some(book) = self.books.get_mut(&at) else { continue };
            while let Some(job) = book.waiting.front() {
                if book.ledger.is_settled(job.offset) {
                    book.waiting.pop_front();
                    continue;
                }
                if !book.ledger.can_claim(job.offset) || !job.outlet.reserve() {
                    break;
                }
                book.ledger.claim(job.offset);
                claimed.extend(book.waiting.pop_front());
            }
        }
        claimed
    }

    async fn commit(&mut self, claimed: Vec<Job>) -> Result<(), Fatal> {
        self.uncommitted = false;
        let renew = self.proof_age() > self.consumer.session_timeout() / 6;
        // A claim is committed even where it says what stands there already, because the predecessor claimed the same: it proves who owns it now.
        let mut proving: HashSet<TopicPartition> = claimed.iter().map(|job| job.at).collect();
        if renew {
            proving.extend(self.ready.iter().flatten().map(|job| job.at));
        }
        let mut commits = Vec::new();
        for (at, book) in &mut self.books {
            let now = book.ledger.commit();
            if now != book.committed || proving.contains(at) {
                let (offset, metadata) = now.clone();
                commits.push(Commit { at: *at, committed: Committed { offset, metadata } });
                book.committed = now;
            }
        }
        if commits.is_empty() {
            return Ok(());
        }
        match self.consumer.commit(commits).await {
            Ok(()) => {
                self.proven = Instant::now();
                for job in claimed {
                    self.ready[lane_of(job.at.topic)].push_back(job);
                }
                Ok(())
            }
            Err(CommitError::Superseded) => {
                tracing::info!(channel = %self.channel, "claim refused: another consumer owns the partitions");
                release(claimed);
                let all: Vec<TopicPartition> = self.books.keys().copied().collect();
                self.drop_unstarted(&all);
                self.books.clear();
                Ok(())
            }
            Err(CommitError::Log(error)) if error.is_transient() => {
                tracing::warn!(channel = %self.channel, %error, "commit failed; committing again");
                self.uncommitted = true;
                for book in self.books.values_mut() {
                    book.committed = (u64::MAX, String::new()); // Whatever stands there now: say it all again.
                }
                self.give_back(claimed);
                Ok(())
            }
            Err(CommitError::Log(error)) => Err(error.into()),
        }
    }

    /// Whether the commit passed is unknown, so nothing of it may start; the jobs wait again, in their order.
    fn give_back(&mut self, claimed: Vec<Job>) {
        for job in claimed.into_iter().rev() {
            job.outlet.release();
            if let Some(book) = self.books.get_mut(&job.at) {
                book.waiting.push_front(job);
            }
        }
    }

    /// Starts claimed calls, the urgent ones first, as far as pacing permits; returns how long pacing makes the next one wait.
    fn start(&mut self) -> Option<Duration> {
        if self.ready.iter().all(VecDeque::is_empty) {
            return None;
        }
        if self.proof_age() > self.consumer.session_timeout() / 3 {
            // Perhaps somebody else owns the partition by now: prove the claim again before anything starts.
            return Some(Duration::ZERO);
        }
        let now = self.context.clock.now();
        let mut soonest: Option<Duration> = None;
        for lane in 0..self.ready.len() {
            let mut held = VecDeque::new();
            let mut blocked: Vec<Arc<Outlet>> = Vec::new();
            while let Some(job) = self.ready[lane].pop_front() {
                let provider = &job.message.reference.provider;
                if let Some(output) = expired(&job.delivery, provider, &job.provider, now) {
                    job.outlet.release();
                    self.end(job.at, job.offset, &job.record, output);
                    continue;
                }
                if blocked.iter().any(|outlet| Arc::ptr_eq(outlet, &job.outlet)) {
                    held.push_back(job);
                    continue;
                }
                match job.outlet.permit() {
                    Ok(go) => {
                        self.calls.spawn(async move {
                            let call = AssertUnwindSafe(job.outlet.send(go, &job.message)).catch_unwind().await;
                            let result = call.unwrap_or_else(|_| {
                                // What it did before it panicked nobody knows.
                                Err(SendError::new(ErrorKind::Ambiguous, "the connector panicked; see its trace"))
                            });
                            Called { job, result }
                        });
                    }
                    Err(wait) => {
                        soonest = Some(soonest.map_or(wait, |s| s.min(wait)));
                        blocked.push(Arc::clone(&job.outlet));
                        held.push_back(job);
                    }
                }
            }
            self.ready[lane] = held;
        }
        soonest
    }

    /// Partitions go to somebody else and may still be committed: start nothing more of them, wait for their calls, settle, hand over.
    async fn retire(&mut self, partitions: &[TopicPartition]) -> Result<(), Fatal> {
        self.drop_unstarted(partitions);
        // Calls end by themselves within the provider's timeout; longer than this nobody waits for us.
        let patience = Instant::now() + self.consumer.session_timeout() / 2;
        while let Ok(Some(called)) = tokio::time::timeout_at(patience, self.calls.join_next()).await {
            self.finish(called);
        }
        self.flush().await?;
        for at in partitions {
            self.books.remove(at);
        }
        Ok(())
    }

    fn drop_unstarted(&mut self, partitions: &[TopicPartition]) {
        let mut first: BTreeMap<TopicPartition, u64> = BTreeMap::new();
        for queue in &mut self.ready {
            for job in std::mem::take(queue) {
                if partitions.contains(&job.at) {
                    let lowest = first.entry(job.at).or_insert(job.offset);
                    *lowest = job.offset.min(*lowest);
                    job.outlet.release();
                } else {
                    queue.push_back(job);
                }
            }
        }
        for at in partitions {
            if let Some(book) = self.books.get_mut(at) {
                book.waiting.clear();
                // Calls start in the order of their offsets, so nothing from the first unstarted one on was called.
                if let Some(offset) = first.get(at) {
                    book.ledger.unclaim(*offset);
                }
            }
        }
    }
}

/// Name in metrics and dead letters.
const NAME: &str = "deliver";

/// Consumer group of a channel.
#[must_use]
pub fn group(channel: Channel) -> String {
    format!("{NAME}.{channel}")
}

const fn lane_of(topic: Topic) -> usize {
    match topic {
        Topic::Deliveries(_, Lane::Transactional) => 0,
        _ => 1,
    }
}

fn release(jobs: Vec<Job>) {
    for job in jobs {
        job.outlet.release();
    }
}

/// What makes two records the same try: delivery, attempt, and the replay that an operator asked for, if any.
fn identity(delivery: &Delivery, record: &LogRecord) -> u64 {
    let mut bytes = delivery.id.0.as_bytes().to_vec();
    bytes.extend_from_slice(&delivery.attempt.to_be_bytes());
    for header in record.headers.iter().filter(|h| h.name == REPLAY_HEADER) {
        bytes.extend_from_slice(&header.value);
    }
    bellwether_schemas::topics::hash(&bytes)
}

/// Header of a replayed dead letter: its value tells one replay from another.
pub const REPLAY_HEADER: &str = "bellwether-replay";

async fn until_seek(
    consumer: &mut Box<dyn Consumer>,
    at: TopicPartition,
    offset: u64,
    context: &Context,
) -> Result<(), Fatal> {
    let mut tries = 0u32;
    loop {
        match consumer.seek(at, offset).await {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() && tries < 50 && !context.stop.is_cancelled() => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
