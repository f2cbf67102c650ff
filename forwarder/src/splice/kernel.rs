//! The kernel path: pairs of the sockmap program, and who is told when one crosses a limit.

use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use forwarder_ebpf::{NO_TARGET, OVER_HARD, OVER_SOFT, Stat};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::barrier::Barrier;
use super::program::{Pair, PairLimits, SpliceProgram};
use super::reports::{Call, Reports};
use super::socket::{self, TcpCounters};
use super::{WhyNot, selftest};

/// The program, tested, and the threads that hand out its reports and take pairs out of it.
pub(super) struct KernelSplice {
    program: Arc<SpliceProgram>,
    barrier: Barrier,
    reports: Arc<Reports>,
    /// Tells the thread of reports that there are legs again; closed by our drop, which ends it.
    news: Mutex<io::PipeWriter>,
}

/// A pair in the kernel. Dropping it takes both sockets out, a moment later; what was not drained
/// then is lost, and until then neither socket can be spliced again.
pub(super) struct Spliced {
    kernel: Arc<KernelSplice>,
    pair: Pair,
    call: Arc<Call>,
    /// Open until [`Reports::leave`].
    source: Rc<TcpStream>,
    target: Rc<TcpStream>,
    hold: Hold,
}

/// Whether the source is in the map.
enum Hold {
    No,
    Asked(oneshot::Receiver<io::Result<()>>),
    Done,
}

/// What the kernel has done with the bytes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes handed on.
    pub(super) redirected: u64,
    /// Bytes that the target's socket has not been given yet, or a few more that were acknowledged
    /// during the look; less than none if it was given more than there were.
    pub(super) queued: i64,
    /// Bytes that the target's peer has not acknowledged.
    pub(super) backlog: u64,
    /// Bytes that it has.
    pub(super) acked: u64,
    /// The worst that has happened.
    pub(super) state: State,
}

/// How a pair does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Fine,
    OverSoft,
    /// Bytes are lost.
    OverHard,
    /// The target has left the kernel's map: it was closed. Bytes are lost.
    NoTarget,
}

// === impl KernelSplice ===

impl KernelSplice {
    /// Loads the program and has it move real bytes before anybody relies on it.
    pub(super) fn start() -> Result<Self, WhyNot> {
        let began = Instant::now();
        let program = Arc::new(SpliceProgram::load()?);
        let loaded = began.elapsed();
        selftest::run(&program).map_err(WhyNot::SelfTestFailed)?;
        tracing::debug!(?loaded, tested = ?began.elapsed() - loaded, "kernel path");
        let failed = |error: io::Error| WhyNot::NotSupported(format!("its reports: {error}"));
        let mut events =
            program.take_events().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        // What the test has reported is judged by its bytes.
        while events.poll().is_some() {}
        let barrier = Barrier::start(&program)
            .map_err(|error| WhyNot::NotSupported(format!("its parsers: {error}")))?;
        let (told, news) = io::pipe().map_err(failed)?;
        let reports = Arc::<Reports>::default();
        let of_thread = (Arc::clone(&reports), Arc::clone(&program));
        thread::Builder::new()
            .name("splice-events".to_owned())
            .spawn(move || {
                super::become_helper();
                let (reports, program) = of_thread;
                reports.hand_out(&program, events, told);
            })
            .map_err(failed)?;
        Ok(Self { program, barrier, reports, news: Mutex::new(news) })
    }

    /// What the legs hold together, and may.
    pub(super) fn reports(&self) -> &Reports {
        &self.reports
    }

    /// Pairs that the maps have something of, but for our own.
    pub(super) fn pairs(&self) -> io::Result<usize> {
        Ok(self.program.entries()?.saturating_sub(1).max(self.reports.seats()))
    }

