//! A lane: one task that owns the subscriptions of its connections and does everything about them in order.
//!
//! Because one task dispatches the log in order, every outbox is in log order, and one cursor per connection is enough.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::auth::Grant;
use crate::clock;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Event;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::Outbox;
use crate::hub::Window;
use crate::hub::outbox::Pushed;
use crate::telemetry::Metrics;

/// How often the lane looks at its clocks.
const TICK: Duration = Duration::from_millis(100);
/// How long an ending stream may take to read its end before its connection is cut.
const END_UNREAD_MAX: Duration = Duration::from_secs(5);
/// Entries that may be missing when a stream registers; more are caught up first.
const JOIN_ENTRIES_MAX: usize = 64;

/// The number of a connection, unique in this process and hard to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What lanes need to know.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Longest silence of a stream.
    pub heartbeat: Duration,
}

/// A stream that wants to go live.
#[derive(Debug)]
pub struct Register {
    /// Its connection.
    pub id: ConnectionId,
    /// What it may see.
    pub grants: Vec<Grant>,
    /// Its queue.
    pub outbox: Arc<Outbox>,
    /// It has everything up to here.
    pub from: LogId,
    /// The beginning to which `from` belongs.
    pub generation: u64,
    /// With `until=done`: the jobs that have not ended at `from`.
    pub until_done: Option<HashSet<Channel>>,
    /// When its credential ends, leeway included: seconds since the Unix epoch.
    pub expires_at: u64,
    /// Cuts its connection.
    pub kill: CancellationToken,
}

/// Why a stream could not go live.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Too far behind: catch up and try again.
    Behind,
    /// The log began anew: start over with `reset`.
    Reopened,
    /// The lane has stopped.
    Stopped,
}

#[derive(Debug)]
pub(super) enum LaneMessage {
    Opened { generation: u64, head: Cursor },
    Entries(Arc<[Arc<Entry>]>),
    Ephemeral(Event),
    Register(Box<Register>, oneshot::Sender<Result<Cursor, Refused>>),
    Leave(ConnectionId),
    Cut(ConnectionId),
    Drain(Duration),
}

#[derive(Debug)]
struct Connection {
    outbox: Arc<Outbox>,
    channels: Vec<Channel>,
    until_done: Option<HashSet<Channel>>,
    expires_at: u64,
    kill: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Lane {
    settings: LaneSettings,
    window: Window,
    metrics: Metrics,
    generation: u64,
    head: Cursor,
    connections: HashMap<ConnectionId, Connection>,
    by_channel: HashMap<Channel, Vec<ConnectionId>>,
    /// Second at which credentials end.
    expiries: BTreeMap<u64, Vec<ConnectionId>>,
    /// Streams that were told their end and have yet to read it.
    ending: Vec<(Instant, Arc<Outbox>, CancellationToken)>,
    draining: Vec<(Instant, ConnectionId)>,
    /// The drain has begun: what registers now has missed its slot.
    leaving: bool,
    ticks: u64,
}

impl Lane {
    pub(super) fn new(settings: LaneSettings, window: Window, metrics: Metrics) -> Self {
        Self {
            settings,
            window,
            metrics,
            generation: 0,
            head: Cursor::default(),
            connections: HashMap::new(),
            by_channel: HashMap::new(),
            expiries: BTreeMap::new(),
            ending: Vec::new(),
            draining: Vec::new(),
            leaving: false,
            ticks: 0,
        }
    }

