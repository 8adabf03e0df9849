//! Holds what receivers got against what the project promises its members. It shares nothing with the code that decides: its own calendar, its
//! own reading of the consent ledger, its own count of messages. It is told the rules, and believes nobody but the receivers and the ledger.
//!
//! A message is decided at the hand of the clock at which it arrives: the hand moves only when all is at rest. Should rest have been called too
//! early, it arrives at the next hand. So a rule is broken if it was broken at both of them; what was right when it was decided is never accused.

use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date, DateTime, Weekday},
    tz::TimeZone,
};
use std::collections::BTreeMap;

/// Category of a line about a channel as a whole.
pub(crate) const WHOLE: &str = "*";

/// Whether a category has to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consent {
    Required,
    Assumed,
    Unrefusable,
}

/// What a flow promises. Times are minutes of the member's day, or milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct FlowRule {
    pub(crate) category: &'static str,
    pub(crate) consent: Consent,
    pub(crate) priority: u8,
    /// Quiet hours and holidays are kept.
    pub(crate) quiet: bool,
    /// First minute, first minute after, and the day of the week on which nothing goes out.
    pub(crate) window: Option<(i64, i64, Weekday)>,
    pub(crate) expires: i64,
}

/// The time of a cap.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Per {
    Day,
    Week,
    Hours(i64),
}

/// So many messages of some categories at most; the last places are kept for a priority from which on.
#[derive(Clone, Debug)]
pub(crate) struct CapRule {
    pub(crate) name: &'static str,
    pub(crate) most: usize,
    pub(crate) per: Per,
    pub(crate) categories: &'static [&'static str],
    pub(crate) kept: Option<(u8, usize)>,
}

/// What the project promises.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Between two hands of the clock.
    pub(crate) step: i64,
    /// Of who has no quiet hours of their own: first minute and first minute after; before it, over midnight.
    pub(crate) quiet: (i64, i64),
    pub(crate) holidays: Vec<Date>,
    pub(crate) flows: BTreeMap<&'static str, FlowRule>,
    pub(crate) caps: Vec<CapRule>,
}

/// A line of the ledger, in its order.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) at: i64,
    pub(crate) channel: String,
    pub(crate) category: String,
    pub(crate) state: String,
}

/// What is known of a member.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) zone: TimeZone,
    /// The member's own quiet hours.
    pub(crate) quiet: Option<(i64, i64)>,
    pub(crate) addresses: Vec<String>,
    pub(crate) ledger: Vec<Line>,
    pub(crate) erased: Option<i64>,
}

/// What a receiver got.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) channel: &'static str,
    pub(crate) to: String,
    pub(crate) member: String,
    pub(crate) flow: String,
    /// When the last event that it tells of was accepted.
    pub(crate) told: i64,
    /// When it arrived.
    pub(crate) at: i64,
}

/// What is promised and was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Breach {
    Stranger,
    Erasure,
    Consent,
    Expiry,
    QuietHours,
    Holiday,
    Window,
    Cap,
}

/// A breach, and what shows it.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) breach: Breach,
    #[allow(dead_code)] // It is read where a failure is printed.
    pub(crate) shown_by: String,
}

/// Everything that is not as promised.
pub(crate) fn violations(rules: &Rules, people: &BTreeMap<String, Person>, messages: &[Message]) -> Vec<Violation> {
    let mut found: Vec<Violation> = messages.iter().filter_map(|message| of_one(rules, people, message)).collect();
    let mut by_member: BTreeMap<&str, Vec<&Message>> = BTreeMap::new();
    for message in messages {
        by_member.entry(&message.member).or_default().push(message);
    }
    for (member, messages) in by_member {
        let Some(person) = people.get(member) else { continue };
        found.extend(rules.caps.iter().filter_map(|cap| over(rules, cap, &person.zone, &messages)));
    }
    found
}

