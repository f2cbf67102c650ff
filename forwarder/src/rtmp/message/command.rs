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
        Ok(Some(Self { name, transaction, args }))
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
        chunk::encode(&message, chunk_size, &mut |bytes| out.extend_from_slice(bytes));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rtmp::chunk::ChunkReader;

    const CALL: &[u8] = b"\x02\0\x04call\x00\x40\0\0\0\0\0\0\0\x05";

    fn call() -> Command {
        Command { name: "call".to_owned(), transaction: 2.0, args: vec![Value::Null] }
    }

    #[test]
    fn bodies_and_what_they_say() {
        type Case<'a> = (&'a str, u8, &'a [u8], Result<Option<Command>, Amf0Error>);

        let with_selector = [&[0], CALL].concat();
        let name_only = Command { transaction: 0.0, args: vec![], ..call() };
        let amf3_name = b"\x11\x06\x09call";
        let cases: [Case<'_>; 12] = [
            ("AMF0", 20, CALL, Ok(Some(call()))),
            ("AMF3 with selector", 17, &with_selector, Ok(Some(call()))),
            ("AMF3 without selector", 17, CALL, Ok(Some(call()))),
            ("AMF0 with selector", 20, &with_selector, Err(Amf0Error::ExpectedString(0))),
            ("empty AMF0", 20, b"", Ok(None)),
            ("empty AMF3", 17, b"", Ok(None)),
            ("only the selector", 17, b"\0", Ok(None)),
            ("name alone", 20, b"\x02\0\x04call", Ok(Some(name_only))),
            ("number for a name", 20, &CALL[7..], Err(Amf0Error::ExpectedString(0))),
            ("AMF3 name", 17, amf3_name, Err(Amf0Error::Amf3(0))),
            ("AMF3 name after selector", 17, b"\0\x11\x06\x09call", Err(Amf0Error::Amf3(0))),
            ("name cut off", 20, b"\x02\0\x09call", Err(Amf0Error::Truncated(3))),
        ];
        for (name, kind, body, expected) in cases {
            assert_eq!(Command::parse(kind, body), expected, "{name}");
        }
    }

    #[test]
    fn transactions_that_are_none_are_0() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, -0.0];
        for transaction in odd.map(Value::Number).into_iter().chain([Value::Null]) {
            let mut body = b"\x02\0\x04call".to_vec();
            amf0::write(&transaction, &mut body);
            let command = Command::parse(20, &body).unwrap().unwrap();
            assert!(command.transaction.to_bits() == 0, "{transaction:?}");
            assert_eq!(command.args, []);
        }
    }

    #[test]
    fn encoded_command_is_read_back() {
        let command = Command {
            name: "onStatus".to_owned(),
            transaction: 0.0,
            args: vec![
                Value::Null,
                Value::object([("code", Value::string("NetStream.Play.Start".repeat(20)))]),
            ],
        };
        let mut wire = Vec::new();
        command.encode(5, 1, 128, &mut wire);
        let (mut reader, mut input) = (ChunkReader::new(), &wire[..]);
        let message = reader.read(&mut input).unwrap().unwrap();
        assert_eq!((message.csid, message.kind, message.msid), (5, 20, 1));
        assert_eq!(message.timestamp, Timestamp(0));
        assert_eq!(Command::parse(message.kind, message.payload), Ok(Some(command)));
        assert!(input.is_empty());
    }
}
