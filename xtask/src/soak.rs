//! `cargo xtask soak`: the same load for as long as one likes, and what must not happen meanwhile.
mod memory;
mod splice;

use anyhow::Result;

use crate::{process, release};

/// What to soak.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand)]
enum What {
    /// 1:1 legs, in the kernel and in user space: every byte is compared.
    Splice(splice::Args),
    /// A server whose clients come and go: nothing may grow or be left behind.
    Memory(memory::Args),
}

/// Runs the command.
pub fn run(args: &Args) -> Result<()> {
    release::ensure()?;
    process::catch_interrupt()?;
    match &args.what {
        What::Splice(args) => splice::run(args),
        What::Memory(args) => memory::run(args),
    }
}
