//! `cargo xtask load`: players and publishers by the thousand for any RTMP server, in one process.
//!
//! Those that only count are swept (`fleet`), those that parse wait on epoll (`engine`), and few
//! threads publish (`publishers`). What is published has an order and lengths that are known, so
//! what a player should have got is known to the byte without parsing it (`stream`). `sinks` are slaves
//! that a server forwards to: fed like players.

mod args;
pub mod cost;
pub mod crowd;
pub mod engine;
mod ffmpeg;
pub mod fleet;
pub mod guest;
pub mod histogram;
pub mod host;
pub mod link;
pub mod notes;
pub mod publishers;
pub mod report;
mod run;
pub mod sinks;
pub mod stream;
pub mod tally;

pub use args::Args;
pub use run::run;

/// For people.
#[expect(clippy::cast_precision_loss, reason = "shown with a few digits")]
pub fn float(n: u64) -> f64 {
    n as f64
}
