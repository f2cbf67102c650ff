//! Source and sink of one turn, in a process of its own: sends RTMP messages over the relay (or
//! straight) to itself, times each, and reads the processor's counters around the window.
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::relay::Carried;
use super::sink::{self, Tally};
use super::usage::{Spent, Usage, float};
use crate::load::histogram::Quantiles;
use crate::net::loopback;
use crate::process;

/// Chunk size of what is sent: forwarder's own.
pub const CHUNK: u32 = 16384;

/// Bytes of a chunk header of type 0.
pub const HEADER: usize = 12;
/// Bytes of the time stamp behind it.
pub const STAMP: usize = 8;

/// What to send where.
#[derive(clap::Args)]
pub struct Args {
    /// The relay's port, or the sink's.
    #[arg(long)]
    to: u16,
    #[arg(long)]
    sink: u16,
    #[arg(long)]
    legs: usize,
    /// Payload of a message.
    #[arg(long)]
    bytes: usize,
    /// Between two messages of a leg; 0 is as fast as it goes.
    #[arg(long)]
    every_ms: u64,
    #[arg(long)]
    window_ms: u64,
    /// The relay's process.
    #[arg(long)]
    relay: Option<u32>,
    /// Where the relay tells how it carries.
    #[arg(long)]
    control: Option<u16>,
}

/// One turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Messages due in the window.
    pub expected: u64,
    /// Those of them that arrived.
    pub delivered: u64,
    /// Messages whose header was not what was sent.
    pub broken: u64,
    /// Megabits a second that arrived in the window.
    pub megabits: f64,
    pub window_ms: f64,
    #[serde(flatten)]
    pub spent: Spent,
    pub latency: Quantiles,
    pub carried: Option<Carried>,
}

/// Nanoseconds of one process, and which of them count.
pub struct Clock {
    zero: Instant,
    /// First and last nanosecond of the window; set before anything is sent.
    begin: AtomicU64,
    end: AtomicU64,
}

impl Clock {
    fn new(begin: u64, end: u64) -> Self {
        let [begin, end] = [begin, end].map(AtomicU64::new);
        Self { zero: Instant::now(), begin, end }
    }

    /// One whose window is always.
    #[cfg(test)]
    pub fn open() -> Self {
        Self::new(0, u64::MAX)
    }

