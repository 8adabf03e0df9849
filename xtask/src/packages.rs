//! What must be installed beside Rust: by `apt-get` where that is possible, by a sentence to the user elsewhere.
//! It must not start daemons or ask questions.

use anyhow::{Context as _, bail};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// Something that must be there, and the Debian package that brings it.
struct Need {
    /// What it is for.
    purpose: &'static str,
    /// Debian package.
    package: &'static str,
    /// Whether it is there.
    found: fn() -> bool,
}

/// To build the workspace: librdkafka and OpenSSL are C libraries.
const BUILD: &[Need] = &[
    Need { purpose: "C and C++ compiler", package: "build-essential", found: || tool("c++") && tool("make") },
    Need { purpose: "pkg-config", package: "pkg-config", found: || tool("pkg-config") },
    Need { purpose: "OpenSSL headers", package: "libssl-dev", found: || library("openssl") },
    Need { purpose: "zlib headers", package: "zlib1g-dev", found: || library("zlib") },
];

/// To run the real services.
const SERVICES: &[Need] = &[
    Need { purpose: "Java 17", package: "openjdk-17-jre-headless", found: || java().is_ok() },
    Need { purpose: "Maven, to fetch the services", package: "maven", found: || tool("mvn") },
];

/// To run every test: a real SMTP receiver, and the checker of alert rules.
const TESTS: &[Need] = &[
    Need { purpose: "smtp-sink and smtp-source", package: "postfix", found: || tool("smtp-sink") },
    Need { purpose: "promtool", package: "prometheus", found: || tool("promtool") },
];

/// To fetch and run what others wrote that checks ours.
const COUNTERPARTS: &[Need] = &[
    Need { purpose: "Python's virtual environments", package: "python3-venv", found: || python_has("ensurepip") },
    Need { purpose: "Node", package: "nodejs", found: || tool("node") },
    Need { purpose: "npm", package: "npm", found: || tool("npm") },
    Need { purpose: "a browser without a window", package: "chromium", found: || tool("chromium") },
];

/// Makes sure that the workspace can be built.
pub(crate) fn for_build() -> anyhow::Result<()> {
    install(BUILD)
}

/// Makes sure that the services can be fetched and started.
pub(crate) fn for_services() -> anyhow::Result<()> {
    install(SERVICES)
}

/// Makes sure that every test finds its tools.
pub(crate) fn for_tests() -> anyhow::Result<()> {
    install(TESTS)
}

/// Makes sure that the counterparts can be fetched.
pub(crate) fn for_counterparts() -> anyhow::Result<()> {
    install(COUNTERPARTS)
}

/// The path of a program, searched as a shell would, then where Debian keeps what is for administrators.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Path of a Java 17: `$JAVA_HOME`, then the first on the path, then where Debian puts it. Cassandra 5.0 runs on no newer one.
pub(crate) fn java() -> anyhow::Result<PathBuf> {
    let home = env::var_os("JAVA_HOME").map(|home| PathBuf::from(home).join("bin/java"));
    let debian = fs::read_dir("/usr/lib/jvm").into_iter().flatten().flatten();
    let debian = debian.filter(|entry| entry.file_name().to_string_lossy().starts_with("java-1.17"));
    let candidates = home.into_iter().chain(find("java")).chain(debian.map(|entry| entry.path().join("bin/java")));
    candidates.into_iter().find(|java| java_major(java) == Some(17)).context(
        "no Java 17 found (Cassandra 5.0 runs on no newer one): install it, or set JAVA_HOME to where it is installed",
    )
}

fn java_major(java: &Path) -> Option<u32> {
    let output = Command::new(java).arg("-version").output().ok()?;
    major(&String::from_utf8_lossy(&output.stderr))
}

/// `openjdk version "17.0.15" 2025-04-15` is 17.
fn major(banner: &str) -> Option<u32> {
    let version = banner.split('"').nth(1)?;
    version.split(['.', '-', '+']).next()?.parse().ok()
}

fn tool(program: &str) -> bool {
    find(program).is_some()
}

fn python_has(module: &str) -> bool {
    let mut python = Command::new("python3");
    python.args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

fn library(name: &str) -> bool {
    Command::new("pkg-config")
        .args(["--exists", name])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn install(needs: &[Need]) -> anyhow::Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| !(need.found)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|need| need.package).collect();
    let sentence = format!(
        "{} missing: install what Debian calls `{}`",
        missing.iter().map(|need| need.purpose).collect::<Vec<_>>().join(", "),
        packages.join(" ")
    );
    if !is_root() || !tool("apt-get") {
        bail!("{sentence}");
    }
    println!("installing {}", packages.join(" "));
    let quiet = NoDaemons::begin()?;
    // The index may be absent (a fresh image) or old: fetch it only when the packages do not install without.
    if !apt_get(&["install", "--yes", "--no-install-recommends"], &packages)? {
        apt_get(&["update"], &[])?;
        if !apt_get(&["install", "--yes", "--no-install-recommends"], &packages)? {
            bail!("apt-get could not install them; {sentence}");
        }
    }
    drop(quiet);
    match missing.iter().find(|need| !(need.found)()) {
        Some(need) => bail!("package {} is installed, but {} is still missing", need.package, need.purpose),
        None => Ok(()),
    }
}

fn apt_get(arguments: &[&str], packages: &[&str]) -> anyhow::Result<bool> {
    let mut command = Command::new("apt-get");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]).args(arguments).args(packages);
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null());
    Ok(command.status().context("apt-get")?.success())
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}

/// While this lives, Debian's packages start no daemon when they are installed (`/usr/sbin/policy-rc.d` answering 101, "forbidden").
struct NoDaemons(Option<&'static Path>);

impl NoDaemons {
    fn begin() -> anyhow::Result<Self> {
        use std::os::unix::fs::PermissionsExt as _;
        let policy = Path::new("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self(None));
        }
        fs::write(policy, "#!/bin/sh\nexit 101\n").with_context(|| policy.display().to_string())?;
        fs::set_permissions(policy, fs::Permissions::from_mode(0o755)).with_context(|| policy.display().to_string())?;
        Ok(Self(Some(policy)))
    }
}

impl Drop for NoDaemons {
    fn drop(&mut self) {
        if let Some(policy) = self.0
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!("{}: {error}; remove it by hand", policy.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_of_java_is_read_from_its_banner() {
        assert_eq!(major("openjdk version \"17.0.15\" 2025-04-15\nOpenJDK Runtime"), Some(17));
        assert_eq!(major("openjdk version \"21-ea\" 2023"), Some(21));
        assert_eq!(major("java version \"1.8.0_442\""), Some(1));
        assert_eq!(major("no java here"), None);
    }

    #[test]
    fn a_program_is_found_on_the_path_and_an_unknown_one_is_not() {
        assert!(find("sh").is_some());
        assert_eq!(find("no-such-program-anywhere"), None);
    }

    #[test]
    fn what_is_there_is_not_installed() {
        assert!(install(&[Need { purpose: "a shell", package: "no-such-package", found: || true }]).is_ok());
    }
}
