//! Waiting until the kernel's stream parsers have come to rest.
//!
//! Taking a source out of its map while a worker is parsing it loses what the worker reads after
//! that: its programs are gone, and bytes without a verdict are dropped (Linux 6.18, seen once in
//! some ten thousand removals). Parsers that cannot run at once are queued to one ordered
//! workqueue (`kstrp`). So a parser of our own that is queued now, and has run, says that all that
//! were queued before it have run too.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::program::{Pair, PairLimits, SpliceProgram};
use super::socket::{self, TcpCounters};

/// A wait longer than this says that the kernel's workers are stuck.
const LONGEST: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK: Duration = Duration::from_micros(30);

/// A spliced pair of our own, whose parser always runs in the workqueue.
pub struct Barrier(Mutex<Ends>);

struct Ends {
    writer: TcpStream,
    source: TcpStream,
    reader: TcpStream,
    /// Kept open: it is in the map.
    _target: TcpStream,
    pair: Pair,
    passed: u64,
}

impl Barrier {
    /// Sets it up in `program`.
    pub fn new(program: &SpliceProgram) -> io::Result<Self> {
        let (writer, source) = connected()?;
        let (reader, target) = connected()?;
        reader.set_nonblocking(true)?;
        let limits = PairLimits::default();
        let pair = program.insert(source.as_fd(), target.as_fd(), &limits, None)?;
        let ends = Ends { writer, source, reader, _target: target, pair, passed: 0 };
        Ok(Self(Mutex::new(ends)))
    }

    /// Returns when every parser that was queued before has run. TimedOut: one is stuck.
    pub fn wait(&self, program: &SpliceProgram) -> io::Result<()> {
        let mut ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = &mut *ends;
        // A byte that nobody is told of, then a nudge while the socket is locked: it cannot be
        // parsed at once.
        socket::quiet(ends.source.as_fd())?;
        let before = TcpCounters::read(ends.source.as_fd())?.received;
        ends.writer.write_all(&[0])?;
        let began = Instant::now();
        while TcpCounters::read(ends.source.as_fd())?.received == before {
            rest(began)?;
        }
        ends.passed += 1;
        socket::kick(ends.source.as_fd())?;
        while program.stat(&ends.pair)?.redirected < ends.passed {
            rest(began)?;
        }
        // What has come through is of no interest; it must only not pile up.
        let mut drain = [0; 64];
        while ends.reader.read(&mut drain).is_ok_and(|n| n > 0) {}
        Ok(())
    }
}

fn rest(began: Instant) -> io::Result<()> {
    if began.elapsed() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel's parsers do not run"));
    }
    std::thread::sleep(LOOK);
    Ok(())
}

fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    Ok((near, far))
}
