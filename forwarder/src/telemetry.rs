//! Logging: to stderr, as text or as lines of JSON.
use std::fmt;
use std::io::{IsTerminal as _, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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

/// Keeps a flood of what others do wrong from becoming a flood of lines.
#[derive(Debug, Default)]
pub struct Noise(Mutex<(Option<Instant>, u32)>);

impl Noise {
    /// Whether one more line may be logged this second; `Some(n)`: n lines were left out before
    /// this.
    pub fn may_make(&self, now: Instant) -> Option<u32> {
        let mut noise = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, n) = &mut *noise;
        if since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1))
        {
            *since = Some(now);
            return Some(std::mem::replace(n, 1).saturating_sub(LINES_PER_SECOND));
        }
        *n += 1;
        (*n <= LINES_PER_SECOND).then_some(0)
    }
}

/// Most lines a second.
const LINES_PER_SECOND: u32 = 20;
