//! Consent, read as a specification: what a statement changes, what the ledger keeps of it, and that the ledger's fold is the profile.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    consent::{self, Entry, OptIns, State, allows, fold, merged, say},
    definitions::{Compiled, Projects, ProviderCheck},
    members::Members,
};
use bellwether_schemas::{
    Channel, Position, Timestamp, Topic,
    definitions::Consent,
    member::{AddressState, ByCategory, Profile},
    records::{Event, MemberAction, MemberCommand, Record},
    rows::Write,
    tables::{ConsentRow, MemberRow, PROFILE},
};
use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    sample::select,
};
use serde_json::{Map, Value, json};

const NOW: Timestamp = Timestamp(1_772_359_200_000);

/// A member of a project with or without double opt-in, and the ledger as it grows.
struct House {
    members: Members,
    facts: Facts,
    offset: u64,
}

impl House {
    fn new(double_opt_in: bool) -> Self {
        let project = json!({"name": "shop", "default_locale": "en", "double_opt_in": double_opt_in});
        let document = json!({"project": project, "providers": {}, "templates": {}, "flows": {}});
        let check = |_: &str, _: &serde_json::Map<String, Value>| ProviderCheck::default();
        let compiled = Compiled::new(serde_json::from_value(document).unwrap(), 1, &check).unwrap();
        let members = Members { projects: Projects::from_iter([compiled]), ..Members::default() };
        Self { members, facts: Facts::default(), offset: 0 }
    }

    fn does(&mut self, command: MemberCommand) -> Output {
        self.offset += 1;
        self.again(command)
    }

    /// The same position once more.
    fn again(&mut self, command: MemberCommand) -> Output {
        let position = Position { topic: Topic::Members, partition: 0, offset: self.offset };
        let output = self.members.decide(&Incoming { position, input: command }, &self.facts, NOW).unwrap();
        self.facts.apply(&output.rows);
        self.facts.apply(&output.after);
        output
    }

    fn profile(&self) -> Option<Profile> {
        let row = self.facts.one::<MemberRow>(&MemberRow::read_one("shop", "m", PROFILE, "")).unwrap();
        row.map(|row| Profile::from_row(&row).unwrap())
    }

    fn opt_ins(&self) -> OptIns {
        self.profile().map(|profile| profile.opt_ins).unwrap_or_default()
    }

    fn address(&self) -> AddressState {
        self.profile().unwrap().addresses[&Channel::Email][0].state
    }

    fn ledger(&self) -> Vec<ConsentRow> {
        self.facts.rows(&ConsentRow::read_all("shop", "m")).unwrap()
    }

    /// The ledger's lines about consent as `channel category state`.
    fn lines(&self) -> Vec<String> {
        let consent = self.ledger().into_iter().filter(|row| row.preference.is_none());
        consent.map(|row| format!("{} {} {}", row.channel, row.category, row.state)).collect()
    }

    /// Its lines about preferences.
    fn preferred(&self) -> Vec<Value> {
        self.ledger().iter().filter_map(preferred).collect()
    }
}

/// What a line says of consent.
fn entry(row: &ConsentRow) -> Option<Entry> {
    row.preference.is_none().then(|| Entry {
        channel: row.channel.parse().unwrap(),
        category: row.category.clone(),
        state: State::ALL.into_iter().find(|state| state.name() == row.state).unwrap(),
    })
}

/// What a line says of a preference, as a merge patch (RFC 7396).
fn preferred(row: &ConsentRow) -> Option<Value> {
    let value = |text: &String| serde_json::from_str::<Value>(text).unwrap();
    row.preference.as_ref().map(|text| json!({ row.category.as_str(): value(text) }))
}

fn command(action: MemberAction) -> MemberCommand {
    MemberCommand::new("shop".into(), "m".into(), action, "shop".into(), NOW)
}

fn upsert(patch: &Value) -> MemberCommand {
    MemberCommand { patch: Some(patch.to_string()), ..command(MemberAction::Upsert) }
}

