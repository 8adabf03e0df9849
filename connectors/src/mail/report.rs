//! What a message that comes back says: a bounce (RFC 3464; Exim's and qmail's older ways too), a complaint (RFC 5965),
//! a wish to unsubscribe, an automatic answer (RFC 3834) or nothing of ours. Pure: bytes in, one value out. It believes
//! nothing about whose letter it was but our own marks ([`super::origin`]).

use super::{
    Incoming,
    origin::{HEADER, Origin, ReturnKey, UNSUBSCRIBES, mark_in},
    status::{Status, kind_of_words},
};
use crate::channels::without_addresses;
use bellwether_schemas::{
    Channel, NotificationId, Timestamp,
    records::{ErrorKind, Receipt, ReceiptKind},
};
use mail_parser::{Message, MessageParser, MimeHeaders as _, PartType};
use std::borrow::Cow;

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// It will not arrive.
    Bounce {
        /// Which letter.
        letter: Letter,
        /// The code, if there was one.
        status: Option<Status>,
        /// What follows for the address.
        kind: ErrorKind,
        /// The server's words, without addresses.
        detail: String,
    },
    /// It arrived, or went on to a server that reports no further.
    Delivered(Letter),
    /// It is still on its way: nothing follows from that.
    Delayed,
    /// The recipient called it spam.
    Complaint {
        /// Which letter.
        letter: Letter,
        /// The kind of complaint in the reporter's word.
        detail: String,
    },
    /// The recipient wrote to the address that unsubscribes.
    Unsubscribe(Origin),
    /// A machine answered for somebody.
    AutoReply,
    /// It reports on a letter, but carries no valid mark of ours: forged, foreign, or stripped on its way. Nothing
    /// follows but a count.
    Unmatched,
    /// Something else: a person's letter, spam.
    Other,
}

/// Which letter a report is about, proven by our key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Letter {
    /// The sealed origin came back: this is all that a receipt needs.
    Whole(Box<Origin>),
    /// Only the mark came back, because the reporter returned no headers: the rest is in the notification's story.
    Mark {
        /// Notification.
        notification: NotificationId,
        /// Which try, from 1.
        attempt: i32,
    },
}

impl Report {
    /// The notification and try of which only the mark came back.
    #[must_use]
    pub const fn mark(&self) -> Option<(NotificationId, i32)> {
        match self {
            Self::Bounce { letter: Letter::Mark { notification, attempt }, .. }
            | Self::Delivered(Letter::Mark { notification, attempt })
            | Self::Complaint { letter: Letter::Mark { notification, attempt }, .. } => Some((*notification, *attempt)),
            _ => None,
        }
    }

    /// The same report with the letter's origin, looked up by its mark.
    #[must_use]
    pub fn about(mut self, origin: Origin) -> Self {
        if let Self::Bounce { letter, .. } | Self::Delivered(letter) | Self::Complaint { letter, .. } = &mut self {
            *letter = Letter::Whole(Box::new(origin));
        }
        self
    }

    /// The receipt that says so; `None` where nothing follows, and where only [`Letter::Mark`] is known.
    #[must_use]
    pub fn receipt(self, now: Timestamp) -> Option<Receipt> {
        let (origin, kind, error, detail) = match self {
            Self::Bounce { letter: Letter::Whole(origin), kind, detail, .. } => {
                (*origin, ReceiptKind::Failed, Some(kind), Some(detail))
            }
            Self::Delivered(Letter::Whole(origin)) => (*origin, ReceiptKind::Delivered, None, None),
            Self::Complaint { letter: Letter::Whole(origin), detail } => {
                (*origin, ReceiptKind::OptedOut, Some(ErrorKind::OptedOut), Some(detail))
            }
            Self::Unsubscribe(origin) => (origin, ReceiptKind::OptedOut, None, None),
            _ => return None,
        };
        let Origin { reference, attempt, address } = origin;
        // The address matters only where the receipt acts on it.
        let acts = matches!(error, Some(ErrorKind::InvalidAddress | ErrorKind::Unreachable | ErrorKind::OptedOut));
        Some(Receipt {
            delivery: reference.delivery,
            notification: reference.notification,
            project: reference.project,
            member: reference.member,
            template: reference.template,
            channel: Channel::Email,
            kind,
            at: now,
            attempt,
            provider: reference.provider,
            // The letter is known by our own id; that there is one tells that the word is not ours.
            provider_id: Some(reference.delivery.to_string()),
            error,
            detail,
            address: acts.then_some(address).filter(|address| !address.is_empty()),
        })
    }
}

