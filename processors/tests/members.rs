//! Members are found by attributes, and two may become one: which rows name them, and what both come to.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    definitions::{Compiled, Projects, ProviderCheck},
    members::{MAX_ADDRESSES, Members},
    processor::Refusal,
};
use bellwether_schemas::{
    Channel, Position, Timestamp, Topic,
    member::{Address, AddressState, Profile},
    records::{MemberAction, MemberCommand, Record},
    rows::{Row, Write},
    tables::{AddressRow, AttributeRow, ConsentRow, MemberRow, PROFILE, SHARDS, SuppressionRow, shard_of},
};
use serde_json::{Value, json};
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_772_359_200_000);

fn searching_by(names: &[&str]) -> Projects {
    let project = json!({"name": "shop", "default_locale": "en", "search": names});
    let document = json!({"project": project, "providers": {}, "templates": {}, "flows": {}});
    let check = |_: &str, _: &serde_json::Map<String, Value>| ProviderCheck::default();
    Projects::from_iter([Compiled::new(serde_json::from_value(document).unwrap(), 1, &check).unwrap()])
}

/// Members, and their commands one after the other.
struct House {
    members: Members,
    facts: Facts,
    offset: u64,
}

impl House {
    fn searching_by(names: &[&str]) -> Self {
        let members = Members { projects: searching_by(names), ..Members::default() };
        Self { members, facts: Facts::default(), offset: 0 }
    }

    /// Decides at the present offset.
    fn decides(&self, input: MemberCommand) -> Result<Output, Refusal> {
        let position = Position { topic: Topic::Members, partition: 0, offset: self.offset };
        self.members.decide(&Incoming { position, input }, &self.facts, NOW)
    }

    /// Does a command, then what it commands to others.
    fn does(&mut self, command: MemberCommand) -> Output {
        self.offset += 1;
        let output = self.decides(command).unwrap();
        self.facts.apply(&output.rows);
        self.facts.apply(&output.after);
        for record in &output.records {
            if let Record::Member(command) = record {
                self.does(command.clone());
            }
        }
        output
    }

    fn knows(&mut self, member: &str, profile: Profile) {
        self.facts.apply(&[profile.into_row("shop", member).put_fenced(0)]);
    }

    fn profile(&self, member: &str) -> Option<Profile> {
        let row = self.facts.one::<MemberRow>(&MemberRow::read_one("shop", member, PROFILE, "")).unwrap();
        row.map(|row| Profile::from_row(&row).unwrap())
    }

    /// Whom the index names for a value of an attribute.
    fn found(&self, name: &str, value: &str) -> Vec<String> {
        let of = |shard| self.facts.rows::<AttributeRow>(&AttributeRow::read_all("shop", name, value, shard)).unwrap();
        let rows = (0..SHARDS).flat_map(of);
        rows.inspect(|row| assert_eq!(row.shard, shard_of(&row.member))).map(|row| row.member).collect()
    }

    /// Whom the index names for an e-mail address.
    fn at(&self, address: &str) -> Vec<String> {
        let rows = self.facts.rows::<AddressRow>(&AddressRow::read_all("shop", "email", address)).unwrap();
        rows.into_iter().map(|row| row.member).collect()
    }

    /// The ledger of a member as `channel category state, source: proof`.
    fn ledger(&self, member: &str) -> Vec<String> {
        let rows = self.facts.rows::<ConsentRow>(&ConsentRow::read_all("shop", member)).unwrap();
        let line = |row: ConsentRow| {
            let ConsentRow { channel, category, state, source, proof, .. } = row;
            format!("{channel} {category} {state}, {source}: {}", proof.unwrap_or_default())
        };
        rows.into_iter().map(line).collect()
    }
}

fn command(member: &str, action: MemberAction) -> MemberCommand {
    MemberCommand::new("shop".into(), member.into(), action, "shop".into(), NOW)
}

fn upsert(member: &str, patch: &Value) -> MemberCommand {
    MemberCommand { patch: Some(patch.to_string()), ..command(member, MemberAction::Upsert) }
}

/// `guest` becomes part of `ana`.
fn merge() -> MemberCommand {
    MemberCommand {
        other: Some("ana".into()),
        proof: Some("merged into ana".into()),
        ..command("guest", MemberAction::Merge)
    }
}

