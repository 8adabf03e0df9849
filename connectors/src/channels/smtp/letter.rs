//! A message as mail: envelope and MIME text (RFC 5322, 2045 to 2047), made of nothing but the configuration, the message and the time.
//! Knows no connection.

use super::Config;
use crate::channels::{ConfigError, Content, Message, SendError};
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
        let Content::Email { subject, html, text } = &message.content else {
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
