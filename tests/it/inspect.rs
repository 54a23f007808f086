//! The inspector against real servers: why somebody did or did not get an event, asked of any instance, for each transport.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use tidings::store::Role;
use tokio::time::Instant;

use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::browser::Browser;
use crate::support::child::free_port;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::http::Response;
use crate::support::pace;
use crate::support::process::Server;
use crate::support::redis::RedisServer;
use crate::support::tokens;
use crate::support::wire::narrow;

/// An instance with an inspector.
struct Seen {
    app: TestApp,
    port: SocketAddr,
}

async fn start(world: &mut World) -> Seen {
    world.config.inspector = true;
    world.config.metrics_port = free_port();
    let app = world.start().await;
    let port = app.app.metrics_address.unwrap();
    Seen { app, port }
}

async fn get(port: SocketAddr, path: &str) -> Response {
    http::request(port, "GET", path, &[], b"").await
}

impl Seen {
    async fn explain(&self, user: &str, channel: &str, event: &str) -> Value {
        let path = format!("/inspect/explain?user={user}&channel={channel}&event={event}");
        let answer = get(self.port, &path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer.json()
    }

    /// What became of an event, for the newest life that any instance knows.
    async fn fate(&self, user: &str, channel: &str, event: &str) -> (String, String) {
        let told = self.explain(user, channel, event).await;
        assert_eq!(told["complete"], true, "{told}");
        let lives = told["instances"].as_array().unwrap().iter().flat_map(|one| one["lives"].as_array().unwrap());
        let newest = lives.max_by_key(|life| (life["ended"].is_null(), life["openedMs"].as_u64()));
        let fate = &newest.unwrap_or_else(|| panic!("no life: {told}"))["fates"][0];
        (fate["outcome"].as_str().unwrap().to_owned(), fate["says"].as_str().unwrap().to_owned())
    }

    /// The instance has read so far: what is opened now begins after it.
    async fn has_read(&self, cursor: &str) {
        let at: tidings::event::Cursor = cursor.parse().unwrap();
        assert!(self.app.app.shared.sessions.hub.window().reached(at.at, SOON).await);
    }

    async fn until_fate(&self, user: &str, channel: &str, event: &str, outcome: &str) -> String {
        let mut last = (String::new(), String::new());
        for _ in 0..150 {
            last = self.fate(user, channel, event).await;
            if last.0 == outcome {
                return last.1;
            }
            pace(Duration::from_millis(100)).await;
        }
        panic!("{channel} {event} is not {outcome} but {last:?}")
    }
}

async fn open(seen: &Seen, transport: Transport, user: &str, query: &str, cursor: Option<&str>) -> Client {
    let mut client = Client::open(transport, seen.app.addr, &tokens::for_user(user), query, cursor).await.unwrap();
    client.until("ready").await;
    client
}

fn cursor(receipt: &Value) -> String {
    receipt["cursor"].as_str().unwrap().to_owned()
}

/// The in-process broker, and Redis; each on both ways to the socket. With Redis the question is put to another instance.
async fn worlds() -> Vec<(World, Seen, Option<Seen>)> {
    let mut worlds = Vec::new();
    for takeover in [true, false] {
        let mut alone = World::embedded().await;
        alone.config.sse_takeover = takeover;
        let only = start(&mut alone).await;
        worlds.push((alone, only, None));
        let mut shared = World::redis().await;
        shared.config.sse_takeover = takeover;
        let (one, two) = (start(&mut shared).await, start(&mut shared).await);
        worlds.push((shared, one, Some(two)));
    }
    worlds
}

/// The whole life of a stream on each transport, asked from wherever one likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_life_is_told_as_it_was() {
    for (world, one, two) in worlds().await {
        world.people(&[("ada", &["a", "b"])]).await;
        world.document("d", "ada", &[]).await;
        let asked = two.as_ref().unwrap_or(&one);
        for (transport, base) in Transport::ALL.into_iter().zip([0, 10, 20]) {
            let early = cursor(&one.app.progress("a", base + 1).await);
            one.has_read(&early).await;
            let mut client = open(&one, transport, "ada", "channels=jobs.a,docs.none&session=tab-0001", None).await;
            let event = cursor(&one.app.progress("a", base + 2).await);
            client.find("the update", |event| event.data["data"]["n"] == base + 2).await;
            let says = asked.until_fate("ada", "jobs.a", &event, "written").await;
            let how = match (transport, one.app.app.shared.config.sse_takeover) {
                (Transport::Poll, _) => "in the answer of a poll",
                (_, true) => "written to the socket",
                (_, false) => "handed to the connection",
            };
            assert!(says.contains(how), "{transport:?}: {says}");
            assert_eq!(asked.fate("ada", "jobs.a", &early).await.0, "before");
            let other = cursor(&one.app.progress("b", base + 3).await);
            asked.until_fate("ada", "jobs.b", &other, "not_subscribed").await;
            let document = cursor(&one.app.publish(json!({ "channel": "docs.none", "data": {} })).await);
            let says = asked.until_fate("ada", "docs.none", &document, "denied").await;
            assert!(says.contains("PERMISSION_DENIED"), "{says}");
            let resume = client.cursor().unwrap().to_owned();
            drop(client);
            eventually("it has ended", SOON, async || {
                let told = asked.explain("ada", "jobs.a", &event).await;
                let lives = told["instances"].as_array().unwrap().iter().flat_map(|i| i["lives"].as_array().unwrap());
                lives.clone().all(|life| !life["ended"].is_null()).then_some(())
            })
            .await;
            let late = cursor(&one.app.progress("a", base + 4).await);
            let wanted = if transport == Transport::Poll { "after|not_written" } else { "after" };
            let (outcome, says) = asked.fate("ada", "jobs.a", &late).await;
            assert!(wanted.contains(&outcome), "{transport:?}: {outcome}: {says}");
            let mut again = open(&one, transport, "ada", "channels=jobs.a&session=tab-0001", Some(&resume)).await;
            let says = asked.until_fate("ada", "jobs.a", &late, "written").await;
            assert!(transport == Transport::Poll || says.contains("replay"), "{transport:?}: {says}");
            if transport == Transport::Poll {
                let told = asked.explain("ada", "jobs.a", &late).await;
                let lives = told["instances"].as_array().unwrap().iter().flat_map(|i| i["lives"].as_array().unwrap());
                let polls: Vec<&Value> = lives.filter(|life| life["transport"] == "poll").collect();
                assert!(polls.len() == 1 && polls[0]["connections"].as_u64() > Some(1), "one life: {told}");
            } else {
                one.app.patch("ada", "tab-0001", &json!({ "unsubscribe": ["jobs.a"], "subscribe": ["docs.d"] })).await;
                again.until("subscribed").await;
                let gone = cursor(&one.app.progress("a", base + 5).await);
                let says = asked.until_fate("ada", "jobs.a", &gone, "left").await;
                assert!(says.contains("request"), "{says}");
                let there = cursor(&one.app.publish(json!({ "channel": "docs.d", "data": {} })).await);
                asked.until_fate("ada", "docs.d", &there, "written").await;
                assert_eq!(asked.fate("ada", "docs.d", &late).await.0, "not_yet_subscribed");
                one.app.patch("ada", "tab-0001", &json!({ "subscribe": ["jobs.a"], "unsubscribe": ["docs.d"] })).await;
                again.until("subscribed").await;
            }
            drop(again);
            one.app.until_empty().await;
        }
        let nobody = one.explain("eve", "jobs.a", "").await;
        let says = nobody["says"].as_array().unwrap();
        assert!(says.iter().any(|line| line == "there is no user eve"), "{nobody}");
        for seen in [Some(one), two].into_iter().flatten() {
            seen.app.app.stop().await;
        }
    }
}