fn about(action: MemberAction, channel: Channel, category: Option<&str>) -> MemberCommand {
    let category = category.map(str::to_owned);
    MemberCommand { channel: Some(channel), category, proof: Some("form `footer`".into()), ..command(action) }
}

fn confirm(address: &str) -> MemberCommand {
    MemberCommand { address: Some(address.into()), ..about(MemberAction::Confirm, Channel::Email, None) }
}

fn events(output: &Output) -> Vec<&Event> {
    assert!(!output.records.iter().any(|record| matches!(record, Record::Event(_))), "who hears it finds no profile");
    output
        .announced
        .iter()
        .filter_map(|record| if let Record::Event(event) = record { Some(event) } else { None })
        .collect()
}

#[test]
fn a_statement_changes_what_it_names() {
    // Said in this order → as the API shows it.
    let rows: [(&str, &[(&str, Option<bool>)], Value); 9] = [
        ("the channel as a whole is a plain boolean", &[("*", Some(true))], json!({"email": true})),
        ("a category is one word of several", &[("news", Some(true))], json!({"email": {"news": true}})),
        (
            "an opt-in to the channel leaves a refused category refused",
            &[("news", Some(false)), ("*", Some(true))],
            json!({"email": {"*": true, "news": false}}),
        ),
        (
            "until that is asked for by name",
            &[("news", Some(false)), ("news", Some(true))],
            json!({"email": {"news": true}}),
        ),
        (
            "who asks for a category refuses the channel no more",
            &[("tips", Some(false)), ("*", Some(false)), ("news", Some(true))],
            json!({"email": {"news": true, "tips": false}}),
        ),
        (
            "who refuses a category still refuses the channel",
            &[("*", Some(false)), ("news", Some(false))],
            json!({"email": {"*": false, "news": false}}),
        ),
        (
            "a refused channel keeps the words about categories",
            &[("news", Some(true)), ("*", Some(false))],
            json!({"email": {"*": false, "news": true}}),
        ),
        (
            "null withdraws the word",
            &[("*", Some(true)), ("news", Some(true)), ("*", None)],
            json!({"email": {"news": true}}),
        ),
        ("and the last one leaves nothing", &[("news", Some(true)), ("news", None)], json!({})),
    ];
    for (sentence, statements, expected) in rows {
        let mut opt_ins = OptIns::new();
        for (category, said) in statements {
            say(&mut opt_ins, Channel::Email, category, *said);
        }
        assert_eq!(serde_json::to_value(&opt_ins).unwrap(), expected, "{sentence}");
        assert_eq!(serde_json::from_value::<OptIns>(expected).unwrap(), opt_ins, "{sentence}");
    }
}

#[test]
fn every_change_is_a_line_with_its_proof() {
    let mut house = House::new(false);
    house.does(upsert(
        &json!({"addresses": {"email": ["m@example.com"]}, "opt_ins": {"email": false, "sms": {"news": true}}}),
    ));
    assert_eq!(house.lines(), ["email * refused", "sms news given"]);
    house.does(upsert(&json!({"opt_ins": {"email": false}, "locale": "de"})));
    assert_eq!(house.lines().len(), 2, "what an upload repeats is no news");
    house.does(about(MemberAction::OptIn, Channel::Email, Some("news")));
    assert_eq!(house.lines()[2..], ["email * withdrawn", "email news given"]);
    house.does(about(MemberAction::OptIn, Channel::Email, Some("news")));
    assert_eq!(house.lines()[4..], ["email news given"], "an opt-in that repeats one has a proof of its own");
    let last = house.ledger().pop().unwrap();
    let said = (last.applied, last.at, last.actor.as_str(), last.source.as_str(), last.proof.as_deref());
    assert_eq!(said, (4, NOW, "shop", "api", Some("form `footer`")));
    assert_eq!(last.position, "members/0/4");
    let redelivered = house.again(about(MemberAction::OptIn, Channel::Email, Some("news")));
    assert!(redelivered.after.is_empty() && house.lines().len() == 5, "a redelivery adds nothing");
    house.does(command(MemberAction::Delete));
    assert_eq!(house.lines()[5..], ["email news withdrawn", "sms news withdrawn"], "the ledger outlives the profile");
}

