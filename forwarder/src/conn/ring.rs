//! io_uring(7) for one thing: the same bytes to many sockets in few system calls.
//!
//! This is one of the few modules with `unsafe`: the kernel is given an address, and must be done
//! with it before we return.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use io_uring::{IoUring, opcode, types};
use nix::libc::{MSG_DONTWAIT, MSG_NOSIGNAL, msghdr};

use super::broadcast::Short;

/// Sends of one system call: few enough that their descriptions stay in the first cache.
const BATCH: usize = 128;

/// A ring that belongs to the thread that made it.
pub(super) struct Ring {
    ring: IoUring,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").finish_non_exhaustive()
    }
}

impl Ring {
    /// A new ring. Errors: the kernel has none (before 5.6), or forbids it
    /// (`kernel.io_uring_disabled`, seccomp).
    pub(super) fn new() -> io::Result<Self> {
        // Linux 6.1: nothing interrupts us to report what is done; we look when we want to know.
        let quiet =
            IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(BATCH as u32);
        let ring = quiet.or_else(|_| IoUring::new(BATCH as u32))?;
        let mut ring = Self { ring };
        ring.try_out()?;
        Ok(ring)
    }

    /// Whether sends work: a ring may be had where an operation is missing or forbidden.
    fn try_out(&mut self) -> io::Result<()> {
        let (ours, _theirs) = UnixStream::pair()?;
        let mut short = Vec::new();
        let parts = [IoSlice::new(b"?"), IoSlice::new(b"!")];
        self.send(&[ours.as_raw_fd()], &parts, &mut short)?;
        self.send(&[ours.as_raw_fd()], &parts[..1], &mut short)?;
        match short.pop() {
            None => Ok(()),
            Some((_, result)) => result.and(Err(io::ErrorKind::WriteZero.into())),
        }
    }

    /// Sends `parts`, one after the other, to each socket once, without waiting for any of them.
    /// `short` gets the place of each socket that did not take all, and how much it took. Errors:
    /// the ring is of no use any more; `short` is right all the same.
    pub(super) fn send(
        &mut self,
        sockets: &[RawFd],
        parts: &[IoSlice<'_>],
        short: &mut Vec<Short>,
    ) -> io::Result<()> {
        let mut first = 0;
        for batch in sockets.chunks(BATCH) {
            if let Err(error) = self.send_batch(first, batch, parts, short) {
                short.extend((first + batch.len()..sockets.len()).map(|at| (at, Ok(0))));
                return Err(error);
            }
            first += batch.len();
        }
        Ok(())
    }

    fn send_batch(
        &mut self,
        first: usize,
        batch: &[RawFd],
        parts: &[IoSlice<'_>],
        short: &mut Vec<Short>,
    ) -> io::Result<()> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        // SAFETY: a msghdr is integers and pointers, all of which may be zero.
        let mut message: msghdr = unsafe { std::mem::zeroed() };
        // An IoSlice is laid out as an iovec, says its documentation; sendmsg(2) does not write to it.
        message.msg_iov = parts.as_ptr().cast_mut().cast();
        message.msg_iovlen = parts.len();
        let mut left = Places::default();
        for (at, socket) in batch.iter().enumerate() {
            let (socket, flags) = (types::Fd(*socket), MSG_DONTWAIT | MSG_NOSIGNAL);
            let send = match parts {
                // What does not fit is not taken, which is what a socket may do anyway.
                [part] => {
                    let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
                    opcode::Send::new(socket, part.as_ptr(), len).flags(flags).build()
                }
                _ => opcode::SendMsg::new(socket, &raw const message)
                    .flags(flags.cast_unsigned())
                    .build(),
            };
            let send = send.user_data(at as u64);
            // SAFETY: the kernel reads `message`, which lives in this function, and `parts` and what
            // they point to, borrowed until it returns; and it does not return before each send that
            // the kernel took has completed. A socket that is closed, or no socket, is an error of
            // that send.
            if unsafe { self.ring.submission().push(&send) }.is_ok() {
                left.insert(at);
            } else {
                short.push((first + at, Ok(0)));
            }
        }
        while left.count() > 0 {
            // At once, as no send may wait.
            let submitted = self.ring.submit_and_wait(left.count());
            for done in self.ring.completion() {
                let at = usize::try_from(done.user_data()).unwrap_or(usize::MAX);
                left.remove(at);
                match usize::try_from(done.result()) {
                    Ok(sent) if sent == len => {}
                    Ok(sent) => short.push((first + at, Ok(sent))),
                    Err(_) => {
                        let error = io::Error::from_raw_os_error(-done.result());
                        short.push((first + at, Err(error)));
                    }
                }
            }
            match submitted {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => {
                    if left.count() > self.ring.submission().len() {
                        // The kernel has sends that it did not finish, and does not let us wait
                        // for them: it would read memory that we are to give back.
                        tracing::error!(%error, "io_uring_enter");
                        std::process::abort();
                    }
                    short.extend(left.iter().map(|at| (first + at, Ok(0))));
                    return Err(error);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A set of places in a batch.
#[derive(Clone, Copy, Default)]
struct Places(u128);

impl Places {
    fn bit(at: usize) -> u128 {
        u32::try_from(at).ok().and_then(|at| 1_u128.checked_shl(at)).unwrap_or(0)
    }

    fn insert(&mut self, at: usize) {
        self.0 |= Self::bit(at);
    }

    fn remove(&mut self, at: usize) {
        self.0 &= !Self::bit(at);
    }

    fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    fn iter(self) -> impl Iterator<Item = usize> {
        (0..BATCH).filter(move |at| self.0 & Self::bit(*at) != 0)
    }
}
