//! The kernel program: loaded and attached once, then told which socket feeds which.
//!
//! # The order of things
//!
//! The kernel carries a pair correctly only if its user keeps to this (Linux 6.18):
//!
//! - *Splice.* Read the source until it would block, write every byte to the target, write nothing
//!   more to it, then [`insert`](SpliceProgram::insert). From then on do not read the source, and
//!   do not write to the target: writes would interleave in the middle of messages. Watch the
//!   source for RDHUP, HUP and ERR only, the target for IN too; reading the target is fine.
//! - *While spliced.* There is no backpressure: the kernel queues without a bound and acknowledges
//!   at once. Compare [`stat`](SpliceProgram::stat) with what is acknowledged, and look at
//!   [`Events`] always; unsplice over the soft limit, and TCP then holds the source. A pair that
//!   is [broken](forwarder_ebpf::Stat::flags) has lost bytes: close both.
//! - *Unsplice.* Have the source's parser come to rest (`barrier`: what it reads without its programs
//!   is dropped), [`remove_source`](SpliceProgram::remove_source), then wait (poll, with a bound: a
//!   stalled peer drains never) until [`is_drained`](SpliceProgram::is_drained); now the target may
//!   be written to and the source be read, nothing is lost; then
//!   [`remove_target`](SpliceProgram::remove_target). Removing or shutting the target earlier drops
//!   what the kernel has queued for it.
//! - *Ends.* Source FIN or RST: unsplice as above, then shut the target. Target FIN or RST: remove
//!   source, then target; the source's peer notices nothing, so it must be told.
//! - *Never* splice TLS, MPTCP, a source with a small `SO_RCVBUF` or with `SO_RCVTIMEO`.
use std::error::Error;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap, MapData, MapError, RingBuf, SockHash};
use aya::programs::SkSkb;
use aya::{Ebpf, EbpfLoader};
use forwarder_ebpf::{Control, Stat, WALK, Walk, kind};

use super::WhyNot;
use super::batch;
use super::btf::Offsets;
use super::socket::{self, TcpCounters};

/// The program in the kernel. Dropping it ends all pairs: sources must be unspliced before.
pub struct SpliceProgram {
    maps: Mutex<Maps>,
    /// Of [`Maps::stats`].
    stats_fd: OwnedFd,
    events: Mutex<Option<Events>>,
    /// Keeps the programs attached.
    _ebpf: Ebpf,
}

/// Two sockets to splice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Cookie of the socket whose incoming bytes are redirected.
    pub source: u64,
    /// Cookie of the socket they go to.
    pub target: u64,
    /// Bytes written to the target before the first was redirected, as [`socket::written`].
    pub base: u64,
}

/// Bytes that may be redirected and not acknowledged; 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PairLimits {
    /// Above this an [`EventKind::OverSoft`] comes, once for each crossing.
    pub soft: u64,
    /// Bytes that would exceed this are dropped, and the pair is broken.
    pub hard: u64,
}

/// What the program reports: wait for its descriptor to be readable, as with `AsyncFd`, and take
/// all there are.
pub struct Events(RingBuf<MapData>);

/// One report about a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// Cookie of the source.
    pub source: u64,
    /// Bytes redirected and not acknowledged at that moment.
    pub backlog: u64,
    /// What happened.
    pub kind: EventKind,
}

/// What an [`Event`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// Over the soft limit: unsplice.
    OverSoft,
    /// Over the hard limit: bytes are lost, close the pair.
    OverHard,
    /// The target has gone: bytes are lost, close the pair.
    NoTarget,
    /// Bytes of a source that is in no pair are lost. A bug, or the kernel's.
    Unknown,
}

struct Maps {
    sources: SockHash<MapData, u64>,
    targets: SockHash<MapData, u64>,
    controls: HashMap<MapData, u64, Control>,
    stats: HashMap<MapData, u64, Stat>,
    walks: HashMap<MapData, u64, Walk>,
}

// === impl Pair ===

