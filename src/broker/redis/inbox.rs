//! The durable inbox of workers: the Redis stream `job-updates`, read by id by one node at a time.
//!
//! A consumer group would hand entries of one job to several nodes and reorder them. Here a lease says who reads, and the
//! append script stores the id of the last applied entry together with the append: a reader that lost its lease without
//! noticing repeats, and is answered `Done`.

use redis::aio::MultiplexedConnection;
use redis::streams::StreamId;
use redis::streams::StreamReadReply;

use crate::broker::BrokerError;
use crate::broker::RedisBroker;
use crate::broker::SourceEntry;
use crate::broker::redis::link::BLOCK;
use crate::event::LogId;

/// How long the lease holds without renewal, in milliseconds.
const LEASE_MS: u64 = 3000;

/// Reads the inbox over a connection of its own.
#[derive(Debug)]
pub struct InboxReader {
    connection: MultiplexedConnection,
    stream: String,
}

impl InboxReader {
    /// The next entries, at most `count`; waits a second for one.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn next(&mut self, after: LogId, count: usize) -> Result<Vec<SourceEntry>, BrokerError> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(count).arg("BLOCK").arg(BLOCK.as_millis().to_string());
        read.arg("STREAMS").arg(&self.stream).arg(after.to_string());
        let answer = read.query_async(&mut self.connection).await;
        let reply: Option<StreamReadReply> = answer.map_err(|e| BrokerError::Unavailable(Some(e)))?;
        let entry = |item: &StreamId| SourceEntry {
            id: item.id.parse().unwrap_or(LogId::ZERO),
            data: item.get::<Vec<u8>>("data"),
        };
        let keys = reply.map(|reply| reply.keys).unwrap_or_default();
        Ok(keys.iter().flat_map(|key| key.ids.iter()).map(entry).collect())
    }
}

impl RedisBroker {
    /// Takes or renews the lease of the inbox; `false`: another node holds it.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn hold_inbox(&self) -> Result<bool, BrokerError> {
        let shared = &self.shared;
        let mut set = redis::cmd("SET");
        set.arg(&shared.keys.lease).arg(shared.node).arg("NX").arg("PX").arg(LEASE_MS);
        if shared.link.query::<Option<String>>(&set).await?.is_some() {
            return Ok(true);
        }
        let mut get = redis::cmd("GET");
        get.arg(&shared.keys.lease);
        let holder: Option<u64> = shared.link.query(&get).await?;
        if holder != Some(shared.node) {
            return Ok(false);
        }
        // Between GET and PEXPIRE the lease may pass to another node, whose term is then lengthened: harmless, it renews too.
        let mut renew = redis::cmd("PEXPIRE");
        renew.arg(&shared.keys.lease).arg(LEASE_MS);
        shared.link.query::<bool>(&renew).await
    }

    /// The last entry of the inbox that was applied.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn inbox_position(&self) -> Result<LogId, BrokerError> {
        let mut get = redis::cmd("GET");
        get.arg(&self.shared.keys.inbox);
        let at: Option<String> = self.shared.link.query(&get).await?;
        Ok(at.and_then(|text| text.parse().ok()).unwrap_or(LogId::ZERO))
    }

    /// A connection of its own for the blocking reads of the inbox.
    ///
    /// # Errors
    /// Redis can't be reached.
    pub async fn inbox_reader(&self) -> Result<InboxReader, BrokerError> {
        let connection = self.shared.link.open(BLOCK * 3).await.map_err(|e| BrokerError::Unavailable(Some(e)))?;
        Ok(InboxReader { connection, stream: self.shared.settings.job_updates_channel.clone() })
    }

    /// Removes applied entries from the inbox, so that it does not grow for ever.
    ///
    /// # Errors
    /// Redis can't be asked.
    pub async fn trim_inbox(&self, applied: LogId) -> Result<(), BrokerError> {
        let keep_from = LogId { ms: applied.ms, seq: applied.seq + 1 };
        let mut trim = redis::cmd("XTRIM");
        trim.arg(&self.shared.settings.job_updates_channel).arg("MINID").arg(keep_from.to_string());
        self.shared.link.query::<i64>(&trim).await.map(drop)
    }
}
