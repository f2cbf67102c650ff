//! Rust text without its comments, strings and unit tests, line by line.

/// A file's code; lines keep their numbers.
pub struct Source {
    lines: Vec<String>,
    /// Lines that end inside a literal, from 1.
    in_literal: Vec<usize>,
    /// Lines before the first `#[cfg(test)]`.
    shipped: usize,
}

impl Source {
    /// Blanks comments and the insides of literals.
    pub fn new(text: &str) -> Self {
        let (code, in_literal) = code(text);
        let lines: Vec<String> = code.split('\n').map(str::to_owned).collect();
        let tests = lines.iter().position(|line| line.trim_start().starts_with("#[cfg(test)]"));
        let shipped = match tests {
            // `#[cfg(test)] mod tests;` names a file: what follows is still shipped.
            Some(at) if !names_a_file(&lines[at..]) => at,
            _ => lines.len(),
        };
        Self { lines, in_literal, shipped }
    }

    /// All lines, numbered from 1.
    pub fn all(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines.iter().enumerate().map(|(at, line)| (at + 1, line.as_str()))
    }

    /// Whether the end of line `number` is part of a literal.
    pub fn ends_in_literal(&self, number: usize) -> bool {
        self.in_literal.contains(&number)
    }

    /// Lines that are not unit tests, numbered from 1.
    pub fn shipped(&self) -> impl Iterator<Item = (usize, &str)> {
        self.all().take(self.shipped)
    }
}

fn names_a_file(lines: &[String]) -> bool {
    let item = lines.iter().map(|line| line.trim()).find(|line| line.starts_with("mod "));
    item.is_some_and(|item| item.ends_with(';'))
}

/// Whether `word` stands in `line` as a path or word of its own.
pub fn has_word(line: &str, word: &str) -> bool {
    let part_of_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_start = !word.starts_with(part_of_name) || !before.is_some_and(part_of_name);
        let open_end = !word.ends_with(part_of_name) || !after.is_some_and(part_of_name);
        open_start && open_end
    })
}

/// `text` with comments and the insides of literals left out, newlines kept; and which lines end
/// inside a literal.
fn code(text: &str) -> (String, Vec<usize>) {
    let mut out = String::with_capacity(text.len());
    let mut in_literal = Vec::new();
    let mut number = 1;
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let skipped = skipped_length(rest, out.chars().next_back());
        let (now, later) = rest.split_at(skipped.unwrap_or(c.len_utf8()));
        if skipped.is_some() {
            let newlines = now.matches('\n').count();
            out.extend(std::iter::repeat_n('\n', newlines));
            if !now.starts_with('/') {
                in_literal.extend(number..number + newlines);
            }
            number += newlines;
        } else {
            out.push(c);
            number += usize::from(c == '\n');
        }
        rest = later;
    }
    (out, in_literal)
}

/// Bytes of the comment or literal that `rest` starts with.
fn skipped_length(rest: &str, before: Option<char>) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if let Some(body) = rest.strip_prefix("/*") {
        return Some(body.find("*/").map_or(rest.len(), |end| end + 4));
    }
    if rest.starts_with('"') {
        return Some(quoted_length(rest));
    }
    let in_name = before.is_some_and(|c| c.is_alphanumeric() || c == '_');
    if rest.starts_with('r') && !in_name {
        let hashes = rest[1..].bytes().take_while(|&b| b == b'#').count();
        if rest[1 + hashes..].starts_with('"') {
            let close = format!("\"{}", "#".repeat(hashes));
            let body = &rest[2 + hashes..];
            return Some(
                body.find(&close).map_or(rest.len(), |end| 2 + hashes + end + close.len()),
            );
        }
    }
    // Only the one-character literals that could open a string or comment; 'a is a lifetime.
    ["'\"'", "'\\\"'", "'/'"].iter().find(|literal| rest.starts_with(**literal)).map(|l| l.len())
}

fn quoted_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in rest.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => (),
        }
    }
    rest.len()
}
