//! Fetches what members say to Telegram's bots, for those without a public address (`updates: poll`), and puts what follows on the log.
//! Whoever owns the one partition of `definitions` in the group [`GROUP`] fetches, for all bots: two that fetched would put each other out.

use crate::{
    inbound::{commands, heard, profile},
    metrics::Metrics,
    runtime::{clock::Clock, retry::until_available, worker::Fatal},
};
use bellwether_connectors::{
    channels::{
        ConfigError, SendError,
        telegram::{self, Config, TelegramSink, Updates as How},
    },
    log::{Append, Log, LogError, Polled},
    store::{Store, StoreError},
    webhooks::telegram::Event,
};
use bellwether_processors::definitions::Projects;
use bellwether_schemas::{
    Topic,
    codec::CodecError,
    definitions::Provider,
    records::{MemberAction, Record},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::watch, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// Consumer group of those who may fetch. It reads and commits nothing: owning the partition is all that it is for.
pub const GROUP: &str = "updates";
/// How long Telegram may wait for the first update.
const WAIT: Duration = Duration::from_secs(25);
/// How long an end waits for Telegram to note what is on the log.
const LAST_WORD: Duration = Duration::from_secs(2);
/// Until a bot that was refused is tried again, with its secret read anew: only an operator ends such a trouble.
const REFUSED: Duration = Duration::from_secs(60);
/// How long the next update waits until an address that the last one gave is known.
const APPLY_PATIENCE: Duration = Duration::from_secs(10);

/// What fetching needs of the house.
#[derive(Clone, Debug)]
pub struct Updates {
    /// Where commands go, and who lends the lease.
    pub log: Arc<dyn Log>,
    /// Where members are found by their addresses.
    pub store: Arc<dyn Store>,
    /// Today's bots.
    pub projects: watch::Receiver<Projects>,
    /// The time.
    pub clock: Clock,
    /// Says which bot is refused.
    pub metrics: Metrics,
    /// Ends all of it.
    pub stop: CancellationToken,
}

/// Project and provider.
type Name = (String, String);

/// A bot that is asked.
struct Asked {
    provider: Provider,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Why a bot cannot be asked any further for now.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Settings(#[from] ConfigError),
    #[error("settings: {0}")]
    Form(#[from] serde_json::Error),
    #[error(transparent)]
    Refused(#[from] SendError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Record(#[from] CodecError),
}

impl Updates {
    /// Runs until told to stop. Joins the group once there is a bot to ask.
    ///
    /// # Errors
    /// The log refuses us.
    pub async fn run(self) -> Result<(), Fatal> {
        let mut projects = self.projects.clone();
        let first = async { projects.wait_for(|projects| !wanted(projects).is_empty()).await.is_ok() };
        if self.stop.run_until_cancelled(first).await != Some(true) {
            return Ok(());
        }
        let joined = until_available("log", &self.stop, || self.log.subscribe(GROUP, &[Topic::Definitions])).await;
        let mut consumer = match joined {
            Err(_) if self.stop.is_cancelled() => return Ok(()),
            joined => joined?,
        };
        let (mut asked, mut is_owner) = (BTreeMap::new(), false);
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                polled = consumer.poll(0, Duration::from_secs(1)) => match polled {
                    Ok(Polled::Assigned(_)) => is_owner = true,
                    Ok(Polled::Revoked { .. }) => is_owner = false,
                    Ok(Polled::Records(_)) => {}
                    Err(error) if error.is_transient() => {
                        tracing::warn!(%error, "poll failed; polling again");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                    Err(error) => return Err(error.into()),
                },
            }
            let wanted = if is_owner { wanted(&self.projects.borrow()) } else { BTreeMap::new() };
            self.ask(&mut asked, wanted).await;
        }
        self.ask(&mut asked, BTreeMap::new()).await;
        consumer.close().await;
        Ok(())
    }

    /// Begins with the bots that are wanted and not asked, and ends with those that are not wanted as they are asked.
    async fn ask(&self, asked: &mut BTreeMap<Name, Asked>, wanted: BTreeMap<Name, Provider>) {
        let is_wanted = |name: &Name, one: &Asked| wanted.get(name) == Some(&one.provider) && !one.task.is_finished();
        let ending: Vec<Asked> = asked.extract_if(.., |name, one| !is_wanted(name, one)).map(|(_, one)| one).collect();
        ending.iter().for_each(|one| one.stop.cancel());
        for one in ending {
            if let Err(error) = one.task.await {
                tracing::error!(%error, "fetching updates panicked");
            }
        }
        for (name, provider) in wanted {
            asked.entry(name).or_insert_with_key(|name| {
                let stop = self.stop.child_token();
                let task = tokio::spawn(self.clone().follow(name.clone(), provider.clone(), stop.clone()));
                Asked { provider, stop, task }
            });
        }
    }

    /// Asks one bot until told to stop. A refusal is told once, and tried again after a while.
    async fn follow(self, name: Name, provider: Provider, stop: CancellationToken) {
        let label = format!("{}/{}", name.0, name.1);
        let refused = self.metrics.updates_refused.with_label_values(&[&label]);
        let mut next = None;
        while !stop.is_cancelled() {
            let Err(error) = self.fetch(&name, &provider, &mut next, &stop).await else { break };
            // Still set: it has been said.
            if refused.get() == 0 {
                tracing::error!(provider = label, %error, "updates cannot be fetched; trying again now and then");
            }
            refused.set(1);
            stop.run_until_cancelled(tokio::time::sleep(REFUSED)).await;
        }
        refused.set(0);
    }

    /// Fetches and takes updates until told to stop, in order. An update is confirmed, by asking for the one after it, once all that follows from it
    /// is on the log (law 1).
    async fn fetch(
        &self,
        name: &Name,
        provider: &Provider,
        next: &mut Option<i64>,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        let sink = TelegramSink::new(config(provider)?)?;
        let label = format!("{}/{}", name.0, name.1);
        let refused = self.metrics.updates_refused.with_label_values(&[&label]);
        loop {
            let from = *next;
            let asking = until_available("Telegram", stop, || sink.updates(from, WAIT));
            let Some(updates) = stop.run_until_cancelled(asking).await else { break };
            let updates = match updates {
                Err(_) if stop.is_cancelled() => break,
                updates => updates?,
            };
            refused.set(0);
            for update in updates {
                if let Some(event) = update.event {
                    match self.take(name, event, stop).await {
                        Err(_) if stop.is_cancelled() => break,
                        taken => taken?,
                    }
                }
                *next = Some(update.id + 1);
            }
        }
        // Whoever fetches after us need not hear again what we have taken.
        if next.is_some() {
            let confirmed = tokio::time::timeout(LAST_WORD, sink.updates(*next, Duration::ZERO)).await;
            if !matches!(confirmed, Ok(Ok(_))) {
                tracing::debug!(provider = label, "the last updates were not confirmed, and will be heard again");
            }
        }
        Ok(())
    }

    async fn take(&self, (project, provider): &Name, event: Event, stop: &CancellationToken) -> Result<(), Trouble> {
        let heard = heard(event, self.clock.now());
        let find = || commands(&*self.store, project, provider, heard.clone());
        let records: Vec<Record> =
            until_available("store", stop, find).await?.into_iter().map(Record::Member).collect();
        if records.is_empty() {
            return Ok(());
        }
        let appends = records.iter().map(Append::of).collect::<Result<Vec<_>, _>>()?;
        let positions = until_available("log", stop, || self.log.append(appends.clone())).await?;
        for (record, position) in records.iter().zip(positions) {
            if let Record::Member(command) = record
                && command.action == MemberAction::AddAddress
            {
                self.until_applied(project, &command.member, position.offset, stop).await?;
            }
        }
        Ok(())
    }

    /// Waits, for a while, until a member has the address that a command gave: what is said from it next must find the member. The one who applies
    /// commands may be another process, so this asks at growing intervals.
    async fn until_applied(
        &self,
        project: &str,
        member: &str,
        offset: u64,
        stop: &CancellationToken,
    ) -> Result<(), Trouble> {
        let (deadline, mut pause) = (Instant::now() + APPLY_PATIENCE, Duration::from_millis(2));
        while Instant::now() < deadline && !stop.is_cancelled() {
            let known = until_available("store", stop, || profile(&*self.store, project, member)).await?;
            if known.is_some_and(|profile| u64::try_from(profile.applied).is_ok_and(|applied| applied >= offset)) {
                break;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(100));
        }
        Ok(())
    }
}

/// The bots of every project that are to be asked.
fn wanted(projects: &Projects) -> BTreeMap<Name, Provider> {
    let mut wanted = BTreeMap::new();
    for project in projects.iter() {
        for (name, provider) in &project.document.providers {
            let polls = || config(provider).is_ok_and(|config| config.updates == How::Poll);
            if provider.kind == telegram::KIND && polls() {
                wanted.insert((project.project.clone(), name.clone()), provider.clone());
            }
        }
    }
    wanted
}

fn config(provider: &Provider) -> Result<Config, serde_json::Error> {
    serde_json::from_value(serde_json::Value::Object(provider.settings.clone()))
}
