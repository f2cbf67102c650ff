//! 1:1 legs: what a hop costs by each way of carrying bytes, beside no hop and beside HAProxy.
//!
//! The relay has one core, source and sink together the other. What a way costs is what all
//! threads spend more than without a relay, as the kernel path spends the sender's time and that
//! of kernel threads rather than the relay's.
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use forwarder::splice::{Mode, Splice};
use serde::Serialize;

use super::Cores;
use crate::process::{self, Process};
use crate::{cluster, net, release};
use load::Measured;
use page::Host;
use usage::float;

mod haproxy;
pub mod load;
mod page;
pub mod relay;
mod sink;
mod svg;
pub mod usage;

/// How long, how often, and where results go.
#[derive(clap::Args)]
pub struct Args {
    /// Length of a window.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// A tenth of the legs and windows of a second: whether it works, not what it costs.
    #[arg(long)]
    quick: bool,
    /// Write a page of Markdown there, and a plot beside it.
    #[arg(long)]
    report: Option<PathBuf>,
}

/// How bytes get from the source to the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Without a relay.
    Direct,
    /// A leg in user space that reads and writes, and follows the chunks.
    Copy,
    /// A leg in user space as it likes: splice(2) for large reads.
    Splice,
    /// A leg in the kernel.
    Kernel,
    /// A leg in the kernel that follows the chunks.
    KernelWalk,
    /// A leg that chooses.
    Auto,
    /// Somebody else's relay.
    Haproxy,
}

impl Way {
    const ALL: [Self; 7] = [
        Self::Direct,
        Self::Copy,
        Self::Splice,
        Self::Kernel,
        Self::KernelWalk,
        Self::Auto,
        Self::Haproxy,
    ];

    /// As shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Copy => "copy",
            Self::Splice => "splice(2)",
            Self::Kernel => "kernel",
            Self::KernelWalk => "kernel+walk",
            Self::Auto => "auto",
            Self::Haproxy => "HAProxy",
        }
    }

    /// Whether it is nothing without the kernel path.
    pub fn needs_kernel(self) -> bool {
        matches!(self, Self::Kernel | Self::KernelWalk)
    }
}

/// What is sent.
#[derive(Clone, Debug, Serialize)]
struct Load {
    legs: usize,
    /// Payload of a message.
    bytes: usize,
    /// Between messages of a leg; 0 is as fast as it goes.
    every_ms: u64,
}

impl Load {
    /// From small to large, not more than descriptors are there for.
    fn all(limit: u64, quick: bool) -> Vec<Self> {
        // The relay has two sockets for a leg, and a pipe where a target is slow.
        let most = usize::try_from(limit.saturating_sub(200) / 4).unwrap_or(usize::MAX).max(1);
        let load = |(legs, bytes, every_ms): (usize, usize, u64)| {
            let wanted = if quick { legs.div_ceil(10) } else { legs };
            if wanted > most {
                println!("{limit} descriptors allow {most} legs, not {wanted}");
            }
            Self { legs: wanted.min(most), bytes, every_ms }
        };
        [(1000, 2560, 40), (200, 25_600, 40), (50, 102_400, 40), (1, 65_536, 0)].map(load).into()
    }

    /// As shown.
    fn name(&self) -> String {
        let size = format!("{:.1} KB", float(self.bytes as u64) / 1024.0).replace(".0", "");
        match (self.legs, self.every_ms) {
            (legs, 0) => format!("{size} flat out, {legs} leg"),
            (legs, every) => format!("{size} / {every} ms, {legs} legs"),
        }
    }
}

/// One turn.
#[derive(Serialize)]
struct Row {
    load: String,
    way: Way,
    round: u32,
    #[serde(flatten)]
    measured: Measured,
    /// Why it does not count, if so.
    void: Option<String>,
}

impl Row {
    fn new(load: &Load, way: Way, round: u32, measured: Measured) -> Self {
        let mut row = Self { load: load.name(), way, round, measured, void: None };
        let delivered = row.delivered();
        row.void = match row.measured.broken {
            0 if delivered >= MIN_DELIVERED => None,
            0 => Some(format!("{delivered:.3} delivered")),
            n => Some(format!("{n} messages are not as they were sent")),
        };
        row
    }

    fn delivered(&self) -> f64 {
        float(self.measured.delivered) / float(self.measured.expected)
    }

    /// `ms` spent in the window, for each gigabit that arrived.
    fn per_gigabit(&self, ms: f64) -> f64 {
        ms / (self.measured.megabits / 1e3 * self.measured.window_ms / 1e3)
    }

