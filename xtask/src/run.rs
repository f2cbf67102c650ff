//! `cargo xtask run`: a master and four slaves with real video, watched and proven; or one server.
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::flv;
use forwarder::rtmp::message::MediaKind;
use forwarder::rtmp::session::{ClientEvent, Goal};
use forwarder::rtmp::url::RtmpUrl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::client::Connection;
use crate::cluster::{self, Cluster};
use crate::process::{self, Process};
use crate::table::Table;
use crate::{ebpf, publish, tidy};

const APP: &str = "live";
const STREAM: &str = "livestream";

/// Media that must come from a slave before it counts as playing, milliseconds.
const PROOF_MEDIA_MS: i32 = 2000;

/// How long a slave may take to prove that it plays.
const PROOF_WITHIN: Duration = Duration::from_secs(20);

/// How to run.
#[derive(clap::Args)]
pub struct Args {
    /// Stop after so many seconds; fails unless every slave was seen to play.
    #[arg(long)]
    seconds: Option<u64>,
    /// Publish the clip of tests/media with our own client even if ffmpeg is there.
    #[arg(long)]
    clip: bool,
    /// Arguments for one server instead of the cluster: `-- -c FILE`.
    #[arg(last = true)]
    server: Vec<String>,
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    ebpf::prepare(ebpf::Missing::Leave)?;
    cluster::build()?;
    process::catch_interrupt()?;
    if args.server.is_empty() { run_cluster(args) } else { run_one(args) }
}

fn run_cluster(args: &Args) -> Result<()> {
    process::raise_open_files()?;
    let started = Instant::now();
    let folder = cluster::target().join("cluster");
    let mut cluster = Cluster::start(&folder)?;
    let mut source = Source::start(cluster.master.port, &folder, args.clip)?;
    if let Err(error) = prove_all(&mut cluster, &mut source) {
        explain(&cluster);
        return Err(error);
    }
    print_urls(&cluster);
    let mut table = Table::new();
    let end = args.seconds.map(|seconds| started + Duration::from_secs(seconds));
    while !process::interrupted() && end.is_none_or(|end| Instant::now() < end) {
        cluster.check()?;
        source.check()?;
        table.show(&cluster);
        thread::sleep(Duration::from_millis(200));
    }
    // A last look, so that a short run without a terminal shows one too.
    table.show_last(&cluster);
    println!("stopping");
    if args.seconds.is_some() {
        process::check_interrupt()?;
        println!("every slave was proven to play");
    }
    Ok(())
}

fn url(port: u16) -> Result<RtmpUrl> {
    Ok(format!("rtmp://127.0.0.1:{port}/{APP}/{STREAM}").parse()?)
}

fn print_urls(cluster: &Cluster) {
    println!("\nwatch:");
    for (n, slave) in cluster.slaves.iter().enumerate() {
        let url = format!("rtmp://127.0.0.1:{}/{APP}/{STREAM}", slave.port);
        println!("  slave {}   ffplay {url}", n + 1);
    }
    println!("status:");
    let servers = std::iter::once(&cluster.master).chain(&cluster.slaves);
    for server in servers {
        let name = server.process.name();
        println!("  {name:<8}  http://127.0.0.1:{}/api/v1/status", server.api);
    }
    println!("publish your own:");
    let port = cluster.master.port;
    println!("  ffmpeg -re -i FILE -c copy -f flv rtmp://127.0.0.1:{port}/{APP}/mine\n");
}

/// What the servers logged, when a proof failed.
fn explain(cluster: &Cluster) {
    for server in std::iter::once(&cluster.master).chain(&cluster.slaves) {
        eprintln!("{}: {}", server.process.name(), server.process.log_tail());
    }
}

/// Plays from every slave at once; says how each went, and fails if one does not play.
fn prove_all(cluster: &mut Cluster, source: &mut Source) -> Result<()> {
    let mut proofs = Vec::new();
    for slave in &cluster.slaves {
        let url = url(slave.port)?;
        proofs.push(thread::spawn(move || prove(&url)));
    }
    for (n, proof) in proofs.into_iter().enumerate() {
        while !proof.is_finished() {
            cluster.check()?;
            source.check()?;
            thread::sleep(Duration::from_millis(20));
        }
        let proof = proof.join().map_err(|_| anyhow!("a player panicked"))?;
        println!("slave {}: {}", n + 1, proof.with_context(|| format!("slave {}", n + 1))?);
    }
    Ok(())
}

/// Plays `url` until a keyframe and two seconds of media have come; says how it went.
fn prove(url: &RtmpUrl) -> Result<String> {
    let start = Instant::now();
    let mut proof = Proof::default();
    let mut player = Connection::open(url, Goal::Play)?;
    while !proof.is_complete() {
        if start.elapsed() > PROOF_WITHIN {
            bail!("no keyframe and two seconds of media within {PROOF_WITHIN:?}: {proof:?}");
        }
        process::check_interrupt()?;
        player.poll(Duration::from_millis(100), |event| proof.take(&event, start.elapsed()))?;
    }
    player.finish()?;
    let Proof { keyframe_after, messages, .. } = proof;
    let millis = keyframe_after.unwrap_or_default().as_millis();
    Ok(format!("plays (first keyframe after {millis} ms, {messages} messages)"))
}