fn tables(writes: &[Write]) -> Vec<&'static str> {
    writes.iter().map(|write| write.target().0.name).collect()
}

fn with_addresses(list: Vec<Address>) -> Profile {
    Profile { addresses: [(Channel::Email, list)].into(), created_at: NOW, ..Profile::default() }
}

#[test]
fn a_value_is_found_by_its_text_where_it_has_one() {
    let (longest, too_long) = ("ñ".repeat(128), format!("{}x", "ñ".repeat(128)));
    // The attribute → the text by which it is found.
    for (value, text) in [
        (json!("gold"), Some("gold")),
        (json!(""), Some("")),
        (json!(longest), Some(longest.as_str())),
        (json!(too_long), None),
        (json!(41), Some("41")),
        (json!(-0.5), Some("-0.5")),
        (json!(true), Some("true")),
        (json!(null), None),
        (json!(["gold"]), None),
        (json!({"is": "gold"}), None),
    ] {
        assert_eq!(AttributeRow::text_of(&value).as_deref(), text, "{value}");
    }
}

#[test]
fn the_index_has_what_the_profile_says_of_the_attributes_that_are_searched_by() {
    let mut house = House::searching_by(&["tier", "age", "tags"]);
    house.does(upsert("n", &json!({"attributes": {"tier": "gold"}})));
    // The attributes of a patch → the tier and age by which `m` is found then.
    for (sentence, attributes, tier, age) in [
        ("each value is found", json!({"tier": "gold", "age": 41, "city": "Rome", "tags": ["a"]}), "gold", "41"),
        ("as it is now", json!({"tier": "silver"}), "silver", "41"),
        ("also as another type", json!({"age": "41"}), "silver", "41"),
        ("what is taken away is found no more", json!({"age": null}), "silver", ""),
    ] {
        house.does(upsert("m", &json!({"attributes": attributes})));
        for (name, values, is) in [("tier", ["gold", "silver"], tier), ("age", ["41", "42"], age)] {
            for value in values {
                let mut found = house.found(name, value);
                found.retain(|member| member == "m");
                assert_eq!(!found.is_empty(), value == is, "{sentence}: {name} {value}");
            }
        }
    }
    assert_eq!(house.found("tier", "gold"), ["n"], "nobody else is touched");
    assert!(house.found("city", "Rome").is_empty(), "it is not searched by");
    house.does(command("m", MemberAction::Delete));
    assert!(house.found("tier", "silver").is_empty());
}

#[test]
fn an_attribute_is_put_before_its_profile_and_taken_away_after_it() {
    let mut house = House::searching_by(&["tier"]);
    let first = house.does(upsert("m", &json!({"attributes": {"tier": "gold"}})));
    assert_eq!((tables(&first.rows), tables(&first.after)), (vec!["attributes"], vec!["members"]));
    let second = house.does(upsert("m", &json!({"attributes": {"tier": "silver"}})));
    assert_eq!((tables(&second.rows), tables(&second.after)), (vec!["attributes"], vec!["attributes", "members"]));
    let other = house.does(upsert("m", &json!({"locale": "de"})));
    assert_eq!(tables(&other.rows), ["consents"], "what is not said is not put again");
    let again = house.decides(upsert("m", &json!({"locale": "de"}))).unwrap();
    assert_eq!(tables(&again.rows), ["attributes"], "but a redelivery puts all of it");
}

#[test]
fn what_is_said_again_is_found_by_a_name_that_is_searched_by_since() {
    let mut house = House::searching_by(&[]);
    let said = || upsert("m", &json!({"attributes": {"tier": "gold"}}));
    house.does(said());
    house.members.projects = searching_by(&["tier"]);
    house.does(upsert("m", &json!({"locale": "de"})));
    assert!(house.found("tier", "gold").is_empty());
    house.does(said());
    assert_eq!(house.found("tier", "gold"), ["m"]);
    // Searched by no more: the row stays until the member goes.
    house.members.projects = Projects::default();
    assert_eq!(tables(&house.does(said()).rows), [""; 0]);
    house.does(command("m", MemberAction::Delete));
    assert!(house.found("tier", "gold").is_empty());
}

