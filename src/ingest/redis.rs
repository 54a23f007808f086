//! What workers `PUBLISH`: heard by every node, appended by one.

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::JobOutcome;
use crate::broker::Once;
use crate::broker::RawMessage;
use crate::clock;
use crate::event::Id;
use crate::event::LogId;
use crate::event::RawName;
use crate::ingest::Ingest;
use crate::ingest::IngestError;
use crate::ingest::Members;
use crate::ingest::raw::Fate;
use crate::ingest::raw::Held;
use crate::ingest::raw::RawQueue;
use crate::jobs::JobUpdate;
use crate::jobs::Reject;

/// How often what waits for others is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Appends under way at once. Many, because those of jobs that only the database knows may wait for it.
const UNDER_WAY_MAX: usize = 4096;
/// How often failing appends are said in the log; the metrics count each.
const SAID_EVERY: Duration = Duration::from_secs(10);

/// What the log shows to have been judged, in its order.
#[derive(Debug, Clone)]
pub struct Judged {
    /// Raw updates, by job and name.
    pub names: Vec<(Id, RawName)>,
    /// Everything up to here has been said.
    pub upto: LogId,
    /// The log began anew before this.
    pub anew: bool,
}

/// Hears, holds, appends until `stop`. Its inputs: raw messages, judgements from the log, appends that end, and its clock.
pub async fn run(
    ingest: Ingest,
    members: Members,
    mut raw: mpsc::Receiver<RawMessage>,
    mut judged: mpsc::Receiver<Judged>,
    stop: CancellationToken,
) {
    let mut queue = RawQueue::default();
    let mut under_way = FuturesUnordered::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut said: Option<Instant> = None;
    let mut subscription = 0;
    loop {
        let mut touched: Vec<Id> = Vec::new();
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(judged) = judged.recv() => {
                if judged.anew {
                    queue.reopened();
                }
                for (job, name) in &judged.names {
                    queue.judged(job, *name);
                }
                queue.seen(judged.upto);
            }
            Some(appended) = under_way.next(), if !under_way.is_empty() => {
                let (job, name, done): Appended = appended;
                let fate = done.unwrap_or_else(|error| failed(&error, &mut said));
                queue.done(&job, name, fate, Instant::now());
                touched.push(job);
            }
            // Always taken in, whatever is under way: a queue that fills up behind us would look like a lost connection.
            Some(message) = raw.recv() => {
                touched = hear(&ingest, &members, &mut queue, &mut subscription, message);
            }
            _ = look.tick() => {
                queue.catch_up(|since, before| members.elders(since, before), Instant::now());
                if let Some(broker) = ingest.broker.redis() {
                    broker.announce(subscription, queue.standing());
                }
                touched = queue.due(|job| members.owns(job), Instant::now(), UNDER_WAY_MAX);
            }
        }
        for job in touched {
            if under_way.len() >= UNDER_WAY_MAX {
                break; // the next look finds it
            }
            if let Some(held) = queue.take(&job, members.owns(&job), Instant::now()) {
                under_way.push(append(&ingest, held));
            }
        }
        ingest.metrics.raw_held.set(i64::try_from(queue.held()).unwrap_or(i64::MAX));
    }
}

/// Takes one message in. Answers the jobs that may have something to append now.
fn hear(
    ingest: &Ingest,
    members: &Members,
    queue: &mut RawQueue,
    subscription: &mut u64,
    message: RawMessage,
) -> Vec<Id> {
    let now = Instant::now();
    match message {
        RawMessage::Subscribed { alone, number } => {
            queue.subscribed(alone, now);
            members.forget();
            *subscription = number;
            Vec::new()
        }
        RawMessage::Mark { number, node, standing } => {
            members.hear(node, standing);
            queue.mark(number, now);
            Vec::new() // what got a name by it is found by the next look
        }
        RawMessage::Update(bytes) => match JobUpdate::parse(&bytes, None) {
            Err(reject) => {
                queue.skip();
                drop_update(ingest, reject);
                Vec::new()
            }
            Ok(update) => {
                let job = update.job.clone();
                if queue.hear(update, clock::now_us(), bytes.len() + 256, now) {
                    vec![job]
                } else {
                    drop_update(ingest, Reject::Overflow);
                    Vec::new()
                }
            }
        },
    }
}

fn drop_update(ingest: &Ingest, reject: Reject) {
    ingest.metrics.reject("redis", reject.as_str());
    // Sampled: a worker gone wrong must not fill the log.
    if fastrand::u32(0..100) == 0 || reject != Reject::Overflow {
        tracing::debug!(reason = reject.as_str(), "job update dropped");
    }
}

fn failed(error: &IngestError, said: &mut Option<Instant>) -> Fate {
    if said.is_none_or(|said| said.elapsed() > SAID_EVERY) {
        *said = Some(Instant::now());
        tracing::warn!(%error, "appends fail and are tried again");
    }
    Fate::Failed
}

/// An append that has ended.
type Appended = (Id, RawName, Result<Fate, IngestError>);

async fn append(ingest: &Ingest, held: Held) -> Appended {
    let once = if held.late { Once::LateRaw(held.name) } else { Once::Raw(held.name) };
    let judged = ingest.judge(&held.update, &once, held.accepted_us, "redis").await;
    let fate = judged.map(|outcome| match outcome {
        JobOutcome::Behind(end) => Fate::Behind(end),
        _ => {
            let lag = clock::now_us().saturating_sub(held.accepted_us);
            ingest.metrics.ingest_lag.observe(Duration::from_micros(lag).as_secs_f64());
            Fate::Judged
        }
    });
    (held.update.job, held.name, fate)
}
