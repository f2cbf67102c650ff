//! `cargo xtask setup`: gets a machine ready, and says what it stays without.
use anyhow::Result;

use crate::packages;

/// Runs the command.
pub fn run() -> Result<()> {
    packages::install()?;
    println!("kernel program: not built yet; every leg is carried in user space");
    Ok(())
}
