//! `/t/{project}/…/{token}`: what the links in messages lead to. A token says all that a receipt needs (`connectors::tracking`), so nothing is
//! looked up; the receipt is on the log before the answer (law 1). Takes no key: the token is the permission, and says what it is for.
//!
//! Who reads is told apart by [`machines`]; the pages that a reader sees are [`page`]. Two links lead to a member's own matters, and read the
//! store for it (`visit`): [`preferences`], with its [`choices`] and [`night`], and [`confirm`].

pub mod choices;
pub mod confirm;
pub mod machines;
pub mod night;
pub mod page;
pub mod preferences;
mod visit;

use self::page::Language;
use super::{
    Shared,
    extract::Segment,
    links::to_any_page,
    problem::{Problem, ProblemDocument},
};
use crate::tracking::Tracker;
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bellwether_connectors::{
    log::Append,
    tracking::{Link, Purpose, web},
};
use bellwether_schemas::records::{ReceiptKind, Record};
use sha2::{Digest as _, Sha256};
use std::sync::{Arc, LazyLock};

/// A picture of one transparent pixel (GIF89a).
const PIXEL: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff\x21\xf9\x04\x01\x00\x00\x00\x00\
    \x2c\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x01\x44\x00\x3b";
/// Bytes of a body that unsubscribes; RFC 8058 asks for 26.
const MAX_FORM: usize = 16 << 10;
/// The pages load nothing, run nothing, have no style but their own, and post to themselves alone.
static POLICY: LazyLock<String> = LazyLock::new(|| {
    let style = STANDARD.encode(Sha256::digest(page::STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
});

/// How a request ended, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// A person's; its receipt is on the log.
    Person,
    /// A machine's; its receipt is on the log.
    Machine,
    /// Somebody looked at a page, which changes nothing.
    Page,
    /// A form that was none of the page's; nothing is changed.
    Refused,
    /// No link of ours.
    Unreadable,
    /// The log did not take it, or the store did not answer.
    Unavailable,
}

impl Tracked {
    /// The name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Person => "person",
            Self::Machine => "machine",
            Self::Page => "page",
            Self::Refused => "refused",
            Self::Unreadable => "unreadable",
            Self::Unavailable => "unavailable",
        }
    }
}

/// A link in a message was followed.
#[utoipa::path(
    get, path = "/t/{project}/c/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 302, description = "The receipt is on the log; on to where the link leads"),
        (status = 404, description = "No link of ours, or one of a push that leads nowhere: a page", body = String, content_type = "text/html"),
        (status = 503, description = "The log does not answer: a page with the link", body = String, content_type = "text/html"),
    ),
)]
pub async fn follow(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let language = shared.language(&project, &headers);
    let opened = shared.opened(&project, Purpose::Click, &token);
    let Some((link, url)) = opened.and_then(|link| Some((link.clone(), web(link.target.as_deref()?)?))) else {
        return unreadable(language);
    };
    let by_machine = machines::is_machine(&method, &headers);
    let kind = if by_machine { ReceiptKind::ClickedByMachine } else { ReceiptKind::Clicked };
    if shared.note(Purpose::Click, link, kind).await.is_err() {
        // Nobody shall stand before a closed door for our sake; but nothing is said to be noted that is not.
        return answer(StatusCode::SERVICE_UNAVAILABLE, page::later(language, Some(url.as_str())));
    }
    // A URL that was parsed is ASCII.
    let Ok(location) = HeaderValue::from_str(url.as_str()) else { return unreadable(language) };
    private((StatusCode::FOUND, [(header::LOCATION, location)]).into_response())
}

/// An app or a browser tells that a push was clicked: with the push's `clicked_url`, or its `url` where the app does not open that itself.
#[utoipa::path(
    post, path = "/t/{project}/c/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the push has it")),
    responses(
        (status = 204, description = "The receipt is on the log"),
        (status = 404, description = "No link of ours", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer: call again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn clicked(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
) -> Response {
    to_any_page(shared.told(&project, Purpose::Click, &token, ReceiptKind::Clicked).await.into_response())
}

/// An app or a browser tells that a push was shown: with the push's `delivered_url`.
#[utoipa::path(
    post, path = "/t/{project}/d/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the push has it")),
    responses(
        (status = 204, description = "The receipt is on the log"),
        (status = 404, description = "No link of ours", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer: call again", body = ProblemDocument, content_type = "application/problem+json"),
    ),
)]
pub async fn delivered(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
) -> Response {
    to_any_page(shared.told(&project, Purpose::Delivered, &token, ReceiptKind::Delivered).await.into_response())
}

