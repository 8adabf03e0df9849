//! How mail that comes back says which letter it is about, so that nobody needs a row to find out and nobody can make
//! it up. Pure.
//!
//! A letter leaves with two marks, both made with one key:
//!
//! - the **mark** of its notification and try, 60 characters, which fits where room is scarce: the local part of the return
//!   path (`b+MARK@domain`: VERP, at most 64 octets by RFC 5321 section 4.5.3.1.1) and ENVID (100 characters, RFC 3461
//!   section 4.4);
//! - the **origin**, which is all that a receipt needs, sealed: in the header [`HEADER`], which comes back with the
//!   returned headers (RFC 3462, RFC 5965), and in the subject of the `mailto:` of List-Unsubscribe.
//!
//! A bounce proves itself by either. Only the sealed origin makes a receipt without a look-up; where a server returns
//! no headers the mark still says, beyond doubt, which notification it was, and its story knows the rest. The address to suppress is the one in the seal,
//! never one that a report names: else whoever holds a letter of ours could have another's address suppressed. What
//! remains is that a member can bounce the member's own letter.

use crate::channels::Reference;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_schemas::NotificationId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use std::fmt;
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

/// Header with the sealed origin, on every letter that has a return path of ours.
pub const HEADER: &str = "X-Bellwether-Reference";
/// Local part, before the `+`, of the addresses that bounces come to.
pub const BOUNCES: &str = "b";
/// Local part of the address that mail to unsubscribe comes to.
pub const UNSUBSCRIBES: &str = "u";

/// Shortest key: 16 bytes, of which a guess is out of reach.
const MIN_KEY: usize = 16;
/// Characters of the mark: notification 32, try 4, 96 bits of the MAC 24.
const MARK: usize = 60;
const ATTEMPT: std::ops::Range<usize> = 32..36;
/// Bytes of the seal's MAC.
const SEAL_MAC: usize = 16;
/// Longest sealed origin that is looked at.
const MAX_SEALED: usize = 4096;

/// What a receipt about a letter needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Whose letter it was.
    pub reference: Reference,
    /// Which try, from 1.
    pub attempt: i32,
    /// The address that it went to.
    pub address: String,
}

/// A mark or seal that is not ours: made up, cut short, or made with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a mark of ours: forged, damaged, or made with another `return_path_key`")]
pub struct Forged;

/// A key that is too short.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have at least {MIN_KEY} characters: `openssl rand -hex 32` makes one")]
pub struct ShortKey;

/// Makes and checks marks.
#[derive(Clone)]
pub struct ReturnKey(Hmac<Sha256>);

impl fmt::Debug for ReturnKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReturnKey")
    }
}

impl ReturnKey {
    /// Takes the secret as it is.
    ///
    /// # Errors
    /// It is too short to be one.
    pub fn new(secret: &str) -> Result<Self, ShortKey> {
        if secret.len() < MIN_KEY {
            return Err(ShortKey);
        }
        Hmac::new_from_slice(secret.as_bytes()).map(Self).map_err(|_| ShortKey)
    }

    /// The mark of a try: 60 hexadecimal digits, because a server on the way may change the case of a local part.
    #[must_use]
    pub fn mark(&self, notification: NotificationId, attempt: i32) -> String {
        let mut mark = format!("{}{:04x}", notification.0.simple(), u16::try_from(attempt).unwrap_or(u16::MAX));
        let mac = self.mac("mark", &mark);
        for byte in &mac[..(MARK - ATTEMPT.end) / 2] {
            mark.push_str(&format!("{byte:02x}"));
        }
        mark
    }

    /// Reads and checks what [`ReturnKey::mark`] wrote, in whatever case.
    ///
    /// # Errors
    /// See [`Forged`].
    pub fn read_mark(&self, mark: &str) -> Result<(NotificationId, i32), Forged> {
        if mark.len() != MARK || !mark.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Forged);
        }
        let mark = mark.to_ascii_lowercase();
        let notification = NotificationId(Uuid::try_parse(&mark[..ATTEMPT.start]).map_err(|_| Forged)?);
        let attempt = i32::from(u16::from_str_radix(&mark[ATTEMPT], 16).map_err(|_| Forged)?);
        let right: bool = self.mark(notification, attempt).as_bytes().ct_eq(mark.as_bytes()).into();
        if right { Ok((notification, attempt)) } else { Err(Forged) }
    }

    /// An origin as one word of `[A-Za-z0-9_.-]`. It can be read by everybody and written by nobody else.
    #[must_use]
    pub fn seal(&self, origin: &Origin) -> String {
        // A struct of texts and a number always has a JSON form.
        let mut word = URL_SAFE_NO_PAD.encode(serde_json::to_vec(origin).unwrap_or_default());
        let mac = self.mac("origin", &word);
        word.push('.');
        URL_SAFE_NO_PAD.encode_string(&mac[..SEAL_MAC], &mut word);
        word
    }

    /// Reads and checks what [`ReturnKey::seal`] wrote; white space that folding left in it is skipped.
    ///
    /// # Errors
    /// See [`Forged`].
    pub fn open(&self, sealed: &str) -> Result<Origin, Forged> {
        if sealed.len() > MAX_SEALED {
            return Err(Forged);
        }
        let sealed: String = sealed.chars().filter(|c| !c.is_whitespace()).collect();
        let (word, mac) = sealed.split_once('.').ok_or(Forged)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| Forged)?;
        let right: bool = self.mac("origin", word)[..SEAL_MAC].ct_eq(&mac).into();
        if !right {
            return Err(Forged);
        }
        let json = URL_SAFE_NO_PAD.decode(word).map_err(|_| Forged)?;
        serde_json::from_slice(&json).map_err(|_| Forged)
    }

    /// The purpose is part of what is signed, so that no mark serves as a seal.
    fn mac(&self, purpose: &str, text: &str) -> [u8; 32] {
        let mut mac = self.0.clone();
        mac.update(purpose.as_bytes());
        mac.update(b"\0");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().into()
    }
}

