//! Legs under random load, for as long as one likes: bytes compared one by one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use socket2::SockRef;
use tokio::net::TcpStream as AsyncStream;
use tokio::runtime;
use tokio::time::timeout;

use super::{Ended, Leg, LegOptions, Splice};

/// What [`soak`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Soaked {
    /// Streams carried from their first byte to the end.
    pub iterations: u64,
    /// Bytes received, all of them right.
    pub bytes: u64,
    /// How often legs came back from the kernel.
    pub unsplices: u64,
}

/// Carries `iterations` streams of up to `bytes` bytes, one after the other: sent in pieces of 1
/// byte to 300 KB, received by a reader that now and then stops, over a leg that is stopped and
/// armed at random moments. The same for the same `seed`, but for the kernel's timing.
///
/// Errors: the first stream that did not arrive byte for byte, and in which iteration.
pub fn soak(
    iterations: u64,
    bytes: usize,
    splice: &Arc<Splice>,
    seed: u64,
) -> Result<Soaked, String> {
    let mut soaked = Soaked::default();
    let before = splice.why_not();
    for iteration in 0..iterations {
        let mut rng = SmallRng::seed_from_u64(seed.wrapping_add(iteration));
        let len = rng.random_range(bytes / 2..=bytes);
        let unsplices = stream(splice, len, &mut rng)
            .map_err(|error| format!("iteration {iteration} of seed {seed}: {error}"))?;
        if splice.why_not() != before {
            return Err(format!("iteration {iteration} of seed {seed}: {}", splice.describe()));
        }
        soaked.iterations += 1;
        soaked.bytes += len as u64;
        soaked.unsplices += unsplices;
    }
    Ok(soaked)
}

/// Carries one stream; gives how often the leg came back from the kernel.
fn stream(splice: &Arc<Splice>, len: usize, rng: &mut SmallRng) -> io::Result<u64> {
    let (sender, source) = connection()?;
    let (target, receiver) = connection()?;
    let key = rng.next_u64();
    let [send, receive] = [rng.next_u64(), rng.next_u64()].map(SmallRng::seed_from_u64);
    let sent = thread::spawn(move || send_all(sender, key, len, send));
    let received = thread::spawn(move || receive_all(receiver, key, len, receive));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let unsplices = runtime.block_on(carry(splice, source, target, len, rng));
    // First what the ends saw: it tells more.
    for thread in [received, sent] {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    unsplices
}

async fn carry(
    splice: &Arc<Splice>,
    source: TcpStream,
    target: TcpStream,
    len: usize,
    rng: &mut SmallRng,
) -> io::Result<u64> {
    let [source, target] = [source, target].map(|socket| {
        socket.set_nonblocking(true)?;
        AsyncStream::from_std(socket).map(Rc::new)
    });
    let target = target?;
    let options = LegOptions {
        chunk_size: 128,
        // Which soon gets lost, but tells large reads how to go.
        walk: rng.random(),
        soft_limit: 4 << 20,
        hard_limit: 0,
        write_timeout: Duration::from_secs(20),
    };
    let mut leg = Leg::new(splice, source?, Rc::clone(&target), options);
    if rng.random() {
        leg.arm();
    }
    loop {
        // Some of the pauses are over before a byte has come, others see megabytes pass.
        let pause = Duration::from_micros(1 << rng.random_range(0..17_u32));
        match timeout(pause, leg.run()).await {
            Err(_) if rng.random_ratio(1, 3) => {}
            Err(_) => {
                leg.stop().await.map_err(unexpected)?;
                if rng.random() {
                    leg.arm();
                }
            }
            Ok(Ended::Source(None)) => break,
            Ok(ended) => return Err(unexpected(ended)),
        }
    }
    SockRef::from(&*target).shutdown(Shutdown::Write)?;
    match leg.status() {
        status if status.bytes == len as u64 => Ok(status.unsplices),
        status => Err(io::Error::other(format!("{len} bytes, counted {}", status.bytes))),
    }
}

fn unexpected(ended: Ended) -> io::Error {
    io::Error::other(format!("the leg ended: {ended:?}"))
}

fn send_all(mut sender: TcpStream, key: u64, len: usize, mut rng: SmallRng) -> io::Result<()> {
    let mut pattern = Pattern { key, at: 0 };
    let mut bytes = Vec::new();
    while pattern.at < len as u64 {
        // From 1 byte to 300 KB, each magnitude as often.
        let most = 1 << rng.random_range(0..19_u32);
        let left = len.saturating_sub(usize::try_from(pattern.at).unwrap_or(usize::MAX));
        bytes.resize(rng.random_range(1..=most).min(300_000).min(left), 0);
        pattern.fill(&mut bytes);
        sender.write_all(&bytes)?;
        if rng.random_ratio(1, 8) {
            thread::sleep(Duration::from_micros(rng.random_range(1..2000)));
        }
    }
    sender.shutdown(Shutdown::Write)
}

fn receive_all(mut receiver: TcpStream, key: u64, len: usize, mut rng: SmallRng) -> io::Result<()> {
    let mut pattern = Pattern { key, at: 0 };
    let (mut bytes, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    loop {
        let most = rng.random_range(1..=bytes.len());
        let n = receiver.read(bytes.get_mut(..most).unwrap_or_default())?;
        let (got, expected) = (bytes.get(..n), expected.get_mut(..n).unwrap_or_default());
        if n == 0 {
            break;
        }
        let from = pattern.at;
        pattern.fill(expected);
        if got != Some(&*expected) {
            return Err(io::Error::other(format!("wrong in bytes {from} to {}", pattern.at)));
        }
        if rng.random_ratio(1, 200) {
            thread::sleep(Duration::from_micros(rng.random_range(1..20_000)));
        }
    }
    match pattern.at {
        at if at == len as u64 => Ok(()),
        at => Err(io::Error::other(format!("{at} bytes of {len}, then the end"))),
    }
}

/// A sequence of bytes in which every place looks different, and different for every key.
struct Pattern {
    key: u64,
    at: u64,
}

impl Pattern {
    /// The next bytes.
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            let word = ((self.at / 8) ^ self.key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let word = (word ^ (word >> 29)).to_le_bytes();
            *byte = word[(self.at % 8) as usize];
            self.at += 1;
        }
    }
}

/// The dialling and the accepted side; no read waits forever on them.
fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let (accepted, _) = listener.accept()?;
    dialled.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    Ok((dialled, accepted))
}
