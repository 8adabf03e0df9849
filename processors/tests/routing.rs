//! What the router promises whatever it is asked: properties over random members, histories and definitions.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    caps::{History, Sent},
    definitions::{Compiled, ProviderCheck},
    route::{Choice, Known, choose},
    score::Seen,
};
use bellwether_schemas::{
    Channel, EventId, Lane, NotificationId, Timestamp,
    definitions::{Cap, Definitions, Per},
    member::{Address, AddressState, ByCategory, Profile},
    records::{Notification, Outcome, Verdict},
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::{select, subsequence},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const HOUR: i64 = 3_600_000;
/// 2026-06-01, a Monday, 12:00 UTC.
const NOW: Timestamp = Timestamp(1_780_315_200_000);
static CHANNELS: [Channel; 4] = [Channel::Email, Channel::Sms, Channel::Telegram, Channel::Webhook];

/// A project whose one template speaks on some channels, with a flow of each lane.
fn compiled(routing: &Value, caps: &Value, channels: &[Channel]) -> Compiled {
    let variant = |channel: &Channel| match channel {
        Channel::Email => json!({"en": {"subject": "S", "text": "T"}}),
        Channel::Webhook => json!({"en": {"json": "{}"}}),
        _ => json!({"en": {"text": "T"}}),
    };
    let variants: BTreeMap<_, _> = channels.iter().map(|channel| (channel, variant(channel))).collect();
    let providers: BTreeMap<_, _> = CHANNELS.iter().map(|c| (c.name(), json!({"kind": c.name()}))).collect();
    // A digest, so that any cap may count them.
    let notify =
        |lane| json!({"on": "any", "notify": {"template": "it", "lane": lane, "digest": {"after_seconds": 0}}});
    let document: Definitions = serde_json::from_value(json!({
        "project": {"name": "shop", "default_locale": "en", "caps": caps, "routing": routing},
        "providers": providers,
        "events": {"any": {"type": "any", "data": {"type": "object"}, "samples": {"one": {"data": {}}}}},
        "templates": {"it": {"channels": variants}},
        "flows": {"tips": notify("bulk"), "code": notify("transactional")},
    }))
    .unwrap();
    Compiled::new(document, 1, &|kind, _| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() })
        .unwrap_or_else(|findings| panic!("{findings:#?}"))
}

fn notification(lane: Lane, channels: &[Channel], n: usize) -> Notification {
    let event = EventId::derive("shop", "/s", &n.to_string());
    let flow = if lane == Lane::Bulk { "tips" } else { "code" };
    Notification {
        id: NotificationId::derive(event, flow, 1, 0, "m"),
        project: "shop".into(),
        member: "m".into(),
        event,
        event_type: "any".into(),
        flow: flow.into(),
        flow_version: 1,
        step: 0,
        template: "it".into(),
        lane,
        channels: channels.to_vec(),
        expires_at: None,
        accepted_at: NOW,
        data: "{}".into(),
        round: 0,
        tried: Vec::new(),
        gathered_in: None,
    }
}

fn time() -> impl Strategy<Value = Timestamp> {
    (-HOUR..2_400 * HOUR).prop_map(|before| Timestamp(NOW.0 - before))
}

fn some(channels: usize) -> impl Strategy<Value = Vec<Channel>> {
    subsequence(CHANNELS.to_vec(), channels..=CHANNELS.len()).prop_shuffle()
}

fn address() -> impl Strategy<Value = Address> {
    use AddressState::{Active, Quarantined, Suppressed};
    let state = prop_oneof![3 => Just(Active), 1 => Just(Suppressed), 1 => Just(Quarantined)];
    (state, vec(time(), 0..4), prop::option::of(time()), 0..5_u8).prop_map(|(state, misses, heard, n)| Address {
        state,
        misses,
        heard,
        ..Address::active(format!("address-{n}"), NOW)
    })
}

fn profile() -> impl Strategy<Value = Profile> {
    let addresses = btree_map(select(&CHANNELS[..]), vec(address(), 0..3), 0..=4);
    let opt_ins = btree_map(
        select(&CHANNELS[..]),
        prop_oneof![3 => Just(true), 1 => Just(false)].prop_map(ByCategory::from),
        0..=4,
    );
    (addresses, opt_ins, prop_oneof![2 => Just(Vec::new()), 1 => some(0)])
        .prop_map(|(addresses, opt_ins, channels)| Profile { addresses, opt_ins, channels, ..Profile::default() })
}

/// A member who can be reached everywhere, and wants to be.
fn reachable() -> Profile {
    let address = |channel: &Channel| (*channel, vec![Address::active(format!("at {channel}"), NOW)]);
    let opt_ins = CHANNELS.iter().map(|channel| (*channel, true.into())).collect();
    Profile { addresses: CHANNELS.iter().map(address).collect(), opt_ins, ..Profile::default() }
}

