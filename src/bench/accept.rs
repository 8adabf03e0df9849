//! Events over HTTP into the log.

use crate::{
    bench::{Figure, Ground, Options, usage::Start},
    demo::world::World,
    runtime::{clock::Clock, sinks::Sinks},
    serve::{Instance, Role},
};
use anyhow::{Context as _, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use std::{collections::BTreeSet, sync::Arc};

/// Events in one request of the batched run.
const BATCH: u64 = 500;
/// Connections of the batched and of the single run.
const CONNECTIONS: (usize, usize) = (8, 64);

/// Accepts in batches, then singly (a tenth as many).
///
/// # Errors
/// Something could not be started or reached.
pub async fn run(options: &Options) -> anyhow::Result<Vec<Figure>> {
    let Ground { mut config, backends, metrics, _folder } = Ground::open(options).await?;
    let scratch = tempfile::tempdir()?;
    let mut world = World::start(scratch.path(), "bench").await?;
    world.configure(&mut config);
    let sinks = Sinks::new(metrics.clone(), Clock::system());
    let mut instance =
        Instance::start_on(&config, &BTreeSet::from([Role::Http]), backends, metrics.clone(), sinks).await?;
    world.connect(instance.address.context("the API does not listen")?);
    let world = Arc::new(world);
    let mut figures = Vec::new();
    for (messages, per_request, connections) in
        [(options.messages, BATCH, CONNECTIONS.0), (options.messages / 10, 1, CONNECTIONS.1)]
    {
        // Made before the clock starts: a producer's events are not our cost.
        let requests: Vec<Vec<String>> = (0..messages)
            .collect::<Vec<_>>()
            .chunks(per_request as usize)
            .map(|ids| events(ids, per_request))
            .collect();
        let start = Start::now(&metrics);
        let accepted: u64 = stream::iter(requests)
            .map(|events| {
                let world = Arc::clone(&world);
                async move { Ok::<_, anyhow::Error>(world.post_events(&events).await?.0) }
            })
            .buffer_unordered(connections)
            .try_fold(0, |sum, n| async move { Ok(sum + n) })
            .await?;
        ensure!(accepted == messages, "{accepted} of {messages} events were accepted");
        let what = format!("accept over HTTP, {per_request} a request, {connections} connections");
        figures.push(start.figure(what, messages, &metrics));
    }
    instance.stopper().cancel();
    instance.wait().await?;
    Ok(figures)
}

fn events(ids: &[u64], per_request: u64) -> Vec<String> {
    ids.iter()
        .map(|n| {
            format!(
                r#"{{"specversion":"1.0","id":"{per_request}-{n}","source":"/bench","type":"bench.note","subject":"m{}","data":{{"number":"{n}","text":"a note of the usual length of such notes"}}}}"#,
                n % 10_000
            )
        })
        .collect()
}
