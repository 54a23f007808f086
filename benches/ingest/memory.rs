//! The in-process log: parse, judge, deliver, window.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidings::broker::Broker;
use tidings::broker::JobAppend;
use tidings::broker::JobOutcome;
use tidings::broker::MemoryBroker;
use tidings::broker::Once;
use tidings::broker::Outputs;
use tidings::broker::Seed;
use tidings::broker::TailMessage;
use tidings::event::Epoch;
use tidings::event::EventLog;
use tidings::event::Fingerprint;
use tidings::event::LogId;
use tidings::event::WindowLimits;
use tidings::jobs::JobUpdate;
use tidings::jobs::TerminalStatuses;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::machine::cpu_s;
use crate::machine::update;

pub(crate) async fn run(jobs: u64, count: u64) {
    let broker = Broker::Memory(MemoryBroker::new(TerminalStatuses::new(BTreeSet::from(["completed".to_owned()]))));
    let (tail, mut messages) = mpsc::channel(1024);
    let (raw, _silent) = mpsc::channel(1);
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let (running, stopping) = (broker.clone(), stop.clone());
    tasks.spawn(async move { running.run(Outputs { tail, raw }, stopping).await });
    let limits = WindowLimits { entries_max: 200_000, bytes_max: 1 << 28 };
    let log = Arc::new(Mutex::new(EventLog::new(Epoch(1), (LogId::ZERO, Fingerprint(0)), limits)));
    let window = Arc::clone(&log);
    tasks.spawn(async move {
        while let Some(message) = messages.recv().await {
            if let TailMessage::Entries(entries) = message {
                let mut log = window.lock();
                entries.into_iter().for_each(|entry| log.push(entry));
            }
        }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    let texts: Vec<String> = (0..count).map(|n| update(n, jobs)).collect();
    let (me, seed, started) = (std::process::id(), Seed::default(), Instant::now());
    let before = cpu_s(me);
    let parsed = texts.iter().map(|text| JobUpdate::parse(text.as_bytes(), None).expect("valid"));
    let sum: usize = parsed.map(|update| update.status.len()).sum();
    let parsing = cpu_s(me) - before;
    for (text, n) in texts.iter().zip(0_u64..) {
        let update = JobUpdate::parse(text.as_bytes(), None).expect("valid");
        let once = Once::Named(format!("{n:032x}"));
        let append = JobAppend { update: &update, once, seed: Some(&seed), accepted_us: 1_763_630_000_000_000 };
        let outcome = broker.append_job(&append).await;
        assert!(matches!(outcome, Ok(JobOutcome::Applied(_))), "{outcome:?}");
    }
    let used = cpu_s(me) - before - parsing;
    println!(
        "parse {:.2} us  parse, append, deliver, window {:.2} us per update ({:.0}/s, {sum})",
        parsing * 1e6 / count as f64,
        used * 1e6 / count as f64,
        count as f64 / started.elapsed().as_secs_f64(),
    );
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}
