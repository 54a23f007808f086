//! What the window says that it weighs, and what it takes.

use std::sync::Arc;

use tidings::event::Channel;
use tidings::event::Delivery;
use tidings::event::Entry;
use tidings::event::Epoch;
use tidings::event::Event;
use tidings::event::EventLog;
use tidings::event::EventName;
use tidings::event::Fingerprint;
use tidings::event::Id;
use tidings::event::LogId;
use tidings::event::RawName;
use tidings::event::WindowLimits;

use crate::machine::rss;

/// As the tail makes them, without shared names.
fn entry(n: u64, jobs: u64) -> Arc<Entry> {
    let job = format!("load-abcdef01-{}", n % jobs);
    let data = format!(
        "{{\"type\":\"job.update\",\"channel\":\"jobs.{job}\",\"jobId\":\"{job}\",\"status\":\"running\",\"terminal\":false,\
         \"progress\":12,\"message\":\"Slide 12\",\"data\":{{\"n\":12,\"t\":1763630000000000}},\"timestamp\":\"2026-11-20T09:30:00.125Z\"}}"
    );
    let event = Event {
        channel: Channel::parse(&format!("jobs.{job}")).expect("a channel"),
        name: EventName::JOB_UPDATE,
        data: data.into(),
        delivery: Delivery::Latest,
        terminal: false,
        accepted_us: 1,
    };
    let judged = Some((Id::parse(&job).expect("an id"), RawName { mark: 1, offset: n }));
    Arc::new(Entry { id: LogId { ms: n + 1, seq: 0 }, print: Fingerprint(n), event: Some(event), judged, trace: None })
}

pub(crate) fn run(jobs: u64, entries: u64) {
    let limits = WindowLimits { entries_max: usize::MAX, bytes_max: usize::MAX };
    let before = rss();
    let mut log = EventLog::new(Epoch(1), (LogId::ZERO, Fingerprint(0)), limits);
    (0..entries).for_each(|n| log.push(entry(n, jobs)));
    let used = rss() - before;
    println!(
        "{jobs} jobs, {entries} entries: {} bytes by weight, {} really, each; {:.2} of it",
        log.bytes() as u64 / entries,
        used / entries,
        log.bytes() as f64 / used as f64,
    );
}
