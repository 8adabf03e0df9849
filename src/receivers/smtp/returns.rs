//! Returns what cannot be delivered, as a mail server does: a report (RFC 3464) with the message's own headers, from nobody, to the envelope's
//! sender. It is offered again while nobody takes it.

use super::Shared;
use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::mpsc,
    time::{sleep, timeout},
};

/// Messages that wait for their return.
pub(super) const QUEUE: usize = 1_000;
/// How long a return is offered; long enough for a server to be killed and restarted.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the other server has for one dialogue.
const DIALOGUE: Duration = Duration::from_secs(15);
/// Wait between two offers.
const BACKOFF: Duration = Duration::from_millis(200);

/// What became of returned messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Returns {
    /// Recipients whose message was returned, and the return taken.
    pub taken: BTreeSet<Arc<str>>,
    /// Given up.
    pub abandoned: u64,
    /// Still to be returned.
    pub pending: u64,
}

/// A message that will not arrive.
#[derive(Debug)]
pub(super) struct Undeliverable {
    pub(super) sender: String,
    pub(super) recipient: Arc<str>,
    /// Its headers.
    pub(super) head: Vec<u8>,
}

/// Returns what is queued, one after the other.
pub(super) async fn run(mut queue: mpsc::Receiver<Undeliverable>, shared: Arc<Shared>) {
    while let Some(undeliverable) = queue.recv().await {
        let start = Instant::now();
        let taken = loop {
            let server = *shared.return_to.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(server) = server else { break false };
            match timeout(DIALOGUE, offer(server, &undeliverable)).await {
                Ok(Ok(())) => break true,
                _ if start.elapsed() >= PATIENCE => break false,
                _ => sleep(BACKOFF).await,
            }
        };
        shared.ledger.update(|state| {
            let returns = &mut state.received.returns;
            returns.pending -= 1;
            if taken {
                returns.taken.insert(undeliverable.recipient);
            } else {
                returns.abandoned += 1;
            }
        });
    }
}

/// One dialogue (RFC 5321). A server that refuses is tried again like one that does not answer: patience ends both.
async fn offer(server: SocketAddr, Undeliverable { sender, recipient, head }: &Undeliverable) -> io::Result<()> {
    let report = format!(
        "From: MAILER-DAEMON@receiver.localhost\r\nTo: {sender}\r\nSubject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nNobody is there.\r\n\
         --b\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; receiver.localhost\r\n\r\nFinal-Recipient: rfc822; {recipient}\r\n\
         Action: failed\r\nStatus: 5.1.1\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--b\r\nContent-Type: text/rfc822-headers\r\n\r\n"
    );
    let report = [report.as_bytes(), head, b"\r\n--b--\r\n.\r\n"].concat();
    let (read, mut write) = TcpStream::connect(server).await?.into_split();
    let mut replies = BufReader::new(read).lines();
    for (say, hear) in [
        (&b""[..], "220"),
        (b"HELO receiver.localhost\r\n", "250"),
        (b"MAIL FROM:<>\r\n", "250"),
        (format!("RCPT TO:<{sender}>\r\n").as_bytes(), "250"),
        (b"DATA\r\n", "354"),
        (&report, "250"),
        (b"QUIT\r\n", "221"),
    ] {
        write.write_all(say).await?;
        let heard = replies.next_line().await?.unwrap_or_default();
        if !heard.starts_with(hear) {
            return Err(io::Error::other(heard));
        }
    }
    Ok(())
}
