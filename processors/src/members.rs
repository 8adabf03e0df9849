//! Applies commands to member profiles. One member's commands are serial, so the stored profile is the fold of its commands.
//!
//! Whether an address may be used is said by the list of suppressions, which knows addresses and no members. Each address of a profile carries a
//! copy of what the list says, so that route reads the member alone; this processor keeps both. What members consent to is said by the ledger of
//! [`consent`], to which it adds; the profile's opt-ins are that ledger's fold.

mod index;
mod merge;

use self::index::{Indexed, indexed};
use crate::{
    consent,
    definitions::Projects,
    erasure::{self, Marks},
    processor::{Facts, Incoming, Output, Processor, Refusal},
};
use bellwether_schemas::{
    Channel, Timestamp,
    ids::EntryId,
    member::{Address, AddressState, ByCategory, Patch, Profile},
    records::{Event, MemberAction, MemberCommand, Reason, Record},
    rows::{Read, Row, Write},
    tables::{AddressRow, MemberRow, PROFILE, SuppressionRow, shard_of},
};
use std::{cmp::Ordering, collections::BTreeMap, sync::Arc, time::Duration};

/// Addresses of one channel that a member may have; the oldest goes first.
pub const MAX_ADDRESSES: usize = 20;
/// So many misses in a row, within [`QUARANTINE_WITHIN`], put an address into quarantine.
pub const QUARANTINE_AFTER: usize = 3;
/// A miss that is older than this counts no more: a mailbox that is full once a season is in use.
pub const QUARANTINE_WITHIN: Duration = Duration::from_secs(30 * 24 * 3_600);
/// Members who share an address and are told of a change of the list about it; whoever shares it beyond them learns it when they are sent to.
pub const MAX_SHARING: usize = 1_000;

/// The members processor.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Compiled definitions of every project.
    pub projects: Projects,
    /// Names the marks of erased members; nobody is erased without.
    pub marks: Option<Arc<dyn Marks>>,
}

impl Processor for Members {
    const NAME: &'static str = "members";
    /// An erasure reads the member's partition before it knows which stories to read.
    const ROUNDS: usize = 2;
    type Input = MemberCommand;

    fn needs(&self, incoming: &Incoming<MemberCommand>, facts: &Facts, _: Timestamp) -> Vec<Read> {
        let command = &incoming.input;
        let mut reads = vec![profile_of(command), merge::went(command)];
        if command.action == MemberAction::Erase {
            reads.extend(erasure::kept(command, facts));
        }
        if let Some(marks) = self.marks.as_deref().filter(|_| makes_members(command)) {
            reads.push(erasure::mark(marks, command));
        }
        if let Some((channel, address)) = listed(command) {
            reads.extend([listing(command, channel, address), sharing(command, channel, address)]);
        }
        // What cannot be read here is refused by `decide`.
        for (channel, address) in brought(command).unwrap_or_default() {
            reads.push(listing(command, channel, &address));
        }
        reads
    }

