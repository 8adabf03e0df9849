//! Many events in one message: what is gathered, when it goes out, and that each event is told of exactly once.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use bellwether_processors::{
    definitions::{Compiled, ProviderCheck},
    digest::{LONGEST, MAX_ITEMS},
};
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::Definitions,
    records::{Delivery, ErrorKind, Notification, Outcome, ReceiptKind},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::time::Duration;
use world::{NOON, World, notification};

const HOUR: u64 = 3_600;

/// The flow `told` with this beside its template.
fn document(notify: Value) -> Value {
    let mut flow =
        json!({"on": "any", "notify": {"template": "all", "lane": "transactional", "channels": ["email", "sms"]}});
    flow["notify"].as_object_mut().unwrap().extend(notify.as_object().unwrap().clone());
    let text = "{{ count }}: {% for item in items %}{{ item.n }} {% endfor %}";
    json!({
        "project": {"name": "shop", "default_locale": "en", "quiet_hours": {"from": "22:00", "to": "08:00"}},
        "providers": {"mail": {"kind": "email"}, "text": {"kind": "sms"}},
        "events": {"any": {
            "type": "any",
            "data": {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}},
            "samples": {"one": {"data": {"n": 1}}},
        }},
        "templates": {"all": {"channels": {"email": {"en": {"subject": "S", "text": text}}, "sms": {"en": {"text": text}}}}},
        "flows": {"told": flow},
    })
}

fn compiled(document: Value) -> Result<Compiled, Vec<String>> {
    let document: Definitions = serde_json::from_value(document).unwrap();
    Compiled::new(document, 1, &|kind, _| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() })
        .map_err(|findings| findings.iter().map(ToString::to_string).collect())
}

fn world(notify: Value) -> World {
    World::new(compiled(document(notify)).unwrap(), &[Channel::Email, Channel::Sms])
}

fn hourly() -> Value {
    json!({"digest": {"after_seconds": HOUR}})
}

/// The `n`-th event, as it comes now.
fn event(world: &World, n: u32) -> Notification {
    let channels = vec![Channel::Email, Channel::Sms];
    Notification { data: json!({"n": n}).to_string(), accepted_at: world.now, channels, ..notification(n) }
}

fn happens(world: &mut World, n: u32) {
    let event = event(world, n);
    world.notify(event);
}

/// What a message tells: the numbers of its events, and how many there were.
fn told(delivery: &Delivery) -> (Vec<u64>, u64) {
    let context: Value = serde_json::from_str(&delivery.context).unwrap();
    let data = &context["event"]["data"];
    let numbers = data["items"].as_array().unwrap().iter().map(|item| item["n"].as_u64().unwrap());
    (numbers.collect(), data["count"].as_u64().unwrap())
}

fn outcomes(world: &World) -> Vec<Outcome> {
    world.decisions.iter().map(|decision| decision.outcome).collect()
}

#[test]
fn what_comes_within_an_hour_is_one_message() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut world = world(hourly());
    happens(&mut world, 1);
    world.wait(HOUR / 2);
    happens(&mut world, 2);
    world.wait(HOUR / 2 - 1);
    happens(&mut world, 3);
    assert!(world.deliveries.is_empty(), "its hour is not over");
    world.wait(1);
    assert_eq!(outcomes(&world), [Deferred, Gathered, Gathered, Routed]);
    assert_eq!(told(&world.deliveries[0]), (vec![1, 2, 3], 3));
    let first = notification(1).id;
    assert_eq!(
        world.details(),
        [
            "a digest: it goes out with what comes until 2026-06-01T13:00:00Z".to_owned(),
            format!("goes out with notification {first}, at 2026-06-01T13:00:00Z"),
            format!("goes out with notification {first}, at 2026-06-01T13:00:00Z"),
            "email: the flow names it".to_owned(),
        ]
    );
    happens(&mut world, 4);
    world.wait(HOUR);
    assert_eq!(outcomes(&world)[4..], [Deferred, Routed], "what comes later is another message");
    assert_eq!(told(&world.deliveries[1]), (vec![4], 1));
}

#[test]
fn what_must_wait_for_the_morning_gathers_until_then() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut world = world(json!({"digest": {"after_seconds": 12 * HOUR}, "quiet": true}));
    happens(&mut world, 1);
    world.wait(13 * HOUR);
    happens(&mut world, 2);
    world.wait(7 * HOUR);
    assert_eq!(outcomes(&world), [Deferred, Deferred, Gathered, Routed]);
    assert_eq!(world.deliveries.iter().map(told).collect::<Vec<_>>(), [(vec![1, 2], 2)]);
}

