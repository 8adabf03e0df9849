//! Joins the API with the house: definitions, metrics, providers' webhooks, readiness.

use crate::{
    approvals::Meta,
    backends::Backends,
    config::Config,
    definitions::check_provider,
    erasure,
    http::{
        Api, Limits, Observer,
        auth::{ApiKeyError, ApiKeys},
        probes::Check,
        tracking::Tracked,
    },
    metrics::Metrics,
    runtime::{clock::Clock, sinks::Sinks},
    webhooks::Webhooks,
};
use bellwether_connectors::tracking::Purpose;
use bellwether_processors::{
    Processor,
    definitions::{Compiled, Projects},
    members::Members,
};
use futures::FutureExt as _;
use std::sync::Arc;
use tokio::sync::watch;

/// Makes the API of a process.
///
/// # Errors
/// An API key cannot be used.
pub fn build(
    config: &Config,
    backends: &Backends,
    projects: watch::Receiver<Projects>,
    sinks: Arc<Sinks>,
    clock: &Clock,
    metrics: &Metrics,
) -> Result<Arc<Api>, ApiKeyError> {
    let text = metrics.clone();
    let known = projects.clone();
    Ok(Arc::new(Api {
        log: Arc::clone(&backends.log),
        store: Arc::clone(&backends.store),
        definitions: projects.clone(),
        draft: Arc::new(|document| {
            let (compiled, findings) = Compiled::draft(document, 0, &check_provider);
            (compiled, findings.into_iter().map(Into::into).collect())
        }),
        keys: Arc::new(ApiKeys::from_config(&config.api_keys)?),
        clock: clock.function(),
        observer: Arc::new(Counting(metrics.clone())),
        hooks: Arc::new(Webhooks(projects)),
        sinks,
        approvals: Arc::new(Meta),
        readiness: Arc::new(move || {
            let projects = known.borrow().iter().count();
            // Loaded before the API listens; none is no failure, somebody must be able to publish the first.
            let check = Check { name: "definitions".into(), ok: true, detail: format!("{projects} projects") };
            async move { vec![check] }.boxed()
        }),
        metrics: Arc::new(move || text.text().unwrap_or_else(|error| format!("# {error}\n"))),
        members_group: Members::NAME.into(),
        // That it is a name was checked with the configuration.
        client_ip_header: config.client_ip_header.as_deref().and_then(|name| name.parse().ok()),
        can_erase: erasure::is_possible(config),
        limits: Limits { dead_letters_kept: config.retention.rows().dead_letters, ..Limits::default() },
    }))
}

#[derive(Debug)]
struct Counting(Metrics);

impl Observer for Counting {
    fn accepted(&self, project: &str, count: usize) {
        self.0.events_accepted.with_label_values(&[project]).inc_by(count as u64);
    }
    fn rejected(&self, reason: &'static str) {
        self.0.events_rejected.with_label_values(&[reason]).inc();
    }
    fn webhook_unverified(&self, provider: &str) {
        self.0.webhooks_unverified.with_label_values(&[provider]).inc();
    }
    fn tracked(&self, purpose: Purpose, outcome: Tracked) {
        self.0.tracking_requests.with_label_values(&[purpose.name(), outcome.name()]).inc();
    }
}
