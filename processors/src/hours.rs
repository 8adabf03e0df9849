//! When a member may be told something: quiet hours, send windows and holidays, by the clock on the member's own wall. [`next`] is the decision.
//! Whether a notification cares for any of them is said by its flow.

use bellwether_schemas::{
    Timestamp,
    definitions::{QuietHours, Weekday, Window},
};
use jiff::{
    ToSpan as _,
    civil::{Date, DateTime, Time},
    tz::TimeZone,
};
use std::collections::BTreeSet;

/// Days that are looked at for a moment that is allowed: whoever forbids more than this forbids for ever.
const HORIZON_DAYS: i64 = 400;

/// What is to be kept, compiled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hours {
    /// Whether a member's own quiet hours are kept, where there are such.
    pub keeps_own: bool,
    /// Nothing is sent between these times of day to who has no quiet hours of their own.
    pub quiet: Option<Span>,
    /// Only between these times of day.
    pub window: Option<Span>,
    /// Only on these days of the week, Monday first; all of them where none forbids.
    pub days: [bool; 7],
    /// Not on these days.
    pub holidays: BTreeSet<Date>,
}

/// From, to; where `to` is before `from`, it is the next morning's.
pub type Span = (Time, Time);

/// A text that is no time of day or date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no {1}")]
pub struct BadTime(String, &'static str);

/// Reads `HH:MM`.
///
/// # Errors
/// It is none.
pub fn time(text: &str) -> Result<Time, BadTime> {
    let bad = || BadTime(text.into(), "time of day: write `HH:MM`, from 00:00 to 23:59");
    let (hour, minute) = text.split_once(':').filter(|_| text.len() == 5).ok_or_else(bad)?;
    let number = |part: &str| part.bytes().all(|b| b.is_ascii_digit()).then(|| part.parse::<i8>().ok()).flatten();
    let (hour, minute) = number(hour).zip(number(minute)).ok_or_else(bad)?;
    Time::new(hour, minute, 0, 0).map_err(|_| bad())
}

/// Reads quiet hours.
///
/// # Errors
/// An end of them is no time of day.
pub fn quiet(hours: &QuietHours) -> Result<Span, BadTime> {
    Ok((time(&hours.from)?, time(&hours.to)?))
}

/// Reads `YYYY-MM-DD`.
///
/// # Errors
/// It is none.
pub fn date(text: &str) -> Result<Date, BadTime> {
    let bad = || BadTime(text.into(), "date: write `YYYY-MM-DD`");
    if text.len() != 10 { Err(bad()) } else { text.parse().map_err(|_| bad()) }
}

/// The zone of this name, from the database that travels with the program.
#[must_use]
pub fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

impl Hours {
    /// Compiles what the project and a flow say.
    ///
    /// # Errors
    /// A text is no time of day or date.
    pub fn new(quiet: Option<&QuietHours>, window: Option<&Window>, holidays: &[String]) -> Result<Self, BadTime> {
        let days = window.map_or(&[][..], |window| &window.days);
        Ok(Self {
            keeps_own: false,
            quiet: quiet.map(self::quiet).transpose()?,
            window: window.map(|window| Ok((time(&window.from)?, time(&window.to)?))).transpose()?,
            days: Weekday::ALL.map(|day| days.is_empty() || days.contains(&day)),
            holidays: holidays.iter().map(|day| date(day)).collect::<Result<_, _>>()?,
        })
    }

    /// What forbids this moment, and when by the same clock that is over.
    fn obstacle(&self, own: Option<Span>, at: DateTime) -> Option<(Obstacle, DateTime)> {
        let tomorrow = at.date().checked_add(1.day()).ok()?.to_datetime(Time::midnight());
        let day = usize::try_from(at.date().weekday().to_monday_zero_offset()).unwrap_or(0);
        if self.holidays.contains(&at.date()) {
            return Some((Obstacle::Holiday, tomorrow));
        }
        if !self.days[day] {
            return Some((Obstacle::Window, tomorrow));
        }
        let own = own.filter(|_| self.keeps_own);
        if let Some((from, to)) = own.or(self.quiet) {
            let today = at.date().to_datetime(to);
            let over = match from <= to {
                true if from <= at.time() && at.time() < to => Some(today),
                false if at.time() < to => Some(today),
                false if from <= at.time() => Some(tomorrow.date().to_datetime(to)),
                _ => None,
            };
            if let Some(over) = over {
                let whose = if own.is_some() { Obstacle::OwnQuietHours } else { Obstacle::QuietHours };
                return Some((whose, over));
            }
        }
        if let Some((from, to)) = self.window {
            if at.time() < from {
                return Some((Obstacle::Window, at.date().to_datetime(from)));
            }
            if at.time() >= to {
                return Some((Obstacle::Window, tomorrow));
            }
        }
        None
    }
}

/// What stands against a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// The night, as the project has it.
    QuietHours,
    /// The night, as the member has it.
    OwnQuietHours,
    /// Outside the flow's window.
    Window,
    /// A holiday of the project.
    Holiday,
}

