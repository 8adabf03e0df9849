//! An update of Telegram's takes any bytes: what is read names chats by their numbers, and a link's payload is one word. A text that a bot would
//! send is balanced, within the limit, and the same when it is fitted again.
#![no_main]

use bellwether::inbound::{Heard, heard};
use bellwether_connectors::{
    channels::telegram::html,
    webhooks::telegram::{Event, read, verify},
};
use bellwether_schemas::Timestamp;
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600_000);

fuzz_target!(|body: &[u8]| {
    let text = String::from_utf8_lossy(body);
    assert!(verify("a word that nobody knows", &text).is_err());
    for limit in [7, 4096] {
        let fitted = html::fit(&text, limit);
        assert!(html::length(&fitted) <= limit);
        assert_eq!(html::fit(&fitted, limit), fitted);
    }
    let Ok(update) = read(body) else { return };
    let Some(event) = update.event else { return };
    if let Event::Linked { payload, .. } = &event {
        assert!(!payload.is_empty() && payload.trim() == payload);
    }
    let chats = match heard(event, NOW) {
        Heard::Said(said) => vec![said.from],
        Heard::Linked { address, .. } | Heard::Left { address, .. } | Heard::Returned { address, .. } => vec![address],
        Heard::Moved { from, to, .. } => vec![from, to],
    };
    assert!(chats.iter().all(|chat| chat.parse::<i64>().is_ok()));
});
