//! Legs under random load, for as long as one likes: bytes compared one by one.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, RngExt, SeedableRng};
use socket2::SockRef;
use tokio::net::TcpStream as AsyncStream;
use tokio::runtime;
use tokio::time::timeout;

use super::{Ended, Leg, LegOptions, LegStatus, Splice};

/// What [`soak`] has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Soaked {
    /// Streams carried from their first byte to the end.
    pub iterations: u64,
    /// Streams among them that one end cut short.
    pub cuts: u64,
    /// Bytes received, all of them right.
    pub bytes: u64,
    /// Bytes that the kernel carried.
    pub redirected: u64,
    /// How often legs came back from the kernel.
    pub unsplices: u64,
    /// How often because they were over the soft limit.
    pub overs: u64,
}

/// Carries `iterations` streams of `bytes` bytes, one after the other: sent in pieces of 1 byte to
/// 300 KB, received by a reader that now and then stops, or is slow all the time, over a leg that
/// is stopped and armed at random moments, between sockets of either family. One in four is cut
/// short: one end closes or resets its connection somewhere. The same for the same `seed`, but for
/// the kernel's timing.
///
/// Errors: the first stream that did not arrive byte for byte up to where it was cut, whose leg did
/// not end as its sockets did, or that took longer than a minute; and in which iteration.
pub fn soak(
    iterations: u64,
    bytes: usize,
    splice: &Arc<Splice>,
    seed: u64,
) -> Result<Soaked, String> {
    let mut soaked = Soaked::default();
    let before = splice.why_not();
    for iteration in 0..iterations {
        let plan = Plan::draw(seed.wrapping_add(iteration), bytes);
        let (status, received) = stream(splice, &plan)
            .map_err(|error| format!("iteration {iteration} of seed {seed}: {error}; {plan:?}"))?;
        if splice.why_not() != before {
            return Err(format!("iteration {iteration} of seed {seed}: {}", splice.describe()));
        }
        soaked.iterations += 1;
        soaked.cuts += u64::from(plan.cut.is_some());
        soaked.bytes += received;
        soaked.redirected += status.redirected;
        soaked.unsplices += status.unsplices;
        soaked.overs += status.overs;
    }
    Ok(soaked)
}

/// What is to happen to one stream.
#[derive(Clone, Debug)]
struct Plan {
    len: u64,
    /// Of the bytes.
    key: u64,
    families: [Family; 2],
    soft_limit: usize,
    is_slow: bool,
    /// At which byte who does what.
    cut: Option<(u64, Cut)>,
    /// For the sender, the leg and the receiver.
    seeds: [u64; 3],
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
    /// IPv4 in sockets of IPv6.
    Mapped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    SenderCloses,
    SenderResets,
    ReceiverCloses,
    ReceiverResets,
}

// === impl Plan ===

impl Plan {
    fn draw(seed: u64, len: usize) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let len = len as u64;
        let family = |n| match n {
            0..=1 => Family::V4,
            2 => Family::V6,
            _ => Family::Mapped,
        };
        let cut = rng.random_ratio(1, 4).then(|| {
            let cut = match rng.random_range(0..4) {
                0 => Cut::SenderCloses,
                1 => Cut::SenderResets,
                2 => Cut::ReceiverCloses,
                _ => Cut::ReceiverResets,
            };
            (rng.random_range(0..len), cut)
        });
        Self {
            len,
            key: rng.next_u64(),
            families: [rng.random_range(0..4), rng.random_range(0..4)].map(family),
            soft_limit: 1 << rng.random_range(18..23),
            is_slow: rng.random_ratio(1, 4),
            cut,
            seeds: [rng.next_u64(), rng.next_u64(), rng.next_u64()],
        }
    }

    fn rng(&self, of: usize) -> SmallRng {
        SmallRng::seed_from_u64(self.seeds.get(of).copied().unwrap_or_default())
    }

    fn cut_by_sender(&self) -> Option<(u64, Cut)> {
        self.cut.filter(|(_, cut)| matches!(cut, Cut::SenderCloses | Cut::SenderResets))
    }

    fn cut_by_receiver(&self) -> Option<(u64, Cut)> {
        self.cut.filter(|(_, cut)| matches!(cut, Cut::ReceiverCloses | Cut::ReceiverResets))
    }

    fn pattern(&self) -> Pattern {
        Pattern { key: self.key, at: 0 }
    }
}

