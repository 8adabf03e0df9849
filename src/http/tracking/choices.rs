//! What a member may choose on the preference page, and what a posted form changes of it. Pure: profile and form in, statements out.
//!
//! A box is named `CHANNEL.CATEGORY`. The form carries what each box showed (`was.…`) beside what it shows now (`is.…`, only where it is ticked,
//! as browsers send it). So a box that nobody touched changes nothing, and two pages that are open at once do not undo each other.

use super::page::Language;
use bellwether_processors::{consent::allows, definitions::Compiled};
use bellwether_schemas::{
    Channel,
    definitions::{Category, Consent},
    member::Profile,
};
use std::collections::BTreeMap;

/// The page's boxes, by channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choices(pub Vec<(Channel, Vec<Choice>)>);

/// A category on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The category's name.
    pub category: String,
    /// What the member reads of it.
    pub title: String,
    /// Whether it is sent.
    pub is_on: bool,
    /// Whether it cannot be refused.
    pub is_fixed: bool,
}

/// What a posted form asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    /// These boxes were changed.
    Save(Vec<Change>),
    /// Nothing more that can be refused.
    Leave,
}

/// A box that shows something else than it did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Channel.
    pub channel: Channel,
    /// Category.
    pub category: String,
    /// What it shows now.
    pub is_on: bool,
}

/// What a member states about a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Channel.
    pub channel: Channel,
    /// Category; `None` for the whole channel.
    pub category: Option<String>,
    /// Wanted or refused.
    pub is_wanted: bool,
    /// The text that the member read beside the box or on the button.
    pub shown: String,
}

/// The field of a form that is none of the page's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Misfit(pub String);

/// The field that says which button was pressed, and its values.
pub const BUTTON: &str = "do";
/// See [`BUTTON`].
pub const SAVE: &str = "save";
/// See [`BUTTON`].
pub const LEAVE: &str = "leave";
/// What a box's field begins with that says what was shown.
pub const WAS: &str = "was.";
/// What a box's field begins with where it is ticked.
pub const IS: &str = "is.";

impl Choices {
    /// Each category on each channel at which the member has an address.
    #[must_use]
    pub fn of(project: &Compiled, profile: &Profile, language: Language) -> Self {
        let has_address = |channel: &Channel| profile.addresses.get(channel).is_some_and(|list| !list.is_empty());
        let channels = Channel::ALL.into_iter().filter(has_address);
        let boxes = |channel: Channel| {
            let said = profile.opt_ins.get(&channel);
            let choice = |(name, category): (&str, &Category)| Choice {
                category: name.to_owned(),
                title: title(project, name, category, profile, language),
                is_on: allows(category.consent, said.and_then(|said| said.says(name))),
                is_fixed: category.consent == Consent::Unrefusable,
            };
            project.categories().map(choice).collect()
        };
        Self(channels.map(|channel| (channel, boxes(channel))).collect())
    }

