//! One load, from the first connect to the verdict.
use std::fs;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;

use super::args::{Args, Targets};
use super::cost::{Cost, Spent};
use super::crowd::{Crowd, State};
use super::ffmpeg::{self, Ffmpegs};
use super::float;
use super::guest::Role;
use super::report::{Load, Report};
use super::tally;
use crate::{process, release};

/// How long joining may take beyond the ramp.
const JOIN_WITHIN: Duration = Duration::from_secs(30);
/// How long ffmpegs may take to move.
const FFMPEG_WITHIN: Duration = Duration::from_secs(30);
/// From the last join to the window.
const SETTLE: Duration = Duration::from_millis(500);
/// Beyond the window, so that no ffmpeg outlives us by much even if we are killed.
const FFMPEG_MARGIN: u64 = 120;

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    if !args.as_is {
        release::ensure()?;
    }
    process::catch_interrupt()?;
    args.check(process::raise_open_files()?)?;
    let targets = args.targets()?;
    let report = load(args, &targets);
    ffmpeg::clean_up();
    let report = report?;
    print!("\n{}", report.table());
    if let Some(path) = &args.json {
        fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    process::check_interrupt()?;
    if !report.failures.is_empty() {
        bail!("{}", report.failures.join("\n       "));
    }
    Ok(())
}

fn load(args: &Args, targets: &Targets) -> Result<Report> {
    let mut crowd = Crowd::new(args.shape(), args.publishers)?;
    crowd.reconnect = args.reconnect;
    let mut ffmpegs = Ffmpegs::default();
    let mut progress = Progress::new();
    let begun = match gather(args, targets, &mut crowd, &mut ffmpegs, &mut progress) {
        Ok(begun) => begun,
        // What there is is told all the same.
        Err(_) if process::interrupted() => Instant::now(),
        Err(error) => return Err(error),
    };
    crowd.restart();
    ffmpegs.restart();
    let published = tally::published(&crowd);
    let (start, cost) = (Instant::now(), Cost::now()?);
    progress.begin(&cost, &crowd);
    let end = start + Duration::from_secs(args.seconds);
    let held = crowd.hold(|crowd| {
        progress.show("", crowd)?;
        let is_lively = crowd.count(State::Gone) < crowd.slots().len() || ffmpegs.count() > 0;
        Ok(Instant::now() < end && is_lively)
    });
    held.or_else(unless_interrupted)?;

    let spent = cost.spent()?;
    let mut report =
        Report { urls: args.urls.clone(), seconds: spent.wall.as_secs_f64(), ..Report::default() };
    report.groups = tally::groups(&crowd, &published);
    report.join = tally::join(&crowd, begun);
    report.probes = tally::probes(&crowd);
    report.lateness = (args.publishers > 0).then(|| crowd.publishers.lateness().quantiles());
    report.ffmpeg = ffmpegs.went();
    let came = crowd.slots().iter().filter(|slot| slot.joins > 0).count();
    report.load = load_of(&spent, came);
    drop(ffmpegs);
    // What is under way when the window ends is not lost: it comes while nothing new is sent.
    crowd.publishers.hush();
    crowd.drain().or_else(unless_interrupted)?;
    report.delivery = tally::delivery(&crowd, &crowd.seen());
    report.judge();
    Ok(report)
}

/// Has everybody come; gives when players began to.
fn gather(
    args: &Args,
    targets: &Targets,
    crowd: &mut Crowd,
    ffmpegs: &mut Ffmpegs,
    progress: &mut Progress,
) -> Result<Instant> {
    let ramp = Some(f64::from(args.ramp));
    let lasts = args.seconds + FFMPEG_MARGIN;
    crowd.call(Role::Publisher, &targets.publish, ramp)?;
    wait_joined(args, crowd, progress)?;
    ffmpegs.publish(&targets.ffmpeg_publish, lasts)?;
    wait_moving(crowd, ffmpegs, progress)?;

    let begun = Instant::now();
    let ramp = ramp.filter(|_| !args.burst);
    crowd.call(Role::Probe, &targets.play(args.all_probes()), ramp)?;
    crowd.call(Role::Player, &targets.play(args.players), ramp)?;
    for slow in &args.slow {
        crowd.call(Role::Slow(slow.bps), &targets.play(slow.players), ramp)?;
    }
    crowd.call(Role::Stuck, &targets.play(args.stuck), ramp)?;
    wait_joined(args, crowd, progress)?;
    let urls: Vec<RtmpUrl> =
        targets.play(args.ffmpeg_players).iter().map(|target| target.url.clone()).collect();
    ffmpegs.play(&urls, lasts)?;
    wait_moving(crowd, ffmpegs, progress)?;
    let settled = Instant::now() + SETTLE;
    crowd.hold(|_| Ok(Instant::now() < settled))?;
    Ok(begun)
}

