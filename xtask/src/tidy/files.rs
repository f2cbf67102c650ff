//! What a file must look like, whatever it holds.
use super::Violation;
use super::source::{Source, has_word};

/// Most lines of a Rust file.
const MAX_LINES: usize = 600;

/// What is left when something was to be done later.
const PLACEHOLDERS: &[&str] = &["#[ignore", "todo!(", "unimplemented!(", "dbg!("];

/// Whether `path` is text we write besides Rust.
pub fn is_prose(path: &str) -> bool {
    let written = [".md", ".toml", ".yml", ".yaml", ".sh", ".service"];
    written.iter().any(|end| path.ends_with(end)) && !path.starts_with("tests/golden/")
}

/// No trailing whitespace.
pub fn check_whitespace(path: &str, text: &str, out: &mut Vec<Violation>) {
    for (at, line) in text.lines().enumerate() {
        // Two spaces at the end are a line break in Markdown.
        let is_break = path.ends_with(".md") && line.ends_with("  ") && !line.trim().is_empty();
        if line.ends_with([' ', '\t']) && !is_break {
            out.push(Violation::new(path, at + 1, "trailing whitespace"));
        }
    }
}

/// No trailing whitespace and no tabs, but in literals of several lines.
pub fn check_rust_whitespace(path: &str, text: &str, source: &Source, out: &mut Vec<Violation>) {
    for (at, line) in text.lines().enumerate() {
        if source.ends_in_literal(at + 1) {
            continue;
        }
        if line.ends_with([' ', '\t']) {
            out.push(Violation::new(path, at + 1, "trailing whitespace"));
        }
        if line.contains('\t') {
            out.push(Violation::new(path, at + 1, "tab"));
        }
    }
}

/// A header that says what the file is for, and a bound on its length.
pub fn check_rust_shape(path: &str, text: &str, out: &mut Vec<Violation>) {
    if !text.starts_with("//!") {
        out.push(Violation::new(path, 1, "does not start with `//!` and what the file is for"));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        out.push(Violation::new(
            path,
            0,
            format!("{lines} lines, more than {MAX_LINES}: split it"),
        ));
    }
}

/// Nothing that says "later".
pub fn check_placeholders(path: &str, source: &Source, out: &mut Vec<Violation>) {
    for (number, line) in source.all() {
        for word in PLACEHOLDERS.iter().filter(|word| has_word(line, word)) {
            out.push(Violation::new(path, number, format!("`{word}`")));
        }
    }
}
