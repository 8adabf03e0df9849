//! Whom a text message comes from: a project's senders in order, each for some countries, lanes and templates, of which the first that fits
//! is taken. Pure. Whether a country lets an alphanumeric sender through is between the operator and Twilio.

use bellwether_schemas::Lane;
use phonenumber::country;
use serde::{Deserialize, Serialize};

/// Most senders of a provider.
const MAX_SENDERS: usize = 32;
/// Most names of one condition.
const MAX_NAMES: usize = 300;

/// A sender and what it is for; a condition that is empty holds always.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sender {
    /// A number in E.164, a short code or an alphanumeric id. Either this or `messaging_service_sid`.
    pub from: Option<String>,
    /// A messaging service, `MG…`, which chooses the number.
    pub messaging_service_sid: Option<String>,
    /// Countries of the recipients (ISO 3166-1 alpha-2).
    pub countries: Vec<String>,
    /// Lanes of the messages.
    pub lanes: Vec<Lane>,
    /// Templates of the messages, by name.
    pub templates: Vec<String>,
}

impl Sender {
    /// Whether it is for such a message.
    fn takes(&self, country: Option<&str>, lane: Lane, template: &str) -> bool {
        let is_in = |names: &[String], name: Option<&str>| {
            names.is_empty() || name.is_some_and(|name| names.iter().any(|one| one == name))
        };
        is_in(&self.countries, country)
            && (self.lanes.is_empty() || self.lanes.contains(&lane))
            && is_in(&self.templates, Some(template))
    }

    /// The form parameter that names it.
    pub(super) fn parameter(&self) -> Option<(&'static str, String)> {
        let from = self.from.as_ref().map(|from| ("From", from.clone()));
        from.or_else(|| self.messaging_service_sid.as_ref().map(|sid| ("MessagingServiceSid", sid.clone())))
    }

    /// The field that does not do, and why.
    fn problem(&self) -> Option<(&'static str, String)> {
        match (&self.from, &self.messaging_service_sid) {
            (Some(from), None) if from.trim().is_empty() => {
                return Some(("from", "is empty: give a number such as `+15551234567`".into()));
            }
            (None, Some(sid)) if !(sid.starts_with("MG") && sid.bytes().all(|b| b.is_ascii_alphanumeric())) => {
                return Some(("messaging_service_sid", "must be letters and digits beginning with `MG`".into()));
            }
            (Some(_), Some(_)) | (None, None) => {
                return Some(("from", "or `messaging_service_sid`: give exactly one of them".into()));
            }
            _ => {}
        }
        if self.countries.len() > MAX_NAMES || self.templates.len() > MAX_NAMES {
            let field = if self.countries.len() > MAX_NAMES { "countries" } else { "templates" };
            return Some((field, format!("has more than {MAX_NAMES} names")));
        }
        let unknown = self.countries.iter().find(|name| name.parse::<country::Id>().is_err())?;
        Some(("countries", format!("has `{unknown}`: use codes of two capitals (ISO 3166-1), such as `ES`")))
    }
}

/// The country of a number in E.164; `None` for what is no number, or one of no country (`+800`).
#[must_use]
pub fn country_of(number: &str) -> Option<country::Id> {
    phonenumber::parse(None, number).ok()?.country().id()
}

/// The first sender that is for such a message.
#[must_use]
pub fn sender_for<'s>(senders: &'s [Sender], country: Option<&str>, lane: Lane, template: &str) -> Option<&'s Sender> {
    senders.iter().find(|sender| sender.takes(country, lane, template))
}

/// What is wrong with a list of senders: which of them, its field (empty for the whole of it), and why.
pub(super) fn problem(senders: &[Sender]) -> Option<(usize, &'static str, String)> {
    if senders.len() > MAX_SENDERS {
        return Some((MAX_SENDERS, "", format!("is one more than the {MAX_SENDERS} that a provider may have")));
    }
    let faulty =
        senders.iter().enumerate().find_map(|(n, sender)| sender.problem().map(|(field, why)| (n, field, why)));
    faulty.or_else(|| {
        let n = unreachable(senders)?;
        Some((
            n,
            "",
            "can never be chosen: the senders before it take all that it is for; move it up, or remove it".into(),
        ))
    })
}

