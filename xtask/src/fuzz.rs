//! Runs the fuzz targets. It must not hide a finding: the first crash ends it, and its input is kept by cargo-fuzz under `fuzz/artifacts`.

use crate::packages;
use anyhow::{Context as _, bail, ensure};
use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

/// Runs every `fuzz/fuzz_targets/*.rs` for `seconds`.
pub(crate) fn run(root: &Path, seconds: u32) -> anyhow::Result<()> {
    let targets = targets(root)?;
    ensure_nightly()?;
    if packages::find("cargo-fuzz").is_none() && !succeeds("cargo", &["fuzz", "--version"]) {
        println!("installing cargo-fuzz");
        check(Command::new("cargo").args(["install", "--locked", "cargo-fuzz"]), "cargo install cargo-fuzz")?;
    }
    for target in targets {
        println!("== fuzz {target}, {seconds} s");
        let limit = format!("-max_total_time={seconds}");
        let mut command = Command::new("rustup");
        command.args(["run", "nightly", "cargo", "fuzz", "run", &target, "--", &limit, "-print_final_stats=1"]);
        // cargo hands its own toolchain to what it starts; the fuzzer needs another.
        command.env_remove("RUSTUP_TOOLCHAIN").env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTDOC");
        check(command.current_dir(root), &format!("fuzz target {target}"))?;
    }
    Ok(())
}

/// Names of the targets, sorted.
fn targets(root: &Path) -> anyhow::Result<Vec<String>> {
    let folder = root.join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "rs")
            && let Some(name) = path.file_stem()
        {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    ensure!(!names.is_empty(), "{} holds no target", folder.display());
    names.sort();
    Ok(names)
}

fn ensure_nightly() -> anyhow::Result<()> {
    if succeeds("rustup", &["run", "nightly", "rustc", "--version"]) {
        return Ok(());
    }
    bail!(
        "the fuzzer's instrumentation needs a nightly compiler: run `rustup toolchain install nightly --profile minimal`"
    )
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn check(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).status().with_context(|| what.to_owned())?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_rust_files_of_their_folder_in_order() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("fuzz/fuzz_targets");
        fs::create_dir_all(&folder).unwrap();
        for file in ["webhook.rs", "events.rs", "notes.md"] {
            fs::write(folder.join(file), "").unwrap();
        }
        assert_eq!(targets(root.path()).unwrap(), ["events", "webhook"]);
    }

    #[test]
    fn no_target_is_an_error_that_names_the_folder() {
        let root = tempfile::tempdir().unwrap();
        assert!(targets(root.path()).unwrap_err().to_string().contains("fuzz/fuzz_targets"));
    }
}
