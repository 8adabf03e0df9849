//! Requests to the letter of Meta's documents, every limit, every code. No network.

use super::{
    templates::{approved, page},
    *,
};
use crate::channels::test_support;
use bellwether_schemas::definitions::Variant;
use proptest::prelude::*;

fn config(change: Value) -> Config {
    let mut all = json!({"phone_number_id": "106540352242922", "access_token": {"env": "X"}});
    all.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    serde_json::from_value(all).unwrap()
}

fn message(content: Whatsapp) -> Message {
    Message { attempt: 3, ..test_support::message("+16505551234", Content::Whatsapp(content)) }
}

fn picture() -> Media {
    Media { kind: MediaKind::Image, url: "https://h.example/a.png".into() }
}

fn reply(text: &str) -> Button {
    Button { text: text.into(), url: None }
}

fn leads(text: &str) -> Button {
    Button { text: text.into(), url: Some("https://h.example/c/1".into()) }
}

fn free(body: &str, header: Option<Media>, buttons: Vec<Button>) -> Whatsapp {
    Whatsapp::Text { body: body.into(), header, buttons }
}

fn by_template(parameters: &[&str], buttons: &[Option<&str>]) -> Whatsapp {
    Whatsapp::Template {
        name: "order_shipped".into(),
        language: "es_AR".into(),
        header: Some(picture()),
        parameters: parameters.iter().map(|p| (*p).to_owned()).collect(),
        buttons: buttons.iter().map(|b| b.map(str::to_owned)).collect(),
    }
}

/// The body of the request without what every one has.
fn said(content: Whatsapp) -> Result<Value, SendError> {
    let message = message(content);
    let Request { url, mut body } = config(json!({})).request(&message)?;
    assert_eq!(url, "https://graph.facebook.com/v25.0/106540352242922/messages");
    let all = body.as_object_mut().unwrap();
    assert_eq!(all.remove("messaging_product").unwrap(), "whatsapp");
    assert_eq!(all.remove("recipient_type").unwrap(), "individual");
    assert_eq!(all.remove("to").unwrap(), "+16505551234");
    let data = format!("{}.3", message.reference.to_token());
    assert_eq!(all.remove("biz_opaque_callback_data").unwrap(), data.as_str());
    Ok(body)
}

#[test]
fn a_template_to_the_letter() {
    let expected = json!({"type": "template", "template": {
        "name": "order_shipped", "language": {"code": "es_AR"},
        "components": [
            {"type": "header", "parameters": [{"type": "image", "image": {"link": "https://h.example/a.png"}}]},
            {"type": "body", "parameters": [{"type": "text", "text": "Ana María"}, {"type": "text", "text": "12"}]},
            {"type": "button", "sub_type": "url", "index": "1", "parameters": [{"type": "text", "text": "c/1"}]},
        ],
    }});
    assert_eq!(said(by_template(&["Ana\n\t  María ", "12"], &[None, Some("c/1")])).unwrap(), expected);
}

#[test]
fn free_text_as_the_least_type_that_can_say_it() {
    let text = json!({"type": "text", "text": {"body": "Hi\nyou"}});
    assert_eq!(said(free("Hi\nyou", None, vec![])).unwrap(), text);
    let captioned = json!({"type": "image", "image": {"link": "https://h.example/a.png", "caption": "Hi"}});
    assert_eq!(said(free("Hi", Some(picture()), vec![])).unwrap(), captioned);
    let header = json!({"type": "image", "image": {"link": "https://h.example/a.png"}});
    let replies = json!({"type": "interactive", "interactive": {
        "type": "button", "header": header, "body": {"text": "Hi"}, "action": {"buttons": [
            {"type": "reply", "reply": {"id": "0", "title": "Yes"}},
            {"type": "reply", "reply": {"id": "1", "title": "No"}},
        ]},
    }});
    assert_eq!(said(free("Hi", Some(picture()), vec![reply("Yes"), reply("No")])).unwrap(), replies);
    let link = json!({"type": "interactive", "interactive": {
        "type": "cta_url", "body": {"text": "Hi"},
        "action": {"name": "cta_url", "parameters": {"display_text": "Open", "url": "https://h.example/c/1"}},
    }});
    assert_eq!(said(free("Hi", None, vec![leads("Open")])).unwrap(), link);
}

