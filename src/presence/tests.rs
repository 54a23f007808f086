//! A room against what it is told, in any order and with losses.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use crate::broker::Aspect;
use crate::broker::DeviceName;
use crate::broker::DeviceRecord;
use crate::broker::Hold;
use crate::broker::LeaveCause;
use crate::broker::MemberRecord;
use crate::broker::NODE_LEASE;
use crate::broker::Outcome;
use crate::broker::Patch;
use crate::broker::Roster;
use crate::broker::RosterChange;
use crate::broker::RosterVersion;
use crate::event::Id;
use crate::event::Moved;
use crate::presence::member::profile;
use crate::presence::room::Room;

const NODE: u64 = 7;

fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

fn name(stream: u64) -> DeviceName {
    format!("{stream:016x}").into()
}

fn device(node: u64, active_ms: u64) -> DeviceRecord {
    DeviceRecord { node: Some(node), active_ms, ..DeviceRecord::default() }
}

fn member(devices: &[(u64, DeviceRecord)]) -> MemberRecord {
    let devices = devices.iter().map(|(stream, device)| (name(*stream), device.clone())).collect();
    MemberRecord { joined_ms: 1, profile: profile("Ada", None), devices }
}

fn at(epoch: u64, number: u64) -> RosterVersion {
    RosterVersion { epoch, number }
}

fn room() -> Room {
    let mut room = Room::new(&id("d1"), NODE, 0);
    room.attach(&name(99), None);
    assert!(room.replace(Roster::default(), Instant::now()).is_empty());
    room
}

fn names(moved: &[Moved]) -> Vec<&str> {
    moved.iter().map(|moved| moved.event.name.as_str()).collect()
}

fn patch(aspect: Aspect, text: &str) -> Patch {
    Patch::from([(aspect, Some(Arc::from(text)))])
}

/// What one change of the roster brings.
fn told(room: &mut Room, version: RosterVersion, user: &str, outcome: Outcome) -> Vec<Moved> {
    room.hear(version, vec![(id(user), outcome)]);
    room.absorb(Instant::now())
}

#[test]
fn a_life_is_joined_changes_left() {
    let mut room = room();
    let here = |active| Outcome::Here(member(&[(1, device(3, active))]));
    assert_eq!(names(&told(&mut room, at(5, 1), "ada", here(1))), ["presence:user-joined"]);
    assert_eq!(names(&told(&mut room, at(5, 2), "ada", here(2))), [""; 0], "lastSeen alone is no news");
    let two = Outcome::Here(member(&[(1, device(3, 2)), (2, device(4, 3))]));
    let more = told(&mut room, at(5, 3), "ada", two);
    assert_eq!(names(&more), ["presence:update"]);
    assert_eq!(&*more[0].event.data, "{\"channel\":\"presence.d1\",\"userId\":\"ada\",\"devices\":2}");
    let gone = told(&mut room, at(5, 4), "ada", Outcome::Left(LeaveCause::NodeLost));
    assert_eq!(&*gone[0].event.data, "{\"channel\":\"presence.d1\",\"userId\":\"ada\",\"cause\":\"node_lost\"}");
    assert!(told(&mut room, at(5, 4), "ada", here(9)).is_empty(), "what is old is not heard twice");
}

#[test]
fn a_gap_is_read_and_the_difference_told() {
    let mut room = room();
    let here = || Outcome::Here(member(&[(1, device(3, 1))]));
    told(&mut room, at(5, 1), "ada", here());
    assert!(told(&mut room, at(5, 3), "eve", here()).is_empty());
    assert!(room.wants_reading(), "number two is missing");
    let members =
        BTreeMap::from([(id("ben"), member(&[(2, device(3, 1))])), (id("eve"), member(&[(1, device(3, 1))]))]);
    let moved = room.replace(Roster { version: at(5, 3), members }, Instant::now());
    assert_eq!(names(&moved), ["presence:user-left", "presence:user-joined", "presence:user-joined"]);
    assert!(!room.wants_reading());
}

#[test]
fn a_store_that_lost_everything_sends_nobody_away_at_once() {
    let mut room = room();
    let here = || Outcome::Here(member(&[(1, device(3, 1))]));
    told(&mut room, at(5, 1), "ada", here());
    told(&mut room, at(5, 2), "ben", here());
    let now = Instant::now();
    assert!(room.replace(Roster::default(), now).is_empty());
    assert!(room.is_doubtful());
    assert!(told(&mut room, at(6, 1), "ada", here()).is_empty(), "her node has said that she is there");
    let later = room.absorb(now + NODE_LEASE + Duration::from_millis(1));
    assert_eq!(names(&later), ["presence:user-left"]);
    assert!(later[0].event.data.contains("\"ben\""), "{}", later[0].event.data);
}

