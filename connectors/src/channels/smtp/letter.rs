//! A message as mail: envelope and MIME text (RFC 5322, 2045 to 2047), made of nothing but the configuration, the
//! message and the time. Knows no connection.

use super::{Config, File, dkim, plain};
use crate::{
    channels::{ConfigError, Content, Email, Message, SendError},
    mail::origin::{BOUNCES, HEADER, Origin, ReturnKey, UNSUBSCRIBES},
};
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
use uuid::fmt::Simple;

/// Longest line of a 7-bit body, without its end (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;
/// Every boundary begins so. A quoted-printable or base64 body cannot contain it (RFC 2045 section 6.7), a 7-bit one
/// that does is encoded.
const BOUNDARY: &str = "=_bellwether_";
/// Last second of the year 9999, the end of RFC 5322's dates.
const LAST_SECOND: u64 = 253_402_300_799;
/// Characters of a line of a folded header.
const FOLD: usize = 72;
/// Longest link of List-Unsubscribe: with its brackets it must fit a line.
const MAX_LINK: usize = 900;

/// Mail, ready to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Envelope sender.
    pub from: Address,
    /// Envelope recipient.
    pub to: Address,
    /// Headers and body, lines ended by CRLF, not yet dot-stuffed.
    pub content: Vec<u8>,
    /// What servers on the way shall report, and how we know it again.
    pub wishes: Option<Wishes>,
}

/// Parameters of the envelope (RFC 3461), each with the space before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wishes {
    /// Of MAIL: what a report returns, and the ENVID.
    pub of_message: String,
    /// Of RCPT: when to report, and the address as we know it.
    pub of_recipient: String,
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
    derive_text: bool,
    feedback: Option<String>,
    /// Where mail comes back to; without its key nothing is marked, and it comes back to the sender.
    returns: Option<Returns>,
    dkim: Vec<dkim::Key>,
}

