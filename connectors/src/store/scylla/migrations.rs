//! Migrations: the files of `infra/cql`, applied in order, each once, recorded in the table `schema_migrations`.
//! Several processes may migrate at once. A file that was applied must never change: its checksum is compared.

use super::{ScyllaStore, errors};
use crate::store::{Store, StoreError};
use bellwether_schemas::{
    Timestamp, row,
    rows::{Row, Write},
};
use scylla::{
    client::session::Session,
    policies::load_balancing::{LoadBalancingPolicy, NodeIdentifier, SingleTargetLoadBalancingPolicy},
    statement::Statement,
};
use sha1::{Digest, Sha1};
use std::{
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use uuid::Uuid;

row! {
    /// A migration that was applied, or the claim of whoever is migrating.
    MigrationRow in "schema_migrations" {
        partition {
            /// Name of the file, or [`CLAIM`].
            name: String,
        }
        clustering {}
        columns {
            /// Of the file as it was applied; of a claim, who holds it.
            checksum: String,
            /// When its last statement had passed; of a claim, when it was made.
            applied_at: Timestamp,
        }
    }
}

/// As [`MigrationRow`]; it has to be there before any migration.
const TABLE: &str = "CREATE TABLE IF NOT EXISTS schema_migrations (name text PRIMARY KEY, checksum text, applied_at timestamp) \
                     WITH comment = 'Files of infra/cql that were applied to this keyspace.'";

/// Name of the row that one process holds while it migrates.
const CLAIM: &str = "(claim)";
/// How long a claim holds, should its owner die. All statements are idempotent, so an owner that is merely slow does no harm.
const CLAIM_TTL: Duration = Duration::from_secs(120);
/// How long to wait for another process's migration, and how often to look.
const WAIT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(250);
/// A change of the schema involves every node.
const DEFINE_TIMEOUT: Duration = Duration::from_secs(60);

/// One file of `infra/cql`.
struct Migration {
    name: &'static str,
    text: &'static str,
}

/// In the order of application. A test compares the list with the folder.
const ALL: &[Migration] = &[
    Migration { name: "0001_tables.cql", text: include_str!("../../../../infra/cql/0001_tables.cql") },
    Migration { name: "0002_addresses.cql", text: include_str!("../../../../infra/cql/0002_addresses.cql") },
    Migration { name: "0003_suppressions.cql", text: include_str!("../../../../infra/cql/0003_suppressions.cql") },
    Migration { name: "0004_consents.cql", text: include_str!("../../../../infra/cql/0004_consents.cql") },
    Migration { name: "0005_erased.cql", text: include_str!("../../../../infra/cql/0005_erased.cql") },
    Migration { name: "0006_attributes.cql", text: include_str!("../../../../infra/cql/0006_attributes.cql") },
    Migration { name: "0007_preferences.cql", text: include_str!("../../../../infra/cql/0007_preferences.cql") },
];

impl Migration {
    /// SHA-1 of the text with Unix line ends: it notices edits, and guards against nobody.
    fn checksum(&self) -> String {
        let digest = Sha1::digest(self.text.replace("\r\n", "\n").as_bytes());
        digest.iter().fold(String::from("sha1:"), |mut text, byte| {
            // Writing to a string cannot fail.
            write!(text, "{byte:02x}").unwrap_or_default();
            text
        })
    }
}

/// Splits a file at its semicolons. Comments (`--`, `//`, `/* */`) are dropped; quoted text stays as it is.
fn statements(text: &str) -> Vec<String> {
    let (mut found, mut current, mut rest) = (Vec::new(), String::new(), text);
    while let Some(first) = rest.chars().next() {
        let through = |mark: &str, from: usize| rest[from..].find(mark).map_or(rest.len(), |at| from + at + mark.len());
        let (length, keep) = match first {
            '\'' => (through("'", 1), true),
            '"' => (through("\"", 1), true),
            _ if rest.starts_with("--") || rest.starts_with("//") => (through("\n", 2), false),
            _ if rest.starts_with("/*") => (through("*/", 2), false),
            other => (other.len_utf8(), true),
        };
        match &rest[..length] {
            ";" => found.push(std::mem::take(&mut current)),
            part if keep => current.push_str(part),
            _ => current.push('\n'),
        }
        rest = &rest[length..];
    }
    found.push(current);
    found.into_iter().map(|statement| statement.trim().to_owned()).filter(|statement| !statement.is_empty()).collect()
}

/// Which migrations are not applied, in order.
///
/// # Errors
/// One was changed after it was applied; or `schema_migrations` is missing ([`StoreError::Schema`]).
async fn pending(store: &ScyllaStore) -> Result<Vec<&'static Migration>, StoreError> {
    let reads: Vec<_> = ALL.iter().map(|migration| MigrationRow::read_one(migration.name)).collect();
    let mut pending = Vec::new();
    for (migration, rows) in ALL.iter().zip(store.read(&reads).await?) {
        match rows.into_iter().next().map(MigrationRow::from_cells).transpose()? {
            None => pending.push(migration),
            Some(row) if row.checksum == migration.checksum() => {}
            Some(_) => {
                let name = migration.name;
                return Err(StoreError::Refused(format!(
                    "migration {name} is not what was applied to this keyspace: restore the file, and put the change into a new one"
                )));
            }
        }
    }
    Ok(pending)
}

