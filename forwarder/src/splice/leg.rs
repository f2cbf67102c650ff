//! One direction of a pair, on whichever path.

use std::io;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use nix::libc;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

use super::choice::Choice;
use super::kernel::{Progress, Spliced, State};
use super::program::PairLimits;
use super::relay::{Read, Relay};
use super::stall::Stall;
use super::walk::Walk;
use super::{Ended, LegOptions, LegPath, LegStatus, Splice, socket};

/// One direction of a connection pair: moves bytes from a source to a target, unchanged, all of
/// them, in order.
///
/// While a leg lives nobody else may read the source or write to the target, but between
/// [`Self::stop`] and the next [`Self::run`] or [`Self::arm`]. Reading the target and writing to
/// the source are free. Dropping a leg that carries bytes in the kernel loses what the target has
/// not been given: [`Self::stop`] it, unless the target is of no more interest.
///
/// # Readiness
///
/// tokio has both sockets registered for reading and writing, edge-triggered. That stays so while
/// the kernel carries the leg, because with a stream parser the kernel does not wake readers of the
/// source for bytes that it redirects. A spliced source is only waited on for its end
/// ([`Interest::PRIORITY`]: urgent data is not registered, so it means "read side closed").
/// Coming back, a nudge ([`socket::kick`]) has the kernel report what lies unread, as tokio
/// believes the queue to be as it last saw it.
#[derive(Debug)]
pub struct Leg {
    splice: Arc<Splice>,
    source: Rc<TcpStream>,
    target: Rc<TcpStream>,
    options: LegOptions,
    walk: Walk,
    way: Way,
    relay: Relay,
    choice: Choice,
    /// Bytes taken from the source, but those of the pair that is spliced now.
    bytes: u64,
    /// What others took from the source, before the leg began or while it was stopped.
    consumed: Option<u64>,
    /// Others may have read the source since the leg moved bytes.
    stopped: bool,
    /// Why it moves no more, while its source is still to be taken out of the kernel.
    ended: Option<Ended>,
    unsplices: u64,
    overs: u64,
    /// Bytes that the kernel carried, of [`Self::bytes`].
    redirected: u64,
}

#[derive(Debug)]
enum Way {
    User,
    Kernel(Spliced, Phase),
}

#[derive(Debug)]
enum Phase {
    /// Bytes go to the target; for how long they did not, and when to look again.
    Carry(Stall, Instant),
    /// The source is taken out, then the target is given the rest; for how long, and at how many
    /// looks, it was not.
    Drain(Stall, u32),
}

impl Leg {
    /// A leg at a chunk border: what `source` sends next begins a chunk.
    pub fn new(
        splice: &Arc<Splice>,
        source: Rc<TcpStream>,
        target: Rc<TcpStream>,
        options: LegOptions,
    ) -> Self {
        // A socket that refuses this is closed.
        _ = socket::keep_urgent(source.as_fd());
        Self {
            walk: if options.walk { Walk::new(options.chunk_size) } else { Walk::lost() },
            choice: Choice::new(splice.mode(), options.soft_limit),
            consumed: socket::consumed(source.as_fd()),
            splice: Arc::clone(splice),
            source,
            target,
            options,
            way: Way::User,
            relay: Relay::new(),
            bytes: 0,
            stopped: false,
            ended: None,
            unsplices: 0,
            overs: 0,
            redirected: 0,
        }
    }

    /// The same, but the source stands at `walk`, anywhere in its chunks.
    pub fn following(mut self, walk: Walk) -> Self {
        self.walk = walk;
        self
    }

    /// Takes the sockets into the kernel if that is what the mode asks for at once; to be called
    /// before the far end is told to send, so that not a byte passes user space. [`Self::run`]
    /// would do it too, after a look at what has come.
    pub fn arm(&mut self) {
        self.resume();
        if matches!(self.way, Way::User) && self.relay.is_empty() {
            self.try_kernel();
        }
    }

    /// Moves bytes until something ends. Cancel safe: dropping the future loses nothing, and
    /// calling this again goes on.
    pub async fn run(&mut self) -> Ended {
        self.resume();
        loop {
            if let Some(ended) = self.settle().await {
                return ended;
            }
            let result = match self.way {
                Way::User => self.relay().await,
                Way::Kernel(_, Phase::Carry(..)) => self.watch().await,
                Way::Kernel(_, Phase::Drain(..)) => self.drain().await,
            };
            self.ended = result.err();
        }
    }

