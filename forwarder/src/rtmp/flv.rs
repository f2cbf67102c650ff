//! What a media message is, from its first bytes: a peek, never a decode (RTMP.md 3.1).

/// What a video message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VideoTag {
    /// A frame that decoding can start at (frame type 1) and not a sequence header.
    pub keyframe: bool,
    /// A sequence header (or colour info or MPEG2-TS sequence start), to be kept for late joiners.
    pub header: Option<HeaderKind>,
    /// Legacy codec id or FourCC, for display; 0 when unknown.
    pub codec: Codec,
    /// For multitrack messages the tracks they carry; 0 when not multitrack.
    pub track: u8,
    /// End of sequence, or a command frame: passed on, never cached.
    pub transient: bool,
}

/// What an audio message is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioTag {
    /// A sequence header or multichannel configuration.
    pub header: Option<HeaderKind>,
    /// Codec, for display.
    pub codec: Codec,
    /// Track, see [`VideoTag::track`].
    pub track: u8,
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

/// A codec as the wire names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Not known yet.
    #[default]
    Unknown,
    /// FLV video codec id.
    LegacyVideo(u8),
    /// FLV sound format.
    LegacyAudio(u8),
    /// Enhanced RTMP.
    FourCc([u8; 4]),
}

/// Classifies the body of a video message; any bytes, also none.
pub fn video(_payload: &[u8]) -> VideoTag {
    todo!()
}
/// Classifies the body of an audio message; any bytes, also none.
pub fn audio(_payload: &[u8]) -> AudioTag {
    todo!()
}
