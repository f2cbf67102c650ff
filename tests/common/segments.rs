//! A TCP peer made by hand behind a TUN device: it sends the segments that no sane stack would.
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::ops::Range;

use tappers::linux::Tun;

use super::netns::Netns;
use super::{seconds, wait_until};

/// One connection of the peer to a host, whose only network this is.
pub struct Handmade {
    tun: Tun,
    bytes: Vec<u8>,
    /// Which of the bytes were sent.
    sent: Vec<bool>,
    /// What the host sends next: nothing but acknowledgements.
    ack: u32,
    /// Bytes that the host has acknowledged.
    acked: usize,
    /// The host's network lives as long as the peer.
    _host: Netns,
}

impl Handmade {
    /// Connects, to send `bytes` in whatever segments; gives the host's socket as well. `None` is
    /// said on standard output as a skipped test.
    pub fn connect(bytes: Vec<u8>) -> Option<(Self, TcpStream)> {
        let host = Netns::new()?;
        let tun = host.tun(&[&format!("{HOST}/24")]);
        let listener = host.run(|| TcpListener::bind((HOST, HOST_PORT))).expect("bind");
        let sent = vec![false; bytes.len()];
        let mut peer = Self { tun, bytes, sent, ack: 0, acked: 0, _host: host };
        peer.segment(FIRST.wrapping_sub(1), SYN, &[]);
        wait_until("the host answers", seconds(5), || {
            peer.listen();
            peer.ack != 0
        });
        peer.segment(FIRST, ACK, &[]);
        let (accepted, _) = listener.accept().expect("accept");
        Some((peer, accepted))
    }

    /// Sends these bytes in one segment, again if they were sent before.
    pub fn send(&mut self, range: Range<usize>) {
        self.sent[range.clone()].fill(true);
        let seq = FIRST.wrapping_add(u32::try_from(range.start).unwrap());
        self.segment(seq, ACK | PUSH, &self.bytes[range]);
        // What nobody reads would fill the device.
        self.listen();
    }

    /// Sends the gaps before the last byte that was sent.
    pub fn fill_gaps(&mut self) {
        let end = self.sent.iter().rposition(|&sent| sent).map_or(0, |last| last + 1);
        while let Some(at) = self.sent[..end].iter().position(|&sent| !sent) {
            let gap = self.sent[at..end].iter().take_while(|&&sent| !sent).count();
            self.send(at..at + gap.min(1400));
        }
    }

    /// Sends the first bytes again that the host did not take, if there are: it had no room.
    pub fn repeat(&mut self) {
        self.listen();
        let end = self.whole().len().min(self.acked + 1400);
        if self.acked < end {
            self.send(self.acked..end);
        }
    }

    /// What the host has without a gap.
    pub fn whole(&self) -> &[u8] {
        let len = self.sent.iter().position(|&sent| !sent).unwrap_or(self.sent.len());
        &self.bytes[..len]
    }

    /// Says that nothing comes after what was sent.
    pub fn finish(&mut self) {
        let seq = FIRST.wrapping_add(u32::try_from(self.whole().len()).unwrap());
        self.segment(seq, ACK | FIN, &[]);
    }

    /// Takes in what the host says.
    fn listen(&mut self) {
        let mut packet = vec![0; 65_536];
        loop {
            let n = match self.tun.recv(&mut packet) {
                Ok(n) => n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a TUN device: {error}"),
            };
            let number = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
            // TCP over IPv4; a host says other things too.
            if n < 40 || packet[0] != 0x45 || packet[9] != 6 {
                continue;
            }
            let (seq, ack, flags) = (number(24), number(28), packet[33]);
            assert_eq!(flags & RESET, 0, "the host has reset the connection");
            if flags & SYN != 0 {
                self.ack = seq.wrapping_add(1);
            }
            self.acked = self.acked.max(ack.wrapping_sub(FIRST) as usize);
        }
    }

    fn segment(&self, seq: u32, flags: u8, payload: &[u8]) {
        let len = u16::try_from(20 + payload.len()).unwrap();
        let mut tcp = Vec::new();
        tcp.extend_from_slice(&PEER_PORT.to_be_bytes());
        tcp.extend_from_slice(&HOST_PORT.to_be_bytes());
        tcp.extend_from_slice(&seq.to_be_bytes());
        tcp.extend_from_slice(&self.ack.to_be_bytes());
        // header of five words, flags, window, checksum, urgent pointer
        tcp.extend_from_slice(&[5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
        tcp.extend_from_slice(payload);
        let mut pseudo = [PEER.octets(), HOST.octets()].concat();
        pseudo.extend_from_slice(&[0, 6]);
        pseudo.extend_from_slice(&len.to_be_bytes());
        let sum = checksum(&[&pseudo[..], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum);
        let mut ip = vec![0x45, 0];
        ip.extend_from_slice(&(len + 20).to_be_bytes());
        ip.extend_from_slice(&[0, 0, 0, 0, 64, 6, 0, 0]);
        ip.extend_from_slice(&[PEER.octets(), HOST.octets()].concat());
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        let packet = [ip, tcp].concat();
        let sent = self.tun.send(&packet).expect("a TUN device");
        assert_eq!(sent, packet.len());
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 2);
const HOST_PORT: u16 = 5000;
const PEER_PORT: u16 = 40_001;
/// Sequence number of the first byte: they wrap soon.
const FIRST: u32 = u32::MAX - 1800;

const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RESET: u8 = 0x04;
const PUSH: u8 = 0x08;
const ACK: u8 = 0x10;
