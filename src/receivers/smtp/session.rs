//! One SMTP conversation as a state machine: a command line in, a reply out (RFC 5321; extensions RFC 1870, 2034, 2920, 6152).
//! It does no I/O; reading, waiting and recording are the receiver's.

use super::{Behaviour, Refusal, SmtpOptions};
use std::sync::Arc;

/// Recipients of one transaction (RFC 5321 section 4.5.3.1.8 asks for at least 100).
const MAX_RECIPIENTS: usize = 100;

/// What the receiver does after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the next command.
    Command,
    /// Read a message.
    Data,
    /// Close the connection.
    Quit,
}

/// Who sends to whom.
#[derive(Debug)]
pub(super) struct Envelope {
    pub(super) sender: String,
    /// Those that were not refused.
    pub(super) recipients: Vec<Arc<str>>,
    /// What to do with the message: the strongest of the recipients' behaviours.
    pub(super) behaviour: Behaviour,
}

/// The state of a conversation.
#[derive(Debug)]
pub(super) struct Session<'o> {
    options: &'o SmtpOptions,
    greeted: bool,
    envelope: Option<Envelope>,
    /// What was counted since it was last taken.
    pub(super) counted: Counted,
}

/// What a conversation adds to the receiver's counts, beside its messages.
#[derive(Debug, Default)]
pub(super) struct Counted {
    /// Commands.
    pub(super) commands: u64,
    /// Refusals.
    pub(super) refused: Vec<Refusal>,
    /// Recipients that are nobody's.
    pub(super) nobody: Vec<String>,
}

impl<'o> Session<'o> {
    pub(super) fn new(options: &'o SmtpOptions) -> Self {
        Self { options, greeted: false, envelope: None, counted: Counted::default() }
    }