    /// Whether there is nothing to choose.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|(_, boxes)| boxes.is_empty())
    }

    /// What a form asks for of these.
    ///
    /// # Errors
    /// A field that this page does not have, or lacks.
    pub fn read(&self, form: &[(String, String)]) -> Result<Wish, Misfit> {
        let misfit = |field: &str| Misfit(field.to_owned());
        let mut button = None;
        let mut boxes: BTreeMap<(Channel, &str), (Option<bool>, bool)> = BTreeMap::new();
        for (field, value) in form {
            let (was, is) = (field.strip_prefix(WAS), field.strip_prefix(IS));
            match (was.or(is), value.as_str()) {
                (None, SAVE | LEAVE) if field == BUTTON => button = Some(value.as_str()),
                (Some(name), "on" | "off") => {
                    let (was_on, is_on) = boxes.entry(self.find(name).ok_or_else(|| misfit(field))?).or_default();
                    if was.is_some() {
                        *was_on = Some(value == "on");
                    } else {
                        *is_on = value == "on";
                    }
                }
                _ => return Err(misfit(field)),
            }
        }
        if button.ok_or_else(|| misfit(BUTTON))? == LEAVE {
            return Ok(Wish::Leave);
        }
        let mut changes = Vec::new();
        for ((channel, category), (was_on, is_on)) in boxes {
            let was_on = was_on.ok_or_else(|| Misfit(format!("{WAS}{channel}.{category}")))?;
            if was_on != is_on {
                changes.push(Change { channel, category: category.to_owned(), is_on });
            }
        }
        Ok(Wish::Save(changes))
    }

    /// What the member states by a wish, which the profile will say afterwards; `leave` is the text of the button.
    #[must_use]
    pub fn statements(&self, wish: &Wish, profile: &Profile, leave: &str) -> Vec<Statement> {
        let mut all = Vec::new();
        for (channel, boxes) in &self.0 {
            let state = |choice: &Choice, is_wanted| Statement {
                channel: *channel,
                category: Some(choice.category.clone()),
                is_wanted,
                shown: choice.title.clone(),
            };
            let refusable = boxes.iter().filter(|choice| !choice.is_fixed);
            match wish {
                Wish::Leave => {
                    all.push(Statement {
                        channel: *channel,
                        category: None,
                        is_wanted: false,
                        shown: leave.to_owned(),
                    });
                    all.extend(refusable.map(|choice| state(choice, false)));
                }
                Wish::Save(changes) => {
                    let change = |choice: &Choice| {
                        let is_it = |c: &&Change| c.channel == *channel && c.category == choice.category;
                        changes.iter().find(is_it).map(|change| change.is_on)
                    };
                    // The whole channel was refused. To want one category of it again ends that; the boxes that stay empty then need a word of their own.
                    let is_refused = profile.opt_ins.get(channel).is_some_and(|said| said.all == Some(false));
                    let reopens = is_refused && boxes.iter().any(|choice| change(choice) == Some(true));
                    let stays_off = |choice: &Choice| (reopens && !choice.is_on).then_some(false);
                    all.extend(refusable.filter_map(|choice| {
                        change(choice).or_else(|| stays_off(choice)).map(|is_wanted| state(choice, is_wanted))
                    }));
                }
            }
        }
        all
    }

    /// The boxes as asked.
    #[must_use]
    pub fn after(mut self, wish: &Wish) -> Self {
        for (channel, boxes) in &mut self.0 {
            for choice in boxes.iter_mut().filter(|choice| !choice.is_fixed) {
                match wish {
                    Wish::Leave => choice.is_on = false,
                    Wish::Save(changes) => {
                        let is_it = |c: &&Change| c.channel == *channel && c.category == choice.category;
                        choice.is_on = changes.iter().find(is_it).map_or(choice.is_on, |change| change.is_on);
                    }
                }
            }
        }
        self
    }

    /// The box of a name, where it can be changed.
    fn find(&self, name: &str) -> Option<(Channel, &str)> {
        let (channel, category) = name.split_once('.')?;
        let (channel, boxes) = self.0.iter().find(|(known, _)| known.name() == channel)?;
        let choice = boxes.iter().find(|choice| choice.category == category && !choice.is_fixed)?;
        Some((*channel, choice.category.as_str()))
    }
}

