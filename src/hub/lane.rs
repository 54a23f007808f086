//! A lane: one thread that owns its connections and does everything about them in order.
//!
//! Because one thread dispatches the log in order, every stream is in log order, and one cursor per stream is enough.
//! What several events bring to a connection in one turn goes out in one write.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Event;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Frame;
use crate::hub::LaneSettings;
use crate::hub::Window;
use crate::hub::batch::Batch;
use crate::hub::connection::Connection;
use crate::hub::connection::Outlet;
use crate::hub::counts::Counts;
use crate::hub::joining::still_pending;
use crate::hub::message::LaneMessage;
use crate::hub::registry::Registry;
use crate::hub::rooms::Rooms;
use crate::hub::survey;
use crate::hub::timers::Timers;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Refused;
use crate::hub::writer::Wrote;
use crate::telemetry::Metrics;

pub(super) struct Lane<P: Port> {
    pub(super) settings: LaneSettings,
    pub(super) window: Window,
    pub(super) counts: Counts,
    pub(super) port: P,
    pub(super) generation: u64,
    pub(super) head: Cursor,
    pub(super) registry: Registry<Connection<P>>,
    pub(super) by_id: HashMap<ConnectionId, Key>,
    pub(super) batch: Batch,
    pub(super) rooms: Rooms,
    /// Whose end the present batch brings.
    over: Vec<(Key, CloseReason)>,
    pub(super) timers: Timers,
    /// Streams that end with their jobs.
    pub(super) until_done: usize,
    /// The drain has begun: what registers now has missed its slot.
    pub(super) leaving: bool,
    /// For what peers say; kept, because a new one would have to be cleared.
    pub(super) read_buffer: Vec<u8>,
    /// Those who may have said more than was read.
    pub(super) unread: Vec<Key>,
}

