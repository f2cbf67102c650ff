//! Connections that come and go, a thousand a second, beside players who shall not notice.
//!
//! Each does all of handshake, `connect`, `createStream` and `play`, and leaves. What it plays is a
//! stream that nobody publishes, so that coming is measured and not the sending of pictures. Then
//! as many come as can at a time, for the rate that the server's core is good for.
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde::Serialize;

use super::Cores;
use super::report::Row;
use super::servers::{Kind, Setup};
use super::source;
use crate::load::crowd::{Crowd, State};
use crate::load::engine::{Dial, Engine, News};
use crate::load::float;
use crate::load::guest::{Role, Target};
use crate::load::histogram::{Histogram, Quantiles};
use crate::{client, process};

/// Players that parse.
const PROBES: usize = 8;
/// Players that come in a second, before anything is measured.
const RAMP: f64 = 500.0;
/// All of them must have joined by then.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// From the last join to the first window.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections under way at a time when as many come as can.
const AT_A_TIME: usize = 512;
/// Length of that window.
const FLAT_OUT: Duration = Duration::from_secs(4);
/// After the last connect nobody is waited for longer.
const DRAIN_WITHIN: Duration = Duration::from_secs(15);
/// Above this share of its core the load generator is in the way.
const LOAD_FULL: f64 = 90.0;

/// How many, beside whom.
#[derive(clap::Args)]
pub struct Args {
    /// Connections a second
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    rate: u32,
    /// For how long, and how long before that is compared with
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=60))]
    seconds: u32,
    /// Players who are there all the time
    #[arg(long, default_value_t = 500)]
    players: usize,
    /// Bits a second of what they play
    #[arg(long, default_value_t = 500_000)]
    bitrate: u64,
}

/// One turn.
#[derive(Serialize)]
pub struct Accepts {
    offered: u64,
    /// Those that came to play.
    played: u64,
    /// Why the first of the others did not.
    error: Option<String>,
    /// From before the TCP connect until the server agreed to play.
    #[serde(flatten)]
    time: Quantiles,
    /// Processor time of the server for each, beyond what it used before.
    cpu_us_per_connect: f64,
    /// Latency of the players before, milliseconds.
    players_p99_before_ms: f64,
    /// The same while others came and went.
    players_p99_during_ms: f64,
    /// Players who were closed.
    closed: usize,
    /// Of the load's core, while they came at the rate.
    load_cpu_percent: f64,
    /// Connections a second when as many came as could.
    flat_out: f64,
    /// Of the server's core meanwhile.
    flat_out_cpu_percent: f64,
    /// Of the load's core meanwhile.
    flat_out_load_cpu_percent: f64,
}

impl Row for Accepts {
    const HEADS: &'static [&'static str] = &[
        "offered",
        "played",
        "p50 ms",
        "p99 ms",
        "max ms",
        "us/connect",
        "p99 before",
        "p99 during",
        "closed",
        "load cpu %",
        "flat out/s",
        "cpu %",
        "load cpu %",
    ];

    fn cells(&self) -> Vec<String> {
        let mut cells = vec![self.offered.to_string(), self.played.to_string()];
        cells.extend(self.time.cells());
        cells.extend([
            format!("{:.1}", self.cpu_us_per_connect),
            format!("{:.2}", self.players_p99_before_ms),
            format!("{:.2}", self.players_p99_during_ms),
            self.closed.to_string(),
            format!("{:.1}", self.load_cpu_percent),
            format!("{:.0}", self.flat_out),
            format!("{:.1}", self.flat_out_cpu_percent),
            format!("{:.1}", self.flat_out_load_cpu_percent),
        ]);
        cells
    }

    fn figures(&self) -> Vec<(&'static str, f64)> {
        vec![("p50", self.time.p50_ms), ("us/connect", self.cpu_us_per_connect)]
    }

    fn void(&self) -> Option<String> {
        let missing = self.offered - self.played;
        let why = self.error.as_deref().unwrap_or("no answer");
        (missing > 0).then(|| format!("{missing} of {} did not play: {why}", self.offered))
    }

    fn remark(&self) -> Option<String> {
        (self.load_cpu_percent.max(self.flat_out_load_cpu_percent) > LOAD_FULL).then(|| {
            "the load generator's core was full: it, not the server, may be the limit".to_owned()
        })
    }
}

/// Those who come and go.
struct Comers {
    engine: Engine,
    news: Receiver<News>,
    target: Arc<Target>,
    begun: u64,
    played: u64,
    failed: u64,
    error: Option<String>,
    times: Histogram,
}

impl Comers {
    fn new(target: Arc<Target>) -> Result<Self> {
        let (sender, news) = channel();
        let engine = Engine::start("come", sender)?;
        let times = Histogram::default();
        Ok(Self { engine, news, target, begun: 0, played: 0, failed: 0, error: None, times })
    }

    fn call(&mut self, due: Instant) -> Result<()> {
        self.begun += 1;
        // Is there as soon as the server agrees.
        let role = Role::Stuck;
        self.engine.dial(Dial { slot: 0, role, target: Arc::clone(&self.target), due })
    }

    fn under_way(&self) -> u64 {
        self.begun - self.played - self.failed
    }