fn seen() -> impl Strategy<Value = BTreeMap<Channel, Seen>> {
    let one = prop::array::uniform4(prop::option::of(time())).prop_map(
        |[last_sent, last_delivered, last_open, last_click]| Seen { last_sent, last_delivered, last_open, last_click },
    );
    btree_map(select(&CHANNELS[..]), one, 0..=4)
}

fn history() -> impl Strategy<Value = History> {
    let sent = (time(), select(&CHANNELS[..]), select(&["marketing", "transactional"][..]));
    vec(sent, 0..20).prop_map(|all| {
        let all = all.into_iter().enumerate().map(|(n, (at, channel, category))| Sent {
            id: notification(Lane::Bulk, &[], 1_000 + n).id,
            at,
            channel,
            category: category.into(),
        });
        History(all.collect())
    })
}

fn caps(categories: &'static [&'static str]) -> impl Strategy<Value = Value> {
    let per = prop_oneof![Just(json!("day")), Just(json!("week")), (1..100_u32).prop_map(|h| json!({"hours": h}))];
    let of = subsequence(categories.to_vec(), 1..=categories.len());
    let exceed = select(&["drop", "defer", "digest"][..]);
    let cap = (0..5_u32, per, of, subsequence(CHANNELS.to_vec(), 0..=2), exceed).prop_map(
        |(most, per, categories, channels, exceed)| {
            json!({"most": most, "per": per, "categories": categories, "channels": channels, "exceed": exceed})
        },
    );
    btree_map("[a-d]", cap, 0..3).prop_map(|caps| json!(caps))
}

fn routing() -> impl Strategy<Value = Value> {
    let number = || 0.0..10.0_f64;
    let routing = (number(), number(), number(), btree_map(select(&CHANNELS[..]), number(), 0..=4));
    let routing = routing.prop_map(|(reach, engagement, cost, costs)| {
        json!({"weights": {"reach": reach + 0.1, "engagement": engagement, "cost": cost}, "costs": costs})
    });
    prop_oneof![1 => Just(Value::Null), 3 => routing]
}

fn lane() -> impl Strategy<Value = Lane> {
    select(&Lane::ALL[..])
}

fn is_usable(verdict: &Verdict) -> bool {
    [Verdict::CHOSEN, Verdict::NOT_NEEDED].contains(&verdict.rule.as_str())
}

