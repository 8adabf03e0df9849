//! A copy of this test program that runs one function in a process of its own, to be stopped or killed. It says what it has to say in lines.

use std::process::Stdio;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

/// Stands before each line, because the test harness writes lines of its own.
const MARK: &str = "said: ";

/// See the module. It is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    /// Runs `test`, which finds `value` in the environment variable [`variable`] names.
    pub(crate) fn start(test: &str, value: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture"])
            .env(variable(test), value)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What it says next; none when it has ended.
    pub(crate) async fn line(&mut self) -> Option<String> {
        while let Some(line) = self.lines.next_line().await.unwrap() {
            if let Some(said) = line.strip_prefix(MARK) {
                return Some(said.to_owned());
            }
        }
        None
    }

    /// Gives it a line on its standard input.
    pub(crate) async fn tell(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Waits for its end; whether that was a success.
    pub(crate) async fn ended(&mut self) -> bool {
        self.child.wait().await.unwrap().success()
    }

    /// Sends a signal, such as `KILL`.
    pub(crate) async fn signal(&self, name: &str) {
        let process = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-s", name, &process]).status().await.unwrap().success());
    }
}

/// What [`Process::start`] gave to `test`; none in a run of all tests, where it has nothing to do.
pub(crate) fn value(test: &str) -> Option<String> {
    std::env::var(variable(test)).ok()
}

/// Says a line to the process that started this one.
pub(crate) fn say(line: &str) {
    println!("\n{MARK}{line}");
}

fn variable(test: &str) -> String {
    format!("BELLWETHER_TEST_{}", test.replace("::", "_").to_uppercase())
}
