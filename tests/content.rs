//! Content end to end, embedded: a folder with a layout, partials, declared events and a type goes through the whole pipeline, and what the
//! receivers got is what the preview showed, as often as the figures say.
#![allow(clippy::unwrap_used, missing_docs)]

use bellwether::{
    config::Config,
    definitions::{check_provider, load},
    demo::world::World,
    serve::{Instance, Role},
};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// Longest wait for anything: it ends the test, and measures nothing.
const PATIENCE: Duration = Duration::from_secs(120);
const MEMBERS: usize = 40;

const FILES: [(&str, &str); 9] = [
    ("project.yaml", "name: shop\ndefault_locale: en\nattributes:\n  first_name: { type: string }\n"),
    (
        "events/order_placed.yaml",
        "type: shop.order.placed\n\
         data:\n  type: object\n  required: [number, total, nights, at]\n  properties:\n    number: { type: string }\n    total: { type: number }\n    \
         nights: { type: integer }\n    at: { type: string, format: date-time }\n\
         samples:\n  usual:\n    data: { number: A-1, total: 1234.5, nights: 2, at: 2026-03-01T23:30:00Z }\n    \
         member: { time_zone: Europe/Madrid, attributes: { first_name: Ana } }\n",
    ),
    ("layouts/letter.html", "<main>{% block body %}{% endblock %}</main>{% include \"partials/footer.html\" %}\n"),
    ("partials/footer.html", "<footer>Almendra &copy; {{ at | date(\"%Y\") }}</footer>\n"),
    ("partials/greeting.txt", "Hello {{ member.attributes.first_name | default(\"you\") }}"),
    (
        "templates/letter.yaml",
        "channels:\n  email:\n    en:\n      subject: Order {{ number }}\n      html: |\n        \
         {% extends \"layouts/letter.html\" %}\n        {% block body %}<p>{{ nights | plural(one=\"# night\", other=\"# nights\") }}</p>{% endblock %}\n      \
         text: |\n        {% include \"partials/greeting.txt\" %}: {{ total | money(\"USD\") }} on {{ at | date(\"long\") }}\n",
    ),
    (
        "templates/short.yaml",
        "channels:\n  email:\n    en: { subject: 'Order {{ number }}', text: 'Thank you, {{ total | money(\"USD\") }}.' }\n",
    ),
    (
        "types/receipt.yaml",
        "name: Receipt\nchannels: [email]\nsender: mail\ntemplates:\n  - { template: letter }\n  - { template: short }\n",
    ),
    (
        "flows/order_placed.yaml",
        "on: shop.order.placed\nwhen: event.data.total > 0.0\nnotify: { type: receipt, lane: transactional }\n",
    ),
];

fn folder(world: &World, at: &Path) {
    for (file, text) in FILES {
        fs::create_dir_all(at.join(file).parent().unwrap()).unwrap();
        fs::write(at.join(file), text).unwrap();
    }
    let mail = json!({"mail": {
        "kind": "smtp", "host": world.mail.addr().ip().to_string(), "port": world.mail.addr().port(), "security": "none",
        "from_address": "shop@example.com",
    }});
    fs::write(at.join("providers.yaml"), mail.to_string()).unwrap();
}