    /// The lane's loop. Its inputs: messages in order, its clock, and the app's stop.
    pub(super) async fn run(mut self, mut messages: mpsc::Receiver<LaneMessage>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        // Skip keeps the beat: with Delay every tick would come a little later, and heartbeats after their time.
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                message = messages.recv() => match message {
                    Some(message) => self.take(message),
                    None => break,
                },
                _ = tick.tick() => self.tick(),
            }
        }
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.end(id, CloseReason::Shutdown);
        }
    }

    fn take(&mut self, message: LaneMessage) {
        match message {
            LaneMessage::Opened { generation, head } => self.reopen(generation, head),
            LaneMessage::Entries(entries) => entries.iter().for_each(|entry| self.dispatch(entry)),
            LaneMessage::Ephemeral(event) => self.deliver(&event, None),
            LaneMessage::Register(register, reply) => {
                let id = register.id;
                let answer = self.register(*register);
                if reply.send(answer).is_err() {
                    self.remove(id);
                }
            }
            LaneMessage::Leave(id) => drop(self.remove(id)),
            LaneMessage::Cut(id) => self.end(id, CloseReason::Cut),
            LaneMessage::Drain(within) => self.plan_drain(within),
        }
    }

    fn reopen(&mut self, generation: u64, head: Cursor) {
        self.generation = generation;
        self.head = head;
        for (_, connection) in self.connections.drain() {
            self.metrics.subscriptions.sub(i64::try_from(connection.channels.len()).unwrap_or(0));
            connection.outbox.resync();
        }
        self.by_channel = HashMap::new();
        self.expiries.clear();
    }

    fn dispatch(&mut self, entry: &Arc<Entry>) {
        if entry.id <= self.head.at {
            return;
        }
        self.head = Cursor { epoch: self.head.epoch, at: entry.id, print: entry.print };
        if let Some(event) = &entry.event {
            self.deliver(event, Some(self.head));
        }
    }

    fn deliver(&mut self, event: &Event, cursor: Option<Cursor>) {
        let Some(subscribers) = self.by_channel.get(&event.channel) else { return };
        let frame = Frame::event(event, cursor);
        let mut over: Vec<(ConnectionId, CloseReason)> = Vec::new();
        for id in subscribers {
            let Some(connection) = self.connections.get_mut(id) else { continue };
            match connection.outbox.push(frame.clone()) {
                Pushed::Queued => {}
                Pushed::Conflated(count) => self.count_conflated(event, count),
                Pushed::Dropped => self.metrics.reject("outbox", "ephemeral"),
                Pushed::Overflow => over.push((*id, CloseReason::Slow)),
                Pushed::Closed => over.push((*id, CloseReason::ClientGone)),
            }
            if let Some(pending) = self.connections.get_mut(id).and_then(|c| c.until_done.as_mut()) {
                if event.terminal {
                    pending.remove(&event.channel);
                } else {
                    pending.insert(event.channel.clone());
                }
                if pending.is_empty() {
                    over.push((*id, CloseReason::Done));
                }
            }
        }
        for (id, reason) in over {
            self.end(id, reason);
        }
    }

    fn count_conflated(&self, event: &Event, count: usize) {
        let kind = event.channel.kind().as_str();
        self.metrics.conflated.with_label_values(&[kind]).inc_by(count as u64);
    }

    /// Copies what is missing and subscribes, in one turn: no event can come between.
    fn register(&mut self, register: Register) -> Result<Cursor, Refused> {
        if register.generation != self.generation || self.generation == 0 {
            return Err(if register.generation > self.generation { Refused::Behind } else { Refused::Reopened });
        }
        if register.from > self.head.at {
            return Err(Refused::Behind);
        }
        let channels: Vec<Channel> = register.grants.iter().map(|grant| grant.channel().clone()).collect();
        let missing = self.window.page(&channels, register.from, self.head.at, JOIN_ENTRIES_MAX);
        let page = missing.filter(|page| page.complete).ok_or(Refused::Behind)?;
        let mut until_done = register.until_done;
        for entry in &page.entries {
            let cursor = Cursor { epoch: self.head.epoch, at: entry.id, print: entry.print };
            let Some(event) = &entry.event else { continue };
            register.outbox.push(Frame::event(event, Some(cursor)));
            if let Some(pending) = &mut until_done {
                if event.terminal {
                    pending.remove(&event.channel)
                } else {
                    pending.insert(event.channel.clone())
                };
            }
        }
        register.outbox.push(Frame::control("ready", timestamp_data(), Some(self.head)));
        self.insert(
            register.id,
            &channels,
            Connection {
                outbox: register.outbox,
                channels: channels.clone(),
                until_done,
                expires_at: register.expires_at,
                kill: register.kill,
            },
        );
        Ok(self.head)
    }

    fn insert(&mut self, id: ConnectionId, channels: &[Channel], connection: Connection) {
        for channel in channels {
            self.by_channel.entry(channel.clone()).or_default().push(id);
        }
        self.metrics.subscriptions.add(i64::try_from(channels.len()).unwrap_or(0));
        self.expiries.entry(connection.expires_at).or_default().push(id);
        let done = connection.until_done.as_ref().is_some_and(HashSet::is_empty);
        self.connections.insert(id, connection);
        if done {
            self.end(id, CloseReason::Done);
        } else if self.leaving {
            self.end(id, CloseReason::Drain);
        }
    }

    fn remove(&mut self, id: ConnectionId) -> Option<Connection> {
        let connection = self.connections.remove(&id)?;
        for channel in &connection.channels {
            if let Some(ids) = self.by_channel.get_mut(channel) {
                if let Some(at) = ids.iter().position(|other| *other == id) {
                    ids.swap_remove(at);
                }
                if ids.is_empty() {
                    self.by_channel.remove(channel);
                }
            }
        }
        if let Some(ids) = self.expiries.get_mut(&connection.expires_at) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.expiries.remove(&connection.expires_at);
            }
        }
        self.metrics.subscriptions.sub(i64::try_from(connection.channels.len()).unwrap_or(0));
        Some(connection)
    }

    /// The only way out: unsubscribe, say why, and see to it that the end is read or the connection cut.
    fn end(&mut self, id: ConnectionId, reason: CloseReason) {
        let Some(connection) = self.remove(id) else { return };
        connection.outbox.close(reason);
        match reason {
            CloseReason::Cut => connection.kill.cancel(),
            CloseReason::ClientGone => {}
            _ => self.ending.push((Instant::now() + END_UNREAD_MAX, connection.outbox, connection.kill)),
        }
    }

    fn tick(&mut self) {
        self.ticks += 1;
        self.expire();
        self.cut_unread();
        self.drain_due();
        let ticks_per_beat = u64::try_from(self.settings.heartbeat.as_millis() / TICK.as_millis()).unwrap_or(1).max(1);
        self.heartbeat(ticks_per_beat);
        if self.connections.len() * 4 < self.connections.capacity() {
            self.connections.shrink_to_fit();
            self.by_channel.shrink_to_fit();
        }
    }

    fn expire(&mut self) {
        let now = clock::now_s();
        while self.expiries.first_key_value().is_some_and(|(at, _)| *at <= now) {
            let (_, ids) = self.expiries.pop_first().unwrap_or_default();
            for id in ids {
                self.end(id, CloseReason::TokenExpired);
            }
        }
    }

    fn cut_unread(&mut self) {
        let now = Instant::now();
        self.ending.retain(|(deadline, outbox, kill)| {
            let late = *deadline <= now;
            if late {
                kill.cancel();
            }
            !late && !outbox.is_finished()
        });
    }

    fn heartbeat(&mut self, ticks_per_beat: u64) {
        let mut frame: Option<Frame> = None;
        let mut gone = Vec::new();
        for (id, connection) in &mut self.connections {
            // Spread over the interval, so that many streams don't all beat in one tick.
            if id.0.wrapping_add(self.ticks) % ticks_per_beat != 0 {
                continue;
            }
            if connection.outbox.is_finished() {
                gone.push(*id);
            } else if connection.outbox.is_empty() {
                let head = self.head;
                let frame = frame.get_or_insert_with(|| Frame::control("heartbeat", timestamp_data(), Some(head)));
                connection.outbox.push(frame.clone());
            }
        }
        for id in gone {
            self.remove(id);
        }
    }

    fn plan_drain(&mut self, within: Duration) {
        self.leaving = true;
        let now = Instant::now();
        let count = u32::try_from(self.connections.len()).unwrap_or(u32::MAX).max(1);
        let ids = self.connections.keys().copied().enumerate();
        self.draining = ids.map(|(at, id)| (now + within * u32::try_from(at).unwrap_or(0) / count, id)).collect();
        self.draining.reverse();
    }

    fn drain_due(&mut self) {
        let now = Instant::now();
        while self.draining.last().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, id)) = self.draining.pop() {
                self.end(id, CloseReason::Drain);
            }
        }
    }
}

fn timestamp_data() -> String {
    format!("{{\"timestamp\":\"{}\"}}", clock::rfc3339(clock::now_us()))
}
