//! The page: aims first, then all rows, then how to read them; and its plots.
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::aims::{self, Aim};
use super::plot::{self, Axis, Plot, Series};
use super::record::{Figures, Host, Record};
use super::scenario::{Scenario, players};
use super::sums::{self, Cell, Row};
use crate::load::float;

const MIB: f64 = 1_048_576.0;

type IsKind = fn(&Scenario) -> bool;
type Of = fn(&Figures) -> f64;

/// Writes `bench.md` and its plots to `folder`.
pub fn write(record: &Record, folder: &Path) -> Result<()> {
    let rows = sums::rows(record);
    fs::create_dir_all(folder)?;
    let mut files = vec![("bench.md", page(record, &rows))];
    files.extend(plots(&rows));
    for (name, text) in files {
        let path = folder.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

/// The page, plots aside.
fn page(record: &Record, rows: &[Row<'_>]) -> String {
    let mut text = String::from("# What serving costs\n\n");
    _ = write!(text, "{}\n\n## Aims\n\n", head(&record.host));
    text += &aims_table(&aims::aims(rows));
    for left_out in &record.left_out {
        _ = write!(text, "\n**Left out: {left_out}**\n");
    }
    text += "\n## Plots\n\n![CPU against latency](bench-cpu.svg)\n\n![Latency against players]\
        (bench-latency.svg)\n\n![RSS against players](bench-rss.svg)\n";
    let kinds: [(&str, IsKind); 3] = [
        ("Players", |one| matches!(one, Scenario::Play { .. })),
        ("Forward", |one| matches!(one, Scenario::Forward { .. })),
        ("Publishers", |one| matches!(one, Scenario::Publish { .. })),
    ];
    for (title, is_one) in kinds {
        let of_kind: Vec<_> = rows.iter().filter(|row| is_one(&row.scenario)).collect();
        if !of_kind.is_empty() {
            _ = write!(text, "\n## {title}\n");
        }
        of_kind.into_iter().for_each(|row| text += &section(row));
    }
    text + NOTES
}

fn head(host: &Host) -> String {
    let priority = if host.is_raised {
        "Publishers and samples run at a nice value 10 below that of the rest of the load"
    } else {
        "Publishers and samples run at the priority of the rest of the load, which may be in their way"
    };
    let variants = match host.variants.as_slice() {
        [] => String::new(),
        all => format!(" Configurations beside the default: `{}`.", all.join("`, `")),
    };
    format!(
        "Written by `{}` on {}. Nothing in it was written by hand.\n\n{}, {} cores, kernel {}, loopback, \
         congestion control {}, tcp_wmem {}; commit {}; {}; {} rounds of {} s; load average before: {} \
         (other work was on the machine if that is not near 0). The server under test has one core to \
         itself, publishers and clients have another. {priority}.{variants}",
        host.command,
        host.date,
        host.cpu,
        host.cores,
        host.kernel,
        host.congestion,
        host.wmem,
        host.commit,
        host.nginx,
        host.rounds,
        host.seconds,
        host.load_average,
    )
}

fn aims_table(aims: &[Aim]) -> String {
    let mut text = String::from("| aim | measured | met |\n|---|---|---|\n");
    for Aim { text: aim, measured, is_met } in aims {
        let met = match is_met {
            Some(true) => "yes",
            Some(false) => "**no**",
            None => "?",
        };
        _ = writeln!(text, "| {aim} | {} | {met} |", cell(measured));
    }
    text
}

const HEAD: &str = "| server | CPU % | cores % | load % | delivered | worst | stalled / closed | \
    RSS MiB | KiB each | TCP MiB | writes/s each | us / write | video p50 | p90 | p99 | max | audio \
    p50 | p90 | p99 | max |\n\
    |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";

fn section(row: &Row<'_>) -> String {
    let mut text = format!("\n### {}\n\n`{}`\n\n{HEAD}", row.scenario.title(), row.scenario);
    row.cells.iter().for_each(|cell| text += &line(cell));
    for ratio in ratios(row) {
        _ = write!(text, "\n- {ratio}");
    }
    for note in row.cells.iter().flat_map(notes) {
        _ = write!(text, "\n- {note}");
    }
    text + "\n"
}

/// Medians of all rounds; of the processor's time the range too.
fn line(cell: &Cell<'_>) -> String {
    let number = |decimals: usize, of: &dyn Fn(&Figures) -> f64| match cell.shown(of) {
        Some(spread) => format!("{:.decimals$}", spread.median),
        None => "-".to_owned(),
    };
    let most = |of: &dyn Fn(&Figures) -> f64| match cell.shown(of) {
        Some(spread) => format!("{:.0}", spread.max),
        None => "-".to_owned(),
    };
    let none = f64::NAN;
    let cells = [
        if cell.is_good() { cell.server.to_owned() } else { format!("{} **(!)**", cell.server) },
        cell.shown(|f| f.cpu).map_or_else(|| "-".to_owned(), |spread| spread.shown(1)),
        number(1, &|f| f.busy),
        number(0, &|f| f.load_cpu),
        number(4, &|f| f.delivered),
        number(4, &|f| f.worst),
        format!("{} / {}", most(&|f| float(f.stalled as u64)), most(&|f| float(f.closed as u64))),
        number(1, &|f| float(f.rss_bytes) / MIB),
        number(2, &|f| f.rss_per_client_bytes / 1024.0),
        number(1, &|f| float(f.tcp_bytes) / MIB),
        number(1, &|f| f.writes.unwrap_or(none)),
        number(2, &|f| f.us_per_write.unwrap_or(none)),
        number(2, &|f| f.video.p50),
        number(2, &|f| f.video.p90),
        number(2, &|f| f.video.p99),
        number(2, &|f| f.video.max),
        number(2, &|f| f.audio.p50),
        number(2, &|f| f.audio.p90),
        number(2, &|f| f.audio.p99),
        number(2, &|f| f.audio.max),
    ];
    format!("| {} |\n", cells.join(" | "))
}

/// Of each configuration of ours, over the peer and over the floor.
fn ratios(row: &Row<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for ours in row.cells.iter().filter(|cell| cell.server.starts_with("ours")) {
        let others = [row.peer(), row.floor()].into_iter().flatten();
        for other in others {
            let kinds: [(&str, Of); 5] = [
                ("CPU", |f| f.cpu),
                ("cores", |f| f.busy),
                ("CPU for each write", |f| f.us_per_write.unwrap_or(f64::NAN)),
                ("video p50", |f| f.video.p50),
                ("video p99", |f| f.video.p99),
            ];
            let each = kinds.iter().filter_map(|(name, of)| {
                Some(format!("{name} {}", ours.ratio(other, of)?.shown(2)))
            });
            let each: Vec<_> = each.collect();
            let shown = if each.is_empty() { "no ratio".to_owned() } else { each.join(", ") };
            lines.push(format!("{} / {}: {shown}", ours.server, other.server));
        }
    }
    lines
}

/// What a reader must know beside the numbers.
fn notes(cell: &Cell<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for turn in &cell.turns {
        let mut add = |what: &str| {
            notes.push(format!("{}, round {}: {}", cell.server, turn.round, self::cell(what)));
        };
        if let Some(trouble) = turn.trouble() {
            add(&format!("**{trouble}**"));
        }
        let Ok(figures) = &turn.outcome else { continue };
        if let Some(full) = &figures.load_full {
            add(full);
        }
        if figures.late_ms > LATE_MS {
            add(&format!(
                "1 % of what was published left over {:.0} ms late: latencies may be the load's own",
                figures.late_ms
            ));
        }
        if figures.gaps > 0 {
            add(&format!("samples missed {} messages", figures.gaps));
        }
        if figures.drain_s > LONG_DRAIN_S {
            add(&format!("what was under way took {:.1} s to come", figures.drain_s));
        }
    }
    notes
}

/// If 1 % of the messages leave later than this, latencies are the load's own.
const LATE_MS: f64 = 20.0;
/// Waiting for silence takes 0.6 s by itself.
const LONG_DRAIN_S: f64 = 1.5;

/// What fits a table.
fn cell(text: &str) -> String {
    text.replace('|', "/").replace('\n', " ")
}

fn plots(rows: &[Row<'_>]) -> Vec<(&'static str, String)> {
    let main: Vec<(usize, &Row<'_>)> = rows
        .iter()
        .filter_map(|row| match row.scenario {
            Scenario::Play { players: n, .. } if row.scenario == players(n) => Some((n, row)),
            _ => None,
        })
        .collect();
    let mut servers: Vec<&str> = Vec::new();
    for cell in main.iter().flat_map(|(_, row)| &row.cells) {
        if !servers.contains(&cell.server) {
            servers.push(cell.server);
        }
    }
    type At<'a> = &'a dyn Fn(usize, &Cell<'_>) -> (f64, f64, String);
    let series = |suffix: &str, is_dashed: bool, at: At<'_>| -> Vec<Series> {
        let one = |(colour, server): (usize, &&str)| {
            let cells = main.iter().filter_map(|(n, row)| Some((*n, row.cell(server)?)));
            let points = cells.map(|(n, cell)| at(n, cell)).collect();
            Series { name: format!("{server}{suffix}"), colour, is_dashed, points }
        };
        servers.iter().enumerate().map(one).collect()
    };
    let n = |players: usize| float(players as u64);
    let cost = |players: usize, cell: &Cell<'_>| {
        let us = cell.median(|f| f.cpu) * 1e4 / n(players);
        (cell.median(|f| f.video.p50), us, players.to_string())
    };
    let p50 =
        |players: usize, cell: &Cell<'_>| (n(players), cell.median(|f| f.video.p50), String::new());
    let p99 =
        |players: usize, cell: &Cell<'_>| (n(players), cell.median(|f| f.video.p99), String::new());
    let rss = |players: usize, cell: &Cell<'_>| {
        (n(players), cell.median(|f| f.rss_per_client_bytes) / 1024.0, String::new())
    };
    let mut latency = series(" p50", true, &p50);
    latency.extend(series(" p99", false, &p99));
    let plot = |title, x, y, series| {
        plot::svg(&Plot { title, x: Axis { label: x }, y: Axis { label: y }, series })
    };
    let title = "CPU for each second of each player, beside its number of players";
    let (ms, us) = ("video latency p50, ms", "us");
    vec![
        ("bench-cpu.svg", plot(title, ms, us, series("", false, &cost))),
        ("bench-latency.svg", plot("Latency of video", "players", "ms", latency)),
        ("bench-rss.svg", plot("RSS for each player", "players", "KiB", series("", false, &rss))),
    ]
}

const NOTES: &str = "
## How to read it

- Each row's servers take turns within each round; figures are medians of the rounds, CPU with least \
and most, maxima of stalled and closed. A ratio is taken round by round, then its median and range. \
Quote ratios, not numbers: the same server differs by a fifth between machines and days.
- *ours*: a release as it comes, one thread. *nginx-rtmp*: Debian's nginx and its module, one process, \
`wait_key on`, `chunk_size 4096`. *floor*: takes the same streams from the same publishers and writes \
them to all in a plain loop, audio merged into the next frame, TCP_NODELAY: what the system calls cost and \
nothing else. It keeps no group of pictures and has no limits. *floor-each*: the same with each message by itself; *floor-each-nagle*: and the kernel \
merges what is not sent yet. *floor-5hz*: five writes a second, for more players than a core can write \
to once a frame.
- The stream: 25 frames and 43 audio messages a second, a keyframe every 50 frames, four times as large \
as the others; 500 kbit/s where nothing else is said.
- *CPU %*: of one core, user and system of the server's process. *cores %*: busy time of all cores \
together, whatever ran: on loopback a part of what the receiver does is charged to the server, and the \
other way round. *load %*: of publishers and clients.
- *delivered*: bytes that came, of what was published from each client's first keyframe on until \
nothing more came after the publishers stopped; mean and worst of all clients. Samples, who parse \
everything, tell how many bytes on the wire a byte of media is. *stalled*: clients that had nothing for \
more than a second. A turn in which anybody got less than 98 %, or that came changed, is void: it has \
no ratio, and the command fails, unless it was the peer's. Of publishers, samples alone tell.
- *writes/s each*: segments with data that the kernel sent (`TCPOrigDataSent`, of the whole host, less \
those of the publishers), for each client and second. On loopback a write of less than 64 KiB is one \
segment unless the kernel merges it, so this counts writes as they leave, for all servers alike. \
*us / write*: the server's CPU for each.
- Latency, ms: from before the publisher writes a message until a sample has read and parsed it. Nine \
samples a row that came between the players at even distances, as a server writes to its players in an \
order; three of a forward's slaves. *audio* waits for video in *ours* (up to `audio_hold`) \
and in *floor*; nobody hears less, and it is told apart so that nobody overlooks it.
- All clients that only count read every 20 ms, or less often if they are more than 2,000 (10 us for \
each, at most every 200 ms), the same for all servers: a load that wakes on every write makes the server \
pay for that. So the kernel acknowledges late, and what Nagle's algorithm holds back it holds longer.
- *RSS*: of the server at the end of the window; *KiB each*: its growth since before the clients \
came. *TCP MiB*: of the kernel, for all sockets of the host, both ends.
- A forward's slaves are sinks in the load's process, read every 2 ms, as real ones read at once: read \
like players, they would acknowledge late, and Nagle's algorithm would merge for a server that has it on \
what it does not merge in front of real slaves. Slow players, join storms, accepting and long runs \
have benches of their own.
";

#[cfg(test)]
mod tests {
    use super::super::record::Turn;
    use super::super::record::tests::{good, turn};
    use super::super::scenario::{MAIN, forward};
    use super::*;

    fn record() -> Record {
        let mut record = Record::new(Host { commit: "abc123".into(), ..Host::default() });
        for round in 1..=2 {
            let cpu = |cpu: f64| Figures { cpu: cpu + f64::from(round), ..good() };
            record.turns.push(turn(MAIN, "ours", round, cpu(9.0)));
            let peer = turn(MAIN, "nginx-rtmp", round, cpu(18.0));
            record.turns.push(match round {
                1 => peer,
                _ => Turn { outcome: Err("nginx | died\nlog".into()), ..peer },
            });
        }
        let void = Figures { delivered: 0.91, worst: 0.9, below: 7, gaps: 3, ..good() };
        record.turns.push(turn(forward(20, 8), "ours", 1, void));
        record.left_out.push("nginx-rtmp: it is not installed".into());
        record
    }

    #[test]
    fn the_page_says_what_the_rows_say() {
        let record = record();
        let page = page(&record, &sums::rows(&record));
        for expected in [
            "commit abc123",
            "0.6x of nginx-rtmp's CPU, video p50 <= 5 ms, p99 <= 25 ms | ours: 0.53x (all cores' time no ratio), p50 1.00 ms \
             (nginx-rtmp 1.00), p99 3.00 ms (3.00) | yes |",
            "| void: delivered 0.9100, worst 0.9000: 7 got less than 98 % | **no** |",
            "| ours | 10.5 (10.0 to 11.0) |",
            "| nginx-rtmp **(!)** | 19.0 |",
            "- ours / nginx-rtmp: CPU 0.53",
            "- nginx-rtmp, round 2: **failed: nginx / died**",
            "- ours, round 1: samples missed 3 messages",
            "### 20 streams forwarded to 8 slaves",
            "**Left out: nginx-rtmp: it is not installed**",
        ] {
            assert!(page.contains(expected), "{expected}: {page}");
        }
        assert!(!page.contains("NaN"), "{page}");
        let columns = |line: &str| line.matches('|').count();
        let tables =
            page.lines().filter(|line| line.starts_with("| ours") || line.starts_with("| nginx"));
        assert!(tables.clone().count() == 3);
        assert!(tables.into_iter().all(|line| columns(line) == 21), "{page}");
    }

    #[test]
    fn plots_have_a_point_for_each_row() {
        let record = record();
        let plots = plots(&sums::rows(&record));
        assert_eq!(plots.len(), 3);
        assert_eq!(plots[0].1.matches("<circle").count(), 2);
        assert_eq!(plots[1].1.matches("<circle").count(), 4);
        assert!(plots.iter().all(|(name, svg)| name.ends_with(".svg") && !svg.contains("NaN")));
    }
}
