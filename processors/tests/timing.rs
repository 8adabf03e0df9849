//! When a member is told, and how often: quiet hours, windows, caps, priorities, spread, as the router decides them, with the facts in the trace.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    caps::{History, Sent},
    definitions::{Compiled, Projects, ProviderCheck},
    route::{Choice, Known, Route},
};
use bellwether_schemas::{
    Channel, EventId, Lane, NotificationId, Position, Timestamp, Topic,
    definitions::{Definitions, QuietHours},
    member::{Address, Profile},
    records::{Notification, Outcome, Record},
    rows::Row,
    tables::{MemberRow, SENT},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// 2026-06-01, a Monday, 21:00 UTC: 23:00 in Madrid.
const NIGHT: Timestamp = Timestamp(1_780_347_600_000);
/// The same day, 12:00 UTC.
const DAY: Timestamp = Timestamp(1_780_315_200_000);
const HOUR: i64 = 3_600_000;

fn project(caps: Value) -> Compiled {
    let both = json!({
        "email": {"en": {"subject": "S", "text": "T"}},
        "sms": {"en": {"text": "T"}},
    });
    let notify = |lane: &str, more: Value| {
        let mut notify = json!({"template": "both", "lane": lane});
        notify.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"on": "any", "notify": notify})
    };
    let document: Definitions = serde_json::from_value(json!({
        "project": {
            "name": "shop", "default_locale": "en", "time_zone": "Europe/Madrid", "quiet_hours": {"from": "22:00", "to": "08:00"},
            "holidays": ["2026-12-25"], "caps": caps,
        },
        "providers": {"mail": {"kind": "email"}, "text": {"kind": "sms"}},
        "templates": {"both": {"channels": both}},
        "flows": {
            "code": notify("transactional", json!({})),
            "tips": notify("bulk", json!({})),
            "loud": notify("bulk", json!({"quiet": false})),
            "calm": notify("transactional", json!({"quiet": true})),
            "office": notify("bulk", json!({"window": {"from": "09:00", "to": "18:00", "days": ["tuesday"]}})),
            "spread": notify("bulk", json!({"spread_seconds": 3600})),
            "wide": notify("bulk", json!({"spread_seconds": 20 * 3600, "category": "social"})),
            "alert": notify("bulk", json!({"priority": 7, "quiet": false})),
        },
    }))
    .unwrap();
    Compiled::new(document, 1, &|kind, _| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() })
        .unwrap_or_else(|findings| panic!("{findings:#?}"))
}

fn notification(flow: &str, n: u32) -> Notification {
    let event = EventId::derive("shop", "/s", &n.to_string());
    let lane = if matches!(flow, "code" | "calm") { Lane::Transactional } else { Lane::Bulk };
    Notification {
        id: NotificationId::derive(event, flow, 1, 0, "m"),
        project: "shop".into(),
        member: "m".into(),
        event,
        event_type: "any".into(),
        flow: flow.into(),
        flow_version: 1,
        step: 0,
        template: "both".into(),
        lane,
        channels: Vec::new(),
        expires_at: None,
        accepted_at: DAY,
        data: "{}".into(),
        round: 0,
        tried: Vec::new(),
        gathered_in: None,
    }
}

fn member() -> Profile {
    let address = |text: &str| vec![Address::active(text.into(), DAY)];
    Profile {
        addresses: BTreeMap::from([
            (Channel::Email, address("m@example.com")),
            (Channel::Sms, address("+34600000001")),
        ]),
        opt_ins: BTreeMap::from([(Channel::Email, true.into()), (Channel::Sms, true.into())]),
        ..Profile::default()
    }
}

fn in_zone(zone: &str) -> Profile {
    Profile { time_zone: Some(zone.into()), ..member() }
}

fn quiet(from: &str, to: &str) -> Profile {
    Profile { quiet_hours: Some(QuietHours { from: from.into(), to: to.into() }), ..member() }
}

/// What is decided of a member of whom nothing else is known.
fn choose(
    notification: &Notification,
    profile: &Profile,
    history: &History,
    project: &Compiled,
    now: Timestamp,
) -> Choice {
    let known = Known { profile: Some(profile), history, seen: &BTreeMap::new() };
    bellwether_processors::route::choose(notification, known, project, now)
}

