//! Both halves of the handshake take the same bytes whole and in pieces and come to the same end.
#![no_main]
use forwarder::rtmp::handshake::{ClientHandshake, HandshakeError, ServerHandshake};
use forwarder_fuzz::{body, pieces};
use libfuzzer_sys::fuzz_target;

/// Version byte and two blocks.
const HANDSHAKE_LEN: usize = 1 + 2 * 1536;

/// How it ended, what was sent, and how many bytes were not taken.
type Outcome = (Result<bool, HandshakeError>, Vec<u8>, usize);

trait Half {
    fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError>;
}
impl Half for ServerHandshake {
    fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        self.read(input, out)
    }
}
impl Half for ClientHandshake {
    fn read(&mut self, input: &mut &[u8], out: &mut Vec<u8>) -> Result<bool, HandshakeError> {
        self.read(input, out)
    }
}

fn run<'a>(mut half: impl Half, pieces: impl Iterator<Item = &'a [u8]>) -> Outcome {
    let (mut end, mut out, mut left) = (Ok(false), Vec::new(), 0);
    for mut piece in pieces {
        end = half.read(&mut piece, &mut out);
        if end.is_err() {
            break;
        }
        assert!(end == Ok(true) || piece.is_empty(), "bytes refused before the end");
        left += piece.len();
    }
    (end, out, left)
}

fuzz_target!(|input: &[u8]| {
    let Some(body) = body(input) else { return };
    let random: Box<[u8]> = (0..1528u32).map(|i| (i * 7) as u8).collect();

    let whole = run(ServerHandshake::new(random.clone(), 1), std::iter::once(body));
    assert_eq!(whole, run(ServerHandshake::new(random.clone(), 1), pieces(input, body)));
    let (end, out, left) = whole;
    assert_eq!(end.is_err(), body.first().is_some_and(|&version| version != 3));
    if end.is_ok() {
        assert_eq!(end, Ok(body.len() >= HANDSHAKE_LEN));
        assert_eq!(left, body.len().saturating_sub(HANDSHAKE_LEN));
        assert_eq!(out.len(), if body.len() > 1536 { HANDSHAKE_LEN } else { 0 });
    }

    for digest in [false, true] {
        let client = || ClientHandshake::new(random.clone(), 1, digest);
        let whole = run(client(), std::iter::once(body));
        assert_eq!(whole, run(client(), pieces(input, body)));
        if whole.0.is_ok() {
            assert_eq!(whole.1.len(), if body.len() > 1536 { 1536 } else { 0 });
        }
    }
});
