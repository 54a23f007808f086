//! Permissions that are taken away at random instants under load: how long it takes, and that nothing follows. A small number of them
//! here, a thousand by `make chaos`.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::Value;
use serde_json::json;
use sqlx::Connection as _;
use sqlx::Executor as _;
use tidings::config::Secret;
use tidings::store::Role;
use tidings::store::Store;
use tidings::telemetry::Metrics;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::bound;
use crate::chaos::times;
use crate::support::app::API_KEY;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::app::id;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::deaf::DeafProxy;
use crate::support::eventually;
use crate::support::http;
use crate::support::pace;
use crate::support::pgbouncer::PgBouncer;
use crate::support::postgres::Postgres;
use crate::support::process::Server;
use crate::support::sse::SseEvent;
use crate::support::tokens;

/// With notifications: from the commit to the last byte of the channel, of 99 in 100.
const ANNOUNCED_MAX: Duration = Duration::from_millis(500);
/// The same in the middle of all the other tests: far from what the sweep would take.
const ANNOUNCED_AMONG_OTHERS_MAX: Duration = Duration::from_secs(3);
/// Without.
const UNANNOUNCED_MAX: Duration = Duration::from_secs(10);
/// How often everything is published, here and where there are far more to hear it; in milliseconds.
const PUBLISHED_EVERY_MS: (usize, usize) = (100, 400);

/// Streams on every transport, each of a user of its own who may see all documents.
struct Scene {
    world: World,
    apps: Vec<TestApp>,
    users: Vec<String>,
    documents: Vec<String>,
    begun: Instant,
}

/// What one reader heard, and when.
struct Heard {
    user: String,
    /// Where it was before anything was taken away.
    cursor: String,
    events: Vec<(Instant, SseEvent)>,
}

/// What became of all revocations.
#[derive(Debug)]
struct Outcome {
    /// From the commit to the last that came of the channel.
    lasted: Vec<Duration>,
    /// Published so long after the commit, and delivered.
    late: Vec<Duration>,
}

impl Outcome {
    fn p99(&self) -> Duration {
        let mut sorted = self.lasted.clone();
        sorted.sort();
        sorted[(sorted.len() * 99).div_ceil(100) - 1]
    }

    fn late(&self, bound: Duration) -> usize {
        self.late.iter().filter(|late| **late > bound).count()
    }
}

impl Scene {
    async fn new(world: World, users: usize, documents: usize) -> Self {
        let world = world.mixed();
        let users: Vec<String> = (0..users).map(|n| format!("u{n}")).collect();
        let documents: Vec<String> = (0..documents).map(|n| format!("d{n}")).collect();
        world.people(&[("owner", &[])]).await;
        let roles: Vec<(&str, Role)> = users.iter().map(|user| (user.as_str(), Role::Viewer)).collect();
        for document in &documents {
            world.document(document, "owner", &roles).await;
        }
        let apps = vec![world.start().await, world.start().await];
        Self { world, apps, users, documents, begun: Instant::now() }
    }

    fn query(&self) -> String {
        let documents: Vec<String> = self.documents.iter().map(|document| format!("docs.{document}")).collect();
        format!("channels=user.me,{}", documents.join(","))
    }

    /// One stream of each user, the transports in turn, read by tasks of their own until they hear `over`.
    async fn read(&self) -> JoinSet<Heard> {
        let mut readers = JoinSet::new();
        for (at, user) in self.users.iter().enumerate() {
            let (transport, app) = (Transport::ALL[at % 3], &self.apps[at / 3 % 2]);
            let token = tokens::for_user(user);
            let mut client = Client::open(transport, app.addr, &token, &self.query(), None).await.unwrap();
            client.until("ready").await;
            let (user, cursor, mut events) = (user.clone(), client.cursor().unwrap().to_owned(), Vec::new());
            readers.spawn(async move {
                while events.last().is_none_or(|(_, event): &(_, SseEvent)| event.event != "over") {
                    let next = client.next(Duration::from_secs(60)).await;
                    let event = next.unwrap_or_else(|| panic!("{user} on {transport:?} heard no end: {client:?}"));
                    events.push((Instant::now(), event));
                }
                Heard { user, cursor, events }
            });
        }
        readers
    }

