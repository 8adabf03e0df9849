//! `POST /v1/events` takes any bytes in every mode: an event that the topic takes too, or an error that names a field and a remedy.
#![no_main]

use bellwether_connectors::events::{EventError, MAX_EVENT_BYTES, parse_batch, parse_binary, parse_structured};
use bellwether_schemas::{Timestamp, codec, records::Event};
use libfuzzer_sys::fuzz_target;

const NOW: Timestamp = Timestamp(1_767_225_600_000);
const MAX_EVENTS: usize = 8;

fn judge(read: &Result<Event, EventError>) {
    match read {
        Ok(event) => {
            assert!(event.subject.as_ref().is_some_and(|subject| !subject.is_empty()));
            serde_json::from_str::<serde_json::Value>(&event.data).expect("accepted data can be read");
            assert!(codec::encode(event).expect("an event can be written").len() <= MAX_EVENT_BYTES);
        }
        Err(error) => assert!(!error.field.is_empty() && !error.problem.is_empty() && !error.remedy.is_empty()),
    }
}

// An input is a message as HTTP/1 has it: lines of headers, an empty line, the body.
fuzz_target!(|message: &[u8]| {
    let end = message.windows(2).position(|two| two == b"\n\n");
    let (head, body) = end.map_or((&[][..], message), |end| (&message[..end], &message[end + 2..]));
    let headers = head.split(|byte| *byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((std::str::from_utf8(&line[..colon]).ok()?, line[colon + 1..].trim_ascii()))
    });
    judge(&parse_binary(headers, body, Some("shop"), NOW));

    let single = parse_structured(body, Some("shop"), NOW);
    judge(&single);
    if let Ok(events) = parse_batch(body, MAX_EVENTS, Some("shop"), NOW) {
        assert!(events.len() <= MAX_EVENTS);
        events.for_each(|event| judge(&event));
    }
    // In a batch an event is what it is alone, whatever its neighbours are.
    let batch = [b"[null,", body, b"]"].concat();
    if let (Ok(event), Ok(mut events)) = (&single, parse_batch(&batch, MAX_EVENTS, Some("shop"), NOW)) {
        assert_eq!(events.nth(1), Some(Ok(event.clone())));
    }
});
