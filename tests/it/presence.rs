//! Who is there: joined, moved, left, over every transport; what may be said, by whom, and what becomes of it.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::broker::NODE_LEASE;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::pace;
use crate::support::sse::SseEvent;
use crate::support::tokens;

/// Short, so that tests need not wait; long enough for a reconnect on a busy machine.
const GRACE: Duration = Duration::from_millis(1500);
const LEASE: Duration = Duration::from_millis(2500);
const A_WHILE: Duration = Duration::from_millis(400);

fn hasty(mut world: World) -> World {
    world.config.presence_grace = GRACE;
    world.config.presence_timeout = LEASE;
    world
}

/// Without any server, and with Redis and Postgres.
async fn worlds() -> Vec<(World, TestApp)> {
    let mut worlds = Vec::new();
    let begun = tokio::time::Instant::now();
    for world in [World::embedded().await, World::full().await] {
        let world = hasty(world);
        world.document("d1", "ada", &[("ada", Role::Owner), ("ben", Role::Editor), ("cyd", Role::Viewer)]).await;
        world.people(&[("eve", &[])]).await;
        let app = world.start().await;
        app.until_announced().await;
        worlds.push((world, app));
    }
    // Nothing ends until then: before, nobody could have said that they are there.
    pace((begun + NODE_LEASE + A_WHILE * 2).saturating_duration_since(tokio::time::Instant::now())).await;
    worlds
}

async fn open(app: &TestApp, transport: Transport, user: &str, query: &str) -> Client {
    Client::open(transport, app.addr, &tokens::for_user(user), query, None).await.unwrap()
}

async fn at(app: &TestApp, transport: Transport, user: &str) -> (Client, Vec<SseEvent>) {
    let mut client = open(app, transport, user, "channels=presence.d1").await;
    let opening = client.until("ready").await;
    (client, opening)
}

async fn say(app: &TestApp, user: &str, body: &Value) -> u16 {
    http::post(app.addr, "/v1/presence/d1", &format!("Bearer {}", tokens::for_user(user)), body).await.status
}

async fn who(app: &TestApp, user: &str) -> Value {
    http::get(app.addr, "/v1/presence/d1", &tokens::for_user(user)).await.json()
}

fn users(state: &Value) -> Vec<&str> {
    state["members"].as_array().unwrap().iter().map(|member| member["userId"].as_str().unwrap()).collect()
}

/// The presence events that come in so long.
async fn moves(client: &mut Client, during: Duration) -> Vec<(String, Value)> {
    let until = tokio::time::Instant::now() + during;
    let mut seen = Vec::new();
    while let Some(event) = client.next(until.saturating_duration_since(tokio::time::Instant::now())).await {
        if event.event.starts_with("presence:") {
            seen.push((event.event, event.data));
        }
    }
    seen
}

