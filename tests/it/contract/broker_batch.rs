//! What every broker promises of several updates at once.

use tidings::broker::JobAppend;
use tidings::broker::JobOutcome;
use tidings::broker::Once;
use tidings::broker::Seed;
use tidings::event::Id;
use tidings::event::LogId;
use tidings::event::RawName;
use tidings::jobs::JobState;
use tidings::jobs::JobUpdate;
use tidings::jobs::Reject;

use crate::contract::broker::Bench;
use crate::contract::broker::is_applied;

/// An update, its name, and its seed.
type Item = (JobUpdate, Once, Option<Seed>);

fn update(job: &str, n: usize) -> JobUpdate {
    JobUpdate::parse(format!("{{\"jobId\":\"{job}\",\"status\":\"running\",\"data\":{{\"n\":{n}}}}}").as_bytes(), None)
        .unwrap()
}

fn raw(offset: u64) -> Once {
    Once::Raw(RawName { mark: 5, offset })
}

fn named(name: &str) -> Once {
    Once::Named(name.to_owned())
}

fn nothing() -> Option<Seed> {
    Some(Seed::default())
}

async fn append(bench: &Bench, items: &[Item]) -> Vec<JobOutcome> {
    let append = |(update, once, seed): &'_ Item| (update.clone(), once.clone(), seed.clone());
    let owned: Vec<Item> = items.iter().map(append).collect();
    let appends: Vec<JobAppend<'_>> = owned
        .iter()
        .map(|(update, once, seed)| JobAppend { update, once: once.clone(), seed: seed.as_ref(), accepted_us: 1 })
        .collect();
    bench.broker.append_jobs(&appends).await.unwrap()
}

/// The numbers of a job in the log.
async fn logged(bench: &Bench, job: &str, count: usize) -> Vec<u64> {
    let channel = format!("jobs.{job}");
    let numbers = || {
        let log = bench.log.lock();
        let events = log.iter().filter_map(|entry| entry.event.as_ref()).filter(|e| e.channel.as_str() == channel);
        events
            .map(|event| serde_json::from_str::<serde_json::Value>(&event.data).unwrap()["data"]["n"].as_u64().unwrap())
            .collect::<Vec<u64>>()
    };
    crate::support::eventually("the tail delivers", crate::support::SOON, async || {
        let numbers = numbers();
        (numbers.len() >= count).then_some(numbers)
    })
    .await
}

fn words(outcomes: &[JobOutcome]) -> String {
    let word = |outcome: &JobOutcome| match outcome {
        JobOutcome::Applied(_) => 'A',
        JobOutcome::Rejected(_) => 'R',
        JobOutcome::Unknown => 'U',
        JobOutcome::Behind(_) => 'B',
        JobOutcome::Done => 'D',
    };
    outcomes.iter().map(word).collect()
}

/// Several updates of one job are judged in their order, each on what the one before it left.
async fn a_batch_is_judged_in_order(bench: &Bench) {
    let items: Vec<Item> = (0..20).map(|n| (update("b1", n), raw(n as u64 + 1), nothing())).collect();
    let outcomes = append(bench, &items).await;
    assert!(outcomes.iter().all(is_applied), "{outcomes:?}");
    assert_eq!(logged(bench, "b1", 20).await, (0..20).collect::<Vec<_>>());
    let known = bench.broker.job(&Id::parse("b1").unwrap()).await.unwrap().unwrap();
    let JobOutcome::Applied(last) = outcomes[19] else { panic!("applied") };
    assert_eq!((known.version, known.state.data.as_deref()), (last.at, Some("{\"n\":19}")));
    // The same names again, as after an answer that was lost: nothing happens twice, and nothing is passed over.
    assert_eq!(words(&append(bench, &items).await), format!("B{}", "U".repeat(19)));
    assert_eq!(logged(bench, "b1", 20).await.len(), 20);
}

/// A job that is unknown waits with all its updates; the others don't wait for it.
async fn an_unknown_job_waits_in_the_middle(bench: &Bench) {
    let items = [
        (update("c1", 0), raw(1), nothing()),
        (update("c2", 0), raw(2), None),
        (update("c1", 1), raw(3), None),
        (update("c2", 1), raw(4), nothing()),
        (update("c1", 2), raw(5), nothing()),
    ];
    assert_eq!(words(&append(bench, &items).await), "AUAUA", "a seed that comes later must not overtake");
    let again = [(update("c2", 0), raw(2), nothing()), (update("c2", 1), raw(4), None)];
    assert_eq!(words(&append(bench, &again).await), "AA");
    assert_eq!(logged(bench, "c1", 3).await, [0, 1, 2]);
    assert_eq!(logged(bench, "c2", 2).await, [0, 1]);
}

