//! Enhanced status codes (RFC 3463) in reports, and what they mean for the address. The table is `status.codes.csv`.
//! Pure.
//!
//! It differs from what a refusal during the dialogue means ([`crate::channels::smtp::classify`]): a report comes when
//! nobody tries any more.

use crate::channels::codes::{self, Line};
use bellwether_schemas::records::ErrorKind;
use std::{fmt, str::FromStr, sync::LazyLock};

/// An enhanced status code such as 5.1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// 2, 4 or 5.
    pub class: u8,
    /// What it is about: 1 address, 2 mailbox, 3 system, 4 network, 5 protocol, 6 content, 7 policy.
    pub subject: u16,
    /// More.
    pub detail: u16,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

/// Not three numbers of RFC 3463.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoStatus;

impl FromStr for Status {
    type Err = NoStatus;

    fn from_str(text: &str) -> Result<Self, NoStatus> {
        let mut parts = text.split('.');
        let mut number = || {
            let part = parts.next().filter(|part| (1..=3).contains(&part.len())).ok_or(NoStatus)?;
            if part.bytes().all(|b| b.is_ascii_digit()) {
                part.parse::<u16>().map_err(|_| NoStatus)
            } else {
                Err(NoStatus)
            }
        };
        let (class, subject, detail) = (number()?, number()?, number()?);
        match class {
            2 | 4 | 5 if parts.next().is_none() => {
                Ok(Self { class: u8::try_from(class).map_err(|_| NoStatus)?, subject, detail })
            }
            _ => Err(NoStatus),
        }
    }
}

static CODES: LazyLock<Vec<Line>> = LazyLock::new(|| codes::parse(include_str!("status.codes.csv")));

impl Status {
    /// Whether it says no more than its class: `5.0.0`, which some servers write whatever happened.
    #[must_use]
    pub const fn is_vague(self) -> bool {
        self.subject == 0 && self.detail == 0
    }

    /// The first code in a text; qmail writes it as `#5.1.1`.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !(c.is_ascii_digit() || c == '.'))
            .filter_map(|word| word.trim_end_matches('.').parse::<Self>().ok())
            .find(|status| status.class != 2)
    }

    /// What it means that a server gave up with this code.
    #[must_use]
    pub fn kind(self) -> ErrorKind {
        let line = codes::find(&CODES, u32::from(self.subject) * 1000 + u32::from(self.detail));
        match line.map(|line| line.kind) {
            // The server says itself that it may pass.
            Some(ErrorKind::InvalidAddress) if self.class == 4 => ErrorKind::Unreachable,
            Some(kind) => kind,
            None if matches!(self.subject, 5..=7) => ErrorKind::Rejected,
            None => ErrorKind::Unreachable,
        }
    }
}

