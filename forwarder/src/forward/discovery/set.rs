//! What a name stands for: the last answers of DNS, as far as they can be relied upon. Sans-IO.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// A name is asked for again after so long at least; answers may live for no time at all.
pub(super) const MIN_PAUSE: Duration = Duration::from_secs(1);

/// And at most: an address that is new shall not wait for a day.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(60);

/// Longest pause after failures; the first is [`MIN_PAUSE`], each further one is twice as long.
const MAX_FAILED_PAUSE: Duration = Duration::from_secs(30);

/// Most addresses of one name; more are left out.
pub(super) const MAX_ADDRESSES: usize = 256;

/// What DNS said of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// The hosts it stands for; itself, or what a service's records name.
    pub(super) hosts: Vec<Host>,
    /// How long all of this may be believed.
    pub(super) ttl: Duration,
}

/// A host, and what DNS said of its addresses of each kind. An empty list is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
    pub(super) v4: Result<Vec<IpAddr>, String>,
    pub(super) v6: Result<Vec<IpAddr>, String>,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    /// The host it is an address of.
    pub(crate) name: String,
    /// Where to dial.
    pub(crate) address: SocketAddr,
}

/// The addresses of a name.
#[derive(Debug, Default)]
pub(super) struct Set {
    found: BTreeSet<Found>,
    failures: u32,
    /// Why the last look-up failed, or a part of it; empty: it did not.
    error: String,
}

/// What an answer has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Update {
    pub(super) added: Vec<Found>,
    pub(super) gone: Vec<Found>,
    /// When to ask again.
    pub(super) pause: Duration,
    pub(super) news: News,
}

/// What is worth a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    /// The first failure in a row.
    Failing,
    /// An answer after failures.
    Recovered,
}

impl Set {
    /// Takes what came of a look-up. Nothing is taken away by a failure, by an empty answer, or by
    /// the half of an answer that did not come.
    pub(super) fn take(&mut self, answer: Result<Answer, String>) -> Update {
        let (next, ttl, error) = match answer {
            Ok(answer) => self.merged(&answer),
            Err(error) => (self.found.clone(), None, error),
        };
        let was_failing = !std::mem::replace(&mut self.error, error).is_empty();
        let news = match (was_failing, self.error.is_empty()) {
            (true, true) => News::Recovered,
            (false, false) => News::Failing,
            _ => News::None,
        };
        let pause = if let Some(ttl) = ttl {
            self.failures = 0;
            ttl.clamp(MIN_PAUSE, if self.error.is_empty() { MAX_PAUSE } else { MAX_FAILED_PAUSE })
        } else {
            let pause = MIN_PAUSE.saturating_mul(1 << self.failures.min(16));
            self.failures = self.failures.saturating_add(1);
            pause.min(MAX_FAILED_PAUSE)
        };
        let before = std::mem::replace(&mut self.found, next);
        let added = self.found.difference(&before).cloned().collect();
        let gone = before.difference(&self.found).cloned().collect();
        Update { added, gone, pause, news }
    }

    /// What is known with this answer, how long (`None`: it has no address in it), and what is
    /// missing from it.
    fn merged(&self, answer: &Answer) -> (BTreeSet<Found>, Option<Duration>, String) {
        let mut next: BTreeMap<(IpAddr, u16), Found> = BTreeMap::new();
        let (mut errors, mut ttl): (Vec<String>, _) = (Vec::new(), None);
        for host in &answer.hosts {
            let of_host =
                |found: &&Found| found.name == host.name && found.address.port() == host.port;
            let last: Vec<IpAddr> =
                self.found.iter().filter(of_host).map(|found| found.address.ip()).collect();
            let (mut now, mut half): (Vec<IpAddr>, bool) = (Vec::new(), false);
            for (kind, is_v4) in [(&host.v4, true), (&host.v6, false)] {
                match kind {
                    Ok(addresses) => {
                        ttl = ttl.or(Some(answer.ttl).filter(|_| !addresses.is_empty()));
                        now.extend(addresses);
                    }
                    Err(why) => {
                        errors.push(format!("{}: {why}", host.name));
                        half = true;
                        now.extend(last.iter().filter(|ip| ip.is_ipv4() == is_v4));
                    }
                }
            }
            if now.is_empty() && !half {
                errors.push(format!("{}: no address", host.name));
            }
            for ip in if now.is_empty() { last } else { now } {
                let address = SocketAddr::new(ip, host.port);
                let found = Found { name: host.name.clone(), address };
                next.entry((ip, host.port)).or_insert(found);
            }
        }
        if answer.hosts.is_empty() {
            errors.push("no records".to_owned());
        }
        if next.is_empty() {
            next.extend(
                self.found.iter().map(|it| ((it.address.ip(), it.address.port()), it.clone())),
            );
        }
        if next.len() > MAX_ADDRESSES {
            errors.push(format!("{} addresses, more than {MAX_ADDRESSES}", next.len()));
        }
        let error = errors.into_iter().next().unwrap_or_default();
        (next.into_values().take(MAX_ADDRESSES).collect(), ttl, error)
    }

    /// The addresses known.
    pub(super) fn found(&self) -> impl Iterator<Item = &Found> {
        self.found.iter()
    }