    /// From now on the kernel moves what comes from `source` to `target`, what is queued already
    /// after [`socket::kick`].
    ///
    /// An error means that nothing has changed, see [`SpliceProgram::insert`].
    pub(super) fn splice(
        self: &Arc<Self>,
        source: &Rc<TcpStream>,
        target: &Rc<TcpStream>,
        limits: &PairLimits,
        walk: Option<&forwarder_ebpf::Walk>,
    ) -> io::Result<Spliced> {
        let pair = Pair::of(source.as_fd(), target.as_fd())?;
        // Before the first byte: a report about an unknown source is not kept.
        let Some((call, is_first)) =
            self.reports.enter(pair, source.as_raw_fd(), target.as_raw_fd())
        else {
            return Err(nix::errno::Errno::EEXIST.into());
        };
        if let Err(error) = self.program.insert(&pair, source.as_fd(), target.as_fd(), limits, walk)
        {
            self.reports.leave(&pair);
            return Err(error);
        }
        if is_first {
            // A full pipe has told it already.
            _ = self.news.lock().unwrap_or_else(PoisonError::into_inner).write(&[0]);
        }
        let (source, target) = (Rc::clone(source), Rc::clone(target));
        Ok(Spliced { kernel: Arc::clone(self), pair, call, source, target, hold: Hold::No })
    }
}

impl fmt::Debug for KernelSplice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelSplice").finish_non_exhaustive()
    }
}

// === impl Spliced ===

impl Spliced {
    /// Waits until there is something to look at. Cancel safe.
    pub(super) async fn reported(&self) {
        self.call.reported().await;
    }

    /// Whether it has to be held, whatever its progress: its source may be quiet already.
    pub(super) fn is_called_back(&self) -> bool {
        self.call.is_back()
    }

    /// Has the kernel take no further byte from the source soon: see [`Self::held`]. What is on its
    /// way to the target goes on.
    pub(super) fn hold(&mut self) {
        if matches!(self.hold, Hold::No) {
            self.quiet();
            self.hold = Hold::Asked(self.kernel.barrier.hold(self.pair));
        }
    }

    /// Waits until no further byte leaves the source. Cancel safe. An error that is not the map's
    /// says that bytes may have been lost on the way.
    pub(super) async fn held(&mut self) -> io::Result<()> {
        self.hold();
        let Hold::Asked(answer) = &mut self.hold else { return Ok(()) };
        let answer = answer.await;
        self.hold = Hold::Done;
        answer.unwrap_or_else(|_| {
            self.kernel.program.remove_source(&self.pair)?;
            Err(io::Error::other("nobody waits for the kernel's parsers"))
        })
    }

    fn quiet(&self) {
        // A socket that refuses this has none to be parsed: it is closed.
        _ = socket::quiet(self.source.as_fd());
        // Whoever is in the middle of it holds the lock that this takes.
        _ = TcpCounters::read(self.source.as_fd());
    }

    pub(super) fn progress(&self) -> io::Result<Progress> {
        let Stat { redirected, flags, .. } = self.kernel.program.stat(&self.pair)?;
        // In this order: what is redirected in between is not in `expected`, what is written is. And
        // what is acknowledged in between is missing, never twice in it.
        let TcpCounters { acked, .. } = TcpCounters::read(self.target.as_fd())?;
        let written = acked.saturating_add(socket::unacknowledged(self.target.as_fd())?);
        let expected = self.pair.base.saturating_add(redirected);
        let state = match flags {
            flags if flags & OVER_HARD != 0 => State::OverHard,
            flags if flags & NO_TARGET != 0 => State::NoTarget,
            flags if flags & OVER_SOFT != 0 => State::OverSoft,
            _ => State::Fine,
        };
        Ok(Progress {
            redirected,
            queued: expected.wrapping_sub(written).cast_signed(),
            backlog: expected.saturating_sub(acked),
            acked,
            state,
        })
    }

    /// Where in the chunks the pair stands; for one that is held.
    pub(super) fn walk(&self) -> io::Result<forwarder_ebpf::Walk> {
        self.kernel.program.walk(&self.pair)
    }

    /// Bytes handed on.
    pub(super) fn redirected(&self) -> u64 {
        self.kernel.program.stat(&self.pair).map_or(0, |stat| stat.redirected)
    }
}

impl Drop for Spliced {
    fn drop(&mut self) {
        self.kernel.reports.leave(&self.pair);
        if matches!(self.hold, Hold::Done) {
            // If the kernel refuses there is nothing to be done that closing the sockets does not.
            _ = self.kernel.program.remove_target(&self.pair);
            return;
        }
        self.quiet();
        // Somebody may go on reading the source. Without a descriptor to spare it must be closed.
        let source = self.source.as_fd().try_clone_to_owned().ok();
        self.kernel.barrier.release(self.pair, source);
    }
}

impl fmt::Debug for Spliced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spliced").field(&self.pair).finish()
    }
}
