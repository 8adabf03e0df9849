//! Route and track with a store and a log between them, without a runtime: what a test does to a member and what comes of it.
#![allow(dead_code)] // Each test binary asks some of it.

use bellwether_processors::{
    Facts, Incoming, Processor,
    definitions::{Compiled, Projects},
    processor::Refusal,
    route::Route,
    track::{Track, Tracked},
};
use bellwether_schemas::{
    Channel, EventId, Lane, NotificationId, Position, Timestamp, Topic,
    member::{Address, Profile},
    records::{Decision, Delivery, ErrorKind, Notification, Outcome, Receipt, ReceiptKind, Record},
    rows::{Cells, Key, Read, Row, Span, Write},
};
use std::{collections::BTreeMap, time::Duration};

/// 2026-06-01, 12:00 UTC.
pub(crate) const NOON: Timestamp = Timestamp(1_780_315_200_000);

/// The notification that the flow `told` makes of the `n`-th event.
pub(crate) fn notification(n: u32) -> Notification {
    let event = EventId::derive("shop", "/s", &n.to_string());
    Notification {
        id: NotificationId::derive(event, "told", 1, 0, "m"),
        project: "shop".into(),
        member: "m".into(),
        event,
        event_type: "any".into(),
        flow: "told".into(),
        flow_version: 1,
        step: 0,
        template: "all".into(),
        lane: Lane::Transactional,
        channels: vec![Channel::Email, Channel::Sms, Channel::Webhook],
        expires_at: None,
        accepted_at: NOON,
        data: "{}".into(),
        round: 0,
        tried: Vec::new(),
        gathered_in: None,
    }
}

fn member(channels: &[Channel]) -> Profile {
    let address = |channel: &Channel| match channel {
        Channel::Email => "m@example.com",
        Channel::Sms => "+34600000001",
        _ => "m",
    };
    let of = |channel: &Channel| (*channel, vec![Address::active(address(channel).into(), NOON)]);
    Profile { addresses: channels.iter().map(of).collect(), ..Profile::default() }
}

