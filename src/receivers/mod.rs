//! Local destinations that speak the real protocols: the demo, the end-to-end tests, the kill tests and the benches send to them and then
//! ask what really arrived. They know nothing of the pipeline, so that what they count is independent of what the pipeline believes.

pub mod smtp;
pub mod twilio;

pub use smtp::{SmtpOptions, SmtpReceiver};
pub use twilio::{TwilioOptions, TwilioReceiver};

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;

/// What a receiver has seen, and a bell that rings at every change, so that nobody has to poll for it.
#[derive(Debug, Default)]
struct Ledger<T> {
    state: Mutex<T>,
    changed: Notify,
}

impl<T> Ledger<T> {
    /// Changes the state and wakes whoever waits for it.
    fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Waits until the condition holds; false when it did not within this time.
    async fn wait_for(&self, condition: impl Fn(&T) -> bool, within: Duration) -> bool {
        let holds = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Enlisted before looking, so that a change between look and wait is not missed.
                changed.as_mut().enable();
                if self.read(&condition) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, holds).await.is_ok()
    }

    /// A panic elsewhere leaves counts that are still true: every change is one assignment or insertion.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
