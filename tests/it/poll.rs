//! What is special to long-poll: its waits, polls that overlap, edits between two of them, clients that go away.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::http::Response;
use crate::support::tokens;
use crate::support::wire::Wire;
use crate::support::ws::PollClient;

const POLLS: &str = "realtime_active_connections{transport=\"poll\"}";
async fn worlds() -> Vec<(World, [TestApp; 2])> {
    let mut worlds = Vec::new();
    for world in [World::redis().await.mixed(), World::full().await.mixed()] {
        world.people(&[("ada", &["a", "b", "c"])]).await;
        let apps = [world.start().await, world.start().await];
        worlds.push((world, apps));
    }
    worlds
}

async fn until_waiting(app: &TestApp, count: f64) {
    eventually("polls wait", SOON, async || (app.metric(POLLS) >= count).then_some(())).await;
}

async fn stop(apps: [TestApp; 2]) {
    for app in apps {
        app.until_empty().await;
        app.app.stop().await;
    }
}

async fn ask(app: &TestApp, rest: &str) -> Response {
    http::get(app.addr, &format!("/v1/poll?channels=jobs.a{rest}"), &tokens::for_user("ada")).await
}

/// A second poll of a session ends the first one at once, empty and where it was, at whichever instance either of them is.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_poll_of_a_session_ends_the_first() {
    for (_world, apps) in worlds().await {
        for (at, other) in [(0, 0), (0, 1), (1, 0)] {
            let query = format!("channels=jobs.a&session=session-{at}{other}");
            let token = tokens::for_user("ada");
            let mut first = PollClient::new(apps[at].addr, &query, &token, None);
            assert_eq!(first.poll(0).await.status, 200);
            let cursor = first.cursor().unwrap().to_owned();
            let mut second = PollClient::new(apps[other].addr, &query, &token, Some(&cursor));
            let begun = Instant::now();
            let superseded = async {
                let answer = first.poll(20).await;
                (answer.json(), begun.elapsed())
            };
            let taking_over = async {
                until_waiting(&apps[at], 1.0).await;
                let from = begun.elapsed();
                let waiting = second.poll(20);
                let told = async {
                    // Not before the first one has ended, or it would be that one's.
                    eventually("the first has ended", SOON, async || {
                        let waiting: f64 = apps.iter().map(|app| app.metric(POLLS)).sum();
                        (waiting == 1.0
                            && apps[other].metric(POLLS) == 1.0
                            && begun.elapsed() > from + Duration::from_millis(500))
                        .then_some(())
                    })
                    .await;
                    apps[at].progress("a", begun.elapsed().as_micros() as u64).await;
                };
                (from, tokio::join!(waiting, told).0.json())
            };
            let ((empty, ended), (from, told)) = tokio::join!(superseded, taking_over);
            assert!(ended - from < Duration::from_secs(10), "{:?}", ended - from);
            assert_eq!((&empty["cursor"], &empty["events"]), (&json!(cursor), &json!([])));
            assert_eq!(told["events"].as_array().unwrap().len(), 1, "{told}");
        }
        stop(apps).await;
    }
}

/// An edit between two polls counts for the next one, which tells the new channel's state, once.
#[tokio::test]
async fn an_edit_between_two_polls_is_told_once() {
    for (_world, apps) in worlds().await {
        apps[0].progress("b", 1).await;
        let query = "channels=jobs.a&session=session-edited";
        let mut client = PollClient::new(apps[0].addr, query, &tokens::for_user("ada"), None);
        client.poll(0).await;
        let patched = apps[1].patch("ada", "session-edited", &json!({ "subscribe": ["jobs.b"] })).await;
        assert_eq!(patched.status, 200, "{}", patched.text());
        while client.take().is_some() {}
        client.poll(5).await;
        let told: Vec<_> = std::iter::from_fn(|| client.take()).collect();
        assert_eq!(told.len(), 1, "{told:#?}");
        assert!(told[0].is_snapshot() && told[0].data["data"]["n"] == 1);
        assert_eq!(client.last["verdicts"].as_array().unwrap().len(), 2);
        client.poll(1).await;
        assert_eq!(client.last["events"], json!([]), "only once, or it would end every wait");
        // Another one, while nothing has happened: the cursor is where it was.
        let patched = apps[0].patch("ada", "session-edited", &json!({ "subscribe": ["jobs.c"] })).await;
        assert_eq!(patched.json()["channels"][0]["channel"], "jobs.c", "{}", patched.text());
        client.poll(5).await;
        assert!(client.last["events"].to_string().contains("\"jobId\":\"c\""), "{}", client.last);
        client.poll(1).await;
        assert_eq!(client.last["events"], json!([]), "only once");
        // A poll's cursor is good elsewhere.
        let token = tokens::for_user("ada");
        let cursor = client.cursor();
        let elsewhere = Client::open(Transport::Sse, apps[1].addr, &token, "channels=jobs.a", cursor).await;
        assert_eq!(elsewhere.unwrap().until("ready").await[0].data["channels"][0]["verdict"], "resumed");
        while client.take().is_some() {}
        apps[0].progress("b", 2).await;
        client.poll(5).await;
        assert_eq!(client.last["events"][0]["data"]["data"]["n"], 2);
        stop(apps).await;
    }
}