    async fn publish(&self, items: Vec<Value>) {
        let authorization = format!("ApiKey {API_KEY}");
        let answer = http::post(self.apps[0].addr, "/v1/publish/batch", &authorization, &Value::from(items)).await;
        assert_eq!(answer.status, 202, "{}", answer.text());
    }

    /// Publishes on all documents, with the time of it, until everything has been taken away.
    async fn load(&self, stop: &AtomicBool) {
        let (quick, full) = PUBLISHED_EVERY_MS;
        let mut every = tokio::time::interval(Duration::from_millis(times(quick, full) as u64));
        while !stop.load(Ordering::Relaxed) {
            every.tick().await;
            let at = self.begun.elapsed().as_micros() as u64;
            let channels = self.documents.iter().map(|document| format!("docs.{document}"));
            self.publish(channels.map(|channel| json!({ "channel": channel, "data": { "at": at } })).collect()).await;
        }
    }

    /// Takes every permission away, in any order and at any instant, over so long; answers when each was begun to be taken.
    async fn revoke(&self, over: Duration) -> HashMap<(String, String), Instant> {
        let mut pairs: Vec<(String, String)> =
            self.users.iter().flat_map(|user| self.documents.iter().map(|d| (user.clone(), d.clone()))).collect();
        fastrand::shuffle(&mut pairs);
        let mut revoked = HashMap::new();
        let mean_us = over.as_micros() as u64 / pairs.len() as u64;
        for (user, document) in pairs {
            pace(Duration::from_micros(fastrand::u64(0..=2 * mean_us))).await;
            let now = Instant::now();
            self.world.store.remove_role(&id(&document), &id(&user)).await.unwrap();
            revoked.insert((user, document), now);
        }
        revoked
    }

    /// Everything at once; the load goes on for so long after the last revocation.
    async fn run(&self, over: Duration, after: Duration) -> (Outcome, Vec<Heard>) {
        let readers = self.read().await;
        let stop = Arc::new(AtomicBool::new(false));
        let revoking = async {
            let revoked = self.revoke(over).await;
            pace(after).await; // in which nothing may come
            stop.store(true, Ordering::Relaxed);
            revoked
        };
        let ((), revoked) = tokio::join!(self.load(&stop), revoking);
        let over =
            self.users.iter().map(|user| json!({ "channel": format!("user.{user}"), "event": "over", "data": {} }));
        self.publish(over.collect()).await;
        let heard = readers.join_all().await;
        (self.judge(&revoked, &heard), heard)
    }

    fn judge(&self, revoked: &HashMap<(String, String), Instant>, heard: &[Heard]) -> Outcome {
        let (mut lasted, mut late) = (Vec::new(), Vec::new());
        for reader in heard {
            for document in &self.documents {
                let taken = revoked[&(reader.user.clone(), document.clone())];
                let channel = format!("docs.{document}");
                let of_it =
                    |(_, event): &&(Instant, SseEvent)| event.data["at"].is_u64() && event.text("channel") == channel;
                let events: Vec<&(Instant, SseEvent)> = reader.events.iter().filter(of_it).collect();
                let last = events.last().map_or(taken, |(when, _)| *when);
                lasted.push(last.saturating_duration_since(taken));
                let published =
                    |event: &SseEvent| self.begun + Duration::from_micros(event.data["at"].as_u64().unwrap());
                late.extend(events.iter().map(|(_, event)| published(event).saturating_duration_since(taken)));
            }
        }
        Outcome { lasted, late }
    }

