//! Commands: a name, a transaction and arguments in AMF0 (RTMP 1.0 section 7.2).
use super::super::amf0::{Amf0Error, Value};

/// A command message, type 20, or 17 with AMF0 inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// `connect`, `_result`, `onStatus`, ...
    pub name: String,
    /// Transaction; 0 wants no reply. NaN, infinite and negative are read as 0.
    pub transaction: f64,
    /// Command object (often null) and the arguments.
    pub args: Vec<Value>,
}

impl Command {
    /// Parses a command body of message type `kind` (20 or 17).
    pub fn parse(_kind: u8, _body: &[u8]) -> Result<Option<Self>, Amf0Error> {
        todo!()
    }
    /// Appends the message as type 20 on `csid` and `msid`, time 0, cut at `chunk_size`, to `out`.
    pub fn encode(&self, _csid: u32, _msid: u32, _chunk_size: u32, _out: &mut Vec<u8>) {
        todo!()
    }
}
