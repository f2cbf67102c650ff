//! Players that do not keep up beside those that do: what it costs the others, the server's memory
//! and the kernel's, and what becomes of them.
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use forwarder::rtmp::flv;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::status::{ClientPage, ClientStatus};
use serde::Serialize;
use toml::Table;

use super::failover::url;
use super::{Cores, source};
use crate::cluster::{self, Ports, Server};
use crate::load::crowd::{Crowd, State};
use crate::load::float;
use crate::load::guest::{Role, Target};
use crate::load::histogram::Quantiles;
use crate::load::link::Link;
use crate::load::stream::Stamp;
use crate::load::tally;
use crate::{client, http, net, process, release};

/// Players that parse, and keep up.
const PROBES: usize = 3;
/// Slow players that parse.
const PARSERS: usize = 4;
/// Who comes in a second.
const RAMP: f64 = 1000.0;
/// From the last join to the window.
const SETTLE: Duration = Duration::from_secs(2);
/// All must have joined by then.
const JOIN_WITHIN: Duration = Duration::from_secs(60);
/// Receive buffer of slow players that parse, bytes.
const SMALL_BUFFER: usize = 32 << 10;
/// Time between two looks at memory.
const LOOK: Duration = Duration::from_millis(500);
/// Below this share of what was published a row is void.
const MIN_DELIVERED: f64 = 0.98;
/// Files open besides the players' sockets.
const OTHER_FILES: usize = 200;

/// How many, of what, how long.
#[derive(clap::Args)]
pub struct Args {
    /// Players in all.
    #[arg(long, default_value_t = 3000)]
    players: usize,
    /// Those of them that read at half the bitrate.
    #[arg(long, default_value_t = 500)]
    slow: usize,
    /// Those of them that read nothing.
    #[arg(long, default_value_t = 100)]
    stuck: usize,
    /// Bits a second.
    #[arg(long, default_value_t = 500_000)]
    bitrate: u64,
    /// Length of the window, after everybody has joined, seconds.
    #[arg(long, default_value_t = 35)]
    seconds: u64,
    /// `queue_length` of the server, seconds.
    #[arg(long, default_value_t = 5)]
    queue: u64,
    /// `send_buffer` of the server, bytes; else the kernel chooses, and a slow player's queue is full
    /// only after megabytes.
    #[arg(long)]
    send_buffer: Option<usize>,
}

/// One turn.
#[derive(Debug, Serialize)]
struct Row {
    round: u32,
    /// Players that do not keep up.
    slow: usize,
    stuck: usize,
    /// Of the rest, of what was published: mean, worst.
    delivered: f64,
    delivered_worst: f64,
    /// Stamped messages that the probes missed.
    gaps: u64,
    latency: Quantiles,
    /// Of the server, percent of one core.
    cpu_percent: f64,
    /// Of publisher and players.
    load_cpu_percent: f64,
    /// Of the server, before anybody came, before the window, and at most in it, bytes.
    rss: [u64; 3],
    /// Of all TCP sockets of the machine, the same.
    tcp: [u64; 3],
    /// Skips of each slow player that the API tells: least, mean, most.
    skips: (u64, f64, u64),
    /// Skips of the rest.
    skips_of_rest: u64,
    /// Stuck players that were closed.
    stuck_closed: usize,
    parsers: Parsed,
    /// Time to list everybody over the API, milliseconds.
    listing_ms: f64,
}

/// What slow players that parse saw.
#[derive(Clone, Copy, Debug, Default, Serialize)]
struct Parsed {
    /// Runs of messages that were left out.
    gaps: u64,
    /// Those of them that did not end at a keyframe.
    elsewhere: u64,
    /// Messages with other bytes than were sent.
    damaged: u64,
}

