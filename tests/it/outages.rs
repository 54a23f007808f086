//! The table "Four outages" of docs/operations.md, row by row: what readiness, metrics, open streams and new ones do while Redis or
//! Postgres is away, and when it comes back. Shorter than an operator's nights here, as long by `make chaos`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tidings::config::Secret;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::http;
use crate::support::pace;
use crate::support::postgres::Postgres;
use crate::support::process::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::sse::SseClient;
use crate::support::tokens;

const PATIENCE: Duration = Duration::from_secs(30);
const BROKER_UP: &str = "realtime_broker_up";

/// An instance, and somebody who listens to a job all the time.
struct Night {
    server: Server,
    stream: SseClient,
    n: u64,
}

impl Night {
    async fn new(world: &World) -> Self {
        world.people(&[("ada", &["a", "quiet"]), ("eve", &["e"])]).await;
        let env = world.env();
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Server::spawn(&env).await;
        let stream = open(server.addr(), "ada", "jobs.a").await;
        let mut this = Self { server, stream, n: 0 };
        this.goes_on().await;
        this
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    /// 202 and the event, or the status.
    async fn post(&mut self) -> u16 {
        let body = json!({ "status": "running", "data": { "n": self.n + 1 } });
        let answer = http::post(self.addr(), "/v1/jobs/a/updates", &format!("ApiKey {API_KEY}"), &body).await;
        self.n += u64::from(answer.status == 202);
        answer.status
    }

    /// An update is taken, and heard next, without a `reset` in between.
    async fn goes_on(&mut self) {
        eventually("an update is taken", PATIENCE, async || (self.post().await == 202).then_some(())).await;
        let n = self.n;
        let events = self.stream.until_that("the update", |event| event.data["data"]["n"] == n).await;
        assert!(events.iter().all(|event| event.event != "reset"), "{events:?}");
    }

    async fn is_ready(&self) -> Result<(), String> {
        let answer = http::get(self.addr(), "/health/ready", "").await;
        assert_eq!(http::get(self.addr(), "/health/live", "").await.status, 200, "always");
        if answer.status == 200 { Ok(()) } else { Err(answer.json()["reason"].as_str().unwrap_or_default().to_owned()) }
    }

    async fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        eventually(name, PATIENCE, async || wanted(self.server.metric(name).await.unwrap_or(0.0)).then_some(())).await;
    }

    /// Open streams stay open, and say so.
    async fn beats(&mut self) {
        let events = self.stream.until("heartbeat").await;
        assert!(events.iter().all(|event| event.event != "reset" && event.event != "end"), "{events:?}");
    }

    /// What a new stream comes to: `ready`, or `problem` and its reason.
    async fn comes(&self, user: &str, channel: &str) -> String {
        let mut stream = connect(self.addr(), user, channel).await;
        let events =
            stream.until_that("ready or problem", |event| matches!(event.event.as_str(), "ready" | "problem")).await;
        let last = events.last().unwrap();
        match last.event.as_str() {
            "problem" => last.data["details"]["reason"].as_str().unwrap_or_default().to_owned(),
            other => other.to_owned(),
        }
    }

    /// While Redis is away: said, borne, and refused in a way that can be tried again.
    async fn without_redis(&mut self) {
        let begun = Instant::now();
        assert_eq!(self.post().await, 503, "not known whether it was taken");
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
        self.until_metric(BROKER_UP, |up| up == 0.0).await;
        self.beats().await;
        assert_eq!(self.comes("ada", "jobs.a").await, "ready", "what is in memory is served");
        assert_eq!(self.comes("eve", "jobs.e").await, "broker", "what only Redis may know is not");
        self.beats().await;
    }

    async fn is_well_again(&mut self) {
        self.until_metric(BROKER_UP, |up| up == 1.0).await;
        eventually("it is ready", PATIENCE, async || self.is_ready().await.ok()).await;
        // A connection that broke may be found broken by whoever uses it next, who is told to come again.
        eventually("new streams open", PATIENCE, async || (self.comes("eve", "jobs.e").await == "ready").then_some(()))
            .await;
    }
}

