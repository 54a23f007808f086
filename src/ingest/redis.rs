//! What workers `PUBLISH`: heard by every node, appended by one.
//!
//! Appends go in batches: what gathers while the ones before are under way. At light load every update goes alone, at once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use prometheus::local::LocalHistogram;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::Once;
use crate::broker::RawMessage;
use crate::broker::Seed;
use crate::broker::Standing;
use crate::broker::TailMessage;
use crate::clock;
use crate::event::Channel;
use crate::event::Id;
use crate::event::Kind;
use crate::event::LogId;
use crate::event::RawName;
use crate::ingest::Ingest;
use crate::ingest::Members;
use crate::ingest::channel_events;
use crate::ingest::channel_events::EventLine;
use crate::ingest::raw::Fate;
use crate::ingest::raw::Held;
use crate::ingest::raw::RawQueue;
use crate::ingest::tally::Tally;
use crate::ingest::word;
use crate::jobs::JobUpdate;
use crate::jobs::Reject;
use crate::spans::Ingesting;
use crate::store::StoreError;

/// How often what waits for others is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);
/// Batches under way at once: Redis judges one while it is sent the next.
const BATCHES_MAX: usize = 2;
/// Questions to the database under way at once, and jobs in one. While it is away the jobs that the log knows go on.
const QUESTIONS_MAX: usize = 2;
const QUESTION_JOBS_MAX: usize = 500;
/// Groups of messages that are taken in at once.
const GROUPS_MAX: usize = 16;
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

/// Hears, holds, appends until `stop`. Its inputs: raw messages, judgements from the log, batches and questions that end, and
/// its clock.
pub async fn run(
    ingest: Ingest,
    members: Members,
    mut raw: mpsc::Receiver<Vec<RawMessage>>,
    mut judged: mpsc::Receiver<Judged>,
    told: mpsc::Sender<TailMessage>,
    stop: CancellationToken,
) {
    let mut line = Line::new(&ingest, &members, told);
    let (mut batches, mut questions) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut events = FuturesUnordered::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Vec::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            Some(judged) = judged.recv() => line.strike_off(&judged),
            Some(appended) = batches.next(), if !batches.is_empty() => line.answered(appended),
            Some(appended) = events.next(), if !events.is_empty() => line.events.answered(appended),
            Some(answer) = questions.next(), if !questions.is_empty() => line.seeded(answer),
            // Always taken in, whatever is under way: a queue that fills up behind us would look like a lost connection.
            count = raw.recv_many(&mut heard, GROUPS_MAX), if !raw.is_closed() || !raw.is_empty() => {
                if count > 0 {
                    heard.drain(..).for_each(|group| line.hear(group));
                }
            }
            _ = look.tick() => line.look(),
        }
        let now = Instant::now();
        while batches.len() < BATCHES_MAX {
            let batch = line.queue.next_batch(|job| members.owns(job), now);
            if batch.is_empty() {
                break;
            }
            batches.push(append(&ingest, batch));
        }
        let batch = line.events.queue.next_batch(|resource| members.owns(resource), now);
        if !batch.is_empty() {
            events.push(channel_events::append(&ingest, batch));
        }
        while questions.len() < QUESTIONS_MAX && !line.unknown.is_empty() {
            let count = line.unknown.len().min(QUESTION_JOBS_MAX);
            questions.push(ask(&ingest, line.unknown.drain(..count).collect()));
        }
        ingest.metrics.raw_held.set(i64::try_from(line.held()).unwrap_or(i64::MAX));
    }
}

struct Line<'a> {
    ingest: &'a Ingest,
    members: &'a Members,
    queue: RawQueue,
    events: EventLine<'a>,
    /// Jobs that are under way to the database.
    unknown: Vec<Id>,
    subscription: u64,
    lag: LocalHistogram,
    said: Option<Instant>,
}

