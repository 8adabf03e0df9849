//! Verifies JSON Web Tokens (RFC 7515, 7518) as the providers do to which we present them. Signs nothing.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use openssl::{
    bn::BigNum,
    ec::EcKeyRef,
    ecdsa::EcdsaSig,
    hash::MessageDigest,
    pkey::{HasPublic, PKeyRef},
    sha::sha256,
    sign::Verifier,
};
use serde_json::Value;

/// A token whose signature is still to be verified.
struct Parts<'a> {
    input: &'a str,
    signature: Vec<u8>,
    header: Value,
    claims: Value,
}

fn parts(token: &str) -> Option<Parts<'_>> {
    let (input, signature) = token.rsplit_once('.')?;
    let (header, claims) = input.split_once('.')?;
    let read = |part: &str| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    Some(Parts {
        input,
        signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        header: read(header)?,
        claims: read(claims)?,
    })
}

/// Header and claims of a token that was signed with ECDSA on P-256 by the owner of this key.
pub(super) fn es256<T: HasPublic>(token: &str, key: &EcKeyRef<T>) -> Option<(Value, Value)> {
    let Parts { input, signature, header, claims } = parts(token).filter(|parts| parts.header["alg"] == "ES256")?;
    let (r, s) = signature.split_at_checked(32).filter(|(_, s)| s.len() == 32)?;
    let signature = EcdsaSig::from_private_components(BigNum::from_slice(r).ok()?, BigNum::from_slice(s).ok()?).ok()?;
    signature.verify(&sha256(input.as_bytes()), key).ok()?.then_some((header, claims))
}

/// The same by RSA (PKCS #1 v1.5, SHA-256).
pub(super) fn rs256<T: HasPublic>(token: &str, key: &PKeyRef<T>) -> Option<(Value, Value)> {
    let Parts { input, signature, header, claims } = parts(token).filter(|parts| parts.header["alg"] == "RS256")?;
    let mut verifier = Verifier::new(MessageDigest::sha256(), key).ok()?;
    verifier.verify_oneshot(&signature, input.as_bytes()).ok()?.then_some((header, claims))
}
