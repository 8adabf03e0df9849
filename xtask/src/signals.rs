//! Signals to others, and cleaning up when the user interrupts a chore. It starts no work of its own.

use anyhow::{Context as _, ensure};
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus},
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
};
use tokio::signal::unix::{SignalKind, signal};

/// Conventional exit code of a program that was interrupted (128 + SIGINT).
const INTERRUPTED: i32 = 130;

/// Calls `cleanup` and exits at the first SIGINT or SIGTERM. Returns once the handlers stand.
pub(crate) fn on_interrupt(cleanup: impl FnOnce() + Send + 'static) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("signal handling")?;
    let (ready, standing) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let handlers =
            runtime.block_on(async { Ok((signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)) });
        let (mut interrupt, mut terminate) = match handlers {
            Ok(handlers) => handlers,
            Err(error) => return drop(ready.send(Err::<(), std::io::Error>(error))),
        };
        drop(ready.send(Ok(())));
        runtime.block_on(async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        });
        eprintln!("interrupted: cleaning up");
        cleanup();
        std::process::exit(INTERRUPTED);
    });
    standing.recv().context("signal handling")?.context("signal handling")
}

/// Sends a signal to a process id, or, with a minus before it, to a process group. It is the shell's own `kill`: a slim image may have no
/// program of that name, and the system call is out of reach without `unsafe`.
pub(crate) fn send(target: &str, name: &str) -> anyhow::Result<()> {
    let output = Command::new("sh").args(["-c", &format!("kill -{name} {target}")]).output().context("sh")?;
    ensure!(output.status.success(), "kill -{name} {target}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// The program that runs in the foreground of a chore, with all that it starts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Foreground(Arc<Mutex<Running>>);

#[derive(Debug, Default)]
enum Running {
    #[default]
    Nothing,
    /// The leader of a process group.
    Group(u32),
    /// The chore was interrupted: nothing is started any more.
    Over,
}

impl Foreground {
    /// Starts `command` in a process group of its own, so that it can be ended whole.
    pub(crate) fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(!matches!(*running, Running::Over), "interrupted");
        let child =
            command.process_group(0).spawn().with_context(|| command.get_program().to_string_lossy().into_owned())?;
        *running = Running::Group(child.id());
        Ok(child)
    }

    /// Waits for the end of what [`Foreground::spawn`] started.
    pub(crate) fn wait(&self, mut child: Child) -> anyhow::Result<ExitStatus> {
        let status = child.wait();
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if matches!(*running, Running::Group(_)) {
            *running = Running::Nothing;
        }
        Ok(status?)
    }

    /// Returns, unless the chore was interrupted: then the clean-up ends the process, and this thread waits for that.
    pub(crate) fn go_on(&self) {
        while matches!(*self.0.lock().unwrap_or_else(PoisonError::into_inner), Running::Over) {
            thread::park();
        }
    }

    /// Ends it, if it runs; from now on nothing is started.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        let mut running = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match std::mem::replace(&mut *running, Running::Over) {
            Running::Group(leader) => send(&format!("-{leader}"), "TERM"),
            Running::Nothing | Running::Over => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn ending_the_foreground_ends_all_of_it_and_keeps_more_from_starting() {
        let foreground = Foreground::default();
        // The shell waits for its own child: only a signal to the whole group ends both at once.
        let child = foreground.spawn(Command::new("sh").args(["-c", "sleep 1000; true"])).unwrap();
        foreground.end().unwrap();
        assert!(!foreground.wait(child).unwrap().success());
        assert!(foreground.spawn(&mut Command::new("true")).is_err());
    }
}
