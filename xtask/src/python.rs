//! A static FFmpeg of today, which Debian has not: it comes in a package for Python.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cluster, process};

/// The package, and its version: FFmpeg 9.0.2, whose FLV speaks Enhanced RTMP v2.
const PACKAGE: &str = "imageio-ffmpeg==0.8.1";

/// Says in which version a folder was made.
const STAMP: &str = "package";

/// Where it is: a virtual environment, `tests/common/modern.rs` looks there.
fn folder() -> PathBuf {
    cluster::target().join("ffmpeg")
}

/// Installs it below the target folder, unless it is there.
pub fn install() -> Result<()> {
    let folder = folder();
    if is_there(&folder) {
        return Ok(());
    }
    println!("getting {PACKAGE} for the tests");
    process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))
        .context("python3 -m venv (Debian: python3-venv)")?;
    let mut pip = Command::new(folder.join("bin/python"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--timeout", "30", "--retries", "3", PACKAGE]);
    process::run(&mut pip).context("the tests of Enhanced RTMP need it")?;
    std::fs::write(folder.join(STAMP), PACKAGE)?;
    Ok(())
}

fn is_there(folder: &Path) -> bool {
    std::fs::read_to_string(folder.join(STAMP)).is_ok_and(|stamp| stamp == PACKAGE)
}
