//! Erasure, read as a specification: what goes, what stays, and that nothing older than it makes the member again.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    Facts, Incoming, Output, Processor,
    caps::{History, Sent},
    definitions::{Compiled, Projects, ProviderCheck},
    erasure::Marks,
    members::Members,
    processor::Refusal,
};
use bellwether_schemas::{
    Channel, NotificationId, Position, Timestamp, Topic,
    member::Profile,
    records::{MemberAction, MemberCommand},
    rows::{Cells, Key, Read, Row, Span, Write},
    tables::{
        CLAIM, ConsentRow, DIGEST, ErasedRow, FALLBACK, MemberRow, PROFILE, SEEN, SENT, StoryRow, SuppressionRow,
    },
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use uuid::Uuid;

const NOW: Timestamp = Timestamp(1_772_359_200_000);
/// The member, by a name that is found wherever it is left.
const WHO: &str = "marked-member";
const ADDRESS: &str = "marked@example.com";

/// Marks by a plain hash: that it needs a key is the house's matter.
#[derive(Debug)]
struct Plain;

impl Marks for Plain {
    fn mark_of(&self, project: &str, member: &str) -> String {
        NotificationId::derive(Default::default(), project, 1, 0, member).to_string()
    }
}

/// The processor with a store, which gives it no more than it asks for.
struct House {
    members: Members,
    rows: BTreeMap<(&'static str, Key), Cells>,
}

impl House {
    fn new() -> Self {
        let project = json!({"name": "shop", "default_locale": "en", "search": ["motto"]});
        let document = json!({"project": project, "providers": {}, "templates": {}, "flows": {}});
        let check = |_: &str, _: &serde_json::Map<String, Value>| ProviderCheck::default();
        let compiled = Compiled::new(serde_json::from_value(document).unwrap(), 1, &check).unwrap();
        let members = Members { projects: Projects::from_iter([compiled]), marks: Some(Arc::new(Plain)) };
        Self { members, rows: BTreeMap::new() }
    }

    fn write(&mut self, writes: &[Write]) {
        for write in writes {
            let (table, key) = write.target();
            let at = (table.name, key.clone());
            let fence = match write {
                Write::Put(cells) => cells.fence,
                Write::Delete { fence, .. } => *fence,
            };
            assert_eq!(table.fenced, fence.is_some(), "{write:?}");
            match write {
                _ if self.rows.get(&at).is_some_and(|there| there.fence > fence) => {}
                Write::Put(cells) => drop(self.rows.insert(at, cells.clone())),
                Write::Delete { .. } => drop(self.rows.remove(&at)),
            }
        }
    }

    fn read(&self, read: &Read) -> Vec<Cells> {
        let is_asked = |key: &Key| match &read.span {
            Span::One(clustering) => key.clustering == *clustering,
            Span::All => true,
            other => panic!("nobody asks for {other:?} here"),
        };
        let rows = self.rows.iter().filter(|((table, key), _)| *table == read.table && key.partition == read.partition);
        rows.filter(|((_, key), _)| is_asked(key)).map(|(_, cells)| cells.clone()).collect()
    }

    fn decides(&self, offset: u64, input: MemberCommand) -> Result<Output, Refusal> {
        let incoming = Incoming { position: Position { topic: Topic::Members, partition: 0, offset }, input };
        let mut facts = Facts::default();
        for _ in 0..Members::ROUNDS {
            for read in self.members.needs(&incoming, &facts, NOW) {
                facts.add(self.read(&read));
            }
        }
        self.members.decide(&incoming, &facts, NOW)
    }

    fn does(&mut self, offset: u64, input: MemberCommand) -> Output {
        let output = self.decides(offset, input).unwrap();
        self.write(&output.rows);
        self.write(&output.after);
        output
    }

    fn profile(&self) -> Option<Profile> {
        let cells = self.read(&MemberRow::read_one("shop", WHO, PROFILE, "")).pop()?;
        Some(Profile::from_row(&MemberRow::from_cells(cells).unwrap()).unwrap())
    }

    /// Tables with rows in which a text is found.
    fn found(&self, text: &str) -> Vec<&'static str> {
        let mut tables: Vec<_> = self
            .rows
            .values()
            .filter(|cells| format!("{cells:?}").contains(text))
            .map(|cells| cells.table.name)
            .collect();
        tables.dedup();
        tables
    }
}

fn command(action: MemberAction, seconds: u64) -> MemberCommand {
    MemberCommand::new("shop".into(), WHO.into(), action, "shop".into(), NOW.plus(Duration::from_secs(seconds)))
}

fn upsert(seconds: u64) -> MemberCommand {
    let attributes = json!({"motto": "Never mind"});
    let patch = json!({"addresses": {"email": [ADDRESS]}, "opt_ins": {"email": true}, "attributes": attributes});
    MemberCommand { patch: Some(patch.to_string()), ..command(MemberAction::Upsert, seconds) }
}

/// A row of a member's partition, written at an offset of another topic's.
fn kept(kind: &str, id: &str, says: &str) -> Write {
    let row = MemberRow { decision: Some(says.into()), ..MemberRow::empty("shop", WHO, kind, id) };
    row.put_fenced(1_000_000)
}

fn line(notification: NotificationId, member: &str) -> StoryRow {
    StoryRow {
        notification: notification.0,
        id: Uuid::nil(),
        project: "shop".into(),
        member: member.into(),
        at: NOW,
        kind: "decision".into(),
        outcome: "routed".into(),
        delivery: None,
        channel: None,
        detail: "{}".into(),
        position: "decisions/0/0".into(),
    }
}

fn told(n: u128) -> NotificationId {
    NotificationId(Uuid::from_u128(n))
}

/// A member of whom there is something in every table that knows members.
fn known() -> House {
    let mut house = House::new();
    house.does(1, upsert(1));
    let suppress = MemberCommand {
        channel: Some(Channel::Email),
        address: Some(ADDRESS.into()),
        ..command(MemberAction::Suppress, 2)
    };
    house.does(2, suppress);
    let sent = Sent { id: told(3), at: NOW, channel: Channel::Email, category: "marketing".into() };
    house.write(&[
        kept(CLAIM, &told(1).to_string(), "{}"),
        kept(CLAIM, &format!("{}/1", told(2)), "{}"),
        kept(SENT, "bulk", &serde_json::to_string(&History(vec![sent])).unwrap()),
        kept(SEEN, "email", "{}"),
        kept(FALLBACK, &told(4).to_string(), "{}"),
        kept(DIGEST, "news/bulk", "{}"),
    ]);
    house.write(&[1, 2, 3, 4].map(|n| line(told(n), WHO).put()));
    house
}

#[test]
fn an_erasure_takes_all_but_the_suppression_and_a_mark_that_names_nobody() {
    let mut house = known();
    house.write(&[line(told(9), "other").put()]);
    assert_eq!(house.found(WHO), ["addresses", "attributes", "consents", "members", "stories"]);
    house.does(3, command(MemberAction::Erase, 3));
    assert_eq!(house.found(WHO), [""; 0]);
    assert_eq!(house.found(ADDRESS), ["suppressions"]);
    assert_eq!(house.read(&SuppressionRow::of("shop", Channel::Email, ADDRESS)).len(), 1);
    assert_eq!(house.found("other"), ["stories"], "nobody else loses anything");
    let mark = house.read(&ErasedRow::read_one("shop", Plain.mark_of("shop", WHO))).pop().unwrap();
    let mark = ErasedRow::from_cells(mark).unwrap();
    assert_eq!((mark.at, mark.applied), (NOW.plus(Duration::from_secs(3)), 3));
}

#[test]
fn stories_go_before_the_rows_that_name_them() {
    let output = known().decides(3, command(MemberAction::Erase, 3)).unwrap();
    let tables = |writes: &[Write]| {
        let mut names: Vec<_> = writes.iter().map(|write| write.target().0.name).collect();
        names.dedup();
        names
    };
    assert_eq!(tables(&output.rows), ["erased", "stories"]);
    assert_eq!(tables(&output.after), ["members", "consents", "addresses", "attributes", "members"]);
    assert!(output.records.is_empty(), "nobody is told");
}

#[test]
fn nothing_older_makes_the_member_again() {
    let mut house = known();
    house.does(3, command(MemberAction::Erase, 3));
    let erased = house.rows.clone();
    assert_eq!(house.does(1, upsert(1)), Output::default(), "a redelivery");
    assert_eq!(house.does(4, upsert(1)), Output::default(), "a dead letter that is replayed");
    house.does(5, MemberCommand { channel: Some(Channel::Email), ..command(MemberAction::OptIn, 2) });
    house.does(3, command(MemberAction::Erase, 3));
    assert_eq!(house.rows, erased, "nor does doing it again change anything");

    house.does(6, upsert(10));
    let new = house.profile().unwrap();
    assert_eq!((new.created_at, new.applied), (NOW.plus(Duration::from_secs(10)), 6), "who signs up again is new");
    let consents = house.read(&ConsentRow::read_all("shop", WHO));
    assert_eq!(consents.len(), 1, "with a new ledger");
    assert_eq!(house.does(3, command(MemberAction::Erase, 3)), Output::default(), "whom the old erasure leaves alone");
}

#[test]
fn an_erasure_takes_the_index_of_what_is_searched_by_no_more() {
    let mut house = known();
    house.members.projects = Projects::default();
    house.does(3, command(MemberAction::Erase, 3));
    assert_eq!(house.found(WHO), [""; 0]);
}

#[test]
fn who_was_erased_since_absorbs_nobody() {
    let mut house = known();
    house.does(3, command(MemberAction::Erase, 3));
    let patch = serde_json::to_string(&Profile { locale: Some("de".into()), ..Profile::default() }).unwrap();
    let absorb = |seconds| MemberCommand {
        patch: Some(patch.clone()),
        other: Some("guest".into()),
        ..command(MemberAction::Absorb, seconds)
    };
    assert_eq!(house.does(4, absorb(2)), Output::default(), "the merger was asked for before the erasure");
    house.does(5, absorb(10));
    assert_eq!(house.profile().unwrap().locale.as_deref(), Some("de"), "who comes afterwards is new");
}

#[test]
fn what_is_left_of_a_member_who_was_removed_goes_too() {
    let mut house = known();
    house.does(3, command(MemberAction::Delete, 3));
    assert!(house.profile().is_none() && house.found(WHO).contains(&"consents"));
    house.does(4, command(MemberAction::Erase, 4));
    assert_eq!(house.found(WHO), [""; 0]);
}

#[test]
fn nobody_is_erased_without_a_key_and_the_refusal_says_so() {
    let mut house = known();
    house.members.marks = None;
    let refusal = house.decides(3, command(MemberAction::Erase, 3)).unwrap_err();
    assert!(refusal.detail.contains("erasure_key"), "{refusal}");
}
