//! A member of a consumer group: lanes by priority, rebalances in the caller's own time, commits that are refused once we own nothing.
//! It works on librdkafka's queues directly, without a thread or a buffer of its own, and must never block the caller's thread on the network.

use super::{
    super::{
        Assignment, Commit, CommitError, Committed, Consumer, LogError, LogRecord, MAX_METADATA, Polled, TopicPartition,
    },
    Names, aside,
    callbacks::{Callbacks, Client, GroupEvent},
    error,
    error::Trouble,
    record,
};
use async_trait::async_trait;
use bellwether_schemas::Topic;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use std::{
    collections::BTreeSet,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{Notify, oneshot},
    task::JoinHandle,
};

/// Longest time between two looks at librdkafka's queue, which is what it counts as polling.
const KEEP_ALIVE: Duration = Duration::from_millis(500);
/// How long `close` waits for the group to let go.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A topic's partitions that we own. The order of lanes is their priority.
struct Lane {
    topic: Topic,
    partitions: Vec<(u32, PartitionQueue<Callbacks>)>,
    /// Where the next round begins, so that no partition is always last.
    turn: usize,
}

/// What this member owes the group.
#[derive(Debug)]
enum Owed {
    /// Nothing.
    Nothing,
    /// To start these partitions, once their commits are read.
    Assign(Vec<TopicPartition>),
    /// To let go of all partitions. The caller was told by the last poll and may have committed since.
    Unassign,
}

type Lookup = JoinHandle<KafkaResult<TopicPartitionList>>;

/// See the module.
pub(super) struct Member {
    group: String,
    client: Arc<Client>,
    names: Arc<Names>,
    lanes: Vec<Lane>,
    /// What may be committed. librdkafka does not know: after it rejoined, the broker takes its commits for any partition.
    owned: BTreeSet<TopicPartition>,
    owed: Owed,
    /// A commit that is under way. Its caller may have gone away, but no rebalance is answered before the broker has: librdkafka
    /// holds commits back while there is no coordinator, and would send them as a member of the next generation.
    committing: Option<oneshot::Receiver<KafkaResult<()>>>,
    /// The reading of commits that [`Owed::Assign`] waits for. It goes on when the poll that began it is dropped.
    lookup: Option<Lookup>,
    /// Notified when any of our queues is no longer empty.
    arrived: Arc<Notify>,
    session_timeout: Duration,
    served: Instant,
    /// The group has gone on without us, or must have: what is revoked next is lost already, whatever librdkafka thinks.
    expired: bool,
    trouble: Trouble,
    /// An error that is to be returned by the next poll, because this one has records to return.
    failure: Option<LogError>,
    left: bool,
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Member")
            .field("group", &self.group)
            .field("owned", &self.owned)
            .field("owed", &self.owed)
            .finish_non_exhaustive()
    }
}

impl Member {
    /// Subscribes; `client` must be fresh.
    pub(super) fn join(
        group: String,
        mut client: Client,
        names: Arc<Names>,
        topics: &[Topic],
        session_timeout: Duration,
    ) -> Result<Self, LogError> {
        let arrived = Arc::new(Notify::new());
        let wake = Arc::clone(&arrived);
        client.set_nonempty_callback(move || wake.notify_one());
        let subscription: Vec<&str> = topics.iter().map(|topic| names.of(*topic)).collect();
        client.subscribe(&subscription).map_err(|e| error::from_kafka(&e, &group))?;
        let lanes = topics.iter().map(|topic| Lane { topic: *topic, partitions: Vec::new(), turn: 0 }).collect();
        Ok(Self {
            group,
            client: Arc::new(client),
            names,
            lanes,
            owned: BTreeSet::new(),
            owed: Owed::Nothing,
            committing: None,
            lookup: None,
            arrived,
            session_timeout,
            served: Instant::now(),
            expired: false,
            trouble: Trouble::new("consumer"),
            failure: None,
            left: false,
        })
    }

