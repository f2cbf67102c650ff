//! Ourselves as a release with the kernel program in it: a debug build measures nothing.
use std::process::Command;

use anyhow::Result;

use crate::{cluster, ebpf, process, tidy};

/// Whether the command was run by a release of this program, built now; in a release nothing is
/// done, and the caller goes on.
///
/// Errors: it cannot be built, or it failed.
pub fn has_run() -> Result<bool> {
    if !cfg!(debug_assertions) {
        return Ok(false);
    }
    ebpf::prepare(ebpf::Missing::Leave)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "-p", "xtask"]).current_dir(tidy::root());
    process::run(&mut build)?;
    let mut release = Command::new(cluster::target().join("release/xtask"));
    process::run(release.args(std::env::args_os().skip(1)))?;
    Ok(true)
}
