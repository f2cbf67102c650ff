//! The same bytes to many sockets.

use std::io::{self, IoSlice};
use std::os::fd::RawFd;
use std::sync::Once;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, send, sendmsg};
use tracing::{info, warn};

use super::ring::Ring;

/// The place of a socket that did not take all, and how much it took.
pub(super) type Short = (usize, io::Result<usize>);

/// That there is no ring is worth one line, not one of each shard.
static SAID: Once = Once::new();

/// Fewer sockets are written to one by one.
const FEW: usize = 3;

/// How one shard writes the same to many.
#[derive(Debug, Default)]
pub(super) struct Broadcast {
    ring: Option<Ring>,
}

impl Broadcast {
    /// With `io_uring` where the kernel lets us. Must be called on the thread that sends.
    pub(super) fn new(io_uring: bool) -> Self {
        if !io_uring {
            return Self::default();
        }
        match Ring::new() {
            Ok(ring) => Self { ring: Some(ring) },
            Err(error) => {
                SAID.call_once(|| info!(%error, "no io_uring: players are written to one by one"));
                Self::default()
            }
        }
    }

    /// Sends `parts`, one after the other, to each socket once. Gives those that did not take all, the
    /// last first.
    pub(super) fn send(&mut self, sockets: &[RawFd], parts: &[IoSlice<'_>]) -> Vec<Short> {
        let mut short = Vec::new();
        match self.ring.as_mut().filter(|_| sockets.len() >= FEW) {
            Some(ring) => {
                if let Err(error) = ring.send(sockets, parts, &mut short) {
                    warn!(%error, "io_uring failed: players are written to one by one");
                    self.ring = None;
                }
            }
            None => one_by_one(sockets, parts, &mut short),
        }
        short.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        short
    }
}

fn one_by_one(sockets: &[RawFd], parts: &[IoSlice<'_>], short: &mut Vec<Short>) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    let len: usize = parts.iter().map(|part| part.len()).sum();
    for (at, socket) in sockets.iter().enumerate() {
        let sent = match parts {
            [part] => send(*socket, part, flags),
            _ => sendmsg::<()>(*socket, parts, &[], flags, None),
        };
        match sent {
            Ok(sent) if sent == len => {}
            Ok(sent) => short.push((at, Ok(sent))),
            Err(Errno::EINTR) => short.push((at, Ok(0))),
            Err(error) => short.push((at, Err(error.into()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read};
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    /// Both ways of sending; the ring only where there is one, which is said.
    fn ways() -> Vec<Broadcast> {
        let ring = Broadcast::new(true);
        if ring.ring.is_none() {
            println!("no io_uring here: its half of the test is left out");
        }
        vec![Broadcast::new(false), ring]
    }

    fn pairs(n: usize) -> (Vec<UnixStream>, Vec<UnixStream>) {
        let pair = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            ours.set_nonblocking(true).unwrap();
            theirs.set_nonblocking(true).unwrap();
            (ours, theirs)
        };
        (0..n).map(|_| pair()).unzip()
    }

    #[test]
    fn each_socket_gets_all_and_those_that_do_not_are_told() {
        for (mut way, split) in ways().into_iter().chain(ways()).zip([0, 0, 1, 1000]) {
            // More than one batch, and not a multiple of one.
            let (ours, mut theirs) = pairs(301);
            // One that takes nothing, and one that is over.
            while send(ours[7].as_raw_fd(), &[0; 1024], MsgFlags::MSG_DONTWAIT).is_ok() {}
            theirs[300].shutdown(std::net::Shutdown::Both).unwrap();
            let sockets: Vec<RawFd> = ours.iter().map(AsRawFd::as_raw_fd).collect();
            let bytes: Vec<u8> = (0..3000_u32).map(|n| n as u8).collect();
            let (front, back) = bytes.split_at(split);
            let parts = [IoSlice::new(front), IoSlice::new(back)];
            let short = way.send(&sockets, &parts[usize::from(split == 0)..]);
            let told: Vec<_> = short.iter().map(|(at, result)| (*at, result.is_ok())).collect();
            assert_eq!(told, [(300, false), (7, false)]);
            assert_eq!(short[0].1.as_ref().unwrap_err().kind(), ErrorKind::BrokenPipe);
            assert_eq!(short[1].1.as_ref().unwrap_err().kind(), ErrorKind::WouldBlock);
            for (at, socket) in theirs.iter_mut().enumerate() {
                if at == 7 || at == 300 {
                    continue;
                }
                let mut got = vec![0; 4000];
                assert_eq!(socket.read(&mut got).unwrap(), 3000, "socket {at}");
                assert_eq!(got[..3000], bytes, "socket {at}");
            }
        }
    }

    #[test]
    fn a_part_that_was_taken_is_told_to_the_byte() {
        for mut way in ways() {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let mut ends = Vec::new();
            for _ in 0..FEW {
                let ours = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
                ours.set_nonblocking(true).unwrap();
                ends.push((ours, listener.accept().unwrap().0));
            }
            let sockets: Vec<RawFd> = ends.iter().map(|(ours, _)| ours.as_raw_fd()).collect();
            // More than any socket takes at once.
            let bytes: Vec<u8> = (0..64_u32 << 20).map(|n| (n >> 8) as u8).collect();
            let short = way.send(&sockets, &[IoSlice::new(&bytes)]);
            assert_eq!(short.len(), FEW);
            for (at, result) in short {
                let taken = result.unwrap();
                assert!(taken > 0 && taken < bytes.len());
                let mut got = vec![0; taken];
                ends[at].1.read_exact(&mut got).unwrap();
                assert!(got == bytes[..taken]);
                ends[at].1.set_nonblocking(true).unwrap();
                assert_eq!(ends[at].1.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
            }
        }
    }
}
