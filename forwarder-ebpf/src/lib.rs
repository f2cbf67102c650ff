//! Types that the kernel program and user space share.
//!
//! The sockmap program splices one established socket to another so that the bytes of a 1:1 leg
//! (edge player <- slave, edge publisher -> master) move inside the kernel. This crate is its home:
//! this library holds the `repr(C)` keys and values of its maps, `src/main.rs` the programs.
//! Nothing is spliced yet: a server today carries every leg in user space.
#![no_std]
#![forbid(unsafe_code)]