#[derive(Clone, Debug)]
struct Returns {
    domain: String,
    key: ReturnKey,
    delivery_reports: bool,
    unsubscribe_by_mail: bool,
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
        if !is_host(&domain) {
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
        if config.return_path_domain.as_deref().is_some_and(|domain| !is_host(domain)) {
            return Err(super::wrong("return_path_domain", "is no host name: write one such as `bounce.example.com`"));
        }
        let feedback = config.feedback_id.clone();
        let is_name = |name: &str| (5..=15).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric());
        if feedback.as_deref().is_some_and(|name| !is_name(name)) {
            return Err(super::wrong("feedback_id", "is no name: write 5 to 15 letters or digits"));
        }
        let derive_text = config.derive_text;
        Ok(Self { from, domain, headers, derive_text, feedback, returns: None, dkim: Vec::new() })
    }

    /// Fetches the keys that sign and mark.
    ///
    /// # Errors
    /// One is not to be had, or does not do; names the field.
    pub fn with_keys(self, config: &Config) -> Result<Self, ConfigError> {
        let dkim = config.dkim.iter().map(dkim::Dkim::key).collect::<Result<_, _>>()?;
        let returns = config.return_path_domain.clone().zip(config.return_key()?).map(|(domain, key)| Returns {
            domain,
            key,
            delivery_reports: config.delivery_reports,
            unsubscribe_by_mail: config.unsubscribe_by_mail,
        });
        Ok(Self { dkim, returns, ..self })
    }

    /// The name that we greet with, and the right side of our Message-IDs.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// Writes one letter. The same message, files and time make the same bytes; of one delivery every try has the same
    /// Message-ID. `files` are those of the message's attachments.
    ///
    /// # Errors The address is none: [`ErrorKind::InvalidAddress`]. No body, no fitting files, or content of another
    /// channel: [`ErrorKind::Rejected`].
    pub fn request(&self, message: &Message, files: &[File], now: Timestamp) -> Result<Letter, SendError> {
        let Content::Email(email) = &message.content else {
            return Err(rejected("content is no e-mail: give a subject and a body"));
        };
        let Email { subject, html, text, attachments, unsubscribe } = email;
        if attachments.len() != files.len() {
            return Err(rejected("an attachment has not been fetched"));
        }
        let to = address(&message.to)
            .ok_or_else(|| SendError::new(ErrorKind::InvalidAddress, "the address is no e-mail address"))?;
        let derived = match (text, html) {
            (None, Some(html)) if self.derive_text => plain(html),
            _ => None,
        };
        let (text, html) = (text.as_deref().or(derived.as_deref()), html.as_deref());
        let size = html.map_or(0, str::len) + text.map_or(0, str::len);
        let size = size + files.iter().map(|file| file.bytes.len() * 3 / 2 + 512).sum::<usize>();
        let mut out = String::with_capacity(size + size / 16 + 1024);
        out.push_str(&self.headers);
        let id = message.delivery;
        // Writing to a String cannot fail.
        write!(out, "To: {to}\r\nMessage-ID: <{id}@{}>\r\nX-Bellwether-Delivery: {id}\r\n", self.domain).ok();
        let sealed = self.returns.as_ref().map(|returns| returns.seal(message));
        if let Some(sealed) = &sealed {
            write!(out, "{HEADER}:").ok();
            sealed.as_bytes().chunks(FOLD).for_each(|line| {
                write!(out, "\r\n {}", String::from_utf8_lossy(line)).ok();
            });
            out.push_str("\r\n");
        }
        if let Some(name) = &self.feedback {
            let (template, project) = (word(&message.reference.template), word(&message.reference.project));
            write!(out, "Feedback-ID: {template}:{project}:{}:{name}\r\n", message.lane.name()).ok();
        }
        self.list_unsubscribe(&mut out, unsubscribe.as_deref(), sealed.as_deref())?;
        field(&mut out, header::Date::new(moment(now)));
        field(&mut out, header::Subject::from(one_line(subject)));
        write_body(&mut out, id.0.simple(), text, html, files)?;
        let mut content = out.into_bytes();
        if !self.dkim.is_empty() {
            let signatures = dkim::signatures(&self.dkim, &content, now)
                .map_err(|error| SendError::new(ErrorKind::Unauthorized, format!("DKIM: {error}")))?;
            content.splice(0..0, signatures.into_bytes());
        }
        let (from, wishes) = match &self.returns {
            Some(returns) => returns.envelope(message, &to)?,
            None => (self.from.clone(), None),
        };
        Ok(Letter { from, to, content, wishes })
    }

    /// RFC 2369 and, where the link is https, RFC 8058: a POST to it unsubscribes without another question.
    fn list_unsubscribe(&self, out: &mut String, link: Option<&str>, sealed: Option<&str>) -> Result<(), SendError> {
        let by_mail = self.returns.as_ref().filter(|returns| returns.unsubscribe_by_mail && link.is_some()).zip(sealed);
        let by_mail =
            by_mail.map(|(returns, sealed)| format!("<mailto:{UNSUBSCRIBES}@{}?subject={sealed}>", returns.domain));
        let is_fit = |link: &str| {
            link.len() <= MAX_LINK && link.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'<' | b'>' | b','))
        };
        let Some(link) = link else { return Ok(()) };
        if !(is_fit(link) && (link.starts_with("https://") || link.starts_with("http://"))) {
            return Err(rejected("the link to unsubscribe is no https URL of at most 900 characters"));
        }
        write!(out, "List-Unsubscribe: <{link}>").ok();
        if let Some(by_mail) = by_mail {
            write!(out, ",\r\n {by_mail}").ok();
        }
        out.push_str("\r\n");
        if link.starts_with("https://") {
            out.push_str("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }
        Ok(())
    }
}

