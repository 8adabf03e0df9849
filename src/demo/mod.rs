//! `bellwether demo`: the whole pipeline on this machine, fed with the example shop, and an independent count of what really arrived.
//! It uses the public API like any client; that it runs in one process is only so that one command is enough.

pub mod accounts;
pub mod report;
pub mod world;

use crate::{
    config::Config,
    demo::{
        report::{Report, Timing},
        world::World,
    },
    serve::{Instance, Role, lag},
};
use anyhow::{Context as _, bail, ensure};
use bellwether_connectors::log::Append;
use bellwether_schemas::{Topic, rows::Row, tables::ScheduledRow};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    collections::BTreeSet,
    io::IsTerminal,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

/// What the demo is told.
#[derive(Clone, Debug, clap::Args)]
pub struct Demo {
    /// Run on the log and store of this configuration instead of the embedded ones.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Definitions, members and events.
    #[arg(long, value_name = "DIR", default_value = "examples/shop")]
    pub example: PathBuf,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub json: bool,
    /// Leave everything running, and say where.
    #[arg(long)]
    pub keep: bool,
}

/// How long everything may take to come to rest.
const PATIENCE: Duration = Duration::from_secs(300);
/// Events in one request.
const EVENTS_PER_REQUEST: usize = 100;

/// Runs the demo; false when a count differs.
///
/// # Errors
/// Something could not be started, read or reached.
pub async fn run(args: Demo) -> anyhow::Result<bool> {
    let begun = Instant::now();
    let say = |text: &str| {
        if !args.json {
            eprintln!("{text}");
        }
    };
    ensure!(
        args.example.join("project.yaml").is_file(),
        "{}: no project.yaml there; run this in the project's folder, or name the example by --example DIR",
        args.example.display()
    );
    let folder = tempfile::Builder::new().prefix("bellwether-demo-").tempdir().context("a scratch folder")?;
    let shared = args.config.is_some();
    let mut config = Config::load(args.config.as_deref())?;
    config.data_dir = folder.path().join("data");
    config.listen = ([127, 0, 0, 1], 0).into();
    // Shared topics and tables remember earlier demos; a project of its own keeps this one apart.
    let project = if shared { format!("shop-{}", uuid::Uuid::now_v7().simple()) } else { "shop".to_owned() };
    let mut world = World::start(folder.path(), &project).await.context("the local receivers")?;
    world.configure(&mut config);
    if shared {
        crate::backends::prepare(&config).await?;
    }
    let mut instance = Instance::start(&config, &BTreeSet::from(Role::ALL)).await?;
    let address = instance.address.context("the API does not listen")?;
    world.connect(address);
    world.mail.return_to(instance.mail_address.context("nobody takes what comes back by mail")?);
    say(&format!("bellwether       http://{address}\nsmtp             {}", world.mail.addr()));
    for (kind, receiver) in world.accounts.receivers() {
        say(&format!("{kind:16} {}", receiver.url()));
    }

    world.apply(&args.example).await.context("apply the example's definitions")?;
    say("applied          the example's definitions");
    let imported = world.import(&args.example.join("members.csv")).await.context("import members")?;
    say(&format!(
        "imported         {} members of {} rows; {} rejected",
        imported.accepted, imported.read, imported.rejected
    ));
    let browsers = world.subscribe_all(&args.example.join("browsers.csv")).await.context("subscribe browsers")?;
    say(&format!("subscribed       {browsers} browsers"));
    let fed = feed(&world, &instance, &args).await?;
    say(&format!(
        "fed              {} lines: {} accepted by the API, {} put on the topic as they are",
        fed.lines, fed.accepted, fed.raw
    ));
    let feeding = begun.elapsed();

    let rested = rest(&world, &instance, args.json).await?;
    let report = Report::gather(&world, &instance, imported, fed, Timing { feeding, whole: begun.elapsed() }).await?;
    if args.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    if !rested {
        bail!("the pipeline did not come to rest within {PATIENCE:?}; see the counts above");
    }
    if args.keep {
        say(&format!("kept running: http://{address} with API key {}; end it with Ctrl-C", world.key_file().display()));
        tokio::signal::ctrl_c().await?;
    }
    let agrees = report.agrees();
    instance.stopper().cancel();
    instance.wait().await?;
    Ok(agrees)
}

