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
        Self { rest: body, timestamp, base: None, left: MAX_AGGREGATED }
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
        Some((kind, self.timestamp.advanced(time.0.wrapping_sub(base.0)), payload))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_for_players() {
        type Case<'a> = (&'a str, u8, &'a [u8], Option<&'a [u8]>);

        let on_meta_data = b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x01a\x05\0\0\x09";
        let published = [b"\x02\0\x0d@setDataFrame", &on_meta_data[..]].concat();
        let selected = [b"\0", &published[..]].concat();
        let amf3 = [b"\0", &on_meta_data[..], b"\x11\x04\x01"].concat();
        let broken = b"\x02\0\x01x\x02\0\x09cut";
        let cases: [Case<'_>; 15] = [
            ("without @setDataFrame", 18, on_meta_data, Some(on_meta_data)),
            ("with @setDataFrame", 18, &published, Some(on_meta_data)),
            ("AMF3 with selector", 15, &selected, Some(on_meta_data)),
            ("AMF3 without selector", 15, &published, Some(on_meta_data)),
            ("AMF3 with AMF3 values", 15, &amf3, None),
            ("AMF0 with AMF3 values, after a selector", 18, &amf3, None),
            ("AMF0, broken after the name", 18, broken, Some(broken)),
            ("AMF3, broken after the name", 15, broken, None),
            ("nothing", 18, b"", None),
            ("only the selector", 15, b"\0", None),
            ("only @setDataFrame", 18, b"\x02\0\x0d@setDataFrame", None),
            ("@setDataFrame and a number", 18, b"\x02\0\x0d@setDataFrame\0\0\0\0\0\0\0\0\0", None),
            ("time code of 4 bytes", 18, b"\0\0\x10\0", None),
            ("string cut off", 18, b"\x02\0\x0aonMeta", None),
            ("string not UTF-8", 18, b"\x02\0\x01\xff", None),
        ];
        for (name, kind, body, expected) in cases {
            assert_eq!(data_payload(kind, body), expected, "{name}");
        }
        assert_eq!(data_name(on_meta_data), Some("onMetaData"));
        assert_eq!(data_name(b"\x05"), None);
    }

    /// An FLV tag with its back pointer.
    fn tag(kind: u8, time: u32, payload: &[u8]) -> Vec<u8> {
        let [t3, t0, t1, t2] = time.to_be_bytes();
        let [.., s0, s1, s2] = payload.len().to_be_bytes();
        let back = (payload.len() as u32 + 11).to_be_bytes();
        [&[kind, s0, s1, s2, t0, t1, t2, t3, 0, 0, 0], payload, &back].concat()
    }

    fn inside(timestamp: u32, body: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        Aggregate::new(Timestamp(timestamp), body)
            .map(|(kind, time, payload)| (kind, time.0, payload.to_vec()))
            .collect()
    }

    #[test]
    fn aggregate_is_moved_to_its_own_time() {
        let body = [tag(9, 0x0102_0304, b"v"), tag(8, 0x0102_0310, b""), tag(9, 0x0102_0300, b"w")];
        let expected = [(9, 1000, b"v".to_vec()), (8, 1012, vec![]), (9, 996, b"w".to_vec())];
        assert_eq!(inside(1000, &body.concat()), expected);
        let times: Vec<_> = inside(2, &body.concat()).iter().map(|m| m.1).collect();
        assert_eq!(times, [2, 14, u32::MAX - 1], "modulo 2^32");
    }

    #[test]
    fn hostile_aggregates() {
        let good = tag(8, 5, b"a");
        let mut too_large = tag(9, 9, b"b");
        too_large[3] = 200;
        let cases: [(&str, Vec<u8>, usize); 8] = [
            ("nothing", vec![], 0),
            ("half a tag header", good[..10].to_vec(), 0),
            ("size beyond the body", too_large.clone(), 0),
            ("good, then size beyond the body", [&good[..], &too_large].concat(), 1),
            ("no last back pointer", good[..12].to_vec(), 1),
            ("half a last back pointer", good[..14].to_vec(), 1),
            ("aggregate inside", [tag(22, 5, &good), good.clone()].concat(), 1),
            ("a million tags", tag(8, 0, b"").repeat(500_000), MAX_AGGREGATED),
        ];
        for (name, body, count) in cases {
            assert_eq!(inside(0, &body).len(), count, "{name}");
        }
        let mut all_nested = Aggregate::new(Timestamp(0), &[22; 200]);
        assert_eq!(all_nested.next(), None);
        assert_eq!(all_nested.next(), None);
    }
}
