//! Departures of every kind: told once, in time, and nobody is left behind; and no departure where somebody only came back.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use tidings::store::Role;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::chaos::bound;
use crate::chaos::times;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::http;
use crate::support::pace;
use crate::support::process::Server;
use crate::support::proxy::ChaosProxy;
use crate::support::proxy::Mode;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::tokens;

/// Of each kind; a thousand in all.
fn people() -> usize {
    times(12, 200)
}

fn person(at: usize) -> String {
    format!("p{at:03}")
}

/// Two instances of their own at a Redis of their own, and somebody who looks on at each.
struct Site {
    world: World,
    redis: RedisServer,
    servers: Vec<Server>,
    watching: JoinSet<Log>,
    stop: CancellationToken,
}

/// What one observer was told: joined and left by person, in order, and when.
#[derive(Default)]
struct Log(BTreeMap<String, Vec<(bool, Instant, String)>>);

impl Site {
    async fn start() -> Self {
        let redis = RedisServer::start(RedisOptions { aof: true, port: None }).await;
        let world = World::on(&redis).await;
        world.document("d1", "ada", &[("ada", Role::Owner)]).await;
        for at in 0..people() {
            world.document("d1", "ada", &[(&person(at), Role::Viewer)]).await;
        }
        let mut this =
            Self { world, redis, servers: Vec::new(), watching: JoinSet::new(), stop: CancellationToken::new() };
        for _ in 0..2 {
            let environment = this.world.env();
            let environment: Vec<(&str, &str)> =
                environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut server = Server::spawn(&environment).await;
            server.ready().await;
            this.servers.push(server);
        }
        let addrs: Vec<_> = this.servers.iter().map(Server::addr).collect();
        for addr in addrs {
            let query = "channels=presence.d1&observe=1";
            let mut client = Client::open(Transport::Sse, addr, &tokens::for_user("ada"), query, None).await.unwrap();
            client.until("ready").await;
            this.watching.spawn(watch(client, this.stop.clone()));
        }
        this
    }

    /// Everybody comes, and is told of.
    async fn gather(&self, transport: Transport, addr: std::net::SocketAddr) -> Vec<Client> {
        let mut open = JoinSet::new();
        for at in 0..people() {
            open.spawn(async move {
                let query = "channels=presence.d1";
                let mut client =
                    Client::open(transport, addr, &tokens::for_user(&person(at)), query, None).await.unwrap();
                client.until("ready").await;
                client
            });
        }
        open.join_all().await
    }

    /// What each observer was told, in the end; and nobody is left anywhere.
    async fn end(mut self) -> Vec<Log> {
        for server in &self.servers {
            let state = http::get(server.addr(), "/v1/presence/d1", &tokens::for_user("ada")).await.json();
            assert_eq!(state["members"], serde_json::json!([]), "ghosts");
        }
        self.stop.cancel();
        let mut logs = Vec::new();
        while let Some(log) = self.watching.join_next().await {
            logs.push(log.unwrap());
        }
        logs
    }
}

async fn watch(mut client: Client, stop: CancellationToken) -> Log {
    let mut log = Log::default();
    while let Some(Some(event)) = stop.run_until_cancelled(client.next(Duration::from_secs(60))).await {
        let joined = match event.event.as_str() {
            "presence:user-joined" => true,
            "presence:user-left" => false,
            _ => continue,
        };
        let cause = event.data["cause"].as_str().unwrap_or_default().to_owned();
        log.0.entry(event.text("userId").to_owned()).or_default().push((joined, Instant::now(), cause));
    }
    log
}

/// Each life is one joined and one left, of one of these causes, no later than that; says how late they were.
fn each_left_once(what: &str, logs: &[Log], since: Instant, most: Duration, causes: &[&str]) {
    let mut delays = Vec::new();
    for log in logs {
        assert_eq!(log.0.len(), people(), "{what}: everybody was seen");
        for (user, told) in &log.0 {
            let order: Vec<bool> = told.iter().map(|(joined, ..)| *joined).collect();
            assert_eq!(order, [true, false], "{what}: {user}: {told:?}");
            assert!(causes.contains(&told[1].2.as_str()), "{what}: {user}: {told:?}");
            delays.push(told[1].1.duration_since(since));
        }
    }
    delays.sort_unstable();
    let (median, last) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    println!("{what}: {} departures seen by {}, median {median:.2?}, last {last:.2?}", people(), logs.len());
    assert!(last <= bound(most * 2, most), "{what}: {last:?}");
}

