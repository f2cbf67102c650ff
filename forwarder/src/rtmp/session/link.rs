//! What both roles share: the output, the acknowledgements and the limits on control messages.

use std::time::{Duration, Instant};

use super::SessionError;
use super::rate::Rate;
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::Value;
use crate::rtmp::chunk::{self, DEFAULT_CHUNK_SIZE, Message, StreamPosition};
use crate::rtmp::message::{Command, Control, UserControl, kind};

/// Control messages a second, of all types together. A player at full speed sends a few.
const MAX_CONTROLS: u32 = 1000;
/// SetChunkSize and Abort a second: each may change how what follows is read.
const MAX_CHUNK_CHANGES: u32 = 100;
/// PingRequests answered a second; the others are left without an answer.
const MAX_PONGS: u32 = 10;
/// Smallest window acknowledged, so that a peer cannot ask for an answer to every byte.
const MIN_ACK_WINDOW: u32 = 64 << 10;
/// Acknowledgements a second before their time: later ones come with each whole window only.
const MAX_ACKS: u32 = 10;
/// How long a message may take from its first byte to its last.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(30);

/// One connection after the handshake, below the commands.
#[derive(Debug)]
pub(super) struct Link {
    /// Bytes to send.
    pub(super) out: Vec<u8>,
    /// Chunk size in force for what we send, bytes.
    chunk_size: u32,
    /// What the peer's reader knows of each chunk stream we used.
    spoken: Vec<StreamPosition>,
    /// Bytes received, handshake included.
    received: u64,
    /// `received` at the last acknowledgement.
    acknowledged: u64,
    /// The peer's WindowAckSize or the configured one, bytes; 0: no acknowledgements.
    ack_window: u32,
    /// The window is configured: what the peer asks is of no matter.
    ack_window_forced: bool,
    acks: Rate,
    controls: Rate,
    chunk_changes: Rate,
    pongs: Rate,
    /// When the message now being received began, if one is.
    message_began: Instant,
}

impl Link {
    /// `ack_window`: acknowledge by this window, bytes; 0: by the one the peer announces.
    pub(super) fn new(ack_window: u32, now: Instant) -> Self {
        Self {
            out: Vec::new(),
            chunk_size: DEFAULT_CHUNK_SIZE,
            spoken: Vec::new(),
            received: 0,
            acknowledged: 0,
            ack_window,
            ack_window_forced: ack_window != 0,
            acks: Rate::new(now),
            controls: Rate::new(now),
            chunk_changes: Rate::new(now),
            pongs: Rate::new(now),
            message_began: now,
        }
    }

    /// Sets the configured window, as in [`Self::new`]; 0 leaves what the peer has announced.
    pub(super) fn set_in_ack_size(&mut self, window: u32) {
        self.ack_window_forced = window != 0;
        if window != 0 {
            self.ack_window = window;
        }
    }

    /// Counts bytes taken from the input, and acknowledges when half a window has come.
    ///
    /// FFmpeg and SRS acknowledge each half window too: a peer that waits for the
    /// acknowledgement of a whole one never stalls. It would for good if a whole one could go
    /// without, since nothing more would come to be counted: the rate limits only what is early.
    pub(super) fn count_received(&mut self, now: Instant, bytes: usize) {
        self.received = self.received.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        let window = u64::from(self.ack_window.max(MIN_ACK_WINDOW));
        let open = self.received - self.acknowledged;
        if self.ack_window == 0 || open < window / 2 {
            return;
        }
        if self.acks.allow(now, MAX_ACKS) || open >= window {
            self.acknowledged = self.received;
            // RTMP 1.0 section 5.4.3 has 32 bits; the count goes on modulo 2^32
            let [.., a, b, c, d] = self.received.to_be_bytes();
            self.send(&Control::Acknowledgement(u32::from_be_bytes([a, b, c, d])));
        }
    }

    /// Notes that a message begins with the next byte read.
    pub(super) fn begin_message(&mut self, now: Instant) {
        self.message_began = now;
    }

    /// When the message that has begun has to be whole.
    pub(super) fn message_deadline(&self) -> Instant {
        self.message_began + MESSAGE_DEADLINE
    }

    /// Deals with a control message of type `kind` as both roles do, and returns it.
    ///
    /// SetChunkSize and Abort have been applied by the chunk reader.
    pub(super) fn receive_control(
        &mut self,
        now: Instant,
        message: &Message<'_>,
    ) -> Result<Option<Control>, SessionError> {
        if !self.controls.allow(now, MAX_CONTROLS) {
            return Err(SessionError::Limit(format!("over {MAX_CONTROLS} control messages/s")));
        }
        if matches!(message.kind, kind::SET_CHUNK_SIZE | kind::ABORT)
            && !self.chunk_changes.allow(now, MAX_CHUNK_CHANGES)
        {
            return Err(SessionError::Limit(format!(
                "over {MAX_CHUNK_CHANGES} SetChunkSize or Abort messages/s"
            )));
        }
        let control = Control::parse(message.kind, message.payload);
        match control {
            Some(Control::WindowAckSize(window)) if window != 0 && !self.ack_window_forced => {
                self.ack_window = window;
            }
            Some(Control::User(UserControl::PingRequest(stamp)))
                if self.pongs.allow(now, MAX_PONGS) =>
            {
                self.send(&Control::User(UserControl::PingResponse(stamp)));
            }
            _ => {}
        }
        Ok(control)
    }

    /// Queues a control message.
    pub(super) fn send(&mut self, control: &Control) {
        let at = self.out.len();
        control.encode(&mut self.out);
        self.note(at);
    }

    /// Notes the message that begins `at` so many bytes into the output.
    fn note(&mut self, at: usize) {
        let Some(now) = self.out.get(at..).and_then(StreamPosition::after) else { return };
        self.spoken.retain(|before| before.csid != now.csid);
        self.spoken.push(now);
    }

    /// What the peer's reader knows of each chunk stream we used.
    pub(super) fn spoken(&self) -> &[StreamPosition] {
        &self.spoken
    }

    /// Queues a SetChunkSize and sends with that size from now on.
    pub(super) fn set_chunk_size(&mut self, size: u32) {
        self.send(&Control::SetChunkSize(size));
        self.chunk_size = size;
    }

    /// Queues a command.
    pub(super) fn send_command(
        &mut self,
        (csid, msid): (u32, u32),
        name: &str,
        transaction: f64,
        args: Vec<Value>,
    ) {
        let command = Command { name: name.to_owned(), transaction, args };
        let at = self.out.len();
        command.encode(csid, msid, self.chunk_size, &mut self.out);
        self.note(at);
    }

    /// Queues any other message.
    pub(super) fn send_message(
        &mut self,
        (csid, msid): (u32, u32),
        kind: u8,
        timestamp: Timestamp,
        payload: &[u8],
    ) {
        let message = Message { csid, timestamp, kind, msid, payload };
        let at = self.out.len();
        chunk::encode(&message, self.chunk_size, &mut |piece| self.out.extend_from_slice(piece));
        self.note(at);
    }

    /// The window acknowledged, bytes; 0: none.
    pub(super) fn ack_window(&self) -> u32 {
        self.ack_window
    }

    /// Takes it that the peer reads with this chunk size, and knows this of each chunk stream.
    pub(super) fn assume(&mut self, chunk_size: u32, spoken: Vec<StreamPosition>) {
        self.chunk_size = chunk_size;
        self.spoken = spoken;
    }

    /// Bytes received, handshake included.
    pub(super) fn received(&self) -> u64 {
        self.received
    }
}
