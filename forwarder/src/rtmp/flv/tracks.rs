//! Track ids and the bodies of multitrack messages (Enhanced RTMP v2).
use super::Codec;

/// A set of track ids.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tracks([u128; 2]);

impl Tracks {
    /// The set of one track.
    pub fn single(id: u8) -> Self {
        let mut tracks = Self::default();
        tracks.insert(id);
        tracks
    }

    /// Whether `id` is in the set.
    pub fn contains(self, id: u8) -> bool {
        self.0[usize::from(id >> 7)] >> (id & 127) & 1 == 1
    }

    /// Whether all of `other` is in this set: headers for `other` are replaced by one for `self`.
    pub fn covers(self, other: Self) -> bool {
        self.0.iter().zip(other.0).all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// What is in either set.
    pub fn union(self, other: Self) -> Self {
        Self([self.0[0] | other.0[0], self.0[1] | other.0[1]])
    }

    /// Whether some track is in both sets.
    pub fn meets(self, other: Self) -> bool {
        self.0.iter().zip(other.0).any(|(mine, theirs)| mine & theirs != 0)
    }

    /// How many tracks are in the set.
    pub fn len(self) -> u32 {
        self.0.iter().map(|half| half.count_ones()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }

    pub(super) fn insert(&mut self, id: u8) {
        self.0[usize::from(id >> 7)] |= 1 << (id & 127);
    }
}

/// Which keyframes begin a group of pictures of all tracks together.
///
/// Tracks that are keyed at about the same time, as the renditions of one picture are, have a
/// message each. The first of them begins the group, whichever it is, and those of other tracks are
/// part of it: a player that joined at the last one could not decode the others.
#[derive(Clone, Copy, Debug, Default)]
pub struct Groups {
    /// Tracks that had a keyframe since the group began.
    keyed: Tracks,
}

impl Groups {
    /// Whether a keyframe of these tracks begins a new group.
    pub fn begins(&mut self, tracks: Tracks) -> bool {
        let begins = self.keyed.is_empty() || self.keyed.meets(tracks);
        self.keyed = if begins { tracks } else { self.keyed.union(tracks) };
        begins
    }

    /// The group is not kept: the next keyframe begins one, of whatever track it is.
    pub fn forget(&mut self) {
        self.keyed = Tracks::default();
    }
}

/// Most tracks looked at in one message: as many as there are ids.
const MAX_TRACKS: usize = 256;

/// One track's part of a multitrack message.
pub(super) struct TrackBody<'a> {
    pub(super) codec: Codec,
    pub(super) id: u8,
    pub(super) data: &'a [u8],
}

/// The parts of a multitrack message: `Some(None)` once for one that is broken, then the end.
pub(super) struct TrackBodies<'a> {
    /// Of all tracks; none when each names its own.
    codec: Option<Codec>,
    /// One track, whose body is not preceded by its size.
    is_single: bool,
    rest: &'a [u8],
    left: usize,
}

impl<'a> TrackBodies<'a> {
    /// `kind`: `AvMultitrackType`; `rest`: what follows the byte that it stands in.
    pub(super) fn new(kind: u8, rest: &'a [u8]) -> Option<Self> {
        const ONE_TRACK: u8 = 0;
        const MANY_TRACKS: u8 = 1;
        const MANY_TRACKS_MANY_CODECS: u8 = 2;
        let (codec, rest) = match kind {
            ONE_TRACK | MANY_TRACKS => {
                let (four_cc, rest) = rest.split_first_chunk()?;
                (Some(Codec::FourCc(*four_cc)), rest)
            }
            MANY_TRACKS_MANY_CODECS => (None, rest),
            _ => return None,
        };
        Some(Self { codec, is_single: kind == ONE_TRACK, rest, left: MAX_TRACKS })
    }

    fn read(&mut self) -> Option<TrackBody<'a>> {
        self.left = self.left.checked_sub(1)?;
        let codec = match self.codec {
            Some(codec) => codec,
            None => {
                let (four_cc, rest) = self.rest.split_first_chunk()?;
                self.rest = rest;
                Codec::FourCc(*four_cc)
            }
        };
        let (&id, rest) = self.rest.split_first()?;
        let (data, rest) = if self.is_single {
            (rest, &[][..])
        } else {
            let (&[a, b, c], rest) = rest.split_first_chunk()?;
            let size = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
            rest.split_at_checked(size)?
        };
        self.rest = rest;
        Some(TrackBody { codec, id, data })
    }
}

impl<'a> Iterator for TrackBodies<'a> {
    type Item = Option<TrackBody<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let body = self.read();
        if body.is_none() {
            self.rest = &[];
        }
        Some(body)
    }
}
