//! Definitions: what is refused and in which words, what conditions answer, what messages say.

#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    content::{ContentError, EventAttributes, OwnLink, context},
    definitions::{Compiled, Finding, Projects, ProviderCheck, SettingProblem},
};
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{Consent, Definitions},
    member::Profile,
    records::Event,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::sync::Arc;

fn check(kind: &str, settings: &Map<String, Value>) -> ProviderCheck {
    let channel = match kind {
        "smtp" => Some(Channel::Email),
        "twilio" => Some(Channel::Sms),
        _ => None,
    };
    let problems = match (channel, settings.contains_key("host")) {
        (None, _) => Some(("", "use smtp or twilio")),
        (Some(Channel::Email), false) => Some(("host", "is missing")),
        _ => None,
    };
    let problem = |(field, problem): (&str, &str)| SettingProblem { field: field.into(), problem: problem.into() };
    ProviderCheck { channel, prefix: "", problems: problems.map(problem).into_iter().collect() }
}

/// The stack of a thread of tokio's.
const STACK_BYTES: usize = 2 * 1024 * 1024;

fn compiled(document: Value) -> Result<Compiled, Vec<Finding>> {
    let document: Definitions = serde_json::from_value(document).unwrap();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES);
    thread.spawn(|| Compiled::new(document, 1, &check)).unwrap().join().unwrap()
}

