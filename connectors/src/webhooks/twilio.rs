//! Twilio's callbacks: the signature, what a status says as a receipt, and what a member says. Pure.
//! Sources: <https://www.twilio.com/docs/usage/security#validating-requests>,
//! <https://www.twilio.com/docs/messaging/guides/outbound-message-status-in-status-callbacks>,
//! <https://www.twilio.com/docs/messaging/guides/webhook-request>.

use super::{
    WebhookError,
    inbound::{Inbound, Keyword},
};
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
        Some(ErrorKind::InvalidAddress | ErrorKind::Unreachable) => Some(needed(form, "To")?.to_owned()),
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

/// Reads a verified callback of an incoming text message. With Advanced Opt-Out Twilio says itself what a word means, in whatever language
/// it was taught; without, the whole text decides ([`Keyword::of`]). Twilio does not say when it came.
///
/// # Errors
/// A field is missing, or the sender has no phone number; named.
pub fn inbound(form: &Params, now: Timestamp) -> Result<Inbound, WebhookError> {
    let (from, id) = (needed(form, "From")?, needed(form, "MessageSid")?);
    // Twilio's WhatsApp senders say `whatsapp:+…`.
    if !from.strip_prefix('+').unwrap_or(from).bytes().all(|b| b.is_ascii_digit()) {
        return Err(WebhookError::Invalid { field: "From", problem: "is no phone number".into() });
    }
    // A picture may come without words.
    let text = find(form, "Body").unwrap_or_default();
    let keyword = match find(form, "OptOutType") {
        Some("STOP") => Some(Keyword::Stop),
        Some("START") => Some(Keyword::Start),
        Some("HELP") => Some(Keyword::Help),
        _ => Keyword::of(text),
    };
    Ok(Inbound { channel: Channel::Sms, from: from.into(), at: now, text: text.into(), keyword, id: id.into() })
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use bellwether_schemas::{DeliveryId, NotificationId};
    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp(1_767_323_045_678);

    fn params(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn reference() -> Reference {
        Reference {
            delivery: DeliveryId::default(),
            notification: NotificationId::default(),
            project: "shop".into(),
            member: "m1".into(),
            template: "order".into(),
            provider: "sms".into(),
        }
    }

    fn query() -> Vec<(String, String)> {
        params(&[("r", &reference().to_token()), ("n", "2")])
    }

    fn form(status: &str, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut form =
            params(&[("MessageSid", "SM1"), ("MessageStatus", status), ("To", "+15550001111"), ("Novel", "x")]);
        form.extend(params(more));
        form
    }

    /// The example of Twilio's security page.
    #[test]
    fn the_published_signature_verifies_and_no_other() {
        let url = "https://mycompany.com/myapp.php?foo=1&bar=2";
        let signature = "RSOYDt4T1cUTdK1PDd93/VVr8B8=";
        let mut form = params(&[
            ("Digits", "1234"),
            ("To", "+18005551212"),
            ("From", "+14158675309"),
            ("Caller", "+14158675309"),
            ("CallSid", "CA1234567890ABCDE"),
        ]);
        assert_eq!(verify("12345", url, &form, signature), Ok(()));
        form.reverse();
        assert_eq!(verify("12345", url, &form, signature), Ok(()), "order does not matter");
        let refused = Err(WebhookError::Signature);
        assert_eq!(verify("12346", url, &form, signature), refused);
        assert_eq!(verify("12345", "https://mycompany.com/myapp.php?foo=1", &form, signature), refused);
        assert_eq!(verify("12345", url, &form[1..], signature), refused);
        for bad in ["", "AAAA", "RSOYDt4T1cUTdK1PDd93/VVr8B9=", "not base64!", "RSOYDt4T1cUTdK1PDd93/VVr8A=="] {
            assert_eq!(verify("12345", url, &form, bad), refused, "{bad}");
        }
        form.push(("New".into(), "1".into()));
        assert_eq!(verify("12345", url, &form, signature), refused, "a parameter more");
    }

    #[test]
    fn a_delivery_becomes_a_receipt() {
        let receipt = receipt(&query(), &form("delivered", &[]), NOW).unwrap().unwrap();
        let expected = Receipt {
            delivery: reference().delivery,
            notification: reference().notification,
            project: "shop".into(),
            member: "m1".into(),
            template: "order".into(),
            channel: Channel::Sms,
            kind: ReceiptKind::Delivered,
            at: NOW,
            attempt: 2,
            provider: "sms".into(),
            provider_id: Some("SM1".into()),
            error: None,
            detail: None,
            address: None,
        };
        assert_eq!(receipt, expected);
    }

    #[test]
    fn every_status_has_its_meaning() {
        for early in ["accepted", "scheduled", "queued", "sending", "sent"] {
            assert_eq!(receipt(&query(), &form(early, &[]), NOW), Ok(None), "{early}");
        }
        for (status, code, kind, words, address) in [
            (
                "undelivered",
                "30006",
                ErrorKind::InvalidAddress,
                "30006: landline or unreachable carrier",
                Some("+15550001111"),
            ),
            ("failed", "30005", ErrorKind::InvalidAddress, "30005: unknown destination", Some("+15550001111")),
            ("undelivered", "30003", ErrorKind::Unreachable, "30003: handset unreachable", Some("+15550001111")),
            ("failed", "21610", ErrorKind::OptedOut, "21610: recipient has unsubscribed", None),
            ("failed", "39999", ErrorKind::Rejected, "39999: unknown code", None),
            ("failed", "", ErrorKind::Rejected, "no error code", None),
        ] {
            let receipt = receipt(&query(), &form(status, &[("ErrorCode", code)]), NOW).unwrap().unwrap();
            assert_eq!(
                (receipt.kind, receipt.error, receipt.detail.as_deref(), receipt.address.as_deref()),
                (ReceiptKind::Failed, Some(kind), Some(words), address),
                "{status} {code}"
            );
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let good = form("delivered", &[]);
        let without = |from: &Params, name: &str| from.iter().filter(|(n, _)| n != name).cloned().collect::<Vec<_>>();
        for (query, form, field) in [
            (without(&query(), "r"), good.clone(), "r"),
            (without(&query(), "n"), good.clone(), "n"),
            (query(), without(&good, "MessageSid"), "MessageSid"),
            (query(), without(&good, "MessageStatus"), "MessageStatus"),
            (query(), without(&self::form("failed", &[("ErrorCode", "21211")]), "To"), "To"),
        ] {
            assert_eq!(receipt(&query, &form, NOW), Err(WebhookError::Missing(field)));
        }
        for (query, form, field) in [
            (params(&[("r", "xxx"), ("n", "1")]), good.clone(), "r"),
            (params(&[("r", &reference().to_token()), ("n", "0")]), good.clone(), "n"),
            (params(&[("r", &reference().to_token()), ("n", "99999999999")]), good, "n"),
            (query(), self::form("teleported", &[]), "MessageStatus"),
            (query(), self::form("failed", &[("ErrorCode", "-1")]), "ErrorCode"),
        ] {
            let error = receipt(&query, &form, NOW).unwrap_err();
            assert!(matches!(&error, WebhookError::Invalid { field: named, .. } if *named == field), "{error}");
        }
    }

    #[test]
    fn a_text_of_a_members_is_read_and_twilios_word_on_it_goes_first() {
        let form = |body: &str, kind: &str| {
            params(&[
                ("From", "+15550001111"),
                ("Body", body),
                ("MessageSid", "SM2"),
                ("OptOutType", kind),
                ("Novel", "x"),
            ])
        };
        for (body, kind, keyword) in [
            ("Hi", "", None),
            ("Stop!", "", Some(Keyword::Stop)),
            ("arrêt", "STOP", Some(Keyword::Stop)),
            ("YES", "START", Some(Keyword::Start)),
            ("YES", "", None),
            ("?", "HELP", Some(Keyword::Help)),
            ("stop", "NEW", Some(Keyword::Stop)),
            ("", "", None),
        ] {
            let expected = Inbound {
                channel: Channel::Sms,
                from: "+15550001111".into(),
                at: NOW,
                text: body.into(),
                keyword,
                id: "SM2".into(),
            };
            assert_eq!(inbound(&form(body, kind), NOW), Ok(expected));
        }
        assert_eq!(inbound(&form("Hi", "")[1..], NOW), Err(WebhookError::Missing("From")));
        let foreign = params(&[("From", "whatsapp:+15550001111"), ("MessageSid", "SM2")]);
        assert!(matches!(inbound(&foreign, NOW), Err(WebhookError::Invalid { field: "From", .. })));
    }

    proptest! {
        #[test]
        fn no_callback_makes_us_panic(
            status in "delivered|failed|[a-z]{0,9}", code in any::<String>(), n in any::<String>(), extra in any::<(String, String)>(),
        ) {
            let query = params(&[("r", &reference().to_token()), ("n", &n)]);
            let mut form = form(&status, &[("ErrorCode", &code)]);
            form.push(extra);
            receipt(&query, &form, NOW).ok();
            receipt(&self::query(), &form, NOW).ok();
            inbound(&params(&[("From", &code), ("Body", &n), ("MessageSid", &status)]), NOW).ok();
            verify(&code, &status, &form, &n).ok();
        }
    }
}
