//! What a link of ours carries: all that a receipt needs, and where it leads. It is sealed, so that following it needs no look-up, nobody can
//! make one up or point it elsewhere, and nobody reads in it whose it is. Pure; [`html`] puts such links into texts.
//!
//! A token is AES-SIV (RFC 5297, `AEAD_AES_SIV_CMAC_256`) of a compact binary form, in base64url. SIV needs no nonce, and the same try rendered
//! again has the same link; that two links are equal is all that it tells a stranger. What the link is for is authenticated with it, so
//! that no picture's token unsubscribes anybody; the project is part of the key.

pub mod html;

use crate::{channels::Reference, mail::origin::ShortKey};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_schemas::{
    Channel, DeliveryId, NotificationId, Timestamp,
    records::{Receipt, ReceiptKind},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use openssl::{cipher::Cipher, cipher_ctx::CipherCtx, error::ErrorStack};
use reqwest::Url;
use sha2::Sha256;
use std::fmt;
use uuid::Uuid;

/// Shortest secret: 16 bytes, of which a guess is out of reach.
const MIN_SECRET: usize = 16;
/// Bytes of a key of `AEAD_AES_SIV_CMAC_256`: one half authenticates, the other encrypts.
const KEY: usize = 32;
/// Bytes of the synthetic initialization vector, which authenticates.
const SIV: usize = 16;
/// Longest target of a link, in bytes; a longer one is not rewritten. With it sealed, a push stays within what push services take.
pub const MAX_TARGET: usize = 1024;
/// Longest token that is looked at.
const MAX_TOKEN: usize = 4096;

/// What a link is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Leads to its target, and tells that it was followed.
    Click,
    /// A picture that tells when it is looked at.
    Open,
    /// Called when a push was shown.
    Delivered,
    /// Unsubscribes.
    Unsubscribe,
    /// Shows what the member gets, and changes it.
    Preferences,
    /// Says that the address which the message went to is the member's.
    Confirm,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 6] =
        [Self::Click, Self::Open, Self::Delivered, Self::Unsubscribe, Self::Preferences, Self::Confirm];

    /// The name in metrics; authenticated with the token.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Click => "click",
            Self::Open => "open",
            Self::Delivered => "delivered",
            Self::Unsubscribe => "unsubscribe",
            Self::Preferences => "preferences",
            Self::Confirm => "confirm",
        }
    }

    /// The part of the path before the token, short because it is in every link.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Self::Click => "c",
            Self::Open => "o",
            Self::Delivered => "d",
            Self::Unsubscribe => "u",
            Self::Preferences => "p",
            Self::Confirm => "v",
        }
    }
}

/// What a link carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whose message it is in.
    pub reference: Reference,
    /// The message's channel.
    pub channel: Channel,
    /// The message's try, from 1.
    pub attempt: i32,
    /// Where it leads: an `http` or `https` URL, of [`Purpose::Click`] alone.
    pub target: Option<String>,
}

