//! Who is there, over several instances: the same for everybody, whatever happens to one of them.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tidings::broker::NODE_LEASE;
use tidings::store::Role;
use tokio::time::Instant;

use crate::chaos::bound;
use crate::chaos::times;
use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::eventually;
use crate::support::http;
use crate::support::pace;
use crate::support::redis::RedisOptions;
use crate::support::redis::RedisServer;
use crate::support::sse::SseEvent;
use crate::support::tokens;

const GRACE: Duration = Duration::from_millis(1500);
/// Where lives are to be short.
const HASTY: Duration = Duration::from_millis(300);

/// Instances at one Redis, of which every second writes through hyper.
async fn cluster(instances: usize, people: usize) -> (World, Vec<TestApp>) {
    cluster_with(instances, people, GRACE).await
}

async fn cluster_with(instances: usize, people: usize, grace: Duration) -> (World, Vec<TestApp>) {
    let mut world = World::full().await.mixed();
    world.config.presence_grace = grace;
    world.document("d1", "ada", &[("ada", Role::Owner), ("ben", Role::Editor)]).await;
    for at in 0..people {
        world.document("d1", "ada", &[(&person(at), Role::Viewer)]).await;
    }
    let mut apps = Vec::new();
    for _ in 0..instances {
        apps.push(world.start().await);
    }
    (world, apps)
}

fn person(at: usize) -> String {
    format!("p{at:03}")
}

async fn open(app: &TestApp, transport: Transport, user: &str, query: &str) -> (Client, Vec<SseEvent>) {
    let opened = Client::open(transport, app.addr, &tokens::for_user(user), query, None).await;
    let mut client = opened.unwrap();
    let opening = client.until("ready").await;
    (client, opening)
}

