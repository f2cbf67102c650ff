//! The rows: what is asked of each server, and of which servers.
use std::fmt;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

/// What a server is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scenario {
    /// Players dealt over streams.
    Play {
        /// All of them.
        players: usize,
        /// What is published.
        streams: usize,
        /// Bits a second of each.
        bitrate: u64,
    },
    /// Streams that a master forwards to slaves.
    Forward {
        /// What is published.
        streams: usize,
        /// Each gets all streams.
        slaves: usize,
    },
    /// Streams that next to nobody plays.
    Publish {
        /// One a stream.
        publishers: usize,
    },
}

/// What most rows carry, bits a second.
pub const BITRATE: u64 = 500_000;
/// The row of most aims.
pub const MAIN: Scenario = players(1000);
/// Players that are parsed for good, of one stream.
const SAMPLES: usize = 9;

/// Connections of slaves, or streams of publishers, that are.
const FORWARD_SAMPLES: usize = 3;

/// So many players of one stream.
pub const fn players(players: usize) -> Scenario {
    Scenario::Play { players, streams: 1, bitrate: BITRATE }
}

/// So many streams to so many slaves.
pub const fn forward(streams: usize, slaves: usize) -> Scenario {
    Scenario::Forward { streams, slaves }
}

/// Everything.
pub fn all() -> Vec<Scenario> {
    let mut all: Vec<_> = [100, 500, 1000, 2000, 3000, 6000, 12_000].map(players).into();
    all.push(Scenario::Play { players: 3000, streams: 1, bitrate: 2_500_000 });
    all.push(Scenario::Play { players: 200, streams: 1, bitrate: 20_000_000 });
    let dealt = |streams| Scenario::Play { players: 1000, streams, bitrate: BITRATE };
    all.extend([50, 500].map(dealt));
    all.extend([(1, 1), (1, 4), (1, 16), (20, 8), (50, 1)].map(|(s, n)| forward(s, n)));
    all.extend([500, 2000].map(|publishers| Scenario::Publish { publishers }));
    all
}

/// Enough to see that all works.
pub fn quick() -> Vec<Scenario> {
    let dealt = Scenario::Play { players: 100, streams: 10, bitrate: BITRATE };
    let publish = Scenario::Publish { publishers: 50 };
    vec![players(50), players(1000), dealt, forward(2, 4), publish]
}

/// Those of `all` that one of `patterns` means: a name, its part before a dash, or with `*` for
/// anything.
///
/// Errors: a pattern that means none.
pub fn pick(all: Vec<Scenario>, patterns: &[String]) -> Result<Vec<Scenario>> {
    let means = |pattern: &str, one: &Scenario| {
        let name = one.to_string();
        matches(pattern, &name) || name.starts_with(&format!("{pattern}-"))
    };
    if let Some(none) = patterns.iter().find(|pattern| !all.iter().any(|one| means(pattern, one))) {
        let names: Vec<_> = all.iter().map(Scenario::to_string).collect();
        bail!("no row is called {none}; there are {}", names.join(", "));
    }
    let is_meant = |one: &Scenario| patterns.is_empty() || patterns.iter().any(|p| means(p, one));
    Ok(all.into_iter().filter(is_meant).collect())
}

/// Whether `name` is `pattern`, where `*` stands for anything.
pub fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => name.strip_prefix(head).is_some_and(|rest| {
            let mut ends = (0..=rest.len()).filter(|&at| rest.is_char_boundary(at));
            ends.any(|at| matches(tail, rest.get(at..).unwrap_or_default()))
        }),
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Play { players, streams: 1, bitrate: BITRATE } => write!(f, "players-{players}"),
            Self::Play { players, streams: 1, bitrate } => {
                write!(f, "players-{players}-{}", rate(bitrate))
            }
            Self::Play { streams, .. } => write!(f, "streams-{streams}"),
            Self::Forward { streams, slaves } => write!(f, "forward-{streams}x{slaves}"),
            Self::Publish { publishers } => write!(f, "publish-{publishers}"),
        }
    }
}

