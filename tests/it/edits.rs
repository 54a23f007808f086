//! Open streams that are changed: channels come and go, tokens are renewed, through any instance, across reconnects.

use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::every_way;
use crate::support::http;
use crate::support::sse::SseClient;
use crate::support::sse::SseEvent;
use crate::support::tokens;

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).filter(|name| *name != "heartbeat").collect()
}

async fn open(app: &TestApp, user: &str, query: &str) -> (SseClient, String) {
    let mut stream = app.try_stream(user, query, &[]).await.unwrap();
    let opening = stream.until("ready").await;
    let id = opening[0].text("connectionId").to_owned();
    (stream, id)
}

/// The verdicts in the answer; on the stream `subscribed` with a position, the snapshot without one, then what is new.
#[tokio::test]
async fn a_channel_joins_and_leaves_an_open_stream() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a", "b"]), ("eve", &["c"])]).await;
        app.progress("b", 1).await;
        let (mut stream, id) = open(&app, "ada", "channels=jobs.a").await;
        let wish = json!({ "subscribe": ["jobs.b", "jobs.c", "user.me", "nonsense"] });
        let answer = app.patch("ada", &id, &wish).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer = answer.json();
        assert_eq!(
            answer["channels"],
            json!([
                {"channel": "jobs.b", "verdict": "live"},
                {"channel": "user.ada", "requested": "user.me", "verdict": "live"},
            ])
        );
        let denied: Vec<&str> =
            answer["denied"].as_array().unwrap().iter().map(|d| d["code"].as_str().unwrap()).collect();
        assert_eq!(denied, ["CHANNEL_NOT_FOUND", "PERMISSION_DENIED"]);
        app.progress("b", 2).await;
        let heard = stream.until_that("the update", |event| event.data["data"]["n"] == 2).await;
        assert_eq!(names(&heard), ["subscribed", "subscribed", "job:update", "job:update"]);
        assert!(heard[0].has_id && !heard[2].has_id && heard[2].is_snapshot() && heard[3].has_id);
        assert_eq!(heard[2].data["data"]["n"], 1);
        // Again: it is there already, and nothing is said twice.
        assert_eq!(app.patch("ada", &id, &json!({ "subscribe": ["jobs.b"] })).await.status, 200);
        let answer = app.patch("ada", &id, &json!({ "unsubscribe": ["jobs.b", "jobs.c"] })).await;
        assert_eq!(answer.json(), json!({ "channels": [], "denied": [] }));
        app.progress("b", 3).await;
        app.progress("a", 4).await;
        let heard = stream.until_that("the other job", |event| event.data["data"]["n"] == 4).await;
        assert_eq!(names(&heard), ["unsubscribed", "job:update"]);
        assert_eq!((heard[0].text("channel"), heard[0].text("reason")), ("jobs.b", "request"));
        drop(stream);
        app.until_empty().await;
        app.app.stop().await;
    }
}

/// What a cursor means does not change with an edit: the channels are those of the moment, from there on.
#[tokio::test]
async fn an_edited_stream_that_is_cut_resumes_with_nothing_missing_or_repeated() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a", "b"])]).await;
        app.progress("b", 1).await;
        let (mut stream, id) = open(&app, "ada", "channels=jobs.a").await;
        app.progress("b", 2).await;
        app.patch("ada", &id, &json!({ "subscribe": ["jobs.b"] })).await;
        let snapshot = stream.until_that("the snapshot", SseEvent::is_snapshot).await.pop().unwrap();
        assert_eq!(snapshot.data["data"]["n"], 2);
        let cursor = stream.last_event_id().unwrap().to_owned();
        drop(stream);
        app.progress("b", 3).await;
        let mut stream = app.resume("ada", "jobs.a,jobs.b", &cursor).await;
        let heard: Vec<Value> = stream.until("ready").await.iter().map(|e| e.data["data"]["n"].clone()).collect();
        let numbers: Vec<u64> = heard.iter().filter_map(Value::as_u64).collect();
        assert_eq!(numbers, [3], "not what was before the snapshot, which would take the page back");
        app.app.stop().await;
    }
}