/// What is taken away while a stream is open, and a request that was refused as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn revocations_and_refusals_are_told() {
    let mut world = World::full().await;
    world.config.rate_limit_connections_per_user = 1;
    let one = start(&mut world).await;
    one.app.until_announced().await;
    world.people(&[("ada", &["a"]), ("eve", &[])]).await;
    world.document("d", "eve", &[("ada", Role::Viewer)]).await;
    let mut client = open(&one, Transport::Sse, "ada", "channels=jobs.a,docs.d", None).await;
    world.store.remove_role(&id("d"), &id("ada")).await.unwrap();
    client.until("unsubscribed").await;
    let event = cursor(&one.app.publish(json!({ "channel": "docs.d", "data": {} })).await);
    let says = one.until_fate("ada", "docs.d", &event, "left").await;
    assert!(says.contains("revoked"), "{says}");
    let told = one.explain("ada", "docs.d", &event).await;
    assert_eq!(told["permission"], "denied");
    let refused = one.app.try_stream("eve", "channels=jobs.a", &[]).await.unwrap_err().answer();
    assert_eq!(refused.status, 403);
    let told = one.explain("eve", "jobs.a", "").await;
    assert_eq!(told["instances"][0]["refusals"][0]["what"], "PERMISSION_DENIED", "{told}");
    let recent = get(one.port, "/inspect/instances?recent=1").await.json();
    let recent = &recent["instances"][0]["recent"];
    assert_eq!(
        (&recent["revocations"][0]["what"], &recent["revocations"][0]["channels"]),
        (&json!("revoked"), &json!("docs.d"))
    );
    assert_eq!(recent["refusals"][0]["user"], "eve");
    let known = [("X-Tidings-Client", "1")];
    assert_eq!(one.app.try_stream("ada", "channels=jobs.a", &known).await.unwrap_err().answer().status, 429);
    let recent = get(one.port, "/inspect/instances?recent=1").await.json();
    let limit = &recent["instances"][0]["recent"]["limits"][0];
    assert_eq!((&limit["user"], &limit["what"]), (&json!("ada"), &json!("connections")));
    one.app.app.stop().await;
}

