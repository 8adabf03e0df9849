//! A callback of Twilio's, about a message or with one, takes any query, form and signature: no stranger's signature fits, and what is read can
//! be put on the log.
#![no_main]

use axum::{
    Form,
    body::Body,
    extract::{FromRequest as _, Request},
};
use bellwether_connectors::{
    channels::{Reference, twilio::REFERENCE},
    webhooks::twilio::{inbound, receipt, verify},
};
use bellwether_schemas::{Timestamp, records::Record};
use futures::FutureExt as _;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600_000);
const URL: &str = "https://example.org/v1/webhooks/shop/sms";

/// As the API reads it.
fn form(body: &str) -> Option<Vec<(String, String)>> {
    let request = Request::post("/").header("content-type", "application/x-www-form-urlencoded");
    let request = request.body(Body::from(body.to_owned())).ok()?;
    Form::from_request(request, &()).now_or_never()?.map(|Form(form)| form).ok()
}

// An input is three lines: query, signature, form.
fuzz_target!(|input: &str| {
    let mut lines = input.splitn(3, '\n');
    let mut next = || lines.next().unwrap_or_default();
    let (query, signature, body) = (next(), next(), next());
    let Some((parameters, form)) = form(query).zip(form(body)) else { return };
    assert!(verify("a token that nobody knows", &format!("{URL}?{query}"), &form, signature).is_err());
    if let Ok(said) = inbound(&form, NOW) {
        assert!(
            said.from.strip_prefix('+').unwrap_or(&said.from).bytes().all(|b| b.is_ascii_digit())
                && !said.id.is_empty()
        );
    }
    if let Ok(Some(receipt)) = receipt(&parameters, &form, NOW) {
        let token = parameters.iter().find(|(name, value)| name == REFERENCE && !value.is_empty());
        let reference = Reference::from_token(&token.expect("a receipt has a reference").1).expect("it was read");
        assert_eq!(Reference::from_token(&reference.to_token()), Ok(reference));
        Record::Receipt(receipt).encode().expect("a receipt can be written");
    }
});