/// Until nobody is on the way any more. Who does not come in time is told at the end.
fn wait_joined(args: &Args, crowd: &mut Crowd, progress: &mut Progress) -> Result<()> {
    let all = u32::try_from(crowd.slots().len())?;
    let ramp = Duration::from_secs(1) / args.ramp * all;
    let deadline = Instant::now() + ramp + JOIN_WITHIN;
    crowd.hold(|crowd| {
        progress.show("joining ", crowd)?;
        Ok(crowd.count(State::Joining) > 0 && Instant::now() < deadline)
    })
}

/// Until all ffmpegs have written a frame, or ended. Which does not is told at the end.
fn wait_moving(crowd: &mut Crowd, ffmpegs: &mut Ffmpegs, progress: &mut Progress) -> Result<()> {
    let deadline = Instant::now() + FFMPEG_WITHIN;
    crowd.hold(|crowd| {
        progress.show("ffmpeg ", crowd)?;
        Ok(ffmpegs.is_waiting() && Instant::now() < deadline)
    })
}

fn unless_interrupted(error: anyhow::Error) -> Result<()> {
    if process::interrupted() { Ok(()) } else { Err(error) }
}

fn load_of(spent: &Spent, clients: usize) -> Load {
    let client_seconds = float(clients as u64) * spent.wall.as_secs_f64();
    Load {
        cpu_percent: spent.share() * 100.0,
        cpu_us_per_client_second: spent.cpu.as_secs_f64() * 1e6 / client_seconds.max(1.0),
        busiest: spent.busiest.0.clone(),
        busiest_percent: spent.busiest.1 * 100.0,
        full: spent.remark(),
    }
}

/// One line a second: rewritten on a terminal, a new one elsewhere.
struct Progress {
    is_terminal: bool,
    start: Instant,
    shown: Option<Instant>,
    cpu: Duration,
    bytes: u64,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { is_terminal, start: Instant::now(), shown: None, cpu: Duration::ZERO, bytes: 0 }
    }

    /// Counts seconds from now on.
    fn begin(&mut self, cost: &Cost, crowd: &Crowd) {
        (self.start, self.shown) = (Instant::now(), None);
        (self.cpu, self.bytes) = (cost.cpu(), tally::bytes_of_all(crowd));
    }

    fn show(&mut self, phase: &str, crowd: &Crowd) -> Result<()> {
        let last = self.shown.unwrap_or(self.start);
        let passed = last.elapsed().as_secs_f64();
        if passed < 1.0 {
            return Ok(());
        }
        let (user, system) = process::cpu("self")?;
        let cpu = user + system;
        let percent = cpu.saturating_sub(self.cpu).as_secs_f64() / passed * 100.0;
        let bytes = tally::bytes_of_all(crowd);
        let rate = float(bytes.saturating_sub(self.bytes)) * 8.0 / 1e6 / passed;
        (self.shown, self.cpu, self.bytes) = (Some(Instant::now()), cpu, bytes);
        let line = format!(
            "{phase}{:>4} s  {}  {rate:.1} Mbit/s  cpu {percent:.0} %",
            self.start.elapsed().as_secs(),
            tally::line(crowd),
        );
        let mut out = std::io::stdout();
        if self.is_terminal {
            // The cursor stays on the line; what is longer from before is erased.
            write!(out, "\r{line}\x1b[K")?;
        } else {
            writeln!(out, "{line}")?;
        }
        Ok(out.flush()?)
    }
}
