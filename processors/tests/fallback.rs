//! Another channel for what does not arrive, as route and track decide it together: at once after a failure, in time without a sign, and never once it
//! is known to have arrived.
#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use bellwether_processors::{
    caps::History,
    definitions::{Compiled, ProviderCheck},
    fallback::LONGEST,
    route::DEDUPE_WINDOW,
};
use bellwether_schemas::{
    Channel, Lane,
    definitions::Definitions,
    records::{ErrorKind, Outcome, ReceiptKind},
    rows::Row,
    tables::{MemberRow, SENT},
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use world::{NOON, World, notification};

/// What a channel has to show that the message arrived.
const TURN: u64 = 3_600;

fn compiled(caps: Value) -> Result<Compiled, Vec<String>> {
    compiled_with(caps, json!({"after_seconds": TURN}), json!(["email", "sms", "webhook"]), Value::Null)
}

fn compiled_with(caps: Value, fallback: Value, channels: Value, expires: Value) -> Result<Compiled, Vec<String>> {
    let document: Definitions = serde_json::from_value(json!({
        "project": {"name": "shop", "default_locale": "en", "caps": caps},
        "providers": {"mail": {"kind": "email"}, "text": {"kind": "sms"}, "hook": {"kind": "webhook"}},
        "templates": {"all": {"channels": {
            "email": {"en": {"subject": "S", "text": "T"}}, "sms": {"en": {"text": "T"}}, "webhook": {"en": {"json": "{}"}},
        }}},
        "flows": {"told": {"on": "any", "notify": {
            "template": "all", "lane": "transactional", "channels": channels, "fallback": fallback, "expires_after_seconds": expires,
        }}},
    }))
    .unwrap();
    Compiled::new(document, 1, &|kind, _| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() })
        .map_err(|findings| findings.iter().map(ToString::to_string).collect())
}

#[derive(Clone, Copy, Debug)]
enum Do {
    /// A receipt comes in.
    Tell(Channel, ReceiptKind, Option<ErrorKind>),
    /// So many seconds pass.
    Wait(u64),
}

/// A notification, and what happens then.
fn run(world: &mut World, doings: &[Do]) {
    world.notify(notification(1));
    for doing in doings {
        match *doing {
            Do::Tell(channel, kind, error) => world.receipt(channel, kind, error),
            Do::Wait(seconds) => world.wait(seconds),
        }
    }
}

#[test]
fn what_follows_a_first_try() {
    use Channel::{Email, Sms, Webhook};
    use Do::{Tell, Wait};
    use ErrorKind::{Ambiguous, Expired, InvalidAddress, Rejected};
    use Outcome::{Cancelled, Duplicate, Routed};
    use ReceiptKind::{Clicked, Deferred, Delivered, Failed, OpenedByMachine, Sent};
    let tell = |channel, kind| Tell(channel, kind, None);
    let fails = |channel, error| Tell(channel, Failed, Some(error));
    let all = &[Email, Sms, Webhook][..];
    let (email, sms, hook) = ((Routed, Some(Email)), (Routed, Some(Sms)), (Routed, Some(Webhook)));
    let (cancelled, duplicate) = ((Cancelled, None), (Duplicate, None));
    // The sentence; where the member is reached; what happens → what is decided.
    type Case<'a> = (&'a str, &'a [Channel], Vec<Do>, Vec<(Outcome, Option<Channel>)>);
    let cases: Vec<Case<'_>> = vec![
        ("what arrived is called off", all, vec![tell(Email, Delivered), Wait(TURN)], vec![email, cancelled]),
        ("a click is an arrival", all, vec![tell(Email, Clicked), Wait(TURN)], vec![email, cancelled]),
        ("a machine opens what arrived", all, vec![tell(Email, OpenedByMachine), Wait(TURN)], vec![email, cancelled]),
        ("sent is not arrived", &all[..2], vec![tell(Email, Sent), Wait(TURN)], vec![email, sms]),
        ("nor is a try that is repeated", &all[..2], vec![tell(Email, Deferred), Wait(TURN)], vec![email, sms]),
        ("a turn is not over before its time", all, vec![Wait(TURN - 1)], vec![email]),
        ("each channel has its turn", all, vec![Wait(3 * TURN)], vec![email, sms, hook]),
        (
            "after a failure at once, and in time it is known",
            &all[..2],
            vec![fails(Email, InvalidAddress), Wait(TURN)],
            vec![email, sms, duplicate],
        ),
        (
            "after two failures the third",
            all,
            vec![fails(Email, Rejected), fails(Sms, Rejected), Wait(TURN)],
            vec![email, sms, hook, duplicate, duplicate],
        ),
        ("a failure whose turn is over", all, vec![Wait(TURN), fails(Email, Rejected)], vec![email, sms]),
        (
            "what expired in the queue did so because the next has its turn",
            &all[..2],
            vec![Wait(TURN), fails(Email, Expired)],
            vec![email, sms],
        ),
        ("what is in doubt has its time", &all[..2], vec![fails(Email, Ambiguous)], vec![email]),
        ("and then is over", &all[..2], vec![fails(Email, Ambiguous), Wait(TURN)], vec![email, sms]),
        (
            "a late arrival is on record",
            &all[..2],
            vec![Wait(TURN), tell(Email, Delivered), Wait(TURN)],
            vec![email, sms],
        ),
        (
            "and calls off the third",
            all,
            vec![Wait(TURN), tell(Email, Delivered), Wait(TURN)],
            vec![email, sms, cancelled],
        ),
        (
            "what arrived and is returned afterwards",
            all,
            vec![tell(Email, Delivered), fails(Email, Rejected), Wait(TURN)],
            vec![email, cancelled, duplicate],
        ),
        ("who has one address has one turn", &all[..1], vec![fails(Email, Rejected), Wait(TURN)], vec![email]),
        ("and the next is not told of others", &all[1..2], vec![Wait(TURN)], vec![sms]),
    ];
    for (sentence, channels, doings, expected) in cases {
        let mut world = World::new(compiled(json!({})).unwrap(), channels);
        run(&mut world, &doings);
        assert_eq!(world.told(), expected, "{sentence}: {:#?}", world.decisions);
        assert!(world.later.iter().all(|(due, _)| *due > world.now), "{sentence}");
    }
}