    /// Back to user space with nothing in flight: everything taken from the source has been
    /// written to the target. Cancel safe.
    ///
    /// Errors: the target is gone or takes nothing for `write_timeout`; bytes were lost.
    pub async fn stop(&mut self) -> Result<(), Ended> {
        self.hold();
        if self.ended.is_none() {
            self.ended = self.drain().await.err();
        }
        if let Some(ended) = self.settle().await {
            return Err(ended);
        }
        self.relay.flush(&self.target, self.options.write_timeout).await?;
        self.stopped = true;
        Ok(())
    }

    /// Where the chunks stand, after [`Self::stop`] or [`Ended::Source`]. Lost if
    /// [`LegOptions::walk`] is not set.
    pub fn open(&self) -> &Walk {
        &self.walk
    }

    /// The target is given up when it takes nothing for this time, unless it would be earlier.
    pub fn hurry(&mut self, write_timeout: Duration) {
        self.options.write_timeout = self.options.write_timeout.min(write_timeout);
    }

    /// Figures for the API.
    pub fn status(&self) -> LegStatus {
        let (path, bytes, backlog) = match &self.way {
            Way::User => {
                let given = socket::unacknowledged(self.target.as_fd()).unwrap_or_default();
                (LegPath::User, 0, given + self.relay.pending() as u64)
            }
            Way::Kernel(spliced, _) => {
                let progress = spliced.progress();
                let (bytes, backlog) = progress.map_or((0, 0), |p| (p.redirected, p.backlog));
                (LegPath::Kernel, bytes, backlog)
            }
        };
        LegStatus {
            path,
            bytes: self.bytes + bytes,
            backlog,
            unsplices: self.unsplices,
            overs: self.overs,
            redirected: self.redirected + bytes,
        }
    }

    // === in user space ===

    /// Until the leg ends or is in the kernel.
    async fn relay(&mut self) -> Result<(), Ended> {
        loop {
            self.relay.flush(&self.target, self.options.write_timeout).await?;
            let walk = self.knows_chunks().then_some(&mut self.walk);
            let see = walk.map(|walk| |bytes: &[u8]| walk.feed(bytes));
            match self.relay.step(&self.source, &self.target, see)? {
                Read::Bytes(n) => {
                    self.bytes += n as u64;
                    self.choice.saw_read(n);
                    tokio::task::consume_budget().await;
                }
                Read::End => {
                    self.relay.flush(&self.target, self.options.write_timeout).await?;
                    self.check_consumed()?;
                    return Err(Ended::Source(None));
                }
                Read::Blocked => {
                    if self.relay.is_empty() && self.try_kernel() {
                        return Ok(());
                    }
                    tokio::select! {
                        biased;
                        error = target_closed(&self.target) => return Err(Ended::Target(error)),
                        ready = self.source.readable() => {
                            ready.map_err(|error| Ended::Source(Some(error)))?;
                        }
                    }
                }
            }
        }
    }

    /// Goes to the kernel if that is wanted and possible. Nothing may be pending.
    fn try_kernel(&mut self) -> bool {
        if !self.choice.wants_kernel(Instant::now()) {
            return false;
        }
        let Some(kernel) = self.splice.kernel().filter(|kernel| !kernel.reports().is_full()) else {
            return false;
        };
        let walk = match self.knows_chunks().then(|| self.walk.to_kernel()) {
            // The kernel could not say where the chunks stand, and somebody wants to know.
            Some(None) => return false,
            walk => walk.flatten(),
        };
        let limits = PairLimits {
            soft: self.options.soft_limit as u64,
            hard: self.options.hard_limit as u64,
        };
        match kernel.splice(&self.source, &self.target, &limits, walk.as_ref()) {
            Ok(spliced) => {
                self.choice.moved();
                let phase = Phase::Carry(Stall::default(), Instant::now() + self.look_every());
                self.way = Way::Kernel(spliced, phase);
                if let Err(error) = socket::kick(self.source.as_fd()) {
                    // What is queued would wait for more.
                    tracing::debug!(%error, "spliced, but not kicked");
                    self.hold();
                }
                true
            }
            Err(error) => {
                tracing::debug!(%error, "carried in user space");
                match error.raw_os_error() {
                    // Another leg's pair that is being taken out, or too many pairs.
                    Some(libc::EEXIST | libc::EBUSY | libc::E2BIG) => {
                        self.choice.was_busy(Instant::now())
                    }
                    // MPTCP, TLS, or the far end has closed already.
                    _ => self.choice.was_refused(),
                }
                false
            }
        }
    }

