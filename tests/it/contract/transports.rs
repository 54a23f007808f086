//! What a stream promises, the same over every transport: on each broker and each database, on both ways to the socket.

use futures_util::future::join_all;
use serde_json::Value;
use serde_json::json;
use tidings::store::Role;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http::Response;
use crate::support::sse::SseEvent;
use crate::support::tokens;
use crate::support::wire::narrow;

/// One transport at one of two instances of a world: streams are written by their lanes in one of them, by tasks in the other. Without
/// Redis nothing joins the two, so there the other one is the same.
struct Case<'a> {
    world: &'a World,
    here: &'a TestApp,
    there: &'a TestApp,
    transport: Transport,
    /// A user of this case alone, who owns the jobs `{name}-a` and `{name}-b`.
    name: String,
}

impl Case<'_> {
    fn job(&self, job: &str) -> String {
        format!("{}-{job}", self.name)
    }

    fn channel(&self, job: &str) -> String {
        format!("jobs.{}-{job}", self.name)
    }

    fn channels(&self) -> String {
        format!("channels={},{},user.me", self.channel("a"), self.channel("b"))
    }

    async fn try_open(&self, query: &str, cursor: Option<&str>) -> Result<Client, Response> {
        Client::open(self.transport, self.here.addr, &tokens::for_user(&self.name), query, cursor).await
    }

    async fn open(&self, query: &str, cursor: Option<&str>) -> Client {
        let opened = self.try_open(query, cursor).await;
        opened.unwrap_or_else(|answer| panic!("{}: {} {}", self.name, answer.status, answer.text()))
    }

    async fn progress(&self, job: &str, n: u64) {
        self.here.progress(&self.job(job), n).await;
    }

    async fn completed(&self, job: &str) {
        self.here.update(&self.job(job), json!({ "status": "completed" })).await;
    }

    async fn notify(&self, n: u64) {
        self.here.publish(json!({ "channel": format!("user.{}", self.name), "data": { "n": n } })).await;
    }

    /// A document of somebody else, which this case's user may see.
    async fn shared_document(&self, document: &str) -> String {
        let document = self.job(document);
        self.world.document(&document, "owner", &[(&self.name, Role::Viewer)]).await;
        document
    }

    async fn says(&self, document: &str, n: u64) {
        self.here.publish(json!({ "channel": format!("docs.{document}"), "data": { "n": n } })).await;
    }

    async fn revoke(&self, document: &str) {
        self.world.store.remove_role(&id(document), &id(&self.name)).await.unwrap();
    }
}

