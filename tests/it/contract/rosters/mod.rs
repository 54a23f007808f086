//! What every store of rosters promises: one truth about who is there, told once, and an end of everything that nobody holds.

mod cluster;
mod redis;
mod twins;

use std::collections::BTreeMap;
use std::time::Duration;

use tidings::broker::Aspect;
use tidings::broker::Hold;
use tidings::broker::LeaveCause;
use tidings::broker::NODE_LEASE;
use tidings::broker::Outcome;
use tidings::broker::Roster;
use tidings::broker::RosterVersion;
use tokio::time::Instant;

use crate::contract::broker::fresh_prefix;
use crate::contract::broker::settings;
use crate::support::eventually;
use crate::support::redis::RedisServer;
use cluster::Node;
use cluster::expel;
use cluster::gone;
use cluster::id;
use cluster::linger;
use cluster::only;
use cluster::profile;
use cluster::put;
use cluster::says;

const MINUTE: Duration = Duration::from_secs(60);

/// Entering, saying and leaving are seen by all, each as one version; what is not new is none.
async fn members_come_say_and_go(a: &Node, b: &Node) {
    b.listens("d").await;
    assert_eq!(a.sees("d").await.version, RosterVersion::default());
    assert_eq!(a.does("d", &[gone("ada", "x", LeaveCause::Closed)]).await, RosterVersion::default(), "there is none");
    let first = a.does("d", &[put("ada", "x"), put("bob", "y")]).await;
    assert_eq!(first.number, 1, "one step, one version");
    let heard = b.heard_up_to("d", first).await;
    let users: Vec<&str> = heard[0].1.iter().map(|(user, _)| user.as_str()).collect();
    assert_eq!(users, ["ada", "bob"]);
    let Outcome::Here(ada) = &heard[0].1[0].1 else { panic!("{heard:?}") };
    let (name, device) = only(ada);
    assert_eq!((name, device.node, device.idle, device.state.len()), ("x", Some(a.number().await), false, 0));
    assert_eq!((&*ada.profile, ada.joined_ms), (&*profile("ada"), device.active_ms));

    let said = [
        (Aspect::Cursor, Some("{\"x\":1.10,\"y\":[],\"z\":12345678901234567890}")),
        (Aspect::Status, Some("\"away\"")),
        (Aspect::Data, Some("[{}, [ ] ,\"\\ud800\"]")),
    ];
    let second = b.does("d", &[says("bob", "y", Hold::Node, &said), put("ada", "x")]).await;
    let roster = a.sees("d").await;
    assert_eq!((roster.version, second.number), (second, 2));
    let (_, device) = only(&roster.members["bob"]);
    let state: Vec<_> = device.state.iter().map(|(aspect, text)| (*aspect, Some(&**text))).collect();
    assert_eq!(state, [said[1], said[0], said[2]], "texts stay as they are");
    assert_eq!(device.node, Some(b.number().await), "it has moved");
    let moved = b.heard_up_to("d", second).await;
    assert_eq!(moved[1].1.len(), 2, "ada has moved too");

    let forget = says("bob", "y", Hold::Node, &[(Aspect::Cursor, None), (Aspect::Typing, None)]);
    b.does("d", &[forget]).await;
    assert_eq!(only(&a.sees("d").await.members["bob"]).1.state.len(), 2);
    a.does("d", &[gone("ada", "x", LeaveCause::Closed), expel("bob", LeaveCause::Revoked)]).await;
    b.agrees("d").await;
    assert_eq!((b.told_why("d", "ada"), b.told_why("d", "bob")), (vec![LeaveCause::Closed], vec![LeaveCause::Revoked]));
    let empty = a.sees("d").await;
    assert!(empty.members.is_empty() && empty.version.number == 4 && empty.version.epoch == first.epoch, "{empty:?}");
    assert_eq!(a.does("d", &[put("ada", "x")]).await.number, 5, "its version goes on");
    b.rosters.ignore(&id("d")).await;
    a.does("d", &[put("cid", "x")]).await;
    b.listens("d").await;
    let last = a.does("d", &[put("dan", "x")]).await;
    assert_eq!(b.heard_up_to("d", last).await.last().unwrap().1.len(), 1);
    assert!(b.heard_of("d").iter().all(|(version, _)| version.number != 6), "it was ignored then");
}

