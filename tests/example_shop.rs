//! The example shop says of itself what is true: its files are counted here a second time, by other means than those that wrote them.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_schemas::{
    Channel,
    definitions::{DeclaredEvent, Flow, Project, Provider, Template},
};
use serde_json::{Map, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
};

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/shop")
}

fn read(file: &str) -> String {
    fs::read_to_string(shop().join(file)).unwrap()
}

fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap()
}

/// The YAML files of a folder, by their name without ending.
fn folder<T: serde::de::DeserializeOwned>(name: &str) -> BTreeMap<String, T> {
    let files = fs::read_dir(shop().join(name)).unwrap().map(|entry| entry.unwrap().path());
    let named = |path: PathBuf| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path);
    files.map(named).map(|(name, path)| (name, yaml(&fs::read_to_string(path).unwrap()))).collect()
}

fn expected() -> Value {
    serde_json::from_str(&read("expected.json")).unwrap()
}

type Row = HashMap<String, String>;

fn members() -> Vec<Row> {
    csv::Reader::from_reader(read("members.csv").as_bytes()).deserialize().map(Result::unwrap).collect()
}

/// The national region makes a number with spaces and without country code whole, as the project's `default_region` says.
fn e164(phone: &str) -> Option<String> {
    let number = phonenumber::parse(Some(phonenumber::country::Id::ES), phone).ok()?;
    number.is_valid().then(|| number.format().mode(phonenumber::Mode::E164).to_string())
}

/// Why a row is wrong, if it is; empty cells are absent.
fn wrong_field(row: &Row) -> Option<&'static str> {
    let is_locale = |text: &str| {
        let (language, region) = text.split_once('-').unwrap_or((text, "ES"));
        language.len() == 2 && region.len() == 2 && text.chars().all(|c| c.is_ascii_alphabetic() || c == '-')
    };
    let is_opt_in = |text: &str| matches!(text, "true" | "false");
    let fits = |field: &str, right: &dyn Fn(&str) -> bool| row[field].is_empty() || right(&row[field]);
    let checks: [(&'static str, bool); 12] = [
        ("client_user_id", !row["client_user_id"].is_empty()),
        ("email", fits("email", &email_address::EmailAddress::is_valid)),
        ("phone", fits("phone", &|text| e164(text).is_some())),
        ("locale", fits("locale", &is_locale)),
        (
            "time_zone",
            fits("time_zone", &|text| {
                text.starts_with("Europe/") || text.contains("Canary") || text.contains("Mexico")
            }),
        ),
        ("channels", fits("channels", &|text| text.split(',').all(|name| name.parse::<Channel>().is_ok()))),
        ("opt_ins.email", fits("opt_ins.email", &is_opt_in)),
        ("opt_ins.sms", fits("opt_ins.sms", &is_opt_in)),
        ("whatsapp", fits("whatsapp", &|text| e164(text).is_some())),
        ("telegram", fits("telegram", &|text| text.parse::<u64>().is_ok())),
        ("app_push", fits("app_push", &|text| text.starts_with("fcm:") || text.starts_with("apns:"))),
        ("webhook", fits("webhook", &|text| text.starts_with("crm-"))),
    ];
    checks.into_iter().find(|(_, right)| !right).map(|(field, _)| field)
}

