//! The decisions, read as a specification: who is told by which channel and why not, what follows a try, what a receipt counts.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    caps::History,
    definitions::{Compiled, Projects, ProviderCheck},
    deliver::{Tried, settle},
    flow::Flow,
    members::Members,
    retention::Retention,
    route::{Choice, Known, Route, choose},
    schedule::{Plan, Schedule},
    score::Seen,
    track::{Track, Tracked},
};
use bellwether_schemas::{
    Channel, DeliveryId, EventId, Lane, NotificationId, Position, Timestamp, Topic,
    definitions::{Definitions, OnAmbiguous, Provider},
    ids::EntryId,
    member::{Address, AddressState, ByCategory, Profile},
    records::{
        Delivery, ErrorKind, Event, MemberAction, MemberCommand, Notification, Outcome, Receipt, ReceiptKind, Record,
        Scheduled, Verdict,
    },
    rows::{Row, Write},
    tables::{AddressRow, AggregateRow, MemberRow, SuppressionRow, shard_of},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, time::Duration};

const NOW: Timestamp = Timestamp(1_772_359_200_000);

fn project() -> Compiled {
    routed(Value::Null)
}

/// The project with its routing.
fn routed(routing: Value) -> Compiled {
    ordered(routing, &[])
}

/// The project with its routing and its order of channels.
fn ordered(routing: Value, channels: &[Channel]) -> Compiled {
    compiled(json!({"routing": routing, "channels": channels}))
}

/// The project that compares nothing, and keeps what comes of messages all the same.
fn keeping_engagement() -> Compiled {
    compiled(json!({"engagement": true}))
}

/// The project with these settings.
fn compiled(more: Value) -> Compiled {
    let mail = json!({"en": {"subject": "s", "text": "t"}});
    let mut document = json!({
        "project": {"name": "shop", "default_locale": "en", "categories": {
            "newsletter": {"title": "Newsletter", "consent": "required"},
            "orders": {"title": {"en": "Orders", "es": "Pedidos"}, "consent": "assumed"},
            "law": {"title": "What the law asks of us", "consent": "unrefusable"},
        }},
        "providers": {"mail": {"kind": "email"}, "texts": {"kind": "sms"}},
        "templates": {
            "both": {"sample": {"total": 11.0}, "channels": {"email": mail, "sms": {"en": {"text": "t"}}}},
            "mail": {"channels": {"email": mail}},
        },
        "flows": {
            "big": {
                "on": "order", "when": "event.data.total > 10.0", "notify": {"template": "both", "lane": "transactional"},
            },
            "tips": {"on": "tips", "notify": {"template": "both", "lane": "bulk"}},
            "newsletter": {"on": "news", "notify": {"template": "both", "lane": "bulk", "category": "newsletter"}},
            "orders": {"on": "paid", "notify": {"template": "both", "lane": "bulk", "category": "orders"}},
            "law": {"on": "terms", "notify": {"template": "both", "lane": "transactional", "category": "law"}},
        },
    });
    document["project"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let document: Definitions = serde_json::from_value(document).unwrap();
    Compiled::new(document, 1, &|kind, _| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() })
        .unwrap()
}

fn notification(template: &str, lane: Lane, channels: &[Channel]) -> Notification {
    let event = EventId::derive("shop", "/s", "1");
    Notification {
        id: NotificationId::derive(event, "big", 1, 0, "m"),
        project: "shop".into(),
        member: "m".into(),
        event,
        event_type: "order".into(),
        flow: if lane == Lane::Bulk { "tips" } else { "big" }.into(),
        flow_version: 1,
        step: 0,
        template: template.into(),
        lane,
        channels: channels.to_vec(),
        expires_at: None,
        accepted_at: NOW,
        data: r#"{"total":11.0}"#.into(),
        round: 0,
        tried: Vec::new(),
        gathered_in: None,
    }
}

/// The same of another flow, whose name is its category's.
fn of_category(flow: &str) -> Notification {
    Notification { flow: flow.into(), ..notification("both", Lane::Bulk, &[]) }
}

/// What a member says by category; `*` is the whole channel.
fn words(said: &[(&str, bool)]) -> ByCategory {
    serde_json::from_value(said.iter().map(|(category, said)| ((*category).to_owned(), json!(said))).collect()).unwrap()
}

fn at(state: AddressState, address: &str) -> Vec<Address> {
    vec![Address { state, reason: "550".into(), ..Address::active(address.into(), NOW) }]
}

fn profile(email: Option<AddressState>, sms: Option<AddressState>) -> Profile {
    let mut profile = Profile::default();
    if let Some(state) = email {
        profile.addresses.insert(Channel::Email, at(state, "m@example.com"));
    }
    if let Some(state) = sms {
        profile.addresses.insert(Channel::Sms, at(state, "+34600000000"));
    }
    profile
}

const fn position(topic: Topic, offset: u64) -> Position {
    Position { topic, partition: 0, offset }
}

fn opted(mut profile: Profile, choices: &[(Channel, bool)]) -> Profile {
    profile.opt_ins.extend(choices.iter().map(|(channel, said)| (*channel, (*said).into())));
    profile
}

fn prefers(mut profile: Profile, channel: Channel) -> Profile {
    profile.channels = vec![channel];
    profile
}

/// What is decided of a member to whom nothing was sent lately.
fn decided(notification: &Notification, profile: Option<&Profile>, project: &Compiled) -> Choice {
    let known = Known { profile, history: &History::default(), seen: &BTreeMap::new() };
    choose(notification, known, project, NOW)
}

