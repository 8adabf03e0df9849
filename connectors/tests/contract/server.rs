//! A server of one test's own, which may be killed: its folder, ports and process are nobody else's. It asks for TLS and a password.
//! `xtask` starts it, as it starts those that the other tests share.

use crate::authority::{Authority, Identity};
use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    process::Command,
};
use tempfile::TempDir;
use uuid::Uuid;

/// See the module. It ends, and its data go, when this is dropped.
pub(crate) struct Server {
    /// Its name among the services of `xtask`.
    name: &'static str,
    folder: TempDir,
    port: u16,
}

impl Server {
    /// A server that is ready, and empty.
    pub(crate) async fn new(name: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let Identity { certificate, key } = authority.identity("127.0.0.1");
        fs::write(folder.path().join("identity.pem"), [key, certificate].concat()).unwrap();
        fs::write(folder.path().join("authority.pem"), authority.certificate()).unwrap();
        fs::write(folder.path().join("stranger.pem"), Authority::new().certificate()).unwrap();
        // A copy: nobody builds it anew while the server is killed and started.
        fs::copy(xtask().await, folder.path().join("xtask")).unwrap();
        let server = Self { name, folder, port: free_ports() };
        server.start().await;
        server
    }

    /// Its first port; its others follow.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whom to trust.
    pub(crate) fn authority(&self) -> PathBuf {
        self.folder.path().join("authority.pem")
    }

    /// An authority that did not sign the server's certificate.
    pub(crate) fn stranger(&self) -> PathBuf {
        self.folder.path().join("stranger.pem")
    }

    /// A secret, in a file.
    pub(crate) fn secret(&self, text: &str) -> bellwether_connectors::secret::Secret {
        let path = self.folder.path().join(format!("{text}.secret"));
        fs::write(&path, text).unwrap();
        bellwether_connectors::secret::Secret::File(path)
    }

    /// Waits until it answers.
    pub(crate) async fn start(&self) {
        self.services("up").await;
    }

    /// SIGKILL.
    pub(crate) async fn kill(&self) {
        self.services("kill").await;
    }

    async fn services(&self, action: &'static str) {
        let output = tokio::process::Command::from(self.command(action)).output().await.unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "services {action} {}: {said}", self.name);
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(self.folder.path().join("xtask"));
        command.args(["services", action, self.name]);
        command.env("BELLWETHER_SERVICES_HOME", self.folder.path().join("services"));
        command.env("BELLWETHER_SERVICES_TLS", self.folder.path().join("identity.pem"));
        command.env(format!("BELLWETHER_{}_PORT", self.name.to_uppercase()), self.port.to_string());
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.command("wipe").output().is_ok_and(|output| output.status.success()) {
            eprintln!("{} in {} was not stopped", self.name, self.folder.path().display());
        }
    }
}

/// The program that knows how to start servers, built if need be.
async fn xtask() -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let build = ["build", "--quiet", "--package", "xtask", "--message-format", "json"];
    let output = tokio::process::Command::new(cargo).args(build).output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = output.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let messages = lines.map(|line| serde_json::from_slice::<serde_json::Value>(line).unwrap());
    let path = messages.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    path.expect("cargo names the program that it built")
}

/// The first of four ports in a row that nobody holds. They lie below those that a system gives to outgoing connections, or one of these could
/// take the port while the server is down.
fn free_ports() -> u16 {
    let block = || 20_000 + (Uuid::new_v4().as_u128() % 3_000) as u16 * 4;
    let free = |port: &u16| (*port..port + 4).all(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    std::iter::repeat_with(block).find(free).unwrap()
}
