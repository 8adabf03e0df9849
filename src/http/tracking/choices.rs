//! What a member may choose on the preference page, and what a posted form changes of it. Pure: profile and form in, statements out.
//!
//! A box is named `CHANNEL.CATEGORY`. The form carries what each box showed (`was.…`) beside what it shows now (`is.…`, only where it is ticked,
//! as browsers send it). So a box that nobody touched changes nothing, and two pages that are open at once do not undo each other.

use super::page::Language;
use bellwether_processors::definitions::Compiled;
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
        let boxes = |channel| {
            let said = profile.opt_ins.get(&channel);
            let choice = |(name, category): (&str, &Category)| Choice {
                category: name.to_owned(),
                title: title(project, name, category, profile, language),
                is_on: is_sent(category.consent, said.and_then(|said| said.says(name))),
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

/// Whether a category is sent to a member who said this of it.
const fn is_sent(consent: Consent, said: Option<bool>) -> bool {
    match (consent, said) {
        (Consent::Unrefusable, _) | (Consent::Assumed, None) => true,
        (Consent::Required, None) => false,
        (_, Some(said)) => said,
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
