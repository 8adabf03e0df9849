//! Folders of definitions: what is refused, where and in which words; what a change looks like.

#![allow(clippy::unwrap_used, missing_docs)]

use bellwether::definitions::{Loaded, Located, check_provider, diff, load};
use bellwether_processors::content::{EventAttributes, context};
use bellwether_schemas::{
    Channel, Timestamp,
    definitions::{Definitions, Fallback, Project},
    member::Profile,
};
use proptest::prelude::*;
use serde_json::json;
use std::{fs, path::Path};
use tempfile::TempDir;

const PROJECT: &str = "name: shop\ndefault_locale: en\ndefault_region: ES\n";
const PROVIDERS: &str = "\
mail:
  kind: smtp
  host: \"${SMTP_HOST:-127.0.0.1}\"
  port: ${SMTP_PORT:-1025}
  from_address: shop@example.com
  from_name: \"${SMTP_PORT:-1025}\"
  username: shop
  password: { env: SMTP_PASSWORD }
  on_ambiguous: hold
text:
  kind: twilio
  rate_per_second: 10
  account_sid: AC00000000000000000000000000000000
  auth_token: { env: TWILIO_TOKEN }
  from: \"+34600000000\"
";
const TEMPLATE: &str = "\
# What a customer hears first.
channels:
  email:
    en:
      subject: 'Order {{ order.number }}'
      html: |
        <p>Hello {{ member.name | default('there') }}</p>

        <p>You paid {{ order.total }} for {{ order.number }}</p>
      text: >-
        You paid {{ order.total }}
        for {{ order.number }}
  sms:
    en: { text: \"Order {{ order.number }}\" }
sample:
  order: { number: A-1, total: 12.5 }
";
const FLOW: &str = "\
on: shop.order.placed
when: event.data.order.total > 0.0
notify:
  template: order_placed
  lane: transactional
  channels: [email, sms]
  expires_after_seconds: 3600
";

/// A folder with the shop, with some files written over; an empty text removes the file.
fn shop(changes: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("project.yaml", PROJECT),
        ("providers.yaml", PROVIDERS),
        ("templates/order_placed.yaml", TEMPLATE),
        ("flows/order_placed.yaml", FLOW),
    ];
    for (file, text) in files.iter().chain(changes) {
        let path = dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        if text.is_empty() { fs::remove_file(path).unwrap() } else { fs::write(path, text).unwrap() }
    }
    dir
}

fn read(dir: &Path) -> Result<Loaded, Vec<Located>> {
    load(dir, &|name| (name == "SET").then(|| "from the environment".to_owned()), &check_provider)
}

fn document(changes: &[(&str, &str)]) -> Definitions {
    read(shop(changes).path()).unwrap().document
}

#[test]
fn a_whole_folder_loads() {
    let loaded = read(shop(&[]).path()).unwrap();
    let mail = &loaded.document.providers["mail"];
    assert_eq!(mail.settings["host"], "127.0.0.1");
    assert_eq!(mail.settings["port"], 1025, "a whole plain scalar takes its type after expansion");
    assert_eq!(mail.settings["from_name"], "1025", "quotes keep text");
    assert_eq!(mail.settings["password"], json!({"env": "SMTP_PASSWORD"}));
    assert_eq!(loaded.compiled.providers(Channel::Sms), ["text"]);
    let event = EventAttributes { id: "1", kind: "shop.order.placed", source: None, time: Timestamp(0) };
    let context = context(event, &json!({"order": {"number": "B-2", "total": 3}}), "ana", &Profile::default());
    let rendered = loaded.compiled.render("order_placed", Channel::Email, Some("es"), &context).unwrap();
    assert_eq!(rendered.variant.text.as_deref(), Some("You paid 3 for B-2"));
}

#[test]
fn yaml_and_the_published_json_say_the_same() {
    let document = document(&[("flows/order_placed.yaml", &format!("{FLOW}  fallback: {{ after_seconds: 600 }}\n"))]);
    assert_eq!(document.flows["order_placed"].notify.fallback, Some(Fallback { after_seconds: 600 }));
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<Definitions>(&json).unwrap(), document);
    // JSON is YAML: what was published can be written to a folder and read again.
    let part = |value: serde_json::Value| value.to_string();
    let again = shop(&[
        ("project.yaml", &part(json!(document.project))),
        ("providers.yaml", &part(json!(document.providers))),
        ("templates/order_placed.yaml", &part(json!(document.templates["order_placed"]))),
        ("flows/order_placed.yaml", &part(json!(document.flows["order_placed"]))),
    ]);
    assert_eq!(read(again.path()).unwrap().document, document);
}

