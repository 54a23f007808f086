//! The accept loop: bounds from the first byte on, HTTP/1.1 and HTTP/2 without TLS, and a way to cut one connection.
//!
//! `axum::serve` has no timeout before the head is complete, none for a connection that says nothing (hyper#3756), and no way
//! to end open streams.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::http::Response;
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http1;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use parking_lot::Mutex;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::http::takeover::Guarded;
use crate::http::takeover::Switch;
use crate::http::takeover::Taken;
use crate::http::takeover::Takeover;
use crate::limits::Connections;
use crate::limits::Silent;
use crate::limits::Socket;
use crate::telemetry::Metrics;
use crate::transport::plain;
use crate::transport::plain::MayClaim;
use crate::transport::plain::Surroundings;
use crate::transport::ws;
use crate::transport::ws::Way;

/// How HTTP/2 begins (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A peer that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Bounds of one listener.
#[derive(Debug, Clone)]
pub struct ListenerLimits {
    /// Connections at most, of each address and in all.
    pub connections: Connections,
    /// Longest request head, in bytes.
    pub head_bytes_max: usize,
    /// Where connections that were refused are counted.
    pub metrics: Metrics,
    /// How long the first byte and each whole request head may take.
    pub head_timeout: Duration,
    /// Plain streams leave hyper and write to their sockets themselves.
    pub takeover: bool,
    /// How often a peer that can answer is asked whether it is there.
    pub ping: Duration,
}

/// Binds a listener.
///
/// # Errors
/// The port is taken or may not be used.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    TcpListener::from_std(socket.into())
}

/// When connections are to end.
#[derive(Debug, Clone)]
pub struct Signals {
    /// After the answer that is under way, and no more are accepted: a page that comes back must not find the instance that it
    /// was told to leave.
    pub leave: CancellationToken,
    /// At once.
    pub stop: CancellationToken,
}