#[test]
fn the_one_who_stays_gets_what_it_lacks() {
    let mut house = House::searching_by(&["tier", "city"]);
    let earlier = Timestamp(NOW.0 - 1_000);
    let guest = json!({
        "addresses": {"email": ["guest@example.com"], "sms": ["+491"]}, "locale": "es", "time_zone": "Europe/Madrid", "quiet_hours": {"from": "21:00", "to": "09:00"}, "channels": ["sms"],
        "attributes": {"tier": "silver", "city": "Rome"}, "opt_ins": {"email": {"*": false, "news": true}, "sms": {"tips": true}},
    });
    house.does(MemberCommand { at: earlier, ..upsert("guest", &guest) });
    let ana = json!({
        "addresses": {"email": ["ana@example.com"]}, "locale": "de", "attributes": {"tier": "gold"},
        "opt_ins": {"email": {"*": true, "tips": true}, "sms": {"news": false}},
    });
    house.does(upsert("ana", &ana));
    let merged = house.does(merge());
    let [Record::Member(absorb)] = &merged.records[..] else { panic!("{merged:?}") };
    assert_eq!((absorb.member.as_str(), absorb.action, absorb.at), ("ana", MemberAction::Absorb, NOW));

    let now = house.profile("ana").unwrap();
    let names = |channel| now.addresses[&channel].iter().map(|a| a.address.as_str()).collect::<Vec<_>>();
    assert_eq!(names(Channel::Email), ["ana@example.com", "guest@example.com"]);
    assert_eq!(names(Channel::Sms), ["+491"]);
    assert_eq!(now.addresses[&Channel::Sms][0].since, earlier, "an address comes as it is");
    assert_eq!((now.locale.as_deref(), now.time_zone.as_deref()), (Some("de"), Some("Europe/Madrid")));
    assert_eq!(now.quiet_hours.map(|hours| hours.from).as_deref(), Some("21:00"));
    assert_eq!((&now.channels[..], now.created_at), (&[Channel::Sms][..], earlier));
    assert_eq!(Value::from(now.attributes.clone()), json!({"tier": "gold", "city": "Rome"}));
    let words = json!({"email": {"*": false, "news": true, "tips": true}, "sms": {"news": false, "tips": true}});
    assert_eq!(json!(now.opt_ins), words);

    assert_eq!(house.profile("guest"), None);
    assert_eq!((house.at("ana@example.com"), house.at("guest@example.com")), (vec!["ana".into()], vec!["ana".into()]));
    assert_eq!((house.found("tier", "gold"), house.found("city", "Rome")), (vec!["ana".into()], vec!["ana".into()]));
    assert!(house.found("tier", "silver").is_empty());
    assert_eq!(
        house.ledger("ana")[4..],
        [
            " channels set, merge: merged from guest",
            " quiet_hours set, merge: merged from guest",
            " time_zone set, merge: merged from guest",
            "email * refused, merge: merged from guest",
            "email news given, merge: merged from guest",
            "sms tips given, merge: merged from guest",
        ]
    );
    assert_eq!(
        house.ledger("guest")[7..],
        [
            " channels set, merge: merged into ana",
            " locale set, merge: merged into ana",
            " quiet_hours set, merge: merged into ana",
            " time_zone set, merge: merged into ana",
            "email * withdrawn, merge: merged into ana",
            "email news withdrawn, merge: merged into ana",
            "sms tips withdrawn, merge: merged into ana",
        ],
        "the ledger of who goes stays, and its fold is nobody's profile"
    );
}