/// A device that lingers comes back, under its name or another one and at whichever node, and its member has neither left nor joined.
async fn a_reconnect_is_no_leave(a: &Node, b: &Node) {
    b.listens("r").await;
    let state = [(Aspect::Selection, Some("[1,2]"))];
    let before = a.does("r", &[says("ada", "one", Hold::Node, &state)]).await;
    let stays = |device| linger("ada", device, LeaveCause::Closed, MINUTE);
    let joined_ms = a.sees("r").await.members["ada"].joined_ms;
    assert_eq!(b.does("r", &[stays("one")]).await, before, "b does not hold it");
    assert_eq!(only(&b.sees("r").await.members["ada"]).1.node, Some(a.number().await));
    assert_eq!(a.does("r", &[stays("one")]).await, before, "nothing can be seen of that");
    assert_eq!(only(&b.sees("r").await.members["ada"]).1.node, None);
    assert_eq!(a.does("r", &[put("ada", "one")]).await, before, "nothing has changed");
    assert_eq!(only(&b.sees("r").await.members["ada"]).1.node, Some(a.number().await));

    // Another device takes its place, at another node, with its state. The one that would have ended first is the one.
    a.does("r", &[put("ada", "two")]).await;
    let longer = linger("ada", "two", LeaveCause::Closed, 2 * MINUTE);
    a.does("r", &[longer, stays("one")]).await;
    b.does("r", &[put("ada", "three")]).await;
    let member = a.sees("r").await.members["ada"].clone();
    let names: Vec<&str> = member.devices.keys().map(|name| &**name).collect();
    assert_eq!((names, member.joined_ms), (vec!["three", "two"], joined_ms));
    let three = &member.devices["three"];
    assert_eq!((three.node, &*three.state[&Aspect::Selection]), (Some(b.number().await), "[1,2]"));

    // A lease is not a device that lingers, and a device that is still there is not taken.
    a.does("r", &[expel("ada", LeaveCause::Closed)]).await;
    a.does("r", &[says("ada", "lease", Hold::Lease(MINUTE), &[]), put("ada", "one"), put("ada", "two")]).await;
    assert_eq!(a.sees("r").await.members["ada"].devices.len(), 3);
    // With no time to stay it leaves now.
    a.does("r", &[linger("ada", "one", LeaveCause::Drain, Duration::ZERO)]).await;
    assert_eq!(a.sees("r").await.members["ada"].devices.len(), 2);
    // While others are told something else, they also learn that nobody has it: its return is news then.
    a.does("r", &[stays("two")]).await;
    a.does("r", &[says("ada", "lease", Hold::Lease(MINUTE), &state)]).await;
    let told = a.sees("r").await.version;
    assert_eq!(a.does("r", &[put("ada", "two")]).await.number, told.number + 1);
    b.agrees("r").await;
}

/// Whatever is said again changes nothing, and nobody is told.
async fn steps_can_be_repeated(a: &Node, b: &Node) {
    b.listens("again").await;
    let steps = [
        put("ada", "one"),
        says("bob", "lease", Hold::Lease(MINUTE), &[]),
        put("dan", "one"),
        put("dan", "two"),
        linger("cid", "one", LeaveCause::Closed, MINUTE),
    ];
    a.does("again", &[put("cid", "one")]).await;
    let version = a.does("again", &steps).await;
    let other = [gone("dan", "two", LeaveCause::Closed), expel("eve", LeaveCause::Revoked)];
    let after = a.does("again", &other).await;
    assert_eq!(after.number, version.number + 1);
    for _ in 0..3 {
        let repeated = [&steps[..3], &steps[4..], &other[..]].concat();
        assert_eq!(a.does("again", &repeated).await, after);
    }
    assert_eq!(b.does("again", &[]).await, after);
    let versions = b.rosters.versions(&[id("again"), id("nobody"), id("again")]).await.unwrap();
    assert_eq!(versions, [after, RosterVersion::default(), after]);
    assert!(b.rosters.versions(&[]).await.unwrap().is_empty());
    b.agrees("again").await;
    assert_eq!(b.heard_of("again").len(), 3);
}

