//! What peers say on sockets that a lane owns, and whether they are still there. A browser's `EventSource` says nothing.

use std::io;

use crate::hub::CloseReason;
use crate::hub::Reply;
use crate::hub::connection::Connection;
use crate::hub::connection::Outlet;
use crate::hub::lane::Lane;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Socket as _;
use crate::hub::writer::Wrote;

/// Bytes of one read.
const READ_BYTES: usize = 16 * 1024;
/// Reads from one peer in a turn; then the others have theirs.
const READS_PER_TURN: usize = 4;

/// What the poller saw of a socket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// An error, or both directions are closed.
    pub(super) broken: bool,
    /// The peer says no more.
    pub(super) read_closed: bool,
    pub(super) readable: bool,
}

impl<P: Port> Lane<P> {
    pub(super) fn ready(&mut self, key: Key, seen: Seen) {
        let Some(connection) = self.registry.get(key) else { return };
        let Outlet::Socket(writer, keeper) = &mut connection.outlet else { return };
        // Whoever is heard may have said something before the end.
        let listens = keeper.as_ref().is_some_and(|keeper| keeper.listens());
        let gone = seen.broken || (seen.read_closed && !listens);
        let wrote = if gone { Wrote::Gone } else { writer.resume() };
        self.wrote(key, wrote);
        if listens && !gone && seen.readable {
            self.hear(key);
        }
    }

    /// Reads on from those of whom there was more than one turn may take.
    pub(super) fn hear_more(&mut self) {
        for key in std::mem::take(&mut self.unread) {
            self.hear(key);
        }
    }

    pub(super) fn hear(&mut self, key: Key) {
        let mut buffer = std::mem::take(&mut self.read_buffer);
        buffer.resize(READ_BYTES, 0);
        let more = (0..READS_PER_TURN).all(|_| self.read_once(key, &mut buffer));
        self.read_buffer = buffer;
        if more {
            self.unread.push(key);
        }
    }

    /// Answers whether there may be more.
    fn read_once(&mut self, key: Key, buffer: &mut [u8]) -> bool {
        let Some(Connection { outlet: Outlet::Socket(writer, Some(keeper)), ending, .. }) = self.registry.get(key)
        else {
            return false;
        };
        match writer.socket.read(buffer) {
            Ok(read) if read > 0 && ending.is_some() => true, // what it says after its end was said counts no more
            Ok(read) if read > 0 => {
                let reply = keeper.received(buffer.get(..read).unwrap_or_default());
                self.reply(key, &reply)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Ok(_) | Err(_) => {
                self.remove(key, CloseReason::ClientGone);
                false
            }
        }
    }

    /// Asks peers that can answer whether they are there.
    pub(super) fn ping(&mut self, keys: Vec<Key>) {
        for key in keys {
            let outlet = self.registry.get(key).map(|connection| &mut connection.outlet);
            if let Some(Outlet::Socket(_, Some(keeper))) = outlet {
                let reply = keeper.ping();
                self.reply(key, &reply);
            }
        }
    }

    /// Answers whether the stream goes on.
    fn reply(&mut self, key: Key, reply: &Reply) -> bool {
        if !reply.frames.is_empty() {
            self.tell(key, &reply.frames);
        }
        match reply.end {
            Some(reason) => {
                self.end(key, reason);
                false
            }
            None => true,
        }
    }
}