async fn connect(addr: SocketAddr, user: &str, channel: &str) -> SseClient {
    let token = format!("Bearer {}", tokens::for_user(user));
    SseClient::connect(addr, &format!("/v1/events?channels={channel}"), &[("Authorization", &token)]).await.unwrap()
}

async fn open(addr: SocketAddr, user: &str, channel: &str) -> SseClient {
    let mut stream = connect(addr, user, channel).await;
    stream.until("ready").await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_frozen() {
    let mut redis = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&redis).await;
    let mut night = Night::new(&world).await;
    let frozen = Instant::now();
    redis.freeze();
    night.without_redis().await;
    eventually("ten seconds are over", PATIENCE, async || (frozen.elapsed() > Duration::from_secs(10)).then_some(()))
        .await;
    redis.thaw();
    night.is_well_again().await;
    night.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away() {
    let mut redis = RedisServer::start(RedisOptions { aof: true, ..RedisOptions::default() }).await;
    let world = World::on(&redis).await;
    let mut night = Night::new(&world).await;
    pace(Duration::from_millis(1200)).await; // the file is synced every second
    let away = Instant::now();
    redis.kill();
    night.without_redis().await;
    let why = eventually("it is not ready", PATIENCE, async || night.is_ready().await.err()).await;
    assert_eq!(why, "broker");
    let whole = Duration::from_secs(times(12, 60) as u64);
    while away.elapsed() < whole {
        night.beats().await;
    }
    redis.start_again().await;
    night.is_well_again().await;
    night.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_failed_over_with_loss() {
    let mut primary = RedisServer::start(RedisOptions::default()).await;
    let replica = RedisServer::start(RedisOptions::default()).await;
    let proxy = ChaosProxy::start(primary.addr()).await;
    let mut world = World::on(&primary).await;
    world.config.redis_url = Secret::new(format!("redis://{}", proxy.addr()));
    let mut night = Night::new(&world).await;
    replica.cli(&["REPLICAOF", "127.0.0.1", &primary.port().to_string()]).await.unwrap();
    let log = format!("{}:log", world.config.redis_prefix);
    eventually("the replica has the log", PATIENCE, async || {
        let length = async |server: &RedisServer| server.cli(&["XLEN", &log]).await.ok();
        (length(&primary).await.is_some() && length(&primary).await == length(&replica).await).then_some(())
    })
    .await;
    replica.cli(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    // What only the old one knows.
    night.goes_on().await;
    night.goes_on().await;
    proxy.set_target(replica.addr());
    primary.kill();
    proxy.reset_all();
    let events = night.stream.until("reset").await;
    assert_eq!(events.last().unwrap().text("reason"), "history_rewritten");
    night.stream.until("ready").await;
    night.until_metric("realtime_resumes_total{verdict=\"reset\"}", |resets| resets >= 1.0).await;
    night.is_well_again().await;
    night.goes_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away() {
    let mut postgres = Postgres::dedicated().await;
    let mut world = World::redis().await;
    world.config.database_url = Secret::new(postgres.database().await);
    world.store = tidings::store::Store::open(&world.config, &tidings::telemetry::Metrics::new()).await.unwrap();
    let mut night = Night::new(&world).await;
    let away = Instant::now();
    postgres.stop();
    let whole = Duration::from_secs(times(8, 60) as u64);
    while away.elapsed() < whole {
        night.goes_on().await;
        assert_eq!(night.is_ready().await, Ok(()), "it accepts, reads and appends");
        pace(Duration::from_millis(500)).await;
    }
    assert_eq!(night.comes("ada", "jobs.a").await, "ready", "a permission that is remembered");
    let refused = night.comes("eve", "jobs.e").await;
    assert!(matches!(refused.as_str(), "database" | "auth_unavailable"), "{refused}");
    let text = night.server.metrics_text().await;
    let failed = |line: &str| line.starts_with("realtime_store_queries_total") && !line.contains("outcome=\"ok\"");
    assert!(text.lines().any(failed), "the questions that were not answered are counted");
    postgres.start().await;
    eventually("it is asked again", PATIENCE, async || (night.comes("eve", "jobs.e").await == "ready").then_some(()))
        .await;
    night.goes_on().await;
}
