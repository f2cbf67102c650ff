//! The information objects of statuses and replies.

use crate::rtmp::amf0::Value;
use crate::rtmp::message::Command;

/// The version Adobe's servers gave; librtmp and FFmpeg read the number, SRS sends the same.
const FMS_VERSION: &str = "FMS/3,5,3,888";

/// Enhanced RTMP v2 `capsEx` of one who passes all on: multitrack, ModEx and nanosecond offsets.
const PASSES_ON: u32 = 2 + 4 + 8;

/// And can be asked to connect again.
const RECONNECT: u32 = 1;

/// The status that asks for it.
pub const RECONNECT_REQUEST: &str = "NetConnection.Connect.ReconnectRequest";

/// Asks a client that [`ConnectRequest::reconnects`](super::ConnectRequest::reconnects) to connect
/// again: there if `tc_url` says where, else where it did (Enhanced RTMP v2, "Reconnect Request").
pub fn reconnect_request(tc_url: Option<&str>) -> Command {
    let mut info = status(RECONNECT_REQUEST, "The server is about to stop.");
    info.extend(tc_url.map(|url| ("tcUrl", Value::string(url))));
    let args = vec![Value::Null, Value::object(info)];
    Command { name: "onStatus".to_owned(), transaction: 0.0, args }
}

/// `capsEx`; `reconnects`: a request to connect again is understood, or may be sent.
pub(super) fn caps_ex(reconnects: bool) -> Value {
    Value::Number(f64::from(PASSES_ON | if reconnects { RECONNECT } else { 0 }))
}

/// Whether this `capsEx` says that a request to connect again is understood.
pub(super) fn reconnects(caps_ex: u32) -> bool {
    caps_ex & RECONNECT != 0
}

/// Enhanced RTMP v2 `videoFourCcInfoMap` or `audioFourCcInfoMap` of one who passes all on.
pub(super) fn any_codec() -> Value {
    Value::object([("*", Value::Number(CAN_FORWARD))])
}

/// Enhanced RTMP v2 FourCC map for a party that passes every codec on: bit 2, "can forward".
const CAN_FORWARD: f64 = 4.0;

/// `{level: "status", code, description}`.
pub(super) fn status(code: &str, description: &str) -> Vec<(&'static str, Value)> {
    info("status", code, description)
}

/// `{level: "error", code, description}`.
pub(super) fn error(code: &str, description: &str) -> Vec<(&'static str, Value)> {
    info("error", code, description)
}

/// A status about a stream, with what Flash players and SRS add: `details` and `clientid`.
pub(super) fn stream_status(
    code: &str,
    description: &str,
    stream: &str,
) -> Vec<(&'static str, Value)> {
    let mut info = status(code, description);
    info.push(("details", Value::string(stream)));
    info.push(("clientid", Value::string("forwarder")));
    info
}

fn info(level: &str, code: &str, description: &str) -> Vec<(&'static str, Value)> {
    vec![
        ("level", Value::string(level)),
        ("code", Value::string(code)),
        ("description", Value::string(description)),
    ]
}

/// Both objects of the `_result` of `connect`.
///
/// `object_encoding` is the client's own. The Enhanced RTMP keys are for clients that have sent
/// theirs: older ones do not expect objects in there.
pub(super) fn connect_result(object_encoding: f64, enhanced: bool) -> Vec<Value> {
    let properties = Value::object([
        ("fmsVer", Value::string(FMS_VERSION)),
        ("capabilities", Value::Number(127.0)),
        ("mode", Value::Number(1.0)),
    ]);
    let mut info = status("NetConnection.Connect.Success", "Connection succeeded.");
    info.push(("objectEncoding", Value::Number(object_encoding)));
    if enhanced {
        info.push(("capsEx", caps_ex(true)));
        info.push(("videoFourCcInfoMap", any_codec()));
        info.push(("audioFourCcInfoMap", any_codec()));
    }
    vec![properties, Value::object(info)]
}
