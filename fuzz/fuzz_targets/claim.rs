//! The claim in a commit's metadata takes any text: deliver opens its books, and what it commits says the same to its successor.
#![no_main]

use bellwether_processors::{
    deliver::{Claim, MAX_CLAIM},
    ledger::Ledger,
};
use libfuzzer_sys::fuzz_target;

/// Bytes of metadata that a Kafka broker takes by default (`offset.metadata.max.bytes`).
const MAX_METADATA_BYTES: usize = 4_096;

fuzz_target!(|input: (u64, u8, &str)| {
    let (committed, records, metadata) = input;
    let committed = committed >> 1; // Offsets are signed in Kafka.
    let claim = Claim::decode(committed, metadata);
    assert!(claim.until >= committed && claim.settled.iter().all(|offset| *offset >= committed));
    assert!(claim.until - committed <= MAX_CLAIM, "nobody claims so much");
    assert_eq!(Claim::decode(committed, &claim.encode(committed)), claim);

    let mut ledger = Ledger::open(committed, metadata);
    for n in 0..u64::from(records) {
        let offset = committed.saturating_add(n);
        ledger.arrive(offset, offset);
        if n % 3 == 0 && ledger.can_claim(offset) {
            ledger.claim(offset);
        }
        if n % 5 == 0 {
            ledger.settle(offset);
        }
    }
    let (offset, written) = ledger.commit();
    assert!(offset >= committed && ledger.history() <= offset);
    assert!(written.len() <= MAX_METADATA_BYTES);
    assert_eq!(Ledger::open(offset, &written).commit(), (offset, written));
});
