//! Two members who turn out to be one person: what the one who goes hands over, and what both come to.
//! A profile is changed by its own member's commands alone, so the one who goes can only say it to the one who stays.

use super::{MAX_ADDRESSES, copied, invalid, listing, makes_members};
use crate::{
    consent,
    processor::{Facts, Refusal},
};
use bellwether_schemas::{
    member::{Address, AddressState, Profile},
    records::{MemberAction, MemberCommand, Record},
    rows::{Read, Row, Write},
    tables::{MERGED, MemberRow, SuppressionRow},
};

/// Reads where the member went.
pub(super) fn went(command: &MemberCommand) -> Read {
    MemberRow::read_one(command.project.as_str(), command.member.as_str(), MERGED, "")
}

/// What becomes of a command to somebody who has gone: the one who stays is told, because links in messages to the old id are followed for long, and
/// nobody who says no there is to be written to. Whoever comes to be known under the old id again is somebody new.
pub(super) fn passed_on(command: &MemberCommand, row: &MemberRow) -> Result<Option<Record>, Refusal> {
    use MemberAction::{Delete, Erase, Merge};
    if makes_members(command) || matches!(command.action, Delete | Merge | Erase) {
        return Ok(None);
    }
    Ok(Some(Record::Member(MemberCommand { member: row.kept()?, ..command.clone() })))
}

/// The row that says where the member went, and the one that says so no more.
pub(super) fn leaves(command: &MemberCommand, fence: u64) -> Result<Write, Refusal> {
    let row = MemberRow::empty(&command.project, &command.member, MERGED, "");
    let text = serde_json::to_string(stays(command)?).map_err(|error| invalid("other", &error.to_string()))?;
    Ok(MemberRow { decision: Some(text), updated_at: Some(command.at), ..row }.put_fenced(fence))
}

pub(super) fn is_back(command: &MemberCommand, fence: u64) -> Write {
    let key = MemberRow::key(command.project.as_str(), command.member.as_str(), MERGED, "");
    Write::Delete { table: MemberRow::TABLE, key, fence: Some(fence) }
}

fn stays(command: &MemberCommand) -> Result<&str, Refusal> {
    let other = command.other.as_deref().filter(|stays| *stays != command.member);
    other.ok_or_else(|| invalid("other", "missing, or the member itself; name the member that stays"))
}

/// The command by which the one who stays takes over the profile.
pub(super) fn hand_over(command: &MemberCommand, profile: &Profile) -> Result<Record, Refusal> {
    let stays = stays(command)?.to_owned();
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
    profile.quiet_hours = profile.quiet_hours.or(comes.quiet_hours);
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
