//! What was measured, as it is kept: a file that is written anew after each turn.
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::contender::Side;
use super::scenario::Scenario;
use crate::load::histogram::Histogram;
use crate::tidy;

/// Below this share of what was published a turn is void.
pub const MIN_DELIVERED: f64 = 0.98;

/// All of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Record {
    /// What it was taken on.
    pub host: Host,
    /// In the order they were taken.
    pub turns: Vec<Turn>,
    /// What was left out, and why.
    pub left_out: Vec<String>,
}

/// One server once.
#[derive(Debug, Serialize, Deserialize)]
pub struct Turn {
    /// What was asked of it.
    pub scenario: Scenario,
    /// Its name.
    pub server: String,
    /// Whose it is.
    pub side: Side,
    /// From 1.
    pub round: u32,
    /// What came of it, or why nothing did.
    pub outcome: Result<Figures, String>,
}

/// What a turn gave. Percents are of one core.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Length of the window, seconds.
    pub seconds: f64,
    /// Bytes of what was published from each client's first keyframe on, mean over the clients.
    #[serde(deserialize_with = "or_nan")]
    pub delivered: f64,
    /// The same of the worst client.
    #[serde(deserialize_with = "or_nan")]
    pub worst: f64,
    /// Clients below [`MIN_DELIVERED`].
    pub below: usize,
    /// Clients that had nothing for more than a second in the window.
    pub stalled: usize,
    /// Connections that the server closed.
    pub closed: usize,
    /// Stamped messages that samples missed.
    pub gaps: u64,
    /// Stamped messages that came with other bytes, or on another stream.
    pub wrong: u64,
    /// Processor time of the server.
    pub cpu: f64,
    /// The user's part of that.
    pub cpu_user: f64,
    /// All cores, whatever they did.
    pub busy: f64,
    /// Processor time of the load.
    pub load_cpu: f64,
    /// Why the load may have been the limit.
    pub load_full: Option<String>,
    /// 99th percentile of how late messages left the publishers, milliseconds.
    #[serde(deserialize_with = "or_nan")]
    pub late_ms: f64,
    /// Resident memory of the server at the end of the window.
    pub rss_bytes: u64,
    /// Its growth from before the clients came, for each.
    pub rss_per_client_bytes: f64,
    /// Memory that the kernel held for all TCP sockets of the host at the end of the window.
    pub tcp_bytes: u64,
    /// Segments a second that went to each client.
    pub writes: Option<f64>,
    /// The server's processor time for each of those, microseconds.
    pub us_per_write: Option<f64>,
    /// From the end of the window until nothing more came, seconds.
    pub drain_s: f64,
    /// Publisher to sample, video.
    pub video: Latency,
    /// The same of audio.
    pub audio: Latency,
}

/// Milliseconds; NaN (JSON: null) without samples.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Messages.
    pub samples: u64,
    /// Median.
    #[serde(deserialize_with = "or_nan")]
    pub p50: f64,
    /// 90th percentile.
    #[serde(deserialize_with = "or_nan")]
    pub p90: f64,
    /// 99th percentile.
    #[serde(deserialize_with = "or_nan")]
    pub p99: f64,
    /// Maximum.
    #[serde(deserialize_with = "or_nan")]
    pub max: f64,
}

fn or_nan<'de, D: serde::Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    Ok(Option::<f64>::deserialize(from)?.unwrap_or(f64::NAN))
}

impl Default for Latency {
    fn default() -> Self {
        Self { samples: 0, p50: f64::NAN, p90: f64::NAN, p99: f64::NAN, max: f64::NAN }
    }
}

impl From<&Histogram> for Latency {
    fn from(of: &Histogram) -> Self {
        let at = |percent| of.quantile(percent).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
        let (p50, p90, p99) = (at(50), at(90), at(99));
        Self { samples: of.len(), p50, p90, p99, max: of.quantiles().max_ms }
    }
}

impl Figures {
    /// Why they do not count, if so.
    pub fn void(&self) -> Option<String> {
        if self.delivered.is_nan() || self.video.samples == 0 {
            return Some("nothing came to those who sample".to_owned());
        }
        let share = MIN_DELIVERED * 100.0;
        if self.delivered < MIN_DELIVERED || self.below > 0 {
            return Some(format!(
                "delivered {:.4}, worst {:.4}: {} got less than {share:.0} %",
                self.delivered, self.worst, self.below
            ));
        }
        (self.wrong > 0).then(|| format!("{} messages came with other bytes", self.wrong))
    }
}

impl Turn {
    /// Its figures if they count.
    pub fn counts(&self) -> Option<&Figures> {
        self.outcome.as_ref().ok().filter(|figures| figures.void().is_none())
    }

    /// What is wrong with it, if anything.
    pub fn trouble(&self) -> Option<String> {
        match &self.outcome {
            Ok(figures) => figures.void().map(|why| format!("void: {why}")),
            Err(why) => Some(format!("failed: {}", why.lines().next().unwrap_or_default())),
        }
    }
}

impl Record {
    /// Nothing measured yet.
    pub fn new(host: Host) -> Self {
        Self { host, turns: Vec::new(), left_out: Vec::new() }
    }

    /// As it was kept.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
    }

    /// Keeps it: whole, or as it was before.
    pub fn save(&self, path: &Path) -> Result<()> {
        let new = path.with_extension("json.new");
        let kept = || -> Result<()> {
            fs::write(&new, serde_json::to_vec_pretty(self)?)?;
            Ok(fs::rename(&new, path)?)
        };
        kept().with_context(|| format!("cannot write {}", path.display()))
    }

    /// Why the run as a whole failed: turns that must be good and are not. A peer may fail.
    pub fn failures(&self) -> Vec<String> {
        let ours = self.turns.iter().filter(|turn| turn.side != Side::Peer);
        let told = ours.filter_map(|turn| {
            let why = turn.trouble()?;
            Some(format!("{}, {}, round {}: {why}", turn.scenario, turn.server, turn.round))
        });
        told.collect()
    }
}

