//! One process: the roles it was given, the HTTP API, and an orderly end.

use crate::{
    backends::{Backends, OpenError},
    config::Config,
    erasure, http,
    mail::{MailConfig, Returns},
    metrics::Metrics,
    runtime::{
        clock::Clock,
        definitions::Definitions,
        deliver::{Deliverer, group},
        follow::Follower,
        health::{self, Hearing},
        sinks::Sinks,
        stages::{DeadLettersStage, FlowStage, MembersStage, RouteStage, ScheduleStage, Stage, TrackStage},
        worker::{Context, Fatal, Worker},
    },
    sweep::Sweep,
    updates::Updates,
};
use bellwether_connectors::{
    events::{EventDecoder, Registry},
    log::TopicPartition,
    mail::{
        listener::{self, Protocol},
        maildir::Maildir,
    },
};
use bellwether_processors::{Processor, definitions::Projects};
use bellwether_schemas::{Channel, Lane, Topic};
use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

/// A part of the pipeline that can run in a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Role {
    /// The API, webhooks included.
    Http,
    /// Events to notifications.
    Flow,
    /// Notifications to deliveries; changes to members.
    Route,
    /// Deliveries to providers.
    Deliver,
    /// Receipts and decisions to stories and sums; dead letters to the store.
    Track,
    /// What is to happen later.
    Schedule,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [Self::Http, Self::Flow, Self::Route, Self::Deliver, Self::Track, Self::Schedule];
}

