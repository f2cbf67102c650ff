//! Which path carries a leg.
//!
//! The kernel costs less than a copy at any size of bursts, the less the larger they are
//! (`docs/splice.md`). What it cannot do is hold a source up: one that may put more into the kernel
//! than the soft limit before anybody has looked is back in user space at once, at a price. So it
//! follows from the rate, measured on whichever path, with a gap between going and coming back; and
//! after each return that a slow target causes there is a pause.

use std::time::Duration;

use tokio::time::Instant;

use super::Mode;

/// When a leg may go to the kernel.
#[derive(Debug)]
pub(super) struct Choice {
    mode: Mode,
    /// Bytes that may pile up; 0 is any number.
    soft_limit: u64,
    /// Bytes read in user space.
    read: u64,
    /// When the rate was last taken on this path, and the bytes it had carried then.
    last: Option<(Instant, u64)>,
    /// Not before.
    earliest: Option<Instant>,
    /// After the next return that the target's slowness causes.
    pause: Duration,
    /// The kernel does not take these sockets.
    refused: bool,
}

impl Choice {
    pub(super) fn new(mode: Mode, soft_limit: usize) -> Self {
        Self {
            mode,
            soft_limit: soft_limit as u64,
            read: 0,
            last: None,
            earliest: None,
            pause: FIRST_PAUSE,
            refused: false,
        }
    }

    /// A leg that is in user space has read `n` bytes.
    pub(super) fn saw_read(&mut self, n: usize) {
        self.read += n as u64;
    }

    /// Whether to go to the kernel now, the source having nothing more at the moment.
    pub(super) fn wants_kernel(&mut self, now: Instant) -> bool {
        let pays = match self.mode {
            Mode::Always => true,
            Mode::Auto => self
                .rate(now, self.read)
                .is_some_and(|rate| rate > 0.0 && !self.piles_up(2.0 * rate)),
            Mode::Never => false,
        };
        pays && !self.refused && self.earliest.is_none_or(|earliest| now >= earliest)
    }

    /// Whether to come back; `redirected` bytes since it went.
    pub(super) fn wants_user(&mut self, now: Instant, redirected: u64) -> bool {
        self.mode == Mode::Auto
            && self.rate(now, redirected).is_some_and(|rate| self.piles_up(rate))
    }

    /// The leg has changed its path: it is measured anew.
    pub(super) fn moved(&mut self) {
        self.last = None;
    }

    /// It is back because the target is slow: each time it stays longer.
    pub(super) fn was_slow(&mut self, now: Instant) {
        self.earliest = Some(now + self.pause);
        self.pause = (self.pause * 2).min(LAST_PAUSE);
    }

    /// The kernel had no room, for this pair or for any.
    pub(super) fn was_busy(&mut self, now: Instant) {
        self.earliest = Some(now + FIRST_PAUSE);
    }

    /// The kernel does not take the sockets: never ask again.
    pub(super) fn was_refused(&mut self) {
        self.refused = true;
    }

    /// Bytes a second since this was last known, the path having carried `total`.
    fn rate(&mut self, now: Instant, total: u64) -> Option<f64> {
        let (since, before) = *self.last.get_or_insert((now, total));
        let elapsed = now - since;
        if elapsed < WINDOW {
            return None;
        }
        self.last = Some((now, total));
        #[expect(clippy::cast_precision_loss, reason = "compared with a limit")]
        Some(total.saturating_sub(before) as f64 / elapsed.as_secs_f64())
    }

    /// Whether a source of `rate` is over the soft limit before anybody has looked.
    #[expect(clippy::cast_precision_loss, reason = "compared with a rate")]
    fn piles_up(&self, rate: f64) -> bool {
        self.soft_limit != 0 && rate * REACTION.as_secs_f64() > self.soft_limit as f64
    }
}

/// How long a rate is measured: five frames, and longer than what a player is sent to begin with.
const WINDOW: Duration = Duration::from_millis(200);
/// How late a leg may learn on a busy shard that it is over a limit.
const REACTION: Duration = Duration::from_millis(20);
/// How long a leg stays in user space after its target was slow, at first and at most.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const SOFT: usize = 1 << 20;

    /// Reads `rate` bytes a second for a second; whether the kernel was wanted.
    fn is_wanted_at(choice: &mut Choice, now: &mut Instant, rate: usize) -> bool {
        let mut wanted = choice.wants_kernel(*now);
        for _ in 0..25 {
            choice.saw_read(rate / 25);
            *now += Duration::from_millis(40);
            wanted |= choice.wants_kernel(*now);
        }
        wanted
    }

    #[test]
    fn media_of_any_size_goes_to_the_kernel_and_what_piles_up_does_not() {
        let mut now = Instant::now();
        for (rate, is_wanted) in [(2_000, true), (6_000_000, true), (60_000_000, false)] {
            let mut choice = Choice::new(Mode::Auto, SOFT);
            assert_eq!(is_wanted_at(&mut choice, &mut now, rate), is_wanted, "{rate}");
        }
        let mut choice = Choice::new(Mode::Auto, 0);
        assert!(is_wanted_at(&mut choice, &mut now, 1 << 30), "there is no limit");
        assert!(Choice::new(Mode::Always, SOFT).wants_kernel(now), "at once");
        assert!(!is_wanted_at(&mut Choice::new(Mode::Never, SOFT), &mut now, 2_000));
    }

    #[test]
    fn between_going_and_coming_back_there_is_a_gap() {
        let mut now = Instant::now();
        let mut choice = Choice::new(Mode::Auto, SOFT);
        assert!(is_wanted_at(&mut choice, &mut now, 20 << 20));
        choice.moved();
        assert!(!choice.wants_user(now, 0), "nothing is known yet");
        let mut redirected = 0;
        for (rate, comes_back) in [(20 << 20, false), (40 << 20, false), (60 << 20, true)] {
            now += Duration::from_secs(2);
            redirected += 2 * rate;
            assert_eq!(choice.wants_user(now, redirected), comes_back, "{rate}");
        }
        choice.moved();
        assert!(!is_wanted_at(&mut choice, &mut now, 40 << 20));
        assert!(is_wanted_at(&mut choice, &mut now, 20 << 20));
    }

    #[test]
    fn a_slow_target_keeps_a_leg_out_for_longer_each_time() {
        let mut now = Instant::now();
        let mut choice = Choice::new(Mode::Always, SOFT);
        for pause in [1, 2, 4] {
            choice.was_slow(now);
            now += Duration::from_millis(pause * 1000 - 1);
            assert!(!choice.wants_kernel(now));
            now += Duration::from_millis(1);
            assert!(choice.wants_kernel(now));
        }
    }
}