/// A client that does not read: what waits, what was superseded, and what was thrown away when it was too slow.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_lags_is_told_apart() {
    for transport in Transport::STREAMS {
        for takeover in [true, false] {
            let mut world = World::embedded().await;
            world.config.sse_takeover = takeover;
            world.config.outbox_events_max = 32;
            let one = start(&mut world).await;
            world.people(&[("ada", &["a"])]).await;
            let client = narrow(open(&one, transport, "ada", "channels=jobs.a,user.me", None)).await;
            let bulk = "x".repeat(14_000);
            let update = |n: u64| json!({ "status": "running", "data": { "n": n, "bulk": bulk } });
            let mut cursors = Vec::new();
            // More than the kernel takes, and more than a quarter of the outbox.
            let superseded = eventually("it lags", SOON, async || {
                for _ in 0..20 {
                    cursors.push(cursor(&one.app.update("a", update(cursors.len() as u64)).await));
                }
                let lags = one.app.metric("realtime_conflated_total{channel=\"jobs\"}") > 0.0;
                // It may have caught up again: the kernel takes more than at first.
                for _ in 0..3 {
                    if !lags || one.fate("ada", "jobs.a", cursors.last().unwrap()).await.0 != "queued" {
                        return None;
                    }
                    pace(Duration::from_millis(100)).await;
                }
                Some(())
            });
            superseded.await;
            let newest = cursors.last().unwrap();
            let says = one.until_fate("ada", "jobs.a", newest, "queued").await;
            assert!(says.contains("waits for the client"), "{says}");
            let before = &cursors[cursors.len() - 2];
            let says = one.until_fate("ada", "jobs.a", before, "conflated").await;
            assert!(says.contains("the newer one at"), "{says}");
            assert_eq!(one.fate("ada", "jobs.a", &cursors[0]).await.0, "written", "{transport:?} {takeover}");
            let told = one.explain("ada", "jobs.a", newest).await;
            assert!(told["instances"][0]["lives"][0]["waiting"]["events"].as_u64() > Some(0), "{told}");
            // What must not be missed does not fit at last.
            let publish = || one.app.publish(json!({ "channel": "user.ada", "data": { "bulk": bulk } }));
            let first = cursor(&publish().await);
            one.until_fate("ada", "user.ada", &first, "queued").await;
            for _ in 0..32 {
                publish().await;
            }
            let says = one.until_fate("ada", "user.ada", &first, "not_written").await;
            assert!(says.contains("closed") || says.contains("slow"), "{transport:?} {takeover}: {says}");
            eventually("its end is told", Duration::from_secs(20), async || {
                let (_, says) = one.fate("ada", "user.ada", &first).await;
                says.contains("(slow)").then_some(())
            })
            .await;
            let after = cursor(&publish().await);
            one.until_fate("ada", "user.ada", &after, "after").await;
            let recent = get(one.port, "/inspect/instances?recent=1").await.json();
            assert_eq!(recent["instances"][0]["recent"]["limits"][0]["what"], "slow");
            drop(client);
            one.app.app.stop().await;
        }
    }
}

