//! The stream: what it says, in which order, and what it answers to whatever is asked of it.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::sse::SseClient;
use crate::support::sse::SseEvent;
use crate::support::tokens;

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).collect()
}

fn numbers(events: &[SseEvent]) -> Vec<u64> {
    events.iter().filter_map(|event| event.data["data"]["n"].as_u64()).collect()
}

/// Every scenario over both brokers, and on both ways to the socket: the lane's own and the queue to hyper.
async fn worlds() -> Vec<(World, TestApp)> {
    let mut worlds = Vec::new();
    for takeover in [true, false] {
        for mut world in [World::embedded().await, World::redis().await] {
            world.config.sse_takeover = takeover;
            let app = world.start().await;
            worlds.push((world, app));
        }
    }
    worlds
}

/// Scenarios for which one broker is enough.
async fn embedded_worlds() -> [World; 2] {
    let (lane, mut queue) = (World::embedded().await, World::embedded().await);
    queue.config.sse_takeover = false;
    [lane, queue]
}

/// First bytes at once; `connected` with verdicts and refusals; snapshots without a cursor; `ready` with one; then live.
#[tokio::test]
async fn b27_b69_a_stream_opens_in_the_order_of_the_protocol() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["j1", "j2"]), ("eve", &["j3"])]).await;
        app.progress("j1", 1).await;
        let mut stream = app.stream("ada", "jobs.j1,jobs.j2,user.me,jobs.j3,jobs.nowhere,nonsense,docs.d9").await;
        let opening = stream.until("ready").await;
        assert_eq!(names(&opening), ["connected", "job:update", "job:update", "ready"]);
        let connected = &opening[0].data;
        assert_eq!(
            connected["channels"],
            json!([
                {"channel": "jobs.j1", "verdict": "live"},
                {"channel": "jobs.j2", "verdict": "live"},
                {"channel": "user.ada", "requested": "user.me", "verdict": "live"},
            ])
        );
        let mut denied: Vec<(String, String)> = connected["denied"]
            .as_array()
            .unwrap()
            .iter()
            .map(|d| (d["channel"].as_str().unwrap().to_owned(), d["code"].as_str().unwrap().to_owned()))
            .collect();
        denied.sort();
        // A job that is somebody else's and one that does not exist look the same.
        let expected = [
            ("docs.d9", "PERMISSION_DENIED"),
            ("jobs.j3", "PERMISSION_DENIED"),
            ("jobs.nowhere", "PERMISSION_DENIED"),
            ("nonsense", "CHANNEL_NOT_FOUND"),
        ];
        assert_eq!(denied, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert!(opening[1..3].iter().all(|event| event.is_snapshot() && !event.has_id));
        assert!(opening[3].has_id && !opening[0].has_id);
        assert!(stream.opening().starts_with(':') && stream.retry().is_some());
        app.progress("j2", 2).await;
        let live = stream.find("the update", |event| event.event == "job:update").await;
        assert!(live.has_id && !live.is_snapshot());
        assert_eq!(
            (live.text("channel"), live.text("status"), live.data["data"]["n"].as_u64()),
            ("jobs.j2", "running", Some(2))
        );
        let head = stream.head();
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-store, no-transform"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(head.header(name), Some(value), "b69 {name}");
        }
        assert_eq!((head.header("content-encoding"), head.header("content-length")), (None, None));
        drop(stream);
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// A cursor brings exactly what came after it, each with its own cursor, and then the current state of every quiet job.
#[tokio::test]
async fn a_resumed_stream_misses_nothing_and_repeats_nothing() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["a", "b", "c"])]).await;
        app.progress("c", 100).await;
        let mut stream = app.stream("ada", "jobs.a,jobs.b,jobs.c").await;
        stream.until("ready").await;
        app.progress("a", 1).await;
        let seen = stream.find("the first", |event| event.data["data"]["n"] == 1).await;
        drop(stream);
        for n in 2..=9 {
            app.progress(if n % 2 == 0 { "a" } else { "b" }, n).await;
        }
        let mut stream = app.resume("ada", "jobs.a,jobs.b,jobs.c", seen.id.as_deref().unwrap()).await;
        let opening = stream.until("ready").await;
        assert!(opening[0].data["channels"].as_array().unwrap().iter().all(|c| c["verdict"] == "resumed"));
        let replay: Vec<&SseEvent> = opening.iter().filter(|e| e.event == "job:update" && !e.is_snapshot()).collect();
        assert_eq!(
            replay.iter().map(|e| e.data["data"]["n"].as_u64().unwrap()).collect::<Vec<_>>(),
            (2..=9).collect::<Vec<_>>()
        );
        assert!(replay.iter().all(|event| event.has_id));
        let snapshots: Vec<&str> = opening.iter().filter(|e| e.is_snapshot()).map(|e| e.text("jobId")).collect();
        assert_eq!(snapshots, ["c"]);
        app.progress("b", 10).await;
        assert_eq!(numbers(&stream.until("job:update").await), [10]);
        app.app.stop().await;
    }
}

