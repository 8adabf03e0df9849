//! Signatures: JSON Web Tokens (RFC 7515, 7518) by OpenSSL, which the workspace links already, and HMAC-SHA-256.
//! What is signed, and how long it holds, is each connector's own matter.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _, digest::Key};
use openssl::{
    ec::EcKeyRef,
    ecdsa::EcdsaSig,
    error::ErrorStack,
    hash::MessageDigest,
    pkey::{PKeyRef, Private},
    sha::sha256,
    sign::Signer,
};
use serde_json::Value;
use sha2::Sha256;
use std::time::SystemTime;

/// A token signed with ECDSA on P-256: the signature is both numbers, 32 bytes each (RFC 7518 section 3.4), not OpenSSL's DER.
pub(crate) fn es256(key: &EcKeyRef<Private>, header: &Value, claims: &Value) -> Result<String, ErrorStack> {
    let text = signing_input(header, claims);
    let signature = EcdsaSig::sign(&sha256(text.as_bytes()), key)?;
    let mut raw = signature.r().to_vec_padded(32)?;
    raw.extend(signature.s().to_vec_padded(32)?);
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(raw)))
}

/// A token signed with RSA (PKCS #1 v1.5, SHA-256).
pub(crate) fn rs256(key: &PKeyRef<Private>, header: &Value, claims: &Value) -> Result<String, ErrorStack> {
    let text = signing_input(header, claims);
    let signature = Signer::new(MessageDigest::sha256(), key)?.sign_oneshot_to_vec(text.as_bytes())?;
    Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn signing_input(header: &Value, claims: &Value) -> String {
    let [header, claims] = [header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
    format!("{header}.{claims}")
}

/// HMAC-SHA-256 over the parts, one after the other. Not by OpenSSL, where each call looks its algorithm up and costs ten times as much.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key is hashed where it is longer than a block, and padded with zeros (RFC 2104 section 2), so that there is none which is not taken.
    let mut block = Key::<Hmac<Sha256>>::default();
    if key.len() > block.len() {
        block[..32].copy_from_slice(&sha256(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let mut mac = Hmac::<Sha256>::new(&block);
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Seconds since the Unix epoch; tokens and webhooks say when.
pub(crate) fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use openssl::{
        bn::BigNum,
        ec::EcKey,
        pkey::{HasPublic, PKey},
        rsa::Rsa,
        sign::Verifier,
    };
    use serde_json::json;

    fn parts(token: &str) -> (String, Vec<u8>, Value, Value) {
        let [header, claims, signature] = token.split('.').collect::<Vec<_>>().try_into().unwrap();
        let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        (format!("{header}.{claims}"), URL_SAFE_NO_PAD.decode(signature).unwrap(), read(header), read(claims))
    }

    /// Header and claims of a token that `key` signed.
    pub(crate) fn verify_es256<T: HasPublic>(key: &EcKeyRef<T>, token: &str) -> (Value, Value) {
        let (text, signature, header, claims) = parts(token);
        let [r, s] = [&signature[..32], &signature[32..]].map(|half| BigNum::from_slice(half).unwrap());
        let signature = EcdsaSig::from_private_components(r, s).unwrap();
        assert!(signature.verify(&sha256(text.as_bytes()), key).unwrap());
        (header, claims)
    }

    /// As [`verify_es256`], for RSA.
    pub(crate) fn verify_rs256<T: HasPublic>(key: &PKeyRef<T>, token: &str) -> (Value, Value) {
        let (text, signature, header, claims) = parts(token);
        let mut verifier = Verifier::new(MessageDigest::sha256(), key).unwrap();
        assert!(verifier.verify_oneshot(&signature, text.as_bytes()).unwrap());
        (header, claims)
    }

    #[test]
    fn tokens_are_verified_by_the_public_key() {
        let (header, claims) = (json!({"alg": "x"}), json!({"n": 1}));
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let key = EcKey::generate(&group).unwrap();
        // The numbers of one signature in a hundred or so begin with a zero byte, which must stay.
        for _ in 0..300 {
            let token = es256(&key, &header, &claims).unwrap();
            assert_eq!(verify_es256(&key, &token), (header.clone(), claims.clone()));
        }
        let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
        assert_eq!(verify_rs256(&key, &rs256(&key, &header, &claims).unwrap()), (header, claims));
    }

    #[test]
    fn the_mac_of_rfc_4231() {
        // Test case 2.
        let mac = hmac_sha256(b"Jefe", &[b"what do ya want ", b"for nothing?"]);
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(mac.map(|byte| format!("{byte:02x}")).concat(), expected);
    }
}