/// The machine, and what ran on it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Host {
    /// Processor.
    pub cpu: String,
    /// How many of them.
    pub cores: usize,
    /// Release.
    pub kernel: String,
    /// Congestion control of TCP.
    pub congestion: String,
    /// Most of a send buffer: `least usual most`, bytes.
    pub wmem: String,
    /// Of ours.
    pub commit: String,
    /// The day, UTC.
    pub date: String,
    /// The whole line.
    pub command: String,
    /// nginx and its module.
    pub nginx: String,
    /// Load average of the last minute before we began.
    pub load_average: String,
    /// Whether those who publish and sample went before the rest of the load.
    pub is_raised: bool,
    /// Length of a window.
    pub seconds: u64,
    /// Turns of each.
    pub rounds: u32,
    /// Configurations beside the default, by name.
    pub variants: Vec<String>,
}

impl Host {
    /// This one.
    pub fn look() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let file = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let words = std::env::args().skip(1).map(|word| {
            if word.contains([' ', '"', ';', '*']) { format!("'{word}'") } else { word }
        });
        let average = fs::read_to_string("/proc/loadavg")?;
        let package = ["-W", "-f", "${Package} ${Version}\\n", "nginx", "libnginx-mod-rtmp"];
        Ok(Self {
            cpu: model.unwrap_or("unknown").trim_matches([':', '\t', ' ']).to_owned(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: file("/proc/sys/kernel/osrelease"),
            congestion: file("/proc/sys/net/ipv4/tcp_congestion_control"),
            wmem: file("/proc/sys/net/ipv4/tcp_wmem"),
            commit: said(Command::new("git").args(["describe", "--always", "--dirty"])),
            date: said(Command::new("date").args(["-u", "+%F"])),
            command: format!("cargo xtask {}", words.collect::<Vec<_>>().join(" ")),
            nginx: said(Command::new("dpkg-query").args(package)),
            load_average: average.split(' ').next().unwrap_or_default().to_owned(),
            ..Self::default()
        })
    }
}

/// What a command prints, in one line.
fn said(command: &mut Command) -> String {
    let output = command.current_dir(tidy::root()).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    let lines = text.unwrap_or_default().lines().collect::<Vec<_>>().join(", ");
    if lines.is_empty() { "unknown".to_owned() } else { lines }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A turn that went well.
    pub fn good() -> Figures {
        let latency = Latency { samples: 600, p50: 1.0, p90: 2.0, p99: 3.0, max: 4.0 };
        Figures {
            seconds: 8.0,
            delivered: 1.0,
            worst: 0.999,
            cpu: 10.0,
            rss_bytes: 20 << 20,
            rss_per_client_bytes: 4096.0,
            writes: Some(25.0),
            us_per_write: Some(4.0),
            video: latency,
            audio: latency,
            ..Figures::default()
        }
    }

    /// One turn with these figures.
    pub fn turn(scenario: Scenario, server: &str, round: u32, figures: Figures) -> Turn {
        let side = match server {
            "nginx-rtmp" => Side::Peer,
            _ if server.starts_with("floor") => Side::Floor,
            _ => Side::Ours,
        };
        let server = server.to_owned();
        Turn { scenario, server, side, round, outcome: Ok(figures) }
    }

    #[test]
    fn less_than_98_percent_for_anybody_is_void() {
        assert_eq!(good().void(), None);
        let mean = Figures { delivered: 0.9799, worst: 0.9799, ..good() };
        assert!(mean.void().unwrap().contains("0.9799"));
        let one = Figures { delivered: 0.9999, worst: 0.5, below: 1, ..good() };
        assert!(one.void().unwrap().contains("1 got less than 98 %"));
        assert!(Figures { delivered: f64::NAN, ..good() }.void().is_some());
        assert!(Figures { video: Latency::default(), ..good() }.void().is_some());
        assert!(Figures { wrong: 1, ..good() }.void().is_some());
    }

    #[test]
    fn a_peer_may_fail_and_others_may_not() {
        use super::super::scenario::players;
        let mut record = Record::new(Host::default());
        let void = || Figures { delivered: 0.5, below: 9, ..good() };
        record.turns.push(turn(players(100), "nginx-rtmp", 1, void()));
        assert!(record.failures().is_empty());
        record.turns.push(turn(players(100), "floor", 1, void()));
        let failed =
            Turn { outcome: Err("died\nlog".into()), ..turn(players(9), "ours", 2, good()) };
        record.turns.push(failed);
        let failures = record.failures();
        assert!(failures[0].contains("players-100, floor, round 1: void: delivered 0.5000"));
        assert_eq!(failures[1], "players-9, ours, round 2: failed: died");
        assert_eq!(failures.len(), 2);
    }

    #[test]
    fn a_record_comes_back_with_what_is_not_known() {
        let dir = std::env::temp_dir().join(format!("xtask-record-{}.json", std::process::id()));
        let mut record = Record::new(Host { nginx: "x".into(), ..Host::default() });
        let silent = Figures { audio: Latency::default(), ..good() };
        record.turns.push(turn(super::super::scenario::MAIN, "ours", 1, silent));
        record.save(&dir).unwrap();
        let back = Record::load(&dir);
        fs::remove_file(&dir).unwrap();
        let back = back.unwrap();
        let figures = back.turns[0].counts().unwrap();
        assert!(figures.audio.p50.is_nan());
        assert_eq!(figures.video, good().video);
        assert_eq!(back.host.nginx, "x");
    }
}
