//! Connections to backends: names that are looked up without taking all threads, and TLS.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::vec;

use hyper::Uri;
use hyper::http::uri::Scheme;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::config::{Destination, Live};
use crate::look_ups::LookUps;
use crate::tls::{Target, Tls};

/// What backends with TLS are held to: the same as destinations and origins.
#[derive(Clone, Debug)]
pub struct Held {
    /// The authorities that are trusted.
    pub tls: Arc<Tls>,
    /// `[tls]` in it, as it is when a connection begins.
    pub live: Arc<Live>,
}

/// Connects, with TLS if the URL says so.
#[derive(Clone, Debug)]
pub(super) struct Connector {
    tcp: HttpConnector<Resolver>,
    held: Held,
}

type Pending<T, E> = Pin<Box<dyn Future<Output = Result<T, E>> + Send>>;
type AnyError = Box<dyn std::error::Error + Send + Sync>;

impl Connector {
    pub(super) fn new(held: Held) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::default());
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        Self { tcp, held }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Wire>;
    type Error = AnyError;
    type Future = Pending<Self::Response, AnyError>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AnyError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let (connecting, held) = (self.tcp.call(uri.clone()), self.held.clone());
        Box::pin(async move {
            let io = connecting.await?.into_inner();
            let wire = match uri.scheme() == Some(&Scheme::HTTPS) {
                true => Wire::Tls(Box::new(held.secure(io, &uri).await?)),
                false => Wire::Plain(io),
            };
            Ok(TokioIo::new(wire))
        })
    }
}

impl Held {
    async fn secure(&self, io: TcpStream, uri: &Uri) -> Result<TlsStream<TcpStream>, AnyError> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let to = Destination { host, port: uri.port_u16().unwrap_or(HTTPS_PORT), tls: true };
        let config = self.live.now();
        let (ca, verify) = (config.tls.ca.as_deref(), !config.tls.insecure.contains(&to));
        let target = Target { host: &to.host, ca, verify };
        Ok(self.tls.agree(io, target, CONNECT_TIMEOUT).await?)
    }
}

/// A connection to a backend.
pub(super) enum Wire {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, bytes),
            Self::Tls(io) => Pin::new(io).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

/// The system's resolver. Its own: destinations whose names hang take no place of a backend's.
#[derive(Clone, Debug, Default)]
struct Resolver(Arc<LookUps>);

impl Service<Name> for Resolver {
    type Response = vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pending<Self::Response, io::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let look_ups = Arc::clone(&self.0);
        Box::pin(async move {
            // The port is the URL's.
            let found = look_ups.look_up(name.as_str(), 0).await;
            found.map(Vec::into_iter).map_err(io::Error::other)
        })
    }
}

/// How long a TCP connect may take, all addresses of the name together; and then TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The port that goes without saying (RFC 9110 section 4.2.2).
const HTTPS_PORT: u16 = 443;
