//! The store on ScyllaDB, Apache Cassandra or any other CQL store of protocol 4: real tables, typed columns, prepared statements.
//! It decides nothing about rows, and keeps none: every call goes to the cluster.
//!
//! What CQL adds to the contract of [`Store`]:
//! - Consistency is `LOCAL_QUORUM`, compare-and-set `LOCAL_SERIAL`.
//! - Tables without fence are written with the coordinator's clock. Two writes of one row by different coordinators within their clocks'
//!   difference may be ordered either way, so keep the servers on NTP.
//! - In a fenced table the fence is the cells' timestamp. Between calls, at equal fences, a delete wins over a put, and of two puts each
//!   column keeps the greater value; so one fence must not mean two things. (The same write twice is the same row.) The fence of a row
//!   that is deleted or expired is remembered for `gc_grace_seconds`, 10 days by default.
//! - `uuid` clustering columns are ordered by version first, then as bytes.
//! - Rows as read have no TTL; their fence is kept in a column of its own, `fence`.
//! - On ScyllaDB before 2025.4, compare-and-set needs a keyspace without tablets: make it by hand.
//! - The driver's traces (target `scylla`, level TRACE) show partition keys: leave them off in production.

mod cells;
mod checkpoint;
mod cql;
mod errors;
mod migrations;
mod statements;

use super::{Checkpoint, ScanPage, Store, StoreError, TokenRange};
use crate::secret::{Resolve as _, Secret};
use async_trait::async_trait;
use bellwether_schemas::rows::{Cells, Key, Read, Span, Table, Value, Write};
use cells::Bind;
use checkpoint::Position;
use futures::{StreamExt, stream::FuturesUnordered};
use scylla::{
    client::{
        execution_profile::ExecutionProfile,
        session::{OpenSsl010Config, Session},
        session_builder::SessionBuilder,
    },
    deserialize::row::ColumnIterator,
    response::{PagingState, query_result::QueryResult},
    statement::{
        Consistency, SerialConsistency,
        batch::{Batch, BatchType},
        prepared::PreparedStatement,
    },
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use statements::{Lazy, MAX_ROWS, Statements};
use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
    ops::ControlFlow,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tokio::sync::Semaphore;

/// Rows that the server sends at once.
const PAGE_ROWS: usize = 5_000;
/// Statements that fit into one batch (native protocol v4, section 4.1.7: a count of 16 bits).
const BATCH_STATEMENTS: usize = u16::MAX as usize;

/// How to reach the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScyllaConfig {
    /// Nodes to ask for the others, `host` or `host:port` (default port 9042).
    pub contact_points: Vec<String>,
    /// Keyspace: lower-case letters, digits and `_`, at most 48.
    pub keyspace: String,
    /// Copies of each row, when `migrate` makes the keyspace. Make it yourself for anything more special.
    #[serde(default = "one")]
    pub replication: u32,
    /// The datacenter to talk to, and, when the keyspace is made, to keep the copies in (`NetworkTopologyStrategy`; else `SimpleStrategy`).
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Role to log in as.
    #[serde(default)]
    pub username: Option<String>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// Encryption; none by default.
    #[serde(default)]
    pub tls: Option<ScyllaTls>,
    /// Requests in flight; more wait for their turn.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
    /// Milliseconds after which a request counts as failed.
    #[serde(default = "default_request_timeout_ms")]
    pub request_timeout_ms: u64,
}

/// Encryption of the connections. Files are PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScyllaTls {
    /// Whom to trust; the system's certificate authorities by default.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Our certificate, with its chain, where the server asks for one.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of our certificate.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// Whether a node's certificate must name its IP address (nodes are known by address, not by name). Its chain is verified in any case.
    #[serde(default = "yes")]
    pub verify_hostname: bool,
}

const fn one() -> u32 {
    1
}
const fn default_concurrency() -> u32 {
    128
}
const fn default_request_timeout_ms() -> u64 {
    10_000
}
const fn yes() -> bool {
    true
}

/// How often a migration that met a transient error begins again, and how long it waits before.
const MIGRATE_TRIES: u32 = 20;
const MIGRATE_PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