impl Link {
    /// What is sealed: ids, channel, try, three texts with their length before them, the target. The project is the key's. `None` where a
    /// text is longer than a length can say.
    #[must_use]
    pub fn to_bytes(&self) -> Option<Vec<u8>> {
        let Self { reference, channel, attempt, target } = self;
        let mut out = Vec::with_capacity(64 + reference.member.len() + reference.template.len() + MAX_TARGET / 4);
        out.extend_from_slice(reference.delivery.0.as_bytes());
        out.extend_from_slice(reference.notification.0.as_bytes());
        out.push(number(*channel));
        // More tries than that no message has.
        out.extend_from_slice(&u16::try_from(*attempt).unwrap_or(u16::MAX).to_be_bytes());
        for text in [&reference.member, &reference.template, &reference.provider] {
            out.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(target.as_deref().unwrap_or_default().as_bytes());
        Some(out)
    }

    /// Reads what [`Link::to_bytes`] wrote.
    #[must_use]
    pub fn from_bytes(project: &str, mut bytes: &[u8]) -> Option<Self> {
        let mut take = |n: usize| {
            let (taken, rest) = bytes.split_at_checked(n)?;
            bytes = rest;
            Some(taken)
        };
        let delivery = DeliveryId(Uuid::from_slice(take(16)?).ok()?);
        let notification = NotificationId(Uuid::from_slice(take(16)?).ok()?);
        let numbered = take(1)?.first().copied()?;
        let channel = Channel::ALL.into_iter().find(|channel| number(*channel) == numbered)?;
        let attempt = i32::from(u16::from_be_bytes(take(2)?.try_into().ok()?));
        let mut text = || {
            let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
            String::from_utf8(take(length.into())?.to_vec()).ok()
        };
        let (member, template, provider) = (text()?, text()?, text()?);
        let target = Some(String::from_utf8(bytes.to_vec()).ok()?).filter(|target| !target.is_empty());
        if target.as_ref().is_some_and(|target| web(target).is_none()) {
            return None;
        }
        let reference = Reference { delivery, notification, project: project.to_owned(), member, template, provider };
        Some(Self { reference, channel, attempt, target })
    }

    /// The receipt of what was done with it.
    #[must_use]
    pub fn receipt(self, kind: ReceiptKind, at: Timestamp) -> Receipt {
        let Reference { delivery, notification, project, member, template, provider } = self.reference;
        let said_no = kind == ReceiptKind::OptedOut;
        Receipt {
            delivery,
            notification,
            project,
            member,
            template,
            channel: self.channel,
            kind,
            at,
            attempt: self.attempt,
            provider,
            provider_id: None,
            error: None,
            detail: said_no.then(|| Receipt::BY_LINK.into()),
            address: None,
        }
    }
}

/// Not a token of ours: made up, cut short, for another purpose, or sealed with a key that is no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link of ours: forged, damaged, or sealed with a key that is no longer among `previous_keys`")]
pub struct Unreadable;

/// A key that does not do.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// See [`ShortKey`].
    #[error(transparent)]
    Short(#[from] ShortKey),
    /// The OpenSSL that is linked has no AES-SIV: every one since 3.0 has.
    #[error("OpenSSL: {0}")]
    Cipher(#[from] ErrorStack),
}

/// A project's keys.
pub struct Keys {
    project: String,
    cipher: Cipher,
    /// The one that seals, then those that only open.
    keys: Vec<[u8; KEY]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("project", &self.project).finish_non_exhaustive()
    }
}

impl Keys {
    /// Takes the secrets as they are: the one that seals, and those before it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn new<'s>(
        project: &str,
        secret: &'s str,
        previous: impl IntoIterator<Item = &'s str>,
    ) -> Result<Self, KeyError> {
        let derived = |secret: &str| {
            if secret.len() < MIN_SECRET {
                return Err(ShortKey);
            }
            let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_err(|_| ShortKey)?;
            mac.update(b"bellwether tracking\0");
            mac.update(project.as_bytes());
            Ok(mac.finalize().into_bytes().into())
        };
        let keys = std::iter::once(secret).chain(previous).map(derived).collect::<Result<_, _>>()?;
        Ok(Self { project: project.to_owned(), cipher: Cipher::fetch(None, "AES-128-SIV", None)?, keys })
    }

    /// The token of a link; `None` for a target that is no web address or too long, which then stays as it is.
    #[must_use]
    pub fn seal(&self, purpose: Purpose, link: &Link) -> Option<String> {
        if link.target.as_ref().is_some_and(|target| target.len() > MAX_TARGET || web(target).is_none()) {
            return None;
        }
        let sealed = seal(&self.cipher, self.keys.first()?, purpose.name().as_bytes(), &link.to_bytes()?).ok()?;
        Some(URL_SAFE_NO_PAD.encode(sealed)).filter(|token| token.len() <= MAX_TOKEN)
    }

    /// Reads and checks what [`Keys::seal`] wrote, with the keys of today and before.
    ///
    /// # Errors
    /// See [`Unreadable`].
    pub fn open(&self, purpose: Purpose, token: &str) -> Result<Link, Unreadable> {
        if token.len() > MAX_TOKEN {
            return Err(Unreadable);
        }
        let sealed = URL_SAFE_NO_PAD.decode(token).map_err(|_| Unreadable)?;
        let opened = self.keys.iter().find_map(|key| open(&self.cipher, key, purpose.name().as_bytes(), &sealed));
        Link::from_bytes(&self.project, &opened.ok_or(Unreadable)?).ok_or(Unreadable)
    }
}