/// Carries one stream; gives the leg's figures and the bytes received.
fn stream(splice: &Arc<Splice>, plan: &Plan) -> io::Result<(LegStatus, u64)> {
    let [to_us, from_us] = plan.families;
    let (sender, source) = connection(to_us)?;
    let (target, receiver) = connection(from_us)?;
    sender.set_write_timeout(Some(WITHIN))?;
    receiver.set_read_timeout(Some(WITHIN))?;
    let (of_sender, of_receiver) = (plan.clone(), plan.clone());
    let sent = thread::spawn(move || send(sender, &of_sender));
    let received = thread::spawn(move || receive(receiver, &of_receiver));
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let carried = runtime.block_on(async {
        let carried = timeout(WITHIN, carry(splice, source, target, plan)).await;
        carried.map_err(|_| io::Error::other("the leg did not end in time"))?
    });
    let panicked = |_| io::Error::other("a thread panicked");
    let (received, sent) = (received.join().map_err(panicked)?, sent.join().map_err(panicked)?);
    // First what the receiver saw: it tells more.
    let received = received?;
    let status = carried?;
    let due = match plan.cut {
        None => Some(plan.len),
        Some((at, Cut::SenderCloses)) => Some(at),
        // What the leg had when it learnt of it.
        Some((_, Cut::SenderResets)) => Some(status.bytes),
        Some((_, Cut::ReceiverCloses | Cut::ReceiverResets)) => None,
    };
    if let Some(due) = due.filter(|due| [received, status.bytes] != [*due; 2]) {
        let counted = status.bytes;
        let message = format!("{received} bytes of {due}, then the end; the leg counts {counted}");
        return Err(io::Error::other(message));
    }
    if plan.cut_by_receiver().is_none() {
        sent?;
    }
    Ok((status, received))
}

/// Until the leg has ended, as it should.
async fn carry(
    splice: &Arc<Splice>,
    source: TcpStream,
    target: TcpStream,
    plan: &Plan,
) -> io::Result<LegStatus> {
    let [source, target] = [source, target].map(|socket| {
        socket.set_nonblocking(true)?;
        AsyncStream::from_std(socket).map(Rc::new)
    });
    let target = target?;
    let mut rng = plan.rng(0);
    let options = LegOptions {
        chunk_size: 128,
        // Which soon gets lost, but tells large reads how to go.
        walk: rng.random(),
        soft_limit: plan.soft_limit,
        hard_limit: 0,
        write_timeout: WITHIN,
    };
    let mut leg = Leg::new(splice, source?, Rc::clone(&target), options);
    if rng.random() {
        leg.arm();
    }
    let ended = loop {
        // Some of the pauses are over before a byte has come, others see megabytes pass.
        let pause = Duration::from_micros(1 << rng.random_range(0..17_u32));
        match timeout(pause, leg.run()).await {
            Err(_) if rng.random_ratio(1, 3) => {}
            Err(_) => {
                // Now and then somebody loses patience, and goes on where it was.
                if rng.random_ratio(1, 4) {
                    let patience = Duration::from_micros(rng.random_range(0..500));
                    if !matches!(timeout(patience, leg.stop()).await, Ok(Ok(()))) {
                        continue;
                    }
                } else if let Err(ended) = leg.stop().await {
                    break ended;
                }
                if rng.random() {
                    leg.arm();
                }
            }
            Ok(ended) => break ended,
        }
    };
    let is_due = match (&ended, plan.cut) {
        (Ended::Source(None), cut) => !matches!(cut, Some((_, Cut::SenderResets))),
        (Ended::Source(Some(_)), cut) => matches!(cut, Some((_, Cut::SenderResets))),
        (Ended::Target(_), _) => plan.cut_by_receiver().is_some(),
        (Ended::Stuck | Ended::OverLimit, _) => false,
    };
    if !is_due {
        return Err(io::Error::other(format!("the leg ended: {ended:?}")));
    }
    if matches!(ended, Ended::Source(_)) {
        // Who went first cannot be told any more.
        let shut = SockRef::from(&*target).shutdown(Shutdown::Write);
        if plan.cut_by_receiver().is_none() {
            shut?;
        }
    }
    Ok(leg.status())
}

