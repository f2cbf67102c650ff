//! `cargo xtask publish`: an FLV file to a server in real time, with our own client.
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::flv;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::url::RtmpUrl;

use crate::client::Connection;
use crate::flv_file::{FlvReader, Tag};
use crate::process;

/// What to publish, and where.
#[derive(clap::Args)]
pub struct Args {
    /// An FLV file.
    file: PathBuf,
    /// `rtmp://host[:port]/app/stream[?param]`
    url: RtmpUrl,
    /// Start over at the end, with time going on.
    #[arg(long = "loop")]
    repeat: bool,
    /// Stop after so many seconds.
    #[arg(long)]
    seconds: Option<u64>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    process::catch_interrupt()?;
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let stop = || process::interrupted() || end.is_some_and(|end| Instant::now() >= end);
    let sent = publish(&args.file, &args.url, args.repeat, &stop)?;
    println!("published {sent} messages");
    Ok(())
}

/// Publishes `file` until its end, or in a loop until `stop`. Gives the messages sent.
pub fn publish(file: &Path, url: &RtmpUrl, repeat: bool, stop: &dyn Fn() -> bool) -> Result<u64> {
    let mut connection = Connection::publish(url)?;
    let start = Instant::now();
    let mut timeline = Timeline::default();
    let mut sent = 0;
    loop {
        let input = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        let mut reader = FlvReader::new(BufReader::new(input))?;
        let before = sent;
        while let Some(tag) = reader.read()? {
            let Some(timestamp) = timeline.place(&tag) else {
                continue;
            };
            let due = start + Duration::from_millis(timestamp);
            while Instant::now() < due && !stop() {
                let left = due.saturating_duration_since(Instant::now());
                thread::sleep(left.min(Duration::from_millis(100)));
                connection.poll(Duration::ZERO, |_| ())?;
            }
            if stop() {
                connection.finish()?;
                return Ok(sent);
            }
            // What RTMP counts in is 32 bits wide and wraps.
            let timestamp = u32::try_from(timestamp & u64::from(u32::MAX))?;
            match tag.kind {
                MediaKind::Data => {
                    connection.send(tag.kind, timestamp, &data_frame(&tag.payload))?
                }
                _ => connection.send(tag.kind, timestamp, &tag.payload)?,
            }
            sent += 1;
        }
        if sent == before {
            bail!("{} holds no media", file.display());
        }
        if !repeat {
            connection.finish()?;
            return Ok(sent);
        }
        timeline.rewind();
    }
}

/// Puts the tags of a repeated file on one time line.
#[derive(Default)]
struct Timeline {
    /// Where this round starts, milliseconds.
    offset: u64,
    /// Whether a round has been through.
    again: bool,
    last: u64,
    last_video: u64,
    /// Time between the last two video tags: what goes between two rounds.
    gap: u64,
}

impl Timeline {
    /// When `tag` is due, milliseconds; `None` when it is to be left out: metadata and sequence
    /// headers go out once, as encoders do.
    fn place(&mut self, tag: &Tag) -> Option<u64> {
        let is_header = match tag.kind {
            MediaKind::Data => true,
            MediaKind::Video => flv::video(&tag.payload).header.is_some(),
            MediaKind::Audio => flv::audio(&tag.payload).header.is_some(),
        };
        if is_header && self.again {
            return None;
        }
        let due = self.offset + u64::from(tag.timestamp);
        if tag.kind == MediaKind::Video && due > self.last_video {
            self.gap = due - self.last_video;
            self.last_video = due;
        }
        self.last = self.last.max(due);
        Some(due)
    }

    fn rewind(&mut self) {
        self.offset = self.last + self.gap.clamp(1, 1000);
        self.again = true;
    }
}

/// Metadata as encoders send it: `@setDataFrame` before the name.
fn data_frame(payload: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"\x02\x00\x0d@setDataFrame";
    if payload.starts_with(NAME) { payload.to_vec() } else { [NAME, payload].concat() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_marked_once() {
        let marked = data_frame(b"\x02\x00\x0aonMetaData\x05");
        assert!(marked.starts_with(b"\x02\x00\x0d@setDataFrame\x02\x00\x0aonMetaData"));
        assert_eq!(data_frame(&marked), marked);
    }

    #[test]
    fn time_goes_on_over_rounds_and_headers_go_out_once() {
        let tag =
            |kind, timestamp, payload: &[u8]| Tag { kind, timestamp, payload: payload.into() };
        let round = [
            tag(MediaKind::Data, 0, b"\x02\x00\x0aonMetaData\x05"),
            tag(MediaKind::Video, 0, b"\x17\x00\x00\x00\x00\x01"),
            tag(MediaKind::Video, 0, b"\x17\x01\x00\x00\x00\x01"),
            tag(MediaKind::Audio, 20, b"\xaf\x01\x21"),
            tag(MediaKind::Video, 40, b"\x27\x01\x00\x00\x00\x01"),
        ];
        let mut timeline = Timeline::default();
        let first: Vec<_> = round.iter().map(|tag| timeline.place(tag)).collect();
        assert_eq!(first, [Some(0), Some(0), Some(0), Some(20), Some(40)]);
        timeline.rewind();
        let second: Vec<_> = round.iter().map(|tag| timeline.place(tag)).collect();
        assert_eq!(second, [None, None, Some(80), Some(100), Some(120)]);
    }
}
