//! Erasing a member: which rows are theirs, what goes, and the mark that stays so that nothing old makes them again.
//! What stays says when, and of whom only under a name that nobody finds without a key; the key is the house's ([`Marks`]).

use crate::{
    caps::History,
    processor::{Facts, Output},
};
use bellwether_schemas::{
    NotificationId, Position,
    records::MemberCommand,
    rows::{BadRow, Cells, Read, Row, Write},
    tables::{CLAIM, ConsentRow, ErasedRow, FALLBACK, MemberRow, SENT, StoryRow},
};
use std::{collections::BTreeSet, fmt::Debug};

/// Names the marks of members who were erased.
pub trait Marks: Debug + Send + Sync {
    /// The name of a member's mark: always the same, and of no other member. Who has neither the key nor the id learns nothing from it.
    fn mark_of(&self, project: &str, member: &str) -> String;
}

/// Reads the member's mark.
pub(crate) fn mark(marks: &dyn Marks, command: &MemberCommand) -> Read {
    let name = marks.mark_of(&command.project, &command.member);
    ErasedRow::read_one(command.project.as_str(), name)
}

/// Reads what is kept of the member, in two rounds: their own partitions name the notifications whose stories they are in.
pub(crate) fn kept(command: &MemberCommand, facts: &Facts) -> Vec<Read> {
    let mut reads = vec![own(command), ledger(command)];
    // What cannot be read is refused by `erase`.
    let told = notifications(command, facts).unwrap_or_default();
    reads.extend(told.into_iter().map(story));
    reads
}

/// Whether the member was erased since the command was given: then it is about somebody who is not there any more. By the offset, because a
/// redelivery is older; by the time, because a replayed dead letter is younger on the log than it is.
pub(crate) fn is_outlived(
    command: &MemberCommand,
    offset: i64,
    marks: &dyn Marks,
    facts: &Facts,
) -> Result<bool, BadRow> {
    let erased = facts.one::<ErasedRow>(&mark(marks, command))?;
    Ok(erased.is_some_and(|erased| offset <= erased.applied || command.at < erased.at))
}

/// Leaves the mark, then takes away all that was read. Stories go before the rows that name them, so that whoever does it again finds what is
/// left.
pub(crate) fn erase(
    command: &MemberCommand,
    position: Position,
    offset: i64,
    marks: &dyn Marks,
    facts: &Facts,
) -> Result<Output, BadRow> {
    let row = ErasedRow {
        project: command.project.clone(),
        mark: marks.mark_of(&command.project, &command.member),
        at: command.at,
        applied: offset,
    };
    let mut rows = vec![row.put_fenced(position.offset + 1)];
    for notification in notifications(command, facts)? {
        for line in facts.cells(&story(notification)) {
            let told = StoryRow::from_cells(line.clone())?;
            if told.project == command.project && told.member == command.member {
                rows.push(gone(line));
            }
        }
    }
    let after = [own(command), ledger(command)].iter().flat_map(|read| facts.cells(read)).map(gone).collect();
    Ok(Output { rows, after, ..Output::default() })
}

/// The member's partition.
fn own(command: &MemberCommand) -> Read {
    MemberRow::read_all(command.project.as_str(), command.member.as_str())
}

/// The member's ledger.
fn ledger(command: &MemberCommand) -> Read {
    ConsentRow::read_all(command.project.as_str(), command.member.as_str())
}

/// A row's deletion. The rows of a member's partition are fenced by offsets of several topics, so each goes by its own fence.
fn gone(cells: &Cells) -> Write {
    Write::Delete { table: cells.table, key: cells.key.clone(), fence: cells.fence }
}

fn story(notification: NotificationId) -> Read {
    StoryRow::read_all(notification.0)
}

/// The notifications that the member's partition names.
fn notifications(command: &MemberCommand, facts: &Facts) -> Result<BTreeSet<NotificationId>, BadRow> {
    let rows = facts.rows::<MemberRow>(&own(command))?;
    Ok(rows.iter().flat_map(named_by).collect())
}

/// The notifications that a row of a member's partition names: by its id (a claim's has its round behind it), or as what was sent lately. A
/// history that cannot be read names none: it must not keep its member from being erased.
#[must_use]
pub fn named_by(row: &MemberRow) -> Vec<NotificationId> {
    match row.kind.as_str() {
        CLAIM | FALLBACK => row.id.split('/').next().and_then(|id| id.parse().ok()).into_iter().collect(),
        SENT => {
            let history: Option<History> = row.kept().ok();
            history.unwrap_or_default().0.into_iter().map(|sent| sent.id).collect()
        }
        _ => Vec::new(),
    }
}
