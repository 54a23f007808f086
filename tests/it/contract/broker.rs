//! What every broker promises, asked of the one in this process and of Redis.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidings::broker::Broker;
use tidings::broker::EventAppend;
use tidings::broker::EventOnce;
use tidings::broker::JobAppend;
use tidings::broker::JobOutcome;
use tidings::broker::MemoryBroker;
use tidings::broker::Once;
use tidings::broker::Outputs;
use tidings::broker::RedisBroker;
use tidings::broker::RedisSettings;
use tidings::broker::Seed;
use tidings::broker::TailMessage;
use tidings::config::Secret;
use tidings::event::Channel;
use tidings::event::Delivery;
use tidings::event::Entry;
use tidings::event::Event;
use tidings::event::EventName;
use tidings::event::Id;
use tidings::event::WindowLimits;
use tidings::jobs::JobUpdate;
use tidings::jobs::Reject;
use tidings::jobs::TerminalStatuses;
use tidings::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::support::SOON;
use crate::support::eventually;
use crate::support::redis::RedisServer;

/// A broker that runs, and everything that its tail has delivered.
pub(super) struct Bench {
    pub(super) broker: Broker,
    pub(super) log: Arc<Mutex<Vec<Arc<Entry>>>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

pub(super) fn terminal() -> TerminalStatuses {
    TerminalStatuses::new(BTreeSet::from(["completed", "failed", "cancelled"].map(str::to_owned)))
}

pub(super) fn settings(url: String, prefix: String) -> RedisSettings {
    RedisSettings {
        url: Secret::new(url),
        job_updates_channel: format!("{prefix}-updates"),
        channel_events_channel: format!("{prefix}-events"),
        prefix,
        retention: Duration::from_secs(600),
        entries_max: 100_000,
        window: WindowLimits { entries_max: 100_000, bytes_max: 1 << 28 },
    }
}

pub(super) fn fresh_prefix() -> String {
    format!("t{:016x}", fastrand::u64(..))
}

impl Bench {
    pub(super) async fn memory() -> Self {
        Self::run(Broker::Memory(MemoryBroker::new(terminal()))).await
    }

    pub(super) async fn redis() -> Self {
        Self::redis_with(settings(RedisServer::shared().await.url(), fresh_prefix())).await
    }

    pub(super) async fn redis_with(settings: RedisSettings) -> Self {
        Self::run(Broker::Redis(RedisBroker::new(settings, terminal(), Metrics::new()).unwrap())).await
    }

    async fn run(broker: Broker) -> Self {
        let (tail, mut messages) = mpsc::channel(1024);
        let (raw, mut ignored) = mpsc::channel(1024);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (running, stopping) = (broker.clone(), stop.clone());
        tasks.spawn(async move { running.run(Outputs { tail, raw }, stopping).await });
        tasks.spawn(async move { while ignored.recv().await.is_some() {} });
        let into = Arc::clone(&log);
        let (opened, mut is_open) = tokio::sync::watch::channel(false);
        tasks.spawn(async move {
            while let Some(message) = messages.recv().await {
                match message {
                    TailMessage::Opened { entries, .. } => {
                        *into.lock() = entries;
                        opened.send_replace(true);
                    }
                    TailMessage::Entries(entries) => into.lock().extend(entries),
                    TailMessage::Ephemeral(_) => {}
                }
            }
        });
        is_open.wait_for(|open| *open).await.unwrap();
        let bench = Self { broker, log, stop, tasks };
        eventually("the broker answers", SOON, async || bench.broker.job(&Id::parse("nobody").unwrap()).await.ok())
            .await;
        bench
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) async fn append(&self, text: &str, once: Once) -> JobOutcome {
        let update = JobUpdate::parse(text.as_bytes(), None).unwrap();
        let mut append = JobAppend { update: &update, once, seed: None, accepted_us: 1_700_000_000_000_000 };
        let nothing = Seed::default();
        let outcome = self.broker.append_job(&append).await.unwrap();
        if outcome != JobOutcome::Unknown {
            return outcome;
        }
        append.seed = Some(&nothing);
        self.broker.append_job(&append).await.unwrap()
    }

