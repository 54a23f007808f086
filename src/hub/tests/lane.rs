//! A lane with sockets that take what they like: random partial writes, would-blocks and closings, against a model.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;

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
use crate::hub::Window;
use crate::hub::Wire;
use crate::hub::lane::Lane;
use crate::hub::message::LaneMessage;
use crate::hub::tests::cursor;
use crate::hub::tests::event;
use crate::hub::wire::Key;
use crate::hub::wire::Port;
use crate::hub::wire::Socket;
use crate::telemetry::Metrics;

static LINES: Wire =
    Wire { format: Format::Sse, encode: line, end: |reason| Bytes::from(format!("end {}\n", reason.as_str())) };

/// `n` and the size of the data, padded to that size: a cut in it would be seen.
fn line(frame: &Frame) -> Bytes {
    let at = frame.cursor().map_or(0, |cursor| cursor.at.ms);
    Bytes::from(format!("{} {at} {}\n", frame.name(), frame.data()))
}

/// What a browser's end of a socket sees and does.
#[derive(Debug, Default)]
struct Peer {
    heard: Vec<u8>,
    /// Bytes that it takes before it would block.
    room: usize,
    /// It closed: writes fail.
    closed: bool,
    finished: bool,
    back: Option<(Bytes, Refused)>,
    ended: Option<CloseReason>,
    key: Option<Key>,
}

#[derive(Debug, Clone, Default)]
struct Fake(Arc<Mutex<Peer>>);

impl Socket for Fake {
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

struct Fakes;

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
struct Kept(Fake);

impl Keeper<Fake> for Kept {
    fn seated(&mut self) {}

    fn back(self: Box<Self>, handle: Fake, unsent: Bytes, why: Refused) {
        handle.0.lock().back = Some((unsent, why));
    }

    fn ended(self: Box<Self>, reason: CloseReason) {
        self.0.0.lock().ended = Some(reason);
    }
}

struct Bench {
    lane: Lane<Fakes>,
    window: Window,
    peers: BTreeMap<u64, Fake>,
    at: u64,
}

impl Bench {
    fn new(events_max: usize) -> Self {
        let limits = WindowLimits { entries_max: 10_000, bytes_max: 1 << 30 };
        let window = Window::new(limits, Duration::from_secs(600));
        let outbox = OutboxLimits { events_max, bytes_max: 1 << 20 };
        let settings = LaneSettings { heartbeat: Duration::from_millis(100), outbox };
        let mut lane = Lane::new(settings, window.clone(), &Metrics::new(), Fakes);
        let generation = window.open(Epoch(1), (LogId::ZERO, Fingerprint(0)), Vec::new());
        lane.take(LaneMessage::Opened { generation, head: window.head() });
        Self { lane, window, peers: BTreeMap::new(), at: 0 }
    }

    fn connect(&mut self, id: u64, channels: &[u8], room: usize, until_done: bool) -> Fake {
        let fake = Fake::default();
        fake.0.lock().room = room;
        let channels: Vec<Channel> = channels.iter().map(|n| Channel::parse(&format!("jobs.{n}")).unwrap()).collect();
        let grants: Vec<Grant> = channels.iter().map(|channel| Grant::for_test("ada", channel.as_str())).collect();
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
        })));
        self.peers.insert(id, fake.clone());
        fake
    }

    fn publish(&mut self, channel: u8, delivery: Delivery, size: usize, terminal: bool) -> u64 {
        self.at += 1;
        let mut event = event(self.at, channel, delivery, size);
        event.terminal = terminal;
        let cursor = cursor(self.at);
        let entry = Entry { id: cursor.at, print: cursor.print, event: Some(event), judged: None };
        let entries: Arc<[Arc<Entry>]> = Arc::new([Arc::new(entry)]);
        self.window.extend(&entries);
        self.lane.take(LaneMessage::Entries(entries));
        self.at
    }
}

/// Positions of the whole lines heard; a line that was cut or mixed with another fails here.
fn heard(fake: &Fake) -> Vec<u64> {
    let peer = fake.0.lock();
    let text = String::from_utf8(peer.heard.clone()).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let mut updates = Vec::new();
    for line in whole.lines() {
        let (name, rest) = line.split_once(' ').unwrap();
        if name == "job:update" {
            let (at, data) = rest.split_once(' ').unwrap();
            let data: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(data["n"].as_u64().unwrap().to_string(), at);
            updates.push(data["n"].as_u64().unwrap());
        } else {
            assert!(matches!(name, "hello" | "ready" | "heartbeat" | "end"), "{line}");
        }
    }
    updates
}

