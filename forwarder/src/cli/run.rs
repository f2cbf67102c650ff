//! `forwarder run`
use std::path::PathBuf;

use tracing::{error, info, warn};

use super::{Failure, complain};
use crate::config::Config;
use crate::{server, telemetry};

/// Run the server in the foreground
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Configuration: TOML, or SRS's .conf
    #[arg(short, long, value_name = "FILE")]
    pub(super) config: PathBuf,
}

pub(super) fn run(args: Args) -> Result<(), Failure> {
    let loaded = Config::load(&args.config).map_err(|error| {
        complain(&error.to_string());
        Failure::Refused
    })?;
    let level = telemetry::init(&loaded.config.log).map_err(|error| {
        complain(&format!("{error:#}"));
        Failure::Runtime
    })?;
    info!(version = crate::VERSION, config = %args.config.display(), "starting");
    for note in &loaded.notes {
        warn!("{note}");
    }
    // What a reload reads, wherever the process stands by then.
    let file = std::path::absolute(&args.config).unwrap_or(args.config);
    server::run(loaded.config, server::Origin { file, level }).map_err(|error| {
        error!("{error:#}");
        Failure::Runtime
    })
}
