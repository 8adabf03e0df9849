//! Calls back what became of messages, each message's events in order, and again while nobody can take them.
//! It changes nothing but the counts of callbacks.

use super::{Event, Shared, Taken};
use axum::http::Method;
use futures::StreamExt;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::sleep};

/// How long our server has for one callback (Twilio allows 15 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Wait before the first repetition; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// What became of the callbacks. An event that the provider does not tell counts as none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Callbacks {
    /// Answered 2xx or, by a link that leads on, 3xx.
    pub acknowledged: u64,
    /// Answered otherwise, and not 429 or 5xx: not tried again.
    pub refused: u64,
    /// Given up after [`super::HttpOptions::callback_patience`].
    pub abandoned: u64,
    /// Tries that were repeated.
    pub retried: u64,
    /// Events still to be told.
    pub pending: u64,
}

/// A call that tells of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Method.
    pub method: Method,
    /// Where.
    pub url: String,
    /// Headers.
    pub headers: Vec<(&'static str, String)>,
    /// Body.
    pub body: Vec<u8>,
}

/// The events of one message, in the order in which they are told.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) taken: Arc<Taken>,
    pub(super) events: &'static [Event],
}

/// What became of one callback.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::receivers) enum Outcome {
    Acknowledged,
    Refused,
    Abandoned,
}

impl Outcome {
    pub(in crate::receivers) const fn is_acknowledged(self) -> bool {
        matches!(self, Self::Acknowledged)
    }
}

impl Callbacks {
    pub(in crate::receivers) const fn count(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Acknowledged => self.acknowledged += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Abandoned => self.abandoned += 1,
        }
    }
}

/// The client for callbacks: no proxy, no redirects.
pub(in crate::receivers) fn client() -> io::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(io::Error::other)
}

/// Tells the events of queued messages, several messages at once, each message's in order.
pub(super) async fn run(mut queued: mpsc::Receiver<Queued>, shared: Arc<Shared>, client: reqwest::Client) {
    let in_flight = shared.options.callbacks_in_flight.max(1);
    futures::stream::poll_fn(move |cx| queued.poll_recv(cx))
        .for_each_concurrent(in_flight, |Queued { taken, events }| {
            let (shared, client) = (Arc::clone(&shared), client.clone());
            async move {
                for event in events {
                    shared.tell(&client, &taken, *event).await;
                }
            }
        })
        .await;
}

impl Shared {
    /// Tells one event.
    async fn tell(&self, client: &reqwest::Client, taken: &Taken, event: Event) {
        let calls = self.contract.tell(taken, event, &self.home());
        let mut outcomes = Vec::with_capacity(calls.len());
        for call in calls {
            let retried = || self.ledger.update(|book| book.received.callbacks.retried += 1);
            outcomes.push(super::call(client, &call, self.options.callback_patience, retried).await);
        }
        self.ledger.update(|book| {
            let received = &mut book.received;
            received.callbacks.pending -= 1;
            outcomes.iter().for_each(|outcome| received.callbacks.count(*outcome));
            if outcomes.contains(&Outcome::Acknowledged) {
                received.told.entry(event).or_default().insert(Arc::clone(&taken.id));
                if event == Event::Left {
                    received.left.insert(taken.draft.to.clone());
                }
            }
        });
    }
}

/// Makes one call, until it is answered or patience ends; `retried` hears of every further try.
pub(in crate::receivers) async fn call(
    client: &reqwest::Client,
    call: &Outgoing,
    patience: Duration,
    retried: impl Fn(),
) -> Outcome {
    let start = Instant::now();
    let mut backoff = FIRST_BACKOFF;
    loop {
        let mut request = client.request(call.method.clone(), &call.url).body(call.body.clone());
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        match request.send().await.map(|answer| answer.status()) {
            Ok(status) if status.is_success() || status.is_redirection() => return Outcome::Acknowledged,
            Ok(status) if !status.is_server_error() && status.as_u16() != 429 => return Outcome::Refused,
            _ if start.elapsed() >= patience => return Outcome::Abandoned,
            _ => {}
        }
        retried();
        sleep(backoff).await;
        backoff = (backoff * 2).min(LONGEST_BACKOFF);
    }
}