/// Runs a scenario at every instance of these worlds over these transports, all at once: they must not get in each other's way.
async fn in_worlds(worlds: Vec<World>, transports: &[Transport], scenario: impl AsyncFn(&Case<'_>)) {
    let scenario = &scenario;
    let running = worlds.into_iter().map(async |world| {
        let world = world.mixed();
        let apps = [world.start().await, world.start().await];
        for app in &apps {
            app.until_announced().await;
        }
        let shared = !world.config.redis_url.expose().is_empty();
        let mut cases = Vec::new();
        for (at, here) in apps.iter().enumerate() {
            let there = if shared { &apps[1 - at] } else { here };
            for transport in transports.iter().copied() {
                let name = format!("ada-{}-{at}", transport.as_str());
                let case = Case { world: &world, here, there, transport, name };
                let jobs = [case.job("a"), case.job("b")];
                world.people(&[(&case.name, &[&jobs[0], &jobs[1]]), ("owner", &["secret"])]).await;
                cases.push(case);
            }
        }
        join_all(cases.iter().map(|case| scenario(case))).await;
        drop(cases);
        for app in apps {
            app.until_empty().await;
            app.app.stop().await;
        }
    });
    join_all(running).await;
}

async fn worlds() -> Vec<World> {
    let secured = World::embedded().await.secured();
    vec![World::embedded().await, secured, World::postgres().await, World::redis().await, World::full().await]
}

async fn everywhere(scenario: impl AsyncFn(&Case<'_>)) {
    in_worlds(worlds().await, &Transport::ALL, scenario).await;
}

fn names(events: &[SseEvent]) -> Vec<&str> {
    events.iter().map(|event| event.event.as_str()).filter(|name| *name != "heartbeat").collect()
}

/// What was said, in order: the `n` of updates and of publications.
fn numbers(events: &[SseEvent]) -> Vec<u64> {
    events.iter().filter_map(|e| e.data["data"]["n"].as_u64().or_else(|| e.data["n"].as_u64())).collect()
}

/// The same of what happened, without what only tells the present; each has its own cursor.
fn changes(events: &[SseEvent]) -> Vec<u64> {
    let changes: Vec<SseEvent> = events.iter().filter(|event| !event.is_snapshot()).cloned().collect();
    assert!(changes.iter().all(|event| event.has_id || numbers(std::slice::from_ref(event)).is_empty()));
    numbers(&changes)
}

fn verdicts(connected: &SseEvent) -> Vec<&str> {
    connected.data["channels"].as_array().unwrap().iter().map(|entry| entry["verdict"].as_str().unwrap()).collect()
}

/// A beginning tells the present, and then what happens.
#[tokio::test]
async fn a_new_stream_is_told_the_state_and_then_what_changes() {
    everywhere(async |case: &Case<'_>| {
        case.progress("a", 1).await;
        let mut client = case.open(&case.channels(), None).await;
        let opening = client.until("ready").await;
        assert_eq!(names(&opening), ["connected", "job:update", "job:update", "ready"], "{}", case.name);
        assert_eq!(verdicts(&opening[0]), ["live"; 3]);
        assert!(opening[1..3].iter().all(|event| event.is_snapshot() && !event.has_id));
        assert_eq!(numbers(&opening), [1], "the other job has only its row");
        assert!(opening[3].has_id);
        case.progress("a", 2).await;
        case.notify(3).await;
        case.completed("b").await;
        let live = client.until_that("the end of the job", |event| event.data["terminal"] == true).await;
        assert_eq!((names(&live), numbers(&live)), (vec!["job:update", "notification", "job:update"], vec![2, 3]));
        assert!(live.iter().filter(|event| event.event != "heartbeat").all(|event| event.has_id));
    })
    .await;
}

/// After a cursor everything that was logged follows, once and in order; a state that is not part of it was told before.
#[tokio::test]
async fn after_a_cursor_nothing_is_missing_and_nothing_comes_twice() {
    everywhere(async |case: &Case<'_>| {
        let mut client = case.open(&case.channels(), None).await;
        client.until("ready").await;
        case.progress("a", 1).await;
        client.find("the update", |event| event.data["data"]["n"] == 1).await;
        let cursor = client.cursor().unwrap().to_owned();
        drop(client);
        case.progress("a", 2).await;
        case.notify(3).await;
        case.progress("b", 4).await;
        let mut client = case.open(&case.channels(), Some(&cursor)).await;
        let replay = client.until_that("the last", |event| event.data["data"]["n"] == 4).await;
        assert_eq!((verdicts(&replay[0]), changes(&replay)), (vec!["resumed"; 3], vec![2, 3, 4]), "{}", case.name);
        case.progress("a", 5).await;
        assert_eq!(changes(&client.until_that("the next", |event| event.data["data"]["n"] == 5).await), [5]);
    })
    .await;
}

/// What is no cursor costs a reset and the present, not an error.
#[tokio::test]
async fn garbage_instead_of_a_cursor_is_a_reset() {
    everywhere(async |case: &Case<'_>| {
        case.progress("a", 1).await;
        for garbage in ["yesterday", "0-0", "zzzzzzzzzzzz.5-0"] {
            let mut client = case.open(&format!("channels={}", case.channel("a")), Some(garbage)).await;
            let opening = client.until("ready").await;
            assert_eq!(names(&opening), ["connected", "reset", "job:update", "ready"], "{} {garbage}", case.name);
            assert_eq!(verdicts(&opening[0]), ["reset"]);
            assert_eq!((opening[1].text("reason"), numbers(&opening)), ("cursor_unknown", vec![1]));
        }
    })
    .await;
}

