//! Durations of one kind, in bounded memory however many there are.
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Buckets between a power of two and the next: a bucket is at most 1.6 % wide.
const PER_OCTAVE: u64 = 64;
/// Up to here every nanosecond has a bucket of its own.
const EXACT: u64 = PER_OCTAVE * 2;

/// How often each duration was seen.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    len: u64,
    max: Duration,
}

impl Histogram {
    /// Takes one more.
    pub fn push(&mut self, sample: Duration) {
        let at = bucket(u64::try_from(sample.as_nanos()).unwrap_or(u64::MAX));
        if self.counts.len() <= at {
            self.counts.resize(at + 1, 0);
        }
        if let Some(count) = self.counts.get_mut(at) {
            *count += 1;
        }
        self.len += 1;
        self.max = self.max.max(sample);
    }

    /// Takes all of `other`.
    pub fn extend(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(count, more)| *count += more);
        self.len += other.len;
        self.max = self.max.max(other.max);
    }

    /// How many there are.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// The duration that `percent` of all do not exceed, nearest rank; `None` without any.
    pub fn quantile(&self, percent: u64) -> Option<Duration> {
        let rank = (self.len * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let at = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(Duration::from_nanos(middle(at)).min(self.max))
    }

    /// 50th and 99th percentile and maximum, milliseconds; NaN without any.
    pub fn quantiles(&self) -> Quantiles {
        let millis = |found: Option<Duration>| found.map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
        let max = (self.len > 0).then_some(self.max);
        Quantiles {
            p50_ms: millis(self.quantile(50)),
            p99_ms: millis(self.quantile(99)),
            max_ms: millis(max),
        }
    }
}

fn bucket(nanos: u64) -> usize {
    let at = if nanos < EXACT {
        nanos
    } else {
        // Bits below those that tell the buckets of an octave apart.
        let shift = u64::from(nanos.ilog2() - PER_OCTAVE.ilog2());
        shift * PER_OCTAVE + (nanos >> shift)
    };
    usize::try_from(at).unwrap_or(usize::MAX)
}

/// The middle of what falls into bucket `at`, nanoseconds.
fn middle(at: usize) -> u64 {
    let at = at as u64;
    if at < EXACT {
        return at;
    }
    let shift = at / PER_OCTAVE - 1;
    let low = (at - shift * PER_OCTAVE) << shift;
    low + (1 << shift) / 2
}

/// Three numbers about many.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Median, milliseconds.
    pub p50_ms: f64,
    /// 99th percentile, milliseconds.
    pub p99_ms: f64,
    /// Maximum, milliseconds.
    pub max_ms: f64,
}

impl Quantiles {
    /// As shown.
    pub fn cells(&self) -> Vec<String> {
        let cell = |ms: &f64| if ms.is_nan() { "-".to_owned() } else { format!("{ms:.2}") };
        [self.p50_ms, self.p99_ms, self.max_ms].iter().map(cell).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_near_its_samples_and_buckets_are_in_order() {
        let mut last = 0;
        for nanos in (0..400).chain((1..60).map(|bit| (1 << bit) - 1)).chain([u64::MAX / 3]) {
            let found = middle(bucket(nanos));
            assert!(found.abs_diff(nanos) <= nanos / 64, "{nanos} became {found}");
        }
        for nanos in 0..100_000 {
            let at = bucket(nanos);
            assert!(at == last || at == last + 1, "{nanos}: {last} to {at}");
            last = at;
        }
    }

    #[test]
    fn quantiles_are_by_nearest_rank() {
        let mut some = Histogram::default();
        assert!(some.quantiles().p50_ms.is_nan() && some.quantiles().max_ms.is_nan());
        (1..=100).rev().for_each(|n| some.push(Duration::from_millis(n)));
        let mut more = Histogram::default();
        (101..=200).for_each(|n| more.push(Duration::from_millis(n)));
        some.extend(&more);
        let found = some.quantiles();
        assert_eq!((some.len(), found.max_ms), (200, 200.0));
        assert!((found.p50_ms - 100.0).abs() < 1.6, "{found:?}");
        assert!((found.p99_ms - 198.0).abs() < 3.2, "{found:?}");
        let mut one = Histogram::default();
        one.push(Duration::from_nanos(7));
        assert_eq!(one.quantile(50), Some(Duration::from_nanos(7)));
    }
}
