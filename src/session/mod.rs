//! The one path from a request to a stream of frames: authorize, judge the cursor, catch up, subscribe; undone in reverse.
//!
//! Transports only turn what comes out of here into bytes.

mod catchup;
mod edit;
mod live;
mod lives;
mod names;
mod open;
mod opening;
mod pace;
mod remote;
mod replay;
mod rights;
mod stream;
mod told;
mod visits;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

pub use catchup::Known;
use catchup::ROW_AGE_MAX;
pub use edit::Edited;
pub use edit::Turns;
pub use edit::Wish;
pub use live::Live;
pub use lives::Lives;
pub use names::ME;
pub use names::Requested;
pub use names::requested;
pub use open::Answer;
pub use open::Opened;
pub use opening::Opening;
pub use opening::Step;
pub use opening::Transport;
pub use pace::Pace;
pub use remote::Target;
pub use remote::is_session_name;
pub use rights::Doubts;
pub use stream::Output;
pub use told::RoomsMark;
pub use told::ToldMark;
pub use visits::RoomStates;
pub use visits::Rooms;

use crate::auth::Authorizer;
use crate::auth::Principal;
use crate::broker::Broker;
use crate::cache::Cache;
use crate::config::Config;
use crate::error::Code;
use crate::event::Channel;
use crate::event::Cursor;
use crate::event::Id;
use crate::hub::Hub;
use crate::hub::OutboxLimits;
use crate::jobs::TerminalStatuses;
use crate::limits::Place;
use crate::presence::Presence;
use crate::store::Store;
use crate::telemetry::Metrics;
use live::Begin;
use lives::Reserved;

/// Streams that ask the log or the database about the past at once.
const CATCHUPS_MAX: usize = 64;
/// States of quiet jobs that are remembered: about 700 bytes each.
const KNOWN_STATES_MAX: usize = 65_536;
/// Streams of other nodes that are remembered by their names, and for how long: a page says thirty times a second where it is.
const ELSEWHERE_MAX: usize = 65_536;
const ELSEWHERE_KEPT: Duration = Duration::from_secs(10);
/// Seconds for which a token is honoured beyond its `exp`.
pub const LEEWAY_S: u64 = 30;

/// Everything that sessions need.
#[derive(Debug)]
pub struct Sessions {
    /// Where live events come from.
    pub hub: Hub,
    /// Where older events and job states come from.
    pub broker: Broker,
    /// Where job states come from that the broker forgot.
    pub store: Store,
    /// Who may see what.
    pub authorizer: Arc<Authorizer>,
    /// Metrics.
    pub metrics: Metrics,
    /// Which statuses end a job.
    pub terminal: TerminalStatuses,
    /// Bounds of a stream's queue.
    pub outbox: OutboxLimits,
    /// Streams that ask the log or the database about the past at once.
    pub catchups: Semaphore,
    /// States of quiet jobs, so that a crowd that comes back asks nobody.
    pub known: Cache<Channel, Known>,
    /// The same of jobs that only the database knows, for `ROW_AGE_MAX`.
    pub known_rows: Cache<Channel, Known>,
    /// Jobs that polls were told of: between two of them nobody carries them, and yet they are to be told what becomes of them.
    pub polled: Cache<Channel, ()>,
    /// Longest silence of a stream, in milliseconds, as the client is told.
    pub heartbeat_ms: u64,
    /// Channels of one stream at most.
    pub channels_max: usize,
    /// How long the edits of a stream that has a name are remembered after it was last there.
    pub record_kept: Duration,
    /// Streams of this node.
    pub lives: Arc<Lives>,
    /// How fast they become live.
    pub pace: Pace,
    /// Streams of one user at most; 0: no bound.
    pub per_user: usize,
    /// Edits of a stream happen one after another.
    pub turns: Turns,
    /// Streams whose permissions are to be asked for again soon.
    pub doubts: Doubts,
    /// Who is at which document.
    pub presence: Presence,
    /// Streams of other nodes, by user and name.
    elsewhere: Cache<(Id, Box<str>), u64>,
    /// Streams are asked about without an announcement as well; always, but for a test.
    pub sweeps: bool,
}