    /// Serves librdkafka's main queue until it is empty: rebalances, errors, log lines. This is what keeps us a member.
    fn serve(&mut self) {
        let now = Instant::now();
        self.expired |= now.duration_since(std::mem::replace(&mut self.served, now)) > self.session_timeout;
        loop {
            let served = self.client.context().served();
            match self.client.poll(Duration::ZERO) {
                Some(Err(error)) => note(&self.trouble, &mut self.failure, &self.group, &error),
                // Partitions have queues of their own before they start, so this is a topic that was deleted and created again
                // under our feet. It starts over in its own queue.
                Some(Ok(stray)) => {
                    let offset = Offset::Offset(stray.offset());
                    if let Err(error) = self.client.seek(stray.topic(), stray.partition(), offset, Duration::ZERO) {
                        tracing::warn!(%error, topic = stray.topic(), "kafka: a record outside its queue");
                    }
                }
                None if self.client.context().served() == served => return,
                None => {}
            }
        }
    }

    /// Answers what is owed, and takes the next event. Returns what the caller must know.
    async fn rebalance(&mut self, deadline: Instant) -> Result<Option<Polled>, LogError> {
        loop {
            match &self.owed {
                Owed::Unassign => {
                    if !self.commit_settled(deadline).await {
                        return Ok(Some(Polled::Records(Vec::new())));
                    }
                    self.let_go()?;
                }
                Owed::Assign(partitions) => {
                    let Some(assignments) = self.progress(partitions.clone(), deadline).await? else {
                        return Ok(Some(Polled::Records(Vec::new())));
                    };
                    self.start(&assignments)?;
                    if !assignments.is_empty() {
                        return Ok(Some(Polled::Assigned(assignments)));
                    }
                }
                Owed::Nothing => match self.client.context().next_event() {
                    None => return Ok(None),
                    Some(GroupEvent::Assigned(partitions)) => self.owed = Owed::Assign(partitions),
                    Some(GroupEvent::Revoked { partitions, lost }) => {
                        self.owed = Owed::Unassign;
                        let lost = lost || self.expired;
                        if lost {
                            // Nothing can be committed any more. Letting go at once brings us back into the group sooner.
                            self.owned.clear();
                            self.lanes.iter_mut().for_each(|lane| lane.partitions.clear());
                            if self.committing.is_none() {
                                self.let_go()?;
                            }
                        }
                        if !partitions.is_empty() {
                            return Ok(Some(Polled::Revoked { partitions, lost }));
                        }
                    }
                },
            }
        }
    }

    fn let_go(&mut self) -> Result<(), LogError> {
        self.owned.clear();
        self.lanes.iter_mut().for_each(|lane| lane.partitions.clear());
        self.client.unassign().map_err(|e| error::from_kafka(&e, &self.group))?;
        self.owed = Owed::Nothing;
        Ok(())
    }

    /// Reads the group's progress in the partitions; none if the deadline comes before the answer. The next poll waits on.
    async fn progress(
        &mut self,
        partitions: Vec<TopicPartition>,
        deadline: Instant,
    ) -> Result<Option<Vec<Assignment>>, LogError> {
        let mut found = Vec::new();
        if !partitions.is_empty() {
            let lookup = match self.lookup.take() {
                Some(lookup) => lookup,
                None => self.look_up(&partitions)?,
            };
            let Ok(answer) = tokio::time::timeout_at(deadline.into(), self.lookup.insert(lookup)).await else {
                return Ok(None);
            };
            self.lookup = None;
            let answer = answer.map_err(|e| LogError::Unavailable(format!("{}: {e}", self.group)))?;
            let list = answer.map_err(|e| error::from_kafka(&e, &self.group))?;
            found = self.names.committed(&list, &self.group)?;
        }
        let committed = |at| found.iter().find(|c| c.at == at).map(|c| c.committed.clone());
        Ok(Some(partitions.into_iter().map(|at| Assignment { at, committed: committed(at) }).collect()))
    }