#[test]
fn the_definitions_have_the_shape_that_operators_write() {
    let project: Project = yaml(&read("project.yaml"));
    assert_eq!((project.name.as_str(), project.default_locale.as_str()), ("shop", "en"));
    let providers: BTreeMap<String, Provider> =
        yaml(&read("providers.yaml").replace("${SHOP_SMTP_PORT:-1025}", "1025"));
    let kinds: Vec<(&str, &str)> = providers.iter().map(|(name, p)| (name.as_str(), p.kind.as_str())).collect();
    let known = ["apns", "fcm", "smtp", "telegram", "twilio", "web_push", "webhook", "whatsapp_cloud"];
    assert_eq!(kinds.iter().map(|(_, kind)| *kind).collect::<BTreeSet<_>>(), known.into());

    let templates: BTreeMap<String, Template> = folder("templates");
    for (name, template) in &templates {
        for channel in Channel::ALL {
            for locale in ["es", "en"] {
                let variant = &template.channels[&channel][locale];
                let has = |email, push, json| {
                    let fields = [&variant.subject, &variant.title, &variant.json].map(Option::is_some);
                    assert_eq!(fields, [email, push, json], "{name}.{channel}.{locale}");
                };
                match channel {
                    Channel::Email => has(true, false, false),
                    Channel::WebPush | Channel::AppPush => has(false, true, false),
                    Channel::Webhook => has(false, false, true),
                    _ => has(false, false, false),
                }
                assert_eq!(variant.template.is_some(), channel == Channel::Whatsapp, "{name}.{channel}.{locale}");
            }
        }
        for variant in template.channels[&Channel::Sms].values() {
            let one_part = variant.text.as_ref().is_some_and(|text| !text.contains(['á', 'í', 'ó', 'ú', '\u{2019}']));
            assert!(one_part, "{name}: a letter outside GSM 03.38 makes a text message dearer");
        }
    }
    let flows: BTreeMap<String, Flow> = folder("flows");
    let events: BTreeMap<String, DeclaredEvent> = folder("events");
    let declared: HashSet<&String> = events.values().map(|event| &event.kind).collect();
    assert_eq!(declared, flows.values().map(|flow| &flow.on).collect(), "what a flow waits for is declared");
    let used: HashSet<&String> = flows.values().filter_map(|flow| flow.notify.template.as_ref()).collect();
    assert_eq!(used, templates.keys().collect(), "every template has its flow");
}

#[test]
fn the_members_are_as_many_as_it_says() {
    let browsers: HashMap<String, String> =
        csv::Reader::from_reader(read("browsers.csv").as_bytes()).deserialize().map(Result::unwrap).collect();
    let (mut counts, mut ids, mut numbers) = (BTreeMap::<&str, u64>::new(), HashSet::new(), HashSet::new());
    let mut count = |name, holds: bool| *counts.entry(name).or_default() += u64::from(holds);
    for row in members() {
        count("rows", true);
        let wrong = wrong_field(&row);
        count("rejected", wrong.is_some());
        count("valid", wrong.is_none());
        if wrong.is_some() {
            continue;
        }
        assert!(ids.insert(row["client_user_id"].clone()), "an id is there twice");
        let number = e164(&row["phone"]);
        let last_four = number.as_ref().map_or(9999, |number| number[number.len() - 4..].parse().unwrap());
        let local_part = row["email"].split('@').next().unwrap();
        let behaves =
            ["tempfail", "permfail", "reject-data", "slow", "silent", "full", "policy", "drop", "bounce", "leave"];
        let browser = browsers.get(&row["client_user_id"]).map_or("", String::as_str);
        let others = ["whatsapp", "telegram", "app_push", "webhook"];
        for (count_name, column) in
            ["with_whatsapp", "with_telegram", "with_app_push", "with_webhook"].into_iter().zip(others)
        {
            count(count_name, !row[column].is_empty());
        }
        count("with_browser", !browser.is_empty());
        // A number may be written with blanks.
        let addresses = others.map(|column| row[column].replace(' ', "")).into_iter().chain([browser.to_owned()]);
        let ends = |address: String| {
            address.get(address.len().saturating_sub(4)..).is_some_and(|end| ("0001"..="0009").contains(&end))
        };
        let special = addresses.into_iter().any(ends);
        count(
            "with_receiver_behaviour",
            special || last_four <= 9 || behaves.iter().any(|name| local_part.starts_with(name)),
        );
        assert!(number.is_none_or(|number| numbers.insert(number)), "a phone is there twice");
        count("without_email", row["email"].is_empty());
        count("without_phone", row["phone"].is_empty());
        count("without_locale", row["locale"].is_empty());
        for (opt_in, refused, unsaid) in
            [("opt_ins.email", "email_refused", "email_unsaid"), ("opt_ins.sms", "sms_refused", "sms_unsaid")]
        {
            count(refused, row[opt_in] == "false");
            count(unsaid, row[opt_in].is_empty());
        }
    }
    assert_eq!(serde_json::to_value(counts).unwrap(), expected()["members"]);
}

