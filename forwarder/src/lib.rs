//! An RTMP origin, forwarder and edge.
//!
//! `ARCHITECTURE.md` at the repository's root has the bird's-eye view and the invariants. Modules
//! may import only downwards: `rtmp <- hub <- conn <- {forward <- edge, http} <- cli`, and `config` may be
//! read by all but `rtmp` and `hub`; `cargo xtask tidy` holds these walls.
#![deny(unsafe_code)]

pub mod access;
pub mod cli;
pub mod config;
pub mod conn;
pub mod edge;
pub mod forward;
pub mod hooks;
pub mod http;
pub mod hub;
pub mod look_ups;
pub mod privilege;
pub mod rtmp;
pub mod server;
#[expect(unsafe_code, reason = "socket options and maps that only the kernel understands")]
pub mod splice;
pub mod status;
pub mod telemetry;
pub mod tls;

/// The program's version, with the git hash if it was built from a checkout.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), env!("FORWARDER_GIT_SUFFIX"));
