//! `cargo xtask bench report`: ours, nginx-rtmp and the raw floor in one run, row by row and round by
//! round, and the page that says what came of it.

mod aims;
mod contender;
mod measure;
mod page;
mod plot;
mod record;
mod scenario;
mod sockets;
mod sums;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{Cores, priority, servers};
use crate::{cluster, process, release, tidy};
use contender::{Contender, Side, Variant};
use measure::Setting;
use record::{Figures, Host, Record, Turn};
use scenario::Scenario;

/// Length of a window and rounds, if not said: all rows take less than half an hour.
const SECONDS: u64 = 8;
const ROUNDS: u32 = 2;
const QUICK_SECONDS: u64 = 3;
/// Joining, settling and leaving, as a guess.
const AROUND_SECONDS: u64 = 6;

/// What to measure, and where to put it.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct Args {
    /// Few rows, short windows, one round: that all works, no more
    #[arg(long)]
    quick: bool,
    /// Rows by name or part of it before a dash, `*` for anything; variants have all of these
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    rows: Vec<String>,
    /// Servers by name, `*` for anything
    #[arg(long, value_delimiter = ',', value_name = "PATTERN")]
    servers: Vec<String>,
    /// Another configuration of ours: TOML over the default, `;` for a new line; keys of `vhost` mean
    /// the default vhost
    #[arg(long, value_name = "NAME=TOML")]
    variant: Vec<Variant>,
    /// Length of a window
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Write the page of results that were kept, and measure nothing
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "rows", "servers", "variant"])]
    from: Option<PathBuf>,
    /// Folder of the page; docs for a run of all rows, else target/bench/report
    #[arg(long, value_name = "FOLDER")]
    page: Option<PathBuf>,
    /// Run this build and a server built like it, not releases
    #[arg(long)]
    as_is: bool,
    /// Have the floors leave out each Nth message: the run has to fail
    #[arg(long, default_value_t = 0, value_name = "N", hide = true)]
    floor_loses: u64,
}

/// Runs the command. `rounds`, `json`: as of all benches.
pub fn run(args: &Args, rounds: Option<u32>, json: Option<&Path>) -> Result<()> {
    if let Some(from) = &args.from {
        let folder = args.page.clone().unwrap_or_else(|| tidy::root().join("docs"));
        return page::write(&Record::load(from)?, &folder);
    }
    if !args.as_is {
        release::ensure()?;
        cluster::build()?;
    }
    let known = if args.quick { scenario::quick() } else { scenario::all() };
    let rows = scenario::pick(known, &args.rows)?;
    let rounds = rounds.unwrap_or(if args.quick { 1 } else { ROUNDS });
    let seconds = args.seconds.unwrap_or(if args.quick { QUICK_SECONDS } else { SECONDS });
    process::catch_interrupt()?;
    check_limit(&rows, process::raise_open_files()?)?;
    let mut record = Record::new(Host {
        is_raised: priority::may_raise(),
        seconds,
        rounds,
        variants: args.variant.iter().map(Variant::shown).collect(),
        ..Host::look()?
    });
    let turns = plan(args, &rows, &mut record.left_out);
    let setting = Setting {
        cores: Cores::pick()?,
        window: Duration::from_secs(seconds),
        as_is: args.as_is,
        lose: args.floor_loses,
    };
    let (kept, folder) = places(args, json);
    if let Some(parent) = kept.parent() {
        fs::create_dir_all(parent)?;
    }
    let all = turns.len() as u64 * u64::from(rounds);
    println!("{all} turns, about {} min", (all * (seconds + AROUND_SECONDS)).div_ceil(60));
    let taken = take(&turns, rounds, &setting, &mut record, &kept);
    page::write(&record, &folder)?;
    println!("{} and {}", kept.display(), folder.join("bench.md").display());
    taken?;
    let failures = record.failures();
    if !failures.is_empty() {
        bail!("{}", failures.join("\n       "));
    }
    Ok(())
}

