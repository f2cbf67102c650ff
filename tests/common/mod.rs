//! What the tests share: the server under test, the programs of others it is tested with, media
//! whose every byte is known, and peers that speak RTMP or pretend to.
//!
//! Nothing here sleeps to let something happen: [`wait_until`] polls a condition under a deadline.
#![allow(dead_code, reason = "every test binary uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on is to panic")]

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

pub mod browser;
pub mod cases;
pub mod compare;
pub mod dns;
pub mod external;
pub mod flv;
pub mod hook_server;
pub mod legs;
pub mod link;
pub mod media;
pub mod modern;
pub mod netns;
pub mod nginx;
pub mod peer;
pub mod process;
pub mod raw;
pub mod segments;
pub mod server;
pub mod sink;
pub mod tls;
pub mod viewer;

/// Polls `condition` until it holds; panics when it does not `within` the time. Says how long it took.
#[track_caller]
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < within, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    start.elapsed()
}

/// A loopback address nobody listens on.
///
/// Below the range of ephemeral ports, so that neither another test's outgoing connection nor a
/// retry's simultaneous open with itself can take it while its server is down.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 150).unwrap() * 80;
    for _ in 0..12_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
    panic!("no free port between 20000 and 32000");
}

/// Whether a read on a socket with a time-out gave nothing, and may later. The kernel does not begin
/// such a read again behind a signal (signal(7)), whoever it was for.
pub fn nothing_yet(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

/// Seconds, for deadlines.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}
