//! What comes back by mail: reports on letters of ours and unsubscribes, read by the connectors, put on the log as receipts. A message is
//! acknowledged to whoever brought it only then (law 1).

use crate::metrics::Metrics;
use async_trait::async_trait;
use bellwether_connectors::{
    channels::{Reference, smtp},
    log::{Append, Log},
    mail::{
        Handler, Incoming, NotKept,
        origin::{Origin, ReturnKey},
        report::Report,
    },
    store::Store,
};
use bellwether_processors::definitions::Projects;
use bellwether_schemas::{
    Channel, DeliveryId, NotificationId,
    member::Profile,
    records::{Receipt, Record},
    rows::{Read, Row},
    tables::{MemberRow, PROFILE, StoryRow},
};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::sync::watch;

/// Where mail comes in.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailConfig {
    /// Address of a listener of ours; absent means none.
    pub listen: Option<SocketAddr>,
    /// It speaks LMTP (RFC 2033), to a mail server of yours, instead of SMTP.
    pub lmtp: bool,
    /// Domains that mail is taken for: the `return_path_domain` of every provider.
    pub domains: Vec<String>,
    /// A maildir that a mail server of yours delivers to; absent means none.
    pub maildir: Option<PathBuf>,
}

/// Reads reports with the keys of every project's providers.
pub struct Returns {
    /// Where receipts go.
    pub log: Arc<dyn Log>,
    /// Where stories are, for letters that come back without their headers.
    pub store: Arc<dyn Store>,
    /// Today's definitions, which name the keys.
    pub projects: watch::Receiver<Projects>,
    /// Counts what came.
    pub metrics: Metrics,
    /// The time.
    pub clock: crate::runtime::clock::Clock,
}

impl Returns {
    fn keys(&self) -> Vec<ReturnKey> {
        let projects = self.projects.borrow();
        let providers = projects.iter().flat_map(|project| project.document.providers.values());
        let settings = providers.filter(|provider| provider.kind == smtp::KIND).map(|provider| &provider.settings);
        settings
            .filter_map(|settings| serde_json::from_value::<smtp::Config>(settings.clone().into()).ok())
            .filter_map(|config| {
                config.return_key().inspect_err(|error| tracing::error!(%error, "mail cannot be read")).ok()
            })
            .flatten()
            .collect()
    }
}

impl Returns {
    /// Whose letter a mark is of, by its notification's story. The address is that of the member's from which the delivery's id derives: it stands
    /// nowhere else, and where the member has it no more there is nothing to suppress.
    async fn origin(&self, notification: NotificationId, attempt: i32) -> Result<Origin, NotKept> {
        let not_kept = |error: &dyn std::fmt::Display| NotKept(error.to_string());
        let read = async |read: Read| {
            let rows = self.store.read(&[read]).await.map_err(|error| not_kept(&error))?;
            Ok::<_, NotKept>(rows.into_iter().flatten().collect::<Vec<_>>())
        };
        let mut told = Vec::new();
        for cells in read(StoryRow::read_all(notification.0)).await? {
            let row = StoryRow::from_cells(cells).map_err(|error| not_kept(&error))?;
            told.extend(serde_json::from_str::<Receipt>(&row.detail).ok().filter(|r| r.channel == Channel::Email));
        }
        // Whatever was told of this try; the word of the server that took the letter may be told of the first one only.
        let told = told.iter().find(|r| r.attempt == attempt).or_else(|| told.first());
        let told = told.ok_or_else(|| NotKept(format!("nothing is known yet of notification {notification}")))?;
        let profile = read(MemberRow::read_one(told.project.as_str(), told.member.as_str(), PROFILE, "")).await?;
        let profile = profile.into_iter().next().map(MemberRow::from_cells).transpose();
        let profile = profile.map_err(|error| not_kept(&error))?.as_ref().map(Profile::from_row).transpose();
        let profile = profile.map_err(|error| not_kept(&error))?.unwrap_or_default();
        let mut addresses = profile.addresses.get(&Channel::Email).into_iter().flatten().map(|a| &a.address);
        let is_it = |address: &&String| DeliveryId::derive(notification, Channel::Email, address) == told.delivery;
        Ok(Origin {
            reference: Reference {
                delivery: told.delivery,
                notification,
                project: told.project.clone(),
                member: told.member.clone(),
                template: told.template.clone(),
                provider: told.provider.clone(),
            },
            attempt,
            address: addresses.find(is_it).cloned().unwrap_or_default(),
        })
    }
}

#[async_trait]
impl Handler for Returns {
    async fn take(&self, message: Incoming) -> Result<(), NotKept> {
        let mut report = bellwether_connectors::mail::report::read(&self.keys(), &message);
        self.metrics.mail_received.with_label_values(&[name(&report)]).inc();
        if let Some((notification, attempt)) = report.mark() {
            report = report.about(self.origin(notification, attempt).await?);
        }
        let Some(receipt) = report.receipt(self.clock.now()) else { return Ok(()) };
        let append = Append::of(&Record::Receipt(receipt)).map_err(|error| NotKept(error.to_string()))?;
        self.log.append(vec![append]).await.map(drop).map_err(|error| NotKept(error.to_string()))
    }
}

/// The label of a report in metrics. What names none of our letters (`unmatched`) is counted and goes no further.
const fn name(report: &Report) -> &'static str {
    match report {
        Report::Bounce { .. } => "bounce",
        Report::Delivered(_) => "delivered",
        Report::Delayed => "delayed",
        Report::Complaint { .. } => "complaint",
        Report::Unsubscribe(_) => "unsubscribe",
        Report::AutoReply => "auto_reply",
        Report::Unmatched => "unmatched",
        Report::Other => "other",
    }
}