/// Rows, with when they end.
#[derive(Default)]
pub(crate) struct Store(BTreeMap<(&'static str, Key), (Cells, Option<Timestamp>)>);

impl Store {
    fn write(&mut self, writes: &[Write], now: Timestamp) {
        for write in writes {
            let (table, key) = write.target();
            match write {
                Write::Put(cells) => {
                    let end = cells.ttl.map(|ttl| now.plus(ttl));
                    self.0.insert((table.name, key.clone()), (cells.clone(), end))
                }
                Write::Delete { .. } => self.0.remove(&(table.name, key.clone())),
            };
        }
    }

    pub(crate) fn read(&self, read: &Read, now: Timestamp) -> Vec<Cells> {
        let is_asked = |key: &Key| match &read.span {
            Span::One(clustering) => key.clustering == *clustering,
            Span::All => true,
            other => panic!("nobody asks for {other:?} here"),
        };
        let rows = self.0.iter().filter(|((table, key), _)| *table == read.table && key.partition == read.partition);
        let rows = rows.filter(|((_, key), (_, end))| is_asked(key) && end.is_none_or(|end| end > now));
        rows.map(|(_, (cells, _))| cells.clone()).collect()
    }
}

/// Route and track with a store and a log between them; each is given no more rows than it asks for.
pub(crate) struct World {
    route: Route,
    pub(crate) store: Store,
    pub(crate) now: Timestamp,
    offset: u64,
    /// Everything is handled twice, a second later.
    pub(crate) redelivers: bool,
    pub(crate) later: Vec<(Timestamp, Notification)>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) decisions: Vec<Decision>,
    pub(crate) arrived: bool,
    /// What route has handled, with what it said.
    routed: Vec<(Incoming<Notification>, Vec<Record>)>,
}

/// What is said of one position is the same whenever it is handled, but for when a duplicate was met.
fn effects(records: &[Record]) -> Vec<Record> {
    let is_duplicate =
        |record: &Record| matches!(record, Record::Decision(decision) if decision.outcome == Outcome::Duplicate);
    records.iter().filter(|record| !is_duplicate(record)).cloned().collect()
}

impl World {
    pub(crate) fn new(project: Compiled, channels: &[Channel]) -> Self {
        let mut store = Store::default();
        store.write(&[member(channels).into_row("shop", "m").put_fenced(1)], NOON);
        Self {
            route: Route { projects: Projects::from_iter([project]), ..Route::default() },
            store,
            now: NOON,
            offset: 0,
            redelivers: false,
            later: Vec::new(),
            deliveries: Vec::new(),
            decisions: Vec::new(),
            arrived: false,
            routed: Vec::new(),
        }
    }

    /// Other definitions, from now on.
    pub(crate) fn publish(&mut self, project: Compiled) {
        self.route.projects = Projects::from_iter([project]);
    }

    /// Handles an input, and gives back where it stood and what was said of it.
    fn handle<P: Processor>(
        &mut self,
        processor: &P,
        topic: Topic,
        input: P::Input,
    ) -> (Incoming<P::Input>, Vec<Record>) {
        self.offset += 1;
        let incoming = Incoming { position: Position { topic, partition: 0, offset: self.offset }, input };
        let mut said = Vec::new();
        for seconds in 0..=u64::from(self.redelivers) {
            let now = self.now.plus(Duration::from_secs(seconds));
            let mut facts = Facts::default();
            for read in processor.needs(&incoming, &Facts::default(), now) {
                facts.add(self.store.read(&read, self.now));
            }
            let output = processor.decide(&incoming, &facts, now).unwrap();
            self.store.write(&output.rows, now);
            said.push(output.records);
        }
        assert!(
            said.windows(2).all(|two| effects(&two[0]) == effects(&two[1])),
            "a redelivery does the same: {said:#?}"
        );
        let first = said[0].clone();
        for record in said.into_iter().flatten() {
            self.follow(record);
        }
        (incoming, first)
    }

    /// The process ends after so many records whose effects are there and whose offsets are not committed: all of them come again.
    pub(crate) fn crash(&mut self, records: usize) {
        let again = self.routed[self.routed.len().saturating_sub(records)..].to_vec();
        for (incoming, said) in again {
            let mut facts = Facts::default();
            for read in self.route.needs(&incoming, &Facts::default(), self.now) {
                facts.add(self.store.read(&read, self.now));
            }
            let output = self.route.decide(&incoming, &facts, self.now).unwrap();
            assert!(output.rows.is_empty(), "its claim is there: {output:#?}");
            assert_eq!(effects(&output.records), effects(&said), "a redelivery says the same");
            for record in output.records {
                self.follow(record);
            }
        }
    }

    /// Why route cannot decide a notification.
    pub(crate) fn refused(&self, n: Notification) -> Refusal {
        let position = Position { topic: Topic::Notifications(n.lane), partition: 0, offset: self.offset + 1 };
        let incoming = Incoming { position, input: n };
        let mut facts = Facts::default();
        for read in self.route.needs(&incoming, &Facts::default(), self.now) {
            facts.add(self.store.read(&read, self.now));
        }
        self.route.decide(&incoming, &facts, self.now).unwrap_err()
    }

    fn follow(&mut self, record: Record) {
        match record {
            Record::Decision(decision) if self.decisions.iter().all(|known| known.id != decision.id) => {
                assert!(decision.outcome != Outcome::Routed || !self.arrived, "sent again what had arrived");
                self.decisions.push(decision.clone());
                self.handle(&Track::default(), Topic::Decisions, Tracked::Decision(decision));
            }
            Record::Delivery(delivery) if self.deliveries.iter().all(|known| known.id != delivery.id) => {
                self.deliveries.push(delivery);
            }
            Record::Later(due, record) => {
                let Record::Notification(again) = *record else { panic!("route puts off notifications alone") };
                self.later.push((due, again));
            }
            Record::Notification(n) => self.notify(n),
            _ => {}
        }
    }

    pub(crate) fn notify(&mut self, n: Notification) {
        let route = self.route.clone();
        let at = self.routed.len();
        let (incoming, said) = self.handle(&route, Topic::Notifications(n.lane), n);
        let is_decided = said.iter().any(|record| matches!(record, Record::Decision(_)));
        assert!(is_decided, "nothing comes to route without a decision");
        // What it set going was handled after it.
        self.routed.insert(at, (incoming, said));
    }

    /// A receipt of what was sent by a channel, if that was.
    pub(crate) fn receipt(&mut self, channel: Channel, kind: ReceiptKind, error: Option<ErrorKind>) {
        let Some(delivery) = self.deliveries.iter().find(|delivery| delivery.channel == channel) else { return };
        let receipt = Receipt {
            delivery: delivery.id,
            notification: delivery.notification,
            project: "shop".into(),
            member: "m".into(),
            template: "all".into(),
            channel,
            kind,
            at: self.now,
            attempt: 1,
            provider: "p".into(),
            provider_id: None,
            error,
            detail: Some("in the provider's words".into()),
            address: None,
        };
        self.arrived |= kind.is_arrival();
        self.handle(&Track::default(), Topic::Receipts, Tracked::Receipt(receipt));
    }

    pub(crate) fn wait(&mut self, seconds: u64) {
        let until = self.now.plus(Duration::from_secs(seconds));
        loop {
            self.later.sort_by_key(|(due, n)| (*due, n.round));
            if self.later.first().is_none_or(|(due, _)| *due > until) {
                break;
            }
            let (due, n) = self.later.remove(0);
            self.now = due.max(self.now);
            self.notify(n);
        }
        self.now = until;
    }

    pub(crate) fn told(&self) -> Vec<(Outcome, Option<Channel>)> {
        self.decisions.iter().map(|decision| (decision.outcome, decision.channel)).collect()
    }

    pub(crate) fn details(&self) -> Vec<&str> {
        self.decisions.iter().map(|decision| decision.detail.as_str()).collect()
    }
}
