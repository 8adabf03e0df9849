//! Signals to others, and cleaning up when the user interrupts a chore. It starts no work of its own.

use anyhow::{Context as _, ensure};
use std::{
    os::unix::process::CommandExt as _,
    process::{Child, Command},
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
pub(crate) struct Foreground(Arc<Mutex<Option<u32>>>);

impl Foreground {
    /// Starts `command` in a process group of its own, so that it can be ended whole.
    pub(crate) fn spawn(&self, command: &mut Command) -> anyhow::Result<Child> {
        let child =
            command.process_group(0).spawn().with_context(|| command.get_program().to_string_lossy().into_owned())?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(child.id());
        Ok(child)
    }

    /// Waits for the end of what [`Foreground::spawn`] started.
    pub(crate) fn wait(&self, mut child: Child) -> anyhow::Result<std::process::ExitStatus> {
        let status = child.wait();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
        Ok(status?)
    }

    /// Ends it, if it runs.
    pub(crate) fn end(&self) -> anyhow::Result<()> {
        match *self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(leader) => send(&format!("-{leader}"), "TERM"),
            None => Ok(()),
        }
    }
}