    pub(super) async fn settled(&self, count: usize) -> Vec<Arc<Entry>> {
        eventually("the tail delivers", SOON, async || {
            let log = self.log.lock();
            (log.len() >= count).then(|| log.clone())
        })
        .await
    }
}

pub(super) fn named() -> Once {
    Once::Named(format!("{:016x}", fastrand::u64(..)))
}

pub(super) fn is_applied(outcome: &JobOutcome) -> bool {
    matches!(outcome, JobOutcome::Applied(_))
}

/// The tail delivers what was appended, in the order of the answers, with growing positions.
async fn appends_arrive_in_order(bench: &Bench) {
    let mut cursors = Vec::new();
    for n in 0..50 {
        let job = n % 3;
        let outcome =
            bench.append(&format!("{{\"jobId\":\"{job}\",\"status\":\"running\",\"progress\":{n}}}"), named()).await;
        let JobOutcome::Applied(cursor) = outcome else { panic!("{outcome:?}") };
        cursors.push((cursor.at, cursor.print));
    }
    let log = bench.settled(50).await;
    assert_eq!(log.iter().map(|entry| (entry.id, entry.print)).collect::<Vec<_>>(), cursors);
    assert!(cursors.windows(2).all(|pair| pair[0].0 < pair[1].0));
}

/// The same bytes twice in a row are one update; after another one they are new. The same `updateId` is applied once.
async fn repetitions_are_noticed(bench: &Bench) {
    let a = "{\"jobId\":\"r\",\"status\":\"queued\"}";
    let b = "{\"jobId\":\"r\",\"status\":\"running\"}";
    assert!(is_applied(&bench.append(a, named()).await));
    assert_eq!(bench.append(a, named()).await, JobOutcome::Rejected(Reject::Duplicate));
    assert!(is_applied(&bench.append(b, named()).await));
    assert!(is_applied(&bench.append(a, named()).await));
    let with_id = "{\"jobId\":\"r\",\"status\":\"running\",\"updateId\":\"x\"}";
    assert!(is_applied(&bench.append(with_id, named()).await));
    assert!(is_applied(&bench.append(b, named()).await));
    assert_eq!(bench.append(with_id, named()).await, JobOutcome::Rejected(Reject::Duplicate));
}

/// An append that is repeated under its own name changes nothing and gets the same answer.
async fn an_append_is_done_once(bench: &Bench) {
    let once = named();
    let text = "{\"jobId\":\"o\",\"status\":\"running\"}";
    let first = bench.append(text, once.clone()).await;
    assert!(is_applied(&first));
    assert!(is_applied(&bench.append("{\"jobId\":\"o\",\"status\":\"running\",\"progress\":9}", named()).await));
    assert_eq!(bench.append(text, once).await, first);
    let event = event("docs.d1");
    let one = bench.broker.append_event(&EventAppend { event: &event, once: &keyed("k1"), trace: None }).await.unwrap();
    let two = bench.broker.append_event(&EventAppend { event: &event, once: &keyed("k1"), trace: None }).await.unwrap();
    let three =
        bench.broker.append_event(&EventAppend { event: &event, once: &keyed("k2"), trace: None }).await.unwrap();
    assert_eq!(one, two);
    assert!(one.at < three.at);
    assert_eq!(bench.settled(4).await.len(), 4);
}

pub(super) fn keyed(name: &str) -> EventOnce {
    EventOnce::Keyed(name.to_owned())
}

pub(super) fn event(channel: &str) -> Event {
    Event {
        channel: Channel::parse(channel).unwrap(),
        name: EventName::DOC_UPDATE,
        data: "{\"a\":1}".into(),
        delivery: Delivery::Durable,
        terminal: false,
        accepted_us: 1,
    }
}

/// A job that the log does not know is seeded, and the latch of its row holds.
async fn the_latch_survives_a_forgotten_job(bench: &Bench) {
    let update = JobUpdate::parse(b"{\"jobId\":\"s\",\"status\":\"running\"}", None).unwrap();
    let state = tidings::jobs::JobState {
        status: "completed".to_owned(),
        terminal: true,
        timestamp: "\"2026-01-01T00:00:00Z\"".to_owned(),
        ..Default::default()
    };
    let version = tidings::event::LogId { ms: 4_000_000_000_000, seq: 3 };
    let seed = Seed { state: Some(state), version };
    let mut append = JobAppend { update: &update, once: named(), seed: None, accepted_us: 1 };
    assert_eq!(bench.broker.append_job(&append).await.unwrap(), JobOutcome::Unknown);
    append.seed = Some(&seed);
    let outcome = bench.broker.append_job(&append).await.unwrap();
    assert_eq!(outcome, JobOutcome::Rejected(Reject::Terminal));
    // A new attempt is newer than the row's version, although that is far ahead of this log's clock.
    let JobOutcome::Applied(cursor) =
        bench.append("{\"jobId\":\"s\",\"status\":\"queued\",\"attempt\":1}", named()).await
    else {
        panic!("a new attempt is applied")
    };
    assert!(cursor.at > version, "{cursor:?}");
    let known = bench.broker.job(&Id::parse("s").unwrap()).await.unwrap().unwrap();
    assert_eq!((known.state.status.as_str(), known.version), ("queued", cursor.at));
}

/// An entry of the durable inbox is applied once, and never an older one after it.
async fn inbox_entries_are_applied_once(bench: &Bench) {
    let text = |n: u64| format!("{{\"jobId\":\"i\",\"status\":\"running\",\"progress\":{n}}}");
    let source = |n| Once::Source(tidings::event::LogId { ms: n, seq: 1 });
    assert!(is_applied(&bench.append(&text(5), source(5)).await));
    assert_eq!(bench.append(&text(5), source(5)).await, JobOutcome::Done);
    assert_eq!(bench.append(&text(4), source(4)).await, JobOutcome::Done);
    assert!(is_applied(&bench.append(&text(6), source(6)).await));
}

async fn all(bench: Bench) {
    appends_arrive_in_order(&bench).await;
    bench.log.lock().clear();
    an_append_is_done_once(&bench).await;
    repetitions_are_noticed(&bench).await;
    inbox_entries_are_applied_once(&bench).await;
    the_latch_survives_a_forgotten_job(&bench).await;
    bench.stop().await;
}

#[tokio::test]
async fn the_in_process_broker_keeps_the_contract() {
    all(Bench::memory().await).await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    all(Bench::redis().await).await;
}

/// What somebody else writes into our stream is skipped, and the tail goes on.
#[tokio::test]
async fn b46_foreign_entries_are_skipped() {
    let server = RedisServer::shared().await;
    let settings = settings(server.url(), fresh_prefix());
    let stream = format!("{}:log", settings.prefix);
    let bench = Bench::redis_with(settings).await;
    let state = |status: &str, data: &str| format!("{status}\0\0\0\0\0\"t\"\0\0\0{data}\0");
    let (good, broken, strange) = (state("running", "{}"), state("running", "{\"a\":\n1}"), state("run\"ning", "{}"));
    let hostile: [&[&str]; 11] = [
        &["x", "y"],
        &["h", "not a number", "e", "docs.d1 doc:update d {}"],
        &["h", "1 1", "e", "docs.* doc:update d {}"],
        &["h", "1 1", "e", "docs.d1 doc:update d {\"a\":\n1}"],
        &["h", "1 1", "e", "docs.d1 a\nb d {}"],
        &["h", "1 1 * ", "d", &good],
        &["h", "1 1 1 ", "x", &good],
        &["h", "1 1 1 ", "d", &broken],
        &["h", "1 1 1 ", "d", &strange],
        &["h", "1 1 1 ", "d", "running"],
        &["h", "1 1 1 ", "d", &good],
    ];
    for fields in hostile {
        let command: Vec<&str> = ["XADD", &stream, "*"].into_iter().chain(fields.iter().copied()).collect();
        server.cli(&command).await.unwrap();
    }
    assert!(is_applied(&bench.append("{\"jobId\":\"h\",\"status\":\"running\"}", named()).await));
    let log = bench.settled(12).await;
    let events: Vec<&str> = log.iter().filter_map(|e| e.event.as_ref()).map(|e| e.channel.as_str()).collect();
    // The last one is as we write them.
    assert_eq!(events, ["jobs.1", "jobs.h"]);
    bench.stop().await;
}