/// Where results are kept, and the folder of the page.
fn places(args: &Args, json: Option<&Path>) -> (PathBuf, PathBuf) {
    let work = cluster::target().join("bench/report");
    let is_whole = !args.quick && args.rows.is_empty() && args.servers.is_empty() && !args.as_is;
    let folder = if is_whole { tidy::root().join("docs") } else { work.clone() };
    let kept = json.map_or_else(|| work.join("report.json"), Path::to_owned);
    (kept, args.page.clone().unwrap_or(folder))
}

/// Refuses what does not fit one process of load.
fn check_limit(rows: &[Scenario], open_files: u64) -> Result<()> {
    /// Files open besides sockets.
    const OTHERS: usize = 200;
    let sockets = |row: &Scenario| row.clients() + row.streams() + OTHERS;
    match rows.iter().find(|row| sockets(row) as u64 > open_files) {
        Some(row) => bail!("{row} needs {} open files, the limit is {open_files}", sockets(row)),
        None => Ok(()),
    }
}

/// Who takes turns at what in each round.
fn plan(args: &Args, rows: &[Scenario], left_out: &mut Vec<String>) -> Vec<(Scenario, Contender)> {
    let mut turns = Vec::new();
    for row in rows {
        let field = contender::field(row, &args.variant, !args.rows.is_empty());
        turns.extend(field.into_iter().map(|contender| (*row, contender)));
    }
    let is_meant = |contender: &Contender| {
        let name = contender.name();
        args.servers.is_empty() || args.servers.iter().any(|one| scenario::matches(one, &name))
    };
    turns.retain(|(_, contender)| is_meant(contender));
    if turns.iter().any(|(_, one)| *one == Contender::Nginx) && !servers::has_nginx() {
        let why =
            "nginx-rtmp is not installed (`cargo xtask setup` does): there are no ratios to it";
        eprintln!("\n  *** LEFT OUT: {why} ***\n");
        left_out.push(why.to_owned());
        turns.retain(|(_, one)| *one != Contender::Nginx);
    }
    turns
}

/// Round by round; keeps what there is after each turn. A turn that fails is told, and all go on.
fn take(
    turns: &[(Scenario, Contender)],
    rounds: u32,
    setting: &Setting,
    record: &mut Record,
    kept: &Path,
) -> Result<()> {
    let begun = Instant::now();
    println!("{:>6} {:<18} {:<18} round", "s", "row", "server");
    for round in 1..=rounds {
        for (scenario, contender) in turns {
            process::check_interrupt()?;
            let outcome = measure::measure(scenario, contender, setting);
            // What an interrupt cut short is no result.
            process::check_interrupt()?;
            let outcome = outcome.map_err(|error| format!("{error:#}"));
            let (server, side): (String, Side) = (contender.name(), contender.side());
            let turn = Turn { scenario: *scenario, server, side, round, outcome };
            println!(
                "{:>6} {:<18} {:<18} {round:>5}  {}",
                begun.elapsed().as_secs(),
                scenario.to_string(),
                turn.server,
                said(&turn)
            );
            record.turns.push(turn);
            record.save(kept)?;
        }
    }
    Ok(())
}

/// A turn in a line.
fn said(turn: &Turn) -> String {
    let Ok(Figures { cpu, busy, load_cpu, delivered, video, audio, writes, .. }) = &turn.outcome
    else {
        return turn.trouble().unwrap_or_default();
    };
    let writes = writes.map_or_else(String::new, |writes| format!("  {writes:.1} writes/s each"));
    let trouble = turn.trouble().map_or_else(String::new, |why| format!("  {why}"));
    format!(
        "cpu {cpu:.1} % (cores {busy:.0}, load {load_cpu:.0})  delivered {delivered:.4}  video p50 {:.2} \
         p99 {:.2} ms  audio {:.2} {:.2}{writes}{trouble}",
        video.p50, video.p99, audio.p50, audio.p99
    )
}
