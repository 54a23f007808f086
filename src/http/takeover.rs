//! How a stream gets its connection from hyper.
//!
//! hyper reads the request and runs the router as ever. When the answer claims the connection, its head is kept aside, hyper is
//! given an empty answer, and what hyper writes from then on is swallowed; the connection's task sees that and takes the socket
//! out of hyper. So a live stream keeps neither hyper's buffers (about 10 KB) nor a task.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::task::Context;
use std::task::Poll;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::Method;
use axum::http::Request;
use axum::http::Response;
use axum::http::Version;
use axum::http::header;
use hyper::body::Body as _;
use hyper::body::Incoming;
use hyper::rt::Read;
use hyper::rt::ReadBufCursor;
use hyper::rt::Write;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;

use crate::clock;
use crate::http::socket::Socket;
use crate::session::Session;
use crate::transport::plain::Claim;
use crate::transport::ws::Commands;

/// What the connection's task and its requests share.
#[derive(Debug, Clone, Default)]
pub(super) struct Takeover(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// What hyper writes is swallowed.
    claimed: AtomicBool,
    /// hyper has bytes that the socket would not take yet.
    blocked: AtomicBool,
    taken: Mutex<Option<Taken>>,
}

/// A stream that takes a connection over.
#[derive(Debug)]
pub(super) enum Taken {
    /// An event stream, whose head hyper has not written.
    Events {
        /// Status line and header fields, the empty line included.
        head: Vec<u8>,
        session: Box<Session>,
    },
    /// A WebSocket, after `101`.
    Socket { session: Box<Session>, commands: Arc<dyn Commands> },
}

/// In a request's extensions: its connection can switch protocols.
#[derive(Debug, Clone)]
pub(super) struct Switch(Arc<State>);

impl Switch {
    /// The connection is this stream's as soon as hyper has written `101` and lets go of it.
    pub(super) fn claim(&self, session: Session, commands: Arc<dyn Commands>) {
        *self.0.taken.lock() = Some(Taken::Socket { session: Box::new(session), commands });
    }
}

impl Takeover {
    /// Whether the answer to this request could have the connection: no body that could still come, none of an earlier answer that is
    /// still to go, and a client that can read chunks.
    pub(super) fn is_possible(&self, request: &Request<Incoming>) -> bool {
        let plain = request.method() == Method::GET && request.version() == Version::HTTP_11;
        plain && request.body().is_end_stream() && !self.0.blocked.load(Ordering::Acquire)
    }

    /// Takes the connection for an answer that claims it.
    pub(super) fn take_for(&self, mut response: Response<Body>) -> Response<Body> {
        let claim = response.extensions_mut().remove::<Claim>();
        let Some(session) = claim.and_then(|claim| claim.take()) else { return response };
        *self.0.taken.lock() = Some(Taken::Events { head: head(&mut response), session });
        self.0.claimed.store(true, Ordering::Release);
        Response::new(Body::empty())
    }

    /// For requests that may switch protocols.
    pub(super) fn switch(&self) -> Switch {
        Switch(Arc::clone(&self.0))
    }

    pub(super) fn is_claimed(&self) -> bool {
        self.0.claimed.load(Ordering::Acquire)
    }

    pub(super) fn taken(&self) -> Option<Taken> {
        self.0.taken.lock().take()
    }
}

fn head(response: &mut Response<Body>) -> Vec<u8> {
    let date = HeaderValue::from_str(&clock::http_date(clock::now_us()));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH); // that of the empty body which stands for the stream
    headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    // Nothing follows the stream on this connection.
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    date.into_iter().for_each(|date| drop(headers.insert(header::DATE, date)));
    let mut head = b"HTTP/1.1 200 OK\r\n".to_vec();
    for (name, value) in response.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// A socket as hyper sees it.
#[derive(Debug)]
pub(super) struct Guarded {
    io: TokioIo<Socket>,
    takeover: Takeover,
}

impl Guarded {
    pub(super) fn new(socket: Socket, takeover: Takeover) -> Self {
        Self { io: TokioIo::new(socket), takeover }
    }

    pub(super) fn into_inner(self) -> Socket {
        self.io.into_inner()
    }

    fn noting<T>(&self, poll: Poll<T>) -> Poll<T> {
        self.takeover.0.blocked.store(poll.is_pending(), Ordering::Release);
        poll
    }
}

impl Read for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        if self.takeover.is_claimed() {
            return Poll::Pending; // what the client says now is not hyper's any more
        }
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl Write for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.takeover.is_claimed() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let poll = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.noting(poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.takeover.is_claimed() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.takeover.is_claimed() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.takeover.is_claimed() {
            return Poll::Ready(Ok(bufs.iter().map(|buf| buf.len()).sum()));
        }
        let poll = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.noting(poll)
    }
}
