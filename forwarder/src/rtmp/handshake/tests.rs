//! Both halves against recorded peers, against each other, and fed in pieces.
use std::path::PathBuf;

use super::digest::check::answers;
use super::digest::{Role, Scheme, find, signed};
use super::*;

/// The first `len` bytes of a recording.
fn recording(name: &str, len: usize) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden").join(name);
    let mut bytes = std::fs::read(path).unwrap();
    bytes.truncate(len);
    bytes
}

/// Version byte, first and second block.
fn parts(bytes: &[u8]) -> (u8, &Block, &Block) {
    let first = bytes[1..=BLOCK_LEN].try_into().unwrap();
    let second = bytes[1 + BLOCK_LEN..1 + 2 * BLOCK_LEN].try_into().unwrap();
    (bytes[0], first, second)
}

fn random(seed: u8) -> Box<[u8]> {
    (0..RANDOM_LEN).map(|i| (i * 31 + usize::from(seed) * 7 + i / 256) as u8).collect()
}

/// Recordings whose client and server blocks hold digests, and whether C2 holds one too: FFmpeg
/// copies S1 when it publishes, or when S1's version is below 3.
const WITH_DIGESTS: &[(&str, bool)] = &[
    ("play_ffmpeg51_nginx4096", true),
    ("play_ffmpeg51_srs7", false),
    ("pub_ffmpeg51_nginx4096", false),
    ("fwd_srs7_to_srs7", true),
    ("edgepull_srs7_from_srs7", true),
    ("relay_nginx_pull_from_srs7", true),
];

/// Recordings of plain handshakes.
const PLAIN: &[&str] = &[
    "play_gst_rtmp2src_nginx4096",
    "play_rtmpdump_srs7",
    "pub_gst_rtmpsink_librtmp_nginx4096",
    "pub_gst_rtmp2sink_ffmpeg51listen",
];

#[test]
fn digests_of_other_products_are_right() {
    for &(name, c2_signed) in WITH_DIGESTS {
        let (c, s) =
            (recording(&format!("{name}.c2s"), 3073), recording(&format!("{name}.s2c"), 3073));
        let ((_, c1, c2), (_, s1, s2)) = (parts(&c), parts(&s));
        assert_eq!(find(c1, Role::Client).unwrap().scheme, Scheme::DigestFirst, "{name}");
        assert_eq!(find(s1, Role::Server).unwrap().scheme, Scheme::DigestFirst, "{name}");
        assert!(find(c1, Role::Server).is_none(), "{name}");
        assert!(answers(s2, Role::Server, c1), "{name}");
        assert_eq!(answers(c2, Role::Client, s1), c2_signed, "{name}");
    }
    for name in PLAIN {
        let c = recording(&format!("{name}.c2s"), 3073);
        assert!(find(parts(&c).1, Role::Client).is_none(), "{name}");
    }
}

#[test]
fn recorded_clients_get_the_answer_they_check() {
    for name in WITH_DIGESTS.iter().map(|(name, _)| name).chain(PLAIN) {
        let recorded = recording(&format!("{name}.c2s"), 4096);
        let (mut input, mut out) = (&recorded[..], Vec::new());
        let mut server = ServerHandshake::new(random(1), 77);
        assert_eq!(server.read(&mut input, &mut out), Ok(true), "{name}");
        assert_eq!(input, &recorded[3073..], "{name}: chunks are left");
        assert_eq!(out.len(), 3073, "{name}");
        let (s0, s1, s2) = parts(&out);
        let c1 = parts(&recorded).1;
        assert_eq!((s0, &s1[..4]), (3, &77u32.to_be_bytes()[..]), "{name}");
        if PLAIN.contains(name) {
            assert_eq!(s1[4..8], [0; 4], "{name}");
            assert_eq!(s1[8..], random(1)[..], "{name}");
            assert_eq!(s2, c1, "{name}");
        } else {
            assert!(s1[4] >= 3, "{name}: FFmpeg checks");
            assert_eq!(find(s1, Role::Server).unwrap().scheme, Scheme::DigestFirst, "{name}");
            assert!(answers(s2, Role::Server, c1), "{name}");
        }
    }
}

