//! The accept loop: bounds from the first byte on, HTTP/1.1 and HTTP/2, with TLS or without, and a way to cut one connection.
//!
//! `axum::serve` has no timeout before the head is complete, none for a connection that says nothing (hyper#3756), and no way
//! to end open streams.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use bytes::Bytes;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use socket2::SockRef;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::http::http2;
use crate::http::http2::PREFACE;
use crate::http::service::Service;
use crate::http::socket::Socket;
use crate::http::takeover::Guarded;
use crate::http::takeover::Taken;
use crate::http::takeover::Takeover;
use crate::http::tls::Tls;
use crate::limits::Connections;
use crate::limits::Full;
use crate::limits::SocketPlace;
use crate::telemetry::Metrics;
use crate::transport::Uptake;
use crate::transport::Workers;
use crate::transport::plain;
use crate::transport::plain::Surroundings;
use crate::transport::ws;

/// A peer that acknowledges nothing for so long is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that wait in the kernel for the client's window. Left alone the kernel takes megabytes of each who does not read, and where
/// that adds up to its bound for all of TCP, everybody's packets are dropped; and what waits here can't be superseded any more.
const UNSENT_BYTES_MAX: u32 = 64 * 1024;

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
    /// How long a connection of HTTP/2 may be there for nothing.
    pub idle: Duration,
    /// Where it is spoken, nothing else is.
    pub tls: Option<Tls>,
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

/// Accepts until it is told to stop; connections are tasks of the workers.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    (limits, workers): (ListenerLimits, Workers),
    signals: Signals,
) {
    let around = Arc::new(Surroundings { workers: workers.clone(), stop: signals.stop.clone(), ping: limits.ping });
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
        let place = match place(&limits.connections, peer).await {
            Ok(place) => place,
            Err(full) => {
                limits.metrics.reject("connection", full.as_str());
                continue;
            }
        };
        let around = Arc::clone(&around);
        // Idle from now on, not from the moment at which its task comes to run.
        let service = Service::new(router.clone(), peer, limits.connections.activity());
        workers.spawn(connection(socket, service, limits.clone(), around, signals.clone(), place));
    }
}

async fn place(connections: &Connections, peer: SocketAddr) -> Result<SocketPlace, Full> {
    loop {
        match connections.socket(peer.ip()) {
            Err(Full::Instance) if connections.make_room().await => {}
            placed => return placed,
        }
    }
}

async fn connection(
    socket: TcpStream,
    service: Service,
    limits: ListenerLimits,
    around: Arc<Surroundings>,
    signals: Signals,
    place: SocketPlace,
) {
    drop(tune(&socket));
    let activity = Arc::clone(&service.activity);
    let taken = tokio::select! {
        biased; // what it asks counts, also in the moment in which it has to give way
        taken = carry(socket, service, &limits, (&around, signals)) => taken,
        () = activity.evicted() => {
            limits.metrics.reject("connection", "evicted");
            None
        }
    };
    drop(activity); // a stream is never idle
    match taken {
        None => {}
        Some((Socket::Plain(socket), _, Taken::Events { head, session })) => {
            Box::pin(plain::serve(&head, socket, *session, around, place)).await;
        }
        Some((Socket::Plain(socket), heard, Taken::Socket { session, commands })) if limits.takeover => {
            Box::pin(ws::serve(socket, heard, (*session, commands), around, place)).await;
        }
        Some((socket, heard, Taken::Socket { session, commands })) => {
            Box::pin(ws::serve_in_task(socket, heard, (*session, commands), around)).await;
        }
        Some((Socket::Tls(_), _, Taken::Events { .. })) => {} // never claimed: see `http1`
    }
}

/// Serves requests, until the connection ends or a stream takes it over.
async fn carry(
    socket: TcpStream,
    service: Service,
    limits: &ListenerLimits,
    (around, signals): (&Surroundings, Signals),
) -> Option<(Socket, Bytes, Taken)> {
    let (socket, is_http2) = tokio::select! {
        begun = begin(socket, limits) => begun?,
        () = signals.stop.cancelled() => return None,
    };
    if is_http2 {
        http2::serve(socket, service, limits, around.workers.clone(), signals).await;
        return None;
    }
    http1(socket, service, limits, signals).await
}

/// What speaks there, and whether it is HTTP/2, once that is known; `None` when it is not known in time.
async fn begin(socket: TcpStream, limits: &ListenerLimits) -> Option<(Socket, bool)> {
    let Some(tls) = &limits.tls else {
        let decided = tokio::time::timeout(limits.head_timeout, is_http2(&socket)).await;
        let is_http2 = decided.inspect_err(|_| limits.metrics.reject("connection", "silent")).ok()?.ok()?;
        return Some((Socket::Plain(socket), is_http2));
    };
    let accepted = tokio::time::timeout(limits.head_timeout, Box::pin(tls.accept(socket))).await;
    tls.count(match &accepted {
        Ok(Ok(_)) => "done",
        Ok(Err(_)) => "failed",
        Err(_) => "timeout",
    });
    accepted.ok()?.ok()
}

/// The same for HTTP/1.1.
async fn http1(
    socket: Socket,
    mut service: Service,
    limits: &ListenerLimits,
    signals: Signals,
) -> Option<(Socket, Bytes, Taken)> {
    let (takeover, uptake) = (Takeover::default(), Arc::<Uptake>::default());
    service.uptake = Some(Arc::clone(&uptake));
    service.takeover = (limits.takeover && socket.is_plain()).then(|| takeover.clone());
    service.switch = Some(takeover.switch());
    let mut served = http1_builder(limits).serve_connection(Guarded::new(socket, takeover.clone()), service);
    let mut leaving = false;
    let ended = loop {
        let serve = std::future::poll_fn(|cx| match served.poll_without_shutdown(cx) {
            _ if takeover.is_claimed() => Poll::Ready(Ok(())),
            polled => polled,
        });
        tokio::select! {
            biased; // whether a stream takes anything is known only after hyper was polled
            ended = serve => break ended,
            () = signals.leave.cancelled(), if !leaving => leaving = true,
            () = uptake.given_up() => return None,
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
        drop(tokio::time::timeout(limits.head_timeout, socket.shutdown()).await);
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
    socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
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