/// Whatever stands in `Last-Event-ID`, the answer is a stream: `reset`, and the current states.
#[tokio::test]
async fn b50_b52_a_cursor_that_cannot_be_proven_costs_a_reset() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["a"])]).await;
        app.progress("a", 7).await;
        let mut stream = app.stream("ada", "jobs.a").await;
        let good = stream.until("ready").await.pop().unwrap().id.unwrap();
        let parts: Vec<&str> = good.split('.').collect();
        let other_epoch = format!("1.abc.{}.{}", parts[2], parts[3]);
        let other_print = format!("1.{}.{}.zz", parts[1], parts[2]);
        let ancient = format!("1.{}.1-0.5", parts[1]);
        let future = format!("1.{}.zzzzzzzzz-0.5", parts[1]);
        let long = "a".repeat(255);
        let garbage = [
            "0",
            "-1",
            "99999999999999-0",
            "1:",
            &long,
            "\u{e9}",
            "[[[0,13,[9]]]]",
            "a,b",
            &other_epoch,
            &other_print,
            &ancient,
            &future,
        ];
        for cursor in garbage {
            let mut stream = app.resume("ada", "jobs.a", cursor).await;
            let opening = stream.until("ready").await;
            assert_eq!(names(&opening), ["connected", "reset", "job:update", "ready"], "{cursor}");
            assert_eq!(opening[0].data["channels"][0]["verdict"], "reset");
            assert_eq!(opening[1].data["channels"], json!(["jobs.a"]));
            assert!(!opening[1].has_id && opening[2].is_snapshot());
        }
        // b53: of two cursors the header's counts, because it is the browser's newer one.
        let mut stream =
            app.try_stream("ada", "channels=jobs.a&last_event_id=garbage", &[("Last-Event-ID", &good)]).await.unwrap();
        assert_eq!(stream.until("ready").await[0].data["channels"][0]["verdict"], "resumed");
        let mut stream = app.try_stream("ada", &format!("channels=jobs.a&last_event_id={good}"), &[]).await.unwrap();
        assert_eq!(stream.until("ready").await[0].data["channels"][0]["verdict"], "resumed");
        let too_long = "a".repeat(300);
        let refused =
            app.try_stream("ada", "channels=jobs.a", &[("Last-Event-ID", &too_long)]).await.unwrap_err().answer();
        assert_eq!((refused.status, refused.code().as_str()), (400, "INVALID_MESSAGE"));
        app.app.stop().await;
    }
}

/// A cursor says where, never what is allowed: another user's brings nothing of theirs, and two tabs may use the same.
#[tokio::test]
async fn b51_b55_b56_a_cursor_grants_nothing() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["a"]), ("eve", &["e"])]).await;
        let mut stream = app.stream("ada", "jobs.a").await;
        let cursor = stream.until("ready").await.pop().unwrap().id.unwrap();
        app.progress("a", 1).await;
        let refused =
            app.try_stream("eve", "channels=jobs.a", &[("Last-Event-ID", &cursor)]).await.unwrap_err().answer();
        assert_eq!(refused.status, 403);
        let mut eve = app.resume("eve", "jobs.e", &cursor).await;
        let opening = eve.until("ready").await;
        assert!(opening.iter().all(|event| event.data["jobId"] != "a"), "{opening:?}");
        for _ in 0..2 {
            let mut tab = app.resume("ada", "jobs.a", &cursor).await;
            assert_eq!(numbers(&tab.until("ready").await), [1]);
        }
        app.app.stop().await;
    }
}

