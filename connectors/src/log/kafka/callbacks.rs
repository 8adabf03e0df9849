//! librdkafka's callbacks, turned into one closed enum and into log lines.
//! They run on the thread that polls, while it polls; so they note what happened and decide nothing.

use super::{super::TopicPartition, Names, locked};
use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    types::RDKafkaRespErr,
};
use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

/// A consumer of librdkafka with our callbacks: a member of a group, or a client that only asks and reads.
pub(super) type Client = BaseConsumer<Callbacks>;

/// What a rebalance asks of a member. The eager protocol gives and takes all partitions at once, and waits for our answer each time.
#[derive(Debug)]
pub(super) enum GroupEvent {
    /// To be answered by `assign`.
    Assigned(Vec<TopicPartition>),
    /// To be answered by `unassign`; until then the group waits for us.
    Revoked {
        partitions: Vec<TopicPartition>,
        /// We were put out already.
        lost: bool,
    },
}

/// Receives the callbacks of one consumer.
#[derive(Debug)]
pub(super) struct Callbacks {
    names: Arc<Names>,
    /// At most one in fact: the next comes after the answer.
    events: Mutex<VecDeque<GroupEvent>>,
    /// Counts every callback. `BaseConsumer::poll` says "nothing" both when the queue is empty and when it served a callback:
    /// this tells them apart.
    served: AtomicUsize,
    /// The member is leaving: nobody takes events any more, so rebalances are answered on the spot.
    leaving: AtomicBool,
}

impl Callbacks {
    pub(super) fn new(names: Arc<Names>) -> Self {
        Self {
            names,
            events: Mutex::new(VecDeque::new()),
            served: AtomicUsize::new(0),
            leaving: AtomicBool::new(false),
        }
    }

    pub(super) fn served(&self) -> usize {
        self.served.load(Ordering::Relaxed)
    }

    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(super) fn next_event(&self) -> Option<GroupEvent> {
        locked(&self.events).pop_front()
    }

    fn count(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.count();
        log(level, facility, message);
    }

    fn stats_raw(&self, _: &[u8]) {
        self.count();
    }

    /// The poll returns the same error, where it is judged.
    fn error(&self, _: KafkaError, _: &str) {
        self.count();
    }
}

impl ConsumerContext for Callbacks {
    /// Only notes the event: the default would answer it here, and the owner could commit nothing more.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.count();
        if self.leaving.load(Ordering::Relaxed) {
            if let Err(error) = consumer.unassign() {
                tracing::debug!(%error, "kafka: unassign while leaving the group");
            }
            return;
        }
        let partitions = self.names.partitions(list);
        locked(&self.events).push_back(match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => GroupEvent::Assigned(partitions),
            _ => GroupEvent::Revoked { partitions, lost: consumer.assignment_lost() },
        });
    }

    fn commit_callback(&self, _: KafkaResult<()>, _: &TopicPartitionList) {
        self.count();
    }
}

/// For a client whose errors are the answers to its calls.
#[derive(Debug)]
pub(super) struct LogLines;

impl ClientContext for LogLines {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn error(&self, error: KafkaError, _: &str) {
        tracing::debug!(%error, "kafka");
    }
}

/// One of librdkafka's own log lines. It holds down repetitions itself (`log.connection.close`, "identical errors suppressed").
pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(target: "librdkafka", facility, "{message}");
        }
        // "Error" is what it says of a broker that is restarted; it goes on by itself.
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => {
            tracing::warn!(target: "librdkafka", facility, "{message}")
        }
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "librdkafka", facility, "{message}"),
        RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
    }
}