/// What was fed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Fed {
    /// Lines of the event files.
    pub lines: u64,
    /// Accepted by `POST /v1/events`.
    pub accepted: u64,
    /// Refused there, put on the `events` topic as they are, like a careless producer would.
    pub raw: u64,
}

async fn feed(world: &World, instance: &Instance, args: &Demo) -> anyhow::Result<Fed> {
    let mut lines = Vec::new();
    for file in event_files(&args.example)? {
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        lines.extend(text.lines().filter(|l| !l.trim().is_empty()).map(str::to_owned));
    }
    let bar = bar(lines.len() as u64, "events", args.json);
    let mut fed = Fed { lines: lines.len() as u64, ..Fed::default() };
    for chunk in lines.chunks(EVENTS_PER_REQUEST) {
        let (good, broken): (Vec<&String>, Vec<&String>) =
            chunk.iter().partition(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        let (accepted, refused) = world.post_events(&good).await?;
        fed.accepted += accepted;
        let raw: Vec<Append> = broken
            .into_iter()
            .chain(refused.into_iter().filter_map(|index| good.get(index).copied()))
            .map(|line| Append {
                topic: Topic::Events,
                key: format!("{}/", world.project).into_bytes(),
                payload: line.clone().into_bytes(),
                headers: Vec::new(),
            })
            .collect();
        fed.raw += raw.len() as u64;
        if !raw.is_empty() {
            instance.backends.log.append(raw).await?;
        }
        bar.inc(chunk.len() as u64);
    }
    bar.finish_and_clear();
    Ok(fed)
}

fn event_files(example: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(example)
        .with_context(|| example.display().to_string())?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "ndjson"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "{}: no *.ndjson with events there", example.display());
    Ok(files)
}

fn bar(length: u64, what: &'static str, quiet: bool) -> ProgressBar {
    if quiet || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg:12} {bar:40} {pos}/{len} {per_sec}");
    ProgressBar::new(length).with_message(what).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// Waits until nothing is on its way any more: every group is at the end of its topics, nothing is scheduled, no callback is pending.
async fn rest(world: &World, instance: &Instance, quiet: bool) -> anyhow::Result<bool> {
    let bar = bar(0, "in the pipe", quiet);
    let begun = Instant::now();
    let mut calm = 0;
    while begun.elapsed() < PATIENCE {
        let left = remaining(world, instance).await?;
        bar.set_length(bar.length().unwrap_or(0).max(left));
        bar.set_position(bar.length().unwrap_or(0) - left);
        // Twice in a row, because what leaves one topic may not yet have entered the next.
        calm = if left == 0 { calm + 1 } else { 0 };
        if calm == 3 {
            bar.finish_and_clear();
            return Ok(true);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    bar.finish_and_clear();
    Ok(false)
}

/// Records, scheduled rows and callbacks that are still on their way.
///
/// # Errors
/// Log or store do not answer.
pub async fn remaining(world: &World, instance: &Instance) -> anyhow::Result<u64> {
    let mut left = world.pending();
    for (group, topics) in crate::serve::groups() {
        for topic in topics {
            left += lag(&*instance.backends.log, &group, topic).await?.iter().map(|(_, lag)| lag).sum::<u64>();
        }
    }
    let store = &instance.backends.store;
    for range in store.ranges(1) {
        let mut after = None;
        loop {
            let page = store.scan(ScheduledRow::TABLE, range, after, 1_000).await?;
            let ours = format!("{}/", world.project);
            for cells in page.rows {
                left += u64::from(ScheduledRow::from_cells(cells)?.key.starts_with(&ours));
            }
            after = page.next;
            if after.is_none() {
                break;
            }
        }
    }
    Ok(left)
}
