//! What a media message is, from its first bytes: a peek, never a decode.
//!
//! Legacy bodies follow the FLV file format (version 10.1, annex E.4), enhanced ones Enhanced RTMP
//! v2 with its `ModEx` prefixes and multitrack bodies. What cannot be classified (cut off, a size
//! beyond the body, an unknown packet type) has no flag set and is passed on like any frame.

mod codec;
mod describe;
mod tag;
#[cfg(test)]
mod tests;
mod tracks;

pub use codec::Codec;
pub use describe::{Profile, Sound, profile, sound};
pub use tag::{encode_tag, encoded_tag_len, file_header};
pub use tracks::{Groups, Tracks};

use tracks::TrackBodies;

/// What a video message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoTag {
    /// A frame that decoding can start at (frame type 1), not a sequence header and not empty.
    pub keyframe: bool,
    /// A header that is to be kept for late joiners. A newer message of the same kind for the same
    /// tracks replaces it, see [`Tracks::covers`].
    pub header: Option<HeaderKind>,
    /// Codec, for display; of a multitrack message with several codecs the first track's.
    pub codec: Codec,
    /// Tracks it carries: track 0 unless it is a multitrack message; none when not classified.
    pub tracks: Tracks,
    /// End of sequence, or a command frame: passed on, never cached.
    pub transient: bool,
}

/// What an audio message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioTag {
    /// A header that is to be kept for late joiners, as [`VideoTag::header`].
    pub header: Option<HeaderKind>,
    /// Codec, for display; of a multitrack message with several codecs the first track's.
    pub codec: Codec,
    /// Tracks it carries, as [`VideoTag::tracks`].
    pub tracks: Tracks,
    /// End of sequence: passed on, never cached.
    pub transient: bool,
}

/// Which header slot of a track a message fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HeaderKind {
    /// Sequence start / AVC or AAC sequence header.
    SequenceStart,
    /// Video: colour info and other metadata. Audio: multichannel configuration.
    Metadata,
    /// AV1 in MPEG2-TS form.
    Mpeg2TsSequenceStart,
}

/// Classifies the body of a video message; any bytes, also none.
pub fn video(payload: &[u8]) -> VideoTag {
    let Some((&first, rest)) = payload.split_first() else {
        return VideoTag::default();
    };
    let frame_type = first >> 4 & 7;
    if first & 0x80 != 0 {
        return enhanced_video(frame_type, first & 0x0f, rest);
    }
    // Enhanced RTMP took the top bit of the frame type, so that 5 is the highest legacy one
    let codec = Codec::LegacyVideo(first & 0x0f);
    let tag = VideoTag { codec, tracks: Tracks::single(0), ..VideoTag::default() };
    let is_key = frame_type == frame_type::KEY;
    if frame_type == frame_type::COMMAND {
        return VideoTag { transient: true, ..tag };
    }
    if !codec.has_avc_header() {
        return VideoTag { keyframe: is_key && !rest.is_empty(), ..tag };
    }
    // packet type, composition time, data: FFmpeg skips headers without data as well
    match (rest.first(), rest.len() > 4) {
        (Some(0), true) => VideoTag { header: Some(HeaderKind::SequenceStart), ..tag },
        (Some(1), true) => VideoTag { keyframe: is_key, ..tag },
        (Some(2), _) => VideoTag { transient: true, ..tag },
        _ => tag,
    }
}

/// Classifies the body of an audio message; any bytes, also none.
pub fn audio(payload: &[u8]) -> AudioTag {
    let Some((&first, rest)) = payload.split_first() else {
        return AudioTag::default();
    };
    if first >> 4 == EX_AUDIO_HEADER {
        return enhanced_audio(first & 0x0f, rest);
    }
    let codec = Codec::LegacyAudio(first >> 4);
    // packet type, data; only AAC has a header
    let is_header = codec == Codec::AAC_LEGACY && rest.first() == Some(&0) && rest.len() > 1;
    AudioTag {
        header: is_header.then_some(HeaderKind::SequenceStart),
        codec,
        tracks: Tracks::single(0),
        transient: false,
    }
}

/// `SoundFormat` that announces an Enhanced RTMP audio header.
const EX_AUDIO_HEADER: u8 = 9;

/// Frame types of video messages (FLV annex E.4.3.1).
mod frame_type {
    pub(super) const KEY: u8 = 1;
    pub(super) const COMMAND: u8 = 5;
}

/// Packet types of Enhanced RTMP v2; audio and video share the first three and the last, 5 and 6
/// differ.
mod packet_type {
    pub(super) const SEQUENCE_START: u8 = 0;
    pub(super) const CODED_FRAMES: u8 = 1;
    pub(super) const SEQUENCE_END: u8 = 2;
    pub(super) const VIDEO_CODED_FRAMES_X: u8 = 3;
    pub(super) const VIDEO_METADATA: u8 = 4;
    pub(super) const VIDEO_MPEG2TS_SEQUENCE_START: u8 = 5;
    pub(super) const VIDEO_MULTITRACK: u8 = 6;
    pub(super) const AUDIO_MULTICHANNEL_CONFIG: u8 = 4;
    pub(super) const AUDIO_MULTITRACK: u8 = 5;
    pub(super) const MOD_EX: u8 = 7;
}

/// Most `ModEx` prefixes looked behind. The specification has one type of them and no limit.
const MAX_MOD_EX: usize = 8;