/// Whether there is such an event at all.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_what_it_knows_of_an_event() {
    let mut world = World::redis().await;
    world.config.window_entries_max = 1000;
    let one = start(&mut world).await;
    world.people(&[("ada", &["a", "b"])]).await;
    let logged = async |event: &str| one.explain("ada", "jobs.a", event).await["events"][0]["logged"].clone();
    let event = cursor(&one.app.progress("a", 1).await);
    eventually("it is logged", SOON, async || (logged(&event).await == "logged").then_some(())).await;
    let other = cursor(&one.app.progress("b", 1).await);
    eventually("it is there", SOON, async || (logged(&other).await == "other_channel").then_some(())).await;
    let found = one.explain("ada", "jobs.a", &event).await["events"][0].clone();
    assert_eq!((&found["event"], &found["cursor"]), (&json!("job:update"), &json!(event)));
    assert!(found["bytes"].as_u64() > Some(10) && found.get("data").is_none(), "{found}");
    let (ms, _) = found["at"].as_str().unwrap().split_once('-').unwrap();
    let ms: u64 = ms.parse().unwrap();
    assert_eq!(logged(&format!("{ms}-777")).await, "no_such_entry");
    assert_eq!(logged(&format!("{}-0", ms + 10_000_000)).await, "not_yet");
    let (head, print) = event.rsplit_once('.').unwrap();
    assert_eq!(logged(&format!("{head}.{}", if print == "1" { "2" } else { "1" })).await, "rewritten");
    // An update that was judged and dropped: its entry says so.
    one.app.update("b", json!({ "status": "completed" })).await;
    let late = json!({ "jobId": "b", "status": "running" }).to_string();
    assert!(RedisServer::shared().await.publish(&world.config.job_updates_channel, late).await > 0);
    let newest = async || get(one.port, "/inspect/log?max=1").await.json()["entries"][0].clone();
    let dropped = eventually("it is judged", SOON, async || {
        let newest = newest().await;
        (newest["logged"] == "rejected").then_some(newest)
    })
    .await;
    assert_eq!(dropped["channel"], "jobs.b");
    let told = one.explain("ada", "jobs.b", dropped["at"].as_str().unwrap()).await;
    assert!(told["says"][0].as_str().unwrap().contains("judged here and dropped"), "{told}");
    assert_eq!(told["instances"][0]["rejections"][0]["what"], "redis: terminal", "{told}");
    assert!(told["says"].to_string().contains("that was dropped: redis: terminal"), "{told}");
    // Beyond the window the log itself is asked.
    for n in 0..1010 {
        one.app.progress("a", n + 10).await;
    }
    eventually("the window is full", SOON, async || {
        let floor = get(one.port, "/inspect/log?max=1").await.json()["log"]["floor"].as_str().unwrap().to_owned();
        (floor.split_once('-').unwrap().0.parse::<u64>().unwrap() > ms).then_some(())
    })
    .await;
    assert_eq!(logged(&event).await, "logged", "from the log");
    assert_eq!(logged("1-0").await, "trimmed");
    assert_eq!(logged(&format!("{ms}-777")).await, "no_such_entry");
    assert_eq!(get(one.port, "/inspect/log?max=3").await.json()["entries"].as_array().unwrap().len(), 3);
    one.app.app.stop().await;
}

/// Off unless it is asked for, and never on the public port.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_off_by_default_and_never_public() {
    let routes = [
        "/inspect",
        "/inspect/page.js",
        "/inspect/instances",
        "/inspect/log",
        "/inspect/streams?user=a",
        "/inspect/explain?user=a&channel=jobs.a",
    ];
    let mut world = World::embedded().await;
    world.config.metrics_port = free_port();
    let off = world.start().await;
    let port = off.app.metrics_address.unwrap();
    assert_eq!(get(port, "/metrics").await.status, 200);
    let on = start(&mut World::embedded().await).await;
    for route in routes {
        assert_eq!(get(port, route).await.status, 404, "{route}");
        assert_eq!(get(off.addr, route).await.status, 404, "{route}");
        assert_eq!(get(on.app.addr, route).await.status, 404, "{route}");
        assert_eq!(get(on.port, route).await.status, 200, "{route}");
        let origin = [("Origin", "http://evil.example")];
        let answer = http::request(on.port, "GET", route, &origin, b"").await;
        assert_eq!(answer.header("access-control-allow-origin"), None, "{route}");
        assert_eq!(http::request(on.port, "POST", route, &[], b"").await.status, 405, "{route}");
    }
    for wrong in [
        "explain?user=a",
        "explain?channel=jobs.a",
        "explain?user=a&channel=x",
        "streams",
        "streams?user=%00",
        "explain?user=a&channel=jobs.a&event=x",
        "streams?user=a&user=b",
    ] {
        let answer = get(on.port, &format!("/inspect/{wrong}")).await;
        assert_eq!(answer.status, 400, "{wrong}: {}", answer.text());
    }
    off.app.stop().await;
    on.app.app.stop().await;
}