impl Returns {
    fn seal(&self, message: &Message) -> String {
        let (reference, address) = (message.reference.clone(), message.to.clone());
        self.key.seal(&Origin { reference, attempt: message.attempt, address })
    }

    /// The return path of this try, and what is to be reported to it.
    fn envelope(&self, message: &Message, to: &Address) -> Result<(Address, Option<Wishes>), SendError> {
        let mark = self.key.mark(message.reference.notification, message.attempt);
        let from = Address::new(format!("{BOUNCES}+{mark}"), &self.domain)
            .map_err(|_| rejected("`return_path_domain` makes no address"))?;
        let success = if self.delivery_reports { "SUCCESS," } else { "" };
        let mut of_recipient = format!(" NOTIFY={success}FAILURE");
        // An international address would need `utf-8;` and a server that knows it (RFC 6533): it does without.
        let address: &str = to.as_ref();
        if address.is_ascii() && address.len() <= 400 {
            write!(of_recipient, " ORCPT=rfc822;{}", xtext(address)).ok();
        }
        Ok((from, Some(Wishes { of_message: format!(" RET=HDRS ENVID={mark}"), of_recipient })))
    }
}

/// RFC 3461 section 4: what is not printable, and `+` and `=`, in hexadecimal.
fn xtext(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'+' | b'=') => out.push(char::from(byte)),
            _ => {
                write!(out, "+{byte:02X}").ok();
            }
        }
        out
    })
}

fn rejected(problem: &str) -> SendError {
    SendError::new(ErrorKind::Rejected, problem)
}

fn is_host(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    (1..=255).contains(&name.len()) && name.chars().all(known)
}

/// A piece of the Feedback-ID: colons part them.
fn word(text: &str) -> String {
    text.chars()
        .take(100)
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' })
        .collect()
}

/// Parses an address; the domain of an international one becomes its ASCII form (RFC 5891), so that only the part
/// before the `@` may need SMTPUTF8.
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

/// The body with its headers: what shows is one part, files are parts beside it. Boundaries are made of `id`; none
/// begins another, because some readers compare no more than the beginning.
fn write_body(
    out: &mut String,
    id: Simple,
    text: Option<&str>,
    html: Option<&str>,
    files: &[File],
) -> Result<(), SendError> {
    if text.is_none() && html.is_none() {
        return Err(rejected("e-mail without a body: give `html` or `text`"));
    }
    // Without HTML there is nothing to show an image in.
    let (inline, beside): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.inline && html.is_some());
    if inline.iter().any(|file| !is_content_id(&file.name)) {
        return Err(rejected(
            "the name of an inline attachment must be letters, digits and `.-_@` only: the HTML refers to it as `cid:NAME`",
        ));
    }
    if beside.is_empty() {
        shown(out, id, text, html, &inline);
        return Ok(());
    }
    let mixed = format!("{BOUNDARY}m{id}");
    begin(out, "mixed", &mixed);
    shown(out, id, text, html, &inline);
    for file in beside {
        write!(out, "--{mixed}\r\n").ok();
        attached(out, file, header::ContentDisposition::attachment(&one_line(&file.name)));
    }
    end(out, &mixed);
    Ok(())
}

/// RFC 2046 section 5.1.4: the richest form comes last.
fn shown(out: &mut String, id: Simple, text: Option<&str>, html: Option<&str>, inline: &[&File]) {
    match (text, html) {
        (Some(text), Some(html)) => {
            let boundary = format!("{BOUNDARY}{id}");
            begin(out, "alternative", &boundary);
            part(out, "plain", text);
            write!(out, "--{boundary}\r\n").ok();
            page(out, id, html, inline);
            end(out, &boundary);
        }
        (_, Some(html)) => page(out, id, html, inline),
        (text, None) => part(out, "plain", text.unwrap_or_default()),
    }
}