    fn print(&self) {
        let measured = &self.measured;
        let percent = |ms: f64| ms / measured.window_ms * 100.0;
        let carried = measured.carried.map_or_else(String::new, |carried| {
            format!("  {} in the kernel, {} returns", carried.in_kernel, carried.returns)
        });
        println!(
            "{:<28}{:<12}{:>3}{:>10.4}{:>8.2}{:>8.1}{:>8.1}{:>8.1}{:>8.1}{:>9.2}{:>9.2}{carried}{}",
            self.load,
            self.way.name(),
            self.round,
            self.delivered(),
            measured.megabits / 1e3,
            percent(measured.spent.relay_ms),
            percent(measured.spent.load_ms),
            percent(measured.spent.kernel_ms),
            percent(measured.spent.busy_ms),
            measured.latency.p50_ms,
            measured.latency.p99_ms,
            self.void.as_ref().map_or_else(String::new, |why| format!("  VOID: {why}")),
        );
    }
}

/// Everything measured, as JSON.
#[derive(Serialize)]
struct Results<'a> {
    host: &'a Host,
    rows: &'a [Row],
}

/// Runs the command.
pub fn run(args: &Args, rounds: u32, json: Option<&Path>) -> Result<()> {
    release::ensure()?;
    process::catch_interrupt()?;
    let limit = process::raise_open_files()?;
    let cores = Cores::pick()?;
    let host = Host::look(args.seconds, rounds)?;
    let ways = ways();
    let window =
        if args.quick { Duration::from_secs(1) } else { Duration::from_secs(args.seconds) };
    println!(
        "{:<28}{:<12}{:>3}{:>10}{:>8}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}",
        "load",
        "way",
        "#",
        "delivered",
        "Gbit/s",
        "relay%",
        "load%",
        "kern%",
        "busy%",
        "p50 ms",
        "p99 ms",
    );
    let mut rows = Vec::new();
    for round in 1..=rounds {
        for load in Load::all(limit, args.quick) {
            for &way in &ways {
                process::check_interrupt()?;
                let measured = measure(&load, way, window, cores)
                    .with_context(|| format!("{}, {}", load.name(), way.name()))?;
                let row = Row::new(&load, way, round, measured);
                row.print();
                rows.push(row);
            }
        }
    }
    println!("\n{}", page::tables(&rows));
    if let Some(path) = json {
        let results = serde_json::to_vec_pretty(&Results { host: &host, rows: &rows })?;
        std::fs::write(path, results)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(path) = &args.report {
        page::write(path, &host, &rows)?;
    }
    let voids = rows.iter().filter_map(|row| {
        let why = row.void.as_ref()?;
        Some(format!("{}, {}, round {}: {why}", row.load, row.way.name(), row.round))
    });
    match voids.collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        voids => bail!("{}", voids.join("\n")),
    }
}

/// Those that can be measured here; says which cannot, and why.
fn ways() -> Vec<Way> {
    let mut ways = Way::ALL.to_vec();
    if let Some(why) = Splice::start(Mode::Always).why_not() {
        println!("the kernel path is left out: {why}");
        ways.retain(|way| !way.needs_kernel());
    }
    if let Err(why) = haproxy::get() {
        println!("HAProxy is left out: {why}");
        ways.retain(|way| *way != Way::Haproxy);
    }
    ways
}

/// One turn, with processes of its own.
fn measure(load: &Load, way: Way, window: Duration, cores: Cores) -> Result<Measured> {
    let [listen, sink, control] = net::free_ports(3)?[..] else { bail!("no free ports") };
    let mut relay = match way {
        Way::Direct => None,
        Way::Haproxy => Some(haproxy::start(listen, sink, load.legs, cores.server)?),
        way => Some(start_relay(way, [listen, sink, control], cores.server)?),
    };
    if let Some(relay) = &mut relay {
        net::wait_listening(relay, listen, START_WITHIN)?;
    }
    // On the load's core, as this process is.
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["bench-load", "--to", &if relay.is_some() { listen } else { sink }.to_string()])
        .args(["--sink", &sink.to_string(), "--legs", &load.legs.to_string()])
        .args(["--bytes", &load.bytes.to_string(), "--every-ms", &load.every_ms.to_string()])
        .args(["--window-ms", &window.as_millis().to_string()]);
    if let Some(relay) = &relay {
        command.args(["--relay", &relay.id().to_string()]);
        if way != Way::Haproxy {
            command.args(["--control", &control.to_string()]);
        }
    }
    let output = command.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let log = relay.as_ref().map_or_else(String::new, Process::log_tail);
        bail!("{}\n{log}", said.trim());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn start_relay(way: Way, ports: [u16; 3], core: Option<usize>) -> Result<Process> {
    let [listen, sink, control] = ports.map(|port| port.to_string());
    let name = clap::ValueEnum::to_possible_value(&way).context("a way without a name")?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["bench-relay", "--listen", &listen, "--sink", &sink, "--control", &control])
        .args(["--way", name.get_name()]);
    let log = cluster::target().join("bench/relay.log");
    Process::start("relay", command, &log, core)
}

/// The self-test of the kernel path is in it.
const START_WITHIN: Duration = Duration::from_secs(20);
/// Below this share a row is void.
const MIN_DELIVERED: f64 = 0.98;
