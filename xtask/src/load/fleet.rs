//! Players that only count what they get.
//!
//! Their bytes are dropped in the kernel, and looked at every 20 ms at most, because a load process
//! that wakes on every send makes the server pay. What such a player still says, it says unasked:
//! acknowledgements, and answers to pings, so that servers that want a sign of life get one.
use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use forwarder::rtmp::message::{Control, UserControl};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send};

use super::guest::Role;
use super::notes::Mark;

/// Time between two sweeps over few players, and what each player adds: many are swept less often,
/// which their sockets hold easily.
const SWEEP_EVERY: Duration = Duration::from_millis(20);
const SWEEP_FOR_EACH: Duration = Duration::from_micros(10);
const SWEEP_AT_LEAST: Duration = Duration::from_millis(200);
/// Between two over those that are to be read nearly at once.
const SWEEP_PROMPTLY: Duration = Duration::from_millis(2);
/// Without data for so long a player has stalled.
const STALL: Duration = Duration::from_secs(1);
/// Time between two signs of life.
const LIFE_EVERY: Duration = Duration::from_secs(20);
/// Time between two looks whether a player that reads nothing still has its connection.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Millionths of a bit, microseconds of a second.
const MICROS: u64 = 1_000_000;

/// The players; see the module.
#[derive(Default)]
pub struct Fleet {
    members: Vec<Member>,
    /// Where a slot's member is.
    places: HashMap<usize, usize>,
    discard: Vec<u8>,
    /// They are few and read nearly at once, as slaves do.
    pub is_prompt: bool,
}

/// One player: its connection, and what it had over those before.
pub struct Member {
    /// Whose it is.
    pub slot: usize,
    /// What it is there for.
    pub role: Role,
    /// Number of the keyframe it began with, if known.
    pub mark: Option<u64>,
    /// Bytes received behind that keyframe.
    pub bytes: u64,
    /// Bytes received since [`Fleet::restart`].
    pub window: u64,
    /// Times that nothing came for more than a second.
    pub stalls: u64,
    /// Whether nothing comes at the moment.
    pub is_stalled: bool,
    /// Bytes received behind first keyframes, and bytes of bodies published meanwhile, over
    /// connections that have ended.
    pub before: (u64, u64),
    /// Bytes received over all connections.
    pub total: u64,
    /// Gone when closed.
    stream: Option<TcpStream>,
    /// Bytes of the connection up to the mark.
    skipped: u64,
    last: Instant,
    life: Instant,
    /// When a slow or stuck one was last looked at.
    looked: Instant,
    /// Millionths of bits that a slow one may read.
    allowance: u64,
}

impl Fleet {
    /// Takes over a player that has `received` so many bytes. `mark`: number of its first keyframe
    /// and the bytes up to there.
    pub fn add(
        &mut self,
        slot: usize,
        role: Role,
        stream: TcpStream,
        received: u64,
        mark: Option<Mark>,
    ) {
        let now = Instant::now();
        let skipped = mark.map_or(0, |mark| mark.wire);
        let bytes = received.saturating_sub(skipped);
        let member = Member {
            slot,
            role,
            mark: mark.and_then(|mark| mark.number),
            bytes,
            window: 0,
            stalls: 0,
            is_stalled: false,
            before: (0, 0),
            total: bytes,
            stream: Some(stream),
            skipped,
            last: now,
            // Spread, or all would speak at once.
            life: now + LIFE_EVERY.mul_f64(rand::random_range(0.5..1.0)),
            looked: now,
            allowance: 0,
        };
        let place = *self.places.entry(slot).or_insert(self.members.len());
        match self.members.get_mut(place) {
            // One that comes back.
            Some(old) => {
                let Member { window, stalls, before, total, .. } = *old;
                *old = Member { window, stalls, before, total: total + bytes, ..member };
            }
            None => self.members.push(member),
        }
    }

    /// All who ever came, each once.
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// Looks at all once; `closed` is told the slot of those that were closed and the number of their
    /// first keyframe, and gives what was published since then, bytes of bodies.
    pub fn sweep(&mut self, mut closed: impl FnMut(usize, Option<u64>) -> Option<u64>) {
        // With MSG_TRUNC the kernel writes nothing here; the length is what it may drop at once.
        self.discard.resize(1 << 20, 0);
        let now = Instant::now();
        for member in self.members.iter_mut().filter(|member| member.is_open()) {
            if !member.look(now, &mut self.discard) {
                member.stream = None;
                member.is_stalled = false;
                if let Some(published) = closed(member.slot, member.mark) {
                    let (bytes, before) = member.before;
                    member.before = (bytes + member.bytes, before + published);
                }
            }
        }
    }

    /// Time from the begin of a sweep to that of the next.
    pub fn pause(&self) -> Duration {
        if self.is_prompt {
            return SWEEP_PROMPTLY;
        }
        let open = self.members.iter().filter(|member| member.is_open()).count();
        let all = SWEEP_FOR_EACH * u32::try_from(open).unwrap_or(u32::MAX);
        all.clamp(SWEEP_EVERY, SWEEP_AT_LEAST)
    }

    /// Begins a window: counts bytes and stalls anew.
    pub fn restart(&mut self) {
        for member in &mut self.members {
            member.window = 0;
            member.stalls = 0;
        }
    }
}

