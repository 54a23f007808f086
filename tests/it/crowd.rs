//! Some stop reading in a crowd of a process of its own, whose memory can be seen: it stays bounded, the crowd notices nothing, and whoever
//! stopped has missed nothing that may not be left out. A hundred readers here, a thousand by `make chaos`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream;
use serde_json::Value;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::figures::median;
use crate::support::figures::p99;
use crate::support::http;
use crate::support::process::Server;
use crate::support::sse::SseEvent;
use crate::support::tokens;
use crate::support::wire::Wire;
use crate::support::wire::narrow;

const JOBS: usize = 25;
/// Rounds before anybody stops, and of each time that some do.
const BEFORE: u64 = 3;
const ROUNDS: u64 = 4;
/// What each of those who stop is to be told with each job of each round: in all nearly five megabytes.
const BULK: usize = 48 * 1024;
const OUTBOX: usize = 256 * 1024;
/// By how much the process may grow: for each who stopped what may wait for them, and what any work takes.
const GROWTH_MAX: usize = 12 << 20;
/// After so long the kernel may give somebody up.
const GIVEN_UP: Duration = Duration::from_secs(25);
const SLOW: &str = "realtime_ended_total{reason=\"slow\"}";

fn now_us() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_micros() as u64
}

fn query(bulk: Option<usize>) -> String {
    let jobs: Vec<String> = (0..JOBS).map(|n| format!("jobs.s{n}")).collect();
    let bulk = bulk.map_or(String::new(), |n| format!(",docs.b{n}"));
    format!("channels={}{bulk}", jobs.join(","))
}

async fn open(addr: SocketAddr, transport: Transport, query: &str, cursor: Option<&str>) -> Client {
    let opened = Client::open(transport, addr, &tokens::for_user("ada"), query, cursor).await;
    opened.unwrap_or_else(|answer| panic!("{transport:?}: {} {}", answer.status, answer.text()))
}

/// Reads until every job of this attempt has ended; the delays of all events.
async fn read_round(mut client: Client, attempt: u64) -> (Client, Vec<u64>) {
    let (mut ended, mut delays) = (0, Vec::new());
    while ended < JOBS {
        let event = client.next(Duration::from_secs(60)).await.unwrap_or_else(|| panic!("{client:?} stops"));
        if event.event != "job:update" || event.data["attempt"] != attempt {
            continue;
        }
        delays.push(now_us().saturating_sub(event.data["data"]["at"].as_u64().unwrap()));
        ended += usize::from(event.data["terminal"] == true);
    }
    (client, delays)
}

/// Somebody who has stopped reading.
enum Stopped {
    Stream(Client),
    /// A poll of which the answer is not read, and the cursor that it asked for.
    Poll {
        _unread: Wire,
        cursor: Option<String>,
    },
}

impl Stopped {
    async fn new(addr: SocketAddr, transport: Transport, number: usize) -> Self {
        let mut client = narrow(open(addr, transport, &query(Some(number)), None)).await;
        client.until("ready").await;
        if transport != Transport::Poll {
            return Self::Stream(client);
        }
        let (cursor, token) = (client.cursor().unwrap(), format!("Bearer {}", tokens::for_user("ada")));
        let path = format!("/v1/poll?{}&cursor={cursor}&wait=60", query(Some(number)));
        let mut wire = narrow(Wire::connect(addr)).await.unwrap();
        wire.send(&http::bytes_of(addr, "GET", &path, &[("Authorization", &token)], b"")).await.unwrap();
        Self::Poll { _unread: wire, cursor: client.cursor().map(str::to_owned) }
    }

    /// What it finds when it reads again, and where it was then.
    async fn wakes(self) -> (Vec<SseEvent>, Option<String>) {
        match self {
            Self::Stream(mut client) => {
                let heard = client.until_end(Duration::from_secs(20)).await;
                (heard, client.cursor().map(str::to_owned))
            }
            Self::Poll { cursor, .. } => (Vec::new(), cursor),
        }
    }
}

