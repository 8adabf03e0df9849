//! The server's side of SMTP (RFC 5321) and LMTP (RFC 2033) as a state machine: a command line in, a reply out. It does
//! no I/O; reading, waiting and the message itself are the listener's.

use super::listener::{Config, Protocol};

/// Recipients of one transaction (RFC 5321 section 4.5.3.1.8 asks for at least 100).
const MAX_RECIPIENTS: usize = 100;

/// What the listener does after a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read the next command.
    Command,
    /// Read a message.
    Data,
    /// Begin the TLS handshake.
    Tls,
    /// Close the connection.
    Quit,
}

/// The state of a conversation.
#[derive(Debug)]
pub(super) struct Session<'c> {
    config: &'c Config,
    offers_tls: bool,
    greeted: bool,
    in_transaction: bool,
    recipients: Vec<String>,
    /// Commands that were refused; a client that says many is no mail server.
    pub(super) refused: u32,
}

impl<'c> Session<'c> {
    pub(super) const fn new(config: &'c Config, offers_tls: bool) -> Self {
        Self { config, offers_tls, greeted: false, in_transaction: false, recipients: Vec::new(), refused: 0 }
    }

    /// Obeys a line (without its line end) and writes the reply.
    pub(super) fn command(&mut self, line: &[u8], reply: &mut String) -> Step {
        let Ok(line) = std::str::from_utf8(line) else {
            return self.refuse("500 5.5.2 Not a command: bytes outside UTF-8", reply);
        };
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (verb.to_ascii_uppercase().as_str(), self.config.protocol) {
            ("EHLO", Protocol::Smtp) | ("LHLO", Protocol::Lmtp) => self.hello(true, rest, reply),
            ("HELO", Protocol::Smtp) => self.hello(false, rest, reply),
            ("MAIL", _) => self.mail(rest, reply),
            ("RCPT", _) => self.rcpt(rest, reply),
            ("DATA", _) => self.data(rest, reply),
            ("RSET", _) => {
                self.reset();
                say("250 2.0.0 Ok", reply)
            }
            ("NOOP", _) => say("250 2.0.0 Ok", reply),
            ("VRFY", _) => say("252 2.5.0 Cannot verify, but will take a message", reply),
            ("STARTTLS", _) if self.offers_tls => {
                say("220 2.0.0 Go ahead", reply);
                Step::Tls
            }
            ("QUIT", _) => {
                say("221 2.0.0 Bye", reply);
                Step::Quit
            }
            _ => self.refuse("500 5.5.2 Unknown command", reply),
        }
    }

    /// A command line that is longer than we read (RFC 5321 section 4.5.3.1.4).
    pub(super) fn line_too_long(&mut self, reply: &mut String) {
        self.refuse("500 5.5.2 Line too long", reply);
    }

    /// Ends the transaction, whose message has come.
    pub(super) fn take_recipients(&mut self) -> Vec<String> {
        self.in_transaction = false;
        std::mem::take(&mut self.recipients)
    }

    /// After the handshake everything that was said before is forgotten (RFC 3207 section 4.2).
    pub(super) fn secured(&mut self) {
        self.offers_tls = false;
        self.greeted = false;
        self.reset();
    }

    fn reset(&mut self) {
        self.in_transaction = false;
        self.recipients.clear();
    }

    fn hello(&mut self, extended: bool, name: &str, reply: &mut String) -> Step {
        if name.trim().is_empty() {
            return self.refuse("501 5.5.4 Say who you are", reply);
        }
        self.greeted = true;
        self.reset();
        let host = &self.config.hostname;
        if !extended {
            return say(&format!("250 {host}"), reply);
        }
        let tls = if self.offers_tls { "250-STARTTLS\r\n" } else { "" };
        let size = self.config.max_message_bytes;
        say(
            &format!(
                "250-{host}\r\n250-PIPELINING\r\n250-SIZE {size}\r\n{tls}250-8BITMIME\r\n250-SMTPUTF8\r\n250 ENHANCEDSTATUSCODES"
            ),
            reply,
        )
    }

    fn mail(&mut self, argument: &str, reply: &mut String) -> Step {
        if !self.greeted {
            return self.refuse("503 5.5.1 Say hello first", reply);
        }
        if self.in_transaction {
            return self.refuse("503 5.5.1 A transaction is open: end it or send RSET", reply);
        }
        // Who it is from matters to nobody: only our marks are believed.
        let Some((_, parameters)) = path(argument, "FROM:") else {
            return self.refuse("501 5.5.4 Syntax: MAIL FROM:<address>", reply);
        };
        for parameter in parameters.split_ascii_whitespace() {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match (name.to_ascii_uppercase().as_str(), value.to_ascii_uppercase().as_str()) {
                ("BODY", "7BIT" | "8BITMIME") | ("SMTPUTF8", "") => {}
                ("SIZE", size) => match size.parse::<usize>() {
                    Ok(bytes) if bytes <= self.config.max_message_bytes => {}
                    Ok(_) => return self.refuse("552 5.3.4 Message too large", reply),
                    Err(_) => return self.refuse("501 5.5.4 SIZE wants a number", reply),
                },
                _ => return self.refuse("555 5.5.4 Unknown MAIL parameter", reply),
            }
        }
        self.in_transaction = true;
        say("250 2.1.0 Ok", reply)
    }

