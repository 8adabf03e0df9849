//! Every error code of every provider, through the whole pipeline, embedded: a receiver in the provider's shape gives each code of its table once, in
//! the form in which that provider sends it, and the store shows the action that the code's class promises. Each code has a project of its own,
//! because one that stops a provider must not disturb the others.
//!
//! What is expected comes from two data files: the provider's table (code → class) and `actions.csv` (class → action).
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../house/mod.rs"]
mod house;
mod receiver;
mod tables;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bellwether_connectors::channels::web_push::generate_vapid;
use bellwether_schemas::{
    Channel, Timestamp,
    codec::decode,
    member::AddressState,
    records::{Delivery, MemberAction, MemberCommand, Receipt, ReceiptKind, Record},
    tables::{DeadLetterRow, ScheduledRow, StoryRow, SuppressionRow},
};
use futures::{StreamExt as _, stream};
use house::{House, until};
use receiver::Receiver;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, net::SocketAddr, path::Path, time::Duration};
use tables::{Action, Case};

/// Wait before a second try, so long that none comes while this runs.
const BACKOFF: Duration = Duration::from_secs(1_800);
/// What a provider that throttles asks for.
const RETRY_AFTER: Duration = Duration::from_secs(7_200);
const MEMBER: &str = "m";

/// Secrets that providers share here, as files.
struct Secrets(Value, Value, Value, Value);

impl Secrets {
    fn write(folder: &Path) -> Self {
        let file = |name: &str, text: &str| {
            fs::write(folder.join(name), text).unwrap();
            json!({"file": folder.join(name)})
        };
        let rsa = openssl::rsa::Rsa::generate(2048).unwrap().private_key_to_pem().unwrap();
        let account = json!({"type": "service_account", "project_id": "p", "private_key_id": "k", "client_email": "b@p.example",
            "private_key": String::from_utf8(rsa).unwrap(), "token_uri": "http://127.0.0.1:9/"});
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let key = openssl::pkey::PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        let p8 = String::from_utf8(key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        Self(
            file("word", receiver::SECRET),
            file("account", &account.to_string()),
            file("p8", &p8),
            file("vapid", &generate_vapid().unwrap().0),
        )
    }
}

/// The provider of a case at the receiver, what it sends, and the member's address there.
async fn provider(case: &Case, at: SocketAddr, secrets: &Secrets) -> (&'static str, Value, Value, String) {
    let Secrets(word, account, p8, vapid) = secrets;
    let base = format!("http://{at}/{}", case.project);
    let (channel, mut provider, variant, address) = match case.provider {
        "twilio" => {
            let callback = format!("https://hooks.example/v1/webhooks/{}/main", case.project);
            let provider = json!({"account_sid": "AC1", "auth_token": word, "from": "+15550002222", "base_url": base, "status_callback_url": callback});
            ("sms", provider, json!({"text": "Hi"}), "+34600111222".to_owned())
        }
        "whatsapp" => {
            let provider = json!({"kind": "whatsapp_cloud", "phone_number_id": "1", "access_token": word, "app_secret": word, "base_url": base});
            ("whatsapp", provider, json!({"template": {"name": "hello", "language": "en"}}), "+34600111222".to_owned())
        }
        "telegram" => ("telegram", json!({"bot_token": word, "base_url": base}), json!({"html": "Hi"}), "7".to_owned()),
        "fcm" => {
            let provider = json!({"service_account": account, "token_uri": format!("{base}/token"), "base_url": base});
            ("app_push", provider, json!({"title": "Hi", "text": "you"}), "fcm:token-1".to_owned())
        }
        "apns" => {
            let provider = json!({"key": p8, "key_id": "ABC123DEFG", "team_id": "DEF123GHIJ", "topic": "com.example.shop", "base_url": base});
            ("app_push", provider, json!({"title": "Hi", "text": "you"}), format!("apns:{}", "ab".repeat(32)))
        }
        "web_push" => {
            let (_, browser) = generate_vapid().unwrap();
            let keys = json!({"p256dh": browser, "auth": URL_SAFE_NO_PAD.encode([7; 16])});
            let subscription = json!({"endpoint": format!("{base}/push"), "keys": keys});
            let provider = json!({"vapid_private_key": vapid, "subject": "mailto:a@shop.example", "allow_private_endpoints": true,
                "push_services": ["127.0.0.1"]});
            ("web_push", provider, json!({"title": "Hi", "text": "you"}), subscription.to_string())
        }
        "webhook" => (
            "webhook",
            json!({"url": format!("{base}/hook"), "secret": word}),
            json!({"json": "{}"}),
            "crm-7".to_owned(),
        ),
        "smtp" | "mail" => {
            let port = receiver::smtp(case).await.port();
            let provider = json!({"kind": "smtp", "host": "127.0.0.1", "port": port, "security": "none", "from_address": "a@shop.example",
                "username": "u", "password": word, "return_path_domain": "bounce.example", "return_path_key": word});
            ("email", provider, json!({"subject": "Hi", "text": "you"}), format!("{}@example.org", case.project))
        }
        other => panic!("nobody speaks for {other}"),
    };
    let fields = provider.as_object_mut().unwrap();
    fields.entry("kind").or_insert_with(|| case.provider.into());
    fields.insert("backoff_ms".into(), json!(BACKOFF.as_millis() as u64));
    (channel, provider, variant, address)
}

/// Defines a case's project, makes its member, and sends the event.
async fn begin(house: &House, case: &Case, at: SocketAddr, secrets: &Secrets) {
    let (channel, provider, variant, address) = provider(case, at, secrets).await;
    house.define(&case.project, channel, &provider, &variant).await;
    let field = if channel == "sms" { "phone" } else { channel };
    if channel == "web_push" {
        house.put_member(&case.project, MEMBER, &json!({})).await;
        // Only a browser itself sends its subscription; the command is what comes of it.
        house
            .append(&Record::Member(MemberCommand {
                channel: Some(Channel::WebPush),
                address: Some(address),
                ..MemberCommand::new(
                    case.project.clone(),
                    MEMBER.into(),
                    MemberAction::AddAddress,
                    "test".into(),
                    Timestamp(1),
                )
            }))
            .await;
        until("the browser is known", async || {
            house.profile(&case.project, MEMBER).await.filter(|profile| !profile.addresses.is_empty())
        })
        .await;
    } else {
        house.put_member(&case.project, MEMBER, &json!({field: address})).await;
    }
    house.event(&case.project, "1", MEMBER).await;
}

/// Receipts of each project, but for `sent`.
async fn receipts(house: &House) -> BTreeMap<String, Vec<(Receipt, Timestamp)>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for line in house.all::<StoryRow>().await.into_iter().filter(|line| line.kind == "receipt") {
        let receipt: Receipt = serde_json::from_str(&line.detail).unwrap();
        if receipt.kind != ReceiptKind::Sent {
            found.entry(line.project).or_default().push((receipt, line.at));
        }
    }
    found
}