/// The attributes of a line, if it is a CloudEvent with a subject; otherwise what is wrong.
fn cloud_event(line: &str) -> Result<Map<String, Value>, &'static str> {
    let Value::Object(event) = serde_json::from_str(line).map_err(|_| "broken_json")? else {
        return Err("not_an_object");
    };
    let text = |name: &str| event.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    if text("specversion") != Some("1.0") {
        Err("wrong_specversion")
    } else if text("type").is_none() {
        Err("missing_type")
    } else if text("subject").is_none() {
        Err("missing_subject")
    } else if text("id").is_none() || text("source").is_none() {
        Err("wrong_type")
    } else if text("time").is_some_and(|time| time.parse::<jiff::Timestamp>().is_err()) {
        Err("wrong_time")
    } else {
        Ok(event)
    }
}

#[test]
fn the_events_are_as_many_as_it_says() {
    let flows: BTreeMap<String, Flow> = folder("flows");
    let known: HashSet<String> = members()
        .into_iter()
        .filter(|row| wrong_field(row).is_none())
        .map(|row| row["client_user_id"].clone())
        .collect();
    let mut counts = BTreeMap::<&str, u64>::new();
    let (mut malformed, mut notifying) = (BTreeMap::<&str, u64>::new(), BTreeMap::<&str, u64>::new());
    let mut seen = HashMap::new();
    for line in read("events.ndjson").lines() {
        let mut count = |name| *counts.entry(name).or_default() += 1;
        count("lines");
        let event = match cloud_event(line) {
            Ok(event) => event,
            Err(problem) => {
                count("malformed");
                *malformed.entry(problem).or_default() += 1;
                continue;
            }
        };
        count("valid");
        if let Some(earlier) = seen.insert((event["source"].clone(), event["id"].clone()), line.to_owned()) {
            assert_eq!(earlier, line, "a repetition is exact");
            count("duplicate");
            continue;
        }
        count("distinct");
        let flow = flows.values().find(|flow| flow.on == event["type"]);
        let data = &event["data"];
        match flow.map(|flow| (flow.notify.template.as_deref().unwrap(), flow.when.is_some())) {
            None => count("no_flow"),
            Some((_, true)) if !data.is_object() => count("undecidable"),
            Some(("order_placed", _)) if !data["total"].as_f64().is_some_and(|total| total > 0.0) => {
                count("condition_false");
            }
            Some(("order_shipped", _)) if data["carrier"] == "pickup" => count("condition_false"),
            Some(_) if !known.contains(event["subject"].as_str().unwrap()) => count("unknown_member"),
            Some((template, _)) => {
                count("notifying");
                *notifying.entry(template).or_default() += 1;
            }
        }
    }
    let mut recounted = serde_json::to_value(counts).unwrap();
    recounted["malformed_by_kind"] = serde_json::to_value(malformed).unwrap();
    recounted["notifying_by_template"] = serde_json::to_value(notifying).unwrap();
    assert_eq!(recounted, expected()["events"]);
}

#[test]
fn the_readme_says_the_same() {
    let expected = expected();
    let readme = read("README.md");
    // Cells such as "`members.rows` 533".
    let cells = readme.lines().filter_map(|line| line.rsplit('|').nth(1)?.trim().strip_prefix('`')?.split_once("` "));
    let mut checked = 0;
    for (path, count) in cells {
        let value = &expected[path.split('.').next().unwrap()][path.split('.').nth(1).unwrap()];
        assert_eq!(value.to_string(), count, "{path}");
        checked += 1;
    }
    assert_eq!(checked, 26, "every count of the tables is checked");
}
