//! A lane with sockets that take what they like.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::auth::Grant;
use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Entry;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::event::WindowLimits;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Format;
use crate::hub::Frame;
use crate::hub::Keeper;
use crate::hub::LaneSettings;
use crate::hub::OutboxLimits;
use crate::hub::Refused;
use crate::hub::Register;
use crate::hub::Seat;
use crate::hub::States;
use crate::hub::Window;
use crate::hub::Wire;
use crate::hub::hearing::Seen;
use crate::hub::lane::Lane;
use crate::hub::message::LaneMessage;
use crate::hub::tests::Stream;
use crate::hub::tests::cursor;
use crate::hub::tests::event;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Socket;
use crate::inspect::Inspector;
use crate::spans::Spans;
use crate::telemetry::Metrics;

pub(super) const GONE: Seen = Seen { broken: false, read_closed: true, readable: true };
pub(super) const WRITABLE: Seen = Seen { broken: false, read_closed: false, readable: false };

pub(super) static LINES: Wire =
    Wire { format: Format::Sse, encode: line, end: |reason| Bytes::from(format!("end {}\n", reason.as_str())) };

/// `n` and the size of the data, padded to that size: a cut in it would be seen.
fn line(frame: &Frame) -> Bytes {
    let at = frame.cursor().map_or(0, |cursor| cursor.at.ms);
    Bytes::from(format!("{} {at} {}\n", frame.name(), frame.data()))
}

/// What a browser's end of a socket sees and does.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) heard: Vec<u8>,
    /// What it has said and nobody has read.
    pub(super) said: Vec<u8>,
    /// Bytes that it takes before it would block.
    pub(super) room: usize,
    /// It closed: writes fail.
    pub(super) closed: bool,
    pub(super) finished: bool,
    pub(super) back: Option<(Bytes, Refused)>,
    pub(super) ended: Option<CloseReason>,
    pub(super) key: Option<Key>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Fake(pub(super) Arc<Mutex<Peer>>);

impl Socket for Fake {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        if peer.said.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = peer.said.len().min(bytes.len()).min(7);
        let said: Vec<u8> = peer.said.drain(..taken).collect();
        bytes[..taken].copy_from_slice(&said);
        Ok(taken)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut peer = self.0.lock();
        if peer.closed {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        // In small pieces, so that a write is often partial.
        let taken = peer.room.min(bytes.len()).min(37);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        peer.room -= taken;
        peer.heard.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn finish(&mut self) {
        self.0.lock().finished = true;
    }
}

pub(super) struct Fakes;

impl Port for Fakes {
    type Handle = Fake;
    type Socket = Fake;

    fn adopt(&mut self, handle: Fake, key: Key) -> io::Result<Fake> {
        handle.0.lock().key = Some(key);
        Ok(handle)
    }

    fn release(&mut self, socket: Fake) -> io::Result<Fake> {
        Ok(socket)
    }
}

#[derive(Debug)]
pub(super) struct Kept(pub(super) Fake);

impl Keeper<Fake> for Kept {
    fn seated(&mut self) {}

    fn back(self: Box<Self>, handle: Fake, unsent: Bytes, why: Refused) {
        handle.0.lock().back = Some((unsent, why));
    }

    fn ended(self: Box<Self>, reason: CloseReason) {
        self.0.0.lock().ended = Some(reason);
    }
}

pub(super) struct Bench {
    pub(super) lane: Lane<Fakes>,
    pub(super) window: Window,
    pub(super) peers: BTreeMap<u64, Fake>,
    pub(super) at: u64,
}

impl Bench {
    pub(super) fn new(events_max: usize) -> Self {
        Self::with_states(events_max, Arc::new(()))
    }

    pub(super) fn with_states(events_max: usize, states: Arc<dyn States>) -> Self {
        let limits = WindowLimits { entries_max: 10_000, bytes_max: 1 << 30 };
        let window = Window::new(limits, Duration::from_secs(600));
        let outbox = OutboxLimits { events_max, bytes_max: 1 << 20, told: false };
        let settings = LaneSettings {
            heartbeat: Duration::from_millis(100),
            ping: Duration::from_millis(200),
            expiry_notice: Duration::from_secs(90),
            leeway: Duration::from_secs(30),
            lively: Duration::from_millis(100),
            age_max: Duration::from_secs(64),
            outbox,
            states,
            inspector: Inspector::default(),
            spans: Spans::default(),
        };
        let mut lane = Lane::new(settings, window.clone(), &Metrics::new(), Fakes);
        let generation = window.open(Epoch(1), (LogId::ZERO, Fingerprint(0)), Vec::new());
        lane.take(LaneMessage::Opened { generation, head: window.head() });
        Self { lane, window, peers: BTreeMap::new(), at: 0 }
    }

    pub(super) fn connect(&mut self, id: u64, channels: &[u8], room: usize, until_done: bool) -> Fake {
        let channels: Vec<Channel> = channels.iter().map(|n| Channel::parse(&format!("jobs.{n}")).unwrap()).collect();
        self.connect_to(id, &channels, room, until_done)
    }

    pub(super) fn connect_to(&mut self, id: u64, channels: &[Channel], room: usize, until_done: bool) -> Fake {
        let fake = Fake::default();
        fake.0.lock().room = room;
        let grants: Vec<Grant> = channels.iter().map(|channel| Grant::for_test(channel.as_str())).collect();
        let seat = Seat::Socket {
            handle: fake.clone(),
            unsent: Bytes::from_static(b"hello 0 {}\n"),
            wire: &LINES,
            keeper: Box::new(Kept(fake.clone())),
        };
        let pending = || Box::new(channels.iter().cloned().collect::<HashSet<_>>());
        self.lane.take(LaneMessage::Register(Box::new(Register {
            id: ConnectionId(id),
            grants: grants.into(),
            seat,
            from: self.window.head().at,
            generation: self.window.generation(),
            until_done: until_done.then(pending),
            expires_at: u64::MAX,
            holder: Arc::new(Stream::default()),
            edition: 0,
        })));
        self.peers.insert(id, fake.clone());
        fake
    }

    pub(super) fn publish(&mut self, channel: u8, delivery: Delivery, size: usize, terminal: bool) -> u64 {
        self.at += 1;
        let mut event = event(self.at, channel, delivery, size);
        event.terminal = terminal;
        let cursor = cursor(self.at);
        let entry = Entry { id: cursor.at, print: cursor.print, event: Some(event), judged: None, trace: None };
        let entries: Arc<[Arc<Entry>]> = Arc::new([Arc::new(entry)]);
        self.window.extend(&entries);
        self.lane.take(LaneMessage::Entries(entries));
        self.at
    }
}
