//! Streams that share a connection: each is as good as one that has its own, whatever its neighbours do.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http2::Http2;
use crate::support::http2::Http2Events;
use crate::support::http2::Windows;
use crate::support::tls::Pair;

const SLOW: &str = "realtime_ended_total{reason=\"slow\"}";
const GONE: &str = "realtime_ended_total{reason=\"client_gone\"}";
const OPEN: &str = "realtime_active_connections{transport=\"sse\"}";

/// Without TLS, and with it.
async fn both_ways() -> Vec<World> {
    vec![World::embedded().await, World::embedded().await.secured()]
}

async fn connect(world: &World, app: &TestApp, windows: Windows) -> Http2 {
    Http2::connect(app.app.address, pair(world), windows).await
}

fn pair(world: &World) -> Option<&Pair> {
    (!world.config.tls_cert_file.is_empty()).then(|| &world.tls().0)
}

async fn notify(app: &TestApp, user: &str, n: u64, filler: &str) {
    app.publish(json!({ "channel": format!("user.{user}"), "data": { "n": n, "filler": filler } })).await;
}

fn numbers(events: &[crate::support::sse::SseEvent]) -> Vec<u64> {
    events.iter().filter_map(|event| event.data["n"].as_u64()).collect()
}

/// What a page with more than six streams needs HTTP/2 for.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_streams_of_one_connection_get_every_event_in_order() {
    const STREAMS: usize = 100;
    const EVENTS: u64 = 200;
    for world in both_ways().await {
        world.people(&[("ada", &[])]).await;
        let app = world.start().await;
        let connection = connect(&world, &app, Windows::default()).await;
        let mut streams: Vec<Http2Events> =
            join_all((0..STREAMS).map(|_| connection.events("ada", "channels=user.me"))).await;
        join_all(streams.iter_mut().map(|stream| stream.until("ready"))).await;
        assert_eq!(app.metric(OPEN), STREAMS as f64);
        let reading = join_all(
            streams
                .iter_mut()
                .map(async |stream| numbers(&stream.until_that("the last", |event| event.data["n"] == EVENTS).await)),
        );
        let publishing = async {
            for n in 1..=EVENTS {
                notify(&app, "ada", n, "").await;
            }
        };
        let (told, ()) = tokio::join!(reading, publishing);
        let all: Vec<u64> = (1..=EVENTS).collect();
        assert!(told.iter().all(|numbers| *numbers == all));
        drop((streams, connection));
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// A stream that nobody reads is ended as `slow` and reset, its neighbours on the same connection notice nothing, and it goes on by
/// its cursor.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_not_read_ends_alone() {
    const EVENTS: u64 = 60;
    for mut world in both_ways().await {
        world.config.outbox_events_max = 8;
        world.people(&[("ada", &[])]).await;
        let app = world.start().await;
        let connection = connect(&world, &app, Windows::default()).await;
        let mut idle = connection.events("ada", "channels=user.me").await;
        let cursor = idle.until("ready").await.pop().unwrap().id.unwrap();
        let mut honest = join_all((0..5).map(|_| connection.events("ada", "channels=user.me"))).await;
        join_all(honest.iter_mut().map(|stream| stream.until("ready"))).await;
        let filler = "x".repeat(16 * 1024);
        for n in 1..=EVENTS {
            notify(&app, "ada", n, &filler).await;
            for stream in &mut honest {
                assert_eq!(numbers(&stream.until("notification").await), [n]);
            }
        }
        eventually("it is ended", Duration::from_secs(15), async || (app.metric(SLOW) == 1.0).then_some(())).await;
        eventually("nothing of it is left", Duration::from_secs(15), async || (app.metric(OPEN) == 5.0).then_some(()))
            .await;
        let (events, ended) = idle.until_end(Duration::from_secs(10)).await;
        assert_eq!(ended, Err(Some(h2::Reason::CANCEL)), "for its client this stream alone is reset");
        let told = numbers(&events);
        assert_eq!(told, (1..=told.len() as u64).collect::<Vec<_>>());
        assert!(told.len() < EVENTS as usize);
        let last = events.iter().rev().find_map(|event| event.id.clone()).unwrap_or(cursor);
        let mut again = connection.events("ada", &format!("channels=user.me&last_event_id={last}")).await;
        let rest = numbers(&again.until_that("the last", |event| event.data["n"] == EVENTS).await);
        assert_eq!(rest, (told.len() as u64 + 1..=EVENTS).collect::<Vec<_>>());
        drop((honest, again, connection));
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// Whoever opens streams and gives them no window at all keeps them for 30 s. The connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn b70_a_window_of_nothing_is_not_waited_for_for_ever() {
    let world = World::embedded().await;
    world.people(&[("ada", &[])]).await;
    let app = world.start().await;
    let connection = connect(&world, &app, Windows { stream: 0, connection: 1 << 20 }).await;
    let begun = Instant::now();
    let streams = join_all((0..50).map(|_| connection.events("ada", "channels=user.me"))).await;
    eventually("all are given up", Duration::from_secs(45), async || {
        (app.metric(OPEN) == 0.0 && app.metric("realtime_subscriptions") == 0.0).then_some(())
    })
    .await;
    assert!(begun.elapsed() > Duration::from_secs(25), "not before they had their time: {:?}", begun.elapsed());
    assert!(app.metric(GONE) <= 50.0);
    assert_eq!(connection.status("/health/live").await.unwrap(), 200);
    for mut stream in streams {
        let (_, ended) = stream.until_end(Duration::from_secs(5)).await;
        assert_eq!(ended, Err(Some(h2::Reason::CANCEL)));
    }
    app.app.stop().await;
}

/// A drain tells each stream of a connection, and then the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_ends_all_streams_of_a_connection() {
    for world in both_ways().await {
        world.people(&[("ada", &[])]).await;
        let app = world.start().await;
        let connection = connect(&world, &app, Windows::default()).await;
        let mut streams = join_all((0..20).map(|_| connection.events("ada", "channels=user.me"))).await;
        join_all(streams.iter_mut().map(|stream| stream.until("ready"))).await;
        let (ends, ()) = tokio::join!(join_all(streams.iter_mut().map(|stream| stream.until("end"))), app.app.drain());
        for end in ends {
            assert_eq!(end.last().unwrap().text("reason"), "drain");
        }
        assert!(connection.status("/health/live").await.is_err(), "the connection has ended");
    }
}
