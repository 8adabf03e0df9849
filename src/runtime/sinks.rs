//! Providers that can be called: built once from their settings, shared by every consumer of the process, with the bound on calls in flight
//! and what the cluster knows of their health.

use crate::{
    metrics::Metrics,
    runtime::{clock::Clock, health::Board},
};
use bellwether_connectors::channels::{
    self, Accepted, Message, SendError,
    pacing::{Change, Paced, Permit},
};
use bellwether_processors::definitions::Compiled;
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::Provider,
    records::{ErrorKind, ProviderHealth, Standing},
    topics,
};
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
    clock: Clock,
    build: Build,
    /// Tells this process from others on the log.
    instance: Arc<str>,
    board: Arc<Board>,
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
    project: String,
    name: String,
    provider: Provider,
    /// See [`fingerprint`].
    settings: String,
    instance: Arc<str>,
    clock: Clock,
    board: Arc<Board>,
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
    pub fn new(metrics: Metrics, clock: Clock) -> Self {
        Self::with(metrics, clock, Box::new(|provider| channels::build(&provider.kind, &provider.settings)))
    }

    /// With sinks made elsewhere: for simulations and benches.
    #[must_use]
    pub fn with(metrics: Metrics, clock: Clock, build: Build) -> Self {
        Self {
            metrics,
            clock,
            build,
            instance: uuid::Uuid::now_v7().to_string().into(),
            board: Arc::default(),
            outlets: Mutex::default(),
            shares: Mutex::default(),
        }
    }

    /// What they, and the process that they belong to, tell the time by.
    #[must_use]
    pub fn clock(&self) -> Clock {
        self.clock.clone()
    }

    /// What the cluster knows of its providers.
    #[must_use]
    pub fn board(&self) -> Arc<Board> {
        Arc::clone(&self.board)
    }

    /// What was last found of a provider as it is defined now.
    #[must_use]
    pub fn health(&self, project: &str, name: &str, provider: &Provider) -> Option<ProviderHealth> {
        self.board.of(project, name, &fingerprint(provider))
    }

    /// Whether to give a message to this provider of a project where another one could take it too.
    #[must_use]
    pub fn takes(&self, project: &Compiled, name: &str) -> bool {
        let provider = project.document.providers.get(name);
        provider.is_some_and(|provider| self.outlet(&project.project, name, provider).takes())
    }

    /// Takes over what an instance found.
    pub fn adopt(&self, health: ProviderHealth) {
        if *health.instance != *self.instance {
            let key = (health.project.clone(), health.provider.clone());
            let outlets = self.outlets.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(outlet) = outlets.get(&key).filter(|outlet| outlet.settings == health.settings) {
                outlet.adopt(&health);
            }
        }
        self.board.heard(health);
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
            project: project.to_owned(),
            name: name.to_owned(),
            provider: provider.clone(),
            settings: fingerprint(provider),
            instance: Arc::clone(&self.instance),
            clock: self.clock.clone(),
            board: Arc::clone(&self.board),
            paced,
            reserved: AtomicUsize::new(0),
            in_flight: self.metrics.provider_in_flight.with_label_values(&[&label]),
            held: self.metrics.provider_held.with_label_values(&[&label]),
            stopped: self.metrics.provider_stopped.with_label_values(&[&label]),
        });
        if let Some(health) = self.board.of(project, name, &outlet.settings) {
            outlet.adopt(&health);
        }
        outlets.insert(key, Arc::clone(&outlet));
        outlet
    }
}

/// What tells a provider's definition from another.
fn fingerprint(provider: &Provider) -> String {
    format!("{:016x}", topics::hash(&serde_json::to_vec(provider).unwrap_or_default()))
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
            self.show();
            let state = paced.state();
            let until = state.held_until.max(state.stopped_until);
            let gap = state.per_second.map_or(0.005, |rate| (1.0 / rate.max(0.001)).clamp(0.001, 0.05));
            until
                .map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()))
                .max(Duration::from_secs_f64(gap))
        })
    }

    /// The right to make one call that an operator asks for, whatever the pace; `None` while the provider told us to wait.
    #[must_use]
    pub fn insist(&self) -> Option<Go> {
        match &self.paced {
            Ok(paced) => paced.insist().map(Go::Call),
            Err(problem) => Some(Go::Unusable(SendError::new(ErrorKind::Unauthorized, problem.clone()))),
        }
    }

    /// Whether to give a message to this provider where another one could take it too; see [`Paced::takes`].
    #[must_use]
    pub fn takes(&self) -> bool {
        self.paced.as_ref().is_ok_and(Paced::takes)
    }

    /// Whether the provider refuses our account or fails too often.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.paced.as_ref().is_ok_and(|paced| paced.state().stopped_until.is_some())
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
                let (result, change) = permit.send(message).await;
                self.in_flight.dec();
                if let Some(change) = change {
                    self.show();
                    self.board.found(self.health(change, &result));
                }
                result
            }
        }
    }

    /// A call came back: its place is free.
    pub fn done(&self) {
        self.release();
        self.show();
    }

    fn show(&self) {
        if let Ok(paced) = &self.paced {
            let state = paced.state();
            self.held.set(i64::from(state.held_until.is_some()));
            self.stopped.set(i64::from(state.stopped_until.is_some()));
        }
    }

    /// What a call's answer changed, for the others.
    fn health(&self, change: Change, answer: &Result<Accepted, SendError>) -> ProviderHealth {
        let now = self.clock.now();
        let at = |until: Instant| Some(now.plus(until.saturating_duration_since(Instant::now())));
        let (standing, until) = match change {
            Change::Held(until) => (Standing::Held, at(until)),
            Change::Stopped(until) => (Standing::Stopped, at(until)),
            Change::Recovered => (Standing::Ok, None),
        };
        let detail = answer.as_ref().err().map_or_else(String::new, ToString::to_string);
        tracing::warn!(project = self.project, provider = self.name, standing = standing.name(), detail, "provider");
        ProviderHealth {
            project: self.project.clone(),
            provider: self.name.clone(),
            settings: self.settings.clone(),
            instance: self.instance.to_string(),
            at: now,
            standing,
            until,
            detail,
        }
    }

    fn adopt(&self, health: &ProviderHealth) {
        let Ok(paced) = &self.paced else { return };
        let until = |at: Timestamp| Instant::now() + at.since(self.clock.now());
        match (health.standing, health.until) {
            (Standing::Held, Some(at)) => paced.adopt(Change::Held(until(at))),
            (Standing::Stopped, Some(at)) => paced.adopt(Change::Stopped(until(at))),
            (Standing::Ok, _) => paced.adopt(Change::Recovered),
            (Standing::Held | Standing::Stopped, None) => {}
        }
        self.show();
    }
}