/// The first moment from `now` on at which a member in `zone` with these `own` quiet hours may be told something: `now` itself, or a later one with
/// what stood against now. `None`: there is none within a year.
#[must_use]
pub fn next(
    hours: &Hours,
    own: Option<Span>,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<(Timestamp, Option<Obstacle>)> {
    let mut at = jiff::Timestamp::from_millisecond(now.0).ok()?;
    let horizon = at.checked_add((HORIZON_DAYS * 24).hours()).ok()?;
    let mut first = None;
    while let Some((obstacle, over)) = hours.obstacle(own, zone.to_datetime(at)) {
        first = first.or(Some(obstacle));
        // In spring the time may not exist: then the first moment after the gap. In autumn it may come twice, the first time perhaps before now.
        let ambiguous = zone.to_ambiguous_timestamp(over);
        let earlier = ambiguous.earlier().ok()?;
        let over = if earlier > at { ambiguous.compatible().ok()? } else { ambiguous.later().ok()? };
        // A clock that is set back within quiet hours: they end an hour later.
        at = if over > at { over } else { at.checked_add(1.hour()).ok()? };
        if at > horizon {
            return None;
        }
    }
    Some((Timestamp(at.as_millisecond()), first))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(text.parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    fn hours(quiet: Option<(&str, &str)>, window: Option<(&str, &str, &[Weekday])>, holidays: &[&str]) -> Hours {
        let quiet = quiet.map(|(from, to)| QuietHours { from: from.into(), to: to.into() });
        let window = window.map(|(from, to, days)| Window { from: from.into(), to: to.into(), days: days.to_vec() });
        let holidays: Vec<String> = holidays.iter().map(|&day| day.into()).collect();
        Hours::new(quiet.as_ref(), window.as_ref(), &holidays).unwrap()
    }

    #[test]
    fn a_member_sleeps_by_the_clock_on_the_members_wall() {
        use Obstacle::{Holiday, QuietHours, Window};
        use Weekday::{Friday, Monday, Thursday, Tuesday, Wednesday};
        let night = || hours(Some(("22:00", "08:00")), None, &[]);
        let nap = || hours(Some(("13:00", "15:00")), None, &[]);
        let office = || hours(None, Some(("09:00", "18:00", &[Monday, Tuesday, Wednesday, Thursday, Friday])), &[]);
        let feast = || hours(Some(("22:00", "08:00")), None, &["2026-12-25", "2026-12-26"]);
        // In words; the rules, the zone, now, then, what stood against now.
        for (what, hours, zone, now, then, obstacle) in [
            ("by day, at once", night(), "Europe/Madrid", "2026-06-01T10:00:00Z", "2026-06-01T10:00:00Z", None),
            (
                "late, next morning",
                night(),
                "Europe/Madrid",
                "2026-06-01T21:00:00Z",
                "2026-06-02T06:00:00Z",
                Some(QuietHours),
            ),
            (
                "after midnight, this morning",
                night(),
                "Europe/Madrid",
                "2026-06-01T23:00:00Z",
                "2026-06-02T06:00:00Z",
                Some(QuietHours),
            ),
            (
                "the first minute of the night is night",
                night(),
                "UTC",
                "2026-06-01T22:00:00Z",
                "2026-06-02T08:00:00Z",
                Some(QuietHours),
            ),
            (
                "the last minute of the night is over",
                night(),
                "UTC",
                "2026-06-01T08:00:00Z",
                "2026-06-01T08:00:00Z",
                None,
            ),
            (
                "elsewhere it is day",
                night(),
                "America/Argentina/Buenos_Aires",
                "2026-06-01T23:00:00Z",
                "2026-06-01T23:00:00Z",
                None,
            ),
            ("a nap within the day", nap(), "UTC", "2026-06-01T14:00:00Z", "2026-06-01T15:00:00Z", Some(QuietHours)),
            (
                "half an hour's zone",
                night(),
                "Asia/Kolkata",
                "2026-06-01T17:00:00Z",
                "2026-06-02T02:30:00Z",
                Some(QuietHours),
            ),
            (
                "before the window, when it opens",
                office(),
                "UTC",
                "2026-06-01T07:00:00Z",
                "2026-06-01T09:00:00Z",
                Some(Window),
            ),
            ("after it, tomorrow", office(), "UTC", "2026-06-01T18:00:00Z", "2026-06-02T09:00:00Z", Some(Window)),
            (
                "on Friday evening, on Monday",
                office(),
                "UTC",
                "2026-06-05T20:00:00Z",
                "2026-06-08T09:00:00Z",
                Some(Window),
            ),
            ("over the holidays", feast(), "UTC", "2026-12-24T23:00:00Z", "2026-12-27T08:00:00Z", Some(QuietHours)),
            ("on a holiday", feast(), "UTC", "2026-12-25T12:00:00Z", "2026-12-27T08:00:00Z", Some(Holiday)),
            // Madrid 2026-03-29: 02:00 becomes 03:00. 2026-10-25: 03:00 becomes 02:00.
            (
                "an end that does not exist",
                hours(Some(("22:00", "02:30")), None, &[]),
                "Europe/Madrid",
                "2026-03-29T00:30:00Z",
                "2026-03-29T01:30:00Z",
                Some(QuietHours),
            ),
            (
                "an end that comes twice, before the first",
                hours(Some(("22:00", "02:30")), None, &[]),
                "Europe/Madrid",
                "2026-10-24T23:00:00Z",
                "2026-10-25T00:30:00Z",
                Some(QuietHours),
            ),
            (
                "an end that comes twice, after the first",
                hours(Some(("22:00", "02:30")), None, &[]),
                "Europe/Madrid",
                "2026-10-25T01:10:00Z",
                "2026-10-25T01:30:00Z",
                Some(QuietHours),
            ),
        ] {
            let zone = super::zone(zone).unwrap();
            assert_eq!(next(&hours, None, &zone, at(now)), Some((at(then), obstacle)), "{what}");
        }
        let never = hours(None, Some(("09:00", "09:00", &[])), &[]);
        assert_eq!(next(&never, None, &zone("UTC").unwrap(), at("2026-06-01T07:00:00Z")), None, "a window of no width");
    }

    #[test]
    fn what_is_no_time_is_told() {
        for text in ["", "8:00", "24:00", "08:60", "ab:cd", "08:00:00", "+8:00", "08-00"] {
            assert!(time(text).is_err(), "{text}");
        }
        for text in ["", "2026-1-1", "2026-02-30", "01.02.2026", "2026-12-25T"] {
            assert!(date(text).is_err(), "{text}");
        }
        assert_eq!(time("08:05").unwrap(), Time::constant(8, 5, 0, 0));
    }

    const ZONES: [&str; 6] =
        ["UTC", "Europe/Madrid", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Kolkata", "Africa/Casablanca"];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The same as looking at every minute from now on, also where clocks are set.
        #[test]
        fn it_is_the_first_minute_that_is_allowed(
            zone_at in 0..ZONES.len(), minutes in 29_500_000_i64..29_900_000, // 2026 to 2026-11
            quiet in prop::option::of((0..24_i8, prop::sample::select(vec![0_i8, 30]), 0..24_i8, prop::sample::select(vec![0_i8, 30]))),
            window in prop::option::of((0..12_i8, 12..24_i8)), own in prop::option::of((0..24_i8, 0..24_i8)), keeps_own in any::<bool>(),
        ) {
            let zone = zone(ZONES[zone_at]).unwrap();
            let text = |hour: i8, minute: i8| format!("{hour:02}:{minute:02}");
            let quiet = quiet.map(|(h, m, h2, m2)| QuietHours { from: text(h, m), to: text(h2, m2) });
            let window = window.map(|(from, to)| Window { from: text(from, 0), to: text(to, 0), days: Vec::new() });
            let hours = Hours { keeps_own, ..Hours::new(quiet.as_ref(), window.as_ref(), &[]).unwrap() };
            let own = own.map(|(from, to)| (Time::constant(from, 0, 0, 0), Time::constant(to, 0, 0, 0)));
            let now = minutes * 60_000;
            let wall = |at: i64| zone.to_datetime(jiff::Timestamp::from_millisecond(at).unwrap());
            let allowed = |at: i64| hours.obstacle(own, wall(at)).is_none();
            let looked = (0..4 * 24 * 60).map(|n| now + n * 60_000).find(|at| allowed(*at));
            if let Some(looked) = looked {
                prop_assert_eq!(next(&hours, own, &zone, Timestamp(now)).map(|(at, _)| at), Some(Timestamp(looked)));
            }
            // To have quiet hours of one's own is as if the project had these.
            let as_ones_own = Hours { quiet: own.filter(|_| keeps_own).or(hours.quiet), keeps_own: false, ..hours.clone() };
            let plain = next(&as_ones_own, None, &zone, Timestamp(now));
            prop_assert_eq!(next(&hours, own, &zone, Timestamp(now)).map(|(at, _)| at), plain.map(|(at, _)| at));
        }
    }
}
