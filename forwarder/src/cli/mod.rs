//! The command line.
mod check;
mod doctor;
mod import;
mod reload;
mod run;
mod status;
#[cfg(test)]
mod tests;
mod token;

use std::io::{Write as _, stderr, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{ArgAction, Parser, Subcommand};

/// What ends the program other than success; the numbers are its exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    /// The command line or a configuration is refused.
    Refused = 1,
    /// It was fine, and then something failed.
    Runtime = 2,
}

/// Runs the program with the process's arguments.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, and go to stdout. A closed pipe is no reason
            // to fail.
            let _ = error.print();
            return if error.use_stderr() { exit(Failure::Refused) } else { ExitCode::SUCCESS };
        }
    };
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => exit(failure),
    }
}

fn exit(failure: Failure) -> ExitCode {
    ExitCode::from(failure as u8)
}

/// An RTMP origin and forwarder: encoders publish to it, it forwards to other servers and plays
/// to any number of players.
#[derive(Debug, Parser)]
#[command(
    name = "forwarder",
    version = crate::VERSION,
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    arg_required_else_help = true,
    after_help = "Without a command, `forwarder -c FILE` is `forwarder run -c FILE` and \
                  `forwarder -t -c FILE` is `forwarder check -c FILE`.\n\n\
                  Exit codes: 0 fine; 1 the command line or the configuration is refused; \
                  2 it failed while running.\n\n\
                  RUST_LOG, e.g. RUST_LOG=debug, goes before the configured log level."
)]
struct Cli {
    /// Configuration: TOML, or SRS's .conf
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration and exit
    #[arg(short = 't', long, requires = "config")]
    test: bool,
    /// Print the version
    #[arg(short = 'v', short_alias = 'V', long, action = ArgAction::Version)]
    version: Option<bool>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Import(import::Args),
    Status(status::Args),
    Reload(reload::Args),
    Doctor(doctor::Args),
    Token(token::Args),
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    match (cli.command, cli.config) {
        (Some(Command::Run(args)), _) => run::run(args),
        (Some(Command::Check(args)), _) => check::run(&args),
        (Some(Command::Import(args)), _) => import::run(&args),
        (Some(Command::Status(args)), _) => status::run(&args),
        (Some(Command::Reload(args)), _) => reload::run(&args),
        (Some(Command::Doctor(args)), _) => doctor::run(&args),
        (Some(Command::Token(args)), _) => token::run(&args),
        (None, Some(config)) if cli.test => check::run(&check::Args { config, print: false }),
        (None, Some(config)) => run::run(run::Args { config }),
        // clap asks for an argument before it comes to this.
        (None, None) => Err(Failure::Refused),
    }
}

/// Writes to stdout. A reader that has gone, like `head`, is no reason to fail.
fn say(text: &str) {
    let _ = writeln!(stdout(), "{}", text.trim_end());
}

/// Writes to stderr.
fn complain(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}
