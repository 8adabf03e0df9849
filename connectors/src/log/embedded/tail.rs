//! The newest records of the log, in memory: who reads at the end of a partition needs no look-up in the database. It holds durable records
//! only, and shares their memory with the database's write buffer.

use crate::log::TopicPartition;
use bellwether_schemas::Position;
use fjall::UserValue;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

/// Beside the value: its places in the two queues, and the value's own head.
const OVERHEAD: usize = 64;

/// The newest records of all partitions, up to a number of bytes; the oldest of all go first.
#[derive(Debug)]
pub(super) struct Tail {
    limit: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Of each partition an unbroken run of offsets, with the first of them.
    runs: HashMap<TopicPartition, (u64, VecDeque<UserValue>)>,
    /// Partitions in the order in which their records came.
    order: VecDeque<TopicPartition>,
    bytes: usize,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, kept: Mutex::default() }
    }

    /// Takes in records that became durable, in the order of their offsets.
    pub(super) fn push(&self, records: impl Iterator<Item = (Position, UserValue)>) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (position, value) in records {
            kept.push(position, value);
        }
        while kept.bytes > self.limit {
            kept.forget_oldest();
        }
    }

    /// The records from `offset` on, at most `max`, and no more once they have `bytes`; `None` where the first of them is not here.
    pub(super) fn read(&self, at: TopicPartition, offset: u64, max: usize, bytes: usize) -> Option<Vec<UserValue>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (first, run) = kept.runs.get(&at)?;
        let skip = usize::try_from(offset.checked_sub(*first)?).ok().filter(|skip| *skip < run.len())?;
        let mut used = 0;
        let fits = |value: &&UserValue| {
            let fits = used < bytes;
            used += value.len();
            fits
        };
        Some(run.range(skip..).take(max).take_while(fits).cloned().collect())
    }
}

impl Kept {
    fn push(&mut self, position: Position, value: UserValue) {
        let at = TopicPartition { topic: position.topic, partition: position.partition };
        let (first, run) = self.runs.entry(at).or_default();
        if *first + run.len() as u64 != position.offset {
            // A gap: an append before this one failed. What is behind it stays on disk.
            *first = position.offset;
            self.bytes -= run.drain(..).map(|value| value.len() + OVERHEAD).sum::<usize>();
        }
        self.bytes += value.len() + OVERHEAD;
        run.push_back(value);
        self.order.push_back(at);
    }

    fn forget_oldest(&mut self) {
        let Some(at) = self.order.pop_front() else { return };
        // Nothing is there where a gap has emptied the run before.
        let Some((first, run)) = self.runs.get_mut(&at) else { return };
        if let Some(value) = run.pop_front() {
            *first += 1;
            self.bytes -= value.len() + OVERHEAD;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::Topic;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_read_is_what_was_pushed_last(
            limit in 0..2_000_usize,
            pushes in prop::collection::vec((0..3_u32, 0..40_usize, prop::bool::weighted(0.1)), 0..200),
            reads in prop::collection::vec((0..3_u32, 0..80_u64, 0..9_usize, 0..99_usize), 0..50),
        ) {
            let tail = Tail::new(limit);
            let mut all: HashMap<(u32, u64), Vec<u8>> = HashMap::new();
            let mut next = [0_u64; 3];
            for (n, (partition, size, gap)) in pushes.iter().enumerate() {
                let place = *partition as usize;
                next[place] += u64::from(*gap);
                let value = vec![u8::try_from(n % 251).unwrap(); *size];
                let position = Position { topic: Topic::Events, partition: *partition, offset: next[place] };
                tail.push(std::iter::once((position, UserValue::from(value.clone()))));
                all.insert((*partition, next[place]), value);
                next[place] += 1;
            }
            prop_assert!(tail.kept.lock().unwrap().bytes <= limit);
            for (partition, offset, max, bytes) in reads {
                let at = TopicPartition { topic: Topic::Events, partition };
                let Some(found) = tail.read(at, offset, max, bytes) else { continue };
                prop_assert!(found.len() <= max);
                for (here, value) in (offset..).zip(&found) {
                    prop_assert_eq!(Some(&value.to_vec()), all.get(&(partition, here)));
                }
            }
        }
    }

    #[test]
    fn the_newest_stay_and_the_oldest_of_all_go() {
        let tail = Tail::new(3 * (10 + OVERHEAD));
        let at = |partition| TopicPartition { topic: Topic::Events, partition };
        let push = |partition, offset| {
            let position = Position { topic: Topic::Events, partition, offset };
            tail.push(std::iter::once((position, UserValue::from([0_u8; 10]))));
        };
        for (partition, offset) in [(0, 0), (1, 0), (0, 1), (1, 1)] {
            push(partition, offset);
        }
        assert!(tail.read(at(0), 0, 9, 99).is_none(), "the oldest of all went");
        assert_eq!(tail.read(at(0), 1, 9, 99).unwrap().len(), 1);
        assert_eq!(tail.read(at(1), 0, 9, 99).unwrap().len(), 2);
        assert_eq!(tail.read(at(1), 0, 1, 99).unwrap().len(), 1);
        assert_eq!(tail.read(at(1), 0, 9, 10).unwrap().len(), 1, "enough bytes with the first");
        assert!(tail.read(at(1), 2, 9, 99).is_none(), "not there yet");
    }
}
