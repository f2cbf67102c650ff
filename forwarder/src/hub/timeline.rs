//! The times of a stream whose publishers change: what they say, moved so that it goes on.

use crate::rtmp::Timestamp;

/// Clocks that agree so far are one clock, milliseconds: publishers that follow the same one differ
/// by how long they take to encode and to send.
const TOLERANCE_MS: i64 = 300;

/// Beyond this behind a switch nothing can lie before it any more, milliseconds. A floor that was
/// kept for ever would be half way around the clock some day.
const SETTLED_MS: i32 = 10_000;

/// A frame's time as long as none is known, milliseconds.
const FRAME_MS: u32 = 40;

/// Longest time of one frame that is believed, milliseconds.
const MAX_FRAME_MS: i32 = 1000;

/// How the times of whoever publishes become those of the stream.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// Added to what the publisher says, modulo 2^32.
    offset: u32,
    /// Nothing may go before this: the newest time at the switch.
    floor: Option<Timestamp>,
}

/// Where a stream stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Clock {
    /// Newest time of audio or video, as the readers have it. `None`: there was nothing.
    pub(super) newest: Option<Timestamp>,
    /// When the last message arrived, milliseconds since the stream came into being.
    pub(super) arrived_ms: u64,
    video: Option<Timestamp>,
    frame_ms: Option<u32>,
}

impl Clock {
    /// Audio or video went out at `time`.
    pub(super) fn note(&mut self, is_video: bool, time: Timestamp, now_ms: u64) {
        self.arrived_ms = now_ms;
        if self.newest.is_none_or(|newest| time.since(newest) > 0) {
            self.newest = Some(time);
        }
        if is_video {
            let step = self.video.map_or(0, |last| time.since(last));
            if (1..=MAX_FRAME_MS).contains(&step) {
                self.frame_ms = Some(step.unsigned_abs());
            }
            self.video = Some(time);
        }
    }
}

impl Timeline {
    /// The stream's time for the publisher's.
    pub(super) fn map(&mut self, time: Timestamp) -> Timestamp {
        let time = self.moved(time);
        let Some(floor) = self.floor else { return time };
        let ahead = time.since(floor);
        if ahead > SETTLED_MS {
            self.floor = None;
        }
        if ahead < 0 { floor } else { time }
    }

    /// As [`Self::map`], for one who may not be the publisher.
    pub(super) fn moved(&self, time: Timestamp) -> Timestamp {
        time.advanced(self.offset)
    }

    /// Another publisher goes on, with its message of time `start`, and is at `edge` now. If the two
    /// share a time line it stays; else the new one begins a frame's time behind what there is.
    /// Gives by how much its times are moved, milliseconds modulo 2^32.
    pub(super) fn join(
        &mut self,
        clock: &Clock,
        now_ms: u64,
        start: Timestamp,
        edge: Timestamp,
    ) -> u32 {
        let Some(newest) = clock.newest else { return self.offset };
        let quiet = now_ms.saturating_sub(clock.arrived_ms);
        let ahead = i64::from(self.moved(edge).since(newest));
        let expected = i64::try_from(quiet).unwrap_or(i64::MAX);
        let shared = (ahead - expected).abs() <= TOLERANCE_MS;
        if !shared || self.moved(start).since(newest) <= 0 {
            let first = newest.advanced(clock.frame_ms.unwrap_or(FRAME_MS));
            self.offset = first.0.wrapping_sub(start.0);
        }
        self.floor = Some(newest);
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn clock(newest: u32, frame_ms: u32) -> Clock {
        let mut clock = Clock::default();
        clock.note(true, Timestamp(newest.wrapping_sub(frame_ms)), 0);
        clock.note(true, Timestamp(newest), 1000);
        clock
    }

    #[test]
    fn a_clock_of_its_own_begins_a_frame_later() {
        let mut line = Timeline::default();
        line.join(&clock(5000, 40), 1100, Timestamp(900_000), Timestamp(900_480));
        assert_eq!(line.map(Timestamp(900_000)), Timestamp(5040));
        assert_eq!(line.map(Timestamp(900_480)), Timestamp(5520));
        assert_eq!(line.map(Timestamp(899_900)), Timestamp(5000), "not before what there is");
        assert_eq!(line.map(Timestamp(999_900)), Timestamp(104_940));
    }

    #[test]
    fn a_shared_clock_stays_where_that_is_behind_what_there_is() {
        let mut line = Timeline::default();
        let offset = line.join(&clock(5000, 40), 1200, Timestamp(5120), Timestamp(5230));
        assert_eq!((offset, line.map(Timestamp(5120))), (0, Timestamp(5120)));
        // its newest keyframe lies before what the readers have
        let offset = line.join(&clock(5000, 40), 1200, Timestamp(4700), Timestamp(5230));
        assert_eq!((offset, line.map(Timestamp(4700))), (340, Timestamp(5040)));
    }

    #[test]
    fn nothing_before_is_nothing_to_go_on_from() {
        let mut line = Timeline::default();
        line.join(&Clock::default(), 10, Timestamp(77), Timestamp(99));
        assert_eq!(line.map(Timestamp(77)), Timestamp(77));
    }

    proptest! {
        #[test]
        fn what_follows_a_switch_is_never_before_it(
            newest: u32, frame in 1..1000u32, quiet in 0..100_000u64, start: u32,
            steps in proptest::collection::vec(0..2000u32, 1..50), jitter in 0..60u32,
        ) {
            let (mut line, mut at) = (Timeline::default(), Timestamp(start));
            let edge = at.advanced(steps.iter().sum());
            line.join(&clock(newest, frame), 1000 + quiet, at, edge);
            let first = line.map(at).since(Timestamp(newest));
            prop_assert!(first > 0, "begins {first} ms from what there is");
            prop_assert!(i64::from(first) <= i64::try_from(quiet).unwrap() + 1000);
            for step in steps {
                at = at.advanced(step);
                prop_assert!(line.map(at).since(Timestamp(newest)) >= 0);
                let early = Timestamp(at.0.wrapping_sub(jitter));
                prop_assert!(line.map(early).since(Timestamp(newest)) >= 0);
            }
        }
    }
}
