//! Every encoding of an event: what is read, what is refused and in which words. One test asks a real schema registry.

#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_connectors::{
    events::{
        EventDecoder, EventError, EventErrorKind, MAX_ATTRIBUTE_BYTES, MAX_DATA_BYTES, MAX_EVENT_BYTES,
        MAX_SUBJECT_BYTES, Registry, RegistryConfig, parse_batch, parse_binary, parse_structured,
    },
    log::LogRecord,
};
use bellwether_schemas::{
    Position, Timestamp, Topic, codec,
    records::{Event, Header, Reason},
};
use proptest::prelude::*;
use serde::Serialize;
use serde_json::{Value, json};

const NOW: Timestamp = Timestamp(1_767_225_600_000);

fn cloud_event() -> Value {
    json!({
        "specversion": "1.0", "id": "o-1", "source": "/till/4", "type": "shop.order.placed", "subject": "ana",
        "time": "2025-12-31T23:00:00+01:00", "datacontenttype": "application/json; charset=utf-8",
        "traceparent": "00-ab", "attempt": 3, "data": {"total": 12.50, "note": "ñandú"},
    })
}

fn expected() -> Event {
    Event {
        project: "shop".into(),
        id: "o-1".into(),
        source: "/till/4".into(),
        kind: "shop.order.placed".into(),
        subject: Some("ana".into()),
        time: Timestamp(1_767_218_400_000),
        accepted_at: NOW,
        data: r#"{"total":12.50,"note":"ñandú"}"#.into(),
    }
}

fn bytes(event: &Value) -> Vec<u8> {
    event.to_string().into_bytes()
}

fn with(field: &str, value: Value) -> Value {
    let mut event = cloud_event();
    event[field] = value;
    event
}

fn without(field: &str) -> Value {
    let mut event = cloud_event();
    event.as_object_mut().unwrap().remove(field);
    event
}

fn kind_and_field(result: Result<Event, EventError>) -> (EventErrorKind, String) {
    let error = result.unwrap_err();
    assert!(!error.remedy.is_empty() && !error.problem.is_empty(), "{error}");
    (error.kind, error.field)
}

fn record(headers: &[(&str, &[u8])], payload: impl Into<bytes::Bytes>) -> LogRecord {
    LogRecord {
        position: Position { topic: Topic::Events, partition: 0, offset: 0 },
        key: bytes::Bytes::new(),
        payload: payload.into(),
        headers: headers.iter().map(|(n, v)| Header { name: (*n).into(), value: v.to_vec() }).collect(),
    }
}

fn decoder(registry: Option<Registry>) -> EventDecoder {
    EventDecoder { registry, default_project: Some("shop".into()) }
}

#[test]
fn a_structured_event_is_read() {
    // Built by hand, so that the data's own spelling is seen to survive.
    let json = r#" {"specversion":"1.0","id":"o-1","source":"\/till\/4","type":"shop.order.placed","subject":"ana",
        "time":"2025-12-31T23:00:00+01:00","x":{"deep":[1]},"data":{"total":12.50,"note":"ñandú"}} "#;
    assert_eq!(parse_structured(json.as_bytes(), Some("shop"), NOW).unwrap(), expected());
}

#[test]
fn what_may_be_absent_has_a_meaning() {
    let event = parse_structured(&bytes(&without("time")), Some("shop"), NOW).unwrap();
    assert_eq!(event.time, NOW);
    let event = parse_structured(&bytes(&without("data")), Some("shop"), NOW).unwrap();
    assert_eq!(event.data, "null");
    let event = parse_structured(&bytes(&with("time", Value::Null)), Some("shop"), NOW).unwrap();
    assert_eq!(event.time, NOW, "null is absent (JSON format, section 2.2)");
}

