//! Codecs and their names.
use std::fmt;

/// A codec as the wire names it; displayed as people name it, such as `H.264` or `AAC`.
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

impl Codec {
    /// AAC as an FLV sound format.
    pub(super) const AAC_LEGACY: Self = Self::LegacyAudio(10);

    /// Whether a legacy video body has AVC's packet type and composition time behind its first
    /// byte. HEVC with id 12 is in no specification; CDNs and their encoders use it so.
    pub(super) fn has_avc_header(self) -> bool {
        matches!(self, Self::LegacyVideo(7 | 12))
    }

    /// Whether it is the same codec, however it is named.
    pub fn is_same(self, other: Self) -> bool {
        self.four_cc() == other.four_cc()
    }

    /// As Enhanced RTMP names it, if it does.
    fn four_cc(self) -> Self {
        match self {
            Self::LegacyVideo(7) => Self::FourCc(*b"avc1"),
            Self::LegacyVideo(12) => Self::FourCc(*b"hvc1"),
            Self::LegacyAudio(2 | 14) => Self::FourCc(*b".mp3"),
            Self::LegacyAudio(10) => Self::FourCc(*b"mp4a"),
            _ => self,
        }
    }

    /// Whether an enhanced audio codec has a sequence start; AC-3, E-AC-3 and MP3 have none.
    pub(super) fn has_audio_header(self) -> bool {
        !matches!(self, Self::FourCc([b'a' | b'e', b'c', b'-', b'3'] | [b'.', b'm', b'p', b'3']))
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Unknown => "unknown",
            Self::LegacyVideo(id) => match id {
                2 => "Sorenson H.263",
                3 => "Screen Video",
                4 => "VP6",
                5 => "VP6 with alpha",
                6 => "Screen Video 2",
                7 => "H.264",
                12 => "HEVC",
                _ => return write!(f, "video codec {id}"),
            },
            Self::LegacyAudio(id) => match id {
                0 | 3 => "PCM",
                1 => "ADPCM",
                2 | 14 => "MP3",
                4..=6 => "Nellymoser",
                7 => "G.711 A-law",
                8 => "G.711 mu-law",
                10 => "AAC",
                11 => "Speex",
                _ => return write!(f, "sound format {id}"),
            },
            Self::FourCc(four_cc) => match four_cc {
                b"avc1" => "H.264",
                b"hvc1" => "HEVC",
                b"vvc1" => "VVC",
                b"av01" => "AV1",
                b"vp08" => "VP8",
                b"vp09" => "VP9",
                b"Opus" => "Opus",
                b"fLaC" => "FLAC",
                b"ac-3" => "AC-3",
                b"ec-3" => "E-AC-3",
                b".mp3" => "MP3",
                b"mp4a" => "AAC",
                _ => return write!(f, "FourCC {}", four_cc.escape_ascii()),
            },
        };
        f.write_str(name)
    }
}
