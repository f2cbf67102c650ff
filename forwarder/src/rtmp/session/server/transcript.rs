//! What a client has said since it connected, for an edge that says it again to an origin.

use crate::rtmp::chunk::{self, Message};
use crate::rtmp::message::Command;

/// Most messages kept. Encoders say about seven up to their `publish`.
const MAX_MESSAGES: usize = 64;
/// Most bytes kept.
const MAX_BYTES: usize = 16 << 10;

/// The messages of a client from its first to its `publish`, without its `connect`.
///
/// They are encoded again, each with a header of type 0: to the reader of another server they say
/// of each chunk stream what the client believes to have said.
#[derive(Clone, Debug, Default)]
pub struct Transcript {
    bytes: Vec<u8>,
    messages: usize,
    /// Where the last one begins.
    last: usize,
    /// Transactions that were answered, or will be.
    calls: Vec<f64>,
    /// Those of `createStream`.
    creates: Vec<f64>,
}

impl Transcript {
    /// Adds a message that was read with this chunk size in force; false if it cannot be kept.
    pub(super) fn add(&mut self, message: &Message<'_>, chunk_size: u32) -> bool {
        let len = chunk::encoded_len(message.payload.len(), message.timestamp, chunk_size);
        if self.messages == MAX_MESSAGES
            || self.bytes.len() + len > MAX_BYTES
            // The writer knows basic headers of one byte.
            || message.csid > 63
        {
            return false;
        }
        if message.is_command()
            && let Ok(Some(command)) = Command::parse(message.kind, message.payload)
        {
            self.calls.push(command.transaction);
            if command.name == "createStream" {
                self.creates.push(command.transaction);
            }
        }
        self.messages += 1;
        self.last = self.bytes.len();
        chunk::encode(message, chunk_size, &mut |piece| self.bytes.extend_from_slice(piece));
        true
    }

    /// All but the last message, and the last one, which is `publish`.
    pub fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.last)
    }

    /// The transaction of its `createStream`, if there was exactly one that wants an answer.
    pub fn create_stream(&self) -> Option<f64> {
        match *self.creates {
            [transaction] if transaction != 0.0 => Some(transaction),
            _ => None,
        }
    }

    /// Whether a call with this transaction is in it.
    pub fn has_call(&self, transaction: f64) -> bool {
        self.calls.contains(&transaction)
    }
}
