//! Postgres away for longer than answers may be old, under many streams: they go on as long as that, nobody new is let in, nothing is
//! delivered beyond, and its return costs few questions.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::Connection as _;
use sqlx::Executor as _;
use sqlx::PgConnection;
use tidings::config::Secret;
use tidings::store::Store;
use tidings::telemetry::Metrics;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::pace;
use crate::support::postgres::Postgres;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::tokens;

const SSE: &str = "realtime_active_connections{transport=\"sse\"}";
const WS: &str = "realtime_active_connections{transport=\"ws\"}";
const OVERLOADED: &str = "realtime_ended_total{reason=\"overloaded\"}";
/// How long a stream goes on in doubt, and how long it may take to wait for an answer in vain: once before it is looked at, once while the
/// others are, once in the end.
const DOUBT: Duration = Duration::from_secs(10);
const LATE: Duration = Duration::from_secs(20);
/// Questions that the return of the database may cost: some for each 256 streams, and what goes on anyway.
const QUESTIONS_PER_CHUNK: f64 = 12.0;
const CHUNK: f64 = 256.0;
const QUESTIONS_ANYWAY: f64 = 60.0;

/// How the database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Nobody listens there.
    Refusing,
    /// Nothing answers, and nothing is said of that.
    Silent,
}

/// One instance behind a network of its own, and streams of as many users, each of a document that all may see.
struct Scene {
    world: World,
    app: TestApp,
    proxy: ChaosProxy,
    streams: usize,
}

impl Scene {
    async fn new(streams: usize) -> Self {
        let postgres = Postgres::shared().await;
        let proxy = ChaosProxy::start(([127, 0, 0, 1], postgres.port()).into()).await;
        let mut world = World::embedded().await;
        let url = postgres.database().await;
        world.config.database_url = Secret::new(url.clone());
        world.store = Store::open(&world.config, &Metrics::new()).await.unwrap();
        let there = format!("127.0.0.1:{}", postgres.port());
        world.config.database_url = Secret::new(url.replace(&there, &proxy.addr().to_string()));
        world.config.grant_max_age = Duration::from_millis(times(2_000, 60_000) as u64);
        world.config.grant_stale_max = stale_max();
        // Nobody here reads while the database is away.
        (world.config.hooks.ping, world.config.heartbeat_interval) = (stale_max() * 4, Duration::from_secs(15));
        let mut database = PgConnection::connect(&url).await.unwrap();
        let users = format!(
            "INSERT INTO tidings.users (id) SELECT 'u' || n FROM generate_series(0, {streams}) n;
             INSERT INTO tidings.documents (id, owner_id) VALUES ('d', 'u0'), ('secret', 'u0');
             INSERT INTO tidings.document_permissions SELECT 'd', 'u' || n, 'viewer' FROM generate_series(0, {streams}) n"
        );
        database.execute(AssertSqlSafe(users)).await.unwrap();
        let app = world.start().await;
        app.until_announced().await;
        Self { world, app, proxy, streams }
    }

    async fn open(&self, number: usize) -> Client {
        let token = tokens::for_user(&format!("u{number}"));
        let transport = Transport::STREAMS[number % 2];
        let opened = Client::open(transport, self.app.addr, &token, "channels=docs.d", None).await;
        let mut client = opened.unwrap_or_else(|answer| panic!("{number}: {}", answer.text()));
        client.until("ready").await;
        client
    }

    async fn crowd(&self) -> Vec<Client> {
        stream::iter(0..self.streams).map(|number| self.open(number)).buffered(16).collect().await
    }

    fn there(&self) -> f64 {
        self.app.metric(SSE) + self.app.metric(WS)
    }

