//! Appends: one idempotent producer for the process, bounded, with one completion a batch.
//! It does not choose partitions and does not repeat what failed.

use super::{super::LogError, aside, callbacks, error, error::Trouble, locked};
use rdkafka::{
    ClientConfig, ClientContext, Message,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer},
};
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, RwLock},
};
use tokio::sync::Notify;

/// A record whose partition is known.
#[derive(Debug)]
pub(super) struct Routed<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) record: &'a super::super::Append,
}

/// Why a batch was not appended, and the first of its records that was not.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) index: usize,
    pub(super) code: RDKafkaErrorCode,
}

type Native = ThreadedProducer<Deliveries>;

/// The producer.
pub(super) struct Producer {
    config: ClientConfig,
    /// Replaced after an error that librdkafka calls fatal.
    current: RwLock<Arc<Native>>,
}

impl fmt::Debug for Producer {
    /// Without the settings, which hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer").finish_non_exhaustive()
    }
}

impl Producer {
    pub(super) fn new(config: ClientConfig) -> Result<Self, LogError> {
        let current = RwLock::new(Arc::new(create(&config)?));
        Ok(Self { config, current })
    }

    /// Appends all records; returns their offsets once all are acknowledged.
    pub(super) async fn append(&self, records: &[Routed<'_>]) -> Result<Vec<u64>, Failed> {
        let native = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let mut result = append(&native, records).await;
        if let Err(failed) = &mut result
            && let Some((cause, _)) = native.client().fatal_error()
        {
            failed.code = cause;
            self.replace(&native, cause);
        }
        result
    }

    /// Why no broker can be reached, if that is so: since its start the producer looks for one, and is told in words what stands in the way.
    pub(super) fn obstacle(&self) -> Option<LogError> {
        let native = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        let obstacle = locked(&native.client().context().obstacle).clone();
        obstacle.map(|(code, words)| error::from_connection(code, &words))
    }

    /// A broker was reached.
    pub(super) fn reached(&self) {
        let native = Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner));
        locked(&native.client().context().obstacle).take();
    }

    /// An idempotent producer that cannot tell any more what the broker has (its sequence numbers do not fit) refuses all further
    /// work. The callers were told that their appends may or may not have happened; a new producer starts a new sequence.
    fn replace(&self, broken: &Arc<Native>, code: RDKafkaErrorCode) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&current, broken) {
            return;
        }
        match create(&self.config) {
            Ok(new) => {
                tracing::warn!(error = %code, "kafka: the producer's sequence is broken, starting another");
                let old = std::mem::replace(&mut *current, Arc::new(new));
                // Its destructor waits for its threads.
                aside(move || drop(old));
            }
            Err(error) => {
                tracing::error!(%error, "kafka: the producer's sequence is broken, and no other could be started")
            }
        }
    }
}

fn create(config: &ClientConfig) -> Result<Native, LogError> {
    let deliveries = Deliveries { room: Notify::new(), trouble: Trouble::new("producer"), obstacle: Mutex::default() };
    config.create_with_context(deliveries).map_err(|e| error::from_kafka(&e, "producer"))
}

async fn append(native: &Native, records: &[Routed<'_>]) -> Result<Vec<u64>, Failed> {
    let batch = Arc::new(Batch::new(records.len()));
    for (index, record) in records.iter().enumerate() {
        enqueue(native, record, Ticket { batch: Arc::clone(&batch), index }).await?;
    }
    batch.done().await
}

/// Hands a record to librdkafka, which copies it. Where its queue is full, waits until a delivery made room.
async fn enqueue(native: &Native, routed: &Routed<'_>, ticket: Ticket) -> Result<(), Failed> {
    let index = ticket.index;
    let refused = |code| Failed { index, code };
    let mut record = BaseRecord::with_opaque_to(routed.topic, Box::new(ticket))
        .partition(i32::try_from(routed.partition).map_err(|_| refused(RDKafkaErrorCode::UnknownPartition))?)
        .key(routed.record.key.as_slice())
        .payload(routed.record.payload.as_slice());
    if !routed.record.headers.is_empty() {
        let empty = OwnedHeaders::new_with_capacity(routed.record.headers.len());
        record =
            record.headers(routed.record.headers.iter().fold(empty, |headers, header| {
                headers.insert(Header { key: &header.name, value: Some(&header.value) })
            }));
    }
    let room = &native.client().context().room;
    loop {
        // Listens before it tries: a delivery in between is not missed. A full queue has deliveries to come, each within the
        // delivery timeout.
        let mut delivered = std::pin::pin!(room.notified());
        delivered.as_mut().enable();
        match native.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => record = back,
            Err((error, _)) => return Err(refused(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail))),
        }
        delivered.await;
    }
}

/// The records of one append that are under way.
#[derive(Debug)]
struct Batch {
    arrivals: Mutex<Arrivals>,
    complete: Notify,
}

#[derive(Debug)]
struct Arrivals {
    /// By index; 0 until it arrived.
    offsets: Vec<u64>,
    missing: usize,
    failed: Option<Failed>,
}

/// Where a delivery report belongs.
#[derive(Debug)]
struct Ticket {
    batch: Arc<Batch>,
    index: usize,
}

impl Batch {
    fn new(records: usize) -> Self {
        let arrivals = Arrivals { offsets: vec![0; records], missing: records, failed: None };
        Self { arrivals: Mutex::new(arrivals), complete: Notify::new() }
    }

    fn arrived(&self, index: usize, outcome: Result<u64, RDKafkaErrorCode>) {
        let mut arrivals = locked(&self.arrivals);
        match outcome {
            Ok(offset) => arrivals.offsets[index] = offset,
            Err(code) => {
                arrivals.failed.get_or_insert(Failed { index, code });
            }
        }
        arrivals.missing -= 1;
        if arrivals.missing == 0 {
            self.complete.notify_one();
        }
    }

    /// Waits for the last report. librdkafka reports every record within the delivery timeout, whatever becomes of it.
    async fn done(&self) -> Result<Vec<u64>, Failed> {
        self.complete.notified().await;
        let mut arrivals = locked(&self.arrivals);
        match arrivals.failed.take() {
            Some(failed) => Err(failed),
            None => Ok(std::mem::take(&mut arrivals.offsets)),
        }
    }
}

/// Receives the producer's callbacks, on its polling thread.
#[derive(Debug)]
struct Deliveries {
    /// Notified at every delivery.
    room: Notify,
    trouble: Trouble,
    /// The last error of a connection.
    obstacle: Mutex<Option<(RDKafkaErrorCode, String)>>,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        callbacks::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, words: &str) {
        if let Some(code) = error.rdkafka_error_code() {
            self.trouble.met(code);
            if code != RDKafkaErrorCode::AllBrokersDown {
                *locked(&self.obstacle) = Some((code, words.to_owned()));
            }
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Box<Ticket>) {
        let outcome = match result {
            Ok(message) => {
                if self.trouble.over() {
                    locked(&self.obstacle).take();
                }
                // A duplicate that the broker recognised but has forgotten the place of: durable, but we cannot say where.
                u64::try_from(message.offset()).map_err(|_| RDKafkaErrorCode::DuplicateSequenceNumber)
            }
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        ticket.batch.arrived(ticket.index, outcome);
        self.room.notify_waiters();
    }
}
