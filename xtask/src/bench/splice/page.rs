//! Results for people: tables of medians, and a page of Markdown with a plot.
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use super::svg::{self, Group};
use super::{Row, Way};
use crate::bench::priority;
use crate::tidy;

/// What the figures were taken on.
#[derive(Serialize)]
pub struct Host {
    cpu: String,
    cores: usize,
    kernel: String,
    commit: String,
    haproxy: String,
    /// Load average of the last minute before we began.
    load_average: String,
    /// Of the load and the relay; the kernel's workers have 0, which holds them up if this is less.
    nice: i32,
    seconds: u64,
    rounds: u32,
}

impl Host {
    /// This one.
    pub fn look(seconds: u64, rounds: u32) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let average = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cpu: model.unwrap_or("unknown").trim_matches([':', '\t', ' ']).to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            haproxy: said(Command::new("/usr/sbin/haproxy").arg("-v")),
            load_average: average.split(' ').next().unwrap_or_default().to_owned(),
            nice: priority::own(),
            seconds,
            rounds,
        })
    }
}

/// The first line that a command prints.
fn said(command: &mut Command) -> String {
    let output = command.current_dir(tidy::root()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.unwrap_or_default().lines().next().unwrap_or("none").to_owned()
}

/// The rounds of one way under one load.
struct Cell<'a> {
    way: Way,
    rows: Vec<&'a Row>,
    /// What no relay costs, round by round.
    direct: Vec<&'a Row>,
}

impl Cell<'_> {
    fn median(&self, of: impl Fn(&Row) -> f64) -> f64 {
        median(self.rows.iter().map(|row| of(row)).collect())
    }

    /// Milliseconds of all threads for a gigabit, less what it takes without a relay.
    fn hop(&self) -> Vec<f64> {
        self.above_direct(|row| row.per_gigabit(row.measured.spent.threads_ms()))
    }

    /// The same of the cores' busy time.
    fn busy(&self) -> Vec<f64> {
        self.above_direct(|row| row.per_gigabit(row.measured.spent.busy_ms))
    }

    fn above_direct(&self, of: impl Fn(&Row) -> f64) -> Vec<f64> {
        self.rows.iter().zip(&self.direct).map(|(row, direct)| of(row) - of(direct)).collect()
    }
}

/// In the order they were measured in first.
fn loads(rows: &[Row]) -> Vec<(&str, Vec<Cell<'_>>)> {
    let mut loads: Vec<(&str, Vec<Cell<'_>>)> = Vec::new();
    for row in rows {
        if !loads.iter().any(|(name, _)| *name == row.load) {
            loads.push((&row.load, Vec::new()));
        }
    }
    for (name, cells) in &mut loads {
        let of = |way: Way| rows.iter().filter(move |row| row.way == way);
        let here = |way: Way| of(way).filter(|row| row.load == *name).collect::<Vec<_>>();
        for way in Way::ALL {
            let rows = here(way);
            if !rows.is_empty() {
                cells.push(Cell { way, rows, direct: here(Way::Direct) });
            }
        }
    }
    loads
}

/// A table a load, medians of the rounds.
pub fn tables(rows: &[Row]) -> String {
    let mut text = String::new();
    for (load, cells) in loads(rows) {
        let copy = cells.iter().find(|cell| cell.way == Way::Copy).map(|cell| median(cell.hop()));
        _ = write!(text, "### {load}\n\n{HEAD}\n|---|---|---|---|---|---|---|---|---|---|---|\n");
        for cell in &cells {
            let spent = |row: &Row| row.measured.spent.relay_ms / row.measured.window_ms * 100.0;
            let hop = match cell.way {
                Way::Direct => ["", "", ""].map(str::to_owned),
                _ => [
                    with_range(cell.hop()),
                    with_range(cell.busy()),
                    format!("{:.2}", median(cell.hop()) / copy.unwrap_or(f64::NAN)),
                ],
            };
            let carried = match cell.rows.last().and_then(|row| row.measured.carried) {
                Some(carried) => format!("{} / {}", carried.in_kernel, carried.returns),
                None => String::new(),
            };
            _ = writeln!(
                text,
                "| {}{} | {:.4} | {:.2} | {:.1} | {} | {} | {} | {:.0} | {:.2} | {:.2} | {carried} |",
                cell.way.name(),
                if cell.rows.iter().any(|row| row.void.is_some()) { " (void)" } else { "" },
                cell.median(Row::delivered),
                cell.median(|row| row.measured.megabits / 1e3),
                cell.median(spent),
                hop[0],
                hop[1],
                hop[2],
                cell.median(|row| row.measured.spent.load_ms / row.measured.window_ms * 100.0),
                cell.median(|row| row.measured.latency.p50_ms),
                cell.median(|row| row.measured.latency.p99_ms),
            );
        }
        text.push('\n');
    }
    text
}

const HEAD: &str = "| way | delivered | Gbit/s | relay CPU % | hop, threads ms/Gbit | \
                    hop, cores ms/Gbit | hop / copy's | load CPU % | p50 ms | p99 ms | \
                    in kernel / returns |";

/// The page at `path`, the plot beside it.
pub fn write(path: &Path, host: &Host, rows: &[Row]) -> Result<()> {
    let plot_path = path.with_extension("svg");
    let plot_name = plot_path.file_name().unwrap_or_default().to_string_lossy();
    let groups = loads(rows).into_iter().map(|(load, cells)| {
        let copy = cells.iter().find(|cell| cell.way == Way::Copy).map(|cell| median(cell.hop()));
        let hops = cells.iter().filter(|cell| cell.way != Way::Direct);
        let bar = |cell: &Cell<'_>| {
            let ratio = median(cell.hop()) / copy.unwrap_or(f64::NAN);
            (cell.way.name().to_owned(), ratio)
        };
        Group { title: load.to_owned(), bars: hops.map(bar).collect() }
    });
    let plot = svg::plot(TITLE, &groups.collect::<Vec<_>>());
    let machine = format!(
        "{}, {} cores, kernel {}, loopback; commit {}; {}; {} rounds of {} s; load average before: \
         {} (other work was on the machine if that is not near 0); load and relay at nice {}, the \
         kernel's workers at 0",
        host.cpu,
        host.cores,
        host.kernel,
        host.commit,
        host.haproxy,
        host.rounds,
        host.seconds,
        host.load_average,
        host.nice,
    );
    let page = format!(
        "# What a 1:1 hop costs\n\n{INTRO}\n\n{machine}.\n\n![{TITLE}]({plot_name})\n\n{}\n{NOTES}\n",
        tables(rows).trim_end().to_owned() + "\n",
    );
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
    fs::write(&plot_path, plot).with_context(|| format!("cannot write {}", plot_path.display()))
}

