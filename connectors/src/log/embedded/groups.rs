//! Consumer groups within one process: who owns which partition, and when it changes hands. A state machine without I/O or clock:
//! time comes in with each call. It must never give a partition to a second member while the first may still commit it.

use super::super::TopicPartition;
use bellwether_schemas::Topic;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::Notify, time::Instant};

/// A consumer, unique within the process. Members are ordered by when they were made.
pub(super) type MemberId = u64;

/// What a member learns by polling.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It was put out of the group and has just joined again, owning nothing.
    PutOut,
    /// These must go; it may commit them until its next poll.
    Revoked(Vec<TopicPartition>),
    /// These are now its own.
    Assigned(Vec<TopicPartition>),
    /// Nothing, and nothing will change before this time unless the member is woken.
    None(Option<Instant>),
}

/// A topic and how many partitions it has.
pub(super) type Subscription = Vec<(Topic, u32)>;

/// All groups.
#[derive(Debug)]
pub(super) struct Groups {
    session_timeout: Duration,
    groups: Mutex<HashMap<String, Group>>,
}

#[derive(Debug, Default)]
struct Group {
    /// Grows with each member that comes or goes.
    generation: u64,
    members: BTreeMap<MemberId, Member>,
    /// Who is to own what in this generation.
    target: BTreeMap<TopicPartition, MemberId>,
    slots: BTreeMap<TopicPartition, Slot>,
}

#[derive(Debug)]
struct Member {
    subscription: Subscription,
    wake: Arc<Notify>,
    last_poll: Instant,
    polling: bool,
    /// Told to go, and owned until the next poll.
    revoking: Vec<TopicPartition>,
    /// The generation in which it owns all of its target and nothing else.
    settled: Option<u64>,
}

#[derive(Debug, Default)]
struct Slot {
    owner: Option<MemberId>,
    /// Commits on their way to the disk. A new owner waits for them, for it must read what they write.
    committing: u32,
}

impl Groups {
    pub(super) fn new(session_timeout: Duration) -> Arc<Self> {
        Arc::new(Self { session_timeout, groups: Mutex::default() })
    }

