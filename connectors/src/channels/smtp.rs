//! E-mail by SMTP: `Config`, the pure [`Letterhead::request`] and [`classify`], and the thin call over a pool of
//! connections. Does not decide what is tried again, and never logs an address.
//!
//! Reading order: `letter` (what is sent), with `plain`, `files` and `dkim`; `reply` (what is answered, and what it
//! means), `connection` (the dialogue), `pool`. The dialogue is our own, because two things count that lettre's
//! transport does not give: to know at which step it broke (before the final dot nothing was sent, after it nobody
//! knows), and to put the envelope in one packet (RFC 2920).

mod connection;
mod dkim;
mod files;
mod letter;
mod plain;
mod pool;
mod reply;

pub use dkim::{Algorithm, Dkim};
pub use files::{File, FilesConfig};
pub use letter::{Letter, Letterhead, Wishes};
pub use plain::plain;
pub use reply::{NotAReply, Reply, Stage, classify};

use super::{Accepted, ConfigError, Content, Message, SendError, Sink};
use crate::{
    mail::origin::ReturnKey,
    secret::{Resolve as _, Secret},
};
use async_trait::async_trait;
use bellwether_schemas::{Channel, Timestamp, records::ErrorKind};
use connection::{Connection, Fault};
use files::Files;
use pool::Pool;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{Arc, Once},
    time::{Duration, SystemTime},
};
use tokio::time::Instant;
use tokio_native_tls::{TlsConnector, native_tls};

/// Connector's name in definitions.
pub const KIND: &str = "smtp";
const SECONDS: std::ops::RangeInclusive<u64> = 1..=3600;

/// Settings of an SMTP provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name or address of the server; with TLS its certificate must carry it.
    pub host: String,
    /// Port: 587 (submission) unless said otherwise.
    #[serde(default = "default_port")]
    pub port: u16,
    /// TLS; absent means implicit on port 465, STARTTLS elsewhere.
    #[serde(default)]
    pub security: Option<Security>,
    /// PEM file of a certificate authority to trust beside the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// User, together with `password`.
    #[serde(default)]
    pub username: Option<String>,
    /// Where its password is to be had.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Sender's address, in the envelope and in the From header.
    pub from_address: String,
    /// Sender's name in the From header.
    #[serde(default)]
    pub from_name: Option<String>,
    /// Where answers go, if not to the sender.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// Domain of our Message-IDs, and our name in EHLO; absent means the sender's domain.
    #[serde(default)]
    pub domain: Option<String>,
    /// Seconds for one message, connecting included.
    #[serde(default = "default_timeout")]
    pub timeout_seconds: u64,
    /// Connections.
    #[serde(default)]
    pub pool: PoolConfig,
    /// Signatures; none leaves them to the server.
    #[serde(default)]
    pub dkim: Vec<Dkim>,
    /// Domain of the return path (VERP), whose mail must reach our listener or maildir ([`crate::mail`]); absent means
    /// the sender's address. For SPF it must name the servers that send for us, and to be aligned with the sender's
    /// domain for DMARC be below it.
    #[serde(default)]
    pub return_path_domain: Option<String>,
    /// Where the key is to be had that marks letters, so that nobody makes a bounce up; goes with `return_path_domain`.
    #[serde(default)]
    pub return_path_key: Option<Secret>,
    /// Asks servers on the way to report arrival too, where they can (NOTIFY=SUCCESS, RFC 3461): a message back for
    /// each letter.
    #[serde(default)]
    pub delivery_reports: bool,
    /// Also lets members unsubscribe by mail to the return path's domain, beside the link.
    #[serde(default)]
    pub unsubscribe_by_mail: bool,
    /// Our name in `Feedback-ID: TEMPLATE:PROJECT:LANE:NAME`, by which Gmail counts complaints: 5 to 15 letters or
    /// digits, always the same.
    #[serde(default)]
    pub feedback_id: Option<String>,
    /// Writes a text part from the HTML where a message has none.
    #[serde(default = "yes")]
    pub derive_text: bool,
    /// Attachments.
    #[serde(default)]
    pub files: FilesConfig,
}

/// TLS on an SMTP connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Security {
    /// None: for a relay on this machine or in a network that you trust.
    None,
    /// In clear first, then STARTTLS; refused where the server does not offer it (RFC 3207).
    Starttls,
    /// From the first byte (RFC 8314).
    Implicit,
}

