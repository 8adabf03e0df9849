//! Which of several channels is best for a member: a score of reach, engagement and cost, in whole numbers, so that every machine finds the same.
//! [`Scoring::score`] is the decision; it knows no rule that forbids a channel.

use crate::{kept, members::QUARANTINE_WITHIN, processor::Refusal};
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{Routing, Weights},
    member::Address,
    records::ReceiptKind,
    rows::{Read, Write},
    tables::{MemberRow, SEEN},
};
use serde::{Deserialize, Serialize};
use serde_json::Number;
use std::{collections::BTreeMap, time::Duration};

/// Greatest weight, and greatest cost of a message.
pub const MOST: f64 = 1_000.0;
/// [`LATELY`] in milliseconds.
const SPAN: i64 = 90 * 86_400_000;
/// A sign of the member that is older than this says nothing any more.
pub const LATELY: Duration = Duration::from_millis(SPAN.cast_unsigned());

/// The greatest score.
const WHOLE: i64 = 1_000;
/// Reach of an address that has shown no sign of life lately.
const UNPROVEN: i64 = 700;
/// What each miss takes from the reach.
const MISS: i64 = 300;
/// Engagement by an opening just now; a click just now is [`WHOLE`].
const OPENED: i64 = 700;
/// Engagement by a channel that has not been tried lately: between one that is read and one that is not.
const UNTRIED: i64 = 500;
/// Engagement by a channel of whose messages nothing comes back.
const UNANSWERED: i64 = 250;

/// How a project compares channels, ready for use.
#[derive(Clone, Debug)]
pub struct Scoring {
    /// Of reach, engagement and cost, in millionths.
    weights: [i64; 3],
    /// In millionths.
    costs: BTreeMap<Channel, i64>,
    dearest: i64,
    /// The weights in words.
    words: String,
}

/// A channel's score and its parts, each 0 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// The weighted mean of the parts, rounded down.
    pub total: i32,
    /// How sure it is that a message arrives.
    pub reach: i32,
    /// How much the member does with what comes by the channel.
    pub engagement: i32,
    /// How cheap a message is.
    pub cost: i32,
}

impl Scoring {
    /// From what the operator wrote, which has been checked.
    #[must_use]
    pub fn new(routing: &Routing) -> Self {
        let Weights { reach, engagement, cost } = &routing.weights;
        let costs: BTreeMap<_, _> = routing.costs.iter().map(|(channel, cost)| (*channel, millionths(cost))).collect();
        Self {
            weights: [reach, engagement, cost].map(millionths),
            dearest: costs.values().copied().max().unwrap_or_default(),
            costs,
            words: format!("reach {reach}, engagement {engagement}, cost {cost}"),
        }
    }

    /// The weights, for a trace.
    #[must_use]
    pub fn weights(&self) -> &str {
        &self.words
    }

    /// How good a channel is for a member.
    ///
    /// - *Reach*: 1000 where the channel has shown within [`LATELY`] that it arrives (the member wrote, or something was delivered, opened or
    ///   clicked), else 700; less 300 for each miss that counts still; 0 without an address that may be used.
    /// - *Engagement*: 1000 at a click and 700 at an opening, each fading evenly to 0 within [`LATELY`]; the greatest of both, and at least 250, or 500
    ///   where nothing has been sent lately. Machines that read do not count.
    /// - *Cost*: 1000 for what costs nothing, 0 for the dearest channel of the table, and evenly between.
    ///
    /// `address` is the one that would be used. `seen` is of the channel, whichever address it came from.
    #[must_use]
    pub fn score(&self, channel: Channel, address: Option<&Address>, seen: &Seen, now: Timestamp) -> Score {
        let parts = [reach(address, seen, now), engagement(seen, now), self.cheapness(channel)];
        let sum: i64 = parts.iter().zip(self.weights).map(|(part, weight)| part * weight).sum();
        let total = sum / self.weights.iter().sum::<i64>().max(1);
        let [total, reach, engagement, cost] =
            [total, parts[0], parts[1], parts[2]].map(|part| i32::try_from(part).unwrap_or_default());
        Score { total, reach, engagement, cost }
    }

    fn cheapness(&self, channel: Channel) -> i64 {
        let cost = self.costs.get(&channel).copied().unwrap_or_default();
        WHOLE - WHOLE * cost / self.dearest.max(1)
    }
}

/// Decisions know no fractions: the same score must come out everywhere.
fn millionths(number: &Number) -> i64 {
    (number.as_f64().unwrap_or_default().clamp(0.0, MOST) * 1e6).round() as i64
}

fn is_lately(at: Option<Timestamp>, now: Timestamp) -> bool {
    at.is_some_and(|at| now.0.saturating_sub(at.0) < SPAN)
}

