//! Corners of a subscriber that need it in a certain state.

use std::sync::Arc;

use super::*;
use crate::conn::broadcast::Broadcast;
use crate::conn::crowd::Crowd;
use crate::hub::{Form, Hub, LOG_MSID, LogLimits, Publisher, Source, StreamOptions, Wake};
use crate::rtmp::Timestamp;
use crate::rtmp::message::{MediaKind, MediaMessage};
use crate::rtmp::url::StreamKey;

struct NoBell;

impl Wake for NoBell {
    fn wake(&self) {}
}

/// A subscriber that has read a keyframe and a frame, and what it reads from.
struct Bench {
    hub: Hub,
    publisher: Option<Publisher>,
    view: View,
    subscriber: Rc<Subscriber>,
    now: Instant,
    /// The other end of its socket.
    _peer: std::net::TcpStream,
}

impl Bench {
    async fn new() -> Self {
        let (hub, now) = (Hub::new(), Instant::now());
        let key = StreamKey::new("__defaultVhost__", "live", "a").unwrap();
        let log = LogLimits { chunk_size: 4096, gop_bytes: 1 << 20, gop_messages: 100 };
        let options = StreamOptions { log, grace: Duration::from_secs(10) };
        let publisher = hub.publish(&key, options, Source::default(), now).unwrap();
        let view = Arc::clone(publisher.stream()).view(Box::new(NoBell));
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let io = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (peer, _) = listener.accept().unwrap();
        let options = SubscriberOptions {
            lag: LagLimits { time: Duration::from_secs(10), bytes: 1 << 20 },
            gop_cache: true,
            keyframe_wait: Duration::from_secs(3),
            target: Target { form: Form::Chunks, chunk_size: 4096, msid: LOG_MSID, publish: false },
            guess_av: false,
            player: true,
        };
        io.writable().await.unwrap();
        let subscriber = Rc::new(Subscriber::new(Rc::new(io), options, Vec::new()));
        let publisher = Some(publisher);
        let mut bench = Self { hub, publisher, view, subscriber, now, _peer: peer };
        bench.put(0x17);
        bench.subscriber.join(&mut bench.view, now);
        bench.put(0x27);
        bench.pass();
        assert!(bench.state().drained);
        bench
    }

    /// A frame of video.
    fn put(&mut self, first: u8) {
        self.put_as(MediaKind::Video, first);
    }

    fn put_as(&mut self, kind: MediaKind, first: u8) {
        let payload = [first, 1, 0, 0, 0, 1, 2, 3];
        let media = MediaMessage { kind, timestamp: Timestamp(40), msid: 1, payload: &payload };
        self.publisher.as_mut().unwrap().append(&media, self.now).unwrap();
    }

    fn pass(&mut self) {
        self.view.refresh();
        self.subscriber.advance(&mut self.view, self.now);
    }

    fn end(&mut self) {
        self.publisher = None;
        self.hub.end_all();
        self.pass();
    }

    fn state(&self) -> State {
        self.subscriber.state(&self.view, self.now)
    }

    /// Whether its owner was told to look, since this was asked last.
    fn rung(&self) -> bool {
        let mut bell = std::pin::pin!(self.subscriber.bell.notified());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::future::Future::poll(bell.as_mut(), &mut context).is_ready()
    }
}

fn run(test: impl AsyncFnOnce(Bench)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { test(Bench::new().await).await });
}

#[test]
fn a_choice_made_after_a_write_that_ended_at_a_border_takes_effect() {
    run(async |mut bench| {
        // As after a partial write whose last byte was a message's last one.
        bench.subscriber.inner.borrow_mut().mid_message = true;
        bench.put(0x27);
        bench.subscriber.select(Some(false), None);
        bench.pass();
        assert!(bench.state().drained, "{:?}", bench.subscriber);
    });
}