struct Scene {
    server: Server,
    addr: SocketAddr,
    _world: World,
    crowd: Vec<Client>,
    /// Numbers of rounds begun.
    attempt: u64,
    /// Those who may stop.
    stoppers: usize,
}

impl Scene {
    async fn new(takeover: bool, size: usize, stoppers: usize) -> Self {
        let mut world = World::redis().await;
        world.config.sse_takeover = takeover;
        let jobs: Vec<String> = (0..JOBS).map(|n| format!("s{n}")).collect();
        world.people(&[("ada", &jobs.iter().map(String::as_str).collect::<Vec<_>>())]).await;
        for number in 0..stoppers {
            world.document(&format!("b{number}"), "ada", &[]).await;
        }
        let mut env = world.env();
        env.extend([
            ("OUTBOX_EVENTS_MAX", "64".to_owned()),
            ("OUTBOX_BYTES_MAX", OUTBOX.to_string()),
            // The log is to be in Redis, not in what is measured.
            ("WINDOW_BYTES_MAX", (8 << 20).to_string()),
        ]);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Server::spawn(&env).await;
        let addr = server.addr();
        let jobs = query(None);
        let opening = stream::iter(0..size).map(|n| open(addr, Transport::STREAMS[n % 2], &jobs, None));
        let crowd = opening.buffered(16).collect().await;
        Self { server, addr, _world: world, crowd, attempt: 0, stoppers }
    }