/// A URL that a browser may be sent to.
#[must_use]
pub fn web(target: &str) -> Option<Url> {
    Url::parse(target).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

/// Authentication first, then what is encrypted (RFC 5297 section 2.6). A context serves once: AES-SIV is no stream.
fn seal(cipher: &Cipher, key: &[u8; KEY], purpose: &[u8], text: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mut context = CipherCtx::new()?;
    context.encrypt_init(Some(cipher), Some(key), None)?;
    context.cipher_update(purpose, None)?;
    let mut out = vec![0; SIV];
    context.cipher_update_vec(text, &mut out)?;
    context.cipher_final_vec(&mut out)?;
    context.tag(out.get_mut(..SIV).unwrap_or_default())?;
    Ok(out)
}

fn open(cipher: &Cipher, key: &[u8; KEY], purpose: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (siv, text) = sealed.split_at_checked(SIV)?;
    let decrypt = || -> Result<Vec<u8>, ErrorStack> {
        let mut context = CipherCtx::new()?;
        context.decrypt_init(Some(cipher), Some(key), None)?;
        context.set_tag(siv)?;
        context.cipher_update(purpose, None)?;
        let mut out = Vec::new();
        context.cipher_update_vec(text, &mut out)?;
        context.cipher_final_vec(&mut out)?;
        Ok(out)
    };
    decrypt().ok()
}

/// A channel in a token: links live longer than an order of names, so these numbers stay.
const fn number(channel: Channel) -> u8 {
    match channel {
        Channel::Email => 1,
        Channel::Sms => 2,
        Channel::Whatsapp => 3,
        Channel::Telegram => 4,
        Channel::WebPush => 5,
        Channel::AppPush => 6,
        Channel::Webhook => 7,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn keys() -> Keys {
        Keys::new("shop", SECRET, []).unwrap()
    }

    fn link(target: Option<&str>) -> Link {
        let reference = Reference {
            delivery: "0c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6".parse().unwrap(),
            notification: "1c9f5a1e-2b3c-5d4e-8f90-a1b2c3d4e5f6".parse().unwrap(),
            project: "shop".into(),
            member: "anna@example.org".into(),
            template: "order_placed".into(),
            provider: "mail".into(),
        };
        Link { reference, channel: Channel::Email, attempt: 2, target: target.map(Into::into) }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_vector_of_rfc_5297_appendix_a_1_holds() {
        let key = bytes("fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let purpose = bytes("101112131415161718191a1b1c1d1e1f2021222324252627");
        let text = bytes("112233445566778899aabbccddee");
        let sealed = bytes("85632d07c6e8f37f950acd320a2ecc9340c02b9690c4dc04daef7f6afe5c");
        let cipher = keys().cipher;
        assert_eq!(seal(&cipher, &key, &purpose, &text).unwrap(), sealed);
        assert_eq!(open(&cipher, &key, &purpose, &sealed), Some(text));
    }

    #[test]
    fn a_link_comes_back_and_shows_nothing() {
        let (keys, link) = (keys(), link(Some("https://shop.example/orders?member=anna@example.org#top")));
        let token = keys.seal(Purpose::Click, &link).unwrap();
        assert_eq!(keys.seal(Purpose::Click, &link).unwrap(), token, "a try rendered again has the same link");
        assert!(token.len() < 240 && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')));
        assert_eq!(keys.open(Purpose::Click, &token), Ok(link));
        let read = URL_SAFE_NO_PAD.decode(&token).unwrap();
        for secret in ["anna", "shop", "order"] {
            assert!(!read.windows(secret.len()).any(|part| part == secret.as_bytes()), "{secret} can be read");
        }
        assert!(!format!("{keys:?}").contains("0123"));
    }

    #[test]
    fn another_purpose_project_and_key_do_not_open_it_and_an_older_key_does() {
        let token = keys().seal(Purpose::Open, &link(None)).unwrap();
        for purpose in Purpose::ALL {
            assert_eq!(keys().open(purpose, &token).is_ok(), purpose == Purpose::Open, "{purpose:?}");
        }
        let other = "another secret of enough length";
        let open = |keys: Keys| keys.open(Purpose::Open, &token).is_ok();
        assert!(!open(Keys::new("show", SECRET, []).unwrap()), "another project with the same secret");
        assert!(!open(Keys::new("shop", other, []).unwrap()));
        let rotated = Keys::new("shop", other, ["a third secret of enough length", SECRET]).unwrap();
        assert_ne!(rotated.seal(Purpose::Open, &link(None)).unwrap(), token, "new links are sealed with the new key");
        assert!(open(rotated));
        for (secret, previous) in [("short", SECRET), (SECRET, "short")] {
            assert!(matches!(Keys::new("shop", secret, [previous]), Err(KeyError::Short(_))));
        }
    }

    #[test]
    fn only_web_addresses_of_bearable_length_are_sealed() {
        let long = format!("https://shop.example/{}", "x".repeat(MAX_TARGET - 21));
        for (target, is_sealed) in [
            ("https://shop.example", true),
            ("HTTP://shop.example/ñ", true),
            (long.as_str(), true),
            (&format!("{long}x"), false),
            ("javascript:alert(1)", false),
            ("data:text/html,x", false),
            ("mailto:a@b.example", false),
            ("shop://orders/7", false),
            ("/orders/7", false),
            ("https://", false),
        ] {
            assert_eq!(keys().seal(Purpose::Click, &link(Some(target))).is_some(), is_sealed, "{target}");
        }
    }

    #[test]
    fn a_receipt_says_all_that_track_needs() {
        let receipt = link(None).receipt(ReceiptKind::OptedOut, Timestamp(7));
        let told = (receipt.member.as_str(), receipt.channel, receipt.attempt, receipt.provider.as_str(), receipt.at);
        assert_eq!(told, ("anna@example.org", Channel::Email, 2, "mail", Timestamp(7)));
        assert_eq!(receipt.detail.unwrap(), "the member unsubscribed by the link");
        assert_eq!(link(None).receipt(ReceiptKind::Opened, Timestamp(7)).detail, None);
    }

    fn links() -> impl Strategy<Value = Link> {
        let texts = (any::<String>(), "[a-z0-9_-]{1,63}", "[a-z0-9_-]{1,63}");
        let target = proptest::option::of("https?://[a-z]{1,20}\\.example/[ -~]{0,200}");
        let ids = (any::<u128>(), any::<u128>(), 0..Channel::ALL.len(), 0..=i32::from(u16::MAX));
        (ids, texts, target).prop_map(
            |((delivery, notification, channel, attempt), (member, template, provider), target)| {
                let (delivery, notification) =
                    (DeliveryId(Uuid::from_u128(delivery)), NotificationId(Uuid::from_u128(notification)));
                let reference =
                    Reference { delivery, notification, project: "shop".into(), member, template, provider };
                Link { reference, channel: Channel::ALL[channel], attempt, target }
            },
        )
    }

    proptest! {
        #[test]
        fn every_link_survives(link in links(), purpose in 0..Purpose::ALL.len()) {
            let purpose = Purpose::ALL[purpose];
            let token = keys().seal(purpose, &link).unwrap();
            prop_assert_eq!(keys().open(purpose, &token), Ok(link));
        }

        #[test]
        fn a_changed_bit_is_noticed(link in links(), at in any::<prop::sample::Index>(), bit in 0..8_u8) {
            let mut sealed = URL_SAFE_NO_PAD.decode(keys().seal(Purpose::Click, &link).unwrap()).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert_eq!(keys().open(Purpose::Click, &URL_SAFE_NO_PAD.encode(&sealed)), Err(Unreadable));
            sealed[at] ^= 1 << bit;
            sealed.truncate(at);
            prop_assert_eq!(keys().open(Purpose::Click, &URL_SAFE_NO_PAD.encode(&sealed)), Err(Unreadable));
        }

        #[test]
        fn no_text_is_a_token_and_no_bytes_make_the_reader_panic(text in any::<String>(), bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(keys().open(Purpose::Click, &text), Err(Unreadable));
            prop_assert_eq!(keys().open(Purpose::Click, &URL_SAFE_NO_PAD.encode(&bytes)), Err(Unreadable));
            // Whoever had the key could write anything: then what is read is what would be written.
            if let Some(link) = Link::from_bytes("shop", &bytes) {
                prop_assert_eq!(link.to_bytes(), Some(bytes));
            }
        }
    }
}
