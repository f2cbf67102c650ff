//! What splicing asks of a TCP socket: its cookie, its counters, and to look at its queue again.
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::libc;

/// The socket's `SO_COOKIE`: never used twice while this kernel runs.
pub fn cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = [0; size_of::<u64>()];
    match option(socket, libc::SOL_SOCKET, libc::SO_COOKIE, &mut bytes)? {
        8 => Ok(u64::from_ne_bytes(bytes)),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

/// Has the kernel process what is in the socket's receive queue.
///
/// Bytes that are there when a source is inserted would wait for the next segment, which never
/// comes if the window is closed. Setting `SO_RCVLOWAT`, to its default, makes the kernel look.
pub fn kick(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_low_water(socket, 1)
}

/// Has the kernel leave what comes in the socket's receive queue, until [`kick`].
///
/// Below the low-water mark TCP does not call who waits for data (`tcp_data_ready`), and the
/// stream parser is such a one. The kernel caps the mark at half of `net.ipv4.tcp_rmem`'s largest,
/// and ignores it when the window is all but closed.
pub fn quiet(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_low_water(socket, libc::c_int::MAX)
}

/// Has urgent data of the peer come like any other byte: otherwise it is left out of what is read,
/// and whatever is behind it out of what [`consumed`] takes for unread. It may still come late: one
/// read, and the kernel's parser, stop in front of it.
pub fn keep_urgent(socket: BorrowedFd<'_>) -> io::Result<()> {
    set(socket, libc::SO_OOBINLINE, 1)
}

fn set_low_water(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    set(socket, libc::SO_RCVLOWAT, bytes)
}

fn set(socket: BorrowedFd<'_>, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: an open descriptor, and a value of the length given that lives through the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Counters of a connection at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpCounters {
    /// Bytes that the peer has acknowledged (one more if we dialled: the SYN counts).
    pub acked: u64,
    /// Bytes received, read or not (one more if the peer has ended: the FIN counts).
    pub received: u64,
}

impl TcpCounters {
    /// Asks the kernel. All counters are of the same moment.
    pub fn read(socket: BorrowedFd<'_>) -> io::Result<Self> {
        let mut info = [0; TCP_INFO_BYTES];
        let len = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
        let info = info.get(..len).unwrap_or_default();
        Self::parse(info).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// Reads `struct tcp_info`, which grows with kernels but never changes.
    fn parse(info: &[u8]) -> Option<Self> {
        let u64_at = |at| Some(u64::from_ne_bytes(*info.get(at..)?.first_chunk()?));
        Some(Self { acked: u64_at(BYTES_ACKED)?, received: u64_at(BYTES_RECEIVED)? })
    }
}

/// Bytes written to the socket, by whomever, and not acknowledged by its peer.
pub fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<u64> {
    queue(socket, libc::TIOCOUTQ)
}

/// Bytes written to the socket since it was connected, by whomever, counted as
/// [`TcpCounters::acked`] is.
///
/// Not from what `tcp_info` says is sent: the kernel counts there what never left the host (a full
/// queue of the device, no route), and again when it does (Linux 6.18).
///
/// EBUSY: it cannot be said, the peer keeps acknowledging.
pub fn written(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut before = TcpCounters::read(socket)?.acked;
    for _ in 0..ATTEMPTS {
        let waiting = unacknowledged(socket)?;
        let after = TcpCounters::read(socket)?.acked;
        if before == after {
            return Ok(before.saturating_add(waiting));
        }
        before = after;
    }
    Err(Errno::EBUSY.into())
}

/// Bytes that have been taken from the socket's receive queue since it was connected, by whomever
/// (one more if the peer has ended); `None` if it cannot be said: bytes keep coming.
///
/// Wrong while the socket is spliced.
pub fn consumed(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut before = TcpCounters::read(socket).ok()?.received;
    for _ in 0..ATTEMPTS {
        let unread = unread(socket).ok()?;
        let after = TcpCounters::read(socket).ok()?.received;
        if before == after {
            return before.checked_sub(unread);
        }
        before = after;
    }
    None
}

/// Bytes in the socket's receive queue.
fn unread(socket: BorrowedFd<'_>) -> io::Result<u64> {
    queue(socket, libc::FIONREAD)
}

fn queue(socket: BorrowedFd<'_>, which: libc::Ioctl) -> io::Result<u64> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: an open descriptor, and an int that the kernel may write to.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), which, &raw mut bytes) };
    match result {
        0 => u64::try_from(bytes).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// How often [`consumed`] and [`written`] look for a moment in which nothing comes.
const ATTEMPTS: usize = 8;

/// Reads a socket option; gives how many bytes the kernel wrote.
fn option(socket: BorrowedFd<'_>, level: i32, name: i32, out: &mut [u8]) -> io::Result<usize> {
    let mut len = libc::socklen_t::try_from(out.len()).map_err(io::Error::other)?;
    // SAFETY: an open descriptor, and `len` bytes that may be written.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, out.as_mut_ptr().cast(), &raw mut len)
    };
    match result {
        0 => usize::try_from(len).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

// Offsets in `struct tcp_info` of the kernel's uapi/linux/tcp.h.
const BYTES_ACKED: usize = 120;
const BYTES_RECEIVED: usize = 128;
/// As much of it as is read.
const TCP_INFO_BYTES: usize = 136;