#[test]
fn the_project_is_the_key_s_or_the_event_s() {
    let named = bytes(&with("project", "shop".into()));
    assert_eq!(parse_structured(&named, None, NOW).unwrap().project, "shop");
    assert_eq!(parse_structured(&named, Some("shop"), NOW).unwrap().project, "shop");
    let invalid = (EventErrorKind::Invalid, "project".to_owned());
    assert_eq!(kind_and_field(parse_structured(&named, Some("other"), NOW)), invalid);
    assert_eq!(kind_and_field(parse_structured(&bytes(&cloud_event()), None, NOW)), invalid);
    assert_eq!(kind_and_field(parse_structured(&bytes(&with("project", "A/b".into())), None, NOW)), invalid);
}

#[test]
fn each_refusal_names_the_field() {
    let long = "x".repeat(257);
    let cases: [(Value, EventErrorKind, &str); 21] = [
        (without("specversion"), EventErrorKind::Invalid, "specversion"),
        (with("specversion", "0.3".into()), EventErrorKind::Invalid, "specversion"),
        (with("specversion", json!(1.0)), EventErrorKind::Invalid, "specversion"),
        (without("id"), EventErrorKind::Invalid, "id"),
        (with("id", "".into()), EventErrorKind::Invalid, "id"),
        (with("id", json!(5)), EventErrorKind::Invalid, "id"),
        (with("id", json!({"a": 1})), EventErrorKind::Invalid, "id"),
        (with("source", json!(null)), EventErrorKind::Invalid, "source"),
        (with("type", json!([])), EventErrorKind::Invalid, "type"),
        (with("type", "x".repeat(1025).into()), EventErrorKind::Invalid, "type"),
        (without("subject"), EventErrorKind::Invalid, "subject"),
        (with("subject", long.into()), EventErrorKind::Invalid, "subject"),
        (with("subject", "a\nb".into()), EventErrorKind::Invalid, "subject"),
        (with("time", "yesterday".into()), EventErrorKind::Invalid, "time"),
        (with("time", json!(1_767_225_600)), EventErrorKind::Invalid, "time"),
        (with("datacontenttype", "text/plain".into()), EventErrorKind::Invalid, "datacontenttype"),
        (with("data_base64", "e30=".into()), EventErrorKind::Invalid, "data_base64"),
        (with("data", "x".repeat(MAX_DATA_BYTES).into()), EventErrorKind::TooLarge, "data"),
        (with("extension", "x".repeat(MAX_EVENT_BYTES).into()), EventErrorKind::TooLarge, "event"),
        (json!([cloud_event()]), EventErrorKind::Malformed, "event"),
        (json!("text"), EventErrorKind::Malformed, "event"),
    ];
    for (event, kind, field) in cases {
        let given = kind_and_field(parse_structured(&bytes(&event), Some("shop"), NOW));
        assert_eq!(given, (kind, field.to_owned()), "{field}");
    }
}

