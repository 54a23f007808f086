//! A step in Lua and a step in Rust, held together: random steps at both, and everything that can be seen compared.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidings::broker::Aspect;
use tidings::broker::Hold;
use tidings::broker::LeaveCause;
use tidings::broker::MemberRecord;
use tidings::broker::Outcome;
use tidings::broker::Patch;
use tidings::broker::Roster;
use tidings::broker::RosterChange;
use tidings::broker::RosterStep;

use crate::contract::broker::fresh_prefix;
use crate::contract::broker::settings;
use crate::contract::rosters::cluster;
use crate::contract::rosters::cluster::Node;
use crate::contract::rosters::cluster::id;
use crate::support::redis::RedisServer;

/// What a node does at once.
type Act = (usize, Vec<RosterStep>);

fn patch() -> impl Strategy<Value = Patch> {
    let aspect = proptest::sample::select(&Aspect::ALL[..]);
    let texts =
        ["true", "{}", "[]", "{\"a\":[1.0,{\"b\":[]}]}", "\"é\\u0000\\\"\\/\"", "12345678901234567890", "1e400"];
    let text = proptest::option::weighted(0.7, proptest::sample::select(texts.to_vec()));
    proptest::collection::btree_map(aspect, text.prop_map(|text| text.map(Arc::from)), 0..3)
}

fn change() -> impl Strategy<Value = RosterChange> {
    let device = || proptest::sample::select(&["1", "two", "d.3", "e-4"][..]).prop_map(Arc::from);
    let cause = || proptest::sample::select(&LeaveCause::ALL[..]);
    // Which of two ends first must not depend on how fast this machine is: years are room enough for no two in the same second.
    let stays = (0_u64..300_000_000).prop_map(|seconds| Duration::from_secs(3600 + seconds));
    let hold = prop_oneof![4 => Just(Hold::Node), 1 => Just(Hold::Lease(Duration::from_secs(3600)))];
    let profile = proptest::sample::select(&["{}", "{}", "{}", "{\"name\":\"\\u0007 ß\"}"][..]).prop_map(Arc::from);
    prop_oneof![
        6 => (device(), hold, profile, patch())
            .prop_map(|(device, hold, profile, patch)| RosterChange::Put { device, hold, profile, patch }),
        2 => (device(), patch()).prop_map(|(device, patch)| RosterChange::Say { device, patch }),
        3 => (device(), cause(), prop_oneof![5 => stays, 1 => Just(Duration::ZERO)])
            .prop_map(|(device, cause, stays)| RosterChange::Linger { device, cause, stays }),
        1 => (device(), cause()).prop_map(|(device, cause)| RosterChange::Drop { device, cause }),
        1 => cause().prop_map(|cause| RosterChange::Expel { cause }),
    ]
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let step = (proptest::sample::select(&["ada", "b0b|x:~y@z.-", "C"][..]), change());
    let step = step.prop_map(|(user, what)| RosterStep { user: id(user), what });
    proptest::collection::vec((0_usize..2, proptest::collection::vec(step, 0..5)), 1..25)
}

/// A member without what two stores can't share: the time, and the numbers of nodes.
fn member_text(member: &MemberRecord, nodes: &HashMap<u64, usize>) -> String {
    let mut member = member.clone();
    let times = (member.joined_ms > 1_700_000_000_000, std::mem::take(&mut member.joined_ms));
    for device in member.devices.values_mut() {
        assert!(device.active_ms >= times.1, "{member:?}");
        device.active_ms = 0;
        device.node = device.node.map(|node| nodes[&node] as u64);
    }
    format!("{} {member:?}", times.0)
}

fn roster_text(roster: &Roster, nodes: &HashMap<u64, usize>) -> String {
    let members = roster.members.iter().map(|(user, member)| format!("{user}: {}", member_text(member, nodes)));
    format!("{} {:?}", roster.version.number, members.collect::<Vec<_>>())
}

async fn observe(stores: &[Node; 2], nodes: &HashMap<u64, usize>, acts: &[Act]) -> Vec<String> {
    let document = format!("d{:x}", fastrand::u64(..));
    stores[0].listens(&document).await;
    let (mut seen, mut version) = (Vec::new(), tidings::broker::RosterVersion::default());
    for (node, steps) in acts {
        version = stores[*node].does(&document, steps).await;
        let roster = stores[1 - *node].sees(&document).await;
        assert_eq!(roster.version, version);
        seen.push(roster_text(&roster, nodes));
    }
    if version.number > 0 {
        for (version, members) in stores[0].heard_up_to(&document, version).await {
            let outcomes = members.iter().map(|(user, outcome)| match outcome {
                Outcome::Here(member) => format!("{user} here {}", member_text(member, nodes)),
                Outcome::Left(cause) => format!("{user} left {cause:?}"),
            });
            seen.push(format!("heard {} {:?}", version.number, outcomes.collect::<Vec<_>>()));
        }
        stores[0].agrees(&document).await;
    }
    stores[0].rosters.ignore(&id(&document)).await;
    stores[0].forgets_what_it_heard();
    seen
}

async fn numbers(stores: &[Node; 2]) -> HashMap<u64, usize> {
    HashMap::from([(stores[0].number().await, 0), (stores[1].number().await, 1)])
}

/// Whatever happens, both stores answer alike, remember alike and tell alike.
#[test]
fn lua_and_rust_keep_the_same_rosters() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (memory, redis) = runtime.block_on(async {
        let settings = settings(RedisServer::shared().await.url(), fresh_prefix());
        (cluster::memory::<2>(), cluster::redis::<2>(&settings).await)
    });
    let of = runtime.block_on(async { (numbers(&memory).await, numbers(&redis).await) });
    let cases = 150;
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let done = runner.run(&acts(), |acts| {
        let (memory, redis) =
            runtime.block_on(async { (observe(&memory, &of.0, &acts).await, observe(&redis, &of.1, &acts).await) });
        for (at, (memory, redis)) in memory.iter().zip(&redis).enumerate() {
            prop_assert_eq!(memory, redis, "line {} after {:#?}", at, acts);
        }
        prop_assert_eq!(memory.len(), redis.len());
        Ok(())
    });
    runtime.block_on(async {
        drop(memory);
        for node in redis {
            node.stop().await;
        }
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}
