//! What became of a load: counts, the verdict, a table for people and JSON for programs.
use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Serialize;

use super::ffmpeg::Went;
use super::float;
use super::histogram::Quantiles;

/// Below this share of what was published a player did not get its stream.
pub const MIN_DELIVERED: f64 = 0.98;
/// If 1 % of the messages leave later than this, latencies are the load's own.
const LATE_MS: f64 = 20.0;
/// An ffmpeg that played less than this share of the window did not play.
const MIN_PLAYED: f64 = 0.80;
/// Different errors of a group that are kept.
pub const MAX_ERRORS: usize = 10;

/// All of it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Where players and publishers went.
    pub urls: Vec<String>,
    /// Length of the window, in which everybody was to be there.
    pub seconds: f64,
    /// By what they were there for.
    pub groups: Vec<Group>,
    /// How players and probes joined; none without any.
    pub join: Option<Join>,
    /// What probes saw in the window; none without any.
    pub probes: Option<Probes>,
    /// Of what was published.
    pub delivery: Option<Delivery>,
    /// How late our own messages left in the window; none without publishers.
    pub lateness: Option<Quantiles>,
    /// Each ffmpeg.
    pub ffmpeg: Ffmpeg,
    /// What the load itself cost.
    pub load: Load,
    /// What was not as asked; empty: all was.
    pub failures: Vec<String>,
    /// What a reader must know beside the numbers.
    pub remarks: Vec<String>,
}

/// Clients of one kind.
#[derive(Debug, Default, Serialize)]
pub struct Group {
    /// Which.
    pub name: &'static str,
    /// To be there.
    pub asked: usize,
    /// There at least once.
    pub came: usize,
    /// There at the end of the window.
    pub there: usize,
    /// Whether those that went may be gone: servers close players that do not keep up.
    pub may_go: bool,
    /// Attempts that failed.
    pub refused: u64,
    /// Connections that were lost.
    pub closes: u64,
    /// Times that somebody came back.
    pub reconnects: u64,
    /// Bytes of media in the window; for publishers of bodies, else on the wire.
    pub bytes: u64,
    /// Players that got nothing in the window.
    pub silent: usize,
    /// Times in the window that a player had no data for more than a second.
    pub stalls: u64,
    /// Why, and how often.
    pub errors: BTreeMap<String, u64>,
}

/// How players and probes joined; times are from before the TCP connect.
#[derive(Debug, Serialize)]
pub struct Join {
    /// Joins.
    pub joins: u64,
    /// From the first connect until the server had agreed to all, seconds.
    pub started_s: f64,
    /// From the first connect until all had a keyframe, seconds.
    pub keyframe_s: f64,
    /// Until the server agreed.
    pub started: Quantiles,
    /// Until the first frame was complete.
    pub frame: Quantiles,
    /// Until the first keyframe was complete.
    pub keyframe: Quantiles,
    /// Players whose first video frame was a keyframe.
    pub keyframe_first: u64,
    /// Players whose first video frame was another.
    pub other_first: u64,
}

/// What probes saw.
#[derive(Debug, Serialize)]
pub struct Probes {
    /// Stamped messages.
    pub messages: u64,
    /// Stamped messages that never came, between two others.
    pub gaps: u64,
    /// Jumps in the time of streams without stamps.
    pub jumps: u64,
    /// Stamped messages with other bytes than were sent.
    pub damaged: u64,
    /// Messages of another stream than was asked for.
    pub strayed: u64,
    /// Messages from another host, which tell no latency.
    pub foreign: u64,
    /// Publisher to probe.
    pub latency: Quantiles,
}

/// Of what was published from each player's first keyframe on.
#[derive(Debug, Serialize)]
pub struct Delivery {
    /// Players it is known of.
    pub players: usize,
    /// Connections of others, which began without a keyframe.
    pub unknown: usize,
    /// Mean share.
    pub mean: f64,
    /// The worst player's.
    pub worst: f64,
    /// Players below [`MIN_DELIVERED`].
    pub below: usize,
}

/// What ffmpegs did.
#[derive(Debug, Default, Serialize)]
pub struct Ffmpeg {
    /// Who played.
    pub players: Vec<Went>,
    /// Who published.
    pub publishers: Vec<Went>,
}

/// What the load itself cost.
#[derive(Debug, Default, Serialize)]
pub struct Load {
    /// Processor time in the window, percent of one core.
    pub cpu_percent: f64,
    /// The same for each second of each client, microseconds.
    pub cpu_us_per_client_second: f64,
    /// The busiest thread.
    pub busiest: String,
    /// Its processor time, percent of one core.
    pub busiest_percent: f64,
    /// Why it may have been the limit.
    pub full: Option<String>,
}