fn names(moves: &[(String, Value)]) -> Vec<&str> {
    moves.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn who_comes_is_told_who_is_there_and_the_others_that_they_came() {
    for (_world, app) in worlds().await {
        for transport in Transport::STREAMS {
            let (mut ada, opening) = at(&app, transport, "ada").await;
            let names: Vec<&str> = opening.iter().map(|event| event.event.as_str()).collect();
            assert_eq!(names, ["connected", "presence:state", "ready"]);
            assert!(!opening[1].has_id, "a state has no position");
            let member = &opening[1].data["members"][0];
            assert_eq!(opening[1].data["counts"]["online"], 1);
            assert_eq!(
                (&member["userId"], &member["name"], &member["devices"]),
                (&json!("ada"), &json!("ada"), &json!(1))
            );
            assert!(member["color"].as_str().unwrap().starts_with('#') && member["joinedAt"].is_string(), "{member}");
            let (mut ben, opening) = at(&app, transport, "ben").await;
            assert_eq!(users(&opening[1].data), ["ada", "ben"]);
            let joined = ada.find("ben", |event| event.event == "presence:user-joined").await;
            assert_eq!((joined.text("userId"), joined.text("status")), ("ben", "online"));
            assert_eq!(say_as(&app, "ben", &ben, json!({"cursor": {"x": 1.5, "y": 2}})).await, 204);
            let moved = ada.find("a move", |event| event.event == "presence:update").await;
            assert_eq!(
                moved.data,
                json!({"channel": "presence.d1", "userId": "ben", "cursor": {"x": 1.5, "y": 2}}),
                "only what has changed"
            );
            assert!(moves(&mut ben, A_WHILE).await.is_empty(), "neither their own joining nor their own move");
            drop(ben);
            let left = ada.find("ben leaves", |event| event.event == "presence:user-left").await;
            assert_eq!(left.data, json!({"channel": "presence.d1", "userId": "ben", "cause": "closed"}));
            assert_eq!(users(&who(&app, "cyd").await), ["ada"]);
            drop(ada);
            eventually("the room is empty", Duration::from_secs(10), async || {
                users(&who(&app, "cyd").await).is_empty().then_some(())
            })
            .await;
        }
        app.app.stop().await;
    }
}

/// As an open stream of theirs: by what `connected` said.
async fn say_as(app: &TestApp, user: &str, client: &Client, mut body: Value) -> u16 {
    let streams = app.app.shared.sessions.lives.of(&id(user));
    assert_eq!(streams.len(), 1, "{user} has one stream on {}", client.transport.as_str());
    body["connectionId"] = json!(streams[0].name());
    say(app, user, &body).await
}

#[tokio::test]
async fn a_websocket_says_where_it_is_by_itself() {
    use crate::support::ws::WsClient;
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        let token = format!("Bearer {}", tokens::for_user("ben"));
        let mut ben =
            WsClient::connect(app.addr, "/v1/ws?channels=presence.d1", &[("Authorization", &token)]).await.unwrap();
        ada.find("ben", |event| event.event == "presence:user-joined").await;
        ben.send(&json!({"type": "presence", "documentId": "d1", "typing": true, "selection": {"slideId": "s1"}}))
            .await;
        let typing = ada.find("typing", |event| event.event == "presence:update").await;
        assert_eq!((&typing.data["typing"], &typing.data["selection"]["slideId"]), (&json!(true), &json!("s1")));
        let over = ada.find("it is over", |event| event.data.get("typing").is_some()).await;
        assert_eq!(over.data, json!({"channel": "presence.d1", "userId": "ben", "typing": null}));
        for (wrong, field) in [
            (json!({"type": "presence", "id": 7, "documentId": "d1", "cursor": {"x": "1"}}), "cursor"),
            (json!({"type": "presence", "id": 7}), "documentId"),
        ] {
            ben.send(&wrong).await;
            let error = loop {
                let message = ben.next_message(Duration::from_secs(5)).await.unwrap();
                if message["type"] == "error" {
                    break message;
                }
            };
            assert_eq!((&error["id"], &error["details"]["field"]), (&json!(7), &json!(field)), "{error}");
        }
        app.app.stop().await;
    }
}

#[tokio::test]
async fn a_reconnect_within_the_grace_is_neither_leave_nor_join() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        for transport in [Transport::Sse, Transport::Ws, Transport::Sse] {
            let (ben, opening) = at(&app, transport, "ben").await;
            assert_eq!(opening[1].data["members"][1]["devices"], 1, "{opening:?}");
            assert_eq!(say_as(&app, "ben", &ben, json!({"status": "dnd"})).await, 204);
            drop(ben);
            app_has(&app, "ben", 0).await;
        }
        let (ben, opening) = at(&app, Transport::Ws, "ben").await;
        assert_eq!(opening[1].data["members"][1]["status"], "dnd", "what was said stays as well");
        let seen = moves(&mut ada, GRACE + A_WHILE * 2).await;
        assert_eq!(names(&seen), ["presence:user-joined", "presence:update"], "{seen:?}");
        drop(ben);
        app.app.stop().await;
    }
}

