//! Names that can be trusted.
use std::fmt;

use super::{MAX_NAME_LEN, UrlError, check_len};

/// The vhost that serves whatever matches no other, as SRS calls it.
pub const DEFAULT_VHOST: &str = "__defaultVhost__";

/// Most elements of an app, such as the two of `app/instance`.
const MAX_APP_ELEMENTS: usize = 4;

/// What identifies a stream: vhost, app and stream name. Parts compare byte for byte.
///
/// Displayed as SRS does: `/app/stream` in the default vhost, else `vhost/app/stream`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamKey {
    vhost: String,
    app: String,
    stream: String,
}

impl StreamKey {
    /// Checks each part: 1..=255 bytes, no control characters, no "..", no backslash, no `?` or
    /// `#`, no leading dot, also when percent-decoded; '/' only inside app (at most 4 elements).
    pub fn new(vhost: &str, app: &str, stream: &str) -> Result<Self, UrlError> {
        check_name("vhost", vhost)?;
        check_app(app)?;
        check_name("stream", stream)?;
        Ok(Self { vhost: vhost.to_owned(), app: app.to_owned(), stream: stream.to_owned() })
    }

    /// The vhost's name.
    pub fn vhost(&self) -> &str {
        &self.vhost
    }

    /// The app.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The stream's name, without parameters.
    pub fn stream(&self) -> &str {
        &self.stream
    }
}

impl fmt::Display for StreamKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vhost = if self.vhost == DEFAULT_VHOST { "" } else { &self.vhost };
        write!(f, "{vhost}/{}/{}", self.app, self.stream)
    }
}

pub(super) fn check_app(app: &str) -> Result<(), UrlError> {
    check_len("app", app, MAX_NAME_LEN)?;
    let mut n = 0;
    for element in app.split('/') {
        check_name("app", element)?;
        n += 1;
    }
    if n > MAX_APP_ELEMENTS { Err(UrlError::Depth) } else { Ok(()) }
}

/// Checks a name or an element of an app, as it is and percent-decoded. Names are never used as
/// paths here, but they reach the logs, the API and servers that are less careful.
pub(super) fn check_name(part: &'static str, name: &str) -> Result<(), UrlError> {
    if name.is_empty() {
        return Err(UrlError::Empty(part));
    }
    check_len(part, name, MAX_NAME_LEN)?;
    check_characters(part, name)?;
    if name.contains('%') { check_characters(part, &percent_decoded(name)) } else { Ok(()) }
}

fn check_characters(part: &'static str, name: &str) -> Result<(), UrlError> {
    let refused = |c: char| c.is_control() || matches!(c, '\\' | '/' | '?' | '#');
    if let Some(c) = name.chars().find(|&c| refused(c)) {
        return Err(UrlError::Character(part, c));
    }
    if name.starts_with('.') || name.contains("..") {
        return Err(UrlError::Dots(part));
    }
    Ok(())
}

/// `%2e` and the like as the characters they stand for; anything else as it is.
fn percent_decoded(text: &str) -> String {
    let mut rest = text.as_bytes();
    let mut decoded = Vec::with_capacity(rest.len());
    while let Some((&byte, behind)) = rest.split_first() {
        let hex =
            behind.split_first_chunk().filter(|_| byte == b'%').and_then(|(&[a, b], behind)| {
                let digit = |d: u8| char::from(d).to_digit(16).and_then(|d| u8::try_from(d).ok());
                Some((digit(a)? << 4 | digit(b)?, behind))
            });
        let (byte, behind) = hex.unwrap_or((byte, behind));
        decoded.push(byte);
        rest = behind;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}