    // === in the kernel ===

    /// Until the leg ends or is held.
    async fn watch(&mut self) -> Result<(), Ended> {
        let every = self.look_every();
        let Way::Kernel(spliced, Phase::Carry(stall, next_look)) = &mut self.way else {
            return Ok(());
        };
        tokio::select! {
            biased;
            error = target_closed(&self.target) => return Err(Ended::Target(error)),
            // What it sent last is still to be drained, and its error to be read.
            () = source_closed(&self.source) => {
                self.hold();
                return Ok(());
            }
            () = spliced.reported() => {}
            () = sleep_until(*next_look) => {}
        }
        *next_look = Instant::now() + every;
        let is_called_back = spliced.is_called_back();
        let progress = spliced.progress().map_err(broken)?;
        match progress.state {
            State::OverHard => return Err(Ended::OverLimit),
            State::NoTarget => return Err(Ended::Target(None)),
            State::OverSoft => {
                // Unread bytes then stay in the source's queue, and TCP holds its peer.
                self.choice.was_slow(Instant::now());
                self.overs += 1;
                self.hold();
                return Ok(());
            }
            State::Fine if is_called_back => {
                // For all legs together the kernel holds too much, or it is not used any more.
                self.choice.was_busy(Instant::now());
                self.hold();
                return Ok(());
            }
            State::Fine => {}
        }
        if progress.backlog == 0 {
            stall.clear();
        } else if stall.see(progress.acked).elapsed() >= self.options.write_timeout {
            return Err(Ended::Stuck);
        }
        if self.choice.wants_user(Instant::now(), progress.redirected) {
            self.hold();
        }
        Ok(())
    }

    fn look_every(&self) -> Duration {
        (self.options.write_timeout / 4).clamp(SHORTEST_LOOK, LONGEST_LOOK)
    }

    /// Begins to come back to user space, if not there: from now on the source keeps what comes.
    fn hold(&mut self) {
        if let Way::Kernel(spliced, phase @ Phase::Carry(..)) = &mut self.way {
            spliced.hold();
            *phase = Phase::Drain(Stall::default(), 0);
        }
    }

    /// Until the target's socket has been given all that has left the source. Then the leg is in
    /// user space.
    async fn drain(&mut self) -> Result<(), Ended> {
        self.held().await;
        let mut pause = FIRST_PAUSE;
        loop {
            let Way::Kernel(spliced, Phase::Drain(stall, idle_looks)) = &mut self.way else {
                return Ok(());
            };
            let progress = spliced.progress().map_err(broken)?;
            match progress {
                Progress { state: State::OverHard, .. } => return Err(Ended::OverLimit),
                Progress { state: State::NoTarget, .. } => return Err(Ended::Target(None)),
                Progress { queued: 0, .. } => break,
                Progress { queued: ..0, .. } => {
                    let message = format!("a target was given {} bytes too many", -progress.queued);
                    return Err(self.revoke(message));
                }
                Progress { .. } => {}
            }
            let silence = stall.see(progress.acked).elapsed();
            // The kernel writes again once a jiffy, so an idle target and bytes for it are a
            // contradiction. Seen often: a host that stood still between two looks proves nothing.
            let idle = progress.backlog <= progress.queued.unsigned_abs();
            *idle_looks = if idle { idle_looks.saturating_add(1) } else { 0 };
            if *idle_looks >= LOST_LOOKS && silence >= LOST_AFTER {
                let message = format!("a target was not given {} bytes", progress.queued);
                return Err(self.revoke(message));
            }
            if silence >= self.options.write_timeout {
                return Err(Ended::Stuck);
            }
            tokio::select! {
                biased;
                error = target_closed(&self.target) => return Err(Ended::Target(error)),
                () = sleep(pause) => pause = (pause * 2).min(LAST_PAUSE),
            }
        }
        self.leave();
        self.check_consumed()
    }

    /// Waits until no further byte leaves the source of a leg that is held.
    async fn held(&mut self) {
        if let Way::Kernel(spliced, Phase::Drain(..)) = &mut self.way
            && let Err(error) = spliced.held().await
        {
            tracing::warn!(%error, "a socket cannot be taken out of the kernel's map");
        }
    }

