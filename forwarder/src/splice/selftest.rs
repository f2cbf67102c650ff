//! Real bytes through real pairs on loopback, before anybody relies on the kernel path.
//!
//! Kernels between 5.17 and 6.18 are known that hand bytes over twice, or lose them, when a socket
//! is partly read as it is spliced, when its target blocks, or when it is unspliced; versions do
//! not tell, as fixes are ported back. So each of these is tried and the bytes are compared.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::program::{Pair, PairLimits, SpliceProgram};
use super::socket;

/// Says what went wrong.
pub(super) fn run(program: &SpliceProgram) -> Result<(), String> {
    let failed = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    partly_read(program).map_err(failed("a source that is partly read"))?;
    blocked_target(program).map_err(failed("a target that blocks, and the end"))?;
    in_mid_stream(program).map_err(failed("splices in mid-stream"))
}

/// Bytes that are queued when the source is spliced, some of them read, arrive once.
fn partly_read(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(None)?;
    hop.sender.write_all(&pattern(0, PARTLY))?;
    let mut first = vec![0; PARTLY / 10];
    hop.source.read_exact(&mut first)?;
    hop.target.write_all(&first)?;
    let pair = hop.splice(program)?;
    hop.sender.write_all(&pattern(PARTLY, PARTLY))?;
    hop.expect(0, 2 * PARTLY)?;
    hop.unsplice(program, &pair)
}

/// A target that takes nothing for a while gets everything once, and then the end.
fn blocked_target(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(Some(SMALL_BUFFER))?;
    let pair = hop.splice(program)?;
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
        expect(&mut receiver, 0, BLOCKED)?;
        ended.join().map_err(|_| io::Error::other("a thread panicked"))??;
        match receiver.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::Error::other("bytes behind the end")),
        }
    })
}

/// Bytes that keep coming while the source is spliced and unspliced arrive once and in order.
fn in_mid_stream(program: &SpliceProgram) -> io::Result<()> {
    let mut hop = Hop::new(None)?;
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
    let deadline = Instant::now() + WITHIN;
    let mut buffer = vec![0; 64 << 10];
    loop {
        match hop.source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hop.target.write_all(buffer.get(..n).unwrap_or_default())?;
                continue;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // Refused once the sender has ended: then the rest is read.
        if let Ok(pair) = hop.splice(program) {
            wait(deadline, "the stream does not end")?;
            hop.unsplice(program, &pair)?;
        }
    }
    for thread in [sent, received] {
        thread.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(())
}

/// A sender's connection to us, and ours to a receiver.
struct Hop {
    sender: TcpStream,
    source: TcpStream,
    target: TcpStream,
    receiver: TcpStream,
}

impl Hop {
    /// With these buffers towards the receiver, bytes.
    fn new(buffers: Option<usize>) -> io::Result<Self> {
        let (sender, source) = connection(None)?;
        let (target, receiver) = connection(buffers)?;
        for socket in [&sender, &source, &target, &receiver] {
            socket.set_nodelay(true)?;
        }
        // Never a read timeout on a source: the stream parser takes it for its own.
        sender.set_write_timeout(Some(WITHIN))?;
        receiver.set_read_timeout(Some(WITHIN))?;
        Ok(Self { sender, source, target, receiver })
    }

    fn splice(&self, program: &SpliceProgram) -> io::Result<Pair> {
        let none = PairLimits::default();
        let (source, target) = (self.source.as_fd(), self.target.as_fd());
        let pair = Pair::of(source, target)?;
        program.insert(&pair, source, target, &none, None)?;
        socket::kick(source).map(|()| pair)
    }

    fn unsplice(&self, program: &SpliceProgram, pair: &Pair) -> io::Result<()> {
        remove(program, pair, &self.target)
    }

    fn expect(&self, at: usize, len: usize) -> io::Result<()> {
        expect(&mut &self.receiver, at, len)
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
    let mut bytes = vec![0; len];
    receiver.read_exact(&mut bytes)?;
    match bytes.iter().zip(pattern(at, len)).position(|(&got, sent)| got != sent) {
        None => Ok(()),
        Some(wrong) => Err(io::Error::other(format!("byte {} of {len} is wrong", at + wrong))),
    }
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
    fn tells_wrong_bytes() {
        let mut bytes = pattern(0, 100);
        bytes[70] ^= 1;
        assert!(expect(&mut &bytes[..], 0, 100).is_err());
        assert!(expect(&mut &bytes[..], 0, 70).is_ok());
        assert!(expect(&mut &bytes[8..], 0, 50).is_err());
    }
}
