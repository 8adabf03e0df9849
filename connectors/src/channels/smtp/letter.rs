//! A message as mail: envelope and MIME text (RFC 5322, 2045 to 2047), made of nothing but the configuration, the message and the time.
//! Knows no connection.

use super::Config;
use crate::channels::{ConfigError, Content, Email, Message, SendError};
use bellwether_schemas::{Timestamp, records::ErrorKind};
use lettre::{
    Address,
    message::{
        Body, Mailbox,
        header::{self, ContentTransferEncoding, Header},
    },
};
use std::{
    fmt::Write as _,
    time::{Duration, SystemTime},
};

/// Longest line of a 7-bit body, without its end (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;
/// Every boundary begins so. A quoted-printable or base64 body cannot contain it (RFC 2045 section 6.7), a 7-bit one that does is encoded.
const BOUNDARY: &str = "=_bellwether_";
/// Last second of the year 9999, the end of RFC 5322's dates.
const LAST_SECOND: u64 = 253_402_300_799;

/// Mail, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Envelope sender.
    pub from: Address,
    /// Envelope recipient.
    pub to: Address,
    /// Headers and body, lines ended by CRLF, not yet dot-stuffed.
    pub content: Vec<u8>,
}

impl Letter {
    /// Whether an address needs SMTPUTF8 (RFC 6531).
    pub(super) fn is_international(&self) -> bool {
        !(AsRef::<str>::as_ref(&self.from).is_ascii() && AsRef::<str>::as_ref(&self.to).is_ascii())
    }
}

/// What is the same on every letter of a sender, written once.
#[derive(Clone, Debug)]
pub struct Letterhead {
    from: Address,
    domain: String,
    headers: String,
}

impl Letterhead {
    /// Checks the sender's names.
    ///
    /// # Errors
    /// An address or domain does not parse; names the field.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let from = address(&config.from_address)
            .ok_or_else(|| super::wrong("from_address", "is no e-mail address: write `name@example.com`"))?;
        let domain = config.domain.clone().unwrap_or_else(|| from.domain().to_owned());
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
        if domain.is_empty() || domain.len() > 255 || !domain.chars().all(is_name) {
            return Err(super::wrong("domain", "is no host name: write one such as `mail.example.com`"));
        }
        let mut headers = String::with_capacity(256);
        let name = config.from_name.as_deref().map(one_line).filter(|name| !name.is_empty());
        field(&mut headers, header::From::from(lettre::message::Mailboxes::from(Mailbox::new(name, from.clone()))));
        if let Some(reply_to) = &config.reply_to {
            let to = address(reply_to)
                .ok_or_else(|| super::wrong("reply_to", "is no e-mail address: write `name@example.com`"))?;
            field(&mut headers, header::ReplyTo::from(lettre::message::Mailboxes::from(Mailbox::new(None, to))));
        }
        headers.push_str("Auto-Submitted: auto-generated\r\nMIME-Version: 1.0\r\n");
        Ok(Self { from, domain, headers })
    }

    /// The name that we greet with, and the right side of our Message-IDs.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Writes one letter. The same message and time make the same bytes; of one delivery every try has the same Message-ID.
    ///
    /// # Errors
    /// The address is none: [`ErrorKind::InvalidAddress`]. No body, or content of another channel: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message, now: Timestamp) -> Result<Letter, SendError> {
        let Content::Email(Email { subject, html, text, .. }) = &message.content else {
            return Err(SendError::new(ErrorKind::Rejected, "content is no e-mail: give a subject and a body"));
        };
        let to = address(&message.to)
            .ok_or_else(|| SendError::new(ErrorKind::InvalidAddress, "the address is no e-mail address"))?;
        let size = html.as_ref().map_or(0, String::len) + text.as_ref().map_or(0, String::len);
        let mut out = String::with_capacity(size + size / 16 + 1024);
        out.push_str(&self.headers);
        let id = message.delivery;
        // Writing to a String cannot fail.
        write!(out, "To: {to}\r\nMessage-ID: <{id}@{}>\r\nX-Bellwether-Delivery: {id}\r\n", self.domain).ok();
        field(&mut out, header::Date::new(moment(now)));
        field(&mut out, header::Subject::from(one_line(subject)));
        match (text, html) {
            (Some(text), Some(html)) => alternative(&mut out, message, text, html),
            (Some(text), None) => part(&mut out, "plain", text),
            (None, Some(html)) => part(&mut out, "html", html),
            (None, None) => {
                return Err(SendError::new(ErrorKind::Rejected, "e-mail without a body: give `html` or `text`"));
            }
        }
        Ok(Letter { from: self.from.clone(), to, content: out.into_bytes() })
    }
}