#[test]
fn what_is_said_of_who_went_is_said_of_the_one_who_stays() {
    let mut house = House::searching_by(&[]);
    house.does(upsert("guest", &json!({"opt_ins": {"email": true}})));
    house.does(upsert("ana", &json!({"opt_ins": {"email": true}})));
    house.does(merge());
    let refused = || MemberCommand {
        channel: Some(Channel::Email),
        proof: Some("link".into()),
        ..command("guest", MemberAction::OptOut)
    };
    house.does(refused());
    assert_eq!(json!(house.profile("ana").unwrap().opt_ins), json!({"email": false}));
    assert_eq!(house.ledger("ana").pop().unwrap(), "email * refused, api: link");
    assert_eq!(house.profile("guest"), None);

    // Who comes under the old id is somebody new, and speaks for nobody else.
    house.does(upsert("guest", &json!({"opt_ins": {"sms": true}})));
    house.does(MemberCommand { channel: Some(Channel::Sms), ..refused() });
    assert_eq!(json!(house.profile("guest").unwrap().opt_ins), json!({"sms": false}));
    assert_eq!(json!(house.profile("ana").unwrap().opt_ins), json!({"email": false}));
    house.does(command("guest", MemberAction::Delete));
    assert_eq!(house.decides(refused()).unwrap().records, [], "nothing leads to ana any more");

    // Back and forth makes no circle.
    house.does(upsert("guest", &json!({})));
    house.does(merge());
    house.does(MemberCommand { other: Some("guest".into()), ..command("ana", MemberAction::Merge) });
    house.does(command("guest", MemberAction::Delete));
    house.does(MemberCommand { member: "ana".into(), ..refused() });
    assert_eq!((house.profile("ana"), house.profile("guest")), (None, None));
}

#[test]
fn of_an_address_that_both_have_the_more_careful_word_stands() {
    use AddressState::{Active, Quarantined, Suppressed, Unconfirmed};
    let known = |state, reason: &str| Address {
        state,
        reason: reason.into(),
        misses: vec![NOW],
        ..Address::active("a@example.com".into(), NOW)
    };
    // As ana and the guest have it → how it stands, and whose word that is.
    for (ana, guest, state, whose) in [
        (Active, Active, Active, "ana"),
        (Active, Quarantined, Quarantined, "guest"),
        (Active, Unconfirmed, Unconfirmed, "guest"),
        (Active, Suppressed, Suppressed, "guest"),
        (Quarantined, Active, Quarantined, "ana"),
        (Unconfirmed, Active, Unconfirmed, "ana"),
        (Suppressed, Active, Suppressed, "ana"),
        (Suppressed, Suppressed, Suppressed, "ana"),
        (Quarantined, Suppressed, Suppressed, "guest"),
        (Unconfirmed, Quarantined, Unconfirmed, "ana"),
    ] {
        let mut house = House::searching_by(&[]);
        house.knows("ana", with_addresses(vec![known(ana, "ana")]));
        let heard = Some(NOW);
        house.knows("guest", with_addresses(vec![Address { heard, ..known(guest, "guest") }]));
        house.does(merge());
        let both = house.profile("ana").unwrap().addresses.remove(&Channel::Email).unwrap();
        assert_eq!(both, [Address { heard, ..known(state, whose) }], "{ana:?} and {guest:?}");
    }
}

#[test]
fn what_the_one_who_stays_has_is_not_crowded_out() {
    let list = |name: &str| (0..15).map(|n| Address::active(format!("{name}{n}@example.com"), NOW)).collect::<Vec<_>>();
    let mut house = House::searching_by(&[]);
    house.knows("ana", with_addresses(list("ana")));
    house.knows("guest", with_addresses(list("guest")));
    house.does(merge());
    let both = house.profile("ana").unwrap().addresses.remove(&Channel::Email).unwrap();
    assert_eq!(both.len(), MAX_ADDRESSES);
    assert_eq!((&both[..15], &both[15..]), (&list("ana")[..], &list("guest")[..5]));
    assert_eq!((house.at("guest4@example.com"), house.at("guest5@example.com")), (vec!["ana".into()], vec![]));
}

#[test]
fn an_address_that_was_suppressed_on_its_way_arrives_so() {
    let mut house = House::searching_by(&[]);
    house.knows("ana", Profile::default());
    house.knows("guest", with_addresses(vec![Address::active("a@example.com".into(), NOW)]));
    let row = SuppressionRow {
        project: "shop".into(),
        channel: "email".into(),
        shard: shard_of("a@example.com"),
        address: "a@example.com".into(),
        reason: "550".into(),
        source: "provider mail".into(),
        since: NOW,
    };
    house.facts.apply(&[row.put()]);
    house.does(merge());
    let address = &house.profile("ana").unwrap().addresses[&Channel::Email][0];
    assert_eq!((address.state, address.reason.as_str()), (AddressState::Suppressed, "550"));
}

