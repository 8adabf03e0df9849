//! The codec of the records takes any bytes: it returns, and what it accepts it can write and read again.
#![no_main]

use bellwether_schemas::{
    codec::{self, Encoded, MARKER},
    records::{DeadLetter, Decision, DefinitionSet, Delivery, Event, MemberCommand, Notification, Receipt, Scheduled},
};
use libfuzzer_sys::fuzz_target;
use std::fmt::Debug;

fn take<R: Encoded + PartialEq + Debug>(datum: &[u8]) {
    // A right header, so that the fuzzer need not find 10 bytes first.
    let fingerprint = R::schemas().current().rabin_fingerprint();
    if let Ok(record) = codec::decode::<R>(&[&MARKER[..], &fingerprint[..], datum].concat()) {
        let again = codec::encode(&record).expect("what was decoded can be encoded");
        assert_eq!(codec::decode::<R>(&again).expect("what was encoded can be decoded"), record);
    }
}

fuzz_target!(|bytes: &[u8]| {
    drop(codec::decode::<Event>(bytes));
    let Some((which, datum)) = bytes.split_first() else { return };
    match which % 9 {
        0 => take::<Event>(datum),
        1 => take::<MemberCommand>(datum),
        2 => take::<Notification>(datum),
        3 => take::<Delivery>(datum),
        4 => take::<Receipt>(datum),
        5 => take::<Scheduled>(datum),
        6 => take::<Decision>(datum),
        7 => take::<DeadLetter>(datum),
        _ => take::<DefinitionSet>(datum),
    }
});
