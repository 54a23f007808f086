//! What can happen to the rosters in Redis and not to those of a process: it is away, frozen, emptied, or not ours alone.

use std::time::Duration;

use tidings::broker::Aspect;
use tidings::broker::Hold;
use tidings::broker::LeaveCause;
use tidings::broker::NODE_LEASE;
use tidings::broker::RosterVersion;
use tokio::time::Instant;

use crate::contract::broker::fresh_prefix;
use crate::contract::broker::settings;
use crate::contract::rosters::cluster;
use crate::contract::rosters::cluster::Node;
use crate::contract::rosters::cluster::SOON;
use crate::contract::rosters::cluster::expel;
use crate::contract::rosters::cluster::id;
use crate::contract::rosters::cluster::linger;
use crate::contract::rosters::cluster::put;
use crate::contract::rosters::cluster::says;
use crate::support::eventually;
use crate::support::pace;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;

/// As long as it takes for a pause to be one.
const AWAY: Duration = Duration::from_millis(2700);

async fn stop<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        node.stop().await;
    }
}

/// Beats as long as nobody may be taken out, and a little longer; answers how long `ada` was still there.
async fn ghosts_stay_for(node: &Node, document: &str, since: Instant) -> Duration {
    eventually("the ghost has gone", NODE_LEASE + SOON, async || {
        node.beats().await;
        (!node.sees(document).await.members.contains_key("ada")).then(|| since.elapsed())
    })
    .await
}

/// A Redis that is killed and comes back knows who was there. It tells nobody of what it may have missed, so all are told to ask; and
/// nobody is taken out before all nodes have had the time to say that they are there.
#[tokio::test]
async fn a_restart_takes_nobody_out() {
    let mut server = RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).await;
    let [a, b] = cluster::redis(&settings(server.url(), fresh_prefix())).await;
    assert!(a.beats().await && b.beats().await);
    b.listens("d").await;
    b.listens("other").await;
    let version = a.does("d", &[put("ada", "x"), put("bob", "x")]).await;
    a.does("d", &[linger("ada", "x", LeaveCause::Closed, Duration::from_millis(10))]).await;
    b.heard_up_to("d", version).await;
    // It may answer before it has written, and what was not written would be lost with it.
    eventually("it has written everything", SOON, async || {
        let info = server.cli(&["INFO", "persistence"]).await.ok()?;
        format!("{info:?}").contains("aof_buffer_length:0").then_some(())
    })
    .await;
    let interruptions = b.interruptions();
    server.kill();
    let down = Instant::now();
    assert!(
        eventually("it is missed", SOON, async || a.rosters.beat().await.err()).await.to_string().contains("reached")
    );
    // Also whoever wants to listen while it is away will hear, and is told that it does not yet.
    eventually("nobody can be heard", SOON, async || b.rosters.listen(&id("later")).await.err()).await;
    pace(AWAY.saturating_sub(down.elapsed())).await;
    server.start_again().await;
    eventually("it is back", SOON, async || a.rosters.beat().await.ok()).await;
    let back = Instant::now();
    assert_eq!(a.sees("d").await.version, version);
    eventually("it is said that something may be missed", SOON, async || {
        (b.interruptions() > interruptions).then_some(())
    })
    .await;
    let other = a.does("other", &[put("cid", "x")]).await;
    b.heard_up_to("other", other).await;
    let later = a.does("later", &[put("cid", "x")]).await;
    b.heard_up_to("later", later).await;
    let stayed = ghosts_stay_for(&a, "d", back).await;
    assert!(stayed >= NODE_LEASE - Duration::from_millis(100), "{stayed:?}");
    assert_eq!(b.told_why("d", "ada"), [LeaveCause::Closed]);
    assert!(a.sees("d").await.members.contains_key("bob"));
    stop([a, b]).await;
}

