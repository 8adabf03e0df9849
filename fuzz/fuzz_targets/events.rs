//! A record of the `events` topic takes any headers and payload, in every encoding: an event that can be written and read again, or a typed error.
#![no_main]

use bellwether_connectors::{
    events::{EventDecoder, EventErrorKind, Registry, RegistryConfig},
    log::LogRecord,
};
use bellwether_schemas::{
    Position, Timestamp, Topic,
    codec::{self, Encoded, MARKER},
    records::{Event, Header},
};
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use std::{
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    sync::LazyLock,
    thread,
};
use tokio::runtime::{Builder, Runtime};

const NOW: Timestamp = Timestamp(1_767_225_600_000);

/// Schemas by their ids: attributes as fields; other types of time and data; a schema within itself; values without bytes; no record.
const SCHEMAS: [&str; 5] = [
    r#"{"type":"record","name":"A","fields":[{"name":"id","type":"string"},{"name":"source","type":"string"},{"name":"type","type":"string"},
        {"name":"subject","type":["null","string"]},{"name":"time","type":"string"},{"name":"data","type":"string"}]}"#,
    r#"{"type":"record","name":"B","fields":[{"name":"id","type":"string"},{"name":"source","type":{"type":"enum","name":"S","symbols":["x","y"]}},
        {"name":"type","type":"string"},{"name":"subject","type":"string"},{"name":"project","type":["null","string"]},
        {"name":"time","type":["null",{"type":"long","logicalType":"timestamp-micros"}]},{"name":"data","type":{"type":"map","values":
        ["null","double","float","int","boolean","bytes",{"type":"fixed","name":"F","size":3}]}}]}"#,
    r#"{"type":"record","name":"C","fields":[{"name":"id","type":"string"},{"name":"data","type":["null","C",{"type":"array","items":"C"}]}]}"#,
    r#"{"type":"array","items":"null"}"#,
    r#"{"type":"bytes","logicalType":"decimal","precision":4,"scale":2}"#,
];

/// A registry on loopback; each schema is asked for once.
fn registry() -> Registry {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
            let path = lines.next().unwrap_or_default();
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let id = path.split(['/', ' ']).filter_map(|part| part.parse::<usize>().ok()).next().unwrap_or_default();
            let answer = serde_json::json!({"schema": SCHEMAS[id]}).to_string();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
            (&stream).write_all((head + &answer).as_bytes()).expect("the client reads");
        }
    });
    Registry::new(RegistryConfig { url, username: None, password: None }).expect("an address of HTTP")
}

static DECODER: LazyLock<(Runtime, EventDecoder)> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    (runtime, EventDecoder { registry: Some(registry()), default_project: Some("shop".into()) })
});

fn record(headers: Vec<Header>, payload: Vec<u8>) -> LogRecord {
    let position = Position { topic: Topic::Events, partition: 0, offset: 0 };
    LogRecord { position, key: Bytes::new(), payload: payload.into(), headers }
}

/// The payload with a right header, so that the fuzzer need not find it: 1 stands for our own schema, 0 and a digit for one of the registry's.
fn with_header(payload: &[u8]) -> Vec<u8> {
    match payload {
        [1, datum @ ..] => [&MARKER[..], &Event::schemas().current().rabin_fingerprint()[..], datum].concat(),
        [0, id, datum @ ..] => [&[0, 0, 0, 0, id % SCHEMAS.len() as u8][..], datum].concat(),
        other => other.to_vec(),
    }
}

// An input is a message: lines of headers, an empty line, the payload.
fuzz_target!(|message: &[u8]| {
    let end = message.windows(2).position(|two| two == b"\n\n");
    let (head, payload) = end.map_or((&[][..], message), |end| (&message[..end], &message[end + 2..]));
    let headers = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = String::from_utf8_lossy(&line[..colon]).into_owned();
        Some(Header { name, value: line[colon + 1..].trim_ascii().to_vec() })
    });
    let (runtime, decoder) = &*DECODER;
    let decode = |record: &LogRecord| runtime.block_on(decoder.decode(record, NOW));
    match decode(&record(headers.collect(), with_header(payload))) {
        Ok(event) => {
            serde_json::from_str::<serde_json::Value>(&event.data).expect("accepted data can be read");
            let again = codec::encode(&event).expect("an event can be written");
            assert_eq!(decode(&record(Vec::new(), again)), Ok(event));
        }
        Err(error) => {
            assert!(!error.field.is_empty() && !error.problem.is_empty() && !error.remedy.is_empty());
            assert!(error.kind != EventErrorKind::Unavailable, "{error}");
        }
    }
});
