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
    records::{Delivery, ErrorKind, Notification, Outcome, Reason, ReceiptKind},
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
            "data": {
                "type": "object", "required": ["n"],
                "properties": {"n": {"type": "integer"}, "post": {"type": "object", "properties": {"id": {"type": "string"}}}},
            },
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

/// Definitions whose parts do not fit together any more, as they may be for a moment while others are published.
fn between(document: Value) -> Compiled {
    let document: Definitions = serde_json::from_value(document).unwrap();
    let check = |kind: &str| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() };
    Compiled::draft(document, 1, &|kind, _| check(kind)).0
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

/// The `n`-th event, about a post.
fn about(world: &World, n: u32, post: &Value) -> Notification {
    Notification { data: json!({"n": n, "post": {"id": post}}).to_string(), ..event(world, n) }
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

/// What was told so far, a message after the other.
fn messages(world: &World) -> Vec<Vec<u64>> {
    world.deliveries.iter().map(|delivery| told(delivery).0).collect()
}

/// What was decided of the `n`-th event.
fn story(world: &World, n: u32) -> Vec<Outcome> {
    let id = notification(n).id;
    world.decisions.iter().filter(|decision| decision.notification == id).map(|decision| decision.outcome).collect()
}

fn keyed() -> Value {
    json!({"digest": {"after_seconds": HOUR, "key": "post.id"}})
}

fn at_most(most: u32) -> Value {
    json!({"digest": {"after_seconds": HOUR, "most": most}})
}

#[test]
fn events_of_different_keys_are_gathered_apart() {
    let mut world = world(keyed());
    for (n, post) in (1..).zip([json!("a"), json!("b"), json!("a"), Value::Null]) {
        world.notify(about(&world, n, &post));
    }
    happens(&mut world, 5);
    world.wait(HOUR);
    assert_eq!(messages(&world), [vec![1, 3], vec![2], vec![4, 5]]);
}

#[test]
fn so_many_go_out_at_once() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut world = world(at_most(3));
    for n in 1..=3 {
        happens(&mut world, n);
    }
    assert_eq!(outcomes(&world), [Deferred, Gathered, Routed, Gathered]);
    assert_eq!(messages(&world), [[1, 2, 3]]);
    let [first, third] = [1, 3].map(|n| notification(n).id);
    assert_eq!(
        world.details(),
        [
            "a digest: it goes out with what comes until 2026-06-01T13:00:00Z, or until there are 3".to_owned(),
            format!("goes out with notification {first}, at 2026-06-01T13:00:00Z, or with the one that makes it 3"),
            "email: the flow names it".to_owned(),
            format!("goes out with notification {third}, which made it 3"),
        ]
    );
    happens(&mut world, 4);
    world.wait(2 * HOUR);
    assert_eq!(messages(&world), [vec![1, 2, 3], vec![4]], "the first's time came, and there was nothing left to send");
    assert_eq!(story(&world, 1), [Deferred, Gathered], "nor to say");
    assert_eq!(story(&world, 4), [Deferred, Routed]);
}

#[test]
fn who_was_enough_and_must_wait_gathers_on_until_then() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut world = world(json!({"digest": {"after_seconds": HOUR, "most": 2}, "quiet": true}));
    world.wait(11 * HOUR);
    for n in 1..=5 {
        happens(&mut world, n);
    }
    world.wait(10 * HOUR);
    assert_eq!(messages(&world), [[1, 2, 3, 4, 5]], "however many they are");
    assert_eq!(story(&world, 1), [Deferred, Gathered]);
    assert_eq!(story(&world, 2), [Deferred, Routed]);
    assert_eq!(story(&world, 3), [Gathered]);
    let second = notification(2).id;
    let details = world.details();
    assert!(details[1].ends_with("; what comes until 2026-06-02T08:00:00Z goes out with it"), "{details:?}");
    assert_eq!(details[3], format!("goes out with notification {second}, at 2026-06-02T08:00:00Z"));
}

#[test]
fn what_is_held_back_at_its_time_goes_out_when_it_may_however_many_come() {
    let mut world = world(json!({"digest": {"after_seconds": HOUR, "most": 3}, "quiet": true}));
    world.wait(9 * HOUR + HOUR / 2);
    happens(&mut world, 1);
    world.wait(HOUR);
    for n in 2..=4 {
        happens(&mut world, n);
    }
    assert!(messages(&world).is_empty());
    world.wait(10 * HOUR);
    assert_eq!(messages(&world), [[1, 2, 3, 4]]);
}

#[test]
fn what_is_not_sent_ends_with_the_one_that_closes_it() {
    use Outcome::{Capped, Deferred, Gathered, Routed};
    let mut document = document(at_most(2));
    document["project"]["caps"] = json!({"few": {"most": 1, "per": "day", "categories": ["transactional"]}});
    let mut world = World::new(compiled(document).unwrap(), &[Channel::Email]);
    for n in 1..=5 {
        happens(&mut world, n);
    }
    assert_eq!(outcomes(&world), [Deferred, Routed, Gathered, Deferred, Capped, Gathered, Deferred]);
}