/// What may not be seen is named, and the rest opens; of nothing, nothing opens.
#[tokio::test]
async fn what_is_denied_is_said_and_the_rest_is_served() {
    everywhere(async |case: &Case<'_>| {
        let query = format!("channels=nonsense,{},jobs.secret,jobs.nowhere,docs.nowhere", case.channel("a"));
        let mut client = case.open(&query, None).await;
        let connected = client.until("ready").await.remove(0);
        let mut denied: Vec<(String, String)> = serde_json::from_value::<Vec<Value>>(connected.data["denied"].clone())
            .unwrap()
            .iter()
            .map(|entry| (entry["channel"].as_str().unwrap().to_owned(), entry["code"].as_str().unwrap().to_owned()))
            .collect();
        denied.sort();
        let expected = [
            ("docs.nowhere", "PERMISSION_DENIED"),
            ("jobs.nowhere", "PERMISSION_DENIED"),
            ("jobs.secret", "PERMISSION_DENIED"),
            ("nonsense", "CHANNEL_NOT_FOUND"),
        ];
        assert_eq!(denied, expected.map(|(channel, code)| (channel.to_owned(), code.to_owned())), "{}", case.name);
        for (query, status, code) in [
            ("channels=jobs.secret,nonsense", 403, "PERMISSION_DENIED"),
            ("channels=nonsense", 404, "CHANNEL_NOT_FOUND"),
        ] {
            let refused = case.try_open(query, None).await.unwrap_err();
            assert_eq!((refused.status, refused.code().as_str()), (status, code), "{}", case.name);
        }
        // Said by somebody who may: it goes nowhere else.
        case.here.progress("secret", 1).await;
        case.progress("a", 2).await;
        assert_eq!(numbers(&client.until("job:update").await), [2]);
    })
    .await;
}

/// A permission that is taken away takes its channel, and a replay does not bring it back.
#[tokio::test]
async fn a_revoked_channel_leaves_and_is_not_replayed() {
    everywhere(async |case: &Case<'_>| {
        let document = case.shared_document("d").await;
        let query = format!("{},docs.{document}", case.channels());
        let mut client = case.open(&query, None).await;
        client.until("ready").await;
        case.says(&document, 1).await;
        client.find("what may be seen", |event| event.data["n"] == 1).await;
        let before = client.cursor().unwrap().to_owned();
        case.revoke(&document).await;
        let left = client.until("unsubscribed").await.pop().unwrap();
        assert_eq!((left.text("channel"), left.text("code")), (&*format!("docs.{document}"), "PERMISSION_DENIED"));
        case.says(&document, 2).await;
        case.progress("a", 3).await;
        let heard = client.until_that("the job", |event| event.data["data"]["n"] == 3).await;
        assert_eq!(numbers(&heard), [3], "{}", case.name);
        let mut again = case.open(&query, Some(&before)).await;
        let replay = again.until_that("the job", |event| event.data["data"]["n"] == 3).await;
        assert_eq!(replay[0].data["denied"][0]["channel"], format!("docs.{document}"));
        assert_eq!(numbers(&replay), [3], "{}", case.name);
        assert_eq!(case.try_open(&format!("channels=docs.{document}"), Some(&before)).await.unwrap_err().status, 403);
    })
    .await;
}

/// The last permission ends the stream.
#[tokio::test]
async fn a_stream_of_which_nothing_is_left_ends() {
    everywhere(async |case: &Case<'_>| {
        let document = case.shared_document("d").await;
        let mut client = case.open(&format!("channels=docs.{document}"), None).await;
        client.until("ready").await;
        case.revoke(&document).await;
        let heard = client.until_end(SOON).await;
        match heard.iter().find(|event| event.event == "end") {
            Some(end) => {
                assert_eq!((end.text("reason"), end.text("code")), ("revoked", "PERMISSION_DENIED"));
                assert_eq!(end.data["reconnect"], false);
            }
            None => assert_eq!(case.transport, Transport::Poll, "between two polls only the next one can say it"),
        }
        match case.transport {
            Transport::Sse => {}
            Transport::Ws => assert_eq!(client.end_code(), Some(4403)),
            Transport::Poll => assert_eq!(client.end_code(), Some(403)),
        }
    })
    .await;
}

