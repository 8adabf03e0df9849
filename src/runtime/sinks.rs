//! Providers that can be called: built once from their settings, shared by every consumer of the process, with the bound on calls in flight.

use crate::metrics::Metrics;
use bellwether_connectors::channels::{
    self, Accepted, Message, SendError,
    pacing::{Paced, Permit},
};
use bellwether_schemas::{Channel, definitions::Provider, records::ErrorKind};
use prometheus::IntGauge;
use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Every provider of this process, by project and name. An applied change makes a new one; calls in flight end with the old one.
pub struct Sinks {
    metrics: Metrics,
    build: Build,
    outlets: Mutex<HashMap<(String, String), Arc<Outlet>>>,
    /// Of each channel's partitions, the part that is ours: as much of every provider's limit is ours, too.
    shares: Mutex<HashMap<Channel, f64>>,
}

/// Makes a sink of a provider.
pub type Build = Box<dyn Fn(&Provider) -> Result<Arc<dyn channels::Sink>, channels::ConfigError> + Send + Sync>;

impl std::fmt::Debug for Sinks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sinks")
    }
}

/// A provider with its pace and its bound.
pub struct Outlet {
    provider: Provider,
    /// What to call, or why it cannot be called.
    paced: Result<Paced, String>,
    /// Claimed or in flight.
    reserved: AtomicUsize,
    in_flight: IntGauge,
    held: IntGauge,
    stopped: IntGauge,
}

impl Sinks {
    /// With the connectors of this house.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self::with(metrics, Box::new(|provider| channels::build(&provider.kind, &provider.settings)))
    }

    /// With sinks made elsewhere: for simulations and benches.
    #[must_use]
    pub fn with(metrics: Metrics, build: Build) -> Self {
        Self { metrics, build, outlets: Mutex::default(), shares: Mutex::default() }
    }

    /// Tells how much of a channel's partitions is ours, 0 to 1: the providers of the channel are called at that part of their limit, so that
    /// all instances together keep it.
    pub fn set_share(&self, channel: Channel, share: f64) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        shares.insert(channel, share);
        let outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        for paced in outlets.values().filter_map(|outlet| outlet.paced.as_ref().ok()) {
            if paced.channel() == channel {
                paced.set_share(share);
            }
        }
    }

    /// The outlet of a provider as it is defined now.
    #[must_use]
    pub fn outlet(&self, project: &str, name: &str, provider: &Provider) -> Arc<Outlet> {
        // Both locks in the order of `set_share`, so that no new outlet misses a change.
        let shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let mut outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (project.to_owned(), name.to_owned());
        if let Some(outlet) = outlets.get(&key).filter(|outlet| outlet.provider == *provider) {
            return Arc::clone(outlet);
        }
        let paced = (self.build)(provider)
            .map(|sink| {
                let share = shares.get(&sink.channel()).copied();
                let paced = Paced::new(sink, provider.rate_per_second);
                // Nobody has told yet: whoever asks for an outlet without partitions, as a check does, has all of it.
                paced.set_share(share.unwrap_or(1.0));
                paced
            })
            .map_err(|error| error.to_string())
            .inspect_err(|error| tracing::error!(project, provider = name, error, "provider not usable"));
        let label = format!("{project}/{name}");
        let outlet = Arc::new(Outlet {
            provider: provider.clone(),
            paced,
            reserved: AtomicUsize::new(0),
            in_flight: self.metrics.provider_in_flight.with_label_values(&[&label]),
            held: self.metrics.provider_held.with_label_values(&[&label]),
            stopped: self.metrics.provider_stopped.with_label_values(&[&label]),
        });
        outlets.insert(key, Arc::clone(&outlet));
        outlet
    }
}

/// The right to make one call by an outlet.
#[derive(Debug)]
pub enum Go {
    /// At the provider's pace.
    Call(Permit),
    /// The provider cannot be called; this is what becomes of the message.
    Unusable(SendError),
}

impl Outlet {
    /// Whether one more call may be claimed.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.reserved.load(Ordering::Acquire) < self.provider.max_in_flight as usize
    }

    /// Takes a place among the calls in flight, if there is one.
    #[must_use]
    pub fn reserve(&self) -> bool {
        let most = self.provider.max_in_flight as usize;
        self.reserved.fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1)).is_ok()
    }

    /// Gives the place back.
    pub fn release(&self) {
        self.reserved.fetch_sub(1, Ordering::AcqRel);
    }

    /// The right to make one call now, or how long to wait before asking again.
    ///
    /// # Errors
    /// The wait.
    pub fn permit(&self) -> Result<Go, Duration> {
        let paced = match &self.paced {
            Ok(paced) => paced,
            Err(problem) => return Ok(Go::Unusable(SendError::new(ErrorKind::Unauthorized, problem.clone()))),
        };
        paced.try_acquire().map(Go::Call).ok_or_else(|| {
            let state = paced.state();
            self.held.set(i64::from(state.held_until.is_some()));
            self.stopped.set(i64::from(state.stopped_until.is_some()));
            let until = state.held_until.max(state.stopped_until);
            let gap = state.per_second.map_or(0.005, |rate| (1.0 / rate.max(0.001)).clamp(0.001, 0.05));
            until
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
                .max(Duration::from_secs_f64(gap))
        })
    }

    /// Makes the call.
    ///
    /// # Errors
    /// The provider's.
    pub async fn send(&self, go: Go, message: &Message) -> Result<Accepted, SendError> {
        match go {
            Go::Unusable(error) => Err(error),
            Go::Call(permit) => {
                self.in_flight.inc();
                let result = permit.send(message).await;
                self.in_flight.dec();
                result
            }
        }
    }

    /// A call came back: its place is free.
    pub fn done(&self) {
        self.release();
        if let Ok(paced) = &self.paced {
            let state = paced.state();
            self.held.set(i64::from(state.held_until.is_some()));
            self.stopped.set(i64::from(state.stopped_until.is_some()));
        }
    }
}
