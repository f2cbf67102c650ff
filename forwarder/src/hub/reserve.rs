//! What is kept of a publisher that stands by: its headers, and its newest group of pictures.

use super::headers::Headers;
use super::log::{AUDIO_ONLY_AFTER, LogLimits, MAX_GOP_MS};
use crate::rtmp::Timestamp;
use crate::rtmp::flv::{self, Groups};
use crate::rtmp::message::{MediaKind, MediaMessage};

/// Memory of fewer bytes is not given back between one group of pictures and the next.
const KEPT_BYTES: usize = 256 << 10;

/// Headers and messages of a publisher whom nobody reads. Bounded as the group of pictures of a
/// log is; what is over a bound is dropped, and the next keyframe begins anew.
#[derive(Debug, Default)]
pub(super) struct Reserve {
    /// In force now.
    headers: Headers,
    /// In force where `messages` begin.
    first_headers: Headers,
    /// From the newest keyframe on; without video the newest audio message alone.
    messages: Vec<Kept>,
    /// Their payloads.
    bytes: Vec<u8>,
    began_ms: u64,
    groups: Groups,
    video_seen: bool,
    audio_run: u32,
}

#[derive(Clone, Copy, Debug)]
struct Kept {
    kind: MediaKind,
    timestamp: Timestamp,
    /// One past its last byte.
    end: usize,
}

impl Reserve {
    /// Of a publisher whose headers are known.
    pub(super) fn with_headers(headers: &Headers) -> Self {
        let video_seen = headers.has_video();
        Self { headers: headers.clone(), video_seen, ..Self::default() }
    }

    /// Keeps what is needed of a message that arrived at `now_ms`.
    pub(super) fn keep(&mut self, media: &MediaMessage<'_>, limits: &LogLimits, now_ms: u64) {
        self.headers.keep(media);
        let mut begins = false;
        match media.kind {
            MediaKind::Video => {
                let tag = flv::video(media.payload);
                if !tag.transient {
                    self.video_seen = true;
                    self.audio_run = 0;
                }
                begins = tag.keyframe && self.groups.begins(tag.tracks);
            }
            MediaKind::Audio if flv::audio(media.payload).header.is_none() => {
                self.audio_run = self.audio_run.saturating_add(1);
                begins = !self.video_seen || self.audio_run >= AUDIO_ONLY_AFTER;
            }
            MediaKind::Audio | MediaKind::Data => {}
        }
        if begins {
            self.forget_messages();
            self.first_headers = self.headers.clone();
            self.began_ms = now_ms;
        } else if self.messages.is_empty() {
            return;
        }
        self.bytes.extend_from_slice(media.payload);
        let (kind, timestamp) = (media.kind, media.timestamp);
        self.messages.push(Kept { kind, timestamp, end: self.bytes.len() });
        let over = self.bytes.len() > limits.gop_bytes
            || self.messages.len() > limits.gop_messages
            || now_ms.saturating_sub(self.began_ms) > MAX_GOP_MS;
        // One message alone is bounded by what a message may be.
        if over && self.messages.len() > 1 {
            self.forget_messages();
            self.groups.forget();
        }
    }

    /// Whether there is something to go on with, for readers who have video or not.
    pub(super) fn can_start(&self, with_video: bool) -> bool {
        let is_enough = !with_video || self.video_seen || self.audio_run >= AUDIO_ONLY_AFTER;
        !self.messages.is_empty() && is_enough
    }

    /// Headers in force at the first message, or if `now` at the last.
    pub(super) fn headers(&self, now: bool) -> &Headers {
        if now { &self.headers } else { &self.first_headers }
    }

    /// How many messages there are.
    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    /// Bytes of payload held.
    pub(super) fn held_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether what is kept is video, from a keyframe on.
    pub(super) fn has_keyframe(&self) -> bool {
        self.messages.first().is_some_and(|first| first.kind == MediaKind::Video)
    }

    /// The messages in order.
    pub(super) fn messages(&self) -> impl DoubleEndedIterator<Item = MediaMessage<'_>> {
        (0..self.messages.len()).filter_map(|at| {
            let Kept { kind, timestamp, end } = *self.messages.get(at)?;
            let begin = at.checked_sub(1).and_then(|before| self.messages.get(before));
            let payload = self.bytes.get(begin.map_or(0, |before| before.end)..end)?;
            Some(MediaMessage { kind, timestamp, msid: super::LOG_MSID, payload })
        })
    }

    fn forget_messages(&mut self) {
        let used = self.bytes.len().max(KEPT_BYTES);
        self.messages.clear();
        self.bytes.clear();
        // One large group is no reason to hold so much for ever.
        self.bytes.shrink_to(used);
    }
}