    /// Obeys a line (without its line end) and writes the reply. `admit` says whether one more message may come now.
    pub(super) fn command(&mut self, line: &[u8], admit: impl FnOnce() -> bool, reply: &mut Vec<u8>) -> Step {
        self.counted.commands += 1;
        let Ok(line) = std::str::from_utf8(line) else {
            return self.refuse(Refusal::Syntax, "500 5.5.2 Not a command: bytes outside UTF-8\r\n", reply);
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let is = |name: &str| verb.eq_ignore_ascii_case(name);
        if is("MAIL") {
            self.mail(rest, admit, reply)
        } else if is("RCPT") {
            self.rcpt(rest, reply)
        } else if is("DATA") {
            self.data(rest, reply)
        } else if is("EHLO") || is("HELO") {
            self.hello(is("EHLO"), rest, reply)
        } else if is("RSET") {
            self.envelope = None;
            say("250 2.0.0 Ok\r\n", reply)
        } else if is("NOOP") {
            say("250 2.0.0 Ok\r\n", reply)
        } else if is("VRFY") {
            say("252 2.5.0 Cannot verify, but will take a message\r\n", reply)
        } else if is("QUIT") {
            say("221 2.0.0 Bye\r\n", reply);
            Step::Quit
        } else {
            self.refuse(Refusal::Syntax, "500 5.5.2 Unknown command\r\n", reply)
        }
    }

    /// A command line that is longer than the server reads (RFC 5321 section 4.5.3.1.4).
    pub(super) fn line_too_long(&mut self, reply: &mut Vec<u8>) {
        self.refuse(Refusal::Syntax, "500 5.5.2 Line too long\r\n", reply);
    }

    /// Ends the transaction, whose message has come.
    pub(super) fn take_envelope(&mut self) -> Option<Envelope> {
        self.envelope.take()
    }

    fn hello(&mut self, extended: bool, name: &str, reply: &mut Vec<u8>) -> Step {
        if name.trim().is_empty() {
            return self.refuse(Refusal::Syntax, "501 5.5.4 Say who you are: EHLO host\r\n", reply);
        }
        self.greeted = true;
        self.envelope = None;
        if extended {
            let size = self.options.max_message_bytes;
            let text = format!(
                "250-receiver.localhost\r\n250-PIPELINING\r\n250-SIZE {size}\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES\r\n"
            );
            say(&text, reply)
        } else {
            say("250 receiver.localhost\r\n", reply)
        }
    }

    fn mail(&mut self, argument: &str, admit: impl FnOnce() -> bool, reply: &mut Vec<u8>) -> Step {
        if !self.greeted {
            return self.refuse(Refusal::Sequence, "503 5.5.1 Send EHLO first\r\n", reply);
        }
        if self.envelope.is_some() {
            return self.refuse(Refusal::Sequence, "503 5.5.1 A transaction is open: end it or send RSET\r\n", reply);
        }
        let Some((sender, parameters)) = path(argument, "FROM:") else {
            return self.refuse(Refusal::Syntax, "501 5.5.4 Syntax: MAIL FROM:<address>\r\n", reply);
        };
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name.to_ascii_uppercase().as_str(), value.to_ascii_uppercase().as_str()) {
                ("BODY", "7BIT" | "8BITMIME") => {}
                ("SIZE", size) => match size.parse::<usize>() {
                    Ok(bytes) if bytes <= self.options.max_message_bytes => {}
                    Ok(_) => return self.refuse(Refusal::TooLarge, "552 5.3.4 Message too large\r\n", reply),
                    Err(_) => return self.refuse(Refusal::Syntax, "501 5.5.4 SIZE wants a number\r\n", reply),
                },
                _ => return self.refuse(Refusal::Syntax, "555 5.5.4 Unknown MAIL parameter\r\n", reply),
            }
        }
        if !admit() {
            return self.refuse(Refusal::Throttled, "451 4.7.1 Too many messages, try again later\r\n", reply);
        }
        let sender = sender.to_owned();
        self.envelope = Some(Envelope { sender, recipients: Vec::with_capacity(1), behaviour: Behaviour::Accept });
        say("250 2.1.0 Ok\r\n", reply)
    }

    fn rcpt(&mut self, argument: &str, reply: &mut Vec<u8>) -> Step {
        let Some(envelope) = &mut self.envelope else {
            return self.refuse(Refusal::Sequence, "503 5.5.1 Send MAIL first\r\n", reply);
        };
        let Some((mailbox, parameters)) = path(argument, "TO:").filter(|(mailbox, _)| mailbox.contains('@')) else {
            return self.refuse(Refusal::Syntax, "501 5.1.3 Syntax: RCPT TO:<local@domain>\r\n", reply);
        };
        if !parameters.trim().is_empty() {
            return self.refuse(Refusal::Syntax, "555 5.5.4 Unknown RCPT parameter\r\n", reply);
        }
        if !mailbox.is_ascii() {
            return self.refuse(Refusal::Syntax, "553 5.6.7 SMTPUTF8 is not offered\r\n", reply);
        }
        if envelope.recipients.len() == MAX_RECIPIENTS {
            return self.refuse(Refusal::Sequence, "452 4.5.3 Too many recipients\r\n", reply);
        }
        let behaviour = Behaviour::of(mailbox);
        match behaviour {
            Behaviour::TempFail => self.refuse(Refusal::TempFail, "450 4.2.1 Mailbox busy, try again later\r\n", reply),
            Behaviour::PermFail => {
                self.counted.nobody.push(mailbox.to_owned());
                self.refuse(Refusal::PermFail, "550 5.1.1 No such mailbox\r\n", reply)
            }
            Behaviour::FullSoon => self.refuse(Refusal::Full, "452 4.2.2 Mailbox full\r\n", reply),
            Behaviour::Full => self.refuse(Refusal::Full, "552 5.2.2 Mailbox full\r\n", reply),
            Behaviour::Policy => self.refuse(Refusal::Policy, "550 5.7.1 Refused by policy\r\n", reply),
            _ => {
                envelope.behaviour = envelope.behaviour.max(behaviour);
                envelope.recipients.push(mailbox.into());
                say("250 2.1.5 Ok\r\n", reply)
            }
        }
    }

    fn data(&mut self, argument: &str, reply: &mut Vec<u8>) -> Step {
        if !argument.trim().is_empty() {
            return self.refuse(Refusal::Syntax, "501 5.5.4 DATA takes no parameter\r\n", reply);
        }
        match &self.envelope {
            None => self.refuse(Refusal::Sequence, "503 5.5.1 Send MAIL and RCPT first\r\n", reply),
            // A client that pipelines sends DATA before it knows that its recipients were refused (RFC 2920 section 3.1).
            Some(envelope) if envelope.recipients.is_empty() => {
                self.refuse(Refusal::Sequence, "554 5.5.1 No valid recipients\r\n", reply)
            }
            Some(_) => {
                say("354 End with <CR><LF>.<CR><LF>\r\n", reply);
                Step::Data
            }
        }
    }

    fn refuse(&mut self, refusal: Refusal, text: &str, reply: &mut Vec<u8>) -> Step {
        self.counted.refused.push(refusal);
        say(text, reply)
    }
}

fn say(text: &str, reply: &mut Vec<u8>) -> Step {
    reply.extend_from_slice(text.as_bytes());
    Step::Command
}

/// Splits `FROM:<mailbox> parameters` into mailbox and parameters; a `>` within a quoted local part belongs to the mailbox.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (given, rest) = argument.split_at_checked(keyword.len())?;
    let rest = rest.strip_prefix('<').filter(|_| given.eq_ignore_ascii_case(keyword))?;
    let mut quoted = false;
    let end = rest.find(|c| {
        quoted ^= c == '"';
        c == '>' && !quoted
    })?;
    let (mailbox, parameters) = (&rest[..end], &rest[end + 1..]);
    (parameters.is_empty() || parameters.starts_with(' ')).then_some((mailbox, parameters))
}