#[test]
fn routing_is_read_and_published_alike() {
    let routing = |text: &str| format!("{PROJECT}routing:\n{text}");
    let yaml = routing("  weights: { cost: 2.5 }\n  costs: { sms: 0.05, email: 0 }\n");
    let project = document(&[("project.yaml", &yaml)]).project;
    let weights = json!({"reach": 1, "engagement": 1, "cost": 2.5});
    assert_eq!(json!(project)["routing"], json!({"weights": weights, "costs": {"email": 0, "sms": 0.05}}));
    assert_eq!(serde_json::from_value::<Project>(json!(project)).unwrap(), project);

    let yaml = routing("  weights: { reech: 1 }\n  costs: { sms: cheap, emial: 1 }\n");
    let told = read(shop(&[("project.yaml", &yaml)]).path()).unwrap_err();
    assert_eq!(
        told.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "project.yaml:5:14: unknown field `reech` (did you mean `reach`?); use one of reach, engagement, cost",
            "project.yaml:6:17: text where a number is expected; write a number",
            "project.yaml:6:24: unknown channel `emial` (did you mean `email`?); \
             use one of email, sms, whatsapp, telegram, web_push, app_push, webhook",
        ]
    );
}

#[test]
fn an_order_of_channels_and_what_is_kept_are_read_and_published_alike() {
    let project =
        document(&[("project.yaml", &format!("{PROJECT}channels: [whatsapp, email]\nengagement: true\n"))]).project;
    assert_eq!(json!(project)["channels"], json!(["whatsapp", "email"]));
    assert_eq!(json!(project)["engagement"], true);
    assert_eq!(serde_json::from_value::<Project>(json!(project)).unwrap(), project);
    let told = |channels: &str| {
        let folder = shop(&[("project.yaml", &format!("{PROJECT}channels: {channels}\n"))]);
        read(folder.path()).unwrap_err().iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        told("[whatsapp, emial]"),
        ["project.yaml:4:22: unknown channel `emial` (did you mean `email`?); \
             use one of email, sms, whatsapp, telegram, web_push, app_push, webhook"]
    );
    assert_eq!(told("[email, email]"), ["project.yaml:4:19: email is there twice; remove one"]);
}

#[test]
fn digests_are_read_and_published_alike() {
    let project = |exceed: &str| {
        format!("{PROJECT}caps:\n  few: {{ most: 1, per: day, categories: [transactional], exceed: {exceed} }}\n")
    };
    let flow = |digest: &str| {
        format!("on: shop.order.placed\nnotify: {{ template: order_placed, lane: transactional, digest: {digest} }}\n")
    };
    let event = "type: shop.order.placed\ndata: { type: object, properties: { number: { type: string } } }\n\
        samples: { usual: { data: { number: A-1 } } }\n";
    let files = |project: &str, flow: &str| {
        shop(&[
            ("project.yaml", project),
            ("events/order_placed.yaml", event),
            ("templates/order_placed.yaml", "channels: { sms: { en: { text: '{{ count }} orders' } } }\n"),
            ("flows/order_placed.yaml", flow),
        ])
    };
    let good = files(&project("digest"), &flow("{ after_seconds: 60, key: number, most: 3 }"));
    let document = read(good.path()).unwrap().document;
    let published = json!(document);
    assert_eq!(published["project"]["caps"]["few"]["exceed"], "digest");
    let digest = &published["flows"]["order_placed"]["notify"]["digest"];
    assert_eq!(*digest, json!({"after_seconds": 60, "key": "number", "most": 3}));
    assert_eq!(serde_json::from_value::<Definitions>(published).unwrap(), document);

    let bad = files(&project("digset"), &flow("{ after_seconds: 60, mots: 3 }"));
    let told: Vec<_> = read(bad.path()).unwrap_err().iter().map(ToString::to_string).collect();
    for words in [
        "unknown policy `digset` (did you mean `digest`?); use one of drop, defer, digest",
        "unknown field `mots` (did you mean `most`?); use one of after_seconds, key, most",
    ] {
        assert!(told.iter().any(|told| told.ends_with(words)), "{words}: {told:#?}");
    }
    let keyless = files(&project("digest"), &flow("{ after_seconds: 60, key: nmber }"));
    let told: Vec<_> = read(keyless.path()).unwrap_err().iter().map(ToString::to_string).collect();
    let words =
        "unknown field `nmber` (did you mean `number`?); correct it, or declare `nmber` in events/order_placed.yaml";
    assert!(
        matches!(&told[..], [told] if told.starts_with("flows/order_placed.yaml:2:") && told.ends_with(words)),
        "{told:#?}"
    );
}

