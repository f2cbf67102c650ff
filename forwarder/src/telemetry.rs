//! Logging: to stderr, as text or as lines of JSON.
use std::io::{IsTerminal as _, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

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