/// Health in detail is on the metrics port, whether the inspector is on or off, and says what is away.
#[tokio::test(flavor = "multi_thread")]
async fn health_in_detail_says_how_everything_does() {
    let mut world = World::redis().await;
    world.config.metrics_port = free_port();
    let app = world.start().await;
    world.people(&[("ada", &["a"])]).await;
    let port = app.app.metrics_address.unwrap();
    let mut stream = app.stream("ada", "jobs.a").await;
    stream.until("ready").await;
    let told = get(port, "/health/detailed").await.json();
    assert_eq!(
        (&told["status"], &told["draining"], &told["inspector"]),
        (&json!("healthy"), &json!(false), &json!(false)),
        "{told}"
    );
    assert_eq!((&told["streams"]["sse"], &told["nodes"]), (&json!(1), &json!(1)), "{told}");
    let lanes = told["lanes"].as_array().unwrap();
    assert!(lanes.iter().all(|lane| lane["answers"] == true), "{told}");
    assert_eq!(lanes.iter().map(|lane| lane["streams"].as_u64().unwrap()).sum::<u64>(), 1, "{told}");
    assert_eq!(told["checks"].as_array().unwrap().len(), 2);
    assert_eq!(get(app.addr, "/health/detailed").await.status, 404, "not in public");
    app.app.stop().await;
}

/// All instances at a glance, whoever is asked; one without an inspector is there too, and says that it remembers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn every_instance_is_seen_from_each() {
    let mut world = World::redis().await;
    let one = start(&mut world).await;
    (world.config.inspector, world.config.metrics_port) = (false, free_port());
    let off = world.start().await;
    world.people(&[("ada", &["a"])]).await;
    let mut client = open(&one, Transport::Ws, "ada", "channels=jobs.a", None).await;
    let mut other = off.stream("ada", "jobs.a").await;
    other.until("ready").await;
    let event = cursor(&off.progress("a", 1).await);
    client.until("job:update").await;
    let seen = eventually("both are seen", SOON, async || {
        let told = get(one.port, "/inspect/instances").await.json();
        let all = told["instances"].as_array().unwrap().clone();
        (all.len() == 2 && told["complete"] == true && all.iter().all(|i| i["log"]["entries"] == 1)).then_some(all)
    })
    .await;
    assert_eq!((&seen[0]["inspector"], &seen[1]["inspector"]), (&json!(true), &json!(false)));
    assert_eq!((&seen[0]["streams"], &seen[1]["streams"]), (&json!([0, 1, 0]), &json!([1, 0, 0])));
    assert_eq!(seen[0]["channels"][0], json!({ "channel": "jobs.a", "events": 1, "streams": 1 }));
    assert!(seen[0]["totals"]["sent"].as_u64() > Some(0));
    let told = one.explain("ada", "jobs.a", &event).await;
    let says: Vec<&str> = told["says"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(says.iter().any(|line| line.starts_with("INSPECTOR is off at")), "{says:?}");
    off.app.stop().await;
    one.app.app.stop().await;
}

/// A command as it runs in a script: its exit code and what it prints.
async fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_tidings"));
    command.args(args).env_clear().kill_on_drop(true);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("it ends").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// The commands of an operator, in a script.
