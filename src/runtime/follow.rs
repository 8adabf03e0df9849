//! Follows a compacted topic of one partition, which every process reads whole: to its end before anything starts, then for what is new.
//! What a record means is its reader's matter.

use crate::runtime::{retry::until_available, worker::Fatal};
use bellwether_connectors::log::{Log, LogRecord, TopicPartition};
use bellwether_schemas::Topic;
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Takes in one record.
pub trait Reader: Send {
    /// How often the topic is asked for news.
    const EVERY: Duration;

    /// Takes it in; what cannot be read is reported and passed over.
    fn take(&mut self, record: &LogRecord);
}

/// A reader and how far it has come.
#[derive(Debug)]
pub struct Follower<R> {
    log: Arc<dyn Log>,
    at: TopicPartition,
    next: u64,
    reader: R,
    stop: CancellationToken,
}

impl<R: Reader> Follower<R> {
    /// Reads the topic to its present end.
    ///
    /// # Errors
    /// The log refuses us, or `stop` was cancelled before it answered.
    pub async fn load(log: Arc<dyn Log>, topic: Topic, reader: R, stop: CancellationToken) -> Result<Self, Fatal> {
        let mut follower = Self { log, at: TopicPartition { topic, partition: 0 }, next: 0, reader, stop };
        let (log, stop) = (Arc::clone(&follower.log), follower.stop.clone());
        let bounds = until_available("log", &stop, || log.bounds(topic)).await?;
        let end = bounds.iter().find(|b| b.at == follower.at).map_or(0, |b| b.end);
        while follower.next < end {
            if follower.advance().await? == 0 {
                break; // Compaction may have taken the last offsets before the end.
            }
        }
        Ok(follower)
    }

    /// Follows until `stop` is cancelled.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn run(mut self) -> Result<(), Fatal> {
        while !self.stop.is_cancelled() {
            match self.advance().await {
                Ok(0) => {}
                Ok(_) => continue,
                Err(_) if self.stop.is_cancelled() => break,
                Err(error) => return Err(error),
            }
            tokio::select! {
                () = tokio::time::sleep(R::EVERY) => {}
                () = self.stop.cancelled() => {}
            }
        }
        Ok(())
    }

    /// Takes in what is new; returns how many records that were.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn advance(&mut self) -> Result<usize, Fatal> {
        let (log, at, next) = (&self.log, self.at, self.next);
        let records = until_available("log", &self.stop, || log.read(at, next, 64)).await?;
        for record in &records {
            self.next = record.position.offset + 1;
            self.reader.take(record);
        }
        Ok(records.len())
    }
}