/// What a bare reply means in a report, where the server gave no code that says more: a sender learns from it neither
/// whether the recipient or the content was refused. Only words that cannot be about the content condemn an address.
#[must_use]
pub fn kind_of_words(code: Option<u16>, words: &str) -> ErrorKind {
    const GONE: [&str; 9] = [
        "user unknown",
        "unknown user",
        "no such user",
        "no such recipient",
        "no mailbox here by that name",
        "does not exist",
        "doesn't exist",
        "unrouteable address",
        "unrouteable mail domain",
    ];
    const REFUSED: [&str; 6] = ["spam", "blocked", "blacklist", "policy", "reputation", "denied"];
    let words = words.to_ascii_lowercase();
    let says = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if says(&REFUSED) {
        ErrorKind::Rejected
    } else if says(&GONE) && code.is_none_or(|code| code >= 500) {
        ErrorKind::InvalidAddress
    } else {
        ErrorKind::Unreachable
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::channels::smtp::{Reply, Stage, classify};
    use proptest::prelude::*;

    #[test]
    fn every_line_of_the_table_reads() {
        for line in codes::assert_sound::<u32>(include_str!("status.codes.csv")) {
            let allowed = [ErrorKind::InvalidAddress, ErrorKind::Unreachable, ErrorKind::Rejected];
            assert!(allowed.contains(&line.kind) && line.wait.is_none(), "{line:?}");
            assert!(line.code % 1000 < 100 && (1..=7).contains(&(line.code / 1000)), "{line:?}");
        }
    }

    #[test]
    fn a_report_condemns_whom_a_refusal_condemns() {
        for (subject, detail) in (0..=7).flat_map(|subject| (0..=40).map(move |detail| (subject, detail))) {
            let reply = format!("550 5.{subject}.{detail} no\r\n");
            let (reply, _) = Reply::parse(reply.as_bytes()).unwrap().unwrap();
            let refused = classify(Stage::Recipient, &reply).kind == ErrorKind::InvalidAddress;
            let status = Status { class: 5, subject, detail };
            assert_eq!(status.kind() == ErrorKind::InvalidAddress, refused, "{status}");
            assert_ne!(Status { class: 4, ..status }.kind(), ErrorKind::InvalidAddress, "4 never does: {status}");
        }
    }

    #[test]
    fn codes_have_their_consequences() {
        for (text, kind) in [
            ("5.1.1", ErrorKind::InvalidAddress),
            ("5.1.2", ErrorKind::InvalidAddress),
            ("5.1.6", ErrorKind::InvalidAddress),
            ("5.1.10", ErrorKind::InvalidAddress),
            ("5.2.1", ErrorKind::Unreachable),
            ("5.2.2", ErrorKind::Unreachable),
            ("4.2.2", ErrorKind::Unreachable),
            ("4.4.7", ErrorKind::Unreachable),
            ("5.4.4", ErrorKind::Unreachable),
            ("5.0.0", ErrorKind::Unreachable),
            ("5.7.1", ErrorKind::Rejected),
            ("5.7.26", ErrorKind::Rejected),
            ("5.7.999", ErrorKind::Rejected),
            ("5.6.0", ErrorKind::Rejected),
        ] {
            assert_eq!(text.parse::<Status>().unwrap().kind(), kind, "{text}");
        }
        for none in ["", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.1234", "5..1", "5.+1.1", "5.1.x"] {
            assert_eq!(none.parse::<Status>(), Err(NoStatus), "{none}");
        }
    }

    #[test]
    fn a_code_is_found_among_words() {
        for (text, found) in [
            ("smtp; 550 5.1.1 <a@b>: no", Some("5.1.1")),
            ("Sorry, no mailbox here by that name. (#5.1.1)", Some("5.1.1")),
            ("connected to 10.0.0.1: 550-5.7.26 no", Some("5.7.26")),
            ("smtp;250 2.0.0 taken, then 4.4.7.", Some("4.4.7")),
            ("192.0.2.1 said 550", None),
        ] {
            assert_eq!(Status::find(text).map(|s| s.to_string()).as_deref(), found, "{text}");
        }
    }

    #[test]
    fn words_alone_condemn_only_when_they_are_about_the_address() {
        for (code, words, kind) in [
            (Some(550), "User unknown", ErrorKind::InvalidAddress),
            (None, "Unrouteable address", ErrorKind::InvalidAddress),
            (Some(450), "user unknown in local table", ErrorKind::Unreachable),
            (Some(550), "looks like spam, or the user unknown", ErrorKind::Rejected),
            (Some(550), "mailbox unavailable", ErrorKind::Unreachable),
            (Some(554), "Relay access denied", ErrorKind::Rejected),
        ] {
            assert_eq!(kind_of_words(code, words), kind, "{words}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(text in any::<String>(), like in "[0-9.# ]{0,40}") {
            for text in [text, like] {
                text.parse::<Status>().ok();
                if let Some(status) = Status::find(&text) {
                    prop_assert_eq!(status.to_string().parse::<Status>(), Ok(status));
                }
            }
        }
    }
}
