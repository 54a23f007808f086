//! Channels that have a state instead of a log: who is there.
//!
//! A stream that comes is given the state as of that very turn, and which events it includes: those that are still on their way to this
//! lane are not shown to it. So nothing is missing between state and events, and nothing comes twice. A stream that lags is not shown
//! what moves; once it has read what waits, it is given the state again. So the last word is never lost, however slow it is.

use std::collections::HashMap;
use std::collections::HashSet;

use smallvec::SmallVec;

use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Kind;
use crate::event::Moved;
use crate::hub::ConnectionId;
use crate::hub::Frame;
use crate::hub::OutboxLimits;
use crate::hub::connection::Connection;
use crate::hub::connection::Outlet;
use crate::hub::lane::Lane;
use crate::hub::wire::Key;
use crate::hub::wire::Port;

/// What a lane knows about streams of such channels, beyond their subscriptions.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// Up to which event a stream has everything by the state that it was given; forgotten with the first event after that.
    given: HashMap<Key, SmallVec<[(Channel, u64); 1]>>,
    /// Who was not shown everything, and is to be given the state again.
    behind: HashSet<(Key, Channel)>,
}

impl Rooms {
    /// Whether a stream is shown this frame.
    pub(super) fn shows(&mut self, frame: &Frame, key: Key, id: ConnectionId, lags: bool) -> bool {
        let (Some((number, by)), Some(channel)) = (frame.place(), frame.channel()) else { return true };
        if !self.given.is_empty() && self.has(key, channel, number) {
            return false;
        }
        if by == Some(id.0) {
            return false;
        }
        let moves = frame.delivery() == Delivery::Ephemeral;
        if moves && lags {
            self.behind.insert((key, channel.clone()));
        }
        !(moves && lags)
    }

    /// Whether the state that it was given includes this event.
    fn has(&mut self, key: Key, channel: &Channel, number: u64) -> bool {
        let Some(given) = self.given.get_mut(&key) else { return false };
        let Some(at) = given.iter().position(|(of, _)| of == channel) else { return false };
        if given.get(at).is_some_and(|(_, upto)| number <= *upto) {
            return true;
        }
        given.swap_remove(at);
        if given.is_empty() {
            self.given.remove(&key);
        }
        false
    }

    /// Frames of this channel had no room.
    pub(super) fn missed(&mut self, key: Key, channel: &Channel) {
        self.behind.insert((key, channel.clone()));
    }

    fn give(&mut self, key: Key, channel: &Channel, upto: u64) {
        let given = self.given.entry(key).or_default();
        given.retain(|(of, _)| of != channel);
        given.push((channel.clone(), upto));
    }

    /// A stream is gone, or has left these channels.
    pub(super) fn forget(&mut self, key: Key, channels: Option<&[Channel]>) {
        if self.given.is_empty() && self.behind.is_empty() {
            return;
        }
        let left = |channel: &Channel| channels.is_none_or(|channels| channels.contains(channel));
        if let Some(given) = self.given.get_mut(&key) {
            given.retain(|(channel, _)| !left(channel));
            if given.is_empty() {
                self.given.remove(&key);
            }
        }
        self.behind.retain(|(of, channel)| *of != key || !left(channel));
    }
}

impl<P: Port> Lane<P> {
    /// Notes who is to be told.
    pub(super) fn told(&mut self, channel: &Channel, moved: &[Moved]) {
        for moved in moved {
            let Some((topic, subscribers)) = self.registry.subscribers(channel) else { return };
            self.batch.add(Frame::moved(moved), topic, subscribers, self.settings.outbox);
            if self.batch.is_full() {
                self.flush();
            }
        }
    }

    /// The states of those of these channels that have one, as of now.
    pub(super) fn states<'a>(&mut self, key: Key, channels: impl Iterator<Item = &'a Channel>) -> Vec<Frame> {
        let mut frames = Vec::new();
        for channel in channels.filter(|channel| channel.kind() == Kind::Presence) {
            let Some((event, upto)) = self.settings.states.state(channel) else { continue };
            self.rooms.give(key, channel, upto);
            frames.push(Frame::event(&event, None));
        }
        frames
    }

    /// A stream that is somewhere has to be seen to be gone soon.
    pub(super) fn is_lively<'a>(mut channels: impl Iterator<Item = &'a Channel>) -> bool {
        channels.any(|channel| channel.kind() == Kind::Presence)
    }

    /// Gives the state to those who lagged and have caught up.
    pub(super) fn restate(&mut self) {
        if self.rooms.behind.is_empty() {
            return;
        }
        for (key, channel) in std::mem::take(&mut self.rooms.behind) {
            match self.registry.get(key).map(|connection| connection.ending.is_some() || connection.waits()) {
                None => {}
                Some(true) => drop(self.rooms.behind.insert((key, channel))),
                Some(false) => {
                    let states = self.states(key, std::iter::once(&channel));
                    self.counts.restated(states.len());
                    if !states.is_empty() {
                        self.tell(key, &states);
                    }
                }
            }
        }
    }
}

impl<P: Port> Connection<P> {
    /// Whether so much waits for its reader that what moves is better left out.
    pub(super) fn lags(&self, limits: OutboxLimits) -> bool {
        match &self.outlet {
            Outlet::Socket(writer, _) => writer.lags(limits),
            Outlet::Queue { outbox, .. } => outbox.lags(),
        }
    }

    /// Whether something waits for its reader.
    fn waits(&self) -> bool {
        match &self.outlet {
            Outlet::Socket(writer, _) => writer.is_waiting(),
            Outlet::Queue { outbox, .. } => !outbox.is_empty(),
        }
    }
}
