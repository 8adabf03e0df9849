//! Everything that must pass before a change is taken, in one order, with one exit code. It must leave no service running that it started.

use crate::{
    counterparts, fuzz, packages,
    services::{Service, Set},
    signals::{self, Foreground},
    summary::Summary,
};
use anyhow::Context as _;
use std::{
    env,
    io::{BufReader, Write as _},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Seconds for each fuzz target: long enough to run its seeds and their neighbours. A long run is `cargo xtask fuzz`.
const FUZZ_SECONDS: u32 = 5;
/// Exit code of a step that could not be run at all.
const BROKEN: u8 = 1;

/// Runs every step, whatever the ones before it did, prints the counts last, and returns the first failure's exit code.
pub(crate) fn run(root: &Path, fast: bool, reuse: bool) -> anyhow::Result<ExitCode> {
    let begin = Instant::now();
    let set = Set::from_environment(root, reuse)?;
    let fuzzers = fuzz::commands(root, FUZZ_SECONDS)?;
    let started = Started::default();
    let mut steps = Steps::default();
    let (set_there, started_there, foreground) = (set.clone(), started.clone(), steps.foreground.clone());
    signals::on_interrupt(move || {
        report(foreground.end());
        report(started_there.stop(&set_there));
    })?;

    steps.check("packages", || prepare(root, &set, fast));
    steps.cargo(root, "format", &["fmt", "--all", "--check"]);
    steps.cargo(root, "clippy", &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]);
    steps.cargo(root, "documents", &["doc", "--workspace", "--no-deps"]);
    if packages::find("promtool").is_some() {
        // The configuration names the rules, so both are checked; then the rules are tried on series that should and should not alert.
        steps.run(
            "alert rules",
            &mut command(root, "promtool", &["check", "config", "infra/prometheus/prometheus.yml"]),
        );
        steps.run("alerts", &mut command(root, "promtool", &["test", "rules", "infra/prometheus/alerts_test.yml"]));
    }
    if !fast {
        steps.check("services", || started.start(&set));
    }
    let summary = steps.tests(root, if fast { FAST } else { ALL });
    if !fast {
        steps.check("services down", || started.stop(&set));
        for (target, mut command) in fuzzers {
            steps.run(&format!("fuzz {target}"), &mut command);
        }
    }
    Ok(steps.close(summary, begin.elapsed()))
}

const ALL: &[&str] = &["test", "--workspace", "--no-fail-fast"];
/// Unit tests, and the integration tests that talk to nobody.
const FAST: &[&str] = &[
    "test",
    "--workspace",
    "--no-fail-fast",
    "--lib",
    "--bins",
    "--test",
    "laws",
    "--test",
    "evolution",
    "--test",
    "codec",
];

fn prepare(root: &Path, set: &Set, fast: bool) -> anyhow::Result<()> {
    packages::for_build()?;
    if fast {
        return Ok(());
    }
    packages::for_services()?;
    packages::for_tests()?;
    counterparts::fetch(root, set.home())
}

/// The services that this run started: it stops these and no others, once.
#[derive(Clone, Debug, Default)]
struct Started(Arc<Mutex<Vec<Service>>>);

impl Started {
    fn start(&self, set: &Set) -> anyhow::Result<()> {
        // Noted before the start, so that an interrupt while they start stops them too.
        let ours: Vec<Service> = Service::ALL.into_iter().filter(|service| !set.is_running(*service)).collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = ours;
        set.up(&Service::ALL).map(drop)
    }

