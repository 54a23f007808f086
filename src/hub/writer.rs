//! The last hop of a stream whose socket the lane owns.
//!
//! As long as the socket takes everything, nothing is kept for it. What it does not take waits in the outbox, by its ladder,
//! until the socket can be written again.

use std::io;

use bytes::Buf as _;
use bytes::Bytes;
use bytes::BytesMut;

use crate::event::Channel;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::OutboxLimits;
use crate::hub::outbox::Pushes;
use crate::hub::outbox::Queue;
use crate::hub::wire::Socket;
use crate::hub::wire::Wire;

/// Bytes that are joined to one write when a socket can be written again. What is joined can no longer be conflated.
const JOINED_BYTES: usize = 16 * 1024;

/// A socket and what it has not taken yet.
#[derive(Debug)]
pub(super) struct Writer<S> {
    pub(super) socket: S,
    pub(super) wire: &'static Wire,
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whole frames, of the first of which a part may be written.
    rest: Bytes,
    /// The first position in it.
    rest_from: Option<LogId>,
    queue: Queue,
    end: Option<Bytes>,
    ended: bool,
}

/// How far a writer has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrote {
    /// Everything is written.
    All,
    /// The socket takes no more now.
    Blocked,
    /// Everything, the end included.
    Ended,
    /// The peer is gone.
    Gone,
}

impl<S: Socket> Writer<S> {
    pub(super) fn new(socket: S, wire: &'static Wire) -> Self {
        Self { socket, wire, waiting: None }
    }

    /// Whether something waits for the socket.
    pub(super) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Whether so much waits that what moves is better left out.
    pub(super) fn lags(&self, limits: OutboxLimits) -> bool {
        self.waiting.as_ref().is_some_and(|waiting| waiting.queue.lags(limits))
    }

    /// Sends frames, of which `bytes` are the encoded ones joined.
    pub(super) fn send<'a>(
        &mut self,
        frames: impl Iterator<Item = &'a Frame>,
        bytes: &[u8],
        limits: OutboxLimits,
    ) -> Pushes {
        let mut pushes = Pushes::default();
        let mut written = 0;
        if self.waiting.is_none() {
            match write(&mut self.socket, bytes) {
                Ok(all) if all == bytes.len() => return pushes,
                Ok(part) => written = part,
                Err(_) => {
                    pushes.end = Some(CloseReason::ClientGone);
                    return pushes;
                }
            }
        }
        let waiting = self.waiting.get_or_insert_default();
        for frame in frames {
            let encoded = self.wire.bytes(frame);
            if written >= encoded.len() {
                written -= encoded.len();
            } else if written > 0 {
                waiting.rest = encoded.slice(written..);
                waiting.rest_from = position(frame);
                written = 0;
            } else {
                pushes.add(frame, waiting.queue.push(frame.clone(), limits));
            }
        }
        pushes.unsent = waiting.queue.unsent.take();
        pushes
    }

    /// How much waits, whole events of what is being written not counted: events, bytes, and the first position.
    pub(super) fn backlog(&self) -> (usize, usize, Option<LogId>) {
        let Some(waiting) = &self.waiting else { return (0, 0, None) };
        let (events, bytes, from) = waiting.queue.backlog();
        (events, bytes + waiting.rest.len(), waiting.rest_from.or(from))
    }

    /// Sends the first frames, after what was gathered before the lane had the socket, in one write.
    pub(super) fn start(&mut self, unsent: Bytes, frames: &[Frame]) -> Wrote {
        // What was gathered before may be the end of a replay: as long as any of it waits, so may everything.
        let rest_from = if unsent.is_empty() { frames.iter().find_map(position) } else { Some(LogId::ZERO) };
        let mut all = BytesMut::from(unsent);
        frames.iter().for_each(|frame| all.extend_from_slice(&self.wire.bytes(frame)));
        self.waiting = Some(Box::new(Waiting { rest: all.freeze(), rest_from, ..Waiting::default() }));
        self.resume()
    }

    /// Goes on where the socket stopped taking.
    pub(super) fn resume(&mut self) -> Wrote {
        let Some(waiting) = &mut self.waiting else { return Wrote::All };
        loop {
            match write(&mut self.socket, &waiting.rest) {
                Ok(written) => waiting.rest.advance(written),
                Err(_) => return Wrote::Gone,
            }
            if !waiting.rest.is_empty() {
                return Wrote::Blocked;
            }
            if waiting.ended {
                self.socket.finish();
                return Wrote::Ended;
            }
            waiting.rest = waiting.next(self.wire);
            if waiting.rest.is_empty() && !waiting.ended {
                self.waiting = None;
                return Wrote::All;
            }
        }
    }

    /// Lets the stream end after what waits; a slow one instead of it, because its cursor brings that back.
    pub(super) fn end(&mut self, reason: CloseReason) -> Wrote {
        let end = (self.wire.end)(reason);
        let waiting = self.waiting.get_or_insert_default();
        waiting.queue.close(reason);
        waiting.end = Some(end);
        self.resume()
    }

    /// Takes back what waits of these channels and has not begun to be written.
    pub(super) fn purge(&mut self, channels: &[Channel]) {
        if let Some(waiting) = &mut self.waiting {
            waiting.queue.purge(channels);
        }
    }

    /// The socket, and everything that still waits, for whoever has to write it now.
    pub(super) fn into_all(mut self) -> (S, Bytes) {
        let Some(waiting) = &mut self.waiting else { return (self.socket, Bytes::new()) };
        let mut all = BytesMut::from(std::mem::take(&mut waiting.rest));
        while let Some(frame) = waiting.queue.pop() {
            all.extend_from_slice(&self.wire.bytes(&frame));
        }
        (self.socket, all.freeze())
    }

    /// The socket, and what must still be written into it so that what follows can be read.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket, self.waiting.map(|waiting| waiting.rest).unwrap_or_default())
    }
}

impl Waiting {
    /// What is to be written next.
    fn next(&mut self, wire: &Wire) -> Bytes {
        self.rest_from = None;
        let Some(first) = self.queue.pop() else {
            self.ended = self.end.is_some();
            return self.end.take().unwrap_or_default();
        };
        let mut joined = BytesMut::from(wire.bytes(&first));
        self.rest_from = position(&first);
        while joined.len() < JOINED_BYTES {
            let Some(frame) = self.queue.pop() else { break };
            self.rest_from = self.rest_from.or_else(|| position(&frame));
            joined.extend_from_slice(&wire.bytes(&frame));
        }
        joined.freeze()
    }
}

/// Where in the log an event stands.
fn position(frame: &Frame) -> Option<LogId> {
    frame.channel().and(frame.cursor()).map(|cursor| cursor.at)
}

/// Writes as much as the socket takes.
fn write(socket: &mut impl Socket, bytes: &[u8]) -> io::Result<usize> {
    let mut written = 0;
    while let Some(rest) = bytes.get(written..).filter(|rest| !rest.is_empty()) {
        match socket.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(more) => written += more,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}
