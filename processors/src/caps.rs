//! How many messages a member gets: caps over what the member was sent lately, exact because the history and the claim are one mutation of the member's
//! own partition. [`look`] is the decision.

use bellwether_schemas::{
    Channel, NotificationId, Timestamp,
    definitions::{Cap, Exceed, Per},
};
use jiff::{ToSpan as _, tz::TimeZone};
use serde::{Deserialize, Serialize};
use std::{cmp::Reverse, time::Duration};

/// Most that a cap may allow: all that it counts is kept in one row of the member's.
pub const MOST: u32 = 200;
/// Longest sliding window, in hours.
pub const LONGEST_HOURS: u32 = 31 * 24;
/// Entries of a history; it is no shorter than any cap's.
const MAX_ENTRIES: usize = 1_000;

/// A message that the member was sent, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Which, so that none counts twice: it may have been tried by several channels.
    pub id: NotificationId,
    /// When it was decided.
    pub at: Timestamp,
    /// By which channel.
    pub channel: Channel,
    /// Of which category.
    pub category: String,
}

/// What the member was sent lately, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct History(pub Vec<Sent>);

impl History {
    /// Enters a message, and forgets what no cap counts any more. What no cap counts today is kept for one that may come, while there is room.
    pub fn enter<'a>(
        &mut self,
        sent: Sent,
        caps: impl IntoIterator<Item = (&'a String, &'a Cap)> + Clone,
        now: Timestamp,
    ) {
        let oldest = Timestamp(now.0 - i64::from(LONGEST_HOURS) * 3_600_000);
        self.0.retain(|known| known.at >= oldest && (known.id, known.channel) != (sent.id, sent.channel));
        self.0.push(sent);
        while self.0.len() > MAX_ENTRIES {
            let is_counted =
                |sent: &Sent| caps.clone().into_iter().any(|(_, cap)| counts(cap, sent.channel, &sent.category));
            let least = self.0.iter().position(|sent| !is_counted(sent)).unwrap_or_default();
            self.0.remove(least);
        }
    }
}

/// The message that is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// By which channel it would go.
    pub channel: Channel,
    /// Its category.
    pub category: &'a str,
    /// Its priority, 0 to 9: the greater, the more important.
    pub priority: u8,
}

/// A cap that is used up for a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full<'a> {
    /// The cap's name.
    pub name: &'a str,
    /// Messages that count.
    pub used: u32,
    /// Messages that it allows to this priority.
    pub most: u32,
    /// What its owner wants then.
    pub exceed: Exceed,
    /// When one more will be allowed, as far as today's history tells.
    pub free_at: Timestamp,
}

/// The first cap, by name, that a message would exceed.
#[must_use]
pub fn look<'a>(
    caps: impl IntoIterator<Item = (&'a String, &'a Cap)>,
    history: &History,
    candidate: Candidate<'_>,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<Full<'a>> {
    caps.into_iter().filter(|(_, cap)| counts(cap, candidate.channel, candidate.category)).find_map(|(name, cap)| {
        let begins = begin(cap, zone, now);
        // Also what another clock, which was ahead of ours, says was sent after now.
        let counted = |sent: &&Sent| counts(cap, sent.channel, &sent.category) && sent.at >= begins;
        let mut tries: Vec<_> = history.0.iter().filter(counted).map(|sent| (sent.id, Reverse(sent.at))).collect();
        // A notification that several channels tried is one message, as of its last try.
        tries.sort_unstable();
        tries.dedup_by_key(|(id, _)| *id);
        let mut times: Vec<Timestamp> = tries.into_iter().map(|(_, Reverse(at))| at).collect();
        let used = u32::try_from(times.len()).unwrap_or(u32::MAX);
        let most = allowed(cap, candidate.priority);
        (used >= most).then(|| {
            times.sort_unstable();
            Full { name, used, most, exceed: cap.exceed, free_at: free_at(cap, &times, most, zone, now) }
        })
    })
}

/// Whether a cap counts messages of this kind.
fn counts(cap: &Cap, channel: Channel, category: &str) -> bool {
    (cap.channels.is_empty() || cap.channels.contains(&channel)) && cap.categories.iter().any(|known| known == category)
}

/// What a cap allows to a priority: the last places are kept for the more important.
fn allowed(cap: &Cap, priority: u8) -> u32 {
    let kept: u32 = cap.keep.iter().filter(|(from, _)| priority < **from).map(|(_, places)| *places).sum();
    cap.most.saturating_sub(kept)
}

