//! Carries the bytes of 1:1 legs.
pub mod walk;
