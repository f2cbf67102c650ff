//! An origin dies while an edge serves players from it: who notices, for how long, what is missing.
//!
//! A player's gap is the longest time between two of its messages from right before the kill on:
//! some 20 ms where nothing happens. In stream time it is the video that never came whole.
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;
use forwarder::splice::{Mode, Splice};
use forwarder::status::Snapshot;
use serde::Serialize;
use toml::Table;

use super::Cores;
use super::audience::{Audience, Viewer};
use super::report::Samples;
use super::source::{self, Publisher};
use crate::cluster::{self, Ports, Server};
use crate::load::histogram::Quantiles;
use crate::{http, net, process, release};

/// Frames a second.
const FPS: u64 = 25;
/// How long a state of servers may take to come about.
const WITHIN: Duration = Duration::from_secs(20);
/// Between the window's begin and the kill.
const BEFORE: Duration = Duration::from_millis(500);
/// Without media for so long at the end, a player has lost its stream.
const LOST: Duration = Duration::from_secs(1);

/// How many, of what, how long.
#[derive(clap::Args)]
pub struct Args {
    /// Players of the edge.
    #[arg(long, default_value_t = 200)]
    players: usize,
    /// Bits a second.
    #[arg(long, default_value_t = 500_000)]
    bitrate: u64,
    /// Frames from keyframe to keyframe, of 40 ms each.
    #[arg(long, default_value_t = 50)]
    gop: u64,
    /// Seconds to go on after the kill.
    #[arg(long, default_value_t = 6)]
    seconds: u64,
}

/// How the edge serves its players: `splice` of the edge, and `kernel`.
const WAYS: [Way; 4] = [
    Way { splice: "always", kernel: "always" },
    Way { splice: "always", kernel: "never" },
    Way { splice: "auto", kernel: "always" },
    Way { splice: "never", kernel: "never" },
];

#[derive(Clone, Copy, Debug, Serialize)]
struct Way {
    splice: &'static str,
    kernel: &'static str,
}

/// One turn.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    way: Way,
    round: u32,
    players: usize,
    gop_ms: u64,
    /// Players that another origin serves now.
    moved: usize,
    /// Players that were disconnected, or told that the stream is over.
    closed: usize,
    /// Players without media at the end.
    silent: usize,
    /// Without media, players that moved.
    gap: Quantiles,
    /// The same of those that did not.
    gap_of_others: Quantiles,
    /// Video that never came whole, players that moved.
    missing: Quantiles,
    /// Video that came again, players that moved.
    repeated: Quantiles,
    /// Video messages that were not whole.
    damaged: u64,
}

/// Runs the command.
pub fn run(args: &Args, rounds: u32, json: Option<&Path>) -> Result<()> {
    release::ensure()?;
    cluster::build()?;
    process::catch_interrupt()?;
    process::raise_open_files()?;
    let cores = Cores::pick()?;
    let mut ways = WAYS.to_vec();
    if let Some(why) = Splice::start(Mode::Always).why_not() {
        println!("the kernel path is left out: {why}");
        ways.retain(|way| way.kernel == "never");
    }
    println!(
        "times in ms, as p50/p99/max; the group of pictures is {} ms long",
        args.gop * 1000 / FPS
    );
    println!(
        "{:<8}{:<8}{:>2}{:>8}{:>7}{:>8}{:>8}{:>24}{:>8}{:>24}{:>24}{:>9}",
        "splice",
        "kernel",
        "#",
        "players",
        "moved",
        "closed",
        "silent",
        "gap",
        "others",
        "missing",
        "repeated",
        "damaged"
    );
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for way in &ways {
            let row = measure(args, *way, round, cores)
                .with_context(|| format!("splice {}, kernel {}", way.splice, way.kernel))?;
            row.print();
            rows.push(row);
        }
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let failed = rows.iter().filter(|row| row.closed + row.silent > 0 || row.moved == 0);
    match failed.map(|row| format!("{row:?}")).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        failed => bail!("players were lost, or none had to move:\n{}", failed.join("\n")),
    }
}

impl Row {
    fn print(&self) {
        let cells = |quantiles: &Quantiles| {
            let Quantiles { p50_ms, p99_ms, max_ms } = quantiles;
            format!("{p50_ms:.0}/{p99_ms:.0}/{max_ms:.0}")
        };
        let others = self.gap_of_others.max_ms;
        let others = if others.is_nan() { "-".to_owned() } else { format!("{others:.0}") };
        println!(
            "{:<8}{:<8}{:>2}{:>8}{:>7}{:>8}{:>8}{:>24}{others:>8}{:>24}{:>24}{:>9}",
            self.way.splice,
            self.way.kernel,
            self.round,
            self.players,
            self.moved,
            self.closed,
            self.silent,
            cells(&self.gap),
            cells(&self.missing),
            cells(&self.repeated),
            self.damaged,
        );
    }
}

/// One turn: a master, two slaves and the edge, all new.
fn measure(args: &Args, way: Way, round: u32, cores: Cores) -> Result<Row> {
    let mut servers = Servers::start(way, cores)?;
    let shape = source::shape(FPS, args.gop, args.bitrate);
    let mut publisher = Publisher::start(&url(&servers.master)?, shape)?;
    wait_until("the slaves have the stream", || {
        let live = |slave: &Server| {
            Ok::<_, anyhow::Error>(status(slave)?.streams.iter().any(|s| s.state == "live"))
        };
        Ok(live(&servers.slaves[0])? && live(&servers.slaves[1])?)
    })?;
    let audience = Audience::start(&url(&servers.edge)?, args.players)?;
    wait_until("all players are served", || {
        let status = status(&servers.edge)?;
        let own = status.legs.iter().filter(|leg| !leg.origin.is_empty()).count();
        Ok(own + status.pulls.iter().map(|pull| pull.players).sum::<usize>() == args.players)
    })?;
    // A whole group of pictures, so that every player has had a keyframe in its time.
    pause(Duration::from_millis(args.gop * 1000 / FPS), &mut publisher)?;
    audience.restart();
    pause(BEFORE, &mut publisher)?;
    servers.kill_busiest()?;
    pause(Duration::from_secs(args.seconds), &mut publisher)?;
    let after = status(&servers.edge)?;
    let end = Instant::now();
    let viewers = audience.finish()?;
    Ok(row(args, (way, round), &viewers, &after, end))
}