    fn decide(&self, incoming: &Incoming<MemberCommand>, facts: &Facts, _: Timestamp) -> Result<Output, Refusal> {
        let command = &incoming.input;
        let offset = i64::try_from(incoming.position.offset).unwrap_or(i64::MAX);
        let stored = facts.one::<MemberRow>(&profile_of(command))?;
        let known = stored.as_ref().map(Profile::from_row).transpose()?;
        let fence = incoming.position.offset + 1;
        let search = self.search(&command.project);
        let is_searched = |name: &str| search.iter().any(|searched| searched == name);
        let goes = matches!(command.action, MemberAction::Delete | MemberAction::Merge);
        // Of who goes, the rows of attributes go too that were searched by once.
        let before = indexed(known.as_ref(), |name| goes || is_searched(name));
        let seen = known.as_ref().map_or(-1, |p| p.applied).cmp(&offset);
        if seen == Ordering::Greater {
            // A redelivery of what is in the profile already.
            let announced = known.iter().flat_map(|known| asked_again(known, command)).collect();
            return Ok(Output { announced, ..Output::default() });
        }
        if command.action == MemberAction::Erase {
            return self.erased(incoming, offset, known.as_ref(), facts);
        }
        if let Some(marks) = self.marks.as_deref().filter(|_| makes_members(command))
            && erasure::is_outlived(command, offset, marks, facts)?
        {
            return Ok(Output::default());
        }
        let went = facts.one::<MemberRow>(&merge::went(command))?.filter(|_| known.is_none());
        if let Some(told) = went.as_ref().map(|row| merge::passed_on(command, row)).transpose()?.flatten() {
            return Ok(Output { records: vec![told], ..Output::default() });
        }
        let again = seen == Ordering::Equal;
        let (list, mut told) = on_the_list(command, facts, again)?;
        if command.action == MemberAction::Merge {
            // Who is not there has been handed over before.
            let Some(known) = &known else { return Ok(Output::default()) };
            told.push(merge::hand_over(command, known)?);
        }
        let mut rows: Vec<Write> = list.into_iter().collect();
        if again {
            // The profile was written, after all that goes with it; but what others changed since on the index and the list is to be as it says.
            // What was to go from the index may stay: whoever reads the index looks into the profile.
            rows.extend(before.iter().map(|entry| entry.put(command, fence)));
            let announced = known.iter().flat_map(|known| asked_again(known, command)).collect();
            return Ok(Output { rows, records: told, announced, ..Output::default() });
        }
        let profile = if goes {
            None
        } else {
            let double_opt_in = self.double_opt_in(&command.project);
            let Some(profile) = changed(known.clone(), command, facts, double_opt_in)? else {
                return Ok(Output { rows, records: told, ..Output::default() });
            };
            Some(Profile { applied: offset, updated_at: command.at, ..profile })
        };
        let after = indexed(profile.as_ref(), is_searched);
        // An attribute that is said again is put again: so an upload fills the index for a name that came to be searched by later.
        let said = if search.is_empty() { Patch::default() } else { patch_of(command)? }.attributes;
        let is_new = |entry: &&Indexed| !before.contains(*entry) || entry.is_attribute(|name| said.contains_key(name));
        rows.extend(after.iter().filter(is_new).map(|entry| entry.put(command, fence)));
        let lines = consent::lines(known.as_ref(), profile.as_ref(), command, incoming.position, offset);
        rows.extend(lines.into_iter().map(Row::put));
        let unconfirmed = profile.iter().flat_map(|profile| unconfirmed(profile, known.as_ref()));
        let announced = unconfirmed.map(|address| to_confirm(command, address)).collect();
        let mut last: Vec<Write> = before.difference(&after).map(|entry| entry.delete(command, fence)).collect();
        if command.action == MemberAction::Merge {
            last.push(merge::leaves(command, fence)?);
        } else if went.is_some() {
            last.push(merge::is_back(command, fence));
        }
        last.push(match profile {
            Some(profile) => profile.into_row(&command.project, &command.member).put_fenced(fence),
            None => no_profile(command, fence),
        });
        // The profile comes last: it says that the command was applied, so the ledger and the log must have it by then. But who asks for a
        // confirmation looks the address up there.
        Ok(Output { rows, records: told, after: last, announced, ..Output::default() })
    }
}

impl Members {
    /// Whether new e-mail addresses have to be confirmed. Members may be known before their project's definitions are.
    fn double_opt_in(&self, project: &str) -> bool {
        self.projects.get(project).is_some_and(|project| project.document.project.double_opt_in)
    }

    /// Names of the attributes by which members of a project are found.
    fn search(&self, project: &str) -> &[String] {
        self.projects.get(project).map_or(&[][..], |project| project.document.project.search.as_slice())
    }

