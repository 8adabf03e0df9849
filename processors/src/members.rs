//! Applies commands to member profiles. One member's commands are serial, so the stored profile is the fold of its commands.

use crate::processor::{Facts, Incoming, Output, Processor, Refusal};
use bellwether_schemas::{
    Channel, Timestamp,
    member::{Address, AddressState, Patch, Profile},
    records::{MemberAction, MemberCommand, Reason},
    rows::{Read, Row, Write},
    tables::{AddressRow, MemberRow, PROFILE},
};
use std::{cmp::Ordering, collections::BTreeSet};

/// Addresses of one channel that a member may have; the oldest goes first.
pub const MAX_ADDRESSES: usize = 20;
/// So many misses in a row put an address into quarantine.
pub const QUARANTINE_AFTER: u32 = 3;

/// The members processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Members;

impl Processor for Members {
    const NAME: &'static str = "members";
    type Input = MemberCommand;

    fn needs(&self, incoming: &Incoming<MemberCommand>, _: &Facts, _: Timestamp) -> Vec<Read> {
        vec![profile_of(&incoming.input)]
    }

    fn decide(&self, incoming: &Incoming<MemberCommand>, facts: &Facts, _: Timestamp) -> Result<Output, Refusal> {
        let command = &incoming.input;
        let offset = i64::try_from(incoming.position.offset).unwrap_or(i64::MAX);
        let stored = facts.one::<MemberRow>(&profile_of(command))?;
        let known = stored.as_ref().map(Profile::from_row).transpose()?;
        let fence = incoming.position.offset + 1;
        let put = |(channel, address): &(Channel, String)| {
            let row = AddressRow {
                project: command.project.clone(),
                channel: channel.name().into(),
                address: address.clone(),
                member: command.member.clone(),
                since: command.at,
            };
            row.put_fenced(fence)
        };
        let before = addresses(known.as_ref());
        match known.as_ref().map_or(-1, |p| p.applied).cmp(&offset) {
            // A redelivery of what is in the profile already.
            Ordering::Greater => return Ok(Output::default()),
            // The profile was written; whether the index beside it was too, nobody knows. What was to go from it may stay: whoever reads the
            // index looks into the profile.
            Ordering::Equal => return Ok(Output { rows: before.iter().map(put).collect(), ..Output::default() }),
            Ordering::Less => {}
        }
        let (after, write) = if command.action == MemberAction::Delete {
            let key = MemberRow::key(command.project.as_str(), command.member.as_str(), PROFILE, "");
            (BTreeSet::new(), Write::Delete { table: MemberRow::TABLE, key, fence: Some(fence) })
        } else {
            let Some(mut profile) = changed(known, command)? else { return Ok(Output::default()) };
            profile.applied = offset;
            profile.updated_at = command.at;
            (addresses(Some(&profile)), profile.into_row(&command.project, &command.member).put_fenced(fence))
        };
        let added = after.difference(&before).map(put);
        let removed = before.difference(&after).map(|(channel, address)| Write::Delete {
            table: AddressRow::TABLE,
            key: AddressRow::key(command.project.as_str(), channel.name(), address.as_str(), command.member.as_str()),
            fence: Some(fence),
        });
        Ok(Output { rows: added.chain(removed).chain([write]).collect(), ..Output::default() })
    }
}

/// Every address of a profile.
fn addresses(profile: Option<&Profile>) -> BTreeSet<(Channel, String)> {
    let by_channel = profile.into_iter().flat_map(|p| &p.addresses);
    by_channel.flat_map(|(channel, list)| list.iter().map(|a| (*channel, a.address.clone()))).collect()
}

fn profile_of(command: &MemberCommand) -> Read {
    MemberRow::read_one(command.project.as_str(), command.member.as_str(), PROFILE, "")
}

