//! The user-space path: bytes are read and written, or moved through a pipe with splice(2).
//!
//! Backpressure is TCP's own: while the target does not take what was read, nothing more is read,
//! so the source's window closes. A leg holds at most one read.
//!
//! Large reads do not pass through user space if nobody wants to know where the chunks stand
//! ([`LegOptions::walk`](super::LegOptions)): the walk has to see the bytes. For reads of 2.5 KB
//! splice(2) costs what a copy costs, for 100 KB less.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::libc;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Ended;
use super::leg::target_closed;
use super::stall::Stall;

/// State of the user-space path of one leg.
#[derive(Debug)]
pub(super) struct Relay {
    /// Read and not written yet, from `at` on; empty but for a slow target.
    pending: Vec<u8>,
    at: usize,
    /// Moved into it and not out again.
    pipe: Option<Pipe>,
    /// The next read takes at most so much: less for a slow target, as that is what is held for it.
    limit: usize,
    /// Of the bytes of a read, moving.
    average: usize,
    stall: Stall,
}

/// What one read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    /// There is nothing at the moment.
    Blocked,
    /// The source's FIN.
    End,
}

impl Relay {
    pub(super) fn new() -> Self {
        Self {
            pending: Vec::new(),
            at: 0,
            pipe: None,
            limit: READ,
            average: 0,
            stall: Stall::default(),
        }
    }

    /// Moves what one read of `source` gives, `walk` seeing it if given. Reads nothing before
    /// [`Self::flush`] has written what was read before.
    pub(super) fn step(
        &mut self,
        source: &TcpStream,
        target: &TcpStream,
        see: Option<impl FnMut(&[u8])>,
    ) -> Result<Read, Ended> {
        if !self.is_empty() {
            return Ok(Read::Blocked);
        }
        let read = match see {
            Some(see) => self.copy(source, target, Some(see))?,
            None if self.average < LARGE => self.copy(source, target, see)?,
            None => self.splice(source, target)?,
        };
        if let Read::Bytes(n) = read {
            self.average = self.average - self.average / 8 + n / 8;
            let least = if self.is_empty() { self.limit * 2 } else { self.limit / 2 };
            self.limit = least.clamp(LEAST_READ, READ);
        }
        Ok(read)
    }

    /// Writes what is pending. Cancel safe.
    ///
    /// Errors: the target is gone, or it took nothing for `write_timeout`.
    pub(super) async fn flush(
        &mut self,
        target: &TcpStream,
        write_timeout: Duration,
    ) -> Result<(), Ended> {
        loop {
            let written = self.write(target).map_err(|error| Ended::Target(Some(error)))?;
            if self.is_empty() {
                self.stall.clear();
                return Ok(());
            }
            if written > 0 {
                self.stall.clear();
            }
            // A full send buffer becomes writable when a third of it is free, which for a slow
            // player may take longer than `write_timeout`: so ask for what it acknowledges.
            let silence = self.stall.look(target).elapsed();
            if silence >= write_timeout {
                return Err(Ended::Stuck);
            }
            let again = (write_timeout - silence).min(write_timeout / 4);
            let writable = async {
                tokio::select! {
                    biased;
                    error = target_closed(target) => Err(Ended::Target(error)),
                    ready = target.writable() => {
                        ready.map_err(|error| Ended::Target(Some(error)))
                    }
                }
            };
            timeout(again, writable).await.unwrap_or(Ok(()))?;
        }
    }

    /// Bytes held.
    pub(super) fn pending(&self) -> usize {
        self.pending.len() - self.at + self.pipe.as_ref().map_or(0, |pipe| pipe.len)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pending() == 0
    }

    fn copy(
        &mut self,
        source: &TcpStream,
        target: &TcpStream,
        mut see: Option<impl FnMut(&[u8])>,
    ) -> Result<Read, Ended> {
        SCRATCH.with_borrow_mut(|scratch| {
            let (buffer, _) = scratch.split_at_mut(self.limit);
            let read = read_with(source, self.limit, || {
                Ok(recv(source.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?)
            })?;
            let Read::Bytes(n) = read else {
                return Ok(read);
            };
            let bytes = &buffer[..n];
            if let Some(see) = &mut see {
                see(bytes);
            }
            let written = match target.try_write(bytes) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Err(Ended::Target(Some(error))),
            };
            self.pending.extend_from_slice(&bytes[written..]);
            Ok(read)
        })
    }

    fn splice(&mut self, source: &TcpStream, target: &TcpStream) -> Result<Read, Ended> {
        let mut pipe = Pipe::take().map_err(|error| Ended::Source(Some(error)))?;
        // Short of READ does not mean that the queue is empty: the pipe may have been full.
        let read =
            read_with(source, 0, || Ok(splice(source, None, &pipe.writer, None, READ, FLAGS)?))?;
        if let Read::Bytes(n) = read {
            pipe.len = n;
            self.pipe = Some(pipe);
            self.write(target).map_err(|error| Ended::Target(Some(error)))?;
        } else {
            pipe.give_back();
        }
        Ok(read)
    }