    /// Takes away all that is kept of the member but the list of suppressions, which is about addresses.
    fn erased(
        &self,
        incoming: &Incoming<MemberCommand>,
        offset: i64,
        known: Option<&Profile>,
        facts: &Facts,
    ) -> Result<Output, Refusal> {
        let (command, fence) = (&incoming.input, incoming.position.offset + 1);
        let marks = self.marks.as_deref().ok_or_else(|| {
            let remedy = "set `erasure_key` in the configuration of this process, then replay";
            invalid("erasure_key", &format!("missing, so nothing can be erased; {remedy}"))
        })?;
        let mut output = erasure::erase(command, incoming.position, offset, marks, facts)?;
        output.after.extend(indexed(known, |_| true).iter().map(|entry| entry.delete(command, fence)));
        // Last, and by the fence of this command, so that no older one brings it back.
        output.after.push(no_profile(command, fence));
        Ok(output)
    }
}

/// Takes the profile away.
fn no_profile(command: &MemberCommand, fence: u64) -> Write {
    let key = MemberRow::key(command.project.as_str(), command.member.as_str(), PROFILE, "");
    Write::Delete { table: MemberRow::TABLE, key, fence: Some(fence) }
}

/// Addresses that are to be confirmed and were not before.
fn unconfirmed<'a>(profile: &'a Profile, known: Option<&'a Profile>) -> impl Iterator<Item = &'a Address> {
    let is_asked = move |channel: &Channel, address: &Address| {
        let known = known.and_then(|known| known.addresses.get(channel)).into_iter().flatten();
        known.filter(|known| known.state == AddressState::Unconfirmed).any(|known| known.address == address.address)
    };
    to_be_confirmed(profile).filter(move |(channel, address)| !is_asked(channel, address)).map(|(_, address)| address)
}

fn to_be_confirmed(profile: &Profile) -> impl Iterator<Item = (&Channel, &Address)> {
    let all = profile.addresses.iter().flat_map(|(channel, list)| list.iter().map(move |address| (channel, address)));
    all.filter(|(_, address)| address.state == AddressState::Unconfirmed)
}

/// What a redelivery asks for again, as nobody knows whether it was asked for: what the command brought and is not confirmed.
fn asked_again(known: &Profile, command: &MemberCommand) -> Vec<Record> {
    // A command that cannot be read was never applied.
    let brought = brought(command).unwrap_or_default();
    let is_brought = |channel: &Channel, address: &Address| {
        brought.iter().any(|(by, brought)| by == channel && *brought == address.address)
    };
    let again = to_be_confirmed(known).filter(|(channel, address)| is_brought(channel, address));
    again.map(|(_, address)| to_confirm(command, address)).collect()
}

/// The event by which a flow can send the letter that asks for the confirmation. Its id tells since when there is something to confirm, so that
/// to say it again says nothing new.
fn to_confirm(command: &MemberCommand, address: &Address) -> Record {
    let of = [&command.project, &command.member, &address.address].map(|part| part.as_bytes());
    let since = address.since.0.to_be_bytes();
    Record::Event(Event {
        project: command.project.clone(),
        id: EntryId::derive("unconfirmed", &[of[0], of[1], of[2], &since]).to_string(),
        source: "bellwether".into(),
        kind: Event::UNCONFIRMED.into(),
        subject: Some(command.member.clone()),
        time: command.at,
        accepted_at: command.at,
        data: serde_json::json!({ "address": address.address }).to_string(),
    })
}

/// The address about which the command changes the list: what the channel itself has just shown to us is alive, whatever was said of it before.
fn listed(command: &MemberCommand) -> Option<(Channel, &str)> {
    use MemberAction::{AddAddress, Restore, Suppress};
    matches!(command.action, Suppress | Restore | AddAddress).then_some(())?;
    Some((command.channel?, command.address.as_deref()?))
}

fn listing(command: &MemberCommand, channel: Channel, address: &str) -> Read {
    SuppressionRow::of(&command.project, channel, address)
}

fn sharing(command: &MemberCommand, channel: Channel, address: &str) -> Read {
    let all = AddressRow::read_all(command.project.as_str(), channel.name(), address);
    Read { limit: Some(MAX_SHARING), ..all }
}