/// Parses an address; the domain of an international one becomes its ASCII form (RFC 5891), so that only the part before the `@` may need SMTPUTF8.
fn address(text: &str) -> Option<Address> {
    if text.contains(|c: char| c.is_control()) {
        return None;
    }
    let address: Address = text.parse().ok()?;
    if address.domain().is_ascii() {
        return Some(address);
    }
    let url = reqwest::Url::parse(&format!("http://{}/", address.domain())).ok()?;
    Address::new(address.user(), url.host_str()?).ok()
}

/// A header holds one line: what would end it becomes a space.
fn one_line(text: &str) -> String {
    text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn moment(at: Timestamp) -> SystemTime {
    let seconds = u64::try_from(at.0 / 1000).unwrap_or(0).min(LAST_SECOND);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// One header, encoded (RFC 2047) and folded.
fn field<H: Header>(out: &mut String, header: H) {
    let mut one = header::Headers::with_capacity(1);
    one.set(header);
    write!(out, "{one}").ok();
}

/// RFC 2046 section 5.1.4: the richest form comes last.
fn alternative(out: &mut String, message: &Message, text: &str, html: &str) {
    let id = message.delivery.0.simple();
    write!(out, "Content-Type: multipart/alternative; boundary=\"{BOUNDARY}{id}\"\r\n\r\n--{BOUNDARY}{id}\r\n").ok();
    part(out, "plain", text);
    write!(out, "--{BOUNDARY}{id}\r\n").ok();
    part(out, "html", html);
    write!(out, "--{BOUNDARY}{id}--\r\n").ok();
}

/// Headers and body of one text part, ended by CRLF.
fn part(out: &mut String, subtype: &str, text: &str) {
    write!(out, "Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: ").ok();
    let mark = out.len();
    out.push_str("7bit\r\n\r\n");
    if !seven_bit(out, text) {
        out.truncate(mark);
        encoded(out, text);
    }
    if !out.ends_with("\r\n") {
        out.push_str("\r\n");
    }
}

/// Appends the text as it is, with its line ends made CRLF; false (and some of it appended) where it needs an encoding.
fn seven_bit(out: &mut String, text: &str) -> bool {
    if !text.is_ascii() {
        return false;
    }
    let mut start = 0;
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text.as_bytes()[start..]).map_or(text.len(), |n| start + n);
        let line = &text[start..end];
        let line = line.strip_suffix('\r').unwrap_or(line);
        let plain = |b: u8| b >= b' ' && b != 0x7f || b == b'\t';
        if line.len() > MAX_LINE || !line.bytes().fold(true, |all, b| all & plain(b)) {
            return false;
        }
        if line.strip_prefix("--").is_some_and(|rest| rest.starts_with(BOUNDARY)) {
            return false;
        }
        out.push_str(line);
        out.push_str("\r\n");
        start = end + 1;
    }
    true
}

fn encoded(out: &mut String, text: &str) {
    // Quoted-printable triples a byte that is not ASCII, base64 adds a third to all: the shorter one wins.
    let foreign = text.bytes().filter(|b| !b.is_ascii()).count();
    let encoding = if foreign * 6 > text.len() {
        ContentTransferEncoding::Base64
    } else {
        ContentTransferEncoding::QuotedPrintable
    };
    let body = match Body::new_with_encoding(text.to_owned(), encoding) {
        Ok(body) => body.into_vec(),
        Err(raw) => raw, // Not for these two encodings.
    };
    write!(out, "{encoding}\r\n\r\n").ok();
    out.push_str(&String::from_utf8_lossy(&body));
}

