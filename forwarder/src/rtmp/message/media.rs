//! Data messages made fit for players, and aggregates taken apart.
use super::command::without_selector;
use super::kind;
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::Reader;

/// What players get of a data message of type `kind` (18 or 15), as the body of a type 18 message.
///
/// Without the `@setDataFrame` that publishers put in front (it is addressed to the server) and
/// without the selector byte of type 15; otherwise the very bytes: FFmpeg counts metadata only as
/// the ECMA array it was sent as. `None`: to be dropped, because it does not begin with a string
/// (FFmpeg as a player gives up on such a message, and FFmpeg as a publisher sends one for a
/// timecode), or because it holds AMF3 values, which a type 18 message cannot.
pub fn data_payload(kind: u8, body: &[u8]) -> Option<&[u8]> {
    let body = without_selector(kind, body);
    let payload = match split_string(body)? {
        ("@setDataFrame", rest) => rest,
        _ => body,
    };
    split_string(payload)?;
    if kind == kind::DATA_AMF3 {
        let mut reader = Reader::new(payload);
        while reader.read().ok()?.is_some() {}
    }
    Some(payload)
}

/// The name a data message begins with, `onMetaData` for one; for what [`data_payload`] returned.
pub fn data_name(payload: &[u8]) -> Option<&str> {
    split_string(payload).map(|(name, _)| name)
}

/// The AMF0 string at the front, and what follows it.
fn split_string(body: &[u8]) -> Option<(&str, &[u8])> {
    let (&[0x02, high, low], rest) = body.split_first_chunk()? else {
        return None;
    };
    let (string, rest) = rest.split_at_checked(u16::from_be_bytes([high, low]).into())?;
    Some((std::str::from_utf8(string).ok()?, rest))
}

/// The messages inside an aggregate (RTMP 1.0 section 7.1.6), in order: type, time, payload.
///
/// Ends at the first one whose size does not fit, and after [`MAX_AGGREGATED`]; passes over
/// aggregates inside the aggregate.
#[derive(Clone, Debug)]
pub struct Aggregate<'a> {
    rest: &'a [u8],
    timestamp: Timestamp,
    /// Time of the first message inside, which counts as `timestamp`.
    base: Option<Timestamp>,
    left: usize,
}

/// Messages taken out of one aggregate: at one for each audio and video frame, over half a minute.
pub const MAX_AGGREGATED: usize = 4096;

impl<'a> Aggregate<'a> {
    /// The messages in the body of a type 22 message with this timestamp.
    pub fn new(timestamp: Timestamp, body: &'a [u8]) -> Self {
        Self {
            rest: body,
            timestamp,
            base: None,
            left: MAX_AGGREGATED,
        }
    }

    /// The next one, of any type.
    fn tag(&mut self) -> Option<(u8, Timestamp, &'a [u8])> {
        self.left = self.left.checked_sub(1)?;
        // An FLV tag: type, 24-bit size, 24-bit time and its upper 8 bits, stream id.
        let (&[kind, s0, s1, s2, t0, t1, t2, t3, _, _, _], rest) = self.rest.split_first_chunk()?;
        let size = u32::from_be_bytes([0, s0, s1, s2]) as usize;
        let (payload, rest) = rest.split_at_checked(size)?;
        // The back pointer; nobody needs it, and the last one may be missing.
        self.rest = rest.get(4..).unwrap_or_default();

        let time = Timestamp(u32::from_be_bytes([t3, t0, t1, t2]));
        let base = *self.base.get_or_insert(time);
        Some((
            kind,
            self.timestamp.advanced(time.0.wrapping_sub(base.0)),
            payload,
        ))
    }
}

impl<'a> Iterator for Aggregate<'a> {
    type Item = (u8, Timestamp, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let tag = loop {
            match self.tag() {
                Some((kind::AGGREGATE, ..)) => {}
                tag => break tag,
            }
        };
        if tag.is_none() {
            self.left = 0;
        }
        tag
    }
}