#[test]
fn every_limit_is_kept_before_the_call() {
    let long = |n: usize| "ö".repeat(n);
    let bad_media = Some(Media { url: "ftp://x".into(), ..picture() });
    for (content, words) in [
        (free(" \n", None, vec![]), "text is empty"),
        (free(&long(4097), None, vec![]), "longer than 4096"),
        (free(&long(1025), Some(picture()), vec![]), "longer than 1024"),
        (free(&long(1025), None, vec![reply("Yes")]), "longer than 1024"),
        (free("Hi", None, vec![reply(&long(21))]), "longer than 20"),
        (free("Hi", None, vec![leads(&long(21))]), "longer than 20"),
        (free("Hi", None, vec![reply("")]), "quick reply is empty"),
        (free("Hi", None, ["1", "2", "3", "4"].map(reply).to_vec()), "at most 3"),
        (free("Hi", None, vec![reply("Yes"), reply("Yes")]), "say the same"),
        (free("Hi", None, vec![reply("Yes"), leads("Open")]), "either quick replies or one link"),
        (free("Hi", None, vec![leads("Open"), leads("Shut")]), "either quick replies or one link"),
        (free("Hi", bad_media.clone(), vec![]), "no http or https URL"),
        (free("Hi", bad_media, vec![reply("Yes")]), "no http or https URL"),
        (free("Hi", None, vec![Button { text: "Go".into(), url: Some("/c/1".into()) }]), "no http or https URL"),
        (by_template(&["fine", " \n "], &[]), "parameter 2 is empty"),
        (by_template(&[&long(1025)], &[]), "parameter 1 is longer"),
        (by_template(&[], &[None; 11]), "at most 10 buttons"),
        (by_template(&[], &[Some("")]), "parameter 1 is empty"),
    ] {
        let error = said(content).unwrap_err();
        assert_eq!(error.kind, Rejected);
        assert!(error.detail.contains(words), "{}: {words}", error.detail);
    }
    for content in [
        free(&long(4096), None, vec![]),
        free(&long(1024), Some(picture()), vec![]),
        free(&long(1024), None, ["1", "2", &long(20)].map(reply).to_vec()),
        by_template(&[&long(1024)], &[None; 10]),
    ] {
        said(content).unwrap();
    }
    let email = Message { content: Content::Text { body: "Hi".into() }, ..message(free("Hi", None, vec![])) };
    assert_eq!(config(json!({})).request(&email).unwrap_err().kind, Rejected);
}

#[test]
fn a_reference_that_meta_would_refuse_stays_at_home() {
    let mut message = message(free("Hi", None, vec![]));
    let mut sizes = Vec::new();
    for length in 0..300 {
        message.reference.member = "m".repeat(length);
        let body = config(json!({})).request(&message).unwrap().body;
        let data = body.get("biz_opaque_callback_data").map(|data| data.as_str().unwrap().len());
        let full = callback_data(&message.reference.to_token(), 3).len();
        assert_eq!(data, Some(full).filter(|full| *full <= 512), "{length}");
        sizes.push(data.is_some());
    }
    assert!(sizes[100] && !sizes[299], "ids of usual length travel");
}

