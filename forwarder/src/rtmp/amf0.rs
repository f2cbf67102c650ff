//! AMF0 values: reading within limits, and writing.
//!
//! The reader is for bytes of a peer: it never recurses deeper than [`MAX_DEPTH`], never makes more
//! than [`MAX_VALUES`] values, and believes no announced length or count before the bytes are
//! there. Section numbers below are those of the AMF0 specification.

/// Containers that may stand inside each other. Real commands need three.
pub const MAX_DEPTH: usize = 16;
/// Keys of one object or ECMA array.
pub const MAX_KEYS: usize = 1024;
/// Values of one message body, nested ones included: bounds the memory that a body of one-byte
/// values would otherwise multiply by thirty.
pub const MAX_VALUES: usize = 16_384;

/// An AMF0 value. Object keys keep their order; a repeated key: the last one wins in `get`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Marker 0.
    Number(f64),
    /// Marker 1.
    Boolean(bool),
    /// Markers 2 and 12 (the writer picks 12 when longer than 65,535 bytes), and 15 (XML) when
    /// read.
    String(String),
    /// Marker 3; also 16 (typed object) when read, its class name dropped.
    Object(Vec<(String, Value)>),
    /// Marker 5.
    Null,
    /// Marker 6; when read also 13 (unsupported) and 7 (reference), which is never followed.
    Undefined,
    /// Marker 8.
    EcmaArray(Vec<(String, Value)>),
    /// Marker 10.
    StrictArray(Vec<Value>),
    /// Marker 11: milliseconds since the Unix epoch, and the time zone in minutes.
    Date(f64, i16),
}

impl Value {
    /// A string value.
    pub fn string(s: impl Into<String>) -> Self {
        Self::String(s.into())
    }

    /// An object from pairs.
    pub fn object<K: Into<String>>(pairs: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Object(pairs.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// The value of `key` in an object or ECMA array.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Self::Object(pairs) | Self::EcmaArray(pairs) => {
                pairs.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v)
            }
            _ => None,
        }
    }

    /// The number, if this is a finite one.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(n) if n.is_finite() => Some(*n),
            _ => None,
        }
    }

    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(s) => Some(s),
            _ => None,
        }
    }

    /// The boolean, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(b) => Some(*b),
            _ => None,
        }
    }
}

/// Why AMF0 bytes were refused. Byte positions count from the start of what the [`Reader`] got.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Amf0Error {
    /// Bytes ended inside a value, or a string or array is longer than what is left.
    #[error("value cut off at byte {0}")]
    Truncated(usize),
    /// More than [`MAX_DEPTH`] containers inside each other.
    #[error("values nested too deep at byte {0}")]
    TooDeep(usize),
    /// An object with more than [`MAX_KEYS`] keys.
    #[error("object with too many keys at byte {0}")]
    TooManyKeys(usize),
    /// More than [`MAX_VALUES`] values.
    #[error("too many values at byte {0}")]
    TooManyValues(usize),
    /// A marker that is reserved, unknown, or out of place: the marker and its position.
    #[error("unknown marker {0:#04x} at byte {1}")]
    UnknownMarker(u8, usize),
    /// Marker 0x11: an AMF3 value follows, which is not read.
    #[error("AMF3 value at byte {0}")]
    Amf3(usize),
    /// A string that is not UTF-8.
    #[error("string is not UTF-8 at byte {0}")]
    BadUtf8(usize),
    /// Another value where a string has to be: a command without a name.
    #[error("expected a string at byte {0}")]
    ExpectedString(usize),
}

/// Reads the values of one message body in order.
///
/// After an error it stands still, and reading on gives the same error again.
#[derive(Debug)]
pub struct Reader<'a> {
    cursor: Cursor<'a>,
}

impl<'a> Reader<'a> {
    /// A reader over `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { cursor: Cursor { body, at: 0, values: 0 } }
    }

    /// The next value; `None` at the end of the body.
    pub fn read(&mut self) -> Result<Option<Value>, Amf0Error> {
        if self.rest().is_empty() {
            return Ok(None);
        }
        let mut cursor = self.cursor;
        let value = cursor.value(0)?;
        self.cursor = cursor;
        Ok(Some(value))
    }

    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.cursor.rest()
    }
}

/// Appends `value` to `out`.
pub fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Number(n) => {
            out.push(marker::NUMBER);
            out.extend_from_slice(&n.to_be_bytes());
        }
        Value::Boolean(b) => out.extend_from_slice(&[marker::BOOLEAN, u8::from(*b)]),
        Value::String(s) => write_string(s, out),
        Value::Object(pairs) => {
            out.push(marker::OBJECT);
            write_pairs(pairs, out);
        }
        Value::Null => out.push(marker::NULL),
        Value::Undefined => out.push(marker::UNDEFINED),
        Value::EcmaArray(pairs) => {
            out.push(marker::ECMA_ARRAY);
            out.extend_from_slice(&count(pairs.len()));
            write_pairs(pairs, out);
        }
        Value::StrictArray(items) => {
            out.push(marker::STRICT_ARRAY);
            out.extend_from_slice(&count(items.len()));
            items.iter().for_each(|item| write(item, out));
        }
        Value::Date(ms, zone) => {
            out.push(marker::DATE);
            out.extend_from_slice(&ms.to_be_bytes());
            out.extend_from_slice(&zone.to_be_bytes());
        }
    }
}

fn write_string(s: &str, out: &mut Vec<u8>) {
    if let Ok(len) = u16::try_from(s.len()) {
        out.push(marker::STRING);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(marker::LONG_STRING);
        out.extend_from_slice(&count(s.len()));
    }
    out.extend_from_slice(s.as_bytes());
}

