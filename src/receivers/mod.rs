//! Local destinations that speak the real protocols: the demo, the end-to-end tests, the kill tests and the benches send to them and then
//! ask what really arrived. They know nothing of the pipeline, so that what they count is independent of what the pipeline believes.

pub mod apns;
pub mod fcm;
pub mod http;
mod jwt;
pub mod smtp;
pub mod telegram;
pub mod twilio;
pub mod web_push;
pub mod webhook;
pub mod whatsapp;

pub use http::{HttpOptions, HttpReceiver};
pub use smtp::{SmtpOptions, SmtpReceiver};

use axum::http::Method;
use http::{Event, Outgoing};
use serde_json::Value;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};
use tokio::sync::Notify;

/// Names and values of a form, decoded.
fn form(body: &[u8]) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://localhost/?{}", String::from_utf8_lossy(body)));
    url.iter().flat_map(|url| url.query_pairs().into_owned()).collect()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

/// What members read with. A visitor who says nothing of itself is taken for a machine, and rightly.
const BROWSER: &str = "Mozilla/5.0 (Android 15; Mobile; rv:145.0) Gecko/145.0 Firefox/145.0";

/// The sender's own pages: what their links begin with, and where that is served here, as a name server would say.
#[derive(Clone, Debug)]
pub struct Pages {
    /// Scheme and domain, as `https://links.example`.
    pub origin: String,
    /// Scheme and address.
    pub served_at: String,
}

impl Pages {
    /// A call of a link that leads to these pages. No other link is ever followed: a demo calls nobody outside.
    fn call(&self, method: Method, link: &str) -> Option<Outgoing> {
        let path = link.strip_prefix(&self.origin).filter(|path| path.starts_with('/'))?;
        let headers = vec![("User-Agent", BROWSER.to_owned())];
        Some(Outgoing { method, url: format!("{}{path}", self.served_at), headers, body: Vec::new() })
    }

    /// A visit of the first link in a text that leads here, as a member makes it who clicks.
    fn follow(&self, text: &str) -> Option<Outgoing> {
        let end = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '<' | '>' | '\\' | ')');
        let mut links = text.match_indices(&self.origin).filter_map(|(at, _)| text[at..].split(end).next());
        links.find_map(|link| self.call(Method::GET, &link.replace("&amp;", "&")))
    }

    /// What an app or service worker calls by the URLs in a push's data: `delivered_url` when it shows it; when it is clicked `url`, or where
    /// that leads elsewhere `clicked_url`.
    fn device(&self, data: &Value, event: Event) -> Option<Outgoing> {
        let call = |method, field: &str| self.call(method, data[field].as_str()?);
        match event {
            Event::Delivered => call(Method::POST, "delivered_url"),
            Event::Clicked => call(Method::GET, "url").or_else(|| call(Method::POST, "clicked_url")),
            Event::Sent | Event::Opened | Event::Failed | Event::Left => None,
        }
    }
}

/// Where an account's calls go back to.
#[derive(Clone, Debug, Default)]
pub struct Home {
    /// Its webhook.
    pub webhook: Option<String>,
    /// The sender's pages.
    pub pages: Option<Pages>,
}

impl Home {
    /// See [`Pages::device`].
    fn device(&self, data: &Value, event: Event) -> Vec<Outgoing> {
        self.pages.as_ref().and_then(|pages| pages.device(data, event)).into_iter().collect()
    }

    /// See [`Pages::follow`].
    fn follow(&self, text: &str) -> Vec<Outgoing> {
        self.pages.as_ref().and_then(|pages| pages.follow(text)).into_iter().collect()
    }
}

/// What a receiver has seen, and a bell that rings at every change, so that nobody has to poll for it.
#[derive(Debug, Default)]
struct Ledger<T> {
    state: Mutex<T>,
    changed: Notify,
}

impl<T> Ledger<T> {
    /// Changes the state and wakes whoever waits for it.
    fn update<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_waiters();
        result
    }

    fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock())
    }

    /// Waits until the condition holds; false when it did not within this time.
    async fn wait_for(&self, condition: impl Fn(&T) -> bool, within: Duration) -> bool {
        let holds = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Enlisted before looking, so that a change between look and wait is not missed.
                changed.as_mut().enable();
                if self.read(&condition) {
                    return;
                }
                changed.await;
            }
        };
        tokio::time::timeout(within, holds).await.is_ok()
    }

    /// A panic elsewhere leaves counts that are still true: every change is one assignment or insertion.
    fn lock(&self) -> MutexGuard<'_, T> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod test_support {
    use super::http::{Call, Contract, HttpOptions, HttpReceiver};
    use axum::{
        Router,
        body::Bytes,
        extract::State,
        http::{HeaderMap, Method, StatusCode, Uri, Version},
    };
    use serde_json::Value;
    use std::{
        net::SocketAddr,
        sync::{Arc, LazyLock, Mutex, atomic::AtomicU32},
        time::Duration,
    };
    use tokio::net::TcpListener;

    /// Longest wait for anything: it ends a test, and measures nothing.
    pub(super) const MINUTE: Duration = Duration::from_secs(60);

    /// Loading the system's certificates takes longer than a test. No connection is kept, because each test has its own runtime.
    pub(super) fn client() -> &'static reqwest::Client {
        static CLIENT: LazyLock<reqwest::Client> =
            LazyLock::new(|| reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap());
        &CLIENT
    }

    pub(super) async fn receiver(contract: impl Contract) -> HttpReceiver {
        receiver_with(contract, HttpOptions::default()).await
    }

    pub(super) async fn receiver_with(contract: impl Contract, options: HttpOptions) -> HttpReceiver {
        let options =
            HttpOptions { callback_patience: options.callback_patience.min(Duration::from_secs(20)), ..options };
        HttpReceiver::start(([127, 0, 0, 1], 0).into(), Arc::new(contract), options).await.unwrap()
    }

    /// Posts; status and body of the answer.
    pub(super) async fn post(url: &str, headers: &[(&str, &str)], body: String) -> (u16, Value) {
        let mut request = client().post(url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// Our side of the callbacks, which answers the first `failures` with 503 and then `status`.
    #[derive(Clone, Default)]
    pub(super) struct Server {
        pub(super) at: Option<SocketAddr>,
        pub(super) calls: Arc<Mutex<Vec<Call>>>,
        pub(super) failures: Arc<AtomicU32>,
        pub(super) status: StatusCode,
    }

    impl Server {
        pub(super) async fn start() -> Self {
            Self::default().listen(([127, 0, 0, 1], 0).into()).await
        }

        pub(super) async fn listen(mut self, addr: SocketAddr) -> Self {
            let listener = TcpListener::bind(addr).await.unwrap();
            self.at = Some(listener.local_addr().unwrap());
            let router = Router::new().fallback(Self::take).with_state(self.clone());
            tokio::spawn(async move { axum::serve(listener, router).await });
            self
        }

        pub(super) fn url(&self, path: &str) -> String {
            format!("http://{}{path}", self.at.unwrap())
        }

        pub(super) fn calls(&self) -> Vec<Call> {
            self.calls.lock().unwrap().clone()
        }

        pub(super) fn forget(&self) {
            self.calls.lock().unwrap().clear();
        }

        async fn take(
            State(home): State<Self>,
            method: Method,
            uri: Uri,
            version: Version,
            headers: HeaderMap,
            body: Bytes,
        ) -> StatusCode {
            use std::sync::atomic::Ordering::SeqCst;
            if home.failures.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            home.calls.lock().unwrap().push(Call { method, uri, version, headers, body });
            home.status
        }
    }
}
