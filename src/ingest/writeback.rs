//! Job states go back to the database: in batches, from the job's owner, and only forward by version.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::event::Entry;
use crate::event::Id;
use crate::event::Kind;
use crate::event::LogId;
use crate::ingest::Members;
use crate::jobs::JobState;
use crate::store::Store;
use crate::telemetry::Metrics;

/// How long changes are gathered.
const GATHER: Duration = Duration::from_millis(200);
/// How long progress may wait for newer progress of its job; the end of a job never waits.
const PROGRESS_AFTER: Duration = Duration::from_millis(1000);
/// Rows of one statement.
const BATCH_MAX: usize = 500;
/// Statements of one round.
const BATCHES_MAX: usize = 20;
/// How long a state of another node's job is kept, in case that node dies before it writes.
const SHADOW: Duration = Duration::from_secs(10);
/// States kept at most; the rest is written by whoever comes first.
const DIRTY_MAX: usize = 100_000;

#[derive(Debug, Clone)]
struct Dirty {
    data: Arc<str>,
    version: LogId,
    terminal: bool,
    /// Its last change, and the first one that is not in the database.
    since: Instant,
    first: Instant,
}

/// What a write leaves behind: the versions that are in the database now.
type Written = Vec<(Id, LogId)>;

/// Gathers and writes until the log ends. Its inputs: entries of the log, the write that is under way, and its clock.
///
/// A write never holds the gathering back: the task that feeds this one also feeds every stream.
pub async fn run(store: Store, members: Members, metrics: Metrics, mut entries: mpsc::Receiver<Arc<[Arc<Entry>]>>) {
    let mut dirty: HashMap<Id, Dirty> = HashMap::new();
    let mut under_way = FuturesUnordered::new();
    let mut gather = tokio::time::interval(GATHER);
    gather.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            batch = entries.recv() => match batch {
                Some(batch) => {
                    let now = Instant::now();
                    batch.iter().for_each(|entry| note(&mut dirty, entry, now, &metrics));
                }
                None => break,
            },
            Some(written) = under_way.next(), if !under_way.is_empty() => forget(&mut dirty, &written),
            _ = gather.tick() => if under_way.is_empty() {
                under_way.push(write(&store, &metrics, due(&members, &mut dirty, PROGRESS_AFTER)));
            },
        }
    }
    while let Some(written) = under_way.next().await {
        forget(&mut dirty, &written);
    }
    write(&store, &metrics, due(&members, &mut dirty, Duration::ZERO)).await;
}

fn forget(dirty: &mut HashMap<Id, Dirty>, written: &Written) {
    let now = Instant::now();
    for (id, version) in written {
        match dirty.get_mut(id) {
            Some(state) if state.version == *version => drop(dirty.remove(id)),
            Some(newer) => newer.first = now,
            None => {}
        }
    }
    if dirty.len() * 4 < dirty.capacity() && dirty.capacity() > 1024 {
        dirty.shrink_to(dirty.len() * 2);
    }
}

/// The states that this node has to write. Those of others are kept for a while, in case their owner dies before it writes.
fn due(members: &Members, dirty: &mut HashMap<Id, Dirty>, progress_after: Duration) -> Vec<(Id, JobState, LogId)> {
    let now = Instant::now();
    dirty.retain(|id, state| now < state.since + SHADOW || members.owns(id));
    let ripe = dirty.iter().filter(|(_, state)| state.terminal || now >= state.first + progress_after);
    let mine = ripe.filter(|(id, _)| members.owns(id)).take(BATCH_MAX * BATCHES_MAX);
    let parsed = |(id, state): (&Id, &Dirty)| Some((id.clone(), JobState::from_json(&state.data)?, state.version));
    mine.filter_map(parsed).collect()
}

async fn write(store: &Store, metrics: &Metrics, states: Vec<(Id, JobState, LogId)>) -> Written {
    let mut written = Vec::new();
    for batch in states.chunks(BATCH_MAX) {
        match store.write_back(batch).await {
            Ok(rows) => {
                metrics.writeback.with_label_values(&["written"]).inc_by(rows);
                written.extend(batch.iter().map(|(id, _, version)| (id.clone(), *version)));
            }
            Err(error) => {
                metrics.writeback.with_label_values(&["failed"]).inc();
                tracing::debug!(%error, "job states are not written back yet");
                break;
            }
        }
    }
    written
}

fn note(dirty: &mut HashMap<Id, Dirty>, entry: &Entry, now: Instant, metrics: &Metrics) {
    let Some(event) = entry.event.as_ref().filter(|event| event.channel.kind() == Kind::Jobs) else { return };
    let known = entry.judged.as_ref().map(|(id, _)| id.clone());
    let Some(id) = known.or_else(|| Id::parse(event.channel.id()).ok()) else { return };
    if dirty.len() >= DIRTY_MAX && !dirty.contains_key(&id) {
        metrics.writeback.with_label_values(&["overflow"]).inc();
        return;
    }
    let data = Arc::clone(&event.data);
    let new = Dirty { data, version: entry.id, terminal: event.terminal, since: now, first: now };
    match dirty.entry(id) {
        Slot::Occupied(mut slot) => {
            let first = slot.get().first;
            slot.insert(Dirty { first, ..new });
        }
        Slot::Vacant(slot) => {
            slot.insert(new);
        }
    }
}