/// Refuses a keyspace that lacks a migration.
pub(super) async fn verify(store: &ScyllaStore) -> Result<(), StoreError> {
    match pending(store).await?.first() {
        None => Ok(()),
        Some(migration) => Err(StoreError::Schema(format!("migration {} is not applied", migration.name))),
    }
}

/// Applies what is missing, unless another process does; returns the names of what was applied here.
/// `replication` is the CQL map for a keyspace that is made now.
pub(super) async fn run(store: &ScyllaStore, session: Session, replication: &str) -> Result<Vec<String>, StoreError> {
    let schema = Schema::open(session, &store.config.keyspace, replication).await?;
    let began = Instant::now();
    // Nothing in CQL can be waited for but time.
    let mut look = tokio::time::interval(LOOK);
    while !pending(store).await?.is_empty() {
        look.tick().await;
        let claimed = match claim(store).await {
            // Under contention the server may give up. A claim that was made all the same ends by itself.
            Err(error) if error.is_transient() => false,
            claimed => claimed?,
        };
        if claimed {
            let outcome = apply(store, &schema).await;
            // A claim that stays only delays the next process until its TTL ends.
            let release = Write::Delete { table: MigrationRow::TABLE, key: MigrationRow::key(CLAIM), fence: None };
            let released = store.write(vec![release]).await;
            return outcome.and_then(|names| released.map(|()| names));
        }
        if began.elapsed() > WAIT {
            return Err(StoreError::Unavailable("another process is migrating, and does not end".into()));
        }
    }
    Ok(Vec::new())
}

/// Whether we are the one to migrate now.
async fn claim(store: &ScyllaStore) -> Result<bool, StoreError> {
    let row = MigrationRow { name: CLAIM.into(), checksum: Uuid::new_v4().to_string(), applied_at: now() };
    let mut cells = row.into_cells();
    cells.ttl = Some(CLAIM_TTL);
    Ok(store.insert_if_absent(cells).await?.is_none())
}

/// Applies what is missing. What another process records meanwhile (its claim having ended under it) is not counted as ours.
async fn apply(store: &ScyllaStore, schema: &Schema) -> Result<Vec<String>, StoreError> {
    let mut applied = Vec::new();
    for migration in pending(store).await? {
        for statement in statements(migration.text) {
            let defined = schema.define(&format!("migration {}", migration.name), &statement).await;
            // A column cannot be added "if not exists" everywhere; whoever began before us may have added it.
            if defined.is_err() && !schema.has_added(&store.config.keyspace, &statement).await {
                return defined.map(|()| applied);
            }
        }
        let row = MigrationRow { name: migration.name.into(), checksum: migration.checksum(), applied_at: now() };
        if store.insert_if_absent(row.into_cells()).await?.is_none() {
            applied.push(migration.name.to_owned());
        }
    }
    Ok(applied)
}

/// Table and column of a statement that adds one.
fn added(statement: &str) -> Option<(&str, &str)> {
    let (table, column) = statement.strip_prefix("ALTER TABLE ")?.split_once(" ADD ")?;
    Some((table, column.split_once(' ')?.0))
}

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

/// A session for changes of the schema: it has a current keyspace, so that the files need not name it.
struct Schema {
    session: Session,
    /// The node that every process sends its changes to, as long as it is up: before version 5.1, Cassandra has no consensus on the
    /// schema, and two nodes may make the same table twice with different ids.
    node: Arc<dyn LoadBalancingPolicy>,
}

