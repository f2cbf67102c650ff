//! The live table of `cargo xtask run`: the streams of the master, and how each slave has them.
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use forwarder::status::{Snapshot, StreamStatus};

use crate::cluster::Cluster;
use crate::http;

/// Pause between two looks on a terminal, and elsewhere.
const REPAINT: Duration = Duration::from_secs(1);
const REPORT: Duration = Duration::from_secs(5);

/// What is on the screen.
pub struct Table {
    terminal: bool,
    shown: Option<Instant>,
    /// Lines to go up before painting.
    lines: usize,
}

impl Table {
    /// Nothing yet.
    pub fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), shown: None, lines: 0 }
    }

    /// Shows how things are, if it is time.
    pub fn show(&mut self, cluster: &Cluster) {
        let pause = if self.terminal { REPAINT } else { REPORT };
        if self.shown.is_none_or(|shown| shown.elapsed() >= pause) {
            self.show_last(cluster);
        }
    }

    /// Shows how things are, time or not.
    pub fn show_last(&mut self, cluster: &Cluster) {
        self.shown = Some(Instant::now());
        // A server that is slow to answer is news, and no reason to stop it.
        let text = look(cluster).unwrap_or_else(|error| format!("no status: {error:#}\n"));
        if let Err(error) = self.paint(&text) {
            eprintln!("cannot show the table: {error}");
        }
    }

    fn paint(&mut self, text: &str) -> std::io::Result<()> {
        let mut out = std::io::stdout();
        if self.terminal {
            if self.lines > 0 {
                write!(out, "\x1b[{}A", self.lines)?;
            }
            for line in text.lines() {
                // Erase to the end of the line, or a longer one from before shows through.
                writeln!(out, "{line}\x1b[K")?;
            }
            write!(out, "\x1b[J")?;
            self.lines = text.lines().count();
        } else {
            writeln!(out, "{text}")?;
        }
        out.flush()
    }
}

fn look(cluster: &Cluster) -> Result<String> {
    let master = status(cluster.master.api)?;
    let slaves = cluster.slaves.iter().map(|slave| status(slave.api));
    let slaves = slaves.collect::<Result<Vec<_>>>()?;
    let ports: Vec<u16> = cluster.slaves.iter().map(|slave| slave.port).collect();
    Ok(render(&master, &slaves, &ports))
}

fn status(api: u16) -> Result<Snapshot> {
    http::get_json(api, "/api/v1/status")
}

fn render(master: &Snapshot, slaves: &[Snapshot], ports: &[u16]) -> String {
    let mut text = String::new();
    let uptime = master.uptime_s;
    // Writing to a string cannot fail.
    let _ = writeln!(text, "master up {uptime} s, {} connections", master.connections);
    for stream in &master.streams {
        let name = format!("{}/{}", stream.app, stream.stream);
        let codecs = [stream.video.as_str(), stream.audio.as_str()].join(" ");
        let _ = writeln!(
            text,
            "{name}  {}  {:.2} Mbit/s  {}  {} messages  {} players",
            stream.state,
            megabits(stream.bitrate_bps),
            codecs.trim(),
            stream.messages,
            stream.players,
        );
        let _ = writeln!(
            text,
            "  {:<7} {:<6} {:<11} {:>8} {:>7} {:>6} {:>9} {:>7}",
            "slave", "port", "forward", "lag ms", "skips", "tries", "Mbit/s", "players"
        );
        for (n, (slave, port)) in slaves.iter().zip(ports).enumerate() {
            let end = format!(":{port}");
            let forward = stream.forwards.iter().find(|f| f.destination.ends_with(&end));
            let there = slave.streams.iter().find(|other| same(other, stream));
            let (state, lag, skips, tries) = forward
                .map_or(("none", 0, 0, 0), |f| (f.state.as_str(), f.lag_ms, f.skips, f.attempt));
            let (bitrate, players) = there.map_or((0, 0), |s| (s.bitrate_bps, s.players));
            let _ = writeln!(
                text,
                "  {:<7} {port:<6} {state:<11} {lag:>8} {skips:>7} {tries:>6} {:>9.2} {players:>7}",
                n + 1,
                megabits(bitrate),
            );
            if let Some(forward) = forward.filter(|f| f.state != "forwarding")
                && !forward.last_error.is_empty()
            {
                let _ = writeln!(text, "          {}", forward.last_error);
            }
        }
    }
    text
}

fn same(a: &StreamStatus, b: &StreamStatus) -> bool {
    (&a.app, &a.stream) == (&b.app, &b.stream)
}

#[expect(clippy::cast_precision_loss, reason = "shown with two digits")]
fn megabits(bps: u64) -> f64 {
    bps as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use forwarder::status::ForwardStatus;

    use super::*;

    #[test]
    fn slaves_are_matched_by_their_port() {
        let forward = |port: u16, state: &str, error: &str| ForwardStatus {
            destination: format!("127.0.0.1:{port}"),
            state: state.into(),
            last_error: error.into(),
            lag_ms: 12,
            ..Default::default()
        };
        let stream = |forwards, players| StreamStatus {
            app: "live".into(),
            stream: "a".into(),
            bitrate_bps: 2_120_000,
            forwards,
            players,
            ..Default::default()
        };
        let of = |streams| Snapshot { streams, ..Default::default() };
        let forwards = vec![
            forward(7002, "waiting", "connection refused"),
            forward(7001, "forwarding", "old"),
        ];
        let master = of(vec![stream(forwards, 0)]);
        let slaves = [of(vec![stream(vec![], 3)]), of(vec![])];
        let text = render(&master, &slaves, &[7001, 7002]);
        let row = |n: &str| {
            let line = text.lines().find(|line| line.trim_start().starts_with(n)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(row("1 "), "1 7001 forwarding 12 0 0 2.12 3");
        assert_eq!(row("2 "), "2 7002 waiting 12 0 0 0.00 0");
        assert!(text.contains("connection refused") && !text.contains("old"), "{text}");
    }
}
