//! Content: layouts and partials, what is declared of events and members, types with their weights, limits, and previews.

#![allow(clippy::unwrap_used, missing_docs)]

use bellwether_processors::{
    content::{ContentError, EventAttributes, context},
    definitions::{Compiled, Finding, Projects, ProviderCheck},
    flow::Flow,
    processor::{Facts, Incoming, Processor as _},
};
use bellwether_schemas::{
    Channel, Position, Timestamp, Topic,
    definitions::Definitions,
    member::Profile,
    records::{Event, Record},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

fn check(kind: &str, _: &Map<String, Value>) -> ProviderCheck {
    let channel = Channel::ALL.into_iter().find(|channel| channel.name() == kind);
    ProviderCheck { channel, prefix: "", problems: Vec::new() }
}

/// A shop that declares what it tells: one event, a layout with partials, one template, and a type with two of them.
fn shop() -> Value {
    json!({
        "project": {"name": "shop", "default_locale": "en", "attributes": {"first_name": {"type": "string"}}},
        "providers": {"mail": {"kind": "email"}, "text": {"kind": "sms"}, "push": {"kind": "web_push"}},
        "events": {"order_placed": {
            "type": "shop.order.placed",
            "data": {
                "type": "object",
                "required": ["number", "total", "currency", "items", "at"],
                "properties": {
                    "number": {"type": "string"},
                    "total": {"type": "number"},
                    "currency": {"type": "string"},
                    "at": {"type": "string", "format": "date-time"},
                    "note": {"type": "string"},
                    "gift": {"type": "object", "properties": {"to": {"type": "string"}}},
                    "items": {"type": "array", "items": {
                        "type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "price": {"type": "number"}},
                    }},
                },
            },
            "samples": {"usual": {
                "data": {"number": "A-1", "total": 1234.5, "currency": "EUR", "at": "2026-03-01T23:30:00Z", "items": [{"name": "Tea & <milk>", "price": 2}]},
                "member": {"attributes": {"first_name": "Ana"}, "time_zone": "Europe/Madrid"},
            }},
        }},
        "layouts": {
            "letter.html": "<main>{% block body %}{% endblock %}</main>{% include 'partials/footer.html' %}",
            "letter.mjml": "<mjml><mj-body><mj-section><mj-column>{% block body %}{% endblock %}<mj-text>{% include 'partials/footer.html' %}</mj-text></mj-column></mj-section></mj-body></mjml>",
        },
        "partials": {
            "footer.html": "<footer>Almendra, {{ event.time | date('%Y') }}</footer>",
            "footer.es.html": "<footer>Almendra desde {{ event.time | date('%Y') }}</footer>",
            "money.txt": "{% macro paid() %}{{ total | money(currency) }}{% endmacro %}",
        },
        "templates": {
            "receipt": {"channels": {
                "email": {
                    "en": {
                        "subject": "Order {{ number }}",
                        "html": "{% extends 'layouts/letter.html' %}{% block body %}<p>{{ member.attributes.first_name | default('you') }}: {% for item in items %}{{ item.name }}{% endfor %} {{ at | datetime }}</p>{% endblock %}",
                    },
                    "es": {
                        "subject": "Pedido {{ number }}",
                        "html": "{% extends 'layouts/letter.mjml' %}{% block body %}<mj-text>{{ items | length | plural(one='# artículo', other='# artículos') }}, {{ at | date('long') }}</mj-text>{% endblock %}",
                    },
                },
                "sms": {
                    "en": {"text": "{% import 'partials/money.txt' as money %}Order {{ number }}: {{ money.paid() }}"},
                    "es": {"text": "{% from 'partials/money.txt' import paid %}Pedido {{ number }}: {{ paid() }}"},
                },
            }},
            "short": {"channels": {"sms": {"en": {"text": "{{ number }}"}}, "email": {"en": {"subject": "{{ number }}", "text": "Thanks"}}}},
        },
        "types": {"receipt": {"channels": ["sms", "email"], "templates": [{"template": "receipt", "weight": 3}, {"template": "short"}]}},
        "flows": {"order_placed": {"on": "shop.order.placed", "when": "event.data.total > 10.0", "notify": {"type": "receipt", "lane": "transactional"}}},
    })
}

fn compile(document: Value) -> Result<Compiled, Vec<Finding>> {
    Compiled::new(serde_json::from_value::<Definitions>(document).unwrap(), 1, &check)
}

/// The shop with one place changed; a place that is not there is made.
fn changed(pointer: &str, value: Value) -> Value {
    let mut shop = shop();
    let mut at = &mut shop;
    for step in pointer.split('/') {
        at = match at {
            Value::Array(items) => &mut items[step.parse::<usize>().unwrap()],
            other => &mut other[step],
        };
    }
    *at = value;
    shop
}

fn sample() -> Value {
    shop()["events"]["order_placed"]["samples"]["usual"]["data"].clone()
}

fn context_of(data: &Value) -> Value {
    let event =
        EventAttributes { id: "1", kind: "shop.order.placed", source: None, time: Timestamp(1_772_366_400_000) };
    let attributes = json!({"first_name": "<Ana>"}).as_object().unwrap().clone();
    context(event, data, "ana", &Profile { attributes, time_zone: Some("Europe/Madrid".into()), ..Profile::default() })
}

#[test]
fn a_time_is_told_by_the_members_clock_or_else_the_projects() {
    let mut document = shop();
    document["project"]["time_zone"] = json!("Asia/Kolkata");
    let shop = compile(document).unwrap();
    let said = |zone: Option<&str>| {
        let mut context = context_of(&sample());
        context["member"]["time_zone"] = json!(zone);
        let html = shop.render("receipt", Channel::Email, Some("en"), &context).unwrap().variant.html.unwrap();
        html.replace('\u{202f}', " ")
    };
    assert!(said(Some("Europe/Madrid")).contains("Mar 2, 2026, 12:30 AM"));
    assert!(said(None).contains("Mar 2, 2026, 5:00 AM"), "{}", said(None));
}

#[test]
fn layouts_partials_and_filters_make_a_message() {
    let shop = compile(shop()).unwrap();
    let said = |channel, locale: &str| {
        let rendered = shop.render("receipt", channel, Some(locale), &context_of(&sample())).unwrap().variant;
        rendered.html.or(rendered.text).unwrap()
    };
    assert_eq!(
        said(Channel::Email, "en").replace('\u{202f}', " "),
        "<main><p>&lt;Ana&gt;: Tea &amp; &lt;milk&gt; Mar 2, 2026, 12:30 AM</p></main><footer>Almendra, 2026</footer>",
        "it is the second of March in Madrid"
    );
    let spanish = said(Channel::Email, "es-AR");
    assert!(spanish.starts_with("<!doctype html>") && spanish.contains("1 artículo, 2 de marzo de 2026"), "{spanish}");
    assert!(spanish.contains("<footer>Almendra desde 2026</footer>") && !spanish.contains("<mj-"), "{spanish}");
    assert_eq!(said(Channel::Sms, "en"), "Order A-1: €1,234.50");
    // The space before the sign would not break, and is none of SMS's own letters.
    assert_eq!(said(Channel::Sms, "es"), "Pedido A-1: 1234,50 €");
}

#[test]
fn what_is_missing_in_a_part_is_told_of_the_part_without_values() {
    let shop = compile(shop()).unwrap();
    let mut data = sample();
    data.as_object_mut().unwrap().remove("currency");
    let error = shop.render("receipt", Channel::Sms, Some("en"), &context_of(&data)).unwrap_err().to_string();
    assert!(error.contains("receipt.sms.en.text, in partials/money.txt:1:"), "{error}");
    assert!(error.contains("currency") && !error.contains("1234"), "{error}");
}

#[test]
fn every_rule_of_content_tells_place_problem_and_remedy() {
    let data = "events/order_placed/data";
    let english = "templates/receipt/channels/email/en";
    let text = "templates/short/channels/sms/en/text";
    let cases = [
        ("project/attributes/age", json!({"type": "integer", "format": "date"})),
        ("events/Order", json!({"type": " ", "data": {}, "samples": {"a": {"data": 1}}})),
        ("events/again", json!({"type": "shop.order.placed", "data": {}, "samples": {"a": {"data": 1}}})),
        ("events/order_placed/samples", json!({})),
        ("events/order_placed/samples/usual/data/total", json!("1234")),
        ("events/order_placed/samples/usual/data/items/0", json!({})),
        ("events/order_placed/samples/usual/member/atributes", json!({})),
        ("events/order_placed/samples/usual/member/attributes/first_nam", json!("Ana")),
        ("events/order_placed/samples/usual/member/attributes/first_name", json!(1)),
        (&format!("{data}/required/0"), json!("numbr")),
        (&format!("{data}/properties/member"), json!({})),
        (&format!("{data}/properties/total"), json!({"type": "number", "items": {}})),
        ("partials/Footer.html", json!("x")),
        ("partials/footer.css", json!("x")),
        ("partials/footer.spanish.html", json!("x")),
        ("partials/footer.html", json!("line\n{{ numbr }} {{ note }}")),
        ("partials/footer.html", json!("{% if %}")),
        ("partials/footer.html", json!("{% include 'partials/foter.html' %}")),
        ("layouts/letter.html", json!("{% block body %}{{ unknown_but_overridden }}{% endblock %}{{ gone }}")),
        ("partials/footer.html", json!("{% include 'layouts/letter.html' %}")),
        (text, json!("{% include 'partials/footer.html' %}")),
        (text, json!("{% include number %}")),
        (text, json!("{% include 'partials/mony.txt' %}")),
        (text, json!("{{ numbr }}")),
        (text, json!("one\n  {{ note }}")),
        (
            text,
            json!(
                "{{ note | default('x') }} {% if note is defined %}{{ note }}{% endif %} {{ note if note is defined else 'x' }}{{ gift.to }}"
            ),
        ),
        (text, json!("{% if gift is defined and gift.to is defined %}{{ gift.to }}{% else %}{{ gift.to }}{% endif %}")),
        (text, json!("{% for item in items %}{{ item.nme }} {{ item.price }} {{ loop.index }}{% endfor %}")),
        (text, json!("{% set first = items | first %}{{ first.nmae }} {{ items[0].prise }}")),
        (
            text,
            json!(
                "{{ event.data.totl }} {{ event.source }} {{ member.nam }} {{ member.name }} {{ member.attributes.first_nam | default('x') }}"
            ),
        ),
        (text, json!("{{ total | money('euros') }}")),
        (text, json!("{{ number | plural(other='x') }}")),
        (text, json!("{{ number }}{{ 'x' * 1601 }}")),
        (
            &format!("{english}/html"),
            json!("{% extends 'layouts/letter.mjml' %}{% block body %}<mj-nonsense />{% endblock %}"),
        ),
        (&format!("{english}/html"), json!("<mjml>{% include 'partials/none.mjml' %}</mjml>")),
        ("templates/short/sample", json!({"number": "1"})),
        ("templates/short/channels/web_push", json!({"en": {"title": "{{ 'x' * 3000 }}", "text": "y"}})),
        ("types/receipt/templates", json!([])),
        ("types/receipt/templates", json!([{"template": "short", "weight": 0}])),
        ("types/receipt/templates/0/template", json!("recept")),
        ("types/receipt/templates/0/template", json!("short")),
        ("types/receipt/channels", json!(["sms", "sms", "web_push"])),
        ("types/receipt/sender", json!("txt")),
        ("types/receipt/sender", json!("push")),
        ("types/again", json!({"sender": "text", "templates": [{"template": "short"}]})),
        ("flows/order_placed/notify", json!({"lane": "bulk"})),
        ("flows/order_placed/notify/template", json!("short")),
        ("flows/order_placed/notify/type", json!("recept")),
        ("flows/order_placed/notify/channels", json!(["web_push"])),
        ("flows/order_placed/when", json!("event.data.totl > 10.0")),
        ("flows/order_placed/when", json!("event.data.note == 'x'")),
        (
            "flows/order_placed/when",
            json!("has(event.data.note) && event.data.note == 'x' && event.data.items.exists(i, i.name == 'x')"),
        ),
        ("flows/order_placed/when", json!("event.data.number > 10")),
    ];
    let mut told = String::new();
    for (pointer, value) in cases {
        told += &format!("# {pointer} = {value}\n");
        match compile(changed(pointer, value)) {
            Ok(_) => told += "nothing\n",
            Err(findings) => findings.iter().for_each(|finding| told += &format!("{finding}\n")),
        }
        told.push('\n');
    }
    insta::assert_snapshot!(told);
}

#[test]
fn what_arrives_but_not_as_it_was_meant_is_a_remark() {
    let mut document = changed("templates/short/channels/email/en/subject", json!("{{ 'x' * 79 }}"));
    document["templates"]["short"]["channels"]["email"]["en"]["html"] = json!("{{ 'x' * 104449 }}");
    let remarks: Vec<String> = compile(document).unwrap().remarks().iter().map(ToString::to_string).collect();
    insta::assert_snapshot!(remarks.join("\n"));
    assert!(compile(shop()).unwrap().remarks().is_empty());
}

#[test]
fn each_sample_is_tried_and_the_longest_decides() {
    let mut document = changed("templates/short/channels/sms/en/text", json!("{{ number }}"));
    let mut long = sample();
    long["number"] = "9".repeat(1_601).into();
    document["events"]["order_placed"]["samples"]["longest"] = json!({"data": long});
    let findings = compile(document).unwrap_err();
    let words: Vec<&str> = findings.iter().map(|f| f.problem.as_str()).collect();
    assert!(
        words.iter().any(|w| w.contains("with sample `longest` of event `order_placed`, the message has 1601")),
        "{words:?}"
    );
}

#[test]
fn a_draft_shows_what_it_can() {
    let document = changed("templates/receipt/channels/sms/es/text", json!("{{ oops }}"));
    let (draft, findings) = Compiled::draft(serde_json::from_value(document).unwrap(), 0, &check);
    assert_eq!(findings.len(), 1);
    let occasions = draft.occasions("receipt");
    assert_eq!((occasions.len(), occasions[0].event.as_deref()), (1, Some("order_placed")));
    let (name, context) = &occasions[0].samples[0];
    assert_eq!(name, "usual");
    let shown = draft.content().preview("receipt", context);
    let variants: Vec<_> = shown.iter().map(|v| (v.channel, v.locale.as_str(), v.rendered.is_ok())).collect();
    assert_eq!(
        variants,
        [
            (Channel::Email, "en", true),
            (Channel::Email, "es", true),
            (Channel::Sms, "en", true),
            (Channel::Sms, "es", false)
        ]
    );
    assert!(shown[3].rendered.as_ref().unwrap_err().contains("oops"), "{shown:?}");
    assert_eq!((shown[2].measures[0].size, shown[2].measures[0].limit.most), (20, 1_600));
}

/// What flow makes of an event.
fn flow(document: Value, member: &str, data: &Value) -> Result<Vec<Record>, String> {
    let projects = Projects::from_iter([compile(document).unwrap()]);
    let input = Event {
        project: "shop".into(),
        id: "1".into(),
        source: "/till".into(),
        kind: "shop.order.placed".into(),
        subject: Some(member.into()),
        time: Timestamp(0),
        accepted_at: Timestamp(0),
        data: data.to_string(),
    };
    let incoming = Incoming { position: Position { topic: Topic::Events, partition: 0, offset: 0 }, input };
    let output = Flow { projects }.decide(&incoming, &Facts::default(), Timestamp(0));
    output.map(|output| output.records).map_err(|refusal| refusal.detail)
}

#[test]
fn a_type_gives_each_member_one_template_always_the_same() {
    let template = |document: Value, member: &str| match &flow(document, member, &sample()).unwrap()[..] {
        [Record::Notification(n)] => (n.template.clone(), n.channels.clone()),
        other => panic!("{other:?}"),
    };
    let mut counts = BTreeMap::<String, u32>::new();
    for n in 0..100 {
        let member = format!("m{n}");
        let (chosen, channels) = template(shop(), &member);
        assert_eq!(channels, [Channel::Sms, Channel::Email], "the type's own");
        assert_eq!(template(shop(), &member).0, chosen, "{member}");
        // Whoever had the template that weighs more now has it still.
        let heavier = changed("types/receipt/templates/0/weight", json!(6));
        assert!(chosen == "short" || template(heavier, &member).0 == "receipt", "{member}");
        *counts.entry(chosen).or_default() += 1;
    }
    assert!((60..90).contains(&counts["receipt"]) && counts.len() == 2, "{counts:?}");
    let named = changed("flows/order_placed/notify/channels", json!(["email"]));
    assert_eq!(template(named, "m1").1, [Channel::Email], "the flow's own come first");
}

#[test]
fn a_type_s_sender_sends_what_it_can() {
    let mut document = changed("providers/another", json!({"kind": "sms"}));
    let sender = |document: &Value, channel, stopped: &str| {
        let compiled = compile(document.clone()).unwrap();
        let may_call = |name: &str| name != stopped;
        compiled.sender_of("short", channel, "+34600000000", may_call).map(|(name, _)| name.to_owned()).unwrap()
    };
    for (named, other) in [("text", "another"), ("another", "text")] {
        document["types"]["receipt"]["sender"] = json!(named);
        assert_eq!(sender(&document, Channel::Sms, ""), named, "whatever the address's own order is");
        assert_eq!(sender(&document, Channel::Sms, named), other, "while the sender may not be called");
        assert_eq!(sender(&document, Channel::Email, ""), "mail", "which the sender does not serve");
    }
}

#[test]
fn an_event_that_is_not_as_declared_is_refused_by_its_field() {
    let mut data = sample();
    data["items"] = json!([{"price": "SECRET"}]);
    let refusal = flow(shop(), "ana", &data).unwrap_err();
    assert!(refusal.starts_with("data.items.0.name: is missing") && !refusal.contains("SECRET"), "{refusal}");
    data = sample();
    data["more"] = json!({"whatever": true});
    assert_eq!(flow(shop(), "ana", &data).unwrap().len(), 1, "what is not declared is let through");
}

#[test]
fn parts_are_looked_for_among_parts_alone() {
    // Published before there were rules, say: the engine itself lets no text lead out of the parts or into another escaping.
    for text in [
        "{% include 'short.sms.en.text' %}",
        "{% include 'partials/footer.html' %}",
        "{% include ['partials/footer.html', 'x'] %}",
    ] {
        let document = changed("templates/short/channels/sms/en/text", json!(text));
        let (draft, _) = Compiled::draft(serde_json::from_value(document).unwrap(), 0, &check);
        let error = draft.render("short", Channel::Sms, None, &context_of(&sample())).unwrap_err();
        assert!(
            matches!(&error, ContentError::Render { problem, .. } if problem.contains("no such part")),
            "{text}: {error}"
        );
    }
}