#[test]
fn broken_json_is_malformed_and_broken_data_is_named() {
    let head = r#"{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"ana""#;
    let deep = format!("{}{}", "[".repeat(101), "]".repeat(101));
    let cases = [
        (String::new(), EventErrorKind::Malformed, "event"),
        ("{".into(), EventErrorKind::Malformed, "event"),
        (head.to_owned(), EventErrorKind::Malformed, "event"),
        (format!("{head}}} trailing"), EventErrorKind::Malformed, "event"),
        (format!(r#"{head},"id":"2"}}"#), EventErrorKind::Invalid, "id"),
        (format!(r#"{head},"data":1e999}}"#), EventErrorKind::Invalid, "data"),
        (format!(r#"{head},"data":"\ud800"}}"#), EventErrorKind::Invalid, "data"),
        (format!(r#"{head},"data":{deep}}}"#), EventErrorKind::Invalid, "data"),
        (head.replace("ana", r"\ud800") + "}", EventErrorKind::Invalid, "subject"),
    ];
    for (json, kind, field) in cases {
        let given = kind_and_field(parse_structured(json.as_bytes(), Some("shop"), NOW));
        assert_eq!(given, (kind, field.to_owned()), "{json}");
    }
    let secret = format!(r#"{head},"time":["S3CRET"]}}"#);
    assert!(!parse_structured(secret.as_bytes(), Some("shop"), NOW).unwrap_err().to_string().contains("S3CRET"));
    let latin = [head.as_bytes(), b",\"data\":\"\xF1\"}"].concat();
    assert!(parse_structured(&latin, Some("shop"), NOW).is_err(), "not UTF-8");
}

#[test]
fn a_bad_event_does_not_harm_its_neighbours() {
    let surrogate = cloud_event().to_string().replace("o-1", r"\ud800");
    let batch = format!("[{}, {}, 5, {surrogate}, {}]", cloud_event(), without("id"), cloud_event());
    let events: Vec<_> = parse_batch(batch.as_bytes(), 5, Some("shop"), NOW).unwrap().collect();
    let fields: Vec<_> = events.iter().map(|event| event.as_ref().err().map(|error| error.field.as_str())).collect();
    assert_eq!(fields, [None, Some("id"), Some("event"), Some("id"), None]);
}

#[test]
fn a_batch_is_an_array_of_bounded_length() {
    let length = |json: &[u8]| parse_batch(json, 3, Some("shop"), NOW).map(|events| events.len());
    assert_eq!((length(b"[]"), length(b"[1,{},\"x\"]")), (Ok(0), Ok(3)));
    for broken in [&b"{}"[..], b"[1,", b"", b"[] []", b"\xff", b"[1,2,3,4]", b"[1,2,3,4"] {
        let error = length(broken).unwrap_err();
        assert_eq!((error.kind, error.field.as_str()), (EventErrorKind::Malformed, "body"), "{error}");
    }
}

#[test]
fn data_may_be_base64_of_json() {
    let encoded = |text: &str| {
        let mut event = without("data");
        event["data_base64"] = text.into();
        parse_structured(&bytes(&event), Some("shop"), NOW)
    };
    assert_eq!(encoded("eyJhIjoxfQ==").unwrap().data, r#"{"a":1}"#);
    for (text, field) in [("/w==", "data_base64"), ("e30", "data_base64"), ("ew==", "data")] {
        assert_eq!(kind_and_field(encoded(text)), (EventErrorKind::Invalid, field.into()), "{text}");
    }
}

/// The largest event that the API accepts: on the topic it is no larger than what is read there.
#[tokio::test]
async fn what_was_accepted_fits_the_topic() {
    let attribute = "x".repeat(MAX_ATTRIBUTE_BYTES);
    let headers = ["ce-id", "ce-source", "ce-type"].map(|name| (name, attribute.as_bytes()));
    let subject = "x".repeat(MAX_SUBJECT_BYTES);
    let headers =
        headers.into_iter().chain([("ce-specversion", b"1.0".as_slice()), ("ce-subject", subject.as_bytes())]);
    let data = Value::from("x".repeat(MAX_DATA_BYTES - 2)).to_string();
    let event = parse_binary(headers, data.as_bytes(), Some("shop"), NOW).unwrap();
    let payload = codec::encode(&event).unwrap();
    assert_eq!(decoder(None).decode(&record(&[], payload), NOW).await.unwrap(), event);
}

#[test]
fn binary_events_have_their_attributes_in_headers() {
    let body = r#"{"total":12.50,"note":"ñandú"}"#.as_bytes();
    let kafka: [(&str, &[u8]); 8] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"o-1"),
        ("ce_source", b"/till/4"),
        ("ce_type", b"shop.order.placed"),
        ("ce_subject", b"ana"),
        ("ce_time", b"2025-12-31T23:00:00+01:00"),
        ("content-type", b"application/json"),
        ("ce_project", b"shop"),
    ];
    assert_eq!(parse_binary(kafka, body, None, NOW).unwrap(), expected());

    let http: Vec<(String, &[u8])> = kafka.iter().map(|(n, v)| (n.replace('_', "-").to_uppercase(), *v)).collect();
    let http = || http.iter().map(|(n, v)| (n.as_str(), *v));
    assert_eq!(parse_binary(http(), body, Some("shop"), NOW).unwrap(), expected());

    let subject = |value: &'static [u8]| http().map(move |(n, v)| (n, if n == "CE-SUBJECT" { value } else { v }));
    let escaped = parse_binary(subject(b"%C3%B1and%C3%BA"), body, None, NOW).unwrap();
    assert_eq!(escaped.subject.as_deref(), Some("ñandú"), "HTTP values are percent-encoded");
    let invalid = |value| kind_and_field(parse_binary(subject(value), body, None, NOW));
    for value in [&b"%C3"[..], b"%", b"100%", b"%zz", b"%0a", b"\xFF"] {
        assert_eq!(invalid(value), (EventErrorKind::Invalid, "subject".into()), "{value:?}");
    }
    for body in [&b"{"[..], b"\xFF", b"1 2"] {
        assert_eq!(kind_and_field(parse_binary(kafka, body, None, NOW)), (EventErrorKind::Invalid, "data".into()));
    }
    assert_eq!(parse_binary(kafka, b"", None, NOW).unwrap().data, "null");
    let plain = kafka.map(|(n, v)| (n, if n == "content-type" { &b"text/plain"[..] } else { v }));
    assert_eq!(kind_and_field(parse_binary(plain, body, None, NOW)).1, "datacontenttype");
    let twice = kafka.into_iter().chain([("ce_id", &b"o-2"[..])]);
    assert_eq!(kind_and_field(parse_binary(twice, body, None, NOW)), (EventErrorKind::Invalid, "id".into()));
}

#[tokio::test]
async fn the_topic_s_encodings_are_told_apart() {
    let plain = decoder(None);
    let structured = record(&[("content-type", b"application/cloudevents+json")], bytes(&cloud_event()));
    assert_eq!(plain.decode(&structured, NOW).await.unwrap().id, "o-1");
    assert_eq!(plain.decode(&record(&[], bytes(&cloud_event())), NOW).await.unwrap().project, "shop");

    let binary: [(&str, &[u8]); 5] =
        [("ce_specversion", b"1.0"), ("ce_id", b"b-1"), ("ce_source", b"s"), ("ce_type", b"t"), ("ce_subject", b"ana")];
    assert_eq!(plain.decode(&record(&binary, &b"{}"[..]), NOW).await.unwrap().id, "b-1");

    let single = codec::encode(&Event { accepted_at: Timestamp(5), ..expected() }).unwrap();
    let event = plain.decode(&record(&[], single.clone()), NOW).await.unwrap();
    assert_eq!(event, Event { accepted_at: Timestamp(5), ..expected() }, "the API's time of acceptance stays");
    let future = codec::encode(&Event { accepted_at: Timestamp(i64::MAX), ..expected() }).unwrap();
    assert_eq!(plain.decode(&record(&[], future), NOW).await.unwrap().accepted_at, NOW);

    let mut unknown = single.clone();
    unknown[2] ^= 1;
    for (payload, kind) in [
        (unknown, EventErrorKind::UnknownSchema),
        (single[..12].to_vec(), EventErrorKind::Malformed),
        (vec![0, 0, 0, 0, 1, 2], EventErrorKind::UnknownSchema),
        (vec![], EventErrorKind::Malformed),
        (vec![0xFF; 8], EventErrorKind::Malformed),
        (vec![b' '; MAX_EVENT_BYTES + 1], EventErrorKind::TooLarge),
    ] {
        let error = plain.decode(&record(&[], payload), NOW).await.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
    }
    let invalid = codec::encode(&Event { data: "{".into(), ..expected() }).unwrap();
    let error = plain.decode(&record(&[], invalid), NOW).await.unwrap_err();
    assert_eq!((error.field.as_str(), error.reason()), ("data", Some(Reason::Invalid)));
}

#[tokio::test]
async fn a_registry_that_is_down_makes_events_wait() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = RegistryConfig { url: format!("http://{free}/"), username: None, password: None };
    let registry = Registry::new(config).unwrap();
    let error = registry.check().await.unwrap_err();
    assert_eq!(error.kind, EventErrorKind::Unavailable);
    let error = decoder(Some(registry)).decode(&record(&[], vec![0, 0, 0, 0, 1, 2]), NOW).await.unwrap_err();
    assert_eq!((error.kind, error.reason()), (EventErrorKind::Unavailable, None), "{error}");
    for url in ["registry:8080", "", "ftp://registry"] {
        let config = RegistryConfig { url: url.into(), username: None, password: None };
        assert!(Registry::new(config).is_err(), "{url}");
    }
}

/// The registry of `BELLWETHER_REGISTRY`, else the one that `cargo xtask services up` starts.
async fn real_registry() -> (Registry, String) {
    let url = std::env::var("BELLWETHER_REGISTRY").unwrap_or_else(|_| "http://127.0.0.1:18081/apis/ccompat/v7".into());
    let config = RegistryConfig { url: url.clone(), username: None, password: None };
    let registry = Registry::new(config).unwrap();
    if let Err(error) = registry.check().await {
        panic!("no schema registry at {url}: {error}; run `cargo xtask services up`");
    }
    (registry, url)
}

/// Registers a schema and returns the header of its wire format.
async fn register(url: &str, subject: &str, schema: &Value, kind: &str) -> Vec<u8> {
    let answer: Value = reqwest::Client::new()
        .post(format!("{url}/subjects/bellwether-test-{subject}/versions"))
        .json(&json!({"schema": schema.to_string(), "schemaType": kind}))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    [&[0][..], &u32::try_from(id).unwrap().to_be_bytes()].concat()
}

fn datum<T: Serialize>(schema: &Value, value: &T) -> Vec<u8> {
    let schema: serde_avro_fast::Schema = schema.to_string().parse().unwrap();
    serde_avro_fast::to_datum_vec(value, &mut serde_avro_fast::ser::SerializerConfig::new(&schema)).unwrap()
}

fn schema(time: Value, data: Value) -> Value {
    json!({"type": "record", "name": "OrderPlaced", "namespace": "shop", "fields": [
        {"name": "id", "type": "string"},
        {"name": "source", "type": "string"},
        {"name": "type", "type": "string"},
        {"name": "subject", "type": ["null", "string"], "default": null},
        {"name": "time", "type": time},
        {"name": "data", "type": data},
    ]})
}

#[derive(Serialize)]
struct Written<T, D> {
    id: &'static str,
    source: &'static str,
    r#type: &'static str,
    subject: Option<&'static str>,
    time: T,
    data: D,
}

fn written<T, D>(time: T, data: D) -> Written<T, D> {
    Written { id: "o-1", source: "/till/4", r#type: "shop.order.placed", subject: Some("ana"), time, data }
}

#[derive(Serialize)]
struct Data {
    total: f64,
    tags: Vec<&'static str>,
    note: Option<&'static str>,
}

#[tokio::test]
async fn confluent_s_wire_format_is_read_with_the_writer_s_schema() {
    let (registry, url) = real_registry().await;
    let decoder = decoder(Some(registry));

    let text = schema("string".into(), "string".into());
    let header = register(&url, "text", &text, "AVRO").await;
    let value = written("2025-12-31T23:00:00+01:00", r#"{"total":12.50,"note":"ñandú"}"#);
    let payload = [header, datum(&text, &value)].concat();
    assert_eq!(decoder.decode(&record(&[], payload), NOW).await.unwrap(), expected());

    let nested = schema(
        json!(["null", {"type": "long", "logicalType": "timestamp-micros"}]),
        json!({"type": "record", "name": "Data", "fields": [
            {"name": "total", "type": "double"},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "note", "type": ["null", "string"]},
        ]}),
    );
    let header = register(&url, "nested", &nested, "AVRO").await;
    let value = written(Some(1_767_218_400_000_999_i64), Data { total: 12.5, tags: vec!["a"], note: None });
    let payload = [header, datum(&nested, &value)].concat();
    let event = decoder.decode(&record(&[], payload.clone()), NOW).await.unwrap();
    assert_eq!(event.time, Timestamp(1_767_218_400_000));
    let data: Value = serde_json::from_str(&event.data).unwrap();
    assert_eq!(data, json!({"total": 12.5, "tags": ["a"], "note": null}));

    // Attributes in headers, the whole datum as data.
    let binary: [(&str, &[u8]); 6] = [
        ("ce_specversion", b"1.0"),
        ("ce_id", b"h-1"),
        ("ce_source", b"s"),
        ("ce_type", b"t"),
        ("ce_subject", b"ana"),
        ("content-type", b"application/avro"),
    ];
    let event = decoder.decode(&record(&binary, payload.clone()), NOW).await.unwrap();
    assert_eq!(event.id, "h-1");
    assert_eq!(serde_json::from_str::<Value>(&event.data).unwrap()["data"]["total"], 12.5);

    // Cut anywhere, it is malformed and nothing worse.
    for length in 0..payload.len() {
        let error = decoder.decode(&record(&[], payload[..length].to_vec()), NOW).await.unwrap_err();
        assert_eq!(error.kind, EventErrorKind::Malformed, "{length}: {error}");
    }
}

#[tokio::test]
async fn a_registry_s_other_answers_are_told_apart() {
    let (registry, url) = real_registry().await;
    let decoder = decoder(Some(registry));

    // A run of a billion nulls costs five bytes and must not cost more here.
    let nulls = json!({"type": "array", "items": "null"});
    let header = register(&url, "nulls", &nulls, "AVRO").await;
    let payload = [header, vec![0x80, 0xA8, 0xD6, 0xB9, 0x07, 0]].concat();
    let error = decoder.decode(&record(&[], payload), NOW).await.unwrap_err();
    assert_eq!(error.kind, EventErrorKind::Malformed);

    let unknown = record(&[], vec![0, 0x7F, 0xFF, 0xFF, 0xFF, 2]);
    for _ in 0..2 {
        let error = decoder.decode(&unknown, NOW).await.unwrap_err();
        assert_eq!(
            (error.kind, error.reason()),
            (EventErrorKind::UnknownSchema, Some(Reason::UnknownSchema)),
            "{error}"
        );
    }

    let header = register(
        &url,
        "json",
        &json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}),
        "JSON",
    )
    .await;
    let error = decoder.decode(&record(&[], [header, b"{}".to_vec()].concat()), NOW).await.unwrap_err();
    assert_eq!(error.kind, EventErrorKind::UnknownSchema, "{error}");
}

proptest! {
    /// Whatever comes, the answer is an event or a typed error.
    #[test]
    fn no_bytes_make_a_decoder_panic(
        payload in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..200),
            "[\\[\\]{}\",:a-z0-9.\\\\ue -]{0,80}".prop_map(String::into_bytes),
            "[\\[\\]{}\",:0-9eE.a-z\\\\-]{0,40}".prop_map(|data| {
                let event = cloud_event();
                event.to_string().replace(&event["data"].to_string(), &data).into_bytes()
            }),
            (any::<u16>(), any::<u8>()).prop_map(|(at, to)| {
                let mut json = bytes(&cloud_event());
                let at = usize::from(at) % json.len();
                json[at] = to;
                json
            }),
            (any::<u16>(), any::<u8>()).prop_map(|(at, to)| {
                let mut avro = codec::encode(&expected()).unwrap();
                let at = usize::from(at) % avro.len();
                avro[at] = to;
                avro
            }),
        ],
        name in "(ce_|ce-|CE-|)(id|type|subject|ñ|)",
        value in proptest::collection::vec(any::<u8>(), 0..12),
    ) {
        let headers = [(name.as_str(), value.as_slice())];
        let read = [
            parse_structured(&payload, Some("shop"), NOW).ok(),
            parse_batch(&payload, 100, None, NOW).ok().and_then(|all| all.last()?.ok()),
            parse_binary(headers, &payload, Some("shop"), NOW).ok(),
        ];
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let decode = |headers| runtime.block_on(decoder(None).decode(&record(headers, payload.clone()), NOW)).ok();
        for event in read.into_iter().chain([decode(&headers), decode(&[])]).flatten() {
            prop_assert!(serde_json::from_str::<Value>(&event.data).is_ok());
            prop_assert!(event.subject.is_some_and(|s| !s.is_empty()));
        }
    }
}
