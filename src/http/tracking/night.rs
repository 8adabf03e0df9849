//! A member's quiet hours on the preference page, and what a posted form changes of them. Pure: profile and form in, quiet hours out.
//!
//! As with the boxes ([`super::choices`]) the form carries what it showed, so that whoever does not touch them says nothing.

use super::choices::Misfit;
use bellwether_processors::{definitions::Compiled, hours};
use bellwether_schemas::{definitions::QuietHours, member::Profile};

/// The field that says what was shown: `HH:MM-HH:MM`, or [`OFF`].
pub const WAS: &str = "was.night";
/// The field that is there where the box is ticked.
pub const IS: &str = "is.night";
/// The field of the first minute.
pub const FROM: &str = "is.night.from";
/// The field of the first minute that is none of the night's.
pub const TO: &str = "is.night.to";
/// What [`WAS`] says where there are no quiet hours.
pub const OFF: &str = "off";

/// What a page offers to who has no quiet hours.
const OFFER: (&str, &str) = ("22:00", "08:00");
/// Quiet hours of no length: the member wants none, whatever the project has.
const NONE: &str = "00:00";

/// The quiet hours that are kept for a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Night {
    /// Whether there are any.
    pub is_on: bool,
    /// First minute, `HH:MM`; where there are none, what is offered.
    pub from: String,
    /// First minute after, `HH:MM`.
    pub to: String,
    /// Name of the zone whose clock they go by (IANA).
    pub zone: String,
}

impl Night {
    /// The member's own, else the project's.
    #[must_use]
    pub fn of(project: &Compiled, profile: &Profile) -> Self {
        let has_length = |hours: &&QuietHours| hours.from != hours.to;
        let of_project = project.document.project.quiet_hours.as_ref().filter(has_length);
        let kept = profile.quiet_hours.as_ref().map_or(of_project, |own| Some(own).filter(has_length));
        let (from, to) = kept.or(of_project).map_or(OFFER, |hours| (hours.from.as_str(), hours.to.as_str()));
        let zone = profile.time_zone.as_deref().or_else(|| project.zone().iana_name()).unwrap_or("UTC");
        Self { is_on: kept.is_some(), from: from.into(), to: to.into(), zone: zone.into() }
    }

    /// As [`WAS`] says it.
    #[must_use]
    pub fn shown(&self) -> String {
        if self.is_on { format!("{}-{}", self.from, self.to) } else { OFF.into() }
    }

    /// Whether a field is about them.
    #[must_use]
    pub fn has(field: &str) -> bool {
        [WAS, IS, FROM, TO].contains(&field)
    }

    /// What a form makes of them; `None` where it leaves them as they were shown, or is of a page that did not show them.
    ///
    /// # Errors
    /// A field that the page does not have, or lacks.
    pub fn read(&self, form: &[(String, String)]) -> Result<Option<Self>, Misfit> {
        let value = |name: &str| form.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
        let misfit = |field: &str| Misfit(field.to_owned());
        let Some(was) = value(WAS) else {
            let other = [IS, FROM, TO].into_iter().find(|field| value(field).is_some());
            return other.map_or(Ok(None), |_| Err(misfit(WAS)));
        };
        let time = |name: &str| {
            let text = value(name).filter(|text| hours::time(text).is_ok()).ok_or_else(|| misfit(name))?;
            Ok::<_, Misfit>(text.to_owned())
        };
        let asked = match value(IS) {
            Some("on") => Self { is_on: true, from: time(FROM)?, to: time(TO)?, ..self.clone() },
            Some(_) => return Err(misfit(IS)),
            None => Self { is_on: false, ..self.clone() },
        };
        let asked = Self { is_on: asked.is_on && asked.from != asked.to, ..asked };
        Ok((asked.shown() != was).then_some(asked))
    }

