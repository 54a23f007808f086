//! Attackers beside people: thousands of connections that say nothing, too little or too slowly, that don't read, or that come and go.
//! Whoever is there loses nothing and waits no longer, whoever comes gets in, and afterwards everything is as before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::chaos::times;
use crate::support::SOON;
use crate::support::app::API_KEY;
use crate::support::app::World;
use crate::support::eventually;
use crate::support::figures::median;
use crate::support::figures::p99;
use crate::support::http;
use crate::support::pace;
use crate::support::process::Server;
use crate::support::sse::SseClient;
use crate::support::tokens;

const FIRST_BYTE: Duration = Duration::from_secs(3);
/// How long the connections of those who don't read may stay.
const UNREAD_MAX: Duration = Duration::from_secs(90);
const ROUNDS: u64 = 3;
/// Updates of a round; each is told to everybody.
const UPDATES: u64 = 20;

/// What an attacker does, again and again.
#[derive(Debug, Clone, Copy)]
enum Attack {
    /// Connects and says nothing.
    Silent,
    /// Sends a head, a byte every now and then, and never its end.
    SlowHead,
    /// Sends one request and keeps the connection.
    Idle,
    /// Asks and asks, and reads no answer.
    Deaf,
    /// Connects and goes.
    Flood,
}

impl Attack {
    const ALL: [Self; 5] = [Self::Silent, Self::SlowHead, Self::Idle, Self::Deaf, Self::Flood];

    async fn run(self, addr: SocketAddr) {
        loop {
            // Refused, reset or closed: they try again.
            if self.once(addr).await.is_err() {
                pace(Duration::from_millis(50)).await;
            }
        }
    }

    async fn once(self, addr: SocketAddr) -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        if matches!(self, Self::Deaf) {
            socket.set_recv_buffer_size(4096)?;
        }
        let mut socket = socket.connect(addr).await?;
        match self {
            Self::Silent => drop(socket.read(&mut [0; 64]).await?),
            Self::SlowHead => {
                for byte in
                    b"GET /v1/events?channels=user.me HTTP/1.1\r\nHost: x\r\nX-Slow: ".iter().chain([b'x'; 100].iter())
                {
                    socket.write_all(&[*byte]).await?;
                    pace(Duration::from_millis(100)).await;
                }
            }
            Self::Idle => {
                socket.write_all(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n").await?;
                while socket.read(&mut [0; 1024]).await? > 0 {}
            }
            Self::Deaf => return asks_and_reads_nothing(socket).await,
            Self::Flood => pace(Duration::from_millis(fastrand::u64(20..200))).await,
        }
        Ok(())
    }
}