#[test]
fn the_router_reads_as_a_specification() {
    use AddressState::{Active, Suppressed, Unconfirmed};
    use Channel::{Email, Sms};
    use Lane::{Bulk, Transactional};
    type Row = (&'static str, Notification, Profile, Outcome, Option<Channel>);
    let reachable = || profile(Some(Active), Some(Active));
    let says = |channel, said: &[(&str, bool)]| {
        let mut profile = reachable();
        profile.opt_ins.insert(channel, words(said));
        profile
    };
    let confirming = |address: &str| Notification {
        event_type: Event::UNCONFIRMED.into(),
        data: json!({ "address": address }).to_string(),
        ..notification("both", Transactional, &[])
    };
    let n = notification;
    let rows: Vec<Row> = vec![
        (
            "by default the first of e-mail and SMS",
            n("both", Transactional, &[]),
            reachable(),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "the member's preference comes first",
            n("both", Transactional, &[]),
            prefers(reachable(), Sms),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "the flow's channel beats the preference",
            n("both", Transactional, &[Email]),
            prefers(reachable(), Sms),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "the flow's channels are tried in its order",
            n("both", Transactional, &[Sms, Email]),
            profile(Some(Active), None),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "a channel that the flow does not name is no way out",
            n("both", Transactional, &[Sms]),
            profile(Some(Active), None),
            Outcome::NoAddress,
            None,
        ),
        (
            "without an e-mail address the next channel",
            n("both", Transactional, &[]),
            profile(None, Some(Active)),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "a suppressed address is not used",
            n("both", Transactional, &[]),
            profile(Some(Suppressed), Some(Active)),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "with all addresses suppressed nobody is told",
            n("both", Transactional, &[]),
            profile(Some(Suppressed), Some(Suppressed)),
            Outcome::Suppressed,
            None,
        ),
        (
            "a template without the channel is no way",
            n("mail", Transactional, &[Sms]),
            reachable(),
            Outcome::NoTemplate,
            None,
        ),
        ("transactional needs no opt-in", n("both", Transactional, &[]), reachable(), Outcome::Routed, Some(Email)),
        (
            "transactional respects a refusal",
            n("both", Transactional, &[]),
            opted(reachable(), &[(Email, false)]),
            Outcome::Routed,
            Some(Sms),
        ),
        ("bulk needs an opt-in", n("both", Bulk, &[]), reachable(), Outcome::NoOptIn, None),
        (
            "bulk goes where the opt-in is",
            n("both", Bulk, &[]),
            opted(reachable(), &[(Sms, true)]),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "whoever refused everything hears nothing",
            n("both", Transactional, &[]),
            opted(reachable(), &[(Email, false), (Sms, false)]),
            Outcome::NoOptIn,
            None,
        ),
        ("what needs consent has none in silence", of_category("newsletter"), reachable(), Outcome::NoOptIn, None),
        (
            "an opt-in to a channel is one to all its categories",
            of_category("newsletter"),
            says(Email, &[("*", true)]),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "unless the member says otherwise of one",
            of_category("newsletter"),
            says(Email, &[("*", true), ("newsletter", false)]),
            Outcome::NoOptIn,
            None,
        ),
        (
            "an opt-in to one category is enough for that one",
            of_category("newsletter"),
            says(Sms, &[("newsletter", true)]),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "and says nothing of another",
            n("both", Bulk, &[]),
            says(Sms, &[("newsletter", true)]),
            Outcome::NoOptIn,
            None,
        ),
        ("consent may be assumed, in bulk too", of_category("orders"), reachable(), Outcome::Routed, Some(Email)),
        ("until it is refused", of_category("orders"), says(Email, &[("orders", false)]), Outcome::Routed, Some(Sms)),
        (
            "whoever refuses a channel refuses all its categories",
            of_category("orders"),
            says(Email, &[("*", false), ("orders", true)]),
            Outcome::Routed,
            Some(Sms),
        ),
        (
            "what cannot be refused is sent all the same",
            of_category("law"),
            says(Email, &[("*", false)]),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "an address that is not confirmed takes nothing",
            n("both", Transactional, &[]),
            profile(Some(Unconfirmed), None),
            Outcome::NoOptIn,
            None,
        ),
        (
            "but the letter that asks for it",
            confirming("m@example.com"),
            profile(Some(Unconfirmed), None),
            Outcome::Routed,
            Some(Email),
        ),
        (
            "which goes nowhere else",
            confirming("other@example.com"),
            profile(Some(Active), Some(Active)),
            Outcome::NoAddress,
            None,
        ),
        (
            "nobody is reached without any address",
            n("both", Transactional, &[]),
            profile(None, None),
            Outcome::NoAddress,
            None,
        ),
    ];
    let project = project();
    for (sentence, notification, profile, outcome, channel) in rows {
        let choice = decided(&notification, Some(&profile), &project);
        assert_eq!(choice.outcome, outcome, "{sentence}: {choice:?}");
        assert_eq!(choice.to.map(|(channel, _)| channel), channel, "{sentence}");
        assert!(!choice.trace.is_empty(), "{sentence}: no decision without a trace");
    }
    for (flow, said, detail) in [
        (
            "law",
            &[("*", false)][..],
            "email: first usable in the default order; the member refused, but `law` cannot be refused",
        ),
        ("law", &[("*", true)], "email: first usable in the default order; `law` cannot be refused"),
        ("orders", &[("*", true)], "email: first usable in the default order"),
    ] {
        let choice = decided(&of_category(flow), Some(&says(Email, said)), &project);
        assert_eq!(choice.detail, detail, "what cannot be refused is marked");
    }
    let stranger = decided(&notification("both", Transactional, &[]), None, &project);
    assert_eq!(stranger.outcome, Outcome::UnknownMember);
    let late = Notification { expires_at: Some(NOW), ..notification("both", Transactional, &[]) };
    assert_eq!(decided(&late, Some(&reachable()), &project).outcome, Outcome::Expired);
}

#[test]
fn scores_decide_where_neither_flow_nor_member_does() {
    use AddressState::{Active, Quarantined};
    use Channel::{Email, Sms};
    let n = |channels: &[Channel]| notification("both", Lane::Transactional, channels);
    let reachable = || profile(Some(Active), Some(Active));
    let missed = |mut profile: Profile, state| {
        for address in profile.addresses.get_mut(&Email).unwrap() {
            (address.misses, address.state) = (vec![NOW; 3], state);
        }
        profile
    };
    let clicked = |channel| vec![(channel, Seen { last_click: Some(NOW), ..Seen::default() })];
    // The sentence; routing, notification, member, what was seen → the channels that could be used, the chosen one first.
    for (sentence, routing, notification, profile, seen, order) in [
        ("what is alike stays in the default order", json!({}), n(&[]), reachable(), vec![], &[Email, Sms][..]),
        (
            "the cheaper comes first",
            json!({"costs": {"email": 2, "sms": 1}}),
            n(&[]),
            reachable(),
            vec![],
            &[Sms, Email],
        ),
        (
            "a cost that has no weight is none",
            json!({"costs": {"email": 2}, "weights": {"cost": 0}}),
            n(&[]),
            reachable(),
            vec![],
            &[Email, Sms],
        ),
        ("who clicks in texts gets texts", json!({}), n(&[]), reachable(), clicked(Sms), &[Sms, Email]),
        (
            "unless texts cost too much",
            json!({"costs": {"sms": 0.05}, "weights": {"cost": 10}}),
            n(&[]),
            reachable(),
            clicked(Sms),
            &[Email, Sms],
        ),
        (
            "where nobody was reached is less sure",
            json!({}),
            n(&[]),
            missed(reachable(), Active),
            vec![],
            &[Sms, Email],
        ),
        ("and in the end not used", json!({}), n(&[]), missed(reachable(), Quarantined), clicked(Email), &[Sms]),
        (
            "the member's preference comes before any score",
            json!({}),
            n(&[]),
            prefers(reachable(), Email),
            clicked(Sms),
            &[Email, Sms],
        ),
        (
            "and the flow's channels before both",
            json!({}),
            n(&[Email, Sms]),
            prefers(reachable(), Sms),
            clicked(Sms),
            &[Email, Sms],
        ),
        (
            "no score opens a door that the member closed",
            json!({}),
            n(&[]),
            opted(reachable(), &[(Sms, false)]),
            clicked(Sms),
            &[Email],
        ),
        ("without routing nothing is compared", Value::Null, n(&[]), reachable(), clicked(Sms), &[Email, Sms]),
    ] {
        let is_compared = !routing.is_null();
        let seen = seen.into_iter().collect();
        let known = Known { profile: Some(&profile), history: &History::default(), seen: &seen };
        let choice = choose(&notification, known, &routed(routing), NOW);
        let usable = |rule: &str| ["chosen", "not_needed"].contains(&rule);
        let told: Vec<_> = choice.trace.iter().filter(|v| usable(&v.rule)).map(|v| v.channel).collect();
        assert_eq!(told, order, "{sentence}: {choice:?}");
        assert_eq!(choice.to.as_ref().map(|(channel, _)| *channel), Some(order[0]), "{sentence}");
        assert!(choice.trace.iter().all(|v| v.score.is_some() == is_compared), "{sentence}: {choice:?}");
    }
}

#[test]
fn templates_by_opt_in_are_those_that_only_flows_use_which_need_one() {
    let needed = |more: Value| {
        let project = compiled(more);
        project.templates_by_opt_in().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    // `both` is used by flows of every category, `mail` by none.
    assert_eq!(needed(json!({})), [""; 0]);
    let category = |consent: &str| json!({"title": "T", "consent": consent});
    let all = |consent: &str| {
        json!({"categories": {
            "transactional": category(consent), "marketing": category(consent), "newsletter": category(consent),
            "orders": category(consent), "law": category(consent),
        }})
    };
    assert_eq!((needed(all("required")), needed(all("assumed"))), (vec!["both".to_owned()], vec![]));
}

#[test]
fn the_projects_order_decides_where_nothing_else_does() {
    use AddressState::Active;
    use Channel::{Email, Sms};
    let n = |channels: &[Channel]| notification("both", Lane::Transactional, channels);
    let reachable = || profile(Some(Active), Some(Active));
    // The sentence; the project's order, routing, notification, member → the channel, and why.
    for (sentence, order, routing, notification, member, channel, why) in [
        (
            "the project's order",
            &[Sms][..],
            Value::Null,
            n(&[]),
            reachable(),
            Sms,
            "first usable in the project's order",
        ),
        (
            "what it does not name comes after",
            &[Channel::Whatsapp],
            Value::Null,
            n(&[]),
            reachable(),
            Email,
            "first usable in the default order",
        ),
        ("the flow's order before it", &[Sms], Value::Null, n(&[Email, Sms]), reachable(), Email, "the flow names it"),
        ("the member's, too", &[Sms], Value::Null, n(&[]), prefers(reachable(), Email), Email, "the member prefers it"),
        (
            "a score, too",
            &[Sms],
            json!({"costs": {"sms": 1}}),
            n(&[]),
            reachable(),
            Email,
            "best usable score, by weights of reach 1, engagement 1, cost 1",
        ),
        (
            "but of equal scores it decides",
            &[Sms],
            json!({}),
            n(&[]),
            reachable(),
            Sms,
            "best usable score, by weights of reach 1, engagement 1, cost 1",
        ),
    ] {
        let choice = decided(&notification, Some(&member), &ordered(routing, order));
        assert_eq!(choice.detail, format!("{channel}: {why}"), "{sentence}");
    }
}

#[test]
fn a_trace_shows_every_channel_with_its_figures() {
    let away = profile(Some(AddressState::Active), Some(AddressState::Quarantined));
    let away = Profile {
        addresses: away
            .addresses
            .into_iter()
            .map(|(channel, all)| (channel, all.into_iter().map(|a| Address { misses: vec![NOW; 3], ..a }).collect()))
            .collect(),
        ..away
    };
    let project = routed(json!({"costs": {"sms": 0.05}}));
    let told = |n: &Notification| {
        let choice = decided(n, Some(&away), &project);
        let figures = |v: &Verdict| {
            let (counted, scored) = ((v.count, v.limit), (v.score, v.reach, v.engagement, v.cost));
            format!("{} {} {counted:?} {scored:?}", v.channel, v.rule)
        };
        choice.trace.iter().map(figures).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(
        told(&notification("both", Lane::Transactional, &[])),
        "email chosen (None, None) (Some(500), Some(0), Some(500), Some(1000))\n\
         sms suppressed (Some(3), Some(3)) (Some(166), Some(0), Some(500), Some(0))"
    );
    // What the template cannot say is told only where nothing else was found.
    let mail = notification("mail", Lane::Transactional, &[]);
    assert_eq!(told(&mail), "email chosen (None, None) (Some(500), Some(0), Some(500), Some(1000))");
    assert!(
        told(&Notification { lane: Lane::Bulk, flow: "unknown".into(), ..mail })
            .contains("app_push no_template (None, None) (None, None, None, None)")
    );
}

/// Runs one input over facts, and lays what it wrote over them.
fn step<P: Processor>(processor: &P, facts: &mut Facts, position: Position, input: P::Input) -> Output {
    let output = processor.decide(&Incoming { position, input }, facts, NOW).unwrap();
    facts.apply(&output.rows);
    facts.apply(&output.after);
    output
}

#[test]
fn a_redelivery_says_the_same_again_and_a_duplicate_is_told_as_one() {
    let route = Route { projects: Projects::from_iter([project()]), ..Route::default() };
    let mut facts = Facts::default();
    facts.apply(&[profile(Some(AddressState::Active), None).into_row("shop", "m").put_fenced(1)]);
    let lane = Topic::Notifications(Lane::Transactional);
    let first = step(&route, &mut facts, position(lane, 5), notification("both", Lane::Transactional, &[]));
    // The member has gone since, and the redelivery still says what was decided.
    facts.apply(&[profile(None, None).into_row("shop", "m").put_fenced(2)]);
    let again = step(&route, &mut facts, position(lane, 5), notification("both", Lane::Transactional, &[]));
    let ids = |output: &Output| -> Vec<DeliveryId> {
        output.records.iter().filter_map(|r| if let Record::Delivery(d) = r { Some(d.id) } else { None }).collect()
    };
    assert_eq!(ids(&first).len(), 1);
    assert_eq!(ids(&first), ids(&again));
    assert!(again.rows.is_empty(), "a redelivery claims nothing anew");
    let copy = step(&route, &mut facts, position(lane, 9), notification("both", Lane::Transactional, &[]));
    assert!(ids(&copy).is_empty());
    assert!(matches!(&copy.records[..], [Record::Decision(d)] if d.outcome == Outcome::Duplicate));
}

#[test]
fn a_flow_answers_every_event() {
    let flow = Flow { projects: Projects::from_iter([project()]) };
    let event = |kind: &str, data: &str| Event {
        project: "shop".into(),
        id: "1".into(),
        source: "/s".into(),
        kind: kind.into(),
        subject: Some("m".into()),
        time: NOW,
        accepted_at: NOW,
        data: data.into(),
    };
    let decide = |event| step(&flow, &mut Facts::default(), position(Topic::Events, 0), event);
    let notified = decide(event("order", r#"{"total":11.0}"#));
    assert!(matches!(&notified.records[..], [Record::Notification(_)]));
    for (event, outcome) in
        [(event("order", r#"{"total":9.0}"#), Outcome::ConditionFalse), (event("other", "{}"), Outcome::NoFlow)]
    {
        let output = decide(event);
        assert!(
            matches!(&output.records[..], [Record::Decision(d)] if d.outcome == outcome),
            "{outcome:?}: {output:?}"
        );
    }
    let broken = decide(event("order", r#"{"total":"much"}"#));
    assert!(broken.records.is_empty() && broken.refused.is_some(), "an error is no silent false: {broken:?}");
}

fn delivery(attempt: i32) -> Delivery {
    let notification = NotificationId::derive(EventId::derive("shop", "/s", "1"), "big", 1, 0, "m");
    Delivery {
        id: DeliveryId::derive(notification, Channel::Email, "m@example.com"),
        notification,
        project: "shop".into(),
        member: "m".into(),
        event_type: "order".into(),
        template: "both".into(),
        channel: Channel::Email,
        address: "m@example.com".into(),
        locale: None,
        lane: Lane::Transactional,
        attempt,
        accepted_at: NOW,
        expires_at: None,
        context: "{}".into(),
        window_until: None,
    }
}

fn provider(on_ambiguous: OnAmbiguous) -> Provider {
    serde_json::from_value(json!({"kind": "email", "max_attempts": 3, "on_ambiguous": on_ambiguous})).unwrap()
}

#[test]
fn what_follows_a_try_depends_on_its_error_alone() {
    use ErrorKind::{Ambiguous, Expired, InvalidAddress, OptedOut, Rejected, Throttled, Transient, Unauthorized};
    // Error, attempt, policy → tried again, kept as a dead letter.
    let rows = [
        (Transient, 1, OnAmbiguous::Resend, true, false),
        (Transient, 3, OnAmbiguous::Resend, false, true),
        (Throttled, 3, OnAmbiguous::Resend, true, false),
        (Unauthorized, 3, OnAmbiguous::Resend, true, false),
        (Ambiguous, 1, OnAmbiguous::Resend, true, false),
        (Ambiguous, 1, OnAmbiguous::Hold, false, true),
        (InvalidAddress, 1, OnAmbiguous::Resend, false, false),
        (OptedOut, 1, OnAmbiguous::Resend, false, false),
        (Rejected, 1, OnAmbiguous::Resend, false, true),
        (Expired, 1, OnAmbiguous::Resend, false, false),
    ];
    for (kind, attempt, policy, again, dead) in rows {
        let tried = Tried::Failed { kind, detail: "words".into(), after: Some(Duration::from_secs(120)) };
        let output = settle(&delivery(attempt), "mail", &provider(policy), tried, NOW);
        let later = output.records.iter().find_map(|r| if let Record::Later(due, _) = r { Some(*due) } else { None });
        assert_eq!(later.is_some(), again, "{kind:?}, attempt {attempt}: again");
        assert!(
            later.is_none_or(|due| due >= NOW.plus(Duration::from_secs(120))),
            "{kind:?}: the provider's wait holds"
        );
        assert_eq!(output.refused.is_some(), dead, "{kind:?}, attempt {attempt}: dead letter");
        let Some(Record::Receipt(receipt)) = output.records.first() else { panic!("{kind:?}: no receipt") };
        assert_eq!(receipt.kind, if again { ReceiptKind::Deferred } else { ReceiptKind::Failed });
    }
    let sent = settle(
        &delivery(1),
        "mail",
        &provider(OnAmbiguous::Resend),
        Tried::Accepted { provider_id: Some("q1".into()), moved_to: None, detail: Some("2 segments, UCS-2".into()) },
        NOW,
    );
    let [Record::Receipt(sent)] = &sent.records[..] else { panic!("{:?}", sent.records) };
    assert_eq!((sent.kind, sent.detail.as_deref()), (ReceiptKind::Sent, Some("2 segments, UCS-2")));
}

fn receipt(kind: ReceiptKind, error: Option<ErrorKind>) -> Receipt {
    let delivery = delivery(1);
    Receipt {
        delivery: delivery.id,
        notification: delivery.notification,
        project: "shop".into(),
        member: "m".into(),
        template: "both".into(),
        channel: Channel::Email,
        kind,
        at: NOW,
        attempt: 1,
        provider: "mail".into(),
        provider_id: None,
        error,
        detail: Some("550 5.1.1".into()),
        address: Some("m@example.com".into()),
    }
}

#[test]
fn a_receipt_counts_once_wherever_it_is_met_again() {
    let mut facts = Facts::default();
    let tell = |facts: &mut Facts, offset, kind| {
        step(&Track::default(), facts, position(Topic::Receipts, offset), Tracked::Receipt(receipt(kind, None)))
    };
    tell(&mut facts, 1, ReceiptKind::Delivered);
    tell(&mut facts, 2, ReceiptKind::Sent);
    tell(&mut facts, 1, ReceiptKind::Delivered);
    tell(&mut facts, 3, ReceiptKind::Delivered);
    for kind in [ReceiptKind::Sent, ReceiptKind::Delivered] {
        let read = AggregateRow::read_one("shop", NOW.day(), "both", "email", kind.name(), "receipts/0");
        assert_eq!(facts.one::<AggregateRow>(&read).unwrap().unwrap().value, 1, "{kind:?}");
    }
}

#[test]
fn what_comes_of_messages_is_kept_where_somebody_looks_at_it() {
    let before = |seconds: i64| Timestamp(NOW.0 - seconds * 1_000);
    let projects = Projects::from_iter([routed(json!({}))]);
    let track = Track { projects: projects.clone(), ..Track::default() };
    let route = Route { projects, ..Route::default() };
    let mut facts = Facts::default();
    facts.apply(&[profile(Some(AddressState::Active), Some(AddressState::Active)).into_row("shop", "m").put_fenced(1)]);
    let told = |kind, channel, delivery: &str, at| {
        let delivery = DeliveryId::derive(receipt(kind, None).notification, channel, delivery);
        Receipt { delivery, channel, at, ..receipt(kind, None) }
    };
    // The receipt's offset, and whether it is news.
    for (offset, receipt, is_news) in [
        (1, told(ReceiptKind::Sent, Channel::Sms, "a", before(60)), true),
        (2, told(ReceiptKind::Clicked, Channel::Sms, "a", before(50)), true),
        (3, told(ReceiptKind::Sent, Channel::Sms, "b", before(90)), false),
        (4, told(ReceiptKind::Deferred, Channel::Sms, "c", before(40)), false),
        (1, told(ReceiptKind::Sent, Channel::Sms, "a", before(60)), false),
        (5, told(ReceiptKind::Sent, Channel::Sms, "a", before(60)), false),
        // A provider's clock is ahead.
        (6, told(ReceiptKind::Delivered, Channel::Sms, "b", NOW.plus(Duration::from_secs(90))), true),
    ] {
        let output = step(&track, &mut facts, position(Topic::Receipts, offset), Tracked::Receipt(receipt.clone()));
        let wrote = output.rows.iter().any(|write| write.target().0.name == "members");
        assert_eq!(wrote, is_news, "{receipt:?}");
    }
    let row = facts.one::<MemberRow>(&Seen::read("shop", "m", Channel::Sms)).unwrap();
    let seen =
        Seen { last_sent: Some(before(60)), last_delivered: Some(NOW), last_open: None, last_click: Some(before(50)) };
    assert_eq!(row.map_or_else(Seen::default, |row| row.kept().unwrap()), seen);
    // And route reads it: who clicks in texts gets texts.
    let lane = position(Topic::Notifications(Lane::Transactional), 0);
    let incoming = Incoming { position: lane, input: notification("both", Lane::Transactional, &[]) };
    assert!(route.needs(&incoming, &facts, NOW).contains(&Seen::read("shop", "m", Channel::Sms)));
    let output = step(&route, &mut facts, lane, incoming.input);
    assert!(output.records.iter().any(|record| matches!(record, Record::Delivery(d) if d.channel == Channel::Sms)));
    // Whoever compares nothing and does not ask for it keeps nothing.
    let sent = Tracked::Receipt(receipt(ReceiptKind::Sent, None));
    let incoming = Incoming { position: position(Topic::Receipts, 9), input: sent };
    for (project, rows) in [(project(), 2), (keeping_engagement(), 3)] {
        let track = Track { projects: Projects::from_iter([project]), ..Track::default() };
        assert_eq!(track.needs(&incoming, &Facts::default(), NOW).len(), rows, "the story's line and the sum");
        assert_eq!(track.decide(&incoming, &Facts::default(), NOW).unwrap().rows.len(), rows);
    }
}

#[test]
fn what_is_told_is_kept_for_its_retention() {
    let day = Duration::from_secs(86_400);
    let retention = Retention { stories: day, claims: day * 2, ..Retention::default() };
    let track = Track { retention, ..Track::default() };
    let route = Route { projects: Projects::from_iter([project()]), retention };
    let told = Tracked::Receipt(receipt(ReceiptKind::Sent, None));
    let lane = position(Topic::Notifications(Lane::Transactional), 0);
    let ends = |output: Output| -> Vec<Duration> {
        let put = |write: &Write| if let Write::Put(cells) = write { cells.ttl } else { None };
        output.rows.iter().filter_map(put).collect()
    };
    assert_eq!(ends(step(&track, &mut Facts::default(), position(Topic::Receipts, 0), told)), [day]);
    let notification = notification("both", Lane::Transactional, &[]);
    assert_eq!(ends(step(&route, &mut Facts::default(), lane, notification)), [day * 2]);
}

#[test]
fn a_dead_address_is_suppressed_and_a_nightly_upload_does_not_revive_it() {
    let told = Tracked::Receipt(receipt(ReceiptKind::Failed, Some(ErrorKind::InvalidAddress)));
    let output = step(&Track::default(), &mut Facts::default(), position(Topic::Receipts, 0), told);
    let [Record::Member(suppress)] = &output.records[..] else { panic!("{output:?}") };
    let mut facts = Facts::default();
    let upsert = |patch: &str| MemberCommand {
        patch: Some(patch.into()),
        ..MemberCommand::new("shop".into(), "m".into(), MemberAction::Upsert, "test".into(), NOW)
    };
    let commands = [upsert(r#"{"email":"m@example.com"}"#), suppress.clone(), upsert(r#"{"email":"m@example.com"}"#)];
    let state = |facts: &Facts| {
        let read = MemberRow::read_one("shop", "m", "profile", "");
        let row = facts.one::<MemberRow>(&read).unwrap().unwrap();
        Profile::from_row(&row).unwrap().addresses[&Channel::Email][0].state
    };
    for (offset, command) in commands.into_iter().enumerate() {
        step(&Members::default(), &mut facts, position(Topic::Members, offset as u64), command);
    }
    assert_eq!(state(&facts), AddressState::Suppressed);
    let redelivered =
        step(&Members::default(), &mut facts, position(Topic::Members, 0), upsert(r#"{"email":"old@example.com"}"#));
    assert_eq!(redelivered, Output::default(), "an older command comes too late");
    let again = step(&Members::default(), &mut facts, position(Topic::Members, 2), upsert(r#"{"addresses":{}}"#));
    let index = AddressRow::key("shop", "email", "m@example.com", "m");
    assert!(
        matches!(&again.rows[..], [Write::Put(cells)] if cells.key == index),
        "the index is written again: {again:?}"
    );
    step(&Members::default(), &mut facts, position(Topic::Members, 3), upsert(r#"{"email":"new@example.com"}"#));
    assert_eq!(state(&facts), AddressState::Active);
}

/// A command to a member about one address of theirs.
fn about(member: &str, action: MemberAction, address: &str) -> MemberCommand {
    let patch = json!({"addresses": {"email": [address]}}).to_string();
    let upsert = action == MemberAction::Upsert;
    MemberCommand {
        patch: upsert.then_some(patch),
        channel: (!upsert).then_some(Channel::Email),
        address: (!upsert).then(|| address.into()),
        reason: (action == MemberAction::Suppress).then(|| "550".into()),
        ..MemberCommand::new("shop".into(), member.into(), action, "provider mail".into(), NOW)
    }
}

const DEAD: &str = "a@example.com";

fn on_the_list(facts: &Facts) -> Option<SuppressionRow> {
    facts.one(&SuppressionRow::of("shop", Channel::Email, DEAD)).unwrap()
}

/// How the member's address stands; `None` where there is no such member, or no such address.
fn stands(facts: &Facts, member: &str) -> Option<AddressState> {
    let row = facts.one::<MemberRow>(&MemberRow::read_one("shop", member, "profile", "")).unwrap()?;
    let profile = Profile::from_row(&row).unwrap();
    Some(profile.addresses.get(&Channel::Email)?.iter().find(|a| a.address == DEAD)?.state)
}

/// What a command tells to other members.
fn told(output: &Output) -> Vec<(&str, MemberAction)> {
    let told = output.records.iter().map(|record| match record {
        Record::Member(command) => (command.member.as_str(), command.action),
        other => panic!("{other:?}"),
    });
    told.collect()
}

#[test]
fn a_suppressed_address_outlives_the_member_and_is_met_by_the_next() {
    use MemberAction::{AddAddress, Delete, Restore, Suppress, Upsert};
    let mut facts = Facts::default();
    let mut offset = 0;
    let mut does = |facts: &mut Facts, member: &str, action| {
        offset += 1;
        step(&Members::default(), facts, position(Topic::Members, offset), about(member, action, DEAD))
    };
    does(&mut facts, "m", Upsert);
    does(&mut facts, "m", Suppress);
    let row = on_the_list(&facts).unwrap();
    assert_eq!((row.reason.as_str(), row.source.as_str(), row.since), ("550", "provider mail", NOW));
    does(&mut facts, "m", Delete);
    assert_eq!((stands(&facts, "m"), on_the_list(&facts).is_some()), (None, true), "it is about the address");
    for member in ["m", "n"] {
        does(&mut facts, member, Upsert);
        assert_eq!(stands(&facts, member), Some(AddressState::Suppressed), "{member}: it arrives as the list says");
    }
    // What the channel shows to be alive lifts it, for all who share it.
    let lifted = does(&mut facts, "m", AddAddress);
    assert_eq!((stands(&facts, "m"), on_the_list(&facts)), (Some(AddressState::Active), None));
    assert_eq!(told(&lifted), [("n", Restore)]);
    let follows = does(&mut facts, "n", Restore);
    assert_eq!((stands(&facts, "n"), told(&follows)), (Some(AddressState::Active), vec![]));
    // A stranger's bounce suppresses it for them too, and the round ends there.
    let bounced = does(&mut facts, "stranger", Suppress);
    assert_eq!(told(&bounced), [("m", Suppress), ("n", Suppress)]);
    assert!(told(&does(&mut facts, "m", Suppress)).is_empty() && told(&does(&mut facts, "n", Suppress)).is_empty());
    assert_eq!([stands(&facts, "m"), stands(&facts, "n")], [Some(AddressState::Suppressed); 2]);
    does(&mut facts, "m", Restore);
    assert_eq!((stands(&facts, "m"), on_the_list(&facts)), (Some(AddressState::Active), None));
}

#[test]
fn an_address_that_misses_three_in_a_row_within_thirty_days_rests_until_it_is_heard_of() {
    use AddressState::{Active, Quarantined};
    use MemberAction::{Heard, Missed, Upsert};
    for (sentence, history, state) in [
        ("two are none too many", &[(Missed, 0), (Missed, 1)][..], Active),
        ("three are", &[(Missed, 0), (Missed, 1), (Missed, 29)], Quarantined),
        ("what is thirty days old counts no more", &[(Missed, 0), (Missed, 1), (Missed, 30)], Active),
        ("but the later ones do", &[(Missed, 0), (Missed, 1), (Missed, 30), (Missed, 30)], Quarantined),
        ("a word of the member begins anew", &[(Missed, 0), (Missed, 1), (Heard, 2), (Missed, 3)], Active),
        ("and revives", &[(Missed, 0), (Missed, 1), (Missed, 2), (Heard, 3)], Active),
    ] {
        let mut facts = Facts::default();
        step(&Members::default(), &mut facts, position(Topic::Members, 0), about("m", Upsert, DEAD));
        for (offset, (action, day)) in (1..).zip(history) {
            let at = NOW.plus(Duration::from_secs(day * 24 * 3_600));
            let command = MemberCommand { at, ..about("m", *action, DEAD) };
            step(&Members::default(), &mut facts, position(Topic::Members, offset), command);
        }
        assert_eq!(stands(&facts, "m"), Some(state), "{sentence}");
        assert_eq!(on_the_list(&facts), None, "{sentence}: it is the member's own, and no suppression");
    }
}

#[test]
fn the_first_word_about_an_address_stands_and_is_what_profiles_copy() {
    use MemberAction::{Suppress, Upsert};
    let mut facts = Facts::default();
    let first = Timestamp(NOW.0 - 1_000);
    let row = SuppressionRow {
        project: "shop".into(),
        channel: "email".into(),
        shard: shard_of(DEAD),
        address: DEAD.into(),
        reason: "by letter".into(),
        source: "operator ops".into(),
        since: first,
    };
    facts.apply(&[row.clone().put()]);
    step(&Members::default(), &mut facts, position(Topic::Members, 0), about("m", Upsert, DEAD));
    step(&Members::default(), &mut facts, position(Topic::Members, 1), about("m", Suppress, DEAD));
    assert_eq!(on_the_list(&facts), Some(row));
    let member = facts.one::<MemberRow>(&MemberRow::read_one("shop", "m", "profile", "")).unwrap().unwrap();
    let address = &Profile::from_row(&member).unwrap().addresses[&Channel::Email][0];
    assert_eq!((address.reason.as_str(), address.since), ("by letter", first));
}

#[test]
fn a_redelivered_suppression_says_all_of_it_again() {
    use MemberAction::{Suppress, Upsert};
    let mut facts = Facts::default();
    step(&Members::default(), &mut facts, position(Topic::Members, 0), about("n", Upsert, DEAD));
    step(&Members::default(), &mut facts, position(Topic::Members, 1), about("m", Upsert, DEAD));
    let at = position(Topic::Members, 2);
    step(&Members::default(), &mut facts, at, about("m", Suppress, DEAD));
    // The process ended between the member's row and the list.
    let SuppressionRow { project, channel, shard, address, .. } = on_the_list(&facts).unwrap();
    let key = SuppressionRow::key(project, channel, shard, address);
    facts.apply(&[Write::Delete { table: SuppressionRow::TABLE, key, fence: None }]);
    let again = step(&Members::default(), &mut facts, at, about("m", Suppress, DEAD));
    assert!(on_the_list(&facts).is_some());
    assert_eq!(told(&again), [("n", Suppress)]);
    // Or between the list and the log.
    assert_eq!(told(&step(&Members::default(), &mut facts, at, about("m", Suppress, DEAD))), [("n", Suppress)]);
}

#[test]
fn what_a_command_may_find_suppressed_is_read_for_it() {
    use MemberAction::{Absorb, Delete, Heard, Merge, Suppress, Upsert};
    let tables = |command| {
        let incoming = Incoming { position: position(Topic::Members, 0), input: command };
        let reads = Members::default().needs(&incoming, &Facts::default(), NOW);
        let mut tables: Vec<_> = reads.into_iter().map(|read| read.table).collect();
        // The profile and where the member went: rows of one partition.
        tables.dedup();
        tables
    };
    assert_eq!(tables(about("m", Upsert, DEAD)), ["members", "suppressions"]);
    assert_eq!(tables(about("m", Suppress, DEAD)), ["members", "suppressions", "addresses"]);
    assert_eq!(tables(about("m", Delete, DEAD)), ["members"]);
    assert_eq!(tables(about("m", Heard, DEAD)), ["members"]);
    assert_eq!(tables(about("m", Merge, DEAD)), ["members"]);
    let addresses = [(Channel::Email, vec![Address::active(DEAD.into(), NOW)])].into();
    let profile = serde_json::to_string(&Profile { addresses, ..Profile::default() }).unwrap();
    let absorb = MemberCommand { patch: Some(profile), ..about("m", Absorb, DEAD) };
    assert_eq!(tables(absorb), ["members", "suppressions"]);
}

#[test]
fn what_is_scheduled_is_emitted_when_due_and_then_forgotten() {
    let record = |due| Scheduled {
        id: EntryId::derive("t", &[]),
        project: "shop".into(),
        due,
        topic: Topic::Events.name().into(),
        key: "shop/m".into(),
        payload: vec![1],
    };
    let here = position(Topic::Scheduled(Lane::Transactional), 0);
    let mut facts = Facts::default();
    let due = NOW.plus(Duration::from_secs(90));
    let kept = step(&Schedule, &mut facts, here, Plan::Keep(record(due)));
    assert!(kept.records.is_empty() && kept.rows.len() == 2, "row and cursor: {kept:?}");
    let tick =
        |facts: &Facts, now| Schedule.decide(&Incoming { position: here, input: Plan::Tick }, facts, now).unwrap();
    assert!(tick(&facts, due).records.is_empty(), "not before it is due");
    let fired = tick(&facts, due.plus(Duration::from_millis(1)));
    assert_eq!(fired.records.len(), 1);
    assert!(fired.rows.is_empty(), "nothing goes before its record is on the log");
    assert!(matches!(&fired.after[..], [Write::Delete { .. }]));
    facts.apply(&fired.after);
    assert!(tick(&facts, due.plus(Duration::from_secs(2))).records.is_empty());
    let late = step(&Schedule, &mut facts, here, Plan::Keep(record(Timestamp(NOW.0 - 1))));
    assert_eq!(late.records.len(), 1, "what is due already is emitted at once");
}

#[test]
fn what_is_urgent_waits_in_a_shard_of_its_own() {
    use Lane::{Bulk, Transactional};
    let delivery = |lane| Delivery { lane, ..delivery(1) };
    let later = |lane| Record::Later(NOW, Box::new(Record::Delivery(delivery(lane))));
    let (urgent, bulk) = (later(Transactional).topic(), later(Bulk).topic());
    assert_eq!((urgent, bulk), (Topic::Scheduled(Transactional), Topic::Scheduled(Bulk)));
    assert!(urgent < bulk, "its partitions have their ticks first");
    let mut facts = Facts::default();
    let at = |topic| position(topic, 3);
    let keep = |facts: &mut Facts, topic, n: u8| {
        let due = NOW.plus(Duration::from_secs(1));
        let (id, target) = (EntryId::derive("t", &[&[n]]), Topic::Deliveries(Channel::Sms, Transactional));
        let (key, payload) = ("shop/m".into(), vec![n]);
        let record = Scheduled { id, project: "shop".into(), due, topic: target.name().into(), key, payload };
        step(&Schedule, facts, at(topic), Plan::Keep(record));
    };
    (0..200).for_each(|n| keep(&mut facts, bulk, n));
    keep(&mut facts, urgent, 200);
    let tick = |topic| {
        let incoming = Incoming { position: at(topic), input: Plan::Tick };
        Schedule.decide(&incoming, &facts, NOW.plus(Duration::from_secs(2))).unwrap().records
    };
    assert_eq!((tick(urgent).len(), tick(bulk).len()), (1, 200));
}