    /// Questions that were answered, as this instance counts them.
    fn answered(&self) -> f64 {
        let text = String::from_utf8(self.app.app.shared.metrics.render()).unwrap();
        let lines = text.lines().filter(|line| line.starts_with("realtime_store_queries_total{outcome=\"ok\""));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    fn leave(&self, away: Away) {
        self.proxy.set_mode(if away == Away::Refusing { Mode::Refuse } else { Mode::Swallow });
        if away == Away::Refusing {
            self.proxy.reset_all();
        }
    }

    fn come_back(&self) {
        // What was swallowed is missing in the middle of what its connections said.
        self.proxy.set_mode(Mode::Pass);
        self.proxy.reset_all();
    }

    async fn publish(&self, n: u64) {
        self.app.publish(json!({ "channel": "docs.d", "data": { "n": n } })).await;
    }

    /// Somebody who was never here, and somebody who asks for what they never had: both are told to try again.
    async fn assert_nobody_new(&self) {
        for (user, channel) in [(format!("u{}", self.streams), "docs.d"), ("u1".to_owned(), "docs.secret")] {
            let token = format!("Bearer {}", tokens::for_user(&user));
            let headers = [("Authorization", token.as_str()), ("X-Tidings-Client", "t")];
            let path = format!("/v1/events?channels={channel}");
            let answer = http::request(self.app.addr, "GET", &path, &headers, b"").await;
            assert_eq!((answer.status, answer.code().as_str()), (503, "CONNECTION_LOST"), "{}", answer.text());
            assert!(answer.header("retry-after").is_some());
        }
        let live = http::get(self.app.addr, "/health/ready", "").await;
        assert_eq!(live.status, 200, "it is as ready as before");
    }

    /// Waits until changes are announced again, and a little more; then the questions that were asked since.
    async fn questions_of_the_return(&self) -> f64 {
        let answered = self.answered();
        self.come_back();
        self.app.until_announced().await;
        pace(Duration::from_secs(3)).await; // in which everybody is looked at
        self.answered() - answered
    }
}

fn stale_max() -> Duration {
    Duration::from_millis(times(4_000, 90_000) as u64)
}

fn questions_max(streams: usize) -> f64 {
    QUESTIONS_ANYWAY + QUESTIONS_PER_CHUNK * (streams as f64 / CHUNK).ceil()
}

/// Back before answers are too old: everybody is still there, has missed nothing, and has been asked about in large questions.
async fn shortly(scene: &Scene, away: Away, crowd: &mut [Client]) {
    scene.leave(away);
    pace(stale_max() / 2).await; // away
    scene.publish(1).await;
    for client in crowd.iter_mut() {
        client.find("it goes on", |event| event.data["n"] == 1).await;
    }
    let answered = scene.questions_of_the_return().await;
    let most = questions_max(scene.streams);
    println!("{away:?} for {:?}, {} streams: {answered} questions at its return", stale_max() / 2, scene.streams);
    assert!(answered <= most, "{answered} questions, {most} at most");
    assert_eq!(scene.there(), scene.streams as f64, "nobody has left");
    scene.publish(2).await;
    for client in crowd {
        client.find("and on", |event| event.data["n"] == 2).await;
    }
}

/// Away for longer than that: everybody goes on, and then ends in a way that can be tried again.
async fn long(scene: &Scene, away: Away, crowd: Vec<Client>) {
    let begun = Instant::now();
    scene.leave(away);
    // An answer may have been as old as answers may be, and is good for the rest of what it may be at most.
    let sure = stale_max().saturating_sub(scene.world.config.grant_max_age);
    pace(sure.saturating_sub(begun.elapsed())).await;
    assert_eq!(scene.there(), scene.streams as f64, "they go on");
    scene.publish(3).await;
    let most = stale_max() + DOUBT + LATE;
    let (all, there) = (scene.streams as f64, || scene.there());
    let over = async {
        eventually("everybody has ended", most, async || (scene.app.metric(OVERLOADED) == all).then_some(())).await;
        begun.elapsed()
    };
    let (lasted, ()) = tokio::join!(over, scene.assert_nobody_new());
    assert!(lasted < most, "{lasted:?}");
    eventually("and is gone", LATE, async || (there() == 0.0).then_some(())).await;
    scene.publish(4).await;
    for mut client in crowd {
        let heard = client.until_end(Duration::from_secs(10)).await;
        let end = heard.iter().find(|event| event.event == "end").unwrap_or_else(|| panic!("{heard:#?}"));
        assert_eq!((end.text("reason"), end.text("code")), ("overloaded", "CONNECTION_LOST"));
        assert_eq!(end.data["reconnect"], true);
        assert!(heard.iter().any(|event| event.data["n"] == 3) && heard.iter().all(|event| event.data["n"] != 4));
    }
    println!("{away:?} for good, {} streams: the last one ended after {lasted:.1?}", scene.streams);
    let answered = scene.questions_of_the_return().await;
    assert!(answered <= questions_max(0), "{answered} questions about nobody");
    scene.open(1).await;
}

async fn run(away: Away) {
    let scene = Scene::new(times(120, 2000)).await;
    let mut crowd = scene.crowd().await;
    shortly(&scene, away, &mut crowd).await;
    long(&scene, away, crowd).await;
    scene.app.until_empty().await;
    scene.app.app.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_is_away_is_borne_for_so_long_and_comes_back_to_few_questions() {
    if times(0, 1) == 0 {
        tokio::join!(run(Away::Refusing), run(Away::Silent));
    } else {
        // One after the other: each of them fills the machine.
        run(Away::Refusing).await;
        run(Away::Silent).await;
    }
}