#[test]
fn every_code_of_the_table_has_its_consequence() {
    let table = codes::assert_sound::<u32>(include_str!("../whatsapp.codes.csv"));
    assert!(table.windows(2).all(|pair| pair[0].code < pair[1].code), "each once");
    for Line { code, kind, wait, name } in table {
        let body = json!({"error": {"message": "(#1) words", "type": "OAuthException", "code": code,
            "error_data": {"messaging_product": "whatsapp", "details": "more"}, "fbtrace_id": "A"}});
        for status in [200, 400, 500] {
            let error = classify(status, None, body.to_string().as_bytes()).unwrap_err();
            assert_eq!((error.kind, error.after, error.detail), (kind, wait, format!("{code}: {name}")));
        }
    }
    // What the provider's page and our contract insist on.
    for (code, kind) in [
        (131050, ErrorKind::OptedOut),
        (131047, Rejected),
        (131049, Throttled),
        (131026, ErrorKind::Unreachable),
        (131056, Throttled),
        (130429, Throttled),
        (80007, Throttled),
        (131048, Throttled),
        (131016, Transient),
        (131000, Transient),
        (1, Transient),
        (2, Transient),
        (190, Unauthorized),
        (10, Unauthorized),
        (200, Unauthorized),
        (299, Unauthorized),
        (131005, Unauthorized),
        (131031, Unauthorized),
        (131042, Unauthorized),
        (132001, Rejected),
    ] {
        assert_eq!(kind_of(code).unwrap().0, kind, "{code}");
    }
    assert!(kind_of(131047).unwrap().1.contains("send a template"));
    assert_eq!(kind_of(300), None);
}

