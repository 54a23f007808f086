//! What a lane is told.

use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::Grant;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Event;
use crate::event::LogId;
use crate::hub::OutboxLimits;
use crate::hub::wire::Seat;

/// The number of a connection, unique in this process and hard to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What lanes need to know.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Longest silence of a stream.
    pub heartbeat: Duration,
    /// Bounds of what waits for one stream.
    pub outbox: OutboxLimits,
}

/// A stream that wants to go live.
#[derive(Debug)]
pub struct Register<H = TcpStream> {
    /// Its connection.
    pub id: ConnectionId,
    /// What it may see.
    pub grants: Arc<[Grant]>,
    /// Where its frames go.
    pub seat: Seat<H>,
    /// It has everything up to here.
    pub from: LogId,
    /// The beginning to which `from` belongs.
    pub generation: u64,
    /// With `until=done`: the jobs that have not ended at `from`; else nothing.
    pub until_done: Pending,
    /// When its credential ends, leeway included: seconds since the Unix epoch.
    pub expires_at: u64,
}

/// With `until=done`: the jobs that have not ended.
pub type Pending = Option<Box<HashSet<Channel>>>;

#[derive(Debug)]
pub(super) enum LaneMessage<H = TcpStream> {
    Opened { generation: u64, head: Cursor },
    Entries(Arc<[Arc<Entry>]>),
    Ephemeral(Event),
    Register(Box<Register<H>>),
    Leave(ConnectionId),
    Cut(ConnectionId),
    Drain(Duration),
}