    /// As a profile has them.
    #[must_use]
    pub fn own(&self) -> QuietHours {
        if self.is_on {
            return QuietHours { from: self.from.clone(), to: self.to.clone() };
        }
        QuietHours { from: NONE.into(), to: NONE.into() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{definitions::check_provider, http::test_support::shop};
    use proptest::prelude::*;

    fn hours((from, to): (&str, &str)) -> QuietHours {
        QuietHours { from: from.into(), to: to.into() }
    }

    fn night(of_project: Option<(&str, &str)>, own: Option<(&str, &str)>) -> Night {
        let mut document = shop();
        document.project.quiet_hours = of_project.map(hours);
        document.project.time_zone = Some("Europe/Madrid".into());
        let profile = Profile { quiet_hours: own.map(hours), ..Profile::default() };
        Night::of(&Compiled::new(document, 1, &check_provider).unwrap(), &profile)
    }

    fn form(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_page_shows_what_is_kept_or_offers_something() {
        let (late, long, none) = (Some(("23:00", "07:00")), Some(("21:00", "10:00")), Some(("00:00", "00:00")));
        // The project's, the member's own → what is shown, and what the times say.
        for (of_project, own, shown, from) in [
            (None, None, "off", "22:00"),
            (late, None, "23:00-07:00", "23:00"),
            (late, long, "21:00-10:00", "21:00"),
            (None, long, "21:00-10:00", "21:00"),
            (late, none, "off", "23:00"),
            (none, none, "off", "22:00"),
        ] {
            let night = night(of_project, own);
            assert_eq!((night.shown().as_str(), night.from.as_str()), (shown, from), "{of_project:?} {own:?}");
            assert_eq!(night.zone, "Europe/Madrid");
        }
    }

    #[test]
    fn only_what_was_touched_is_said() {
        let night = night(Some(("22:00", "08:00")), None);
        let times = [(FROM, "22:00"), (TO, "08:00")];
        let read = |fields: &[(&str, &str)]| night.read(&form(&[fields, &times[..]].concat())).unwrap();
        assert_eq!(night.read(&form(&[("do", "save")])), Ok(None), "a page of before");
        assert_eq!(read(&[(WAS, "22:00-08:00"), (IS, "on")]), None);
        assert_eq!(read(&[(WAS, "off")]), None);
        assert_eq!(read(&[(WAS, "22:00-08:00")]).unwrap().own(), hours(("00:00", "00:00")));
        assert_eq!(read(&[(WAS, "off"), (IS, "on")]).unwrap().own(), hours(("22:00", "08:00")));
        let longer = [(WAS, "22:00-08:00"), (IS, "on"), (FROM, "21:30"), (TO, "08:00")];
        assert_eq!(night.read(&form(&longer)).unwrap().unwrap().own(), hours(("21:30", "08:00")));
        let empty = [(WAS, "22:00-08:00"), (IS, "on"), (FROM, "08:00"), (TO, "08:00")];
        assert_eq!(night.read(&form(&empty)).unwrap().unwrap().own(), hours(("00:00", "00:00")));
    }

    #[test]
    fn what_does_not_fit_is_named() {
        for (fields, misfit) in [
            (&[(IS, "on")][..], WAS),
            (&[(FROM, "22:00")], WAS),
            (&[(WAS, "off"), (IS, "yes")], IS),
            (&[(WAS, "off"), (IS, "on"), (TO, "08:00")], FROM),
            (&[(WAS, "off"), (IS, "on"), (FROM, "9 pm"), (TO, "08:00")], FROM),
            (&[(WAS, "off"), (IS, "on"), (FROM, "22:00"), (TO, "")], TO),
        ] {
            assert_eq!(night(None, None).read(&form(fields)), Err(Misfit(misfit.into())), "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_posted_it_is_quiet_hours_or_refused(fields in prop::collection::vec(
            (prop::sample::select(vec![WAS, IS, FROM, TO]), "on|off|[0-2][0-9]:[0-5][0-9]|\\PC{0,8}"), 0..6)
        ) {
            let fields: Vec<_> = fields.iter().map(|(field, value)| (*field, value.as_str())).collect();
            if let Ok(Some(asked)) = night(None, None).read(&form(&fields)) {
                prop_assert!(hours::quiet(&asked.own()).is_ok());
                prop_assert_eq!(asked.read(&form(&[(WAS, &asked.shown()), (FROM, &asked.from), (TO, &asked.to)])).unwrap().is_none(), !asked.is_on);
            }
        }
    }
}