/// However many change it at once: every version is told once, in order, and whoever asks sees one of those.
async fn equal_versions_have_equal_members(nodes: &[Node; 4]) {
    nodes[0].listens("crowd").await;
    let crowd = nodes.iter().enumerate().map(async |(n, node)| {
        let mut seen = Vec::new();
        for round in 0..40 {
            let (user, device) = (format!("u{}", (n + round) % 5), format!("d{}", round % 3));
            let step = match round % 4 {
                0 => gone(&user, &device, LeaveCause::Closed),
                1 => linger(&user, &device, LeaveCause::Closed, Duration::ZERO),
                _ => says(&user, &device, Hold::Node, &[(Aspect::Cursor, Some(&round.to_string()))]),
            };
            node.does("crowd", &[step]).await;
            seen.push(node.sees("crowd").await);
        }
        seen
    });
    let seen: Vec<Roster> = futures_util::future::join_all(crowd).await.into_iter().flatten().collect();
    let newest = seen.iter().map(|roster| roster.version.number).max().unwrap();
    nodes[0].agrees("crowd").await;
    let mut known = vec![BTreeMap::new()];
    for (_, members) in nodes[0].heard_of("crowd") {
        let mut next = known.last().unwrap().clone();
        cluster::apply(&mut next, members);
        known.push(next);
    }
    assert!(newest >= 40, "{newest}");
    seen.iter().for_each(|roster| assert_eq!(roster.members, known[roster.version.number as usize]));
}

/// What is due by itself, and is looked at by two nodes at once while a third one is dead and a fourth has never said a word.
async fn what_is_due_ends_once(nodes: [&Node; 4]) {
    let [a, b, dies, silent] = nodes;
    assert!(a.beats().await && b.beats().await && dies.beats().await, "all are new");
    let since = Instant::now();
    assert!(!a.beats().await && !dies.beats().await, "and then known");
    let documents = ["ends", "half", "lease", "says", "lost", "silent", "stays"];
    for document in documents {
        a.listens(document).await;
        b.listens(document).await;
    }
    let short = Duration::from_millis(100);
    a.does("ends", &[put("ada", "x"), linger("ada", "x", LeaveCause::Drain, short)]).await;
    a.does("half", &[put("ada", "x"), put("ada", "y"), linger("ada", "x", LeaveCause::Closed, short)]).await;
    a.does("lease", &[says("ada", "x", Hold::Lease(short), &[]), says("bob", "x", Hold::Lease(short), &[])]).await;
    let said = [(Aspect::Typing, Some("true")), (Aspect::Status, Some("\"online\""))];
    a.does("says", &[says("ada", "x", Hold::Node, &said)]).await;
    dies.does("lost", &[put("ada", "x"), put("bob", "y"), put("cid", "z")]).await;
    b.does("lost", &[put("bob", "x"), put("cid", "z")]).await;
    silent.does("silent", &[put("ada", "x")]).await;
    dies.does("stays", &[put("ada", "x"), linger("ada", "x", LeaveCause::Drain, MINUTE)]).await;
    // One who moves all the time is never idle, and one whose lease is renewed stays.
    let renew = says("bob", "x", Hold::Lease(NODE_LEASE), &[]);
    let early = NODE_LEASE - Duration::from_millis(500);
    let done = |document: &str, seen: &Roster| match document {
        "ends" | "silent" => seen.members.is_empty(),
        "half" => only(&seen.members["ada"]).0 == "y",
        "lease" => seen.members.len() == 1,
        "says" => only(&seen.members["ada"]).1.idle,
        "lost" => seen.members.len() == 2 && seen.members["bob"].devices.len() == 1,
        _ => seen.members["ada"].devices["x"].idle,
    };
    eventually("everything that is due has ended", NODE_LEASE + SOON_AFTER, async || {
        a.does("lease", std::slice::from_ref(&renew)).await;
        let beats = tokio::join!(a.beats(), b.beats());
        assert!(!beats.0 && !beats.1);
        let is_early = since.elapsed() < early;
        let mut left = 0;
        for document in documents {
            let seen = a.sees(document).await;
            let numbers = if is_early { Some(seen.version.number) } else { None };
            // Two changes made "lost", all others one.
            assert!(numbers.is_none_or(|number| number == 1 + u64::from(document == "lost")), "{document} is early");
            left += usize::from(is_early || !done_safely(&done, document, &seen));
        }
        (left == 0).then_some(())
    })
    .await;
    let typed = a.sees("says").await.members["ada"].clone();
    assert_eq!(only(&typed).1.state.keys().collect::<Vec<_>>(), [&Aspect::Status], "typing has ended");
    for node in [a, b] {
        for document in documents {
            node.agrees(document).await;
        }
        let why = |document, user| node.told_why(document, user);
        assert_eq!((why("ends", "ada"), why("half", "ada")), (vec![LeaveCause::Drain], vec![]));
        assert_eq!((why("lease", "ada"), why("lease", "bob")), (vec![LeaveCause::Timeout], vec![]));
        assert_eq!((why("lost", "ada"), why("lost", "bob")), (vec![LeaveCause::NodeLost], vec![]));
        assert_eq!((why("lost", "cid"), why("silent", "ada")), (vec![], vec![LeaveCause::NodeLost]));
    }
    and_then_somebody_comes_back(a, b, dies).await;
}

