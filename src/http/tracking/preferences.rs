//! The preference page: what a member gets by which channel, and a form that changes it. The link is the permission. What is asked for is on
//! the log before the answer (law 1), and holds for every notification that is not claimed yet, because route looks at the profile then.

use super::{
    MAX_FORM, Tracked, answer,
    choices::{Choices, Misfit, Statement, Wish},
    night::Night,
    page,
    visit::Visit,
};
use crate::http::{Shared, extract::Segment, problem::ProblemDocument, webhooks::form};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use bellwether_connectors::tracking::Purpose;
use bellwether_schemas::{
    member::Patch,
    records::{MemberAction, MemberCommand},
};
use std::sync::Arc;

/// By which way the member says so.
const WAY: &str = "preference_page";

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
    let (choices, night) = (Choices::of(&project, &profile, language), Night::of(&project, &profile));
    answer(StatusCode::OK, page::preferences(language, &project.project, &choices, &night, None))
}

/// Takes the form: only what was changed in it changes anything.
#[utoipa::path(
    post, path = "/t/{project}/p/{token}", tag = "tracking",
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "As the page's form sends it: `do` (`save` or `leave`), `was.CHANNEL.CATEGORY` and `is.CHANNEL.CATEGORY` (`on` or `off`) of each box, and of quiet hours `was.night` (`off` or `22:00-08:00`), `is.night` (`on`), `is.night.from` and `is.night.to`"),
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
    let night = Night::of(&visit.project, &visit.profile);
    if choices.is_empty() {
        shared.api.observer.tracked(Purpose::Preferences, Tracked::Page);
        return answer(StatusCode::OK, page::preferences(language, &project, &choices, &night, None));
    }
    let (of_night, of_boxes): (Vec<_>, Vec<_>) = form.into_iter().partition(|(field, _)| Night::has(field));
    // Who presses the button that ends all says nothing of hours, whatever stands there.
    let read = choices.read(&of_boxes).and_then(|wish| match wish {
        Wish::Leave => Ok((wish, None)),
        Wish::Save(_) => Ok((wish, night.read(&of_night)?)),
    });
    let (wish, asked) = match read {
        Ok(read) => read,
        Err(Misfit(field)) => {
            shared.api.observer.tracked(Purpose::Preferences, Tracked::Refused);
            return answer(StatusCode::BAD_REQUEST, page::out_of_date(language, &field));
        }
    };
    let statements = choices.statements(&wish, &visit.profile, page::leave(language));
    let statements = statements.into_iter().map(|statement| command(&shared, &visit, statement));
    let commands = statements.chain(asked.as_ref().map(|night| quiet(&shared, &visit, night))).collect();
    let done = page::preferences(language, &project, &choices.after(&wish), &asked.unwrap_or(night), Some(&wish));
    shared.asked(Purpose::Preferences, language, commands, done).await
}

fn command(shared: &Shared, visit: &Visit, statement: Statement) -> MemberCommand {
    let Statement { channel, category, is_wanted, shown } = statement;
    let action = if is_wanted { MemberAction::OptIn } else { MemberAction::OptOut };
    MemberCommand { category, ..visit.command(shared, action, Some(channel), (WAY, proof(visit, &shown))) }
}

/// The command that sets the member's quiet hours.
fn quiet(shared: &Shared, visit: &Visit, night: &Night) -> MemberCommand {
    let patch = Patch { quiet_hours: Some(Some(night.own())), ..Patch::default() };
    let proof = proof(visit, &format!("{}: {}", page::do_not_disturb(visit.language), night.shown()));
    MemberCommand {
        patch: serde_json::to_string(&patch).ok(),
        ..visit.command(shared, MemberAction::Prefer, None, (WAY, proof))
    }
}