/// HTML, with the images that it shows (RFC 2387).
fn page(out: &mut String, id: Simple, html: &str, inline: &[&File]) {
    if inline.is_empty() {
        return part(out, "html", html);
    }
    let related = format!("{BOUNDARY}r{id}");
    // RFC 2387 section 3.1: the type of the first part.
    write!(
        out,
        "Content-Type: multipart/related; type=\"text/html\";\r\n boundary=\"{related}\"\r\n\r\n--{related}\r\n"
    )
    .ok();
    part(out, "html", html);
    for file in inline {
        write!(out, "--{related}\r\nContent-ID: <{}>\r\n", file.name).ok();
        attached(out, file, header::ContentDisposition::inline_with_name(&file.name));
    }
    end(out, &related);
}

fn begin(out: &mut String, kind: &str, boundary: &str) {
    write!(out, "Content-Type: multipart/{kind}; boundary=\"{boundary}\"\r\n\r\n--{boundary}\r\n").ok();
}

fn end(out: &mut String, boundary: &str) {
    write!(out, "--{boundary}--\r\n").ok();
}

/// RFC 2392 allows more, but not everybody reads it.
fn is_content_id(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@');
    (1..=200).contains(&name.len()) && name.chars().all(known)
}

/// Headers and base64 of one file, ended by CRLF.
fn attached(out: &mut String, file: &File, disposition: header::ContentDisposition) {
    write!(out, "Content-Type: {}\r\n", file.media_type).ok();
    field(out, disposition);
    out.push_str("Content-Transfer-Encoding: ");
    encode(out, file.bytes.to_vec(), ContentTransferEncoding::Base64);
    if !out.ends_with("\r\n") {
        out.push_str("\r\n");
    }
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
    encode(out, text.to_owned(), encoding);
}

fn encode(out: &mut String, content: impl Into<lettre::message::MaybeString>, encoding: ContentTransferEncoding) {
    let body = match Body::new_with_encoding(content, encoding) {
        Ok(body) => body.into_vec(),
        Err(raw) => raw, // Not for these two encodings.
    };
    write!(out, "{encoding}\r\n\r\n").ok();
    out.push_str(&String::from_utf8_lossy(&body));
}