/// The profile after the command; `None` where there is nobody to change.
fn changed(known: Option<Profile>, command: &MemberCommand) -> Result<Option<Profile>, Refusal> {
    let invalid = |field: &str, problem: &str| Refusal::new(Reason::Invalid, format!("{field}: {problem}"));
    if command.action == MemberAction::Upsert {
        let text = command.patch.as_deref().ok_or_else(|| invalid("patch", "missing; an upsert needs one"))?;
        let patch = serde_json::from_str(text).map_err(|e| invalid("patch", &e.to_string()))?;
        let profile = known.unwrap_or_else(|| Profile { created_at: command.at, ..Profile::default() });
        return Ok(Some(patched(profile, patch, command.at)));
    }
    let Some(mut profile) = known else { return Ok(None) };
    let channel = command.channel.ok_or_else(|| invalid("channel", "missing; this action needs one"))?;
    match command.action {
        MemberAction::OptOut => drop(profile.opt_ins.insert(channel, false)),
        MemberAction::OptIn => drop(profile.opt_ins.insert(channel, true)),
        MemberAction::Suppress => stand(&mut profile, channel, command, AddressState::Suppressed),
        MemberAction::Restore => stand(&mut profile, channel, command, AddressState::Active),
        MemberAction::AddAddress => {
            let address =
                command.address.clone().ok_or_else(|| invalid("address", "missing; this action needs one"))?;
            let known = profile.addresses.entry(channel).or_default();
            // What the channel itself has just shown to us is alive, whatever was said of it before.
            let heard = known.iter().find(|a| a.address == address).and_then(|a| a.heard);
            known.retain(|a| a.address != address);
            known.insert(0, Address { heard, ..Address::active(address, command.at) });
            known.truncate(MAX_ADDRESSES);
        }
        MemberAction::RemoveAddress => {
            if let Some(known) = profile.addresses.get_mut(&channel) {
                known.retain(|a| Some(&a.address) != command.address.as_ref());
            }
        }
        MemberAction::Heard => {
            for address in named(&mut profile, channel, command) {
                address.heard = Some(command.at);
                address.missed = 0;
                if address.state == AddressState::Quarantined {
                    (address.state, address.since) = (AddressState::Active, command.at);
                }
            }
        }
        MemberAction::Missed => {
            for address in named(&mut profile, channel, command).filter(|a| a.state == AddressState::Active) {
                address.missed += 1;
                if address.missed >= QUARANTINE_AFTER {
                    address.state = AddressState::Quarantined;
                    address.reason = command.reason.clone().unwrap_or_default();
                    address.since = command.at;
                }
            }
        }
        MemberAction::Upsert | MemberAction::Delete => {}
    }
    Ok(Some(profile))
}

/// The address that the command names, if the profile has it.
fn named<'a>(
    profile: &'a mut Profile,
    channel: Channel,
    command: &'a MemberCommand,
) -> impl Iterator<Item = &'a mut Address> {
    let known = profile.addresses.get_mut(&channel).into_iter().flatten();
    known.filter(|a| Some(&a.address) == command.address.as_ref())
}

/// Sets the state of the address that the command names.
fn stand(profile: &mut Profile, channel: Channel, command: &MemberCommand, state: AddressState) {
    for address in named(profile, channel, command) {
        address.state = state;
        address.reason = command.reason.clone().unwrap_or_default();
        address.since = command.at;
        address.missed = 0;
    }
}

fn patched(mut profile: Profile, patch: Patch, at: Timestamp) -> Profile {
    for (channel, addresses) in patch.addresses {
        let known = profile.addresses.remove(&channel).unwrap_or_default();
        // An address that is known keeps its state: a nightly upload must not revive what a provider declared dead.
        let stays = |address: &String| known.iter().find(|a| a.address == *address).cloned();
        let list: Vec<_> = addresses.into_iter().map(|a| stays(&a).unwrap_or_else(|| Address::active(a, at))).collect();
        if !list.is_empty() {
            profile.addresses.insert(channel, list);
        }
    }
    if let Some(locale) = patch.locale {
        profile.locale = locale;
    }
    if let Some(zone) = patch.time_zone {
        profile.time_zone = zone;
    }
    if let Some(channels) = patch.channels {
        profile.channels = channels.unwrap_or_default();
    }
    for (channel, choice) in patch.opt_ins {
        match choice {
            Some(choice) => profile.opt_ins.insert(channel, choice),
            None => profile.opt_ins.remove(&channel),
        };
    }
    for (name, value) in patch.attributes {
        if value.is_null() {
            profile.attributes.remove(&name);
        } else {
            profile.attributes.insert(name, value);
        }
    }
    profile
}
