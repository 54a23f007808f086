//! Job states go back to the database: in batches, from the job's owner, and only forward by version.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
/// Rows of one statement.
const BATCH_MAX: usize = 500;
/// How long a state of another node's job is kept, in case that node dies before it writes.
const SHADOW: Duration = Duration::from_secs(10);
/// States kept at most; the rest is written by whoever comes first.
const DIRTY_MAX: usize = 100_000;

#[derive(Debug, Clone)]
struct Dirty {
    data: Arc<str>,
    version: LogId,
    since: Instant,
}

/// Gathers and writes until the log ends. Its inputs: entries of the log, and its clock.
pub async fn run(
    store: Store,
    members: Members,
    metrics: Metrics,
    mut entries: mpsc::Receiver<Arc<[Arc<Entry>]>>,
    stop: CancellationToken,
) {
    let mut dirty: HashMap<Id, Dirty> = HashMap::new();
    let mut gather = tokio::time::interval(GATHER);
    gather.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            batch = entries.recv() => match batch {
                Some(batch) => batch.iter().for_each(|entry| note(&mut dirty, entry, &metrics)),
                None => break,
            },
            _ = gather.tick() => write(&store, &members, &metrics, &mut dirty).await,
        }
    }
    while let Ok(batch) = entries.try_recv() {
        batch.iter().for_each(|entry| note(&mut dirty, entry, &metrics));
    }
    write(&store, &members, &metrics, &mut dirty).await;
}

fn note(dirty: &mut HashMap<Id, Dirty>, entry: &Entry, metrics: &Metrics) {
    let Some(event) = entry.event.as_ref().filter(|event| event.channel.kind() == Kind::Jobs) else { return };
    let Ok(id) = Id::parse(event.channel.id()) else { return };
    if dirty.len() >= DIRTY_MAX && !dirty.contains_key(&id) {
        metrics.writeback.with_label_values(&["overflow"]).inc();
        return;
    }
    dirty.insert(id, Dirty { data: Arc::clone(&event.data), version: entry.id, since: Instant::now() });
}

async fn write(store: &Store, members: &Members, metrics: &Metrics, dirty: &mut HashMap<Id, Dirty>) {
    dirty.retain(|id, state| state.since.elapsed() < SHADOW || members.owns(id));
    let mine = dirty.iter().filter(|(id, _)| members.owns(id));
    let states: Vec<(Id, JobState, LogId)> = mine
        .filter_map(|(id, state)| JobState::from_json(&state.data).map(|folded| (id.clone(), folded, state.version)))
        .collect();
    for batch in states.chunks(BATCH_MAX) {
        match store.write_back(batch).await {
            Ok(rows) => {
                metrics.writeback.with_label_values(&["written"]).inc_by(rows);
                for (id, _, version) in batch {
                    if dirty.get(id).is_some_and(|state| state.version == *version) {
                        dirty.remove(id);
                    }
                }
            }
            Err(error) => {
                metrics.writeback.with_label_values(&["failed"]).inc();
                tracing::warn!(%error, "job states are not written back yet");
                return;
            }
        }
    }
    if dirty.len() * 4 < dirty.capacity() {
        dirty.shrink_to_fit();
    }
}