impl Member {
    /// Whether it has its connection.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Reads what it may; false when the connection is over.
    fn look(&mut self, now: Instant, discard: &mut [u8]) -> bool {
        let Some(stream) = &self.stream else { return false };
        let most = match self.role {
            Role::Slow(bps) => {
                let elapsed = now.saturating_duration_since(self.looked).as_micros();
                let elapsed = u64::try_from(elapsed).unwrap_or(0);
                self.looked = now;
                // At most a second's worth: a player that waited does not read faster for that.
                let most = bps.saturating_mul(MICROS);
                self.allowance =
                    self.allowance.saturating_add(elapsed.saturating_mul(bps)).min(most);
                usize::try_from(self.allowance / MICROS / 8).unwrap_or(usize::MAX)
            }
            Role::Stuck => 0,
            _ => usize::MAX,
        };
        if most == 0 {
            if now.saturating_duration_since(self.looked) < LOOK_EVERY && self.role == Role::Stuck {
                return true;
            }
            self.looked = now;
            return !is_over(stream);
        }
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
        let most = most.min(discard.len());
        let buffer = discard.get_mut(..most).unwrap_or_default();
        // One call takes all there is: the buffer is larger than a socket's.
        match recv(stream.as_raw_fd(), buffer, flags) {
            Ok(0) => return false,
            Ok(n) => {
                let n = n as u64;
                self.bytes += n;
                self.window += n;
                self.total += n;
                self.allowance = self.allowance.saturating_sub(n * 8 * MICROS);
                self.last = now;
                self.is_stalled = false;
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {
                let is_stalled = now.saturating_duration_since(self.last) > STALL;
                self.stalls += u64::from(is_stalled && !self.is_stalled);
                self.is_stalled = is_stalled;
            }
            Err(_) => return false,
        }
        if now >= self.life {
            self.life = now + LIFE_EVERY;
            self.show_life();
        }
        true
    }

    fn show_life(&self) {
        let Some(stream) = &self.stream else { return };
        let [.., a, b, c, d] = (self.skipped + self.bytes).to_be_bytes();
        let mut out = Vec::new();
        Control::Acknowledgement(u32::from_be_bytes([a, b, c, d])).encode(&mut out);
        Control::User(UserControl::PingResponse(0)).encode(&mut out);
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // A socket that does not take these few bytes is over or will say so when read.
        let _ = send(stream.as_raw_fd(), &out, flags);
    }
}

/// Whether the other end has closed, behind data that is not read.
fn is_over(stream: &TcpStream) -> bool {
    // nix has no name for it; errors are told unasked.
    let closed = PollFlags::from_bits_retain(nix::libc::POLLRDHUP);
    poll(&mut [PollFd::new(stream.as_fd(), closed)], PollTimeout::ZERO).is_ok_and(|n| n > 0)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn one_that_comes_back_keeps_what_it_had() {
        let (mut fleet, mut closed) = (Fleet::default(), Vec::new());
        for turn in 1..=2 {
            let mut stream = come(&mut fleet, 0, Role::Player);
            stream.write_all(&[1; 3000]).unwrap();
            drop(stream);
            sweep_until(&mut fleet, &mut closed, |fleet| !fleet.members[0].is_open());
            let member = &fleet.members[0];
            assert_eq!((member.before, member.total), ((turn * 3000, turn * 7), turn * 3000));
        }
        assert_eq!(fleet.members.len(), 1);
    }

    /// A new member on one end of a connection, and the other end.
    fn member(fleet: &mut Fleet, role: Role) -> TcpStream {
        come(fleet, fleet.members.len(), role)
    }

    fn come(fleet: &mut Fleet, slot: usize, role: Role) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        stream.set_nonblocking(true).unwrap();
        fleet.add(slot, role, stream, 0, None);
        listener.accept().unwrap().0
    }

    /// Sweeps until `done`; fails when that takes longer than 10 s.
    fn sweep_until(fleet: &mut Fleet, closed: &mut Vec<usize>, done: impl Fn(&Fleet) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(fleet) {
            assert!(Instant::now() < deadline, "not within 10 s");
            fleet.sweep(|slot, _| {
                closed.push(slot);
                Some(7)
            });
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_comes_is_counted_and_an_end_is_told_once() {
        let (mut fleet, mut closed) = (Fleet::default(), Vec::new());
        let mut first = member(&mut fleet, Role::Player);
        let _second = member(&mut fleet, Role::Player);
        first.write_all(&[1; 3000]).unwrap();
        sweep_until(&mut fleet, &mut closed, |fleet| fleet.members[0].bytes == 3000);
        fleet.restart();
        first.write_all(&[1; 500]).unwrap();
        drop(first);
        sweep_until(&mut fleet, &mut closed, |fleet| !fleet.members[0].is_open());
        fleet.sweep(|_, _| panic!("told twice"));
        let member = &fleet.members[0];
        assert_eq!((member.bytes, member.window, member.before), (3500, 500, (3500, 7)));
        assert_eq!(closed, [0]);
        assert!(fleet.members[1].is_open());
    }

    #[test]
    fn a_slow_player_reads_at_its_rate_and_a_stuck_one_nothing_until_it_is_closed() {
        let (mut fleet, mut closed) = (Fleet::default(), Vec::new());
        let mut slow = member(&mut fleet, Role::Slow(80_000));
        let mut stuck = member(&mut fleet, Role::Stuck);
        slow.write_all(&[1; 60_000]).unwrap();
        stuck.write_all(&[1; 60_000]).unwrap();
        let begin = Instant::now();
        sweep_until(&mut fleet, &mut closed, |fleet| fleet.members[0].bytes >= 2000);
        // 10,000 bytes a second
        let most = (begin.elapsed().as_secs_f64() + 0.1) * 10_000.0;
        let bytes = fleet.members[0].bytes;
        assert!((bytes as f64) < most, "{bytes} bytes in {:?}", begin.elapsed());
        assert_eq!((fleet.members[1].bytes, closed.len()), (0, 0));
        drop(stuck);
        sweep_until(&mut fleet, &mut closed, |fleet| !fleet.members[1].is_open());
        assert_eq!(closed, [1]);
    }
}
