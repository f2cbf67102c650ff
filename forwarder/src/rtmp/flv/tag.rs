//! FLV streams: tags instead of chunks (Adobe FLV file format 10.1, annex E).

use crate::rtmp::Timestamp;

/// Bytes of a tag beside its body: the header, and the size that follows it.
const AROUND: usize = 11 + 4;

/// What an FLV stream begins with: signature, version 1, the kinds it has, the header's size, and
/// the size of a tag before the first one, which is 0 (E.2, E.3).
pub fn file_header(audio: bool, video: bool) -> [u8; 13] {
    let kinds = u8::from(audio) << 2 | u8::from(video);
    [b'F', b'L', b'V', 1, kinds, 0, 0, 0, 9, 0, 0, 0, 0]
}

/// Appends a tag and the size that follows it piece by piece to `put`. `kind` is the type of the
/// message (8, 9, 18), which is the tag's; the payload must be within the 24 bits of its size.
pub fn encode_tag(kind: u8, timestamp: Timestamp, payload: &[u8], put: &mut impl FnMut(&[u8])) {
    debug_assert!(payload.len() <= 0xff_ffff, "the size field has 24 bits");
    let [.., s0, s1, s2] = payload.len().to_be_bytes();
    let [t3, t0, t1, t2] = timestamp.0.to_be_bytes();
    put(&[kind, s0, s1, s2, t0, t1, t2, t3, 0, 0, 0]);
    put(payload);
    let size = u32::try_from(payload.len() + 11).unwrap_or(u32::MAX);
    put(&size.to_be_bytes());
}

/// How many bytes [`encode_tag`] makes of a payload of `len` bytes.
pub fn encoded_tag_len(len: usize) -> usize {
    AROUND + len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_as_the_specification_has_it() {
        let mut bytes = Vec::new();
        encode_tag(9, Timestamp(0x0102_0304), &[7; 300], &mut |piece| {
            bytes.extend_from_slice(piece);
        });
        assert_eq!(bytes.len(), encoded_tag_len(300));
        assert_eq!(bytes[..11], [9, 0, 1, 44, 2, 3, 4, 1, 0, 0, 0]);
        assert_eq!(bytes[311..], [0, 0, 1, 55]);
    }

    #[test]
    fn a_header_tells_the_kinds() {
        for (audio, video, kinds) in [(true, true, 5), (true, false, 4), (false, true, 1)] {
            assert_eq!(file_header(audio, video)[..5], [b'F', b'L', b'V', 1, kinds]);
        }
    }
}
