//! Instances of the real app in this process, and the world that they share.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use serde_json::Value;
use serde_json::json;
use tidings::app::App;
use tidings::app::Listeners;
use tidings::config::Config;
use tidings::config::Secret;
use tidings::event::Id;
use tidings::store::Role;
use tidings::store::Store;
use tidings::store::StoreError;
use tidings::telemetry::Metrics;

use crate::support::SOON;
use crate::support::child::TempDir;
use crate::support::eventually;
use crate::support::http;
use crate::support::postgres::Postgres;
use crate::support::redis::RedisServer;
use crate::support::sse::NotOpened;
use crate::support::sse::SseClient;
use crate::support::tls::Pair;
use crate::support::tls::PairFiles;
use crate::support::tls::Tunnel;
use crate::support::tokens;

/// A back end's key in every world.
pub const API_KEY: &str = "a-key-of-the-tests-long-enough";

/// What instances share: a database, perhaps a Redis, and the settings.
pub struct World {
    /// Settings of instances that are started from now on.
    pub config: Config,
    /// The database, for putting things into it.
    pub store: Store,
    /// Every second instance writes streams through hyper instead of its lanes.
    mixed: bool,
    started: AtomicUsize,
    tls: Option<(Pair, PairFiles)>,
    _directory: TempDir,
}

impl World {
    /// One process without any server: in-process broker, SQLite.
    pub async fn embedded() -> Self {
        Self::over(settings()).await
    }

    /// Redis, shared by the tests under a prefix of this world's own, and SQLite.
    pub async fn redis() -> Self {
        let server = RedisServer::shared().await;
        Self::on(&server).await
    }

    /// A given Redis, and SQLite.
    pub async fn on(server: &RedisServer) -> Self {
        let mut config = settings();
        config.redis_url = Secret::new(server.url());
        config.redis_prefix = format!("t{:016x}", fastrand::u64(..));
        config.job_updates_channel = format!("{}-updates", config.redis_prefix);
        config.channel_events_channel = format!("{}-events", config.redis_prefix);
        Self::over(config).await
    }

    /// The in-process broker, and Postgres.
    pub async fn postgres() -> Self {
        let mut config = settings();
        config.database_url = Secret::new(Postgres::shared().await.database().await);
        Self::over(config).await
    }

    /// Redis and Postgres.
    pub async fn full() -> Self {
        let mut world = Self::redis().await;
        world.config.database_url = Secret::new(Postgres::shared().await.database().await);
        world.store = Store::open(&world.config, &Metrics::new()).await.unwrap();
        world
    }

    /// These settings, with a data directory of its own.
    pub async fn over(mut config: Config) -> Self {
        tidings::auth::install_crypto();
        let directory = TempDir::new("world");
        config.data_dir = directory.path().to_owned();
        let store = Store::open(&config, &Metrics::new()).await.unwrap();
        Self { config, store, mixed: false, started: AtomicUsize::new(0), tls: None, _directory: directory }
    }

    /// Every second instance on the other way to the socket.
    pub fn mixed(mut self) -> Self {
        self.mixed = true;
        self
    }

    /// Instances that speak nothing but TLS, reached through a tunnel.
    pub fn secured(mut self) -> Self {
        let pair = Pair::make();
        let files = PairFiles::new(&pair);
        self.config.tls_cert_file = files.cert().display().to_string();
        self.config.tls_key_file = files.key().display().to_string();
        self.tls = Some((pair, files));
        self
    }

    /// The certificate of its instances, and where it lies.
    pub fn tls(&self) -> &(Pair, PairFiles) {
        self.tls.as_ref().expect("a world that is secured")
    }

    /// Puts users and their jobs there.
    pub async fn people(&self, owners: &[(&str, &[&str])]) {
        // A database that is shared by tests may be busy, and then it says so. What they are about comes later.
        eventually("the people are there", SOON, async || self.put_people(owners).await.ok()).await;
    }

