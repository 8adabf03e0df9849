//! Reads letters as members do with a mail program: it loads the picture that tells of it and follows the first link. Who leaves does so by the
//! mail provider's button: one click (RFC 8058).

use super::{
    super::{
        Pages,
        http::{Event, Outgoing, call},
    },
    Shared,
};
use axum::http::Method;
use futures::StreamExt;
use mail_parser::MessageParser;
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// Letters that wait to be read.
pub(super) const QUEUE: usize = 10_000;
/// Letters that are read at once.
const READERS: usize = 16;
/// How long a call is tried; long enough for a server to be killed and restarted.
const PATIENCE: Duration = Duration::from_secs(60);

/// A letter whose reader does something with it.
#[derive(Debug)]
pub(super) struct Letter {
    pub(super) message_id: Arc<str>,
    pub(super) leaves: bool,
    pub(super) text: Vec<u8>,
    pub(super) pages: Pages,
}

/// Reads letters, several at once, each one's calls in order.
pub(super) async fn run(mut letters: mpsc::Receiver<Letter>, shared: Arc<Shared>, client: reqwest::Client) {
    futures::stream::poll_fn(move |cx| letters.poll_recv(cx))
        .for_each_concurrent(READERS, |letter| {
            let (shared, client) = (Arc::clone(&shared), client.clone());
            async move {
                for (event, outgoing) in calls(&letter) {
                    let retried = || shared.ledger.update(|state| state.received.readings.retried += 1);
                    let outcome = call(&client, &outgoing, PATIENCE, retried).await;
                    shared.ledger.update(|state| {
                        state.received.readings.count(outcome);
                        if outcome.is_acknowledged() {
                            state.received.told.entry(event).or_default().insert(Arc::clone(&letter.message_id));
                        }
                    });
                }
                shared.ledger.update(|state| state.received.readings.pending -= 1);
            }
        })
        .await;
}

/// What a reader calls, of what the letter has.
fn calls(letter: &Letter) -> Vec<(Event, Outgoing)> {
    let Letter { leaves, text, pages, .. } = letter;
    let Some(message) = MessageParser::default().parse(text) else { return Vec::new() };
    if *leaves {
        let header = |name: &str| message.header_raw(name).unwrap_or_default().trim().to_owned();
        if header("List-Unsubscribe-Post") != "List-Unsubscribe=One-Click" {
            return Vec::new();
        }
        let offered = header("List-Unsubscribe");
        let link = offered.split(['<', '>']).find(|part| part.starts_with("https://"));
        let click = link.and_then(|link| pages.call(Method::POST, link)).map(|call| Outgoing {
            headers: vec![("Content-Type", "application/x-www-form-urlencoded".into())],
            body: b"List-Unsubscribe=One-Click".to_vec(),
            ..call
        });
        return click.map(|call| (Event::Left, call)).into_iter().collect();
    }
    let html = message.body_html(0).unwrap_or_default();
    // The first link of ours behind each `attribute="`.
    let behind = |attribute: &str| html.split(attribute).skip(1).find_map(|rest| pages.follow(rest.split('"').next()?));
    let (picture, link) = (behind("src=\""), behind("href=\""));
    picture.map(|call| (Event::Opened, call)).into_iter().chain(link.map(|call| (Event::Clicked, call))).collect()
}
