//! One SMTP connection: the client's side of RFC 5321, with the envelope pipelined where the server offers it (RFC 2920).
//! Knows nothing of pools or of what a refusal means.

use super::{
    Security, Server,
    letter::{self, Letter},
    reply::{Reply, Stage},
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::{Buf as _, BytesMut};
use futures::FutureExt as _;
use secrecy::ExposeSecret as _;
use std::{error::Error, fmt, io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

/// How long a farewell may take: nothing hangs on it.
const FAREWELL: Duration = Duration::from_secs(1);

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// Why a step of the dialogue failed, and at which one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The server said no.
    Refused(Stage, Reply),
    /// The connection broke, timed out, or speaks something else.
    Broken(Stage, String),
    /// We will not go on with this server as we are configured.
    Unfit(Stage, &'static str),
}

impl Fault {
    /// Before MAIL was answered, nothing of a message was said: on a connection that had been idle this is how its end shows
    /// (closed, or 421), and it is safe to begin again on another.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Broken(stage, _) => *stage == Stage::Mail,
            Self::Refused(stage, reply) => *stage == Stage::Mail && reply.code == 421,
            Self::Unfit(..) => false,
        }
    }
}

/// What the server offers (EHLO keywords).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Features {
    pipelining: bool,
    starttls: bool,
    smtputf8: bool,
    dsn: bool,
    auth_plain: bool,
    auth_login: bool,
}

impl Features {
    fn of(reply: &Reply) -> Self {
        let mut features = Self::default();
        for line in reply.text.lines().skip(1) {
            let mut words = line.split([' ', '=']).map(str::to_ascii_uppercase);
            match words.next().as_deref() {
                Some("PIPELINING") => features.pipelining = true,
                Some("STARTTLS") => features.starttls = true,
                Some("SMTPUTF8") => features.smtputf8 = true,
                Some("DSN") => features.dsn = true,
                Some("AUTH") => {
                    for mechanism in words {
                        features.auth_plain |= mechanism == "PLAIN";
                        features.auth_login |= mechanism == "LOGIN";
                    }
                }
                _ => {}
            }
        }
        features
    }
}