#[test]
fn video_that_is_wanted_again_begins_at_a_keyframe_and_audio_does_not_wait() {
    run(async |mut bench| {
        bench.put(0x17);
        bench.pass();
        bench.subscriber.select(None, Some(false));
        bench.pass();
        // At the head, as a reader of audio mostly is.
        bench.subscriber.select(None, Some(true));
        let video = |bench: &Bench| bench.subscriber.inner.borrow().video;
        let sent = bench.state().sent_bytes;
        bench.put(0x27);
        bench.pass();
        assert_eq!((bench.state().sent_bytes, video(&bench)), (sent, Video::AtKeyframe));
        bench.put_as(MediaKind::Audio, 0xaf);
        bench.pass();
        assert!(bench.state().sent_bytes > sent);
        bench.put(0x17);
        bench.pass();
        assert_eq!(video(&bench), Video::Wanted);
        let sent = bench.state().sent_bytes;
        bench.put(0x27);
        bench.pass();
        assert!(bench.state().sent_bytes > sent);
    });
}

#[test]
fn a_paused_player_of_a_stream_that_ended_has_nothing_more_to_get() {
    run(async |mut bench| {
        bench.subscriber.pause(true, &bench.view);
        bench.put(0x17);
        bench.put(0x27);
        bench.end();
        assert!(bench.state().ended && bench.state().drained, "{:?}", bench.subscriber);
    });
}

#[test]
fn the_owner_is_told_when_the_rest_of_an_ended_stream_is_out() {
    run(async |mut bench| {
        bench.put(0x27);
        bench.subscriber.inner.borrow_mut().blocked_since = Some(bench.now);
        bench.end();
        assert!(!bench.state().drained);
        bench.rung();
        bench.subscriber.unblock(&mut bench.view, bench.now);
        assert!(bench.state().drained);
        assert!(bench.rung(), "nobody says goodbye to the player");
    });
}

#[test]
fn one_that_is_ended_gets_what_was_in_its_queue_and_no_more() {
    run(async |mut bench| {
        bench.put(0x27);
        bench.view.refresh();
        let before = bench.state().sent_bytes;
        let queued = bench.view.head() - bench.subscriber.floor().unwrap();
        bench.subscriber.inner.borrow_mut().blocked_since = Some(bench.now);
        bench.subscriber.end_here(&bench.view);
        bench.put(0x17);
        bench.pass();
        assert!(!bench.state().drained, "it had no chance yet");
        bench.rung();
        bench.subscriber.unblock(&mut bench.view, bench.now);
        assert!(bench.state().drained && bench.rung(), "{:?}", bench.subscriber);
        bench.put(0x27);
        bench.pass();
        assert_eq!(bench.state().sent_bytes, before + queued);
        // what is said at the end still goes out
        assert!(bench.subscriber.push(&[0; 16]));
        bench.pass();
        assert!(bench.state().drained);
        assert_eq!(bench.state().sent_bytes, before + queued + 16);
    });
}

#[test]
fn one_that_is_ended_is_not_written_to_with_others() {
    run(async |mut bench| {
        let (mut crowd, mut broadcast) = (Crowd::default(), Broadcast::new(false));
        crowd.insert(&bench.subscriber);
        let now = bench.now;
        crowd.pass(&mut bench.view, &mut broadcast, now);
        assert!(matches!(bench.subscriber.seat.get(), Seat::Follower { .. }));
        // As when audio is held back: it is known, and its pass is to come.
        bench.put_as(MediaKind::Audio, 0xaf);
        bench.view.refresh();
        crowd.part(&bench.subscriber);
        bench.subscriber.end_here(&bench.view);
        bench.subscriber.advance(&mut bench.view, now);
        assert!(bench.state().drained);
        let sent = bench.state().sent_bytes;
        for first in [None, Some(0x17), Some(0x27)] {
            _ = first.map(|first| bench.put(first));
            bench.view.refresh();
            crowd.pass(&mut bench.view, &mut broadcast, now);
            crowd.tell(&bench.subscriber);
            assert_eq!(bench.state().sent_bytes, sent, "behind its end: {first:?}");
        }
    });
}

#[test]
fn one_that_is_ended_and_takes_nothing_for_too_long_is_done() {
    run(async |mut bench| {
        bench.put(0x27);
        bench.view.refresh();
        bench.subscriber.inner.borrow_mut().blocked_since = Some(bench.now);
        bench.subscriber.end_here(&bench.view);
        bench.put(0x17);
        bench.now += Duration::from_secs(11);
        bench.put(0x27);
        bench.pass();
        assert!(!bench.state().drained || bench.state().skips == 1, "{:?}", bench.subscriber);
        bench.subscriber.unblock(&mut bench.view, bench.now);
        assert!(bench.state().drained, "{:?}", bench.subscriber);
    });
}
