//! A player with a leg stops reading while others go on: what that costs the edge and the kernel, and
//! what comes of the player.
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::splice::{Mode, Splice};
use serde::Serialize;
use toml::Table;

use super::Cores;
use super::audience::{self, Audience, Viewer};
use super::failover::{edge_config, pause, status, url, wait_until};
use super::source::{self, Publisher};
use crate::cluster::{self, Ports, Server};
use crate::{net, process, release};

/// Between two looks at the figures.
const LOOK: Duration = Duration::from_millis(250);
/// How long all read before one stops, and how long that one is watched when it reads again.
const BEFORE: Duration = Duration::from_secs(4);
const AFTER: Duration = Duration::from_secs(10);

/// How long, of what.
#[derive(clap::Args)]
pub struct Args {
    /// Seconds without reading.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Bits a second.
    #[arg(long, default_value_t = 50_000_000)]
    bitrate: u64,
    /// Players that read on.
    #[arg(long, default_value_t = 3)]
    players: usize,
    /// `write_timeout` of origin and edge, seconds.
    #[arg(long, default_value_t = 120)]
    write_timeout: u64,
}

/// One turn. Bytes are the growth since before the stall, at most.
#[derive(Debug, Serialize)]
struct Row {
    path: &'static str,
    round: u32,
    /// Of the edge's process.
    rss_bytes: u64,
    /// Of all TCP sockets of the machine.
    tcp_bytes: u64,
    /// Of all that is used of the machine's memory.
    used_bytes: u64,
    /// What the edge said to wait for the player, at most.
    backlog_bytes: u64,
    /// When the player was closed, if it was.
    closed_after_s: Option<f64>,
    /// How long after it read again the player was at the live edge; `None`: it was closed.
    caught_up_after_ms: Option<f64>,
    /// Video that the player was not sent, and video that was not whole.
    missing: u64,
    damaged: u64,
    /// Of the players that read on: the longest time without media, video missing, closed.
    others_gap_ms: f64,
    others_missing: u64,
    others_closed: usize,
}

/// Runs the command.
pub fn run(args: &Args, rounds: u32, json: Option<&Path>) -> Result<()> {
    release::ensure()?;
    cluster::build()?;
    process::catch_interrupt()?;
    let cores = Cores::pick()?;
    let mut paths = vec!["user", "kernel"];
    if let Some(why) = Splice::start(Mode::Always).why_not() {
        println!("the kernel path is left out: {why}");
        paths.pop();
    }
    println!(
        "{:<8}{:>2}{:>10}{:>10}{:>10}{:>13}{:>10}{:>14}{:>9}{:>9}{:>12}{:>10}{:>9}",
        "path",
        "#",
        "RSS MiB",
        "TCP MiB",
        "used MiB",
        "backlog MiB",
        "closed s",
        "caught up ms",
        "missing",
        "damaged",
        "others' gap",
        "missing",
        "closed"
    );
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for path in &paths {
            let row = measure(args, path, round, cores).context(*path)?;
            row.print();
            rows.push(row);
        }
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    let hurt = |row: &&Row| row.others_missing > 0 || row.others_closed > 0 || row.damaged > 0;
    match rows.iter().filter(hurt).map(|row| format!("{row:?}")).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        hurt => bail!("others were disturbed, or a message was not whole:\n{}", hurt.join("\n")),
    }
}

impl Row {
    fn print(&self) {
        let mib = |bytes: u64| format!("{:.1}", float(bytes) / 1_048_576.0);
        let or_dash = |n: Option<f64>| n.map_or_else(|| "-".to_owned(), |n| format!("{n:.1}"));
        println!(
            "{:<8}{:>2}{:>10}{:>10}{:>10}{:>13}{:>10}{:>14}{:>9}{:>9}{:>12.0}{:>10}{:>9}",
            self.path,
            self.round,
            mib(self.rss_bytes),
            mib(self.tcp_bytes),
            mib(self.used_bytes),
            mib(self.backlog_bytes),
            or_dash(self.closed_after_s),
            or_dash(self.caught_up_after_ms),
            self.missing,
            self.damaged,
            self.others_gap_ms,
            self.others_missing,
            self.others_closed,
        );
    }
}