fn proof(visit: &Visit, shown: &str) -> String {
    format!("preference page, {}: {shown}", visit.language.name())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::tracked;
    use crate::http::test_support::{Answer, House};
    use bellwether_connectors::tracking::Purpose;
    use bellwether_schemas::{
        Channel, Timestamp, Topic,
        member::{Address, Profile},
        records::{MemberAction, MemberCommand},
        tables::{MERGED, MemberRow},
    };
    use reqwest::Method;
    use serde_json::json;
    use std::sync::atomic::Ordering::SeqCst;

    const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

    fn profile(locale: Option<&str>) -> Profile {
        let email = vec![Address::active("anna@example.org".into(), Timestamp(0))];
        Profile {
            locale: locale.map(Into::into),
            addresses: [(Channel::Email, email)].into(),
            opt_ins: serde_json::from_value(json!({"email": {"news": true}})).unwrap(),
            ..Profile::default()
        }
    }

    /// A house that knows a member, and the member's preference page.
    async fn known(locale: Option<&str>) -> (House, String) {
        let (house, path) = tracked().await;
        house.store.put(profile(locale).into_row("shop", "anna"));
        let path = path(Purpose::Preferences);
        // The key is fetched while its file is there.
        assert_eq!(get(&house, &path, "").await.status, 200);
        (house, path)
    }

    async fn get(house: &House, path: &str, accepted: &str) -> Answer {
        house.call(Method::GET, path, "", &[("accept-language", accepted)], "").await
    }

    async fn post(house: &House, path: &str, form: &str) -> Answer {
        house.call(Method::POST, path, "", &[FORM], form.to_owned()).await
    }

    fn commands(house: &House) -> Vec<MemberCommand> {
        house.log.decoded(Topic::Members)
    }

    /// What the commands ask for: action, category, proof.
    fn asked(house: &House) -> Vec<(MemberAction, Option<String>, String)> {
        commands(house).into_iter().map(|command| (command.action, command.category, command.proof.unwrap())).collect()
    }

    fn html(answer: &Answer) -> &str {
        answer.body.as_str().unwrap()
    }

    #[tokio::test]
    async fn the_page_shows_what_the_member_gets_and_changes_nothing() {
        let (house, path) = known(Some("es-AR")).await;
        let page = get(&house, &path, "en").await;
        for part in [
            r#"<html lang="es">"#,
            r#"<meta name="viewport" content="width=device-width, initial-scale=1">"#,
            r#"<legend>Correo electrónico</legend>"#,
            r#"<label><input type="checkbox" name="is.email.news" value="on" checked><span>Boletín</span></label>"#,
            r#"<input type="hidden" name="was.email.marketing" value="off">"#,
            r#"<label><input type="checkbox" checked disabled><span>Seguridad<small>Siempre activo"#,
            r#"<button name="do" value="save">Guardar</button>"#,
            r#"name="do" value="leave">Darme de baja de todo</button>"#,
        ] {
            assert!(html(&page).contains(part), "{part} is not in {}", html(&page));
        }
        assert!(!html(&page).contains("<legend>SMS"), "no address, no boxes");
        for (header, value) in [
            ("cache-control", "no-store, private"),
            ("referrer-policy", "no-referrer"),
            ("x-robots-tag", "noindex, nofollow"),
        ] {
            assert_eq!(page.headers[header], value);
        }
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; style-src 'sha256-") && !html(&page).contains("<script"));
        assert_eq!(house.told.all(), ["preferences page", "preferences page"]);
        assert!(commands(&house).is_empty());
    }

    #[tokio::test]
    async fn who_has_no_locale_reads_the_browsers_language() {
        let (house, path) = known(None).await;
        for (accepted, language) in [("pt-BR, en;q=0.5", "pt"), ("es", "es"), ("fr", "en")] {
            let page = get(&house, &path, accepted).await;
            assert!(html(&page).contains(&format!("<html lang=\"{language}\">")), "{accepted}");
        }
    }

    #[tokio::test]
    async fn what_is_changed_is_on_the_log_before_the_answer_and_twice_is_once() {
        let (house, path) = known(Some("es")).await;
        let form = "was.email.news=on&was.email.marketing=off&is.email.marketing=on&was.email.orders=on&is.email.orders=on&do=save";
        let page = post(&house, &path, form).await;
        let wish = |action, category: &str, shown: &str| {
            (action, Some(category.to_owned()), format!("preference page, es: {shown}"))
        };
        let wishes = [
            wish(MemberAction::OptIn, "marketing", "Novedades y ofertas"),
            wish(MemberAction::OptOut, "news", "Boletín"),
        ];
        assert_eq!((page.status.as_u16(), asked(&house)), (200, wishes.to_vec()));
        let first = commands(&house).remove(0);
        let about = (first.project.as_str(), first.member.as_str(), first.channel, first.actor.as_str());
        assert_eq!(about, ("shop", "anna", Some(Channel::Email), "member via preference_page"));
        // The page is as asked, though nobody has applied it yet.
        assert!(html(&page).contains(r#"<p role="status">Guardado."#));
        assert!(html(&page).contains(
            r#"name="was.email.news" value="off"><label><input type="checkbox" name="is.email.news" value="on">"#
        ));
        assert!(html(&page).contains(r#"name="was.email.marketing" value="on""#));
        // The same form again asks for the same, which then is so already.
        assert_eq!(html(&post(&house, &path, form).await), html(&page));
        assert_eq!(asked(&house), [wishes.clone(), wishes].concat());
        assert_eq!(house.told.all()[1..], ["preferences person", "preferences person"]);
    }

    #[tokio::test]
    async fn quiet_hours_are_the_members_own_once_they_are_touched() {
        let (house, path) = known(None).await;
        let form = |was: &str, from: &str, ticked: &str| {
            format!(
                "was.email.news=on&is.email.news=on&was.night={was}{ticked}&is.night.from={from}&is.night.to=08%3A00&do=save"
            )
        };
        let shown = html(&get(&house, &path, "").await).to_owned();
        assert!(shown.contains(r#"name="was.night" value="off""#) && shown.contains("Time zone: UTC"), "{shown}");
        post(&house, &path, &form("off", "22%3A00", "")).await;
        assert!(commands(&house).is_empty(), "untouched");
        let page = post(&house, &path, &form("off", "21%3A30", "&is.night=on")).await;
        for part in [r#"<p role="status">Saved."#, r#"name="was.night" value="21:30-08:00""#] {
            assert!(html(&page).contains(part), "{part} is not in {}", html(&page));
        }
        let [command] = &commands(&house)[..] else { panic!("{:?}", commands(&house)) };
        assert_eq!((command.action, command.channel, command.member.as_str()), (MemberAction::Prefer, None, "anna"));
        assert_eq!(command.patch.as_deref(), Some(r#"{"quiet_hours":{"from":"21:30","to":"08:00"}}"#));
        let proof = "preference page, en: Do not disturb me between these times: 21:30-08:00";
        assert_eq!((command.actor.as_str(), command.proof.as_deref()), ("member via preference_page", Some(proof)));
        // Who ends everything is asked for no hours, and hours that are none change nothing.
        let leave = form("off", "late", "&is.night=on").replace("do=save", "do=leave");
        assert_eq!(post(&house, &path, &leave).await.status, 200);
        assert_eq!(commands(&house).iter().filter(|command| command.action == MemberAction::Prefer).count(), 1);
        let before = commands(&house).len();
        let page = post(&house, &path, &form("off", "late", "&is.night=on")).await;
        assert_eq!((page.status.as_u16(), commands(&house).len()), (400, before));
        assert!(html(&page).contains(": is.night.from</p>"), "{}", html(&page));
    }

    #[tokio::test]
    async fn who_became_part_of_another_chooses_for_that_one() {
        let (house, path) = tracked().await;
        let to = |member: &str, other: &str| {
            let row = MemberRow::empty("shop", member, MERGED, "");
            house.store.put(MemberRow { decision: Some(json!(other).to_string()), ..row });
        };
        to("anna", "ana");
        to("ana", "a");
        house.store.put(profile(None).into_row("shop", "a"));
        let path = path(Purpose::Preferences);
        assert!(html(&get(&house, &path, "").await).contains("<legend>E-mail</legend>"));
        post(&house, &path, "was.email.news=on&do=save").await;
        // The `members` processor passes it on.
        assert_eq!(commands(&house)[0].member, "anna");
    }

    #[tokio::test]
    async fn the_proof_says_from_where_as_the_proxy_does() {
        let (house, path) = known(None).await;
        for (header, proof) in [
            ("203.0.113.7", "preference page, en: Newsletter; from 203.0.113.7"),
            ("10.0.0.1, 2001:db8::1", "preference page, en: Newsletter; from 2001:db8::1"),
            ("10.0.0.1, me", "preference page, en: Newsletter"),
        ] {
            let headers = [FORM, ("x-forwarded-for", header)];
            let page = house.call(Method::POST, &path, "", &headers, "was.email.news=on&do=save").await;
            assert_eq!(page.status, 200);
            assert_eq!(asked(&house).pop().unwrap().2, proof);
        }
    }

    #[tokio::test]
    async fn an_untouched_form_asks_for_nothing() {
        let (house, path) = known(None).await;
        let page = post(&house, &path, "was.email.news=on&is.email.news=on&was.email.marketing=off&do=save").await;
        assert_eq!((page.status.as_u16(), commands(&house).len()), (200, 0));
    }

    #[tokio::test]
    async fn unsubscribing_from_all_leaves_what_cannot_be_refused() {
        let (house, path) = known(None).await;
        let page = post(&house, &path, "was.email.news=on&is.email.news=on&do=leave").await;
        assert!(commands(&house).iter().all(|command| command.action == MemberAction::OptOut));
        let categories: Vec<_> = asked(&house).into_iter().map(|(_, category, _)| category).collect();
        let refused = [None, Some("marketing"), Some("news"), Some("orders"), Some("transactional")];
        assert_eq!(categories, refused.map(|category| category.map(str::to_owned)));
        assert_eq!(asked(&house)[0].2, "preference page, en: Unsubscribe from all");
        assert_eq!(html(&page).matches(" checked").count(), 1, "{}", html(&page));
        assert!(html(&page).contains("unsubscribed from everything that can be turned off"));
    }

    #[tokio::test]
    async fn nothing_is_said_to_be_saved_that_is_not() {
        let (house, path) = known(None).await;
        let form = "was.email.news=on&do=save";
        house.log.down.store(true, SeqCst);
        let page = post(&house, &path, form).await;
        assert_eq!(page.status, 503);
        assert!(html(&page).contains("Nothing was saved") && !html(&page).contains("10.0.0"));
        house.log.down.store(false, SeqCst);
        house.store.down.store(true, SeqCst);
        for page in [post(&house, &path, form).await, get(&house, &path, "").await] {
            assert_eq!(page.status, 503);
            assert!(!html(&page).contains("10.0.0"));
        }
        house.store.down.store(false, SeqCst);
        for (form, field) in [
            ("do=save&was.email.nwes=on", "was.email.nwes"),
            ("do=save&was.fax.news=on", "was.fax.news"),
            ("do=save&was.email.<b>=on", "was.email.&lt;b&gt;"),
            ("", "do"),
        ] {
            let page = post(&house, &path, form).await;
            assert_eq!(page.status, 400, "{form}");
            assert!(html(&page).contains(&format!(": {field}</p>")), "{}", html(&page));
        }
        let large = format!("do=save&x={}", "x".repeat(super::MAX_FORM));
        assert_eq!(post(&house, &path, &large).await.is_problem()["status"], 413);
        assert!(commands(&house).is_empty());
        let told =
            ["preferences unavailable", "preferences unavailable", "preferences unavailable", "preferences refused"];
        assert_eq!(house.told.all()[1..5], told);
    }

    #[tokio::test]
    async fn a_foreign_link_leads_nowhere_and_a_member_who_is_gone_has_nothing_to_choose() {
        let (house, path) = tracked().await;
        let own = path(Purpose::Preferences);
        let page = get(&house, &own, "en").await;
        assert_eq!(page.status, 200);
        assert!(html(&page).contains("There is nothing to choose") && !html(&page).contains("<form"));
        assert!(html(&post(&house, &own, "was.email.news=on&do=save").await).contains("There is nothing to choose"));
        let foreign = path(Purpose::Unsubscribe).replace("/u/", "/p/");
        for path in ["/t/shop/p/x", "/t/nobody/p/x", &foreign, &own[..own.len() - 4]] {
            assert_eq!(get(&house, path, "").await.status, 404, "{path}");
            assert_eq!(post(&house, path, "do=leave").await.status, 404, "{path}");
        }
        assert!(commands(&house).is_empty());
    }

    #[tokio::test]
    async fn the_page_that_unsubscribes_leads_here() {
        let (house, path) = tracked().await;
        house.store.put(profile(None).into_row("shop", "anna"));
        for page in
            [get(&house, &path(Purpose::Unsubscribe), "").await, post(&house, &path(Purpose::Unsubscribe), "").await]
        {
            let link = html(&page).split("<a href=\"https://l.example").nth(1).unwrap().split('"').next().unwrap();
            assert!(html(&get(&house, link, "").await).contains("<legend>E-mail</legend>"), "{link}");
        }
    }
}
