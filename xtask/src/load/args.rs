//! The command line of `cargo xtask load`.
use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use forwarder::rtmp::url::RtmpUrl;

use super::ffmpeg;
use super::guest::Target;
use super::stream::Shape;
use crate::client;

/// Files open besides sockets.
const OTHER_FILES: usize = 200;
/// Of one ffmpeg here: its log, twice while it starts.
const FILES_AN_FFMPEG: usize = 3;
/// Stands for the number of a stream in a URL.
const NUMBER: &str = "{n}";

/// What happens, below the options.
const AFTER_HELP: &str = "\
Publishers come first, then players. When all are there the window begins, of which counts and \
latencies are; how players joined is told apart. The exit status is 0 only if all that were asked \
for played, and each got 98 % of what was published where that is known: of synthetic streams of \
the same process. Slow and stuck players may be closed, and only have to come.";

/// Who is to come, and where to.
#[derive(clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct Args {
    // clap would make a line break of the placeholder itself.
    /// `rtmp://host[:port]/app/stream`, where an n in braces stands for the number of the stream,
    /// from 0; several: players take turns
    #[arg(required = true, value_name = "URL")]
    pub urls: Vec<String>,
    /// Players that count bytes and do not parse
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub players: usize,
    /// Synthetic streams to publish
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub publishers: usize,
    /// Where to publish, if not at the first URL
    #[arg(long, value_name = "URL")]
    pub publish: Option<String>,
    /// Streams to play that somebody else publishes
    #[arg(long, value_name = "N", conflicts_with_all = ["publishers", "ffmpeg_publishers"])]
    pub streams: Option<usize>,
    /// Length of the window, seconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub seconds: u64,
    /// Who comes in a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    pub ramp: u32,
    /// All players come at once
    #[arg(long, conflicts_with = "ramp")]
    pub burst: bool,
    /// Players that parse everything: latency, gaps, damage
    #[arg(long, default_value_t = 3, value_name = "K")]
    pub probes: usize,
    /// N players that read BITS a second, such as `10:200k`
    #[arg(long, value_name = "N:BITS")]
    pub slow: Vec<Slow>,
    /// Players that read nothing once they play
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub stuck: usize,
    /// Players that are refused or closed come back, after 0.5 to 1.5 s
    #[arg(long)]
    pub reconnect: bool,
    /// Bits a second of each synthetic stream, such as `500k` or `2M`
    #[arg(long, default_value = "500k", value_parser = bits)]
    pub bitrate: u64,
    /// Video frames a second
    #[arg(long, default_value_t = 25, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub fps: u64,
    /// Frames from keyframe to keyframe
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub gop: u64,
    /// Audio messages a second; 0: none
    #[arg(long, default_value_t = 43, value_parser = clap::value_parser!(u64).range(0..=1000))]
    pub audio: u64,
    /// ffmpegs that play, without decoding
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub ffmpeg_players: usize,
    /// ffmpegs that publish a clip; their streams follow the synthetic ones
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub ffmpeg_publishers: usize,
    /// Write the results there too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Run this build as it is, not a release
    #[arg(long)]
    pub as_is: bool,
}

/// Players that read slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slow {
    /// How many.
    pub players: usize,
    /// What each reads, bits a second.
    pub bps: u64,
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (players, rate) = text.split_once(':').ok_or("expected N:BITS, such as 10:200k")?;
        let players = players.parse().map_err(|_| format!("`{players}` is no number"))?;
        Ok(Self { players, bps: bits(rate)? })
    }
}

