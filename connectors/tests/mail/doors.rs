//! The listener, spoken to as mail servers and others do, and the maildir.
use super::Shelf;
use bellwether_connectors::mail::{
    listener::{Config, Protocol, serve},
    maildir::Maildir,
};
use openssl::{asn1::Asn1Time, hash::MessageDigest, pkey::PKey, rsa::Rsa, x509::X509};
use std::{fs, net::SocketAddr, sync::Arc, sync::atomic::Ordering, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_native_tls::{TlsAcceptor, native_tls};
use tokio_util::sync::{CancellationToken, DropGuard};

async fn listen(config: Config, tls: Option<TlsAcceptor>) -> (SocketAddr, Arc<Shelf>, DropGuard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (at, shelf, stop) = (listener.local_addr().unwrap(), Arc::new(Shelf::default()), CancellationToken::new());
    tokio::spawn(serve(listener, config, tls, Arc::<Shelf>::clone(&shelf), stop.clone()));
    (at, shelf, stop.drop_guard())
}

fn config() -> Config {
    Config::new(&["bounce.shop.example"])
}

/// Says all at once and returns the codes of the answers, until the server closes.
async fn say<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, words: &str) -> Vec<String> {
    stream.write_all(words.as_bytes()).await.unwrap();
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.unwrap();
    answers.lines().filter(|line| line.as_bytes()[3] == b' ').map(|line| line[..3].to_owned()).collect()
}

const LETTER: &str = "MAIL FROM:<>\r\nRCPT TO:<b+1@bounce.shop.example>\r\nDATA\r\n";