/// What a player has seen.
#[derive(Debug, Default)]
struct Proof {
    keyframe_after: Option<Duration>,
    messages: u64,
    first: Option<Timestamp>,
    media_ms: i32,
}

impl Proof {
    fn take(&mut self, event: &ClientEvent<'_>, after: Duration) {
        let ClientEvent::Media(message) = event else {
            return;
        };
        self.messages += 1;
        if message.kind == MediaKind::Data {
            return;
        }
        if message.kind == MediaKind::Video && flv::video(message.payload).keyframe {
            self.keyframe_after.get_or_insert(after);
        }
        // Headers may carry time 0 in front of media of any time: count from the keyframe.
        if self.keyframe_after.is_some() {
            let first = *self.first.get_or_insert(message.timestamp);
            self.media_ms = self.media_ms.max(message.timestamp.since(first));
        }
    }

    fn is_complete(&self) -> bool {
        self.media_ms >= PROOF_MEDIA_MS
    }
}

/// Who publishes: ffmpeg, or a thread of ours with the clip.
enum Source {
    Ffmpeg(Process),
    Clip(Option<thread::JoinHandle<Result<u64>>>),
}

impl Source {
    fn start(port: u16, folder: &Path, clip: bool) -> Result<Self> {
        let url = url(port)?;
        if !clip && process::exists("ffmpeg") {
            println!("publishing a test picture with ffmpeg (1280x720, 25 fps, 2 Mbit/s)");
            let target = format!("rtmp://127.0.0.1:{port}/{APP}/{STREAM}");
            let mut command = Command::new("ffmpeg");
            command.args("-hide_banner -loglevel warning -nostdin -re -f lavfi -i".split(' '));
            command.args("testsrc2=size=1280x720:rate=25 -re -f lavfi -i".split(' '));
            command.args("sine=frequency=440:sample_rate=44100 -c:v libx264".split(' '));
            command.args("-preset veryfast -tune zerolatency -pix_fmt yuv420p".split(' '));
            command.args("-g 50 -b:v 2M -c:a aac -b:a 96k -f flv".split(' ')).arg(target);
            let log = folder.join("ffmpeg.log");
            return Ok(Self::Ffmpeg(Process::start("ffmpeg", command, &log, None)?));
        }
        let file = tidy::root().join("tests/media/clip.flv");
        println!("publishing {} in a loop with our own client", file.display());
        let publishing = move || publish::publish(&file, &url, true, &process::interrupted);
        Ok(Self::Clip(Some(thread::spawn(publishing))))
    }

    /// An error when it publishes no more.
    fn check(&mut self) -> Result<()> {
        match self {
            Self::Ffmpeg(process) => process.check(),
            Self::Clip(thread) => match thread.take_if(|thread| thread.is_finished()) {
                Some(thread) => {
                    let ended = thread.join().map_err(|_| anyhow!("the publisher panicked"))?;
                    let sent = ended.context("the publisher failed")?;
                    process::check_interrupt()?;
                    Err(anyhow!("the publisher ended after {sent} messages"))
                }
                None => Ok(()),
            },
        }
    }
}

/// One server with our terminal. A first INT, TERM or HUP lets it drain, a second stops it at once.
fn run_one(args: &Args) -> Result<()> {
    let mut command = Command::new(cluster::binary());
    command.arg("run").args(&args.server).process_group(0);
    let mut child = command.spawn().context("cannot start the server")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let end = args.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let mut passed_on = 0;
    loop {
        if let Some(status) = child.try_wait()? {
            if status.success() || passed_on > 0 {
                return Ok(());
            }
            bail!("the server has exited: {status}");
        }
        let is_over = end.is_some_and(|end| Instant::now() >= end);
        let asked = process::interrupts() + u32::from(is_over);
        if asked > passed_on {
            passed_on = asked;
            kill(pid, if asked == 1 { Signal::SIGTERM } else { Signal::SIGINT })?;
        }
        thread::sleep(Duration::from_millis(50));
    }
}

#[cfg(test)]
mod tests {
    use forwarder::rtmp::message::MediaMessage;

    use super::*;

    fn feed(proof: &mut Proof, kind: MediaKind, timestamp: u32, payload: &[u8]) {
        let message = MediaMessage { kind, timestamp: Timestamp(timestamp), msid: 1, payload };
        proof.take(&ClientEvent::Media(message), Duration::from_millis(7));
    }

    #[test]
    fn a_proof_needs_a_keyframe_and_two_seconds_after_it() {
        let mut proof = Proof::default();
        feed(&mut proof, MediaKind::Video, 0, b"\x17\x00\x00\x00\x00\x01");
        feed(&mut proof, MediaKind::Video, 9_000, b"\x27\x01\x00\x00\x00\x01");
        assert!(!proof.is_complete(), "a sequence header and an inter frame prove nothing");
        feed(&mut proof, MediaKind::Video, 10_000, b"\x17\x01\x00\x00\x00\x01");
        feed(&mut proof, MediaKind::Audio, 11_999, b"\xaf\x01\x21");
        assert!(!proof.is_complete());
        feed(&mut proof, MediaKind::Audio, 12_000, b"\xaf\x01\x21");
        assert!(proof.is_complete());
        assert_eq!(proof.keyframe_after, Some(Duration::from_millis(7)));
    }
}
