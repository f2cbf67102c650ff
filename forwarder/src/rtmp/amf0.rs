//! AMF0 values (RTMP.md 1.7): reading with depth and count limits, writing.

/// An AMF0 value. Object keys keep their order; a repeated key: the last one wins in `get`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// Marker 0.
    Number(f64),
    /// Marker 1.
    Boolean(bool),
    /// Markers 2 and 12 (the writer picks 12 when longer than 65,535 bytes), and 15 when read.
    String(String),
    /// Marker 3; also 16 (typed object) when read, its class name dropped.
    Object(Vec<(String, Value)>),
    /// Marker 5.
    Null,
    /// Marker 6 (and 13, unsupported).
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
    pub fn get(&self, _key: &str) -> Option<&Value> {
        todo!()
    }
    /// The number, if this is a finite one.
    pub fn as_number(&self) -> Option<f64> {
        todo!()
    }
    /// The string, if this is one.
    pub fn as_str(&self) -> Option<&str> {
        todo!()
    }
    /// The boolean, if this is one.
    pub fn as_bool(&self) -> Option<bool> {
        todo!()
    }
}

/// Why AMF0 bytes were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Amf0Error {
    /// Bytes ended inside a value.
    #[error("value cut off at byte {0}")]
    Truncated(usize),
    // ... TooDeep, TooManyKeys, TooManyItems, UnknownMarker(u8, usize), BadUtf8
}

/// Reads the values of one message body in order.
pub struct Reader<'a> {
    _rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader over `body`.
    pub fn new(_body: &'a [u8]) -> Self {
        todo!()
    }
    /// The next value; `None` at the end of the body.
    pub fn read(&mut self) -> Result<Option<Value>, Amf0Error> {
        todo!()
    }
    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        todo!()
    }
}

/// Appends `value` to `out`.
pub fn write(_value: &Value, _out: &mut Vec<u8>) {
    todo!()
}
