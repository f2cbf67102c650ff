//! Real bytes through real pairs on loopback, before anybody relies on the kernel path.
//!
//! Kernels between 5.17 and 6.18 are known that hand bytes over twice, or lose them, when a socket
//! is partly read as it is spliced, when its target blocks, or when it is unspliced; versions do
//! not tell, as fixes are ported back. So each of these is tried and the bytes are compared.

use std::cell::Cell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::program::{Pair, PairLimits, SpliceProgram};
use super::socket;

/// Says what went wrong.
pub(super) fn run(program: &SpliceProgram) -> Result<(), String> {
    let try_all = [
        ("a source that is partly read", partly_read as fn(&SpliceProgram) -> io::Result<()>),
        ("a target that blocks, and the end", blocked_target),
        ("splices in mid-stream", in_mid_stream),
    ];
    for (what, attempt) in try_all {
        patiently(|| attempt(program)).map_err(|error| format!("{what}: {error}"))?;
    }
    Ok(())
}

/// A busy host may take longer than anything should: that counts when it comes again and again.
/// Wrong bytes count at once.
fn patiently(mut attempt: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    for _ in 0..RETRIES {
        match attempt() {
            Err(error) if is_late(&error) => {
                tracing::debug!(%error, "the test of the kernel path is tried again");
            }
            result => return result,
        }
    }
    attempt()
}

/// Bytes that are queued when the source is spliced, some of them read, arrive once.
fn partly_read(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(program, None)?;
    hop.sender.write_all(&pattern(0, PARTLY))?;
    let mut first = vec![0; PARTLY / 10];
    hop.source.read_exact(&mut first)?;
    hop.target.write_all(&first)?;
    let pair = hop.splice()?;
    hop.sender.write_all(&pattern(PARTLY, PARTLY))?;
    hop.expect(0, 2 * PARTLY)?;
    hop.unsplice(&pair)
}

/// A target that takes nothing for a while gets everything once, and then the end.
fn blocked_target(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(program, Some(SMALL_BUFFER))?;
    let pair = hop.splice()?;
    hop.sender.write_all(&pattern(0, BLOCKED))?;
    hop.sender.shutdown(Shutdown::Write)?;
    let deadline = Instant::now() + WITHIN;
    while program.stat(&pair)?.redirected < BLOCKED as u64 {
        wait(deadline, "not all bytes are redirected")?;
    }
    thread::scope(|scope| {
        let (target, mut receiver) = (&hop.target, &hop.receiver);
        let ended = scope.spawn(move || {
            remove(program, &pair, target)?;
            target.shutdown(Shutdown::Write)
        });
        let arrived = expect(&mut receiver, 0, BLOCKED);
        worst([joined(ended.join()), arrived])?;
        match receiver.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("bytes behind the end")),
        }
    })
}

/// Bytes that keep coming while the source is spliced and unspliced arrive once and in order.
fn in_mid_stream(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(program, None)?;
    let (mut sender, receiver) = (hop.sender.try_clone()?, hop.receiver.try_clone()?);
    hop.source.set_nonblocking(true)?;
    let sent = thread::spawn(move || {
        let mut at = 0;
        for n in [1, 1000, 70_000, 1400, 30_000].into_iter().cycle() {
            let n = n.min(STREAM - at);
            sender.write_all(&pattern(at, n))?;
            at += n;
            if at == STREAM {
                return sender.shutdown(Shutdown::Write);
            }
        }
        Ok(())
    });
    let received = thread::spawn(move || expect(&mut &receiver, 0, STREAM));
    let moved = change_paths(&mut hop);
    worst([joined(received.join()), joined(sent.join()), moved])
}

/// Splices and unsplices until the source has ended.
fn change_paths(hop: &mut Hop<'_>) -> io::Result<()> {
    let deadline = Instant::now() + WITHIN;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match hop.source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                hop.target.write_all(buffer.get(..n).unwrap_or_default())?;
                continue;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // Refused once the sender has ended: then the rest is read.
        if let Ok(pair) = hop.splice() {
            wait(deadline, "the stream does not end")?;
            hop.unsplice(&pair)?;
        }
    }
}

fn joined(thread: thread::Result<io::Result<()>>) -> io::Result<()> {
    thread.unwrap_or_else(|_| Err(io::Error::other("a thread panicked")))
}

/// A sender's connection to us, and ours to a receiver.
struct Hop<'a> {
    program: &'a SpliceProgram,
    pair: Cell<Option<Pair>>,
    sender: TcpStream,
    source: TcpStream,
    target: TcpStream,
    receiver: TcpStream,
}

impl<'a> Hop<'a> {
    /// With these buffers towards the receiver, bytes.
    fn new(program: &'a SpliceProgram, buffers: Option<usize>) -> io::Result<Self> {
        let (sender, source) = connection(None)?;
        let (target, receiver) = connection(buffers)?;
        for socket in [&sender, &source, &target, &receiver] {
            socket.set_nodelay(true)?;
        }
        // Never a read timeout on a source: the stream parser takes it for its own.
        sender.set_write_timeout(Some(WITHIN))?;
        receiver.set_read_timeout(Some(WITHIN))?;
        Ok(Self { program, pair: Cell::new(None), sender, source, target, receiver })
    }