    /// Why the last look-up failed, or a part of it; empty: it did not.
    pub(super) fn error(&self) -> &str {
        &self.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &str) -> Vec<IpAddr> {
        list.split_whitespace().map(|ip| ip.parse().expect(ip)).collect()
    }

    fn host(name: &str, v4: &str, v6: &str) -> Host {
        Host { name: name.into(), port: 1935, v4: Ok(ips(v4)), v6: Ok(ips(v6)) }
    }

    fn answer(hosts: &[Host], ttl: u64) -> Result<Answer, String> {
        Ok(Answer { hosts: hosts.to_vec(), ttl: Duration::from_secs(ttl) })
    }

    fn shown<'a>(found: impl IntoIterator<Item = &'a Found>) -> String {
        let all: Vec<String> = found.into_iter().map(|it| it.address.ip().to_string()).collect();
        all.join(" ")
    }

    #[test]
    fn what_is_new_is_added_and_what_is_gone_is_gone() {
        let mut set = Set::default();
        let update = set.take(answer(&[host("a", "10.0.0.2 10.0.0.1", "")], 5));
        assert_eq!(shown(&update.added), "10.0.0.1 10.0.0.2");
        assert_eq!((update.gone.len(), update.pause.as_secs()), (0, 5));
        let update = set.take(answer(&[host("a", "10.0.0.2 10.0.0.3", "::1")], 5));
        assert_eq!(shown(&update.added), "10.0.0.3 ::1");
        assert_eq!(shown(&update.gone), "10.0.0.1");
        // In another order, and one of them twice.
        let update = set.take(answer(&[host("a", "10.0.0.3 10.0.0.2 10.0.0.3", "::1")], 5));
        assert_eq!((update.added.len(), update.gone.len()), (0, 0));
    }

    #[test]
    fn a_failure_or_nothing_takes_nothing_away() {
        let mut set = Set::default();
        set.take(answer(&[host("a", "10.0.0.1 10.0.0.2", "")], 5));
        let failures =
            [Err("time-out".to_owned()), answer(&[], 5), answer(&[host("a", "", "")], 5)];
        for (at, failure) in failures.into_iter().enumerate() {
            let update = set.take(failure);
            assert_eq!((update.added.len(), update.gone.len()), (0, 0));
            assert_eq!(shown(set.found()), "10.0.0.1 10.0.0.2");
            assert!(!set.error().is_empty());
            assert_eq!(update.pause.as_secs(), 1 << at, "it asks less and less often");
            let news = if at == 0 { News::Failing } else { News::None };
            assert_eq!(update.news, news, "one line");
        }
        let update = set.take(answer(&[host("a", "10.0.0.1", "")], 5));
        assert_eq!((update.news, shown(&update.gone)), (News::Recovered, "10.0.0.2".into()));
        assert_eq!(set.error(), "");
    }

    #[test]
    fn half_an_answer_takes_away_what_it_speaks_of_alone() {
        let mut set = Set::default();
        set.take(answer(&[host("a", "10.0.0.1", "::1"), host("b", "10.0.0.9", "")], 5));
        let half = Host { v6: Err("SERVFAIL".into()), ..host("a", "10.0.0.2", "") };
        let update = set.take(answer(&[half, host("b", "", "")], 5));
        assert_eq!(shown(&update.added), "10.0.0.2");
        assert_eq!(shown(&update.gone), "10.0.0.1");
        assert_eq!(shown(set.found()), "10.0.0.2 ::1 10.0.0.9");
        assert!(set.error().contains("SERVFAIL"));
        // A host that no record names any more is gone, whatever was known of it.
        let update = set.take(answer(&[host("b", "", "")], 5));
        assert_eq!(shown(&update.gone), "10.0.0.2 ::1");
    }

    #[test]
    fn answers_are_believed_within_bounds() {
        let mut set = Set::default();
        let pause = |set: &mut Set, ttl| set.take(answer(&[host("a", "10.0.0.1", "")], ttl)).pause;
        assert_eq!(pause(&mut set, 0), MIN_PAUSE);
        assert_eq!(pause(&mut set, 86_400), MAX_PAUSE);
        let many: Vec<String> = (0..300).map(|n| format!("10.0.{}.{}", n / 200, n % 200)).collect();
        let update = set.take(answer(&[host("a", &many.join(" "), "")], 1));
        assert_eq!((set.found().count(), update.news), (MAX_ADDRESSES, News::Failing));
        for _ in 0..40 {
            assert!(set.take(Err("no".into())).pause <= MAX_FAILED_PAUSE);
        }
    }

    #[test]
    fn an_address_that_two_hosts_have_is_one() {
        let mut set = Set::default();
        let update = set.take(answer(&[host("a", "10.0.0.1", ""), host("b", "10.0.0.1", "")], 5));
        assert_eq!(shown(&update.added), "10.0.0.1");
        let other_port = Host { port: 1936, ..host("b", "10.0.0.1", "") };
        let update = set.take(answer(&[host("a", "10.0.0.1", ""), other_port], 5));
        assert_eq!((update.added.len(), update.gone.len()), (1, 0));
    }
}
