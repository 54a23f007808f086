//! How a stream goes live: what it has not seen yet is copied and it is subscribed in one turn, so nothing can come between.

use std::collections::HashSet;

use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Event;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::Pending;
use crate::hub::Register;
use crate::hub::connection::Connection;
use crate::hub::connection::Outlet;
use crate::hub::lane::Lane;
use crate::hub::message::LIVELY_TIMEOUT;
use crate::hub::wire::Port;
use crate::hub::wire::Refused;
use crate::hub::wire::Seat;
use crate::hub::wire::Socket as _;
use crate::hub::writer::Writer;
use crate::hub::writer::Wrote;

/// Entries that may be missing when a stream registers; more are caught up first.
const JOIN_ENTRIES_MAX: usize = 64;

impl<P: Port> Lane<P> {
    /// Subscribes, and sends what is missing, in the same turn: no event can come between.
    pub(super) fn register(&mut self, register: Register<P::Handle>, mut frames: Vec<Frame>, until_done: Pending) {
        let key = self.registry.next_key();
        let channels: Vec<Channel> = register.grants.iter().map(|grant| grant.channel().clone()).collect();
        let lively = Self::is_lively(channels.iter());
        frames.extend(self.states(key, channels.iter()));
        frames.push(Frame::moment("ready", self.head));
        let (mut begun, mut listens) = (Wrote::All, false);
        let outlet = match register.seat {
            Seat::Queue { outbox, kill, joined } => match joined.send(Ok(self.head)) {
                Ok(()) => {
                    outbox.push_all(frames.iter());
                    Outlet::Queue { outbox, kill }
                }
                Err(_) => return self.rooms.forget(key, None), // the reader is gone by now
            },
            Seat::Socket { handle, unsent, wire, mut keeper } => match self.port.adopt(handle, key) {
                Ok(mut socket) => {
                    if lively {
                        socket.give_up_after(LIVELY_TIMEOUT);
                    }
                    keeper.seated();
                    listens = keeper.listens();
                    let mut writer = Writer::new(socket, wire);
                    begun = writer.start(unsent, &frames);
                    Outlet::Socket(writer, Some(keeper))
                }
                Err(error) => {
                    tracing::warn!(%error, "a socket can't be watched");
                    return self.rooms.forget(key, None); // it is closed by this, and the client comes back
                }
            },
        };
        let done = until_done.as_ref().is_some_and(|pending| pending.is_empty());
        self.until_done += usize::from(until_done.is_some());
        let connection = Connection {
            id: register.id,
            outlet,
            until_done,
            ending: None,
            holder: register.holder,
            edition: register.edition,
            lively,
            born: self.timers.ages.now(),
            warned: false,
            expires_at: 0,
        };
        self.registry.insert(connection, &channels);
        self.by_id.insert(register.id, key);
        self.counts.subscribed(channels.len());
        self.expires(key, register.expires_at);
        self.counts.sent(frames.iter().map(|frame| (frame, 1)));
        self.wrote(key, begun);
        if listens {
            self.hear(key); // what it said before was not announced to this poller
        }
        if done {
            self.end(key, CloseReason::Done);
        } else if self.leaving {
            self.end(key, CloseReason::Drain);
        }
    }

    /// The last entries that the stream has not seen, and what of its jobs is pending after them.
    pub(super) fn missing(&self, register: &Register<P::Handle>) -> Result<(Vec<Frame>, Pending), Refused> {
        if register.generation != self.generation || self.generation == 0 {
            return Err(if register.generation > self.generation { Refused::Behind } else { Refused::Reopened });
        }
        if register.from > self.head.at {
            return Err(Refused::Behind);
        }
        if register.holder.edition() != register.edition {
            return Err(Refused::Edited);
        }
        if register.from == self.head.at {
            return Ok((Vec::new(), register.until_done.clone()));
        }
        let channels: Vec<Channel> = register.grants.iter().map(|grant| grant.channel().clone()).collect();
        let missing = self.window.page(&channels, register.from, self.head.at, JOIN_ENTRIES_MAX);
        let page = missing.filter(|page| page.complete).ok_or(Refused::Behind)?;
        let mut until_done = register.until_done.clone();
        let frames = page.entries.iter().filter_map(|entry| {
            let event = entry.event.as_ref()?;
            if let Some(pending) = &mut until_done {
                still_pending(pending, event);
            }
            Some(Frame::event(event, Some(Cursor { epoch: self.head.epoch, at: entry.id, print: entry.print })))
        });
        Ok((frames.collect(), until_done))
    }
}

/// Whether jobs are left after this event.
pub(super) fn still_pending(pending: &mut HashSet<Channel>, event: &Event) -> bool {
    if event.terminal {
        pending.remove(&event.channel);
    } else {
        pending.insert(event.channel.clone());
    }
    !pending.is_empty()
}
