//! A load that goes on while what keeps its data is killed and started again, and that says each thing once it was acknowledged.

use crate::{
    process::{self, Process},
    server::Server,
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    task::JoinHandle,
    time::timeout,
};

/// Nothing is waited for longer, the way back of clients after a server's start included.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between the numbers of two runs.
const RUN: usize = 1_000_000;

/// Where a load says what was acknowledged.
pub(crate) type Say<T> = Box<dyn Fn(T) + Send + Sync>;

/// See the module. `T` is what is acknowledged.
#[allow(clippy::large_enum_variant)] // there is one of it
pub(crate) enum Load<T> {
    /// In a process that has the database: it is killed with it, and begins again.
    There { process: Process, test: &'static str, folder: PathBuf, runs: usize },
    /// Here, on a server that is killed: it goes on with the clients that it has.
    Here { server: Server, work: JoinHandle<()>, said: UnboundedReceiver<T> },
}

impl<T: Serialize + DeserializeOwned + Send + 'static> Load<T> {
    /// A load in a process of its own, which runs `test`; that one is to call [`run_there`].
    pub(crate) fn there(test: &'static str, folder: &Path) -> Self {
        Self::There { process: start(test, folder, 0), test, folder: folder.to_owned(), runs: 1 }
    }

    /// A load in this process.
    pub(crate) fn here<F: Future<Output = ()> + Send + 'static>(
        server: Server,
        work: impl FnOnce(usize, Say<T>) -> F,
    ) -> Self {
        let (say, said) = unbounded_channel();
        // Nobody listens when the test has failed.
        let work = tokio::spawn(work(0, Box::new(move |thing| drop(say.send(thing)))));
        Self::Here { server, work, said }
    }

    /// What was acknowledged next.
    pub(crate) async fn next(&mut self) -> T {
        let next = async {
            match self {
                Self::There { process, .. } => process.line().await.map(|line| serde_json::from_str(&line).unwrap()),
                Self::Here { said, .. } => said.recv().await,
            }
        };
        timeout(PATIENCE, next).await.expect("the load stands still").expect("the load has ended")
    }

    /// Sends SIGKILL to who keeps the data and starts it again; returns what had been acknowledged by then.
    pub(crate) async fn kill_and_start(&mut self) -> Vec<T> {
        let acknowledged = self.kill().await;
        match self {
            Self::There { process, test, folder, runs } => {
                *process = start(test, folder, *runs);
                *runs += 1;
            }
            Self::Here { server, .. } => server.start().await,
        }
        acknowledged
    }

    async fn kill(&mut self) -> Vec<T> {
        let mut acknowledged = Vec::new();
        match self {
            Self::There { process, .. } => {
                process.signal("KILL").await;
                while let Some(line) = process.line().await {
                    acknowledged.push(serde_json::from_str(&line).unwrap());
                }
                process.ended().await;
            }
            Self::Here { server, said, .. } => {
                server.kill().await;
                acknowledged.extend(std::iter::from_fn(|| said.try_recv().ok()));
            }
        }
        acknowledged
    }

    /// Ends the load; its data are there, to be looked at. Returns what else had been acknowledged.
    pub(crate) async fn end(&mut self) -> Vec<T> {
        if let Self::Here { work, said, .. } = self {
            work.abort();
            return std::iter::from_fn(|| said.try_recv().ok()).collect();
        }
        self.kill().await
    }
}

fn start(test: &str, folder: &Path, run: usize) -> Process {
    Process::start(test, &serde_json::to_string(&(run, folder)).unwrap())
}

/// Does `work` until it is killed, if this is the process that a load of `test` has started.
pub(crate) async fn run_there<T: Serialize, F: Future<Output = ()>>(
    test: &str,
    work: impl FnOnce(PathBuf, usize, Say<T>) -> F,
) {
    let Some(value) = process::value(test) else { return };
    let (run, folder): (usize, PathBuf) = serde_json::from_str(&value).unwrap();
    work(folder, run * RUN, Box::new(|thing| process::say(&serde_json::to_string(&thing).unwrap()))).await;
}