/// A Redis that stood still for longer than a lease does not take its own silence for that of the nodes.
#[tokio::test]
async fn a_frozen_redis_takes_nobody_out() {
    let mut server = RedisServer::start(RedisOptions::default()).await;
    let settings = settings(server.url(), fresh_prefix());
    let [a, b, c] = cluster::redis(&settings).await;
    a.listens("d").await;
    for node in [&a, &b, &c] {
        assert!(node.beats().await);
        // As if it were frozen for so much longer.
        let (nodes, node) = (format!("{}:rosters:nodes", settings.prefix), node.number().await.to_string());
        server.cli(&["ZINCRBY", &nodes, "-2500", &node]).await.unwrap();
    }
    b.does("d", &[put("bob", "x")]).await;
    let version = c.does("d", &[put("ada", "x")]).await;
    a.heard_up_to("d", version).await;
    let interruptions = a.interruptions();
    server.freeze();
    let frozen = Instant::now();
    let waits = Instant::now();
    assert!(a.rosters.listen(&id("e")).await.is_err());
    assert!(waits.elapsed() < SOON, "nobody waits for ever: {:?}", waits.elapsed());
    pace(AWAY.saturating_sub(frozen.elapsed())).await;
    server.thaw();
    eventually("it is back", SOON, async || a.rosters.beat().await.ok()).await;
    let back = Instant::now();
    // What may have been missed is said before whoever asked is told that it listens.
    a.listens("e").await;
    eventually("it is said that something may be missed", SOON, async || {
        (a.interruptions() > interruptions).then_some(())
    })
    .await;
    // A second later is time enough for the other node; the third one has died meanwhile.
    while back.elapsed() < Duration::from_secs(1) {
        assert!(a.rosters.beat().await.is_ok());
        pace(Duration::from_millis(100)).await;
    }
    assert!(b.beats().await, "its lease was over: it has to look after its own");
    let stayed = eventually("the ghost has gone", NODE_LEASE + SOON, async || {
        tokio::join!(a.beats(), b.beats());
        (!a.sees("d").await.members.contains_key("ada")).then(|| back.elapsed())
    })
    .await;
    assert!(stayed >= NODE_LEASE - Duration::from_millis(100), "{stayed:?}");
    assert!(a.sees("d").await.members.contains_key("bob"));
    assert_eq!((a.told_why("d", "ada"), a.told_why("d", "bob")), (vec![LeaveCause::NodeLost], vec![]));
    stop([a, b, c]).await;
}

/// What is lost is lost for all to see: another epoch, and every node is told that it is new.
#[tokio::test]
async fn a_lost_roster_has_another_epoch() {
    let server = RedisServer::start(RedisOptions::default()).await;
    let [a, b] = cluster::redis(&settings(server.url(), fresh_prefix())).await;
    assert!(a.beats().await && !a.beats().await);
    let before = a.does("d", &[put("ada", "x")]).await;
    server.cli(&["FLUSHALL"]).await.unwrap();
    assert_eq!(b.rosters.versions(&[id("d")]).await.unwrap(), [RosterVersion::default()]);
    assert_eq!(a.sees("d").await.version, RosterVersion::default());
    let after = a.does("d", &[put("bob", "x")]).await;
    assert!(after.epoch != before.epoch && after.number == 1, "{before:?} {after:?}");
    // Although it has changed something since: that does not prove that it has looked after the rest.
    assert!(a.beats().await && !a.beats().await);
    stop([a, b]).await;
}

/// Whoever has not heard that it was not known is told so again.
#[tokio::test]
async fn an_answer_that_was_lost_is_given_again() {
    let server = RedisServer::shared().await;
    let settings = settings(server.url(), fresh_prefix());
    let [a] = cluster::redis(&settings).await;
    let key = |name: &str| format!("{}:rosters:{name}", settings.prefix);
    let (node, script) = (a.number().await.to_string(), include_str!("../../../../src/broker/redis/rosters/beat.lua"));
    for round in 0..3 {
        // It asks, and the answer never comes.
        let keys = [&key("nodes"), &key("beats"), &key("deadlines")];
        let ask = ["EVAL", script, "3", keys[0], keys[1], keys[2], &node, "5000", &key("node:"), "128", ""];
        assert!(format!("{:?}", server.cli(&ask).await.unwrap()).contains("[int(1)"), "{round}");
    }
    assert!(a.beats().await);
    assert!(!a.beats().await);
    stop([a]).await;
}

