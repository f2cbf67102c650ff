//! The handshake as the specification has it (RTMP 1.0 sections 5.2.3 and 5.2.4).
use super::{BLOCK_LEN, Block, RANDOM_LEN};

/// C1 or S1: time, four zero bytes, random bytes.
///
/// The zeros matter: an FFmpeg player takes a fifth byte of 3 or more in S1 for the promise of a
/// digest, and hangs up when there is none.
pub(super) fn first_block(random: &[u8], uptime_ms: u32) -> Box<Block> {
    let mut block = Box::new([0; BLOCK_LEN]);
    block[..4].copy_from_slice(&uptime_ms.to_be_bytes());
    let n = random.len().min(RANDOM_LEN);
    block[BLOCK_LEN - RANDOM_LEN..][..n].copy_from_slice(&random[..n]);
    block
}

/// C2 or S2: the peer's first block as it came. librtmp warns when anything in it is changed,
/// also the second time field, so that is left out, as in SRS and nginx.
pub(super) fn answer(first: Box<Block>) -> Box<Block> {
    first
}
