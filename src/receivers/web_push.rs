//! A push service and the browsers that subscribe with it: takes encrypted messages (RFC 8030) of the sender whose key the browser subscribed
//! with (VAPID, RFC 8292), decrypts them as the browser does (RFC 8291), and reports as a page's service worker does, by the URLs in the
//! payload. Nothing waits here: a browser is always there, and shows a notification of the same tag in place of the first.

use super::{
    Home,
    http::{Call, Contract, Draft, Event, Outgoing, Refusal, Reply, Taken},
    jwt,
};
use axum::{
    http::{Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use openssl::{
    bn::BigNumContext,
    derive::Deriver,
    ec::{EcGroup, EcKey, EcPoint, PointConversionForm},
    error::ErrorStack,
    nid::Nid,
    pkey::{PKey, Private, Public},
    rand::rand_bytes,
    symm::{Cipher, decrypt_aead},
};
use serde_json::{Value, json};
use sha2::Sha256;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

/// Salt, record size, length of the key and the key (RFC 8188 section 2.1).
const HEADER: usize = 16 + 4 + 1 + 65;
/// Bytes of AES-GCM's tag.
const TAG: usize = 16;
/// Marks the last record (RFC 8188 section 2).
const LAST: u8 = 2;
/// Largest message after encryption that every push service takes (RFC 8030 section 7.2).
const MAX_MESSAGE: usize = 4096;
/// A token may hold for a day at most (RFC 8292 section 2).
const MAX_TOKEN_LIFE: u64 = 24 * 3600;
/// Browsers that may subscribe.
const MAX_BROWSERS: usize = 100_000;

/// A push service, with its browsers.
#[derive(Debug, Default)]
pub struct WebPush {
    browsers: Mutex<HashMap<String, Browser>>,
    /// The `Authorization` that verified last, with its origin: verifying is dear, and senders repeat it for hours.
    verified: Mutex<(String, String)>,
}

#[derive(Clone, Debug)]
struct Browser {
    key: EcKey<Private>,
    auth: [u8; 16],
    /// The sender's public key, in base64url.
    application_server_key: String,
}

fn group() -> Result<EcGroup, ErrorStack> {
    EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)
}

fn point(key: &EcKey<impl openssl::pkey::HasPublic>) -> Result<Vec<u8>, ErrorStack> {
    let (group, mut context) = (group()?, BigNumContext::new()?);
    key.public_key().to_bytes(&group, PointConversionForm::UNCOMPRESSED, &mut context)
}

fn public(bytes: &[u8]) -> Result<EcKey<Public>, ErrorStack> {
    let (group, mut context) = (group()?, BigNumContext::new()?);
    EcKey::from_public_key(&group, &*EcPoint::from_bytes(&group, bytes, &mut context)?)
}

impl WebPush {
    /// A browser subscribes for the sender with this key; what `PushSubscription.toJSON()` gives. Its endpoint ends in `name`.
    ///
    /// # Errors
    /// OpenSSL makes no key.
    pub fn subscribe(&self, url: &str, name: &str, application_server_key: &str) -> Result<Value, ErrorStack> {
        let key = EcKey::generate(&*group()?)?;
        let mut auth = [0; 16];
        rand_bytes(&mut auth)?;
        let keys = json!({"p256dh": URL_SAFE_NO_PAD.encode(point(&key)?), "auth": URL_SAFE_NO_PAD.encode(auth)});
        let browser = Browser { key, auth, application_server_key: application_server_key.to_owned() };
        let mut browsers = self.browsers.lock().unwrap_or_else(PoisonError::into_inner);
        if browsers.len() < MAX_BROWSERS {
            browsers.insert(name.to_owned(), browser);
        }
        Ok(json!({"endpoint": format!("{url}/push/{name}"), "expirationTime": null, "keys": keys}))
    }

    /// `vapid t=TOKEN, k=KEY` (RFC 8292 section 3): by the key that the browser subscribed with, for this service, for a day at most.
    fn is_senders(&self, call: &Call, browser: &Browser) -> bool {
        let (given, host) = (call.header("authorization"), call.header("host"));
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(parameters) = given.strip_prefix("vapid ") else { return false };
        let find = |name: &str| parameters.split(',').find_map(|p| p.trim().strip_prefix(name)).unwrap_or_default();
        if find("k=") != browser.application_server_key {
            return false;
        }
        if (verified.0.as_str(), verified.1.as_str()) == (given, host) {
            return true;
        }
        let key = URL_SAFE_NO_PAD.decode(find("k=")).ok().and_then(|bytes| public(&bytes).ok());
        let claims = key.and_then(|key| jwt::es256(find("t="), &key)).map(|(_, claims)| claims).unwrap_or_default();
        let now = super::unix_seconds();
        let holds = claims["exp"].as_u64().is_some_and(|exp| exp > now && exp <= now + MAX_TOKEN_LIFE);
        let right = holds && claims["aud"].as_str() == Some(&format!("http://{host}"));
        if right {
            *verified = (given.to_owned(), host.to_owned());
        }
        right
    }
}

/// HKDF-SHA-256 (RFC 5869) of up to 32 bytes.
fn hkdf(salt: &[u8], input: &[u8], info: &[&[u8]]) -> Option<[u8; 32]> {
    let mut extract = Hmac::<Sha256>::new_from_slice(salt).ok()?;
    extract.update(input);
    let mut expand = Hmac::<Sha256>::new_from_slice(&extract.finalize().into_bytes()).ok()?;
    info.iter().for_each(|part| expand.update(part));
    expand.update(&[1]);
    Some(expand.finalize().into_bytes().into())
}

/// What a browser reads in a message for it (RFC 8291 section 3.4); `None` where it is for somebody else, or changed.
fn decrypt(key: &EcKey<Private>, auth: &[u8], message: &[u8]) -> Option<Vec<u8>> {
    let (header, sealed) = message.split_at_checked(HEADER)?;
    let (salt, senders) = (&header[..16], &header[21..]);
    let sender = PKey::from_ec_key(public(senders).ok()?).ok()?;
    let browser = PKey::from_ec_key(key.clone()).ok()?;
    let mut deriver = Deriver::new(&browser).ok()?;
    deriver.set_peer(&sender).ok()?;
    let shared = deriver.derive_to_vec().ok()?;
    let input = hkdf(auth, &shared, &[b"WebPush: info\0", &point(key).ok()?, senders])?;
    let content_key = hkdf(salt, &input, &[b"Content-Encoding: aes128gcm\0"])?;
    let nonce = hkdf(salt, &input, &[b"Content-Encoding: nonce\0"])?;
    let (sealed, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
    let padded = decrypt_aead(Cipher::aes_128_gcm(), &content_key[..16], Some(&nonce[..12]), &[], sealed, tag).ok()?;
    let end = padded.iter().rposition(|byte| *byte != 0).filter(|end| padded[*end] == LAST)?;
    Some(padded[..end].to_vec())
}

fn refusal(status: StatusCode) -> Reply {
    let mut response = status.into_response();
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    Reply::refusal(status.as_str(), response)
}

impl Contract for WebPush {
    fn read(&self, call: &Call) -> Result<Draft, Reply> {
        let name = call.uri.path().strip_prefix("/push/").filter(|_| call.method == Method::POST);
        let name = name.ok_or_else(|| refusal(StatusCode::NOT_FOUND))?;
        let browser = self.browsers.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let browser = browser.ok_or_else(|| refusal(StatusCode::NOT_FOUND))?;
        if !self.is_senders(call, &browser) {
            return Err(refusal(StatusCode::FORBIDDEN));
        }
        if call.header("ttl").parse::<u64>().is_err() || call.header("content-encoding") != "aes128gcm" {
            return Err(refusal(StatusCode::BAD_REQUEST));
        }
        let topic = call.header("topic");
        let is_base64url = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        if topic.len() > 32 || !topic.bytes().all(is_base64url) {
            return Err(refusal(StatusCode::BAD_REQUEST));
        }
        if call.body.len() > MAX_MESSAGE {
            return Err(refusal(StatusCode::PAYLOAD_TOO_LARGE));
        }
        let text = decrypt(&browser.key, &browser.auth, &call.body).ok_or_else(|| refusal(StatusCode::BAD_REQUEST))?;
        let payload: Value = serde_json::from_slice(&text).unwrap_or_default();
        let tag = payload["tag"].as_str();
        let key = format!("{name} {}", tag.unwrap_or(topic));
        let callback = (!topic.is_empty()).then(|| topic.to_owned());
        Ok(Draft {
            to: name.into(),
            key,
            collapses: tag.is_some(),
            callback,
            body: payload.to_string(),
            ..Draft::default()
        })
    }

    fn refuse(&self, why: Refusal) -> Reply {
        refusal(match why {
            Refusal::Nobody | Refusal::OptedOut => StatusCode::GONE,
            Refusal::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Refusal::Broken => StatusCode::SERVICE_UNAVAILABLE,
        })
    }

    fn id(&self, number: u64, _: &Draft) -> String {
        format!("/m/{number}")
    }

    fn accept(&self, Taken { id, .. }: &Taken) -> Response {
        (StatusCode::CREATED, [(header::LOCATION, id.to_string())]).into_response()
    }

    fn tell(&self, taken: &Taken, event: Event, home: &Home) -> Vec<Outgoing> {
        home.device(&serde_json::from_str(&taken.draft.body).unwrap_or_default(), event)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use openssl::bn::BigNum;

    /// RFC 8291 appendix A.
    #[test]
    fn the_published_message_is_read_by_its_browser_alone() {
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
        let number = BigNum::from_slice(&bytes("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94")).unwrap();
        let (group, mut context) = (group().unwrap(), BigNumContext::new().unwrap());
        let mut place = EcPoint::new(&group).unwrap();
        place.mul_generator2(&group, &number, &mut context).unwrap();
        let key = EcKey::from_private_components(&group, &number, &place).unwrap();
        let auth = bytes("BTBZMqHH6r4Tts7J_aSIgg");
        let message = bytes(
            "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
        );
        assert_eq!(decrypt(&key, &auth, &message).unwrap(), b"When I grow up, I want to be a watermelon");
        let other = EcKey::generate(&group).unwrap();
        assert_eq!((decrypt(&other, &auth, &message), decrypt(&key, &[0; 16], &message)), (None, None));
        for cut in [0, 20, 90, message.len() - 1] {
            assert_eq!(decrypt(&key, &auth, &message[..cut]), None);
        }
    }
}