/// Reads a message. `keys` are those of every provider that sends with a return path, old ones too while their letters
/// may come back.
#[must_use]
pub fn read(keys: &[ReturnKey], incoming: &Incoming) -> Report {
    let Some(message) = MessageParser::default().parse(&incoming.content) else { return Report::Other };
    let parts: Vec<Part<'_>> = message.parts.iter().map(|part| Part::of(&message, part)).collect();
    let head = head(&incoming.content);
    let marks = Marks { keys, incoming, head: &head, parts: &parts };
    if let Some(part) = parts.iter().find(|part| part.is("message", &["delivery-status", "global-delivery-status"])) {
        return delivery_status(&part.text, &marks);
    }
    if let Some(part) = parts.iter().find(|part| part.is("message", &["feedback-report"])) {
        return feedback(&part.text, &marks);
    }
    if let Some(origin) = marks.unsubscribe() {
        return Report::Unsubscribe(origin);
    }
    if let Some(text) = parts.iter().find_map(|part| unstructured(&head, &part.text)) {
        return bounce(&marks, None, text);
    }
    if is_automatic(&head) { Report::AutoReply } else { Report::Other }
}

/// One MIME part, decoded.
struct Part<'x> {
    kind: Option<(String, String)>,
    text: Cow<'x, str>,
}

impl<'x> Part<'x> {
    fn of(message: &'x Message<'x>, part: &'x mail_parser::MessagePart<'x>) -> Self {
        let kind = part
            .content_type()
            .map(|kind| (kind.ctype().to_ascii_lowercase(), kind.subtype().unwrap_or_default().to_ascii_lowercase()));
        let text = match &part.body {
            PartType::Text(text) | PartType::Html(text) => Cow::Borrowed(&**text),
            PartType::Binary(bytes) | PartType::InlineBinary(bytes) => String::from_utf8_lossy(bytes),
            // Where it was not encoded, the parser leaves the bytes where they were.
            PartType::Message(inner) if part.encoding == mail_parser::Encoding::None => {
                let body = to_usize(part.offset_body)..to_usize(part.offset_end);
                String::from_utf8_lossy(message.raw_message.get(body).unwrap_or(&inner.raw_message))
            }
            PartType::Message(inner) => String::from_utf8_lossy(&inner.raw_message),
            PartType::Multipart(_) => Cow::Borrowed(""),
        };
        Self { kind, text }
    }

    fn is(&self, kind: &str, subtypes: &[&str]) -> bool {
        self.kind.as_ref().is_some_and(|(own, subtype)| own == kind && subtypes.contains(&subtype.as_str()))
    }
}

/// The headers, as text.
fn head(message: &[u8]) -> Cow<'_, str> {
    let ends = ["\r\n\r\n", "\n\n"].map(|end| memchr::memmem::find(message, end.as_bytes()).unwrap_or(message.len()));
    String::from_utf8_lossy(&message[..ends[0].min(ends[1])])
}

fn to_usize(offset: u32) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// Where our marks may be.
struct Marks<'x> {
    keys: &'x [ReturnKey],
    incoming: &'x Incoming,
    head: &'x str,
    parts: &'x [Part<'x>],
}