impl Report {
    /// Fills in failures and remarks.
    pub fn judge(&mut self) {
        let mut failures = Vec::new();
        self.groups.iter().for_each(|group| group.judge(&mut failures));
        if let Some(delivery) = &self.delivery
            && (delivery.mean < MIN_DELIVERED || delivery.below > 0)
        {
            failures.push(format!(
                "delivery: {} of {} players got less than {:.0} % of what was published (mean \
                 {:.4}, worst {:.4})",
                delivery.below,
                delivery.players,
                MIN_DELIVERED * 100.0,
                delivery.mean,
                delivery.worst
            ));
        }
        if let Some(probes) = &self.probes {
            probes.judge(&mut failures);
        }
        let ours = [("player", &self.ffmpeg.players), ("publisher", &self.ffmpeg.publishers)];
        for (what, all) in ours {
            for (n, went) in all.iter().enumerate() {
                failures.extend(
                    went.failure(self.seconds).map(|why| format!("ffmpeg {what} {n}: {why}")),
                );
            }
        }
        self.failures.extend(failures);
        self.remarks.extend(self.load.full.clone());
        match self.delivery.as_ref().map(|delivery| delivery.unknown) {
            None if self.lateness.is_some() && self.has("players") => {
                let what = "delivery is not known: it takes a probe that gets media";
                self.remarks.push(what.to_owned());
            }
            Some(unknown @ 1..) => self.remarks.push(format!(
                "delivery to {unknown} players is not known: they got no keyframe in time"
            )),
            _ => {}
        }
        if let Some(late) = self.lateness.filter(|late| late.p99_ms > LATE_MS) {
            self.remarks.push(format!(
                "1 % of what was published left over {:.0} ms late: the load was the bottleneck, \
                 and latencies may be its own",
                late.p99_ms
            ));
        }
        if self.probes.as_ref().is_some_and(|probes| probes.foreign > 0) {
            self.remarks.push("streams of another host: latency is not known".to_owned());
        }
    }

    fn has(&self, group: &str) -> bool {
        self.groups.iter().any(|one| one.name == group)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<16}{:>7}{:>7}{:>7}{:>9}{:>8}{:>7}{:>10}{:>8}{:>8}",
            "", "asked", "came", "there", "refused", "closed", "back", "Mbit/s", "stalls", "silent"
        );
        for group in &self.groups {
            let _ = writeln!(
                text,
                "{:<16}{:>7}{:>7}{:>7}{:>9}{:>8}{:>7}{:>10.2}{:>8}{:>8}",
                group.name,
                group.asked,
                group.came,
                group.there,
                group.refused,
                group.closes,
                group.reconnects,
                float(group.bytes) * 8.0 / 1e6 / self.seconds.max(1e-9),
                group.stalls,
                group.silent,
            );
            for (error, times) in &group.errors {
                let _ = writeln!(text, "    {times} x {error}");
            }
        }
        self.write_join(&mut text);
        self.write_probes(&mut text);
        self.write_ffmpeg(&mut text);
        let load = &self.load;
        let _ = writeln!(
            text,
            "the load itself: {:.1} % of a core, {:.1} us for each client and second, busiest \
             thread {} with {:.1} %",
            load.cpu_percent, load.cpu_us_per_client_second, load.busiest, load.busiest_percent
        );
        self.remarks.iter().for_each(|remark| text += &format!("note: {remark}\n"));
        text
    }

    fn write_join(&self, text: &mut String) {
        let Some(join) = &self.join else { return };
        let _ = writeln!(
            text,
            "join: {}, agreed to in {:.2} s ({:.0}/s), with a keyframe in {:.2} s; first frame a \
             keyframe {}, another {}\n{:<16}{:>10}{:>10}{:>10}",
            join.joins,
            join.started_s,
            float(join.joins) / join.started_s,
            join.keyframe_s,
            join.keyframe_first,
            join.other_first,
            "",
            "p50 ms",
            "p99 ms",
            "max ms"
        );
        row(text, "  agreed", &join.started);
        row(text, "  first frame", &join.frame);
        row(text, "  keyframe", &join.keyframe);
    }

    fn write_probes(&self, text: &mut String) {
        if let Some(probes) = &self.probes {
            row(text, "latency", &probes.latency);
        }
        if let Some(lateness) = &self.lateness {
            row(text, "sent late", lateness);
        }
        if let Some(probes) = &self.probes {
            let _ = writeln!(
                text,
                "probes: {} stamped messages, {} missed, {} damaged, {} of other streams; {} jumps \
                 in time",
                probes.messages, probes.gaps, probes.damaged, probes.strayed, probes.jumps
            );
        }
        let _ = match &self.delivery {
            Some(delivery) => writeln!(
                text,
                "delivered of what was published: mean {:.4}, worst {:.4}, of {} players",
                delivery.mean, delivery.worst, delivery.players
            ),
            None if self.has("players") => {
                writeln!(text, "delivered of what was published: not known")
            }
            None => Ok(()),
        };
    }

    fn write_ffmpeg(&self, text: &mut String) {
        let ours = [("players", &self.ffmpeg.players), ("publishers", &self.ffmpeg.publishers)];
        for (what, all) in ours.into_iter().filter(|(_, all)| !all.is_empty()) {
            let least = all.iter().map(|went| went.media_s).fold(f64::INFINITY, f64::min);
            let frames: u64 = all.iter().map(|went| went.frames).sum();
            let ended = all.iter().filter(|went| went.ended.is_some()).count();
            let _ = writeln!(
                text,
                "ffmpeg {what}: {}, {ended} ended early, {frames} frames, {least:.1} s of media at \
                 least in {:.1} s",
                all.len(),
                self.seconds
            );
        }
    }
}

