//! `cargo xtask bench`: what a server does to a stream, measured beside nginx-rtmp if wanted.
//!
//! Figures of a small shared machine vary by a fifth from run to run. So ours and the peer take
//! turns in one run, the server has a core of its own, nothing asserts an absolute time, and a
//! row that lost data says so.

mod accept;
mod audience;
mod failover;
mod forward;
mod join;
mod players;
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
    bench: Bench,
    /// Another server to take turns with.
    #[arg(long, global = true, value_enum)]
    peer: Option<Peer>,
    /// Measure the peer alone, without building ours.
    #[arg(long, global = true, requires = "peer")]
    peer_only: bool,
    /// Turns for each.
    #[arg(long, global = true, default_value_t = 1)]
    rounds: u32,
    /// Write the results there too.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Bench {
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

#[derive(Clone, Copy, clap::ValueEnum)]
enum Peer {
    Nginx,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    let ours = !matches!(args.bench, Bench::Forward(_) | Bench::Join(_) | Bench::Players(_));
    if ours && args.peer.is_some() {
        bail!("nobody takes turns with this one");
    }
    match &args.bench {
        Bench::Splice(options) => return splice::run(options, args.rounds, args.json.as_deref()),
        Bench::Failover(options) => {
            return failover::run(options, args.rounds, args.json.as_deref());
        }
        Bench::Stall(options) => return stall::run(options, args.rounds, args.json.as_deref()),
        Bench::Slow(options) => return slow::run(options, args.rounds, args.json.as_deref()),
        Bench::Storm(options) => return storm::run(options, args.rounds, args.json.as_deref()),
        _ => {}
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
    let turns = (0..args.rounds).flat_map(|round| kinds.iter().map(move |kind| (round, *kind)));
    match &args.bench {
        Bench::Forward(options) => {
            report::run(turns, args.json.as_deref(), |kind| forward::measure(options, kind, cores))
        }
        Bench::Join(options) => {
            report::run(turns, args.json.as_deref(), |kind| join::measure(options, kind, cores))
        }
        Bench::Accept(options) => {
            report::run(turns, args.json.as_deref(), |kind| accept::measure(options, kind, cores))
        }
        Bench::Players(options) => {
            players::check_limit(options, limit)?;
            report::run(turns, args.json.as_deref(), |kind| players::measure(options, kind, cores))
        }
        // Have run above, as they take turns of their own.
        Bench::Splice(_)
        | Bench::Failover(_)
        | Bench::Stall(_)
        | Bench::Slow(_)
        | Bench::Storm(_) => Ok(()),
    }
}