#[test]
fn every_change_of_a_preference_is_a_line() {
    let mut house = House::new(false);
    let patches = [
        json!({"locale": "es", "time_zone": "Europe/Madrid", "attributes": {"tier": "gold"}}),
        json!({"locale": "es", "quiet_hours": {"from": "21:00", "to": "09:00"}}),
        json!({"locale": null, "channels": ["sms", "email"]}),
        json!({"channels": ["sms", "email"], "attributes": {"tier": "tin"}}),
        json!({"channels": null, "opt_ins": {"sms": true}}),
    ];
    for patch in &patches {
        house.does(upsert(patch));
    }
    house.does(command(MemberAction::Delete));
    let expected = [
        json!({"locale": "es"}),
        json!({"time_zone": "Europe/Madrid"}),
        json!({"quiet_hours": {"from": "21:00", "to": "09:00"}}),
        json!({"channels": ["sms", "email"]}),
        json!({"locale": null}),
        json!({"channels": null}),
        json!({"quiet_hours": null}),
        json!({"time_zone": null}),
    ];
    assert_eq!(house.preferred(), expected);
    assert_eq!(house.lines(), ["sms * given", "sms * withdrawn"]);
    let first = house.ledger().remove(0);
    let said = (first.applied, first.at, first.state.as_str(), first.actor.as_str(), first.source.as_str());
    assert_eq!(said, (1, NOW, "set", "shop", "api"));
}

#[test]
fn a_redelivery_after_the_profile_went_takes_no_line_away() {
    let mut house = House::new(false);
    house.does(upsert(&json!({"locale": "es"})));
    let batch = [upsert(&json!({"time_zone": "UTC", "opt_ins": {"sms": true}})), command(MemberAction::Delete)];
    batch.iter().for_each(|command| drop(house.does(command.clone())));
    // The process ended before it had committed: all of the batch comes again, and finds no profile.
    house.offset -= 2;
    batch.iter().for_each(|command| drop(house.does(command.clone())));
    let mut preferences = Map::new();
    preferences.extend(house.preferred().iter().flat_map(|line| line.as_object().unwrap().clone()));
    assert_eq!(preferences, *json!({"locale": null, "time_zone": null}).as_object().unwrap());
    assert_eq!(house.lines(), ["sms * given", "sms * withdrawn"]);
}

#[test]
fn the_profile_is_written_when_its_ledger_is() {
    let output =
        House::new(true).does(upsert(&json!({"addresses": {"email": ["m@example.com"]}, "opt_ins": {"email": true}})));
    let tables = |writes: &[Write]| writes.iter().map(|write| write.target().0.name).collect::<Vec<_>>();
    assert_eq!(tables(&output.rows), ["addresses", "consents"]);
    assert_eq!(
        tables(&output.after),
        ["members"],
        "whoever sees the command applied finds its lines, and its event on the log"
    );
}

#[test]
fn the_way_is_told_by_the_actor() {
    for (actor, way) in [
        ("shop", "api"),
        ("shop via paper_form", "paper_form"),
        ("member via link", "link"),
        ("member by twilio", "sms"),
        ("provider twilio", "sms"),
        ("import shop", "import"),
        ("operator ops", "operator"),
    ] {
        let mut house = House::new(false);
        house.does(upsert(&json!({})));
        house.does(MemberCommand { actor: actor.into(), ..about(MemberAction::OptIn, Channel::Sms, None) });
        assert_eq!(house.ledger()[0].source, way, "{actor}");
    }
}