/// The picture in an e-mail was looked at.
#[utoipa::path(
    get, path = "/t/{project}/o/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "The receipt is on the log; a picture of one pixel", body = Vec<u8>, content_type = "image/gif"),
        (status = 404, description = "No link of ours: a page", body = String, content_type = "text/html"),
        (status = 503, description = "The log does not answer: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn open(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let language = shared.language(&project, &headers);
    let Some(link) = shared.opened(&project, Purpose::Open, &token) else { return unreadable(language) };
    let by_machine = machines::is_machine(&method, &headers);
    let kind = if by_machine { ReceiptKind::OpenedByMachine } else { ReceiptKind::Opened };
    if shared.note(Purpose::Open, link, kind).await.is_err() {
        return answer(StatusCode::SERVICE_UNAVAILABLE, page::later(language, None));
    }
    private(([(header::CONTENT_TYPE, HeaderValue::from_static("image/gif"))], PIXEL).into_response())
}

/// The page that asks whether to unsubscribe; it changes nothing.
#[utoipa::path(
    get, path = "/t/{project}/u/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "A page with a button", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn ask(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let language = shared.language(&project, &headers);
    let Some(link) = shared.opened(&project, Purpose::Unsubscribe, &token) else { return unreadable(language) };
    shared.api.observer.tracked(Purpose::Unsubscribe, Tracked::Page);
    let preferences = shared.beside(&link);
    answer(StatusCode::OK, page::ask(language, link.channel, &project, preferences.as_deref()))
}

/// Unsubscribes by one click (RFC 8058): the page's button, or the mail provider's. Whatever else the body says: nothing but a wish to
/// unsubscribe posts here, and words that stop are taken generously.
#[utoipa::path(
    post, path = "/t/{project}/u/{token}", tag = "tracking",
    request_body(content = String, content_type = "application/x-www-form-urlencoded", description = "`List-Unsubscribe=One-Click`"),
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "The wish is on the log: a page", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours: a page", body = String, content_type = "text/html"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "The log does not answer: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn unsubscribe(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let language = shared.language(&project, &headers);
    let Some(link) = shared.opened(&project, Purpose::Unsubscribe, &token) else { return unreadable(language) };
    if let Err(problem) = shared.read(&headers, body, MAX_FORM).await {
        return problem.into_response();
    }
    let (channel, preferences) = (link.channel, shared.beside(&link));
    match shared.note(Purpose::Unsubscribe, link, ReceiptKind::OptedOut).await {
        Ok(()) => answer(StatusCode::OK, page::done(language, channel, &project, preferences.as_deref())),
        Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, page::later(language, None)),
    }
}

impl Shared {
    /// What makes and opens the links of a project; `None` where it does not track, or cannot now.
    fn tracker(&self, project: &str) -> Option<Arc<Tracker>> {
        let project = self.definitions(project)?;
        let tracker = self.trackers.of(&project);
        tracker.inspect_err(|error| tracing::error!(project = project.project, %error, "links cannot be read")).ok()?
    }

    /// Where whoever has this link chooses what to get.
    fn beside(&self, link: &Link) -> Option<String> {
        self.tracker(&link.reference.project)?.url(Purpose::Preferences, link)
    }

    /// What a token carries; `None`, and counted, where it is none of ours.
    fn opened(&self, project: &str, purpose: Purpose, token: &str) -> Option<Link> {
        let tracker = self.tracker(project);
        let link = tracker.and_then(|tracker| tracker.keys().open(purpose, token).ok());
        if link.is_none() {
            self.api.observer.tracked(purpose, Tracked::Unreadable);
        }
        link
    }

