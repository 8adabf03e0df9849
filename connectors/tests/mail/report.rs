//! Bounces in the shapes of the usual servers, each about the same letter.
use super::{key, letter, sample};
use bellwether_connectors::mail::{
    Incoming,
    report::{Letter, Report, read},
};
use bellwether_schemas::{
    Timestamp,
    records::{
        ErrorKind::{self, InvalidAddress, OptedOut, Rejected, Unreachable},
        ReceiptKind,
    },
};

/// Name, kind, code and what the words begin with.
const BOUNCES: [(&str, ErrorKind, Option<&str>, &str); 7] = [
    ("postfix", InvalidAddress, Some("5.1.1"), "5.1.1 550 5.1.1 [address] Recipient"),
    ("exim", InvalidAddress, Some("5.1.1"), "5.0.0 550 5.1.1 no such user"),
    ("exim-plain", InvalidAddress, None, "Unrouteable address"),
    ("exchange", InvalidAddress, Some("5.1.10"), "5.1.10 550 5.1.10 RESOLVER.ADR"),
    ("gmail", Unreachable, Some("5.2.2"), "5.2.2 552-5.2.2 The recipient's inbox"),
    ("qmail", InvalidAddress, Some("5.1.1"), "Sorry, no mailbox here by that name. (#5.1.1)"),
    ("sendmail", Rejected, Some("5.7.1"), "5.7.1 550 5.7.1 Message rejected"),
];

fn read_sample(name: &str, recipients: &[String]) -> Report {
    read(&[key()], &Incoming { recipients: recipients.to_vec(), content: sample(name) })
}

#[test]
fn every_server_says_why_and_which() {
    for (name, kind, status, words) in BOUNCES {
        let report = read_sample(name, &[]);
        let Report::Bounce { letter: Letter::Whole(origin), kind: found, status: code, detail } = report.clone() else {
            panic!("{name}: {report:?}")
        };
        assert_eq!((found, code.map(|code| code.to_string()).as_deref()), (kind, status), "{name}");
        assert!(detail.starts_with(words), "{name}: {detail}");
        assert!(!detail.contains("jane"), "{name}: {detail}");
        assert_eq!(*origin, letter(), "{name}");
        let receipt = report.receipt(Timestamp(5)).unwrap();
        assert_eq!((receipt.kind, receipt.error, receipt.at), (ReceiptKind::Failed, Some(kind), Timestamp(5)));
    }
}

#[test]
fn what_is_no_bounce_suppresses_nobody() {
    let known = || Letter::Whole(Box::new(letter()));
    assert_eq!(read_sample("postfix-delivered", &[]), Report::Delivered(known()));
    assert_eq!(read_sample("postfix-delayed", &[]), Report::Delayed);
    assert_eq!(read_sample("vacation", &[]), Report::AutoReply);
    let complaint = read_sample("arf", &[]);
    assert_eq!(complaint, Report::Complaint { letter: known(), detail: "complaint: abuse".into() });
    let receipt = complaint.receipt(Timestamp(5)).unwrap();
    assert_eq!((receipt.kind, receipt.error), (ReceiptKind::OptedOut, Some(OptedOut)));
    let not_spam = String::from_utf8(sample("arf")).unwrap().replace("Type: abuse", "Type: not-spam");
    assert_eq!(read(&[key()], &Incoming { recipients: vec![], content: not_spam.into() }), Report::Other);
}

#[test]
fn without_our_key_nothing_is_believed() {
    let other = bellwether_connectors::mail::origin::ReturnKey::new("another secret of enough length").unwrap();
    for name in BOUNCES.map(|(name, ..)| name).into_iter().chain(["arf", "postfix-delivered"]) {
        let incoming = Incoming { recipients: vec![], content: sample(name) };
        assert_eq!(read(std::slice::from_ref(&other), &incoming), Report::Unmatched, "{name}");
        assert_eq!(read(&[], &incoming), Report::Unmatched, "{name}");
        // The old key still reads what it marked.
        assert_ne!(read(&[other.clone(), key()], &incoming), Report::Unmatched, "{name}");
    }
}

#[test]
fn where_the_letter_is_cut_off_the_mark_remains() {
    for (name, ..) in BOUNCES {
        let text = String::from_utf8(sample(name)).unwrap();
        let cut = text.find("X-Bellwether-Reference").unwrap();
        let incoming = Incoming { recipients: vec![], content: text[..cut].into() };
        let report = read(&[key()], &incoming);
        let expected = Letter::Mark { notification: letter().reference.notification, attempt: 2 };
        assert!(matches!(&report, Report::Bounce { letter, .. } if *letter == expected), "{name}: {report:?}");
        assert_eq!(report.receipt(Timestamp(5)), None);
    }
}