#[test]
fn a_new_address_that_comes_with_an_opt_in_is_confirmed_by_its_owner() {
    use AddressState::{Active, Unconfirmed};
    let first = json!({"addresses": {"email": ["m@example.com"]}, "opt_ins": {"email": {"news": true}}});
    let mut house = House::new(true);
    let asked = house.does(upsert(&first));
    assert_eq!(house.address(), Unconfirmed);
    let [event] = events(&asked)[..] else { panic!("{asked:?}") };
    assert_eq!((event.kind.as_str(), event.subject.as_deref()), ("bellwether.address.unconfirmed", Some("m")));
    assert_eq!(event.data, r#"{"address":"m@example.com"}"#);
    assert_eq!(
        events(&house.again(upsert(&first))),
        [event],
        "whether a redelivery's first time came to ask is not known"
    );
    assert!(events(&house.does(upsert(&first))).is_empty(), "it is asked once");
    house.offset -= 1;
    assert_eq!(events(&house.again(upsert(&first))), [event], "nor whether that of an older command did");
    house.offset += 1;
    house.does(confirm("other@example.com"));
    assert_eq!((house.address(), house.lines().len()), (Unconfirmed, 1), "another address confirms nothing");
    house.does(confirm("m@example.com"));
    assert_eq!((house.address(), house.lines().pop().unwrap()), (Active, "email * confirmed".into()));
    house.does(confirm("m@example.com"));
    house.does(upsert(&first));
    assert_eq!((house.address(), house.lines().len()), (Active, 2), "once confirmed it stays so");
    assert!(events(&house.again(upsert(&first))).is_empty(), "and is not asked for");
    let second = house.does(upsert(&json!({"addresses": {"email": ["new@example.com"]}})));
    assert_eq!((house.address(), events(&second).len()), (Unconfirmed, 1), "the opt-in that stands is not another's");
}

#[test]
fn no_confirmation_is_asked_where_none_is_needed() {
    let email = json!({"email": ["m@example.com"]});
    let opted = json!({"addresses": email, "opt_ins": {"email": true}});
    let found = MemberCommand {
        address: Some("m@example.com".into()),
        ..about(MemberAction::AddAddress, Channel::Email, None)
    };
    let begun = upsert(&json!({"opt_ins": {"email": true}}));
    for (sentence, double_opt_in, commands) in [
        ("where the project does not ask for it", false, vec![upsert(&opted)]),
        ("without an opt-in", true, vec![upsert(&json!({"addresses": email}))]),
        ("with a refusal", true, vec![upsert(&json!({"addresses": email, "opt_ins": {"email": false}}))]),
        ("for what the channel found by itself", true, vec![begun, found]),
    ] {
        let mut house = House::new(double_opt_in);
        let told: usize = commands.into_iter().map(|command| events(&house.does(command)).len()).sum();
        assert_eq!((house.address(), told), (AddressState::Active, 0), "{sentence}");
    }
}

fn category() -> impl Strategy<Value = Option<&'static str>> {
    select(vec![None, Some("news"), Some("tips")])
}

fn channel() -> impl Strategy<Value = Channel> {
    select(vec![Channel::Email, Channel::Sms])
}

fn any_opt_ins() -> impl Strategy<Value = OptIns> {
    let words =
        (any::<Option<bool>>(), btree_map(select(vec!["news".to_owned(), "tips".to_owned()]), any::<bool>(), 0..3));
    let words = words.prop_map(|(all, categories)| ByCategory { all, categories });
    btree_map(channel(), words, 0..3)
}

fn any_command() -> impl Strategy<Value = MemberCommand> {
    use MemberAction::{Absorb, AddAddress, Confirm, Delete, Heard, Merge, OptIn, OptOut};
    let said = select(vec![None, Some(true), Some(false)]);
    let patch = vec((channel(), category(), said, any::<bool>()), 0..4).prop_map(|statements| {
        let mut opt_ins = serde_json::Map::new();
        for (channel, category, said, plain) in statements {
            match (category, plain) {
                (None, true) => drop(opt_ins.insert(channel.name().into(), json!(said))),
                (category, _) => {
                    let words = opt_ins.entry(channel.name()).or_insert_with(|| json!({}));
                    if let Some(words) = words.as_object_mut() {
                        words.insert(category.unwrap_or(ByCategory::WHOLE).into(), json!(said));
                    }
                }
            }
        }
        upsert(&json!({"addresses": {"email": ["m@example.com"]}, "opt_ins": opt_ins}))
    });
    let preference = select(vec![
        json!({"locale": "es"}),
        json!({"locale": null, "time_zone": "UTC"}),
        json!({"quiet_hours": {"from": "21:00", "to": "09:00"}, "channels": ["sms"]}),
        json!({"quiet_hours": null, "channels": null}),
    ]);
    let preference = preference.prop_map(|patch| upsert(&patch));
    let action = select(vec![OptIn, OptOut, OptIn, OptOut, Confirm, Heard, AddAddress]);
    let action = (action, channel(), category()).prop_map(|(action, channel, category)| MemberCommand {
        address: Some("m@example.com".into()),
        ..about(action, channel, category)
    });
    let merge = Just(MemberCommand { other: Some("n".into()), ..command(Merge) });
    let absorb = any_opt_ins().prop_map(|opt_ins| {
        let profile = Profile { opt_ins, locale: Some("pt".into()), ..Profile::default() };
        let patch = serde_json::to_string(&profile).unwrap();
        MemberCommand { patch: Some(patch), other: Some("n".into()), ..command(Absorb) }
    });
    prop_oneof![4 => action, 3 => patch, 2 => preference, 1 => Just(command(Delete)), 1 => merge, 1 => absorb]
}

