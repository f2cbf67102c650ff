//! Builds, runs, tests and measures forwarder: `cargo xtask <command>`.
fn main() {}
