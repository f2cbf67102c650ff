//! A storm of joins: thousands come to a stream at once while others play it.
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;
use toml::Table;

use super::failover::url;
use super::{Cores, priority, source};
use crate::cluster::{self, Ports, Server};
use crate::load::crowd::{Crowd, Joins, State};
use crate::load::float;
use crate::load::guest::{Role, Target};
use crate::load::histogram::Quantiles;
use crate::load::tally;
use crate::{client, net, process, release};

/// Players that parse, and are there before.
const PROBES: usize = 8;
/// Who comes in a second before the storm.
const RAMP: f64 = 1000.0;
/// How long all play before the first window, and after the storm before the last.
const SETTLE: Duration = Duration::from_secs(2);
/// Length of the windows before and after.
const CALM: Duration = Duration::from_secs(6);
/// All must have joined by then.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// Below this share of what was published a row is void.
const MIN_DELIVERED: f64 = 0.98;
/// Files open besides the players' sockets.
const OTHER_FILES: usize = 200;

/// How many, of what, how fast.
#[derive(clap::Args)]
pub struct Args {
    /// Players that are there before.
    #[arg(long, default_value_t = 1000)]
    players: usize,
    /// Who comes in the storm.
    #[arg(long, default_value_t = 3000)]
    joiners: usize,
    /// Within so many seconds; 0: all at once.
    #[arg(long, default_value_t = 3.0)]
    within: f64,
    /// Bits a second.
    #[arg(long, default_value_t = 1_000_000)]
    bitrate: u64,
    /// Frames from keyframe to keyframe, 25 a second.
    #[arg(long, default_value_t = 25)]
    gop: u64,
}

/// One turn.
#[derive(Debug, Serialize)]
struct Row {
    round: u32,
    /// Of players that were there before: before, during and after the storm.
    latency: [Quantiles; 3],
    /// From the first connect of the storm until the server had agreed to all, seconds.
    agreed_s: f64,
    /// The same until all had a keyframe.
    keyframe_s: f64,
    /// From each one's connect to its first keyframe.
    keyframe: Quantiles,
    /// Joiners that began with a keyframe, and that began with another frame.
    keyframe_first: u64,
    other_first: u64,
    /// Of the server before, during and after, percent of one core.
    cpu_percent: [f64; 3],
    /// Of publisher and players, the same.
    load_cpu_percent: [f64; 3],
    /// Stamped messages that those who were there before missed.
    gaps: u64,
    /// Of what was published, of all players.
    delivered: f64,
    delivered_worst: f64,
    /// Of the server: before the storm and after it, bytes.
    rss: [u64; 2],
}

