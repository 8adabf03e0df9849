//! DKIM signatures (RFC 6376; Ed25519 by RFC 8463): canonical forms, what is covered, and two kinds of keys. Pure.
//!
//! Our own, because a signer is two canonical forms and two calls to the OpenSSL that is linked already; lettre's signs
//! only messages that lettre wrote, by a crate for RSA with an open advisory (RUSTSEC-2023-0071), and mail-auth brings
//! a second cryptographic library.

use super::wrong;
use crate::{
    channels::ConfigError,
    secret::{Resolve as _, Secret},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether_schemas::Timestamp;
use openssl::{
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{Id, PKey, Private},
    sha::sha256,
    sign::Signer,
};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use std::fmt::{self, Write as _};

/// What is signed, of what a letter has. RFC 8058 section 4 wants both headers of List-Unsubscribe in it, Gmail its
/// Feedback-ID. The first [`ONCE_MORE`] are named once more than they occur, so that nobody can add another (RFC 6376
/// section 8.15).
const COVERED: [&str; 16] = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "Reply-To",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "Feedback-ID",
    "Auto-Submitted",
    "X-Bellwether-Delivery",
    "X-Bellwether-Reference",
    "Cc",
];
const ONCE_MORE: usize = 6;
/// Bits of an RSA key (RFC 8301 section 3.2).
const MIN_RSA: u32 = 1024;
/// Characters of a line that we fold ourselves.
const LINE: usize = 70;

/// One signature: of which domain, with which key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    /// Domain that signs (`d=`): the sender's, so that DMARC finds it aligned.
    pub domain: String,
    /// Name of the key below `_domainkey` of that domain (`s=`).
    pub selector: String,
    /// Where the private key is to be had: PEM, or of Ed25519 its 32 bytes in base64.
    pub private_key: Secret,
    /// Which algorithm it must be for; absent takes what the key is.
    #[serde(default)]
    pub algorithm: Option<Algorithm>,
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// What everybody verifies.
    RsaSha256,
    /// Shorter and faster; to be given beside an RSA one (RFC 8463 section 3).
    #[serde(rename = "ed25519-sha256")]
    Ed25519Sha256,
}

impl Algorithm {
    const fn name(self) -> &'static str {
        match self {
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }
}

impl Dkim {
    /// Checks names without fetching the key.
    pub(super) fn validate(&self) -> Result<(), ConfigError> {
        let is_name = |name: &str| {
            !name.is_empty()
                && name.len() <= 255
                && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'))
        };
        if !is_name(&self.domain) {
            return Err(wrong("dkim", "has a `domain` that is no host name: write one such as `example.com`"));
        }
        if !is_name(&self.selector) {
            return Err(wrong("dkim", "has a `selector` that is no name: it is the label before `._domainkey`"));
        }
        Ok(())
    }

    /// Fetches the key.
    pub(super) fn key(&self) -> Result<Key, ConfigError> {
        let secret = self.private_key.resolve().map_err(|source| ConfigError::Secret {
            kind: super::KIND,
            field: "dkim.private_key",
            source,
        })?;
        let key = private_key(secret.expose_secret())
            .ok_or_else(|| wrong("dkim", "has a `private_key` that is none: give PEM of RSA or Ed25519"))?;
        let algorithm = match key.id() {
            Id::RSA if key.bits() >= MIN_RSA => Algorithm::RsaSha256,
            Id::RSA => return Err(wrong("dkim", "has an RSA key of less than 1024 bits: make one of 2048")),
            Id::ED25519 => Algorithm::Ed25519Sha256,
            _ => return Err(wrong("dkim", "has a `private_key` of a kind that DKIM does not know: RSA or Ed25519")),
        };
        if self.algorithm.is_some_and(|wanted| wanted != algorithm) {
            return Err(wrong(
                "dkim",
                format!("has a `private_key` for {}, not the given `algorithm`", algorithm.name()),
            ));
        }
        let (domain, selector) = (self.domain.to_ascii_lowercase(), self.selector.clone());
        Ok(Key { domain, selector, algorithm, key })
    }
}

fn private_key(text: &str) -> Option<PKey<Private>> {
    if text.contains("-----BEGIN") {
        return PKey::private_key_from_pem(text.as_bytes()).ok();
    }
    let seed = BASE64.decode(text.trim()).ok()?;
    PKey::private_key_from_raw_bytes(&seed, Id::ED25519).ok()
}

/// A key, ready to sign.
#[derive(Clone)]
pub(super) struct Key {
    domain: String,
    selector: String,
    algorithm: Algorithm,
    key: PKey<Private>,
}

/// Without the key.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("domain", &self.domain).field("selector", &self.selector).finish_non_exhaustive()
    }
}

impl Key {
    /// Both algorithms sign the SHA-256 of the text: RSA by its own rule, Ed25519 as if that were the message (RFC 8463
    /// section 3).
    fn sign(&self, text: &[u8]) -> Result<String, ErrorStack> {
        let signature = match self.algorithm {
            Algorithm::RsaSha256 => Signer::new(MessageDigest::sha256(), &self.key)?.sign_oneshot_to_vec(text),
            Algorithm::Ed25519Sha256 => Signer::new_without_digest(&self.key)?.sign_oneshot_to_vec(&sha256(text)),
        };
        signature.map(|signature| BASE64.encode(signature))
    }
}

