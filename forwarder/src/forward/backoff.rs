//! When to dial a destination again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The first pause that is one, if nothing else is said; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The first pause after a server said no. It may be that it has not noticed yet that the last
/// connection is gone; a wrong key stays wrong, and some servers lock out who repeats it.
const FIRST_REFUSED_PAUSE: Duration = Duration::from_secs(1);

/// Pause between probes of a port that is closed on a host that answers: a slave that restarts is
/// to be found at once, and a refused connect costs two packets.
const PROBE_PAUSE: Duration = Duration::from_millis(150);

/// A closed port is probed so often for so long; after that it backs off like anything else.
const PROBE_FOR: Duration = Duration::from_secs(60);

/// A forward that held so long worked.
const STEADY: Duration = Duration::from_secs(3);

/// One that held so long was not dropped at once.
const HELD: Duration = Duration::from_millis(500);

/// What the forwards to one destination know together: only one of them probes a closed port, and
/// the first that gets through calls the others.
#[derive(Debug, Default)]
pub(crate) struct Health {
    probing: AtomicBool,
    recovered: Notify,
}

impl Health {
    /// It works: whoever waits may try at once.
    pub(crate) fn works(&self) {
        self.recovered.notify_waiters();
    }

    /// Waits until somebody else got through.
    pub(crate) async fn recovered(&self) {
        self.recovered.notified().await;
    }
}

/// The pauses of one forward.
#[derive(Debug)]
pub(crate) struct Backoff<'a> {
    health: &'a Health,
    shortest: Duration,
    longest: Duration,
    failures: u32,
    refusals: u32,
    down_since: Option<Instant>,
    prober: bool,
    /// The last pause was cut short by somebody who got through.
    called: bool,
}

impl<'a> Backoff<'a> {
    /// No pause is longer than `longest`.
    pub(crate) fn new(health: &'a Health, longest: Duration) -> Self {
        Self::between(health, FIRST_PAUSE, longest)
    }

    /// No pause is shorter than half of `shortest` (but the first retry is at once), none longer
    /// than `longest`, which goes first.
    pub(crate) fn between(health: &'a Health, shortest: Duration, longest: Duration) -> Self {
        let shortest = shortest.min(longest);
        Self {
            health,
            shortest,
            longest,
            failures: 0,
            refusals: 0,
            down_since: None,
            prober: false,
            called: false,
        }
    }

    /// It forwarded for so long. True: that was long enough for the next failure to be a first one
    /// again. A destination that takes the publish and closes at once must not be dialled in a loop.
    pub(crate) fn forwarded(&mut self, time: Duration) -> bool {
        self.leave_probing();
        self.called &= time < HELD;
        if time < STEADY {
            return false;
        }
        self.failures = 0;
        self.refusals = 0;
        self.down_since = None;
        true
    }

    /// How long to wait after a failure at `now`. `refused`: the host said that the port is closed.
    pub(crate) fn after_failure(&mut self, refused: bool, now: Instant) -> Duration {
        let first = self.failures == 0;
        let since = *self.down_since.get_or_insert(now);
        let doubled = self.shortest.saturating_mul(1 << self.failures.saturating_sub(1).min(16));
        self.failures = self.failures.saturating_add(1);
        if first {
            return Duration::ZERO;
        }
        let jitter = rand::rng().random_range(0.5..1.0);
        if refused && now.saturating_duration_since(since) < PROBE_FOR && self.may_probe() {
            return PROBE_PAUSE.clamp(self.shortest, self.longest).mul_f64(jitter);
        }
        self.leave_probing();
        doubled.min(self.longest).mul_f64(jitter)
    }

    /// How long to wait after the server there said no; `longest` at most.
    pub(crate) fn after_refusal(&mut self, longest: Duration) -> Duration {
        self.leave_probing();
        let doubled = FIRST_REFUSED_PAUSE.saturating_mul(1 << self.refusals.min(16));
        self.refusals = self.refusals.saturating_add(1);
        doubled.min(longest).mul_f64(rand::rng().random_range(0.5..1.0))
    }

    /// Waits for `pause`, or until somebody else got through, if that may help. Who was called and
    /// failed again waits for all of his next pause: those whom a server takes and drops at once
    /// would else call each other for ever.
    pub(crate) async fn rest(&mut self, pause: Duration, may_be_called: bool) {
        let (health, may) = (self.health, may_be_called && !self.called);
        self.called = tokio::select! {
            () = sleep(pause) => false,
            () = health.recovered(), if may => true,
        };
    }

    fn may_probe(&mut self) -> bool {
        self.prober = self.prober || !self.health.probing.swap(true, Ordering::Relaxed);
        self.prober
    }

