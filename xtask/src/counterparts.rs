//! Fetches what others wrote that checks ours: packages of Python and Node, at the versions that `connectors/tests/counterparts` pins.
//! Only tests use them. It must not start anything.

use crate::packages;
use anyhow::{Context as _, ensure};
use std::{fs, path::Path, process::Command};

/// Puts them into `home/counterparts`, once for each set of versions.
pub(crate) fn fetch(root: &Path, home: &Path) -> anyhow::Result<()> {
    packages::for_counterparts()?;
    let (pins, home) = (root.join("connectors/tests/counterparts"), home.join("counterparts"));
    once(&home.join("python"), &pins.join("requirements.txt"), |folder, pins| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let pip = folder.join("bin/pip");
        run(Command::new(pip)
            .args(["install", "--quiet", "--disable-pip-version-check", "--no-deps", "--requirement"])
            .arg(pins))
    })?;
    once(&home.join("node"), &pins.join("package.json"), |folder, pins| {
        fs::copy(pins, folder.join("package.json")).with_context(|| pins.display().to_string())?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", "--ignore-scripts"]);
        run(npm.current_dir(folder))
    })
}

/// Fills `folder` anew by `fetch`, unless that was done before for the same pins.
fn once(folder: &Path, pins: &Path, fetch: impl FnOnce(&Path, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let complete = folder.join(".complete");
    let wanted = fs::read_to_string(pins).with_context(|| pins.display().to_string())?;
    if fs::read_to_string(&complete).is_ok_and(|mark| mark == wanted) {
        return Ok(());
    }
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fetch(folder, pins)?;
    fs::write(&complete, wanted).with_context(|| complete.display().to_string())
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
