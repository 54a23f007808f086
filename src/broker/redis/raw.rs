//! Listening to workers, and the probe that proves that we hear.
//!
//! One connection is subscribed to the workers' channels and to our own channel of marks; Redis delivers all of them in one
//! order, the same to every node. So a mark's number and a count since then name a message for the whole cluster.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::PushInfo;
use redis::PushKind;
use redis::Value;
use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::RawMessage;
use crate::broker::Standing;
use crate::broker::TailMessage;
use crate::broker::redis::Shared;
use crate::broker::redis::codec;
use crate::broker::redis::link;
use crate::broker::redis::link::Backoff;
use crate::broker::redis::pushes::GROUP_MAX;
use crate::broker::redis::pushes::Pushes;

/// How often a mark is set. A mark that stays away for `MARK_LOST_AFTER` condemns the connection.
const MARK_EVERY: Duration = Duration::from_millis(500);
const MARK_LOST_AFTER: Duration = Duration::from_secs(3);

/// Listens until `stop`.
pub(super) async fn run(
    shared: &Shared,
    raw: mpsc::Sender<Vec<RawMessage>>,
    tail: mpsc::Sender<TailMessage>,
    stop: CancellationToken,
) {
    let mut backoff = Backoff::default();
    loop {
        let done = tokio::select! {
            () = stop.cancelled() => return,
            done = listen(shared, &raw, &tail, &mut backoff) => done,
        };
        shared.metrics.broker_up.set(0);
        match done {
            Ok(()) => return, // nobody reads any more
            Err(error) => tracing::warn!(%error, "redis: subscription interrupted"),
        }
        shared.metrics.broker_restarts.with_label_values(&["subscription"]).inc();
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(backoff.next()) => {}
        }
    }
}

async fn subscribe(shared: &Shared) -> Result<Pushes, redis::RedisError> {
    let mut inbox = Pushes::open(&shared.link, Duration::from_secs(3)).await?;
    let (settings, keys) = (&shared.settings, &shared.keys);
    let (updates, events) = (&settings.job_updates_channel, &settings.channel_events_channel);
    let channels = [updates, events, &keys.marks_channel, &keys.ephemeral_channel];
    inbox.connection.subscribe(&channels[..]).await?;
    Ok(inbox)
}

/// One subscription's life. Its inputs: what Redis pushes, and the clock that sets marks and misses them.
async fn listen(
    shared: &Shared,
    raw: &mpsc::Sender<Vec<RawMessage>>,
    tail: &mpsc::Sender<TailMessage>,
    backoff: &mut Backoff,
) -> Result<(), BrokerError> {
    let mut inbox = subscribe(shared).await.map_err(|e| BrokerError::Unavailable(Some(e)))?;
    let nonce = fastrand::u64(1..);
    // From here on this node says nothing of itself until it has heard something over this very subscription.
    let number = {
        let mut said = shared.standing.lock();
        *said = (said.0 + 1, Standing::default());
        said.0
    };
    let alone = is_alone(shared, &mut inbox.connection).await?;
    if raw.send(vec![RawMessage::Subscribed { alone, number }]).await.is_err() {
        return Ok(());
    }
    let mut heard = tokio::time::Instant::now();
    let refused = AtomicBool::new(false);
    let marks = set_marks(shared, nonce, inbox.connection.clone(), &refused);
    tokio::pin!(marks);
    let mut check = tokio::time::interval(MARK_EVERY);
    let mut pushed = Vec::with_capacity(GROUP_MAX);
    loop {
        tokio::select! {
            error = &mut marks => return Err(error),
            _ = check.tick() => {
                // Nothing waits, Redis takes our marks, and yet none comes: this subscription is dead. After a pause of the
                // process everything is still waiting here, the marks among it.
                let silent = heard.elapsed() > MARK_LOST_AFTER && inbox.is_empty();
                if silent && !refused.load(Ordering::Acquire) {
                    return Err(BrokerError::Unavailable(None));
                }
                continue;
            }
            // Names count wrong from where one was lost.
            more = inbox.next(&mut pushed) => more?,
        }
        let mut group = Vec::with_capacity(pushed.len());
        for push in pushed.drain(..) {
            match message(shared, push) {
                None => {}
                // A receiver is gone only when the app stops; the other one says so too.
                Some(Heard::Ephemeral(event)) => drop(tail.send(TailMessage::Ephemeral(event)).await),
                Some(Heard::Raw(message, given)) => {
                    if given == Some(nonce) {
                        heard = tokio::time::Instant::now();
                        backoff.reset();
                        shared.touch(&shared.mark_heard);
                        shared.metrics.broker_up.set(1);
                    }
                    group.push(message);
                }
            }
        }
        if !group.is_empty() && raw.send(group).await.is_err() {
            return Ok(());
        }
    }
}