fn enhanced_video(frame_type: u8, packet_type: u8, rest: &[u8]) -> VideoTag {
    let Some((packet_type, rest)) = skip_mod_ex(packet_type, rest) else {
        return VideoTag::default();
    };
    // the frame type of metadata is to be ignored; a command has no codec and no body
    if frame_type == frame_type::COMMAND && packet_type != packet_type::VIDEO_METADATA {
        return VideoTag { transient: true, ..VideoTag::default() };
    }
    let Some(body) = Body::parse(packet_type, packet_type::VIDEO_MULTITRACK, rest) else {
        return VideoTag::default();
    };
    let tag = VideoTag { codec: body.codec, tracks: body.tracks, ..VideoTag::default() };
    match (body.packet_type, body.has_data) {
        (packet_type::SEQUENCE_START, true) => {
            VideoTag { header: Some(HeaderKind::SequenceStart), ..tag }
        }
        (packet_type::CODED_FRAMES | packet_type::VIDEO_CODED_FRAMES_X, has_data) => {
            VideoTag { keyframe: has_data && frame_type == frame_type::KEY, ..tag }
        }
        (packet_type::SEQUENCE_END, _) => VideoTag { transient: true, ..tag },
        (packet_type::VIDEO_METADATA, true) => {
            VideoTag { header: Some(HeaderKind::Metadata), ..tag }
        }
        (packet_type::VIDEO_MPEG2TS_SEQUENCE_START, true) => {
            VideoTag { header: Some(HeaderKind::Mpeg2TsSequenceStart), ..tag }
        }
        _ => tag,
    }
}

fn enhanced_audio(packet_type: u8, rest: &[u8]) -> AudioTag {
    let body = skip_mod_ex(packet_type, rest).and_then(|(packet_type, rest)| {
        Body::parse(packet_type, packet_type::AUDIO_MULTITRACK, rest)
    });
    let Some(body) = body else {
        return AudioTag::default();
    };
    let tag = AudioTag { codec: body.codec, tracks: body.tracks, ..AudioTag::default() };
    match (body.packet_type, body.has_data) {
        (packet_type::SEQUENCE_START, true) if body.codec.has_audio_header() => {
            AudioTag { header: Some(HeaderKind::SequenceStart), ..tag }
        }
        (packet_type::SEQUENCE_END, _) => AudioTag { transient: true, ..tag },
        (packet_type::AUDIO_MULTICHANNEL_CONFIG, true) if body.is_channel_layout => {
            AudioTag { header: Some(HeaderKind::Metadata), ..tag }
        }
        _ => tag,
    }
}

/// The packet type behind all `ModEx` prefixes, and what follows it.
///
/// A prefix is a size less one in one byte, or 255 and the size less one in two more; so many
/// bytes; and a byte of the prefix's own type and the next packet type.
fn skip_mod_ex(mut packet_type: u8, mut rest: &[u8]) -> Option<(u8, &[u8])> {
    for _ in 0..=MAX_MOD_EX {
        if packet_type != packet_type::MOD_EX {
            return Some((packet_type, rest));
        }
        let (&short, behind) = rest.split_first()?;
        let (size, behind) = match short {
            255 => {
                let (long, behind) = behind.split_first_chunk()?;
                (usize::from(u16::from_be_bytes(*long)) + 1, behind)
            }
            _ => (usize::from(short) + 1, behind),
        };
        let (&next, behind) = behind.get(size..)?.split_first()?;
        packet_type = next & 0x0f;
        rest = behind;
    }
    None
}

/// An enhanced body behind its prefixes, audio or video.
struct Body {
    /// Of each track, if there are several.
    packet_type: u8,
    codec: Codec,
    tracks: Tracks,
    /// There is something behind the headers, in each track.
    has_data: bool,
    /// And it can be a `MultichannelConfig`, in each track.
    is_channel_layout: bool,
}

impl Body {
    fn parse(packet_type: u8, multitrack: u8, rest: &[u8]) -> Option<Self> {
        if packet_type != multitrack {
            let (four_cc, data) = rest.split_first_chunk()?;
            return Some(Self {
                packet_type,
                codec: Codec::FourCc(*four_cc),
                tracks: Tracks::single(0),
                has_data: !data.is_empty(),
                is_channel_layout: is_channel_layout(data),
            });
        }
        let (&kind, rest) = rest.split_first()?;
        let packet_type = kind & 0x0f;
        if packet_type == multitrack || packet_type == packet_type::MOD_EX {
            return None;
        }
        let mut bodies = TrackBodies::new(kind >> 4, rest)?;
        let first = bodies.next()??;
        let mut tracks = Tracks::single(first.id);
        let mut has_data = !first.data.is_empty();
        let mut is_layout = is_channel_layout(first.data);
        for body in bodies {
            let body = body?;
            tracks.insert(body.id);
            has_data &= !body.data.is_empty();
            is_layout &= is_channel_layout(body.data);
        }
        let codec = first.codec;
        Some(Self { packet_type, codec, tracks, has_data, is_channel_layout: is_layout })
    }
}

/// Whether this is what follows `MultichannelConfig`: the order of the channels, their number, and
/// a map or flags as the order has it. FFmpeg 9 writes its first Opus frame with that packet type.
fn is_channel_layout(data: &[u8]) -> bool {
    match data {
        // not specified; in the order of the flags; a channel a byte
        [0, _] | [1, _, _, _, _, _] => true,
        [2, count, map @ ..] => map.len() == usize::from(*count),
        _ => false,
    }
}
