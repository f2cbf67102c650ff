//! Many players of one stream on one process: what is delivered, and what it costs.
//!
//! Most players do not parse: their bytes are dropped in the kernel and counted, read at most
//! every 20 ms, because a load process that wakes on every send makes the server pay. A few probes
//! parse everything: they time messages and find gaps, and tell how many bytes on the wire a byte
//! of payload is, which differs by server.
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use serde::Serialize;

use super::Cores;
use super::report::{Quantiles, Row};
use super::servers::{Kind, Setup};
use super::source::{Publisher, Shape};
use crate::client::Connection;
use crate::process;
use probe::{Probe, Seen};

mod probe;

/// Players that parse.
const PROBES: usize = 3;
/// Threads that connect players.
const JOINERS: usize = 16;
/// Time between two looks at the sockets.
const TICK: Duration = Duration::from_millis(20);
/// From the last join to the window.
const SETTLE: Duration = Duration::from_secs(2);
/// From the end of the window to the last look at what was delivered.
const DRAIN: Duration = Duration::from_millis(300);
/// Without data for so long a player has stalled.
const STALL: Duration = Duration::from_secs(1);
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
    let shape = Shape { fps: 25, gop: 50, bitrate: args.bitrate };
    let mut publisher = Publisher::start(&setup.publish, shape)?;
    let probes = (0..PROBES).map(|_| Probe::start(&setup.play)).collect::<Result<Vec<_>>>()?;
    let rss_before = setup.rss()?;
    let mut fleet = Fleet::new(connect_all(&setup.play, args.players));
    let deadline = Instant::now() + JOIN_WITHIN;
    fleet.hold(|fleet| {
        setup.check()?;
        publisher.check()?;
        if Instant::now() > deadline {
            bail!("{} of {} players joined in {JOIN_WITHIN:?}", fleet.players.len(), args.players);
        }
        Ok(fleet.players.len() < args.players)
    })?;
    let settled = Instant::now() + SETTLE;
    fleet.hold(|_| Ok(Instant::now() < settled))?;

    fleet.restart();
    probes.iter().for_each(Probe::restart);
    let start = Instant::now();
    let published = publisher.sent_bytes();
    let (cpu, load) = (setup.cpu()?, load_cpu()?);
    let end = start + Duration::from_secs(args.seconds);
    fleet.hold(|_| {
        setup.check()?;
        publisher.check()?;
        Ok(Instant::now() < end)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu_percent = (setup.cpu()? - cpu).as_secs_f64() / elapsed * 100.0;
    let load_cpu_percent = (load_cpu()? - load).as_secs_f64() / elapsed * 100.0;
    let rss_bytes = setup.rss()?;
    let stalled = fleet.players.iter().filter(|player| player.stalled).count();
    let closed = fleet.players.iter().filter(|player| player.closed).count();

    let mut seen = Seen::default();
    for probe in probes {
        seen.add(probe.finish()?);
    }
    // What is under way when the window ends is not lost: it comes while nothing new is sent.
    let published = publisher.stop() - published;
    let drained = Instant::now() + DRAIN;
    fleet.hold(|_| Ok(Instant::now() < drained))?;
    let expected = float(published) * seen.wire_per_payload().context("the probes saw nothing")?;
    let delivered = |player: &Player| float(player.bytes) / expected;
    let sum: f64 = fleet.players.iter().map(delivered).sum();
    let worst = fleet.players.iter().map(delivered).fold(f64::INFINITY, f64::min);
    let players = fleet.players.len();
    Ok(FanOut {
        players,
        delivered: sum / float(u64::try_from(players.max(1))?),
        delivered_worst: worst,
        stalled,
        closed,
        gaps: seen.gaps,
        cpu_percent,
        load_cpu_percent,
        rss_bytes,
        rss_per_player_bytes: rss_bytes.saturating_sub(rss_before) / u64::try_from(players.max(1))?,
        latency: seen.latency.quantiles(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn float(n: u64) -> f64 {
    n as f64
}

fn load_cpu() -> Result<Duration> {
    let (user, system) = process::cpu("self")?;
    Ok(user + system)
}

/// Connects `n` players, several at a time; each comes out when the server has agreed.
fn connect_all(url: &RtmpUrl, n: usize) -> Receiver<Result<Connection>> {
    let (sender, receiver) = mpsc::channel();
    let url = Arc::new(url.clone());
    for joiner in 0..JOINERS {
        let (sender, url) = (sender.clone(), url.clone());
        let share = (n + JOINERS - 1 - joiner) / JOINERS;
        thread::spawn(move || {
            for _ in 0..share {
                // Nobody listens any more when the bench has failed.
                if sender.send(Connection::play(&url)).is_err() {
                    return;
                }
            }
        });
    }
    receiver
}

/// Players that only count.
struct Fleet {
    joining: Receiver<Result<Connection>>,
    players: Vec<Player>,
    discard: Vec<u8>,
}

struct Player {
    stream: std::net::TcpStream,
    /// Since the window began.
    bytes: u64,
    last: Instant,
    stalled: bool,
    closed: bool,
}

impl Fleet {
    fn new(joining: Receiver<Result<Connection>>) -> Self {
        // With MSG_TRUNC the kernel writes nothing here; the length is what it may drop at once.
        Self { joining, players: Vec::new(), discard: vec![0; 1 << 20] }
    }

    /// Keeps the players read while `go_on`.
    fn hold(&mut self, mut go_on: impl FnMut(&Self) -> Result<bool>) -> Result<()> {
        while go_on(self)? {
            process::check_interrupt()?;
            let tick = Instant::now();
            while let Ok(joined) = self.joining.try_recv() {
                let stream = joined.context("a player cannot join")?.into_stream();
                let last = Instant::now();
                self.players.push(Player { stream, bytes: 0, last, stalled: false, closed: false });
            }
            for player in &mut self.players {
                player.discard(&mut self.discard);
            }
            if let Some(rest) = TICK.checked_sub(tick.elapsed()) {
                thread::sleep(rest);
            }
        }
        Ok(())
    }

    /// Begins the window.
    fn restart(&mut self) {
        for player in &mut self.players {
            player.bytes = 0;
            player.stalled = false;
        }
    }
}

impl Player {
    fn discard(&mut self, buffer: &mut [u8]) {
        if self.closed {
            return;
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        // One call takes all there is: the buffer is larger than a socket's.
        match recv(self.stream.as_raw_fd(), buffer, flags) {
            Ok(0) => self.closed = true,
            Ok(n) => {
                self.bytes += u64::try_from(n).unwrap_or(0);
                self.last = Instant::now();
            }
            Err(Errno::EAGAIN | Errno::EINTR) => self.stalled |= self.last.elapsed() > STALL,
            Err(_) => self.closed = true,
        }
    }
}
