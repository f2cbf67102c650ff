//! From clients to counts.
use std::collections::BTreeMap;
use std::time::Instant;

use super::crowd::{Crowd, Slot, State};
use super::fleet::Member;
use super::float;
use super::guest::Role;
use super::notes::Seen;
use super::report::{Delivery, Group, Join, MAX_ERRORS, MIN_DELIVERED, Probes};

/// Bytes of bodies published so far, by stream.
pub fn published(crowd: &Crowd) -> Vec<u64> {
    (0..).map_while(|stream| crowd.published(stream)).collect()
}

/// Counts of each kind that was asked for. `before`: what was published when the window began.
pub fn groups(crowd: &Crowd, before: &[u64]) -> Vec<Group> {
    let kinds = ["publishers", "players", "probes", "slow players", "stuck players"];
    let mut groups = Vec::new();
    for name in kinds {
        let slots = || crowd.slots().iter().filter(|slot| name_of(slot.role) == name);
        let asked = slots().count();
        if asked == 0 {
            continue;
        }
        let mut group = Group {
            name,
            asked,
            came: slots().filter(|slot| slot.joins > 0).count(),
            there: slots().filter(|slot| slot.state == State::There).count(),
            may_go: slots().all(|slot| matches!(slot.role, Role::Slow(_) | Role::Stuck)),
            refused: slots().map(|slot| slot.refused).sum(),
            closes: slots().map(|slot| slot.closes).sum(),
            reconnects: slots().map(|slot| slot.joins.saturating_sub(1)).sum(),
            errors: errors(slots()),
            ..Group::default()
        };
        let members = || members(crowd).filter(|(slot, _)| name_of(slot.role) == name);
        group.bytes = members().map(|(_, member)| member.window).sum();
        group.stalls = members().map(|(_, member)| member.stalls).sum();
        group.silent = members().filter(|(_, member)| is_silent(member)).count();
        match name {
            "publishers" => {
                let sent = published(crowd).into_iter().zip(before);
                group.bytes = sent.map(|(now, before)| now.saturating_sub(*before)).sum();
            }
            "probes" => {
                group.bytes = crowd.seen().wire();
                // They are told apart by nothing else: either all are fed or none counts.
                group.silent = if group.bytes == 0 { group.there } else { 0 };
            }
            _ => {}
        }
        groups.push(group);
    }
    groups
}

fn name_of(role: Role) -> &'static str {
    match role {
        Role::Publisher => "publishers",
        Role::Player => "players",
        Role::Probe => "probes",
        Role::Slow(_) => "slow players",
        Role::Stuck => "stuck players",
    }
}

/// Each player of the fleet with its slot.
fn members(crowd: &Crowd) -> impl Iterator<Item = (&Slot, &Member)> {
    let slots = crowd.slots();
    crowd.fleet.members().iter().filter_map(|member| Some((slots.get(member.slot)?, member)))
}

fn is_silent(member: &Member) -> bool {
    member.is_open() && member.window == 0 && member.role != Role::Stuck
}

fn errors<'a>(slots: impl Iterator<Item = &'a Slot>) -> BTreeMap<String, u64> {
    let mut errors = BTreeMap::new();
    for error in slots.filter_map(|slot| slot.error.as_ref()) {
        if errors.contains_key(error) || errors.len() < MAX_ERRORS {
            *errors.entry(error.clone()).or_default() += 1;
        }
    }
    errors
}

/// How players and probes joined, who began at `begun`.
pub fn join(crowd: &Crowd, begun: Instant) -> Option<Join> {
    let joins = &crowd.joins;
    let seconds = |end: Option<Instant>| {
        end.map_or(f64::NAN, |end| end.saturating_duration_since(begun).as_secs_f64())
    };
    joins.all_started?;
    Some(Join {
        joins: joins.started.len(),
        started_s: seconds(joins.all_started),
        keyframe_s: seconds(joins.all_keyframe),
        started: joins.started.quantiles(),
        frame: joins.frame.quantiles(),
        keyframe: joins.keyframe.quantiles(),
        keyframe_first: joins.keyframe_first,
        other_first: joins.other_first,
    })
}

/// What probes saw, if there are any.
pub fn probes(crowd: &Crowd) -> Option<Probes> {
    crowd.slots().iter().find(|slot| slot.role == Role::Probe)?;
    let seen = crowd.seen();
    Some(Probes {
        messages: seen.messages,
        gaps: seen.gaps,
        jumps: seen.jumps,
        damaged: seen.damaged,
        strayed: seen.strayed,
        foreign: seen.foreign,
        latency: seen.latency.quantiles(),
    })
}

/// Bytes that have come to all players that do not parse.
pub fn bytes_of_all(crowd: &Crowd) -> u64 {
    crowd.fleet.members().iter().map(|member| member.total).sum()
}

/// What each player got of what was published from its first keyframe on until now, or until it was
/// closed. `seen` by probes, who tell how many bytes on the wire a byte of payload is, which differs by
/// server.
pub fn delivery(crowd: &Crowd, seen: &Seen) -> Option<Delivery> {
    let wire_per_payload = seen.wire_per_payload()?;
    let mut unknown = 0;
    let mut players = Vec::new();
    for (slot, member) in members(crowd).filter(|(slot, _)| slot.role == Role::Player) {
        let stream = slot.target.stream;
        let (mut got, mut published) = member.before;
        if member.is_open() && crowd.published(stream).is_some() {
            match member.mark.and_then(|mark| crowd.published_since(stream, mark)) {
                Some(since) => (got, published) = (got + member.bytes, published + since),
                None => unknown += 1,
            }
        }
        players.push((float(published) * wire_per_payload, float(got)));
    }
    share(players.into_iter(), unknown)
}

/// Shares of pairs of what was due and what came.
fn share(players: impl Iterator<Item = (f64, f64)>, unknown: usize) -> Option<Delivery> {
    let shares: Vec<f64> =
        players.filter(|(due, _)| *due > 0.0).map(|(due, got)| got / due).collect();
    let first = shares.first()?;
    Some(Delivery {
        players: shares.len(),
        unknown,
        mean: shares.iter().sum::<f64>() / float(shares.len() as u64),
        worst: shares.iter().copied().fold(*first, f64::min),
        below: shares.iter().filter(|share| **share < MIN_DELIVERED).count(),
    })
}

/// How it goes, in short.
pub fn line(crowd: &Crowd) -> String {
    let slots = crowd.slots();
    let sum = |count: fn(&Slot) -> u64| slots.iter().map(count).sum::<u64>();
    let stalled = crowd.fleet.members().iter().filter(|member| member.is_stalled).count();
    let latency = crowd.seen().latency.quantiles();
    let mut line = format!(
        "{} of {} there  refused {}  closed {}  stalled {stalled}",
        crowd.count(State::There),
        slots.len(),
        sum(|slot| slot.refused),
        sum(|slot| slot.closes),
    );
    if latency.p50_ms.is_finite() {
        line += &format!("  latency p50 {:.1} p99 {:.1} ms", latency.p50_ms, latency.p99_ms);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_player_without_its_stream_is_seen_among_many() {
        let mut players = vec![(1000.0, 1000.0); 99];
        players.push((1000.0, 100.0));
        players.push((0.0, 0.0));
        let found = share(players.into_iter(), 2).unwrap();
        assert_eq!((found.players, found.below, found.worst), (100, 1, 0.1));
        assert_eq!(found.unknown, 2);
        assert!((found.mean - 0.991).abs() < 1e-9);
        assert!(share([(0.0, 5.0)].into_iter(), 0).is_none());
    }
}
