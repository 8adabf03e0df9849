//! The tables of codes and of actions, as data: read from the files, with nothing of the code that is tested.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

/// Tables of codes, by provider.
const TABLES: [(&str, &str); 9] = [
    ("twilio", "connectors/src/channels/twilio.codes.csv"),
    ("whatsapp", "connectors/src/channels/whatsapp.codes.csv"),
    ("telegram", "connectors/src/channels/telegram.codes.csv"),
    ("web_push", "connectors/src/channels/web_push.codes.csv"),
    ("fcm", "connectors/src/channels/fcm.codes.csv"),
    ("apns", "connectors/src/channels/apns.codes.csv"),
    ("webhook", "connectors/src/channels/webhook.codes.csv"),
    ("smtp", "connectors/src/channels/smtp.codes.csv"),
    ("mail", "connectors/src/mail/status.codes.csv"),
];

/// What Meta tells of a message that it has taken, by a callback with the status `failed`; everything else it refuses at once.
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/support/error-codes>.
const WHATSAPP_LATER: [&str; 9] =
    ["130472", "131026", "131042", "131047", "131048", "131049", "131050", "131052", "131053"];

/// One line of a table of codes.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) provider: &'static str,
    pub(crate) code: String,
    pub(crate) class: String,
    /// The provider's wait for one address.
    pub(crate) wait: Option<Duration>,
    pub(crate) name: String,
    /// It comes after the message was taken: by a callback or a report.
    pub(crate) later: bool,
    /// The project that meets it.
    pub(crate) project: String,
}

/// What a class of error promises.
#[derive(Clone, Debug)]
pub(crate) struct Action {
    pub(crate) message: String,
    pub(crate) address: String,
    pub(crate) account: String,
}

/// The lines of a file behind its head.
fn lines(file: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let mut lines = text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned);
    assert!(
        lines.next().is_some_and(|head| head.starts_with("code,") || head.starts_with("class,")),
        "{file}: no head"
    );
    let lines: Vec<_> = lines.collect();
    assert!(!lines.is_empty(), "{file} is empty");
    lines
}

/// Every code of every table.
pub(crate) fn cases() -> Vec<Case> {
    let of = |(provider, file): (&'static str, &str)| {
        let lines = lines(file).into_iter().enumerate();
        let case = move |(n, line): (usize, String)| {
            let fields: Vec<&str> = line.splitn(4, ',').collect();
            let [code, class, wait, name] = fields[..] else { panic!("{provider}: {line}") };
            let later = match provider {
                // Twilio's codes from 30000 on are of the carriers, who speak when the message is theirs.
                "twilio" => code.starts_with('3'),
                "whatsapp" => WHATSAPP_LATER.contains(&code),
                provider => provider == "mail",
            };
            Case {
                provider,
                code: code.into(),
                class: class.into(),
                wait: (!wait.is_empty()).then(|| Duration::from_secs(wait.parse().unwrap())),
                name: name.into(),
                later,
                project: format!("{}-{n}", provider.replace('_', "-")),
            }
        };
        lines.map(case).collect::<Vec<_>>()
    };
    TABLES.into_iter().flat_map(of).collect()
}

/// The action of each class.
pub(crate) fn actions() -> BTreeMap<String, Action> {
    let action = |line: String| {
        let fields: Vec<&str> = line.split(',').collect();
        let [class, message, address, account] = fields[..] else { panic!("{line}") };
        (class.to_owned(), Action { message: message.into(), address: address.into(), account: account.into() })
    };
    lines("tests/conformance/actions.csv").into_iter().map(action).collect()
}

impl Case {
    /// The code as it stands in a receipt's words.
    pub(crate) fn code_in_words(&self) -> String {
        match self.provider {
            "smtp" => self.code.split_once(' ').unwrap().1.to_owned(),
            "mail" => self.enhanced(),
            _ => self.code.clone(),
        }
    }

    /// A status of a report as mail writes it: 1001 is 5.1.1.
    pub(crate) fn enhanced(&self) -> String {
        let number: u32 = self.code.parse().unwrap();
        format!("5.{}.{}", number / 1000, number % 1000)
    }

    /// The code as a number, which it is with most providers.
    pub(crate) fn number(&self) -> u32 {
        self.code.parse().unwrap()
    }
}
