//! Builds, runs, tests and measures forwarder: `cargo xtask <command>`.
#![forbid(unsafe_code)]

mod bench;
mod client;
mod cluster;
mod ebpf;
mod flv_file;
mod http;
mod load;
mod net;
mod packages;
mod process;
mod publish;
mod python;
mod release;
mod run;
mod setup;
mod soak;
mod table;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, runs, tests and measures forwarder.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Build and start a master and four slaves with real video, and watch them.
    Run(run::Args),
    /// Format, house rules, lints and all tests, with what they need.
    Test(test::Args),
    /// Check the house rules of ARCHITECTURE.md.
    Tidy,
    /// Install what tests need, and say what cannot be built here.
    Setup,
    /// Build the kernel program, getting the tools for it if we may.
    Ebpf(ebpf::Args),
    /// Measure latency, join time or fan-out, beside nginx-rtmp if wanted.
    Bench(bench::Args),
    /// Many players and publishers for any RTMP server, and what became of them.
    Load(load::Args),
    /// The same load for hours: bytes compared, or memory watched.
    Soak(soak::Args),
    /// The relay that `bench splice` measures.
    #[command(hide = true)]
    BenchRelay(bench::splice::relay::Args),
    /// Source and sink of `bench splice`.
    #[command(hide = true)]
    BenchLoad(bench::splice::load::Args),
    /// The raw floor of `bench report`.
    #[command(hide = true)]
    BenchFloor(bench::floor::Args),
    /// Publish an FLV file in real time with our own client.
    Publish(publish::Args),
}

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) => run::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Tidy => tidy::run(),
        Command::Setup => setup::run(),
        Command::Ebpf(args) => ebpf::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Load(args) => load::run(&args),
        Command::Soak(args) => soak::run(&args),
        Command::BenchRelay(args) => bench::splice::relay::run(&args),
        Command::BenchLoad(args) => bench::splice::load::run(&args),
        Command::BenchFloor(args) => bench::floor::run(&args),
        Command::Publish(args) => publish::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            // As shells report who was stopped by INT.
            if process::interrupted() { ExitCode::from(130) } else { ExitCode::FAILURE }
        }
    }
}
