//! Recordings of real clients and servers (see `tests/golden/README.md`).

use std::path::PathBuf;

use super::*;

fn recording(file: &str) -> Vec<u8> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden");
    let path = PathBuf::from(folder).join(file);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Cuts `bytes` in pieces: whole, byte by byte, or by the seed.
fn pieces(bytes: &[u8], cut: Cut) -> Vec<&[u8]> {
    let mut rest = bytes;
    let mut pieces = Vec::new();
    let mut state = match cut {
        Cut::Whole => return vec![bytes],
        Cut::Bytes => return bytes.chunks(1).collect(),
        Cut::Random(seed) => seed,
    };
    while !rest.is_empty() {
        // mostly small, at times more than a message
        let limit = if next_number(&mut state).is_multiple_of(4) { 5000 } else { 40 };
        let len = (1 + next_number(&mut state) % limit).min(rest.len());
        let (piece, after) = rest.split_at(len);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

#[derive(Clone, Copy, Debug)]
enum Cut {
    Whole,
    Bytes,
    Random(u64),
}

const CUTS: [Cut; 5] = [Cut::Whole, Cut::Bytes, Cut::Random(1), Cut::Random(2), Cut::Random(3)];

type Ran = (Vec<String>, Vec<u8>, Result<(), SessionError>);

/// Runs `run` on each cut and checks that nothing but the cut differs.
fn same_at_any_cut(file: &str, run: impl Fn(&[&[u8]]) -> Ran) -> Ran {
    let bytes = recording(file);
    let whole = run(&pieces(&bytes, CUTS[0]));
    for cut in CUTS {
        let ran = run(&pieces(&bytes, cut));
        assert_eq!(ran.0, whole.0, "{file} {cut:?}: events");
        assert_eq!(said(&ran.1), said(&whole.1), "{file} {cut:?}: output");
        assert_eq!(ran.2, whole.2, "{file} {cut:?}: result");
    }
    whole
}

/// What was sent, handshake and messages; without acknowledgements, which tell how many bytes had
/// come and so depend on the cut.
fn said(output: &[u8]) -> (&[u8], Vec<String>) {
    let shaken = output.get(..HANDSHAKE_LEN).unwrap_or(output);
    let mut lines = decode(output);
    lines.retain(|line| !line.contains("Acknowledgement"));
    (shaken, lines)
}

fn serve(file: &str) -> Ran {
    let now = Instant::now();
    same_at_any_cut(file, |pieces| {
        let mut session = server(now);
        let (mut events, mut output) = (Vec::new(), Vec::new());
        let result = pieces.iter().try_for_each(|piece| {
            let result = read_server(&mut session, now, piece, &mut events);
            output.append(&mut session.take_output());
            result
        });
        (events, output, result)
    })
}

fn count(lines: &[String], start: &str) -> usize {
    lines.iter().filter(|line| line.starts_with(start)).count()
}

/// Counts are those of `tests/tools/rtmpdec.py`.
#[test]
fn recorded_publishers() {
    // file, stream, video, audio, data, whether it says goodbye
    let table = [
        ("fwd_srs7_to_srs7", "f1?token=abc", 72, 200, 2, false),
        ("pub_ffmpeg51_bframes_mp3_srs7", "x5", 64, 154, 1, true),
        ("pub_ffmpeg51_extts17000_nginx128", "x3", 62, 174, 1, true),
        ("pub_ffmpeg51_extts_cross_nginx4096", "x1", 62, 174, 1, true),
        ("pub_ffmpeg51_extts_cross_srs7", "x1", 62, 174, 1, true),
        ("pub_ffmpeg51_nginx4096", "s1", 62, 174, 1, true),
        ("pub_ffmpeg51_srs7", "s1", 62, 174, 1, true),
        ("pub_ffmpeg51_wrap31_nginx4096", "x4", 62, 174, 1, true),
        ("pub_ffmpeg_ping_nochunksize", "x", 62, 174, 1, true),
        ("pub_gst2_ping_nochunksize", "x", 92, 261, 26, true),
        ("pub_gst_rtmp2sink_ffmpeg51listen", "z1", 77, 218, 24, false),
        ("pub_gst_rtmp2sink_nginx4096", "g2", 92, 261, 26, true),
        ("pub_gst_rtmp2sink_srs7", "g2", 92, 261, 26, true),
        ("pub_gst_rtmpsink_librtmp_nginx4096", "l1", 92, 261, 26, true),
        ("err_publish_busy_nginx", "bg", 0, 0, 0, false),
        ("err_publish_busy_srs7", "bg", 0, 0, 0, false),
    ];
    for (file, stream, video, audio, data, goodbye) in table {
        let (events, output, result) = serve(&format!("{file}.c2s"));
        assert_eq!(result, Ok(()), "{file}");
        assert!(events[0].starts_with("Connect(ConnectRequest { app: \"live\""), "{file}");
        let publish = PublishRequest { msid: 1, stream: stream.to_owned() };
        assert_eq!(events[1], format!("Publish({publish:?})"), "{file}");
        assert_eq!(count(&events, "Video"), video, "{file}");
        assert_eq!(count(&events, "Audio"), audio, "{file}");
        assert_eq!(count(&events, "Data"), data, "{file}");
        assert_eq!(count(&events, "Unpublish(1)"), usize::from(goodbye), "{file}");
        assert!(!goodbye || events.last().unwrap() == "Unpublish(1)", "{file}");
        let lines = decode(&output);
        assert_eq!(
            lines.iter().filter(|l| l.contains("Publish.Start")).count(),
            1 + usize::from(file.starts_with("pub") || file.starts_with("err")),
            "{file}: {lines:?}"
        );
    }
}

#[test]
fn recorded_players() {
    // file, app and stream, further events
    let table: [(&str, &str, &[&str]); 18] = [
        ("edgepull_srs7_from_srs7", "live/bg", &[]),
        ("err_play_notfound_nginx", "sync/nope", &[]),
        ("play_absent_then_publish_nginx", "live/late", &["StopPlay(1)"]),
        ("play_absent_then_publish_srs7", "live/late", &["StopPlay(1)"]),
        ("play_ffmpeg51_extts_flv1_nginx128", "live/ext", &["StopPlay(1)"]),
        ("play_ffmpeg51_extts_srs7_chunk128", "live/ext", &[]),
        ("play_ffmpeg51_nginx128", "live/bg", &["StopPlay(1)"]),
        ("play_ffmpeg51_nginx4096", "live/bg", &[]),
        ("play_ffmpeg51_srs7", "live/bg", &[]),
        ("play_ffmpeg_ping", "live/x", &["Pong(168496141)", "Pong(168496142)", "StopPlay(1)"]),
        ("play_gst_ping", "live/x", &["Pong(168496141)", "Pong(168496142)"]),
        ("play_gst_rtmp2src_nginx4096", "live/bg", &[]),
        ("play_gst_rtmp2src_srs7", "live/bg", &[]),
        ("play_rtmpdump_extts_srs7_chunk128", "live/ext", &["StopPlay(1)"]),
        ("play_rtmpdump_nginx128", "live/bg", &["StopPlay(1)"]),
        ("play_rtmpdump_nginx4096", "live/bg", &["StopPlay(1)"]),
        ("play_rtmpdump_srs7", "live/bg", &["StopPlay(1)"]),
        ("relay_nginx_pull_from_srs7", "live/bg", &[]),
    ];
    for (file, name, rest) in table {
        let (app, stream) = name.split_once('/').unwrap();
        let (events, output, result) = serve(&format!("{file}.c2s"));
        assert_eq!(result, Ok(()), "{file}");
        assert!(
            events[0].starts_with(&format!("Connect(ConnectRequest {{ app: {app:?},")),
            "{file}"
        );
        let play = PlayRequest { msid: 1, stream: stream.to_owned(), reset: true };
        assert_eq!(events[1], format!("Play({play:?})"), "{file}");
        assert_eq!(events[2..], *rest, "{file}");
        let lines = decode(&output);
        assert_eq!(lines.iter().filter(|line| line.contains("|RtmpSampleAccess")).count(), 1);
    }
}

fn dial(file: &str, goal: Goal) -> Ran {
    let now = Instant::now();
    same_at_any_cut(file, |pieces| {
        let mut session = client(goal, now);
        let (mut events, mut output) = (Vec::new(), Vec::new());
        let result = pieces.iter().try_for_each(|piece| {
            let result = read_client(&mut session, now, piece, &mut events);
            output.append(&mut session.take_output());
            result
        });
        (events, output, result)
    })
}

/// Counts are those of `tests/tools/rtmpdec.py`.
#[test]
fn recorded_servers_of_players() {
    // file, video, audio, whether it says goodbye
    let table = [
        ("edgepull_srs7_from_srs7", 52, 145, false),
        ("play_absent_then_publish_nginx", 47, 130, true),
        ("play_absent_then_publish_srs7", 47, 131, false),
        ("play_ffmpeg51_extts_flv1_nginx128", 15, 62, true),
        ("play_ffmpeg51_extts_srs7_chunk128", 51, 143, false),
        ("play_ffmpeg51_nginx128", 60, 176, true),
        ("play_ffmpeg51_nginx4096", 49, 178, false),
        ("play_ffmpeg51_srs7", 65, 183, false),
        ("play_ffmpeg_ping", 77, 216, true),
        ("play_gst_ping", 77, 216, true),
        ("play_gst_rtmp2src_nginx4096", 80, 252, false),
        ("play_gst_rtmp2src_srs7", 86, 243, false),
        ("play_rtmpdump_extts_srs7_chunk128", 84, 238, false),
        ("play_rtmpdump_nginx128", 69, 212, true),
        ("play_rtmpdump_nginx4096", 74, 215, true),
        ("play_rtmpdump_ping", 77, 216, true),
        ("play_rtmpdump_srs7", 91, 257, false),
        ("relay_nginx_pull_from_srs7", 53, 149, false),
    ];
    for (file, video, audio, goodbye) in table {
        let (events, output, result) = dial(&format!("{file}.s2c"), Goal::Play);
        assert_eq!(result, Ok(()), "{file}");
        let start = events.iter().position(|line| line == "Playing(1)").expect(file);
        assert!(events[..start].iter().all(|line| line.starts_with("Status(")), "{file}");
        assert_eq!(count(&events, "Video"), video, "{file}");
        assert_eq!(count(&events, "Audio"), audio, "{file}");
        assert_eq!(count(&events, "Data"), 1, "{file}: onMetaData and not |RtmpSampleAccess");
        assert_eq!(count(&events, "Finished"), usize::from(goodbye), "{file}");
        let pings = decode(&output).iter().filter(|line| line.contains("PingResponse")).count();
        assert_eq!(pings, if file.ends_with("_ping") { 2 } else { 0 }, "{file}");
    }
}

#[test]
fn recorded_servers_of_publishers() {
    let table = [
        ("pub_ffmpeg51_nginx4096", &["Publishing(1)", "Finished"][..]),
        ("pub_ffmpeg51_srs7", &["Publishing(1)", "Finished"]),
        ("pub_ffmpeg51_bframes_mp3_srs7", &["Publishing(1)", "Finished"]),
        ("pub_gst_rtmpsink_librtmp_nginx4096", &["Publishing(1)", "Finished"]),
        // closes without a word
        ("err_publish_busy_srs7", &[]),
    ];
    for (file, expected) in table {
        let (events, _, result) = dial(&format!("{file}.s2c"), Goal::Publish);
        assert_eq!(result, Ok(()), "{file}");
        assert_eq!(events, expected, "{file}");
    }
}

#[test]
fn recorded_refusals() {
    let table = [
        (
            "err_publish_busy_nginx",
            Goal::Publish,
            "NetStream.Publish.BadName",
            "Already publishing",
        ),
        ("err_play_notfound_nginx", Goal::Play, "NetStream.Play.StreamNotFound", "No such stream"),
    ];
    for (file, goal, code, description) in table {
        let (_, _, result) = dial(&format!("{file}.s2c"), goal);
        let refused =
            SessionError::Refused { code: code.to_owned(), description: description.to_owned() };
        assert_eq!(result, Err(refused), "{file}");
    }
}

/// Recordings with bytes changed and bytes missing: errors, or not, but never a panic.
#[test]
fn damaged_recordings() {
    let files = ["pub_ffmpeg51_srs7", "play_rtmpdump_srs7", "fwd_srs7_to_srs7"];
    let now = Instant::now();
    let mut errors = 0;
    for file in files {
        for (side, seed) in ["c2s", "s2c"].iter().flat_map(|s| (0..300).map(move |n| (s, n))) {
            let mut bytes = recording(&format!("{file}.{side}"));
            bytes.truncate(HANDSHAKE_LEN + 3000);
            let mut state = seed;
            for _ in 0..3 {
                let at = HANDSHAKE_LEN + next_number(&mut state) % (bytes.len() - HANDSHAKE_LEN);
                if next_number(&mut state).is_multiple_of(3) {
                    bytes.remove(at);
                } else {
                    bytes[at] ^= 1 << (next_number(&mut state) % 8);
                }
            }
            let lines = &mut Vec::new();
            let served = read_server(&mut server(now), now, &bytes, lines);
            let published = read_client(&mut client(Goal::Publish, now), now, &bytes, lines);
            let played = read_client(&mut client(Goal::Play, now), now, &bytes, lines);
            errors += [served, published, played].iter().filter(|r| r.is_err()).count();
        }
    }
    assert!(errors > 100, "the damage was not noticed: {errors}");
}
