//! WebSocket: the handshake, the framing, and what clients may say.

use serde_json::json;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::every_way;
use crate::support::http;
use crate::support::sse::SseEvent;
use crate::support::tokens;
use crate::support::ws::WsClient;
use crate::support::ws::frame;
use crate::support::ws::handshake;

async fn connect(app: &TestApp, user: &str, query: &str) -> WsClient {
    let protocols = format!("tidings.v1, access_token.{}", tokens::for_user(user));
    let client =
        WsClient::connect(app.addr, &format!("/v1/ws?{query}"), &[("Sec-WebSocket-Protocol", &protocols)]).await;
    let client = client.unwrap_or_else(|answer| panic!("{} {}", answer.status, answer.text()));
    assert_eq!(client.head().header("sec-websocket-protocol"), Some("tidings.v1"));
    client
}

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).filter(|name| *name != "heartbeat").collect()
}

/// The first subscribe may bring a cursor; what follows is what an event stream would have been given.
#[tokio::test]
async fn a_client_subscribes_resumes_and_unsubscribes() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a", "b"]), ("eve", &["c"])]).await;
        app.progress("a", 1).await;
        let mut first = connect(&app, "ada", "channels=jobs.a").await;
        let opening = first.until("ready").await;
        assert_eq!(names(&opening), ["connected", "job:update", "ready"]);
        app.progress("a", 2).await;
        let cursor = first.until("job:update").await.pop().unwrap().id.unwrap();
        drop(first);
        app.progress("a", 3).await;
        let mut socket = connect(&app, "ada", "").await;
        assert_eq!(socket.until("ready").await[0].data["channels"], json!([]));
        socket.send(&json!({ "type": "subscribe", "id": 7, "channels": ["jobs.a", "jobs.c"], "cursor": cursor })).await;
        let heard = socket.until("ready").await;
        assert_eq!(names(&heard), ["ack", "subscribed", "job:update", "ready"], "{heard:#?}");
        assert_eq!(heard[0].data["id"], 7);
        assert_eq!(heard[0].data["channels"], json!([{ "channel": "jobs.a", "verdict": "resumed" }]));
        assert_eq!(heard[0].data["denied"], json!([{ "channel": "jobs.c", "code": "PERMISSION_DENIED" }]));
        let update = heard.iter().find(|event| event.event == "job:update").unwrap();
        assert!(update.data["data"]["n"] == 3 && update.has_id && !update.is_snapshot());
        // Later ones are live, whatever cursor comes with them.
        app.progress("b", 4).await;
        socket.send(&json!({ "type": "subscribe", "id": 8, "channels": ["jobs.b"], "cursor": cursor })).await;
        let heard = socket.until("job:update").await;
        assert_eq!(names(&heard), ["ack", "subscribed", "job:update"]);
        assert!(heard.last().unwrap().is_snapshot());
        socket.send(&json!({ "type": "unsubscribe", "id": 9, "channels": ["jobs.a"] })).await;
        let heard = socket.until("unsubscribed").await;
        assert_eq!((names(&heard), &heard[0].data["id"]), (vec!["ack", "unsubscribed"], &json!(9)));
        app.progress("a", 5).await;
        app.progress("b", 6).await;
        assert_eq!(socket.until("job:update").await.pop().unwrap().data["data"]["n"], 6);
        drop(socket);
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// b87, b89: what is not understood is answered and changes nothing; a token renews, another user's does not.
#[tokio::test]
async fn b87_every_message_is_answered() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a"]), ("eve", &[])]).await;
        world.document("d1", "ada", &[("eve", Role::Viewer)]).await;
        let mut socket = connect(&app, "ada", "channels=jobs.a,docs.d1").await;
        socket.until("ready").await;
        for (message, field) in [
            (json!({ "type": "dance", "id": 1 }), "type"),
            (json!({ "id": 2 }), "type"),
            (json!({ "type": "subscribe", "id": 3 }), "channels"),
            (json!({ "type": "auth", "id": 4 }), "token"),
            (json!({ "type": "publish", "id": 5, "channel": "docs.d1" }), "data"),
            (json!({ "type": "publish", "id": 6, "channel": "jobs.a", "data": {} }), "channel"),
        ] {
            socket.send(&message).await;
            let error = socket.until("error").await.pop().unwrap();
            assert_eq!(error.data["id"], message["id"]);
            assert_eq!(
                (&error.data["code"], &error.data["details"]["field"]),
                (&json!("INVALID_MESSAGE"), &json!(field))
            );
        }
        for text in ["[1]", "nonsense", "\"subscribe\"", "{\"type\":1}"] {
            socket.send_raw(&frame(0x81, text.as_bytes())).await;
            assert_eq!(socket.until("error").await.pop().unwrap().data["details"]["field"], "message");
        }
        socket.send(&json!({ "type": "ping" })).await;
        socket.until("pong").await;
        socket.send(&json!({ "type": "publish", "id": 7, "channel": "docs.d1", "event": "slide:moved", "data": { "n": 1 } })).await;
        let heard = socket.until_that("ack and event", |event| event.event == "slide:moved").await;
        assert_eq!(heard.last().unwrap().data, json!({ "channel": "docs.d1", "n": 1 }));
        for (token, code) in [(tokens::for_user("eve"), "PERMISSION_DENIED"), ("nonsense".to_owned(), "AUTH_REQUIRED")]
        {
            socket.send(&json!({ "type": "auth", "id": 8, "token": token })).await;
            assert_eq!(socket.until("error").await.pop().unwrap().text("code"), code);
        }
        socket.send(&json!({ "type": "auth", "id": 9, "token": tokens::for_user("ada") })).await;
        assert_eq!(socket.until("ack").await.pop().unwrap().data["id"], 9);
        let mut viewer = connect(&app, "eve", "channels=docs.d1").await;
        viewer.until("ready").await;
        viewer.send(&json!({ "type": "publish", "id": 1, "channel": "docs.d1", "data": {} })).await;
        assert_eq!(viewer.until("error").await.pop().unwrap().text("code"), "PERMISSION_DENIED");
        app.app.stop().await;
    }
}

