//! How many streams there may be, and who may try: limits by address, by user and in all, of real instances, on every transport.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::http::Response;
use crate::support::sse::SseClient;
use crate::support::tokens;
use crate::support::wire::Wire;
use crate::support::ws::WsClient;

const STREAM: &str = "/v1/events?channels=user.me";

fn bearer(user: &str) -> String {
    format!("Bearer {}", tokens::for_user(user))
}

/// Ada and Bob, at an instance with such settings, by both ways to the socket.
async fn apps(change: impl Fn(&mut tidings::config::Config)) -> Vec<(World, TestApp)> {
    let mut apps = Vec::new();
    for takeover in [true, false] {
        let mut world = World::embedded().await;
        world.config.sse_takeover = takeover;
        change(&mut world.config);
        world.people(&[("ada", &[]), ("bob", &[])]).await;
        let app = world.start().await;
        apps.push((world, app));
    }
    apps
}

fn refused(reason: &str) -> String {
    format!("realtime_rejected_total{{reason=\"{reason}\",source=\"stream\"}}")
}

/// What a page's `EventSource` gets, which gives up for good on any status but 200.
async fn native(addr: SocketAddr, headers: &[(&str, &str)]) -> (u64, Value) {
    let answer = http::request(addr, "GET", STREAM, headers, b"").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream; charset=utf-8")));
    let text = answer.text();
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned();
    assert_eq!(line("event: "), "problem", "{text}");
    (line("retry: ").parse().unwrap(), serde_json::from_str(&line("data: ")).unwrap())
}

/// A page is told inside a 200, everybody else by a status.
async fn assert_refused(addr: SocketAddr, user: &str, forwarded: &str, reason: &str) {
    let token = bearer(user);
    let headers = [("Authorization", token.as_str()), ("X-Forwarded-For", forwarded)];
    let (retry_ms, problem) = native(addr, &headers).await;
    assert_eq!((&problem["code"], &problem["details"]["reason"]), (&json!("RATE_LIMIT_EXCEEDED"), &json!(reason)));
    assert!((10_000..=30_000).contains(&retry_ms), "{retry_ms}");
    let known = [headers[0], headers[1], ("X-Tidings-Client", "1")];
    let told = |answer: &Response| {
        assert_eq!((answer.status, answer.header("retry-after")), (429, Some("10")), "{}", answer.text());
        assert_eq!(answer.json()["details"]["reason"], reason);
    };
    told(&http::request(addr, "GET", STREAM, &known, b"").await);
    told(&http::request(addr, "GET", "/v1/poll?channels=user.me&wait=1", &headers, b"").await);
    told(&WsClient::connect(addr, "/v1/ws?channels=user.me", &headers).await.err().unwrap());
}

#[tokio::test]
async fn an_address_has_as_many_streams_as_it_may_on_all_transports_together() {
    for (_world, app) in apps(|config| config.rate_limit_connections_per_ip = 5).await {
        let mut held = Vec::new();
        for transport in [Transport::Sse, Transport::Ws, Transport::Sse, Transport::Ws, Transport::Sse] {
            let mut client = Client::open(transport, app.addr, &tokens::for_user("ada"), "channels=user.me", None)
                .await
                .unwrap_or_else(|answer| panic!("{} {}", answer.status, answer.text()));
            client.until("ready").await;
            held.push(client);
        }
        assert_refused(app.addr, "bob", "203.0.113.9", "connections_of_address").await;
        assert!(app.metric(&refused("per_ip")) >= 4.0);
        // A question that opens no stream is answered.
        let asks = [("Authorization", &*bearer("bob")), ("Accept", "application/json")];
        assert_eq!(http::request(app.addr, "GET", STREAM, &asks, b"").await.status, 200);
        held.pop();
        let mut again = eventually("the place is free again", SOON, async || {
            app.try_stream("bob", "channels=user.me", &[("X-Tidings-Client", "1")]).await.ok()
        })
        .await;
        again.until("ready").await;
        app.app.stop().await;
    }
}

