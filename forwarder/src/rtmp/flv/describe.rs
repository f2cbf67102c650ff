//! What sequence headers say of a stream, in the words of SRS's API.

/// Profile and level of video.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    /// Such as `High`; empty if it is not known.
    pub profile: String,
    /// Such as `3.1`; empty if it is not known.
    pub level: String,
}

/// What an AudioSpecificConfig says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sound {
    /// Hz; 0 if it is not known.
    pub sample_rate: u32,
    /// 0 if it is not known.
    pub channels: u8,
    /// Such as `LC`; empty if it is not known.
    pub profile: String,
}

/// Reads the body of a video message that is a sequence header.
pub fn profile(header: &[u8]) -> Profile {
    // AVCDecoderConfigurationRecord and its like begin behind five bytes, with a composition time
    // or a FourCC in them.
    let (Some(&first), Some(record)) = (header.first(), header.get(5..)) else {
        return Profile::default();
    };
    let is_enhanced = first & 0x80 != 0;
    let four_cc = header.get(1..5).unwrap_or_default();
    if first & 0x8f == 7 || (is_enhanced && four_cc == b"avc1") {
        // ISO/IEC 14496-15 5.3.3.1: version, profile, compatibility, level
        let &[_, profile, compatibility, level, ..] = record else { return Profile::default() };
        return Profile {
            profile: avc_profile(profile, compatibility).to_owned(),
            level: tenths(u32::from(level)),
        };
    }
    if first & 0x8f == 12 || (is_enhanced && four_cc == b"hvc1") {
        // ISO/IEC 14496-15 8.3.3.1: the level is 30 times its number
        let (Some(profile), Some(level)) = (record.get(1), record.get(12)) else {
            return Profile::default();
        };
        let profile = match profile & 0x1f {
            1 => "Main",
            2 => "Main10",
            3 => "MainStillPicture",
            4 => "Rext",
            _ => "Other",
        };
        return Profile { profile: profile.to_owned(), level: tenths(u32::from(*level) / 3) };
    }
    Profile::default()
}

/// Reads the body of an audio message that is a sequence header.
pub fn sound(header: &[u8]) -> Sound {
    let config = match header {
        [first, 0, config @ ..] if first >> 4 == 10 => config,
        [first, b'm', b'p', b'4', b'a', config @ ..] if first >> 4 == 9 => config,
        _ => return Sound::default(),
    };
    // ISO/IEC 14496-3 1.6.2.1: five bits of object type, four of frequency, four of channels
    let &[a, b, ..] = config else { return Sound::default() };
    let profile = match a >> 3 {
        1 => "Main",
        2 => "LC",
        3 => "SSR",
        5 => "HE",
        29 => "HEv2",
        _ => "Other",
    };
    let index = usize::from((a & 7) << 1 | b >> 7);
    Sound {
        sample_rate: SAMPLE_RATES.get(index).copied().unwrap_or(0),
        channels: match b >> 3 & 0xf {
            7 => 8,
            n => n,
        },
        profile: profile.to_owned(),
    }
}

/// ISO/IEC 14496-10 A.2
fn avc_profile(profile: u8, compatibility: u8) -> &'static str {
    match (profile, compatibility >> 4 & 1) {
        (66, _) if compatibility >> 6 & 1 == 1 => "Baseline(Constrained)",
        (66, _) => "Baseline",
        (77, _) => "Main",
        (88, _) => "Extended",
        (100, _) => "High",
        (110, 0) => "High(10)",
        (110, _) => "High(10+Intra)",
        (122, 0) => "High(422)",
        (122, _) => "High(422+Intra)",
        (144, _) => "High(444)",
        (244, _) => "High(444+Predictive)",
        (44, _) => "High(444+Intra)",
        _ => "Other",
    }
}

fn tenths(level: u32) -> String {
    match (level / 10, level % 10) {
        (whole, 0) => whole.to_string(),
        (whole, tenth) => format!("{whole}.{tenth}"),
    }
}

/// ISO/IEC 14496-3 table 1.18
const SAMPLE_RATES: [u32; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000,
    7_350,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_encoders_are_described() {
        let high = Profile { profile: "High".into(), level: "3.1".into() };
        assert_eq!(profile(&[0x17, 0, 0, 0, 0, 1, 100, 0, 31, 0xff]), high);
        assert_eq!(profile(b"\x90avc1\x01\x64\x00\x1f\xff"), high);
        let mut hevc = b"\x90hvc1".to_vec();
        hevc.extend([1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 123, 0]);
        assert_eq!(profile(&hevc), Profile { profile: "Main".into(), level: "4.1".into() });
        let aac = Sound { sample_rate: 44_100, channels: 2, profile: "LC".into() };
        assert_eq!(sound(&[0xaf, 0, 0x12, 0x10]), aac);
        assert_eq!(sound(b"\x90mp4a\x12\x10"), aac);
    }

    #[test]
    fn what_is_cut_short_says_nothing() {
        let avc = [0x17, 0, 0, 0, 0, 1, 100, 0];
        assert!((0..avc.len()).all(|n| profile(&avc[..n]) == Profile::default()));
        assert!((0..4).all(|n| sound(&[0xaf, 0, 0x12, 0x10][..n]) == Sound::default()));
    }
}
