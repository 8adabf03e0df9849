//! A real, fast SMTP server that keeps count instead of mail and behaves as the recipient's name tells it to.
//! It delivers nothing and stores nothing: what it knows ends with it.
//!
//! | local part begins with | behaviour |
//! |---|---|
//! | `tempfail-once` | `450 4.2.1` after the data, for the first tries of each message to that recipient; then taken |
//! | `tempfail` | `450 4.2.1` at RCPT |
//! | `permfail` | `550 5.1.1` at RCPT |
//! | `full-soon` | `452 4.2.2` at RCPT |
//! | `full` | `552 5.2.2` at RCPT |
//! | `policy` | `550 5.7.1` at RCPT |
//! | `reject-data` | `554 5.6.0` after the data |
//! | `slow` | taken, but answered late |
//! | `silent` | taken, never answered: held until the client closes |
//! | `drop` | taken, then disconnected without an answer |
//! | `bounce` | taken; later returned to the envelope's sender as undeliverable, where [`SmtpReceiver::return_to`] says |
//! | `leave` | taken; the member's mail provider then unsubscribes by one click, where the letter offers it |
//! | anything else | `250 2.0.0`; those who end in an odd digit also look at the picture and follow the first link |
//!
//! Only links to the sender's own pages are called, of which [`SmtpReceiver::find_pages`] says where they are.

mod connection;
mod readers;
mod returns;
mod session;
mod text;

pub use returns::Returns;

use super::{
    Ledger, Pages,
    http::{Callbacks, Event, client},
};
use readers::Letter;
use returns::Undeliverable;
use session::{Counted, Envelope, Session};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes of a text line before its line feed: RFC 5321 section 4.5.3.1.6 allows 1,000 with CRLF.
const MAX_TEXT_LINE_BYTES: usize = 999;

/// How a receiver behaves.
#[derive(Clone, Debug)]
pub struct SmtpOptions {
    /// How late a `slow` recipient answers.
    pub slow: Duration,
    /// How long a `silent` recipient holds the connection at most.
    pub silent: Duration,
    /// Tries of one message that a `tempfail-once` recipient refuses.
    pub tempfails: u32,
    /// Messages a second; more are answered `451 4.7.1` at MAIL. `None` takes all.
    pub max_per_second: Option<u32>,
    /// Largest message in bytes, announced by SIZE.
    pub max_message_bytes: usize,
    /// Connections at once; one more is answered `421 4.3.2` and closed.
    pub max_connections: usize,
    /// How long a connection may be idle (RFC 5321 section 4.5.3.2.7: 5 minutes).
    pub idle: Duration,
    /// How many messages are kept whole; of all others only the ids.
    pub keep: usize,
}

impl Default for SmtpOptions {
    fn default() -> Self {
        Self {
            slow: Duration::from_millis(500),
            silent: Duration::from_secs(60),
            tempfails: 2,
            max_per_second: None,
            max_message_bytes: 10 * 1024 * 1024,
            max_connections: 1000,
            idle: Duration::from_secs(300),
            keep: 100,
        }
    }
}

/// What a recipient's name asks for; the later the variant, the stronger it is in a transaction with several recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Behaviour {
    Accept,
    Read,
    Leave,
    Bounce,
    TempFail,
    PermFail,
    FullSoon,
    Full,
    Policy,
    Slow,
    TempFailOnce,
    RejectData,
    Silent,
    Drop,
}

impl Behaviour {
    /// A name that is the beginning of another comes after it.
    const BY_NAME: [(&'static str, Self); 12] = [
        ("leave", Self::Leave),
        ("bounce", Self::Bounce),
        ("tempfail-once", Self::TempFailOnce),
        ("tempfail", Self::TempFail),
        ("permfail", Self::PermFail),
        ("full-soon", Self::FullSoon),
        ("full", Self::Full),
        ("policy", Self::Policy),
        ("reject-data", Self::RejectData),
        ("slow", Self::Slow),
        ("silent", Self::Silent),
        ("drop", Self::Drop),
    ];

    fn of(mailbox: &str) -> Self {
        let begins = |name: &str| mailbox.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name));
        let local_part = mailbox.rsplit_once('@').map_or(mailbox, |(local_part, _)| local_part);
        let reads = local_part.ends_with(['1', '3', '5', '7', '9']);
        let other = if reads { Self::Read } else { Self::Accept };
        Self::BY_NAME.iter().find(|(name, _)| begins(name)).map_or(other, |(_, behaviour)| *behaviour)
    }
}