impl Schema {
    /// Makes the keyspace and the table of migrations, where they are missing.
    async fn open(session: Session, keyspace: &str, replication: &str) -> Result<Self, StoreError> {
        let state = session.get_cluster_state();
        let node = state.get_nodes_info().iter().filter(|node| node.is_connected()).min_by_key(|node| node.host_id);
        let node = node.ok_or_else(|| StoreError::Unavailable("no node is connected".into()))?.host_id;
        let node = SingleTargetLoadBalancingPolicy::new(NodeIdentifier::HostId(node), None);
        let schema = Self { session, node };
        // A role may be allowed to make tables but no keyspaces: ask first.
        if schema.session.get_cluster_state().get_keyspace(keyspace).is_none() {
            let text = format!("CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" WITH replication = {replication}");
            schema.define(&format!("keyspace {keyspace}"), &text).await?;
        }
        let used = schema.session.use_keyspace(keyspace, true).await;
        used.map_err(|error| errors::define(&format!("keyspace {keyspace}"), &error.into()))?;
        schema.define("table schema_migrations", TABLE).await?;
        Ok(schema)
    }

    /// Runs one statement that changes the schema; the driver then waits until all nodes agree on it.
    async fn define(&self, what: &str, text: &str) -> Result<(), StoreError> {
        let mut statement = Statement::new(text);
        statement.set_load_balancing_policy(Some(Arc::clone(&self.node)));
        statement.set_request_timeout(Some(DEFINE_TIMEOUT));
        self.session.query_unpaged(statement, ()).await.map_err(|error| errors::define(what, &error))?;
        Ok(())
    }

    /// Whether the statement adds a column that is there.
    async fn has_added(&self, keyspace: &str, statement: &str) -> bool {
        const COLUMN: &str =
            "SELECT type FROM system_schema.columns WHERE keyspace_name = ? AND table_name = ? AND column_name = ?";
        let Some((table, column)) = added(statement) else { return false };
        let mut asked = Statement::new(COLUMN);
        asked.set_load_balancing_policy(Some(Arc::clone(&self.node)));
        let found = self.session.query_unpaged(asked, (keyspace, table, column)).await;
        found.is_ok_and(|found| found.into_rows_result().is_ok_and(|rows| rows.rows_num() > 0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::cql;
    use super::*;
    use bellwether_schemas::tables;
    use std::collections::BTreeMap;

    #[test]
    fn the_list_names_every_file_of_the_folder_in_order() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/cql");
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ALL.iter().map(|migration| migration.name).collect::<Vec<_>>());
    }

    #[test]
    fn files_are_split_at_semicolons_outside_of_comments_and_quotes() {
        let text = "-- one; no\nCREATE a;// two;\n/* three; */ CREATE 'b;''--' \"c;\"\n;\n";
        assert_eq!(statements(text), ["CREATE a", "CREATE 'b;''--' \"c;\""]);
        assert!(statements(" \n-- nothing").is_empty());
    }

    #[test]
    fn the_checksum_does_not_depend_on_the_line_ends_of_a_checkout() {
        let (unix, dos) = (Migration { name: "a", text: "a\nb" }, Migration { name: "a", text: "a\r\nb" });
        assert_eq!(unix.checksum(), dos.checksum());
        assert_ne!(unix.checksum(), Migration { name: "a", text: "a b" }.checksum());
        assert_eq!(unix.checksum().len(), "sha1:".len() + 40);
    }

    /// Name, columns with types, partition key and clustering key of a CREATE TABLE statement as the files write it.
    type Definition = (String, BTreeMap<String, String>, Vec<String>, Vec<String>);

    fn definition(statement: &str) -> Definition {
        let words = |list: &str| list.split(',').map(|word| word.trim().to_owned()).filter(|w| !w.is_empty()).collect();
        let (head, rest) = statement.split_once('(').unwrap();
        let name = head.strip_prefix("CREATE TABLE IF NOT EXISTS").expect("idempotent").trim().to_owned();
        let (columns, key) = rest.split_once("PRIMARY KEY ((").unwrap();
        let (partition, key) = key.split_once(')').unwrap();
        let (clustering, _) = key.split_once(')').unwrap();
        let columns = columns.split(',').filter_map(|column| {
            column.trim().split_once(' ').map(|(name, kind)| (name.to_owned(), kind.trim().to_owned()))
        });
        (name, columns.collect(), words(partition), words(clustering))
    }

    #[test]
    fn the_files_define_the_tables_that_the_schemas_name() {
        let statements: Vec<_> = ALL.iter().flat_map(|migration| statements(migration.text)).collect();
        let mut defined: BTreeMap<_, _> = statements
            .iter()
            .filter(|statement| statement.starts_with("CREATE TABLE"))
            .map(|statement| {
                assert!(statement.contains("comment = '"), "no comment: {statement}");
                let (name, columns, partition, clustering) = definition(statement);
                (name, (columns, partition, clustering))
            })
            .collect();
        for statement in statements.iter().filter(|statement| !statement.starts_with("CREATE TABLE")) {
            let (table, column) = added(statement).unwrap();
            let (_, kind) = statement.rsplit_once(' ').unwrap();
            defined.get_mut(table).unwrap().0.insert(column.into(), kind.into());
        }
        let names = |columns: &[(&str, _)]| columns.iter().map(|(name, _)| (*name).to_owned()).collect::<Vec<_>>();
        let wanted: BTreeMap<_, _> = tables::all()
            .into_iter()
            .map(|table| {
                let columns = cql::columns(table).map(|(name, kind)| (name.into(), cql::type_name(kind).into()));
                (table.name.to_owned(), (columns.collect(), names(table.partition), names(table.clustering)))
            })
            .collect();
        assert_eq!(defined, wanted);
    }

    #[test]
    fn fenced_tables_have_no_compaction_by_time() {
        let statements = ALL.iter().flat_map(|migration| statements(migration.text));
        for statement in statements.filter(|statement| added(statement).is_none()) {
            let fenced = tables::named(&definition(&statement).0).unwrap().fenced;
            assert!(!(fenced && statement.contains("TimeWindow")), "{statement}");
        }
    }
}