    /// Lets go of those who play.
    fn look(&mut self) {
        while let Ok(news) = self.news.try_recv() {
            match news {
                News::There { joined, link, .. } => {
                    drop(link);
                    self.played += 1;
                    joined.started.into_iter().for_each(|time| self.times.push(time));
                }
                News::Failed { error, .. } => {
                    self.failed += 1;
                    self.error.get_or_insert_with(|| format!("{error:#}"));
                }
            }
        }
    }
}

/// Processor time of both sides at one moment.
struct Clock {
    at: Instant,
    server: Duration,
    load: Duration,
}

impl Clock {
    fn now(setup: &Setup) -> Result<Self> {
        let (user, system) = process::cpu("self")?;
        Ok(Self { at: Instant::now(), server: setup.cpu()?, load: user + system })
    }

    /// Seconds passed, and those that server and load were busy.
    fn passed(&self, setup: &Setup) -> Result<[f64; 3]> {
        let now = Self::now(setup)?;
        let spent = [now.at - self.at, now.server - self.server, now.load - self.load];
        Ok(spent.map(|time| time.as_secs_f64()))
    }
}

/// Runs one turn.
pub fn measure(args: &Args, kind: Kind, cores: Cores) -> Result<Accepts> {
    let mut setup = Setup::single(kind, cores)?;
    let address = client::resolve(&setup.play)?;
    let play = Arc::new(Target { url: setup.play.clone(), address, stream: 0 });
    let mut nobodys = setup.play.clone();
    nobodys.stream = "nobodys".into();
    let nobodys = Arc::new(Target { url: nobodys, address, stream: 1 });
    let mut crowd = Crowd::new(source::shape(25, 50, args.bitrate), 1)?;
    gather(&mut crowd, &mut setup, Role::Publisher, &[Arc::clone(&play)])?;
    gather(&mut crowd, &mut setup, Role::Probe, &vec![Arc::clone(&play); PROBES])?;
    gather(&mut crowd, &mut setup, Role::Player, &vec![play; args.players])?;
    hold(&mut crowd, &mut setup, SETTLE)?;

    let window = Duration::from_secs(args.seconds.into());
    crowd.restart();
    let clock = Clock::now(&setup)?;
    hold(&mut crowd, &mut setup, window)?;
    let [wall, cpu, _] = clock.passed(&setup)?;
    let (idle, before) = (cpu / wall, crowd.seen().latency.quantiles());

    crowd.restart();
    let clock = Clock::now(&setup)?;
    let mut comers = Comers::new(nobodys)?;
    for n in 0..args.rate * args.seconds {
        comers.call(clock.at + Duration::from_secs(1) * n / args.rate)?;
    }
    let deadline = clock.at + window + DRAIN_WITHIN;
    crowd.hold(|crowd| {
        comers.look();
        check(crowd, &mut setup)?;
        Ok(comers.under_way() > 0 && Instant::now() < deadline)
    })?;
    let [wall, cpu, load] = clock.passed(&setup)?;
    let during = crowd.seen().latency.quantiles();
    let (offered, played) = (comers.begun, comers.played);
    let time = comers.times.quantiles();
    let error = comers.error.take();

    let clock = Clock::now(&setup)?;
    crowd.hold(|crowd| {
        check(crowd, &mut setup)?;
        comers.look();
        while comers.under_way() < AT_A_TIME as u64 {
            comers.call(Instant::now())?;
        }
        Ok(clock.at.elapsed() < FLAT_OUT)
    })?;
    let flat_out = clock.passed(&setup)?;
    let closed = crowd.fleet.members().iter().filter(|player| !player.is_open()).count();
    Ok(Accepts {
        offered,
        played,
        error,
        time,
        cpu_us_per_connect: (cpu - idle * wall).max(0.0) * 1e6 / float(played.max(1)),
        players_p99_before_ms: before.p99_ms,
        players_p99_during_ms: during.p99_ms,
        closed,
        load_cpu_percent: load / wall * 100.0,
        flat_out: float(comers.played - played) / flat_out[0],
        flat_out_cpu_percent: flat_out[1] / flat_out[0] * 100.0,
        flat_out_load_cpu_percent: flat_out[2] / flat_out[0] * 100.0,
    })
}

/// Has clients come, and waits until all are there.
fn gather(crowd: &mut Crowd, setup: &mut Setup, role: Role, targets: &[Arc<Target>]) -> Result<()> {
    crowd.call(role, targets, Some(RAMP))?;
    let deadline = Instant::now() + JOIN_WITHIN;
    crowd.hold(|crowd| {
        setup.check()?;
        crowd.check()?;
        if Instant::now() > deadline {
            bail!("not all of {} joined in {JOIN_WITHIN:?}", targets.len());
        }
        Ok(crowd.count(State::Joining) > 0)
    })
}

fn hold(crowd: &mut Crowd, setup: &mut Setup, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    crowd.hold(|crowd| {
        check(crowd, setup)?;
        Ok(Instant::now() < end)
    })
}

fn check(crowd: &Crowd, setup: &mut Setup) -> Result<()> {
    setup.check()?;
    crowd.check()
}
