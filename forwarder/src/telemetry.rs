//! Logging: to stderr, as text or as lines of JSON.
use std::fmt;
use std::io::{IsTerminal as _, stderr};

use tracing::warn;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::reload::Error;

use crate::config::Log;

/// Changes what is logged.
pub struct Level {
    set: Box<dyn Fn(EnvFilter) -> Result<(), Error> + Send + Sync>,
    /// `RUST_LOG` goes before whatever the configuration says.
    by_environment: bool,
}

impl Level {
    /// Logs as `level` of the configuration says from now on. False: `RUST_LOG` goes before it.
    pub fn set(&self, level: &str) -> anyhow::Result<bool> {
        if !self.by_environment {
            (self.set)(EnvFilter::builder().parse(level)?)?;
        }
        Ok(!self.by_environment)
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Level").field("by_environment", &self.by_environment).finish()
    }
}

/// Starts logging as `log` says; the environment variable `RUST_LOG` goes before its level.
/// Fails if a logger was started before.
pub fn init(log: &Log) -> anyhow::Result<Level> {
    let asked = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (filter, refused, by_environment) = match asked.map(|text| EnvFilter::builder().parse(text))
    {
        Some(Ok(filter)) => (filter, None, true),
        Some(Err(error)) => (EnvFilter::builder().parse(&log.level)?, Some(error), false),
        None => (EnvFilter::builder().parse(&log.level)?, None, false),
    };
    // https://no-color.org
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let set: Box<dyn Fn(EnvFilter) -> Result<(), Error> + Send + Sync>;
    let started = if log.json {
        let builder = builder.json().flatten_event(true).with_filter_reloading();
        let handle = builder.reload_handle();
        set = Box::new(move |filter| handle.reload(filter));
        builder.try_init()
    } else {
        let builder = builder.with_ansi(!plain && stderr().is_terminal()).with_filter_reloading();
        let handle = builder.reload_handle();
        set = Box::new(move |filter| handle.reload(filter));
        builder.try_init()
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))?;
    if let Some(error) = refused {
        warn!(%error, "RUST_LOG is not a filter and is ignored");
    }
    Ok(Level { set, by_environment })
}