/// Runs the command.
pub fn run(args: &Args, rounds: u32, json: Option<&Path>) -> Result<()> {
    if args.slow + args.stuck >= args.players {
        bail!(
            "{} of {} players are to keep up",
            args.players - args.slow - args.stuck,
            args.players
        );
    }
    release::ensure()?;
    cluster::build()?;
    process::catch_interrupt()?;
    let limit = process::raise_open_files()?;
    if (args.players + OTHER_FILES) as u64 > limit {
        bail!("{} players, and at most {limit} files may be open", args.players);
    }
    let cores = Cores::pick()?;
    println!(
        "{:<6}{:>7}{:>7}{:>11}{:>8}{:>6}{:>9}{:>9}{:>8}{:>8}{:>10}{:>10}{:>18}{:>8}{:>16}{:>9}",
        "round",
        "slow",
        "stuck",
        "delivered",
        "worst",
        "gaps",
        "p50 ms",
        "p99 ms",
        "cpu %",
        "load %",
        "RSS +MiB",
        "TCP +MiB",
        "skips",
        "closed",
        "parsed gaps/bad",
        "list ms"
    );
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for (slow, stuck) in [(0, 0), (args.slow, args.stuck)] {
            let row = measure(args, slow, stuck, round, cores)?;
            row.print();
            rows.push(row);
        }
        if let [.., without, with] = rows.as_slice() {
            println!(
                "p99 of the rest with slow players / without: {:.2}, p50: {:.2}",
                with.latency.p99_ms / without.latency.p99_ms,
                with.latency.p50_ms / without.latency.p50_ms
            );
        }
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
        let [_, rss, most_rss] = self.rss;
        let [_, tcp, most_tcp] = self.tcp;
        let grown = |most: u64, before: u64| float(most.saturating_sub(before)) / 1_048_576.0;
        let (least, mean, most) = self.skips;
        println!(
            "{:<6}{:>7}{:>7}{:>11.4}{:>8.4}{:>6}{:>9.2}{:>9.2}{:>8.1}{:>8.1}{:>10.1}{:>10.1}{:>18}{:>8}{:>16}{:>9.1}",
            self.round,
            self.slow,
            self.stuck,
            self.delivered,
            self.delivered_worst,
            self.gaps,
            self.latency.p50_ms,
            self.latency.p99_ms,
            self.cpu_percent,
            self.load_cpu_percent,
            grown(most_rss, rss),
            grown(most_tcp, tcp),
            format!("{least}/{mean:.1}/{most}"),
            self.stuck_closed,
            format!("{}/{}", self.parsers.gaps, self.parsers.elsewhere + self.parsers.damaged),
            self.listing_ms,
        );
    }

    /// Why it does not count, if so.
    fn void(&self) -> Option<String> {
        let why = if self.delivered < MIN_DELIVERED || self.delivered_worst < MIN_DELIVERED {
            format!("the rest got {:.4}, worst {:.4}", self.delivered, self.delivered_worst)
        } else if self.gaps > 0 || self.skips_of_rest > 0 {
            format!("the rest missed {} messages, and skipped {}", self.gaps, self.skips_of_rest)
        } else if self.parsers.elsewhere + self.parsers.damaged > 0 {
            format!("a slow player went on elsewhere than at a keyframe: {:?}", self.parsers)
        } else if self.slow > 0 && (self.skips.0 == 0 || self.parsers.gaps == 0) {
            "a slow player never skipped: the window is too short".to_owned()
        } else {
            return None;
        };
        Some(format!("round {} with {} slow: {why}", self.round, self.slow))
    }
}

