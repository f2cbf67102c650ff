//! The server.
use crate::config::Config;

/// Runs until it is told to stop.
pub fn run(_config: Config) -> anyhow::Result<()> {
    Ok(())
}