#[test]
fn the_environment_cannot_change_the_structure() {
    let sample =
        "  set: ${SET}\n  escaped: $${SET}\n  inside: 'x${SET}y'\n  other: '${{ total }} ${'\n  empty: ${EMPTY:-}\n";
    let dir = shop(&[("templates/order_placed.yaml", &format!("{TEMPLATE}{sample}"))]);
    let env = |name: &str| (name == "SET").then(|| "x: [1, 2]\norder: none".to_owned());
    let sample = load(dir.path(), &env, &check_provider).unwrap().document.templates["order_placed"].sample.clone();
    assert_eq!(sample["order"]["number"], "A-1");
    assert_eq!(sample["set"], "x: [1, 2]\norder: none");
    assert_eq!(sample["escaped"], "${SET}");
    assert_eq!(sample["inside"], "xx: [1, 2]\norder: noney");
    assert_eq!(sample["other"], "${{ total }} ${");
    assert_eq!(sample["empty"], "");
}

#[test]
fn every_mistake_is_told_with_file_and_line() {
    let template = |from: &str, to: &str| TEMPLATE.replace(from, to);
    let flow = |from: &str, to: &str| FLOW.replace(from, to);
    let cases: Vec<(&str, Vec<(&str, String)>)> = vec![
        ("no files at all", ["project.yaml", "providers.yaml"].map(|f| (f, String::new())).to_vec()),
        ("syntax", vec![("templates/order_placed.yaml", template("  sms:\n", "  sms: [\n"))]),
        ("tabs", vec![("project.yaml", "name:\n\tshop".into())]),
        ("a key twice", vec![("project.yaml", format!("{PROJECT}name: again\n"))]),
        ("two documents", vec![("project.yaml", format!("{PROJECT}---\n{PROJECT}"))]),
        ("an empty file", vec![("flows/order_placed.yaml", "# nothing yet\n".into())]),
        ("a list for a map", vec![("project.yaml", "- name: shop\n".into())]),
        (
            "unknown fields",
            vec![
                ("project.yaml", format!("{PROJECT}default_local: en\n")),
                ("templates/order_placed.yaml", template("subject:", "subjet:")),
                ("flows/order_placed.yaml", flow("expires_after_seconds", "expire_after")),
            ],
        ),
        (
            "wrong types",
            vec![
                ("project.yaml", "name: 12\ndefault_locale: [en]\n".into()),
                (
                    "providers.yaml",
                    "mail: { kind: smtp, max_in_flight: many, max_attempts: -1, on_ambiguous: Resend }\ntext: 5\n"
                        .into(),
                ),
                (
                    "flows/order_placed.yaml",
                    flow("transactional", "urgent").replace("[email, sms]", "sms").replace("3600", "'3600'"),
                ),
            ],
        ),
        (
            "an unknown channel",
            vec![
                ("templates/order_placed.yaml", template("  sms:", "  smss:")),
                ("flows/order_placed.yaml", flow("[email, sms]", "[emial, fax]")),
            ],
        ),
        (
            "a variable in a block",
            vec![(
                "templates/order_placed.yaml",
                template("{{ order.total }} for {{ order.number }}</p>", "{{ order.totl }} for {{ order.numbr }}</p>"),
            )],
        ),
        (
            "a variable in a quoted text",
            vec![("templates/order_placed.yaml", template("'Order {{ order.number }}'", "'Order {{ order.numbr }}'"))],
        ),
        (
            "a variable in a folded text",
            vec![(
                "templates/order_placed.yaml",
                template("        for {{ order.number }}\n", "        for {{ order.numbr }}\n"),
            )],
        ),
        (
            "template syntax",
            vec![("templates/order_placed.yaml", template("Hello {{ member.name", "Hello {% member.name"))],
        ),
        (
            "a block with an indentation of its own",
            vec![(
                "templates/order_placed.yaml",
                template("html: |\n", "html: |2-  # markup\n\n").replace("<p>You", "  <b>{{ oops }}</b>You"),
            )],
        ),
        ("a missing variant", vec![("templates/order_placed.yaml", template("    en: { text", "    es: { text"))]),
        (
            "a condition",
            vec![("flows/order_placed.yaml", flow("event.data.order.total > 0.0", "evnt.data.order.total > 0.0"))],
        ),
        (
            "an unknown template",
            vec![("flows/order_placed.yaml", flow("template: order_placed", "template: order_place"))],
        ),
        ("an unknown kind", vec![("providers.yaml", PROVIDERS.replace("kind: smtp", "kind: smpt"))]),
        ("the environment", vec![("providers.yaml", PROVIDERS.replace(":-1025", "").replace("hold", "${POLICY}"))]),
        (
            "the environment, unquoted in a flow map",
            vec![("providers.yaml", PROVIDERS.replace("env: SMTP", "env: ${SMTP}"))],
        ),
        (
            "settings of a connector",
            vec![(
                "providers.yaml",
                PROVIDERS.replace("${SMTP_PORT:-1025}\n", "high\n").replace("account_sid: AC00", "account_sd: AC00"),
            )],
        ),
        ("a broken template is not missed by its flow", vec![("templates/order_placed.yaml", "channels: [".into())]),
        ("broken providers are not missed by templates", vec![("providers.yaml", "mail: [".into())]),
        (
            "files that have no meaning",
            vec![
                ("flows/old.yml", "on: x".into()),
                ("flow/order.yaml", "on: x".into()),
                ("provider.yaml", "a: b".into()),
                ("README.md", "# Shop".into()),
            ],
        ),
        ("bad names", vec![("templates/Order Placed.yaml", TEMPLATE.into()), ("flows/a.b.yaml", FLOW.into())]),
    ];
    let mut told = String::new();
    for (what, changes) in cases {
        let dir = shop(&changes.iter().map(|(file, text)| (*file, text.as_str())).collect::<Vec<_>>());
        told += &format!("# {what}\n");
        for error in read(dir.path()).unwrap_err() {
            told += &format!("{error}\n");
        }
        told.push('\n');
    }
    insta::assert_snapshot!(told);
}

