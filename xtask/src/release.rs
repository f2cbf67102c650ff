//! Ourselves as a release with the kernel program in it: a debug build measures nothing.
use std::os::unix::process::CommandExt;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{cluster, ebpf, process, tidy};

/// Goes on as a release of this program, built now, with the same arguments; a release does
/// nothing here, and the caller goes on.
///
/// Errors: it cannot be built or started.
pub fn ensure() -> Result<()> {
    if !cfg!(debug_assertions) {
        return Ok(());
    }
    ebpf::prepare(ebpf::Missing::Leave)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "-p", "xtask"]).current_dir(tidy::root());
    process::run(&mut build)?;
    let mut release = Command::new(cluster::target().join("release/xtask"));
    // In our place, so that signals and the exit status are its own.
    let failed = release.args(std::env::args_os().skip(1)).exec();
    Err(failed).context("cannot start the release")
}