/// Accepts until it is told to stop; connections are tasks of the tracker.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    (limits, tasks): (ListenerLimits, TaskTracker),
    signals: Signals,
) {
    let around = Arc::new(Surroundings { tasks: tasks.clone(), stop: signals.stop.clone(), ping: limits.ping });
    loop {
        let accepted = tokio::select! {
            // Refused by the kernel, a proxy asks the next instance at once; an answer would have to send each client away.
            () = signals.leave.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors, for example: spinning would take the time from the streams that are open.
                tracing::warn!(%error, "can't accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        // Above the bound a connection is closed at once; an EventSource takes that as a reason to try again.
        let place = match limits.connections.socket(peer.ip()) {
            Ok(place) => place,
            Err(full) => {
                limits.metrics.reject("connection", full.as_str());
                continue;
            }
        };
        let around = Arc::clone(&around);
        tasks.spawn(connection(socket, peer, router.clone(), limits.clone(), around, signals.clone(), place));
    }
}

async fn connection(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    limits: ListenerLimits,
    around: Arc<Surroundings>,
    signals: Signals,
    place: Socket,
) {
    drop(tune(&socket));
    let kill = CancellationToken::new();
    let service = Service::new(router, peer, kill.clone(), limits.connections.silent(kill.clone()));
    let detected = tokio::select! {
        () = signals.stop.cancelled() => return,
        () = kill.cancelled() => return,
        detected = tokio::time::timeout(limits.head_timeout, is_http2(&socket)) => detected,
    };
    match detected {
        Ok(Ok(true)) => http2(socket, service, &limits, around.tasks.clone(), signals).await,
        Ok(Ok(false)) => {
            let taken = http1(socket, service, &limits, signals).await;
            // In a future of its own: while hyper serves, its room is not needed.
            let way = if limits.takeover { Way::Lane } else { Way::Task };
            match taken {
                None => {}
                Some((socket, _, Taken::Events { head, session })) => {
                    Box::pin(plain::serve(&head, socket, *session, around, place)).await;
                }
                Some((socket, heard, Taken::Socket { session, commands })) => {
                    Box::pin(ws::serve(socket, heard, (*session, commands), way, around, place)).await;
                }
            }
        }
        Ok(Err(_)) => {}
        Err(_) => limits.metrics.reject("connection", "silent"),
    }
}

async fn http2(socket: TcpStream, service: Service, limits: &ListenerLimits, tasks: TaskTracker, signals: Signals) {
    let kill = service.kill.clone();
    let served = http2_builder(tasks, limits).serve_connection(TokioIo::new(socket), service);
    tokio::pin!(served);
    tokio::select! {
        _ = served.as_mut() => {}
        () = kill.cancelled() => {}
        () = signals.leave.cancelled() => {
            served.as_mut().graceful_shutdown();
            drop(served.await);
        }
    }
}

/// Serves requests, until the connection ends or a stream takes it over.
async fn http1(
    socket: TcpStream,
    mut service: Service,
    limits: &ListenerLimits,
    signals: Signals,
) -> Option<(TcpStream, Bytes, Taken)> {
    let (takeover, kill) = (Takeover::default(), service.kill.clone());
    service.may_cut = true;
    service.takeover = limits.takeover.then(|| takeover.clone());
    service.switch = Some(takeover.switch());
    let mut served = http1_builder(limits).serve_connection(Guarded::new(socket, takeover.clone()), service);
    let mut leaving = false;
    let ended = loop {
        let serve = std::future::poll_fn(|cx| match served.poll_without_shutdown(cx) {
            _ if takeover.is_claimed() => Poll::Ready(Ok(())),
            polled => polled,
        });
        tokio::select! {
            () = kill.cancelled() => return None,
            ended = serve => break ended,
            () = signals.leave.cancelled(), if !leaving => leaving = true,
        }
        Pin::new(&mut served).graceful_shutdown();
    };
    if let Some(reason) = ended.as_ref().err().and_then(refusal) {
        limits.metrics.reject("connection", reason);
    }
    let taken = takeover.taken();
    let parts = ended.ok().map(|()| served.into_parts())?;
    let mut socket = parts.io.into_inner();
    if taken.is_none() {
        drop(socket.shutdown().await);
    }
    taken.map(|taken| (socket, parts.read_buf, taken))
}

/// Why hyper gave a connection up, where its client is to blame.
fn refusal(error: &hyper::Error) -> Option<&'static str> {
    if error.is_timeout() {
        Some("head_timeout")
    } else if error.is_parse_too_large() {
        Some("head_too_large")
    } else {
        error.is_parse().then_some("malformed")
    }
}

fn tune(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(30))
        .with_interval(Duration::from_secs(10))
        .with_retries(3);
    let socket = SockRef::from(socket);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

/// Decides by the first bytes, without taking them. Ends only when it is decided: the caller bounds the time.
async fn is_http2(socket: &TcpStream) -> io::Result<bool> {
    let mut head = [0_u8; PREFACE.len()];
    loop {
        socket.readable().await?;
        let read = match socket.peek(&mut head).await {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(error),
        };
        let (given, wanted) = (head.get(..read).unwrap_or(&[]), PREFACE.get(..read).unwrap_or(PREFACE));
        if given != wanted {
            return Ok(false);
        }
        if read == PREFACE.len() {
            return Ok(true);
        }
        // Peeking does not use the bytes up, so the socket stays readable: look again when more may have come.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn http1_builder(limits: &ListenerLimits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_timeout).max_buf_size(limits.head_bytes_max);
    builder
}

fn http2_builder(tasks: TaskTracker, limits: &ListenerLimits) -> http2::Builder<Tracked> {
    let mut builder = http2::Builder::new(Tracked(tasks));
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(256)
        .max_header_list_size(16 * 1024)
        .max_pending_accept_reset_streams(32)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(limits.head_timeout);
    builder
}

/// Puts hyper's tasks under an owner that waits for them.
#[derive(Debug, Clone)]
struct Tracked(TaskTracker);

impl<F> Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

/// The router, with what is known of the connection put into each request.
#[derive(Debug)]
struct Service {
    router: Router,
    peer: SocketAddr,
    /// Cuts the connection.
    kill: CancellationToken,
    /// Requests may do that. Not on HTTP/2, where one carries streams of many pages: none of them may cut the others.
    may_cut: bool,
    /// Until the first request is there.
    silent: Mutex<Option<Silent>>,
    takeover: Option<Takeover>,
    switch: Option<Switch>,
}

impl Service {
    fn new(router: Router, peer: SocketAddr, kill: CancellationToken, silent: Silent) -> Self {
        let silent = Mutex::new(Some(silent));
        Self { router, peer, kill, may_cut: false, silent, takeover: None, switch: None }
    }
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        drop(self.silent.lock().take());
        let takeover = self.takeover.clone().filter(|takeover| takeover.is_possible(&request));
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(self.peer));
        if self.may_cut {
            extensions.insert(self.kill.clone());
        }
        self.switch.iter().for_each(|switch| drop(extensions.insert(switch.clone())));
        let Some(takeover) = takeover else { return Box::pin(self.router.clone().oneshot(request)) };
        extensions.insert(MayClaim);
        let answer = self.router.clone().oneshot(request);
        Box::pin(async move { answer.await.map(|response| takeover.take_for(response)) })
    }
}
