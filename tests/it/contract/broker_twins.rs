//! The fold in Lua and the fold in Rust, held together: random operations on both brokers, everything observable compared.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tidings::broker::JobAppend;
use tidings::broker::JobOutcome;
use tidings::broker::Once;
use tidings::broker::Seed;
use tidings::event::Entry;
use tidings::event::Id;
use tidings::event::LogId;
use tidings::event::RawName;
use tidings::jobs::JobState;
use tidings::jobs::JobUpdate;

use crate::contract::broker::Bench;
use crate::support::eventually;

/// One random operation.
#[derive(Debug, Clone)]
struct Operation {
    text: String,
    once: Once,
    seed: Seed,
}

fn field(name: &'static str, values: &'static [&'static str]) -> impl Strategy<Value = String> {
    proptest::option::weighted(0.4, proptest::sample::select(values))
        .prop_map(move |value| value.map_or(String::new(), |value| format!(",\"{name}\":{value}")))
}

fn text() -> impl Strategy<Value = String> {
    let status = proptest::sample::select(
        &["queued", "running", "RUNNING", "retrying", "completed", "failed", "cancelled", "succeeded"][..],
    );
    let fields = (
        field("progress", &["0", "1", "50.5", "100", "-3", "1e300", "null"]),
        field("message", &["\"a\"", "\"quote \\\" \\\\ \\n\"", "\"ünïcode\\u2028\"", "null", "\"\""]),
        field("error", &["{\"code\":\"c\",\"message\":\"m\"}", "null"]),
        field("data", &["{\"x\":[1,2,{\"y\":null}]}", "{}", "null"]),
        field("timestamp", &["\"2026-11-20T09:30:00Z\""]),
        field("attempt", &["0", "1", "2", "9007199254740993", "18446744073709551615"]),
        field("seq", &["0", "1", "2", "10", "9007199254740991", "9007199254740992", "18446744073709551615"]),
        field("updateId", &["\"u1\"", "\"u2\""]),
    );
    (0u8..3, status, fields).prop_map(|(job, status, (a, b, c, d, e, f, g, h))| {
        format!("{{\"jobId\":\"j{job}\",\"status\":\"{status}\"{a}{b}{c}{d}{e}{f}{g}{h}}}")
    })
}

fn once() -> impl Strategy<Value = Once> {
    let raw = || (1u64..4, 1u64..12).prop_map(|(mark, offset)| RawName { mark, offset });
    prop_oneof![
        4 => any::<u64>().prop_map(|n| Once::Named(format!("n{n}"))),
        1 => (0u8..3).prop_map(|n| Once::Named(format!("n{n}"))),
        4 => raw().prop_map(Once::Raw),
        1 => raw().prop_map(Once::LateRaw),
        2 => (1u64..20).prop_map(|ms| Once::Source(LogId { ms, seq: 0 })),
    ]
}

fn seed() -> impl Strategy<Value = Seed> {
    let state = JobState {
        status: "failed".to_owned(),
        terminal: true,
        progress: Some("7".to_owned()),
        message: Some("\"seeded\"".to_owned()),
        seq: Some(5),
        timestamp: "\"2026-01-01T00:00:00.000Z\"".to_owned(),
        ..JobState::default()
    };
    let numbered = JobState { attempt: Some(2), status: "running".to_owned(), terminal: false, ..state.clone() };
    prop_oneof![
        3 => Just(Seed::default()),
        1 => Just(Seed { state: Some(state), version: LogId { ms: 1000, seq: 2 } }),
        1 => Just(Seed { state: Some(numbered), version: LogId::ZERO }),
    ]
}

fn operations() -> impl Strategy<Value = Vec<Vec<Operation>>> {
    let operation = || (text(), once(), seed()).prop_map(|(text, once, seed)| Operation { text, once, seed });
    let alone = proptest::collection::vec(operation(), 1..2);
    let batch = proptest::collection::vec(operation(), 1..8);
    proptest::collection::vec(prop_oneof![1 => alone, 1 => batch], 1..25)
}

/// Positions and fingerprints differ between two logs; which entry of its log they mean must not.
fn place(log: &[Arc<Entry>], at: LogId) -> Option<usize> {
    log.iter().position(|entry| entry.id == at)
}

fn outcome_text(outcome: &JobOutcome, log: &[Arc<Entry>]) -> String {
    match outcome {
        JobOutcome::Applied(cursor) => format!("applied {:?}", place(log, cursor.at)),
        JobOutcome::Behind(end) => format!("behind {:?}", place(log, *end)),
        other => format!("{other:?}"),
    }
}

/// One batch; what is not judged is asked again with its seed, and in order.
async fn apply(bench: &Bench, batch: &[Operation]) -> Vec<(bool, JobOutcome)> {
    let parsed = |operation: &Operation| JobUpdate::parse(operation.text.as_bytes(), None).unwrap();
    let updates: Vec<JobUpdate> = batch.iter().map(parsed).collect();
    let append = |at: usize, seed| {
        let once = batch[at].once.clone();
        JobAppend { update: &updates[at], once, seed, accepted_us: 1_763_630_000_000_000 }
    };
    let first: Vec<JobAppend<'_>> = (0..batch.len()).map(|at| append(at, None)).collect();
    let outcomes = bench.broker.append_jobs(&first).await.unwrap();
    let mut seen: Vec<(bool, JobOutcome)> = outcomes.into_iter().map(|outcome| (false, outcome)).collect();
    let waits: Vec<usize> = (0..seen.len()).filter(|at| seen[*at].1 == JobOutcome::Unknown).collect();
    let again: Vec<JobAppend<'_>> = waits.iter().map(|at| append(*at, Some(&batch[*at].seed))).collect();
    for (at, outcome) in waits.iter().zip(bench.broker.append_jobs(&again).await.unwrap()) {
        seen[*at] = (true, outcome);
    }
    seen
}

/// An entry without what two logs can't share.
fn entry_text(entry: &Entry) -> String {
    format!("{:?} {:?}", entry.event, entry.judged)
}

async fn observe(bench: &Bench, operations: &[Vec<Operation>]) -> Vec<String> {
    let mut outcomes = Vec::new();
    for batch in operations {
        outcomes.extend(apply(bench, batch).await);
    }
    let named = |outcome: &JobOutcome| match outcome {
        JobOutcome::Applied(cursor) => Some(cursor.at),
        JobOutcome::Behind(end) => Some(*end),
        _ => None,
    };
    let newest = outcomes.iter().filter_map(|(_, outcome)| named(outcome)).max();
    let log = eventually("the tail delivers", crate::support::SOON, async || {
        let log = bench.log.lock().clone();
        newest.is_none_or(|newest| place(&log, newest).is_some()).then_some(log)
    })
    .await;
    let mut seen: Vec<String> =
        outcomes.iter().map(|(seeded, outcome)| format!("{seeded} {}", outcome_text(outcome, &log))).collect();
    // Entries after the newest one that was named may still be on their way: judgements, already seen as outcomes.
    let upto = newest.and_then(|newest| place(&log, newest)).map_or(0, |at| at + 1);
    seen.extend(log.iter().take(upto).map(|entry| entry_text(entry)));
    for job in ["j0", "j1", "j2"] {
        let known = bench.broker.job(&Id::parse(job).unwrap()).await.unwrap();
        let known = known.map(|known| (known.state, place(&log, known.version)));
        seen.push(format!("{job}: {known:?}"));
    }
    seen
}

/// Whatever happens, both brokers answer alike, log alike and remember alike.
#[test]
fn lua_and_rust_judge_alike() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let cases = 150;
    let mut runner = TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() });
    let done = runner.run(&operations(), |operations| {
        let (memory, redis) = runtime.block_on(async {
            let (memory, redis) = (Bench::memory().await, Bench::redis().await);
            let seen = (observe(&memory, &operations).await, observe(&redis, &operations).await);
            memory.stop().await;
            redis.stop().await;
            seen
        });
        for (at, (memory, redis)) in memory.iter().zip(&redis).enumerate() {
            prop_assert_eq!(memory, redis, "line {} after {:#?}", at, operations);
        }
        prop_assert_eq!(memory.len(), redis.len());
        Ok(())
    });
    if let Err(error) = done {
        panic!("{error}");
    }
}
