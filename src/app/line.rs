//! The line: from the broker to everybody on this node who needs the log.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::Outputs;
use crate::broker::TailMessage;
use crate::config::Config;
use crate::event::Entry;
use crate::hub::Feed;
use crate::hub::Hub;
use crate::ingest;
use crate::ingest::Ingest;
use crate::ingest::Judged;
use crate::ingest::Members;
use crate::presence::Told;

/// Messages that may wait between the parts of the line.
const WAITING_MAX: usize = 1024;
/// Groups of raw messages that may wait for the ingest: few, for each may be 16 MiB.
const GROUPS_MAX: usize = 2;
/// Reads of the log in Redis that may wait, up to a thousand entries each.
const READS_MAX: usize = 16;
/// Appends to the log of this process that may wait, up to 256 events each: what is ready is passed on together.
const APPENDS_MAX: usize = 64;
/// Entries that are passed on together where they came one by one.
const FEED_ENTRIES_MAX: usize = 1000;

/// Starts the tasks between the broker and the hub.
pub(super) fn start(
    config: &Config,
    hub: &Hub,
    ingest: &Ingest,
    members: &Members,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    let reads_max = ingest.broker.redis().map_or(APPENDS_MAX, |_| READS_MAX);
    let (tail, tail_messages) = mpsc::channel(reads_max);
    let (raw, raw_messages) = mpsc::channel(GROUPS_MAX);
    let (judged, judgements) = mpsc::channel(READS_MAX);
    let broker = ingest.broker.clone();
    let told = tail.clone();
    let outputs = Outputs { tail, raw };
    let stopping = stop.clone();
    tasks.spawn(async move { broker.run(outputs, stopping).await });
    let writeback = (config.job_writeback && ingest.store.can_write_back()).then(|| {
        let (states, batches) = mpsc::channel(WAITING_MAX);
        let (store, members, metrics) = (ingest.store.clone(), members.clone(), ingest.metrics.clone());
        tasks.spawn(ingest::run_writeback(store, members, metrics, batches));
        states
    });
    let judged = ingest.broker.redis().map(|_| judged);
    tasks.spawn(pump(tail_messages, hub.clone(), judged, writeback));
    if let Some(redis) = ingest.broker.redis() {
        tasks.spawn(ingest::run_raw(ingest.clone(), members.clone(), raw_messages, judgements, told, stop.clone()));
        tasks.spawn(ingest::run_inbox(ingest.clone(), redis.clone(), stop.clone()));
    }
}

/// From the log to everybody on this node who needs it: hub, held raw updates, database.
async fn pump(
    mut tail: mpsc::Receiver<TailMessage>,
    hub: Hub,
    judged: Option<mpsc::Sender<Judged>>,
    writeback: Option<mpsc::Sender<Arc<[Arc<Entry>]>>>,
) {
    let mut waiting = Vec::with_capacity(APPENDS_MAX);
    while tail.recv_many(&mut waiting, APPENDS_MAX).await > 0 {
        // Whoever is ready to append as well does so first: a lane is woken once for all of them.
        tokio::task::yield_now().await;
        while waiting.len() < APPENDS_MAX
            && let Ok(more) = tail.try_recv()
        {
            waiting.push(more);
        }
        for message in merged(waiting.drain(..)) {
            pass_on(message, &hub, judged.as_ref(), writeback.as_ref()).await;
        }
    }
}

/// From the rooms to the lanes.
pub(super) async fn tell(mut moves: mpsc::Receiver<Told>, hub: Hub, stop: CancellationToken) {
    let told = async {
        while let Some(Told { channel, moved }) = moves.recv().await {
            hub.tell(&channel, moved).await;
        }
    };
    stop.run_until_cancelled(told).await;
}

/// What is ready is passed on together: each message wakes every lane.
fn merged(messages: impl Iterator<Item = TailMessage>) -> Vec<TailMessage> {
    let mut merged: Vec<TailMessage> = Vec::new();
    for message in messages {
        match (merged.last_mut(), message) {
            (Some(TailMessage::Entries(before)), TailMessage::Entries(entries))
                if before.len() + entries.len() <= FEED_ENTRIES_MAX =>
            {
                before.extend(entries);
            }
            (_, message) => merged.push(message),
        }
    }
    merged
}

async fn pass_on(
    message: TailMessage,
    hub: &Hub,
    judged: Option<&mpsc::Sender<Judged>>,
    writeback: Option<&mpsc::Sender<Arc<[Arc<Entry>]>>>,
) {
    let (feed, entries): (Feed, Arc<[Arc<Entry>]>) = match message {
        TailMessage::Opened { epoch, before, entries } => {
            (Feed::Opened { epoch, before, entries: entries.clone() }, entries.into())
        }
        TailMessage::Entries(entries) => {
            let entries: Arc<[Arc<Entry>]> = entries.into();
            (Feed::Entries(Arc::clone(&entries)), entries)
        }
        TailMessage::Ephemeral(event) => (Feed::Ephemeral(event), Arc::default()),
    };
    let anew = matches!(feed, Feed::Opened { .. });
    hub.feed(feed).await;
    let last = entries.last().map(|entry| entry.id);
    // A receiver is gone only when the app stops.
    if let Some(judged) = judged.filter(|_| anew || last.is_some()) {
        let names = entries.iter().filter_map(|entry| entry.judged.clone()).collect();
        drop(judged.send(Judged { names, upto: last.unwrap_or_default(), anew }).await);
    }
    if let Some(writeback) = writeback.filter(|_| last.is_some()) {
        drop(writeback.send(entries).await);
    }
}
