//! Media out of messages: those kept back to be given out one by one, as the parts of an aggregate.

use std::collections::VecDeque;
use std::ops::Range;

use crate::rtmp::Timestamp;
use crate::rtmp::chunk::Message;
use crate::rtmp::message::{Aggregate, MediaKind, MediaMessage, data_payload, kind};

/// Messages with their bodies copied, in order.
#[derive(Debug)]
pub(super) struct Held {
    msid: u32,
    bodies: Vec<u8>,
    parts: VecDeque<(u8, Timestamp, Range<usize>)>,
}

impl Held {
    /// Takes an aggregate apart.
    pub(super) fn split(aggregate: &Message<'_>) -> Self {
        Self::new(aggregate.msid, Aggregate::new(aggregate.timestamp, aggregate.payload))
    }

    /// Copies `messages`; all on `msid`.
    pub(super) fn new<'a>(
        msid: u32,
        messages: impl IntoIterator<Item = (u8, Timestamp, &'a [u8])>,
    ) -> Self {
        let mut held = Self { msid, bodies: Vec::new(), parts: VecDeque::new() };
        for (kind, timestamp, payload) in messages {
            let start = held.bodies.len();
            held.bodies.extend_from_slice(payload);
            held.parts.push_back((kind, timestamp, start..held.bodies.len()));
        }
        held
    }

    /// Whether all were given out.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// The next message.
    pub(super) fn next(&mut self) -> Option<Message<'_>> {
        let (kind, timestamp, range) = self.parts.pop_front()?;
        let payload = self.bodies.get(range)?;
        Some(Message { csid: 0, timestamp, kind, msid: self.msid, payload })
    }
}

/// The media a message carries; `None` for any other message, for an empty one (silence, which
/// nobody needs to be sent), and for data that no player could read.
pub fn media<'a>(message: &Message<'a>) -> Option<MediaMessage<'a>> {
    let (kind, payload) = match message.kind {
        kind::AUDIO => (MediaKind::Audio, message.payload),
        kind::VIDEO => (MediaKind::Video, message.payload),
        kind::DATA_AMF0 | kind::DATA_AMF3 => {
            (MediaKind::Data, data_payload(message.kind, message.payload)?)
        }
        _ => return None,
    };
    (!payload.is_empty()).then_some(MediaMessage {
        kind,
        timestamp: message.timestamp,
        msid: message.msid,
        payload,
    })
}