#[test]
fn what_was_promised_is_found_whatever_the_flow_says_by_then() {
    let none = json!({});
    let by_number = json!({"digest": {"after_seconds": HOUR, "key": "n"}});
    let at_once = json!({"digest": {"after_seconds": 0}});
    for before in [hourly(), keyed(), by_number.clone(), at_most(3)] {
        let is_apart = before == by_number;
        for after in [&none, &hourly(), &keyed(), &by_number, &at_once] {
            let mut world = world(before.clone());
            for n in 1..=2 {
                world.notify(about(&world, n, &json!("a")));
            }
            world.publish(between(document(after.clone())));
            world.wait(HOUR);
            let expected = if is_apart { vec![vec![1], vec![2]] } else { vec![vec![1, 2]] };
            assert_eq!(messages(&world), expected, "{before}, then {after}");
        }
    }
}

#[test]
fn without_a_time_only_what_must_wait_gathers() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut world = world(json!({"digest": {"after_seconds": 0, "key": "post.id"}, "quiet": true}));
    world.notify(about(&world, 1, &json!("a")));
    world.notify(about(&world, 2, &json!("a")));
    assert_eq!(messages(&world), [[1], [2]], "each as a digest of one");
    world.wait(11 * HOUR);
    for (n, post) in (3..).zip(["a", "b", "a"]) {
        world.notify(about(&world, n, &json!(post)));
    }
    world.wait(12 * HOUR);
    assert_eq!(messages(&world)[2..], [vec![3, 5], vec![4]]);
    assert_eq!(outcomes(&world), [Routed, Routed, Deferred, Deferred, Gathered, Routed, Routed]);
    world.notify(about(&world, 6, &json!("a")));
    assert_eq!(messages(&world)[4..], [[6]], "what was held is gone");
}

#[test]
fn what_exceeds_a_cap_is_one_message_when_there_is_room() {
    use Outcome::{Deferred, Gathered, Routed};
    let mut document = document(json!({"digest": {"after_seconds": 0}}));
    let cap = json!({"most": 1, "per": "day", "categories": ["transactional"], "exceed": "digest"});
    document["project"]["caps"] = json!({"few": cap});
    let mut world = World::new(compiled(document.clone()).unwrap(), &[Channel::Email]);
    for n in 1..=3 {
        happens(&mut world, n);
    }
    assert_eq!(outcomes(&world), [Routed, Deferred, Gathered]);
    let why = world.details()[1];
    assert!(
        why.contains("cap `few`: 1 of 1") && why.ends_with("; what comes until 2026-06-02T00:00:00Z goes out with it"),
        "{why}"
    );
    world.wait(12 * HOUR);
    assert_eq!(messages(&world), [vec![1], vec![2, 3]]);

    // Where the flow gathers no more, each waits by itself.
    happens(&mut world, 4);
    document["flows"]["told"]["notify"]["digest"] = Value::Null;
    world.publish(between(document));
    happens(&mut world, 5);
    assert!(!world.details().last().unwrap().contains("goes out with it"));
    world.wait(48 * HOUR);
    let sent: Vec<_> = world.deliveries.iter().map(|delivery| delivery.notification).collect();
    assert_eq!(sent, [1, 2, 4, 5].map(|n| notification(n).id));
}

#[test]
fn a_key_that_is_no_scalar_is_refused() {
    let world = world(keyed());
    let refusal = world.refused(about(&world, 1, &json!(["a"])));
    assert_eq!(refusal.reason, Reason::Invalid);
    assert!(refusal.detail.starts_with("data.post.id: "), "{refusal}");
}

#[test]
fn a_digest_has_a_length_and_a_declared_event() {
    let findings = |document: Value| compiled(document).err().unwrap_or_default().join("\n");
    let of = |notify: Value| findings(document(notify));
    let after = |seconds: u64| json!({"digest": {"after_seconds": seconds}});
    assert_eq!(of(after(LONGEST.as_secs())), "");
    assert_eq!(of(after(0)), "");
    assert_eq!(
        of(after(LONGEST.as_secs() + 1)),
        "flows.told.notify.digest.after_seconds: it gathers for 604801 s; use 0 to 604800 s"
    );
    let with = |seconds: u64, name: &str, value: Value| {
        let mut notify = after(seconds);
        notify["digest"][name] = value;
        of(notify)
    };
    for (most, problem) in [
        (1, "flows.told.notify.digest.most: it goes out with 1; use 2 to 100"),
        (2, ""),
        (100, ""),
        (101, "flows.told.notify.digest.most: it goes out with 101; use 2 to 100"),
    ] {
        assert_eq!(with(60, "most", json!(most)), problem);
    }
    assert_eq!(
        with(0, "most", json!(2)),
        "flows.told.notify.digest.most: with `after_seconds: 0` nothing is gathered that could come to 2; \
         remove it, or gather for a while"
    );
    let path = "flows.told.notify.digest.key";
    for (key, problem) in [
        ("n", String::new()),
        ("post.id", String::new()),
        (
            "post.idd",
            format!(
                "{path}: unknown field `post.idd` (did you mean `post.id`?); correct it, or declare `post.idd` in events/any.yaml"
            ),
        ),
        (
            "pst.id",
            format!(
                "{path}: unknown field `pst.id` (did you mean `post`?); correct it, or declare `pst.id` in events/any.yaml"
            ),
        ),
        ("n.x", format!("{path}: unknown field `n.x`; correct it, or declare `n.x` in events/any.yaml")),
        (
            "post",
            format!(
                "{path}: `post` is not declared as text, number or boolean; \
                 name a field that is, or declare its type in events/any.yaml"
            ),
        ),
    ] {
        assert_eq!(with(0, "key", json!(key)), problem);
    }
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
    /// Another event about one of some posts, and so many copies of its notification.
    Happens(usize, usize),
    /// So many seconds pass.
    Wait(u64),
    /// So many records come again.
    Crash(usize),
}

