//! Chunks read whole and in pieces give the same messages and the same end, and each message
//! written and read again is the same message.
#![no_main]
use forwarder::rtmp::Timestamp;
use forwarder::rtmp::chunk::{
    ChunkError, ChunkReader, DEFAULT_CHUNK_SIZE, MAX_PARTIAL_BYTES, Message, encode, encoded_len,
};
use forwarder_fuzz::{body, pieces};
use libfuzzer_sys::fuzz_target;

#[derive(Clone, Debug, PartialEq)]
struct Owned {
    csid: u32,
    timestamp: Timestamp,
    kind: u8,
    msid: u32,
    payload: Vec<u8>,
}

impl Owned {
    fn new(message: &Message<'_>) -> Self {
        let Message { csid, timestamp, kind, msid, payload } = *message;
        Self { csid, timestamp, kind, msid, payload: payload.to_vec() }
    }

    fn message(&self) -> Message<'_> {
        let Self { csid, timestamp, kind, msid, ref payload } = *self;
        Message { csid, timestamp, kind, msid, payload }
    }
}

fn run<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Owned>, Result<(), ChunkError>) {
    let mut reader = ChunkReader::new();
    let mut messages = Vec::new();
    for mut piece in pieces {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(message)) => messages.push(Owned::new(&message)),
                Ok(None) => break,
                Err(error) => return (messages, Err(error)),
            }
        }
        assert!(piece.is_empty(), "bytes refused");
        assert!(reader.partial_bytes() <= MAX_PARTIAL_BYTES);
    }
    (messages, Ok(()))
}

fuzz_target!(|input: &[u8]| {
    let Some(body) = body(input) else { return };
    let whole = run(std::iter::once(body));
    assert_eq!(whole, run(pieces(input, body)));

    for mut message in whole.0 {
        // the writer has only the one-byte form of the chunk stream id
        message.csid = 2 + message.csid % 62;
        let mut bytes = Vec::new();
        encode(&message.message(), DEFAULT_CHUNK_SIZE, &mut |part| bytes.extend_from_slice(part));
        let len = encoded_len(message.payload.len(), message.timestamp, DEFAULT_CHUNK_SIZE);
        assert_eq!(bytes.len(), len);
        assert_eq!(run(std::iter::once(&bytes[..])), (vec![message], Ok(())));
    }
});