#[test]
fn an_address_that_nobody_confirmed_is_asked_for_again_under_the_id_that_stays() {
    let unconfirmed = Address { state: AddressState::Unconfirmed, ..Address::active("a@example.com".into(), NOW) };
    let mut house = House::searching_by(&[]);
    house.knows("ana", Profile::default());
    house.knows("guest", with_addresses(vec![unconfirmed]));
    let absorb = match &house.does(merge()).records[..] {
        [Record::Member(absorb)] => absorb.clone(),
        other => panic!("{other:?}"),
    };
    assert!(house.does(absorb.clone()).announced.is_empty(), "once");
    house.knows("ana", Profile::default());
    house.offset += 1;
    let asked = house.decides(absorb).unwrap().announced;
    assert!(matches!(&asked[..], [Record::Event(event)] if event.subject.as_deref() == Some("ana")), "{asked:?}");
}

#[test]
fn the_profile_goes_when_it_is_handed_over_and_a_crash_between_does_no_harm() {
    let patch =
        |tier: &str| json!({"addresses": {"email": [format!("{tier}@example.com")]}, "attributes": {"tier": tier}});
    let mut house = House::searching_by(&["tier"]);
    house.does(upsert("ana", &patch("gold")));
    house.does(upsert("guest", &patch("silver")));
    house.offset += 1;
    let first = house.decides(merge()).unwrap();
    assert_eq!(tables(&first.after), ["addresses", "attributes", "members", "members"]);
    // The process ended when the record was on the log: the next one does it again.
    house.facts.apply(&first.rows);
    let again = house.decides(merge()).unwrap();
    assert_eq!(again, first);
    house.facts.apply(&again.after);
    assert_eq!(house.decides(merge()).unwrap(), Output::default(), "who is gone is not handed over");
    let [Record::Member(absorb)] = &first.records[..] else { panic!("{first:?}") };
    house.does(absorb.clone());
    let once = house.profile("ana").unwrap();
    house.does(absorb.clone());
    let twice = house.profile("ana").unwrap();
    assert_eq!(Profile { applied: once.applied, ..twice }, once);
}

#[test]
fn a_preference_is_that_of_who_is_there() {
    let prefer = || MemberCommand {
        patch: Some(json!({"quiet_hours": {"from": "21:00", "to": "09:00"}}).to_string()),
        proof: Some("preference page".into()),
        ..command("guest", MemberAction::Prefer)
    };
    let mut house = House::searching_by(&[]);
    assert!(house.does(prefer()) == Output::default() && house.profile("guest").is_none(), "nobody is made");
    house.does(upsert("ana", &json!({})));
    house.does(upsert("guest", &json!({})));
    house.does(merge());
    house.does(prefer());
    assert!(house.profile("guest").is_none(), "who went does not come back by an old link");
    assert_eq!(house.profile("ana").unwrap().quiet_hours.map(|hours| hours.from).as_deref(), Some("21:00"));
    assert_eq!(house.ledger("ana"), [" quiet_hours set, api: preference page"]);
}

#[test]
fn nothing_is_lost_where_the_one_who_stays_is_gone() {
    let mut house = House::searching_by(&[]);
    let guest = Profile {
        attributes: json!({"tier": "gold"}).as_object().unwrap().clone(),
        ..with_addresses(vec![Address::active("a@example.com".into(), NOW)])
    };
    house.knows("guest", guest.clone());
    house.does(MemberCommand { at: NOW.plus(Duration::from_secs(1)), ..merge() });
    let made = house.profile("ana").unwrap();
    assert_eq!(made, Profile { applied: made.applied, updated_at: NOW.plus(Duration::from_secs(1)), ..guest });
}

#[test]
fn a_merger_that_names_nobody_else_is_refused_and_takes_nobody_away() {
    let mut house = House::searching_by(&[]);
    house.knows("guest", Profile::default());
    for other in [None, Some("guest".to_owned())] {
        let refusal = house.decides(MemberCommand { other, ..merge() }).unwrap_err();
        assert!(refusal.detail.starts_with("other: "), "{refusal}");
    }
    for patch in [None, Some("{}".to_owned())] {
        let absorb = MemberCommand { patch, ..command("ana", MemberAction::Absorb) };
        assert!(house.decides(absorb).unwrap_err().detail.starts_with("patch: "));
    }
}