async fn app_has(app: &TestApp, user: &str, streams: usize) {
    eventually("the stream has ended", SOON, async || {
        (app.app.shared.sessions.lives.of(&id(user)).len() == streams).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_ways_to_be_there_are_one_person() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        let (one, _) = at(&app, Transport::Sse, "ben").await;
        let (two, _) = at(&app, Transport::Ws, "ben").await;
        assert_eq!(say(&app, "ben", &json!({"cursor": {"x": 3, "y": 4}})).await, 204, "a lease of its own");
        assert_eq!(say(&app, "ben", &json!({"lease": "x"})).await, 400);
        let seen = ada.until_that("three devices", |event| event.data["devices"] == 3).await;
        assert_eq!(seen.iter().filter(|event| event.event == "presence:user-joined").count(), 1);
        drop((one, two));
        let left = ada.until_that("ben leaves", |event| event.event == "presence:user-left").await;
        assert_eq!(left.last().unwrap().text("cause"), "timeout", "the lease was the last");
        assert!(left.iter().any(|event| event.data["devices"] == 1), "{left:?}");
        app.app.stop().await;
    }
}

#[tokio::test]
async fn leases_are_renewed_ended_and_listed() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        assert_eq!(say(&app, "ben", &json!({})).await, 204);
        ada.find("ben", |event| event.event == "presence:user-joined").await;
        for _ in 0..4 {
            pace(LEASE / 3).await;
            assert_eq!(say(&app, "ben", &json!({})).await, 204, "renewed");
        }
        let state = who(&app, "cyd").await;
        assert_eq!((users(&state), &state["channel"]), (vec!["ada", "ben"], &json!("presence.d1")));
        let authorization = format!("Bearer {}", tokens::for_user("ben"));
        let headers = [("Authorization", authorization.as_str())];
        let answer = http::request(app.addr, "DELETE", "/v1/presence/d1", &headers, b"").await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        let seen = ada.until_that("ben leaves", |event| event.event == "presence:user-left").await;
        assert_eq!(seen.iter().filter(|event| event.event.starts_with("presence:user")).count(), 1, "{seen:?}");
        assert_eq!(seen.last().unwrap().text("cause"), "closed");
        // As `sendBeacon` says it.
        assert_eq!(say(&app, "ben", &json!({})).await, 204);
        ada.find("ben again", |event| event.event == "presence:user-joined").await;
        let beacon = [("Authorization", authorization.as_str()), ("Content-Type", "text/plain;charset=UTF-8")];
        let answer = http::request(app.addr, "POST", "/v1/presence/d1", &beacon, b"{\"leave\":true}").await;
        assert_eq!(answer.status, 204, "{}", answer.text());
        ada.find("ben leaves again", |event| event.event == "presence:user-left").await;
        app.app.stop().await;
    }
}

/// Tabs that share a stream are devices of their own.
#[tokio::test]
async fn leases_with_names_are_told_apart() {
    let world = hasty(World::embedded().await);
    world.document("d1", "ada", &[("ada", Role::Owner), ("ben", Role::Editor)]).await;
    let app = world.start().await;
    let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
    for tab in ["tab-00001", "tab-00002", "tab-00002"] {
        assert_eq!(say(&app, "ben", &json!({"lease": tab})).await, 204);
    }
    ada.find("two devices", |event| event.data["devices"] == 2).await;
    let authorization = format!("Bearer {}", tokens::for_user("ben"));
    let headers = [("Authorization", authorization.as_str())];
    for (path, devices) in [("/v1/presence/d1?lease=tab-00001", 1), ("/v1/presence/d1?lease=tab-00002", 0)] {
        assert_eq!(http::request(app.addr, "DELETE", path, &headers, b"").await.status, 204);
        let name = if devices > 0 { "presence:update" } else { "presence:user-left" };
        ada.find("one less", |event| event.event == name).await;
    }
    app.app.stop().await;
}