#[test]
fn a_decision_says_why_the_next_channel_had_its_turn() {
    let mut world = World::new(compiled(json!({})).unwrap(), &[Channel::Email, Channel::Sms, Channel::Webhook]);
    run(
        &mut world,
        &[
            Do::Tell(Channel::Email, ReceiptKind::Failed, Some(ErrorKind::InvalidAddress)),
            Do::Wait(TURN - 1),
            Do::Tell(Channel::Sms, ReceiptKind::Sent, None),
            Do::Wait(1),
        ],
    );
    assert_eq!(
        world.details(),
        [
            "email: the flow names it",
            "email failed (invalid_address); sms: the flow names it",
            // In time the turn of the e-mail ends once more.
            "claimed before by the record at notifications.transactional/0/4",
            "sms: no sign that it arrived; webhook: the flow names it",
        ]
    );
    let last = world.decisions.last().unwrap();
    let trace: Vec<_> = last.trace.iter().map(|verdict| (verdict.channel, verdict.rule.as_str())).collect();
    assert_eq!(trace, [(Channel::Email, "tried"), (Channel::Sms, "tried"), (Channel::Webhook, "chosen")]);

    let mut world = World::new(compiled(json!({})).unwrap(), &[Channel::Email, Channel::Sms]);
    run(&mut world, &[Do::Tell(Channel::Email, ReceiptKind::Delivered, None), Do::Wait(TURN)]);
    assert_eq!(world.details(), ["email: the flow names it", "email: delivered at 2026-06-01T12:00:00Z"]);
}

#[test]
fn what_waits_when_the_next_channel_has_its_turn_is_not_sent_beside_it() {
    let turn = |turns: u64| Some(NOON.plus(Duration::from_secs(turns * TURN)));
    let mut world = World::new(compiled(json!({})).unwrap(), &[Channel::Email, Channel::Sms]);
    run(&mut world, &[Do::Wait(2 * TURN)]);
    let expiries: Vec<_> = world.deliveries.iter().map(|d| (d.channel, d.expires_at)).collect();
    assert_eq!(expiries, [(Channel::Email, turn(1)), (Channel::Sms, None)]);
}

#[test]
fn a_message_counts_once_however_many_channels_try_it() {
    let caps = json!({"daily": {"most": 1, "per": "day", "categories": ["transactional"]}});
    let mut world = World::new(compiled(caps).unwrap(), &[Channel::Email, Channel::Sms]);
    run(&mut world, &[Do::Wait(TURN)]);
    assert_eq!(world.told(), [(Outcome::Routed, Some(Channel::Email)), (Outcome::Routed, Some(Channel::Sms))]);
    world.notify(notification(2));
    assert_eq!(world.told().last(), Some(&(Outcome::Capped, None)), "another one is one too many");
    let read = MemberRow::read_one("shop", "m", SENT, Lane::Transactional.name());
    let row = MemberRow::from_cells(world.store.read(&read, world.now).remove(0)).unwrap();
    let history: History = row.kept().unwrap();
    let sent: Vec<_> = history.0.iter().map(|sent| (sent.id, sent.channel)).collect();
    assert_eq!(sent, [(notification(1).id, Channel::Email), (notification(1).id, Channel::Sms)]);
}