/// b81: a handshake that is none is refused before anything is switched.
#[tokio::test]
async fn b80_b81_b85_the_handshake_is_checked() {
    let mut world = World::embedded().await;
    world.config.auth_cookie = "auth".to_owned();
    world.config.cors_origins = vec!["https://app.example".to_owned()];
    let app = world.start().await;
    world.people(&[("ada", &["a"])]).await;
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let path = "/v1/ws?channels=jobs.a";
    let replaced = |name: &'static str, value: Option<&'static str>| {
        let mut headers: Vec<(&str, &str)> = handshake(&[]).into_iter().filter(|(n, _)| *n != name).collect();
        headers.extend(value.map(|value| (name, value)));
        headers
    };
    for (headers, status) in [
        (replaced("Sec-WebSocket-Version", Some("8")), 426),
        (replaced("Sec-WebSocket-Version", Some("0")), 426),
        (replaced("Sec-WebSocket-Version", None), 426),
        (replaced("Sec-WebSocket-Key", None), 400),
        (replaced("Sec-WebSocket-Key", Some("c2hvcnQ=")), 400),
        (replaced("Sec-WebSocket-Key", Some("dGhlIHNhbXBsZSBub25jZS4uLi4=")), 400),
        (replaced("Upgrade", Some("h2c")), 426),
        (replaced("Upgrade", None), 426),
        (replaced("Connection", Some("keep-alive")), 426),
        (handshake(&[("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")]), 400),
        (handshake(&[("Content-Length", "4")]), 400),
    ] {
        let mut all = headers.clone();
        all.push(("Authorization", &token));
        let answer = http::request(app.addr, "GET", path, &all, b"").await;
        assert_eq!(answer.status, status, "{headers:?}: {}", answer.text());
        if status == 426 {
            assert_eq!(answer.header("sec-websocket-version"), Some("13"));
        }
    }
    let cookie = format!("auth={}", tokens::for_user("ada"));
    let origin = |origin: &'static str| [("Cookie", cookie.as_str()), ("Origin", origin)];
    for headers in [&origin("https://evil.example")[..], &origin("null"), &[("Cookie", cookie.as_str())]] {
        let refused = WsClient::connect(app.addr, path, headers).await.unwrap_err();
        assert_eq!(refused.status, 403, "{headers:?}");
    }
    assert_eq!(WsClient::connect(app.addr, path, &[]).await.unwrap_err().status, 401);
    // Compression is not offered back; one of the offered protocols is chosen.
    let mut headers = origin("https://app.example").to_vec();
    headers.push(("Sec-WebSocket-Extensions", "permessage-deflate; client_max_window_bits"));
    let mut socket = WsClient::connect(app.addr, path, &headers).await.unwrap();
    assert_eq!(
        (socket.head().header("sec-websocket-extensions"), socket.head().header("sec-websocket-protocol")),
        (None, None)
    );
    socket.until("ready").await;
    app.app.stop().await;
}

/// b82 to b87: what breaks the framing closes the connection with the code of RFC 6455, and leaves nothing behind.
#[tokio::test]
async fn b82_b87_what_breaks_the_rules_is_closed_with_its_code() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a"])]).await;
        let fragments = [frame(0x01, b"{"), frame(0x00, b" ").repeat(300)].concat();
        for (bytes, code) in [
            (vec![0x81, 0x02, b'{', b'}'], 1002),
            (frame(0xC1, b"{}"), 1002),
            (frame(0x83, b""), 1002),
            (frame(0x09, b""), 1002),
            (frame(0x80, b""), 1002),
            (frame(0x88, &999_u16.to_be_bytes()), 1002),
            (frame(0x82, b"binary"), 1003),
            (frame(0x81, &[0xC3, 0x28]), 1007),
            (frame(0x81, &vec![b' '; 64 * 1024 + 1]), 1009),
            (vec![0x81, 0xFF, 0x80, 0, 0, 0, 0, 0, 0, 0], 1009),
            (fragments, 1009),
            (frame(0x81, b"{}").repeat(2000), 4429),
            (frame(0x89, b"flood").repeat(600), 4429),
        ] {
            let mut socket = connect(&app, "ada", "channels=jobs.a").await;
            socket.until("ready").await;
            socket.send_raw(&bytes).await;
            let closed = socket.until_closed(SOON).await;
            assert_eq!(closed.map(|(code, _)| code), Some(code), "{:02x?}", &bytes[..bytes.len().min(12)]);
        }
        // Whoever leaves properly is answered with its own code.
        let mut socket = connect(&app, "ada", "channels=jobs.a").await;
        socket.until("ready").await;
        socket.send_raw(&frame(0x89, b"still there")).await;
        assert_eq!(socket.next_frame(SOON).await.unwrap().payload, b"still there");
        socket.send_raw(&frame(0x88, &[0x0F, 0xA1, b'x'])).await;
        assert_eq!(socket.until_closed(SOON).await, Some((4001, String::new())));
        app.until_empty().await;
        app.app.stop().await;
    }
}