impl Group {
    fn judge(&self, out: &mut Vec<String>) {
        let first = self.errors.keys().next();
        let why = first.map(|error| format!(": {error}")).unwrap_or_default();
        let missing = self.asked.saturating_sub(if self.may_go { self.came } else { self.there });
        if missing > 0 {
            let when = if self.may_go { "never came" } else { "were not there at the end" };
            out.push(format!(
                "{}: {missing} of {} {when} ({} refused, {} closed){why}",
                self.name, self.asked, self.refused, self.closes
            ));
        }
        if self.silent > 0 && !self.may_go {
            out.push(format!("{}: {} of {} got nothing", self.name, self.silent, self.asked));
        }
    }
}

impl Probes {
    fn judge(&self, out: &mut Vec<String>) {
        let published = self.messages + self.gaps;
        if float(self.messages) < float(published) * MIN_DELIVERED {
            out.push(format!("probes: {} of {published} messages were missed", self.gaps));
        }
        if self.damaged > 0 {
            out.push(format!("probes: {} messages had other bytes than were sent", self.damaged));
        }
        if self.strayed > 0 {
            out.push(format!("probes: {} messages were of another stream", self.strayed));
        }
    }
}

impl Went {
    fn failure(&self, seconds: f64) -> Option<String> {
        if let Some(why) = &self.ended {
            return Some(why.clone());
        }
        (self.media_s < seconds * MIN_PLAYED)
            .then(|| format!("{:.1} s of media in {seconds:.1} s", self.media_s))
    }
}

fn row(text: &mut String, name: &str, quantiles: &Quantiles) {
    let cells = quantiles.cells().iter().map(|cell| format!("{cell:>10}")).collect::<String>();
    let _ = writeln!(text, "{name:<16}{cells}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAST: Quantiles = Quantiles { p50_ms: 0.1, p99_ms: 1.0, max_ms: 2.0 };

    fn group(name: &'static str) -> Group {
        Group { name, asked: 10, came: 10, there: 10, bytes: 1, ..Group::default() }
    }

    fn good() -> Report {
        let probes = Probes {
            messages: 1000,
            gaps: 0,
            jumps: 0,
            damaged: 0,
            strayed: 0,
            foreign: 0,
            latency: FAST,
        };
        let went = Went { frames: 250, media_s: 9.9, ended: None };
        Report {
            seconds: 10.0,
            groups: vec![group("players"), Group { may_go: true, there: 0, ..group("stuck") }],
            probes: Some(probes),
            delivery: Some(Delivery { players: 10, unknown: 0, mean: 1.0, worst: 0.99, below: 0 }),
            lateness: Some(FAST),
            ffmpeg: Ffmpeg { players: vec![went], publishers: Vec::new() },
            ..Report::default()
        }
    }

    #[test]
    fn what_is_not_as_asked_fails_and_says_what() {
        let mut report = good();
        report.judge();
        assert_eq!((report.failures.len(), report.remarks.len()), (0, 0), "{:?}", report.failures);
        type Damage = fn(&mut Report);
        let table: [(&str, Damage); 9] = [
            ("players: 1 of 10 were not there", |r| r.groups[0].there = 9),
            ("players: 2 of 10 got nothing", |r| r.groups[0].silent = 2),
            ("stuck: 3 of 10 never came", |r| r.groups[1].came = 7),
            ("mean 0.9700", |r| r.delivery.as_mut().unwrap().mean = 0.97),
            ("1 of 10 players got less", |r| r.delivery.as_mut().unwrap().below = 1),
            ("100 of 1100 messages were missed", |r| r.probes.as_mut().unwrap().gaps = 100),
            ("other bytes than were sent", |r| r.probes.as_mut().unwrap().damaged = 1),
            ("of another stream", |r| r.probes.as_mut().unwrap().strayed = 1),
            ("ffmpeg player 0: 5.0 s of media", |r| r.ffmpeg.players[0].media_s = 5.0),
        ];
        for (expected, damage) in table {
            let mut report = good();
            damage(&mut report);
            report.judge();
            let said = report.failures.join("\n");
            assert!(report.failures.len() == 1 && said.contains(expected), "{expected}: {said}");
        }
    }

    #[test]
    fn a_late_load_says_that_it_was_the_bottleneck() {
        let mut report = good();
        report.lateness = Some(Quantiles { p99_ms: 50.0, ..FAST });
        report.judge();
        assert!(report.failures.is_empty() && report.remarks[0].contains("bottleneck"));
        assert!(report.table().contains("note: 1 % of what was published"));
    }
}