/// What else a folder may have: a declared event, a part of each kind, a type.
const MORE: [(&str, &str); 5] = [
    (
        "events/order_placed.yaml",
        "type: shop.order.placed\n\
         data:\n  type: object\n  required: [order]\n  properties:\n    order:\n      type: object\n      required: [number, total]\n      \
         properties: { number: { type: string }, total: { type: number } }\n\
         samples:\n  usual:\n    data: { order: { number: A-1, total: 12.5 } }\n",
    ),
    ("layouts/letter.html", "<main>\n  {% block body %}{% endblock %}\n</main>\n"),
    ("partials/number.txt", "Order {{ order.number }}"),
    (
        "templates/order_placed.yaml",
        "channels:\n  email:\n    en:\n      subject: '{% include \"partials/number.txt\" %}'\n      html: |\n        \
         {% extends \"layouts/letter.html\" %}\n        {% block body %}{{ order.total | number }}{% endblock %}\n  sms:\n    en: { text: 'x' }\n",
    ),
    (
        "types/receipt.yaml",
        "name: Receipt\nchannels: [sms]\nsender: text\ntemplates: [{ template: order_placed, weight: 2 }]\n",
    ),
];

#[test]
fn what_else_a_folder_may_have_is_read_and_published_alike() {
    let flow = FLOW.replace("template: order_placed", "type: receipt");
    let loaded = read(shop(&[&MORE[..], &[("flows/order_placed.yaml", &flow)]].concat()).path()).unwrap();
    let document = loaded.document;
    let json = serde_json::to_string(&document).unwrap();
    assert_eq!(serde_json::from_str::<Definitions>(&json).unwrap(), document);
    assert_eq!(document.types["receipt"].templates[0].weight, 2);
    assert_eq!(document.partials["number.txt"], "Order {{ order.number }}");
    let (_, context) = &loaded.compiled.occasions("order_placed")[0].samples[0];
    let rendered = loaded.compiled.render("order_placed", Channel::Email, None, context).unwrap().variant;
    assert_eq!(
        (rendered.subject.as_deref(), rendered.html.as_deref()),
        (Some("Order A-1"), Some("<main>\n  12.5\n</main>"))
    );
    insta::assert_snapshot!(diff(None, &document));
}

