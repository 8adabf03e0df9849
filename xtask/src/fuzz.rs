//! Runs the fuzz targets. It must not hide a finding: the first crash ends it, and its input is kept under `fuzz/artifacts`.

use crate::test::cargo;
use anyhow::{Context as _, ensure};
use std::{fs, path::Path, process::Command};

/// Runs one target, or all, each for `seconds`.
pub(crate) fn run(root: &Path, seconds: u32, only: Option<&str>) -> anyhow::Result<()> {
    let mut chosen = commands(root, seconds)?;
    if let Some(only) = only {
        chosen.retain(|(target, _)| target == only);
        ensure!(!chosen.is_empty(), "no target `{only}`: there are {}", targets(root)?.join(", "));
    }
    for (target, mut command) in chosen {
        println!("== fuzz {target}, {seconds} s");
        let status = command.status().context("cargo")?;
        ensure!(status.success(), "fuzz target {target}: {status}; its input is in fuzz/artifacts/{target}");
    }
    Ok(())
}

/// For each `fuzz/fuzz_targets/*.rs` what builds it and runs it for `seconds`.
///
/// # Errors
/// There is no target, or no folder can be made for what one finds.
pub(crate) fn commands(root: &Path, seconds: u32) -> anyhow::Result<Vec<(String, Command)>> {
    targets(root)?.into_iter().map(|target| Ok((target.clone(), command(root, &target, seconds)?))).collect()
}

/// It begins with the target's seeds and with what earlier runs found interesting.
fn command(root: &Path, target: &str, seconds: u32) -> anyhow::Result<Command> {
    let folder = root.join("fuzz");
    let [corpus, seeds, artifacts] = ["corpus", "seeds", "artifacts"].map(|part| folder.join(part).join(target));
    for made in [&corpus, &artifacts] {
        fs::create_dir_all(made).with_context(|| made.display().to_string())?;
    }
    let mut command = cargo(root, &["test", "--quiet", "--workspace", "--test", &format!("fuzz_{target}"), "--"]);
    command.env("RUSTC_WORKSPACE_WRAPPER", folder.join("instrument")).arg(corpus);
    if seeds.is_dir() {
        command.arg(seeds);
    }
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.args([&format!("-max_total_time={seconds}"), "-timeout=10", "-verbosity=0", "-print_final_stats=1"]);
    Ok(command)
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
