//! The load generator tells the truth: of a server that serves, and of those that do not.
mod common;

use std::path::PathBuf;
use std::process::Command;

use common::nginx::Nginx;
use common::process::{Process, xtask};
use common::server::Setup;
use common::{free_address, seconds, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A run of `xtask load` with `line` behind it.
struct Load {
    process: Process,
    json: PathBuf,
    _dir: tempfile::TempDir,
}

impl Load {
    fn start(line: &str) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let json = dir.path().join("load.json");
        let mut command = Command::new(xtask());
        command.args(["load", "--as-is", "--json"]).arg(&json).args(line.split_whitespace());
        let process = Process::spawn(dir.path(), "load", "the workspace", &mut command);
        Self { process, json, _dir: dir }
    }

    /// Its exit code and what it wrote.
    #[track_caller]
    fn finish(mut self) -> (Option<i32>, Value) {
        let code = self.process.wait(seconds(90)).code();
        let json = std::fs::read(&self.json);
        let json = json.unwrap_or_else(|e| panic!("no results: {e}\n{}", self.process.log()));
        (code, serde_json::from_slice(&json).expect("JSON"))
    }

    /// Lines it has said, one a second.
    fn lines(&self) -> usize {
        self.process.log().lines().count()
    }

    /// Waits until it has said `what`.
    #[track_caller]
    fn wait_said(&self, what: &str) {
        wait_until(what, seconds(60), || self.process.log().contains(what));
    }
}

fn group<'a>(report: &'a Value, name: &str) -> &'a Value {
    let groups = report["groups"].as_array().expect("groups");
    groups.iter().find(|group| group["name"] == name).unwrap_or_else(|| panic!("{name}: {report}"))
}

/// Whether a failure says all of `words`.
fn says(report: &Value, words: &[&str]) -> bool {
    let failures = report["failures"].as_array().expect("failures");
    failures.iter().filter_map(Value::as_str).any(|f| words.iter().all(|word| f.contains(word)))
}

#[test]
fn all_is_well_where_slow_and_stuck_players_are_left_behind() {
    let server = Setup::new().play("write_timeout = \"2s\"").start();
    // Some seconds of the stream fill what the kernel holds for a player that does not read.
    let line = "--publishers 3 --players 12 --slow 2:2M --stuck 2 --bitrate 10M --seconds 10";
    let load = Load::start(&format!("{} {line}", server.url("live/s{n}")));
    let (code, report) = load.finish();
    assert_eq!(code, Some(0), "{report:#}");
    for (name, asked) in [
        ("publishers", 3),
        ("players", 12),
        ("probes", 3),
        ("slow players", 2),
        ("stuck players", 2),
    ] {
        let group = group(&report, name);
        assert_eq!((&group["asked"], &group["came"]), (&asked.into(), &asked.into()), "{name}");
    }
    assert_eq!(report["delivery"]["players"], 12);
    assert!(report["delivery"]["worst"].as_f64().unwrap() > 0.98, "{report:#}");
    let probes = &report["probes"];
    assert!(probes["messages"].as_u64().unwrap() > 300, "{probes}");
    assert_eq!((&probes["damaged"], &probes["strayed"]), (&0.into(), &0.into()));
    let slow = group(&report, "slow players")["bytes"].as_u64().unwrap();
    let bits = slow as f64 * 8.0 / report["seconds"].as_f64().unwrap();
    assert!((2e6..=4.4e6).contains(&bits), "two slow players read {bits} bit/s");
    assert_eq!(group(&report, "stuck players")["bytes"], 0);
    assert!(group(&report, "stuck players")["closes"].as_u64().unwrap() > 0, "{report:#}");
}

#[test]
fn a_player_that_data_was_dropped_for_does_not_pass() {
    let server = Setup::new().play("queue_bytes = \"1MiB\"").start();
    let url = server.url("live/a");
    let line = "--publishers 1 --bitrate 40M --gop 25 --seconds 60";
    let publisher = Load::start(&format!("{url} {line}"));
    server.wait_live("live/a");
    let load = Load::start(&format!("{url} --streams 1 --players 2 --probes 1 --seconds 8"));
    load.wait_said(" s  3 of 3 there");
    // While nobody reads, the sockets fill and then the queue.
    load.process.signal(Signal::SIGSTOP);
    wait_until("the server drops", seconds(30), || server.status().totals.skips > 2);
    load.process.signal(Signal::SIGCONT);
    let (code, report) = load.finish();
    assert_eq!(code, Some(1), "{report:#}");
    assert!(says(&report, &["probes", "messages were missed"]), "{report:#}");
    publisher.process.signal(Signal::SIGINT);
    let (code, report) = publisher.finish();
    assert_eq!(code, Some(130), "{report:#}");
}

#[test]
fn what_a_server_takes_late_arrives_whole() {
    let server = Setup::new().start();
    let line = "--publishers 1 --players 2 --bitrate 25M --seconds 8";
    let load = Load::start(&format!("{} {line}", server.url("live/a")));
    load.wait_said(" s  6 of 6 there");
    // Longer than what the sockets hold; the rest of a message waits in the load.
    server.signal(Signal::SIGSTOP);
    let before = load.lines();
    wait_until("two seconds", seconds(20), || load.lines() >= before + 2);
    server.signal(Signal::SIGCONT);
    let (code, report) = load.finish();
    assert_eq!(code, Some(0), "{report:#}");
    let probes = &report["probes"];
    assert_eq!((&probes["gaps"], &probes["damaged"]), (&0.into(), &0.into()), "{report:#}");
    assert!(probes["latency"]["max_ms"].as_f64().unwrap() > 500.0, "it never stood still");
}

#[test]
fn a_server_that_dies_or_refuses_does_not_pass() {
    let mut server = Setup::new().start();
    let line = "--publishers 1 --players 5 --seconds 60";
    let load = Load::start(&format!("{} {line}", server.url("live/a")));
    load.wait_said(" s  9 of 9 there");
    server.kill();
    let (code, report) = load.finish();
    assert_eq!(code, Some(1), "{report:#}");
    assert!(says(&report, &["publishers", "1 of 1", "1 closed"]), "{report:#}");
    assert!(says(&report, &["players", "5 of 5", "5 closed"]), "{report:#}");
    assert!(report["seconds"].as_f64().unwrap() < 50.0, "nobody is left to wait for");

    let load = Load::start(&format!("rtmp://{}/live/a {line}", free_address()));
    let (code, report) = load.finish();
    assert_eq!(code, Some(1));
    assert!(says(&report, &["players", "5 of 5", "refused", "Connection refused"]), "{report:#}");
}

#[test]
fn an_app_that_is_not_there_and_a_stream_without_media_do_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(dir.path(), None);
    let good =
        Load::start(&format!("{} --publishers 2 --players 10 --seconds 4", nginx.url("{n}")));
    let (code, report) = good.finish();
    assert_eq!(code, Some(0), "{report:#}");

    let wrong = nginx.url("{n}").replace("/live/", "/nope/");
    let (code, report) = Load::start(&format!("{wrong} --publishers 2 --seconds 4")).finish();
    assert_eq!(code, Some(1));
    assert!(says(&report, &["publishers: 2 of 2"]), "{report:#}");

    let silent = nginx.url("silent");
    let (code, report) = Load::start(&format!("{silent} --players 2 --seconds 2")).finish();
    assert_eq!(code, Some(1));
    assert!(says(&report, &["players: 2 of 2", "no media within"]), "{report:#}");
}