impl ScyllaConfig {
    /// Nodes and keyspace, and the defaults for everything else.
    #[must_use]
    pub fn new(contact_points: Vec<String>, keyspace: impl Into<String>) -> Self {
        Self {
            contact_points,
            keyspace: keyspace.into(),
            replication: one(),
            datacenter: None,
            username: None,
            password: None,
            tls: None,
            concurrency: default_concurrency(),
            request_timeout_ms: default_request_timeout_ms(),
        }
    }

    /// What is wrong with the configuration, without connecting.
    ///
    /// # Errors
    /// [`StoreError::Refused`], naming the field and what it takes.
    pub fn validate(&self) -> Result<(), StoreError> {
        let keyspace = self.keyspace.as_bytes();
        let word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'_';
        let datacenter = self.datacenter.as_deref().unwrap_or("default");
        let name = |c: char| c.is_alphanumeric() || "-_.: ".contains(c);
        let wrong = if self.contact_points.is_empty() {
            "contact_points: name at least one node"
        } else if !(1..=48).contains(&keyspace.len()) || !keyspace.iter().all(word) || !keyspace[0].is_ascii_lowercase()
        {
            "keyspace: 1 to 48 of a-z, 0-9 and _, a letter first"
        } else if self.replication == 0 {
            "replication: at least 1"
        } else if datacenter.is_empty() || !datacenter.chars().all(name) {
            "datacenter: letters, digits, - _ . : and space"
        } else if self.username.is_some() != self.password.is_some() {
            "username, password: give both or none"
        } else if self.tls.as_ref().is_some_and(|tls| tls.certificate.is_some() != tls.key.is_some()) {
            "tls.certificate, tls.key: give both or none"
        } else if !(1..=30_000).contains(&self.concurrency) {
            "concurrency: 1 to 30000"
        } else if self.request_timeout_ms == 0 {
            "request_timeout_ms: at least 1"
        } else {
            return Ok(());
        };
        Err(StoreError::Refused(wrong.into()))
    }

    /// The replication of a keyspace that we make, as a CQL map.
    fn replication(&self) -> String {
        match &self.datacenter {
            Some(datacenter) => format!("{{'class': 'NetworkTopologyStrategy', '{datacenter}': {}}}", self.replication),
            None => format!("{{'class': 'SimpleStrategy', 'replication_factor': {}}}", self.replication),
        }
    }

    async fn connect(&self) -> Result<Session, StoreError> {
        let profile = ExecutionProfile::builder()
            .consistency(Consistency::LocalQuorum)
            .serial_consistency(Some(SerialConsistency::LocalSerial))
            .request_timeout(Some(Duration::from_millis(self.request_timeout_ms)))
            .build();
        let mut builder = SessionBuilder::new()
            .known_nodes(&self.contact_points)
            .default_execution_profile_handle(profile.into_handle())
            // What routing needs, and no more.
            .keyspaces_to_fetch([&self.keyspace])
            .fetch_full_schema_metadata(false);
        if let Some(datacenter) = &self.datacenter {
            builder = builder.prefer_datacenter(datacenter.clone());
        }
        if let (Some(username), Some(password)) = (&self.username, &self.password) {
            let password = password.resolve().map_err(|error| StoreError::Refused(format!("password: {error}")))?;
            builder = builder.user(username, password.expose_secret());
        }
        if let Some(tls) = &self.tls {
            builder = builder.tls_context(Some(tls.context()?));
        }
        builder.build().await.map_err(|error| errors::connect(&error))
    }
}

