//! `cargo xtask setup`: gets a machine ready, and says what it stays without.
use anyhow::Result;

use crate::{ebpf, packages, python};

/// Runs the command.
pub fn run() -> Result<()> {
    packages::install()?;
    python::install()?;
    ebpf::prepare(ebpf::Missing::Install)?;
    Ok(())
}