/// Until the other end has had enough.
async fn asks_and_reads_nothing(mut socket: TcpStream) -> std::io::Result<()> {
    loop {
        socket.write_all(&b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n".repeat(20)).await?;
        pace(Duration::from_millis(20)).await;
    }
}

struct Scene {
    server: Server,
    _world: World,
    people: Vec<SseClient>,
    updates: u64,
}

impl Scene {
    async fn new(people: usize) -> Self {
        let world = World::redis().await;
        world.people(&[("ada", &["a"])]).await;
        let mut env = world.env();
        env.extend([("FIRST_BYTE_TIMEOUT_MS", FIRST_BYTE.as_millis().to_string())]);
        let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let server = Server::spawn(&env).await;
        let opening = stream::iter(0..people).map(|_| join(server.addr()));
        let people = opening.buffered(16).collect().await;
        Self { server, _world: world, people, updates: 0 }
    }

    /// Things happen, and everybody hears of each, in order: the 99th percentile of how long that took, in microseconds.
    async fn rounds(&mut self) -> u64 {
        let mut of_rounds = Vec::new();
        for _ in 0..ROUNDS {
            let from = self.updates + 1;
            let said = Arc::new(Mutex::new(BTreeMap::new()));
            let mut hearing = JoinSet::new();
            for person in std::mem::take(&mut self.people) {
                hearing.spawn(hear(person, from, Arc::clone(&said)));
            }
            for n in from..from + UPDATES {
                said.lock().insert(n, Instant::now());
                self.say(&json!({"channel": "user.ada", "data": {"n": n}, "idempotencyKey": n.to_string()})).await;
            }
            self.updates += UPDATES;
            let (people, delays): (Vec<SseClient>, Vec<Vec<u64>>) = hearing.join_all().await.into_iter().unzip();
            self.people = people;
            of_rounds.push(p99(delays.concat()));
        }
        median(of_rounds)
    }

    /// As a back end does it: what is answered with a time to come again is said again, by the same key.
    async fn say(&self, event: &serde_json::Value) {
        let (key, body) = (format!("ApiKey {API_KEY}"), event.to_string());
        let headers = [("Authorization", key.as_str()), ("Content-Type", "application/json")];
        let addr = self.server.addr();
        let request = http::bytes_of(addr, "POST", "/v1/publish", &headers, body.as_bytes());
        eventually("it is published", SOON, async || match http::try_raw(addr, &request).await {
            Ok(answer) if answer.status == 202 => Some(()),
            Ok(answer) if answer.status == 503 => None,
            answer => panic!("{answer:?}\n{}", self.server.logs().join("\n")),
        })
        .await;
    }

    async fn sockets(&self) -> f64 {
        let of =
            async |state| self.server.metric(&format!("realtime_sockets{{state=\"{state}\"}}")).await.unwrap_or(0.0);
        of("busy").await + of("idle").await + of("silent").await
    }
}

async fn join(addr: SocketAddr) -> SseClient {
    let token = format!("Bearer {}", tokens::for_user("ada"));
    let mut client =
        SseClient::connect(addr, "/v1/events?channels=user.me", &[("Authorization", &token)]).await.unwrap();
    client.until("ready").await;
    client
}

async fn hear(mut client: SseClient, from: u64, said: Arc<Mutex<BTreeMap<u64, Instant>>>) -> (SseClient, Vec<u64>) {
    let mut delays = Vec::new();
    for n in from..from + UPDATES {
        let event = client.find("an event", |event| event.event == "notification").await;
        assert_eq!(event.data["n"], n, "each, once and in order");
        let since = said.lock().get(&n).copied().expect("it was said before");
        delays.push(since.elapsed().as_micros() as u64);
    }
    (client, delays)
}

#[tokio::test(flavor = "multi_thread")]
async fn attackers_beside_people_take_nothing_from_them() {
    let (people, attackers) = (times(50, 500), times(300, 5000));
    let mut scene = Scene::new(people).await;
    scene.rounds().await;
    let (before, memory, sockets) = (scene.rounds().await, scene.server.memory(), scene.sockets().await);
    let addr = scene.server.addr();
    let mut attack = JoinSet::new();
    for n in 0..attackers {
        attack.spawn(Attack::ALL[n % Attack::ALL.len()].run(addr));
    }
    let wanted = sockets + attackers as f64 / 3.0;
    eventually("the attack is on", Duration::from_secs(30), async || (scene.sockets().await >= wanted).then_some(()))
        .await;
    let during = scene.rounds().await;
    let most = scene.server.memory();
    // Who comes meanwhile gets in.
    let begun = Instant::now();
    for _ in 0..5 {
        drop(join(addr).await);
    }
    let joined = begun.elapsed() / 5;
    attack.shutdown().await;
    eventually("their connections are gone", UNREAD_MAX, async || {
        (scene.sockets().await <= sockets + 2.0).then_some(())
    })
    .await;
    let after = scene.rounds().await;
    let left = scene.server.memory();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!(
        "flood: {attackers} attackers beside {people}: p99 {before} µs before, {during} during, {after} after; memory {:.1}, {:.1}, {:.1} MiB; a newcomer took {joined:?}",
        mib(memory),
        mib(most),
        mib(left)
    );
    // Clients, attackers and server share the cores here: what the server makes of it alone is measured by `load flood`.
    assert!(during < before * 10 + 1_000_000, "p99 {before} µs before, {during} µs during");
    assert!(left < memory + memory / 10 + (8 << 20), "{:.1} MiB before, {:.1} after", mib(memory), mib(left));
    assert!(joined < Duration::from_secs(5), "{joined:?}");
}

/// Who is not answered, or does not take the answer, is gone after a while, also when they hold on to the connection.
#[tokio::test(flavor = "multi_thread")]
async fn i43_nobody_holds_a_connection_for_nothing() {
    let scene = Scene::new(1).await;
    let (addr, before) = (scene.server.addr(), scene.sockets().await);
    let mut attack = JoinSet::new();
    for kind in [Attack::Silent, Attack::SlowHead, Attack::Idle, Attack::Deaf] {
        attack.spawn(async move {
            let begun = Instant::now();
            drop(kind.once(addr).await);
            (kind, begun.elapsed())
        });
    }
    while let Some(ended) = tokio::time::timeout(UNREAD_MAX, attack.join_next()).await.expect("each ends in time") {
        let (kind, after) = ended.unwrap();
        println!("{kind:?}: gone after {after:?}");
    }
    eventually("they are gone", FIRST_BYTE, async || (scene.sockets().await <= before).then_some(())).await;
}
