//! Many players of one stream on one process: what is delivered, and what it costs.
//!
//! Most players do not parse: their bytes are dropped in the kernel and counted, read at most
//! every 20 ms, because a load process that wakes on every send makes the server pay. A few probes
//! parse everything: they time messages and find gaps, and tell how many bytes on the wire a byte
//! of payload is, which differs by server.
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;
use serde::Serialize;

use super::Cores;
use super::report::Row;
use super::servers::{Kind, Setup};
use super::source;
use crate::load::crowd::{Crowd, State};
use crate::load::fleet::Member;
use crate::load::float;
use crate::load::guest::{Role, Target};
use crate::load::histogram::Quantiles;
use crate::{client, process};

/// Players that parse.
const PROBES: usize = 9;
/// Who comes in a second.
const RAMP: f64 = 1000.0;
/// From the last join to the window.
const SETTLE: Duration = Duration::from_secs(2);
/// All players must have joined by then.
const JOIN_WITHIN: Duration = Duration::from_secs(120);
/// Below this share of what was published a row is void.
const MIN_DELIVERED: f64 = 0.98;
/// Above this share of its core the load generator is in the way.
const LOAD_FULL: f64 = 0.90;
/// Files open besides the players' sockets.
const OTHER_FILES: u64 = 200;

/// How many, of what, how long.
#[derive(clap::Args)]
pub struct Args {
    /// Players.
    #[arg(long, default_value_t = 1000)]
    players: usize,
    /// Bits a second.
    #[arg(long, default_value_t = 500_000)]
    bitrate: u64,
    /// Length of the window, after everybody has joined.
    #[arg(long, default_value_t = 15)]
    seconds: u64,
}

/// One turn.
#[derive(Serialize)]
pub struct FanOut {
    players: usize,
    /// Bytes delivered of those published, mean over the players.
    delivered: f64,
    /// The same of the worst player.
    delivered_worst: f64,
    /// Players that had no data for more than a second.
    stalled: usize,
    /// Players that were closed.
    closed: usize,
    /// Video messages that the probes missed.
    gaps: u64,
    /// Of the server, in percent of one core.
    cpu_percent: f64,
    /// Of publisher and players, in percent of one core.
    load_cpu_percent: f64,
    /// Of the server, at the end of the window.
    rss_bytes: u64,
    /// Its growth since before the players came.
    rss_per_player_bytes: u64,
    #[serde(flatten)]
    latency: Quantiles,
}

impl Row for FanOut {
    const HEADS: &'static [&'static str] = &[
        "players",
        "delivered",
        "worst",
        "stalled",
        "closed",
        "gaps",
        "cpu %",
        "load cpu %",
        "RSS MiB",
        "KiB/player",
        "p50 ms",
        "p99 ms",
        "max ms",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![
            self.players.to_string(),
            format!("{:.4}", self.delivered),
            format!("{:.4}", self.delivered_worst),
            self.stalled.to_string(),
            self.closed.to_string(),
            self.gaps.to_string(),
            format!("{:.1}", self.cpu_percent),
            format!("{:.1}", self.load_cpu_percent),
            format!("{:.1}", float(self.rss_bytes) / 1_048_576.0),
            format!("{:.1}", float(self.rss_per_player_bytes) / 1024.0),
        ];
        cells.extend(self.latency.cells());
        cells
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        let per_player = float(self.rss_per_player_bytes);
        vec![("cpu", self.cpu_percent), ("RSS/player", per_player), ("p50", self.latency.p50_ms)]
    }

    fn void(&self) -> Option<String> {
        let lost = self.delivered < MIN_DELIVERED;
        lost.then(|| format!("delivered {:.4}, less than {MIN_DELIVERED}", self.delivered))
    }

    fn remark(&self) -> Option<String> {
        (self.load_cpu_percent > LOAD_FULL * 100.0).then(|| {
            "the load generator's core was full: it, not the server, may be the limit".to_owned()
        })
    }
}

/// Refuses more players than this process may hold sockets.
pub fn check_limit(args: &Args, open_files: u64) -> Result<()> {
    let wanted = u64::try_from(args.players)? + OTHER_FILES;
    if wanted > open_files {
        bail!("{} players need {wanted} open files, the limit is {open_files}", args.players);
    }
    Ok(())
}

