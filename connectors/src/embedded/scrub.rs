//! Takes out of the database's files what was deleted or overwritten: an LSM tree only ever adds, and its journal is a file that goes when it is full.

use super::EmbeddedError;
use fjall::{Database, Error, Keyspace, KeyspaceCreateOptions};
use openssl::rand::rand_bytes;

/// fjall begins a new journal at the first flush after the old one has more bytes than this (`worker_tick`), and not otherwise.
const JOURNAL_BYTES: usize = 64_000_000;
/// Bytes that are written at once to fill it.
const PIECE: usize = 1 << 20;
/// A keyspace that is there for no longer than its bytes take to be written.
const FILLER: &str = "filler";

/// Fills the journal, so that it is followed by a new one, flushes all that is in memory, and rewrites every table without what is not to be seen any
/// more. Blocks for as long as it takes to read and write the whole database; others may read and write meanwhile. Takes [`JOURNAL_BYTES`] of memory.
///
/// # Errors
/// The disk failed.
pub(super) fn scrub(database: &Database) -> Result<(), EmbeddedError> {
    let options =
        || KeyspaceCreateOptions::default().max_memtable_size(4 * JOURNAL_BYTES as u64).manual_journal_persist(true);
    let filler = database.keyspace(FILLER, options)?;
    // What can be compressed would fill nothing.
    let mut noise = vec![0; PIECE];
    rand_bytes(&mut noise).map_err(|error| Error::Io(error.into()))?;
    for n in 0..=JOURNAL_BYTES / PIECE {
        filler.insert(n.to_be_bytes(), &noise[..])?;
    }
    // This flush begins the new journal; the old one goes once everything that it holds is in tables.
    filler.rotate_memtable_and_wait()?;
    let names = database.list_keyspace_names().into_iter().filter(|name| &**name != FILLER);
    let keyspaces: Vec<Keyspace> =
        names.map(|name| database.keyspace(&name, KeyspaceCreateOptions::default)).collect::<Result<_, _>>()?;
    for keyspace in &keyspaces {
        keyspace.rotate_memtable_and_wait()?;
    }
    // Rotating has told the database that nobody reads what is older; only now may the tables forget it.
    for keyspace in &keyspaces {
        keyspace.major_compact()?;
    }
    // Each rotation lets go of versions that nobody reads, and with them of their files.
    filler.insert("last", "")?;
    filler.rotate_memtable_and_wait()?;
    database.delete_keyspace(filler)?;
    Ok(())
}