/// What changes on the list of suppressions, and the commands by which the others who share the address take it over. Those change nothing on
/// the list any more, so they go no further. The first word about an address stands until it is lifted.
///
/// A redelivery says all of it again, because nobody knows how far the first one came.
fn on_the_list(command: &MemberCommand, facts: &Facts, again: bool) -> Result<(Option<Write>, Vec<Record>), Refusal> {
    let Some((channel, address)) = listed(command) else { return Ok((None, Vec::new())) };
    let row = facts.one::<SuppressionRow>(&listing(command, channel, address))?;
    let suppress = command.action == MemberAction::Suppress;
    let change = match row {
        None if suppress => Some(suppression(command, channel, address).put()),
        Some(row) if !suppress => {
            let key = SuppressionRow::key(row.project, row.channel, row.shard, row.address);
            Some(Write::Delete { table: SuppressionRow::TABLE, key, fence: None })
        }
        _ => None,
    };
    let mut told = Vec::new();
    if change.is_some() || again {
        let others = facts.rows::<AddressRow>(&sharing(command, channel, address))?.into_iter();
        let action = if suppress { MemberAction::Suppress } else { MemberAction::Restore };
        told.extend(
            others
                .map(|row| row.member)
                .filter(|member| *member != command.member)
                .map(|member| Record::Member(MemberCommand { member, action, ..command.clone() })),
        );
    }
    Ok((change, told))
}

/// The row by which the command lists an address.
fn suppression(command: &MemberCommand, channel: Channel, address: &str) -> SuppressionRow {
    SuppressionRow {
        project: command.project.clone(),
        channel: channel.name().into(),
        shard: shard_of(address),
        address: address.to_owned(),
        reason: command.reason.clone().unwrap_or_default(),
        source: command.actor.clone(),
        since: command.at,
    }
}

/// Whether the command makes a member who is not there. No other does.
const fn makes_members(command: &MemberCommand) -> bool {
    matches!(command.action, MemberAction::Upsert | MemberAction::Absorb)
}

/// The addresses that the command brings.
fn brought(command: &MemberCommand) -> Result<Vec<(Channel, String)>, Refusal> {
    let by_channel: BTreeMap<Channel, Vec<String>> = if command.action == MemberAction::Absorb {
        let profile = merge::coming(command)?;
        let names = |list: Vec<Address>| list.into_iter().map(|address| address.address).collect();
        profile.addresses.into_iter().map(|(channel, list)| (channel, names(list))).collect()
    } else {
        patch_of(command)?.addresses
    };
    Ok(by_channel.into_iter().flat_map(|(channel, list)| list.into_iter().map(move |it| (channel, it))).collect())
}

fn profile_of(command: &MemberCommand) -> Read {
    MemberRow::read_one(command.project.as_str(), command.member.as_str(), PROFILE, "")
}

fn invalid(field: &str, problem: &str) -> Refusal {
    Refusal::new(Reason::Invalid, format!("{field}: {problem}"))
}

/// What the command changes of the profile by a patch.
fn patch_of(command: &MemberCommand) -> Result<Patch, Refusal> {
    if !matches!(command.action, MemberAction::Upsert | MemberAction::Prefer) {
        return Ok(Patch::default());
    }
    let text = command.patch.as_deref().ok_or_else(|| invalid("patch", "missing; this action needs one"))?;
    serde_json::from_str(text).map_err(|e| invalid("patch", &e.to_string()))
}

