//! Events for documents and users: who may say them over HTTP, and what becomes of `PUBLISH channel-events`.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::process::Server;
use crate::support::redis::RedisServer;
use crate::support::sse::SseClient;
use crate::support::tokens;

async fn people(world: &World) {
    world.people(&[("ada", &[]), ("eve", &[])]).await;
    let roles = [("ed", Role::Editor), ("com", Role::Commenter), ("vi", Role::Viewer)];
    world.document("d1", "ada", &roles).await;
}

/// What a channel was told by number, until so many have come and then for a moment more.
async fn numbers(stream: &mut SseClient, count: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    loop {
        let patience = Duration::from_millis(if seen.len() < count { 15_000 } else { 700 });
        match stream.next(patience).await {
            None => return seen,
            Some(event) => seen.extend(event.data["n"].as_u64()),
        }
    }
}

fn numbered(channel: &str, n: u64) -> String {
    json!({"channel": channel, "event": "n", "data": {"n": n}}).to_string()
}

#[tokio::test]
async fn owners_and_editors_publish_on_their_documents() {
    for world in [World::embedded().await, World::redis().await] {
        people(&world).await;
        let app = world.start().await;
        let mut reader = app.stream("vi", "docs.d1,user.me").await;
        reader.until("ready").await;
        let say = async |user: &str, scope: &str, channel: &str| {
            let token = if scope.is_empty() { tokens::for_user(user) } else { tokens::with_scope(user, scope) };
            let body = json!({"channel": channel, "event": "said:by", "data": {"who": user}});
            http::post(app.addr, "/v1/publish", &format!("Bearer {token}"), &body).await.status
        };
        for (user, status) in [("ada", 202), ("ed", 202), ("com", 403), ("vi", 403), ("eve", 403)] {
            assert_eq!(say(user, "", "docs.d1").await, status, "{user}");
        }
        for channel in ["user.vi", "user.ada", "docs.none"] {
            assert_eq!(say("ada", "", channel).await, 403, "{channel}");
        }
        assert_eq!(say("eve", "publish", "user.vi").await, 202);
        let heard = [(); 3].map(|()| ());
        for (_, who) in heard.into_iter().zip(["ada", "ed", "eve"]) {
            let event = reader.find("an event of the publisher's own name", |event| event.event == "said:by").await;
            assert_eq!((event.text("who"), event.has_id), (who, true));
        }
        app.publish(json!({"channel": "docs.d1", "event": "cursor", "data": {}, "ephemeral": true})).await;
        let event = reader.find("an ephemeral event", |event| event.event == "cursor").await;
        assert!(!event.has_id);
        app.app.stop().await;
    }
}

