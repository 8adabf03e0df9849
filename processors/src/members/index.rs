//! By what members are found: the rows of the tables `addresses` and `attributes` that belong to a profile.
//! Which rows those are, and how they are put and taken away; when, is the processor's matter.

use bellwether_schemas::{
    Channel,
    member::Profile,
    records::MemberCommand,
    rows::{Row, Write},
    tables::{AddressRow, AttributeRow, shard_of},
};
use std::collections::BTreeSet;

/// Something by which a member is found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Indexed {
    /// An address of a channel.
    Address(Channel, String),
    /// An attribute by name, with its value as [`AttributeRow::text_of`] writes it.
    Attribute(String, String),
}

/// All by which a profile is found: its addresses, and those of its attributes whose names are searched by.
pub(super) fn indexed(profile: Option<&Profile>, is_searched: impl Fn(&str) -> bool) -> BTreeSet<Indexed> {
    let Some(profile) = profile else { return BTreeSet::new() };
    let addresses = profile
        .addresses
        .iter()
        .flat_map(|(channel, list)| list.iter().map(|address| Indexed::Address(*channel, address.address.clone())));
    let attributes = profile.attributes.iter().filter(|(name, _)| is_searched(name));
    let attributes =
        attributes.filter_map(|(name, value)| Some(Indexed::Attribute(name.clone(), AttributeRow::text_of(value)?)));
    addresses.chain(attributes).collect()
}

impl Indexed {
    /// Whether it is an attribute of this name.
    pub(super) fn is_attribute(&self, is_named: impl Fn(&str) -> bool) -> bool {
        matches!(self, Self::Attribute(name, _) if is_named(name))
    }

    /// Says that the command's member is found by it.
    pub(super) fn put(&self, command: &MemberCommand, fence: u64) -> Write {
        let (project, member, since) = (command.project.clone(), command.member.clone(), command.at);
        match self.clone() {
            Self::Address(channel, address) => {
                AddressRow { project, channel: channel.name().into(), address, member, since }.put_fenced(fence)
            }
            Self::Attribute(name, value) => {
                AttributeRow { project, name, value, shard: shard_of(&member), member, since }.put_fenced(fence)
            }
        }
    }

    /// Says that the command's member is found by it no more.
    pub(super) fn delete(&self, command: &MemberCommand, fence: u64) -> Write {
        let (project, member) = (command.project.as_str(), command.member.as_str());
        let (table, key) = match self {
            Self::Address(channel, address) => {
                (AddressRow::TABLE, AddressRow::key(project, channel.name(), address.as_str(), member))
            }
            Self::Attribute(name, value) => {
                let key = AttributeRow::key(project, name.as_str(), value.as_str(), shard_of(member), member);
                (AttributeRow::TABLE, key)
            }
        };
        Write::Delete { table, key, fence: Some(fence) }
    }
}
