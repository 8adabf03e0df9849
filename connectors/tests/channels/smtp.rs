use super::{
    authority::{Authority, Identity},
    message,
};
use bellwether_connectors::channels::{
    Accepted, Content, Email, Message, SendError, Sink,
    smtp::{Config, SmtpSink},
};
use bellwether_schemas::records::ErrorKind::{self, Ambiguous, InvalidAddress, Rejected, Transient, Unauthorized};
use serde_json::json;
use std::{
    collections::HashSet,
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener as StdListener},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use tokio_native_tls::{TlsAcceptor, native_tls};

/// How a server behaves. An answer is written as it stands, and may be empty; `CLOSE` closes the connection, `SILENT` says nothing more.
#[derive(Clone, Debug)]
struct Script {
    greeting: &'static str,
    offers: &'static [&'static str],
    mail: fn(&str) -> &'static str,
    rcpt: fn(&str) -> &'static str,
    /// Answer to DATA where nobody was accepted.
    data_for_nobody: &'static str,
    data: &'static str,
    end: fn(&str) -> &'static str,
    auth: fn(&str) -> &'static str,
    /// After this many messages, say this to the next MAIL and close.
    limit: Option<(usize, &'static str)>,
}

const CLOSE: &str = "close";
const SILENT: &str = "silent";

impl Default for Script {
    fn default() -> Self {
        Self {
            greeting: "220 test ESMTP\r\n",
            offers: &["PIPELINING", "8BITMIME"],
            mail: |_| "250 2.1.0 Ok\r\n",
            rcpt: |to| match to.split('@').next().unwrap() {
                "RCPT TO:<unknown" => "550 5.1.1 <unknown@example.com>: no such user\r\n",
                "RCPT TO:<grey" => "450 4.2.0 greylisted\r\n",
                "RCPT TO:<full" => "552 5.2.2 full\r\n",
                "RCPT TO:<policy" => "550 5.7.1 not you\r\n",
                "RCPT TO:<bye" => "421 4.3.2 going down\r\n",
                "RCPT TO:<drop" => CLOSE,
                "RCPT TO:<slow" => SILENT,
                _ => "250 2.1.5 Ok\r\n",
            },
            data_for_nobody: "554 5.5.1 no valid recipients\r\n",
            data: "354 go on\r\n",
            end: |text| {
                if text.contains("spam") {
                    "554 5.7.1 spam\r\n"
                } else if text.contains("drop after dot") {
                    CLOSE
                } else if text.contains("silent after dot") {
                    SILENT
                } else {
                    "250 2.0.0 Ok: queued as 4ABC\r\n"
                }
            },
            auth: |_| "535 5.7.8 bad credentials\r\n",
            limit: None,
        }
    }
}

/// What a server saw.
#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    most_open: AtomicUsize,
    /// Commands of all connections; of a message's content nothing.
    commands: Mutex<Vec<String>>,
    /// Contents that were answered with 250, dots undone.
    taken: Mutex<Vec<String>>,
}

impl Seen {
    fn commands(&self) -> Vec<String> {
        self.commands.lock().unwrap().clone()
    }
    fn taken(&self) -> usize {
        self.taken.lock().unwrap().len()
    }
}

/// Answers by the script; speaks TLS where it has a certificate.
async fn serve(script: Script, tls: Option<(TlsAcceptor, bool)>) -> (SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (script, seen, tls) = (script.clone(), Arc::clone(&shared), tls.clone());
            tokio::spawn(async move {
                seen.connections.fetch_add(1, Ordering::SeqCst);
                let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
                seen.most_open.fetch_max(open, Ordering::SeqCst);
                match tls {
                    Some((acceptor, true)) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            dialogue(&script, &seen, stream, true).await;
                        }
                    }
                    Some((acceptor, false)) => {
                        if let Some(stream) = dialogue(&script, &seen, stream, true).await
                            && let Ok(stream) = acceptor.accept(stream).await
                        {
                            dialogue(&script, &seen, stream, false).await;
                        }
                    }
                    None => {
                        dialogue(&script, &seen, stream, true).await;
                    }
                }
                seen.open.fetch_sub(1, Ordering::SeqCst);
            });
        }
    });
    (address, seen)
}