fn reach(address: Option<&Address>, seen: &Seen, now: Timestamp) -> i64 {
    let Some(address) = address else { return 0 };
    let signs = [address.heard, seen.last_delivered, seen.last_open, seen.last_click];
    let proven = if signs.into_iter().any(|sign| is_lately(sign, now)) { WHOLE } else { UNPROVEN };
    let missed: i64 = address.misses.iter().filter(|at| at.plus(QUARANTINE_WITHIN) > now).map(|_| MISS).sum();
    (proven - missed).max(0)
}

fn engagement(seen: &Seen, now: Timestamp) -> i64 {
    let fading = |most: i64, at: Option<Timestamp>| {
        let age = at.map_or(SPAN, |at| now.0.saturating_sub(at.0).clamp(0, SPAN));
        most * (SPAN - age) / SPAN
    };
    let least = if is_lately(seen.last_sent, now) { UNANSWERED } else { UNTRIED };
    least.max(fading(WHOLE, seen.last_click)).max(fading(OPENED, seen.last_open))
}

/// What last came of messages to a member by one channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Seen {
    /// When a provider last took one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_sent: Option<Timestamp>,
    /// When one last arrived, as the channel or a machine that reads for the member told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_delivered: Option<Timestamp>,
    /// When the member last opened one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_open: Option<Timestamp>,
    /// When the member last followed a link of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_click: Option<Timestamp>,
}

impl Seen {
    /// Takes in what a receipt says; whether that is news.
    pub fn learn(&mut self, kind: ReceiptKind, at: Timestamp) -> bool {
        let Some(fact) = self.fact(kind) else { return false };
        let is_news = fact.is_none_or(|known| known < at);
        if is_news {
            *fact = Some(at);
        }
        is_news
    }

    /// Whether a receipt of this kind could be news.
    #[must_use]
    pub fn is_told_by(kind: ReceiptKind) -> bool {
        Self::default().fact(kind).is_some()
    }

    const fn fact(&mut self, kind: ReceiptKind) -> Option<&mut Option<Timestamp>> {
        use ReceiptKind::{
            Clicked, ClickedByMachine, Deferred, Delivered, Failed, Opened, OpenedByMachine, OptedOut, Sent,
        };
        match kind {
            Sent => Some(&mut self.last_sent),
            Delivered | OpenedByMachine | ClickedByMachine => Some(&mut self.last_delivered),
            Opened => Some(&mut self.last_open),
            Clicked => Some(&mut self.last_click),
            Deferred | Failed | OptedOut => None,
        }
    }

    /// Reads the row of a member's channel.
    #[must_use]
    pub fn read(project: &str, member: &str, channel: Channel) -> Read {
        MemberRow::read_one(project, member, SEEN, channel.name())
    }