impl Sessions {
    /// With the bounds of the settings; nobody is there yet.
    #[must_use]
    pub fn new(
        (hub, broker, store): (Hub, Broker, Store),
        authorizer: Arc<Authorizer>,
        presence: Presence,
        terminal: TerminalStatuses,
        config: &Config,
        metrics: &Metrics,
    ) -> Self {
        Self {
            hub,
            broker,
            store,
            authorizer,
            metrics: metrics.clone(),
            terminal,
            outbox: OutboxLimits { events_max: config.outbox_events_max, bytes_max: config.outbox_bytes_max },
            catchups: Semaphore::new(CATCHUPS_MAX),
            known: Cache::new(KNOWN_STATES_MAX, config.log_retention),
            known_rows: Cache::new(KNOWN_STATES_MAX, ROW_AGE_MAX),
            // As long as a poll's cursor is good.
            polled: Cache::new(KNOWN_STATES_MAX, config.log_retention),
            heartbeat_ms: u64::try_from(config.heartbeat_interval.as_millis()).unwrap_or(u64::MAX),
            channels_max: config.channels_max,
            // Refreshed long before that: so it is at least the retention after the last stream.
            record_kept: config.log_retention * 2,
            lives: Arc::default(),
            pace: Pace::default(),
            per_user: usize::try_from(config.rate_limit_connections_per_user).unwrap_or(usize::MAX),
            turns: Turns::default(),
            doubts: Doubts::default(),
            presence,
            elsewhere: Cache::new(ELSEWHERE_MAX, ELSEWHERE_KEPT),
            sweeps: config.hooks.sweeps,
        }
    }

    /// Forgets what is too old, and never returns; run it beside the server.
    pub async fn maintain(&self) {
        let caches = async {
            loop {
                tokio::time::sleep(ROW_AGE_MAX).await;
                self.known.prune();
                self.known_rows.prune();
                self.polled.prune();
            }
        };
        tokio::join!(caches, self.keep_records());
    }
}

/// Where a client says that it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Resume {
    /// It says nothing.
    #[default]
    Fresh,
    /// Something that is not a cursor of ours.
    Garbage,
    /// A cursor.
    From(Cursor),
}

impl Resume {
    /// Reads the header or parameter. What a poll's cursor says beside the position means nothing on other transports.
    #[must_use]
    pub fn parse(text: Option<&str>) -> Self {
        match text {
            None | Some("") => Self::Fresh,
            Some(text) => ToldMark::split(text).0.parse().map_or(Self::Garbage, Self::From),
        }
    }
}

/// A wish for a stream.
#[derive(Debug)]
pub struct Request {
    /// Who asks.
    pub principal: Principal,
    /// What for.
    pub channels: Vec<Requested>,
    /// Where they are.
    pub resume: Resume,
    /// Whether the stream ends with its jobs.
    pub until_done: bool,
    /// Name of the stream across reconnects, if the client gave one.
    pub session: Option<Box<str>>,
    /// Channels may be added later, so none is enough.
    pub may_be_empty: bool,
    /// It is one poll of many: with a cursor, the client has been told the states before.
    pub polls: bool,
    /// It looks at who is where without being there.
    pub observes: bool,
    /// And those of channels that have joined at its cursor, if this is their mark.
    pub told: Option<ToldMark>,
    /// Its place among the streams of this instance; a dry run has none.
    pub place: Option<Place>,
}

/// What a channel may expect after (re)connecting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No cursor was given.
    Live,
    /// Every logged event after the cursor follows.
    Resumed,
    /// It can't be proven that nothing is missing.
    Reset(ResetReason),
}

/// Why continuity can't be proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// Trimmed away.
    CursorExpired,
    /// Not a cursor of this log.
    CursorUnknown,
    /// Redis lost or rewrote that part.
    HistoryRewritten,
}

impl Verdict {
    /// As in `connected`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Resumed => "resumed",
            Self::Reset(_) => "reset",
        }
    }
}

impl ResetReason {
    /// As in `reset`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CursorExpired => "cursor_expired",
            Self::CursorUnknown => "cursor_unknown",
            Self::HistoryRewritten => "history_rewritten",
        }
    }
}

/// A channel that is refused, as the client wrote it, and why.
#[derive(Debug, Clone)]
pub struct Denied {
    /// The client's spelling.
    pub channel: String,
    /// Why.
    pub code: Code,
}

/// A stream that may be opened: everything is decided, nothing is subscribed yet.
#[derive(Debug)]
pub struct Session {
    sessions: Arc<Sessions>,
    live: Arc<Live>,
    /// When its permissions were asked for, by the clock of changes.
    asked: u64,
    until_done: bool,
    /// Among the streams of this instance.
    _place: Option<Place>,
    /// Only until it is live, both.
    begin: Option<Box<Begin>>,
    wanted: Option<Box<Wanted>>,
}

/// What the client asked for beyond what a live stream still has to know.
#[derive(Debug)]
struct Wanted {
    /// It wrote `user.me` for its own channel.
    wrote_me: bool,
    denied: Vec<Denied>,
    /// It was told the states of quiet jobs at its cursor, but for these channels.
    told: Option<HashSet<Channel>>,
    /// Of the channels that have joined at its cursor, if there are any.
    mark: Option<ToldMark>,
    /// Among the user's streams, until it is one of them.
    reserved: Option<Reserved>,
}
