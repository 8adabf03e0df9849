//! What members do on their channels, by whatever door it is heard (a webhook, fetched updates), and the commands to their profiles that follow.
//! It reads the store to find whose address it was; what the commands change is the members processor's.

use bellwether_connectors::{
    store::{Store, StoreError},
    webhooks::{
        inbound::{Inbound, Keyword},
        telegram::Event,
    },
};
use bellwether_schemas::{
    Channel, Timestamp,
    member::Profile,
    records::{MemberAction, MemberCommand},
    rows::{Read, Row},
    tables::{AddressRow, LinkRow, MERGED, MemberRow, PROFILE},
};

/// Members of one address that are looked at.
const MAX_SHARING: usize = 20;
/// Mergers, one after the other, through which a member is followed.
const MAX_MERGERS: usize = 8;

/// What a member did on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Said something.
    Said(Inbound),
    /// Came by a link that we gave to one member.
    Linked {
        /// Channel.
        channel: Channel,
        /// The address to link.
        address: String,
        /// What the link carried.
        token: String,
        /// When.
        at: Timestamp,
    },
    /// Shut us out.
    Left {
        /// Channel.
        channel: Channel,
        /// Address.
        address: String,
        /// When.
        at: Timestamp,
    },
    /// Let us in again.
    Returned {
        /// Channel.
        channel: Channel,
        /// Address.
        address: String,
        /// When.
        at: Timestamp,
    },
    /// Is at another address from now on.
    Moved {
        /// Channel.
        channel: Channel,
        /// The old address.
        from: String,
        /// The new one.
        to: String,
        /// When.
        at: Timestamp,
    },
}

/// What an update of Telegram's says, in the house's words.
#[must_use]
pub fn heard(event: Event, now: Timestamp) -> Heard {
    let channel = Channel::Telegram;
    match event {
        Event::Linked { chat, payload, at } => Heard::Linked { channel, address: chat, token: payload, at },
        Event::Said(said) => Heard::Said(said),
        Event::Blocked { chat, at } => Heard::Left { channel, address: chat, at },
        Event::Unblocked { chat, at } => Heard::Returned { channel, address: chat, at },
        Event::Moved { from, to } => Heard::Moved { channel, from, to, at: now },
    }
}

/// What follows for the members whose address it is, as commands to their profiles. They set a state, so that hearing it twice is hearing it once.
///
/// # Errors
/// The store's.
pub async fn commands(
    store: &dyn Store,
    project: &str,
    provider: &str,
    heard: Heard,
) -> Result<Vec<MemberCommand>, StoreError> {
    use MemberAction::{AddAddress, Heard as Wrote, OptIn, OptOut, RemoveAddress};
    // The message is the proof; where there is none, what the channel told.
    let message = match &heard {
        Heard::Said(said) if !said.id.is_empty() => Some(format!("message {}", said.id)),
        _ => None,
    };
    let command = |member: &str, at, action, channel, address: &str, reason: &str| MemberCommand {
        channel: Some(channel),
        address: Some(address.to_owned()),
        reason: (!reason.is_empty()).then(|| reason.to_owned()),
        proof: matches!(action, OptIn | OptOut).then(|| message.clone().unwrap_or_else(|| reason.to_owned())),
        ..MemberCommand::new(project.to_owned(), member.to_owned(), action, format!("member by {provider}"), at)
    };
    let (channel, address, at, actions): (_, _, _, &[(MemberAction, &str)]) = match &heard {
        Heard::Said(said) => {
            let actions: &[_] = match said.keyword {
                Some(Keyword::Stop) => &[(Wrote, ""), (OptOut, "the member asked to stop")],
                Some(Keyword::Start) => &[(Wrote, ""), (OptIn, "the member asked to start")],
                Some(Keyword::Help) | None => &[(Wrote, "")],
            };
            (said.channel, &said.from, said.at, actions)
        }
        Heard::Left { channel, address, at } => (*channel, address, *at, &[(OptOut, "the member blocked us")]),
        Heard::Returned { channel, address, at } => (*channel, address, *at, &[(OptIn, "the member unblocked us")]),
        Heard::Moved { channel, from, to, at } => {
            let mut commands = Vec::new();
            for member in members_at(store, project, *channel, from).await? {
                commands.push(command(&member, *at, AddAddress, *channel, to, "the provider moved it"));
                commands.push(command(&member, *at, RemoveAddress, *channel, from, "the provider moved it"));
            }
            return Ok(commands);
        }
        Heard::Linked { channel, address, token, at } => {
            let rows = store.read(&[LinkRow::read_one(token.as_str())]).await?.into_iter().flatten().next();
            let link = rows.map(LinkRow::from_cells).transpose()?.filter(|link| link.project == project);
            // A link that is unknown or too old links nobody; the member is told nothing, because it may be a stranger's guess.
            return Ok(link.map_or_else(Vec::new, |link| {
                vec![
                    command(&link.member, *at, AddAddress, *channel, address, "the member came by a link"),
                    command(&link.member, *at, OptIn, *channel, address, "the member came by a link"),
                ]
            }));
        }
    };
    let members = members_at(store, project, channel, address).await?;
    let commands = members.iter().flat_map(|member| {
        actions.iter().map(|(action, reason)| command(member, at, *action, channel, address, reason))
    });
    Ok(commands.collect())
}

/// The members that have an address.
pub(crate) async fn members_at(
    store: &dyn Store,
    project: &str,
    channel: Channel,
    address: &str,
) -> Result<Vec<String>, StoreError> {
    let read = Read { limit: Some(MAX_SHARING), ..AddressRow::read_all(project, channel.name(), address) };
    let mut members = Vec::new();
    for cells in store.read(&[read]).await?.into_iter().flatten() {
        let member = AddressRow::from_cells(cells)?.member;
        // The index may know more than the profile (see the members processor).
        let profile = profile(store, project, &member).await?;
        let has = |profile: Profile| {
            profile.addresses.get(&channel).is_some_and(|list| list.iter().any(|a| a.address == address))
        };
        if profile.is_some_and(has) {
            members.push(member);
        }
    }
    Ok(members)
}

/// The profile of a member.
///
/// # Errors
/// The store's.
pub async fn profile(store: &dyn Store, project: &str, member: &str) -> Result<Option<Profile>, StoreError> {
    Ok(row(store, project, member, PROFILE).await?.as_ref().map(Profile::from_row).transpose()?)
}

/// The profile of a member, or of the one of whom they became part since: a link in an old message names who they were.
///
/// # Errors
/// The store's.
pub async fn profile_now(store: &dyn Store, project: &str, member: &str) -> Result<Option<Profile>, StoreError> {
    let mut member = member.to_owned();
    for _ in 0..MAX_MERGERS {
        if let Some(known) = profile(store, project, &member).await? {
            return Ok(Some(known));
        }
        let Some(went) = row(store, project, &member, MERGED).await? else { break };
        let Ok(other) = went.kept() else { break };
        member = other;
    }
    Ok(None)
}

async fn row(store: &dyn Store, project: &str, member: &str, kind: &str) -> Result<Option<MemberRow>, StoreError> {
    let read = MemberRow::read_one(project, member, kind, "");
    let row = store.read(&[read]).await?.into_iter().flatten().next();
    Ok(row.map(MemberRow::from_cells).transpose()?)
}