#[test]
fn mistakes_in_what_else_a_folder_may_have_are_told_with_file_and_line() {
    let of = |file: &str, from: &str, to: &str| {
        let text = MORE.iter().find(|(known, _)| *known == file).unwrap().1;
        assert!(text.contains(from), "{file}: {from}");
        vec![(file.to_owned(), text.replace(from, to))]
    };
    let cases: Vec<(&str, Vec<(String, String)>)> = vec![
        ("an unknown field of a schema", of("events/order_placed.yaml", "required: [order]", "requires: [order]")),
        ("an unknown type", of("events/order_placed.yaml", "type: number", "type: float")),
        ("a sample that does not fit", of("events/order_placed.yaml", "total: 12.5", "total: many")),
        ("a part with a mistake", of("partials/number.txt", "order.number", "order.numbr")),
        ("a layout with a mistake", of("layouts/letter.html", "\n</main>", "\n  {{ nobody }}\n</main>")),
        ("a part that is not there", of("templates/order_placed.yaml", "partials/number.txt", "partials/nmber.txt")),
        ("a part of another kind", of("templates/order_placed.yaml", "partials/number.txt", "layouts/letter.html")),
        (
            "a type with an unknown template",
            of("types/receipt.yaml", "template: order_placed", "template: order_place"),
        ),
        ("a type with an unknown field", of("types/receipt.yaml", "weight", "wieght")),
        ("a broken event is no template's fault", vec![("events/order_placed.yaml".into(), "type: [".into())]),
        (
            "files that are no parts",
            vec![("partials/notes".into(), "x".into()), ("partials/a.b.c.html".into(), "x".into())],
        ),
        (
            "a folder with another name",
            vec![("partial/a.html".into(), "x".into()), ("event/a.yaml".into(), "x".into())],
        ),
    ];
    let mut told = String::new();
    for (what, changes) in cases {
        let changes = changes.iter().map(|(file, text)| (file.as_str(), text.as_str()));
        let dir = shop(&MORE.iter().copied().chain(changes).collect::<Vec<_>>());
        told += &format!("# {what}\n");
        for error in read(dir.path()).unwrap_err() {
            told += &format!("{error}\n");
        }
        told.push('\n');
    }
    insta::assert_snapshot!(told);
}

/// The files that the README's section on templates has a newcomer write: each block of text belongs to the file named last before it.
fn of_the_readme() -> Vec<(String, String)> {
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, section) = readme.split_once("### A template in ten minutes").unwrap();
    let section = section.split("\n#").next().unwrap();
    let (mut files, mut name, mut block) = (Vec::new(), String::new(), None::<String>);
    for line in section.lines() {
        let fence = line.trim_start().starts_with("```");
        match block.take() {
            None if fence => block = Some(String::new()),
            None => {
                let named = line.split('`').skip(1).step_by(2);
                name = named.filter(|word| word.contains('/') && word.contains('.')).last().map_or(name, str::to_owned);
            }
            Some(text) if fence => files.push((name.clone(), text)),
            Some(text) => {
                let indent = if name.starts_with("types/") { 0 } else { 3 };
                block = Some(text + line.get(indent..).unwrap_or_default() + "\n");
            }
        }
    }
    files
}

#[test]
fn what_the_readme_has_a_newcomer_write_can_be_published() {
    let mut files = of_the_readme();
    let names: Vec<&str> = files.iter().map(|(name, _)| name.as_str()).collect();
    let written = ["events/order_placed.yaml", "layouts/letter.html", "templates/order_placed.yaml"];
    assert_eq!(names, [&written[..], &["flows/order_placed.yaml", "types/receipt.yaml"]].concat());
    // The second template is any other; and the flow now tells the type.
    files.push(("templates/order_placed_short.yaml".into(), files[2].1.clone()));
    files[3].1 = files[3].1.replace("template: order_placed", "type: receipt");
    let changes: Vec<(&str, &str)> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let loaded = read(shop(&changes).path()).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let (_, sample) = &loaded.compiled.occasions("order_placed")[0].samples[0];
    let said = |channel, locale| {
        let rendered = loaded.compiled.render("order_placed", channel, Some(locale), sample).unwrap();
        rendered.variant.html.or(rendered.variant.text).unwrap()
    };
    assert!(
        said(Channel::Email, "en").contains("<p>Hi Ana, you paid €42.50.</p><p>Almendra"),
        "{}",
        said(Channel::Email, "en")
    );
    assert_eq!(said(Channel::Sms, "es-AR"), "Pedido A-1: 42,50 €", "in letters of GSM-7");
}

