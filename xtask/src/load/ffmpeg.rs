//! Players and publishers that are ffmpeg: few, but what people use.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use forwarder::rtmp::url::RtmpUrl;
use serde::Serialize;

use super::report;
use crate::process::{self, Process};
use crate::{cluster, tidy};

/// Most processes in all: each has some 30 MB, and threads.
const MAX: usize = 500;
/// What is published, over and over.
const CLIP: &str = "tests/media/clip.flv";
/// Seconds without data after which ffmpeg itself gives up.
const GIVE_UP_AFTER: u64 = 30;

/// The processes; dropped, they end.
#[derive(Default)]
pub struct Ffmpegs {
    /// Who plays.
    players: Vec<Ffmpeg>,
    /// Who publishes.
    publishers: Vec<Ffmpeg>,
}

/// One process.
struct Ffmpeg {
    process: Process,
    progress: PathBuf,
    /// Where it was when the window began.
    before: Position,
}

/// How far a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Position {
    /// Frames of video written.
    pub frames: u64,
    /// Time of the last of them, seconds.
    pub seconds: f64,
}

/// How one did.
#[derive(Clone, Debug, Serialize)]
pub struct Went {
    /// Frames of video within the window.
    pub frames: u64,
    /// Media time that passed within the window, seconds.
    pub media_s: f64,
    /// Why it has ended, if it has.
    pub ended: Option<String>,
}

impl Ffmpegs {
    /// Starts those who publish, for at most `seconds`.
    pub fn publish(&mut self, urls: &[RtmpUrl], seconds: u64) -> Result<()> {
        let file = tidy::root().join(CLIP);
        for (n, url) in urls.iter().enumerate() {
            let mut command = command();
            command.args(["-re", "-stream_loop", "-1", "-i"]).arg(&file);
            command.args(["-c", "copy", "-f", "flv", "-t", &seconds.to_string()]);
            self.publishers.push(Ffmpeg::start(&format!("publisher-{n}"), command, &show(url))?);
        }
        Ok(())
    }

    /// Starts those who play, for at most `seconds`.
    pub fn play(&mut self, urls: &[RtmpUrl], seconds: u64) -> Result<()> {
        for (n, url) in urls.iter().enumerate() {
            let mut command = command();
            let micros = GIVE_UP_AFTER * 1_000_000;
            command.args(["-rw_timeout", &micros.to_string(), "-i", &show(url)]);
            command.args(["-c", "copy", "-t", &seconds.to_string(), "-f", "null"]);
            self.players.push(Ffmpeg::start(&format!("player-{n}"), command, "-")?);
        }
        Ok(())
    }

    /// Begins the window.
    pub fn restart(&mut self) {
        for ffmpeg in self.players.iter_mut().chain(&mut self.publishers) {
            ffmpeg.before = ffmpeg.position();
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.players.len() + self.publishers.len()
    }

    /// Whether one runs and has not written a frame.
    pub fn is_waiting(&mut self) -> bool {
        let mut all = self.players.iter_mut().chain(&mut self.publishers);
        all.any(|ffmpeg| ffmpeg.position().frames == 0 && ffmpeg.process.check().is_ok())
    }

    /// How all did since the window began.
    pub fn went(&mut self) -> report::Ffmpeg {
        let of = |all: &mut Vec<Ffmpeg>| all.iter_mut().map(Ffmpeg::went).collect();
        report::Ffmpeg { players: of(&mut self.players), publishers: of(&mut self.publishers) }
    }
}

impl Drop for Ffmpegs {
    fn drop(&mut self) {
        // All at once; each is waited for when it is dropped itself.
        self.players.iter().chain(&self.publishers).for_each(|ffmpeg| ffmpeg.process.interrupt());
    }
}

impl Ffmpeg {
    fn start(name: &str, mut command: Command, output: &str) -> Result<Self> {
        let folder = cluster::target().join("load").join(std::process::id().to_string());
        fs::create_dir_all(&folder)?;
        let progress = folder.join(format!("{name}.progress"));
        command.arg("-progress").arg(&progress).args(["-stats_period", "0.2"]).arg(output);
        let log = folder.join(format!("{name}.log"));
        let process = Process::start(&format!("ffmpeg {name}"), command, &log, None)?;
        Ok(Self { process, progress, before: Position::default() })
    }

    fn position(&self) -> Position {
        parse(&fs::read_to_string(&self.progress).unwrap_or_default())
    }

    fn went(&mut self) -> Went {
        let now = self.position();
        Went {
            frames: now.frames.saturating_sub(self.before.frames),
            media_s: now.seconds - self.before.seconds,
            ended: self.process.check().err().map(|error| format!("{error:#}")),
        }
    }
}

/// Refuses what cannot be run.
pub fn check(wanted: usize) -> Result<()> {
    if wanted > MAX {
        bail!("{wanted} ffmpegs are too many for one machine: at most {MAX}");
    }
    if wanted > 0 && !process::exists("ffmpeg") {
        bail!("ffmpeg is not installed: apt-get install ffmpeg");
    }
    Ok(())
}

/// Removes what the processes wrote.
pub fn clean_up() {
    let folder: &Path = &cluster::target().join("load").join(std::process::id().to_string());
    // It is there only if some ran.
    let _ = fs::remove_dir_all(folder);
}

fn command() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"]);
    command
}

fn show(url: &RtmpUrl) -> String {
    format!("{}/{}", url.tc_url(), url.stream)
}

/// The last of the reports that `-progress` writes one after the other.
fn parse(text: &str) -> Position {
    let last = |key: &str| {
        let mut values = text.lines().rev().filter_map(|line| line.strip_prefix(key));
        // `N/A` before the first frame; a line that is being written may be cut.
        values.find_map(|value| value.trim().parse::<u64>().ok())
    };
    let micros = last("out_time_us=").unwrap_or_default();
    Position { frames: last("frame=").unwrap_or_default(), seconds: super::float(micros) / 1e6 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_whole_report_counts() {
        let text = "frame=0\nout_time_us=N/A\nprogress=continue\nframe=25\nfps=25.0\n\
            out_time_us=1000000\nprogress=continue\nframe=50\nout_time_us=2000000\n\
            progress=continue\nframe=";
        assert_eq!(parse(text), Position { frames: 50, seconds: 2.0 });
        assert_eq!(parse("out_time_us=N/A\n"), Position::default());
        assert_eq!(parse(""), Position::default());
    }
}