/// Why a command or a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 450 to `tempfail` and `tempfail-once`.
    TempFail,
    /// 550 to `permfail`.
    PermFail,
    /// 452 or 552 to `full`.
    Full,
    /// 550 to `policy`.
    Policy,
    /// 554 to `reject-data`.
    RejectData,
    /// 451, above [`SmtpOptions::max_per_second`].
    Throttled,
    /// 552, above [`SmtpOptions::max_message_bytes`].
    TooLarge,
    /// 554, a text line above 998 bytes.
    LineTooLong,
    /// A command that is none, or has wrong parameters.
    Syntax,
    /// A command at the wrong time.
    Sequence,
}

/// A message that the receiver took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Message-ID without its angle brackets; empty if there was none.
    pub message_id: Arc<str>,
    /// The recipient.
    pub recipient: Arc<str>,
    /// Whether the receiver answered `250`. (Whether the client read that answer, only the client knows.)
    pub answered: bool,
}

/// All that a receiver has seen. A message to several recipients counts once for each.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Messages answered `250`: how often, by Message-ID.
    pub accepted: HashMap<Arc<str>, u32>,
    /// Messages taken without an answer (`silent`, `drop`): how often, by Message-ID.
    pub unanswered: HashMap<Arc<str>, u32>,
    /// Every message taken, in order.
    pub order: Vec<Taken>,
    /// Refusals by reason.
    pub refused: HashMap<Refusal, u64>,
    /// Recipients that were refused because nobody is there (`permfail`).
    pub nobody: BTreeSet<String>,
    /// Bytes of all messages taken.
    pub bytes: u64,
    /// Commands obeyed or refused.
    pub commands: u64,
    /// Connections accepted.
    pub connections: u64,
    /// What became of returned messages.
    pub returns: Returns,
    /// Calls that readers make; one is pending for a letter that is still to be read.
    pub readings: Callbacks,
    /// The letters of which readers told an event and were acknowledged, by Message-ID.
    pub told: HashMap<Event, BTreeSet<Arc<str>>>,
}

impl Received {
    /// How often this message was taken, with or without an answer.
    #[must_use]
    pub fn times(&self, message_id: &str) -> u32 {
        [&self.accepted, &self.unanswered].iter().filter_map(|taken| taken.get(message_id)).sum()
    }
}

/// One of the last messages, whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Mail {
    /// Its number among all messages taken, from 0.
    pub number: usize,
    /// Envelope sender.
    pub sender: String,
    /// Message-ID, recipient, and whether it was answered.
    pub taken: Taken,
    /// The message as it was meant: header and body, added dots taken away.
    pub text: Vec<u8>,
}

/// Without content and addresses.
impl fmt::Debug for Mail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mail")
            .field("number", &self.number)
            .field("message_id", &self.taken.message_id)
            .field("bytes", &self.text.len())
            .finish_non_exhaustive()
    }
}

/// A running SMTP server; it stops when this is dropped.
#[derive(Debug)]
pub struct SmtpReceiver {
    addr: SocketAddr,
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl SmtpReceiver {
    /// Listens on this address (port 0: any free one) and serves on the current runtime.
    ///
    /// # Errors
    /// The address cannot be bound, or the system's TLS cannot be loaded for the readers.
    pub async fn start(addr: SocketAddr, options: SmtpOptions) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let stop = CancellationToken::new();
        let (undeliverable, queue) = mpsc::channel(returns::QUEUE);
        let (letters, read) = mpsc::channel(readers::QUEUE);
        let shared = Arc::new(Shared {
            options,
            ledger: Ledger::default(),
            admitted: Mutex::new((Instant::now(), 0)),
            return_to: Mutex::default(),
            undeliverable,
            pages: Mutex::default(),
            letters,
        });
        tokio::spawn(connection::accept(listener, Arc::clone(&shared), stop.clone()));
        let (returning, stopped) = (returns::run(queue, Arc::clone(&shared)), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(returning).await });
        let (reading, stopped) = (readers::run(read, Arc::clone(&shared), client()?), stop.clone());
        tokio::spawn(async move { stopped.run_until_cancelled(reading).await });
        Ok(Self { addr, shared, _stop: stop.drop_guard() })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Says which server takes mail for the senders, as their domain's MX record would.
    pub fn return_to(&self, server: SocketAddr) {
        *self.shared.return_to.lock().unwrap_or_else(PoisonError::into_inner) = Some(server);
    }