#[test]
fn categories_are_read_and_published_alike() {
    let project = format!(
        "{PROJECT}double_opt_in: true\ncategories:\n  orders: {{ title: {{ en: Orders, es: Pedidos }}, consent: assumed }}\n  news: {{ title: News, consent: required }}\n"
    );
    let document = document(&[("project.yaml", &project)]);
    let expected = json!({"orders": {"title": {"en": "Orders", "es": "Pedidos"}, "consent": "assumed"}, "news": {"title": "News", "consent": "required"}});
    let published = json!(document.project);
    assert_eq!((&published["categories"], &published["double_opt_in"]), (&expected, &json!(true)));
    assert_eq!(serde_json::from_value::<Definitions>(json!(document)).unwrap(), document);

    let wrong = format!("{PROJECT}categories:\n  orders: {{ titel: Orders, consent: asumed }}\n");
    let told: Vec<_> =
        read(shop(&[("project.yaml", &wrong)]).path()).unwrap_err().iter().map(Located::to_string).collect();
    assert_eq!(
        told,
        [
            "project.yaml:5:11: the field `title` is missing; add `title`",
            "project.yaml:5:13: unknown field `titel` (did you mean `title`?); use one of title, consent",
            "project.yaml:5:37: unknown consent `asumed` (did you mean `assumed`?); use one of required, assumed, unrefusable",
        ]
    );
}

#[test]
fn a_folder_that_is_not_there_says_so() {
    let errors = read(Path::new("/nowhere/at/all")).unwrap_err();
    assert_eq!(errors.iter().map(|e| e.file.as_str()).collect::<Vec<_>>(), ["project.yaml", "providers.yaml"]);
    assert!(errors[0].problem.contains("cannot be read"), "{}", errors[0]);
}

#[test]
fn a_difference_is_shown_for_each_thing() {
    let old = document(&[]);
    let new = document(&[
        ("project.yaml", "name: shop\ndefault_locale: en\n"),
        ("providers.yaml", &PROVIDERS.replace("hold", "resend")),
        ("templates/order_placed.yaml", &TEMPLATE.replace("<p>You paid", "<p>You have paid")),
        ("templates/order_shipped.yaml", "channels: {sms: {en: {text: On its way}}}\n"),
        ("flows/order_placed.yaml", ""),
        ("flows/order_shipped.yaml", "on: shop.order.shipped\nnotify: {template: order_shipped, lane: bulk}\n"),
    ]);
    insta::assert_snapshot!(diff(Some(&old), &new));
    assert_eq!(diff(Some(&old), &old), "");
    assert!(diff(None, &old).starts_with("added flows/order_placed\n"));
    // What differs only in type or in the last line's end is a difference too.
    let sample = |number: &str| document(&[("templates/order_placed.yaml", &TEMPLATE.replace("A-1", number))]);
    let changes = diff(Some(&sample("1025")), &sample("'1025'"));
    assert!(changes.contains("-    number: 1025\n+    number: \"1025\"\n"), "{changes}");
    let open = document(&[("templates/order_placed.yaml", &TEMPLATE.replace("html: |", "html: |-"))]);
    assert!(diff(Some(&old), &open).contains("html: |-\n"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever stands in the files, the answer is a document or a list of errors with places.
    #[test]
    fn no_text_makes_the_loader_panic(
        wild in "([a-z${}:\\[\\]|>&*!%#'\"~é-]|\n|  |: |- |on|<<|\\$\\{A:-|\\}|\\{\\{|\\}\\}){0,80}",
        cut in 0..TEMPLATE.len(),
        put in "[\\[\\]{}|>:&*'\"\n $-]{0,3}",
    ) {
        let mut template = TEMPLATE.to_owned();
        template.insert_str(cut, &put);
        let dir = shop(&[("templates/order_placed.yaml", &template), ("templates/wild.yaml", &format!("{wild} ")), ("flows/wild.yaml", &format!("{wild} "))]);
        for error in read(dir.path()).err().unwrap_or_default() {
            prop_assert!(error.line >= 1 && error.column >= 1 && !error.remedy.is_empty(), "{}", error);
        }
    }
}
