//! Every schema version that was ever released stays readable. A released version is a file `avro/history/NAME.VERSION.avsc` and the bytes it wrote,
//! `tests/golden/NAME.VERSION.bin`; neither is ever edited.
#![allow(clippy::unwrap_used, missing_docs)]

use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use bellwether_schemas::{
    Channel, DeliveryId, EventId, Lane, NotificationId, Timestamp, Topic,
    codec::{self, Encoded},
    ids::EntryId,
    records::{
        DeadLetter, Decision, DefinitionSet, Delivery, ErrorKind, Event, Header, MemberAction, MemberCommand,
        Notification, Outcome, ProviderHealth, Reason, Receipt, ReceiptKind, Scheduled, Standing, Verdict,
    },
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    env,
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
};

/// A record whose released versions are checked.
trait Released: Encoded + PartialEq + Debug {
    /// What `tests/golden/NAME.VERSION.bin` must decode to: the values that were written then, and the default in every field that came later.
    fn sample(version: u32) -> Self;
}

const ACCEPTED: Timestamp = Timestamp(1_767_225_600_123); // 2026-01-01T00:00:00.123Z
const LATER: Timestamp = Timestamp(1_767_312_000_000);

fn event_id() -> EventId {
    EventId::derive("shop", "/orders", "o-1")
}

fn notification_id() -> NotificationId {
    NotificationId::derive(event_id(), "order-paid", 3, 0, "m-17")
}

fn delivery_id() -> DeliveryId {
    DeliveryId::derive(notification_id(), Channel::Email, "ana@example.com")
}

impl Released for Event {
    fn sample(_version: u32) -> Self {
        Self {
            project: "shop".into(),
            id: "o-1".into(),
            source: "/orders".into(),
            kind: "order.paid".into(),
            subject: Some("m-17".into()),
            time: Timestamp(-1),
            accepted_at: ACCEPTED,
            data: r#"{"total":"12.50 €"}"#.into(),
        }
    }
}

