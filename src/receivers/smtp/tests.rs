//! Speaks SMTP by hand to the receiver: every behaviour, every refusal, and bytes that arrive in awkward pieces.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::receivers::test_support::Server;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

struct Client(BufReader<TcpStream>);

impl Client {
    /// Connects and says EHLO.
    async fn greeted(receiver: &SmtpReceiver) -> Self {
        let mut client = Self::connected(receiver).await;
        assert!(client.reply().await.starts_with("220 "));
        assert!(client.say("EHLO test").await.ends_with("250 ENHANCEDSTATUSCODES\r\n"));
        client
    }

    async fn connected(receiver: &SmtpReceiver) -> Self {
        let stream = TcpStream::connect(receiver.addr()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream))
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// One reply with all its lines; empty at the end of the connection.
    async fn reply(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let start = reply.len();
            if self.0.read_line(&mut reply).await.unwrap() == 0 || reply.as_bytes()[start..].get(3) != Some(&b'-') {
                return reply;
            }
        }
    }

    async fn say(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Sends a message and returns the reply to its final dot, or the first refusal before.
    async fn send(&mut self, to: &str, id: &str) -> String {
        self.send_text(to, &format!("Message-ID: <{id}>\r\nSubject: x\r\n\r\nhello\r\n")).await
    }

    async fn send_text(&mut self, to: &str, text: &str) -> String {
        for command in ["MAIL FROM:<shop@example.com>", &format!("RCPT TO:<{to}>"), "DATA"] {
            let reply = self.say(command).await;
            if !reply.starts_with(['2', '3']) {
                assert!(self.say("RSET").await.starts_with("250 "));
                return reply;
            }
        }
        self.write(format!("{text}.\r\n").as_bytes()).await;
        self.reply().await
    }

    /// Whatever comes until the receiver closes.
    async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).await.unwrap();
        rest
    }
}

async fn receiver(options: SmtpOptions) -> SmtpReceiver {
    SmtpReceiver::start(([127, 0, 0, 1], 0).into(), options).await.unwrap()
}

#[tokio::test]
async fn the_recipient_chooses_the_behaviour() {
    let receiver = receiver(SmtpOptions::default()).await;
    let mut client = Client::greeted(&receiver).await;
    let cases = [
        ("ana@example.com", "250 2.0.0 Ok: queued as "),
        ("tempfail7@example.com", "450 4.2.1 "),
        ("PermFail@example.com", "550 5.1.1 "),
        ("full@example.com", "552 5.2.2 "),
        ("full-soon.x@example.com", "452 4.2.2 "),
        ("policy@example.com", "550 5.7.1 "),
        ("reject-data@example.com", "554 5.6.0 "),
        ("tempfail-once@example.com", "450 4.2.1 "),
        ("bea@example.com", "250 2.0.0 Ok: queued as "),
    ];
    for (to, expected) in cases {
        let reply = client.send(to, &format!("{to}.id")).await;
        assert!(reply.starts_with(expected), "{to}: {reply}");
    }
    let received = receiver.snapshot();
    let order: Vec<&str> = received.order.iter().map(|taken| &*taken.recipient).collect();
    assert_eq!(order, ["ana@example.com", "bea@example.com"]);
    assert_eq!(received.accepted, HashMap::from([("ana@example.com.id".into(), 1), ("bea@example.com.id".into(), 1)]));
    assert_eq!(
        received.refused,
        HashMap::from([
            (Refusal::TempFail, 2),
            (Refusal::PermFail, 1),
            (Refusal::Full, 2),
            (Refusal::Policy, 1),
            (Refusal::RejectData, 1)
        ])
    );
    assert_eq!(received.connections, 1);
}

#[tokio::test]
async fn tempfail_once_is_counted_by_message() {
    let receiver = receiver(SmtpOptions { tempfails: 2, ..SmtpOptions::default() }).await;
    let mut client = Client::greeted(&receiver).await;
    for id in ["1@x", "2@x"] {
        for expected in ["450 4.2.1", "450 4.2.1", "250 2.0.0"] {
            assert!(client.send("tempfail-once@example.com", id).await.starts_with(expected));
        }
    }
    assert_eq!(receiver.snapshot().accepted, HashMap::from([("1@x".into(), 1), ("2@x".into(), 1)]));
}

#[tokio::test]
async fn silent_and_drop_take_the_message_and_say_nothing() {
    let receiver = receiver(SmtpOptions { silent: Duration::from_millis(30), ..SmtpOptions::default() }).await;
    for to in ["silent@example.com", "drop@example.com"] {
        let mut client = Client::greeted(&receiver).await;
        assert_eq!(client.send(to, "1@x").await, "", "{to}: the connection ends without an answer");
    }
    let received = receiver.snapshot();
    assert_eq!(received.unanswered, HashMap::from([("1@x".into(), 2)]));
    assert_eq!((received.accepted.len(), received.times("1@x"), receiver.count()), (0, 2, 2));
    assert!(received.order.iter().all(|taken| !taken.answered));
}

