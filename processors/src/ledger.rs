//! What deliver knows of one partition: how far it has read, which offsets are claimed, which are settled, and which deliveries it has seen.
//! Pure bookkeeping; the loop in `src/runtime/deliver.rs` does the reading, calling and committing.

use crate::deliver::{Claim, MAX_CLAIM};
use std::collections::{BTreeSet, HashSet, VecDeque};

/// Deliveries remembered per partition. Upstream may append a batch again after a crash; this is many times its largest batch, so the second
/// copy of a delivery still meets the memory of the first. A new owner reads so many records before the committed offset to remember them.
pub const REMEMBERED: usize = 8_192;

/// The books of one partition.
#[derive(Clone, Debug)]
pub struct Ledger {
    /// First offset that is not settled.
    low: u64,
    /// Next offset to arrive.
    next: u64,
    /// Offsets below are claimed by us.
    claimed: u64,
    /// Offsets below were claimed by the predecessor: those that it did not settle are ambiguous.
    inherited: u64,
    /// Settled offsets from `low` on.
    settled: BTreeSet<u64>,
    seen: HashSet<u64>,
    seen_order: VecDeque<u64>,
}

/// What an arriving record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Settled before we came; now remembered.
    Past,
    /// The same delivery was seen at an earlier offset: settled without a call.
    Duplicate,
    /// Never called.
    New,
    /// Perhaps called by the predecessor.
    Ambiguous,
}

impl Ledger {
    /// Opens the books where the group stands.
    #[must_use]
    pub fn open(committed: u64, metadata: &str) -> Self {
        let claim = Claim::decode(committed, metadata);
        let mut ledger = Self {
            low: committed,
            next: committed,
            claimed: committed,
            inherited: claim.until,
            settled: claim.settled.into_iter().collect(),
            seen: HashSet::new(),
            seen_order: VecDeque::new(),
        };
        ledger.rise();
        ledger
    }

    /// Where to begin reading, so that what was settled last is remembered.
    #[must_use]
    pub fn history(&self) -> u64 {
        self.low.saturating_sub(REMEMBERED as u64)
    }

    /// Enters a record; `identity` is a hash of delivery and attempt.
    pub fn arrive(&mut self, offset: u64, identity: u64) -> Arrival {
        if offset < self.low {
            self.remember(identity);
            return Arrival::Past;
        }
        // Offsets that the log skips hold no record, so there is nothing to wait for.
        self.settled.extend(self.next..offset);
        self.next = self.next.max(offset + 1);
        let known = self.settled.contains(&offset);
        let again = !self.remember(identity);
        let arrival = match () {
            () if known => Arrival::Past,
            () if again => {
                self.settled.insert(offset);
                Arrival::Duplicate
            }
            () if offset < self.inherited => Arrival::Ambiguous,
            () => Arrival::New,
        };
        self.rise();
        arrival
    }

    fn remember(&mut self, identity: u64) -> bool {
        let new = self.seen.insert(identity);
        if new {
            self.seen_order.push_back(identity);
            if self.seen_order.len() > REMEMBERED
                && let Some(oldest) = self.seen_order.pop_front()
            {
                self.seen.remove(&oldest);
            }
        }
        new
    }

    /// Whether this offset may be claimed now: the claim's map has an end.
    #[must_use]
    pub const fn can_claim(&self, offset: u64) -> bool {
        offset < self.low.saturating_add(MAX_CLAIM)
    }

    /// Claims up to and including `offset`; holds once the commit has passed.
    pub fn claim(&mut self, offset: u64) {
        self.claimed = self.claimed.max(offset + 1);
    }

    /// Gives back what was claimed from `offset` on and never called.
    pub fn unclaim(&mut self, offset: u64) {
        self.claimed = self.claimed.min(offset.max(self.low));
    }

    /// The effects of this offset are on the log.
    pub fn settle(&mut self, offset: u64) {
        if offset >= self.low {
            self.settled.insert(offset);
            self.rise();
        }
    }

    /// Whether this offset needs no call any more.
    #[must_use]
    pub fn is_settled(&self, offset: u64) -> bool {
        offset < self.low || self.settled.contains(&offset)
    }

    fn rise(&mut self) {
        while self.settled.remove(&self.low) {
            self.low += 1;
        }
        self.next = self.next.max(self.low);
        self.claimed = self.claimed.max(self.low);
    }

