//! A callback of Meta's takes any body, signature and query: no stranger's signature fits, and what is read can be put on the log.
#![no_main]

use bellwether_connectors::webhooks::whatsapp::{read, subscription, verify};
use bellwether_schemas::{Channel, Timestamp, records::Record};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600_000);

// An input is two lines, signature and challenge, and the body.
fuzz_target!(|input: &[u8]| {
    let mut lines = input.splitn(3, |byte| *byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (signature, challenge, body) = (next(), next(), next());
    let (signature, challenge) = (String::from_utf8_lossy(signature), String::from_utf8_lossy(challenge));
    assert!(verify("a secret that nobody knows", body, &signature).is_err());
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let asked =
        [pair("hub.mode", "subscribe"), pair("hub.verify_token", &signature), pair("hub.challenge", &challenge)];
    assert!(subscription("a word that nobody knows", &asked).is_err());
    let Ok(told) = read(body, NOW) else { return };
    for receipt in told.receipts {
        assert!(receipt.at <= NOW && receipt.attempt >= 1 && receipt.channel == Channel::Whatsapp);
        Record::Receipt(receipt).encode().expect("a receipt can be written");
    }
    for said in told.inbound {
        assert!(said.at <= NOW && said.from.starts_with('+') && said.from[1..].bytes().all(|b| b.is_ascii_digit()));
    }
});
