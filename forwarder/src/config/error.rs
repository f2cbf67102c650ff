//! What is wrong with a configuration, shown the way a compiler would.
use std::fmt::Write as _;
use std::ops::Range;

/// For U+FFFD, which stands where a file held something else.
pub(super) const NOT_UTF8: &str = "this is not UTF-8";

/// What is wrong with a configuration: file, line, the offending text and the mend, rendered.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.rendered)]
pub struct ConfigError(Box<Fault>);

/// The parts of a [`ConfigError`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// All of it, for people.
    pub rendered: String,
    /// The file.
    pub file: String,
    /// Where in it; `None`: it is about the whole file.
    pub at: Option<Position>,
    /// What is wrong, one line.
    pub message: String,
    /// What to do about it; may be empty.
    pub mend: String,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// The line, perhaps clipped.
    pub text: String,
}

impl ConfigError {
    /// An error about a whole file, with no place in it.
    pub(super) fn whole(file: &str, message: &str) -> Self {
        Self(Box::new(Fault {
            rendered: format!("{file}: {message}"),
            file: file.to_owned(),
            at: None,
            message: message.to_owned(),
            mend: String::new(),
        }))
    }

    /// What it is made of.
    pub fn into_parts(self) -> Fault {
        *self.0
    }
}

/// A text and the name it is reported under.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

impl Source {
    /// Renders `message` about the bytes `span`. What follows the first newline of `message` is
    /// the mend.
    pub(super) fn error(&self, span: Range<usize>, message: &str) -> ConfigError {
        let at = self.place(span.start);
        let (message, help) = message.split_once('\n').unwrap_or((message, ""));
        let width = self.text.get(span).map_or(1, |bad| first_line(bad).chars().count().max(1));
        let (shown, before) = clip(at.line, at.column - 1);
        let number = at.number.to_string();
        let margin = " ".repeat(number.len());
        let carets = "^".repeat(width.min(shown.chars().count().saturating_sub(before).max(1)));

        let mut out = format!("{}:{number}:{}: {message}\n", self.name, at.column);
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{margin} |");
        let _ = writeln!(out, "{number} | {shown}");
        let _ = write!(out, "{margin} | {}{carets}", " ".repeat(before));
        if !help.is_empty() {
            let _ = write!(out, "\n{margin} = {help}");
        }
        let (line, column) = (at.number, at.column);
        ConfigError(Box::new(Fault {
            rendered: out,
            file: self.name.clone(),
            at: Some(Position { line, column, text: shown }),
            message: message.to_owned(),
            mend: help.to_owned(),
        }))
    }

    /// `file:line` of a byte offset.
    pub(super) fn line_at(&self, offset: usize) -> String {
        format!("{}:{}", self.name, self.place(offset).number)
    }

    fn place(&self, offset: usize) -> Place<'_> {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let (before, after) = self.text.split_at(offset);
        let start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let end = offset + after.find('\n').unwrap_or(after.len());
        Place {
            number: before.matches('\n').count() + 1,
            column: before[start..].chars().count() + 1,
            line: self.text[start..end].trim_end(),
        }
    }
}

struct Place<'a> {
    number: usize,
    /// In characters, from 1.
    column: usize,
    line: &'a str,
}

/// The part of a line to show and how many characters of it stand before the caret: very long
/// lines are cut around it, and what would move the cursor is blanked.
fn clip(line: &str, before: usize) -> (String, usize) {
    const WIDTH: usize = 120;
    let skip = if line.chars().count() > WIDTH { before.saturating_sub(WIDTH / 2) } else { 0 };
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    (line.chars().skip(skip).take(WIDTH).map(plain).collect(), before - skip)
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("")
}

/// The candidate that `word` most likely is a misspelling of.
pub(super) fn near_miss<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // A directive is at most 25 bytes long; a text much longer is none, and not worth the work.
    if word.len() > 40 {
        return None;
    }
    let most = (word.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The edit distance that counts two swapped neighbours as one edit, for that is what fingers do
/// (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let at = |row: &[usize], i: usize| row.get(i).copied().unwrap_or(usize::MAX / 2);
    let mut two_up: Vec<usize> = Vec::new();
    let mut up: Vec<usize> = (0..=b.len()).collect();
    let mut before = None;
    for (i, from) in a.chars().enumerate() {
        let mut row = vec![i + 1];
        let mut left = None;
        for (j, &to) in b.iter().enumerate() {
            let mut best = at(&up, j) + usize::from(from != to);
            best = best.min(at(&up, j + 1) + 1).min(at(&row, j) + 1);
            if before == Some(to) && left == Some(from) {
                best = best.min(at(&two_up, j.saturating_sub(1)) + 1);
            }
            row.push(best);
            left = Some(to);
        }
        two_up = std::mem::replace(&mut up, row);
        before = Some(from);
    }
    at(&up, b.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, want) in [
            ("", "", 0),
            ("", "abc", 3),
            ("listen", "listen", 0),
            ("lisetn", "listen", 1),
            ("play", "publish", 5),
        ] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }

    #[test]
    fn near_miss_takes_the_nearest_and_nothing_far() {
        let known = ["destination", "enabled", "listen"];
        assert_eq!(near_miss("destinaton", known), Some("destination"));
        assert_eq!(near_miss("enable", known), Some("enabled"));
        assert_eq!(near_miss("backend", known), None);
        assert_eq!(near_miss(&"x".repeat(1 << 20), known), None);
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let source =
            Source { name: "f".into(), text: format!("{}BAD{}", "a".repeat(500), "b".repeat(500)) };
        let rendered = source.error(500..503, "bad").to_string();
        let lines: Vec<&str> = rendered.lines().collect();
        let caret = lines[3].find("^^^").expect("a caret");
        assert_eq!(&lines[2][caret..caret + 3], "BAD");
        assert!(lines.iter().all(|line| line.len() < 140));
    }
}
