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
use crate::hub::{Phase, View};

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
    /// Another turn is to come then; one is enough, however often the lane is woken.
    planned: Cell<Option<Instant>>,
}

/// What a lane does when it is woken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Pass,
    Later(Instant),
    /// Another turn is planned already, or there is nothing.
    Nothing,
}

impl Lane {
    pub(super) fn new(
        context: &Arc<Context>,
        view: View,
        pace: Pace,
        broadcast: &Rc<RefCell<Broadcast>>,
    ) -> Self {
        Self {
            context: Arc::clone(context),
            view: RefCell::new(view),
            crowd: RefCell::default(),
            broadcast: Rc::clone(broadcast),
            pace,
            last_pass: Cell::new(None),
            passed: Cell::new(u64::MAX),
            planned: Cell::new(None),
        }
    }

    /// What to do now that the planned turn has come.
    pub(super) fn planned_turn(&self, now: Instant) -> Turn {
        self.planned.set(None);
        let mut view = self.view.borrow_mut();
        // From here on audio wakes us again, and what came before is seen.
        view.set_patient(false);
        view.refresh();
        if view.phase() == Phase::Live && view.head() == self.passed.get() {
            return Turn::Nothing;
        }
        drop(view);
        self.turn(now)
    }

    /// What to do now that there is something, or may be.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        let last = self.last_pass.get().filter(|_| !self.pace.floor.is_zero());
        let floor = last.map(|last| last + self.pace.floor);
        let Some(due) = floor.max(self.held_until()).filter(|due| *due > now) else {
            return Turn::Pass;
        };
        // More audio need not wake it until then.
        self.view.borrow().set_patient(!self.pace.hold.is_zero());
        if self.planned.get().is_some_and(|planned| planned <= due) {
            return Turn::Nothing;
        }
        self.planned.set(Some(due));
        Turn::Later(due)
    }

    /// Until when what there is may wait; `None`: it may not.
    fn held_until(&self) -> Option<Instant> {
        if self.pace.hold.is_zero() {
            return None;
        }
        let mut view = self.view.borrow_mut();
        view.refresh();
        if view.phase() != Phase::Live || !view.is_little_audio(self.passed.get()) {
            return None;
        }
        Some(view.arrived(self.passed.get())? + self.pace.hold)
    }

    /// When another turn is to come whether it is woken or not.
    pub(super) fn planned(&self) -> Option<Instant> {
        self.planned.get()
    }

    /// Writes to everyone what there is. If audio that comes next may wait, it wakes nobody, and
    /// another turn is planned.
    pub(super) fn pass(&self) {
        let now = Instant::now();
        self.last_pass.set(Some(now));
        let mut view = self.view.borrow_mut();
        let holds = !self.pace.hold.is_zero() && view.phase() == Phase::Live && view.has_video();
        view.set_patient(holds);
        self.planned.set(holds.then(|| now + self.pace.hold));
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
    use crate::hub::{Form, Publisher, Source};
    use crate::rtmp::Timestamp;
    use crate::rtmp::message::{MediaKind, MediaMessage};
    use crate::rtmp::url::{DEFAULT_VHOST, StreamKey};

    fn lane(pace: Pace) -> (Rc<Lane>, Publisher) {
        lane_of(&Fanout::default(), pace)
    }

    fn lane_of(fanout: &Fanout, pace: Pace) -> (Rc<Lane>, Publisher) {
        let context = Arc::new(Context::new(Config::default()));
        let options = stream_options(context.config().vhost(DEFAULT_VHOST).unwrap());
        let key = StreamKey::new(DEFAULT_VHOST, "live", "a").unwrap();
        let publisher = context.hub.publish(&key, options, Source::default(), Instant::now());
        let publisher = publisher.unwrap();
        (fanout.lane(&context, publisher.stream(), Form::Chunks, pace), publisher)
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
        assert_eq!(lane.planned(), None);
        let due = lane.last_pass.get().unwrap() + floor;
        assert_eq!(lane.turn(now), Turn::Later(due));
        assert_eq!(lane.planned(), Some(due));
        assert_eq!(lane.turn(now), Turn::Nothing);
        lane.pass();
        assert_eq!(lane.planned(), None, "a pass came before");
    }

    /// When audio is out that was put in between `before` and now.
    fn assert_held(turn: Turn, before: Instant, hold: Duration) -> Instant {
        let Turn::Later(due) = turn else { panic!("{turn:?}") };
        let arrived = due - hold;
        assert!(arrived + Duration::from_millis(1) > before && arrived <= Instant::now());
        due
    }

    #[test]
    fn a_little_audio_waits_for_video_and_for_nothing_else() {
        let hold = Duration::from_secs(3600);
        let (lane, mut publisher) = lane(Pace { floor: Duration::ZERO, hold });
        assert_eq!(lane.turn(Instant::now()), Turn::Pass);
        lane.pass();
        assert_eq!(lane.planned(), None);
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(Instant::now()), Turn::Pass, "there is no video");
        put(&mut publisher, MediaKind::Video, 2000);
        lane.pass();
        let before = Instant::now();
        put(&mut publisher, MediaKind::Audio, 200);
        let due = assert_held(lane.turn(before), before, hold);
        put(&mut publisher, MediaKind::Audio, 200);
        assert_eq!(lane.turn(due - hold / 2), Turn::Nothing);
        assert_eq!(lane.turn(due), Turn::Pass, "it has waited long enough");
        put(&mut publisher, MediaKind::Video, 2000);
        let now = Instant::now();
        assert_eq!(lane.turn(now), Turn::Pass, "here is the video");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 4000);
        assert_eq!(lane.turn(now), Turn::Pass, "that is not a little");
        lane.pass();
        put(&mut publisher, MediaKind::Audio, 200);
        drop(publisher);
        assert_eq!(lane.turn(now), Turn::Pass, "nobody publishes");
    }

    #[test]
    fn a_little_audio_wakes_nobody_who_looks_in_time() {
        let hold = Duration::from_secs(3600);
        let fanout = Fanout::default();
        let (lane, mut publisher) = lane_of(&fanout, Pace { floor: Duration::ZERO, hold });
        let mut put = |kind, len| {
            put(&mut publisher, kind, len);
            fanout.inbox.take().len()
        };
        assert_eq!(put(MediaKind::Video, 2000), 1);
        assert_eq!(lane.turn(Instant::now()), Turn::Pass);
        lane.pass();
        let before = Instant::now();
        assert_eq!(put(MediaKind::Audio, 200), 0);
        let due = assert_held(lane.planned_turn(before), before, hold);
        assert_eq!(put(MediaKind::Audio, 200), 0);
        assert_eq!(lane.planned_turn(due), Turn::Pass);
        lane.pass();
        let next = lane.planned().unwrap();
        assert_eq!(lane.planned_turn(next), Turn::Nothing, "nobody says anything");
        assert_eq!(put(MediaKind::Audio, 200), 1, "and nothing is planned any more");
        assert!(matches!(lane.turn(Instant::now()), Turn::Later(_)));
        assert_eq!(put(MediaKind::Audio, 200), 0);
        assert_eq!(put(MediaKind::Audio, 3000), 1, "that is not a little");
        assert_eq!(lane.turn(Instant::now()), Turn::Pass);
        lane.pass();
        assert_eq!(put(MediaKind::Audio, 200), 0);
        assert_eq!(put(MediaKind::Video, 200), 1);
    }

    #[test]
    fn a_turn_that_comes_and_finds_audio_that_may_wait_plans_another() {
        let (floor, hold) = (Duration::from_secs(10), Duration::from_secs(40));
        let (lane, mut publisher) = lane(Pace { floor, hold });
        put(&mut publisher, MediaKind::Video, 2000);
        lane.pass();
        put(&mut publisher, MediaKind::Video, 2000);
        let Turn::Later(due) = lane.turn(Instant::now()) else { panic!("within its floor") };
        assert_eq!(due, lane.last_pass.get().unwrap() + floor);
        lane.pass();
        let before = Instant::now();
        put(&mut publisher, MediaKind::Audio, 200);
        assert_held(lane.planned_turn(due), before, hold);
    }
}