#[tokio::test]
async fn slow_takes_at_once_and_answers_late() {
    let slow = Duration::from_millis(60);
    let receiver = receiver(SmtpOptions { slow, ..SmtpOptions::default() }).await;
    let mut client = Client::greeted(&receiver).await;
    let start = Instant::now();
    assert!(client.send("slow@example.com", "1@x").await.starts_with("250 2.0.0"));
    assert!(start.elapsed() >= slow);
    assert_eq!(receiver.snapshot().times("1@x"), 1);
}

#[tokio::test]
async fn the_last_messages_are_kept_as_they_were_meant() {
    let receiver = receiver(SmtpOptions { keep: 2, ..SmtpOptions::default() }).await;
    let mut client = Client::greeted(&receiver).await;
    for id in ["1@x", "2@x", "3@x"] {
        let text = format!("Message-ID: <{id}>\r\n\r\n..one dot\r\n");
        assert!(client.send_text("ana@example.com", &text).await.starts_with("250"));
    }
    let messages = receiver.messages();
    let ids: Vec<(usize, &str)> = messages.iter().map(|m| (m.number, &*m.taken.message_id)).collect();
    assert_eq!(ids, [(1, "2@x"), (2, "3@x")]);
    assert_eq!(messages[1].text, b"Message-ID: <3@x>\r\n\r\n.one dot\r\n");
    assert_eq!(messages[1].sender, "shop@example.com");
    assert_eq!(receiver.count(), 3, "what is no longer kept is still counted");
    assert!(!format!("{messages:?}").contains("example.com"), "Debug shows no address");
}

#[tokio::test]
async fn replies_do_not_depend_on_how_the_bytes_arrive() {
    let wire = b"EHLO t\r\nMAIL FROM:<a@example.com> SIZE=20 BODY=8BITMIME\r\nRCPT TO:<permfail@example.com>\r\n\
        RCPT TO:<b@example.com>\r\nRCPT TO:<c@example.com>\r\nDATA\r\nMessage-ID: <1@x>\r\n\r\nhi\r\n..\r\n.\r\n\
        MAIL FROM:<>\r\nRCPT TO:<b@example.com>\r\nDATA\r\n.\r\nNOOP\r\nQUIT\r\n";
    let receiver = receiver(SmtpOptions::default()).await;
    let mut conversations = Vec::new();
    for piece in [wire.len(), 7, 1] {
        let mut client = Client::connected(&receiver).await;
        for bytes in wire.chunks(piece) {
            client.write(bytes).await;
        }
        let replies = client.rest().await;
        conversations.push(replies.lines().map(|line| line[..9.min(line.len())].to_owned()).collect::<Vec<_>>());
    }
    let codes: Vec<&str> = conversations[0].iter().map(|line| &line[..4]).collect();
    let expected = "220 250-250-250-250-250 250 550 250 250 354 250 250 250 354 250 250 221 ";
    assert_eq!(codes.concat(), expected);
    assert_eq!(conversations[0], conversations[1]);
    assert_eq!(conversations[0], conversations[2]);
    let received = receiver.snapshot();
    assert_eq!(received.accepted, HashMap::from([("1@x".into(), 6), ("".into(), 3)]), "once for each recipient");
}

#[tokio::test]
async fn commands_out_of_order_or_shape_are_refused_and_the_conversation_goes_on() {
    let receiver = receiver(SmtpOptions::default()).await;
    let mut client = Client::connected(&receiver).await;
    client.reply().await;
    let script = [
        ("MAIL FROM:<a@example.com>", "503 5.5.1"),
        ("EHLO", "501 5.5.4"),
        ("HELO test", "250 "),
        ("DATA", "503 5.5.1"),
        ("RCPT TO:<b@example.com>", "503 5.5.1"),
        ("MAIL FROM: <a@example.com>", "501 5.5.4"),
        ("MAIL FROM:<a@example.com", "501 5.5.4"),
        ("MAIL FROM:<a@example.com> SIZE=many", "501 5.5.4"),
        ("MAIL FROM:<a@example.com> RET=HDRS", "555 5.5.4"),
        ("MAIL FROM:<\"a>b\"@example.com>", "250 2.1.0"),
        ("MAIL FROM:<a@example.com>", "503 5.5.1"),
        ("RCPT TO:<nobody>", "501 5.1.3"),
        ("RCPT TO:<señora@example.com>", "553 5.6.7"),
        ("RCPT TO:<b@example.com> NOTIFY=NEVER", "555 5.5.4"),
        ("DATA", "554 5.5.1"),
        ("RSET", "250 2.0.0"),
        ("vrfy someone", "252 "),
        ("STARTTLS", "500 5.5.2"),
        ("", "500 5.5.2"),
        ("NOOP", "250 2.0.0"),
        ("QUIT", "221 2.0.0"),
    ];
    for (line, expected) in script {
        let reply = client.say(line).await;
        assert!(reply.starts_with(expected), "{line}: {reply}");
    }
    assert_eq!(client.rest().await, "");
    // A connection's last counts are added as it ends.
    let ended = |received: &Received| received.commands == script.len() as u64;
    assert!(receiver.wait_for(ended, MINUTE).await);
}

