//! Decisions alone: notifications that are on the log through route, to the deliveries and decisions that follow from them. Nobody sends.
//! Each variant adds one thing that a decision may look at, so that its cost stands beside the plain one of the same run.

use crate::{
    bench::{Figure, Ground, PATIENCE, Route as Asked, usage::Start},
    runtime::{
        clock::Clock,
        stages::RouteStage,
        worker::{Context, Step, Worker},
    },
    serve::lag,
};
use anyhow::{anyhow, ensure};
use bellwether_connectors::log::Append;
use bellwether_processors::{
    Processor,
    definitions::{Compiled, Projects, ProviderCheck},
    retention::Retention,
    route::Route,
};
use bellwether_schemas::{
    Channel, EventId, Lane, NotificationId, Timestamp, Topic,
    member::{Address, Profile},
    records::{Notification, Record},
    rows::{Row, Write},
};
use serde_json::{Map, Value, json};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const PROJECT: &str = "bench";
const EVENT: &str = "bench.note";
/// Notifications of each member within a variant: what a cap counts and a digest gathers.
const EACH: u64 = 10;
/// Before the first variant, so that partitions have their owner and caches are warm.
const WARM_UP: u64 = 1_000;

/// What is added to the plain definitions.
struct Variant {
    name: &'static str,
    project: Value,
    notify: Value,
}

fn variants() -> [Variant; 4] {
    let cap = json!({"caps": {"day": {"most": 200, "per": "day", "categories": ["transactional"]}}});
    let digest = json!({"digest": {"after_seconds": 3_600}});
    [
        Variant { name: "plain", project: json!({}), notify: json!({}) },
        Variant { name: "with a cap", project: cap, notify: json!({}) },
        Variant { name: "with a digest", project: json!({}), notify: digest },
        Variant { name: "with scores of channels", project: json!({"routing": {}}), notify: json!({}) },
    ]
}

/// Fills the store with members, then decides the same number of notifications in each variant.
///
/// # Errors
/// Something could not be started or reached.
pub async fn run(asked: &Asked) -> anyhow::Result<Vec<Figure>> {
    let ground = Ground::open(&asked.options).await?;
    let (tell, projects) = watch::channel(Projects::default());
    let mut worker = Worker::join(RouteStage { projects, retention: Retention::default() }, context(&ground)).await?;
    let mut figures = vec![fill(&ground, asked.members).await?];
    let messages = asked.options.messages;
    let [plain, ..] = &variants();
    tell.send_replace(Projects::from_iter([compiled(plain)?]));
    put(&ground, "warm-up", WARM_UP, asked.members).await?;
    drain(&ground, &mut worker).await?;
    for variant in variants() {
        tell.send_replace(Projects::from_iter([compiled(&variant)?]));
        put(&ground, variant.name, messages, asked.members).await?;
        let (before, start) = (decisions(&ground).await?, Start::now(&ground.metrics));
        drain(&ground, &mut worker).await?;
        figures.push(start.figure(format!("route, {}, {}", ground.name(), variant.name), messages, &ground.metrics));
        let decided = decisions(&ground).await? - before;
        ensure!(decided >= messages, "{}: {decided} of {messages} notifications were decided", variant.name);
    }
    Ok(figures)
}

fn context(ground: &Ground) -> Context {
    Context {
        log: ground.backends.log.clone(),
        store: ground.backends.store.clone(),
        clock: Clock::system(),
        metrics: ground.metrics.clone(),
        batch: ground.config.batch,
        stop: CancellationToken::new(),
    }
}

