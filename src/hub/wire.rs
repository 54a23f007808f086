//! Between the hub and whoever reads: where frames go, how they look there, and who takes a socket back.

use std::fmt;
use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Event;
use crate::event::Id;
use crate::hub::CloseReason;
use crate::hub::Format;
use crate::hub::Frame;
use crate::hub::Outbox;

/// How a transport writes. The hub does not know what the bytes mean.
#[derive(Debug)]
pub struct Wire {
    /// Under which its bytes are kept with the frame.
    pub format: Format,
    /// A frame's bytes.
    pub encode: fn(&Frame) -> Bytes,
    /// The last bytes of a stream that ends for this reason.
    pub end: fn(CloseReason) -> Bytes,
}

impl Wire {
    /// The frame's bytes, encoded once for everybody.
    #[must_use]
    pub fn bytes(&self, frame: &Frame) -> Bytes {
        frame.encoded(self.format, self.encode)
    }
}

/// Where the frames of a stream go.
#[derive(Debug)]
pub enum Seat<H = TcpStream> {
    /// Into a socket that the lane owns from now on.
    Socket {
        /// The socket.
        handle: H,
        /// What is still to be written before everything else.
        unsent: Bytes,
        /// How frames look in it.
        wire: &'static Wire,
        /// Who takes it back when the stream has to catch up anew, and hears of its end.
        keeper: Box<dyn Keeper<H>>,
    },
    /// Into a queue that a task drains.
    Queue {
        /// The queue.
        outbox: Arc<Outbox>,
        /// Cuts the connection.
        kill: CancellationToken,
        /// Hears whether the stream has joined.
        joined: oneshot::Sender<Result<Cursor, Refused>>,
    },
}

impl<H> Seat<H> {
    pub(super) fn refuse(self, why: Refused) {
        match self {
            Self::Queue { joined, .. } => drop(joined.send(Err(why))),
            Self::Socket { handle, unsent, keeper, .. } => keeper.back(handle, unsent, why),
        }
    }
}

/// A stream as its session knows it; shared with the lane.
pub trait Holder: Send + Sync + fmt::Debug {
    /// Whose it is.
    fn user(&self) -> &Id;

    /// The number of its last edit.
    fn edition(&self) -> u32;

    /// The lane has done what this edit and those before it say.
    fn applied(&self, edition: u32);
}

/// Knows the states of channels that have one instead of a log. Asked on the lane's thread: must not block.
pub trait States: Send + Sync + fmt::Debug {
    /// The state as of now, and the number of the last event (`Moved`) that is part of it; nothing, where there is none.
    fn state(&self, channel: &Channel) -> Option<(Event, u64)>;
}

/// There are no such channels.
impl States for () {
    fn state(&self, _channel: &Channel) -> Option<(Event, u64)> {
        None
    }
}

/// Why a lane does not carry a stream, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Its channels have changed: look at them again.
    Edited,
    /// Too far behind: catch up and try again.
    Behind,
    /// The log began anew: start over with `reset`.
    Reopened,
    /// The lane has stopped.
    Stopped,
}

/// The session's side of a socket that a lane owns. Called on the lane's thread: must not block.
pub trait Keeper<H>: Send + fmt::Debug {
    /// The stream is live.
    fn seated(&mut self);

    /// Whether what the peer says is to be read.
    fn listens(&self) -> bool {
        false
    }

    /// What the peer has said.
    fn received(&mut self, _bytes: &[u8]) -> Reply {
        Reply::default()
    }

    /// It is time to ask the peer whether it is there.
    fn ping(&mut self) -> Reply {
        Reply::default()
    }

    /// Takes the socket back: send `unsent`, the rest of what was being written, then catch up.
    fn back(self: Box<Self>, handle: H, unsent: Bytes, why: Refused);

    /// The stream is over.
    fn ended(self: Box<Self>, reason: CloseReason);
}

/// What follows at once from what a peer said.
#[derive(Debug, Default)]
pub struct Reply {
    /// What it is told.
    pub frames: Vec<Frame>,
    /// The stream ends.
    pub end: Option<CloseReason>,
}

/// What a lane does with a socket.
pub(super) trait Socket {
    /// Reads without waiting, as `std::io::Read::read` does.
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize>;

    /// Writes without waiting, as `std::io::Write::write` does.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;

    /// Says that nothing follows; what was written is still delivered.
    fn finish(&mut self);

    /// From now on a peer that acknowledges nothing for so long is gone.
    fn give_up_after(&mut self, _silence: Duration) {}
}

/// Where a lane's sockets are watched.
pub(super) trait Port {
    /// What a socket is outside of the lane.
    type Handle;
    /// What it is inside.
    type Socket: Socket;

    /// Watches a socket: from now on the lane is told when it can be written again, and when its peer is gone.
    fn adopt(&mut self, handle: Self::Handle, key: Key) -> io::Result<Self::Socket>;

    /// Lets go of it.
    fn release(&mut self, socket: Self::Socket) -> io::Result<Self::Handle>;
}

/// A connection within its lane. The generation tells it from others that had the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}
