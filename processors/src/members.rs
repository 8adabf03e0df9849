//! Applies commands to member profiles. One member's commands are serial, so the stored profile is the fold of its commands.

use crate::processor::{Facts, Incoming, Output, Processor, Refusal};
use bellwether_schemas::{
    Channel, Timestamp,
    member::{Address, AddressState, Patch, Profile},
    records::{MemberAction, MemberCommand, Reason},
    rows::{Read, Row, Write},
    tables::{MemberRow, PROFILE},
};

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
        if known.as_ref().is_some_and(|p| p.applied >= offset) {
            return Ok(Output::default()); // A redelivery of what is in the profile already.
        }
        let fence = incoming.position.offset + 1;
        let write = if command.action == MemberAction::Delete {
            let key = MemberRow::key(command.project.as_str(), command.member.as_str(), PROFILE, "");
            Write::Delete { table: MemberRow::TABLE, key, fence: Some(fence) }
        } else {
            let Some(mut profile) = changed(known, command)? else { return Ok(Output::default()) };
            profile.applied = offset;
            profile.updated_at = command.at;
            profile.into_row(&command.project, &command.member).put_fenced(fence)
        };
        Ok(Output { rows: vec![write], ..Output::default() })
    }
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
            known.retain(|a| a.address != address);
            known.insert(0, Address { address, state: AddressState::Active, reason: String::new(), since: command.at });
        }
        MemberAction::RemoveAddress => {
            if let Some(known) = profile.addresses.get_mut(&channel) {
                known.retain(|a| Some(&a.address) != command.address.as_ref());
            }
        }
        MemberAction::Upsert | MemberAction::Delete | MemberAction::Heard => {}
    }
    Ok(Some(profile))
}

/// Sets the state of the address that the command names.
fn stand(profile: &mut Profile, channel: Channel, command: &MemberCommand, state: AddressState) {
    let known = profile.addresses.get_mut(&channel).into_iter().flatten();
    for address in known.filter(|a| Some(&a.address) == command.address.as_ref()) {
        address.state = state;
        address.reason = command.reason.clone().unwrap_or_default();
        address.since = command.at;
    }
}

fn patched(mut profile: Profile, patch: Patch, at: Timestamp) -> Profile {
    for (channel, address) in [(Channel::Email, patch.email), (Channel::Sms, patch.phone)] {
        match address {
            None => {}
            Some(None) => drop(profile.addresses.remove(&channel)),
            // An address that is known keeps its state: a nightly upload must not revive what a provider declared dead.
            Some(Some(new)) if profile.addresses.get(&channel).is_some_and(|l| l.iter().any(|a| a.address == new)) => {}
            Some(Some(address)) => {
                let active = Address { address, state: AddressState::Active, reason: String::new(), since: at };
                profile.addresses.insert(channel, vec![active]);
            }
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