impl ScyllaTls {
    fn context(&self) -> Result<OpenSsl010Config, StoreError> {
        use openssl::ssl::{SslConnector, SslFiletype, SslMethod, SslVerifyMode};
        /// OpenSSL's `X509_V_ERR_IP_ADDRESS_MISMATCH`.
        const IP_ADDRESS_MISMATCH: i32 = 64;
        let wrong = |field: &'static str| {
            move |error: openssl::error::ErrorStack| {
                StoreError::Refused(format!("tls.{field}: no usable PEM file: {error}"))
            }
        };
        let mut context = SslConnector::builder(SslMethod::tls_client()).map_err(wrong("ca"))?;
        if let Some(ca) = &self.ca {
            // Trust these and nobody else.
            let mut store = openssl::x509::store::X509StoreBuilder::new().map_err(wrong("ca"))?;
            let pem =
                std::fs::read(ca).map_err(|error| StoreError::Refused(format!("tls.ca {}: {error}", ca.display())))?;
            let certificates = openssl::x509::X509::stack_from_pem(&pem).map_err(wrong("ca"))?;
            if certificates.is_empty() {
                return Err(StoreError::Refused(format!("tls.ca {}: has no certificate (PEM)", ca.display())));
            }
            for certificate in certificates {
                store.add_cert(certificate).map_err(wrong("ca"))?;
            }
            context.set_cert_store(store.build());
        }
        if let (Some(certificate), Some(key)) = (&self.certificate, &self.key) {
            context.set_certificate_chain_file(certificate).map_err(wrong("certificate"))?;
            context.set_private_key_file(key, SslFiletype::PEM).map_err(wrong("key"))?;
            context.check_private_key().map_err(wrong("key"))?;
        }
        if !self.verify_hostname {
            // The driver always asks for the address; this lets that one finding pass.
            context.set_verify_callback(SslVerifyMode::PEER, |verified, chain| {
                verified || chain.error().as_raw() == IP_ADDRESS_MISMATCH
            });
        }
        Ok(OpenSsl010Config::new(context))
    }
}

/// The store on a CQL cluster. The driver keeps the connections, and opens them again when a node comes back.
pub struct ScyllaStore {
    config: ScyllaConfig,
    session: Session,
    statements: HashMap<&'static str, Statements>,
    /// One permit a request in flight.
    permits: Semaphore,
}

/// Shows no credentials.
impl fmt::Debug for ScyllaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ScyllaConfig { contact_points, keyspace, .. } = &self.config;
        f.debug_struct("ScyllaStore")
            .field("contact_points", contact_points)
            .field("keyspace", keyspace)
            .finish_non_exhaustive()
    }
}

impl ScyllaStore {
    /// Opens the connections. Tables, even the keyspace, may still be missing: see [`Store::migrate`] and [`Store::ping`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if no contact point answers; [`StoreError::Refused`] if the configuration is wrong or the password is.
    pub async fn connect(config: ScyllaConfig) -> Result<Arc<Self>, StoreError> {
        config.validate()?;
        let session = config.connect().await?;
        let statements = statements::all(&config.keyspace);
        let permits = Semaphore::new(config.concurrency as usize);
        Ok(Arc::new(Self { config, session, statements, permits }))
    }

    fn of(&self, table: &str) -> Result<&Statements, StoreError> {
        self.statements.get(table).ok_or_else(|| StoreError::Schema(format!("no table is named {table}")))
    }

    async fn execute(
        &self,
        table: &'static Table,
        statement: &PreparedStatement,
        values: &[Bind<'_>],
    ) -> Result<QueryResult, StoreError> {
        let _permit = self.permit().await?;
        self.session.execute_unpaged(statement, values).await.map_err(|error| errors::execute(table.name, &error))
    }

    async fn permit(&self) -> Result<tokio::sync::SemaphorePermit<'_>, StoreError> {
        self.permits.acquire().await.map_err(|_| StoreError::Unavailable("the store is closed".into()))
    }

