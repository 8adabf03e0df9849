//! What an SMTP server says, and what it means for us: pure reading of replies and the one table of their consequences.
//! No I/O here.

use crate::channels::{SendError, without_addresses};
use bellwether_schemas::records::ErrorKind;

/// Bytes of one reply, all its lines together; RFC 5321 section 4.5.3.1.5 grants 512 a line.
pub(super) const MAX_REPLY: usize = 16 * 1024;

/// Where in the dialogue we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// TCP connection.
    Connect,
    /// The server's greeting.
    Greeting,
    /// EHLO.
    Hello,
    /// STARTTLS and the TLS handshake.
    Tls,
    /// AUTH.
    Auth,
    /// MAIL FROM.
    Mail,
    /// RCPT TO.
    Recipient,
    /// DATA.
    Data,
    /// The message is on its way, its final dot is not.
    Content,
    /// The final dot is out: whether the message was taken, only the reply can tell.
    End,
    /// RSET, NOOP, QUIT: nothing hangs on it.
    Aside,
}

impl Stage {
    /// The words for an operator.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Hello => "EHLO",
            Self::Tls => "STARTTLS",
            Self::Auth => "AUTH",
            Self::Mail => "MAIL FROM",
            Self::Recipient => "RCPT TO",
            Self::Data => "DATA",
            Self::Content => "message",
            Self::End => "end of message",
            Self::Aside => "RSET",
        }
    }

    /// Whether the reply lets us go on.
    pub(super) const fn accepts(self, code: u16) -> bool {
        match self {
            Self::Data => code == 354,
            Self::Auth => code == 235,
            Self::Greeting | Self::Tls => code == 220,
            _ => code / 100 == 2,
        }
    }
}

/// One reply of a server (RFC 5321 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// Enhanced status code (RFC 3463), where the text begins with one.
    pub status: Option<(u8, u16, u16)>,
    /// The text of all lines, joined by a line feed.
    pub text: String,
}

/// Bytes that are no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's words are no SMTP reply: check host and port")]
pub struct NotAReply;

impl Reply {
    /// Reads one reply off the front of `bytes`; returns it with its length, or `None` while it is incomplete.
    ///
    /// # Errors
    /// The bytes cannot become a reply.
    pub fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, NotAReply> {
        let (mut start, mut text, mut first_code) = (0, String::new(), None);
        while let Some(length) = memchr::memchr(b'\n', &bytes[start..]) {
            let line = &bytes[start..start + length];
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            start += length + 1;
            let (code, last, words) = Self::line(line)?;
            if *first_code.get_or_insert(code) != code {
                return Err(NotAReply);
            }
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&String::from_utf8_lossy(words));
            if last {
                return Ok(Some((Self { code, status: enhanced(&text), text }, start)));
            }
        }
        if bytes.len() > MAX_REPLY { Err(NotAReply) } else { Ok(None) }
    }

    /// Code, whether it is the last line, text.
    fn line(line: &[u8]) -> Result<(u16, bool, &[u8]), NotAReply> {
        let (code, rest) = line.split_at_checked(3).ok_or(NotAReply)?;
        if !(matches!(code[0], b'2'..=b'5') && code[1..].iter().all(u8::is_ascii_digit)) {
            return Err(NotAReply);
        }
        let code = code.iter().fold(0, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        match rest {
            [] => Ok((code, true, rest)),
            [b' ', words @ ..] => Ok((code, true, words)),
            [b'-', words @ ..] => Ok((code, false, words)),
            _ => Err(NotAReply),
        }
    }

    /// The server's own id of the message it took, as the usual servers word it: `queued as X` (Postfix), `id=X` (Exim),
    /// `Ok X` (Amazon SES), `X Message accepted for delivery` (Sendmail).
    #[must_use]
    pub fn queue_id(&self) -> Option<String> {
        let text = self.text.lines().next().unwrap_or_default();
        let text = if self.status.is_some() { text.split_once(' ').map_or("", |(_, rest)| rest) } else { text };
        let id = if let Some((_, rest)) = text.split_once("queued as ") {
            rest.split_whitespace().next()
        } else if let Some((_, rest)) = text.split_once("id=") {
            rest.split_whitespace().next()
        } else if let Some(rest) = text.strip_suffix(" Message accepted for delivery") {
            rest.split_whitespace().last()
        } else {
            text.strip_prefix("Ok ").filter(|rest| !rest.contains(' '))
        };
        id.filter(|id| !id.is_empty() && id.len() <= 200).map(str::to_owned)
    }
}