    fn look_up(&self, partitions: &[TopicPartition]) -> Result<Lookup, LogError> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for at in partitions {
            list.add_partition(self.names.of(at.topic), partition(*at)?);
        }
        let (client, timeout) = (Arc::clone(&self.client), self.session_timeout / 2);
        Ok(tokio::task::spawn_blocking(move || client.committed_offsets(list, timeout)))
    }

    /// Starts the partitions where the group stopped.
    fn start(&mut self, assignments: &[Assignment]) -> Result<(), LogError> {
        let mut list = TopicPartitionList::with_capacity(assignments.len());
        for lane in &mut self.lanes {
            lane.partitions.clear();
            lane.turn = 0;
        }
        for Assignment { at, committed } in assignments {
            let from = match committed {
                Some(committed) => offset(committed.offset)?,
                None => Offset::Beginning,
            };
            let partition = partition(*at)?;
            list.add_partition_offset(self.names.of(at.topic), partition, from)
                .map_err(|e| error::from_kafka(&e, &self.group))?;
            self.split(*at, partition)?;
        }
        self.client.assign(&list).map_err(|e| error::from_kafka(&e, &self.group))?;
        self.owned = assignments.iter().map(|assignment| assignment.at).collect();
        self.expired = false;
        self.owed = Owed::Nothing;
        Ok(())
    }

    /// Gives the partition a queue of its own, before the first record can arrive: a full lane then never stands before an urgent one,
    /// and librdkafka stops fetching just the partitions whose queues are full.
    fn split(&mut self, at: TopicPartition, partition: i32) -> Result<(), LogError> {
        let name = self.names.of(at.topic);
        let mut queue = self
            .client
            .split_partition_queue(name, partition)
            .ok_or_else(|| LogError::Unavailable(format!("{name}/{partition}: no queue yet")))?;
        let wake = Arc::clone(&self.arrived);
        queue.set_nonempty_callback(move || wake.notify_one());
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.topic == at.topic) {
            lane.partitions.push((at.partition, queue));
        }
        Ok(())
    }

    /// Takes at most `max` records that have arrived, lane by lane.
    fn take(&mut self, max: usize) -> Vec<LogRecord> {
        let mut records = Vec::new();
        for lane in &mut self.lanes {
            lane.take(max, &mut records, |error| note(&self.trouble, &mut self.failure, &self.group, &error));
        }
        if !records.is_empty() {
            self.trouble.over();
        }
        records
    }

    /// Waits until no commit is under way; false if the deadline comes first.
    async fn commit_settled(&mut self, deadline: Instant) -> bool {
        match &mut self.committing {
            None => true,
            Some(commit) => {
                let settled = tokio::time::timeout_at(deadline.into(), commit).await.is_ok();
                if settled {
                    self.committing = None;
                }
                settled
            }
        }
    }

    fn commit_list(&self, commits: &[Commit]) -> Result<TopicPartitionList, LogError> {
        let mut list = TopicPartitionList::with_capacity(commits.len());
        for Commit { at, committed } in commits {
            let bytes = committed.metadata.len();
            if bytes > MAX_METADATA {
                return Err(LogError::Refused(format!(
                    "commit metadata of {bytes} bytes for {}/{}: use at most {MAX_METADATA}",
                    at.topic, at.partition
                )));
            }
            let mut element = list.add_partition(self.names.of(at.topic), partition(*at)?);
            element.set_offset(offset(committed.offset)?).map_err(|e| error::from_kafka(&e, &self.group))?;
            element.set_metadata(&committed.metadata);
        }
        Ok(list)
    }

    /// Leaves the group on a thread of its own: librdkafka's way out waits for the broker.
    fn leave(&mut self) -> Option<oneshot::Receiver<()>> {
        if std::mem::replace(&mut self.left, true) {
            return None;
        }
        self.client.context().leave();
        self.lanes.clear();
        let (done, gone) = oneshot::channel();
        let client = Arc::clone(&self.client);
        aside(move || {
            close(&client);
            drop(client);
            // Nobody listens when the member was just dropped.
            done.send(()).ok();
        });
        Some(gone)
    }
}