/// All that is to be looked at when everything is at rest.
struct Seen {
    receipts: BTreeMap<String, Vec<(Receipt, Timestamp)>>,
    scheduled: Vec<(Timestamp, Delivery)>,
    dead_letters: Vec<DeadLetterRow>,
    suppressions: Vec<SuppressionRow>,
}

impl Seen {
    async fn look(house: &House) -> Self {
        let scheduled = house.all::<ScheduledRow>().await.into_iter();
        Self {
            receipts: receipts(house).await,
            scheduled: scheduled.map(|row| (row.due, decode(&row.payload).unwrap())).collect(),
            dead_letters: house.all().await,
            suppressions: house.all().await,
        }
    }

    /// What differs from what is promised; nothing where all is well.
    async fn differs(&self, house: &House, case: &Case, action: &Action) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut expect = |what: &str, is: bool| {
            if !is {
                wrong.push(format!("{} `{}` ({}): {what}", case.provider, case.code, case.class))
            }
        };
        let told = self.receipts.get(&case.project).map_or(&[][..], Vec::as_slice);
        let [(receipt, at)] = told else {
            return vec![format!("{} `{}`: not one receipt: {told:?}", case.provider, case.code)];
        };
        expect(
            &format!("its class is {:?}", receipt.error),
            receipt.error.is_some_and(|kind| kind.name() == case.class),
        );
        let words = receipt.detail.as_deref().unwrap_or_default();
        expect(
            &format!("its words are `{words}`"),
            words.contains(&case.name) || words.contains(&case.code_in_words()),
        );

