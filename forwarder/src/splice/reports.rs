//! Who is told what the kernel program reports, and how much the kernel holds for all legs.
//!
//! One thread takes the reports. A leg that is over its limit has its source quietened here, at
//! once: its own task may be woken late, and until the kernel is asked to leave the source alone it
//! carries on at the speed of memory.
//!
//! While there are legs, the thread sums up what they hold every [`LOOK`]. What the program noted
//! with each leg's last segment is an upper bound, as a target only acknowledges from then on, and
//! is read with few system calls for all legs. Only where that is over the limit each leg is looked
//! at by itself.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use forwarder_ebpf::Stat;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::sync::Notify;

use super::WhyNot;
use super::program::{Event, EventKind, Events, Pair, SpliceProgram};
use super::socket::{self, TcpCounters};

/// All pairs that a leg has in the kernel, by the cookie of their source.
#[derive(Default)]
pub(super) struct Reports {
    seats: Mutex<HashMap<u64, Seat>>,
    /// Bytes that the kernel held for all at the last look, at most.
    held: AtomicU64,
    /// And may hold; 0 is no limit.
    limit: AtomicU64,
    /// Nobody else may go to the kernel.
    is_full: AtomicBool,
    /// What was seen that must not be: nobody uses the kernel any more.
    revoked: OnceLock<WhyNot>,
}

/// One pair. Both descriptors are open while it is in the map.
struct Seat {
    pair: Pair,
    source: RawFd,
    target: RawFd,
    call: Arc<Call>,
}

/// How a leg is told that it has to come back.
#[derive(Default)]
pub(super) struct Call {
    notify: Notify,
    is_back: AtomicBool,
}

// === impl Call ===

impl Call {
    /// Waits until there is something to look at. Cancel safe.
    pub(super) async fn reported(&self) {
        self.notify.notified().await;
    }

    /// Whether the leg has to come back, whatever it sees: its source may be quiet already.
    pub(super) fn is_back(&self) -> bool {
        self.is_back.load(Ordering::Acquire)
    }

    fn back(&self) {
        self.is_back.store(true, Ordering::Release);
        self.notify.notify_one();
    }
}

// === impl Reports ===

impl Reports {
    /// A place for the pair; `None` if the source has one, or nobody may go any more. It must be given up by [`Self::leave`]
    /// before either socket is closed. `true`: it is the only one.
    pub(super) fn enter(
        &self,
        pair: Pair,
        source: RawFd,
        target: RawFd,
    ) -> Option<(Arc<Call>, bool)> {
        let mut seats = self.lock();
        // With the lock: whoever had a place before is called back.
        if self.revoked().is_some() || seats.contains_key(&pair.source) {
            return None;
        }
        let call = Arc::<Call>::default();
        seats.insert(pair.source, Seat { pair, source, target, call: Arc::clone(&call) });
        Some((call, seats.len() == 1))
    }

    pub(super) fn leave(&self, pair: &Pair) {
        self.lock().remove(&pair.source);
    }