impl Pair {
    /// Of two sockets, as the target stands now.
    pub fn of(source: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            source: socket::cookie(source)?,
            target: socket::cookie(target)?,
            base: socket::written(target)?,
        })
    }
}

// === impl SpliceProgram ===

impl SpliceProgram {
    /// Loads the program that the binary was built with, and attaches it.
    ///
    /// Linux 5.17 or newer with BTF; CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, which may be dropped
    /// afterwards.
    pub fn load() -> Result<Self, WhyNot> {
        let object = OBJECT.ok_or(WhyNot::NotBuilt)?;
        let offsets =
            Offsets::of_kernel().map_err(|error| WhyNot::NotSupported(error.to_string()))?;
        Self::load_object(object, &offsets).map_err(|error| why_not(&*error))
    }

    fn load_object(object: &[u8], offsets: &Offsets) -> Result<Self, Box<dyn Error>> {
        let mut ebpf = EbpfLoader::new()
            .override_global("STRP_FULL_LEN", &offsets.strp_full_len, true)
            .override_global("STRP_OFFSET", &offsets.strp_offset, true)
            .override_global("BYTES_ACKED", &offsets.bytes_acked, true)
            .load(object)?;
        #[cfg(feature = "bpf-log")]
        show_log(&mut ebpf);
        let sources = SockHash::try_from(take(&mut ebpf, "SRC")?)?;
        let stats = take(&mut ebpf, "STAT")?;
        let aya::maps::Map::HashMap(data) = &stats else { return Err("STAT is no hash".into()) };
        let stats_fd = data.fd().as_fd().try_clone_to_owned()?;
        let maps = Maps {
            targets: SockHash::try_from(take(&mut ebpf, "DST")?)?,
            controls: HashMap::try_from(take(&mut ebpf, "CTL")?)?,
            stats: HashMap::try_from(stats)?,
            walks: HashMap::try_from(take(&mut ebpf, "CHUNKS")?)?,
            sources,
        };
        let events = Events(RingBuf::try_from(take(&mut ebpf, "EVENTS")?)?);
        // A socket is bound to the programs that its map has when it is inserted.
        for name in ["p_rest", "v_strp"] {
            let program = ebpf.program_mut(name).ok_or("no such program")?;
            let program: &mut SkSkb = program.try_into()?;
            program.load()?;
            program.attach(maps.sources.fd())?;
        }
        Ok(Self { maps: Mutex::new(maps), stats_fd, events: Mutex::new(Some(events)), _ebpf: ebpf })
    }

    /// Splices `source` to `target`: from now on the kernel carries every byte, first those that
    /// are already in the source's queue. It looks for those when it is [kicked](socket::kick).
    ///
    /// Nothing is changed if it fails. EOPNOTSUPP: a socket is not established or not TCP (MPTCP,
    /// closed by its peer). EBUSY, EEXIST: one of them is in a pair already. EINVAL: TLS in the
    /// kernel. E2BIG: [`MAX_PAIRS`](forwarder_ebpf::MAX_PAIRS).
    ///
    /// `pair` is [`Pair::of`] the two, and nothing was written to the target since. With a `walk` the RTMP chunks are followed from the state it gives, see [`Self::walk`].
    pub fn insert(
        &self,
        pair: &Pair,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        limits: &PairLimits,
        walk: Option<&Walk>,
    ) -> io::Result<()> {
        let control = Control {
            target: pair.target,
            base: pair.base,
            soft_limit: limits.soft,
            hard_limit: limits.hard,
            flags: if walk.is_some() { WALK } else { 0 },
            padding: 0,
        };
        self.maps().insert(pair, source, target, control, walk)
    }

    /// Ends the redirection: when this returns no further byte leaves the source, and what comes
    /// stays in its queue. No error if the source was closed.
    pub fn remove_source(&self, pair: &Pair) -> io::Result<()> {
        tolerate_absent(self.maps().sources.remove(&pair.source))
    }

