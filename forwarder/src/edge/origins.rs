//! Which origin of a vhost serves a stream.
//!
//! Each stream has its own favourite among them (rendezvous hashing), so that streams are spread
//! and every edge finds a stream where another edge has published it. SRS begins with the first
//! origin each time. What is known about origins that fail is shared by the whole process.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Destination, Edge};
use crate::forward::Health;
use crate::rtmp::url::StreamKey;

/// An origin that failed is not asked first for so long; each further failure doubles it.
const FIRST_REST: Duration = Duration::from_millis(500);

/// The longest rest. The others serve meanwhile, and if all rest all are asked.
const LONGEST_REST: Duration = Duration::from_secs(15);

/// All that is known about origins.
#[derive(Debug, Default)]
pub(super) struct Origins {
    resting: Mutex<HashMap<Destination, Rest>>,
    /// For each vhost, who looks for an origin that works while none does.
    searches: Mutex<HashMap<String, Arc<Health>>>,
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    failures: u32,
    until: Instant,
}

impl Origins {
    /// All origins in the order in which to ask them for `key`: those that failed lately are last,
    /// and among those the one that rested longest is first.
    pub(super) fn order(&self, edge: &Edge, key: &StreamKey, now: Instant) -> Vec<Destination> {
        let resting = self.resting();
        let mut order = edge.origin.clone();
        order.sort_by_cached_key(|origin| {
            let rest = resting.get(origin).map(|rest| rest.until).filter(|until| now < *until);
            (rest, Reverse(weight(key, origin)))
        });
        order
    }

    /// Whether it failed lately.
    pub(super) fn rests(&self, origin: &Destination, now: Instant) -> bool {
        self.resting().get(origin).is_some_and(|rest| now < rest.until)
    }

    /// It could not be reached, or was lost. What many streams see at once counts once.
    pub(super) fn failed(&self, origin: &Destination, now: Instant) {
        let mut resting = self.resting();
        let rest = resting.entry(origin.clone()).or_insert(Rest { failures: 0, until: now });
        if now < rest.until {
            return;
        }
        let doubled = FIRST_REST.saturating_mul(1 << rest.failures.min(16));
        rest.failures = rest.failures.saturating_add(1);
        rest.until = now + doubled.min(LONGEST_REST);
    }

    /// It has ended a stream in order, as one that stops does: others are asked first for a moment.
    pub(super) fn ended(&self, origin: &Destination, now: Instant) {
        let mut resting = self.resting();
        let rest = resting.entry(origin.clone()).or_insert(Rest { failures: 0, until: now });
        rest.until = rest.until.max(now + FIRST_REST);
    }

    /// It serves. Whoever looks for an origin of `vhost` may try at once, if this is news.
    pub(super) fn works(&self, vhost: &str, origin: &Destination) {
        if self.resting().remove(origin).is_some() {
            self.search(vhost).works();
        }
    }

    /// What those have in common that look for an origin of `vhost`.
    pub(super) fn search(&self, vhost: &str) -> Arc<Health> {
        let mut searches = self.searches.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(searches.entry(vhost.to_owned()).or_default())
    }

    fn resting(&self) -> MutexGuard<'_, HashMap<Destination, Rest>> {
        self.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The origin of `edge` that a server named in a tcUrl; `None` if it is none, or nothing was named.
/// We go nowhere else, whoever says so.
pub(super) fn named(edge: &Edge, tc_url: Option<&str>) -> Option<Destination> {
    let (_, rest) = tc_url?.split_once("://")?;
    let named: Destination = rest.split(['/', '?']).next()?.parse().ok()?;
    edge.origin.iter().find(|origin| **origin == named).cloned()
}

/// How much an origin is the favourite of a stream; the same in every process.
fn weight(key: &StreamKey, origin: &Destination) -> u64 {
    // FNV-1a, and the last step of SplitMix64 because the high bits decide.
    let text = format!("{key}\n{origin}");
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let mut hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, fold);
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn edge(origins: &[&str]) -> Edge {
        let origin = origins.iter().map(|text| text.parse().expect("an origin")).collect();
        Edge { enabled: true, origin, ..Edge::default() }
    }

    fn key(n: u32) -> StreamKey {
        StreamKey::new("v", "live", &format!("stream-{n}")).expect("a name")
    }

    #[test]
    fn streams_are_spread_and_keep_their_origin() {
        let (origins, now) = (Origins::default(), Instant::now());
        let (four, three) = (edge(&["a", "b", "c", "d"]), edge(&["d", "c", "a"]));
        let mut counts = HashMap::<_, u32>::new();
        for n in 0..1000 {
            let first = origins.order(&four, &key(n), now).remove(0);
            *counts.entry(first.host.clone()).or_default() += 1;
            let of_three = origins.order(&three, &key(n), now).remove(0);
            assert!(of_three == first || first.host == "b", "only those of `b` move");
        }
        assert!(counts.len() == 4 && counts.values().all(|n| (180..320).contains(n)), "{counts:?}");
    }

    #[test]
    fn nobody_is_sent_to_a_server_that_is_no_origin() {
        let edge = edge(&["a.example", "b.example:1936", "[::1]:19350"]);
        for (tc_url, want) in [
            ("rtmp://a.example/live", Some(0)),
            ("rtmp://a.example:1935", Some(0)),
            ("rtmp://b.example:1936/live/x?vhost=v", Some(1)),
            ("rtmp://b.example/live", None),
            ("rtmp://[::1]:19350/live", Some(2)),
            ("rtmp://c.example/live", None),
            ("a.example", None),
            ("rtmp://", None),
            ("", None),
        ] {
            let want = want.map(|at: usize| edge.origin[at].clone());
            assert_eq!(named(&edge, Some(tc_url)), want, "{tc_url}");
        }
        assert_eq!(named(&edge, None), None);
    }

    #[test]
    fn one_that_failed_is_last_for_a_while() {
        let (origins, now, edge) = (Origins::default(), Instant::now(), edge(&["a", "b", "c"]));
        let usual = origins.order(&edge, &key(1), now);
        origins.failed(&usual[0], now);
        let [first, second, last] = [1, 2, 0].map(|at: usize| usual[at].clone());
        assert_eq!(origins.order(&edge, &key(1), now), [first.clone(), second, last]);
        origins.failed(&first, now + SECOND / 4);
        assert!(origins.rests(&usual[0], now) && !origins.rests(&usual[2], now));
        let all = origins.order(&edge, &key(1), now + SECOND / 4);
        assert_eq!(all, [usual[2].clone(), usual[0].clone(), first]);
        assert_eq!(origins.order(&edge, &key(1), now + SECOND), usual);
        // Of many streams at once, one counts.
        for _ in 0..9 {
            origins.failed(&usual[0], now + SECOND);
        }
        assert_eq!(origins.order(&edge, &key(1), now + 2 * SECOND), usual);
        let mut at = now;
        for _ in 0..9 {
            origins.failed(&usual[0], at);
            at = origins.resting()[&usual[0]].until;
        }
        assert_ne!(origins.order(&edge, &key(1), at - SECOND), usual, "it rests longer");
        assert!(origins.rests(&usual[0], at - LONGEST_REST), "but not for ever");
        assert!(!origins.rests(&usual[0], at));
        origins.works("v", &usual[0]);
        assert_eq!(origins.order(&edge, &key(1), now + SECOND), usual);
        origins.ended(&usual[0], now + SECOND);
        assert_ne!(origins.order(&edge, &key(1), now + SECOND), usual, "it may be stopping");
        assert_eq!(origins.order(&edge, &key(1), now + SECOND + FIRST_REST), usual);
    }
}
