//! Redis and Postgres that break: observe, restore, observe.

use std::time::Duration;

use serde_json::json;
use tidings::config::Secret;

use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::postgres::Postgres;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;

const PATIENCE: Duration = Duration::from_secs(30);

/// Redis behind a network that swallows everything without a word: the instance notices by its probe, says so by its
/// readiness, stays alive, and is live again by itself; what was published meanwhile elsewhere is not lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_before_redis_is_noticed_and_heals() {
    let server = RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).await;
    let proxy = ChaosProxy::start(server.addr()).await;
    let mut world = World::on(&server).await;
    world.people(&[("ada", &["a"])]).await;
    let healthy = world.start().await;
    world.config.redis_url = Secret::new(format!("redis://{}", proxy.addr()));
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    proxy.set_mode(Mode::Swallow);
    eventually("the instance is not ready", PATIENCE, async || {
        let answer = http::get(app.addr, "/health/ready", "").await;
        (answer.status == 503 && answer.json()["reason"] == "broker").then_some(())
    })
    .await;
    assert_eq!(http::get(app.addr, "/health/live", "").await.status, 200);
    assert_eq!(http::get(app.addr, "/health", "").await.json()["status"], "degraded");
    for n in 1..=5 {
        let update = json!({"jobId": "a", "status": "running", "data": {"n": n}}).to_string();
        assert!(server.publish(&world.config.job_updates_channel, update).await > 0);
    }
    // An append that can't be made is not acknowledged.
    let refused =
        http::post(app.addr, "/v1/jobs/a/updates", &format!("ApiKey {API_KEY}"), &json!({"status": "running"})).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "CONNECTION_LOST"));
    proxy.set_mode(Mode::Pass);
    proxy.reset_all();
    let events = stream.until_that("the fifth", |event| event.data["data"]["n"] == 5).await;
    let numbers: Vec<u64> = events.iter().filter_map(|event| event.data["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5]);
    assert!(events.iter().all(|event| event.event != "reset"), "continuity was proven");
    eventually("the instance is ready again", PATIENCE, async || {
        (http::get(app.addr, "/health/ready", "").await.status == 200).then_some(())
    })
    .await;
    app.app.stop().await;
    healthy.app.stop().await;
}

/// Redis frozen for a while: nothing is lost, and an append that timed out and was repeated is one append.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_redis_loses_and_repeats_nothing() {
    let mut server = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&server).await;
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    app.progress("a", 1).await;
    server.freeze();
    let key = format!("ApiKey {API_KEY}");
    let body = json!({"status": "running", "data": {"n": 2}});
    let posted = http::post(app.addr, "/v1/jobs/a/updates", &key, &body).await;
    assert_eq!(posted.status, 503, "not known whether it was accepted");
    server.thaw();
    // The back end posts again, as it was told; the same bytes directly after each other are one update.
    eventually("the post is answered", PATIENCE, async || {
        (http::post(app.addr, "/v1/jobs/a/updates", &key, &body).await.status == 202).then_some(())
    })
    .await;
    app.progress("a", 3).await;
    let events = stream.until_that("the third", |event| event.data["data"]["n"] == 3).await;
    let numbers: Vec<u64> = events.iter().filter_map(|event| event.data["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    app.app.stop().await;
}

/// Redis that can't write says so: not accepted, not ready, and everything as before once it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_to_write_is_never_taken_for_success() {
    let server = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&server).await;
    world.people(&[("ada", &["a"])]).await;
    let app = world.start().await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let key = format!("ApiKey {API_KEY}");
    let body = json!({"status": "running"});
    assert_eq!(http::post(app.addr, "/v1/jobs/a/updates", &key, &body).await.status, 503);
    eventually("the instance is not ready", PATIENCE, async || {
        (http::get(app.addr, "/health/ready", "").await.status == 503).then_some(())
    })
    .await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    eventually("it is accepted again", PATIENCE, async || {
        (http::post(app.addr, "/v1/jobs/a/updates", &key, &body).await.status == 202).then_some(())
    })
    .await;
    app.app.stop().await;
}

/// Postgres away for a while: open streams go on, new subscriptions of unknown channels are refused in a retryable way and
/// never granted, and its return heals by itself, the states of the meantime included.
#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_denies_nothing_for_good_and_grants_nothing() {
    let mut postgres = Postgres::dedicated().await;
    let mut world = World::redis().await;
    world.config.database_url = Secret::new(postgres.database().await);
    world.store = tidings::store::Store::open(&world.config, &tidings::telemetry::Metrics::new()).await.unwrap();
    world.people(&[("ada", &["a", "b"]), ("eve", &["e"])]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    app.progress("a", 1).await;
    stream.find("the first", |event| event.data["data"]["n"] == 1).await;
    postgres.stop();
    app.progress("a", 2).await;
    stream.find("updates go on", |event| event.data["data"]["n"] == 2).await;
    let mut refused = app.stream("eve", "jobs.e").await;
    let (events, _) = refused.until_end(PATIENCE).await;
    assert_eq!(events.last().unwrap().text("code"), "CONNECTION_LOST", "{events:?}");
    let foreign = app.try_stream("ada", "channels=jobs.e", &[("X-Tidings-Client", "t")]).await.unwrap_err().answer();
    assert_eq!(foreign.status, 503, "not known is not granted");
    assert_eq!(http::get(app.addr, "/health/live", "").await.status, 200);
    assert_eq!(http::get(app.addr, "/health/ready", "").await.status, 200, "it still accepts, reads and appends");
    app.progress("a", 3).await;
    postgres.start().await;
    let mut healed = eventually("new streams open again", PATIENCE, async || {
        let mut stream = app.try_stream("eve", "channels=jobs.e", &[("X-Tidings-Client", "t")]).await.ok()?;
        let opening = stream.until("ready").await;
        opening.iter().any(|event| event.event == "ready").then_some(stream)
    })
    .await;
    healed.quiet(Duration::from_millis(100)).await;
    let terminal = tidings::jobs::TerminalStatuses::new(world.config.terminal_statuses.clone());
    eventually("the state of the meantime is written back", PATIENCE, async || {
        let id = crate::support::app::id("a");
        let rows = world.store.jobs(std::slice::from_ref(&id), &terminal).await.ok()?;
        rows[&id].state.as_ref().filter(|state| state.data.as_deref() == Some("{\"n\":3}")).map(drop)
    })
    .await;
    app.app.stop().await;
}