    /// Whether the target was given all that was redirected. Meaningful after
    /// [`Self::remove_source`].
    ///
    /// Fails with `InvalidData` if it was given more: somebody else wrote to it, or the kernel
    /// cannot be trusted with this.
    pub fn is_drained(&self, pair: &Pair, target: BorrowedFd<'_>) -> io::Result<bool> {
        let expected = pair.base.saturating_add(self.stat(pair)?.redirected);
        // In this order: what is acknowledged in between is missing, never twice in it.
        let acked = TcpCounters::read(target)?.acked;
        let written = acked.saturating_add(socket::unacknowledged(target)?);
        if written > expected {
            let message = format!("{written} bytes written to the target, not {expected}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(written == expected)
    }

    /// Forgets the pair. What the kernel has queued for the target and not written is lost.
    pub fn remove_target(&self, pair: &Pair) -> io::Result<()> {
        self.maps().forget(pair)
    }

    /// What the program has counted of the pair.
    pub fn stat(&self, pair: &Pair) -> io::Result<Stat> {
        self.maps().stats.get(&pair.source, 0).map_err(io_error)
    }

    /// Of all pairs, by the cookie of their source. Pairs that come or go meanwhile may be missing.
    pub fn stats(&self) -> io::Result<Vec<(u64, Stat)>> {
        batch::read_all(self.stats_fd.as_fd())
    }

    /// Entries of the map that has most.
    pub fn entries(&self) -> io::Result<usize> {
        let maps = self.maps();
        let counts = [
            maps.sources.keys().map(|key| key.map(drop)).collect::<Result<Vec<_>, _>>(),
            maps.targets.keys().map(|key| key.map(drop)).collect(),
            maps.controls.keys().map(|key| key.map(drop)).collect(),
            maps.stats.keys().map(|key| key.map(drop)).collect(),
            maps.walks.keys().map(|key| key.map(drop)).collect(),
        ];
        let counts = counts.into_iter().map(|keys| keys.map(|keys| keys.len()).map_err(io_error));
        counts.collect::<io::Result<Vec<_>>>().map(|all| all.into_iter().max().unwrap_or_default())
    }

    /// Where in RTMP's chunks the pair stands after the last redirected byte. Meaningful after
    /// [`Self::remove_source`]; NotFound if it was inserted without.
    pub fn walk(&self, pair: &Pair) -> io::Result<Walk> {
        self.maps().walks.get(&pair.source, 0).map_err(io_error)
    }

    /// The program's reports; there is one receiver, so a second call gives `None`.
    pub fn take_events(&self) -> Option<Events> {
        let mut events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.take()
    }

    /// Held for a few system calls.
    fn maps(&self) -> MutexGuard<'_, Maps> {
        self.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Maps ===

impl Maps {
    /// The source last: whatever the program then finds must be there.
    fn insert(
        &mut self,
        pair: &Pair,
        source: BorrowedFd<'_>,
        target: BorrowedFd<'_>,
        control: Control,
        walk: Option<&Walk>,
    ) -> io::Result<()> {
        let stat = Stat::default();
        self.stats.insert(pair.source, stat, NO_EXIST).map_err(io_error)?;
        let rest = (|| {
            if let Some(walk) = walk {
                self.walks.insert(pair.source, walk, NO_EXIST)?;
            }
            self.controls.insert(pair.source, control, NO_EXIST)?;
            self.targets.insert(pair.target, target.as_raw_fd(), NO_EXIST)
        })();
        if let Err(error) = rest {
            // The target may be another pair's: it stays.
            self.forget_source(pair)?;
            return Err(io_error(error));
        }
        if let Err(error) = self.sources.insert(pair.source, source.as_raw_fd(), NO_EXIST) {
            self.forget(pair)?;
            return Err(io_error(error));
        }
        Ok(())
    }

    fn forget(&mut self, pair: &Pair) -> io::Result<()> {
        tolerate_absent(self.targets.remove(&pair.target))?;
        self.forget_source(pair)
    }

    fn forget_source(&mut self, pair: &Pair) -> io::Result<()> {
        tolerate_absent(self.controls.remove(&pair.source))?;
        tolerate_absent(self.walks.remove(&pair.source))?;
        tolerate_absent(self.stats.remove(&pair.source))
    }
}

// === impl Events ===

impl Events {
    /// The next report, `None` if there is none at the moment.
    pub fn poll(&mut self) -> Option<Event> {
        loop {
            let item = self.0.next()?;
            if let Some(event) = Event::parse(&item) {
                return Some(event);
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Event {
    /// Reads a [`forwarder_ebpf::Event`].
    fn parse(bytes: &[u8]) -> Option<Self> {
        let (source, rest) = bytes.split_first_chunk()?;
        let (backlog, rest) = rest.split_first_chunk()?;
        let kind = match u32::from_ne_bytes(*rest.first_chunk()?) {
            kind::OVER_SOFT => EventKind::OverSoft,
            kind::OVER_HARD => EventKind::OverHard,
            kind::NO_TARGET => EventKind::NoTarget,
            kind::UNKNOWN => EventKind::Unknown,
            _ => return None,
        };
        Some(Self {
            source: u64::from_ne_bytes(*source),
            backlog: u64::from_ne_bytes(*backlog),
            kind,
        })
    }
}

/// Passes on what a program with the feature `log` says, on a thread that lives as long as we.
#[cfg(feature = "bpf-log")]
fn show_log(ebpf: &mut Ebpf) {
    let mut logger = match aya_log::EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "the kernel program has no log"),
    };
    std::thread::spawn(move || {
        loop {
            let mut readable =
                nix::libc::pollfd { fd: logger.as_raw_fd(), events: nix::libc::POLLIN, revents: 0 };
            // SAFETY: one descriptor that `logger` keeps open, in memory that is ours.
            if unsafe { nix::libc::poll(&raw mut readable, 1, -1) } < 0 {
                return;
            }
            logger.flush();
        }
    });
}

fn take(ebpf: &mut Ebpf, name: &str) -> Result<aya::maps::Map, String> {
    ebpf.take_map(name).ok_or_else(|| format!("the kernel program has no map {name}"))
}

/// A failed load, sorted by whether rights or the kernel are missing.
fn why_not(error: &(dyn Error + 'static)) -> WhyNot {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let system = error.downcast_ref::<io::Error>();
        // Not EACCES: with that the verifier refuses a program.
        if system.is_some_and(|error| error.raw_os_error() == Some(nix::libc::EPERM)) {
            return WhyNot::NotPermitted;
        }
        cause = error.source();
    }
    // The verifier's log follows in further lines; its complaint is the last but for counts.
    let text = error.to_string();
    tracing::debug!(error = text, "the kernel program cannot be loaded");
    let is_count = |line: &&str| {
        let counts = ["processed ", "verification time ", "stack depth "];
        line.is_empty() || counts.iter().any(|count| line.starts_with(count))
    };
    let mut lines = text.lines().filter(|line| !is_count(line));
    let first = lines.next().unwrap_or_default();
    WhyNot::NotSupported(match lines.next_back() {
        Some(last) => format!("{first} … {last}"),
        None => first.to_owned(),
    })
}

/// What the kernel said, as it said it.
fn io_error(error: MapError) -> io::Error {
    match error {
        MapError::SyscallError(error) => error.io_error,
        MapError::KeyNotFound | MapError::ElementNotFound => io::ErrorKind::NotFound.into(),
        error => io::Error::other(error),
    }
}

fn tolerate_absent(result: Result<(), MapError>) -> io::Result<()> {
    match result.map_err(io_error) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// BPF_NOEXIST: an entry that is there is somebody's.
const NO_EXIST: u64 = 1;

/// The program, if the build found it.
#[cfg(bpf_object)]
const OBJECT: Option<&[u8]> =
    Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/forwarder.o")));
#[cfg(not(bpf_object))]
const OBJECT: Option<&[u8]> = None;