/// What events are about: a post, or none.
const POSTS: [Option<&str>; 3] = [Some("a"), Some("b"), None];

fn doings() -> impl Strategy<Value = Vec<Do>> {
    let happens = (0..POSTS.len(), 1..3_usize).prop_map(|(post, copies)| Do::Happens(post, copies));
    let wait = (1..2 * HOUR).prop_map(Do::Wait);
    prop::collection::vec(prop_oneof![6 => happens, 3 => wait, 1 => (1..10_usize).prop_map(Do::Crash)], 1..40)
}

/// All of it, and half a day after it. Gives back when each event happened, the first one first, and what it was about.
fn pass(world: &mut World, doings: Vec<Do>) -> Vec<(Timestamp, Option<&'static str>)> {
    let mut events = Vec::new();
    for doing in doings {
        match doing {
            Do::Happens(post, copies) => {
                events.push((world.now, POSTS[post]));
                let event = about(world, u32::try_from(events.len()).unwrap(), &json!(POSTS[post]));
                for _ in 0..copies {
                    world.notify(event.clone());
                }
            }
            Do::Wait(seconds) => world.wait(seconds),
            Do::Crash(records) => world.crash(records),
        }
    }
    world.wait(12 * HOUR);
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever comes when, and however often anything comes twice: each event is told of in one message, none waits longer than an hour and the
    /// night, and no hour has two messages.
    #[test]
    fn each_event_is_told_of_once(doings in doings(), redelivers in any::<bool>(), quiet in any::<bool>()) {
        let mut world = world(json!({"digest": {"after_seconds": HOUR}, "quiet": quiet}));
        world.redelivers = redelivers;
        let events = pass(&mut world, doings);
        let mut numbers = messages(&world).concat();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
        prop_assert!(world.later.is_empty());
        let sent: Vec<Timestamp> =
            world.decisions.iter().filter(|d| d.outcome == Outcome::Routed).map(|d| d.at).collect();
        prop_assert!(sent.windows(2).all(|two| two[1].since(two[0]) >= Duration::from_secs(HOUR)), "{:?}", sent);
    }

    /// With a key and a number that are enough: each event is told of in one message, which is about its own post, tells no more than are
    /// enough and goes out within the hour, unless the night held it back; and each story says once how its event went out.
    #[test]
    fn each_event_is_told_of_once_with_those_of_its_key(
        doings in doings(), redelivers in any::<bool>(), quiet in any::<bool>(), most in 2..5_u32, after in prop::sample::select(vec![0, HOUR]),
    ) {
        let mut digest = json!({"after_seconds": after, "key": "post.id"});
        if after > 0 {
            digest["most"] = most.into();
        }
        let mut world = world(json!({"digest": digest, "quiet": quiet}));
        world.redelivers = redelivers;
        let events = pass(&mut world, doings);
        let mut numbers = messages(&world).concat();
        numbers.sort_unstable();
        prop_assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
        prop_assert!(world.later.is_empty());
        for delivery in &world.deliveries {
            let of_it = || world.decisions.iter().filter(|decision| decision.notification == delivery.notification);
            let sent = of_it().find(|decision| decision.outcome == Outcome::Routed).unwrap().at;
            let is_held = of_it().any(|decision| decision.detail.contains("quiet hours"));
            prop_assert!(quiet || !is_held);
            let of = |n: u64| events[usize::try_from(n).unwrap() - 1];
            let (numbers, count) = told(delivery);
            prop_assert_eq!(numbers.len() as u64, count);
            prop_assert!(numbers.iter().all(|n| of(*n).1 == of(numbers[0]).1), "{:?}", numbers);
            let enough = if after > 0 { u64::from(most) } else { 1 };
            prop_assert!(is_held || count <= enough, "{} of {}", count, enough);
            let late = |n: &u64| sent.since(of(*n).0) > Duration::from_secs(after);
            prop_assert!(is_held || !numbers.iter().any(late), "{:?} at {}", numbers, sent);
        }
        for n in 1..=u32::try_from(events.len()).unwrap() {
            let story = story(&world, n);
            let out = story.iter().filter(|outcome| matches!(outcome, Outcome::Routed | Outcome::Gathered)).count();
            prop_assert_eq!(out, 1, "event {}: {:?}", n, story);
        }
    }
}