fn of_one(rules: &Rules, people: &BTreeMap<String, Person>, message: &Message) -> Option<Violation> {
    let known = people.get(&message.member).zip(rules.flows.get(message.flow.as_str()));
    let breach = match known.filter(|(person, _)| person.addresses.contains(&message.to)) {
        None => Breach::Stranger,
        Some((person, flow)) => {
            let breach = at_moment(rules, person, flow, message, message.at)?;
            at_moment(rules, person, flow, message, message.at - rules.step)?;
            breach
        }
    };
    Some(Violation { breach, shown_by: format!("{message:?}") })
}

/// The first promise that a message breaks if it was decided at this moment.
fn at_moment(rules: &Rules, person: &Person, flow: &FlowRule, message: &Message, moment: i64) -> Option<Breach> {
    let wall = wall(&person.zone, moment);
    let minute = i64::from(wall.hour()) * 60 + i64::from(wall.minute());
    let (from, to) = person.quiet.unwrap_or(rules.quiet);
    let is_quiet = if from <= to { from <= minute && minute < to } else { minute >= from || minute < to };
    let shut =
        |(from, to, closed): (i64, i64, Weekday)| minute < from || minute >= to || wall.date().weekday() == closed;
    [
        (Breach::Erasure, person.erased.is_some_and(|erased| moment > erased)),
        (Breach::Consent, !consented(flow, &person.ledger, message.channel, moment)),
        (Breach::Expiry, moment > message.told + flow.expires),
        (Breach::QuietHours, flow.quiet && is_quiet),
        (Breach::Holiday, flow.quiet && rules.holidays.contains(&wall.date())),
        (Breach::Window, flow.window.is_some_and(shut)),
    ]
    .into_iter()
    .find_map(|(breach, is_so)| is_so.then_some(breach))
}

/// Whether the member wanted it at any time while the clock stood at this moment.
fn consented(flow: &FlowRule, ledger: &[Line], channel: &str, moment: i64) -> bool {
    let mut words: BTreeMap<&str, bool> = BTreeMap::new();
    let wanted = |words: &BTreeMap<&str, bool>| match (flow.consent, words.get(WHOLE), words.get(flow.category)) {
        (Consent::Unrefusable, _, _) => true,
        (_, Some(false), _) => false,
        (_, _, Some(said)) | (_, Some(said), None) => *said,
        (consent, None, None) => consent == Consent::Assumed,
    };
    let of_channel = |line: &&Line| line.channel == channel && line.at <= moment;
    let mut ever = false;
    for line in ledger.iter().filter(of_channel) {
        if line.at == moment {
            ever |= wanted(&words);
        }
        match line.state.as_str() {
            "given" => _ = words.insert(&line.category, true),
            "refused" => _ = words.insert(&line.category, false),
            "withdrawn" => _ = words.remove(line.category.as_str()),
            _ => {}
        }
    }
    ever || wanted(&words)
}

/// Whether there were more than a cap allows. Left out is what may have been decided in the period before the one in which it arrived.
fn over(rules: &Rules, cap: &CapRule, zone: &TimeZone, messages: &[&Message]) -> Option<Violation> {
    let limits = std::iter::once((u8::MAX, cap.most)).chain(cap.kept.map(|(from, places)| (from, cap.most - places)));
    limits.into_iter().find_map(|(below, most)| {
        let counts = |message: &&&Message| {
            let flow = rules.flows.get(message.flow.as_str());
            flow.is_some_and(|flow| cap.categories.contains(&flow.category) && flow.priority < below)
        };
        let mut times: Vec<i64> = messages.iter().filter(counts).map(|message| message.at).collect();
        times.sort_unstable();
        let (begins, count) = fullest(cap.per, rules.step, zone, &times)?;
        (count > most).then(|| {
            let shown_by = format!("cap {}: {count} of {most} from {begins} on, {messages:?}", cap.name);
            Violation { breach: Breach::Cap, shown_by }
        })
    })
}

/// The period with the most messages: its begin, and how many.
fn fullest(per: Per, step: i64, zone: &TimeZone, times: &[i64]) -> Option<(String, usize)> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for at in times {
        match per {
            Per::Hours(hours) => {
                let since = at - hours * 3_600_000 + step;
                let within = times.iter().filter(|other| (since + 1..=*at).contains(*other)).count();
                counts.insert(since.to_string(), within);
            }
            Per::Day | Per::Week => {
                let period = |at| first_day(per, wall(zone, at).date());
                if period(*at) == period(at - step) {
                    *counts.entry(period(*at).to_string()).or_default() += 1;
                }
            }
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count)
}