/// The profile after the command; `None` where there is nobody to change.
fn changed(
    known: Option<Profile>,
    command: &MemberCommand,
    facts: &Facts,
    double_opt_in: bool,
) -> Result<Option<Profile>, Refusal> {
    if command.action == MemberAction::Upsert {
        let profile = known.unwrap_or_else(|| Profile { created_at: command.at, ..Profile::default() });
        return patched(profile, command, facts, double_opt_in).map(Some);
    }
    if command.action == MemberAction::Absorb {
        return merge::absorbed(known, command, facts).map(Some);
    }
    let Some(mut profile) = known else { return Ok(None) };
    if command.action == MemberAction::Prefer {
        return patched(profile, command, facts, double_opt_in).map(Some);
    }
    let channel = command.channel.ok_or_else(|| invalid("channel", "missing; this action needs one"))?;
    match command.action {
        MemberAction::OptIn | MemberAction::OptOut => {
            let said = Some(command.action == MemberAction::OptIn);
            consent::say(&mut profile.opt_ins, channel, consent::category_of(command), said);
        }
        MemberAction::Confirm => {
            for address in named(&mut profile, channel, command).filter(|a| a.state == AddressState::Unconfirmed) {
                *address = Address { heard: address.heard, ..Address::active(address.address.clone(), command.at) };
            }
        }
        MemberAction::Suppress => {
            let read = listing(command, channel, command.address.as_deref().unwrap_or_default());
            let listed = facts.one::<SuppressionRow>(&read)?;
            for address in named(&mut profile, channel, command) {
                let row = listed.clone().unwrap_or_else(|| suppression(command, channel, &address.address));
                *address = Address { heard: address.heard, ..copied(row) };
            }
        }
        MemberAction::Restore => {
            for address in named(&mut profile, channel, command) {
                *address = Address { heard: address.heard, ..Address::active(address.address.clone(), command.at) };
            }
        }
        MemberAction::AddAddress => {
            let address =
                command.address.clone().ok_or_else(|| invalid("address", "missing; this action needs one"))?;
            let known = profile.addresses.entry(channel).or_default();
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
                address.misses.clear();
                if address.state == AddressState::Quarantined {
                    (address.state, address.since) = (AddressState::Active, command.at);
                }
            }
        }
        MemberAction::Missed => {
            for address in named(&mut profile, channel, command).filter(|a| a.state == AddressState::Active) {
                address.misses.retain(|at| at.plus(QUARANTINE_WITHIN) > command.at);
                address.misses.push(command.at);
                if address.misses.len() >= QUARANTINE_AFTER {
                    address.state = AddressState::Quarantined;
                    address.reason = command.reason.clone().unwrap_or_default();
                    address.since = command.at;
                }
            }
        }
        MemberAction::Upsert
        | MemberAction::Delete
        | MemberAction::Erase
        | MemberAction::Merge
        | MemberAction::Absorb
        | MemberAction::Prefer => {}
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

/// The copy of what the list says, as a profile keeps it.
fn copied(row: SuppressionRow) -> Address {
    let SuppressionRow { address, reason, since, .. } = row;
    Address { state: AddressState::Suppressed, reason, ..Address::active(address, since) }
}

fn patched(
    mut profile: Profile,
    command: &MemberCommand,
    facts: &Facts,
    double_opt_in: bool,
) -> Result<Profile, Refusal> {
    let patch = patch_of(command)?;
    for (channel, statements) in patch.opt_ins {
        for (category, said) in statements.statements() {
            consent::say(&mut profile.opt_ins, channel, category, said);
        }
    }
    let wanted = profile.opt_ins.get(&Channel::Email).is_some_and(ByCategory::wants_any);
    let to_confirm = |channel| double_opt_in && channel == Channel::Email && wanted;
    for (channel, addresses) in patch.addresses {
        let known = profile.addresses.remove(&channel).unwrap_or_default();
        // An address that is known keeps its state: a nightly upload must not revive what a provider declared dead. Nor is it forgotten with the
        // member: one that is new here is as the list says.
        let mut list = Vec::with_capacity(addresses.len());
        for address in addresses {
            let known = known.iter().find(|a| a.address == address).cloned();
            list.push(match (known, facts.one::<SuppressionRow>(&listing(command, channel, &address))?) {
                (Some(known), _) => known,
                (None, Some(row)) => copied(row),
                (None, None) if to_confirm(channel) => Address {
                    state: AddressState::Unconfirmed,
                    reason: "not confirmed yet".into(),
                    ..Address::active(address, command.at)
                },
                (None, None) => Address::active(address, command.at),
            });
        }
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
    if let Some(hours) = patch.quiet_hours {
        profile.quiet_hours = hours;
    }
    if let Some(channels) = patch.channels {
        profile.channels = channels.unwrap_or_default();
    }
    for (name, value) in patch.attributes {
        if value.is_null() {
            profile.attributes.remove(&name);
        } else {
            profile.attributes.insert(name, value);
        }
    }
    Ok(profile)
}
