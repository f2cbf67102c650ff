//! Reads an FLV file tag by tag (Adobe Flash Video File Format 10.1, annex E).
use std::io::{ErrorKind, Read};

use anyhow::{Context, Result, bail};
use forwarder::rtmp::message::MediaKind;

/// Largest tag we take; the format allows 16 MiB, no encoder comes near.
const MAX_TAG: usize = 8 << 20;

/// One audio, video or script tag.
#[derive(Debug, PartialEq, Eq)]
pub struct Tag {
    /// What it carries.
    pub kind: MediaKind,
    /// Milliseconds since the start of the file.
    pub timestamp: u32,
    /// The tag's body: what RTMP carries as a message.
    pub payload: Vec<u8>,
}

/// A file that is being read.
pub struct FlvReader<R> {
    input: R,
}

impl<R: Read> FlvReader<R> {
    /// Reads the file header.
    pub fn new(mut input: R) -> Result<Self> {
        let mut header = [0; 9];
        input.read_exact(&mut header).context("not an FLV file: too short")?;
        let [b'F', b'L', b'V', 1, _, offset @ ..] = header else {
            bail!("not an FLV file: it does not start with FLV version 1");
        };
        let after = u64::from(u32::from_be_bytes(offset)).saturating_sub(9);
        // What the header was longer by, and the size of the tag before the first: zero.
        std::io::copy(&mut input.by_ref().take(after + 4), &mut std::io::sink())?;
        Ok(Self { input })
    }

    /// The next tag; `None` at the end. A last tag that is cut off is left out, as players do.
    pub fn read(&mut self) -> Result<Option<Tag>> {
        loop {
            let mut header = [0; 11];
            if !self.fill(&mut header)? {
                return Ok(None);
            }
            let [kind, size @ .., t2, t1, t0, t3, _, _, _] = header;
            let [s2, s1, s0] = size;
            let size = u32::from_be_bytes([0, s2, s1, s0]);
            let size = usize::try_from(size).ok().filter(|&size| size <= MAX_TAG);
            let Some(size) = size else { bail!("a tag of more than {MAX_TAG} bytes") };
            let mut payload = vec![0; size];
            if !self.fill(&mut payload)? || !self.fill(&mut [0; 4])? {
                return Ok(None);
            }
            // Bit 5 marks encryption, which is nothing a relay looks at; the rest is the kind.
            let kind = match kind & 0x1f {
                8 => MediaKind::Audio,
                9 => MediaKind::Video,
                18 => MediaKind::Data,
                _ => continue,
            };
            let timestamp = u32::from_be_bytes([t3, t2, t1, t0]);
            return Ok(Some(Tag { kind, timestamp, payload }));
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<bool> {
        match self.input.read_exact(buffer) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(bytes: &[u8]) -> Result<Vec<Tag>> {
        let mut reader = FlvReader::new(bytes)?;
        let mut tags = Vec::new();
        while let Some(tag) = reader.read()? {
            tags.push(tag);
        }
        Ok(tags)
    }

    const HEADER: &[u8] = b"FLV\x01\x05\0\0\0\x09\0\0\0\0";

    #[test]
    fn tags_have_extended_timestamps() {
        let tag = b"\x09\0\0\x02\x01\x02\x03\x04\0\0\0\x17\x01\0\0\0\x0d";
        let bytes = [HEADER, tag, b"\x08\0\0\x01\0\0\x05\0\0\0\0\xaf\0\0\0\x0c"].concat();
        let video = (MediaKind::Video, 0x0401_0203, vec![0x17, 1]);
        let audio = (MediaKind::Audio, 5, vec![0xaf]);
        let expected =
            [video, audio].map(|(kind, timestamp, payload)| Tag { kind, timestamp, payload });
        assert_eq!(tags(&bytes).unwrap(), expected);
        // Cut anywhere inside the second tag only the first is left.
        for cut in HEADER.len() + tag.len()..bytes.len() {
            assert_eq!(tags(&bytes[..cut]).unwrap().len(), 1, "cut at {cut}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        assert!(tags(b"").is_err());
        assert!(tags(b"RIFF\x01\x05\0\0\0\x09\0\0\0\0").is_err());
        assert!(tags(&[HEADER, b"\x09\xff\xff\xff\0\0\0\0\0\0\0"].concat()).is_err());
    }

    #[test]
    fn the_clip_we_ship_starts_with_metadata_and_headers() {
        let tags = tags(include_bytes!("../../tests/media/clip.flv")).unwrap();
        let kinds: Vec<_> = tags.iter().take(3).map(|tag| tag.kind).collect();
        assert_eq!(kinds, [MediaKind::Data, MediaKind::Video, MediaKind::Audio]);
        let last = tags.last().unwrap().timestamp;
        assert!((5_500..6_100).contains(&last), "{last}");
    }
}
