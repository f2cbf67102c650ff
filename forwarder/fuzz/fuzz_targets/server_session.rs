//! A server session that agrees to all that is asked stands any bytes, and does not answer little
//! with much.
#![no_main]
use std::time::{Duration, Instant};

use forwarder::rtmp::session::{ServerConfig, ServerEvent, ServerSession};
use forwarder_fuzz::{body, pieces};
use libfuzzer_sys::fuzz_target;

/// C0, C1 and C2 of a plain handshake, so that the input is what follows; the handshake has a
/// target of its own.
fn handshake() -> Vec<u8> {
    let mut bytes = vec![0; 1 + 2 * 1536];
    bytes[0] = 3;
    bytes
}

/// Takes all of `piece` and does what is asked; false when the session is over.
fn feed(session: &mut ServerSession, now: Instant, mut piece: &[u8]) -> bool {
    loop {
        let event = match session.read(now, &mut piece) {
            Ok(Some(event)) => event,
            Ok(None) => break,
            Err(_) => return false,
        };
        match event {
            ServerEvent::Connect(request) if request.app.is_empty() => session.reject_connect("no"),
            ServerEvent::Connect(_) => session.accept_connect(),
            ServerEvent::Publish(request) if request.stream.starts_with('!') => {
                session.reject(request.msid, "NetStream.Publish.BadName", "no");
            }
            ServerEvent::Publish(request) => session.accept_publish(request.msid, now),
            ServerEvent::Play(request) => session.accept_play(&request, now),
            _ => {}
        }
    }
    assert!(piece.is_empty(), "bytes refused");
    true
}

fuzz_target!(|input: &[u8]| {
    let Some(body) = body(input) else { return };
    let mut now = Instant::now();
    let config = ServerConfig { chunk_size: 60_000, out_ack_size: 2_500_000, in_ack_size: 0 };
    let mut session = ServerSession::new(config, vec![7; 1528].into(), now);
    assert!(feed(&mut session, now, &handshake()));
    assert_eq!(session.take_output().len(), 1 + 2 * 1536);

    for piece in pieces(input, body) {
        now += Duration::from_millis(piece.len() as u64);
        let goes_on = feed(&mut session, now, piece);
        assert_eq!(session.has_output(), {
            let output = session.take_output();
            // the longest answer, to `connect` or `play`, has some hundred bytes
            assert!(output.len() <= 4096 + 64 * piece.len(), "{} bytes out", output.len());
            !output.is_empty()
        });
        if !goes_on || session.handle_timeout(now).is_err() {
            return;
        }
        assert!(session.poll_timeout().is_none_or(|at| at > now), "a timeout left due");
    }
});