#[tokio::test]
async fn who_closes_has_left_within_seven_seconds() {
    for transport in Transport::STREAMS {
        let site = Site::start().await;
        let clients = site.gather(transport, site.servers[0].addr()).await;
        let left = Instant::now();
        drop(clients);
        pace(Duration::from_secs(8)).await;
        let logs = site.end().await;
        each_left_once(&format!("closed, {}", transport.as_str()), &logs, left, Duration::from_secs(7), &["closed"]);
    }
}

/// The proxy acknowledges in the dead client's place: only pings without an answer tell.
#[tokio::test]
async fn a_dead_websocket_behind_a_proxy_has_left_within_fifteen_seconds() {
    let site = Site::start().await;
    let proxy = ChaosProxy::start(site.servers[0].addr()).await;
    let clients = site.gather(Transport::Ws, proxy.addr()).await;
    let left = Instant::now();
    proxy.set_mode(Mode::Swallow);
    pace(Duration::from_secs(17)).await;
    let logs = site.end().await;
    each_left_once("black hole", &logs, left, Duration::from_secs(15), &["closed", "timeout"]);
    drop(clients);
}

#[tokio::test]
async fn who_was_at_an_instance_that_was_killed_has_left_within_ten_seconds() {
    let mut site = Site::start().await;
    let clients = site.gather(Transport::Sse, site.servers[1].addr()).await;
    let mut killed = site.servers.remove(1);
    let left = Instant::now();
    killed.kill();
    pace(Duration::from_secs(12)).await;
    let mut logs = site.end().await;
    logs.retain(|log| log.0.values().any(|told| told.len() > 1));
    assert_eq!(logs.len(), 1, "the observer at the other instance");
    each_left_once("killed", &logs, left, Duration::from_secs(10), &["node_lost"]);
    drop(clients);
}

/// Nobody can be told while Redis is away; afterwards everybody is, once.
#[tokio::test]
async fn who_closes_while_redis_is_away_has_left_when_it_is_back() {
    let away = Duration::from_secs(times(6, 20) as u64);
    let mut site = Site::start().await;
    let clients = site.gather(Transport::Ws, site.servers[0].addr()).await;
    let stays = {
        let query = "channels=presence.d1";
        let addr = site.servers[1].addr();
        let mut client = Client::open(Transport::Sse, addr, &tokens::for_user("ada"), query, None).await.unwrap();
        client.until("ready").await;
        client
    };
    site.redis.freeze();
    drop(clients);
    pace(away).await;
    site.redis.thaw();
    let back = Instant::now();
    pace(Duration::from_secs(16)).await;
    let state = http::get(site.servers[0].addr(), "/v1/presence/d1", &tokens::for_user("ada")).await.json();
    assert_eq!(state["members"].as_array().unwrap().len(), 1, "who stayed is there: {state}");
    drop(stays);
    pace(Duration::from_secs(7)).await;
    let mut logs = site.end().await;
    for log in &mut logs {
        let ada = log.0.remove("ada").unwrap();
        assert_eq!(ada.len(), 2, "who stayed was not sent away meanwhile: {ada:?}");
    }
    // A lease without sweeping, the grace, a look.
    each_left_once("redis away", &logs, back, Duration::from_secs(15), &["closed", "timeout"]);
}

/// Away for a moment and back, again and again, here and there: nothing is told.
#[tokio::test]
async fn who_flaps_within_the_grace_has_never_left() {
    let rounds = times(4, 20);
    let site = Site::start().await;
    let addrs: Vec<_> = site.servers.iter().map(Server::addr).collect();
    let mut clients = site.gather(Transport::Sse, addrs[0]).await;
    for round in 0..rounds {
        drop(std::mem::take(&mut clients));
        pace(Duration::from_secs(1)).await;
        clients = site.gather(Transport::STREAMS[round % 2], addrs[round % 2]).await;
    }
    let left = Instant::now();
    drop(clients);
    pace(Duration::from_secs(8)).await;
    let logs = site.end().await;
    each_left_once("flapping", &logs, left, Duration::from_secs(7), &["closed"]);
    let users: BTreeSet<&String> = logs[0].0.keys().collect();
    assert_eq!(users.len(), people());
}