    /// Nobody gets any of it by asking again from before, on any transport.
    async fn assert_nothing_is_replayed(&self, heard: &[Heard]) {
        for (at, reader) in heard.iter().enumerate() {
            let (transport, app) = (Transport::ALL[(at + 1) % 3], &self.apps[at % 2]);
            let token = tokens::for_user(&reader.user);
            let mut client =
                Client::open(transport, app.addr, &token, &self.query(), Some(&reader.cursor)).await.unwrap();
            let replay = client.until("over").await;
            assert!(replay.iter().all(|event| event.data["at"].is_null()), "{replay:#?}");
            assert_eq!(replay[0].data["denied"].as_array().unwrap().len(), self.documents.len());
        }
    }

    async fn stop(self) {
        for app in &self.apps {
            app.until_empty().await;
            app.app.stop().await;
        }
    }
}

/// As many users and documents as make so many revocations.
fn size() -> (usize, usize) {
    let users = times(6, 30);
    (users, times(42, 1020) / users)
}

async fn until_announced(scene: &Scene) {
    for app in &scene.apps {
        app.until_announced().await;
    }
}

/// With notifications up.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_stops_at_once() {
    let (users, documents) = size();
    let scene = Scene::new(World::full().await, users, documents).await;
    until_announced(&scene).await;
    let over = Duration::from_secs(times(2, 20) as u64);
    let most = bound(ANNOUNCED_AMONG_OTHERS_MAX, ANNOUNCED_MAX);
    let (outcome, heard) = scene.run(over, most * 2).await;
    println!("revocations: {}, p99 {:?}", outcome.lasted.len(), outcome.p99());
    assert!(outcome.p99() < most, "{:?}", outcome.p99());
    assert_eq!(outcome.late(most), 0, "published after the bound, and delivered");
    scene.assert_nothing_is_replayed(&heard).await;
    scene.stop().await;
}

/// Behind something that can be made to take `LISTEN` and to deliver nothing.
async fn behind_a_pooler((users, documents): (usize, usize), sweeps: bool) -> (Scene, DeafProxy) {
    let postgres = Postgres::shared().await;
    let proxy = DeafProxy::start(postgres.port()).await;
    let mut world = World::redis().await;
    let url = postgres.database().await;
    world.store = Store::open(&with_database(&world, &url), &Metrics::new()).await.unwrap();
    let there = format!("127.0.0.1:{}", postgres.port());
    world.config.database_url = Secret::new(url.replace(&there, &proxy.addr().to_string()));
    world.config.hooks.sweeps = sweeps;
    let scene = Scene::new(world, users, documents).await;
    until_announced(&scene).await;
    (scene, proxy)
}

/// Behind something that takes `LISTEN` and delivers nothing, from the middle of it on: noticed, and asked for instead.
#[tokio::test(flavor = "multi_thread")]
async fn without_notifications_it_stops_before_long() {
    let (scene, proxy) = behind_a_pooler(size(), true).await;
    proxy.make_deaf(true);
    let over = Duration::from_secs(times(8, 30) as u64);
    let (outcome, heard) = scene.run(over, UNANNOUNCED_MAX).await;
    println!("revocations without notifications: {}, p99 {:?}", outcome.lasted.len(), outcome.p99());
    assert!(proxy.dropped() > 0, "the notifications were cut");
    assert!(outcome.p99() < UNANNOUNCED_MAX, "{:?}", outcome.p99());
    assert_eq!(outcome.late(UNANNOUNCED_MAX), 0, "published after the bound, and delivered");
    scene.assert_nothing_is_replayed(&heard).await;
    // They come back, and with them the shorter bound.
    proxy.make_deaf(false);
    eventually("changes are announced again", Duration::from_secs(15), async || {
        scene.apps.iter().all(|app| app.app.shared.sessions.authorizer.changes().are_announced()).then_some(())
    })
    .await;
    scene.stop().await;
}

