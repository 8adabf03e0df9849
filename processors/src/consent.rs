//! What members want and do not want: how a statement changes it, which lines of the ledger follow, and what the ledger comes to.
//! The ledger is only ever added to; a profile's opt-ins and preferences are its fold, and [`changes`] and [`preferences`] write what makes that so.

use bellwether_schemas::{
    Channel, Position,
    definitions::{Consent, QuietHours},
    member::{AddressState, ByCategory, Profile},
    records::{MemberAction, MemberCommand},
    tables::ConsentRow,
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Whether a category that needs this is sent to a member who said this of it.
#[must_use]
pub const fn allows(needed: Consent, said: Option<bool>) -> bool {
    match (needed, said) {
        (Consent::Unrefusable, _) | (Consent::Assumed, None) => true,
        (Consent::Required, None) => false,
        (_, Some(said)) => said,
    }
}

/// What a member says, by channel.
pub type OptIns = BTreeMap<Channel, ByCategory>;

/// One line of the ledger, as far as it decides.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry {
    /// Channel.
    pub channel: Channel,
    /// Category, or [`ByCategory::WHOLE`].
    pub category: String,
    /// What is said.
    pub state: State,
}

/// What one line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The member wants it.
    Given,
    /// The member does not want it.
    Refused,
    /// What was said is said no more.
    Withdrawn,
    /// The member showed that the address is theirs (double opt-in).
    Confirmed,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Given, Self::Refused, Self::Withdrawn, Self::Confirmed];

    /// The name in the ledger and the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Refused => "refused",
            Self::Withdrawn => "withdrawn",
            Self::Confirmed => "confirmed",
        }
    }

    const fn of(said: Option<bool>) -> Self {
        match said {
            Some(true) => Self::Given,
            Some(false) => Self::Refused,
            None => Self::Withdrawn,
        }
    }
}

/// Takes in one statement. A category that is refused stays refused until it is asked for by name. Who asks for a category by a channel that
/// they refused refuses the channel no more; what they said of other categories stands.
pub fn say(opt_ins: &mut OptIns, channel: Channel, category: &str, said: Option<bool>) {
    let words = opt_ins.entry(channel).or_default();
    if category != ByCategory::WHOLE && said == Some(true) && words.all == Some(false) {
        words.all = None;
    }
    set(words, category, said);
    opt_ins.retain(|_, words| !words.is_silent());
}

/// What two members say who turn out to be one. What either refuses is refused; else what the one who stays says stands, else what the other says.
#[must_use]
pub fn merged(stays: &OptIns, comes: &OptIns) -> OptIns {
    let both = |stays: Option<bool>, comes: Option<bool>| match (stays, comes) {
        (Some(false), _) | (_, Some(false)) => Some(false),
        (stays, comes) => stays.or(comes),
    };
    let mut opt_ins = stays.clone();
    for (channel, said) in comes {
        let words = opt_ins.entry(*channel).or_default();
        words.all = both(words.all, said.all);
        for (category, said) in &said.categories {
            let said = both(words.categories.get(category).copied(), Some(*said));
            set(words, category, said);
        }
    }
    opt_ins.retain(|_, words| !words.is_silent());
    opt_ins
}

/// Sets one word and no other.
fn set(words: &mut ByCategory, category: &str, said: Option<bool>) {
    if category == ByCategory::WHOLE {
        words.all = said;
    } else if let Some(said) = said {
        words.categories.insert(category.to_owned(), said);
    } else {
        words.categories.remove(category);
    }
}

/// The category that an opt-in or opt-out is about.
#[must_use]
pub fn category_of(command: &MemberCommand) -> &str {
    command.category.as_deref().unwrap_or(ByCategory::WHOLE)
}

/// What the command adds to the ledger: every word that it changes, and an opt-in or opt-out even where it repeats what was said, because its
/// proof is a new one.
#[must_use]
pub fn changes(before: Option<&Profile>, after: Option<&Profile>, command: &MemberCommand) -> Vec<Entry> {
    let (was, is) = (words(before), words(after));
    let mut changed: BTreeMap<(Channel, &str), State> = BTreeMap::new();
    for key in was.keys().chain(is.keys()).filter(|key| was.get(*key) != is.get(*key)) {
        changed.insert(*key, State::of(is.get(key).copied()));
    }
    if let (MemberAction::OptIn | MemberAction::OptOut, Some(channel), Some(_)) =
        (command.action, command.channel, after)
    {
        changed.insert((channel, category_of(command)), State::of(Some(command.action == MemberAction::OptIn)));
    }
    if command.action == MemberAction::Confirm
        && let Some(channel) = command.channel
        && [before, after].map(|profile| stands(profile, command)) == UNCONFIRMED_TO_ACTIVE
    {
        changed.insert((channel, ByCategory::WHOLE), State::Confirmed);
    }
    let entry =
        |((channel, category), state): ((Channel, &str), State)| Entry { channel, category: category.into(), state };
    changed.into_iter().map(entry).collect()
}

