//! The handshake with digests: an HMAC-SHA256 hidden in each block.
//!
//! It is in no specification. Adobe's products use it, and librtmp, FFmpeg, nginx-rtmp and SRS
//! carry the same keys and rules. A first block has its digest at a place that four of its own
//! bytes give; the digest is over all the other bytes. A second block ends with a digest over the
//! rest of it, under a key made from the digest that it answers.
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{BLOCK_LEN, Block};

const DIGEST_LEN: usize = 32;

/// An HMAC-SHA256.
type Digest = [u8; DIGEST_LEN];

/// Of Adobe's keys, what follows the product's name.
const KEY_TAIL: Digest = [
    0xf0, 0xee, 0xc2, 0x4a, 0x80, 0x68, 0xbe, 0xe8, 0x2e, 0x00, 0xd0, 0xd1, 0x02, 0x9e, 0x7e, 0x57,
    0x6e, 0xec, 0x5d, 0x2d, 0x29, 0x80, 0x6f, 0xab, 0x93, 0xb8, 0xe6, 0x36, 0xcf, 0xeb, 0x31, 0xae,
];

/// Who made a block, which decides its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

impl Role {
    /// The key of a first block; followed by [`KEY_TAIL`], that of a second one.
    fn key(self) -> &'static [u8] {
        match self {
            Self::Client => b"Genuine Adobe Flash Player 001",
            Self::Server => b"Genuine Adobe Flash Media Server 001",
        }
    }

    /// What stands in the four bytes that are zero in a simple handshake: a product version.
    fn version(self) -> [u8; 4] {
        match self {
            // as SRS
            Self::Client => [0x80, 0, 7, 2],
            // Flash Media Server 4.5; from 3 on FFmpeg checks the digests, and ours are right
            Self::Server => [4, 5, 0, 1],
        }
    }
}

/// Where in a first block the digest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// Scheme 0: in the second half, after 764 bytes that hold a key.
    KeyFirst,
    /// Scheme 1: in the first half, before the key.
    DigestFirst,
}

impl Scheme {
    /// Where the 764 bytes begin that hold the digest.
    pub(super) fn base(self) -> usize {
        match self {
            Self::KeyFirst => 772,
            Self::DigestFirst => 8,
        }
    }

    /// Where `block` has its digest: 1,503 at most, so that 32 bytes are always there.
    pub(super) fn position(self, block: &Block) -> usize {
        let base = self.base();
        let sum: usize = block[base..base + 4].iter().map(|&byte| usize::from(byte)).sum();
        base + 4 + sum % 728
    }
}

/// A digest that is right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) scheme: Scheme,
    digest: Digest,
}

/// Looks for the digest of `maker` in its first block, in both schemes.
pub(super) fn find(block: &Block, maker: Role) -> Option<Found> {
    [Scheme::KeyFirst, Scheme::DigestFirst].into_iter().find_map(|scheme| {
        let digest = first_digest(block, maker, scheme);
        let at = scheme.position(block);
        (block[at..at + DIGEST_LEN] == digest).then_some(Found { scheme, digest })
    })
}

/// Makes a plain first block one with a version and a digest.
pub(super) fn signed(mut block: Box<Block>, maker: Role, scheme: Scheme) -> Box<Block> {
    block[4..8].copy_from_slice(&maker.version());
    let digest = first_digest(&block, maker, scheme);
    let at = scheme.position(&block);
    block[at..at + DIGEST_LEN].copy_from_slice(&digest);
    block
}

/// The second block of `maker` that answers a first block with the digest `found`.
///
/// Any bytes may stand before the digest; those of the peer's block do, as in a simple handshake.
pub(super) fn answer(mut first: Box<Block>, maker: Role, found: &Found) -> Box<Block> {
    let (body, digest) = first.split_at_mut(BLOCK_LEN - DIGEST_LEN);
    let key = hmac(&[maker.key(), &KEY_TAIL].concat(), &[&found.digest]);
    digest.copy_from_slice(&hmac(&key, &[body]));
    first
}

/// The digest that belongs into a first block: over all its bytes but those of the digest.
fn first_digest(block: &Block, maker: Role, scheme: Scheme) -> Digest {
    let at = scheme.position(block);
    hmac(maker.key(), &[&block[..at], &block[at + DIGEST_LEN..]])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Digest {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
pub(super) mod check {
    //! What a peer that checks digests would check.
    use super::*;

    /// Whether `second` of `maker` ends with the digest that answers `first` of the other side.
    pub(crate) fn answers(second: &Block, maker: Role, first: &Block) -> bool {
        let other = if maker == Role::Client { Role::Server } else { Role::Client };
        find(first, other).is_some_and(|found| {
            let (body, digest) = second.split_at(BLOCK_LEN - DIGEST_LEN);
            let key = hmac(&[maker.key(), &KEY_TAIL].concat(), &[&found.digest]);
            digest == hmac(&key, &[body])
        })
    }
}
