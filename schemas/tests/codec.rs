//! The codec takes any bytes: what was encoded comes back, all else is a typed error. It never panics and never believes a length.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_schemas::{
    Channel, DeliveryId, EventId, Lane, NotificationId, Timestamp,
    codec::{self, CodecError, Encoded, MARKER},
    ids::EntryId,
    records::{
        DeadLetter, Decision, DefinitionSet, Delivery, ErrorKind, Event, Header, MemberAction, MemberCommand,
        Notification, Outcome, Reason, Receipt, ReceiptKind, Scheduled, Verdict,
    },
};
use proptest::{
    collection::vec,
    prelude::{Strategy, TestCaseError, any, prop_assert, prop_assert_eq, prop_assume, proptest},
    sample::select,
};
use std::fmt::Debug;
use uuid::Uuid;

fn id<T>(wrap: fn(Uuid) -> T) -> impl Strategy<Value = T>
where
    T: Debug,
{
    any::<u128>().prop_map(move |number| wrap(Uuid::from_u128(number)))
}

fn at() -> impl Strategy<Value = Timestamp> {
    any::<i64>().prop_map(Timestamp)
}

fn text() -> impl Strategy<Value = String> {
    any::<String>()
}

fn optional<T: Debug + Clone>(some: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(some)
}

fn blob() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 0..40)
}

fn channel() -> impl Strategy<Value = Channel> {
    select(&Channel::ALL[..])
}

fn lane() -> impl Strategy<Value = Lane> {
    select(&Lane::ALL[..])
}

fn outcome() -> impl Strategy<Value = Outcome> {
    use Outcome::{
        Cancelled, ConditionFalse, Duplicate, Expired, Gathered, NoAddress, NoFlow, NoOptIn, NoProvider, NoTemplate,
        Routed, Suppressed, UnknownMember,
    };
    select(vec![
        Routed,
        NoFlow,
        ConditionFalse,
        Duplicate,
        Expired,
        UnknownMember,
        NoAddress,
        NoOptIn,
        Suppressed,
        NoTemplate,
        NoProvider,
        Cancelled,
        Gathered,
    ])
}

fn reason() -> impl Strategy<Value = Reason> {
    use Reason::{Ambiguous, Evaluation, Exhausted, Invalid, Malformed, Rejected, TooLarge, UnknownSchema};
    select(vec![Malformed, UnknownSchema, Invalid, TooLarge, Evaluation, Rejected, Exhausted, Ambiguous])
}

fn error() -> impl Strategy<Value = ErrorKind> {
    use ErrorKind::{Ambiguous, Expired, InvalidAddress, OptedOut, Rejected, Throttled, Transient, Unauthorized};
    select(vec![Transient, Throttled, Ambiguous, InvalidAddress, OptedOut, Rejected, Unauthorized, Expired])
}

fn action() -> impl Strategy<Value = MemberAction> {
    use MemberAction::{Absorb, Confirm, Delete, Merge, OptIn, OptOut, Prefer, Suppress, Upsert};
    select(vec![Upsert, Delete, Suppress, OptOut, OptIn, Confirm, Merge, Absorb, Prefer])
}

/// A strategy for a record from one strategy a field; in two groups, because a tuple of strategies holds twelve.
macro_rules! record {
    ($function:ident: $record:ident { $($a:ident: $x:expr),*; $($b:ident: $y:expr),* $(,)? }) => {
        fn $function() -> impl Strategy<Value = $record> {
            (($($x,)*), ($($y,)*)).prop_map(|(($($a,)*), ($($b,)*))| $record { $($a,)* $($b,)* })
        }
    };
}

