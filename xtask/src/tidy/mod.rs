//! `cargo xtask tidy`: the house rules that neither rustfmt nor clippy know.
//!
//! Each rule is a function from text to violations, so that it can be tested on a few lines.

mod files;
mod manifest;
mod source;
mod walls;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{fmt, fs};

use anyhow::{Context, Result, bail};

use source::Source;

/// A broken rule at a place.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    path: String,
    /// From 1; 0 when it is about the whole file.
    line: usize,
    message: String,
}

impl Violation {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.message),
            line => write!(f, "{}:{line}: {}", self.path, self.message),
        }
    }
}

/// Runs the command.
pub fn run() -> Result<()> {
    let root = root();
    let mut violations = Vec::new();
    let paths = tracked_files(&root)?;
    for path in &paths {
        if path.ends_with(".rs") {
            let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
            check_rust(path, &text, &mut violations);
        } else if files::is_prose(path) {
            let text = fs::read_to_string(root.join(path)).with_context(|| path.clone())?;
            files::check_whitespace(path, &text, &mut violations);
        }
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).ok();
    manifest::check(&manifest, architecture.as_deref(), &mut violations);
    if !paths.iter().any(|path| path == "conf/forwarder.toml") {
        violations.push(Violation::new("conf/forwarder.toml", 0, "is missing"));
    }
    violations.sort();
    for violation in &violations {
        eprintln!("{violation}");
    }
    match violations.len() {
        0 => {
            println!("tidy: {} files keep the house rules", paths.len());
            Ok(())
        }
        n => bail!("tidy: {n} violations"),
    }
}

/// All rules for one Rust file.
fn check_rust(path: &str, text: &str, out: &mut Vec<Violation>) {
    let source = Source::new(text);
    files::check_rust_whitespace(path, text, &source, out);
    files::check_rust_shape(path, text, out);
    files::check_placeholders(path, &source, out);
    walls::check_words(path, &source, out);
    walls::check_imports(path, &source, out);
}

/// The repository's root.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Paths of what git tracks or would add, relative to `root`.
fn tracked_files(root: &Path) -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output();
    if let Ok(listed) = listed
        && listed.status.success()
    {
        let names = String::from_utf8(listed.stdout)?;
        let exist = names.split_terminator('\0').filter(|name| root.join(name).is_file());
        return Ok(exist.map(str::to_owned).collect());
    }
    // An unpacked archive: everything but what is built or hidden.
    let mut paths = Vec::new();
    walk(root, "", &mut paths)?;
    Ok(paths)
}

fn walk(root: &Path, folder: &str, out: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        if entry.file_type()?.is_file() {
            out.push(path);
        } else if entry.file_type()?.is_dir() && name != "target" && !name.starts_with('.') {
            walk(root, &path, out)?;
        }
    }
    Ok(())
}
