//! What Debian has not, of packages for Python: a static FFmpeg of today, and PyAV.
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cluster, process};

/// The packages, and their versions: FFmpeg 9.0.2, whose FLV speaks Enhanced RTMP v2, and PyAV, which
/// brings libraries of FFmpeg of its own.
const PACKAGES: [&str; 2] = ["imageio-ffmpeg==0.8.1", "av==18.1.0"];

/// Says which of them a folder has, one a line.
const STAMP: &str = "packages";

/// Where it is: a virtual environment, `tests/common/modern.rs` looks there.
fn folder() -> PathBuf {
    cluster::target().join("ffmpeg")
}

/// Installs them below the target folder, those that are not there. One that cannot be had keeps no
/// other away.
pub fn install() -> Result<()> {
    let folder = folder();
    let stamp = folder.join(STAMP);
    let mut there = std::fs::read_to_string(&stamp).unwrap_or_default();
    let mut result = Ok(());
    for package in PACKAGES {
        if there.lines().any(|line| line == package) {
            continue;
        }
        println!("getting {package} for the tests");
        match add(&folder, package) {
            Ok(()) => {
                there.push_str(&format!("{package}\n"));
                std::fs::write(&stamp, &there)?;
            }
            Err(error) => result = result.and(Err(error)),
        }
    }
    result
}

/// Installs one, in a virtual environment that is made if it is not there.
fn add(folder: &Path, package: &str) -> Result<()> {
    let python = folder.join("bin/python");
    if !python.exists() {
        process::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder))
            .context("python3 -m venv (Debian: python3-venv)")?;
    }
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--timeout", "30", "--retries", "3", "--only-binary", ":all:", package]);
    process::run(&mut pip).with_context(|| format!("tests of Enhanced RTMP need {package}"))
}