const SOON_AFTER: Duration = Duration::from_secs(4);

/// A member that is looked for may not be there yet or any more.
fn done_safely(done: &impl Fn(&str, &Roster) -> bool, document: &str, seen: &Roster) -> bool {
    let needs = matches!(document, "half" | "says" | "stays");
    let many = document == "half" && seen.members.get("ada").is_some_and(|ada| ada.devices.len() > 1);
    (!needs || seen.members.contains_key("ada")) && !many && done(document, seen)
}

async fn and_then_somebody_comes_back(a: &Node, b: &Node, dead: &Node) {
    // Whoever is idle is so no longer when it says something; renewing says nothing.
    let was = a.sees("says").await;
    assert_eq!(a.does("says", &[put("ada", "x")]).await, was.version);
    a.does("says", &[says("ada", "x", Hold::Node, &[(Aspect::Cursor, Some("1"))])]).await;
    let (now, was) = (a.sees("says").await, only(&was.members["ada"]).1.clone());
    let (_, now) = only(&now.members["ada"]);
    assert!(!now.idle && now.active_ms > was.active_ms, "{now:?}");
    // The dead node is alive: it is told that it was not known, and says again what it has.
    assert!(dead.beats().await, "its devices are gone");
    dead.does("lost", &[put("ada", "x"), put("dan", "x")]).await;
    assert!(!dead.beats().await);
    // It leaves for good: what it holds is due at once, what lingers stays for as long as was said.
    dead.does("lost", &[linger("dan", "x", LeaveCause::Drain, MINUTE)]).await;
    dead.rosters.leave().await;
    assert!(!a.beats().await && !b.beats().await);
    let roster = a.sees("lost").await;
    assert!(!roster.members.contains_key("ada") && roster.members.contains_key("dan"), "{roster:?}");
    b.agrees("lost").await;
    assert_eq!(b.told_why("lost", "ada"), [LeaveCause::NodeLost; 2]);
}

async fn all(nodes: &[Node; 4]) {
    let [a, b, c, d] = nodes;
    members_come_say_and_go(a, b).await;
    a_reconnect_is_no_leave(a, b).await;
    steps_can_be_repeated(a, b).await;
    equal_versions_have_equal_members(nodes).await;
    what_is_due_ends_once([a, b, c, d]).await;
    // At most before there was a connection.
    assert!(nodes.iter().all(|node| node.interruptions() <= 1));
}

#[tokio::test(start_paused = true)]
async fn the_rosters_of_a_process_keep_the_contract() {
    all(&cluster::memory()).await;
}

#[tokio::test]
async fn the_rosters_in_redis_keep_the_contract() {
    let settings = settings(RedisServer::shared().await.url(), fresh_prefix());
    let nodes = cluster::redis(&settings).await;
    all(&nodes).await;
    for node in nodes {
        node.stop().await;
    }
}

/// Whoever does not hear for too long is told that it has missed something, and hears on.
#[tokio::test]
async fn whoever_does_not_hear_is_told_so() {
    use tidings::broker::Rosters as _;
    let rosters = tidings::broker::MemoryRosters::new(MINUTE);
    rosters.listen(&id("d")).await.unwrap();
    for n in 0..5000 {
        rosters
            .change(&id("d"), &[put("ada", &format!("x{}", n % 2)), expel("ada", LeaveCause::Closed)])
            .await
            .unwrap();
    }
    let (sender, mut news) = tokio::sync::mpsc::channel(1);
    let first = async { (news.recv().await, news.recv().await) };
    let (first, second) = tokio::select! {
        () = rosters.hear(sender) => unreachable!("somebody hears"),
        heard = first => heard,
    };
    assert_eq!(first, Some(tidings::broker::RosterNews::Interrupted));
    let Some(tidings::broker::RosterNews::Changed { version, .. }) = second else { panic!("{second:?}") };
    assert!(version.number > 4096, "{version:?}");
}
