//! Every metric of the house, named in this one place. Labels are closed sets or configuration, never personal data.

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// The metrics of one process. Cheap to clone: the vectors are shared.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    /// Events accepted, by project.
    pub events_accepted: IntCounterVec,
    /// Events refused at the door, by reason.
    pub events_rejected: IntCounterVec,
    /// Notifications and events decided, by processor and outcome.
    pub decided: IntCounterVec,
    /// Ends of delivery attempts, by channel, lane and outcome (`accepted` or the kind of error).
    pub delivered: IntCounterVec,
    /// Seconds from the event's acceptance to the provider's, by channel and lane.
    pub end_to_end: HistogramVec,
    /// Records not yet committed, by group, topic and partition.
    pub lag: IntGaugeVec,
    /// Dead letters, by processor and reason.
    pub dead_letters: IntCounterVec,
    /// Seconds a batch took, by processor.
    pub batch_seconds: HistogramVec,
    /// Records a batch had, by processor.
    pub batch_records: HistogramVec,
    /// Rows read and written and calls made, by operation.
    pub store_operations: IntCounterVec,
    /// Records appended, polled and commits made, by operation.
    pub log_operations: IntCounterVec,
    /// Calls in flight, by provider.
    pub provider_in_flight: IntGaugeVec,
    /// 1 while a provider told us to wait, by provider.
    pub provider_held: IntGaugeVec,
    /// 1 while a provider is stopped because it refuses our account, by provider.
    pub provider_stopped: IntGaugeVec,
    /// Webhook calls whose signature did not verify, by provider.
    pub webhooks_unverified: IntCounterVec,
    /// Links of messages that were called, by what they are for and how it ended.
    pub tracking_requests: IntCounterVec,
    /// 1 while a bot's updates cannot be fetched, by provider.
    pub updates_refused: IntGaugeVec,
    /// Segments of text messages that providers took, by provider and encoding.
    pub sms_segments: IntCounterVec,
    /// Messages that came in by mail, by what they were.
    pub mail_received: IntCounterVec,
}

const SECONDS: &[f64] =
    &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0];
const RECORDS: &[f64] = &[1.0, 2.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0];

impl Metrics {
    /// Registers everything.
    ///
    /// # Errors
    /// A name or label that Prometheus does not take: a defect of this file.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counter = |name: &str, help: &str, labels: &[&str]| -> Result<IntCounterVec, prometheus::Error> {
            let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let gauge = |name: &str, help: &str, labels: &[&str]| -> Result<IntGaugeVec, prometheus::Error> {
            let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok(metric)
        };
        let histogram = |name: &str, help: &str, buckets: &[f64], labels: &[&str]| {
            let metric = HistogramVec::new(HistogramOpts::new(name, help).buckets(buckets.to_vec()), labels)?;
            registry.register(Box::new(metric.clone()))?;
            Ok::<_, prometheus::Error>(metric)
        };
        Ok(Self {
            events_accepted: counter(
                "bellwether_events_accepted_total",
                "Events accepted into the log.",
                &["project"],
            )?,
            events_rejected: counter("bellwether_events_rejected_total", "Events refused at the door.", &["reason"])?,
            decided: counter(
                "bellwether_decided_total",
                "Decisions, the negative ones too.",
                &["processor", "outcome"],
            )?,
            delivered: counter(
                "bellwether_delivered_total",
                "Ends of attempts to send.",
                &["channel", "lane", "outcome"],
            )?,
            end_to_end: histogram(
                "bellwether_end_to_end_seconds",
                "From the acceptance of the event to the provider's acceptance of the message.",
                SECONDS,
                &["channel", "lane"],
            )?,
            lag: gauge(
                "bellwether_consumer_lag_records",
                "Records not yet committed.",
                &["group", "topic", "partition"],
            )?,
            dead_letters: counter("bellwether_dead_letters_total", "Dead letters.", &["processor", "reason"])?,
            batch_seconds: histogram(
                "bellwether_batch_seconds",
                "From a batch's first byte to its commit.",
                SECONDS,
                &["processor"],
            )?,
            batch_records: histogram("bellwether_batch_records", "Records in a batch.", RECORDS, &["processor"])?,
            store_operations: counter("bellwether_store_operations_total", "Work asked of the store.", &["op"])?,
            log_operations: counter("bellwether_log_operations_total", "Work asked of the log.", &["op"])?,
            provider_in_flight: gauge("bellwether_provider_in_flight", "Calls in flight.", &["provider"])?,
            provider_held: gauge("bellwether_provider_held", "1 while the provider told us to wait.", &["provider"])?,
            provider_stopped: gauge(
                "bellwether_provider_stopped",
                "1 while the provider refuses our account.",
                &["provider"],
            )?,
            webhooks_unverified: counter(
                "bellwether_webhooks_unverified_total",
                "Webhook calls with a wrong signature.",
                &["provider"],
            )?,
            tracking_requests: counter(
                "bellwether_tracking_requests_total",
                "Links of messages that were called.",
                &["purpose", "outcome"],
            )?,
            updates_refused: gauge(
                "bellwether_updates_refused",
                "1 while what members say to a bot cannot be fetched.",
                &["provider"],
            )?,
            sms_segments: counter(
                "bellwether_sms_segments_total",
                "Segments of text messages, which is what carriers bill.",
                &["provider", "encoding"],
            )?,
            mail_received: counter(
                "bellwether_mail_received_total",
                "Mail that came in, by what it was.",
                &["report"],
            )?,
            registry,
        })
    }

    /// The text exposition format 0.0.4.
    ///
    /// # Errors
    /// The encoder's.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer).into_owned())
    }

    /// The end-to-end histogram of a channel and lane.
    #[must_use]
    pub fn end_to_end_of(&self, channel: &str, lane: &str) -> Histogram {
        self.end_to_end.with_label_values(&[channel, lane])
    }
}
