//! A client of the mail listener may say anything, in pieces of any size: each command is answered by whole lines, nothing is relayed, and what is
//! kept is bounded and the same however it was cut.
#![no_main]

use async_trait::async_trait;
use bellwether_connectors::mail::{
    Handler, Incoming, NotKept,
    listener::{Config, Protocol, converse},
};
use libfuzzer_sys::fuzz_target;
use std::{
    sync::{LazyLock, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    runtime::{Builder, Runtime},
};

const KEPT: usize = 1000;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().expect("a runtime"));

#[derive(Default)]
struct Taken(Mutex<Vec<Incoming>>);

#[async_trait]
impl Handler for Taken {
    async fn take(&self, message: Incoming) -> Result<(), NotKept> {
        self.0.lock().expect("no panic before").push(message);
        Ok(())
    }
}

/// Says all of it and leaves; what was answered, and what was kept.
fn speak(config: &Config, said: &[u8], step: usize) -> (Vec<u8>, Vec<Incoming>) {
    let taken = Taken::default();
    let (client, server) = tokio::io::duplex(4096);
    let (mut read, mut write) = tokio::io::split(client);
    let mut heard = Vec::new();
    RUNTIME.block_on(async {
        let serve = async {
            // The client may be gone in the midst of anything.
            drop(converse(server, config, None, &taken).await);
        };
        let say = async {
            for piece in said.chunks(step) {
                if write.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            drop(write.shutdown().await);
        };
        let hear = async { read.read_to_end(&mut heard).await.expect("a pipe") };
        tokio::join!(serve, say, hear);
    });
    (heard, taken.0.into_inner().expect("no panic before"))
}

// The first byte chooses the protocol; the rest is what the client says.
fuzz_target!(|input: &[u8]| {
    let Some((which, said)) = input.split_first() else { return };
    let protocol = if which % 2 == 0 { Protocol::Smtp } else { Protocol::Lmtp };
    let idle = Duration::from_secs(5);
    let config =
        Config { protocol, keep_bytes: KEPT, max_message_bytes: 4 * KEPT, idle, ..Config::new(&["bounce.example"]) };
    let (heard, taken) = speak(&config, said, said.len().max(1));
    let heard = String::from_utf8(heard).expect("answers are ASCII");
    assert!(heard.starts_with("220 ") && heard.ends_with("\r\n"));
    for line in heard.split_terminator("\r\n") {
        let code = line.get(..3).and_then(|code| code.parse::<u16>().ok());
        assert!(code.is_some_and(|code| (200..600).contains(&code)) && line.len() < 512, "{line:?}");
    }
    for message in &taken {
        assert!(message.content.len() <= KEPT && (1..=100).contains(&message.recipients.len()));
        assert!(message.recipients.iter().all(|to| to.to_ascii_lowercase().ends_with("@bounce.example")));
    }
    assert_eq!(speak(&config, said, 3).1, taken);
});