    /// How many there are.
    pub(super) fn seats(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn set_limit(&self, bytes: u64) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that the kernel held for all at the last look, at most.
    pub(super) fn held(&self) -> u64 {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether that was too much.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    pub(super) fn revoked(&self) -> Option<&WhyNot> {
        self.revoked.get()
    }

    /// Ends the use of the kernel for good, and calls all legs back.
    pub(super) fn revoke(&self, seen: String) {
        if self.revoked.set(WhyNot::Revoked(seen.clone())).is_ok() {
            tracing::error!(
                seen,
                "the kernel miscounts: all legs go through user space from now on"
            );
            self.lock().values().for_each(Seat::call_back);
        }
    }

    /// Until the other end of `news` is closed: a byte there says that there are legs again.
    pub(super) fn hand_out(
        &self,
        program: &SpliceProgram,
        mut events: Events,
        mut news: io::PipeReader,
    ) {
        let mut next_look = Instant::now();
        loop {
            while let Some(event) = events.poll() {
                self.take(&event);
            }
            let (now, is_empty) = (Instant::now(), self.lock().is_empty());
            if now >= next_look {
                self.look(program);
                next_look = now + LOOK;
            }
            // With nobody there the sum stays what it was: nothing, after a last look.
            let pause = match is_empty && self.held() == 0 {
                true => PollTimeout::NONE,
                false => PollTimeout::try_from(LOOK).unwrap_or(PollTimeout::MAX),
            };
            let mut watched = [
                PollFd::new(events.as_fd(), PollFlags::POLLIN),
                PollFd::new(news.as_fd(), PollFlags::POLLIN),
            ];
            let polled = poll(&mut watched, pause);
            let [_, told] = watched;
            // Legs look by the clock as well, so they do without reports if this fails.
            let failed = polled.is_err_and(|error| error != Errno::EINTR);
            let told = told.any().unwrap_or(true);
            if failed || told && !news.read(&mut [0; 64]).is_ok_and(|n| n > 0) {
                return;
            }
        }
    }

    pub(super) fn take(&self, event: &Event) {
        let (kind, backlog) = (event.kind, event.backlog);
        match kind {
            EventKind::Unknown => {
                // Pairs are forgotten when no parser can be at work on them any more.
                self.revoke("bytes of a source that is in no pair".to_owned());
            }
            EventKind::OverSoft => {
                tracing::debug!(backlog, "a spliced leg is over its limit");
                self.lock().get(&event.source).inspect(|seat| seat.call_back());
            }
            EventKind::OverHard | EventKind::NoTarget => {
                tracing::debug!(?kind, backlog, "a spliced leg is broken");
                self.lock().get(&event.source).inspect(|seat| seat.call.notify.notify_one());
            }
        }
    }

    /// Whether the kernel holds too much for all legs together. If so, those that it holds most for
    /// come back, until what is left for those that stay is within the limit.
    fn look(&self, program: &SpliceProgram) {
        let limit = self.limit.load(Ordering::Relaxed);
        let is_empty = self.lock().is_empty();
        let stats = match program.stats() {
            // The barrier's own pair is there always.
            _ if is_empty => Vec::new(),
            Ok(stats) => stats,
            Err(error) => {
                return tracing::warn!(%error, "the legs in the kernel cannot be summed up");
            }
        };
        let mut held = stats.iter().map(|(_, stat)| stat.backlog).sum();
        if limit != 0 && held > limit {
            held = self.call_largest(&stats, limit);
        }
        self.held.store(held, Ordering::Relaxed);
        self.is_full.store(limit != 0 && held > limit, Ordering::Relaxed);
    }

    /// Gives what is held by the targets' own account.
    fn call_largest(&self, stats: &[(u64, Stat)], limit: u64) -> u64 {
        // Locked for each leg: a shard that waits for a place waits for one system call.
        let backlogs = stats.iter().filter_map(|(source, stat)| {
            let seats = self.lock();
            let seat = seats.get(source)?;
            Some((seat.backlog(stat), *source, seat.call.is_back()))
        });
        let mut backlogs: Vec<_> = backlogs.collect();
        backlogs.sort_unstable_by_key(|(backlog, ..)| Reverse(*backlog));
        let held = backlogs.iter().map(|(backlog, ..)| backlog).sum();
        let mut staying = held;
        for (backlog, source, is_back) in backlogs {
            // Those on their way back hold what they hold until it is taken.
            if staying <= limit {
                break;
            }
            if !is_back {
                tracing::debug!(
                    backlog,
                    held,
                    "a spliced leg comes back: the kernel holds too much"
                );
                self.lock().get(&source).inspect(|seat| seat.call_back());
                staying -= backlog;
            }
        }
        held
    }

    /// Held for one operation on the map, or a few system calls.
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Seat>> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Seat ===

impl Seat {
    /// Has the kernel parse no more of the source, and the leg come back.
    fn call_back(&self) {
        // SAFETY: open as long as the seat is in the map.
        let source = unsafe { BorrowedFd::borrow_raw(self.source) };
        // The leg tries again, and says if it fails.
        _ = socket::quiet(source);
        self.call.back();
    }

    /// Bytes redirected and not acknowledged.
    fn backlog(&self, stat: &Stat) -> u64 {
        // SAFETY: open as long as the seat is in the map.
        let target = unsafe { BorrowedFd::borrow_raw(self.target) };
        let acked = TcpCounters::read(target).map_or(0, |counters| counters.acked);
        self.pair.base.saturating_add(stat.redirected).saturating_sub(acked)
    }
}

/// How often the sum is made.
const LOOK: Duration = Duration::from_millis(100);
