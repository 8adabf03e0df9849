//! Real mail: letters by our sink to a Postfix of this test's own, on loopback, with one mailbox; its reports come to
//! our listener.
use super::{
    Shelf,
    counterparts::{ask, encoded, records, settings},
    key, message,
};
use bellwether_connectors::{
    channels::{Attachment, Email, Sink as _, smtp::SmtpSink},
    mail::{
        listener::{Config, serve},
        report::{Letter, Report, read},
    },
};
use bellwether_schemas::{
    DeliveryId, NotificationId, Timestamp,
    records::{ErrorKind, ReceiptKind},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

const POSTFIX: &str = "/usr/sbin/postfix";
const MISSING: [&str; 3] = ["nobody@example.com", "gone+1@example.com", "jane.doe@example.com"];

/// A Postfix with configuration, queue and ports of its own; stopped when this is dropped.
struct Postfix {
    folder: tempfile::TempDir,
    port: u16,
}

impl Postfix {
    /// Takes all mail for `example.com`, finds only `jane` there, and sends what goes to `bounce.shop.example` to
    /// `reports`.
    fn start(reports: u16) -> Self {
        let folder = tempfile::Builder::new().prefix("bellwether-postfix-").tempdir().unwrap();
        let home = folder.path();
        fs::set_permissions(home, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["conf", "queue", "data", "mail"] {
            fs::create_dir(home.join(name)).unwrap();
        }
        let (daemon, nobody) = (id("postfix"), id("nobody"));
        std::os::unix::fs::chown(home.join("data"), Some(daemon), None).unwrap();
        std::os::unix::fs::chown(home.join("mail"), Some(nobody), None).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {home}/queue\ndata_directory = {home}/data\n\
             maillog_file = {home}/maillog\nmaillog_file_prefixes = {home}\n\
             inet_interfaces = 127.0.0.1\ninet_protocols = ipv4\nmynetworks = 127.0.0.0/8\n\
             myhostname = mx.example.com\nmydestination =\nalias_maps =\nalias_database =\n\
             virtual_mailbox_domains = example.com\nvirtual_mailbox_base = {home}/mail\n\
             virtual_mailbox_maps = inline:{{jane@example.com=jane/}}\nvirtual_minimum_uid = 1\n\
             virtual_uid_maps = static:{nobody}\nvirtual_gid_maps = static:{nobody}\n\
             smtpd_reject_unlisted_recipient = no\nsmtpd_recipient_restrictions = permit_mynetworks, reject\n\
             transport_maps = inline:{{bounce.shop.example=smtp:[127.0.0.1]:{reports}}}\n",
            home = home.display(),
        );
        let services = [
            ("pickup", "60 1 pickup"),
            ("cleanup", "- 0 cleanup"),
            ("qmgr", "300 1 qmgr"),
            ("rewrite", "- - trivial-rewrite"),
            ("bounce", "- 0 bounce"),
            ("defer", "- 0 bounce"),
            ("trace", "- 0 bounce"),
            ("proxymap", "- - proxymap"),
            ("smtp", "- - smtp"),
            ("error", "- - error"),
            ("retry", "- - error"),
            ("anvil", "- 1 anvil"),
            ("scache", "- 1 scache"),
            ("tlsmgr", "1000? 1 tlsmgr"),
        ];
        let services = services.map(|(name, rest)| {
            // Those that anybody may talk to.
            let private = if matches!(name, "pickup" | "cleanup" | "qmgr") { "n" } else { "-" };
            format!("{name} unix {private} - n {rest}\n")
        });
        let master = format!(
            "127.0.0.1:{port} inet n - n - - smtpd\nvirtual unix - n n - - virtual\npostlog unix-dgram n - n - 1 postlogd\n{}",
            services.concat()
        );
        fs::write(home.join("conf/main.cf"), main).unwrap();
        fs::write(home.join("conf/master.cf"), master).unwrap();
        let this = Self { folder, port };
        assert!(this.run("start"), "{}", this.log());
        this
    }

    fn run(&self, what: &str) -> bool {
        Command::new(POSTFIX)
            .arg("-c")
            .arg(self.folder.path().join("conf"))
            .arg(what)
            .output()
            .unwrap()
            .status
            .success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("maillog")).unwrap_or_default()
    }

    /// Letters in jane's mailbox.
    fn mailbox(&self) -> Vec<PathBuf> {
        let new = self.folder.path().join("mail/jane/new");
        fs::read_dir(new).into_iter().flatten().map(|entry| entry.unwrap().path()).collect()
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.run("stop");
    }
}