#[test]
fn no_definitions_take_more_stack_than_there_is() {
    let levels =
        [("(", ")"), ("[", "]"), ("!", ""), ("-", ""), ("not ", ""), ("true?", ":1"), ("{1:", "}"), ("f(", ")")];
    let chains = ["+1", ".a", "[0]", "|upper", " and 1", "&&true", "==1", "~''", "~\"}}\"", "~{1:{2:{}}}"];
    for bytes in [900, 100_000] {
        let nested = levels.map(|(open, close)| {
            let n = bytes / (open.len() + close.len());
            format!("{}1{}", open.repeat(n), close.repeat(n))
        });
        let expressions =
            nested.into_iter().chain(chains.map(|chain| format!("1{}", chain.repeat(bytes / chain.len()))));
        for expression in expressions {
            let mut document = shop();
            document["flows"]["order_placed"]["when"] = expression.as_str().into();
            let condition = compiled(document);
            let mut document = shop();
            document["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] =
                format!("{{{{ {expression} }}}}").into();
            let template = compiled(document);
            if bytes > 1_024 {
                let problem = |found: Result<Compiled, Vec<Finding>>| found.unwrap_err()[0].problem.clone();
                assert!(problem(condition).contains("more than 1024"), "{}", &expression[..20]);
                assert!(problem(template).contains("more than 1024 bytes"), "{}", &expression[..20]);
            }
        }
    }
    for branches in [100, 101] {
        let text = format!("{{% if 0 %}}{}x{{% else %}}y{{% endif %}}", "{% elif 0 %}".repeat(branches));
        let mut document = shop();
        document["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] = text.into();
        assert_eq!(compiled(document).is_ok(), branches == 100);
    }
}

/// A shop with one template in two languages on both channels, and one flow.
fn shop() -> Value {
    json!({
        "project": {"name": "shop", "default_locale": "en"},
        "providers": {
            "mail": {"kind": "smtp", "host": "127.0.0.1"},
            "text": {"kind": "twilio"},
        },
        "templates": {"order_placed": {
            "sample": {"order": {"number": "A-1", "total": 12.5, "items": [{"name": "Tea"}]}, "note": "n"},
            "channels": {
                "email": {
                    "en": {
                        "subject": "Order {{ order.number }}\n placed",
                        "html": "<p>Hi {{ member.name | default('there') }}, {{ note }}</p>",
                        "text": "Hi\n{% for item in order.items %}- {{ item.name }}\n{% endfor %}",
                    },
                    "es": {"subject": "Pedido {{ order.number }}", "text": "Hola {{ note }}"},
                },
                "sms": {
                    "en": {"text": "Order {{ order.number }}: {{ note }}"},
                    "es": {"text": "Pedido {{ order.number }}"},
                    "es-AR": {"text": "Tu pedido {{ order.number }}, che"},
                },
            },
        }},
        "flows": {"order_placed": {
            "on": "shop.order.placed",
            "when": "event.data.order.total > 10",
            "notify": {"template": "order_placed", "lane": "transactional", "channels": ["email", "sms"]},
        }},
    })
}

fn compile(document: Value) -> Result<Compiled, Vec<Finding>> {
    Compiled::new(serde_json::from_value::<Definitions>(document).unwrap(), 1, &check)
}

/// The shop with one place changed; a place that is not there is made.
fn changed(pointer: &str, value: Value) -> Value {
    let mut shop = shop();
    let mut at = &mut shop;
    for segment in pointer.split('/') {
        at = match at {
            Value::Array(items) => &mut items[segment.parse::<usize>().unwrap()],
            other => &mut other[segment],
        };
    }
    *at = value;
    shop
}

fn event(data: &Value) -> Event {
    Event {
        project: "shop".into(),
        id: "1".into(),
        source: "/till".into(),
        kind: "shop.order.placed".into(),
        subject: Some("ana".into()),
        time: Timestamp(1_767_225_600_000),
        accepted_at: Timestamp(1_767_225_600_500),
        data: data.to_string(),
    }
}

fn delivery_context(data: &Value, profile: &Profile) -> Value {
    let event = EventAttributes { id: "1", kind: "shop.order.placed", source: None, time: Timestamp(0) };
    context(event, data, "ana", profile)
}

#[test]
fn a_whole_shop_compiles() {
    let shop = compile(shop()).unwrap();
    assert_eq!((shop.project.as_str(), shop.version), ("shop", 1));
    assert_eq!(shop.providers(Channel::Sms), ["text"]);
    assert_eq!(shop.flows("shop.order.placed").len(), 1);
    assert!(shop.flows("shop.order.shipped").is_empty());
    assert!(shop.has_variant("order_placed", Channel::Sms) && !shop.has_variant("other", Channel::Sms));
}

#[test]
fn every_rule_tells_place_problem_and_remedy() {
    let email = "templates/order_placed/channels/email/en";
    let sms = "templates/order_placed/channels/sms";
    let cases = [
        ("project/name", json!("My Shop")),
        ("project/default_locale", json!("en_us")),
        ("project/default_locale", json!("pt")),
        ("project/default_region", json!("Argentina")),
        ("project/routing", json!({"weights": {"reach": -1, "cost": 1_000.5}, "costs": {"sms": -0.5}})),
        ("project/routing", json!({"weights": {"reach": 0, "engagement": 0, "cost": 0.0}})),
        (
            "project/caps",
            json!({"few": {"most": 1, "per": "day", "categories": ["transactional"], "exceed": "digest"}}),
        ),
        ("project/search", json!(["tier", "city", "tier"])),
        ("project/search", json!((0..11).map(|n| format!("a{n}")).collect::<Vec<_>>())),
        (
            "project",
            json!({"name": "shop", "default_locale": "en", "attributes": {"tier": {"type": "string"}}, "search": ["teir", "city"]}),
        ),
        ("project/tracking", tracked(json!({"base_url": "links.example"}))),
        ("project/tracking", tracked(json!({"base_url": "http://links.example"}))),
        ("project/tracking", tracked(json!({"base_url": "https://a@links.example/?x=<"}))),
        ("project/tracking", tracked(json!({"base_url": format!("https://links.example/{}", "x".repeat(200))}))),
        ("project/tracking", tracked(json!({"previous_keys": vec![json!({"env": "KEY"}); 9]}))),
        (
            "project/tracking",
            tracked(json!({"channels": ["email", "webhook", "email"], "unsubscribe": ["bulk", "bulk"]})),
        ),
        ("providers/Mail", json!({"kind": "smtp", "host": "x"})),
        ("providers/mail/kind", json!("stmp")),
        ("providers/mail", json!({"kind": "smtp"})),
        ("providers/mail/max_in_flight", json!(0)),
        ("providers/mail/max_in_flight", json!(4097)),
        ("providers/mail/max_attempts", json!(0)),
        ("providers/mail/rate_per_second", json!(0)),
        ("providers", json!({"mail": {"kind": "smtp", "host": "x"}})),
        ("templates/bad.name", json!({"channels": {}})),
        (&format!("{email}/subject"), json!("Order {{ order.numbr }}")),
        (&format!("{email}/subject"), json!("Order {{ ordr.number }}")),
        (&format!("{email}/subject"), json!("Order {{ event.tpye }} {{ event.data.note }} {{ event.data.nota }}")),
        (&format!("{email}/subject"), json!("Hi {{ member.nme }}")),
        (&format!("{email}/subject"), json!("Hi {{ member.name }}")),
        (&format!("{email}/subject"), json!("Hi {{ member.attributes.first_name }}")),
        (&format!("{email}/text"), json!("one\ntwo {{ order. }}\nthree")),
        (&format!("{email}/text"), json!("one\n{% if note %}\nnever closed")),
        (&format!("{email}/text"), json!("{{ note | shout }}")),
        (&format!("{email}/text"), json!("añ\n{{ order.items[7].name }}")),
        (&format!("{email}/text"), json!("{% include 'order_placed.email.es.text' %}")),
        (
            &format!("{email}/text"),
            json!("{% for a in range(9000) %}{% for b in range(9000) %}{{ b }}{% endfor %}{% endfor %}"),
        ),
        (&format!("{email}/text"), json!("{{ 'x' * 99999999999 }}")),
        (&format!("{email}/text"), json!("Dear {{ order.customer.name }}, {{ order.number.name | upper }}")),
        (&format!("{email}/subject"), Value::Null),
        (email, json!({"subject": "no body"})),
        (&format!("{email}/html"), json!("  ")),
        (&format!("{sms}/en"), json!({"text": "x", "subject": "y", "html": "z"})),
        (&format!("{sms}/en"), json!({})),
        (&format!("{sms}/en/text"), json!("{{ 'x' * 1601 }}")),
        (&format!("{sms}/es_AR"), json!({"text": "x"})),
        (&format!("{sms}/spanish"), json!({"text": "x"})),
        (sms, json!({"es": {"text": "x"}})),
        ("templates/order_placed/sample/event", json!({"id": 1})),
        ("flows/order_placed/notify/template", json!("order_plcaed")),
        ("flows/order_placed/notify/channels", json!(["sms", "sms"])),
        ("flows/order_placed/notify/expires_after_seconds", json!(0)),
        ("flows/order_placed/notify/digest", json!({"after_seconds": 604_801, "key": "order", "most": 1})),
        ("flows/order_placed/version", json!(0)),
        ("flows/order_placed/on", json!(" ")),
        ("flows/order_placed/when", json!("event.data.order.total >")),
        ("flows/order_placed/when", json!("true &&\n  evnt.data.order.total > 10 && data.x == 1")),
        ("flows/order_placed/when", json!("event.datum.total > 10")),
        ("flows/order_placed/when", json!("'ñ' == event.data.note && mach(event.type, 'x')")),
        ("flows/order_placed/when", json!("event.data.order.total")),
        ("flows/order_placed/when", json!("event.data.order.totl > 10")),
        ("flows/order_placed/when", json!("event.data.order.number > 10")),
    ];
    let mut told = String::new();
    for (pointer, value) in cases {
        let findings = compile(changed(pointer, value.clone())).unwrap_err();
        told += &format!("# {pointer} = {value}\n");
        for finding in findings {
            told += &format!("{finding}\n");
        }
        told.push('\n');
    }
    insta::assert_snapshot!(told);
}

fn tracked(change: Value) -> Value {
    let mut tracking = json!({"base_url": "https://links.example", "key": {"env": "KEY"}});
    tracking.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    tracking
}

#[test]
fn only_a_project_with_tracking_can_name_our_links() {
    let mut shop = shop();
    let text = "Stop: {{ unsubscribe_url }}, choose: {{ preferences_url }}, confirm: {{ confirm_url }}";
    shop["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] = json!(text);
    let findings = compile(shop.clone()).unwrap_err();
    for link in OwnLink::ALL {
        let problem = format!("unknown variable `{}`", link.variable());
        assert!(findings.iter().any(|f| f.problem.contains(&problem)), "{problem}: {findings:?}");
    }
    for base_url in
        ["https://links.example", "https://shop.example:8443/l/", "http://127.0.0.1:8080", "http://[::1]:1/x"]
    {
        shop["project"]["tracking"] = tracked(json!({"base_url": base_url}));
        let shop = compile(shop.clone()).unwrap_or_else(|findings| panic!("{base_url}: {findings:?}"));
        let context = delivery_context(&json!({"order": {"number": "1", "total": 2}, "total": 2}), &Profile::default());
        let said = shop.render("order_placed", Channel::Sms, Some("en"), &context).unwrap().variant.text.unwrap();
        let [stop, choose, confirm] = OwnLink::ALL.map(OwnLink::place);
        assert_eq!(said, format!("Stop: {stop}, choose: {choose}, confirm: {confirm}"));
    }
}

#[test]
fn a_link_that_confirms_belongs_into_the_e_mail_that_asks_for_it() {
    let remarks = |on: &str, channel: &str| {
        let mut shop = shop();
        shop["project"]["tracking"] = tracked(json!({}));
        shop["flows"]["order_placed"]["on"] = on.into();
        shop["flows"]["order_placed"]["when"] = Value::Null;
        shop["templates"]["order_placed"]["channels"][channel]["en"]["text"] = json!("Yours? {{ confirm_url }}");
        let remarks = compile(shop).unwrap().remarks().to_vec();
        remarks.iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    let remark = |channel: &str| {
        format!(
            "templates.order_placed.channels.{channel}.en.text: `confirm_url` has nothing to confirm here; \
             name it only in e-mail of flows on `bellwether.address.unconfirmed`"
        )
    };
    assert_eq!(remarks("bellwether.address.unconfirmed", "email"), [""; 0]);
    assert_eq!(remarks("bellwether.address.unconfirmed", "sms"), [remark("sms")]);
    assert_eq!(remarks("shop.order.placed", "email"), [remark("email")]);
}

#[test]
fn a_key_with_a_dot_is_suggested_to_nobody() {
    let mut shop = changed("templates/order_placed/sample/numb.er", json!(1));
    shop["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] = json!("{{ number }}");
    let findings = compile(shop).unwrap_err();
    assert!(findings.iter().any(|f| f.problem.contains("unknown variable `number`")), "{findings:?}");
}

#[test]
fn a_flow_cannot_use_a_channel_that_its_template_lacks() {
    let mut shop = shop();
    shop["templates"]["order_placed"]["channels"].as_object_mut().unwrap().remove("sms");
    let findings = compile(shop).unwrap_err();
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].path, "flows.order_placed.notify.channels.1");
}

#[test]
fn all_findings_come_at_once() {
    let mut shop = shop();
    shop["project"]["name"] = "My Shop".into();
    shop["flows"]["order_placed"]["notify"]["template"] = "nothing".into();
    shop["templates"]["order_placed"]["channels"]["sms"]["es"]["text"] = "{{ oops }} {{ again }}".into();
    let paths: Vec<_> = compile(shop).unwrap_err().into_iter().map(|f| f.path).collect();
    let text = "templates.order_placed.channels.sms.es.text";
    assert_eq!(paths, ["flows.order_placed.notify.template", "project.name", text, text]);
}

#[test]
fn conditions_answer_or_fail_but_never_guess() {
    let data = json!({"total": 12, "currency": "EUR", "items": [{"price": 3.5}], "nothing": null});
    let cases = [
        ("event.data.total > 10", Ok(true)),
        ("event.data.total + 1 == 13", Ok(true)),
        ("event.data.total > 10.5", Ok(true)),
        ("event.data.items.exists(i, i.price > 3.0)", Ok(true)),
        ("event.data.items.all(i, i.price > 4.0)", Ok(false)),
        ("has(event.data.coupon) && event.data.coupon == 'X'", Ok(false)),
        ("event.data.currency in ['EUR', 'USD']", Ok(true)),
        ("event.data.currency.matches('^E')", Ok(true)),
        ("event.time >= '2026-01-01T00:00:00.000Z' && event.time < '2026-01-02'", Ok(true)),
        (
            "event.type == 'shop.order.placed' && event.source == '/till' && event.id == '1' && event.subject == 'ana'",
            Ok(true),
        ),
        ("type(event.data.total) == int && event.data.nothing == null", Ok(true)),
        ("optional.of(event.data.total).hasValue()", Ok(true)),
        ("event.data.coupon == 'X'", Err("no `coupon`")),
        ("event.data.total", Err("gives int")),
        ("event.data.currency > 3", Err("compare values of one type")),
        ("event.data.total / 0 == 1", Err("division by zero")),
        ("event.data.items[3].price > 1.0", Err("shorter than the index")),
    ];
    for (when, expected) in cases {
        // Without a sample, so that what cannot be evaluated is met by the event.
        let mut shop = changed("flows/order_placed/when", when.into());
        shop["templates"] = json!({"order_placed": {"channels": {"sms": {"en": {"text": "x"}}}}});
        shop["flows"]["order_placed"]["notify"]["channels"] = json!([]);
        let shop = compile(shop).unwrap();
        let event = event(&data);
        let flow = &shop.flows("shop.order.placed")[0];
        let answer = flow.admits(&event, &data);
        match (&answer, expected) {
            (Ok(given), Ok(expected)) => assert_eq!(*given, expected, "{when}"),
            (Err(words), Err(part)) => {
                assert!(words.contains(part), "{when}: {words}");
                assert!(!words.contains("EUR") && !words.contains("12"), "values are personal: {words}");
            }
            _ => panic!("{when}: {answer:?}"),
        }
        assert_eq!(shop.triggered(&event, &data).map(|(_, a)| a).collect::<Vec<_>>(), [answer]);
    }
}

#[test]
fn locales_fall_back_to_the_project_s_default() {
    let shop = compile(shop()).unwrap();
    let context = delivery_context(&json!({"order": {"number": "B-2"}, "note": "soon"}), &Profile::default());
    for (locale, used) in [
        (Some("es-AR"), "es-AR"),
        (Some("es_ar"), "es-AR"),
        (Some("es-MX"), "es"),
        (Some("pt-BR"), "en"),
        (Some("klingon"), "en"),
        (None, "en"),
    ] {
        let rendered = shop.render("order_placed", Channel::Sms, locale, &context).unwrap();
        assert_eq!(rendered.locale, used, "{locale:?}");
    }
    let error = shop.render("nothing", Channel::Sms, None, &context).unwrap_err();
    assert!(matches!(error, ContentError::UnknownTemplate { .. }), "{error}");
}

#[test]
fn html_is_escaped_and_nothing_else_is() {
    let shop = compile(shop()).unwrap();
    let hostile = "<script>\r\nBcc: all@example.org";
    let data =
        json!({"order": {"number": hostile, "items": [{"name": "<b>"}]}, "note": "<i>", "member": {"name": "fake"}});
    let profile =
        Profile { attributes: json!({"name": "Ana & Co"}).as_object().unwrap().clone(), ..Profile::default() };
    let rendered = shop.render("order_placed", Channel::Email, None, &delivery_context(&data, &profile)).unwrap();
    assert_eq!(rendered.variant.subject.as_deref(), Some("Order <script> Bcc: all@example.org placed"));
    assert_eq!(rendered.variant.html.as_deref(), Some("<p>Hi Ana &amp; Co, &lt;i&gt;</p>"));
    assert_eq!(rendered.variant.text.as_deref(), Some("Hi\n- <b>\n"));
}

#[test]
fn what_is_missing_at_sending_is_an_error_without_values() {
    let shop = compile(shop()).unwrap();
    for data in
        [json!({"order": {"number": "S3CRET"}}), json!({"order": {"number": "S3CRET"}, "note": null}), json!(null)]
    {
        let error =
            shop.render("order_placed", Channel::Sms, None, &delivery_context(&data, &Profile::default())).unwrap_err();
        let words = error.to_string();
        assert!(words.contains("order_placed.sms.en.text:1:"), "{words}");
        assert!(!words.contains("S3CRET"), "{words}");
    }
    let empty = compile(changed(
        "templates/order_placed/channels/sms/en/text",
        json!("{% if note != 'n' %}{% else %}x{% endif %}"),
    ));
    let data = json!({"order": {}, "note": "other"});
    let error =
        empty.unwrap().render("order_placed", Channel::Sms, None, &delivery_context(&data, &Profile::default()));
    assert!(matches!(&error, Err(ContentError::Empty { field, .. }) if field == "text"), "{error:?}");
}

#[test]
fn a_sample_member_promises_what_members_have() {
    let mut document =
        changed("templates/order_placed/channels/sms/en/text", json!("{{ member.attributes.tier }} {{ member.name }}"));
    document["templates"]["order_placed"]["sample"]["member"] = json!({"name": "Ana", "attributes": {"tier": "gold"}});
    compile(document).unwrap();
}

/// The shop whose flow is of a category, beside what the project declares.
fn of_category(category: &str, declared: Value) -> Value {
    let mut document = changed("project/categories", declared);
    document["flows"]["order_placed"]["notify"]["category"] = category.into();
    document
}

#[test]
fn what_a_category_asks_of_a_member_is_declared_built_in_or_told_by_the_lane() {
    use Consent::{Assumed, Required, Unrefusable};
    let title = |consent: &str| json!({"title": "T", "consent": consent});
    for (sentence, document, category, consent) in [
        ("marketing needs consent", shop(), "marketing", Required),
        ("that of what one waits for is assumed", shop(), "transactional", Assumed),
        (
            "unless it is declared otherwise",
            of_category("transactional", json!({"transactional": title("unrefusable")})),
            "transactional",
            Unrefusable,
        ),
        (
            "a declared category is as it says",
            of_category("tips", json!({"tips": title("required")})),
            "tips",
            Required,
        ),
        ("while none is declared, the lane tells", of_category("tips", json!({})), "tips", Assumed),
        ("what nobody knows must be asked for", shop(), "unheard_of", Required),
    ] {
        assert_eq!(compile(document).unwrap().consent_of(category), consent, "{sentence}");
    }
    let mut bulk = of_category("tips", json!({}));
    bulk["flows"]["order_placed"]["notify"]["lane"] = "bulk".into();
    assert_eq!(compile(bulk).unwrap().consent_of("tips"), Required);

    let titles = json!({"orders": {"title": {"en": "Orders", "es": "Pedidos"}, "consent": "assumed"}});
    let compiled = compile(of_category("orders", titles)).unwrap();
    let names: Vec<&str> = compiled.categories().map(|(name, _)| name).collect();
    assert_eq!(names, ["marketing", "orders", "transactional"]);
    let (_, orders) = compiled.categories().nth(1).unwrap();
    for (locale, text) in
        [(Some("es"), "Pedidos"), (Some("es-AR"), "Pedidos"), (Some("pt"), "Orders"), (None, "Orders")]
    {
        assert_eq!(orders.title.of(locale), text, "{locale:?}");
    }
}

#[test]
fn wrong_categories_are_told_with_place_and_remedy() {
    let told = |document: Value| {
        let findings = compile(document).unwrap_err();
        findings.iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    let orders = |title: Value| json!({"orders": {"title": title, "consent": "assumed"}});
    assert_eq!(
        told(of_category("ordres", orders("Orders".into()))),
        [
            "flows.order_placed.notify.category: the category `ordres` is not declared (did you mean `orders`?); declare it in \
          `project.categories`, or use one of marketing, orders, transactional"
        ]
    );
    assert_eq!(
        told(of_category("orders", orders(" ".into()))),
        ["project.categories.orders.title: the title is empty; write what members read"]
    );
    assert_eq!(
        told(of_category("orders", orders(json!({"es": "Pedidos", "es_ar": "Pedidos"})))),
        [
            "project.categories.orders.title: there is no title in the default locale `en`; add it: it is shown to whoever reads none of the \
             others",
            "project.categories.orders.title.es_ar: the locale `es_ar` is spelled unusually; write `es-AR`",
        ]
    );
    assert_eq!(
        told(of_category("transactional", json!({"Our Tips": {"title": "T", "consent": "required"}}))),
        [
            "project.categories.Our Tips: the name has other characters than a-z, 0-9, `_` and `-`; use 1 to 63 of a-z, 0-9, `_` and `-`"
        ]
    );
}

#[test]
fn projects_keep_the_newest_version() {
    let version = |version| Arc::new(Compiled::new(serde_json::from_value(shop()).unwrap(), version, &check).unwrap());
    let projects = Projects::default().with(version(2)).with(version(1));
    assert_eq!(projects.get("shop").unwrap().version, 2);
    assert_eq!(projects.with(version(3)).get("shop").unwrap().version, 3);
    assert!(projects.get("other").is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any text as condition, template or locale gives findings or compiles; it never panics or hangs.
    #[test]
    fn hostile_texts_are_only_findings(
        when in "[a-z.()\\[\\]{}'\"!&|=<>+*/%?: 0-9éñ\n-]{0,60}",
        text in "([a-zé\n]|\\{\\{|\\}\\}|\\{%|%\\}| for | in | if |order|\\.|\\||\\(|\\)|'|[0-9]|\\[|\\]|-|~){0,40}",
        locale in ".{0,12}",
    ) {
        let mut document = changed("flows/order_placed/when", when.into());
        document["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] = text.into();
        document["templates"]["order_placed"]["channels"]["sms"][locale] = json!({"text": "x"});
        for finding in compile(document).err().unwrap_or_default() {
            prop_assert!(!finding.remedy.is_empty());
        }
    }
}

#[test]
fn what_a_text_message_costs_is_remarked_and_refuses_nothing() {
    let remarks = |text: &str, name: &str| {
        let mut document = shop();
        document["templates"]["order_placed"]["sample"]["name"] = name.into();
        document["templates"]["order_placed"]["channels"]["sms"]["en"]["text"] = text.into();
        let remarks = compiled(document).unwrap().remarks().to_vec();
        remarks.iter().map(Finding::to_string).collect::<Vec<_>>()
    };
    let path = "templates.order_placed.channels.sms.en.text";
    assert_eq!(remarks("Hi ñ €", ""), Vec::<String>::new());
    assert_eq!(remarks(&"a".repeat(160), ""), Vec::<String>::new());
    let words =
        "the message of the sample makes 2 segments, GSM-7, each of which is billed; 160 of its 161 units fit into one";
    assert_eq!(remarks(&"a".repeat(161), ""), [format!("{path}: {words}")]);
    let words = "`’` (U+2019) alone makes UCS-2 of a GSM-7 text (1 segment, UCS-2); another character leaves room for 160 instead of 70";
    assert_eq!(remarks("Hi,\nit’s ’s", ""), [format!("{path}:2:3: {words}")]);
    // A character of the sample's has no place in the text; several characters are the language's own.
    let words = "`í` (U+00ED) alone makes UCS-2 of a GSM-7 text (1 segment, UCS-2); another character leaves room for 160 instead of 70";
    assert_eq!(remarks("Hi {{ name }}", "María"), [format!("{path}: {words}")]);
    assert_eq!(remarks("Está aquí", ""), Vec::<String>::new());
    let words =
        "the message of the sample makes 2 segments, UCS-2, each of which is billed; 70 of its 72 units fit into one";
    assert_eq!(remarks(&"áí".repeat(36), ""), [format!("{path}: {words}")]);
}