/// Runs one turn.
pub fn measure(args: &Args, kind: Kind, cores: Cores) -> Result<FanOut> {
    let mut setup = Setup::single(kind, cores)?;
    let of = |url: &RtmpUrl| -> Result<Arc<Target>> {
        Ok(Arc::new(Target { url: url.clone(), address: client::resolve(url)?, stream: 0 }))
    };
    let (publish, play) = (of(&setup.publish)?, of(&setup.play)?);
    let mut crowd = Crowd::new(source::shape(25, 50, args.bitrate), 1)?;
    call(&mut crowd, &mut setup, Role::Publisher, vec![publish])?;
    let rss_before = setup.rss()?;
    // Probes come between the others, at even distances: a server writes to its players in an
    // order, and the first and the last are not served alike.
    let mut called = 0;
    for probe in 0..PROBES {
        let upto = args.players * (2 * probe + 1) / (2 * PROBES);
        call(&mut crowd, &mut setup, Role::Player, vec![Arc::clone(&play); upto - called])?;
        call(&mut crowd, &mut setup, Role::Probe, vec![Arc::clone(&play)])?;
        called = upto;
    }
    call(&mut crowd, &mut setup, Role::Player, vec![play; args.players - called])?;
    let settled = Instant::now() + SETTLE;
    crowd.hold(|_| Ok(Instant::now() < settled))?;

    crowd.restart();
    let start = Instant::now();
    let published = crowd.published(0).unwrap_or_default();
    let (cpu, load) = (setup.cpu()?, load_cpu()?);
    let end = start + Duration::from_secs(args.seconds);
    crowd.hold(|crowd| {
        setup.check()?;
        check_publisher(crowd)?;
        Ok(Instant::now() < end)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu_percent = (setup.cpu()? - cpu).as_secs_f64() / elapsed * 100.0;
    let load_cpu_percent = (load_cpu()? - load).as_secs_f64() / elapsed * 100.0;
    let rss_bytes = setup.rss()?;
    let stalled = crowd.fleet.members().iter().filter(|player| player.stalls > 0).count();
    let closed = crowd.fleet.members().iter().filter(|player| !player.is_open()).count();

    // What is under way when the window ends is not lost: it comes while nothing new is sent.
    crowd.publishers.hush();
    let seen = crowd.seen();
    let published = crowd.published(0).unwrap_or_default() - published;
    crowd.drain()?;
    let expected = float(published) * seen.wire_per_payload().context("the probes saw nothing")?;
    let delivered = |player: &Member| float(player.window) / expected;
    let players = crowd.fleet.members();
    let sum: f64 = players.iter().map(delivered).sum();
    let worst = players.iter().map(delivered).fold(f64::INFINITY, f64::min);
    let count = players.len().max(1) as u64;
    Ok(FanOut {
        players: players.len(),
        delivered: sum / float(count),
        delivered_worst: worst,
        stalled,
        closed,
        gaps: seen.gaps,
        cpu_percent,
        load_cpu_percent,
        rss_bytes,
        rss_per_player_bytes: rss_bytes.saturating_sub(rss_before) / count,
        latency: seen.latency.quantiles(),
    })
}

/// Has clients come, and waits until all are there.
fn call(crowd: &mut Crowd, setup: &mut Setup, role: Role, targets: Vec<Arc<Target>>) -> Result<()> {
    if targets.is_empty() {
        return Ok(());
    }
    crowd.call(role, &targets, Some(RAMP))?;
    let deadline = Instant::now() + JOIN_WITHIN;
    crowd.hold(|crowd| {
        setup.check()?;
        crowd.check()?;
        let joining = crowd.count(State::Joining);
        if Instant::now() > deadline {
            bail!("{joining} of {} did not join in {JOIN_WITHIN:?}", targets.len());
        }
        Ok(joining > 0)
    })
}

/// A player that is closed is counted; without the publisher there is nothing to count.
fn check_publisher(crowd: &Crowd) -> Result<()> {
    let publisher = crowd.slots().iter().find(|slot| slot.role == Role::Publisher);
    match publisher.and_then(|slot| slot.error.as_ref()) {
        Some(error) => bail!("the publisher failed: {error}"),
        None => Ok(()),
    }
}

fn load_cpu() -> Result<Duration> {
    let (user, system) = process::cpu("self")?;
    Ok(user + system)
}
