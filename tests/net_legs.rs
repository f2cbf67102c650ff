//! Legs alone.
mod common;