    /// Puts the receipt on the log.
    async fn note(&self, purpose: Purpose, link: Link, kind: ReceiptKind) -> Result<(), Problem> {
        let append = Append::of(&Record::Receipt(link.receipt(kind, self.now())))?;
        let noted = self.api.log.append(vec![append]).await;
        let by_machine = matches!(kind, ReceiptKind::OpenedByMachine | ReceiptKind::ClickedByMachine);
        self.api.observer.tracked(
            purpose,
            match &noted {
                Ok(_) if by_machine => Tracked::Machine,
                Ok(_) => Tracked::Person,
                Err(_) => Tracked::Unavailable,
            },
        );
        Ok(noted.map(drop)?)
    }

    /// What a program tells by a token.
    async fn told(
        &self,
        project: &str,
        purpose: Purpose,
        token: &str,
        kind: ReceiptKind,
    ) -> Result<StatusCode, Problem> {
        let link = self.opened(project, purpose, token).ok_or_else(|| {
            let remedy = "call the URL as the push has it; after a change of keys, keep the old one in `previous_keys`";
            Problem::not_found("the token is none of ours", remedy).at("token")
        })?;
        self.note(purpose, link, kind).await.map(|()| StatusCode::NO_CONTENT)
    }

    fn language(&self, project: &str, headers: &HeaderMap) -> Language {
        let accepted = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let project = self.definitions(project);
        Language::of(accepted, project.as_ref().map_or("", |project| &project.document.project.default_locale))
    }
}

fn unreadable(language: Language) -> Response {
    answer(StatusCode::NOT_FOUND, page::unknown(language))
}

fn answer(status: StatusCode, html: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_str(&POLICY).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        ),
    ];
    private((status, headers, html).into_response())
}

