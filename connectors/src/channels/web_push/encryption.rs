//! Encryption of a push message for one browser: RFC 8291 over RFC 8188 (`aes128gcm`), one record. What is in it is not our matter here.

use super::super::signing::hmac_sha256;
use openssl::{
    bn::{BigNum, BigNumContext},
    ec::{EcGroup, EcGroupRef, EcKey, EcPoint, EcPointRef, PointConversionForm},
    error::ErrorStack,
    nid::Nid,
    pkey::{Private, Public},
    rand::rand_bytes,
    symm::{Cipher, encrypt_aead},
};
use std::sync::OnceLock;

/// Record size that we declare. RFC 8291 section 4 wants one record, and more than this no push service need take.
const RECORD_SIZE: u32 = 4096;
/// Marks the last record (RFC 8188 section 2).
const LAST: u8 = 2;
/// Bytes of AES-GCM's tag.
const TAG: usize = 16;

/// The curve of everything here, P-256.
pub(super) fn group() -> Result<&'static EcGroupRef, ErrorStack> {
    static GROUP: OnceLock<EcGroup> = OnceLock::new();
    if let Some(group) = GROUP.get() {
        return Ok(group);
    }
    // To look it up costs about as much as to make a key.
    let found = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    Ok(GROUP.get_or_init(|| found))
}

/// A point as 65 bytes (SEC 1 section 2.3.3).
pub(super) fn point_bytes(point: &EcPointRef) -> Result<Vec<u8>, ErrorStack> {
    let (group, mut context) = (group()?, BigNumContext::new()?);
    point.to_bytes(group, PointConversionForm::UNCOMPRESSED, &mut context)
}

/// Reads a point; one that is not on the curve is refused. But for the point at infinity that is all there is to check on this curve, whose cofactor is 1 (SEC 1
/// section 3.2.2.1): OpenSSL's own check multiplies it by the curve's order, which costs more than the encryption.
pub(super) fn public_key(bytes: &[u8]) -> Result<EcKey<Public>, ErrorStack> {
    let (group, mut context) = (group()?, BigNumContext::new()?);
    let point = EcPoint::from_bytes(group, bytes, &mut context)?;
    if point.is_infinity(group) { Err(ErrorStack::get()) } else { EcKey::from_public_key(group, &point) }
}

/// Encrypts for the browser that has the key and the secret. A fresh key of ours and a fresh salt each time.
pub(super) fn encrypt(receiver: &EcKey<Public>, auth: &[u8], text: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let mut salt = [0; 16];
    rand_bytes(&mut salt)?;
    encrypt_with(receiver, auth, text, EcKey::generate(group()?)?, salt)
}

fn encrypt_with(
    receiver: &EcKey<Public>,
    auth: &[u8],
    text: &[u8],
    sender: EcKey<Private>,
    salt: [u8; 16],
) -> Result<Vec<u8>, ErrorStack> {
    let (theirs, ours) = (point_bytes(receiver.public_key())?, point_bytes(sender.public_key())?);
    let (key, nonce) = keys(&agreed(receiver, &sender)?, auth, &theirs, &ours, &salt);

    let mut tag = [0; TAG];
    let padded = [text, &[LAST]].concat();
    let encrypted = encrypt_aead(Cipher::aes_128_gcm(), &key, Some(&nonce), &[], &padded, &mut tag)?;
    // The key's length is 65, whatever the point.
    Ok([&salt[..], &RECORD_SIZE.to_be_bytes(), &[65], &ours, &encrypted, &tag].concat())
}

/// What both sides come to: the first coordinate of the point that one's number and the other's point make (SEC 1 section 3.3.1). OpenSSL's newer
/// interface does the same after it has converted and checked both keys, which costs half as much again.
fn agreed(receiver: &EcKey<Public>, sender: &EcKey<Private>) -> Result<Vec<u8>, ErrorStack> {
    let (group, mut context) = (group()?, BigNumContext::new()?);
    let (mut point, mut x, mut y) = (EcPoint::new(group)?, BigNum::new()?, BigNum::new()?);
    point.mul2(group, receiver.public_key(), sender.private_key(), &mut context)?;
    point.affine_coordinates(group, &mut x, &mut y, &mut context)?;
    x.to_vec_padded(32)
}