#[derive(Debug, Clone)]
enum Act {
    Publish { channel: u8, durable: bool, size: usize },
    Flush,
    Room { peer: usize, room: usize },
    Close { peer: usize },
    Tick,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        8 => (0u8..4, any::<bool>(), 0usize..200).prop_map(|(channel, durable, size)| Act::Publish { channel, durable, size }),
        3 => Just(Act::Flush),
        4 => (0usize..6, 0usize..4000).prop_map(|(peer, room)| Act::Room { peer, room }),
        1 => (0usize..6).prop_map(|peer| Act::Close { peer }),
        1 => Just(Act::Tick),
    ]
}

proptest! {
    /// However the sockets behave: a stream hears whole lines of its own channels in log order without a repetition; all durable
    /// ones, unless it was told that it is slow; the newest progress of each channel once it reads again.
    #[test]
    fn every_stream_hears_what_it_is_owed(acts in proptest::collection::vec(act(), 1..250)) {
        let mut bench = Bench::new(24);
        let mut owed: BTreeMap<u64, Vec<(u64, bool, u8)>> = BTreeMap::new();
        for id in 0..6_u64 {
            let channels: Vec<u8> = (0..4).filter(|channel| (id + 1) & (1 << channel) != 0).collect();
            bench.connect(id, &channels, 600, false);
            owed.insert(id, Vec::new());
        }
        for act in acts {
            match act {
                Act::Publish { channel, durable, size } => {
                    let delivery = if durable { Delivery::Durable } else { Delivery::Latest };
                    let at = bench.publish(channel, delivery, size, false);
                    for (_, owed) in owed.iter_mut().filter(|(id, _)| (**id + 1) & (1 << channel) != 0) {
                        owed.push((at, durable, channel));
                    }
                }
                Act::Flush => bench.lane.flush(),
                Act::Room { peer, room } => {
                    let fake = bench.peers[&(peer as u64)].clone();
                    fake.0.lock().room = room;
                    let key = fake.0.lock().key.unwrap();
                    bench.lane.ready(key, false);
                }
                Act::Close { peer } => bench.peers[&(peer as u64)].0.lock().closed = true,
                Act::Tick => { bench.lane.flush(); bench.lane.tick(); }
            }
        }
        bench.lane.flush();
        for fake in bench.peers.values().cloned().collect::<Vec<_>>() {
            fake.0.lock().room = usize::MAX;
            let key = fake.0.lock().key.unwrap();
            bench.lane.ready(key, false);
        }
        for (id, owed) in owed {
            let got = heard(&bench.peers[&id]);
            prop_assert!(got.is_sorted_by(|one, next| one < next), "in order, none twice: {got:?}");
            let all: HashSet<u64> = owed.iter().map(|(at, ..)| *at).collect();
            prop_assert!(got.iter().all(|at| all.contains(at)), "only its own channels");
            let peer = bench.peers[&id].0.lock();
            if peer.closed {
                continue;
            }
            let until = match peer.ended {
                None => u64::MAX,
                Some(reason) => {
                    prop_assert_eq!(reason, CloseReason::Slow);
                    prop_assert!(peer.heard.ends_with(b"end slow\n") && peer.finished);
                    *got.last().unwrap_or(&0)
                }
            };
            for (at, ..) in owed.iter().filter(|(at, durable, _)| *durable && *at <= until) {
                prop_assert!(got.contains(at), "durable {at} is missing in {got:?}");
            }
            for channel in 0..4 {
                let newest = owed.iter().rfind(|(.., of)| *of == channel).map(|(at, ..)| *at);
                prop_assert!(peer.ended.is_some() || newest.is_none_or(|at| got.contains(&at)), "newest of {channel}");
            }
        }
    }
}

#[test]
fn what_comes_in_one_turn_goes_out_in_order_and_the_join_closes_the_gap() {
    let mut bench = Bench::new(64);
    let early = bench.connect(1, &[1, 2], usize::MAX, false);
    bench.publish(1, Delivery::Durable, 5, false);
    bench.publish(2, Delivery::Durable, 5, false);
    assert_eq!(heard(&early), [0; 0], "nothing is written before the turn ends");
    // A message that is not an event closes the batch: who joins now must not be mixed up with it.
    let late = bench.connect(2, &[1], usize::MAX, false);
    bench.publish(1, Delivery::Durable, 5, false);
    bench.lane.flush();
    assert_eq!((heard(&early), heard(&late)), (vec![1, 2, 3], vec![3]));
}

