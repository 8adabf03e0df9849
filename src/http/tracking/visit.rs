//! Whoever stands before a page about a member's own matters, with a link that is the permission. Reads the store, and puts on the log what
//! was asked; what a page offers and says is its own module's.

use super::{
    Tracked, answer,
    page::{self, Language},
    unreadable,
};
use crate::{
    http::{Shared, problem::Problem},
    inbound,
};
use axum::{
    http::{HeaderMap, StatusCode},
    response::Response,
};
use bellwether_connectors::{
    log::Append,
    tracking::{Link, Purpose},
};
use bellwether_processors::{consent::VIA, definitions::Compiled};
use bellwether_schemas::{
    Channel,
    member::Profile,
    records::{MemberAction, MemberCommand, Record},
};
use std::{net::IpAddr, sync::Arc};

/// A reader whose link opens.
pub(super) struct Visit {
    pub(super) link: Link,
    pub(super) project: Arc<Compiled>,
    /// Of the link's member; that of a member who is no more is empty.
    pub(super) profile: Profile,
    /// The member's own, else what the browser asks for.
    pub(super) language: Language,
    /// From where, as the proxy before us says.
    pub(super) from: Option<IpAddr>,
}

/// Why there is no page to show.
pub(super) enum Closed {
    /// No link of ours.
    Unreadable(Language),
    /// The store does not answer.
    Unavailable(Language),
}

impl Closed {
    /// The page that says so.
    pub(super) fn answer(self, unavailable: impl FnOnce(Language) -> String) -> Response {
        match self {
            Self::Unreadable(language) => unreadable(language),
            Self::Unavailable(language) => answer(StatusCode::SERVICE_UNAVAILABLE, unavailable(language)),
        }
    }
}

impl Visit {
    /// What the member asks for by this way, as a command; with what was shown as its proof.
    pub(super) fn command(
        &self,
        shared: &Shared,
        action: MemberAction,
        channel: Option<Channel>,
        (way, shown): (&str, String),
    ) -> MemberCommand {
        let proof = self.from.map_or_else(|| shown.clone(), |from| format!("{shown}; from {from}"));
        MemberCommand {
            channel,
            proof: Some(proof),
            ..MemberCommand::new(
                self.project.project.clone(),
                self.link.reference.member.clone(),
                action,
                format!("member{VIA}{way}"),
                shared.now(),
            )
        }
    }
}

impl Shared {
    /// Opens a link and reads whose it is.
    pub(super) async fn visit(
        &self,
        project: &str,
        purpose: Purpose,
        token: &str,
        headers: &HeaderMap,
    ) -> Result<Visit, Closed> {
        let language = self.language(project, headers);
        let opened = self.opened(project, purpose, token).zip(self.definitions(project));
        let (link, project) = opened.ok_or(Closed::Unreadable(language))?;
        let now = inbound::profile_now(&*self.api.store, &project.project, &link.reference.member);
        let profile = now.await.map_err(|_| {
            self.api.observer.tracked(purpose, Tracked::Unavailable);
            Closed::Unavailable(language)
        })?;
        let profile = profile.unwrap_or_default();
        let language = profile.locale.as_deref().and_then(Language::of_locale).unwrap_or(language);
        Ok(Visit { link, project, profile, language, from: self.came_from(headers) })
    }

    /// From where a request comes: the last address in the proxy's header, because what stands before it was sent by the caller.
    fn came_from(&self, headers: &HeaderMap) -> Option<IpAddr> {
        let named = headers.get_all(self.api.client_ip_header.as_ref()?).iter().next_back()?;
        named.to_str().ok()?.rsplit(',').next()?.trim().parse().ok()
    }

    /// Puts what the member asked for on the log, and answers with a page that says so, or that nothing was saved.
    pub(super) async fn asked(
        &self,
        purpose: Purpose,
        language: Language,
        commands: Vec<MemberCommand>,
        done: String,
    ) -> Response {
        let put = self.put(commands).await;
        self.api.observer.tracked(purpose, if put.is_ok() { Tracked::Person } else { Tracked::Unavailable });
        match put {
            Ok(()) => answer(StatusCode::OK, done),
            Err(_) => answer(StatusCode::SERVICE_UNAVAILABLE, page::not_saved(language)),
        }
    }

    async fn put(&self, commands: Vec<MemberCommand>) -> Result<(), Problem> {
        let records = commands.into_iter().map(Record::Member);
        let appends = records.map(|record| Append::of(&record)).collect::<Result<Vec<_>, _>>()?;
        self.say(appends).await.map(drop)
    }
}
