//! The grammar of SRS's `.conf`: words, quotes, `;`, `{}`, `#` and `include`.
use std::ops::Range;
use std::path::Path;

use super::super::error::{ConfigError, NOT_UTF8, Source};
use super::super::read_file;

/// Blocks in blocks; SRS's deepest are vhost, transcode, engine and vparams.
const MAX_DEPTH: usize = 16;
/// Files included from included files.
const MAX_INCLUDE_DEPTH: usize = 8;
/// Included files, all together.
const MAX_INCLUDES: usize = 64;

/// `name args;` or `name args { block }`.
pub(super) struct Directive {
    pub(super) name: Word,
    pub(super) args: Vec<Word>,
    pub(super) block: Option<Vec<Directive>>,
}

/// A word without its quotes, and where it stands.
pub(super) struct Word {
    pub(super) text: String,
    pub(super) at: At,
}

/// A place in one of the sources.
#[derive(Clone, Copy)]
pub(super) struct At {
    pub(super) source: usize,
    start: usize,
    end: usize,
}

/// The texts read so far: the file itself first, then what it includes.
pub(super) struct Sources(Vec<Source>);

/// Reads `text` and what it includes from `dir`; without a directory an `include` is an error.
pub(super) fn parse(
    name: &str,
    text: &str,
    dir: Option<&Path>,
) -> Result<(Vec<Directive>, Sources), ConfigError> {
    let source = Source { name: name.to_owned(), text: text.to_owned() };
    let mut parser = Parser { sources: Sources(vec![source]), includes: 0 };
    let directives = parser.file(0, dir, 0)?;
    Ok((directives, parser.sources))
}

// === impl Sources ===

impl Sources {
    /// An error about the words at `at`; see `Source::error`.
    pub(super) fn error(&self, at: At, message: &str) -> ConfigError {
        match self.0.get(at.source) {
            Some(source) => source.error(at.start..at.end, message),
            None => ConfigError::whole("", message),
        }
    }

    /// `file:line`.
    pub(super) fn line(&self, at: At) -> String {
        self.0.get(at.source).map_or_else(String::new, |source| source.line_at(at.start))
    }
}

struct Parser {
    sources: Sources,
    includes: usize,
}

// === impl Parser ===

impl Parser {
    fn file(
        &mut self,
        source: usize,
        dir: Option<&Path>,
        include_depth: usize,
    ) -> Result<Vec<Directive>, ConfigError> {
        let text = self.sources.0.get(source).map_or_else(String::new, |it| it.text.clone());
        let mut lexer = Lexer { text: &text, position: 0, source };
        self.block(&mut lexer, None, 0, Include { dir, depth: include_depth })
    }

    /// Directives up to the `}` that closes the block opened at `opened`, or up to the end.
    fn block(
        &mut self,
        lexer: &mut Lexer<'_>,
        opened: Option<At>,
        depth: usize,
        include: Include<'_>,
    ) -> Result<Vec<Directive>, ConfigError> {
        let mut directives = Vec::new();
        loop {
            let name = match (self.next(lexer)?, opened) {
                (Token::Word(name), _) => name,
                (Token::End, None) | (Token::Close(_), Some(_)) => return Ok(directives),
                (Token::End, Some(opened)) => {
                    return Err(self.sources.error(opened, "this `{` is never closed"));
                }
                (Token::Close(at), None) => {
                    return Err(self.sources.error(at, "this `}` closes nothing"));
                }
                (Token::Semicolon(at) | Token::Open(at), _) => {
                    return Err(self
                        .sources
                        .error(at, "a directive's name must stand before this"));
                }
            };
            let mut args = Vec::new();
            let block = loop {
                match self.next(lexer)? {
                    Token::Word(arg) => args.push(arg),
                    Token::Semicolon(_) => break None,
                    Token::Open(at) if depth >= MAX_DEPTH => {
                        return Err(self.sources.error(at, "too many blocks inside each other"));
                    }
                    Token::Open(at) => {
                        break Some(self.block(lexer, Some(at), depth + 1, include)?);
                    }
                    Token::Close(_) | Token::End => {
                        let last = args.last().unwrap_or(&name).at;
                        return Err(self.sources.error(last, "a `;` is missing after this"));
                    }
                }
            };
            if name.text == "include" && block.is_none() {
                self.include(&name, &args, include, &mut directives)?;
            } else {
                directives.push(Directive { name, args, block });
            }
        }
    }

