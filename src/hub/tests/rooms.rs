//! Channels with a state, against a model: whenever somebody comes, however slow they are, they see lives that are well formed, nothing
//! that goes back, and in the end what is.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use proptest::prelude::*;

use crate::event::Channel;
use crate::event::Delivery;
use crate::event::Event;
use crate::event::EventName;
use crate::event::Moved;
use crate::hub::States;
use crate::hub::message::LaneMessage;
use crate::hub::tests::bench::Bench;
use crate::hub::tests::bench::Fake;
use crate::hub::tests::bench::WRITABLE;

const EVENTS_MAX: usize = 16;

/// Who is there and how often each has moved. What happens is known at once, and told to the lane later.
#[derive(Debug, Default)]
struct Model {
    there: BTreeMap<u64, u64>,
    number: u64,
    moves: u64,
    untold: VecDeque<Moved>,
}

#[derive(Debug, Default)]
struct Room(Mutex<Model>);

impl States for Room {
    fn state(&self, channel: &Channel) -> Option<(Event, u64)> {
        let model = self.0.lock();
        let there: Vec<String> = model.there.iter().map(|(user, at)| format!("\"{user}\":{at}")).collect();
        Some((event(channel, EventName::PRESENCE_STATE, &format!("{{{}}}", there.join(","))), model.number))
    }
}

fn channel() -> Channel {
    Channel::parse("presence.d1").unwrap()
}

fn event(channel: &Channel, name: EventName, data: &str) -> Event {
    let delivery = if name == EventName::PRESENCE_UPDATE { Delivery::Ephemeral } else { Delivery::Durable };
    Event { channel: channel.clone(), name, data: data.into(), delivery, terminal: false, accepted_us: 0 }
}

impl Model {
    /// Somebody comes, goes or moves; of those who move, one is the person of the stream of the same number.
    fn acts(&mut self, user: u64, goes: bool) {
        self.moves += 1;
        let at = self.moves;
        let (name, by) = match (self.there.contains_key(&user), goes) {
            (true, true) => {
                self.there.remove(&user);
                (EventName::PRESENCE_LEFT, None)
            }
            (there, _) => {
                self.there.insert(user, at);
                let name = if there { EventName::PRESENCE_UPDATE } else { EventName::PRESENCE_JOINED };
                (name, there.then_some(user))
            }
        };
        self.number += 1;
        let event = event(&channel(), name, &format!("{{\"user\":{user},\"at\":{at}}}"));
        self.untold.push_back(Moved { event, number: self.number, by });
    }
}

/// What a client makes of what it heard.
fn view(id: u64, fake: &Fake) -> Result<BTreeMap<u64, u64>, TestCaseError> {
    let heard = String::from_utf8(fake.0.lock().heard.clone()).unwrap();
    let mut seen: BTreeMap<u64, u64> = BTreeMap::new();
    for line in heard.lines() {
        let mut parts = line.splitn(3, ' ');
        let (name, data) = (parts.next().unwrap_or_default(), parts.nth(1).unwrap_or("{}"));
        let data: serde_json::Value = serde_json::from_str(data).unwrap_or_default();
        let (user, at) = (data["user"].as_u64().unwrap_or(0), data["at"].as_u64().unwrap_or(0));
        match name {
            "presence:state" => {
                let now: BTreeMap<u64, u64> = serde_json::from_value(data).unwrap();
                for (user, at) in &now {
                    prop_assert!(seen.get(user).is_none_or(|before| before <= at), "{user} goes back: {heard}");
                }
                seen = now;
            }
            "presence:user-joined" => prop_assert!(seen.insert(user, at).is_none(), "{user} joined twice: {heard}"),
            "presence:user-left" => prop_assert!(seen.remove(&user).is_some(), "{user} was not there: {heard}"),
            "presence:update" => {
                prop_assert!(user != id, "an echo: {heard}");
                let before = seen.insert(user, at);
                prop_assert!(before.is_some_and(|before| before < at), "{user} moved back or was not there: {heard}");
            }
            _ => {}
        }
    }
    Ok(seen)
}

proptest! {
    #[test]
    fn everybody_sees_well_formed_lives_and_in_the_end_what_is(
        steps in prop::collection::vec((0_u8..6, 0_u64..4, any::<bool>(), 0_usize..2000), 1..150),
    ) {
        let room = Arc::new(Room::default());
        let mut bench = Bench::with_states(EVENTS_MAX, Arc::clone(&room) as Arc<dyn States>);
        for (what, user, goes, bytes) in steps {
            match what {
                0 if !bench.peers.contains_key(&user) => drop(bench.connect_to(user, &[channel()], bytes, false)),
                0 | 1 => if let Some(fake) = bench.peers.get(&user).cloned() {
                    let key = {
                        let mut peer = fake.0.lock();
                        peer.room += bytes;
                        peer.key
                    };
                    key.into_iter().for_each(|key| bench.lane.ready(key, WRITABLE));
                },
                2 => {
                    let untold: Vec<Moved> = std::mem::take(&mut room.0.lock().untold).into();
                    bench.lane.take(LaneMessage::Told(channel(), untold.into()));
                    bench.lane.flush();
                }
                3 => bench.lane.tick(),
                _ => room.0.lock().acts(user, goes && what == 5),
            }
        }
        let untold: Vec<Moved> = std::mem::take(&mut room.0.lock().untold).into();
        bench.lane.take(LaneMessage::Told(channel(), untold.into()));
        bench.lane.flush();
        for _ in 0..3 {
            for fake in bench.peers.values().cloned().collect::<Vec<_>>() {
                let key = {
                    let mut peer = fake.0.lock();
                    peer.room = usize::MAX / 2;
                    peer.key
                };
                key.into_iter().for_each(|key| bench.lane.ready(key, WRITABLE));
            }
            bench.lane.tick();
        }
        let there = room.0.lock().there.clone();
        for (id, fake) in &bench.peers {
            if fake.0.lock().ended.is_some() {
                continue; // too many came and went while it read nothing: it is told that it was slow, and comes back
            }
            let mut seen = view(*id, fake)?;
            let mut wanted = there.clone();
            // Where they are themselves they know.
            seen.remove(id);
            wanted.remove(id);
            prop_assert_eq!(seen, wanted, "{}", id);
        }
    }
}