    pub(super) const fn session_timeout(&self) -> Duration {
        self.session_timeout
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Group>> {
        // A panic elsewhere leaves no half-made change here.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next change for a member that begins or goes on polling. A first call joins the group.
    pub(super) fn step(&self, group: &str, id: MemberId, joining: &Joining, now: Instant) -> Change {
        let mut groups = self.lock();
        let group = groups.entry(group.to_owned()).or_default();
        let known = group.members.contains_key(&id);
        if !known {
            group.join(id, joining, now);
            if joining.rejoins {
                return Change::PutOut;
            }
        }
        group.touch(id, now);
        group.release_revoked(id);
        group.put_out_silent(id, self.session_timeout, now);
        group.settle(id, self.session_timeout)
    }

    /// The member has stopped polling for now; from here its session time runs.
    pub(super) fn rest(&self, group: &str, id: MemberId, now: Instant) {
        if let Some(member) = self.lock().get_mut(group).and_then(|g| g.members.get_mut(&id)) {
            member.polling = false;
            member.last_poll = now;
        }
    }

    /// Gives partitions back that could not be taken into use.
    pub(super) fn give_back(&self, group: &str, id: MemberId, partitions: &[TopicPartition]) {
        if let Some(group) = self.lock().get_mut(group) {
            group.release(id, partitions);
        }
    }

    /// The member is gone; what it owned is free.
    pub(super) fn leave(&self, name: &str, id: MemberId) {
        let mut groups = self.lock();
        if let Some(group) = groups.get_mut(name) {
            group.remove(id);
            if group.is_idle() {
                groups.remove(name);
            }
        }
    }

    /// Begins a commit, if the member owns all of these partitions. They stay with it until the guard is dropped.
    pub(super) fn begin_commit(
        self: &Arc<Self>,
        name: &str,
        id: MemberId,
        partitions: Vec<TopicPartition>,
    ) -> Option<CommitGuard> {
        let mut groups = self.lock();
        let group = groups.get_mut(name)?;
        group.members.get(&id)?;
        if partitions.iter().any(|at| group.slots.get(at).and_then(|s| s.owner) != Some(id)) {
            return None;
        }
        for at in &partitions {
            if let Some(slot) = group.slots.get_mut(at) {
                slot.committing += 1;
            }
        }
        Some(CommitGuard { groups: Arc::clone(self), group: name.to_owned(), partitions })
    }

    fn end_commit(&self, name: &str, partitions: &[TopicPartition]) {
        let mut groups = self.lock();
        let Some(group) = groups.get_mut(name) else { return };
        for at in partitions {
            if let Some(slot) = group.slots.get_mut(at) {
                slot.committing = slot.committing.saturating_sub(1);
            }
        }
        group.wake_unsettled();
        if group.is_idle() {
            groups.remove(name);
        }
    }
}

/// How a member joins.
#[derive(Debug)]
pub(super) struct Joining {
    pub(super) subscription: Subscription,
    pub(super) wake: Arc<Notify>,
    /// It was a member before.
    pub(super) rejoins: bool,
}

/// A commit on its way to the disk.
#[derive(Debug)]
pub(super) struct CommitGuard {
    groups: Arc<Groups>,
    group: String,
    partitions: Vec<TopicPartition>,
}

impl Drop for CommitGuard {
    fn drop(&mut self) {
        self.groups.end_commit(&self.group, &self.partitions);
    }
}

impl Group {
    fn join(&mut self, id: MemberId, joining: &Joining, now: Instant) {
        for (topic, count) in &joining.subscription {
            for partition in 0..*count {
                self.slots.entry(TopicPartition { topic: *topic, partition }).or_default();
            }
        }
        self.members.insert(
            id,
            Member {
                subscription: joining.subscription.clone(),
                wake: Arc::clone(&joining.wake),
                last_poll: now,
                polling: true,
                revoking: Vec::new(),
                settled: None,
            },
        );
        self.rebalance();
    }

    fn remove(&mut self, id: MemberId) {
        if self.members.remove(&id).is_some() {
            for slot in self.slots.values_mut().filter(|s| s.owner == Some(id)) {
                slot.owner = None;
            }
            self.rebalance();
        }
    }

    fn rebalance(&mut self) {
        self.generation += 1;
        self.target = assign_ranges(&self.members);
        self.wake_unsettled();
    }

    fn touch(&mut self, id: MemberId, now: Instant) {
        if let Some(member) = self.members.get_mut(&id) {
            member.polling = true;
            member.last_poll = now;
        }
    }

    fn release_revoked(&mut self, id: MemberId) {
        let revoking = self.members.get_mut(&id).map(|m| std::mem::take(&mut m.revoking)).unwrap_or_default();
        self.release(id, &revoking);
    }

    fn release(&mut self, id: MemberId, partitions: &[TopicPartition]) {
        if partitions.is_empty() {
            return;
        }
        for at in partitions {
            if let Some(slot) = self.slots.get_mut(at).filter(|s| s.owner == Some(id)) {
                slot.owner = None;
            }
        }
        if let Some(member) = self.members.get_mut(&id) {
            member.settled = None;
        }
        self.wake_unsettled();
    }

    fn put_out_silent(&mut self, except: MemberId, session_timeout: Duration, now: Instant) {
        let silent: Vec<_> = self
            .members
            .iter()
            .filter(|(id, m)| **id != except && !m.polling && now >= m.last_poll + session_timeout)
            .map(|(id, _)| *id)
            .collect();
        for id in silent {
            self.remove(id);
        }
    }

    /// Moves the member one step towards its target.
    fn settle(&mut self, id: MemberId, session_timeout: Duration) -> Change {
        let generation = self.generation;
        let Some(member) = self.members.get_mut(&id) else { return Change::None(None) };
        if member.settled != Some(generation) {
            let revoked = self.surplus(id);
            if !revoked.is_empty() {
                if let Some(member) = self.members.get_mut(&id) {
                    member.revoking.clone_from(&revoked);
                }
                return Change::Revoked(revoked);
            }
            let (assigned, complete) = self.take_free(id);
            if let Some(member) = self.members.get_mut(&id).filter(|_| complete) {
                member.settled = Some(generation);
            }
            if !assigned.is_empty() {
                return Change::Assigned(assigned);
            }
        }
        Change::None(self.next_expiry(id, session_timeout))
    }

    fn surplus(&self, id: MemberId) -> Vec<TopicPartition> {
        let surplus = |(at, slot): (&TopicPartition, &Slot)| {
            (slot.owner == Some(id) && self.target.get(at) != Some(&id)).then_some(*at)
        };
        self.slots.iter().filter_map(surplus).collect()
    }

    /// Takes what is free of the member's target; also tells whether it has all of it now.
    fn take_free(&mut self, id: MemberId) -> (Vec<TopicPartition>, bool) {
        let (mut taken, mut complete) = (Vec::new(), true);
        for (at, _) in self.target.iter().filter(|(_, owner)| **owner == id) {
            match self.slots.get_mut(at) {
                Some(slot) if slot.owner == Some(id) => {}
                Some(slot) if slot.owner.is_none() && slot.committing == 0 => {
                    slot.owner = Some(id);
                    taken.push(*at);
                }
                _ => complete = false,
            }
        }
        (taken, complete)
    }

    /// When the first of the other members may be put out.
    fn next_expiry(&self, id: MemberId, session_timeout: Duration) -> Option<Instant> {
        let others = self.members.iter().filter(|(other, m)| **other != id && !m.polling);
        others.map(|(_, m)| m.last_poll + session_timeout).min()
    }

    fn wake_unsettled(&self) {
        for member in self.members.values().filter(|m| m.settled != Some(self.generation)) {
            member.wake.notify_one();
        }
    }

    fn is_idle(&self) -> bool {
        self.members.is_empty() && self.slots.values().all(|s| s.committing == 0)
    }
}

/// Ranges of partitions in the order of the members. Topics with equal subscribers and partition counts come out alike: co-partitioned.
fn assign_ranges(members: &BTreeMap<MemberId, Member>) -> BTreeMap<TopicPartition, MemberId> {
    let mut subscribers: BTreeMap<(Topic, u32), Vec<MemberId>> = BTreeMap::new();
    for (id, member) in members {
        for entry in &member.subscription {
            subscribers.entry(*entry).or_default().push(*id);
        }
    }
    let mut target = BTreeMap::new();
    for ((topic, count), ids) in subscribers {
        let mut ids = ids.into_iter();
        let mut next = 0;
        while let Some(id) = ids.next() {
            let share = (count - next).div_ceil(u32::try_from(ids.len()).unwrap_or(u32::MAX).saturating_add(1));
            for partition in next..next + share {
                target.insert(TopicPartition { topic, partition }, id);
            }
            next += share;
        }
    }
    target
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::Lane;

    const SESSION: Duration = Duration::from_secs(10);
    const GROUP: &str = "route";
    const LANES: [Topic; 2] = [Topic::Notifications(Lane::Transactional), Topic::Notifications(Lane::Bulk)];

    fn joining(rejoins: bool) -> Joining {
        Joining { subscription: LANES.map(|t| (t, 5)).to_vec(), wake: Arc::default(), rejoins }
    }

    fn numbers(partitions: &[TopicPartition]) -> [Vec<u32>; 2] {
        LANES.map(|lane| partitions.iter().filter(|p| p.topic == lane).map(|p| p.partition).collect())
    }

    fn assigned(change: Change) -> Vec<TopicPartition> {
        let Change::Assigned(partitions) = change else { panic!("{change:?}") };
        partitions
    }

    fn revoked(change: Change) -> Vec<TopicPartition> {
        let Change::Revoked(partitions) = change else { panic!("{change:?}") };
        partitions
    }

    #[test]
    fn a_partition_moves_only_after_its_owner_has_polled_again() {
        let groups = Groups::new(SESSION);
        let now = Instant::now();
        assert_eq!(assigned(groups.step(GROUP, 1, &joining(false), now)).len(), 10);
        assert_eq!(groups.step(GROUP, 2, &joining(false), now), Change::None(None));
        let given = revoked(groups.step(GROUP, 1, &joining(false), now));
        assert_eq!(numbers(&given), [vec![3, 4], vec![3, 4]], "co-partitioned");
        assert_eq!(groups.step(GROUP, 2, &joining(false), now), Change::None(None), "the first may still commit");
        assert!(groups.begin_commit(GROUP, 1, given.clone()).is_some());
        assert!(groups.begin_commit(GROUP, 2, given.clone()).is_none());
        assert_eq!(groups.step(GROUP, 1, &joining(false), now), Change::None(None));
        assert!(groups.begin_commit(GROUP, 1, given.clone()).is_none());
        assert_eq!(assigned(groups.step(GROUP, 2, &joining(false), now)), given);
    }

    #[test]
    fn a_new_owner_waits_for_a_commit_on_its_way() {
        let groups = Groups::new(SESSION);
        let now = Instant::now();
        let all = assigned(groups.step(GROUP, 1, &joining(false), now));
        let commit = groups.begin_commit(GROUP, 1, all.clone()).unwrap();
        groups.leave(GROUP, 1);
        assert_eq!(groups.step(GROUP, 2, &joining(false), now), Change::None(None));
        drop(commit);
        assert_eq!(assigned(groups.step(GROUP, 2, &joining(false), now)), all);
    }

    #[test]
    fn a_silent_member_is_put_out_only_when_another_polls_and_then_joins_again() {
        let groups = Groups::new(SESSION);
        let start = Instant::now();
        let all = assigned(groups.step(GROUP, 1, &joining(false), start));
        groups.rest(GROUP, 1, start);
        let late = start + SESSION;
        assert!(groups.begin_commit(GROUP, 1, all.clone()).is_some(), "nobody else wants them");
        assert_eq!(groups.step(GROUP, 2, &joining(false), start), Change::None(Some(late)));
        assert_eq!(assigned(groups.step(GROUP, 2, &joining(false), late)), all);
        assert!(groups.begin_commit(GROUP, 1, all.clone()).is_none());
        assert_eq!(groups.step(GROUP, 1, &joining(true), late), Change::PutOut);
        assert_eq!(revoked(groups.step(GROUP, 2, &joining(false), late)).len(), 6);
        groups.step(GROUP, 2, &joining(false), late);
        assert_eq!(assigned(groups.step(GROUP, 1, &joining(true), late)).len(), 6);
    }

    #[test]
    fn a_polling_member_is_never_put_out() {
        let groups = Groups::new(SESSION);
        let start = Instant::now();
        groups.step(GROUP, 1, &joining(false), start);
        assert_eq!(groups.step(GROUP, 2, &joining(false), start + SESSION * 3), Change::None(None));
        assert!(matches!(groups.step(GROUP, 1, &joining(false), start + SESSION * 3), Change::Revoked(_)));
    }

    #[test]
    fn ranges_cover_every_partition_once() {
        for count in 1..10_u64 {
            let groups = Groups::new(SESSION);
            let now = Instant::now();
            for id in 0..count {
                groups.step(GROUP, id, &joining(false), now);
            }
            let mut owned: BTreeMap<MemberId, Vec<TopicPartition>> = BTreeMap::new();
            for _ in 0..3 {
                for id in 0..count {
                    match groups.step(GROUP, id, &joining(false), now) {
                        Change::Assigned(new) => owned.entry(id).or_default().extend(new),
                        Change::Revoked(old) => owned.entry(id).or_default().retain(|p| !old.contains(p)),
                        _ => {}
                    }
                }
            }
            // The first member took everything in the first loop, where nobody collected it.
            let held: usize = owned.values().map(Vec::len).sum();
            let first = groups.lock()[GROUP].slots.values().filter(|s| s.owner == Some(0)).count();
            assert_eq!(held + first, 10, "{count} members");
        }
    }
}
