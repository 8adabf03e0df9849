//! What comes back by mail: reports on letters of ours and unsubscribes, read by the connectors, put on the log as receipts. A message is
//! acknowledged to whoever brought it only then (law 1).

use crate::metrics::Metrics;
use async_trait::async_trait;
use bellwether_connectors::{
    channels::smtp,
    log::{Append, Log},
    mail::{
        Handler, Incoming, NotKept,
        origin::ReturnKey,
        report::{Letter, Report},
    },
};
use bellwether_processors::definitions::Projects;
use bellwether_schemas::records::Record;
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

#[async_trait]
impl Handler for Returns {
    async fn take(&self, message: Incoming) -> Result<(), NotKept> {
        let report = bellwether_connectors::mail::report::read(&self.keys(), &message);
        self.metrics.mail_received.with_label_values(&[name(&report)]).inc();
        let Some(receipt) = report.receipt(self.clock.now()) else { return Ok(()) };
        let append = Append::of(&Record::Receipt(receipt)).map_err(|error| NotKept(error.to_string()))?;
        self.log.append(vec![append]).await.map(drop).map_err(|error| NotKept(error.to_string()))
    }
}

/// The label of a report in metrics. What names none of our letters (`unmatched`), or one of which only the mark came back (`mark`), is
/// counted and goes no further.
const fn name(report: &Report) -> &'static str {
    match report {
        Report::Bounce { letter: Letter::Mark { .. }, .. } | Report::Delivered(Letter::Mark { .. }) => "mark",
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
