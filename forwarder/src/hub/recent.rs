//! What the readers of a stream got last, to be recognised when another source brings it again.

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::rtmp::message::MediaMessage;

/// Messages that are remembered: some ten seconds of video and audio.
const REMEMBERED: usize = 1024;

/// Of a long message only so much of its beginning and its end is compared, bytes.
const SAMPLE: usize = 64;

/// The newest messages of a stream, as its readers got them.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<u64>);

impl Recent {
    pub(super) fn note(&mut self, media: &MediaMessage<'_>) {
        if self.0.len() >= REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(fingerprint(media, true));
    }

    pub(super) fn has(&self, media: &MediaMessage<'_>) -> bool {
        let id = fingerprint(media, true);
        self.0.iter().rev().any(|known| *known == id)
    }

    /// All of it, to look up many.
    pub(super) fn set(&self) -> HashSet<u64> {
        self.0.iter().copied().collect()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// Tells messages apart by kind, length, the ends of their payload, and their time if `timed`.
pub fn fingerprint(media: &MediaMessage<'_>, timed: bool) -> u64 {
    let mut hasher = DefaultHasher::new();
    let payload = media.payload;
    (media.kind.type_id(), timed.then_some(media.timestamp), payload.len()).hash(&mut hasher);
    payload.get(..SAMPLE).unwrap_or(payload).hash(&mut hasher);
    payload.get(payload.len().saturating_sub(SAMPLE)..).unwrap_or(payload).hash(&mut hasher);
    hasher.finish()
}
