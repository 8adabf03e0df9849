//! The receiver's side of its TCP connections: accept, read, let the session obey, write, wait. What is answered is decided in
//! [`super::session`] and by [`super::Shared::judge`].

use super::{
    Shared, Verdict,
    session::{Session, Step},
    text,
};
use bytes::{Buf, BytesMut};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Bytes of a command line, its line end included: RFC 5321 section 4.5.3.1.4 (512) and what extensions add.
const MAX_COMMAND_BYTES: usize = 2048;
/// Room that a read finds at least.
const READ_BYTES: usize = 8 * 1024;

pub(super) async fn accept(listener: TcpListener, shared: Arc<Shared>, stop: CancellationToken) {
    let slots = Arc::new(Semaphore::new(shared.options.max_connections));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, most likely: accepting again at once would spin.
            sleep(Duration::from_millis(20)).await;
            continue;
        };
        shared.ledger.update(|state| state.received.connections += 1);
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            // Whether this reaches a client that is turned away does not matter.
            drop(stream.try_write(b"421 4.3.2 Too many connections, try again later\r\n"));
            continue;
        };
        let (shared, stop) = (Arc::clone(&shared), stop.clone());
        tokio::spawn(async move {
            // A client that breaks the connection is its own affair; what it said before was counted.
            drop(stop.run_until_cancelled(converse(stream, &shared)).await);
            drop(slot);
        });
    }
}

/// One client's connection.
struct Connection<'s> {
    shared: &'s Shared,
    session: Session<'s>,
    input: BytesMut,
    output: Vec<u8>,
    /// What the bytes at the start of `input` are.
    reading: Reading,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Command,
    /// Rest of a command line that is too long.
    LongCommand,
    /// A message, and how many of its bytes have been searched for the end.
    Data {
        searched: usize,
    },
    /// Rest of a message that is too large.
    LargeData,
}

/// Why a connection stopped obeying.
enum Pause {
    /// More bytes are needed.
    Input,
    /// The answer is to come late.
    AnswerLate(String),
    /// There will be no answer.
    Hold,
    Close,
}

async fn converse(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection {
        shared,
        session: Session::new(&shared.options),
        input: BytesMut::with_capacity(READ_BYTES),
        output: b"220 receiver.localhost ESMTP\r\n".to_vec(),
        reading: Reading::Command,
    };
    let result = connection.run(&mut stream).await;
    shared.tally(&mut connection.session);
    result
}

impl Connection<'_> {
    async fn run(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        loop {
            let pause = self.obey();
            if !self.session.counted.refused.is_empty() {
                self.shared.tally(&mut self.session);
            }
            // All answers to what was pipelined leave in one write (RFC 2920 section 3.2).
            stream.write_all(&self.output).await?;
            self.output.clear();
            match pause {
                Pause::Input => {
                    self.input.reserve(READ_BYTES);
                    match timeout(self.shared.options.idle, stream.read_buf(&mut self.input)).await {
                        Ok(Ok(0)) => return Ok(()),
                        Ok(read) => {
                            read?;
                        }
                        Err(_) => return stream.write_all(b"421 4.4.2 Idle for too long\r\n").await,
                    }
                }
                Pause::AnswerLate(reply) => {
                    sleep(self.shared.options.slow).await;
                    self.output.extend_from_slice(reply.as_bytes());
                }
                Pause::Hold => return hold(stream, self.shared.options.silent).await,
                Pause::Close => return Ok(()),
            }
        }
    }

    /// Obeys what is in the input, as far as it is complete.
    fn obey(&mut self) -> Pause {
        loop {
            let done = match self.reading {
                Reading::Command | Reading::LongCommand => self.obey_command(),
                Reading::Data { .. } | Reading::LargeData => self.obey_data(),
            };
            if let Some(pause) = done {
                return pause;
            }
        }
    }

    fn obey_command(&mut self) -> Option<Pause> {
        let line_feed = self.input.iter().position(|b| *b == b'\n');
        if line_feed.unwrap_or(self.input.len()) >= MAX_COMMAND_BYTES && self.reading == Reading::Command {
            self.session.line_too_long(&mut self.output);
            self.reading = Reading::LongCommand;
        }
        let Some(line_feed) = line_feed else {
            if self.reading == Reading::LongCommand {
                self.input.clear();
            }
            return Some(Pause::Input);
        };
        if self.reading == Reading::LongCommand {
            self.reading = Reading::Command;
            self.input.advance(line_feed + 1);
            return None;
        }
        let line = self.input[..line_feed].strip_suffix(b"\r").unwrap_or(&self.input[..line_feed]);
        let step = self.session.command(line, || self.shared.admit(), &mut self.output);
        self.input.advance(line_feed + 1);
        match step {
            Step::Command => None,
            Step::Data => {
                self.reading = Reading::Data { searched: 0 };
                None
            }
            Step::Quit => Some(Pause::Close),
        }
    }

    fn obey_data(&mut self) -> Option<Pause> {
        let (searched, mut too_large) = match self.reading {
            Reading::Data { searched } => (searched, false),
            _ => (0, true),
        };
        // An empty message has its dot at once: the line end before it is that of the DATA command.
        let empty = searched == 0 && !too_large && self.input.starts_with(b".\r\n");
        let end =
            if empty { Some(text::End { message: 0, consumed: 3 }) } else { text::end_of_data(&self.input, searched) };
        too_large |= end.map_or(self.input.len(), |end| end.message) > self.shared.options.max_message_bytes;
        // The terminator may have begun in the last four bytes.
        let tail = self.input.len().saturating_sub(4);
        let Some(end) = end else {
            if too_large {
                self.input.advance(tail);
                self.reading = Reading::LargeData;
            } else {
                self.reading = Reading::Data { searched: tail };
            }
            return Some(Pause::Input);
        };
        self.reading = Reading::Command;
        let Some(envelope) = self.session.take_envelope() else { return Some(Pause::Close) };
        let verdict = self.shared.judge(&mut self.session, envelope, &self.input[..end.message], too_large);
        self.input.advance(end.consumed);
        match verdict {
            Verdict::Answer(reply) => {
                self.output.extend_from_slice(reply.as_bytes());
                None
            }
            Verdict::AnswerLate(reply) => Some(Pause::AnswerLate(reply)),
            Verdict::Hold => Some(Pause::Hold),
            Verdict::Close => Some(Pause::Close),
        }
    }
}

/// Says nothing until the client closes.
async fn hold(stream: &mut TcpStream, longest: Duration) -> io::Result<()> {
    let mut heard = [0; 256];
    let closed = async {
        while stream.read(&mut heard).await? > 0 {}
        io::Result::Ok(())
    };
    timeout(longest, closed).await.unwrap_or(Ok(()))
}
