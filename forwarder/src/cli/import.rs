//! `forwarder import`
use std::fmt::Write as _;
use std::path::PathBuf;

use super::{Failure, complain, say};
use crate::config::{Config, Loaded};

/// Translate SRS's .conf to TOML on stdout
///
/// What has no effect is listed at the top and on stderr. What would change who may do what or
/// where media goes is refused.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// SRS's configuration
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<(), Failure> {
    let loaded = Config::import(&args.file).map_err(|error| {
        complain(&error.to_string());
        Failure::Refused
    })?;
    for note in &loaded.notes {
        complain(note);
    }
    say(&translation(&args.file.display().to_string(), &loaded));
    Ok(())
}

/// The TOML with its notes as comments.
pub(super) fn translation(file: &str, loaded: &Loaded) -> String {
    // Names of files may hold anything; a comment must stay one line.
    let line = |text: &str| text.replace(char::is_control, "?");
    let mut text = format!("# imported from {}\n", line(file));
    for note in &loaded.notes {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {}", line(note));
    }
    text.push('\n');
    text.push_str(&loaded.config.to_toml());
    text
}