#[test]
fn every_answer_has_its_consequence() {
    let wait = Some(Duration::from_secs(7));
    let day = Some(Duration::from_secs(86_400));
    for (status, retry_after, body, kind, after, of_address) in [
        (429, wait, r#"{"error":{"code":130429,"message":"(#130429) Rate limit hit"}}"#, Throttled, wait, false),
        (400, wait, r#"{"error":{"code":131049,"message":"x"}}"#, Throttled, day, true),
        (400, None, r#"{"error":{"code":131056,"message":"x"}}"#, Throttled, Some(Duration::from_secs(6)), true),
        (429, wait, "", Throttled, wait, false),
        (500, wait, r#"{"error":{"code":131016,"message":"x"}}"#, Transient, None, false),
        (503, wait, "<html>", Transient, None, false),
        (400, None, r#"{"error":{"code":999999,"message":"to +16505551234 odd"}}"#, Rejected, None, false),
        (400, None, r#"{"error":{"message":"+16505551234"}}"#, Rejected, None, false),
        (400, None, r#"{"error":"flat"}"#, Rejected, None, false),
        (401, None, "", Unauthorized, None, false),
        (404, None, "{}", Unauthorized, None, false),
        (302, None, "", Unauthorized, None, false),
        (200, None, r#"{"messages":[]}"#, Ambiguous, None, false),
        (200, None, r#"{"messages":[{"id":""}]}"#, Ambiguous, None, false),
        (200, None, "<html>welcome to the hotel</html>", Ambiguous, None, false),
    ] {
        let error = classify(status, retry_after, body.as_bytes()).unwrap_err();
        assert_eq!((error.kind, error.after, error.of_address), (kind, after, of_address), "{status} {body}");
        assert!(!error.detail.contains("16505551234"), "{}", error.detail);
    }
    // The example of Meta's page, with a field that we do not know.
    let body = br#"{"messaging_product":"whatsapp","contacts":[{"input":"+16505551234","wa_id":"16505551234"}],
        "messages":[{"id":"wamid.HBgLMTY0NjcwNDM1OTUVAgARGBI1RjQyNUE3NEYxMzAzMzQ5MkEA","message_status":"accepted","new":1}]}"#;
    let id = Some("wamid.HBgLMTY0NjcwNDM1OTUVAgARGBI1RjQyNUE3NEYxMzAzMzQ5MkEA".to_owned());
    assert_eq!(classify(200, None, body), Ok(Accepted { provider_id: id, ..Accepted::default() }));
}

fn order_template() -> Value {
    json!({"name": "order", "language": "en_US", "status": "APPROVED", "category": "UTILITY", "id": "1",
    "quality_score": {"score": "GREEN", "date": 1_767_225_600}, "rejected_reason": "NONE",
    "parameter_format": "POSITIONAL", "components": [
        {"type": "HEADER", "format": "DOCUMENT", "example": {"header_handle": ["x"]}},
        {"type": "BODY", "text": "Hi {{1}}, {{2}} of {{ 1 }} {{unclosed", "example": {"body_text": [["a", "b"]]}},
        {"type": "FOOTER", "text": "Bye"},
        {"type": "BUTTONS", "buttons": [
            {"type": "QUICK_REPLY", "text": "Stop"},
            {"type": "URL", "text": "Track", "url": "https://h.example/{{1}}"},
        ]},
        {"type": "NEW_AT_META"},
    ]})
}

#[test]
fn a_page_of_templates_reads_and_one_odd_template_loses_no_other() {
    let text = json!({"name": "hi", "language": "es", "status": "PAUSED", "quality_score": {"score": "UNKNOWN"}, "rejected_reason": "ABUSIVE_CONTENT", "category": "MARKETING", "parameter_format": "NAMED",
        "components": [{"type": "HEADER", "format": "TEXT", "text": "{{name}}"}, {"type": "BODY", "text": "Plain"}]});
    let body =
        json!({"data": [order_template(), {"name": 7}, text], "paging": {"cursors": {"before": "a", "after": "b"}}});
    let (found, after) = page(body.to_string().as_bytes()).unwrap();
    assert_eq!(after, None, "cursors without `next` are the last page");
    let button =
        |kind: &str, text: &str, parameters| TemplateButton { kind: kind.into(), text: text.into(), parameters };
    let order = ApprovedTemplate {
        name: "order".into(),
        language: "en_US".into(),
        status: "APPROVED".into(),
        rejected_reason: None,
        quality: Some("GREEN".into()),
        category: "UTILITY".into(),
        named: false,
        header: Some(TemplateHeader::Media(MediaKind::Document)),
        body: "Hi {{1}}, {{2}} of {{ 1 }} {{unclosed".into(),
        parameters: 2,
        buttons: vec![button("QUICK_REPLY", "Stop", 0), button("URL", "Track", 1)],
    };
    assert_eq!(found[0], order);
    assert_eq!((found.len(), found[1].is_approved(), found[1].named), (2, false, true));
    assert_eq!((found[1].quality.as_deref(), found[1].rejected_reason.as_deref()), (None, Some("ABUSIVE_CONTENT")));
    assert_eq!(found[1].header, Some(TemplateHeader::Text(1)));
    let more = json!({"data": [], "paging": {"cursors": {"after": "b"}, "next": "https://evil.example/"}});
    assert_eq!(page(more.to_string().as_bytes()), Some((vec![], Some("b".into()))));
    assert_eq!(page(b"<html>"), None);
}

#[test]
fn what_does_not_fit_a_template_is_said() {
    let order: ApprovedTemplate = approved(serde_json::from_value(order_template()).unwrap());
    let media = |kind: &str| json!({"kind": kind, "url": "https://h.example/a"});
    let variant = |header: Value, parameters: usize, buttons: Value| -> Variant {
        let template =
            json!({"name": "order", "language": "en_US", "parameters": vec!["x"; parameters], "buttons": buttons});
        serde_json::from_value(json!({"header": header, "template": template})).unwrap()
    };
    let (fine, none) = (variant(media("document"), 2, json!([null, "x"])), || variant(Value::Null, 0, json!([])));
    assert_eq!(order.misfits(&fine), []);
    let bare = ApprovedTemplate { header: None, parameters: 0, buttons: vec![], ..order.clone() };
    assert_eq!(bare.misfits(&none()), []);
    let rejected = Some("INVALID_FORMAT".into());
    let hushed = ApprovedTemplate { status: "REJECTED".into(), rejected_reason: rejected, ..order.clone() };
    let named = ApprovedTemplate { named: true, ..order.clone() };
    let place = ApprovedTemplate { header: Some(TemplateHeader::Other("LOCATION".into())), ..order.clone() };
    let line = |n| ApprovedTemplate { header: Some(TemplateHeader::Text(n)), ..bare.clone() };
    assert_eq!(line(0).misfits(&none()), []);
    for (template, variant, field, words) in [
        (
            &order,
            variant(Value::Null, 2, json!([null, "x"])),
            "header",
            "header is none, and `order` (en_US) wants document",
        ),
        (
            &order,
            variant(media("image"), 2, json!([null, "x"])),
            "header",
            "header is image, and `order` (en_US) wants document",
        ),
        (&bare, variant(media("image"), 0, json!([])), "header", "has none for media"),
        (
            &order,
            variant(media("document"), 1, json!([null, "x"])),
            "template.parameters",
            "1 are given, and the body of `order` (en_US) has 2",
        ),
        (
            &order,
            variant(media("document"), 2, json!([])),
            "template.buttons.1",
            "button 2 of `order` (en_US) needs a value",
        ),
        (
            &order,
            variant(media("document"), 2, json!(["x", "x"])),
            "template.buttons.0",
            "button 1 of `order` (en_US) takes no value",
        ),
        (&order, variant(media("document"), 2, json!([null, "x", "x"])), "template.buttons.2", "takes no value"),
        (&hushed, fine.clone(), "template.name", "as REJECTED (INVALID_FORMAT), not APPROVED"),
        (&named, fine.clone(), "template.name", "placeholders with names"),
        (&place, fine.clone(), "template.name", "cannot be filled from here"),
        (&line(1), none(), "template.name", "cannot be filled from here"),
    ] {
        let [Misfit { field: at, problem, .. }] = &template.misfits(&variant)[..] else {
            panic!("{:?}", template.misfits(&variant))
        };
        assert_eq!(at, field, "{problem}");
        assert!(problem.contains(words), "{problem}");
    }
    assert_eq!(order.misfits(&none()).len(), 3, "all of it is told");
}

#[test]
fn pages_are_asked_for_at_our_own_base_url() {
    let config = config(json!({"waba_id": "102", "base_url": "http://127.0.0.1:9/"}));
    let url = Url::parse(&config.templates_url(Some("a&b=c")).unwrap()).unwrap();
    assert_eq!((url.host_str(), url.path()), (Some("127.0.0.1"), "/v25.0/102/message_templates"));
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    assert_eq!(pairs[2], ("after".to_owned(), "a&b=c".to_owned()));
    assert_eq!(self::config(json!({})).templates_url(None).unwrap_err().kind, Rejected);
}

proptest! {
    #[test]
    fn no_answer_makes_us_panic(status in 0_u16..1000, body in prop::collection::vec(any::<u8>(), 0..200)) {
        classify(status, None, &body).ok();
        page(&body);
    }

    #[test]
    fn nor_an_odd_error(status in 200_u16..600, code in any::<i64>(), message in any::<String>(), id in any::<String>()) {
        let body = json!({"error": {"code": code, "message": message}, "messages": [{"id": id}]});
        classify(status, None, body.to_string().as_bytes()).ok();
    }

    #[test]
    fn no_template_makes_us_panic(kind in "HEADER|BODY|BUTTONS|[A-Z]{0,5}", text in any::<String>(), url in "[{}a1]{0,12}") {
        let template = json!({"name": text, "language": "en", "status": "APPROVED", "category": "UTILITY",
            "components": [{"type": kind, "text": url, "format": text, "buttons": [{"url": url}, 7]}, text]});
        let body = json!({"data": [template]}).to_string();
        prop_assert_eq!(page(body.as_bytes()).unwrap().0.len(), 1);
    }

    #[test]
    fn what_is_sent_is_within_the_limits(parameters in prop::collection::vec(any::<String>(), 0..4), body in any::<String>()) {
        let parameters: Vec<&str> = parameters.iter().map(String::as_str).collect();
        if let Ok(body) = said(by_template(&parameters, &[])) {
            for parameter in body["template"]["components"][1]["parameters"].as_array().into_iter().flatten() {
                let text = parameter["text"].as_str().unwrap();
                prop_assert!(!text.contains(['\n', '\t']) && !text.contains("    ") && !text.is_empty());
            }
        }
        said(free(&body, None, vec![])).ok();
    }
}
