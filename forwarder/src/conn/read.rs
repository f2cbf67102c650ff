//! Reading from sockets.

use std::io;
use std::os::fd::AsRawFd;

use nix::sys::socket::{MsgFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Reads once; 0: the peer has closed.
///
/// What leaves room in `buffer` has taken all there was (epoll(7), "Questions and answers"), and the
/// runtime is told so. It would otherwise have us read again, only to learn that there is nothing:
/// for a publisher twice the system calls.
pub fn read_some(io: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut taken = None;
    let asked = io.try_io(Interest::READABLE, || {
        let n = recv(io.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT)?;
        taken = Some(n);
        let is_all = n > 0 && n < buffer.len();
        if is_all { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    match taken {
        Some(n) => Ok(n),
        None => asked.map(|()| 0),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn nothing_is_missed_behind_a_short_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (io, _) = listener.accept().unwrap();
        io.set_nonblocking(true).unwrap();
        let io = TcpStream::from_std(io).unwrap();
        let mut buffer = [0; 8];
        for round in 0..3u8 {
            peer.write_all(&[round; 3]).unwrap();
            io.readable().await.unwrap();
            assert_eq!(read_some(&io, &mut buffer).unwrap(), 3);
            assert_eq!(buffer[..3], [round; 3]);
            let empty = read_some(&io, &mut buffer).unwrap_err();
            assert_eq!(empty.kind(), io::ErrorKind::WouldBlock);
        }
        // More than the buffer holds, and the end, with one wake-up.
        peer.write_all(&[7; 20]).unwrap();
        drop(peer);
        let mut seen = Vec::new();
        loop {
            io.readable().await.unwrap();
            match read_some(&io, &mut buffer).unwrap() {
                0 => break,
                n => seen.extend_from_slice(&buffer[..n]),
            }
        }
        assert_eq!(seen, [7; 20]);
    }
}
