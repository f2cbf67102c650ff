//! Any body of a media message is looked at without harm, and what it is said to be makes sense.
#![no_main]
use forwarder::rtmp::flv::{self, Groups};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    let video = flv::video(body);
    let is = [video.keyframe, video.header.is_some(), video.transient];
    assert!(is.iter().filter(|is| **is).count() <= 1, "two things at once: {video:?}");
    assert!(!video.tracks.is_empty() || is == [false; 3] || video.transient);
    let mut groups = Groups::default();
    if video.keyframe {
        assert!(groups.begins(video.tracks) && groups.begins(video.tracks));
    }
    let audio = flv::audio(body);
    assert!(audio.header.is_none() || !audio.transient, "two things at once: {audio:?}");
    assert!(!audio.tracks.is_empty() || audio.header.is_none());
    let _ =
        (flv::profile(body), flv::sound(body), video.codec.to_string(), audio.codec.to_string());
});