    fn rcpt(&mut self, argument: &str, reply: &mut String) -> Step {
        if !self.in_transaction {
            return self.refuse("503 5.5.1 Send MAIL first", reply);
        }
        let Some((mailbox, parameters)) = path(argument, "TO:") else {
            return self.refuse("501 5.1.3 Syntax: RCPT TO:<local@domain>", reply);
        };
        if !parameters.trim().is_empty() {
            return self.refuse("555 5.5.4 Unknown RCPT parameter", reply);
        }
        let domain = mailbox.rsplit_once('@').map_or("", |(_, domain)| domain);
        if !self.config.domains.iter().any(|own| own.eq_ignore_ascii_case(domain)) {
            return self.refuse("550 5.7.1 We relay for nobody", reply);
        }
        if self.recipients.len() == MAX_RECIPIENTS {
            return self.refuse("452 4.5.3 Too many recipients", reply);
        }
        self.recipients.push(mailbox.to_owned());
        say("250 2.1.5 Ok", reply)
    }

    fn data(&mut self, argument: &str, reply: &mut String) -> Step {
        if !argument.trim().is_empty() {
            return self.refuse("501 5.5.4 DATA takes no parameter", reply);
        }
        if !self.in_transaction {
            return self.refuse("503 5.5.1 Send MAIL and RCPT first", reply);
        }
        // A client that pipelines sends DATA before it knows that its recipients were refused (RFC 2920 section 3.1).
        if self.recipients.is_empty() {
            return self.refuse("503 5.5.1 No valid recipients", reply);
        }
        say("354 End with <CR><LF>.<CR><LF>", reply);
        Step::Data
    }

    fn refuse(&mut self, text: &str, reply: &mut String) -> Step {
        self.refused += 1;
        say(text, reply)
    }
}

fn say(text: &str, reply: &mut String) -> Step {
    reply.push_str(text);
    reply.push_str("\r\n");
    Step::Command
}

/// Splits `FROM:<mailbox> parameters` into mailbox and parameters; a `>` within a quoted local part belongs to the
/// mailbox.
fn path<'a>(argument: &'a str, keyword: &str) -> Option<(&'a str, &'a str)> {
    let (given, rest) = argument.split_at_checked(keyword.len())?;
    let rest = rest.trim_start().strip_prefix('<').filter(|_| given.eq_ignore_ascii_case(keyword))?;
    let mut quoted = false;
    let end = rest.find(|c| {
        quoted ^= c == '"';
        c == '>' && !quoted
    })?;
    let (mailbox, parameters) = (&rest[..end], &rest[end + 1..]);
    (parameters.is_empty() || parameters.starts_with(' ')).then_some((mailbox, parameters))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(protocol: Protocol, lines: &[&str]) -> Vec<String> {
        let config = Config { protocol, ..Config::new(&["bounce.shop.example"]) };
        let mut session = Session::new(&config, true);
        let reply = |line: &&str| {
            let mut reply = String::new();
            session.command(line.as_bytes(), &mut reply);
            reply.lines().last().unwrap_or_default()[..3].to_owned()
        };
        lines.iter().map(reply).collect()
    }

    #[test]
    fn a_dialogue_goes_step_by_step() {
        let lines = [
            "RCPT TO:<b@bounce.shop.example>",
            "MAIL FROM:<>",
            "EHLO mx.example",
            "DATA",
            "MAIL FROM:<> SIZE=99 BODY=8BITMIME",
            "MAIL FROM:<a@b.example>",
            "DATA",
            "RCPT TO:<jane@elsewhere.example>",
            "RCPT TO:<postmaster>",
            "RCPT TO:<B+1@BOUNCE.shop.example>",
            "DATA now",
            "DATA",
        ];
        let codes = ["503", "503", "250", "503", "250", "503", "503", "550", "550", "250", "501", "354"];
        assert_eq!(said(Protocol::Smtp, &lines), codes);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let lines = [
            "HELO x",
            "LHLO x",
            "MAIL FROM:a",
            "MAIL FROM:<> SIZE=x",
            "MAIL FROM:<> SIZE=99999999999",
            "MAIL FROM:<> X=1",
        ];
        assert_eq!(said(Protocol::Smtp, &lines), ["250", "500", "501", "501", "552", "555"]);
        let lines = ["EHLO x", "LHLO", "LHLO x", "VRFY a", "NOOP", "RSET", "STARTTLS", "QUIT", "BDAT 1"];
        assert_eq!(said(Protocol::Lmtp, &lines), ["500", "501", "250", "252", "250", "250", "220", "221", "500"]);
    }

    proptest! {
        #[test]
        fn every_line_has_a_reply(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8), rest in "[ -~]{0,40}") {
            let config = Config::new(&["a.example"]);
            let mut session = Session::new(&config, false);
            let worded = ["EHLO", "MAIL", "MAIL FROM:", "RCPT TO:", "DATA"].map(|verb| format!("{verb} {rest}").into_bytes());
            for line in lines.into_iter().chain(worded) {
                let mut reply = String::new();
                session.command(&line, &mut reply);
                prop_assert!(reply.ends_with("\r\n") && reply.as_bytes()[..3].iter().all(u8::is_ascii_digit));
            }
        }
    }
}
