//! Changes of live streams: channels that come and go, a new end of the credential.
//!
//! An edit is one turn of the lane: nothing of a channel comes before it is said to be there, or after it is said to be gone.

use tokio::sync::oneshot;

use crate::event::Channel;
use crate::event::Event;
use crate::event::Kind;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Edit;
use crate::hub::Found;
use crate::hub::Frame;
use crate::hub::Join;
use crate::hub::Refused;
use crate::hub::connection::Outlet;
use crate::hub::lane::Lane;
use crate::hub::message::LIVELY_TIMEOUT;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Socket as _;

impl<P: Port> Lane<P> {
    pub(super) fn edit(&mut self, id: ConnectionId, edit: Edit) {
        let Some(key) = self.key_of(id) else { return };
        let Some(connection) = self.registry.get(key) else { return };
        if connection.ending.is_some() || edit.edition <= connection.edition {
            return;
        }
        connection.edition = edit.edition;
        connection.holder.applied(edit.edition);
        self.leave_channels(key, &edit.leave);
        let mut frames = edit.say;
        if edit.recall {
            // Its place is yet to be found; until then nothing of the channels may be told.
            frames.extend(edit.join.into_iter().map(|join| Frame::control("subscribed", join.said, None)));
        } else {
            self.join_channels(key, edit.join, &mut frames);
        }
        if let Some(expires_at) = edit.expires_at {
            self.expires(key, expires_at);
        }
        if !frames.is_empty() {
            self.tell(key, &frames);
        }
        match edit.end {
            Some(reason) => self.end(key, reason),
            None if edit.recall => self.recall(key),
            None => self.end_if_done(key),
        }
    }

    fn leave_channels(&mut self, key: Key, channels: &[Channel]) {
        if channels.is_empty() {
            return;
        }
        self.rooms.forget(key, Some(channels));
        self.note_left(key, channels);
        let left = channels.iter().filter(|channel| self.registry.drop_one(key.slot, channel)).count();
        self.counts.unsubscribed(left);
        let Some(connection) = self.registry.get(key) else { return };
        if let Some(pending) = &mut connection.until_done {
            pending.retain(|job| !channels.contains(job));
        }
        match &mut connection.outlet {
            Outlet::Socket(writer, _) => writer.purge(channels),
            Outlet::Queue { outbox, .. } => outbox.purge(channels),
        }
    }

    /// First that they are there, then their states as of now: what follows is newer.
    fn join_channels(&mut self, key: Key, joins: Vec<Join>, frames: &mut Vec<Frame>) {
        let (mut states, mut watched) = (Vec::new(), Vec::new());
        for Join { grant, said, state } in joins {
            let channel = grant.channel();
            if !self.registry.add(key.slot, channel) {
                continue;
            }
            self.counts.subscribed(1);
            self.note_joined(key, channel);
            frames.push(Frame::control("subscribed", said, Some(self.head)));
            // One that is newer than this lane comes by itself.
            let known = state.filter(|(version, _)| *version <= self.head.at).map(|(_, state)| state);
            let state = self.newest(channel).or(known);
            let ended = state.as_ref().is_some_and(|state| state.terminal);
            let pending = self.registry.get(key).and_then(|connection| connection.until_done.as_mut());
            if let Some(pending) = pending.filter(|_| !ended) {
                pending.insert(channel.clone());
            }
            states.extend(state.as_ref().map(Frame::snapshot));
            watched.push(grant.channel().clone());
        }
        states.extend(self.states(key, watched.iter()));
        if Self::is_lively(watched.iter()) {
            self.enliven(key);
        }
        frames.append(&mut states);
    }

    fn enliven(&mut self, key: Key) {
        let Some(connection) = self.registry.get(key) else { return };
        connection.lively = true;
        if let Outlet::Socket(writer, _) = &mut connection.outlet {
            writer.socket.give_up_after(LIVELY_TIMEOUT);
        }
    }

    /// A job's state in the window, which is newer than any that was asked for.
    fn newest(&self, channel: &Channel) -> Option<Event> {
        if channel.kind() != Kind::Jobs {
            return None;
        }
        self.window.last(channel, self.head.at).and_then(|entry| entry.event.clone())
    }

    fn end_if_done(&mut self, key: Key) {
        let connection = self.registry.get(key);
        if connection.is_some_and(|connection| connection.until_done.as_ref().is_some_and(|jobs| jobs.is_empty())) {
            self.end(key, CloseReason::Done);
        }
    }

    /// Gives a stream back to its session, which lets it catch up from elsewhere.
    fn recall(&mut self, key: Key) {
        let Some(connection) = self.forget(key) else { return };
        match connection.outlet {
            Outlet::Queue { outbox, .. } => outbox.recall(),
            Outlet::Socket(writer, keeper) => {
                let (socket, unsent) = writer.into_all();
                if let (Ok(handle), Some(keeper)) = (self.port.release(socket), keeper) {
                    keeper.back(handle, unsent, Refused::Edited);
                }
            }
        }
    }

    pub(super) fn find(&mut self, channels: &[Channel], answer: oneshot::Sender<Found>) {
        let mut found = Found::new();
        for channel in channels {
            let Some((_, subscribers)) = self.registry.subscribers(channel) else { continue };
            let slots: Vec<u32> = subscribers.iter().map(|subscriber| subscriber.slot).collect();
            let holders = slots.into_iter().filter_map(|slot| {
                let connection = self.registry.at(slot)?;
                Some((connection.holder.user().clone(), connection.id))
            });
            found.extend(holders);
        }
        // Whoever asked may be gone.
        drop(answer.send(found));
    }
}
