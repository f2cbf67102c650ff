//! Messages to chunks: format 0 for each message, contiguous, so any message boundary is a start.
use super::{EXTENDED, Message};
use crate::rtmp::Timestamp;

/// Appends `message`, cut into chunks of `chunk_size` bytes, piece by piece to `put`.
///
/// Format 0 header; format 3 continuations; the extended timestamp, when there is one, is repeated
/// in each continuation as FFmpeg, librtmp and SRS do. csid must be 2..=63, and the payload within
/// the 24 bits of the length field.
pub fn encode(message: &Message<'_>, chunk_size: u32, put: &mut impl FnMut(&[u8])) {
    debug_assert!((2..=63).contains(&message.csid), "csid {} takes more bytes", message.csid);
    debug_assert!(message.payload.len() <= 0xff_ffff, "the length field has 24 bits");
    let [_, _, _, csid] = (message.csid & 0x3f).to_be_bytes();
    let extended = is_extended(message.timestamp);
    let time = message.timestamp.0.to_be_bytes();
    let [_, t @ ..] = message.timestamp.0.min(EXTENDED).to_be_bytes();
    let [.., l0, l1, l2] = message.payload.len().to_be_bytes();
    let [m0, m1, m2, m3] = message.msid.to_le_bytes();

    put(&[csid, t[0], t[1], t[2], l0, l1, l2, message.kind, m0, m1, m2, m3]);
    if extended {
        put(&time);
    }
    let mut chunks = message.payload.chunks(usize_size(chunk_size));
    if let Some(first) = chunks.next() {
        put(first);
    }
    for chunk in chunks {
        // RTMP 1.0 section 5.3.1.2.4: type 3 continues the message.
        if extended {
            put(&[0xc0 | csid, time[0], time[1], time[2], time[3]]);
        } else {
            put(&[0xc0 | csid]);
        }
        put(chunk);
    }
}

/// How many bytes [`encode`] makes of a payload of `len` bytes.
pub fn encoded_len(len: usize, timestamp: Timestamp, chunk_size: u32) -> usize {
    let continuations = len.div_ceil(usize_size(chunk_size)).saturating_sub(1);
    let extended = if is_extended(timestamp) { 4 } else { 0 };
    12 + extended + len + continuations * (1 + extended)
}

fn is_extended(timestamp: Timestamp) -> bool {
    timestamp.0 >= EXTENDED
}

fn usize_size(chunk_size: u32) -> usize {
    usize::try_from(chunk_size).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(timestamp: u32, payload: &[u8], chunk_size: u32) -> Vec<u8> {
        let message =
            Message { csid: 6, timestamp: Timestamp(timestamp), kind: 9, msid: 1, payload };
        let mut out = Vec::new();
        encode(&message, chunk_size, &mut |bytes| out.extend_from_slice(bytes));
        out
    }

    #[test]
    fn message_in_one_chunk() {
        assert_eq!(
            encoded(0x01_0203, b"abc", 128),
            b"\x06\x01\x02\x03\x00\x00\x03\x09\x01\x00\x00\x00abc"
        );
    }

    #[test]
    fn message_in_three_chunks() {
        assert_eq!(
            encoded(5, b"abcde", 2),
            b"\x06\x00\x00\x05\x00\x00\x05\x09\x01\x00\x00\x00ab\xc6cd\xc6e"
        );
    }

    #[test]
    fn extended_timestamp_is_repeated() {
        assert_eq!(
            encoded(0x0102_0304, b"abc", 2),
            b"\x06\xff\xff\xff\x00\x00\x03\x09\x01\x00\x00\x00\x01\x02\x03\x04ab\xc6\x01\x02\x03\x04c"
        );
    }

    #[test]
    fn extended_timestamp_from_the_first_value_the_field_cannot_say() {
        assert_eq!(encoded(0xff_fffe, b"", 128)[1..4], [0xff, 0xff, 0xfe]);
        assert_eq!(encoded(0xff_fffe, b"", 128).len(), 12);
        assert_eq!(encoded(0xff_ffff, b"", 128)[12..], [0, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn encoded_len_agrees_with_encode() {
        for len in [0, 1, 127, 128, 129, 255, 256, 257, 5000] {
            for timestamp in [0, 0xff_fffe, 0xff_ffff, u32::MAX] {
                for chunk_size in [1, 64, 128, 4096, 65_536, 0x7fff_ffff] {
                    assert_eq!(
                        encoded(timestamp, &vec![7; len], chunk_size).len(),
                        encoded_len(len, Timestamp(timestamp), chunk_size),
                        "{len} bytes at {timestamp} in chunks of {chunk_size}"
                    );
                }
            }
        }
    }
}
