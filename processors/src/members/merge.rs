//! Two members who turn out to be one person: what the one who goes hands over, and what both come to.
//! A profile is changed by its own member's commands alone, so the one who goes can only say it to the one who stays.

use super::{MAX_ADDRESSES, copied, invalid, listing};
use crate::{
    consent,
    processor::{Facts, Refusal},
};
use bellwether_schemas::{
    member::{Address, AddressState, Profile},
    records::{MemberAction, MemberCommand, Record},
    tables::SuppressionRow,
};

/// The command by which the one who stays takes over the profile.
pub(super) fn hand_over(command: &MemberCommand, profile: &Profile) -> Result<Record, Refusal> {
    let stays = command.other.clone().filter(|stays| *stays != command.member);
    let stays = stays.ok_or_else(|| invalid("other", "missing, or the member itself; name the member that stays"))?;
    let patch = serde_json::to_string(profile).map_err(|error| invalid("profile", &error.to_string()))?;
    Ok(Record::Member(MemberCommand {
        member: stays,
        action: MemberAction::Absorb,
        patch: Some(patch),
        proof: Some(format!("merged from {}", command.member)),
        other: Some(command.member.clone()),
        ..command.clone()
    }))
}

/// The profile that comes.
pub(super) fn coming(command: &MemberCommand) -> Result<Profile, Refusal> {
    let text = command.patch.as_deref().ok_or_else(|| invalid("patch", "missing; an absorption needs a profile"))?;
    serde_json::from_str(text).map_err(|error| invalid("patch", &error.to_string()))
}

/// What both come to: the one who stays comes first, and is given what they lack. Where the two say something else of an address or of consent,
/// the more careful word stands. To do it again changes nothing.
pub(super) fn absorbed(known: Option<Profile>, command: &MemberCommand, facts: &Facts) -> Result<Profile, Refusal> {
    let comes = coming(command)?;
    let mut profile = known.unwrap_or_else(|| Profile { created_at: comes.created_at, ..Profile::default() });
    for (channel, addresses) in comes.addresses {
        let list = profile.addresses.entry(channel).or_default();
        for address in addresses {
            if let Some(known) = list.iter_mut().find(|known| known.address == address.address) {
                *known = the_more_careful(known, address);
                continue;
            }
            // The list may have changed while nobody had the address.
            let listed = facts.one::<SuppressionRow>(&listing(command, channel, &address.address))?;
            list.push(match listed {
                Some(row) => Address { heard: address.heard, ..copied(row) },
                None => address,
            });
        }
        list.truncate(MAX_ADDRESSES);
    }
    profile.addresses.retain(|_, list| !list.is_empty());
    profile.opt_ins = consent::merged(&profile.opt_ins, &comes.opt_ins);
    profile.locale = profile.locale.or(comes.locale);
    profile.time_zone = profile.time_zone.or(comes.time_zone);
    if profile.channels.is_empty() {
        profile.channels = comes.channels;
    }
    for (name, value) in comes.attributes {
        profile.attributes.entry(name).or_insert(value);
    }
    profile.created_at = profile.created_at.min(comes.created_at);
    Ok(profile)
}

/// Of one address as two know it, what keeps it from being used; of equals that of the one who stays. A word from it is a word, whoever heard it.
fn the_more_careful(stays: &Address, comes: Address) -> Address {
    let heard = stays.heard.max(comes.heard);
    let careful = if caution(comes.state) > caution(stays.state) { comes } else { stays.clone() };
    Address { heard, ..careful }
}

/// The greater, the less it takes for the address to be left alone.
const fn caution(state: AddressState) -> u8 {
    match state {
        AddressState::Active => 0,
        AddressState::Quarantined => 1,
        AddressState::Unconfirmed => 2,
        AddressState::Suppressed => 3,
    }
}
