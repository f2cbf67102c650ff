//! An HTTP backend that hooks call: it keeps what it is told, and answers as the test says.
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper::body::Frame;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::{free_address, seconds, wait_until};

/// One request.
#[derive(Clone, Debug)]
pub struct Call {
    /// `action` of the body.
    pub action: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Value,
}

/// What it answers.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status and a body.
    Say(u16, String),
    /// Nothing.
    Hang,
    /// Yes, once [`HookServer::release`] was called.
    Hold,
    /// A body of this type.
    Typed(&'static str, &'static str),
    /// To ask somebody else.
    Redirect(String),
    /// A body without an end: this again and again, and after each a pause.
    Pour(&'static str, Duration),
}

/// The backend; gone on drop.
pub struct HookServer {
    /// Where it listens.
    pub address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    calls: Mutex<Vec<Call>>,
    replies: Mutex<HashMap<String, Reply>>,
    released: watch::Sender<bool>,
}

impl HookServer {
    /// Starts one that says yes to all.
    pub fn start() -> Self {
        Self::start_at(free_address())
    }

    /// As `start`, at this address.
    pub fn start_at(address: SocketAddr) -> Self {
        let shared = Arc::new(Shared {
            calls: Mutex::default(),
            replies: Mutex::default(),
            released: watch::Sender::new(false),
        });
        let (stop, stopped) = oneshot::channel();
        let router = Router::new().fallback(called).with_state(Arc::clone(&shared));
        let listener = std::net::TcpListener::bind(address).expect("the backend's address");
        listener.set_nonblocking(true).expect("socket option");
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                // Whoever hangs is not waited for.
                tokio::select! {
                    served = axum::serve(listener, router) => served.expect("to serve"),
                    _ = stopped => {}
                }
            });
        });
        Self { address, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}/api/v1/hook?key=hush", self.address)
    }

    /// All six hooks at it, for `[vhost.hooks]`.
    pub fn all(&self) -> String {
        let hooks = ["connect", "close", "publish", "unpublish", "play", "stop"];
        let lines = hooks.map(|hook| format!("on_{hook} = \"{}\"\n", self.url()));
        format!("enabled = true\n{}", lines.concat())
    }

    /// Answers `action` so from now on.
    pub fn answer(&self, action: &str, reply: Reply) {
        self.shared.replies.lock().unwrap().insert(action.to_owned(), reply);
    }

    /// Says yes to all again.
    pub fn accept_all(&self) {
        self.shared.replies.lock().unwrap().clear();
    }

    /// Answers what is held.
    pub fn release(&self) {
        self.shared.released.send_replace(true);
    }

    /// What it was told so far.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }

    /// What it was told of `action`.
    pub fn of(&self, action: &str) -> Vec<Call> {
        self.calls().into_iter().filter(|call| call.action == action).collect()
    }

    /// Waits until it was told `n` times of `action`; gives them.
    #[track_caller]
    pub fn wait(&self, action: &str, n: usize) -> Vec<Call> {
        wait_until(&format!("{n} calls of {action}"), seconds(20), || self.of(action).len() >= n);
        let calls = self.of(action);
        assert_eq!(calls.len(), n, "{action}: {calls:?}");
        calls
    }
}

impl Drop for HookServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

async fn called(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let body: Value = serde_json::from_slice(&body).expect("a body of JSON");
    let action = body["action"].as_str().expect("an action").to_owned();
    let reply = shared.replies.lock().unwrap().get(&action).cloned();
    shared.calls.lock().unwrap().push(Call { action, headers, body });
    match reply {
        None => "0".into_response(),
        Some(Reply::Say(status, body)) => {
            (StatusCode::from_u16(status).unwrap(), body).into_response()
        }
        Some(Reply::Hang) => std::future::pending().await,
        Some(Reply::Hold) => {
            let released = shared.released.subscribe().wait_for(|is| *is).await.is_ok();
            assert!(released);
            "{\"code\":0}".into_response()
        }
        Some(Reply::Typed(kind, body)) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Some(Reply::Redirect(to)) => {
            (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, to)], "0").into_response()
        }
        Some(Reply::Pour(piece, pause)) => {
            let pause = (!pause.is_zero()).then(|| tokio::time::interval(pause));
            Response::new(Body::new(Pour { piece, pause }))
        }
    }
}

/// A body without an end.
struct Pour {
    piece: &'static str,
    pause: Option<tokio::time::Interval>,
}

impl hyper::body::Body for Pour {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.poll_tick(cx));
        }
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(self.piece.as_bytes())))))
    }
}
