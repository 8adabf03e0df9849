//! What an SMTP server says may be any bytes: a reply of the same length however much follows it, and words without addresses and line breaks.
#![no_main]

use bellwether_connectors::channels::smtp::{Reply, Stage, classify};
use libfuzzer_sys::fuzz_target;

const STAGES: [Stage; 11] = [
    Stage::Connect,
    Stage::Greeting,
    Stage::Hello,
    Stage::Tls,
    Stage::Auth,
    Stage::Mail,
    Stage::Recipient,
    Stage::Data,
    Stage::Content,
    Stage::End,
    Stage::Aside,
];

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((reply, used))) = Reply::parse(rest) {
        assert!((1..=rest.len()).contains(&used));
        assert_eq!(Reply::parse(&rest[..used]), Ok(Some((reply.clone(), used))));
        assert_eq!(Reply::parse(&rest[..used - 1]), Ok(None), "it was not complete before");
        assert!((200..=599).contains(&reply.code));
        assert!(reply.queue_id().is_none_or(|id| !id.is_empty() && !id.contains('\n')));
        for stage in STAGES {
            let detail = classify(stage, &reply).detail;
            assert!(!detail.contains(['\n', '@']), "{detail}");
        }
        rest = &rest[used..];
    }
});