    fn leave_probing(&mut self) {
        if std::mem::take(&mut self.prober) {
            self.health.probing.store(false, Ordering::Relaxed);
        }
    }
}

impl Drop for Backoff<'_> {
    fn drop(&mut self) {
        self.leave_probing();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn first_retry_is_at_once_and_later_ones_grow_to_the_longest() {
        let health = Health::default();
        let mut backoff = Backoff::new(&health, 3 * SECOND);
        let now = Instant::now();
        assert_eq!(backoff.after_failure(false, now), Duration::ZERO);
        let mut most = FIRST_PAUSE;
        for _ in 0..10 {
            let pause = backoff.after_failure(false, now);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
            most = (most * 2).min(3 * SECOND);
        }
    }

    #[test]
    fn who_is_refused_waits_longer_and_longer() {
        let health = Health::default();
        let mut backoff = Backoff::new(&health, 3 * SECOND);
        let mut most = SECOND;
        for _ in 0..8 {
            let pause = backoff.after_refusal(30 * SECOND);
            assert!(pause >= most / 2 && pause <= most, "{pause:?} of {most:?}");
            most = (most * 2).min(30 * SECOND);
        }
        assert!(backoff.forwarded(STEADY));
        assert!(backoff.after_refusal(30 * SECOND) <= SECOND);
        assert!(backoff.after_refusal(SECOND / 10) <= SECOND / 10);
    }

    #[test]
    fn pauses_are_as_long_as_was_said() {
        let (health, now) = (Health::default(), Instant::now());
        let mut backoff = Backoff::between(&health, 2 * SECOND, 5 * SECOND);
        assert_eq!(backoff.after_failure(true, now), Duration::ZERO);
        for _ in 0..8 {
            let pause = backoff.after_failure(true, now);
            assert!(pause >= SECOND && pause <= 5 * SECOND, "{pause:?}");
        }
        let mut backoff = Backoff::between(&health, 5 * SECOND, SECOND);
        backoff.after_failure(true, now);
        assert!(backoff.after_failure(true, now) <= SECOND, "the longest goes first");
    }

    #[test]
    fn a_closed_port_is_probed_by_one_and_for_a_while() {
        let health = Health::default();
        let mut one = Backoff::new(&health, 3 * SECOND);
        let mut other = Backoff::new(&health, 3 * SECOND);
        let now = Instant::now();
        for _ in 0..20 {
            one.after_failure(true, now);
            other.after_failure(true, now);
        }
        assert!(one.after_failure(true, now + SECOND) <= PROBE_PAUSE);
        assert!(other.after_failure(true, now + SECOND) > SECOND);
        assert!(one.after_failure(true, now + 2 * PROBE_FOR) > SECOND);
        assert!(other.after_failure(true, now + SECOND) <= PROBE_PAUSE, "the place was free");
    }

    #[tokio::test]
    async fn who_is_called_in_vain_waits_to_the_end_of_the_next_pause() {
        let health = Health::default();
        let mut backoff = Backoff::new(&health, SECOND);
        let called = async |backoff: &mut Backoff<'_>, may_be_called| {
            let rest = backoff.rest(3600 * SECOND, may_be_called);
            let call = async {
                loop {
                    health.works();
                    sleep(SECOND / 1000).await;
                }
            };
            tokio::select! {
                () = rest => true,
                () = call => false,
                () = sleep(SECOND / 10) => false,
            }
        };
        assert!(!called(&mut backoff, false).await, "a server that says no is not asked again");
        assert!(called(&mut backoff, true).await);
        assert!(!called(&mut backoff, true).await);
        backoff.rest(Duration::ZERO, true).await;
        assert!(called(&mut backoff, true).await);
        backoff.forwarded(HELD / 2);
        assert!(!called(&mut backoff, true).await);
        backoff.called = true;
        backoff.forwarded(HELD);
        assert!(called(&mut backoff, true).await);
    }

    #[test]
    fn success_begins_anew() {
        let health = Health::default();
        let mut backoff = Backoff::new(&health, 3 * SECOND);
        let now = Instant::now();
        backoff.after_failure(true, now);
        backoff.after_failure(true, now);
        assert!(backoff.forwarded(STEADY));
        assert_eq!(backoff.after_failure(true, now), Duration::ZERO);
    }

    #[test]
    fn a_destination_that_closes_each_publish_at_once_is_not_dialled_in_a_loop() {
        let health = Health::default();
        let mut backoff = Backoff::new(&health, 3 * SECOND);
        let now = Instant::now();
        for _ in 0..10 {
            assert!(!backoff.forwarded(SECOND / 100));
            backoff.after_failure(false, now);
        }
        assert!(backoff.after_failure(false, now) > SECOND);
    }
}
