//! Links of ours that any text may name. A text is rendered with a place for each, because the link is sealed for one try of a delivery, with
//! a key; whoever sends the message puts the link there.

/// A link of ours, by the variable that texts name it with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnLink {
    /// Where the member unsubscribes.
    Unsubscribe,
    /// Where the member sees and changes what comes.
    Preferences,
    /// Where the member says whose the address is.
    Confirm,
}

impl OwnLink {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Unsubscribe, Self::Preferences, Self::Confirm];

    /// The variable: `{{ unsubscribe_url }}`.
    #[must_use]
    pub const fn variable(self) -> &'static str {
        match self {
            Self::Unsubscribe => "unsubscribe_url",
            Self::Preferences => "preferences_url",
            Self::Confirm => "confirm_url",
        }
    }

    /// What a rendered text says until the link takes its place. It needs no escaping in any text.
    #[must_use]
    pub const fn place(self) -> &'static str {
        match self {
            Self::Unsubscribe => "unsubscribe-url.bellwether.invalid",
            Self::Preferences => "preferences-url.bellwether.invalid",
            Self::Confirm => "confirm-url.bellwether.invalid",
        }
    }
}