/// Why a process does not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Log or store do not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A loop ended.
    #[error(transparent)]
    Fatal(#[from] Fatal),
    /// The API cannot listen, or the API key cannot be made.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The configuration names something that is not to be had.
    #[error("{0}")]
    Config(String),
    /// A task ended without a word.
    #[error("a task of {0} ended unexpectedly")]
    Task(&'static str),
}

/// A running process.
#[derive(Debug)]
pub struct Instance {
    /// Where the API listens, if it does.
    pub address: Option<SocketAddr>,
    /// Where mail that comes back is taken, if it is.
    pub mail_address: Option<SocketAddr>,
    /// Log and store.
    pub backends: Backends,
    /// Metrics.
    pub metrics: Metrics,
    /// The newest definitions.
    pub projects: tokio::sync::watch::Receiver<bellwether_processors::definitions::Projects>,
    stop: CancellationToken,
    tasks: JoinSet<(&'static str, Result<(), ServeError>)>,
}

impl Instance {
    /// Starts the roles.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start(config: &Config, roles: &BTreeSet<Role>) -> Result<Self, ServeError> {
        let metrics = Metrics::new().map_err(|e| ServeError::Config(format!("metrics: {e}")))?;
        let backends = Backends::open(config, &metrics).await?;
        let sinks = Sinks::new(metrics.clone(), Clock::system());
        Self::start_on(config, roles, backends, metrics, sinks).await
    }

    /// Starts the roles on what is open already, with these providers and by their clock.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub async fn start_on(
        config: &Config,
        roles: &BTreeSet<Role>,
        backends: Backends,
        metrics: Metrics,
        sinks: Sinks,
    ) -> Result<Self, ServeError> {
        let stop = CancellationToken::new();
        let clock = sinks.clock();
        let (log, sinks) = (Arc::clone(&backends.log), Arc::new(sinks));
        let definitions = Definitions::default();
        let projects = definitions.projects();
        let definitions = Follower::load(Arc::clone(&log), Topic::Definitions, definitions, stop.clone()).await?;
        let hearing = Hearing(Arc::clone(&sinks));
        let hearing = Follower::load(Arc::clone(&log), Topic::Providers, hearing, stop.clone()).await?;
        let context = Context {
            log: Arc::clone(&backends.log),
            store: Arc::clone(&backends.store),
            clock: clock.clone(),
            metrics: metrics.clone(),
            batch: config.batch,
            stop: stop.clone(),
        };
        let registry = config.registry.clone().map(Registry::new).transpose();
        let registry = registry.map_err(|e| ServeError::Config(format!("registry: {e}")))?;
        let decoder = Arc::new(EventDecoder { registry, default_project: config.default_project.clone() });
        let (marks, retention) = (erasure::marks(config)?, config.retention.rows());
        let mut instance = Self {
            address: None,
            mail_address: None,
            backends,
            metrics,
            projects: projects.clone(),
            stop,
            tasks: JoinSet::new(),
        };
        instance.spawn("definitions", async move { Ok(definitions.run().await?) });
        instance.spawn("providers", async move { Ok(hearing.run().await?) });
        let telling = health::tell(Arc::clone(&sinks), log, instance.stop.clone());
        instance.spawn("providers", async move { Ok(telling.await?) });

        if roles.contains(&Role::Http) {
            let (backends, metrics) = (&instance.backends, &instance.metrics);
            let api = crate::api::build(config, backends, projects.clone(), Arc::clone(&sinks), &clock, metrics)
                .map_err(|e| ServeError::Config(e.to_string()))?;
            instance.listen(config.listen, api).await?;
            instance.hear_mail(&config.mail, projects.clone(), &clock).await?;
            instance.fetch_updates(projects.clone(), &clock);
        }
        for _ in 0..config.workers {
            if roles.contains(&Role::Flow) {
                let (decoder, projects) = (Arc::clone(&decoder), projects.clone());
                let stage = FlowStage { decoder, default_project: config.default_project.clone(), projects };
                instance.work(stage, &context);
            }
            if roles.contains(&Role::Route) {
                instance.work(RouteStage { projects: projects.clone(), retention }, &context);
                instance.work(MembersStage { projects: projects.clone(), marks: marks.clone() }, &context);
            }
            if roles.contains(&Role::Track) {
                instance.work(TrackStage { projects: projects.clone(), retention }, &context);
                instance.work(DeadLettersStage { retention }, &context);
            }
            if roles.contains(&Role::Schedule) {
                instance.work(ScheduleStage, &context);
            }
            if roles.contains(&Role::Deliver) {
                for channel in Channel::ALL {
                    let (context, projects) = (context.clone(), projects.clone());
                    let (sinks, window) = (Arc::clone(&sinks), config.window);
                    instance.spawn("deliver", async move {
                        Ok(Deliverer::join(channel, context, projects, sinks, window).await?.run().await?)
                    });
                }
            }
        }
        instance.watch_lag();
        let (sweep, stop) = (Sweep::new(&instance.backends, retention, Clock::system()), instance.stop.clone());
        instance.spawn("sweep", async move {
            sweep.run(&stop).await;
            Ok(())
        });
        Ok(instance)
    }

    fn spawn(&mut self, what: &'static str, task: impl Future<Output = Result<(), ServeError>> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            let end = task.await;
            // One part without the others would look alive and do nothing: they end together.
            stop.cancel();
            (what, end)
        });
    }

    fn work<S: Stage>(&mut self, stage: S, context: &Context) {
        let context = context.clone();
        self.spawn(S::P::NAME, async move {
            match Worker::join(stage, context.clone()).await {
                Ok(worker) => Ok(worker.run().await?),
                Err(_) if context.stop.is_cancelled() => Ok(()),
                Err(error) => Err(error.into()),
            }
        });
    }

    async fn listen(&mut self, at: SocketAddr, api: Arc<http::Api>) -> Result<(), ServeError> {
        let io = |what: String| move |source| ServeError::Io { what, source };
        let listener = TcpListener::bind(at).await.map_err(io(format!("listen: {at}")))?;
        self.address = Some(listener.local_addr().map_err(io(format!("listen: {at}")))?);
        let stop = self.stop.clone();
        self.spawn("http", async move {
            axum::serve(listener, http::router(api))
                .with_graceful_shutdown(async move { stop.cancelled().await })
                .await
                .map_err(|source| ServeError::Io { what: "http".into(), source })
        });
        Ok(())
    }

    /// Lag by group, topic and partition, refreshed every few seconds.
    fn watch_lag(&mut self) {
        let (log, metrics, stop) = (Arc::clone(&self.backends.log), self.metrics.clone(), self.stop.clone());
        self.spawn("lag", async move {
            while stop.run_until_cancelled(tokio::time::sleep(Duration::from_secs(5))).await.is_some() {
                for (group, topics) in groups() {
                    for topic in topics {
                        if let Err(error) = refresh_lag(&*log, &metrics, &group, topic).await {
                            tracing::debug!(group, %topic, %error, "lag unknown");
                        }
                    }
                }
            }
            Ok(())
        });
    }

    /// Asks Telegram what members say, where the definitions say so.
    fn fetch_updates(&mut self, projects: watch::Receiver<Projects>, clock: &Clock) {
        let (log, store) = (Arc::clone(&self.backends.log), Arc::clone(&self.backends.store));
        let (metrics, clock, stop) = (self.metrics.clone(), clock.clone(), self.stop.clone());
        let updates = Updates { log, store, projects, clock, metrics, stop };
        self.spawn("updates", async move { Ok(updates.run().await?) });
    }

    /// Takes what comes back by mail, where the configuration says so.
    async fn hear_mail(
        &mut self,
        config: &MailConfig,
        projects: watch::Receiver<Projects>,
        clock: &Clock,
    ) -> Result<(), ServeError> {
        let Backends { log, store, .. } = self.backends.clone();
        let (metrics, clock) = (self.metrics.clone(), clock.clone());
        let returns = Arc::new(Returns { log, store, projects, metrics, clock });
        if let Some(address) = config.listen {
            let cannot = |error| ServeError::Config(format!("mail.listen: {address}: {error}"));
            let listener = TcpListener::bind(address).await.map_err(cannot)?;
            self.mail_address = Some(listener.local_addr().map_err(cannot)?);
            let domains: Vec<&str> = config.domains.iter().map(String::as_str).collect();
            let protocol = if config.lmtp { Protocol::Lmtp } else { Protocol::Smtp };
            let settings = listener::Config { protocol, ..listener::Config::new(&domains) };
            let (handler, stop) = (Arc::clone(&returns), self.stop.clone());
            self.spawn("mail", async move {
                listener::serve(listener, settings, None, handler, stop).await;
                Ok(())
            });
        }
        if let Some(folder) = config.maildir.clone() {
            let keep_bytes = listener::Config::new(&[]).keep_bytes as u64;
            let (maildir, stop) = (Maildir { folder, every: Duration::from_secs(5), keep_bytes }, self.stop.clone());
            self.spawn("maildir", async move {
                maildir.watch(&*returns, &stop).await;
                Ok(())
            });
        }
        Ok(())
    }

    /// Ends everything in order: no new work, what is begun is finished and committed.
    ///
    /// # Errors
    /// The first error that any part ended with.
    pub async fn stop(mut self) -> Result<(), ServeError> {
        self.stop.cancel();
        self.wait().await
    }

    /// Waits until everything has ended, by a signal to [`Instance::stopper`] or by an error.
    ///
    /// # Errors
    /// The first error that any part ended with.
    pub async fn wait(&mut self) -> Result<(), ServeError> {
        let mut first = Ok(());
        while let Some(ended) = self.tasks.join_next().await {
            let end = match ended {
                Ok((what, end)) => end.inspect_err(|error| tracing::error!(what, %error, "ended")),
                Err(error) => {
                    tracing::error!(%error, "a task panicked");
                    self.stop.cancel();
                    Err(ServeError::Task("the pipeline"))
                }
            };
            first = first.and(end);
        }
        first
    }

    /// Cancel this to end the process in order.
    #[must_use]
    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }
}