/// Bits a second, with `k`, `M` or `G` behind a whole number or none.
fn bits(text: &str) -> Result<u64, String> {
    let (digits, factor) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 1000),
        Some((at, 'm' | 'M')) => (text.get(..at), 1_000_000),
        Some((at, 'g' | 'G')) => (text.get(..at), 1_000_000_000),
        _ => (Some(text), 1),
    };
    let number: Option<u64> = digits.and_then(|digits| digits.parse().ok());
    let bits = number.and_then(|number| number.checked_mul(factor));
    // A terabit is beyond any of this, and keeps sums from overflowing.
    bits.filter(|bits| (1..=1_000_000_000_000).contains(bits))
        .ok_or_else(|| format!("`{text}` is no rate: expected bits a second, such as 500k or 2M"))
}

/// Where everybody goes.
pub struct Targets {
    /// By stream.
    pub publish: Vec<Arc<Target>>,
    /// By stream, those of ffmpeg.
    pub ffmpeg_publish: Vec<RtmpUrl>,
    play: Vec<Vec<Arc<Target>>>,
}

impl Args {
    /// What is published.
    pub fn shape(&self) -> Shape {
        let Self { fps, gop, bitrate, audio, .. } = *self;
        Shape { fps, gop, bitrate, audio }
    }

    /// Players of all kinds but ffmpeg.
    pub fn all_players(&self) -> usize {
        let slow = self.slow.iter().map(|slow| slow.players).sum::<usize>();
        self.players + slow + self.stuck + self.all_probes()
    }

    /// Probes; none where nobody else plays or is asked to.
    pub fn all_probes(&self) -> usize {
        let others = self.players + self.stuck + self.slow.len() + self.ffmpeg_players;
        if others > 0 || self.publishers == 0 || self.streams.is_some() { self.probes } else { 0 }
    }

    /// Refuses what cannot be run here. `open_files`: the limit of this process.
    pub fn check(&self, open_files: u64) -> Result<()> {
        let ffmpegs = self.ffmpeg_players + self.ffmpeg_publishers;
        if self.all_players() + self.publishers + ffmpegs == 0 {
            bail!("nothing to do: give --players N, --publishers N or another of them");
        }
        ffmpeg::check(ffmpegs)?;
        let sockets = self.all_players() + self.publishers;
        let wanted = sockets + ffmpegs * FILES_AN_FFMPEG + OTHER_FILES;
        if wanted as u64 > open_files {
            bail!(
                "{} players and {} publishers need {wanted} open files, and the hard limit is \
                 {open_files}: raise it (`ulimit -Hn`, as root), or ask for less",
                self.all_players(),
                self.publishers
            );
        }
        if let Ok(range) = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range") {
            self.check_ports(sockets + ffmpegs, &range)?;
        }
        Ok(())
    }

    /// A port of ours is good for one connection to one address. `range`: `first last`.
    fn check_ports(&self, sockets: usize, range: &str) -> Result<()> {
        let mut ends = range.split_whitespace().filter_map(|end| end.parse::<usize>().ok());
        let (Some(first), Some(last)) = (ends.next(), ends.next()) else { return Ok(()) };
        let ports = (last + 1).saturating_sub(first);
        let each = sockets.div_ceil(self.urls.len().max(1));
        if each > ports {
            bail!(
                "{each} connections to one address, and there are {ports} ports for them \
                 (net.ipv4.ip_local_port_range): give several URLs with different addresses"
            );
        }
        Ok(())
    }

    /// All that anybody goes to.
    pub fn targets(&self) -> Result<Targets> {
        let all = self.publishers + self.ffmpeg_publishers;
        let streams = self.streams.unwrap_or(all).max(1);
        let mut addresses = HashMap::new();
        let mut of = |pattern: &str, stream: usize| -> Result<Arc<Target>> {
            if streams > 1 && !pattern.contains(NUMBER) {
                bail!("{streams} streams need {NUMBER} for their number in {pattern}");
            }
            let url: RtmpUrl = pattern
                .replace(NUMBER, &stream.to_string())
                .parse()
                .with_context(|| pattern.to_owned())?;
            let address = match addresses.get(&(url.host.clone(), url.port)) {
                Some(address) => *address,
                None => {
                    let address: SocketAddr = client::resolve(&url)?;
                    addresses.insert((url.host.clone(), url.port), address);
                    address
                }
            };
            Ok(Arc::new(Target { url, address, stream }))
        };
        let first = self.urls.first().context("no URL")?;
        let publish = self.publish.as_ref().unwrap_or(first);
        let ours = (0..self.publishers).map(|stream| of(publish, stream));
        let ours = ours.collect::<Result<Vec<_>>>()?;
        let theirs = (self.publishers..all).map(|stream| Ok(of(publish, stream)?.url.clone()));
        let theirs = theirs.collect::<Result<Vec<_>>>()?;
        let play = self.urls.iter().map(|url| (0..streams).map(|stream| of(url, stream)).collect());
        Ok(Targets { publish: ours, ffmpeg_publish: theirs, play: play.collect::<Result<_>>()? })
    }
}

