//! A WebSocket from its first byte to its last: caught up by a task, then owned by its lane or, where a lane can't own it, driven by
//! that task.

use std::io;
use std::net::TcpStream as StdStream;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWrite;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::Keeper;
use crate::hub::LIVELY;
use crate::hub::Refused;
use crate::hub::Reply;
use crate::hub::Seat;
use crate::limits::SocketPlace;
use crate::session::Opening;
use crate::session::Output;
use crate::session::Session;
use crate::session::Step;
use crate::session::Transport;
use crate::transport::plain::END_UNREAD_MAX;
use crate::transport::plain::STALLED_MAX;
use crate::transport::plain::Surroundings;
use crate::transport::plain::UNSENT_BYTES;
use crate::transport::ws::Commands;
use crate::transport::ws::Hearing;
use crate::transport::ws::outgoing;
use crate::transport::ws::outgoing::FRAMED;

/// Bytes of one read.
const READ_BYTES: usize = 4 * 1024;

/// Carries a stream over a socket that has just switched protocols, which its lane writes to while it is live. `heard` is what the
/// client has said since.
pub async fn serve(
    socket: TcpStream,
    heard: Bytes,
    (session, commands): (Session, Arc<dyn Commands>),
    around: Arc<Surroundings>,
    place: SocketPlace,
) {
    let stop = around.stop.clone();
    let opening = Opening::new(session, Transport::Ws);
    let hearing = Hearing::new(Arc::clone(opening.live()), commands, around.workers.clone());
    let stream = Stream { opening, hearing, around, _place: place };
    note(Box::pin(stop.run_until_cancelled(stream.begin(socket, heard))).await);
}

/// The same where a lane can't own the socket, or is not to: the connection's task writes to it until the end.
pub async fn serve_in_task<S>(
    socket: S,
    heard: Bytes,
    (session, commands): (Session, Arc<dyn Commands>),
    around: Arc<Surroundings>,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let stop = around.stop.clone();
    note(Box::pin(stop.run_until_cancelled(drive(socket, heard, session, commands, around))).await);
}

fn note(ended: Option<io::Result<()>>) {
    if let Some(Err(error)) = ended {
        tracing::debug!(%error, "a WebSocket ended by its connection");
    }
}

/// A stream that is not in a lane's hands, or that the lane keeps for later.
#[derive(Debug)]
struct Stream {
    opening: Opening,
    hearing: Hearing,
    around: Arc<Surroundings>,
    /// Its place among the connections of the listener.
    _place: SocketPlace,
}

impl Keeper<StdStream> for Stream {
    fn seated(&mut self) {
        self.opening.joined();
    }

    fn listens(&self) -> bool {
        true
    }

    fn received(&mut self, bytes: &[u8]) -> Reply {
        self.hearing.received(bytes)
    }

    fn ping(&mut self) -> Reply {
        self.hearing.ping()
    }

    fn back(mut self: Box<Self>, handle: StdStream, unsent: Bytes, why: Refused) {
        self.opening.refused(why);
        let (workers, stop) = (self.around.workers.clone(), self.around.stop.clone());
        workers.spawn(async move {
            let Ok(socket) = TcpStream::from_std(handle) else { return };
            drop(Box::pin(stop.run_until_cancelled(self.catch_up(socket, BytesMut::from(unsent)))).await);
        });
    }

    fn ended(mut self: Box<Self>, reason: CloseReason) {
        self.opening.because(reason);
    }
}

fn put(out: &mut BytesMut, frames: impl IntoIterator<Item = Frame>) {
    frames.into_iter().for_each(|frame| out.extend_from_slice(&FRAMED.bytes(&frame)));
}

impl Stream {
    async fn begin(mut self, socket: TcpStream, heard: Bytes) -> io::Result<()> {
        let reply = self.hearing.received(&heard);
        let mut unsent = BytesMut::new();
        put(&mut unsent, reply.frames);
        match reply.end {
            Some(reason) => self.finish(socket, unsent, reason).await,
            None => self.catch_up(socket, unsent).await,
        }
    }