/// Returns the bare stream after STARTTLS, nothing at the end.
async fn dialogue<S: AsyncRead + AsyncWrite + Unpin>(
    script: &Script,
    seen: &Seen,
    stream: S,
    greet: bool,
) -> Option<S> {
    let mut stream = BufReader::new(stream);
    if greet {
        stream.write_all(script.greeting.as_bytes()).await.ok()?;
    }
    let (mut accepted, mut carried) = (false, 0);
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        let line = line.trim_end().to_owned();
        seen.commands.lock().unwrap().push(line.clone());
        let verb = line.split([' ', ':']).next().unwrap().to_owned();
        let answer = match verb.as_str() {
            "EHLO" => {
                let lines: Vec<_> = ["test"].iter().chain(script.offers).copied().collect();
                let last = lines.len() - 1;
                let lines =
                    lines.iter().enumerate().map(|(n, l)| format!("250{}{l}\r\n", if n == last { ' ' } else { '-' }));
                stream.write_all(lines.collect::<String>().as_bytes()).await.ok()?;
                continue;
            }
            "STARTTLS" => {
                stream.write_all(b"220 go ahead\r\n").await.ok()?;
                return Some(stream.into_inner());
            }
            "AUTH" => (script.auth)(&line),
            "MAIL" => match script.limit {
                Some((limit, words)) if carried == limit => {
                    stream.write_all(words.as_bytes()).await.ok()?;
                    return None;
                }
                _ => {
                    accepted = false;
                    (script.mail)(&line)
                }
            },
            "RCPT" => {
                let answer = (script.rcpt)(&line);
                accepted = answer.starts_with('2');
                answer
            }
            "DATA" if !accepted && script.data_for_nobody.starts_with("354") => {
                stream.write_all(script.data_for_nobody.as_bytes()).await.ok()?;
                content(&mut stream).await?;
                "554 5.5.1 no valid recipients\r\n"
            }
            "DATA" if !accepted => script.data_for_nobody,
            "DATA" if !script.data.starts_with("354") => script.data,
            "DATA" => {
                stream.write_all(script.data.as_bytes()).await.ok()?;
                let text = content(&mut stream).await?;
                let answer = (script.end)(&text);
                carried += 1;
                if answer.starts_with('2') {
                    seen.taken.lock().unwrap().push(text);
                }
                answer
            }
            "RSET" => "250 2.0.0 Ok\r\n",
            "QUIT" => return None,
            _ => "500 5.5.2 what?\r\n",
        };
        match answer {
            CLOSE => return None,
            SILENT => {
                // Until the client gives up.
                while stream.read_line(&mut String::new()).await.ok()? > 0 {}
                return None;
            }
            answer => stream.write_all(answer.as_bytes()).await.ok()?,
        }
    }
}

async fn content<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<String> {
    let mut text = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await.ok()? == 0 {
            return None;
        }
        match line.strip_prefix('.') {
            Some("\r\n") => return Some(text),
            Some(rest) => text.push_str(rest),
            None => text.push_str(&line),
        }
    }
}

