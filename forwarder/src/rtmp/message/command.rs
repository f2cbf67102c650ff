//! Commands: a name, a transaction and arguments in AMF0 (RTMP 1.0 section 7.2).
use super::kind;
use crate::rtmp::Timestamp;
use crate::rtmp::amf0::{self, Amf0Error, Reader, Value};
use crate::rtmp::chunk::{self, Message};

/// A command message, type 20, or 17 with AMF0 inside.
#[derive(Clone, Debug, PartialEq)]
pub struct Command {
    /// `connect`, `_result`, `onStatus`, ...
    pub name: String,
    /// Transaction; 0 wants no reply. One that is missing, not a number, NaN, infinite or negative
    /// is read as 0.
    pub transaction: f64,
    /// Command object (often null) and the arguments.
    pub args: Vec<Value>,
}

impl Command {
    /// Parses a command body of message type `kind` (20 or 17); `None` when there is nothing in it.
    ///
    /// An AMF3 value among the arguments is [`Amf0Error::Amf3`]: no client needs one, so such a
    /// message can be dropped.
    pub fn parse(kind: u8, body: &[u8]) -> Result<Option<Self>, Amf0Error> {
        let mut reader = Reader::new(without_selector(kind, body));
        let name = match reader.read()? {
            None => return Ok(None),
            Some(Value::String(name)) => name,
            Some(_) => return Err(Amf0Error::ExpectedString(0)),
        };
        let transaction = match reader.read()? {
            Some(Value::Number(n)) if n.is_finite() && n > 0.0 => n,
            _ => 0.0,
        };
        let mut args = Vec::new();
        while let Some(value) = reader.read()? {
            args.push(value);
        }
        Ok(Some(Self {
            name,
            transaction,
            args,
        }))
    }

    /// Appends the message as type 20 on `csid` and `msid`, time 0, cut at `chunk_size`, to `out`.
    pub fn encode(&self, csid: u32, msid: u32, chunk_size: u32, out: &mut Vec<u8>) {
        let mut body = Vec::new();
        amf0::write(&Value::string(self.name.as_str()), &mut body);
        amf0::write(&Value::Number(self.transaction), &mut body);
        self.args.iter().for_each(|arg| amf0::write(arg, &mut body));
        let message = Message {
            csid,
            timestamp: Timestamp(0),
            kind: kind::COMMAND_AMF0,
            msid,
            payload: &body,
        };
        chunk::encode(&message, chunk_size, &mut |bytes| {
            out.extend_from_slice(bytes)
        });
    }
}

/// The AMF0 part of a body. Types 15 and 17 begin with a selector byte, 0 for "AMF0 follows"; some
/// clients leave it out, and no AMF0 string begins with 0.
pub(super) fn without_selector(kind: u8, body: &[u8]) -> &[u8] {
    match (kind, body) {
        (kind::COMMAND_AMF3 | kind::DATA_AMF3, [0, rest @ ..]) => rest,
        _ => body,
    }
}