/// b72: whole seconds, the most is the most, and what is no number is refused.
#[tokio::test]
async fn b72_a_wait_is_a_whole_number_of_seconds() {
    for (_world, apps) in worlds().await {
        let [app, _] = &apps;
        let cursor = ask(app, "&wait=0").await.json()["cursor"].as_str().unwrap().to_owned();
        for wrong in ["-1", "NaN", "inf", "1.5", "%2B5", "1e3", "0x10", "%201", "\u{661}"] {
            let answer = ask(app, &format!("&cursor={cursor}&wait={wrong}")).await;
            assert_eq!((answer.status, answer.code().as_str()), (400, "INVALID_MESSAGE"), "{wrong:?}");
        }
        assert_eq!(ask(app, "&wait=1&wait=2").await.status, 400);
        let begun = Instant::now();
        assert_eq!(ask(app, &format!("&cursor={cursor}&wait=0")).await.json()["events"], json!([]));
        assert!(begun.elapsed() < Duration::from_secs(10));
        assert_eq!(ask(app, &format!("&cursor={cursor}&wait=1")).await.json()["events"], json!([]));
        assert!((1.0..3.0).contains(&begun.elapsed().as_secs_f64()), "{:?}", begun.elapsed());
        let mut cursor = cursor;
        for endless in ["1000000000", "18446744073709551615", "99999999999999999999999999999999"] {
            let wait = format!("&cursor={cursor}&wait={endless}");
            let n = begun.elapsed().as_micros() as u64;
            let told = async {
                until_waiting(app, 1.0).await;
                app.progress("a", n).await;
            };
            let (answer, ()) = tokio::join!(ask(app, &wait), told);
            assert!(answer.text().contains(&format!("\"n\":{n}")), "{}", answer.text());
            answer.json()["cursor"].as_str().unwrap().clone_into(&mut cursor);
        }
        stop(apps).await;
    }
}

/// b71: whoever goes away frees what they held, within a second, however many they are.
#[tokio::test(flavor = "multi_thread")]
async fn b71_polls_that_are_aborted_leave_nothing_behind() {
    let count = times(300, 3000);
    for (_world, apps) in worlds().await {
        let [app, _] = &apps;
        let cursor = ask(app, "&wait=0").await.json()["cursor"].as_str().unwrap().to_owned();
        let token = format!("Bearer {}", tokens::for_user("ada"));
        let path = format!("/v1/poll?channels=jobs.a,user.me&cursor={cursor}&wait=60");
        let request = http::bytes_of(app.addr, "GET", &path, &[("Authorization", &token)], b"");
        for turn in 0..3 {
            let waiting = join_all((0..count / 3).map(async |_| {
                let mut wire = Wire::connect(app.addr).await.unwrap();
                wire.send(&request).await.unwrap();
                wire
            }));
            let mut waiting = waiting.await;
            if turn < 2 {
                until_waiting(app, (count / 3) as f64).await;
            } // else: before anybody knows how far each of them has come
            waiting.iter_mut().filter(|_| turn == 1).for_each(|wire| drop(wire.stream().set_zero_linger()));
            drop(waiting);
            let what = "their slots and subscriptions are free";
            let patience = Duration::from_secs(if turn < 2 { 1 } else { 5 });
            eventually(what, patience, async || {
                (app.metric(POLLS) == 0.0 && app.metric("realtime_subscriptions") == 0.0).then_some(())
            })
            .await;
        }
        let binary = http::request(app.addr, "POST", "/v1/poll", &[("Authorization", &token)], &[0xFF; 64]).await;
        assert_eq!(binary.status, 405);
        assert_eq!(ask(app, "&wait=0").await.status, 200);
        stop(apps).await;
    }
}