/// What a member reads of a category: in the member's locale where the page is in its language. What the project does not declare has our words.
fn title(project: &Compiled, name: &str, category: &Category, profile: &Profile, language: Language) -> String {
    if !project.document.project.categories.contains_key(name)
        && let Some(built_in) = language.built_in(name)
    {
        return built_in.to_owned();
    }
    let own = profile.locale.as_deref().filter(|locale| Language::of_locale(locale) == Some(language));
    category.title.of(Some(own.unwrap_or(language.name()))).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{
        definitions::check_provider,
        http::{test_support::shop, tracking::tests::categories},
    };
    use bellwether_processors::consent::say;
    use bellwether_schemas::{
        Timestamp,
        member::{Address, ByCategory},
    };
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn project() -> Compiled {
        let mut document = shop();
        document.project.categories = serde_json::from_value(categories()).unwrap();
        Compiled::new(document, 1, &check_provider).unwrap()
    }

    /// A member with an e-mail address and a phone, who said this.
    fn profile(opt_ins: Value) -> Profile {
        let at = |address: &str| vec![Address::active(address.into(), Timestamp(0))];
        Profile {
            addresses: [(Channel::Email, at("anna@example.org")), (Channel::Sms, at("+4915112345678"))].into(),
            opt_ins: serde_json::from_value(opt_ins).unwrap(),
            ..Profile::default()
        }
    }

    fn choices(profile: &Profile) -> Choices {
        Choices::of(&project(), profile, Language::En)
    }

    /// The boxes of a channel: `+` on, `-` off, `!` always on.
    fn shown(choices: &Choices, channel: Channel) -> String {
        let (_, boxes) = choices.0.iter().find(|(known, _)| *known == channel).unwrap();
        let mark = |choice: &Choice| match (choice.is_fixed, choice.is_on) {
            (true, _) => '!',
            (false, true) => '+',
            (false, false) => '-',
        };
        boxes.iter().map(|choice| format!("{}{} ", choice.category, mark(choice))).collect::<String>().trim().to_owned()
    }

    fn read(profile: &Profile, form: &str) -> Result<Wish, Misfit> {
        let pairs = form.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        choices(profile).read(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>())
    }

    fn stated(profile: &Profile, form: &str) -> Vec<String> {
        let wish = read(profile, form).unwrap();
        let say = |Statement { channel, category, is_wanted, shown }| {
            let category = category.unwrap_or_else(|| ByCategory::WHOLE.to_owned());
            format!("{channel} {category} {is_wanted}: {shown}")
        };
        choices(profile).statements(&wish, profile, "Leave").into_iter().map(say).collect()
    }

    #[test]
    fn a_box_shows_what_the_category_and_the_member_say() {
        for (opt_ins, boxes) in [
            (json!({}), "marketing- news- orders+ security! transactional+"),
            (json!({"email": true}), "marketing+ news+ orders+ security! transactional+"),
            (json!({"email": false}), "marketing- news- orders- security! transactional-"),
            (json!({"email": {"news": true, "orders": false}}), "marketing- news+ orders- security! transactional+"),
            (json!({"email": {"*": true, "news": false}}), "marketing+ news- orders+ security! transactional+"),
            (
                json!({"email": {"*": false, "news": true, "security": false}}),
                "marketing- news- orders- security! transactional-",
            ),
            (json!({"sms": true}), "marketing- news- orders+ security! transactional+"),
        ] {
            assert_eq!(shown(&choices(&profile(opt_ins.clone())), Channel::Email), boxes, "{opt_ins}");
        }
        let nobody = Profile { addresses: [(Channel::Email, Vec::new())].into(), ..Profile::default() };
        assert!(choices(&nobody).is_empty(), "a channel without an address has no boxes");
    }

    #[test]
    fn titles_are_in_the_members_locale_or_else_in_the_pages_language() {
        let title = |locale: Option<&str>, language| {
            let profile = Profile { locale: locale.map(Into::into), ..profile(json!({})) };
            let choices = Choices::of(&project(), &profile, language);
            choices.0[0].1[..2].iter().map(|choice| choice.title.clone()).collect::<Vec<_>>()
        };
        assert_eq!(title(Some("es-AR"), Language::Es), ["Novedades y ofertas", "Boletín"]);
        assert_eq!(title(Some("de"), Language::Pt), ["Novidades e ofertas", "Boletim"]);
        assert_eq!(title(None, Language::En), ["News and offers", "Newsletter"]);
    }

    #[test]
    fn only_what_was_changed_is_stated() {
        let nothing: [&str; 0] = [];
        let silent = profile(json!({}));
        let refused = profile(json!({"sms": false}));
        assert_eq!(stated(&silent, "was.email.news=off&was.sms.orders=on&is.sms.orders=on&do=save"), nothing);
        assert_eq!(
            stated(&silent, "was.email.news=off&is.email.news=on&was.email.orders=on&was.sms.news=off&do=save"),
            ["email news true: Newsletter", "email orders false: Orders"]
        );
        // Another page changed the box meanwhile: this one, which nobody touched, does not undo it.
        let changed_elsewhere = profile(json!({"email": {"news": true}}));
        assert_eq!(stated(&changed_elsewhere, "was.email.news=off&do=save"), nothing);
        assert_eq!(
            stated(&refused, "was.sms.news=off&is.sms.news=on&was.sms.orders=off&do=save"),
            [
                "sms marketing false: News and offers",
                "sms news true: Newsletter",
                "sms orders false: Orders",
                "sms transactional false: About your account and your orders",
            ],
            "the channel is refused no more, and what stays empty is refused by name"
        );
        let left = stated(&silent, "do=leave&was.email.news=off&is.email.news=on");
        assert_eq!(
            left[..3],
            ["email * false: Leave", "email marketing false: News and offers", "email news false: Newsletter"]
        );
        assert_eq!(
            left.len(),
            10,
            "two channels, each as a whole and by its four categories that can be refused: {left:?}"
        );
    }

    #[test]
    fn what_is_no_field_of_the_page_is_named() {
        for (form, field) in [
            ("", ""),
            ("was.email.news=on", BUTTON),
            ("do=delete", BUTTON),
            ("do=save&was.fax.news=on", "was.fax.news"),
            ("do=save&was.email.nwes=on", "was.email.nwes"),
            ("do=save&was.telegram.news=on", "was.telegram.news"),
            ("do=save&is.email.security=off", "is.email.security"),
            ("do=save&is.email.news=on", "was.email.news"),
            ("do=save&was.email.news=maybe", "was.email.news"),
            ("do=save&was.email=on", "was.email"),
            ("do=save&other=1", "other"),
        ] {
            assert_eq!(read(&profile(json!({})), form), Err(Misfit(field.into())), "{form}");
        }
    }

    fn words() -> impl Strategy<Value = ByCategory> {
        let said = || prop::option::of(any::<bool>());
        let category = prop::sample::select(vec!["marketing", "news", "orders", "security", "transactional"]);
        (said(), prop::collection::btree_map(category.prop_map(str::to_owned), any::<bool>(), 0..5))
            .prop_map(|(all, categories)| ByCategory { all, categories })
    }

    proptest! {
        /// Whatever is posted changes boxes of the page alone.
        #[test]
        fn any_form_is_read_or_refused(form in prop::collection::vec(("((was|is)\\.(email|sms|fax)\\.)?(do|news|security|.{0,8})", "on|off|save|leave|.?"), 0..8)) {
            let member = profile(json!({}));
            if let Ok(Wish::Save(changes)) = choices(&member).read(&form) {
                for Change { channel, category, .. } in changes {
                    let name = format!("{channel}.{category}");
                    prop_assert!(choices(&member).find(&name).is_some(), "{}", name);
                }
            }
        }

        /// What the page shows after a wish is what the profile says once the statements are applied.
        #[test]
        fn the_page_shows_what_will_be(email in words(), sms in words(), ticks in any::<u16>(), leaves in prop::bool::weighted(0.2)) {
            let mut member = Profile { opt_ins: [(Channel::Email, email), (Channel::Sms, sms)].into(), ..profile(json!({})) };
            let before = choices(&member);
            let boxes = before.0.iter().flat_map(|(channel, boxes)| boxes.iter().map(move |choice| (*channel, choice.clone())));
            let changes = boxes.filter(|(_, choice)| !choice.is_fixed).enumerate().filter_map(|(n, (channel, choice))| {
                let is_on = ticks >> n & 1 == 1;
                (is_on != choice.is_on).then_some(Change { channel, category: choice.category, is_on })
            });
            let wish = if leaves { Wish::Leave } else { Wish::Save(changes.collect()) };
            for Statement { channel, category, is_wanted, .. } in before.statements(&wish, &member, "Leave") {
                say(&mut member.opt_ins, channel, category.as_deref().unwrap_or(ByCategory::WHOLE), Some(is_wanted));
            }
            prop_assert_eq!(choices(&member), before.after(&wish));
        }
    }
}
