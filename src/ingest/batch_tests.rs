//! Batches of the queue of raw updates.

use std::time::Duration;

use tokio::time::Instant;

use crate::event::Id;
use crate::ingest::raw::BATCH_UPDATES_MAX;
use crate::ingest::raw::Fate;
use crate::ingest::tests::Node;
use crate::ingest::tests::take;
use crate::ingest::tests::take_one;
use crate::ingest::tests::update;

/// A job that the log does not know waits for its seed, with everything that comes meanwhile, and keeps its order.
#[test]
fn an_unknown_job_waits_for_its_seed() {
    let now = Instant::now();
    let mut queue = Node::new(now, true).queue;
    let job = Id::parse("1").unwrap();
    assert!(queue.hear(update(1, 0), 0, 1, now) && queue.hear(update(1, 1), 0, 1, now));
    let batch = take(&mut queue, now);
    assert_eq!(batch.len(), 2);
    assert!(queue.hear(update(1, 2), 0, 1, now) && queue.hear(update(2, 0), 0, 1, now));
    assert!(queue.done(&job, batch.iter().map(|held| (held.name, Fate::Unknown)), now), "a seed is needed");
    assert_eq!(take_one(&mut queue, now).expect("another job").update.job.as_str(), "2");
    queue.seeded(&job, None, now);
    assert!(take(&mut queue, now).is_empty(), "the database is away: after a pause");
    let later = now + Duration::from_secs(1);
    let batch = take(&mut queue, later);
    assert_eq!(batch.len(), 3);
    assert!(queue.done(&job, batch.iter().map(|held| (held.name, Fate::Unknown)), later));
    queue.seeded(&job, Some(std::sync::Arc::default()), later);
    let again = take(&mut queue, later);
    assert!(again.len() == 3 && again.iter().all(|held| held.seed.is_some()));
    assert!(!queue.done(&job, again.iter().map(|held| (held.name, Fate::Judged)), later));
    assert_eq!(queue.held(), 1);
}

/// A batch is bounded, and what does not fit waits behind it.
#[test]
fn a_batch_is_bounded() {
    let now = Instant::now();
    let mut queue = Node::new(now, true).queue;
    let count = BATCH_UPDATES_MAX + 10;
    for n in 0..count {
        assert!(queue.hear(update(1, n), 0, 1, now));
    }
    let batch = take(&mut queue, now);
    assert_eq!(batch.len(), BATCH_UPDATES_MAX);
    assert!(take(&mut queue, now).is_empty(), "nothing of a job overtakes what is under way");
    let job = Id::parse("1").unwrap();
    assert!(!queue.done(&job, batch.iter().map(|held| (held.name, Fate::Judged)), now));
    assert_eq!(take(&mut queue, now).len(), 10);
    let mut queue = Node::new(now, true).queue;
    for n in 0..20 {
        assert!(queue.hear(update(u8::try_from(n).unwrap(), n), 0, 64 * 1024, now));
    }
    assert_eq!(take(&mut queue, now).len(), 8, "half a megabyte");
}