/// Closes the consumer: hands back its partitions and says goodbye to the coordinator.
fn close(client: &Client) {
    // A rebalance may be waiting for this answer; without it closing would wait for ever.
    if let Err(error) = client.unassign() {
        tracing::debug!(%error, "kafka: unassign while leaving the group");
    }
    if let Err(error) = client.close_queue() {
        tracing::debug!(%error, "kafka: the group was left already");
        return;
    }
    let deadline = Instant::now() + CLOSE_TIMEOUT;
    while !client.closed() && Instant::now() < deadline {
        if let Some(Err(error)) = client.poll(Duration::from_millis(20)) {
            tracing::debug!(%error, "kafka: leaving the group");
        }
    }
}

impl Lane {
    /// First every partition gives its share, then those that have more fill what is left.
    fn take(&mut self, max: usize, records: &mut Vec<LogRecord>, mut failed: impl FnMut(KafkaError)) {
        let count = self.partitions.len();
        if count == 0 || records.len() >= max {
            return;
        }
        let share = (max - records.len()).div_ceil(count);
        let first = self.turn;
        self.turn = (first + 1) % count;
        let order = (0..count).map(|n| (first + n) % count);
        for (round, index) in order.clone().map(|i| (share, i)).chain(order.map(|i| (max, i))) {
            let room = round.min(max - records.len());
            let (partition, queue) = &self.partitions[index];
            for _ in 0..room {
                match queue.poll(Duration::ZERO) {
                    None => break,
                    Some(Ok(message)) => records.extend(record(self.topic, *partition, &message)),
                    Some(Err(error)) => failed(error),
                }
            }
        }
    }
}

/// Judges an error that librdkafka reported by the way. It recovers from most by itself, so those are said once and ridden out.
fn note(trouble: &Trouble, failure: &mut Option<LogError>, group: &str, error: &KafkaError) {
    match error {
        KafkaError::MessageConsumption(RDKafkaErrorCode::PollExceeded) => {
            tracing::warn!(group, "kafka: not polled for the session timeout, out of the group; joining again");
        }
        KafkaError::MessageConsumptionFatal(code) => {
            *failure = Some(LogError::Refused(format!("{group}: {code}; start the consumer again")));
        }
        KafkaError::MessageConsumption(code) => match error::from_code(*code, group) {
            refused @ LogError::Refused(_) => *failure = Some(refused),
            _ => trouble.met(*code),
        },
        _ => {}
    }
}

