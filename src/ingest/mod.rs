//! Everything that can say "this happened": what workers publish, what back ends post. It ends in the broker.
//!
//! This module must not know the hub, sessions or transports.

#[cfg(test)]
mod batch_tests;
mod inbox;
mod members;
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
pub use publish::Publication;
pub use redis::Judged;
pub use redis::run as run_raw;
pub use seeds::Seeds;
pub use writeback::run as run_writeback;

use crate::broker::Broker;
use crate::broker::BrokerError;
use crate::broker::EventAppend;
use crate::broker::JobAppend;
use crate::broker::JobOutcome;
use crate::broker::Once;
use crate::event::Cursor;
use crate::event::Delivery;
use crate::jobs::JobUpdate;
use crate::jobs::TerminalStatuses;
use crate::store::Store;
use crate::store::StoreError;
use crate::telemetry::Metrics;

/// How long an append from HTTP is tried again under its own name before the client is told to come back.
const APPEND_PATIENCE: Duration = Duration::from_millis(2500);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

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
        let mut append = JobAppend { update, once: once.clone(), seed: None, accepted_us };
        let mut outcome = self.broker.append_job(&append).await;
        let seed;
        if matches!(outcome, Ok(JobOutcome::Unknown)) {
            seed = self.seeds.of(&self.store, &self.terminal, &update.job).await?;
            append.seed = Some(&seed);
            outcome = self.broker.append_job(&append).await;
        }
        tally::Tally::new(&self.metrics, source).count(outcome.as_ref().ok(), &update.status);
        Ok(outcome?)
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

    /// Appends a publication, once for each of the publisher's keys; an ephemeral one is told and not kept.
    ///
    /// # Errors
    /// The log stayed away.
    pub async fn publish(&self, publication: &Publication, publisher: &str) -> Result<Option<Cursor>, IngestError> {
        let event = &publication.event;
        if event.delivery == Delivery::Ephemeral {
            self.broker.publish_ephemeral(event).await?;
            return Ok(None);
        }
        let once = publication.once(publisher);
        let until = Instant::now() + APPEND_PATIENCE;
        loop {
            match self.broker.append_event(&EventAppend { event, once: &once }).await {
                Ok(cursor) => {
                    self.metrics.appends.with_label_values(&["publish", "applied"]).inc();
                    return Ok(Some(cursor));
                }
                Err(error) if Instant::now() >= until => {
                    self.metrics.appends.with_label_values(&["publish", "failed"]).inc();
                    return Err(error.into());
                }
                Err(_) => tokio::time::sleep(RETRY_PAUSE).await,
            }
        }
    }
}