/// A connection past EHLO, TLS and AUTH, between two transactions.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// Read, not yet understood.
    buffer: BytesMut,
    features: Features,
    stage: Stage,
    /// Messages it has carried, taken or refused.
    pub(super) carried: u32,
    /// When it was last put aside.
    pub(super) idle_since: Instant,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("features", &self.features)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Connects, greets, secures, authenticates.
    pub(super) async fn open(server: &Server, deadline: Instant) -> Result<Self, Fault> {
        let tcp = match timeout_at(deadline, TcpStream::connect((server.host.as_str(), server.port))).await {
            Ok(Ok(tcp)) => tcp,
            Ok(Err(error)) => return Err(Fault::Broken(Stage::Connect, error.to_string())),
            Err(_) => return Err(timed_out(Stage::Connect)),
        };
        // With Nagle's algorithm each message would wait for the server's delayed acknowledgement, 40 ms on Linux.
        tcp.set_nodelay(true).map_err(|error| Fault::Broken(Stage::Connect, error.to_string()))?;
        let mut this = Self {
            stream: Box::new(tcp),
            buffer: BytesMut::with_capacity(1024),
            features: Features::default(),
            stage: Stage::Connect,
            carried: 0,
            idle_since: Instant::now(),
        };
        match timeout_at(deadline, this.introduce(server)).await {
            Ok(done) => done.map(|()| this),
            Err(_) => Err(timed_out(this.stage)),
        }
    }

    async fn introduce(&mut self, server: &Server) -> Result<(), Fault> {
        if server.security == Security::Implicit {
            self.secure(server).await?;
        }
        self.stage = Stage::Greeting;
        self.accepted().await?;
        self.hello(server).await?;
        if server.security == Security::Starttls {
            if !self.features.starttls {
                return Err(Fault::Unfit(
                    Stage::Tls,
                    "the server offers no STARTTLS: set `security` to implicit or none",
                ));
            }
            self.command(Stage::Tls, "STARTTLS\r\n").await?;
            if !self.buffer.is_empty() {
                // What came before the handshake may have been slipped in by somebody in between.
                return Err(Fault::Broken(Stage::Tls, "words before the handshake".into()));
            }
            self.secure(server).await?;
            self.hello(server).await?;
        }
        self.authenticate(server).await
    }

    async fn secure(&mut self, server: &Server) -> Result<(), Fault> {
        self.stage = Stage::Tls;
        let plain = std::mem::replace(&mut self.stream, Box::new(tokio::io::empty()));
        match server.tls.connect(&server.host, plain).await {
            Ok(stream) => {
                self.stream = Box::new(stream);
                Ok(())
            }
            Err(error) if is_network(&error) => Err(Fault::Broken(Stage::Tls, error.to_string())),
            Err(error) => {
                tracing::debug!(%error, "TLS handshake with the SMTP server failed");
                Err(Fault::Unfit(
                    Stage::Tls,
                    "TLS handshake failed: check `host` against the certificate, `security` and `ca_file`",
                ))
            }
        }
    }

    async fn hello(&mut self, server: &Server) -> Result<(), Fault> {
        let reply = self.command(Stage::Hello, &format!("EHLO {}\r\n", server.hello)).await?;
        self.features = Features::of(&reply);
        Ok(())
    }

    /// RFC 4954 with PLAIN (RFC 4616), or LOGIN where a server knows nothing else.
    async fn authenticate(&mut self, server: &Server) -> Result<(), Fault> {
        let Some((username, password)) = &server.credentials else { return Ok(()) };
        let password = password.expose_secret();
        if self.features.auth_plain {
            let token = BASE64.encode(format!("\0{username}\0{password}"));
            self.command(Stage::Auth, &format!("AUTH PLAIN {token}\r\n")).await?;
        } else if self.features.auth_login {
            self.stage = Stage::Auth;
            for line in ["AUTH LOGIN".to_owned(), BASE64.encode(username)] {
                self.write(format!("{line}\r\n").as_bytes()).await?;
                let reply = self.read().await?;
                if reply.code != 334 {
                    return Err(Fault::Refused(Stage::Auth, reply));
                }
            }
            self.command(Stage::Auth, &format!("{}\r\n", BASE64.encode(password))).await?;
        } else {
            let why =
                "the server offers neither AUTH PLAIN nor LOGIN: check `security`, or drop `username` and `password`";
            return Err(Fault::Unfit(Stage::Auth, why));
        }
        Ok(())
    }

    /// Sends one letter; returns the server's acceptance. After a fault see [`Connection::recover`].
    pub(super) async fn deliver(&mut self, letter: &Letter, deadline: Instant) -> Result<Reply, Fault> {
        self.carried += 1;
        match timeout_at(deadline, self.transact(letter)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(timed_out(self.stage)),
        }
    }

    async fn transact(&mut self, letter: &Letter) -> Result<Reply, Fault> {
        self.stage = Stage::Mail;
        let international = letter.is_international();
        if international && !self.features.smtputf8 {
            return Err(Fault::Unfit(Stage::Mail, "the server takes no international addresses (SMTPUTF8)"));
        }
        let parameters = if international { " BODY=8BITMIME SMTPUTF8" } else { "" };
        // What we want to hear of it (RFC 3461): said only where it is understood.
        let (envelope, notify) = match &letter.wishes {
            Some(wishes) if self.features.dsn => (wishes.of_message.as_str(), wishes.of_recipient.as_str()),
            _ => ("", ""),
        };
        let mail = format!("MAIL FROM:<{}>{parameters}{envelope}\r\n", letter.from);
        let recipient = format!("RCPT TO:<{}>{notify}\r\n", letter.to);
        if self.features.pipelining {
            self.write(format!("{mail}{recipient}DATA\r\n").as_bytes()).await?;
            self.envelope().await?;
        } else {
            self.command(Stage::Mail, &mail).await?;
            self.command(Stage::Recipient, &recipient).await?;
            self.command(Stage::Data, "DATA\r\n").await?;
        }
        self.stage = Stage::Content;
        // One write for all, so that the dot does not travel alone. The kernel has the dot only when this returns.
        self.write(&letter::dotted(&letter.content)).await?;
        self.stage = Stage::End;
        self.accepted().await
    }

    /// Reads the replies to a pipelined MAIL, RCPT, DATA. All of them must be read, whatever the first says (RFC 2920 section 3.1).
    async fn envelope(&mut self) -> Result<(), Fault> {
        let mut refused = None;
        for stage in [Stage::Mail, Stage::Recipient, Stage::Data] {
            self.stage = stage;
            let reply = match self.read().await {
                Ok(reply) => reply,
                Err(broken) => return Err(refused.unwrap_or(broken)),
            };
            match (&refused, stage.accepts(reply.code)) {
                (None, true) => {}
                (None, false) if reply.code == 421 => return Err(Fault::Refused(stage, reply)),
                (None, false) => refused = Some(Fault::Refused(stage, reply)),
                // DATA was accepted though nobody was: a lone dot ends it. The server has no recipient to send nothing to.
                (Some(_), true) if stage == Stage::Data => self.lone_dot().await?,
                // A recipient was accepted though the sender was not: nothing may follow on this connection.
                (Some(_), true) => return Err(Fault::Broken(stage, "replies out of step".into())),
                (Some(_), false) => {}
            }
        }
        refused.map_or(Ok(()), Err)
    }

    async fn lone_dot(&mut self) -> Result<(), Fault> {
        self.stage = Stage::Aside;
        self.write(b".\r\n").await?;
        self.read().await.map(drop)
    }

    /// Makes the connection good for another letter after `fault`; false where it is not to be had.
    pub(super) async fn recover(&mut self, fault: &Fault, deadline: Instant) -> bool {
        match fault {
            Fault::Refused(_, reply) if reply.code == 421 => false,
            // A reply that does not fit its stage: who knows what the next one belongs to.
            Fault::Refused(_, reply) if reply.code < 400 => false,
            Fault::Refused(..) => {
                matches!(timeout_at(deadline, self.command(Stage::Aside, "RSET\r\n")).await, Ok(Ok(_)))
                    && self.is_alive()
            }
            Fault::Unfit(Stage::Mail, _) => true,
            Fault::Broken(..) | Fault::Unfit(..) => false,
        }
    }

    /// Whether the server has neither closed nor said anything since. Costs no round trip.
    pub(super) fn is_alive(&mut self) -> bool {
        let mut byte = [0_u8];
        self.buffer.is_empty() && self.stream.read(&mut byte).now_or_never().is_none()
    }

    /// QUIT, without waiting for the answer.
    pub(super) async fn close(mut self) {
        self.stage = Stage::Aside;
        let said = timeout(FAREWELL, async {
            self.write(b"QUIT\r\n").await.ok();
            self.stream.shutdown().await.ok();
        });
        if said.await.is_err() {
            tracing::debug!("SMTP server did not take QUIT");
        }
    }

    async fn command(&mut self, stage: Stage, line: &str) -> Result<Reply, Fault> {
        self.stage = stage;
        self.write(line.as_bytes()).await?;
        self.accepted().await
    }

    async fn accepted(&mut self) -> Result<Reply, Fault> {
        let reply = self.read().await?;
        if self.stage.accepts(reply.code) { Ok(reply) } else { Err(Fault::Refused(self.stage, reply)) }
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        written.await.map_err(|error| self.broken(&error))
    }

    async fn read(&mut self) -> Result<Reply, Fault> {
        loop {
            match Reply::parse(&self.buffer) {
                Ok(Some((reply, length))) => {
                    self.buffer.advance(length);
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(error) => return Err(Fault::Broken(self.stage, error.to_string())),
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err(Fault::Broken(self.stage, "the server closed the connection".into())),
                Ok(_) => {}
                Err(error) => return Err(self.broken(&error)),
            }
        }
    }

    fn broken(&self, error: &io::Error) -> Fault {
        Fault::Broken(self.stage, error.to_string())
    }
}

fn timed_out(stage: Stage) -> Fault {
    Fault::Broken(stage, "no answer in time (`timeout_seconds`)".into())
}

/// Whether a handshake failed by the network, and not by what was said.
fn is_network(error: &tokio_native_tls::native_tls::Error) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if error.is::<io::Error>() {
            return true;
        }
        cause = error.source();
    }
    false
}
