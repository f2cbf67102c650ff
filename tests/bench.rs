//! The report of `cargo xtask bench`: what it says of servers that serve, and of one that loses bytes.
mod common;

use std::path::Path;
use std::process::Command;

use common::process::{Process, xtask};
use common::seconds;
use serde_json::Value;

/// Runs it in `dir` with the words of `line`; gives its exit code, what it kept, and its page.
#[track_caller]
fn report(dir: &Path, line: &str) -> (Option<i32>, Value, String) {
    let json = dir.join("report.json");
    let mut command = Command::new(xtask());
    command.args(["bench", "--json"]).arg(&json).args(["report", "--as-is", "--quick", "--page"]);
    command.arg(dir).args(line.split_whitespace());
    let mut process = Process::spawn(dir, "report", "the workspace", &mut command);
    let code = process.wait(seconds(240)).code();
    let read = |path: &Path| {
        let bytes = std::fs::read_to_string(path);
        bytes.unwrap_or_else(|e| panic!("{}: {e}\n{}", path.display(), process.log()))
    };
    let kept = serde_json::from_str(&read(&json)).expect("JSON");
    (code, kept, read(&dir.join("bench.md")))
}

/// What a server gave in a row.
fn figures<'a>(kept: &'a Value, row: &str, server: &str) -> &'a Value {
    let turns = kept["turns"].as_array().expect("turns");
    let is_it = |turn: &&Value| turn["server"] == server && turn["scenario"].get(row).is_some();
    let turn = turns.iter().find(is_it).unwrap_or_else(|| panic!("{row} of {server}: {kept:#}"));
    turn["outcome"].get("Ok").unwrap_or_else(|| panic!("{row} of {server}: {turn:#}"))
}

#[test]
fn servers_that_serve_have_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let line =
        "--rows players-50,forward,publish --seconds 2 --variant now=vhost.play.audio_hold=\"0s\"";
    let (code, kept, page) = report(dir.path(), line);
    assert_eq!(code, Some(0), "{kept:#}");
    for (row, server) in [
        ("play", "ours"),
        ("play", "ours+now"),
        ("play", "nginx-rtmp"),
        ("play", "floor"),
        ("forward", "ours"),
        ("forward", "nginx-rtmp"),
        ("publish", "ours"),
        ("publish", "nginx-rtmp"),
    ] {
        let figures = figures(&kept, row, server);
        assert!(figures["delivered"].as_f64().unwrap() >= 0.98, "{row} of {server}: {figures:#}");
        for kind in ["video", "audio"] {
            assert!(
                figures[kind]["samples"].as_u64().unwrap() > 20,
                "{row} of {server}: {figures:#}"
            );
        }
        assert_eq!(figures["wrong"], 0, "{row} of {server}: {figures:#}");
    }
    // Audio waits for video in the one and not in the other.
    let audio = |server| figures(&kept, "play", server)["audio"]["p50"].as_f64().unwrap();
    assert!(audio("ours") > audio("ours+now"), "{kept:#}");
    for expected in
        ["## Aims", "`players-50`", "`forward-2x4`", "| ours+now |", "ours / nginx-rtmp: CPU"]
    {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    let svg = std::fs::read_to_string(dir.path().join("bench-latency.svg")).unwrap();
    assert!(svg.contains("<circle"), "{svg}");
}

#[test]
fn a_server_that_loses_bytes_does_not_pass() {
    let dir = tempfile::tempdir().unwrap();
    let line = "--rows players-50 --servers floor --floor-loses 8 --seconds 2";
    let (code, kept, page) = report(dir.path(), line);
    assert_eq!(code, Some(1), "{kept:#}");
    let floor = figures(&kept, "play", "floor");
    assert!(floor["delivered"].as_f64().unwrap() < 0.98, "{floor:#}");
    assert_eq!(floor["below"], 50, "{floor:#}");
    assert!(floor["gaps"].as_u64().unwrap() > 0, "{floor:#}");
    assert!(page.contains("**void: delivered"), "{page}");

    // The page of what was kept is the same.
    let again = tempfile::tempdir().unwrap();
    let mut command = Command::new(xtask());
    command.args(["bench", "report", "--from"]).arg(dir.path().join("report.json"));
    assert!(command.arg("--page").arg(again.path()).status().unwrap().success());
    assert_eq!(std::fs::read_to_string(again.path().join("bench.md")).unwrap(), page);
}