fn id(user: &str) -> u32 {
    let output = Command::new("id").args(["-u", user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_missing_come_back_and_the_delivered_letter_verifies() {
    let can_start = Path::new(POSTFIX).exists() && fs::metadata("/proc/self").unwrap().uid() == 0;
    assert!(
        can_start,
        "this needs {POSTFIX} (apt-get install postfix) and root, because Postfix starts as no one else"
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let postfix = Postfix::start(listener.local_addr().unwrap().port());
    let (shelf, stop) = (Arc::new(Shelf::default()), CancellationToken::new());
    let handler = Arc::<Shelf>::clone(&shelf);
    tokio::spawn(serve(listener, Config::new(&["bounce.shop.example"]), None, handler, stop.clone()));
    let _stop = stop.drop_guard();

    let keys = tempfile::tempdir().unwrap();
    let config = settings(keys.path(), json!({"port": postfix.port, "delivery_reports": true}));
    let sink = SmtpSink::new(&config).unwrap();
    let delivery = |to: &str| DeliveryId::derive(NotificationId::default(), bellwether_schemas::Channel::Email, to);
    for to in MISSING.into_iter().chain(["jane@example.com"]) {
        let email = Email {
            subject: "Ваш заказ".into(),
            html: Some("<p>Grüße</p>\n.\n<img src='cid:logo.png'>".into()),
            text: None,
            attachments: vec![Attachment {
                name: "logo.png".into(),
                url: "data:image/png;base64,AAEC".into(),
                inline: true,
            }],
            unsubscribe: Some("https://shop.example/u?a=1".into()),
        };
        sink.send(&message(delivery(to), to, email)).await.unwrap();
    }

    let deadline = Instant::now() + Duration::from_secs(60);
    while shelf.kept.lock().unwrap().len() < 4 {
        assert!(Instant::now() < deadline, "reports did not come:\n{}", postfix.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = std::mem::take(&mut *shelf.kept.lock().unwrap());
    let mut failed = BTreeSet::new();
    for incoming in &kept {
        let report = read(&[key()], incoming);
        match &report {
            Report::Bounce { letter: Letter::Whole(origin), kind, status, .. } => {
                assert_eq!((*kind, status.unwrap().to_string().as_str()), (ErrorKind::InvalidAddress, "5.1.1"));
                assert_eq!(origin.reference.delivery, delivery(&origin.address));
                let receipt = report.clone().receipt(Timestamp(1)).unwrap();
                assert_eq!((receipt.kind, receipt.attempt), (ReceiptKind::Failed, 2));
                failed.insert(receipt.address.unwrap());
            }
            Report::Delivered(Letter::Whole(origin)) => assert_eq!(origin.address, "jane@example.com"),
            _ => panic!("{report:?}:\n{}", String::from_utf8_lossy(&incoming.content)),
        }
        // The address that it came to and the ENVID within say the same, each alone.
        let text = String::from_utf8_lossy(&incoming.content);
        let mark = key().mark(read_notification(&report), 2);
        assert_eq!(incoming.recipients, [format!("b+{mark}@bounce.shop.example")]);
        assert!(text.contains(&format!("Original-Envelope-Id: {mark}")), "{text}");
    }
    assert_eq!(failed, MISSING.map(str::to_owned).into());

    // Others see the same in Postfix's own words.
    let reports: Vec<_> = kept.into_iter().map(|incoming| incoming.content).collect();
    let found = ask("bounces", &json!(encoded(&reports)));
    let permanent = |one: &serde_json::Value| serde_json::from_value::<Vec<String>>(one["permanent"].clone()).unwrap();
    let found: BTreeSet<String> = found.as_array().unwrap().iter().flat_map(permanent).collect();
    assert_eq!(found, failed);

    let mailbox = postfix.mailbox();
    assert_eq!(mailbox.len(), 1, "{}", postfix.log());
    // A mailbox has the line ends of its machine.
    let letter = fs::read_to_string(&mailbox[0]).unwrap().replace('\n', "\r\n").into_bytes();
    let verdicts = ask("dkim", &json!({"records": records(), "messages": encoded(&[letter])}));
    assert_eq!(verdicts, json!([[true, true]]));
}

fn read_notification(report: &Report) -> NotificationId {
    match report {
        Report::Bounce { letter: Letter::Whole(origin), .. } | Report::Delivered(Letter::Whole(origin)) => {
            origin.reference.notification
        }
        _ => panic!("{report:?}"),
    }
}