fn config(at: SocketAddr, change: serde_json::Value) -> Config {
    let mut all = json!({
        "host": "127.0.0.1", "port": at.port(), "security": "none", "from_address": "news@shop.example",
    });
    all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn sink(at: SocketAddr, change: serde_json::Value) -> SmtpSink {
    SmtpSink::new(&config(at, change)).unwrap()
}

fn email(n: u64, to: &str, text: &str) -> Message {
    message(
        n,
        to,
        Content::Email(Email { subject: format!("Number {n}"), text: Some(text.into()), ..Email::default() }),
    )
}

fn kind(outcome: Result<Accepted, SendError>) -> ErrorKind {
    outcome.unwrap_err().kind
}

/// Both ways to talk: in one packet, and command by command.
const WAYS: [&[&str]; 2] = [&["PIPELINING", "8BITMIME"], &["8BITMIME"]];

#[tokio::test]
async fn a_letter_arrives_as_it_was_written() {
    for offers in WAYS {
        let (at, seen) = serve(Script { offers, ..Script::default() }, None).await;
        let accepted = sink(at, json!({})).send(&email(1, "jane@example.com", "first\n.\n..dots\n")).await.unwrap();
        assert_eq!(accepted.provider_id.as_deref(), Some("4ABC"));
        let commands = ["EHLO shop.example", "MAIL FROM:<news@shop.example>", "RCPT TO:<jane@example.com>", "DATA"];
        assert_eq!(seen.commands(), commands);
        assert!(seen.taken.lock().unwrap()[0].ends_with("\r\n\r\nfirst\r\n.\r\n..dots\r\n"));
    }
}

#[tokio::test]
async fn reports_are_asked_for_where_they_are_understood() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    fs::write(&key, "0123456789abcdef").unwrap();
    let change = json!({"return_path_domain": "bounce.shop.example", "return_path_key": {"file": key}});
    for (offers, asked) in [(&["PIPELINING", "DSN"][..], true), (&["DSN"], true), (&["PIPELINING"], false)] {
        let (at, seen) = serve(Script { offers, ..Script::default() }, None).await;
        sink(at, change.clone()).send(&email(1, "jane+x@example.com", "x")).await.unwrap();
        let commands = seen.commands();
        let mark = commands[1].strip_prefix("MAIL FROM:<b+").unwrap()[..60].to_owned();
        let (message, recipient) = if asked {
            (format!(" RET=HDRS ENVID={mark}"), " NOTIFY=FAILURE ORCPT=rfc822;jane+2Bx@example.com")
        } else {
            (String::new(), "")
        };
        assert_eq!(commands[1], format!("MAIL FROM:<b+{mark}@bounce.shop.example>{message}"));
        assert_eq!(commands[2], format!("RCPT TO:<jane+x@example.com>{recipient}"));
        assert!(seen.taken.lock().unwrap()[0].contains("\r\nX-Bellwether-Reference:\r\n eyJ"));
    }
}

#[tokio::test]
async fn one_connection_serves_one_after_the_other_and_survives_refusals() {
    for offers in WAYS {
        let (at, seen) = serve(Script { offers, ..Script::default() }, None).await;
        let sink = sink(at, json!({}));
        for (n, to, text, expected) in [
            (1, "jane@example.com", "x", None),
            (2, "unknown@example.com", "x", Some(InvalidAddress)),
            (3, "grey@example.com", "x", Some(Transient)),
            (4, "full@example.com", "x", Some(Transient)),
            (5, "policy@example.com", "x", Some(Rejected)),
            (6, "jane@example.com", "spam", Some(Rejected)),
            (7, "jane@example.com", "x", None),
        ] {
            let outcome = sink.send(&email(n, to, text)).await;
            assert_eq!(outcome.as_ref().err().map(|e| e.kind), expected, "{to} {text}: {outcome:?}");
            assert!(!format!("{outcome:?}").contains(to));
        }
        assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (1, 2));
        assert_eq!(seen.commands().iter().filter(|c| *c == "RSET").count(), 5);
    }
}

#[tokio::test]
async fn data_that_is_accepted_for_nobody_is_ended_by_a_lone_dot() {
    let (at, seen) = serve(Script { data_for_nobody: "354 go on\r\n", ..Script::default() }, None).await;
    let sink = sink(at, json!({}));
    assert_eq!(kind(sink.send(&email(1, "unknown@example.com", "x")).await), InvalidAddress);
    sink.send(&email(2, "jane@example.com", "x")).await.unwrap();
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (1, 1));
}

#[tokio::test]
async fn the_first_refusal_of_a_pipelined_envelope_counts() {
    let refused: fn(&str) -> &'static str = |_| "550 5.7.1 sender not owned\r\n";
    let script = Script { mail: refused, rcpt: |_| "503 5.5.1 need MAIL\r\n", ..Script::default() };
    let (at, _) = serve(script, None).await;
    let error = sink(at, json!({})).send(&email(1, "jane@example.com", "x")).await.unwrap_err();
    assert_eq!((error.kind, error.detail.as_str()), (Unauthorized, "MAIL FROM: 550 5.7.1 sender not owned"));

    // A server out of step: nothing may follow on this connection, least of all an empty message.
    let (at, seen) = serve(Script { mail: refused, ..Script::default() }, None).await;
    let sink = sink(at, json!({}));
    assert_eq!(kind(sink.send(&email(1, "jane@example.com", "x")).await), Transient);
    assert_eq!(seen.taken(), 0);
}

