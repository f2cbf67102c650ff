//! Gives `--version` the git hash, when the sources are a checkout and git is there.
use std::path::Path;
use std::process::Command;

fn main() {
    let suffix = git(&["rev-parse", "--short=10", "HEAD"])
        .map_or_else(String::new, |hash| format!(" (git {hash})"));
    println!("cargo::rustc-env=FORWARDER_GIT_SUFFIX={suffix}");
    println!("cargo::rerun-if-changed=build.rs");
    // The log of HEAD grows with every commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
}

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned()).filter(|text| !text.is_empty())
}