/// Connections kept to one server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PoolConfig {
    /// At most this many at once; keep it under the server's own limit for a client.
    pub max_connections: u32,
    /// Seconds after which an unused one is closed.
    pub idle_seconds: u64,
    /// Messages after which one is closed, taken or not.
    pub max_messages_per_connection: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self { max_connections: 20, idle_seconds: 60, max_messages_per_connection: 1000 }
    }
}

const fn default_port() -> u16 {
    587
}

const fn default_timeout() -> u64 {
    30
}

const fn yes() -> bool {
    true
}

pub(super) fn wrong(field: &'static str, problem: impl Into<String>) -> ConfigError {
    ConfigError::Field { kind: KIND, field: field.into(), problem: problem.into() }
}

impl Config {
    /// The TLS in force.
    #[must_use]
    pub fn security(&self) -> Security {
        self.security.unwrap_or(if self.port == 465 { Security::Implicit } else { Security::Starttls })
    }

    /// Checks what can be checked without secrets, files or network.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn validate(&self) -> Result<Letterhead, ConfigError> {
        if self.host.is_empty() || self.host.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(wrong("host", "is no host name: write one such as `smtp.example.com`"));
        }
        if self.port == 0 {
            return Err(wrong("port", "must not be 0: 587, 465 and 25 are usual"));
        }
        if self.username.is_some() != self.password.is_some() {
            return Err(wrong("password", "and `username` go together: give both or none"));
        }
        if self.username.is_some() && self.security() == Security::None && !self.is_loopback() {
            return Err(wrong("security", "none would send the password in clear: use starttls or implicit"));
        }
        for (field, value, allowed) in [
            ("timeout_seconds", self.timeout_seconds, SECONDS),
            ("pool.idle_seconds", self.pool.idle_seconds, SECONDS),
            ("pool.max_connections", u64::from(self.pool.max_connections), 1..=1000),
            ("pool.max_messages_per_connection", u64::from(self.pool.max_messages_per_connection), 1..=1_000_000),
        ] {
            if !allowed.contains(&value) {
                return Err(wrong(field, format!("must be from {} to {}", allowed.start(), allowed.end())));
            }
        }
        if self.return_path_domain.is_some() != self.return_path_key.is_some() {
            return Err(wrong("return_path_key", "and `return_path_domain` go together: give both or none"));
        }
        if self.return_path_domain.is_none() && (self.unsubscribe_by_mail || self.delivery_reports) {
            return Err(wrong(
                "return_path_domain",
                "is where that mail would go: give it, or drop `unsubscribe_by_mail` and `delivery_reports`",
            ));
        }
        self.files.validate()?;
        self.dkim.iter().try_for_each(Dkim::validate)?;
        Letterhead::new(self)
    }

    /// The key that marks this provider's letters, if it has a return path: with it, what comes back is read
    /// ([`crate::mail::report::read`]).
    ///
    /// # Errors
    /// It is not to be had, or too short.
    pub fn return_key(&self) -> Result<Option<ReturnKey>, ConfigError> {
        const FIELD: &str = "return_path_key";
        let Some(secret) = &self.return_path_key else { return Ok(None) };
        let secret = secret.resolve().map_err(|source| ConfigError::Secret { kind: KIND, field: FIELD, source })?;
        ReturnKey::new(secret.expose_secret()).map(Some).map_err(|error| wrong(FIELD, error.to_string()))
    }

    fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
}

/// Where and how to connect.
#[derive(Debug)]
struct Server {
    host: String,
    port: u16,
    security: Security,
    tls: TlsConnector,
    hello: String,
    credentials: Option<(String, SecretString)>,
}

impl Server {
    fn new(config: &Config, hello: &str) -> Result<Self, ConfigError> {
        let mut tls = native_tls::TlsConnector::builder();
        if let Some(path) = &config.ca_file {
            let pem = std::fs::read(path).map_err(|error| wrong("ca_file", format!("cannot be read: {error}")))?;
            let certificate = native_tls::Certificate::from_pem(&pem)
                .map_err(|error| wrong("ca_file", format!("is no PEM certificate: {error}")))?;
            tls.add_root_certificate(certificate);
        }
        let tls = tls.build().map_err(|error| wrong("security", format!("TLS is not to be had: {error}")))?;
        let credentials = match (&config.username, &config.password) {
            (Some(username), Some(password)) => {
                let password = password.resolve().map_err(|source| ConfigError::Secret {
                    kind: KIND,
                    field: "password",
                    source,
                })?;
                Some((username.clone(), password))
            }
            _ => None,
        };
        Ok(Self {
            host: config.host.clone(),
            port: config.port,
            security: config.security(),
            tls: tls.into(),
            hello: hello.to_owned(),
            credentials,
        })
    }
}