#[test]
fn recorded_servers_get_the_answer_they_check() {
    for name in WITH_DIGESTS.iter().map(|(name, _)| name).chain(PLAIN) {
        let recorded = recording(&format!("{name}.s2c"), 4096);
        let (mut input, mut out) = (&recorded[..], Vec::new());
        let mut client = ClientHandshake::new(random(2), 5, true);
        client.start(&mut out);
        assert_eq!(out.len(), 1537);
        assert_eq!(client.read(&mut input, &mut out), Ok(true), "{name}");
        assert_eq!(input, &recorded[3073..], "{name}: chunks are left");
        let ((_, c1, c2), (_, s1, _)) = (parts(&out), parts(&recorded));
        assert_eq!(find(c1, Role::Client).unwrap().scheme, Scheme::DigestFirst, "{name}");
        if PLAIN.contains(name) {
            assert_eq!(c2, s1, "{name}");
        } else {
            assert!(answers(c2, Role::Client, s1), "{name}");
        }
    }
}

/// C0 and C1 with a digest in `scheme`.
fn signed_c0c1(scheme: Scheme, seed: u8) -> Vec<u8> {
    let c1 = signed(simple::first_block(&random(seed), 9), Role::Client, scheme);
    [&[VERSION], &c1[..]].concat()
}

#[test]
fn the_scheme_of_the_client_is_answered() {
    // many seeds, so that the digest comes to lie at many places
    for seed in 0..=255 {
        for scheme in [Scheme::KeyFirst, Scheme::DigestFirst] {
            let c0c1 = signed_c0c1(scheme, seed);
            let (mut input, mut out) = (&c0c1[..], Vec::new());
            let mut server = ServerHandshake::new(random(seed ^ 0x55), 0);
            assert_eq!(server.read(&mut input, &mut out), Ok(false));
            let (_, s1, s2) = parts(&out);
            assert_eq!(find(s1, Role::Server).unwrap().scheme, scheme, "seed {seed}");
            assert!(answers(s2, Role::Server, c0c1[1..].try_into().unwrap()), "seed {seed}");
        }
    }
}

#[test]
fn a_digest_that_is_wrong_gets_a_plain_answer() {
    for scheme in [Scheme::KeyFirst, Scheme::DigestFirst] {
        let mut c0c1 = signed_c0c1(scheme, 3);
        c0c1[1536] ^= 1;
        let (mut input, mut out) = (&c0c1[..], Vec::new());
        assert_eq!(ServerHandshake::new(random(4), 0).read(&mut input, &mut out), Ok(false));
        let (_, s1, s2) = parts(&out);
        assert_eq!(s1[4..8], [0; 4]);
        assert_eq!(s2[..], c0c1[1..]);
    }
}

#[test]
fn digest_positions_stay_inside_the_block() {
    for fill in [0, 0xff] {
        for (scheme, last) in [(Scheme::KeyFirst, 1503), (Scheme::DigestFirst, 739)] {
            let mut block = Box::new([fill; BLOCK_LEN]);
            // 4 x 255 is 292 mod 728; 727 is the largest remainder there is
            assert_eq!(scheme.position(&block), scheme.base() + 4 + (usize::from(fill) * 4) % 728);
            block[scheme.base()..][..4].copy_from_slice(&[255, 255, 217, 0]);
            assert_eq!(scheme.position(&block), last);
            let block = signed(block, Role::Server, scheme);
            assert_eq!(find(&block, Role::Server).unwrap().scheme, scheme);
        }
    }
}

/// Runs our client against our server, `step` bytes at a time each way, with `tail` behind C2.
fn run(digest: bool, step: usize, tail: &[u8]) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let mut client = ClientHandshake::new(random(6), 1, digest);
    let mut server = ServerHandshake::new(random(7), 2);
    let (mut c2s, mut s2c, mut left) = (Vec::new(), Vec::new(), Vec::new());
    let (mut c_read, mut s_read) = (0, 0);
    client.start(&mut c2s);
    let (mut c_done, mut s_done) = (false, false);
    while !(c_done && s_done) {
        assert!(s_read < c2s.len() || c_read < s2c.len(), "stuck");
        let piece = c2s[s_read..].iter().copied().take(step).collect::<Vec<_>>();
        let mut input = &piece[..];
        s_done = server.read(&mut input, &mut s2c).unwrap();
        left.extend_from_slice(input);
        s_read += piece.len();
        let piece = s2c[c_read..].iter().copied().take(step).collect::<Vec<_>>();
        let mut input = &piece[..];
        let was_done = c_done;
        c_done = client.read(&mut input, &mut c2s).unwrap();
        assert!(input.is_empty());
        c_read += piece.len();
        if c_done && !was_done {
            c2s.extend_from_slice(tail);
        }
    }
    left.extend_from_slice(&c2s[s_read..]);
    (c2s, s2c, left)
}

