//! Chunk headers as they stand on the wire (RTMP 1.0 section 5.3.1).
use super::EXTENDED;

/// Longest header: a 3-byte basic header, an 11-byte message header, an extended timestamp.
pub(super) const MAX_HEADER: usize = 3 + 11 + 4;

/// One chunk header. For format 3 it ends with the basic header: whether an extended timestamp
/// follows is not written in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) csid: u32,
    pub(super) fields: Fields,
    /// Bytes it takes.
    pub(super) size: usize,
}

/// What the four formats say. `time` is what the extended timestamp says where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fields {
    Type0 { time: Time, len: usize, kind: u8, msid: u32 },
    Type1 { time: Time, len: usize, kind: u8 },
    Type2 { time: Time },
    Type3,
}

/// A timestamp or a delta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// Milliseconds.
    pub(super) ms: u32,
    /// Whether it stood in an extended timestamp.
    pub(super) extended: bool,
}

impl Header {
    /// The header at the front of `bytes`; `None` if it is not all there.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (&first, rest) = bytes.split_first()?;
        let (csid, rest) = match first & 0x3f {
            0 => {
                let (&[low], rest) = rest.split_first_chunk()?;
                (64 + u32::from(low), rest)
            }
            1 => {
                let (&[low, high], rest) = rest.split_first_chunk()?;
                (64 + u32::from(low) + 256 * u32::from(high), rest)
            }
            csid => (u32::from(csid), rest),
        };
        let (fields, rest) = match first >> 6 {
            0 => {
                let (&[t0, t1, t2, l0, l1, l2, kind, m0, m1, m2, m3], rest) =
                    rest.split_first_chunk()?;
                let (time, rest) = Time::parse([t0, t1, t2], rest)?;
                let msid = u32::from_le_bytes([m0, m1, m2, m3]);
                (Fields::Type0 { time, len: u24([l0, l1, l2]) as usize, kind, msid }, rest)
            }
            1 => {
                let (&[t0, t1, t2, l0, l1, l2, kind], rest) = rest.split_first_chunk()?;
                let (time, rest) = Time::parse([t0, t1, t2], rest)?;
                (Fields::Type1 { time, len: u24([l0, l1, l2]) as usize, kind }, rest)
            }
            2 => {
                let (&field, rest) = rest.split_first_chunk()?;
                let (time, rest) = Time::parse(field, rest)?;
                (Fields::Type2 { time }, rest)
            }
            _ => (Fields::Type3, rest),
        };
        Some(Self { csid, fields, size: bytes.len() - rest.len() })
    }
}

impl Fields {
    /// The format's number.
    pub(super) fn format(self) -> u8 {
        match self {
            Self::Type0 { .. } => 0,
            Self::Type1 { .. } => 1,
            Self::Type2 { .. } => 2,
            Self::Type3 => 3,
        }
    }
}

impl Time {
    fn parse(field: [u8; 3], rest: &[u8]) -> Option<(Self, &[u8])> {
        let ms = u24(field);
        if ms < EXTENDED {
            return Some((Self { ms, extended: false }, rest));
        }
        let (&value, rest) = rest.split_first_chunk()?;
        Some((Self { ms: u32::from_be_bytes(value), extended: true }, rest))
    }
}

fn u24([a, b, c]: [u8; 3]) -> u32 {
    u32::from_be_bytes([0, a, b, c])
}
