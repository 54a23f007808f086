//! A lane with sockets that take what they like: random partial writes, would-blocks and closings, against a model.

use std::collections::BTreeMap;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use crate::auth::Grant;
use crate::event::Delivery;
use crate::event::Epoch;
use crate::event::Fingerprint;
use crate::event::LogId;
use crate::hub::CloseReason;
use crate::hub::ConnectionId;
use crate::hub::Refused;
use crate::hub::Register;
use crate::hub::Seat;
use crate::hub::message::LaneMessage;
use crate::hub::tests::Stream;
use crate::hub::tests::bench::Bench;
use crate::hub::tests::bench::Fake;
use crate::hub::tests::bench::GONE;
use crate::hub::tests::bench::Kept;
use crate::hub::tests::bench::LINES;
use crate::hub::tests::bench::WRITABLE;

/// Positions of the whole lines heard; a line that was cut or mixed with another fails here.
pub(super) fn heard(fake: &Fake) -> Vec<u64> {
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
                    bench.lane.ready(key, WRITABLE);
                }
                Act::Close { peer } => bench.peers[&(peer as u64)].0.lock().closed = true,
                Act::Tick => { bench.lane.flush(); bench.lane.tick(); }
            }
        }
        bench.lane.flush();
        for fake in bench.peers.values().cloned().collect::<Vec<_>>() {
            fake.0.lock().room = usize::MAX;
            let key = fake.0.lock().key.unwrap();
            bench.lane.ready(key, WRITABLE);
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
        let grants = [Grant::for_test("jobs.1")];
        let seat = Seat::Socket {
            handle: fake.clone(),
            unsent: Bytes::from_static(b"hello 0 {}\n"),
            wire: &LINES,
            keeper: Box::new(Kept(fake.clone())),
        };
        let (id, grants, expires_at) = (ConnectionId(9), grants.into(), u64::MAX);
        let (holder, edition) = (Arc::new(Stream::default()), 0);
        let register = Register { id, grants, seat, from, generation, until_done: None, expires_at, holder, edition };
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
    bench.lane.ready(drained.0.lock().key.unwrap(), GONE);
    bench.lane.ready(late.0.lock().key.unwrap(), GONE);
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
