//! The Redis log alone: appends of prepared updates, and the real tail.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use tidings::broker::Broker;
use tidings::broker::JobAppend;
use tidings::broker::JobOutcome;
use tidings::broker::Once;
use tidings::broker::Outputs;
use tidings::broker::RedisBroker;
use tidings::broker::RedisSettings;
use tidings::broker::Seed;
use tidings::broker::TailMessage;
use tidings::config::Secret;
use tidings::event::Id;
use tidings::event::RawName;
use tidings::event::WindowLimits;
use tidings::jobs::JobUpdate;
use tidings::jobs::TerminalStatuses;
use tidings::telemetry::Metrics;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::machine::Redis;
use crate::machine::cpu_s;
use crate::machine::update;

/// Batches under way at once, as the ingest has them.
const UNDER_WAY: usize = 2;

pub(crate) async fn run(jobs: u64, count: u64, batch: usize) {
    let redis = Redis::start().await;
    let settings = RedisSettings {
        url: Secret::new(redis.url.clone()),
        prefix: "bench".to_owned(),
        job_updates_channel: "job-updates".to_owned(),
        channel_events_channel: "channel-events".to_owned(),
        retention: Duration::from_secs(600),
        entries_max: 1_000_000,
        window: WindowLimits { entries_max: 1000, bytes_max: 1 << 20 },
    };
    let terminal = TerminalStatuses::new(BTreeSet::from(["completed".to_owned()]));
    let broker = Broker::Redis(RedisBroker::new(settings, terminal, Metrics::new()).expect("a URL"));
    let (tail, mut messages) = mpsc::channel(64);
    let (raw, _silent) = mpsc::channel(64);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (running, stopping) = (broker.clone(), stop.clone());
    tasks.spawn(async move { running.run(Outputs { tail, raw }, stopping).await });
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    tasks.spawn(async move {
        while let Some(message) = messages.recv().await {
            if let TailMessage::Entries(entries) = message {
                counted.fetch_add(entries.len() as u64, Ordering::Relaxed);
            }
        }
    });
    while broker.job(&Id::parse("nobody").expect("an id")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let updates: Vec<JobUpdate> =
        (0..count).map(|n| JobUpdate::parse(update(n, jobs).as_bytes(), None).expect("valid")).collect();
    let (me, other) = (std::process::id(), redis.pid());
    let (before, at, started) = (cpu_s(me), cpu_s(other), Instant::now());
    append(&broker, &updates, jobs, batch).await;
    let appended = started.elapsed().as_secs_f64();
    while seen.load(Ordering::Relaxed) < count {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let tailed = started.elapsed().as_secs_f64();
    let (mine, its) = (cpu_s(me) - before, cpu_s(other) - at);
    let total = count as f64;
    println!(
        "append {:.0}/s  append+tail {:.0}/s  Redis {:.2} us  this process {:.2} us per update",
        total / appended,
        total / tailed,
        its * 1e6 / total,
        mine * 1e6 / total,
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn append(broker: &Broker, updates: &[JobUpdate], jobs: u64, size: usize) {
    let seed = Seed::default();
    let appends = updates.iter().zip(0_u64..).map(|(update, n)| {
        let once = Once::Raw(RawName { mark: 1_763_630_000_000 + n / 100, offset: n % 100 + 1 });
        let seed = (n < jobs).then_some(&seed);
        JobAppend { update, once, seed, accepted_us: 1_763_630_000_000_000 }
    });
    let appends: Vec<JobAppend<'_>> = appends.collect();
    let batches = appends.chunks(size).map(|batch| broker.append_jobs(batch));
    let mut done = futures_util::stream::iter(batches).buffered(UNDER_WAY);
    while let Some(outcomes) = done.next().await {
        let outcomes = outcomes.expect("Redis answers");
        assert!(outcomes.iter().all(|outcome| matches!(outcome, JobOutcome::Applied(_))), "{outcomes:?}");
    }
}
