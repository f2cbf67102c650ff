//! Whether something grew or was left behind.
use super::Sample;
use super::clients::Counts;
use super::figures::Figures;
use crate::load::float;

/// Memory may differ so much between two times with the same load: more is growth. Bytes, and
/// parts of a hundred; the greater counts.
const SLACK: u64 = 4 << 20;
const SLACK_PERCENT: u64 = 10;
/// Less than these are not compared.
const LEAST_VALUES: usize = 4;
/// Threads that only wait for work may come and go.
const THREADS: u64 = 2;

/// What is wrong; nothing if all is well. `first`: before anybody came; `samples`: under load;
/// `rests`: when all had left.
pub fn judge(
    first: &Figures,
    samples: &[Sample],
    rests: &[Sample],
    clients: &Counts,
) -> Vec<String> {
    let mut wrong = Vec::new();
    for Sample { round, figures: rest, .. } in rests {
        if !rest.is_empty() {
            wrong.push(format!("round {round}: all had left, but there is {rest:?}"));
        }
        if rest.fds > first.fds {
            wrong.push(format!("round {round}: {} open files, at first {}", rest.fds, first.fds));
        }
        if rest.threads > first.threads + THREADS {
            wrong.push(format!(
                "round {round}: {} threads, at first {}",
                rest.threads, first.threads
            ));
        }
    }
    for (what, samples) in [("under load", samples), ("at rest", rests)] {
        let of = |what: fn(&Figures) -> u64| -> Vec<u64> {
            samples.iter().map(|sample| what(&sample.figures)).collect()
        };
        wrong.extend(growth(&format!("RSS {what}"), &of(|figures| figures.rss)));
        wrong.extend(growth(&format!("anonymous memory {what}"), &of(|figures| figures.anon)));
    }
    if clients.played * 2 < clients.plays || clients.published * 10 < clients.publishes * 9 {
        wrong.push(format!("the load is none: {clients}"));
    }
    wrong
}

/// Compares the medians of the second half's halves: in the first half memory is still being
/// warmed up. Of few values nothing can be said.
fn growth(what: &str, bytes: &[u64]) -> Option<String> {
    let second = bytes.get(bytes.len() / 2..).filter(|second| second.len() >= LEAST_VALUES)?;
    let (early, late) = second.split_at(second.len() / 2);
    let (early, late) = (median(early)?, median(late)?);
    let slack = SLACK.max(early * SLACK_PERCENT / 100);
    let mib = |bytes: u64| float(bytes) / 1_048_576.0;
    (late > early + slack).then(|| {
        format!(
            "{what} grew from {:.1} to {:.1} MiB; {:.1} would be well",
            mib(early),
            mib(late),
            mib(slack)
        )
    })
}

fn median(values: &[u64]) -> Option<u64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn what_grows_is_found_and_what_varies_is_not() {
        let steady: Vec<u64> = (0..100).map(|n| (30 + n % 5) * MIB).collect();
        assert_eq!(growth("RSS", &steady), None);
        let warming: Vec<u64> = (0..100).map(|n| (20 + n.min(40)) * MIB).collect();
        assert_eq!(growth("RSS", &warming), None);
        let growing: Vec<u64> = (0..100).map(|n| (30 + n / 2) * MIB).collect();
        assert!(growth("RSS", &growing).unwrap().contains("grew from 61.0 to 73.0 MiB"));
        assert_eq!(growth("RSS", &[]), None);
        assert_eq!(growth("RSS", &growing[..7]), None);
        let few: Vec<u64> = (0..8).map(|n| n * 10 * MIB).collect();
        assert!(growth("RSS", &few).is_some());
    }

    #[test]
    fn what_is_left_behind_is_wrong() {
        let first = Figures { fds: 20, threads: 4, ..Figures::default() };
        let rest = |figures| vec![Sample { at: 1, round: 1, figures }];
        let clients = Counts::default();
        let judged = |rest: &[Sample]| judge(&first, &[], rest, &clients).join("\n");
        assert_eq!(judged(&rest(first.clone())), "");
        assert!(judged(&rest(Figures { fds: 21, ..first.clone() })).contains("21 open files"));
        assert!(judged(&rest(Figures { streams: 1, ..first.clone() })).contains("all had left"));
        assert!(judged(&rest(Figures { unsent: 9, ..first.clone() })).contains("all had left"));
        assert!(judged(&rest(Figures { threads: 7, ..first.clone() })).contains("7 threads"));
        let idle = Counts { plays: 10, played: 2, ..clients };
        assert!(!judge(&first, &[], &[], &idle).is_empty());
    }
}
