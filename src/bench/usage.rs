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

    /// What `messages` have cost since.
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

/// User and system time of this process: fields 14 and 15 of `/proc/self/stat`, in ticks of 1/100 s (proc(5)); 0 where there is no such file.
fn cpu_seconds() -> f64 {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return 0.0 };
    // The second field is the program's name in parentheses and may hold blanks.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// `VmHWM` of `/proc/self/status`; 0 where there is no such file.
fn peak_rss_mib() -> f64 {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return 0.0 };
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}