    async fn put_people(&self, owners: &[(&str, &[&str])]) -> Result<(), StoreError> {
        for (user, jobs) in owners {
            self.store.put_user(&id(user), user).await?;
            for job in *jobs {
                self.store.put_job(&id(job), &id(user), "queued").await?;
            }
        }
        Ok(())
    }

    /// Puts a document there, and who may do what with it.
    pub async fn document(&self, document: &str, owner: &str, roles: &[(&str, Role)]) {
        self.store.put_document(&id(document), &id(owner), document).await.unwrap();
        for (user, role) in roles {
            self.store.put_user(&id(user), user).await.unwrap();
            self.store.put_role(&id(document), &id(user), *role).await.unwrap();
        }
    }

    /// Starts an instance and waits until it is ready.
    pub async fn start(&self) -> TestApp {
        let listeners = Listeners::bind(&self.config).unwrap();
        let config = Config { sse_takeover: self.next_takeover(), ..self.config.clone() };
        let app = App::start(config, listeners, Router::new()).await.unwrap();
        let tunnel = match &self.tls {
            Some((pair, _)) => Some(Tunnel::to(app.address, pair).await),
            None => None,
        };
        let addr = tunnel.as_ref().map_or(app.address, |tunnel| tunnel.addr);
        let app = TestApp { addr, app, _tunnel: tunnel };
        app.until_ready().await;
        app
    }

    fn next_takeover(&self) -> bool {
        let odd = !self.started.fetch_add(1, Ordering::Relaxed).is_multiple_of(2);
        self.config.sse_takeover && !(self.mixed && odd)
    }

    /// The settings as variables, for instances that are processes of their own.
    pub fn env(&self) -> Vec<(&'static str, String)> {
        let config = &self.config;
        vec![
            ("REDIS_URL", config.redis_url.expose().to_owned()),
            ("REDIS_PREFIX", config.redis_prefix.clone()),
            ("JOB_UPDATES_CHANNEL", config.job_updates_channel.clone()),
            ("CHANNEL_EVENTS_CHANNEL", config.channel_events_channel.clone()),
            ("DATABASE_URL", config.database_url.expose().to_owned()),
            ("DATA_DIR", config.data_dir.display().to_string()),
            ("JWT_SECRET", tokens::SECRET.to_owned()),
            ("API_KEYS", API_KEY.to_owned()),
            ("BIND", "127.0.0.1".to_owned()),
            ("HEARTBEAT_INTERVAL", "1000".to_owned()),
            ("SSE_TAKEOVER", self.next_takeover().to_string()),
            ("DRAIN_NOTICE_MS", "0".to_owned()),
            ("RATE_LIMIT_CONNECTIONS_PER_IP", "0".to_owned()),
            ("RATE_LIMIT_CONNECTIONS_PER_USER", "0".to_owned()),
            ("RATE_LIMIT_FAILURES_PER_IP", "0".to_owned()),
            ("ADMISSION_PER_SECOND", "0".to_owned()),
        ]
    }
}

/// Without any server, and with Redis and Postgres; each on both ways to the socket: the lane's own and the task's.
pub async fn every_way() -> Vec<(World, TestApp)> {
    let mut worlds = Vec::new();
    for takeover in [true, false] {
        for mut world in [World::embedded().await, World::full().await] {
            world.config.sse_takeover = takeover;
            let app = world.start().await;
            app.until_announced().await;
            worlds.push((world, app));
        }
    }
    worlds
}

/// Settings that suit tests: any port, quick heartbeats, a key.
pub fn settings() -> Config {
    let mut config = Config::defaults();
    config.bind = [127, 0, 0, 1].into();
    config.realtime_port = 0;
    config.metrics_port = 0;
    config.jwt_secret = Secret::new(tokens::SECRET);
    config.api_keys = vec![Secret::new(API_KEY)];
    config.heartbeat_interval = Duration::from_millis(1000);
    config.drain = Duration::from_millis(300);
    config.drain_notice = Duration::ZERO;
    // All clients of a test have one address, and crowds come at once; limits.rs and flood.rs set what they try.
    config.rate_limit_connections_per_ip = 0;
    config.rate_limit_connections_per_user = 0;
    config.rate_limit_failures_per_ip = 0;
    config.admission_per_second = 0;
    config
}