#[tokio::test]
async fn b73_behind_a_proxy_that_is_trusted_clients_are_counted_and_nobody_else_is_believed() {
    let trusting = |config: &mut tidings::config::Config| {
        config.rate_limit_connections_per_ip = 2;
        config.trusted_proxies = vec!["loopback".to_owned()];
    };
    for (_world, app) in apps(trusting).await {
        let token = bearer("ada");
        let open = async |forwarded: &str| {
            let headers =
                [("Authorization", token.as_str()), ("X-Forwarded-For", forwarded), ("X-Tidings-Client", "1")];
            SseClient::connect(app.addr, STREAM, &headers).await.map_err(|refused| refused.answer().status)
        };
        let mut held = Vec::new();
        for forwarded in ["203.0.113.1", "1.1.1.1, 203.0.113.1", "2001:db8::1", "2001:db8::2"] {
            held.push(open(forwarded).await.unwrap());
        }
        // The left part is the client's own, and 64 bits are one subscriber.
        for full in ["203.0.113.1", "8.8.8.8, 203.0.113.1, 127.0.0.9", "[2001:db8:0:0:ffff::1]:443"] {
            assert_eq!(open(full).await.err(), Some(429), "{full}");
        }
        for free in ["203.0.113.2", "2001:db8:0:1::1"] {
            held.push(open(free).await.unwrap());
        }
        app.app.stop().await;
    }
    // Twice as many connections, some of those that were refused among them for a moment.
    for (_world, app) in apps(|config| config.rate_limit_connections_per_ip = 5).await {
        let mut held = Vec::new();
        for _ in 0..5 {
            held.push(app.stream("ada", "user.me").await);
        }
        let headers = |name: &'static str, value: &'static str| [("X-Tidings-Client", "1"), (name, value)];
        for spoof in [
            headers("X-Forwarded-For", "203.0.113.77"),
            headers("X-Real-IP", "203.0.113.77"),
            headers("Forwarded", "for=203.0.113.77"),
            headers("X-Forwarded-For", "unknown"),
        ] {
            let refused = app.try_stream("ada", "channels=user.me", &spoof).await.err().unwrap();
            assert_eq!(refused.answer().status, 429, "{spoof:?}");
        }
        let proxied = http::try_raw(app.addr, b"PROXY TCP4 203.0.113.77 127.0.0.1 1 2\r\nGET / HTTP/1.1\r\n\r\n").await;
        assert!(proxied.as_ref().map_or(true, |answer| answer.status == 400), "{proxied:?}");
        app.app.stop().await;
    }
}