fn row(
    args: &Args,
    (way, round): (Way, u32),
    viewers: &[Viewer],
    after: &Snapshot,
    end: Instant,
) -> Row {
    let own: HashSet<&str> = after.legs.iter().map(|leg| &*leg.peer).collect();
    let moved: HashSet<&str> =
        after.legs.iter().filter(|leg| leg.connects > 1).map(|leg| &*leg.peer).collect();
    let shared_moved = after.pulls.iter().any(|pull| pull.connects > 1);
    let has_moved = |viewer: &&Viewer| {
        let address = viewer.address.to_string();
        moved.contains(&*address) || (shared_moved && !own.contains(&*address))
    };
    let (moved, others): (Vec<&Viewer>, Vec<_>) = viewers.iter().partition(has_moved);
    let quantiles = |of: &[&Viewer], value: fn(&Viewer) -> Duration| {
        let mut samples = Samples::default();
        of.iter().for_each(|viewer| samples.push(value(viewer)));
        samples.quantiles()
    };
    let closed = viewers.iter().filter(|viewer| viewer.closed.is_some()).count();
    let is_silent = |viewer: &&Viewer| end.saturating_duration_since(viewer.last) > LOST;
    let silent = viewers.iter().filter(is_silent).count();
    Row {
        way,
        round,
        players: viewers.len(),
        gop_ms: args.gop * 1000 / FPS,
        moved: moved.len(),
        closed,
        silent,
        gap: quantiles(&moved, |viewer| viewer.longest),
        gap_of_others: quantiles(&others, |viewer| viewer.longest),
        missing: quantiles(&moved, |viewer| frames(viewer.missing)),
        repeated: quantiles(&moved, |viewer| frames(viewer.repeated)),
        damaged: viewers.iter().map(|viewer| viewer.damaged).sum(),
    }
}

/// How long `n` frames last.
fn frames(n: u64) -> Duration {
    Duration::from_millis(n * 1000 / FPS)
}

struct Servers {
    master: Server,
    slaves: [Server; 2],
    edge: Server,
}

impl Servers {
    /// The edge has a core of its own.
    fn start(way: Way, cores: Cores) -> Result<Self> {
        let folder = cluster::target().join("bench");
        let ports = net::free_ports(8)?;
        let start = |name: &str, config: &str, at: usize, forward: &[u16], core| {
            let config: Table = config.parse()?;
            let ports = Ports { listen: ports[at], api: ports[at + 4], forward };
            Server::start(name, config, ports, &folder, core)
        };
        let slaves = [
            start("failover-slave1", "", 0, &[], cores.load)?,
            start("failover-slave2", "", 1, &[], cores.load)?,
        ];
        let master = start("failover-master", "", 2, &ports[..2], cores.load)?;
        let config = edge_config(way.splice, way.kernel, &ports[..2], "");
        let edge = start("failover-edge", &config, 3, &[], cores.server)?;
        Ok(Self { master, slaves, edge })
    }

    /// SIGKILL for the slave that serves most of the edge's players.
    fn kill_busiest(&mut self) -> Result<()> {
        let status = status(&self.edge)?;
        let players = |port: u16| {
            let origin = format!("127.0.0.1:{port}");
            let own = status.legs.iter().filter(|leg| leg.origin == origin).count();
            let pulls = status.pulls.iter().filter(|pull| pull.origin == origin);
            own + pulls.map(|pull| pull.players).sum::<usize>()
        };
        let second = players(self.slaves[1].port) > players(self.slaves[0].port);
        self.slaves[usize::from(second)].process.kill()
    }
}

/// An edge of `origins`, with more lines for `[vhost.edge]`.
pub fn edge_config(splice: &str, kernel: &str, origins: &[u16], more: &str) -> String {
    let origins: Vec<String> = origins.iter().map(|port| format!("\"127.0.0.1:{port}\"")).collect();
    format!(
        "kernel = \"{kernel}\"\nmax_connections = 18000\n\
         [[vhost]]\nname = \"__defaultVhost__\"\n\
         [vhost.edge]\nenabled = true\nsplice = \"{splice}\"\norigin = [{}]\n{more}",
        origins.join(", ")
    )
}

/// Where `server` has the stream.
pub fn url(server: &Server) -> Result<RtmpUrl> {
    Ok(format!("rtmp://127.0.0.1:{}/live/bench", server.port).parse()?)
}

/// What `server` says of itself.
pub fn status(server: &Server) -> Result<Snapshot> {
    http::get_json(server.api, "/api/v1/status")
}

/// Looks until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + WITHIN;
    while !condition()? {
        process::check_interrupt()?;
        if Instant::now() > deadline {
            bail!("not within {WITHIN:?}: {what}");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Lets time pass while `publisher` publishes.
pub fn pause(time: Duration, publisher: &mut Publisher) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        process::check_interrupt()?;
        publisher.check()?;
        thread::sleep(Duration::from_millis(20).min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