impl Marks<'_> {
    /// Which letter it is about. `named` are further places that a report names: its ENVID, its return path.
    fn letter(&self, named: &[&str]) -> Option<Letter> {
        let origin =
            self.parts.iter().filter_map(|part| field(&part.text, HEADER)).find_map(|sealed| self.open(&sealed));
        let mark = self.addresses().chain(named.iter().map(|&text| text.to_owned())).find_map(|text| {
            let mark = mark_in(&text).unwrap_or(text.trim());
            self.keys.iter().find_map(|key| key.read_mark(mark).ok())
        });
        match (origin, mark) {
            // A mark of one letter and the seal of another: somebody put them together.
            (Some(origin), Some((notification, _))) if origin.reference.notification != notification => None,
            (Some(origin), _) => Some(Letter::Whole(Box::new(origin))),
            (None, mark) => mark.map(|(notification, attempt)| Letter::Mark { notification, attempt }),
        }
    }

    /// Whom it was sent to. A maildir has no envelope, so what the last server wrote down counts too; none of it is
    /// believed without its MAC.
    fn addresses(&self) -> impl Iterator<Item = String> {
        const NOTED: [&str; 4] = ["Delivered-To", "X-Original-To", "Envelope-To", "To"];
        let noted: Vec<String> = NOTED.into_iter().filter_map(|name| field(self.head, name)).collect();
        let word = |word: &str| word.trim_matches(['<', '>']).to_owned();
        let noted: Vec<_> = noted.iter().flat_map(|text| text.split([',', ' ']).map(word)).collect();
        self.incoming.recipients.iter().cloned().chain(noted)
    }

    fn open(&self, sealed: &str) -> Option<Origin> {
        self.keys.iter().find_map(|key| key.open(sealed).ok())
    }

    fn unsubscribe(&self) -> Option<Origin> {
        let is_ours = |address: &String| {
            let local = address.trim_matches(['<', '>']).rsplit_once('@').map(|(local, _)| local);
            local.is_some_and(|local| local.eq_ignore_ascii_case(UNSUBSCRIBES))
        };
        self.addresses().any(|address| is_ours(&address)).then_some(())?;
        let subject = field(self.head, "Subject")?;
        self.open(&subject).or_else(|| subject.split_whitespace().find_map(|word| self.open(word)))
    }
}

/// RFC 3464: fields about the message, then about each recipient, blocks parted by empty lines.
fn delivery_status(text: &str, marks: &Marks<'_>) -> Report {
    let text = text.replace("\r\n", "\n");
    let envelope = field(&text, "Original-Envelope-Id").unwrap_or_default();
    let blocks: Vec<&str> = text.split("\n\n").filter(|block| field(block, "Action").is_some()).collect();
    let of = |actions: &[&str]| {
        blocks.iter().copied().find(|block| {
            field(block, "Action").is_some_and(|action| actions.iter().any(|one| action.eq_ignore_ascii_case(one)))
        })
    };
    // One letter has one recipient; if somebody's forwarding made several of it, a failure is what we want to know.
    if let Some(block) = of(&["failed"]) {
        let diagnostic = field(block, "Diagnostic-Code").unwrap_or_default();
        let diagnostic = diagnostic.split_once(';').map_or(diagnostic.as_str(), |(_, words)| words.trim());
        let words = match field(block, "Status") {
            Some(status) if diagnostic.is_empty() => status,
            Some(status) => format!("{status} {diagnostic}"),
            None => diagnostic.to_owned(),
        };
        bounce(marks, Some(&envelope), words)
    } else if of(&["delivered", "relayed", "expanded"]).is_some() {
        marks.letter(&[&envelope]).map_or(Report::Unmatched, Report::Delivered)
    } else if of(&["delayed"]).is_some() {
        Report::Delayed
    } else {
        Report::Other
    }
}