#[test]
fn what_is_said_here_is_told_once_and_not_to_whoever_said_it() {
    let mut room = room();
    room.attach(&name(1), Some((id("ada"), profile("Ada", None))));
    let flight = room.take_steps(true);
    assert!(matches!(&flight.steps[0].what, RosterChange::Put { hold: Hold::Node, patch, .. } if patch.is_empty()));
    assert!(!room.is_ready(&name(1)));
    room.arrived(flight, at(5, 1));
    assert!(!room.is_ready(&name(1)), "the state has to include it");
    told(&mut room, at(5, 1), "ada", Outcome::Here(member(&[(1, device(NODE, 1))])));
    assert!(room.is_ready(&name(1)));
    assert!(room.say(&name(1), patch(Aspect::Cursor, "{\"x\":1,\"y\":1}")));
    assert!(room.say(&name(1), patch(Aspect::Cursor, "{\"x\":2,\"y\":2}")));
    let flight = room.take_steps(true);
    assert_eq!(flight.steps.len(), 1, "all of a tick is one step");
    assert_eq!(room.has_steps(), (false, false));
    room.failed(flight);
    let flight = room.take_steps(true);
    assert!(
        matches!(&flight.steps[0].what, RosterChange::Put { patch: said, .. } if *said == patch(Aspect::Cursor, "{\"x\":2,\"y\":2}"))
    );
    room.arrived(flight, at(5, 2));
    let mut moved = device(NODE, 2);
    moved.state.insert(Aspect::Cursor, "{\"x\":2,\"y\":2}".into());
    let moved = told(&mut room, at(5, 2), "ada", Outcome::Here(member(&[(1, moved)])));
    assert_eq!((moved.len(), moved[0].by), (1, Some(1)));
    assert!(!room.say(&name(99), patch(Aspect::Cursor, "{}")), "who only looks says nothing");
}

#[test]
fn who_is_held_to_be_gone_says_again_that_it_is_there() {
    let mut room = room();
    room.attach(&name(1), Some((id("ada"), profile("Ada", None))));
    assert!(room.say(&name(1), patch(Aspect::Status, "\"dnd\"")));
    let flight = room.take_steps(true);
    room.arrived(flight, at(5, 1));
    told(&mut room, at(5, 1), "ada", Outcome::Here(member(&[(1, device(NODE, 1))])));
    told(&mut room, at(5, 2), "ada", Outcome::Left(LeaveCause::NodeLost));
    let flight = room.take_steps(true);
    assert!(
        matches!(&flight.steps[0].what, RosterChange::Put { patch: said, .. } if *said == patch(Aspect::Status, "\"dnd\"")),
        "with everything that it had said"
    );
    room.arrived(flight, at(5, 3));
    told(&mut room, at(5, 3), "ada", Outcome::Here(member(&[(1, device(NODE, 1))])));
    told(&mut room, at(5, 4), "ada", Outcome::Left(LeaveCause::Revoked));
    assert_eq!(room.has_steps(), (false, false), "who was sent away does not come back by itself");
}

#[test]
fn a_stream_that_leaves_and_comes_back_is_there() {
    let mut room = room();
    let who = || Some((id("ada"), profile("Ada", None)));
    room.attach(&name(1), who());
    let flight = room.take_steps(true);
    room.detach(&name(1), |device| RosterChange::Drop { device, cause: LeaveCause::Closed });
    room.arrived(flight, at(5, 1));
    let flight = room.take_steps(true);
    assert!(matches!(&flight.steps[0].what, RosterChange::Drop { .. }));
    room.attach(&name(1), who());
    room.arrived(flight, at(5, 2));
    let flight = room.take_steps(true);
    assert!(matches!(&flight.steps[0].what, RosterChange::Put { .. }), "it is told again after the leave");
    room.arrived(flight, at(5, 3));
    room.detach(&name(1), |device| RosterChange::Drop { device, cause: LeaveCause::Closed });
    let flight = room.take_steps(true);
    room.arrived(flight, at(5, 4));
    room.detach(&name(99), |device| RosterChange::Drop { device, cause: LeaveCause::Closed });
    assert!(room.is_unused());
}

proptest! {
    /// Whatever is lost on the way: what is told is well formed, and in the end right.
    #[test]
    fn lives_are_well_formed_whatever_is_lost(
        changes in prop::collection::vec((0_u8..5, 0_u8..4, any::<bool>(), 0_u8..10), 1..80),
    ) {
        let mut room = room();
        let mut truth: BTreeMap<Id, MemberRecord> = BTreeMap::new();
        let mut here: BTreeSet<String> = BTreeSet::new();
        let (mut epoch, mut number) = (1, 0);
        let mut now = Instant::now();
        let check = |moved: &[Moved], here: &mut BTreeSet<String>| {
            for moved in moved {
                let data: serde_json::Value = serde_json::from_str(&moved.event.data).unwrap();
                let user = data["userId"].as_str().unwrap().to_owned();
                match moved.event.name.as_str() {
                    "presence:user-joined" => prop_assert!(here.insert(user), "joined twice"),
                    "presence:user-left" => prop_assert!(here.remove(&user), "left without being there"),
                    _ => prop_assert!(here.contains(&user), "changed without being there"),
                }
            }
            Ok(())
        };
        for (user, what, heard, luck) in changes {
            let user = id(&format!("u{user}"));
            number += 1;
            let outcome = if what == 0 {
                truth.remove(&user);
                Outcome::Left(LeaveCause::Closed)
            } else {
                let record = member(&[(u64::from(what), device(3, number))]);
                truth.insert(user.clone(), record.clone());
                Outcome::Here(record)
            };
            if heard {
                room.hear(at(epoch, number), vec![(user, outcome)]);
            }
            let moved = room.absorb(now);
            check(&moved, &mut here)?;
            if luck == 0 {
                (epoch, number) = (epoch + 1, 0); // the store begins anew, with what its nodes say at once
            }
            if luck < 3 && room.wants_reading() || luck == 0 {
                let moved = room.replace(Roster { version: at(epoch, number), members: truth.clone() }, now);
                check(&moved, &mut here)?;
            }
        }
        now += NODE_LEASE * 2;
        let moved = room.replace(Roster { version: at(epoch, number), members: truth.clone() }, now);
        check(&moved, &mut here)?;
        let moved = room.absorb(now);
        check(&moved, &mut here)?;
        let wanted: BTreeSet<String> = truth.keys().map(ToString::to_string).collect();
        prop_assert_eq!(here, wanted);
    }
}