fn first_day(per: Per, date: Date) -> Date {
    match per {
        Per::Week => date.checked_sub(i64::from(date.weekday().to_monday_zero_offset()).days()).unwrap(),
        _ => date,
    }
}

fn wall(zone: &TimeZone, at: i64) -> DateTime {
    zone.to_datetime(Timestamp::from_millisecond(at).unwrap())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    /// A moment of March 2026 in Madrid, where summer time has not begun.
    fn at(text: &str) -> i64 {
        format!("2026-03-{text}:00+01:00").parse::<Timestamp>().unwrap().as_millisecond()
    }

    fn rules() -> Rules {
        let flow = FlowRule {
            category: "news",
            consent: Consent::Required,
            priority: 0,
            quiet: true,
            window: Some((9 * 60, 20 * 60, Weekday::Sunday)),
            expires: 24 * HOUR,
        };
        let offer =
            FlowRule { category: "offers", consent: Consent::Assumed, priority: 5, window: None, ..flow.clone() };
        let code = FlowRule { category: "security", consent: Consent::Unrefusable, quiet: false, ..offer.clone() };
        Rules {
            step: HOUR,
            quiet: (22 * 60, 8 * 60),
            holidays: vec![Date::new(2026, 3, 19).unwrap()],
            flows: BTreeMap::from([("news", flow), ("offer", offer), ("code", code)]),
            caps: vec![
                CapRule { name: "day", most: 2, per: Per::Day, categories: &["news", "offers"], kept: Some((5, 1)) },
                CapRule { name: "week", most: 3, per: Per::Week, categories: &["news", "offers"], kept: None },
                CapRule { name: "hours", most: 1, per: Per::Hours(4), categories: &["security"], kept: None },
            ],
        }
    }

    fn line(at: i64, category: &str, state: &str) -> Line {
        Line { at, channel: "email".into(), category: category.into(), state: state.into() }
    }

    /// Ana, who asked for the news on the 10th, refused e-mail on the 18th at noon, asked for offers by name on the 20th, and is gone on the 25th.
    fn people() -> BTreeMap<String, Person> {
        let ledger = vec![
            line(at("10T12:00"), "news", "given"),
            line(at("18T12:00"), WHOLE, "refused"),
            line(at("20T12:00"), WHOLE, "withdrawn"),
            line(at("20T12:00"), "offers", "given"),
            line(at("20T12:00"), "news", "refused"),
        ];
        let zone = TimeZone::get("Europe/Madrid").unwrap();
        let ana = Person {
            zone,
            quiet: None,
            addresses: vec!["ana@example.com".into()],
            ledger,
            erased: Some(at("25T12:00")),
        };
        BTreeMap::from([("ana".to_owned(), ana)])
    }

    fn message(flow: &str, text: &str) -> Message {
        Message {
            channel: "email",
            to: "ana@example.com".into(),
            member: "ana".into(),
            flow: flow.into(),
            told: at(text) - HOUR,
            at: at(text),
        }
    }

    fn breaches(messages: &[Message]) -> Vec<Breach> {
        violations(&rules(), &people(), messages).into_iter().map(|violation| violation.breach).collect()
    }

    #[test]
    fn each_promise_is_seen_to_be_broken_and_to_be_kept() {
        for (flow, arrives, expected) in [
            ("news", "11T12:00", None),
            ("news", "09T12:00", Some(Breach::Consent)),
            // The step in which it changed belongs to both.
            ("news", "10T12:00", None),
            ("news", "18T13:00", None),
            ("news", "18T14:00", Some(Breach::Consent)),
            ("offer", "17T12:00", None),
            ("offer", "18T15:00", Some(Breach::Consent)),
            ("offer", "20T15:00", None),
            ("news", "20T15:00", Some(Breach::Consent)),
            ("code", "18T15:00", None),
            // Decided before ten, at the step before.
            ("offer", "17T22:30", None),
            ("offer", "17T23:00", Some(Breach::QuietHours)),
            ("offer", "17T07:59", Some(Breach::QuietHours)),
            ("offer", "17T08:00", None),
            ("code", "17T23:00", None),
            ("news", "11T08:30", Some(Breach::Window)),
            ("news", "11T21:00", Some(Breach::Window)),
            ("news", "15T12:00", Some(Breach::Window)),
            ("offer", "21T12:00", None),
            ("offer", "25T13:00", None),
            ("offer", "25T14:00", Some(Breach::Erasure)),
            ("code", "25T14:00", Some(Breach::Erasure)),
        ] {
            assert_eq!(breaches(&[message(flow, arrives)]), Vec::from_iter(expected), "{flow} at {arrives}");
        }
    }

    #[test]
    fn a_night_is_the_members_own() {
        let mut people = people();
        let mut of = |own, arrives| {
            people.get_mut("ana").unwrap().quiet = Some(own);
            violations(&rules(), &people, &[message("offer", arrives)]).first().map(|v| v.breach)
        };
        let (by_day, none) = ((10 * 60, 16 * 60), (0, 0));
        assert_eq!(of(by_day, "17T12:00"), Some(Breach::QuietHours));
        assert_eq!(of(by_day, "17T03:00"), None);
        assert_eq!(of(none, "17T03:00"), None);
    }

    #[test]
    fn a_holiday_is_the_members_own() {
        let mut rules = rules();
        rules.holidays = vec![Date::new(2026, 3, 17).unwrap()];
        let of = |arrives| violations(&rules, &people(), &[message("offer", arrives)]).first().map(|v| v.breach);
        assert_eq!(of("17T12:00"), Some(Breach::Holiday));
        assert_eq!(of("16T21:00"), None);
    }

    #[test]
    fn what_is_too_old_is_seen() {
        let sent = |hours| Message { told: at("17T12:00") - hours * HOUR, ..message("offer", "17T12:00") };
        assert_eq!(breaches(&[sent(24)]), []);
        assert_eq!(breaches(&[sent(25)]), []);
        assert_eq!(breaches(&[sent(26)]), [Breach::Expiry]);
    }

    #[test]
    fn what_reaches_somebody_else_is_seen() {
        assert_eq!(
            breaches(&[Message { to: "eva@example.com".into(), ..message("code", "17T12:00") }]),
            [Breach::Stranger]
        );
        assert_eq!(breaches(&[Message { member: "eva".into(), ..message("code", "17T12:00") }]), [Breach::Stranger]);
        assert_eq!(breaches(&[message("unheard-of", "17T12:00")]), [Breach::Stranger]);
    }

    #[test]
    fn one_too_many_is_seen() {
        let cases: [(&str, &[(&str, &str)], usize); 8] = [
            ("two a day", &[("news", "11T10:00"), ("offer", "11T12:00")], 0),
            ("three a day", &[("news", "11T10:00"), ("offer", "11T12:00"), ("offer", "11T13:00")], 1),
            ("a kept place", &[("news", "11T10:00"), ("news", "11T12:00")], 1),
            ("three a week", &[("news", "11T10:00"), ("offer", "12T12:00"), ("offer", "13T12:00")], 0),
            (
                "four a week",
                &[("news", "11T10:00"), ("offer", "12T12:00"), ("offer", "13T12:00"), ("offer", "14T12:00")],
                1,
            ),
            (
                "from Monday on",
                &[("offer", "13T12:00"), ("offer", "14T12:00"), ("offer", "15T12:00"), ("offer", "16T12:00")],
                0,
            ),
            ("two in four hours", &[("code", "11T10:00"), ("code", "11T12:00")], 1),
            // Perhaps four hours apart: the first may have been decided at the step before.
            ("nearly four hours", &[("code", "11T10:00"), ("code", "11T13:00")], 0),
        ];
        for (what, messages, expected) in cases {
            let messages: Vec<_> = messages.iter().map(|(flow, arrives)| message(flow, arrives)).collect();
            assert_eq!(breaches(&messages), vec![Breach::Cap; expected], "{what}");
        }
    }
}