#[test]
fn a_stream_that_ends_with_its_jobs_says_so_after_the_last_event() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1, 2], usize::MAX, true);
    bench.publish(1, Delivery::Durable, 5, true);
    bench.publish(2, Delivery::Durable, 5, true);
    bench.lane.flush();
    assert_eq!(heard(&fake), [1, 2]);
    let peer = fake.0.lock();
    assert!(peer.heard.ends_with(b"end done\n") && peer.finished);
    assert_eq!(peer.ended, Some(CloseReason::Done));
}

#[test]
fn a_log_that_begins_anew_gives_the_socket_back_with_the_rest_of_its_frame() {
    let mut bench = Bench::new(64);
    let fake = bench.connect(1, &[1], 60, false);
    let before = fake.0.lock().heard.len();
    fake.0.lock().room = 10;
    bench.publish(1, Delivery::Durable, 50, false);
    bench.publish(1, Delivery::Durable, 50, false);
    bench.lane.flush();
    let generation = bench.window.open(Epoch(2), (LogId::ZERO, Fingerprint(0)), Vec::new());
    bench.lane.take(LaneMessage::Opened { generation, head: bench.window.head() });
    let peer = fake.0.lock();
    let (unsent, why) = peer.back.clone().expect("the socket is given back");
    let written = peer.heard.len() - before;
    assert_eq!((written, why), (10, Refused::Reopened));
    let whole = [peer.heard[before..].to_vec(), unsent.to_vec()].concat();
    assert!(
        whole.starts_with(b"job:update 1 ") && whole.ends_with(b"\n") && !whole[..whole.len() - 1].contains(&b'\n')
    );
}

#[test]
fn who_is_too_far_behind_or_of_another_log_is_sent_back() {
    let mut bench = Bench::new(64);
    let old = bench.window.generation();
    for _ in 0..100 {
        bench.publish(1, Delivery::Durable, 5, false);
    }
    for (from, generation, why) in [
        (LogId::ZERO, old, Refused::Behind),
        (LogId { ms: 500, seq: 0 }, old, Refused::Behind),
        (LogId::ZERO, old - 1, Refused::Reopened),
    ] {
        let fake = Fake::default();
        let grants = [Grant::for_test("ada", "jobs.1")];
        let seat = Seat::Socket {
            handle: fake.clone(),
            unsent: Bytes::from_static(b"hello 0 {}\n"),
            wire: &LINES,
            keeper: Box::new(Kept(fake.clone())),
        };
        let (id, grants, expires_at) = (ConnectionId(9), grants.into(), u64::MAX);
        let register = Register { id, grants, seat, from, generation, until_done: None, expires_at };
        bench.lane.take(LaneMessage::Register(Box::new(register)));
        assert_eq!(fake.0.lock().back.clone().map(|(_, why)| why), Some(why));
    }
}

#[test]
fn a_drain_and_a_stop_end_every_stream_and_leave_nothing() {
    let mut bench = Bench::new(64);
    let drained = bench.connect(1, &[1], usize::MAX, false);
    bench.lane.take(LaneMessage::Drain(Duration::ZERO));
    bench.lane.tick();
    assert_eq!(drained.0.lock().ended, Some(CloseReason::Drain));
    let late = bench.connect(2, &[1], usize::MAX, false);
    assert_eq!(late.0.lock().ended, Some(CloseReason::Drain), "who comes now has missed its slot");
    bench.lane.ready(drained.0.lock().key.unwrap(), true);
    bench.lane.ready(late.0.lock().key.unwrap(), true);
    assert_eq!((bench.lane.registry.len(), bench.lane.registry.topics()), (0, 0));
}

#[test]
fn a_heartbeat_comes_to_those_for_whom_nothing_waits() {
    let mut bench = Bench::new(64);
    let (quiet, stuck) = (bench.connect(1, &[1], usize::MAX, false), bench.connect(2, &[2], 5, false));
    for _ in 0..3 {
        bench.lane.tick();
    }
    let count = |fake: &Fake| String::from_utf8(fake.0.lock().heard.clone()).unwrap().matches("heartbeat").count();
    assert_eq!((count(&quiet), count(&stuck)), (3, 0));
}