    /// Writes as much as the target takes now.
    fn write(&mut self, target: &TcpStream) -> io::Result<usize> {
        let mut total = 0;
        while let Some(pipe) = &mut self.pipe {
            let moved = target.try_io(Interest::WRITABLE, || {
                Ok(splice(&pipe.reader, None, target, None, pipe.len, FLAGS)?)
            });
            let n = tolerate_block(moved)?;
            total += n;
            pipe.len = pipe.len.saturating_sub(n);
            match (n, pipe.len) {
                (_, 0) => self.pipe.take().into_iter().for_each(Pipe::give_back),
                (0, _) => return Ok(total),
                _ => {}
            }
        }
        while let Some(rest @ [_, ..]) = self.pending.get(self.at..) {
            let n = tolerate_block(target.try_write(rest))?;
            if n == 0 {
                return Ok(total);
            }
            total += n;
            self.at += n;
        }
        // Its memory goes back: most legs never need it again.
        (self.pending, self.at) = (Vec::new(), 0);
        Ok(total)
    }
}

/// One read of a socket that tokio believes to be readable; `read` asked for `limit` bytes.
fn read_with(
    source: &TcpStream,
    limit: usize,
    mut read: impl FnMut() -> io::Result<usize>,
) -> Result<Read, Ended> {
    let mut got = None;
    let result = source.try_io(Interest::READABLE, || {
        let n = read()?;
        got = Some(n);
        // Fewer than asked for: the queue is empty now, which tokio is told here and not by a
        // second call that would block. A FIN behind it is remembered apart.
        if n > 0 && n < limit { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match (got, result) {
        (Some(0), _) => Ok(Read::End),
        (Some(n), _) => Ok(Read::Bytes(n)),
        (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(Read::Blocked),
        (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => Ok(Read::Blocked),
        (None, Err(error)) => Err(Ended::Source(Some(error))),
        (None, Ok(())) => Ok(Read::Blocked),
    }
}

fn tolerate_block(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
        result => result,
    }
}

/// A pipe that bytes of one leg are in.
#[derive(Debug)]
struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    /// Bytes in it.
    len: usize,
}

impl Pipe {
    /// An empty one, of those given back if there are.
    fn take() -> io::Result<Self> {
        if let Some(pipe) = PIPES.with_borrow_mut(Vec::pop) {
            return Ok(pipe);
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        // A refusal (many pipes of one user) leaves it at 64 KiB, which is less but works.
        _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(READ as libc::c_int));
        Ok(Self { reader, writer, len: 0 })
    }

    /// Keeps an empty one for the next large read of this thread.
    fn give_back(self) {
        PIPES.with_borrow_mut(|pipes| {
            if pipes.len() < IDLE_PIPES && self.len == 0 {
                pipes.push(self);
            }
        });
    }
}

thread_local! {
    /// One buffer for all legs of a thread: nothing is left in it.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ].into());
    static PIPES: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A read takes at most so much; a keyframe at 20 Mbit/s.
const READ: usize = 128 << 10;
/// What a leg with a slow target may hold.
const LEAST_READ: usize = 16 << 10;
/// Reads from this average on go through a pipe.
const LARGE: usize = 32 << 10;
/// Pipes kept by a thread: enough for legs that take turns.
const IDLE_PIPES: usize = 4;
const FLAGS: SpliceFFlags = SpliceFFlags::SPLICE_F_NONBLOCK.union(SpliceFFlags::SPLICE_F_MOVE);

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::rtmp::Timestamp;
    use crate::rtmp::chunk::{Message, encode};
    use crate::splice::{Leg, LegOptions, Splice, WhyNot};

    const CHUNK_SIZE: u32 = 1 << 16;

    /// Carries 16 MiB of chunks; gives how many pipes that left to the thread.
    fn pipes_after_large_reads(walk: bool) -> usize {
        let connection = || {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let dialled = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (dialled, listener.accept().unwrap().0)
        };
        let ((mut sender, source), (target, mut receiver)) = (connection(), connection());
        let payload: Vec<u8> = (0..8_u32 << 20).map(|n| (n >> 10).to_le_bytes()[0]).collect();
        let message =
            Message { csid: 6, timestamp: Timestamp(1), kind: 9, msid: 1, payload: &payload };
        let mut bytes = Vec::new();
        for _ in 0..2 {
            encode(&message, CHUNK_SIZE, &mut |piece| bytes.extend_from_slice(piece));
        }
        let sent = bytes.clone();
        let send = thread::spawn(move || sender.write_all(&sent));
        let receive = thread::spawn(move || {
            let mut received = Vec::new();
            receiver.read_to_end(&mut received).map(|_| received)
        });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let [source, target] = [source, target].map(|socket| {
                socket.set_nonblocking(true).unwrap();
                Rc::new(TcpStream::from_std(socket).unwrap())
            });
            let splice = Arc::new(Splice::user(WhyNot::Disabled));
            let options = LegOptions {
                chunk_size: CHUNK_SIZE,
                walk,
                soft_limit: 0,
                hard_limit: 0,
                write_timeout: Duration::from_secs(20),
            };
            let mut leg = Leg::new(&splice, source, target, options);
            let ended = leg.run().await;
            assert!(matches!(ended, Ended::Source(None)), "{ended:?}");
            assert_eq!(!leg.open().is_lost() && leg.open().is_at_border(), walk);
        });
        send.join().unwrap().unwrap();
        assert!(receive.join().unwrap().unwrap() == bytes, "other bytes came out than went in");
        PIPES.with_borrow(Vec::len)
    }

    #[test]
    fn large_reads_go_through_a_pipe_unless_their_chunks_are_walked() {
        assert_eq!(pipes_after_large_reads(true), 0);
        assert_eq!(pipes_after_large_reads(false), 1);
    }
}