/// So many messages of a category by a channel, an hour before `now` each.
fn sent(channel: Channel, category: &str, count: u32, now: Timestamp) -> History {
    let one = |n| Sent {
        id: notification("tips", 1_000 + n).id,
        at: Timestamp(now.0 - HOUR),
        channel,
        category: category.into(),
    };
    History((0..count).map(one).collect())
}

#[test]
fn when_a_member_is_told() {
    let daily =
        |exceed: &str| json!({"daily": {"most": 2, "per": "day", "categories": ["marketing"], "exceed": exceed}});
    let of_mail = json!({"mail": {"most": 1, "per": "week", "categories": ["marketing"], "channels": ["email"]}});
    let keeping = json!({"daily": {"most": 3, "per": "day", "categories": ["marketing"], "keep": {"5": 1}}});
    let none = || json!({});
    let full = |now| sent(Channel::Email, "marketing", 2, now);
    let n = |flow| notification(flow, 1);
    let until = |n: Notification, at: i64| Notification { expires_at: Some(Timestamp(at)), ..n };
    use Outcome::{Capped, Deferred, Expired, Routed};
    // The sentence; caps, notification, member, history, now → outcome, hours until it is decided again, channel.
    let rows = [
        ("a code comes at night", none(), n("code"), member(), History::default(), NIGHT, (Routed, None)),
        ("tips wait for the morning", none(), n("tips"), member(), History::default(), NIGHT, (Deferred, Some(9))),
        ("tips come by day", none(), n("tips"), member(), History::default(), DAY, (Routed, None)),
        (
            "where the member is it is day",
            none(),
            n("tips"),
            in_zone("America/Lima"),
            History::default(),
            NIGHT,
            (Routed, None),
        ),
        (
            "who sleeps longer is woken later",
            none(),
            n("tips"),
            quiet("21:00", "10:00"),
            History::default(),
            NIGHT,
            (Deferred, Some(11)),
        ),
        (
            "who is up at night hears of it then",
            none(),
            n("tips"),
            quiet("03:00", "12:00"),
            History::default(),
            NIGHT,
            (Routed, None),
        ),
        (
            "and not in the morning, when others do",
            none(),
            n("tips"),
            quiet("03:00", "15:00"),
            History::default(),
            DAY,
            (Deferred, Some(1)),
        ),
        (
            "who wants no quiet hours has none",
            none(),
            n("tips"),
            quiet("00:00", "00:00"),
            History::default(),
            NIGHT,
            (Routed, None),
        ),
        (
            "a code comes to whoever sleeps",
            none(),
            n("code"),
            quiet("21:00", "10:00"),
            History::default(),
            NIGHT,
            (Routed, None),
        ),
        ("a flow may be loud", none(), n("loud"), member(), History::default(), NIGHT, (Routed, None)),
        ("for everybody", none(), n("loud"), quiet("21:00", "10:00"), History::default(), NIGHT, (Routed, None)),
        (
            "a window and a long night leave what both leave",
            none(),
            n("office"),
            quiet("18:00", "17:59"),
            History::default(),
            DAY,
            (Deferred, Some(27)),
        ),
        ("and another calm", none(), n("calm"), member(), History::default(), NIGHT, (Deferred, Some(9))),
        (
            "a window opens on Tuesday at nine",
            none(),
            n("office"),
            member(),
            History::default(),
            DAY,
            (Deferred, Some(19)),
        ),
        (
            "what expires before the morning is not sent",
            none(),
            until(n("tips"), NIGHT.0 + 2 * HOUR),
            member(),
            History::default(),
            NIGHT,
            (Expired, None),
        ),
        (
            "what expires after it waits",
            none(),
            until(n("tips"), NIGHT.0 + 10 * HOUR),
            member(),
            History::default(),
            NIGHT,
            (Deferred, Some(9)),
        ),
        ("two a day are enough", daily("drop"), n("tips"), member(), full(DAY), DAY, (Capped, None)),
        ("or the third waits for tomorrow", daily("defer"), n("tips"), member(), full(DAY), DAY, (Deferred, Some(10))),
        ("a code is no marketing", daily("drop"), n("code"), member(), full(DAY), DAY, (Routed, None)),
        (
            "codes use up no marketing",
            daily("drop"),
            n("tips"),
            member(),
            sent(Channel::Sms, "transactional", 9, DAY),
            DAY,
            (Routed, None),
        ),
        ("one mail a week, then text", of_mail, n("tips"), member(), full(DAY), DAY, (Routed, None)),
        ("the last place is kept", keeping.clone(), n("tips"), member(), full(DAY), DAY, (Capped, None)),
        ("for an alert", keeping, n("alert"), member(), full(DAY), DAY, (Routed, None)),
    ];
    for (sentence, caps, notification, profile, history, now, (outcome, hours)) in rows {
        let project = project(caps);
        let choice = choose(&notification, &profile, &history, &project, now);
        assert_eq!(choice.outcome, outcome, "{sentence}: {choice:?}");
        assert_eq!(choice.until.map(|at| (at.0 - now.0) / HOUR), hours, "{sentence}: {choice:?}");
        assert_eq!(choice.to.is_some(), outcome == Routed, "{sentence}");
        assert!(!choice.trace.is_empty() && !choice.detail.is_empty(), "{sentence}: no decision without a trace");
    }
    let text = choose(
        &n("tips"),
        &member(),
        &full(DAY),
        &project(json!({"mail": {"most": 1, "per": "week", "categories": ["marketing"], "channels": ["email"]}})),
        DAY,
    );
    insta::assert_json_snapshot!(text);
}

