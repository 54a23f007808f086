//! `text/event-stream` on a plain HTTP/1.1 connection: the stream takes the socket over from hyper, and while it is live its lane
//! writes to it. That is what arrives behind a balancer, and it costs what the kernel costs (docs/performance.md).

use std::io;
use std::net::TcpStream as StdStream;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use axum::http::Response;
use bytes::BufMut as _;
use bytes::Bytes;
use bytes::BytesMut;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::hub::CloseReason;
use crate::hub::Format;
use crate::hub::Frame;
use crate::hub::Keeper;
use crate::hub::Refused;
use crate::hub::Seat;
use crate::hub::Wire;
use crate::limits::SocketPlace;
use crate::session::Opening;
use crate::session::Session;
use crate::session::Step;
use crate::session::Transport;
use crate::transport::Workers;
use crate::transport::sse;

/// A client that takes nothing of its replay for so long is cut.
pub(super) const STALLED_MAX: Duration = Duration::from_secs(30);
/// Bytes of a replay that are gathered for one write.
pub(super) const UNSENT_BYTES: usize = 16 * 1024;
/// How long a client may take to close after it was told why it can't be served.
pub(super) const END_UNREAD_MAX: Duration = Duration::from_secs(5);
/// The last chunk of a body (RFC 9112 §7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Events as chunks of an HTTP/1.1 body.
static CHUNKED: Wire = Wire { format: Format::SseChunk, encode: encode_chunk, end: last_chunks };

/// In a request's extensions: its connection can be taken over.
#[derive(Debug, Clone, Copy)]
pub struct MayClaim;

/// In an answer's extensions: the stream that wants the connection. (Extensions must be `Clone`.)
#[derive(Debug, Clone)]
pub struct Claim(Arc<Mutex<Option<Box<Session>>>>);

impl Claim {
    /// Takes the stream out, once.
    #[must_use]
    pub fn take(&self) -> Option<Box<Session>> {
        self.0.lock().take()
    }
}

/// What takes part in a connection's life beside its stream; the same for all of a listener.
#[derive(Debug)]
pub struct Surroundings {
    /// Where its tasks run.
    pub workers: Workers,
    /// When to stop at once.
    pub stop: CancellationToken,
    /// How often a peer that can answer is asked whether it is there, where no lane does it.
    pub ping: Duration,
}

/// An answer with the head of a stream and the claim to its connection.
#[must_use]
pub fn respond(session: Box<Session>) -> Response<Body> {
    let mut response = sse::response(Body::empty());
    response.extensions_mut().insert(Claim(Arc::new(Mutex::new(Some(session)))));
    response
}

/// Carries the stream from its head until it joins its lane. `head` ends with the empty line; the body is chunked.
pub async fn serve(head: &[u8], socket: TcpStream, session: Session, around: Arc<Surroundings>, place: SocketPlace) {
    let mut first = BytesMut::from(head);
    put_chunk(&mut first, &sse::opening());
    let stream = Stream { opening: Opening::new(session, Transport::Sse), around, _place: place };
    stream.carry(socket, first.freeze()).await;
}

/// A stream that is not in a lane's hands, or that the lane keeps for later.
#[derive(Debug)]
struct Stream {
    opening: Opening,
    around: Arc<Surroundings>,
    /// Its place among the connections of the listener.
    _place: SocketPlace,
}

impl Keeper<StdStream> for Stream {
    fn seated(&mut self) {
        self.opening.joined();
    }

    fn back(mut self: Box<Self>, handle: StdStream, unsent: Bytes, why: Refused) {
        self.opening.refused(why);
        let workers = self.around.workers.clone();
        workers.spawn(async move {
            if let Ok(socket) = TcpStream::from_std(handle) {
                self.carry(socket, unsent).await;
            }
        });
    }

    fn ended(mut self: Box<Self>, reason: CloseReason) {
        self.opening.because(reason);
    }
}

impl Stream {
    async fn carry(self, socket: TcpStream, first: Bytes) {
        let stop = self.around.stop.clone();
        if let Some(Err(error)) = stop.run_until_cancelled(self.catch_up(socket, first)).await {
            tracing::debug!(%error, "a stream ended before it was live");
        }
    }

    /// Writes what the stream has missed, then hands the socket and itself to the lane. What is ready at once goes out at once,
    /// and where nothing has to be waited for that is a single write, the lane's.
    async fn catch_up(mut self, mut socket: TcpStream, first: Bytes) -> io::Result<()> {
        let mut unsent = BytesMut::from(first);
        loop {
            let step = {
                let mut next = std::pin::pin!(self.opening.next());
                match futures_util::poll!(next.as_mut()) {
                    Poll::Ready(step) if unsent.len() < UNSENT_BYTES => step,
                    Poll::Ready(step) => {
                        write(&mut socket, &mut unsent).await?;
                        step
                    }
                    Poll::Pending => {
                        write(&mut socket, &mut unsent).await?;
                        next.await
                    }
                }
            };
            match step {
                Step::Frames(frames) => frames.iter().for_each(|frame| unsent.extend_from_slice(&CHUNKED.bytes(frame))),
                Step::Join => break,
                Step::Problem(error) => {
                    put_chunk(&mut unsent, &sse::problem(&error));
                    return say(socket, unsent, LAST_CHUNK).await;
                }
                Step::End(reason) => return say(socket, unsent, &last_chunks(reason)).await,
            }
        }
        let hub = self.opening.sessions().hub.clone();
        let register = self.opening.register_parts();
        let (handle, unsent) = (socket.into_std()?, unsent.freeze());
        hub.join(register(Seat::Socket { handle, unsent, wire: &CHUNKED, keeper: Box::new(self) })).await;
        Ok(())
    }
}

async fn write(socket: &mut TcpStream, unsent: &mut BytesMut) -> io::Result<()> {
    tokio::time::timeout(STALLED_MAX, socket.write_all(unsent)).await??;
    unsent.clear();
    Ok(())
}

/// Says why the stream can't go on, and lets the client close: closed at once, the connection might take that back.
async fn say(mut socket: TcpStream, mut unsent: BytesMut, last: &[u8]) -> io::Result<()> {
    unsent.put_slice(last);
    write(&mut socket, &mut unsent).await?;
    socket.shutdown().await?;
    let mut ignored = tokio::io::sink();
    drop(tokio::time::timeout(END_UNREAD_MAX, tokio::io::copy(&mut socket, &mut ignored)).await);
    Ok(())
}

fn encode_chunk(frame: &Frame) -> Bytes {
    let event = sse::encode(frame);
    let mut out = BytesMut::with_capacity(event.len() + 16);
    put_chunk(&mut out, &event);
    out.freeze()
}

fn put_chunk(out: &mut BytesMut, bytes: &[u8]) {
    out.put_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

fn last_chunks(reason: CloseReason) -> Bytes {
    let mut out = BytesMut::new();
    if reason.is_said() {
        put_chunk(&mut out, &sse::end(reason));
    }
    out.put_slice(LAST_CHUNK);
    out.freeze()
}
