//! HTTP/2: one connection that carries streams of many pages. Each of them can be cut without the others.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::Extensions;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioIo;
use hyper_util::rt::TokioTimer;
use tokio_util::task::TaskTracker;

use crate::http::listener::ListenerLimits;
use crate::http::listener::Signals;
use crate::http::service::Service;
use crate::http::socket::Socket;
use crate::transport::Uptake;
use crate::transport::Workers;

/// How HTTP/2 begins (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests of one connection at a time.
const STREAMS_MAX: u32 = 256;
/// Bytes of one list of header fields, and of the table that they may refer to.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// Requests that were taken back before anybody looked at them (rapid reset, CVE-2023-44487).
const RESETS_PENDING_MAX: usize = 32;
/// Streams that a client made us reset (CVE-2025-8671).
const RESETS_CAUSED_MAX: usize = 256;
/// Bytes that wait in one stream for its window.
const UNSENT_BYTES_MAX: usize = 64 * 1024;
/// How often a connection is asked whether it is there.
const PING_EVERY: Duration = Duration::from_secs(20);

tokio::task_local! {
    /// Of the stream that the task carries.
    static UPTAKE: Arc<Uptake>;
}

/// Serves requests until the connection ends.
pub(super) async fn serve(
    socket: Socket,
    service: Service,
    limits: &ListenerLimits,
    workers: Workers,
    signals: Signals,
) {
    let streams = TaskTracker::new();
    let executor = Streams { workers, streams: streams.clone() };
    let mut served = pin!(builder(executor, limits).serve_connection(TokioIo::new(socket), service));
    tokio::select! {
        _ = served.as_mut() => return,
        () = signals.leave.cancelled() => {}
        () = idle(&streams, limits.idle) => {}
    }
    served.as_mut().graceful_shutdown();
    drop(served.await);
}

/// Ends when the connection has carried nothing for a while.
async fn idle(streams: &TaskTracker, idle_max: Duration) {
    let mut quiet = 0;
    while quiet < 2 {
        tokio::time::sleep(idle_max / 2).await;
        quiet = if streams.is_empty() { quiet + 1 } else { 0 };
    }
}

fn builder(executor: Streams, limits: &ListenerLimits) -> http2::Builder<Streams> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESETS_PENDING_MAX)
        .max_local_error_reset_streams(RESETS_CAUSED_MAX)
        .max_send_buf_size(UNSENT_BYTES_MAX)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(limits.head_timeout);
    builder
}

/// Tells the request whose task this is how its stream is cut.
pub(super) fn introduce(extensions: &mut Extensions) {
    if let Ok(uptake) = UPTAKE.try_with(Arc::clone) {
        extensions.insert(uptake);
    }
}

/// Puts hyper's tasks, one for each request, under an owner that waits for them.
#[derive(Debug, Clone)]
struct Streams {
    workers: Workers,
    /// Of this connection.
    streams: TaskTracker,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, request: F) {
        self.workers.spawn(self.streams.track_future(carry(request)));
    }
}

/// Drops the request when its stream is cut or does not take what it is offered; for its client that is a reset of this stream.
fn carry(request: impl Future<Output = ()>) -> impl Future<Output = ()> {
    let uptake = Arc::<Uptake>::default();
    let known = Arc::clone(&uptake);
    UPTAKE.scope(known, async move {
        tokio::select! {
            biased; // whether it takes anything is known only after it was polled
            () = request => {}
            () = uptake.given_up() => {}
        }
    })
}