fn step(route: &Route, facts: &mut Facts, offset: u64, input: Notification, now: Timestamp) -> Output {
    let position = Position { topic: Topic::Notifications(input.lane), partition: 0, offset };
    let output = route.decide(&Incoming { position, input }, facts, now).unwrap();
    facts.apply(&output.rows);
    output
}

fn later(output: &Output) -> Option<(Timestamp, Notification)> {
    output.records.iter().find_map(|record| match record {
        Record::Later(due, record) => match &**record {
            Record::Notification(again) => Some((*due, again.clone())),
            _ => None,
        },
        _ => None,
    })
}

fn sends(output: &Output) -> bool {
    output.records.iter().any(|record| matches!(record, Record::Delivery(_)))
}

#[test]
fn a_deferred_notification_comes_back_and_is_claimed_anew() {
    let route = Route { projects: Projects::from_iter([project(json!({}))]), ..Route::default() };
    let mut facts = Facts::default();
    facts.apply(&[member().into_row("shop", "m").put_fenced(1)]);
    let first = step(&route, &mut facts, 5, notification("tips", 1), NIGHT);
    let (due, again) = later(&first).expect("it waits");
    assert!(!sends(&first));
    assert_eq!(
        later(&step(&route, &mut facts, 5, notification("tips", 1), NIGHT)),
        later(&first),
        "a redelivery says the same"
    );
    let copy = step(&route, &mut facts, 6, notification("tips", 1), due);
    assert!(later(&copy).is_none() && !sends(&copy), "a copy of the event neither waits nor is sent");
    assert!(sends(&step(&route, &mut facts, 7, again.clone(), due)));
    let twice = step(&route, &mut facts, 8, again, due);
    assert!(!sends(&twice), "schedule may emit a record twice");
}

#[test]
fn messages_are_spread_each_at_its_own_moment() {
    let project = project(json!({}));
    let moments: Vec<i64> = (0..200)
        .map(|n| {
            let choice = choose(&notification("spread", n), &member(), &History::default(), &project, DAY);
            choice.until.map_or(0, |at| at.0 - DAY.0)
        })
        .collect();
    assert!(moments.iter().all(|after| (0..HOUR).contains(after)), "{moments:?}");
    let early = moments.iter().filter(|after| **after < HOUR / 2).count();
    assert!((70..130).contains(&early), "{early} of 200 in the first half");
}

#[derive(Clone, Copy, Debug)]
enum Do {
    /// A notification of this flow, and so many copies of its record.
    Notify(usize, usize),
    /// So many minutes pass; what is due comes back.
    Wait(i64),
}

const FLOWS: [&str; 4] = ["tips", "alert", "code", "wide"];

