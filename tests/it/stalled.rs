//! Somebody stops reading in the middle of a crowd: it costs a bounded amount, the crowd notices nothing, and it misses no end of a job.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::future::join_all;
use serde_json::json;
use tokio::task::JoinSet;

use crate::chaos::times;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::figures::median;
use crate::support::figures::p99;
use crate::support::tokens;
use crate::support::wire::narrow;

const JOBS: usize = 25;
const ROUNDS: u64 = 6;
/// The round from which on it does not read.
const FROM: u64 = 3;
/// What only the one that stops is to be told, with each job of each round: in all far more than waits for one stream at most, with
/// what the kernel takes.
const BULK: usize = 48 * 1024;
const SLOW: &str = "realtime_ended_total{reason=\"slow\"}";

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

fn query() -> String {
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("jobs.s{n}")).collect();
    format!("channels={}", jobs.join(","))
}

async fn open(app: &TestApp, transport: Transport, query: &str, cursor: Option<&str>) -> Client {
    Client::open(transport, app.addr, &tokens::for_user("ada"), query, cursor).await.unwrap()
}

/// One round: every job goes on, ends, and is tried anew in the next.
async fn round(app: &TestApp, attempt: u64, bulk: &str) {
    for n in 0..JOBS {
        app.publish(json!({ "channel": "user.ada", "data": { "bulk": bulk } })).await;
        for status in ["running", "failed"] {
            let data = json!({ "at": now_us() });
            app.update(&format!("s{n}"), json!({ "status": status, "attempt": attempt, "data": data })).await;
        }
    }
}

/// Reads until every job of this attempt has ended; the delays of all events.
async fn read_round(mut client: Client, attempt: u64) -> (Client, Vec<u64>) {
    let (mut ended, mut delays) = (0, Vec::new());
    while ended < JOBS {
        let event = client.next(Duration::from_secs(30)).await.unwrap_or_else(|| panic!("{client:?} stops"));
        if event.event != "job:update" || event.data["attempt"] != attempt {
            continue;
        }
        delays.push(now_us().saturating_sub(event.data["data"]["at"].as_u64().unwrap()));
        ended += usize::from(event.data["terminal"] == true);
    }
    (client, delays)
}

/// A round that all of these hear, and the 99th percentile of its delays in microseconds.
async fn heard_by(app: &TestApp, crowd: Vec<Client>, attempt: u64, bulk: &str) -> (Vec<Client>, u64) {
    let mut readers = JoinSet::new();
    crowd.into_iter().for_each(|client| drop(readers.spawn(read_round(client, attempt))));
    round(app, attempt, bulk).await;
    let (clients, delays): (Vec<Client>, Vec<Vec<u64>>) = readers.join_all().await.into_iter().unzip();
    (clients, p99(delays.concat()))
}

async fn among_a_crowd(takeover: bool, transport: Transport) -> String {
    let mut world = World::embedded().await;
    world.config.sse_takeover = takeover;
    world.config.outbox_events_max = 64;
    world.config.outbox_bytes_max = 256 * 1024;
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("s{n}")).collect();
    world.people(&[("ada", &jobs.iter().map(String::as_str).collect::<Vec<_>>())]).await;
    let app = world.start().await;
    let jobs = query();
    let crowd = join_all((0..times(100, 1000)).map(|n| open(&app, Transport::STREAMS[n % 2], &jobs, None))).await;
    let bulk = "x".repeat(BULK);
    let (mut crowd, mut before) = (crowd, Vec::new());
    for attempt in 1..FROM {
        let (back, p99) = heard_by(&app, crowd, attempt, &bulk).await;
        (crowd, _) = (back, before.push(p99));
    }
    let all = format!("{jobs},user.me");
    let mut stopped = narrow(open(&app, transport, &all, None)).await;
    stopped.until("ready").await;
    let mut during = Vec::new();
    for attempt in FROM..=ROUNDS {
        let (back, p99) = heard_by(&app, crowd, attempt, &bulk).await;
        (crowd, _) = (back, during.push(p99));
    }
    // What waited for it was given up at its bound of 256 KiB, out of nearly five megabytes.
    eventually("it is ended as too slow", Duration::from_secs(10), async || (app.metric(SLOW) == 1.0).then_some(()))
        .await;
    let (before, during) = (median(before), median(during));
    assert!(
        during < before * 5 + 100_000,
        "{transport:?}: p99 {before} µs before, {during} µs beside one that does not read"
    );
    let heard = stopped.until_end(Duration::from_secs(10)).await;
    let mut again = open(&app, transport, &all, stopped.cursor()).await;
    let mut ends: BTreeMap<(String, u64), usize> = BTreeMap::new();
    let last = |event: &crate::support::sse::SseEvent| {
        event.data["terminal"] == true
            && event.data["attempt"] == ROUNDS
            && event.text("jobId") == format!("s{}", JOBS - 1)
    };
    let rest = again.until_that("the last end", last).await;
    for event in heard.iter().chain(&rest).filter(|event| event.data["terminal"] == true && !event.is_snapshot()) {
        *ends.entry((event.text("jobId").to_owned(), event.data["attempt"].as_u64().unwrap())).or_default() += 1;
    }
    assert_eq!(ends.len(), JOBS * (ROUNDS - FROM + 1) as usize, "every end of every attempt since it was there");
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    drop((again, crowd));
    app.until_empty().await;
    app.app.stop().await;
    format!("{transport:?} takeover={takeover}: p99 {before} µs, beside it {during} µs")
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_stops_reading_costs_little_and_misses_no_end() {
    for transport in Transport::STREAMS {
        for takeover in [true, false] {
            println!("stopped reader: {}", among_a_crowd(takeover, transport).await);
        }
    }
}