/// A credential's end is the stream's, within a second of the leeway, and nothing is delivered after it.
#[tokio::test]
async fn an_expired_token_ends_the_stream() {
    everywhere(async |case: &Case<'_>| {
        let exp = tokens::now_s() - 28;
        let token = tokens::for_user_until(&case.name, exp);
        let mut client = Client::open(case.transport, case.here.addr, &token, &case.channels(), None).await.unwrap();
        // How soon that is, is shown in tests/it/expiries.rs.
        let heard = client.until_end(SOON).await;
        let end = heard.iter().find(|event| event.event == "end");
        if let Some(end) = end {
            assert_eq!((end.text("reason"), end.text("code")), ("token_expired", "AUTH_REQUIRED"));
            assert_eq!(end.data["reconnect"], false);
        }
        assert!(end.is_some() || case.transport == Transport::Poll, "{heard:#?}");
        let refused = Client::open(case.transport, case.here.addr, &token, &case.channels(), client.cursor()).await;
        assert_eq!(refused.unwrap_err().status, 401);
    })
    .await;
}

/// The jobs' last end ends the stream, and whoever knows it is not served again.
#[tokio::test]
async fn until_done_ends_with_the_last_job() {
    everywhere(async |case: &Case<'_>| {
        let query = format!("channels={},{}&until=done", case.channel("a"), case.channel("b"));
        let mut client = case.open(&query, None).await;
        client.until("ready").await;
        let begun = client.cursor().unwrap().to_owned();
        case.completed("a").await;
        client.find("one end", |event| event.data["terminal"] == true).await;
        assert!(!client.has_ended());
        case.completed("b").await;
        let heard = client.until_end(SOON).await;
        assert!(heard.iter().any(|event| event.data["terminal"] == true), "{heard:#?}");
        match heard.iter().find(|event| event.event == "end") {
            Some(end) => assert_eq!((end.text("reason"), &end.data["reconnect"]), ("done", &json!(false))),
            None => assert_eq!(case.transport, Transport::Poll),
        }
        let cursor = client.cursor().unwrap().to_owned();
        assert_eq!(case.try_open(&query, Some(&cursor)).await.unwrap_err().status, 204, "{}", case.name);
        // Whoever does not know it yet is told, and ended again.
        let mut late = case.open(&query, Some(&begun)).await;
        let heard = late.until_end(SOON).await;
        assert_eq!(heard.iter().filter(|event| event.data["terminal"] == true).count(), 2, "{heard:#?}");
    })
    .await;
}

/// A cursor is good at every instance and on every transport: from each to each, around a circle, while things happen.
#[tokio::test]
async fn a_cursor_is_good_on_every_transport_and_instance() {
    everywhere(async |case: &Case<'_>| {
        let token = tokens::for_user(&case.name);
        let mut client = case.open(&case.channels(), None).await;
        client.until("ready").await;
        let mut n = 0;
        for turn in 0..2 {
            for transport in Transport::ALL {
                n += 1;
                case.progress("a", n).await;
                let seen = client.until_that("the newest", |event| event.data["data"]["n"] == n).await;
                assert_eq!(changes(&seen), [n], "{}", case.name);
                let cursor = client.cursor().unwrap().to_owned();
                drop(client);
                case.notify(n + 1).await;
                case.progress("b", n + 2).await;
                let app = if turn == 0 { case.there } else { case.here };
                client = Client::open(transport, app.addr, &token, &case.channels(), Some(&cursor)).await.unwrap();
                let replay = client.until_that("the last", |event| event.data["data"]["n"] == n + 2).await;
                assert_eq!(verdicts(&replay[0]), ["resumed"; 3]);
                assert_eq!(changes(&replay), [n + 1, n + 2], "{} to {transport:?}", case.name);
                n += 2;
            }
        }
    })
    .await;
}

/// A PATCH through the other instance reaches the stream. Polls are a stream by their session.
#[tokio::test]
async fn an_edit_through_another_instance_reaches_the_stream() {
    everywhere(async |case: &Case<'_>| {
        let session = format!("session-{}", case.name);
        case.progress("b", 1).await;
        let mut client = case.open(&format!("channels={}&session={session}", case.channel("a")), None).await;
        client.until("ready").await;
        let answer = case.there.patch(&case.name, &session, &json!({ "subscribe": [case.channel("b")] })).await;
        assert_eq!(answer.status, 200, "{} {}", case.name, answer.text());
        let snapshot = client.find("the new channel's state", SseEvent::is_snapshot).await;
        assert_eq!(snapshot.data["data"]["n"], 1);
        case.progress("b", 2).await;
        assert_eq!(numbers(&client.until("job:update").await), [2], "{}", case.name);
        let wish = json!({ "unsubscribe": [case.channel("b")] });
        assert_eq!(case.there.patch(&case.name, &session, &wish).await.status, 200);
        if case.transport != Transport::Poll {
            client.until("unsubscribed").await;
        }
        case.progress("b", 3).await;
        case.progress("a", 4).await;
        assert_eq!(numbers(&client.until_that("the job", |e| e.data["data"]["n"] == 4).await), [4], "{}", case.name);
    })
    .await;
}