fn enhanced(text: &str) -> Option<(u8, u16, u16)> {
    let word = text.split([' ', '\n']).next()?;
    let mut parts = word.split('.');
    let (class, subject, detail) = (parts.next()?, parts.next()?, parts.next()?);
    let number = |part: &str| {
        (1..=3).contains(&part.len()).then_some(())?;
        part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse().ok())?
    };
    (parts.next().is_none() && matches!(class, "2" | "4" | "5")).then_some(())?;
    Some((class.parse().ok()?, number(subject)?, number(detail)?))
}

/// What a refusal means for us. `reply` is the server's answer at `stage`.
#[must_use]
pub fn classify(stage: Stage, reply: &Reply) -> SendError {
    let text = reply.text.replace('\n', " ");
    let error =
        SendError::new(kind(stage, reply), format!("{}: {} {}", stage.name(), reply.code, without_addresses(&text)));
    // A recipient that is put off (greylisting, a full mailbox) says nothing of the server, unless that closes for all (RFC 5321 section 3.8).
    let of_address = stage == Stage::Recipient && error.kind == ErrorKind::Transient && reply.code != 421;
    SendError { of_address, ..error }
}

/// RFC 5321 section 4.2.3 (codes), RFC 3463 and the IANA registry of enhanced status codes.
fn kind(stage: Stage, reply: &Reply) -> ErrorKind {
    use ErrorKind::{Ambiguous, InvalidAddress, Rejected, Transient, Unauthorized};
    match (stage, reply.code, reply.status) {
        // Success where we expected none, or 354 without DATA: whoever answers this is not in step with us.
        (Stage::End, 200..=399, _) => Ambiguous,
        (_, 200..=399, _) => Transient,
        // Includes 421, after which the server closes, and 454 (authentication fails for the moment).
        (_, 400..=499, _) | (_, _, Some((4, ..))) => Transient,
        // Before MAIL nothing is about a message: the server does not want us.
        (Stage::Connect | Stage::Greeting | Stage::Hello | Stage::Tls | Stage::Auth, ..) => Unauthorized,
        // Authentication required, too weak, failed, or only over TLS (RFC 4954 section 6).
        (_, 530 | 534 | 535 | 538, _) => Unauthorized,
        // Mailbox, host or its syntax bad; moved without a forward; the domain takes no mail at all (RFC 7505).
        (_, _, Some((_, 1, 1 | 2 | 3 | 6 | 10))) => InvalidAddress,
        // It is our sender's address that is bad.
        (_, _, Some((_, 1, 7 | 8))) => Unauthorized,
        // Mailbox full, or disabled: both may end.
        (_, _, Some((_, 2, 1 | 2))) => Transient,
        // Message too big: for the mailbox, for the system.
        (_, _, Some((_, 2, 3) | (_, 3, 4))) => Rejected,
        // Policy is never the address's fault. About our account or our domain's set-up (SPF, DKIM, DMARC, reverse DNS):
        (_, _, Some((_, 7, 3 | 8 | 9 | 11..=14 | 20..=27))) => Unauthorized,
        (Stage::Mail, _, Some((_, 7, _))) => Unauthorized,
        (Stage::Recipient, _, Some((_, 7, _))) if says(reply, "relay") => Unauthorized,
        (_, _, Some((_, 7, _))) => Rejected,
        // "Exceeded storage allocation": a full mailbox.
        (_, 552, _) => Transient,
        // MAIL knows neither recipient nor content: it refuses our sender.
        (Stage::Mail, ..) => Unauthorized,
        (Stage::Recipient, 554, None) if says(reply, "relay") => Unauthorized,
        // Without an enhanced code: no such user, not local, name not allowed, domain takes no mail (RFC 7504).
        (Stage::Recipient, 550 | 551 | 553 | 556, None) => InvalidAddress,
        (_, 500..=599, _) => Rejected,
        (Stage::End, ..) => Ambiguous,
        _ => Transient,
    }
}