#[tokio::test]
async fn mail_is_taken_whole_and_dots_are_undone() {
    let (at, shelf, _stop) = listen(config(), None).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    // All in one packet, a lone dot within, line feeds that are no line ends, and a line without end for long.
    let long = "x".repeat(40_000);
    let words = format!(
        "EHLO a\r\n{LETTER}Subject: 1\r\n\r\n..dot\r\n\n.\nMAIL FROM:<evil@x>\r\n{long}\r\n.\r\n{LETTER}.\r\nQUIT\r\n"
    );
    let codes = say(&mut stream, &words).await;
    assert_eq!(codes, ["220", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"]);
    let kept = shelf.kept.lock().unwrap();
    assert_eq!(kept.len(), 2);
    let expected = format!("Subject: 1\r\n\r\n.dot\r\n\n.\nMAIL FROM:<evil@x>\r\n{long}\r\n");
    assert!(kept[0].content == expected.as_bytes(), "{} bytes", kept[0].content.len());
    assert_eq!(
        (kept[0].recipients.as_slice(), kept[1].content.len()),
        (&["b+1@bounce.shop.example".to_owned()][..], 0)
    );
}

#[tokio::test]
async fn every_split_of_the_bytes_is_understood() {
    let (at, shelf, _stop) = listen(config(), None).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.set_nodelay(true).unwrap();
    for byte in format!("EHLO a\r\n{LETTER}a\r\n..\r\n.\r\n").bytes() {
        stream.write_all(&[byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    assert_eq!(say(&mut stream, "QUIT\r\n").await.last().unwrap(), "221");
    assert_eq!(shelf.kept.lock().unwrap()[0].content, b"a\r\n.\r\n");
}

#[tokio::test]
async fn what_is_not_kept_is_offered_again_and_strangers_are_turned_away() {
    let (at, shelf, _stop) = listen(config(), None).await;
    shelf.refuse.store(1, Ordering::SeqCst);
    let mut stream = TcpStream::connect(at).await.unwrap();
    let words = format!(
        "EHLO a\r\nMAIL FROM:<x@y>\r\nRCPT TO:<x@elsewhere.example>\r\nDATA\r\nRSET\r\n{LETTER}a\r\n.\r\n{LETTER}a\r\n.\r\nQUIT\r\n"
    );
    let codes = say(&mut stream, &words).await;
    assert_eq!(codes[..6], ["220", "250", "250", "550", "503", "250"]);
    assert_eq!(codes[6..], ["250", "250", "354", "451", "250", "250", "354", "250", "221"]);
    assert_eq!(shelf.kept.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn lmtp_answers_for_each_recipient() {
    let (at, shelf, _stop) = listen(Config { protocol: Protocol::Lmtp, ..config() }, None).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let words = "LHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<b+1@bounce.shop.example>\r\nRCPT TO:<b+2@bounce.shop.example>\r\nDATA\r\na\r\n.\r\nQUIT\r\n";
    assert_eq!(say(&mut stream, words).await, ["220", "250", "250", "250", "250", "354", "250", "250", "221"]);
    assert_eq!(shelf.kept.lock().unwrap()[0].recipients.len(), 2);
}

#[tokio::test]
async fn everything_is_bounded() {
    let limits = Config {
        max_message_bytes: 1000,
        keep_bytes: 100,
        max_connections: 1,
        idle: Duration::from_millis(300),
        ..config()
    };
    let (at, shelf, _stop) = listen(limits, None).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let (fits, large) = ("x".repeat(900), "x".repeat(2000));
    let noise = "y".repeat(3000);
    let words = format!("EHLO a\r\n{noise}\r\n{LETTER}{fits}\r\n.\r\n{LETTER}{large}\r\n.\r\n");
    stream.write_all(words.as_bytes()).await.unwrap();
    let mut second = TcpStream::connect(at).await.unwrap();
    assert_eq!(say(&mut second, "").await, ["421"]);
    let codes = say(&mut stream, "").await;
    assert_eq!(
        codes,
        ["220", "250", "500", "250", "250", "354", "250", "250", "250", "354", "552", "421"],
        "and idle at the end"
    );
    assert_eq!(shelf.kept.lock().unwrap()[0].content.len(), 100);

    let (at, shelf, _stop) = listen(config(), None).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    let words = format!("{}EHLO a\r\n{LETTER}x\r\n.\r\n", "nonsense\r\n".repeat(102));
    assert_eq!(say(&mut stream, &words).await.last().unwrap(), "421");
    assert!(shelf.kept.lock().unwrap().is_empty(), "whoever makes so many mistakes is not listened to any more");
}

#[tokio::test]
async fn what_is_said_before_the_handshake_is_forgotten() {
    let key = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let mut certificate = X509::builder().unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    certificate.set_not_after(&Asn1Time::days_from_now(1).unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let pem = (certificate.build().to_pem().unwrap(), key.private_key_to_pem_pkcs8().unwrap());
    let identity = native_tls::Identity::from_pkcs8(&pem.0, &pem.1).unwrap();
    let acceptor: TlsAcceptor = native_tls::TlsAcceptor::new(identity).unwrap().into();
    let (at, shelf, _stop) = listen(config(), Some(acceptor)).await;
    let mut stream = TcpStream::connect(at).await.unwrap();
    stream.write_all(b"EHLO a\r\nMAIL FROM:<>\r\nSTARTTLS\r\n").await.unwrap();
    let mut heard = String::new();
    while !heard.contains("220 2.0.0") {
        let mut bytes = [0; 512];
        let n = stream.read(&mut bytes).await.unwrap();
        heard.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    assert!(heard.contains("250-STARTTLS"), "{heard}");
    let trusting = native_tls::TlsConnector::builder().danger_accept_invalid_certs(true).build().unwrap();
    let mut stream = tokio_native_tls::TlsConnector::from(trusting).connect("localhost", stream).await.unwrap();
    let words =
        format!("RCPT TO:<b@bounce.shop.example>\r\nMAIL FROM:<>\r\nEHLO a\r\n{LETTER}x\r\n.\r\nSTARTTLS\r\nQUIT\r\n");
    assert_eq!(say(&mut stream, &words).await, ["503", "503", "250", "250", "250", "354", "250", "500", "221"]);
    assert_eq!(shelf.kept.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_maildir_is_emptied_once_kept() {
    let home = tempfile::tempdir().unwrap();
    let [new, cur] = ["new", "cur"].map(|name| home.path().join(name));
    [&new, &cur].into_iter().for_each(|folder| fs::create_dir(folder).unwrap());
    for (name, text) in [("2.b", "second"), ("1.a", "first"), (".hidden", "x"), ("3.c:2,", "0123456789")] {
        fs::write(new.join(name), text).unwrap();
    }
    // Another message has the name already.
    fs::write(cur.join("1.a:2,S"), "older").unwrap();
    let shelf = Shelf::default();
    shelf.refuse.store(1, Ordering::SeqCst);
    let maildir = Maildir { folder: home.path().into(), every: Duration::from_millis(10), keep_bytes: 8 };
    assert_eq!(maildir.round(&shelf).await.unwrap(), 2, "the first was not kept and holds up nobody");
    let stop = CancellationToken::new();
    let (_, ()) = tokio::join!(maildir.watch(&shelf, &stop), async {
        while shelf.kept.lock().unwrap().len() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        while fs::exists(new.join("1.a")).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
    });
    let texts: Vec<_> =
        shelf.kept.lock().unwrap().iter().map(|mail| String::from_utf8(mail.content.clone()).unwrap()).collect();
    assert_eq!(texts, ["second", "01234567", "first"]);
    let names = |folder| {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&new), [".hidden"]);
    assert_eq!(names(&cur), ["1.a.1:2,S", "1.a:2,S", "2.b:2,S", "3.c:2,S"]);
    assert_eq!(fs::read_to_string(cur.join("1.a:2,S")).unwrap(), "older");
}
