//! Latency of a forward: publisher -> master -> slave -> player.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use serde::Serialize;

use super::Cores;
use super::report::{Row, Samples};
use super::servers::{Kind, Setup};
use super::source::{self, Publisher};
use crate::client::Connection;
use crate::load::histogram::Quantiles;
use crate::load::stream::Stamp;
use crate::process;

/// Messages let go before sampling: connecting is not what is measured.
const WARM_UP: u64 = 25;

/// How long nothing may come.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the stream is like.
#[derive(clap::Args)]
pub struct Args {
    /// Video messages to time.
    #[arg(long, default_value_t = 2000)]
    samples: usize,
    /// Video messages a second.
    #[arg(long, default_value_t = 100)]
    fps: u64,
    /// Bits a second.
    #[arg(long, default_value_t = 2_000_000)]
    bitrate: u64,
}

/// One turn.
#[derive(Serialize)]
pub struct Latency {
    samples: usize,
    /// Video messages that never came, between the first and the last that did.
    missing: u64,
    #[serde(flatten)]
    latency: Quantiles,
}

impl Row for Latency {
    const HEADS: &'static [&'static str] = &["samples", "missing", "p50 ms", "p99 ms", "max ms"];

    fn cells(&self) -> Vec<String> {
        let counts = [self.samples.to_string(), self.missing.to_string()];
        counts.into_iter().chain(self.latency.cells()).collect()
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("p50", self.latency.p50_ms), ("p99", self.latency.p99_ms)]
    }

    fn void(&self) -> Option<String> {
        (self.missing > 0).then(|| format!("{} messages were lost on the way", self.missing))
    }
}

/// Runs one turn.
pub fn measure(args: &Args, kind: Kind, cores: Cores) -> Result<Latency> {
    let mut setup = Setup::pair(kind, cores)?;
    let shape = source::shape(args.fps, args.fps, args.bitrate);
    let mut publisher = Publisher::start(&setup.publish, shape)?;
    let mut player = Connection::open(&setup.play, Goal::Play)?;
    let mut samples = Samples::default();
    let (mut first, mut seen, mut last) = (None, 0, 0);
    let mut heard = Instant::now();
    while samples.len() < args.samples {
        process::check_interrupt()?;
        setup.check()?;
        publisher.check()?;
        if heard.elapsed() > PATIENCE {
            bail!("nothing came for {PATIENCE:?}, after {seen} messages");
        }
        player.poll(Duration::from_millis(100), |event| {
            let ClientEvent::Media(message) = event else {
                return;
            };
            if message.kind != MediaKind::Video {
                return;
            }
            let Some(stamp) = Stamp::parse(message.payload) else {
                return;
            };
            heard = Instant::now();
            // What a slave kept for late joiners is old: count from what is sent from now on.
            let first = *first.get_or_insert(stamp.number + WARM_UP);
            if stamp.number >= first {
                // It is published in this process.
                samples.push(stamp.age().unwrap_or_default());
                seen += 1;
                last = stamp.number - first;
            }
        })?;
    }
    let missing = (last + 1).saturating_sub(seen);
    Ok(Latency { samples: samples.len(), missing, latency: samples.quantiles() })
}