    /// Since it was made.
    pub fn now(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Whether what was sent or came then counts.
    pub fn is_in_window(&self, at: u64) -> bool {
        (self.begin.load(Ordering::Relaxed)..self.end.load(Ordering::Relaxed)).contains(&at)
    }

    fn is_over(&self, at: u64) -> bool {
        at >= self.end.load(Ordering::Relaxed)
    }
}

/// Measures, and prints [`Measured`] as JSON.
pub fn run(args: &Args) -> Result<()> {
    process::raise_open_files()?;
    let wire: Arc<[u8]> = message(args.bytes).into();
    let clock = Arc::new(Clock::new(u64::MAX, u64::MAX));
    let sink = sink::listen(args.sink)?;
    let (stop, stopped) = oneshot::channel();
    let sinking = {
        let (wire, clock) = (Arc::clone(&wire), Arc::clone(&clock));
        thread::spawn(move || sink::run(sink, &wire, &clock, stopped))
    };
    let feeds = connect(args)?;
    let begin = clock.now() + nanos(WARM_UP);
    clock.begin.store(begin, Ordering::Relaxed);
    clock.end.store(begin + args.window_ms * 1_000_000, Ordering::Relaxed);
    let sending = {
        let (wire, clock, every) = (Arc::clone(&wire), Arc::clone(&clock), args.every_ms);
        thread::spawn(move || match Duration::from_millis(every) {
            Duration::ZERO => flat_out(feeds, &wire, &clock),
            every => paced(feeds, &wire, &clock, every),
        })
    };
    sleep_until(&clock, begin);
    let before = (clock.now(), Usage::now(args.relay)?);
    sleep_until(&clock, clock.end.load(Ordering::Relaxed));
    let after = (clock.now(), Usage::now(args.relay)?);
    let carried = args.control.map(ask).transpose()?;
    let (expected, feeds) = sending.join().map_err(|_| anyhow!("the sender panicked"))??;
    thread::sleep(DRAIN);
    _ = stop.send(());
    let mut tally = sinking.join().map_err(|_| anyhow!("the sink panicked"))??;
    drop(feeds);
    let window_ms = float(after.0 - before.0) / 1e6;
    let spent = after.1.since(&before.1, window_ms);
    let measured = summary(&mut tally, expected, window_ms, spent, carried);
    println!("{}", serde_json::to_string(&measured)?);
    Ok(())
}

fn summary(
    tally: &mut Tally,
    expected: u64,
    window_ms: f64,
    spent: Spent,
    carried: Option<Carried>,
) -> Measured {
    Measured {
        expected,
        delivered: tally.delivered,
        broken: tally.broken,
        megabits: float(tally.bytes) * 8.0 / window_ms / 1e3,
        window_ms,
        spent,
        latency: tally.latency.quantiles(),
        carried,
    }
}

/// One message as it is on the wire, its stamp zero: chunks of [`CHUNK`] bytes of payload.
fn message(bytes: usize) -> Vec<u8> {
    let payload = vec![0x5a; bytes.max(STAMP)];
    let mut wire = Vec::new();
    for (n, chunk) in payload.chunks(CHUNK as usize).enumerate() {
        if n == 0 {
            // Type 0, chunk stream 6, timestamp 0, length, video, message stream 1.
            let [_, high, middle, low] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
            wire.extend([0x06, 0, 0, 0, high, middle, low, 9, 1, 0, 0, 0]);
        } else {
            wire.push(0xc6);
        }
        wire.extend(chunk);
    }
    wire
}

/// The end of a leg that sends.
struct Feed {
    stream: TcpStream,
    /// What the socket did not take of the last message.
    rest: Vec<u8>,
}

impl Feed {
    /// Writes what it takes of the rest.
    fn flush(&mut self) -> Result<()> {
        while !self.rest.is_empty() {
            match (&self.stream).write(&self.rest) {
                Ok(n) => drop(self.rest.drain(..n)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("a leg ended while it was fed"),
            }
        }
        Ok(())
    }

    fn send(&mut self, wire: &[u8], stamp: u64) -> Result<()> {
        self.flush()?;
        if self.rest.is_empty() {
            self.rest.extend_from_slice(wire);
            self.rest[HEADER..HEADER + STAMP].copy_from_slice(&stamp.to_le_bytes());
            self.flush()?;
        }
        Ok(())
    }
}

fn connect(args: &Args) -> Result<Vec<Feed>> {
    let feed = |_| {
        let stream = TcpStream::connect(loopback(args.to)).context("cannot connect a leg")?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(args.every_ms > 0)?;
        stream.set_write_timeout(Some(Duration::from_secs(5)))?;
        Ok(Feed { stream, rest: Vec::new() })
    };
    (0..args.legs).map(feed).collect()
}

/// How many messages are due in the window, and the legs, still open.
type Sent = Result<(u64, Vec<Feed>)>;

/// A message a leg each `every`, their phases spread evenly.
fn paced(mut feeds: Vec<Feed>, wire: &[u8], clock: &Clock, every: Duration) -> Sent {
    let legs = u64::try_from(feeds.len())?;
    let (zero, every) = (clock.now(), nanos(every));
    let (mut turn, mut at, mut due_in_window) = (0_u64, 0, 0);
    let mut behind: Vec<usize> = Vec::new();
    loop {
        let now = clock.now();
        if clock.is_over(now) {
            return Ok((due_in_window, feeds));
        }
        for at in std::mem::take(&mut behind) {
            feeds[at].flush()?;
            if !feeds[at].rest.is_empty() {
                behind.push(at);
            }
        }
        let due = |turn: u64| zero + turn * every / legs;
        while due(turn) <= now {
            let stamp = clock.now();
            feeds[at].send(wire, stamp)?;
            if !feeds[at].rest.is_empty() && !behind.contains(&at) {
                behind.push(at);
            }
            // By its stamp, as the sink does it.
            due_in_window += u64::from(clock.is_in_window(stamp));
            turn += 1;
            at = (at + 1) % feeds.len();
        }
        thread::sleep(TICK);
    }
}

fn flat_out(feeds: Vec<Feed>, wire: &[u8], clock: &Clock) -> Sent {
    let mut wire = wire.to_vec();
    let mut sent_in_window = 0;
    loop {
        let stamp = clock.now();
        if clock.is_over(stamp) {
            return Ok((sent_in_window, feeds));
        }
        wire[HEADER..HEADER + STAMP].copy_from_slice(&stamp.to_le_bytes());
        for feed in &feeds {
            (&feed.stream).write_all(&wire).context("the leg ended or took nothing")?;
            sent_in_window += u64::from(clock.is_in_window(stamp));
        }
    }
}

/// How the relay carries, at this moment.
fn ask(port: u16) -> Result<Carried> {
    let mut stream = TcpStream::connect(loopback(port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut json = String::new();
    stream.read_to_string(&mut json).context("the relay does not answer")?;
    Ok(serde_json::from_str(&json)?)
}

fn sleep_until(clock: &Clock, at: u64) {
    thread::sleep(Duration::from_nanos(at.saturating_sub(clock.now())));
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// From the first message to the window: legs find their path in it.
const WARM_UP: Duration = Duration::from_millis(1000);
/// Between two looks at what is due.
const TICK: Duration = Duration::from_millis(1);
/// From the end of the window to the last look at what has come.
const DRAIN: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_whole_for_our_own_reader() {
        for bytes in [STAMP, 2560, CHUNK as usize, 100_000] {
            let wire = message(bytes);
            let mut walk = forwarder::splice::Walk::new(CHUNK);
            walk.feed(&wire);
            assert!(walk.is_at_border(), "{bytes}");
            walk.feed(&wire[..HEADER]);
            assert!(!walk.is_at_border(), "{bytes}");
            assert_eq!(wire.len(), HEADER + bytes + (bytes - 1) / CHUNK as usize);
        }
    }
}
