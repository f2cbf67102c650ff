//! Time from a TCP connect to the first complete keyframe.
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use forwarder::rtmp::flv;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;
use serde::Serialize;

use super::Cores;
use super::report::{Row, Samples};
use super::servers::{Kind, Setup};
use super::source::{self, Publisher};
use crate::client::Connection;
use crate::load::histogram::Quantiles;
use crate::process;

/// How long one join may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time between two joins: no multiple or part of a frame's.
const PACE: Duration = Duration::from_millis(23);

/// How many joins, of what.
#[derive(clap::Args)]
pub struct Args {
    /// Players, one every 23 ms.
    #[arg(long, default_value_t = 200)]
    joins: usize,
    /// Bits a second.
    #[arg(long, default_value_t = 2_000_000)]
    bitrate: u64,
}

/// One turn.
#[derive(Serialize)]
pub struct Joins {
    joins: usize,
    #[serde(flatten)]
    time: Quantiles,
}

impl Row for Joins {
    const HEADS: &'static [&'static str] = &["joins", "p50 ms", "p99 ms", "max ms"];

    fn cells(&self) -> Vec<String> {
        [self.joins.to_string()].into_iter().chain(self.time.cells()).collect()
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("p50", self.time.p50_ms), ("p99", self.time.p99_ms)]
    }
}

/// Runs one turn. Joins start at a steady pace whatever those before wait for: they fall on all
/// places of a GOP, also where joiners wait for its end.
pub fn measure(args: &Args, kind: Kind, cores: Cores) -> Result<Joins> {
    let mut setup = Setup::single(kind, cores)?;
    let shape = source::shape(25, 50, args.bitrate);
    let mut publisher = Publisher::start(&setup.publish, shape)?;
    // The first player makes sure that there is a keyframe to be had.
    join(&setup.play)?;
    let start = Instant::now();
    let mut joining = Vec::new();
    for n in 0..args.joins {
        setup.check()?;
        publisher.check()?;
        let due = start + PACE * u32::try_from(n)?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let url = setup.play.clone();
        joining.push(thread::spawn(move || join(&url)));
    }
    let mut samples = Samples::default();
    for thread in joining {
        samples.push(thread.join().map_err(|_| anyhow!("a joiner panicked"))??);
    }
    Ok(Joins { joins: samples.len(), time: samples.quantiles() })
}

fn join(url: &RtmpUrl) -> Result<Duration> {
    let start = Instant::now();
    let mut player = Connection::open(url, Goal::Play)?;
    let mut keyframe = None;
    while keyframe.is_none() {
        process::check_interrupt()?;
        if start.elapsed() > PATIENCE {
            bail!("no keyframe within {PATIENCE:?}");
        }
        player.poll(Duration::from_millis(100), |event| {
            if let ClientEvent::Media(message) = event
                && message.kind == MediaKind::Video
                && flv::video(message.payload).keyframe
            {
                keyframe.get_or_insert_with(|| start.elapsed());
            }
        })?;
    }
    player.finish()?;
    Ok(keyframe.unwrap_or_default())
}
