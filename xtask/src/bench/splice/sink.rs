//! Where all messages of a turn arrive.
use std::cell::RefCell;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{LocalSet, spawn_local};

use super::load::{Clock, HEADER, STAMP};
use crate::bench::report::Samples;
use crate::net::loopback;

/// What has come.
#[derive(Default)]
pub struct Tally {
    /// Messages sent in the window.
    pub delivered: u64,
    /// Messages with another header than was sent.
    pub broken: u64,
    /// Bytes that arrived in the window.
    pub bytes: u64,
    /// Of the messages sent in the window: from before the first byte is written until the last is
    /// read.
    pub latency: Samples,
}

/// Before anybody dials.
pub fn listen(port: u16) -> Result<TcpListener> {
    let listener = TcpListener::bind(loopback(port)).context("cannot listen")?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Receives on all connections until told to stop; `wire` is what each message looks like.
pub fn run(
    listener: TcpListener,
    wire: &[u8],
    clock: &Arc<Clock>,
    stopped: oneshot::Receiver<()>,
) -> Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let shared = Rc::new(RefCell::new((Tally::default(), vec![0; READ])));
    let header: [u8; HEADER] = wire.get(..HEADER).context("no message")?.try_into()?;
    let len = wire.len();
    let accept = async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let messages = Messages { header, len, at: 0, head: [0; HEAD] };
            spawn_local(receive(stream, messages, Arc::clone(clock), Rc::clone(&shared)));
        }
    };
    let result: Result<()> = LocalSet::new().block_on(&runtime, async {
        tokio::select! { ended = accept => ended, _ = stopped => Ok(()) }
    });
    result?;
    let tally = std::mem::take(&mut shared.borrow_mut().0);
    Ok(tally)
}

/// One leg's far end, until it closes.
async fn receive(
    stream: TcpStream,
    mut messages: Messages,
    clock: Arc<Clock>,
    shared: Rc<RefCell<(Tally, Vec<u8>)>>,
) {
    while stream.readable().await.is_ok() {
        let (tally, buffer) = &mut *shared.borrow_mut();
        match stream.try_read(buffer) {
            Ok(0) => return,
            Ok(n) => {
                let now = clock.now();
                if clock.is_in_window(now) {
                    tally.bytes += n as u64;
                }
                messages.feed(&buffer[..n], now, &clock, tally);
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Finds the messages, all of one length, in the bytes of a leg.
struct Messages {
    /// What each begins with.
    header: [u8; HEADER],
    /// Of one, on the wire.
    len: usize,
    /// Bytes of the current one that have come.
    at: usize,
    /// The first of them.
    head: [u8; HEAD],
}

impl Messages {
    fn feed(&mut self, mut bytes: &[u8], now: u64, clock: &Clock, tally: &mut Tally) {
        while !bytes.is_empty() {
            let (these, rest) = bytes.split_at((self.len - self.at).min(bytes.len()));
            for (to, from) in self.head.iter_mut().skip(self.at).zip(these) {
                *to = *from;
            }
            self.at += these.len();
            bytes = rest;
            if self.at == self.len {
                self.at = 0;
                self.take(now, clock, tally);
            }
        }
    }

    fn take(&self, now: u64, clock: &Clock, tally: &mut Tally) {
        let (header, stamp) = self.head.split_at(HEADER);
        tally.broken += u64::from(header != self.header);
        let stamp = u64::from_le_bytes(stamp.try_into().unwrap_or_default());
        if clock.is_in_window(stamp) {
            tally.delivered += 1;
            tally.latency.push(Duration::from_nanos(now.saturating_sub(stamp)));
        }
    }
}

const HEAD: usize = HEADER + STAMP;
/// Most bytes of a read.
const READ: usize = 256 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_wherever_reads_end() {
        let clock = Clock::open();
        let header = *b"0123456789ab";
        let message = |stamp: u64| [&header[..], &stamp.to_le_bytes(), b"payload"].concat();
        let wire = [message(1), message(2), message(3)].concat();
        for step in 1..wire.len() {
            let mut messages = Messages { header, len: wire.len() / 3, at: 0, head: [0; HEAD] };
            let mut tally = Tally::default();
            wire.chunks(step).for_each(|piece| messages.feed(piece, 1003, &clock, &mut tally));
            assert_eq!((tally.delivered, tally.broken), (3, 0), "reads of {step}");
            let latency = tally.latency.quantiles();
            assert_eq!((latency.p50_ms, latency.max_ms), (0.001_001, 0.001_002));
        }
    }

    #[test]
    fn a_lost_byte_breaks_messages() {
        let header = *b"0123456789ab";
        let message = [&header[..], &[0; STAMP], b"payload"].concat();
        let mut wire = message.repeat(3);
        wire.remove(15);
        let mut messages = Messages { header, len: message.len(), at: 0, head: [0; HEAD] };
        let mut tally = Tally::default();
        messages.feed(&wire, 0, &Clock::open(), &mut tally);
        assert_eq!((tally.delivered, tally.broken), (2, 1));
    }
}
