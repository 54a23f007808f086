//! Clients that change instance and transport at random and come back with the cursor they have: nothing is lost, repeated or turned back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use crate::chaos::expected;
use crate::chaos::numbered;
use crate::chaos::seen_all;
use crate::chaos::times;
use crate::support::SOON;
use crate::support::app::TestApp;
use crate::support::app::World;
use crate::support::client::Client;
use crate::support::client::Transport;
use crate::support::follower::Connection;
use crate::support::follower::Journal;
use crate::support::sse::SseEvent;
use crate::support::tokens;

const JOBS: [&str; 5] = ["h0", "h1", "h2", "h3", "h4"];
const CLIENTS: usize = 6;
/// A client that is never long at one place.
struct Hopper<'a> {
    addrs: &'a [SocketAddr],
    cursor: Option<String>,
    journal: Journal,
    /// How often it changed its transport, and its instance.
    changed: (usize, usize),
    was: Option<(Transport, usize)>,
}

impl Hopper<'_> {
    /// Somewhere else, with the cursor it has.
    async fn connect(&mut self) -> Client {
        let at = fastrand::usize(0..self.addrs.len());
        let transport = Transport::ALL[fastrand::usize(0..3)];
        if let Some((transport_before, before)) = self.was.replace((transport, at)) {
            self.changed.0 += usize::from(transport_before != transport);
            self.changed.1 += usize::from(before != at);
        }
        let query = format!("channels={}", JOBS.map(|job| format!("jobs.{job}")).join(","));
        let cursor = self.cursor.as_deref();
        let opened = Client::open(transport, self.addrs[at], &tokens::for_user("ada"), &query, cursor).await;
        self.journal.connections.push(Connection {
            address: at,
            sent_id: self.cursor.clone(),
            ..Connection::default()
        });
        opened.unwrap_or_else(|answer| panic!("{transport:?}: {} {}", answer.status, answer.text()))
    }

    fn write_down(&mut self, event: SseEvent) {
        let number = self.journal.connections.len() - 1;
        if event.event == "connected" {
            self.journal.connections[number].verdicts = verdicts(&event);
        }
        self.journal.events.push((number, event));
    }

    /// Hears so many events of one connection, wherever that leaves it: in the replay, before `ready`, behind it.
    async fn hear(&mut self, events: usize) {
        let mut client = self.connect().await;
        for _ in 0..events {
            let Some(event) = client.next(Duration::from_secs(2)).await else { break };
            self.write_down(event);
        }
        self.cursor = client.cursor().map(str::to_owned);
    }

    async fn hear_all(&mut self, record: &BTreeMap<String, u64>) {
        let mut client = self.connect().await;
        let seen = seen_all(record);
        while !seen(&self.journal) {
            let event = client.next(SOON).await.unwrap_or_else(|| panic!("{record:?} does not come"));
            self.write_down(event);
        }
    }
}

fn verdicts(connected: &SseEvent) -> Vec<(String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let entries = connected.data["channels"].as_array().cloned().unwrap_or_default();
    entries.iter().map(|entry| (text(&entry["channel"]), text(&entry["verdict"]))).collect()
}

/// Every update is a change of status, so that none may be conflated; each is accepted by any of the instances.
async fn work(apps: &[TestApp], stop: &AtomicBool) -> BTreeMap<String, u64> {
    let mut record = BTreeMap::new();
    for turn in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let job = JOBS[turn % JOBS.len()];
        let n = record.entry(job.to_owned()).or_insert(0);
        *n += 1;
        apps[fastrand::usize(0..apps.len())].update(job, numbered(job, *n)).await;
    }
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_loses_and_repeats_nothing_between_transports_and_instances() {
    let hops = times(60, 1000).div_ceil(CLIENTS);
    let world = World::full().await.mixed();
    world.people(&[("ada", &JOBS)]).await;
    let mut apps = Vec::new();
    for _ in 0..3 {
        apps.push(world.start().await);
    }
    let addrs: Vec<SocketAddr> = apps.iter().map(|app| app.addr).collect();
    let stop = AtomicBool::new(false);
    let hopping = async {
        let hoppers = (0..CLIENTS).map(async |_| {
            let (journal, changed) = (Journal::default(), (0, 0));
            let mut hopper = Hopper { addrs: &addrs, cursor: None, journal, changed, was: None };
            for _ in 0..hops {
                hopper.hear(fastrand::usize(0..24)).await;
            }
            hopper
        });
        let hoppers = join_all(hoppers).await;
        stop.store(true, Ordering::Relaxed);
        hoppers
    };
    let (record, mut hoppers) = tokio::join!(work(&apps, &stop), hopping);
    join_all(hoppers.iter_mut().map(|hopper| hopper.hear_all(&record))).await;
    let (mut delivered, mut transports, mut instances) = (0, 0, 0);
    for hopper in &hoppers {
        let checked = hopper.journal.check_sequence(&expected(&record));
        checked.assert_clean();
        delivered += checked.delivered;
        (transports, instances) = (transports + hopper.changed.0, instances + hopper.changed.1);
    }
    assert!(delivered > 0 && transports > 0 && instances > 0);
    println!(
        "hops: {}, of which {transports} to another transport and {instances} to another instance; {delivered} delivered, 0 lost, 0 repeated, 0 out of order",
        hops * CLIENTS
    );
    drop(hoppers);
    for app in apps {
        app.until_empty().await;
        app.app.stop().await;
    }
}