        let message = if case.later { "failed" } else { action.message.as_str() };
        let again = message == "again";
        expect(&format!("it is {}", receipt.kind.name()), (receipt.kind == ReceiptKind::Deferred) == again);
        let scheduled: Vec<_> =
            self.scheduled.iter().filter(|(_, delivery)| delivery.project == case.project).collect();
        expect(&format!("{} tries are scheduled", scheduled.len()), scheduled.len() == usize::from(again));
        let holds = action.account == "held" && case.wait.is_none();
        let least = case.wait.unwrap_or_default().max(if holds { RETRY_AFTER } else { BACKOFF });
        for (due, delivery) in scheduled {
            expect(&format!("try {} is scheduled", delivery.attempt), delivery.attempt == 2);
            let wait = due.since(*at);
            expect(&format!("it waits {wait:?}"), wait >= least && wait <= least.max(BACKOFF + BACKOFF / 2));
        }
        let letters: Vec<_> = self.dead_letters.iter().filter(|row| row.project == case.project).collect();
        expect(&format!("{} dead letters", letters.len()), letters.len() == usize::from(message == "dead_letter"));
        expect("the dead letter's reason", letters.iter().all(|row| row.reason == "rejected"));

        let profile = house.profile(&case.project, MEMBER).await.unwrap();
        let (channel, addresses) = profile.addresses.iter().next().unwrap();
        let address = &addresses[0];
        let suppressed = action.address == "suppressed";
        expect(
            &format!("the address is {:?}", address.state),
            (address.state == AddressState::Suppressed) == suppressed,
        );
        let misses = address.misses.len();
        expect(&format!("{misses} misses"), misses == usize::from(action.address == "missed"));
        let refused = profile.opt_ins.get(channel).is_some_and(|words| words.all == Some(false));
        expect(&format!("opt-ins {:?}", profile.opt_ins), refused == (action.address == "opted_out"));
        let listed: Vec<_> = self.suppressions.iter().filter(|row| row.project == case.project).collect();
        expect(&format!("on the list: {listed:?}"), listed.len() == usize::from(suppressed));
        let same = |row: &&&SuppressionRow| {
            row.address == address.address && row.source == "provider main" && row.reason == words
        };
        expect("what the list says", listed.iter().filter(same).count() == listed.len());

        let label = format!("{}/main", case.project);
        let (held, stopped) = (&house.instance.metrics.provider_held, &house.instance.metrics.provider_stopped);
        let (held, stopped) =
            (held.with_label_values(&[&label]).get() == 1, stopped.with_label_values(&[&label]).get() == 1);
        expect(&format!("held: {held}"), held == (holds && !case.later));
        expect(&format!("stopped: {stopped}"), stopped == (action.account == "stopped" && !case.later));
        wrong
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_code_of_every_provider_ends_in_the_action_of_its_class() {
    let folder = tempfile::tempdir().unwrap();
    let (cases, actions) = (tables::cases(), tables::actions());
    let receiver = Receiver::start(&cases).await;
    let secrets = Secrets::write(folder.path());
    let projects: Vec<String> = cases.iter().map(|case| case.project.clone()).collect();
    let house = House::start(folder.path(), &projects, |config| {
        config.mail.listen = Some(([127, 0, 0, 1], 0).into());
        config.mail.domains = vec!["bounce.example".into()];
    })
    .await;

    let (house, receiver, secrets) = (&house, &receiver, &secrets);
    stream::iter(&cases)
        .for_each_concurrent(16, |case| async move {
            begin(house, case, receiver.address, secrets).await;
            if case.later {
                receiver.tell_later(house, case, house.instance.mail_address.unwrap()).await;
            }
        })
        .await;
    until("every code has ended in a receipt", async || {
        let told = receipts(house).await;
        cases.iter().all(|case| told.contains_key(&case.project)).then_some(())
    })
    .await;
    house.at_rest().await;

    let seen = Seen::look(house).await;
    let mut wrong = Vec::new();
    for case in &cases {
        wrong.extend(seen.differs(house, case, &actions[&case.class]).await);
    }
    assert!(wrong.is_empty(), "{} things are wrong, of {} codes:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}