record!(event: Event {
    project: text(), id: text(), source: text(), kind: text();
    subject: optional(text()), time: at(), accepted_at: at(), data: text(),
});
record!(member_command: MemberCommand {
    project: text(), member: text(), at: at(), actor: text(), action: action();
    patch: optional(text()), channel: optional(channel()), address: optional(text()), reason: optional(text()),
    category: optional(text()), proof: optional(text()), other: optional(text()),
});
record!(notification: Notification {
    id: id(NotificationId), project: text(), member: text(), event: id(EventId), event_type: text(), flow: text(),
    flow_version: any::<i32>(), step: any::<i32>();
    template: text(), lane: lane(), channels: vec(channel(), 0..5), expires_at: optional(at()), accepted_at: at(), data: text(), round: any::<i32>(),
    tried: vec(channel(), 0..5), gathered_in: optional(text()),
});
record!(delivery: Delivery {
    id: id(DeliveryId), notification: id(NotificationId), project: text(), member: text(), event_type: text(),
    template: text(), channel: channel(), address: text();
    locale: optional(text()), lane: lane(), attempt: any::<i32>(), accepted_at: at(), expires_at: optional(at()), context: text(),
    window_until: optional(at()),
});
record!(receipt: Receipt {
    delivery: id(DeliveryId), notification: id(NotificationId), project: text(), member: text(), template: text(),
    channel: channel(), kind: select(&ReceiptKind::ALL[..]);
    at: at(), attempt: any::<i32>(), provider: text(), provider_id: optional(text()), error: optional(error()),
    detail: optional(text()), address: optional(text()),
});
record!(scheduled: Scheduled {
    id: id(EntryId), project: text(), due: at(); topic: text(), key: text(), payload: blob(),
});
record!(verdict: Verdict {
    channel: channel(), rule: text(), detail: text();
    count: optional(any::<i32>()), limit: optional(any::<i32>()), score: optional(any::<i32>()), reach: optional(any::<i32>()),
    engagement: optional(any::<i32>()), cost: optional(any::<i32>()),
});
record!(decision: Decision {
    id: id(EntryId), notification: id(NotificationId), project: text(), member: text(), event: id(EventId),
    event_type: text(), flow: text(), flow_version: any::<i32>();
    template: text(), at: at(), outcome: outcome(), channel: optional(channel()), delivery: optional(id(DeliveryId)),
    trace: vec(verdict(), 0..4), detail: text(),
});
record!(header: Header { name: text(); value: blob() });
record!(dead_letter: DeadLetter {
    id: id(EntryId), project: text(), at: at(), processor: text(), reason: reason(), detail: text();
    topic: text(), partition: any::<i32>(), offset: any::<i64>(), key: blob(), payload: blob(), headers: vec(header(), 0..4),
});
record!(definition_set: DefinitionSet {
    project: text(), version: any::<i32>(); published_at: at(), actor: text(), document: text(),
});

/// What was encoded comes back; cut short or prolonged it is an error.
fn round_trip<R: Encoded + PartialEq + Debug>(record: &R, cut: usize) -> Result<(), TestCaseError> {
    let mut bytes = codec::encode(record).unwrap();
    prop_assert_eq!(&codec::decode::<R>(&bytes).unwrap(), record);
    prop_assert!(
        codec::decode::<R>(&bytes[..cut % bytes.len()]).is_err(),
        "a part of a record was taken for the whole"
    );
    bytes.push(0);
    prop_assert!(
        matches!(codec::decode::<R>(&bytes), Err(CodecError::Datum { .. })),
        "more than one datum was taken for one"
    );
    Ok(())
}

/// Any bytes after a right header.
fn datum<R: Encoded>(datum: &[u8]) -> Result<R, CodecError> {
    let fingerprint = R::schemas().current().rabin_fingerprint();
    codec::decode(&[&MARKER[..], &fingerprint[..], datum].concat())
}