    /// Says where the sender's pages are, which readers visit.
    pub fn find_pages(&self, pages: Pages) {
        *self.shared.pages.lock().unwrap_or_else(PoisonError::into_inner) = Some(pages);
    }

    /// All that was received so far.
    #[must_use]
    pub fn snapshot(&self) -> Received {
        self.shared.ledger.read(|state| state.received.clone())
    }

    /// How many messages were taken so far, answered or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.ledger.read(|state| state.received.order.len())
    }

    /// The last [`SmtpOptions::keep`] messages, oldest first.
    #[must_use]
    pub fn messages(&self) -> Vec<Mail> {
        let mut mails: Vec<Mail> = self.shared.ledger.read(|state| state.last.iter().cloned().collect());
        for mail in &mut mails {
            mail.text = text::unstuffed(&mail.text);
        }
        mails
    }

    /// Waits until the condition holds for what was received; false when it did not within this time. The condition is asked at changes,
    /// under the receiver's lock: keep it quick.
    pub async fn wait_for(&self, condition: impl Fn(&Received) -> bool, within: Duration) -> bool {
        self.shared.ledger.wait_for(|state| condition(&state.received), within).await
    }
}

#[derive(Debug)]
struct Shared {
    options: SmtpOptions,
    ledger: Ledger<State>,
    /// Start of the throttle's current second, and messages admitted in it.
    admitted: Mutex<(Instant, u32)>,
    return_to: Mutex<Option<SocketAddr>>,
    undeliverable: mpsc::Sender<Undeliverable>,
    pages: Mutex<Option<Pages>>,
    letters: mpsc::Sender<Letter>,
}

#[derive(Debug, Default)]
struct State {
    received: Received,
    /// The last messages, still dot-stuffed.
    last: VecDeque<Mail>,
    /// Tries so far of what `tempfail-once` recipients have not taken yet, by recipient and Message-ID.
    tries: HashMap<(Arc<str>, Arc<str>), u32>,
}

impl Shared {
    /// Whether one more message may come in this second.
    fn admit(&self) -> bool {
        let Some(limit) = self.options.max_per_second else { return true };
        let mut admitted = self.admitted.lock().unwrap_or_else(PoisonError::into_inner);
        if admitted.0.elapsed() >= Duration::from_secs(1) {
            *admitted = (Instant::now(), 0);
        }
        admitted.1 += 1;
        admitted.1 <= limit
    }

    /// Adds what a session counted since the last time.
    fn tally(&self, session: &mut Session<'_>) {
        let counted = std::mem::take(&mut session.counted);
        self.ledger.update(|state| state.tally(counted));
    }

    /// Decides on a message and records it: the whole work on a message takes the lock once.
    fn judge(&self, session: &mut Session<'_>, envelope: Envelope, message: &[u8], too_large: bool) -> Verdict {
        let message_id: Arc<str> = text::message_id(message).into();
        let counted = std::mem::take(&mut session.counted);
        let refusal = if too_large {
            Some((Refusal::TooLarge, "552 5.3.4 Message too large\r\n"))
        } else if text::has_line_over(MAX_TEXT_LINE_BYTES, message) {
            Some((Refusal::LineTooLong, "554 5.6.0 Text line above 998 bytes\r\n"))
        } else if envelope.behaviour == Behaviour::RejectData {
            Some((Refusal::RejectData, "554 5.6.0 Content refused\r\n"))
        } else {
            None
        };
        self.ledger.update(|state| {
            state.tally(counted);
            let refusal = refusal.or_else(|| {
                (envelope.behaviour == Behaviour::TempFailOnce && !state.tried(&envelope, &message_id, &self.options))
                    .then_some((Refusal::TempFail, "450 4.2.1 Mailbox busy, try again later\r\n"))
            });
            if let Some((refusal, reply)) = refusal {
                *state.received.refused.entry(refusal).or_default() += 1;
                return Verdict::Answer(reply.into());
            }
            let behaviour = envelope.behaviour;
            if behaviour == Behaviour::Bounce {
                self.bounce(&mut state.received.returns, &envelope, message);
            }
            if matches!(behaviour, Behaviour::Read | Behaviour::Leave) {
                self.give(&mut state.received.readings, &message_id, behaviour, message);
            }
            let answered = !matches!(behaviour, Behaviour::Silent | Behaviour::Drop);
            let number = state.record(envelope, &message_id, message, answered, self.options.keep);
            let reply = format!("250 2.0.0 Ok: queued as {number:08X}\r\n");
            match behaviour {
                Behaviour::Silent => Verdict::Hold,
                Behaviour::Drop => Verdict::Close,
                Behaviour::Slow => Verdict::AnswerLate(reply),
                _ => Verdict::Answer(reply),
            }
        })
    }
}