    /// Offset and metadata to commit. What the predecessor claimed and nobody settled stays claimed.
    #[must_use]
    pub fn commit(&self) -> (u64, String) {
        let claim = Claim {
            until: self.claimed.max(self.inherited).max(self.low),
            settled: self.settled.iter().copied().take_while(|o| *o < self.low + MAX_CLAIM).collect(),
        };
        (self.low, claim.encode(self.low))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_new_partition_is_all_new() {
        let mut ledger = Ledger::open(0, "");
        assert_eq!(ledger.arrive(0, 10), Arrival::New);
        assert_eq!(ledger.arrive(1, 11), Arrival::New);
        ledger.claim(1);
        assert_eq!(ledger.commit(), (0, "1:2:".into()));
        ledger.settle(1);
        assert_eq!(ledger.commit(), (0, "1:2:C".into()), "offset 1 is the second bit");
        ledger.settle(0);
        assert_eq!(ledger.commit(), (2, "1:0:".into()));
    }

    #[test]
    fn the_successor_knows_what_was_perhaps_sent() {
        let mut first = Ledger::open(0, "");
        for offset in 0..5 {
            assert_eq!(first.arrive(offset, offset), Arrival::New);
        }
        first.claim(3);
        first.settle(1);
        let (offset, metadata) = first.commit();
        let mut second = Ledger::open(offset, &metadata);
        let arrivals: Vec<Arrival> = (0..5).map(|o| second.arrive(o, o)).collect();
        assert_eq!(arrivals, [Arrival::Ambiguous, Arrival::Past, Arrival::Ambiguous, Arrival::Ambiguous, Arrival::New]);
        assert_eq!(second.commit(), (0, "1:4:C".into()), "a successor that dies before it acts passes the doubt on");
    }

    #[test]
    fn a_copy_of_a_settled_delivery_is_a_duplicate_also_for_the_successor() {
        let mut ledger = Ledger::open(2, "");
        assert_eq!(ledger.history(), 0);
        assert_eq!(ledger.arrive(0, 7), Arrival::Past);
        assert_eq!(ledger.arrive(2, 7), Arrival::Duplicate);
        assert_eq!(ledger.commit().0, 3);
    }

    #[test]
    fn gaps_in_the_log_do_not_hold_the_offset_back() {
        let mut ledger = Ledger::open(0, "");
        assert_eq!(ledger.arrive(5, 1), Arrival::New);
        ledger.settle(5);
        assert_eq!(ledger.commit().0, 6);
    }

    #[test]
    fn a_claim_wider_than_any_of_ours_is_none() {
        for metadata in [format!("1:{}:", MAX_CLAIM + 1), format!("1:1:{}", "_".repeat(MAX_CLAIM as usize / 6 + 1))] {
            assert_eq!(Ledger::open(7, &metadata).arrive(7, 7), Arrival::New, "{metadata}");
        }
        assert_eq!(Ledger::open(7, &format!("1:{MAX_CLAIM}:")).arrive(7, 7), Arrival::Ambiguous);
    }

    #[test]
    fn what_was_given_back_is_new_to_the_successor() {
        let mut ledger = Ledger::open(0, "");
        for offset in 0..4 {
            ledger.arrive(offset, offset);
        }
        ledger.claim(3);
        ledger.unclaim(2);
        let (offset, metadata) = ledger.commit();
        let mut next = Ledger::open(offset, &metadata);
        let arrivals: Vec<Arrival> = (0..4).map(|o| next.arrive(o, o)).collect();
        assert_eq!(arrivals, [Arrival::Ambiguous, Arrival::Ambiguous, Arrival::New, Arrival::New]);
    }

    proptest! {
        /// Whatever the order of claims, settlements and takeovers: no offset is called without being claimed first, every offset is settled in
        /// the end, and a second call happens only where the first was ambiguous.
        #[test]
        fn every_offset_is_called_and_only_doubt_repeats(steps in prop::collection::vec((0u8..6, 0u64..12), 1..200)) {
            const COUNT: u64 = 40;
            let mut committed = (0u64, String::new());
            let mut ledger = Ledger::open(0, "");
            let (mut read, mut claimed, mut called) = (0u64, Vec::new(), vec![0u32; COUNT as usize]);
            let mut doubts = vec![0u32; COUNT as usize];
            let arrive = |ledger: &mut Ledger, read: &mut u64, waiting: &mut Vec<u64>, doubts: &mut Vec<u32>| {
                if *read < COUNT {
                    match ledger.arrive(*read, *read) {
                        Arrival::New => waiting.push(*read),
                        Arrival::Ambiguous => { doubts[*read as usize] += 1; waiting.push(*read); }
                        Arrival::Past => {}
                        Arrival::Duplicate => panic!("all identities differ"),
                    }
                    *read += 1;
                }
            };
            let mut waiting = Vec::new();
            for (step, at) in steps {
                match step {
                    0 | 1 => arrive(&mut ledger, &mut read, &mut waiting, &mut doubts),
                    2 => { // claim the first waiting, commit
                        if !waiting.is_empty() { let o = waiting.remove(0); ledger.claim(o); claimed.push(o); committed = ledger.commit(); }
                    }
                    3 => if !claimed.is_empty() { // call and settle
                        let o: u64 = claimed.remove((at as usize) % claimed.len());
                        called[o as usize] += 1; ledger.settle(o);
                    },
                    4 => committed = ledger.commit(),
                    _ => { // crash
                        ledger = Ledger::open(committed.0, &committed.1);
                        read = ledger.history(); waiting.clear(); claimed.clear();
                    }
                }
            }
            while read < COUNT { arrive(&mut ledger, &mut read, &mut waiting, &mut doubts); }
            for o in claimed.into_iter().chain(waiting) { called[o as usize] += 1; ledger.settle(o); }
            prop_assert_eq!(ledger.commit().0, COUNT);
            for (o, (calls, doubts)) in called.iter().zip(&doubts).enumerate() {
                prop_assert!(*calls >= 1, "offset {} was lost", o);
                prop_assert!(*calls <= 1 + doubts, "offset {} was called {} times with {} doubts", o, calls, doubts);
            }
        }
    }
}