fn says(reply: &Reply, word: &str) -> bool {
    reply.text.to_ascii_lowercase().contains(word)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::codes;
    use ErrorKind::{Ambiguous, InvalidAddress, Rejected, Transient, Unauthorized};
    use proptest::prelude::*;

    fn reply(line: &str) -> Reply {
        Reply::parse(format!("{line}\r\n").as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn every_refusal_has_its_consequence() {
        use Stage::{Auth, Data, End, Greeting, Hello, Mail, Recipient, Tls};
        for (stage, line, expected) in [
            // The address is dead.
            (Recipient, "550 5.1.1 <a@b.example>: user unknown", InvalidAddress),
            (Recipient, "550 5.1.2 no such domain", InvalidAddress),
            (Recipient, "550 5.1.3 bad syntax", InvalidAddress),
            (Recipient, "551 5.1.6 moved", InvalidAddress),
            (Recipient, "556 5.1.10 null MX", InvalidAddress),
            (Recipient, "550 no such user", InvalidAddress),
            (Recipient, "551 not local", InvalidAddress),
            (Recipient, "553 name not allowed", InvalidAddress),
            (End, "550 5.1.1 user unknown", InvalidAddress),
            // It passes.
            (Recipient, "450 4.2.0 greylisted", Transient),
            (Recipient, "450 try later", Transient),
            (Recipient, "452 4.2.2 over quota", Transient),
            (Recipient, "452 4.1.1 user unknown for now", Transient),
            (Recipient, "552 5.2.2 mailbox full", Transient),
            (Recipient, "552 mailbox full", Transient),
            (Recipient, "550 5.2.2 mailbox full", Transient),
            (Recipient, "550 5.2.1 mailbox disabled", Transient),
            (Data, "451 4.3.0 no disk", Transient),
            (End, "451 4.7.1 greylisted", Transient),
            (Greeting, "421 4.3.2 going down", Transient),
            (Mail, "421 4.4.2 idle too long", Transient),
            (End, "421 4.7.0 too many", Transient),
            (Auth, "454 4.7.0 temporary authentication failure", Transient),
            // Our account.
            (Auth, "535 5.7.8 bad credentials", Unauthorized),
            (Auth, "534 5.7.9 mechanism too weak", Unauthorized),
            (Auth, "535 no", Unauthorized),
            (Mail, "530 5.7.0 authentication required", Unauthorized),
            (Recipient, "530 authentication required", Unauthorized),
            (Greeting, "554 no service for you", Unauthorized),
            (Hello, "550 bad name", Unauthorized),
            (Tls, "502 not here", Unauthorized),
            (Mail, "550 5.7.1 sender not owned", Unauthorized),
            (Mail, "553 5.1.8 sender's domain unknown", Unauthorized),
            (Mail, "550 sender refused", Unauthorized),
            (Recipient, "554 5.7.1 <a@b.example>: Relay access denied", Unauthorized),
            (Recipient, "554 relaying denied", Unauthorized),
            (End, "550 5.7.26 unauthenticated mail is not accepted", Unauthorized),
            // Policy: never the address's fault.
            (Recipient, "550 5.7.1 blocked by policy", Rejected),
            (End, "554 5.7.1 spam", Rejected),
            (End, "550 looks like spam", Rejected),
            (Data, "554 no valid recipients", Rejected),
            (Mail, "552 5.3.4 message too big", Rejected),
            (End, "552 5.3.4 message too big", Rejected),
            (End, "550 5.2.3 message too big for the mailbox", Rejected),
            (Recipient, "554 5.4.4 no route", Rejected),
            (Recipient, "501 syntax", Rejected),
            // Not in step.
            (Data, "250 OK", Transient),
            (End, "354 go on", Ambiguous),
        ] {
            let error = classify(stage, &reply(line));
            assert_eq!(error.kind, expected, "{stage:?} {line}");
            assert!(error.detail.starts_with(&format!("{}: {}", stage.name(), &line[..3])), "{}", error.detail);
        }
    }

    #[test]
    fn every_line_of_the_table_has_its_consequence() {
        for codes::Line { code, kind, name, .. } in codes::assert_sound::<&str>(include_str!("../smtp.codes.csv")) {
            let (turn, line) = code.split_once(' ').unwrap();
            let stage = match turn {
                "GREETING" => Stage::Greeting,
                "EHLO" => Stage::Hello,
                "AUTH" => Stage::Auth,
                "MAIL" => Stage::Mail,
                "RCPT" => Stage::Recipient,
                "DATA" => Stage::Data,
                "END" => Stage::End,
                _ => panic!("{turn} is no turn of the dialogue"),
            };
            assert_eq!(classify(stage, &reply(&format!("{line} {name}"))).kind, kind, "{code}");
        }
    }

    #[test]
    fn policy_never_condemns_an_address() {
        for detail in 0..=255 {
            for stage in [Stage::Mail, Stage::Recipient, Stage::Data, Stage::End] {
                let error = classify(stage, &reply(&format!("550 5.7.{detail} no")));
                assert!(matches!(error.kind, Rejected | Unauthorized), "{stage:?} 5.7.{detail}: {error}");
            }
        }
    }

    #[test]
    fn the_address_stays_out_of_the_words() {
        let error = classify(
            Stage::Recipient,
            &reply("550 5.1.1 <jane.roe@example.com>: Recipient rejected, call +1 (555) 123-4567"),
        );
        assert_eq!(error.detail, "RCPT TO: 550 5.1.1 [address] Recipient rejected, call +1 (555) [address]");
    }

    #[test]
    fn replies_are_read_one_by_one() {
        let bytes = b"250-mx.example\r\n250-PIPELINING\r\n250 SMTPUTF8\r\n354 go\r\n25";
        let (first, used) = Reply::parse(bytes).unwrap().unwrap();
        assert_eq!((first.code, first.status, first.text.as_str()), (250, None, "mx.example\nPIPELINING\nSMTPUTF8"));
        let (second, more) = Reply::parse(&bytes[used..]).unwrap().unwrap();
        assert_eq!((second.code, second.text.as_str()), (354, "go"));
        assert_eq!(Reply::parse(&bytes[used + more..]), Ok(None));
        assert_eq!(reply("250").text, "");
        assert_eq!(reply("550 5.1.1 x").status, Some((5, 1, 1)));
        for none in ["550 5.1 x", "550 3.1.1 x", "550 5.1.1.1 x", "550 5.1.1234 x", "550 5..1 x", "550 10.0.0 x"] {
            assert_eq!(reply(none).status, None, "{none}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for bytes in [
            "HTTP/1.1 400 Bad Request\r\n",
            "99\r\n",
            "650 x\r\n",
            "250x\r\n",
            "250-a\r\n251 b\r\n",
            "\r\n",
            "2\u{663}0 x\r\n",
        ] {
            assert_eq!(Reply::parse(bytes.as_bytes()), Err(NotAReply), "{bytes:?}");
        }
        assert_eq!(Reply::parse(&[b'2'; MAX_REPLY]), Ok(None));
        assert_eq!(Reply::parse(&[b'2'; MAX_REPLY + 1]), Err(NotAReply));
    }

    #[test]
    fn the_queue_id_of_the_usual_servers() {
        for (line, id) in [
            ("250 2.0.0 Ok: queued as 4cXyZ12", Some("4cXyZ12")),
            ("250 OK id=1tAbCd-0001-2", Some("1tAbCd-0001-2")),
            ("250 Ok 0102018f-abc", Some("0102018f-abc")),
            ("250 2.0.0 u8I1 Message accepted for delivery", Some("u8I1")),
            ("250 2.0.0 Ok", None),
            ("250 OK", None),
            ("250", None),
        ] {
            assert_eq!(reply(line).queue_id().as_deref(), id, "{line}");
        }
    }

    proptest! {
        #[test]
        fn nothing_a_server_says_makes_us_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(Some((reply, used))) = Reply::parse(&bytes) {
                prop_assert!(used <= bytes.len());
                let id = reply.queue_id();
                prop_assert!(id.is_none_or(|id| !id.contains('\n')));
                prop_assert!(!classify(Stage::Recipient, &reply).detail.contains('\n'));
            }
        }

        #[test]
        fn nor_anything_that_looks_like_a_reply(text in "[2-5][0-9]{2}[ -][0-9.]{0,12}[ -~äß\r\n]{0,80}\r\n") {
            if let Ok(Some((reply, _))) = Reply::parse(text.as_bytes()) {
                for stage in [Stage::Greeting, Stage::Mail, Stage::Recipient, Stage::Data, Stage::End] {
                    prop_assert!(!classify(stage, &reply).detail.contains('\n'));
                }
            }
        }
    }
}