impl Targets {
    /// Where `n` players go: URLs take turns, and behind them the streams.
    pub fn play(&self, n: usize) -> Vec<Arc<Target>> {
        let urls = self.play.len().max(1);
        let target = |player: usize| {
            let streams = self.play.get(player % urls)?;
            streams.get(player / urls % streams.len().max(1)).cloned()
        };
        (0..n).filter_map(target).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Line::try_parse_from(["load"].into_iter().chain(line.split(' '))).unwrap().args
    }

    #[test]
    fn rates_and_slow_players_are_read() {
        let good = [("8", 8), ("500k", 500_000), ("2M", 2_000_000), ("1G", 1_000_000_000)];
        for (text, expected) in good {
            assert_eq!(bits(text), Ok(expected));
        }
        for text in ["", "k", "-1", "0", "2.5M", "9999999999999", "18446744073709551615G", "5é"] {
            assert!(bits(text).is_err(), "{text}");
        }
        assert_eq!("10:200k".parse(), Ok(Slow { players: 10, bps: 200_000 }));
        assert!("10".parse::<Slow>().is_err() && "x:1".parse::<Slow>().is_err());
    }

    #[test]
    fn players_are_spread_over_servers_and_streams() {
        let args =
            parse("rtmp://127.0.0.1:1/live/s{n} rtmp://127.0.0.1:2/live/s{n} --publishers 2");
        let targets = args.targets().unwrap();
        let shown: Vec<_> =
            targets.play(5).iter().map(|t| (t.address.port(), t.url.stream.clone())).collect();
        let at = |port: u16, stream: &str| (port, stream.to_owned());
        assert_eq!(shown, [at(1, "s0"), at(2, "s0"), at(1, "s1"), at(2, "s1"), at(1, "s0")]);
        let publish: Vec<_> = targets.publish.iter().map(|t| t.url.stream.as_str()).collect();
        assert_eq!(publish, ["s0", "s1"]);
    }

    #[test]
    fn streams_of_ffmpeg_follow_ours() {
        let args = parse("rtmp://127.0.0.1/live/{n} --publishers 2 --ffmpeg-publishers 1");
        let targets = args.targets().unwrap();
        assert_eq!(targets.ffmpeg_publish[0].stream, "2");
        assert_eq!(targets.play(3)[2].url.stream, "2");
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        let several = parse("rtmp://127.0.0.1/live/a --publishers 2");
        assert!(several.targets().err().unwrap().to_string().contains("{n}"));
        let nothing = parse("rtmp://127.0.0.1/live/a --probes 0");
        assert!(nothing.check(1000).unwrap_err().to_string().contains("nothing to do"));
        let many = parse("rtmp://127.0.0.1/live/a --players 1000");
        assert!(many.check(1000).unwrap_err().to_string().contains("1203 open files"));
        assert!(many.check(1300).is_ok());
        assert!(many.check_ports(1000, "32768\t60999\n").is_ok());
        assert!(
            many.check_ports(1000, "60900 60999").unwrap_err().to_string().contains("100 ports")
        );
    }
}
