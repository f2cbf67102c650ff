//! `cargo xtask bench`: what a server does to a stream, measured beside nginx-rtmp if wanted.
//!
//! Figures of a small shared machine vary by a fifth from run to run. So ours and the peer take
//! turns in one run, the server has a core of its own, nothing asserts an absolute time, and a
//! row that lost data says so.

mod accept;
mod audience;
mod failover;
pub mod floor;
mod forward;
mod join;
mod matrix;
mod players;
mod priority;
mod report;
mod servers;
mod slow;
mod source;
pub mod splice;
mod stall;
mod storm;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::Subcommand;

use crate::{cluster, process};
use servers::Kind;

/// Who runs where, so that load and server do not take each other's time.
#[derive(Clone, Copy, Default)]
struct Cores {
    /// The server under test.
    server: Option<usize>,
    /// Publisher, players, and servers that only help.
    load: Option<usize>,
}

impl Cores {
    /// The first two cores that we may use; none when there is one only.
    fn pick() -> Result<Self> {
        let picked = process::cores()?;
        let &[server, load, ..] = picked.as_slice() else {
            println!("one core only: the server shares it with the load");
            return Ok(Self::default());
        };
        process::pin(load)?;
        Ok(Self { server: Some(server), load: Some(load) })
    }
}

/// What to measure.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    bench: Option<Bench>,
    /// Another server to take turns with.
    #[arg(long, global = true, value_enum)]
    peer: Option<Peer>,
    /// Measure the peer alone, without building ours.
    #[arg(long, global = true, requires = "peer")]
    peer_only: bool,
    /// Turns for each; 1 if not said, 2 for the report.
    #[arg(long, global = true, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// Write the results there too.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Bench {
    /// All of it, beside nginx-rtmp and the raw floor, as docs/bench.md; so is no command at all.
    Report(matrix::Args),
    /// Latency from a publisher over a master and a slave to a player.
    Forward(forward::Args),
    /// Time from a TCP connect to the first complete keyframe.
    Join(join::Args),
    /// Connections that come and go, a thousand a second, beside players who shall not notice.
    Accept(accept::Args),
    /// Many players of one stream on one process: what is delivered, and what it costs.
    Players(players::Args),
    /// An origin of an edge is killed: which players notice, for how long, and what they miss.
    Failover(failover::Args),
    /// A player of an edge stops reading: what it costs, and what comes of it and of others.
    Stall(stall::Args),
    /// Players that read slowly or not at all: what they cost the others, and what comes of them.
    Slow(slow::Args),
    /// Thousands join at once while others play: what those notice, and how long it takes.
    Storm(storm::Args),
    /// 1:1 legs in user space and in the kernel, beside no relay and HAProxy: what a hop costs.
    Splice(splice::Args),
}

impl Bench {
    /// Whether `--peer` may take turns with it.
    fn has_peer(&self) -> bool {
        matches!(self, Self::Forward(_) | Self::Join(_) | Self::Players(_))
    }
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Peer {
    Nginx,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let (all, json) = (Bench::Report(matrix::Args::default()), args.json.as_deref());
    let (bench, rounds) = (args.bench.as_ref().unwrap_or(&all), args.rounds.unwrap_or(1));
    if !bench.has_peer() && args.peer.is_some() {
        bail!("nobody takes turns with this one, or all do");
    }
    match bench {
        Bench::Report(options) => return matrix::run(options, args.rounds, json),
        Bench::Splice(options) => return splice::run(options, rounds, json),
        Bench::Failover(options) => return failover::run(options, rounds, json),
        Bench::Stall(options) => return stall::run(options, rounds, json),
        Bench::Slow(options) => return slow::run(options, rounds, json),
        Bench::Storm(options) => return storm::run(options, rounds, json),
        Bench::Forward(_) | Bench::Join(_) | Bench::Players(_) | Bench::Accept(_) => {}
    }
    if !args.peer_only {
        cluster::build()?;
    }
    process::catch_interrupt()?;
    let limit = process::raise_open_files()?;
    let cores = Cores::pick()?;
    let mut kinds = Vec::new();
    if !args.peer_only {
        kinds.push(Kind::Forwarder);
    }
    if let Some(Peer::Nginx) = args.peer {
        kinds.push(Kind::Nginx);
    }
    let turns = (0..rounds).flat_map(|round| kinds.iter().map(move |kind| (round, *kind)));
    match bench {
        Bench::Forward(options) => {
            report::run(turns, json, |kind| forward::measure(options, kind, cores))
        }
        Bench::Join(options) => {
            report::run(turns, json, |kind| join::measure(options, kind, cores))
        }
        Bench::Accept(options) => {
            report::run(turns, json, |kind| accept::measure(options, kind, cores))
        }
        Bench::Players(options) => {
            players::check_limit(options, limit)?;
            report::run(turns, json, |kind| players::measure(options, kind, cores))
        }
        // Have run above, as they take turns of their own.
        Bench::Report(_)
        | Bench::Splice(_)
        | Bench::Failover(_)
        | Bench::Stall(_)
        | Bench::Slow(_)
        | Bench::Storm(_) => Ok(()),
    }
}