/// Whether no other node is subscribed. Then nobody else has names for what was heard before the first mark.
async fn is_alone(shared: &Shared, connection: &mut MultiplexedConnection) -> Result<bool, BrokerError> {
    let mut command = redis::cmd("PUBSUB");
    command.arg("NUMSUB").arg(&shared.keys.marks_channel);
    let answer = command.query_async(connection).await;
    let (_, count): (String, u64) = answer.map_err(|error| BrokerError::Unavailable(Some(error)))?;
    Ok(count <= 1)
}

enum Heard {
    Raw(RawMessage, Option<u64>),
    Ephemeral(crate::event::Event),
}

fn message(shared: &Shared, push: PushInfo) -> Option<Heard> {
    if push.kind != PushKind::Message {
        return None;
    }
    let mut values = push.data.into_iter();
    let (Some(Value::BulkString(channel)), Some(Value::BulkString(payload))) = (values.next(), values.next()) else {
        return None;
    };
    let (settings, keys) = (&shared.settings, &shared.keys);
    if channel == settings.job_updates_channel.as_bytes() {
        Some(Heard::Raw(RawMessage::Update(payload), None))
    } else if channel == settings.channel_events_channel.as_bytes() {
        Some(Heard::Raw(RawMessage::Event(payload), None))
    } else if channel == keys.marks_channel.as_bytes() {
        let (number, node, nonce, standing) = codec::read_mark(std::str::from_utf8(&payload).ok()?)?;
        let mine = (node == shared.node).then_some(nonce);
        Some(Heard::Raw(RawMessage::Mark { number, node, standing }, mine))
    } else {
        codec::read_ephemeral(std::str::from_utf8(&payload).ok()?).map(Heard::Ephemeral)
    }
}

/// Sets marks until the connection fails. A Redis that answers but can't write (full, read-only, loading) proves that it is there:
/// what it delivers is worth hearing, so `refused` keeps the subscription.
async fn set_marks(
    shared: &Shared,
    nonce: u64,
    mut connection: MultiplexedConnection,
    refused: &AtomicBool,
) -> BrokerError {
    loop {
        let mut call = shared.scripts.probe.prepare_invoke();
        let says = codec::mark(shared.node, nonce, shared.standing.lock().1);
        call.key(&shared.keys.marks).arg(&shared.keys.marks_channel).arg(says);
        let set: Result<u64, redis::RedisError> = call.invoke_async(&mut connection).await;
        match set {
            Ok(_) => refused.store(false, Ordering::Release),
            Err(error) if link::is_broken(&error) => return BrokerError::Unavailable(Some(error)),
            // Also while it loads its files after a restart: it passes messages on by then, and nobody would hear them again.
            Err(error) => {
                tracing::debug!(%error, "redis: mark refused");
                refused.store(true, Ordering::Release);
                // Messages have no names before the first mark: not long after it can be set, it is.
                tokio::time::sleep(MARK_EVERY / 10).await;
                continue;
            }
        }
        tokio::time::sleep(MARK_EVERY).await;
    }
}