/// Where the cap's present window begins.
fn begin(cap: &Cap, zone: &TimeZone, now: Timestamp) -> Timestamp {
    match cap.per {
        // A window of n hours that ends now: what was sent exactly n hours ago is out of it.
        Per::Hours(hours) => Timestamp(now.0 - i64::from(hours) * 3_600_000 + 1),
        Per::Day => edge(zone, now, 0),
        Per::Week => edge(zone, now, -days_since_monday(zone, now)),
    }
}

fn free_at(cap: &Cap, times: &[Timestamp], most: u32, zone: &TimeZone, now: Timestamp) -> Timestamp {
    match cap.per {
        Per::Hours(hours) => {
            // One more is allowed when so many are left that it fits.
            let must_go = times.len().saturating_sub(usize::try_from(most.saturating_sub(1)).unwrap_or(usize::MAX));
            let span = Duration::from_secs(u64::from(hours) * 3_600);
            must_go.checked_sub(1).and_then(|at| times.get(at)).map_or_else(|| now.plus(span), |sent| sent.plus(span))
        }
        Per::Day => edge(zone, now, 1),
        Per::Week => edge(zone, now, 7 - days_since_monday(zone, now)),
    }
}

fn days_since_monday(zone: &TimeZone, at: Timestamp) -> i64 {
    jiff::Timestamp::from_millisecond(at.0)
        .map_or(0, |at| i64::from(zone.to_datetime(at).date().weekday().to_monday_zero_offset()))
}

