//! The page by which a member confirms that an address is theirs (double opt-in). To look at it confirms nothing, because scanners follow links.

use super::{
    super::{Shared, extract::Segment},
    Tracked, answer, page, unreadable,
    visit::Visit,
};
use crate::cli::mask;
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

/// What shows that the address is the member's.
const PROOF: &str = "confirmation link";

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
        ..visit.command(&shared, MemberAction::Confirm, visit.link.channel, PROOF.into())
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