    fn splice(&self) -> io::Result<Pair> {
        let none = PairLimits::default();
        let (source, target) = (self.source.as_fd(), self.target.as_fd());
        let pair = Pair::of(source, target)?;
        self.program.insert(&pair, source, target, &none, None)?;
        self.pair.set(Some(pair));
        socket::kick(source).map(|()| pair)
    }

    fn unsplice(&self, pair: &Pair) -> io::Result<()> {
        remove(self.program, pair, &self.target)
    }

    fn expect(&self, at: usize, len: usize) -> io::Result<()> {
        expect(&mut &self.receiver, at, len)
    }
}

impl Drop for Hop<'_> {
    /// Leaves nothing in the maps, however it went.
    fn drop(&mut self) {
        if let Some(pair) = self.pair.take() {
            _ = self.program.remove_source(&pair);
            _ = self.program.remove_target(&pair);
        }
    }
}

fn remove(program: &SpliceProgram, pair: &Pair, target: &TcpStream) -> io::Result<()> {
    program.remove_source(pair)?;
    let deadline = Instant::now() + WITHIN;
    while !program.is_drained(pair, target.as_fd())? {
        wait(deadline, "bytes stay in the kernel")?;
    }
    program.remove_target(pair)
}

/// The dialling and the accepted side.
fn connection(buffers: Option<usize>) -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dialled = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    if let Some(bytes) = buffers {
        // Before the connection is made: they bound the window.
        SockRef::from(&listener).set_recv_buffer_size(bytes)?;
        dialled.set_send_buffer_size(bytes)?;
    }
    dialled.connect(&listener.local_addr()?.into())?;
    let (accepted, _) = listener.accept()?;
    Ok((dialled.into(), accepted))
}

/// Reads the part of the pattern that comes next.
fn expect(receiver: &mut impl Read, at: usize, len: usize) -> io::Result<()> {
    let (mut bytes, due) = (vec![0; len], pattern(at, len));
    let mut read = 0;
    while let Some(rest @ [_, ..]) = bytes.get_mut(read..) {
        // Compared before more is waited for: to be late is no excuse for wrong bytes.
        let n = receiver.read(rest)?;
        let due = due.get(read..).unwrap_or_default();
        if let Some(wrong) = rest.iter().zip(due).take(n).position(|(got, sent)| got != sent) {
            let wrong = at + read + wrong;
            return Err(io::Error::other(format!("byte {wrong} of {len} is wrong")));
        }
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        read += n;
    }
    Ok(())
}

/// The first of these that is wrong, and not only late; else the first that is late.
fn worst(results: impl IntoIterator<Item = io::Result<()>>) -> io::Result<()> {
    let mut errors: Vec<_> = results.into_iter().filter_map(Result::err).collect();
    errors.sort_by_key(is_late);
    errors.into_iter().next().map_or(Ok(()), Err)
}

/// Sockets say WouldBlock.
fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// `len` bytes of a sequence in which no 8 bytes come twice.
fn pattern(at: usize, len: usize) -> Vec<u8> {
    let word = |n: usize| (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    let first = at / 8;
    let words = (first..).flat_map(word);
    words.skip(at % 8).take(len).collect()
}

fn wait(deadline: Instant, what: &str) -> io::Result<()> {
    if Instant::now() >= deadline {
        return Err(io::Error::new(io::ErrorKind::TimedOut, what));
    }
    thread::sleep(Duration::from_micros(200));
    Ok(())
}

/// Bytes queued when the source is spliced, and again after that.
const PARTLY: usize = 50_000;
/// Bytes for the target that blocks: several times its buffers.
const BLOCKED: usize = 512 << 10;
const SMALL_BUFFER: usize = 32 << 10;
/// Bytes of the stream that is spliced and unspliced.
const STREAM: usize = 512 << 10;
/// How long anything may take.
const WITHIN: Duration = Duration::from_secs(5);
/// How often a part that took longer is tried again.
const RETRIES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pattern_goes_on() {
        assert_eq!(pattern(13, 50), pattern(0, 100)[13..63]);
    }

    #[test]
    fn passes_where_the_program_loads() {
        let program = match SpliceProgram::load() {
            Ok(program) => program,
            Err(why) => return println!("skipped: {why}"),
        };
        let begin = Instant::now();
        for _ in 0..5 {
            run(&program).unwrap();
        }
        println!("{:?} each", begin.elapsed() / 5);
    }

    #[test]
    fn what_takes_too_long_is_tried_again_and_what_is_wrong_is_not() {
        for (kind, tries) in [
            (ErrorKind::TimedOut, 3),
            (ErrorKind::WouldBlock, 3),
            (ErrorKind::Other, 1),
            (ErrorKind::InvalidData, 1),
            (ErrorKind::UnexpectedEof, 1),
        ] {
            let mut tried = 0;
            let result = patiently(|| {
                tried += 1;
                Err(kind.into())
            });
            assert_eq!((result.unwrap_err().kind(), tried), (kind, tries));
        }
        let mut tried = 0;
        patiently(|| {
            tried += 1;
            if tried < 3 { Err(ErrorKind::TimedOut.into()) } else { Ok(()) }
        })
        .unwrap();
    }

    #[test]
    fn tells_wrong_bytes() {
        let mut bytes = pattern(0, 100);
        bytes[70] ^= 1;
        assert!(expect(&mut &bytes[..], 0, 100).is_err());
        assert!(expect(&mut &bytes[..], 0, 70).is_ok());
        assert!(expect(&mut &bytes[8..], 0, 50).is_err());
    }
}