/// A link is one reader's: nothing between us keeps the answer, and no site is told where the reader came from.
fn private(mut response: Response) -> Response {
    const ROBOTS: HeaderName = HeaderName::from_static("x-robots-tag");
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, private"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(ROBOTS, HeaderValue::from_static("noindex, nofollow"));
    response
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::{
        http::test_support::{House, shop},
        tracking::Tracker,
    };
    use bellwether_connectors::{
        channels::Reference,
        tracking::{Link, Purpose},
    };
    use bellwether_schemas::{
        Channel, DeliveryId, NotificationId, Topic,
        definitions::{Secret, Tracking},
        records::{Receipt, ReceiptKind},
    };
    use reqwest::Method;
    use serde_json::{Value, json};
    use std::sync::atomic::Ordering::SeqCst;

    const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:131.0) Gecko/20100101 Firefox/131.0";

    /// Categories of each kind of consent.
    pub(super) fn categories() -> Value {
        let title = |en: &str, es: &str, pt: &str| json!({"en": en, "es": es, "pt": pt});
        json!({
            "news": {"title": title("Newsletter", "Boletín", "Boletim"), "consent": "required"},
            "orders": {"title": title("Orders", "Pedidos", "Pedidos"), "consent": "assumed"},
            "security": {"title": title("Security", "Seguridad", "Segurança"), "consent": "unrefusable"},
        })
    }

    /// A house whose project tracks and has categories, and the path of a link of each purpose.
    pub(super) async fn tracked() -> (House, impl Fn(Purpose) -> String) {
        let house = House::new().await;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        std::fs::write(&key, "a secret of enough length").unwrap();
        let settings = json!({"base_url": "https://l.example", "key": Secret::File(key)});
        let mut document = serde_json::to_value(shop()).unwrap();
        document["project"]["tracking"] = settings.clone();
        document["project"]["categories"] = categories();
        assert_eq!(house.put("/v1/definitions", &document).await.status, 200);
        let tracker = Tracker::new("shop", &serde_json::from_value::<Tracking>(settings).unwrap(), []).unwrap();
        let path = move |purpose| {
            // The key is fetched once a version: it must be there for as long as nothing was asked.
            let _ = &folder;
            let reference = Reference {
                delivery: DeliveryId::derive(NotificationId::default(), Channel::Email, "anna@example.org"),
                notification: NotificationId::default(),
                project: "shop".into(),
                member: "anna".into(),
                template: "order".into(),
                provider: "mail".into(),
            };
            let target = (purpose == Purpose::Click).then(|| "https://shop.example/ñ".to_owned());
            let link = Link { reference, channel: Channel::Email, attempt: 1, target };
            tracker.url(purpose, &link).unwrap().replace("https://l.example", "")
        };
        (house, path)
    }

    fn kinds(house: &House) -> Vec<ReceiptKind> {
        house.log.decoded::<Receipt>(Topic::Receipts).iter().map(|receipt| receipt.kind).collect()
    }

    #[tokio::test]
    async fn links_need_no_store_and_their_receipt_is_on_the_log_before_the_answer() {
        let (house, path) = tracked().await;
        house.store.down.store(true, SeqCst);
        // The client follows no redirect that leads outside.
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        for (n, (method, purpose, agent, status, kind)) in [
            (Method::GET, Purpose::Click, FIREFOX, 302, ReceiptKind::Clicked),
            (Method::GET, Purpose::Click, "curl/8", 302, ReceiptKind::ClickedByMachine),
            (Method::POST, Purpose::Click, "okhttp/4", 204, ReceiptKind::Clicked),
            (Method::GET, Purpose::Open, FIREFOX, 200, ReceiptKind::Opened),
            (Method::HEAD, Purpose::Open, FIREFOX, 200, ReceiptKind::OpenedByMachine),
            (Method::POST, Purpose::Delivered, "curl/8", 204, ReceiptKind::Delivered),
            (Method::POST, Purpose::Unsubscribe, "Mail-Provider/1", 200, ReceiptKind::OptedOut),
        ]
        .into_iter()
        .enumerate()
        {
            let request = http.request(method, format!("{}{}", house.url, path(purpose))).header("user-agent", agent);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.status(), status, "{purpose:?}");
            assert_eq!((kinds(&house).len(), kinds(&house).last()), (n + 1, Some(&kind)), "{purpose:?}");
            if status == 302 {
                assert_eq!(answer.headers()["location"], "https://shop.example/%C3%B1");
                assert_eq!(answer.headers()["referrer-policy"], "no-referrer");
            }
        }
        let told = ["click person", "click machine", "click person", "open person", "open machine", "delivered person"];
        assert_eq!(house.told.all()[..6], told);
    }

    #[tokio::test]
    async fn without_the_log_nothing_is_said_to_be_noted() {
        let (house, path) = tracked().await;
        let get = async |purpose| house.call(Method::GET, &path(purpose), "", &[("user-agent", FIREFOX)], "").await;
        assert_eq!(get(Purpose::Unsubscribe).await.status, 200);
        house.log.down.store(true, SeqCst);
        let click = get(Purpose::Click).await;
        let page = click.body.as_str().unwrap();
        assert_eq!(click.status, 503);
        assert!(page.contains("<a href=\"https://shop.example/%C3%B1\"") && !page.contains("10.0.0"), "{page}");
        assert_eq!(get(Purpose::Open).await.status, 503);
        for purpose in [Purpose::Delivered, Purpose::Click] {
            let told = house.call(Method::POST, &path(purpose), "", &[], "").await;
            assert_eq!(
                (told.status.as_u16(), &told.headers["access-control-allow-origin"]),
                (503, &"*".parse().unwrap())
            );
            told.is_problem();
        }
        let wish = house.call(Method::POST, &path(Purpose::Unsubscribe), "", &[], "List-Unsubscribe=One-Click").await;
        assert_eq!(wish.status, 503, "the mail provider calls again");
        house.log.down.store(false, SeqCst);
        let large = "x".repeat(super::MAX_FORM + 1);
        house.call(Method::POST, &path(Purpose::Unsubscribe), "", &[], large).await.is_problem();
        assert!(kinds(&house).is_empty());
        assert_eq!(house.call(Method::OPTIONS, &path(Purpose::Delivered), "", &[], "").await.status, 204);
        for (method, path) in
            [(Method::GET, "/t/shop/c/x"), (Method::GET, "/t/nobody/o/x"), (Method::POST, "/t/shop/u/x")]
        {
            let none = house.call(method, path, "", &[("accept-language", "pt")], "").await;
            assert_eq!(none.status, 404);
            assert!(none.body.as_str().unwrap().contains("Este link não funciona"));
        }
        house.call(Method::POST, "/t/shop/d/x", "", &[], "").await.problem(404, "token");
    }
}
