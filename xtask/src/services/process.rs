//! One daemon: its pid file, log and signals. It must not know what the daemon does.

use crate::signals;
use anyhow::{Context as _, bail};
use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Lines of the log that an error shows.
const TAIL: usize = 25;

/// A daemon that keeps `pid` and `log` in its folder.
#[derive(Debug)]
pub(super) struct Process {
    folder: PathBuf,
}

impl Process {
    /// The daemon of this folder, whether it runs or not.
    pub(super) fn in_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Starts `command` in the background. The child leads a process group of its own, so that an interrupt at the terminal does not reach it.
    pub(super) fn start(&self, command: &mut Command) -> anyhow::Result<()> {
        let path = self.folder.join("log");
        let log = File::create(&path).with_context(|| path.display().to_string())?;
        let errors = log.try_clone().with_context(|| path.display().to_string())?;
        let child = command
            .current_dir(&self.folder)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{:?}", command.get_program()))?;
        let path = self.folder.join("pid");
        fs::write(&path, child.id().to_string()).with_context(|| path.display().to_string())
    }

    /// Whether the process of the pid file lives. A pid may be anybody's after a reboot: where `/proc` tells, its working folder must be ours.
    pub(super) fn is_alive(&self) -> bool {
        let Some(pid) = self.pid() else { return false };
        if Path::new("/proc/self").exists() {
            // A process that ended, but was not waited for by its parent, has no folder any more.
            return fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.folder);
        }
        signals::send(&pid.to_string(), "0").is_ok()
    }

    /// Sends the signal `TERM` or `KILL` and waits for the end; false if it did not run.
    pub(super) fn stop(&self, name: &str, patience: Duration) -> anyhow::Result<bool> {
        let running = self.is_alive();
        if let Some(pid) = self.pid().filter(|_| running) {
            signals::send(&pid.to_string(), name)?;
            let begin = Instant::now();
            while !has_ended(pid) {
                if begin.elapsed() > patience {
                    bail!("process {pid} still runs {} s after SIG{name}\n{}", patience.as_secs(), self.log_tail());
                }
                thread::sleep(Duration::from_millis(50));
            }
        }
        let path = self.folder.join("pid");
        if path.exists() {
            fs::remove_file(&path).with_context(|| path.display().to_string())?;
        }
        Ok(running)
    }

    /// The last lines of the log, with its path.
    pub(super) fn log_tail(&self) -> String {
        let path = self.folder.join("log");
        let text = fs::read(&path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
        format!("the end of {}:\n{}", path.display(), tail(&text, TAIL))
    }

    fn pid(&self) -> Option<u32> {
        fs::read_to_string(self.folder.join("pid")).ok()?.trim().parse().ok()
    }
}

/// Whether nothing is left of a process, but for its parent to be told. Only then are its ports and files free: threads end one by one, and they
/// lose their folder before they let go of what is open. The first thread counts the others, so nothing is asked of those: a walk over them ends
/// early where one goes away meanwhile.
fn has_ended(pid: u32) -> bool {
    if !Path::new("/proc/self").exists() {
        return signals::send(&pid.to_string(), "0").is_err();
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let of = |field: &str| status.lines().find_map(|line| line.strip_prefix(field)).map(str::trim);
    status.is_empty()
        || of("State:").is_some_and(|state| state.starts_with('Z')) && matches!(of("Threads:"), None | Some("0" | "1"))
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn scratch() -> (tempfile::TempDir, Process) {
        let scratch = tempfile::tempdir().unwrap();
        let process = Process::in_folder(scratch.path().canonicalize().unwrap());
        (scratch, process)
    }

    #[test]
    fn a_process_lives_until_it_is_stopped() {
        let (_scratch, process) = scratch();
        assert!(!process.is_alive());
        process.start(Command::new("sleep").arg("1000")).unwrap();
        assert!(process.is_alive());
        assert!(process.stop("KILL", PATIENCE).unwrap());
        assert!(!process.is_alive());
        assert!(!process.stop("TERM", PATIENCE).unwrap(), "it did not run any more");
    }

    #[test]
    fn a_pid_that_now_belongs_to_another_process_is_not_ours_and_is_not_signalled() {
        let (scratch, process) = scratch();
        fs::write(scratch.path().join("pid"), std::process::id().to_string()).unwrap();
        assert!(!process.is_alive());
        assert!(!process.stop("KILL", PATIENCE).unwrap());
    }

    #[test]
    fn an_error_shows_the_end_of_the_log() {
        assert_eq!(tail("1\n2\n3\n4", 2), "3\n4");
        assert_eq!(tail("1", 2), "1");
        assert_eq!(tail("", 2), "");
    }
}
