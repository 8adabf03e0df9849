//! The preference page: what a member gets by which channel, and a form that changes it. The link is the permission. What is asked for is on
//! the log before the answer (law 1), and holds for every notification that is not claimed yet, because route looks at the profile then.

use super::{
    super::{Shared, extract::Segment, problem::ProblemDocument, webhooks::form},
    MAX_FORM, Tracked, answer,
    choices::{Choices, Misfit, Statement, Wish},
    page,
    visit::Visit,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bellwether_connectors::tracking::Purpose;
use bellwether_schemas::records::{MemberAction, MemberCommand};
use std::sync::Arc;

/// Shows what the member gets; it changes nothing.
#[utoipa::path(
    get, path = "/t/{project}/p/{token}", tag = "tracking",
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "A page with a form, or one that says that there is nothing to choose", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours: a page", body = String, content_type = "text/html"),
        (status = 503, description = "The store does not answer: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn show(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let visit = match shared.visit(&project, Purpose::Preferences, &token, &headers).await {
        Ok(visit) => visit,
        Err(closed) => return closed.answer(|language| page::later(language, None)),
    };
    shared.api.observer.tracked(Purpose::Preferences, Tracked::Page);
    let Visit { project, profile, language, .. } = visit;
    let choices = Choices::of(&project, &profile, language);
    answer(StatusCode::OK, page::preferences(language, &project.project, &choices, None))
}

/// Takes the form: only boxes that were changed change anything.
#[utoipa::path(
    post, path = "/t/{project}/p/{token}", tag = "tracking",
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "As the page's form sends it: `do` (`save` or `leave`), and `was.CHANNEL.CATEGORY` and `is.CHANNEL.CATEGORY` (`on` or `off`) of each box"),
    params(("project" = String, Path, description = "Project"), ("token" = String, Path, description = "As the link has it")),
    responses(
        (status = 200, description = "The wish is on the log: the page as asked, or one that says that there is nothing to choose", body = String, content_type = "text/html"),
        (status = 400, description = "A field that the page does not have, or lacks; nothing is saved: a page that names it", body = String, content_type = "text/html"),
        (status = 404, description = "No link of ours: a page", body = String, content_type = "text/html"),
        (status = 413, description = "The body is too large", body = ProblemDocument, content_type = "application/problem+json"),
        (status = 503, description = "Log or store do not answer; nothing is saved: a page", body = String, content_type = "text/html"),
    ),
)]
pub async fn save(
    State(shared): State<Arc<Shared>>,
    Segment((project, token)): Segment<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let visit = match shared.visit(&project, Purpose::Preferences, &token, &headers).await {
        Ok(visit) => visit,
        Err(closed) => return closed.answer(page::not_saved),
    };
    let body = match shared.read(&headers, body, MAX_FORM).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    // What cannot be read has no field of the page's, and is refused for that.
    let form = form(&headers, &body).await.unwrap_or_default();
    let language = visit.language;
    let choices = Choices::of(&visit.project, &visit.profile, language);
    if choices.is_empty() {
        shared.api.observer.tracked(Purpose::Preferences, Tracked::Page);
        return answer(StatusCode::OK, page::preferences(language, &project, &choices, None));
    }
    let wish = match choices.read(&form) {
        Ok(wish) => wish,
        Err(Misfit(field)) => {
            shared.api.observer.tracked(Purpose::Preferences, Tracked::Refused);
            return answer(StatusCode::BAD_REQUEST, page::out_of_date(language, &field));
        }
    };
    let statements = choices.statements(&wish, &visit.profile, page::leave(language));
    let commands = statements.into_iter().map(|statement| command(&shared, &visit, statement)).collect();
    let done = page::preferences(language, &project, &choices.after(&wish), Some(&wish));
    shared.asked(Purpose::Preferences, language, commands, done).await
}

fn command(shared: &Shared, visit: &Visit, statement: Statement) -> MemberCommand {
    let Statement { channel, category, is_wanted, shown } = statement;
    let action = if is_wanted { MemberAction::OptIn } else { MemberAction::OptOut };
    let proof = format!("preference page, {}: {shown}", visit.language.name());
    MemberCommand { category, ..visit.command(shared, action, channel, proof) }
}