/// Somebody else writes into our keys and channels: what is theirs is skipped, and everybody else is served.
#[tokio::test]
async fn hostile_contents_harm_nobody_else() {
    let server = RedisServer::shared().await;
    let settings = settings(server.url(), fresh_prefix());
    let prefix = settings.prefix.clone();
    let [a, b] = cluster::redis(&settings).await;
    let key = |name: &str| format!("{prefix}:{name}");
    let said = [(Aspect::Typing, Some("true"))];
    a.listens("d").await;
    a.beats().await;
    a.does("d", &[says("ada", "x", Hold::Node, &said), put("bob", "x")]).await;
    let hostile = [
        "",
        "null",
        "[]",
        "{}",
        "{\"j\":1,\"p\":\"\",\"d\":{}}",
        "{\"j\":1,\"p\":\"\",\"d\":[{\"a\":1,\"f\":{},\"n\":\"1\"}]}",
        "{\"j\":1.5,\"p\":\"\",\"d\":{\"x\":{\"a\":1,\"f\":{},\"n\":\"1\"}}}",
        "{\"j\":1,\"p\":\"\",\"d\":{\"x\":{\"a\":1,\"f\":7,\"n\":\"1\"}}}",
        "{\"j\":1,\"p\":\"\",\"d\":{\"x\":{\"a\":1,\"f\":{\"data\":{}},\"n\":\"1\"}}}",
        "{\"j\":1e300,\"p\":null,\"d\":{\"x\":null}}",
        "{\"j\":1,\"p\":\"\",\"d\":{\"x\":{\"a\":1,\"f\":{}}}}",
        "\u{0}\u{1}",
    ];
    for (n, text) in hostile.iter().enumerate() {
        server.cli(&["HSET", &key("roster:d"), &format!("h{n}"), text]).await.unwrap();
    }
    server.cli(&["HSET", &key("roster:d"), "not an id", "{}"]).await.unwrap();
    for entry in ["", "/", "d", "d/ada", "d/h1/x", "d/nobody/x", "n\u{0}/a b/c", "d//"] {
        server.cli(&["ZADD", &key("rosters:deadlines"), "1", entry]).await.unwrap();
        server.cli(&["SADD", &key("rosters:node:77"), entry]).await.unwrap();
    }
    server.cli(&["ZADD", &key("rosters:nodes"), "1", "77"]).await.unwrap();
    server.cli(&["ZADD", &key("rosters:nodes"), "1", "not a node"]).await.unwrap();
    let users = |roster: tidings::broker::Roster| roster.members.into_keys().map(|u| u.to_string()).collect::<Vec<_>>();
    assert_eq!(users(b.sees("d").await), ["ada", "bob"]);
    // Whoever enters takes the place of what was there.
    b.does("d", &[put("h0", "x"), put("h3", "x"), expel("h4", LeaveCause::Closed)]).await;
    assert_eq!(users(b.sees("d").await), ["ada", "bob", "h0", "h3"]);
    for text in ["", "{}", "{\"e\":\"x\",\"n\":1,\"m\":[]}", "{\"e\":\"1\",\"n\":1,\"m\":[[\"a b\",\"closed\",null]]}"]
    {
        server.publish(&key("roster:d"), text).await;
    }
    // Without waiting for the end of the quiet time.
    server.cli(&["HSET", &key("rosters:beats"), "quiet", "0"]).await.unwrap();
    assert!(!a.beats().await && !a.beats().await);
    let left = server.cli(&["ZCARD", &key("rosters:nodes")]).await.unwrap();
    assert_eq!(left, redis::Value::Int(1), "dead nodes that hold nothing are forgotten");
    let due = server.cli(&["ZCOUNT", &key("rosters:deadlines"), "-inf", "1000"]).await.unwrap();
    assert_eq!(due, redis::Value::Int(0));
    let last = a.does("d", &[expel("ada", LeaveCause::Closed)]).await;
    assert_eq!(a.heard_up_to("d", last).await.len() as u64, last.number);
    // Its version is not ours: there is no telling what it was, so it is another roster.
    server.cli(&["HSET", &key("roster:d"), "", "99999999999999999999 1e5"]).await.unwrap();
    assert_eq!(b.sees("d").await.version, RosterVersion::default());
    let anew = a.does("d", &[expel("bob", LeaveCause::Closed)]).await;
    assert!(anew.number == 1 && anew.epoch != last.epoch);
    // Documents may have any name, also one that looks like another key of ours.
    for document in ["deadlines", "nodes", "node:77", "beats"] {
        a.does(document, &[put("ada", "x")]).await;
    }
    a.beats().await;
    // A roster that is none: its changes fail, and those of others do not.
    server.cli(&["SET", &key("roster:broken"), "x"]).await.unwrap();
    server.cli(&["ZADD", &key("rosters:deadlines"), "1", "broken/ada/x"]).await.unwrap();
    a.does("fine", &[says("ada", "x", Hold::Lease(Duration::from_millis(1)), &[])]).await;
    eventually("the others are swept", SOON, async || {
        a.beats().await;
        a.sees("fine").await.members.is_empty().then_some(())
    })
    .await;
    assert!(a.rosters.change(&id("broken"), &[put("ada", "x")]).await.is_err());
    stop([a, b]).await;
}

