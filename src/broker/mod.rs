//! The shared log: append to it, tail it, and know a job's state. In one process or in Redis, with the same contract.
//!
//! This module must not know HTTP, sessions or the hub.

mod memory;
mod nodes;
mod redis;
mod rosters;
mod setup;
mod tickets;
mod types;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use memory::MemoryBroker;
pub use nodes::Answers;
pub use nodes::Call;
pub use nodes::Heard;
pub use nodes::Record;
pub use redis::InboxReader;
pub use redis::RedisBroker;
pub use redis::RedisSettings;
pub use rosters::Aspect;
pub use rosters::BEAT;
pub use rosters::Beat;
pub use rosters::DeviceName;
pub use rosters::DeviceRecord;
pub use rosters::Hold;
pub use rosters::LeaveCause;
pub use rosters::MemberRecord;
pub use rosters::MemoryRosters;
pub use rosters::NODE_LEASE;
pub use rosters::Outcome;
pub use rosters::Patch;
pub use rosters::Roster;
pub use rosters::RosterChange;
pub use rosters::RosterNews;
pub use rosters::RosterStep;
pub use rosters::RosterVersion;
pub use rosters::Rosters;
pub use rosters::TYPING;
pub use setup::BrokerSetupError;
pub use setup::window_limits;
pub use types::BrokerError;
pub use types::EventAppend;
pub use types::EventOnce;
pub use types::JobAppend;
pub use types::JobOutcome;
pub use types::KnownJob;
pub use types::Located;
pub use types::Once;
pub use types::RawMessage;
pub use types::Seed;
pub use types::SourceEntry;
pub use types::Standing;
pub use types::TailMessage;

use crate::auth::TicketStore;
use crate::event::Cursor;
use crate::event::Epoch;
use crate::event::Event;
use crate::event::Id;
use crate::event::LogId;

/// Seconds for which the cookie of a ticket is remembered beyond its end: as long as tokens are forgiven.
const COOKIE_LEEWAY_S: u64 = 30;

/// Where a broker's output goes. Both queues are bounded; a full one holds the broker back.
#[derive(Debug)]
pub struct Outputs {
    /// The log, in order.
    pub tail: mpsc::Sender<TailMessage>,
    /// What workers publish, in the order in which Redis sent it, in groups of what came together. Silent for the in-process
    /// broker.
    pub raw: mpsc::Sender<Vec<RawMessage>>,
}

/// The log of this process or of a cluster. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Broker {
    /// Everything in this process.
    Memory(MemoryBroker),
    /// A Redis stream that every node tails.
    Redis(RedisBroker),
}

impl Broker {
    /// Delivers the log, and raw updates, until `stop`. One call in the life of a broker.
    pub async fn run(&self, outputs: Outputs, stop: CancellationToken) {
        match self {
            Self::Memory(broker) => broker.run(outputs, stop).await,
            Self::Redis(broker) => broker.run(outputs, stop).await,
        }
    }

    /// Judges an update and, when it applies, appends it, in one atomic step.
    ///
    /// # Errors
    /// `Unavailable`: it may or may not have happened; ask again with the same `once`.
    pub async fn append_job(&self, append: &JobAppend<'_>) -> Result<JobOutcome, BrokerError> {
        let outcomes = self.append_jobs(std::slice::from_ref(append)).await?;
        outcomes.into_iter().next().ok_or(BrokerError::Garbled)
    }