async fn users(app: &TestApp) -> BTreeSet<String> {
    let state = http::get(app.addr, "/v1/presence/d1", &tokens::for_user("ada")).await.json();
    let members = state["members"].as_array().unwrap().iter();
    members.map(|member| member["userId"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_word_through_any_instance_is_that_of_the_stream() {
    let (_world, apps) = cluster(2, 0).await;
    let (mut ada, _) = open(&apps[0], Transport::Sse, "ada", "channels=presence.d1").await;
    let (mut ben, opening) = open(&apps[0], Transport::Sse, "ben", "channels=presence.d1&session=bens-page").await;
    ada.find("ben", |event| event.event == "presence:user-joined").await;
    let connection = opening[0].text("connectionId").to_owned();
    let authorization = format!("Bearer {}", tokens::for_user("ben"));
    for (n, means) in [json!({"connectionId": connection}), json!({"session": "bens-page"})].into_iter().enumerate() {
        for app in &apps {
            let x = n * 10 + usize::from(app.addr == apps[0].addr);
            let mut body = means.clone();
            body["cursor"] = json!({"x": x, "y": 0});
            let answer = http::post(app.addr, "/v1/presence/d1", &authorization, &body).await;
            assert_eq!(answer.status, 204, "{}", answer.text());
            let moved = ada.find("the move", |event| event.event == "presence:update").await;
            assert_eq!(moved.data["cursor"]["x"], json!(x));
            assert!(moved.data.get("devices").is_none(), "no further device: {}", moved.data);
        }
    }
    let nobody = json!({"session": "nobodys-page", "typing": true});
    assert_eq!(http::post(apps[1].addr, "/v1/presence/d1", &authorization, &nobody).await.status, 404);
    while let Some(event) = ben.next(Duration::from_millis(300)).await {
        assert!(!event.event.starts_with("presence:"), "an echo: {event:?}");
    }
    let away = "/v1/presence/d1?session=bens-page";
    let answer = http::request(apps[1].addr, "DELETE", away, &[("Authorization", &authorization)], b"").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    ada.find("ben leaves", |event| event.event == "presence:user-left").await;
    ben.find("unsubscribed", |event| event.event == "unsubscribed").await;
    for app in apps {
        app.app.stop().await;
    }
}

/// Whoever is sent away by a drain and comes back elsewhere has not left.
#[tokio::test]
async fn a_drain_hands_people_over() {
    let (_world, apps) = cluster(2, 6).await;
    let (mut ada, _) = open(&apps[1], Transport::Sse, "ada", "channels=presence.d1").await;
    let mut people = Vec::new();
    for at in 0..6 {
        let transport = Transport::STREAMS[at % 2];
        people.push((at, open(&apps[0], transport, &person(at), "channels=presence.d1").await.0));
    }
    let mut joined = BTreeSet::new();
    while joined.len() < 6 {
        let event = ada.find("everybody", |event| event.event == "presence:user-joined").await;
        assert!(joined.insert(event.text("userId").to_owned()));
    }
    let mut apps = apps.into_iter();
    let (leaving, staying) = (apps.next().unwrap(), apps.next().unwrap());
    let drained = tokio::spawn(async move { leaving.app.drain().await });
    let mut back = Vec::new();
    for (at, mut client) in people {
        let end = client.until_end(Duration::from_secs(5)).await;
        assert_eq!(end.last().map(|event| event.text("reason")), Some("drain"));
        back.push(open(&staying, Transport::STREAMS[at % 2], &person(at), "channels=presence.d1").await.0);
    }
    drained.await.unwrap();
    let until = Instant::now() + Duration::from_secs(8);
    while let Some(event) = ada.next(until.saturating_duration_since(Instant::now())).await {
        assert!(!event.event.starts_with("presence:user"), "handed over, not left: {event:?}");
    }
    assert_eq!(users(&staying).await.len(), 7);
    staying.app.stop().await;
}

/// What an observer was told, held to the grammar of lives.
#[derive(Default)]
struct Observer {
    there: BTreeSet<String>,
    lives: BTreeMap<String, usize>,
}

impl Observer {
    fn sees(&mut self, event: &SseEvent) {
        let user = || event.data["userId"].as_str().unwrap_or_default().to_owned();
        match event.event.as_str() {
            "presence:state" => {
                let members = event.data["members"].as_array().unwrap().iter();
                self.there = members.map(|member| member["userId"].as_str().unwrap().to_owned()).collect();
            }
            "presence:user-joined" => {
                assert!(self.there.insert(user()), "{} joined twice", user());
                *self.lives.entry(user()).or_default() += 1;
            }
            "presence:user-left" => assert!(self.there.remove(&user()), "{} left without being there", user()),
            "presence:update" => assert!(self.there.contains(&user()), "{} moved without being there", user()),
            _ => {}
        }
    }
}

/// Observers of every instance, on every transport, until they are told to stop.
struct Observers {
    watching: tokio::task::JoinSet<Observer>,
    stop: tokio_util::sync::CancellationToken,
}

impl Observers {
    async fn of(apps: &[TestApp]) -> Self {
        let mut this = Self { watching: tokio::task::JoinSet::new(), stop: tokio_util::sync::CancellationToken::new() };
        for app in apps {
            for transport in Transport::STREAMS {
                let (client, opening) = open(app, transport, "ada", "channels=presence.d1&observe=1").await;
                let mut observer = Observer::default();
                opening.iter().for_each(|event| observer.sees(event));
                this.watching.spawn(watch(observer, client, this.stop.clone()));
            }
        }
        this
    }

    /// What each has seen, after a moment for what is on its way.
    async fn stop(mut self) -> Vec<Observer> {
        pace(Duration::from_millis(300)).await;
        self.stop.cancel();
        let mut seen = Vec::new();
        while let Some(observer) = self.watching.join_next().await {
            seen.push(observer.unwrap());
        }
        seen
    }
}

async fn watch(mut observer: Observer, mut client: Client, stop: tokio_util::sync::CancellationToken) -> Observer {
    while let Some(event) = stop.run_until_cancelled(client.next(Duration::from_secs(30))).await {
        observer.sees(&event.expect("an observer's stream goes on"));
    }
    observer
}

/// Comes and goes with up to three devices, wherever. Answers those that stay.
async fn wander(user: String, addrs: Vec<SocketAddr>, until: Instant) -> (String, Vec<Client>) {
    let mut devices: Vec<Client> = Vec::new();
    while Instant::now() < until {
        match fastrand::u8(..4) {
            0 | 1 if devices.len() < 3 => {
                let (addr, transport) =
                    (addrs[fastrand::usize(..addrs.len())], Transport::STREAMS[fastrand::usize(..2)]);
                let query = "channels=presence.d1";
                let mut client = match Client::open(transport, addr, &tokens::for_user(&user), query, None).await {
                    Ok(client) => client,
                    // A crowd may be too much for the database of a busy machine: it is told so, and comes back.
                    Err(answer) if answer.status == 503 => continue,
                    Err(answer) => panic!("{answer:?}"),
                };
                if fastrand::bool() {
                    let begins = |event: &SseEvent| ["ready", "problem", "error"].contains(&event.event.as_str());
                    client.until_that("a beginning", begins).await;
                }
                devices.push(client);
            }
            2 => drop(devices.pop()),
            _ => {}
        }
        for client in &mut devices {
            // Or it would be too slow, and be cut.
            for _ in 0..500 {
                if client.next(Duration::from_millis(1)).await.is_none() {
                    break;
                }
            }
        }
        // Everybody is told of everybody: with so many, each changes their mind less often.
        pace(Duration::from_millis(fastrand::u64(20..times(400, 3000) as u64))).await;
    }
    // Whoever stays is there: the answer of a stream that is just opened may still be under way.
    for client in &mut devices {
        while client.next(Duration::from_millis(50)).await.is_some() {}
    }
    // Some were told that it was too much at the moment.
    devices.retain(|client| !client.has_ended());
    (user, devices)
}

/// People join and leave at random through three instances: all agree with the truth soon after the last change.
#[tokio::test]
async fn everybody_agrees_after_everybody_has_come_and_gone() {
    let (people, seconds) = (times(24, 200), times(6, 60));
    let (_world, apps) = cluster_with(3, people, HASTY).await;
    let observers = Observers::of(&apps).await;
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let addrs: Vec<SocketAddr> = apps.iter().map(|app| app.addr).collect();
    let mut coming: tokio::task::JoinSet<_> = (0..people).map(|at| wander(person(at), addrs.clone(), until)).collect();
    let (mut truth, mut open) = (BTreeSet::new(), Vec::new());
    while let Some(done) = coming.join_next().await {
        let (user, devices) = done.unwrap();
        truth.extend((!devices.is_empty()).then_some(user));
        open.extend(devices);
    }
    let until = Instant::now() + HASTY + Duration::from_secs(5);
    for app in &apps {
        let mut known = users(app).await;
        while known != truth && Instant::now() < until {
            pace(Duration::from_millis(50)).await;
            known = users(app).await;
        }
        let (more, less): (Vec<_>, Vec<_>) = (known.difference(&truth).collect(), truth.difference(&known).collect());
        assert!(known == truth, "of {}: ghosts {more:?}, missing {less:?}", truth.len());
    }
    let seen = observers.stop().await;
    let count: usize = seen[0].lives.values().sum();
    println!("{people} people, {seconds} s: {count} lives seen by each of {} observers", seen.len());
    assert!(seen.iter().all(|observer| observer.there == truth), "what was told is what is");
    assert!(seen.iter().all(|observer| observer.lives == seen[0].lives), "everybody saw the same lives");
    assert!(count >= people, "{count} lives");
    drop(open);
    for app in apps {
        app.app.stop().await;
    }
}

fn is_left(user: &str) -> impl Fn(&SseEvent) -> bool {
    move |event| event.event == "presence:user-left" && event.data["userId"] == user
}

/// An instance that dies takes its people with it within ten seconds, once, unless they come back elsewhere.
#[tokio::test]
async fn an_instance_that_dies_leaves_no_ghosts() {
    let (_world, apps) = cluster(3, 2).await;
    let (mut ada, _) = open(&apps[0], Transport::Sse, "ada", "channels=presence.d1").await;
    let (mut watcher, _) = open(&apps[2], Transport::Ws, "ben", "channels=presence.d1").await;
    let (gone, _) = open(&apps[1], Transport::Sse, "p000", "channels=presence.d1").await;
    let (back, _) = open(&apps[1], Transport::Ws, "p001", "channels=presence.d1").await;
    ada.until_that("both", |event| event.data["userId"] == "p001").await;
    let mut apps = apps.into_iter();
    let (one, dies, other) = (apps.next().unwrap(), apps.next().unwrap(), apps.next().unwrap());
    let died = Instant::now();
    dies.app.abandon();
    drop((gone, back));
    let (_here, _) = open(&other, Transport::Sse, "p001", "channels=presence.d1").await;
    let left = ada.until_that("p000 leaves", is_left("p000")).await;
    assert!(died.elapsed() < bound(Duration::from_secs(20), Duration::from_secs(10)), "{:?}", died.elapsed());
    assert_eq!(left.last().unwrap().text("cause"), "node_lost");
    watcher.until_that("the same elsewhere", is_left("p000")).await;
    let until = Instant::now() + Duration::from_secs(4);
    while let Some(event) = ada.next(until.saturating_duration_since(Instant::now())).await {
        assert!(!event.event.starts_with("presence:user"), "nothing twice, and nobody who came back: {event:?}");
    }
    assert_eq!(users(&other).await, BTreeSet::from(["ada", "ben", "p001"].map(str::to_owned)));
    for app in [one, other] {
        app.app.stop().await;
    }
}

/// What one instance did not hear, and what Redis has forgotten: all are of one mind again within five seconds, and nobody who is there
/// is ever told to have left.
#[tokio::test]
async fn whatever_is_lost_all_are_of_one_mind_within_five_seconds() {
    let server = RedisServer::start(RedisOptions::default()).await;
    let world = World::on(&server).await;
    world.document("d1", "ada", &[("ada", Role::Owner)]).await;
    for at in 0..20 {
        world.document("d1", "ada", &[(&person(at), Role::Viewer)]).await;
    }
    let apps = [world.start().await, world.start().await];
    let observers = Observers::of(&apps).await;
    let mut here = Vec::new();
    for (round, fault) in [["CLIENT", "KILL", "TYPE", "pubsub"].as_slice(), &["FLUSHALL"]].into_iter().enumerate() {
        for at in 0..10 {
            let at = round * 10 + at;
            if at % 10 == 5 {
                server.cli(fault).await.unwrap();
            }
            let user = person(at);
            // While the connection is made anew somebody may have to come again.
            let client = eventually("somebody comes", SOON, async || {
                let query = "channels=presence.d1";
                let addr = apps[at % 2].addr;
                let mut client =
                    Client::open(Transport::Sse, addr, &tokens::for_user(&user), query, None).await.ok()?;
                let begins = |event: &SseEvent| ["ready", "problem"].contains(&event.event.as_str());
                let begun = client.until_that("a beginning", begins).await;
                (begun.last()?.event == "ready").then_some(client)
            })
            .await;
            here.push(client);
        }
        let changed = Instant::now();
        let truth: BTreeSet<String> = (0..here.len()).map(person).collect();
        for app in &apps {
            eventually("it knows who is there", SOON, async || (users(app).await == truth).then_some(())).await;
        }
        println!("{fault:?}: of one mind after {:.2?}", changed.elapsed());
    }
    // Whoever was not said again to be there would have left by then.
    pace(NODE_LEASE + Duration::from_secs(2)).await;
    for observer in observers.stop().await {
        assert_eq!(observer.there.len(), here.len());
        assert!(observer.lives.values().all(|lives| *lives <= 1), "nobody left: {:?}", observer.lives);
    }
    for app in apps {
        app.app.stop().await;
    }
}