/// `words` are codes and text as the reporter has them.
fn bounce(marks: &Marks<'_>, envelope: Option<&str>, words: String) -> Report {
    let Some(letter) = marks.letter(envelope.as_slice()) else { return Report::Unmatched };
    let status = {
        let first = Status::find(&words);
        // Exim says 5.0.0 whatever happened; the other server's own code is in the words that follow.
        let better = || words.split_once(' ').and_then(|(_, rest)| Status::find(rest));
        first.filter(|status| !status.is_vague()).or_else(|| better().or(first))
    };
    let kind = match status {
        Some(status) if !status.is_vague() => status.kind(),
        _ => kind_of_words(reply_code(&words), &words),
    };
    Report::Bounce { letter, status, kind, detail: without_addresses(&words) }
}

/// The basic code among words: three digits alone.
fn reply_code(words: &str) -> Option<u16> {
    words
        .split(|c: char| c.is_whitespace() || c == '-')
        .filter(|word| word.len() == 3 && word.starts_with(['4', '5']))
        .find_map(|word| word.parse().ok())
}

/// RFC 5965.
fn feedback(text: &str, marks: &Marks<'_>) -> Report {
    let kind = field(text, "Feedback-Type").unwrap_or_default().to_ascii_lowercase();
    // `opt-out` is of the drafts before the RFC and still in use; the rest (`not-spam`, `auth-failure`, `virus`) is
    // nobody's will.
    if !matches!(kind.as_str(), "abuse" | "opt-out") {
        return Report::Other;
    }
    let named = ["Original-Envelope-Id", "Original-Mail-From"].map(|name| field(text, name).unwrap_or_default());
    match marks.letter(&[&named[0], &named[1]]) {
        Some(letter) => Report::Complaint { letter, detail: format!("complaint: {kind}") },
        None => Report::Unmatched,
    }
}