    /// Reads page after page until `limit` rows are there, handing every row to `take`.
    /// Returns whether there may be more.
    async fn pages(
        &self,
        table: &'static Table,
        statement: &PreparedStatement,
        values: &[Bind<'_>],
        limit: usize,
        mut take: impl FnMut(ColumnIterator<'_, '_>) -> Result<(), StoreError> + Send,
    ) -> Result<bool, StoreError> {
        let (mut taken, mut state) = (0, PagingState::start());
        loop {
            let _permit = self.permit().await?;
            let page = self.session.execute_single_page(statement, values, state).await;
            let (page, next) = page.map_err(|error| errors::execute(table.name, &error))?;
            taken += each_row(table, page, &mut take)?;
            match next.into_paging_control_flow() {
                ControlFlow::Break(()) => return Ok(false),
                ControlFlow::Continue(_) if taken >= limit => return Ok(true),
                ControlFlow::Continue(next) => state = next,
            }
        }
    }

    /// Rows of one partition by one of the statements that end with a limit.
    async fn select(
        &self,
        table: &'static Table,
        statement: &PreparedStatement,
        mut values: Vec<Bind<'_>>,
        limit: Option<usize>,
    ) -> Result<Vec<Cells>, StoreError> {
        let mut rows = Vec::new();
        // CQL's greatest limit is the same as none.
        values.push(Bind::Int(limit.and_then(|limit| i32::try_from(limit).ok()).unwrap_or(i32::MAX)));
        let take = |mut row: ColumnIterator<'_, '_>| {
            rows.push(cells::cells(table, &mut row)?);
            Ok(())
        };
        self.pages(table, statement, &values, usize::MAX, take).await?;
        Ok(rows)
    }

    async fn read_one(&self, read: &Read) -> Result<Vec<Cells>, StoreError> {
        let statements = self.of(read.table)?;
        let Some(Selection { statement, values, limit }) = selection(statements, read)? else { return Ok(Vec::new()) };
        self.select(statements.table, statement.get(&self.session).await?, values, limit).await
    }

    /// Answers reads that [`together`] found to go by one statement.
    async fn read_together(&self, reads: &[Read], asked: &[usize]) -> Result<Vec<Cells>, StoreError> {
        let &[first, _, ..] = asked else {
            return match asked {
                [one] => self.read_one(&reads[*one]).await,
                _ => Ok(Vec::new()),
            };
        };
        let statements = self.of(reads[first].table)?;
        let table = statements.table;
        cells::check_partition(table, &reads[first].partition)?;
        let mut values: Vec<_> = cells::binds(&reads[first].partition).collect();
        for at in asked {
            let Span::One(key) = &reads[*at].span else { continue };
            if key.len() != table.clustering.len() {
                return Err(cells::misfit(table, "clustering key", table.clustering.len(), key.len()));
            }
            cells::check_clustering(table, key)?;
            values.extend(cells::binds(key));
        }
        let statement = statements.rows(asked.len())?.get(&self.session).await?;
        self.select(table, statement, values, None).await
    }

    /// What follows a checkpoint among the rows of its token: the rest of its partition, then the partitions of equal token.
    /// At most `limit` rows. A partition that is gone since is taken to have been the first: rather a row twice than none.
    async fn rest_of_token(
        &self,
        statements: &Statements,
        position: &Position,
        limit: usize,
    ) -> Result<Vec<Cells>, StoreError> {
        let table = statements.table;
        let mut partitions = Vec::new();
        let take = |mut row: ColumnIterator<'_, '_>| {
            partitions.push(cells::key_values(table, &mut row, table.partition)?);
            Ok(())
        };
        let token = [Bind::BigInt(position.token)];
        self.pages(table, statements.partitions.get(&self.session).await?, &token, usize::MAX, take).await?;
        let begun = partitions.iter().position(|partition| checkpoint::fingerprint(partition) == position.partition);
        let mut rows = Vec::new();
        if let (Some(begun), false) = (begun, table.clustering.is_empty()) {
            let values = cells::binds(&partitions[begun]).chain(cells::binds(&position.clustering)).collect();
            rows = self.select(table, statements.after.get(&self.session).await?, values, Some(limit)).await?;
        }
        for partition in &partitions[begun.map_or(0, |begun| begun + 1)..] {
            if rows.len() < limit {
                let statement = statements.prefix(0)?.get(&self.session).await?;
                let values = cells::binds(partition).collect();
                rows.extend(self.select(table, statement, values, Some(limit - rows.len())).await?);
            }
        }
        Ok(rows)
    }

    /// Applies writes of one partition: a single statement, or a batch, which is one mutation because it has one partition.
    async fn apply(&self, mutation: &Mutation<'_>) -> Result<(), StoreError> {
        if let [RowWrite { erase: None, write: (statement, values) }] = mutation.rows.as_slice() {
            let statement = statement.get(&self.session).await?;
            return self.execute(mutation.table, statement, values).await.map(|_| ());
        }
        let mut batch = Batch::new(BatchType::Unlogged);
        batch.set_is_idempotent(true);
        let mut bound = Vec::with_capacity(mutation.rows.len());
        for (statement, values) in mutation.statements() {
            batch.append_statement(statement.get(&self.session).await?.clone());
            bound.push(values.as_slice());
        }
        let _permit = self.permit().await?;
        let result = self.session.batch(&batch, bound).await;
        result.map(|_| ()).map_err(|error| errors::execute(mutation.table.name, &error))
    }

    /// Sorts writes by partition, in the order given; of two writes of one row only the one that wins is kept, because
    /// within a mutation there is no earlier and later.
    fn mutations<'a>(&'a self, writes: &'a [Write]) -> Result<Vec<Mutation<'a>>, StoreError> {
        let mut mutations: Vec<Mutation<'a>> = Vec::new();
        let mut partitions = HashMap::new();
        let mut rows: HashMap<_, (usize, usize, &Write)> = HashMap::new();
        for write in writes {
            let (table, key) = write.target();
            let row = bound(self.of(table.name)?, write)?;
            match rows.entry((table.name, key)) {
                Entry::Occupied(mut entry) => {
                    let (partition, at, earlier) = *entry.get();
                    if fence_of(write) >= fence_of(earlier) {
                        mutations[partition].rows[at] = row;
                        entry.insert((partition, at, write));
                    }
                }
                Entry::Vacant(entry) => {
                    let partition = *partitions.entry((table.name, &key.partition)).or_insert_with(|| {
                        mutations.push(Mutation { table, rows: Vec::new() });
                        mutations.len() - 1
                    });
                    entry.insert((partition, mutations[partition].rows.len(), write));
                    mutations[partition].rows.push(row);
                }
            }
        }
        match mutations.iter().find(|mutation| mutation.statements().count() > BATCH_STATEMENTS) {
            None => Ok(mutations),
            Some(Mutation { table, rows }) => Err(StoreError::Refused(format!(
                "table {}: {} rows of one partition in one call are more than can be applied together: write fewer at once",
                table.name,
                rows.len()
            ))),
        }
    }
}

/// A statement and what it binds.
type Bound<'a> = (&'a Lazy, Vec<Bind<'a>>);

/// Writes of one partition.
struct Mutation<'a> {
    table: &'static Table,
    rows: Vec<RowWrite<'a>>,
}

