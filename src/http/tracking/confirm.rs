//! The page by which a member confirms that an address is theirs (double opt-in). To look at it confirms nothing, because scanners follow links.

use super::{Tracked, answer, page, unreadable, visit::Visit};
use crate::{
    http::{Shared, extract::Segment},
    mask,
};
use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bellwether_connectors::tracking::Purpose;
use bellwether_schemas::{
    DeliveryId,
    member::{Address, AddressState},
    records::{MemberAction, MemberCommand},
};
use std::sync::Arc;

/// By which way the member says so, and what shows it.
const BY: (&str, &str) = ("link", "confirmation link");

/// Asks whether the address is the reader's; it changes nothing.
#[utoipa::path(
    get, path = "/t/{project}/v/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "A page with a button, or one that says that it is confirmed", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours, or the member does not have the address any more: a page", body = String, content_type = "text/html"),
        (status = 503, description = "The store does not answer: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn ask(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let visit = match shared.visit(&project, Purpose::Confirm, &token, &headers).await {
        Ok(visit) => visit,
        Err(closed) => return closed.answer(|language| page::later(language, None)),
    };
    let Some(address) = visit.address() else { return unreadable(visit.language) };
    shared.api.observer.tracked(Purpose::Confirm, Tracked::Page);
    let html = match address.state {
        AddressState::Unconfirmed => page::confirm(visit.language, &mask::address(&address.address), &project),
        _ => page::confirmed(visit.language),
    };
    answer(StatusCode::OK, html)
}

/// Confirms the address that the link was sent to: the page's button. Nothing but a wish to confirm posts here, whatever the body says.
#[utoipa::path(
    post, path = "/t/{project}/v/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "It is on the log, or was confirmed before: a page", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours, or the member does not have the address any more: a page", body = String, content_type = "text/html"),
        (status = 503, description = "Log or store do not answer; nothing is saved: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn confirm(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let visit = match shared.visit(&project, Purpose::Confirm, &token, &headers).await {
        Ok(visit) => visit,
        Err(closed) => return closed.answer(page::not_saved),
    };
    let Some(address) = visit.address() else { return unreadable(visit.language) };
    let command = || MemberCommand {
        address: Some(address.address.clone()),
        ..visit.command(&shared, MemberAction::Confirm, Some(visit.link.channel), (BY.0, BY.1.into()))
    };
    // An address that is suppressed or rests does so for another reason, which this does not lift.
    let commands = (address.state == AddressState::Unconfirmed).then(command).into_iter().collect();
    shared.asked(Purpose::Confirm, visit.language, commands, page::confirmed(visit.language)).await
}

impl Visit {
    /// The member's address that the link was sent to: the one from which the delivery's id derives.
    fn address(&self) -> Option<&Address> {
        let (reference, channel) = (&self.link.reference, self.link.channel);
        let sent_to =
            |address: &str| DeliveryId::derive(reference.notification, channel, address) == reference.delivery;
        self.profile.addresses.get(&channel)?.iter().find(|address| sent_to(&address.address))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::tracked;
    use crate::http::test_support::{Answer, House};
    use bellwether_connectors::tracking::Purpose;
    use bellwether_schemas::{
        Channel, Timestamp, Topic,
        member::{Address, AddressState, Profile},
        records::{MemberAction, MemberCommand},
    };
    use reqwest::Method;
    use std::sync::atomic::Ordering::SeqCst;

    async fn call(house: &House, method: Method, path: &str) -> Answer {
        house.call(method, path, "", &[("accept-language", "en")], "").await
    }

    /// The member has these addresses, in this state; the link was sent to `anna@example.org`.
    fn put(house: &House, addresses: &[&str], state: AddressState) {
        let known = addresses.iter().map(|a| Address { state, ..Address::active((*a).into(), Timestamp(0)) });
        let profile = Profile { addresses: [(Channel::Email, known.collect())].into(), ..Profile::default() };
        house.store.put(profile.into_row("shop", "anna"));
    }

    fn commands(house: &House) -> Vec<MemberCommand> {
        house.log.decoded(Topic::Members)
    }

    #[tokio::test]
    async fn to_look_confirms_nothing_and_the_button_confirms_the_address_of_the_link() {
        let (house, path) = tracked().await;
        let path = path(Purpose::Confirm);
        put(&house, &["other@example.org", "anna@example.org"], AddressState::Unconfirmed);
        let page = call(&house, Method::GET, &path).await;
        let html = page.body.as_str().unwrap();
        assert!(html.contains("<button>Yes, write to me at a***@example.org</button>"), "{html}");
        assert!(!html.contains("anna@") && page.headers["cache-control"] == "no-store, private");
        assert_eq!((page.status.as_u16(), commands(&house).len()), (200, 0));

        let page = call(&house, Method::POST, &path).await;
        assert!(page.body.as_str().unwrap().contains("Your address is confirmed."));
        let commands = commands(&house);
        let [command] = &commands[..] else { panic!("{commands:?}") };
        assert_eq!((command.action, command.channel), (MemberAction::Confirm, Some(Channel::Email)));
        assert_eq!(command.address.as_deref(), Some("anna@example.org"));
        assert_eq!((command.actor.as_str(), command.proof.as_deref()), ("member via link", Some("confirmation link")));
        assert_eq!(house.told.all(), ["confirm page", "confirm person"]);
    }

    #[tokio::test]
    async fn only_what_waits_for_it_is_confirmed() {
        let (house, path) = tracked().await;
        let path = path(Purpose::Confirm);
        for (addresses, state, status) in [
            (vec!["anna@example.org"], AddressState::Active, 200),
            (vec!["anna@example.org"], AddressState::Suppressed, 200),
            (vec!["other@example.org"], AddressState::Unconfirmed, 404),
            (vec![], AddressState::Unconfirmed, 404),
        ] {
            put(&house, &addresses, state);
            for method in [Method::GET, Method::POST] {
                assert_eq!(call(&house, method, &path).await.status, status, "{addresses:?} {state:?}");
            }
        }
        for method in [Method::GET, Method::POST] {
            assert_eq!(call(&house, method, "/t/shop/v/x").await.status, 404);
        }
        assert!(commands(&house).is_empty());
    }

    #[tokio::test]
    async fn without_log_or_store_nothing_is_said_to_be_confirmed() {
        let (house, path) = tracked().await;
        let path = path(Purpose::Confirm);
        put(&house, &["anna@example.org"], AddressState::Unconfirmed);
        assert_eq!(call(&house, Method::GET, &path).await.status, 200);
        for down in [&house.log.down, &house.store.down] {
            down.store(true, SeqCst);
            let page = call(&house, Method::POST, &path).await;
            assert_eq!(page.status, 503);
            assert!(page.body.as_str().unwrap().contains("Nothing was saved"));
        }
        assert_eq!(call(&house, Method::GET, &path).await.status, 503);
    }
}