proptest! {
    /// The central property: what stands in the profile is what the ledger says, whatever was said, redelivered or deleted.
    #[test]
    fn the_profile_is_the_fold_of_the_ledger(
        double_opt_in in any::<bool>(),
        commands in vec((any_command(), any::<bool>()), 0..30),
    ) {
        let mut house = House::new(double_opt_in);
        let mut kept: Vec<ConsentRow> = Vec::new();
        for (command, redelivered) in commands {
            house.does(command.clone());
            if redelivered {
                house.again(command);
            }
            let ledger = house.ledger();
            prop_assert_eq!(&ledger[..kept.len()], &kept[..], "a line is never changed");
            let entries: Vec<Entry> = ledger.iter().filter_map(entry).collect();
            prop_assert_eq!(fold(&entries), house.opt_ins());
            let mut preferences = Map::new();
            preferences.extend(ledger.iter().filter_map(preferred).flat_map(|line| line.as_object().unwrap().clone()));
            preferences.retain(|_, value| !value.is_null());
            prop_assert_eq!(preferences, consent::preferences(None, house.profile().as_ref()));
            kept = ledger;
        }
    }

    /// Whoever of two stays, nothing is sent to both that one of them refused, and nothing that needs an opt-in which neither gave.
    #[test]
    fn no_merger_allows_what_either_refused(one in any_opt_ins(), other in any_opt_ins()) {
        let both = merged(&one, &other);
        prop_assert_eq!(&merged(&other, &one), &both);
        prop_assert_eq!(&merged(&both, &other), &both, "to absorb again changes nothing");
        for channel in [Channel::Email, Channel::Sms] {
            for category in ["news", "tips", "marketing"] {
                let says = |opt_ins: &OptIns| opt_ins.get(&channel).and_then(|words| words.says(category));
                let said = [says(&one), says(&other)];
                if said.contains(&Some(false)) {
                    let allowed = [Consent::Required, Consent::Assumed].map(|needed| allows(needed, says(&both)));
                    prop_assert_eq!(allowed, [false; 2], "{} {}", channel, category);
                } else {
                    prop_assert_eq!(says(&both), said[0].or(said[1]), "{} {}", channel, category);
                }
            }
        }
    }

    /// Every line survives as it is where the whole batch is worked again, because the profile that would forbid it comes last.
    #[test]
    fn a_batch_that_broke_off_before_its_profiles_writes_the_same_lines(commands in vec(any_command(), 1..12)) {
        let mut whole = House::new(true);
        commands.iter().cloned().for_each(|command| drop(whole.does(command)));
        let mut broken = House::new(true);
        let mut lines = Vec::new();
        for command in &commands {
            lines.extend(broken.does(command.clone()).rows);
        }
        // Another process begins anew, with the lines and without the profiles.
        let mut next = House::new(true);
        next.facts.apply(&lines);
        commands.iter().cloned().for_each(|command| drop(next.does(command)));
        prop_assert_eq!(next.ledger(), whole.ledger());
        prop_assert_eq!(next.opt_ins(), whole.opt_ins());
    }
}