/// One who does not read its news while more come than may wait is told that it has missed some.
#[tokio::test]
async fn a_flood_of_news_interrupts() {
    let server = RedisServer::start(RedisOptions::default()).await;
    let settings = settings(server.url(), fresh_prefix());
    let channel = format!("{}:roster:d", settings.prefix);
    let bench = crate::contract::broker::Bench::redis_with(settings).await;
    let rosters = bench.broker.rosters(NODE_LEASE);
    let (sender, mut news) = tokio::sync::mpsc::channel(1);
    let hears = std::sync::Arc::clone(&rosters);
    let hearing = tokio::spawn(async move { hears.hear(sender).await });
    eventually("it can listen", SOON, async || rosters.listen(&id("d")).await.ok()).await;
    // Whatever was said while it could not listen yet is over when this is heard.
    server.publish(&channel, "{\"e\":\"1\",\"n\":0,\"m\":[]}").await;
    while news.recv().await.unwrap() == tidings::broker::RosterNews::Interrupted {}
    let flood = "for n = 1, 80000 do redis.call('PUBLISH', ARGV[1], '{\"e\":\"1\",\"n\":' .. n .. ',\"m\":[]}') end";
    server.cli(&["EVAL", flood, "0", &channel]).await.unwrap();
    // Nobody reads the news, and whoever wants to listen does not have to wait for that.
    eventually("it can listen all the same", SOON, async || rosters.listen(&id("e")).await.ok()).await;
    let mut heard = 0;
    eventually("it is told", SOON, async || {
        while let Some(next) = news.recv().await {
            if next == tidings::broker::RosterNews::Interrupted {
                return Some(());
            }
            heard += 1;
        }
        None
    })
    .await;
    assert!(heard < 80_000, "{heard}");
    let version = rosters.change(&id("d"), &[put("ada", "x")]).await.unwrap();
    eventually("it hears on", SOON, async || match news.recv().await? {
        tidings::broker::RosterNews::Changed { version: heard, .. } => (heard == version).then_some(()),
        tidings::broker::RosterNews::Interrupted => None,
    })
    .await;
    hearing.abort();
    bench.stop().await;
}