impl<'a> Line<'a> {
    fn new(ingest: &'a Ingest, members: &'a Members, told: mpsc::Sender<TailMessage>) -> Self {
        let lag = ingest.metrics.ingest_lag.local();
        let (queue, events) = (RawQueue::default(), EventLine::new(ingest, told));
        Self { ingest, members, queue, events, unknown: Vec::new(), subscription: 0, lag, said: None }
    }

    fn held(&self) -> usize {
        self.queue.held() + self.events.queue.held()
    }

    /// What this node's marks say: of updates and events together, which come over one subscription.
    fn standing(&self) -> Standing {
        let updates = self.queue.standing();
        let floor = self.events.queue.floor().map_or(updates.floor, |floor| floor.min(updates.floor));
        Standing { before: updates.before + self.events.queue.before(), floor, ..updates }
    }

    fn strike_off(&mut self, judged: &Judged) {
        if judged.anew {
            self.queue.reopened();
        }
        for (job, name) in &judged.names {
            self.queue.judged(job, *name);
        }
        self.events.strike_off(&judged.names);
        self.queue.seen(judged.upto);
    }

    fn look(&mut self) {
        let now = Instant::now();
        let events_before = self.events.queue.before();
        self.queue.catch_up(|since, before| self.members.elders(since, before + events_before), now);
        let standing = self.standing();
        self.events.look(standing.caught_up, self.queue.had_elder(), now);
        if let Some(broker) = self.ingest.broker.redis() {
            broker.announce(self.subscription, standing);
        }
        self.queue.look(|job| self.members.owns(job), now);
    }

    fn hear(&mut self, group: Vec<RawMessage>) {
        let (now, accepted_us) = (Instant::now(), clock::now_us());
        for message in group {
            match message {
                RawMessage::Subscribed { alone, number } => {
                    self.queue.subscribed(alone, now);
                    self.events.queue.subscribed(alone);
                    self.members.forget();
                    self.subscription = number;
                }
                RawMessage::Mark { number, node, standing } => {
                    self.members.hear(node, standing);
                    self.queue.mark(number, now);
                    self.events.queue.mark(number, now);
                }
                RawMessage::Event(bytes) => self.events.hear(&bytes, now),
                RawMessage::Update(bytes) => match JobUpdate::parse(&bytes, None) {
                    Err(reject) => {
                        self.queue.skip();
                        drop_update(self.ingest, reject);
                    }
                    Ok(update) => {
                        if !self.queue.hear(update, accepted_us, bytes.len() + 256, now) {
                            drop_update(self.ingest, Reject::Overflow);
                        }
                    }
                },
            }
        }
    }

    /// A batch has ended: every update of it meets its fate.
    fn answered(&mut self, (batch, outcomes): Appended) {
        let now = Instant::now();
        let mut tally = Tally::new(&self.ingest.metrics, "redis");
        let outcomes = match outcomes {
            Ok(outcomes) => outcomes.into_iter().map(Some).collect(),
            Err(error) => {
                self.say(&error, now);
                vec![None; batch.len()]
            }
        };
        let now_us = clock::now_us();
        let mut rest = outcomes.as_slice();
        for of_job in batch.chunk_by(|one, next| one.update.job == next.update.job) {
            let (these, others) = rest.split_at_checked(of_job.len()).unwrap_or_default();
            rest = others;
            for (held, outcome) in of_job.iter().zip(these) {
                tally.count(outcome.as_ref(), &held.update.status);
                self.ingest.note(&held.update.job, outcome.as_ref(), "redis");
                if !matches!(outcome, None | Some(JobOutcome::Behind(_) | JobOutcome::Unknown)) {
                    self.lag.observe(seconds(now_us.saturating_sub(held.accepted_us)));
                }
            }
            let Some(job) = of_job.first().map(|held| &held.update.job) else { continue };
            let fates = of_job.iter().zip(these).map(|(held, outcome)| (held.name, fate(outcome.as_ref())));
            if self.queue.done(job, fates, now) {
                self.unknown.push(job.clone());
            }
        }
        self.lag.flush();
    }