    /// Puts what the named files hold where the `include` stands.
    fn include(
        &mut self,
        name: &Word,
        args: &[Word],
        include: Include<'_>,
        directives: &mut Vec<Directive>,
    ) -> Result<(), ConfigError> {
        let Some(dir) = include.dir else {
            return Err(self.sources.error(name.at, "there is no directory to include from"));
        };
        if args.is_empty() {
            return Err(self.sources.error(name.at, "`include` needs a file"));
        }
        for arg in args {
            self.includes += 1;
            if include.depth >= MAX_INCLUDE_DEPTH || self.includes > MAX_INCLUDES {
                let message = "too many files include each other\ndoes this file include itself?";
                return Err(self.sources.error(arg.at, message));
            }
            let path = dir.join(&arg.text);
            let text = read_file(&path)
                .map_err(|error| self.sources.error(arg.at, &format!("cannot include {error}")))?;
            self.sources.0.push(Source { name: path.display().to_string(), text });
            let source = self.sources.0.len() - 1;
            directives.extend(self.file(source, path.parent(), include.depth + 1)?);
        }
        Ok(())
    }

    fn next(&self, lexer: &mut Lexer<'_>) -> Result<Token, ConfigError> {
        match lexer.next() {
            Ok(Token::Word(word)) if word.text.contains(char::REPLACEMENT_CHARACTER) => {
                Err(self.sources.error(word.at, NOT_UTF8))
            }
            Ok(token) => Ok(token),
            Err((at, message)) => Err(self.sources.error(at, message)),
        }
    }
}

/// What an `include` inside a file may reach.
#[derive(Clone, Copy)]
struct Include<'a> {
    dir: Option<&'a Path>,
    depth: usize,
}

enum Token {
    Word(Word),
    Semicolon(At),
    Open(At),
    Close(At),
    End,
}

struct Lexer<'a> {
    text: &'a str,
    position: usize,
    source: usize,
}

// === impl Lexer ===

impl<'a> Lexer<'a> {
    fn next(&mut self) -> Result<Token, (At, &'static str)> {
        self.skip_blank();
        let start = self.position;
        let Some(first) = self.rest().chars().next() else {
            return Ok(Token::End);
        };
        match first {
            ';' | '{' | '}' => {
                self.position += 1;
                let at = self.at(start..start + 1);
                Ok(match first {
                    ';' => Token::Semicolon(at),
                    '{' => Token::Open(at),
                    _ => Token::Close(at),
                })
            }
            '"' | '\'' => self.quoted(first),
            _ => {
                // As in nginx and SRS, `#`, quotes and `}` are ordinary inside a word.
                let ends = |c: char| c.is_whitespace() || c == ';' || c == '{';
                let length = self.rest().find(ends).unwrap_or(self.rest().len());
                let text = self.rest()[..length].to_owned();
                self.position += length;
                Ok(Token::Word(Word { text, at: self.at(start..self.position) }))
            }
        }
    }

    /// A backslash takes the meaning from a quote and from a backslash, and is itself otherwise.
    fn quoted(&mut self, quote: char) -> Result<Token, (At, &'static str)> {
        let start = self.position;
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((i, c)) = chars.next() {
            if c == quote {
                self.position += i + 1;
                return Ok(Token::Word(Word { text, at: self.at(start..self.position) }));
            }
            let escaped = chars.next_if(|(_, next)| c == '\\' && matches!(next, '"' | '\'' | '\\'));
            text.push(escaped.map_or(c, |(_, next)| next));
        }
        Err((self.at(start..start + 1), "this quote is never closed"))
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let word = rest.trim_start();
            self.position += rest.len() - word.len();
            if !word.starts_with('#') {
                return;
            }
            self.position += word.find('\n').unwrap_or(word.len());
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.position..).unwrap_or_default()
    }

    fn at(&self, span: Range<usize>) -> At {
        At { source: self.source, start: span.start, end: span.end }
    }
}