    /// To a write of its row, which ends when it says nothing any more.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn put(
        &self,
        project: &str,
        member: &str,
        channel: Channel,
        fence: u64,
        now: Timestamp,
    ) -> Result<Write, Refusal> {
        kept::put(MemberRow::empty(project, member, SEEN, channel.name()), self, now, LATELY, fence)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const DAY: i64 = 86_400_000;
    const NOW: Timestamp = Timestamp(1_780_315_200_000);

    fn ago(days: i64) -> Option<Timestamp> {
        Some(Timestamp(NOW.0 - days * DAY))
    }

    fn scoring(routing: serde_json::Value) -> Scoring {
        Scoring::new(&serde_json::from_value(routing).unwrap())
    }

    #[test]
    fn each_part_of_a_score_reads_as_a_rule() {
        let fresh = || Address::active("m@example.com".into(), NOW);
        let missed = |days: &[i64]| Address { misses: days.iter().filter_map(|d| ago(*d)).collect(), ..fresh() };
        let heard = |days| Address { heard: ago(days), ..fresh() };
        let none = Seen::default;
        let sent = |days| Seen { last_sent: ago(days), ..none() };
        // In words; address, what was seen → reach, engagement.
        for (what, address, seen, reach, engagement) in [
            ("without an address nobody is reached", None, none(), 0, 500),
            ("a new address is likely to work", Some(fresh()), none(), 700, 500),
            ("one that wrote to us works", Some(heard(10)), none(), 1_000, 500),
            ("unless that is long ago", Some(heard(90)), none(), 700, 500),
            ("what was delivered proves it too", Some(fresh()), Seen { last_delivered: ago(1), ..sent(1) }, 1_000, 250),
            ("a miss is a doubt", Some(missed(&[1])), none(), 400, 500),
            ("two are a greater one", Some(missed(&[2, 1])), none(), 100, 500),
            ("and there is no less than none", Some(missed(&[3, 2, 1])), none(), 0, 500),
            ("an old miss is none", Some(missed(&[31])), none(), 700, 500),
            ("of what is sent nothing comes back", Some(fresh()), sent(1), 700, 250),
            ("which is forgotten in time", Some(fresh()), sent(90), 700, 500),
            ("a click counts most", Some(fresh()), Seen { last_click: ago(0), ..sent(0) }, 1_000, 1_000),
            ("and fades", Some(fresh()), Seen { last_click: ago(45), ..sent(1) }, 1_000, 500),
            ("down to what silence counts", Some(fresh()), Seen { last_click: ago(80), ..sent(1) }, 1_000, 250),
            ("an opening counts less", Some(fresh()), Seen { last_open: ago(0), ..sent(0) }, 1_000, 700),
            (
                "the greatest counts",
                Some(fresh()),
                Seen { last_click: ago(72), last_open: ago(9), ..sent(1) },
                1_000,
                630,
            ),
            (
                "a clock that is ahead of ours gains nothing",
                Some(fresh()),
                Seen { last_click: ago(-9), ..sent(0) },
                1_000,
                1_000,
            ),
        ] {
            let score = scoring(json!({})).score(Channel::Email, address.as_ref(), &seen, NOW);
            assert_eq!((score.reach, score.engagement, score.cost), (reach, engagement, 1_000), "{what}");
        }
    }

    #[test]
    fn the_dearest_channel_has_no_part_in_cost_and_weights_are_relative() {
        let costs = json!({"sms": 0.05, "whatsapp": 0.03, "telegram": 0});
        let cost = |channel| scoring(json!({"costs": costs})).score(channel, None, &Seen::default(), NOW).cost;
        let of = [Channel::Sms, Channel::Whatsapp, Channel::Telegram, Channel::Email].map(cost);
        assert_eq!(of, [0, 400, 1_000, 1_000]);
        // Reach 0, engagement 500, cost 1000.
        for (weights, total) in [
            (json!({}), 500),
            (json!({"reach": 0}), 750),
            (json!({"reach": 0, "engagement": 0}), 1_000),
            (json!({"reach": 2.5, "engagement": 0, "cost": 2.5}), 500),
            (json!({"reach": 1000, "engagement": 1000, "cost": 1000}), 500),
            (json!({"cost": 0.000_001, "reach": 0, "engagement": 0}), 1_000),
        ] {
            let score = scoring(json!({"weights": weights})).score(Channel::Email, None, &Seen::default(), NOW);
            assert_eq!(score.total, total, "{weights}");
        }
    }

    #[test]
    fn what_is_seen_only_advances() {
        use ReceiptKind::{Clicked, Deferred, Failed, Opened, OpenedByMachine, OptedOut, Sent};
        let mut seen = Seen::default();
        let at = |days| ago(days).unwrap();
        assert!(
            seen.learn(Sent, at(3)) && !seen.learn(Sent, at(3)) && !seen.learn(Sent, at(4)) && seen.learn(Sent, at(2))
        );
        assert!(seen.learn(OpenedByMachine, at(2)) && seen.learn(Opened, at(1)) && seen.learn(Clicked, at(1)));
        assert_eq!(seen, Seen { last_sent: ago(2), last_delivered: ago(2), last_open: ago(1), last_click: ago(1) });
        for kind in [Deferred, Failed, OptedOut] {
            assert!(!Seen::is_told_by(kind) && !seen.learn(kind, NOW), "{kind:?} is no sign of the member");
        }
    }

    proptest! {
        /// Whatever is known, a score and each part of it is from 0 to 1000, and the score lies between its least and greatest part.
        #[test]
        fn scores_stay_within_their_bounds(
            weights in prop::array::uniform3(0.0..1_000.0_f64), costs in prop::array::uniform2(0.0..1_000.0_f64),
            times in prop::array::uniform4(prop::option::of(any::<i64>().prop_map(Timestamp))), misses in prop::collection::vec(0_i64..100, 0..5),
        ) {
            let [reach, engagement, cost] = weights;
            let scoring = scoring(json!({
                "weights": {"reach": reach + 0.001, "engagement": engagement, "cost": cost},
                "costs": {"sms": costs[0], "email": costs[1]},
            }));
            let [last_sent, last_delivered, last_open, last_click] = times;
            let seen = Seen { last_sent, last_delivered, last_open, last_click };
            let misses = misses.into_iter().filter_map(ago).collect();
            let address = Address { misses, heard: last_open, ..Address::active("a".into(), NOW) };
            let score = scoring.score(Channel::Sms, Some(&address), &seen, NOW);
            let parts = [score.reach, score.engagement, score.cost];
            prop_assert!(parts.iter().all(|part| (0..=1_000).contains(part)), "{:?}", score);
            prop_assert!(parts.iter().min() <= Some(&score.total) && Some(&score.total) <= parts.iter().max(), "{:?}", score);
        }
    }
}