/// Two channels, so that there is something to compare; the same in every variant.
fn compiled(variant: &Variant) -> anyhow::Result<Compiled> {
    let with = |base: Value, more: &Value| -> Value {
        let both = [&base, more].into_iter().filter_map(Value::as_object).flatten();
        both.map(|(name, value)| (name.clone(), value.clone())).collect::<Map<_, _>>().into()
    };
    let notify = with(json!({"template": "note", "lane": "transactional"}), &variant.notify);
    let document = json!({
        "project": with(json!({"name": PROJECT, "default_locale": "en"}), &variant.project),
        "providers": {"mail": {"kind": Channel::Email.name()}, "text": {"kind": Channel::Sms.name()}},
        "events": {"note": {"type": EVENT, "data": {"type": "object"}, "samples": {"one": {"data": {}}}}},
        "templates": {"note": {"channels": {"email": {"en": {"subject": "Note", "text": "Note"}}, "sms": {"en": {"text": "Note"}}}}},
        "flows": {"note": {"on": EVENT, "notify": notify}},
    });
    let check =
        |kind: &str, _: &Map<String, Value>| ProviderCheck { channel: kind.parse().ok(), ..ProviderCheck::default() };
    Compiled::new(serde_json::from_value(document)?, 1, &check)
        .map_err(|findings| anyhow!(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")))
}

/// Members with an address of each channel.
async fn fill(ground: &Ground, members: u64) -> anyhow::Result<Figure> {
    let (start, now) = (Start::now(&ground.metrics), Clock::system().now());
    for first in (0..members).step_by(500) {
        let rows = (first..members.min(first + 500)).map(|n| profile(n, now)).collect();
        ground.backends.store.write(rows).await?;
    }
    Ok(start.figure(format!("members into the store, {}", ground.name()), members, &ground.metrics))
}

fn profile(n: u64, now: Timestamp) -> Write {
    let addresses = [(Channel::Email, format!("m{n}@example.com")), (Channel::Sms, format!("+346{n:08}"))];
    let addresses = addresses.map(|(channel, address)| (channel, vec![Address::active(address, now)])).into();
    Profile { addresses, ..Profile::default() }.into_row(PROJECT, &format!("m{n}")).put_fenced(1)
}

/// Puts notifications on the log, to members in turn, [`EACH`] to each where there are so many members, which are taken from all over the store.
/// Of few messages a batch has several to one member, whose writes are one.
async fn put(ground: &Ground, variant: &str, messages: u64, members: u64) -> anyhow::Result<()> {
    let (told, now) = (members.min(messages / EACH).max(1), Clock::system().now());
    let member = |n| n % told * (members / told).max(1);
    for first in (0..messages).step_by(1_000) {
        let some = (first..messages.min(first + 1_000)).map(|n| {
            let notification = notification(&format!("{variant} {n}"), format!("m{}", member(n)), now);
            Append::of(&Record::Notification(notification))
        });
        ground.backends.log.append(some.collect::<Result<_, _>>()?).await?;
    }
    Ok(())
}

fn notification(id: &str, member: String, now: Timestamp) -> Notification {
    let event = EventId::derive(PROJECT, "/bench", id);
    Notification {
        id: NotificationId::derive(event, "note", 1, 0, &member),
        project: PROJECT.into(),
        member,
        event,
        event_type: EVENT.into(),
        flow: "note".into(),
        flow_version: 1,
        step: 0,
        template: "note".into(),
        lane: Lane::Transactional,
        channels: Vec::new(),
        expires_at: None,
        accepted_at: now,
        data: "{}".into(),
        round: 0,
        tried: Vec::new(),
        gathered_in: None,
    }
}

/// Works until nothing is left.
async fn drain(ground: &Ground, worker: &mut Worker<RouteStage>) -> anyhow::Result<()> {
    let begun = Instant::now();
    loop {
        let step = worker.step(Duration::from_millis(10)).await?;
        if step == Step::Idle {
            let topic = Topic::Notifications(Lane::Transactional);
            let left: u64 = lag(&*ground.backends.log, Route::NAME, topic).await?.iter().map(|(_, left)| left).sum();
            if left == 0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < PATIENCE, "{left} notifications were not decided within {PATIENCE:?}");
        }
    }
}

/// Decisions on the log.
async fn decisions(ground: &Ground) -> anyhow::Result<u64> {
    Ok(ground.backends.log.bounds(Topic::Decisions).await?.iter().map(|bounds| bounds.end).sum())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_the_terms_that_its_name_says() {
        for variant in variants() {
            let compiled = compiled(&variant).unwrap();
            let terms = compiled.terms(&notification("1", "m1".into(), Timestamp(0)));
            let seen =
                (!compiled.document.project.caps.is_empty(), terms.digest.is_some(), compiled.scoring().is_some());
            let named = ["cap", "digest", "scores"].map(|what| variant.name.contains(what));
            assert_eq!(<[bool; 3]>::from(seen), named, "{}", variant.name);
        }
    }
}
