//! A lane: one stream on one shard, and everyone there who reads it at the same pace.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::broadcast::Broadcast;
use super::crowd::Crowd;
use super::fanout::Pace;
use super::subscriber::Sent;
use super::{Context, Totals};
use crate::hub::{Phase, Stream, View, Wake};

/// One stream on one shard.
#[derive(Debug)]
pub(super) struct Lane {
    context: Arc<Context>,
    pub(super) view: RefCell<View>,
    pub(super) crowd: RefCell<Crowd>,
    broadcast: Rc<RefCell<Broadcast>>,
    pace: Pace,
    last_pass: Cell<Option<Instant>>,
    /// The head at the last pass; before that, no offset.
    passed: Cell<u64>,
    /// Since when a little audio waits for video.
    held_since: Cell<Option<Instant>>,
    /// There is something that no pass has taken yet.
    owes: Cell<bool>,
    /// Another turn is to come then; one is enough, however often the lane is woken.
    planned: Cell<Option<Instant>>,
}

/// What a lane does when it is woken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Pass,
    Later(Instant),
    Planned,
}

impl Lane {
    pub(super) fn new(
        context: &Arc<Context>,
        stream: &Arc<Stream>,
        pace: Pace,
        broadcast: &Rc<RefCell<Broadcast>>,
        wake: impl Wake + 'static,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            view: RefCell::new(stream.view(Box::new(wake))),
            crowd: RefCell::default(),
            broadcast: Rc::clone(broadcast),
            pace,
            last_pass: Cell::new(None),
            passed: Cell::new(u64::MAX),
            held_since: Cell::new(None),
            owes: Cell::new(false),
            planned: Cell::new(None),
        }
    }

    /// What to do now that there is something, or may be.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let last = self.last_pass.get().filter(|_| !self.pace.floor.is_zero());
        let floor = last.map(|last| last + self.pace.floor);
        let Some(due) = floor.max(self.held_until(now)).filter(|due| *due > now) else {
            return Turn::Pass;
        };
        self.owes.set(true);
        if self.planned.get().is_some_and(|planned| planned <= due) {
            return Turn::Planned;
        }
        self.planned.set(Some(due));
        Turn::Later(due)
    }

    /// Until when what there is may wait; `None`: it may not.
    fn held_until(&self, now: Instant) -> Option<Instant> {
        if self.pace.hold.is_zero() {
            return None;
        }
        let mut view = self.view.borrow_mut();
        view.refresh();
        if view.phase() != Phase::Live || !view.is_little_audio(self.passed.get()) {
            return None;
        }
        let since = self.held_since.get().unwrap_or(now);
        self.held_since.set(Some(since));
        Some(since + self.pace.hold)
    }

    /// The turn that was planned has come. True: no pass has taken what it was planned for.
    pub(super) fn is_due(&self) -> bool {
        self.planned.set(None);
        self.owes.get()
    }

    /// Writes to everyone what there is.
    pub(super) fn pass(&self) {
        let now = Instant::now();
        self.last_pass.set(Some(now));
        self.held_since.set(None);
        self.owes.set(false);
        let mut view = self.view.borrow_mut();
        view.refresh();
        self.passed.set(view.head());
        let sent = self.crowd.borrow_mut().pass(&mut view, &mut self.broadcast.borrow_mut(), now);
        self.count(&view, sent);
    }

    pub(super) fn count(&self, view: &View, sent: Sent) {
        let (stream, process) = (&view.stream().counters, &self.context.totals);
        if sent.bytes > 0 {
            Totals::add(&stream.sent_bytes, sent.bytes);
            Totals::add(&process.sent_bytes, sent.bytes);
        }
        if sent.skips > 0 {
            Totals::add(&stream.skips, sent.skips);
            Totals::add(&process.skips, sent.skips);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::Config;
    use crate::conn::fanout::Fanout;
    use crate::conn::stream_options;
    use crate::hub::{Publisher, Source};
    use crate::rtmp::Timestamp;
    use crate::rtmp::message::{MediaKind, MediaMessage};
    use crate::rtmp::url::{DEFAULT_VHOST, StreamKey};

    fn lane(pace: Pace) -> (Rc<Lane>, Publisher) {
        let context = Arc::new(Context::new(Config::default()));
        let options = stream_options(context.config().vhost(DEFAULT_VHOST).unwrap());
        let key = StreamKey::new(DEFAULT_VHOST, "live", "a").unwrap();
        let publisher = context.hub.publish(&key, options, Source::default(), Instant::now());
        let publisher = publisher.unwrap();
        (Fanout::default().lane(&context, publisher.stream(), pace), publisher)
    }

    fn put(publisher: &mut Publisher, kind: MediaKind, len: usize) {
        let payload = [&[0x17, 1][..], &vec![0; len]].concat();
        let media = MediaMessage { kind, timestamp: Timestamp(0), msid: 1, payload: &payload };
        publisher.append(&media, Instant::now()).unwrap();
        publisher.flush();
    }

    #[test]
    fn a_lane_woken_often_within_its_floor_plans_one_pass() {
        let floor = Duration::from_secs(3600);
        let (lane, _publisher) = lane(Pace { floor, hold: Duration::ZERO });
        let now = Instant::now();
        assert_eq!(lane.turn(now), Turn::Pass);
        lane.pass();
        assert_eq!(lane.turn(now), Turn::Later(lane.last_pass.get().unwrap() + floor));
        assert_eq!(lane.turn(now), Turn::Planned);
    }

    #[test]
    fn a_little_audio_waits_for_video_and_for_nothing_else() {
        let hold = Duration::from_millis(40);
        let (lane, mut publisher) = lane(Pace { floor: Duration::ZERO, hold });
        let now = Instant::now();
        assert_eq!(lane.turn(now), Turn::Pass);
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now), Turn::Pass, "there is no video");
        put(&mut publisher, MediaKind::Video, 2000);
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now), Turn::Later(now + hold));
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(now + hold / 2), Turn::Planned);
        assert_eq!(lane.turn(now + hold), Turn::Pass, "it has waited long enough");
        put(&mut publisher, MediaKind::Video, 2000);
        assert_eq!(lane.turn(now), Turn::Pass, "here is the video");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 4000);
        assert_eq!(lane.turn(now), Turn::Pass, "that is not a little");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        drop(publisher);
        assert_eq!(lane.turn(now), Turn::Pass, "nobody publishes");
    }
}