    fn seeded(&mut self, (jobs, seeds): Seeded) {
        let now = Instant::now();
        match seeds {
            Ok(mut seeds) => {
                for job in jobs {
                    let seed = seeds.remove(&job).unwrap_or_default();
                    self.queue.seeded(&job, Some(Arc::new(seed)), now);
                }
            }
            Err(error) => {
                self.say(&error, now);
                jobs.iter().for_each(|job| self.queue.seeded(job, None, now));
            }
        }
    }

    fn say(&mut self, error: &dyn std::error::Error, now: Instant) {
        if self.said.is_none_or(|said| now > said + SAID_EVERY) {
            self.said = Some(now);
            tracing::warn!(%error, "appends fail and are tried again");
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a duration for a histogram")]
fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn fate(outcome: Option<&JobOutcome>) -> Fate {
    match outcome {
        None => Fate::Failed,
        Some(JobOutcome::Behind(end)) => Fate::Behind(*end),
        Some(JobOutcome::Unknown) => Fate::Unknown,
        Some(JobOutcome::Applied(_) | JobOutcome::Rejected(_) | JobOutcome::Done) => Fate::Judged,
    }
}

fn drop_update(ingest: &Ingest, reject: Reject) {
    ingest.metrics.reject("redis", reject.as_str());
    // Sampled: a worker gone wrong must not fill the log.
    if fastrand::u32(0..100) == 0 || reject != Reject::Overflow {
        tracing::debug!(reason = reject.as_str(), "job update dropped");
    }
}

/// A batch that has ended.
type Appended = (Vec<Held>, Result<Vec<JobOutcome>, BrokerError>);

async fn append(ingest: &Ingest, mut batch: Vec<Held>) -> Appended {
    let spans = begin(ingest, &mut batch);
    let append = |held: &'_ Held| if held.late { Once::LateRaw(held.name) } else { Once::Raw(held.name) };
    let appends: Vec<JobAppend<'_>> = batch
        .iter()
        .map(|held| JobAppend {
            update: &held.update,
            once: append(held),
            seed: held.seed.as_deref(),
            accepted_us: held.accepted_us,
        })
        .collect();
    let outcomes = ingest.broker.append_jobs(&appends).await;
    drop(appends);
    for (at, span) in spans {
        let outcome = outcomes.as_ref().ok().and_then(|outcomes| outcomes.get(at));
        // One that is not judged comes again, and has its spans then.
        let judged = |outcome: &&JobOutcome| matches!(fate(Some(outcome)), Fate::Judged);
        if let Some(outcome) = outcome.filter(judged) {
            span.end(word(Some(outcome)), false);
        }
    }
    (batch, outcomes)
}

/// The spans of those of a batch that are part of traces. They are few, so only these are copied.
fn begin(ingest: &Ingest, batch: &mut [Held]) -> Vec<(usize, Ingesting)> {
    let mut spans = Vec::new();
    for (at, held) in batch.iter_mut().enumerate().filter(|(_, held)| held.update.trace.is_some()) {
        let job = || Channel::of(Kind::Jobs, &held.update.job);
        let span = ingest.spans.ingest(held.update.trace.as_deref(), "redis", job, held.accepted_us);
        if let Some(span) = span {
            Arc::make_mut(&mut held.update).trace = Some(Box::new(span.carried()));
            spans.push((at, span));
        }
    }
    spans
}

/// A question to the database that has been answered.
type Seeded = (Vec<Id>, Result<HashMap<Id, Seed>, StoreError>);

async fn ask(ingest: &Ingest, jobs: Vec<Id>) -> Seeded {
    let rows = ingest.store.jobs(&jobs, &ingest.terminal).await;
    let seed = |(id, row): (Id, crate::store::JobRow)| (id, Seed { state: row.state, version: row.version });
    (jobs, rows.map(|rows| rows.into_iter().map(seed).collect()))
}