#[tokio::test]
async fn where_it_breaks_decides_whether_it_may_have_been_sent() {
    for offers in WAYS {
        let (at, seen) = serve(Script { offers, ..Script::default() }, None).await;
        let (sink, hasty) = (self::sink(at, json!({})), self::sink(at, json!({"timeout_seconds": 1})));
        for (sink, to, text, expected) in [
            (&sink, "drop@example.com", "x", Transient),
            (&sink, "bye@example.com", "x", Transient),
            (&hasty, "slow@example.com", "x", Transient),
            (&sink, "jane@example.com", "drop after dot", Ambiguous),
            (&hasty, "jane@example.com", "silent after dot", Ambiguous),
        ] {
            assert_eq!(kind(sink.send(&email(1, to, text)).await), expected, "{to} {text}");
        }
        // None of these connections is used again.
        sink.send(&email(2, "jane@example.com", "x")).await.unwrap();
        assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (6, 1));
    }
}

#[tokio::test]
async fn an_idle_connection_that_ended_is_replaced_without_notice() {
    for words in ["421 4.4.2 idle too long\r\n", ""] {
        let (at, seen) = serve(Script { limit: Some((2, words)), ..Script::default() }, None).await;
        let sink = sink(at, json!({}));
        for n in 0..6 {
            sink.send(&email(n, "jane@example.com", "x")).await.unwrap();
        }
        assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (3, 6), "{words:?}");
    }
}

#[tokio::test]
async fn a_fresh_connection_that_ends_is_not_tried_twice() {
    let (at, seen) = serve(Script { mail: |_| "421 4.3.2 too busy\r\n", ..Script::default() }, None).await;
    assert_eq!(kind(sink(at, json!({})).send(&email(1, "jane@example.com", "x")).await), Transient);
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn connections_are_bounded_in_number() {
    let (at, seen) = serve(Script::default(), None).await;
    let sink = Arc::new(sink(at, json!({"pool": {"max_connections": 3}})));
    let sends = (0..60).map(|n| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { sink.send(&email(n, "jane@example.com", "x")).await })
    });
    for send in sends.collect::<Vec<_>>() {
        send.await.unwrap().unwrap();
    }
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.most_open.load(Ordering::SeqCst)), (3, 3));
    let distinct: HashSet<_> = seen.taken.lock().unwrap().iter().cloned().collect();
    assert_eq!((seen.taken(), distinct.len()), (60, 60), "each message once");
}

#[tokio::test]
async fn connections_are_bounded_in_use() {
    let (at, seen) = serve(Script::default(), None).await;
    let sink = sink(at, json!({"pool": {"max_messages_per_connection": 10}}));
    for n in 0..35 {
        sink.send(&email(n, "jane@example.com", "x")).await.unwrap();
    }
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (4, 35));
    assert_eq!(seen.commands().iter().filter(|c| *c == "QUIT").count(), 3);
}

#[tokio::test]
async fn waiting_for_a_connection_ends_too() {
    let (at, _) = serve(Script::default(), None).await;
    let sink = Arc::new(sink(at, json!({"timeout_seconds": 1, "pool": {"max_connections": 1}})));
    let other = Arc::clone(&sink);
    let slow = tokio::spawn(async move { other.send(&email(1, "slow@example.com", "x")).await });
    let second = sink.send(&email(2, "slow@example.com", "x")).await;
    assert_eq!((kind(slow.await.unwrap()), kind(second)), (Transient, Transient));
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_connection_along() {
    let (at, seen) = serve(Script::default(), None).await;
    let sink = sink(at, json!({"pool": {"max_connections": 1}}));
    let given_up =
        tokio::time::timeout(Duration::from_millis(300), sink.send(&email(1, "slow@example.com", "x"))).await;
    assert!(given_up.is_err());
    sink.send(&email(2, "jane@example.com", "x")).await.unwrap();
    assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (2, 1));
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let free = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let sink = sink(free, json!({}));
    assert_eq!(kind(sink.send(&email(1, "jane@example.com", "x")).await), Transient);
    assert_eq!(sink.check().await.unwrap_err().kind, Transient);
}

