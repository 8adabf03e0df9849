//! Mail that comes back may be any bytes: a report about a letter only where our own mark is, and words without addresses.
#![no_main]

use bellwether_connectors::{
    channels::Reference,
    mail::{
        Incoming,
        origin::{Origin, ReturnKey},
        report::{Letter, Report, read},
    },
};
use bellwether_schemas::{DeliveryId, NotificationId, Timestamp, records::Record};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

const NOW: Timestamp = Timestamp(1_767_225_600_000);
/// Stand in an input for a mark and a seal of ours, which the fuzzer would never find.
const MARK: &str = "@MARK@";
const SEAL: &str = "@SEALED@";

static OURS: LazyLock<(ReturnKey, Origin)> = LazyLock::new(|| {
    let reference = Reference {
        delivery: DeliveryId::default(),
        notification: NotificationId::default(),
        project: "shop".into(),
        member: "m1".into(),
        template: "order".into(),
        provider: "mail".into(),
    };
    let key = ReturnKey::new("a key of more than sixteen characters").expect("long enough");
    (key, Origin { reference, attempt: 2, address: "jane@example.com".into() })
});

// The seeds are the samples of connectors/tests/mail.
fuzz_target!(|input: &[u8]| {
    let (key, origin) = &*OURS;
    let text = String::from_utf8_lossy(input);
    let is_marked = text.contains(MARK) || text.contains(SEAL);
    let content = if is_marked {
        let mark = key.mark(origin.reference.delivery, origin.attempt);
        text.replace(MARK, &mark).replace(SEAL, &key.seal(origin)).into_bytes()
    } else {
        input.to_vec()
    };
    let incoming = Incoming { recipients: Vec::new(), content };
    let report = read(std::slice::from_ref(key), &incoming);
    match &report {
        Report::Bounce { letter, detail, .. } | Report::Complaint { letter, detail } => {
            assert!(is_marked, "believed without a mark: {report:?}");
            assert!(!detail.contains(['\n', '@']), "{detail}");
            if let Letter::Whole(known) = letter {
                assert_eq!(**known, *origin);
            }
        }
        Report::Delivered(_) | Report::Unsubscribe(_) => assert!(is_marked, "believed without a mark: {report:?}"),
        Report::Delayed | Report::AutoReply | Report::Unmatched | Report::Other => {}
    }
    if let Some(receipt) = report.receipt(NOW) {
        assert!(receipt.address.as_ref().is_none_or(|address| *address == origin.address));
        Record::Receipt(receipt).encode().expect("a receipt can be written");
    }
});