fn doings() -> impl Strategy<Value = Vec<Do>> {
    let notify = (0..FLOWS.len(), 1..3_usize).prop_map(|(flow, copies)| Do::Notify(flow, copies));
    prop::collection::vec(prop_oneof![3 => notify, 2 => (1_i64..600).prop_map(Do::Wait)], 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Over days of notifications, copies, redeliveries and deferrals: no day of the member's has more marketing than the cap, none of it at
    /// night (the member's own, where there is one), and no code is held back; whatever was deferred is sent in the end, once.
    #[test]
    fn promises_hold_whatever_happens(doings in doings(), redeliver in any::<bool>(), own in prop::option::of((0..24_i8, 0..24_i8))) {
        let caps = json!({"daily": {"most": 3, "per": "day", "categories": ["marketing"], "exceed": "defer", "keep": {"5": 1}}});
        let route = Route { projects: Projects::from_iter([project(caps)]), ..Route::default() };
        let zone = bellwether_processors::hours::zone("Europe/Madrid").unwrap();
        let mut facts = Facts::default();
        let profile = own.map_or_else(member, |(from, to)| quiet(&format!("{from:02}:00"), &format!("{to:02}:00")));
        facts.apply(&[profile.into_row("shop", "m").put_fenced(1)]);
        let (from, to) = own.unwrap_or((22, 8));
        let is_quiet = |hour: i8| if from <= to { (from..to).contains(&hour) } else { hour >= from || hour < to };
        let (mut now, mut offset, mut waiting, mut told, mut asked) = (DAY, 0, Vec::new(), Vec::new(), 0);
        let mut handle = |input: Notification, now: Timestamp, waiting: &mut Vec<(Timestamp, Notification)>, told: &mut Vec<(Timestamp, Notification)>| {
            offset += 1;
            let output = step(&route, &mut facts, offset, input.clone(), now);
            if redeliver {
                let again = step(&route, &mut facts, offset, input.clone(), now);
                assert_eq!(sends(&output), sends(&again));
            }
            if sends(&output) {
                told.push((now, input));
            }
            waiting.extend(later(&output));
        };
        // In the end all the days that are needed pass.
        for doing in doings.iter().copied().chain(std::iter::repeat_n(Do::Wait(360), 200)) {
            match doing {
                Do::Notify(flow, copies) => {
                    asked += 1;
                    for _ in 0..copies {
                        let fresh = Notification { accepted_at: now, ..notification(FLOWS[flow], asked) };
                        handle(fresh, now, &mut waiting, &mut told);
                    }
                }
                Do::Wait(minutes) => {
                    let until = Timestamp(now.0 + minutes * 60_000);
                    loop {
                        waiting.sort_by_key(|(due, n)| (due.0, n.id));
                        let Some(at) = waiting.iter().position(|(due, _)| *due <= until) else { break };
                        let (due, again) = waiting.remove(at);
                        handle(again, due, &mut waiting, &mut told);
                    }
                    now = until;
                }
            }
        }
        prop_assert!(waiting.is_empty(), "{} still wait", waiting.len());
        prop_assert_eq!(told.len() as u32, asked, "each is told once");
        let mut days = BTreeMap::<_, u32>::new();
        for (at, n) in &told {
            let local = zone.to_datetime(jiff::Timestamp::from_millisecond(at.0).unwrap());
            match n.flow.as_str() {
                "code" => prop_assert_eq!(*at, n.accepted_at, "a code waits for nothing"),
                "wide" => prop_assert!(!is_quiet(local.hour()), "spread over more than a day has: at {}", local),
                flow => {
                    *days.entry(local.date()).or_default() += 1;
                    prop_assert!(flow == "alert" || !is_quiet(local.hour()), "tips at {}", local);
                }
            }
        }
        prop_assert!(days.values().all(|count| *count <= 3), "{:?}", days);
        let rows = Lane::ALL.map(|lane| facts.one::<MemberRow>(&MemberRow::read_one("shop", "m", SENT, lane.name())).unwrap());
        let counted: usize = rows.iter().flatten().map(|row| row.kept::<History>().unwrap().0.len()).sum();
        prop_assert!(counted <= told.len());
    }
}
