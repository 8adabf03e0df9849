//! A listener of ours for mail that comes back: SMTP, or LMTP behind a mail server. It takes mail for its own domains
//! only, sends none, and answers 250 when the handler says that the message is kept. What a message says is read
//! elsewhere ([`super::report`]).

use super::{
    Handler, Incoming,
    session::{Session, Step},
};
use bytes::BytesMut;
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_native_tls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Bytes of a command line, its line end included: RFC 5321 section 4.5.3.1.4 (512) and what extensions add.
const MAX_COMMAND_BYTES: usize = 2048;
/// Room that a read finds at least.
const READ_BYTES: usize = 8 * 1024;
/// Refused commands after which a client is turned away.
const MAX_REFUSED: u32 = 100;

/// What is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// From anywhere.
    Smtp,
    /// From a mail server beside us (RFC 2033); never on port 25.
    Lmtp,
}

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// What is spoken.
    pub protocol: Protocol,
    /// Our name in the greeting.
    pub hostname: String,
    /// Domains that mail is taken for: those of the return paths.
    pub domains: Vec<String>,
    /// Largest message in bytes, announced by SIZE. Bounces may return a letter whole.
    pub max_message_bytes: usize,
    /// Bytes of a message that are kept: all that matters comes before the returned letter's body.
    pub keep_bytes: usize,
    /// Connections at once; one more is answered 421 and closed.
    pub max_connections: usize,
    /// How long a connection may be idle (RFC 5321 section 4.5.3.2.7: 5 minutes), and how long the handler may take.
    pub idle: Duration,
    /// How long one connection may live, so that nobody holds one by a byte a minute.
    pub longest: Duration,
}

impl Config {
    /// SMTP for these domains, with the usual limits.
    #[must_use]
    pub fn new(domains: &[&str]) -> Self {
        Self {
            protocol: Protocol::Smtp,
            hostname: domains.first().copied().unwrap_or("localhost").to_owned(),
            domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
            max_message_bytes: 32 * 1024 * 1024,
            keep_bytes: 256 * 1024,
            max_connections: 100,
            idle: Duration::from_secs(300),
            longest: Duration::from_secs(3600),
        }
    }
}

/// Serves until `stop`. With `tls`, STARTTLS is offered, and plain text taken all the same: a bounce in clear is better
/// than none.
pub async fn serve(
    listener: TcpListener,
    config: Config,
    tls: Option<TlsAcceptor>,
    handler: Arc<dyn Handler>,
    stop: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(config.max_connections));
    let config = Arc::new(config);
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: accepting again at once would spin.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            // Whether this reaches a client that is turned away does not matter.
            drop(stream.try_write(b"421 4.3.2 Too many connections, try again later\r\n"));
            continue;
        };
        let (config, tls, handler, stop) = (Arc::clone(&config), tls.clone(), Arc::clone(&handler), stop.clone());
        tokio::spawn(async move {
            drop(stream.set_nodelay(true));
            let conversation = timeout(config.longest, converse(stream, &config, tls, &*handler));
            if let Some(Ok(Err(error))) = stop.run_until_cancelled(conversation).await {
                tracing::debug!(%error, "a connection for returned mail broke");
            }
            drop(slot);
        });
    }
}

/// Speaks with one client, over whatever carries bytes, until it leaves.
///
/// # Errors
/// The connection broke.
pub async fn converse<S: AsyncRead + AsyncWrite + Unpin + Send>(
    stream: S,
    config: &Config,
    tls: Option<TlsAcceptor>,
    handler: &dyn Handler,
) -> io::Result<()> {
    let protocol = if config.protocol == Protocol::Lmtp { "LMTP" } else { "ESMTP" };
    let greeting = format!("220 {} {protocol}\r\n", config.hostname);
    let session = Session::new(config, tls.is_some());
    let mut connection = Connection { stream, input: BytesMut::new(), session, config, handler };
    connection.stream.write_all(greeting.as_bytes()).await?;
    if !connection.run().await? {
        return Ok(());
    }
    let Some(tls) = tls else { return Ok(()) };
    // What came before the handshake may have been slipped in by somebody in between: it is dropped.
    let Connection { stream, mut session, .. } = connection;
    let Ok(handshake) = timeout(config.idle, tls.accept(stream)).await else { return Ok(()) };
    let stream = handshake.map_err(io::Error::other)?;
    session.secured();
    Connection { stream, input: BytesMut::new(), session, config, handler }.run().await.map(drop)
}