/// Runs the command.
pub fn run(args: &Args, rounds: u32, json: Option<&Path>) -> Result<()> {
    release::ensure()?;
    cluster::build()?;
    process::catch_interrupt()?;
    let limit = process::raise_open_files()?;
    let players = args.players + args.joiners;
    if (players + OTHER_FILES) as u64 > limit {
        bail!("{players} players, and at most {limit} files may be open");
    }
    let cores = Cores::pick()?;
    println!(
        "{:<6}{:>22}{:>25}{:>9}{:>11}{:>16}{:>12}{:>21}{:>18}{:>6}{:>11}{:>8}",
        "round",
        "p50 before/during/after",
        "p99 before/during/after",
        "agreed s",
        "keyframe s",
        "keyframe p50/p99",
        "first/other",
        "cpu %",
        "load %",
        "gaps",
        "delivered",
        "worst"
    );
    let mut rows = Vec::new();
    for round in 1..=rounds {
        let row = measure(args, round, cores)?;
        row.print();
        rows.push(row);
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let bad = rows.iter().filter_map(Row::void).collect::<Vec<_>>();
    if bad.is_empty() { Ok(()) } else { bail!("{}", bad.join("\n")) }
}

impl Row {
    fn print(&self) {
        let three = |of: [f64; 3]| of.map(|one| format!("{one:.1}")).join("/");
        println!(
            "{:<6}{:>22}{:>25}{:>9.2}{:>11.2}{:>16}{:>12}{:>21}{:>18}{:>6}{:>11.4}{:>8.4}",
            self.round,
            three(self.latency.map(|latency| latency.p50_ms)),
            three(self.latency.map(|latency| latency.p99_ms)),
            self.agreed_s,
            self.keyframe_s,
            format!("{:.1}/{:.1}", self.keyframe.p50_ms, self.keyframe.p99_ms),
            format!("{}/{}", self.keyframe_first, self.other_first),
            three(self.cpu_percent),
            three(self.load_cpu_percent),
            self.gaps,
            self.delivered,
            self.delivered_worst,
        );
        let [before, during, _] = self.latency;
        println!("p99 during the storm / before: {:.2}", during.p99_ms / before.p99_ms);
    }

    /// Why it does not count, if so.
    fn void(&self) -> Option<String> {
        let why = if self.delivered_worst < MIN_DELIVERED {
            format!("delivered {:.4}, worst {:.4}", self.delivered, self.delivered_worst)
        } else if self.gaps > 0 {
            format!("{} messages were missed", self.gaps)
        } else if self.other_first > 0 {
            format!("{} did not begin with a keyframe", self.other_first)
        } else {
            return None;
        };
        Some(format!("round {}: {why}", self.round))
    }
}

/// One turn: a server and a crowd, all new.
fn measure(args: &Args, round: u32, cores: Cores) -> Result<Row> {
    let mut server = server(args, cores)?;
    let url = url(&server)?;
    let target = Arc::new(Target { address: client::resolve(&url)?, url, stream: 0 });
    let mut crowd = Crowd::new(source::shape(25, args.gop, args.bitrate), 1)?;
    for (role, count) in [(Role::Publisher, 1), (Role::Probe, PROBES), (Role::Player, args.players)]
    {
        crowd.call(role, &vec![Arc::clone(&target); count], Some(RAMP))?;
        gather(&mut crowd, &mut server)?;
        priority::raise()?;
    }
    rest(&mut crowd, &mut server, SETTLE)?;
    let mut windows = Vec::new();
    windows.push(window(&mut crowd, &mut server, |crowd, server| rest(crowd, server, CALM))?);
    let rss = server.process.rss()?;

    crowd.joins = Joins::default();
    let ramp = (args.within > 0.0).then(|| float(args.joiners as u64) / args.within);
    let begun = Instant::now();
    windows.push(window(&mut crowd, &mut server, |crowd, server| {
        crowd.call(Role::Player, &vec![Arc::clone(&target); args.joiners], ramp)?;
        gather(crowd, server)
    })?);
    let join = tally::join(&crowd, begun).context("nobody joined")?;

    rest(&mut crowd, &mut server, SETTLE)?;
    windows.push(window(&mut crowd, &mut server, |crowd, server| rest(crowd, server, CALM))?);
    let rss = [rss, server.process.rss()?];
    crowd.publishers.hush();
    crowd.drain()?;
    let delivery = tally::delivery(&crowd, &crowd.seen()).context("the probes saw nothing")?;
    let [before, during, after] = &windows[..] else { bail!("three windows") };
    let all = [before, during, after];
    Ok(Row {
        round,
        latency: all.map(|window| window.latency),
        agreed_s: join.started_s,
        keyframe_s: join.keyframe_s,
        keyframe: join.keyframe,
        keyframe_first: join.keyframe_first,
        other_first: join.other_first,
        cpu_percent: all.map(|window| window.cpu_percent),
        load_cpu_percent: all.map(|window| window.load_cpu_percent),
        gaps: all.iter().map(|window| window.gaps).sum(),
        delivered: delivery.mean,
        delivered_worst: delivery.worst,
        rss,
    })
}

struct Window {
    latency: Quantiles,
    gaps: u64,
    cpu_percent: f64,
    load_cpu_percent: f64,
}

/// What happens while `what` does.
fn window(
    crowd: &mut Crowd,
    server: &mut Server,
    what: impl FnOnce(&mut Crowd, &mut Server) -> Result<()>,
) -> Result<Window> {
    let sum = |(user, system): (Duration, Duration)| user + system;
    crowd.restart();
    let (start, cpu, load) =
        (Instant::now(), sum(server.process.cpu()?), sum(process::cpu("self")?));
    what(crowd, server)?;
    let seen = crowd.seen();
    let elapsed = start.elapsed().as_secs_f64();
    let percent = |now: Duration, before: Duration| (now - before).as_secs_f64() / elapsed * 100.0;
    Ok(Window {
        latency: seen.latency.quantiles(),
        gaps: seen.gaps,
        cpu_percent: percent(sum(server.process.cpu()?), cpu),
        load_cpu_percent: percent(sum(process::cpu("self")?), load),
    })
}

fn rest(crowd: &mut Crowd, server: &mut Server, time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    crowd.hold(|_| {
        server.process.check()?;
        Ok(Instant::now() < end)
    })
}

/// Until all that were called are there.
fn gather(crowd: &mut Crowd, server: &mut Server) -> Result<()> {
    let deadline = Instant::now() + JOIN_WITHIN;
    crowd.hold(|crowd| {
        server.process.check()?;
        crowd.check()?;
        let joining = crowd.count(State::Joining);
        if Instant::now() > deadline {
            bail!("{joining} did not join in {JOIN_WITHIN:?}");
        }
        Ok(joining > 0)
    })
}

fn server(args: &Args, cores: Cores) -> Result<Server> {
    let [listen, api] = net::free_ports(2)?[..] else { bail!("no free ports") };
    let most = args.players + args.joiners + OTHER_FILES;
    let config = format!("max_connections = {most}\nthreads = 1\n");
    let folder = cluster::target().join("bench");
    let ports = Ports { listen, api, forward: &[] };
    Server::start("storm", config.parse::<Table>()?, ports, &folder, cores.server)
}