/// A batch of durable and ephemeral items while Redis stops taking writes between them: each item is told what became of it. What
/// was told before the failure stands, the failure and everything after it say "not known", and posted again under the same keys
/// everything comes once.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_in_the_middle_of_which_redis_fails_says_what_became_of_each() {
    let server = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&server).await;
    world.people(&[("ada", &[])]).await;
    world.document("d", "ada", &[]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "docs.d").await;
    stream.until("ready").await;
    let item = |n: u64, ephemeral: bool| json!({"channel": "docs.d", "data": {"n": n}, "ephemeral": ephemeral, "idempotencyKey": format!("k{n}")});
    let batch = json!([item(1, true), {"channel": "nope", "data": {}}, item(2, true), item(3, false), item(4, true), item(5, false), {}]);
    let post = async |batch| http::post(app.addr, "/v1/publish/batch", &format!("ApiKey {API_KEY}"), &batch).await;
    let words = |answer: &http::Response| -> Vec<String> {
        let word = |result: &serde_json::Value| match result["error"]["code"].as_str() {
            Some(code) => code.to_owned(),
            None if result["cursor"].is_string() => "logged".to_owned(),
            None => "told".to_owned(),
        };
        answer.json()["results"].as_array().unwrap().iter().map(word).collect()
    };
    // Redis refuses to write from here on, but still passes messages on.
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let answer = post(batch.clone()).await;
    let lost = "CONNECTION_LOST";
    assert_eq!(answer.status, 202);
    assert_eq!(words(&answer), ["told", "INVALID_MESSAGE", "told", lost, lost, lost, lost]);
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    let rest: Vec<_> = batch.as_array().unwrap()[3..].to_vec();
    assert_eq!(words(&post(json!(rest)).await), ["logged", "told", "logged", "INVALID_MESSAGE"]);
    let events = stream.until_that("the last", |event| event.data["n"] == 5).await;
    let numbers: Vec<u64> = events.iter().filter_map(|event| event.data["n"].as_u64()).collect();
    assert!(
        numbers.iter().filter(|n| **n % 2 == 1 && **n > 1).eq(&[3, 5]),
        "durable ones once and in order: {numbers:?}"
    );
    app.app.stop().await;
}

/// Redis freezes while a large batch is under way: the receipts are a prefix, what has one is in the log, and what has none
/// comes when it is posted again; nothing twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_redis_freezes_in_is_repeated_without_doubles() {
    let mut server = RedisServer::start(RedisOptions::default()).await;
    let mut world = World::on(&server).await;
    // Nobody reads meanwhile, and that is not what this is about.
    (world.config.outbox_events_max, world.config.outbox_bytes_max) = (10_000, 16 << 20);
    world.people(&[("ada", &[])]).await;
    world.document("d", "ada", &[]).await;
    let app = world.start().await;
    let mut stream = app.stream("ada", "docs.d").await;
    stream.until("ready").await;
    let items: Vec<_> = (1..=900)
        .map(
            |n| json!({"channel": "docs.d", "data": {"n": n, "x": "x".repeat(500)}, "idempotencyKey": format!("k{n}")}),
        )
        .collect();
    let (addr, key) = (app.addr, format!("ApiKey {API_KEY}"));
    let (batch, its_key) = (json!(items), key.clone());
    let posted = tokio::spawn(async move { http::post(addr, "/v1/publish/batch", &its_key, &batch).await });
    let mut numbers: Vec<u64> = Vec::new();
    let mut take = |events: Vec<crate::support::sse::SseEvent>| {
        numbers.extend(events.iter().filter_map(|event| event.data["n"].as_u64()));
    };
    take(stream.until_that("the first", |event| event.data["n"] == 1).await);
    server.freeze();
    // As long as an append is tried again, and a little more: the answer must not wait for Redis.
    let answer = tokio::time::timeout(PATIENCE, posted).await.expect("an answer without Redis").unwrap();
    server.thaw();
    let results = answer.json()["results"].as_array().unwrap().clone();
    let done = results.iter().take_while(|result| result["cursor"].is_string()).count();
    assert!(
        results.iter().skip(done).all(|result| result["error"]["code"] == "CONNECTION_LOST"),
        "receipts are a prefix"
    );
    let rest = json!(items[done..]);
    eventually("the rest is taken", PATIENCE, async || {
        let answer = http::post(addr, "/v1/publish/batch", &key, &rest).await.json();
        answer["results"].as_array().unwrap().iter().all(|result| result["cursor"].is_string()).then_some(())
    })
    .await;
    take(stream.until_that("the last", |event| event.data["n"] == 900).await);
    assert!(numbers.iter().copied().eq(1..=900), "each once, in order; {done} had a receipt");
    app.app.stop().await;
}