/// Whoever stops reading is ended, nobody else notices, and nothing is lost after the cursor. A poll is one answer: what is beyond its
/// bound comes with the next, so there is no slow one.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_is_ended_and_resumes_without_loss() {
    let mut worlds = worlds().await;
    worlds.iter_mut().for_each(|world| world.config.outbox_events_max = 8);
    in_worlds(worlds, &Transport::STREAMS, async |case: &Case<'_>| {
        let mut slow = narrow(case.open("channels=user.me", None)).await;
        slow.until("ready").await;
        let mut honest = case.open("channels=user.me", None).await;
        honest.until("ready").await;
        let filler = "x".repeat(48 * 1024);
        let count = 90;
        for n in 1..=count {
            let data = json!({ "n": n, "filler": filler });
            case.here.publish(json!({ "channel": format!("user.{}", case.name), "data": data })).await;
            assert_eq!(numbers(&honest.until("notification").await), [n]);
        }
        let events = slow.until_end(SOON).await;
        let got = numbers(&events);
        assert!(got.len() < count as usize, "{} fell behind", case.name);
        assert_eq!(got, (1..=got.len() as u64).collect::<Vec<_>>());
        if let Some(end) = events.iter().find(|event| event.event == "end") {
            assert_eq!((end.text("reason"), &end.data["reconnect"]), ("slow", &json!(true)));
            assert!(case.transport != Transport::Ws || slow.end_code() == Some(4408));
        }
        let mut again = case.open("channels=user.me", slow.cursor()).await;
        let replay = numbers(&again.until_that("the last", |event| event.data["n"] == count).await);
        assert_eq!(replay, (got.len() as u64 + 1..=count).collect::<Vec<_>>(), "{}", case.name);
    })
    .await;
}

/// An instance that leaves says so on every transport, and what happens meanwhile comes by the cursor, elsewhere.
#[tokio::test]
async fn a_drain_is_told_and_the_cursor_goes_on_elsewhere() {
    for world in worlds().await {
        let world = world.mixed();
        world.people(&[("ada", &["a"])]).await;
        let mut survivor = world.start().await;
        let shared = !world.config.redis_url.expose().is_empty();
        let token = tokens::for_user("ada");
        for turn in 1..=2 {
            let leaving = std::mem::replace(&mut survivor, world.start().await);
            let opened = Transport::ALL.map(async |transport| {
                let mut client = Client::open(transport, leaving.addr, &token, "channels=jobs.a", None).await.unwrap();
                client.until("ready").await;
                client
            });
            let clients = join_all(opened).await;
            let heard = clients.into_iter().map(async |mut client| {
                let heard = client.until_end(SOON).await;
                if let Some(end) = heard.iter().find(|event| event.event == "end") {
                    assert_eq!((end.text("reason"), &end.data["reconnect"]), ("drain", &json!(true)), "{client:?}");
                    assert!(client.transport != Transport::Ws || client.end_code() == Some(1001));
                } else {
                    panic!("{:?} is not told: {heard:#?}", client.transport);
                }
                client
            });
            let (clients, ()) = tokio::join!(join_all(heard), leave(&leaving));
            if shared {
                survivor.progress("a", turn).await;
                let cursor = clients[0].cursor().unwrap().to_owned();
                for client in clients {
                    let opened =
                        Client::open(client.transport, survivor.addr, &token, "channels=jobs.a", Some(&cursor));
                    let mut resumed = opened.await.unwrap();
                    let replay = resumed.until_that("the update", |event| event.data["data"]["n"] == turn).await;
                    assert_eq!(numbers(&replay), [turn], "{:?}", client.transport);
                }
            }
        }
        survivor.app.stop().await;
    }
}

/// Drains it while a poll waits.
async fn leave(app: &TestApp) {
    eventually("a poll waits", SOON, async || {
        (app.metric("realtime_active_connections{transport=\"poll\"}") == 1.0).then_some(())
    })
    .await;
    app.app.drain().await;
}