/// The content as it goes over the wire: a dot at the start of a line doubled (RFC 5321 section 4.5.2), the final dot appended.
pub(super) fn dotted(content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 64);
    let mut start = 0;
    let first = content.starts_with(b".").then_some(0);
    for dot in first.into_iter().chain(memchr::memmem::find_iter(content, b"\n.").map(|at| at + 1)) {
        out.extend_from_slice(&content[start..dot]);
        out.push(b'.');
        start = dot;
    }
    out.extend_from_slice(&content[start..]);
    if !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::Reference;
    use bellwether_schemas::{DeliveryId, Lane, NotificationId};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_767_323_045_678); // 2026-01-02T03:04:05.678Z

    fn letterhead(settings: serde_json::Value) -> Result<Letterhead, ConfigError> {
        let mut all = serde_json::json!({"host": "mx.example", "from_address": "news@shop.example"});
        all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        Letterhead::new(&serde_json::from_value(all).unwrap())
    }

    fn message(to: &str, subject: &str, text: Option<&str>, html: Option<&str>) -> Message {
        let delivery: DeliveryId = "0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6".parse().unwrap();
        Message {
            delivery,
            attempt: 1,
            to: to.into(),
            content: Content::Email(Email {
                subject: subject.into(),
                html: html.map(Into::into),
                text: text.map(Into::into),
                ..Email::default()
            }),
            lane: Lane::Bulk,
            ttl: None,
            reference: Reference {
                delivery,
                notification: NotificationId::default(),
                project: "shop".into(),
                member: "m1".into(),
                template: "order".into(),
                provider: "mail".into(),
            },
        }
    }

    fn written(head: &Letterhead, message: &Message) -> String {
        String::from_utf8(head.request(message, NOW).unwrap().content).unwrap()
    }

    #[test]
    fn a_letter_to_the_letter() {
        let head = letterhead(serde_json::json!({"from_name": "Shop, Ltd.", "reply_to": "help@shop.example"})).unwrap();
        let message = message("jane@example.com", "Your order", Some("Hello\n.dot\n"), Some("<p>Grüße</p>"));
        let expected = [
            "From: =?utf-8?b?U2hvcCwgTHRkLg==?= <news@shop.example>",
            "Reply-To: help@shop.example",
            "Auto-Submitted: auto-generated",
            "MIME-Version: 1.0",
            "To: jane@example.com",
            "Message-ID: <0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6@shop.example>",
            "X-Bellwether-Delivery: 0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6",
            "Date: Fri, 02 Jan 2026 03:04:05 +0000",
            "Subject: Your order",
            "Content-Type: multipart/alternative; boundary=\"=_bellwether_0c9f5a1e2b3c5d4e8f90a1b2c3d4e5f6\"",
            "",
            "--=_bellwether_0c9f5a1e2b3c5d4e8f90a1b2c3d4e5f6",
            "Content-Type: text/plain; charset=utf-8",
            "Content-Transfer-Encoding: 7bit",
            "",
            "Hello",
            ".dot",
            "--=_bellwether_0c9f5a1e2b3c5d4e8f90a1b2c3d4e5f6",
            "Content-Type: text/html; charset=utf-8",
            "Content-Transfer-Encoding: base64",
            "",
            "PHA+R3LDvMOfZTwvcD4=",
            "--=_bellwether_0c9f5a1e2b3c5d4e8f90a1b2c3d4e5f6--",
            "",
        ];
        assert_eq!(written(&head, &message), expected.join("\r\n"));
        let letter = head.request(&message, NOW).unwrap();
        assert_eq!(
            (letter.from.to_string(), letter.to.to_string()),
            ("news@shop.example".into(), "jane@example.com".into())
        );
        assert!(String::from_utf8(dotted(&letter.content)).unwrap().contains("\r\n..dot\r\n"));
    }

    #[test]
    fn one_body_needs_no_parts() {
        let head = letterhead(serde_json::json!({"domain": "mail.shop.example"})).unwrap();
        let text = written(&head, &message("a@example.com", "Hi", Some("only text"), None));
        assert!(text.contains("Message-ID: <0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6@mail.shop.example>\r\n"));
        assert!(text.ends_with(
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\nonly text\r\n"
        ));
        let html = written(&head, &message("a@example.com", "Hi", None, Some("<b>é</b> and a good deal of English")));
        assert!(html.ends_with("text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<b>=C3=A9</b> and a good deal of English\r\n"), "{html}");
        let none = head.request(&message("a@example.com", "Hi", None, None), NOW).unwrap_err();
        assert_eq!(none.kind, ErrorKind::Rejected);
    }

    #[test]
    fn a_subject_cannot_become_a_header() {
        let head = letterhead(serde_json::json!({"from_name": "Shop\r\nBcc: all@example.com"})).unwrap();
        for evil in [
            "Hi\r\nBcc: victim@example.com",
            "Hi\nBcc: v@example.com",
            "Hi\r\n\r\n<script>",
            "é\r\nBcc: v@example.com",
            "\0\r\n.\r\n",
        ] {
            let text = written(&head, &message("a@example.com", evil, Some("x"), None));
            let headers = text.split("\r\n\r\n").next().unwrap();
            let names: Vec<_> =
                headers.split("\r\n").filter(|l| !l.starts_with(' ')).map(|l| l.split(':').next().unwrap()).collect();
            let expected = [
                "From",
                "Auto-Submitted",
                "MIME-Version",
                "To",
                "Message-ID",
                "X-Bellwether-Delivery",
                "Date",
                "Subject",
                "Content-Type",
                "Content-Transfer-Encoding",
            ];
            assert_eq!(names, expected, "{evil:?} made {headers}");
        }
    }

    #[test]
    fn a_long_subject_is_encoded_and_folded() {
        let head = letterhead(serde_json::json!({})).unwrap();
        let subject = "Ваш заказ отправлен, ".repeat(12);
        let text = written(&head, &message("a@example.com", &subject, Some("x"), None));
        assert!(text.contains("Subject: =?utf-8?b?"));
        assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 78), "{text}");
    }

    #[test]
    fn what_is_no_address_is_not_written_to() {
        let head = letterhead(serde_json::json!({})).unwrap();
        for bad in [
            "",
            "nobody",
            "a@",
            "@b",
            "a b@example.com",
            "a@example.com\r\nRCPT TO:<v@example.com>",
            "a@example.com>\r\nDATA",
            "a@exa mple.com",
            "a@example.com, b@example.com",
            "\"a\r\n\"@example.com",
        ] {
            let error = head.request(&message(bad, "Hi", Some("x"), None), NOW).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidAddress, "{bad:?}");
            assert!(bad.is_empty() || !error.detail.contains(bad), "{error}");
        }
        let letter = head.request(&message("jane@bücher.example", "Hi", Some("x"), None), NOW).unwrap();
        assert_eq!((letter.to.to_string().as_str(), letter.is_international()), ("jane@xn--bcher-kva.example", false));
        assert!(head.request(&message("jürgen@example.com", "Hi", Some("x"), None), NOW).unwrap().is_international());
    }

    #[test]
    fn a_bad_sender_is_named() {
        for (settings, field) in [
            (serde_json::json!({"from_address": "nobody"}), "from_address"),
            (serde_json::json!({"reply_to": "a@b\r\nBcc: c@d"}), "reply_to"),
            (serde_json::json!({"domain": "mail shop"}), "domain"),
            (serde_json::json!({"domain": "x>\r\nBcc: y"}), "domain"),
        ] {
            let error = letterhead(settings).unwrap_err();
            assert!(error.to_string().starts_with(&format!("smtp provider: `{field}` is no ")), "{error}");
        }
    }

    #[test]
    fn a_body_cannot_end_its_part() {
        let head = letterhead(serde_json::json!({})).unwrap();
        let boundary = "--=_bellwether_0c9f5a1e2b3c5d4e8f90a1b2c3d4e5f6";
        let text = written(&head, &message("a@example.com", "Hi", Some(&format!("x\n{boundary}--\ny")), Some("<p>")));
        assert_eq!(text.matches(&format!("\r\n{boundary}")).count(), 3, "{text}");
    }

    #[test]
    fn dots_are_doubled() {
        for (content, wire) in [
            ("a\r\n", "a\r\n.\r\n"),
            ("a", "a\r\n.\r\n"),
            (".\r\n", "..\r\n.\r\n"),
            (".a\r\n.\r\n..b\r\nc.d\r\n", "..a\r\n..\r\n...b\r\nc.d\r\n.\r\n"),
            ("", "\r\n.\r\n"),
        ] {
            assert_eq!(String::from_utf8(dotted(content.as_bytes())).unwrap(), wire, "{content:?}");
        }
    }

    proptest! {
        #[test]
        fn any_content_makes_lines_that_every_server_takes(
            subject in any::<String>(), text in any::<String>(), html in "[ -~äß\r\n.\0=-]{0,300}", at in any::<i64>(),
        ) {
            let letter = letterhead(serde_json::json!({})).unwrap()
                .request(&message("a@example.com", &subject, Some(&text), Some(&html)), Timestamp(at)).unwrap();
            let content = String::from_utf8(letter.content).unwrap();
            prop_assert!(content.is_ascii() && !content.contains('\0'));
            prop_assert!(content.ends_with("\r\n"));
            for line in content.split("\r\n") {
                prop_assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
            }
        }
    }
}