/// The middle one; of two the mean.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    let half = values.len() / 2;
    if values.len() % 2 == 1 { at(half) } else { f64::midpoint(at(half.wrapping_sub(1)), at(half)) }
}

/// The median, and the range if there is one.
fn with_range(values: Vec<f64>) -> String {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let n = values.len();
    let middle = median(values);
    if n > 1 { format!("{middle:.0} ({least:.0} to {most:.0})") } else { format!("{middle:.0}") }
}

const TITLE: &str = "CPU time of a hop, all threads, copy = 1";

const INTRO: &str = "Written by `cargo xtask bench splice --report`. Source and sink share one \
core, the relay has the other; ways take turns within each round. A hop's cost is what is spent \
more than without a relay, for each gigabit that arrives: *threads* is the time of the load, the \
relay and the kernel's workers (other work on the machine disturbs it little), *cores* is the busy \
time of all cores (complete, but with everything else that runs). Medians of the rounds, in \
brackets the least and the most. Quote ratios, not numbers.";

const NOTES: &str = "## How to read it

- *copy*: the user-space path, made to read and write by following the chunks. *splice(2)*: the \
user-space path as it chooses, which is a copy too while reads are below 32 KiB on average.
- *kernel*: mode `always`. *kernel+walk*: the same while the program follows RTMP's chunks. \
*auto*: mode `auto`.
- *HAProxy*: mode tcp, one thread, `option splice-auto`.
- *in kernel / returns*: legs in the kernel at the end of the last round's window, and how often \
legs had come back from it (soft limit 4 MiB, hard limit 64 MiB).
- Latency is from before the first byte of a message is written until its last is read; the source \
looks every millisecond at what is due.
- Flat out, source and sink fill their core, so the rate says how much of that core a way takes, \
and the cost is for each gigabit at different rates.
- Flat out nothing holds up a source that is in the kernel, so with mode `always` legs pass the \
soft limit at once and are in user space for most of the window: those rows show what the return \
costs. Mode `auto` does not go there at such rates.
- A row is void, and the command fails, if less than 98 % of the messages due in the window \
arrive, or one arrives changed.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(Vec::new()).is_nan());
        assert_eq!(with_range(vec![3.0, 1.0, 2.0]), "2 (1 to 3)");
        assert_eq!(with_range(vec![3.0]), "3");
    }
}