/// Content encryption key and nonce (RFC 8291 section 3.4). Every HKDF there yields at most 32 bytes, hence is one block: two HMACs.
fn keys(shared: &[u8], auth: &[u8], receiver: &[u8], sender: &[u8], salt: &[u8]) -> ([u8; 16], [u8; 12]) {
    let input = hkdf(auth, shared, &[b"WebPush: info\0", receiver, sender]);
    let [key, nonce] =
        [hkdf(salt, &input, &[b"Content-Encoding: aes128gcm\0"]), hkdf(salt, &input, &[b"Content-Encoding: nonce\0"])];
    (std::array::from_fn(|n| key[n]), std::array::from_fn(|n| nonce[n]))
}

/// HKDF-SHA-256 (RFC 5869) of up to 32 bytes.
fn hkdf(salt: &[u8], input: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let extracted = hmac_sha256(salt, &[input]);
    let mut expansion = info.to_vec();
    expansion.push(&[1]);
    hmac_sha256(&extracted, &expansion)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
    use openssl::{derive::Deriver, pkey::PKey, symm::decrypt_aead};
    use proptest::prelude::*;

    /// Salt, record size, length of the key and the key (RFC 8188 section 2.1).
    const HEADER: usize = 16 + 4 + 1 + 65;

    fn bytes(text: &str) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text).unwrap()
    }

    fn private_key(text: &str) -> EcKey<Private> {
        super::super::private_key(text).unwrap()
    }

    /// What a browser does: the way back, from its private key.
    pub(crate) fn decrypt(receiver: &EcKey<Private>, auth: &[u8], message: &[u8]) -> Option<Vec<u8>> {
        let (header, sealed) = message.split_at_checked(HEADER)?;
        assert_eq!((&header[16..20], header[20]), (&4096_u32.to_be_bytes()[..], 65));
        let (salt, ours) = (&header[..16], &header[21..]);
        let (browser, sender) = (PKey::from_ec_key(receiver.clone()).unwrap(), public_key(ours).ok()?);
        let sender = PKey::from_ec_key(sender).unwrap();
        let mut deriver = Deriver::new(&browser).unwrap();
        deriver.set_peer(&sender).unwrap();
        let theirs = point_bytes(receiver.public_key()).unwrap();
        let (key, nonce) = keys(&deriver.derive_to_vec().unwrap(), auth, &theirs, ours, salt);
        let (encrypted, tag) = sealed.split_at_checked(sealed.len().checked_sub(TAG)?)?;
        let mut text = decrypt_aead(Cipher::aes_128_gcm(), &key, Some(&nonce), &[], encrypted, tag).ok()?;
        assert_eq!(text.pop(), Some(LAST));
        Some(text)
    }

    /// RFC 8291 appendix A, and the message of its section 5.
    #[test]
    fn the_vector_of_the_rfc_byte_for_byte() {
        let receiver = bytes("BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4");
        let message = encrypt_with(
            &public_key(&receiver).unwrap(),
            &bytes("BTBZMqHH6r4Tts7J_aSIgg"),
            b"When I grow up, I want to be a watermelon",
            private_key("yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw"),
            bytes("DGv6ra1nlYgDCS1FRnbzlw").try_into().unwrap(),
        )
        .unwrap();
        let expected = "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN";
        assert_eq!(URL_SAFE_NO_PAD.encode(&message), expected);
        let browser = private_key("q1dXpw3UpT5VOmu_cf_v6ih07Aems3njxI-JWgLcM94");
        let text = decrypt(&browser, &bytes("BTBZMqHH6r4Tts7J_aSIgg"), &message).unwrap();
        assert_eq!(text, b"When I grow up, I want to be a watermelon");
    }

    #[test]
    fn a_point_off_the_curve_is_no_key() {
        let mut point = point_bytes(EcKey::generate(group().unwrap()).unwrap().public_key()).unwrap();
        point[64] ^= 1;
        assert!(public_key(&point).is_err());
        assert!(public_key(&[0]).is_err(), "the point at infinity");
        assert!(public_key(&[]).is_err());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_browser_reads_what_we_encrypt(text in prop::collection::vec(any::<u8>(), 0..4000), auth in any::<[u8; 16]>(), flip in any::<prop::sample::Index>()) {
            let browser = EcKey::generate(group().unwrap()).unwrap();
            let public = public_key(&point_bytes(browser.public_key()).unwrap()).unwrap();
            let mut message = encrypt(&public, &auth, &text).unwrap();
            prop_assert_eq!(message.len(), HEADER + text.len() + 1 + TAG);
            prop_assert_eq!(decrypt(&browser, &auth, &message), Some(text));
            let at = HEADER + flip.index(message.len() - HEADER);
            message[at] ^= 1;
            prop_assert_eq!(decrypt(&browser, &auth, &message), None);
        }
    }
}
