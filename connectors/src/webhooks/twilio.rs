//! Twilio's status callbacks: the signature, and what a status says as a receipt. Pure.
//! Sources: <https://www.twilio.com/docs/usage/security#validating-requests>,
//! <https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks>.

use super::WebhookError;
use crate::channels::{
    Reference,
    twilio::{ATTEMPT, REFERENCE, kind_of, words_of},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bellwether_schemas::{
    Channel, Timestamp,
    records::{ErrorKind, Receipt, ReceiptKind},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::Sha1;

/// Header with the signature.
pub const SIGNATURE_HEADER: &str = "X-Twilio-Signature";

/// Names and decoded values, of a query or a form, in any order.
pub type Params = [(String, String)];

/// Checks that whoever knows the auth token sent this request: base64 of HMAC-SHA1 over the URL as Twilio was given it, query and
/// all, and every form parameter, sorted, name and value run together. The comparison takes constant time.
///
/// # Errors
/// [`WebhookError::Signature`].
pub fn verify(auth_token: &str, url: &str, params: &Params, signature: &str) -> Result<(), WebhookError> {
    let signature = BASE64.decode(signature).map_err(|_| WebhookError::Signature)?;
    let mut mac = Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()).map_err(|_| WebhookError::Signature)?;
    mac.update(url.as_bytes());
    let mut sorted: Vec<_> = params.iter().collect();
    sorted.sort();
    // As Twilio's own libraries do: the same value of the same name counts once.
    sorted.dedup();
    for (name, value) in sorted {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    mac.verify_slice(&signature).map_err(|_| WebhookError::Signature)
}

/// Reads a verified status callback: `query` of the URL that we had given, `form` from Twilio. `None` where it says nothing new:
/// what is before the carrier, and the carrier's `sent`, because we have our own from the moment Twilio took the message.
/// Parameters that we do not know are fine; Twilio adds some without notice.
///
/// # Errors
/// A field is missing or has an unknown value; named.
pub fn receipt(query: &Params, form: &Params, now: Timestamp) -> Result<Option<Receipt>, WebhookError> {
    let reference = Reference::from_token(needed(query, REFERENCE)?)
        .map_err(|error| WebhookError::Invalid { field: REFERENCE, problem: error.to_string() })?;
    let attempt = number(ATTEMPT, needed(query, ATTEMPT)?)?;
    let sid = needed(form, "MessageSid")?;
    let (kind, error, detail) = match needed(form, "MessageStatus")? {
        "accepted" | "scheduled" | "queued" | "sending" | "sent" => return Ok(None),
        "delivered" | "read" => (ReceiptKind::Delivered, None, None),
        "undelivered" | "failed" | "canceled" => {
            let (error, detail) = failure(form)?;
            (ReceiptKind::Failed, Some(error), Some(detail))
        }
        _ => return Err(WebhookError::Invalid { field: "MessageStatus", problem: "is no known status".into() }),
    };
    // The address matters only where the receipt acts on it.
    let address = match error {
        Some(ErrorKind::InvalidAddress) => Some(needed(form, "To")?.to_owned()),
        _ => None,
    };
    Ok(Some(Receipt {
        delivery: reference.delivery,
        notification: reference.notification,
        project: reference.project,
        member: reference.member,
        template: reference.template,
        channel: Channel::Sms,
        kind,
        at: now,
        attempt,
        provider: reference.provider,
        provider_id: Some(sid.to_owned()),
        error,
        detail,
        address,
    }))
}

/// A failure without a code, or with one that we do not know, says nothing against the address.
fn failure(form: &Params) -> Result<(ErrorKind, String), WebhookError> {
    let Some(code) = find(form, "ErrorCode") else { return Ok((ErrorKind::Rejected, "no error code".into())) };
    let code = number("ErrorCode", code)?;
    let kind = kind_of(code).map_or(ErrorKind::Rejected, |(kind, _)| kind);
    Ok((kind, format!("{code}: {}", words_of(code, find(form, "ErrorMessage")))))
}

fn find<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.as_str())
}

fn needed<'a>(params: &'a Params, name: &'static str) -> Result<&'a str, WebhookError> {
    find(params, name).ok_or(WebhookError::Missing(name))
}

fn number<N: std::str::FromStr + PartialOrd + From<u8>>(field: &'static str, text: &str) -> Result<N, WebhookError> {
    text.parse()
        .ok()
        .filter(|n| *n >= N::from(1))
        .ok_or_else(|| WebhookError::Invalid { field, problem: "is no number from 1 on".into() })
}