impl Mutation<'_> {
    fn statements(&self) -> impl Iterator<Item = &Bound<'_>> {
        self.rows.iter().flat_map(|row| row.erase.iter().chain([&row.write]))
    }
}

/// A write of one row, before which the row may be erased.
struct RowWrite<'a> {
    erase: Option<Bound<'a>>,
    write: Bound<'a>,
}

const fn fence_of(write: &Write) -> Option<u64> {
    match write {
        Write::Put(cells) => cells.fence,
        Write::Delete { fence, .. } => *fence,
    }
}

/// A write as statements.
///
/// A put replaces the whole row, and whether there is one to replace only a read could tell: columns without a value cannot just be left
/// out (unset), or old values would shine through. Binding null does it, and leaves a tombstone a column. A fenced put knows a better way:
/// it erases what is older than its fence, one tombstone a row, which a read that finds the row alive does not count. With 30 claims of 8
/// absent columns, a member's read cost Cassandra 5.0 a fifth less CPU so, and writes the same. Without a fence there is no timestamp that
/// is surely between the old row and the new one; but there few columns are ever absent.
fn bound<'a>(statements: &'a Statements, write: &'a Write) -> Result<RowWrite<'a>, StoreError> {
    match write {
        Write::Put(cells) => {
            let absent = cells.columns.iter().filter(|value| value.is_none()).count();
            let before = cells.fence.and_then(|fence| fence.checked_sub(1)).filter(|_| absent > 1);
            let write =
                (&statements.insert, cells::row(cells, if before.is_some() { Bind::Unset } else { Bind::Null })?);
            let erase = before.map(|before| deletion(statements, cells.table, &cells.key, Some(before))).transpose()?;
            Ok(RowWrite { erase, write })
        }
        Write::Delete { table, key, fence } => {
            Ok(RowWrite { erase: None, write: deletion(statements, table, key, *fence)? })
        }
    }
}