fn send(mut sender: TcpStream, plan: &Plan) -> io::Result<()> {
    let mut rng = plan.rng(1);
    let mut pattern = plan.pattern();
    let mut bytes = Vec::new();
    let len = plan.cut_by_sender().map_or(plan.len, |(at, _)| at);
    while pattern.at < len {
        // From 1 byte to 300 KB, each magnitude as often.
        let most = 1 << rng.random_range(0..19_u32);
        let left = usize::try_from(len - pattern.at).unwrap_or(usize::MAX);
        bytes.resize(rng.random_range(1..=most).min(300_000).min(left), 0);
        pattern.fill(&mut bytes);
        sender.write_all(&bytes)?;
        if rng.random_ratio(1, 8) {
            thread::sleep(Duration::from_micros(rng.random_range(1..2000)));
        }
    }
    if let Some((_, Cut::SenderResets)) = plan.cut {
        return SockRef::from(&sender).set_linger(Some(Duration::ZERO));
    }
    sender.shutdown(Shutdown::Write)?;
    // Until the leg has gone, so that it learns of nothing but the end.
    sender.set_read_timeout(Some(WITHIN))?;
    match sender.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(io::Error::other("the sender was told something")),
        // What the leg left unread resets the connection.
        Err(_) if plan.cut.is_some() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Gives how many bytes came.
fn receive(mut receiver: TcpStream, plan: &Plan) -> io::Result<u64> {
    let mut rng = plan.rng(2);
    let mut pattern = plan.pattern();
    let (mut bytes, mut expected) = (vec![0; 64 << 10], vec![0; 64 << 10]);
    let (pause, longest) = if plan.is_slow { (4, 5_000) } else { (200, 20_000) };
    loop {
        if let Some((at, cut)) = plan.cut_by_receiver()
            && pattern.at >= at
        {
            if cut == Cut::ReceiverResets {
                SockRef::from(&receiver).set_linger(Some(Duration::ZERO))?;
            }
            return Ok(pattern.at);
        }
        let most = rng.random_range(1..=bytes.len());
        let n = receiver.read(bytes.get_mut(..most).unwrap_or_default())?;
        let (got, expected) = (bytes.get(..n), expected.get_mut(..n).unwrap_or_default());
        if n == 0 {
            return Ok(pattern.at);
        }
        let from = pattern.at;
        pattern.fill(expected);
        if got != Some(&*expected) {
            return Err(io::Error::other(format!("wrong in bytes {from} to {}", pattern.at)));
        }
        if rng.random_ratio(1, pause) {
            thread::sleep(Duration::from_micros(rng.random_range(1..longest)));
        }
    }
}

/// A sequence of bytes in which every place looks different, and different for every key.
struct Pattern {
    key: u64,
    at: u64,
}

impl Pattern {
    /// The next bytes.
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            let word = ((self.at / 8) ^ self.key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let word = (word ^ (word >> 29)).to_le_bytes();
            *byte = word[(self.at % 8) as usize];
            self.at += 1;
        }
    }
}

/// The dialling and the accepted side.
fn connection(family: Family) -> io::Result<(TcpStream, TcpStream)> {
    let localhost = Ipv4Addr::LOCALHOST;
    let (listen, dial) = match family {
        Family::V4 => (localhost.into(), localhost.into()),
        Family::V6 => (Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()),
        Family::Mapped => (Ipv6Addr::UNSPECIFIED.into(), localhost.to_ipv6_mapped().into()),
    };
    let listener = TcpListener::bind(SocketAddr::new(listen, 0))?;
    let dialled = TcpStream::connect(SocketAddr::new(dial, listener.local_addr()?.port()))?;
    let (accepted, _) = listener.accept()?;
    dialled.set_nodelay(true)?;
    accepted.set_nodelay(true)?;
    Ok((dialled, accepted))
}

/// How long one stream may take.
const WITHIN: Duration = Duration::from_secs(60);