/// The words about the first recipient in a bounce that has no machine-readable part: qmail's
/// (<https://cr.yp.to/proto/qsbmf.txt>) and, known by its header, Exim's.
fn unstructured(head: &str, text: &str) -> Option<String> {
    let text = text.replace("\r\n", "\n");
    let is_exim = || field(head, "X-Failed-Recipients").is_some();
    if !(text.starts_with("Hi. This is the") || is_exim()) {
        return None;
    }
    let own = text.split("\n---").next().unwrap_or_default();
    // A line that is an address and no more introduces what was said about it.
    let mut lines = own.lines().skip_while(|line| !introduces(line.trim()));
    lines.next()?;
    let words: Vec<&str> = lines.map(str::trim).take_while(|line| !line.is_empty()).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

fn introduces(line: &str) -> bool {
    let address = line.trim_end_matches(':').trim_matches(['<', '>']);
    address.contains('@') && !address.contains(char::is_whitespace)
}

/// RFC 3834 section 5, and what those write who do not know it.
fn is_automatic(head: &str) -> bool {
    let raw = |name| field(head, name);
    let submitted = raw("Auto-Submitted").is_some_and(|value| !value.to_ascii_lowercase().starts_with("no"));
    let precedence = raw("Precedence").is_some_and(|value| {
        ["auto_reply", "auto-reply", "bulk", "junk"].iter().any(|one| value.eq_ignore_ascii_case(one))
    });
    submitted
        || precedence
        || ["X-Autoreply", "X-Autorespond", "X-Autogenerated"].iter().into_iter().any(|name| raw(name).is_some())
}

/// The value of a header-like line, unfolded; of several the first.
fn field(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines();
    let first = lines.find_map(|line| {
        let (given, value) = line.split_once(':')?;
        given.eq_ignore_ascii_case(name).then_some(value)
    })?;
    let mut value = first.trim().to_owned();
    for more in lines.take_while(|line| line.starts_with([' ', '\t']) && !line.trim().is_empty()) {
        value.push(' ');
        value.push_str(more.trim());
    }
    Some(value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::origin::tests::{key, origin},
        *,
    };
    use proptest::prelude::*;

    fn read_of(recipient: &str, text: &str) -> Report {
        let content = text.replace('\n', "\r\n").into_bytes();
        read(&[key()], &Incoming { recipients: vec![recipient.to_owned()], content })
    }

    fn dsn(action: &str, status: &str, more: &str) -> String {
        format!(
            "From: MAILER-DAEMON@mx.example\nSubject: x\nContent-Type: multipart/report; report-type=delivery-status; boundary=b\n\n\
            --b\n\nwords\n--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n{more}\n\
            Final-Recipient: rfc822; jane@example.com\nAction: {action}\nStatus: {status}\nDiagnostic-Code: smtp; 550 {status} <jane@example.com>: no\n\n--b--\n"
        )
    }

    fn mark() -> Letter {
        Letter::Mark { notification: origin().reference.notification, attempt: 2 }
    }

    #[test]
    fn an_action_is_what_it_says() {
        let to = format!("b+{}@bounce.example", key().mark(origin().reference.notification, 2));
        let Report::Bounce { letter, status, kind, detail } = read_of(&to, &dsn("failed", "5.1.1", "")) else {
            panic!()
        };
        assert_eq!((letter, kind), (mark(), ErrorKind::InvalidAddress));
        assert_eq!((status.unwrap().to_string().as_str(), detail.as_str()), ("5.1.1", "5.1.1 550 5.1.1 [address] no"));
        assert_eq!(read_of(&to, &dsn("Delivered", "2.0.0", "")), Report::Delivered(mark()));
        assert_eq!(read_of(&to, &dsn("relayed", "2.0.0", "")), Report::Delivered(mark()));
        assert_eq!(read_of(&to, &dsn("delayed", "4.4.1", "")), Report::Delayed);
        assert_eq!(read_of(&to, &dsn("slept", "4.4.1", "")), Report::Other);
        assert_eq!(
            read_of(&to, &dsn("failed", "5.1.1", "")).receipt(Timestamp(1)),
            None,
            "a mark alone makes no receipt"
        );
        let report = read_of(&to, &dsn("failed", "5.1.1", ""));
        assert_eq!(report.mark(), Some((origin().reference.notification, 2)));
        let receipt = report.about(origin()).receipt(Timestamp(1)).unwrap();
        assert_eq!((receipt.delivery, receipt.address), (origin().reference.delivery, Some(origin().address)));
    }

    #[test]
    fn an_envid_is_as_good_as_a_return_path() {
        let envid = format!("Original-Envelope-Id: {}\n", key().mark(origin().reference.notification, 2));
        let report = read_of("postmaster@bounce.example", &dsn("failed", "5.2.2", &envid));
        assert!(matches!(report, Report::Bounce { kind: ErrorKind::Unreachable, letter, .. } if letter == mark()));
    }

    #[test]
    fn a_forged_bounce_suppresses_nobody() {
        let other = ReturnKey::new("another secret of enough length").unwrap();
        let forged = other.mark(origin().reference.notification, 2);
        for to in
            [format!("b+{forged}@bounce.example"), "b+@bounce.example".into(), "b+1@bounce.example".into(), "x".into()]
        {
            assert_eq!(read_of(&to, &dsn("failed", "5.1.1", "")), Report::Unmatched, "{to}");
        }
        let sealed = |key: &ReturnKey| {
            format!(
                "{}--b\nContent-Type: text/rfc822-headers\n\n{HEADER}: {}\n\n--b--\n",
                dsn("failed", "5.1.1", "").trim_end_matches("--b--\n"),
                key.seal(&origin())
            )
        };
        assert_eq!(read_of("x@y", &sealed(&other)), Report::Unmatched);
        assert!(matches!(read_of("x@y", &sealed(&key())), Report::Bounce { letter: Letter::Whole(_), .. }));
        // The mark of one letter and the seal of another.
        let mixed = format!("b+{}@bounce.example", key().mark(NotificationId::default(), 1));
        assert_eq!(read_of(&mixed, &sealed(&key())), Report::Unmatched);
    }

    #[test]
    fn a_receipt_takes_the_address_from_the_seal() {
        let report =
            |kind| Report::Bounce { letter: Letter::Whole(Box::new(origin())), status: None, kind, detail: "x".into() };
        let receipt = report(ErrorKind::InvalidAddress).receipt(Timestamp(1)).unwrap();
        assert_eq!(
            (receipt.kind, receipt.attempt, receipt.address.as_deref()),
            (ReceiptKind::Failed, 2, Some("jane@example.com"))
        );
        assert_eq!(report(ErrorKind::Rejected).receipt(Timestamp(1)).unwrap().address, None);
        assert_eq!(Report::Unsubscribe(origin()).receipt(Timestamp(1)).unwrap().kind, ReceiptKind::OptedOut);
        assert_eq!(Report::AutoReply.receipt(Timestamp(1)), None);
    }

    #[test]
    fn who_writes_to_unsubscribe_is_known_by_the_subject() {
        let mail =
            |subject: &str| format!("From: jane@example.com\nTo: <u@bounce.example>\nSubject: {subject}\n\nplease\n");
        let sealed = key().seal(&origin());
        for subject in [sealed.clone(), format!("Re: {sealed}"), format!("{}\n {}", &sealed[..60], &sealed[60..])] {
            assert_eq!(read_of("u@bounce.example", &mail(&subject)), Report::Unsubscribe(origin()), "{subject}");
            assert_eq!(
                read(&[key()], &Incoming { recipients: vec![], content: mail(&subject).into_bytes() }),
                Report::Unsubscribe(origin())
            );
        }
        assert_eq!(read_of("u@bounce.example", &mail("unsubscribe")), Report::Other);
    }

    #[test]
    fn machines_that_answer_are_ignored() {
        for header in [
            "Auto-Submitted: auto-replied",
            "Auto-Submitted: auto-generated; x=y",
            "X-Autoreply: yes",
            "Precedence: auto_reply",
        ] {
            assert_eq!(
                read_of("b+x@y", &format!("From: jane@example.com\n{header}\nSubject: away\n\nuser unknown 5.1.1\n")),
                Report::AutoReply,
                "{header}"
            );
        }
        assert_eq!(read_of("b+x@y", "From: j@example.com\nAuto-Submitted: no\nSubject: Hi\n\nHello\n"), Report::Other);
    }

    proptest! {
        #[test]
        fn nothing_that_comes_makes_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), to in any::<String>()) {
            let report = read(&[key()], &Incoming { recipients: vec![to], content: bytes });
            prop_assert_eq!(report.receipt(Timestamp(1)), None);
        }

        #[test]
        fn nor_anything_that_looks_like_a_report(
            cut in 0_usize..600, noise in any::<String>(), status in "[0-9.]{0,9}", action in "(failed|delayed|delivered|x)", words in "[ -~\n]{0,60}",
        ) {
            let to = format!("b+{}@bounce.example", key().mark(origin().reference.notification, 2));
            let text = dsn(&action, &status, &words);
            let mut content = text.into_bytes();
            content.truncate(cut);
            content.extend_from_slice(noise.as_bytes());
            if let Report::Bounce { detail, .. } = read(&[key()], &Incoming { recipients: vec![to], content }) {
                prop_assert!(!detail.contains('@') && !detail.contains('\n'));
            }
        }

        #[test]
        fn no_forgery_is_believed(mark in "[0-9a-f]{60}", sealed in "[A-Za-z0-9_]{0,80}\\.[A-Za-z0-9_]{22}") {
            let text = dsn("failed", "5.1.1", &format!("{HEADER}: {sealed}\n"));
            prop_assert_eq!(read_of(&format!("b+{mark}@bounce.example"), &text), Report::Unmatched);
        }
    }
}