/// An SMTP server to send by.
#[derive(Debug)]
pub struct SmtpSink {
    letterhead: Letterhead,
    files: Files,
    server: Server,
    pool: Arc<Pool>,
    reaper: Once,
    idle: Duration,
    timeout: Duration,
}

impl SmtpSink {
    /// Checks the configuration and fetches password and keys. Connects only when there is something to send.
    ///
    /// # Errors
    /// Names the field and the remedy.
    pub fn new(config: &Config) -> Result<Self, ConfigError> {
        let letterhead = config.validate()?.with_keys(config)?;
        let PoolConfig { max_connections, idle_seconds, max_messages_per_connection } = config.pool;
        let idle = Duration::from_secs(idle_seconds);
        Ok(Self {
            server: Server::new(config, letterhead.domain())?,
            letterhead,
            files: Files::new(config.files)?,
            pool: Pool::new(max_connections, idle, max_messages_per_connection),
            reaper: Once::new(),
            idle,
            timeout: Duration::from_secs(config.timeout_seconds),
        })
    }

    /// Sends by an idle connection or a new one. One that turns out to have ended while idle is replaced once: nothing
    /// was said on it.
    async fn deliver(&self, letter: &Letter, deadline: Instant) -> Result<Reply, Fault> {
        if let Some(connection) = self.pool.take() {
            match self.by(connection, letter, deadline).await {
                Err(fault) if fault.is_stale() => tracing::debug!("idle SMTP connection had ended, connecting again"),
                outcome => return outcome,
            }
        }
        let connection = Connection::open(&self.server, deadline).await?;
        self.by(connection, letter, deadline).await
    }

    /// The connection belongs to this call until it is fit for the next: a call that is dropped half-way takes it
    /// along.
    async fn by(&self, mut connection: Connection, letter: &Letter, deadline: Instant) -> Result<Reply, Fault> {
        let outcome = connection.deliver(letter, deadline).await;
        let fit = match &outcome {
            Ok(_) => true,
            Err(fault) => connection.recover(fault, deadline).await,
        };
        if fit {
            self.pool.put(connection).await;
        }
        outcome
    }

    fn reap_idle_connections(&self) {
        self.reaper.call_once(|| {
            tokio::spawn(Pool::reap(Arc::downgrade(&self.pool), self.idle));
        });
    }
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Refused(stage, reply) => classify(stage, &reply),
            Fault::Broken(Stage::End, words) => {
                Self::new(ErrorKind::Ambiguous, format!("{}: {words}", Stage::End.name()))
            }
            Fault::Broken(stage, words) => Self::new(ErrorKind::Transient, format!("{}: {words}", stage.name())),
            // Of one message; the stages before are about the server as a whole.
            Fault::Unfit(Stage::Mail, words) => Self::new(ErrorKind::Rejected, words),
            Fault::Unfit(stage, words) => Self::new(ErrorKind::Unauthorized, format!("{}: {words}", stage.name())),
        }
    }
}

#[async_trait]
impl Sink for SmtpSink {
    fn channel(&self) -> Channel {
        Channel::Email
    }

    async fn send(&self, message: &Message) -> Result<Accepted, SendError> {
        self.reap_idle_connections();
        let files = match &message.content {
            Content::Email(email) if !email.attachments.is_empty() => self.files.of(&email.attachments).await?,
            _ => Vec::new(),
        };
        let letter = self.letterhead.request(message, &files, now())?;
        let deadline = Instant::now() + self.timeout;
        let Some(_slot) = self.pool.slot(deadline).await else {
            return Err(SendError::new(
                ErrorKind::Transient,
                "all connections were busy: raise `pool.max_connections`",
            ));
        };
        let reply = self.deliver(&letter, deadline).await?;
        Ok(Accepted { provider_id: reply.queue_id(), ..Accepted::default() })
    }

    async fn check(&self) -> Result<(), SendError> {
        let connection = Connection::open(&self.server, Instant::now() + self.timeout).await?;
        connection.close().await;
        Ok(())
    }
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
