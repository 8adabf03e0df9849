//! Status callbacks: a form a status, signed as Twilio signs, tried again while nobody can take it.
//! It changes nothing but the callbacks' counts.

use super::{Shared, Text};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::StreamExt;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::ExposeSecret;
use sha1::Sha1;
use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::mpsc, time::sleep};

/// Version of the API, as it stands in paths and callbacks.
pub(super) const API_VERSION: &str = "2010-04-01";
/// How long our server has for one callback (Twilio allows 15 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Wait before the first repetition; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);

/// What a callback says of its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    Sent,
    Delivered,
    Undelivered,
}

impl Report {
    const fn status(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Undelivered => "undelivered",
        }
    }
}

/// The callbacks of one message, in their order.
#[derive(Debug)]
pub(super) struct Callback {
    pub(super) text: Arc<Text>,
    pub(super) reports: &'static [Report],
}

/// What became of one callback.
enum Outcome {
    Acknowledged,
    Refused,
    Abandoned,
}

/// X-Twilio-Signature: base64 of HMAC-SHA1, keyed by the account's token, over the URL and the parameters sorted by name, each name
/// followed by its value (Twilio, "Security: validating requests").
#[must_use]
pub fn sign(auth_token: &str, url: &str, parameters: &[(&str, &str)]) -> String {
    let mut sorted = parameters.to_vec();
    sorted.sort_unstable();
    // HMAC takes a key of any length: RFC 2104 section 2.
    let Ok(mut mac) = Hmac::<Sha1>::new_from_slice(auth_token.as_bytes()) else { return String::new() };
    mac.update(url.as_bytes());
    for (name, value) in sorted {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    BASE64.encode(mac.finalize().into_bytes())
}

/// The client for callbacks: no proxy, no redirects.
pub(super) fn client() -> io::Result<reqwest::Client> {
    reqwest::Client::builder()
        .timeout(ANSWER_TIMEOUT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .map_err(io::Error::other)
}

/// Makes the callbacks of queued messages, several messages at once, each message's in order.
pub(super) async fn run(mut queued: mpsc::Receiver<Callback>, shared: Arc<Shared>, client: reqwest::Client) {
    let in_flight = shared.options.callbacks_in_flight.max(1);
    futures::stream::poll_fn(move |cx| queued.poll_recv(cx))
        .for_each_concurrent(in_flight, |callback| {
            let (shared, client) = (Arc::clone(&shared), client.clone());
            async move {
                for report in callback.reports {
                    let outcome = shared.report(&client, &callback.text, *report).await;
                    shared.ledger.update(|book| {
                        let counts = &mut book.received.callbacks;
                        counts.pending -= 1;
                        match outcome {
                            Outcome::Acknowledged => counts.acknowledged += 1,
                            Outcome::Refused => counts.refused += 1,
                            Outcome::Abandoned => counts.abandoned += 1,
                        }
                    });
                }
            }
        })
        .await;
}

impl Shared {
    /// Makes one callback, until it is answered or patience ends.
    async fn report(&self, client: &reqwest::Client, text: &Text, report: Report) -> Outcome {
        let Some(url) = text.status_callback.as_deref() else { return Outcome::Abandoned };
        let parameters = self.parameters(text, report);
        let signature = sign(self.options.auth_token.expose_secret(), url, &parameters);
        let start = Instant::now();
        let mut backoff = FIRST_BACKOFF;
        loop {
            let request = client.post(url).header("X-Twilio-Signature", &signature).form(&parameters);
            match request.send().await.map(|answer| answer.status()) {
                Ok(status) if status.is_success() => return Outcome::Acknowledged,
                Ok(status) if !status.is_server_error() && status.as_u16() != 429 => return Outcome::Refused,
                _ if start.elapsed() >= self.options.callback_patience => return Outcome::Abandoned,
                _ => {}
            }
            self.ledger.update(|book| book.received.callbacks.retried += 1);
            sleep(backoff).await;
            backoff = (backoff * 2).min(LONGEST_BACKOFF);
        }
    }

    fn parameters<'a>(&'a self, text: &'a Text, report: Report) -> Vec<(&'static str, &'a str)> {
        let mut parameters = vec![
            ("MessageSid", text.sid.as_str()),
            ("SmsSid", text.sid.as_str()),
            ("MessageStatus", report.status()),
            ("SmsStatus", report.status()),
            ("To", text.to.as_str()),
            ("From", text.from.as_str()),
            ("AccountSid", self.options.account_sid.as_str()),
            ("ApiVersion", API_VERSION),
        ];
        match report {
            Report::Sent => {}
            // Parameters grow without notice: this one comes with some carriers only.
            Report::Delivered => parameters.push(("RawDlrDoneDate", "2603021012")),
            Report::Undelivered => parameters.push(("ErrorCode", "30005")),
        }
        parameters
    }
}