#[tokio::test(flavor = "multi_thread")]
async fn explain_and_top_print_for_scripts() {
    let mut world = World::redis().await;
    let (one, two) = (start(&mut world).await, start(&mut world).await);
    world.people(&[("ada", &["a"])]).await;
    let mut client = open(&one, Transport::Sse, "ada", "channels=jobs.a", None).await;
    let event = cursor(&one.app.progress("a", 1).await);
    client.until("job:update").await;
    two.until_fate("ada", "jobs.a", &event, "written").await;
    let url = format!("http://{}", two.port);
    let asked = ["explain", "--url", &url, "--user", "ada", "--channel", "jobs.a", "--event", &event];
    let (code, told, said) = run(&asked).await;
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert!(
        told.starts_with("it was written to 1 of 1 remembered streams\nthe database grants jobs.a to ada\n"),
        "{told}"
    );
    assert!(told.contains(" written: it was written to the socket\n"), "{told}");
    let (_, told, _) = run(&[&asked[..], &["--json"]].concat()).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["instances"][1]["lives"][0]["fates"][0]["outcome"], "written", "{told}");
    let (code, told, _) = run(&["explain", "--url", &url, "--user", "ada"]).await;
    assert!(code == Some(0) && told.contains("carries jobs.a"), "{told}");
    let (code, told, said) = run(&["top", "--url", &url]).await;
    assert_eq!((code, said.as_str()), (Some(0), ""), "piped it ends by itself");
    assert!(told.contains("2 instances\n\nINSTANCE") && !told.contains('\u{1b}'), "{told}");
    let (_, told, _) = run(&["top", "--url", &url, "--once", "--json"]).await;
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!((told["instances"].as_array().unwrap().len(), &told["complete"]), (2, &json!(true)));
    // What is wrong is said in a line, with an exit code.
    let public = format!("http://{}", one.app.addr);
    for (args, code, part) in [
        (&["top", "--url", &public][..], 1, "INSPECTOR=true"),
        (&["top", "--url", "http://127.0.0.1:1"], 69, "does not answer"),
        (&["explain", "--url", &url, "--user", "a b"], 1, "INVALID_MESSAGE"),
        (&["explain", "--url", &url, "--user", "ada", "--event", "x"], 2, "--channel"),
    ] {
        let (got, told, said) = run(args).await;
        assert!(got == Some(code) && told.is_empty() && said.contains(part), "{args:?}: {got:?} {told} {said}");
    }
    for seen in [one, two] {
        seen.app.app.stop().await;
    }
}

/// The page in a real browser: it shows what is, and what clients have chosen stays text.
#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_what_is_and_escapes_it() {
    let mut world = World::embedded().await;
    let one = start(&mut world).await;
    world.people(&[("ada", &["a"])]).await;
    let hostile = "<img src=x onerror=window.hacked=1>";
    let query = "channels=jobs.a,%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D1%3E&session=tab-0001";
    let mut client = open(&one, Transport::Ws, "ada", query, None).await;
    let event = cursor(&one.app.progress("a", 1).await);
    client.until("job:update").await;
    one.until_fate("ada", "jobs.a", &event, "written").await;
    let url = format!("http://{}/inspect?user=ada&channel=jobs.a&event={event}", one.port);
    let mut page = Browser::open(&url).await;
    let shows = |id: &str, text: &str| format!("document.getElementById('{id}').innerText.includes({})", json!(text));
    page.until("the answer", SOON, &shows("answer", "it was written to the socket")).await;
    page.until("the instance", SOON, &shows("instances", "ready")).await;
    page.until("the log", SOON, &shows("log", &event)).await;
    page.until("the refusal", SOON, &shows("recent", hostile)).await;
    assert_eq!(page.eval(&shows("answer", hostile)).await, true, "as text");
    let clean = "document.images.length === 0 && window.hacked === undefined";
    assert_eq!(page.eval(clean).await, true);
    // So do parameters of its own URL.
    let url =
        format!("http://{}/inspect?user=%3Cimg%20src%3Dx%20onerror%3Dwindow.hacked%3D1%3E&channel=jobs.a", one.port);
    let tab = page.open_tab(&url).await;
    eventually("it says what is wrong", SOON, async || {
        (page.eval_in(tab, &shows("says", "malformed")).await == true).then_some(())
    })
    .await;
    assert_eq!(page.eval_in(tab, clean).await, true);
    one.app.app.stop().await;
}

/// An instance that does not answer: the others' answer comes all the same, in time, and says that it is not complete.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_is_silent_is_missed() {
    let world = World::redis().await;
    world.people(&[("ada", &["a"])]).await;
    let mut env = world.env();
    env.push(("INSPECTOR", "true".to_owned()));
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let (one, mut two) = (Server::spawn(&env).await, Server::spawn(&env).await);
    let path = "/inspect/explain?user=ada&channel=jobs.a";
    let all = async || get(one.metrics_addr(), path).await.json();
    eventually("both answer", SOON, async || {
        let told = all().await;
        (told["complete"] == true && told["instances"].as_array().unwrap().len() == 2).then_some(())
    })
    .await;
    two.freeze();
    let begun = Instant::now();
    let told = all().await;
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!((&told["complete"], told["instances"].as_array().unwrap().len()), (&json!(false), 1), "{told}");
    assert!(told["says"].to_string().contains("not every instance has answered"), "{told}");
    two.thaw();
}