/// `until=done`: the stream ends after the last job's end, and a reconnect that knows it all is answered 204.
#[tokio::test]
async fn a_stream_until_done_ends_and_stops_an_event_source() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["a", "b"])]).await;
        let mut stream = app.try_stream("ada", "channels=jobs.a,jobs.b&until=done", &[]).await.unwrap();
        stream.until("ready").await;
        app.update("a", json!({"status": "completed"})).await;
        stream.until("job:update").await;
        stream.quiet(Duration::from_millis(150)).await;
        app.update("b", json!({"status": "failed", "error": {"code": "x", "message": "y"}})).await;
        let (events, ended) = stream.until_end(SOON).await;
        assert!(ended.is_ok());
        assert_eq!(names(&events).into_iter().filter(|n| *n != "heartbeat").collect::<Vec<_>>(), ["job:update", "end"]);
        let end = &events.last().unwrap().data;
        assert_eq!((end["reason"].as_str(), end["reconnect"].as_bool()), (Some("done"), Some(false)));
        let cursor = events.iter().find(|e| e.event == "job:update").unwrap().id.clone().unwrap();
        let again = app
            .try_stream("ada", "channels=jobs.a,jobs.b&until=done", &[("Last-Event-ID", &cursor)])
            .await
            .unwrap_err()
            .answer();
        assert_eq!((again.status, again.body.len()), (204, 0));
        // Without that knowledge it is served, and ended again.
        let mut fresh = app.try_stream("ada", "channels=jobs.a,jobs.b&until=done", &[]).await.unwrap();
        let (events, _) = fresh.until_end(SOON).await;
        assert_eq!(names(&events), ["connected", "job:update", "job:update", "ready", "end"]);
        let refused = app.try_stream("ada", "channels=user.me&until=done", &[]).await.unwrap_err().answer();
        assert_eq!((refused.status, refused.json()["details"]["field"].as_str()), (400, Some("until")));
        app.app.stop().await;
    }
}

/// A quiet stream hears a heartbeat that carries a cursor, so that it does not age.
#[tokio::test]
async fn heartbeats_carry_the_position_of_a_quiet_stream() {
    for (mut world, app) in worlds().await {
        app.app.stop().await;
        world.config.heartbeat_interval = Duration::from_millis(200);
        let app = world.start().await;
        world.people(&[("ada", &["a"]), ("bob", &["b"])]).await;
        let mut stream = app.stream("ada", "jobs.a").await;
        let ready = stream.until("ready").await.pop().unwrap();
        assert_eq!(stream.until("heartbeat").await.pop().unwrap().id, ready.id);
        app.progress("b", 1).await;
        let moved = stream.find("a heartbeat further on", |e| e.event == "heartbeat" && e.id != ready.id).await;
        drop(stream);
        app.progress("a", 2).await;
        let mut stream = app.resume("ada", "jobs.a", moved.id.as_deref().unwrap()).await;
        assert_eq!(numbers(&stream.until("ready").await), [2]);
        app.app.stop().await;
    }
}

/// The same URL with `Accept: application/json` answers what the stream would be, without opening one.
#[tokio::test]
async fn b60_the_dry_run_and_what_can_be_had() {
    let world = World::embedded().await;
    let app = world.start().await;
    world.people(&[("ada", &["a"])]).await;
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let ask = async |accept: Option<&str>, path: &str| {
        let mut headers = vec![("Authorization", token.as_str())];
        headers.extend(accept.map(|accept| ("Accept", accept)));
        http::request(app.addr, "HEAD", path, &headers, b"").await
    };
    let get = async |accept: &str, path: &str| {
        http::request(app.addr, "GET", path, &[("Authorization", &token), ("Accept", accept)], b"").await
    };
    let answer = get("application/json", "/v1/events?channels=jobs.a,jobs.z,%2e").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json()["channels"], json!([{"channel": "jobs.a", "verdict": "live"}]));
    assert_eq!(answer.json()["denied"].as_array().unwrap().len(), 2);
    let cases = [
        ("/v1/events?channels=jobs.z", 403, "PERMISSION_DENIED"),
        ("/v1/events?channels=a,b", 404, "CHANNEL_NOT_FOUND"),
        ("/v1/events", 400, "INVALID_MESSAGE"),
        ("/v1/events?channels=", 400, "INVALID_MESSAGE"),
        ("/v1/events?channels=jobs.a&until=never", 400, "INVALID_MESSAGE"),
        ("/v1/events?channels=jobs.a&until=done&until=done", 400, "INVALID_MESSAGE"),
        ("/v1/events?channels=jobs.a&session=short", 400, "INVALID_MESSAGE"),
        ("/v1/events?channels=jobs.a&ticket=x", 400, "INVALID_MESSAGE"),
    ];
    for (path, status, code) in cases {
        let answer = get("application/json", path).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{path}");
    }
    for (accept, status) in [
        (None, 200),
        (Some("*/*"), 200),
        (Some("text/event-stream"), 200),
        (Some("text/*;q=0.3"), 200),
        (Some("text/html"), 406),
        (Some("image/png, application/xml"), 406),
        (Some("text/event-stream;q=0"), 406),
    ] {
        assert_eq!(ask(accept, "/v1/events?channels=jobs.a").await.status, status, "{accept:?}");
    }
    app.until_empty().await;
    app.app.stop().await;
}

