//! Counts what is asked of log and store, so that operations per message can be read off the metrics. Passes everything on.

use crate::metrics::Metrics;
use async_trait::async_trait;
use bellwether_connectors::{
    log::{Append, Bounds, Commit, CommitError, Consumer, Log, LogError, LogRecord, Polled, TopicPartition},
    store::{Checkpoint, ScanPage, Store, StoreError, TokenRange},
};
use bellwether_schemas::{
    Position, Topic,
    rows::{Cells, Read, Table, Write},
};
use prometheus::IntCounter;
use std::{sync::Arc, time::Duration};

/// A log that counts: `append` (records), `poll` (records), `commit` (calls).
#[derive(Debug)]
pub struct MeteredLog {
    inner: Arc<dyn Log>,
    append: IntCounter,
    poll: IntCounter,
    commit: IntCounter,
}

impl MeteredLog {
    /// Wraps a log.
    #[must_use]
    pub fn new(inner: Arc<dyn Log>, metrics: &Metrics) -> Self {
        let op = |name: &str| metrics.log_operations.with_label_values(&[name]);
        Self { inner, append: op("append"), poll: op("poll"), commit: op("commit") }
    }
}

#[async_trait]
impl Log for MeteredLog {
    async fn create_topics(&self, partitions: u32) -> Result<Vec<Topic>, LogError> {
        self.inner.create_topics(partitions).await
    }
    async fn append(&self, records: Vec<Append>) -> Result<Vec<Position>, LogError> {
        self.append.inc_by(records.len() as u64);
        self.inner.append(records).await
    }
    async fn subscribe(&self, group: &str, topics: &[Topic]) -> Result<Box<dyn Consumer>, LogError> {
        let inner = self.inner.subscribe(group, topics).await?;
        Ok(Box::new(MeteredConsumer { inner, poll: self.poll.clone(), commit: self.commit.clone() }))
    }
    async fn read(&self, at: TopicPartition, offset: u64, max: usize) -> Result<Vec<LogRecord>, LogError> {
        self.inner.read(at, offset, max).await
    }
    async fn bounds(&self, topic: Topic) -> Result<Vec<Bounds>, LogError> {
        self.inner.bounds(topic).await
    }
    async fn progress(&self, group: &str, topic: Topic) -> Result<Vec<Commit>, LogError> {
        self.inner.progress(group, topic).await
    }
    async fn ping(&self) -> Result<(), LogError> {
        self.inner.ping().await
    }
}

struct MeteredConsumer {
    inner: Box<dyn Consumer>,
    poll: IntCounter,
    commit: IntCounter,
}

#[async_trait]
impl Consumer for MeteredConsumer {
    async fn poll(&mut self, max: usize, wait: Duration) -> Result<Polled, LogError> {
        let polled = self.inner.poll(max, wait).await?;
        if let Polled::Records(records) = &polled {
            self.poll.inc_by(records.len() as u64);
        }
        Ok(polled)
    }
    async fn seek(&mut self, at: TopicPartition, offset: u64) -> Result<(), LogError> {
        self.inner.seek(at, offset).await
    }
    async fn commit(&mut self, commits: Vec<Commit>) -> Result<(), CommitError> {
        self.commit.inc();
        self.inner.commit(commits).await
    }
    async fn close(self: Box<Self>) {
        self.inner.close().await;
    }
    fn session_timeout(&self) -> Duration {
        self.inner.session_timeout()
    }
}

/// A store that counts: `read` (partitions asked for; neighbours in a call count once), `write` (partitions written: one mutation each), `compare_and_set` and `scan` (calls).
#[derive(Debug)]
pub struct MeteredStore {
    inner: Arc<dyn Store>,
    read: IntCounter,
    write: IntCounter,
    compare_and_set: IntCounter,
    scan: IntCounter,
}

impl MeteredStore {
    /// Wraps a store.
    #[must_use]
    pub fn new(inner: Arc<dyn Store>, metrics: &Metrics) -> Self {
        let op = |name: &str| metrics.store_operations.with_label_values(&[name]);
        Self { inner, read: op("read"), write: op("write"), compare_and_set: op("compare_and_set"), scan: op("scan") }
    }
}

#[async_trait]
impl Store for MeteredStore {
    async fn read(&self, reads: &[Read]) -> Result<Vec<Vec<Cells>>, StoreError> {
        let partitions = reads.chunk_by(|a, b| (a.table, &a.partition) == (b.table, &b.partition)).count();
        self.read.inc_by(partitions as u64);
        self.inner.read(reads).await
    }
    async fn write(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        let partitions: std::collections::HashSet<_> =
            writes.iter().map(|w| (w.target().0.name, &w.target().1.partition)).collect();
        self.write.inc_by(partitions.len() as u64);
        self.inner.write(writes).await
    }
    async fn insert_if_absent(&self, row: Cells) -> Result<Option<Cells>, StoreError> {
        self.compare_and_set.inc();
        self.inner.insert_if_absent(row).await
    }
    fn ranges(&self, parts: u32) -> Vec<TokenRange> {
        self.inner.ranges(parts)
    }
    async fn scan(
        &self,
        table: &'static Table,
        range: TokenRange,
        after: Option<Checkpoint>,
        limit: usize,
    ) -> Result<ScanPage, StoreError> {
        self.scan.inc();
        self.inner.scan(table, range, after, limit).await
    }
    async fn migrate(&self) -> Result<Vec<String>, StoreError> {
        self.inner.migrate().await
    }
    async fn ping(&self) -> Result<(), StoreError> {
        self.inner.ping().await
    }
}