impl Released for MemberCommand {
    fn sample(version: u32) -> Self {
        Self {
            project: "shop".into(),
            member: "m-17".into(),
            at: ACCEPTED,
            actor: "twilio".into(),
            action: MemberAction::Suppress,
            patch: Some(r#"{"locale":"de"}"#.into()),
            channel: Some(Channel::Sms),
            address: Some("+491701234567".into()),
            reason: Some("unreachable".into()),
            category: (version > 2).then(|| "newsletter".into()),
            proof: (version > 2).then(|| "message SM1".into()),
            other: (version > 4).then(|| "m-18".into()),
        }
    }
}

impl Released for Notification {
    fn sample(version: u32) -> Self {
        Self {
            id: notification_id(),
            project: "shop".into(),
            member: "m-17".into(),
            event: event_id(),
            event_type: "order.paid".into(),
            flow: "order-paid".into(),
            flow_version: 3,
            step: 0,
            template: "order-paid".into(),
            lane: Lane::Bulk,
            channels: vec![Channel::Sms, Channel::Email],
            expires_at: Some(LATER),
            accepted_at: ACCEPTED,
            data: r#"{"total":"12.50 €"}"#.into(),
            round: if version < 3 { 0 } else { 2 },
            tried: if version < 4 { Vec::new() } else { vec![Channel::Sms] },
            gathered_in: (version > 4).then(|| "order-paid/bulk/\"A-1\"".into()),
        }
    }
}

impl Released for Delivery {
    fn sample(version: u32) -> Self {
        Self {
            id: delivery_id(),
            notification: notification_id(),
            project: "shop".into(),
            member: "m-17".into(),
            event_type: "order.paid".into(),
            template: "order-paid".into(),
            channel: Channel::Email,
            address: "ana@example.com".into(),
            locale: Some("pt-BR".into()),
            lane: Lane::Transactional,
            attempt: 2,
            accepted_at: ACCEPTED,
            expires_at: None,
            context: r#"{"member":{"name":"Ana"}}"#.into(),
            window_until: (version > 1).then_some(LATER),
        }
    }
}

impl Released for Receipt {
    fn sample(_version: u32) -> Self {
        Self {
            delivery: delivery_id(),
            notification: notification_id(),
            project: "shop".into(),
            member: "m-17".into(),
            template: "order-paid".into(),
            channel: Channel::Email,
            kind: ReceiptKind::Failed,
            at: LATER,
            attempt: 2,
            provider: "post".into(),
            provider_id: None,
            error: Some(ErrorKind::InvalidAddress),
            detail: Some("550 5.1.1 no such user".into()),
            address: Some("ana@example.com".into()),
        }
    }
}

impl Released for Scheduled {
    fn sample(_version: u32) -> Self {
        Self {
            id: EntryId::derive("scheduled", &[b"sample"]),
            project: "shop".into(),
            due: LATER,
            topic: Topic::Deliveries(Channel::Email, Lane::Bulk).name().into(),
            key: "shop/m-17".into(),
            payload: vec![0, 1, 0xC3, 0xFF],
        }
    }
}

impl Released for Decision {
    fn sample(version: u32) -> Self {
        let verdict = |channel, rule: &str| Verdict::new(channel, rule, "the facts");
        let (rejected, chosen) = (verdict(Channel::Sms, "no_opt_in"), verdict(Channel::Email, "chosen"));
        let trace = if version < 4 {
            vec![rejected, chosen]
        } else {
            let (score, reach, engagement, cost) = (Some(750), Some(700), Some(550), Some(1_000));
            vec![
                Verdict { count: Some(3), limit: Some(3), ..rejected },
                Verdict { score, reach, engagement, cost, ..chosen },
            ]
        };
        Self {
            id: EntryId::derive("decision", &[b"sample"]),
            notification: notification_id(),
            project: "shop".into(),
            member: "m-17".into(),
            event: event_id(),
            event_type: "order.paid".into(),
            flow: "order-paid".into(),
            flow_version: 3,
            template: "order-paid".into(),
            at: LATER,
            outcome: Outcome::Routed,
            channel: Some(Channel::Email),
            delivery: Some(delivery_id()),
            trace,
            detail: "the first usable channel".into(),
        }
    }
}

impl Released for DeadLetter {
    fn sample(_version: u32) -> Self {
        Self {
            id: EntryId::derive("dead-letter", &[b"sample"]),
            project: String::new(),
            at: LATER,
            processor: "flow".into(),
            reason: Reason::Malformed,
            detail: "data: not JSON".into(),
            topic: Topic::Events.name().into(),
            partition: 7,
            offset: 1 << 40,
            key: b"shop/m-17".to_vec(),
            payload: b"{".to_vec(),
            headers: vec![Header { name: "content-type".into(), value: b"application/json".to_vec() }],
        }
    }
}

impl Released for DefinitionSet {
    fn sample(_version: u32) -> Self {
        Self {
            project: "shop".into(),
            version: 4,
            published_at: ACCEPTED,
            actor: "ana".into(),
            document: r#"{"flows":[]}"#.into(),
        }
    }
}

impl Released for ProviderHealth {
    fn sample(_version: u32) -> Self {
        Self {
            project: "shop".into(),
            provider: "mail".into(),
            settings: "9a3f".into(),
            instance: "node-1".into(),
            at: ACCEPTED,
            standing: Standing::Held,
            until: Some(LATER),
            detail: "429: too many requests".into(),
        }
    }
}

/// Calls a check with each record type that has a codec.
macro_rules! for_each_record {
    ($check:ident) => {
        $check::<Event>();
        $check::<MemberCommand>();
        $check::<Notification>();
        $check::<Delivery>();
        $check::<Receipt>();
        $check::<Scheduled>();
        $check::<Decision>();
        $check::<DeadLetter>();
        $check::<DefinitionSet>();
        $check::<ProviderHealth>();
    };
}
const RECORDS: usize = 10;

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn current(name: &str) -> String {
    fs::read_to_string(folder("avro").join(format!("{name}.avsc"))).unwrap()
}

/// Source of each released version of `name`, by its number.
fn history(name: &str) -> BTreeMap<u32, String> {
    let prefix = format!("{name}.");
    fs::read_dir(folder("avro/history"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let file = path.file_name()?.to_str()?;
            let version = file.strip_prefix(&prefix)?.strip_suffix(".avsc")?.parse().ok()?;
            Some((version, fs::read_to_string(&path).unwrap()))
        })
        .collect()
}

fn schema(source: &str) -> apache_avro::Schema {
    apache_avro::Schema::parse_str(source).unwrap()
}

/// CRC-64-AVRO of the schema's parsing canonical form. Two schemas that differ in words or defaults only have the same.
fn fingerprint(source: &str) -> [u8; 8] {
    *source.parse::<serde_avro_fast::Schema>().unwrap().rabin_fingerprint()
}

/// Whether what `writer` wrote can always be read with `reader`; otherwise why not. "Partial" means: for some values only, so it is refused.
fn always_reads(reader: &str, writer: &str) -> Result<(), String> {
    match SchemaCompatibility::can_read(&schema(writer), &schema(reader)) {
        Ok(Compatibility::Full) => Ok(()),
        Ok(Compatibility::Partial) => Err("some values that were written cannot be read".into()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn every_schema_file_belongs_to_a_record_that_is_checked_here() {
    let files = fs::read_dir(folder("avro")).unwrap().map(|entry| entry.unwrap().path());
    assert_eq!(files.filter(|path| path.extension().is_some_and(|e| e == "avsc")).count(), RECORDS);
}

#[test]
fn the_current_schema_is_the_newest_released_version() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        let versions = history(name);
        let (newest, source) =
            versions.last_key_value().expect("no version is released: freeze the schema as version 1");
        assert_eq!(
            fingerprint(source),
            fingerprint(&current(name)),
            "{name}.avsc is not what was released as {name}.{newest}.avsc. If that is intended: copy it to avro/history/{name}.{}.avsc; \
             put \"{newest}\" first in the list of {name}'s older versions in src/codec.rs; let sample() in this test give new fields a value, and for \
             versions up to {newest} their default; run this test with BELLWETHER_BLESS=1, which writes the new golden file; commit all of it.",
            newest + 1
        );
    }
    for_each_record!(check);
}

#[test]
fn the_current_schema_reads_what_every_released_version_wrote() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        for (version, writer) in history(name) {
            always_reads(&current(name), &writer).unwrap_or_else(|problem| {
                panic!("{name}.avsc cannot read version {version}: {problem}. Give new fields a default, keep types, names and symbols.")
            });
        }
    }
    for_each_record!(check);
}