/// What holds of every decision.
fn is_whole(choice: &Choice) -> Result<(), TestCaseError> {
    let chosen: Vec<_> = choice.trace.iter().filter(|v| v.rule == Verdict::CHOSEN).map(|v| v.channel).collect();
    prop_assert!(!choice.detail.is_empty(), "{:?}", choice);
    prop_assert_eq!(choice.to.is_some(), choice.outcome == Outcome::Routed, "{:?}", choice);
    prop_assert_eq!(choice.until.is_some(), choice.outcome == Outcome::Deferred, "{:?}", choice);
    let to: Vec<_> = choice.to.iter().map(|(channel, _)| *channel).collect();
    prop_assert_eq!(chosen, to, "the chosen channel, and no other: {:?}", choice);
    for verdict in &choice.trace {
        prop_assert!(!verdict.detail.is_empty(), "{:?}", verdict);
        let full = |count: i32| verdict.limit.is_some_and(|limit| count >= limit);
        prop_assert!(verdict.rule != "capped" || verdict.count.is_some_and(full), "{:?}", verdict);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_decision_is_without_its_trace(
        routing in routing(), caps in caps(&["marketing", "transactional"]), channels in some(1), named in any::<prop::sample::Index>(),
        profile in prop::option::weighted(0.9, profile()), history in history(), seen in seen(), lane in lane(),
        expires in prop::option::weighted(0.2, time()),
    ) {
        let project = compiled(&routing, &caps, &channels);
        let named = &channels[..named.index(channels.len())];
        let n = Notification { expires_at: expires, ..notification(lane, named, 1) };
        let known = Known { profile: profile.as_ref(), history: &history, seen: &seen };
        let choice = choose(&n, known, &project, NOW);
        is_whole(&choice)?;
        prop_assert_eq!(&choice, &choose(&n, known, &project, NOW), "the same again");
        if choice.trace.is_empty() {
            prop_assert!(matches!(choice.outcome, Outcome::Expired | Outcome::UnknownMember), "{:?}", choice);
        } else {
            // Every channel that could carry it is there, once.
            let could = if named.is_empty() { &channels[..] } else { named };
            for channel in could {
                let verdicts: Vec<_> = choice.trace.iter().filter(|v| v.channel == *channel).collect();
                prop_assert_eq!(verdicts.len(), 1, "{}: {:?}", channel, choice);
                prop_assert_eq!(verdicts[0].score.is_some(), !routing.is_null(), "{:?}", verdicts);
            }
        }
    }

    #[test]
    fn who_refused_all_or_is_nobody_gets_nothing(
        routing in routing(), caps in caps(&["marketing", "transactional"]), channels in some(1), profile in profile(), history in history(),
        seen in seen(), lane in lane(),
    ) {
        let project = compiled(&routing, &caps, &channels);
        let refused = Profile { opt_ins: Channel::ALL.into_iter().map(|channel| (channel, false.into())).collect(), ..profile };
        for profile in [Some(&refused), None] {
            let choice = choose(&notification(lane, &[], 1), Known { profile, history: &history, seen: &seen }, &project, NOW);
            prop_assert!(choice.to.is_none() && choice.until.is_none(), "{:?}", choice);
        }
    }

    #[test]
    fn a_cap_over_marketing_never_holds_back_what_is_transactional(
        routing in routing(), caps in caps(&["marketing"]), channels in some(1), profile in profile(), history in history(), seen in seen(),
    ) {
        let known = Known { profile: Some(&profile), history: &history, seen: &seen };
        let choice = choose(&notification(Lane::Transactional, &[], 1), known, &compiled(&routing, &caps, &channels), NOW);
        prop_assert!(!matches!(choice.outcome, Outcome::Capped | Outcome::Deferred), "{:?}", choice);
        prop_assert!(choice.trace.iter().all(|v| v.rule != "capped"), "{:?}", choice);
    }

    #[test]
    fn the_best_of_the_usable_is_chosen(
        routing in routing().prop_filter("compared", |routing| !routing.is_null()), channels in some(1), profile in profile(), seen in seen(),
    ) {
        let profile = Profile { channels: Vec::new(), ..profile };
        let known = Known { profile: Some(&profile), history: &History::default(), seen: &seen };
        let choice = choose(&notification(Lane::Transactional, &[], 1), known, &compiled(&routing, &json!({}), &channels), NOW);
        let usable: Vec<_> = choice.trace.iter().filter(|v| is_usable(v)).collect();
        prop_assert!(usable.iter().all(|v| v.score <= usable[0].score), "{:?}", choice);
        prop_assert!(usable.first().is_none_or(|v| v.rule == Verdict::CHOSEN), "{:?}", choice);
    }

    /// Whatever is offered when: a message that is routed never makes one too many of any cap's window.
    #[test]
    fn a_cap_is_never_exceeded(
        routing in routing(), caps in caps(&["marketing", "transactional"]), channels in some(1), seen in seen(),
        offers in vec((0..9 * HOUR, lane()), 1..60),
    ) {
        let project = compiled(&routing, &caps, &channels);
        let (profile, mut history, mut sent, mut now) = (reachable(), History::default(), Vec::new(), NOW);
        for (n, (gap, lane)) in offers.into_iter().enumerate() {
            now = Timestamp(now.0 + gap);
            let n = notification(lane, &[], n);
            let choice = choose(&n, Known { profile: Some(&profile), history: &history, seen: &seen }, &project, now);
            is_whole(&choice)?;
            let Some((channel, _)) = choice.to else { continue };
            let one = Sent { id: n.id, at: now, channel, category: project.terms(&n).category.clone() };
            history.enter(one.clone(), &project.document.project.caps, now);
            sent.push(one);
            for (name, cap) in &project.document.project.caps {
                let count = sent.iter().filter(|sent| counts(cap, sent) && is_within(cap, sent.at, now)).count();
                prop_assert!(!counts(cap, &sent[sent.len() - 1]) || count <= cap.most as usize, "cap {}: {} sent", name, count);
            }
        }
    }
}

/// A model of a cap, as its owner would say it.
fn counts(cap: &Cap, sent: &Sent) -> bool {
    cap.categories.contains(&sent.category) && (cap.channels.is_empty() || cap.channels.contains(&sent.channel))
}

fn is_within(cap: &Cap, at: Timestamp, now: Timestamp) -> bool {
    let date = |at: Timestamp| {
        let at = jiff::Timestamp::from_millisecond(at.0).unwrap();
        at.to_zoned(jiff::tz::TimeZone::UTC).date()
    };
    match cap.per {
        Per::Hours(hours) => now.0 - at.0 < i64::from(hours) * HOUR,
        Per::Day => date(at) == date(now),
        Per::Week => date(at).iso_week_date().week() == date(now).iso_week_date().week(),
    }
}