/// The content as it goes over the wire: a dot at the start of a line doubled (RFC 5321 section 4.5.2), the final dot
/// appended.
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
        String::from_utf8(head.request(message, &[], NOW).unwrap().content).unwrap()
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
        let letter = head.request(&message, &[], NOW).unwrap();
        assert_eq!(
            (letter.from.to_string(), letter.to.to_string()),
            ("news@shop.example".into(), "jane@example.com".into())
        );
        assert!(String::from_utf8(dotted(&letter.content)).unwrap().contains("\r\n..dot\r\n"));
    }

    #[test]
    fn one_body_needs_no_parts() {
        let head = letterhead(serde_json::json!({"domain": "mail.shop.example", "derive_text": false})).unwrap();
        let text = written(&head, &message("a@example.com", "Hi", Some("only text"), None));
        assert!(text.contains("Message-ID: <0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6@mail.shop.example>\r\n"));
        assert!(text.ends_with(
            "Content-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 7bit\r\n\r\nonly text\r\n"
        ));
        let html = written(&head, &message("a@example.com", "Hi", None, Some("<b>é</b> and a good deal of English")));
        assert!(html.ends_with("text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n<b>=C3=A9</b> and a good deal of English\r\n"), "{html}");
        let none = head.request(&message("a@example.com", "Hi", None, None), &[], NOW).unwrap_err();
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
            let error = head.request(&message(bad, "Hi", Some("x"), None), &[], NOW).unwrap_err();
            assert_eq!(error.kind, ErrorKind::InvalidAddress, "{bad:?}");
            assert!(bad.is_empty() || !error.detail.contains(bad), "{error}");
        }
        let letter = head.request(&message("jane@bücher.example", "Hi", Some("x"), None), &[], NOW).unwrap();
        assert_eq!((letter.to.to_string().as_str(), letter.is_international()), ("jane@xn--bcher-kva.example", false));
        assert!(
            head.request(&message("jürgen@example.com", "Hi", Some("x"), None), &[], NOW).unwrap().is_international()
        );
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

    fn with_keys(change: serde_json::Value) -> Letterhead {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).unwrap();
            serde_json::json!({"file": folder.path().join(name)})
        };
        let mut all = serde_json::json!({
            "host": "mx.example", "from_address": "news@shop.example", "from_name": "Shop",
            "return_path_domain": "bounce.shop.example", "return_path_key": write("key", "0123456789abcdef0123456789abcdef"),
            "dkim": [
                {"domain": "shop.example", "selector": "e1", "private_key": write("e", crate::channels::smtp::dkim::tests::ED25519)},
                {"domain": "Shop.example", "selector": "r1", "private_key": write("r", crate::channels::smtp::dkim::tests::RSA), "algorithm": "rsa-sha256"},
            ],
        });
        all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let config: Config = serde_json::from_value(all).unwrap();
        config.validate().unwrap().with_keys(&config).unwrap()
    }

    fn file(name: &str, media_type: &str, inline: bool) -> File {
        File { name: name.into(), media_type: media_type.into(), inline, bytes: vec![7; 100].into() }
    }

    #[test]
    fn a_letter_with_everything() {
        let head = with_keys(serde_json::json!({"unsubscribe_by_mail": true, "feedback_id": "bellwether"}));
        let mut message = message(
            "jane+x@example.com",
            "Ваш заказ",
            None,
            Some("<p>Hello <a href='https://shop.example/o'>you</a></p><img src='cid:logo.png'>"),
        );
        let Content::Email(email) = &mut message.content else { panic!() };
        email.unsubscribe = Some("https://shop.example/u/1?a=b".into());
        let files = [file("logo.png", "image/png", true), file("Räñung \"1\".pdf", "application/pdf", false)];
        email.attachments = files
            .iter()
            .map(|f| crate::channels::Attachment { name: f.name.clone(), url: "https://x".into(), inline: f.inline })
            .collect();
        let letter = head.request(&message, &files, NOW).unwrap();
        insta::assert_snapshot!(String::from_utf8(letter.content).unwrap().replace("\r\n", "\n"));
        let local = letter.from.user().to_owned();
        assert!(local.len() <= 64 && local.starts_with("b+000000000000000000000000000000000001"), "{local}");
        assert_eq!(letter.from.domain(), "bounce.shop.example");
        let wishes = letter.wishes.unwrap();
        assert_eq!(wishes.of_message, format!(" RET=HDRS ENVID={}", &local[2..]));
        assert_eq!(wishes.of_recipient, " NOTIFY=FAILURE ORCPT=rfc822;jane+2Bx@example.com");
    }

    #[test]
    fn what_the_header_seals_comes_back_out() {
        let head = with_keys(serde_json::json!({"dkim": [], "unsubscribe_by_mail": true}));
        let mut message = message("jane@example.com", "Hi", Some("x"), None);
        let Content::Email(email) = &mut message.content else { panic!() };
        email.unsubscribe = Some("http://localhost/u".into());
        let text = String::from_utf8(head.request(&message, &[], NOW).unwrap().content).unwrap();
        assert!(!text.contains("List-Unsubscribe-Post"), "a link that is not https takes no POST of a stranger's");
        let key = ReturnKey::new("0123456789abcdef0123456789abcdef").unwrap();
        let header = text.split("X-Bellwether-Reference:").nth(1).unwrap();
        let sealed: String = header.split("\r\n").skip(1).take_while(|line| line.starts_with(' ')).collect();
        let expected = Origin { reference: message.reference.clone(), attempt: 1, address: message.to.clone() };
        assert_eq!(key.open(&sealed), Ok(expected.clone()));
        let subject = text.split("?subject=").nth(1).unwrap().split('>').next().unwrap();
        assert_eq!(key.open(subject), Ok(expected));
        assert!(text.split("\r\n").all(|line| line.len() <= 998));
    }

    #[test]
    fn a_link_or_file_that_does_not_do_is_refused() {
        let head = letterhead(serde_json::json!({})).unwrap();
        for link in [
            "ftp://x",
            "https://x\r\nBcc: a@b",
            "https://x>, <mailto:a@b",
            "https://x/ y",
            &format!("https://{}", "x".repeat(900)),
        ] {
            let mut message = message("a@example.com", "Hi", Some("x"), None);
            let Content::Email(email) = &mut message.content else { panic!() };
            email.unsubscribe = Some(link.into());
            assert_eq!(head.request(&message, &[], NOW).unwrap_err().kind, ErrorKind::Rejected, "{link}");
        }
        let mut message = message("a@example.com", "Hi", None, Some("<p>x</p>"));
        let Content::Email(email) = &mut message.content else { panic!() };
        email.attachments =
            vec![crate::channels::Attachment { name: "x".into(), url: "https://x".into(), inline: true }];
        assert_eq!(head.request(&message, &[], NOW).unwrap_err().kind, ErrorKind::Rejected);
        for name in ["", "a b", "a>\r\nBcc: c@d", "ä"] {
            assert_eq!(
                head.request(&message, &[file(name, "image/png", true)], NOW).unwrap_err().kind,
                ErrorKind::Rejected,
                "{name}"
            );
        }
        let evil = "x\"\r\nBcc: c@d; name=y";
        let text =
            String::from_utf8(head.request(&message, &[file(evil, "image/png", false)], NOW).unwrap().content).unwrap();
        assert!(!text.contains("\nBcc"), "{text}");
    }

    #[test]
    fn settings_that_do_not_fit_are_named() {
        let key = serde_json::json!({"env": "X"});
        for (settings, words) in [
            (
                serde_json::json!({"return_path_domain": "b.example"}),
                "`return_path_key` and `return_path_domain` go together",
            ),
            (
                serde_json::json!({"return_path_domain": "b example", "return_path_key": key}),
                "`return_path_domain` is no host name",
            ),
            (serde_json::json!({"unsubscribe_by_mail": true}), "`return_path_domain` is where"),
            (serde_json::json!({"feedback_id": "a:b:c"}), "`feedback_id` is no name"),
            (
                serde_json::json!({"dkim": [{"domain": "a;b", "selector": "s", "private_key": key}]}),
                "`dkim` has a `domain`",
            ),
            (
                serde_json::json!({"dkim": [{"domain": "a", "selector": "s;x=1", "private_key": key}]}),
                "`dkim` has a `selector`",
            ),
            (serde_json::json!({"files": {"max_bytes": 2, "max_total_bytes": 1}}), "`files` has a `max_bytes`"),
        ] {
            let mut all = serde_json::json!({"host": "mx.example", "from_address": "news@shop.example"});
            all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            let error = serde_json::from_value::<Config>(all).unwrap().validate().unwrap_err();
            assert!(error.to_string().contains(words), "{error}");
        }
    }

    proptest! {
        #[test]
        fn any_content_makes_lines_that_every_server_takes(
            subject in any::<String>(), text in any::<String>(), html in "[ -~äß\r\n.\0=-]{0,300}", at in any::<i64>(),
        ) {
            let letter = letterhead(serde_json::json!({})).unwrap()
                .request(&message("a@example.com", &subject, Some(&text), Some(&html)), &[], Timestamp(at)).unwrap();
            let content = String::from_utf8(letter.content).unwrap();
            prop_assert!(content.is_ascii() && !content.contains('\0'));
            prop_assert!(content.ends_with("\r\n"));
            for line in content.split("\r\n") {
                prop_assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{line:?}");
            }
        }
    }
}