#[tokio::test]
async fn b74_a_user_has_as_many_streams_as_they_may_however_many_ask_at_once() {
    for (_world, app) in apps(|config| config.rate_limit_connections_per_user = 10).await {
        let known = [("X-Tidings-Client", "1")];
        let asked = join_all((0..60).map(|_| app.try_stream("ada", "channels=user.me", &known))).await;
        let (mut held, refusals): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
        assert_eq!((held.len(), refusals.len()), (10, 50));
        assert_refused(app.addr, "ada", "203.0.113.9", "connections_of_user").await;
        assert!(app.metric(&refused("per_user")) >= 54.0);
        app.stream("bob", "user.me").await.until("ready").await;
        held.truncate(9);
        eventually("the place is free again", SOON, async || {
            app.try_stream("ada", "channels=user.me", &known).await.ok()
        })
        .await;
        drop(held);
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// B-71: a poll is a stream while it waits, and an aborted one is none a moment later.
#[tokio::test]
async fn b71_polls_that_are_aborted_leave_no_place_taken() {
    for (_world, app) in apps(|config| config.rate_limit_connections_per_user = 20).await {
        let token = bearer("ada");
        let cursor = app.stream("ada", "user.me").await.until("ready").await.last().unwrap().id.clone().unwrap();
        let path = format!("/v1/poll?channels=user.me&cursor={cursor}&wait=60");
        let request = http::bytes_of(app.addr, "GET", &path, &[("Authorization", &token)], b"");
        for _ in 0..10 {
            let polls = join_all((0..100).map(async |_| {
                let mut wire = Wire::connect(app.addr).await.unwrap();
                wire.send(&request).await.unwrap();
                wire
            }))
            .await;
            drop(polls);
        }
        eventually("all have left", SOON, async || {
            (app.metric("realtime_active_connections{transport=\"poll\"}") == 0.0).then_some(())
        })
        .await;
        let answer =
            http::request(app.addr, "GET", "/v1/poll?channels=user.me&wait=0", &[("Authorization", &token)], b"").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        app.until_empty().await;
        app.app.stop().await;
    }
}

#[tokio::test]
async fn an_instance_has_as_many_streams_as_it_may_however_many_ask_at_once() {
    for (_world, app) in apps(|config| config.max_connections = 10).await {
        let known = [("X-Tidings-Client", "1")];
        let asked = join_all((0..60).map(|_| app.try_stream("ada", "channels=user.me", &known))).await;
        let (held, refusals): (Vec<_>, Vec<_>) = asked.into_iter().partition(Result::is_ok);
        assert_eq!((held.len(), refusals.len()), (10, 50));
        for refusal in refusals.into_iter().filter_map(Result::err) {
            let answer = refusal.answer();
            assert_eq!((answer.status, answer.json()["details"]["reason"].as_str()), (503, Some("overloaded")));
        }
        app.app.stop().await;
    }
}

/// Connections that were answered and are kept for nothing take no place from anybody; what carries something stays.
#[tokio::test]
async fn idle_connections_give_way_to_who_comes() {
    for (_world, app) in apps(|config| config.max_connections = 10).await {
        let mut stream = app.stream("ada", "user.me").await;
        let cursor = stream.until("ready").await.last().unwrap().id.clone().unwrap();
        let token = bearer("ada");
        let path = format!("/v1/poll?channels=user.me&cursor={cursor}&wait=60");
        let mut poll = Wire::connect(app.addr).await.unwrap();
        poll.send(&http::bytes_of(app.addr, "GET", &path, &[("Authorization", &token)], b"")).await.unwrap();
        eventually("the poll waits", SOON, async || {
            (app.metric("realtime_active_connections{transport=\"poll\"}") == 1.0).then_some(())
        })
        .await;
        let mut idle = Vec::new();
        for _ in 0..1008 {
            let mut wire = Wire::connect(app.addr).await.unwrap();
            wire.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            assert_eq!(http::response(&mut wire, "GET").await.unwrap().status, 200);
            idle.push(wire);
        }
        app.stream("bob", "user.me").await.until("ready").await;
        for _ in 0..20 {
            assert_eq!(http::get(app.addr, "/health/live", "").await.status, 200);
        }
        let evicted = app.metric("realtime_rejected_total{reason=\"evicted\",source=\"connection\"}");
        assert!((1.0..=25.0).contains(&evicted), "{evicted}");
        let mut last = idle.pop().unwrap();
        last.send(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        assert_eq!(last.head().await.unwrap().status, 200, "the last of them was not idle for longest");
        app.publish(json!({"channel": "user.ada", "event": "told", "data": {"n": 1}})).await;
        let told = stream.until("told").await.pop().unwrap();
        assert_eq!(told.data["n"], 1, "{told:?}");
        assert_eq!(poll.head().await.unwrap().status, 200);
        app.app.stop().await;
    }
}

#[tokio::test]
async fn b18_who_guesses_is_not_asked_for_another_credential() {
    let guarded = |config: &mut tidings::config::Config| {
        config.rate_limit_failures_per_ip = 1;
        config.trusted_proxies = vec!["loopback".to_owned()];
    };
    for (_world, app) in apps(guarded).await {
        let guess = async |n: usize| {
            let path = format!("{STREAM}&ticket={n:064x}");
            http::request(app.addr, "GET", &path, &[("X-Forwarded-For", "203.0.113.1"), ("X-Tidings-Client", "1")], b"")
                .await
        };
        let mut statuses = Vec::new();
        for n in 0..30 {
            statuses.push(guess(n).await.status);
        }
        assert_eq!(statuses[..10], [401; 10], "{statuses:?}");
        assert!(
            statuses[10..].contains(&429) && statuses.iter().all(|status| matches!(status, 401 | 429)),
            "{statuses:?}"
        );
        assert!(app.metric("realtime_rejected_total{reason=\"too_many\",source=\"auth\"}") >= 10.0);
        // Everything there has to wait, a page inside a 200; who is elsewhere has not.
        let token = bearer("ada");
        let there = [("Authorization", token.as_str()), ("X-Forwarded-For", "203.0.113.1")];
        let (retry_ms, problem) = native(app.addr, &there).await;
        assert_eq!(problem["details"]["reason"], "rate");
        assert!((1..=1300).contains(&retry_ms), "{retry_ms}");
        let publish = http::post(app.addr, "/v1/publish", &token, &json!({"channel": "docs.d1", "data": {}})).await;
        assert_eq!(publish.status, 403, "from another address: {}", publish.text());
        assert_eq!(http::request(app.addr, "GET", "/health/live", &there, b"").await.status, 200);
        eventually("there is room again", SOON, async || {
            SseClient::connect(app.addr, STREAM, &[there[0], there[1], ("X-Tidings-Client", "1")]).await.ok()
        })
        .await;
        app.app.stop().await;
    }
}

#[tokio::test]
async fn a_crowd_is_let_in_at_a_rate_and_the_rest_is_told_when() {
    for (_world, app) in apps(|config| config.admission_per_second = 5).await {
        let token = bearer("ada");
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(app.stream("ada", "user.me").await); // a bucket of two seconds
        }
        let mut waits = Vec::new();
        for _ in 0..6 {
            let (retry_ms, problem) = native(app.addr, &[("Authorization", &token)]).await;
            assert_eq!(
                (&problem["code"], &problem["details"]["reason"]),
                (&json!("CONNECTION_LOST"), &json!("overloaded"))
            );
            waits.push((problem["details"]["retryAfterMs"].as_u64().unwrap(), retry_ms));
        }
        assert!(waits.iter().all(|(said, retry)| said <= retry && *retry <= said + said / 4), "{waits:?}");
        assert!(waits.last().unwrap().0 > waits[0].0 + 500, "each a later time: {waits:?}");
        assert!(app.metric(&refused("admission")) >= 6.0);
        // Who polls goes on: only the first of its polls is new.
        let cursor = held[0].until("ready").await.last().unwrap().id.clone().unwrap();
        for _ in 0..10 {
            let path = format!("/v1/poll?channels=user.me&cursor={cursor}&wait=0");
            assert_eq!(http::request(app.addr, "GET", &path, &[("Authorization", &token)], b"").await.status, 200);
        }
        eventually("a bucket fills again", SOON, async || {
            app.try_stream("ada", "channels=user.me", &[("X-Tidings-Client", "1")]).await.ok()
        })
        .await;
        app.app.stop().await;
    }
}

/// I-41: what is longer than a bound is refused and counted, what is as long is not.
#[tokio::test]
async fn heads_and_bodies_have_bounds() {
    let bounded = |config: &mut tidings::config::Config| {
        config.head_bytes_max = 8 * 1024;
        config.body_bytes_max = 64 * 1024;
        config.first_byte_timeout = Duration::from_millis(500);
        config.body_timeout = Duration::from_millis(500);
    };
    for (_world, app) in apps(bounded).await {
        let filled =
            |bytes: usize| format!("GET /health/live HTTP/1.1\r\nHost: x\r\nX-Fill: {}\r\n\r\n", "a".repeat(bytes));
        assert_eq!(http::raw(app.addr, filled(6 * 1024).as_bytes()).await.status, 200);
        assert_eq!(http::raw(app.addr, filled(9 * 1024).as_bytes()).await.status, 431);
        let key = format!("ApiKey {}", crate::support::app::API_KEY);
        let batch = |bytes: usize| {
            let body = json!([{"channel": "docs.d1", "data": {}}]).to_string();
            format!("{body}{}", " ".repeat(bytes - body.len()))
        };
        let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json")];
        let post = async |body: String| {
            http::request(app.addr, "POST", "/v1/publish/batch", &headers, body.as_bytes()).await.status
        };
        assert_eq!((post(batch(64 * 1024)).await, post(batch(64 * 1024 + 1)).await), (202, 413));
        let mut slow = Wire::connect(app.addr).await.unwrap();
        let head =
            format!("POST /v1/publish HTTP/1.1\r\nHost: x\r\nAuthorization: {key}\r\nContent-Length: 9\r\n\r\n{{");
        slow.send(head.as_bytes()).await.unwrap();
        assert_eq!(slow.head().await.unwrap().status, 408);
        let (mut silent, mut half) = (Wire::connect(app.addr).await.unwrap(), Wire::connect(app.addr).await.unwrap());
        half.send(b"GET /health/live HTTP/1.1\r\nHo").await.unwrap();
        assert!(silent.head().await.is_err());
        drop(half.head().await); // closed, with or without 408
        for (source, reason) in [
            ("connection", "head_too_large"),
            ("http", "body_too_large"),
            ("http", "body_timeout"),
            ("connection", "silent"),
            ("connection", "head_timeout"),
        ] {
            let line = format!("realtime_rejected_total{{reason=\"{reason}\",source=\"{source}\"}}");
            eventually(&line, SOON, async || (app.metric(&line) >= 1.0).then_some(())).await;
        }
        app.app.stop().await;
    }
}