impl<P: Port> Lane<P> {
    pub(super) fn new(settings: LaneSettings, window: Window, metrics: &Metrics, port: P) -> Self {
        Self {
            timers: Timers::new(&settings),
            settings,
            window,
            counts: Counts::new(metrics),
            port,
            generation: 0,
            head: Cursor::default(),
            registry: Registry::default(),
            by_id: HashMap::new(),
            batch: Batch::default(),
            rooms: Rooms::default(),
            over: Vec::new(),
            until_done: 0,
            leaving: false,
            read_buffer: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// Takes one message. What it brings to connections is written by `flush`.
    pub(super) fn take(&mut self, message: LaneMessage<P::Handle>) {
        match message {
            LaneMessage::Entries(entries) => return entries.iter().for_each(|entry| self.dispatch(entry)),
            LaneMessage::Ephemeral(event) => return self.collect(&event, None),
            LaneMessage::Told(channel, moved) => return self.told(&channel, &moved),
            _ => self.flush(), // what is under way must reach those for whom it was collected
        }
        match message {
            LaneMessage::Opened { generation, head } => self.reopen(generation, head),
            LaneMessage::Register(register) => match self.missing(&register) {
                Ok((frames, until_done)) => self.register(*register, frames, until_done),
                Err(refused) => register.seat.refuse(refused),
            },
            LaneMessage::Edit(id, edit) => self.edit(id, *edit),
            LaneMessage::Find(channels, answer) => self.find(&channels, answer),
            LaneMessage::Look(ids, answer) => self.look(&ids, answer),
            LaneMessage::Survey(channels, answer) => self.survey(&channels, answer),
            LaneMessage::Traced(deliveries) => self.traced(&deliveries),
            LaneMessage::Leave(id) => self.leave(id),
            LaneMessage::Cut(id) => self.end_of(id, CloseReason::Cut),
            LaneMessage::Drain(within) => self.plan_drain(within),
            LaneMessage::Entries(_) | LaneMessage::Ephemeral(_) | LaneMessage::Told(..) => {}
        }
    }

    fn dispatch(&mut self, entry: &Arc<Entry>) {
        if entry.id <= self.head.at {
            return;
        }
        self.head = Cursor { epoch: self.head.epoch, at: entry.id, print: entry.print };
        if let Some(event) = &entry.event {
            self.collect(event, Some(self.head));
        }
    }

    /// Notes who is to get an event.
    fn collect(&mut self, event: &Event, cursor: Option<Cursor>) {
        let Some((topic, subscribers)) = self.registry.subscribers(&event.channel) else { return };
        self.batch.add(Frame::event(event, cursor), topic, subscribers, self.settings.outbox);
        if self.until_done > 0 {
            let slots: Vec<u32> = subscribers.iter().map(|subscriber| subscriber.slot).collect();
            slots.into_iter().for_each(|slot| self.mark_done(slot, event));
        }
        if self.batch.is_full() {
            self.flush();
        }
    }

    fn mark_done(&mut self, slot: u32, event: &Event) {
        let Some(key) = self.registry.key(slot) else { return };
        let pending = self.registry.at(slot).and_then(|connection| connection.until_done.as_mut());
        if pending.is_some_and(|pending| !still_pending(pending, event)) {
            self.over.push((key, CloseReason::Done));
        }
    }

    /// Writes what was collected: each connection once.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let limits = self.settings.outbox;
        batch.for_each(|slot, frames| {
            let Some(key) = self.registry.key(slot) else { return };
            let Some(connection) = self.registry.at(slot) else { return };
            let (id, lags) = (connection.id, connection.lags(limits));
            frames.select(|frame| self.rooms.shows(frame, key, id, lags));
            if frames.is_empty() {
                return;
            }
            let mut pushes = match &mut connection.outlet {
                Outlet::Socket(writer, _) => {
                    let bytes = frames.bytes(writer.wire);
                    writer.send(frames.iter(), &bytes, limits)
                }
                Outlet::Queue { outbox, .. } => outbox.push_all(frames.iter()),
            };
            self.counts.pushes(&pushes);
            survey::note_pushes(&self.settings.inspector, id, &mut pushes);
            if pushes.dropped > 0 {
                let moves = frames.iter().filter(|frame| frame.place().is_some()).filter_map(Frame::channel);
                moves.for_each(|channel| self.rooms.missed(key, channel));
            }
            if let Some(reason) = pushes.end {
                self.over.push((key, reason));
            }
        });
        self.counts.sent(batch.frames());
        self.batch = batch.cleared();
        for (key, reason) in std::mem::take(&mut self.over) {
            self.end(key, reason);
        }
    }

    pub(super) fn wrote(&mut self, key: Key, wrote: Wrote) {
        match wrote {
            Wrote::All | Wrote::Blocked => {}
            Wrote::Gone => self.remove(key, CloseReason::ClientGone),
            Wrote::Ended => self.say_ended(key),
        }
    }

    /// The end is written. The socket stays until the peer closes it or time is up: closed at once, it might take the end back.
    fn say_ended(&mut self, key: Key) {
        let Some(connection) = self.registry.get(key) else { return };
        let reason = connection.ending.unwrap_or(CloseReason::ClientGone);
        if let Outlet::Socket(_, keeper) = &mut connection.outlet
            && let Some(keeper) = keeper.take()
        {
            keeper.ended(reason);
        }
    }

    /// Gives frames to one connection at once.
    pub(super) fn tell(&mut self, key: Key, frames: &[Frame]) {
        let limits = self.settings.outbox;
        let Some(connection) = self.registry.get(key) else { return };
        let id = connection.id;
        let mut pushes = match &mut connection.outlet {
            Outlet::Queue { outbox, .. } => outbox.push_all(frames.iter()),
            Outlet::Socket(writer, _) => {
                let bytes: Bytes = match frames {
                    [only] => writer.wire.bytes(only),
                    _ => frames.iter().flat_map(|frame| writer.wire.bytes(frame)).collect(),
                };
                writer.send(frames.iter(), &bytes, limits)
            }
        };
        self.counts.pushes(&pushes);
        survey::note_pushes(&self.settings.inspector, id, &mut pushes);
        self.counts.sent(frames.iter().map(|frame| (frame, 1)));
        if let Some(reason) = pushes.end {
            self.end(key, reason);
        }
    }

    fn reopen(&mut self, generation: u64, head: Cursor) {
        self.generation = generation;
        self.head = head;
        let keys: Vec<Key> = self.registry.iter().filter(|(_, c)| c.ending.is_none()).map(|(key, _)| key).collect();
        for key in keys {
            let Some(connection) = self.forget(key) else { continue };
            match connection.outlet {
                Outlet::Queue { outbox, .. } => outbox.resync(),
                Outlet::Socket(writer, keeper) => {
                    let (socket, unsent) = writer.into_parts();
                    if let (Ok(handle), Some(keeper)) = (self.port.release(socket), keeper) {
                        keeper.back(handle, unsent, Refused::Reopened);
                    }
                }
            }
        }
        self.timers.forget_expiries();
    }

    pub(super) fn key_of(&self, id: ConnectionId) -> Option<Key> {
        self.by_id.get(&id).copied()
    }

    fn end_of(&mut self, id: ConnectionId, reason: CloseReason) {
        if let Some(key) = self.key_of(id) {
            self.end(key, reason);
        }
    }

    /// The stream's task is gone, and its queue with it.
    fn leave(&mut self, id: ConnectionId) {
        if let Some(key) = self.key_of(id) {
            self.remove(key, CloseReason::ClientGone);
        }
    }

    /// The only way out: unsubscribe, say why, and see to it that the end is read or the connection cut.
    pub(super) fn end(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.registry.get(key).filter(|connection| connection.ending.is_none()) else { return };
        connection.ending = Some(reason);
        let (id, unwritten) = (connection.id, connection.backlog().2);
        self.settings.inspector.note(|ledger| ledger.stopped(id.0, self.head.at, unwritten));
        self.until_done -= usize::from(connection.until_done.take().is_some());
        let wrote = match &mut connection.outlet {
            Outlet::Queue { outbox, .. } => {
                outbox.close(reason);
                Wrote::Blocked
            }
            Outlet::Socket(..) if !reason.is_said() => Wrote::Gone,
            Outlet::Socket(writer, _) => writer.end(reason),
        };
        self.by_id.remove(&id);
        self.counts.unsubscribed(self.registry.unsubscribe(key.slot));
        match (reason, wrote) {
            (CloseReason::ClientGone | CloseReason::Cut, _) | (_, Wrote::Gone) => self.remove(key, reason),
            _ => {
                self.timers.ends(key, Instant::now());
                self.wrote(key, wrote);
            }
        }
    }

    /// Lets go of a connection.
    pub(super) fn remove(&mut self, key: Key, reason: CloseReason) {
        let Some(connection) = self.forget(key) else { return };
        let reason = connection.ending.unwrap_or(reason);
        match connection.outlet {
            Outlet::Socket(_, keeper) => keeper.into_iter().for_each(|keeper| keeper.ended(reason)),
            Outlet::Queue { outbox, kill } => {
                if reason == CloseReason::Cut || (connection.ending.is_some() && !outbox.is_finished()) {
                    kill.cancel();
                }
            }
        }
    }

    pub(super) fn forget(&mut self, key: Key) -> Option<Connection<P>> {
        self.registry.get(key)?;
        self.rooms.forget(key, None);
        self.counts.unsubscribed(self.registry.unsubscribe(key.slot));
        let connection = self.registry.remove(key.slot)?;
        self.note_leaving(&connection);
        if connection.ending.is_none() {
            self.by_id.remove(&connection.id);
            self.until_done -= usize::from(connection.until_done.is_some());
            self.timers.left();
        }
        Some(connection)
    }
}