/// b25: the hundred and first channel is refused, repetitions count once.
#[tokio::test]
async fn b25_channels_are_limited_and_counted_once() {
    let world = World::embedded().await;
    let app = world.start().await;
    world.people(&[("ada", &["a"])]).await;
    let many = |count: usize| (0..count).map(|n| format!("jobs.x{n}")).collect::<Vec<_>>().join(",");
    let mut stream = app.stream("ada", &format!("jobs.a,{}", many(99))).await;
    stream.until("ready").await;
    let refused = app.try_stream("ada", &format!("channels=jobs.a,{}", many(100)), &[]).await.unwrap_err().answer();
    assert_eq!((refused.status, refused.json()["details"]["field"].as_str()), (400, Some("channels")));
    let mut stream = app.stream("ada", &vec!["jobs.a"; 100].join(",")).await;
    assert_eq!(stream.until("ready").await[0].data["channels"].as_array().unwrap().len(), 1);
    let huge = "a".repeat(20_000);
    assert_eq!(app.try_stream("ada", &format!("channels={huge}"), &[]).await.unwrap_err().answer().status, 400);
    app.app.stop().await;
}

/// The stream ends within a second of the token's end plus leeway, and says why.
#[tokio::test]
async fn an_expired_token_ends_the_stream_in_time() {
    for world in embedded_worlds().await {
        let app = world.start().await;
        world.people(&[("ada", &["a"])]).await;
        // 30 s of leeway are honoured: a token that ended 28 s ago still has two.
        let token = tokens::for_user_until("ada", tokens::now_s() - 28);
        let header = format!("Bearer {token}");
        let begun = tokio::time::Instant::now();
        let mut stream =
            SseClient::connect(app.addr, "/v1/events?channels=jobs.a", &[("Authorization", &header)]).await.unwrap();
        let (events, ended) = stream.until_end(SOON).await;
        let end = &events.last().unwrap().data;
        assert!(ended.is_ok());
        assert_eq!(
            (end["reason"].as_str(), end["code"].as_str(), end["reconnect"].as_bool()),
            (Some("token_expired"), Some("AUTH_REQUIRED"), Some(false))
        );
        assert!(
            (Duration::from_millis(500)..Duration::from_millis(3500)).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
        let again = SseClient::connect(app.addr, "/v1/events?channels=jobs.a", &[("Authorization", &header)])
            .await
            .unwrap_err()
            .answer();
        assert_eq!((again.status, again.json()["details"]["reason"].as_str()), (401, Some("token_expired")));
        assert!(again.header("www-authenticate").is_some());
        app.app.stop().await;
    }
}

/// A client that does not read is told `slow` at its bound, the others notice nothing, and it resumes without loss.
#[tokio::test]
async fn b68_a_slow_client_is_ended_and_resumes() {
    for mut world in embedded_worlds().await {
        world.config.outbox_events_max = 8;
        let app = world.start().await;
        world.people(&[("ada", &["a"])]).await;
        let mut slow = app.stream("ada", "user.me").await;
        let cursor = slow.until("ready").await.pop().unwrap().id.unwrap();
        let mut honest = app.stream("ada", "user.me").await;
        honest.until("ready").await;
        let filler = "x".repeat(48 * 1024);
        let count = 300;
        for n in 1..=count {
            app.publish(json!({"channel": "user.ada", "data": {"n": n, "filler": filler}})).await;
            let event = honest.find("the notice", |event| event.event == "notification").await;
            assert_eq!(event.data["n"], n);
        }
        let (events, _) = slow.until_end(Duration::from_secs(10)).await;
        let got: Vec<u64> = events.iter().filter_map(|e| e.data["n"].as_u64()).collect();
        assert!(got.len() < count, "the slow one fell behind");
        assert_eq!(got, (1..=got.len() as u64).collect::<Vec<_>>());
        if let Some(end) = events.iter().find(|e| e.event == "end") {
            assert_eq!((end.text("reason"), end.data["reconnect"].as_bool()), ("slow", Some(true)));
        }
        let last = events.iter().rfind(|e| e.has_id).map_or(cursor, |e| e.id.clone().unwrap());
        let mut again = app.resume("ada", "user.me", &last).await;
        let replay: Vec<u64> = again.until("ready").await.iter().filter_map(|e| e.data["n"].as_u64()).collect();
        assert_eq!(replay, (got.len() as u64 + 1..=count as u64).collect::<Vec<_>>());
        app.app.stop().await;
    }
}

/// Overload and drain are said inside a 200, because a browser gives up for good on anything else.
#[tokio::test]
async fn b61_overload_is_told_to_an_event_source_in_its_own_way() {
    for mut world in embedded_worlds().await {
        world.config.max_connections = 1;
        let app = world.start().await;
        world.people(&[("ada", &["a"])]).await;
        let mut first = app.stream("ada", "jobs.a").await;
        first.until("ready").await;
        let mut second = app.stream("ada", "jobs.a").await;
        let (events, ended) = second.until_end(SOON).await;
        assert!(ended.is_ok() && second.retry().is_some());
        assert_eq!(names(&events), ["problem"]);
        assert_eq!(
            (events[0].text("code"), events[0].data["details"]["recoverable"].as_bool()),
            ("CONNECTION_LOST", Some(true))
        );
        let declared =
            app.try_stream("ada", "channels=jobs.a", &[("X-Tidings-Client", "test")]).await.unwrap_err().answer();
        assert_eq!((declared.status, declared.code().as_str()), (503, "CONNECTION_LOST"));
        assert!(declared.header("retry-after").is_some());
        app.app.stop().await;
    }
}

/// Draining says `end` with `drain`, tells when to come back, and the process leaves nothing behind.
#[tokio::test]
async fn a_drain_tells_every_stream() {
    for world in embedded_worlds().await {
        let app = world.start().await;
        world.people(&[("ada", &["a"])]).await;
        let mut streams = Vec::new();
        for _ in 0..5 {
            let mut stream = app.stream("ada", "jobs.a").await;
            stream.until("ready").await;
            streams.push(stream);
        }
        let drained = tokio::time::timeout(SOON, app.app.drain());
        let read = async {
            for stream in &mut streams {
                let (events, ended) = stream.until_end(SOON).await;
                let end = &events.last().unwrap().data;
                assert!(ended.is_ok());
                assert_eq!((end["reason"].as_str(), end["reconnect"].as_bool()), (Some("drain"), Some(true)));
                assert!(end["retryAfterMs"].as_u64().is_some() && stream.retry().is_some());
            }
        };
        let (done, ()) = tokio::join!(drained, read);
        done.unwrap();
    }
}

/// Publishing on documents and to users: who may, keys that make it once, and each of a batch judged by itself.
#[tokio::test]
async fn events_are_published_once_and_only_by_those_who_may() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &[]), ("bob", &[])]).await;
        world.document("d1", "ada", &[("ed", Role::Editor), ("viv", Role::Viewer)]).await;
        let mut stream = app.stream("viv", "docs.d1").await;
        stream.until("ready").await;
        let body = json!({"channel": "docs.d1", "event": "comment.added", "data": {"n": 1}, "idempotencyKey": "k1"});
        let first = app.publish(body.clone()).await;
        assert_eq!(app.publish(body).await["cursor"], first["cursor"]);
        let event = stream.find("the comment", |e| e.event == "comment.added").await;
        assert_eq!((event.text("channel"), event.id.as_deref()), ("docs.d1", first["cursor"].as_str()));
        let as_user = async |user: &str, body: Value| {
            http::post(app.addr, "/v1/publish", &format!("Bearer {}", tokens::for_user(user)), &body).await
        };
        let update = json!({"channel": "docs.d1", "data": {"n": 2}});
        assert_eq!(as_user("ed", update.clone()).await.status, 202);
        assert_eq!(as_user("ada", update.clone()).await.status, 202);
        for user in ["viv", "bob"] {
            assert_eq!(as_user(user, update.clone()).await.status, 403, "{user}");
        }
        assert_eq!(as_user("ada", json!({"channel": "user.ada", "data": {}})).await.status, 403);
        assert_eq!(as_user("ada", json!({"channel": "jobs.x", "data": {}})).await.status, 400);
        let with_scope = format!("Bearer {}", tokens::with_scope("bob", "publish"));
        assert_eq!(
            http::post(app.addr, "/v1/publish", &with_scope, &json!({"channel": "user.ada", "data": {}})).await.status,
            202
        );
        let batch = json!([{"channel": "docs.d1", "data": {"n": 3}}, {"channel": "nope", "data": {}}, {"channel": "docs.d1", "data": {"n": 4}, "ephemeral": true}]);
        let answer = http::post(app.addr, "/v1/publish/batch", &format!("ApiKey {API_KEY}"), &batch).await;
        let results = answer.json()["results"].clone();
        assert_eq!(
            (
                results[0]["applied"].as_bool(),
                results[1]["error"]["details"]["field"].as_str(),
                results[2]["cursor"].as_str()
            ),
            (Some(true), Some("channel"), None)
        );
        let events = stream.until_that("the ephemeral one", |e| e.data["n"] == 4).await;
        assert!(!events.last().unwrap().has_id);
        assert_eq!(events.iter().filter_map(|e| e.data["n"].as_u64()).collect::<Vec<_>>(), [2, 2, 3, 4]);
        app.app.stop().await;
    }
}

