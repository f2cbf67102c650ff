//! Taking sources out of the kernel's map when its stream parsers have come to rest.
//!
//! Taking a source out while a worker is parsing it loses what the worker reads after that: its
//! programs are gone, and bytes without a verdict are dropped (Linux 6.18, seen once in some ten
//! thousand removals). Parsers that cannot run at once are queued to one ordered workqueue
//! (`kstrp`). So a parser of our own that is queued now, and has run, says that all that were
//! queued before it have run too.
//!
//! One thread does that, for all legs that have asked when a pass begins: a thousand legs that come
//! back at once share a few passes, and no shard waits.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::program::{Pair, PairLimits, SpliceProgram};
use super::socket::{self, TcpCounters};

/// The thread, while this lives and until it has done what it was asked.
pub struct Barrier {
    /// Two for each pair at most.
    jobs: mpsc::Sender<Job>,
}

enum Job {
    /// Take the source out, and say so.
    Hold(Pair, oneshot::Sender<io::Result<()>>),
    /// Forget a pair whose leg is gone, and have the source tell of what it has.
    Release(Pair, Option<OwnedFd>),
}

// === impl Barrier ===

impl Barrier {
    /// Sets it up in `program`, and tries it.
    pub fn start(program: &Arc<SpliceProgram>) -> io::Result<Self> {
        let mut parser = Parser::new(program)?;
        parser.pass(program)?;
        let (jobs, queue) = mpsc::channel();
        let program = Arc::clone(program);
        thread::Builder::new().name("splice-barrier".to_owned()).spawn(move || {
            super::become_helper();
            serve(&mut parser, &program, &queue);
        })?;
        Ok(Self { jobs })
    }

    /// Takes the source of `pair`, which is quiet, out of the map when nobody can be parsing it.
    /// That is done whatever becomes of the answer. An error that is not the map's says that bytes
    /// may have been lost on the way.
    pub fn hold(&self, pair: Pair) -> oneshot::Receiver<io::Result<()>> {
        let (done, answer) = oneshot::channel();
        // Without its thread the answer is that nobody answers.
        _ = self.jobs.send(Job::Hold(pair, done));
        answer
    }

    /// Forgets `pair`, after what [`Self::hold`] was asked before, and then nudges `source`.
    pub fn release(&self, pair: Pair, source: Option<OwnedFd>) {
        _ = self.jobs.send(Job::Release(pair, source));
    }
}

fn serve(parser: &mut Parser, program: &SpliceProgram, queue: &mpsc::Receiver<Job>) {
    while let Ok(first) = queue.recv() {
        // Whoever asks from now on waits for the next pass.
        let jobs: Vec<_> = std::iter::once(first).chain(queue.try_iter()).collect();
        let rested = parser.pass(program);
        let removed: Vec<_> = jobs.iter().map(|job| program.remove_source(job.pair())).collect();
        // A parser that found a window all but closed may have begun since: what it hands on is to
        // be counted, and must not miss what says where it goes.
        let rested = rested.and_then(|()| parser.pass(program));
        if let Err(error) = &rested {
            tracing::warn!(%error, legs = jobs.len(), "sources are taken out of the kernel's map unwaited");
        }
        for (job, removed) in jobs.into_iter().zip(removed) {
            match job {
                Job::Hold(_, done) => {
                    let rested = rested.as_ref().map_err(|error| io::Error::from(error.kind()));
                    // A leg that is gone has left a release.
                    _ = done.send(removed.and(rested.copied()));
                }
                Job::Release(pair, source) => {
                    // The kernel itself takes out sockets that are closed. If it refuses otherwise
                    // there is nothing to be done that closing the sockets does not do.
                    _ = program.remove_target(&pair);
                    source.inspect(|source| _ = socket::kick(source.as_fd()));
                }
            }
        }
    }
}

impl Job {
    fn pair(&self) -> &Pair {
        match self {
            Self::Hold(pair, _) | Self::Release(pair, _) => pair,
        }
    }
}

/// A spliced pair of our own, whose parser always runs in the workqueue.
struct Parser {
    writer: TcpStream,
    source: TcpStream,
    reader: TcpStream,
    /// Kept open: it is in the map.
    _target: TcpStream,
    pair: Pair,
    written: u64,
}

// === impl Parser ===

impl Parser {
    fn new(program: &SpliceProgram) -> io::Result<Self> {
        let (writer, source) = connected()?;
        let (reader, target) = connected()?;
        reader.set_nonblocking(true)?;
        let limits = PairLimits::default();
        let pair = Pair::of(source.as_fd(), target.as_fd())?;
        program.insert(&pair, source.as_fd(), target.as_fd(), &limits, None)?;
        Ok(Self { writer, source, reader, _target: target, pair, written: 0 })
    }

    /// Returns when every parser that was queued before has run. TimedOut: one is stuck.
    fn pass(&mut self, program: &SpliceProgram) -> io::Result<()> {
        // A byte that nobody is told of, then a nudge while the socket is locked: it cannot be
        // parsed at once.
        socket::quiet(self.source.as_fd())?;
        let before = TcpCounters::read(self.source.as_fd())?.received;
        self.writer.write_all(&[0])?;
        self.written += 1;
        let began = Instant::now();
        while TcpCounters::read(self.source.as_fd())?.received == before {
            rest(began)?;
        }
        socket::kick(self.source.as_fd())?;
        while program.stat(&self.pair)?.redirected < self.written {
            rest(began)?;
        }
        // What has come through is of no interest; it must only not pile up.
        let mut drain = [0; 64];
        while self.reader.read(&mut drain).is_ok_and(|n| n > 0) {}
        Ok(())
    }
}

fn rest(began: Instant) -> io::Result<()> {
    if began.elapsed() > LONGEST {
        return Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel's parsers do not run"));
    }
    thread::sleep(LOOK);
    Ok(())
}

fn connected() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let near = TcpStream::connect(listener.local_addr()?)?;
    let (far, _) = listener.accept()?;
    near.set_nodelay(true)?;
    Ok((near, far))
}

/// A pass longer than this says that the kernel's workers are stuck.
const LONGEST: Duration = Duration::from_secs(2);

/// Between two looks.
const LOOK: Duration = Duration::from_micros(30);