impl Shared {
    /// Queues the return of a message; the oldest have precedence where there are more than a queue holds.
    fn bounce(&self, returns: &mut Returns, envelope: &Envelope, message: &[u8]) {
        let Some(recipient) = envelope.recipients.first() else { return };
        let undeliverable = Undeliverable {
            sender: envelope.sender.clone(),
            recipient: Arc::clone(recipient),
            head: text::head(message),
        };
        match self.undeliverable.try_send(undeliverable) {
            Ok(()) => returns.pending += 1,
            Err(_) => returns.abandoned += 1,
        }
    }
}

impl Shared {
    /// Gives a letter to its reader, if there are pages to visit.
    fn give(&self, readings: &mut Callbacks, message_id: &Arc<str>, behaviour: Behaviour, message: &[u8]) {
        let Some(pages) = self.pages.lock().unwrap_or_else(PoisonError::into_inner).clone() else { return };
        let (message_id, text) = (Arc::clone(message_id), text::unstuffed(message));
        match self.letters.try_send(Letter { message_id, leaves: behaviour == Behaviour::Leave, text, pages }) {
            Ok(()) => readings.pending += 1,
            Err(_) => readings.abandoned += 1,
        }
    }
}

impl State {
    fn tally(&mut self, Counted { commands, refused, nobody }: Counted) {
        self.received.commands += commands;
        for refusal in refused {
            *self.received.refused.entry(refusal).or_default() += 1;
        }
        self.received.nobody.extend(nobody);
    }

    /// Counts a try; true when the message has been refused often enough.
    fn tried(&mut self, envelope: &Envelope, message_id: &Arc<str>, options: &SmtpOptions) -> bool {
        let Some(recipient) = envelope.recipients.first() else { return true };
        let key = (Arc::clone(recipient), Arc::clone(message_id));
        let tries = self.tries.entry(key.clone()).or_default();
        *tries += 1;
        let enough = *tries > options.tempfails;
        if enough {
            self.tries.remove(&key);
        }
        enough
    }

    fn record(&mut self, envelope: Envelope, id: &Arc<str>, message: &[u8], answered: bool, keep: usize) -> usize {
        let Envelope { sender, recipients, .. } = envelope;
        let received = &mut self.received;
        let number = received.order.len();
        for recipient in recipients {
            let counts = if answered { &mut received.accepted } else { &mut received.unanswered };
            *counts.entry(Arc::clone(id)).or_default() += 1;
            received.bytes += message.len() as u64;
            let taken = Taken { message_id: Arc::clone(id), recipient, answered };
            if keep > 0 {
                let number = received.order.len();
                // The oldest message's buffers serve the newest, so that keeping costs a copy and no allocation.
                let mut text = if self.last.len() == keep { self.last.pop_front().map(|m| m.text) } else { None }
                    .unwrap_or_default();
                text.clear();
                text.extend_from_slice(message);
                self.last.push_back(Mail { number, sender: sender.clone(), taken: taken.clone(), text });
            }
            received.order.push(taken);
        }
        number
    }
}

/// What happens after a message's final dot.
#[derive(Debug)]
enum Verdict {
    Answer(String),
    AnswerLate(String),
    Hold,
    Close,
}

#[cfg(test)]
mod tests;