/// A job update over HTTP: its receipt, its refusals, and the state that can be asked for.
#[tokio::test]
async fn job_updates_over_http() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &["a"]), ("eve", &[])]).await;
        let receipt = app.update("a", json!({"status": "running", "progress": 5})).await;
        assert!(receipt["applied"] == true && receipt["cursor"].is_string());
        assert_eq!(
            app.update("a", json!({"status": "running", "progress": 5})).await,
            json!({"applied": false, "reason": "duplicate"})
        );
        let key = format!("ApiKey {API_KEY}");
        let post = async |auth: &str, body: Value| http::post(app.addr, "/v1/jobs/a/updates", auth, &body).await;
        let refused = post(&key, json!({"jobId": "b", "status": "running"})).await;
        assert_eq!((refused.status, refused.json()["details"]["reason"].as_str()), (400, Some("job_id_differs")));
        assert_eq!(
            post(&key, json!({"status": "running", "progress": "5"})).await.json()["details"]["field"],
            "progress"
        );
        assert_eq!(
            post(&format!("Bearer {}", tokens::for_user("ada")), json!({"status": "running"})).await.status,
            403
        );
        assert_eq!(post("ApiKey wrong-wrong-wrong-wrong", json!({"status": "running"})).await.status, 401);
        let state = http::get(app.addr, "/v1/jobs/a", &tokens::for_user("ada")).await;
        assert_eq!((state.status, state.json()["progress"].as_u64()), (200, Some(5)));
        for (user, job) in [("eve", "a"), ("eve", "nowhere"), ("ada", "nowhere")] {
            let answer = http::get(app.addr, &format!("/v1/jobs/{job}"), &tokens::for_user(user)).await;
            assert_eq!((answer.status, answer.code().as_str()), (403, "PERMISSION_DENIED"), "{user} {job}");
        }
        app.update("a", json!({"status": "completed"})).await;
        let row = eventually("the state is written back", SOON, async || {
            let id = crate::support::app::id("a");
            let terminal = tidings::jobs::TerminalStatuses::new(world.config.terminal_statuses.clone());
            let rows = world.store.jobs(std::slice::from_ref(&id), &terminal).await.ok()?;
            rows.into_values().next().filter(|row| row.state.as_ref().is_some_and(|s| s.status == "completed"))
        })
        .await;
        assert!(row.version.ms > 0);
        app.app.stop().await;
    }
}

/// A job that nobody owns yet is folded, delivered to nobody, and shown to its owner as soon as there is one.
#[tokio::test]
async fn a_job_without_a_row_waits_for_its_owner() {
    for (world, app) in worlds().await {
        world.people(&[("ada", &[])]).await;
        app.progress("later", 3).await;
        assert_eq!(app.try_stream("ada", "channels=jobs.later", &[]).await.unwrap_err().answer().status, 403);
        world.people(&[("ada", &["later"])]).await;
        let mut stream = eventually("the owner may see it", SOON, async || {
            app.try_stream("ada", "channels=jobs.later", &[]).await.ok()
        })
        .await;
        let opening = stream.until("ready").await;
        assert_eq!(numbers(&opening), [3]);
        app.app.stop().await;
    }
}