/// The same behind a real one, where it is installed.
#[tokio::test(flavor = "multi_thread")]
async fn behind_pgbouncer_in_transaction_mode_it_stops_before_long() {
    let postgres = Postgres::shared().await;
    let Some(pooler) = PgBouncer::start(postgres.port()).await else { return };
    let mut world = World::full().await;
    world.config.database_url = Secret::new(pooler.url_of(world.config.database_url.expose()));
    let env = world.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let server = Server::spawn(&env).await;
    let (users, documents) = size();
    let scene = Scene::new(world, users, documents).await;
    let over = Duration::from_secs(times(2, 30) as u64);
    let (outcome, heard) = scene.run(over, UNANNOUNCED_MAX).await;
    println!("revocations behind PgBouncer: {}, p99 {:?}", outcome.lasted.len(), outcome.p99());
    assert!(outcome.p99() < UNANNOUNCED_MAX, "{:?}", outcome.p99());
    assert_eq!(outcome.late(UNANNOUNCED_MAX), 0, "published after the bound, and delivered");
    scene.assert_nothing_is_replayed(&heard).await;
    for app in &scene.apps {
        assert!(!app.app.shared.sessions.authorizer.changes().are_announced());
        let text = String::from_utf8(app.app.shared.metrics.render()).unwrap();
        let asked = text.lines().filter(|line| line.starts_with("realtime_store_queries_total"));
        let failed: Vec<&str> =
            asked.filter(|line| !line.contains("outcome=\"ok\"") && !line.ends_with(" 0")).collect();
        assert!(failed.is_empty(), "every question is answered: {failed:#?}");
    }
    let says = |line: &String| line.contains("PgBouncer") && line.contains("changes of permissions are not announced");
    assert_eq!(server.logs().iter().filter(|line| says(line)).count(), 1, "{:#?}", server.logs());
    scene.stop().await;
}

fn with_database(world: &World, url: &str) -> tidings::config::Config {
    tidings::config::Config { database_url: Secret::new(url), ..world.config.clone() }
}

/// The same measurement where the mechanisms are switched off: both bounds must be seen to be broken.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_mechanisms_the_measurement_sees_both_bounds_broken() {
    tokio::join!(nothing_is_announced(), nothing_is_announced_and_nobody_asks());
}

/// Without its triggers the database says nothing of changes, and the asking in their place is switched off.
async fn nothing_is_announced() {
    let mut world = World::full().await;
    world.config.hooks.sweeps = false;
    let url = world.config.database_url.expose().to_owned();
    let scene = Scene::new(world, 3, 2).await;
    until_announced(&scene).await;
    let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
    connection.execute("ALTER TABLE tidings.document_permissions DISABLE TRIGGER USER").await.unwrap();
    assert_broken("no triggers", scene).await;
}

/// Notifications are cut, which is noticed, and the asking in their place is switched off: what stops deliveries there is that alone.
async fn nothing_is_announced_and_nobody_asks() {
    let (scene, proxy) = behind_a_pooler((3, 2), false).await;
    proxy.make_deaf(true);
    eventually("it is noticed", Duration::from_secs(15), async || {
        let announced = |app: &TestApp| app.app.shared.sessions.authorizer.changes().are_announced();
        (!scene.apps.iter().any(announced)).then_some(())
    })
    .await;
    assert_broken("no notifications and no sweep", scene).await;
    assert!(proxy.dropped() > 0, "the notifications were cut");
}

async fn assert_broken(what: &str, scene: Scene) {
    let (outcome, _) = scene.run(Duration::from_millis(100), UNANNOUNCED_MAX + Duration::from_secs(1)).await;
    let (fast, slow) = (outcome.late(ANNOUNCED_MAX), outcome.late(UNANNOUNCED_MAX));
    println!("negative control, {what}: {fast} delivered beyond the first bound, {slow} beyond the second");
    assert!(fast > 0 && outcome.p99() > ANNOUNCED_MAX, "{what}: the first bound is measured");
    assert!(slow > 0 && outcome.p99() > UNANNOUNCED_MAX, "{what}: the second bound is measured");
    scene.stop().await;
}