/// Edits of a stream that has a name are made through any instance and hold on any other, also between two connections.
#[tokio::test]
async fn edits_of_a_named_stream_survive_its_connections_and_its_instance() {
    let world = World::full().await;
    world.people(&[("ada", &["a", "b", "c"])]).await;
    let (here, there) = (world.start().await, world.start().await);
    let query = "channels=jobs.a,jobs.b&session=page-0001";
    let (mut stream, id) = open(&here, "ada", query).await;
    // Another instance edits it by its name, and by its number.
    let answer = there.patch("ada", "page-0001", &json!({ "subscribe": ["jobs.c"] })).await;
    assert_eq!(answer.json()["channels"], json!([{ "channel": "jobs.c", "verdict": "live" }]), "{}", answer.text());
    assert_eq!(stream.until("subscribed").await.pop().unwrap().text("channel"), "jobs.c");
    assert_eq!(there.patch("ada", &id, &json!({ "unsubscribe": ["jobs.a"] })).await.status, 200);
    stream.until("unsubscribed").await;
    drop(stream);
    here.until_empty().await;
    // Nobody is connected: the edit waits for the next one.
    assert_eq!(here.patch("ada", "page-0001", &json!({ "unsubscribe": ["jobs.b"] })).await.status, 200);
    let mut stream = there.try_stream("ada", query, &[]).await.unwrap();
    let connected = stream.until("ready").await.remove(0);
    assert_eq!(connected.data["channels"], json!([{ "channel": "jobs.c", "verdict": "live" }]));
    assert_eq!(connected.text("session"), "page-0001");
    // Two tabs of one name: both are edited, neither is closed.
    let mut twin = here.try_stream("ada", query, &[]).await.unwrap();
    twin.until("ready").await;
    there.patch("ada", "page-0001", &json!({ "subscribe": ["jobs.a"] })).await;
    for stream in [&mut stream, &mut twin] {
        assert_eq!(stream.until("subscribed").await.pop().unwrap().text("channel"), "jobs.a");
    }
    here.app.stop().await;
    there.app.stop().await;
}

#[tokio::test]
async fn an_edit_that_makes_no_sense_is_refused_and_changes_nothing() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a"]), ("eve", &[])]).await;
        let (mut stream, id) = open(&app, "ada", "channels=jobs.a&session=page-0002").await;
        let good = json!({ "subscribe": ["user.me"] });
        for (who, target, body, status) in [
            ("eve", id.as_str(), good.clone(), 404),
            ("eve", "page-0002", good.clone(), 404),
            ("ada", "0123456789abcdef", good.clone(), 404),
            ("ada", "page-9999", good.clone(), 404),
            ("ada", "short", good.clone(), 404),
            ("ada", &id, json!({}), 400),
            ("ada", &id, json!([["jobs.a"]]), 400),
            ("ada", &id, json!({ "subscribe": "jobs.a" }), 400),
            ("ada", &id, json!({ "subscribe": ["jobs.a"], "other": 1 }), 400),
            ("ada", &id, json!({ "subscribe": (0..101).map(|n| format!("jobs.x{n}")).collect::<Vec<_>>() }), 400),
            ("ada", &id, json!({ "token": "nonsense" }), 401),
            ("ada", &id, json!({ "token": tokens::for_user("eve") }), 403),
        ] {
            let answer = app.patch(who, target, &body).await;
            assert_eq!(answer.status, status, "{who} {target} {body}: {}", answer.text());
        }
        let anonymous = http::request(app.addr, "PATCH", &format!("/v1/streams/{id}"), &[], b"{}").await;
        assert_eq!(anonymous.status, 401);
        stream.quiet(Duration::from_millis(300)).await;
        app.app.stop().await;
    }
}

/// b89: a token that ends is announced, can be renewed without a reconnect, and ends the stream if it is not.
#[tokio::test]
async fn b89_a_token_is_renewed_on_the_open_stream_or_ends_it() {
    for (world, app) in every_way().await {
        world.people(&[("ada", &["a"])]).await;
        world.document("d1", "eve", &[("ada", Role::Viewer)]).await;
        // Already over: only its leeway is left, and of that two seconds.
        let until = tokens::now_s() - 28;
        let token = format!("Bearer {}", tokens::for_user_until("ada", until));
        let path = "/v1/events?channels=jobs.a,docs.d1";
        let headers = [("Authorization", token.as_str())];
        let mut renewed = SseClient::connect(app.addr, path, &headers).await.unwrap();
        let mut left = SseClient::connect(app.addr, path, &headers).await.unwrap();
        let opening = renewed.until("token:expiring").await;
        let id = opening[0].text("connectionId").to_owned();
        assert!(opening.last().unwrap().data["expiresAt"].as_str().unwrap().starts_with("20"));
        let answer = app.patch("ada", &id, &json!({ "token": tokens::for_user("ada") })).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (events, _) = left.until_end(Duration::from_secs(10)).await;
        let end = events.last().unwrap();
        assert_eq!(
            (end.event.as_str(), end.text("reason"), &end.data["reconnect"]),
            ("end", "token_expired", &json!(false))
        );
        let late = tokens::now_s().saturating_sub(until + 30);
        assert!(late <= 1, "{late} s after the leeway");
        app.progress("a", 7).await;
        renewed.find("what came after the old token's end", |event| event.data["data"]["n"] == 7).await;
        app.app.stop().await;
    }
}
