//! What a lane is told.

use std::collections::HashSet;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::auth::Grant;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Entry;
use crate::event::Event;
use crate::event::Id;
use crate::event::LogId;
use crate::event::Moved;
use crate::hub::CloseReason;
use crate::hub::Frame;
use crate::hub::OutboxLimits;
use crate::hub::delivery::Delivery;
use crate::hub::wire::Holder;
use crate::hub::wire::Seat;
use crate::hub::wire::States;
use crate::inspect::Inspector;
use crate::inspect::LaneView;
use crate::inspect::Standing;
use crate::spans::Spans;

/// How often a peer that can answer is asked whether it is there.
const PING: Duration = Duration::from_secs(25);
/// The same, and the longest silence, for streams of people whom others see: that they are gone is to be seen as well.
pub const LIVELY: Duration = Duration::from_secs(3);
/// How long the peer of such a stream may acknowledge nothing.
pub(super) const LIVELY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long before its own end a credential's stream is told.
const EXPIRY_NOTICE: Duration = Duration::from_secs(60);

/// The number of a connection, unique in this process and hard to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u64);

/// What lanes need to know.
#[derive(Debug, Clone)]
pub struct LaneSettings {
    /// Longest silence of a stream.
    pub heartbeat: Duration,
    /// How often a peer that can answer is asked whether it is there.
    pub ping: Duration,
    /// The same, and the longest silence, for streams of people whom others see.
    pub lively: Duration,
    /// How long before the end of its credential, leeway included, a stream is told.
    pub expiry_notice: Duration,
    /// For how long a credential is honoured beyond its own end.
    pub leeway: Duration,
    /// An older stream is asked to come back; zero is no bound.
    pub age_max: Duration,
    /// Bounds of what waits for one stream.
    pub outbox: OutboxLimits,
    /// Who knows the states of channels that have one instead of a log.
    pub states: Arc<dyn States>,
    /// Who remembers what happened to streams.
    pub inspector: Inspector,
    /// Who is told of deliveries that are part of a trace.
    pub spans: Spans,
}

impl LaneSettings {
    /// With this silence at most, this leeway of credentials, these bounds of what waits, and those who know states.
    #[must_use]
    pub fn new(heartbeat: Duration, leeway: Duration, outbox: OutboxLimits, states: Arc<dyn States>) -> Self {
        let (ping, lively) = (PING, LIVELY);
        Self {
            heartbeat,
            ping,
            lively,
            expiry_notice: EXPIRY_NOTICE + leeway,
            leeway,
            age_max: Duration::ZERO,
            outbox,
            states,
            inspector: Inspector::default(),
            spans: Spans::default(),
        }
    }
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
    /// Whose it is, and the number of its last edit.
    pub holder: Arc<dyn Holder>,
    /// The last edit that is part of this.
    pub edition: u32,
}

/// A change of what a live stream carries, and what it is told of it. Edits of a stream have consecutive numbers.
#[derive(Debug, Default)]
pub struct Edit {
    /// Its number.
    pub edition: u32,
    /// Channels that it carries from now on.
    pub join: Vec<Join>,
    /// Channels that it carries no longer; what of them is not written yet is taken back.
    pub leave: Vec<Channel>,
    /// What it is told, before the states of the new channels.
    pub say: Vec<Frame>,
    /// A new end of its credential, leeway included: seconds since the Unix epoch.
    pub expires_at: Option<u64>,
    /// Nothing is left of it.
    pub end: Option<CloseReason>,
    /// It has to catch up anew, from elsewhere.
    pub recall: bool,
}

/// A channel that joins a live stream.
#[derive(Debug)]
pub struct Join {
    /// The permission.
    pub grant: Grant,
    /// What the client is told of it, as the data of `subscribed`.
    pub said: Arc<str>,
    /// Its state, as far as it is known outside of the window, and the log position of that.
    pub state: Option<(LogId, Event)>,
}

/// Streams that carry a channel: whose, and which.
pub type Found = Vec<(Id, ConnectionId)>;

/// How streams stand that are live.
pub type Standings = Vec<(ConnectionId, Standing)>;

/// A lane at a glance, and how many of its streams carry each of the channels that were asked about.
pub type Survey = (LaneView, Vec<usize>);

/// With `until=done`: the jobs that have not ended.
pub type Pending = Option<Box<HashSet<Channel>>>;

#[derive(Debug)]
pub(super) enum LaneMessage<H = TcpStream> {
    Opened { generation: u64, head: Cursor },
    Entries(Arc<[Arc<Entry>]>),
    Ephemeral(Event),
    Told(Channel, Arc<[Moved]>),
    Register(Box<Register<H>>),
    Edit(ConnectionId, Box<Edit>),
    Find(Arc<[Channel]>, oneshot::Sender<Found>),
    Look(Arc<[ConnectionId]>, oneshot::Sender<Standings>),
    Survey(Arc<[Channel]>, oneshot::Sender<Survey>),
    Traced(Arc<[Arc<Delivery>]>),
    Leave(ConnectionId),
    Cut(ConnectionId),
    Drain(Duration),
}