impl Scenario {
    /// For people.
    pub fn title(&self) -> String {
        match *self {
            Self::Play { players, streams: 1, bitrate } => {
                format!("{players} players of one stream at {}bit/s", rate(bitrate))
            }
            Self::Play { players, streams, .. } => {
                format!("{players} players dealt over {streams} streams")
            }
            Self::Forward { streams, slaves } => {
                let of =
                    |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
                format!("{} forwarded to {}", of(streams, "stream"), of(slaves, "slave"))
            }
            Self::Publish { publishers } => format!("{publishers} publishers"),
        }
    }

    /// Bits a second of each stream.
    pub fn bitrate(&self) -> u64 {
        match *self {
            Self::Play { bitrate, .. } => bitrate,
            Self::Forward { .. } | Self::Publish { .. } => BITRATE,
        }
    }

    /// What is published.
    pub fn streams(&self) -> usize {
        match *self {
            Self::Play { streams, .. } | Self::Forward { streams, .. } => streams,
            Self::Publish { publishers } => publishers,
        }
    }

    /// Those that the row is about, beside those that sample latency.
    pub fn clients(&self) -> usize {
        match *self {
            Self::Play { players, .. } => players,
            Self::Forward { streams, slaves } => streams * slaves - self.samples().len(),
            Self::Publish { publishers } => publishers,
        }
    }

    /// Connections that the server writes media to.
    pub fn written_to(&self) -> usize {
        match self {
            Self::Play { .. } | Self::Forward { .. } => self.clients() + self.samples().len(),
            Self::Publish { .. } => 0,
        }
    }

    /// Those that sample latency: slave and stream of each. At both ends of any order and in its
    /// middle.
    pub fn samples(&self) -> Vec<(usize, usize)> {
        let (slaves, count) = match *self {
            Self::Forward { slaves, .. } => (slaves, FORWARD_SAMPLES),
            Self::Play { .. } => (1, SAMPLES),
            Self::Publish { .. } => (1, FORWARD_SAMPLES),
        };
        let all = (self.streams() * slaves).max(1);
        let places = (0..count).map(|at| at * (all - 1) / (count - 1));
        let mut found: Vec<_> = places.map(|at| (at % slaves, at / slaves)).collect();
        // Of a forward there is one connection of each; a stream may have several players.
        if matches!(self, Self::Forward { .. }) {
            found.dedup();
        }
        found
    }
}

fn rate(bits: u64) -> String {
    let digits = |unit: u64| {
        let (whole, tenth) = (bits / unit, bits % unit * 10 / unit);
        if tenth == 0 { whole.to_string() } else { format!("{whole}.{tenth}") }
    };
    if bits < 1_000_000 { format!("{}k", digits(1000)) } else { format!("{}M", digits(1_000_000)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_have_names_of_their_own_and_are_picked_by_them() {
        let mut names: Vec<_> = all().iter().map(Scenario::to_string).collect();
        for name in ["players-12000", "players-3000-2.5M", "streams-50", "forward-20x8"] {
            assert!(names.iter().any(|one| one == name), "{name}");
        }
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);

        let picked = |patterns: &[&str]| {
            let patterns: Vec<_> = patterns.iter().map(|&one| one.to_owned()).collect();
            pick(all(), &patterns).map(|rows| rows.len())
        };
        assert_eq!(picked(&["players-1000"]).unwrap(), 1);
        assert_eq!(picked(&["players-3000"]).unwrap(), 2);
        assert_eq!(picked(&["forward", "publish-*"]).unwrap(), 7);
        assert_eq!(picked(&["*x1"]).unwrap(), 2);
        assert_eq!(picked(&[]).unwrap(), count);
        assert!(picked(&["nope"]).unwrap_err().to_string().contains("players-12000"));
    }

    #[test]
    fn samples_are_spread_and_are_no_clients() {
        assert_eq!(forward(20, 8).samples(), [(0, 0), (7, 9), (7, 19)]);
        assert_eq!(forward(1, 1).samples(), [(0, 0)]);
        assert_eq!(forward(1, 1).clients(), 0);
        assert_eq!((forward(20, 8).clients(), forward(20, 8).written_to()), (157, 160));
        assert_eq!(players(100).samples(), [(0, 0); 9]);
        assert_eq!(players(100).written_to(), 109);
        let dealt = Scenario::Play { players: 10, streams: 50, bitrate: BITRATE };
        assert_eq!(dealt.samples().first(), Some(&(0, 0)));
        assert_eq!(dealt.samples().last(), Some(&(0, 49)));
    }
}