/// The figures of every template.
async fn sent(world: &World) -> BTreeMap<String, u64> {
    let day = |back: i64| {
        let at = jiff::Timestamp::now().as_millisecond() - back * 86_400_000;
        bellwether_schemas::Timestamp(at).day()
    };
    let path = format!("/v1/stats?from={}&to={}&group_by=template", day(1), day(0));
    let stats = world.get(&path).await.unwrap();
    let rows = stats["rows"].as_array().unwrap().iter();
    rows.filter_map(|row| Some((row["template"].as_str()?.to_owned(), row["metrics"]["sent"].as_u64()?))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_type_s_templates_reach_members_as_previewed_and_counted() {
    let scratch = tempfile::tempdir().unwrap();
    let mut world = World::start(scratch.path(), "shop").await.unwrap();
    let mut config = Config { data_dir: scratch.path().join("data"), ..Config::default() };
    config.listen = ([127, 0, 0, 1], 0).into();
    world.configure(&mut config);
    let instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await.unwrap();
    world.connect(instance.address.unwrap());
    let definitions = scratch.path().join("definitions");
    folder(&world, &definitions);
    let loaded = load(&definitions, &|_| None, &check_provider).unwrap_or_else(|errors| panic!("{errors:#?}"));
    world.publish(&loaded.document).await.unwrap();
    let mut csv = String::from("client_user_id,email,opt_ins.email,time_zone,attributes.first_name\n");
    for n in 0..MEMBERS {
        writeln!(csv, "m{n},m{n}@example.com,true,America/New_York,Name{n}").unwrap();
    }
    world.import_csv(csv.into_bytes()).await.unwrap();

    // One that is not as declared is refused at the door, by its field, beside those that are.
    let event = |n: usize, total: Value| {
        json!({"specversion": "1.0", "id": format!("{n}"), "source": "/t", "type": "shop.order.placed", "subject": format!("m{n}"),
            "data": {"number": format!("A-{n}"), "total": total, "nights": 1, "at": "2026-03-01T02:30:00Z"}})
        .to_string()
    };
    let mut events: Vec<String> = (0..MEMBERS).map(|n| event(n, json!(10.5))).collect();
    events.push(event(MEMBERS, json!("ten")));
    let (accepted, rejected) = world.post_events(&events).await.unwrap();
    assert_eq!((accepted as usize, rejected), (MEMBERS, vec![MEMBERS]));

    let begun = Instant::now();
    let figures = loop {
        let figures = sent(&world).await;
        if figures.values().sum::<u64>() as usize == MEMBERS {
            break figures;
        }
        assert!(begun.elapsed() < PATIENCE, "{figures:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    let mut received = BTreeMap::<String, u64>::new();
    for mail in world.mail.messages() {
        let text = String::from_utf8_lossy(&mail.text).replace("=\r\n", "");
        let name = mail.taken.recipient.trim_start_matches('m').split('@').next().unwrap().to_owned();
        if text.contains("Thank you, $10.50.") {
            *received.entry("short".into()).or_default() += 1;
        } else {
            // In New York it is the day before.
            assert!(text.contains(&format!("Hello Name{name}: $10.50 on February 28, 2026")), "{text}");
            assert!(text.contains("<p>1 night</p></main>") && text.contains("<footer>Almendra &copy; 2026"), "{text}");
            *received.entry("letter".into()).or_default() += 1;
        }
    }
    assert_eq!(received, figures, "every template is counted as often as it arrived");
    assert_eq!(figures.len(), 2, "both were chosen: {figures:?}");

    previewed(&world, &format!("http://{}", instance.address.unwrap()), &definitions, scratch.path());
    instance.stop().await.unwrap();
}

/// The command shows what is published for a real member, and a folder that is not published, as text and as a page.
fn previewed(world: &World, url: &str, definitions: &Path, scratch: &Path) {
    let preview = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_bellwether"))
            .arg("preview")
            .args(arguments)
            .args(["--url", url, "--key-file", world.key_file().to_str().unwrap()])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text.replace('\u{202f}', " ")
    };
    let text = preview(&["--template", "letter", "--member", "m7"]);
    assert!(text.contains("# letter with sample usual of event order_placed, for member m7"), "{text}");
    assert!(text.contains("text: Hello Name7: $1,234.50 on March 1, 2026"), "{text}");
    assert!(text.contains("the subject: 9 of 78 characters"), "{text}");

    let page = |name: &str| {
        let file = scratch.join(name);
        preview(&[definitions.to_str().unwrap(), "--html", file.to_str().unwrap()]);
        fs::read_to_string(file).unwrap()
    };
    let good = page("good.html");
    assert!(good.contains("srcdoc=\"&lt;main&gt;") && good.contains("Thank you, $1,234.50."), "{good}");
    assert!(!good.contains("class=\"error\""), "{good}");
    fs::write(definitions.join("partials/greeting.txt"), "Dear {{ member.attributes.first_nam }}").unwrap();
    let broken = page("broken.html");
    assert!(broken.contains("Thank you, $1,234.50.") && !broken.contains("srcdoc"), "{broken}");
    assert!(broken.contains("class=\"error\"") && broken.contains("member.attributes.first_nam"), "{broken}");
}