#[tokio::test]
async fn too_much_is_refused_and_the_connection_stays_usable() {
    let receiver = receiver(SmtpOptions { max_message_bytes: 20_000, ..SmtpOptions::default() }).await;
    let mut client = Client::greeted(&receiver).await;
    assert!(client.say("MAIL FROM:<a@example.com> SIZE=20001").await.starts_with("552 5.3.4"));
    assert!(client.say(&format!("NOOP {}", "x".repeat(50_000))).await.starts_with("500 5.5.2"));
    let body = format!("{}\r\n", "x".repeat(70)).repeat(1000);
    assert!(client.send_text("ana@example.com", &body).await.starts_with("552 5.3.4"));
    let line = format!("\r\n{}\r\n", "x".repeat(999));
    assert!(client.send_text("ana@example.com", &line).await.starts_with("554 5.6.0"));
    assert!(client.send("ana@example.com", "1@x").await.starts_with("250 2.0.0"));
    assert_eq!(receiver.count(), 1);
}

#[tokio::test]
async fn messages_above_the_throttle_are_told_to_wait() {
    let receiver = receiver(SmtpOptions { max_per_second: Some(2), ..SmtpOptions::default() }).await;
    let mut client = Client::greeted(&receiver).await;
    client.write("MAIL FROM:<a@example.com>\r\nRSET\r\n".repeat(3).as_bytes()).await;
    let mut codes = String::new();
    for _ in 0..6 {
        codes.push_str(&client.reply().await[..4]);
    }
    assert_eq!(codes, "250 250 250 250 451 250 ");
    assert_eq!(receiver.snapshot().refused, HashMap::from([(Refusal::Throttled, 1)]));
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away() {
    let receiver = receiver(SmtpOptions { max_connections: 1, ..SmtpOptions::default() }).await;
    let first = Client::greeted(&receiver).await;
    let mut second = Client::connected(&receiver).await;
    assert!(second.reply().await.starts_with("421 4.3.2"));
    drop(first);
}

#[tokio::test]
async fn waiting_ends_with_the_message_or_with_the_time() {
    let receiver = receiver(SmtpOptions::default()).await;
    assert!(!receiver.wait_for(|received| received.times("1@x") > 0, Duration::from_millis(5)).await);
    let mut client = Client::greeted(&receiver).await;
    let arrived = receiver.wait_for(|received| received.times("1@x") > 0, MINUTE);
    let (arrived, _) = tokio::join!(arrived, client.send("ana@example.com", "1@x"));
    assert!(arrived);
}

#[tokio::test]
async fn dropping_the_receiver_ends_its_connections() {
    let receiver = receiver(SmtpOptions::default()).await;
    let mut client = Client::greeted(&receiver).await;
    drop(receiver);
    assert_eq!(tokio::time::timeout(SECOND, client.rest()).await.unwrap(), "");
}

#[tokio::test]
async fn readers_call_what_the_letter_offers_of_the_senders_pages_alone() {
    let home = Server::start().await;
    let receiver = receiver(SmtpOptions::default()).await;
    receiver.find_pages(Pages { origin: "https://l.example".into(), served_at: home.url("") });
    let letter = |id: &str, site: &str, one_click: &str| {
        format!(
            "Message-ID: <{id}>\r\nList-Unsubscribe: <{site}/u/1>,\r\n <mailto:u@example.com>\r\n{one_click}MIME-Version: 1.0\r\n\
             Content-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
             <a href=3D\"https://shop.example/\">a</a><a href=3D\"{site}/c/1?a=3D1&amp;b=3D2\">b</a>=\r\n<img src=3D\"{site}/o/1\">\r\n"
        )
    };
    let (ours, one_click) = ("https://l.example", "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
    let mut client = Client::greeted(&receiver).await;
    for (to, letter) in [
        ("ana1@example.com", letter("1@x", ours, one_click)),
        ("ana2@example.com", letter("2@x", ours, one_click)),
        ("ana3@example.com", letter("3@x", "https://l.example.org", one_click)),
        ("leave-4@example.com", letter("4@x", ours, one_click)),
        ("leave-5@example.com", letter("5@x", ours, "")),
    ] {
        assert!(client.send_text(to, &letter).await.starts_with("250 2.0.0"), "{to}");
    }
    assert!(receiver.wait_for(|received| received.readings.pending == 0, MINUTE).await);
    let received = receiver.snapshot();
    let told = |id: &str| [Arc::from(id)].into();
    let expected = [(Event::Opened, told("1@x")), (Event::Clicked, told("1@x")), (Event::Left, told("4@x"))];
    assert_eq!(received.told, HashMap::from(expected));
    assert_eq!(received.readings, Callbacks { acknowledged: 3, ..Callbacks::default() });
    let mut calls: Vec<String> = home
        .calls()
        .iter()
        .map(|call| format!("{} {} {}", call.method, call.uri, String::from_utf8_lossy(&call.body)))
        .collect();
    calls.sort();
    assert_eq!(calls, ["GET /c/1?a=1&b=2 ", "GET /o/1 ", "POST /u/1 List-Unsubscribe=One-Click"]);
}
