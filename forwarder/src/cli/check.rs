//! `forwarder check`
use std::path::PathBuf;

use super::{Failure, complain, say};
use crate::config::Config;

/// Check a configuration
///
/// Exits with 0 if it is fine and with 1 if it is refused. Errors, and notes about what has no
/// effect, go to stderr.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration: TOML, or SRS's .conf
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Print what it means as TOML, defaults filled in
    #[arg(long)]
    pub(super) print: bool,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let loaded = Config::load(&args.config).map_err(|error| {
        complain(&error.to_string());
        Failure::Refused
    })?;
    for note in &loaded.notes {
        complain(note);
    }
    if args.print {
        say(&loaded.config.to_toml());
    } else {
        say(&format!("{}: ok", args.config.display()));
    }
    Ok(())
}