/// Everybody hears as soon as both instances append for themselves.
async fn until_caught_up(server: &RedisServer, world: &World, streams: &mut [SseClient]) {
    for stream in streams.iter_mut() {
        stream.until("ready").await;
    }
    assert!(server.publish(&world.config.channel_events_channel, numbered("user.eve", 0)).await >= 1);
    eventually("the first event is in the log", Duration::from_secs(10), async || {
        let key = format!("{}:log", world.config.redis_prefix);
        let length: u64 = redis::cmd("XLEN").arg(key).query_async(&mut server.client().await).await.unwrap();
        (length > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_message_that_two_instances_hear_is_one_event() {
    let world = World::redis().await.mixed();
    people(&world).await;
    let (one, other) = (world.start().await, world.start().await);
    let server = RedisServer::shared().await;
    let mut streams = [one.stream("ada", "docs.d1,user.me").await, other.stream("ada", "docs.d1,user.me").await];
    until_caught_up(&server, &world, &mut streams).await;
    let channel = &world.config.channel_events_channel;
    let mut client = server.client().await;
    for n in 1..=400 {
        let at = if n % 4 == 0 { "user.ada" } else { "docs.d1" };
        let heard: i64 =
            redis::cmd("PUBLISH").arg(channel).arg(numbered(at, n)).query_async(&mut client).await.unwrap();
        assert_eq!(heard, 2);
    }
    for stream in &mut streams {
        let seen = numbers(stream, 400).await;
        assert_eq!(seen.len(), 400, "each once");
        for own in [true, false] {
            let of_channel: Vec<u64> = seen.iter().copied().filter(|n| (n % 4 == 0) == own).collect();
            assert!(of_channel.is_sorted(), "{of_channel:?}");
        }
    }
    let applied = "realtime_appends_total{outcome=\"applied\",source=\"channel_events\"}";
    let appends = one.metric(applied) + other.metric(applied);
    // 802 without that. On a machine that is busy with other tests some wait longer than another instance is waited for.
    assert!((401.0..700.0).contains(&appends), "the others strike off what the log shows: {appends}");
    for app in [&one, &other] {
        eventually("nothing is held", SOON, async || (app.metric("realtime_raw_held") == 0.0).then_some(())).await;
    }
    resumes_and_keys(&server, &world, &one, &other).await;
    one.app.stop().await;
    other.app.stop().await;
}

/// The publisher's own key counts as over HTTP, and an ephemeral one is told once to each stream and kept by nobody.
async fn resumes_and_keys(server: &RedisServer, world: &World, one: &TestApp, other: &TestApp) {
    let channel = &world.config.channel_events_channel;
    let mut streams = [one.stream("ada", "docs.d1").await, other.stream("ada", "docs.d1").await];
    for stream in &mut streams {
        stream.until("ready").await;
    }
    let keyed = json!({"channel": "docs.d1", "data": {"n": 1}, "idempotencyKey": "k"});
    server.publish(channel, keyed.to_string()).await;
    server.publish(channel, keyed.to_string()).await;
    let ephemeral = json!({"channel": "docs.d1", "event": "e", "data": {"n": 2}, "ephemeral": true});
    server.publish(channel, ephemeral.to_string()).await;
    for stream in &mut streams {
        let mut seen = numbers(stream, 2).await;
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
    }
    let receipt = one.publish(keyed).await;
    let mut resumed = other.resume("ada", "docs.d1", receipt["cursor"].as_str().unwrap()).await;
    let replay = resumed.until("ready").await;
    assert!(replay.iter().all(|event| event.data["n"].is_null()), "the key's first event is the last: {replay:?}");
}

#[tokio::test]
async fn bad_messages_are_dropped_and_counted_and_affect_nothing() {
    let world = World::redis().await;
    people(&world).await;
    let app = world.start().await;
    let server = RedisServer::shared().await;
    let mut streams = [app.stream("ada", "docs.d1").await];
    until_caught_up(&server, &world, &mut streams).await;
    let bad: [(&str, Value); 9] = [
        ("channel", json!({"channel": "jobs.1", "data": {}})),
        ("channel", json!({"channel": "presence.d1", "data": {}})),
        ("channel", json!({"channel": "nonsense", "data": {}})),
        ("event", json!({"channel": "docs.d1", "event": "job:update", "data": {}})),
        ("data", json!({"channel": "docs.d1", "data": [1]})),
        ("idempotency_key", json!({"channel": "docs.d1", "data": {}, "idempotencyKey": ""})),
        ("body", json!([1, 2])),
        ("body", json!({"channel": "docs.d1"})),
        ("too_large", json!({"channel": "docs.d1", "data": {"a": "x".repeat(100_000)}})),
    ];
    let channel = &world.config.channel_events_channel;
    let mut wanted = std::collections::BTreeMap::new();
    for (n, (reason, body)) in (1_u64..).zip(&bad) {
        server.publish(channel, body.to_string()).await;
        server.publish(channel, numbered("docs.d1", n)).await;
        *wanted.entry(*reason).or_insert(0.0) += 1.0;
    }
    server.publish(channel, b"\xff\xfe{").await;
    *wanted.get_mut("body").unwrap() += 1.0;
    assert_eq!(numbers(&mut streams[0], bad.len()).await, (1..=9).collect::<Vec<u64>>());
    for (reason, count) in wanted {
        let line = format!("realtime_rejected_total{{reason=\"{reason}\",source=\"channel_events\"}}");
        eventually(reason, SOON, async || (app.metric(&line) == count).then_some(())).await;
    }
    app.app.stop().await;
}

#[tokio::test]
async fn an_instance_that_is_killed_takes_no_event_with_it() {
    let mut world = World::redis().await;
    // Nobody reads meanwhile, and that is not what this is about.
    (world.config.outbox_events_max, world.config.outbox_bytes_max) = (10_000, 16 << 20);
    people(&world).await;
    let survivor = world.start().await;
    let server = RedisServer::shared().await;
    let env = world.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut streams = [survivor.stream("ada", "docs.d1,user.me").await];
    until_caught_up(&server, &world, &mut streams).await;
    let mut n = 0_u64;
    // One of them owns the document, the other the user, or one both: killed often enough, each is killed.
    for _ in 0..4 {
        let mut victim = Server::spawn(&env).await;
        let mut every = tokio::time::interval(Duration::from_millis(2));
        let mut client = server.client().await;
        for turn in 0..1200_u64 {
            every.tick().await;
            n += 1;
            let at = if n.is_multiple_of(2) { "user.ada" } else { "docs.d1" };
            let mut publish = redis::cmd("PUBLISH");
            let heard: i64 = publish
                .arg(&world.config.channel_events_channel)
                .arg(numbered(at, n))
                .query_async(&mut client)
                .await
                .unwrap();
            assert!(heard >= 1);
            if turn == 1000 {
                victim.kill();
            }
        }
    }
    let seen = numbers(&mut streams[0], usize::try_from(n).unwrap()).await;
    for rest in 0..2 {
        let of_channel: Vec<u64> = seen.iter().copied().filter(|n| n % 2 == rest).collect();
        let sent: Vec<u64> = (1..=n).filter(|n| n % 2 == rest).collect();
        assert!(of_channel == sent, "each once and in order: {} of {}", of_channel.len(), sent.len());
    }
    survivor.app.stop().await;
}
