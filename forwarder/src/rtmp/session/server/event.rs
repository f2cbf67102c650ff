//! What a server session reports.

use crate::rtmp::amf0::Value;
use crate::rtmp::message::MediaMessage;
use crate::rtmp::session::{status, whole};

/// What `connect` carried.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectRequest {
    /// App as sent.
    pub app: String,
    /// tcUrl as sent.
    pub tc_url: String,
    /// Page that holds the player; may be empty.
    pub page_url: String,
    /// SWF's URL; may be empty.
    pub swf_url: String,
    /// Client's name of itself; may be empty.
    pub flash_ver: String,
    /// `fourCcList`, the info maps or `capsEx` were there: Enhanced RTMP.
    pub enhanced: bool,
    /// It understands a request to connect again (`capsEx`, Enhanced RTMP v2).
    pub reconnects: bool,
    /// An edge of ours: what it is told after `play` goes on to a player and is read by nobody before.
    pub unread: bool,
    /// The second argument object, if any (forwarding servers put their ids there).
    pub args: Option<Value>,
    /// The command object's own key `forwarder` (id and hop count), see [`super::super::ClientConfig`].
    /// Whoever sends it may lie: good to find loops, not to trust.
    pub forwarder: Option<(String, u32)>,
}

impl ConnectRequest {
    /// Reads the command object and the object after it; `None` without app or tcUrl.
    pub(super) fn from_args(args: Vec<Value>) -> Option<Self> {
        let mut args = args.into_iter();
        let object = args.next()?;
        let text = |key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
        let enhanced = ["fourCcList", "videoFourCcInfoMap", "audioFourCcInfoMap", "capsEx"];
        let forwarder = object.get("forwarder");
        let unread = forwarder.and_then(|forwarder| forwarder.get("unread")?.as_bool());
        Some(Self {
            app: text("app")?,
            tc_url: text("tcUrl")?,
            page_url: text("pageUrl").unwrap_or_default(),
            swf_url: text("swfUrl").unwrap_or_default(),
            flash_ver: text("flashVer").unwrap_or_default(),
            reconnects: object.get("capsEx").and_then(whole).is_some_and(status::reconnects),
            unread: unread.unwrap_or_default(),
            enhanced: enhanced.iter().any(|key| object.get(key).is_some()),
            args: args.next().filter(|v| matches!(v, Value::Object(_) | Value::EcmaArray(_))),
            forwarder: forwarder.and_then(loop_guard),
        })
    }
}

fn loop_guard(value: &Value) -> Option<(String, u32)> {
    let id = value.get("id")?.as_str()?.to_owned();
    Some((id, whole(value.get("hops")?)?))
}

/// What `publish` carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishRequest {
    /// Message stream it is for.
    pub msid: u32,
    /// Stream name as sent, with parameters.
    pub stream: String,
}

/// What `play` carried.
#[derive(Clone, Debug, PartialEq)]
pub struct PlayRequest {
    /// Message stream it is for.
    pub msid: u32,
    /// Stream name as sent, with parameters.
    pub stream: String,
    /// Whether Play.Reset is to be sent.
    pub reset: bool,
}

/// What happened.
#[derive(Debug, PartialEq)]
#[non_exhaustive]
pub enum ServerEvent<'a> {
    /// A message was dealt with inside; call `read` again.
    Progress,
    /// `connect`: answer with `accept_connect` or `reject_connect`.
    Connect(ConnectRequest),
    /// `publish`: answer with `accept_publish` or `reject`.
    Publish(PublishRequest),
    /// `play`: answer with `accept_play` or `reject`.
    Play(PlayRequest),
    /// Audio, video or data of a stream that is being published.
    Media(MediaMessage<'a>),
    /// The publish on this msid ended (FCUnpublish, closeStream, deleteStream); replies are queued.
    Unpublish(u32),
    /// The play on this msid ended (closeStream, deleteStream).
    StopPlay(u32),
    /// `pause`: true stops, false goes on; replies are queued.
    Pause(u32, bool),
    /// `receiveAudio`.
    ReceiveAudio(u32, bool),
    /// `receiveVideo`.
    ReceiveVideo(u32, bool),
    /// The answer to [`super::ServerSession::ping`], with the stamp it carried.
    Pong(u32),
}