/// The `DKIM-Signature` headers of a message, one a key, to be put before it. Lines of the message end by CRLF.
pub(super) fn signatures(keys: &[Key], message: &[u8], now: Timestamp) -> Result<String, ErrorStack> {
    let (head, body) = split(message);
    let head = String::from_utf8_lossy(head);
    let headers: Vec<&str> = headers(&head);
    let mut names: Vec<&str> =
        COVERED.into_iter().flat_map(|name| std::iter::repeat_n(name, occurrences(&headers, name))).collect();
    names.extend(&COVERED[..ONCE_MORE]);
    let covered = covered(&headers, &names);
    let (body, seconds) = (BASE64.encode(sha256(&relaxed_body(body))), now.0.div_euclid(1000).max(0));
    let mut out = String::new();
    for key in keys {
        let (start, Key { domain, selector, algorithm, .. }) = (out.len(), key);
        // Writing to a String cannot fail.
        write!(
            out,
            "DKIM-Signature: v=1; a={}; c=relaxed/relaxed; t={seconds};\r\n d={domain};\r\n s={selector};\r\n h=",
            algorithm.name()
        )
        .ok();
        folded(&mut out, names.iter().enumerate().map(|(n, name)| format!("{}{name}", if n > 0 { ":" } else { "" })));
        write!(out, ";\r\n bh={body};\r\n b=").ok();
        let text = format!("{covered}{}", relaxed_header(&out[start..]));
        let signature = key.sign(text.as_bytes())?;
        folded(&mut out, signature.chars().map(String::from));
        out.push_str("\r\n");
    }
    Ok(out)
}

/// Appends pieces, with a line break before one that would not fit any more.
fn folded(out: &mut String, pieces: impl Iterator<Item = String>) {
    let mut width = 4;
    for piece in pieces {
        if width + piece.len() > LINE {
            out.push_str("\r\n  ");
            width = 2;
        }
        width += piece.len();
        out.push_str(&piece);
    }
}

/// Headers with their last line end, and body.
fn split(message: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memmem::find(message, b"\r\n\r\n") {
        Some(at) => (&message[..at + 2], &message[at + 4..]),
        None => (message, &[]),
    }
}

/// The headers one by one, folded lines together.
fn headers(head: &str) -> Vec<&str> {
    let (mut all, mut start) = (Vec::with_capacity(16), 0);
    for end in memchr::memmem::find_iter(head.as_bytes(), "\r\n").map(|at| at + 2) {
        if !head[end..].starts_with([' ', '\t']) {
            all.push(&head[start..end]);
            start = end;
        }
    }
    all
}

fn name_of(header: &str) -> &str {
    header.split(':').next().unwrap_or_default().trim_end()
}

fn occurrences(headers: &[&str], name: &str) -> usize {
    headers.iter().filter(|header| name_of(header).eq_ignore_ascii_case(name)).count()
}

/// The canonical form of what `names` name: of several of a name the last first, of one too many nothing (RFC 6376
/// section 5.4.2).
fn covered(headers: &[&str], names: &[&str]) -> String {
    let (mut used, mut out) = (vec![false; headers.len()], String::with_capacity(1024));
    for name in names {
        let found = (0..headers.len()).rev().find(|&n| !used[n] && name_of(headers[n]).eq_ignore_ascii_case(name));
        if let Some(n) = found {
            used[n] = true;
            out.push_str(&relaxed_header(headers[n]));
            out.push_str("\r\n");
        }
    }
    out
}

/// RFC 6376 section 3.4.2, without the line end.
fn relaxed_header(header: &str) -> String {
    let (name, value) = header.split_once(':').unwrap_or((header, ""));
    let mut out = name.trim().to_ascii_lowercase();
    out.push(':');
    let mut words = value.split([' ', '\t', '\r', '\n']).filter(|word| !word.is_empty());
    out.push_str(words.next().unwrap_or_default());
    for word in words {
        out.push(' ');
        out.push_str(word);
    }
    out
}

