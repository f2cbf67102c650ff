//! HTTP backends: they are asked whether a client may come, and told of what happens.

mod client;

pub use client::{Client, Failure};