fn write_pairs(pairs: &[(String, Value)], out: &mut Vec<u8>) {
    for (key, value) in pairs {
        // A key has 16 bits of length on the wire: a longer one cannot be said.
        let Ok(len) = u16::try_from(key.len()) else {
            continue;
        };
        out.extend_from_slice(&len.to_be_bytes());
        out.extend_from_slice(key.as_bytes());
        write(value, out);
    }
    out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

/// A length or count field; what we write ourselves never comes near its end.
fn count(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_be_bytes()
}

/// A place in a body, and how many values it took to get there.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    body: &'a [u8],
    at: usize,
    values: usize,
}

impl<'a> Cursor<'a> {
    /// One value that stands inside `depth` containers.
    fn value(&mut self, depth: usize) -> Result<Value, Amf0Error> {
        let at = self.at;
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Amf0Error::TooManyValues(at));
        }
        Ok(match self.u8()? {
            marker::NUMBER => Value::Number(f64::from_be_bytes(self.array()?)),
            marker::BOOLEAN => Value::Boolean(self.u8()? != 0),
            marker::STRING => Value::String(self.short_string()?.to_owned()),
            marker::OBJECT => Value::Object(self.pairs(at, depth)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED | marker::UNSUPPORTED => Value::Undefined,
            marker::REFERENCE => {
                self.array::<2>()?;
                Value::Undefined
            }
            marker::ECMA_ARRAY => {
                // Section 2.10 calls it a count; encoders write 0 or anything, the end marker rules.
                self.array::<4>()?;
                Value::EcmaArray(self.pairs(at, depth)?)
            }
            marker::STRICT_ARRAY => Value::StrictArray(self.items(at, depth)?),
            marker::DATE => {
                let ms = f64::from_be_bytes(self.array()?);
                Value::Date(ms, i16::from_be_bytes(self.array()?))
            }
            marker::LONG_STRING | marker::XML => {
                let len = u32::from_be_bytes(self.array()?);
                Value::String(self.string(usize::try_from(len).unwrap_or(usize::MAX))?.to_owned())
            }
            marker::TYPED_OBJECT => {
                self.short_string()?;
                Value::Object(self.pairs(at, depth)?)
            }
            marker::AMF3 => return Err(Amf0Error::Amf3(at)),
            other => return Err(Amf0Error::UnknownMarker(other, at)),
        })
    }

    /// The pairs of the object that began at `start`, up to and with its end.
    fn pairs(&mut self, start: usize, depth: usize) -> Result<Vec<(String, Value)>, Amf0Error> {
        if depth >= MAX_DEPTH {
            return Err(Amf0Error::TooDeep(start));
        }
        let mut pairs = Vec::new();
        loop {
            // Some encoders leave out the end marker of the last object in the body.
            if depth == 0 && self.rest().is_empty() {
                return Ok(pairs);
            }
            if let Some(rest) = self.rest().strip_prefix(&[0, 0, marker::OBJECT_END]) {
                self.at = self.body.len() - rest.len();
                return Ok(pairs);
            }
            if pairs.len() == MAX_KEYS {
                return Err(Amf0Error::TooManyKeys(start));
            }
            let key = self.short_string()?.to_owned();
            pairs.push((key, self.value(depth + 1)?));
        }
    }

    /// The items of the strict array that began at `start`.
    fn items(&mut self, start: usize, depth: usize) -> Result<Vec<Value>, Amf0Error> {
        if depth >= MAX_DEPTH {
            return Err(Amf0Error::TooDeep(start));
        }
        let count = u32::from_be_bytes(self.array()?);
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        // The shortest value is its marker alone.
        if count > self.rest().len() {
            return Err(Amf0Error::Truncated(start));
        }
        if count > MAX_VALUES {
            return Err(Amf0Error::TooManyValues(start));
        }
        (0..count).map(|_| self.value(depth + 1)).collect()
    }

    fn short_string(&mut self) -> Result<&'a str, Amf0Error> {
        let len = u16::from_be_bytes(self.array()?);
        self.string(len.into())
    }

    fn string(&mut self, len: usize) -> Result<&'a str, Amf0Error> {
        let at = self.at;
        std::str::from_utf8(self.take(len)?).map_err(|_| Amf0Error::BadUtf8(at))
    }

    fn u8(&mut self) -> Result<u8, Amf0Error> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Amf0Error> {
        let bytes = *self.rest().first_chunk().ok_or(Amf0Error::Truncated(self.at))?;
        self.at += N;
        Ok(bytes)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Amf0Error> {
        let bytes = self.rest().get(..len).ok_or(Amf0Error::Truncated(self.at))?;
        self.at += len;
        Ok(bytes)
    }

    fn rest(&self) -> &'a [u8] {
        self.body.get(self.at..).unwrap_or_default()
    }
}

/// Type markers, section 2.1.
mod marker {
    pub(super) const NUMBER: u8 = 0x00;
    pub(super) const BOOLEAN: u8 = 0x01;
    pub(super) const STRING: u8 = 0x02;
    pub(super) const OBJECT: u8 = 0x03;
    pub(super) const NULL: u8 = 0x05;
    pub(super) const UNDEFINED: u8 = 0x06;
    pub(super) const REFERENCE: u8 = 0x07;
    pub(super) const ECMA_ARRAY: u8 = 0x08;
    pub(super) const OBJECT_END: u8 = 0x09;
    pub(super) const STRICT_ARRAY: u8 = 0x0a;
    pub(super) const DATE: u8 = 0x0b;
    pub(super) const LONG_STRING: u8 = 0x0c;
    pub(super) const UNSUPPORTED: u8 = 0x0d;
    pub(super) const XML: u8 = 0x0f;
    pub(super) const TYPED_OBJECT: u8 = 0x10;
    pub(super) const AMF3: u8 = 0x11;
}

#[cfg(test)]
mod tests;
