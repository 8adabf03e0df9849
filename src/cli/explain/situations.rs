//! What `explain` says in each situation that a notification may meet: an event goes through the real flow and the real router, and the real
//! decisions are rendered.
#![allow(clippy::unwrap_used)]

use super::{hide_addresses, render};
use crate::http::notifications::{Line, Story};
use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    caps::{History, Sent},
    definitions::{Compiled, Projects, ProviderCheck},
    flow::Flow,
    route::Route,
    score::Seen,
};
use bellwether_schemas::{
    Channel::{self, AppPush, Email, Sms, Telegram, WebPush, Webhook, Whatsapp},
    EventId, Lane, NotificationId, Position, Timestamp, Topic,
    definitions::{Definitions, QuietHours},
    member::{Address, AddressState, Profile},
    records::{Decision, Event, Notification, Record},
    rows::{Row, Write},
    tables::{MemberRow, SENT},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// 2026-06-01, a Monday, 12:00 UTC.
const DAY: Timestamp = Timestamp(1_780_315_200_000);
/// The same day, 23:00 UTC.
const NIGHT: Timestamp = Timestamp(DAY.0 + 11 * HOUR);
const HOUR: i64 = 3_600_000;

/// An event, and what it meets.
struct Situation {
    sentence: &'static str,
    /// The event's type is that of one flow.
    event: &'static str,
    /// What `project.yaml` says beside the name.
    project: Value,
    member: Option<Profile>,
    /// So many hours ago, by which channel, of which category.
    sent: Vec<(i64, Channel, &'static str)>,
    seen: Vec<(Channel, Seen)>,
    /// When the first event is accepted, and how many seconds later it is decided.
    now: Timestamp,
    late: u64,
    /// The data of each event of the type, and how many seconds after the first it is accepted.
    events: Vec<(u64, Value)>,
    /// The record that asks for the notification is on the log twice.
    twice: bool,
}

/// By day, for a member who can be reached by e-mail and text and wants both.
fn when(sentence: &'static str, event: &'static str) -> Situation {
    let member =
        Some(opted(reached_by(&[(Email, "m@example.com"), (Sms, "+34600000001")]), &[(Email, true), (Sms, true)]));
    let project = json!({});
    let events = vec![(0, json!({"total": 9.0}))];
    let (sent, seen) = (Vec::new(), Vec::new());
    Situation { sentence, event, project, member, sent, seen, now: DAY, late: 0, events, twice: false }
}

impl Situation {
    fn of(self, member: Profile) -> Self {
        Self { member: Some(member), ..self }
    }
    fn of_nobody(self) -> Self {
        Self { member: None, ..self }
    }
    fn given(self, project: Value) -> Self {
        Self { project, ..self }
    }
    fn capped(self, cap: Value) -> Self {
        self.given(json!({"caps": {"enough": cap}}))
    }
    fn compared(self, routing: Value) -> Self {
        self.given(json!({"routing": routing}))
    }
    fn after(self, sent: &[(i64, Channel, &'static str)]) -> Self {
        Self { sent: sent.to_vec(), ..self }
    }
    fn having_seen(self, seen: &[(Channel, Seen)]) -> Self {
        Self { seen: seen.to_vec(), ..self }
    }
    fn at(self, now: Timestamp) -> Self {
        Self { now, ..self }
    }
    fn late(self, late: u64) -> Self {
        Self { late, ..self }
    }
    /// A minute lies between an event and the next.
    fn with(self, events: &[Value]) -> Self {
        Self { events: (0..).step_by(60).zip(events.iter().cloned()).collect(), ..self }
    }
    fn twice(self) -> Self {
        Self { twice: true, ..self }
    }
}

fn reached_by(addresses: &[(Channel, &str)]) -> Profile {
    let mut profile = Profile::default();
    for (channel, address) in addresses {
        profile.addresses.entry(*channel).or_default().push(Address::active((*address).into(), DAY));
    }
    profile
}

fn opted(mut profile: Profile, choices: &[(Channel, bool)]) -> Profile {
    profile.opt_ins = choices.iter().map(|(channel, said)| (*channel, (*said).into())).collect();
    profile
}

fn preferring(mut profile: Profile, channels: &[Channel]) -> Profile {
    profile.channels = channels.to_vec();
    profile
}

fn in_zone(mut profile: Profile, zone: &str) -> Profile {
    profile.time_zone = Some(zone.into());
    profile
}

fn sleeping(mut profile: Profile, from: &str, to: &str) -> Profile {
    profile.quiet_hours = Some(QuietHours { from: from.into(), to: to.into() });
    profile
}

/// The first address of a channel in another state, after so many misses.
fn stricken(mut profile: Profile, channel: Channel, state: AddressState, misses: usize) -> Profile {
    let address = &mut profile.addresses.get_mut(&channel).unwrap()[0];
    let reason = if state == AddressState::Active { "" } else { "550 5.1.1 <m@example.com>: no such user" };
    *address = Address { state, misses: vec![DAY; misses], reason: reason.into(), ..address.clone() };
    profile
}

fn both() -> Profile {
    when("", "").member.unwrap()
}

fn days_ago(days: i64) -> Option<Timestamp> {
    Some(Timestamp(DAY.0 - days * 24 * HOUR))
}

fn clicked(days: i64) -> Seen {
    Seen { last_sent: days_ago(days), last_click: days_ago(days), ..Seen::default() }
}

fn ignored() -> Seen {
    Seen { last_sent: days_ago(1), ..Seen::default() }
}

fn compiled(more: &Value) -> Compiled {
    let mail = json!({"en": {"subject": "S", "text": "T"}});
    let (text, push) = (json!({"en": {"text": "T"}}), json!({"en": {"title": "T", "text": "T"}}));
    let mut project = json!({"name": "shop", "default_locale": "en"});
    project.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let flow = |on: &str, template: &str, lane: &str, more: Value| {
        let mut notify = json!({"template": template, "lane": lane});
        notify.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"on": on, "notify": notify})
    };
    let mut big = flow("big", "both", "transactional", json!({}));
    big["when"] = json!("event.data.total > 10.0");
    let providers: BTreeMap<_, _> = Channel::ALL.into_iter().map(|c| (c.name(), json!({"kind": c.name()}))).collect();
    let window = json!({"from": "09:00", "to": "18:00", "days": ["tuesday"]});
    let declared = |kind: &str| {
        let data = json!({"type": "object", "properties": {"post": {"type": "string"}}});
        json!({"type": kind, "data": data, "samples": {"one": {"data": {"post": "p"}}}})
    };
    let of_many = json!({"en": {"subject": "S", "text": "{{ count }}"}});
    let document: Definitions = serde_json::from_value(json!({
        "project": project,
        "providers": providers,
        "events": {"commented": declared("commented"), "followed": declared("followed")},
        "templates": {
            "mail": {"channels": {"email": mail}},
            "many": {"channels": {"email": of_many}},
            "both": {"channels": {"email": mail, "sms": text}, "sample": {"total": 11.0}},
            "all": {"channels": {
                "email": mail, "sms": text, "whatsapp": text, "telegram": text, "web_push": push, "app_push": push,
                "webhook": {"en": {"json": "{}"}},
            }},
        },
        "flows": {
            "big": big,
            "code": flow("code", "both", "transactional", json!({})),
            "letter": flow("letter", "mail", "transactional", json!({})),
            "texted": flow("texted", "both", "transactional", json!({"channels": ["sms"]})),
            "ordered": flow("ordered", "both", "transactional", json!({"channels": ["sms", "email"]})),
            "pushed": flow("pushed", "all", "transactional", json!({"channels": ["app_push"]})),
            "anyhow": flow("anyhow", "all", "transactional", json!({})),
            "short": flow("short", "both", "transactional", json!({"expires_after_seconds": 60})),
            "tips": flow("tips", "both", "bulk", json!({})),
            "fresh": flow("fresh", "both", "bulk", json!({"expires_after_seconds": 3 * 3_600})),
            "alert": flow("alert", "both", "bulk", json!({"priority": 7, "quiet": false})),
            "office": flow("office", "both", "bulk", json!({"window": window})),
            "comments": flow("commented", "many", "bulk", json!({"digest": {"after_seconds": 3_600, "key": "post", "most": 3}})),
            "followers": flow("followed", "many", "bulk", json!({"category": "social", "digest": {"after_seconds": 0}})),
        },
    }))
    .unwrap();
    // Of the app's addresses only Google's are served.
    let check = |kind: &str| ProviderCheck {
        channel: kind.parse().ok(),
        prefix: if kind == "app_push" { "fcm:" } else { "" },
        ..ProviderCheck::default()
    };
    Compiled::new(document, 1, &|kind, _| check(kind)).unwrap_or_else(|findings| panic!("{findings:#?}"))
}

/// Runs one record, and lays what it wrote over the facts.
fn step<P: Processor>(processor: &P, facts: &mut Facts, position: Position, input: P::Input, now: Timestamp) -> Output {
    let output = processor.decide(&Incoming { position, input }, facts, now).unwrap();
    facts.apply(&output.rows);
    output
}

/// What the store knows of the member.
fn facts(situation: &Situation) -> Facts {
    let mut facts = Facts::default();
    let mut known: Vec<Write> = Vec::new();
    known.extend(situation.member.clone().map(|profile| profile.into_row("shop", "m").put_fenced(1)));
    let sent = situation.sent.iter().zip(0..).map(|((hours, channel, category), n)| Sent {
        id: NotificationId::derive(EventId::derive("shop", "/s", "earlier"), "tips", 1, n, "m"),
        at: Timestamp(situation.now.0 - hours * HOUR),
        channel: *channel,
        category: (*category).into(),
    });
    let history = serde_json::to_string(&History(sent.collect())).unwrap();
    let row = MemberRow { decision: Some(history), ..MemberRow::empty("shop", "m", SENT, Lane::Bulk.name()) };
    known.push(row.put_fenced(1));
    known.extend(situation.seen.iter().map(|(channel, seen)| seen.put("shop", "m", *channel, 1, DAY).unwrap()));
    facts.apply(&known);
    facts
}

/// All that is decided: by the flow, by the router, and again by the router whenever it was to be later.
fn decisions(situation: &Situation) -> Vec<Decision> {
    let projects = Projects::from_iter([compiled(&situation.project)]);
    let (flow, route) = (Flow { projects: projects.clone() }, Route { projects, ..Route::default() });
    let mut facts = facts(situation);
    let position = |topic, offset| Position { topic, partition: 0, offset };
    let mut decided = Vec::new();
    let mut waiting: Vec<(Timestamp, Notification)> = Vec::new();
    for (n, (after, data)) in (1_u64..).zip(&situation.events) {
        let accepted_at = situation.now.plus(Duration::from_secs(*after));
        let event = Event {
            project: "shop".into(),
            id: n.to_string(),
            source: "/s".into(),
            kind: situation.event.into(),
            subject: Some("m".into()),
            time: accepted_at,
            accepted_at,
            data: data.to_string(),
        };
        let now = accepted_at.plus(Duration::from_secs(situation.late));
        for record in step(&flow, &mut facts, position(Topic::Events, n), event, now).records {
            match record {
                Record::Notification(n) => waiting.extend(vec![(now, n); 1 + usize::from(situation.twice)]),
                Record::Decision(decision) => decided.push(decision),
                _ => {}
            }
        }
    }
    for offset in 2.. {
        let Some(next) = (0..waiting.len()).min_by_key(|at| waiting[*at].0) else { break };
        let (now, n) = waiting.remove(next);
        for record in step(&route, &mut facts, position(Topic::Notifications(n.lane), offset), n, now).records {
            match record {
                Record::Decision(decision) => decided.push(decision),
                Record::Later(due, record) => {
                    if let Record::Notification(again) = *record {
                        waiting.push((due, again));
                    }
                }
                _ => {}
            }
        }
    }
    decided
}

fn told(situation: &Situation) -> String {
    let decisions = decisions(situation);
    let line = |decision: &Decision| {
        let mut detail = serde_json::to_value(decision).unwrap();
        hide_addresses(&mut detail);
        Line {
            at: decision.at.to_string(),
            kind: "decision".into(),
            outcome: decision.outcome.name().into(),
            channel: decision.channel.map(|channel| channel.name().into()),
            delivery: decision.delivery.map(|delivery| delivery.0),
            detail,
        }
    };
    let mut notifications: Vec<NotificationId> = Vec::new();
    for decision in &decisions {
        if !notifications.contains(&decision.notification) {
            notifications.push(decision.notification);
        }
    }
    let mut told = String::new();
    for (n, notification) in (1..).zip(&notifications) {
        let of_it = decisions.iter().filter(|decision| decision.notification == *notification);
        // What is said twice is one line.
        let mut seen = BTreeSet::new();
        let story = of_it.filter(|decision| seen.insert(decision.id)).map(line).collect();
        let story = Story { id: notification.0, member: "m".into(), status: String::new(), story };
        if notifications.len() > 1 {
            told += &format!("notification {n}\n");
        }
        // Which notification and member it is does not matter here.
        told += render(&story).split_once("\n\n").unwrap().1;
    }
    (1..).zip(&notifications).fold(told, |told, (n, id)| told.replace(&id.to_string(), &n.to_string()))
}

fn situations() -> Vec<Situation> {
    use AddressState::{Active, Quarantined, Suppressed};
    let everywhere = || {
        reached_by(&[
            (Email, "m@example.com"),
            (Sms, "+34600000001"),
            (Whatsapp, "+34600000001"),
            (Telegram, "600100"),
            (WebPush, "{}"),
            (AppPush, "fcm:token"),
            (Webhook, "m"),
        ])
    };
    let marketing = |most: u32, per: Value| json!({"most": most, "per": per, "categories": ["marketing"]});
    let with = |mut cap: Value, name: &str, value: Value| {
        cap[name] = value;
        cap
    };
    let daily = || marketing(2, json!("day"));
    let weekly = |channel: &str| with(marketing(1, json!("week")), "channels", json!([channel]));
    let two = [(3, Email, "marketing"), (2, Sms, "marketing")];
    let quiet = || json!({"quiet_hours": {"from": "22:00", "to": "08:00"}});
    let costs = || json!({"costs": {"sms": 0.05, "whatsapp": 0.03}});
    let post = |id: &str| json!({"post": id});
    vec![
        when("No flow is triggered by the event.", "nothing"),
        when("The condition of the flow is false.", "big"),
        when("Nobody has this id.", "code").of_nobody(),
        when("It comes too late.", "short").late(60),
        when("The same notification is on the log twice.", "code").twice(),
        when("By default e-mail comes first.", "code"),
        when("Without an e-mail address a text is sent.", "code").of(reached_by(&[(Sms, "+34600000001")])),
        when("Who has no address is not told.", "code").of(Profile::default()),
        when("A provider declared the e-mail address dead.", "code").of(stricken(both(), Email, Suppressed, 0)),
        when("The e-mail address rests after three misses.", "code").of(stricken(both(), Email, Quarantined, 3)),
        when("Both addresses are dead.", "code").of(stricken(
            stricken(both(), Email, Suppressed, 0),
            Sms,
            Suppressed,
            0,
        )),
        when("The second address of a channel takes over.", "letter").of(stricken(
            reached_by(&[(Email, "m@example.com"), (Email, "n@example.com")]),
            Email,
            Suppressed,
            0,
        )),
        when("The template speaks on no channel that reaches the member.", "letter")
            .of(reached_by(&[(Sms, "+34600000001")])),
        when("No provider serves the only address.", "pushed").of(reached_by(&[(AppPush, "apns:token")])),
        when("The member prefers texts.", "code").of(preferring(both(), &[Sms])),
        when("What the member prefers has no address.", "anyhow").of(preferring(both(), &[Telegram, Sms])),
        when("The flow wants a text and nothing else.", "texted"),
        when("The flow wants a text, and there is no phone.", "texted").of(reached_by(&[(Email, "m@example.com")])),
        when("The flow's channels are tried in its order.", "ordered").of(stricken(both(), Sms, Suppressed, 0)),
        when("The flow's channels come before what the member prefers.", "ordered").of(preferring(both(), &[Email])),
        when("The member refused e-mail.", "code").of(opted(both(), &[(Email, false)])),
        when("The member refused everything.", "code").of(opted(both(), &[(Email, false), (Sms, false)])),
        when("Tips need an opt-in, and there is none.", "tips").of(opted(both(), &[])),
        when("Tips go where the opt-in is.", "tips").of(opted(both(), &[(Sms, true)])),
        when("Any of all the channels would do.", "anyhow").of(everywhere()),
        when("Two tips a day are enough.", "tips").capped(daily()).after(&two),
        when("One more is not too many.", "tips").capped(daily()).after(&two[..1]),
        when("Yesterday's do not count.", "tips")
            .capped(daily())
            .after(&[(13, Email, "marketing"), (14, Sms, "marketing")]),
        when("The third waits until tomorrow.", "tips").capped(with(daily(), "exceed", json!("defer"))).after(&two),
        when("The third would wait, and expires before.", "fresh")
            .capped(with(daily(), "exceed", json!("defer")))
            .after(&two),
        when("Enough e-mail this week, so a text.", "tips").capped(weekly("email")).after(&two),
        when("A sliding window frees as it slides.", "tips").capped(marketing(2, json!({"hours": 4}))).after(&two),
        when("The last place of the day is kept.", "tips")
            .capped(with(marketing(3, json!("day")), "keep", json!({"5": 1})))
            .after(&two),
        when("An alert may have it.", "alert")
            .capped(with(marketing(3, json!("day")), "keep", json!({"5": 1})))
            .after(&two),
        when("A code is no marketing.", "code").capped(daily()).after(&two),
        when("The third comment goes out with all of them.", "commented").with(&[post("a"), post("a"), post("a")]),
        when("Comments on two posts are two messages.", "commented").with(&[post("a"), post("b"), post("a")]),
        when("What exceeds the cap is one message tomorrow.", "followed")
            .capped(json!({"most": 2, "per": "day", "categories": ["social"], "exceed": "digest"}))
            .after(&[(3, Email, "social")])
            .with(&[post("a"), post("b"), post("c")]),
        when("Tips wait for the morning.", "tips").given(quiet()).at(NIGHT),
        when("A code comes at night.", "code").given(quiet()).at(NIGHT),
        when("An alert is loud.", "alert").given(quiet()).at(NIGHT),
        when("Where the member is it is day.", "tips").given(quiet()).at(NIGHT).of(in_zone(both(), "America/Lima")),
        when("Who sleeps longer is told later.", "tips").given(quiet()).at(NIGHT).of(sleeping(
            both(),
            "21:00",
            "10:00",
        )),
        when("What is fresh for three hours is not sent in the morning.", "fresh").given(quiet()).at(NIGHT),
        when("The flow's window opens on Tuesday.", "office"),
        when("Nothing goes out on a holiday.", "tips").given(json!({"holidays": ["2026-06-01"]})),
        when("A project has an order of its own.", "code").given(json!({"channels": ["sms"]})),
        when("Alike channels stay in the default order.", "code").compared(json!({})),
        when("The cheaper channel comes first.", "code").compared(json!({"costs": {"email": 0.02, "sms": 0.01}})),
        when("Who clicks in texts gets texts.", "code").compared(json!({})).having_seen(&[(Sms, clicked(0))]),
        when("Clicks are forgotten in time.", "code")
            .compared(json!({}))
            .having_seen(&[(Sms, clicked(72)), (Email, clicked(27))]),
        when("Who reads no mail gets texts.", "code").compared(json!({})).having_seen(&[(Email, ignored())]),
        when("Unless texts cost too much.", "code")
            .compared(json!({"costs": {"sms": 0.05}, "weights": {"cost": 10}}))
            .having_seen(&[(Email, ignored())]),
        when("Where nobody was reached is less sure.", "code").compared(json!({})).of(stricken(
            both(),
            Email,
            Active,
            2,
        )),
        when("The member's preference comes before any score.", "code")
            .compared(json!({}))
            .of(preferring(both(), &[Email]))
            .having_seen(&[(Sms, clicked(0))]),
        when("So do the flow's channels.", "ordered").compared(json!({})).having_seen(&[(Email, clicked(0))]),
        when("The best score is refused, so the next.", "code")
            .compared(json!({}))
            .of(opted(both(), &[(Sms, false)]))
            .having_seen(&[(Sms, clicked(0))]),
        when("The best score is capped, so the next.", "tips")
            .given(json!({"routing": {}, "caps": {"texts": weekly("sms")}}))
            .after(&two)
            .having_seen(&[(Sms, clicked(0))]),
        when("No score helps whoever refused everything.", "code")
            .compared(costs())
            .of(opted(both(), &[(Email, false), (Sms, false)])),
        when("All channels are compared.", "anyhow").compared(costs()).of(everywhere()).having_seen(&[
            (Whatsapp, clicked(9)),
            (Email, ignored()),
            (AppPush, clicked(45)),
        ]),
    ]
}

#[test]
fn every_situation_is_explained() {
    let situations = situations();
    let sentences: BTreeSet<_> = situations.iter().map(|situation| situation.sentence).collect();
    assert!(sentences.len() >= 40 && sentences.len() == situations.len(), "{} different ones", sentences.len());
    let texts = situations.iter().map(|situation| format!("# {}\n{}", situation.sentence, told(situation)));
    let texts = texts.collect::<Vec<_>>().join("\n");
    for address in ["m@example.com", "+34600000001", "600100", "token"] {
        assert!(!texts.contains(address), "{address} is told");
    }
    insta::assert_snapshot!(texts);
}
