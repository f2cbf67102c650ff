//! Logging: to stderr, as text or as lines of JSON.
use std::io::{IsTerminal as _, stderr};

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::config::Log;

/// Starts logging as `log` says; the environment variable `RUST_LOG` goes before its level.
/// Fails if a logger was started before.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (filter, refused) = match asked.map(|text| EnvFilter::builder().parse(text)) {
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::builder().parse(&log.level)?, Some(error)),
        None => (EnvFilter::builder().parse(&log.level)?, None),
    };
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = fmt().with_env_filter(filter).with_writer(stderr);
    let started = if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(!plain && stderr().is_terminal()).try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    if let Some(error) = refused {
        warn!(%error, "RUST_LOG is not a filter and is ignored");
    }
    Ok(())
}