/// The first moment of the member's day that is so many days from today.
fn edge(zone: &TimeZone, at: Timestamp, days: i64) -> Timestamp {
    let of = || -> Result<Timestamp, jiff::Error> {
        let date = zone.to_datetime(jiff::Timestamp::from_millisecond(at.0)?).date();
        let start = date.checked_add(days.days())?.to_zoned(zone.clone())?.start_of_day()?;
        Ok(Timestamp(start.timestamp().as_millisecond()))
    };
    // Beyond the calendar's end there is no other day.
    of().unwrap_or(at)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::hours::zone;
    use jiff::civil::Date;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::SmallRng};
    use std::collections::{BTreeMap, BTreeSet};

    const HOUR: i64 = 3_600_000;
    /// 2026-06-01, a Monday, 12:00 UTC.
    const NOW: Timestamp = Timestamp(1_780_315_200_000);

    fn cap(most: u32, per: Per) -> Cap {
        Cap {
            most,
            per,
            categories: vec!["marketing".into()],
            channels: Vec::new(),
            exceed: Exceed::Drop,
            keep: BTreeMap::new(),
        }
    }

    /// Marketing by e-mail, so many hours before now.
    fn history(hours: &[i64]) -> History {
        let mut history = History::default();
        for (n, hours) in hours.iter().enumerate() {
            let id = NotificationId(uuid_of(n));
            history.0.push(Sent {
                id,
                at: Timestamp(NOW.0 - hours * HOUR),
                channel: Channel::Email,
                category: "marketing".into(),
            });
        }
        history
    }

    fn uuid_of(n: usize) -> uuid::Uuid {
        uuid::Uuid::from_u128(n as u128)
    }

    fn one(cap: &Cap, history: &History, candidate: Candidate<'_>, zone_name: &str) -> Option<(u32, u32, i64)> {
        let caps = BTreeMap::from([("cap".to_owned(), cap.clone())]);
        let full = look(&caps, history, candidate, &zone(zone_name).unwrap(), NOW)?;
        Some((full.used, full.most, (full.free_at.0 - NOW.0) / HOUR))
    }

    #[test]
    fn a_cap_counts_what_it_names_within_its_window() {
        let marketing = Candidate { channel: Channel::Email, category: "marketing", priority: 0 };
        let text = Candidate { channel: Channel::Sms, ..marketing };
        let receipt = Candidate { category: "transactional", ..marketing };
        let important = Candidate { priority: 5, ..marketing };
        let of_sms = Cap { channels: vec![Channel::Sms], ..cap(1, Per::Day) };
        let keeping = Cap { keep: BTreeMap::from([(5, 1)]), ..cap(3, Per::Day) };
        // In words; cap, hours ago, candidate, zone → used, allowed, hours until one more is.
        for (what, cap, sent, candidate, zone, full) in [
            ("room is left", cap(3, Per::Day), &[1, 2][..], marketing, "UTC", None),
            ("the day is used up until midnight", cap(2, Per::Day), &[1, 2], marketing, "UTC", Some((2, 2, 12))),
            ("yesterday does not count", cap(2, Per::Day), &[1, 13], marketing, "UTC", None),
            ("a day is the member's day", cap(2, Per::Day), &[1, 13], marketing, "Asia/Kolkata", Some((2, 2, 6))),
            ("the week began today", cap(2, Per::Week), &[1, 13], marketing, "UTC", None),
            ("the week is used up until Monday", cap(2, Per::Week), &[1, 2], marketing, "UTC", Some((2, 2, 156))),
            (
                "a sliding window frees as it slides",
                cap(2, Per::Hours(24)),
                &[1, 23],
                marketing,
                "UTC",
                Some((2, 2, 1)),
            ),
            ("its end is out of it", cap(2, Per::Hours(24)), &[1, 24], marketing, "UTC", None),
            (
                "more than it allows was sent: two must go",
                cap(1, Per::Hours(24)),
                &[1, 23],
                marketing,
                "UTC",
                Some((2, 1, 23)),
            ),
            ("another category is not its business", cap(1, Per::Day), &[1, 2], receipt, "UTC", None),
            ("nor is another channel", of_sms.clone(), &[1, 2], marketing, "UTC", None),
            ("nor do the others' messages count for it", of_sms, &[1, 2], text, "UTC", None),
            ("the last place is kept", keeping.clone(), &[1, 2], marketing, "UTC", Some((2, 2, 12))),
            ("for what is more important", keeping, &[1, 2], important, "UTC", None),
            ("nothing is allowed at all", cap(0, Per::Hours(5)), &[], marketing, "UTC", Some((0, 0, 5))),
        ] {
            assert_eq!(one(&cap, &history(sent), candidate, zone), full, "{what}");
        }
    }

    #[test]
    fn a_history_knows_each_message_once_and_forgets_what_is_old() {
        let mut known = history(&[800, 3, 2]);
        let again = known.0[1].clone();
        let caps = BTreeMap::from([("cap".to_owned(), cap(3, Per::Week))]);
        known.enter(again.clone(), &caps, NOW);
        assert_eq!(known.0.len(), 2, "800 hours are longer than any window");
        assert_eq!(known.0.last(), Some(&again));
        for n in 0..2 * MAX_ENTRIES {
            let other = Sent { id: NotificationId(uuid_of(100 + n)), category: "receipts".into(), ..again.clone() };
            known.enter(other, &caps, NOW);
        }
        assert_eq!(known.0.len(), MAX_ENTRIES);
        let counted = known.0.iter().filter(|sent| sent.category == "marketing").count();
        assert_eq!(counted, 2, "what no cap counts pushes out nothing that one does");
    }

    /// Everything that a cap may say and an offer may be, as little of it as can go wrong: histories of up to twelve offers, by clocks that are set
    /// back now and then, against a model that looks at the calendar.
    #[test]
    fn a_million_random_histories_agree_with_a_naive_model() {
        const HISTORIES: u64 = 1_000_000;
        const CHANNELS: [Channel; 3] = [Channel::Email, Channel::Sms, Channel::WebPush];
        const CATEGORIES: [&str; 3] = ["marketing", "social", "receipts"];
        let zone = zone("Europe/Madrid").unwrap();
        let histories = |seed: u64| {
            let mut random = SmallRng::seed_from_u64(seed);
            for n in 0..HISTORIES / 2 {
                let mut caps = BTreeMap::new();
                for name in ["a", "b", "c"].into_iter().take(random.random_range(1..=3)) {
                    let per = [Per::Hours(random.random_range(1..60)), Per::Day, Per::Week][random.random_range(0..3)];
                    let most = random.random_range(0..4);
                    let some = |random: &mut SmallRng| random.random_range(0..8_u32);
                    let (channels, categories) = (some(&mut random), some(&mut random));
                    let has = |set: u32, n: usize| set & (1 << n) != 0;
                    let channels = (0..3).filter(|n| has(channels, *n)).map(|n| CHANNELS[n]).collect();
                    let categories = (0..3).filter(|n| has(categories, *n)).map(|n| CATEGORIES[n].to_owned()).collect();
                    let keep = if random.random() { BTreeMap::from([(5, 1)]) } else { BTreeMap::new() };
                    caps.insert(name.to_owned(), Cap { channels, categories, keep, ..cap(most, per) });
                }
                let (mut history, mut now) = (History::default(), NOW.0 + random.random_range(0..400) * 24 * HOUR);
                // At, day and week; channel and category; and of which message it is a try.
                let mut sent: Vec<(i64, Date, (i16, i8), Channel, &str, usize)> = Vec::new();
                let mut message = 0;
                for offer in 0..random.random_range(2..=12) {
                    // A quarter of them are further tries of the message before, by another channel.
                    message += usize::from(random.random_range(0..4) != 0);
                    now += random.random_range(-HOUR / 10..10 * HOUR);
                    let (channel, category) =
                        (CHANNELS[random.random_range(0..3)], CATEGORIES[random.random_range(0..3)]);
                    let priority = [0, 4, 5, 9][random.random_range(0..4)];
                    let date = zone.to_datetime(jiff::Timestamp::from_millisecond(now).unwrap()).date();
                    let week = (date.iso_week_date().year(), date.iso_week_date().week());
                    let expected = caps.iter().find_map(|(name, cap)| {
                        let is_its = |channel: Channel, category: &str| {
                            (cap.channels.is_empty() || cap.channels.contains(&channel))
                                && cap.categories.iter().any(|its| its == category)
                        };
                        let used = sent.iter().filter(|(at, on, in_week, by, of, _)| {
                            let is_lately = match cap.per {
                                Per::Hours(hours) => now - at < i64::from(hours) * HOUR,
                                Per::Day => *on >= date,
                                Per::Week => *in_week >= week,
                            };
                            is_lately && is_its(*by, of)
                        });
                        let kept = if cap.keep.is_empty() || priority >= 5 { 0 } else { 1 };
                        let messages: BTreeSet<usize> = used.map(|(.., message)| *message).collect();
                        let (used, most) = (messages.len() as u32, cap.most.saturating_sub(kept));
                        (is_its(channel, category) && used >= most).then_some((name.as_str(), used, most))
                    });
                    let candidate = Candidate { channel, category, priority };
                    let full = look(&caps, &history, candidate, &zone, Timestamp(now));
                    let found = full.map(|full| (full.name, full.used, full.most));
                    assert_eq!(found, expected, "seed {seed}, history {n}, offer {offer}: {caps:?}, {history:?}");
                    if expected.is_none() {
                        let id = NotificationId(uuid_of(message));
                        let one = Sent { id, at: Timestamp(now), channel, category: category.into() };
                        history.enter(one, &caps, Timestamp(now));
                        sent.retain(|(.., by, _, of)| (*by, *of) != (channel, message));
                        sent.push((now, date, week, channel, category, message));
                    }
                }
            }
        };
        histories(1);
        histories(2);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Whatever is offered when, in every window of a sliding cap no more is sent than it allows; each member's day and week likewise; and what
        /// is refused would have been too many, and is not when the cap says so. Long histories: 500 offers a case.
        #[test]
        fn no_window_ever_holds_more_than_its_cap(
            gaps in prop::collection::vec(0_i64..5 * HOUR, 500), most in 1_u32..6, hours in 1_u32..72, per in 0..3_usize,
        ) {
            let zone = zone("Europe/Madrid").unwrap();
            let per = [Per::Hours(hours), Per::Day, Per::Week][per];
            let caps = BTreeMap::from([("cap".to_owned(), cap(most, per))]);
            let candidate = Candidate { channel: Channel::Email, category: "marketing", priority: 0 };
            let (mut history, mut sent, mut now) = (History::default(), Vec::<i64>::new(), NOW.0);
            // A naive model: the day or ISO week as the calendar names it, or the difference of two times.
            let same = |a: i64, b: i64| {
                let date = |at: i64| zone.to_datetime(jiff::Timestamp::from_millisecond(at).unwrap()).date();
                let week = |at: i64| (date(at).iso_week_date().year(), date(at).iso_week_date().week());
                match per {
                    Per::Hours(hours) => b - a < i64::from(hours) * HOUR,
                    Per::Day => date(a) == date(b),
                    Per::Week => week(a) == week(b),
                }
            };
            for (n, gap) in gaps.into_iter().enumerate() {
                now += gap;
                let in_window = sent.iter().filter(|at| same(**at, now)).count();
                let full = look(&caps, &history, candidate, &zone, Timestamp(now));
                prop_assert_eq!(full.is_some(), in_window >= most as usize, "offer {}", n);
                match full {
                    None => {
                        history.enter(
                            Sent { id: NotificationId(uuid_of(n)), at: Timestamp(now), channel: Channel::Email, category: "marketing".into() },
                            &caps,
                            Timestamp(now),
                        );
                        sent.push(now);
                    }
                    Some(full) => {
                        prop_assert!(full.free_at.0 > now);
                        prop_assert!(look(&caps, &history, candidate, &zone, full.free_at).is_none(), "free when it says");
                        let before = Timestamp(full.free_at.0 - 1);
                        prop_assert!(before.0 < now || look(&caps, &history, candidate, &zone, before).is_some(), "and not before");
                    }
                }
            }
        }
    }
}