#[async_trait]
impl Consumer for Member {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Polled, LogError> {
        let deadline = Instant::now() + wait;
        loop {
            self.serve();
            if let Some(change) = self.rebalance(deadline).await? {
                return Ok(change);
            }
            // From taking to returning there is no await, so a dropped call has taken nothing.
            let records = self.take(max);
            if !records.is_empty() {
                return Ok(Polled::Records(records));
            }
            if let Some(failure) = self.failure.take() {
                return Err(failure);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Polled::Records(Vec::new()));
            }
            // Whether it was notified or not, the queues are looked at again.
            tokio::time::timeout(left.min(KEEP_ALIVE), self.arrived.notified()).await.ok();
        }
    }

    async fn seek(&mut self, at: TopicPartition, to: u64) -> Result<(), LogError> {
        let name = self.names.of(at.topic).to_owned();
        let ours = |lane: &Lane| lane.topic == at.topic && lane.partitions.iter().any(|(p, _)| *p == at.partition);
        if !self.lanes.iter().any(ours) {
            return Err(LogError::Refused(format!(
                "{name}/{}: not assigned to this consumer, cannot seek",
                at.partition
            )));
        }
        let (partition, to) = (partition(at)?, offset(to)?);
        let client = Arc::clone(&self.client);
        let group = self.group.clone();
        // The answer comes from librdkafka's own thread. What was read ahead is void from the moment of the call.
        blocking(move || client.seek(&name, partition, to, Duration::from_secs(5)))
            .await?
            .map_err(|e| error::from_kafka(&e, &group))
    }

    async fn commit(&mut self, commits: Vec<Commit>) -> Result<(), CommitError> {
        if commits.is_empty() {
            return Ok(());
        }
        // librdkafka holds a commit back for as long as there is no coordinator. Half a session is left to poll in.
        let deadline = Instant::now() + self.session_timeout / 2;
        let unanswered = LogError::Unavailable(format!("{}: a commit has no answer", self.group));
        // What became of an earlier one nobody asks any more; but the later must win.
        if !self.commit_settled(deadline).await {
            return Err(unanswered.into());
        }
        if self.client.assignment_lost() || commits.iter().any(|commit| !self.owned.contains(&commit.at)) {
            return Err(CommitError::Superseded);
        }
        let list = self.commit_list(&commits)?;
        let client = Arc::clone(&self.client);
        let (answer, commit) = oneshot::channel();
        // Not on a thread of the runtime: without a broker there may never be an answer, and the runtime could not end before.
        aside(move || drop(answer.send(client.commit(&list, CommitMode::Sync))));
        let commit = self.committing.insert(commit);
        let Ok(outcome) = tokio::time::timeout_at(deadline.into(), commit).await else {
            return Err(unanswered.into());
        };
        self.committing = None;
        let outcome = outcome.map_err(|e| LogError::Unavailable(format!("{}: {e}", self.group)))?;
        let outcome = outcome.map_err(|e| error::from_commit(&e, &self.group));
        match &outcome {
            Ok(()) => self.expired = false,
            Err(CommitError::Superseded) => {
                // Also of the partitions that this commit did not name. The next assignment gives new ones.
                self.owned.clear();
                self.expired = true;
            }
            Err(CommitError::Log(_)) => {}
        }
        outcome
    }

    async fn close(mut self: Box<Self>) {
        if let Some(gone) = self.leave() {
            // Too late or not, the thread goes on by itself.
            tokio::time::timeout(CLOSE_TIMEOUT, gone).await.ok();
        }
    }

    fn session_timeout(&self) -> Duration {
        self.session_timeout
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.leave();
    }
}

fn partition(at: TopicPartition) -> Result<i32, LogError> {
    i32::try_from(at.partition).map_err(|_| LogError::UnknownTopic(format!("{}/{}", at.topic, at.partition)))
}

fn offset(offset: u64) -> Result<Offset, LogError> {
    i64::try_from(offset)
        .map(Offset::Offset)
        .map_err(|_| LogError::Refused(format!("offset {offset} is beyond what Kafka can count")))
}

/// Runs one of librdkafka's waiting calls off the caller's thread.
pub(super) async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Result<T, LogError> {
    tokio::task::spawn_blocking(call).await.map_err(|e| LogError::Unavailable(format!("kafka: {e}")))
}

/// What a list of committed offsets says of our topics.
impl Names {
    pub(super) fn committed(&self, list: &TopicPartitionList, subject: &str) -> Result<Vec<Commit>, LogError> {
        let mut commits = Vec::with_capacity(list.count());
        for element in list.elements() {
            element.error().map_err(|e| error::from_kafka(&e, subject))?;
            if let (Some(at), Offset::Offset(offset)) = (self.at(&element), element.offset()) {
                let offset = u64::try_from(offset).unwrap_or(0);
                commits.push(Commit { at, committed: Committed { offset, metadata: element.metadata().to_owned() } });
            }
        }
        Ok(commits)
    }
}