#[tokio::test]
async fn a_server_that_wants_nothing_of_us_stops_the_provider() {
    for (greeting, seconds, expected) in [
        ("554 no service for you\r\n", 30, Unauthorized),
        ("421 4.3.2 too busy\r\n", 30, Transient),
        ("HTTP/1.1 400 Bad Request\r\n", 30, Transient),
        ("", 1, Transient),
    ] {
        let (at, _) = serve(Script { greeting, ..Script::default() }, None).await;
        let error = sink(at, json!({"timeout_seconds": seconds})).check().await.unwrap_err();
        assert_eq!(error.kind, expected, "{greeting:?}");
    }
}

#[tokio::test]
async fn an_international_address_needs_a_server_that_takes_it() {
    let (at, seen) = serve(Script { offers: &["PIPELINING", "SMTPUTF8", "8BITMIME"], ..Script::default() }, None).await;
    sink(at, json!({})).send(&email(1, "jürgen@bücher.example", "x")).await.unwrap();
    assert!(seen.commands().contains(&"MAIL FROM:<news@shop.example> BODY=8BITMIME SMTPUTF8".to_owned()));
    assert!(seen.commands().contains(&"RCPT TO:<jürgen@xn--bcher-kva.example>".to_owned()));

    let (at, seen) = serve(Script::default(), None).await;
    let sink = sink(at, json!({}));
    assert_eq!(kind(sink.send(&email(1, "jürgen@example.com", "x")).await), Rejected);
    sink.send(&email(2, "jane@example.com", "x")).await.unwrap();
    assert_eq!(seen.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn the_password_is_checked_before_anything_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("password");
    fs::write(&secret, "pässword\n").unwrap();
    let account = json!({"username": "shop", "password": {"file": secret}});
    // printf '\0shop\0pässword' | base64
    let auth: fn(&str) -> &'static str = |line| match line {
        "AUTH PLAIN AHNob3AAcMOkc3N3b3Jk" => "235 2.7.0 Ok\r\n",
        _ => "535 5.7.8 bad credentials\r\n",
    };
    let script = Script { offers: &["AUTH LOGIN PLAIN", "PIPELINING"], auth, ..Script::default() };
    let (at, _) = serve(script.clone(), None).await;
    let right = sink(at, account.clone());
    right.check().await.unwrap();
    right.send(&email(1, "jane@example.com", "x")).await.unwrap();

    fs::write(&secret, "wrong").unwrap();
    let wrong = sink(at, account.clone());
    assert_eq!(wrong.check().await.unwrap_err().kind, Unauthorized);
    assert_eq!(kind(wrong.send(&email(1, "jane@example.com", "x")).await), Unauthorized);
    assert!(!format!("{wrong:?}").contains("wrong"));

    let (at, _) = serve(Script { offers: &["AUTH CRAM-MD5"], ..script }, None).await;
    let error = sink(at, account).check().await.unwrap_err();
    assert!(error.detail.contains("neither AUTH PLAIN nor LOGIN"), "{error}");
}

/// An authority's certificate, and an acceptor that shows one for `localhost` which that authority signed.
fn certificate() -> (Vec<u8>, TlsAcceptor) {
    let authority = Authority::new();
    let Identity { certificate, key } = authority.identity("localhost");
    let identity = native_tls::Identity::from_pkcs8(&certificate, &key).unwrap();
    (authority.certificate(), native_tls::TlsAcceptor::new(identity).unwrap().into())
}

#[tokio::test]
async fn tls_is_spoken_and_the_certificate_is_checked() {
    let (pem, acceptor) = certificate();
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    fs::write(&ca_file, pem).unwrap();
    for (security, implicit) in [("implicit", true), ("starttls", false)] {
        let script = Script { offers: &["STARTTLS", "PIPELINING"], ..Script::default() };
        let (at, seen) = serve(script, Some((acceptor.clone(), implicit))).await;
        let trusting = json!({"host": "localhost", "security": security, "ca_file": ca_file});
        let sink = sink(at, trusting);
        sink.check().await.unwrap();
        for n in 0..3 {
            sink.send(&email(n, "jane@example.com", "x")).await.unwrap();
        }
        assert_eq!((seen.connections.load(Ordering::SeqCst), seen.taken()), (2, 3), "{security}");

        for distrusting in [
            json!({"host": "localhost", "security": security}),
            json!({"host": "127.0.0.1", "security": security, "ca_file": ca_file}),
        ] {
            let error = self::sink(at, distrusting).send(&email(9, "jane@example.com", "x")).await.unwrap_err();
            assert_eq!(error.kind, Unauthorized, "{security}: {error}");
        }
        assert_eq!(seen.taken(), 3);
    }
}