    /// Gives a leg up that has ended, and says why it has. First its source is taken out of the
    /// kernel: somebody may read on where it stands, for another target.
    async fn settle(&mut self) -> Option<Ended> {
        self.ended.as_ref()?;
        self.hold();
        self.held().await;
        self.leave();
        // What the kernel dropped has left the source and was not moved.
        self.consumed = None;
        self.ended.take()
    }

    /// Gives the pair up, whatever is queued in the kernel, and keeps its figures: those of a leg
    /// that is drained, or as they stand of one that has failed.
    fn leave(&mut self) {
        let Way::Kernel(spliced, _) = std::mem::replace(&mut self.way, Way::User) else {
            return;
        };
        let redirected = spliced.redirected();
        self.bytes += redirected;
        self.redirected += redirected;
        self.unsplices += 1;
        self.choice.moved();
        if self.knows_chunks() {
            self.walk = match spliced.walk() {
                Ok(walk) => Walk::from_kernel(&walk),
                Err(_) => Walk::lost(),
            };
        }
        drop(spliced);
        // A source that is closed needs no nudge: tokio knows.
        _ = socket::kick(self.source.as_fd());
    }

    /// Whether somebody wants to know where the chunks stand, and it is known.
    fn knows_chunks(&self) -> bool {
        self.options.walk && !self.walk.is_lost()
    }

    /// Whether what has left the source's queue is what was moved: if not, the target lacks bytes
    /// or has some twice. Not while spliced.
    fn check_consumed(&mut self) -> Result<(), Ended> {
        let (Some(before), Some(now)) = (self.consumed, socket::consumed(self.source.as_fd()))
        else {
            return Ok(());
        };
        // A FIN counts as a byte.
        let taken = now.saturating_sub(before);
        if self.unsplices > 0 && taken != self.bytes && taken != self.bytes + 1 {
            let message = format!("{taken} bytes left a source, {} were moved", self.bytes);
            self.consumed = None;
            return Err(self.revoke(message));
        }
        Ok(())
    }

    /// After [`Self::stop`]: what others read meanwhile is none of ours.
    fn resume(&mut self) {
        if std::mem::take(&mut self.stopped) {
            let now = socket::consumed(self.source.as_fd());
            self.consumed = now.and_then(|now| now.checked_sub(self.bytes));
        }
    }

    /// The kernel has miscounted: nobody uses it from now on.
    fn revoke(&self, message: String) -> Ended {
        let error = io::Error::new(io::ErrorKind::InvalidData, message.clone());
        self.splice.revoke(message);
        Ended::Target(Some(error))
    }
}

/// Waits until the peer of `target` has closed or the connection has failed, and says how. Bytes
/// that lie unread in it do not end the wait.
pub(super) async fn target_closed(target: &TcpStream) -> Option<io::Error> {
    closed(target).await;
    target.take_error().ok().flatten()
}

/// As [`target_closed`], but leaves the error for who reads on.
async fn source_closed(source: &TcpStream) {
    closed(source).await;
}

/// Waits until the peer of `socket` has closed or the connection has failed, whatever lies unread.
pub async fn closed(socket: &TcpStream) {
    // Urgent data is not registered, so PRIORITY means the other thing that belongs to it: the read
    // side is closed.
    _ = socket.ready(Interest::PRIORITY | Interest::ERROR).await;
    // An error that did not close it is seen once, not for ever.
    _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
}

/// The kernel forgot a pair that nobody took out.
fn broken(error: io::Error) -> Ended {
    Ended::Target(Some(error))
}

/// How often a leg in the kernel looks at itself, at least and at most. Limits are reported at
/// once; this notices a target that takes nothing, and more coming than can be held up.
const SHORTEST_LOOK: Duration = Duration::from_millis(100);
const LONGEST_LOOK: Duration = Duration::from_secs(2);
/// How often a leg looks whether it is drained, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LAST_PAUSE: Duration = Duration::from_millis(20);
/// How long, and at how many looks, the kernel may keep bytes from a target that has taken all it
/// was given.
const LOST_AFTER: Duration = Duration::from_secs(5);
const LOST_LOOKS: u32 = 100;

#[cfg(test)]
mod tests;