/// One turn: a server and a crowd, all new.
fn measure(args: &Args, slow: usize, stuck: usize, round: u32, cores: Cores) -> Result<Row> {
    let mut server = server(args, cores)?;
    let begin = Memory::take(&server)?;
    let url = url(&server)?;
    let target = Arc::new(Target { address: client::resolve(&url)?, url, stream: 0 });
    let mut crowd = Crowd::new(source::shape(25, 50, args.bitrate), 1)?;
    let rest = args.players - args.slow - args.stuck;
    // One kind after the other, so that the API, which has them in the order in which they came,
    // tells which is which.
    for (role, count) in [
        (Role::Publisher, 1),
        (Role::Probe, PROBES),
        (Role::Player, rest),
        (Role::Slow(args.bitrate / 2), slow),
        (Role::Stuck, stuck),
    ] {
        crowd.call(role, &vec![Arc::clone(&target); count], Some(RAMP))?;
        gather(&mut crowd, &mut server)?;
    }
    let parsers: Vec<_> = (0..if slow > 0 { PARSERS } else { 0 })
        .map(|_| Parser::start(Arc::clone(&target), args.bitrate / 2))
        .collect();
    let settled = Instant::now() + SETTLE;
    crowd.hold(|_| Ok(Instant::now() < settled))?;

    crowd.restart();
    let (start, cpu, load) = (Instant::now(), cpu_of(&server)?, load_cpu()?);
    let before = Memory::take(&server)?;
    let (mut most, mut looked) = (before, start);
    let end = start + Duration::from_secs(args.seconds);
    crowd.hold(|_| {
        server.process.check()?;
        if looked.elapsed() >= LOOK {
            looked = Instant::now();
            most.raise(Memory::take(&server)?);
        }
        Ok(Instant::now() < end)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let cpu_percent = (cpu_of(&server)? - cpu).as_secs_f64() / elapsed * 100.0;
    let load_cpu_percent = (load_cpu()? - load).as_secs_f64() / elapsed * 100.0;
    let seen = crowd.seen();
    let asked = Instant::now();
    let page: ClientPage = http::get_json(server.api, "/api/v1/clients?count=100000")?;
    let listing_ms = asked.elapsed().as_secs_f64() * 1e3;
    crowd.publishers.hush();
    crowd.drain()?;
    let delivery = tally::delivery(&crowd, &crowd.seen()).context("the probes saw nothing")?;
    let (rest, slow_ones) = page.clients.split_at((1 + PROBES + rest).min(page.clients.len()));
    let mut parsed = Parsed::default();
    for parser in parsers {
        parsed.add(parser.finish()?);
    }
    let closed = |member: &&_| is_closed_stuck(member);
    Ok(Row {
        round,
        slow,
        stuck,
        delivered: delivery.mean,
        delivered_worst: delivery.worst,
        gaps: seen.gaps,
        latency: seen.latency.quantiles(),
        cpu_percent,
        load_cpu_percent,
        rss: [begin.rss, before.rss, most.rss],
        tcp: [begin.tcp, before.tcp, most.tcp],
        skips: skips(slow_ones.get(..slow).unwrap_or_default()),
        skips_of_rest: rest.iter().map(|client| client.skips).sum(),
        stuck_closed: crowd.fleet.members().iter().filter(closed).count(),
        parsers: parsed,
        listing_ms,
    })
}

fn is_closed_stuck(member: &crate::load::fleet::Member) -> bool {
    member.role == Role::Stuck && !member.is_open()
}

/// Least, mean and most.
fn skips(slow: &[ClientStatus]) -> (u64, f64, u64) {
    let each = || slow.iter().map(|client| client.skips);
    let mean = float(each().sum()) / float(slow.len().max(1) as u64);
    (each().min().unwrap_or(0), mean, each().max().unwrap_or(0))
}

fn server(args: &Args, cores: Cores) -> Result<Server> {
    let [listen, api] = net::free_ports(2)?[..] else { bail!("no free ports") };
    let buffer = args.send_buffer.map(|bytes| format!("send_buffer = {bytes}\n"));
    let config = format!(
        "max_connections = {}\nthreads = 1\n[[vhost]]\nname = \"__defaultVhost__\"\n\
         [vhost.play]\nqueue_length = \"{}s\"\n{}",
        args.players + OTHER_FILES,
        args.queue,
        buffer.unwrap_or_default()
    );
    let folder = cluster::target().join("bench");
    let ports = Ports { listen, api, forward: &[] };
    Server::start("slow", config.parse::<Table>()?, ports, &folder, cores.server)
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

fn cpu_of(server: &Server) -> Result<Duration> {
    let (user, system) = server.process.cpu()?;
    Ok(user + system)
}

fn load_cpu() -> Result<Duration> {
    let (user, system) = process::cpu("self")?;
    Ok(user + system)
}

/// At one moment, bytes.
#[derive(Clone, Copy)]
struct Memory {
    rss: u64,
    tcp: u64,
}

impl Memory {
    fn take(server: &Server) -> Result<Self> {
        let sockets = fs::read_to_string("/proc/net/sockstat")?;
        let tcp = sockets.lines().find_map(|line| line.strip_prefix("TCP: "));
        let pages = tcp.and_then(|tcp| tcp.rsplit_once(' ')).context("no TCP in sockstat")?.1;
        Ok(Self { rss: server.process.rss()?, tcp: pages.parse::<u64>()? << 12 })
    }

    fn raise(&mut self, now: Self) {
        self.rss = self.rss.max(now.rss);
        self.tcp = self.tcp.max(now.tcp);
    }
}

/// A slow player that parses, until finished.
struct Parser {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<Parsed>>,
}

impl Parser {
    fn start(target: Arc<Target>, bps: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        Self { stop, thread: thread::spawn(move || parse(&target, bps, &told)) }
    }

    fn finish(self) -> Result<Parsed> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a player panicked"))?
    }
}

/// Reads at `bps` until told to stop.
fn parse(target: &Target, bps: u64, stop: &AtomicBool) -> Result<Parsed> {
    let mut link = Link::dial(target.address, &target.url, Goal::Play, Some(SMALL_BUFFER))?;
    let (mut parsed, mut next) = (Parsed::default(), None);
    let (begun, mut buffer, mut read) = (Instant::now(), [0; 4096], 0);
    while !stop.load(Ordering::Relaxed) {
        link.flush()?;
        if begun.elapsed().as_secs_f64() * bps as f64 >= float(read) * 8.0 {
            read += link.receive(&mut buffer, |event, _| {
                if let ClientEvent::Media(message) = event
                    && message.kind == MediaKind::Video
                {
                    parsed.note(message.payload, &mut next);
                }
            })? as u64;
        }
        thread::sleep(Duration::from_millis(5));
    }
    Ok(parsed)
}

impl Parsed {
    /// `next`: the number of the video message that follows without a gap.
    fn note(&mut self, payload: &[u8], next: &mut Option<u64>) {
        let Some(stamp) = Stamp::parse(payload) else { return };
        self.damaged += u64::from(!stamp.is_whole);
        let is_gap = next.replace(stamp.number + 1).is_some_and(|next| next != stamp.number);
        self.gaps += u64::from(is_gap);
        self.elsewhere += u64::from(is_gap && !flv::video(payload).keyframe);
    }

    fn add(&mut self, more: Self) {
        self.gaps += more.gaps;
        self.elsewhere += more.elsewhere;
        self.damaged += more.damaged;
    }
}

#[cfg(test)]
mod tests {
    use forwarder::rtmp::message::MediaKind;

    use super::*;
    use crate::load::stream::Source;

    #[test]
    fn a_gap_that_ends_elsewhere_than_at_a_keyframe_is_seen() {
        let mut stream = Source::new(source::shape(25, 10, 500_000), "a");
        let mut frames = Vec::new();
        while frames.len() < 30 {
            let (kind, _, body) = stream.next_message();
            if kind == MediaKind::Video {
                frames.push(body.to_vec());
            }
        }
        let (mut parsed, mut next) = (Parsed::default(), None);
        for n in [0, 1, 2, 10, 11, 15, 16] {
            parsed.note(&frames[n], &mut next);
        }
        assert_eq!((parsed.gaps, parsed.elsewhere, parsed.damaged), (2, 1, 0));
    }
}
