//! A publisher whose bytes go to another server: what the session does meanwhile.

use std::time::Instant;

use super::{ServerSession, Transcript};
use crate::rtmp::Timestamp;
use crate::rtmp::chunk::ChunkReader;
use crate::rtmp::message::{Control, UserControl, csid};

impl ServerSession {
    /// What the client has said so far, if that was little and nothing was published or played.
    /// It is kept no longer.
    pub fn take_transcript(&mut self) -> Option<Transcript> {
        self.transcript.take().map(|transcript| *transcript)
    }

    /// Gives away the reading of what comes next, which [`Self::return_reader`] gives back. In
    /// between nothing is to be read.
    pub fn lend_reader(&mut self) -> ChunkReader {
        std::mem::take(&mut self.reader)
    }

    /// Goes on with a reader that stands at the next byte.
    pub fn return_reader(&mut self, reader: ChunkReader) {
        self.reader = reader;
    }

    /// Counts bytes that somebody else has read, and acknowledges them.
    pub fn count_carried(&mut self, now: Instant, bytes: u64) {
        let link = &mut self.core.link;
        link.count_received(now, usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    /// Queues a command of the other server, as it came.
    pub fn pass_command(&mut self, kind: u8, msid: u32, payload: &[u8]) {
        let on = if msid == 0 { csid::COMMAND } else { csid::STREAM };
        self.core.link.send_message((on, msid), kind, Timestamp(0), payload);
    }

    /// Queues the other server's PingRequest, carrying `stamp`.
    pub fn pass_ping(&mut self, stamp: u32) {
        self.core.link.send(&Control::User(UserControl::PingRequest(stamp)));
    }
}