    /// The same for several updates, in their order; one outcome each. Of one job there may be several: what is not judged
    /// (`Unknown`, or a raw one `Behind`) is not overtaken by the job's later ones, which are answered `Unknown` then.
    ///
    /// # Errors
    /// `Unavailable`: it may or may not have happened, all of it or a part; ask again with the same `once`s.
    pub async fn append_jobs(&self, batch: &[JobAppend<'_>]) -> Result<Vec<JobOutcome>, BrokerError> {
        match self {
            Self::Memory(broker) => broker.append_jobs(batch).await,
            Self::Redis(broker) => broker.append_jobs(batch).await,
        }
    }

    /// Appends an event, once for each `once`. Answers the cursor of the entry, also of one appended earlier.
    ///
    /// # Errors
    /// `Unavailable`: it may or may not have happened; ask again with the same `once`.
    pub async fn append_event(&self, append: &EventAppend<'_>) -> Result<Cursor, BrokerError> {
        let cursors = self.append_events(std::slice::from_ref(append)).await?;
        cursors.into_iter().next().ok_or(BrokerError::Garbled)
    }

    /// The same for several events, in their order; one cursor each.
    ///
    /// # Errors
    /// `Unavailable`: it may or may not have happened, all of it or a part; ask again with the same `once`s.
    pub async fn append_events(&self, batch: &[EventAppend<'_>]) -> Result<Vec<Cursor>, BrokerError> {
        match self {
            Self::Memory(broker) => broker.append_events(batch).await,
            Self::Redis(broker) => broker.append_events(batch).await,
        }
    }

    /// Tells all nodes of an event that is not worth logging.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn publish_ephemeral(&self, event: &Event) -> Result<(), BrokerError> {
        match self {
            Self::Memory(broker) => broker.publish_ephemeral(event).await,
            Self::Redis(broker) => broker.publish_ephemeral(event).await,
        }
    }

    /// The folded state of a job, where the broker remembers it.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn job(&self, id: &Id) -> Result<Option<KnownJob>, BrokerError> {
        match self {
            Self::Memory(broker) => Ok(broker.job(id).await),
            Self::Redis(broker) => broker.job(id).await,
        }
    }

    /// Judges a cursor that the window can't judge.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn locate(&self, cursor: &Cursor) -> Result<Located, BrokerError> {
        match self {
            Self::Memory(_) => Ok(Located::Gone),
            Self::Redis(broker) => broker.locate(cursor).await,
        }
    }

    /// The next entries after a position, at most `count`.
    ///
    /// # Errors
    /// `Unavailable`: Redis can't be asked.
    pub async fn read_after(&self, at: LogId, count: usize) -> Result<Vec<crate::event::Entry>, BrokerError> {
        match self {
            Self::Memory(_) => Ok(Vec::new()),
            Self::Redis(broker) => broker.read_after(at, count).await,
        }
    }

    /// The durable inbox of workers (the Redis stream `job-updates`), for the one node that holds its lease.
    #[must_use]
    pub fn redis(&self) -> Option<&RedisBroker> {
        match self {
            Self::Memory(_) => None,
            Self::Redis(broker) => Some(broker),
        }
    }

    /// Where the tickets of everybody are kept who shares this log.
    #[must_use]
    pub fn tickets(&self) -> Arc<dyn TicketStore> {
        match self {
            Self::Memory(broker) => broker.tickets(),
            Self::Redis(broker) => Arc::new(redis::RedisTickets::new(broker.clone())),
        }
    }

    /// Who is at which document, for everybody who shares this log. A device that has said nothing for `idle_after` is idle. To be
    /// asked for once: what was asked for twice hears, and has to be made to listen, apart from one another.
    #[must_use]
    pub fn rosters(&self, idle_after: Duration) -> Arc<dyn Rosters> {
        match self {
            Self::Memory(broker) => Arc::new(MemoryRosters::of(broker.rosters(), idle_after)),
            Self::Redis(broker) => Arc::new(redis::RedisRosters::new(broker.clone(), idle_after)),
        }
    }

    /// Whether this broker can accept, read and append right now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(broker) => broker.is_ready(),
        }
    }

    /// The epoch in which this node appends.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        match self {
            Self::Memory(broker) => broker.epoch(),
            Self::Redis(broker) => broker.epoch(),
        }
    }

    /// `memory` or `redis`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Redis(_) => "redis",
        }
    }
}