/// A batch that failed is repeated under its names: named ones get their answers again, in the same batch as well.
async fn a_batch_is_repeated_under_its_names(bench: &Bench) {
    let items = [
        (update("d1", 0), named("d1-0"), nothing()),
        (update("d2", 0), named("d2-0"), nothing()),
        (update("d1", 0), named("d1-0"), nothing()),
        (update("d1", 0), named("d1-1"), nothing()),
    ];
    let first = append(bench, &items).await;
    assert_eq!((words(&first).as_str(), &first[0]), ("AAAR", &first[2]));
    assert_eq!(first[3], JobOutcome::Rejected(Reject::Duplicate));
    let second = append(bench, &items).await;
    assert_eq!(second[..3], first[..3]);
    assert_eq!(second[3], JobOutcome::Done);
    assert_eq!(logged(bench, "d1", 1).await, [0]);
}

/// Seeds of several kinds in one batch; the first of a job counts, and only where the job is unknown.
async fn seeds_are_mixed(bench: &Bench) {
    let ended = JobState {
        status: "completed".to_owned(),
        terminal: true,
        timestamp: "\"2026-01-01T00:00:00Z\"".to_owned(),
        ..JobState::default()
    };
    let seed = Some(Seed { state: Some(ended), version: LogId { ms: 4_000_000_000_000, seq: 1 } });
    let items = [
        (update("e1", 0), raw(1), seed.clone()),
        (update("e2", 0), raw(2), nothing()),
        (update("e2", 1), raw(3), seed.clone()),
        (update("e1", 1), raw(4), nothing()),
    ];
    assert_eq!(words(&append(bench, &items).await), "RAAR");
    assert_eq!(logged(bench, "e2", 2).await, [0, 1]);
}

/// Entries of the inbox keep their order: none is applied while one before it waits.
async fn inbox_entries_wait_for_each_other(bench: &Bench) {
    let source = |n: u64| Once::Source(LogId { ms: 1_000_000 + n, seq: 0 });
    let items = [
        (update("f1", 0), source(1), nothing()),
        (update("f2", 0), source(2), None),
        (update("f1", 1), source(3), None),
        (update("f3", 0), named("f3"), nothing()),
    ];
    assert_eq!(words(&append(bench, &items).await), "AUUA");
    let again = [(update("f2", 0), source(2), nothing()), (update("f1", 1), source(3), None)];
    assert_eq!(words(&append(bench, &again).await), "AA");
    assert_eq!(words(&append(bench, &again).await), "DD");
}

/// Several duplicates by `updateId` and by bytes within one batch.
async fn duplicates_are_noticed_within_a_batch(bench: &Bench) {
    let with_id = |n: u64| {
        let text = format!("{{\"jobId\":\"g1\",\"status\":\"running\",\"updateId\":\"u{n}\",\"data\":{{\"n\":{n}}}}}");
        JobUpdate::parse(text.as_bytes(), None).unwrap()
    };
    let items = [
        (with_id(0), raw(1), nothing()),
        (with_id(0), raw(2), nothing()),
        (with_id(1), raw(3), nothing()),
        (with_id(0), raw(4), nothing()),
        (update("g1", 7), raw(5), nothing()),
        (update("g1", 7), raw(6), nothing()),
    ];
    assert_eq!(words(&append(bench, &items).await), "ARARAR");
    assert_eq!(logged(bench, "g1", 3).await, [0, 1, 7]);
}

/// More and larger updates than one call takes are still one batch, in order.
async fn the_largest_updates_pass(bench: &Bench) {
    let large = |n: usize| {
        let (message, text) = ("\\u0001".repeat(4000), "x".repeat(16_000));
        let text = format!(
            "{{\"jobId\":\"h{}\",\"status\":\"running\",\"message\":\"{message}\",\"error\":{{\"code\":\"c\",\"message\":\"{message}\"}},\
             \"data\":{{\"n\":{n},\"t\":\"{}\"}}}}",
            n % 2,
            text.get(..15_900).unwrap()
        );
        assert!(text.len() > 60_000);
        JobUpdate::parse(text.as_bytes(), None).unwrap()
    };
    let mut items: Vec<Item> = (0..64).map(|n| (large(n), raw(n as u64 + 1), nothing())).collect();
    items.extend((64..600).map(|n| (update(&format!("h{}", n % 2), n), raw(n as u64 + 1), nothing())));
    let outcomes = append(bench, &items).await;
    assert!(outcomes.len() == 600 && outcomes.iter().all(is_applied));
    assert_eq!(logged(bench, "h1", 300).await, (0..300).map(|n| n * 2 + 1).collect::<Vec<_>>());
}

async fn all(bench: Bench) {
    a_batch_is_judged_in_order(&bench).await;
    an_unknown_job_waits_in_the_middle(&bench).await;
    a_batch_is_repeated_under_its_names(&bench).await;
    seeds_are_mixed(&bench).await;
    inbox_entries_wait_for_each_other(&bench).await;
    duplicates_are_noticed_within_a_batch(&bench).await;
    the_largest_updates_pass(&bench).await;
    assert!(append(&bench, &[]).await.is_empty());
    bench.stop().await;
}

#[tokio::test]
async fn the_in_process_broker_takes_batches() {
    all(Bench::memory().await).await;
}

#[tokio::test]
async fn redis_takes_batches() {
    all(Bench::redis().await).await;
}