/// The mark in an address, if it is one that bounces come to.
pub(super) fn mark_in(address: &str) -> Option<&str> {
    let (local, _) = address.trim_matches(['<', '>', ' ']).rsplit_once('@')?;
    let (name, mark) = local.split_once('+')?;
    name.eq_ignore_ascii_case(BOUNCES).then_some(mark)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use bellwether_schemas::DeliveryId;
    use proptest::prelude::*;

    pub(crate) fn key() -> ReturnKey {
        ReturnKey::new("0123456789abcdef0123456789abcdef").unwrap()
    }

    pub(crate) fn origin() -> Origin {
        let delivery: DeliveryId = "0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6".parse().unwrap();
        let reference = Reference {
            delivery,
            notification: "1d8e4b2f-3c4d-5e6f-9a01-b2c3d4e5f607".parse().unwrap(),
            project: "shop".into(),
            member: "m1".into(),
            template: "order".into(),
            provider: "mail".into(),
        };
        Origin { reference, attempt: 2, address: "jane@example.com".into() }
    }

    #[test]
    fn a_mark_fits_and_comes_back_in_any_case() {
        let (key, notification) = (key(), origin().reference.notification);
        let mark = key.mark(notification, 2);
        assert!(BOUNCES.len() + 1 + mark.len() <= 64);
        assert_eq!(key.read_mark(&mark), Ok((notification, 2)));
        assert_eq!(key.read_mark(&mark.to_ascii_uppercase()), Ok((notification, 2)));
        let address = format!("<B+{mark}@bounce.shop.example>");
        assert_eq!(mark_in(&address), Some(mark.as_str()));
        assert_eq!((mark_in("jane@example.com"), mark_in("x+y@example.com"), mark_in("b+")), (None, None, None));
        assert_eq!(key.read_mark(&key.mark(notification, i32::MAX)), Ok((notification, i32::from(u16::MAX))));
    }

    #[test]
    fn another_key_another_try_and_another_purpose_are_forged() {
        let (key, notification) = (key(), origin().reference.notification);
        let other = ReturnKey::new("another secret of enough length").unwrap();
        assert_eq!(other.read_mark(&key.mark(notification, 1)), Err(Forged));
        let moved = key.mark(notification, 1).replacen("0001", "0002", 1);
        assert_eq!(key.read_mark(&moved), Err(Forged));
        let sealed = key.seal(&origin());
        assert_eq!((key.open(&sealed), other.open(&sealed)), (Ok(origin()), Err(Forged)));
        assert_eq!(ReturnKey::new("short").unwrap_err(), ShortKey);
        assert!(!format!("{key:?}").contains("0123"));
    }

    #[test]
    fn folding_does_not_break_a_seal() {
        let sealed = key().seal(&origin());
        let folded: Vec<_> = sealed.as_bytes().chunks(70).map(|c| std::str::from_utf8(c).unwrap()).collect();
        assert_eq!(key().open(&folded.join("\r\n ")), Ok(origin()));
    }

    proptest! {
        #[test]
        fn no_mark_makes_us_panic_and_none_is_ours(text in any::<String>(), hex in "[0-9a-fA-F]{60}", sealed in "[A-Za-z0-9_.-]{0,200}") {
            prop_assert_eq!(key().read_mark(&text), Err(Forged));
            prop_assert_eq!(key().read_mark(&hex), Err(Forged));
            prop_assert_eq!(key().open(&text), Err(Forged));
            prop_assert_eq!(key().open(&sealed), Err(Forged));
            mark_in(&text);
        }

        #[test]
        fn a_changed_character_is_noticed(at in 0_usize..60, digit in 0_usize..16) {
            let mark = key().mark(origin().reference.notification, 1);
            let mut changed = mark.clone().into_bytes();
            changed[at] = b"0123456789abcdef"[digit];
            let changed = String::from_utf8(changed).unwrap();
            prop_assert_eq!(key().read_mark(&changed).is_ok(), changed == mark);
        }

        #[test]
        fn any_member_and_address_survive(member in any::<String>(), address in any::<String>(), attempt in any::<i32>()) {
            let mut origin = Origin { attempt, address, ..origin() };
            origin.reference.member = member;
            let sealed = key().seal(&origin);
            prop_assume!(sealed.len() <= MAX_SEALED);
            prop_assert_eq!(key().open(&sealed), Ok(origin));
        }
    }
}