pub fn id(text: &str) -> Id {
    Id::parse(text).unwrap()
}

/// A running instance.
pub struct TestApp {
    /// Where it is to be reached without TLS.
    pub addr: SocketAddr,
    /// Itself.
    pub app: App,
    _tunnel: Option<Tunnel>,
}

impl TestApp {
    async fn until_ready(&self) {
        eventually("the instance is ready", Duration::from_secs(20), async || {
            (http::get(self.addr, "/health/ready", "").await.status == 200).then_some(())
        })
        .await;
    }

    /// Opens a stream as a user.
    pub async fn try_stream(&self, user: &str, query: &str, headers: &[(&str, &str)]) -> Result<SseClient, NotOpened> {
        let token = format!("Bearer {}", tokens::for_user(user));
        let mut all = vec![("Authorization", token.as_str())];
        all.extend_from_slice(headers);
        SseClient::connect(self.addr, &format!("/v1/events?{query}"), &all).await
    }

    /// Opens a stream of these channels as a user.
    pub async fn stream(&self, user: &str, channels: &str) -> SseClient {
        self.try_stream(user, &format!("channels={channels}"), &[]).await.unwrap()
    }

    /// The same, after a cursor.
    pub async fn resume(&self, user: &str, channels: &str, cursor: &str) -> SseClient {
        self.try_stream(user, &format!("channels={channels}"), &[("Last-Event-ID", cursor)]).await.unwrap()
    }

    /// Posts a job update as a back end and answers the receipt.
    pub async fn update(&self, job: &str, update: Value) -> Value {
        let path = format!("/v1/jobs/{job}/updates");
        let answer = http::post(self.addr, &path, &format!("ApiKey {API_KEY}"), &update).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    }

    /// Says how far a job is; `n` makes every update another one.
    pub async fn progress(&self, job: &str, n: u64) -> Value {
        self.update(job, json!({ "status": "running", "data": { "n": n } })).await
    }

    /// Publishes an event as a back end.
    pub async fn publish(&self, body: Value) -> Value {
        let answer = http::post(self.addr, "/v1/publish", &format!("ApiKey {API_KEY}"), &body).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()
    }

    /// Edits an open stream as a user.
    pub async fn patch(&self, user: &str, stream: &str, body: &Value) -> http::Response {
        let token = format!("Bearer {}", tokens::for_user(user));
        let headers = [("Authorization", token.as_str()), ("Content-Type", "application/json")];
        let path = format!("/v1/streams/{stream}");
        http::request(self.addr, "PATCH", &path, &headers, body.to_string().as_bytes()).await
    }

    /// Waits until changes of the database are announced to this instance.
    pub async fn until_announced(&self) {
        let changes = self.app.shared.sessions.authorizer.changes();
        eventually("changes are announced", SOON, async || changes.are_announced().then_some(())).await;
    }

    /// The value of a gauge or counter with exactly these labels.
    pub fn metric(&self, line: &str) -> f64 {
        let text = String::from_utf8(self.app.shared.metrics.render()).unwrap();
        let found = text.lines().find_map(|l| l.strip_prefix(line)?.trim().parse().ok());
        found.unwrap_or(0.0)
    }

    /// Nothing is left of any stream.
    pub async fn until_empty(&self) {
        eventually("no stream and no subscription is left", SOON, async || {
            let of =
                |transport: &str| self.metric(&format!("realtime_active_connections{{transport=\"{transport}\"}}"));
            (["sse", "ws", "poll"].into_iter().map(of).sum::<f64>() == 0.0
                && self.metric("realtime_subscriptions") == 0.0)
                .then_some(())
        })
        .await;
    }
}