#[tokio::test]
async fn who_observes_is_not_there() {
    for (_world, app) in worlds().await {
        let mut cyd = open(&app, Transport::Sse, "cyd", "channels=presence.d1&observe=1").await;
        let opening = cyd.until("ready").await;
        assert!(users(&opening[1].data).is_empty(), "{opening:?}");
        let (mut ada, opening) = at(&app, Transport::Ws, "ada").await;
        assert_eq!(users(&opening[1].data), ["ada"]);
        cyd.find("ada", |event| event.event == "presence:user-joined").await;
        assert_eq!(say_as(&app, "cyd", &cyd, json!({"typing": true})).await, 404, "who is not there says nothing");
        drop(cyd);
        assert!(moves(&mut ada, A_WHILE).await.is_empty());
        app.app.stop().await;
    }
}

#[tokio::test]
async fn a_stream_joins_and_leaves_by_edit() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        let mut ben = open(&app, Transport::Sse, "ben", "channels=user.me").await;
        let connected = ben.until("ready").await.remove(0);
        let stream = connected.text("connectionId");
        assert_eq!(app.patch("ben", stream, &json!({"subscribe": ["presence.d1"]})).await.status, 200);
        let heard = ben.until("presence:state").await;
        assert_eq!(heard[0].event, "subscribed");
        assert_eq!(users(&heard[1].data), ["ada", "ben"]);
        ada.find("ben", |event| event.event == "presence:user-joined").await;
        assert_eq!(app.patch("ben", stream, &json!({"unsubscribe": ["presence.d1"]})).await.status, 200);
        let left = ada.find("ben leaves", |event| event.event == "presence:user-left").await;
        assert_eq!(left.text("cause"), "closed");
        app.app.stop().await;
    }
}

/// Nobody is seen at a document who may not see it, and nobody who may not sees who is there.
#[tokio::test]
async fn b95_who_may_not_is_not_there() {
    for (world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        let (mut ben, _) = at(&app, Transport::Sse, "ben").await;
        assert_eq!(say(&app, "cyd", &json!({"status": "away"})).await, 204);
        ada.find("cyd", |event| event.data["userId"] == "cyd").await;
        for user in ["ben", "cyd"] {
            world.store.remove_role(&id("d1"), &id(user)).await.unwrap();
            let left = ada.find("left", |event| event.event == "presence:user-left").await;
            assert_eq!((left.text("userId"), left.text("cause")), (user, "revoked"));
            assert_eq!(say(&app, user, &json!({"typing": true})).await, 403);
        }
        let told = ben.until_end(Duration::from_secs(5)).await;
        assert!(told.iter().any(|event| event.event == "unsubscribed"), "{told:?}");
        let answer = http::get(app.addr, "/v1/presence/d1", &tokens::for_user("eve")).await;
        assert_eq!(answer.status, 403);
        let refused =
            Client::open(Transport::Sse, app.addr, &tokens::for_user("eve"), "channels=presence.d1", None).await;
        assert_eq!(refused.unwrap_err().status, 403);
        app.app.stop().await;
    }
}