    async fn post(&self, path: &str, body: &Value) {
        let answer = http::post(self.addr, path, &format!("ApiKey {API_KEY}"), body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    /// Every job goes on, ends, and is tried anew in the next round.
    async fn work(&self, attempt: u64) {
        let bulk = "x".repeat(BULK);
        for job in 0..JOBS {
            for number in 0..self.stoppers {
                let n = attempt * JOBS as u64 + job as u64;
                let data = json!({ "n": n, "bulk": bulk });
                self.post("/v1/publish", &json!({ "channel": format!("docs.b{number}"), "data": data })).await;
            }
            for status in ["running", "failed"] {
                let update = json!({ "status": status, "attempt": attempt, "data": { "at": now_us() } });
                self.post(&format!("/v1/jobs/s{job}/updates"), &update).await;
            }
        }
    }

    /// So many rounds that all of the crowd hear; the 99th percentile of the delays of the one in the middle.
    async fn rounds(&mut self, count: u64) -> u64 {
        let mut of_rounds = Vec::new();
        for _ in 0..count {
            self.attempt += 1;
            let (mut readers, attempt) = (JoinSet::new(), self.attempt);
            for client in std::mem::take(&mut self.crowd) {
                readers.spawn(read_round(client, attempt));
            }
            self.work(attempt).await;
            let (crowd, delays): (Vec<Client>, Vec<Vec<u64>>) = readers.join_all().await.into_iter().unzip();
            self.crowd = crowd;
            of_rounds.push(p99(delays.concat()));
        }
        median(of_rounds)
    }

    /// Bytes of memory that the process has, by the system's count.
    fn memory(&self) -> usize {
        self.server.memory()
    }

    async fn streams(&self) -> f64 {
        let of = async |name| self.server.metric(name).await.unwrap_or(0.0);
        of("realtime_active_connections{transport=\"sse\"}").await
            + of("realtime_active_connections{transport=\"ws\"}").await
    }

    async fn slow(&self) -> f64 {
        self.server.metric(SLOW).await.unwrap_or(0.0)
    }

    /// So many stop reading while the crowd goes on; the same ones come back afterwards.
    async fn stop(&mut self, transport: Transport, count: usize, before: u64) -> String {
        let (slow, memory, from, begun) = (self.slow().await, self.memory(), self.attempt + 1, Instant::now());
        let stopped: Vec<Stopped> = join_all((0..count).map(|n| Stopped::new(self.addr, transport, n))).await;
        let during = self.rounds(ROUNDS).await;
        let growth = self.memory().saturating_sub(memory);
        if transport != Transport::Poll {
            eventually("those who stopped are ended", Duration::from_secs(15), async || {
                (self.streams().await == self.crowd.len() as f64).then_some(())
            })
            .await;
        }
        // On a machine that is slow itself the kernel may have given them up first: a peer that acknowledges nothing is gone after 30 s.
        let slow = self.slow().await - slow;
        let expected = if transport == Transport::Poll { 0.0 } else { count as f64 };
        assert!(slow == expected || begun.elapsed() > GIVEN_UP, "{transport:?}: {slow} of {count} ended as too slow");
        // Two at a time: each of them is given its own out of the bulk of all.
        let coming = stream::iter(stopped.into_iter().enumerate());
        coming.for_each_concurrent(2, |(number, stopped)| self.comes_back(transport, number, stopped, from)).await;
        let line = format!(
            "{transport:?}: {count} of {} stopped; p99 of the others {before} µs before, {during} µs beside them; the process grew by {} KiB; {slow} ended as too slow, nothing lost",
            self.crowd.len() + count,
            growth / 1024
        );
        assert!(during < before * 5 + 100_000, "{line}");
        assert!(growth < GROWTH_MAX + count * OUTBOX * 2, "{line}");
        line
    }

    /// Whoever stopped hears everything else: every end of every attempt and all the bulk, once and in order.
    async fn comes_back(&self, transport: Transport, number: usize, stopped: Stopped, from: u64) {
        let (mut heard, cursor) = stopped.wakes().await;
        let mut again = open(self.addr, transport, &query(Some(number)), cursor.as_deref()).await;
        let (ends, bulks) = ((JOBS as u64 * ROUNDS) as usize, from * JOBS as u64..(self.attempt + 1) * JOBS as u64);
        let ended = |event: &SseEvent| event.data["terminal"] == true && !event.is_snapshot();
        let mut missing = ends - heard.iter().filter(|event| ended(event)).count();
        if missing > 0 {
            let rest = again.until_that("the last end", |event| {
                missing -= usize::from(ended(event));
                missing == 0
            });
            heard.extend(rest.await);
        }
        assert!(heard.iter().all(|event| event.event != "reset"), "{transport:?}: continuity was lost");
        let mut counted: BTreeMap<(String, u64), usize> = BTreeMap::new();
        for event in heard.iter().filter(|event| ended(event)) {
            let attempt = event.data["attempt"].as_u64().unwrap();
            *counted.entry((event.text("jobId").to_owned(), attempt)).or_default() += 1;
        }
        assert_eq!(counted.len(), ends, "{transport:?}: every end of every attempt");
        let numbers: Vec<u64> = heard.iter().filter_map(|event| event.data["n"].as_u64()).collect();
        assert_eq!(numbers, bulks.collect::<Vec<_>>(), "{transport:?}: all of what was published, once and in order");
    }
}

async fn among_a_crowd(takeover: bool, counts: &[usize]) {
    let most = counts.iter().copied().max().unwrap();
    let mut scene = Scene::new(takeover, times(100, 1000), most).await;
    let before = scene.rounds(BEFORE).await;
    for transport in Transport::ALL {
        for count in counts {
            println!("takeover={takeover}, {}", scene.stop(transport, *count, before).await);
        }
    }
    drop(std::mem::take(&mut scene.crowd));
    eventually("nothing is left of them", Duration::from_secs(15), async || {
        (scene.server.metric("realtime_subscriptions").await == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_stop_reading_cost_a_bounded_amount_and_miss_nothing() {
    if times(0, 1) == 0 {
        among_a_crowd(true, &[3]).await;
    } else {
        among_a_crowd(true, &[1, 10]).await;
        among_a_crowd(false, &[10]).await;
    }
}