fn deletion<'a>(
    statements: &'a Statements,
    table: &Table,
    key: &'a Key,
    fence: Option<u64>,
) -> Result<Bound<'a>, StoreError> {
    cells::check_key(table, key)?;
    let fence = cells::fence(table, fence)?.map(Bind::BigInt);
    let key = cells::binds(&key.partition).chain(cells::binds(&key.clustering));
    Ok((&statements.delete, fence.into_iter().chain(key).collect()))
}

/// Which reads go by one statement: different single rows of one partition do, so that a partition is asked once. By their places.
fn together(reads: &[Read]) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut open: HashMap<(&str, &[Value]), usize> = HashMap::new();
    for (at, read) in reads.iter().enumerate() {
        let Span::One(key) = &read.span else {
            groups.push(vec![at]);
            continue;
        };
        let partition = (read.table, read.partition.as_slice());
        let joins = |group: &&mut Vec<usize>| {
            group.len() < MAX_ROWS && group.iter().all(|other| reads[*other].span != read.span)
        };
        let plain = !key.is_empty() && read.limit.is_none();
        match open.get(&partition).and_then(|group| groups.get_mut(*group)).filter(|group| plain && joins(group)) {
            Some(group) => group.push(at),
            None => {
                groups.push(vec![at]);
                if plain {
                    open.insert(partition, groups.len() - 1);
                }
            }
        }
    }
    groups
}

fn unasked(row: &Cells) -> StoreError {
    StoreError::Refused(format!("table {}: the store answers with a row that was not asked for", row.table.name))
}

/// A read's statement, and what it binds before the limit.
struct Selection<'a> {
    statement: &'a Lazy,
    values: Vec<Bind<'a>>,
    limit: Option<usize>,
}

/// `None` where no row can answer the read.
fn selection<'a>(statements: &'a Statements, read: &'a Read) -> Result<Option<Selection<'a>>, StoreError> {
    let table = statements.table;
    cells::check_partition(table, &read.partition)?;
    let (statement, bounds): (_, [&[Value]; 2]) = match &read.span {
        Span::All => (statements.prefix(0)?, [&[], &[]]),
        Span::Prefix(prefix) => (statements.prefix(prefix.len())?, [prefix, &[]]),
        Span::One(key) if key.len() == table.clustering.len() => (statements.prefix(key.len())?, [key, &[]]),
        Span::One(key) => return Err(cells::misfit(table, "clustering key", table.clustering.len(), key.len())),
        Span::Between(from, to) if from.len() != to.len() => {
            return Err(cells::misfit(table, "upper bound", from.len(), to.len()));
        }
        // Bounds of no columns are equal, too.
        Span::Between(from, to) if from >= to => return Ok(None),
        Span::Between(from, to) => (statements.between(from.len())?, [from, to]),
    };
    let mut values: Vec<_> = cells::binds(&read.partition).collect();
    for bound in bounds {
        cells::check_clustering(table, bound)?;
        values.extend(cells::binds(bound));
    }
    let limit = if matches!(read.span, Span::One(_)) { Some(read.limit.unwrap_or(1).min(1)) } else { read.limit };
    Ok((limit != Some(0)).then_some(Selection { statement, values, limit }))
}

/// Hands every row of a page to `take`, and returns their number.
fn each_row(
    table: &Table,
    page: QueryResult,
    take: &mut impl FnMut(ColumnIterator<'_, '_>) -> Result<(), StoreError>,
) -> Result<usize, StoreError> {
    let unreadable = || StoreError::Refused(format!("table {}: the answer to a select is not understood", table.name));
    let page = page.into_rows_result().map_err(|_| unreadable())?;
    for row in page.rows::<ColumnIterator<'_, '_>>().map_err(|_| unreadable())? {
        take(row.map_err(|_| unreadable())?)?;
    }
    Ok(page.rows_num())
}