#[test]
fn the_next_channel_tells_all_of_it() {
    let mut world = world(json!({"digest": {"after_seconds": HOUR}, "fallback": {"after_seconds": HOUR}}));
    for n in 1..=2 {
        happens(&mut world, n);
    }
    world.wait(HOUR);
    // What comes now begins another digest, which is no matter of the first one's.
    happens(&mut world, 3);
    world.receipt(Channel::Email, ReceiptKind::Failed, Some(ErrorKind::Rejected));
    let sent: Vec<_> = world.deliveries.iter().map(|delivery| (delivery.channel, told(delivery))).collect();
    assert_eq!(sent, [(Channel::Email, (vec![1, 2], 2)), (Channel::Sms, (vec![1, 2], 2))]);
}

#[test]
fn of_very_many_the_first_are_shown_and_all_are_counted() {
    let mut world = world(hourly());
    let many = u32::try_from(MAX_ITEMS).unwrap() + 3;
    for n in 1..=many {
        happens(&mut world, n);
    }
    assert!(world.details().last().unwrap().ends_with("which is full: it is counted there, without its data"));
    world.wait(HOUR);
    let (numbers, count) = told(&world.deliveries[0]);
    assert_eq!((numbers.len(), count), (MAX_ITEMS, u64::from(many)));
}

#[test]
fn a_digest_expires_with_its_last_event() {
    let mut world = world(hourly());
    let until = |n: u32, hours: u64| Some(NOON.plus(Duration::from_secs(hours * HOUR + u64::from(n))));
    for n in 1..=2 {
        let event = Notification { expires_at: until(n, 2), ..event(&world, n) };
        world.notify(event);
    }
    world.wait(HOUR);
    assert_eq!(world.deliveries[0].expires_at, until(2, 2));
}

#[test]
fn a_digest_has_a_length_and_a_declared_event() {
    let findings = |document: Value| compiled(document).err().unwrap_or_default().join("\n");
    let of = |notify: Value| findings(document(notify));
    let after = |seconds: u64| json!({"digest": {"after_seconds": seconds}});
    assert_eq!(of(after(LONGEST.as_secs())), "");
    assert_eq!(of(after(0)), "flows.told.notify.digest.after_seconds: it gathers for 0 s; use 1 to 604800 s");
    assert_eq!(
        of(json!({"digest": {"after_seconds": 60}, "expires_after_seconds": 60})),
        "flows.told.notify.digest.after_seconds: after 60 s the first event has expired, at 60 s; \
         gather for a shorter time, or let it expire later"
    );
    assert_eq!(
        of(json!({"digest": {"after_seconds": 60}, "spread_seconds": 60})),
        "flows.told.notify.digest: a digest is not spread; remove one of them: each member's digest has its own time already"
    );
    let mut undeclared = document(hourly());
    undeclared["flows"]["told"]["on"] = json!("other");
    assert!(findings(undeclared).contains(
        "flows.told.notify.digest: the event `other` is not declared; declare it in events/NAME.yaml: a digest's template is tried with its samples"
    ));
    let mut of_one = document(hourly());
    of_one["templates"]["all"]["channels"]["sms"]["en"]["text"] = json!("{{ n }}");
    assert!(findings(of_one).contains("unknown variable `n`"), "a digest's template sees items");
}

#[derive(Clone, Copy, Debug)]
enum Do {
    /// Another event, and so many copies of its notification.
    Happens(usize),
    /// So many seconds pass.
    Wait(u64),
}

fn doings() -> impl Strategy<Value = Vec<Do>> {
    let happens = (1..3_usize).prop_map(Do::Happens);
    prop::collection::vec(prop_oneof![3 => happens, 2 => (1..2 * HOUR).prop_map(Do::Wait)], 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever comes when, and however often anything comes twice: each event is told of in one message, none waits longer than an hour and the
    /// night, and no hour has two messages.
    #[test]
    fn each_event_is_told_of_once(doings in doings(), redelivers in any::<bool>(), quiet in any::<bool>()) {
        let mut world = world(json!({"digest": {"after_seconds": HOUR}, "quiet": quiet}));
        world.redelivers = redelivers;
        let mut events = 0;
        for doing in doings {
            match doing {
                Do::Happens(copies) => {
                    events += 1;
                    let event = event(&world, events);
                    for _ in 0..copies {
                        world.notify(event.clone());
                    }
                }
                Do::Wait(seconds) => world.wait(seconds),
            }
        }
        world.wait(12 * HOUR);
        let mut numbers: Vec<u64> = world.deliveries.iter().flat_map(|delivery| told(delivery).0).collect();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (1..=u64::from(events)).collect::<Vec<_>>());
        prop_assert!(world.later.is_empty());
        let sent: Vec<Timestamp> =
            world.decisions.iter().filter(|d| d.outcome == Outcome::Routed).map(|d| d.at).collect();
        prop_assert!(sent.windows(2).all(|two| two[1].since(two[0]) >= Duration::from_secs(HOUR)), "{:?}", sent);
    }
}