/// One turn: an origin and an edge, all new.
fn measure(args: &Args, path: &'static str, round: u32, cores: Cores) -> Result<Row> {
    let (origin, edge) = servers(args, path, cores)?;
    let shape = source::shape(25, 50, args.bitrate);
    let mut publisher = Publisher::start(&url(&origin)?, shape)?;
    let others = Audience::start(&url(&edge)?, args.players)?;
    let (mut connection, mut viewer) = audience::join(&url(&edge)?)?;
    let address = viewer.address.to_string();
    wait_until("all players are served", || {
        let legs = status(&edge)?.legs;
        Ok(legs.iter().filter(|leg| !leg.origin.is_empty()).count() == args.players + 1)
    })?;
    read(&mut connection, &mut viewer, BEFORE)?;
    viewer.restart();
    others.restart();

    let before = Figures::take(&edge)?;
    let (mut most, mut backlog, mut closed_after_s) = (before, 0, None);
    let stalled = Instant::now();
    while stalled.elapsed() < Duration::from_secs(args.seconds) {
        pause(LOOK, &mut publisher)?;
        most.raise(&Figures::take(&edge)?);
        match status(&edge)?.legs.iter().find(|leg| leg.peer == address) {
            Some(leg) => backlog = leg.backlog.max(backlog),
            None if closed_after_s.is_none() => {
                closed_after_s = Some(stalled.elapsed().as_secs_f64());
            }
            None => {}
        }
    }
    let again = Instant::now();
    let mut caught_up = None;
    while again.elapsed() < AFTER && viewer.closed.is_none() {
        publisher.check()?;
        read(&mut connection, &mut viewer, Duration::from_millis(5))?;
        if caught_up.is_none() && viewer.age < Duration::from_millis(200) {
            caught_up = Some(again.elapsed().as_secs_f64() * 1e3);
        }
    }
    let others = others.finish()?;
    let gap = others.iter().map(|viewer| viewer.longest).max().unwrap_or_default();
    Ok(Row {
        path,
        round,
        rss_bytes: most.rss.saturating_sub(before.rss),
        tcp_bytes: most.tcp.saturating_sub(before.tcp),
        used_bytes: before.available.saturating_sub(most.available),
        backlog_bytes: backlog,
        closed_after_s,
        caught_up_after_ms: caught_up.filter(|_| closed_after_s.is_none()),
        missing: viewer.missing,
        damaged: viewer.damaged,
        others_gap_ms: gap.as_secs_f64() * 1e3,
        others_missing: others.iter().map(|viewer| viewer.missing).sum(),
        others_closed: others.iter().filter(|viewer| viewer.closed.is_some()).count(),
    })
}

fn servers(args: &Args, path: &str, cores: Cores) -> Result<(Server, Server)> {
    let folder = cluster::target().join("bench");
    let [at, api, edge_at, edge_api] = net::free_ports(4)?[..] else { bail!("no free ports") };
    let timeout = format!("[vhost.play]\nwrite_timeout = \"{}s\"\n", args.write_timeout);
    let config = format!("[[vhost]]\nname = \"__defaultVhost__\"\n{timeout}");
    let ports = Ports { listen: at, api, forward: &[] };
    let origin =
        Server::start("stall-origin", config.parse::<Table>()?, ports, &folder, cores.load)?;
    let kernel = if path == "kernel" { "always" } else { "never" };
    let config = edge_config("always", kernel, &[at], &timeout);
    let ports = Ports { listen: edge_at, api: edge_api, forward: &[] };
    let edge = Server::start("stall-edge", config.parse::<Table>()?, ports, &folder, cores.server)?;
    Ok((origin, edge))
}

/// Keeps one player read for a while.
fn read(
    connection: &mut crate::client::Connection,
    viewer: &mut Viewer,
    time: Duration,
) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end && viewer.closed.is_none() {
        process::check_interrupt()?;
        audience::look(connection, viewer);
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Memory at one moment, bytes.
#[derive(Clone, Copy)]
struct Figures {
    rss: u64,
    tcp: u64,
    available: u64,
}

impl Figures {
    fn take(edge: &Server) -> Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP: "));
        let pages = tcp.and_then(|tcp| tcp.rsplit_once(' ')).context("no TCP in sockstat")?.1;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let available = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
        let available = available.and_then(|kib| kib.trim().strip_suffix(" kB"));
        Ok(Self {
            rss: edge.process.rss()?,
            tcp: pages.parse::<u64>()? << 12,
            available: available.context("no MemAvailable")?.parse::<u64>()? << 10,
        })
    }

    /// Keeps the most that was used.
    fn raise(&mut self, now: &Self) {
        self.rss = self.rss.max(now.rss);
        self.tcp = self.tcp.max(now.tcp);
        self.available = self.available.min(now.available);
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
fn float(n: u64) -> f64 {
    n as f64
}
