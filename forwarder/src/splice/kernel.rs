//! The kernel path: pairs of the sockmap program, and who is told when one crosses a limit.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use forwarder_ebpf::{NO_TARGET, OVER_HARD, OVER_SOFT, Stat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;

use super::barrier::Barrier;
use super::program::{Events, Pair, PairLimits, SpliceProgram};
use super::socket::{self, TcpCounters};
use super::{WhyNot, selftest};
use crate::privilege;

/// The program, tested, and the thread that hands out its reports.
pub(super) struct KernelSplice {
    program: SpliceProgram,
    barrier: Barrier,
    waiting: Arc<Waiting>,
    /// Closed by our drop, which ends the thread.
    _stop: io::PipeWriter,
}

/// The legs to wake, by the cookie of their source.
#[derive(Default)]
struct Waiting(Mutex<HashMap<u64, Arc<Notify>>>);

/// A pair in the kernel. Dropping it takes both sockets out; what was not drained then is lost.
pub(super) struct Spliced {
    kernel: Arc<KernelSplice>,
    pair: Pair,
    notify: Arc<Notify>,
}

/// What the kernel has done with the bytes of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes handed on.
    pub(super) redirected: u64,
    /// Segments they came in.
    pub(super) segments: u64,
    /// Bytes that the target's socket has not been given yet; less than none if it was given more
    /// than there were.
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
        let program = SpliceProgram::load()?;
        selftest::run(&program).map_err(WhyNot::SelfTestFailed)?;
        let failed = |error: io::Error| WhyNot::NotSupported(format!("its reports: {error}"));
        let events = program.take_events().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let barrier = Barrier::new(&program)
            .and_then(|barrier| barrier.wait(&program).map(|()| barrier))
            .map_err(|error| WhyNot::NotSupported(format!("its parsers: {error}")))?;
        let (ended, stop) = io::pipe().map_err(failed)?;
        let waiting = Arc::<Waiting>::default();
        let of_thread = Arc::clone(&waiting);
        thread::Builder::new()
            .name("splice-events".to_owned())
            .spawn(move || {
                // It has its own capabilities and needs none. A kernel that refuses this leaves
                // them to a thread that only reads.
                _ = privilege::give_up();
                of_thread.hand_out(events, &ended);
            })
            .map_err(failed)?;
        Ok(Self { program, barrier, waiting, _stop: stop })
    }

    /// From now on the kernel moves what comes from `source` to `target`.
    ///
    /// An error means that nothing has changed, see [`SpliceProgram::insert`].
    pub(super) fn splice(
        self: &Arc<Self>,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        limits: &PairLimits,
        walk: Option<&forwarder_ebpf::Walk>,
    ) -> io::Result<Spliced> {
        let cookie = socket::cookie(source)?;
        let notify = Arc::<Notify>::default();
        // Before the first byte: a report about an unknown source is not kept.
        self.waiting.lock().insert(cookie, Arc::clone(&notify));
        match self.program.insert(source, target, limits, walk) {
            Ok(pair) => Ok(Spliced { kernel: Arc::clone(self), pair, notify }),
            Err(error) => {
                self.waiting.lock().remove(&cookie);
                Err(error)
            }
        }
    }
}

impl fmt::Debug for KernelSplice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KernelSplice").finish_non_exhaustive()
    }
}

// === impl Spliced ===

impl Spliced {
    /// Waits until a limit is crossed. Cancel safe.
    pub(super) async fn reported(&self) {
        self.notify.notified().await;
    }

    /// No further byte leaves the source; what is on its way to the target goes on. An error that
    /// is not the map's says that bytes may have been lost on the way.
    pub(super) fn hold(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        let rested = self.rest(source);
        self.kernel.program.remove_source(&self.pair)?;
        rested
    }

    /// Waits until nobody is parsing the source, see [`super::barrier`].
    fn rest(&self, source: BorrowedFd<'_>) -> io::Result<()> {
        socket::quiet(source)?;
        // Whoever is in the middle of it holds the lock that this takes.
        TcpCounters::read(source)?;
        self.kernel.barrier.wait(&self.kernel.program)
    }

    pub(super) fn progress(&self, target: BorrowedFd<'_>) -> io::Result<Progress> {
        let Stat { redirected, segments, flags, .. } = self.kernel.program.stat(&self.pair)?;
        // In this order: what is redirected in between is not in `expected`, what is written is.
        let TcpCounters { written, acked, .. } = TcpCounters::read(target)?;
        let expected = self.pair.base.saturating_add(redirected);
        let state = match flags {
            flags if flags & OVER_HARD != 0 => State::OverHard,
            flags if flags & NO_TARGET != 0 => State::NoTarget,
            flags if flags & OVER_SOFT != 0 => State::OverSoft,
            _ => State::Fine,
        };
        Ok(Progress {
            redirected,
            segments,
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
        // The kernel itself takes out sockets that are closed. If it refuses otherwise there is
        // nothing to be done that closing the sockets does not do.
        _ = self.kernel.program.remove_source(&self.pair);
        _ = self.kernel.program.remove_target(&self.pair);
        self.kernel.waiting.lock().remove(&self.pair.source);
    }
}

impl fmt::Debug for Spliced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spliced").field(&self.pair).finish()
    }
}

// === impl Waiting ===

impl Waiting {
    /// Wakes the leg of each report until the other end of `ended` is closed.
    fn hand_out(&self, mut events: Events, ended: &io::PipeReader) {
        loop {
            while let Some(event) = events.poll() {
                let (kind, backlog) = (event.kind, event.backlog);
                tracing::debug!(?kind, backlog, "a spliced leg is over a limit");
                if let Some(notify) = self.lock().get(&event.source) {
                    notify.notify_one();
                }
            }
            let mut watched = [
                PollFd::new(events.as_fd(), PollFlags::POLLIN),
                PollFd::new(ended.as_fd(), PollFlags::POLLIN),
            ];
            let polled = poll(&mut watched, PollTimeout::NONE);
            let [_, ended] = watched;
            // Legs look by the clock as well, so they do without reports if this fails.
            let failed = polled.is_err_and(|error| error != nix::errno::Errno::EINTR);
            if failed || ended.any().unwrap_or(true) {
                return;
            }
        }
    }

    /// Held for one operation on the map.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
