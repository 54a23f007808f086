//! The durable inbox: entries of the Redis stream `job-updates`, applied in order by the node that holds the lease.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::BrokerError;
use crate::broker::Once;
use crate::broker::RedisBroker;
use crate::broker::SourceEntry;
use crate::clock;
use crate::event::LogId;
use crate::ingest::Ingest;
use crate::ingest::IngestError;
use crate::jobs::JobUpdate;

/// How often the lease is renewed, or asked for.
const LEASE_EVERY: Duration = Duration::from_millis(800);
/// Entries of one read.
const READ_COUNT: usize = 256;
/// How often applied entries are removed.
const TRIM_EVERY: Duration = Duration::from_secs(5);

/// Reads the inbox whenever this node holds its lease, until `stop`.
pub async fn run(ingest: Ingest, broker: RedisBroker, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            done = hold_and_read(&ingest, &broker) => if let Err(error) = done {
                tracing::debug!(%error, "durable inbox interrupted");
            },
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LEASE_EVERY) => {}
        }
    }
}

/// One term of the lease. Every entry is applied or the term ends: nothing is passed over.
async fn hold_and_read(ingest: &Ingest, broker: &RedisBroker) -> Result<(), IngestError> {
    if !broker.hold_inbox().await? {
        return Ok(());
    }
    let mut reader = broker.inbox_reader().await?;
    let mut at = broker.inbox_position().await?;
    let (mut renewed, mut trimmed) = (Instant::now(), Instant::now());
    loop {
        for entry in reader.next(at, READ_COUNT).await? {
            apply(ingest, &entry).await?;
            at = entry.id;
            if renewed.elapsed() > LEASE_EVERY && !renew(broker, &mut renewed).await? {
                return Ok(());
            }
        }
        if renewed.elapsed() > LEASE_EVERY && !renew(broker, &mut renewed).await? {
            return Ok(());
        }
        if at > LogId::ZERO && trimmed.elapsed() > TRIM_EVERY {
            broker.trim_inbox(at).await?;
            trimmed = Instant::now();
        }
    }
}

async fn renew(broker: &RedisBroker, renewed: &mut Instant) -> Result<bool, BrokerError> {
    *renewed = Instant::now();
    broker.hold_inbox().await
}

async fn apply(ingest: &Ingest, entry: &SourceEntry) -> Result<(), IngestError> {
    let Some(data) = &entry.data else {
        ingest.metrics.reject("inbox", "no_data");
        return Ok(());
    };
    match JobUpdate::parse(data, None) {
        Err(reject) => {
            ingest.metrics.reject("inbox", reject.as_str());
            Ok(())
        }
        Ok(update) => {
            let once = Once::Source(entry.id);
            ingest.judge_patiently(&update, &once, clock::now_us(), "inbox").await.map(drop)
        }
    }
}
