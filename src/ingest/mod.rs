//! Everything that can say "this happened": what workers publish, what back ends post. It ends in the broker.
//!
//! This module must not know the hub, sessions or transports.

mod ahead;
#[cfg(test)]
mod batch_tests;
mod channel_events;
mod heard;
#[cfg(test)]
mod heard_tests;
mod inbox;
mod members;
mod outside;
mod publish;
mod raw;
mod redis;
mod seeds;
mod tally;
#[cfg(test)]
mod tests;
mod writeback;

use std::time::Duration;

use tokio::time::Instant;

pub use inbox::run as run_inbox;
pub use members::Elders;
pub use members::Members;
pub use outside::run as run_outside;
pub use publish::PUBLICATION_BYTES_MAX;
pub use publish::Publication;
use publish::Traced;
pub use redis::Judged;
pub use redis::run as run_raw;
pub use seeds::Seeds;
pub use writeback::run as run_writeback;

use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::broker::EventAppend;
use crate::broker::EventOnce;
use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::Once;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
use crate::event::Kind;
use crate::inspect::Inspector;
use crate::jobs::JobUpdate;
use crate::jobs::TerminalStatuses;
use crate::spans::Ingesting;
use crate::spans::Spans;
use crate::store::Store;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// How long an append from HTTP is tried again under its own name before the client is told to come back.
const APPEND_PATIENCE: Duration = Duration::from_millis(2500);
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// Events of a batch that are appended, and answered for, together.
const EVENTS_MAX: usize = 256;

/// The way into the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ingest {
    /// The log.
    pub broker: Broker,
    /// Where jobs are looked up that the log does not know.
    pub store: Store,
    /// Metrics.
    pub metrics: Metrics,
    /// Which statuses end a job.
    pub terminal: TerminalStatuses,
    /// Questions about unknown jobs, asked together.
    pub seeds: Seeds,
    /// Who is told of what is part of a trace.
    pub spans: Spans,
    /// Who remembers what was dropped.
    pub inspector: Inspector,
}

/// An update could not be judged now; it may be tried again under the same name.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The log is away or refuses.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The database is away, and the job is one that only it may know.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Ingest {
    /// Judges one update, seeding the log from the database where the log does not know the job.
    ///
    /// # Errors
    /// A dependency is away: nothing is known, try again under the same name.
    pub async fn judge(
        &self,
        update: &JobUpdate,
        once: &Once,
        accepted_us: u64,
        source: &'static str,
    ) -> Result<JobOutcome, IngestError> {
        let job = || Channel::of(Kind::Jobs, &update.job);
        let span = self.spans.ingest(update.trace.as_deref(), source, job, accepted_us);
        let traced = span.as_ref().map(|span| traced(update, span));
        let update = traced.as_ref().unwrap_or(update);
        let mut append = JobAppend { update, once: once.clone(), seed: None, accepted_us };
        let mut outcome = self.broker.append_job(&append).await;
        let seed;
        if matches!(outcome, Ok(JobOutcome::Unknown)) {
            seed = self.seeds.of(&self.store, &self.terminal, &update.job).await?;
            append.seed = Some(&seed);
            outcome = self.broker.append_job(&append).await;
        }
        tally::Tally::new(&self.metrics, source).count(outcome.as_ref().ok(), &update.status);
        self.note(&update.job, outcome.as_ref().ok(), source);
        span.into_iter().for_each(|span| span.end(word(outcome.as_ref().ok()), outcome.is_err()));
        Ok(outcome?)
    }

    /// Tells the inspector of an update that the log has dropped.
    fn note(&self, job: &Id, outcome: Option<&JobOutcome>, source: &'static str) {
        if let Some(JobOutcome::Rejected(reject)) = outcome {
            self.inspector.note(|ledger| ledger.rejected(&Channel::of(Kind::Jobs, job), source, reject.as_str()));
        }
    }

    /// The same, tried again for a while under the same name.
    ///
    /// # Errors
    /// A dependency stayed away.
    pub async fn judge_patiently(
        &self,
        update: &JobUpdate,
        once: &Once,
        accepted_us: u64,
        source: &'static str,
    ) -> Result<JobOutcome, IngestError> {
        let until = Instant::now() + APPEND_PATIENCE;
        loop {
            match self.judge(update, once, accepted_us, source).await {
                Err(error) if Instant::now() < until => {
                    tracing::debug!(%error, "append is tried again");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    /// Appends publications in their order, once for each of the publisher's keys; an ephemeral one is told and not kept.
    /// Answers for each its cursor, if it has one. The log's failure ends it: those after it were not tried.
    pub async fn publish(&self, batch: &[Publication], publisher: &str) -> (Vec<Option<Cursor>>, Option<IngestError>) {
        let mut done = Vec::with_capacity(batch.len());
        for run in batch.chunk_by(|a, b| a.is_ephemeral() == b.is_ephemeral()) {
            if let Err(error) = self.publish_run(run, publisher, &mut done).await {
                return (done, Some(error));
            }
        }
        (done, None)
    }

    /// All of them are ephemeral, or none.
    async fn publish_run(
        &self,
        run: &[Publication],
        publisher: &str,
        done: &mut Vec<Option<Cursor>>,
    ) -> Result<(), IngestError> {
        if run.first().is_some_and(Publication::is_ephemeral) {
            for publication in run {
                self.broker.publish_ephemeral(&publication.event).await?;
                done.push(None);
            }
            return Ok(());
        }
        for part in run.chunks(EVENTS_MAX) {
            done.extend(self.append_patiently(part, publisher).await?.into_iter().map(Some));
        }
        Ok(())
    }

    async fn append_patiently(&self, part: &[Publication], publisher: &str) -> Result<Vec<Cursor>, IngestError> {
        let names: Vec<EventOnce> = part.iter().map(|publication| publication.once(publisher)).collect();
        let traced = Traced::of(part.iter(), &self.spans, "publish");
        let append = |(at, (publication, once))| {
            let publication: &Publication = publication;
            EventAppend { event: &publication.event, once, trace: traced.at(at) }
        };
        let appends: Vec<EventAppend<'_>> = part.iter().zip(&names).enumerate().map(append).collect();
        let until = Instant::now() + APPEND_PATIENCE;
        let outcome = loop {
            match self.broker.append_events(&appends).await {
                Err(_) if Instant::now() < until => tokio::time::sleep(RETRY_PAUSE).await,
                outcome => break outcome,
            }
        };
        let word = if outcome.is_ok() { "applied" } else { "failed" };
        self.metrics.appends.with_label_values(&["publish", word]).inc_by(part.len() as u64);
        drop(appends);
        traced.end(word, outcome.is_err());
        Ok(outcome?)
    }
}

/// The update as it goes into the log: whoever delivers it goes on from its append.
fn traced(update: &JobUpdate, span: &Ingesting) -> JobUpdate {
    JobUpdate { trace: Some(Box::new(span.carried())), ..update.clone() }
}

/// What became of an update, as the metrics say it.
fn word(outcome: Option<&JobOutcome>) -> &'static str {
    match outcome {
        None => "failed",
        Some(JobOutcome::Applied(_)) => "applied",
        Some(JobOutcome::Rejected(reject)) => reject.as_str(),
        Some(JobOutcome::Unknown) => "unknown",
        Some(JobOutcome::Behind(_)) => "behind",
        Some(JobOutcome::Done) => "done",
    }
}