    fn stop(&self, set: &Set) -> anyhow::Result<()> {
        set.stop(&std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn report(result: anyhow::Result<()>) {
    if let Err(error) = result {
        eprintln!("error: {error:#}");
    }
}

/// What the steps came to.
#[derive(Debug, Default)]
struct Steps {
    foreground: Foreground,
    /// Name and time of each step, and its exit code if it failed.
    done: Vec<(String, Duration, Option<u8>)>,
}

impl Steps {
    /// A step that is code of ours.
    fn check(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<()>) {
        self.step(name, || step().map(|()| None));
    }

    fn cargo(&mut self, root: &Path, name: &str, arguments: &[&str]) {
        self.run(name, &mut cargo(root, arguments));
    }

    /// A step that is a program.
    fn run(&mut self, name: &str, command: &mut Command) {
        let foreground = self.foreground.clone();
        self.step(name, || Ok(failure(foreground.wait(foreground.spawn(command)?)?)));
    }

    /// The tests: their output is shown as it comes, and counted.
    fn tests(&mut self, root: &Path, arguments: &[&str]) -> Summary {
        let mut summary = Summary::default();
        let foreground = self.foreground.clone();
        self.step("tests", || {
            let mut child = foreground.spawn(cargo(root, arguments).stdout(Stdio::piped()))?;
            let output = child.stdout.take().context("cargo test: no output")?;
            count(BufReader::new(output), &mut summary)?;
            let failure = failure(foreground.wait(child)?);
            foreground.go_on();
            if failure.is_some() && summary.failed == 0 {
                println!("a test program was not built, or did not come to its end: counted as one failure");
                summary.failed = 1;
            }
            Ok(failure)
        });
        summary
    }

    fn step(&mut self, name: &str, step: impl FnOnce() -> anyhow::Result<Option<u8>>) {
        println!("\n== {name}");
        let begin = Instant::now();
        let result = step();
        self.foreground.go_on();
        let failure = result.unwrap_or_else(|error| {
            println!("error: {error:#}");
            Some(BROKEN)
        });
        println!("-- {name}: {} in {:.1} s", verdict(failure), begin.elapsed().as_secs_f64());
        self.done.push((name.to_owned(), begin.elapsed(), failure));
    }

    /// Prints the table of steps, then the counts as the last line.
    fn close(&self, summary: Summary, total: Duration) -> ExitCode {
        println!("\n== {:.1} s in all", total.as_secs_f64());
        for (name, time, failure) in &self.done {
            println!("{:>8.1} s  {name}: {}", time.as_secs_f64(), verdict(*failure));
        }
        println!("{summary}");
        ExitCode::from(self.exit_code())
    }

    fn exit_code(&self) -> u8 {
        self.done.iter().find_map(|(_, _, failure)| *failure).unwrap_or(0)
    }
}

fn verdict(failure: Option<u8>) -> String {
    failure.map_or_else(|| "passed".to_owned(), |code| format!("FAILED (exit code {code})"))
}

/// The exit code of a program that failed; one that was ended by a signal counts as [`BROKEN`].
fn failure(status: std::process::ExitStatus) -> Option<u8> {
    if status.success() {
        return None;
    }
    Some(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(BROKEN))
}

/// Copies the output to ours line by line, and counts.
fn count(mut output: impl std::io::BufRead, summary: &mut Summary) -> anyhow::Result<()> {
    let mut line = Vec::new();
    while output.read_until(b'\n', &mut line).context("output of the tests")? > 0 {
        std::io::stdout().write_all(&line).context("standard output")?;
        summary.read(&String::from_utf8_lossy(&line));
        line.clear();
    }
    Ok(())
}

/// Cargo in the workspace's folder.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let mut command = command(root, &env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments);
    command.env("RUSTDOCFLAGS", "-D warnings");
    command
}

/// A program in the workspace's folder, without standard input; plain output where nobody watches.
fn command(root: &Path, program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root).stdin(Stdio::null());
    if env::var("CI").is_ok_and(|value| value == "true") {
        command.env("CARGO_TERM_COLOR", "never").env("CARGO_TERM_PROGRESS_WHEN", "never").env("NO_COLOR", "1");
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_is_the_first_failures() {
        let mut steps = Steps::default();
        steps.check("a", || Ok(()));
        assert_eq!(steps.exit_code(), 0);
        steps.step("b", || Ok(Some(101)));
        steps.check("c", || anyhow::bail!("broken"));
        steps.check("d", || Ok(()));
        assert_eq!(steps.exit_code(), 101);
        assert_eq!(steps.done.len(), 4, "a failure does not keep the later steps from running");
    }

    #[test]
    fn a_program_that_does_not_exist_is_a_failed_step() {
        let mut steps = Steps::default();
        steps.run("a", &mut Command::new("no-such-program-anywhere"));
        assert_eq!(steps.exit_code(), BROKEN);
    }
}