#[test]
fn golden_files_of_every_released_version_decode_to_what_was_written() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        let versions = history(name);
        let newest = versions.keys().next_back().copied();
        for (version, source) in versions {
            let path = folder("tests/golden").join(format!("{name}.{version}.bin"));
            // A golden file that exists is never written again: what old readers wrote does not change.
            if env::var_os("BELLWETHER_BLESS").is_some() && Some(version) == newest && !path.exists() {
                fs::write(&path, codec::encode(&R::sample(version)).unwrap()).unwrap();
            }
            let bytes =
                fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}; see BELLWETHER_BLESS", path.display()));
            assert_eq!(
                bytes[2..10],
                fingerprint(&source),
                "{name}.{version}.bin was not written with {name}.{version}.avsc"
            );
            let decoded = codec::decode::<R>(&bytes).unwrap_or_else(|error| panic!("{name}.{version}.bin: {error}"));
            assert_eq!(decoded, R::sample(version), "{name}.{version}.bin");
        }
    }
    for_each_record!(check);
}

/// Other implementations must find our schemas by our fingerprints (Avro 1.12 specification, "Parsing Canonical Form for Schemas").
#[test]
fn fingerprints_are_those_of_the_specification() {
    /// Drops logical types, then says `"long"` for `{"type": "long"}`: the rules STRIP and PRIMITIVES, the second of which apache-avro 0.22 leaves
    /// out for what had a logical type.
    fn plain(value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(plain),
            Value::Object(object) => {
                object.values_mut().for_each(plain);
                if object.contains_key("logicalType") {
                    *value = object["type"].take();
                }
            }
            _ => {}
        }
    }
    fn check<R: Released>() {
        let name = R::schemas().name;
        let mut value: Value = serde_json::from_str(&current(name)).unwrap();
        plain(&mut value);
        let reference = schema(&value.to_string()).fingerprint::<apache_avro::rabin::Rabin>();
        assert_eq!(reference.bytes[..], R::schemas().current().rabin_fingerprint()[..], "{name}");
    }
    for_each_record!(check);
}