#[test]
fn our_client_and_our_server_agree_at_any_pace() {
    for digest in [false, true] {
        let whole = run(digest, usize::MAX, b"connect");
        assert_eq!(whole.2, b"connect");
        assert_eq!((whole.0.len(), whole.1.len()), (3073 + 7, 3073));
        let ((_, c1, c2), (_, s1, s2)) = (parts(&whole.0), parts(&whole.1));
        assert_eq!(answers(s2, Role::Server, c1), digest);
        assert_eq!(answers(c2, Role::Client, s1), digest);
        assert_eq!((s2 == c1, c2 == s1), (!digest, !digest));
        for step in [1, 2, 3, 7, 1535, 1536, 1537, 3072, 3073] {
            assert_eq!(run(digest, step, b"connect"), whole, "{step} bytes at a time");
        }
    }
}

#[test]
fn s0_s1_s2_do_not_wait_for_c2() {
    let c0c1 = signed_c0c1(Scheme::DigestFirst, 8);
    let mut server = ServerHandshake::new(random(9), 0);
    let mut out = Vec::new();
    for (i, byte) in c0c1.iter().enumerate() {
        assert!(out.is_empty(), "sent something at byte {i}");
        assert_eq!(server.read(&mut std::slice::from_ref(byte), &mut out), Ok(false));
    }
    assert_eq!(out.len(), 3073);
}

#[test]
fn what_is_pipelined_behind_c2_is_left_alone() {
    let tail: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let garbage_c2 = [0xee; BLOCK_LEN];
    let all = [&signed_c0c1(Scheme::KeyFirst, 1), &garbage_c2[..], &tail].concat();
    let mut server = ServerHandshake::new(random(2), 0);
    let (mut input, mut out) = (&all[..], Vec::new());
    assert_eq!(server.read(&mut input, &mut out), Ok(true));
    assert_eq!(input, &tail[..]);
    assert_eq!(server.read(&mut input, &mut out), Ok(true), "stays done");
    assert_eq!((input.len(), out.len()), (tail.len(), 3073));
}

#[test]
fn other_protocols_are_refused_at_the_first_byte() {
    for (first, text) in [
        (b"GET / HTTP/1.1\r\n" as &[u8], "version 71 instead of 3, this looks like HTTP"),
        (b"\x16\x03\x01", "version 22 instead of 3, this looks like TLS"),
        (b"\x06", "version 6 instead of 3, this is RTMPE, which is not supported"),
        (b"\x08", "version 8 instead of 3, this is RTMPE, which is not supported"),
        (b"\x09", "version 9 instead of 3, this is RTMPE, which is not supported"),
        (b"\r\n\r\n\0\r\nQUIT\n", "version 13 instead of 3, this looks like the PROXY protocol"),
        (b"\0", "version 0 instead of 3"),
        (b"\x04", "version 4 instead of 3"),
        (b"\xff", "version 255 instead of 3"),
    ] {
        let mut out = Vec::new();
        let mut server = ServerHandshake::new(random(0), 0);
        for _ in 0..2 {
            let error = server.read(&mut &first[..], &mut out).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
        let mut client = ClientHandshake::new(random(0), 0, true);
        assert_eq!(client.read(&mut &first[..], &mut out).unwrap_err().to_string(), text);
        assert!(out.is_empty(), "nothing is sent in reply to {first:?}");
    }
}

#[test]
fn too_few_random_bytes_are_made_up_for_with_zeros() {
    let mut out = Vec::new();
    ClientHandshake::new([1, 2, 3].into(), 0, false).start(&mut out);
    assert_eq!(out.len(), 1537);
    assert_eq!(out[9..13], [1, 2, 3, 0]);
}