/// The first sender that no message reaches. What a message can be is told apart by the senders' own names and anything else, so that trying
/// all of these is a proof.
fn unreachable(senders: &[Sender]) -> Option<usize> {
    (0..senders.len()).find(|&n| {
        let named = |names: &[String]| -> Vec<Option<String>> { names.iter().cloned().map(Some).collect() };
        // A sender without a condition takes what is named by none before it, too.
        let (mut countries, mut templates) = (named(&senders[n].countries), named(&senders[n].templates));
        for before in &senders[..n] {
            if senders[n].countries.is_empty() {
                countries.extend(named(&before.countries));
            }
            if senders[n].templates.is_empty() {
                templates.extend(named(&before.templates));
            }
        }
        if senders[n].countries.is_empty() {
            countries.push(None);
        }
        if senders[n].templates.is_empty() {
            templates.push(None);
        }
        !Lane::ALL.into_iter().any(|lane| {
            countries.iter().any(|country| {
                templates.iter().any(|template| {
                    // No template has an empty name.
                    let chosen = sender_for(senders, country.as_deref(), lane, template.as_deref().unwrap_or_default());
                    chosen.is_some_and(|chosen| std::ptr::eq(chosen, &senders[n]))
                })
            })
        })
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use Lane::{Bulk, Transactional};
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn senders(value: Value) -> Vec<Sender> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_first_sender_that_fits_is_taken() {
        let list = senders(json!([
            {"from": "72345", "countries": ["US", "CA"], "lanes": ["bulk"]},
            {"from": "+15550002222", "countries": ["US", "CA"]},
            {"from": "BELLWETHER", "countries": ["ES", "DE"], "templates": ["code", "alarm"]},
            {"messaging_service_sid": "MG1", "countries": ["ES"]},
            {"from": "+447700900123"},
        ]));
        assert_eq!(problem(&list), None);
        for (to, lane, template, expected) in [
            ("+15208782491", Bulk, "tips", "72345"),
            ("+16137827274", Bulk, "tips", "72345"),
            ("+15208782491", Transactional, "tips", "+15550002222"),
            // Of the same calling code, but no Americans.
            ("+13459492311", Bulk, "tips", "+447700900123"),
            ("+34666777888", Bulk, "code", "BELLWETHER"),
            ("+34666777888", Bulk, "tips", "MG1"),
            ("+491701234567", Bulk, "alarm", "BELLWETHER"),
            ("+491701234567", Bulk, "tips", "+447700900123"),
            ("+80012340000", Bulk, "code", "+447700900123"),
            ("no number", Bulk, "code", "+447700900123"),
        ] {
            let country = country_of(to);
            let country = country.as_ref().map(country::Id::as_ref);
            let chosen = sender_for(&list, country, lane, template).unwrap();
            assert_eq!(chosen.parameter().unwrap().1, expected, "{to} {lane} {template}");
            // Without the last one there is none for what it alone is for.
            let rest = sender_for(&list[..4], country, lane, template);
            assert_eq!(rest.is_none(), expected == "+447700900123", "{to} {lane} {template}");
        }
    }

    #[test]
    fn what_a_list_must_not_be_is_said() {
        for (list, n, field, words) in [
            (json!([{}]), 0, "from", "exactly one"),
            (json!([{"from": "+1", "messaging_service_sid": "MG1"}]), 0, "from", "exactly one"),
            (json!([{"from": " "}]), 0, "from", "is empty"),
            (
                json!([{"from": "+1", "lanes": ["bulk"]}, {"messaging_service_sid": "XX"}]),
                1,
                "messaging_service_sid",
                "`MG`",
            ),
            (json!([{"from": "+1", "countries": ["es"]}]), 0, "countries", "`es`"),
            (json!([{"from": "+1", "countries": ["UK"]}]), 0, "countries", "`UK`"),
            // Nothing comes behind one without conditions, nor behind the same conditions, nor behind two that share them.
            (json!([{"from": "+1"}, {"from": "+2", "countries": ["ES"]}]), 1, "", "never"),
            (
                json!([{"from": "+1", "countries": ["ES", "DE"]}, {"from": "+2", "countries": ["DE"], "lanes": ["bulk"]}]),
                1,
                "",
                "never",
            ),
            (
                json!([{"from": "+1", "lanes": ["bulk"]}, {"from": "+2", "lanes": ["transactional"]}, {"from": "+3"}]),
                2,
                "",
                "never",
            ),
            (
                json!([{"from": "+1", "countries": ["ES"]}, {"from": "+2", "templates": ["a"]}, {"from": "+3", "countries": ["ES"], "templates": ["a", "b"]}]),
                2,
                "",
                "never",
            ),
        ] {
            let (at, named, why) = problem(&senders(list.clone())).unwrap_or_else(|| panic!("{list}"));
            assert_eq!((at, named), (n, field), "{list}");
            assert!(why.contains(words), "{why}");
        }
        let many: Vec<Value> = (0..33).map(|n| json!({"from": "+1", "templates": [format!("t{n}")]})).collect();
        assert_eq!(problem(&senders(Value::from(many))).unwrap().0, 32);
        // Each takes something that the others leave.
        let list = json!([{"from": "+1", "countries": ["ES"], "lanes": ["bulk"]}, {"from": "+2", "countries": ["ES"], "templates": ["a"]},
            {"from": "+3", "countries": ["ES"]}, {"from": "+4", "templates": ["a"]}]);
        assert_eq!(problem(&senders(list)), None);
    }

    fn any_sender() -> impl Strategy<Value = Sender> {
        let names = |of: &'static [&'static str]| prop::sample::subsequence(of.to_vec(), 0..of.len());
        (names(&["ES", "DE", "US"]), prop::sample::subsequence(Lane::ALL.to_vec(), 0..=2), names(&["a", "b", "c"]))
            .prop_map(|(countries, lanes, templates)| {
                let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
                Sender {
                    from: Some("+1".into()),
                    messaging_service_sid: None,
                    countries: owned(countries),
                    lanes,
                    templates: owned(templates),
                }
            })
    }

    proptest! {
        #[test]
        fn a_list_that_passes_has_a_message_for_each(list in prop::collection::vec(any_sender(), 1..5)) {
            let mut reached = vec![false; list.len()];
            for country in [Some("ES"), Some("DE"), Some("US"), Some("FR"), None] {
                for lane in Lane::ALL {
                    for template in ["a", "b", "c", "d"] {
                        if let Some(at) = list.iter().position(|sender| sender.takes(country, lane, template)) {
                            reached[at] = true;
                        }
                    }
                }
            }
            let first = reached.iter().position(|reached| !reached);
            prop_assert_eq!(problem(&list).map(|(n, ..)| n), first);
        }
    }
}
