//! A link of ours takes any token, what is sealed in one any bytes, and a text any HTML: no stranger's token opens, what is read is what was
//! written, and what has no link stays as it is.
#![no_main]

use bellwether_connectors::tracking::{
    Keys, Link, Purpose,
    html::{rewrite, rewrite_text, with_pixel},
};
use bellwether_schemas::{
    Timestamp,
    records::{ReceiptKind, Record},
};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static KEYS: LazyLock<Keys> = LazyLock::new(|| Keys::new("shop", "a secret that nobody knows", []).expect("a key"));

fuzz_target!(|bytes: &[u8]| {
    if let Some(link) = Link::from_bytes("shop", bytes) {
        assert_eq!(link.to_bytes().as_deref(), Some(bytes));
        for purpose in Purpose::ALL {
            if let Some(token) = KEYS.seal(purpose, &link) {
                assert_eq!(KEYS.open(purpose, &token).as_ref(), Ok(&link));
            }
        }
        Record::Receipt(link.receipt(ReceiptKind::Clicked, Timestamp(0))).encode().expect("a receipt can be written");
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for purpose in Purpose::ALL {
        assert!(KEYS.open(purpose, text).is_err());
    }
    if !text.to_ascii_lowercase().contains("data-track") {
        assert_eq!(rewrite(text, |_| None), text);
    }
    assert_eq!(rewrite_text(text, |_| None), text);
    // What is made of broken tags is read otherwise than they were, so that nothing can be said of it but that it ends and has its picture.
    let anew = rewrite(text, |target| Some(target.to_owned()));
    assert!(with_pixel(&anew, "https://l.example/o").contains("https://l.example/o"));
});