fn decode_anything(bytes: &[u8]) {
    fn one<R: Encoded>(bytes: &[u8]) {
        // Whether it is a record by chance does not matter; that it returns does.
        drop((codec::decode::<R>(bytes), datum::<R>(bytes)));
    }
    one::<Event>(bytes);
    one::<MemberCommand>(bytes);
    one::<Notification>(bytes);
    one::<Delivery>(bytes);
    one::<Receipt>(bytes);
    one::<Scheduled>(bytes);
    one::<Decision>(bytes);
    one::<DeadLetter>(bytes);
    one::<DefinitionSet>(bytes);
}

proptest! {
    #[test]
    fn event_comes_back(record in event(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn member_command_comes_back(record in member_command(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn notification_comes_back(record in notification(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn delivery_comes_back(record in delivery(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn receipt_comes_back(record in receipt(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn scheduled_comes_back(record in scheduled(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn decision_comes_back(record in decision(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn dead_letter_comes_back(record in dead_letter(), cut: usize) { round_trip(&record, cut)?; }
    #[test]
    fn definition_set_comes_back(record in definition_set(), cut: usize) { round_trip(&record, cut)?; }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..300)) {
        decode_anything(&bytes);
    }

    #[test]
    fn a_record_with_one_wrong_byte_never_panics(record in dead_letter(), at: usize, byte: u8) {
        let mut bytes = codec::encode(&record).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        decode_anything(&bytes);
    }

    #[test]
    fn an_unknown_fingerprint_is_named(fingerprint: [u8; 8], rest in blob()) {
        let bytes = [&MARKER[..], &fingerprint[..], &rest[..]].concat();
        let text: String = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(
            codec::decode::<Event>(&bytes),
            Err(CodecError::UnknownSchema { record: "event", fingerprint: text })
        );
    }

    #[test]
    fn another_marker_is_no_single_object(bytes in vec(any::<u8>(), 0..300)) {
        prop_assume!(!bytes.starts_with(&MARKER));
        prop_assert_eq!(codec::decode::<Event>(&bytes), Err(CodecError::NotSingleObject { record: "event" }));
    }
}

#[test]
fn one_records_bytes_are_not_anothers() {
    let bytes = codec::encode(&DefinitionSet {
        project: "shop".into(),
        version: 1,
        published_at: Timestamp(0),
        actor: "ana".into(),
        document: "{}".into(),
    })
    .unwrap();
    assert!(matches!(codec::decode::<Event>(&bytes), Err(CodecError::UnknownSchema { record: "event", .. })));
}

/// Avro `long`: zigzag, then 7 bits a byte, the lowest first.
fn long(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(rest as u8);
    bytes
}

#[test]
fn a_length_beyond_the_input_is_refused() {
    for length in [1, 1_000, i64::from(i32::MAX), i64::MAX, -1, i64::MIN] {
        assert!(matches!(datum::<Event>(&long(length)), Err(CodecError::Datum { .. })), "{length}");
    }
}

/// A dead letter up to its headers, then as many of them as `count` says, of `size` bytes together.
fn with_headers(count: i64, size: usize) -> Result<DeadLetter, CodecError> {
    let id = "6b1e77fa-5d0c-5e0c-9a55-1d4bb0a75e11";
    let mut bytes = [&long(36)[..], id.as_bytes()].concat();
    // project, at, processor, reason, detail, topic, partition, offset, key, payload: each empty or zero
    bytes.extend([0; 10]);
    bytes.extend(long(count));
    if count < 0 {
        bytes.extend(long(i64::try_from(size).unwrap()));
    }
    bytes.extend(vec![0; size]);
    datum(&bytes)
}

#[test]
fn a_count_of_elements_beyond_the_input_is_refused_before_any_is_read() {
    assert_eq!(with_headers(3, 7).map(|record| record.headers.len()), Ok(3));
    assert_eq!(with_headers(-3, 7).map(|record| record.headers.len()), Ok(3));
    for count in [200, 1_000_000_000, i64::MAX, -200, i64::MIN] {
        let problem = with_headers(count, 100).unwrap_err().to_string();
        assert!(problem.contains("max sequence size"), "{count}: {problem}");
    }
}
