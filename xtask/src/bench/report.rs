//! Results: a table for people, JSON for programs, and the verdict.
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::servers::Kind;
use crate::load::histogram::Quantiles;
use crate::process;

/// One turn's results.
pub trait Row: Serialize {
    /// Column heads, in the order of [`Self::cells`].
    const HEADS: &'static [&'static str];
    /// Values as shown.
    fn cells(&self) -> Vec<String>;
    /// Numbers to compare between servers; less is better.
    fn figures(&self) -> Vec<(&'static str, f64)>;
    /// Why the row does not count, if so.
    fn void(&self) -> Option<String> {
        None
    }
    /// What a reader must know beside the numbers.
    fn remark(&self) -> Option<String> {
        None
    }
}

#[derive(Serialize)]
struct Entry<R> {
    server: &'static str,
    round: u32,
    #[serde(flatten)]
    row: R,
}

/// Measures turn by turn, prints each row as it comes; fails if one is void.
pub fn run<R: Row>(
    turns: impl Iterator<Item = (u32, Kind)>,
    json: Option<&Path>,
    mut measure: impl FnMut(Kind) -> Result<R>,
) -> Result<()> {
    let mut entries = Vec::new();
    let mut voids = Vec::new();
    let heads = R::HEADS.iter().map(|head| format!("{head:>11}")).collect::<String>();
    println!("{:<10}{:>6}{heads}", "server", "round");
    for (round, kind) in turns {
        process::check_interrupt()?;
        let row = measure(kind).with_context(|| kind.name())?;
        let cells = row.cells().iter().map(|cell| format!("{cell:>11}")).collect::<String>();
        println!("{:<10}{:>6}{cells}", kind.name(), round + 1);
        if let Some(remark) = row.remark() {
            println!("          {remark}");
        }
        voids.extend(row.void().map(|why| format!("{} round {}: {why}", kind.name(), round + 1)));
        entries.push(Entry { server: kind.name(), round: round + 1, row });
    }
    for line in ratios(&entries) {
        println!("{line}");
    }
    if let Some(path) = json {
        fs::write(path, serde_json::to_vec_pretty(&entries)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if !voids.is_empty() {
        bail!("{}", voids.join("\n"));
    }
    Ok(())
}

/// Ours over the peer's, round by round: what may be quoted from a noisy machine.
fn ratios<R: Row>(entries: &[Entry<R>]) -> Vec<String> {
    let of = |kind: Kind| entries.iter().filter(move |entry| entry.server == kind.name());
    let rounds: Vec<_> = of(Kind::Forwarder).zip(of(Kind::Nginx)).collect();
    let names = rounds.first().map(|(ours, _)| ours.row.figures()).unwrap_or_default();
    let line = |(at, (name, _)): (usize, &(&str, f64))| {
        let ratio = |(ours, peer): &(&Entry<R>, &Entry<R>)| {
            let value = |entry: &Entry<R>| entry.row.figures().get(at).map_or(f64::NAN, |f| f.1);
            value(ours) / value(peer)
        };
        let each = rounds.iter().map(|round| format!("{:.2}", ratio(round))).collect::<Vec<_>>();
        format!("{name}: ours / the peer's, by round: {}", each.join(", "))
    };
    names.iter().enumerate().map(line).collect()
}

/// Durations of one kind.
#[derive(Default)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// Takes one more.
    pub fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// 50th and 99th percentile and maximum, milliseconds.
    pub fn quantiles(&mut self) -> Quantiles {
        self.0.sort_unstable();
        let last = self.0.len().saturating_sub(1);
        // The nearest rank.
        let at =
            |percent: usize| (self.0.len() * percent).div_ceil(100).saturating_sub(1).min(last);
        let millis = |at: usize| self.0.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3);
        Quantiles { p50_ms: millis(at(50)), p99_ms: millis(at(99)), max_ms: millis(last) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Cost(f64);

    impl Row for Cost {
        const HEADS: &'static [&'static str] = &[];

        fn cells(&self) -> Vec<String> {
            Vec::new()
        }

        fn figures(&self) -> Vec<(&'static str, f64)> {
            vec![("cost", self.0)]
        }
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        let entry = |kind: Kind, cost| Entry { server: kind.name(), round: 1, row: Cost(cost) };
        let (ours, peer) = (Kind::Forwarder, Kind::Nginx);
        let entries = [entry(ours, 1.0), entry(peer, 2.0), entry(ours, 3.0), entry(peer, 2.0)];
        assert_eq!(ratios(&entries), ["cost: ours / the peer's, by round: 0.50, 1.50"]);
        assert!(ratios(&entries[..1]).is_empty());
    }

    #[test]
    fn quantiles_are_samples() {
        let mut samples = Samples::default();
        (1..=200).rev().for_each(|n| samples.push(Duration::from_millis(n)));
        let expected = Quantiles { p50_ms: 100.0, p99_ms: 198.0, max_ms: 200.0 };
        assert_eq!(samples.quantiles(), expected);
        let mut one = Samples::default();
        one.push(Duration::from_millis(3));
        assert_eq!(one.quantiles(), Quantiles { p50_ms: 3.0, p99_ms: 3.0, max_ms: 3.0 });
        assert!(Samples::default().quantiles().p50_ms.is_nan());
    }
}