/// Every consumer group with its topics.
#[must_use]
pub fn groups() -> Vec<(String, Vec<Topic>)> {
    use bellwether_processors::{
        dead_letters::DeadLetters, flow::Flow, members::Members, route::Route, schedule::Schedule, track::Track,
    };
    let mut groups = vec![
        (Flow::NAME.to_owned(), vec![Topic::Events]),
        (Members::NAME.to_owned(), vec![Topic::Members]),
        (Route::NAME.to_owned(), Lane::ALL.map(Topic::Notifications).to_vec()),
        (Track::NAME.to_owned(), vec![Topic::Receipts, Topic::Decisions]),
        (Schedule::NAME.to_owned(), Lane::ALL.map(Topic::Scheduled).to_vec()),
        (DeadLetters::NAME.to_owned(), vec![Topic::DeadLetters]),
    ];
    groups.extend(Channel::ALL.map(|c| (group(c), Lane::ALL.map(|l| Topic::Deliveries(c, l)).to_vec())));
    groups
}

async fn refresh_lag(
    log: &dyn bellwether_connectors::log::Log,
    metrics: &Metrics,
    group: &str,
    topic: Topic,
) -> Result<(), bellwether_connectors::log::LogError> {
    for (at, lag) in lag(log, group, topic).await? {
        let partition = at.partition.to_string();
        let gauge = metrics.lag.with_label_values(&[group, topic.name(), &partition]);
        gauge.set(i64::try_from(lag).unwrap_or(i64::MAX));
    }
    Ok(())
}

/// Records of each partition that the group has not committed.
///
/// # Errors
/// The log's.
pub async fn lag(
    log: &dyn bellwether_connectors::log::Log,
    group: &str,
    topic: Topic,
) -> Result<Vec<(TopicPartition, u64)>, bellwether_connectors::log::LogError> {
    let progress = log.progress(group, topic).await?;
    let bounds = log.bounds(topic).await?;
    Ok(bounds
        .into_iter()
        .map(|b| {
            let done = progress.iter().find(|c| c.at == b.at).map_or(b.start, |c| c.committed.offset);
            (b.at, b.end.saturating_sub(done))
        })
        .collect())
}
