//! Time from a TCP connect to the first complete keyframe.
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use forwarder::rtmp::flv;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use serde::Serialize;

use super::report::{Quantiles, Row, Samples};
use super::servers::{Kind, Setup};
use super::source::{Publisher, Shape};
use crate::client::Connection;
use crate::process;

/// How long one join may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// How many joins, of what.
#[derive(clap::Args)]
pub struct Args {
    /// Players, one after the other.
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
        [self.joins.to_string()]
            .into_iter()
            .chain(self.time.cells())
            .collect()
    }
}

/// Runs one turn.
pub fn measure(args: &Args, kind: Kind) -> Result<Joins> {
    let mut setup = Setup::single(kind)?;
    let shape = Shape {
        fps: 25,
        gop: 50,
        bitrate: args.bitrate,
    };
    let mut publisher = Publisher::start(&setup.publish, shape)?;
    // The first player makes sure that there is a keyframe to be had.
    join(&setup)?;
    let mut samples = Samples::default();
    while samples.len() < args.joins {
        setup.check()?;
        publisher.check()?;
        samples.push(join(&setup)?);
        // So that joins fall on all places of a GOP, and not in step with the frames.
        std::thread::sleep(Duration::from_millis(7));
    }
    Ok(Joins {
        joins: samples.len(),
        time: samples.quantiles(),
    })
}

fn join(setup: &Setup) -> Result<Duration> {
    let start = Instant::now();
    let mut player = Connection::open(&setup.play, Goal::Play)?;
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