#[test]
fn a_cap_of_a_channel_counts_a_try_that_another_channel_followed() {
    let caps = json!({"letters": {"most": 1, "per": "day", "categories": ["transactional"], "channels": ["email"]}});
    let mut world = World::new(compiled(caps).unwrap(), &[Channel::Email, Channel::Sms]);
    run(&mut world, &[Do::Wait(TURN)]);
    assert_eq!(world.told(), [(Outcome::Routed, Some(Channel::Email)), (Outcome::Routed, Some(Channel::Sms))]);
    world.notify(notification(2));
    assert_eq!(world.told().last(), Some(&(Outcome::Routed, Some(Channel::Sms))), "the day's letter was sent");
}

#[test]
fn a_turn_has_a_length_and_something_to_follow() {
    let findings = |fallback: Value, channels: Value, expires: Value| {
        compiled_with(json!({}), fallback, channels, expires).err().unwrap_or_default().join("\n")
    };
    let after = |seconds: u64| json!({"after_seconds": seconds});
    let both = || json!(["email", "sms"]);
    assert_eq!(findings(after(1), json!([]), Value::Null), "");
    assert_eq!(findings(after(LONGEST.as_secs()), both(), Value::Null), "");
    assert_eq!(
        findings(after(0), both(), Value::Null),
        "flows.told.notify.fallback.after_seconds: the next channel would have its turn after 0 s; use 1 to 518400 s"
    );
    assert_eq!(
        findings(after(LONGEST.as_secs() + 1), both(), Value::Null),
        "flows.told.notify.fallback.after_seconds: the next channel would have its turn after 518401 s; use 1 to 518400 s"
    );
    assert_eq!(
        findings(after(60), both(), json!(60)),
        "flows.told.notify.fallback.after_seconds: after 60 s the notification has expired, at 60 s; \
         let the next channel try sooner, or let it expire later"
    );
    assert_eq!(
        findings(after(60), json!(["sms"]), Value::Null),
        "flows.told.notify.fallback: there is no other channel: template `all` goes by sms alone; \
         give the template another channel, let the flow name more of them, or remove `fallback`"
    );
    assert!(LONGEST < DEDUPE_WINDOW, "the second copy of a turn meets the claim of the first");
}

fn doings() -> impl Strategy<Value = Vec<Do>> {
    let channel = prop::sample::select(vec![Channel::Email, Channel::Sms, Channel::Webhook]);
    let error = prop::sample::select(vec![
        ErrorKind::InvalidAddress,
        ErrorKind::OptedOut,
        ErrorKind::Rejected,
        ErrorKind::Ambiguous,
        ErrorKind::Expired,
        ErrorKind::Unreachable,
    ]);
    let kind = prop::sample::select(ReceiptKind::ALL.to_vec());
    let tell = (channel, kind, error)
        .prop_map(|(channel, kind, error)| Do::Tell(channel, kind, (kind == ReceiptKind::Failed).then_some(error)));
    prop::collection::vec(prop_oneof![tell, (1..TURN * 3 / 2).prop_map(Do::Wait)], 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever receipts come in, in whatever order, and however often anything is redelivered: each channel is used once at most, none after the
    /// message is known to have arrived (the world itself looks at that), and in the end it has arrived, or every channel has had its turn.
    #[test]
    fn no_channel_has_two_turns(doings in doings(), redelivers in any::<bool>(), copies in 1..3_usize) {
        let mut world = World::new(compiled(json!({})).unwrap(), &[Channel::Email, Channel::Sms, Channel::Webhook]);
        world.redelivers = redelivers;
        run(&mut world, &doings);
        for _ in 1..copies {
            world.notify(notification(1));
        }
        world.wait(10 * TURN);
        let routed: Vec<_> = world.decisions.iter().filter(|d| d.outcome == Outcome::Routed).filter_map(|d| d.channel).collect();
        let channels: BTreeSet<_> = routed.iter().copied().collect();
        prop_assert_eq!(routed.len(), channels.len(), "a channel was used twice: {:?}", routed);
        prop_assert_eq!(world.deliveries.len(), routed.len());
        prop_assert!(world.later.is_empty());
        prop_assert!(world.arrived || channels.len() == 3, "{:?}", world.told());
        if world.arrived && channels.len() < 3 {
            prop_assert!(world.decisions.iter().any(|d| d.outcome == Outcome::Cancelled), "no is a fact: {:?}", world.told());
        }
    }
}