#[tokio::test]
async fn b90_to_b94_what_is_said_is_judged() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        for (body, field) in [
            (json!({"cursor": {"x": 1}}), "cursor"),
            (json!({"selection": {"slideId": "s", "html": "<b>"}}), "selection"),
            (json!({"status": "admin"}), "status"),
            (json!({"data": {"a": "x".repeat(3000)}}), "data"),
            (json!({"data": "text"}), "data"),
            (json!({"connectionId": "../x"}), "session"),
            (json!([1]), "body"),
        ] {
            let answer =
                http::post(app.addr, "/v1/presence/d1", &format!("Bearer {}", tokens::for_user("ben")), &body).await;
            assert_eq!((answer.status, &answer.json()["details"]["field"]), (400, &json!(field)), "{body}");
        }
        let huge = json!({"data": {"a": "x".repeat(10 << 10)}});
        assert_eq!(say(&app, "ben", &huge).await, 413);
        // Who somebody is comes from the token and the database; what they write is text.
        let body = json!({"userId": "ada", "name": "Ada", "color": "#000", "data": {"note": "<img src=x onerror=alert(1)>\u{2028}\n"}});
        assert_eq!(say(&app, "ben", &body).await, 204);
        let joined = ada.find("ben", |event| event.event == "presence:user-joined").await;
        assert_eq!((joined.text("userId"), joined.text("name")), ("ben", "ben"));
        assert!(!joined.raw.contains("\u{2028}\n"), "one line");
        assert_eq!(joined.data["data"]["note"], "<img src=x onerror=alert(1)>\u{2028}\n");
        let stranger = json!({"connectionId": app.app.shared.sessions.lives.of(&id("ada"))[0].name(), "typing": true});
        assert_eq!(say(&app, "ben", &stranger).await, 204, "as if there was no such stream");
        assert!(moves(&mut ada, A_WHILE).await.is_empty(), "nobody speaks for somebody else");
        app.app.stop().await;
    }
}

/// An answer begins with who is there if that has changed since the last one; a change ends the wait; who polls is there.
#[tokio::test]
async fn who_polls_is_there_and_is_told_who_is() {
    for (_world, app) in worlds().await {
        let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
        let ask = async |cursor: &str, wait: u32| {
            let path = format!("/v1/poll?channels=presence.d1&session=ben-polls&wait={wait}&cursor={cursor}");
            let answer = http::get(app.addr, &path, &tokens::for_user("ben")).await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            answer.json()
        };
        let first = ask("", 0).await;
        assert_eq!(first["events"][0]["event"], "presence:state", "{first}");
        assert_eq!(users(&first["events"][0]["data"]), ["ada", "ben"]);
        ada.find("ben", |event| event.event == "presence:user-joined").await;
        let cursor = first["cursor"].as_str().unwrap().to_owned();
        let quiet = ask(&cursor, 1).await;
        assert_eq!(quiet["events"], json!([]), "nothing is told twice");
        let cursor = quiet["cursor"].as_str().unwrap().to_owned();
        let (told, ()) = tokio::join!(ask(&cursor, 20), async {
            pace(A_WHILE).await;
            assert_eq!(say_as(&app, "ada", &ada, json!({"cursor": {"x": 9, "y": 9}})).await, 204);
        });
        assert_eq!(told["events"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told["events"][0]["data"]["members"][0]["cursor"], json!({"x": 9, "y": 9}));
        let seen = ada.until_that("ben leaves", |event| event.event == "presence:user-left").await;
        assert_eq!(seen.iter().filter(|event| event.event.starts_with("presence:user")).count(), 1, "{seen:?}");
        app.app.stop().await;
    }
}

#[tokio::test]
async fn who_says_nothing_is_idle_until_the_next_word() {
    let mut world = hasty(World::redis().await);
    world.config.presence_idle = Duration::from_secs(1);
    world.document("d1", "ada", &[("ada", Role::Owner), ("ben", Role::Editor)]).await;
    let app = world.start().await;
    let (mut ada, _) = at(&app, Transport::Sse, "ada").await;
    let (ben, _) = at(&app, Transport::Ws, "ben").await;
    let is =
        |status: &'static str| move |event: &SseEvent| event.data["userId"] == "ben" && event.data["status"] == status;
    let idle = ada.find("ben is idle", is("idle")).await;
    assert_eq!(idle.data, json!({"channel": "presence.d1", "userId": "ben", "status": "idle"}));
    assert_eq!(who(&app, "ada").await["counts"]["idle"], 2);
    assert_eq!(say_as(&app, "ben", &ben, json!({"cursor": {"x": 1, "y": 1}})).await, 204);
    let back = ada.find("ben is back", |event| event.data.get("cursor").is_some()).await;
    assert_eq!(back.data["status"], "online");
    app.app.stop().await;
}