const UNCONFIRMED_TO_ACTIVE: [Option<AddressState>; 2] = [Some(AddressState::Unconfirmed), Some(AddressState::Active)];

/// How the address that the command names stands.
fn stands(profile: Option<&Profile>, command: &MemberCommand) -> Option<AddressState> {
    let known = profile?.addresses.get(&command.channel?)?;
    known.iter().find(|a| Some(&a.address) == command.address.as_ref()).map(|a| a.state)
}

/// Every word of a profile by channel and category.
fn words(profile: Option<&Profile>) -> BTreeMap<(Channel, &str), bool> {
    let mut all = BTreeMap::new();
    for (channel, words) in profile.into_iter().flat_map(|profile| &profile.opt_ins) {
        all.extend(words.all.map(|said| ((*channel, ByCategory::WHOLE), said)));
        all.extend(words.categories.iter().map(|(category, said)| ((*channel, category.as_str()), *said)));
    }
    all
}

/// What the lines of a ledger come to, in their order.
pub fn fold<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> OptIns {
    let mut opt_ins = OptIns::new();
    for Entry { channel, category, state } in entries {
        let said = match state {
            State::Given => Some(true),
            State::Refused => Some(false),
            State::Withdrawn => None,
            State::Confirmed => continue,
        };
        set(opt_ins.entry(*channel).or_default(), category, said);
    }
    opt_ins.retain(|_, words| !words.is_silent());
    opt_ins
}

/// The preferences that the command changes, by name, with what they are now; null where one is said no more.
#[must_use]
pub fn preferences(before: Option<&Profile>, after: Option<&Profile>) -> Map<String, Value> {
    let (was, is) = (preferred(before), preferred(after));
    let now = |name: &&str| is.get(name).cloned().unwrap_or(Value::Null);
    let names = was.keys().chain(is.keys()).filter(|name| was.get(*name) != is.get(*name));
    names.map(|name| ((*name).to_owned(), now(name))).collect()
}

/// Every preference of a profile that is said, as the API shows it.
fn preferred(profile: Option<&Profile>) -> BTreeMap<&'static str, Value> {
    let Some(Profile { locale, time_zone, quiet_hours, channels, .. }) = profile else { return BTreeMap::new() };
    let quiet = |hours: &QuietHours| json!({"from": hours.from, "to": hours.to});
    [
        ("locale", locale.as_deref().map(Value::from)),
        ("time_zone", time_zone.as_deref().map(Value::from)),
        ("quiet_hours", quiet_hours.as_ref().map(quiet)),
        ("channels", (!channels.is_empty()).then(|| channels.iter().map(|channel| channel.name()).collect())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

/// The command's lines of the ledger, as they are kept: one for each word of consent and one for each preference that it changes, so that a
/// redelivery that knows less than the first time adds nothing and takes nothing away. `applied` is the command's offset.
#[must_use]
pub fn lines(
    before: Option<&Profile>,
    after: Option<&Profile>,
    command: &MemberCommand,
    position: Position,
    applied: i64,
) -> Vec<ConsentRow> {
    let line =
        |channel: &str, category: String, state: &str| row((channel, category, state), command, position, applied);
    let words = changes(before, after, command).into_iter();
    let words = words.map(|entry| line(entry.channel.name(), entry.category, entry.state.name()));
    let preferences = preferences(before, after)
        .into_iter()
        .map(|(name, value)| ConsentRow { preference: Some(value.to_string()), ..line("", name, SET) });
    words.chain(preferences).collect()
}

/// What the ledger says of preferences.
const SET: &str = "set";

fn row(
    (channel, category, state): (&str, String, &str),
    command: &MemberCommand,
    position: Position,
    applied: i64,
) -> ConsentRow {
    ConsentRow {
        project: command.project.clone(),
        member: command.member.clone(),
        applied,
        channel: channel.into(),
        category,
        at: command.at,
        state: state.into(),
        actor: command.actor.clone(),
        source: source(command).into(),
        address: command.address.clone(),
        proof: command.proof.clone(),
        position: position.to_string(),
        preference: None,
    }
}

/// What an actor's name ends with where it says by which way: `KEY via paper_form`, `member via preference_page`.
pub const VIA: &str = " via ";

/// By which way it was said: `merge` where two became one, else as the actor tells: named after [`VIA`], else `import`, `operator`, the channel
/// where the member or a provider said so by it, and else `api`.
fn source(command: &MemberCommand) -> &str {
    if matches!(command.action, MemberAction::Merge | MemberAction::Absorb) {
        return "merge";
    }
    let actor = command.actor.as_str();
    if let Some((_, way)) = actor.rsplit_once(VIA) {
        return way;
    }
    match (actor.split(' ').next(), command.channel) {
        (Some("import"), _) => "import",
        (Some("operator"), _) => "operator",
        (Some("member" | "provider"), Some(channel)) => channel.name(),
        _ => "api",
    }
}