#[test]
fn apache_avro_reads_what_the_codec_writes() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        let bytes = codec::encode(&R::sample(u32::MAX)).unwrap();
        let mut datum = &bytes[10..]; // after marker and fingerprint
        apache_avro::reader::datum::GenericDatumReader::builder(&schema(&current(name)))
            .build()
            .unwrap()
            .read_value(&mut datum)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(datum.is_empty(), "{name}: {} bytes are left", datum.len());
    }
    for_each_record!(check);
}

/// Changes `source` as JSON.
fn changed(source: &str, change: impl FnOnce(&mut Vec<Value>)) -> String {
    let mut value: Value = serde_json::from_str(source).unwrap();
    change(value["fields"].as_array_mut().unwrap());
    value.to_string()
}

#[test]
fn incompatible_changes_are_refused() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        let old = current(name);
        let text = |field: &Value| field["type"] == json!("string");
        let enumeration = |field: &Value| field["type"]["type"] == json!("enum");
        let refuse = |what: &str, new: String| {
            assert_ne!(fingerprint(&old), fingerprint(&new), "{name}: {what} changed nothing");
            assert!(always_reads(&new, &old).is_err(), "{name}: {what} was accepted");
        };
        let added = changed(&old, |fields| fields.push(json!({"name": "new", "type": "string"})));
        refuse("a new field without default", added);
        let typed = changed(&old, |fields| fields.iter_mut().find(|f| text(f)).unwrap()["type"] = json!("long"));
        refuse("another type", typed);
        let renamed = changed(&old, |fields| fields.iter_mut().find(|f| text(f)).unwrap()["name"] = json!("renamed"));
        refuse("a name without alias", renamed);
        let mut has_enumeration = false;
        let narrowed = changed(&old, |fields| {
            if let Some(field) = fields.iter_mut().find(|field| enumeration(field)) {
                has_enumeration = true;
                field["type"]["symbols"].as_array_mut().unwrap().pop();
            }
        });
        if has_enumeration {
            refuse("a symbol less", narrowed);
        }
    }
    for_each_record!(check);
}

#[test]
fn compatible_changes_are_accepted() {
    fn check<R: Released>() {
        let name = R::schemas().name;
        let old = current(name);
        let accept = |what: &str, new: &str| {
            always_reads(new, &old).unwrap_or_else(|problem| panic!("{name}: {what} was refused: {problem}"));
        };
        let added = json!({"name": "new", "type": ["null", "string"], "default": null});
        accept("a new field with a default", &changed(&old, |fields| fields.push(added)));
        accept("a field less", &changed(&old, |fields| drop(fields.pop())));
        let alias = changed(&old, |fields| {
            let field = &mut fields[0];
            field["aliases"] = json!([field["name"]]);
            field["name"] = json!("renamed");
        });
        accept("a new name with the old one as alias", &alias);
    }
    for_each_record!(check);
}

#[test]
fn a_default_that_an_older_version_needs_cannot_be_taken_away() {
    let first = changed(&current("event"), |fields| fields.retain(|field| field["name"] != "subject"));
    let with_default = current("event");
    let without = changed(&with_default, |fields| {
        for field in fields {
            field.as_object_mut().unwrap().remove("default");
        }
    });
    assert_eq!(always_reads(&with_default, &first), Ok(()));
    assert!(always_reads(&without, &first).is_err());
}