struct Connection<'c, S> {
    stream: S,
    /// Read, not yet understood.
    input: BytesMut,
    session: Session<'c>,
    config: &'c Config,
    handler: &'c dyn Handler,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    /// Obeys until the client leaves; true where it asked for TLS.
    async fn run(&mut self) -> io::Result<bool> {
        let mut replies = String::new();
        loop {
            // All answers to what was pipelined leave in one write (RFC 2920 section 3.2).
            let step = self.obey(&mut replies);
            self.stream.write_all(replies.as_bytes()).await?;
            self.stream.flush().await?;
            replies.clear();
            match step {
                Some(Step::Data) => {
                    let Some((content, size)) = self.message().await? else { return Ok(false) };
                    self.answer(content, size, &mut replies).await;
                }
                Some(Step::Tls) => return Ok(true),
                Some(Step::Quit) => return Ok(false),
                Some(Step::Command) | None if self.session.refused > MAX_REFUSED => {
                    self.stream.write_all(b"421 4.7.0 Too many errors\r\n").await?;
                    return Ok(false);
                }
                Some(Step::Command) | None => {
                    if !self.more().await? {
                        return Ok(false);
                    }
                }
            }
        }
    }

    /// Obeys the complete lines of the input, up to one that wants more than a reply, or to one refusal too many: where a client is cut off
    /// must not depend on how its bytes are.
    fn obey(&mut self, replies: &mut String) -> Option<Step> {
        while self.session.refused <= MAX_REFUSED
            && let Some(length) = memchr::memchr(b'\n', &self.input)
        {
            let line = self.input.split_to(length + 1);
            let line = line.trim_ascii_end();
            if length >= MAX_COMMAND_BYTES {
                self.session.line_too_long(replies);
                continue;
            }
            match self.session.command(line, replies) {
                Step::Command => {}
                step => return Some(step),
            }
        }
        if self.input.len() >= MAX_COMMAND_BYTES {
            // Of a line without end only the beginning is kept, until its end shows that it was too long.
            self.input.truncate(MAX_COMMAND_BYTES);
        }
        None
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> io::Result<bool> {
        self.input.reserve(READ_BYTES);
        match timeout(self.config.idle, self.stream.read_buf(&mut self.input)).await {
            Ok(read) => Ok(read? > 0),
            Err(_) => {
                self.stream.write_all(b"421 4.4.2 Idle for too long\r\n").await?;
                Ok(false)
            }
        }
    }

    /// Reads a message up to its final dot: what is kept of it, added dots taken away, and its whole size; `None` where
    /// it broke off. Lines end by CRLF only, so that no bare line feed smuggles a second message in.
    async fn message(&mut self) -> io::Result<Option<(Vec<u8>, usize)>> {
        let (mut kept, mut size, mut at_line_start) = (Vec::new(), 0_usize, true);
        loop {
            while let Some(end) = memchr::memmem::find(&self.input, b"\r\n") {
                let line = self.input.split_to(end + 2);
                let mut line = &line[..];
                if at_line_start {
                    if line == b".\r\n" {
                        return Ok(Some((kept, size)));
                    }
                    line = line.strip_prefix(b".").unwrap_or(line);
                }
                at_line_start = true;
                size += line.len();
                keep(&mut kept, line, self.config.keep_bytes);
            }
            // A line without end is taken in pieces; its last byte stays, because it may be the first of its line end.
            if self.input.len() > READ_BYTES {
                let piece = self.input.split_to(self.input.len() - 1);
                let mut piece = &piece[..];
                if at_line_start {
                    piece = piece.strip_prefix(b".").unwrap_or(piece);
                }
                at_line_start = false;
                size += piece.len();
                keep(&mut kept, piece, self.config.keep_bytes);
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// Hands a message over and answers: once, by LMTP once for each recipient (RFC 2033 section 4.2).
    async fn answer(&mut self, content: Vec<u8>, size: usize, replies: &mut String) {
        let recipients = self.session.take_recipients();
        let answers = if self.config.protocol == Protocol::Lmtp { recipients.len() } else { 1 };
        let answer = if size > self.config.max_message_bytes {
            "552 5.3.4 Message too large\r\n"
        } else {
            match timeout(self.config.idle, self.handler.take(Incoming { recipients, content })).await {
                Ok(Ok(())) => "250 2.0.0 Ok\r\n",
                Ok(Err(error)) => {
                    tracing::warn!(%error, "returned mail was not kept; its sender tries again");
                    "451 4.3.0 Not kept, try again later\r\n"
                }
                Err(_) => "451 4.3.0 Not kept in time, try again later\r\n",
            }
        };
        replies.push_str(&answer.repeat(answers));
    }
}

fn keep(kept: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let room = most.saturating_sub(kept.len()).min(bytes.len());
    kept.extend_from_slice(&bytes[..room]);
}
