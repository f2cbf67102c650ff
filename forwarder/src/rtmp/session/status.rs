//! The information objects of statuses and replies.

use crate::rtmp::amf0::Value;

/// The version Adobe's servers gave; librtmp and FFmpeg read the number, SRS sends the same.
const FMS_VERSION: &str = "FMS/3,5,3,888";

/// Enhanced RTMP v2 `capsEx`: reconnect, multitrack, ModEx and nanosecond offsets.
pub(super) const CAPS_EX: f64 = 15.0;

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
        let any = || Value::object([("*", Value::Number(CAN_FORWARD))]);
        info.push(("capsEx", Value::Number(CAPS_EX)));
        info.push(("videoFourCcInfoMap", any()));
        info.push(("audioFourCcInfoMap", any()));
    }
    vec![properties, Value::object(info)]
}