#[tokio::test]
async fn starttls_is_not_given_up_silently() {
    let (at, seen) = serve(Script::default(), None).await;
    let error = sink(at, json!({"security": "starttls"})).send(&email(1, "jane@example.com", "x")).await.unwrap_err();
    assert_eq!(error.kind, Unauthorized);
    assert!(error.detail.contains("offers no STARTTLS"), "{error}");
    assert_eq!(seen.taken(), 0);
}

#[tokio::test]
async fn words_before_the_handshake_are_refused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        stream.write_all(b"220 test\r\n").await.unwrap();
        stream.read_line(&mut String::new()).await.unwrap();
        stream.write_all(b"250-test\r\n250 STARTTLS\r\n").await.unwrap();
        stream.read_line(&mut String::new()).await.unwrap();
        stream.write_all(b"220 go ahead\r\n250 AUTH PLAIN\r\n").await.unwrap();
        stream.read_line(&mut String::new()).await.ok();
    });
    let error = sink(at, json!({"security": "starttls"})).check().await.unwrap_err();
    assert!(error.detail.contains("words before the handshake"), "{error}");
}

/// Postfix's own sink, ended with the test.
struct SmtpSinkProcess(Child);

impl Drop for SmtpSinkProcess {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn smtp_sink(arguments: &[&str]) -> (SmtpSinkProcess, SocketAddr) {
    let at = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = Command::new("/usr/sbin/smtp-sink");
    if fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0) {
        command.args(["-u", "nobody"]);
    }
    let child =
        command.args(arguments).args([&at.to_string(), "1000"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let process = SmtpSinkProcess(child.expect("smtp-sink: install Debian's package postfix"));
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    // It listens when it answers.
    while std::net::TcpStream::connect(at)
        .and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.read_exact(&mut [0; 3])?;
            stream.write_all(b"QUIT\r\n")
        })
        .is_err()
    {
        assert!(std::time::Instant::now() < deadline, "smtp-sink does not listen on {at}");
        std::thread::yield_now();
    }
    (process, at)
}

#[tokio::test(flavor = "multi_thread")]
async fn postfix_takes_five_hundred_letters_each_once() {
    let folder = tempfile::tempdir().unwrap();
    // `-u nobody` must be able to write.
    fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let dump = folder.path().join("mail.");
    let (_process, at) = smtp_sink(&["-d", dump.to_str().unwrap()]);
    let sink = Arc::new(sink(at, json!({})));
    let messages: Vec<_> = (0..500).map(|n| email(n, &format!("member{n}@example.com"), "Hello\n.\nend")).collect();
    let sends: Vec<_> = messages
        .iter()
        .cloned()
        .map(|message| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move { sink.send(&message).await })
        })
        .collect();
    for send in sends {
        send.await.unwrap().unwrap();
    }
    let mails: Vec<String> =
        fs::read_dir(folder.path()).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap()).collect();
    let ids =
        mails.iter().filter_map(|mail| mail.lines().find_map(|line| line.strip_prefix("X-Bellwether-Delivery: ")));
    let mut ids: Vec<_> = ids.map(|id| id.trim().to_owned()).collect();
    let mut expected: Vec<_> = messages.iter().map(|message| message.delivery.to_string()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn postfix_refuses_as_told() {
    for (arguments, expected) in [
        (&["-f", "rcpt"][..], Rejected),
        (&["-f", "rcpt", "-B", "550 5.1.1 no such user"], InvalidAddress),
        (&["-f", ".", "-B", "550 5.7.1 spam"], Rejected),
        (&["-r", "rcpt"], Transient),
        (&["-Q", "mail"], Transient),
        (&["-q", "rcpt"], Transient),
        (&["-q", "."], Ambiguous),
        (&["-r", "."], Transient),
        (&["-p", "-r", "rcpt"], Transient),
    ] {
        let (_process, at) = smtp_sink(arguments);
        let outcome = sink(at, json!({})).send(&email(1, "jane@example.com", "x")).await;
        let error = outcome.expect_err(&format!("{arguments:?}"));
        assert_eq!(error.kind, expected, "{arguments:?}: {error}");
    }
}
