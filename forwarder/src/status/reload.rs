//! What became of the configuration: when it was loaded, and what the last reload did or refused.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

/// The configuration in force, and the last try to replace it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    /// The file it was loaded from.
    pub file: String,
    /// When what is in force was loaded, milliseconds since 1970.
    pub loaded_ms: u64,
    /// Seconds since then.
    pub age_s: u64,
    /// How often it was asked to be loaded again.
    pub reloads: u64,
    /// Why the last reload was refused; empty: it was not.
    pub last_error: String,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// What differs from what was in force; empty: nothing.
    pub changes: Vec<Changed>,
    /// What the operator should know, one line each.
    pub notes: Vec<String>,
}

/// One key that differs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changed {
    /// Of which vhost; empty: of the whole server.
    pub vhost: String,
    /// Its name with the tables it is in; `vhost` for one that came or went.
    pub key: String,
    /// What became of it.
    pub what: String,
    /// `now`, `next` or `restart`.
    pub takes: String,
}

/// Why a reload changed nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// The file.
    pub file: String,
    /// Its line, from 1; 0: it is about the whole file.
    pub line: usize,
    /// In characters, from 1; 0 as above.
    pub column: usize,
    /// The line's text.
    pub text: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub mend: String,
    /// All of it as `forwarder check` says it.
    pub shown: String,
}

/// What became of a reload.
pub type Outcome = Result<Reloaded, Box<Refused>>;

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.vhost.is_empty() {
            write!(f, "{}: ", self.vhost)?;
        }
        write!(f, "{}: {}", self.key, self.what)?;
        f.write_str(match &*self.takes {
            "next" => " (for what begins from now on)",
            "restart" => " (needs a restart: it stays as it was)",
            _ => "",
        })
    }
}

impl fmt::Display for Reloaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.changes.iter().map(Changed::to_string).chain(self.notes.iter().cloned());
        for (at, line) in lines.enumerate() {
            if at > 0 {
                f.write_char('\n')?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}