    /// Writes what the stream has missed, hearing its client all the while, then hands the socket and itself to the lane.
    async fn catch_up(mut self, mut socket: TcpStream, mut unsent: BytesMut) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let step = {
                let mut next = pin!(self.opening.next());
                loop {
                    tokio::select! {
                        biased;
                        step = &mut next => break Ok(step),
                        read = socket.read(&mut buffer) => {
                            let bytes = buffer.get(..read?).filter(|bytes| !bytes.is_empty());
                            let reply = self.hearing.received(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
                            put(&mut unsent, reply.frames);
                            if let Some(reason) = reply.end {
                                break Err(reason);
                            }
                        }
                    }
                }
            };
            match step {
                Ok(Step::Frames(frames)) => put(&mut unsent, frames),
                Ok(Step::Join) => break,
                Ok(Step::Problem(error)) => {
                    put(&mut unsent, [outgoing::error(None, &error)]);
                    return self.finish(socket, unsent, CloseReason::Problem).await;
                }
                Ok(Step::End(reason)) | Err(reason) => return self.finish(socket, unsent, reason).await,
            }
            if unsent.len() >= UNSENT_BYTES {
                write(&mut socket, &mut unsent).await?;
            }
        }
        let hub = self.opening.sessions().hub.clone();
        let register = self.opening.register_parts();
        let (handle, unsent) = (socket.into_std()?, unsent.freeze());
        hub.join(register(Seat::Socket { handle, unsent, wire: &FRAMED, keeper: Box::new(self) })).await;
        Ok(())
    }

    async fn finish(mut self, socket: TcpStream, mut unsent: BytesMut, reason: CloseReason) -> io::Result<()> {
        self.opening.because(reason);
        self.hearing.waiting.forget();
        if reason != CloseReason::Closed {
            unsent.extend_from_slice(&(FRAMED.end)(reason));
        }
        finish(socket, unsent).await
    }
}

async fn write(socket: &mut (impl AsyncWrite + Unpin), unsent: &mut BytesMut) -> io::Result<()> {
    tokio::time::timeout(STALLED_MAX, socket.write_all(unsent)).await??;
    unsent.clear();
    Ok(())
}

/// Says the last, and lets the client close: closed at once, the connection might take that back.
async fn finish(mut socket: impl AsyncRead + AsyncWrite + Unpin, mut unsent: BytesMut) -> io::Result<()> {
    write(&mut socket, &mut unsent).await?;
    tokio::time::timeout(END_UNREAD_MAX, socket.shutdown()).await??;
    let mut ignored = tokio::io::sink();
    drop(tokio::time::timeout(END_UNREAD_MAX, tokio::io::copy(&mut socket, &mut ignored)).await);
    Ok(())
}

/// The same stream through a queue.
async fn drive(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    heard: Bytes,
    session: Session,
    commands: Arc<dyn Commands>,
    around: Arc<Surroundings>,
) -> io::Result<()> {
    let live = Arc::clone(session.live());
    let mut hearing = Hearing::new(Arc::clone(&live), commands, around.workers.clone());
    let kill = CancellationToken::new();
    let mut outputs = pin!(session.into_stream(Transport::Ws, kill.clone()));
    let often = around.ping.min(LIVELY);
    let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + often, often);
    let mut asked = tokio::time::Instant::now();
    let (mut unsent, mut buffer) = (BytesMut::new(), vec![0; READ_BYTES]);
    let mut reply = hearing.received(&heard);
    loop {
        put(&mut unsent, std::mem::take(&mut reply.frames));
        if let Some(reason) = reply.end {
            if reason != CloseReason::Closed {
                unsent.extend_from_slice(&(FRAMED.end)(reason));
            }
            live.ends(reason);
            hearing.waiting.forget();
            return finish(socket, unsent).await;
        }
        tokio::select! {
            () = kill.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            written = write(&mut socket, &mut unsent) => written?,
        }
        tokio::select! {
            () = kill.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            output = outputs.next() => match output {
                Some(Output::Frames(frames)) => put(&mut unsent, frames),
                Some(Output::Problem(error)) => {
                    put(&mut unsent, [outgoing::error(None, &error)]);
                    reply.end = Some(CloseReason::Problem);
                }
                Some(Output::End(reason)) => reply.end = Some(reason),
                None => reply.end = Some(CloseReason::Shutdown),
            },
            read = socket.read(&mut buffer) => {
                let bytes = buffer.get(..read?).filter(|bytes| !bytes.is_empty());
                reply = hearing.received(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            }
            _ = ping.tick() => if live.is_seen() || asked.elapsed() + often / 2 >= around.ping {
                asked = tokio::time::Instant::now();
                reply = hearing.ping();
            },
        }
    }
}