/// RFC 6376 section 3.4.4.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let (mut out, mut start, mut empty_lines) = (Vec::with_capacity(body.len() + 2), 0, 0);
    while start < body.len() {
        let end = memchr::memmem::find(&body[start..], b"\r\n").map_or(body.len(), |at| start + at);
        let before = out.len();
        let mut space = false;
        for &byte in &body[start..end] {
            if matches!(byte, b' ' | b'\t') {
                space = true;
                continue;
            }
            if before == out.len() {
                // Empty lines count only if something follows them.
                (0..std::mem::take(&mut empty_lines)).for_each(|_| out.extend_from_slice(b"\r\n"));
            }
            if std::mem::take(&mut space) {
                out.push(b' ');
            }
            out.push(byte);
        }
        if before == out.len() {
            empty_lines += 1;
        } else {
            out.extend_from_slice(b"\r\n");
        }
        start = end + 2;
    }
    out
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 8463 appendix A.2.
    pub(crate) const ED25519: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
    /// RFC 8463 appendix A.2.
    pub(crate) const RSA: &str = include_str!("rfc8463.rsa.pem");
    /// RFC 8463 appendix A.3.
    const LETTER: &str = include_str!("rfc8463.eml");

    fn key(text: &str, selector: &str) -> Key {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, text).unwrap();
        let domain = "football.example.com".into();
        Dkim { domain, selector: selector.into(), private_key: Secret::File(file), algorithm: None }.key().unwrap()
    }

    #[test]
    fn the_signatures_of_rfc_8463_are_ours() {
        let letter = LETTER.replace("\r\n", "\n").replace('\n', "\r\n");
        let (head, body) = split(letter.as_bytes());
        let all = headers(std::str::from_utf8(head).unwrap());
        assert_eq!(BASE64.encode(sha256(&relaxed_body(body))), "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=");
        let names = ["from", "to", "subject", "date", "message-id", "from", "subject", "date"];
        for (n, key) in [key(ED25519, "brisbane"), key(RSA, "test")].into_iter().enumerate() {
            let (unsigned, signature) = all[n].split_at(all[n].rfind(" b=").unwrap() + 3);
            let text = format!("{}{}", covered(&all, &names), relaxed_header(unsigned));
            let signature: String = signature.split_whitespace().collect();
            assert_eq!(key.sign(text.as_bytes()).unwrap(), signature, "{key:?}");
        }
    }

    #[test]
    fn what_is_signed_is_named_and_once_more() {
        let message = "From: a@b.example\r\nTo: c@d.example\r\nSubject: x\r\n y\r\nList-Unsubscribe: <https://u>\r\nX-Other: 1\r\n\r\nHi\r\n";
        let keys = [key(ED25519, "e"), key(RSA, "r")];
        let signed = signatures(&keys, message.as_bytes(), Timestamp(1_528_637_909_000)).unwrap();
        assert_eq!(signed.matches("DKIM-Signature: v=1; a=").count(), 2);
        assert!(signed.lines().all(|line| line.len() <= 78), "{signed}");
        let all = headers(&signed);
        assert_eq!(all.len(), 2);
        let tags: String = relaxed_header(all[0]).split_whitespace().collect();
        assert!(tags.contains("t=1528637909;") && !tags.contains("l="), "{tags}");
        let named = tags.split("h=").nth(1).unwrap().split(';').next().unwrap();
        let count = |name: &str| named.split(':').filter(|one| *one == name).count();
        assert_eq!((count("From"), count("List-Unsubscribe"), count("Reply-To")), (2, 1, 1));
        assert_eq!((count("X-Other"), count("Auto-Submitted")), (0, 0));
    }

    #[test]
    fn canonical_forms_are_those_of_rfc_6376() {
        // Section 3.4.5.
        assert_eq!(relaxed_header("A: X\r\n"), "a:X");
        assert_eq!(relaxed_header("B : Y\t\r\n\tZ  \r\n"), "b:Y Z");
        for (body, canonical) in [
            (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n"),
            ("", ""),
            ("\r\n\r\n", ""),
            (" \t\r\n", ""),
            ("a", "a\r\n"),
            ("a\r\n\r\nb", "a\r\n\r\nb\r\n"),
        ] {
            assert_eq!(String::from_utf8(relaxed_body(body.as_bytes())).unwrap(), canonical, "{body:?}");
        }
    }

    #[test]
    fn a_key_that_does_not_do_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        let outcome = |text: &str, algorithm| {
            std::fs::write(&file, text).unwrap();
            let private_key = Secret::File(file.clone());
            let dkim = Dkim { domain: "a.example".into(), selector: "s".into(), private_key, algorithm };
            dkim.key().map(drop).map_err(|error| error.to_string())
        };
        let short = openssl::rsa::Rsa::generate(512).unwrap().private_key_to_pem().unwrap();
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let curve = openssl::ec::EcKey::generate(&group).unwrap().private_key_to_pem().unwrap();
        for (text, algorithm, words) in [
            ("no key", None, "is none"),
            ("AAAA", None, "is none"),
            (std::str::from_utf8(&short).unwrap(), None, "less than 1024"),
            (std::str::from_utf8(&curve).unwrap(), None, "of a kind"),
            (ED25519, Some(Algorithm::RsaSha256), "for ed25519-sha256"),
        ] {
            let error = outcome(text, algorithm).unwrap_err();
            assert!(error.contains(words) && !error.contains(text), "{error}");
        }
        assert_eq!(outcome(RSA, Some(Algorithm::RsaSha256)), Ok(()));
    }

    proptest! {
        #[test]
        fn a_canonical_body_is_its_own(body in "[ab \t\r\n]{0,60}") {
            let once = relaxed_body(body.as_bytes());
            prop_assert_eq!(relaxed_body(&once), once);
        }

        #[test]
        fn any_message_can_be_signed(message in prop::collection::vec(any::<u8>(), 0..200), at in any::<i64>()) {
            signatures(&[key(ED25519, "e")], &message, Timestamp(at)).unwrap();
        }
    }
}
