//! What this process has used, as Linux tells it.

use crate::{bench::Figure, metrics::Metrics};
use std::{collections::BTreeMap, time::Instant};

/// A point from which to measure.
#[derive(Debug)]
pub struct Start {
    at: Instant,
    cpu: f64,
    operations: BTreeMap<String, u64>,
}

impl Start {
    /// Now.
    #[must_use]
    pub fn now(metrics: &Metrics) -> Self {
        Self { cpu: cpu_seconds(), operations: operations(metrics), at: Instant::now() }
    }

    /// What `messages` have cost since, the receiver's threads not counted.
    #[must_use]
    pub fn figure(&self, what: String, messages: u64, metrics: &Metrics) -> Figure {
        let seconds = self.at.elapsed().as_secs_f64();
        let each = |n: f64| n / messages.max(1) as f64;
        let operations = operations(metrics)
            .into_iter()
            .map(|(op, n)| {
                let since = n - self.operations.get(&op).copied().unwrap_or(0);
                (op, each(since as f64))
            })
            .filter(|(_, n)| *n >= 0.001)
            .collect();
        Figure {
            what,
            messages,
            seconds,
            per_second: messages as f64 / seconds,
            cpu_us_per_message: each((cpu_seconds() - self.cpu) * 1e6),
            peak_rss_mib: peak_rss_mib(),
            p99_ms: None,
            cpu_of_client: None,
            operations_per_message: operations,
        }
    }
}

fn operations(metrics: &Metrics) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    for op in ["read", "write", "compare_and_set", "scan"] {
        all.insert(format!("store.{op}"), metrics.store_operations.with_label_values(&[op]).get());
    }
    for op in ["append", "poll", "commit"] {
        all.insert(format!("log.{op}"), metrics.log_operations.with_label_values(&[op]).get());
    }
    all
}

/// Name of the threads that a local receiver runs on, which are not ours to count.
pub const RECEIVER: &str = "receiver";

/// User and system time of this process, the receiver's threads left out; 0 where there is no `/proc`.
fn cpu_seconds() -> f64 {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    let receiver: f64 =
        stats.filter(|stat| stat.contains(&format!("({RECEIVER})"))).map(|stat| seconds(&stat, 11)).sum();
    std::fs::read_to_string("/proc/self/stat").map_or(0.0, |stat| seconds(&stat, 11) - receiver)
}

/// The same of children that have ended and were waited for.
#[must_use]
pub fn cpu_seconds_of_children() -> f64 {
    std::fs::read_to_string("/proc/self/stat").map_or(0.0, |stat| seconds(&stat, 13))
}

/// Two neighbouring times of a `stat` file, in ticks of 1/100 s (proc(5)); `field` counts from behind the name.
fn seconds(stat: &str, field: usize) -> f64 {
    // The second field is the program's name in parentheses and may hold blanks.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(field).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// `VmHWM` of `/proc/self/status`; 0 where there is no such file.
fn peak_rss_mib() -> f64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0.0 };
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
