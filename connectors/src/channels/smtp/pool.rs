//! A bounded pool of SMTP connections: never more than its size are open, and the warmest is used first.
//! Knows nothing of messages.

use super::connection::Connection;
use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep},
};

#[derive(Debug)]
pub(super) struct Pool {
    /// One permit a connection in use. A connection is opened only by a holder who found no idle one, and goes back before its
    /// permit does; so idle and used ones together are never more than the permits.
    slots: Semaphore,
    idle: Mutex<Vec<Connection>>,
    max_idle: Duration,
    max_carried: u32,
}

impl Pool {
    pub(super) fn new(size: u32, max_idle: Duration, max_carried: u32) -> Arc<Self> {
        let size = usize::try_from(size).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Arc::new(Self { slots: Semaphore::new(size), idle: Mutex::default(), max_idle, max_carried })
    }

    /// Waits for the right to use one connection; `None` at the deadline.
    pub(super) async fn slot(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        tokio::time::timeout_at(deadline, self.slots.acquire()).await.ok()?.ok()
    }

    /// The idle connection that was used last, if one still lives.
    pub(super) fn take(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(mut connection) = idle.pop() {
            if connection.idle_since.elapsed() < self.max_idle && connection.is_alive() {
                return Some(connection);
            }
        }
        None
    }

    /// Puts a connection aside for the next letter, or ends it when it has carried enough.
    pub(super) async fn put(&self, mut connection: Connection) {
        if connection.carried >= self.max_carried {
            return connection.close().await;
        }
        connection.idle_since = Instant::now();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }

    fn expired(&self) -> Vec<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.extract_if(.., |connection| connection.idle_since.elapsed() >= self.max_idle).collect()
    }

    /// Closes what nobody used for long, as long as the pool lives.
    pub(super) async fn reap(pool: Weak<Self>, every: Duration) {
        loop {
            sleep(every).await;
            let Some(pool) = pool.upgrade() else { return };
            for connection in pool.expired() {
                connection.close().await;
            }
        }
    }
}