/// Runs calls, at most `width` at once, and returns what they bring, in their order. After a failure it begins no more, but waits for
/// those under way: a write that the caller believes over must not overtake the caller's next one.
async fn settle<T>(
    calls: impl Iterator<Item = impl Future<Output = Result<T, StoreError>>>,
    width: usize,
) -> Result<Vec<T>, StoreError> {
    let mut calls = calls.enumerate().map(|(at, call)| async move { (at, call.await) });
    let (mut running, mut brought, mut failure) = (FuturesUnordered::new(), Vec::new(), None);
    loop {
        while failure.is_none() && running.len() < width {
            let Some(call) = calls.next() else { break };
            running.push(call);
        }
        match running.next().await {
            Some((at, Ok(value))) => brought.push((at, value)),
            Some((_, Err(error))) => failure = failure.or(Some(error)),
            None => break,
        }
    }
    if let Some(error) = failure {
        return Err(error);
    }
    brought.sort_unstable_by_key(|(at, _)| *at);
    Ok(brought.into_iter().map(|(_, value)| value).collect())
}

#[async_trait]
impl Store for ScyllaStore {
    async fn read(&self, reads: &[Read]) -> Result<Vec<Vec<Cells>>, StoreError> {
        let together = together(reads);
        let answers = together.iter().map(|asked| self.read_together(reads, asked));
        let answers = settle(answers, self.config.concurrency as usize).await?;
        let mut found = vec![Vec::new(); reads.len()];
        for (asked, rows) in together.iter().zip(answers) {
            match asked.as_slice() {
                [one] => found[*one] = rows,
                several => {
                    for row in rows {
                        let wanted =
                            several.iter().find(|at| reads[**at].span == Span::One(row.key.clustering.clone()));
                        found[*wanted.ok_or_else(|| unasked(&row))?].push(row);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let mutations = self.mutations(&writes)?;
        let applied = settle(mutations.iter().map(|it| self.apply(it)), self.config.concurrency as usize).await;
        applied.map(|_| ())
    }

    async fn insert_if_absent(&self, row: Cells) -> Result<Option<Cells>, StoreError> {
        let (table, statements) = (row.table, self.of(row.table.name)?);
        if table.fenced || row.fence.is_some() {
            let name = table.name;
            return Err(StoreError::Refused(format!(
                "table {name}: compare-and-set has a clock of its own, and no fence"
            )));
        }
        // Where no row is, there is no value to hide.
        let values = cells::row(&row, Bind::Unset)?;
        let statement = statements.insert_if_absent.get(&self.session).await?;
        let answer = self.execute(table, statement, &values).await?;
        let mut found = None;
        each_row(table, answer, &mut |row| {
            found = cells::refused_insert(table, row)?;
            Ok(())
        })?;
        Ok(found)
    }

    async fn scan(
        &self,
        table: &'static Table,
        range: TokenRange,
        after: Option<Checkpoint>,
        limit: usize,
    ) -> Result<ScanPage, StoreError> {
        let (statements, limit) = (self.of(table.name)?, limit.max(1));
        let (mut rows, mut first) = (Vec::new(), Some(range.start));
        if let Some(after) = after {
            let position = Position::parse(table, &after)?;
            if !(range.start..=range.end).contains(&position.token) {
                return Err(StoreError::Refused(format!("table {}: the checkpoint is of another range", table.name)));
            }
            rows = self.rest_of_token(statements, &position, limit).await?;
            if let (Some(last), true) = (rows.last(), rows.len() >= limit) {
                let next = Some(Position::of(position.token, &last.key).print(table));
                return Ok(ScanPage { rows, next });
            }
            first = position.token.checked_add(1);
        }
        let Some(first) = first.filter(|first| *first <= range.end) else { return Ok(ScanPage { rows, next: None }) };
        let (wanted, mut token) = (limit - rows.len(), first);
        let mut statement = statements.tokens.get(&self.session).await?.clone();
        statement.set_page_size(i32::try_from(wanted.min(PAGE_ROWS)).unwrap_or(i32::MAX));
        let take = |mut row: ColumnIterator<'_, '_>| {
            token = cells::token(table, &mut row)?;
            rows.push(cells::cells(table, &mut row)?);
            Ok(())
        };
        let more = self.pages(table, &statement, &[Bind::BigInt(first), Bind::BigInt(range.end)], wanted, take).await?;
        let last = rows.last().filter(|_| more);
        let next = last.map(|last| Position::of(token, &last.key).print(table));
        Ok(ScanPage { rows, next })
    }

    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        // Several processes may begin at once, and one of them sees a keyspace that is only half made.
        let mut tries = 0;
        loop {
            match migrations::run(self, self.config.connect().await?, &self.config.replication()).await {
                Err(error) if error.is_transient() && tries < MIGRATE_TRIES => {
                    tries += 1;
                    tokio::time::sleep(MIGRATE_PAUSE).await;
                }
                ended => return ended,
            }
        }
    }

    async fn ping(&self) -> Result<(), StoreError> {
        migrations::verify(self).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::secret::Secret;

    fn config(json: &str) -> Result<ScyllaConfig, serde_json::Error> {
        serde_json::from_str(json)
    }

    #[test]
    fn two_fields_are_enough_and_an_unknown_one_is_refused() {
        let least = config(r#"{"contact_points": ["a"], "keyspace": "bell"}"#).unwrap();
        assert_eq!(least, ScyllaConfig::new(vec!["a".into()], "bell"));
        least.validate().unwrap();
        assert!(config(r#"{"contact_points": ["a"], "keyspace": "bell", "tsl": {}}"#).is_err());
        let tls = config(r#"{"contact_points": ["a"], "keyspace": "bell", "tls": {}}"#).unwrap().tls.unwrap();
        assert!(tls.verify_hostname);
    }

    #[test]
    fn what_cannot_work_is_refused_by_the_name_of_its_field() {
        let good = ScyllaConfig::new(vec!["a".into()], "bell");
        let cases = [
            (ScyllaConfig { contact_points: vec![], ..good.clone() }, "contact_points"),
            (ScyllaConfig { keyspace: "Bell".into(), ..good.clone() }, "keyspace"),
            (ScyllaConfig { keyspace: String::new(), ..good.clone() }, "keyspace"),
            (ScyllaConfig { keyspace: "b\"; DROP".into(), ..good.clone() }, "keyspace"),
            (ScyllaConfig { replication: 0, ..good.clone() }, "replication"),
            (ScyllaConfig { datacenter: Some("a': 1}".into()), ..good.clone() }, "datacenter"),
            (ScyllaConfig { password: Some(Secret::Env("X".into())), ..good.clone() }, "password"),
            (ScyllaConfig { concurrency: 0, ..good.clone() }, "concurrency"),
            (ScyllaConfig { request_timeout_ms: 0, ..good.clone() }, "request_timeout_ms"),
        ];
        for (config, field) in cases {
            let error = config.validate().unwrap_err();
            assert!(matches!(error, StoreError::Refused(_)) && error.to_string().contains(field), "{field}: {error}");
        }
    }

    #[test]
    fn a_keyspace_is_made_by_datacenter_where_one_is_named() {
        let mut config = ScyllaConfig::new(vec!["a".into()], "bell");
        assert_eq!(config.replication(), "{'class': 'SimpleStrategy', 'replication_factor': 1}");
        config.datacenter = Some("dc1".into());
        config.replication = 3;
        assert_eq!(config.replication(), "{'class': 'NetworkTopologyStrategy', 'dc1': 3}");
    }

    #[tokio::test]
    async fn after_a_failure_no_call_begins_and_those_under_way_are_waited_for() {
        let (begun, ended) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
        let (begun, ended) = (&begun, &ended);
        let call = |at: usize| async move {
            begun.set(begun.get() + 1);
            for _ in 0..at {
                tokio::task::yield_now().await;
            }
            ended.set(ended.get() + 1);
            if at == 0 { Err(StoreError::Unavailable("down".into())) } else { Ok(at) }
        };
        assert_eq!(settle([3, 1, 2].into_iter().map(call), 2).await.unwrap(), [3, 1, 2]);
        begun.set(0);
        ended.set(0);
        settle([5, 0, 1, 1, 1].into_iter().map(call), 2).await.unwrap_err();
        assert_eq!((begun.get(), ended.get()), (2, 2));
    }
}
